"""Mistakes in files and settings, in plain words: where one stands, what is wrong, the nearest valid value.

Translates pydantic's findings into sentences. Reads no file and knows no format.
"""

import datetime
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from agentmesh.errors import nearest

__all__ = [
    "ANYTHING",
    "Mistake",
    "Place",
    "Steps",
    "dotted",
    "explain",
    "looks_secret",
    "names_secret",
    "place",
    "shown",
    "suggest",
    "unknown",
    "validated",
]

Steps = tuple[str | int, ...]
"""Keys and list indices from the top of a file to one value."""

M = TypeVar("M", bound=BaseModel)

SHOWN_CHARS = 40
"""Characters of a wrong value that are repeated in a message."""

_SECRET_NAME = re.compile(
    r"^(?:.*[_-])?(?:api[_-]?key|secret(?:[_-]?key)?|access[_-]?(?:key|token)|auth[_-]?token|private[_-]?key|"
    r"password|passwd|token|bearer|credentials?)$",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"^\s*(?:Bearer\s+)?(?:(?:sk|pk|rk)-[\w-]{4,}|gsk_\w{8,}|xai-\w{8,}|ghp_\w{8,}|github_pat_\w{8,}|glpat-[\w-]{8,}|"
    r"hf_\w{16,}|AIza[\w-]{16,}|AKIA\w{12,}|xox[abeprs]-[\w-]{8,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]+:[^/\s@]+@"
)


@dataclass(frozen=True)
class Mistake:
    """One thing that a person must correct. Prints as `agents/vpn.md:4: role: no role is called 'solvr'`."""

    file: str
    """Path relative to the project, or the name of an environment variable."""
    line: int | None
    """Counted from 1; None where no line can be named."""
    key: str
    """The key's path, e.g. `limits.timeout_s` or `tasks[3].ask`; empty for the file as a whole."""
    text: str
    """What is wrong, and the next step."""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line is not None else self.file
        return ": ".join(part for part in (where, self.key, self.text) if part)


def dotted(steps: Sequence[str | int]) -> str:
    """`("tasks", 3, "ask")` as `tasks[3].ask`; indices count from 0."""
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def suggest(name: str, known: Iterable[str], *, most: int = 12) -> str:
    """The end of a sentence about an unknown name: the nearest known one, or else all of them (at most `most`)."""
    names = sorted(known)
    if close := nearest(name, names):
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names[:most])}{', ...' if len(names) > most else ''}" if names else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """`no router is called 'semntic'; did you mean 'semantic'?`"""
    return f"no {kind} is called {shown(name)}{suggest(name, known)}"


def names_secret(key: str) -> bool:
    """Whether a key of this name holds a secret (`api_key` does, `api_key_env` and `max_tokens` do not)."""
    return bool(_SECRET_NAME.match(key))


def looks_secret(value: object) -> bool:
    """Whether this is text in the form of a provider's key, a private key, or a URL with a password."""
    return isinstance(value, str) and bool(_SECRET_VALUE.search(value))


def shown(value: object) -> str:
    """A wrong value for a message: short, in words, and never a secret."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case str() if looks_secret(value):
            return "a value that is not shown"
        case str():
            return repr(value if len(value) <= SHOWN_CHARS else value[: SHOWN_CHARS - 1] + "…")
        case int():
            return f"{value}" if -(10**SHOWN_CHARS) < value < 10**SHOWN_CHARS else "a huge number"
        case float():
            return f"{value:g}"
        case datetime.date():
            return f"the date {value}"
        case Mapping():
            return "a group of keys"
        case list() | tuple() | set() | frozenset():
            return "a list"
        case _:
            return "a value of another kind"


# --- where a path of keys leads in a model ----------------------------------------------------------------------------


class Place(NamedTuple):
    """What stands at one path: its type, without `None` and annotations, and its field or bounds if it has them."""

    type: Any
    metadata: tuple[Any, ...] = ()
    optional: bool = False

    @property
    def fields(self) -> dict[str, FieldInfo]:
        """The keys that are valid below it, by the name that a file uses; empty where any or none is."""
        if not (isinstance(self.type, type) and issubclass(self.type, BaseModel)):
            return {}
        return {field.alias or name: field for name, field in self.type.model_fields.items()}


ANYTHING = Place(Any)
"""Below `options`, say: no key is wrong there."""


def place(model: type[BaseModel], steps: Sequence[str | int]) -> Place | None:
    """What stands at this path of the model, or None if no such key can."""
    here = Place(model)
    for step in steps:
        below = _below(here, step)
        if below is None:
            return None
        here = below
    return here


def _below(here: Place, step: str | int) -> Place | None:
    if here.type is Any:
        return ANYTHING
    if here.fields:
        field = here.fields.get(str(step))
        return _bare(field.annotation, tuple(field.metadata)) if field else None
    inner = get_args(here.type)
    match get_origin(here.type):
        case origin if origin is dict:
            return _bare(inner[1])
        case origin if origin in (tuple, list, set, frozenset):
            fixed = origin is tuple and Ellipsis not in inner
            return _bare(inner[step] if fixed and isinstance(step, int) and step < len(inner) else inner[0])
        case _:
            return None


def _bare(annotation: Any, metadata: tuple[Any, ...] = ()) -> Place:
    """Take `Annotated` and `| None` off."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return _bare(inner, (*metadata, *more))
    if get_origin(annotation) in (Union, UnionType):
        choices = [a for a in get_args(annotation) if a is not NoneType]
        bare = _bare(choices[0], metadata) if len(choices) == 1 else Place(annotation, metadata)
        return bare._replace(optional=len(choices) < len(get_args(annotation)))
    more = tuple(m for item in metadata for m in (item.metadata if isinstance(item, FieldInfo) else (item,)))
    return Place(annotation, more)


# --- what pydantic found, in words ------------------------------------------------------------------------------------

_NEEDS = {
    "string": "must be text",
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "tuple": "must be a list",
    "list": "must be a list",
    "dict": "must be a group of keys",
    "model": "must be a group of keys",
    "mapping": "must be a group of keys",
    "path": "must be a path",
    "finite": "must be a finite number",
}


def validated(model: type[M], values: Mapping[str, Any]) -> tuple[M | None, list[tuple[Steps, str]]]:
    """The value that a file describes, or None with every mistake: the path of its key and a sentence without the key.

    Text in the form of a number is taken for the number; true and false are not.
    """
    found = [
        (steps, f"must be a number, not {shown(value)}")
        for steps, value in _leaves(values)
        if isinstance(value, bool) and (here := place(model, steps)) and here.type in (int, float)
    ]
    try:
        made = model.model_validate(values)
    except ValidationError as error:
        return None, [*found, *explain(error, model)]
    return (None if found else made), found


def _leaves(value: object, steps: Steps = ()) -> Iterator[tuple[Steps, object]]:
    if isinstance(value, Mapping):
        for key, inner in cast("Mapping[str, object]", value).items():
            yield from _leaves(inner, (*steps, key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(cast("Sequence[object]", value)):
            yield from _leaves(inner, (*steps, index))
    else:
        yield steps, value


def explain(error: ValidationError, model: type[BaseModel]) -> Iterator[tuple[Steps, str]]:
    """Every finding as the path of its key and a sentence without the key: no type names, no links, no secrets."""
    for detail in error.errors(include_url=False):
        steps = tuple(detail["loc"])
        if steps[-1:] == ("[key]",):
            steps = steps[:-1]
        yield steps, _sentence(detail, steps, model)


def _sentence(detail: ErrorDetails, steps: Steps, model: type[BaseModel]) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    name = str(steps[-1]) if steps else ""
    instead = "" if names_secret(name) or name.endswith("_env") else f", not {shown(value)}"
    if kind == "missing" and steps and isinstance(steps[-1], int):
        return "is missing; give every entry of the list"
    if kind == "missing":
        return f"is missing; add `{name}: ...`"
    if value is None and kind.endswith("_type"):
        return "has no value; give it one, or take the key out"
    if kind == "extra_forbidden":
        parent = place(model, steps[:-1])
        return f"unknown key{suggest(name, parent.fields if parent else ())}"
    if kind in ("literal_error", "enum"):
        known = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        close = nearest(value, known) if isinstance(value, str) else ()
        choice = str(context.get("expected", "another value"))
        return f"must be {choice}{instead}" + (f"; did you mean {close[0]!r}?" if close else "")
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        return f"must be {_range(place(model, steps), context)}{instead}"
    if kind in ("too_short", "too_long"):
        least, most = context.get("min_length"), context.get("max_length")
        bound = f"at least {least}" if kind == "too_short" else f"at most {most}"
        return f"must have {bound} entries, not {context.get('actual_length')}"
    if kind == "string_too_short":
        return "is empty; write some text"
    if kind == "string_pattern_mismatch":
        subject = shown(value) if instead else "this"
        return f"{subject} is not a valid name; use letters, digits, '_' and '-', and begin with a letter"
    if kind in ("value_error", "assertion_error"):
        return str(context.get("error", detail["msg"]))
    need = _NEEDS.get(kind.split("_")[0], "is not valid here")
    if kind == "string_type" and isinstance(value, bool | int | float | datetime.date):
        return f"{need}{instead}; put it in quotes"
    if need == "must be a list" and isinstance(value, str) and not looks_secret(value):
        return f"{need}{instead}; write it in square brackets"
    return need + instead


def _range(here: Place | None, context: Mapping[str, Any]) -> str:
    """`between 0 and 10`, `above 0 and at most 3600`, `64 or more`: the whole range, though only one end is broken."""
    bounds: dict[str, Any] = {k: v for k, v in context.items() if k in ("gt", "ge", "lt", "le")}
    for item in here.metadata if here else ():
        for end in ("gt", "ge", "lt", "le"):
            if (limit := getattr(item, end, None)) is not None:
                bounds.setdefault(end, limit)
    ends = {k: f"{v:,}".replace(",", " ") if isinstance(v, int) else f"{v:g}" for k, v in bounds.items()}
    if "ge" in ends and "le" in ends:
        return f"between {ends['ge']} and {ends['le']}"
    words = {"gt": "above {}", "ge": "{} or more", "lt": "below {}", "le": "at most {}"}
    return " and ".join(words[end].format(ends[end]) for end in words if end in ends)
