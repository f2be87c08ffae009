"""The nearest centroid of what each agent won: RouterRetriever's rule, for agents instead of retrieval experts.

Every agent has a few centroids of its own (of the examples of its card, and of tasks that it did best on) and nothing
is trained across agents, so one that comes or goes changes no other. It chooses one agent and knows nothing of cost.

Source: RouterRetriever, AAAI 2025, pilot embedding library: queries grouped by best expert, k-means of each group, the
expert of the single most similar centroid. Our choices: the number of centroids, examples of cards as queries, and that
it abstains.
"""

import asyncio
import math
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from agentmesh.models.base import Embedder
from agentmesh.routing.experience import (
    GOOD,
    LEAST_SIMILARITY,
    MOST_CARDS,
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
from agentmesh.types import Outcome

__all__ = ["CentroidRouter", "centroids_of", "won"]

Floats = NDArray[np.float32]

TEXTS_A_CENTROID = 3
"""Texts that share a centroid, on average, until there are `centroids` of them."""
ROUNDS = 10
"""Rounds of k-means at most."""
TEMPERATURE = 0.06
"""Difference of cosines at which the odds are e to 1."""
INLINE_TEXTS = 200
"""Up to so many texts centroids are worked out in the event loop's own thread."""


def centroids_of(vectors: Floats, most: int) -> Floats:
    """Means of groups of vectors, each of unit length: k-means by cosine, the same for the same rows.

    Args:
        vectors: Shape (n, d), unit length.
        most: Most centroids; there are ceil(n / `TEXTS_A_CENTROID`) if that is less, at least one.

    Returns:
        Shape (k, d); no rows if n is 0.
    """
    count = min(most, max(1, math.ceil(len(vectors) / TEXTS_A_CENTROID)))
    if not len(vectors):
        return vectors
    # Begins with the row in the middle, then always the one that is farthest from those that were taken.
    taken = [int((vectors @ vectors.mean(axis=0)).argmax())]
    nearest = vectors @ vectors[taken[0]]
    while len(taken) < count and nearest.min() < 1.0 - 1e-6:
        taken.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, vectors @ vectors[taken[-1]])
    means: Floats = vectors[taken]
    group = np.full(len(vectors), -1)
    for _ in range(ROUNDS):
        newest = (vectors @ means.T).argmax(axis=1)
        if (newest == group).all():
            break
        group = newest
        sums = np.stack([vectors[group == k].sum(axis=0) for k in np.unique(group)])
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        means = (sums / np.where(lengths == 0, 1, lengths)).astype(np.float32)
    return means


def won(recorded: Recorded, agent: str) -> NDArray[np.int64]:
    """Positions of the texts that an agent won: good on average, and nobody was recorded as better. One each."""
    own = recorded.of_agent(agent)
    found: list[int] = []
    for code in dict.fromkeys(recorded.codes[own].tolist()):
        rows = np.flatnonzero(recorded.codes == code)
        names = [recorded.arms[a][0] for a in cast(list[int], recorded.arm[rows].tolist())]
        means = {name: float(recorded.quality[rows[[n == name for n in names]]].mean()) for name in {*names}}
        if means[agent] >= max(GOOD, *means.values()):
            found.append(int(rows[names.index(agent)]))
    return np.array(found, np.int64)


@dataclass(frozen=True)
class _Own:
    """The centroids of one agent, and what they were made from."""

    texts: CardTexts
    centroids: Floats
    won: int
    total: int
    """`Recorded.total` of the outcomes."""


class CentroidRouter(ExperiencedRouter):
    """Chooses the agent of the nearest centroid.

    Args:
        embedder: Makes the vectors.
        folder: What `outcomes` is relative to; the project's.
        outcomes: A file of JSON lines with the keys of `OutcomeRow`, or rows.
        max_outcomes: Rows that are kept; the oldest go first.
        centroids: Most centroids of an agent, 1 or more.
        margin: Two agents whose cosines are less than this apart are a tie; the user is asked.
        least_similarity: Least cosine to a text of the agent; below it the message is out of scope.

    Raises:
        ConfigError: If an option is wrong; `ProjectError` if the file is.
    """

    name = "centroid"

    def __init__(
        self,
        embedder: Embedder | None = None,
        *,
        folder: Path | None = None,
        outcomes: GivenOutcomes = None,
        max_outcomes: int = MOST_ROWS,
        centroids: int = 16,
        margin: float = 0.005,
        least_similarity: float = LEAST_SIMILARITY,
    ) -> None:
        number_option(self.name, "centroids", centroids, 1, whole=True)
        number_option(self.name, "margin", margin, 0.0, 1.0)
        table = outcome_table(outcomes, folder=folder, most=max_outcomes)
        self._experience = Experience(self.name, embedder, table, least_similarity=least_similarity)
        self._most, self._margin = centroids, margin
        self._own: OrderedDict[str, _Own] = OrderedDict()

    async def learn(self, outcome: Outcome) -> bool:
        """Take in a finished run; whether it says anything. Decisions meanwhile are made by what was known before."""
        rows = await self._experience.learn(outcome)
        recorded = await self._experience.recorded()
        texts = {row.text for row in rows}  # whoever won one of them before may not have won it now
        for agent in dict.fromkeys(row.agent for row in recorded.rows if row.text in texts):
            if (own := self._own.get(agent)) is not None:
                made = await asyncio.to_thread(self._make, own.texts, recorded)
                now = self._own.get(agent)
                if now is not None and now.texts is own.texts and now.total <= made.total:
                    self._own[agent] = made
        return bool(rows)

    async def _judge(self, known: Known, asked: Asked) -> Judgement:
        standings: list[Standing] = []
        for place, texts in enumerate(known.texts):
            own = await self._of(texts, known.recorded)
            score = float((own.centroids @ asked.vector).max())
            why = f"cosine {score:.2f} to the nearest of {len(own.centroids)} centroids"
            why += f" of {len(texts.wins)} texts of its card" + (f" and {own.won} tasks that it won" if own.won else "")
            near, against = float(max(asked.near[place], score)), float(asked.against[place])
            standings.append(Standing(texts.card.id, score, near, why, against))
        evidence = {"outcomes": len(known.recorded), "outcomes_dropped": known.recorded.dropped}
        return Judgement(tuple(standings), TEMPERATURE, self._margin, evidence=evidence)

    async def _of(self, texts: CardTexts, recorded: Recorded) -> _Own:
        """The centroids of one agent; made when its card is new or changed."""
        own = self._own.get(texts.card.id)
        if own is None or own.texts is not texts:
            if len(texts.wins) + len(recorded) <= INLINE_TEXTS:
                own = self._make(texts, recorded)
            else:
                own = await asyncio.to_thread(self._make, texts, recorded)
            self._own[texts.card.id] = own
            while len(self._own) > MOST_CARDS:
                self._own.popitem(last=False)
        return own

    def _make(self, texts: CardTexts, recorded: Recorded) -> _Own:
        tasks = won(recorded, texts.card.id)
        return _Own(
            texts,
            centroids_of(np.concatenate([texts.wins, recorded.vectors[tasks]]), self._most),
            len(tasks),
            recorded.total,
        )
