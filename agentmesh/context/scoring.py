"""How much each memory item matters to one agent now. Pure arrays and counts: no model, no store.

Source:
    RCR-Router, arXiv:2508.04903 (abstract: a scoring policy chooses memory by role and task stage, under a token
    budget). Second-hand accounts name role relevance, stage priority and recency as its parts; its weights and forms
    are not known to us. Relevance to the task, trust, all weights and all forms below are our choice.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from agentmesh.types import Frozen

__all__ = ["ScoreWeights", "bm25_shares", "importance", "recency", "relevance"]

Array = NDArray[np.float64]

BM25_K1, BM25_B = 1.2, 0.75
"""Saturation and length correction of BM25; our choice within their customary range."""
TIMELESS = 0.5
"""Recency of what was not written in this run, such as documents; our choice: neither fresh nor stale."""


class ScoreWeights(Frozen):
    """Share of each part in a score; they need not add up to 1. Our choice, measured on our own tasks."""

    relevance: float = Field(default=0.60, ge=0)
    role: float = Field(default=0.15, ge=0)
    stage: float = Field(default=0.05, ge=0)
    recency: float = Field(default=0.10, ge=0)
    trust: float = Field(default=0.10, ge=0)


def importance(
    *, relevance: Array, role: Array, stage: Array, recency: Array, trust: Array, weights: ScoreWeights
) -> Array:
    """The weighted sum of the parts, each 0..1, shape (n,), divided by the sum of the weights: 0..1 again."""
    total = weights.relevance + weights.role + weights.stage + weights.recency + weights.trust
    if total == 0:
        return np.zeros_like(relevance)
    summed = (
        weights.relevance * relevance
        + weights.role * role
        + weights.stage * stage
        + weights.recency * recency
        + weights.trust * trust
    )
    return summed / total


def recency(ages: Array, *, half_life_rounds: float) -> Array:
    """`0.5 ** (age / half_life_rounds)`, shape (n,).

    Args:
        ages: Rounds since an item was written, >= 0; NaN for items that no round of this run wrote: they get 0.5.
        half_life_rounds: Rounds after which the value has halved, > 0.
    """
    return np.where(np.isnan(ages), TIMELESS, 0.5 ** (np.maximum(np.nan_to_num(ages), 0.0) / half_life_rounds))


def relevance(cosines: Array, lexical: Array, *, dense_share: float = 0.5) -> Array:
    """A mix of meaning and words, 0..1, shape (n,): `dense_share * max(cosine, 0) + (1 - dense_share) * lexical`."""
    return dense_share * np.clip(cosines, 0.0, 1.0) + (1.0 - dense_share) * lexical


def bm25_shares(
    queries: Sequence[Sequence[str]], documents: Sequence[Mapping[str, int]], lengths: Sequence[int]
) -> Array:
    """BM25 of each document as a share of what a full match reaches, 0..1, shape (queries, documents).

    Inverse document frequencies are those within `documents`. A full match is a document of mean length with every
    word of the query once: the sum of `idf`; more is cut to 1. A word that no document holds counts there as well, so a
    query about something else reaches little.

    Args:
        queries: Stems of content words of each query, repetitions count once.
        documents: Counts of stems, one mapping for each document.
        lengths: Stems in each document, repetitions counted.
    """
    n = len(documents)
    places = {word: place for place, word in enumerate(dict.fromkeys(w for query in queries for w in query))}
    if n == 0 or not places:
        return np.zeros((len(queries), n))
    counts = np.zeros((n, len(places)))
    for row, document in enumerate(documents):
        for word, place in places.items():
            if word in document:
                counts[row, place] = document[word]
    having = np.count_nonzero(counts, axis=0)
    idf = np.log(1 + (n - having + 0.5) / (having + 0.5))
    sizes = np.asarray(lengths, dtype=np.float64)
    norms = BM25_K1 * (1 - BM25_B + BM25_B * sizes / max(1.0, float(sizes.mean())))
    gains = idf * counts * (BM25_K1 + 1) / (counts + norms[:, None])
    uses = np.zeros((len(queries), len(places)))
    for row, query in enumerate(queries):
        uses[row, [places[word] for word in query]] = 1.0
    full = uses @ idf
    return np.minimum((uses @ gains.T) / np.where(full > 0, full, 1.0)[:, None], 1.0)
