"""The nouns that travel from step to step. Frozen values: made by one step, only read by later ones."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentmesh.graphs import GraphSpec

__all__ = [
    "AgentCall",
    "AgentCard",
    "AgentLimits",
    "AgentReply",
    "AgentVariant",
    "Answer",
    "AnswerStatus",
    "Approval",
    "Candidate",
    "Chosen",
    "CitedSentence",
    "Clarification",
    "Conflict",
    "ContextPack",
    "ContextRequest",
    "Contributor",
    "Frozen",
    "Inclusion",
    "MemoryItem",
    "MemoryKind",
    "Message",
    "Mode",
    "Outcome",
    "PackItem",
    "Question",
    "QuestionKind",
    "ReplyStatus",
    "RolePolicy",
    "RouteRequest",
    "RoutingDecision",
    "RunBounds",
    "Sensitive",
    "Side",
    "StopReason",
    "Task",
    "Usage",
    "total_usage",
]

Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""A number between 0 and 1."""
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""Letters, digits, `_`, `.`, `-`; at most 64."""
Sensitive = Literal["personal", "secret"]
"""Kinds of data that an agent is sent only if its card `allows` them."""


class Frozen(BaseModel):
    """The base of every value here: immutable and closed."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        ser_json_inf_nan="strings",  # `null`, the default, could not be read back
    )


# --- the task ---------------------------------------------------------------------------------------------------------


class Message(Frozen):
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    text: str
    agents: tuple[str, ...] = ()
    """Of an assistant's turn: ids of the agents that worked on it, where that is known."""


class Clarification(Frozen):
    """A question back to the user, and what was answered."""

    question: str
    options: tuple[str, ...] = ()
    """Ids of the agents that the router was torn between, best first."""
    answer: str


class Task(Frozen):
    """What somebody wants, and on whose behalf."""

    text: str
    history: tuple[Message, ...] = ()
    """Earlier turns of the conversation, oldest first."""
    tenant: str = "default"
    """Whose data this is; nothing crosses tenants."""
    user: str | None = None
    thread: str | None = None
    """The conversation, if it is one."""
    clarifications: tuple[Clarification, ...] = ()
    """What the user was asked back about this task and answered, oldest first."""

    @property
    def full_text(self) -> str:
        """The text with what the user added when asked back, a line each."""
        return "\n".join((self.text, *(c.answer for c in self.clarifications)))


class Usage(Frozen):
    """What model calls took. Adds up with `+`."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    cost_known: bool = True
    """False if the price of some model is not known, so that `cost_usd` is a lower bound."""

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            calls=self.calls + other.calls,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cost_usd=self.cost_usd + other.cost_usd,
            cost_known=self.cost_known and other.cost_known,
        )


def total_usage(parts: Iterable[Usage]) -> Usage:
    """The sum of `parts`."""
    return sum(parts, start=Usage())


# --- agents and roles -------------------------------------------------------------------------------------------------


class Approval(StrEnum):
    """When a person must say yes before an agent acts."""

    NEVER = "never"
    TOOLS = "tools"
    ALWAYS = "always"


class AgentLimits(Frozen):
    """What one call of an agent may take."""

    timeout_s: float = Field(default=60.0, gt=0, le=3600)
    """Seconds from the start of the call to its reply, retries included."""
    max_output_tokens: int = Field(default=400, ge=1, le=1_000_000)
    """Tokens that the model may write."""
    max_usd: float | None = Field(default=None, ge=0)
    """US$ for one call of the agent; absent: only the run's own budget holds."""
    max_prompt_tokens: int | None = Field(default=None, ge=64)
    """Tokens of the whole prompt; absent: the model's context window."""
    retries: int = Field(default=1, ge=0, le=10)
    """Further attempts after a failure that may pass (`retryable`)."""


class AgentVariant(Frozen):
    """One quality/cost choice of an agent."""

    model: str | None = None
    prompt: str | None = None
    """Name of a prompting policy, e.g. `step-by-step`."""


class AgentCard(Frozen):
    """What an agent is for. Only `id` and `description` are required."""

    id: Id
    """In a project: the file's name without `.md`."""
    description: str = Field(min_length=1)
    """What it answers, in one or two sentences; routers read this."""
    name: str = ""
    """What people see; absent: the id."""
    role: str = "solver"
    """An entry of `memory/roles.yaml`."""
    model: str = "default"
    """A name of `[tool.agentmesh.models]`, or any LiteLLM model id."""
    tools: tuple[str, ...] = ()
    """`server` or `server.tool`, from `tools/mcp.json`."""
    examples: tuple[str, ...] = ()
    """What it should get; the more, the better it is routed to."""
    not_for: tuple[str, ...] = ()
    """What it should not get."""
    variants: dict[str, AgentVariant] = Field(default_factory=dict[str, AgentVariant])
    """Optional quality/cost choices, by name."""
    limits: AgentLimits = AgentLimits()
    approval: Approval = Approval.NEVER
    visibility: Literal["shared", "private"] = "shared"
    """Whether its replies enter memory that others may read."""
    allows: tuple[Sensitive, ...] = ()
    """Sensitive kinds that it may be sent."""
    shadow: bool = False
    """Competes in routing and is traced, but is never called."""
    expose: bool = False
    """The MCP server offers it as a tool."""
    output_schema: dict[str, Any] | None = None
    """A JSON schema that the reply is validated against."""
    tool: str | None = None
    """`server.tool`: an expert without a model, the tool is its answer."""
    generated: tuple[Literal["description"], ...] = ()
    """Keys that `agentmesh agents describe` wrote; take one out when a person has read or rewritten its text."""
    instructions: str = ""
    """The body of the card's file."""

    @property
    def title(self) -> str:
        """The name people see."""
        return self.name or self.id


class MemoryKind(StrEnum):
    """What a memory item is."""

    PLAN_STEP = "plan_step"
    FACT = "fact"
    EVIDENCE = "evidence"
    ANSWER = "answer"
    TOOL_OUTPUT = "tool_output"
    DIALOGUE = "dialogue"
    PREFERENCE = "preference"


class RolePolicy(Frozen):
    """What agents of a role read, and how much of it."""

    budget_tokens: dict[str, int] = Field(default_factory=lambda: {"base": 512})
    """Tokens of memory, per stage name; `base` elsewhere."""
    kinds: dict[MemoryKind, float] = Field(
        default_factory=lambda: {
            MemoryKind.EVIDENCE: 1.0,
            MemoryKind.FACT: 0.9,
            MemoryKind.ANSWER: 0.6,
            MemoryKind.TOOL_OUTPUT: 0.6,
            MemoryKind.PLAN_STEP: 0.5,
            MemoryKind.PREFERENCE: 0.5,
            MemoryKind.DIALOGUE: 0.3,
        }
    )
    """Kinds of memory it may read, each with its weight; a kind that is not named is never read."""
    stage_priority: dict[str, float] = Field(default_factory=dict[str, float])
    """Weight of a stage's items, per stage name; 1.0 elsewhere."""
    reserve_tokens: dict[str, int] = Field(default_factory=dict[str, int])
    """Tokens kept free for named parts of the pack, e.g. `task_state`."""
    writes: MemoryKind = MemoryKind.ANSWER
    """What kind of memory its agents' replies are: a planner's may be `plan_step`."""

    def budget_for(self, stage: str) -> int:
        """The token budget in this stage."""
        return self.budget_tokens.get(stage, self.budget_tokens.get("base", 512))


# --- memory and context -----------------------------------------------------------------------------------------------


class MemoryItem(Frozen):
    """One thing that the mesh knows."""

    id: str
    """Unique within the tenant; derived from key and content, so that the same item is the same id."""
    text: str
    kind: MemoryKind = MemoryKind.EVIDENCE
    key: str = ""
    """What it is about, stable over versions: a newer item with the same key supersedes the older."""
    source: str = ""
    """Where it comes from: a file with its heading, an agent, a tool, a user."""
    tenant: str = "default"
    user: str | None = None
    """Whose it is, if it belongs to one user: nobody else's agents read it."""
    author: str | None = None
    """The agent that wrote it."""
    run_id: str | None = None
    thread: str | None = None
    stage: str = ""
    round: int = 0
    roles: tuple[str, ...] = ()
    """Roles that may read it; empty: every role."""
    private_to: str | None = None
    """The only agent that may read it."""
    trust: Share = 1.0
    """How far it may be believed: 1.0 the project's own text, lower for tools, the web, users. A derived item has the
    minimum of its lineage."""
    lineage: tuple[str, ...] = ()
    """Ids of the items it was derived from."""
    created_at: float = 0.0
    """Seconds since 1970, UTC."""
    valid_from: float | None = None
    valid_until: float | None = None
    """Seconds since 1970, UTC; outside of the interval the item is not read."""
    superseded_by: str | None = None
    """Id of the newer version; such an item is kept but not read."""


class Inclusion(Frozen):
    """Why one item is in a pack, or is not."""

    item_id: str
    source: str = ""
    kept: bool
    reason: str
    """In words: `chosen`, or what kept it out."""
    tokens: int
    score: float
    parts: dict[str, float] = Field(default_factory=dict[str, float])
    """The parts of the score by name, before weighting."""


class PackItem(Frozen):
    """One item as an agent reads it."""

    ref: str
    """The short name to cite it by in this pack, e.g. `m1`."""
    item_id: str
    text: str
    source: str = ""
    kind: MemoryKind = MemoryKind.EVIDENCE
    trust: Share = 1.0
    tokens: int
    """Tokens of its rendered form, source line included."""
    score: float = 0.0


class ContextPack(Frozen):
    """The part of shared memory that one agent reads in one round."""

    agent: str
    role: str
    items: tuple[PackItem, ...] = ()
    """In reading order."""
    text: str = ""
    """The items rendered as data: fenced, labelled, with their source lines."""
    tokens: int = 0
    """Tokens of `text`; never above `budget_tokens`."""
    budget_tokens: int = 0
    tokenizer: str = ""
    """What counted the tokens, and whether that is exact for the agent's model."""
    report: tuple[Inclusion, ...] = ()
    """Every item that was considered."""
    router: str = ""
    """The context router that chose."""
    latency_ms: float = 0.0


class ContextRequest(Frozen):
    """What a context router decides about."""

    task: Task
    card: AgentCard
    role: RolePolicy
    part: str
    """The part of the task that is this agent's own."""
    stage: str = "route"
    round: int = 1
    model: str = ""
    """Name of the agent's model: its tokens are counted."""
    budget_tokens: int | None = None
    """Overrides the role's budget."""
    known: tuple[str, ...] = ()
    """Sentences that earlier stages and rounds of the run found, oldest first: what they name can be looked up next."""


# --- routing ----------------------------------------------------------------------------------------------------------


class RouteRequest(Frozen):
    """What a router decides about."""

    task: Task
    cards: tuple[AgentCard, ...]
    """The candidates."""
    graph: GraphSpec | None = None
    """The graph, where the choice is a path."""
    stage: str = "route"
    max_agents: int = Field(default=3, ge=1)
    round: int = 1
    tried: tuple[str, ...] = ()
    """Agents that already worked on this task in earlier rounds."""
    known: tuple[str, ...] = ()
    """Sentences that earlier stages and rounds of the run found, oldest first."""


class Mode(StrEnum):
    """What a router decided to do."""

    SOLO = "solo"
    PARALLEL = "parallel"
    PATH = "path"
    CLARIFY = "clarify"
    OUT_OF_SCOPE = "out_of_scope"


class Chosen(Frozen):
    """One agent that works, and on what."""

    agent: str
    score: float
    """The router's own score; higher is better. Not comparable between routers."""
    probability: Share | None = None
    """Calibrated probability that this agent is needed, where the router has one."""
    weight: float = 1.0
    """Its share in the answer; the weights of a decision add up to 1."""
    part: str = ""
    """The part of the task that is its own; empty: all of it."""
    variant: str | None = None
    stage: str = ""
    """Layer of the path, where the choice is a path."""


class Candidate(Frozen):
    """One agent that was considered."""

    agent: str
    score: float
    probability: Share | None = None
    chosen: bool
    reason: str
    """Why it was chosen or passed over, in words with the numbers."""
    signals: dict[str, float] = Field(default_factory=dict[str, float])
    """The parts of the score by name."""


class RunBounds(Frozen):
    """What a run may take at most from a decision on. The run's own limits hold besides: nothing is ever widened."""

    max_tokens: int | None = Field(default=None, ge=0)
    """Prompt and completion tokens of all model calls of the run, those before the decision among them."""
    max_usd: float | None = Field(default=None, ge=0)
    """US$, likewise."""
    max_calls: int | None = Field(default=None, ge=0)
    """Model calls, likewise."""
    max_seconds: float | None = Field(default=None, ge=0)
    """Seconds of wall time since the run began."""
    where: str = ""
    """What set them, for the message where one is reached: `rules[2].limits`."""

    def least(self, other: "RunBounds") -> "RunBounds":
        """The narrower one of each bound."""
        names = ("max_tokens", "max_usd", "max_calls", "max_seconds")
        pairs = {name: [v for v in (getattr(self, name), getattr(other, name)) if v is not None] for name in names}
        where = ", ".join(dict.fromkeys(w for w in (self.where, other.where) if w))
        return RunBounds(where=where, **{name: min(values) for name, values in pairs.items() if values})


class RoutingDecision(Frozen):
    """Which agents work on a task, and why."""

    mode: Mode
    chosen: tuple[Chosen, ...] = ()
    """Best first; empty for `clarify` and `out_of_scope`."""
    reason: str
    candidates: tuple[Candidate, ...] = ()
    """Every agent that was considered, best first, the rejected ones too."""
    evidence: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Further numbers: thresholds, pheromone rows, signals that matched. JSON values."""
    confidence: Share = 0.0
    """Calibrated probability that the decision is right."""
    question: str | None = None
    """What to ask the user, in the mode `clarify`."""
    options: tuple[str, ...] = ()
    """Ids of the agents that it is torn between, best first, in the mode `clarify`."""
    stopped: str = ""
    """In the mode `out_of_scope`: what the user is told where the run is stopped; empty: nobody is for the task."""
    limits: RunBounds | None = None
    """What the rest of the run may take at most."""
    router: str
    latency_ms: float = 0.0
    usage: Usage = Usage()

    @property
    def agents(self) -> tuple[str, ...]:
        """Ids of the chosen agents, best first."""
        return tuple(c.agent for c in self.chosen)


# --- replies and answers ----------------------------------------------------------------------------------------------


class AgentCall(Frozen):
    """One agent call as it is handed to an executor. Serialisable: no live objects."""

    run_id: str
    step: str
    """`<stage>.r<round>`; inner graphs prefix their stage."""
    agent: str
    attempt: int = 1
    task: Task
    part: str = ""
    variant: str | None = None
    stage: str = "route"
    round: int = 1
    weight: float = 1.0
    limits: RunBounds | None = None
    """What the decision lets the run take at most."""
    order: int = 0
    """Position in the routing order."""
    known: tuple[str, ...] = ()
    """Sentences that earlier stages and rounds of the run found, oldest first."""
    seen: tuple[str, ...] = ()
    """`input_key` of what this agent was given in earlier rounds of the run."""
    approved: dict[str, bool] = Field(default_factory=dict[str, bool])
    """What a person said to what this call asked, by the `id` in its reply's `pending`."""

    @property
    def id(self) -> str:
        """`{run}/{step}/{agent}/{attempt}`: the same call has the same id after a restart."""
        return f"{self.run_id}/{self.step}/{self.agent}/{self.attempt}"

    def reply(self, status: "ReplyStatus", **said: Any) -> "AgentReply":
        """The reply to this call: what it takes over from the call, and what is said."""
        return AgentReply(
            call_id=self.id,
            agent=self.agent,
            status=status,
            part=self.part,
            weight=self.weight,
            order=self.order,
            stage=self.stage,
            round=self.round,
            **said,
        )


class CitedSentence(Frozen):
    """A sentence of a reply with the items that it rests on."""

    text: str
    items: tuple[str, ...] = ()
    """Ids of memory items; empty: the agent's own words without a source."""
    source: str = ""
    """Where the first item comes from."""
    origin: Literal["model", "extractive", "tool"] = "model"
    """`extractive`: taken from the pack as it stands, not written by a model."""
    trust: Share = 1.0


class ReplyStatus(StrEnum):
    """How an agent call ended."""

    ANSWERED = "answered"
    NO_EVIDENCE = "no_evidence"
    """It ran, but its memory does not hold the answer."""
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    OVER_LIMIT = "over_limit"
    NEEDS_APPROVAL = "needs_approval"
    REFUSED = "refused"
    """A person said no."""
    REPEATED = "repeated"
    """It would have read what it read in an earlier round, so it was not called again."""
    CANCELLED = "cancelled"


class AgentReply(Frozen):
    """What one agent says. A failure is a reply with a status, never an exception through the graph."""

    call_id: str
    agent: str
    status: ReplyStatus
    text: str = ""
    """What it says to the user, citations as `[ref]` left out."""
    sentences: tuple[CitedSentence, ...] = ()
    """The same, sentence by sentence with sources; then the extracts of the pack, if the model is not capable."""
    cited: tuple[str, ...] = ()
    """Ids of the memory items used."""
    structured: Any = None
    """The parsed reply, where the card has an `output_schema`. A JSON value."""
    part: str = ""
    weight: float = 1.0
    order: int = 0
    stage: str = "route"
    round: int = 1
    model: str = ""
    extractive: bool = False
    """Some sentences are extracts, because the model is declared not capable."""
    usage: Usage = Usage()
    latency_ms: float = 0.0
    pack_tokens: int = 0
    budget_tokens: int = 0
    error: str | None = None
    """One sentence: what went wrong and what to do."""
    pending: dict[str, Any] | None = None
    """What waits for a person, with `needs_approval`: `id` (unique within the call), `text` (the question to ask) and
    whatever helps to decide, e.g. `tool` and `arguments`. JSON values."""
    input_key: str = ""
    """Digest of what the agent was given: its part and its pack."""

    @property
    def ok(self) -> bool:
        """Whether it has something to say."""
        return self.status is ReplyStatus.ANSWERED


class Side(Frozen):
    """One side of a conflict."""

    agent: str
    text: str
    value: str
    """What it says differently, e.g. `14 days`."""
    item_id: str | None = None
    source: str = ""


class Conflict(Frozen):
    """Agents or documents that do not agree. Both sides are kept."""

    kind: Literal["number", "date", "negation", "statement"]
    about: str
    """What they disagree on, in words."""
    sides: tuple[Side, ...]
    explanation: str = ""


class Contributor(Frozen):
    """An agent's share in the answer."""

    agent: str
    status: ReplyStatus
    sentences: int = 0
    """How many sentences of the answer are its own or shared by it."""
    cited: tuple[str, ...] = ()
    note: str = ""
    """What went wrong, where something did."""


class QuestionKind(StrEnum):
    """Why a run asks a person."""

    CLARIFY = "clarify"
    """A router is torn between agents."""
    APPROVAL = "approval"
    """An agent may act only after a yes."""
    GUARDRAIL = "guardrail"
    """A check leaves it to a person whether a text passes."""


class Question(Frozen):
    """What a run asks a person before it goes on."""

    id: str
    """Unique in the run, the same after a restart."""
    kind: QuestionKind
    text: str
    options: tuple[str, ...] = ()
    """What may be answered: `yes` and `no`, or the agents in question by id (any other text is taken too)."""
    stage: str = ""
    agent: str | None = None
    """Who wants to act."""
    about: dict[str, Any] = Field(default_factory=dict[str, Any])
    """What helps to decide: a tool with its arguments, the text in question. JSON values."""


class AnswerStatus(StrEnum):
    """How a run ended, or what it waits for."""

    ANSWERED = "answered"
    PARTIAL = "partial"
    """A limit stopped the run, or some agents failed; what was found stands."""
    CLARIFY = "clarify"
    """A question back to the user; while `waiting` names it, the run goes on once it is answered."""
    NEEDS_APPROVAL = "needs_approval"
    """A person must say yes or no before the run goes on."""
    BLOCKED = "blocked"
    """A guardrail let the question or the answer not pass."""
    OUT_OF_SCOPE = "out_of_scope"
    NO_ANSWER = "no_answer"
    """The agents ran and found nothing that answers."""
    FAILED = "failed"


class StopReason(Frozen):
    """Why a run stopped before its end."""

    limit: str
    """Name of the budget, e.g. `max_tokens`."""
    allowed: float
    spent: float
    text: str


class Answer(Frozen):
    """What the mesh says, who said it, where they disagree, and what it took."""

    run_id: str
    status: AnswerStatus
    text: str
    conflicts: tuple[Conflict, ...] = ()
    contributors: tuple[Contributor, ...] = ()
    """Every agent that was called, in routing order, the failed ones too."""
    sentences: tuple[CitedSentence, ...] = ()
    refiner: str = ""
    """Which refiner ran, and why that one."""
    question: str | None = None
    """What the mesh asks back, with the status `clarify`."""
    waiting: tuple[Question, ...] = ()
    """What the run waits for; `mesh.resume(run_id, answer)` goes on with it. Empty: the run is over."""
    stop: StopReason | None = None
    decision: RoutingDecision | None = None
    """The last routing decision."""
    replies: tuple[AgentReply, ...] = ()
    rounds: int = 1
    usage: Usage = Usage()
    latency_s: float = 0.0
    thread: str | None = None


class Outcome(Frozen):
    """What a finished run teaches a router."""

    run_id: str
    task: Task
    decision: RoutingDecision
    quality: Share
    cost_usd: float = 0.0
    latency_s: float = 0.0
    judged_by: str = ""
    """What decided the quality: a checker, a judge model, the refiner, a user."""
