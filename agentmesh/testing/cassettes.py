"""Model and tool calls, recorded once and replayed from then on: tests that need no network and cost nothing.

A cassette is one file of JSON lines for people to read and to compare: a header, then one call a line with its request
and its reply, in an order that depends on nothing but what was asked. It is not a cache: a call that it does not hold
is a mistake, and says so twice, where it happens and at the end (`Cassette.check`), because an agent turns whatever
goes wrong within it into a failed reply.
"""

import asyncio
import json
import os
import re
import tempfile
import threading
import weakref
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, cast

from agentmesh.errors import MeshError, ModelError, ToolError
from agentmesh.models.base import ChatChunk, ChatModel, ChatReply, ChatRequest, ModelInfo, ToolSpec
from agentmesh.models.wire import valid_text
from agentmesh.run import RunContext
from agentmesh.testing.calls import (
    INFO,
    MODEL,
    TOOL,
    TOOLS,
    Call,
    asked_in,
    call_of,
    class_of,
    counted,
    differences,
    error_of,
    json_text,
    key_of,
    named,
    nearest_call,
    order_of,
    reason_of,
    short,
)
from agentmesh.tools.base import Toolset
from agentmesh.trace.redact import Redactor, secret_values

__all__ = ["Cassette", "CassetteError", "CassetteMissError", "CassetteMode", "CassetteModel", "CassetteToolset"]

CassetteMode = Literal["replay", "record", "auto"]
"""`replay`: nothing is called and nothing written. `record`: everything is called, what stood there is replaced.
`auto`: what is recorded is replayed, the rest is called and added."""
VERSION = 1
"""Of the file format."""
_ALWAYS = ("max_output_tokens", "temperature", "seed")
"""Fields of a request that are written even where they have their default: the default may change."""
_PIECES = re.compile(r"\s*\S+\s*\Z|\s*\S+|\s+\Z")


class CassetteError(MeshError):
    """A cassette cannot be used as it is."""


class CassetteMissError(CassetteError):
    """A call was made that the cassette does not hold."""


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
        self._calls: dict[str, list[Call | None]] = {}
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
                if call is not None and call.kind in (MODEL, TOOL)
            ]
        return tuple(f"{named(call.kind, call.of)}: {short(call.text)}" for call in left)

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
                f"{self.path} holds {counted(len(left), 'recording')} that nobody asked for; "
                f"record it anew with mode='record':{shown}"
            )

    # --- for the model and the toolset --------------------------------------------------------------------------------

    def infos(self) -> dict[str, ModelInfo]:
        """What is known of the models that were recorded, by name."""
        with self._lock:
            found = [c for calls in self._calls.values() for c in calls if c is not None and c.kind == INFO]
        return {call.of: ModelInfo.model_validate(call.reply) for call in found}

    async def begin(self, kind: str, of: str, request: Any, *, can_call: bool) -> "_Slot":
        """The place of a call on the cassette: with what is held of it, or to be filled.

        Args:
            kind: `model`, `tool` or `tools`.
            of: Name of the model or the toolset.
            request: What it means, as JSON values.
            can_call: Whether the call can be made.

        Raises:
            CassetteMissError: If nothing is held and the call is not made.
        """
        with self._noted():
            request = self._clean(request)
            key, again = key_of(kind, of, request), kind == TOOLS
            with self._lock:
                calls = self._calls.setdefault(key, [])
                place = 0 if again else self._used[key]
                held = calls[place] if place < len(calls) else None
                recording = held is None and can_call and self.mode != "replay"
                if recording and place == len(calls):
                    calls.append(None)
                if held is not None or recording:
                    self._used[key] += 1
            if held is None and not recording:
                raise await asyncio.to_thread(self._miss, kind, of, request, place)
        return _Slot(self, kind, of, request, place, held)

    async def keep(self, slot: "_Slot", *, reply: Any = None, error: tuple[str, str] | None = None) -> None:
        """Fill a place and write the file.

        Raises:
            CassetteError: If it cannot be recorded.
        """
        with self._noted():
            said = (error[0], self._clean(error[1])) if error is not None else None
            call = Call(slot.kind, slot.of, slot.request, reply=self._clean(reply), error=said)
            with self._lock:
                self._calls[call.key][slot.place] = call
                self._dirty = True
            await asyncio.to_thread(self._write)

    @contextmanager
    def _noted(self) -> Generator[None, None, None]:
        """Remember what goes wrong, for `check`."""
        try:
            yield
        except CassetteError as error:
            with self._lock:
                self._failures.append(error)
            raise

    async def know(self, info: ModelInfo) -> None:
        """Note what is known of a model, so that it can be replayed without it."""
        call = Call(INFO, info.name, {}, reply=info.model_dump(mode="json"))
        with self._lock:
            if self.mode == "replay" or self._calls.get(call.key) == [call]:
                return
            self._calls[call.key] = [call]

    # --- misses -------------------------------------------------------------------------------------------------------

    def _miss(self, kind: str, of: str, request: Any, place: int) -> CassetteMissError:
        with self._lock:
            same = [c for c in self._calls.get(key_of(kind, of, request), ()) if c is not None]
            others = [c for calls in self._calls.values() for c in calls if c is not None and c.kind == kind]
        text = f"{self.path} holds no recording of this call of {named(kind, of)}, {short(asked_in(kind, request))}"
        if same:
            text = (
                f"{self.path} holds {counted(len(same), 'recording')} of this call of {named(kind, of)}, "
                f"{short(asked_in(kind, request))}, and this is time {place + 1} that it is made"
            )
        elif others:
            near = nearest_call(others, of, request)
            rows = "".join(f"\n{row}" for row in differences(near, of, request))
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

    def _read(self) -> list[Call]:
        again = "record it anew with mode='record' (pytest: --cassette=record)"
        try:
            text = self.path.read_text(encoding="utf-8-sig")
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
        calls: list[Call] = []
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
                    calls.append(call_of(cast("dict[str, Any]", fields)))
            except (ValueError, TypeError, KeyError) as error:
                raise CassetteError(f"{self.path}:{number} is damaged ({reason_of(error)}); {again}") from error
            except RecursionError:
                raise CassetteError(f"{self.path}:{number} is damaged (it is nested too deeply); {again}") from None
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
            ordered = sorted((calls for calls in held if calls), key=lambda calls: order_of(calls[0]))
            lines = [json_text({"cassette": VERSION}), *(call.line() for calls in ordered for call in calls)]
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


class _Slot(NamedTuple):
    """The place of one call on a cassette."""

    cassette: Cassette
    kind: str
    of: str
    request: Any
    place: int
    held: Call | None

    def replay(self, errors: type[MeshError]) -> Any:
        """The reply that is held, as JSON values; raises the failure that is."""
        assert self.held is not None
        if self.held.error is not None:
            raise error_of(self.held.error, errors)
        return self.held.reply

    async def keep(self, reply: Any) -> None:
        """Record the reply, JSON values."""
        await self.cassette.keep(self, reply=reply)

    async def fail(self, error: MeshError, errors: type[MeshError]) -> None:
        """Record that the call failed."""
        await self.cassette.keep(self, error=(class_of(error, errors), str(error)))


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
        if inner is not None and not isinstance(inner, ChatModel):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise CassetteError(f"{type(inner).__name__} is no model; give an object with `info`, `complete`, `stream`")
        self.cassette = _cassette_of(cassette, mode)
        self._inner = inner
        self._info = inner.info if inner is not None else self._recorded_info(name)

    @property
    def info(self) -> ModelInfo:
        return self._info

    async def complete(self, request: ChatRequest) -> ChatReply:
        slot = await self._begin(request)
        if slot.held is not None or self._inner is None:
            return ChatReply.model_validate(slot.replay(ModelError))
        try:
            reply = await self._inner.complete(request)
        except ModelError as error:
            await slot.fail(error, ModelError)
            raise
        await slot.keep(_said(reply))
        return reply

    async def stream(self, request: ChatRequest) -> AsyncIterator[ChatChunk]:
        slot = await self._begin(request)
        if slot.held is not None or self._inner is None:
            reply = ChatReply.model_validate(slot.replay(ModelError))
            for text in _PIECES.findall(reply.text):
                yield ChatChunk(text=text)
            yield ChatChunk(reply=reply)
            return
        chunks = self._inner.stream(request)
        try:
            async for chunk in chunks:
                if chunk.reply is not None:
                    await slot.keep(_said(chunk.reply))
                yield chunk
        except ModelError as error:
            await slot.fail(error, ModelError)
            raise
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()

    async def aclose(self) -> None:
        if self._inner is not None:
            await self._inner.aclose()

    async def _begin(self, request: ChatRequest) -> _Slot:
        await self.cassette.know(self._info)
        return await self.cassette.begin(MODEL, self._info.name, _meaning(request), can_call=self._inner is not None)

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
        if inner is not None and not isinstance(inner, Toolset):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise CassetteError(f"{type(inner).__name__} is no toolset; give an object with `list_tools` and `call`")
        self.cassette = _cassette_of(cassette, mode)
        self._inner, self._name = inner, name

    async def list_tools(self) -> Sequence[ToolSpec]:
        slot = await self.cassette.begin(TOOLS, self._name, {}, can_call=self._inner is not None)
        if slot.held is not None or self._inner is None:
            return tuple(ToolSpec.model_validate(spec) for spec in slot.replay(ToolError))
        try:
            specs = await self._inner.list_tools()
        except ToolError as error:
            await slot.fail(error, ToolError)
            raise
        await slot.keep([spec.model_dump(mode="json", exclude_defaults=True) for spec in specs])
        return specs

    async def call(self, name: str, arguments: dict[str, Any], ctx: RunContext) -> dict[str, Any]:
        request = {"tool": name, "arguments": arguments}
        slot = await self.cassette.begin(TOOL, self._name, request, can_call=self._inner is not None)
        if slot.held is not None or self._inner is None:
            return slot.replay(ToolError)
        try:
            result = await self._inner.call(name, arguments, ctx)
        except ToolError as error:
            await slot.fail(error, ToolError)
            raise
        await slot.keep(result)
        return result


def _meaning(request: ChatRequest) -> dict[str, Any]:
    """A request as JSON values, without what does not change the answer: the timeout."""
    return {
        **request.model_dump(mode="json", exclude_defaults=True, exclude={"timeout_s"}),
        **{name: getattr(request, name) for name in _ALWAYS},
    }


def _said(reply: ChatReply) -> dict[str, Any]:
    return reply.model_dump(mode="json", exclude_defaults=True)


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
