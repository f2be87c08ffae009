"""The box of one stage: its outline, its lines of text and what is drawn inside. `layout` decides where it goes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from agentmesh.drawing.shapes import NOTCH, Arrow, Box, Drawing, Shape, Words, cut_text, text_width
from agentmesh.graphs import GraphSpec, PathSpec, StageKind, StageSpec

__all__ = ["LINE", "NOTE_SIZE", "Cell", "box_of", "cell_of", "one_line", "terminal"]

NAME_SIZE, TEXT_SIZE, NOTE_SIZE = 14.0, 12.5, 11.5
LINE = 18.0
"""Pixels from one line of text to the next."""
PADDING = 14.0
SHOWN_AGENTS = 8
"""Names of a pool that are listed; the others are counted."""
NAME_CHARS = 40
MOST_THREADS = 60
"""Hand-overs between two layers of a path that are drawn one by one."""

_SHAPES = {
    StageKind.DISPATCH: Shape.DISPATCH,
    StageKind.AGENT: Shape.AGENT,
    StageKind.REFINE: Shape.REFINE,
    StageKind.SUBGRAPH: Shape.SUBGRAPH,
    StageKind.PATH: Shape.PATH,
}


@dataclass
class Cell:
    """What stands for a node: its outline at (0, 0), what is inside, and later where it goes."""

    box: Box
    inner: tuple[Box, ...] = ()
    lines: tuple[Arrow, ...] = ()
    column: int = 0
    sides: tuple[float, float] = (0.0, 0.0)
    """Left and right border of its column."""
    x: float = 0.0
    y: float = 0.0
    """Of its left upper corner."""
    below: int = 0
    """Ways back that begin or end at its lower edge."""

    @property
    def middle(self) -> float:
        return self.y + self.box.height / 2

    def left(self, y: float) -> float:
        """Where its left border is at this height."""
        return self.x + self._slant(y)

    def right(self, y: float) -> float:
        """Where its right border is at this height."""
        return self.x + self.box.width - self._slant(y)

    def _slant(self, y: float) -> float:
        half = self.box.height / 2
        return NOTCH * min(1.0, abs(y - self.middle) / half) if self.box.shape is Shape.DISPATCH and half else 0.0


def one_line(text: str, size: float = TEXT_SIZE, *, bold: bool = False, muted: bool = False) -> Words:
    return Words(cut_text(text, NAME_CHARS), 0, 0, size, bold, muted)


def box_of(shape: Shape, lines: Sequence[Words], *, least: tuple[float, float] = (0, 0), slant: float = 0) -> Cell:
    """A box around lines, the first of them its name."""
    width = max(least[0], *(text_width(w.text, w.size) * (1.06 if w.bold else 1) for w in lines)) + 2 * PADDING
    width += 2 * slant
    height = max(least[1], LINE * len(lines)) + 1.4 * PADDING
    top = 0.7 * PADDING + LINE / 2
    words = tuple(replace(w, x=width / 2, y=top + LINE * n) for n, w in enumerate(lines))
    return Cell(Box(shape, 0, 0, width, height, words))


def terminal(text: str, nested: bool) -> Cell:
    if nested:
        return Cell(Box(Shape.DOT, 0, 0, 10, 10))
    return box_of(Shape.TERMINAL, [one_line(text, TEXT_SIZE)])


def cell_of(stage: StageSpec, draw: Callable[[GraphSpec], Drawing]) -> Cell:
    """The box of a stage: its name, what it does, who works.

    Args:
        stage: Any kind.
        draw: Gives the drawing of the graph inside a subgraph.
    """
    name = one_line(stage.name, NAME_SIZE, bold=True)
    router = [one_line(f"router {stage.router}", NOTE_SIZE, muted=True)] if stage.router else []
    match stage.kind:
        case StageKind.DISPATCH:
            most = "one agent" if stage.max_agents == 1 else f"at most {stage.max_agents} agents"
            return box_of(
                Shape.DISPATCH,
                [name, one_line(f"{most} of", NOTE_SIZE, muted=True), *map(one_line, _pool(stage.pool)), *router],
                slant=NOTCH,
            )
        case StageKind.AGENT:
            return box_of(Shape.AGENT, [name, one_line(f"agent {stage.agent or '?'}")])
        case StageKind.REFINE:
            return box_of(Shape.REFINE, [name, one_line("makes one answer", NOTE_SIZE, muted=True)], slant=8)
        case StageKind.PATH if stage.path is not None:
            head = [name, one_line("one agent of each layer", NOTE_SIZE, muted=True), *router]
            return _framed(Shape.PATH, head, _layers(stage.path))
        case StageKind.SUBGRAPH if stage.graph is not None:
            return _framed(Shape.SUBGRAPH, [name], draw(stage.graph))
        case _:
            return box_of(_SHAPES[stage.kind], [name, one_line(stage.kind.value, NOTE_SIZE, muted=True)])


def _pool(pool: Sequence[str]) -> list[str]:
    """The agents of a pool as lines."""
    if "*" in pool:
        return ["all agents"]
    if len(pool) <= SHOWN_AGENTS:
        return list(pool) or ["nobody"]
    return [*pool[: SHOWN_AGENTS - 1], f"and {len(pool) - SHOWN_AGENTS + 1} more"]


def _framed(shape: Shape, head: Sequence[Words], inner: Drawing) -> Cell:
    """A box with lines at its top and a drawing below them."""
    top = 0.7 * PADDING + LINE * len(head) + 8
    cell = box_of(shape, head, least=(inner.width, LINE * len(head) + 8 + inner.height + 0.3 * PADDING))
    dx = (cell.box.width - inner.width) / 2
    cell.inner = tuple(box.moved(dx, top) for box in inner.boxes)
    cell.lines = tuple(_lying_on(arrow, shape).moved(dx, top) for arrow in inner.arrows)
    return cell


def _lying_on(arrow: Arrow, shape: Shape) -> Arrow:
    """The arrow, its words covering it in the colour of the frame around it."""
    return replace(arrow, label=replace(arrow.label, on=arrow.label.on or shape)) if arrow.label else arrow


def _layers(path: PathSpec) -> Drawing:
    """The layers of a path as columns of chips, with a thread for every hand-over that is allowed."""
    gap_x, gap_y, height = 40.0, 8.0, 26.0
    tallest = max((len(layer) for layer in path.layers), default=0) * (height + gap_y) - gap_y
    columns: list[dict[str, Box]] = []
    x = 0.0
    for layer in path.layers:
        lines = {agent: one_line(agent) for agent in layer}
        width = max((text_width(w.text, w.size) for w in lines.values()), default=0) + 20
        y = (tallest - (len(layer) * (height + gap_y) - gap_y)) / 2
        chips: dict[str, Box] = {}
        for agent, words in lines.items():
            chip = replace(words, x=x + width / 2, y=y + height / 2)
            chips[agent] = Box(Shape.CHIP, x, y, width, height, (chip,))
            y += height + gap_y
        columns.append(chips)
        x += width + gap_x
    threads: list[Arrow] = []
    for left, right in pairwise(columns):
        pairs = [(a, b) for a in left for b in right if (a, b) not in path.forbid]
        for a, b in pairs if len(pairs) <= MOST_THREADS else ():
            threads.append(_thread(left[a], right[b]))
    return Drawing(max(0.0, x - gap_x), max(0.0, tallest), "", tuple(b for c in columns for b in c.values()),
                   tuple(threads))  # fmt: skip


def _thread(left: Box, right: Box) -> Arrow:
    start = left.x + left.width, left.y + left.height / 2
    end = right.x, right.y + right.height / 2
    half = (end[0] - start[0]) / 2
    return Arrow(start, (((start[0] + half, start[1]), (end[0] - half, end[1]), end),), "thin")
