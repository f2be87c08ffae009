"""From how each agent stands to one decision: who works, or nobody, or a question back. Pure.

For routers that choose one agent by a score and know how near a message is to anything that was seen before.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agentmesh.routing.answered import Answered, named_options
from agentmesh.types import AgentCard, Candidate, Chosen, Mode, RouteRequest, RoutingDecision

__all__ = ["Judgement", "Limits", "Settled", "Standing", "decision_of", "nobody", "shares"]

ASKED_BACK = 3
"""Agents that the question of `clarify` names."""
QUOTED = 0.9
"""Nearness from which a message without a word that says what it is about is understood all the same."""


@dataclass(frozen=True)
class Standing:
    """How one agent stands."""

    agent: str
    score: float
    """The router's own; higher is better."""
    near: float
    """Cosine of the message to the nearest text that the agent is known for, -1 to 1."""
    why: str
    """The score in words, with its numbers."""
    against: float = -1.0
    """Cosine to the nearest text that the agent is not for."""
    variant: str | None = None
    signals: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class Settled:
    """An agent that works whatever the scores are."""

    agent: str
    why: str
    variant: str | None = None
    confidence: float = 0.0


@dataclass(frozen=True)
class Judgement:
    """What a router found out about a message."""

    standings: tuple[Standing, ...]
    """One of every card, in their order."""
    temperature: float
    """The difference of two scores at which the odds are e to 1."""
    margin: float = 0.0
    """Scores that are not further apart are a tie: the user is asked."""
    floor: float = -math.inf
    """Only an agent with a higher score is chosen."""
    settled: Settled | None = None
    """What becomes of a message that would be asked back or be out of scope, where the router knows better."""
    evidence: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Limits:
    """From where on a message is too far from everything."""

    least_similarity: float
    """Least nearness of a chosen agent, a cosine."""


def shares(scores: Sequence[float], temperature: float) -> list[float]:
    """Softmax of scores: each one's part of 1, of which `temperature` more is worth e times as much."""
    if not scores:
        return []
    powers = np.exp((np.asarray(scores, np.float64) - max(scores)) / temperature)
    return [float(p) for p in powers / powers.sum()]


def decision_of(
    router: str,
    request: RouteRequest,
    cards: Sequence[AgentCard],
    judged: Judgement,
    limits: Limits,
    *,
    vague: bool,
) -> RoutingDecision:
    """One decision from the standings.

    Nobody's nearness reaches `least_similarity`: out of scope. No word says what it is about, or the two best are a
    tie: the user is asked, once, in the first round. Else the best works. An agent that is nearer to what it is not
    for than to what it is for does not.
    """
    shadows = {card.id for card in cards if card.shadow}
    ranked = sorted(judged.standings, key=lambda s: -s.score)
    refusals = {s.agent: why for s in ranked if (why := _refusal(s, judged, limits, s.agent in shadows))}
    able = [s for s in ranked if s.agent not in refusals]
    torn: list[Standing] = []
    settled: Settled | None = None
    asked = request.task.clarifications
    told = _told(request, cards)
    if told is Answered.NEITHER:
        options = {*asked[-1].options}
        able = [s for s in able if s.agent not in options]
        refusals |= {agent: "the user said that it is none of these" for agent in options if agent not in refusals}
    elif isinstance(told, str):
        settled = Settled(told, "named by the user", _standing(ranked, told).variant, 0.95)
    if settled is None:
        nearest = max(s.near for s in ranked)
        if vague and nearest < QUOTED and not asked and request.round == 1:
            torn = [s for s in ranked if s.agent not in shadows]
        elif len(able) > 1 and able[0].score - able[1].score < judged.margin and not asked and request.round == 1:
            torn = [s for s in able if able[0].score - s.score < judged.margin]
        if torn or not able:
            settled = judged.settled
    if settled is not None:
        best = _standing(ranked, settled.agent)
        odds = settled.confidence
        chosen, why, variant = best, settled.why, settled.variant
    elif torn or not able:
        return _without(router, request, cards, ranked, torn, refusals, judged, limits, vague=vague)
    else:
        odds = shares([s.score for s in ranked if s.agent not in shadows], judged.temperature)[0]
        chosen, why, variant = able[0], able[0].why, able[0].variant
        if ranked[0] is not chosen:  # somebody scored higher and was refused
            odds = shares([s.score for s in able], judged.temperature)[0]
    ordered = [chosen, *(s for s in ranked if s is not chosen)]
    behind = f"behind {chosen.agent}"
    return RoutingDecision(
        mode=Mode.SOLO,
        chosen=(Chosen(agent=chosen.agent, score=chosen.score, variant=variant),),
        reason=f"{chosen.agent}{f'/{variant}' if variant else ''}: {why}",
        candidates=tuple(
            _candidate(s, why if s is chosen else refusals.get(s.agent, behind), chosen=s is chosen) for s in ordered
        ),
        evidence=_evidence(judged, limits),
        confidence=min(1.0, max(0.0, odds)),
        router=router,
    )


def nobody(router: str, cards: Sequence[AgentCard], reason: str) -> RoutingDecision:
    """A decision that nothing fits, made before anything was compared."""
    return RoutingDecision(
        mode=Mode.OUT_OF_SCOPE,
        reason=reason,
        candidates=tuple(
            Candidate(agent=c.id, score=0.0, chosen=False, reason="shadow: never called" if c.shadow else reason)
            for c in cards
        ),
        confidence=1.0,
        router=router,
    )


def _without(
    router: str,
    request: RouteRequest,
    cards: Sequence[AgentCard],
    ranked: Sequence[Standing],
    torn: Sequence[Standing],
    refusals: dict[str, str],
    judged: Judgement,
    limits: Limits,
    *,
    vague: bool,
) -> RoutingDecision:
    """The decision that asks back, or that nothing fits."""
    nearest = max(ranked, key=lambda s: s.near)
    options = [s.agent for s in torn][:ASKED_BACK]
    if torn:
        titles = {card.id: card.title for card in cards}
        named = ", ".join(titles[agent] for agent in options)
        mode, question = (
            Mode.CLARIFY,
            f"What is it about: {named}, or something else? Please say it in a few more words.",
        )
        reason = (
            "no word says what the message is about"
            if vague
            else f"{' and '.join(options)} are less than {judged.margin:.2f} apart"
        )
        confidence, otherwise = 0.5, "the user is asked"
    else:
        mode, question = Mode.OUT_OF_SCOPE, None
        reason = f"nothing that is known is near enough: the nearest is {nearest.agent} with {nearest.near:.2f}"
        if nearest.near >= limits.least_similarity:
            reason = f"nobody is left for it; {nearest.agent}: {refusals.get(nearest.agent, 'not chosen')}"
        confidence = max(0.5, min(1.0, 1.0 - nearest.near / (2 * max(limits.least_similarity, 1e-9))))
        otherwise = "nothing fits"
    return RoutingDecision(
        mode=mode,
        reason=reason,
        candidates=tuple(_candidate(s, refusals.get(s.agent, otherwise), chosen=False) for s in ranked),
        evidence=_evidence(judged, limits),
        confidence=confidence,
        question=question,
        options=tuple(options),
        router=router,
    )


def _refusal(s: Standing, judged: Judgement, limits: Limits, shadow: bool) -> str:
    """Why an agent cannot be chosen, whoever else is there; empty: it can."""
    if shadow:
        return "shadow: never called"
    if s.near < limits.least_similarity:
        return f"the nearest text that it is known for has {s.near:.2f}, below {limits.least_similarity:.2f}"
    if s.against > s.near:
        return f"nearer to what it is not for ({s.against:.2f}) than to what it is for ({s.near:.2f})"
    if s.score <= judged.floor:
        return f"a score of {s.score:.2f} is not above {judged.floor:.2f}"
    return ""


def _told(request: RouteRequest, cards: Sequence[AgentCard]) -> str | Answered:
    """The agent that the user named when asked back, or what else the answer says."""
    if not request.task.clarifications:
        return Answered.NOTHING
    asked = request.task.clarifications[-1]
    able = [card for card in cards if not card.shadow]
    by_id = {card.id: card for card in able}
    options = [by_id[agent] for agent in asked.options if agent in by_id] or able
    told = named_options(asked.answer, options)
    return told if isinstance(told, Answered) else told[0]


def _standing(ranked: Sequence[Standing], agent: str) -> Standing:
    return next(s for s in ranked if s.agent == agent)


def _candidate(s: Standing, reason: str, *, chosen: bool) -> Candidate:
    said = reason if chosen or s.why in reason else f"{reason}; {s.why}"
    signals = {"near": round(s.near, 4), **{name: round(value, 6) for name, value in s.signals.items()}}
    return Candidate(agent=s.agent, score=s.score, chosen=chosen, reason=said, signals=signals)


def _evidence(judged: Judgement, limits: Limits) -> dict[str, Any]:
    return {"least_similarity": limits.least_similarity, "margin": judged.margin, **judged.evidence}
