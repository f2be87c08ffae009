"""From a graph of agents to a drawing: stages as boxes in columns from left to right, ways back as lanes below them.

Our own layered layout (see `ranks`): no other program, no font, no network. Deterministic: the same graph is the same
drawing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from agentmesh.drawing.boxes import LINE, NOTE_SIZE, Cell, box_of, cell_of, one_line, terminal
from agentmesh.drawing.ranks import columns_of, forward_edges, heights, order_columns, spaced
from agentmesh.drawing.shapes import NOTCH, Arrow, Box, Drawing, Label, Point, Shape, Words, cut_text, text_width
from agentmesh.graphs import END, START, GraphSpec

__all__ = ["lay_out"]

MARGIN = 24.0
TITLE_SIZE = 15.0
COLUMN_GAP, ROW_GAP, LANE_GAP = 56.0, 26.0, 34.0
CORNER = 10.0
BENDS = "\0"
"""First character of the name of a bend; no stage begins with it."""
LABEL_CHARS = 44


def lay_out(graph: GraphSpec) -> Drawing:
    """The drawing of a graph, which need not have passed its checks: what cannot be placed well is still drawn."""
    plain = _Layout(graph, nested=False).drawing()
    title = cut_text(graph.name, 80)
    width = max(plain.width, text_width(title, TITLE_SIZE * 1.05)) + 2 * MARGIN
    left, top = (width - plain.width) / 2, MARGIN + 34
    words = Words(title, width / 2, MARGIN + 8, TITLE_SIZE, bold=True)
    heading = Box(Shape.DOT, width / 2, MARGIN, 0, 0, (words,))
    return Drawing(
        width,
        plain.height + top + MARGIN,
        title,
        (heading, *(box.moved(left, top) for box in plain.boxes)),
        tuple(arrow.moved(left, top) for arrow in plain.arrows),
    )


def _inner(graph: GraphSpec) -> Drawing:
    """The drawing of a graph inside a stage of another."""
    return _Layout(graph, nested=True).drawing()


@dataclass
class _Way:
    """An edge that is drawn: through these nodes, the first and the last of them stages."""

    nodes: list[str]
    label: str = ""
    leaves: float = 0.0
    enters: float = 0.0
    """Pixels below the middle of the boxes at its ends."""
    width: float = 0.0
    """Of the label."""


class _Layout:
    """One pass from a graph to its drawing, without margin or title."""

    def __init__(self, graph: GraphSpec, *, nested: bool) -> None:
        self.cells: dict[str, Cell] = {}
        self.ways: list[_Way] = []
        self.back: list[tuple[str, str, str]] = []
        """From, to, words."""
        self._read(graph, nested)
        self.columns: list[list[str]] = []
        self.edges: list[tuple[str, str]] = []

    def drawing(self) -> Drawing:
        """Place everything."""
        self._place_columns()
        self._place_rows()
        arrows = [*self._flows(), *self._loops()]
        cells = [cell for name, cell in self.cells.items() if not name.startswith(BENDS)]
        boxes = [box.moved(c.x, c.y) for c in cells for box in (c.box, *c.inner)]
        inner = [arrow.moved(c.x, c.y) for c in cells for arrow in c.lines]
        return _cropped(boxes, [*inner, *arrows])

    def _read(self, graph: GraphSpec, nested: bool) -> None:
        self.cells[START] = terminal("task", nested)
        for stage in graph.stages:
            self.cells[stage.name] = cell_of(stage, _inner)
        self.cells[END] = terminal("answer", nested)
        edges: list[tuple[str, str]] = [(START, entry) for entry in graph.entries()]
        words: dict[tuple[str, str], str] = {}
        for edge in graph.edges:
            if edge.source != START:
                edges.append((edge.source, edge.target))
                words[edge.source, edge.target] = cut_text(edge.when or "", LABEL_CHARS)
        edges += [(name, END) for name in graph.may_end_after() if (name, END) not in edges]
        edges = list(dict.fromkeys(edges))
        for name in {end for edge in edges for end in edge} - self.cells.keys():
            self.cells[name] = box_of(Shape.DOT, [one_line(f"{name}?", bold=True)])
        forward, back = forward_edges(edges)
        self.ways = [_Way([source, target], words.get((source, target), "")) for source, target in forward]
        self.back = [(source, target, words.get((source, target), "")) for source, target in back]
        for loop in graph.loops:
            if loop.source in self.cells and loop.target in self.cells:
                text = f"{cut_text(loop.while_, LABEL_CHARS)}, at most {loop.max_rounds} rounds"
                self.back.append((loop.source, loop.target, text))

    # --- places -------------------------------------------------------------------------------------------------------

    def _place_columns(self) -> None:
        nodes = list(self.cells)
        columns = columns_of(nodes, [(w.nodes[0], w.nodes[-1]) for w in self.ways])
        column = {node: n for n, names in enumerate(columns) for node in names}
        for n, way in enumerate(self.ways):
            source, target = way.nodes
            bends = [f"{BENDS}{n}.{i}" for i in range(column[source] + 1, column[target])]
            for i, bend in enumerate(bends, column[source] + 1):
                self.cells[bend] = Cell(Box(Shape.DOT, 0, 0, 0, 8))
                columns[i].append(bend)
            way.nodes = [source, *bends, target]
            self.edges += list(pairwise(way.nodes))
        self.columns = order_columns(columns, self.edges)
        gaps = [COLUMN_GAP] * len(self.columns)
        for way in self.ways:
            if way.label:
                way.width = text_width(way.label, NOTE_SIZE) + 12
                gaps[column[way.nodes[0]]] = max(gaps[column[way.nodes[0]]], way.width + 40)
        x = 0.0
        for n, names in enumerate(self.columns):
            widest = max(self.cells[name].box.width for name in names)
            for name in names:
                cell = self.cells[name]
                if name.startswith(BENDS):  # a bend is as wide as its column, so that the way passes it level
                    cell.box = replace(cell.box, width=widest)
                cell.column, cell.sides = n, (x, x + widest)
                cell.x = x + (widest - cell.box.width) / 2
            x += widest + gaps[n]

    def _place_rows(self) -> None:
        sizes = {name: cell.box.height for name, cell in self.cells.items()}
        middles = heights(self.columns, self.edges, sizes, gap=ROW_GAP, bends=BENDS)
        for name, middle in middles.items():
            self.cells[name].y = middle - sizes[name] / 2
        self._spread_ports()

    def _spread_ports(self) -> None:
        """Ways that share a side of a box leave or enter it one below the other."""
        for name, cell in self.cells.items():
            if name.startswith(BENDS):
                continue
            out = sorted((w for w in self.ways if w.nodes[0] == name), key=lambda w: self.cells[w.nodes[1]].middle)
            come = sorted((w for w in self.ways if w.nodes[-1] == name), key=lambda w: self.cells[w.nodes[-2]].middle)
            for ways, side in ((out, "leaves"), (come, "enters")):
                step = min(16.0, 0.7 * cell.box.height / max(1, len(ways)))
                for i, way in enumerate(ways):
                    setattr(way, side, (i - (len(ways) - 1) / 2) * step)

    # --- arrows -------------------------------------------------------------------------------------------------------

    def _flows(self) -> Iterator[Arrow]:
        """The ways forward; where several words stand in one gap, they are moved apart."""
        made: list[tuple[_Way, Arrow, Point]] = []
        for way in self.ways:
            start, pieces = self._pieces(way)
            at = next(n for n, piece in enumerate(pieces) if len(piece) > 1)
            before = pieces[at - 1][-1] if at else start
            middle = (before[0] + pieces[at][-1][0]) / 2, (before[1] + pieces[at][-1][1]) / 2
            made.append((way, Arrow(start, pieces), middle))
        for n in range(len(self.columns)):
            said = [m for m in made if m[0].label and self.cells[m[0].nodes[0]].column == n]
            said.sort(key=lambda m: m[2][1])
            places = spaced([m[2][1] for m in said], [LINE + 2] * (len(said) - 1))
            for (way, arrow, middle), y in zip(said, places, strict=True):
                label = Label(Words(way.label, middle[0], y, NOTE_SIZE), way.width)
                yield replace(arrow, label=label)
        yield from (arrow for way, arrow, _ in made if not way.label)

    def _pieces(self, way: _Way) -> tuple[Point, tuple[tuple[Point, ...], ...]]:
        """Level inside of columns, curved between them."""
        first, last = self.cells[way.nodes[0]], self.cells[way.nodes[-1]]
        y = first.middle + way.leaves
        x = first.right(y)
        start = x, y
        pieces: list[tuple[Point, ...]] = []
        for before, after in pairwise(way.nodes):
            cell = self.cells[after]
            leaves, (enters, _) = self.cells[before].sides[1], cell.sides
            y_to = last.middle + way.enters if cell is last else cell.middle
            half = (enters - leaves) / 2
            if leaves - x > 1:
                pieces.append(((leaves, y),))
            pieces.append(((leaves + half, y), (enters - half, y_to), (enters, y_to)))
            x, y = enters, y_to
        if last.left(y) - x > 1:
            pieces.append(((last.left(y), y),))
        else:
            pieces[-1] = (*pieces[-1][:-1], (last.left(y), y))
        return start, tuple(pieces)

    def _loops(self) -> Iterator[Arrow]:
        """The ways back, each in the highest lane below all boxes that is free; short ones first."""
        floor = max(cell.y + cell.box.height for cell in self.cells.values())
        lanes: list[list[tuple[float, float]]] = []
        ways = sorted(self.back, key=lambda b: abs(self.cells[b[0]].x - self.cells[b[1]].x))
        counts: dict[str, int] = {}
        for source, target, _ in ways:
            for name in (source, target):
                counts[name] = counts.get(name, 0) + 1
        for source, target, text in ways:
            end, ends = self._down(target, counts[target], leaves=False)
            begin, begins = self._down(source, counts[source], leaves=True)
            width = text_width(text, NOTE_SIZE) + 12
            centre = (begin + end) / 2
            span = min(begin, end, centre - width / 2) - 8, max(begin, end, centre + width / 2) + 8
            lane = next(
                (n for n, taken in enumerate(lanes) if all(span[1] <= a or b <= span[0] for a, b in taken)), len(lanes)
            )
            if lane == len(lanes):
                lanes.append([])
            lanes[lane].append(span)
            y = floor + LANE_GAP * (lane + 1) - 8
            way = [*begins, (begin, y), (end, y), *reversed(ends)]
            aside = 0.0 if abs(begin - end) > width + 2 * CORNER else 13.0  # a short way has its words below it
            label = Label(Words(text, centre, y + aside, NOTE_SIZE), width) if text else None
            yield Arrow(way[0], _rounded(way), "loop", label)

    def _down(self, name: str, count: int, *, leaves: bool) -> tuple[float, list[Point]]:
        """Where a way back goes down from a box, and the points that lead there: from its lower edge where nothing is
        below it, else round it through the gap beside its column."""
        cell = self.cells[name]
        place = cell.below
        cell.below += 1
        below = [o for n, o in self.cells.items() if o.column == cell.column and o.y > cell.y and n[:1] != BENDS]
        if not below:
            step = min(40.0, max(0.0, cell.box.width - 2 * NOTCH - 16) / count)
            x = cell.x + cell.box.width / 2 + (place - (count - 1) / 2) * step
            return x, [(x, cell.y + cell.box.height)]
        y = cell.middle + cell.box.height * 0.35
        aside = 12.0 + 8 * (place % 4)
        if leaves:
            return cell.sides[1] + aside, [(cell.right(y), y), (cell.sides[1] + aside, y)]
        return cell.sides[0] - aside, [(cell.left(y), y), (cell.sides[0] - aside, y)]


# --- geometry ---------------------------------------------------------------------------------------------------------


def _rounded(points: Sequence[Point]) -> tuple[tuple[Point, ...], ...]:
    """Straight lines through these points with round corners."""
    pieces: list[tuple[Point, ...]] = []
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        near, far = _toward(corner, before), _toward(corner, after)
        pieces += [(near,), (corner, corner, far)]
    return (*pieces, (points[-1],))


def _toward(corner: Point, other: Point) -> Point:
    """A point on the way from the corner, at most half of it away."""
    dx, dy = other[0] - corner[0], other[1] - corner[1]
    length = (dx * dx + dy * dy) ** 0.5
    share = min(CORNER, length / 2) / length if length else 0.0
    return corner[0] + dx * share, corner[1] + dy * share


def _cropped(boxes: Sequence[Box], arrows: Sequence[Arrow]) -> Drawing:
    """All of it moved to begin at (0, 0)."""
    xs = [x for b in boxes for x in (b.x, b.x + b.width)]
    ys = [y for b in boxes for y in (b.y, b.y + b.height)]
    for arrow in arrows:
        xs += [x for piece in ((arrow.start,), *arrow.pieces) for x, _ in piece]
        ys += [y for piece in ((arrow.start,), *arrow.pieces) for _, y in piece]
        if arrow.label:
            words, half = arrow.label.words, arrow.label.width / 2
            xs += [words.x - half, words.x + half]
            ys += [words.y - LINE / 2, words.y + LINE / 2]
    left, top = min(xs), min(ys)
    return Drawing(
        max(xs) - left,
        max(ys) - top,
        "",
        tuple(box.moved(-left, -top) for box in boxes),
        tuple(arrow.moved(-left, -top) for arrow in arrows),
    )
