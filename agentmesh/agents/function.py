"""A Python function as an agent: what is asked goes in, a text or a whole reply comes out."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, cast

from agentmesh.agents.outside import reply_in_time, reply_of_text
from agentmesh.errors import MeshError
from agentmesh.run import RunContext
from agentmesh.types import AgentCall, AgentCard, AgentReply, ContextPack, ReplyStatus

__all__ = ["FunctionAgent"]


class FunctionAgent:
    """Answers with a function of the project.

    The function takes the text of its part, or the whole `AgentCall` if its first parameter is annotated so, and the
    pack if it has a second parameter. It returns a text, which may cite items as `[m1]`, or an `AgentReply`; an empty
    text means that it found nothing. It may be async; otherwise it runs in a thread, which a timeout leaves behind.

    A function that takes the call may ask a person before it acts. It returns
    `call.reply(ReplyStatus.NEEDS_APPROVAL, pending={"id": "refund", "text": "Refund 20 EUR?"})`; once a person has
    answered it is called again from its top, with `call.approved == {"refund": True}` (or False). So it acts only after
    it has looked there, and it may ask again under another id.

    Args:
        card: Who it is; `limits.timeout_s` holds.
        function: What answers.
    """

    def __init__(self, card: AgentCard, function: Callable[..., Any]) -> None:
        self._card, self._function = card, function
        positional = [
            p
            for p in inspect.signature(function).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
        ]
        self._takes_pack = len(positional) > 1 or any(p.kind is p.VAR_POSITIONAL for p in positional)
        self._takes_call = bool(positional) and positional[0].annotation in (AgentCall, "AgentCall")
        self._takes_nothing = not positional

    @property
    def card(self) -> AgentCard:
        return self._card

    async def answer(self, call: AgentCall, pack: ContextPack, ctx: RunContext) -> AgentReply:
        return await reply_in_time(self._work(call, pack), self._card, call, pack, ctx)

    async def _work(self, call: AgentCall, pack: ContextPack) -> AgentReply:
        return self._reply(await self._call(call, pack), call, pack)

    async def _call(self, call: AgentCall, pack: ContextPack) -> object:
        asked = call if self._takes_call else call.part.strip() or call.task.full_text
        arguments: list[object] = [] if self._takes_nothing else [asked, pack] if self._takes_pack else [asked]
        if inspect.iscoroutinefunction(self._function):
            return await self._function(*arguments)
        said: object = await asyncio.to_thread(self._function, *arguments)
        return await cast("Awaitable[object]", said) if inspect.isawaitable(said) else said

    def _reply(self, said: object, call: AgentCall, pack: ContextPack) -> AgentReply:
        if isinstance(said, AgentReply):
            if said.status is ReplyStatus.NEEDS_APPROVAL and not _asks(said.pending):
                raise MeshError(
                    f"the function of {self._card.id!r} needs approval but does not say for what; give `pending` an "
                    "`id` and a `text`, both texts"
                )
            return said.model_copy(update={"call_id": call.id, "agent": call.agent})
        if not isinstance(said, str):
            raise MeshError(
                f"the function of {self._card.id!r} returned {type(said).__name__}; return a text or an AgentReply"
            )
        return reply_of_text(said, call, pack)


def _asks(pending: dict[str, Any] | None) -> bool:
    """Whether a person can be asked with this."""
    return pending is not None and all(isinstance(pending.get(key), str) and pending[key] for key in ("id", "text"))
