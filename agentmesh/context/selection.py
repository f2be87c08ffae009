"""Which memories fit a token budget. Pure arrays: no model, no store, no text."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["CHOSEN", "Selection", "select_under_budget"]

CHOSEN = "chosen"
"""The reason of a kept item."""


class Selection(NamedTuple):
    """What was kept, and why the others were not."""

    kept: list[int]
    """Indices of the kept items, best first."""
    reasons: dict[int, str]
    """For every index: `chosen`, or what kept it out, in words."""


def select_under_budget(
    scores: NDArray[np.float64],
    costs: NDArray[np.int64],
    *,
    budget: int,
    repeats: Callable[[int, Sequence[int]], str | None] | None = None,
) -> Selection:
    """Keep the best-scored items whose total cost fits in `budget`.

    An item that no longer fits is skipped; one that repeats a kept one is dropped; ties keep input order.

    Args:
        scores: Importance of each item, shape (n,), unitless, higher is better.
        costs: Length of each item, shape (n,), tokens, each >= 1.
        budget: Most tokens to spend, >= 0.
        repeats: Given an item and the kept ones, says in words which of them it repeats, or None.

    Raises:
        ValueError: If the shapes differ or a cost is below 1.

    Source:
        RCR-Router, arXiv:2508.04903, objective max sum alpha(m; R_i, S_t)
        subject to sum TokenLength(m) <= B_i (from second-hand accounts; paper not seen).
        Our choice: skip what does not fit and go on; within B_i, maybe not the maximum. Repeats are dropped.
    """
    if scores.shape != costs.shape or np.any(costs < 1):
        raise ValueError(f"want equal shapes, costs >= 1; got {scores.shape}, {costs.shape}")
    kept: list[int] = []
    reasons: dict[int, str] = {}
    left = budget
    for i in np.argsort(-scores, kind="stable").tolist():
        cost = int(costs[i])
        if cost > left:
            reasons[i] = f"does not fit: {cost} tokens, {left} left"
        elif repeats is not None and kept and (repeated := repeats(i, kept)) is not None:
            reasons[i] = repeated
        else:
            kept.append(i)
            left -= cost
            reasons[i] = CHOSEN
    return Selection(kept, reasons)
