"""The mesh: ask it, stream it, resume it.

A mesh is cheap to make; databases, memory and models are opened with its first use and belong to the event loop of
that use.
"""

import asyncio
import random
import re
import threading
import time
from collections import OrderedDict
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Generator,
    Mapping,
    Sequence,
)
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, cast

import aiosqlite
from langchain_core.runnables import RunnableConfig
from langgraph.types import Command, Send

from agentmesh import __version__
from agentmesh.agents.base import Agent
from agentmesh.errors import ConfigError, GraphError, InputError, MeshError, StoreError, UnknownNameError
from agentmesh.graphs import GraphSpec, default_graph
from agentmesh.guardrails import Action, Where, run_guardrails
from agentmesh.memory.base import MemoryStore
from agentmesh.memory.writer import Draft, drafts_from_turn, item_id
from agentmesh.mistakes import dotted, validated
from agentmesh.project.watch import CardWatch
from agentmesh.run import Accounts, Emitter, Journal, Limits, MemoryJournal, Meter, RunContext, SystemClock, new_run_id
from agentmesh.runtime.apart import apart
from agentmesh.runtime.conditions import CONDITIONS, Condition
from agentmesh.runtime.executor import LocalExecutor
from agentmesh.runtime.graph import AgentGraph
from agentmesh.runtime.guarding import ALLOW_QUESTION, check_question_first
from agentmesh.runtime.nodes import Parts, RunScope, answer_so_far, drafts_of, may_ask, remember, run_call
from agentmesh.runtime.onboarding import Onboarding
from agentmesh.runtime.people import answers_to, clarified, questions_in, waiting_answer
from agentmesh.runtime.recent import RecentRuns
from agentmesh.runtime.state import RunState, view_of
from agentmesh.runtime.team import Team
from agentmesh.runtime.threads import Threads
from agentmesh.runtime.wiring import state_graph
from agentmesh.trace.base import TraceSink
from agentmesh.trace.events import (
    AgentsChanged,
    Event,
    MemoryFlushed,
    ModelCalled,
    PersonAnswered,
    PersonAsked,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    RunWaiting,
    StepFailed,
)
from agentmesh.trace.sinks import QueueSink
from agentmesh.types import (
    AgentCall,
    AgentCard,
    AgentReply,
    Answer,
    AnswerStatus,
    Message,
    Question,
    ReplyStatus,
    StopReason,
    Task,
    Usage,
    total_usage,
)

__all__ = ["Mesh", "Services"]

T = TypeVar("T")

LOOSE_SCOPES = 256
"""Scopes kept for runs of compiled graphs that somebody invokes on their own."""
MAX_NAME_CHARS = 200
"""Characters of a tenant, user or thread name."""
NOT_KEPT = "[not kept: a guardrail blocked it]"
"""What the trace holds in place of a blocked question, unless it keeps prompts."""
MOST_LOCKED = 256
"""Runs at work that are kept from other processes: each takes a file handle."""
CLOSE_WAIT_S = 10.0
"""Seconds that a mesh that closes waits for its cancelled runs."""
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
"""What may name a run: it is a file's name and part of its calls' ids."""


class Runs(Protocol):
    """What resuming needs to know of earlier runs."""

    async def history(self, run_id: str) -> Sequence[Event]:
        """The recorded events; `InputError` for a run that is not known."""
        ...

    async def finished_calls(self, run_id: str) -> int:
        """How many calls of the run have a result that is not asked for again."""
        ...


@dataclass
class Services:
    """What a mesh holds open while it is in use. Made by `assembly`."""

    parts: Parts
    store: MemoryStore
    sink: TraceSink
    threads: Threads
    checkpointer: Any
    journal: Callable[[str, bool], Awaitable[Journal]]
    """Journal of a run; the flag says that the run is new."""
    staffed: Callable[[Parts, Team], Parts] = lambda parts, team: replace(parts, cards=team.cards)
    """The parts with another team."""
    ready: Callable[[Sequence[AgentCard]], Awaitable[None]] | None = None
    """Lets routers learn these cards, so that the next question does not wait for it."""
    runs: Runs = field(default_factory=RecentRuns)
    """The runs that may be resumed; where it takes events, it is given every run's."""
    alone: Callable[[str], AbstractContextManager[None]] = lambda run_id: nullcontext()
    """Held while a run is at work, where runs outlive their process; `InputError` if it is at work in another."""
    keep_checkpoints: bool = False
    """Whether the checkpoints of a finished run stay."""
    prepare: Callable[[str], Awaitable[None]] | None = None
    """Makes a tenant's memory ready: called before each of its runs, quick after the first."""
    accounts: Callable[[Task, str], Accounts | None] = lambda task, run_id: None
    """What the calls of this run are charged to besides its own limits."""
    closers: list[Callable[[], Awaitable[None]]] = field(default_factory=list[Callable[[], Awaitable[None]]])
    """Called last to first when the mesh closes."""


class Mesh:
    """Many agents, one question.

    Made by `load_mesh` or `build_mesh`. Use it as `async with mesh:` or call `aclose()`; a script without an event
    loop uses `ask_sync` and `close`.
    """

    def __init__(
        self,
        *,
        team: Team,
        open_services: Callable[[Team], Awaitable[Services]],
        hire: Callable[[Any], tuple[AgentCard, Agent | None]],
        watch: CardWatch | None = None,
        limits: Limits | None = None,
        graphs: Mapping[str, AgentGraph | GraphSpec] | None = None,
        keep_prompts: bool = False,
        guarded: Collection[str] = (),
    ) -> None:
        self.limits = limits or Limits()
        self.graphs: dict[str, AgentGraph | GraphSpec] = dict(graphs or {})
        self.guarded = frozenset(guarded)
        """Where guardrails look: `input`, `output`, `memory`."""
        self.clock = SystemClock()
        self._keep_prompts = keep_prompts
        self._open_services = open_services
        self._services: Services | None = None
        self._opening = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._compiled: dict[int, _Compiled] = {}
        self._onboarding = Onboarding(team, hire, watch, graphs=lambda: self.graphs)
        self._asking: tuple[Team | None, frozenset[str]] = (None, frozenset())
        """Ids of those who may need a person's yes, of this team."""
        self._active: dict[str, asyncio.Future[None]] = {}
        """The runs at work by id, done when they are."""
        self._working: dict[str, asyncio.Task[Any]] = {}
        """Their graphs."""
        self._loose: OrderedDict[str, RunScope] = OrderedDict()
        self._flushing: asyncio.Task[None] | None = None
        self._unflushed = False
        """Whether a run ended after the batch write at work began."""
        self._own_loop: _LoopThread | None = None
        self._own_loop_lock = threading.Lock()
        self.last_flush_ms: float | None = None
        """Milliseconds that the last batch write to the memory store took."""

    @property
    def cards(self) -> Mapping[str, AgentCard]:
        """The agents' cards by id, as they are now."""
        return self._onboarding.team.cards

    @property
    def agents(self) -> tuple[str, ...]:
        """Ids of the agents."""
        return tuple(self.cards)

    @property
    def asking(self) -> frozenset[str]:
        """Ids of the agents that may need a person's yes."""
        team = self._onboarding.team
        if self._asking[0] is not team:
            self._asking = (team, frozenset(card.id for card in team.cards.values() if may_ask(card)))
        return self._asking[1]

    # --- asking -------------------------------------------------------------------------------------------------------

    async def ask(
        self,
        text: str,
        *,
        graph: AgentGraph | GraphSpec | str | None = None,
        thread: str | None = None,
        tenant: str = "default",
        user: str | None = None,
        history: Sequence[Message] = (),
        limits: Limits | Mapping[str, Any] | None = None,
        router: str | None = None,
        run_id: str | None = None,
        sinks: Sequence[TraceSink] = (),
        stream: bool = False,
    ) -> Answer:
        """Ask the mesh and wait for the answer.

        Args:
            text: The question.
            graph: What runs; a name of `graphs`; None: route -> answer -> refine.
            thread: A conversation: its earlier turns are the task's history, and this one is added to it.
            tenant: Whose data this is.
            user: On whose behalf.
            history: Earlier turns, where the caller keeps them itself; they come before those of the thread.
            limits: Budgets of this run; None: the mesh's own.
            router: Overrides every router of the graph.
            run_id: Name of the run, which no other run had; None: a new one.
            sinks: Further takers of the run's events.
            stream: Whether models stream, so that `tokens_streamed` events come.

        Returns:
            The answer; its status says whether it is whole, partial, a question back, or out of scope. A failure
            inside the run is a status, too. With `waiting`, the run has stopped until a person answers: go on with
            `resume(answer.run_id, "...")`, in any process that has this mesh's folder.

        Raises:
            InputError: If the question, the tenant, the thread or the run id cannot be taken. Nothing was run.
            ConfigError: If the graph or the router cannot be used.
            StoreError: If the run's state cannot be kept, or the mesh was closed meanwhile.
        """
        thread, user, limits = thread or None, user or None, _limits_of(limits)
        self._check_input(text, tenant=tenant, user=user, thread=thread, run_id=run_id, limits=limits)
        services = await self._open()
        await self._onboarding.look(services)
        parts = services.parts
        if router is not None:
            parts.router(router)
        compiled, name = self._compile(graph, services)
        given, run_id = run_id is not None, run_id or new_run_id()
        with apart(), self._claim(run_id), self._alone(run_id, services):
            if given and await services.checkpointer.aget_tuple(_config(run_id)) is not None:
                raise InputError(
                    f"there was a run {run_id!r} already; resume it, or leave `run_id` out to start another"
                )
            if services.prepare is not None:
                await services.prepare(tenant)
            earlier = await services.threads.history(tenant, thread) if thread else ()
            task = Task(text=text, history=(*history, *earlier), tenant=tenant, user=user, thread=thread)
            journal = await services.journal(run_id, True)
            scope = self._scope(
                services, parts, task, run_id, journal, limits=limits, router=router, sinks=sinks, stream=stream
            )
            found, events = await check_question_first(task, services.parts.guardrails, scope.ctx)
            kept = self._keep_prompts or found.blocked is None
            scope.ctx.emit(
                RunStarted(
                    task=found.task if kept else task.model_copy(update={"text": NOT_KEPT}),
                    graph=name,
                    agents=tuple(parts.cards),
                    version=__version__,
                    router=router,
                    limits=limits.model_dump() if limits is not None else None,
                )
            )
            self._onboarding.tell(scope.ctx)
            for event in events:
                scope.ctx.emit(event)
            if found.blocked is not None:
                scope.ctx.emit(RunFinished(answer=found.blocked))
                return found.blocked
            entry: dict[str, Any] = {"run_id": run_id, "task": found.task, "checked": True}
            if found.question is not None:
                entry["held"] = {found.question.id: found.question}
            return await self._drive(compiled, entry, scope, found.task, services)

    async def stream(self, text: str, **options: Any) -> AsyncIterator[Event]:
        """Ask the mesh and get the run's events as they come; the last one is `run_finished` with the answer, or
        `run_waiting` if a person must answer first.

        Takes what `ask` takes. Leaving the iterator early cancels the run; one that failed raises as `ask` does.
        """
        queue = QueueSink()
        sinks = (*options.pop("sinks", ()), queue)
        run = asyncio.ensure_future(self.ask(text, sinks=sinks, stream=options.pop("stream", True), **options))
        run.add_done_callback(lambda _: queue.close())
        try:
            async for event in queue:
                yield event
            await run
        finally:
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)

    def ask_sync(self, text: str, **options: Any) -> Answer:
        """`ask`, for code without an event loop. Takes what `ask` takes."""
        return self.run_sync(self.ask(text, **options))

    def resume_sync(
        self, run_id: str, answer: str | bool | Mapping[str, str | bool] | None = None, **options: Any
    ) -> Answer:
        """`resume`, for code without an event loop. Takes what `resume` takes."""
        return self.run_sync(self.resume(run_id, answer, **options))

    def run_sync(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of this mesh on the mesh's own background loop and wait for it; any thread may call it."""
        with self._own_loop_lock:
            if self._own_loop is None:
                self._own_loop = _LoopThread()
        return self._own_loop.run(work)

    async def resume(
        self,
        run_id: str,
        answer: str | bool | Mapping[str, str | bool] | None = None,
        *,
        graph: AgentGraph | GraphSpec | str | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
        sinks: Sequence[TraceSink] = (),
        stream: bool = False,
    ) -> Answer:
        """Go on with a run that waits for a person, or that was killed or cancelled; finished calls are not repeated.

        Args:
            run_id: The run.
            answer: What a person says to the first question of `Answer.waiting`, or a mapping from question ids to
                answers. Approvals take a bool, or words such as `yes` and `no`. None: the run waits for nobody.
            graph: The graph it ran on, if that is neither the default one nor one of `graphs`.
            limits: Budgets, None: those it was started with; what the run used before counts.
            sinks: Further takers of the run's events.
            stream: Whether models stream, so that `tokens_streamed` events come.

        Raises:
            InputError: If the run is not known, is over, or is at work here or in another process; if it waits and
                `answer` is missing or makes no sense (it goes on waiting); if it waits for nobody and there is an
                answer.
            GraphError: If its graph, or what the project says of approvals and guardrails, has changed so that the
                run cannot go on where it stopped. Nothing is lost: it goes on once that is put back.
        """
        services = await self._open()
        _, started = await self._history(services, run_id)
        run_id = started.run_id
        await self._onboarding.look(services)
        with apart(), self._claim(run_id), self._alone(run_id, services):
            events, started = await self._history(services, run_id)  # another process may have gone on with it
            if services.prepare is not None:
                await services.prepare(started.task.tenant)
            if graph is None and started.graph not in (*self.graphs, "default"):
                raise InputError(f"run {run_id!r} ran on a graph {started.graph!r} of its own; give it as `graph=`")
            parts = services.parts
            compiled, name = self._compile(graph or (None if started.graph == "default" else started.graph), services)
            _check_fit(compiled, name, run_id, await services.checkpointer.aget_tuple(_config(run_id)))
            snapshot = await compiled.aget_state(_config(run_id))
            state = cast("RunState", snapshot.values)
            waiting = questions_in([i for task in snapshot.tasks for i in task.interrupts])
            said = _said(run_id, waiting, answer)
            spent = total_usage(e.usage for e in events if isinstance(e, ModelCalled) and not e.replayed)
            journal = await services.journal(run_id, False)
            first = max(e.seq for e in events) + 1
            limits = _limits_of(limits)
            if limits is None and started.limits is not None:
                limits = Limits.model_validate(started.limits)
            scope = self._scope(
                services, parts, started.task, run_id, journal, limits=limits, router=started.router, sinks=sinks,
                stream=stream, spent=spent, worked_s=_worked_s(events), first=first,
            )  # fmt: skip
            said = await _let_in(said, scope)
            scope.ctx.emit(RunResumed(finished_calls=await services.runs.finished_calls(run_id)))
            self._onboarding.tell(scope.ctx)
            for id_, word in said.items():
                shown = word if isinstance(word, str) else "yes" if word else "no"
                scope.ctx.emit(PersonAnswered(question_id=id_, answer=shown))
            if said:
                entry: Any = Command(resume=_by_interrupt(waiting, said))
            elif not state:
                entry = {"run_id": run_id, "task": started.task}
            else:
                entry = None if snapshot.tasks else state
            for reply in state.get("replies", {}).values():
                await self._recall(reply, scope)
            # not `next`, which leaves out what was done and is not in a checkpoint yet
            ended = bool(state) and not snapshot.tasks
            return await self._drive(compiled, entry, scope, started.task, services, ended=ended)

    async def cancel(self, run_id: str, *, reason: str = "given up") -> None:
        """Give up a run for good that waits for a person, or that was killed: it cannot be resumed any more.

        Raises:
            InputError: If the run is not known, is over, or is at work: cancel the task that awaits it, or end the
                process that it is in.
        """
        services = await self._open()
        _, started = await self._history(services, run_id)
        with self._claim(started.run_id), self._alone(started.run_id, services):
            events, _ = await self._history(services, started.run_id)
            sinks = (services.sink, *_taker(services.runs))
            emitter = Emitter(started.run_id, sinks, self.clock, first=max(e.seq for e in events) + 1)
            await services.checkpointer.adelete_thread(started.run_id)
            emitter.emit(RunCancelled(reason=reason, final=True))

    async def waiting(self, run_id: str) -> tuple[Question, ...]:
        """What a run waits for; empty if it waits for nobody.

        An answer that was given counts also where its process was killed over it: `resume` says if it must be given
        again.

        Raises:
            InputError: If the run is not known.
        """
        services = await self._open()
        waiting: dict[str, Question] = {}
        for event in await services.runs.history(run_id):
            match event:
                case RunWaiting():
                    waiting = {question.id: question for question in event.answer.waiting}
                case PersonAnswered():
                    waiting.pop(event.question_id, None)
                case RunFinished() | RunCancelled(final=True):
                    return ()
                case _:
                    pass
        return tuple(waiting.values())

    async def knows(self, run_id: str) -> bool:
        """Whether a run of this name was begun and is not forgotten."""
        services = await self._open()
        try:
            return bool(await services.runs.history(run_id))
        except InputError:
            return False

    async def stops(self, run_id: str) -> tuple[Answer, ...]:
        """The answers with which a run stopped so far, oldest first: each time it asked, and at its end.

        Empty for a run that is not known, or has not stopped yet.
        """
        services = await self._open()
        try:
            events = await services.runs.history(run_id)
        except InputError:
            return ()
        return tuple(e.answer for e in events if isinstance(e, RunWaiting | RunFinished))

    async def _history(self, services: Services, run_id: str) -> tuple[Sequence[Event], RunStarted]:
        """The events of a run that can go on, and its first."""
        events = await services.runs.history(run_id)
        started = next((e for e in events if isinstance(e, RunStarted)), None)
        if started is None:
            raise InputError(f"run {run_id!r} has no start in its trace; it cannot be resumed")
        run_id = started.run_id
        if any(isinstance(e, RunFinished) for e in events):
            raise InputError(f"run {run_id!r} has finished; see it with `agentmesh trace show {run_id}`")
        if given_up := next((e for e in events if isinstance(e, RunCancelled) and e.final), None):
            raise InputError(f"run {run_id!r} was cancelled for good ({given_up.reason}); ask again")
        return events, started

    # --- who works ----------------------------------------------------------------------------------------------------

    async def onboard(self, agent: AgentCard | Agent | Callable[..., Any]) -> AgentCard:
        """Take an agent in, in place of the one of the same id if there is one; the next decision knows it.

        Nothing is restarted or trained. Routers that learn cards do so before the agent takes part, for at most five
        seconds; questions that come meanwhile are decided without it. Runs at work keep the agents that they began
        with; one that waits for a person goes on with those of the day.

        A pool of `*` has the agent; a pool that names ids stays as it is: name it there (`mesh.graphs["desk"] = ...`
        counts from the next question on). A graph that was compiled with `AgentGraph.compile` does not ask a person for
        agents that joined later: compile it again. In a project no file is written; a card's file counts again when it
        changes.

        Args:
            agent: What `build_mesh` takes as an agent. A card with `shadow` competes and is never called.

        Returns:
            Its card.

        Raises:
            ConfigError: If the card says nothing, or names a role, a model or a tool that is not there. Nothing
                changed.
            ModelWeightsError: If its model's weights are not here. Nothing changed.
        """
        services = await self._open()
        return await self._onboarding.join(agent, services)

    async def retire(self, agent: str) -> None:
        """Take an agent out: the next decision does not know it. Runs at work keep the agents that they began with.

        What it said stays in memory. In a project no file is deleted; if its card's file changes, it is back.

        Raises:
            UnknownNameError: If there is no such agent.
            GraphError: If a stage of one of `graphs` names it.
            ConfigError: If it is the only one.
        """
        services = await self._open()
        await self._onboarding.leave(agent, services)

    async def refresh(self) -> AgentsChanged | None:
        """Look now whether cards in the project's `agents/` changed, as every question does; what changed, if anything.

        A process that serves questions may call it now and then, so that no question waits for routers that learn
        cards. Never raises for a card: what is wrong stands in `mistakes`, and its agent stays as it was.
        """
        return await self._onboarding.look(await self._open(), always=True)

    def onboard_sync(self, agent: AgentCard | Agent | Callable[..., Any]) -> AgentCard:
        """`onboard`, for code without an event loop."""
        return self.run_sync(self.onboard(agent))

    def retire_sync(self, agent: str) -> None:
        """`retire`, for code without an event loop."""
        self.run_sync(self.retire(agent))

    # --- the life of a mesh -------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        try:
            self.run_sync(self._open())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def flush(self) -> float:
        """Write memory that is only in the working set to disk; milliseconds that the last batch write took."""
        services = await self._open()
        await self.settle()
        started = time.perf_counter()
        if await services.store.flush() or self.last_flush_ms is None:
            self.last_flush_ms = (time.perf_counter() - started) * 1000
        return self.last_flush_ms

    async def settle(self) -> None:
        """Wait for the batch write that the last answer left behind, if one is at work."""
        if self._flushing is not None and not self._flushing.done():
            await asyncio.gather(self._flushing, return_exceptions=True)

    async def aclose(self) -> None:
        """Cancel the runs at work, finish background writes and free everything. May be called twice."""
        services, self._services = self._services, None
        for work in self._working.values():
            work.cancel()
        if self._active:
            await asyncio.wait(self._active.values(), timeout=CLOSE_WAIT_S)
        await self._onboarding.settle()
        await self.settle()
        self._flushing = None
        self._compiled.clear()
        self._loose.clear()
        self._loop = None
        if services is not None:
            await close_all(services.closers)

    def close(self) -> None:
        """`aclose`, for code that uses `ask_sync`."""
        with self._own_loop_lock:
            own, self._own_loop = self._own_loop, None
        if own is not None:
            try:
                own.run(self.aclose())
            finally:
                own.stop()

    async def scope_of(self, state: RunState, given: RunScope | None) -> RunScope:
        """The scope of a run; makes one where somebody invokes a compiled graph on their own."""
        if given is not None:
            return given
        services = await self._open()
        run_id = state.get("run_id", "loose")
        scope = self._loose.get(run_id)
        if scope is None:
            await self._onboarding.look(services)
            task = state["task"]
            if services.prepare is not None:
                await services.prepare(task.tenant)
            # an earlier process may have begun it; without a folder it lives as long as its scope
            journal = await services.journal(run_id, False) if services.keep_checkpoints else MemoryJournal()
            scope = self._scope(services, services.parts, task, run_id, journal, resumable=False)
            if run_id in self._loose:  # a branch beside this one was quicker
                return self._loose[run_id]
            self._loose[run_id] = scope
            agents = tuple(scope.parts.cards)
            scope.ctx.emit(RunStarted(task=task, graph="own", agents=agents, version=__version__))
            self._onboarding.tell(scope.ctx)
            while len(self._loose) > LOOSE_SCOPES:
                self._loose.popitem(last=False)
        return scope

    async def _open(self) -> Services:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop, self._opening = loop, asyncio.Lock()
            self._onboarding.open_here()
        if self._loop is not loop:
            raise ConfigError(
                "this mesh is open in another event loop; use `ask_sync` everywhere, or one mesh for each loop"
            )
        if self._services is None:
            async with self._opening:
                if self._services is None:
                    self._services = await self._open_services(self._onboarding.team)
        return self._services

    # --- a run --------------------------------------------------------------------------------------------------------

    def _scope(
        self,
        services: Services,
        parts: Parts,
        task: Task,
        run_id: str,
        journal: Journal,
        *,
        limits: Limits | None = None,
        router: str | None = None,
        sinks: Sequence[TraceSink] = (),
        stream: bool = False,
        spent: Usage | None = None,
        worked_s: float = 0.0,
        first: int = 1,
        resumable: bool = True,
    ) -> RunScope:
        limits = limits or self.limits
        sinks = (services.sink, *sinks, *(_taker(services.runs) if resumable else ()))
        gate = asyncio.Semaphore(limits.max_concurrency)
        ctx = RunContext(
            run_id=run_id,
            tenant=task.tenant,
            user=task.user,
            thread=task.thread,
            limits=limits,
            clock=self.clock,
            rng=random.Random(run_id),
            journal=journal,
            emitter=Emitter(run_id, sinks, self.clock, first=first),
            meter=Meter(
                limits,
                started=self.clock.monotonic() - worked_s,
                clock=self.clock,
                spent=spent,
                accounts=services.accounts(task, run_id),
            ),
            keep_prompts=self._keep_prompts,
            stream=stream,
        )

        async def run(call: AgentCall) -> AgentReply:
            return await run_call(call, parts, ctx)

        executor = LocalExecutor(run, journal=journal, gate=gate, seconds_left=ctx.seconds_left)
        return RunScope(ctx=ctx, parts=parts, executor=executor, router=router)

    async def _recall(self, reply: AgentReply, scope: RunScope) -> None:
        """Put what an earlier process heard back into memory: its working set died with it."""
        card = scope.parts.cards.get(reply.agent)
        if card is not None:
            step = "/".join(reply.call_id.split("/")[1:-2])
            task = Task(text=reply.part, tenant=scope.ctx.tenant, user=scope.ctx.user, thread=scope.ctx.thread)
            drafts = drafts_of(reply, task, card, scope.ctx.run_id, scope.parts)
            await remember(drafts, scope.parts, scope.ctx.at(step=step, agent=reply.agent))

    async def _drive(
        self, compiled: Any, entry: Any, scope: RunScope, task: Task, services: Services, *, ended: bool = False
    ) -> Answer:
        """Run the graph to its end, or to where it waits for a person, and make the answer whole."""
        ctx = scope.ctx
        waits = False
        try:
            if self._services is not services:
                raise StoreError(_closed_text(ctx.run_id))
            state = entry if ended else await self._work(compiled, entry, scope)
            answer = _whole(cast("RunState", state), ctx)
            asked = questions_in(state.get("__interrupt__", ()))
            if asked:
                answer = await self._wait(answer, asked, task, cast("RunState", state), scope, services)
                waits = True
                return answer
            state = cast("RunState", state)
            await self._end_turn(_told(task, state), answer, state, scope, services)
            ctx.emit(RunFinished(answer=answer))
        except asyncio.CancelledError:
            ctx.emit(RunCancelled(reason="cancelled by the caller"))
            raise
        except MeshError as error:
            ctx.emit(RunFailed(error=str(error), kind=type(error).__name__))
            raise
        except aiosqlite.Error as error:
            ctx.emit(RunFailed(error=str(error), kind=type(error).__name__))
            text = f"run {ctx.run_id!r}: its checkpoints cannot be written ({error}); free disk space, then resume it"
            raise StoreError(text) from error
        except Exception as error:
            ctx.emit(RunFailed(error=f"{type(error).__name__}: {error}", kind=type(error).__name__))
            raise
        finally:
            if not services.keep_checkpoints and not waits:
                await services.checkpointer.adelete_thread(ctx.run_id)
        self._flush_soon(ctx, services)
        return answer

    async def _wait(
        self,
        answer: Answer,
        asked: Mapping[str, Sequence[Question]],
        task: Task,
        state: RunState,
        scope: RunScope,
        services: Services,
    ) -> Answer:
        """The answer of a run that stops to ask; what it asks back stands in the conversation already."""
        questions = [question for group in asked.values() for question in group]
        answer = waiting_answer(answer, questions)
        if task.thread is not None and answer.status is AnswerStatus.CLARIFY:
            turns = _turns(_told(task, state), answer)
            await services.threads.add(task.tenant, task.thread, scope.ctx.run_id, turns)
        for question in questions:
            scope.ctx.emit(PersonAsked(question=question))
        scope.ctx.emit(RunWaiting(answer=answer))
        self._flush_soon(scope.ctx, services)
        for run_id in services.runs.crowded_out() if isinstance(services.runs, RecentRuns) else ():
            if not services.keep_checkpoints:
                await services.checkpointer.adelete_thread(run_id)
        return answer

    async def _work(self, compiled: Any, entry: Any, scope: RunScope) -> Any:
        """The graph in a task of its own, so that closing the mesh ends it and not the task of the caller."""
        run_id = scope.ctx.run_id
        call = compiled.ainvoke(entry, _config(run_id), context=scope, durability="async")
        work = self._working[run_id] = asyncio.ensure_future(call)
        try:
            return await work
        except asyncio.CancelledError as error:
            caller = asyncio.current_task()
            if self._services is None and work.cancelled() and not (caller and caller.cancelling()):
                raise StoreError(_closed_text(run_id)) from error
            raise
        finally:
            del self._working[run_id]

    @contextmanager
    def _claim(self, run_id: str) -> Generator[None]:
        """Hold a run id for as long as the run is at work here; `InputError` if it is."""
        if run_id in self._active:
            raise InputError(f"run {run_id!r} is at work in this process; wait for it, or choose another `run_id`")
        done = self._active[run_id] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            del self._active[run_id]
            done.set_result(None)

    def _alone(self, run_id: str, services: Services) -> AbstractContextManager[None]:
        """Keeps other processes from going on with a run that is at work here."""
        shared = services.keep_checkpoints and len(self._active) <= MOST_LOCKED
        return services.alone(run_id) if shared else nullcontext()

    async def _keep_turn(self, task: Task, answer: Answer, scope: RunScope, services: Services) -> None:
        """Add the question, what the agents said and the answer to the conversation.

        An answer that holds the words of a private agent stands in the history, which is the user's, but not in the
        memory that other agents search.
        """
        stopped = answer.decision is not None and bool(answer.decision.stopped)  # it must not come back as history
        if answer.status is AnswerStatus.FAILED or stopped or task.thread is None:
            return
        await services.threads.add(task.tenant, task.thread, scope.ctx.run_id, _turns(task, answer))
        cards = scope.parts.cards
        private = any(r.ok and cards[r.agent].visibility == "private" for r in answer.replies if r.agent in cards)
        turn = drafts_from_turn(task, "" if private else answer.text, run_id=scope.ctx.run_id)
        drafts = [*self._said(task, answer, scope), *turn]
        await remember(drafts, scope.parts, scope.ctx)

    async def _end_turn(self, task: Task, answer: Answer, state: RunState, scope: RunScope, services: Services) -> None:
        """Leave in memory and in the conversation what later runs may read.

        A run alone is a conversation of its own: nobody reads what its agents said once it is over.
        """
        gone = list(state.get("withdrawn", ()))
        if task.thread is None:
            gone += [item_id(draft) for draft in self._said(task, answer, scope)]
        if gone:
            try:
                await services.store.delete(task.tenant, gone)
            except MeshError as error:
                text = f"what the agents said stays in memory: {error}"
                scope.ctx.emit(StepFailed(error=text, kind=type(error).__name__))
        refused = state.get("said", {}).get(ALLOW_QUESTION) is False  # then it is as if it had been blocked
        if task.thread is not None and not refused:
            await self._keep_turn(task, answer, scope, services)

    def _said(self, task: Task, answer: Answer, scope: RunScope) -> list[Draft]:
        """What memory keeps of the replies."""
        replies = ((reply, scope.parts.cards.get(reply.agent)) for reply in answer.replies)
        return [d for reply, card in replies if card for d in drafts_of(reply, task, card, answer.run_id, scope.parts)]

    def _flush_soon(self, ctx: RunContext, services: Services) -> None:
        """Write memory to disk in one batch behind the answer; runs that end meanwhile share the next batch."""
        self._unflushed = True
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.ensure_future(self._flush(ctx, services))

    async def _flush(self, ctx: RunContext, services: Services) -> None:
        while self._unflushed:
            self._unflushed = False
            started, error = time.perf_counter(), None
            items = 0
            try:
                items = await services.store.flush()
            except MeshError as caught:
                error = str(caught)
            took = (time.perf_counter() - started) * 1000
            if items or error:
                self.last_flush_ms = took
                ctx.emit(MemoryFlushed(items=items, latency_ms=took, error=error))

    # --- input --------------------------------------------------------------------------------------------------------

    def _compile(self, graph: AgentGraph | GraphSpec | str | None, services: Services) -> tuple[Any, str]:
        if isinstance(graph, str):
            if graph not in self.graphs:
                raise UnknownNameError("graph", graph, sorted(self.graphs))
            graph = self.graphs[graph]
        team, asking = self._onboarding.team, self.asking
        known = self._compiled.get(id(graph))
        if known is not None and known.asking == asking:
            if known.team is not team:
                self._onboarding.check(known.spec)
                known.spec.check(self.agents, CONDITIONS)
                known.team = team
            return known.compiled, "default" if graph is None else known.spec.name
        conditions: Mapping[str, Condition] = CONDITIONS
        if graph is None:
            spec = default_graph(max_agents=services.parts.max_agents)
        elif isinstance(graph, AgentGraph):
            spec, conditions = graph.draft(), graph.conditions
        else:
            spec = graph
        self._onboarding.check(spec)
        spec.check(self.agents, conditions)
        for router in spec.routers():
            services.parts.router(router)
        compiled = state_graph(spec, conditions, self.scope_of, asking=asking, guarded=self.guarded).compile(
            checkpointer=services.checkpointer, name=spec.name
        )
        if not isinstance(graph, AgentGraph):  # a builder may still grow
            self._compiled[id(graph)] = _Compiled(compiled, graph, spec, asking, team)
        return compiled, "default" if graph is None else spec.name

    def _check_input(
        self,
        text: str,
        *,
        tenant: str,
        user: str | None,
        thread: str | None,
        run_id: str | None,
        limits: Limits | None,
    ) -> None:
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
            raise InputError(f"the question must be text, not {type(text).__name__}")
        most = (limits or self.limits).max_question_chars
        if not text.strip():
            raise InputError("the question is empty")
        if len(text) > most:
            raise InputError(
                f"the question has {len(text):,} characters, at most {most:,} are taken (`limits.max_question_chars`); "
                "put long documents into memory/knowledge/ and ask about them"
            )
        for name, value in (("question", text), ("tenant", tenant), ("user", user), ("thread", thread)):
            if not isinstance(value, str | None):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InputError(f"the {name} must be text, not {type(value).__name__}")
            try:
                (value or "").encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"the {name} is not valid UTF-8 at character {error.start}; send it as UTF-8"
                ) from error
        for name, value in (("tenant", tenant), ("user", user or "-"), ("thread", thread or "-")):
            if not value.strip() or len(value) > MAX_NAME_CHARS:
                raise InputError(f"the {name} must have 1 to {MAX_NAME_CHARS} characters")
        if run_id is not None and not RUN_ID.fullmatch(run_id):
            raise InputError(f"{run_id[:80]!r} is not a run id: letters, digits, `_`, `.` and `-`, at most 128")


@dataclass
class _Compiled:
    """A graph that was compiled, as long as what it is wired for holds."""

    compiled: Any
    graph: GraphSpec | None
    """What was asked for; None: the default graph. Kept, so that no other object gets its id."""
    spec: GraphSpec
    asking: frozenset[str]
    """Who may need a person's yes: those are wired otherwise."""
    team: Team
    """That its names were checked against."""


async def close_all(closers: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Call all of them, last to first; one that fails does not keep the others from it. The first failure is raised."""
    failures: list[Exception] = []
    for close in reversed(closers):
        try:
            await close()
        except Exception as error:
            failures.append(error)
    if failures:
        raise failures[0]


def _config(run_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": run_id}, "recursion_limit": 10_000}


def _closed_text(run_id: str) -> str:
    return f"the mesh was closed while run {run_id!r} was at work; open it again and resume the run"


def _limits_of(limits: Limits | Mapping[str, Any] | None) -> Limits | None:
    """Limits, given as such or by name."""
    if limits is None or isinstance(limits, Limits):
        return limits
    made, mistakes = validated(Limits, limits)
    if made is None:
        raise InputError("; ".join(f"limits.{dotted(steps)}: {text}" for steps, text in mistakes))
    return made


def _taker(runs: Runs) -> tuple[TraceSink, ...]:
    """The keeper of runs as a sink, if it wants their events."""
    return (runs,) if isinstance(runs, RecentRuns) else ()


def _check_fit(compiled: Any, name: str, run_id: str, found: Any) -> None:
    """Raise `GraphError` if the run stopped at a node that its graph has not any more: LangGraph would leave it out."""
    if found is None:
        return
    pending = [
        *found.checkpoint["channel_values"].items(),
        *((channel, value) for _, channel, value in found.pending_writes),
    ]
    for channel, value in pending:
        sends = cast("list[object]", value if isinstance(value, list) else [value])
        gone = [send.node for send in sends if isinstance(send, Send) and send.node not in compiled.nodes]
        # a node to run, or a join some of whose sources came
        if channel.startswith("branch:to:") or (channel.startswith("join:") and value):
            gone += [] if channel in compiled.channels else [channel.rpartition(":")[2]]
        if gone:
            text = (
                f"run {run_id!r} stopped at {gone[0]!r}, which it cannot go on from: stages, approvals or guardrails "
                f"have changed; put them back, or give the run up with `agentmesh cancel {run_id}`"
            )
            raise GraphError(name, [text])


def _said(
    run_id: str, waiting: Mapping[str, Sequence[Question]], answer: str | bool | Mapping[str, str | bool] | None
) -> dict[str, str | bool]:
    """What the answer means for the questions that wait; `InputError` if one of the two is missing."""
    questions = [question for group in waiting.values() for question in group]
    if not questions:
        if answer is not None:
            raise InputError(f"run {run_id!r} waits for no answer; resume it without one")
        return {}
    if answer is None:
        raise InputError(
            f"run {run_id!r} waits for an answer: {questions[0].text} (answer with "
            f"`agentmesh resume {run_id} --answer TEXT` or `mesh.resume(run_id, answer)`)"
        )
    return answers_to(questions, answer)


async def _let_in(said: Mapping[str, str | bool], scope: RunScope) -> dict[str, str | bool]:
    """What people wrote, as guardrails let it in; `InputError` if they do not: the run goes on waiting."""
    taken: dict[str, str | bool] = {}
    for id_, word in said.items():
        if isinstance(word, str) and scope.parts.guardrails:
            checked = await run_guardrails(scope.parts.guardrails, Where.INPUT, word, scope.ctx)
            if checked.action in (Action.BLOCK, Action.ASK):
                raise InputError(f"the answer was not taken ({checked.reason}); the run still waits for another one")
            word = checked.text
        taken[id_] = word
    return taken


def _by_interrupt(
    waiting: Mapping[str, Sequence[Question]], said: Mapping[str, str | bool]
) -> dict[str, dict[str, str | bool]]:
    """The answers under the interrupts of LangGraph that wait for them."""
    by_id = {id_: {q.id: said[q.id] for q in group if q.id in said} for id_, group in waiting.items()}
    return {id_: answers for id_, answers in by_id.items() if answers}


def _told(task: Task, state: RunState) -> Task:
    """The task with what the user answered in between."""
    return clarified(task, state.get("held", {}), state.get("said", {}))


def _turns(task: Task, answer: Answer) -> tuple[Message, ...]:
    """A run as turns of its conversation, the last one with who worked on it."""
    turns = [Message(role="user", text=task.text)]
    for asked in task.clarifications:
        turns += [Message(role="assistant", text=asked.question), Message(role="user", text=asked.answer)]
    return (*turns, Message(role="assistant", text=answer.text, agents=_worked(answer)))


def _worked(answer: Answer) -> tuple[str, ...]:
    """Who answered, in routing order: the contributors that had something to say; those who replied, if none merged
    them."""
    said = [c.agent for c in answer.contributors if c.status is ReplyStatus.ANSWERED]
    return tuple(dict.fromkeys(said or [r.agent for r in answer.replies if r.ok]))


def _worked_s(events: Sequence[Event]) -> float:
    """Seconds that a run was at work so far: from each start to where it began to wait, or to the last event of that
    process."""
    total, last, working = 0.0, 0.0, False
    for event in events:
        begins = isinstance(event, RunStarted | RunResumed)
        if working and not begins:
            total += max(0.0, event.at - last)
        last = event.at
        working = begins or (working and not isinstance(event, RunWaiting))
    return total


def _whole(state: RunState, ctx: RunContext) -> Answer:
    """The answer with everything that only the end of the run knows."""
    view = view_of(state)
    answer = answer_so_far(view, ctx)
    meter = ctx.meter
    stop: StopReason | None = meter.stop if meter is not None else None
    cut_short = stop is not None and answer.status in (AnswerStatus.ANSWERED, AnswerStatus.NO_ANSWER)
    return answer.model_copy(
        update={
            "status": AnswerStatus.PARTIAL if cut_short else answer.status,
            "stop": stop,
            "decision": view.decision,
            "replies": view.replies,
            "rounds": max(state.get("visits", {}).values(), default=1),
            "usage": meter.spent if meter is not None else total_usage(r.usage for r in view.replies),
            "latency_s": meter.seconds() if meter is not None else 0.0,
            "thread": ctx.thread,
        }
    )


class _LoopThread:
    """An event loop in a thread of its own, for callers that have none."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="agentmesh", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        if threading.current_thread() is self._thread:
            work.close()
            raise ConfigError("this is called from within the mesh's own event loop; await `ask` there")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()
