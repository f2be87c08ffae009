"""`AgentGraph`: a thin builder whose `compile()` gives LangGraph's own compiled graph.

The builder makes a `GraphSpec`, which is checked and drawn without LangGraph; `wiring.py` turns that into nodes and
edges.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from agentmesh.graphs import EdgeSpec, GraphSpec, LoopSpec, PathSpec, StageKind, StageSpec
from agentmesh.runtime.conditions import CONDITIONS, Condition

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

    from agentmesh.runtime.mesh import Mesh
    from agentmesh.runtime.nodes import RunScope
    from agentmesh.runtime.state import RunState

__all__ = ["AgentGraph"]


class AgentGraph:
    """Builds a graph of agents, stage by stage; every method returns the graph itself.

    A stage follows the ones in `after`; the first stage follows the task. Mistakes are found by `spec()` and
    `compile()`, all at once.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.conditions: dict[str, Condition] = dict(CONDITIONS)
        self._stages: list[StageSpec] = []
        self._edges: list[EdgeSpec] = []
        self._loops: list[LoopSpec] = []

    def dispatch(
        self,
        name: str,
        *,
        pool: str | Iterable[str] = ("*",),
        router: str | None = None,
        max_agents: int = 3,
        after: str | Sequence[str] | None = None,
    ) -> Self:
        """A router chooses up to `max_agents` of the pool; they work in parallel."""
        spec = StageSpec(
            name=name, kind=StageKind.DISPATCH, pool=_names(pool), router=router, max_agents=max_agents
        )  # fmt: skip
        return self._add(spec, after)

    def stage(self, name: str, *, agent: str, after: str | Sequence[str] | None = None) -> Self:
        """One named agent works; it reads what earlier stages wrote to memory."""
        return self._add(StageSpec(name=name, kind=StageKind.AGENT, agent=agent), after)

    def refine(self, name: str, *, after: str | Sequence[str] | None = None) -> Self:
        """The replies so far become one answer."""
        return self._add(StageSpec(name=name, kind=StageKind.REFINE), after)

    def path(
        self,
        name: str,
        *,
        layers: Sequence[str | Sequence[str]],
        router: str | None = None,
        forbid: Iterable[tuple[str, str]] = (),
        after: str | Sequence[str] | None = None,
    ) -> Self:
        """A router chooses one agent of each layer; they work one after another, each reading what the last one wrote.

        A router that decides about paths is asked once, with the whole graph. Any other is asked layer by layer.
        """
        path = PathSpec(layers=tuple(_names(layer) for layer in layers), forbid=tuple(forbid))
        return self._add(StageSpec(name=name, kind=StageKind.PATH, path=path, router=router), after)

    def subgraph(self, name: str, graph: "AgentGraph", *, after: str | Sequence[str] | None = None) -> Self:
        """Another graph, as it stands now, runs as one stage; its replies and its answer are seen by what follows."""
        names = {key: self._named(condition, key) for key, condition in graph.conditions.items()}
        return self._add(StageSpec(name=name, kind=StageKind.SUBGRAPH, graph=_renamed(graph.draft(), names)), after)

    def edge(self, source: str, target: str, *, when: str | Condition | None = None) -> Self:
        """`target` follows `source`, if `when` holds: a name of `CONDITIONS`, or a function of the run so far."""
        self._edges.append(EdgeSpec(source=source, target=target, when=self._condition(when)))
        return self

    def loop(
        self, source: str, *, back_to: str, while_: str | Condition = "needs_another_round", max_rounds: int
    ) -> Self:
        """After `source`, go back while the condition holds; `source` runs at most `max_rounds` times."""
        name = self._condition(while_)
        self._loops.append(LoopSpec(source=source, target=back_to, while_=name or "", max_rounds=max_rounds))
        return self

    def draft(self) -> GraphSpec:
        """The graph as it stands, unchecked."""
        return GraphSpec(
            name=self.name, stages=tuple(self._stages), edges=tuple(self._edges), loops=tuple(self._loops)
        )  # fmt: skip

    def spec(self, agents: Iterable[str] | None = None) -> GraphSpec:
        """The checked graph.

        Raises:
            GraphError: With every mistake at once; `agents` are the ids that exist, None skips that check.
        """
        return self.draft().check(agents, self.conditions)

    def compile(self, mesh: "Mesh", *, checkpointer: Any = None) -> "CompiledStateGraph[RunState, RunScope, Any, Any]":
        """LangGraph's own compiled graph, to be used as LangGraph's users know it.

        `await compiled.ainvoke({"task": Task(text="...")}, {"configurable": {"thread_id": "t1"}})` runs it alone;
        `mesh.ask(..., graph=self)` runs it with threads, budgets and resume.

        Every invocation with a task is a run of its own, whose id is in the state it returns; its trace has no end, for
        only its caller knows that.

        Args:
            mesh: Whose agents work.
            checkpointer: LangGraph's argument; None: no checkpoints.

        Raises:
            GraphError: If the graph can never run as it is drawn.
        """
        from agentmesh.runtime.wiring import state_graph

        spec = self.spec(mesh.agents)
        graph = state_graph(spec, self.conditions, mesh.scope_of, alone=True, asking=mesh.asking, guarded=mesh.guarded)
        return graph.compile(checkpointer=checkpointer, name=self.name)

    def mermaid(self) -> str:
        """Mermaid text of the graph as it stands."""
        return self.draft().mermaid()

    def _add(self, spec: StageSpec, after: str | Sequence[str] | None) -> Self:
        self._stages.append(spec)
        for source in (after,) if isinstance(after, str) else tuple(after or ()):
            self._edges.append(EdgeSpec(source=source, target=spec.name))
        return self

    def _condition(self, condition: str | Condition | None) -> str | None:
        if condition is None or isinstance(condition, str):
            return condition
        return self._named(condition, getattr(condition, "__name__", type(condition).__name__))

    def _named(self, condition: Condition, name: str) -> str:
        """The name under which the graph knows this condition: the wanted one, if no other condition has it."""
        if self.conditions.get(name, condition) is not condition:
            name = f"{name}_{len(self.conditions)}"
        self.conditions[name] = condition
        return name


def _names(names: str | Iterable[str]) -> tuple[str, ...]:
    """One name, or several."""
    return (names,) if isinstance(names, str) else tuple(names)


def _renamed(spec: GraphSpec, names: Mapping[str, str]) -> GraphSpec:
    """The graph and those inside it with other names for its conditions."""
    return spec.model_copy(
        update={
            "edges": tuple(e.model_copy(update={"when": names.get(e.when or "", e.when)}) for e in spec.edges),
            "loops": tuple(x.model_copy(update={"while_": names.get(x.while_, x.while_)}) for x in spec.loops),
            "stages": tuple(
                s.model_copy(update={"graph": _renamed(s.graph, names)}) if s.graph is not None else s
                for s in spec.stages
            ),
        }
    )
