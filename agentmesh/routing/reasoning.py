"""The router that lets a model reason: a shortlist, then a model that names agents of it with a reason, or nobody.

The method is that of TCAndon-Router (arXiv:2601.04544): a reason first, then a set of agents, or `oos`. Ours are the
shortlist, so that the prompt does not grow with the number of agents, the probabilities, the question back where the
model is torn, the repair of a reply that cannot be used, and the router that decides where no model does. How many
agents work may follow from how far several samples agree, after ACAR.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

from agentmesh.errors import (
    ConfigError,
    LimitError,
    MeshError,
    ModelReplyError,
    ModelRequestError,
    RoutingError,
    UnknownNameError,
)
from agentmesh.models.base import ChatModel, ChatReply, ChatRequest, Embedder
from agentmesh.models.call import call_model
from agentmesh.registry import resolve_name
from agentmesh.routing.agreement import (
    Ballot,
    agreed,
    ballot_of,
    confidence,
    ever_chosen,
    likeness,
    samples_to_settle,
    settled,
    sigma,
)
from agentmesh.routing.base import Router
from agentmesh.routing.decider import NONE_CHOICE, Decider, HttpDecider, call_decider
from agentmesh.routing.opinion import (
    MOST_TAGS,
    Form,
    Opinion,
    Pick,
    conversation,
    described,
    listing,
    may_ask,
    read_json,
    read_tags,
    repair_prompt,
    routing_prompt,
)
from agentmesh.routing.semantic import SemanticRouter
from agentmesh.run import RunContext
from agentmesh.text import fold, words
from agentmesh.tokens import TokenCounter, counter_for
from agentmesh.trace.events import StepFailed
from agentmesh.types import AgentCard, Candidate, Chosen, Mode, RouteRequest, RoutingDecision, Usage

__all__ = ["PromptLengths", "ReasoningRouter", "reasoning_router", "routing_prompt"]

SHORTLIST = 8
"""Agents that the model chooses among. Of 579 in-scope clinc150 test rows, .995 have their intent, one of 150, on such
a list, which takes 9 % of the prompt with all 150."""
THRESHOLD = 0.35
"""Least probability with which a named agent works: that of `semantic`."""
SURE = 0.6
"""From this probability on, the first agent is not torn with the second. Our choice, as is the next."""
MARGIN = 0.1
"""How much less probable the second one of two agents that the model is torn between may be."""
SAMPLE_TEMPERATURE = 0.7
"""Where several samples are taken; one alone is taken at 0. Our choice."""
AT_ONCE = 4
"""Samples of one question that are asked at the same time; our choice, what small accounts are allowed."""
CALLS_OF_A_SAMPLE = 2
"""The question and its repair."""
TEMPLATE_TOKENS = 32
"""Allowance for what a chat template puts around the messages."""
GRACE_S = 0.25
"""Seconds of the step's time that the model is not given, so that the fallback can still decide."""
ASKED_BACK = 3
"""Agents that a question of our own names."""
REMEMBERED_REASON = 200
"""Characters of an unusable reply's mistake that are passed on."""
CARD_SETS = 8
"""Sets of cards whose length in a prompt is remembered."""


@dataclass
class _Tally:
    """What asking took, and how often; the only thing here that changes."""

    usage: Usage = field(default_factory=Usage)
    attempts: int = 0
    """Replies asked for, repairs included."""
    model: str = ""
    """Who answered."""
    dropped: list[str] = field(default_factory=list[str])
    ballots: list[Ballot] = field(default_factory=list[Ballot])
    """The answers of several samples; empty where one is asked for."""
    replies: int = 0
    spared_tokens: int = 0
    """By how much one prompt is shorter than one with every agent."""

    def took(self, reply: ChatReply) -> None:
        self.usage += reply.usage
        self.replies += 1
        self.model = reply.model or self.model

    @property
    def full_tokens(self) -> int | None:
        """Prompt tokens that the same replies would have taken with every agent in the prompt, if that is known."""
        taken = self.usage.prompt_tokens
        return taken + self.replies * self.spared_tokens if self.replies and taken else None


@dataclass(frozen=True)
class _Listed:
    """The shortlist, and the decision that it was taken from; None if that router failed."""

    cards: tuple[AgentCard, ...]
    decision: RoutingDecision | None
    error: str = ""

    @cached_property
    def judged(self) -> dict[str, Candidate]:
        """What the shortlist's router found out about every agent."""
        return {c.agent: c for c in self.decision.candidates} if self.decision else {}

    @property
    def usage(self) -> Usage:
        """What making it took."""
        return self.decision.usage if self.decision else Usage()

    def chance(self, agent: str) -> float | None:
        """The probability that it gives an agent."""
        found = self.judged.get(agent)
        return found.probability if found else None


class PromptLengths:
    """How much shorter a prompt is for not listing every agent; agents are counted once for a set of cards.

    Counted with each agent's first examples: those near to a request, which a prompt shows, may be longer or shorter.
    """

    def __init__(self, protocol: Form = "json") -> None:
        self._form: Form = protocol
        self._known: dict[tuple[Any, ...], tuple[Sequence[AgentCard], dict[str, int]]] = {}
        """The cards are held, so that their identities, which are the keys, stay theirs."""

    def spared(self, counter: TokenCounter, cards: Sequence[AgentCard], shown: Sequence[AgentCard]) -> int:
        """Tokens of the lines of those `cards` that are not `shown`; takes a moment for a set that was not seen yet."""
        key = (counter.name, *map(id, cards))
        found = self._known.get(key)
        if found is None:
            found = cards, {card.id: counter.count(listing(card, protocol=self._form) + "\n") for card in cards}
            if len(self._known) >= CARD_SETS:
                self._known.clear()
            self._known[key] = found
        return sum(found[1].values()) - sum(found[1].get(card.id, 0) for card in shown)


class ReasoningRouter:
    """Lets a model, or a decider in its place, choose among a shortlist; falls back on another router.

    Where the model is not capable, is missing, fails, is over budget, or twice writes what cannot be used, `fallback`
    decides and the decision says so: `evidence["decided_by"]` and `evidence["fallback"]`. A shadow is not shown to the
    model, so that it changes no decision; it stands among the candidates as the shortlist's router judged it.

    Args:
        shortlist: Whose best candidates the model sees.
        model: Who reasons.
        decider: Who decides instead of the model, by probabilities alone.
        fallback: Who decides where neither can.
        k: Agents on the shortlist; twice `max_agents` of the request if that is more.
        protocol: How the model is spoken to: `json`, or `tags` for TCAndon-Router models. Those give no numbers; the
            probabilities are then the shortlist's, or, of several samples, the share that names an agent.
        samples: Replies to one question, whose average counts. Each is a call, at a temperature above 0 where there are
            several. `evidence` then holds every sample's set, their `sigma` and `agreement`, and the confidence follows
            from how many say the same: see `agreement.py`.
        early_stop: Do not ask for the rest of the samples once they cannot change who is chosen.
        mode_by_agreement: The samples' sigma says how many agents work. 0: those that all agree on; below 1: all that
            any sample chooses; 1, no two agree: the whole shortlist; in each case the likeliest `max_agents` of them.
            Whether nobody fits or the user is asked is for the majority to say.
        threshold: Least probability of a chosen agent, 0 to 1.
        timeout_s: Seconds for one reply.
        retries: Further attempts after a failure of the model that may pass.
    """

    name = "reasoning"

    def __init__(
        self,
        *,
        shortlist: Router,
        model: ChatModel | None = None,
        decider: Decider | None = None,
        fallback: Router | None = None,
        k: int = SHORTLIST,
        protocol: Form = "json",
        samples: int = 1,
        early_stop: bool = False,
        mode_by_agreement: bool = False,
        threshold: float = THRESHOLD,
        timeout_s: float = 30.0,
        retries: int = 1,
    ) -> None:
        if protocol not in ("json", "tags"):
            raise ConfigError(f"the option protocol of the router 'reasoning' is {protocol!r}; give 'json' or 'tags'")
        _within("k", k, 1, 200)
        _within("samples", samples, 1, 9)
        _within("retries", retries, 0, 10)
        _within("threshold", threshold, 0, 1)
        _within("timeout_s", timeout_s, 0.001, 3600)
        _switch("early_stop", early_stop)
        _switch("mode_by_agreement", mode_by_agreement)
        if mode_by_agreement and (samples < 2 or early_stop or decider is not None):
            why = (
                "needs samples that can agree; set samples to 2 or more" if samples < 2
                else "needs every sample; take early_stop out" if early_stop
                else "needs samples of a model, and a decider answers once; take one of the two out"
            )  # fmt: skip
            raise ConfigError(f"the option mode_by_agreement of the router 'reasoning' {why}")
        self._shortlist, self._fallback = shortlist, fallback or shortlist
        self._model, self._decider = model, decider
        self._k, self._samples = k, samples
        self._early_stop, self._by_agreement = early_stop, mode_by_agreement
        self._lengths = PromptLengths(protocol)
        self._form: Form = protocol
        self._threshold, self._timeout_s, self._retries = threshold, timeout_s, retries

    async def shortlist(self, request: RouteRequest, ctx: RunContext) -> tuple[AgentCard, ...]:
        """The agents that the model would see, best first; no shadow among them.

        Raises:
            RoutingError: If there are more than fit on the list and the shortlist's router could not rank them.
        """
        listed = await self._listed(request, ctx)
        if not listed.cards and listed.error:
            raise RoutingError(listed.error)
        return listed.cards

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        started = time.perf_counter()
        listed = await self._listed(request, ctx)
        # The JSON of a decision is nothing to show as it is written. The calls are counted on, so ids stay unique.
        ctx = replace(ctx, stream=False, deadline=ctx.clock.monotonic() + max(0.0, ctx.seconds_left() - GRACE_S))
        tally = _Tally()
        why = self._why_not_asked(request, listed)
        decision = None
        if not why:
            try:
                opinion = await (self._decide(request, listed, ctx, tally) if self._decider is not None
                                 else self._reason(request, listed, ctx, tally))  # fmt: skip
                decision = self._decision(request, listed, opinion, tally)
            except LimitError as error:
                why = str(error)
            except MeshError as error:
                why = f"{self._who()} could not decide: {error}"
        if decision is None:
            decision = await self._fallen_back(request, listed, ctx, tally, why)
        return decision.model_copy(update={"latency_ms": (time.perf_counter() - started) * 1000})

    async def aclose(self) -> None:
        """Free what the decider holds. May be called twice."""
        close = getattr(self._decider, "aclose", None)
        if close is not None:
            await close()

    # --- who is asked -------------------------------------------------------------------------------------------------

    async def _listed(self, request: RouteRequest, ctx: RunContext) -> _Listed:
        """The best callable candidates of the shortlist's router, whatever it would decide."""
        live = {card.id: card for card in _live(request)}
        most = max(self._k, 2 * request.max_agents)
        try:
            decision = await self._shortlist.route(request, ctx)
        except MeshError as error:
            return _Listed(tuple(live.values()) if len(live) <= most else (), None, str(error))
        ranked = dict.fromkeys((*decision.agents, *(c.agent for c in decision.candidates), *live))
        shown = [agent for agent in ranked if agent in live][:most]
        # Who worked on the last turn can go on, though the words alone do not say so: a shortlist by words lacks them.
        turn = next((m for m in reversed(request.task.history) if m.role == "assistant"), None)
        goes_on = [a for a in turn.agents if a in live and a not in shown][: request.max_agents] if turn else []
        shown = [*shown[: most - len(goes_on)], *goes_on]
        return _Listed(tuple(live[agent] for agent in shown), decision)

    def _why_not_asked(self, request: RouteRequest, listed: _Listed) -> str:
        """Why neither model nor decider is asked, if so."""
        if not listed.cards:
            return f"there is no shortlist ({listed.error})" if listed.error else "there is no agent to choose from"
        if not words(request.task.full_text):
            return "the message holds no words"
        if self._decider is not None:
            return ""
        if self._model is None:
            return "no model is set"
        if not self._model.info.capable:
            return f"the model {self._model.info.name!r} is declared not capable"
        return ""

    def _who(self) -> str:
        """Model or decider, by name."""
        if self._decider is not None:
            return f"the {self._decider.name}"
        return f"the model {self._model.info.name!r}" if self._model else "no model"

    async def _fallen_back(
        self, request: RouteRequest, listed: _Listed, ctx: RunContext, tally: _Tally, why: str
    ) -> RoutingDecision:
        """The fallback's decision, under our name and with the reason why it decided."""
        same = self._fallback is self._shortlist
        try:
            if same and listed.decision is not None:
                decision = listed.decision
            elif same:
                raise RoutingError(listed.error)
            else:
                decision = await self._fallback.route(request, ctx)
        except MeshError as error:
            raise RoutingError(f"{why}; then {self._fallback.name!r} could not decide: {error}") from error
        return decision.model_copy(
            update={
                "reason": f"{decision.reason} (decided by {self._fallback.name!r}: {why})",
                "evidence": {
                    **decision.evidence,
                    **self._asked_for(listed, tally),
                    "decided_by": self._fallback.name,
                    "fallback": why,
                },
                "router": self.name,
                "usage": tally.usage + decision.usage + (Usage() if same else listed.usage),
            }
        )

    # --- asking -------------------------------------------------------------------------------------------------------

    async def _reason(self, request: RouteRequest, listed: _Listed, ctx: RunContext, tally: _Tally) -> Opinion:
        """What the model thinks: all samples, or as many as can matter, and one repair for each that cannot be used."""
        model = cast(ChatModel, self._model)
        asked = await asyncio.to_thread(self._prompt, model, request, listed.cards, tally)
        samples = [asked] if self._samples == 1 else [
            asked.model_copy(update={"temperature": SAMPLE_TEMPERATURE, "seed": seed}) for seed in range(self._samples)
        ]  # fmt: skip
        pairs = list(zip(samples, _apart(ctx, len(samples)), strict=True))
        first = samples_to_settle(self._samples, self._threshold) if self._early_stop else self._samples
        heard = await self._heard(request, listed, pairs[:first], tally)
        usable = [opinion for opinion in heard if isinstance(opinion, Opinion)]
        left, most = len(pairs) - first, self._most(request)
        if left and not settled(usable, left=left, threshold=self._threshold, sure=SURE, most=most):
            heard += await self._heard(request, listed, pairs[first:], tally)
            usable = [opinion for opinion in heard if isinstance(opinion, Opinion)]
        if self._samples > 1:
            tally.ballots = [
                ballot_of(one, threshold=self._threshold, most=most) if isinstance(one, Opinion)
                else Ballot("failed", error=str(one)[:REMEMBERED_REASON])
                for one in heard
            ]  # fmt: skip
        if not usable:
            raise next(one for one in heard if isinstance(one, MeshError))
        opinion = agreed(usable)
        tally.dropped += opinion.dropped
        return opinion

    async def _heard(
        self, request: RouteRequest, listed: _Listed, pairs: Sequence[tuple[ChatRequest, RunContext]], tally: _Tally
    ) -> list[Opinion | MeshError]:
        """What each of these samples says, or why it says nothing, in their order."""
        model, gate = cast(ChatModel, self._model), asyncio.Semaphore(AT_ONCE)

        async def ask(asked: ChatRequest, ctx: RunContext) -> ChatReply:
            async with gate:
                tally.attempts += 1
                return await call_model(model, asked, ctx, retries=self._retries)

        async def understand(asked: ChatRequest, ctx: RunContext, reply: ChatReply | BaseException) -> Opinion:
            if isinstance(reply, BaseException):
                raise reply
            async with gate:
                return await self._understood(request, listed, asked, reply, ctx, tally)

        replies = await asyncio.gather(*(ask(*pair) for pair in pairs), return_exceptions=True)
        read = await asyncio.gather(
            *(understand(*pair, reply) for pair, reply in zip(pairs, replies, strict=True)), return_exceptions=True
        )
        heard: list[Opinion | MeshError] = []
        for one in read:
            if isinstance(one, BaseException) and not isinstance(one, MeshError):
                raise one
            heard.append(one)
        return heard

    def _prompt(
        self, model: ChatModel, request: RouteRequest, cards: Sequence[AgentCard], tally: _Tally
    ) -> ChatRequest:
        """What the model is asked, if it fits its window."""
        asked = routing_prompt(request, cards, protocol=self._form).model_copy(update={"timeout_s": self._timeout_s})
        info = model.info
        counter = counter_for(info.tokenizer or info.name)
        taken = sum(counter.count(message.text) for message in asked.messages) + TEMPLATE_TOKENS
        if taken + asked.max_output_tokens > info.context_tokens:
            raise ModelRequestError(
                f"the shortlist takes {taken} tokens and does not fit the window of {info.name!r}; lower `k`"
            )
        tally.spared_tokens = self._lengths.spared(counter, _live(request), cards)
        return asked

    async def _understood(
        self, request: RouteRequest, listed: _Listed, asked: ChatRequest, reply: ChatReply, ctx: RunContext,
        tally: _Tally,
    ) -> Opinion:  # fmt: skip
        """What a reply says; asked once more, with what is wrong, if that cannot be read."""
        model = cast(ChatModel, self._model)
        tally.took(reply)
        try:
            return self._read(reply.text, request, listed.cards)
        except ValueError as error:
            problem = str(error)[:REMEMBERED_REASON]
        ctx.emit(StepFailed(error=f"{self._who()} wrote no usable choice: {problem}", kind="ModelReplyError",
                            retry_in_s=0.0))  # fmt: skip
        tally.attempts += 1
        again = repair_prompt(asked, reply.text, problem, protocol=self._form)
        reply = await call_model(model, again, ctx, retries=self._retries)
        tally.took(reply)
        try:
            return self._read(reply.text, request, listed.cards)
        except ValueError as error:
            problem = str(error)[:REMEMBERED_REASON]
            raise ModelReplyError(f"it wrote no usable choice, twice: {problem}") from error

    def _read(self, text: str, request: RouteRequest, cards: Sequence[AgentCard]) -> Opinion:
        if self._form == "tags":
            return read_tags(text, cards)
        return read_json(text, cards, ask=may_ask(request))

    async def _decide(self, request: RouteRequest, listed: _Listed, ctx: RunContext, tally: _Tally) -> Opinion:
        """What the decider gives each agent of the shortlist and nobody."""
        decider = cast(Decider, self._decider)
        choices = {card.id: described(card, request) for card in listed.cards}
        choices[NONE_CHOICE] = "None of the others fits."
        tally.attempts += 1
        question = await asyncio.to_thread(conversation, request)
        scores = await call_decider(decider, question, choices, ctx, retries=self._retries, timeout_s=self._timeout_s)
        tally.usage += Usage(calls=1, cost_known=False)
        tally.model = decider.name
        none = scores.pop(NONE_CHOICE)
        ranked = sorted(scores, key=lambda agent: -scores[agent])
        outcome = "none" if none >= scores[ranked[0]] else "agents"
        return Opinion(outcome, tuple(Pick(agent, scores[agent]) for agent in ranked), none)

    # --- deciding -----------------------------------------------------------------------------------------------------

    def _decision(self, request: RouteRequest, listed: _Listed, opinion: Opinion, tally: _Tally) -> RoutingDecision:
        """What follows from an opinion."""
        picks, kept = self._choice(request, listed, opinion)
        spread = self._spread(request, listed, opinion, picks, tally)
        if spread:
            kept, mode = spread, Mode.SOLO if len(spread) == 1 else Mode.PARALLEL
        else:
            mode = self._mode(request, opinion, picks, kept)
        if mode in (Mode.OUT_OF_SCOPE, Mode.CLARIFY):
            kept = []
        options = _options(listed, picks) if mode is Mode.CLARIFY else ()
        titles = {card.id: card.title for card in listed.cards}
        return RoutingDecision(
            mode=mode,
            chosen=_chosen(kept, request),
            reason=self._words(mode, kept, opinion, tally, spread=bool(spread)) + _spared(request, listed, tally),
            candidates=tuple(self._candidates(request, listed, picks, kept, mode, spread=bool(spread), tally=tally)),
            evidence={
                **self._asked_for(listed, tally),
                "decided_by": tally.model or self.name,
                "fallback": None,
                "outcome": opinion.outcome,
                "none": opinion.none,
                "probabilities": {p.agent: p.probability for p in picks},
                "threshold": self._threshold,
                "dropped": tally.dropped,
            },
            confidence=min(1.0, max(0.0, self._sure(mode, listed, opinion, picks, kept, tally.ballots))),
            question=(opinion.question or _question([titles[o] for o in options])) if mode is Mode.CLARIFY else None,
            options=options,
            router=self.name,
            usage=tally.usage + listed.usage,
        )

    @property
    def _numbered(self) -> bool:
        """Whether opinions come with probabilities of their own."""
        return self._decider is not None or self._form == "json" or self._samples > 1

    def _choice(self, request: RouteRequest, listed: _Listed, opinion: Opinion) -> tuple[list[Pick], list[Pick]]:
        """Who is named, best first, and who of them may work."""
        if self._numbered:
            picks = sorted(opinion.picks, key=lambda pick: -(pick.probability or 0.0))
            likely = [p for p in picks if (p.probability or 0.0) >= self._threshold]
        else:  # what the shortlist's router gives an agent stands for the number that the tags do not have
            picks = likely = [replace(pick, probability=listed.chance(pick.agent)) for pick in opinion.picks]
        return picks, likely[: self._most(request)]

    def _most(self, request: RouteRequest) -> int:
        """How many agents may work."""
        tagged = self._decider is None and self._form == "tags"
        return min(request.max_agents, MOST_TAGS) if tagged else request.max_agents

    def _spread(
        self, request: RouteRequest, listed: _Listed, opinion: Opinion, picks: Sequence[Pick], tally: _Tally
    ) -> list[Pick]:
        """Who works where the samples' agreement says so, likeliest first; nobody where it has nothing to say."""
        if not self._by_agreement or opinion.outcome != "agents":
            return []
        known = {pick.agent: pick for pick in picks}
        agents = sorted(ever_chosen(tally.ballots), key=lambda agent: -(known[agent].probability or 0.0))
        if sigma(tally.ballots) == 1.0:
            agents = list(dict.fromkeys((*agents, *(card.id for card in listed.cards))))
        return [known.get(agent, Pick(agent, 0.0)) for agent in agents[: self._most(request)]]

    def _mode(self, request: RouteRequest, opinion: Opinion, picks: Sequence[Pick], kept: Sequence[Pick]) -> Mode:
        """How to go on."""
        if opinion.outcome == "none":
            return Mode.OUT_OF_SCOPE
        torn = self._numbered and _torn(picks, request)
        if opinion.outcome == "ask" or (torn and may_ask(request)):
            return Mode.CLARIFY
        if not kept:
            return Mode.CLARIFY if may_ask(request) and (opinion.none or 0.0) < 0.5 else Mode.OUT_OF_SCOPE
        return Mode.SOLO if len(kept) == 1 else Mode.PARALLEL

    def _sure(
        self,
        mode: Mode,
        listed: _Listed,
        opinion: Opinion,
        picks: Sequence[Pick],
        kept: Sequence[Pick],
        ballots: Sequence[Ballot],
    ) -> float:
        """Probability that the decision is right; of several samples, what they state and how many say the same."""
        stated = self._stated(mode, listed, opinion, picks, kept)
        if not ballots or mode is Mode.CLARIFY:
            return stated
        out = mode is Mode.OUT_OF_SCOPE
        decided = Ballot("none") if out else Ballot("agents", tuple(sorted(pick.agent for pick in kept)))
        return confidence(ballots, decided, stated)

    def _stated(
        self, mode: Mode, listed: _Listed, opinion: Opinion, picks: Sequence[Pick], kept: Sequence[Pick]
    ) -> float:
        """That probability by the numbers alone."""
        best = max((p.probability for p in picks if p.probability is not None), default=0.0)
        if mode is Mode.CLARIFY:
            return 1.0 - best
        if mode is Mode.OUT_OF_SCOPE:
            shortlisted = max((listed.chance(card.id) or 0.0 for card in listed.cards), default=0.0)
            return opinion.none if opinion.none is not None else 1.0 - max(best, shortlisted)
        return _sure_of(picks, kept, opinion.none, exclusive=self._decider is not None)

    def _words(self, mode: Mode, kept: Sequence[Pick], opinion: Opinion, tally: _Tally, *, spread: bool) -> str:
        """The reason: who, how likely, how far samples agree, what the model said."""
        who = ", ".join(f"{p.agent} ({p.probability:.2f})" if p.probability is not None else p.agent for p in kept)
        head = {
            Mode.OUT_OF_SCOPE: "none of the shortlisted agents",
            Mode.CLARIFY: "no agent stands out; the user is asked",
        }.get(mode, who)
        votes = _votes(tally.ballots, self._samples, spread=spread, solo=len(kept) == 1)
        said = f"{tally.model or 'it'} says: {opinion.reason}" if opinion.reason else f"decided by {tally.model}"
        return "; ".join(part for part in (head, votes, said) if part)

    def _candidates(
        self,
        request: RouteRequest,
        listed: _Listed,
        picks: Sequence[Pick],
        kept: Sequence[Pick],
        mode: Mode,
        *,
        spread: bool,
        tally: _Tally,
    ) -> list[Candidate]:
        """Every card: the chosen ones, the named ones, the rest of the shortlist, all others, shadows among them."""
        named, working = {p.agent: p for p in picks}, {p.agent for p in kept}
        shown = {card.id for card in listed.cards}
        shadows = {card.id for card in request.cards if card.shadow}
        ranked = [c.agent for c in listed.decision.candidates] if listed.decision else []
        order = dict.fromkeys(
            [*(p.agent for p in kept), *named, *(card.id for card in listed.cards), *ranked,
             *(card.id for card in request.cards)]
        )  # fmt: skip
        ids = {card.id for card in request.cards}
        likely = {p.agent for p in picks if (p.probability or 0.0) >= self._threshold}
        likely = set(ever_chosen(tally.ballots)) if spread else likely
        found: list[Candidate] = []
        for agent in order:
            if agent not in ids:
                continue
            before, pick = listed.judged.get(agent), named.get(agent)
            probability = pick.probability if pick else None
            if agent in working and pick is None:
                reason, probability = "on the shortlist; it works because no two samples agree", 0.0
            elif agent in working:
                reason = f"named by {self._who()}"
                reason += f" with probability {probability:.2f}" if probability is not None else ""
            elif pick is not None:
                reason = self._why_not_kept(pick, mode, len(kept), likely=agent in likely)
            elif agent in shown:
                reason = f"on the shortlist, not named by {self._who()}"
            elif agent in shadows:
                reason, probability = (before.reason, before.probability) if before else ("shadow: never called", None)
                reason = reason if "shadow" in reason else f"shadow: never called; {reason}"
            else:
                reason = f"not on the shortlist of {len(shown)}" + (f"; {before.reason}" if before else "")
            signals = {"shortlist": before.probability} if before and before.probability is not None else {}
            found.append(
                Candidate(agent=agent, score=probability or 0.0, probability=probability, chosen=agent in working,
                          reason=reason, signals=signals)
            )  # fmt: skip
        return found

    def _why_not_kept(self, pick: Pick, mode: Mode, kept: int, *, likely: bool) -> str:
        said = f"probability {pick.probability:.2f}" if pick.probability is not None else "named"
        if mode is Mode.CLARIFY:
            return f"{said}; the user is asked"
        if mode is Mode.OUT_OF_SCOPE:
            return f"{said}, but none of the agents fits"
        if not likely:
            return f"{said} below {self._threshold:.2f}"
        return f"{said}, but outside the {kept} best"

    def _asked_for(self, listed: _Listed, tally: _Tally) -> dict[str, Any]:
        """What stands in the evidence of every decision."""
        info = self._model.info if self._model is not None and self._decider is None else None
        return {
            "shortlist": [card.id for card in listed.cards],
            "shortlist_by": self._shortlist.name,
            "model": self._decider.name if self._decider is not None else info.name if info else None,
            "protocol": "decider" if self._decider is not None else self._form,
            "attempts": tally.attempts,
            "prompt_tokens": tally.usage.prompt_tokens or None,
            "prompt_tokens_full": tally.full_tokens,
            **(_agreement(tally.ballots) if tally.ballots else {}),
        }


def reasoning_router(
    embedder: Embedder | None = None,
    *,
    model: ChatModel | None = None,
    router_of: Callable[[str], Router] | None = None,
    shortlist: str | Router = "semantic",
    fallback: str | Router = "semantic",
    decider: str | Mapping[str, Any] | Decider | None = None,
    **options: Any,
) -> ReasoningRouter:
    """The router from settings.

    Args:
        embedder: For the shortlist, where `router_of` does not make it.
        model: Who reasons; `routing.model` of the settings.
        router_of: The router of a name; absent: `semantic` is the only one.
        shortlist: A router or its name.
        fallback: A router or its name.
        decider: A decider, the arguments of `HttpDecider`, its URL, or "module:attribute" of a decider.
        options: The other arguments of `ReasoningRouter`.

    Raises:
        ConfigError: If an option is wrong; `UnknownNameError` if a router's name is.
    """
    made: dict[str, Router] = {}

    def named(router: str | Router) -> Router:
        if not isinstance(router, str):
            return router
        if router not in made:
            made[router] = _semantic_only(router, embedder) if router_of is None else router_of(router)
        return made[router]

    return ReasoningRouter(
        shortlist=named(shortlist), model=model, decider=_decider_of(decider), fallback=named(fallback), **options
    )


def _semantic_only(name: str, embedder: Embedder | None) -> Router:
    if name != SemanticRouter.name:
        raise UnknownNameError("router", name, [SemanticRouter.name])
    return SemanticRouter(embedder)


def _decider_of(given: str | Mapping[str, Any] | Decider | None) -> Decider | None:
    if isinstance(given, Mapping):
        try:
            return HttpDecider(**{str(key): value for key, value in given.items()})
        except TypeError as error:
            raise ConfigError(f"the decider of the router 'reasoning' does not take these options: {error}") from error
    if isinstance(given, str) and "://" in given:
        return HttpDecider(given)
    if isinstance(given, str):
        found: object = resolve_name(given)
        decider = found() if isinstance(found, type) else found
        if not isinstance(decider, Decider):
            raise ConfigError(f"{given!r} is not a decider: it lacks `name` or `decide`")
        return decider
    return given


def _live(request: RouteRequest) -> tuple[AgentCard, ...]:
    """The cards that may be chosen; of two with one id the first."""
    first: dict[str, AgentCard] = {}
    for card in request.cards:
        first.setdefault(card.id, card)
    return tuple(card for card in first.values() if not card.shadow)


def _apart(ctx: RunContext, samples: int) -> list[RunContext]:
    """A context for each sample, with call numbers of its own.

    So the reply of a sample stands in the journal under the same key in every process, whichever of the others failed
    or had to be repaired.
    """
    numbers = [int(ctx.next_call_id().rpartition("/")[2]) for _ in range(CALLS_OF_A_SAMPLE * samples)]
    return [replace(ctx, _calls=iter(numbers[n::samples])) for n in range(samples)]


def _agreement(ballots: Sequence[Ballot]) -> dict[str, Any]:
    """What several samples said, for the evidence."""
    return {
        "sigma": sigma(ballots),
        "agreement": likeness(ballots),
        "samples": [ballot.values() for ballot in ballots],
    }


def _votes(ballots: Sequence[Ballot], samples: int, *, spread: bool, solo: bool) -> str:
    """How far the samples agree, in words; with `spread`, what followed from that."""
    if not ballots:
        return ""
    apart, failed = sigma(ballots), sum(ballot.outcome == "failed" for ballot in ballots)
    asked = f"{samples} samples" if len(ballots) == samples else f"the first {len(ballots)} of {samples} samples"
    if apart == 0.0:
        text = f"{asked} all agree"
        then = "that agent works alone" if solo else "these agents work, and nobody else"
    elif apart < 1.0:
        text = f"{asked} agree in part (sigma {apart:.2f})"
        then = "only one agent is named" if solo else "the agents that any of them names work in parallel"
    else:
        text = f"{asked} all differ (sigma 1.00)"
        then = "the first of the shortlist works" if solo else "the shortlist works in parallel"
    text += f", {failed} failed" if failed else ""
    text += ", the others could change nothing" if len(ballots) < samples else ""
    return f"{text}: {then}" if spread else text


def _spared(request: RouteRequest, listed: _Listed, tally: _Tally) -> str:
    """What share of the tokens the shortlist took of a prompt with every agent; empty where all are on it."""
    agents = len(_live(request))
    full = tally.full_tokens
    if not full or len(listed.cards) >= agents:
        return ""
    return f" ({len(listed.cards)} of {agents} agents shown: {tally.usage.prompt_tokens / full:.0%} of the tokens)"


def _torn(picks: Sequence[Pick], request: RouteRequest) -> bool:
    """Whether two agents are about as likely, neither is likely, and nothing says that each has a part of its own."""
    if len(picks) < 2:
        return False
    first, second = picks[0], picks[1]
    if first.probability is None or second.probability is None or first.probability >= SURE:
        return False
    whole = {"", fold(request.task.text)}
    apart = fold(first.part) != fold(second.part) and not {fold(first.part), fold(second.part)} & whole
    return first.probability - second.probability <= MARGIN and not apart


def _sure_of(picks: Sequence[Pick], kept: Sequence[Pick], none: float | None, *, exclusive: bool) -> float:
    """Probability that exactly the kept agents are needed.

    Each is needed or not on its own, unless the probabilities of a decider add up to 1: then one is right, and any of
    the kept ones may be it. Our choice.
    """
    chances = {p.agent: p.probability for p in picks if p.probability is not None}
    working = {p.agent for p in kept} & chances.keys()
    if exclusive and math.isclose(sum(chances.values()) + (none or 0.0), 1.0, abs_tol=0.02):
        return sum(chances[agent] for agent in working)
    return math.prod(p if agent in working else 1.0 - p for agent, p in chances.items()) if working else 0.0


def _chosen(kept: Sequence[Pick], request: RouteRequest) -> tuple[Chosen, ...]:
    """The kept agents with their shares. The whole task is given as an empty part: it has what was clarified, too."""
    total = sum(p.probability or 0.0 for p in kept)
    weighed = total > 0 and all(p.probability for p in kept)
    whole = len(kept) == 1 and bool(request.task.clarifications)
    return tuple(
        Chosen(
            agent=p.agent,
            score=p.probability if p.probability is not None else 1.0,
            probability=p.probability,
            weight=(p.probability or 0.0) / total if weighed else 1.0 / len(kept),
            part="" if whole or fold(p.part) == fold(request.task.text) else p.part,
        )
        for p in kept
    )


def _options(listed: _Listed, picks: Sequence[Pick]) -> tuple[str, ...]:
    """Who is in question: those that were named, at least two, from the shortlist if need be."""
    named = [pick.agent for pick in picks]
    listed_too = dict.fromkeys((*named, *(card.id for card in listed.cards)))
    return tuple(listed_too)[: max(2, min(len(named), ASKED_BACK)) if named else ASKED_BACK]


def _question(titles: Sequence[str]) -> str:
    return f"What is it about: {', '.join(titles)}, or something else? Please describe it in a few more words."


def _within(name: str, value: float, least: float, most: float) -> None:
    if isinstance(value, bool) or not least <= value <= most:
        raise ConfigError(
            f"the option {name} of the router 'reasoning' is {value!r}; give a number from {least:g} to {most:g}"
        )


def _switch(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"the option {name} of the router 'reasoning' is {value!r}; give true or false")
