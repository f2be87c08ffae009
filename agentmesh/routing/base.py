"""The protocol of routers, and what those of ours that look at cards begin with."""

import asyncio
import math
from collections.abc import Awaitable, Sequence
from typing import Protocol, runtime_checkable

from agentmesh.errors import ModelError, RoutingError
from agentmesh.run import RunContext
from agentmesh.types import AgentCard, RouteRequest, RoutingDecision

__all__ = ["Router", "decided_in_time", "unique_cards"]


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


def unique_cards(cards: Sequence[AgentCard]) -> tuple[AgentCard, ...]:
    """The cards in their order without those whose id came before."""
    if len({card.id for card in cards}) == len(cards):
        return tuple(cards)
    by_id: dict[str, AgentCard] = {}
    for card in cards:
        by_id.setdefault(card.id, card)
    return tuple(by_id.values())


async def decided_in_time(router: str, ctx: RunContext, deciding: Awaitable[RoutingDecision]) -> RoutingDecision:
    """What is decided before the run's time is up.

    Raises:
        RoutingError: If it is up, or the embedder failed.
    """
    left = ctx.seconds_left()
    try:
        async with asyncio.timeout(None if math.isinf(left) else left):
            return await deciding
    except TimeoutError as error:
        raise RoutingError(
            f"the router {router!r} did not decide within {left:.1f} s; raise `limits.max_seconds`"
        ) from error
    except ModelError as error:
        raise RoutingError(f"the router {router!r} could not embed the message: {error}") from error
