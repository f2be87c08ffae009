"""What one run carries to every step: its name, its clock, its limits, its events, its journal.

A `RunContext` lives in one process and is never part of graph state; everything a resumed run needs is in the
state, the journal and the stores.
"""

import itertools
import random
import secrets
import time
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from pydantic import Field

from agentmesh.errors import LimitError
from agentmesh.trace.base import NullSink, TraceSink
from agentmesh.trace.events import Event
from agentmesh.types import AgentCall, AgentReply, Frozen, RunBounds, StopReason, Usage

__all__ = [
    "Accounts",
    "Clock",
    "Executor",
    "Journal",
    "JournalEntry",
    "Limits",
    "MemoryJournal",
    "Meter",
    "RunContext",
    "SystemClock",
    "new_run_id",
]


class Clock(Protocol):
    """The time, so that tests can choose it."""

    def now(self) -> float:
        """Seconds since 1970, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that only go forward."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class Limits(Frozen):
    """What one run may take; reaching one ends it with a partial answer and the reason."""

    max_tokens: int | None = Field(default=None, ge=0)
    """Prompt and completion tokens of all model calls."""
    max_usd: float | None = Field(default=None, ge=0)
    """US$ of all model calls."""
    max_seconds: float | None = Field(default=300.0, ge=0)
    """Seconds of wall time."""
    max_calls: int | None = Field(default=100, ge=0)
    """Model calls."""
    max_rounds: int = Field(default=10, ge=1, le=50)
    """Rounds of any loop, whatever the graph says."""
    max_questions: int = Field(default=2, ge=0, le=10)
    """Questions back to the user that one stage may ask before it decides without; 0: a run that is torn ends with its
    question. Approvals are not counted."""
    max_repeats: int = Field(default=0, ge=0, le=50)
    """How often an agent is called again, in later rounds, with exactly what it was given before."""
    max_concurrency: int = Field(default=16, ge=1)
    """Agents of one run that work at the same time."""
    max_question_chars: int = Field(default=100_000, ge=1)
    """Characters of a question."""


class Accounts(Protocol):
    """The budgets over many runs that the calls of one run are charged to: its tenant's, its user's, its agents'.

    `agent` is who calls, empty for the mesh itself. Only `read` waits.
    """

    async def read(self) -> None:
        """Bring what is known of them up to date, where that is old. Called before `check`.

        Raises:
            StoreError: If it cannot be read.
        """
        ...

    def check(self, agent: str) -> None:
        """Raise `LimitError` if a budget that such a call is charged to is reached."""
        ...

    def begin(self, agent: str) -> None:
        """A call is on its way: it counts as a call until `end`."""
        ...

    def end(self, agent: str) -> None:
        """It came back, or failed."""
        ...

    def add(self, usage: Usage, agent: str) -> None:
        """Charge what a call took."""
        ...

    def usd_bounds(self, agent: str) -> tuple[str, ...]:
        """Keys of the settings that bound the US$ of such a call."""
        ...


class Meter:
    """What a run has used so far. The only thing of a run that changes; `models/call.py` writes it."""

    def __init__(
        self,
        limits: Limits,
        *,
        started: float,
        clock: Clock,
        spent: Usage | None = None,
        accounts: Accounts | None = None,
    ) -> None:
        self.limits, self.clock, self.accounts = limits, clock, accounts
        self.started = started
        """`clock.monotonic()` at the start, moved back by what earlier processes used."""
        self.spent = spent or Usage()
        self.pending_calls = 0
        self.stop: StopReason | None = None
        self.stop_said = False
        """Whether the trace has it already."""
        self._unpriced: set[str] = set()
        """Bounds that were said to be none."""
        self._where: dict[str, str] = {}
        """What set a limit, where the settings did not."""

    def tighten(self, bounds: RunBounds) -> None:
        """Let the run take no more than this from now on; a limit that is narrower already stays."""
        narrower: dict[str, float] = {}
        for name in ("max_tokens", "max_usd", "max_calls", "max_seconds"):
            wanted, held = getattr(bounds, name), getattr(self.limits, name)
            if wanted is not None and (held is None or wanted < held):
                narrower[name], self._where[name] = wanted, bounds.where or "limits"
        if narrower:
            self.limits = self.limits.model_copy(update=narrower)

    def seconds(self) -> float:
        """Wall time so far."""
        return self.clock.monotonic() - self.started

    def seconds_left(self) -> float:
        """Seconds until `max_seconds`, infinite without that limit; never negative."""
        if self.limits.max_seconds is None:
            return float("inf")
        return max(0.0, self.limits.max_seconds - self.seconds())

    async def read(self) -> None:
        """Learn what others spent of the budgets that are not of this run alone; `StoreError` if that fails."""
        if self.accounts is not None:
            await self.accounts.read()

    def check(self, agent: str = "") -> None:
        """Raise `LimitError` if a model may not be called now, by this agent or by the mesh itself.

        What is the run's, its tenant's or its user's stops the run; an agent's own budget stops that agent only.
        """
        used = (
            ("max_calls", self.limits.max_calls, self.spent.calls + self.pending_calls),
            ("max_tokens", self.limits.max_tokens, self.spent.tokens),
            ("max_usd", self.limits.max_usd, self.spent.cost_usd),
            ("max_seconds", self.limits.max_seconds, self.seconds()),
        )
        for name, allowed, spent in used:
            if allowed is not None and spent >= allowed:
                error = LimitError(name, allowed, spent, where=self._where.get(name, "limits"))
                self.note(error)
                raise error
        if self.accounts is not None:
            try:
                self.accounts.check(agent)
            except LimitError as error:
                if error.scope != "agent":
                    self.note(error)
                raise

    def note(self, error: LimitError) -> None:
        """Remember the first limit that stopped something."""
        if self.stop is None:
            limit = error.limit if error.scope == "run" else f"{error.scope}.{error.limit}"
            self.stop = StopReason(limit=limit, allowed=error.allowed, spent=error.spent, text=str(error))

    def note_time(self) -> None:
        """Remember that the run's time is over, if it is."""
        if self.limits.max_seconds is not None and self.seconds() >= self.limits.max_seconds:
            where = self._where.get("max_seconds", "limits")
            self.note(LimitError("max_seconds", self.limits.max_seconds, self.seconds(), where=where))

    def begin(self, agent: str = "") -> None:
        """A call is on its way: until `end`, it counts as a call."""
        self.pending_calls += 1
        if self.accounts is not None:
            self.accounts.begin(agent)

    def end(self, agent: str = "") -> None:
        """It came back, or failed."""
        self.pending_calls -= 1
        if self.accounts is not None:
            self.accounts.end(agent)

    def add(self, usage: Usage, agent: str = "") -> None:
        """Count what a call took, and charge it to the budgets that it falls under."""
        self.spent = self.spent + usage
        if self.accounts is not None:
            self.accounts.add(usage, agent)

    def unpriced(self, agent: str = "") -> tuple[str, ...]:
        """Keys of the settings that bound US$ but cannot bound a call whose price is not known; each once a run."""
        bounds = ("limits.max_usd",) if self.limits.max_usd is not None else ()
        if self.accounts is not None:
            bounds += self.accounts.usd_bounds(agent)
        new = tuple(bound for bound in bounds if bound not in self._unpriced)
        self._unpriced.update(new)
        return new


class JournalEntry(Frozen):
    """What the journal knows of one call."""

    call_id: str
    kind: str
    """`model`, `tool` or `agent`."""
    finished: bool
    idempotent: bool = True
    result: dict[str, Any] | None = None


@runtime_checkable
class Journal(Protocol):
    """Remembers calls, so that a resumed run does not repeat a finished one."""

    async def lookup(self, call_id: str) -> JournalEntry | None:
        """The entry of that call, if it ever began."""
        ...

    async def begin(self, call_id: str, kind: str, *, idempotent: bool = True) -> None:
        """Note that the call starts. Durable before it returns if the call is not idempotent."""
        ...

    async def finish(self, call_id: str, kind: str, result: dict[str, Any], *, wait: bool = True) -> None:
        """Note its result. Durable before it returns, or, without `wait`, no later than whatever is noted next."""
        ...


class MemoryJournal:
    """A journal that lives as long as the run."""

    def __init__(self) -> None:
        self.entries: dict[str, JournalEntry] = {}

    async def lookup(self, call_id: str) -> JournalEntry | None:
        return self.entries.get(call_id)

    async def begin(self, call_id: str, kind: str, *, idempotent: bool = True) -> None:
        begun = JournalEntry(call_id=call_id, kind=kind, finished=False, idempotent=idempotent)
        self.entries.setdefault(call_id, begun)

    async def finish(self, call_id: str, kind: str, result: dict[str, Any], *, wait: bool = True) -> None:
        self.entries[call_id] = JournalEntry(call_id=call_id, kind=kind, finished=True, result=result)


@runtime_checkable
class Executor(Protocol):
    """Runs agent calls somewhere."""

    def submit(self, call: AgentCall, id: str, deadline: float) -> Awaitable[AgentReply]:
        """Run the call; awaiting the result gives its reply.

        A call whose id finished before is not repeated: its reply is given again. A failure is a reply with a status.

        Args:
            call: What to run; serialisable.
            id: Deterministic: `{run}/{step}/{agent}/{attempt}`.
            deadline: Seconds from now; past it the reply's status is `timed_out`.
        """
        ...


class Emitter:
    """Numbers and dates the events of a run and hands them to its sinks."""

    def __init__(self, run_id: str, sinks: tuple[TraceSink, ...], clock: Clock, *, first: int = 1) -> None:
        self.run_id, self.sinks, self.clock = run_id, sinks, clock
        self._seq = itertools.count(first)

    def emit(self, event: Event, *, step: str = "") -> None:
        """Hand on one event."""
        stamp: dict[str, Any] = {"run_id": self.run_id, "seq": next(self._seq), "at": self.clock.now()}
        if step and not event.step:
            stamp["step"] = step
        stamped = event.model_copy(update=stamp)
        for sink in self.sinks:
            sink.emit(stamped)


@dataclass(frozen=True)
class RunContext:
    """What one step of a run may use besides its arguments."""

    run_id: str
    tenant: str = "default"
    user: str | None = None
    thread: str | None = None
    step: str = ""
    agent: str = ""
    attempt: int = 1
    limits: Limits = field(default_factory=Limits)
    clock: Clock = field(default_factory=SystemClock)
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    """Seeded by the run id: the same run draws the same numbers."""
    journal: Journal = field(default_factory=MemoryJournal)
    emitter: Emitter | None = None
    meter: Meter | None = None
    deadline: float = float("inf")
    """`clock.monotonic()` at which the present step must be done."""
    keep_prompts: bool = False
    """Whether `model_called` events carry the prompt and the reply."""
    stream: bool = False
    """Whether models should stream, so that `tokens_streamed` events come."""
    _calls: Iterator[int] = field(default_factory=lambda: itertools.count(1), repr=False)

    def at(self, *, step: str | None = None, agent: str | None = None, attempt: int | None = None,
           deadline: float | None = None) -> "RunContext":  # fmt: skip
        """The same run, seen from another step; call numbers start again at 1."""
        seen = object.__new__(RunContext)  # `dataclasses.replace` takes ten times as long, and every step comes by here
        seen.__dict__.update(
            self.__dict__,
            step=self.step if step is None else step,
            agent=self.agent if agent is None else agent,
            attempt=self.attempt if attempt is None else attempt,
            deadline=self.deadline if deadline is None else min(deadline, self.deadline),
            _calls=itertools.count(1),
        )
        return seen

    def emit(self, event: Event) -> None:
        """Hand an event to the trace."""
        if self.emitter is not None:
            self.emitter.emit(event, step=self.step)

    async def check_budget(self) -> None:
        """Raise `LimitError` if this step may not ask a model now; reads what is left of budgets, if that is due."""
        if self.meter is not None:
            await self.meter.read()
            self.meter.check(self.agent)

    def next_call_id(self) -> str:
        """`{run}/{step}/{agent}/{attempt}/{n}`: the same after a restart, for steps are deterministic."""
        return f"{self.run_id}/{self.step}/{self.agent or '-'}/{self.attempt}/{next(self._calls)}"

    def seconds_left(self) -> float:
        """Seconds until the step's deadline or the run's time limit, whichever is first; never negative."""
        left = self.deadline - self.clock.monotonic()
        if self.meter is not None:
            left = min(left, self.meter.seconds_left())
        return max(0.0, left)


def new_run_id() -> str:
    """A name for a run: sorts by time, unique without asking anybody."""
    return f"{time.strftime('%y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"


def loose_context(run_id: str = "loose", *, sink: TraceSink | None = None, limits: Limits | None = None) -> RunContext:
    """A context for using one part alone: in a script, a test, somebody else's graph."""
    clock, limits = SystemClock(), limits or Limits()
    return RunContext(
        run_id=run_id,
        limits=limits,
        clock=clock,
        emitter=Emitter(run_id, (sink or NullSink(),), clock),
        meter=Meter(limits, started=clock.monotonic(), clock=clock),
    )
