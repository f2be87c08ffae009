"""What a large card index keeps of one card: its texts, their vectors, its words. Bounded for each card.

Short enough that 80,000 cards fit into memory, rich enough that a card with a description alone is found.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from agentmesh.routing.features import CACHED_WORDS, MAX_CHARS, cached_stem, unit_rows
from agentmesh.routing.scorer import Kind
from agentmesh.text import sentences, words
from agentmesh.types import AgentCard

__all__ = ["STAND_IN", "Piece", "card_rows_of", "pieces_of", "stand_in", "vocabulary_of", "word_bag"]

Floats = NDArray[np.float32]
Places = NDArray[np.int64]

MOST_EXAMPLES = 16
"""Examples of one card that are looked at, the first ones. Bounds memory at about 10 KB a card. Our choice."""
MOST_NOT_FOR = 4
"""Pieces of `not_for` of one card that are looked at."""
BODY_CHARS = 400
"""Characters of the instructions that are looked at, cut at the end of a sentence where there is one."""
BODY_WORDS = 0.5
"""How much a word counts that stands in the instructions only."""
MOST_WORDS = 40_000
"""Words of the cards whose vectors are kept; 40 MB."""
WORDY_EXAMPLES = 4
"""Examples of one card whose words are among them."""
STAND_IN = 256
"""Columns of the hashed letters that stand in for dense vectors where there are none."""
RUN = 3
"""Letters of a run that is hashed."""


@dataclass(frozen=True)
class Piece:
    """What the index keeps of one card."""

    bag: Mapping[str, float]
    """Stems of the words on the card, each with its weight."""
    rows: Floats
    """Unit vectors of its texts, shape (r, d)."""
    kinds: tuple[Kind, ...]
    """Of each row."""


def card_rows_of(card: AgentCard) -> list[tuple[str, Kind]]:
    """The texts of a card that are embedded, at most 22."""
    known = {cached_stem(word) for word in words(card.description)}
    titled = card.description
    if any(cached_stem(word) not in known for word in words(card.name)):
        titled = f"{card.name}: {card.description}"
    rows = [(titled, Kind.DESCRIPTION)]
    examples = [text for text in dict.fromkeys(card.examples[: 4 * MOST_EXAMPLES]) if text.strip()]
    rows += [(text, Kind.EXAMPLE) for text in examples[:MOST_EXAMPLES]]
    if body := _beginning(card.instructions):
        rows.append((body, Kind.INSTRUCTION))
    rows += [(text, Kind.NOT_FOR) for text in card.not_for[:MOST_NOT_FOR] if text.strip()]
    return rows


def _beginning(instructions: str) -> str:
    """The first sentences of a card's instructions, at least one unless they are blank."""
    taken = ""
    for sentence in sentences(instructions[: 4 * BODY_CHARS]):
        if taken and len(taken) + len(sentence) > BODY_CHARS:
            break
        taken = f"{taken} {sentence}" if taken else sentence[:BODY_CHARS]
    return taken


def word_bag(rows: Iterable[tuple[str, Kind]]) -> dict[str, float]:
    """Stems of the words of a card, each once with its weight; what the card is not for adds none."""
    bag: dict[str, float] = {}
    for text, kind in rows:
        if kind is not Kind.NOT_FOR:
            weight = BODY_WORDS if kind is Kind.INSTRUCTION else 1.0
            for word in words(text[:MAX_CHARS]):
                stem = cached_stem(word)
                if bag.get(stem, 0.0) < weight:
                    bag[stem] = weight
    return bag


def pieces_of(cards: Iterable[AgentCard], vectors: Floats) -> Iterator[Piece]:
    """Each card's piece; `vectors` are of the texts of `card_rows_of`, card after card, shape (n, d), d may be 0."""
    start = 0
    for card in cards:
        rows = card_rows_of(card)
        own = vectors[start : start + len(rows)]
        start += len(rows)
        own = unit_rows(own) if own.shape[1] else stand_in([text for text, _ in rows])
        yield Piece(word_bag(rows), own, tuple(kind for _, kind in rows))


def vocabulary_of(cards: Sequence[AgentCard]) -> list[str]:
    """The words of cards, those of one stem once, at most `MOST_WORDS`: the most frequent ones."""
    seen: Counter[str] = Counter()
    for card in cards:
        seen.update(words(f"{card.description} {card.name}"[:MAX_CHARS]))
        for text in card.examples[:WORDY_EXAMPLES]:
            seen.update(words(text[:MAX_CHARS]))
    forms: dict[str, str] = {}
    for word, _ in seen.most_common():
        forms.setdefault(cached_stem(word), word)
        if len(forms) == MOST_WORDS:
            break
    return list(forms.values())


def stand_in(texts: Sequence[str]) -> Floats:
    """Unit vectors of the letters of texts, shape (n, STAND_IN), for where no model makes better ones."""
    found = np.zeros((len(texts), STAND_IN), np.float32)
    for row, text in enumerate(texts):
        for word in words(text[:MAX_CHARS]):
            columns, signs = _hashed(word)
            np.add.at(found[row], columns, signs)
    return unit_rows(found)


@lru_cache(maxsize=CACHED_WORDS)
def _hashed(word: str) -> tuple[Places, Floats]:
    """Columns and signs of the runs of letters of a word; the same in every process."""
    padded = f" {word} "
    codes = [crc32(padded[i : i + RUN].encode()) for i in range(len(padded) - RUN + 1)]
    found = np.array(codes, np.int64)
    return found % STAND_IN, np.where(found // STAND_IN % 2, 1.0, -1.0).astype(np.float32)
