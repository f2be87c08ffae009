"""Plots of routing tests and of cards that overlap, as bytes of PNG or SVG by matplotlib (the extra `plots`)."""

import math
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentmesh.errors import ConfigError

__all__ = ["can_plot", "curve_plot", "figure_plot", "heat_plot", "roc_plot"]

COLOURS = ("#2f7fb8", "#d9822b", "#2a8a50", "#b0413e", "#7449cc", "#76808f")
"""Of the routers, in order; they begin again after the last one."""
DPI = 144
MOST_SIDE_INCHES = 40.0
SMALL_MAP = 24
"""Up to as many agents, the numbers stand in the heat map."""


def can_plot() -> bool:
    """Whether matplotlib is there."""
    return find_spec("matplotlib") is not None


def figure_plot(rows: Sequence[tuple[str, str, float, tuple[float, float]]], title: str, *, form: str = "png") -> bytes:
    """Bars with intervals, those of one metric side by side.

    Args:
        rows: Router, metric, value and interval, by metric.
        title: Above the plot.
        form: `png` or `svg`.
    """
    names = list(dict.fromkeys(row[0] for row in rows))
    groups = list(dict.fromkeys(row[1] for row in rows))
    figure, axes = _new(8, 1.2 + 0.28 * len(groups) * (len(names) + 1))
    for place, name in enumerate(names):
        own = [(groups.index(m), v, ci) for router, m, v, ci in rows if router == name]
        heights = [g * (len(names) + 1) + place for g, _, _ in own]
        spread = [[max(0.0, v - ci[0]) for _, v, ci in own], [max(0.0, ci[1] - v) for _, v, ci in own]]
        colour = COLOURS[place % len(COLOURS)]
        axes.barh(heights, [v for _, v, _ in own], xerr=spread, color=colour, label=name, error_kw={"linewidth": 0.8})
    axes.set_yticks([g * (len(names) + 1) + (len(names) - 1) / 2 for g in range(len(groups))], groups)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.02)
    _legend(axes, "lower right")
    return _bytes(figure, axes, title, form)


def curve_plot(curves: Mapping[str, Sequence[Mapping[str, Any]]], *, form: str = "png") -> bytes:
    """What was said against what came true, a line for each router; the diagonal is right. `form`: `png` or `svg`."""
    figure, axes = _new(5, 5)
    axes.plot([0, 1], [0, 1], color="#9aa5b1", linewidth=1, linestyle="--")
    for place, (name, points) in enumerate(curves.items()):
        said, true = [p["confidence"] for p in points], [p["right"] for p in points]
        axes.plot(said, true, marker="o", markersize=4, color=COLOURS[place % len(COLOURS)], label=name)
    return _square(figure, axes, "Calibration", "stated confidence", "share that was right", form)


def roc_plot(curves: Mapping[str, Sequence[Sequence[float]]]) -> bytes:
    """Messages out of scope that are found against false alarms, a line for each router."""
    figure, axes = _new(5, 5)
    axes.plot([0, 1], [0, 1], color="#9aa5b1", linewidth=1, linestyle="--")
    for place, (name, points) in enumerate(curves.items()):
        colour = COLOURS[place % len(COLOURS)]
        axes.plot([p[0] for p in points], [p[1] for p in points], color=colour, label=name, drawstyle="steps-post")
    return _square(figure, axes, "Out of scope", "false alarms among messages with agents", "share that is found")


def heat_plot(values: NDArray[np.float64], rows: Sequence[str], columns: Sequence[str], title: str) -> bytes:
    """A table of shares, 0 to 1, as a heat map.

    Args:
        values: Shape (len(rows), len(columns)); NaN is left blank.
        rows: Names at the left.
        columns: Names above.
        title: Above the plot.
    """
    side = min(MOST_SIDE_INCHES, 2.5 + 0.42 * len(columns))
    figure, axes = _new(side, min(MOST_SIDE_INCHES, 2.0 + 0.34 * len(rows)))
    drawn = axes.imshow(values, vmin=0.0, vmax=1.0, cmap="Blues", aspect="auto")
    size = 8 if len(rows) <= SMALL_MAP else max(3.0, 200.0 / len(rows))
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="left", fontsize=size, parse_math=False)
    axes.set_yticks(range(len(rows)), rows, fontsize=size, parse_math=False)
    axes.xaxis.tick_top()
    axes.set_xlabel(title)
    if len(rows) <= SMALL_MAP:
        for (row, column), value in np.ndenumerate(values):
            if not math.isnan(value) and value >= 0.005:
                ink = "white" if value > 0.6 else "#1b2430"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=ink)
    figure.colorbar(drawn, ax=axes, fraction=0.03, pad=0.02)
    return _bytes(figure, axes, "")


def _new(width: float, height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("plots need matplotlib: pip install 'agentmesh[plots]'") from error
    figure: Any = Figure(figsize=(width, min(height, MOST_SIDE_INCHES)), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _square(figure: Any, axes: Any, title: str, x: str, y: str, form: str = "png") -> bytes:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=True, alpha=0.25)
    _legend(axes, "lower right")
    return _bytes(figure, axes, title, form)


def _legend(axes: Any, where: str) -> None:
    for text in axes.legend(loc=where, fontsize=8).get_texts():
        text.set_parse_math(False)


def _bytes(figure: Any, axes: Any, title: str, form: str = "png") -> bytes:
    if title:
        axes.set_title(title, fontsize=10, parse_math=False)
    picture = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a letter that the font lacks is drawn as a box
        figure.savefig(picture, format=form)
    return picture.getvalue()
