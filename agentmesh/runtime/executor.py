"""Runs agent calls in this process: bounded, in time, journalled."""

import asyncio
from collections.abc import Awaitable, Callable

from agentmesh.run import Journal
from agentmesh.types import AgentCall, AgentReply, ReplyStatus

__all__ = ["GRACE_S", "LocalExecutor"]

GRACE_S = 1.0
"""Seconds that an executor waits beyond an agent's own deadline, so that the agent itself says what it has."""


class LocalExecutor:
    """An `Executor` over asyncio.

    A finished call is read from the journal instead of being run again. Only a reply that says something is kept
    there: one that failed is tried anew when its run is resumed.
    """

    def __init__(
        self,
        run: Callable[[AgentCall], Awaitable[AgentReply]],
        *,
        journal: Journal,
        gate: asyncio.Semaphore,
        seconds_left: Callable[[], float] = lambda: float("inf"),
    ) -> None:
        self._run, self._journal, self._gate, self._seconds_left = run, journal, gate, seconds_left

    async def submit(self, call: AgentCall, id: str, deadline: float) -> AgentReply:
        entry = await self._journal.lookup(id)
        if entry is not None and entry.finished and entry.result is not None:
            return AgentReply.model_validate(entry.result)
        async with self._gate:
            left = self._seconds_left()  # waiting for its turn took some of the run's time
            if left <= 0:
                text = "the time of the run was over before its turn; raise `limits.max_seconds`"
                return call.reply(ReplyStatus.OVER_LIMIT, error=text)
            within = min(deadline, left + GRACE_S)
            try:
                async with asyncio.timeout(within):
                    reply = await self._run(call)
            except TimeoutError:
                text = f"it did not answer within {within:.1f} s; raise `limits.timeout_s` of its card"
                reply = call.reply(ReplyStatus.TIMED_OUT, error=text)
            except Exception as error:  # the promise of Executor: a failure is a reply
                reply = call.reply(ReplyStatus.FAILED, error=f"{type(error).__name__}: {error}")
        if reply.ok:
            await self._journal.finish(id, "agent", reply.model_dump(mode="json"))
        return reply
