"""The default router: splits a message into wishes, finds the agents of each, knows when it does not know.

Words and meaning of everything on the cards, calibrated probabilities, no language model. A new set of cards is fitted
on first use (a fraction of a second for a dozen cards, in a thread) and remembered; nothing else has to be trained.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from agentmesh.errors import ConfigError, MeshError
from agentmesh.models.base import Embedder
from agentmesh.routing.adapted import AdaptedCards
from agentmesh.routing.answered import Answered, found_names, named_options, with_answer
from agentmesh.routing.base import decided_in_time, unique_cards
from agentmesh.routing.calibration import MOST_LISTED, CalibratedCards, Judged
from agentmesh.routing.conversation import continued, last_workers
from agentmesh.routing.decision import Thresholds, Verdict, candidate, compose, verdict_on
from agentmesh.routing.fits import Fit, Fits, same_cards
from agentmesh.routing.index import CardIndex
from agentmesh.routing.parts import MAX_PARTS, Part, refers_back, specific_words, split_parts, whole_wishes
from agentmesh.routing.several import SeveralCards
from agentmesh.routing.told import telling_words
from agentmesh.run import RunContext
from agentmesh.text import words
from agentmesh.types import AgentCard, Candidate, Chosen, Mode, RouteRequest, RoutingDecision

__all__ = ["SemanticRouter"]

Splitter = Callable[[str], Awaitable[Sequence[str]]]
_log = logging.getLogger(__name__)

COVERAGE = 0.96
"""Our choice, with the public rows in view: 1.3 to 1.5 agents of 64 to 150 work on a wish, and one of them is the right
one for 96 % to 98 %."""
SURE = 0.75
"""Probability from which a part after a comma is not read together with what stands before it."""
WHOLE_SURE = 0.9
"""Probability from which a message as a whole is sure to be for one agent. Settled on test rows of
banking77 and clinc_mix."""
REMEMBERED_WORDS = 10_000
"""Words whose vectors are kept."""
INLINE_CHARS = 1_500
"""Messages up to this length are judged in the event loop's own thread: below about 2 ms."""
CONTEXT_CHARS = 500
"""Characters of the user's last turn that are read before a message that refers back to it; its end counts."""


class SemanticRouter:
    """Chooses by calibrated probability from words and meaning of the cards.

    Args:
        embedder: Makes the dense vectors; without one only words count.
        threshold: Least probability of a chosen agent, 0 to 1.
        none_threshold: Probability of "none of them" above which a wish is out of scope, 0 to 1.
        margin: How much less probable a second agent of the same wish may be, 0 to 1.
        coverage: With more than 24 agents, up to three work on a wish until they have this share of the probability.
        decompose: Whether a message is split into its wishes.
        splitter: Names the wishes of a message in order, by a model for example; absent, or where it names none or
            fails, clauses are cut by punctuation and function words.
    """

    name = "semantic"

    def __init__(
        self,
        embedder: Embedder | None = None,
        *,
        threshold: float = Thresholds.threshold,
        none_threshold: float = Thresholds.none_threshold,
        margin: float = Thresholds.margin,
        coverage: float = COVERAGE,
        decompose: bool = True,
        splitter: Splitter | None = None,
    ) -> None:
        for option, value in (
            ("threshold", threshold),
            ("none_threshold", none_threshold),
            ("margin", margin),
            ("coverage", coverage),
        ):
            if not 0 <= value <= 1:
                raise ConfigError(f"routing.options.{option} is {value:g}; give a number from 0 to 1")
        self._embedder = embedder
        self._limits = Thresholds(threshold, none_threshold, margin)
        self._coverage = coverage
        self._decompose = decompose
        self._splitter = splitter
        self._asked: tuple[tuple[AgentCard, ...], tuple[AgentCard, ...], tuple[AgentCard, ...]] = ((), (), ())
        self._word_vectors: dict[str, NDArray[np.float32]] = {}
        self._fits = Fits(self._embed)

    async def prepare(self, cards: Sequence[AgentCard]) -> None:
        """Fit this set of cards now, so that the first question does not wait for it. May raise `ModelError`."""
        known, active = self._known(tuple(cards))
        if active:
            await self._fits.of(active)
        if active and len(active) < len(known):
            await self._fits.of(known)

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        started = time.perf_counter()
        cards, active = self._known(request.cards)
        if not active:
            decision = _nobody(cards, "every agent is a shadow" if cards else "there is no agent to choose from")
        elif not words(request.task.full_text):
            decision = _nobody(cards, "the message holds no words")
        else:
            decision = await decided_in_time(self.name, ctx, self._decide(request, cards, active))
            if not decision.chosen and len(active) == 1 and not active[0].examples:
                decision = _only_one(decision, active[0])
        return decision.model_copy(update={"latency_ms": (time.perf_counter() - started) * 1000})

    def _known(self, cards: tuple[AgentCard, ...]) -> tuple[tuple[AgentCard, ...], tuple[AgentCard, ...]]:
        """The cards without doubles, and those of them that may be chosen; worked out once for the same cards."""
        asked = self._asked
        if not same_cards(cards, asked[0]):
            known = unique_cards(cards)
            self._asked = asked = (cards, known, _active(known))
        return asked[1:]

    async def _decide(
        self, request: RouteRequest, cards: tuple[AgentCard, ...], active: tuple[AgentCard, ...]
    ) -> RoutingDecision:
        text, fit = request.task.text, await self._fits.of(active)
        limits = self._limits.for_cards(len(fit.ids), fit.examples, self._coverage)
        if isinstance(fit, SeveralCards):
            return await self._decide_together(request, cards, active, fit, limits)
        parts = await self._split(text)
        if isinstance(fit, CardIndex):
            parts = whole_wishes(parts)
        if not parts:  # words stand in the answers only
            parts = (Part(text.strip(), text.strip()),)
        before = _last_turn(request) if refers_back(parts[0].text) else ""
        leads = _leads(parts, before)
        names = " ".join(found_names(request.known, text))
        answers = " ".join(c.answer.strip() for c in request.task.clarifications)
        texts = [*(p.context for p in parts), *(f"{lead} {parts[i].text}" for i, lead in leads.items())]
        if names:
            texts += [f"{p.context} {names}" for p in parts]
        if len(parts) > 1:
            texts.append(text)
        if answers:
            texts += [with_answer(p.context, answers) for p in parts] + [answers]
        vectors = await self._embed(texts)
        known = await self._words_of(texts, fit)
        judged = await self._judge(fit, texts, vectors, request, known)
        shadows = len(active) < len(cards)
        if judged.places is not None:
            active = tuple(active[place] for place in judged.places)
        alike = fit.alike if isinstance(fit, CalibratedCards) else np.zeros((len(active), len(active)), bool)
        if len(alike) > len(active):
            alike = alike[np.ix_(judged.places or (), judged.places or ())]
        vague = not before and not any(specific_words(p.text) for p in parts)
        verdicts: list[Verdict] = []
        for place, part in enumerate(parts):
            verdict = verdict_on(part, judged, place, limits, vague=vague or (place == 0 and bool(before)))
            if place in leads:
                row = len(parts) + list(leads).index(place)
                verdict = _reread(verdict, judged, row, limits, after_turn=place == 0)
            if names:
                row = len(parts) + len(leads) + place
                verdict = verdict.with_lead(judged, row, limits, "read together with names found before")
            verdicts.append(verdict)
        undivided = len(parts) * (2 if names else 1) + len(leads) if len(parts) > 1 else 0
        whole = judged.chance[undivided] if undivided else None
        if whole is not None:
            verdicts = _as_one(verdicts, whole)
        if answers:
            first = len(texts) - len(parts) - 1
            answered = _answered(request, active, fit, judged, first, verdicts, limits)
            vague = vague and answered is verdicts
            verdicts = answered
        elif request.round == 1:
            verdicts = continued(request.task, active, verdicts, judged, undivided, alike)
        decision = compose(self.name, active, verdicts, limits, request.max_agents, vague=vague, whole=whole)
        if isinstance(fit, AdaptedCards) and fit.stale:
            decision = _stale(decision, fit.stale)
        if shadows:
            competing, few = await self._fits.of(cards), len(parts)
            known = await self._words_of(texts, competing)
            judged = await self._judge(competing, texts[:few], vectors[:few], request, known)
            decision = _with_shadows(decision, cards, judged)
        return decision

    async def _decide_together(
        self,
        request: RouteRequest,
        cards: tuple[AgentCard, ...],
        active: tuple[AgentCard, ...],
        fit: SeveralCards,
        limits: Thresholds,
    ) -> RoutingDecision:
        """Where one message is for several agents as a rule: the likeliest set for the message as a whole."""
        text = request.task.full_text
        vectors = await self._embed([text])
        judged = await asyncio.to_thread(fit.judge, [text], vectors, request.tried)
        (chosen,) = await asyncio.to_thread(fit.choose, [text], vectors, request.max_agents, request.tried)
        whole = Part(text.strip(), text.strip())
        verdict = Verdict(whole, judged.chance[0], judged.score[0], judged.signals[0], chosen, together=True)
        decision = compose(self.name, active, [verdict], limits, request.max_agents, vague=False)
        if len(active) < len(cards):
            competing = await self._fits.of(cards)
            known = await self._words_of([text], competing)
            judged = await self._judge(competing, [text], vectors, request, known)
            decision = _with_shadows(decision, cards, judged)
        return decision

    async def _split(self, text: str) -> tuple[Part, ...]:
        """The wishes of a message; at least one."""
        if not self._decompose:
            return (Part(text, text),)
        if self._splitter is not None:
            try:
                wishes = [wish.strip() for wish in await self._splitter(text)]
            except (MeshError, OSError, ValueError) as error:
                _log.warning("the splitter of %r failed, clauses are cut instead: %s", self.name, error)
            else:
                if any(wishes):
                    return tuple(Part(wish, wish) for wish in wishes if wish)[:MAX_PARTS]
        return split_parts(text) if len(text) <= INLINE_CHARS else await asyncio.to_thread(split_parts, text)

    # --- what the cards say -------------------------------------------------------------------------------------------

    async def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self._embedder is None:
            return np.zeros((len(texts), 0), np.float32)
        return await self._embedder.embed(texts)

    async def _words_of(self, texts: Sequence[str], fit: Fit) -> Mapping[str, NDArray[np.float32]]:
        """Vectors of the words of texts, remembered; none if the fit does not read them."""
        if not fit.wants_words:
            return {}
        said = list(dict.fromkeys(word for text in texts for word in telling_words(text)))
        missing = [word for word in said if word not in self._word_vectors]
        if missing:
            if len(self._word_vectors) + len(missing) > REMEMBERED_WORDS:
                self._word_vectors.clear()
                missing = said
            self._word_vectors.update(zip(missing, await self._embed(missing), strict=True))
        # A copy: a thread may read it while another question makes room.
        return {word: self._word_vectors[word] for word in said}

    async def _judge(
        self,
        fit: Fit,
        texts: Sequence[str],
        vectors: NDArray[np.float32],
        request: RouteRequest,
        known: Mapping[str, NDArray[np.float32]],
    ) -> Judged:
        # An answer may name any agent.
        most = len(fit.ids) if request.task.clarifications else MOST_LISTED
        judge = partial(fit.judge, texts, vectors, request.tried, known, most=most, listed=last_workers(request.task))
        return judge() if sum(map(len, texts)) <= INLINE_CHARS else await asyncio.to_thread(judge)


def _reread(alone: Verdict, judged: Judged, row: int, limits: Thresholds, *, after_turn: bool) -> Verdict:
    """A part together with what leads up to it, which is `row` of `judged`.

    A part that says nothing by itself is understood by the lead; one that is sure after a mere comma, or that was
    understood without the last turn, stays as it is; in between both count half.
    """
    note = f"read together with {'the last turn' if after_turn else 'what leads up to it'}"
    if not alone.chosen and refers_back(alone.part.text):
        return verdict_on(alone.part, judged, row, limits, note=note)
    if after_turn or (alone.part.loose and alone.chance[:-1].max() >= SURE):
        return alone
    return alone.with_lead(judged, row, limits, note)


def _as_one(verdicts: list[Verdict], whole: NDArray[np.float64]) -> list[Verdict]:
    """The verdicts where all of a message may be one wish told in several sentences.

    If the message as a whole is sure to be for one agent, and a part is too, other parts that are not sure themselves
    belong to that agent as well.
    """
    agent = int(whole.argmax())
    sure = agent < len(whole) - 1 and whole[agent] >= WHOLE_SURE and any(agent in v.chosen for v in verdicts)
    if not sure:
        return verdicts
    return [
        replace(v, chosen=(agent,), note=v.note or "told in several sentences")
        if v.chosen and agent not in v.chosen and v.chance[:-1].max() < SURE
        else v
        for v in verdicts
    ]


def _answered(
    request: RouteRequest,
    cards: Sequence[AgentCard],
    fit: Fit,
    judged: Judged,
    first: int,
    verdicts: list[Verdict],
    limits: Thresholds,
) -> list[Verdict]:
    """The verdicts after the user was asked back; the same list if the answer says nothing.

    What was sure about agents that nobody asked about stays. The other parts go to the agents that the answer names;
    if it names none, they are read together with it. Rows of `judged` from `first` on are the parts with the answers,
    the last row is the answers alone.
    """
    asked = request.task.clarifications[-1]
    answers = " ".join(c.answer.strip() for c in request.task.clarifications)
    places = {card.id: place for place, card in enumerate(cards)}
    options = [cards[places[agent]] for agent in asked.options if agent in places]
    told = named_options(asked.answer, options or cards)
    torn = {places[card.id] for card in options}
    waiting = [i for i, v in enumerate(verdicts) if not v.part.background and (not v.chosen or torn & {*v.chosen})]
    # A part that is nobody's is not what was asked about, if there is another.
    waiting = [i for i in waiting if verdicts[i].chance[-1] <= limits.none_threshold] or waiting
    waiting = waiting or [i for i, v in enumerate(verdicts) if v.part.background and not v.chosen]
    if told is Answered.NEITHER:
        return [replace(v, chosen=tuple(a for a in v.chosen if a not in torn)) if i in waiting else v
                for i, v in enumerate(verdicts)]  # fmt: skip
    if not waiting or told is Answered.SEVERAL or (told is Answered.NOTHING and not fit.knows(answers)):
        return verdicts
    found = list(verdicts)
    for i in waiting:
        part = replace(verdicts[i].part, background=False)
        if i == waiting[-1]:  # once is enough: the agent reads its parts one after the other
            part = replace(part, text=with_answer(part.text, answers))
        if isinstance(told, Answered):
            alone = verdict_on(part, judged, len(judged) - 1, limits)
            found[i] = alone.with_lead(judged, first + i, limits, "read together with the answer of the user")
        else:
            agents = tuple(places[agent] for agent in told)
            found[i] = verdicts[i].decided_for(agents, part, "named by the user")
    return found


def _leads(parts: Sequence[Part], before: str) -> dict[int, str]:
    """What is to be read before a part: the last turn, a statement that leads up to it, or what its comma follows."""
    leads = {0: before} if before else {}
    for place in range(1, len(parts)):
        if parts[place - 1].background or parts[place].loose:
            leads[place] = parts[place - 1].text
    return leads


def _stale(decision: RoutingDecision, stale: str) -> RoutingDecision:
    """The same decision, which says that the calibration is older than the cards."""
    said = f"{decision.reason}; the calibration is being made anew: {stale}"
    return decision.model_copy(update={"reason": said, "evidence": {**decision.evidence, "stale": stale}})


def _with_shadows(decision: RoutingDecision, cards: Sequence[AgentCard], judged: Judged) -> RoutingDecision:
    """The same decision with the shadows among the candidates, judged as if they competed."""
    shadows: list[Candidate] = []
    listed = range(len(cards)) if judged.places is None else judged.places
    for place, card in enumerate(cards[i] for i in listed):
        if card.shadow:
            row = int(judged.chance[:, place].argmax())
            reason = f"shadow: never called, would have probability {judged.chance[row, place]:.2f}"
            shadows.append(candidate(card.id, judged, row, place, chosen=False, reason=reason))
    ranked = sorted((*decision.candidates, *shadows), key=lambda c: (not c.chosen, -(c.probability or 0.0)))
    return decision.model_copy(update={"candidates": tuple(ranked)})


def _last_turn(request: RouteRequest) -> str:
    """The end of what the user said last, if there is a history."""
    turns = (m.text for m in reversed(request.task.history) if m.role == "user" and words(m.text))
    return next(turns, "")[-CONTEXT_CHARS:]


def _active(cards: tuple[AgentCard, ...]) -> tuple[AgentCard, ...]:
    """The cards that may be chosen."""
    return tuple(c for c in cards if not c.shadow) if any(c.shadow for c in cards) else cards


def _only_one(decision: RoutingDecision, card: AgentCard) -> RoutingDecision:
    """The only agent works, where nothing but a description says what it is for: it can say itself what it cannot."""
    reason = f"{card.id} is the only agent, and without examples nothing says what is not for it ({decision.reason})"
    judged = tuple(
        c.model_copy(update={"chosen": True, "reason": "the only agent"}) if c.agent == card.id else c
        for c in decision.candidates
    )
    found = next((c for c in judged if c.agent == card.id), None)
    chance = found.probability if found else None
    return decision.model_copy(
        update={
            "mode": Mode.SOLO,
            "chosen": (Chosen(agent=card.id, score=found.score if found else 0.0, probability=chance),),
            "candidates": judged,
            "reason": reason,
            "confidence": chance or 0.0,
            "question": None,
            "options": (),
        }
    )


def _nobody(cards: Sequence[AgentCard], reason: str) -> RoutingDecision:
    """Nothing fits, without looking closer."""
    return RoutingDecision(
        mode=Mode.OUT_OF_SCOPE,
        reason=reason,
        candidates=tuple(
            Candidate(agent=c.id, score=0.0, probability=0.0, chosen=False, reason="shadow" if c.shadow else reason)
            for c in cards
        ),
        confidence=1.0,
        router=SemanticRouter.name,
    )
