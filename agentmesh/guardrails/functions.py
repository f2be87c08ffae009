"""A Python function as a guardrail: a text goes in, and out comes whether it may pass or why it may not."""

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable, Iterable
from contextvars import copy_context
from functools import partial
from threading import Lock, Thread
from typing import Any, cast

from agentmesh.errors import ConfigError
from agentmesh.guardrails.base import PASSED, Action, Verdict, Where, action_of, places_of
from agentmesh.run import RunContext

__all__ = ["FunctionGuardrail"]

MOST_THREADS = 100
"""Calls of one function that may be unfinished at the same time; a function that hangs leaves its thread behind."""


class FunctionGuardrail:
    """Checks with a function of the project.

    The function takes the text, and the `RunContext` if it has a second parameter without a default. It returns
    True or None: the text may pass; False: it may not; a text: why it may not, without what it found; or a `Verdict`,
    which alone can redact. It may be async; otherwise it runs in a thread of its own.

    Args:
        function: What decides.
        name: What the trace calls it; empty: the function's name.
        where: One place or several.
        action: What becomes of a text that it does not let pass: block, ask or flag.

    Raises:
        ConfigError: If it cannot be called with a text, or `action` is none that a function can take there.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str = "",
        where: str | Iterable[str] = (Where.INPUT, Where.OUTPUT),
        action: str = Action.BLOCK,
    ) -> None:
        self.name = name or _name_of(function)
        self.where = places_of(where)
        if action == Action.REDACT:
            raise ConfigError(
                f"the function {self.name!r} cannot redact by itself; "
                'let it return Verdict(action="redact", reason=..., text=...) and take `action` out'
            )
        self.action = action_of(self.name, action, self.where)
        self._function = function
        self._takes_ctx = _takes_ctx(self.name, function)
        self._unfinished, self._lock = 0, Lock()

    def __repr__(self) -> str:
        return f"FunctionGuardrail({self.name!r})"

    async def check(self, text: str, ctx: RunContext) -> Verdict:
        said = await self._call(text, ctx)
        match said:
            case Verdict():
                return said
            case None | True:
                return PASSED
            case False:
                return Verdict(action=self.action, reason=f"{self.name!r} did not let it pass")
            case str() if said.strip():
                return Verdict(action=self.action, reason=said)
            case _:
                what = "an empty text" if isinstance(said, str) else type(said).__name__
                raise ConfigError(f"it returned {what}; return True, False, None, a reason or a Verdict")

    async def _call(self, text: str, ctx: RunContext) -> object:
        arguments = (text, ctx) if self._takes_ctx else (text,)
        if _is_async(self._function):
            return await self._function(*arguments)
        said = await self._in_thread(arguments)
        return await cast("Awaitable[object]", said) if inspect.isawaitable(said) else said

    async def _in_thread(self, arguments: tuple[object, ...]) -> object:
        """Call the function in a thread that nobody waits for at exit: one that hangs would keep the process alive."""
        if self._unfinished >= MOST_THREADS:
            raise ConfigError(f"{MOST_THREADS} earlier calls of it have not come back; let it end")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.create_future()
        context = copy_context()

        def settle(result: object, error: Exception | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        def work() -> None:
            result, error = None, None
            try:
                result = context.run(self._function, *arguments)
            except StopIteration:  # no future takes one
                error = RuntimeError("StopIteration")
            except Exception as raised:
                error = raised
            except BaseException as raised:  # sys.exit() in a function ends the check, not the process
                error = RuntimeError(type(raised).__name__)
            with self._lock:
                self._unfinished -= 1
            with contextlib.suppress(RuntimeError):  # the loop may be closed by now
                loop.call_soon_threadsafe(settle, result, error)

        with self._lock:
            self._unfinished += 1
        Thread(target=work, name=f"guardrail {self.name}", daemon=True).start()
        return await future


def _name_of(function: Callable[..., Any]) -> str:
    if isinstance(function, partial):
        return _name_of(function.func)
    return getattr(function, "__name__", type(function).__name__)


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _takes_ctx(name: str, function: Callable[..., Any]) -> bool:
    try:
        signature = inspect.signature(function)
    except ValueError as error:
        if isinstance(function, partial):
            options = ", ".join(function.keywords)
            raise ConfigError(f"the function {name!r} does not take these options: {options}") from error
        return False  # some built-in functions do not say
    needed = [
        p
        for p in signature.parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    try:
        signature.bind(*([object()] * max(1, len(needed))))
    except TypeError as error:
        raise ConfigError(f"the function {name!r} cannot be called with a text alone: {error}") from error
    if len(needed) > 2:
        raise ConfigError(f"the function {name!r} takes {len(needed)} arguments; take the text, or the text and ctx")
    return len(needed) == 2
