"""The protocols of agents and refiners."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from agentmesh.run import RunContext
from agentmesh.types import AgentCall, AgentCard, AgentReply, Answer, ContextPack, Task

__all__ = ["Agent", "Refiner"]


@runtime_checkable
class Agent(Protocol):
    """Answers its part of a task."""

    @property
    def card(self) -> AgentCard: ...

    async def answer(self, call: AgentCall, pack: ContextPack, ctx: RunContext) -> AgentReply:
        """Answer `call.part` (or the whole task, if that is empty) from the pack.

        A failure is a reply with a status, not an exception; only cancellation passes through.
        """
        ...


@runtime_checkable
class Refiner(Protocol):
    """Makes one answer of several replies."""

    @property
    def name(self) -> str: ...

    async def refine(self, task: Task, replies: Sequence[AgentReply], ctx: RunContext) -> Answer:
        """Merge the replies, given in routing order, with conflicts named and every contributor kept.

        Failed replies are among them and are named as such. Nothing useful in any: the status is `no_answer`,
        or `failed` where every agent failed, and the text says so politely.
        """
        ...
