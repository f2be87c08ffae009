"""What happens to runs that wait or work when processes, callers and projects come and go."""

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentmesh import AgentCard, AgentGraph, Mesh, build_mesh
from agentmesh.agents.function import FunctionAgent
from agentmesh.errors import GraphError, InputError, MeshError
from agentmesh.guardrails import Action, FunctionGuardrail, Guardrail, Verdict
from agentmesh.models.scripted import ScriptedEmbedder
from agentmesh.routing.baselines import FixedRouter
from agentmesh.run import Limits, SystemClock
from agentmesh.runtime.recent import KEPT_WAITING
from agentmesh.trace.events import Event
from agentmesh.types import (
    AgentCall,
    AgentReply,
    AnswerStatus,
    Approval,
    ContextPack,
    Question,
    ReplyStatus,
    Task,
)
from tests.test_runtime_people import BILLING, VPN, Desk, Everybody, Torn, always, asking, mesh_of

LIMITS = Limits(max_repeats=9)


class Slow:
    """An agent that works until it is let go."""

    def __init__(self) -> None:
        self.calls = 0
        self.at_work, self.go_on = asyncio.Event(), asyncio.Event()

    async def answer(self, call: AgentCall, pack: ContextPack) -> str:
        self.calls += 1
        self.at_work.set()
        await self.go_on.wait()
        return f"{call.agent} is done."


class Hands(SystemClock):
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


def alone(slow: Slow, card: AgentCard, home: Path | None) -> Mesh:
    return build_mesh([FunctionAgent(card, slow.answer)], router=FixedRouter(), embedder=ScriptedEmbedder(), home=home)


async def cut_off(mesh: Mesh, work: Any, slow: Slow) -> None:
    """Cancel a run while its agent works, as a caller does who waits no longer."""
    run = asyncio.ensure_future(work)
    async with asyncio.timeout(10):
        await slow.at_work.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    slow.go_on.set()


# --- between two steps ------------------------------------------------------------------------------------------------


async def test_a_run_cut_off_between_a_step_and_its_checkpoint_still_asks(tmp_path: Path) -> None:
    async with mesh_of(Torn(), Desk(), home=tmp_path) as mesh:
        run_id = (await mesh.ask("It is broken.")).run_id
    with sqlite3.connect(tmp_path / "checkpoints.db") as db:  # the decision is noted, the step after it is not
        newest = "SELECT max(checkpoint_id) FROM checkpoints WHERE thread_id = ?"
        ((id_,),) = db.execute(newest, (run_id,)).fetchall()
        for table in ("checkpoints", "writes"):
            db.execute(f"DELETE FROM {table} WHERE thread_id = ? AND checkpoint_id = ?", (run_id, id_))
    async with mesh_of(Torn(), Desk(), home=tmp_path) as mesh:
        again = await mesh.resume(run_id)
        assert [q.kind.value for q in again.waiting] == ["clarify"]
        answer = await mesh.resume(run_id, "vpn")
    assert answer.text == "vpn heard: It is broken.\nvpn"


async def test_a_run_cut_off_after_an_answer_waits_for_nobody_and_goes_on(tmp_path: Path) -> None:
    slow = Slow()
    async with alone(slow, asking(BILLING), tmp_path) as mesh:
        first = await mesh.ask("Refund me.")
        await cut_off(mesh, mesh.resume(first.run_id, "yes"), slow)
        assert await mesh.waiting(first.run_id) == ()
    async with alone(slow, asking(BILLING), tmp_path) as mesh:
        assert await mesh.waiting(first.run_id) == ()
        with pytest.raises(InputError, match="waits for no answer"):
            await mesh.resume(first.run_id, "no")
        assert (await mesh.resume(first.run_id)).text == "billing is done."


async def test_a_run_at_work_is_neither_resumed_nor_cancelled_by_another_process(tmp_path: Path) -> None:
    slow = Slow()
    async with alone(slow, BILLING, tmp_path) as mesh, alone(slow, BILLING, tmp_path) as other:
        run = asyncio.ensure_future(mesh.ask("Refund me.", run_id="r1"))
        async with asyncio.timeout(10):
            await slow.at_work.wait()
        for work in (other.resume("r1"), other.cancel("r1"), other.ask("Again!", run_id="r1")):
            with pytest.raises(InputError, match="'r1' is at work elsewhere"):
                await work
        slow.go_on.set()
        assert (await run).status is AnswerStatus.ANSWERED
        with pytest.raises(InputError, match="'r1' has finished"):
            await other.resume("r1")
    assert slow.calls == 1
    assert not list((tmp_path / "locks").iterdir())


async def test_a_run_that_is_resumed_twice_at_once_goes_on_once(tmp_path: Path) -> None:
    desk = Desk()
    async with mesh_of(Everybody(), desk, asking(BILLING), home=tmp_path) as mesh:
        async with mesh_of(Everybody(), desk, asking(BILLING), home=tmp_path) as other:
            run_id = (await mesh.ask("Refund me.")).run_id
            both = await asyncio.gather(mesh.resume(run_id, True), other.resume(run_id, True), return_exceptions=True)
        types = [e.type for e in await _events(mesh, run_id)]
    assert sorted(isinstance(said, MeshError) for said in both) == [False, True]
    assert len(desk.calls) == types.count("run_finished") == 1


async def test_a_mesh_without_a_folder_leaves_nothing_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with mesh_of(Torn(), Desk()) as mesh:
        first = await mesh.ask("It is broken.")
        await mesh.resume(first.run_id, "vpn")
    assert not [*await asyncio.to_thread(tmp_path.iterdir)]


# --- a project that changed -------------------------------------------------------------------------------------------


def hold(text: str) -> Verdict:
    """Leaves everything to a person."""
    return Verdict(action=Action.ASK, reason="somebody should look")


def polite(text: str) -> bool:
    """Lets no `rude` pass."""
    return "rude" not in text


def guards(*where: str) -> Sequence[Guardrail]:
    return [FunctionGuardrail(hold, name="look", where=where)] if where else []


@pytest.mark.parametrize("where", ["input", "output"])
async def test_a_run_whose_guardrail_is_gone_says_so_and_goes_on_when_it_is_back(where: str, tmp_path: Path) -> None:
    def mesh(*places: str) -> Mesh:
        agent = FunctionAgent(BILLING, Desk().answer)
        router, embedder = FixedRouter(), ScriptedEmbedder()
        return build_mesh([agent], router=router, embedder=embedder, guardrails=guards(*places), home=tmp_path)

    async with mesh(where) as guarded:
        first = await guarded.ask("Refund me.")
    for answer in ("yes", None):
        async with mesh() as bare:
            with pytest.raises(GraphError, match="approvals or guardrails have changed; put them back"):
                await bare.resume(first.run_id, answer)
    async with mesh(where) as guarded:
        assert (await guarded.resume(first.run_id, "yes")).text == "billing heard: Refund me."


async def test_a_run_goes_on_without_an_agent_that_is_gone(tmp_path: Path) -> None:
    desk = Desk()
    async with mesh_of(Everybody(), desk, asking(BILLING), asking(VPN), home=tmp_path) as mesh:
        first = await mesh.ask("It is broken.")
    async with mesh_of(Everybody(), desk, asking(VPN), home=tmp_path) as mesh:
        answer = await mesh.resume(first.run_id, {q.id: True for q in first.waiting})
    assert answer.status is AnswerStatus.PARTIAL
    assert "no agent is called 'billing'" in answer.text
    assert [call.agent for call in desk.calls] == ["vpn"]


async def test_a_run_whose_stage_is_gone_says_so(tmp_path: Path) -> None:
    def mesh(stage: str, approval: Approval) -> Mesh:
        graph = AgentGraph("g").stage(stage, agent="billing").refine("end", after=stage)
        agent = FunctionAgent(asking(BILLING, approval), Desk().answer)
        router, embedder = FixedRouter(), ScriptedEmbedder()
        return build_mesh([agent], router=router, embedder=embedder, graphs={"g": graph}, home=tmp_path)

    async with mesh("work", Approval.ALWAYS) as before:
        first = await before.ask("Refund me.", graph="g")
    for stage, approval in (("other", Approval.ALWAYS), ("work", Approval.NEVER)):
        async with mesh(stage, approval) as after:
            with pytest.raises(GraphError, match=r"stopped at 'work\.ask', which it cannot go on from"):
                await after.resume(first.run_id, True)
    async with mesh("work", Approval.TOOLS) as after:
        assert (await after.resume(first.run_id, True)).text == "billing heard: Refund me."


# --- time and memory --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
async def test_the_time_that_a_run_waits_is_not_its_own(durable: bool, tmp_path: Path) -> None:
    clock = Hands()
    agent = FunctionAgent(VPN, Desk().answer)
    guard = FunctionGuardrail(polite, name="polite", where="input")
    home = tmp_path if durable else None
    mesh = build_mesh([agent], router=Torn(), embedder=ScriptedEmbedder(), guardrails=[guard], home=home)
    mesh.clock = clock
    async with mesh:
        first = await mesh.ask("It is broken.", limits=Limits(max_seconds=10))
        clock.seconds += 5000
        with pytest.raises(InputError, match="the answer was not taken"):
            await mesh.resume(first.run_id, "rude")  # leaves an event, five thousand seconds later
        clock.seconds += 5000
        answer = await mesh.resume(first.run_id, "vpn")
    assert (answer.status, answer.stop, answer.latency_s) == (AnswerStatus.ANSWERED, None, 0.0)


async def test_runs_that_nobody_answers_are_forgotten_with_all_their_state() -> None:
    async with mesh_of(Torn(), Desk()) as mesh:
        runs = [await mesh.ask("It is broken.") for _ in range(KEPT_WAITING + 2)]
        services = await mesh._open()  # pyright: ignore[reportPrivateUsage]
        assert len(services.checkpointer.storage) == KEPT_WAITING
        assert not await mesh.knows(runs[1].run_id)
        assert (await mesh.resume(runs[2].run_id, "vpn")).status is AnswerStatus.ANSWERED


async def test_runs_of_a_compiled_graph_leave_nothing_with_the_mesh() -> None:
    async with mesh_of(Everybody(), Desk()) as mesh:
        app: Any = AgentGraph("own").dispatch("route").refine("end", after="route").compile(mesh)
        state = await app.ainvoke({"task": Task(text="It is broken.")})
        assert not await mesh.knows(state["run_id"])


# --- agents that return anything --------------------------------------------------------------------------------------


class Odd:
    """An agent that asks with values that are no data, or says what is no text."""

    def __init__(self, pending: dict[str, Any] | None, text: str = "") -> None:
        self.card = asking(BILLING, Approval.TOOLS)
        self.pending, self.text = pending, text

    async def answer(self, call: AgentCall, pack: ContextPack, ctx: object) -> AgentReply:
        if self.pending is None:
            return call.reply(ReplyStatus.ANSWERED, text=self.text)
        return call.reply(ReplyStatus.NEEDS_APPROVAL, pending=self.pending)


@pytest.mark.parametrize("odd", [Odd({"what": object()}), Odd({"what": b"\xff"}), Odd(None, "\ud800")])
async def test_what_no_trace_can_hold_fails_its_agent_and_not_the_run(odd: Odd, tmp_path: Path) -> None:
    agents = [odd, FunctionAgent(VPN, Desk().answer)]
    async with build_mesh(agents, router=Everybody(), embedder=ScriptedEmbedder(), home=tmp_path) as mesh:
        answer = await mesh.ask("It is broken.", thread="t")
        events = await _events(mesh, answer.run_id)
    assert answer.status is AnswerStatus.PARTIAL
    assert "returned what JSON cannot hold" in (answer.replies[0].error or "")
    assert answer.replies[1].ok
    assert [e.type for e in events if e.type != "memory_flushed"][-1] == "run_finished"


async def test_what_an_agent_asks_is_short_and_moves_no_cursor() -> None:
    odd = Odd({"id": "pay", "text": "\x1b[2J\x07Pay\n" + "x" * 10_000})
    async with build_mesh([odd], router=Everybody(), embedder=ScriptedEmbedder()) as mesh:
        (asked,) = (await mesh.ask("Refund me.")).waiting
    assert asked.text.startswith("[2JPay\nxxx")
    assert asked.text.endswith("… (10,007 characters in all)")


async def test_in_each_round_of_a_loop_with_a_subgraph_everybody_is_asked_anew(tmp_path: Path) -> None:
    desk = Desk()
    inner = AgentGraph("inner").stage("work", agent="billing").refine("sum", after="work")
    graph = AgentGraph("outer").subgraph("sub", inner).stage("check", agent="vpn", after="sub")
    graph.refine("end", after="check").loop("end", back_to="sub", while_=always, max_rounds=2)
    async with mesh_of(Everybody(), desk, asking(BILLING), asking(VPN), home=tmp_path) as mesh:
        answer = await mesh.ask("Go!", graph=graph, limits=LIMITS)
        asked: list[Question] = []
        while answer.waiting:
            asked += answer.waiting
            answer = await mesh.resume(answer.run_id, True, graph=graph)
    assert [q.id.removesuffix("/1/call") for q in asked] == [
        "sub/work.r1/billing", "check.r1/vpn", "sub/work.r2/billing", "check.r2/vpn",
    ]  # fmt: skip
    assert len(desk.calls) == 4


async def _events(mesh: Mesh, run_id: str) -> Sequence[Event]:
    services = await mesh._open()  # pyright: ignore[reportPrivateUsage]
    return await services.runs.history(run_id)
