"""The memory items that come into question for a pack, measured once: tokens, words, numbers, who may read them."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from agentmesh.fence import pack_line
from agentmesh.text import NUMBER_WORDS, content_words, words
from agentmesh.tokens import TokenCounter
from agentmesh.types import ContextRequest, MemoryItem, MemoryKind

__all__ = ["Measured", "Measures", "refused", "repeats"]

MEASURES_KEPT = 20_000
"""Items whose measures are remembered, for all tokenizers together; about 2 kB each."""
SAME_TEXT = 0.85
"""Share of words in common from which two items say the same; our choice."""
SAMPLE_REF = "m10"
"""Stands for the reference of an item while it is measured: `m1` to `m999` take the same tokens."""
_NEGATIONS = frozenset({"no", "not", "never", "cannot", "none", "without", "nobody", "nothing"})


class Measured(NamedTuple):
    """What scoring and selection need to know of an item's text."""

    item: MemoryItem
    tokens: int
    """Of its line in a pack, line break included."""
    counts: Counter[str]
    length: int
    """Content words, repetitions counted."""
    marks: frozenset[str]
    """Its numbers, with how often it negates: items that differ here do not say the same."""


class Measures:
    """Measures items and remembers the result as long as an item stays as it is."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], Measured] = {}

    def known(self, items: Sequence[MemoryItem], counter: TokenCounter) -> list[Measured | None]:
        """What is remembered of each item, in order; None where it must be measured."""
        return [self._find(item, counter.name) for item in items]

    def fill(
        self, items: Sequence[MemoryItem], known: Sequence[Measured | None], counter: TokenCounter
    ) -> list[Measured]:
        """`known` with its gaps measured. May run in another thread."""
        return [m or self._measure(item, counter) for item, m in zip(items, known, strict=True)]

    def _find(self, item: MemoryItem, tokenizer: str) -> Measured | None:
        known = self._known.get((tokenizer, item.tenant, item.id))
        if known is None or known.item is item:
            return known
        same = known.item.text == item.text and known.item.source == item.source and known.item.trust == item.trust
        return known._replace(item=item) if same else None

    def _measure(self, item: MemoryItem, counter: TokenCounter) -> Measured:
        line = pack_line(SAMPLE_REF, item.text, source=item.source, trust=item.trust)
        stems = content_words(item.text)
        plain = words(item.text)
        numbers = {w for w in plain if w in NUMBER_WORDS or any(c.isdigit() for c in w)}
        negations = sum(w in _NEGATIONS or w.endswith(("n't", "n’t")) for w in plain)
        measured = Measured(
            item=item,
            tokens=counter.count(line + "\n"),
            counts=Counter(stems),
            length=len(stems),
            marks=frozenset({*numbers, f"not*{negations}"}),
        )
        if len(self._known) >= MEASURES_KEPT:
            self._known.clear()
        self._known[counter.name, item.tenant, item.id] = measured
        return measured


def refused(item: MemoryItem, request: ContextRequest, *, at: float, min_trust: float) -> str | None:
    """Why this agent may not read the item, in words, or None. The store filters as well; this is the second lock.

    An empty text means that the item is not even to be mentioned: it is somebody else's.
    """
    task, card = request.task, request.card
    if item.tenant != task.tenant or (item.user is not None and item.user != task.user):
        return ""
    if item.private_to is not None and item.private_to != card.id:
        return ""
    if item.roles and card.role not in item.roles:
        return ""
    if item.kind in (MemoryKind.DIALOGUE, MemoryKind.ANSWER) and item.thread is not None and item.thread != task.thread:
        return ""
    if item.kind not in request.role.kinds:
        return f"the role {card.role!r} does not read {item.kind.value} items"
    if item.superseded_by is not None:
        return "superseded by a newer version"
    if item.valid_from is not None and at < item.valid_from:
        return "not valid yet"
    if item.valid_until is not None and at >= item.valid_until:
        return "expired"
    if item.trust < min_trust:
        return f"not trusted enough ({item.trust:g} < {min_trust:g})"
    return None


def repeats(one: Measured, other: Measured) -> bool:
    """Whether both say the same: nearly the same words, and the same numbers and negations."""
    a, b = one.counts.keys(), other.counts.keys()
    if one.marks != other.marks or min(len(a), len(b)) < SAME_TEXT * max(len(a), len(b)):
        return False
    union = len(a | b)
    return union == 0 or len(a & b) / union >= SAME_TEXT
