"""The one form of every benchmark: a document with rows. What `--json` prints; other programs read it."""

import os
import platform
from collections.abc import Sequence
from typing import Any

from agentmesh import __version__

__all__ = ["document", "row"]


def document(bench: str, rows: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """What a benchmark found, with the machine that it ran on; `more` stands beside the rows."""
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}
    return {"bench": bench, "version": __version__, "machine": machine, **more, "rows": list(rows)}


def row(
    set_: str, policy: str, metric: str, value: float, unit: str, n: int, ci95: Sequence[float] | None = None
) -> dict[str, Any]:
    """One measured number; `(set_, policy, metric)` is unique in a document.

    Args:
        set_: On what it was measured.
        policy: Ours, or a baseline.
        metric: What was measured.
        value: The number, in `unit`.
        unit: E.g. `share`, `ms`, `tokens`.
        n: How many samples it rests on.
        ci95: Its 95 % interval, where it has one.
    """
    return {
        "set": set_,
        "policy": policy,
        "metric": metric,
        "value": round(float(value), 4),
        "ci95": None if ci95 is None else [round(float(x), 4) for x in ci95],
        "n": n,
        "unit": unit,
    }
