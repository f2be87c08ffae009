"""What a drawing is made of: boxes, arrows and words at places, in pixels. Values only; `svg` and `png` render them."""

import unicodedata
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

__all__ = ["NOTCH", "Arrow", "Box", "Drawing", "Label", "Shape", "Words", "cut_text", "text_width"]

Point = tuple[float, float]
"""x to the right, y downwards."""

NOTCH = 14.0
"""How far the points of a hexagon stick out of its flat sides."""


class Shape(StrEnum):
    """How a box looks; one shape and colour for each kind of stage, and those of what is no stage."""

    DISPATCH = "dispatch"
    AGENT = "agent"
    REFINE = "refine"
    PATH = "path"
    SUBGRAPH = "subgraph"
    TERMINAL = "terminal"
    """The task and the answer."""
    DOT = "dot"
    """Where an inner graph begins and ends."""
    CHIP = "chip"
    """One agent of a path's layer."""


@dataclass(frozen=True)
class Words:
    """One line of text, centred on a point."""

    text: str
    x: float
    y: float
    """Of the middle of the line."""
    size: float = 13.0
    bold: bool = False
    muted: bool = False

    def moved(self, dx: float, dy: float) -> "Words":
        """The same words elsewhere."""
        return replace(self, x=self.x + dx, y=self.y + dy)


@dataclass(frozen=True)
class Box:
    """A closed shape."""

    shape: Shape
    x: float
    """Of its left edge."""
    y: float
    """Of its upper edge."""
    width: float
    height: float
    words: tuple[Words, ...] = ()

    def moved(self, dx: float, dy: float) -> "Box":
        """The same box elsewhere, its words too."""
        words = tuple(w.moved(dx, dy) for w in self.words)
        return replace(self, x=self.x + dx, y=self.y + dy, words=words)


@dataclass(frozen=True)
class Label:
    """What stands on an arrow; the drawing behind it is covered."""

    words: Words
    width: float
    on: Shape | None = None
    """The frame that it lies on; None: the paper."""

    def moved(self, dx: float, dy: float) -> "Label":
        """The same label elsewhere."""
        return replace(self, words=self.words.moved(dx, dy))


@dataclass(frozen=True)
class Arrow:
    """A line of straight and curved pieces."""

    start: Point
    pieces: tuple[tuple[Point, ...], ...]
    """A straight piece is its end, a curved one is two control points and its end (a cubic Bézier curve)."""
    style: Literal["flow", "loop", "thin"] = "flow"
    """`loop` is dashed; `thin` has no head."""
    label: Label | None = None

    def moved(self, dx: float, dy: float) -> "Arrow":
        """The same arrow elsewhere, its label too."""
        start, *ends = (tuple((x + dx, y + dy) for x, y in piece) for piece in ((self.start,), *self.pieces))
        label = self.label.moved(dx, dy) if self.label else None
        return Arrow(start[0], tuple(ends), self.style, label)


@dataclass(frozen=True)
class Drawing:
    """Everything that is drawn; later boxes lie over earlier ones, arrows over boxes, labels over all."""

    width: float
    height: float
    title: str = ""
    boxes: tuple[Box, ...] = field(default_factory=tuple)
    arrows: tuple[Arrow, ...] = field(default_factory=tuple)


_NARROW = frozenset("iljtfrI.,:;'|!()[]/ ")
_WIDE = frozenset("mwMW@%&")


def text_width(text: str, size: float) -> float:
    """About how wide a line is, in pixels: there is no font to ask. Our choice: rather too wide than too narrow."""
    width = 0.0
    for character in text:
        if unicodedata.combining(character):
            continue
        if unicodedata.east_asian_width(character) in "WF":
            width += 1.05
        elif character in _NARROW:
            width += 0.38
        elif character in _WIDE:
            width += 0.95
        else:
            width += 0.72 if character.isupper() else 0.62
    return width * size


def cut_text(text: str, most: int) -> str:
    """At most `most` characters on one line, the end and all control characters left out."""
    line = " ".join("".join(c for c in text if c.isspace() or unicodedata.category(c)[0] != "C").split())
    return line if len(line) <= most else line[: most - 1] + "…"
