"""The one way to call a tool in a run: journalled, bounded in time and size, traced; its result is data.

Whether an agent may call it, and whether a person must be asked before, is decided by whoever calls this.
"""

import asyncio
import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from pydantic_core import PydanticSerializationError, from_json, to_json

from agentmesh.errors import ToolError
from agentmesh.fence import inert
from agentmesh.mistakes import names_secret
from agentmesh.models.wire import one_line, valid_text
from agentmesh.run import RunContext
from agentmesh.tools.base import BoundTool
from agentmesh.trace.events import ToolCalled
from agentmesh.trace.redact import REDACTED, Redactor
from agentmesh.types import Frozen

__all__ = ["ToolResult", "arguments_key", "call_tool", "shown_arguments"]

TIMEOUT_S = 30.0
"""Seconds for one call where the caller says nothing; our choice: half of what an agent has by default."""
MAX_TEXT_CHARS = 12_000
"""Characters of a result that an agent reads; our choice: about 3,000 tokens of English."""
MAX_VALUE_CHARS = 100_000
"""Characters of a result that is kept as a value too."""

_redactor = Redactor()


class ToolResult(Frozen):
    """What came of one call."""

    tool: str
    """`server.tool`."""
    text: str = ""
    """The result as an agent reads it: inert, at most 12,000 characters, JSON unless it is a text."""
    value: dict[str, Any] | None = None
    """The result as it came; None if there is none, or if it is longer than 100,000 characters."""
    error: str | None = None
    """Why there is no result, in one sentence."""
    uncertain: int | None = None
    """Which attempt began before the run was cut off, so that nobody knows whether it happened; nothing was called
    now. None: it is certain."""

    @property
    def ok(self) -> bool:
        """Whether there is a result."""
        return self.error is None and self.uncertain is None


async def call_tool(
    tool: BoundTool,
    arguments: dict[str, Any],
    ctx: RunContext,
    *,
    timeout_s: float = TIMEOUT_S,
    repeats: int = 0,
    for_model: bool = True,
) -> ToolResult:
    """Call a tool once, or give the result that the journal holds for this call.

    A failure of the tool is a result with an `error`, and is journalled like any other, so that a resumed run reads
    what the first one read. A call that began without a result is repeated if the tool is idempotent. If it is not,
    the result says `uncertain` and nothing is called, until a person has allowed to repeat it.

    Args:
        tool: Which tool.
        arguments: JSON values.
        ctx: The step that calls; gives the call's id.
        timeout_s: Seconds, cut to what is left of the step and the run.
        repeats: How many uncertain attempts a person has allowed to repeat.
        for_model: Whether a model is to read the result: then a run without budget for one calls nothing.

    Raises:
        LimitError: If a budget of the run is spent.
        TimeoutError: If no time is left; nothing was called.
    """
    call_id = ctx.next_call_id()
    name, attempt_id = tool.name, call_id
    for attempt in range(1, repeats + 2):
        attempt_id = call_id if attempt == 1 else f"{call_id}/{attempt}"
        entry = await ctx.journal.lookup(attempt_id)
        if entry is None or entry.kind != "tool" or (not entry.finished and tool.spec.idempotent):
            break
        if entry.finished and entry.result is not None:
            result = ToolResult.model_validate(entry.result)
            _say(result, attempt_id, arguments, 0.0, ctx, replayed=True)
            return result
    else:
        return ToolResult(tool=name, uncertain=repeats + 1)
    if for_model:
        await ctx.check_budget()
    left = min(timeout_s, ctx.seconds_left())
    if left <= 0:
        raise TimeoutError(f"no time is left to call {name}; raise `limits.timeout_s`")
    idempotent = tool.spec.idempotent
    await ctx.journal.begin(attempt_id, "tool", idempotent=idempotent)
    started = ctx.clock.monotonic()
    result = await _call_once(tool, arguments, _inside(ctx, attempt_id, left), left)
    await ctx.journal.finish(attempt_id, "tool", result.model_dump(mode="json"), wait=not idempotent)
    _say(result, attempt_id, arguments, (ctx.clock.monotonic() - started) * 1000, ctx, replayed=False)
    return result


def shown_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as people and traces may see them: values named or shaped like secrets are `[redacted]`."""
    try:
        clean = from_json(_redactor.line(to_json([dict(arguments)])))[0]  # a list: all keys of an event's own names too
    except (PydanticSerializationError, ValueError):
        return dict.fromkeys(arguments, "a value that cannot be shown")
    return cast("dict[str, Any]", _without_named(clean))


def arguments_key(tool: str, arguments: Mapping[str, Any]) -> str:
    """Eight characters that stand for this call with these arguments, the same after a restart."""
    line = json.dumps([tool, dict(arguments)], sort_keys=True, default=str)
    return hashlib.blake2b(line.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()


def _inside(ctx: RunContext, attempt_id: str, left: float) -> RunContext:
    """The step as the tool sees it: what it calls in turn is numbered below its own call.

    Its caller's numbers stay the same where the journal holds the result and the tool is not called.
    """
    own = attempt_id.removeprefix(f"{ctx.run_id}/{ctx.step}/{ctx.agent or '-'}/{ctx.attempt}/")
    seen = ctx.at(deadline=ctx.clock.monotonic() + left)
    return replace(seen, _calls=(f"{own}.{n}" for n in itertools.count(1)))


async def _call_once(tool: BoundTool, arguments: dict[str, Any], ctx: RunContext, left: float) -> ToolResult:
    """One attempt within the time that is left. Only cancellation from outside passes through."""
    name = tool.name
    limit = asyncio.timeout(left)
    try:
        async with limit:
            said = cast("object", await tool.toolset.call(tool.spec.name, arguments, ctx))
            return await asyncio.to_thread(_read, name, said)
    except TimeoutError as error:
        if not limit.expired():
            return _failed(name, f"{name} failed with {_said(error)}; try again later")
        done = "" if tool.spec.idempotent else "; it may have acted all the same"
        return _failed(name, f"{name} did not answer within {left:.1f} s{done}; do without it")
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return _failed(name, f"{name} gave up its own work; try again later")
    except ToolError as error:
        return _failed(name, str(error))
    except Exception as error:  # somebody's code: whatever it raises is this tool's failure and nothing else's
        return _failed(name, f"{name} failed with {_said(error)}; do without it")


def _read(name: str, said: object) -> ToolResult:
    """A result as data. May take milliseconds: it may be long."""
    if not isinstance(said, dict):
        return _failed(name, f"{name} gave {type(said).__name__} instead of a JSON object; do without it")
    value = cast("dict[str, Any]", said)
    only: object = value.get("result") if value.keys() == {"result"} else None
    try:
        line = to_json(value, inf_nan_mode="strings")
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        return _failed(name, f"{name} gave what JSON cannot hold ({one_line(error)}); do without it")
    text = only if isinstance(only, str) else line.decode()
    kept = from_json(line) if len(line) <= MAX_VALUE_CHARS else None
    return ToolResult(tool=name, text=_cut(text), value=kept)


def _cut(text: str) -> str:
    clean = inert(text[:MAX_TEXT_CHARS])
    if len(text) <= MAX_TEXT_CHARS and len(clean) <= MAX_TEXT_CHARS:
        return clean
    note = f"\n(cut here, {len(text):,} characters in all)"
    return clean[: MAX_TEXT_CHARS - len(note)] + note


def _failed(name: str, sentence: str) -> ToolResult:
    return ToolResult(tool=name, error=inert(one_line(_redactor.text(valid_text(sentence)), most=400)))


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _without_named(value: Any) -> Any:
    """The JSON value without texts and numbers under a key that names a secret."""
    if isinstance(value, list):
        return [_without_named(v) for v in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    pairs = cast("dict[str, Any]", value).items()
    return {
        k: REDACTED if names_secret(k) and v and not isinstance(v, dict | list) else _without_named(v) for k, v in pairs
    }


def _say(
    result: ToolResult, call_id: str, arguments: dict[str, Any], latency_ms: float, ctx: RunContext, *, replayed: bool
) -> None:
    ctx.emit(
        ToolCalled(
            call_id=call_id,
            agent=ctx.agent,
            tool=result.tool,
            arguments=shown_arguments(arguments),
            latency_ms=latency_ms,
            result_chars=len(result.text),
            error=result.error,
            replayed=replayed,
        )
    )
