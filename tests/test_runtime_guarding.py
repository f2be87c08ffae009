"""Guardrails in whole runs: the question, the answer, what is remembered, and what a person decides."""

from pathlib import Path
from typing import Any

import pytest

from agentmesh import AgentCard, AgentGraph, Mesh, build_mesh
from agentmesh.agents.function import FunctionAgent
from agentmesh.errors import InputError
from agentmesh.guardrails import Action, FunctionGuardrail, Verdict
from agentmesh.memory.arrays import ArrayStore
from agentmesh.models.scripted import ScriptedEmbedder
from agentmesh.routing.baselines import FixedRouter
from agentmesh.trace.events import GuardrailTripped, RunStarted
from agentmesh.trace.sinks import ListSink
from agentmesh.types import AgentCall, AnswerStatus, ContextPack, QuestionKind, Task
from tests.test_runtime_people import BILLING, VPN, Desk, Torn, asking

CARD = AgentCard(id="desk", description="Answers anything.")


def secret_word(text: str) -> Verdict:
    """Takes `zebra` out."""
    if "zebra" not in text:
        return Verdict()
    return Verdict(action=Action.REDACT, reason="names an animal", text=text.replace("zebra", "[animal]"))


def strict(text: str) -> bool:
    """Lets only a short word pass."""
    return len(text) < 5


def decent(text: str) -> bool:
    """Lets nothing pass that holds `forbidden`."""
    return "forbidden" not in text


class Seen:
    """An agent that repeats what it was asked, and keeps the calls."""

    def __init__(self, says: str = "") -> None:
        self.calls: list[AgentCall] = []
        self.says = says

    async def answer(self, call: AgentCall, pack: ContextPack) -> str:
        self.calls.append(call)
        return self.says or f"You said: {call.task.text}"


def guarded(
    seen: Seen, function: Any, where: str, action: str, *, home: Path | None = None, **more: Any
) -> tuple[Mesh, ListSink]:
    sink = ListSink()
    by = {} if action == "redact" else {"action": action}  # a verdict that redacts says so itself
    guard = FunctionGuardrail(function, name="rule", where=where, **by)
    mesh = build_mesh(
        [FunctionAgent(CARD, seen.answer)],
        router=FixedRouter(),
        embedder=ScriptedEmbedder(),
        guardrails=[guard],
        sink=None if home else sink,
        home=home,
        **more,
    )
    return mesh, sink


def trips(sink: ListSink) -> list[tuple[str, str]]:
    return [(e.where, e.action) for e in sink.events if isinstance(e, GuardrailTripped)]


async def test_a_blocked_question_reaches_no_agent_and_is_not_kept() -> None:
    seen = Seen()
    mesh, sink = guarded(seen, decent, "input", "block")
    async with mesh:
        answer = await mesh.ask("Something forbidden, please.", thread="t")
        assert answer.status is AnswerStatus.BLOCKED
        fine = await mesh.ask("Something nice, please.", thread="t")
    assert fine.status is AnswerStatus.ANSWERED
    assert [c.task.text for c in seen.calls] == ["Something nice, please."]
    assert seen.calls[0].task.history == ()
    assert "forbidden" not in repr(sink.events)
    assert [e.type for e in sink.events][:3] == ["run_started", "guardrail_tripped", "run_finished"]


async def test_a_redacted_question_is_redacted_for_everybody_and_in_the_trace() -> None:
    seen = Seen()
    mesh, sink = guarded(seen, secret_word, "input", "redact")
    async with mesh:
        answer = await mesh.ask("Where is my zebra?")
    assert answer.text == "You said: Where is my [animal]?"
    assert isinstance(sink.events[0], RunStarted)
    assert "zebra" not in repr(sink.events)


async def test_a_flagged_question_goes_on_and_the_trace_says_so() -> None:
    seen = Seen()
    mesh, sink = guarded(seen, decent, "input", "flag")
    async with mesh:
        answer = await mesh.ask("Something forbidden, please.")
    assert answer.status is AnswerStatus.ANSWERED
    assert trips(sink) == [("input", "flag")]


@pytest.mark.parametrize(("word", "status", "calls"), [("yes", "answered", 1), ("no", "blocked", 0)])
async def test_a_person_lets_a_question_go_on_or_not(word: str, status: str, calls: int, tmp_path: Path) -> None:
    seen = Seen()
    mesh, _ = guarded(seen, decent, "input", "ask", home=tmp_path)
    async with mesh:
        first = await mesh.ask("Something forbidden, please.")
    assert first.status is AnswerStatus.NEEDS_APPROVAL
    assert first.waiting[0].kind is QuestionKind.GUARDRAIL
    mesh, _ = guarded(seen, decent, "input", "ask", home=tmp_path)
    async with mesh:
        with pytest.raises(InputError, match="neither yes nor no"):
            await mesh.resume(first.run_id, "perhaps")
        last = await mesh.resume(first.run_id, word)
    assert last.status.value == status
    assert len(seen.calls) == calls


async def test_a_blocked_answer_is_not_shown_anywhere_in_it() -> None:
    mesh, sink = guarded(Seen("That is forbidden knowledge."), decent, "output", "block")
    async with mesh:
        answer = await mesh.ask("Tell me.")
    assert answer.status is AnswerStatus.BLOCKED
    assert "forbidden knowledge" not in repr(answer)
    assert trips(sink) == [("output", "block")]


async def test_a_redacted_answer_is_redacted_in_its_replies_and_in_the_conversation() -> None:
    seen = Seen("A zebra lives there.")
    mesh, _ = guarded(seen, secret_word, "output", "redact")
    async with mesh:
        answer = await mesh.ask("Who lives there?", thread="t")
        await mesh.ask("And then?", thread="t")
    assert answer.text == "A [animal] lives there."
    assert [r.text for r in answer.replies] == ["A [animal] lives there."]
    assert "zebra" not in repr(answer)
    assert seen.calls[1].task.history[1].text == "A [animal] lives there."


@pytest.mark.parametrize(("word", "status"), [("yes", "answered"), ("no", "blocked")])
async def test_a_person_lets_an_answer_out_or_not(word: str, status: str) -> None:
    mesh, _ = guarded(Seen("That is forbidden knowledge."), decent, "output", "ask")
    async with mesh:
        first = await mesh.ask("Tell me.")
        assert first.status is AnswerStatus.NEEDS_APPROVAL
        assert first.waiting[0].about == {"text": "That is forbidden knowledge."}
        assert "forbidden" not in first.text
        assert not first.replies
        last = await mesh.resume(first.run_id, word)
    assert last.status.value == status
    assert ("forbidden knowledge" in repr(last)) is (word == "yes")


async def test_what_may_not_be_remembered_is_not() -> None:
    embedder = ScriptedEmbedder()
    store = ArrayStore(embedder.name, embedder.dimensions)
    mesh, sink = guarded(Seen("That is forbidden knowledge."), decent, "memory", "block", store=store)
    async with mesh:
        answer = await mesh.ask("Tell me.", thread="t")
        await mesh.flush()
        kept = [item.text for item in await store.list("default")]
    assert answer.text == "That is forbidden knowledge."
    assert kept
    assert not [text for text in kept if "forbidden" in text]
    assert ("memory", "block") in trips(sink)


async def test_a_guardrail_that_raises_blocks_and_says_so() -> None:
    def broken(text: str) -> bool:
        raise RuntimeError("no dictionary")

    mesh, sink = guarded(Seen(), broken, "input", "flag")
    async with mesh:
        answer = await mesh.ask("Hello there.")
    assert answer.status is AnswerStatus.BLOCKED
    assert "'rule' could not check the text: it raised RuntimeError" in answer.text
    assert trips(sink) == [("input", "block")]


async def test_a_graph_in_somebodys_hands_is_guarded_too() -> None:
    seen = Seen()
    mesh, _ = guarded(seen, decent, "input", "block")
    graph = AgentGraph("own").stage("a", agent="desk").refine("end", after="a")
    async with mesh:
        app = graph.compile(mesh)
        state = await app.ainvoke({"task": Task(text="Something forbidden, please.")})  # pyright: ignore
        assert state["answer"].status is AnswerStatus.BLOCKED
        state = await app.ainvoke({"task": Task(text="Something nice, please.")})  # pyright: ignore
    assert state["answer"].status is AnswerStatus.ANSWERED
    assert len(seen.calls) == 1


async def test_an_answer_to_a_question_back_is_guarded_too() -> None:
    mesh = build_mesh(
        [FunctionAgent(VPN, Desk().answer)], router=Torn(), embedder=ScriptedEmbedder(), guardrails=[decent]
    )
    async with mesh:
        first = await mesh.ask("It is broken.")
        with pytest.raises(InputError, match=r"the answer was not taken .* the run still waits"):
            await mesh.resume(first.run_id, "the forbidden vpn")
        assert await mesh.waiting(first.run_id) == first.waiting
        assert (await mesh.resume(first.run_id, "the vpn")).status is AnswerStatus.ANSWERED


async def test_a_question_that_a_person_turned_away_is_not_kept() -> None:
    mesh, _ = guarded(Seen(), decent, "input", "ask")
    async with mesh:
        first = await mesh.ask("Say the forbidden thing.", thread="t")
        assert (await mesh.resume(first.run_id, "no")).status is AnswerStatus.BLOCKED
        services = await mesh._open()  # pyright: ignore[reportPrivateUsage]
        assert await services.threads.history("default", "t") == ()
        assert await services.store.list("default") == []


@pytest.mark.parametrize(
    ("function", "action", "thread", "kept"),
    [
        (decent, "block", None, []),
        (decent, "block", "t", []),
        (decent, "ask", None, []),
        (decent, "ask", "t", []),
        (secret_word, "redact", None, []),
        (secret_word, "redact", "t", ["a forbidden [animal]"]),
    ],
)
async def test_what_did_not_get_out_is_not_remembered_as_said(
    function: Any, action: str, thread: str | None, kept: list[str]
) -> None:
    mesh, _ = guarded(Seen("a forbidden zebra"), function, "output", action)
    graph = AgentGraph("g").stage("first", agent="desk").stage("second", agent="desk", after="first")
    async with mesh:
        answer = await mesh.ask("Hello!", graph=graph.refine("end", after="second"), thread=thread)
        if answer.waiting:
            await mesh.resume(answer.run_id, "no", graph=graph)
        services = await mesh._open()  # pyright: ignore[reportPrivateUsage]
        said = [item.text for item in await services.store.list("default") if item.source == "answer of desk"]
    assert sorted({*said}) == kept


async def test_a_question_a_clarification_an_approval_and_an_answer_are_asked_about_in_one_run(tmp_path: Path) -> None:
    desk = Desk()
    agents = [FunctionAgent(asking(card), desk.answer) for card in (BILLING, VPN)]
    guards = [FunctionGuardrail(strict, name="look", where=where, action="ask") for where in ("input", "output")]
    router, embedder = Torn(), ScriptedEmbedder()
    async with build_mesh(agents, router=router, embedder=embedder, guardrails=guards, home=tmp_path) as mesh:
        answer = await mesh.ask("It is broken.", thread="t")
        asked: list[str] = []
        for said in ("yes", "vpn", "yes", "yes"):
            asked += [question.kind.value for question in answer.waiting]
            answer = await mesh.resume(answer.run_id, said)
        services = await mesh._open()  # pyright: ignore[reportPrivateUsage]
        turns = [turn.text for turn in await services.threads.history("default", "t")]
    assert asked == ["guardrail", "clarify", "approval", "guardrail"]
    assert len(desk.calls) == 1
    assert turns == ["It is broken.", "Which of the two is it?", "vpn", answer.text]
