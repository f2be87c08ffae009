"""`AgentGraph`: a thin builder whose `compile()` gives LangGraph's own compiled graph.

The builder makes a `GraphSpec`, which is checked and drawn without LangGraph; `wiring.py` turns that into nodes and
edges.
"""

from collections.abc import Iterable, Sequence
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
        self._inner: list[AgentGraph] = []

    def dispatch(
        self,
        name: str,
        *,
        pool: Iterable[str] = ("*",),
        router: str | None = None,
        max_agents: int = 3,
        after: str | Sequence[str] | None = None,
    ) -> Self:
        """A router chooses up to `max_agents` of the pool; they work in parallel."""
        spec = StageSpec(
            name=name, kind=StageKind.DISPATCH, pool=tuple(pool), router=router, max_agents=max_agents
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
        layers: Sequence[Sequence[str]],
        router: str | None = None,
        forbid: Iterable[tuple[str, str]] = (),
        after: str | Sequence[str] | None = None,
    ) -> Self:
        """A router chooses one agent of each layer; they work one after another, each reading what the last one wrote.

        A router that decides about paths is asked once, with the whole graph. Any other is asked layer by layer.
        """
        path = PathSpec(layers=tuple(tuple(layer) for layer in layers), forbid=tuple(forbid))
        return self._add(StageSpec(name=name, kind=StageKind.PATH, path=path, router=router), after)

    def subgraph(self, name: str, graph: "AgentGraph", *, after: str | Sequence[str] | None = None) -> Self:
        """Another graph runs as one stage; its replies and its answer are seen by what follows."""
        self._inner.append(graph)
        self.conditions = {**graph.conditions, **self.conditions}
        return self._add(StageSpec(name=name, kind=StageKind.SUBGRAPH, graph=graph.draft()), after)

    def edge(self, source: str, target: str, *, when: str | Condition | None = None) -> Self:
        """`target` follows `source`, if `when` holds: a name of `CONDITIONS`, or a function of the run so far."""
        self._edges.append(EdgeSpec(source=source, target=target, when=self._named(when)))
        return self

    def loop(
        self, source: str, *, back_to: str, while_: str | Condition = "needs_another_round", max_rounds: int
    ) -> Self:
        """After `source`, go back while the condition holds; `source` runs at most `max_rounds` times."""
        name = self._named(while_)
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

        Args:
            mesh: Whose agents work.
            checkpointer: LangGraph's argument; None: no checkpoints.

        Raises:
            GraphError: If the graph can never run as it is drawn.
        """
        from agentmesh.runtime.wiring import state_graph

        spec = self.spec(mesh.agents)
        return state_graph(spec, self.conditions, mesh.scope_of).compile(checkpointer=checkpointer, name=self.name)

    def mermaid(self) -> str:
        """Mermaid text of the graph as it stands."""
        return self.draft().mermaid()

    def _add(self, spec: StageSpec, after: str | Sequence[str] | None) -> Self:
        self._stages.append(spec)
        for source in (after,) if isinstance(after, str) else tuple(after or ()):
            self._edges.append(EdgeSpec(source=source, target=spec.name))
        return self

    def _named(self, condition: str | Condition | None) -> str | None:
        if condition is None or isinstance(condition, str):
            return condition
        name = getattr(condition, "__name__", type(condition).__name__)
        if self.conditions.get(name, condition) is not condition:
            name = f"{name}_{len(self.conditions)}"
        self.conditions[name] = condition
        return name
