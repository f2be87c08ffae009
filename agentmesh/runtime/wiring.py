"""Turns a `GraphSpec` into LangGraph's `StateGraph`: which nodes, which edges, what each node hands on.

A dispatch becomes two LangGraph nodes: `<name>` decides and fans out, `<name>.agents` runs once per chosen agent.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Overwrite, Send

from agentmesh.errors import GraphError, MeshError
from agentmesh.graphs import END, START, GraphSpec, StageKind, StageSpec
from agentmesh.run import Meter, new_run_id
from agentmesh.runtime.conditions import Condition
from agentmesh.runtime.guarding import ANSWER_ASK, ANSWER_GUARD, TASK_ASK, TASK_GUARD, Guarding
from agentmesh.runtime.nodes import RunScope
from agentmesh.runtime.stages import ScopeOf, Stages
from agentmesh.runtime.state import AgentInput, RunState, RunView, view_of
from agentmesh.types import ReplyStatus

__all__ = ["ScopeOf", "state_graph"]

BEGIN = "task.begin"
"""The node that makes every invocation of a graph that runs alone a run of its own; no stage may have this name."""


def state_graph(
    spec: GraphSpec,
    conditions: Mapping[str, Condition],
    scope_of: ScopeOf,
    *,
    prefix: str = "",
    alone: bool = False,
    asking: Collection[str] = (),
    guarded: Collection[str] = (),
) -> "StateGraph[RunState, RunScope, Any, Any]":
    """The LangGraph graph of a checked spec, not yet compiled.

    Args:
        spec: What to build.
        conditions: What its edges and loops may ask.
        scope_of: Finds the scope of a run.
        prefix: Path of the stages around it, for a subgraph.
        alone: Whether somebody else invokes it: each invocation is then given a run id and begins with no replies.
        asking: Ids of the agents that may need a person's yes.
        guarded: Where guardrails look; those on the question stand before the first stage, those on the answer after
            the last. The graphs of subgraph stages have none of their own.
    """
    graph: StateGraph[RunState, RunScope, Any, Any] = StateGraph(RunState, context_schema=RunScope)
    wiring = _Wiring(spec, conditions, scope_of, prefix, asking, end=ANSWER_GUARD if "output" in guarded else END)
    exits: dict[str, str] = {}
    for stage in spec.stages:
        exits[stage.name] = wiring.add(graph, stage)
    first = START
    if alone:
        graph.add_node(BEGIN, _begin)
        graph.add_edge(START, BEGIN)
        first = BEGIN
    if "input" in guarded:
        _add_task_guard(graph, Guarding(scope_of), first, spec.entries())
    else:
        for entry in spec.entries():
            graph.add_edge(first, entry)
    wiring.connect(graph, exits)
    if "output" in guarded:
        _add_answer_guard(graph, Guarding(scope_of))
    return graph


def _add_task_guard(graph: Any, guarding: Guarding, first: str, entries: Sequence[str]) -> None:
    graph.add_node(TASK_GUARD, guarding.task_guard())
    graph.add_node(TASK_ASK, guarding.ask(TASK_GUARD))
    graph.add_edge(first, TASK_GUARD)
    for node in (TASK_GUARD, TASK_ASK):
        graph.add_conditional_edges(node, guarding.after(TASK_GUARD, TASK_ASK, entries), [TASK_ASK, *entries, END])


def _add_answer_guard(graph: Any, guarding: Guarding) -> None:
    # deferred: branches that end side by side are checked as one answer
    graph.add_node(ANSWER_GUARD, guarding.answer_guard(), defer=True)
    graph.add_node(ANSWER_ASK, guarding.ask(ANSWER_GUARD))
    for node in (ANSWER_GUARD, ANSWER_ASK):
        graph.add_conditional_edges(node, guarding.after(ANSWER_GUARD, ANSWER_ASK, [END]), [ANSWER_ASK, END])


class _Wiring:
    """Adds the nodes and edges of one spec."""

    def __init__(
        self,
        spec: GraphSpec,
        conditions: Mapping[str, Condition],
        scope_of: ScopeOf,
        prefix: str,
        asking: Collection[str],
        *,
        end: str,
    ) -> None:
        self.end = end
        """The node that follows the last stages."""
        self.spec, self.conditions, self.scope_of, self.prefix = spec, conditions, scope_of, prefix
        self.asking = frozenset(asking)
        self.stages = Stages(spec, scope_of, prefix)
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
        late = stage.name in self.late
        match stage.kind:
            case StageKind.DISPATCH:
                return self._add_dispatch(graph, stage, late=late)
            case StageKind.AGENT:
                graph.add_node(stage.name, self.stages.agent(stage), defer=late)
                return self._add_asking(graph, stage) if stage.agent in self.asking else stage.name
            case StageKind.PATH:
                graph.add_node(stage.name, self.stages.path(stage), defer=late)
                return self._add_asking(graph, stage)
            case StageKind.REFINE:
                graph.add_node(stage.name, self.stages.refine(stage), defer=late)
            case StageKind.SUBGRAPH:
                inner = state_graph(
                    stage.graph or self.spec,
                    self.conditions,
                    self.scope_of,
                    prefix=f"{self.prefix}{stage.name}/",
                    asking=self.asking,
                )
                graph.add_node(stage.name, self.stages.subgraph(stage, inner.compile()), defer=late)
        return stage.name

    def _add_dispatch(self, graph: Any, stage: StageSpec, *, late: bool) -> str:
        inner, ask = f"{stage.name}.agents", f"{stage.name}.ask"
        graph.add_node(stage.name, self.stages.dispatch(stage), defer=late)
        graph.add_node(inner, self.stages.branch(stage, read_later=self._read_later(stage)), input_schema=AgentInput)
        graph.add_node(ask, self.stages.ask(stage))
        graph.add_conditional_edges(stage.name, self._fan_out(stage, inner, ask), [inner, ask, self.end])
        graph.add_conditional_edges(ask, self._after_answer(stage, ask, inner), [stage.name, inner, ask])
        if not self.asking.intersection(stage.pool) and not (self.asking and "*" in stage.pool):
            return inner
        gate, done = f"{stage.name}.gate", f"{stage.name}.done"
        graph.add_node(gate, _pass)
        graph.add_node(done, _pass)
        graph.add_edge(inner, gate)
        graph.add_conditional_edges(gate, self._gate(stage, ask, done), [ask, done])
        return done

    def _add_asking(self, graph: Any, stage: StageSpec) -> str:
        """The nodes after a stage that may stop to ask, and is then entered again."""
        ask, done = f"{stage.name}.ask", f"{stage.name}.done"
        graph.add_node(ask, self.stages.ask(stage))
        graph.add_node(done, _pass)
        graph.add_conditional_edges(stage.name, self._gate(stage, ask, done), [ask, done])
        graph.add_conditional_edges(ask, self._after_answer(stage, ask, None), [stage.name, ask])
        return done

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
                    graph.add_edge(source, self._node(target))
        for stage in self.spec.stages:
            edges = [e for e in self.spec.edges if e.source == stage.name]
            if stage.name in self.choosing:
                graph.add_conditional_edges(exits[stage.name], self._choose(stage.name), self._targets(stage.name))
            elif not edges:
                graph.add_edge(exits[stage.name], self.end)

    # --- what follows a stage -----------------------------------------------------------------------------------------

    def _targets(self, stage: str) -> list[str]:
        edges = [self._node(e.target) for e in self.spec.edges if e.source == stage]
        return list(dict.fromkeys([*edges, *(x.target for x in self.spec.loops if x.source == stage), self.end]))

    def _node(self, target: str) -> str:
        return self.end if target == END else target

    def _choose(self, stage: str) -> Callable[..., Any]:
        async def choose(state: RunState, runtime: Runtime[RunScope]) -> list[str]:
            scope = await self.scope_of(state, runtime.context)
            view = view_of(state, self.prefix + stage)
            outer = max(1, state.get("visits", {}).get(self.prefix.rstrip("/"), 1))
            for loop in self.spec.loops:
                bound = min(loop.max_rounds * outer, scope.ctx.limits.max_rounds)
                stopped = _is_stopped(scope.ctx.meter)
                stuck = _is_stuck(view)
                if loop.source != stage or view.round >= bound or stopped or stuck:
                    continue
                if self._holds(loop.while_, view):
                    return [loop.target]
            edges = [e for e in self.spec.edges if e.source == stage]
            return [self._node(e.target) for e in edges if not e.when or self._holds(e.when, view)] or [self.end]

        return choose

    def _holds(self, name: str, view: RunView) -> bool:
        try:
            return bool(self.conditions[name](view))
        except MeshError:
            raise
        except Exception as error:
            text = f"the condition {name!r} failed with {type(error).__name__}: {error}; mend it, then resume the run"
            raise GraphError(self.spec.name, [text]) from error

    def _read_later(self, stage: StageSpec) -> bool:
        """Whether an agent may work after this stage, in this graph or around it."""
        following = self.spec.after(stage.name)
        return bool(self.prefix) or any(s.kind is not StageKind.REFINE for s in self.spec.stages if s.name in following)

    # --- within a stage -----------------------------------------------------------------------------------------------

    def _fan_out(self, stage: StageSpec, inner: str, ask: str) -> Callable[..., Any]:
        def fan_out(state: RunState) -> list[Any] | str:
            if self.stages.open_questions(stage, state):
                return ask
            calls = self.stages.calls(stage, state)
            if not calls:
                decision = self.stages.decided(stage, state)
                stopped = decision is not None and bool(decision.stopped)
                return self.end if stopped or self.stages.ends_here(stage, state) else [Send(inner, {"call": None})]
            return [Send(inner, {"call": call}) for call in calls]

        return fan_out

    def _gate(self, stage: StageSpec, ask: str, done: str) -> Callable[..., Any]:
        def gate(state: RunState) -> str:
            return ask if self.stages.open_questions(stage, state) else done

        return gate

    def _after_answer(self, stage: StageSpec, ask: str, inner: str | None) -> Callable[..., Any]:
        def after_answer(state: RunState) -> list[Any] | str:
            if self.stages.open_questions(stage, state):
                return ask
            waiting = self.stages.calls(stage, state, waiting=True) if inner is not None else []
            return [Send(inner or "", {"call": call}) for call in waiting] or stage.name

        return after_answer


def _begin(state: RunState) -> dict[str, Any]:
    """A new run, whatever an earlier invocation left in the same LangGraph thread."""
    nothing: dict[str, Any] = {key: Overwrite({}) for key in ("decisions", "replies", "visits", "held", "said")}
    if state.get("answer") is not None:  # LangGraph keeps the `Overwrite` itself where there was nothing before
        nothing["answer"] = Overwrite(None)
    return {"run_id": new_run_id(), "checked": False, **nothing}


def _is_stopped(meter: Meter | None) -> bool:
    """Whether a limit ended the run: nothing is begun anew then."""
    if meter is None:
        return False
    meter.note_time()
    return meter.stop is not None


def _is_stuck(view: RunView) -> bool:
    """Whether the newest round only repeated an earlier one: going on would change nothing."""
    newest = [r for r in view.replies if r.round == view.round]
    return bool(newest) and all(r.status is ReplyStatus.REPEATED for r in newest)


def _pass(state: RunState) -> dict[str, Any]:
    """A node that only joins or forks."""
    return {}
