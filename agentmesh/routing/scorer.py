"""What a set of cards says about a text: evidence for each agent, from everything a card offers.

One linear head over all texts of all cards (a kernel ridge), beside nearness to the examples, the description, the
instructions and what a card is not for. Cards with many examples are led by the head, cards with few by nearness, cards
with none by their descriptions: all are rows of one table, so the passage is smooth. Numbers only; decides nothing.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from agentmesh.routing.features import TextSpace, cached_stem
from agentmesh.text import STOP_WORDS, content_words, sentences, words
from agentmesh.types import AgentCard

__all__ = [
    "HELD_OUT_ROWS",
    "NONE_SIGNALS",
    "SIGNALS",
    "TRUST",
    "CardScorer",
    "HeldOut",
    "Kind",
    "Row",
    "Segments",
    "Signals",
    "background_rows",
    "card_rows",
    "coverage_of",
    "words_of_cards",
]

Floats = NDArray[np.float32]
Places = NDArray[np.int64]

SIGNALS = ("head", "near", "mean", "description", "instructions", "not_for", "told")
"""Evidence for an agent, in order: the linear head, about -1 to 1; the nearest example or piece of the description;
the mean over the examples; the nearest piece of the description, the nearest sentence of the instructions; by how much
the nearest `not_for` is nearer than `near`; how well the description answers, about -1 to 1, filled in by `told.Told`.
Similarities, at most 1."""
NONE_SIGNALS = ("one", "near", "coverage", "head", "background")
"""Evidence for no agent: 1, the best `near`, the share of content words that a card knows, the best `head`, the nearest
background utterance."""


class Kind(IntEnum):
    """Where a row of the table comes from."""

    EXAMPLE = 0
    DESCRIPTION = 1
    INSTRUCTION = 2
    NOT_FOR = 3
    BACKGROUND = 4


TRUST = {Kind.EXAMPLE: 1.0, Kind.DESCRIPTION: 0.5, Kind.INSTRUCTION: 0.1, Kind.NOT_FOR: 0.5, Kind.BACKGROUND: 0.5}
"""How far the head follows a row of each kind. Our choice."""
RIDGE = 0.3
"""Ridge of the head, for a row with trust 1. The best of 0.1, 0.3 and 1.0 on the public rows."""
BACKGROUND_NEAR = 0.4
"""A background utterance that comes this near to a card is that card's business and left out."""
EXACT_ROWS = 4_000
"""Up to this many rows the ridge is solved exactly and every example is scored as if left out; above, by conjugate
gradients, with `HELD_OUT_ROWS` examples held out for the calibration. Bounds memory to about 300 MB while fitting."""
KEPT_ROWS = 2_000
"""Up to this many rows the inverse of the ridge is kept, 16 MB, so that cards can come and go."""
HELD_OUT_ROWS = 1_500
GRADIENT_STEPS = 40
GRADIENT_TOLERANCE = 3e-4
SAME_TEXT = 0.999
"""Two rows this similar are the same text: neither is evidence about the other when one is left out."""
MOST_EXAMPLES = 2_000
"""Examples of one card that are looked at."""
INSTRUCTION_SENTENCES = 60
"""Sentences of one card's instructions that are looked at."""

_CLAUSE = re.compile(r"[.;:,()]\s+|\s[-–—]\s|\.$")


@dataclass(frozen=True)
class Row:
    """One text of the table."""

    text: str
    agent: int
    """Position of the card; -1 for background."""
    kind: Kind


@dataclass(frozen=True)
class Signals:
    """Evidence about m texts."""

    agents: Floats
    """Shape (m, c, len(SIGNALS))."""
    none: Floats
    """Shape (m, len(NONE_SIGNALS))."""


@dataclass(frozen=True)
class HeldOut:
    """Evidence about the cards' own examples and the background, each as if it had not been seen."""

    signals: Signals
    labels: Places
    """Position of the right card; the number of cards for none."""
    places: Places
    """Which of the rows that were given each of them is."""


def card_rows(cards: Sequence[AgentCard]) -> list[Row]:
    """The texts of cards, by kind and then by card."""
    rows: list[Row] = []
    for place, card in enumerate(cards):
        examples = [text for text in dict.fromkeys(card.examples) if text.strip()]
        # Spread over all of them, for neighbours in a list are often alike.
        examples = examples[:: -(-len(examples) // MOST_EXAMPLES)] if len(examples) > MOST_EXAMPLES else examples
        rows.extend(Row(text, place, Kind.EXAMPLE) for text in examples)
    for place, card in enumerate(cards):
        clauses = [clause.strip() for clause in _CLAUSE.split(card.description)]
        pieces = [card.description, *(c for c in clauses if len(c) > 2), card.name]
        rows.extend(Row(text, place, Kind.DESCRIPTION) for text in dict.fromkeys(pieces) if text)
    for place, card in enumerate(cards):
        said = sentences(card.instructions)[:INSTRUCTION_SENTENCES]
        rows.extend(Row(text, place, Kind.INSTRUCTION) for text in dict.fromkeys(said))
    for place, card in enumerate(cards):
        rows.extend(Row(text, place, Kind.NOT_FOR) for text in dict.fromkeys(card.not_for) if text.strip())
    return rows


@cache
def background_rows() -> tuple[Row, ...]:
    """Utterances that hardly any mesh is for."""
    text = (files("agentmesh.routing") / "background.txt").read_text(encoding="utf-8")
    lines = (line.strip() for line in text.splitlines())
    return tuple(Row(line, -1, Kind.BACKGROUND) for line in lines if line and not line.startswith("#"))


class CardScorer:
    """Evidence for the agents of one set of cards. Fitted when made; never changes afterwards.

    Args:
        count: How many cards there are.
        rows: `card_rows(cards)` followed by `background_rows()`.
        vectors: Dense vectors of the rows, shape (len(rows), d); d may be 0.
        exact_rows: Up to this many rows a ridge is solved exactly.
    """

    def __init__(self, count: int, rows: Sequence[Row], vectors: Floats, *, exact_rows: int = EXACT_ROWS) -> None:
        self.count = count
        self.inverse: Floats | None = None
        """Of the similarities with the ridge, shape (n, n), where it is kept."""
        space = TextSpace([row.text for row in rows], vectors)
        own_business = _own_business(space, rows)
        self._given = np.setdiff1d(np.arange(len(rows)), own_business)
        if len(own_business):
            rows = [row for place, row in enumerate(rows) if place not in own_business]
            space = space.without(own_business)
        self.space = space
        self._rows = rows
        self._agent = np.array([row.agent for row in rows], np.int64)
        self._kind = np.array([row.kind for row in rows], np.int64)
        self._parts = Segments(self._agent, self._kind, count)
        self._known = words_of_cards(rows)
        self._ridge: Floats = np.zeros((0, count), np.float32)
        self.held_out = self._fit_ridge(exact_rows)

    def knows(self, stems: Sequence[str]) -> bool:
        """Whether one of these stems stands on a card."""
        return any(stem in self._known for stem in stems)

    def signals(self, texts: Sequence[str], vectors: Floats) -> Signals:
        """Evidence about new texts; `vectors` as for the rows."""
        asked = self.space.asked(texts, vectors)
        near = self.space.nearness(asked)
        coverage = np.array([coverage_of(text, self._known) for text in texts], np.float32)
        return self._signals(near, near @ self._ridge, coverage)

    # --- the head -----------------------------------------------------------------------------------------------------

    def _fit_ridge(self, exact_rows: int) -> HeldOut:
        """Fit coefficients of the rows, shape (n, c), and find the evidence about examples that they did not see."""
        targets = self._targets()
        ridge: Floats = np.array([RIDGE / TRUST[row.kind] for row in self._rows], np.float32)
        if len(self._rows) <= exact_rows:
            chosen = np.flatnonzero((self._kind == Kind.EXAMPLE) | (self._kind == Kind.BACKGROUND))
            near = self.space.similarity_of_rows()
            self._impute(targets, near, ridge)
            inverse = np.linalg.inv(near + np.diag(ridge)).astype(np.float32)
            self.inverse = inverse if len(self._rows) <= KEPT_ROWS else None
            self._ridge = inverse @ targets
            # The residual of a row that is left out of a ridge fit, without fitting again.
            unseen = targets[chosen] - self._ridge[chosen] / np.diag(inverse)[chosen, None]
            return self._hold_out(chosen, near[chosen], np.asarray(unseen, np.float32))
        everything = np.arange(len(self._rows))
        chosen = np.concatenate([self._drawn(), np.flatnonzero(self._kind == Kind.BACKGROUND)])
        first = self._solve(np.setdiff1d(everything, chosen), targets, ridge, np.zeros_like(targets))
        near = self.space.similarity_of_rows(chosen)
        self._ridge = self._solve(everything, targets, ridge, first)
        return self._hold_out(chosen, near, np.asarray(near @ first, np.float32))

    def _drawn(self) -> Places:
        """The examples that the calibration is to see as new, where not each can be left out in turn."""
        examples = np.flatnonzero(self._kind == Kind.EXAMPLE)
        most = min(HELD_OUT_ROWS, len(examples) // 5)
        return np.sort(np.random.default_rng(0).permutation(examples)[:most])

    def _targets(self) -> Floats:
        """1 for a row's own agent and -1 for the others; a `not_for` says -1 about its own and nothing about others."""
        targets = np.full((len(self._rows), self.count), -1.0, np.float32)
        own = np.flatnonzero(self._agent >= 0)
        targets[own, self._agent[own]] = np.where(self._kind[own] == Kind.NOT_FOR, -1.0, 1.0)
        return targets

    def _impute(self, targets: Floats, near: Floats, ridge: Floats) -> None:
        """Let a `not_for` say about other agents what the head thinks without it, so that it changes nothing there."""
        denied = np.flatnonzero(self._kind == Kind.NOT_FOR)
        if not len(denied):
            return
        rest = np.flatnonzero(self._kind != Kind.NOT_FOR)
        head = np.linalg.solve(near[np.ix_(rest, rest)] + np.diag(ridge[rest]), targets[rest])
        targets[denied] = near[np.ix_(denied, rest)] @ head
        targets[denied, self._agent[denied]] = -1.0

    def _solve(self, kept: Places, targets: Floats, ridge: Floats, start: Floats) -> Floats:
        """Coefficients from the kept rows alone, by conjugate gradients from `start`; 0 for the others."""
        product = self.space.gram_product(kept)
        penalty = ridge[kept, None]
        found = start[kept].copy()
        residual = (targets[kept] - product(found) - penalty * found).astype(np.float32)
        direction: Floats = residual.copy()
        size = (residual**2).sum(axis=0)
        goal = GRADIENT_TOLERANCE * (targets[kept] ** 2).sum(axis=0)
        for _ in range(GRADIENT_STEPS):
            if np.all(size <= goal):
                break
            moved = np.asarray(product(direction) + penalty * direction, np.float32)
            length = size / np.maximum((direction * moved).sum(axis=0), 1e-12)
            found += length * direction
            residual -= length * moved
            size, before = (residual**2).sum(axis=0), size
            direction = (residual + direction * (size / np.maximum(before, 1e-12))).astype(np.float32)
        coefficients = np.zeros_like(targets)
        coefficients[kept] = found
        return coefficients

    def _hold_out(self, chosen: Places, near: Floats, head: Floats) -> HeldOut:
        """Evidence about rows of the table without themselves."""
        near = near.copy()
        own = self._agent[chosen]
        examples = own >= 0
        before = self._parts.mean_of(near)
        near[np.arange(len(chosen)), chosen] = -1.0
        near[near > SAME_TEXT] = -1.0
        texts = [self._rows[int(place)].text for place in chosen]
        coverage = [coverage_of(text, self._known, seen=int(mine)) for text, mine in zip(texts, examples, strict=True)]
        signals = self._signals(near, head, np.array(coverage, np.float32))
        counts = np.bincount(self._agent[self._kind == Kind.EXAMPLE], minlength=self.count)[own[examples]]
        mean = signals.agents[:, :, SIGNALS.index("mean")]
        mean[:] = before
        mean[examples, own[examples]] = (before[examples, own[examples]] * counts - 1.0) / np.maximum(1, counts - 1)
        return HeldOut(signals, np.where(examples, own, self.count), self._given[chosen])

    # --- evidence -----------------------------------------------------------------------------------------------------

    def _signals(self, near: Floats, head: Floats, coverage: Floats) -> Signals:
        """Evidence from the similarity to every row and the head's answers."""
        parts = self._parts
        description = parts.best_of(near, Kind.DESCRIPTION)
        nearest = np.maximum(parts.best_of(near, Kind.EXAMPLE), description)
        denied = np.maximum(0.0, parts.best_of(near, Kind.NOT_FOR) - nearest)
        agents = np.stack(
            [
                head,
                nearest,
                parts.mean_of(near),
                description,
                parts.best_of(near, Kind.INSTRUCTION),
                denied,
                np.zeros_like(denied),
            ],
            axis=2,
        )
        background = near[:, self._kind == Kind.BACKGROUND]
        none = np.stack(
            [
                np.ones(len(near), np.float32),
                nearest.max(axis=1),
                coverage,
                head.max(axis=1),
                background.max(axis=1) if background.shape[1] else np.zeros(len(near), np.float32),
            ],
            axis=1,
        )
        return Signals(agents.astype(np.float32), none.astype(np.float32))


class Segments:
    """Where the rows of each kind and agent stand in a table that is ordered by kind and then by agent."""

    def __init__(self, agent: Places, kind: Places, count: int) -> None:
        self.count = count
        self._of: dict[Kind, tuple[slice, Places, Places, Places]] = {}
        self._slices: dict[tuple[Kind, int], slice] = {}
        for one in (Kind.EXAMPLE, Kind.DESCRIPTION, Kind.INSTRUCTION, Kind.NOT_FOR):
            places = np.flatnonzero(kind == one)
            if len(places):
                owners = agent[places]
                starts = np.flatnonzero(np.concatenate([[True], owners[1:] != owners[:-1]]))
                sizes = np.diff(np.append(starts, len(places)))
                first = int(places[0])
                self._of[one] = slice(first, int(places[-1]) + 1), starts, owners[starts], sizes
                for owner, start, size in zip(owners[starts].tolist(), starts.tolist(), sizes.tolist(), strict=True):
                    self._slices[one, owner] = slice(first + start, first + start + size)

    def of(self, kind: Kind, agent: int) -> slice | None:
        """The rows of one agent, if it has some of this kind."""
        return self._slices.get((kind, agent))

    def rows_of(self, kind: Kind) -> slice:
        """All rows of one kind; none where nobody has any."""
        return self._of[kind][0] if kind in self._of else slice(0, 0)

    def best(self, dense: Floats, rows: Floats, kind: Kind) -> Floats:
        """The best inner product of each vector with an agent's rows of one kind, shape (m, c); 0 without any."""
        return self._highest(dense @ rows[self.rows_of(kind)].T, kind)

    def best_of(self, near: Floats, kind: Kind) -> Floats:
        """The best similarity to an agent's rows of one kind, shape (m, c); 0 for an agent without any."""
        return self._highest(near[:, self.rows_of(kind)], kind)

    def _highest(self, own: Floats, kind: Kind) -> Floats:
        """The best column of each agent, of the columns of one kind alone."""
        best = np.zeros((len(own), self.count), np.float32)
        if kind in self._of:
            _, starts, owners, _ = self._of[kind]
            best[:, owners] = np.maximum.reduceat(own, starts, axis=1)
        return best

    def mean_of(self, near: Floats) -> Floats:
        """The mean similarity to an agent's examples, shape (m, c); 0 for an agent without any."""
        mean = np.zeros((len(near), self.count), np.float32)
        if (segment := self._of.get(Kind.EXAMPLE)) is not None:
            where, starts, owners, counts = segment
            mean[:, owners] = np.add.reduceat(near[:, where], starts, axis=1) / counts
        return mean


def words_of_cards(rows: Sequence[Row]) -> Counter[str]:
    """In how many texts that say what a card is for each content word stands."""
    telling = (Kind.EXAMPLE, Kind.DESCRIPTION, Kind.INSTRUCTION)
    return Counter(word for row in rows if row.kind in telling for word in set(content_words(row.text)))


def coverage_of(text: str, known: Mapping[str, int], *, seen: int = 0) -> float:
    """Share of the content words that more than `seen` texts of the cards hold; 1 for a text without such words."""
    found = {cached_stem(word) for word in words(text) if word not in STOP_WORDS}
    return sum(known.get(word, 0) > seen for word in found) / len(found) if found else 1.0


def _own_business(space: TextSpace, rows: Sequence[Row]) -> Places:
    """The background utterances that come near to a card."""
    background = np.array([i for i, row in enumerate(rows) if row.kind == Kind.BACKGROUND], np.int64)
    offered = np.array([row.kind in (Kind.EXAMPLE, Kind.DESCRIPTION) for row in rows])
    if not len(background) or not offered.any():
        return np.zeros(0, np.int64)
    near = space.similarity_of_rows(background)[:, offered].max(axis=1)
    return background[near >= BACKGROUND_NEAR]
