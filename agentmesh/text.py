"""Sentences and words of plain text and Markdown. Deterministic, no model; English stop words, any script for words."""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

__all__ = ["NUMBER_WORDS", "STOP_WORDS", "asks", "content_words", "fold", "sentences", "stem", "words"]

STOP_WORDS = frozenset(
    """a about above after again all also am an and any are as at be because been before being below between both but by
    can could did do does doing don down during each few for from further had has have having he her here hers him his
    how i if in into is it its just like many me more most much my no nor not now of off on once only or other our out
    over own please same she should so some such than that the their them then there these they this those through to
    too under until up very want was we were what when where which while who whom why will with would you your
    yours""".split()  # noqa: SIM905
)
"""Words that say little about what a text is about. `not` and `no` are among them: negation is looked at separately."""
NUMBER_WORDS = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "fourteen": 14, "fifteen": 15, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50,
    "sixty": 60, "ninety": 90, "hundred": 100,
}  # fmt: skip
"""Numbers as they are usually written out."""

_WORD = re.compile(r"[^\W_]+(?:['’.,:/-][^\W_]+)*", re.UNICODE)
_POSSESSIVE = re.compile(r"['’]s$")
_ABBREVIATIONS = frozenset(
    "e.g i.e etc mr mrs ms dr prof st no vs approx incl max min fig sec ca inc ltd".split()  # noqa: SIM905
)
_END = re.compile(
    r"(?:(?<=[.!?…])|(?<=[.!?…][\"'”’)\]]))\s+(?=[\"'“‘(\[]*[^\W_a-z])"  # an end mark, then a capital or a digit
    r"|\n\s*\n|\n(?=[ \t]*(?:[-*+]|\d+[.)]|#{1,6})\s)|(?<=:)\n"  # a paragraph, a list item or heading, an introduction
)
_HEADING = re.compile(r"^([ \t]*#{1,6}[ \t][^\n]*)\n", re.MULTILINE)
_QUESTION = (
    r"(?:(?:after|at|below|by|for|from|in|of|on|to|under|until|with|within)\s+)?"
    r"(?:how|what|when|where|which|whom?|whose|why|can|could|may|must|do|does|did|is|are|was|will|would|should)\b"
)
_JOINED_ASK = re.compile(
    rf"[,;]?\s+(?:and|or|but)\s+(?:also\s+)?(?={_QUESTION})|;\s+|[:,]\s+(?={_QUESTION})", re.IGNORECASE
)
_MARKUP = re.compile(r"^\s*(?:#{1,6}\s+|[-*+]\s+|\d+[.)]\s+|>\s?)")
_LIST_MARK = re.compile(r"\d+[.)]")
_EMPHASIS = re.compile(r"(\*\*|__|`)(?=\S)(.+?)(?<=\S)\1")


def fold(text: str) -> str:
    """Lower case, one space between words, compatibility forms unified."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words(text: str) -> list[str]:
    """Words in lower case, in order; numbers with their decimals, hyphenated words as one."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


@lru_cache(maxsize=32_768)
def stem(word: str) -> str:
    """A crude English stem: plural and verb endings off. Good enough to compare, not to print."""
    if len(word) <= 3 or not word.isalpha():
        return word
    for ending, rest in (("ies", "y"), ("sses", "ss"), ("ing", ""), ("edly", ""), ("ed", ""), ("ly", ""), ("es", "e")):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)] + rest
            break
    else:
        if word.endswith("s") and not word.endswith(("ss", "us", "is")):
            word = word[:-1]
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "sz":
        word = word[:-1]
    return word[:-1] if len(word) > 3 and word.endswith("e") else word


def content_words(text: str) -> list[str]:
    """Stems of the words that say what a text is about, in order, with repetitions."""
    return [stem(_POSSESSIVE.sub("", w)) for w in words(text) if w not in STOP_WORDS]


def sentences(text: str) -> list[str]:
    """Split into sentences; Markdown headings, list marks and emphasis are taken off, no sentence is empty."""
    return list(_sentences(text))


def asks(text: str) -> list[str]:
    """The single questions and wishes in a request: its sentences, cut again where another question is joined on.

    "My line is slow. What does X cost, and where do I set Y?" gives three. Never empty for a text with words.
    """
    found: list[str] = []
    for sentence in sentences(text):
        parts = [p.strip(" ,;:") for p in _JOINED_ASK.split(sentence)]
        if any(len(content_words(p)) < 2 for p in parts):
            parts = [sentence]
        found += [p for p in parts if p]
    return found


def _sentences(text: str) -> Iterator[str]:
    held = ""
    for piece in _END.split(_HEADING.sub(r"\1\n\n", text)):
        clean = _EMPHASIS.sub(r"\2", _MARKUP.sub("", piece))
        clean = " ".join(clean.split())
        if not clean or _LIST_MARK.fullmatch(clean):
            continue
        held = f"{held} {clean}" if held else clean
        last = held.rstrip(".").rpartition(" ")[2].casefold()
        if held.endswith(".") and (last in _ABBREVIATIONS or (len(last) == 1 and last.isalpha())):
            continue
        yield held
        held = ""
    if held:
        yield held
