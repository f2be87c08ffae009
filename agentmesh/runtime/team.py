"""The agents of a mesh at one moment, and which stages of a graph name one of them.

A team is never changed: who joins or leaves makes another one, so that a run keeps the team that it began with.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from agentmesh.agents.base import Agent
from agentmesh.graphs import GraphSpec
from agentmesh.trace.events import AgentsChanged
from agentmesh.types import AgentCard

__all__ = ["Team", "pools_of", "stages_naming"]


@dataclass(frozen=True)
class Team:
    """Who may work."""

    cards: Mapping[str, AgentCard]
    """By id, in the order in which routers are given them."""
    made: Mapping[str, Agent] = field(default_factory=dict[str, Agent])
    """By id, those that were given as agents; the others are made of their cards."""

    def joined(self, card: AgentCard, agent: Agent | None = None) -> "Team":
        """The team with this one; it takes the place of the one of the same id, if there is one."""
        made = {id_: kept for id_, kept in self.made.items() if id_ != card.id}
        return Team({**self.cards, card.id: card}, made if agent is None else {**made, card.id: agent})

    def left(self, agent: str) -> "Team":
        """The team without that one."""
        return Team(
            {id_: card for id_, card in self.cards.items() if id_ != agent},
            {id_: kept for id_, kept in self.made.items() if id_ != agent},
        )

    def by_id(self) -> "Team":
        """The same team in the order of the ids, as a project that is read anew has it."""
        return Team(dict(sorted(self.cards.items())), self.made)

    def change_from(self, before: "Team", mistakes: tuple[str, ...] = ()) -> AgentsChanged:
        """What is other than it was before."""
        return AgentsChanged(
            added=tuple(sorted(self.cards.keys() - before.cards.keys())),
            changed=tuple(sorted(id_ for id_ in self.cards.keys() & before.cards.keys() if self._differs(before, id_))),
            removed=tuple(sorted(before.cards.keys() - self.cards.keys())),
            mistakes=mistakes,
        )

    def _differs(self, before: "Team", agent: str) -> bool:
        same = self.cards[agent] == before.cards[agent]
        return not same or self.made.get(agent) is not before.made.get(agent)


def stages_naming(spec: GraphSpec, agent: str) -> Iterator[str]:
    """The stages that name this agent, those of graphs inside it as `outer/inner`; `*` names nobody."""
    for stage in spec.stages:
        layers = stage.path.layers if stage.path else ()
        if agent in stage.pool or agent == stage.agent or any(agent in layer for layer in layers):
            yield stage.name
        if stage.graph is not None:
            yield from (f"{stage.name}/{inner}" for inner in stages_naming(stage.graph, agent))


def pools_of(spec: GraphSpec) -> Iterator[tuple[str, ...]]:
    """The pools of its dispatches that name agents, of the graphs inside it too."""
    for stage in spec.stages:
        if "*" not in stage.pool:
            yield stage.pool
        if stage.graph is not None:
            yield from pools_of(stage.graph)
