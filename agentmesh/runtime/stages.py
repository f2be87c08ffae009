"""What each node of a graph does: it reads the state, lets a step run, and says what it adds to the state.

`wiring.py` ties these nodes together. A node that may be entered again after a person answered takes up where it
stopped: the round stays the same, and what was decided or said already is not asked for again.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.runtime import Runtime
from langgraph.types import interrupt

from agentmesh.agents.merging import spoken
from agentmesh.errors import GraphError, MeshError, RoutingError
from agentmesh.graphs import GraphSpec, StageSpec
from agentmesh.routing.base import Router
from agentmesh.runtime.nodes import (
    RunScope,
    agent_step,
    answer_without_agents,
    failed_answer,
    hold_to,
    refine_step,
    route_step,
)
from agentmesh.runtime.people import (
    CLARIFY,
    approval_question,
    approved_in,
    clarified,
    clarify_question,
    heard,
    open_questions,
)
from agentmesh.runtime.state import AgentInput, RunState, view_of
from agentmesh.trace.events import StageEntered
from agentmesh.types import (
    AgentCall,
    AgentReply,
    Answer,
    Mode,
    Question,
    QuestionKind,
    ReplyStatus,
    RouteRequest,
    RoutingDecision,
    Task,
)

__all__ = ["ScopeOf", "Stages", "known_in"]

ScopeOf = Callable[[RunState, RunScope | None], Awaitable[RunScope]]
"""Finds the scope of a run; makes one where somebody invokes the compiled graph on their own."""

FIRST_KNOWN, LAST_KNOWN = 4, 8
"""Sentences of earlier stages and rounds that a call is told: where the chain began, and the newest."""


class Stages:
    """Makes the nodes of one spec.

    Args:
        spec: The graph.
        scope_of: Finds the scope of a run.
        prefix: Path of the stages around it, for a subgraph.
    """

    def __init__(self, spec: GraphSpec, scope_of: ScopeOf, prefix: str) -> None:
        self.spec, self.scope_of, self.prefix = spec, scope_of, prefix

    # --- where a stage stands -----------------------------------------------------------------------------------------

    def open_questions(self, stage: StageSpec, state: RunState) -> list[Question]:
        """What this stage asks and nobody answered yet."""
        return open_questions(self.prefix + stage.name, state.get("held", {}), state.get("said", {}))

    def step(self, stage: StageSpec, state: RunState) -> str:
        """The present step of a stage: its round, and after how many questions back."""
        name = self.prefix + stage.name
        return _after_answers(f"{name}.r{state.get('visits', {}).get(name, 0)}", state)

    def _taken_up(self, stage: StageSpec, state: RunState) -> bool:
        """Whether the stage goes on with its present round because people answered."""
        name = self.prefix + stage.name
        round_, said = state.get("visits", {}).get(name, 0), state.get("said", {})
        if round_ == 0 or not said:
            return False
        base, decisions = f"{name}.r{round_}", state.get("decisions", {})
        for question in state.get("held", {}).values():
            answered = question.kind is QuestionKind.CLARIFY and question.id in said and _within(question.id, base)
            if answered and _next_step(question.id.rpartition("/")[0]) not in decisions:
                return True
        replies = state.get("replies", {}).values()
        return any(r.status is ReplyStatus.NEEDS_APPROVAL and _within(_step_of(r), base) for r in replies)

    async def _enter(self, stage: StageSpec, state: RunState, runtime: Runtime[RunScope]) -> tuple[RunScope, int, str]:
        """The scope of the run, the round of this stage and the name of this step."""
        scope = await self.scope_of(state, runtime.context)
        for decision in state.get("decisions", {}).values():  # a process that took the run over does not know them yet
            hold_to(decision.limits, scope.ctx)
        name = self.prefix + stage.name
        round_ = state.get("visits", {}).get(name, 0)
        if self._taken_up(stage, state):
            return scope, round_, _after_answers(f"{name}.r{round_}", state)
        round_ += 1
        step = f"{name}.r{round_}"
        scope.ctx.at(step=step).emit(StageEntered(stage=name, kind=stage.kind.value, round=round_))
        return scope, round_, step

    # --- dispatch -----------------------------------------------------------------------------------------------------

    def dispatch(self, stage: StageSpec) -> Callable[..., Any]:
        """Decides which agents work."""

        async def dispatch(state: RunState, runtime: Runtime[RunScope]) -> dict[str, Any]:
            scope, round_, step = await self._enter(stage, state, runtime)
            name = self.prefix + stage.name
            ctx = scope.ctx.at(step=step)
            update: dict[str, Any] = {"visits": {name: round_}}
            try:
                request = RouteRequest(
                    task=_task(state),
                    cards=scope.parts.pool(stage.pool),
                    graph=self.spec,
                    stage=stage.name,
                    max_agents=stage.max_agents,
                    round=round_,
                    tried=tuple(sorted({r.agent for r in state.get("replies", {}).values()})),
                    known=known_in(state),
                )
                decision = await route_step(scope.parts.router(scope.router or stage.router), request, ctx)
            except MeshError as error:
                failed = failed_answer(error, ctx)
                # what was said in an earlier round stands
                return update if state.get("replies") else {**update, "answer": failed}
            update["decisions"] = {step: decision}
            if self._asks_back(decision, step, round_, scope):
                question = clarify_question(step, name, decision)
                update["held"] = {question.id: question}
            elif decision.stopped or (not decision.chosen and self.ends_here(stage, state)):
                update["answer"] = answer_without_agents(decision, ctx)
            return update

        return dispatch

    def _asks_back(self, decision: RoutingDecision, step: str, round_: int, scope: RunScope) -> bool:
        """Whether the user is asked: later rounds go on with what there is."""
        return decision.mode is Mode.CLARIFY and round_ == 1 and _answers(step) < scope.ctx.limits.max_questions

    def ends_here(self, stage: StageSpec, state: RunState) -> bool:
        """Whether nobody being chosen ends the graph: nothing was said yet and no other branch is at work."""
        return not state.get("replies") and self.spec.entries() == (stage.name,)

    def decided(self, stage: StageSpec, state: RunState) -> RoutingDecision | None:
        """What the stage decided in its present step, if it did."""
        return state.get("decisions", {}).get(self.step(stage, state))

    def calls(self, stage: StageSpec, state: RunState, *, waiting: bool = False) -> list[AgentCall]:
        """One call per chosen agent, in routing order; with `waiting` only those that a person was asked about."""
        decision, step = self.decided(stage, state), self.step(stage, state)
        if decision is None:
            return []
        task, known, replies = _task(state), known_in(state), state.get("replies", {})
        calls = [
            self._call(
                state, stage, step, chosen.agent, task=task, known=known, part=chosen.part, variant=chosen.variant,
                weight=chosen.weight, order=order, limits=decision.limits,
            )
            for order, chosen in enumerate(decision.chosen)
        ]  # fmt: skip
        if not waiting:
            return calls
        return [c for c in calls if c.id in replies and replies[c.id].status is ReplyStatus.NEEDS_APPROVAL]

    def _call(
        self,
        state: RunState,
        stage: StageSpec,
        step: str,
        agent: str,
        *,
        task: Task,
        known: tuple[str, ...],
        run_id: str = "",
        **more: Any,
    ) -> AgentCall:
        call = AgentCall(
            run_id=state.get("run_id", run_id),
            step=step,
            agent=agent,
            task=task,
            stage=stage.name,
            round=state.get("visits", {}).get(self.prefix + stage.name, 1),
            known=known,
            **more,
        )
        asked = {"approved": approved_in(state.get("said", {}), call), "seen": _seen(state, call)}
        return call.model_copy(update=asked) if any(asked.values()) else call

    def branch(self, stage: StageSpec, *, read_later: bool) -> Callable[..., Any]:
        """Lets one chosen agent work."""

        async def branch(state: AgentInput, runtime: Runtime[RunScope]) -> dict[str, Any]:
            call = state["call"]
            if call is None:
                return {}
            known = cast("RunState", {"run_id": call.run_id, "task": call.task})
            scope = await self.scope_of(known, runtime.context)
            hold_to(call.limits, scope.ctx)
            reply = await agent_step(call, scope, read_later=read_later)
            _tell(scope.parts.router(scope.router or stage.router), reply)
            return self._replied(stage, call, reply)

        return branch

    def _replied(self, stage: StageSpec, call: AgentCall, reply: AgentReply) -> dict[str, Any]:
        """What a reply adds to the state: itself, and what a person is asked."""
        update: dict[str, Any] = {"replies": {call.id: reply}}
        if reply.status is ReplyStatus.NEEDS_APPROVAL:
            question = approval_question(call, reply, self.prefix + stage.name)
            update["held"] = {question.id: question}
        return update

    # --- the other kinds ----------------------------------------------------------------------------------------------

    def agent(self, stage: StageSpec) -> Callable[..., Any]:
        """Lets the agent of the stage work."""

        async def agent(state: RunState, runtime: Runtime[RunScope]) -> dict[str, Any]:
            scope, round_, step = await self._enter(stage, state, runtime)
            visits = {self.prefix + stage.name: round_}
            now = cast("RunState", {**state, "visits": {**state.get("visits", {}), **visits}})
            call = self._call(
                now, stage, step, stage.agent or "", task=_task(state), known=known_in(state), run_id=scope.ctx.run_id
            )
            return {"visits": visits, **self._replied(stage, call, await agent_step(call, scope))}

        return agent

    def path(self, stage: StageSpec) -> Callable[..., Any]:
        """Lets one agent of each layer work, one after another; stops where a person must answer first."""

        async def path(state: RunState, runtime: Runtime[RunScope]) -> dict[str, Any]:
            scope, round_, _ = await self._enter(stage, state, runtime)
            name = self.prefix + stage.name
            update: dict[str, Any] = {"visits": {name: round_}, "replies": {}, "decisions": {}, "held": {}}
            now = cast("RunState", {**state, "visits": {**state.get("visits", {}), name: round_}})
            base = f"{name}.r{round_}"
            last: str | None = None
            planned: dict[str, str] = {}
            layers = stage.path.layers if stage.path else ()
            forbidden = set(stage.path.forbid) if stage.path else set[tuple[str, str]]()
            for depth, layer in enumerate(layers, start=1):
                inner = f"{base}.l{depth}"
                agent = planned.get(str(depth))
                allowed = [a for a in layer if (last, a) not in forbidden]
                if agent is not None and agent not in allowed:
                    error = RoutingError(
                        f"the planned path goes to {agent!r}, which layer {depth} does not allow there"
                    )
                    failed_answer(error, scope.ctx.at(step=inner))
                    break
                if agent is None:
                    decided = _after_answers(inner, state)
                    decision = state.get("decisions", {}).get(decided)
                    if decision is None:
                        try:
                            request = RouteRequest(
                                task=_task(state),
                                cards=scope.parts.pool(allowed) if allowed else (),
                                graph=self.spec,
                                stage=stage.name,
                                max_agents=1,
                                round=round_,
                                known=known_in(now),
                            )
                            router = scope.parts.router(scope.router or stage.router)
                            decision = await route_step(router, request, scope.ctx.at(step=decided))
                        except MeshError as error:
                            failed = failed_answer(error, scope.ctx.at(step=inner))
                            if not update["replies"] and not state.get("replies"):
                                update["answer"] = failed
                            break
                        update["decisions"][decided] = decision
                    if decision.mode is Mode.PATH:
                        planned = {c.stage: c.agent for c in decision.chosen}
                    if self._asks_back(decision, decided, round_, scope):
                        question = clarify_question(decided, name, decision)
                        update["held"][question.id] = question
                        break
                    if decision.stopped:
                        update["answer"] = answer_without_agents(decision, scope.ctx.at(step=decided))
                        break
                    if not decision.chosen:
                        continue
                    agent = decision.chosen[0].agent
                call = self._call(
                    now, stage, inner, agent, task=_task(state), known=known_in(now), run_id=scope.ctx.run_id,
                    order=depth - 1,
                )  # fmt: skip
                held = state.get("replies", {}).get(call.id)
                if held is None or held.status is ReplyStatus.NEEDS_APPROVAL:
                    replied = self._replied(stage, call, await agent_step(call, scope))
                    update["replies"] |= replied["replies"]
                    now = cast("RunState", {**now, "replies": {**now.get("replies", {}), **replied["replies"]}})
                    if "held" in replied:
                        update["held"] |= replied["held"]
                        break
                last = agent
            return update

        return path

    def refine(self, stage: StageSpec) -> Callable[..., Any]:
        """Makes one answer of the replies so far."""

        async def refine(state: RunState, runtime: Runtime[RunScope]) -> dict[str, Any]:
            scope, round_, step = await self._enter(stage, state, runtime)
            visits = {self.prefix + stage.name: round_}
            replies = _latest(view_of(state).replies)
            if not replies:
                earlier = state.get("answer")
                return {"visits": visits, "answer": earlier or _nobody(scope, step, state)}
            answer = await refine_step(scope.parts.refiner, _task(state), replies, scope.ctx.at(step=step))
            return {"visits": visits, "answer": answer.model_copy(update={"replies": ()})}  # the state has them once

        return refine

    def subgraph(self, stage: StageSpec, compiled: Any) -> Callable[..., Any]:
        """Runs another compiled graph as one stage."""

        async def subgraph(state: RunState, runtime: Runtime[RunScope], config: RunnableConfig) -> dict[str, Any]:
            scope, round_, _ = await self._enter(stage, state, runtime)
            name = self.prefix + stage.name
            entered = {**state, "visits": {**state.get("visits", {}), name: round_}}
            result = cast("RunState", await compiled.ainvoke(cast("Any", entered), config, context=scope))
            kept: dict[str, Any] = {k: v for k, v in result.items() if k in ("decisions", "replies", "held", "said")}
            if result.get("answer") is not state.get("answer"):  # one that only passed through is not newer
                kept["answer"] = result.get("answer")
            return {**kept, "visits": {**result.get("visits", {}), name: round_}}

        return subgraph

    def ask(self, stage: StageSpec) -> Callable[..., Any]:
        """Does nothing but ask: LangGraph runs an interrupted node again from its top."""

        def ask(state: RunState) -> dict[str, Any]:
            waiting = self.open_questions(stage, state)
            if not waiting:
                return {}
            answer: object = interrupt([question.model_dump(mode="json") for question in waiting])
            return {"said": heard(waiting, answer)}

        return ask


def _tell(router: Router, reply: AgentReply) -> None:
    """Let a router that keeps count of failures know how a call ended."""
    record = getattr(router, "record", None)
    if record is not None and reply.status is not ReplyStatus.NEEDS_APPROVAL:
        record(reply.agent, reply.status not in (ReplyStatus.FAILED, ReplyStatus.TIMED_OUT))


def known_in(state: RunState) -> tuple[str, ...]:
    """What was found so far: sentences with a source, oldest first, each once; of many, the first and the newest."""
    found: dict[str, None] = {}
    for reply in state.get("replies", {}).values():
        if reply.ok:
            found.update((sentence.text, None) for sentence in spoken(reply) if sentence.items)
    said = tuple(found)
    return said if len(said) <= FIRST_KNOWN + LAST_KNOWN else (*said[:FIRST_KNOWN], *said[-LAST_KNOWN:])


def _task(state: RunState) -> Task:
    """The task with what the user answered when asked back."""
    held = state.get("held")
    return clarified(state["task"], held, state.get("said", {})) if held else state["task"]


def _seen(state: RunState, call: AgentCall) -> tuple[str, ...]:
    """What this agent was given before and had something to say to, or nothing."""
    told = (ReplyStatus.ANSWERED, ReplyStatus.NO_EVIDENCE, ReplyStatus.REPEATED)
    replies = state.get("replies", {}).items()
    return tuple(
        r.input_key
        for id_, r in replies
        if r.agent == call.agent and r.input_key and id_ != call.id and r.status in told
    )


ANSWERS = re.compile(r"\.a(\d+)$")
"""What the name of a step ends in after questions back were answered."""


def _answers(step: str) -> int:
    """After how many answers to questions back a step is."""
    found = ANSWERS.search(step)
    return int(found[1]) if found else 0


def _next_step(step: str) -> str:
    """The step that decides once more, with one answer more."""
    return f"{ANSWERS.sub('', step)}.a{_answers(step) + 1}"


def _after_answers(base: str, state: RunState) -> str:
    """The step that decides with every answer there is."""
    step, said = base, state.get("said")
    while said and isinstance(said.get(f"{step}/{CLARIFY}"), str):
        step = _next_step(step)
    return step


def _within(step: str, around: str) -> bool:
    """Whether a step, or what is named after one, is `around` or inside of it."""
    return step == around or step.startswith((f"{around}.", f"{around}/"))


def _step_of(reply: AgentReply) -> str:
    """The step of the call that a reply answers."""
    return reply.call_id.partition("/")[2].rsplit("/", 2)[0]


def _latest(replies: Sequence[AgentReply]) -> list[AgentReply]:
    """The last reply of each agent in each stage, in routing order; one that says something wins over a later
    failure. What was quoted in an earlier round is not withdrawn by quoting more."""
    latest: dict[tuple[str, str], AgentReply] = {}
    for reply in replies:
        where = _place(reply)
        held = latest.get((where, reply.agent))
        if held is not None and held.ok and reply.ok and held.extractive and reply.extractive:
            latest[where, reply.agent] = _with_earlier(reply, held)
        elif held is None or reply.ok or not held.ok:
            latest[where, reply.agent] = reply
    return list(latest.values())


def _with_earlier(reply: AgentReply, held: AgentReply) -> AgentReply:
    """The reply with what its agent quoted before."""
    quoted = (s for s in held.sentences if s.origin == "extractive")
    return reply.model_copy(
        update={
            "sentences": tuple(dict.fromkeys((*quoted, *reply.sentences))),
            "cited": tuple(dict.fromkeys((*held.cited, *reply.cited))),
        }
    )


def _place(reply: AgentReply) -> str:
    """The stage of a reply with those around it: stages of two subgraphs may share a name."""
    around, _, step = reply.call_id.rsplit("/", 2)[0].rpartition("/")
    return f"{around}/{step.partition('.')[0]}"


def _nobody(scope: RunScope, step: str, state: RunState) -> Answer:
    decisions = list(state.get("decisions", {}).values())
    if decisions:
        return answer_without_agents(decisions[-1], scope.ctx.at(step=step))
    return failed_answer(GraphError("", ["no agent worked before the refine stage"]), scope.ctx.at(step=step))
