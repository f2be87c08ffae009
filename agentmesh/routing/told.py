"""How well the description of each agent answers a text, for cards that have few examples or none.

Whole texts are compared, then the clauses of the description, then word with word: a user says "bank card", a
description "debit", and static vectors know that the two are near. Numbers only; decides nothing.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from agentmesh.routing.features import GramIndex, character_grams
from agentmesh.text import STOP_WORDS, words
from agentmesh.types import AgentCard

__all__ = ["Told", "telling_words"]

Floats = NDArray[np.float32]

CLAUSE_SHARE, WORDS_SHARE, FOUND_SHARE, LETTERS_SHARE = 0.6, 0.25, 0.3, 0.3
"""Weights of the clauses, of the text's words, of the description's words and of the n-grams of letters, that of the
whole texts being 1. Our choice, near the middle of what is good on the descriptions of clinc150, hwu64 and banking77:
.77, .73 and .73 of the first choices are right, where whole texts alone give .70, .67 and .71."""
SHARPNESS = 8.0
"""How much the nearest clause counts before the others, in the mean of exponentials."""
FOUND_WORDS = 3
"""Words of a description that are looked for in a text: the nearest ones."""
DESCRIBED_WORDS = 64
"""Words of a description that are compared."""
REMEMBERED_WORDS = 4_000
"""Words whose nearness to all descriptions is remembered."""

_CLAUSE = re.compile(r"[.;:,()]\s+|\s[-–—]\s|\.$|\sand\s|\sor\s")


def telling_words(text: str) -> list[str]:
    """The words of a text that say something, each once; all of them where none does."""
    said = list(dict.fromkeys(words(text)))
    return [w for w in said if w not in STOP_WORDS] or said


class Told:
    """The descriptions of a set of cards, ready to be compared with texts.

    Args:
        cards: The agents.
        vectors: Unit vectors of `Told.texts(cards)`, shape (n, d), d > 0.
    """

    def __init__(self, cards: Sequence[AgentCard], vectors: Floats) -> None:
        clauses, vocabulary = _clauses(cards), _vocabulary(cards)
        sizes = [len(own) for own in clauses]
        whole, rest = vectors[: len(cards)], vectors[len(cards) :]
        self._whole = whole
        self._clauses = rest[: sum(sizes)]
        self._starts = np.cumsum([0, *sizes[:-1]])
        self._sizes = np.array(sizes, np.float32)
        self._letters = GramIndex(character_grams, [_whole(card) for card in cards])
        place = {word: i for i, word in enumerate(vocabulary)}
        self._words = rest[sum(sizes) :]
        own = [[place[w] for w in _described(card)] for card in cards]
        self._own = np.array([i for listed in own for i in listed], np.int64)
        self._own_starts = np.cumsum([0, *(len(listed) for listed in own[:-1])])
        longest = max(len(listed) for listed in own)
        # Each agent's words in a row of their own; the places that are left over point to one that says -1.
        self._table = np.full((len(cards), max(longest, FOUND_WORDS)), len(vocabulary), np.int64)
        for row, listed in enumerate(own):
            self._table[row, : len(listed)] = listed
        self._counts = np.minimum(FOUND_WORDS, [len(listed) for listed in own]).astype(np.float32)
        self._remembered: dict[str, tuple[Floats, Floats]] = {}

    @staticmethod
    def texts(cards: Sequence[AgentCard]) -> list[str]:
        """What must be embedded: whole descriptions, their clauses, their words."""
        return [*map(_whole, cards), *(c for own in _clauses(cards) for c in own), *_vocabulary(cards)]

    def nearness(self, texts: Sequence[str], vectors: Floats, known: Mapping[str, Floats]) -> Floats:
        """How well each description answers each text, shape (m, c), centred over the agents.

        Args:
            texts: m texts.
            vectors: Their unit vectors, shape (m, d).
            known: Unit vectors of their words; words without one are passed over.
        """
        total = vectors @ self._whole.T
        powers = np.exp(SHARPNESS * (vectors @ self._clauses.T))
        means = np.add.reduceat(powers, self._starts, axis=1) / self._sizes
        total += CLAUSE_SHARE / SHARPNESS * np.log(means)
        total += LETTERS_SHARE * self._letters.near(texts)
        for row, text in enumerate(texts):
            seen = [self._of_word(word, known[word]) for word in telling_words(text) if word in known]
            if seen:
                best = np.stack([of_agents for of_agents, _ in seen])
                best -= best.mean(axis=1, keepdims=True)
                total[row] += WORDS_SHARE * best.sum(axis=0) / np.sqrt(len(seen))
                total[row] += FOUND_SHARE * self._found(np.stack([of_words for _, of_words in seen]).max(axis=0))
        return np.asarray(total - total.mean(axis=1, keepdims=True), np.float32)

    def _of_word(self, word: str, vector: Floats) -> tuple[Floats, Floats]:
        """How near a word is to the nearest word of each agent, and to each word of the vocabulary."""
        if (found := self._remembered.get(word)) is None:
            if len(self._remembered) >= REMEMBERED_WORDS:
                self._remembered.clear()
            near = self._words @ vector
            found = np.maximum.reduceat(near[self._own], self._own_starts), near
            self._remembered[word] = found
        return found

    def _found(self, near: Floats) -> Floats:
        """Mean nearness of those words of each description that the text comes nearest to."""
        table = np.append(near, np.float32(-1.0))[self._table]
        best = np.partition(table, -FOUND_WORDS, axis=1)[:, -FOUND_WORDS:]
        return np.where(best > -1.0, best, 0.0).sum(axis=1) / self._counts


def _title(card: AgentCard) -> str:
    """A card's name without the word that all of them share."""
    return re.sub(r"\s+agent$", "", card.title.replace("_", " ").replace("-", " "), flags=re.IGNORECASE)


def _whole(card: AgentCard) -> str:
    return f"{_title(card)}. {card.description}"


def _clauses(cards: Sequence[AgentCard]) -> list[list[str]]:
    """The clauses of each description, then its name; at least one."""
    return [
        [*(c.strip() for c in _CLAUSE.split(card.description) if len(c.strip()) > 2), _title(card)] for card in cards
    ]


def _described(card: AgentCard) -> list[str]:
    return telling_words(_whole(card))[:DESCRIBED_WORDS] or [card.id]


def _vocabulary(cards: Sequence[AgentCard]) -> list[str]:
    return list(dict.fromkeys(word for card in cards for word in _described(card)))
