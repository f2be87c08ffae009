"""Benchmark rows as a table with bars in the terminal, and as PNG and SVG plots."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentmesh.errors import ConfigError, StoreError

__all__ = ["draw_rows", "show_rows"]

BAR_CELLS = 24


def show_rows(result: Mapping[str, Any], console: Console) -> None:
    """Print every row; rows of one set and metric are compared by a bar."""
    rows = result["rows"]
    machine = result["machine"]
    console.print(
        Text(f"{result['bench']}, agentmesh {result['version']}, Python {machine['python']}, {machine['cores']} cores")
    )
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("set", "metric", "policy", "value", "95 % interval", "n", ""):
        table.add_column(heading, justify="right" if heading in ("value", "n") else "left")
    highest: dict[tuple[str, str], float] = {}
    for row in rows:
        key = (row["set"], row["metric"])
        highest[key] = max(highest.get(key, 0.0), abs(row["value"]))
    for row in sorted(rows, key=lambda r: (r["set"], r["metric"], r["policy"])):
        most = highest[row["set"], row["metric"]] or 1.0
        interval = f"{row['ci95'][0]:.2f} .. {row['ci95'][1]:.2f}" if row["ci95"] else ""
        cells = "█" * max(0, round(BAR_CELLS * row["value"] / most))
        value = f"{row['value']:.3f} {row['unit']}"
        table.add_row(
            row["set"], row["metric"], row["policy"], value, interval, str(row["n"]), Text(cells, style="cyan")
        )
    console.print(table)


def draw_rows(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """One bar chart per set and metric in `folder`, as PNG and SVG.

    Raises:
        ConfigError: If matplotlib is not installed.
        StoreError: If the folder cannot be written.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise ConfigError("plots need matplotlib: pip install 'agentmesh[plots]'") from error
    groups: dict[tuple[str, str], list[Any]] = {}
    for row in result["rows"]:
        groups.setdefault((row["set"], row["metric"]), []).append(row)
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for (set_, metric), rows in groups.items():
            figure, axes = pyplot.subplots(figsize=(6, 0.6 * len(rows) + 1.2))
            names = [row["policy"] for row in rows]
            values = [row["value"] for row in rows]
            spread = [
                [max(0.0, r["value"] - (r["ci95"] or [r["value"]])[0]) for r in rows],
                [max(0.0, (r["ci95"] or [r["value"]])[-1] - r["value"]) for r in rows],
            ]
            axes.barh(names, values, xerr=spread, color="#4c9f9f")
            axes.set_xlabel(rows[0]["unit"])
            axes.set_title(f"{result['bench']}: {set_}, {metric}")
            figure.tight_layout()
            for suffix in ("png", "svg"):
                path = folder / f"{result['bench']}-{set_}-{metric}.{suffix}"
                figure.savefig(path)
                written.append(path)
            pyplot.close(figure)
    except OSError as error:
        raise StoreError(f"{folder}: plots cannot be written ({error.strerror}); choose another --out") from error
    return written
