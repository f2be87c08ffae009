"""Model and tool calls, recorded once and replayed from then on: tests that need no network and cost nothing.

A cassette is one file of JSON lines for people to read and to compare: a header, then one call a line with its request
and its reply, in an order that depends on nothing but what was asked. It is not a cache: a call that it does not hold is
a mistake, and says so twice, where it happens and at the end (`Cassette.check`), because an agent turns whatever goes
wrong within it into a failed reply.
"""

import asyncio
import difflib
import hashlib
import json
import os
import re
import tempfile
import threading
import weakref
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

from pydantic import ValidationError

import agentmesh.errors
from agentmesh.errors import MeshError, ModelError, ModelReplyError, ToolError
from agentmesh.models.base import ChatChunk, ChatModel, ChatReply, ChatRequest, ModelInfo, ToolSpec
from agentmesh.models.wire import valid_text
from agentmesh.run import RunContext
from agentmesh.tools.base import Toolset
from agentmesh.trace.redact import Redactor, secret_values

__all__ = ["Cassette", "CassetteError", "CassetteMissError", "CassetteModel", "CassetteToolset", "CassetteMode"]

CassetteMode = Literal["replay", "record", "auto"]
"""`replay`: nothing is called and nothing written. `record`: everything is called, what stood there is replaced.
`auto`: what is recorded is replayed, the rest is called and added."""
VERSION = 1
"""Of the file format."""
SHOWN_CHARS = 160
"""Characters of a value in a message about a miss."""
SHOWN_PLACES = 3
"""Places that such a message shows, where the nearest recording differs."""
COMPARED = 5
"""Recordings that are compared closely, of those that look alike at first sight."""
COMPARED_CHARS = 4000
"""Characters of a request that the search for the nearest recording looks at: it takes quadratic time."""

_INFO, _MODEL, _TOOL, _TOOLS = "info", "model", "tool", "tools"
_ALWAYS = ("max_output_tokens", "temperature", "seed")
"""Fields of a request that are written even where they have their default: the default may change."""
_PIECES = re.compile(r"\s*\S+\s*\Z|\s*\S+|\s+\Z")


class CassetteError(MeshError):
    """A cassette cannot be used as it is."""


class CassetteMissError(CassetteError):
    """A call was made that the cassette does not hold."""


@dataclass(frozen=True)
class _Call:
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
        return _key(self.kind, self.of, self.request)

    @property
    def text(self) -> str:
        """What is asked, for people: the last words of a prompt, or a tool with its arguments."""
        return _asked(self.kind, self.request)

    def line(self) -> str:
        said = {"reply": self.reply} if self.error is None else {"error": list(self.error)}
        return _json({"call": self.kind, "of": self.of, "request": self.request, **said})


class Cassette:
    """One file of recorded calls, for any number of models and toolsets.

    Used as a context manager it ends with `check`, so that a call that it did not hold fails the test even where an
    agent made a failed reply of it.

    Args:
        path: The file, `.jsonl`. Written after every call, as a whole or not at all, unless the mode is `replay`.
        mode: See `CassetteMode`.
        secrets: Values that are never written, besides those of secret-looking variables of the environment and
            whatever has the shape of a key.

    Raises:
        CassetteError: If the file is to be replayed and is missing, empty, damaged or of another version.
    """

    def __init__(self, path: str | Path, mode: CassetteMode = "replay", *, secrets: Sequence[str] = ()) -> None:
        if mode not in ("replay", "record", "auto"):
            raise CassetteError(f"a cassette has no mode {mode!r}; use 'replay', 'record' or 'auto'")
        self.path, self.mode = Path(path), mode
        self._failures: list[CassetteError] = []
        self._redactor = Redactor({*secret_values(os.environ), *(s for s in secrets if s)})
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._dirty = False
        held = [] if mode == "record" or (mode == "auto" and not self.path.exists()) else self._read()
        self._calls: dict[str, list[_Call | None]] = {}
        """What is held, by key, in the order in which it is replayed; None: begun and not finished."""
        self._used: Counter[str] = Counter()
        for call in held:
            self._calls.setdefault(call.key, []).append(call)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.check()
        elif self._failures and error not in self._failures:
            error.add_note(str(self._failed()))

    @property
    def misses(self) -> tuple[str, ...]:
        """What was asked for in vain since the last `check`, or could not be recorded; one message each."""
        with self._lock:
            return tuple(str(failure) for failure in self._failures)

    @property
    def unused(self) -> tuple[str, ...]:
        """What is recorded and was not asked for, in words."""
        with self._lock:
            left = [
                call
                for key, calls in self._calls.items()
                for call in calls[self._used[key] :]
                if call is not None and call.kind in (_MODEL, _TOOL)
            ]
        return tuple(f"{_named(call.kind, call.of)}: {_short(call.text)}" for call in left)

    def check(self, *, unused: bool = False) -> None:
        """Raise if a call was missed, or not recorded, since the cassette was opened or last checked.

        Args:
            unused: Whether a recording that nobody asked for is a mistake, too.

        Raises:
            CassetteMissError: With every miss.
            CassetteError: With every recording that was not asked for, or that could not be written.
        """
        if self._failures:
            failed = self._failed()
            with self._lock:
                self._failures.clear()
            raise failed
        if unused and (left := self.unused):
            shown = "".join(f"\n  {text}" for text in left)
            raise CassetteError(
                f"{self.path} holds {_count(len(left), 'recording')} that nobody asked for; "
                f"record it anew with mode='record':{shown}"
            )

    # --- for the model and the toolset --------------------------------------------------------------------------------

    def infos(self) -> dict[str, ModelInfo]:
        """What is known of the models that were recorded, by name."""
        with self._lock:
            found = [c for calls in self._calls.values() for c in calls if c is not None and c.kind == _INFO]
        return {call.of: ModelInfo.model_validate(call.reply) for call in found}

    async def play(
        self, kind: str, of: str, request: Any, live: Callable[[], Awaitable[Any]] | None, errors: type[MeshError]
    ) -> Any:
        """The recorded reply to a call, or the reply of `live`, which is recorded.

        Args:
            kind: `model`, `tool` or `tools`.
            of: Name of the model or the toolset.
            request: What it means, as JSON values.
            live: Makes the call; None: it cannot be made.
            errors: What of the exceptions of `live` is recorded; others pass through.

        Returns:
            The reply as JSON values; from `live`, as it came.

        Raises:
            CassetteMissError: If nothing is recorded and the call is not made.
            CassetteError: If it cannot be recorded.
        """
        try:
            return await self._play(kind, of, request, live, errors)
        except CassetteError as error:
            with self._lock:
                self._failures.append(error)
            raise

    async def _play(
        self, kind: str, of: str, request: Any, live: Callable[[], Awaitable[Any]] | None, errors: type[MeshError]
    ) -> Any:
        request = self._clean(request)
        key = _key(kind, of, request)
        with self._lock:
            calls = self._calls.setdefault(key, [])
            place = self._used[key] if kind != _TOOLS else 0
            held = calls[place] if place < len(calls) else None
            recording = held is None and self.mode != "replay" and live is not None
            if recording and (kind != _TOOLS or not calls):
                calls.append(None)
            if held is not None or recording:
                self._used[key] += 1
        if held is not None:
            if held.error is not None:
                raise _error(held.error, errors)
            return held.reply
        if live is None or not recording:
            raise await asyncio.to_thread(self._miss, kind, of, request, place)
        try:
            reply = await live()
        except errors as error:
            said = (_class_of(error, errors), self._clean(str(error)))
            await self._keep(key, place, _Call(kind, of, request, error=said))
            raise
        await self._keep(key, place, _Call(kind, of, request, reply=self._clean(reply)))
        return reply

    async def know(self, info: ModelInfo) -> None:
        """Note what is known of a model, so that it can be replayed without it."""
        call = _Call(_INFO, info.name, {}, reply=info.model_dump(mode="json"))
        with self._lock:
            if self.mode == "replay" or self._calls.get(call.key) == [call]:
                return
            self._calls[call.key] = [call]

    async def _keep(self, key: str, place: int, call: _Call) -> None:
        with self._lock:
            self._calls[key][place] = call
            self._dirty = True
        await asyncio.to_thread(self._write)

    # --- misses -------------------------------------------------------------------------------------------------------

    def _miss(self, kind: str, of: str, request: Any, place: int) -> CassetteMissError:
        with self._lock:
            same = [c for c in self._calls.get(_key(kind, of, request), ()) if c is not None]
            others = [c for calls in self._calls.values() for c in calls if c is not None and c.kind == kind]
        text = f"{self.path} holds no recording of this call of {_named(kind, of)}, {_short(_asked(kind, request))}"
        if same:
            text = (
                f"{self.path} holds {_count(len(same), 'recording')} of this call of {_named(kind, of)}, "
                f"{_short(_asked(kind, request))}, and this is time {place + 1} that it is made"
            )
        elif others:
            near = _nearest(others, of, request)
            rows = "".join(f"\n{row}" for row in _differences(near, of, request))
            text = f"{text}; the nearest of its {len(others)} differs (- recorded, + asked now):{rows}\n"
        else:
            text = f"{text}, nor of any other of its kind"
        next_step = "record it with mode='record', or mode='auto' to keep the rest (pytest: --cassette=record)"
        if self.mode != "replay":
            next_step = "give a model or toolset to call, or replay what is recorded"
        text = f"{text}{next_step}" if text.endswith("\n") else f"{text}; {next_step}"
        return CassetteMissError(text)

    def _failed(self) -> CassetteError:
        """All failures as one."""
        with self._lock:
            failures = list(self._failures)
        if len(failures) == 1:
            return failures[0]
        listed = "".join(f"\n{n}. {failure}" for n, failure in enumerate(failures, start=1))
        missed = any(isinstance(failure, CassetteMissError) for failure in failures)
        return (CassetteMissError if missed else CassetteError)(f"{len(failures)} calls went past {self.path}:{listed}")

    # --- the file -----------------------------------------------------------------------------------------------------

    def _read(self) -> list[_Call]:
        again = "record it anew with mode='record' (pytest: --cassette=record)"
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise CassetteError(
                f"{self.path} does not exist; record it with mode='record' (pytest: --cassette=record)"
            ) from None
        except OSError as error:
            raise CassetteError(f"{self.path} cannot be read ({error.strerror}); check the path") from error
        except UnicodeDecodeError as error:
            raise CassetteError(f"{self.path} is damaged: it is not UTF-8; {again}") from error
        if not text.strip():
            raise CassetteError(f"{self.path} is empty; {again}")
        calls: list[_Call] = []
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
                if not isinstance(fields, dict):
                    raise TypeError("no object")
                if number == 1:
                    self._check_version(cast("dict[str, Any]", fields))
                else:
                    calls.append(_call_of(cast("dict[str, Any]", fields)))
            except (ValueError, TypeError, KeyError) as error:
                raise CassetteError(f"{self.path}:{number} is damaged ({_reason(error)}); {again}") from error
        return calls

    def _check_version(self, header: Mapping[str, Any]) -> None:
        version = header["cassette"]
        if version != VERSION:
            raise CassetteError(
                f"{self.path} is a cassette of version {version!r} and this agentmesh reads version {VERSION}; "
                "record it anew with mode='record', or use the agentmesh that wrote it"
            )

    def _write(self) -> None:
        """Write the whole file, unless somebody else's writing did it meanwhile."""
        with self._writing:
            with self._lock:
                if not self._dirty:
                    return
                self._dirty = False
                held = [[c for c in calls if c is not None] for calls in self._calls.values()]
            ordered = sorted((calls for calls in held if calls), key=lambda calls: _order(calls[0]))
            lines = [_json({"cassette": VERSION}), *(call.line() for calls in ordered for call in calls)]
            try:
                _replace(self.path, "\n".join(lines) + "\n")
            except OSError as error:
                raise CassetteError(f"{self.path} cannot be written ({error.strerror}); choose another path") from error

    def _clean(self, value: Any) -> Any:
        """The value as JSON values, without secrets and without half characters."""
        match value:
            case None | bool() | int() | float():
                return value
            case str():
                return self._redactor.text(valid_text(value))
            case Mapping():
                fields = cast("Mapping[Any, Any]", value)
                return {self._clean(str(k)): self._clean(v) for k, v in fields.items()}
            case list() | tuple():
                return [self._clean(v) for v in cast("Sequence[Any]", value)]
            case _:
                raise CassetteError(
                    f"{type(value).__name__} is no JSON value and cannot be recorded; return texts, numbers, lists and "
                    "dictionaries"
                )


class CassetteModel:
    """A chat model whose calls are recorded or replayed.

    Args:
        inner: The model that is asked while recording, and whose `info` this one has; None: replay only.
        cassette: The cassette, or its file. Whoever names the same file shares one cassette.
        mode: Of the cassette, where a file is named.
        name: Which of the recorded models this is; needed where `inner` is None and several are recorded.

    Raises:
        CassetteError: If the cassette cannot be read, or does not say which model this is.
    """

    def __init__(
        self,
        inner: ChatModel | None,
        cassette: Cassette | str | Path,
        mode: CassetteMode = "replay",
        *,
        name: str | None = None,
    ) -> None:
        self.cassette = _cassette_of(cassette, mode)
        self._inner = inner
        self._info = inner.info if inner is not None else self._recorded_info(name)

    @property
    def info(self) -> ModelInfo:
        return self._info

    async def complete(self, request: ChatRequest) -> ChatReply:
        inner = self._inner
        return await self._play(request, None if inner is None else lambda: inner.complete(request))

    async def stream(self, request: ChatRequest) -> AsyncIterator[ChatChunk]:
        inner, pieces = self._inner, asyncio.Queue[ChatChunk | None]()

        async def listen() -> ChatReply:
            assert inner is not None
            reply: ChatReply | None = None
            chunks = inner.stream(request)
            try:
                async for chunk in chunks:
                    pieces.put_nowait(ChatChunk(text=chunk.text))
                    reply = chunk.reply or reply
            finally:
                if isinstance(chunks, AsyncGenerator):
                    await chunks.aclose()
            if reply is None:
                raise ModelReplyError(f"the stream of {self._info.name!r} ended without a reply; ask again")
            return reply

        playing = asyncio.ensure_future(self._play(request, None if inner is None else listen))
        playing.add_done_callback(lambda _: pieces.put_nowait(None))
        heard = False
        try:
            while (piece := await pieces.get()) is not None:
                heard = True
                if piece.text:
                    yield piece
            reply = await playing
            for text in () if heard else _PIECES.findall(reply.text):
                yield ChatChunk(text=text)
            yield ChatChunk(reply=reply)
        finally:
            if not playing.done():
                playing.cancel()
                await asyncio.gather(playing, return_exceptions=True)

    async def aclose(self) -> None:
        if self._inner is not None:
            await self._inner.aclose()

    async def _play(self, request: ChatRequest, live: Callable[[], Awaitable[ChatReply]] | None) -> ChatReply:
        given: list[ChatReply] = []

        async def recorded() -> Any:
            assert live is not None
            reply = await live()
            given.append(reply)
            return reply.model_dump(mode="json", exclude_defaults=True)

        await self.cassette.know(self._info)
        said = await self.cassette.play(
            _MODEL, self._info.name, _meaning(request), None if live is None else recorded, ModelError
        )
        return given[0] if given else ChatReply.model_validate(said)

    def _recorded_info(self, name: str | None) -> ModelInfo:
        infos, path = self.cassette.infos(), self.cassette.path
        if not infos:
            raise CassetteError(f"{path} holds no model; give one, and record it with mode='record'")
        if name is None and len(infos) > 1:
            raise CassetteError(f"{path} holds the models {', '.join(sorted(infos))}; say which one with `name`")
        found = infos.get(name) if name is not None else next(iter(infos.values()))
        if found is None:
            raise CassetteError(f"{path} holds no model {name!r}; it holds {', '.join(sorted(infos))}")
        return found


class CassetteToolset:
    """A toolset whose calls are recorded or replayed.

    Args:
        inner: The tools that are called while recording; None: replay only.
        cassette: The cassette, or its file. Whoever names the same file shares one cassette.
        mode: Of the cassette, where a file is named.
        name: Tells several toolsets of one cassette apart.

    Raises:
        CassetteError: If the cassette cannot be read.
    """

    def __init__(
        self,
        inner: Toolset | None,
        cassette: Cassette | str | Path,
        mode: CassetteMode = "replay",
        *,
        name: str = "tools",
    ) -> None:
        self.cassette = _cassette_of(cassette, mode)
        self._inner, self._name = inner, name

    async def list_tools(self) -> Sequence[ToolSpec]:
        inner = self._inner

        async def listed() -> Any:
            assert inner is not None
            return [spec.model_dump(mode="json", exclude_defaults=True) for spec in await inner.list_tools()]

        said = await self.cassette.play(_TOOLS, self._name, {}, None if inner is None else listed, ToolError)
        return tuple(ToolSpec.model_validate(spec) for spec in said)

    async def call(self, name: str, arguments: dict[str, Any], ctx: RunContext) -> dict[str, Any]:
        inner = self._inner
        live = None if inner is None else lambda: inner.call(name, arguments, ctx)
        request = {"tool": name, "arguments": arguments}
        return await self.cassette.play(_TOOL, self._name, request, live, ToolError)


# --- what a call means ------------------------------------------------------------------------------------------------


def _meaning(request: ChatRequest) -> dict[str, Any]:
    """A request as JSON values, without what does not change the answer: the timeout."""
    return {
        **request.model_dump(mode="json", exclude_defaults=True, exclude={"timeout_s"}),
        **{name: getattr(request, name) for name in _ALWAYS},
    }


def _key(kind: str, of: str, request: Any) -> str:
    meaning = json.dumps([kind, of, request], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(meaning.encode()).hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _order(call: _Call) -> tuple[int, str, str]:
    """Where a call stands in the file: what is known of models first, then calls that are like one another together."""
    return (_INFO, _TOOLS, _MODEL, _TOOL).index(call.kind), call.of, json.dumps(call.request, sort_keys=True)


def _call_of(fields: Mapping[str, Any]) -> _Call:
    kind, error = fields["call"], fields.get("error")
    if kind not in (_INFO, _TOOLS, _MODEL, _TOOL):
        raise ValueError(f"no call is of the kind {kind!r}")
    if error is not None:
        name, text = error
        return _Call(kind, str(fields["of"]), fields["request"], error=(str(name), str(text)))
    reply = fields["reply"]
    form = {_INFO: ModelInfo, _MODEL: ChatReply}.get(kind)
    if form is not None:
        form.model_validate(reply)
    elif not isinstance(reply, list if kind == _TOOLS else dict):
        raise ValueError("the reply has another form")
    return _Call(kind, str(fields["of"]), fields["request"], reply=reply)


def _reason(error: Exception) -> str:
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


def _class_of(error: MeshError, errors: type[MeshError]) -> str:
    """The nearest class of the error that agentmesh itself has: a project's own may be gone when it is replayed."""
    ours = (c for c in type(error).__mro__ if c.__module__ == agentmesh.errors.__name__ and issubclass(c, errors))
    return next(ours, errors).__name__


def _error(said: tuple[str, str], errors: type[MeshError]) -> MeshError:
    name, text = said
    found = getattr(agentmesh.errors, name, errors)
    return found(text) if isinstance(found, type) and issubclass(found, errors) else errors(text)


# --- words about a miss -----------------------------------------------------------------------------------------------


def _named(kind: str, of: str) -> str:
    return f"the model {of!r}" if kind in (_MODEL, _INFO) else f"the toolset {of!r}"


def _asked(kind: str, request: Any) -> str:
    if kind == _TOOL:
        return f"{request['tool']}({', '.join(f'{k}={_json(v)}' for k, v in request['arguments'].items())})"
    if kind == _MODEL:
        return repr(request["messages"][-1].get("text", "")) if request.get("messages") else "without a message"
    return "the list of tools"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARS else f"{line[: SHOWN_CHARS // 2]} ... {line[-SHOWN_CHARS // 2 :]}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' if n != 1 else ''}"


def _nearest(calls: Sequence[_Call], of: str, request: Any) -> _Call:
    """The recorded call whose request looks most like this one; those of the same model or toolset come first."""
    matcher = difflib.SequenceMatcher(None)
    matcher.set_seq2(_json(request)[-COMPARED_CHARS:])

    def likeness(call: _Call, *, quick: bool) -> tuple[bool, float]:
        matcher.set_seq1(_json(call.request)[-COMPARED_CHARS:])
        return call.of == of, matcher.quick_ratio() if quick else matcher.ratio()

    best = sorted(calls, key=lambda call: likeness(call, quick=True), reverse=True)[:COMPARED]
    return max(best, key=lambda call: likeness(call, quick=False))


def _differences(near: _Call, of: str, request: Any) -> Iterator[str]:
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
        yield f"  and {_count(len(places) - SHOWN_PLACES, 'more place')}"


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
    start = max(0, len(os.path.commonprefix([before, now])) - SHOWN_CHARS // 4)
    cut = [("... " if start else "") + text[start : start + SHOWN_CHARS] for text in (before, now)]
    return _json(cut[0]), _json(cut[1])


def _plain(value: Any) -> str:
    return "(nothing)" if value is None else _short(_json(value))


# --- files ------------------------------------------------------------------------------------------------------------

_shared: "weakref.WeakValueDictionary[Path, Cassette]" = weakref.WeakValueDictionary()
"""The cassettes in use that were named by their file, so that a model and a toolset write one file together."""


def _cassette_of(cassette: Cassette | str | Path, mode: CassetteMode) -> Cassette:
    if isinstance(cassette, Cassette):
        return cassette
    path = Path(cassette).absolute()
    shared = _shared.get(path)
    if shared is None:
        shared = _shared[path] = Cassette(cassette, mode)
    elif shared.mode != mode:
        raise CassetteError(f"{cassette} is in use with mode={shared.mode!r}; use it with the same mode everywhere")
    return shared


def _replace(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new one, whatever happens meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
