"""Splits a message into its wishes, clause by clause. Pure: English function words and punctuation, no model.

A cut needs a sign that a new wish begins: the end of a sentence, a connecting phrase ("after that", "another thing"),
or an "and", "then" or comma behind which a clause starts (a question word, a subject with its verb, an order). So
"terms and conditions", "up and running" and "the router and the phone" stay whole. Which agent a part is for is not
asked here.
"""

import re
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache

from agentmesh.text import STOP_WORDS, stem, words

__all__ = ["GENERIC_STEMS", "MAX_PARTS", "Part", "refers_back", "specific_words", "split_parts", "whole_wishes"]

MAX_PARTS = 12
"""Parts of one message; the last one holds the rest."""
MAX_CHARS = 8_000
"""Characters of a message within which wishes are looked for; what follows belongs to the last one."""
SMALL_WORDS = 4
"""A piece of up to this many words that is about nothing is not a part of its own."""

_QUESTION = "what|what's|whats|when|when's|where|where's|which|who|who's|whom|whose|why|how|how's|how'd"
_AUXILIARY = (
    "am|are|aren't|is|isn't|was|were|do|don't|does|doesn't|did|didn't|can|can't|could|couldn't|may|might|must|shall|should|"
    "will|won't|would|wouldn't|have|haven't|has|hasn't|had"
)
_SUBJECT = (
    "i|i'm|i'd|i'll|i've|im|we|we're|we'd|we've|you|you're|he|she|it|it's|they|there|there's|this|that|these|those|my|our|your|"
    "his|her|its|their|the|a|an|any|some|all|someone|somebody|anyone|anybody|nobody|everyone|everything|something|nothing"
)
_PRONOUN = "i|i'm|i'd|i'll|i've|im|we|we're|we'd|we've|he|she|they|there|there's|it|it's|somebody|someone"
_OWNER = "my|our|your|his|her|their|the|a|an|this|that"
_ORDER = (
    "add|adjust|advise|alert|answer|arrange|ask|assist|block|book|bring|buy|calculate|call|cancel|change|check|close|confirm|"
    "connect|convert|create|define|delete|describe|dial|direct|disable|discover|display|enable|erase|explain|figure|file|fill|"
    "find|fix|flip|follow|forget|freeze|get|give|go|grab|hail|help|hold|identify|increase|inform|initiate|keep|learn|leave|let|"
    "let's|list|locate|look|lower|mail|make|mark|measure|move|name|notify|open|order|pair|pause|pay|phone|pick|plan|play|"
    "please|pull|push|put|raise|read|recommend|record|refund|relocate|remember|remind|remove|rename|rent|repeat|replace|reply|"
    "report|request|reschedule|reserve|reset|resend|restart|restore|reverse|ring|roll|run|save|say|schedule|search|see|select|"
    "send|set|share|shop|show|skip|slow|solve|speak|speed|spell|start|stop|submit|suggest|switch|synchronize|sync|take|talk|"
    "tell|text|throw|toss|track|transfer|translate|transmit|try|turn|unblock|unlock|update|upgrade|use|verify|whisper|write"
)
_LEAD = "also|please|then|now|secondly|finally|lastly|additionally|so|kindly|maybe|yes|no"

_CLAUSE = (
    rf"(?:(?:{_LEAD}),?\s+)*(?:"
    rf"(?:{_QUESTION})\b"
    rf"|(?:for|at|to|in|on|by|with|from|within|until|since|after|under|below|above|during|into|per)\s+(?:how|what|which|whom|whose|when)\b"
    rf"|(?:{_AUXILIARY})\s+(?:{_SUBJECT}|[a-z]+ing)\b"
    r"|(?:is|are|do|does|did|can|could|will|was|were)\s+(?!\w+(?:ing|ed)\b)\w+\s+\w+"
    rf"|(?:{_PRONOUN})\s+[a-z']+"
    rf"|(?:{_OWNER})\s+(?:[\w'-]+\s+){{1,4}}?(?:{_AUXILIARY}|needs?|keeps?|wants?|shows?|says?|fails?|drops?|doesn't|stopped|arrived|got|went|came|broke|works?|hangs?|crashed|crashes)\b"
    rf"|(?:{_ORDER})\s+(?!and\b|or\b)[\w'$]+"
    rf"|(?:i'd|id)\s+like\b|(?:need|want|wanna|looking|having|trying)\s+\w+"
    r")"
)
_CONNECTOR = (
    r"after\s+that|on\s+top\s+of\s+that|apart\s+from\s+that|other\s+than\s+that|besides(?:\s+that)?|in\s+addition|additionally|"
    r"furthermore|moreover|by\s+the\s+way|(?:and\s+)?(?:another|one\s+(?:more|other|last)|a\s+(?:second|different|further))\s+"
    r"(?:thing|question|point|issue|problem|request)|(?:and\s+)?at\s+the\s+same\s+time,|and\s+separately|and\s+also|and\s+then|and\s+finally|"
    r"as\s+well\s+as|and\s+secondly|afterwards|oh,?\s+and"
)
_CUT = re.compile(
    rf"(?P<end>[.!?…]+[\"'”’)\]]*\s+|[。！？；;]\s*|\n+\s*(?:[-*•]\s+|\d+[.)]\s+)?)(?:(?:and|but|or)\s+)?"
    rf"(?:(?:also|{_CONNECTOR})\b[,:]?\s*)?"
    rf"|(?P<joint>[,\s]\s*(?:{_CONNECTOR})\b[,:]?\s*)"
    rf"|(?P<also>,\s*(?:and\s+)?also\b[,:]?\s+)"
    rf"|(?P<weak>,?\s+(?:and|but|plus|or)\s+|,\s+)(?={_CLAUSE})"
    r"|(?P<then>,?\s+(?<!and\s)(?<!by\s)(?<!till\s)(?<!until\s)(?<!since\s)(?<!just\s)(?<!even\s)then\s+)(?=\S+\s+\S)",
    re.IGNORECASE,
)
_BLANKS = re.compile(r"[^\S\n]+")
_MARK = re.compile(r"[.!?…。！？]+[\"'”’)\]]*")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.?g|i\.?e|etc|mr|mrs|ms|dr|st|no|nr|vs|approx|incl|[ap]\.?m|u\.?s|[A-Za-z]))\.\s*$", re.IGNORECASE
)
_SUBORDINATE = re.compile(
    r"^(?:(?:and|but|so)\s+)?(?:if|whether|in\s+case|(?:when|whenever|while|because|since|although|though|unless|until|after|"
    rf"before|once|as)\b(?!\s+(?:{_AUXILIARY})\b))",
    re.IGNORECASE,
)
_FRAME = re.compile(
    r"^(?:for|in|on|at|with|to|from|by|during|about|regarding|concerning|the|according\s+to)\b", re.IGNORECASE
)
_VERB = re.compile(rf"\b(?:{_AUXILIARY}|[a-z]{{3,}}(?:ed|s))\b", re.IGNORECASE)
_OF_MINE = re.compile(r"\b(?:i|i'm|i've|i'd|im|me|my|mine|we|we're|we've|us|our)\b", re.IGNORECASE)
_TERM = re.compile(
    r"^(?:it|it's|this|that|these|those|they|for|from|with|without|in|at|by|so|as|on|within|before|until|only|no|nothing|"
    r"nobody)\b|\b(?:must|may|should)\b",
    re.IGNORECASE,
)
_WISH = re.compile(
    rf"[?？]|^(?:(?:{_LEAD}|and),?\s+)*(?:\w+\s+)?(?:{_QUESTION})\b|^now\b|^(?:(?:{_LEAD}),?\s+)*(?:{_AUXILIARY}|{_ORDER})\b|\b(?:i|we)\s+(?:need|want|would|must|have\s+to|wish|wonder)\b|\b(?:know|wondering|tell\s+me|ask)\b|\b(?:i'd|we'd|please|can\s+you|could\s+you)\b",
    re.IGNORECASE,
)
_BACK_REFERENCE = re.compile(
    r"\b(?:it|its|it's|this|that|these|those|they|them|their|one|same|there|he|she|him|her)\b", re.IGNORECASE
)

GENERIC_STEMS = frozenset(
    stem(w)
    for w in """able ask assist assistance bad broke broken case check concern cost costs day days doubt error expensive
    fail failed fast fine fix fixed get give go going good got great happen happened happens happening hello
    help here hey hi hour hours hurt idea info information issue issues keep know late like long longer look
    made make many matter mean mess minute minutes much need new nothing often ok okay old once one people
    please possible price problem problems question questions quick quickly really request right run running say
    see show situation solve someone something somebody soon sort still stopped stuck stuff sure take tell thank
    thanks thing things think time today tomorrow trouble try trying urgent urgently use used useful wait
    waiting want week weeks went wish work worked working works worse wrong yes yesterday yet""".split()  # noqa: SIM905
)
"""Stems that nearly every message may hold: alone they do not say what it is about. Our choice."""


class _Cut(Enum):
    """What stands before a piece."""

    START = 1
    END = 2
    """The end of a sentence."""
    NEW_MATTER = 3
    """A phrase that says that another matter begins: "also", "another thing"."""
    AND = 4
    COMMA = 5


Piece = tuple[str, _Cut]


@dataclass(frozen=True)
class Part:
    """One wish of a message."""

    text: str
    """As it stands in the message, connecting words and double blanks left out."""
    context: str
    """What it is understood by: the text itself, after the part before it where it refers back to that."""
    background: bool = False
    """It states something before a wish of the same message and asks for nothing itself."""
    loose: bool = False
    """Only a comma stands between it and the part before."""


@lru_cache(maxsize=1024)
def specific_words(text: str) -> tuple[str, ...]:
    """Stems of the words that say what a text is about, generic ones left out."""
    return tuple(s for w in words(text) if w not in STOP_WORDS and (s := stem(w)) not in GENERIC_STEMS)


def refers_back(text: str) -> bool:
    """Whether a text can only be understood with what was said before: it is about nothing by itself."""
    found = specific_words(text)
    return not found or (len(found) <= 1 and bool(_BACK_REFERENCE.search(text)) and len(words(text)) <= 6)


def split_parts(text: str) -> tuple[Part, ...]:
    """The wishes of a message, in order; at least one unless the text is blank.

    A piece that is about nothing (a greeting, "thank you") joins its neighbour, so no part is empty. What only says how
    a wish is to be met ("it must be done tonight") belongs to that wish, which is understood without it.
    """
    even = _BLANKS.sub(" ", text)
    rest = even[MAX_CHARS:]
    pieces = _join_small(_cut(even[:MAX_CHARS]))
    if rest.strip():
        last, kind = pieces.pop() if pieces else ("", _Cut.START)
        pieces.append((f"{last}{rest}".strip(), kind))
    parts: list[Part] = []
    for place, (piece, kind) in enumerate(pieces):
        if parts and kind in (_Cut.END, _Cut.COMMA) and _is_term(piece) and _WISH.search(parts[-1].text):
            before = parts.pop()
            parts.append(replace(before, text=f"{before.text}{',' if kind is _Cut.COMMA else ''} {piece}"))
            continue
        context = f"{parts[-1].text} {piece}" if parts and refers_back(piece) else piece
        wish = _next_wish(pieces, place)
        parts.append(Part(piece, context, background=wish and not _WISH.search(piece), loose=kind is _Cut.COMMA))
    return tuple(parts) or ((Part(text.strip(), text.strip()),) if text.strip() else ())


def whole_wishes(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """The parts with each wish understood as one with what leads up to it and what says how it is to be met.

    One text a wish costs less, and among many agents that are alike the place and the terms tell them apart; among few
    agents their words would lead to one that is not asked.
    """
    joined: list[Part] = []
    for part in parts:
        text = part.text
        if joined and joined[-1].background:
            text = f"{joined.pop().text} {text}"
        joined.append(Part(text, text, part.background, part.loose))
    return tuple(joined)


def _is_term(piece: str) -> bool:
    """Whether a piece asks for nothing and says nothing of the one who asks, as "two people must agree" does.

    "My card was declined" is a wish of its own.
    """
    return bool(_TERM.search(piece)) and not (_WISH.search(piece) or _OF_MINE.search(piece))


def _next_wish(pieces: list[Piece], place: int) -> bool:
    """Whether a wish follows a piece without a connecting phrase that says it is another matter."""
    for piece, kind in pieces[place + 1 :]:
        if kind is _Cut.NEW_MATTER:
            return False
        if _WISH.search(piece):
            return True
    return False


def _cut(text: str) -> list[Piece]:
    """Raw pieces between the cuts, each with what stands before it."""
    pieces: list[Piece] = []
    start, kind = 0, _Cut.START
    for match in _CUT.finditer(text):
        if len(pieces) == MAX_PARTS - 1:
            break
        left, end = text[start : match.start()].strip(), match["end"] or ""
        if left:
            if end.startswith(".") and _ABBREVIATION.search(left + ".") and not _says_more(match[0]):
                continue
            if match["weak"] and not _may_end(left, bare=match["weak"].strip() == ",", right=text[match.end() :]):
                continue
            if match["then"] and (len(words(left)) < 2 or _SUBORDINATE.match(left)):
                continue
            mark = _MARK.match(end)
            pieces.append((left + mark[0] if mark else left, kind))
        start = match.end()
        if match["weak"]:
            kind = _Cut.COMMA if match["weak"].strip() == "," else _Cut.AND
        else:
            kind = _Cut.NEW_MATTER if _says_more(match[0]) else _Cut.END
    if rest := text[start:].strip():
        pieces.append((rest, kind))
    return pieces


def _says_more(cut: str) -> bool:
    """Whether the cut itself holds a word such as "and" or "also"."""
    return any(c.isalpha() for c in cut)


def _may_end(left: str, *, bare: bool, right: str) -> bool:
    """Whether a clause is over before an "and" or a bare comma.

    No, if it is too short, a condition that waits for its main clause, or a frame ("on my card, what is ..."), or if
    what follows refers back to it ("my phone is lost, can you help with that").
    """
    if len(words(left)) < (3 if bare else 2):
        return False
    if bare and (
        _SUBORDINATE.match(left) or (_FRAME.match(left) and not _WISH.search(left) and not _VERB.search(left))
    ):
        return False
    following = _CUT.search(right)
    return not refers_back(right[: following.start()] if following else right)


def _join_small(pieces: list[Piece]) -> list[Piece]:
    """Give short pieces about nothing to a neighbour: "Hello" to the next one, "why is that?" to the one before."""
    joined: list[Piece] = []
    held = ""
    for piece, kind in pieces:
        whole = f"{held} {piece}".strip()
        held = ""
        if len(words(whole)) <= SMALL_WORDS and not specific_words(whole):
            if joined and _WISH.search(whole):
                last, before = joined.pop()
                joined.append((f"{last} {whole}", before))
            else:
                held = whole
        else:
            joined.append((whole, kind))
    if held:
        last, kind = joined.pop() if joined else ("", _Cut.START)
        joined.append((f"{last} {held}".strip(), kind))
    return joined
