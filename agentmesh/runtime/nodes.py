"""The steps of a run as plain async functions over the protocols. LangGraph does not appear here.

Each step catches what goes wrong in it, says so in the trace and returns a value that the next step can work with: a
broken agent, router or store never takes the run down. Only cancellation passes through.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from pydantic_core import to_json

from agentmesh.agents.base import Agent, Refiner
from agentmesh.context.base import ContextRouter
from agentmesh.errors import ConfigError, MeshError, RoutingError, UnknownNameError
from agentmesh.guardrails import Guardrail, guard_drafts
from agentmesh.memory.writer import Draft, MemoryWriter, drafts_from_reply
from agentmesh.routing.base import Router
from agentmesh.run import Executor, RunContext
from agentmesh.runtime.executor import GRACE_S
from agentmesh.runtime.people import WHOLE_CALL
from agentmesh.runtime.state import RunView
from agentmesh.trace.events import (
    AgentReplied,
    AgentStarted,
    AnswerRefined,
    ContextSelected,
    LimitReached,
    LoopDetected,
    MemoryWritten,
    RouteDecided,
    StepFailed,
)
from agentmesh.types import (
    AgentCall,
    AgentCard,
    AgentReply,
    Answer,
    AnswerStatus,
    Approval,
    ContextPack,
    ContextRequest,
    Mode,
    ReplyStatus,
    RolePolicy,
    RouteRequest,
    RoutingDecision,
    RunBounds,
    Task,
)

__all__ = [
    "Parts",
    "RunScope",
    "agent_step",
    "answer_so_far",
    "answer_without_agents",
    "hold_to",
    "may_ask",
    "refine_step",
    "remember",
    "route_step",
]


@dataclass(frozen=True)
class Parts:
    """What a mesh is made of. Made by `assembly`; the runtime sees protocols only."""

    cards: Mapping[str, AgentCard]
    roles: Mapping[str, RolePolicy]
    agent: Callable[[str, str | None], Agent]
    """Agent of this id and variant."""
    router: Callable[[str | None], Router]
    """Router of this name; None: the mesh's own."""
    context_router: ContextRouter
    refiner: Refiner
    writer: MemoryWriter
    guardrails: tuple[Guardrail, ...] = ()
    """What checks questions, answers and what is remembered."""
    tokenizer: Callable[[AgentCard, str | None], str] = lambda card, variant: card.model
    """For which model the tokens of this agent's context are counted."""
    budget_tokens: int | None = None
    """Overrides the roles' budgets."""
    max_agents: int = 3
    """Most agents of the default graph's dispatch."""

    def pool(self, names: Sequence[str]) -> tuple[AgentCard, ...]:
        """The cards of these ids; `*` is all of them.

        Raises:
            UnknownNameError: If an id is not there.
        """
        if "*" in names:
            return tuple(self.cards.values())
        for name in names:
            if name not in self.cards:
                raise UnknownNameError("agent", name, sorted(self.cards))
        return tuple(self.cards[name] for name in dict.fromkeys(names))


@dataclass(frozen=True)
class RunScope:
    """A run in progress: its context, the parts it uses, the executor that runs its agents. Never part of graph
    state."""

    ctx: RunContext
    parts: Parts
    executor: Executor
    router: str | None = None
    """Overrides every router of the graph."""


async def route_step(router: Router, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
    """Decide which agents work, within the time of the run.

    Raises:
        RoutingError: If the router could not decide; nothing else.
    """
    try:
        async with asyncio.timeout(_finite(ctx.seconds_left())):
            decision = await router.route(request, ctx)
    except TimeoutError as error:
        raise RoutingError(f"the router {router.name!r} did not decide in time; raise `limits.max_seconds`") from error
    except RoutingError:
        raise
    except MeshError as error:
        raise RoutingError(f"the router {router.name!r} failed: {error}") from error
    except Exception as error:
        raise RoutingError(f"the router {router.name!r} failed with {type(error).__name__}: {error}") from error
    if mistake := _mistake_in(decision, request):
        raise RoutingError(f"the router {router.name!r} {mistake}")
    ctx.emit(RouteDecided(stage=request.stage, decision=decision))
    hold_to(decision.limits, ctx)
    return decision


def hold_to(bounds: RunBounds | None, ctx: RunContext) -> None:
    """Let the run take no more than a decision allows, where it says so. May be done again after a restart."""
    if bounds is not None and ctx.meter is not None:
        ctx.meter.tighten(bounds)


def _mistake_in(decision: RoutingDecision, request: RouteRequest) -> str | None:
    """Why a decision cannot be carried out, if it cannot."""
    agents = decision.agents
    known = {card.id for card in request.cards}
    if decision.mode is Mode.PATH and request.graph is not None:  # decides about all layers, is shown the first one
        path = request.graph.stage(request.stage).path
        known |= {agent for layer in (path.layers if path else ()) for agent in layer}
    if strange := [agent for agent in agents if agent not in known]:
        return f"chose {strange[0]!r}, which is not among the candidates"
    if not agents and decision.mode not in (Mode.CLARIFY, Mode.OUT_OF_SCOPE):
        return f"decided {decision.mode.value!r} but named no agent"
    if decision.mode is not Mode.PATH:
        if repeated := [agent for agent in agents if agents.count(agent) > 1]:
            return f"chose {repeated[0]!r} twice; give it both parts as one"
        if len(agents) > request.max_agents:
            return f"chose {len(agents)} agents, at most {request.max_agents} are allowed"
    return None


async def agent_step(call: AgentCall, scope: RunScope, *, read_later: bool = True) -> AgentReply:
    """Let one agent answer its part: choose its context, call it, write down what it said.

    Args:
        call: What to answer.
        scope: The run.
        read_later: Whether a later step of the run may read the reply in memory; else it is not written there.
    """
    card = scope.parts.cards.get(call.agent)
    replayed = False
    if card is None:
        reply = call.reply(ReplyStatus.FAILED, error=str(UnknownNameError("agent", call.agent, [*scope.parts.cards])))
    elif (reply := _withheld(call, card)) is None:
        held = await scope.ctx.journal.lookup(call.id)
        replayed = held is not None and held.finished
        deadline = min(card.limits.timeout_s, scope.ctx.seconds_left()) + GRACE_S
        reply = _asked_once(await scope.executor.submit(call, call.id, deadline), call, card)
    ctx = scope.ctx.at(step=call.step, agent=call.agent, attempt=call.attempt)
    if read_later and card is not None:
        await remember(drafts_of(reply, call.task, card, call.run_id, scope.parts), scope.parts, ctx)
    _say_limit(ctx)
    ctx.emit(AgentReplied(agent=call.agent, reply=reply, replayed=replayed))
    return reply


def _withheld(call: AgentCall, card: AgentCard) -> AgentReply | None:
    """The reply of an agent that may not be called; None: it may."""
    if card.shadow:
        text = f"{card.id!r} is a shadow, which is never called; take `shadow` out of its card"
        return call.reply(ReplyStatus.FAILED, error=text)
    allowed = call.approved.get(WHOLE_CALL)
    if allowed is False:
        return call.reply(ReplyStatus.REFUSED, error=f"a person did not allow {card.title} to act")
    if card.approval == Approval.ALWAYS and allowed is None:
        part = call.part or call.task.full_text
        pending = {"id": WHOLE_CALL, "text": f"May {card.title} work on this: {part}", "part": part}
        return call.reply(ReplyStatus.NEEDS_APPROVAL, error=f"{card.id!r} acts only after a yes", pending=pending)
    return None


def may_ask(card: AgentCard) -> bool:
    """Whether an agent may need a person: its card says so, or a tool of its may have been called by a process that
    was killed."""
    return card.approval != Approval.NEVER or bool(card.tools) or card.tool is not None


def _asked_once(reply: AgentReply, call: AgentCall, card: AgentCard) -> AgentReply:
    """The reply, as a failure if it waits for a person whom nobody will ask."""
    if reply.status is not ReplyStatus.NEEDS_APPROVAL:
        return reply
    if not may_ask(card):
        text = f"{card.id!r} wants to ask a person, but its card says `approval: never`; set `approval: tools`"
        return reply.model_copy(update={"status": ReplyStatus.FAILED, "error": text})
    asked = str((reply.pending or {}).get("id") or WHOLE_CALL)
    if asked in call.approved:
        text = f"{card.id!r} asked about {asked!r} again, which was answered; read `call.approved` before asking"
        return reply.model_copy(update={"status": ReplyStatus.FAILED, "error": text})
    return reply


async def run_call(call: AgentCall, parts: Parts, run: RunContext) -> AgentReply:
    """What an executor runs for one call: context, then agent. Failures are replies."""
    card = parts.cards[call.agent]
    left = min(card.limits.timeout_s, run.seconds_left())
    ctx = run.at(step=call.step, agent=call.agent, attempt=call.attempt, deadline=run.clock.monotonic() + left)
    started = ctx.clock.monotonic()
    try:
        agent = parts.agent(call.agent, call.variant)
        role = parts.roles.get(card.role, RolePolicy())
        pack = await _select(parts, call, card, role, ctx)
        ctx.emit(ContextSelected(agent=call.agent, pack=pack))
        key = input_key(call, pack)
        if call.seen.count(key) > ctx.limits.max_repeats:
            text = (
                f"{call.agent!r} would be given what it was given before; raise `limits.max_repeats` to call it again"
            )
            ctx.emit(LoopDetected(agent=call.agent, reason=text))
            return call.reply(ReplyStatus.REPEATED, error=text, input_key=key)
        ctx.emit(
            AgentStarted(
                agent=call.agent, call_id=call.id, part=call.part, attempt=call.attempt, model=agent.card.model
            )
        )
        said = cast("object", await agent.answer(call, pack, ctx))  # somebody's code: it may return anything
        if not isinstance(said, AgentReply):
            raise ConfigError(f"the agent {call.agent!r} returned {type(said).__name__}; return an AgentReply")
        _check_plain(said)
        reply = said.model_copy(update={"input_key": key})
    except MeshError as error:
        ctx.emit(StepFailed(agent=call.agent, error=str(error), kind=type(error).__name__))
        reply = call.reply(ReplyStatus.FAILED, error=str(error))
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        ctx.emit(StepFailed(agent=call.agent, error=text, kind=type(error).__name__))
        reply = call.reply(ReplyStatus.FAILED, error=text)
    mine = call.model_dump(
        include={"agent", "part", "weight", "order", "stage", "round"}
    )  # whatever the agent filled in
    return reply.model_copy(update={**mine, "call_id": call.id, "latency_ms": (ctx.clock.monotonic() - started) * 1000})


def _check_plain(reply: AgentReply) -> None:
    """Raise `ConfigError` if a reply holds what neither a trace nor a checkpoint can."""
    try:
        "".join([reply.text, *(sentence.text for sentence in reply.sentences)]).encode()
        for value in (reply.pending, reply.structured):
            if value is not None:
                to_json(value)
    except (ValueError, RecursionError) as error:
        text = f"the agent {reply.agent!r} returned what JSON cannot hold ({error}); return valid text and JSON values"
        raise ConfigError(text) from error


def input_key(call: AgentCall, pack: ContextPack) -> str:
    """Digest of what an agent is given: who it is, its part of the task, what it reads, what is known."""
    given = "\0".join((call.agent, call.variant or "", call.part or call.task.full_text, pack.text, *call.known))
    return hashlib.sha256(given.encode()).hexdigest()[:16]


async def _select(parts: Parts, call: AgentCall, card: AgentCard, role: RolePolicy, ctx: RunContext) -> ContextPack:
    thread = call.task.thread or call.run_id  # a run alone is a conversation of its own
    request = ContextRequest(
        task=call.task.model_copy(update={"thread": thread}),
        card=card,
        role=role,
        part=call.part,
        stage=call.stage,
        round=call.round,
        known=call.known,
        model=parts.tokenizer(card, call.variant),
        budget_tokens=parts.budget_tokens,
    )
    return await parts.context_router.select(request, ctx)


def drafts_of(reply: AgentReply, task: Task, card: AgentCard, run_id: str, parts: Parts) -> list[Draft]:
    """What memory keeps of a reply."""
    kind = parts.roles.get(card.role, RolePolicy()).writes
    return drafts_from_reply(reply, task, card, run_id=run_id, kind=kind)


async def remember(drafts: Sequence[Draft], parts: Parts, ctx: RunContext) -> None:
    """Write to shared memory what the guardrails let pass; a store that cannot be written is said in the trace and
    does not stop the run."""
    if drafts and parts.guardrails:
        drafts = await guard_drafts(parts.guardrails, drafts, ctx)
    if not drafts:
        return
    try:
        report = await parts.writer.write(ctx.tenant, drafts)
    except Exception as error:
        ctx.emit(StepFailed(agent=ctx.agent, error=f"memory was not written: {error}", kind=type(error).__name__))
        return
    ctx.emit(
        MemoryWritten(
            added=report.added, merged=report.merged, superseded=report.superseded, item_ids=tuple(report.item_ids)
        )
    )


async def refine_step(refiner: Refiner, task: Task, replies: Sequence[AgentReply], ctx: RunContext) -> Answer:
    """Make one answer of the replies. A refiner that fails leaves an answer that says so and carries the replies."""
    started = ctx.clock.monotonic()
    try:
        answer = await refiner.refine(task, replies, ctx)
    except Exception as error:
        ctx.emit(StepFailed(error=str(error), kind=type(error).__name__))
        said = "\n\n".join(f"{r.agent}: {r.text}" for r in replies if r.ok)
        answer = Answer(
            run_id=ctx.run_id,
            status=AnswerStatus.PARTIAL if said else AnswerStatus.FAILED,
            text=said or f"The replies could not be merged: {error}",
            refiner=f"none (the refiner {refiner.name!r} failed: {error})",
            replies=tuple(replies),
        )
    _say_limit(ctx)
    ctx.emit(
        AnswerRefined(
            refiner=answer.refiner,
            contributors=tuple(c.agent for c in answer.contributors if c.sentences),
            conflicts=len(answer.conflicts),
            latency_ms=(ctx.clock.monotonic() - started) * 1000,
        )
    )
    return answer


def answer_without_agents(decision: RoutingDecision, ctx: RunContext) -> Answer:
    """The answer where the router asks back, says that nothing fits, or stops the run."""
    if decision.stopped:
        return Answer(
            run_id=ctx.run_id,
            status=AnswerStatus.BLOCKED,
            text=decision.stopped,
            refiner="none (no agent was called)",
            decision=decision,
        )
    clarify = decision.mode is Mode.CLARIFY
    question = decision.question or "Could you say more precisely what you need?"
    return Answer(
        run_id=ctx.run_id,
        status=AnswerStatus.CLARIFY if clarify else AnswerStatus.OUT_OF_SCOPE,
        text=question if clarify else "None of the agents here is for this; nothing was asked of them.",
        question=question if clarify else None,
        refiner="none (no agent was called)",
        decision=decision,
    )


def answer_so_far(view: RunView, ctx: RunContext) -> Answer:
    """The answer that the run has, or what its agents said, where nothing merged it."""
    if view.answer is not None:
        return view.answer
    if not view.replies and view.decision is not None and not view.decision.chosen:
        return answer_without_agents(view.decision, ctx)
    said = [r for r in view.replies if r.ok]
    return Answer(
        run_id=ctx.run_id,
        status=AnswerStatus.ANSWERED if said else AnswerStatus.NO_ANSWER,
        text="\n\n".join(r.text for r in said),
        refiner="none (no refine stage was reached)",
    )


def failed_answer(error: Exception, ctx: RunContext) -> Answer:
    """The answer where no decision could be made."""
    ctx.emit(StepFailed(error=str(error), kind=type(error).__name__))
    return Answer(run_id=ctx.run_id, status=AnswerStatus.FAILED, text=str(error), refiner="none (no agent was called)")


def _say_limit(ctx: RunContext) -> None:
    """Emit the first limit that stopped something, once a run."""
    meter = ctx.meter
    if meter is None:
        return
    meter.note_time()
    if meter.stop is not None and not meter.stop_said:
        meter.stop_said = True
        ctx.emit(LimitReached(stop=meter.stop))


def _finite(seconds: float) -> float | None:
    return None if seconds == float("inf") else seconds
