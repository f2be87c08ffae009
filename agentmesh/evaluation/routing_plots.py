"""The plots of `bench routing`: every policy on a set side by side, and how far stated probabilities come true."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentmesh.errors import StoreError
from agentmesh.evaluation import plots
from agentmesh.evaluation.report import draw_rows

__all__ = ["draw_routing"]

Curve = Sequence[tuple[float, float, int]]


def draw_routing(
    result: Mapping[str, Any], curves: Mapping[str, Mapping[str, Curve]], folder: Path
) -> tuple[Path, ...]:
    """Plots of a document of `bench routing` in `folder`, as PNG and SVG; returns what was written.

    One for each set with every figure that is a share and its interval, `routing-SET.*`; one for each set and other
    figure, `routing-SET-METRIC.*`; one with the reliability of those that state probabilities,
    `routing-SET-reliability.*`.

    Args:
        result: The document.
        curves: For each set and policy, what was said and what came true, for each bin.
        folder: Made if it is not there.

    Raises:
        ConfigError: If matplotlib is not installed.
        StoreError: If the folder cannot be written.
    """
    shares: dict[str, list[Mapping[str, Any]]] = {}
    for row in result["rows"]:
        if row["unit"] == "share":
            shares.setdefault(row["set"], []).append(row)
    pictures: dict[str, bytes] = {}
    for form in ("png", "svg"):
        for name, rows in shares.items():
            bars = [(r["policy"], r["metric"], r["value"], tuple(r["ci95"] or (r["value"], r["value"]))) for r in rows]
            pictures[f"routing-{name}.{form}"] = plots.figure_plot(bars, name, form=form)
        for name, lines in curves.items():
            if lines:
                points = {
                    policy: [{"confidence": said, "right": true} for said, true, _ in curve]
                    for policy, curve in lines.items()
                }
                pictures[f"routing-{name}-reliability.{form}"] = plots.curve_plot(points, form=form)
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            (folder / name).write_bytes(picture)
            written.append(folder / name)
    except OSError as error:
        raise StoreError(f"{folder}: plots cannot be written ({error.strerror}); choose another --out") from error
    others = {**result, "rows": [row for row in result["rows"] if row["unit"] != "share"]}
    return (*written, *draw_rows(others, folder))
