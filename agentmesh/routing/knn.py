"""The k nearest tasks that were done before: how good each agent was on them, less what it took.

No training and no parameters but k: an outcome counts as soon as it is known. It chooses one agent. With examples of
cards only, it is the nearest neighbours' vote.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentmesh.errors import ConfigError
from agentmesh.models.base import Embedder
from agentmesh.routing.experience import LEAST_SIMILARITY, Asked, Experience, ExperiencedRouter, Known, number_option
from agentmesh.routing.outcomes import MOST_ROWS, GivenOutcomes, outcome_table
from agentmesh.routing.standing import Judgement, Standing
from agentmesh.types import Outcome

__all__ = ["KnnRouter", "Neighbours", "estimate", "nearest_texts", "willing"]

DOUBT = 0.5
"""Similarity of an imagined neighbour on which every agent failed: one near success says less than five. Our choice."""
TEMPERATURE = 0.1
"""Difference of scores at which the odds are e to 1."""


@dataclass(frozen=True)
class Neighbours:
    """Rows on the k nearest texts, nearest first; of one length."""

    agent: NDArray[np.int64]
    """Positions of agents (or of whatever is compared)."""
    similarity: NDArray[np.float64]
    """0 to 1; a negative cosine is 0."""
    quality: NDArray[np.float64]
    cost_usd: NDArray[np.float64]
    """NaN where it is not known."""


def nearest_texts(similarity: NDArray[np.floating[Any]], codes: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Positions of all rows on the k most similar texts, nearest first; rows of equal `codes` are on one text."""
    first = min(len(similarity), 32 * k)
    while True:
        if first < len(similarity):
            order = np.argpartition(-similarity, first - 1)[:first]
        else:
            order = np.arange(len(similarity))
        order = order[np.lexsort((order, -similarity[order]))]
        texts = list(dict.fromkeys(codes[order].tolist()))
        if len(texts) > k or first == len(similarity):
            return order[np.isin(codes[order], texts[:k])]
        first = min(len(similarity), 2 * first)


def estimate(rows: Neighbours, agents: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Expected quality and cost of each agent by its rows among the neighbours.

    With similarities s and qualities q of its rows, the quality is sum(s q) / (sum(s) + `DOUBT`), and the cost, in US$,
    the mean of the known costs weighted by s, 0 where none is known.

    Returns:
        Quality, cost and the number of rows, each of shape (agents,).
    """
    weight = np.bincount(rows.agent, rows.similarity, agents)
    quality = np.bincount(rows.agent, rows.similarity * rows.quality, agents) / (weight + DOUBT)
    priced = ~np.isnan(rows.cost_usd)
    paid = np.bincount(rows.agent[priced], rows.similarity[priced] * rows.cost_usd[priced], agents)
    base = np.bincount(rows.agent[priced], rows.similarity[priced], agents)
    return quality, paid / np.where(base == 0, 1, base), np.bincount(rows.agent, minlength=agents)


def willing(router: str, value: object) -> float:
    """The option `willingness_to_pay` in US$ for one point of quality; absent: infinite, so that cost never counts."""
    if value is None:
        return math.inf
    if isinstance(value, bool) or not (isinstance(value, int | float) and value > 0):
        raise ConfigError(
            f"the option willingness_to_pay of the router {router!r} is {value!r}; give the US$ above 0 that a right "
            "answer in place of a useless one is worth, or leave it out so that cost does not count"
        )
    return float(value)


class KnnRouter(ExperiencedRouter):
    """Chooses the agent with the best expected quality less cost on the nearest tasks.

    score = quality - cost / `willingness_to_pay`. The texts of a card are tasks that its agent did with quality 1, at a
    cost that is not known.

    Args:
        embedder: Makes the vectors.
        folder: What `outcomes` is relative to; the project's.
        outcomes: A file of JSON lines with the keys of `OutcomeRow`, or rows.
        max_outcomes: Rows that are kept; the oldest go first.
        k: Texts that are looked at, 1 or more.
        willingness_to_pay: US$ that a right answer in place of a useless one is worth; absent: cost does not count.
        margin: Two agents whose scores are less than this apart are a tie; the user is asked.
        least_similarity: Least cosine to a text of the agent; below it the message is out of scope.

    Raises:
        ConfigError: If an option is wrong; `ProjectError` if the file is.
    """

    name = "knn"

    def __init__(
        self,
        embedder: Embedder | None = None,
        *,
        folder: Path | None = None,
        outcomes: GivenOutcomes = None,
        max_outcomes: int = MOST_ROWS,
        k: int = 8,
        willingness_to_pay: float | None = None,
        margin: float = 0.005,
        least_similarity: float = LEAST_SIMILARITY,
    ) -> None:
        number_option(self.name, "k", k, 1, whole=True)
        number_option(self.name, "margin", margin, 0.0, 1.0)
        self._pays = willing(self.name, willingness_to_pay)
        table = outcome_table(outcomes, folder=folder, most=max_outcomes)
        self._experience = Experience(self.name, embedder, table, least_similarity=least_similarity)
        self._k, self._margin = k, margin

    async def learn(self, outcome: Outcome) -> bool:
        """Take in a finished run; whether it says anything. The next decision counts it."""
        return bool(await self._experience.learn(outcome))

    async def _judge(self, known: Known, asked: Asked) -> Judgement:
        mine = np.flatnonzero(known.agent_of_row >= 0)
        recorded = known.recorded
        agent = np.concatenate([known.owner, known.agent_of_row[mine]])
        similarity = np.maximum(np.concatenate([asked.to_cards, asked.to_rows[mine]]).astype(np.float64), 0.0)
        near = nearest_texts(similarity, np.concatenate([known.codes, recorded.codes[mine]]), self._k)
        ones = np.ones(len(known.owner))
        rows = Neighbours(
            agent[near],
            similarity[near],
            np.concatenate([ones, recorded.quality[mine]])[near],
            np.concatenate([ones * math.nan, recorded.cost_usd[mine]])[near],
        )
        quality, cost, count = estimate(rows, len(known.texts))
        standings: list[Standing] = []
        for place, texts in enumerate(known.texts):
            score = float(quality[place] - cost[place] / self._pays)
            why = f"{count[place]} of the nearest tasks are its own"
            if count[place]:
                why += f", expected quality {quality[place]:.2f}"
                if cost[place] and math.isfinite(self._pays):
                    why += f" less {cost[place] / self._pays:.2f} for US$ {cost[place]:.3g}"
            signals = {"quality": float(quality[place]), "cost_usd": float(cost[place]), "rows": float(count[place])}
            standings.append(
                Standing(
                    texts.card.id, score, float(asked.near[place]), why, float(asked.against[place]), None, signals
                )
            )
        evidence: dict[str, Any] = {
            "k": self._k,
            "neighbours": len(np.unique(near)),
            "nearest": round(float(similarity.max(initial=0.0)), 4),
            "willingness_to_pay": self._pays if math.isfinite(self._pays) else None,
            "outcomes": len(recorded),
            "outcomes_dropped": recorded.dropped,
        }
        return Judgement(tuple(standings), TEMPERATURE, self._margin, floor=0.0, evidence=evidence)
