"""Python functions of this process as tools: their signatures become JSON schemas, their arguments are checked first.

A function is trusted like any other code of the project: nothing here keeps it from doing what it does.
"""

import asyncio
import contextvars
import inspect
import re
import threading
import typing
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaWarningKind
from pydantic_core import PydanticSerializationError, from_json, to_json

from agentmesh.errors import ConfigError, MeshError, ToolError, UnknownNameError
from agentmesh.mistakes import dotted, explain
from agentmesh.models.base import ToolSpec
from agentmesh.models.wire import one_line
from agentmesh.run import RunContext

__all__ = ["FunctionTool", "FunctionToolset", "tool"]

MAX_RESULT_BYTES = 1_000_000
"""Bytes of a result as JSON; our choice: far more than any model reads, little enough to journal."""
MAX_RUNNING = 32
"""Threads of one toolset; our choice."""
MAX_DESCRIPTION_CHARS = 2_000

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class FunctionTool:
    """A function with what its signature does not say. Called like the function itself."""

    function: Callable[..., Any]
    idempotent: bool = False
    """Whether calling it twice does no more than calling it once."""
    name: str = ""
    """Absent: the function's own."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


@typing.overload
def tool(function: Callable[..., Any], *, idempotent: bool = False, name: str = "") -> FunctionTool: ...
@typing.overload
def tool(*, idempotent: bool = False, name: str = "") -> Callable[[Callable[..., Any]], FunctionTool]: ...
def tool(
    function: Callable[..., Any] | None = None, *, idempotent: bool = False, name: str = ""
) -> FunctionTool | Callable[[Callable[..., Any]], FunctionTool]:
    """Say of a function how it is as a tool: `@tool(idempotent=True)` above it, or `tool(function, idempotent=True)`.

    Args:
        function: Which one; absent: what the decorator stands above.
        idempotent: Whether calling it twice does no more than calling it once. A call of it that a crash cut off is
            repeated when the run is resumed; of any other function a person is asked first.
        name: What models call it; absent: the function's name.
    """
    if function is None:
        return partial(FunctionTool, idempotent=idempotent, name=name)
    return FunctionTool(function, idempotent, name)


class FunctionToolset:
    """Typed Python functions as the tools of one server.

    A function needs a docstring, which models read, and annotated parameters that can be given by name; one annotated
    `RunContext` is handed the step's context and is not shown to models. It returns anything that JSON can hold: an
    object as it is, anything else as `{"result": ...}`. An async function runs in the event loop; a plain one runs in
    a thread of its own, which a timeout leaves behind.

    Args:
        functions: Functions, or what `tool` made of them.
        name: The server's name in cards, `name` or `name.function`.
        max_running: Threads that its plain functions may hold at once, those that a timeout left behind among them.

    Raises:
        ConfigError: If a function cannot be a tool; it says which and why.
    """

    def __init__(self, functions: Iterable[Callable[..., Any]], *, name: str, max_running: int = MAX_RUNNING) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} is not a valid name of a tool server; use letters, digits, '_' and '-'")
        self.name, self._max_running = name, max_running
        self._tools: dict[str, _Prepared] = {}
        for function in functions:
            prepared = _prepared(function if isinstance(function, FunctionTool) else FunctionTool(function), name)
            if prepared.spec.name in self._tools:
                raise ConfigError(f"two tools of {name!r} are called {prepared.spec.name!r}; give one a `name`")
            self._tools[prepared.spec.name] = prepared
        self._threads = threading.BoundedSemaphore(max_running)

    @property
    def tool_names(self) -> tuple[str, ...]:
        """The names of its tools, in the order given."""
        return tuple(self._tools)

    async def list_tools(self) -> Sequence[ToolSpec]:
        return [prepared.spec for prepared in self._tools.values()]

    async def call(self, name: str, arguments: dict[str, Any], ctx: RunContext) -> dict[str, Any]:
        prepared = self._tools.get(name)
        if prepared is None:
            raise ToolError(str(UnknownNameError("tool", name, self.tool_names, where=self.name)))
        where = f"{self.name}.{name}"
        given = prepared.checked(arguments, ctx, where)
        if inspect.iscoroutinefunction(prepared.function):
            said = await _awaited(prepared.function(**given), where)
            return await asyncio.to_thread(_as_json, said, where)
        return await self._in_thread(prepared, given, where)

    async def _in_thread(self, prepared: "_Prepared", given: dict[str, Any], where: str) -> dict[str, Any]:
        """Run a plain function where it blocks nobody.

        Not in asyncio's pool: a few functions that hang would take it from everybody, and from the end of the program.
        """
        if not self._threads.acquire(blocking=False):
            raise ToolError(f"{where}: {self._max_running} calls of {self.name!r} are still running; try again later")
        loop, context = asyncio.get_running_loop(), contextvars.copy_context()
        done: asyncio.Future[Any] = loop.create_future()

        def settle(value: object, error: ToolError | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(value)
            else:
                done.set_exception(error)

        def work() -> None:
            value: object = None
            error: ToolError | None = None
            try:
                value = context.run(prepared.function, **given)
                if not inspect.isawaitable(value):
                    value = _as_json(value, where)
            except BaseException as raised:  # whatever ends a function, it ends no more than this call
                error = _failure(raised, where)
            finally:
                self._threads.release()
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, value, error)

        threading.Thread(target=work, name=f"agentmesh-{where}", daemon=True).start()
        value = await done
        if inspect.isawaitable(value):
            return await asyncio.to_thread(_as_json, await _awaited(value, where), where)
        return value


@dataclass(frozen=True)
class _Prepared:
    """A function that is ready to be called with what a model wrote."""

    function: Callable[..., Any]
    spec: ToolSpec
    arguments: type[BaseModel]
    """Its fields have the parameters' names as aliases: a parameter may have any name, a field may not."""
    context: str | None
    """The parameter that is handed the step's context."""

    def checked(self, arguments: dict[str, Any], ctx: RunContext, where: str) -> dict[str, Any]:
        """The arguments as the function takes them."""
        try:
            made = self.arguments.model_validate(arguments)
        except ValidationError as error:
            steps, sentence = next(iter(explain(error, self.arguments)))
            raise ToolError(f"{where}: {dotted(steps) or 'its arguments'}: {sentence}") from error
        fields = self.arguments.model_fields
        given = {str(fields[field].alias): getattr(made, field) for field in made.model_fields_set}
        return {**given, self.context: ctx} if self.context else given


class _PlainSchema(GenerateJsonSchema):
    """Without titles, which only repeat the names; a default that JSON cannot hold is left out silently."""

    ignored_warning_kinds: set[JsonSchemaWarningKind] = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _prepared(made: FunctionTool, server: str) -> _Prepared:
    function = made.function
    name = made.name or getattr(function, "__name__", type(function).__name__)
    where = f"tool {server}.{name}"
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: {name!r} is not a valid name; give one with `tool(function, name=...)`")
    text = inspect.getdoc(function)
    if not text or function.__doc__ is None:
        raise ConfigError(f"{where}: needs a docstring, which models read as its description")
    try:
        parameters = inspect.signature(function).parameters
        hints = typing.get_type_hints(
            function if inspect.isroutine(function) else type(function).__call__, include_extras=True
        )
    except (NameError, TypeError, ValueError) as error:
        raise ConfigError(f"{where}: its signature cannot be read ({error}); annotate its parameters") from error
    context: str | None = None
    fields: dict[str, Any] = {}
    for parameter in parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigError(f"{where}: its parameter {parameter.name!r} cannot be given by name; name every one")
        if parameter.name not in hints:
            raise ConfigError(f"{where}: its parameter {parameter.name!r} has no type; annotate it")
        if hints[parameter.name] is RunContext:
            context = parameter.name
            continue
        default: Any = ... if parameter.default is parameter.empty else parameter.default
        alias = Annotated[hints[parameter.name], Field(alias=parameter.name)]
        fields[f"p{len(fields)}"] = (alias, default)
    try:
        arguments = create_model("Arguments", __config__=ConfigDict(extra="forbid"), **fields)
        schema = arguments.model_json_schema(by_alias=True, schema_generator=_PlainSchema)
    except PydanticUserError as error:
        raise ConfigError(
            f"{where}: JSON cannot hold one of its parameters ({one_line(error)}); use plain types"
        ) from error
    schema.pop("title", None)
    schema.setdefault("properties", {})
    spec = ToolSpec(name=name, description=text[:MAX_DESCRIPTION_CHARS], parameters=schema, idempotent=made.idempotent)
    return _Prepared(function, spec, arguments, context)


async def _awaited(work: Awaitable[Any], where: str) -> Any:
    try:
        return await work
    except (Exception, SystemExit) as error:
        raise _failure(error, where) from error


def _failure(error: BaseException, where: str) -> ToolError:
    if isinstance(error, ToolError):
        return error
    if isinstance(error, MeshError):
        return ToolError(f"{where}: {error}")
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    failed = ToolError(f"{where} failed with {one_line(said)}; change the arguments or do without it")
    failed.__cause__ = error
    return failed


def _as_json(value: object, where: str) -> dict[str, Any]:
    """A function's result as a JSON object of bounded size."""
    if isinstance(value, str | bytes) and len(value) > MAX_RESULT_BYTES:
        raise _too_large(len(value), where)
    try:
        if inspect.isgenerator(value):
            raise TypeError("a generator may have no end")
        line = to_json(value, inf_nan_mode="strings", bytes_mode="base64")
    except (PydanticSerializationError, TypeError, ValueError, RecursionError) as error:
        raise ToolError(
            f"{where} returned {type(value).__name__}, which JSON cannot hold ({one_line(error)}); return a text, "
            "a number, a list or a dictionary"
        ) from error
    if len(line) > MAX_RESULT_BYTES:
        raise _too_large(len(line), where)
    said = from_json(line)
    return cast("dict[str, Any]", said) if isinstance(said, dict) else {"result": said}


def _too_large(size: int, where: str) -> ToolError:
    return ToolError(f"{where} returned {size:,} bytes, at most {MAX_RESULT_BYTES:,} are taken; ask for less")
