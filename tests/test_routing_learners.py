"""The routers that learn from outcomes: formulas by hand, what they learn, when they abstain, what they refuse."""

import asyncio
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

from agentmesh import AgentCard, build_mesh
from agentmesh.assembly import check_folder
from agentmesh.errors import ConfigError, ModelUnavailableError, ProjectError, RoutingError
from agentmesh.models import open_embedder
from agentmesh.models.scripted import ScriptedEmbedder
from agentmesh.routing import routers
from agentmesh.routing.centroid import centroids_of
from agentmesh.routing.knn import DOUBT, Neighbours, estimate, nearest_texts
from agentmesh.routing.linucb import expected, no_arms, projection, reward, updated
from agentmesh.routing.outcomes import OutcomeRow, OutcomeTable, outcome_table, read_outcomes, rows_of
from agentmesh.routing.standing import shares
from agentmesh.routing.tradeoff import OperatingPoint, frontier, ridge
from agentmesh.run import RunContext, loose_context
from agentmesh.testing import RouterContract
from agentmesh.types import (
    AgentVariant,
    Chosen,
    Clarification,
    Message,
    Mode,
    Outcome,
    RouteRequest,
    RoutingDecision,
    Task,
)

NAMES = ("centroid", "category", "knn", "linucb", "tradeoff")
CARDS = (
    AgentCard(id="pay", description="Invoices, refunds and payment dates.", examples=("Why is my invoice so high?",)),
    AgentCard(id="net", description="Wi-Fi and VPN trouble.", examples=("The VPN drops all the time.",)),
    AgentCard(id="post", description="Parcels, letters and delivery.", examples=("Where is my parcel?",)),
)
Floats = NDArray[np.float64]


class Learner(Protocol):
    """What all of them have."""

    @property
    def name(self) -> str: ...
    @property
    def outcomes(self) -> OutcomeTable: ...
    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision: ...
    async def learn(self, outcome: Outcome) -> bool: ...


def make(name: str, embedder: Any = None, **options: Any) -> Learner:
    router: Any = routers.create(name, embedder=embedder or ScriptedEmbedder(256), **options)
    return router


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


async def ask(router: Learner, text: str, cards: Sequence[AgentCard] = CARDS, **task: Any) -> RoutingDecision:
    return await router.route(RouteRequest(task=Task(text=text, **task), cards=tuple(cards)), loose_context())


def outcome(text: str, agent: str, quality: float, *, cost_usd: float = 0.0, variant: str | None = None) -> Outcome:
    decision = RoutingDecision(
        mode=Mode.SOLO, chosen=(Chosen(agent=agent, score=1.0, variant=variant),), reason="because", router="test"
    )
    return Outcome(run_id="r", task=Task(text=text), decision=decision, quality=quality, cost_usd=cost_usd)


def row(text: str, agent: str, quality: float = 1.0, cost_usd: float = 0.0, **more: Any) -> OutcomeRow:
    return OutcomeRow(text=text, agent=agent, quality=quality, cost_usd=cost_usd, **more)


# --- one contract for all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("embedder", ["scripted", "wordllama"])
class TestLearners(RouterContract):
    @pytest.fixture(autouse=True)
    def of(self, name: str, embedder: str) -> None:
        self.name = name
        self.embedder = open_embedder("wordllama") if embedder == "wordllama" else ScriptedEmbedder(256)

    def make(self) -> Learner:
        return make(self.name, self.embedder)


async def test_without_outcomes_the_cards_decide(name: str) -> None:
    router = make(name)
    for text, agent in (("My invoice is too high", "pay"), ("VPN drops", "net"), ("a lost parcel", "post")):
        decision = await ask(router, text)
        assert decision.agents == (agent,), text
        assert decision.router == name
        assert decision.candidates[0].signals["near"] >= decision.evidence["least_similarity"]


async def test_a_description_alone_is_enough(name: str) -> None:
    bare = [AgentCard(id=c.id, description=c.description) for c in CARDS]
    assert (await ask(make(name), "trouble with the VPN", bare)).agents == ("net",)


async def test_what_is_like_nothing_known_is_out_of_scope_with_the_distance(name: str) -> None:
    decision = await ask(make(name), "symphony orchestra conductor")
    assert decision.mode is Mode.OUT_OF_SCOPE
    assert "nearest is" in decision.reason
    assert all("below 0.25" in c.reason or "no category" in c.reason for c in decision.candidates)


async def test_a_message_about_nothing_is_asked_back_once(name: str) -> None:
    router = make(name, least_similarity=-1.0)
    first = await ask(router, "please help me with this")
    assert first.mode is Mode.CLARIFY
    assert first.question is not None
    assert set(first.options) == {c.id for c in CARDS}
    answered = (Clarification(question=first.question, options=first.options, answer="net"),)
    named = await ask(router, "please help me with this", clarifications=answered)
    assert named.agents == ("net",)
    assert "named by the user" in named.reason
    told = (Clarification(question=first.question, options=first.options, answer="my parcel never came"),)
    assert (await ask(router, "please help me with this", clarifications=told)).agents == ("post",)
    none = (Clarification(question=first.question, options=first.options, answer="none of them"),)
    assert (await ask(router, "please help me with this", clarifications=none)).mode is Mode.OUT_OF_SCOPE


async def test_a_message_that_refers_back_is_read_with_the_turn_before(name: str) -> None:
    history = (Message(role="user", text="The VPN drops all the time"),)
    assert (await ask(make(name), "and why is that?", history=history)).agents == ("net",)


async def test_what_an_agent_is_not_for_speaks_against_it(name: str) -> None:
    strict = CARDS[0].model_copy(update={"not_for": ("invoice fraud in foreign countries",)})
    decision = await ask(make(name), "invoice fraud in foreign countries", (strict, *CARDS[1:]))
    assert "pay" not in decision.agents
    assert "not for" in next(c.reason for c in decision.candidates if c.agent == "pay")


async def test_good_outcomes_of_a_new_topic_bring_it_to_the_agent_that_did_well(name: str) -> None:
    router = make(name)
    asked = "Configure the zither amplifier"
    assert (await ask(router, asked)).mode is Mode.OUT_OF_SCOPE
    if name == "category":  # its categories are what was labelled; outcomes say who is best in one
        return
    for text in ("Configure a zither", "zither amplifier", "the amplifier of the zither", "Configure the amplifier"):
        assert await router.learn(outcome(text, "post", 1.0)) is True
    decision = await ask(router, asked)
    assert decision.agents == ("post",)
    assert decision.evidence["outcomes"] == 4


async def test_outcomes_from_a_file_count_from_the_start(name: str, tmp_path: Path) -> None:
    texts = ("Configure a zither", "zither amplifier", "the amplifier of the zither", "Configure the amplifier")
    lines = [row(text, "post", category="music").model_dump_json() for text in texts]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    router = make(name, outcomes="rows.jsonl", folder=tmp_path)
    assert (await ask(router, "Configure the zither amplifier")).agents == ("post",)


async def test_the_oldest_outcomes_are_dropped_and_counted(name: str) -> None:
    router = make(name, max_outcomes=3)
    for number in range(5):
        await router.learn(outcome(f"zither {number}", "post", 1.0))
    assert [r.text for r in router.outcomes.rows] == ["zither 2", "zither 3", "zither 4"]
    assert router.outcomes.dropped == 2
    evidence = (await ask(router, "zither")).evidence
    assert (evidence["outcomes"], evidence["outcomes_dropped"]) == (3, 2)


async def test_what_teaches_nothing_is_not_learned(name: str) -> None:
    router = make(name)
    await ask(router, "Where is my parcel?")
    nobody = outcome("x", "post", 1.0).model_copy(
        update={"decision": RoutingDecision(mode=Mode.OUT_OF_SCOPE, reason="none", router="t")}
    )
    strange = [
        nobody,
        outcome("x", "who-is-that", 1.0),
        outcome("x", "post", 1.0).model_copy(update={"quality": math.nan}),
        outcome("x", "post", 1.0).model_copy(update={"quality": 1.5}),
        outcome("x", "post", 1.0, cost_usd=-1.0),
        outcome("x", "post", 1.0, cost_usd=math.inf),
        outcome("   ", "post", 1.0),
    ]
    assert [await router.learn(one) for one in strange] == [False] * len(strange)
    assert router.outcomes.rows == ()


async def test_learning_changes_no_snapshot_that_a_decision_holds(name: str) -> None:
    router = make(name)
    text = "zither"
    decisions, learned = await asyncio.gather(
        asyncio.gather(*(ask(router, text) for _ in range(20))),
        asyncio.gather(*(router.learn(outcome(f"zither {n}", CARDS[n % 3].id, n % 2)) for n in range(40))),
    )
    assert all(learned)
    assert len(decisions) == 20
    assert len(router.outcomes.rows) == 40
    assert (await ask(router, text)).evidence["outcomes"] == 40


async def test_an_agent_that_comes_later_competes_and_one_that_goes_is_gone(name: str) -> None:
    router = make(name)
    await router.learn(outcome("zither", "post", 1.0))
    await ask(router, "Where is my parcel?")
    newcomer = AgentCard(id="music", description="Zithers and harps.", examples=("Tune my harp",))
    assert (await ask(router, "Please tune the harp", (*CARDS, newcomer))).agents == ("music",)
    decision = await ask(router, "Where is my parcel?", CARDS[:2])
    assert "post" not in {c.agent for c in decision.candidates}


class CountingEmbedder(ScriptedEmbedder):
    def __init__(self) -> None:
        super().__init__(256)
        self.counts: list[int] = []

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.counts.append(len(texts))
        return await super().embed(texts)


async def test_a_new_card_is_embedded_and_the_others_are_not(name: str) -> None:
    embedder = CountingEmbedder()
    router = make(name, embedder)
    await asyncio.gather(*(ask(router, "Where is my parcel?") for _ in range(5)))
    assert sum(count > 2 for count in embedder.counts) == 1
    embedder.counts.clear()
    newcomer = AgentCard(id="music", description="Zithers.")
    await ask(router, "Where is my parcel?", (*CARDS, newcomer))
    assert sorted(embedder.counts) == [1, 2]  # the message; "music: Zithers." and its one clause


class BrokenEmbedder(ScriptedEmbedder):
    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        raise ModelUnavailableError("the embedding server is down; start it")


async def test_a_failing_embedder_is_a_routing_error_with_its_cause(name: str) -> None:
    with pytest.raises(RoutingError, match=f"{name}.*the embedding server is down"):
        await ask(make(name, BrokenEmbedder()), "Where is my parcel?")


def test_without_an_embedder_there_is_no_such_router(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}.*give it an embedder"):
        routers.create(name)


async def test_texts_of_outcomes_are_shown_nowhere(name: str) -> None:
    router = make(name, outcomes=[row("My parcel for Mr Secretname", "post", category="x")])
    decision = await ask(router, "Where is my parcel for him?")
    assert "Secretname" not in decision.model_dump_json()


# --- rows and files ---------------------------------------------------------------------------------------------------


def test_every_wrong_line_of_a_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    lines = [
        '{"text": "fine", "agent": "pay", "quality": 1}',
        "not json",
        '["a list"]',
        '{"text": "x", "agent": "pay"}',
        '{"text": "x", "agent": "pay", "quality": 1.2}',
        '{"text": "x", "agent": "pay", "quality": NaN}',
        '{"text": "x", "agent": "pay", "quality": 1, "cost_usd": -1}',
        '{"text": "x", "agent": "pay", "qualty": 1, "quality": 1}',
        '{"text": "x", "agent": "a b", "quality": 1}',
        '{"text": "  ", "agent": "pay", "quality": 1}',
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ProjectError) as error:
        read_outcomes(file, name="rows.jsonl")
    said = error.value.mistakes
    assert [text.split(" ")[0] for text in said] == [f"rows.jsonl:{n}:" for n in range(2, 11)]
    for words, text in zip(
        (
            "is not one JSON object (column 1); write",
            "is a list; write",
            "quality: is missing; add",
            "quality: must be",
            "quality: is nan, which is no amount",
            "cost_usd: must be",
            "qualty: unknown key; did you mean 'quality'?",
            "agent: ",
            "text: must hold words",
        ),
        said,
        strict=True,
    ):
        assert words in text


def test_a_file_that_is_not_there_or_no_text_says_so(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"gone.jsonl: does not exist; correct the option `outcomes`"):
        outcome_table("gone.jsonl", folder=tmp_path)
    (tmp_path / "odd.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProjectError, match="is not UTF-8 text"):
        outcome_table("odd.jsonl", folder=tmp_path)
    with pytest.raises(ProjectError, match="cannot be read"):
        outcome_table(tmp_path)


def test_a_file_with_many_mistakes_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("nonsense\n" * 500, encoding="utf-8")
    with pytest.raises(ProjectError) as error:
        outcome_table("rows.jsonl", folder=tmp_path)
    assert len(error.value.mistakes) == 20


def test_the_last_rows_of_a_long_file_are_kept(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"t{n}", "agent": "pay", "quality": 0.5}) for n in range(7)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    table = outcome_table("rows.jsonl", folder=tmp_path, most=3)
    assert [r.text for r in table.rows] == ["t4", "t5", "t6"]
    assert table.dropped == 4


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, "the option outcomes is 3"),
        ({"text": "x"}, "is a group of keys"),
        ([{"text": "x", "agent": "pay", "quality": 2}], r"outcomes\[0\].quality: must be"),
        (["x"], r"outcomes\[0\] is 'x'; give the keys of a row"),
    ],
)
def test_rows_that_are_none_are_a_mistake_in_the_settings(given: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        outcome_table(given)
    with pytest.raises(ConfigError, match="max_outcomes is 0"):
        outcome_table(None, most=0)


def test_a_run_of_two_agents_gives_a_row_for_each_with_its_part_and_its_share_of_the_cost() -> None:
    decision = RoutingDecision(
        mode=Mode.PARALLEL,
        chosen=(
            Chosen(agent="pay", score=1, weight=0.75, part="the invoice"),
            Chosen(agent="net", score=1, weight=0.25, variant="cheap"),
        ),
        reason="r",
        router="t",
    )
    run = Outcome(run_id="r", task=Task(text="all of it"), decision=decision, quality=0.5, cost_usd=0.04)
    assert rows_of(run) == (
        row("the invoice", "pay", 0.5, 0.03),
        row("all of it", "net", 0.5, 0.01, variant="cheap"),
    )


# --- centroid ---------------------------------------------------------------------------------------------------------


def unit(*degrees: float) -> NDArray[np.float32]:
    """Vectors in the plane at these angles."""
    angles = np.radians(np.array(degrees))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_centroids_are_the_means_of_groups_worked_by_hand() -> None:
    assert centroids_of(unit(10, 30), 16) == pytest.approx(unit(20), abs=1e-6)  # two texts share one
    six = centroids_of(unit(0, 2, 4, 90, 92, 94), 2)
    assert sorted(np.degrees(np.arctan2(six[:, 1], six[:, 0])).tolist()) == pytest.approx([2, 92], abs=1e-3)
    assert len(centroids_of(unit(*[5] * 9), 16)) == 1  # equal texts make one, not three
    assert centroids_of(unit(), 4).shape == (0, 2)


async def test_centroids_of_one_agent_do_not_change_those_of_another() -> None:
    router: Any = routers.create("centroid", embedder=ScriptedEmbedder(256))
    await ask(router, "Where is my parcel?")
    before = {agent: own.centroids for agent, own in router._own.items()}
    newcomer = AgentCard(id="music", description="Zithers.")
    await ask(router, "Where is my parcel?", (*CARDS, newcomer))
    await router.learn(outcome("zither", "post", 1.0))
    after = {agent: own.centroids for agent, own in router._own.items()}
    assert after["pay"] is before["pay"]
    assert after["net"] is before["net"]
    assert after["post"] is not before["post"]
    assert "music" in after


async def test_a_text_is_won_by_the_best_on_average_and_lost_when_another_does_better() -> None:
    router = make("centroid", outcomes=[row("zither amplifier", "pay", 0.6)])
    assert (await ask(router, "zither amplifier")).agents == ("pay",)
    assert await router.learn(outcome("zither amplifier", "net", 0.9))
    assert (await ask(router, "zither amplifier")).agents == ("net",)
    assert await router.learn(outcome("zither amplifier", "net", 0.1))  # now 0.5 on average
    assert (await ask(router, "zither amplifier")).agents == ("pay",)


# --- knn --------------------------------------------------------------------------------------------------------------


def test_an_estimate_worked_by_hand() -> None:
    rows = Neighbours(
        agent=np.array([0, 0, 1]),
        similarity=np.array([0.8, 0.4, 0.5]),
        quality=np.array([1.0, 0.5, 1.0]),
        cost_usd=np.array([0.01, 0.04, math.nan]),
    )
    quality, cost, count = estimate(rows, 3)
    assert DOUBT == 0.5
    assert quality == pytest.approx([(0.8 + 0.2) / 1.7, 0.5, 0.0])
    assert cost == pytest.approx([(0.008 + 0.016) / 1.2, 0.0, 0.0])
    assert count.tolist() == [2, 1, 0]


def test_neighbours_are_texts_and_all_that_was_recorded_on_them() -> None:
    similarity = np.array([0.9, 0.2, 0.9, 0.5, 0.9])
    codes = np.array([7, 1, 7, 3, 7])
    assert nearest_texts(similarity, codes, 1).tolist() == [0, 2, 4]
    assert nearest_texts(similarity, codes, 2).tolist() == [0, 2, 4, 3]
    assert nearest_texts(similarity, codes, 9).tolist() == [0, 2, 4, 3, 1]
    many = np.linspace(0, 1, 5000)
    assert nearest_texts(many, np.arange(5000) // 100, 1).tolist() == list(range(4999, 4899, -1))


async def test_knn_pays_for_quality_what_it_is_told_that_it_is_worth() -> None:
    rows = [row(f"zither {n}", "pay", 1.0, 0.02) for n in range(8)] + [
        row(f"zither {n}", "net", 0.5, 0.001) for n in range(8)
    ]
    for pays, agent in ((None, "pay"), (1.0, "pay"), (0.01, "net")):
        decision = await ask(make("knn", outcomes=rows, willingness_to_pay=pays), "zither")
        assert decision.agents == (agent,), pays
    assert "for US$ 0.001" in decision.reason


async def test_knn_lets_nobody_work_where_all_neighbours_failed() -> None:
    rows = [row(f"zither {n}", "pay", 0.0) for n in range(8)]
    decision = await ask(make("knn", outcomes=rows, least_similarity=-1.0, k=3), "zither")
    assert decision.mode is Mode.OUT_OF_SCOPE
    assert "not above 0.00" in next(c.reason for c in decision.candidates if c.agent == "pay")


# --- category ---------------------------------------------------------------------------------------------------------


LABELLED = [
    *(row(f"zither number {n}", "pay", 0.9, 0.02, category="music") for n in range(8)),
    *(row(f"zither number {n}", "net", 0.7, 0.001, category="music") for n in range(8)),
    *(row(f"zither number {n}", "post", 0.1, 0.0, category="music") for n in range(8)),
]


async def test_a_category_belongs_to_whoever_did_best_in_it_less_what_that_took() -> None:
    best = await ask(make("category", outcomes=LABELLED), "zither")
    assert best.agents == ("pay",)
    assert best.evidence["map"]["music"] == "pay"
    assert "'music'" in best.reason
    cheap = await ask(make("category", outcomes=LABELLED, willingness_to_pay=0.05), "zither")
    assert cheap.agents == ("net",)  # 7.2/10 - 0.02/0.05 = 0.32 against 5.6/10 - 0.001/0.05 = 0.54


async def test_the_settings_say_whose_a_category_is_and_by_which_texts_it_is_known() -> None:
    careful = CARDS[2].model_copy(update={"variants": {"careful": AgentVariant(prompt="step-by-step")}})
    router = make(
        "category",
        categories={"music": ["zither", "play the harp"]},
        agents={"music": "post/careful", "dance": "nobody"},
        outcomes=LABELLED,
    )
    decision = await ask(router, "a harp and a zither", (*CARDS[:2], careful))
    assert [(c.agent, c.variant) for c in decision.chosen] == [("post", "careful")]
    assert "by the settings" in decision.reason


async def test_a_category_that_is_not_sure_goes_to_the_general_agent_else_the_user_is_asked() -> None:
    rivals = (
        AgentCard(id="left", description="Zithers.", examples=("zither strings",)),
        AgentCard(id="right", description="Zithers.", examples=("zither strings",)),
        AgentCard(id="strong", description="Anything at all."),
    )
    torn = await ask(make("category"), "zither strings", rivals)
    assert torn.mode is Mode.CLARIFY
    assert set(torn.options) == {"left", "right"}
    router = make("category", general="strong")
    assert (await ask(router, "zither strings", rivals)).agents == ("strong",)
    far = await ask(router, "symphony orchestra conductor", rivals)
    assert far.agents == ("strong",)
    assert "only" in far.reason
    assert (await ask(router, "zither strings", rivals[:1])).agents == ("left",)  # the general agent is not here


async def test_outcomes_move_a_category_to_another_agent() -> None:
    router = make("category", outcomes=LABELLED)
    assert (await ask(router, "zither")).agents == ("pay",)
    for number in range(12):
        assert await router.learn(outcome(f"zither number {number}", "pay", 0.0))
    assert router.outcomes.rows[-1].category == "music"
    assert (await ask(router, "zither")).agents == ("net",)


# --- linucb -----------------------------------------------------------------------------------------------------------


def test_one_update_of_a_bandit_worked_by_hand() -> None:
    # A = 0.5 I + x x' with x = (1, 2): [[1.5, 2], [2, 4.5]], determinant 2.75
    x = np.array([1.0, 2.0])
    before = no_arms(2, 2, ridge=0.5)
    after = updated(before, 0, x, 0.8)
    assert after.inverse[0] == pytest.approx(np.array([[4.5, -2.0], [-2.0, 1.5]]) / 2.75)
    assert after.b[0].tolist() == [0.8, 1.6]
    assert before.b[0].tolist() == [0.0, 0.0]
    assert after.inverse[1] == pytest.approx(np.eye(2) * 2)
    mean, width = expected(after, x)
    # theta = A^-1 b = (0.8 * 4.5 - 1.6 * 2, -0.8 * 2 + 1.6 * 1.5) / 2.75 = (0.4, 0.8) / 2.75
    assert mean == pytest.approx([(0.4 + 1.6) / 2.75, 0.0])
    # x' A^-1 x = (4.5 - 8 + 6) / 2.75
    assert width == pytest.approx([math.sqrt(2.5 / 2.75), math.sqrt(10.0)])


def test_many_updates_are_the_inverse_of_the_sum() -> None:
    rng = np.random.default_rng(1)
    xs = rng.standard_normal((50, 6))
    arms = no_arms(1, 6, ridge=0.05)
    for x in xs:
        arms = updated(arms, 0, x, 1.0)
    assert arms.inverse[0] == pytest.approx(np.linalg.inv(0.05 * np.eye(6) + xs.T @ xs), rel=1e-6, abs=1e-9)


def test_a_reward_worked_by_hand() -> None:
    assert reward(0.9, 0.005, full=0.01, weight=0.2) == pytest.approx(0.8 * 0.9 - 0.2 * 0.5)
    assert reward(1.0, 5.0, full=0.01, weight=0.2) == pytest.approx(0.8 - 0.2)
    assert reward(0.9, 5.0, full=0.01, weight=0.0) == 0.9


def test_a_projection_keeps_lengths_on_average_and_short_vectors_as_they_are() -> None:
    assert projection(4, 8).tolist() == np.eye(4).tolist()
    squared = np.square(np.eye(256) @ projection(256, 32)).sum(axis=1)
    assert squared.mean() == pytest.approx(1.0)


async def test_failures_send_a_bandit_elsewhere_and_alpha_makes_it_try_what_it_does_not_know() -> None:
    twins = (
        AgentCard(id="a", description="Zithers.", examples=("zither strings",)),
        AgentCard(id="b", description="Zithers.", examples=("zither strings",)),
    )
    greedy = make("linucb", alpha=0.0)
    assert (await ask(greedy, "zither strings", twins)).agents == ("a",)
    for _ in range(3):
        assert await greedy.learn(outcome("zither strings", "a", 0.2))
    decision = await ask(greedy, "zither strings", twins)
    assert decision.agents == ("b",)
    bold = make("linucb", alpha=5.0)
    await ask(bold, "zither strings", twins)
    for _ in range(3):
        assert await bold.learn(outcome("zither strings", "a", 1.0))
    assert (await ask(bold, "zither strings", twins)).agents == ("b",)  # less is known of it


async def test_what_a_bandit_learned_step_by_step_is_what_it_would_know_from_the_start() -> None:
    rows = [row(f"zither {n}", CARDS[n % 3].id, (n % 4) / 4, 0.002 * n) for n in range(9)]
    whole = await ask(make("linucb", outcomes=rows), "zither 4")
    grown = make("linucb")
    await ask(grown, "zither 4")
    for r in rows:
        await grown.learn(outcome(r.text, r.agent, r.quality, cost_usd=r.cost_usd))
    step_by_step = await ask(grown, "zither 4")
    assert [c.agent for c in step_by_step.candidates] == [c.agent for c in whole.candidates]
    for one, other in zip(step_by_step.candidates, whole.candidates, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-6)


async def test_a_bandit_counts_energy_where_it_is_told_to() -> None:
    rows = [
        row("zither strings", "pay", 1.0, 0.0, energy_wh=4.0),
        row("zither strings", "net", 0.9, 9.0, energy_wh=0.1),
    ]
    more = [*rows * 3]
    by_energy = make("linucb", outcomes=more, spends="energy", full=4.0, cost_weight=0.5, alpha=0.0)
    assert (await ask(by_energy, "zither strings")).agents == ("net",)
    by_cost = make("linucb", outcomes=more, cost_weight=0.5, full=4.0, alpha=0.0)
    assert (await ask(by_cost, "zither strings")).agents == ("pay",)


# --- tradeoff ---------------------------------------------------------------------------------------------------------


def test_a_frontier_worked_by_hand() -> None:
    rows = [
        row("a", "cheap", 0.4, 0.001), row("b", "cheap", 0.6, 0.003),  # .5 at .002
        row("a", "dear", 1.0, 0.02, variant="big"), row("b", "dear", 0.8, 0.02, variant="big"),  # .9 at .02
        row("a", "middle", 0.6, 0.010),  # above the line from cheap to dear: a mixture of them is better
        row("a", "bad", 0.4, 0.030),  # beaten in both
    ]  # fmt: skip
    assert [(p.agent, p.variant, p.rows) for p in frontier(rows)] == [
        ("cheap", None, 2), ("middle", None, 1), ("dear", "big", 2),
    ]  # fmt: skip
    cheap, middle, dear = frontier(rows)
    assert (cheap.quality, cheap.cost_usd, cheap.chosen_from) == (0.5, 0.002, 0.0)
    assert middle.chosen_from is None
    assert dear.chosen_from == pytest.approx((0.02 - 0.002) / (0.9 - 0.5))
    assert frontier([]) == ()
    assert isinstance(cheap, OperatingPoint)


def test_a_ridge_worked_by_hand() -> None:
    # one feature, centred -1, 0, 1; q centred -0.4, 0, 0.4: w = 0.8 / (2 + 2) = 0.2, constant 0.5 - 0.2 * 2
    x, q = np.array([[1.0], [2.0], [3.0]]), np.array([0.1, 0.5, 0.9])
    model = ridge(x, q, penalty=2.0)
    assert model.weights == pytest.approx([0.2])
    assert model.constant == pytest.approx(0.1)
    assert model(np.array([2.0])) == pytest.approx(0.5)
    assert model(np.array([50.0])) == 1.0
    wide = np.random.default_rng(0).standard_normal((3, 7))
    # with fewer rows than features it takes the other form; at the solution the gradient is zero there, too
    centred = wide - wide.mean(axis=0)
    weights = ridge(wide, q).weights
    assert centred.T @ (centred @ weights - (q - q.mean())) + weights == pytest.approx(np.zeros(7), abs=1e-9)


TWO_WAYS = CARDS[0].model_copy(update={"variants": {"big": AgentVariant(), "small": AgentVariant()}})
VARIANTS = [
    *(row(f"invoice zither {n}", "pay", 0.95, 0.02, variant="big") for n in range(9)),
    *(row(f"invoice zither {n}", "pay", 0.75, 0.001, variant="small") for n in range(9)),
]


@pytest.mark.parametrize("predict", ["knn", "ridge"])
async def test_the_willingness_to_pay_decides_between_the_variants_of_an_agent(predict: str) -> None:
    # 0.2 more quality for 0.019 US$ more is worth it from 0.095 US$ a point of quality on
    for pays, variant in ((None, "big"), (0.2, "big"), (0.05, "small")):
        router = make("tradeoff", outcomes=VARIANTS, willingness_to_pay=pays, predict=predict)
        decision = await ask(router, "invoice zither", (TWO_WAYS, *CARDS[1:]))
        assert [(c.agent, c.variant) for c in decision.chosen] == [("pay", variant)], pays
        assert decision.evidence["unit"] == "US$ for one point of quality"
        assert decision.evidence["choices"][0]["variant"] == variant


async def test_another_router_may_choose_the_agents_and_leave_only_the_variant() -> None:
    router = make("tradeoff", outcomes=VARIANTS, willingness_to_pay=0.05, router="keyword")
    decision = await ask(router, "invoice zither", (TWO_WAYS, *CARDS[1:]))
    assert [(c.agent, c.variant) for c in decision.chosen] == [("pay", "small")]
    assert (decision.router, decision.evidence["decided_by"]) == ("tradeoff", "keyword")
    assert decision.reason.endswith("pay as 'small'")
    far = await ask(router, "payment", (TWO_WAYS, *CARDS[1:]))
    assert [c.agent for c in far.chosen] == ["pay"]
    assert (await ask(router, "symphony", (TWO_WAYS, *CARDS[1:]))).mode is Mode.OUT_OF_SCOPE


async def test_a_variant_that_the_card_does_not_have_is_never_chosen() -> None:
    rows = [row(f"invoice {n}", "pay", 1.0, variant="gone") for n in range(5)]
    for name in ("tradeoff", "category"):
        decision = await ask(make(name, outcomes=rows), "Why is my invoice so high?")
        assert [(c.agent, c.variant) for c in decision.chosen] == [("pay", None)]


async def test_a_ridge_learns_while_it_runs() -> None:
    router = make("tradeoff", outcomes=VARIANTS, predict="ridge")
    assert (await ask(router, "invoice zither", (TWO_WAYS,))).chosen[0].variant == "big"
    for number in range(30):
        await router.learn(outcome(f"invoice zither {number}", "pay", 0.1, variant="big"))
    assert (await ask(router, "invoice zither", (TWO_WAYS,))).chosen[0].variant == "small"


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("centroid", {"centroids": 0}, "centroids of the router 'centroid' is 0; give a whole number from 1"),
        ("centroid", {"centroids": 1.5}, "give a whole number"),
        ("centroid", {"margin": -1}, "margin of the router 'centroid' is -1; give a number from 0 to 1"),
        ("centroid", {"least_similarity": math.nan}, "least_similarity of the router 'centroid' is nan"),
        ("knn", {"k": True}, "k of the router 'knn' is True"),
        ("knn", {"willingness_to_pay": 0}, "willingness_to_pay of the router 'knn' is 0; give the US\\$ above 0"),
        ("knn", {"willingness_to_pay": "much"}, "is 'much'"),
        ("linucb", {"alpha": -0.1}, "alpha of the router 'linucb'"),
        ("linucb", {"cost_weight": 2}, "cost_weight of the router 'linucb' is 2; give a number from 0 to 1"),
        ("linucb", {"spends": "time"}, "spends of the router 'linucb' is 'time'; give 'cost' or 'energy'"),
        ("linucb", {"full": 0}, "full of the router 'linucb' is 0"),
        ("linucb", {"features": 0}, "features of the router 'linucb' is 0"),
        ("category", {"categories": {"a": "text"}}, "categories.a of the router 'category' is 'text'; list some texts"),
        ("category", {"agents": {"a": 3}}, "agents.a of the router 'category' is 3; give an agent"),
        ("tradeoff", {"predict": "magic"}, "predict of the router 'tradeoff' is 'magic'; give 'knn' or 'ridge'"),
        ("tradeoff", {"wilingness_to_pay": 1}, "does not take these options: 'wilingness_to_pay' is none"),
    ],
)
def test_a_wrong_option_says_which_and_what_to_give(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make(name, **options)


@pytest.fixture
def project(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a project with a router and a file of outcomes."""

    def write(lines: str) -> Path:
        (tmp_path / "agents").mkdir()
        for card in CARDS:
            text = f"---\ndescription: {card.description}\n---\nAnswer.\n"
            (tmp_path / "agents" / f"{card.id}.md").write_text(text)
        (tmp_path / "outcomes.jsonl").write_text(lines)
        (tmp_path / "agentmesh.toml").write_text(
            'durable = false\n[models]\ndefault = "scripted"\n[memory]\nembedder = "scripted"\n'
            '[routing]\nrouter = "knn"\noptions = { outcomes = "outcomes.jsonl" }\n'
        )
        return tmp_path

    return write


def test_a_file_of_a_project_is_found_in_its_folder_and_its_mistakes_by_the_check(
    project: Callable[[str], Path],
) -> None:
    folder = project('{"text": "zither", "agent": "pay", "quality": 1}\n')
    assert check_folder(folder, environ={}) == []
    (folder / "outcomes.jsonl").write_text('{"text": "zither", "agent": "pay", "quality": 3}\n')
    (mistake,) = check_folder(folder, environ={})
    assert "outcomes.jsonl:1: quality: must be" in str(mistake)


def test_a_mesh_routes_by_it_and_names_it(name: str) -> None:
    with build_mesh(CARDS, model="scripted", router=name, embedder="scripted") as mesh:
        decision = mesh.ask_sync("Where is my parcel?").decision
    assert decision is not None
    assert (decision.router, decision.agents) == (name, ("post",))


def test_shares_worked_by_hand() -> None:
    assert shares([0.5, 0.5], 0.1) == [0.5, 0.5]
    assert shares([0.6, 0.5], 0.1)[0] == pytest.approx(math.e / (1 + math.e))
    assert shares([], 1.0) == []
