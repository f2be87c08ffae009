"""One recorded call: what it means, how it is written, and in which words two of them differ. No files here."""

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import ValidationError

import agentmesh.errors
from agentmesh.errors import MeshError
from agentmesh.models.base import ChatReply, ModelInfo

__all__ = ["INFO", "MODEL", "TOOL", "TOOLS", "Call", "asked_in", "call_of", "class_of", "counted", "differences",
           "error_of", "json_text", "key_of", "named", "nearest_call", "order_of", "reason_of", "short"]  # fmt: skip

INFO, MODEL, TOOL, TOOLS = "info", "model", "tool", "tools"
"""Kinds of calls: what is known of a model, a model's answer, a tool's result, the list of tools."""
SHOWN_CHARS = 160
"""Characters of a value in a message about a miss."""
SHOWN_PLACES = 3
"""Places that such a message shows, where the nearest recording differs."""
COMPARED = 5
"""Recordings that are compared closely, of those that look alike at first sight."""
COMPARED_CHARS = 4000
"""Characters of a request that the search for the nearest recording looks at: it takes quadratic time."""


@dataclass(frozen=True)
class Call:
    """One recorded call. Two calls with the same `key` mean the same."""

    kind: str
    of: str
    """Name of the model or the toolset."""
    request: Any
    reply: Any = None
    error: tuple[str, str] | None = None
    """Name of the class and the text."""

    @property
    def key(self) -> str:
        return key_of(self.kind, self.of, self.request)

    @property
    def text(self) -> str:
        """What is asked, for people: the last words of a prompt, or a tool with its arguments."""
        return asked_in(self.kind, self.request)

    def line(self) -> str:
        said = {"reply": self.reply} if self.error is None else {"error": list(self.error)}
        return json_text({"call": self.kind, "of": self.of, "request": self.request, **said})


def key_of(kind: str, of: str, request: Any) -> str:
    meaning = json.dumps([kind, of, request], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(meaning.encode()).hexdigest()


def json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def order_of(call: Call) -> tuple[int, str, str]:
    """Where a call stands in the file: what is known of models first, then calls that are like one another together."""
    return (INFO, TOOLS, MODEL, TOOL).index(call.kind), call.of, json.dumps(call.request, sort_keys=True)


def call_of(fields: Mapping[str, Any]) -> Call:
    kind, error = fields["call"], fields.get("error")
    if kind not in (INFO, TOOLS, MODEL, TOOL):
        raise ValueError(f"no call is of the kind {kind!r}")
    if error is not None:
        name, text = error
        return Call(kind, str(fields["of"]), fields["request"], error=(str(name), str(text)))
    reply = fields["reply"]
    form = {INFO: ModelInfo, MODEL: ChatReply}.get(kind)
    if form is not None:
        form.model_validate(reply)
    elif not isinstance(reply, list if kind == TOOLS else dict):
        raise ValueError("the reply has another form")
    return Call(kind, str(fields["of"]), fields["request"], reply=reply)


def reason_of(error: Exception) -> str:
    match error:
        case ValidationError():
            first = error.errors(include_url=False)[0]
            return f"reply.{'.'.join(map(str, first['loc']))}: {first['msg']}"
        case json.JSONDecodeError():
            return f"it is no JSON: {error.msg}"
        case KeyError():
            return f"it lacks {error.args[0]!r}"
        case _:
            return str(error)


def class_of(error: MeshError, errors: type[MeshError]) -> str:
    """The nearest class of the error that agentmesh itself has: a project's own may be gone when it is replayed."""
    ours = (c for c in type(error).__mro__ if c.__module__ == agentmesh.errors.__name__ and issubclass(c, errors))
    return next(ours, errors).__name__


def error_of(said: tuple[str, str], errors: type[MeshError]) -> MeshError:
    name, text = said
    found = getattr(agentmesh.errors, name, errors)
    return found(text) if isinstance(found, type) and issubclass(found, errors) else errors(text)


# --- words about a miss -----------------------------------------------------------------------------------------------


def named(kind: str, of: str) -> str:
    return f"the model {of!r}" if kind in (MODEL, INFO) else f"the toolset {of!r}"


def asked_in(kind: str, request: Any) -> str:
    if kind == TOOL:
        return f"{request['tool']}({', '.join(f'{k}={json_text(v)}' for k, v in request['arguments'].items())})"
    if kind == MODEL:
        return repr(request["messages"][-1].get("text", "")) if request.get("messages") else "without a message"
    return "the list of tools"


def short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARS else f"{line[: SHOWN_CHARS // 2]} ... {line[-SHOWN_CHARS // 2 :]}"


def counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' if n != 1 else ''}"


def nearest_call(calls: Sequence[Call], of: str, request: Any) -> Call:
    """The recorded call whose request looks most like this one; those of the same model or toolset come first."""
    matcher = difflib.SequenceMatcher(None)
    matcher.set_seq2(json_text(request)[-COMPARED_CHARS:])

    def likeness(call: Call, *, quick: bool) -> tuple[bool, float]:
        matcher.set_seq1(json_text(call.request)[-COMPARED_CHARS:])
        return call.of == of, matcher.quick_ratio() if quick else matcher.ratio()

    best = sorted(calls, key=lambda call: likeness(call, quick=True), reverse=True)[:COMPARED]
    return max(best, key=lambda call: likeness(call, quick=False))


def differences(near: Call, of: str, request: Any) -> Iterator[str]:
    """The first places in which a recorded request and the present one differ, two lines each."""
    recorded, asked = dict(_leaves(near.request, "")), dict(_leaves(request, ""))
    if near.of != of:
        recorded, asked = {"name": near.of, **recorded}, {"name": of, **asked}
    places = [p for p in dict.fromkeys([*asked, *recorded]) if recorded.get(p) != asked.get(p)]
    for place in places[:SHOWN_PLACES]:
        before, now = _around(recorded.get(place), asked.get(place))
        yield f"  {place}:"
        yield f"    - {before}"
        yield f"    + {now}"
    if len(places) > SHOWN_PLACES:
        yield f"  and {counted(len(places) - SHOWN_PLACES, 'more place')}"


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Every plain value in a JSON value, under its path: `messages[1].text`."""
    if isinstance(value, dict):
        for key, inner in cast("dict[str, Any]", value).items():
            yield from _leaves(inner, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for n, inner in enumerate(cast("list[Any]", value)):
            yield from _leaves(inner, f"{place}[{n}]")
    else:
        yield place, value


def _around(before: Any, now: Any) -> tuple[str, str]:
    """Both values, cut to where two long texts begin to differ."""
    if not (isinstance(before, str) and isinstance(now, str)):
        return _plain(before), _plain(now)
    start = max(0, _same_chars(before, now) - SHOWN_CHARS // 4)
    cut = [("... " if start else "") + text[start : start + SHOWN_CHARS] for text in (before, now)]
    return json_text(cut[0]), json_text(cut[1])


def _same_chars(one: str, other: str) -> int:
    """How many characters two texts have in common at their start."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _plain(value: Any) -> str:
    return "(nothing)" if value is None else short(json_text(value))
