"""What a policy is asked in `bench routing`, and what it decided. Values only: nothing is read or measured here."""

import heapq
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from agentmesh.evaluation.datasets import Sample
from agentmesh.models.base import Embedder
from agentmesh.types import AgentCard, Candidate, RouteRequest, RoutingDecision, Task

__all__ = ["Answers", "Exam", "Measure", "Pick", "Say", "best_candidates", "pick_of"]

MOST_AGENTS = 3
"""Agents that a decision may name, unless the set says otherwise."""
KEPT_CANDIDATES = 16
"""Candidates of a decision that are looked at; more than the shortlist of `reasoning` takes."""

Say = Callable[[str], None]


class Measure(StrEnum):
    """What is counted about the decisions on a set."""

    FIRST = "first"
    """One agent is right, or nobody."""
    SET = "set"
    """A set of agents is right."""
    NONE = "none"
    """Whether anybody is right at all; every row has candidates of its own."""
    TWINS = "twins"
    """Rows in pairs that mean the same; which agent is right is not known."""


@dataclass(frozen=True)
class Exam:
    """One fold of a set, ready to be asked."""

    cards: tuple[AgentCard, ...]
    """The candidates of every row that has none of its own."""
    train: tuple[Sample, ...]
    """Agents named by id; what a classifier may learn from."""
    test: tuple[Sample, ...]
    measure: Measure = Measure.FIRST
    max_agents: int = MOST_AGENTS

    @property
    def several(self) -> bool:
        """Whether a row may need several agents."""
        return self.measure is Measure.SET

    def cards_for(self, sample: Sample) -> tuple[AgentCard, ...]:
        """The candidates of a row."""
        return sample.cards or self.cards

    def request(self, sample: Sample) -> RouteRequest:
        """A row as a router is asked it, with what was said before."""
        task = Task(text=sample.text, history=sample.history)
        return RouteRequest(task=task, cards=self.cards_for(sample), max_agents=self.max_agents)


@dataclass(frozen=True)
class Pick:
    """What a policy decided about one text."""

    chosen: tuple[str, ...]
    """Ids, best first; empty: it abstained."""
    ranked: tuple[str, ...]
    """The agents that it considered, best first, whatever was chosen; at least the first of them."""
    chance: float | None = None
    """Probability of the best one of `ranked`, where the policy has one."""
    none: float | None = None
    """How much speaks for nobody, higher is more; comparable within one policy."""
    latency_ms: float | None = None
    unlimited: int = 1
    """How many agents it would have chosen without a least probability; counts where it abstained."""

    @property
    def first(self) -> str | None:
        """The first choice; where it abstained, the agent that it ranks best."""
        return next(iter((*self.chosen, *self.ranked)), None)


Answers = Callable[[Exam, Embedder], Awaitable[list[Pick]]]


def pick_of(decision: RoutingDecision, max_agents: int, wait_ms: float) -> Pick:
    """A decision of `semantic` as it is counted.

    Without a least probability it would have chosen the agents that are hardly less probable than the best one: by no
    more than its `margin`.
    """
    best = best_candidates(decision)
    chances = [c.probability or 0.0 for c in best]
    margin = float(decision.evidence.get("margin", 0.0))
    near = sum(chance > 0 and chances[0] - chance <= margin for chance in chances)
    return Pick(
        chosen=decision.agents,
        ranked=tuple(c.agent for c in best),
        chance=chances[0] if chances else 0.0,
        none=float(decision.evidence.get("out_of_scope", 1.0)),
        latency_ms=wait_ms,
        unlimited=max(1, min(near, max_agents)),
    )


def best_candidates(decision: RoutingDecision) -> tuple[Candidate, ...]:
    """The most probable candidates, best first; of equally probable ones those that stand first."""
    return tuple(heapq.nlargest(KEPT_CANDIDATES, decision.candidates, key=lambda c: c.probability or 0.0))
