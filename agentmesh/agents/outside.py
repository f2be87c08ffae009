"""What agents around somebody else's code share: the time that it gets, and what it says as a cited reply."""

import asyncio
from collections.abc import Awaitable

from agentmesh.agents.citations import cited_sentences, without_marks
from agentmesh.agents.expert import failed_reply
from agentmesh.run import RunContext
from agentmesh.types import AgentCall, AgentCard, AgentReply, ContextPack, ReplyStatus

__all__ = ["reply_in_time", "reply_of_text"]


async def reply_in_time(
    work: Awaitable[AgentReply], card: AgentCard, call: AgentCall, pack: ContextPack, ctx: RunContext
) -> AgentReply:
    """The reply that `work` gives within the time of the card and the run; one that says what went wrong otherwise."""
    started = ctx.clock.monotonic()
    left = min(card.limits.timeout_s, ctx.seconds_left())
    try:
        async with asyncio.timeout(left):
            reply = await work
    except TimeoutError:
        late = TimeoutError(f"{card.id!r} did not answer within {left:.1f} s; raise `limits.timeout_s`")
        reply = failed_reply(call, late)
    except Exception as error:  # the promise of Agent: a failure is a reply
        reply = failed_reply(call, error)
    return reply.model_copy(
        update={
            "latency_ms": (ctx.clock.monotonic() - started) * 1000,
            "pack_tokens": pack.tokens,
            "budget_tokens": pack.budget_tokens,
        }
    )


def reply_of_text(text: str, call: AgentCall, pack: ContextPack) -> AgentReply:
    """A text, which may cite items as `[m1]`, as the reply to the call; an empty one found nothing."""
    sentences = cited_sentences(text, pack)
    return call.reply(
        ReplyStatus.ANSWERED if text.strip() else ReplyStatus.NO_EVIDENCE,
        text=without_marks(text),
        sentences=tuple(sentences),
        cited=tuple(dict.fromkeys(item for s in sentences for item in s.items)),
    )
