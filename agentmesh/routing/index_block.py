"""One block of a large card index: the rows, prototypes and words of some cards as arrays. Never changes once made.

A block says how near a text is to each of its cards, roughly for all of them, exactly for a few. It knows nothing of
probabilities, and nothing of cards that came or went later.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agentmesh.routing.index_rows import Piece
from agentmesh.routing.scorer import SIGNALS, Kind

__all__ = ["HEAD", "NEAR", "TOLD", "Asked", "Block", "Lexicon", "Turn", "Wording", "product"]

Floats = NDArray[np.float32]
Places = NDArray[np.int64]

SHARES = {Kind.EXAMPLE: 0.6, Kind.DESCRIPTION: 0.3, Kind.INSTRUCTION: 0.1, Kind.NOT_FOR: 0.0}
"""What each kind of row adds to a card's prototype. Our choice: the best of a few on clinc150 with 3 to 10 examples a
card and on generated skills; a kind that a card lacks leaves its share to the others."""
COARSE = 128
"""Directions in which the prototypes vary most; the first look at all cards is along these. With 96 the right one of
80,000 cards is missed a little more often, with 64 clearly."""
POSTINGS = 60_000
"""Entries of the lists of words that one text may look at, the rarest words first. Bounds a question to about 1 ms."""
WORD_SHARE = 0.5
"""Weight of the share of a text's words that a card has, that of the prototype being 1. The best of 0.25, 0.5 and 1 on
clinc150 with 3, 5 and 10 examples a card."""
GATHERED = 1_024
"""Cards whose rows are put together at once."""
ONE_THREAD = 2**18
"""Multiplications up to which OpenBLAS stays in one thread. Waiting for a second one costs more than it brings where
the machine is busy: 0.3 ms for 10,000 cards become 5 to 20."""
MISSING = -2.0
"""Stands for a similarity to nothing; real ones are at least -1."""

HEAD, NEAR, MEAN, DESCRIPTION, INSTRUCTIONS, NOT_FOR, TOLD = (
    SIGNALS.index(name) for name in ("head", "near", "mean", "description", "instructions", "not_for", "told")
)


@dataclass(frozen=True)
class Lexicon:
    """Vectors of words."""

    places: Mapping[str, int]
    """Of stems in the vectors."""
    vectors: Floats
    """Unit rows, shape (words, d)."""


@dataclass(frozen=True)
class Turn:
    """Directions in which prototypes vary, the widest first."""

    axes: Floats
    """Shape (d, COARSE or less), orthonormal columns."""

    @staticmethod
    def of(prototypes: Iterable[Floats], size: int) -> "Turn":
        """The principal directions of prototypes in chunks of shape (n, size); they are not centered."""
        spread = np.zeros((size, size), np.float64)
        for chunk in prototypes:
            spread += chunk.T @ chunk
        _, axes = np.linalg.eigh(spread)
        return Turn(np.ascontiguousarray(axes[:, ::-1][:, :COARSE], np.float32))


@dataclass(frozen=True)
class Wording:
    """The words of one text."""

    shares: Mapping[str, float]
    """Weights of the stems of all of them; together 1."""
    telling: Mapping[str, float]
    """The same of those that say something; together 1."""
    vectors: Floats
    """Of the telling ones, unit rows, 0 where unknown, shape (words, d)."""


@dataclass(frozen=True)
class Asked:
    """Texts as the blocks look at them."""

    dense: Floats
    """Unit rows, shape (m, d)."""
    wordings: tuple[Wording, ...]

    def only(self, rows: slice) -> "Asked":
        """Some of the texts."""
        return Asked(self.dense[rows], self.wordings[rows])


class Block:
    """Some cards as arrays.

    Args:
        pieces: Of the cards, in order.
        size: Numbers of a row.
        lexicon: Vectors of words.
        turn: Directions of the first look; absent: those of these cards.
    """

    def __init__(self, pieces: Iterable[Piece], size: int, lexicon: Lexicon, turn: Turn | None = None) -> None:
        self.places: dict[str, int] = {}
        """Of each word in the columns of this block."""
        gathered: list[NDArray[np.float16]] = []
        rows: list[NDArray[np.float16]] = []
        kinds, starts = array("b"), array("q", [0])
        on_cards, weights, ends = array("i"), array("f"), array("q", [0])
        for piece in pieces:
            rows.append(piece.rows.astype(np.float16))
            if len(rows) == GATHERED:  # 80,000 small arrays would leave the heap full of holes
                gathered.append(np.concatenate(rows))
                rows.clear()
            kinds.extend(piece.kinds)
            starts.append(len(kinds))
            for word, weight in piece.bag.items():
                on_cards.append(self.places.setdefault(word, len(self.places)))
                weights.append(weight)
            ends.append(len(on_cards))
        self.count = len(ends) - 1
        self.rows = np.concatenate([*gathered, *rows, np.zeros((0, size), np.float16)])
        self.kinds = np.array(kinds, np.int8)
        self.row_starts: Places = np.array(starts, np.int64)
        self.shares = self._shares()
        self._words = np.array(on_cards, np.int32)
        self._weights: Floats = np.array(weights, np.float32)
        self._word_starts: Places = np.array(ends, np.int64)
        self._turn_words()
        known = (lexicon.places.get(stem, -1) for stem in self.places)
        self._meanings, self._meant = lexicon.vectors, np.fromiter(known, np.int32, len(self.places))
        self.turn = turn or Turn.of((part for _, part in self._prototypes()), size)
        self.coarse: Floats = np.zeros((self.turn.axes.shape[1], self.count), np.float32)
        for where, part in self._prototypes():
            self.coarse[:, where] = (part @ self.turn.axes).T

    def holders(self, word: str) -> int:
        """How many cards have a word."""
        place = self.places.get(word)
        return 0 if place is None else int(self._starts[place + 1] - self._starts[place])

    def roughly(self, asked: Asked) -> Floats:
        """About the head of each card for each text, shape (m, count)."""
        found = product(product(asked.dense, self.turn.axes), self.coarse)
        for row, wording in enumerate(asked.wordings):
            found[row] += WORD_SHARE * self._on_lists(wording)
        return found

    def _on_lists(self, wording: Wording) -> Floats:
        """The share of a text's words that each card has, common words left out where the lists are long."""
        known = [(self.places[word], weight) for word, weight in wording.shares.items() if word in self.places]
        sizes = {place: int(self._starts[place + 1] - self._starts[place]) for place, _ in known}
        known.sort(key=lambda one: (sizes[one[0]], one[0]))
        cards: list[NDArray[np.int32]] = []
        shares: list[Floats] = []
        left = POSTINGS
        for place, weight in known:
            left -= sizes[place]
            if left < 0 and cards:
                break
            listed = slice(int(self._starts[place]), int(self._starts[place + 1]))
            cards.append(self._listed[listed])
            shares.append(self._list_weights[listed] * np.float32(weight))
        if not cards:
            return np.zeros(self.count, np.float32)
        summed = np.bincount(np.concatenate(cards), np.concatenate(shares), self.count)
        return np.asarray(summed, np.float32)

    def evidence(self, asked: Asked, cards: Places) -> tuple[Floats, Floats]:
        """Evidence for some cards, shape (m, c, len(SIGNALS)), and the share of the words that each has, (m, c)."""
        found = np.zeros((len(asked.dense), len(cards), len(SIGNALS)), np.float32)
        rows, starts = _ranges(self.row_starts, cards)
        begins, kinds, shares = starts[:-1], self.kinds[rows], self.shares[rows]
        alike = product(asked.dense, self.rows[rows].astype(np.float32).T)
        is_example = kinds == Kind.EXAMPLE
        description = _best(alike, kinds == Kind.DESCRIPTION, begins)
        near = np.maximum(_best(alike, is_example, begins), description)
        examples = np.add.reduceat(is_example.astype(np.float32), begins)
        total = np.add.reduceat(np.where(is_example, alike, np.float32(0.0)), begins, axis=1)
        body = _best(alike, kinds == Kind.INSTRUCTION, begins)
        shared, told = self._worded(asked, cards)
        found[:, :, HEAD] = np.add.reduceat(alike * shares, begins, axis=1) + WORD_SHARE * shared
        found[:, :, NEAR] = near
        # A card without examples, or without instructions, is as near by them as by its description.
        found[:, :, MEAN] = np.where(examples > 0, total / np.maximum(examples, 1.0), description)
        found[:, :, DESCRIPTION] = description
        found[:, :, INSTRUCTIONS] = np.where(body > MISSING, body, description)
        found[:, :, NOT_FOR] = np.maximum(0.0, _best(alike, kinds == Kind.NOT_FOR, begins) - near)
        found[:, :, TOLD] = told
        return found, shared

    def _worded(self, asked: Asked, cards: Places) -> tuple[Floats, Floats]:
        """The share of each text's words that some cards have, and how near its telling words come to theirs: (m, c).

        Source: Khattab and Zaharia (2020), ColBERT, for the best match of each word; here the words have one meaning.
        """
        flat, starts = _ranges(self._word_starts, cards)
        own, where = np.unique(self._words[flat], return_inverse=True)
        weights, spots = self._weights[flat], {place: spot for spot, place in enumerate(own.tolist())}
        meant = self._meanings[self._meant[own]] if len(self._meanings) else np.zeros((len(own), 0), np.float32)
        meant[self._meant[own] < 0] = 0.0
        filled = np.flatnonzero(starts[1:] > starts[:-1])
        shared = np.zeros((len(asked.wordings), len(cards)), np.float32)
        told = np.zeros_like(shared)
        if not len(filled):
            return shared, told
        worth = np.zeros(len(own), np.float32)
        for row, wording in enumerate(asked.wordings):
            worth[:] = 0.0
            for stem, weight in wording.shares.items():
                if (spot := spots.get(self.places.get(stem, -1))) is not None:
                    worth[spot] = weight
            shared[row, filled] = np.add.reduceat(worth[where] * weights, starts[filled])
            near = np.maximum(product(wording.vectors, meant.T), np.float32(0.0))
            for word, stem in enumerate(wording.telling):
                if (spot := spots.get(self.places.get(stem, -1))) is not None:
                    near[word, spot] = 1.0
            if len(near):
                best = np.maximum.reduceat(near[:, where], starts[filled], axis=1)
                told[row, filled] = np.array([*wording.telling.values()], np.float32) @ best
        return shared, told

    def _turn_words(self) -> None:
        """Keep, for each word, the cards that have it."""
        order = np.argsort(self._words, kind="stable")
        owners = np.repeat(np.arange(self.count, dtype=np.int32), np.diff(self._word_starts))
        self._listed: NDArray[np.int32] = owners[order]
        self._list_weights: Floats = self._weights[order]
        counts = np.bincount(self._words, minlength=len(self.places))
        self._starts: Places = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])

    def _shares(self) -> Floats:
        """What each row adds to its card's prototype, which then has unit length, shape (rows,)."""
        raw = _raw_shares(self.kinds, self.row_starts)
        for where, rows, starts in self._chunks():
            mixed = np.add.reduceat(self.rows[rows].astype(np.float32) * raw[rows, None], starts, axis=0)
            lengths = np.maximum(np.linalg.norm(mixed, axis=1), 1e-6)
            raw[rows] /= np.repeat(lengths, np.diff(self.row_starts[where.start : where.stop + 1])).astype(np.float32)
        return raw

    def _prototypes(self) -> Iterator[tuple[slice, Floats]]:
        """Cards in chunks with their prototypes, unit vectors."""
        for where, rows, starts in self._chunks():
            part = np.add.reduceat(self.rows[rows].astype(np.float32) * self.shares[rows, None], starts, axis=0)
            yield where, np.asarray(part, np.float32)

    def _chunks(self) -> Iterator[tuple[slice, slice, Places]]:
        """Some cards, their rows, and where each card's rows begin among those. A card has at least one row."""
        for first in range(0, self.count, 4_096):
            where = slice(first, min(self.count, first + 4_096))
            rows = slice(int(self.row_starts[where.start]), int(self.row_starts[where.stop]))
            yield where, rows, self.row_starts[where] - rows.start


def product(left: Floats, right: Floats) -> Floats:
    """The matrix product, made in one thread."""
    if len(left) == 1:  # a vector would go another way, which is threaded much earlier
        return product(np.concatenate([left, left]), right)[:1]
    found = np.empty((len(left), right.shape[1]), np.float32)
    step = max(1, ONE_THREAD // max(1, left.size))
    for start in range(0, right.shape[1], step):
        found[:, start : start + step] = left @ right[:, start : start + step]
    return found


def _best(alike: Floats, chosen: NDArray[np.bool_], begins: Places) -> Floats:
    """The best of the chosen columns of each card, whose columns begin at these places; `MISSING` without any."""
    if not chosen.any():
        return np.full((len(alike), len(begins)), MISSING, np.float32)
    return np.maximum.reduceat(np.where(chosen, alike, np.float32(MISSING)), begins, axis=1)


def _raw_shares(kinds: NDArray[np.int8], starts: Places) -> Floats:
    """What each row adds to its card's prototype before that gets unit length: `SHARES`, divided among equals."""
    owners = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    slots = owners * len(Kind) + kinds
    counts = np.bincount(slots, minlength=(len(starts) - 1) * len(Kind))
    share = np.array([SHARES.get(kind, 0.0) for kind in Kind], np.float32)
    return np.asarray(share[kinds] / counts[slots], np.float32)


def _ranges(starts: Places, chosen: Places) -> tuple[Places, Places]:
    """The numbers from `starts[i]` to `starts[i + 1]` of all chosen i in a row, and where each begins among them."""
    firsts = starts[chosen]
    sizes = starts[chosen + 1] - firsts
    begins: Places = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
    return np.arange(int(begins[-1]), dtype=np.int64) + np.repeat(firsts - begins[:-1], sizes), begins
