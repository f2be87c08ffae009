"""Sentences and words of plain text and Markdown. Deterministic, no model; English stop words, any script for words."""

import re
import unicodedata
from collections.abc import Iterator

__all__ = ["STOP_WORDS", "content_words", "fold", "sentences", "stem", "words"]

STOP_WORDS = frozenset(
    """a about above after again all also am an and any are as at be because been before being below between both but by
    can could did do does doing don down during each few for from further had has have having he her here hers him his how
    i if in into is it its just like me more most my no nor not now of off on once only or other our out over own please
    same she should so some such than that the their them then there these they this those through to too under until up
    very want was we were what when where which while who whom why will with would you your yours""".split()  # noqa: SIM905
)
"""Words that say little about what a text is about. `not` and `no` are among them: negation is looked at separately."""

_WORD = re.compile(r"[^\W_]+(?:['’.,:/-][^\W_]+)*", re.UNICODE)
_ABBREVIATIONS = frozenset(
    "e.g i.e etc mr mrs ms dr prof st no vs approx incl max min fig sec ca inc ltd".split()  # noqa: SIM905
)
_END = re.compile(
    r"(?<=[.!?…])[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[^\W_a-z])"  # an end mark, then a capital or a digit
    r"|\n\s*\n|\n(?=\s*(?:[-*+]|\d+[.)])\s)|(?<=:)\n"  # a paragraph, a list item, a line that introduces one
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
    return [stem(w) for w in words(text) if w not in STOP_WORDS]


def sentences(text: str) -> list[str]:
    """Split into sentences; Markdown headings, list marks and emphasis are taken off, no sentence is empty."""
    return list(_sentences(text))


def _sentences(text: str) -> Iterator[str]:
    held = ""
    for piece in _END.split(text):
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
