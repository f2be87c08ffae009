"""Takes secrets out of what is about to be written: known values, and texts that have the shape of a well-known key.

It is a net under the other rules (prompts are not kept by default, settings hold no secrets), not a proof: a secret
without a shape that stands in no environment variable passes.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, cast

from pydantic_core import from_json, to_json

__all__ = ["REDACTED", "Redactor", "secret_values"]

REDACTED = "[redacted]"
LEAST_CHARS = 8
"""Shorter values of secret-looking variables are taken for settings, not for secrets."""

_SECRET_NAME = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE)(?:_?\d+)?$", re.IGNORECASE)
_STRUCTURE = frozenset({"type", "run_id", "step"})
"""Fields of every event whose values are names of ours; a line without them could not be read back."""


class _Shape:
    """Texts of one form: a literal, then a pattern."""

    def __init__(self, literal: str, rest: str, *, before: str = "", keep: str = "") -> None:
        """`before` is checked at the literal's end and may look back over it; `keep` stays in front of `[redacted]`."""
        self.literal = literal
        self.pattern = re.compile(re.escape(literal) + before + rest, re.DOTALL)
        self.replacement = keep + REDACTED


def _word(literal: str, rest: str) -> _Shape:
    """A shape that starts a word: `sk-...`, not `task-...`."""
    return _Shape(literal, rest, before=f"(?<![A-Za-z0-9]{re.escape(literal)})")


_DIGIT = "(?=[A-Za-z0-9_-]{0,200}[0-9])"  # bounded: hostile text would take time that grows with its square
_BEARER = "(?=[A-Za-z0-9._~+/-]*(?:[0-9]|[a-z][A-Z]))[A-Za-z0-9._~+/-]{16,}=*"
_SHAPES = (
    _word("sk-", _DIGIT + "[A-Za-z0-9_-]{16,}"),
    *(_word(prefix, "(?:live|test)_[A-Za-z0-9]{10,}") for prefix in ("sk_", "rk_")),
    *(_word(prefix, _DIGIT + "[A-Za-z0-9]{24,}") for prefix in ("gsk_", "hf_", "npm_", "xai-")),
    *(_word(prefix, "[A-Za-z0-9]{20,}") for prefix in ("ghp_", "gho_", "ghu_", "ghs_", "ghr_")),
    *(_word(prefix, _DIGIT + "[A-Za-z0-9_-]{20,}") for prefix in ("github_pat_", "glpat-")),
    *(_word(prefix, "[A-Z0-9]{16}(?![A-Za-z0-9])") for prefix in ("AKIA", "ASIA")),
    _word("AIza", "[A-Za-z0-9_-]{35}"),
    _word("xox", "[abeprs]-[A-Za-z0-9-]{10,}"),
    _word("eyJ", r"[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}"),
    _Shape("earer ", _BEARER, before="(?<=[Bb]earer )", keep="earer "),
    _Shape("-----BEGIN ", "[A-Z ]{0,24}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,24}PRIVATE KEY-----|\\Z)"),
    _Shape("://", r"[^\s/@:\"'<>]*:[^\s/@\"'<>]+(?=@)", keep="://"),
)
"""The prefixes that OpenAI, Anthropic, Stripe, Groq, Hugging Face, npm, xAI, GitHub, GitLab, AWS, Google and Slack give
their keys; JWT (RFC 7519), Bearer (RFC 6750), PEM (RFC 7468), user:password@ of a URL (RFC 3986, 3.2.1).
The least lengths, and that some must hold a digit, are our choice: words and names do not match.
"""

_MARKS = (
    (b"-", rb"-(?:(?:(?<=sk-)|(?<=xai-)|(?<=glpat-)|(?<=xox.-))[\w-]{10}|----BEGIN )"),
    (b"_", rb"_(?<=[kfmptousr]_)(?:(?:live|test)_|[\w-]{20})"),
    (b"A", rb"A(?:KIA|SIA|Iza)[\w-]{16}"),
    (b"J", rb"J(?<=eyJ)[\w-]{8,}\."),
    (b"@", rb"://[^\s/@:\"]*:[^\s/@\"]+@"),
    (b"earer ", rb"earer [A-Za-z0-9._~+/-]{16}"),
)
"""What a serialised line must hold before it is looked at closely: a literal that is searched for fast, and a pattern
that matches whatever a shape matches, and a little more."""
_SUSPICIONS = tuple((mark, re.compile(pattern)) for mark, pattern in _MARKS)


def secret_values(environ: Mapping[str, str], *, names: Collection[str] = ()) -> frozenset[str]:
    """Values of the variables whose names end like a secret's (`..._KEY`, `..._TOKEN`, ...), or stand in `names`.

    Values of fewer than 8 characters are left out.
    """
    found = {value.strip() for name, value in environ.items() if name in names or _SECRET_NAME.search(name)}
    return frozenset(value for value in found if len(value) >= LEAST_CHARS)


class Redactor:
    """Replaces secrets by `[redacted]`. Its own values show in no repr."""

    def __init__(self, values: Collection[str] = ()) -> None:
        """Know these values besides the well-known shapes; `secret_values(os.environ)` finds the usual ones."""
        longest_first = sorted(values, key=len, reverse=True)
        self._values = tuple((to_json(v)[1:-1], v) for v in longest_first)

    def __repr__(self) -> str:
        return "Redactor()"

    def line(self, line: bytes) -> bytes:
        """One JSON document with the secrets in its strings replaced; still the same document otherwise.

        It is UTF-8 as pydantic writes it: only what JSON demands is escaped, so that known values are recognised.

        A line without any mark of a secret is given back as it is, in microseconds.
        """
        for mark, _ in self._values:
            if mark in line:
                break
        else:
            for mark, pattern in _SUSPICIONS:
                if mark in line and pattern.search(line):
                    break
            else:
                return line
        document = from_json(line)
        if isinstance(document, dict):
            fields = cast("dict[str, Any]", document)
            return to_json({k: v if k in _STRUCTURE else self._walk(v) for k, v in fields.items()})
        return to_json(self._walk(document))

    def text(self, text: str) -> str:
        """The text with the secrets in it replaced."""
        for _, value in self._values:
            text = text.replace(value, REDACTED)
        return _without_shapes(text)

    def _walk(self, value: Any) -> Any:
        """The JSON value with its strings cleaned; keys of objects of shapes only, since most are names of fields."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._walk(v) for v in cast("list[Any]", value)]
        if isinstance(value, dict):
            return {_without_shapes(k): self._walk(v) for k, v in cast("dict[str, Any]", value).items()}
        return value


def _without_shapes(text: str) -> str:
    for shape in _SHAPES:
        if shape.literal in text:
            text = shape.pattern.sub(shape.replacement, text)
    return text
