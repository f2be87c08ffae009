"""The sentences of a pack that answer a request best, as they stand. Deterministic: no model writes a word of it."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from agentmesh.agents.disagreement import Claim, disagreements, same_claim
from agentmesh.agents.quantities import quantities
from agentmesh.text import asks, content_words, sentences, stem
from agentmesh.types import CitedSentence, ContextPack, PackItem

__all__ = ["best_sentences", "opposed"]

MOST_SENTENCES = 4
"""Excerpts of one reply; a sentence that contradicts one of them comes on top."""
MOST_OPPOSED = 3
"""Sentences added because they contradict a chosen one."""
LONGEST_CHARS = 600
"""Characters of a sentence that is quoted."""
LEAST_COVERAGE = 0.34
"""Share of a question's words, weighted by rarity, that a sentence must have; our choice."""
NEAR_BEST = 0.72
"""Share of the best score that further sentences must reach; our choice."""
KIND_BONUS, HEADING_SHARE, RANK_SHARE = 0.25, 0.15, 0.10
"""Weights, beside the words' own 1.0, of: holding the kind of thing asked for, the words of the source line, the place
of the item in the pack; our choice."""

_ASKING = re.compile(
    r"\?\s*$|^(?:and |but |also,? )?(?:\w+ )?(?:how|what|when|where|which|who|whom|whose|why|can|could|may|must|do|does"
    r"|did|is|are|was|will|would|should)\b|\b(?:want|need|like) to know\b|\btell me\b",
    re.IGNORECASE,
)
_KINDS = (
    (re.compile(r"\b(?:costs?|price|fee|charge|how much (?:is|are|does|do)|compensation|amount|pay)\b", re.I), "money"),
    (
        re.compile(r"\bhow (?:long|soon|often|late|early)\b|\b(?:minutes?|hours?|days?|weeks?|months?|years?)\b", re.I),
        "time",
    ),
    (re.compile(r"\bwhen\b|\b(?:which|what) (?:date|day|time|month)\b", re.I), "when"),
    (
        re.compile(r"\bhow (?:many|much|fast|large|big|far|high)\b|\b(?:number|percent|port|limit|size)\b", re.I),
        "number",
    ),
    (re.compile(r"\bwhere\b", re.I), "where"),
)
_MONEY = ("EUR", "USD", "GBP", "CHF", "cent")
_PLACE = re.compile(r"\b(?:under|in|at|on|then|via|menu|page|app)\b")


class _Candidate(NamedTuple):
    text: str
    item: PackItem
    stems: frozenset[str]
    heading: frozenset[str]
    rank: float
    """1 for the first item of the pack, falling to 0."""


def best_sentences(pack: ContextPack, request: str, *, most: int = MOST_SENTENCES) -> list[CitedSentence]:
    """The 1 to `most` sentences of the pack that answer the request best, or none if nothing in it bears on it.

    Each single question of the request gets its best sentence, in the order of the questions; what room is left goes
    to the next best. A sentence that says the same again is left out; one that contradicts a chosen one is put
    beside it.
    """
    candidates = _candidates(pack)
    questions = [q for q in asks(request) if _ASKING.search(q)] or [request]
    rarity = _rarity(candidates)
    ranked = [_ranked(question, candidates, rarity) for question in questions]
    chosen: list[_Candidate] = []
    for scored in ranked:
        _take(chosen, scored[:1], most)
    rest = sorted((s for scored in ranked for s in _near(scored)), key=lambda s: -s[0])
    _take(chosen, rest, most)
    place = {id(c): n for n, scored in reversed(list(enumerate(ranked))) for _, c in scored[:3]}
    chosen.sort(key=lambda c: place.get(id(c), len(ranked)))
    said = [_cited(c) for c in chosen]
    return _beside(said, opposed(said, pack))


def opposed(said: Sequence[CitedSentence], pack: ContextPack, *, most: int = MOST_OPPOSED) -> list[CitedSentence]:
    """Sentences of the pack that contradict one of those already said, and rest on another item than it."""
    found: list[CitedSentence] = []
    own = [Claim("said", s.text, s.items[0] if s.items else None, quoted=s.origin == "extractive") for s in said]
    for candidate in _candidates(pack):
        cited = _cited(candidate)
        if any(candidate.text == s.text and candidate.item.item_id in s.items for s in said):
            continue
        claim = Claim("pack", candidate.text, candidate.item.item_id, quoted=True)
        if any(claim.item_id != o.item_id and disagreements([o, claim]) for o in own):
            found.append(cited)
    return found[:most]


def _beside(said: list[CitedSentence], against: Sequence[CitedSentence]) -> list[CitedSentence]:
    """Each contradicting sentence right after the one that it contradicts."""
    for sentence in against:
        claim = Claim("pack", sentence.text, sentence.items[0], quoted=True)
        for at, other in enumerate(said):
            if disagreements([Claim("said", other.text, other.items[0] if other.items else None, quoted=True), claim]):
                said.insert(at + 1, sentence)
                break
        else:
            said.append(sentence)
    return said


def _candidates(pack: ContextPack) -> list[_Candidate]:
    count = max(1, len(pack.items))
    best = max((i.score for i in pack.items), default=0.0) or 1.0
    return [
        _Candidate(
            text=text,
            item=item,
            stems=stems,
            heading=frozenset(content_words(item.source)),
            rank=item.score / best if item.score else 1 - place / count,
        )
        for place, item in enumerate(pack.items)
        for text, stems in _quotable(item.text)
    ]


@lru_cache(maxsize=2048)
def _quotable(text: str) -> tuple[tuple[str, frozenset[str]], ...]:
    """The sentences of an item that can stand alone, with their stems; headings and very long ones cannot."""
    found = ((s, frozenset(content_words(s))) for s in sentences(text) if len(s) <= LONGEST_CHARS)
    return tuple((s, stems) for s, stems in found if s[-1:] in ".!?…\"'”’)" or len(stems) > 3)


def _rarity(candidates: Sequence[_Candidate]) -> dict[str, float]:
    """Inverse document frequency of each stem over the sentences of the pack."""
    n = len(candidates)
    having = Counter(word for c in candidates for word in c.stems)
    return {word: math.log(1 + (n - count + 0.5) / (count + 0.5)) for word, count in having.items()}


def _ranked(
    question: str, candidates: Sequence[_Candidate], rarity: dict[str, float]
) -> list[tuple[float, _Candidate]]:
    """The candidates that bear on a question with their scores, best first."""
    asked = set(content_words(question)) - {stem("want"), stem("know"), stem("need"), stem("tell"), stem("please")}
    unknown = max(rarity.values(), default=1.0)
    weights = {word: rarity.get(word, 0.75 * unknown) for word in asked}
    total = sum(weights.values())
    if not total:
        return []
    wanted = next((kind for pattern, kind in _KINDS if pattern.search(question)), "")
    scored: list[tuple[float, _Candidate]] = []
    for c in candidates:
        covered = sum(weights[w] for w in asked & c.stems) / total
        heading = sum(weights[w] for w in (asked & c.heading) - c.stems) / total
        if covered + HEADING_SHARE * heading < LEAST_COVERAGE:
            continue
        bonus = KIND_BONUS if wanted and _holds(c.text, wanted) else 0.0
        scored.append((covered + HEADING_SHARE * heading + bonus + RANK_SHARE * c.rank, c))
    return sorted(scored, key=lambda s: -s[0])


def _holds(text: str, wanted: str) -> bool:
    """Whether a sentence has the kind of thing that is asked for."""
    if wanted == "where":
        return _PLACE.search(text) is not None
    found = [q for q in quantities(text) if q.kind != "name"]
    match wanted:
        case "money":
            return any(q.dimension.startswith(_MONEY) for q in found)
        case "time":
            return any(q.dimension in ("time", "clock", "date", "weekday") for q in found)
        case "when":
            return any(q.dimension in ("time", "clock", "date", "weekday") for q in found)
        case _:
            return bool(found)


def _near(scored: Sequence[tuple[float, _Candidate]]) -> list[tuple[float, _Candidate]]:
    """Those close to the best of their question."""
    return [s for s in scored if s[0] >= NEAR_BEST * scored[0][0]]


def _take(chosen: list[_Candidate], scored: Sequence[tuple[float, _Candidate]], most: int) -> None:
    """Add what is not said yet, as long as there is room."""
    for _, candidate in scored:
        if len(chosen) < most and not any(same_claim(candidate.text, c.text) for c in chosen):
            chosen.append(candidate)


def _cited(candidate: _Candidate) -> CitedSentence:
    item = candidate.item
    return CitedSentence(
        text=candidate.text, items=(item.item_id,), source=item.source, origin="extractive", trust=item.trust
    )
