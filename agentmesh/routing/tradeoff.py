"""How much quality is worth how many US$: which agent, or which variant of an agent, a task is given to.

A policy over a table of outcomes: predict for every choice how good it will be and what it will take, and choose by
quality - cost / willingness to pay. The willingness to pay is in US$ for one point of quality: what a right answer in
place of a useless one is worth. At 0.01 a choice that is right in 5 % more of the cases may cost 0.0005 US$ more a
task. Over all tasks `frontier` lists what can be had at which price.

The form of the score is RouterBench's (quality against cost with a willingness to pay); the predictors are its two
plain ones, nearest neighbours and a linear model.
"""

import asyncio
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from agentmesh.errors import ConfigError
from agentmesh.models.base import Embedder
from agentmesh.routing.base import Router
from agentmesh.routing.category import arms_of
from agentmesh.routing.experience import (
    LEAST_SIMILARITY,
    Arm,
    Asked,
    Experience,
    ExperiencedRouter,
    Known,
    Recorded,
    number_option,
)
from agentmesh.routing.knn import Neighbours, estimate, nearest_texts, willing
from agentmesh.routing.outcomes import MOST_ROWS, GivenOutcomes, OutcomeRow, outcome_table
from agentmesh.routing.standing import Judgement, Standing
from agentmesh.routing.wrappers import RouterOf, close_all, hand_on_outcome, hand_on_record, inner_router
from agentmesh.run import RunContext
from agentmesh.types import Outcome, RouteRequest, RoutingDecision

__all__ = ["OperatingPoint", "Ridge", "TradeoffRouter", "frontier", "ridge", "tradeoff_router"]

Floats = NDArray[np.float64]

PENALTY = 1.0
"""Weight of the penalty on the linear model's coefficients, the constant excepted."""
TEMPERATURE = 0.08
"""Difference of values at which the odds are e to 1."""
SHOWN = 8
"""Choices in the evidence, best first."""
LEAST_ROWS = 5
"""Outcomes from which a choice has a linear model; below it is judged by its neighbours. Our choice."""


@dataclass(frozen=True)
class OperatingPoint:
    """What a choice gives on average when every task goes to it."""

    agent: str
    variant: str | None
    quality: float
    """Mean, 0 to 1."""
    cost_usd: float
    """Mean US$ a task."""
    rows: int
    """Outcomes that this is the mean of."""
    chosen_from: float | None
    """Willingness to pay, US$ a point of quality, from which on this is the best choice on average; 0: from the start;
    None: a mixture of its neighbours is better at every price."""


def frontier(rows: Iterable[OutcomeRow]) -> tuple[OperatingPoint, ...]:
    """The choices that no other one beats in both quality and cost, cheapest first.

    `chosen_from` of a point is the slope to the one before it on the convex hull: (cost - cost before) / (quality -
    quality before).
    """
    sums: dict[Arm, list[float]] = {}
    for row in rows:
        total = sums.setdefault((row.agent, row.variant), [0.0, 0.0, 0.0])
        total[0] += row.quality
        total[1] += row.cost_usd
        total[2] += 1
    means = [(arm, q / n, c / n, int(n)) for arm, (q, c, n) in sums.items()]
    means.sort(key=lambda m: (m[2], -m[1], m[0][0], m[0][1] or ""))
    best: list[tuple[Arm, float, float, int]] = []
    for point in means:
        if not best or point[1] > best[-1][1]:
            best.append(point)
    hull: list[int] = []
    for i, (_, quality, cost, _) in enumerate(best):
        while len(hull) > 1 and _slope(best[hull[-1]], quality, cost) <= _slope(
            best[hull[-2]], best[hull[-1]][1], best[hull[-1]][2]
        ):
            hull.pop()
        hull.append(i)
    starts = {hull[0]: 0.0} if hull else {}
    starts |= {b: _slope(best[a], best[b][1], best[b][2]) for a, b in pairwise(hull)}
    return tuple(
        OperatingPoint(arm[0], arm[1], quality, cost, count, starts.get(i))
        for i, (arm, quality, cost, count) in enumerate(best)
    )


def _slope(before: tuple[Arm, float, float, int], quality: float, cost: float) -> float:
    return (cost - before[2]) / (quality - before[1])


@dataclass(frozen=True)
class Ridge:
    """A linear model of quality."""

    weights: Floats
    """Shape (d,)."""
    constant: float

    def __call__(self, vector: NDArray[np.floating[Any]]) -> float:
        """The predicted quality, cut to 0 to 1."""
        return min(1.0, max(0.0, float(vector @ self.weights) + self.constant))


def ridge(vectors: NDArray[np.floating[Any]], quality: Floats, *, penalty: float = PENALTY) -> Ridge:
    """Least squares with a penalty on the weights: minimises |q - X w - c|^2 + penalty |w|^2.

    Args:
        vectors: X, shape (n, d), n >= 1.
        quality: q, shape (n,).
        penalty: Above 0.
    """
    x: Floats = vectors.astype(np.float64)
    middle, mean = x.mean(axis=0), float(quality.mean())
    centred = x - middle
    if len(x) < x.shape[1]:  # the same by the smaller of the two matrices
        weights = centred.T @ _solved(centred @ centred.T + penalty * np.eye(len(x)), quality - mean)
    else:
        weights = _solved(centred.T @ centred + penalty * np.eye(x.shape[1]), centred.T @ (quality - mean))
    return Ridge(weights, mean - float(middle @ weights))


def _solved(matrix: Floats, right: Floats) -> Floats:
    return cast(Floats, np.linalg.solve(matrix, right))  # pyright: ignore[reportUnknownMemberType]


class TradeoffRouter(ExperiencedRouter):
    """Chooses the agent and variant of the highest value: predicted quality - predicted cost / `willingness_to_pay`.

    A choice with outcomes is judged by them alone. An agent without any is judged by its card, whose texts count as
    tasks that it did with quality 1 for nothing; its variants have to be recorded before they are chosen. With `router`
    another router chooses the agents, and this one only which variant of each works.

    Args:
        embedder: Makes the vectors.
        folder: What `outcomes` is relative to; the project's.
        outcomes: A file of JSON lines with the keys of `OutcomeRow`, or rows.
        max_outcomes: Rows that are kept; the oldest go first.
        router: Who chooses the agents; absent: this one does.
        willingness_to_pay: US$ that a right answer in place of a useless one is worth; absent: cost does not count.
        predict: `knn`: the mean of the nearest tasks. `ridge`: a linear model for each choice.
        k: Texts that `knn` looks at, 1 or more.
        margin: Two agents whose values are less than this apart are a tie; the user is asked.
        least_similarity: Least cosine to a text of the agent; below it the message is out of scope.

    Raises:
        ConfigError: If an option is wrong; `ProjectError` if the file is.
    """

    name = "tradeoff"

    def __init__(
        self,
        embedder: Embedder | None = None,
        *,
        folder: Path | None = None,
        outcomes: GivenOutcomes = None,
        max_outcomes: int = MOST_ROWS,
        router: Router | None = None,
        willingness_to_pay: float | None = None,
        predict: Literal["knn", "ridge"] = "knn",
        k: int = 16,
        margin: float = 0.0,
        least_similarity: float = LEAST_SIMILARITY,
    ) -> None:
        number_option(self.name, "k", k, 1, whole=True)
        number_option(self.name, "margin", margin, 0.0, 1.0)
        if predict not in ("knn", "ridge"):
            raise ConfigError(f"the option predict of the router 'tradeoff' is {predict!r}; give 'knn' or 'ridge'")
        self._pays = willing(self.name, willingness_to_pay)
        table = outcome_table(outcomes, folder=folder, most=max_outcomes)
        self._experience = Experience(self.name, embedder, table, least_similarity=least_similarity)
        self._inner, self._ridge, self._k, self._margin = router, predict == "ridge", k, margin
        self._least = least_similarity
        self._models: tuple[int, dict[Arm, Ridge]] | None = None

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        started = time.perf_counter()
        if self._inner is None:
            return await super().route(request, ctx)
        decision = await self._inner.route(request, ctx)
        cards = tuple({card.id: card for card in request.cards if card.id in decision.agents}.values())
        evidence: dict[str, Any] = {}
        if any(card.variants for card in cards):
            judged = await self._experience.decide(request.model_copy(update={"cards": cards}), ctx, self._judge)
            evidence = judged.evidence
            best = evidence.get("best", {})
            near = {c.agent for c in judged.candidates if c.signals.get("near", -1.0) >= self._least}
            better = {agent: best[agent] for agent in decision.agents if agent in near and best.get(agent)}
            decision = decision.model_copy(
                update={
                    "chosen": tuple(
                        c.model_copy(update={"variant": better[c.agent]}) if c.agent in better else c
                        for c in decision.chosen
                    ),
                    "reason": decision.reason + "".join(f"; {agent} as {v!r}" for agent, v in better.items()),
                }
            )
        decided_by = decision.evidence.get("decided_by") or decision.router
        return decision.model_copy(
            update={
                "evidence": {**decision.evidence, "decided_by": decided_by, "tradeoff": evidence},
                "router": self.name,
                "latency_ms": (time.perf_counter() - started) * 1000,
            }
        )

    async def learn(self, outcome: Outcome) -> bool:
        """Take in a finished run; whether it says anything. Decisions meanwhile are made by what was known before."""
        rows = await self._experience.learn(outcome)
        if rows and self._ridge:
            await self._fit(await self._experience.recorded(), {(row.agent, row.variant) for row in rows})
        inner = await hand_on_outcome([self._inner], outcome) if self._inner is not None else False
        return bool(rows) or inner

    def record(self, agent: str, ok: bool) -> None:
        """Hand on how a call went."""
        if self._inner is not None:
            hand_on_record([self._inner], agent, ok)

    async def aclose(self) -> None:
        """Free what the inner router holds. May be called twice."""
        if self._inner is not None:
            await close_all([self._inner])

    async def _judge(self, known: Known, asked: Asked) -> Judgement:
        arms = [arm for t in known.texts for arm in arms_of(t.card)]
        quality, cost, rows = self._predicted(known, asked, arms)
        if self._ridge:
            models = await self._fitted(known.recorded)
            quality = np.array([models[a](asked.vector) if a in models else quality[i] for i, a in enumerate(arms)])
        value = quality - cost / self._pays
        order = cast(list[int], np.lexsort((cost, -value)).tolist())
        best: dict[str, int] = {}
        for i in order:
            best.setdefault(arms[i][0], i)
        standings: list[Standing] = []
        for place, texts in enumerate(known.texts):
            i = best[texts.card.id]
            variant = arms[i][1]
            why = f"expected quality {quality[i]:.2f} at US$ {cost[i]:.3g} from {rows[i]} outcomes"
            if cost[i] and math.isfinite(self._pays):
                why += f", worth {value[i]:.2f} at US$ {self._pays:g} a point of quality"
            signals = {"quality": float(quality[i]), "cost_usd": float(cost[i]), "value": float(value[i])}
            near, against = float(asked.near[place]), float(asked.against[place])
            standings.append(Standing(texts.card.id, float(value[i]), near, why, against, variant, signals))
        evidence: dict[str, Any] = {
            "willingness_to_pay": self._pays if math.isfinite(self._pays) else None,
            "unit": "US$ for one point of quality",
            "predict": "ridge" if self._ridge else "knn",
            "best": {agent: arms[i][1] for agent, i in best.items()},
            "choices": [
                {
                    "agent": arms[i][0], "variant": arms[i][1], "quality": round(float(quality[i]), 4),
                    "cost_usd": float(cost[i]), "value": round(float(value[i]), 4), "outcomes": int(rows[i]),
                }
                for i in order[:SHOWN]
            ],
            "outcomes": len(known.recorded),
            "outcomes_dropped": known.recorded.dropped,
        }  # fmt: skip
        return Judgement(tuple(standings), TEMPERATURE, self._margin, evidence=evidence)

    def _predicted(self, known: Known, asked: Asked, arms: Sequence[Arm]) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """Quality and cost by the nearest tasks, and how many of them each choice did."""
        recorded = known.recorded
        place = {arm: i for i, arm in enumerate(arms)}
        of_arm = np.array([place.get(arm, -1) for arm in recorded.arms], np.int64)
        arm_of_row = of_arm[recorded.arm] if len(of_arm) else np.zeros(0, np.int64)
        mine = np.flatnonzero(arm_of_row >= 0)
        done = {arms[i][0] for i in cast(list[int], np.unique(arm_of_row[mine]).tolist())}
        plain = np.array([place[(t.card.id, None)] for t in known.texts], np.int64)
        own = np.flatnonzero(~np.isin(known.owner, [n for n, t in enumerate(known.texts) if t.card.id in done]))
        similarity = np.maximum(np.concatenate([asked.to_cards[own], asked.to_rows[mine]]).astype(np.float64), 0.0)
        near = nearest_texts(similarity, np.concatenate([known.codes[own], recorded.codes[mine]]), self._k)
        rows = Neighbours(
            np.concatenate([plain[known.owner[own]], arm_of_row[mine]])[near],
            similarity[near],
            np.concatenate([np.ones(len(own)), recorded.quality[mine]])[near],
            np.concatenate([np.full(len(own), math.nan), recorded.cost_usd[mine]])[near],
        )
        return estimate(rows, len(arms))

    async def _fitted(self, recorded: Recorded) -> dict[Arm, Ridge]:
        """The linear models; those of the last outcomes that were fitted."""
        if self._models is None:
            await self._fit(recorded, {*recorded.arms})
        assert self._models is not None
        return self._models[1]

    async def _fit(self, recorded: Recorded, arms: Iterable[Arm]) -> None:
        """Fit the models of these choices, and keep the others."""
        if self._models is None:
            arms = recorded.arms
        made = await asyncio.to_thread(_models, recorded, frozenset(arms))
        total, before = self._models or (0, {})
        self._models = (
            max(total, recorded.total),
            {**before, **made} if total <= recorded.total else {**made, **before},
        )


def _models(recorded: Recorded, arms: frozenset[Arm]) -> dict[Arm, Ridge]:
    found: dict[Arm, Ridge] = {}
    for code, arm in enumerate(recorded.arms):
        rows = np.flatnonzero(recorded.arm == code)
        if arm in arms and len(rows) >= LEAST_ROWS:
            found[arm] = ridge(recorded.vectors[rows], recorded.quality[rows])
    return found


def tradeoff_router(
    embedder: Embedder | None = None,
    *,
    router_of: RouterOf | None = None,
    folder: Path | None = None,
    router: str | Router | None = None,
    **options: Any,
) -> TradeoffRouter:
    """`TradeoffRouter` from settings: `router` by name, the other arguments as they are. May raise `ConfigError`."""
    inner = inner_router(router, embedder, router_of) if router is not None else None
    return TradeoffRouter(embedder, folder=folder, router=inner, **options)
