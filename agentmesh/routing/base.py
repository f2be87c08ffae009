"""The protocol of routers."""

from typing import Protocol, runtime_checkable

from agentmesh.run import RunContext
from agentmesh.types import RouteRequest, RoutingDecision

__all__ = ["Router"]


@runtime_checkable
class Router(Protocol):
    """Decides which agents work on a task."""

    @property
    def name(self) -> str: ...

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        """Choose among `request.cards`, best first, each with the part of the task that is its own.

        Nothing fits: the mode is `out_of_scope` and no agent is named, never an exception. A card with `shadow`
        competes and stands among the candidates but is never chosen. A card that was never
        seen before needs no retraining.

        Raises:
            RoutingError: If it could not decide (a model failed, a deadline passed).
        """
        ...
