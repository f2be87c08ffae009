"""What is counted about decisions. Pure arrays: nothing about files, routers or cards."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "auroc",
    "bootstrap_ci95",
    "calibration_error",
    "exact_set",
    "hit",
    "mean_set_size",
    "micro_f1",
    "recall_at",
    "reliability",
    "same_route",
    "top1",
]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Picks = Sequence[Sequence[str]]

BINS = 15
"""Bins of equal mass of the calibration error."""
DRAWS = 1_000
"""Draws of a bootstrap interval."""


def top1(chosen: Picks, right: Picks) -> Floats:
    """1 where the first choice is right, shape (n,); an empty choice is wrong."""
    return _each(chosen, right, lambda picks, gold: bool(picks) and picks[0] in gold)


def hit(chosen: Picks, right: Picks) -> Floats:
    """1 where a right agent is among the chosen ones, shape (n,)."""
    return _each(chosen, right, lambda picks, gold: any(p in gold for p in picks))


def exact_set(chosen: Picks, right: Picks) -> Floats:
    """1 where the chosen agents are the right ones, no more and no fewer, in any order, shape (n,)."""
    return _each(chosen, right, lambda picks, gold: set(picks) == set(gold))


def recall_at(ranked: Picks, right: Picks, k: int) -> Floats:
    """Share of the right agents among the first `k`, shape (n,); every row has a right agent."""
    return np.array([sum(a in picks[:k] for a in gold) / len(gold) for picks, gold in zip(ranked, right, strict=True)])


def same_route(first: Sequence[str | None], second: Sequence[str | None]) -> Floats:
    """1 where both are the same agent, shape (n,); nobody is not the same as nobody."""
    return np.array([a is not None and a == b for a, b in zip(first, second, strict=True)], np.float64)


def mean_set_size(chosen: Picks) -> Floats:
    """How many agents were chosen, shape (n,)."""
    return np.array([len(set(picks)) for picks in chosen], np.float64)


def micro_f1(found: NDArray[np.int64], chosen: NDArray[np.int64], right: NDArray[np.int64]) -> float:
    """2 tp / (chosen + right) over all rows, from each row's right choices, choices and right agents; 0 for 0 / 0."""
    total = int(chosen.sum() + right.sum())
    return 2.0 * int(found.sum()) / total if total else 0.0


def auroc(scores: Floats, positive: Bools) -> float:
    """Chance that a positive row scores above a negative one, a tie counting half.

    Raises:
        ValueError: If there is no positive or no negative row.
    """
    count = int(positive.sum())
    others = len(positive) - count
    if not count or not others:
        raise ValueError("AUROC wants at least one positive and one negative row")
    _, inverse, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(sizes) - (sizes - 1) / 2.0
    return float((ranks[inverse][positive].sum() - count * (count + 1) / 2.0) / (count * others))


def calibration_error(chance: Floats, right: Bools, *, bins: int = BINS) -> float:
    """Mean distance between what was said and what came true, over bins of equal mass.

    Args:
        chance: Probability given to the first choice, shape (n,), 0 to 1.
        right: Whether it was right, shape (n,).
        bins: Rows in order of `chance` are cut into this many parts whose sizes differ by at most 1.

    Source: Nixon et al. (2019), the adaptive form of the expected calibration error of Naeini et al. (2015).
    """
    gaps = [size * abs(said - true) for said, true, size in reliability(chance, right, bins=bins)]
    return sum(gaps) / len(chance) if len(chance) else 0.0


def reliability(chance: Floats, right: Bools, *, bins: int = BINS) -> list[tuple[float, float, int]]:
    """What was said, what came true and how many rows, for each bin of equal mass in order of `chance`."""
    order = np.argsort(chance, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return [(float(chance[part].mean()), float(right[part].mean()), len(part)) for part in parts]


def bootstrap_ci95(
    count: int, statistic: Callable[[NDArray[np.int64]], float], *, seed: int = 0, draws: int = DRAWS
) -> tuple[float, float]:
    """The middle 95 % of a statistic over rows drawn with replacement.

    Args:
        count: Rows, >= 1.
        statistic: Takes the places of the drawn rows, shape (count,); NaN draws are left out.
        seed: The same seed gives the same interval.
        draws: How often is drawn.
    """
    rng = np.random.default_rng(seed)
    values = np.array([statistic(rng.integers(0, count, count)) for _ in range(draws)], np.float64)
    low, high = np.percentile(values[~np.isnan(values)], [2.5, 97.5])
    return float(low), float(high)


def _each(chosen: Picks, right: Picks, holds: Callable[[Sequence[str], Sequence[str]], bool]) -> Floats:
    return np.array([holds(picks, gold) for picks, gold in zip(chosen, right, strict=True)], np.float64)
