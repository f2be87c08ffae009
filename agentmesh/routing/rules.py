"""Rules over signals: who works, who must not, when the user is asked and when a run stops, as a file says it.

The form is that of the vLLM Semantic Router's white paper; `rulebook.py` reads it. Ours are the rules that bound what
another router may choose, and that a signal which cannot be read is an error instead of "not matched". Settings, models
and prices are not its business; signals are read in `signals.py`.
"""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentmesh.errors import ConfigError, ProjectError, RoutingError
from agentmesh.mistakes import Mistake, Steps, dotted
from agentmesh.models.base import Embedder
from agentmesh.project.frontmatter import Document
from agentmesh.registry import resolve_name
from agentmesh.routing.base import Router, unique_cards
from agentmesh.routing.rulebook import BOUNDING, INLINE, JAILBREAK, RuleBook, RuleSpec, read_book, rule_book
from agentmesh.routing.signals import OWN_DETECTORS, Detector, Held, Reading, SignalReader, judged
from agentmesh.routing.wrappers import RouterOf, close_all, hand_on_outcome, hand_on_record, inner_router
from agentmesh.run import RunContext
from agentmesh.types import AgentCard, Candidate, Chosen, Mode, Outcome, RouteRequest, RoutingDecision, RunBounds

__all__ = ["RulesRouter", "rules_router"]


# --- the router -------------------------------------------------------------------------------------------------------


class RulesRouter:
    """Decides by rules; where none decides, another router does, within what the rules allow.

    First every rule that bounds and holds does its part: who is left are the candidates. Then, of the rules that
    decide and hold, the one of the highest priority does. A rule whose agents are all absent, shadows or forbidden
    decides nothing, nor does one whose question was answered already; both stand in `evidence["passed_over"]`. Agents
    that no rule and no router names are never forbidden, so a new card competes at once.

    `evidence["signals"]` has every signal of the file with its confidence, `evidence["rules"]` the rules that held, by
    which signals, and who decided.

    Args:
        book: The rules.
        otherwise: Who decides where no rule does.
        further: The routers of `next`, by name.
        embedder: For signals that compare by meaning.
        detectors: By name, for signals that use one.

    Raises:
        ConfigError: If a router, a detector or an embedder is missing.
    """

    name = "rules"

    def __init__(
        self,
        book: RuleBook,
        *,
        otherwise: Router,
        further: Mapping[str, Router] | None = None,
        embedder: Embedder | None = None,
        detectors: Mapping[str, Detector] | None = None,
    ) -> None:
        known = {**OWN_DETECTORS, **(detectors or {})}
        if wrong := book.mistakes(detectors=known):
            raise ProjectError([str(Mistake(INLINE, None, dotted(steps), text)) for steps, text in wrong])
        self.book = book
        book = book.guarded()
        if book.mistakes(detectors=known):
            raise ConfigError(
                f"`strong` needs the detector {JAILBREAK!r}, which is not given; add it to `detectors`, or say what "
                f"the signal {JAILBREAK!r} is, or set `guard` to false"
            )
        further = further or {}
        for rule in book.rules:
            if rule.next is not None and rule.next not in further:
                raise ConfigError(f"the rule {rule.name!r} hands to the router {rule.next!r}, which is not given")
        for spec in book.signals.values():
            if spec.detector is not None and spec.detector not in known:
                known[spec.detector] = resolve_name(spec.detector)
        self._rules = book.rules
        self._bounding = [rule for rule in book.rules if not rule.decides]
        self._deciding = sorted((rule for rule in book.rules if rule.decides), key=lambda rule: -rule.priority)
        self._otherwise, self._further = otherwise, dict(further)
        self._reader = SignalReader(book.signals, embedder=embedder, detectors=known)

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        """See `Router`; also raises `RoutingError` if a signal could not be read."""
        started = time.perf_counter()
        readings = await self._read(request, ctx)
        held = {rule.name: _held(rule, readings) for rule in self._rules}
        bounding = [rule for rule in self._bounding if held[rule.name].matched]
        cards, out = self._bounded(unique_cards(request.cards), bounding)
        most = min([request.max_agents, *(r.limits.max_agents for r in bounding if r.limits and r.limits.max_agents)])
        if most < request.max_agents:
            request = request.model_copy(update={"max_agents": most})
        passed: dict[str, str] = {}
        decided: RuleSpec | None = None
        decision: RoutingDecision | None = None
        for rule in self._deciding:
            if not held[rule.name].matched:
                continue
            said = await self._by(rule, held[rule.name], request, cards, out, ctx)
            if isinstance(said, RoutingDecision):
                decided, decision = rule, said
                break
            passed[rule.name] = said
        if decision is None:
            decision = await self._asked(self._otherwise, request, cards, out, ctx)
        self._check(decision, bounding, request.cards)
        stopped = decided is not None and (decided.out_of_scope or decided.stop is not None)
        if decision.mode is not Mode.PATH and not stopped:
            decision = _preferred(decision, bounding, cards, most)
            decision = _required(decision, bounding, cards, most)
            if len(decision.chosen) > most:
                decision = _with_chosen(decision, decision.chosen[:most], f"among the {most} that a rule allows")
        if any(rule.strongest for rule in bounding):
            decision = decision.model_copy(update={"chosen": tuple(self._strengthened(c) for c in decision.chosen)})
        missing = [
            Candidate(agent=agent, score=0.0, chosen=False, reason=why)
            for agent, why in out.items()
        ]  # fmt: skip
        by_rule = decided is not None and decided.next is None
        return decision.model_copy(
            update={
                "reason": _reason(decision, decided, bounding, held),
                "candidates": (*decision.candidates, *missing),
                "evidence": {
                    **decision.evidence,
                    "decided_by": f"rule {decided.name}"
                    if decided and by_rule
                    else decision.evidence.get("decided_by") or decision.router,
                    "rule": decided.name if decided else None,
                    "rules": {name: _shown(h) for name, h in held.items() if h.matched},
                    "passed_over": passed,
                    "signals": {name: reading.as_json() for name, reading in readings.items()},
                },
                "limits": self._limits(decision, bounding),
                "router": self.name,
                "latency_ms": (time.perf_counter() - started) * 1000,
            }
        )

    async def prepare(self, cards: Sequence[AgentCard]) -> None:
        """Let the routers that can read the cards beforehand do so."""
        for router in self._asks:
            ready = getattr(router, "prepare", None)
            if ready is not None:
                await ready(cards)

    def record(self, agent: str, ok: bool) -> None:
        """Hand on how a call went."""
        hand_on_record(self._asks, agent, ok)

    async def learn(self, outcome: Outcome) -> bool:
        """Hand on what a run taught; whether anybody learns."""
        return await hand_on_outcome(self._asks, outcome)

    async def aclose(self) -> None:
        """Free what the routers hold that this one asks. May be called twice."""
        await close_all(self._asks)

    @property
    def _asks(self) -> tuple[Router, ...]:
        return (self._otherwise, *self._further.values())

    async def _read(self, request: RouteRequest, ctx: RunContext) -> dict[str, Reading]:
        left = ctx.seconds_left()
        try:
            async with asyncio.timeout(None if math.isinf(left) else left):
                return await self._reader.read(request, ctx)
        except TimeoutError as error:
            raise RoutingError(
                f"the router {self.name!r} could not read its signals within {left:.1f} s; raise `limits.max_seconds`"
            ) from error

    async def _by(
        self,
        rule: RuleSpec,
        held: Held,
        request: RouteRequest,
        cards: Sequence[AgentCard],
        out: Mapping[str, str],
        ctx: RunContext,
    ) -> RoutingDecision | str:
        """What a rule decides, or why it decides nothing."""
        if rule.next is not None:
            return await self._asked(self._further[rule.next], request, cards, out, ctx)
        if rule.out_of_scope or rule.stop is not None:
            return _decision(rule, held, Mode.OUT_OF_SCOPE, (), cards)
        if rule.clarify is not None:
            if any(c.question == rule.clarify for c in request.task.clarifications):
                return "its question was answered"
            if not any(not card.shadow for card in cards):
                return "there is nobody to ask for"
            return _decision(rule, held, Mode.CLARIFY, (), cards)
        here = {card.id: card for card in cards}
        may = [c for c in rule.agents or () if c.agent in here and not here[c.agent].shadow]
        if not may:
            return "none of its agents may be chosen here"
        kept = may[: request.max_agents]
        total = sum(choice.weight for choice in kept)
        chosen = tuple(
            Chosen(agent=c.agent, score=held.confidence, weight=c.weight / total, part=c.part, variant=c.variant)
            for c in kept
        )
        return _decision(rule, held, Mode.SOLO if len(chosen) == 1 else Mode.PARALLEL, chosen, cards)

    def _bounded(
        self, cards: Sequence[AgentCard], bounding: Sequence[RuleSpec]
    ) -> tuple[tuple[AgentCard, ...], dict[str, str]]:
        """The cards that may be chosen among, and why the others may not."""
        out: dict[str, str] = {}
        for card in cards if bounding else ():
            reasons = (self._barred(card.id, card, rule) for rule in bounding)
            if reason := next((r for r in reasons if r), ""):
                out[card.id] = reason
        return tuple(card for card in cards if card.id not in out), out

    def _barred(self, agent: str, card: AgentCard | None, rule: RuleSpec) -> str:
        """Why a rule that holds keeps this agent from working; empty if it does not."""
        if agent in rule.forbid:
            return f"forbidden by the rule {rule.name!r}"
        if lacking := [kind for kind in rule.must_allow if card is None or kind not in card.allows]:
            return f"its card does not allow {' and '.join(lacking)} data, as the rule {rule.name!r} demands"
        if rule.strongest and not self.book.variants_of(agent):
            return f"not among the strong agents, which the rule {rule.name!r} demands"
        return ""

    def _check(self, decision: RoutingDecision, bounding: Sequence[RuleSpec], cards: Sequence[AgentCard]) -> None:
        """Raise `RoutingError` if somebody was chosen whom a rule bars: in a later layer of a path, say."""
        known = {card.id: card for card in cards}
        for agent in decision.agents if bounding else ():
            for rule in bounding:
                if reason := self._barred(agent, known.get(agent), rule):
                    raise RoutingError(f"the router {decision.router!r} chose {agent!r}: {reason}")

    def _strengthened(self, chosen: Chosen) -> Chosen:
        """The same agent in a variant that the file calls strong."""
        strong = self.book.variants_of(chosen.agent)
        return chosen if chosen.variant in strong else chosen.model_copy(update={"variant": strong[0]})

    def _limits(self, decision: RoutingDecision, bounding: Sequence[RuleSpec]) -> RunBounds | None:
        """What the router that was asked and the rules let the run take."""
        bounds = decision.limits
        for place, rule in enumerate(self._rules):
            if rule in bounding and rule.limits is not None:
                mine = rule.limits.for_run(f"rules[{place}].limits")
                bounds = mine if bounds is None else bounds.least(mine)
        return bounds

    async def _asked(
        self, router: Router, request: RouteRequest, cards: Sequence[AgentCard], out: Mapping[str, str], ctx: RunContext
    ) -> RoutingDecision:
        """What a router decides about the cards that are left."""
        if out and request.cards and not any(not card.shadow for card in cards):
            return RoutingDecision(
                mode=Mode.OUT_OF_SCOPE, reason="the rules leave no agent", confidence=1.0, router=self.name
            )
        return await router.route(request.model_copy(update={"cards": tuple(cards)}), ctx)


def rules_router(
    embedder: Embedder | None = None,
    *,
    router_of: RouterOf | None = None,
    detectors: Mapping[str, Detector] | None = None,
    folder: str | Path | None = None,
    file: str | Path | None = None,
    signals: Mapping[str, Any] | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
    otherwise: str | Router = "semantic",
) -> RulesRouter:
    """The router from settings.

    Args:
        embedder: For signals that compare by meaning, and for `semantic` where `router_of` does not make it.
        router_of: The router of a name; absent: `semantic` and `keyword` are the only ones.
        detectors: What signals may name as `detector`, besides `secret`.
        folder: Where `file` is looked for; absent: the working folder.
        file: A YAML or TOML file with `signals` and `rules`.
        signals: The same in the settings, in place of a file.
        rules: Likewise. Without rules, `otherwise` decides everything.
        otherwise: A router or its name.

    Raises:
        ConfigError: If a file, a rule, a signal or a router's name is wrong, or routers need one another in a circle;
            with file, line and key.
    """
    if file is not None and (signals is not None or rules is not None):
        raise ConfigError("the router 'rules' has `file` and rules of its own; take one of them out")
    known = {**OWN_DETECTORS, **(detectors or {})}
    shown, document = INLINE, Document()
    if file is not None:
        shown = str(file)
        book, document = read_book(Path(folder or ".") / file, shown, detectors=known)
    else:
        given = {"signals": signals, "rules": rules}
        book = rule_book({key: value for key, value in given.items() if value is not None}, detectors=known)
    further: dict[str, Router] = {}
    wrong: list[str] = []
    for n, rule in enumerate(book.rules):
        if rule.next is not None and rule.next not in further:
            try:
                further[rule.next] = inner_router(rule.next, embedder, router_of)
            except ConfigError as error:
                steps: Steps = ("rules", n, "next")
                wrong.append(str(Mistake(shown, document.line(steps), dotted(steps), str(error))))
    for name, spec in book.signals.items():
        if spec.detector is not None and ":" in spec.detector and spec.detector not in known:
            try:
                resolve_name(spec.detector)
            except ConfigError as error:
                steps = ("signals", name, "detector")
                wrong.append(str(Mistake(shown, document.line(steps), dotted(steps), str(error))))
    if wrong:
        raise ProjectError(wrong)
    return RulesRouter(
        book, otherwise=inner_router(otherwise, embedder, router_of), further=further, embedder=embedder,
        detectors=detectors,
    )  # fmt: skip


# --- what rules do ----------------------------------------------------------------------------------------------------


def _held(rule: RuleSpec, readings: Mapping[str, Reading]) -> Held:
    return Held(True, 1.0, ()) if rule.when is None else judged(rule.when, readings)


def _decision(
    rule: RuleSpec, held: Held, mode: Mode, chosen: tuple[Chosen, ...], cards: Sequence[AgentCard]
) -> RoutingDecision:
    """The decision of a rule; its reason is told by `_reason`."""
    place = {c.agent: n for n, c in enumerate(chosen)}
    candidates = [
        Candidate(
            agent=card.id,
            score=held.confidence if card.id in place else 0.0,
            chosen=card.id in place,
            reason=f"named by the rule {rule.name!r}"
            if card.id in place
            else f"shadow: never called; the rule {rule.name!r} decides"
            if card.shadow
            else f"the rule {rule.name!r} decides otherwise",
        )
        for card in cards
    ]
    candidates.sort(key=lambda c: place.get(c.agent, len(place)))
    here = {card.id for card in cards if not card.shadow}
    return RoutingDecision(
        mode=mode,
        chosen=chosen,
        reason=f"the rule {rule.name!r}",
        candidates=tuple(candidates),
        confidence=held.confidence,
        stopped=rule.stop or "",
        question=rule.clarify if mode is Mode.CLARIFY else None,
        options=tuple(o for o in rule.options if o in here) if mode is Mode.CLARIFY else (),
        router=RulesRouter.name,
    )


def _preferred(
    decision: RoutingDecision, bounding: Sequence[RuleSpec], cards: Sequence[AgentCard], most: int
) -> RoutingDecision:
    """The decision with preferred agents first, and chosen where it was torn between them and others."""
    wanted = dict.fromkeys(agent for rule in bounding for agent in rule.prefer)
    if not wanted:
        return decision
    if decision.mode is Mode.CLARIFY:
        callable_ids = {card.id for card in cards if not card.shadow}
        agents = [agent for agent in decision.options if agent in wanted and agent in callable_ids][:most]
        return _with_chosen(decision, [_added(decision, a, 1.0) for a in agents], "preferred by a rule")
    first = sorted(decision.chosen, key=lambda c: c.agent not in wanted)
    return decision.model_copy(update={"chosen": tuple(first)})


def _required(
    decision: RoutingDecision, bounding: Sequence[RuleSpec], cards: Sequence[AgentCard], most: int
) -> RoutingDecision:
    """The decision with required agents; where there are too many, those that no rule requires go, worst first."""
    callable_ids = {card.id for card in cards if not card.shadow}
    wanted = [a for a in dict.fromkeys(a for rule in bounding for a in rule.require) if a in callable_ids]
    if not wanted or decision.mode is Mode.CLARIFY or {*wanted} <= {*decision.agents}:
        return decision
    mean = 1.0 / len(decision.chosen) if decision.chosen else 1.0
    before = {c.agent: c for c in decision.chosen}
    required = [before.get(agent) or _added(decision, agent, mean) for agent in wanted][:most]
    others = [c for c in decision.chosen if c.agent not in wanted][: most - len(required)]
    kept = {c.agent for c in (*required, *others)}
    in_order = [c for c in decision.chosen if c.agent in kept]
    in_order += [c for c in required if c.agent not in before]
    return _with_chosen(decision, in_order, "required by a rule")


def _added(decision: RoutingDecision, agent: str, weight: float) -> Chosen:
    """An agent that the router did not choose, with what it knows of it."""
    seen = next((c for c in decision.candidates if c.agent == agent), None)
    return Chosen(
        agent=agent, score=seen.score if seen else 0.0, probability=seen.probability if seen else None, weight=weight
    )


def _with_chosen(decision: RoutingDecision, chosen: Sequence[Chosen], why: str) -> RoutingDecision:
    """The decision with these agents instead; the same one if there are none."""
    if not chosen:
        return decision
    total = sum(c.weight for c in chosen)
    agents, before = {c.agent for c in chosen}, {*decision.agents}
    candidates = tuple(
        c.model_copy(update={"chosen": True, "reason": f"{why}; {c.reason}"})
        if c.agent in agents and c.agent not in before
        else c.model_copy(update={"chosen": False, "reason": f"another was {why}; {c.reason}"})
        if c.chosen and c.agent not in agents
        else c
        for c in decision.candidates
    )
    listed = {c.agent for c in candidates}
    new = tuple(
        Candidate(agent=c.agent, score=c.score, chosen=True, reason=why) for c in chosen if c.agent not in listed
    )
    return decision.model_copy(
        update={
            "mode": Mode.SOLO if len(chosen) == 1 else Mode.PARALLEL,
            "chosen": tuple(c.model_copy(update={"weight": c.weight / total}) for c in chosen),
            "candidates": tuple(sorted((*candidates, *new), key=lambda c: not c.chosen)),
            "question": None,
            "options": (),
        }
    )


def _reason(
    decision: RoutingDecision, decided: RuleSpec | None, bounding: Sequence[RuleSpec], held: Mapping[str, Held]
) -> str:
    """Which rules and signals, then what the router says that was asked."""

    def told(rule: RuleSpec) -> str:
        by = ", ".join(held[rule.name].by)
        return f"rule {rule.name!r}" + (f" by {by}" if by else "") + (f": {rule.because}" if rule.because else "")

    said = [told(decided)] if decided is not None else []
    if decided is None or decided.next is not None:
        said.append(f"{decision.router}: {decision.reason}" if decision.router != RulesRouter.name else decision.reason)
    said += [f"{', '.join(k for k in BOUNDING if getattr(rule, k))} as {told(rule)}" for rule in bounding]
    return "; ".join(said)


def _shown(held: Held) -> dict[str, Any]:
    return {"confidence": round(held.confidence, 4), "signals": list(held.by)}
