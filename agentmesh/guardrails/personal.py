"""Personal data: e-mail addresses, phone numbers, IBANs, payment card numbers. Patterns and checksums, no model."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from agentmesh.errors import UnknownNameError
from agentmesh.guardrails.base import EVERYWHERE, PASSED, Action, Verdict, action_of, readable
from agentmesh.guardrails.spans import Span, aside, count, texts_option, verdict_about, where_or
from agentmesh.run import RunContext

__all__ = ["PersonalRule", "luhn"]


class PersonalRule:
    """Finds e-mail addresses, phone numbers, IBANs and payment card numbers.

    An IBAN must have its country's length and a valid checksum, a card number a valid Luhn digit and 13 to 19 digits
    of which the first is 2 to 6: about one in ten random numbers of such a form is taken for a card. Phone numbers
    need a `+`, `00`, a bracket around the area code, or separators; what looks like a date is left alone.

    Does not find: names, postal addresses, dates of birth, national identity numbers, phone numbers without a
    separator, anything spelled out ("ann at example dot org") or cut by line ends, user names without an `@`.

    Args:
        kinds: Which of email, phone, iban, card; all if nothing is said.
        name: What the trace calls the rule.
        where: One place or several.
        action: redact (the kind stands in its place: `[email]`), block, flag or ask.
    """

    def __init__(
        self,
        *,
        kinds: str | Sequence[str] = ("email", "phone", "iban", "card"),
        name: str = "personal",
        where: str | Iterable[str] | None = None,
        action: str = Action.REDACT,
    ) -> None:
        self.name = name
        self.where = where_or(where, EVERYWHERE, action)
        self.action = action_of(name, action, self.where)
        self._kinds = texts_option("kinds", kinds)
        for kind in self._kinds:
            if kind not in _FINDERS:
                raise UnknownNameError("kind of personal data", kind, list(_FINDERS), where="option 'kinds'")

    async def check(self, text: str, ctx: RunContext) -> Verdict:
        spans = await aside(self._search, readable(text))
        if not spans:
            return PASSED
        counts = {kind: sum(s.what == kind for s in spans) for kind in _FINDERS}
        listed = ", ".join(count(n, *_KIND_NAMES[kind]) for kind, n in counts.items() if n)
        return verdict_about(self.action, text, spans, f"holds {listed}", lambda span: f"[{span.what}]")

    def _search(self, text: str) -> list[Span]:
        spans: list[Span] = []
        taken = bytearray(len(text))
        for kind, find in _FINDERS.items():  # the surest kind first: an IBAN holds what looks like a phone number
            if kind in self._kinds:
                for start, end in find(text):
                    if not any(taken[start:end]):
                        taken[start:end] = b"\1" * (end - start)
                        spans.append(Span(start, end, kind))
        return sorted(spans)


_IBAN_LENGTHS = {
    15: "NO", 16: "BE", 18: "DK FI FK FO GL NL", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
    29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
}  # fmt: skip
"""Characters of an IBAN by country: the IBAN registry of ISO 13616, as lists drawn from it have it."""
_IBAN_LENGTH = {country: length for length, countries in _IBAN_LENGTHS.items() for country in countries.split()}

_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]){11,30}")
_DIGIT_GROUPS = re.compile(r"(?<!\d)(?<!\d[.,])\d{4,19}(?:[ -]\d{1,19})*(?!\d|[.,]\d)")
_PHONE = re.compile(
    r"""(?<![\w+])(?<!\d[./-])(?:
        \+[ ]?[1-9](?:[ ./-]?[(]?\d[)]?){6,14}      # international; at most 15 digits, E.164
      | 00[1-9](?:[ ./-]?\d){7,13}                  # the same, dialled from most of Europe
      | [(]\d{2,5}[)][ ]?\d(?:[ ./-]?\d){5,9}       # (030) 1234567, (555) 010-0199
      | \d{3}[ .-]\d{3}[ .-]\d{4}                   # 555-010-0199
      | 0\d{2,4}[ /-]\d{3,4}[ -]?\d{2,4}(?:[ -]?\d{2,4})?   # 020 7946 0958
    )(?![\w]|[.,]\d)""",
    re.VERBOSE,
)


def _emails(text: str) -> Iterator[tuple[int, int]]:
    if "@" in text:
        yield from (match.span() for match in _EMAIL.finditer(text))


def _phones(text: str) -> Iterator[tuple[int, int]]:
    yield from (match.span() for match in _PHONE.finditer(text))


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    """Spans of the right length for their country whose checksum holds: ISO 7064, mod 97-10, remainder 1."""
    at = 0
    while match := _IBAN.search(text, at):
        at = match.start() + 1
        places = [n for n in range(*match.span()) if text[n] != " "]
        length = _IBAN_LENGTH.get(match[0][:2].upper(), 0)
        if not 0 < length <= len(places):
            continue
        end = places[length - 1] + 1
        moved = [text[n].upper() for n in (*places[4:length], *places[:4])]
        if not text[end : end + 1].isalnum() and int("".join(str(int(c, 36)) for c in moved)) % 97 == 1:
            yield match.start(), end
            at = end


def _cards(text: str) -> Iterator[tuple[int, int]]:
    """The longest runs of whole groups of digits with 13 to 19 digits, a first digit 2 to 6 and a valid Luhn digit."""
    for match in _DIGIT_GROUPS.finditer(text):
        run = match[0]
        groups = [m.span() for m in re.finditer(r"\d+", run)]
        at = 0
        while at < len(groups):
            for last in range(min(len(groups), at + 19), at, -1):
                digits = "".join(run[a:b] for a, b in groups[at:last])
                if 13 <= len(digits) <= 19 and digits[0] in "23456" and luhn(digits):
                    yield match.start() + groups[at][0], match.start() + groups[last - 1][1]
                    at = last
                    break
            else:
                at += 1


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others: ISO/IEC 7812-1, annex B.

    From the right, every second digit is doubled, 9 taken off where that is above 9; the sum must end in 0.
    """
    total = 0
    for n, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + n % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


_FINDERS: dict[str, Callable[[str], Iterator[tuple[int, int]]]] = {
    "iban": _ibans,
    "card": _cards,
    "email": _emails,
    "phone": _phones,
}
_KIND_NAMES = {
    "iban": ("IBAN", "IBANs"),
    "card": ("payment card number", "payment card numbers"),
    "email": ("e-mail address", "e-mail addresses"),
    "phone": ("phone number", "phone numbers"),
}
