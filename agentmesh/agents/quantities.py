"""Numbers, dates and names with numbers in an English sentence, each with its unit and its place. Deterministic.

It reads what help pages and notes use: amounts with units, money, percentages, times of day, dates, weekdays, phone
numbers, and names such as "Fibre 100" or "error 412", whose number says which thing is meant and not how much of it.
"""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from agentmesh.text import NUMBER_WORDS, STOP_WORDS, stem

__all__ = ["Quantity", "attributive", "compatible", "quantities"]


class Quantity(NamedTuple):
    """One number or date in a sentence."""

    kind: Literal["number", "date", "name"]
    """`name`: the number belongs to a name, it is no amount."""
    dimension: str
    """What it measures: only quantities of one dimension can disagree."""
    low: float
    high: float
    """Smallest and largest amount meant, in the base unit of the dimension; both the same for a plain number."""
    unit: str
    """Its unit as a stem, qualifiers included: `day`, `working day`."""
    bound: Literal["", "at least", "at most"]
    text: str
    """As it stands in the sentence, with its unit."""
    start: int
    end: int
    """Its place in the sentence, in characters."""


# Base units: seconds, bytes, bit/s, metres, grams, watts. A month has 28 to 31 days, a year 365 or 366.
_DAY = 86_400.0
_UNITS: dict[str, tuple[str, float, float]] = {
    "second": ("time", 1, 1), "sec": ("time", 1, 1), "minute": ("time", 60, 60), "min": ("time", 60, 60),
    "hour": ("time", 3600, 3600), "day": ("time", _DAY, _DAY), "night": ("night", 1, 1),
    "week": ("time", 7 * _DAY, 7 * _DAY), "month": ("time", 28 * _DAY, 31 * _DAY),
    "year": ("time", 365 * _DAY, 366 * _DAY),
    "kb": ("bytes", 1e3, 1e3), "mb": ("bytes", 1e6, 1e6), "gb": ("bytes", 1e9, 1e9), "tb": ("bytes", 1e12, 1e12),
    "kilobyte": ("bytes", 1e3, 1e3), "megabyte": ("bytes", 1e6, 1e6), "gigabyte": ("bytes", 1e9, 1e9),
    "kbit": ("bit/s", 1e3, 1e3), "mbit": ("bit/s", 1e6, 1e6), "gbit": ("bit/s", 1e9, 1e9), "mbps": ("bit/s", 1e6, 1e6),
    "gbps": ("bit/s", 1e9, 1e9), "mm": ("m", 1e-3, 1e-3), "cm": ("m", 1e-2, 1e-2), "metre": ("m", 1, 1),
    "meter": ("m", 1, 1), "km": ("m", 1e3, 1e3), "kg": ("g", 1e3, 1e3), "gram": ("g", 1, 1), "watt": ("W", 1, 1),
    "eur": ("EUR", 1, 1), "euro": ("EUR", 1, 1), "€": ("EUR", 1, 1), "usd": ("USD", 1, 1), "dollar": ("USD", 1, 1),
    "$": ("USD", 1, 1), "gbp": ("GBP", 1, 1), "pound": ("GBP", 1, 1), "£": ("GBP", 1, 1), "cent": ("cent", 1, 1),
    "chf": ("CHF", 1, 1), "%": ("%", 1, 1), "percent": ("%", 1, 1),
}  # fmt: skip
"""Unit -> dimension, and how much of the base unit the smallest and the largest of it is."""
_UNIT_STEMS = {stem(unit): facts for unit, facts in _UNITS.items()} | _UNITS
_QUALIFIERS = frozenset(
    """working business banking calendar full whole consecutive paid free open further additional extra different more
    other single separate unpaid missed wrong failed successive banked business connected active""".split()  # noqa: SIM905
)
"""Adjectives that may stand between a number and what it counts."""
_WORKING = frozenset({"working", "business", "banking"})
_NAMING = frozenset(
    """step error code version level tier option phase chapter section page plan model room floor line stage part rule
    number no reason type class category appendix form ticket release zone group layer article paragraph""".split()  # noqa: SIM905
)
"""Nouns whose number says which one, not how many."""
_VERBS = frozenset(
    """is are was were means mean costs cost takes take lasts last has have can must may will shall does do needs need
    uses use includes include shows show appears appear applies apply supports offers allows requires runs ends starts
    works gets gives comes stands begins closes opens expires says tells stays becomes remains contains reaches covers
    counts when if and or but that which who then than before after until with without for from in on at by to of the
    a an it per as""".split()  # noqa: SIM905
)
"""Words after a number that are not what it counts."""

_MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTH = (
    "(?P<{0}>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sep(?:t(?:ember)?)?"
    "|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|\d+(?:[.,]\d+)?"
_WORD_NUMBER = "|".join(NUMBER_WORDS)
_DATES = re.compile(
    r"\b(?:(?P<iso_y>\d{4})-(?P<iso_m>\d{2})-(?P<iso_d>\d{2})"
    rf"|(?P<d1>\d{{1,2}})(?:st|nd|rd|th|\.)?(?: of)? {_MONTH.format('m1')}\b\.?(?:,? (?P<y1>\d{{4}}))?"
    rf"|{_MONTH.format('m2')}\.? (?P<d2>\d{{1,2}})(?:st|nd|rd|th)?\b(?!:)(?:,? (?P<y2>\d{{4}}))?"
    rf"|{_MONTH.format('m3')}\.? (?P<y3>\d{{4}})"
    r"|(?P<d4>\d{1,2})[./](?P<m4>\d{1,2})[./](?P<y4>\d{4})"
    r"|(?<=\bin )(?P<y6>(?:19|20)\d\d)|(?<=\bsince )(?P<y7>(?:19|20)\d\d)"
    r"|(?P<d5>\d{1,2})(?:st|nd|rd|th)(?: day)? of (?:the|each|every|a) (?:\w+ )?month)\b",
    re.IGNORECASE,
)
_WEEKDAY = re.compile(
    rf"\b(?:{'|'.join(_WEEKDAYS)})s?\b(?:(?:,| and| or| to| until| through|-|–)+ (?:{'|'.join(_WEEKDAYS)})s?\b)*",
    re.IGNORECASE,
)
_CLOCK = re.compile(r"\b(\d{1,2}):(\d{2})\b(?: ?([ap])\.?m\b\.?)?|\b(\d{1,2}) ?([ap])\.?m\b\.?", re.IGNORECASE)
_PHONE = re.compile(r"(?<![\w.])\+?\d{2,5}(?:[ /-]\d{2,7}){1,4}(?![\w.:]|,\d)")
_DOTTED = re.compile(r"\b\d+(?:\.\d+){2,}\b")
_AMOUNT = re.compile(
    rf"(?<![\w.,:/-])(?:(?P<sign>[€$£])\s?)?(?P<first>{_NUMBER}|\b(?:{_WORD_NUMBER})\b)"
    rf"(?:\s?(?:-|–|to|or|(?P<and>and))\s?(?P<second>{_NUMBER}|\b(?:{_WORD_NUMBER})\b))?"
    r"(?:\s?(?P<mark>%|€|£|\$)|(?P<tight>[A-Za-z]{1,4}\b)|(?P<suffix>[\w-]*\w))?",
    re.IGNORECASE,
)
_AFTER = re.compile(r"[\s-]+([^\W\d_][\w'’-]*)")
_BEFORE = re.compile(r"([\w'’-]+)[^\w.;:!?]*$")
_PER = re.compile(
    r"\s?(?:per|a|an|each|every|/)\s?(month|year|week|day|hour|minute|user|person|device|card|line|licen[cs]e|account"
    r"|item|piece|call|message)\b",
    re.IGNORECASE,
)
_LOWER = re.compile(
    r"\b(?:at least|minimum(?: of)?|no less than|not less than|no fewer than|more than|over|above|exceed\w*|from|beyond"
    r"|longer than|older than|larger than)\W+(?:\w+\W+)?$",
    re.IGNORECASE,
)
_UPPER = re.compile(
    r"\b(?:at most|up to|maximum(?: of)?|no more than|not more than|no later than|no longer than|within|less than"
    r"|fewer than|under|below|until)\W+(?:\w+\W+)?$",
    re.IGNORECASE,
)
_ALNUM = re.compile(r"\b(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*\b")


def quantities(sentence: str) -> list[Quantity]:
    """Everything in the sentence that is a number, a date or a name with a number, in order of place; none overlap."""
    found: list[Quantity] = []
    taken: list[tuple[int, int]] = []
    for reader in (_read_dates, _read_weekdays, _read_clock, _read_phones, _read_amounts, _read_names):
        for quantity in reader(sentence, taken):
            if all(quantity.end <= start or quantity.start >= end for start, end in taken):
                found.append(quantity)
                taken.append((quantity.start, quantity.end))
    return sorted(found, key=lambda q: q.start)


def attributive(sentence: str, quantity: Quantity) -> bool:
    """Whether a quantity stands before a noun and so may tell which thing is meant: "the 500 GB disk"."""
    after = _AFTER.match(sentence, quantity.end)
    return after is not None and after.group(1).lower() not in _VERBS | STOP_WORDS


def compatible(one: Quantity, other: Quantity) -> bool:
    """Whether both can be true of the same thing: equal, or one is a range that holds the other.

    A lower bound never contradicts an upper bound; units are converted, a working day counts as one to two days.
    """
    if one.dimension != other.dimension or {one.bound, other.bound} == {"at least", "at most"}:
        return True
    if one.dimension == "date":
        return _same_date(int(one.low), int(other.low))
    if one.unit == other.unit and one.low == one.high == other.low == other.high:
        return True
    return _holds(one, other) or _holds(other, one)


def _holds(outer: Quantity, inner: Quantity) -> bool:
    slack = 1e-9 * max(abs(outer.high), 1.0)
    return outer.low - slack <= inner.low and inner.high <= outer.high + slack


def _same_date(one: int, other: int) -> bool:
    """Dates as yyyymmdd; a part that is 0 is not said and fits anything."""
    pairs = zip(_date_parts(one), _date_parts(other), strict=True)
    return all(a == b or 0 in (a, b) for a, b in pairs)


def _date_parts(date: int) -> tuple[int, int, int]:
    return date // 10_000, date // 100 % 100, date % 100


def _read_dates(sentence: str, _: object) -> Iterator[Quantity]:
    for m in _DATES.finditer(sentence):
        g = {k: v for k, v in m.groupdict().items() if v is not None}
        year = next((int(g[k]) for k in ("iso_y", "y1", "y2", "y3", "y4", "y6", "y7") if k in g), 0)
        named = next((g[k] for k in ("m1", "m2", "m3") if k in g), None)
        month = _month(named) if named else next((int(g[k]) for k in ("iso_m", "m4") if k in g), 0)
        day = next((int(g[k]) for k in ("iso_d", "d1", "d2", "d4", "d5") if k in g), 0)
        if "m2" in g and "d2" in g and g["m2"].lower() == "may" and not g["m2"][0].isupper():
            continue  # "may 5" is the verb
        if month <= 12 and day <= 31:
            value = float(year * 10_000 + month * 100 + day)
            yield Quantity("date", "date", value, value, "date", "", m.group().strip(" ."), m.start(), m.end())


def _month(name: str) -> int:
    return next(i for i, month in enumerate(_MONTHS, start=1) if month.startswith(name.lower()[:3]))


def _read_weekdays(sentence: str, _: object) -> Iterator[Quantity]:
    for m in _WEEKDAY.finditer(sentence):
        days = [_WEEKDAYS.index(d.lower()) for d in re.findall("|".join(_WEEKDAYS), m.group(), re.IGNORECASE)]
        code = float(sum(10**place * (day + 1) for place, day in enumerate(reversed(days))))
        yield Quantity("date", "weekday", code, code, "weekday", "", m.group(), m.start(), m.end())


def _read_clock(sentence: str, _: object) -> Iterator[Quantity]:
    for m in _CLOCK.finditer(sentence):
        hour, minute = int(m.group(1) or m.group(4)), int(m.group(2) or 0)
        half = (m.group(3) or m.group(5) or "").lower()
        hour += 12 if half == "p" and hour < 12 else -12 if half == "a" and hour == 12 else 0
        value = float(hour * 60 + minute)
        yield Quantity("number", "clock", value, value, "clock", "", m.group().strip(), m.start(), m.end())


def _read_phones(sentence: str, _: object) -> Iterator[Quantity]:
    for m in _PHONE.finditer(sentence):
        digits = re.sub(r"\D", "", m.group())
        if len(digits) >= 6:
            yield Quantity("number", "phone", float(digits), float(digits), "phone", "", m.group(), m.start(), m.end())
    for m in _DOTTED.finditer(sentence):
        yield _name(m.group(), m.start(), m.end())


def _read_amounts(sentence: str, taken: list[tuple[int, int]]) -> Iterator[Quantity]:
    position = 0
    while m := _AMOUNT.search(sentence, position):
        if m["and"] and not sentence[: m.start()].rstrip().lower().endswith("between"):
            m = _AMOUNT.match(sentence, m.start(), m.start("and")) or m
        position = m.end()
        if not any(start < m.end() and m.start() < end for start, end in taken):
            quantity = _amount(sentence, m)
            if quantity is not None:
                yield quantity


def _amount(sentence: str, m: re.Match[str]) -> Quantity | None:
    """The number at this place as an amount or a name, or None if it is part of a longer word."""
    first, second = _value(m["first"]), _value(m["second"]) if m["second"] else None
    tight = (m["tight"] or "").lower()
    if m["suffix"] or (tight and tight not in _UNIT_STEMS):
        return None  # "3rd", "5G", "2FA": a name or an ordinal
    head, start = sentence[: m.start()], m.start()
    before = _BEFORE.search(head)
    previous = before.group(1) if before else ""
    unit = m["sign"] or m["mark"] or tight
    qualifiers: list[str] = []
    end = m.end()
    following = ""
    if not unit:
        position = m.end()
        while after := _AFTER.match(sentence, position):
            word = after.group(1).lower()
            if word == "per" and sentence[after.end() :].lower().startswith(" cent"):
                following, end = "percent", after.end() + 5
                break
            if word in _QUALIFIERS and len(qualifiers) < 2 and _AFTER.match(sentence, after.end()):
                qualifiers.append(word)
                position = after.end()
                continue
            following, end = word, after.end()
            break
        if stem(following) in _UNIT_STEMS or following in _UNIT_STEMS:
            unit = following
    if second is not None and second <= first:
        second = None
    if unit:
        return _measured(sentence, m, first, second, unit, qualifiers, start, end)
    if _is_name(previous, head, following):
        return _name(f"{previous} {m['first']}", start, m.end())
    if following and following not in _VERBS and following not in STOP_WORDS:
        counted = stem(following)
        text = sentence[start:end]
        return Quantity(
            "number", f"count {counted}", first, second or first, " ".join([*qualifiers, counted]),
            _bound(head), text, start, end,
        )  # fmt: skip
    if m["first"].lower() in NUMBER_WORDS:
        return None  # "one" and "two" alone are pronouns more often than amounts
    about = next((w for w in reversed(re.findall(r"[^\W\d_]{2,}", head.lower())) if w not in STOP_WORDS), "")
    text = f"{previous} {m['first']}" if previous.lower() == about else m["first"]
    return Quantity("number", f"bare {stem(about)}", first, second or first, "", _bound(head), text, start, m.end())


def _measured(
    sentence: str,
    m: re.Match[str],
    first: float,
    second: float | None,
    unit: str,
    qualifiers: list[str],
    start: int,
    end: int,
) -> Quantity:
    """An amount with a unit that we know."""
    dimension, least, most = _UNIT_STEMS.get(unit) or _UNIT_STEMS[stem(unit)]
    if per := _PER.match(sentence, end):
        dimension, end = f"{dimension}/{stem(per.group(1).lower())}", per.end()
    working = dimension == "time" and bool(_WORKING & set(qualifiers))
    high = (second or first) * most
    if working:
        qualifiers, high = ["working"], high * 1.4 + 2 * _DAY
    name = " ".join([*qualifiers, stem(unit.lower())])
    return Quantity(
        "number", dimension, first * least, high, name, _bound(sentence[:start]), sentence[start:end], start, end
    )


def _is_name(previous: str, head: str, following: str) -> bool:
    """Whether a number without a known unit belongs to the word before it, as in "Fibre 100"."""
    if not previous or previous.lower() in STOP_WORDS:
        return False
    if previous.lower() in _NAMING:
        return True
    if not previous[0].isupper():
        return False
    begins = not head.strip().removesuffix(previous).strip()
    return not begins or not following or following in _VERBS or following in STOP_WORDS


def _read_names(sentence: str, _: object) -> Iterator[Quantity]:
    for m in _ALNUM.finditer(sentence):
        yield _name(m.group(), m.start(), m.end())


def _name(text: str, start: int, end: int) -> Quantity:
    return Quantity("name", text.lower(), 0.0, 0.0, "", "", text, start, end)


def _value(text: str) -> float:
    low = text.lower()
    if low in NUMBER_WORDS:
        return float(NUMBER_WORDS[low])
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", text):
        return float(text.replace(",", ""))
    return float(text.replace(",", "."))


def _bound(head: str) -> Literal["", "at least", "at most"]:
    tail = head[-40:]
    if _UPPER.search(tail):
        return "at most"
    return "at least" if _LOWER.search(tail) else ""
