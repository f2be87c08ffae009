"""Runs that stop to ask a person, and go on with the answer: in the same process, and in another."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from agentmesh import AgentCard, AgentGraph, Mesh, build_mesh
from agentmesh.agents.function import FunctionAgent
from agentmesh.errors import InputError
from agentmesh.graphs import START
from agentmesh.models.scripted import ScriptedEmbedder
from agentmesh.routing.base import Router
from agentmesh.run import Limits, RunContext
from agentmesh.runtime.people import answers_to
from agentmesh.runtime.state import RunView
from agentmesh.trace.events import Event
from agentmesh.trace.sinks import ListSink
from agentmesh.types import (
    AgentCall,
    AgentReply,
    AnswerStatus,
    Approval,
    Chosen,
    ContextPack,
    Mode,
    Question,
    QuestionKind,
    ReplyStatus,
    RouteRequest,
    RoutingDecision,
    Task,
)

ROOT = Path(__file__).resolve().parent.parent
BILLING = AgentCard(id="billing", description="Explains invoices and refunds.")
VPN = AgentCard(id="vpn", description="Solves VPN trouble.")


class Torn:
    """Asks back until the user names an agent; then that one works."""

    name = "torn"

    def __init__(self) -> None:
        self.requests: list[RouteRequest] = []

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        self.requests.append(request)
        for card in request.cards:
            if card.id in request.task.full_text:
                chosen = (Chosen(agent=card.id, score=1.0, part=request.task.full_text),)
                return RoutingDecision(mode=Mode.SOLO, chosen=chosen, reason="named", router=self.name)
        ids = tuple(card.id for card in request.cards)
        question = "Which of the two is it?"
        return RoutingDecision(mode=Mode.CLARIFY, reason="torn", router=self.name, question=question, options=ids)


class Everybody:
    """Lets all candidates work."""

    name = "everybody"

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        chosen = tuple(Chosen(agent=card.id, score=1.0) for card in request.cards[: request.max_agents])
        return RoutingDecision(mode=Mode.PARALLEL, chosen=chosen, reason="all", router=self.name)


class Desk:
    """Agents that say what they were asked, and remember every call."""

    def __init__(self) -> None:
        self.calls: list[AgentCall] = []

    async def answer(self, call: AgentCall, pack: ContextPack) -> str:
        self.calls.append(call)
        return f"{call.agent} heard: {call.part or call.task.full_text}"


def mesh_of(
    router: Router,
    desk: Desk,
    *cards: AgentCard,
    home: Path | None = None,
    sink: ListSink | None = None,
) -> Mesh:
    agents = [FunctionAgent(card, desk.answer) for card in cards or (BILLING, VPN)]
    return build_mesh(agents, router=router, embedder=ScriptedEmbedder(), refiner="extractive", home=home, sink=sink)


def types_of(events: Sequence[Event]) -> list[str]:
    return [event.type for event in events]


def always(view: RunView) -> bool:
    return True


def asking(card: AgentCard, approval: Approval = Approval.ALWAYS) -> AgentCard:
    return card.model_copy(update={"approval": approval})


# --- questions back ---------------------------------------------------------------------------------------------------


async def test_a_torn_router_asks_and_the_run_goes_on_with_the_answer() -> None:
    router, desk, sink = Torn(), Desk(), ListSink()
    async with mesh_of(router, desk, sink=sink) as mesh:
        first = await mesh.ask("It is broken.")
        assert first.status is AnswerStatus.CLARIFY
        assert first.question == first.text == "Which of the two is it?"
        assert [q.options for q in first.waiting] == [("billing", "vpn")]
        assert await mesh.waiting(first.run_id) == first.waiting
        answer = await mesh.resume(first.run_id, "the vpn")
    assert answer.status is AnswerStatus.ANSWERED
    assert not answer.waiting
    assert answer.text == "vpn heard: It is broken.\nthe vpn"
    assert [c.answer for c in router.requests[-1].task.clarifications] == ["the vpn"]
    assert types_of(sink.events) == [
        "run_started",
        "stage_entered",
        "route_decided",
        "person_asked",
        "run_waiting",
        "run_resumed",
        "person_answered",
        "route_decided",
        "context_selected",
        "agent_started",
        "agent_replied",
        "stage_entered",
        "answer_refined",
        "run_finished",
    ]
    assert [e.seq for e in sink.events] == list(range(1, 15))


async def test_an_answer_that_makes_no_sense_is_asked_again_and_then_stands_as_a_question() -> None:
    router, desk = Torn(), Desk()
    async with mesh_of(router, desk) as mesh:
        first = await mesh.ask("It is broken.")
        second = await mesh.resume(first.run_id, "purple elephants")
        assert second.status is AnswerStatus.CLARIFY
        assert second.waiting[0].id != first.waiting[0].id
        last = await mesh.resume(first.run_id, "forty-two")
        assert last.status is AnswerStatus.CLARIFY
        assert not last.waiting
        with pytest.raises(InputError, match="no run"):
            await mesh.resume(first.run_id, "vpn")
    assert len(router.requests) == 3
    assert not desk.calls


@pytest.mark.parametrize(("said", "text"), [("  ", "the answer is empty"), (True, "must be text, not bool")])
async def test_an_answer_that_cannot_be_taken_leaves_the_run_waiting(said: str | bool, text: str) -> None:
    async with mesh_of(Torn(), Desk()) as mesh:
        first = await mesh.ask("It is broken.")
        with pytest.raises(InputError, match=text):
            await mesh.resume(first.run_id, said)
        with pytest.raises(InputError, match=r"waits for an answer: Which of the two"):
            await mesh.resume(first.run_id)
        assert (await mesh.resume(first.run_id, "billing")).status is AnswerStatus.ANSWERED


async def test_without_questions_a_torn_run_ends_with_its_question() -> None:
    sink = ListSink()
    async with mesh_of(Torn(), Desk(), sink=sink) as mesh:
        answer = await mesh.ask("It is broken.", limits=Limits(max_questions=0))
    assert answer.status is AnswerStatus.CLARIFY
    assert answer.question == "Which of the two is it?"
    assert not answer.waiting
    assert types_of(sink.events)[-1] == "run_finished"


async def test_what_was_asked_back_stands_in_the_conversation_once() -> None:
    router = Torn()
    async with mesh_of(router, Desk()) as mesh:
        first = await mesh.ask("It is broken.", thread="t")
        await mesh.resume(first.run_id, "the vpn")
        await mesh.ask("And now?", thread="t")
    assert [(m.role, m.text) for m in router.requests[-1].task.history] == [
        ("user", "It is broken."),
        ("assistant", "Which of the two is it?"),
        ("user", "the vpn"),
        ("assistant", "vpn heard: It is broken.\nthe vpn"),
    ]


async def test_a_question_back_in_each_of_two_branches_is_answered_one_after_the_other() -> None:
    router, desk = Torn(), Desk()
    graph = AgentGraph("two").dispatch("left").dispatch("right").edge(START, "left").edge(START, "right")
    graph.refine("end", after=["left", "right"])
    async with mesh_of(router, desk) as mesh:
        first = await mesh.ask("It is broken.", graph=graph)
        assert [q.stage for q in first.waiting] == ["left", "right"]
        second = await mesh.resume(first.run_id, {first.waiting[1].id: "vpn"}, graph=graph)
        assert [q.stage for q in second.waiting] == ["left"]
        last = await mesh.resume(first.run_id, "billing", graph=graph)
    assert [r.stage for r in last.replies if r.ok] == ["left", "right"]
    assert [c.answer for c in router.requests[-1].task.clarifications] == ["billing", "vpn"]


async def test_a_question_back_inside_a_subgraph_and_on_a_path() -> None:
    router, desk = Torn(), Desk()
    inner = AgentGraph("inner").path("solve", layers=[["billing", "vpn"], ["vpn"]])
    graph = AgentGraph("outer").subgraph("deep", inner).refine("end", after="deep")
    async with mesh_of(router, desk) as mesh:
        first = await mesh.ask("It is broken.", graph=graph)
        assert [q.stage for q in first.waiting] == ["deep/solve"]
        last = await mesh.resume(first.run_id, "billing", graph=graph)
        while last.waiting:
            last = await mesh.resume(first.run_id, "vpn", graph=graph)
    assert [c.agent for c in desk.calls] == ["billing", "vpn"]
    assert last.status is AnswerStatus.ANSWERED


# --- approvals --------------------------------------------------------------------------------------------------------


async def test_an_agent_that_needs_a_yes_is_called_after_it() -> None:
    desk = Desk()
    async with mesh_of(Everybody(), desk, asking(BILLING), VPN) as mesh:
        first = await mesh.ask("Refund me and mend the VPN.")
        assert first.status is AnswerStatus.NEEDS_APPROVAL
        assert [c.agent for c in desk.calls] == ["vpn"]
        assert [(q.agent, q.kind) for q in first.waiting] == [("billing", QuestionKind.APPROVAL)]
        last = await mesh.resume(first.run_id, True)
    assert [c.agent for c in desk.calls] == ["vpn", "billing"]
    assert [(r.agent, r.status) for r in last.replies] == [
        ("billing", ReplyStatus.ANSWERED),
        ("vpn", ReplyStatus.ANSWERED),
    ]
    assert last.status is AnswerStatus.ANSWERED


async def test_an_agent_that_gets_a_no_is_not_called_and_the_answer_says_so() -> None:
    desk = Desk()
    async with mesh_of(Everybody(), desk, asking(BILLING), VPN) as mesh:
        first = await mesh.ask("Refund me and mend the VPN.")
        last = await mesh.resume(first.run_id, "no")
    assert [c.agent for c in desk.calls] == ["vpn"]
    assert [r.status for r in last.replies] == [ReplyStatus.REFUSED, ReplyStatus.ANSWERED]
    assert "vpn heard" in last.text
    assert any("did not allow" in c.note for c in last.contributors if c.agent == "billing")


async def test_two_approvals_at_once_are_answered_together_or_one_by_one() -> None:
    for one_by_one in (False, True):
        desk = Desk()
        async with mesh_of(Everybody(), desk, asking(BILLING), asking(VPN)) as mesh:
            answer = await mesh.ask("Do both.")
            assert [q.agent for q in answer.waiting] == ["billing", "vpn"]
            if one_by_one:
                answer = await mesh.resume(answer.run_id, "yes")
                assert [q.agent for q in answer.waiting] == ["vpn"]
                assert not desk.calls
                answer = await mesh.resume(answer.run_id, "no")
                assert [c.agent for c in desk.calls] == ["billing"]
            else:
                answer = await mesh.resume(answer.run_id, {q.id: True for q in answer.waiting})
                assert sorted(c.agent for c in desk.calls) == ["billing", "vpn"]
        assert not answer.waiting


async def test_a_maybe_is_neither_yes_nor_no() -> None:
    async with mesh_of(Everybody(), Desk(), asking(BILLING)) as mesh:
        first = await mesh.ask("Do it.")
        with pytest.raises(InputError, match="'maybe' is neither yes nor no; the run still waits"):
            await mesh.resume(first.run_id, "maybe")
        with pytest.raises(InputError, match=r"did you mean 'route\.r1/billing/1/call'"):
            await mesh.resume(first.run_id, {"route.r1/biling/1/call": True})
        assert (await mesh.resume(first.run_id, "Yes!")).status is AnswerStatus.ANSWERED


async def test_an_agent_stage_waits_for_its_yes_and_keeps_its_round() -> None:
    desk = Desk()
    graph = AgentGraph("g").stage("act", agent="billing").stage("check", agent="vpn", after="act")
    graph.refine("end", after="check")
    async with mesh_of(Everybody(), desk, asking(BILLING), VPN) as mesh:
        first = await mesh.ask("Do it.", graph=graph)
        assert not desk.calls
        last = await mesh.resume(first.run_id, "yes", graph=graph)
    assert [(c.agent, c.step) for c in desk.calls] == [("billing", "act.r1"), ("vpn", "check.r1")]
    assert last.rounds == 1


async def test_an_agent_may_ask_twice_within_one_call() -> None:
    seen: list[dict[str, bool]] = []

    async def careful(call: AgentCall, pack: ContextPack) -> AgentReply:
        seen.append(dict(call.approved))
        for step in ("open", "close"):
            if step not in call.approved:
                return call.reply(ReplyStatus.NEEDS_APPROVAL, pending={"id": step, "text": f"May I {step} it?"})
        return call.reply(ReplyStatus.ANSWERED, text=f"Done: {call.approved}.")

    agents = [FunctionAgent(asking(BILLING, Approval.TOOLS), careful)]
    async with build_mesh(agents, router=Everybody(), embedder=ScriptedEmbedder()) as mesh:
        first = await mesh.ask("Do it.")
        assert first.question == "May I open it?"
        second = await mesh.resume(first.run_id, "yes")
        assert second.question == "May I close it?"
        last = await mesh.resume(first.run_id, "no")
    assert seen == [{}, {"open": True}, {"open": True, "close": False}]
    assert last.text == "Done: {'open': True, 'close': False}."


async def test_an_agent_that_asks_again_what_was_answered_fails_instead_of_going_round() -> None:
    async def stubborn(call: AgentCall, pack: ContextPack) -> AgentReply:
        return call.reply(ReplyStatus.NEEDS_APPROVAL, pending={"id": "x", "text": "May I?"})

    agents = [FunctionAgent(asking(BILLING, Approval.TOOLS), stubborn)]
    async with build_mesh(agents, router=Everybody(), embedder=ScriptedEmbedder()) as mesh:
        first = await mesh.ask("Do it.")
        last = await mesh.resume(first.run_id, "yes")
    assert last.status is AnswerStatus.FAILED
    assert "asked about 'x' again" in (last.replies[0].error or "")


async def test_an_agent_whose_card_never_asks_fails_when_it_does() -> None:
    async def asks(call: AgentCall, pack: ContextPack) -> AgentReply:
        return call.reply(ReplyStatus.NEEDS_APPROVAL, pending={"id": "x", "text": "May I?"})

    async with build_mesh([FunctionAgent(BILLING, asks)], router=Everybody(), embedder=ScriptedEmbedder()) as mesh:
        answer = await mesh.ask("Do it.")
    assert "set `approval: tools`" in (answer.replies[0].error or "")


# --- over restarts ----------------------------------------------------------------------------------------------------


async def test_questions_are_answered_after_a_restart_with_finished_calls_kept(tmp_path: Path) -> None:
    first_desk, second_desk = Desk(), Desk()
    async with mesh_of(Torn(), first_desk, asking(BILLING), VPN, home=tmp_path) as mesh:
        first = await mesh.ask("It is broken.", tenant="a/b")
    async with mesh_of(Torn(), first_desk, asking(BILLING), VPN, home=tmp_path) as mesh:
        assert await mesh.waiting(first.run_id) == first.waiting
        second = await mesh.resume(first.run_id, "billing")
        assert second.status is AnswerStatus.NEEDS_APPROVAL
    async with mesh_of(Torn(), second_desk, asking(BILLING), VPN, home=tmp_path) as mesh:
        last = await mesh.resume(first.run_id, "yes")
        with pytest.raises(InputError, match="has finished"):
            await mesh.resume(first.run_id, "yes")
    assert not first_desk.calls
    assert [c.task.tenant for c in second_desk.calls] == ["a/b"]
    assert last.status is AnswerStatus.ANSWERED


WAITING_PROCESS = """
import asyncio, os, sys
from pathlib import Path
from tests.test_runtime_people import BILLING, VPN, Desk, Torn, asking, mesh_of

async def main():
    mesh = mesh_of(Torn(), Desk(), asking(BILLING), VPN, home=Path(sys.argv[1]))
    answer = await mesh.ask("It is broken.", run_id="killed")
    print(answer.status.value, flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def test_a_process_that_is_killed_while_its_run_waits_loses_nothing(tmp_path: Path) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", WAITING_PROCESS, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.stdout.strip() == "clarify", done.stderr
    assert done.returncode == -9
    desk = Desk()
    async with mesh_of(Torn(), desk, asking(BILLING), VPN, home=tmp_path) as mesh:
        last = await mesh.resume("killed", "vpn")
    assert last.text == "vpn heard: It is broken.\nvpn"


async def test_a_run_that_is_cancelled_while_it_waits_is_over(tmp_path: Path) -> None:
    async with mesh_of(Torn(), Desk(), home=tmp_path) as mesh:
        first = await mesh.ask("It is broken.")
        await mesh.cancel(first.run_id, reason="the user left")
        assert await mesh.waiting(first.run_id) == ()
        with pytest.raises(InputError, match=r"cancelled for good \(the user left\)"):
            await mesh.resume(first.run_id, "vpn")
        with pytest.raises(InputError, match="cancelled for good"):
            await mesh.cancel(first.run_id)
    async with mesh_of(Torn(), Desk()) as mesh:
        first = await mesh.ask("It is broken.")
        await mesh.cancel(first.run_id)
        with pytest.raises(InputError, match="records no runs"):
            await mesh.resume(first.run_id, "vpn")


async def test_a_finished_or_unknown_run_takes_no_answer(tmp_path: Path) -> None:
    async with mesh_of(Everybody(), Desk(), home=tmp_path) as mesh:
        answer = await mesh.ask("Anything.")
        with pytest.raises(InputError, match="has finished"):
            await mesh.resume(answer.run_id, "yes")
        with pytest.raises(InputError, match="no run"):
            await mesh.resume("nobody-knows", "yes")
        with pytest.raises(InputError, match="no run"):
            await mesh.cancel("nobody-knows")


# --- loops that only repeat -------------------------------------------------------------------------------------------


async def test_the_same_agent_with_the_same_input_is_not_called_again() -> None:
    desk, sink = Desk(), ListSink()
    graph = AgentGraph("loop").stage("work", agent="billing").refine("end", after="work")
    graph.loop("end", back_to="work", while_=always, max_rounds=10)
    async with mesh_of(Everybody(), desk, sink=sink) as mesh:
        answer = await mesh.ask("Go!", graph=graph)
    # in the second round it also reads its own first answer, in the third that is known
    assert [len(call.known) for call in desk.calls] == [0, 0, 1]
    assert types_of(sink.events).count("loop_detected") == 1
    assert answer.rounds == 4
    assert answer.status is AnswerStatus.ANSWERED
    assert answer.text == "billing heard: Go!"


async def test_a_loop_may_be_allowed_to_repeat() -> None:
    desk = Desk()
    graph = AgentGraph("loop").stage("work", agent="billing").refine("end", after="work")
    graph.loop("end", back_to="work", while_=always, max_rounds=10)
    async with mesh_of(Everybody(), desk) as mesh:
        await mesh.ask("Go!", graph=graph, limits=Limits(max_repeats=2))
    assert len(desk.calls) == 5


# --- a compiled graph in somebody's hands -----------------------------------------------------------------------------


async def test_a_compiled_graph_interrupts_as_langgraph_users_know_it() -> None:
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.types import Command

    desk = Desk()
    async with mesh_of(Torn(), desk) as mesh:
        app = (
            AgentGraph("own").dispatch("route").refine("end", after="route").compile(mesh, checkpointer=InMemorySaver())
        )
        config = {"configurable": {"thread_id": "t"}}
        state = await app.ainvoke({"task": Task(text="It is broken.")}, config)  # pyright: ignore
        (waits,) = state["__interrupt__"]
        assert waits.value[0]["text"] == "Which of the two is it?"
        state = await app.ainvoke(Command(resume="vpn"), config)  # pyright: ignore
    assert state["answer"].text == "vpn heard: It is broken.\nvpn"


def test_answers_by_hand() -> None:
    yes_no = Question(id="a", kind=QuestionKind.APPROVAL, text="May I?")
    which = Question(id="b", kind=QuestionKind.CLARIFY, text="Which?")
    assert answers_to([yes_no, which], "OK") == {"a": True}
    assert answers_to([yes_no, which], {"b": " it ", "a": "refuse"}) == {"b": "it", "a": False}
    with pytest.raises(InputError, match="no question is answered; give one of a, b"):
        answers_to([yes_no, which], {})
