"""What every trace sink, executor and journal promises."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar, cast
from unittest import SkipTest

from agentmesh.run import Executor, Journal
from agentmesh.testing.contracts.base import BrokenPromiseError, Contract, Made, expect, promise
from agentmesh.trace.base import TraceSink
from agentmesh.trace.events import Event, RunCancelled, RunFinished, StageEntered, StepFailed, TokensStreamed
from agentmesh.types import AgentCall, AgentReply, Answer, AnswerStatus, ReplyStatus, Task

__all__ = ["ExecutorContract", "JournalContract", "Runs", "TraceSinkContract"]

EMIT_S = 0.25
"""Seconds that one emit may take; far more than any needs, so that a slow machine is no mistake."""


class TraceSinkContract(Contract[TraceSink]):
    """Checks a trace sink. Give `make`, and `kept` where what was taken can be read back."""

    noun = "TraceSink"
    protocol = TraceSink

    def make(self) -> Made[TraceSink]:
        """The sink under test."""
        return super().make()

    async def kept(self, sink: TraceSink) -> Sequence[Event] | None:
        """The events that the sink has, in order; None: it cannot be looked into."""
        return None

    def emit(self, sink: TraceSink, *events: Event) -> None:
        """Emit, with a look at the clock."""
        for event in events:
            started = time.perf_counter()
            given: object = sink.emit(event)
            took = time.perf_counter() - started
            expect(given is None, f"emit gave {type(given).__name__}; it takes and gives nothing")
            expect(took < EMIT_S, f"emit took {took:.2f} s: the run waited for it")

    @promise("it takes every event, and never raises")
    async def test_every_event_is_taken(self, sink: TraceSink) -> None:
        self.emit(sink, *_run("r1", "plain"), *_run("r2", "odd \ud800 \x00 😀 " + "long " * 5000))

    @promise("what was taken is kept, in its order")
    async def test_what_was_taken_is_kept(self, sink: TraceSink) -> None:
        events = _run("r1", "plain")
        self.emit(sink, *events)
        kept = await self.kept(sink)
        if kept is None:
            raise SkipTest("the suite has no `kept`")
        stored = [event for event in events if not isinstance(event, TokensStreamed)]
        got = [event for event in kept if not isinstance(event, TokensStreamed)]
        expect(got == stored, f"it has {[e.type for e in got]}, it was given {[e.type for e in stored]}")

    @promise("emit never waits for another thread")
    async def test_threads_do_not_wait_for_one_another(self, sink: TraceSink) -> None:
        broken: list[BaseException] = []

        def work(n: int) -> None:
            try:
                self.emit(sink, *_run(f"t{n}", "from a thread"))
            except BaseException as error:
                broken.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join, self.check_s)
        for error in broken:
            raise error


def _run(run_id: str, text: str) -> list[Event]:
    """The events of a small run."""
    answer = Answer(run_id=run_id, status=AnswerStatus.ANSWERED, text=text)
    events: list[Event] = [
        StageEntered(stage="route", kind="dispatch", round=1),
        TokensStreamed(agent="vpn", text=text),
        StepFailed(agent="vpn", error=text, kind="ModelError"),
        RunCancelled(reason=text),
        RunFinished(answer=answer),
    ]
    return [e.model_copy(update={"run_id": run_id, "seq": n, "at": 1.8e9 + n}) for n, e in enumerate(events, start=1)]


class Runs:
    """An executor, and what it ran."""

    def __init__(self) -> None:
        self.executor: Executor
        self.ran: list[str] = []
        """Ids of the calls that were really run."""
        self.most_at_once = 0
        self._at_once = 0
        self.behaviour: Callable[[AgentCall], Awaitable[AgentReply]] = self.answer

    async def answer(self, call: AgentCall) -> AgentReply:
        """A reply that says what was asked."""
        return call.reply(ReplyStatus.ANSWERED, text=f"said of {call.task.text}")

    async def run(self, call: AgentCall) -> AgentReply:
        """What the executor is to run."""
        self.ran.append(call.id)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await self.behaviour(call)
        finally:
            self._at_once -= 1

    async def submit(self, call: AgentCall, deadline_s: float = 20.0) -> AgentReply:
        """Hand over a call and wait for its reply."""
        reply = cast("object", await self.executor.submit(call, call.id, deadline_s))
        if not isinstance(reply, AgentReply):
            raise BrokenPromiseError(f"it gave {type(reply).__name__}, no AgentReply")
        expect(reply.call_id == call.id, f"the reply belongs to {reply.call_id!r}, not to {call.id!r}")
        return reply


class ExecutorContract(Contract[Runs]):
    """Checks an executor. Give `make`, which is handed what the executor has to run for a call."""

    noun = "Executor"
    protocol = Executor
    deadline_s: ClassVar[float] = 0.05
    """Deadline of a call that never ends; raise it for an executor that takes longer to start one."""

    def make(self, run: Callable[[AgentCall], Awaitable[AgentReply]]) -> Made[Executor]:
        """The executor under test, which runs calls with `run`."""
        return super().make()

    def subject(self) -> AbstractAsyncContextManager[Runs]:
        return self._running()

    @asynccontextmanager
    async def _running(self) -> AsyncGenerator[Runs, None]:
        runs = Runs()
        async with self.opened(self.make(runs.run)) as executor:
            runs.executor = executor
            yield runs

    @promise("a call is run and its reply given")
    async def test_call_is_run(self, runs: Runs) -> None:
        reply = await runs.submit(_call("a"))
        expect(reply.text == "said of a", f"the reply says {reply.text!r}")
        expect(runs.ran == [_call("a").id], f"the calls {runs.ran} were run")

    @promise("a call whose id finished before is not repeated: its reply is given again")
    async def test_finished_call_is_not_repeated(self, runs: Runs) -> None:
        first = await runs.submit(_call("a"))
        again = await runs.submit(_call("a"))
        expect(len(runs.ran) == 1, f"it was run {len(runs.ran)} times")
        expect(again == first, f"the second time it said {again.text!r}, the first time {first.text!r}")
        await runs.submit(_call("a", attempt=2))
        expect(len(runs.ran) == 2, "another attempt, which has an id of its own, was not run")

    @promise("past the deadline the reply's status is timed_out")
    async def test_deadline_is_timed_out(self, runs: Runs) -> None:
        async def never(call: AgentCall) -> AgentReply:
            await asyncio.Event().wait()
            raise AssertionError("nothing sets the event")

        runs.behaviour = never
        reply = await runs.submit(_call("a"), self.deadline_s)
        expect(reply.status is ReplyStatus.TIMED_OUT, f"the status is {reply.status}")
        expect(bool(reply.error), "the reply does not say what happened")

    @promise("a failure is a reply with a status")
    async def test_failed_reply_is_given(self, runs: Runs) -> None:
        async def fail(call: AgentCall) -> AgentReply:
            return call.reply(ReplyStatus.FAILED, error="the model is down; start it")

        runs.behaviour = fail
        reply = await runs.submit(_call("a"))
        expect(reply.status is ReplyStatus.FAILED, f"the status is {reply.status}")
        expect(reply.error == "the model is down; start it", f"the error became {reply.error!r}")

    @promise("what raises is a failed reply, not an exception")
    async def test_what_raises_is_a_failed_reply(self, runs: Runs) -> None:
        async def fail(call: AgentCall) -> AgentReply:
            raise RuntimeError("the ledger is closed")

        runs.behaviour = fail
        reply = await runs.submit(_call("a"))
        expect(reply.status is ReplyStatus.FAILED, f"the status is {reply.status}")
        expect("the ledger is closed" in (reply.error or ""), f"the reply does not say why: {reply.error!r}")

    @promise("calls at the same time get their own reply")
    async def test_calls_do_not_mix(self, runs: Runs) -> None:
        replies = await asyncio.gather(*(runs.submit(_call(f"q{n}")) for n in range(10)))
        texts = [reply.text for reply in replies]
        expect(texts == [f"said of q{n}" for n in range(10)], f"the replies are {texts}")

    @promise("a call that is cancelled is over, and may be handed over again")
    async def test_cancelled_call_may_be_run_again(self, runs: Runs) -> None:
        begun = asyncio.Event()

        async def wait(call: AgentCall) -> AgentReply:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError("nothing sets the event")

        runs.behaviour = wait
        working = asyncio.ensure_future(runs.submit(_call("a")))
        await begun.wait()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        expect(working.cancelled(), "it was cancelled and gave a reply all the same")
        runs.behaviour = runs.answer
        reply = await runs.submit(_call("a"))
        expect(reply.status is ReplyStatus.ANSWERED, f"handed over again it is {reply.status}")


def _call(text: str, *, attempt: int = 1) -> AgentCall:
    agent = f"agent-{text}"
    return AgentCall(run_id="r1", step="route.r1", agent=agent, attempt=attempt, task=Task(text=text))


class JournalContract(Contract[Journal]):
    """Checks a journal, with calls of the run `r1`. Give `make`, and `reopen` where it outlives its process."""

    noun = "Journal"
    protocol = Journal
    result: ClassVar[dict[str, Any]] = {
        "text": "grüße 😀 \ud800", "usage": {"calls": 1}, "cited": ["m1"], "cost": 0.1, "none": None
    }  # fmt: skip

    def make(self) -> Made[Journal]:
        """The journal under test: empty."""
        return super().make()

    def reopen(self, journal: Journal) -> Made[Journal] | None:
        """What the next process would open; None: nothing outlives this one."""
        return None

    @promise("it knows what never began, what began and what finished, with its result")
    async def test_it_knows_what_began_and_what_finished(self, journal: Journal) -> None:
        call = "r1/route.r1/vpn/1/1"
        expect(await journal.lookup(call) is None, "it knows a call that never began")
        await journal.begin(call, "tool", idempotent=False)
        entry = await journal.lookup(call)
        expect(entry is not None, "it does not know a call that began")
        assert entry is not None
        expect(not entry.finished and entry.result is None, "a call that only began counts as finished")
        expect((entry.call_id, entry.kind, entry.idempotent) == (call, "tool", False), f"the entry is {entry}")
        await journal.finish(call, "tool", self.result)
        entry = await journal.lookup(call)
        expect(entry is not None and entry.finished, "a call that finished does not count as finished")
        expect(entry is not None and entry.result == self.result, "the result is not what it was")

    @promise("a call that finished without having begun is known, too")
    async def test_finish_alone_is_enough(self, journal: Journal) -> None:
        await journal.finish("r1/route.r1/vpn/1", "agent", {"x": 1})
        entry = await journal.lookup("r1/route.r1/vpn/1")
        expect(entry is not None and entry.finished and entry.result == {"x": 1}, f"the entry is {entry}")

    @promise("beginning a finished call again does not lose its result")
    async def test_beginning_again_keeps_the_result(self, journal: Journal) -> None:
        await journal.finish("r1/route.r1/vpn/1/1", "model", {"x": 1})
        await journal.begin("r1/route.r1/vpn/1/1", "model")
        entry = await journal.lookup("r1/route.r1/vpn/1/1")
        expect(entry is not None and entry.finished and entry.result == {"x": 1}, f"the entry is {entry}")

    @promise("calls do not mix, however alike their ids are")
    async def test_calls_do_not_mix(self, journal: Journal) -> None:
        ids = [f"r1/{step}/{agent}/{attempt}/{n}" for step in ("s.r1", "s.r11") for agent in ("a", "a.b")
               for attempt in (1, 11) for n in (1, 11)]  # fmt: skip
        await asyncio.gather(*(journal.finish(id, "model", {"id": id}, wait=False) for id in ids))
        for id in ids:
            entry = await journal.lookup(id)
            expect(entry is not None and entry.result == {"id": id}, f"under {id!r} there is {entry}")

    @promise("what was noted is there for the next process")
    async def test_next_process_finds_what_was_noted(self, journal: Journal) -> None:
        await journal.begin("r1/route.r1/vpn/1/1", "tool", idempotent=False)
        await journal.finish("r1/route.r1/vpn/1/2", "model", {"n": 2}, wait=False)
        await journal.finish("r1/route.r1/vpn/1", "agent", self.result)
        after = self.reopen(journal)
        if after is None:
            raise SkipTest("the suite has no `reopen`")
        async with self.opened(after) as later:
            begun = await later.lookup("r1/route.r1/vpn/1/1")
            expect(begun is not None and not begun.finished, "a call that began and must not be repeated is lost")
            expect(begun is not None and not begun.idempotent, "that a call must not be repeated is lost")
            model = await later.lookup("r1/route.r1/vpn/1/2")
            expect(model is not None and model.result == {"n": 2}, "a result is lost that was noted before another")
            agent = await later.lookup("r1/route.r1/vpn/1")
            expect(agent is not None and agent.result == self.result, "a result is lost that was waited for")
