"""Evidence for each of many agents that have examples enough: a softmax learned from them, nearness where it points to.

Unlike the ridge of `scorer` it does not compare a text with every row: a question to 150 agents with 100 examples each
costs one product with the weights and a look at the rows of the best agents. Numbers only; decides nothing.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from agentmesh.routing.features import FEW_TEXTS, GramIndex, around, character_runs, skip_grams, unit_rows
from agentmesh.routing.head import FIRST_STEPS, MORE_STEPS, fit_softmax
from agentmesh.routing.scorer import (
    HELD_OUT_ROWS,
    TRUST,
    HeldOut,
    Kind,
    Row,
    Segments,
    Signals,
    coverage_of,
    words_of_cards,
)

__all__ = ["HASHED", "LearnedScorer"]

Floats = NDArray[np.float32]
Places = NDArray[np.int64]

HASHED = 2048
"""Columns that the n-grams of words and of letters are hashed into together. With 1,024 a head was half a point worse
on clinc150 and banking77."""
ODDS_SCALE = 4.0
"""Log odds that count like 1 of a ridge."""
LOOKED_AT = 8
"""Agents, the best by the head, whose examples a text is compared with."""
SAME_TEXT = 0.9995
"""Two rows this similar are the same text: neither is evidence about the other when one is left out."""
OWN_BUSINESS = 0.4
"""A background utterance that comes this near to an example is the mesh's business and left out."""


class LearnedScorer:
    """Evidence for the agents of one set of cards. Fitted when made; never changes afterwards.

    Args:
        count: How many cards there are.
        rows: `card_rows(cards)` followed by `background_rows()`.
        vectors: Dense vectors of the rows, shape (len(rows), d); d may be 0.
    """

    def __init__(self, count: int, rows: Sequence[Row], vectors: Floats) -> None:
        self.count = count
        self._texts = [row.text for row in rows]
        self._agent = np.array([row.agent for row in rows], np.int64)
        self._kind = np.array([row.kind for row in rows], np.int64)
        learned = [row.text for row in rows if row.kind is not Kind.NOT_FOR]
        self._words = GramIndex(skip_grams, learned, columns=HASHED, keep_rows=False)
        self._letters = GramIndex(character_runs, learned, columns=HASHED, seed=1, keep_rows=False)
        self._center = vectors.mean(axis=0) if len(rows) else np.zeros(vectors.shape[1], np.float32)
        dense = unit_rows(vectors - self._center) if vectors.shape[1] else vectors
        features = self._features(self._texts, dense)
        self._known = words_of_cards(rows)
        kept = self._not_own_business(features)
        # Without dense vectors the n-grams stand in for them.
        self._dense = dense if dense.shape[1] else unit_rows(features[:, :-1])
        self._parts = Segments(self._agent, self._kind, count)
        self._background = self._dense[kept[self._kind[kept] == Kind.BACKGROUND]]
        self._means = np.zeros((count, self._dense.shape[1]), np.float32)
        examples = np.flatnonzero(self._kind == Kind.EXAMPLE)
        np.add.at(self._means, self._agent[examples], self._dense[examples])
        self._examples = np.bincount(self._agent[examples], minlength=count)
        self._means /= np.maximum(self._examples, 1)[:, None]
        self.held_out = self._fit(features, kept)

    def knows(self, stems: Sequence[str]) -> bool:
        """Whether one of these stems stands on a card."""
        return any(stem in self._known for stem in stems)

    def signals(self, texts: Sequence[str], vectors: Floats) -> Signals:
        """Evidence about new texts; `vectors` as for the rows."""
        dense = self._centered(vectors)
        features = self._features(texts, dense)
        looked = dense if dense.shape[1] else unit_rows(features[:, :-1])
        coverage = np.array([coverage_of(text, self._known) for text in texts], np.float32)
        return self._signals(looked, self._odds(features, self._weights), coverage)

    # --- the head -----------------------------------------------------------------------------------------------------

    def _fit(self, features: Floats, kept: Places) -> HeldOut:
        """Fit the weights, first without the examples that the calibration is to see as new."""
        rows = kept[self._kind[kept] != Kind.NOT_FOR]
        labels = np.where(self._agent[rows] >= 0, self._agent[rows], self.count)
        trust: Floats = np.array([TRUST[Kind(k)] for k in self._kind[rows].tolist()], np.float32)
        examples, background = (kept[self._kind[kept] == kind] for kind in (Kind.EXAMPLE, Kind.BACKGROUND))
        most = min(HELD_OUT_ROWS, len(examples) // 5)
        drawn = np.sort(np.random.default_rng(0).permutation(examples)[:most])
        # Half of the background is held out: there is too little of it to leave all of it out.
        chosen = np.concatenate([drawn, background[::2]])
        seen = ~np.isin(rows, chosen)
        taken = features[rows]
        first = fit_softmax(taken[seen], labels[seen], trust[seen], self.count + 1, steps=FIRST_STEPS)
        self._weights = fit_softmax(taken, labels, trust, self.count + 1, start=first, steps=MORE_STEPS)
        own = self._agent[chosen]
        places = cast(list[int], chosen.tolist())
        coverage = [coverage_of(self._texts[p], self._known, seen=int(self._agent[p] >= 0)) for p in places]
        head = self._odds(features[chosen], first)
        signals = self._signals(self._dense[chosen], head, np.array(coverage, np.float32), left_out=chosen)
        return HeldOut(signals, np.where(own >= 0, own, self.count), chosen)

    def _odds(self, features: Floats, weights: Floats) -> Floats:
        """Log odds of each agent against the mean of all agents, on the scale of a ridge."""
        scores = _products(features, weights)[:, :-1]
        return np.asarray((scores - scores.mean(axis=1, keepdims=True)) / ODDS_SCALE, np.float32)

    def _features(self, texts: Sequence[str], dense: Floats) -> Floats:
        """Hashed n-grams, dense columns and a 1, shape (m, HASHED + d + 1)."""
        found = np.ones((len(texts), HASHED + dense.shape[1] + 1), np.float32)
        found[:, :HASHED] = self._words.hashed(self._words.codes(texts))
        found[:, :HASHED] += self._letters.hashed(self._letters.codes(texts))
        found[:, HASHED:-1] = dense
        return found

    def _centered(self, vectors: Floats) -> Floats:
        """Unit vectors around the center of the rows; a text without a vector stays without one."""
        return around(vectors, self._center) if vectors.shape[1] else vectors

    def _not_own_business(self, features: Floats) -> Places:
        """The rows without the background utterances that come near to an example or a description."""
        background = np.flatnonzero(self._kind == Kind.BACKGROUND)
        offered = np.flatnonzero((self._kind == Kind.EXAMPLE) | (self._kind == Kind.DESCRIPTION))
        if not len(background) or not len(offered):
            return np.arange(len(self._kind))
        near = unit_rows(features[background, :-1]) @ unit_rows(features[offered, :-1]).T
        return np.setdiff1d(np.arange(len(self._kind)), background[near.max(axis=1) >= OWN_BUSINESS])

    # --- evidence -----------------------------------------------------------------------------------------------------

    def _signals(self, dense: Floats, head: Floats, coverage: Floats, *, left_out: Places | None = None) -> Signals:
        """Evidence from dense vectors and the head's answers; of rows themselves where `left_out` says which."""
        descriptions = self._parts.best(dense, self._dense, Kind.DESCRIPTION)
        near = descriptions.copy()
        means = dense @ self._means.T
        leading = np.argpartition(-head, min(LOOKED_AT, self.count) - 1, axis=1)[:, :LOOKED_AT]
        for row, agents in enumerate(leading.tolist()):
            for agent in agents:
                part = self._parts.of(Kind.EXAMPLE, agent)
                if part is not None:
                    alike = np.einsum("ij,j->i", self._dense[part], dense[row])
                    if left_out is not None:
                        alike = alike[alike < SAME_TEXT]
                    near[row, agent] = max(near[row, agent], alike.max(initial=-1.0))
        if left_out is not None:
            own = self._agent[left_out]
            mine = np.flatnonzero(own >= 0)
            counts = self._examples[own[mine]]
            means[mine, own[mine]] = (means[mine, own[mine]] * counts - 1.0) / np.maximum(1, counts - 1)
        instructions = self._parts.best(dense, self._dense, Kind.INSTRUCTION)
        denied = self._parts.best(dense, self._dense, Kind.NOT_FOR)
        denied = np.maximum(0.0, denied - near) if denied.any() else denied
        background = dense @ self._background.T if len(self._background) else np.zeros((len(dense), 1), np.float32)
        if left_out is not None:
            background[background > SAME_TEXT] = 0.0
        none = np.stack(
            [np.ones(len(dense), np.float32), near.max(axis=1), coverage, head.max(axis=1), background.max(axis=1)],
            axis=1,
        )
        agents = np.stack([head, near, means, descriptions, instructions, denied, np.zeros_like(denied)], axis=2)
        return Signals(agents.astype(np.float32), none.astype(np.float32))


def _products(features: Floats, weights: Floats) -> Floats:
    """`features @ weights`; of few texts by the columns that are not 0, which for a short text are one in six."""
    if len(features) > FEW_TEXTS:
        return features @ weights
    rows = np.zeros((len(features), weights.shape[1]), np.float32)
    for row, values in enumerate(features):
        columns = np.flatnonzero(values)
        # Not by BLAS, whose threads wait for each other longer than this takes.
        rows[row] = np.einsum("i,ij->j", values[columns], weights[columns])
    return rows
