"""What rules share: places in a text, a text in one spelling, the values of options."""

import asyncio
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar, cast

from agentmesh.errors import ConfigError
from agentmesh.guardrails.base import Action, Verdict, Where, places_of

__all__ = [
    "Span",
    "aside",
    "count",
    "folded",
    "number_option",
    "text_option",
    "texts_option",
    "tokens_of",
    "verdict_about",
    "where_or",
]

T = TypeVar("T")

QUICK_CHARS = 2_000
"""Up to this many characters our own searches run where they are (below 2 ms); longer texts go to a thread."""


class Span(NamedTuple):
    """A place in a text."""

    start: int
    end: int
    what: str = ""


_IDEOGRAMS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_IDEOGRAMS}]|(?:[\w\u0300-\u036f](?<![{_IDEOGRAMS}]))+|[^\w\s]")


def folded(text: str) -> tuple[str, Sequence[int]]:
    """The text in one spelling, and for each of its characters the place in `text`; one more for the end.

    Compatibility forms and accents are taken apart, capitals folded, invisible characters left out.
    """
    if text.isascii():
        return text.lower(), range(len(text) + 1)
    parts = ["" if unicodedata.category(c) == "Cf" else unicodedata.normalize("NFKD", c).casefold() for c in text]
    places = [n for n, part in enumerate(parts) for _ in part]
    return "".join(parts), [*places, len(text)]


def tokens_of(text: str) -> list[tuple[str, int, int]]:
    """Words and single marks of a text, folded, with where each begins and ends in it."""
    spelled, places = folded(text)
    return [(m[0], places[m.start()], places[m.end() - 1] + 1) for m in _TOKEN.finditer(spelled)]


async def aside(search: Callable[[str], T], text: str) -> T:
    """Search a long text in a thread; a short one here, which is quicker than a thread."""
    return search(text) if len(text) <= QUICK_CHARS else await asyncio.to_thread(search, text)


def verdict_about(
    action: Action, text: str, spans: Sequence[Span], reason: str, replacement: Callable[[Span], str]
) -> Verdict:
    """The verdict about these places; with `redact`, overlapping ones become one."""
    if action is not Action.REDACT:
        return Verdict(action=action, reason=reason, found=len(spans))
    kept: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.start, -s.end)):
        if kept and span.start < kept[-1].end:
            kept[-1] = kept[-1]._replace(end=max(kept[-1].end, span.end))
        else:
            kept.append(span)
    pieces: list[str] = []
    at = 0
    for span in kept:
        pieces += [text[at : span.start], replacement(span)]
        at = span.end
    return Verdict(action=action, reason=reason, found=len(kept), text="".join([*pieces, text[at:]]))


def count(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


def where_or(where: str | Iterable[str] | None, otherwise: frozenset[Where], action: str) -> frozenset[Where]:
    """`where` as places; if nothing is said, where the rule looks usually, as far as its action can be taken there."""
    if where is not None:
        return places_of(where)
    return otherwise - {Where.MEMORY} if action == Action.ASK else otherwise


def texts_option(option: str, value: object) -> tuple[str, ...]:
    """The value of an option that is a text or a list of them, none of them empty."""
    values: list[object] = [value] if isinstance(value, str) else []
    if isinstance(value, Iterable) and not isinstance(value, str):
        values = list(cast("Iterable[object]", value))
    if not values or not all(isinstance(v, str) and v.strip() for v in values):
        raise ConfigError(f"the option {option!r} must be a text or a list of texts, none of them empty")
    return tuple(str(v) for v in values)


def text_option(option: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"the option {option!r} must be a text")
    return value


def number_option(option: str, value: object, *, least: int, most: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        bounds = f"{least} or more" if most is None else f"from {least} to {most}"
        raise ConfigError(f"the option {option!r} must be a whole number, {bounds}")
    return value
