"""Turns a `GraphSpec` into LangGraph's `StateGraph`: which nodes, which edges, what each node hands on.

A dispatch becomes two LangGraph nodes: `<name>` decides and fans out, `<name>.agents` runs once per chosen agent.
"""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")  # read by LangGraph when it is imported

from langchain_core.runnables import RunnableConfig
from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Overwrite, Send

from agentmesh.errors import GraphError, MeshError, RoutingError
from agentmesh.graphs import END, START, GraphSpec, StageKind, StageSpec
from agentmesh.run import Meter, new_run_id
from agentmesh.runtime.conditions import Condition
from agentmesh.runtime.nodes import (
    RunScope,
    agent_step,
    answer_without_agents,
    failed_answer,
    refine_step,
    route_step,
)
from agentmesh.runtime.state import AgentInput, RunState, RunView, view_of
from agentmesh.trace.events import StageEntered
from agentmesh.types import AgentCall, AgentReply, Answer, Mode, RouteRequest, RoutingDecision, Task

__all__ = ["ScopeOf", "state_graph"]

BEGIN = "task.begin"
"""The node that makes every invocation of a graph that runs alone a run of its own; no stage may have this name."""

ScopeOf = Callable[[RunState, RunScope | None], Awaitable[RunScope]]
"""Finds the scope of a run; makes one where somebody invokes the compiled graph on their own."""


def state_graph(
    spec: GraphSpec, conditions: Mapping[str, Condition], scope_of: ScopeOf, *, prefix: str = "", alone: bool = False
) -> "StateGraph[RunState, RunScope, Any, Any]":
    """The LangGraph graph of a checked spec, not yet compiled.

    Args:
        spec: What to build.
        conditions: What its edges and loops may ask.
        scope_of: Finds the scope of a run.
        prefix: Path of the stages around it, for a subgraph.
        alone: Whether somebody else invokes it: each invocation is then given a run id and begins with no replies.
    """
    graph: StateGraph[RunState, RunScope, Any, Any] = StateGraph(RunState, context_schema=RunScope)
    wiring = _Wiring(spec, conditions, scope_of, prefix)
    exits: dict[str, str] = {}
    for stage in spec.stages:
        exits[stage.name] = wiring.add(graph, stage)
    first = START
    if alone:
        graph.add_node(BEGIN, _begin)
        graph.add_edge(START, BEGIN)
        first = BEGIN
    for entry in spec.entries():
        graph.add_edge(first, entry)
    wiring.connect(graph, exits)
    return graph


class _Wiring:
    """Adds the nodes and edges of one spec."""

    def __init__(self, spec: GraphSpec, conditions: Mapping[str, Condition], scope_of: ScopeOf, prefix: str) -> None:
        self.spec, self.conditions, self.scope_of, self.prefix = spec, conditions, scope_of, prefix
        self.choosing = {e.source for e in spec.edges if e.when} | {x.source for x in spec.loops}
        """The stages that do not go the same way every time."""
        self.late = {s.name for s in spec.stages if self._may_miss(s.name)}
        """The joins that wait for whatever is at work, not for each of their sources: one of those may not come."""

    def _may_miss(self, target: str) -> bool:
        """Whether a stage joins sources of which some may be left out in some round."""
        edges = [e for e in self.spec.edges if e.target == target and e.source != START]
        sources = {e.source for e in edges}
        if len(sources) < 2 or any(e.when for e in edges):
            return False
        before = {s.name for s in self.spec.stages if target in self.spec.after(s.name)}
        if sources & self.choosing or any(e.when and e.target in before for e in self.spec.edges):
            return True
        again = [{x.target, *self.spec.after(x.target)} for x in self.spec.loops]
        return any(target in names and not sources <= names for names in again)

    def add(self, graph: Any, stage: StageSpec) -> str:
        """Add the nodes of a stage; returns the one that what follows is tied to."""
        if stage.kind is StageKind.DISPATCH:
            inner = f"{stage.name}.agents"
            graph.add_node(stage.name, self._dispatch(stage), defer=stage.name in self.late)
            graph.add_node(inner, self._branch(stage), input_schema=AgentInput)
            graph.add_conditional_edges(stage.name, self._fan_out(stage, inner), [inner, END])
            return inner
        make = {
            StageKind.AGENT: self._agent,
            StageKind.REFINE: self._refine,
            StageKind.SUBGRAPH: self._subgraph,
            StageKind.PATH: self._path,
        }
        graph.add_node(stage.name, make[stage.kind](stage), defer=stage.name in self.late)
        return stage.name

    def connect(self, graph: Any, exits: Mapping[str, str]) -> None:
        """Add the edges. A stage whose edges all are plain waits for all of its sources that come."""
        joins: dict[str, list[str]] = {}
        for edge in self.spec.edges:
            if edge.source != START and edge.source not in self.choosing:
                joins.setdefault(edge.target, []).append(exits[edge.source])
        for target, sources in joins.items():
            if len(sources) > 1 and target != END and target not in self.late:
                graph.add_edge(sources, target)
            else:
                for source in sources:
                    graph.add_edge(source, target)
        for stage in self.spec.stages:
            edges = [e for e in self.spec.edges if e.source == stage.name]
            if stage.name in self.choosing:
                graph.add_conditional_edges(exits[stage.name], self._choose(stage.name), self._targets(stage.name))
            elif not edges:
                graph.add_edge(exits[stage.name], END)

    # --- what follows a stage -----------------------------------------------------------------------------------------

    def _targets(self, stage: str) -> list[str]:
        edges = [e.target for e in self.spec.edges if e.source == stage]
        return list(dict.fromkeys([*edges, *(x.target for x in self.spec.loops if x.source == stage), END]))

    def _choose(self, stage: str) -> Callable[..., Any]:
        async def choose(state: RunState, runtime: Runtime[RunScope]) -> list[str]:
            scope = await self.scope_of(state, runtime.context)
            view = view_of(state, self.prefix + stage)
            outer = max(1, state.get("visits", {}).get(self.prefix.rstrip("/"), 1))
            for loop in self.spec.loops:
                bound = min(loop.max_rounds * outer, scope.ctx.limits.max_rounds)
                stopped = _is_stopped(scope.ctx.meter)
                if loop.source == stage and view.round < bound and not stopped and self._holds(loop.while_, view):
                    return [loop.target]
            edges = [e for e in self.spec.edges if e.source == stage]
            return [e.target for e in edges if not e.when or self._holds(e.when, view)] or [END]

        return choose

    def _holds(self, name: str, view: RunView) -> bool:
        try:
            return bool(self.conditions[name](view))
        except MeshError:
            raise
        except Exception as error:
            text = f"the condition {name!r} failed with {type(error).__name__}: {error}"
            raise GraphError(self.spec.name, [text]) from error

    # --- stages -------------------------------------------------------------------------------------------------------

    async def _enter(self, stage: StageSpec, state: RunState, runtime: Runtime[RunScope]) -> tuple[RunScope, int, str]:
        """The scope of the run, the round of this stage and the name of this step."""
        scope = await self.scope_of(state, runtime.context)
        name = self.prefix + stage.name
        round_ = state.get("visits", {}).get(name, 0) + 1
        step = f"{name}.r{round_}"
        scope.ctx.at(step=step).emit(StageEntered(stage=name, kind=stage.kind.value, round=round_))
        return scope, round_, step

    def _dispatch(self, stage: StageSpec) -> Callable[..., Any]:
        async def dispatch(state: RunState, runtime: Runtime[RunScope]) -> dict[str, Any]:
            scope, round_, step = await self._enter(stage, state, runtime)
            visits = {self.prefix + stage.name: round_}
            ctx = scope.ctx.at(step=step)
            try:
                request = RouteRequest(
                    task=state["task"],
                    cards=scope.parts.pool(stage.pool),
                    graph=self.spec,
                    stage=stage.name,
                    max_agents=stage.max_agents,
                    round=round_,
                    tried=tuple(sorted({r.agent for r in state.get("replies", {}).values()})),
                )
                decision = await route_step(scope.parts.router(scope.router or stage.router), request, ctx)
            except MeshError as error:
                failed = failed_answer(error, ctx)
                # what was said in an earlier round stands
                return {"visits": visits} if state.get("replies") else {"visits": visits, "answer": failed}
            update: dict[str, Any] = {"visits": visits, "decisions": {step: decision}}
            if not decision.chosen and self._ends_here(stage, state):
                update["answer"] = answer_without_agents(decision, ctx)
            return update

        return dispatch

    def _read_later(self, stage: StageSpec) -> bool:
        """Whether an agent may work after this stage, in this graph or around it."""
        following = self.spec.after(stage.name)
        return bool(self.prefix) or any(s.kind is not StageKind.REFINE for s in self.spec.stages if s.name in following)

    def _ends_here(self, stage: StageSpec, state: RunState) -> bool:
        """Whether nobody being chosen ends the graph: nothing was said yet and no other branch is at work."""
        return not state.get("replies") and self.spec.entries() == (stage.name,)

    def _fan_out(self, stage: StageSpec, inner: str) -> Callable[..., Any]:
        def fan_out(state: RunState) -> list[Any] | str:
            round_ = state.get("visits", {}).get(self.prefix + stage.name, 1)
            step = f"{self.prefix}{stage.name}.r{round_}"
            decision = state.get("decisions", {}).get(step)
            if decision is None or not decision.chosen:
                return END if self._ends_here(stage, state) else [Send(inner, {"call": None})]
            return [
                Send(inner, {"call": call}) for call in _calls(decision, state["task"], state, stage.name, step, round_)
            ]

        return fan_out

    def _branch(self, stage: StageSpec) -> Callable[..., Any]:
        read_later = self._read_later(stage)

        async def branch(state: AgentInput, runtime: Runtime[RunScope]) -> dict[str, Any]:
            call = state["call"]
            if call is None:
                return {}
            known = cast("RunState", {"run_id": call.run_id, "task": call.task})
            scope = await self.scope_of(known, runtime.context)
            return {"replies": {call.id: await agent_step(call, scope, read_later=read_later)}}

        return branch

    def _agent(self, stage: StageSpec) -> Callable[..., Any]:
        async def agent(state: RunState, runtime: Runtime[RunScope]) -> dict[str, Any]:
            scope, round_, step = await self._enter(stage, state, runtime)
            call = AgentCall(
                run_id=state.get("run_id", scope.ctx.run_id),
                step=step,
                agent=stage.agent or "",
                task=state["task"],
                stage=stage.name,
                round=round_,
            )
            reply = await agent_step(call, scope)
            return {"visits": {self.prefix + stage.name: round_}, "replies": {call.id: reply}}

        return agent

    def _path(self, stage: StageSpec) -> Callable[..., Any]:
        async def path(state: RunState, runtime: Runtime[RunScope]) -> dict[str, Any]:
            scope, round_, step = await self._enter(stage, state, runtime)
            update: dict[str, Any] = {"visits": {self.prefix + stage.name: round_}, "replies": {}, "decisions": {}}
            last: str | None = None
            planned: dict[str, str] = {}
            layers = stage.path.layers if stage.path else ()
            forbidden = set(stage.path.forbid) if stage.path else set[tuple[str, str]]()
            for depth, layer in enumerate(layers, start=1):
                inner = f"{step}.l{depth}"
                agent = planned.get(str(depth))
                allowed = [a for a in layer if (last, a) not in forbidden]
                if agent is not None and agent not in allowed:
                    error = RoutingError(
                        f"the planned path goes to {agent!r}, which layer {depth} does not allow there"
                    )
                    failed_answer(error, scope.ctx.at(step=inner))
                    break
                if agent is None:
                    try:
                        request = RouteRequest(
                            task=state["task"],
                            cards=scope.parts.pool(allowed) if allowed else (),
                            graph=self.spec,
                            stage=stage.name,
                            max_agents=1,
                            round=round_,
                        )
                        router = scope.parts.router(scope.router or stage.router)
                        decision = await route_step(router, request, scope.ctx.at(step=inner))
                    except MeshError as error:
                        failed = failed_answer(error, scope.ctx.at(step=inner))
                        if not update["replies"] and not state.get("replies"):
                            update["answer"] = failed
                        break
                    update["decisions"][inner] = decision
                    if decision.mode is Mode.PATH:
                        planned = {c.stage: c.agent for c in decision.chosen}
                    if not decision.chosen:
                        continue
                    agent = decision.chosen[0].agent
                call = AgentCall(
                    run_id=state.get("run_id", scope.ctx.run_id),
                    step=inner,
                    agent=agent,
                    task=state["task"],
                    stage=stage.name,
                    round=round_,
                    order=depth - 1,
                )
                update["replies"][call.id] = await agent_step(call, scope)
                last = agent
            return update

        return path

    def _refine(self, stage: StageSpec) -> Callable[..., Any]:
        async def refine(state: RunState, runtime: Runtime[RunScope]) -> dict[str, Any]:
            scope, round_, step = await self._enter(stage, state, runtime)
            visits = {self.prefix + stage.name: round_}
            replies = _latest(view_of(state).replies)
            if not replies:
                earlier = state.get("answer")
                return {"visits": visits, "answer": earlier or _nobody(scope, step, state)}
            answer = await refine_step(scope.parts.refiner, state["task"], replies, scope.ctx.at(step=step))
            return {"visits": visits, "answer": answer.model_copy(update={"replies": ()})}  # the state has them once

        return refine

    def _subgraph(self, stage: StageSpec) -> Callable[..., Any]:
        assert stage.graph is not None
        prefix = f"{self.prefix}{stage.name}/"
        compiled = state_graph(stage.graph, self.conditions, self.scope_of, prefix=prefix).compile()

        async def subgraph(state: RunState, runtime: Runtime[RunScope], config: RunnableConfig) -> dict[str, Any]:
            scope, round_, _ = await self._enter(stage, state, runtime)
            name = self.prefix + stage.name
            entered = {**state, "visits": {**state.get("visits", {}), name: round_}}
            result = cast("RunState", await compiled.ainvoke(cast("Any", entered), config, context=scope))
            kept: dict[str, Any] = {k: v for k, v in result.items() if k in ("decisions", "replies")}
            if result.get("answer") is not state.get("answer"):  # one that only passed through is not newer
                kept["answer"] = result.get("answer")
            return {**kept, "visits": {**result.get("visits", {}), name: round_}}

        return subgraph


def _begin(state: RunState) -> dict[str, Any]:
    """A new run, whatever an earlier invocation left in the same LangGraph thread."""
    nothing: dict[str, Any] = {key: Overwrite({}) for key in ("decisions", "replies", "visits")}
    return {"run_id": new_run_id(), "answer": Overwrite(None), **nothing}


def _is_stopped(meter: Meter | None) -> bool:
    """Whether a limit ended the run: nothing is begun anew then."""
    if meter is None:
        return False
    meter.note_time()
    return meter.stop is not None


def _calls(
    decision: RoutingDecision, task: Task, state: RunState, stage: str, step: str, round_: int
) -> list[AgentCall]:
    """One call per chosen agent, in routing order."""
    return [
        AgentCall(
            run_id=state.get("run_id", ""),
            step=step,
            agent=chosen.agent,
            task=task,
            part=chosen.part,
            variant=chosen.variant,
            stage=stage,
            round=round_,
            weight=chosen.weight,
            order=order,
        )
        for order, chosen in enumerate(decision.chosen)
    ]


def _latest(replies: Sequence[AgentReply]) -> list[AgentReply]:
    """The last reply of each agent in each stage, in routing order; one that says something wins over a later
    failure."""
    latest: dict[tuple[str, str], AgentReply] = {}
    for reply in replies:
        where = _place(reply)
        held = latest.get((where, reply.agent))
        if held is None or reply.ok or not held.ok:
            latest[where, reply.agent] = reply
    return list(latest.values())


def _place(reply: AgentReply) -> str:
    """The stage of a reply with those around it: stages of two subgraphs may share a name."""
    around, _, step = reply.call_id.rsplit("/", 2)[0].rpartition("/")
    return f"{around}/{step.partition('.')[0]}"


def _nobody(scope: RunScope, step: str, state: RunState) -> Answer:
    decisions = list(state.get("decisions", {}).values())
    if decisions:
        return answer_without_agents(decisions[-1], scope.ctx.at(step=step))
    return failed_answer(GraphError("", ["no agent worked before the refine stage"]), scope.ctx.at(step=step))
