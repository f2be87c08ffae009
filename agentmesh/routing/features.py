"""Texts as numbers: word and character n-grams (TF-IDF) beside dense vectors, and one similarity over all three.

Plain arrays, so that one short text costs a fraction of a millisecond; scikit-learn's vectorizers compute the same kind
of weights but take about 1 ms a call. The same weights hashed into a few hundred columns are what a linear head learns
from. Knows nothing of agents.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, cast

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from agentmesh.text import stem, words

__all__ = [
    "FEW_TEXTS",
    "Asked",
    "Coded",
    "GramIndex",
    "TextSpace",
    "around",
    "character_grams",
    "character_runs",
    "skip_grams",
    "unit_rows",
    "word_grams",
]

SparseRows = Any
"""A `scipy.sparse.csr_matrix`, for which scipy ships no types."""
Floats = NDArray[np.float32]
Places = NDArray[np.int64]
Code = tuple[Places, NDArray[np.float64]]
"""Places and weights of the n-grams of one text; one that comes back is there several times."""

MAX_CHARS = 4000
"""Characters of a text that are looked at; what follows is not."""
CHARACTER_LENGTHS = (3, 4, 5)
"""Letters of a character n-gram, word borders included."""
CACHED_WORDS = 20_000
"""Words whose n-grams are remembered."""
FEW_TEXTS = 24
"""Up to this many texts are compared one by one, more of them by one product of sparse matrices."""
WORD_SHARE, CHARACTER_SHARE, DENSE_SHARE = 0.25, 0.25, 0.5
"""Shares of the three similarities. Our choice: the best of nine mixtures on the public rows of clinc150, hwu64 and
banking77 with 5, 18 and 100 examples an agent."""


def word_grams(text: str) -> list[tuple[str, ...]]:
    """Stems of the words, then pairs of neighbours; stop words stay, for they tell questions apart."""
    stems = [cached_stem(w) for w in words(text)]
    return [(*stems, *(f"{a} {b}" for a, b in pairwise(stems)))]


def skip_grams(text: str) -> list[tuple[str, ...]]:
    """Stems of the words, pairs of neighbours, and pairs with one word left out between them."""
    stems = [cached_stem(w) for w in words(text)]
    pairs = (f"{a} {b}" for a, b in pairwise(stems))
    skips = (f"{a} _ {b}" for a, b in zip(stems, stems[2:], strict=False))
    return [(*stems, *pairs, *skips)]


def character_grams(text: str) -> list[tuple[str, ...]]:
    """Runs of 3 to 5 letters of each word, word borders as blanks."""
    return [_grams_of_word(word) for word in words(text)]


def character_runs(text: str) -> list[tuple[str, ...]]:
    """Runs of 2 to 5 letters of each word, word borders as blanks."""
    return [_runs_of_word(word) for word in words(text)]


cached_stem = lru_cache(maxsize=CACHED_WORDS)(stem)
"""`stem`, remembered: the same words come back."""


@lru_cache(maxsize=CACHED_WORDS)
def _grams_of_word(word: str) -> tuple[str, ...]:
    return _runs(word, CHARACTER_LENGTHS[0])


@lru_cache(maxsize=CACHED_WORDS)
def _runs_of_word(word: str) -> tuple[str, ...]:
    return _runs(word, CHARACTER_LENGTHS[0] - 1)


def _runs(word: str, shortest: int) -> tuple[str, ...]:
    padded = f" {word} "
    longest = min(CHARACTER_LENGTHS[-1], len(padded))
    return tuple(padded[i : i + n] for n in range(shortest, longest + 1) for i in range(len(padded) - n + 1))


def unit_rows(rows: Floats) -> Floats:
    """Rows of unit length; one that is next to nothing becomes 0."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 1e-6)


def around(vectors: Floats, center: Floats) -> Floats:
    """Unit vectors as seen from `center`; a text without a vector stays without one."""
    moved = unit_rows(vectors - center)
    moved[~np.any(vectors, axis=1)] = 0.0
    return moved


class GramIndex:
    """TF-IDF weights of n-grams over n texts: tf (1 + ln((1 + n) / (1 + df))), rows of unit length.

    Args:
        grams: The n-grams of a text in groups that come back in other texts, such as those of one word.
        texts: The rows.
        columns: How many columns `hashed` has.
        seed: Which column an n-gram gets.
        keep_rows: Whether texts will be compared with the rows.

    Source: the weights of scikit-learn's `TfidfVectorizer`, worked out here by hand.
    """

    def __init__(
        self,
        grams: Callable[[str], list[tuple[str, ...]]],
        texts: Sequence[str],
        *,
        columns: int = 0,
        seed: int = 0,
        keep_rows: bool = True,
    ) -> None:
        self._grams = grams
        self._columns = columns
        # not a set: its order, and with it the column of each n-gram, would change from process to process
        own = (dict.fromkeys(g for group in grams(text[:MAX_CHARS]) for g in group) for text in texts)
        seen = Counter(gram for text_grams in own for gram in text_grams)
        self._places = {gram: place for place, gram in enumerate(seen)}
        self._rarity = 1.0 + np.log((1 + len(texts)) / (1 + np.fromiter(seen.values(), np.float64, len(seen))))
        self._unseen = 1.0 + math.log(1 + len(texts))
        rng = np.random.default_rng(seed)
        self._column = rng.integers(0, max(1, columns), len(seen))
        self._sign = rng.choice(np.array([-1.0, 1.0]), len(seen))
        self._groups: dict[tuple[str, ...], tuple[Places, int]] = {}
        if keep_rows:
            self.rows: SparseRows = self._rows([self._places_of(text) for text in texts])
            self._turn()

    def only(self, places: Places) -> "GramIndex":
        """The same index with some of its rows."""
        fewer = copy(self)
        fewer.rows = self.rows[places]
        fewer._turn()
        return fewer

    def _turn(self) -> None:
        """Keep, for each n-gram, the rows that hold it."""
        self.columns: SparseRows = self.rows.T.tocsr()
        self._starts = cast(Places, self.columns.indptr.astype(np.int64))
        self._rows_of = cast(Places, self.columns.indices.astype(np.int64))
        self._values = cast(Floats, self.columns.data)

    def near(self, texts: Sequence[str]) -> Floats:
        """Cosine of each text to each row, shape (m, n).

        An n-gram that no row has counts towards the length, so a strange text is near to nothing.
        """
        return self.near_codes(self.codes(texts))

    def codes(self, texts: Sequence[str]) -> list[Code]:
        """Texts as places and weights of their n-grams, together of unit length."""
        return [self._code(text) for text in texts]

    def near_codes(self, codes: Sequence[Code]) -> Floats:
        """Cosine of each coded text to each row, shape (m, n)."""
        if len(codes) > FEW_TEXTS:
            return np.asarray((self._matrix(codes) @ self.columns).toarray(), dtype=np.float32)
        near = np.zeros((len(codes), self.rows.shape[0]), np.float32)
        for row, (places, weights) in enumerate(codes):
            self._near_one(places, weights, near[row])
        return near

    def _near_one(self, places: Places, weights: NDArray[np.float64], near: Floats) -> None:
        """The product of one coded text with the rows: what scipy computes, without its 0.1 ms of checks."""
        starts = self._starts[places]
        counts = self._starts[places + 1] - starts
        ends = np.cumsum(counts)
        if len(ends) and ends[-1]:
            flat: Places = np.arange(int(ends[-1])) + np.repeat(starts - (ends - counts), counts)
            shares = self._values[flat] * np.repeat(weights, counts)
            near[:] = np.bincount(self._rows_of[flat], shares, len(near))

    def hashed(self, codes: Sequence[Code]) -> Floats:
        """Coded texts in few columns, shape (m, columns): each n-gram is added to, or taken from, one of them.

        Source: Weinberger et al. (2009), feature hashing; inner products stay what they are on average.
        """
        rows = np.zeros((len(codes), self._columns), np.float32)
        for row, (places, weights) in enumerate(codes):
            rows[row] = np.bincount(self._column[places], weights * self._sign[places], self._columns)
        return rows

    def _code(self, text: str) -> Code:
        coded = self._groups_of(text)
        if not coded:
            return np.zeros(0, np.int64), np.zeros(0)
        places = np.concatenate([found for found, _ in coded])
        weights = self._rarity[places]
        own, times = np.unique(places, return_counts=True)
        length = float(((self._rarity[own] * times) ** 2).sum())
        strange = sum(missing for _, missing in coded) * self._unseen**2
        return places, weights / math.sqrt(length + strange or 1.0)

    def _places_of(self, text: str) -> Places:
        """Places of the n-grams of one text."""
        coded = self._groups_of(text)
        return np.concatenate([found for found, _ in coded]) if coded else np.zeros(0, np.int64)

    def _groups_of(self, text: str) -> list[tuple[Places, int]]:
        """Places of the n-grams of one text and how many no row has, group by group."""
        groups = self._grams(text[:MAX_CHARS])
        if len(groups) == 1:
            return [self._look_up(groups[0])]
        return [self._groups.get(group) or self._remember(group) for group in groups]

    def _remember(self, group: tuple[str, ...]) -> tuple[Places, int]:
        """Look up a group that is likely to come back."""
        if len(self._groups) >= CACHED_WORDS:
            self._groups.clear()
        self._groups[group] = coded = self._look_up(group)
        return coded

    def _look_up(self, group: tuple[str, ...]) -> tuple[Places, int]:
        """Places of the n-grams of a group, and how many of them no row has."""
        found = [place for gram in group if (place := self._places.get(gram)) is not None]
        return np.array(found, np.int64), len(group) - len(found)

    def _rows(self, places: Sequence[Places]) -> SparseRows:
        """What `_code` gives for each text, all at once: every n-gram is known here."""
        matrix = self._matrix([(found, np.ones(len(found))) for found in places])
        matrix.data *= self._rarity.astype(np.float32)[matrix.indices]
        lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
        matrix.data /= np.repeat(np.maximum(lengths, 1e-12), np.diff(matrix.indptr)).astype(np.float32)
        return matrix

    def _matrix(self, codes: Sequence[Code]) -> SparseRows:
        starts = np.cumsum([0, *(len(places) for places, _ in codes)])
        places = np.concatenate([places for places, _ in codes]) if codes else np.zeros(0, np.int64)
        weights = np.concatenate([weights for _, weights in codes]) if codes else np.zeros(0)
        shape = (len(codes), len(self._places))
        matrix: SparseRows = cast(Any, sparse).csr_matrix((weights.astype(np.float32), places, starts), shape=shape)
        matrix.sum_duplicates()
        return matrix


@dataclass(frozen=True)
class Coded:
    """Texts as a `TextSpace` sees them."""

    words: SparseRows
    characters: SparseRows
    dense: Floats


@dataclass(frozen=True)
class Asked:
    """New texts as a `TextSpace` sees them."""

    words: list[Code]
    characters: list[Code]
    dense: Floats


class TextSpace:
    """Similarity between texts: a weighted sum of three cosines, 1 for equal texts.

    Args:
        texts: The texts that others are compared with, n of them.
        vectors: Their dense vectors, shape (n, d); d may be 0, then the lexical shares fill the place.
    """

    def __init__(self, texts: Sequence[str], vectors: Floats) -> None:
        self._words = GramIndex(word_grams, texts)
        self._characters = GramIndex(character_grams, texts)
        self.center = vectors.mean(axis=0) if len(texts) else np.zeros(vectors.shape[1], np.float32)
        self.has_dense = vectors.shape[1] > 0
        lexical = WORD_SHARE + CHARACTER_SHARE
        scale = 1.0 if self.has_dense else 1.0 / lexical
        self._shares = (WORD_SHARE * scale, CHARACTER_SHARE * scale, DENSE_SHARE if self.has_dense else 0.0)
        self.rows = Coded(self._words.rows, self._characters.rows, self._centered(vectors))

    def __len__(self) -> int:
        return self.rows.dense.shape[0]

    def similarity(self, texts: Sequence[str], vectors: Floats) -> Floats:
        """How near each text is to each row, shape (m, n)."""
        return self.nearness(self.asked(texts, vectors))

    def asked(self, texts: Sequence[str], vectors: Floats) -> Asked:
        """Look up new texts once, for all that is asked about them."""
        return Asked(self._words.codes(texts), self._characters.codes(texts), self._centered(vectors))

    def nearness(self, asked: Asked) -> Floats:
        """How near each text is to each row, shape (m, n)."""
        return self._mix(
            self._words.near_codes(asked.words), self._characters.near_codes(asked.characters), asked.dense
        )

    def similarity_of_rows(self, places: NDArray[np.int64] | None = None) -> Floats:
        """How near some rows (all, without `places`) are to each row, shape (m, n)."""
        some = self.rows if places is None else self.encoded(places)
        by_words: Floats = (some.words @ self._words.columns).toarray()
        by_characters: Floats = (some.characters @ self._characters.columns).toarray()
        return self._mix(by_words, by_characters, some.dense)

    def _mix(self, by_words: Floats, by_characters: Floats, dense: Floats) -> Floats:
        of_words, of_characters, of_dense = self._shares
        total = of_words * by_words + of_characters * by_characters
        if of_dense:
            total += of_dense * (dense @ self.rows.dense.T)
        return np.asarray(total, dtype=np.float32)

    def encoded(self, places: NDArray[np.int64]) -> Coded:
        """Some of the rows."""
        return Coded(self.rows.words[places], self.rows.characters[places], self.rows.dense[places])

    def gram_product(self, places: NDArray[np.int64]) -> Callable[[Floats], Floats]:
        """The product of the matrix of similarities among some rows with others, without making that matrix."""
        of_words, of_characters, of_dense = self._shares
        kept = self.encoded(places)
        words_t: SparseRows = kept.words.T.tocsr()
        characters_t: SparseRows = kept.characters.T.tocsr()

        def product(columns: Floats) -> Floats:
            total: NDArray[Any] = of_words * (kept.words @ (words_t @ columns))
            total += of_characters * (kept.characters @ (characters_t @ columns))
            total += of_dense * (kept.dense @ (kept.dense.T @ columns))
            return np.asarray(total, np.float32)

        return product

    def without(self, dropped: Places) -> "TextSpace":
        """The same space with some rows fewer; how rare an n-gram is stays as it was."""
        kept = np.setdiff1d(np.arange(len(self)), dropped)
        fewer = copy(self)
        fewer._words, fewer._characters = self._words.only(kept), self._characters.only(kept)
        fewer.rows = Coded(fewer._words.rows, fewer._characters.rows, self.rows.dense[kept])
        return fewer

    def _centered(self, vectors: Floats) -> Floats:
        """Unit vectors around the center of the rows: what all texts share tells nothing apart."""
        if not self.has_dense:
            return np.zeros((vectors.shape[0], 0), np.float32)
        return around(vectors, self.center)
