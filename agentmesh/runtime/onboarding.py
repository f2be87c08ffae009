"""Agents that join, change or leave while a mesh runs: by call, or because a card file of the project did.

Nothing here decides who works on a question. A change is checked, learned by the routers, and then put in place at
once, so that a question has the old team or the new one, never a part of both. What cannot be taken changes nothing and
is said.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from agentmesh.agents.base import Agent
from agentmesh.errors import ConfigError, GraphError, MeshError, UnknownNameError
from agentmesh.graphs import GraphSpec
from agentmesh.project.watch import CardsFound, CardWatch
from agentmesh.run import RunContext
from agentmesh.runtime.graph import AgentGraph
from agentmesh.runtime.nodes import Parts
from agentmesh.runtime.team import Team, pools_of, stages_naming
from agentmesh.trace.events import AgentsChanged
from agentmesh.types import AgentCard

__all__ = ["Onboarding"]

PREPARE_S = 5.0
"""Seconds that routers have to learn changed cards before these take part; then they do without."""
MOST_POOLS = 8
"""Pools of graphs that routers are made ready for."""
MOST_NEWS = 64
"""Changes that wait for a run to stand in the trace of."""
CLOSE_WAIT_S = 10.0
"""Seconds that a mesh that closes waits for a look at the card files."""
NOTHING = AgentsChanged()

_log = logging.getLogger(__name__)


class Staffed(Protocol):
    """What is open of a mesh, as far as it depends on who works there."""

    parts: Parts
    staffed: Callable[[Parts, Team], Parts]
    ready: Callable[[Sequence[AgentCard]], Awaitable[None]] | None


class Onboarding:
    """The team of a mesh, and what changes it.

    Args:
        team: Who works at first.
        hire: Checks somebody who is to join: gives their card, and themselves if they are more than a card. Raises
            `MeshError`. May block.
        watch: Where cards come from; None: only from calls.
        graphs: The mesh's own graphs by name, as they are now.
    """

    def __init__(
        self,
        team: Team,
        hire: Callable[[Any], tuple[AgentCard, Agent | None]],
        watch: CardWatch | None,
        *,
        graphs: Callable[[], Mapping[str, AgentGraph | GraphSpec]],
    ) -> None:
        self.team = team
        """As it is now; another object whenever somebody joined, changed or left."""
        self._hire, self._watch, self._graphs = hire, watch, graphs
        self._changing = asyncio.Lock()
        self._gone: set[str] = set()
        """Ids of agents that were here."""
        self._news: deque[AgentsChanged] = deque(maxlen=MOST_NEWS)
        self._looking: asyncio.Task[AgentsChanged | None] | None = None
        self._looked_at = float("-inf")
        """When the last whole look began, as `time.monotonic()`."""

    # --- who joins and leaves -----------------------------------------------------------------------------------------

    async def join(self, agent: Any, services: Staffed) -> AgentCard:
        """Take somebody in, in place of the one of the same id if there is one; their card."""
        async with self._changing:
            card, made = await asyncio.to_thread(self._hire, agent)
            await self._change(self.team.joined(card, made), services)
        return card

    async def leave(self, agent: str, services: Staffed) -> None:
        """Take somebody out; `ConfigError` if that cannot be."""
        async with self._changing:
            if agent not in self.team.cards:
                raise UnknownNameError("agent", agent, sorted(self.team.cards))
            if named := next(self._naming(agent), None):
                graph, stage = named
                text = f"stage {stage!r} names the agent {agent!r}; take it out there before it is retired"
                raise GraphError(graph, [text])
            if len(self.team.cards) == 1:
                raise ConfigError(f"{agent!r} is the only agent; onboard another one before it is retired")
            await self._change(self.team.left(agent), services)

    async def look(self, services: Staffed, *, always: bool = False) -> AgentsChanged | None:
        """Take in what changed in the card files up to now; questions that come together share a look."""
        watch, arrived = self._watch, time.monotonic()
        if watch is None or (not always and arrived - self._looked_at < watch.every_s):
            return None
        change: AgentsChanged | None = None
        while self._looked_at < arrived:  # a look that began before does not know what came since
            if self._looking is None or self._looking.done():
                self._looking = asyncio.ensure_future(self._look_once(watch, services))
            # shielded: who is cancelled must not lose for others what was found
            change = await asyncio.shield(self._looking) or change
        return change

    def open_here(self) -> None:
        """From now on this belongs to the present event loop."""
        self._changing, self._looking = asyncio.Lock(), None

    async def settle(self) -> None:
        """Wait for a look that is on its way."""
        if self._looking is not None and not self._looking.done():
            await asyncio.wait([self._looking], timeout=CLOSE_WAIT_S)

    # --- what others are told -----------------------------------------------------------------------------------------

    def check(self, spec: GraphSpec) -> None:
        """Raise `GraphError` for stages that name an agent which is here no more."""
        mistakes = [
            f"stage {stage!r} names the agent {agent!r}, which was retired; onboard it again, or take it out there"
            for agent in sorted(self._gone)
            for stage in stages_naming(spec, agent)
        ]
        if mistakes:
            raise GraphError(spec.name, mistakes)

    def tell(self, ctx: RunContext) -> None:
        """What changed since the last run stands in the trace of this one."""
        while self._news:
            ctx.emit(self._news.popleft())

    # --- a change -----------------------------------------------------------------------------------------------------

    async def _look_once(self, watch: CardWatch, services: Staffed) -> AgentsChanged | None:
        begun = time.monotonic()
        try:
            found = await asyncio.to_thread(watch.look)
            if found is None:
                return None
            async with self._changing:
                return await self._take_in(found, services)
        except Exception:  # the question is asked with the agents that there are
            _log.exception("agents/ was not looked at; the agents stay as they are")
            return None
        finally:
            self._looked_at = begun

    async def _take_in(self, found: CardsFound, services: Staffed) -> AgentsChanged | None:
        """Change the team as the card files did; what cannot be taken stays as it was and is said."""
        team, mistakes = self.team, list(found.mistakes)
        for agent in found.removed:
            team = team.left(agent)
            mistakes += [
                f"graph {graph!r}: stage {stage!r} names the agent {agent!r}, whose card is gone; put it back, or take "
                "it out of the stage"
                for graph, stage in self._naming(agent)
            ]
        for card in found.cards.values():
            try:
                team = team.joined(*await asyncio.to_thread(self._hire, card))
            except MeshError as error:
                mistakes.append(f"agents/{card.id}.md: {error}")
        if not team.cards:
            team = self.team
            mistakes.append("agents/: nobody would be left who can work; the agents stay as they were")
        return await self._change(team, services, tuple(mistakes))

    async def _change(self, team: Team, services: Staffed, mistakes: tuple[str, ...] = ()) -> AgentsChanged | None:
        """Let routers learn the new team, then put it in place; what changed, if anything did.

        The caller holds `_changing`.
        """
        if self._watch is not None:  # as a project that is read anew has them
            team = team.by_id()
        change = team.change_from(self.team, mistakes)
        touched = {*change.added, *change.changed, *change.removed}
        if touched:
            parts = services.staffed(services.parts, team)
            if unready := await self._make_ready(team, touched, services):
                change = change.model_copy(update={"mistakes": (*mistakes, unready)})
            services.parts, self.team = parts, team
            self._gone = (self._gone | {*change.removed}) - team.cards.keys()
        if change == NOTHING:
            return None
        self._news.append(change)
        _log_change(change)
        return change

    async def _make_ready(self, team: Team, touched: set[str], services: Staffed) -> str:
        """Let routers learn the cards of the team and of the pools that name one that changed; why they could not."""
        if services.ready is None:
            return ""
        specs = map(_spec_of, self._graphs().values())
        named = dict.fromkeys(pool for spec in specs for pool in pools_of(spec) if touched & {*pool})
        pools = [pool for pool in named if all(agent in team.cards for agent in pool)][:MOST_POOLS]
        try:
            async with asyncio.timeout(PREPARE_S):
                await services.ready(tuple(team.cards.values()))
                for pool in pools:
                    await services.ready(tuple(team.cards[agent] for agent in dict.fromkeys(pool)))
        except TimeoutError:
            return f"the routers did not learn the change within {PREPARE_S:g} s; the next question waits for them"
        except Exception as error:  # a router's mistake is said by its next decision, too
            return f"the routers could not learn the change ({error}); the next decision tries again"
        return ""

    def _naming(self, agent: str) -> Iterator[tuple[str, str]]:
        """The graphs and stages of the mesh that name an agent."""
        for name, graph in self._graphs().items():
            yield from ((name, stage) for stage in stages_naming(_spec_of(graph), agent))


def _spec_of(graph: AgentGraph | GraphSpec) -> GraphSpec:
    """A graph as it stands."""
    return graph.draft() if isinstance(graph, AgentGraph) else graph


def _log_change(change: AgentsChanged) -> None:
    """Say what changed where no run has said it yet."""
    for what, agents in (("added", change.added), ("changed", change.changed), ("removed", change.removed)):
        if agents:
            _log.info("agents %s: %s", what, ", ".join(agents))
    for mistake in change.mistakes:
        _log.warning("%s", mistake)
