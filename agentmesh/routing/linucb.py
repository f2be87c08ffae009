"""A contextual bandit: who is expected to do best on such a text, plus a bonus for whom too little is known of.

LinUCB with one linear model per agent over a few features of the text. The reward is quality less cost or energy, so it
finds the agents that are worth what they take, and tries others now and then. It chooses one agent.

Source: LinUCB (Li et al. 2010, algorithm 1 with disjoint models); GreenServ's reward (its public code: (1 - lambda)
accuracy + lambda (1 - normalised energy), alpha 0.1, ridge 0.05; here the constant lambda is left out, which changes no
choice). Our choices: the features, the warm start from cards, and that a text unlike all others is out of scope.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agentmesh.errors import ConfigError
from agentmesh.models.base import Embedder
from agentmesh.routing.experience import (
    LEAST_SIMILARITY,
    Asked,
    CardTexts,
    Experience,
    ExperiencedRouter,
    Known,
    Recorded,
    number_option,
)
from agentmesh.routing.outcomes import MOST_ROWS, GivenOutcomes, outcome_table
from agentmesh.routing.standing import Judgement, Standing
from agentmesh.text import words
from agentmesh.types import Outcome

__all__ = ["Arms", "LinUcbRouter", "expected", "no_arms", "projection", "reward", "updated"]

Floats = NDArray[np.float64]

RIDGE = 0.05
"""Weight of the unit matrix that every model begins with."""
TEMPERATURE = 0.12
"""Difference of expected rewards at which the odds are e to 1."""
LONG_WORDS = 200
"""Words from which a text is as long as the feature of its length can say."""
REMEMBERED = 4
"""Sets of cards whose models are kept."""
INLINE_ARMS = 8
"""Up to so many models are worked out in the event loop's own thread."""


@dataclass(frozen=True)
class Arms:
    """The models of n agents over f features."""

    inverse: Floats
    """A^-1 of each, shape (n, f, f)."""
    b: Floats
    """Shape (n, f)."""


def no_arms(count: int, features: int, *, ridge: float = RIDGE) -> Arms:
    """Models that know nothing."""
    return Arms(np.repeat((np.eye(features) / ridge)[None], count, axis=0), np.zeros((count, features)))


def updated(arms: Arms, arm: int, x: Floats, reward: float) -> Arms:
    """The models after one more outcome: A + x x', b + r x; the given ones stay as they are.

    Source: Sherman and Morrison (1950): (A + x x')^-1 = A^-1 - (A^-1 x)(A^-1 x)' / (1 + x' A^-1 x).
    """
    turned = arms.inverse[arm] @ x
    inverse, b = arms.inverse.copy(), arms.b.copy()
    inverse[arm] -= np.outer(turned, turned) / (1.0 + float(x @ turned))
    b[arm] += reward * x
    return Arms(inverse, b)


def expected(arms: Arms, x: Floats) -> tuple[Floats, Floats]:
    """Expected reward theta' x of each agent, with theta = A^-1 b, and its width sqrt(x' A^-1 x)."""
    turned = arms.inverse @ x
    return np.einsum("nf,nf->n", turned, arms.b), np.sqrt(np.maximum(turned @ x, 0.0))


def reward(quality: float, spent: float, *, full: float, weight: float) -> float:
    """(1 - weight) quality - weight min(1, spent / full).

    Args:
        quality: 0 to 1.
        spent: US$ or watt hours, as `full` is.
        full: What counts as all the cost that there is, above 0.
        weight: Of cost beside quality, 0 to 1; the paper's lambda.
    """
    return (1.0 - weight) * quality - weight * min(1.0, spent / full)


def projection(dimensions: int, features: int) -> Floats:
    """A fixed map from vectors to few numbers that keeps lengths on average, shape (dimensions, features).

    Random orthonormal columns, the same in every process; the identity where nothing is to be saved.
    """
    if dimensions <= features:
        return np.eye(dimensions)
    rng = np.random.default_rng(0)
    columns, _ = np.linalg.qr(rng.standard_normal((dimensions, features)))
    return columns * math.sqrt(dimensions / features)


class LinUcbRouter(ExperiencedRouter):
    """Chooses the agent with the highest expected reward plus `alpha` times its uncertainty.

    An example of a card is a success of its agent, which counts for the others as a failure of little weight; so
    it chooses sensibly before the first outcome. An agent may come or go at any time: what was recorded of the others
    stays.

    Args:
        embedder: Makes the vectors.
        folder: What `outcomes` is relative to; the project's.
        outcomes: A file of JSON lines with the keys of `OutcomeRow`, or rows.
        max_outcomes: Rows that are kept; the oldest go first.
        alpha: Weight of the bonus for uncertainty, 0 or more; 0 never explores.
        cost_weight: Weight of cost beside quality, 0 to 1; the paper's lambda.
        spends: What cost is: `cost`, in US$, or `energy`, in watt hours (0 where an outcome does not tell).
        full: US$ (or watt hours) that count as full cost, above 0; more counts as much.
        features: Numbers that a vector is projected to.
        least_similarity: Least cosine to a text of the agent; below it the message is out of scope.

    Raises:
        ConfigError: If an option is wrong; `ProjectError` if the file is.
    """

    name = "linucb"

    def __init__(
        self,
        embedder: Embedder | None = None,
        *,
        folder: Path | None = None,
        outcomes: GivenOutcomes = None,
        max_outcomes: int = MOST_ROWS,
        alpha: float = 0.1,
        cost_weight: float = 0.2,
        spends: Literal["cost", "energy"] = "cost",
        full: float = 0.01,
        features: int = 64,
        least_similarity: float = LEAST_SIMILARITY,
    ) -> None:
        number_option(self.name, "alpha", alpha, 0.0)
        number_option(self.name, "cost_weight", cost_weight, 0.0, 1.0)
        number_option(self.name, "full", full, 1e-12)
        number_option(self.name, "features", features, 1, 1024, whole=True)
        if spends not in ("cost", "energy"):
            raise ConfigError(f"the option spends of the router 'linucb' is {spends!r}; give 'cost' or 'energy'")
        table = outcome_table(outcomes, folder=folder, most=max_outcomes)
        self._experience = Experience(self.name, embedder, table, least_similarity=least_similarity)
        self._alpha, self._weight, self._energy, self._full = alpha, cost_weight, spends == "energy", full
        self._features = features
        self._projection: Floats | None = None
        self._models: OrderedDict[tuple[int, ...], tuple[tuple[CardTexts, ...], Arms, int]] = OrderedDict()

    async def learn(self, outcome: Outcome) -> bool:
        """Take in a finished run; whether it says anything. Decisions meanwhile are made by what was known before."""
        rows = await self._experience.learn(outcome)
        if rows:
            recorded = await self._experience.recorded()
            for key in tuple(self._models):
                await self._catch_up(key, recorded)
        return bool(rows)

    async def _judge(self, known: Known, asked: Asked) -> Judgement:
        arms = await self._arms(known)
        x = self._context(asked.vector[None], [asked.text])[0]
        means, widths = expected(arms, x)
        standings = tuple(
            Standing(
                agent=texts.card.id,
                score=float(means[place] + self._alpha * widths[place]),
                near=float(asked.near[place]),
                why=f"expected reward {means[place]:.2f}, and {self._alpha * widths[place]:.2f} for what is not known",
                against=float(asked.against[place]),
                signals={"expected": float(means[place]), "width": float(widths[place])},
            )
            for place, texts in enumerate(known.texts)
        )
        evidence = {
            "alpha": self._alpha,
            "cost_weight": self._weight,
            "full": self._full,
            "spends": "energy" if self._energy else "cost",
            "outcomes": len(known.recorded),
            "outcomes_dropped": known.recorded.dropped,
        }
        return Judgement(standings, TEMPERATURE, evidence=evidence)

    async def _arms(self, known: Known) -> Arms:
        """The models of these cards; made when the cards are new."""
        key = tuple(map(id, known.texts))
        found = self._models.get(key)
        if found is None:
            if len(known.texts) <= INLINE_ARMS:
                arms = self._begun(known)
            else:
                arms = await asyncio.to_thread(self._begun, known)
            found = self._models.setdefault(key, (known.texts, arms, known.recorded.total))
        self._models.move_to_end(key)
        while len(self._models) > REMEMBERED:
            self._models.popitem(last=False)
        return found[1]

    async def _catch_up(self, key: tuple[int, ...], recorded: Recorded) -> None:
        """Put the outcomes that came since into the models of these cards."""
        found = self._models.get(key)
        if found is None:
            return
        texts, arms, total = found
        made = await asyncio.to_thread(self._with_rows, texts, arms, recorded, total)
        now = self._models.get(key)
        if now is not None and now[1] is arms:  # else another outcome was faster, and is put in beside this one
            self._models[key] = (texts, made, recorded.total)
        elif now is not None and now[2] < recorded.total:
            await self._catch_up(key, recorded)

    def _with_rows(self, texts: Sequence[CardTexts], arms: Arms, recorded: Recorded, total: int) -> Arms:
        places = {t.card.id: place for place, t in enumerate(texts)}
        first = max(0, len(recorded) - (recorded.total - total))
        for i in range(first, len(recorded)):
            place = places.get(recorded.rows[i].agent)
            if place is not None:
                x = self._context(recorded.vectors[i : i + 1], [recorded.rows[i].text])[0]
                arms = updated(arms, place, x, self._reward(recorded, i))
        return arms

    def _begun(self, known: Known) -> Arms:
        """The models from the texts of the cards and all outcomes, as if each were put in by `updated`."""
        texts = [text for t in known.texts for text in _shown(t)]
        rows = self._context(known.wins, texts)
        count, features = len(known.texts), rows.shape[1]
        shared = rows.T @ rows
        light = 1.0 / max(1, count - 1)
        a = np.empty((count, features, features))
        b = np.empty((count, features))
        for place in range(count):
            own = rows[known.owner == place]
            a[place] = RIDGE * np.eye(features) + light * shared + (1.0 - light) * (own.T @ own)
            b[place] = reward(1.0, 0.0, full=self._full, weight=self._weight) * own.sum(axis=0)
        recorded = known.recorded
        if len(recorded):
            past = self._context(recorded.vectors, [row.text for row in recorded.rows])
            worth = np.array([self._reward(recorded, i) for i in range(len(recorded))])
            for place in range(count):
                mine = known.agent_of_row == place
                a[place] += past[mine].T @ past[mine]
                b[place] += worth[mine] @ past[mine]
        return Arms(np.linalg.inv(a).astype(np.float64), b)

    def _context(self, vectors: NDArray[np.float32], texts: Sequence[str]) -> Floats:
        """Features of texts: a constant, the length (0 to 1, by its logarithm), the projected vector."""
        if self._projection is None:
            self._projection = projection(vectors.shape[1], self._features)
        lengths = np.array([math.log1p(len(words(text))) / math.log1p(LONG_WORDS) for text in texts])
        constant = np.ones((len(texts), 1))
        return np.hstack([constant, np.minimum(lengths, 1.0)[:, None], vectors.astype(np.float64) @ self._projection])

    def _reward(self, recorded: Recorded, row: int) -> float:
        spent = float(recorded.energy_wh[row] if self._energy else recorded.cost_usd[row])
        return reward(
            float(recorded.quality[row]), 0.0 if math.isnan(spent) else spent, full=self._full, weight=self._weight
        )


def _shown(texts: CardTexts) -> list[str]:
    """The texts of a card as its rows stand; clauses of the description are as long as it is."""
    card = texts.card
    return [*card.examples, *([card.description] * (len(texts.wins) - len(card.examples)))]
