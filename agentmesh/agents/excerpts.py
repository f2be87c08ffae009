"""The sentences of a pack that answer a request best, as they stand. Deterministic: no model writes a word of it."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from agentmesh.agents.disagreement import Claim, disagreements, same_claim
from agentmesh.agents.quantities import quantities
from agentmesh.memory.leads import Lead, leads, names
from agentmesh.text import asks, content_words, fold, sentences, stem
from agentmesh.types import CitedSentence, ContextPack, MemoryKind, PackItem

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
LEAD_SHARE = 0.30
"""Beside them, of being about a name that the known sentences lead to, by what they hold of it; our choice."""
NEAR_BEST_LED = 0.9
"""Share of the best score that further sentences must reach where that is about a lead; our choice."""
LEAST_FIRST = 2
"""Words of the question that such a sentence has at least; our choice."""
MOST_FIRST = 3
"""Sentences about one name of the question where no chosen one speaks of it; our choice."""
MOST_OF_CHAIN = 3
"""Known sentences repeated before what they lead to, beside the `most` others."""

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
        re.compile(
            r"\bhow (?:many|much|fast|large|big|far|high|deep|heavy)\b|\b(?:number|percent|port|limit|size|depth|height"
            r"|length|weight)\b|\bweigh(?:s|ed)?\b|\b(?:long|high|deep|heavi|larg|small|short|fast)er\b",
            re.I,
        ),
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
    lead: Lead | None = None
    """What leads to it, where that made it one of the best."""


def best_sentences(
    pack: ContextPack, request: str, *, most: int = MOST_SENTENCES, known: Sequence[str] = (), task: str = ""
) -> list[CitedSentence]:
    """The 1 to `most` sentences of the pack that answer the request best, or none if nothing in it bears on it.

    Each single question of the request gets its best sentence, in the order of the questions; what room is left goes
    to the next best. A sentence that says the same again is left out; one that contradicts a chosen one is put
    beside it.

    Where sentences are known already, one about a name that they lead to counts with what they hold of the question:
    it is the next step. The steps before it stand before it, as far as the pack has them.

    Args:
        pack: Where sentences are taken from.
        request: What is asked of the agent.
        most: Sentences chosen, >= 1; steps before them and contradictions come on top.
        known: Sentences that earlier stages and rounds of the run found, oldest first.
        task: The whole question, where the request is a part of it.
    """
    candidates = _candidates(pack)
    questions = [q for q in asks(request) if _ASKING.search(q)] or [request]
    rarity = _rarity(candidates)
    found = leads(task or request, known)
    own = [frozenset(content_words(name)) for name in names(task or request)] if found else []
    ranked = [_ranked(question, candidates, rarity, found, own) for question in questions]
    chosen: list[_Candidate] = []
    for scored in ranked:
        _take(chosen, scored[:1], most)
    rest = sorted((s for scored in ranked for s in _near(scored)), key=lambda s: -s[0])
    _take(chosen, rest, most)
    place = {id(c): n for n, scored in reversed(list(enumerate(ranked))) for _, c in scored[:3]}
    chosen.sort(key=lambda c: place.get(id(c), len(ranked)))
    steps = _with_steps(chosen, candidates, known)
    first = [] if found else _first_steps(task or request, steps, candidates)
    said = [_cited(c) for c in [*first, *steps]]
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
        if not (item.kind is MemoryKind.ANSWER and item.source == f"answer of {pack.agent}")  # no evidence for itself
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


def _with_steps(
    chosen: Sequence[_Candidate], candidates: Sequence[_Candidate], known: Sequence[str]
) -> list[_Candidate]:
    """The chosen, each after the known sentences that lead to it, as far as the pack has them."""
    by_text = {fold(c.text): c for c in reversed(candidates)}
    ordered: list[_Candidate] = []
    for c in chosen:
        steps = [by_text.get(fold(known[place])) for place in c.lead.chain[-MOST_OF_CHAIN:]] if c.lead else []
        for one in (*steps, c):
            if one is not None and not any(same_claim(one.text, other.text) for other in ordered):
                ordered.append(one)
    return ordered


def _ranked(
    question: str,
    candidates: Sequence[_Candidate],
    rarity: dict[str, float],
    found: Sequence[Lead] = (),
    own: Sequence[frozenset[str]] = (),
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
        bonus = KIND_BONUS if wanted and _holds(c.text, wanted) else 0.0
        if found and not any(name <= c.stems for name in own):  # what speaks of the thing named is no step beyond it
            led, lead = _led(c, found, asked, weights)
            if lead is not None:
                score = led / total + bonus + RANK_SHARE * c.rank + LEAD_SHARE * lead.share / found[0].share
                scored.append((score, c._replace(lead=lead)))
                continue
        if covered + HEADING_SHARE * heading < LEAST_COVERAGE:
            continue
        scored.append((covered + HEADING_SHARE * heading + bonus + RANK_SHARE * c.rank, c))
    return sorted(scored, key=lambda s: -s[0])


def _first_steps(question: str, chosen: Sequence[_Candidate], candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """What is said of something that the question names, where the chosen sentences speak of other things: it may lead
    on.

    They do if there are none, or if they hold no name of the question but one that is not in it. Only names of several
    words tell things apart, so those of a single word count only if nothing was chosen.
    """
    asked = frozenset(content_words(question))
    named = [frozenset(content_words(name)) for name in names(question) if " " in name or not chosen]
    if any(name <= c.stems for name in named for c in chosen):
        return []
    others = [name for c in chosen for name in names(c.text) if " " in name]
    if chosen and all(asked >= set(content_words(name)) for name in others):
        return []
    steps: list[_Candidate] = []
    for name in named:
        about = [c for c in candidates if name <= c.stems and len(asked & c.stems) >= LEAST_FIRST and c not in steps]
        about.sort(key=lambda c: -len(asked & c.stems) - RANK_SHARE * c.rank)
        steps += about[: min(MOST_FIRST, max(1, MOST_SENTENCES // len(named)))]
    return steps[:MOST_SENTENCES]


def _led(c: _Candidate, found: Sequence[Lead], asked: set[str], weights: dict[str, float]) -> tuple[float, Lead | None]:
    """The best chain that ends in this sentence: the weight of what it holds of the question, and the lead.

    The sentence must be about the name, in its own words or under its heading, and hold something of the question that
    the chain before it does not.
    """
    best, through = 0.0, None
    for lead in found:
        new = (asked & c.stems) - lead.covered - lead.stems
        if new and lead.stems <= c.stems | c.heading:
            held = sum(weights[w] for w in asked & (c.stems | lead.covered))
            if through is None or held + LEAD_SHARE * lead.share > best + LEAD_SHARE * through.share:
                best, through = held, lead
    return best, through


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
    """Those close to the best of their question.

    Where that is about a lead, those that are about one, too: very close ones, and the best of each chain that begins
    elsewhere, for a comparison has two.
    """
    if scored and scored[0][1].lead is not None:
        near: list[tuple[float, _Candidate]] = []
        begun: set[int] = set()
        for score, c in scored:
            if c.lead is not None:
                least = NEAR_BEST_LED if c.lead.chain[0] in begun else NEAR_BEST
                near += [(score, c)] if score >= least * scored[0][0] else []
                begun.add(c.lead.chain[0])
        return near
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
