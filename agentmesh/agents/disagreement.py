"""Which sentences contradict each other, in a number, a date or a negation. Pure text, no model, English.

Precise rather than complete: two sentences conflict only if they are plainly about the same thing, that is, if they
share nearly all their words beside the numbers, and neither has a word that makes it a special case of its own. What a
model would find beyond that is the model refiner's to add; nothing found here is ever taken away again.
"""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Literal, NamedTuple

from agentmesh.agents.quantities import Quantity, attributive, compatible, quantities
from agentmesh.text import STOP_WORDS, stem
from agentmesh.types import Conflict, Share, Side

__all__ = ["Claim", "disagreements", "same_claim"]

MOST_CLAIMS = 400
"""Claims that are compared with one another; the time grows with the square of their number."""
SAME_SUBJECT = 0.6
"""Share of words in common when one sentence has words that the other lacks; our choice."""
SAME_SUBJECT_BOTH = 0.7
"""The same when each has words that the other lacks; our choice."""
SAME_CLAIM = 0.8
"""Share of words in common from which two sentences say the same; our choice."""

LEAST_SHARED_BY_PRONOUN = 3
"""Words that must be shared where a sentence begins with a pronoun, which may stand for anything; our choice."""

_PRONOUN = re.compile(r"\W*(?:he|she|it|they|his|her|its|their|this|that|these|those|we|i|our|my)\b", re.IGNORECASE)
_NEGATION = re.compile(r"\b(?:not|no|never|cannot|nobody|nothing|none|neither|nor|\w+n['’]t)\b", re.IGNORECASE)
_NO_NEGATION = re.compile(
    r"\b(?:no|not) (?:more|less|later|longer|fewer|earlier|sooner|older|larger|only|yet|matter|one)\b(?! available)"
    r"|\bwhether or not\b|\bif not\b",
    re.IGNORECASE,
)
_SAID_NO = {
    "refuse": "accept", "reject": "accept", "decline": "accept", "forbid": "allow", "forbidden": "allow",
    "prohibit": "allow", "ban": "allow", "banned": "allow", "impossible": "possible", "unavailable": "available",
    "exclude": "include", "disable": "enable", "invalid": "valid", "unsupported": "support", "unlimited": "limit",
    "unable": "able", "ineligible": "eligible",
}  # fmt: skip
_OPPOSITE = {stem(no): stem(yes) for no, yes in _SAID_NO.items()}
"""Stems of words that deny another word: `refused` reads as `not accepted`."""
_FRAME_NOISE = frozenset(
    stem(word)
    for word in """take takes last lasts cost costs get need amount around approximately about roughly usually normally
    generally typically always currently exactly maximum minimum least most per within also please however note later
    earliest latest soon total already still never cannot nobody nothing none neither without free charge charged be
    become becomes come comes must may shall might every each any upon via row""".split()  # noqa: SIM905
) - {stem("without")}
"""Words that do not tell one subject from another."""
_SPECIAL = frozenset(
    stem(word)
    for word in """express premium business private prepaid first second third fourth fifth last next old new additional
    extra further standard basic emergency international national abroad weekend holiday student junior senior partner
    without unless except only small large minor major annual monthly weekly daily early late former previous outgoing
    incoming mobile fixed landline wired wireless internal external""".split()  # noqa: SIM905
)
"""Words that make a special case: a sentence that has one more of them speaks of something else."""
_CONDITION = frozenset(
    "for to in into on at outside inside with by before after if when while where via during".split()  # noqa: SIM905
)
"""Words that begin a condition, under which something else may hold."""
_FREE = re.compile(
    r"\bfree of charge\b|(?:(?<=\bis )|(?<=\bare )|(?<=\bfor ))free\b(?! (?:to|from|of|when|if)\b)", re.IGNORECASE
)
_PARTICLE = re.compile(r" (?:out|in|off|up|back|down|over|away)\b")
_WORD = re.compile(r"[^\W_]+(?:['’.-][^\W_]+)*")
_AUXILIARIES = frozenset(
    "is are was were be been being can could may might must shall should will would do does did has have had".split()  # noqa: SIM905
)


class Claim(NamedTuple):
    """A sentence that an agent puts forward, and what it rests on."""

    agent: str
    text: str
    item_id: str | None = None
    source: str = ""
    trust: Share = 1.0
    quoted: bool = False
    """Taken from the item as it stands; two quotes of one item never conflict."""


class _Reading(NamedTuple):
    """What a sentence is about, and what it says of it."""

    frame: tuple[str, ...]
    """Stems that name the subject, in order, without quantities."""
    conditional: frozenset[str]
    """Stems of the frame that stand in a condition, such as `islands` in "to islands"."""
    names: frozenset[str]
    """Names with numbers."""
    values: dict[str, tuple[Quantity, ...]]
    """Quantities by dimension."""
    negated: bool
    negation: str
    """The word that negates, as it stands."""
    pronoun: bool
    """Whether it begins with a pronoun."""


def disagreements(claims: Sequence[Claim]) -> list[Conflict]:
    """The conflicts among these claims, in the order in which their first side comes.

    More than two sides about the same thing are one conflict; a side that several give is named once.
    """
    unique = list(dict.fromkeys(claims))[:MOST_CLAIMS]
    groups: list[tuple[_Clash, list[Claim]]] = []
    for place, other in enumerate(unique):
        for one in unique[:place]:
            clash = _clash(one, other)
            if clash is None:
                continue
            for known, members in groups:
                if (
                    known.kind == clash.kind
                    and known.dimension == clash.dimension
                    and (one in members or other in members)
                ):
                    members += [c for c in (one, other) if c not in members]
                    break
            else:
                groups.append((clash, [one, other]))
    return [_conflict(clash, members) for clash, members in groups]


def same_claim(one: str, other: str) -> bool:
    """Whether two sentences say the same: nearly the same words, no number, date, name or negation that differs."""
    if one == other:
        return True
    a, b = _read(one), _read(other)
    if a.negated != b.negated or a.names != b.names or not a.frame or a.values.keys() != b.values.keys():
        return False
    if any(not _agree(a.values[d], b.values[d]) for d in a.values):
        return False
    first, second = set(a.frame), set(b.frame)
    return len(first & second) / len(first | second) >= SAME_CLAIM


class _Clash(NamedTuple):
    kind: Literal["number", "date", "negation"]
    dimension: str
    one: str
    """What the first sentence says differently."""
    other: str


def _clash(one: Claim, other: Claim) -> _Clash | None:
    """What two claims contradict each other in, if anything."""
    if (
        one.item_id is not None
        and one.item_id == other.item_id
        and (one.agent == other.agent or (one.quoted and other.quoted))
    ):
        return None
    if one.agent == other.agent and one.item_id is None and other.item_id is None:
        return None
    a, b = _read(one.text), _read(other.text)
    if not _same_subject(a, b):
        return None
    differing = [d for d in a.values.keys() & b.values.keys() if not _agree(a.values[d], b.values[d])]
    if differing:
        if a.negated != b.negated or _other_thing(one.text, a, differing) or _other_thing(other.text, b, differing):
            return None
        dimension = min(differing, key=lambda d: a.values[d][0].start)
        first, second = a.values[dimension], b.values[dimension]
        if len(first) != len(second):
            return None
        kind = "date" if first[0].kind == "date" else "number"
        return _Clash(kind, dimension, _differing(one.text, first, second), _differing(other.text, second, first))
    if a.negated != b.negated and len(set(a.frame)) >= 2 and _same_conditions(a, b) and _same_order(a, b):
        return _Clash("negation", "", _said(one.text, other.text), _said(other.text, one.text))
    return None


def _other_thing(text: str, reading: _Reading, differing: Sequence[str]) -> bool:
    """Whether one of several differing quantities rather tells which thing is meant: a date, or "the 500 GB disk"."""
    if len(differing) < 2:
        return False
    return any(q.kind == "date" or attributive(text, q) for d in differing for q in reading.values[d])


def _same_order(a: _Reading, b: _Reading) -> bool:
    """Whether the words that both have stand in the same order: who does what to whom."""
    first = [w for w in dict.fromkeys(a.frame) if w in b.frame]
    second = [w for w in dict.fromkeys(b.frame) if w in a.frame]
    return first == second


def _same_conditions(a: _Reading, b: _Reading) -> bool:
    """Whether both speak of the same amounts: "not above 10 EUR" does not contradict "above 400 EUR"."""
    return {d: [q[2:6] for q in qs] for d, qs in a.values.items()} == {
        d: [q[2:6] for q in qs] for d, qs in b.values.items()
    }


def _same_subject(a: _Reading, b: _Reading) -> bool:
    """Whether both sentences are plainly about the same thing."""
    if a.names != b.names:
        return False
    first, second = set(a.frame), set(b.frame)
    shared = first & second
    if not shared:
        return False
    only_a, only_b = first - second, second - first
    if (only_a | only_b) & _SPECIAL:
        return False
    if len(shared) < LEAST_SHARED_BY_PRONOUN and (a.pronoun or b.pronoun):
        return False
    likeness = len(shared) / len(first | second)
    if only_a and only_b:
        return likeness >= SAME_SUBJECT_BOTH and not _replaced(a.frame, b.frame)
    if only_a or only_b:
        longer = a if only_a else b
        return likeness >= SAME_SUBJECT and not ((only_a | only_b) & longer.conditional)
    return True


def _replaced(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    """Whether a word of one stands exactly where the other has a different one: `express` against `standard`."""
    return any(tag == "replace" for tag, *_ in SequenceMatcher(None, a, b, autojunk=False).get_opcodes())


def _agree(first: Sequence[Quantity], second: Sequence[Quantity]) -> bool:
    """Whether two lists of quantities of one dimension can both be right."""
    if len(first) != len(second):
        shorter, longer = sorted((first, second), key=len)
        return all(any(compatible(q, r) for r in longer) for q in shorter)
    return all(compatible(q, r) for q, r in zip(first, second, strict=True))


def _differing(sentence: str, own: Sequence[Quantity], others: Sequence[Quantity]) -> str:
    """The quantities of a sentence that the other contradicts, as they stand."""
    wrong = [q for q, r in zip(own, others, strict=True) if not compatible(q, r)]
    return " and ".join(q.text for q in wrong) if len(wrong) < 3 else sentence[wrong[0].start : wrong[-1].end]


@lru_cache(maxsize=2048)
def _read(sentence: str) -> _Reading:
    """Read one sentence; the same sentence is read once."""
    found = quantities(sentence)
    free = _free_of_charge(sentence)
    values: dict[str, tuple[Quantity, ...]] = {}
    for q in [*found, *free]:
        if q.kind != "name":
            values[q.dimension] = (*values.get(q.dimension, ()), q)
    hidden = [(q.start, q.end) for q in found]
    plain = _NO_NEGATION.sub(lambda m: " " * len(m.group()), sentence)
    negations = list(_NEGATION.finditer(plain))
    frame: list[str] = []
    conditional: set[str] = set()
    denied = 0
    since_condition = 99
    for m in _WORD.finditer(sentence):
        word = m.group().lower().replace("’", "'").removesuffix("'s")
        since_condition = 0 if word in _CONDITION else since_condition + 1
        if any(start < m.end() and m.start() < end for start, end in hidden):
            continue
        if word in STOP_WORDS or word.endswith("n't"):
            continue
        root = stem(word)
        if root in _OPPOSITE:
            root = _OPPOSITE[root]
            denied += 1
        if root in _FRAME_NOISE:
            continue
        frame.append(root)
        if since_condition <= 3:
            conditional.add(root)
    return _Reading(
        frame=tuple(frame),
        conditional=frozenset(conditional),
        names=frozenset(q.dimension for q in found if q.kind == "name"),
        values=values,
        negated=(len(negations) + denied) % 2 == 1,
        negation=negations[0].group() if negations else "",
        pronoun=_PRONOUN.match(sentence) is not None,
    )


def _free_of_charge(sentence: str) -> list[Quantity]:
    """`free of charge` and `is free` as an amount of money of nothing."""
    return [Quantity("number", "EUR", 0.0, 0.0, "eur", "", m.group(), *m.span()) for m in _FREE.finditer(sentence)]


def _said(own: str, other: str) -> str:
    """What one sentence denies and the other does not, with its auxiliaries: `is not accepted`, `is refused`."""
    words = [(w.strip(".,;:!?"), stem(w.lower().strip(".,;:!?"))) for w in own.split()]
    negation = _read(own).negation
    if negation:
        at = next((i for i, (w, _) in enumerate(words) if w.lower() == negation.lower()), 0)
        last = at + 1
        while last < len(words) - 1 and words[last][0].lower() in _AUXILIARIES:
            last += 1
    else:
        denied = [i for i, (_, root) in enumerate(words) if root in _OPPOSITE]
        verbs = {_OPPOSITE.get(root, root) for root in _verbs(other)}
        at = last = next((i for i in denied), next((i for i, (_, root) in enumerate(words) if root in verbs), 0))
    first = at
    while first > 0 and words[first - 1][0].lower() in _AUXILIARIES:
        first -= 1
    return " ".join(w for w, _ in words[first : last + 1])


def _verbs(sentence: str) -> list[str]:
    """Stems of what a sentence denies: the word after its negation, or the word that denies by itself."""
    words = [w.strip(".,;:!?").lower() for w in sentence.split()]
    negation = _read(sentence).negation.lower()
    if not negation:
        return [stem(w) for w in words if stem(w) in _OPPOSITE]
    after = words[words.index(negation) + 1 :] if negation in words else words
    return [stem(w) for w in after if w not in _AUXILIARIES | STOP_WORDS][:1]


def _conflict(clash: _Clash, members: Sequence[Claim]) -> Conflict:
    """One conflict of all the claims that take part in it."""
    sides: dict[tuple[str, str], Side] = {}
    for claim in members:
        value = _value_of(claim, clash, members)
        key = (value.lower(), claim.item_id or claim.agent)
        if key not in sides:
            sides[key] = Side(
                agent=claim.agent, text=claim.text, value=value, item_id=claim.item_id, source=claim.source
            )
    told = [f"{s.source or s.agent} says {s.value}" for s in sides.values()]
    trusts = {c.source: c.trust for c in members if c.source}
    explanation = "; ".join(told)
    if len(set(trusts.values())) > 1:
        explanation += " (trust: " + ", ".join(f"{source} {trust:g}" for source, trust in trusts.items()) + ")"
    return Conflict(kind=clash.kind, about=_about(members, clash), sides=tuple(sides.values()), explanation=explanation)


def _value_of(claim: Claim, clash: _Clash, members: Sequence[Claim]) -> str:
    """What this claim says differently from a member that contradicts it."""
    for other in members:
        found = _clash(claim, other) if other is not claim else None
        if found is not None and (found.kind, found.dimension) == (clash.kind, clash.dimension):
            return found.one
    return claim.text


def _about(members: Sequence[Claim], clash: _Clash) -> str:
    """What the claims disagree on: the shortest one without what differs, from its first to its last common word."""
    common = set(_read(members[0].text).frame).intersection(*(_read(c.text).frame for c in members[1:]))
    shortest = min(members, key=lambda c: len(c.text))
    text = shortest.text
    for q in reversed(_read(text).values.get(clash.dimension, ())):
        text = f"{text[: q.start].rstrip()} … {text[q.end :].lstrip()}"
    words = list(_WORD.finditer(text))
    places = [m for m in words if stem(m.group().lower().replace("’", "'").removesuffix("'s")) in common]
    if not places:
        return text.strip(" .…")
    particle = _PARTICLE.match(text, places[-1].end())
    about = text[places[0].start() : particle.end() if particle else places[-1].end()]
    about = re.sub(r"\b(?:within|after|at|for|up to|is|of)? ?…( of\b)?", "…", about)
    return re.sub(r"\s+", " ", about.replace(" …", " … ")).strip(" .…")
