"""A fit for a set of cards that changed a little, in milliseconds: cards added, edited or gone since the calibration.

With few agents the ridge is updated exactly (rows leave and join its inverse); with many, an agent that came is told
from its neighbours by a logistic regression of its own. How rare an n-gram is, the center of the dense vectors and the
parameters of the calibration stay those of the fit it comes from: `stale` says so. Not a substitute for a new fit.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, cast

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from agentmesh.routing.calibration import CalibratedCards
from agentmesh.routing.features import MAX_CHARS, Coded, GramIndex, TextSpace, unit_rows
from agentmesh.routing.learned import ODDS_SCALE, LearnedScorer
from agentmesh.routing.scorer import (
    BACKGROUND_NEAR,
    KEPT_ROWS,
    NONE_SIGNALS,
    RIDGE,
    SIGNALS,
    TRUST,
    CardScorer,
    Kind,
    Row,
    Segments,
    Signals,
    card_rows,
    coverage_of,
)
from agentmesh.routing.told import Told
from agentmesh.text import content_words
from agentmesh.types import AgentCard

__all__ = ["AdaptedCards", "RidgeUpdate", "adaptable", "changes"]

Floats = NDArray[np.float32]
Places = NDArray[np.int64]
SparseRows = Any

LEAST_CARDS = 3
"""Cards of a fit from which on it has learned something that holds for others."""
FEW_CHANGES = 2
MOST_CHANGES = 8
"""So many cards may always come or go, and so many at most; between them a quarter of the fit's. Our choice."""
MOST_EXAMPLES = 400
"""Examples of all the cards that came together; more of them take as long as a small fit."""
NEIGHBOURS = 256
"""Rows of other agents that a new one is told from. On banking77's 77 intents 128 took 1.6 % of the others' questions
away, 512 lost 5 points of the new agent's own."""
LOOKED_THROUGH = 2_000
"""Rows, those of the nearest agents, among which the neighbours are looked for."""
PENALTY = 0.1
"""Half the squared length of a new agent's weights costs this much, against a loss of 1 a row; .03 and .3 do."""
NEWTON_STEPS = 4
"""Six of them gave the same answers on banking77."""
OWN_BUSINESS = 0.6
"""A background utterance whose dense vector comes this near to a new card's example is that card's business."""


def changes(before: Sequence[AgentCard], after: Sequence[AgentCard]) -> tuple[tuple[AgentCard, ...], tuple[str, ...]]:
    """The cards that came or say something else to a router than before, and the ids that are gone."""
    known = {card.id: card for card in before}
    came = tuple(card for card in after if not _same(known.get(card.id), card))
    left = {card.id for card in after}
    return came, tuple(agent for agent in known if agent not in left)


def adaptable(before: Sequence[AgentCard], after: Sequence[AgentCard]) -> bool:
    """Whether a fit of the cards `before` is near enough to those `after` to be adapted.

    At most 2 or a quarter of the cards came, changed or left, never more than 8; some stayed; and those that came have
    at most 400 examples together.
    """
    came, gone = changes(before, after)
    most = min(MOST_CHANGES, max(FEW_CHANGES, len(before) // 4))
    return (
        len(before) >= LEAST_CARDS
        and len(came) + len(gone) <= most
        and len(after) > len(came)
        and sum(len(card.examples) for card in came) <= MOST_EXAMPLES
    )


class AdaptedCards(CalibratedCards):
    """A set of cards, ready to be asked, made from the fit of another set. Never changes afterwards.

    Its parameters and `held_out` are those of the fit it was made from.

    Args:
        base: The fit, not itself adapted.
        cards: The agents now; those that are not among `added` are the base's own, at least one.
        added: Those of them that came or changed, as `changes` tells; may be empty.
        vectors: Dense vectors of `AdaptedCards.texts(added)`, shape (n, d); without any `added` not read.

    Raises:
        ValueError: If the base is adapted itself, or none of its cards stayed.
    """

    def __init__(
        self, base: CalibratedCards, cards: tuple[AgentCard, ...], added: Sequence[AgentCard], vectors: Floats
    ) -> None:
        if isinstance(base, AdaptedCards):
            raise ValueError("an adapted fit cannot be adapted again; give the fit that it was made from")
        self.ids = tuple(card.id for card in cards)
        self.parameters = base.parameters
        self.held_out = base.held_out
        new = {card.id: len(base.ids) + place for place, card in enumerate(added)}
        old = {agent: place for place, agent in enumerate(base.ids) if agent not in new}
        self.stale: str = _in_words(base.ids, self.ids, tuple(new))
        """What changed since the calibration, in words; empty if nothing did."""
        places = old | new
        columns = np.array([places[agent] for agent in self.ids], np.int64)
        if not np.any(columns < len(base.ids)):
            raise ValueError("none of the fit's cards stayed; fit the new ones instead")
        stayed = np.flatnonzero(columns < len(base.ids))
        self.alike = np.zeros((len(cards), len(cards)), bool)
        self.alike[np.ix_(stayed, stayed)] = base.alike[np.ix_(columns[stayed], columns[stayed])]
        self.examples = sum(len(card.examples) for card in cards) / len(cards)
        rows = card_rows(added)
        scorer = base._scorer
        if isinstance(scorer, LearnedScorer):
            self._scorer = _LearnedBeside(scorer, columns, rows, vectors[: len(rows)])
        elif len(scorer.space) <= KEPT_ROWS:
            self._scorer = _BorderedRidge(scorer, columns, rows, vectors[: len(rows)])
        else:
            self._scorer = _RidgeBeside(scorer, columns, rows, vectors[: len(rows)])
        self._told = None if base._told is None else _WiderTold(base._told, columns, added, vectors[len(rows) :])

    @staticmethod
    def texts(cards: Sequence[AgentCard]) -> list[str]:
        """What must be embedded to adapt a fit to these cards, which came or changed."""
        return [*(row.text for row in card_rows(cards)), *(Told.texts(cards) if cards else ())]


_NOTHING = -1
"""The kind of a row that is no evidence any more."""


# --- few agents: the ridge, exactly -----------------------------------------------------------------------------------


class _BorderedRidge(CardScorer):
    """The scorer of another set of cards with rows that left and rows that joined its ridge.

    Args:
        base: The scorer of the other cards.
        columns: For each agent its column in `base`, or `base.count` plus its place among those that came.
        rows: `card_rows` of the cards that came.
        vectors: Dense vectors of `rows`.
    """

    def __init__(self, base: CardScorer, columns: Places, rows: Sequence[Row], vectors: Floats) -> None:
        self.count = len(columns)
        self.held_out = base.held_out
        place_of = _places_of(columns, base.count + 1 + max((row.agent for row in rows), default=0))
        agent = np.where(base._agent >= 0, place_of[base._agent], -1)
        new_agent = np.array([place_of[base.count + row.agent] for row in rows], np.int64)
        new_kind = np.array([row.kind for row in rows], np.int64)
        kept = np.flatnonzero((base._agent < 0) | (agent >= 0))
        kinds = np.concatenate([base._kind[kept], new_kind])
        order = np.argsort(kinds, kind="stable")
        self._agent, self._kind = np.concatenate([agent[kept], new_agent])[order], kinds[order]
        self.space = _WiderSpace(base.space, kept, [row.text for row in rows], vectors, order)
        self._parts = Segments(self._agent, self._kind, self.count)
        left = [base._rows[place] for place in np.flatnonzero((base._agent >= 0) & (agent < 0)).tolist()]
        self._known = _known_after(base._known, left, rows)

        place = np.argsort(order)
        near = self.space.similarity_of_rows(place[len(kept) :])[:, place].T
        near, own = near[: len(kept)], near[len(kept) :]
        offered = near[:, (new_kind == Kind.EXAMPLE) | (new_kind == Kind.DESCRIPTION)]
        theirs = (base._kind[kept] == Kind.BACKGROUND) & (offered.max(axis=1, initial=-1.0) >= BACKGROUND_NEAR)
        # A background utterance that is a new card's business stays in the table without a say.
        self._kind[place[: len(kept)][theirs]] = _NOTHING
        found = np.zeros((len(order), self.count), np.float32)
        said = np.concatenate([np.flatnonzero(~theirs), np.arange(len(kept), len(order))])
        found[said] = self._updated(base, columns, near[~theirs], own, kept[~theirs], new_agent, new_kind)
        self._ridge = found[order]

    def _updated(
        self,
        base: CardScorer,
        columns: Places,
        near: Floats,
        own: Floats,
        kept: Places,
        new_agent: Places,
        new_kind: Places,
    ) -> Floats:
        """Coefficients of the kept rows, then of the new ones, shape (n, c), as if they had been fitted together."""
        inverse = self._inverse_of(base)
        trust = np.array([TRUST[Kind(kind)] for kind in new_kind.tolist()], np.float32)
        own = np.asarray(own + np.diag(RIDGE / trust), np.float32)
        stayed = columns < base.count
        found = np.zeros((len(kept) + len(new_agent), len(columns)), np.float32)

        update = RidgeUpdate(inverse, kept, near, own)
        old = update.without_the_dropped(base._ridge[:, columns[stayed]])
        left = -1.0 - update.said_of_new(old)
        # A `not_for` of a new card says nothing about the other agents.
        left[new_kind == Kind.NOT_FOR] = 0.0
        found[:, stayed] = update.joined(old, left)
        if not stayed.all():
            # What another card is not for says nothing about a new one.
            silent = base._kind[kept] == Kind.NOT_FOR
            if silent.any():
                update = RidgeUpdate(inverse, kept[~silent], near[~silent], own)
            nobody = update.solved(np.full((len(update.kept), int((~stayed).sum())), -1.0, np.float32))
            target = np.full((len(new_agent), nobody.shape[1]), -1.0, np.float32)
            mine = new_agent[:, None] == np.flatnonzero(~stayed)[None, :]
            target[mine] = 1.0
            denied = new_kind == Kind.NOT_FOR
            said = update.said_of_new(nobody)
            target[denied] = np.where(mine[denied], -1.0, said[denied])
            rows = np.concatenate([np.flatnonzero(~silent), len(kept) + np.arange(len(new_agent))])
            found[np.ix_(rows, np.flatnonzero(~stayed))] = update.joined(nobody, target - said)
        return found

    def _inverse_of(self, base: CardScorer) -> Floats:
        """The inverse of the ridge's system, kept by the fit or made again."""
        inverse = base.inverse
        if inverse is None:
            system = base.space.similarity_of_rows()
            system += np.diag([RIDGE / TRUST[row.kind] for row in base._rows]).astype(np.float32)
            inverse = np.linalg.inv(system).astype(np.float32)
        return inverse


class RidgeUpdate:
    """A ridge whose inverse is known, some of whose rows are dropped and to which others come. Arrays only.

    Args:
        inverse: Of the similarities among its n rows with the ridge on the diagonal, shape (n, n).
        kept: Rows that stay, ascending.
        near: Similarity of the kept rows to the k that come, shape (len(kept), k).
        own: Similarity among those that come, with their ridge, shape (k, k).

    Source: the inverse of a partitioned matrix (Schur complement), for the rows that leave and for those that join.
    """

    def __init__(self, inverse: Floats, kept: Places, near: Floats, own: Floats) -> None:
        self.kept = kept
        self._dropped = np.setdiff1d(np.arange(len(inverse)), kept)
        self._inverse = inverse
        self._between = inverse[np.ix_(kept, self._dropped)]
        self._corner = inverse[np.ix_(self._dropped, self._dropped)]
        self._near = near
        self._through = self.solved(self._near)
        self._schur = own - self._near.T @ self._through

    def without_the_dropped(self, coefficients: Floats) -> Floats:
        """Coefficients of the kept rows as if fitted without the dropped ones, whose fit is given."""
        if not len(self._dropped):
            return coefficients
        moved = np.linalg.solve(self._corner, coefficients[self._dropped])
        return np.asarray(coefficients[self.kept] - self._between @ moved, np.float32)

    def solved(self, targets: Floats) -> Floats:
        """Coefficients of the kept rows alone for targets of theirs."""
        every = np.zeros((len(self._inverse), targets.shape[1]), np.float32)
        every[self.kept] = targets
        return self.without_the_dropped(self._inverse @ every)

    def said_of_new(self, coefficients: Floats) -> Floats:
        """What a fit of the kept rows says about the rows that come."""
        return np.asarray(self._near.T @ coefficients, np.float32)

    def joined(self, coefficients: Floats, residual: Floats) -> Floats:
        """Coefficients of the kept rows and of those that come, given by how much the fit misses their targets."""
        new = np.linalg.solve(self._schur, residual)
        return np.concatenate([coefficients - self._through @ new, new]).astype(np.float32)


# --- many agents, or very many rows: the new ones beside the fit ------------------------------------------------------


class _Beside:
    """The rows of the cards that came, in the base's space, and how their evidence joins the base's.

    Args:
        columns: For each agent its column in the base, or `count` plus its place among those that came.
        count: Agents of the base.
        rows: `card_rows` of the cards that came.
    """

    def __init__(self, columns: Places, count: int, rows: Sequence[Row]) -> None:
        self.columns = columns
        self.kind = np.array([row.kind for row in rows], np.int64)
        self.agent = np.array([row.agent for row in rows], np.int64)
        self.came = int((columns >= count).sum())
        self.stayed = columns[columns < count]
        self._parts = Segments(self.agent, self.kind, self.came)

    def evidence(self, near: Floats) -> Floats:
        """Signals of the new agents from the similarity to their rows, shape (m, a, s); the head is left at 0."""
        parts = self._parts
        found = np.zeros((len(near), self.came, len(SIGNALS)), np.float32)
        description = parts.best_of(near, Kind.DESCRIPTION)
        nearest = np.maximum(parts.best_of(near, Kind.EXAMPLE), description)
        for name, values in (
            ("near", nearest),
            ("mean", parts.mean_of(near)),
            ("description", description),
            ("instructions", parts.best_of(near, Kind.INSTRUCTION)),
            ("not_for", np.maximum(0.0, parts.best_of(near, Kind.NOT_FOR) - nearest)),
        ):
            found[:, :, SIGNALS.index(name)] = values
        return found

    def joined(self, base: Floats, new: Floats, coverage: Floats, background: Floats) -> Signals:
        """Evidence for all agents in order."""
        agents = np.concatenate([base, new], axis=1)[:, self.columns]
        near, head = (agents[:, :, SIGNALS.index(name)].max(axis=1) for name in ("near", "head"))
        none = np.stack([np.ones(len(agents), np.float32), near, coverage, head, background], axis=1)
        return Signals(agents, none.astype(np.float32))


class _LearnedBeside(LearnedScorer):
    """The scorer of another set of cards, and beside its softmax a logistic regression for each agent that came.

    What it says are the odds of the new agent against its neighbours; added to what the softmax says about all of them
    together they stand on its scale. Arguments as for `_BorderedRidge`.
    """

    def __init__(self, base: LearnedScorer, columns: Places, rows: Sequence[Row], vectors: Floats) -> None:
        self.count = len(columns)
        self.held_out = base.held_out
        self._base = base
        self._beside = _Beside(columns, base.count, rows)
        texts = [row.text for row in rows]
        if not rows:
            vectors = np.zeros((0, len(base._center)), np.float32)
        self._rows_beside = self._looked_at(texts, vectors)
        gone = np.setdiff1d(np.arange(base.count), self._beside.stayed)
        left = [
            Row(base._texts[place], int(base._agent[place]), Kind(int(base._kind[place])))
            for place in np.flatnonzero(np.isin(base._agent, gone)).tolist()
        ]
        self._known = _known_after(base._known, left, rows)
        offered = self._rows_beside[(self._beside.kind == Kind.EXAMPLE) | (self._beside.kind == Kind.DESCRIPTION)]
        nearest = (base._background @ offered.T).max(axis=1, initial=-1.0)
        self._background = base._background[nearest < OWN_BUSINESS]
        self._odds_of_new = self._told_apart()

    def signals(self, texts: Sequence[str], vectors: Floats) -> Signals:
        base = self._base
        found = base.signals(texts, vectors).agents
        dense = self._looked_at(texts, vectors)
        new = self._beside.evidence(dense @ self._rows_beside.T)
        odds = dense @ self._odds_of_new[:-1] + self._odds_of_new[-1]
        head = ODDS_SCALE * found[:, self._beside.stayed, SIGNALS.index("head")]
        highest = head.max(axis=1, keepdims=True)
        together = highest + np.log(np.exp(head - highest).sum(axis=1, keepdims=True))
        new[:, :, SIGNALS.index("head")] = (together + odds) / ODDS_SCALE
        coverage = np.array([coverage_of(text, self._known) for text in texts], np.float32)
        background = (dense @ self._background.T).max(axis=1, initial=-1.0) if len(self._background) else 0.0
        return self._beside.joined(found, new, coverage, np.zeros(len(texts), np.float32) + background)

    def _looked_at(self, texts: Sequence[str], vectors: Floats) -> Floats:
        """Unit vectors by which the base compares texts: of their n-grams, where there are no dense ones."""
        base = self._base
        return base._centered(vectors) if vectors.shape[1] else unit_rows(base._features(texts, vectors)[:, :-1])

    def _told_apart(self) -> Floats:
        """Weights of the odds of each new agent against its neighbours, the last row a constant, shape (d + 1, a)."""
        own, beside = self._rows_beside, self._beside
        weights = np.zeros((own.shape[1] + 1, beside.came), np.float32)
        for place in range(beside.came):
            mine = np.flatnonzero((beside.agent == place) & (beside.kind != Kind.NOT_FOR))
            others = np.flatnonzero((beside.agent != place) & (beside.kind != Kind.NOT_FOR))
            near, kinds = self._neighbours(own[mine])
            features = np.concatenate([own[mine], own[others], near])
            kinds = np.concatenate([beside.kind[mine], beside.kind[others], kinds])
            trust = np.array([TRUST[Kind(kind)] for kind in kinds.tolist()], np.float32)
            features = np.concatenate([features, np.ones((len(features), 1), np.float32)], axis=1)
            target = np.arange(len(features)) < len(mine)
            weights[:, place] = _logistic(features, target.astype(np.float32), trust)
        return weights

    def _neighbours(self, mine: Floats) -> tuple[Floats, Places]:
        """The rows of other agents and of the background that are nearest to some rows, and their kinds."""
        base = self._base
        stayed = self._beside.stayed
        nearest = stayed[np.argsort(-(base._means[stayed] @ mine.T).max(axis=1))]
        rows_of = np.bincount(base._agent[base._agent >= 0], minlength=base.count)
        looked = nearest[: max(1, int(np.searchsorted(np.cumsum(rows_of[nearest]), LOOKED_THROUGH)))]
        foreign = (base._agent < 0) | np.isin(base._agent, looked)
        places = np.flatnonzero(foreign & (base._kind != Kind.NOT_FOR))
        near = (base._dense[places] @ mine.T).max(axis=1)
        own_business = (base._agent[places] < 0) & (near >= OWN_BUSINESS)
        places, near = places[~own_business], near[~own_business]
        if len(places) > NEIGHBOURS:
            places = places[np.argpartition(-near, NEIGHBOURS)[:NEIGHBOURS]]
        return base._dense[places], base._kind[places]


class _RidgeBeside(CardScorer):
    """The scorer of another set of cards whose ridge has too many rows to be changed: new agents stand beside it.

    Their head is what the base's says, in the mean, of an agent that is as near as they are. Arguments as for
    `_BorderedRidge`.
    """

    def __init__(self, base: CardScorer, columns: Places, rows: Sequence[Row], vectors: Floats) -> None:
        self.count = len(columns)
        self.held_out = base.held_out
        self._base = base
        self._beside = _Beside(columns, base.count, rows)
        texts = [row.text for row in rows]
        self.space = _WiderSpace(base.space, np.zeros(0, np.int64), texts, vectors, np.arange(len(rows)))
        gone = np.setdiff1d(np.arange(base.count), self._beside.stayed)
        left = [base._rows[place] for place in np.flatnonzero(np.isin(base._agent, gone)).tolist()]
        self._known = _known_after(base._known, left, rows)
        head = base.held_out.signals.agents[:, :, SIGNALS.index("head")]
        self._range = (float(head.min()), float(head.max())) if head.size else (-1.0, 1.0)
        shape = _with_one(base.held_out.signals.agents).reshape(-1, len(_HEAD_FROM) + 1)
        self._head = np.linalg.lstsq(shape, head.ravel(), rcond=None)[0].astype(np.float32) if head.size else _NO_HEAD

    def signals(self, texts: Sequence[str], vectors: Floats) -> Signals:
        found = self._base.signals(texts, vectors)
        new = self._beside.evidence(self.space.similarity(texts, vectors))
        new[:, :, SIGNALS.index("head")] = np.clip(_with_one(new) @ self._head, *self._range)
        coverage = np.array([coverage_of(text, self._known) for text in texts], np.float32)
        return self._beside.joined(found.agents, new, coverage, found.none[:, NONE_SIGNALS.index("background")])


_HEAD_FROM = tuple(SIGNALS.index(name) for name in ("near", "mean", "description", "instructions"))
_NO_HEAD = np.zeros(len(_HEAD_FROM) + 1, np.float32)


def _with_one(agents: Floats) -> Floats:
    """The signals that a head is estimated from, and a 1."""
    some = agents[:, :, _HEAD_FROM]
    return np.concatenate([some, np.ones((*some.shape[:2], 1), np.float32)], axis=2)


def _logistic(features: Floats, target: Floats, trust: Floats) -> Floats:
    """Weights of a logistic regression, shape (d,), by Newton's method in as many variables as there are rows."""
    gram = features @ features.T
    found = np.zeros(len(features), np.float32)
    for _ in range(NEWTON_STEPS):
        chance = 1.0 / (1.0 + np.exp(-(gram @ found)))
        slope = trust * (chance - target) + PENALTY * found
        curvature = (trust * chance * (1.0 - chance))[:, None] * gram
        curvature[np.diag_indices(len(features))] += PENALTY
        found -= np.linalg.solve(curvature, slope).astype(np.float32)
    return np.asarray(features.T @ found, np.float32)


# --- tables with more rows --------------------------------------------------------------------------------------------


class _WiderIndex(GramIndex):
    """An index with some of another's rows and then new ones, in a new order.

    An n-gram that only the new rows hold is as rare as one that no row holds.
    """

    def __init__(self, base: GramIndex, kept: Places, texts: Sequence[str], order: Places) -> None:
        self.__dict__.update(copy(base).__dict__)
        wider = dict(base._places)
        coded = [
            np.array(
                [wider.setdefault(g, len(wider)) for group in self._grams(text[:MAX_CHARS]) for g in group], np.int64
            )
            for text in texts
        ]
        if strange := len(wider) - len(base._places):
            self._places, self._groups = wider, {}
            self._rarity = np.append(base._rarity, np.full(strange, base._unseen))
        joined: SparseRows = self._rows(coded)
        if len(kept):
            old: SparseRows = base.rows[kept]
            old.resize((len(kept), len(self._places)))
            joined = cast(Any, sparse).vstack([old, joined], format="csr")[order]
        self.rows = joined
        self._turn()


class _WiderSpace(TextSpace):
    """A space with some of another's rows and then new ones, in a new order; its center stays."""

    def __init__(self, base: TextSpace, kept: Places, texts: Sequence[str], vectors: Floats, order: Places) -> None:
        self.center, self.has_dense, self._shares = base.center, base.has_dense, base._shares
        self._words = _WiderIndex(base._words, kept, texts, order)
        self._characters = _WiderIndex(base._characters, kept, texts, order)
        new = base._centered(vectors) if texts else base.rows.dense[:0]
        dense = np.concatenate([base.rows.dense[kept], new])[order]
        self.rows = Coded(self._words.rows, self._characters.rows, dense)


class _WiderTold(Told):
    """The descriptions of another set of cards and those of the cards that came."""

    def __init__(self, base: Told, columns: Places, added: Sequence[AgentCard], vectors: Floats) -> None:
        self.__dict__.update(copy(base).__dict__)
        self._columns = columns
        if not added:
            return
        new = Told(added, vectors)
        count = len(base._whole)
        whole = Told.texts(added)[: len(added)]
        every = np.arange(count)
        self._letters = _WiderIndex(base._letters, every, whole, np.arange(count + len(added)))
        self._whole = np.concatenate([base._whole, new._whole])
        self._starts = np.concatenate([base._starts, len(base._clauses) + new._starts])
        self._clauses = np.concatenate([base._clauses, new._clauses])
        self._sizes = np.concatenate([base._sizes, new._sizes])
        known, total = len(base._words), len(base._words) + len(new._words)
        self._own_starts = np.concatenate([base._own_starts, len(base._own) + new._own_starts])
        self._own = np.concatenate([base._own, known + new._own])
        width = max(base._table.shape[1], new._table.shape[1])
        self._table = np.full((count + len(added), width), total, np.int64)
        self._table[:count, : base._table.shape[1]] = np.where(base._table == known, total, base._table)
        self._table[count:, : new._table.shape[1]] = new._table + known
        self._words = np.concatenate([base._words, new._words])
        self._counts = np.concatenate([base._counts, new._counts])
        self._remembered = {}

    def nearness(self, texts: Sequence[str], vectors: Floats, known: Mapping[str, Floats]) -> Floats:
        found = super().nearness(texts, vectors, known)[:, self._columns]
        return np.asarray(found - found.mean(axis=1, keepdims=True), np.float32)


# --- small things -----------------------------------------------------------------------------------------------------


def _same(before: AgentCard | None, after: AgentCard) -> bool:
    """Whether two cards are one to a router: the same object, or the same in what it reads."""
    return before is after or (before is not None and _read(before) == _read(after))


def _read(card: AgentCard) -> tuple[object, ...]:
    return card.id, card.name, card.description, card.examples, card.not_for, card.instructions


def _in_words(before: Sequence[str], after: Sequence[str], came: Sequence[str]) -> str:
    """What changed, with the ids; nothing if nothing did."""
    left = [agent for agent in before if agent not in set(after)]
    counts = [
        f"{_cards(len(came))} came or changed" if came else "",
        (f"{len(left)}" if came else _cards(len(left))) + " left" if left else "",
    ]
    if not (came or left):
        return ""
    names = "; ".join(", ".join(ids) for ids in (came, left) if ids)
    return f"{' and '.join(c for c in counts if c)} since the calibration ({names})"


def _cards(count: int) -> str:
    return f"{count} card" if count == 1 else f"{count} cards"


def _places_of(columns: Places, count: int) -> Places:
    """For each column its place among the agents, -1 for one that left."""
    places = np.full(count, -1, np.int64)
    places[columns] = np.arange(len(columns))
    return places


def _known_after(known: Counter[str], left: Sequence[Row], came: Sequence[Row]) -> Counter[str]:
    """In how many rows each word stands, once some rows left and others came."""
    found = known.copy()
    said = (Kind.EXAMPLE, Kind.DESCRIPTION, Kind.INSTRUCTION)
    for rows, change in ((left, -1), (came, 1)):
        for row in rows:
            if row.kind in said:
                for word in set(content_words(row.text)):
                    found[word] += change
    return +found
