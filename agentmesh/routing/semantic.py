"""The default router: splits a message into wishes, finds the agents of each, knows when it does not know.

Words and meaning of everything on the cards, calibrated probabilities, no language model. A new set of cards is fitted
on first use (a fraction of a second for a dozen cards, in a thread) and remembered; nothing else has to be trained.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentmesh.errors import ConfigError, ModelError, RoutingError
from agentmesh.models.base import Embedder
from agentmesh.routing.calibration import fit_logit, logits, probabilities, shipped_parameters
from agentmesh.routing.parts import Part, refers_back, specific_words, split_parts
from agentmesh.routing.scorer import SIGNALS, CardScorer, background_rows, card_rows
from agentmesh.run import RunContext
from agentmesh.text import words
from agentmesh.types import AgentCard, Candidate, Chosen, Mode, RouteRequest, RoutingDecision

__all__ = ["SemanticRouter"]

Floats = NDArray[np.float64]
Key = tuple[tuple[object, ...], ...]

THRESHOLD = 0.35
"""Least probability with which an agent is chosen for a wish."""
NONE_THRESHOLD = 0.5
"""Probability of "none of them" above which a wish is nobody's."""
MARGIN = 0.15
"""A second agent of the same wish is at most this much less probable than the first."""
BACKGROUND_THRESHOLD = 0.6
"""Least probability for a statement that only leads up to a wish to bring in an agent of its own."""
VAGUE_THRESHOLD = 0.6
"""Least probability for a message without a word that says what it is about."""
VAGUE_NEAR = 0.6
"""Least nearness to an example for the same: such a message is only understood where a card quotes it."""
SURE = 0.75
"""Probability from which a part after a comma is not read together with what stands before it."""
TRIED_PENALTY = math.log(2.0)
"""Taken from the score of an agent that already worked on the task: its odds halve."""
FALSE_ALARM_SHARE = 0.25
"""Weight of all background utterances together in the calibration, the examples together being 1. Our choice."""
REMEMBERED_FITS = 8
"""Sets of cards whose fit is kept, newest used."""
INLINE_CHARS = 1_500
"""Messages up to this length are judged in the event loop's own thread: below about 2 ms."""
ASKED_BACK = 3
"""Agents that the question of `clarify` names."""


@dataclass(frozen=True)
class Judged:
    """What the cards say about some texts."""

    chance: Floats
    """Probabilities, shape (m, c + 1); the last column is "none of them"."""
    score: Floats
    """Logits, same shape."""
    signals: NDArray[np.float32]
    """Shape (m, c, len(SIGNALS))."""


@dataclass(frozen=True)
class Fit:
    """A set of cards, ready to be asked."""

    ids: tuple[str, ...]
    scorer: CardScorer
    parameters: Floats
    fit_ms: float

    def judge(self, texts: Sequence[str], vectors: NDArray[np.float32], tried: Sequence[str] = ()) -> Judged:
        """Probabilities of the agents for each text."""
        signals = self.scorer.signals(texts, vectors)
        score = logits(signals.agents, signals.none, self.parameters)
        for agent in tried:
            if agent in self.ids:
                score[:, self.ids.index(agent)] -= TRIED_PENALTY
        return Judged(probabilities(score), score, signals.agents)


@dataclass(frozen=True)
class Verdict:
    """What was found out about one part of a message."""

    part: Part
    chance: Floats
    """Probabilities, shape (c + 1,)."""
    score: Floats
    """Logits, same shape."""
    signals: NDArray[np.float32]
    """Shape (c, len(SIGNALS))."""
    chosen: tuple[int, ...]
    """Positions of the agents, best first."""
    note: str = ""
    """With what else the part was read."""


class SemanticRouter:
    """Chooses by calibrated probability from words and meaning of the cards.

    Args:
        embedder: Makes the dense vectors; without one only words count.
        threshold: Least probability of a chosen agent, 0 to 1.
        none_threshold: Probability of "none of them" above which a wish is out of scope, 0 to 1.
        margin: How much less probable a second agent of the same wish may be, 0 to 1.
        decompose: Whether a message is split into its wishes.
    """

    name = "semantic"

    def __init__(
        self,
        embedder: Embedder | None = None,
        *,
        threshold: float = THRESHOLD,
        none_threshold: float = NONE_THRESHOLD,
        margin: float = MARGIN,
        decompose: bool = True,
    ) -> None:
        for name, value in (("threshold", threshold), ("none_threshold", none_threshold), ("margin", margin)):
            if not 0 <= value <= 1:
                raise ConfigError(f"routing.options.{name} is {value:g}; give a number from 0 to 1")
        self._embedder = embedder
        self._threshold, self._none_threshold, self._margin = threshold, none_threshold, margin
        self._decompose = decompose
        self._fits: OrderedDict[Key, Fit] = OrderedDict()
        self._fitting: dict[Key, asyncio.Task[Fit]] = {}
        self._last: tuple[tuple[AgentCard, ...], Fit] | None = None

    async def prepare(self, cards: Sequence[AgentCard]) -> None:
        """Fit this set of cards now, so that the first question does not wait for it."""
        if unique := _unique(cards):
            await self._fit_for(unique)

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        started = time.perf_counter()
        cards = _unique(request.cards)
        active = tuple(c for c in cards if not c.shadow) if any(c.shadow for c in cards) else cards
        if not active:
            reason = "there is no agent to choose from" if not cards else "every agent is a shadow"
            return _nobody(self.name, reason, cards, started)
        text = request.task.text
        if not words(text):
            return _nobody(self.name, "the message holds no words", cards, started)
        left = ctx.seconds_left()
        try:
            async with asyncio.timeout(None if math.isinf(left) else left):
                fit = await self._fit_for(active)
                decision = await self._decide(request, active, fit)
                if len(active) < len(cards):
                    decision = await self._with_shadows(decision, request, cards)
        except TimeoutError as error:
            raise RoutingError(f"the router {self.name!r} had {left:.1f} s and needs more; raise the deadline") from error
        except ModelError as error:
            raise RoutingError(f"the router {self.name!r} could not embed the message: {error}") from error
        return decision.model_copy(update={"latency_ms": (time.perf_counter() - started) * 1000})

    # --- fitting ------------------------------------------------------------------------------------------------------

    async def _fit_for(self, cards: tuple[AgentCard, ...]) -> Fit:
        """The fit of these cards: remembered, or made once for all that wait for it."""
        if self._last is not None and _same(self._last[0], cards):
            return self._last[1]
        key = tuple((c.id, c.name, c.description, c.examples, c.not_for, c.instructions) for c in cards)
        fit = self._fits.get(key)
        if fit is None:
            task = self._fitting.get(key)
            if task is None or task.get_loop() is not asyncio.get_running_loop():
                task = asyncio.ensure_future(self._make_fit(cards))
                self._fitting[key] = task
                task.add_done_callback(lambda _: self._fitting.pop(key, None))
            fit = await asyncio.shield(task)
        self._fits[key] = fit
        self._fits.move_to_end(key)
        while len(self._fits) > REMEMBERED_FITS:
            self._fits.popitem(last=False)
        self._last = (cards, fit)
        return fit

    async def _make_fit(self, cards: tuple[AgentCard, ...]) -> Fit:
        rows = [*card_rows(cards), *background_rows()]
        vectors = await self._embed([row.text for row in rows])
        return await asyncio.to_thread(_fit, cards, vectors)

    async def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self._embedder is None:
            return np.zeros((len(texts), 0), np.float32)
        return await self._embedder.embed(texts)

    async def _judge(self, fit: Fit, texts: Sequence[str], tried: Sequence[str]) -> Judged:
        vectors = await self._embed(texts)
        if sum(map(len, texts)) <= INLINE_CHARS:
            return fit.judge(texts, vectors, tried)
        return await asyncio.to_thread(fit.judge, texts, vectors, tried)

    # --- deciding -----------------------------------------------------------------------------------------------------

    async def _decide(self, request: RouteRequest, cards: tuple[AgentCard, ...], fit: Fit) -> RoutingDecision:
        text = request.task.text
        parts = split_parts(text) if self._decompose else (Part(text, text),)
        before = _last_turn(request) if refers_back(parts[0].text) else ""
        # What is read before a part, where it cannot be read alone.
        leads = [before, *(parts[i - 1].text if parts[i - 1].background or parts[i].loose else "" for i in range(1, len(parts)))]
        wider = {i: f"{lead} {parts[i].text}" for i, lead in enumerate(leads) if lead}
        judged = await self._judge(fit, [*(p.context for p in parts), *wider.values()], request.tried)
        vague = not before and not any(specific_words(p.text) for p in parts)
        verdicts: list[Verdict] = []
        for place, part in enumerate(parts):
            alone = self._verdict(part, judged, place, vague=vague or (place == 0 and bool(before)))
            if place in wider:
                row = len(parts) + list(wider).index(place)
                alone = self._with_lead(alone, judged, row, "the last turn" if place == 0 else "what leads up to it")
            verdicts.append(alone)
        return self._compose(request, cards, verdicts, vague=vague)

    def _verdict(self, part: Part, judged: Judged, row: int, *, vague: bool = False, note: str = "") -> Verdict:
        """The agents of a part by one row of the judgement."""
        chance = judged.chance[row]
        chosen = self._choose(chance, max(self._threshold, BACKGROUND_THRESHOLD) if part.background else self._threshold)
        if vague and chosen:
            first = chosen[0]
            near = float(judged.signals[row, first, SIGNALS.index("near")])
            if chance[first] < VAGUE_THRESHOLD or near < VAGUE_NEAR:
                chosen = ()
        return Verdict(part, chance, judged.score[row], judged.signals[row], chosen, note)

    def _with_lead(self, alone: Verdict, judged: Judged, row: int, lead: str) -> Verdict:
        """A part together with what leads up to it: half of the score each, or all of it where the part says nothing.

        A part that is sure by itself stays as it is, unless the lead is a statement that was made for its sake.
        """
        note = f"read together with {lead}"
        if not alone.chosen and refers_back(alone.part.text):
            return self._verdict(alone.part, judged, row, note=note)
        if alone.part.loose and alone.chance[:-1].max() >= SURE:
            return alone
        score = (alone.score + judged.score[row]) / 2
        both = Judged(probabilities(score[None]), score[None], (alone.signals + judged.signals[row])[None] / 2)
        return self._verdict(alone.part, both, 0, note=note)

    def _choose(self, chance: Floats, least: float) -> tuple[int, ...]:
        """Positions of the agents that are probable enough, best first, at most two."""
        if chance[-1] > self._none_threshold:
            return ()
        order = np.argsort(-chance[:-1], kind="stable")[:2].tolist()
        best = float(chance[order[0]])
        return tuple(i for i in order if chance[i] >= least and best - chance[i] <= self._margin)

    def _compose(
        self, request: RouteRequest, cards: tuple[AgentCard, ...], verdicts: list[Verdict], *, vague: bool
    ) -> RoutingDecision:
        """One decision from the verdicts about the parts."""
        count = len(cards)
        chance, score = np.stack([v.chance for v in verdicts]), np.stack([v.score for v in verdicts])
        signals = [np.round(v.signals, 4).tolist() for v in verdicts]
        best_row = chance[:, :count].argmax(axis=0)
        best = chance[best_row, np.arange(count)]
        own: dict[int, list[int]] = {}
        for row, verdict in enumerate(verdicts):
            for agent in verdict.chosen:
                own.setdefault(agent, []).append(row)
        ranked = sorted(own, key=lambda a: (-max(float(chance[r, a]) for r in own[a]), a))
        kept = ranked[: request.max_agents]
        asked = [chance[row] for row, v in enumerate(verdicts) if not v.part.background] or [chance[0]]
        evidence: dict[str, Any] = {
            "threshold": self._threshold,
            "none_threshold": self._none_threshold,
            "margin": self._margin,
            "out_of_scope": round(float(min(c[-1] for c in asked)), 4),
            "parts": [
                {
                    "text": v.part.text,
                    "agents": [cards[a].id for a in v.chosen],
                    "none": round(float(chance[row, -1]), 4),
                    "background": v.part.background,
                    "note": v.note,
                }
                for row, v in enumerate(verdicts)
            ],
        }
        mode, reason, question, confidence = self._mode(cards, verdicts, chance, best, kept, asked, vague=vague)
        if mode in (Mode.CLARIFY, Mode.OUT_OF_SCOPE):
            kept = []
        total = sum(float(chance[r, a]) for a in kept for r in own[a]) or 1.0
        chosen = tuple(
            Chosen(
                agent=cards[a].id,
                score=float(max(score[r, a] for r in own[a])),
                probability=float(max(chance[r, a] for r in own[a])),
                weight=sum(float(chance[r, a]) for r in own[a]) / total,
                part=_own_part(verdicts, own[a]),
            )
            for a in kept
        )
        order = [*kept, *(a for a in np.argsort(-best, kind="stable").tolist() if a not in kept)]
        candidates = tuple(
            Candidate(
                agent=cards[a].id,
                score=float(score[best_row[a], a]),
                probability=float(best[a]),
                chosen=a in kept,
                reason=self._why(a, float(best[a]), mode, kept, own, request.max_agents, chance[best_row[a]], verdicts[best_row[a]]),
                signals=dict(zip(SIGNALS, signals[best_row[a]][a], strict=True)),
            )
            for a in order
        )
        return RoutingDecision(
            mode=mode,
            chosen=chosen,
            reason=reason,
            candidates=candidates,
            evidence=evidence,
            confidence=min(1.0, max(0.0, confidence)),
            question=question,
            router=self.name,
        )

    def _mode(
        self,
        cards: tuple[AgentCard, ...],
        verdicts: list[Verdict],
        chance: Floats,
        best: Floats,
        kept: list[int],
        asked: list[Floats],
        *,
        vague: bool,
    ) -> tuple[Mode, str, str | None, float]:
        """What to do, why, what to ask, and how sure that is."""
        if kept:
            named = ", ".join(f"{cards[a].id} ({best[a]:.2f})" for a in kept)
            parts = len(verdicts)
            foreign = sum(not v.chosen and not v.part.background for v in verdicts)
            reason = f"{named} for {'the message' if parts == 1 else f'{parts} parts of the message'}"
            if foreign:
                reason += f"; {foreign} part{'s' if foreign > 1 else ''} without an agent"
            notes = {v.note for v in verdicts if v.note and v.chosen}
            if notes:
                reason += f"; {', '.join(sorted(notes))}"
            sure = 1.0
            for row, verdict in enumerate(verdicts):
                if verdict.chosen:
                    sure *= float(chance[row, verdict.chosen].sum())
                elif not verdict.part.background:
                    sure *= float(chance[row, -1])
            return (Mode.SOLO if len(kept) == 1 else Mode.PARALLEL), reason, None, sure
        none = float(min(c[-1] for c in asked))
        nearest = np.argsort(-best, kind="stable")[:ASKED_BACK].tolist()
        top = f"the nearest is {cards[nearest[0]].id} with {best[nearest[0]]:.2f}"
        if vague or none <= best.max():
            why = "no word says what the message is about" if vague else "no agent stands out"
            titles = [cards[a].title for a in nearest]
            listed = titles[0] if len(titles) == 1 else f"{', '.join(titles[:-1])} or {titles[-1]}"
            question = f"What is it about: {listed}, or something else? Please describe it in a few more words."
            return Mode.CLARIFY, f"{why}; {top} below {self._threshold:.2f}" if best[nearest[0]] < self._threshold else f"{why}; {top}", question, 1.0 - float(best.max())
        return Mode.OUT_OF_SCOPE, f"none of the agents with probability {none:.2f}; {top}", None, none

    def _why(
        self,
        agent: int,
        best: float,
        mode: Mode,
        kept: list[int],
        own: dict[int, list[int]],
        most: int,
        chance: Floats,
        verdict: Verdict,
    ) -> str:
        """Why an agent was chosen or passed over."""
        if agent in kept:
            return f"probability {best:.2f}, at least {self._threshold:.2f}" + (f", {verdict.note}" if verdict.note else "")
        if mode is Mode.CLARIFY:
            return f"probability {best:.2f}, but the message is too vague to decide"
        if agent in own:
            return f"probability {best:.2f}, but outside the {most} best"
        if best < self._threshold:
            return f"probability {best:.2f} below {self._threshold:.2f}"
        if chance[-1] > self._none_threshold:
            return f"probability {best:.2f}, but none of the agents has {chance[-1]:.2f}"
        if verdict.part.background and best < BACKGROUND_THRESHOLD:
            return f"probability {best:.2f} below {BACKGROUND_THRESHOLD:.2f} for a part that only leads up to the wish"
        return f"probability {best:.2f}, more than {self._margin:.2f} behind the best"

    async def _with_shadows(
        self, decision: RoutingDecision, request: RouteRequest, cards: tuple[AgentCard, ...]
    ) -> RoutingDecision:
        """The same decision with the shadows among the candidates, as they would have competed."""
        fit = await self._fit_for_all(cards)
        parts = split_parts(request.task.text) if self._decompose else ()
        judged = await self._judge(fit, [p.context for p in parts] or [request.task.text], request.tried)
        extra: list[Candidate] = []
        for place, card in enumerate(cards):
            if not card.shadow:
                continue
            row = int(judged.chance[:, place].argmax())
            chance = float(judged.chance[row, place])
            extra.append(
                Candidate(
                    agent=card.id,
                    score=float(judged.score[row, place]),
                    probability=chance,
                    chosen=False,
                    reason=f"shadow: never called (probability {chance:.2f})",
                    signals={n: round(float(judged.signals[row, place, s]), 4) for s, n in enumerate(SIGNALS)},
                )
            )
        ranked = sorted(
            [*decision.candidates, *extra], key=lambda c: (not c.chosen, -(c.probability or 0.0))
        )
        return decision.model_copy(update={"candidates": tuple(ranked)})

    async def _fit_for_all(self, cards: tuple[AgentCard, ...]) -> Fit:
        """The fit with the shadows, which leaves the remembered one of the agents in its place."""
        last = self._last
        fit = await self._fit_for(cards)
        self._last = last
        return fit


def _fit(cards: tuple[AgentCard, ...], vectors: NDArray[np.float32]) -> Fit:
    """Fit the scorer and calibrate it on the examples it did not see."""
    started = time.perf_counter()
    scorer = CardScorer(len(cards), [*card_rows(cards), *background_rows()], vectors)
    seen = scorer.held_out
    foreign = seen.labels == len(cards)
    examples = int((~foreign).sum())
    weights = np.where(foreign, FALSE_ALARM_SHARE * max(1, examples) / max(1, int(foreign.sum())), 1.0)
    prior = shipped_parameters(sum(len(c.examples) for c in cards) / len(cards))
    parameters = fit_logit(seen.signals.agents, seen.signals.none, seen.labels, weights, prior)
    return Fit(tuple(c.id for c in cards), scorer, parameters, (time.perf_counter() - started) * 1000)


def _last_turn(request: RouteRequest) -> str:
    """What the user said last, if there is a history."""
    return next((m.text for m in reversed(request.task.history) if m.role == "user" and words(m.text)), "")


def _unique(cards: Sequence[AgentCard]) -> tuple[AgentCard, ...]:
    """The cards without those whose id came before."""
    by_id: dict[str, AgentCard] = {}
    for card in cards:
        by_id.setdefault(card.id, card)
    return tuple(by_id.values())


def _same(one: tuple[AgentCard, ...], other: tuple[AgentCard, ...]) -> bool:
    """Whether two sets hold the very same objects: cards are frozen, so nothing else has to be compared."""
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


def _nobody(router: str, reason: str, cards: Sequence[AgentCard], started: float) -> RoutingDecision:
    """Nothing fits, without looking closer."""
    return RoutingDecision(
        mode=Mode.OUT_OF_SCOPE,
        reason=reason,
        candidates=tuple(
            Candidate(agent=c.id, score=0.0, probability=0.0, chosen=False, reason="shadow" if c.shadow else reason)
            for c in cards
        ),
        confidence=1.0,
        router=router,
        latency_ms=(time.perf_counter() - started) * 1000,
    )


def _own_part(verdicts: Sequence[Verdict], rows: Sequence[int]) -> str:
    """The text of an agent's parts in order, each with what leads up to it; all of it where there is one part."""
    taken: list[int] = []
    for row in sorted(rows):
        first = row
        while first > 0 and (verdicts[first - 1].part.background or (verdicts[first].note and first == row)):
            first -= 1
        taken.extend(i for i in range(first, row + 1) if i not in taken)
    return " ".join(verdicts[i].part.text for i in taken)
