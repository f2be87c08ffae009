"""One frozen model per event, one union. What the terminal, the store, the evaluation and the replay see of a run."""

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from agentmesh.types import (
    AgentReply,
    Answer,
    ContextPack,
    Frozen,
    Mode,
    Question,
    RoutingDecision,
    StopReason,
    Task,
    Usage,
)

__all__ = [
    "AgentReplied",
    "AgentStarted",
    "AgentsChanged",
    "AnswerRefined",
    "ContextSelected",
    "Event",
    "GuardrailTripped",
    "LimitReached",
    "LoopDetected",
    "MemoryFlushed",
    "MemoryWritten",
    "ModelCalled",
    "PersonAnswered",
    "PersonAsked",
    "RouteDecided",
    "RoutesCompared",
    "RunCancelled",
    "RunFailed",
    "RunFinished",
    "RunResumed",
    "RunStarted",
    "RunWaiting",
    "StageEntered",
    "StepFailed",
    "TokensStreamed",
    "ToolCalled",
    "event_adapter",
]


class _Event(Frozen):
    """What every event carries; the emitter of a run fills in the first three."""

    run_id: str = ""
    seq: int = 0
    """Position within the run, from 1, without gaps."""
    at: float = 0.0
    """Seconds since 1970, UTC."""
    step: str = ""
    """`<stage>.r<round>`, or empty for the run as a whole."""


class RunStarted(_Event):
    type: Literal["run_started"] = "run_started"
    task: Task
    graph: str
    agents: tuple[str, ...]
    version: str
    """Of agentmesh."""
    router: str | None = None
    """What overrides the routers of the graph."""
    limits: dict[str, Any] | None = None
    """The run's own budgets; None: the mesh's."""


class RunResumed(_Event):
    type: Literal["run_resumed"] = "run_resumed"
    finished_calls: int
    """Calls that the journal holds and that are not repeated."""


class AgentsChanged(_Event):
    """The agents of the mesh changed while it runs. Stands in the trace of the first run that has the new ones.

    With mistakes only, nothing changed: what is wrong was left as it had been before.
    """

    type: Literal["agents_changed"] = "agents_changed"
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    mistakes: tuple[str, ...] = ()
    """What was not taken and how to mend it, a sentence each with its file, line and key."""


class StageEntered(_Event):
    type: Literal["stage_entered"] = "stage_entered"
    stage: str
    kind: str
    round: int


class RouteDecided(_Event):
    type: Literal["route_decided"] = "route_decided"
    stage: str
    decision: RoutingDecision


class RoutesCompared(_Event):
    """A second router decided about the same request; only the first one's decision was carried out.

    It may come after the end of its run, for nobody waits for it.
    """

    type: Literal["routes_compared"] = "routes_compared"
    stage: str
    router: str
    """Whose decision counts."""
    mode: Mode
    agents: tuple[str, ...]
    shadow: str
    """The router that decided silently."""
    shadow_mode: Mode | None = None
    """None: it failed."""
    shadow_agents: tuple[str, ...] = ()
    shadow_reason: str = ""
    same: bool
    """Whether both have the same mode and the same agents, in whatever order."""
    error: str = ""
    """Why the shadow failed."""
    latency_ms: float = 0.0
    """Of the shadow's decision."""


class ContextSelected(_Event):
    type: Literal["context_selected"] = "context_selected"
    agent: str
    pack: ContextPack


class AgentStarted(_Event):
    type: Literal["agent_started"] = "agent_started"
    agent: str
    call_id: str
    part: str
    attempt: int
    model: str


class TokensStreamed(_Event):
    """A piece of an agent's text as it is written. Passed on live, not stored."""

    type: Literal["tokens_streamed"] = "tokens_streamed"
    agent: str
    text: str


class ModelCalled(_Event):
    type: Literal["model_called"] = "model_called"
    call_id: str
    agent: str
    model: str
    usage: Usage
    latency_ms: float
    finish_reason: str = ""
    replayed: bool = False
    """The journal held the result; the model was not called again."""
    messages: tuple[dict[str, Any], ...] = ()
    """The prompt, where the trace is set to keep prompts."""
    reply: str = ""


class ToolCalled(_Event):
    type: Literal["tool_called"] = "tool_called"
    call_id: str
    agent: str
    tool: str
    """`server.tool`."""
    arguments: dict[str, Any]
    """JSON values."""
    latency_ms: float
    result_chars: int = 0
    """Characters of the result as the agent reads it."""
    error: str | None = None
    """Why it gave no result; None: it gave one."""
    replayed: bool = False
    """The journal held the result; the tool was not called again."""


class PersonAsked(_Event):
    """The run waits for a person, who is asked this."""

    type: Literal["person_asked"] = "person_asked"
    question: Question


class PersonAnswered(_Event):
    type: Literal["person_answered"] = "person_answered"
    question_id: str
    answer: str
    """What was said; `yes` or `no` to an approval."""


class GuardrailTripped(_Event):
    """A check found something in a text."""

    type: Literal["guardrail_tripped"] = "guardrail_tripped"
    guardrail: str
    where: str
    """`input`, `output` or `memory`."""
    action: str
    """`block`, `redact`, `flag` or `ask`."""
    reason: str
    """What was found, without the text itself."""
    found: int = 1
    """In how many places."""
    agent: str = ""
    """Who wrote the text, if an agent did."""


class LoopDetected(_Event):
    """An agent would have been given what it was given before; it was not called again."""

    type: Literal["loop_detected"] = "loop_detected"
    agent: str
    reason: str


class StepFailed(_Event):
    """Something failed and the run goes on: an attempt, a step, a write."""

    type: Literal["step_failed"] = "step_failed"
    agent: str = ""
    error: str
    kind: str
    """Name of the error's class."""
    retry_in_s: float | None = None
    """None: it is not tried again."""


class AgentReplied(_Event):
    type: Literal["agent_replied"] = "agent_replied"
    agent: str
    reply: AgentReply
    replayed: bool = False


class LimitReached(_Event):
    type: Literal["limit_reached"] = "limit_reached"
    stop: StopReason


class AnswerRefined(_Event):
    type: Literal["answer_refined"] = "answer_refined"
    refiner: str
    contributors: tuple[str, ...]
    conflicts: int
    latency_ms: float


class MemoryWritten(_Event):
    """Items that the writer took in; they are in the working set, not yet on disk."""

    type: Literal["memory_written"] = "memory_written"
    added: int
    merged: int
    """Items that were there already."""
    superseded: int
    item_ids: tuple[str, ...] = ()


class MemoryFlushed(_Event):
    type: Literal["memory_flushed"] = "memory_flushed"
    items: int
    latency_ms: float
    error: str | None = None


class RunFinished(_Event):
    type: Literal["run_finished"] = "run_finished"
    answer: Answer


class RunFailed(_Event):
    type: Literal["run_failed"] = "run_failed"
    error: str
    kind: str


class RunWaiting(_Event):
    """The run has stopped until a person answers; `answer.waiting` says what is asked."""

    type: Literal["run_waiting"] = "run_waiting"
    answer: Answer


class RunCancelled(_Event):
    type: Literal["run_cancelled"] = "run_cancelled"
    reason: str
    final: bool = False
    """Whether it was given up for good, so that it cannot be resumed."""


Event = Annotated[
    RunStarted
    | RunResumed
    | AgentsChanged
    | StageEntered
    | RouteDecided
    | RoutesCompared
    | ContextSelected
    | AgentStarted
    | TokensStreamed
    | ModelCalled
    | ToolCalled
    | PersonAsked
    | PersonAnswered
    | GuardrailTripped
    | LoopDetected
    | StepFailed
    | AgentReplied
    | LimitReached
    | AnswerRefined
    | MemoryWritten
    | MemoryFlushed
    | RunFinished
    | RunWaiting
    | RunFailed
    | RunCancelled,
    Field(discriminator="type"),
]
"""Any event; `type` says which."""

event_adapter: TypeAdapter[Event] = TypeAdapter(Event)
"""Reads an event from JSON; validates it."""
