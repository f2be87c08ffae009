"""Routing tests of a project: what files may say, every figure worked out by hand, replays of recorded decisions."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentmesh.errors import ConfigError, InputError, RoutingError, UnknownNameError
from agentmesh.evaluation import routes
from agentmesh.evaluation.pages import Page, Section, Table, to_html, to_markdown
from agentmesh.evaluation.replay import recorded_decisions, replay, summed_up
from agentmesh.evaluation.route_file import RouteTest, read_route_tests
from agentmesh.evaluation.route_report import write_report
from agentmesh.evaluation.routes import METRICS, Goal, mcnemar, parse_goal, swap_test
from agentmesh.run import RunContext
from agentmesh.trace.events import AgentReplied, Event, PersonAnswered, PersonAsked, RouteDecided, RunStarted
from agentmesh.types import (
    AgentCard,
    AgentReply,
    Candidate,
    Chosen,
    CitedSentence,
    Message,
    Mode,
    Question,
    QuestionKind,
    ReplyStatus,
    RouteRequest,
    RoutingDecision,
    Task,
    Usage,
)

AGENTS = ("billing", "network", "vpn")
CARDS = tuple(AgentCard(id=agent, description=f"Does {agent}.") for agent in AGENTS)


class Planned:
    """Decides what a test wrote down for each text: agents, confidence, how much speaks for nobody."""

    name = "planned"

    def __init__(self, plan: dict[str, tuple[tuple[str, ...], float, float]], name: str = "planned") -> None:
        self.plan, self.name = plan, name
        self.requests: list[RouteRequest] = []

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        self.requests.append(request)
        agents, confidence, none = self.plan[request.task.text]
        modes = {"(clarify)": Mode.CLARIFY, "(out_of_scope)": Mode.OUT_OF_SCOPE}
        mode = modes.get(agents[0]) or (Mode.SOLO if len(agents) == 1 else Mode.PARALLEL)
        chosen = () if agents[0] in modes else tuple(Chosen(agent=a, score=1.0) for a in agents)
        return RoutingDecision(
            mode=mode,
            chosen=chosen,
            reason="planned",
            confidence=confidence,
            evidence={"out_of_scope": none},
            router=self.name,
            usage=Usage(calls=1, prompt_tokens=90, completion_tokens=10, cost_usd=0.002),
        )


TESTS = (
    RouteTest("a", ("billing",), None, line=1),
    RouteTest("b", ("billing", "vpn"), None, line=2),
    RouteTest("c", (), Mode.OUT_OF_SCOPE, line=3),
    RouteTest("d", (), Mode.CLARIFY, line=4),
)
PLAN: dict[str, tuple[tuple[str, ...], float, float]] = {
    "a": (("billing",), 0.9, 0.1),
    "b": (("vpn", "network"), 0.5, 0.2),
    "c": (("network",), 0.6, 0.15),
    "d": (("(clarify)",), 0.4, 0.5),
}


async def measure(*given: Any, **options: Any) -> dict[str, Any]:
    """As `routes.measure`, with few draws."""
    return await routes.measure(*given, draws=60, **options)


async def figures_of(router: Any, tests: tuple[RouteTest, ...] = TESTS) -> dict[str, Any]:
    return (await measure(tests, CARDS, {router.name: router}))["routers"][0]


# --- figures ----------------------------------------------------------------------------------------------------------


async def test_the_figures_of_four_decisions_are_those_worked_out_by_hand() -> None:
    values = {name: m["value"] for name, m in (await figures_of(Planned(PLAN)))["metrics"].items()}
    assert list(values) == list(METRICS)
    # Chosen: billing, vpn, network, network; right among them: billing, vpn; wanted: billing, billing, vpn.
    assert values["exact_set"] == 0.5, "a, and the question back d"
    assert (values["precision"], values["recall"]) == (0.5, pytest.approx(2 / 3, abs=1e-6))
    assert values["micro_f1"] == pytest.approx(4 / 7, abs=1e-6)
    assert (values["top1"], values["hit"], values["mean_set_size"]) == (1.0, 1.0, 1.5)
    # c (0.15) against a (0.1): higher; against b (0.2): lower. d is neither.
    assert values["oos_auroc"] == 0.5
    # One row a bin: |.9 - 1| + |.5 - 0| + |.6 - 0| + |.4 - 1| over 4.
    assert values["ece"] == pytest.approx((0.1 + 0.5 + 0.6 + 0.6) / 4)
    assert (values["tokens"], values["usd"], values["failed"]) == (100.0, 0.002, 0.0)
    assert 0 < values["p50_ms"] <= values["p95_ms"]


async def test_an_interval_holds_its_value_and_says_how_many_messages_it_rests_on() -> None:
    metrics = (await figures_of(Planned(PLAN)))["metrics"]
    assert {name: m["n"] for name, m in metrics.items() if m["n"] != 4} == {
        "top1": 2,
        "hit": 2,
        "mean_set_size": 2,
        "oos_auroc": 3,
    }
    assert all(m["ci95"][0] <= m["value"] <= m["ci95"][1] for m in metrics.values())
    low, high = metrics["exact_set"]["ci95"]
    assert 0.0 <= low < 0.3 < 0.7 < high <= 1.0, "four messages say little"


async def test_what_a_file_has_no_messages_for_is_not_measured() -> None:
    found = await figures_of(Planned(PLAN), TESTS[:1])
    assert found["metrics"]["oos_auroc"] == {"value": None, "ci95": None, "n": 0, "unit": "share"}
    assert found["roc"] == []


async def test_a_confusion_pair_is_a_missing_agent_and_the_one_in_its_place() -> None:
    found = await figures_of(Planned(PLAN))
    assert [(p["wanted"], p["got"], p["count"], p["texts"]) for p in found["confusions"]] == [
        ("(out_of_scope)", "network", 1, ["c"]),
        ("billing", "network", 1, ["b"]),
    ]
    assert [(w["line"], w["expected"], w["got"]) for w in found["wrong"]] == [
        (2, ["billing", "vpn"], ["vpn", "network"]),
        (3, ["(out_of_scope)"], ["network"]),
    ]


async def test_the_curves_begin_and_end_where_they_must() -> None:
    found = await figures_of(Planned(PLAN))
    assert found["roc"] == [[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [1.0, 1.0]]
    assert [(p["confidence"], p["right"], p["n"]) for p in found["calibration"]] == [
        (0.4, 1.0, 1),
        (0.5, 0.0, 1),
        (0.6, 0.0, 1),
        (0.9, 1.0, 1),
    ]


async def test_history_tenant_and_the_most_agents_reach_the_router() -> None:
    test = RouteTest("a", ("billing",), None, (Message(role="user", text="before"),), "acme", 1)
    router = Planned(PLAN)
    await measure((test,), CARDS, {"planned": router}, max_agents=2)
    (request,) = router.requests
    assert (request.task.history, request.task.tenant, request.max_agents) == (test.history, "acme", 2)


class Broken:
    """Raises, or never ends."""

    def __init__(self, name: str, error: Exception | None = None) -> None:
        self.name, self.error = name, error

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize(
    ("router", "said"),
    [
        (Broken("mesh", RoutingError("the model is away; ask later")), "the model is away; ask later"),
        (Broken("foreign", ZeroDivisionError("by zero")), "ZeroDivisionError: by zero"),
        (Broken("slow"), "no decision within 0.01 s"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
async def test_a_router_that_fails_is_wrong_there_and_the_others_go_on(router: Broken, said: str) -> None:
    named = {router.name: router, "planned": Planned(PLAN)}
    broken, planned = (await measure(TESTS[:2], CARDS, named, timeout_s=0.01))["routers"]
    assert (broken["metrics"]["failed"]["value"], broken["metrics"]["exact_set"]["value"]) == (1.0, 0.0)
    assert broken["wrong"][0] | {"got": ["(failed)"], "reason": said} == broken["wrong"][0]
    assert planned["metrics"]["failed"]["value"] == 0.0


async def test_wrong_options_of_a_router_are_a_persons_mistake() -> None:
    with pytest.raises(ConfigError, match="options"):
        await figures_of(Broken("mesh", ConfigError("wrong options")))


# --- one router against another ---------------------------------------------------------------------------------------


def test_mcnemar_counts_only_the_messages_on_which_the_routers_differ() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(3, 3) == 1.0
    assert mcnemar(6, 0) == mcnemar(0, 6) == pytest.approx(2 / 64)
    assert mcnemar(7, 1) == pytest.approx(2 * (1 + 8) / 256)


def test_swapping_decisions_finds_a_difference_that_chance_would_not_make() -> None:
    right, wrong = np.tile(np.array([1, 1, 1]), (12, 1)), np.tile(np.array([0, 1, 1]), (12, 1))
    assert swap_test(right, right) == 1.0
    # All 12 or none of them swapped: 2 of 4,096.
    assert swap_test(wrong, right) < 0.005
    assert swap_test(wrong[:1], right[:1]) == 1.0


async def test_routers_are_compared_with_the_first_on_the_same_messages() -> None:
    better = {**PLAN, "b": (("billing", "vpn"), 0.9, 0.1), "c": (("(out_of_scope)",), 0.9, 0.9)}
    worse = {**PLAN, "a": (("vpn",), 0.9, 0.1)}
    named = {"first": Planned(PLAN), "better": Planned(better), "worse": Planned(worse)}
    rows = {(r["other"], r["metric"]): r for r in (await measure(TESTS, CARDS, named))["paired"]}
    assert list(rows) == [(o, m) for o in ("better", "worse") for m in ("exact_set", "micro_f1")]
    exact = rows["better", "exact_set"]
    assert (exact["difference"], exact["better"], exact["worse"], exact["p"]) == (0.5, 2, 0, 0.5)
    assert rows["worse", "exact_set"]["difference"] == -0.25
    assert rows["better", "micro_f1"]["difference"] == pytest.approx(1 - 4 / 7, abs=1e-6)


# --- goals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("goal", "missed"),
    [
        ("exact_set=0.5", None),
        ("exact_set=0.51", "planned: exact_set is 0.5, at least 0.51 was wanted"),
        ("planned:ece=0.45", None),
        ("ece=0.4", "planned: ece is 0.45, at most 0.4 was wanted"),
        ("usd=0.001", "planned: usd is 0.002, at most 0.001 was wanted"),
    ],
)
async def test_a_goal_is_the_least_or_where_less_is_better_the_most(goal: str, missed: str | None) -> None:
    result = await measure(TESTS, CARDS, {"planned": Planned(PLAN)})
    assert parse_goal(goal, ["planned"]).missed(result) == missed


async def test_a_goal_that_cannot_be_measured_is_missed() -> None:
    result = await measure(TESTS[:1], CARDS, {"planned": Planned(PLAN)})
    assert "could not be measured" in str(Goal("planned", "oos_auroc", 0.5).missed(result))


def test_a_goal_may_name_another_router_even_one_of_a_module() -> None:
    assert parse_goal("own.py:Router:hit=.5", ["semantic", "own.py:Router"]) == Goal("own.py:Router", "hit", 0.5)


@pytest.mark.parametrize(
    ("goal", "error", "said"),
    [
        ("exact_ste=0.9", UnknownNameError, "did you mean 'exact_set'?"),
        ("keywrd:hit=0.9", UnknownNameError, "did you mean 'keyword'?"),
        ("exact_set", InputError, "METRIC=VALUE"),
        ("exact_set=high", InputError, "METRIC=VALUE"),
        ("exact_set=nan", InputError, "METRIC=VALUE"),
    ],
)
def test_a_wrong_goal_says_what_was_meant(goal: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said.replace("?", r"\?")):
        parse_goal(goal, ["semantic", "keyword"])


# --- files ------------------------------------------------------------------------------------------------------------

YAML = """
# a comment
- text: Why is it so high?
  agents: [billing]
- text: And in May?
  agents: vpn
  history:
    - {role: user, text: How much was it in April?}
  tenant: acme
- text: Sing!
  agents: []
- {text: Hm., expect: clarify, note: too short}
"""


def written(folder: Path, text: str, name: str = "routes.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_yaml_and_json_lines_say_the_same(tmp_path: Path) -> None:
    tests = read_route_tests(written(tmp_path, YAML), AGENTS)
    assert [(t.text, t.agents, t.mode, t.line) for t in tests] == [
        ("Why is it so high?", ("billing",), None, 3),
        ("And in May?", ("vpn",), None, 5),
        ("Sing!", (), Mode.OUT_OF_SCOPE, 10),
        ("Hm.", (), Mode.CLARIFY, 12),
    ]
    assert (tests[1].history, tests[1].tenant) == ((Message(role="user", text="How much was it in April?"),), "acme")
    keyed = written(tmp_path, "routes:\n" + YAML, "keyed.yml")
    assert [(t.text, t.line) for t in read_route_tests(keyed, AGENTS)] == [(t.text, t.line + 1) for t in tests]
    lines = [
        {"text": t.text, **({"agents": t.agents} if t.agents else {"expect": t.mode}), "tenant": t.tenant,
         "history": [m.model_dump() for m in t.history]}
        for t in tests
    ]  # fmt: skip
    as_lines = written(tmp_path, "\n\n".join(map(json.dumps, lines)), "routes.jsonl")
    found = read_route_tests(as_lines, AGENTS)
    assert [(t.text, t.agents, t.mode, t.history, t.tenant) for t in found] == [
        (t.text, t.agents, t.mode, t.history, t.tenant) for t in tests
    ]
    assert [t.line for t in found] == [1, 3, 5, 7]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("r.yaml", "- text: x\n  agents: [biling]\n", "r.yaml:2: agents[0]: no agent is called 'biling'; did you mean"),
        ("r.yaml", "- text: x\n  agnets: [vpn]\n", "r.yaml:2: agnets: "),
        ("r.yaml", "- text: x\n", "r.yaml:1: says not what is right"),
        ("r.yaml", "- text: x\n  agents: [vpn]\n  expect: clarify\n", "r.yaml:3: expect: stands beside agents"),
        ("r.yaml", "- text: x\n  expect: nobody\n", "r.yaml:2: expect: "),
        ("r.yaml", "- text: ' '\n  agents: [vpn]\n", "r.yaml:1: text: is blank"),
        ("r.yaml", "- just words\n", "r.yaml:1: a message must have"),
        ("r.yaml", "- text: x\n agents: []\n", "r.yaml:2: "),
        ("r.yaml", "tests:\n  - text: x\n", "r.yaml:1: unknown key 'tests'"),
        ("r.yaml", "routes: none\n", "r.yaml:1: routes: must be a list"),
        ("r.yaml", "", "r.yaml: holds no messages"),
        ("r.jsonl", '{"text": "x", "agents": ["vpn"]}\n{"text": 3}\n', "r.jsonl:2: text: "),
        ("r.jsonl", '{"text": "x"\n', "r.jsonl:1: is no line of JSON"),
        ("r.jsonl", "[1]\n", "r.jsonl:1: a line must be a JSON object"),
        ("r.csv", "text,agents\n", "ends in .jsonl, .yaml or .yml"),
    ],
)
def test_a_mistake_of_a_file_says_where_and_what(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(InputError) as raised:
        read_route_tests(written(tmp_path, text, name), AGENTS)
    assert said in str(raised.value)


def test_all_mistakes_of_a_file_are_said_at_once_up_to_twenty(tmp_path: Path) -> None:
    path = written(tmp_path, "".join('{"text": "x", "agents": ["vnp"]}\n' for _ in range(25)), "r.jsonl")
    with pytest.raises(InputError) as raised:
        read_route_tests(path, AGENTS)
    lines = str(raised.value).splitlines()
    assert (lines[0], lines[-1].strip(), len(lines)) == (
        "25 mistakes in the labelled messages:",
        "... and 5 more",
        22,
    )


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_route_tests(tmp_path / "nowhere.yaml", AGENTS)


# --- reports ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drawn", [True, False])
async def test_a_report_is_whole_in_one_file_with_plots_and_without(tmp_path: Path, drawn: bool) -> None:
    result = {**await measure(TESTS, CARDS, {"planned": Planned(PLAN)}), "file": "routes.yaml"}
    names = [path.name for path in write_report(result, tmp_path / "new" / "out", drawn=drawn)]
    folder = tmp_path / "new" / "out"
    page, text = (folder / "routes.html").read_text(), (folder / "routes.md").read_text()
    assert json.loads((folder / "routes.json").read_text()) == json.loads(json.dumps(result))
    pictures = ["routes-figures.png", "routes-calibration.png", "routes-scope.png"] if drawn else []
    assert names == ["routes.html", "routes.md", "routes.json", *pictures]
    assert page.count("data:image/png;base64,") == len(pictures)
    assert ("matplotlib is not installed" in page) is ("matplotlib is not installed" in text) is not drawn
    assert "http" not in page, "nothing is fetched"
    assert all(f"]({name})" in text for name in pictures)
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in pictures)


def test_what_a_message_says_is_text_in_a_report() -> None:
    table = Table(("message", "n"), (("<script>alert(1)</script> | *x*\n# y", "1"),), ("n",))
    page = Page("<b>", "", [Section("s", "", (table,))])
    assert "<script" not in to_html(page)
    assert "&lt;script&gt;" in to_html(page)
    row = to_markdown(page).splitlines()[-1]
    assert row == r"| \<script\>alert(1)\</script\> \| \*x\* \# y | 1 |"


async def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    result = {**await measure(TESTS[:1], CARDS, {"planned": Planned(PLAN)}), "file": "routes.yaml"}
    with pytest.raises(InputError, match="another --out"):
        write_report(result, written(tmp_path, "a file") / "below", drawn=False)


# --- replay -----------------------------------------------------------------------------------------------------------


def decided(step: str, *agents: str, mode: Mode = Mode.SOLO, pool: tuple[str, ...] = AGENTS) -> RouteDecided:
    decision = RoutingDecision(
        mode=mode,
        chosen=tuple(Chosen(agent=a, score=1.0) for a in agents),
        reason="recorded",
        candidates=tuple(Candidate(agent=a, score=0.0, chosen=a in agents, reason="") for a in pool),
        confidence=0.8,
        router="semantic",
    )
    return RouteDecided(run_id="run-1", step=step, stage=step.partition(".")[0], decision=decision)


def replied(agent: str, said: str) -> AgentReplied:
    sentence = CitedSentence(text=said, items=("m1",))
    reply = AgentReply(
        call_id=f"run-1/route.r1/{agent}/1", agent=agent, status=ReplyStatus.ANSWERED, text=said, sentences=(sentence,)
    )
    return AgentReplied(run_id="run-1", agent=agent, reply=reply)


STARTED = RunStarted(run_id="run-1", task=Task(text="b"), graph="default", agents=AGENTS, version="0")


def test_a_decision_is_made_again_with_what_was_known_then() -> None:
    asked = Question(id="q1", kind=QuestionKind.CLARIFY, text="Which?", options=("billing", "vpn"))
    events: list[Event] = [
        STARTED,
        decided("route.r1", mode=Mode.CLARIFY),
        PersonAsked(run_id="run-1", question=asked),
        PersonAnswered(run_id="run-1", question_id="q1", answer="the bill"),
        decided("route.r1", "billing"),
        replied("billing", "The bill is from Merrin."),
        decided("check.r2", "vpn", pool=("vpn", "former")),
    ]
    first, second, third = recorded_decisions(events, {card.id: card for card in CARDS}, max_agents=2)
    assert first.request.task.clarifications == ()
    (said,) = second.request.task.clarifications
    assert (said.question, said.options, said.answer) == ("Which?", ("billing", "vpn"), "the bill")
    assert (second.request.tried, second.request.known, second.request.round) == ((), (), 1)
    assert (third.request.tried, third.request.known) == (("billing",), ("The bill is from Merrin.",))
    assert (third.request.stage, third.request.round, third.request.max_agents) == ("check", 2, 2)
    assert ([card.id for card in third.request.cards], third.gone) == (["vpn"], ("former",))


async def test_a_replay_says_what_would_have_been_different() -> None:
    events: list[Event] = [STARTED, decided("route.r1", "billing", "vpn", mode=Mode.PARALLEL)]
    recorded = recorded_decisions(events, {card.id: card for card in CARDS})
    (row,) = await replay(recorded, Planned(PLAN, "other"))
    assert (row["added"], row["removed"], row["same"], row["error"]) == (["network"], ["billing"], False, None)
    assert row["before"] == {
        "router": "semantic",
        "mode": "parallel",
        "agents": ["billing", "vpn"],
        "confidence": 0.8,
    }
    assert (row["after"]["router"], row["after"]["agents"], row["after"]["confidence"]) == (
        "other",
        ["vpn", "network"],
        0.5,
    )
    total = summed_up([row])
    assert (total["decisions"], total["same"], total["agents_differ"], total["mode_differs"]) == (1, 0, 1, 0)
    assert total["tokens"] == 100


async def test_the_same_agents_in_another_order_are_the_same_decision() -> None:
    events: list[Event] = [STARTED, decided("route.r1", "network", "vpn", mode=Mode.PARALLEL)]
    (row,) = await replay(recorded_decisions(events, {c.id: c for c in CARDS}), Planned(PLAN))
    assert row["same"] is True


async def test_a_replay_goes_on_where_all_agents_are_gone_or_the_router_fails() -> None:
    events: list[Event] = [STARTED, decided("route.r1", "former", pool=("former",)), decided("route.r2", "vpn")]
    recorded = recorded_decisions(events, {card.id: card for card in CARDS})
    gone, failed = await replay(recorded, Broken("mesh", RoutingError("away")))
    assert gone["error"] == "none of its agents is in the project any more"
    assert (failed["error"], failed["same"], failed["removed"]) == ("away", False, [])
    assert summed_up([gone, failed])["failed"] == 2
