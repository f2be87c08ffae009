"""The routers that others are compared with: chance, a fixed list, shared words. They know nothing of meaning."""

import random
import time
from collections.abc import Sequence

from agentmesh.errors import ConfigError, UnknownNameError
from agentmesh.models.base import Embedder
from agentmesh.routing.base import unique_cards
from agentmesh.run import RunContext
from agentmesh.text import content_words
from agentmesh.types import AgentCard, Candidate, Chosen, Mode, RouteRequest, RoutingDecision

__all__ = ["FixedRouter", "KeywordRouter", "RandomRouter"]

KEYWORD_SHARE = 0.5
"""A further agent is chosen if it shares at least this part of the best agent's overlap. Our choice."""


class RandomRouter:
    """One agent by chance.

    Args:
        embedder: Not used.
        seed: The same message then gives the same agent in every run; absent: the run's own random numbers.
    """

    name = "random"

    def __init__(self, embedder: Embedder | None = None, *, seed: int | None = None) -> None:
        self._seed = seed

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        started = time.perf_counter()
        callable_cards = [c for c in unique_cards(request.cards) if not c.shadow]
        if not callable_cards:
            return _decision(self.name, request.cards, {}, "there is no agent to choose from", started)
        rng = ctx.rng if self._seed is None else random.Random(f"{self._seed}/{request.task.text}")
        card = rng.choice(callable_cards)
        share = 1.0 / len(callable_cards)
        return _decision(
            self.name, request.cards, {card.id: 1.0}, f"{card.id} by chance, 1 of {len(callable_cards)}", started,
            confidence=share, passed_over="not drawn",
        )  # fmt: skip


class FixedRouter:
    """Always the same agents.

    Args:
        embedder: Not used.
        agents: Ids, best first; absent: all candidates in their order. At most `max_agents` of the request work.
    """

    name = "fixed"

    def __init__(self, embedder: Embedder | None = None, *, agents: Sequence[str] | None = None) -> None:
        if isinstance(agents, str):
            raise ConfigError(f"routing.options.agents is {agents!r}; give a list of agent ids")
        self._agents = None if agents is None else tuple(dict.fromkeys(agents))

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        """See `Router`; also raises `UnknownNameError` if a named agent is not among the candidates."""
        started = time.perf_counter()
        cards = {c.id: c for c in unique_cards(request.cards)}
        if not cards:
            return _decision(self.name, (), {}, "there is no agent to choose from", started)
        wanted = tuple(cards) if self._agents is None else self._agents
        for agent in wanted:
            if agent not in cards:
                raise UnknownNameError("agent", agent, sorted(cards), where="routing.options.agents")
        chosen = [a for a in wanted if not cards[a].shadow][: request.max_agents]
        reason = f"{', '.join(chosen)}: fixed by the settings" if chosen else "every named agent is a shadow"
        passed_over = f"not among the first {request.max_agents} of the fixed list"
        return _decision(
            self.name,
            request.cards,
            dict.fromkeys(chosen, 1.0),
            reason,
            started,
            confidence=1.0,
            passed_over=passed_over,
        )


class KeywordRouter:
    """The agents whose cards share words with the message.

    Args:
        embedder: Not used.
    """

    name = "keyword"

    def __init__(self, embedder: Embedder | None = None) -> None:
        self._words: dict[tuple[object, ...], frozenset[str]] = {}

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        started = time.perf_counter()
        asked = set(content_words(request.task.text))
        shared = {c.id: asked & self._words_of(c) for c in unique_cards(request.cards)}
        overlap = {agent: len(found) / len(asked) if asked else 0.0 for agent, found in shared.items()}
        shadows = {c.id for c in request.cards if c.shadow}
        ranked = sorted((a for a in overlap if overlap[a] and a not in shadows), key=lambda a: -overlap[a])
        if not ranked:
            return _decision(
                self.name, request.cards, {}, "no card shares a word with the message", started, scores=overlap
            )
        least = KEYWORD_SHARE * overlap[ranked[0]]
        chosen = {a: overlap[a] for a in ranked[: request.max_agents] if overlap[a] >= least}
        said = "; ".join(f"{a} shares {', '.join(sorted(shared[a])[:5])} ({overlap[a]:.2f})" for a in chosen)
        return _decision(
            self.name, request.cards, chosen, said, started, scores=overlap, confidence=overlap[ranked[0]],
            passed_over=f"below {least:.2f} or outside the {request.max_agents} best",
        )  # fmt: skip

    def _words_of(self, card: AgentCard) -> frozenset[str]:
        """Stems of the words on a card."""
        key = (card.id, card.name, card.description, card.examples, card.instructions)
        found = self._words.get(key)
        if found is None:
            if len(self._words) > 1000:
                self._words.clear()
            text = " ".join((card.name, card.description, *card.examples, card.instructions))
            found = self._words[key] = frozenset(content_words(text))
        return found


def _decision(
    router: str,
    cards: Sequence[AgentCard],
    chosen: dict[str, float],
    reason: str,
    started: float,
    *,
    scores: dict[str, float] | None = None,
    confidence: float = 0.0,
    passed_over: str = "",
) -> RoutingDecision:
    """A decision for the whole message from agents with scores above 0, best first."""
    total = sum(chosen.values())
    known = scores or chosen
    mode = Mode.OUT_OF_SCOPE if not chosen else Mode.SOLO if len(chosen) == 1 else Mode.PARALLEL
    candidates = [
        Candidate(
            agent=card.id,
            score=known.get(card.id, 0.0),
            chosen=card.id in chosen,
            reason="chosen" if card.id in chosen else "shadow: never called" if card.shadow else passed_over or reason,
        )
        for card in unique_cards(cards)
    ]
    order = {agent: place for place, agent in enumerate(chosen)}
    candidates.sort(key=lambda c: (order.get(c.agent, len(order)), -c.score))
    return RoutingDecision(
        mode=mode,
        chosen=tuple(Chosen(agent=a, score=s, weight=s / total) for a, s in chosen.items()),
        reason=reason,
        candidates=tuple(candidates),
        confidence=min(1.0, confidence),
        router=router,
        latency_ms=(time.perf_counter() - started) * 1000,
    )
