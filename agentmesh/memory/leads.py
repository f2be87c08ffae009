"""What sentences found earlier lead to: the names to look up next. Deterministic, no model, any script with capitals.

A question such as "At which yard was the ship built that carried the Kestrel Survey?" names the voyage, not the ship.
Once "The Kestrel Survey was carried by the barque Morrow Lark." is known, the ship's name is a lead: the next page is
found by it, though no name on that page stands in the question. Numbers are not leads: they are what is asked for,
seldom what leads on.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from agentmesh.text import STOP_WORDS, content_words, fold

__all__ = ["Lead", "leads", "names"]

MOST_STEPS = 5
"""Known sentences that one chain may hold; our choice."""
LEAST_ANCHOR = 0.34
"""Share of the question's words that the first sentence of a chain must have where the question names nothing; our
choice."""

_PIECE = r"[^\W\d_a-z][^\W_]*(?:['’-][^\W_]+)*"
_NAME = re.compile(rf"{_PIECE}(?:(?:\s+(?:of|of the)\s+|\s+){_PIECE})*")
_CALENDAR = frozenset(
    """january february march april may june july august september october november december monday tuesday wednesday
    thursday friday saturday sunday""".split()  # noqa: SIM905
)
"""Capitalised words that name no thing to look up."""
_LITTLE = STOP_WORDS | _CALENDAR
_BEFORE = re.compile(r"(?:^|[.!?:]\s+|[\"“(])\s*$")


class Lead(NamedTuple):
    """A name that the question does not hold, and how the known sentences lead to it."""

    name: str
    """As it stands."""
    stems: frozenset[str]
    """Of its words."""
    share: float
    """Of the question's words that the chain up to it holds, 0..1."""
    covered: frozenset[str]
    """Those words, as stems."""
    chain: tuple[int, ...]
    """Places in the known sentences, first step first; the last one holds the name."""


def names(text: str) -> list[str]:
    """Runs of capitalised words, also over `of`, in order, each once; a single one that begins a sentence is none.

    Articles and other stop words, months and days of the week at either end are taken off.
    """
    return list(_names(text))


def leads(question: str, known: Sequence[str]) -> list[Lead]:
    """The names that `known` leads to from the question, best chain first, of equal ones the shorter.

    A chain begins with a sentence that holds a name of the question (or, if that names nothing, enough of its words)
    and goes on over other sentences that share a new name; the more of the question's words they hold together, the
    better.

    Args:
        question: What is asked, as a whole.
        known: Sentences found so far, oldest first.
    """
    asked = frozenset(content_words(question))
    if not asked or not known:
        return []
    said = [_Said(frozenset(content_words(text)), _named(text)) for text in known]
    own = [stems for _, stems in _named(question)]
    chains = _chains(asked, said, own)
    found: dict[frozenset[str], Lead] = {}
    for chain, covered in chains:
        share = len(covered) / len(asked)
        for name, stems in said[chain[-1]].named:
            fresh = not stems <= asked and not any(stems <= said[place].stems for place in chain[:-1])
            if fresh and (stems not in found or found[stems].share < share):
                found[stems] = Lead(name, stems, share, covered, chain)
    return sorted(found.values(), key=lambda lead: (-lead.share, len(lead.chain)))


class _Said(NamedTuple):
    stems: frozenset[str]
    named: tuple[tuple[str, frozenset[str]], ...]


def _chains(
    asked: frozenset[str], said: Sequence[_Said], own: Sequence[frozenset[str]]
) -> list[tuple[tuple[int, ...], frozenset[str]]]:
    """For each known sentence that some chain ends in, the chain that holds most of the question, with these words."""
    best: dict[int, tuple[tuple[int, ...], frozenset[str]]] = {}
    for place, one in enumerate(said):
        held = asked & one.stems
        if any(stems <= one.stems for stems in own) or (not own and len(held) >= LEAST_ANCHOR * len(asked)):
            best[place] = ((place,), held)
    starts = frozenset(best)
    for _ in range(MOST_STEPS - 1):
        for chain, covered in list(best.values()):
            fresh = [stems for _, stems in said[chain[-1]].named if not stems <= asked]
            for place, one in enumerate(said):
                held = covered | (asked & one.stems)
                linked = place not in starts and place not in chain and any(stems <= one.stems for stems in fresh)
                if linked and (place not in best or len(best[place][1]) < len(held)):
                    best[place] = ((*chain, place), held)
    return list(best.values())


@lru_cache(maxsize=2048)
def _names(text: str) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for match in _NAME.finditer(text):
        pieces = match.group().split()
        begins = _BEFORE.search(text, 0, match.start()) is not None
        while pieces and fold(pieces[0]) in _LITTLE:
            del pieces[0]
            begins = False
        while pieces and fold(pieces[-1]) in _LITTLE:
            del pieces[-1]
        if pieces and not (begins and len(pieces) == 1 and not pieces[0].isupper()):
            found[" ".join(pieces)] = None
    return tuple(found)


@lru_cache(maxsize=2048)
def _named(text: str) -> tuple[tuple[str, frozenset[str]], ...]:
    """The names of a text with their stems."""
    pairs = ((name, frozenset(content_words(name))) for name in names(text))
    return tuple((name, stems) for name, stems in pairs if stems)
