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

    def may_end_after(self) -> tuple[str, ...]:
        """The stages after which a run may be over: nothing follows them for sure."""
        sure = {e.source for e in self.edges if not e.when}
        return tuple(s.name for s in self.stages if s.name not in sure)

    def mermaid(self) -> str:
        """Mermaid flowchart text. No network, no other program."""
        shapes = {
            StageKind.DISPATCH: ("{{", "}}"),
            StageKind.AGENT: ("(", ")"),
            StageKind.REFINE: ("[[", "]]"),
            StageKind.SUBGRAPH: ("[/", "/]"),
            StageKind.PATH: ("[", "]"),
        }
        graph = self.digraph()
        ids = _mermaid_ids(graph.nodes)
        lines = ["flowchart LR", f"  {ids[START]}([task])", f"  {ids[END]}([answer])"]
        for stage in self.stages:
            left, right = shapes[stage.kind]
            detail = stage.agent or (", ".join(stage.pool) if stage.kind is StageKind.DISPATCH else "")
            label = _mermaid_text(f"{stage.name}: {detail}" if detail else stage.name)
            lines.append(f'  {ids[stage.name]}{left}"{label}"{right}')
        for source, target, attributes in graph.edges(data=True):
            when, bound = attributes.get("when"), attributes.get("loop")
            words = _mermaid_text(f"{when}{f', at most {bound} rounds' if bound else ''}")
            label = f"|{words}|" if when else ""
            lines.append(f"  {ids[source]} {'-.->' if bound else '-->'}{label} {ids[target]}")
        for name in self.may_end_after():
            if not graph.has_edge(name, END):
                lines.append(f"  {ids[name]} --> {ids[END]}")
        return "\n".join(lines)

    def dot(self) -> str:
        """Graphviz DOT text. No other program is called."""
        graph = self.digraph()
        lines = [f"digraph {_dot_text(self.name)} {{", "  rankdir=LR;"]
        for name, words in ((START, "task"), (END, "answer")):
            lines.append(f'  {_dot_text(name)} [label="{words}", shape=oval];')
        lines += [f"  {_dot_text(s.name)} [label={_dot_text(s.name, s.kind.value)}];" for s in self.stages]
        for source, target, attributes in graph.edges(data=True):
            when, bound = attributes.get("when"), attributes.get("loop")
            style = " [style=dashed, label={}]" if bound else " [label={}]"
            end = style.format(_dot_text(when)) if when else ""
            lines.append(f"  {_dot_text(source)} -> {_dot_text(target)}{end};")
        for name in self.may_end_after():
            if not graph.has_edge(name, END):
                lines.append(f"  {_dot_text(name)} -> {_dot_text(END)};")
        return "\n".join([*lines, "}"])


def _mermaid_ids(names: Iterable[str]) -> dict[str, str]:
    """A Mermaid id for every node, none twice (`end` is a word of its grammar, hence the prefix)."""
    ids = {START: "n_start", END: "n_end"}
    for name in names:
        if name not in ids:
            plain = "n_" + "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
            numbered = (plain if n == 1 else f"{plain}_{n}" for n in range(1, len(ids) + 2))
            taken = set(ids.values())
            ids[name] = next(id for id in numbered if id not in taken)
    return ids


def _mermaid_text(text: str) -> str:
    """Text for a label: what its grammar or HTML would read as its own becomes a numeric entity."""
    return "".join(f"#{ord(c)};" if c in '"#;<>|[](){}&`\n\r' else c for c in text)


def _dot_text(*lines: str) -> str:
    """A quoted string of DOT, one line of a label for each argument."""
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") for line in lines)
    return '"' + "\\n".join(escaped) + '"'


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
