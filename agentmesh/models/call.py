"""The one way to call a language model in a run: journalled, counted, bounded in time, traced, retried.

Agents, refiners and routers all come through here, so a resumed run repeats no finished call and no budget is missed.
"""

import asyncio
from collections.abc import AsyncGenerator

from agentmesh.errors import ModelError, ModelReplyError, ModelTimeoutError
from agentmesh.models.base import ChatModel, ChatReply, ChatRequest
from agentmesh.run import RunContext
from agentmesh.trace.events import ModelCalled, StepFailed, TokensStreamed

__all__ = ["call_model"]

FIRST_WAIT_S = 0.5
"""Seconds before the first repetition; they double from one to the next, with up to a half added at random."""


async def call_model(
    model: ChatModel, request: ChatRequest, ctx: RunContext, *, retries: int = 0, first_wait_s: float = FIRST_WAIT_S
) -> ChatReply:
    """Ask the model once, or give the reply that the journal holds for this call.

    Args:
        model: Which model.
        request: What to ask; its `timeout_s` is cut to what is left of the step and the run.
        ctx: The step that asks.
        retries: Further attempts after a failure that may pass, with growing waits, within the same deadline.
        first_wait_s: Seconds before the first repetition.

    Raises:
        LimitError: If a budget of the run, its tenant, its user or this agent is spent.
        StoreError: If it cannot be read what is left of a budget; the model is not asked then.
        ModelError: If the model failed for good; `ModelTimeoutError` past the deadline.
    """
    call_id = ctx.next_call_id()
    entry = await ctx.journal.lookup(call_id)
    if entry is not None and entry.finished and entry.result is not None:
        reply = ChatReply.model_validate(entry.result)
        _count(ctx, reply, call_id, model.info.name, 0.0, request, replayed=True)
        return reply
    started = ctx.clock.monotonic()
    for attempt in range(retries + 1):
        await ctx.check_budget()
        try:
            reply = await _ask_once(model, request, ctx)
            break
        except ModelError as error:
            wait = first_wait_s * 2**attempt * (1 + ctx.rng.random() / 2)
            again = error.retryable and attempt < retries and wait < ctx.seconds_left()
            kind = type(error).__name__
            ctx.emit(StepFailed(agent=ctx.agent, error=str(error), kind=kind, retry_in_s=wait if again else None))
            if not again:
                raise
            await asyncio.sleep(wait)
    else:
        raise AssertionError("the loop above breaks or raises")
    # Not waited for: the agent's own reply is noted after it and is; until then, losing this only means asking again.
    await ctx.journal.finish(call_id, "model", reply.model_dump(mode="json"), wait=False)
    _count(ctx, reply, call_id, model.info.name, (ctx.clock.monotonic() - started) * 1000, request, replayed=False)
    return reply


async def _ask_once(model: ChatModel, request: ChatRequest, ctx: RunContext) -> ChatReply:
    """One attempt within the time that is left."""
    left = min(request.timeout_s, ctx.seconds_left())
    if left <= 0:
        raise ModelTimeoutError(f"no time is left to ask {model.info.name!r}; raise `limits.timeout_s`")
    if ctx.meter is not None:
        ctx.meter.begin(ctx.agent)
    try:
        async with asyncio.timeout(left):
            bounded = request.model_copy(update={"timeout_s": left})
            if not ctx.stream:
                return await model.complete(bounded)
            chunks = model.stream(bounded)
            try:
                async for chunk in chunks:
                    if chunk.text:
                        ctx.emit(TokensStreamed(agent=ctx.agent, text=chunk.text))
                    if chunk.reply is not None:
                        return chunk.reply
            finally:
                # A stream that is only dropped keeps its connection or slot until it is collected.
                if isinstance(chunks, AsyncGenerator):
                    await chunks.aclose()
            raise ModelReplyError(f"the stream of {model.info.name!r} ended without a reply; ask again")
    except TimeoutError as error:
        raise ModelTimeoutError(
            f"{model.info.name!r} did not answer within {left:.1f} s; raise `limits.timeout_s` or choose a faster model"
        ) from error
    finally:
        if ctx.meter is not None:
            ctx.meter.end(ctx.agent)


def _count(
    ctx: RunContext,
    reply: ChatReply,
    call_id: str,
    name: str,
    latency_ms: float,
    request: ChatRequest,
    *,
    replayed: bool,
) -> None:
    """Add what the call took to the run, and say so."""
    if ctx.meter is not None and not replayed:
        ctx.meter.add(reply.usage, ctx.agent)
        if not reply.usage.cost_known and (unbounded := ctx.meter.unpriced(ctx.agent)):
            ctx.emit(StepFailed(agent=ctx.agent, error=_unpriced(reply.model or name, unbounded), kind="UnknownPrice"))
    kept = tuple(m.model_dump(mode="json", exclude_defaults=True) for m in request.messages) if ctx.keep_prompts else ()
    ctx.emit(
        ModelCalled(
            call_id=call_id,
            agent=ctx.agent,
            model=reply.model or name,
            usage=reply.usage,
            latency_ms=latency_ms,
            finish_reason=reply.finish_reason,
            replayed=replayed,
            messages=kept,
            reply=reply.text if ctx.keep_prompts else "",
        )
    )


def _unpriced(model: str, bounds: tuple[str, ...]) -> str:
    """What is said of a model whose price is not known."""
    keys = " and ".join(f"`{bound}`" for bound in bounds)
    verb = "does" if len(bounds) == 1 else "do"
    return (
        f"the price of {model!r} is not known, so its calls count as 0 US$ and {keys} {verb} not bound them; set "
        "`usd_per_million_prompt_tokens` and `usd_per_million_completion_tokens` of the model, or bound tokens"
    )
