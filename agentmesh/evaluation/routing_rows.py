"""The figures of `bench routing` from what policies decided: which metric is counted over which rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentmesh.evaluation import form, metrics
from agentmesh.evaluation.datasets import Sample
from agentmesh.evaluation.routing_exam import Measure, Pick

__all__ = ["Scored", "measured_row", "score"]

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Scored:
    """What is known about a policy on a set."""

    rows: list[dict[str, Any]]
    curve: list[tuple[float, float, int]]
    """What was said and what came true, for each bin of equal mass; empty where the policy states no probability."""


def score(name: str, policy: str, picks: Sequence[Pick], asked: Sequence[Sample], measure: Measure) -> Scored:
    """Every figure about a policy's decisions.

    Args:
        name: Of the set.
        policy: Who decided.
        picks: Its decisions.
        asked: The rows, in the same order.
        measure: What kind of set it is.
    """
    count = _Count(name, policy, picks, asked)
    match measure:
        case Measure.FIRST:
            count.first()
            count.nobody("oos_auroc")
        case Measure.SET:
            count.sets()
            count.nobody("oos_auroc")
        case Measure.NONE:
            count.nobody("none_auroc")
        case Measure.TWINS:
            count.twins()
    count.times()
    return Scored(count.rows, count.curve)


def measured_row(
    name: str, policy: str, metric: str, values: NDArray[Any], statistic: Callable[[Places], float], unit: str
) -> dict[str, Any]:
    """One number with its interval, from a statistic over the places of drawn rows."""
    value = statistic(np.arange(len(values)))
    low, high = metrics.bootstrap_ci95(len(values), statistic)
    low, high = min(low, value), max(high, value)  # the calibration error of a draw is larger than that of the rows
    return form.row(name, policy, metric, value, unit, len(values), (low, high))


class _Count:
    """One policy on one set."""

    def __init__(self, name: str, policy: str, picks: Sequence[Pick], asked: Sequence[Sample]) -> None:
        self.name, self.policy, self.picks = name, policy, picks
        self.gold = [sample.agents for sample in asked]
        self.inside = [place for place, agents in enumerate(self.gold) if agents]
        self.rows: list[dict[str, Any]] = []
        self.curve: list[tuple[float, float, int]] = []

    def first(self) -> None:
        """Rows with one right agent; the others are not looked at. An abstention is wrong.

        `mean_set_size` counts an abstained row with as many agents as it would have had without a least probability.
        """
        if not self.inside:
            return
        own, right = [self.picks[i] for i in self.inside], [self.gold[i] for i in self.inside]
        chosen = [pick.chosen for pick in own]
        self._mean("top1", metrics.top1(chosen, right))
        self._mean("hit", metrics.hit(chosen, right))
        sizes = metrics.mean_set_size(chosen)
        spared = np.array([pick.unlimited for pick in own], np.float64)
        self._mean("mean_set_size", np.where(sizes > 0, sizes, spared), "agents")
        chances = [pick.chance for pick in own]
        if all(chance is not None for chance in chances):
            chance = np.array(chances, np.float64)
            best = metrics.top1([pick.ranked for pick in own], right) > 0
            self.curve = metrics.reliability(chance, best)
            self._add("ece", chance, lambda t: metrics.calibration_error(chance[t], best[t]), "share")

    def sets(self) -> None:
        """Rows with a set of right agents, the empty set too.

        `recall@2` takes the first two of the chosen agents and then of the others by rank, over rows that have a right
        one.
        """
        chosen = [pick.chosen for pick in self.picks]
        counts = np.array(
            [(len({*c} & {*g}), len({*c}), len({*g})) for c, g in zip(chosen, self.gold, strict=True)], np.int64
        )
        self._mean("exact_set", metrics.exact_set(chosen, self.gold))
        self._add("micro_f1", counts, lambda t: metrics.micro_f1(*counts[t].T), "share")
        if self.inside:
            best = [tuple(dict.fromkeys((*self.picks[i].chosen, *self.picks[i].ranked))) for i in self.inside]
            self._mean("recall@2", metrics.recall_at(best, [self.gold[i] for i in self.inside], 2))

    def nobody(self, metric: str) -> None:
        """How well rows that are nobody's are told from the others."""
        none = [pick.none for pick in self.picks]
        if 0 < len(self.inside) < len(self.gold) and all(value is not None for value in none):
            scores, foreign = np.array(none, np.float64), np.array([not agents for agents in self.gold])
            self._add(metric, scores, lambda t: _auroc(scores[t], foreign[t]), "share")

    def twins(self) -> None:
        """Rows in pairs: whether the first choice stays, and how many agents are the first choice of a first row.

        Where a policy abstained, the agent that it ranks best counts as its choice.
        """
        first = [pick.first for pick in self.picks]
        self._mean("same_route", metrics.same_route(first[0::2], first[1::2]))
        different = len({agent for agent in first[0::2] if agent is not None})
        self.rows.append(form.row(self.name, self.policy, "distinct", different, "agents", len(first[0::2])))

    def times(self) -> None:
        """How long a decision took, where that was measured."""
        waits = [pick.latency_ms for pick in self.picks if pick.latency_ms is not None]
        if waits:
            times = np.array(waits)
            for metric, q in (("p50_ms", 50), ("p95_ms", 95)):
                self._add(metric, times, lambda t, q=q: float(np.percentile(times[t], q)), "ms")

    def _mean(self, metric: str, values: Floats, unit: str = "share") -> None:
        self._add(metric, values, lambda taken: float(values[taken].mean()), unit)

    def _add(self, metric: str, values: NDArray[Any], statistic: Callable[[Places], float], unit: str) -> None:
        self.rows.append(measured_row(self.name, self.policy, metric, values, statistic, unit))


def _auroc(scores: Floats, foreign: NDArray[np.bool_]) -> float:
    """NaN for a draw that has rows of one kind only."""
    return metrics.auroc(scores, foreign) if 0 < foreign.sum() < len(foreign) else float("nan")
