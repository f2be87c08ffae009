"""The protocol of context routers."""

from typing import Protocol, runtime_checkable

from agentmesh.run import RunContext
from agentmesh.types import ContextPack, ContextRequest

__all__ = ["ContextRouter"]


@runtime_checkable
class ContextRouter(Protocol):
    """Decides which part of shared memory an agent reads."""

    @property
    def name(self) -> str: ...

    async def select(self, request: ContextRequest, ctx: RunContext) -> ContextPack:
        """Fill a pack for this agent within the token budget of its role and stage, never over it.

        An empty memory gives an empty pack. Only items of `request.task.tenant` are considered.

        Raises:
            ContextError: If the memory could not be read.
        """
        ...
