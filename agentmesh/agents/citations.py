"""Which memory items the sentences of a reply rest on: by the marks that a model wrote, or by the words they share."""

import re
from collections.abc import Sequence
from typing import Literal

from agentmesh.agents.quantities import quantities
from agentmesh.text import content_words, sentences
from agentmesh.types import CitedSentence, ContextPack, PackItem

__all__ = ["attributed", "cited_sentences", "without_marks"]

SHARED_WORDS = 0.6
"""Share of a sentence's content words that an item must have for the sentence to count as taken from it; our choice."""
LEAST_SHARED = 3
"""And at least so many of them; our choice."""

_REF = r"(?:m\d+)"
_LIST = rf"{_REF}(?:\s*(?:,|;|&|and)?\s*{_REF})*"
_BARE = r"\d{1,2}(?:\s*,\s*\d{1,2})*"
_MARK = re.compile(rf"\[\s*{_LIST}\s*\]|\(\s*{_LIST}\s*\)|(?<=[\s.!?\]])\[\s*{_BARE}\s*\]", re.IGNORECASE)
_AFTER_END = re.compile(rf"([.!?])[ \t]*((?:(?:{_MARK.pattern})[ \t]*)+)(?=\s|$)", re.IGNORECASE)
_SPACE_BEFORE_END = re.compile(r"[ \t]+([.,;:!?])")


def cited_sentences(text: str, pack: ContextPack) -> list[CitedSentence]:
    """The sentences of a model's reply without their marks, each with the items that its marks name.

    Marks after a full stop belong to the sentence before it; a mark that names nothing in the pack is dropped. A reply
    without a single usable mark is attributed by its words instead.
    """
    by_ref = {item.ref.lower(): item for item in pack.items}
    found: list[CitedSentence] = []
    for sentence in sentences(_AFTER_END.sub(r" \2\1 ", text)):
        refs = [ref for mark in _MARK.findall(sentence) for ref in re.findall(r"\d+", mark)]
        items = list(dict.fromkeys(by_ref[f"m{ref}"] for ref in refs if f"m{ref}" in by_ref)) if refs else []
        clean = without_marks(sentence)
        if any(c.isalnum() for c in clean):
            found.append(_sentence(clean, items))
    if any(s.items for s in found):
        return found
    return [_sentence(s.text, attributed(s.text, pack.items)) for s in found]


def without_marks(text: str) -> str:
    """`text` without its reference marks."""
    return _SPACE_BEFORE_END.sub(r"\1", re.sub(r"[ \t]{2,}", " ", _MARK.sub("", text))).strip()


def attributed(sentence: str, items: Sequence[PackItem]) -> list[PackItem]:
    """The item that a sentence was plainly taken from, at most one: it has most of its words and all of its numbers."""
    words = set(content_words(sentence))
    numbers = {q.text.lower() for q in quantities(sentence)}
    best: tuple[float, PackItem] | None = None
    for item in items:
        shared = words & set(content_words(item.text))
        folded = item.text.lower()
        share = len(shared) / len(words) if words else 0.0
        if share < SHARED_WORDS or len(shared) < LEAST_SHARED or any(n not in folded for n in numbers):
            continue
        if best is None or share > best[0]:
            best = (share, item)
    return [best[1]] if best else []


def _sentence(text: str, items: Sequence[PackItem], origin: Literal["model", "tool"] = "model") -> CitedSentence:
    return CitedSentence(
        text=text,
        items=tuple(i.item_id for i in items),
        source=items[0].source if items else "",
        origin=origin,
        trust=min((i.trust for i in items), default=1.0),
    )
