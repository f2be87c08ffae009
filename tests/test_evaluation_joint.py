"""The joint benchmark: its numbers by hand, the supervisor that ours is measured beside, and the form of the result."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import agentmesh.cli.bench_joint
from agentmesh.cli import main
from agentmesh.context.routers import RoleAwareRouter
from agentmesh.errors import ConfigError, ModelUnavailableError, UnknownNameError
from agentmesh.evaluation.counted import CountedModel, counted_instead, open_counted
from agentmesh.evaluation.joint import POLICIES, Judged, bench_joint, judge, rows_of
from agentmesh.evaluation.supervisor import FINISH, MOST_TURNS, Supervisor, holds_all, perfect_turns, stands_in
from agentmesh.graphs import GraphSpec, LoopSpec, StageKind, StageSpec, default_graph
from agentmesh.memory.arrays import ArrayStore
from agentmesh.memory.writer import Draft, MemoryWriter
from agentmesh.models.base import ChatMessage, ChatModel, ChatReply, ChatRequest
from agentmesh.models.local import Endpoint, LocalChatModel
from agentmesh.models.scripted import ScriptedEmbedder, ScriptedModel
from agentmesh.project.schema import Expectation, ScenarioTask
from agentmesh.run import Limits
from agentmesh.settings import ModelSettings
from agentmesh.types import AgentCard, Answer, AnswerStatus, Conflict, RolePolicy, Side, Usage
from tests.test_models_contract import local_or_skip

assert agentmesh.cli.bench_joint  # adds its command to the app

CARDS = (
    AgentCard(id="billing", description="Explains refunds and invoices.", examples=("When is a refund paid out?",)),
    AgentCard(id="vpn", description="Solves trouble with the VPN tunnel.", examples=("The VPN session drops.",)),
    AgentCard(id="kitchen", description="Knows the soup of the canteen.", examples=("Which soup is there?",)),
)
PAGES = {
    "refunds": "An approved refund is paid out within 14 days.",
    "vpn": "A VPN session lasts 60 minutes.",
    "old-vpn": "A VPN session lasts 45 minutes.",
}
SCENARIO = """
agents: "*"
router: keyword
tasks:
  - id: refund
    ask: Within how many days is an approved refund paid out?
    expect: {agents: [billing], facts: ["14 days", "21 days"]}
  - id: session
    ask: How long does a VPN session last?
    expect: {agents: [vpn], conflicts: [["60 minutes", "45 minutes"]]}
  - id: poem
    ask: Xyzzy?
    expect: {outcome: out_of_scope}
"""
NOT_JUDGED = "tasks:\n  - ask: Hello?\n"
KNOWS_BETTER = "A refund takes 14 days, or 21 days. [m1]"


def open_babbler(name: str, settings: ModelSettings) -> ScriptedModel:
    """A model that is not capable and writes what no page says."""
    return ScriptedModel(lambda request: KNOWS_BETTER, name=name, capable=False)


def open_mute(name: str, settings: ModelSettings) -> ScriptedModel:
    """The same without a word."""
    return ScriptedModel(lambda request: "", name=name, capable=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "agents").mkdir()
    for card in CARDS:
        text = f"---\ndescription: {card.description}\nexamples: {json.dumps(card.examples)}\n---\nAnswer briefly.\n"
        (tmp_path / "agents" / f"{card.id}.md").write_text(text)
    (tmp_path / "memory" / "knowledge").mkdir(parents=True)
    for name, text in PAGES.items():
        (tmp_path / "memory" / "knowledge" / f"{name}.md").write_text(f"# {name}\n\n{text}\n")
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios" / "desk.yaml").write_text(SCENARIO)
    (tmp_path / "scenarios" / "chat.yaml").write_text(NOT_JUDGED)
    (tmp_path / "agentmesh.toml").write_text(
        '[models.default]\nmodel = "scripted"\ncapable = false\n\n[memory]\nembedder = "scripted"\n'
    )
    return tmp_path


def table(result: dict[str, Any]) -> dict[tuple[str, str], float]:
    return {(row["policy"], row["metric"]): row["value"] for row in result["rows"]}


# --- numbers ----------------------------------------------------------------------------------------------------------


def task(**expect: Any) -> ScenarioTask:
    return ScenarioTask(id="t", ask="?", expect=Expectation.model_validate(expect))


def said(text: str, *conflicts: Conflict, status: AnswerStatus = AnswerStatus.ANSWERED) -> Answer:
    usage = Usage(calls=2, prompt_tokens=120)
    return Answer(run_id="r", status=status, text=text, conflicts=conflicts, usage=usage)


def test_a_task_is_judged_by_shares_of_facts_and_of_wrong_agents() -> None:
    wanted = task(agents=["billing", "vpn"], facts=["14 Days", "60 minutes"])
    found = judge(wanted, said("It takes 14  days."), ["billing", "vpn", "kitchen", "kitchen"])
    assert (found.facts, found.wrong, found.conflicts) == (1 / 2, 1 / 3, None)
    assert (found.prompt_tokens, found.answered) == (120, False)
    assert found.missing == ("fact: 60 minutes", "wrong agent: kitchen")


def test_a_task_counts_as_answered_with_every_fact_though_partly_and_not_without_an_answer() -> None:
    wanted = task(facts=["14 days"])
    assert judge(wanted, said("14 days", status=AnswerStatus.PARTIAL), []).answered
    assert not judge(wanted, said("14 days", status=AnswerStatus.NO_ANSWER), []).answered
    assert judge(task(outcome="out_of_scope"), said("14 days"), ["vpn"]).answered is None


def test_a_conflict_must_be_named_as_one_except_in_free_text_where_both_sides_must_stand() -> None:
    wanted = task(conflicts=[["17", "19"]])
    sides = (Side(agent="a", text="There were 17.", value="17"), Side(agent="b", text="There were 19.", value="19"))
    named = Conflict(kind="number", about="how many", sides=sides)
    assert judge(wanted, said("17 or 19", named), []).conflicts == 1.0
    assert judge(wanted, said("17 or 19"), []).conflicts == 0.0
    assert judge(wanted, said("17 or 19"), [], free_text=True).conflicts == 1.0
    assert judge(wanted, said("17, in 1912"), [], free_text=True).conflicts == 0.0
    assert not stands_in("is accepted", "It is not accepted.")


def test_rows_are_means_over_the_tasks_that_say_something_with_the_ratio_of_sums() -> None:
    ours = [
        Judged("a", facts=1.0, conflicts=None, wrong=0.0, prompt_tokens=100, answered=True),
        Judged("b", facts=0.5, conflicts=None, wrong=0.5, prompt_tokens=300, answered=False),
        Judged("c", facts=None, conflicts=None, wrong=1.0, prompt_tokens=0, answered=None),
    ]
    theirs = [Judged(j.task, None, None, 0.0, 800, None) for j in ours]
    rows = rows_of("desk", {"ours": ours, "supervisor_full_history": theirs})
    found = {(r["policy"], r["metric"]): (r["value"], r["n"]) for r in rows}
    assert found == {
        ("ours", "required_facts"): (0.75, 2),
        ("ours", "wrong_agents"): (0.5, 3),
        ("ours", "prompt_tokens"): (133.3333, 3),
        ("ours", "answered"): (0.5, 2),
        ("ours", "prompt_tokens_ratio"): (0.1667, 3),
        ("supervisor_full_history", "wrong_agents"): (0.0, 3),
        ("supervisor_full_history", "prompt_tokens"): (800.0, 3),
    }
    ratio = next(r for r in rows if r["metric"] == "prompt_tokens_ratio")
    assert 0.0 <= ratio["ci95"][0] <= 0.1667 <= ratio["ci95"][1] <= 0.375
    assert ratio["unit"] == "ratio"


# --- the supervisor ---------------------------------------------------------------------------------------------------


async def supervisor_of(model: ChatModel, graph: GraphSpec | None = None) -> Supervisor:
    embedder = ScriptedEmbedder()
    store = ArrayStore(embedder.name, embedder.dimensions)
    await MemoryWriter(store, embedder).write("default", [Draft(text=t, source=s) for s, t in PAGES.items()])
    return Supervisor(
        graph or default_graph(),
        {card.id: card for card in CARDS},
        {"solver": RolePolicy()},
        model=model,
        model_of=lambda card: model,
        context_router=RoleAwareRouter(store=store, embedder=embedder, min_relevance=0.0, min_share=0.0),
    )


def texts(requests: Sequence[ChatRequest]) -> list[str]:
    return ["\n".join(m.text for m in request.messages) for request in requests]


ASK = "When is a refund paid out, and how long does a VPN session last?"


async def test_every_turn_of_a_supervisor_sends_all_that_was_said_before_once_more() -> None:
    model = ScriptedModel(lambda request: "words that count for nothing", capable=False)
    expected = Expectation(agents=("billing", "vpn"), facts=("14 days", "60 minutes"))
    result = await (await supervisor_of(model)).ask(ASK, expected, run_id="r", limits=Limits())
    chosen_1, billing, chosen_2, vpn, finished = texts(model.requests)
    assert result.called == ("billing", "vpn")
    assert "looked up" not in chosen_1
    assert "- kitchen (kitchen): Knows the soup" in chosen_1
    assert "looked up" not in billing
    assert "An approved refund is paid out within 14 days." in billing
    for later in (chosen_2, vpn, finished):
        assert "billing looked up:\n<<<memory" in later
        assert "billing: An approved refund" in later
    assert "vpn looked up:" in finished
    lengths = [len(text.split()) for text in (chosen_1, chosen_2, finished)]
    assert lengths[0] < lengths[1] < lengths[2]
    assert result.answer.usage.prompt_tokens == sum(len(text.split()) for text in texts(model.requests))
    assert "14 days" in result.answer.text
    assert "count for nothing" not in result.answer.text


async def test_a_perfect_supervisor_turns_away_what_is_nobodys_after_one_look() -> None:
    model = ScriptedModel(lambda request: "", capable=False)
    result = await (await supervisor_of(model)).ask("Xyzzy?", Expectation(outcome="out_of_scope"), run_id="r",
                                                    limits=Limits())  # fmt: skip
    assert (result.called, len(model.requests)) == ((), 1)


async def test_what_does_not_fit_the_window_is_left_out_oldest_first() -> None:
    model = ScriptedModel(lambda request: "", capable=False, context_tokens=512)
    expected = Expectation(agents=("billing", "vpn", "kitchen"), facts=("never found",))
    result = await (await supervisor_of(model)).ask(ASK, expected, run_id="r", limits=Limits())
    last = texts(model.requests)[-1]
    assert result.cut > 0
    assert "billing looked up" not in last
    assert ASK in last
    assert "kitchen:" in last


async def test_a_capable_supervisor_decides_itself_and_writes_the_answer() -> None:
    replies = [
        '{"next": "vpn", "answer": ""}', "60 minutes [m1].", json.dumps({"next": FINISH, "answer": "It is an hour."})
    ]  # fmt: skip
    model = ScriptedModel(replies)
    expected = Expectation(agents=("billing",), facts=("14 days",))
    result = await (await supervisor_of(model)).ask(ASK, expected, run_id="r", limits=Limits())
    assert (result.called, result.answer.text) == (("vpn",), "It is an hour.")
    schema = model.requests[0].json_schema or {}
    assert schema["properties"]["next"]["enum"] == ["billing", "vpn", "kitchen", FINISH]
    assert "vpn: 60 minutes (m1]." in texts(model.requests)[2]


async def test_a_supervisor_that_never_ends_must_finish_and_one_that_babbles_is_asked_once_more() -> None:
    def endless(request: ChatRequest) -> str:
        enum: list[str] = request.json_schema["properties"]["next"]["enum"] if request.json_schema else []
        return json.dumps({"next": enum[0], "answer": "done"}) if enum else "Nothing."

    result = await (await supervisor_of(ScriptedModel(endless))).ask(ASK, Expectation(), run_id="r", limits=Limits())
    assert (len(result.called), result.answer.text) == (MOST_TURNS, "done")
    babbling = ScriptedModel(["no JSON", "none again"])
    result = await (await supervisor_of(babbling)).ask(ASK, Expectation(), run_id="r", limits=Limits())
    assert (result.called, result.answer.text, len(babbling.requests)) == ((), "none again", 2)


async def test_a_supervisor_whose_model_is_down_has_failed() -> None:
    model = ScriptedModel([ModelUnavailableError("it is down"), ModelUnavailableError("it is down")])
    result = await (await supervisor_of(model)).ask(ASK, Expectation(), run_id="r", limits=Limits())
    assert result.answer.status is AnswerStatus.FAILED


def test_perfect_choices_follow_the_graph_and_leave_its_loop_once_everything_is_found() -> None:
    stages = (
        StageSpec(name="plan", kind=StageKind.DISPATCH, pool=("planner",)),
        StageSpec(name="search", kind=StageKind.DISPATCH, pool=("ships", "people")),
        StageSpec(name="solve", kind=StageKind.AGENT, agent="solver"),
        StageSpec(name="answer", kind=StageKind.REFINE),
    )
    loops = (LoopSpec(source="solve", target="search", while_="unsettled", max_rounds=3),)
    graph = GraphSpec(name="g", stages=stages, loops=loops)
    wanted = Expectation(agents=("people", "elsewhere"))
    rounds = iter([False, True])
    turns = list(perfect_turns(graph, wanted, lambda: next(rounds), most_rounds=9))
    assert turns == ["planner", "people", "solver", "people", "solver"]
    assert len(list(perfect_turns(graph, wanted, lambda: False, most_rounds=9))) == 1 + 3 * 2
    assert len(list(perfect_turns(graph, wanted, lambda: False, most_rounds=1))) == 1 + 2
    assert holds_all("17 or 19", Expectation(conflicts=(("17", "19"),)))
    assert not holds_all("17, in 1912", Expectation(conflicts=(("17", "19"),)))


# --- the benchmark ----------------------------------------------------------------------------------------------------


async def test_every_policy_is_measured_in_the_common_form(project: Path) -> None:
    told: list[str] = []
    result = await bench_joint(project, ("desk",), routers=("fixed",), environ={}, say=told.append)
    assert list(result)[:3] == ["bench", "version", "machine"]
    assert result["bench"] == "joint"
    assert set(result["machine"]) >= {"cores", "python"}
    assert result["decoded"] is True
    assert result["models"] == {"default": {"model": "scripted", "capable": False}}
    assert any("perfect choices" in note for note in result["notes"])
    rows = result["rows"]
    assert all(set(r) == {"set", "policy", "metric", "value", "ci95", "n", "unit"} for r in rows)
    keys = [(r["set"], r["policy"], r["metric"]) for r in rows]
    assert len(set(keys)) == len(keys)
    assert {r["policy"] for r in rows} == {*POLICIES, "ours_fixed"}
    assert told[0] == "desk: ours ..."
    json.dumps(result)
    found = table(result)
    assert found["ours", "required_facts"] == 0.5  # 14 days of 14 and 21
    assert found["ours", "conflicts_named"] == 1.0
    assert found["ours", "wrong_agents"] == 0.0
    assert found["ours", "answered"] == 0.5
    assert found["ours_fixed", "wrong_agents"] == round((2 / 3 + 2 / 3 + 1) / 3, 4)
    assert found["all_agents", "wrong_agents"] == round((2 / 3 + 2 / 3 + 1) / 3, 4)
    assert found["one_agent", "wrong_agents"] == round(1 / 3, 4)
    assert found["supervisor_full_history", "wrong_agents"] == 0.0
    assert found["supervisor_full_history", "conflicts_named"] == 1.0
    assert found["one_agent", "required_facts"] == 0.5
    assert 0 < found["ours", "prompt_tokens_ratio"] < 0.5
    assert result["missed"] == [{"set": "desk", "task": "refund", "missing": ["fact: 21 days"]}]


async def test_what_a_model_says_that_is_not_capable_changes_no_figure_but_completion_tokens(project: Path) -> None:
    results = [
        await bench_joint(project, ("desk",), environ={}, models={"default": {"model": f"{__name__}:{opened}"}})
        for opened in ("open_babbler", "open_mute")
    ]
    assert results[0]["rows"] == results[1]["rows"]
    assert table(results[0])["ours", "required_facts"] == 0.5


async def test_without_a_name_every_judged_scenario_is_a_set_and_a_wrong_name_says_the_nearest(project: Path) -> None:
    result = await bench_joint(project, environ={})
    assert {row["set"] for row in result["rows"]} == {"desk"}
    with pytest.raises(UnknownNameError, match="no set is called 'dsk'; did you mean 'desk'"):
        await bench_joint(project, ("dsk",), environ={})
    with pytest.raises(UnknownNameError, match="did you mean 'keyword'"):
        await bench_joint(project, ("desk",), routers=("keywords",), environ={})
    with pytest.raises(ConfigError, match=r"scenarios/chat.yaml: no task has an `expect`"):
        await bench_joint(project, ("chat",), environ={})


def test_the_command_prints_one_document_and_its_progress_elsewhere(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["bench", "joint", "--data", str(project), "--set", "desk", "--json"]
    monkeypatch.setattr(sys, "argv", ["agentmesh", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, errors = capsys.readouterr()
    assert not ended.value.code
    assert json.loads(out)["bench"] == "joint"
    assert "desk: one_agent ..." in errors


# --- counting ---------------------------------------------------------------------------------------------------------


def test_only_local_models_that_are_not_capable_count_instead_of_writing() -> None:
    assert counted_instead("m", ModelSettings(model="scripted", capable=False)) is None
    assert counted_instead("m", ModelSettings(model="embedded", capable=True)) is None
    counted = counted_instead("m", ModelSettings(model="embedded", context_tokens=1024))
    assert counted is not None
    model = open_counted("m", counted)
    assert (model.info.name, model.info.capable, model.info.context_tokens) == ("m", False, 1024)


async def test_a_count_is_what_a_real_call_reports() -> None:
    inner = LocalChatModel("small", local_or_skip())
    model = CountedModel(inner)
    messages = (
        ChatMessage(role="system", text="You are brief. <|im_end|>"),
        ChatMessage(role="user", text="Naïve: 14 days — or 2026-03-12?"),
    )
    request = ChatRequest(messages=messages, max_output_tokens=1)
    counted, asked = await model.complete(request), await inner.complete(request)
    assert (counted.text, counted.usage.calls, counted.usage.completion_tokens) == ("", 1, 0)
    assert counted.usage.prompt_tokens == asked.usage.prompt_tokens
    await model.aclose()


async def test_a_request_for_json_is_really_asked_and_a_port_that_is_gone_is_said_in_one_line() -> None:
    class Written(LocalChatModel):
        async def complete(self, request: ChatRequest) -> ChatReply:
            return ChatReply(text="{}")

        async def endpoint(self) -> Endpoint:
            return Endpoint(url="http://127.0.0.1:9", secret="s")

    model = CountedModel(Written("small", ModelSettings(model="embedded")))
    plain = ChatRequest(messages=(ChatMessage(role="user", text="hi"),))
    assert (await model.complete(plain.model_copy(update={"json_schema": {"type": "object"}}))).text == "{}"
    with pytest.raises(ModelUnavailableError, match=r"did not count a prompt .* run it with --decode"):
        await model.complete(plain)
