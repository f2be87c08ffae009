"""Which agents a text needs where most texts need several: a set is judged as a whole, not one best agent.

For cards on which one and the same example stands again and again: a text then is for all of its owners, and a softmax
over the agents, which divides one probability among them, is the wrong model. One ridge against the rest for each
agent, calibrated on rows it did not see, then the probabilities of whole sets. Pure arrays; decides nothing about
parts, thresholds or who is asked back.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentmesh.routing.calibration import TRIED_PENALTY, Judged
from agentmesh.routing.features import GramIndex, around, cached_stem, character_runs, unit_rows
from agentmesh.routing.parts import specific_words
from agentmesh.routing.scorer import SIGNALS, TRUST, Kind, Row, Segments, background_rows, card_rows
from agentmesh.text import content_words, words
from agentmesh.types import AgentCard

__all__ = ["ENOUGH_SHARED", "SeveralCards", "fit_odds", "fit_sets", "pair_odds", "shared_share"]

Floats = NDArray[np.float32]
Exact = NDArray[np.float64]
Places = NDArray[np.int64]

ENOUGH_SHARED = 0.1
"""Share of the example texts on two or more cards from which on these cards are rather asked here. Our choice."""
WORD_SHARE, LETTER_SHARE, DENSE_SHARE = 1.0, 0.3, 1.0
"""How much the three similarities count in the ridge. This, `RIDGE` and the next were settled by cross-validation on
the train rows of nlupp."""
RIDGE = 0.7
"""Ridge of a row with trust 1."""
EXACT_ROWS = 3_000
"""Up to this many rows the ridge sees every n-gram; above, n-grams hashed into `HASHED` columns, for a table of rows by
rows would take too long. Hashed it was two points of exact sets worse on 1,400 rows."""
HASHED = 2048
"""Columns that n-grams are hashed into."""
MOST_ROWS = 10_000
"""Distinct examples that are learned from, drawn by seed 0 where there are more: bounds a fit to some ten seconds."""
OWN_BUSINESS = 0.4
"""A background utterance that comes this near to an example is the mesh's business and left out."""
SHIPPED_ODDS = np.array([1.6, 7.8])
"""Log odds of an agent from its ridge r: the first + the second * r. Rounded from a fit on train rows of nlupp."""
ODDS_STRENGTH = np.array([1.0, 0.1])
"""Precision of the prior around them."""
OWN_ODDS_STRENGTH = np.array([2.0, 8.0])
"""Precision of the prior that an agent's log odds are those of all agents: intercept 0 and slope 1."""
PAIR_CAUTION = 5.0
"""Expected joint rows by which the odds of a pair are shrunk towards none."""
SHIPPED_SETS = np.array([1.0, 1.0])
"""Weights of the agents' log odds and of the odds of the pairs in the score of a set, before any fit."""
SETS_STRENGTH = 5.0
"""Precision of the prior around them."""
LOOKED_AT = 8
"""Agents, the likeliest, whose sets are looked at: 256 sets, with 96 % of the right ones on train rows of nlupp."""
FITTED_SETS = 4_000
"""Rows by whose sets the evidence is weighed, evenly taken where there are more: two numbers need no more of them."""
STEPS = 30


def shared_share(cards: Sequence[AgentCard]) -> float:
    """Share of the distinct example texts that stand on two or more cards, 0 to 1; 0 without examples."""
    owners = Counter(text for card in cards for text in {t.strip() for t in card.examples} if text)
    return sum(count > 1 for count in owners.values()) / len(owners) if owners else 0.0


class SeveralCards:
    """A set of cards whose texts need several agents, ready to be asked. Fitted when made; never changes afterwards.

    Args:
        cards: The agents, at least one, no id twice.
        vectors: Dense vectors of `texts(cards)`, shape (n, d); d may be 0.
    """

    wants_words = False
    """Whether `judge` reads the vectors of single words."""

    def __init__(self, cards: Sequence[AgentCard], vectors: NDArray[np.float32]) -> None:
        self.ids = tuple(card.id for card in cards)
        self.examples = sum(len(card.examples) for card in cards) / len(cards)
        rows = [*card_rows(cards), *background_rows()]
        count = len(cards)
        self._known = {word for row in rows if row.kind in _OFFERED for word in content_words(row.text)}
        table = _Table(rows, vectors, count)
        self._head = (_EveryGram if len(table.texts) <= EXACT_ROWS else _FewColumns)(table)
        self._near = _Nearness(rows, self._head.dense(vectors, [row.text for row in rows]), count)
        judged = np.flatnonzero(table.judged)
        owned: Exact = (table.targets[judged] > 0).astype(np.float64)
        weights = table.trust[judged].astype(np.float64)
        unseen = self._head.unseen[judged].astype(np.float64)
        self._slopes = fit_odds(unseen, owned, weights)
        odds = self._odds(unseen)
        self._pairs = pair_odds(odds, owned)
        self._sets = _Sets(count)
        some = slice(None, None, max(1, len(odds) // FITTED_SETS))
        self.parameters = fit_sets(*self._sets.evidence(odds[some], self._pairs), owned[some], weights[some])

    @staticmethod
    def texts(cards: Sequence[AgentCard]) -> list[str]:
        """What must be embedded to fit these cards."""
        return [row.text for row in (*card_rows(cards), *background_rows())]

    def knows(self, text: str) -> bool:
        """Whether the cards hold a word that says what a text is about."""
        return any(stem in self._known for stem in specific_words(text))

    def judge(
        self,
        texts: Sequence[str],
        vectors: NDArray[np.float32],
        tried: Sequence[str] = (),
        known: Mapping[str, NDArray[np.float32]] = MappingProxyType({}),
        *,
        most: int = 0,
        listed: Sequence[str] = (),
    ) -> Judged:
        """Probability of each agent, which do not add up to 1, and in the last column that nobody is needed.

        Scores are the log odds of these probabilities. Agents that were tried before lose some of theirs. `known`,
        `most` and `listed` are not read: single words do not count here, and all agents are listed.
        """
        head = self._head.ask(texts, vectors)
        odds = self._odds(head.astype(np.float64), tried)
        order, chance = self._chances(odds)
        each = _logistic(self.parameters[0] * odds)
        rest = 1.0 - each
        np.put_along_axis(each, order, chance @ self._sets.members, axis=1)
        np.put_along_axis(rest, order, 1.0, axis=1)
        none = chance[:, 0] * rest.prod(axis=1)
        both = np.concatenate([each, none[:, None]], axis=1)
        sure = np.clip(both, 1e-9, 1.0 - 1e-9)
        signals = self._near.signals(head, self._head.dense(vectors, texts))
        return Judged(both, np.log(sure) - np.log1p(-sure), signals)

    def choose(
        self,
        texts: Sequence[str],
        vectors: NDArray[np.float32],
        most: int,
        tried: Sequence[str] = (),
    ) -> list[tuple[int, ...]]:
        """The likeliest set of agents for each text as positions, the most probable agent first; empty: nobody.

        Args:
            texts: What is asked.
            vectors: Dense vectors of the texts.
            most: Agents in a set at most, >= 0.
            tried: Ids of agents that worked on it before.
        """
        odds = self._odds(self._head.ask(texts, vectors).astype(np.float64), tried)
        order, chance = self._chances(odds)
        each = chance @ self._sets.members
        chance[:, self._sets.sizes > most] = -1.0
        found: list[tuple[int, ...]] = []
        for row, best in enumerate(chance.argmax(axis=1).tolist()):
            inside = np.flatnonzero(self._sets.members[best])
            ranked = inside[np.argsort(-each[row, inside], kind="stable")]
            found.append(tuple(order[row, ranked].tolist()))
        return found

    def _odds(self, head: Exact, tried: Sequence[str] = ()) -> Exact:
        """Log odds of each agent by itself."""
        odds = self._slopes[:, 0] + self._slopes[:, 1] * head
        odds[:, [place for place, agent in enumerate(self.ids) if agent in tried]] -= TRIED_PENALTY
        return odds

    def _chances(self, odds: Exact) -> tuple[Places, Exact]:
        """The likeliest agents of each text, shape (m, k), and the probabilities of their sets, shape (m, 2 ** k)."""
        order, evidence = self._sets.evidence(odds, self._pairs)
        return order, _softmax(evidence @ self.parameters)


# --- arithmetic -------------------------------------------------------------------------------------------------------


def fit_odds(head: Exact, owned: Exact, weights: Exact) -> Exact:
    """Intercept and slope that turn an agent's head into its log odds, shape (c, 2).

    Args:
        head: What the head says about n rows that it did not see, shape (n, c).
        owned: 1 where a row is the agent's, else 0, same shape.
        weights: How much each row counts, shape (n,).

    Source:
        Platt (1999). Our choice: first one line for all agents, then for each agent a line through that one's log odds
        under a normal prior that it changes nothing.
    """
    count = head.shape[1]
    flat = np.stack([np.ones(head.size), head.ravel()], axis=1)
    shared = _logistic_line(flat, owned.ravel(), np.repeat(weights, count), SHIPPED_ODDS, ODDS_STRENGTH)
    lines = np.empty((count, 2))
    for agent in range(count):
        odds = shared[0] + shared[1] * head[:, agent]
        own = _logistic_line(
            np.stack([np.ones(len(odds)), odds], axis=1), owned[:, agent], weights, np.array([0.0, 1.0]),
            OWN_ODDS_STRENGTH,
        )  # fmt: skip
        lines[agent] = own[0] + own[1] * shared[0], own[1] * shared[1]
    return lines


def pair_odds(odds: Exact, owned: Exact, caution: float = PAIR_CAUTION) -> Exact:
    """How much more often two agents own a row together than their log odds say, as log odds, shape (c, c).

    Args:
        odds: Log odds of each agent for n rows, shape (n, c).
        owned: 1 where a row is the agent's, else 0, same shape.
        caution: Added to the expected spread, >= 0: pairs that are hardly ever expected stay at 0.

    Source:
        One Newton step from independence for the pair weights of an Ising model (Rao's score): seen minus expected
        joint rows, over the variance of what was expected. Our choice: one step.
    """
    chance = _logistic(odds)
    expected = chance.T @ chance
    squares = chance * chance
    found = (owned.T @ owned - expected) / np.maximum(expected - squares.T @ squares + caution, 1e-9)
    np.fill_diagonal(found, 0.0)
    return found


def fit_sets(order: Places, evidence: Exact, owned: Exact, weights: Exact) -> Exact:
    """Weights of the evidence about sets, shape (2,), by Newton's method under a normal prior.

    Args:
        order: Agents that the sets of each row are made of, shape (n, k).
        evidence: About each of their sets, shape (n, 2 ** k, 2).
        owned: 1 where a row is the agent's, else 0, shape (n, c). A row whose set is not among the sets says nothing.
        weights: How much each row counts, shape (n,).

    Source:
        McFadden (1974), conditional logit, over sets of agents.
    """
    inside = np.take_along_axis(owned, order, axis=1)
    there = inside.sum(axis=1) == owned.sum(axis=1)
    powers: Exact = np.exp2(np.arange(int(order.shape[1])))
    right: Places = (inside @ powers)[there].astype(np.int64)
    evidence, weights = evidence[there], weights[there]
    found: Exact = SHIPPED_SETS
    for _ in range(STEPS if len(right) else 0):
        step = _newton_step(evidence, right, weights, found)
        found = found + step
        if float(np.abs(step).max()) < 1e-5:
            break
    return found


def _newton_step(evidence: Exact, right: Places, weights: Exact, found: Exact) -> Exact:
    """Where the quadratic approximation of the log posterior at `found` has its top, relative to `found`."""
    size = len(found)
    chance = _softmax(evidence @ found)
    expected: Exact = (chance[:, :, None] * evidence).sum(axis=1)
    seen: Exact = evidence[np.arange(len(right)), right]
    gradient: Exact = weights @ (seen - expected) - SETS_STRENGTH * (found - SHIPPED_SETS)
    spread: Exact = (evidence * (chance * weights[:, None])[:, :, None]).reshape(-1, size)
    curvature: Exact = spread.T @ evidence.reshape(-1, size) - (expected * weights[:, None]).T @ expected
    step = np.linalg.solve(curvature + SETS_STRENGTH * np.eye(size), gradient)
    # Far from the top a whole step may overshoot and swing for ever.
    return np.asarray(step * min(1.0, 1.0 / max(float(np.abs(step).max()), 1e-12)), np.float64)


def _logistic_line(features: Exact, labels: Exact, weights: Exact, prior: Exact, strength: Exact) -> Exact:
    """Intercept and slope of a logistic regression under a normal prior, by Newton's method; the slope is >= 0."""
    found = prior
    for _ in range(STEPS):
        chance = _logistic(features @ found)
        gradient = features.T @ (weights * (labels - chance)) - strength * (found - prior)
        curvature = (features.T * (weights * chance * (1.0 - chance))) @ features + np.diag(strength)
        step: Exact = np.linalg.solve(curvature, gradient).astype(np.float64)
        step *= min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        found = found + step
        if float(np.abs(step).max()) < 1e-5:
            break
    return np.array([found[0], max(0.0, float(found[1]))])


def _logistic(odds: Exact) -> Exact:
    return 0.5 + 0.5 * np.tanh(odds / 2.0)


def _softmax(scores: Exact) -> Exact:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


class _Sets:
    """All sets of up to `LOOKED_AT` agents."""

    def __init__(self, count: int) -> None:
        self._looked = min(LOOKED_AT, count)
        numbers: Places = np.arange(1 << self._looked)
        places: Places = numbers[:, None] >> np.arange(self._looked, dtype=np.int64)
        self.members: Exact = (places & 1).astype(np.float64)
        """1 where an agent is in a set, shape (2 ** k, k); the first set is empty."""
        self.sizes: Exact = self.members.sum(axis=1)
        self._joint: Exact = np.einsum("sa,sb->sab", self.members, self.members).reshape(len(self.members), -1) / 2.0

    def evidence(self, odds: Exact, pairs: Exact) -> tuple[Places, Exact]:
        """The likeliest agents of each text, shape (m, k), and about each of their sets the sums of the log odds and of
        the odds of the pairs, shape (m, 2 ** k, 2)."""
        order = np.argsort(-odds, axis=1, kind="stable")[:, : self._looked]
        singles = np.take_along_axis(odds, order, axis=1) @ self.members.T
        joint = pairs[order[:, :, None], order[:, None, :]].reshape(-1, self._looked**2) @ self._joint.T
        return order, np.stack([singles, joint], axis=2)


# --- what is learned from ---------------------------------------------------------------------------------------------

_OFFERED = (Kind.EXAMPLE, Kind.DESCRIPTION, Kind.INSTRUCTION)


def _edged_pairs(text: str) -> list[tuple[str, ...]]:
    """Stems of the words and pairs of neighbours; the edges of the text are neighbours too: "no" first is an answer."""
    stems = [cached_stem(word) for word in words(text)]
    return [(*stems, *(f"{a} {b}" for a, b in pairwise(("<", *stems, ">")))) if stems else ()]


@dataclass(frozen=True)
class _Place:
    """Where a distinct text of the table comes from."""

    first: int
    kind: Kind
    owners: list[int]


class _Table:
    """The distinct texts of the cards with all of their owners, as numbers."""

    def __init__(self, rows: Sequence[Row], vectors: Floats, count: int) -> None:
        places = _distinct(rows)
        examples = sum(place.kind is Kind.EXAMPLE for place in places)
        if examples > MOST_ROWS:  # they come first
            drawn: list[int] = np.sort(np.random.default_rng(0).permutation(examples)[:MOST_ROWS]).tolist()
            places = [*(places[place] for place in drawn), *places[examples:]]
        self.texts = [rows[place.first].text for place in places]
        self.center = vectors.mean(axis=0) if len(rows) else np.zeros(vectors.shape[1], np.float32)
        self.vectors = vectors[[place.first for place in places]]
        self.trust: Floats = np.array([TRUST[place.kind] for place in places], np.float32)
        self.kinds = np.array([place.kind for place in places], np.int64)
        self.targets: Floats = np.full((len(places), count), -1.0, np.float32)
        for row, place in enumerate(places):
            if place.kind not in (Kind.NOT_FOR, Kind.BACKGROUND):
                self.targets[row, place.owners] = 1.0
        self.denied = np.array([row for row, place in enumerate(places) if place.kind is Kind.NOT_FOR], np.int64)
        self.denied_by = np.array([places[row].owners[0] for row in self.denied.tolist()], np.int64)

    @property
    def judged(self) -> NDArray[np.bool_]:
        """Rows by which the head is calibrated: examples and background."""
        return (self.kinds == Kind.EXAMPLE) | ((self.kinds == Kind.BACKGROUND) & (self.trust > 0))

    def let_go(self, near: Floats) -> None:
        """Trust no background utterance that comes near to an example; `near` are its similarities to all rows."""
        background = np.flatnonzero(self.kinds == Kind.BACKGROUND)
        examples = self.kinds == Kind.EXAMPLE
        if len(background) and examples.any():
            close = near[:, examples].max(axis=1) >= OWN_BUSINESS
            self.trust[background[close]] = 0.0


def _distinct(rows: Sequence[Row]) -> list[_Place]:
    """The texts; an example that stands on several cards is one row with several owners."""
    found: dict[tuple[str, Kind, int], _Place] = {}
    for place, row in enumerate(rows):
        mine = row.agent if row.kind is not Kind.EXAMPLE else -1
        one = found.setdefault((row.text.strip(), row.kind, mine), _Place(place, row.kind, []))
        if row.agent >= 0:
            one.owners.append(row.agent)
    return list(found.values())


# --- the heads --------------------------------------------------------------------------------------------------------


class _Features:
    """Texts as n-grams beside dense vectors."""

    def __init__(self, table: _Table, *, keep_rows: bool) -> None:
        learned = table.texts
        self._words = GramIndex(_edged_pairs, learned, columns=HASHED, keep_rows=keep_rows)
        self._letters = GramIndex(character_runs, learned, columns=HASHED, seed=1, keep_rows=keep_rows)
        self._center = table.center
        lexical = WORD_SHARE + LETTER_SHARE
        scale = 1.0 if len(table.center) else (lexical + DENSE_SHARE) / lexical
        self._shares = WORD_SHARE * scale, LETTER_SHARE * scale, DENSE_SHARE
        self.total = lexical + DENSE_SHARE

    def dense(self, vectors: Floats, texts: Sequence[str]) -> Floats:
        """Unit vectors that texts are compared by, shape (m, d); without dense vectors n-grams stand in for them."""
        return self._centered(vectors) if vectors.shape[1] else unit_rows(self._hashed(texts))

    def _centered(self, vectors: Floats) -> Floats:
        """Unit vectors around the center of the rows; a text without a vector stays without one."""
        return around(vectors, self._center) if vectors.shape[1] else vectors

    def _hashed(self, texts: Sequence[str]) -> Floats:
        of_words, of_letters, _ = self._shares
        found = math.sqrt(of_words) * self._words.hashed(self._words.codes(texts))
        found += math.sqrt(of_letters) * self._letters.hashed(self._letters.codes(texts))
        return np.asarray(found, np.float32)


class _EveryGram(_Features):
    """A ridge that sees every n-gram, solved row by row; a question costs one look at the weights of its n-grams."""

    def __init__(self, table: _Table) -> None:
        super().__init__(table, keep_rows=True)
        of_words, of_letters, of_dense = self._shares
        parts: list[Any] = [self._words.rows, self._letters.rows]
        dense = self._centered(table.vectors)
        near: Floats = np.asarray(
            of_words * (parts[0] @ parts[0].T).toarray() + of_letters * (parts[1] @ parts[1].T).toarray(), np.float32
        )
        near += of_dense * (dense @ dense.T)
        table.let_go(near[table.kinds == Kind.BACKGROUND] / self.total)
        near += 1.0  # a column of ones: the intercept
        kept = np.flatnonzero(table.trust > 0)
        near = near[np.ix_(kept, kept)]
        inside = _Inside(table, kept)
        targets = table.targets[kept]
        penalty: Floats = RIDGE / table.trust[kept]
        if len(inside.denied):
            rest = inside.rest
            first = np.linalg.solve(near[np.ix_(rest, rest)] + np.diag(penalty[rest]), targets[rest])
            targets = inside.denying(targets, near[np.ix_(inside.denied, rest)] @ first)
        inverse = np.linalg.inv(near + np.diag(penalty)).astype(np.float32)
        solved = (inverse @ targets).astype(np.float32)
        self.unseen: Floats = np.zeros_like(table.targets)
        # What is said about a row that is left out of a ridge fit, without fitting again.
        self.unseen[kept] = targets - solved / np.diag(inverse)[:, None]
        self._by_word = np.asarray(of_words * (parts[0][kept].T @ solved), np.float32)
        self._by_letters = np.asarray(of_letters * (parts[1][kept].T @ solved), np.float32)
        self._by_dense: Floats = of_dense * (dense[kept].T @ solved)
        self._by_any: Floats = solved.sum(axis=0)

    def ask(self, texts: Sequence[str], vectors: Floats) -> Floats:
        """What the head says of new texts, about -1 to 1, shape (m, c)."""
        found = self._centered(vectors) @ self._by_dense + self._by_any
        coded = zip(self._words.codes(texts), self._letters.codes(texts), strict=True)
        for row, ((stems, heavy), (runs, light)) in enumerate(coded):
            found[row] += heavy.astype(np.float32) @ self._by_word[stems]
            found[row] += light.astype(np.float32) @ self._by_letters[runs]
        return np.asarray(found, np.float32)


class _FewColumns(_Features):
    """A ridge over hashed n-grams, solved column by column: for many rows."""

    def __init__(self, table: _Table) -> None:
        super().__init__(table, keep_rows=False)
        features = self._columns_of(table.texts, table.vectors)
        table.let_go(features[table.kinds == Kind.BACKGROUND, :-1] @ features[:, :-1].T / self.total)
        kept = np.flatnonzero(table.trust > 0)
        inside = _Inside(table, kept)
        taken, targets, trust = features[kept], table.targets[kept], table.trust[kept]
        if len(inside.denied):
            rest = inside.rest
            weights = np.linalg.solve(
                _curvature(taken[rest], trust[rest]), taken[rest].T @ (targets[rest] * trust[rest, None])
            )
            targets = inside.denying(targets, taken[inside.denied] @ weights)
        inverse = np.linalg.inv(_curvature(taken, trust)).astype(np.float32)
        self._weights: Floats = np.asarray(inverse @ (taken.T @ (targets * trust[:, None])), np.float32)
        pull = trust * np.einsum("ij,ij->i", taken @ inverse, taken)
        self.unseen: Floats = np.zeros_like(table.targets)
        self.unseen[kept] = (taken @ self._weights - pull[:, None] * targets) / np.maximum(1.0 - pull, 1e-6)[:, None]

    def ask(self, texts: Sequence[str], vectors: Floats) -> Floats:
        """What the head says of new texts, about -1 to 1, shape (m, c)."""
        return self._columns_of(texts, vectors) @ self._weights

    def _columns_of(self, texts: Sequence[str], vectors: Floats) -> Floats:
        dense = math.sqrt(self._shares[2]) * self._centered(vectors)
        return np.concatenate([self._hashed(texts), dense, np.ones((len(texts), 1), np.float32)], axis=1).astype(
            np.float32
        )


def _curvature(features: Floats, trust: Floats) -> Floats:
    found: Floats = np.asarray((features.T * trust) @ features, np.float32)
    found[np.diag_indices(len(found))] += np.float32(RIDGE)
    return found


class _Inside:
    """Where the `not_for` rows stand among the rows that are kept."""

    def __init__(self, table: _Table, kept: Places) -> None:
        self.denied = np.flatnonzero(table.kinds[kept] == Kind.NOT_FOR)
        self.rest = np.flatnonzero(table.kinds[kept] != Kind.NOT_FOR)
        self._by = table.denied_by

    def denying(self, targets: Floats, thought: NDArray[np.floating[Any]]) -> Floats:
        """Targets by which a `not_for` says no about its own agent and about others what is thought without it."""
        told = targets.copy()
        told[self.denied] = thought
        told[self.denied, self._by] = -1.0
        return told


class _Nearness:
    """How near a text is to what stands on each card; for reading, the head does without."""

    def __init__(self, rows: Sequence[Row], dense: Floats, count: int) -> None:
        agent, kind = np.array([row.agent for row in rows], np.int64), np.array([row.kind for row in rows], np.int64)
        self._parts = Segments(agent, kind, count)
        self._dense = dense
        examples = np.flatnonzero(kind == Kind.EXAMPLE)
        self._means = np.zeros((count, dense.shape[1]), np.float32)
        np.add.at(self._means, agent[examples], dense[examples])
        self._means /= np.maximum(np.bincount(agent[examples], minlength=count), 1)[:, None]

    def signals(self, head: Floats, dense: Floats) -> Floats:
        """`SIGNALS` of each text for each agent, shape (m, c, len(SIGNALS)); 0 for one that is not looked at here.

        Examples are those of the likeliest agents only, as in `LearnedScorer`.
        """
        descriptions, instructions, denied = (
            self._parts.best(dense, self._dense, kind) for kind in (Kind.DESCRIPTION, Kind.INSTRUCTION, Kind.NOT_FOR)
        )
        near = descriptions.copy()
        for row, agents in enumerate(np.argsort(-head, axis=1, kind="stable")[:, :LOOKED_AT].tolist()):
            for agent in agents:
                part = self._parts.of(Kind.EXAMPLE, agent)
                if part is not None:
                    near[row, agent] = max(near[row, agent], (self._dense[part] @ dense[row]).max())
        denied = np.maximum(0.0, denied - near) if denied.any() else denied
        found = {
            "head": head,
            "near": near,
            "mean": dense @ self._means.T,
            "description": descriptions,
            "instructions": instructions,
            "not_for": denied,
        }
        return np.stack([found.get(name, np.zeros_like(head)) for name in SIGNALS], axis=2).astype(np.float32)
