"""What a graph of agents looks like, before anything runs: stages, edges, loops, layers.

Values only. `runtime/graph.py` turns a `GraphSpec` into LangGraph's own graph; routers may read it. The checks and
drawings use networkx, imported where used.
"""

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Self, cast

from pydantic import BaseModel, ConfigDict, Field

from agentmesh.errors import GraphError, nearest

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["END", "START", "EdgeSpec", "GraphSpec", "LoopSpec", "PathSpec", "StageKind", "StageSpec", "default_graph"]

START = "__start__"
"""The edge source that stands for the task."""
END = "__end__"
"""The edge target that stands for the answer."""

MAX_ROUNDS = 50
"""A loop may not ask for more rounds than this."""


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class StageKind(StrEnum):
    """What a stage does."""

    DISPATCH = "dispatch"
    """A router chooses agents of the pool; they work in parallel."""
    AGENT = "agent"
    """One named agent works."""
    REFINE = "refine"
    """The replies so far become one answer."""
    SUBGRAPH = "subgraph"
    """Another graph runs as one stage."""
    PATH = "path"
    """A router chooses one agent of each layer; they work one after another."""


class PathSpec(_Spec):
    """Layers of agents of which one each is chosen, and the hand-overs that are forbidden."""

    layers: tuple[tuple[str, ...], ...]
    """Agent ids, layer by layer."""
    forbid: tuple[tuple[str, str], ...] = ()
    """Pairs (from, to) of adjacent layers that may not follow one another."""


class StageSpec(_Spec):
    """One stage."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")
    kind: StageKind
    pool: tuple[str, ...] = ("*",)
    """Agent ids a dispatch may choose from; `*` is every agent of the mesh."""
    agent: str | None = None
    """The agent of an `agent` stage."""
    router: str | None = None
    """Name of the router; absent: the mesh's own."""
    max_agents: int = Field(default=3, ge=1, le=64)
    """Most agents that one dispatch may choose."""
    path: PathSpec | None = None
    graph: "GraphSpec | None" = None
    """The inner graph of a `subgraph` stage."""


class EdgeSpec(_Spec):
    """`target` follows `source`; with `when`, only if that condition holds."""

    source: str
    target: str
    when: str | None = None
    """Name of a condition over the run so far."""


class LoopSpec(_Spec):
    """After `source`, go back to `target` while the condition holds, at most `max_rounds` rounds in all."""

    source: str
    target: str
    while_: str
    max_rounds: int


class GraphSpec(_Spec):
    """A graph of agents: what `AgentGraph` builds, what a scenario file may hold and what a router may read."""

    name: str
    stages: tuple[StageSpec, ...]
    edges: tuple[EdgeSpec, ...] = ()
    loops: tuple[LoopSpec, ...] = ()

    def stage(self, name: str) -> StageSpec:
        """The stage of that name, or `KeyError`."""
        return next(s for s in self.stages if s.name == name)

    def entries(self) -> tuple[str, ...]:
        """The stages a run starts with: the targets of `START`, or else the first stage."""
        named = tuple(e.target for e in self.edges if e.source == START)
        return named or tuple(s.name for s in self.stages[:1])

    def after(self, name: str) -> set[str]:
        """The stages that may run after this one; itself too, if a loop leads back."""
        follows = [(e.source, e.target) for e in self.edges] + [(x.source, x.target) for x in self.loops]
        found: set[str] = set()
        waiting = [name]
        while waiting:
            source = waiting.pop()
            fresh = {target for start, target in follows if start == source} - found - {END}
            found |= fresh
            waiting += fresh
        return found

    def digraph(self) -> "nx.DiGraph[str]":
        """The same structure for networkx; loops are edges with the attribute `loop`."""
        import networkx as nx

        graph: nx.DiGraph[str] = nx.DiGraph(name=self.name)
        for stage in self.stages:
            graph.add_node(stage.name, kind=stage.kind.value)
        for entry in self.entries():
            graph.add_edge(START, entry)
        for edge in self.edges:
            if edge.source != START:
                graph.add_edge(edge.source, edge.target, when=edge.when)
        for loop in self.loops:
            graph.add_edge(loop.source, loop.target, when=loop.while_, loop=loop.max_rounds)
        return graph

    def agents(self) -> Iterator[str]:
        """Every agent id that is named anywhere, `*` included, with repetitions."""
        for stage in self.stages:
            if stage.kind is StageKind.DISPATCH:
                yield from stage.pool
            if stage.agent:
                yield stage.agent
            if stage.path:
                for layer in stage.path.layers:
                    yield from layer
            if stage.graph:
                yield from stage.graph.agents()

    def routers(self) -> Iterator[str]:
        """Every router that a stage names, of the graphs inside this one too, with repetitions."""
        for stage in self.stages:
            if stage.router is not None:
                yield stage.router
            if stage.graph is not None:
                yield from stage.graph.routers()

    def check(self, agents: Iterable[str] | None = None, conditions: Iterable[str] | None = None) -> Self:
        """Return self, or raise `GraphError` with every mistake at once.

        Args:
            agents: The ids that exist; None skips that check.
            conditions: The names of conditions that exist, for the graphs inside this one too; None skips that check.
        """
        conditions = None if conditions is None else frozenset(conditions)
        mistakes = [*self._structure_mistakes()]
        if not mistakes:
            mistakes += self._flow_mistakes(conditions)
        mistakes += self._name_mistakes(agents, conditions)
        if mistakes:
            raise GraphError(self.name, mistakes)
        return self

    def _structure_mistakes(self) -> Iterator[str]:
        names = [s.name for s in self.stages]
        if not names:
            yield "it has no stage; add one with `dispatch`, `stage` or `refine`"
        for name in sorted({n for n in names if names.count(n) > 1}):
            yield f"two stages are called {name!r}; rename one"
        for stage in self.stages:
            if stage.kind is StageKind.DISPATCH and not stage.pool:
                yield f"stage {stage.name!r} has an empty pool; name at least one agent or use '*'"
            if stage.kind is StageKind.AGENT and not stage.agent:
                yield f"stage {stage.name!r} names no agent"
            if stage.kind is StageKind.SUBGRAPH and stage.graph is None:
                yield f"stage {stage.name!r} has no inner graph"
            if stage.kind is StageKind.PATH and not (stage.path and stage.path.layers and all(stage.path.layers)):
                yield f"stage {stage.name!r} has an empty layer; name at least one agent in each"
        known = {*names, START, END}
        for source, target in [(e.source, e.target) for e in self.edges] + [(x.source, x.target) for x in self.loops]:
            for end in (source, target):
                if end not in known:
                    close = nearest(end, names)
                    hint = f"; did you mean {close[0]!r}?" if close else ""
                    yield f"an edge {source!r} -> {target!r} names no stage {end!r}{hint}"
        for edge in self.edges:
            if edge.source == START and edge.when:
                yield f"the edge to {edge.target!r} has a condition, but before the first stage there is nothing to ask"
        for source in sorted({e.source for e in self.edges} & {END} | {x.source for x in self.loops} & {START, END}):
            yield f"nothing can follow {source!r} in this way; begin the edge or loop at a stage"
        for target in sorted({e.target for e in self.edges} & {START} | {x.target for x in self.loops} & {START, END}):
            yield f"nothing can lead to {target!r} in this way; end the edge or loop at a stage"
        for loop in self.loops:
            if not 1 <= loop.max_rounds <= MAX_ROUNDS:
                yield (
                    f"the loop {loop.source!r} -> {loop.target!r} has no bound; "
                    f"set max_rounds between 1 and {MAX_ROUNDS}, not {loop.max_rounds}"
                )

    def _flow_mistakes(self, conditions: Iterable[str] | None) -> Iterator[str]:
        import networkx as nx

        graph = self.digraph()
        reached = nx.descendants(graph, START)
        for stage in self.stages:
            if stage.name not in reached:
                yield f"stage {stage.name!r} is unreachable; give it `after=` or an edge that leads to it"
        forward: nx.DiGraph[str] = nx.DiGraph(
            [(u, v) for u, v, bound in graph.edges(data="loop") if bound is None]  # pyright: ignore
        )
        if forward and not nx.is_directed_acyclic_graph(forward):
            cycle = cast("list[tuple[str, str]]", nx.find_cycle(forward))
            ring = " -> ".join(source for source, _ in cycle)
            yield f"the edges {ring} -> ... go round without a bound; use `loop(..., max_rounds=)` for the way back"
        for loop in self.loops:
            if loop.target != loop.source and loop.source not in nx.descendants(graph, loop.target):
                yield f"the loop {loop.source!r} -> {loop.target!r} does not lead back; {loop.target!r} must come first"
        for stage in self.stages:
            if stage.graph is not None:
                try:
                    stage.graph.check(conditions=conditions)
                except GraphError as error:
                    yield f"inside stage {stage.name!r}: {'; '.join(error.mistakes)}"

    def _name_mistakes(self, agents: Iterable[str] | None, conditions: Iterable[str] | None) -> Iterator[str]:
        if agents is not None:
            ids = sorted(agents)
            for agent in sorted({a for a in self.agents() if a != "*" and a not in ids}):
                close = nearest(agent, ids)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                yield f"no agent is called {agent!r}{hint}"
            if not ids:
                yield "the mesh has no agent"
        if conditions is not None:
            known = sorted(conditions)
            used = {e.when for e in self.edges if e.when} | {x.while_ for x in self.loops}
            for name in sorted(used - set(known)):
                close = nearest(name, known)
                hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
                yield f"no condition is called {name!r}{hint}"

    def mermaid(self) -> str:
        """Mermaid flowchart text. No network, no other program."""
        shapes = {
            StageKind.DISPATCH: ("{{", "}}"),
            StageKind.AGENT: ("(", ")"),
            StageKind.REFINE: ("[[", "]]"),
            StageKind.SUBGRAPH: ("[/", "/]"),
            StageKind.PATH: ("[", "]"),
        }
        lines = ["flowchart LR", f"  {_node(START)}([task])", f"  {_node(END)}([answer])"]
        for stage in self.stages:
            left, right = shapes[stage.kind]
            detail = stage.agent or (", ".join(stage.pool) if stage.kind is StageKind.DISPATCH else "")
            label = f"{stage.name}: {detail}" if detail else stage.name
            lines.append(f'  {_node(stage.name)}{left}"{label}"{right}')
        graph = self.digraph()
        for source, target, attributes in graph.edges(data=True):
            when, bound = attributes.get("when"), attributes.get("loop")
            label = f"|{when}{f', at most {bound} rounds' if bound else ''}|" if when else ""
            lines.append(f"  {_node(source)} {'-.->' if bound else '-->'}{label} {_node(target)}")
        for stage in self.stages:
            forward = [a for _, _, a in graph.out_edges(stage.name, data=True) if not a.get("loop")]
            if all(a.get("when") for a in forward):
                lines.append(f"  {_node(stage.name)} --> {_node(END)}")
        return "\n".join(lines)

    def dot(self) -> str:
        """Graphviz DOT text. No other program is called."""
        quote = '"{}"'.format
        lines = [f"digraph {quote(self.name)} {{", "  rankdir=LR;"]
        lines += [f'  {quote(s.name)} [label="{s.name}\\n{s.kind.value}"];' for s in self.stages]
        for source, target, attributes in self.digraph().edges(data=True):
            when, bound = attributes.get("when"), attributes.get("loop")
            style = ' [style=dashed, label="{}"]' if bound else ' [label="{}"]'
            lines.append(f"  {quote(source)} -> {quote(target)}{style.format(when) if when else ''};")
        return "\n".join([*lines, "}"])


def _node(name: str) -> str:
    """A stage name as a Mermaid id (`end` is a word of its grammar, hence the prefix)."""
    return "n_" + name.strip("_").replace("-", "_")


def default_graph(pool: Iterable[str] = ("*",), *, router: str | None = None, max_agents: int = 3) -> GraphSpec:
    """route -> answer -> refine: what runs when nothing else is said."""
    return GraphSpec(
        name="default",
        stages=(
            StageSpec(name="route", kind=StageKind.DISPATCH, pool=tuple(pool), router=router, max_agents=max_agents),
            StageSpec(name="refine", kind=StageKind.REFINE),
        ),
        edges=(EdgeSpec(source="route", target="refine"),),
    )
