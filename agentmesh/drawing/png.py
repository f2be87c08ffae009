"""A drawing as a PNG picture, by matplotlib (the extra `plots`): the light colours of the SVG, at twice its size."""

import warnings
from io import BytesIO
from typing import Any

from agentmesh.drawing.shapes import NOTCH, Arrow, Box, Drawing, Label, Shape, Words
from agentmesh.drawing.svg import INK, LIGHT
from agentmesh.errors import ConfigError, InputError

__all__ = ["to_png"]

PIXELS_PER_INCH = 96.0
SCALE = 2.0
MOST_PIXELS = 30_000
"""Of one side of the picture: matplotlib's own limit is 65,535, and memory grows with the square."""


def to_png(drawing: Drawing) -> bytes:
    """The drawing as the bytes of a PNG file.

    Raises:
        ConfigError: If matplotlib is not installed.
        InputError: If the drawing is too large for a picture.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            "a PNG picture needs matplotlib: pip install 'agentmesh[plots]', or choose --format svg"
        ) from error
    if max(drawing.width, drawing.height) * SCALE > MOST_PIXELS:
        raise InputError("the graph is too large for a PNG picture; choose --format svg")
    size = drawing.width / PIXELS_PER_INCH, drawing.height / PIXELS_PER_INCH
    figure = Figure(figsize=size, dpi=PIXELS_PER_INCH * SCALE, facecolor=LIGHT["back"][0])
    FigureCanvasAgg(figure)
    axes: Any = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, drawing.width)
    axes.set_ylim(drawing.height, 0)
    axes.set_axis_off()
    pen = _Pen(axes)
    for box in drawing.boxes:
        pen.box(box)
    for arrow in drawing.arrows:
        pen.arrow(arrow)
    for arrow in drawing.arrows:
        if arrow.label:
            pen.label(arrow.label)
    picture = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a letter that the font lacks is drawn as a box
        figure.savefig(picture, format="png", metadata={"Title": drawing.title})
    return picture.getvalue()


class _Pen:
    """Draws shapes into matplotlib's axes, whose units are pixels."""

    def __init__(self, axes: Any) -> None:
        self._axes = axes
        self._order = 0

    def box(self, box: Box) -> None:
        """A box with its words."""
        from matplotlib.patches import Circle, FancyBboxPatch, Polygon

        x, y, w, h = box.x, box.y, box.width, box.height
        fill, border = LIGHT.get(box.shape.value, (INK["line"][0],) * 2)
        looks: dict[str, Any] = {"facecolor": fill, "edgecolor": border, "linewidth": self._points(1.5)}
        if box.shape is Shape.DISPATCH:
            middle = y + h / 2
            corners = [(x, middle), (x + NOTCH, y), (x + w - NOTCH, y)]
            corners += [(x + w, middle), (x + w - NOTCH, y + h), (x + NOTCH, y + h)]
            self._add(Polygon(corners, closed=True, joinstyle="round", **looks))
        elif box.shape is Shape.DOT:
            if w:
                self._add(Circle((x + w / 2, y + h / 2), w / 2, facecolor=fill, linewidth=0))
        else:
            radius = {Shape.TERMINAL: h / 2, Shape.REFINE: 3.0, Shape.CHIP: 6.0, Shape.AGENT: 12.0}.get(box.shape, 8.0)
            style = f"round,pad=0,rounding_size={radius}"
            self._add(FancyBboxPatch((x, y), w, h, boxstyle=style, **looks))
            if box.shape is Shape.REFINE:
                for a in (x + 7, x + w - 7):
                    self._line([(a, y), (a, y + h)], border)
        for words in box.words:
            self.words(words, LIGHT["back"][0] if box.shape is Shape.TERMINAL else None)

    def arrow(self, arrow: Arrow) -> None:
        """A line with its head."""
        from matplotlib.patches import PathPatch, Polygon
        from matplotlib.path import Path

        points, codes = [arrow.start], [Path.MOVETO]
        for piece in arrow.pieces:
            points += piece
            codes += [Path.LINETO] if len(piece) == 1 else [Path.CURVE4] * 3
        colour = INK["line"][0]
        looks: dict[str, Any] = {"facecolor": "none", "edgecolor": colour}
        if arrow.style == "thin":
            looks |= {"linewidth": self._points(1), "alpha": 0.55}
        else:
            looks["linewidth"] = self._points(1.6)
        if arrow.style == "loop":
            looks["linestyle"] = (0, (4, 2.6))
        self._add(PathPatch(Path(points, codes), **looks))
        if arrow.style != "thin":
            (x, y), (bx, by) = points[-1], next(p for p in reversed(points[:-1]) if p != points[-1])
            length = ((x - bx) ** 2 + (y - by) ** 2) ** 0.5 or 1.0
            ux, uy = (x - bx) / length, (y - by) / length
            back = x - 11 * ux, y - 11 * uy
            corners = [(x, y), (back[0] - 4.6 * uy, back[1] + 4.6 * ux), (back[0] + 4.6 * uy, back[1] - 4.6 * ux)]
            self._add(Polygon(corners, closed=True, facecolor=colour, linewidth=0))

    def label(self, label: Label) -> None:
        """Words on a line, which is covered behind them."""
        from matplotlib.patches import Rectangle

        paper = LIGHT[label.on.value if label.on else "back"][0]
        corner = label.words.x - label.width / 2, label.words.y - 9
        self._add(Rectangle(corner, label.width, 18, facecolor=paper, linewidth=0))
        self.words(label.words)

    def words(self, words: Words, colour: str | None = None) -> None:
        """One line of text; a `$` is a dollar, not mathematics."""
        self._order += 1
        self._axes.text(
            words.x,
            words.y,
            words.text,
            ha="center",
            va="center",
            fontsize=self._points(words.size),
            fontweight="bold" if words.bold else "normal",
            color=colour or INK["muted" if words.muted else "text"][0],
            parse_math=False,
            zorder=self._order,
        )

    def _line(self, points: list[tuple[float, float]], colour: str) -> None:
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path

        self._add(PathPatch(Path(points), facecolor="none", edgecolor=colour, linewidth=self._points(1.5)))

    def _add(self, patch: Any) -> None:
        self._order += 1
        patch.set_zorder(self._order)
        self._axes.add_patch(patch)

    @staticmethod
    def _points(pixels: float) -> float:
        """Pixels as printer's points, matplotlib's unit for type and lines."""
        return pixels * 72 / PIXELS_PER_INCH
