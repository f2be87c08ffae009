"""Where the nodes of a directed graph go in a layered drawing: columns, their order, their heights. Names and numbers
only: nothing is drawn here.
"""

from bisect import bisect_right, insort
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

__all__ = ["columns_of", "crossings", "forward_edges", "heights", "order_columns", "spaced"]

Edge = tuple[str, str]

SWEEPS = 8
"""Passes over all columns, there and back, that look for a better order or height."""


def forward_edges(edges: Iterable[Edge]) -> tuple[list[Edge], list[Edge]]:
    """The edges that can all point forward, and those that then must point back; earlier edges go first."""
    import networkx as nx

    graph: nx.DiGraph[str] = nx.DiGraph()
    forward: list[Edge] = []
    back: list[Edge] = []
    for source, target in edges:
        turns = source == target or (
            graph.has_node(source) and graph.has_node(target) and nx.has_path(graph, target, source)
        )
        if turns:
            back.append((source, target))
        else:
            graph.add_edge(source, target)
            forward.append((source, target))
    return forward, back


def columns_of(nodes: Sequence[str], edges: Iterable[Edge]) -> list[list[str]]:
    """Every node in the column after all that lead to it; in a column, in the order of `nodes`.

    Args:
        nodes: All nodes.
        edges: Between them, without a cycle.
    """
    import networkx as nx

    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(nodes)
    graph.add_edges_from(edges)
    place = {node: n for n, node in enumerate(nodes)}
    return [sorted(column, key=place.__getitem__) for column in nx.topological_generations(graph)]


def order_columns(columns: Sequence[Sequence[str]], edges: Sequence[Edge]) -> list[list[str]]:
    """The same columns, each in an order that makes fewer edges cross: every node goes to the mean of its neighbours.

    Args:
        columns: From left to right.
        edges: From a column to the next one.

    Source:
        The barycentre heuristic of layered drawings (Sugiyama, Tagawa and Toda, 1981); the best of all passes is kept.
    """
    before, after = _neighbours(edges)
    best = [list(column) for column in columns]
    least = crossings(best, edges)
    tried = [list(column) for column in best]
    for sweep in range(SWEEPS):
        if not least:
            break
        rightwards = sweep % 2 == 0
        for n in range(1, len(tried)) if rightwards else range(len(tried) - 2, -1, -1):
            place = {node: i for i, node in enumerate(tried[n - 1 if rightwards else n + 1])}
            beside = before if rightwards else after
            here = {node: float(i) for i, node in enumerate(tried[n])}
            for node in tried[n]:
                if known := [place[m] for m in beside.get(node, ())]:
                    here[node] = sum(known) / len(known)
            tried[n].sort(key=here.__getitem__)
        if (count := crossings(tried, edges)) < least:
            best, least = [list(column) for column in tried], count
    return best


def crossings(columns: Sequence[Sequence[str]], edges: Sequence[Edge]) -> int:
    """How many pairs of edges between neighbouring columns cross."""
    place = {node: (n, i) for n, column in enumerate(columns) for i, node in enumerate(column)}
    ends: dict[int, list[tuple[int, int]]] = {}
    for source, target in edges:
        ends.setdefault(place[source][0], []).append((place[source][1], place[target][1]))
    found = 0
    for pairs in ends.values():
        seen: list[int] = []
        for _, target in sorted(pairs):
            found += len(seen) - bisect_right(seen, target)
            insort(seen, target)
    return found


def heights(
    columns: Sequence[Sequence[str]], edges: Sequence[Edge], sizes: Mapping[str, float], *, gap: float, bends: str
) -> dict[str, float]:
    """The middle of every node on the vertical axis: near its neighbours, in the order of its column.

    Args:
        columns: From left to right, ordered.
        edges: From a column to the next one.
        sizes: Height of every node, pixels.
        gap: Pixels between two nodes of a column.
        bends: How names begin of what is no node but a bend of a long edge; such an edge is kept straight.
    """
    before, after = _neighbours(edges)
    middle: dict[str, float] = {}
    room = [[(sizes[a] + sizes[b]) / 2 + gap for a, b in pairwise(column)] for column in columns]
    for column, between in zip(columns, room, strict=True):
        for node, place in zip(column, spaced([0.0] * len(column), between), strict=True):
            middle[node] = place

    def pull(node: str, other: str) -> float:
        return 8.0 ** (node.startswith(bends) + other.startswith(bends))

    for sweep in range(2 * SWEEPS):
        order = range(len(columns)) if sweep % 2 == 0 else range(len(columns) - 1, -1, -1)
        for n in order:
            wanted: list[float] = []
            weights: list[float] = []
            for node in columns[n]:
                others = [*before.get(node, ()), *after.get(node, ())]
                weight = sum(pull(node, other) for other in others)
                total = sum(pull(node, other) * middle[other] for other in others)
                wanted.append(total / weight if weight else middle[node])
                weights.append(weight or 1.0)
            middle.update(zip(columns[n], spaced(wanted, room[n], weights), strict=True))
    return middle


def spaced(wanted: Sequence[float], gaps: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
    """The places nearest to the wanted ones (least squares) that keep their order and their distance.

    Args:
        wanted: Where each would like to be.
        gaps: The least distance between each and the next, one fewer than `wanted`.
        weights: How much each wants it, above 0; None: all the same.

    Source:
        Isotonic regression by pooling adjacent violators, of the places less the distances before them.
    """
    offsets = [0.0]
    for gap in gaps:
        offsets.append(offsets[-1] + gap)
    pools: list[tuple[float, float, int]] = []
    for place, offset, weight in zip(wanted, offsets, weights or [1.0] * len(wanted), strict=False):
        mean, count = place - offset, 1
        while pools and pools[-1][0] >= mean:
            other, heavy, others = pools.pop()
            mean = (mean * weight + other * heavy) / (weight + heavy)
            weight, count = weight + heavy, count + others
        pools.append((mean, weight, count))
    means = [mean for mean, _, count in pools for _ in range(count)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=False)]


def _neighbours(edges: Iterable[Edge]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for source, target in edges:
        before.setdefault(target, []).append(source)
        after.setdefault(source, []).append(target)
    return before, after
