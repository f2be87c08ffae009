"""What `semantic` does after it asked back, in later rounds, and with more agents than a ridge can tell apart."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from agentmesh.routing.answered import Answered, found_names, named_options
from agentmesh.routing.calibration import LEARNED_EXAMPLES, RIDGE_AGENTS
from agentmesh.routing.head import fit_softmax
from agentmesh.routing.semantic import SemanticRouter
from agentmesh.run import loose_context
from agentmesh.types import AgentCard, Clarification, Mode, RouteRequest, RoutingDecision, Task
from tests.test_routing_contract import CARDS, HashedEmbedder

ROOT = Path(__file__).resolve().parent.parent

VAGUE = "It does not work."
OPTIONS = ("billing", "vpn", "orders")


@pytest.fixture(scope="module")
def router() -> SemanticRouter:
    return SemanticRouter(HashedEmbedder())


async def ask(
    router: SemanticRouter,
    text: str,
    *answers: str,
    options: Sequence[str] = OPTIONS,
    cards: Sequence[AgentCard] = CARDS,
    known: Sequence[str] = (),
    tried: Sequence[str] = (),
) -> RoutingDecision:
    clarifications = tuple(Clarification(question="Which?", options=tuple(options), answer=a) for a in answers)
    task = Task(text=text, clarifications=clarifications)
    request = RouteRequest(task=task, cards=tuple(cards), known=tuple(known), tried=tuple(tried))
    return await router.route(request, loose_context())


async def test_a_question_back_names_its_options_best_first(router: SemanticRouter) -> None:
    decision = await ask(router, VAGUE)
    assert decision.mode is Mode.CLARIFY
    assert len(decision.options) == 3
    chances = {c.agent: c.probability or 0.0 for c in decision.candidates}
    assert list(decision.options) == sorted(chances, key=lambda a: -chances[a])[:3]


async def test_only_a_question_back_has_options(router: SemanticRouter) -> None:
    assert (await ask(router, "Why is my invoice higher than last month?")).options == ()


@pytest.mark.parametrize(
    "answer",
    ["vpn", "VPN!", "2", "the second one", "Remote access desk", "not billing, the vpn", "the tunnel to the gateway"],
)
async def test_an_answer_that_names_an_option_chooses_it_for_the_wish(router: SemanticRouter, answer: str) -> None:
    decision = await ask(router, VAGUE, answer)
    assert decision.agents == ("vpn",)
    assert decision.chosen[0].part == f"{VAGUE} {answer}"
    assert decision.mode is Mode.SOLO


async def test_an_answer_in_words_is_read_together_with_the_wish(router: SemanticRouter) -> None:
    answer = "I mean the charge on the bill that came last week and that I had not expected at all"
    decision = await ask(router, VAGUE, answer)
    assert decision.agents == ("billing",)
    assert decision.chosen[0].part == f"{VAGUE} {answer}"


@pytest.mark.parametrize("answer", ["xqzt brrl", "?", "hmm", "yes please", "9", "0", "billing or vpn"])
async def test_an_answer_that_makes_no_sense_is_no_reason_to_guess(router: SemanticRouter, answer: str) -> None:
    decision = await ask(router, VAGUE, answer)
    assert decision.mode in (Mode.CLARIFY, Mode.OUT_OF_SCOPE)
    assert not decision.chosen
    if decision.mode is Mode.CLARIFY:
        assert decision.options


async def test_a_second_answer_counts_where_the_first_one_made_no_sense(router: SemanticRouter) -> None:
    assert (await ask(router, VAGUE, "xqzt", "orders")).agents == ("orders",)


async def test_both_options_may_be_meant(router: SemanticRouter) -> None:
    assert set((await ask(router, VAGUE, "both", options=("billing", "vpn"))).agents) == {"billing", "vpn"}


async def test_neither_of_the_options_is_nobody_chosen(router: SemanticRouter) -> None:
    assert not (await ask(router, VAGUE, "none of them")).chosen


async def test_what_was_sure_stays_when_another_part_is_asked_about(router: SemanticRouter) -> None:
    text = "Why is my invoice higher than last month? Also, the thing that I told you about broke again."
    decision = await ask(router, text, "vpn", options=("vpn", "orders"))
    parts = {c.agent: c.part for c in decision.chosen}
    assert set(parts) == {"billing", "vpn"}
    assert parts["billing"] == "Why is my invoice higher than last month?"
    assert parts["vpn"].endswith("broke again. vpn")


async def test_a_person_who_names_the_other_option_is_right(router: SemanticRouter) -> None:
    decision = await ask(router, "Where is my parcel?", "billing", options=("orders", "billing"))
    assert decision.agents == ("billing",)
    assert decision.chosen[0].part == "Where is my parcel? billing"


async def test_an_option_that_left_is_not_chosen(router: SemanticRouter) -> None:
    decision = await ask(router, VAGUE, "travel", options=("travel", "vpn"))
    assert "travel" not in decision.agents


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("3", ("orders",)),
        ("the last one", ("orders",)),
        ("option 1", ("billing",)),
        ("all of them", OPTIONS),
        ("Neither.", Answered.NEITHER),
        ("something else", Answered.NEITHER),
        ("billing or orders", Answered.SEVERAL),
        ("4", Answered.NOTHING),
        ("", Answered.NOTHING),
        ("not the vpn", Answered.NOTHING),
    ],
)
def test_what_an_answer_names(answer: str, said: object) -> None:
    assert named_options(answer, CARDS[:3]) == said


def test_names_found_before_are_those_that_the_task_does_not_hold() -> None:
    known = [
        "The lamp was built by Ada Brook.",
        "Later it came to Port Ellen.",
        "Then Ada Brook died.",
        "Nothing else.",
    ]
    assert found_names(known, "Who built the lamp of Port Ellen?") == ("Ada Brook",)


async def test_names_found_before_are_read_with_the_task(router: SemanticRouter) -> None:
    places = AgentCard(
        id="towns", description="Towns.", examples=("What is near Port Ellen?", "Who lives in Port Ellen?")
    )
    people = AgentCard(id="people", description="Persons.", examples=("When was Ada Brook born?", "Who is Ada Brook?"))
    cards = (places, people)
    before = await ask(router, "Who lives there now?", cards=cards)
    after = await ask(router, "Who lives there now?", cards=cards, known=["The lamp was sold in Port Ellen."])

    def chance(decision: RoutingDecision) -> float:
        return next(c.probability or 0.0 for c in decision.candidates if c.agent == "towns")

    assert chance(after) > chance(before)
    again = await ask(router, "Who lives in Port Ellen?", cards=cards, known=["It is in Port Ellen."], tried=["towns"])
    assert again.agents == ("towns",), "an agent that was tried stays allowed"


# --- many agents ------------------------------------------------------------------------------------------------------


def test_softmax_weights_agree_with_the_solution_by_hand() -> None:
    # One feature that is always 1, classes 0 and 1 seen 3 and 1 times, hardly a penalty: the log odds are ln 3.
    found = fit_softmax(
        np.ones((4, 1), np.float32), np.array([0, 0, 0, 1]), np.ones(4, np.float32), 2, penalty=1e-4, steps=50
    )
    assert found[0, 0] - found[0, 1] == pytest.approx(np.log(3), abs=0.01)


async def test_with_many_agents_and_examples_a_text_that_was_not_seen_finds_its_agent() -> None:
    rng = np.random.default_rng(0)
    verbs = ("open", "close", "paint", "move", "sell", "weigh")
    things = ("door", "boat", "lamp", "chair", "fence")
    fillers = ("please", "now", "today", "slowly", "carefully", "again", "tomorrow", "outside", "inside", "quickly")
    cards = [
        AgentCard(
            id=f"{verb}-{thing}",
            description=f"{verb} the {thing}",
            examples=tuple(
                dict.fromkeys(f"{verb} the {rng.choice(fillers)} {thing} {rng.choice(fillers)}" for _ in range(14))
            ),
        )
        for verb in verbs
        for thing in things
    ]
    assert len(cards) > RIDGE_AGENTS
    assert sum(len(c.examples) for c in cards) >= LEARNED_EXAMPLES * len(cards)
    router = SemanticRouter(HashedEmbedder())
    right = 0
    for card in cards:
        verb, thing = card.id.split("-")
        decision = await ask(router, f"{verb} that {thing} for me", cards=cards)
        best = max(decision.candidates, key=lambda c: c.probability or 0.0)
        right += best.agent == card.id
    assert right >= 0.9 * len(cards)


async def test_the_only_agent_works_where_nothing_but_a_description_says_what_it_is_for() -> None:
    thin = AgentCard(id="staff", description="Answers questions of staff.")
    request = RouteRequest(task=Task(text="When does the VPN session end?"), cards=(thin,))
    decision = await SemanticRouter(HashedEmbedder()).route(request, loose_context())
    assert decision.mode is Mode.SOLO
    assert decision.agents == ("staff",)
    assert "the only agent" in decision.reason
    taught = thin.model_copy(
        update={"examples": ("Where is the form for leave?", "Who signs my leave?", "Is Friday off?")}
    )
    request = RouteRequest(task=Task(text="Sing me a song about a whale."), cards=(taught,))
    decision = await SemanticRouter(HashedEmbedder()).route(request, loose_context())
    assert not decision.chosen


HASHING_PROCESS = """
from agentmesh.routing.features import GramIndex, character_grams, word_grams
texts = ["Where is my parcel?", "My package arrived damaged.", "The tunnel drops during uploads."]
for grams in (word_grams, character_grams):
    index = GramIndex(grams, texts)
    print(index.hashed(index.codes(["Is my parcel damaged?"])).round(5).tolist())
"""


def test_features_are_the_same_in_every_process() -> None:
    said = {
        subprocess.run(
            [sys.executable, "-c", HASHING_PROCESS],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1


async def test_a_splitter_of_ones_own_names_the_wishes() -> None:
    async def by_semicolon(text: str) -> list[str]:
        return text.split(";")

    router = SemanticRouter(HashedEmbedder(), splitter=by_semicolon)
    request = RouteRequest(task=Task(text="Where is my parcel; The VPN keeps disconnecting"), cards=CARDS)
    decision = await router.route(request, loose_context())
    assert {c.agent: c.part for c in decision.chosen} == {
        "orders": "Where is my parcel",
        "vpn": "The VPN keeps disconnecting",
    }


async def test_where_the_splitter_fails_clauses_are_cut() -> None:
    async def failing(text: str) -> list[str]:
        raise ValueError("no model")

    router = SemanticRouter(HashedEmbedder(), splitter=failing)
    request = RouteRequest(task=Task(text="Where is my parcel? The VPN keeps disconnecting."), cards=CARDS)
    assert set((await router.route(request, loose_context())).agents) == {"orders", "vpn"}
