"""Routers around routers: fallback, at most N, cached, circuit breaker, shadow. One idea each; none chooses by itself.

Each hands on `record` and `learn` (how a call of an agent went, what a run taught) to the routers in it, and `aclose`.
"""

import asyncio
import copy
import hashlib
import inspect
import itertools
import json
import math
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentmesh.errors import ConfigError, MeshError, RoutingError, UnknownNameError
from agentmesh.models.base import Embedder
from agentmesh.routing.base import Router
from agentmesh.routing.baselines import KeywordRouter
from agentmesh.routing.semantic import SemanticRouter
from agentmesh.run import Clock, MemoryJournal, Meter, RunContext, SystemClock
from agentmesh.trace.events import RoutesCompared, StepFailed
from agentmesh.types import AgentCard, Candidate, Chosen, Mode, Outcome, RouteRequest, RoutingDecision, Usage

__all__ = [
    "AtMostRouter",
    "CachedRouter",
    "CircuitBreakerRouter",
    "Comparison",
    "FallbackRouter",
    "RouterOf",
    "ShadowRouter",
    "at_most_router",
    "breaker_router",
    "cached_router",
    "close_all",
    "fallback_router",
    "hand_on_outcome",
    "hand_on_record",
    "inner_router",
    "shadow_router",
]

RouterOf = Callable[[str], Router]
"""The router of a name; raises `ConfigError` where routers need one another in a circle."""

GRACE_S = 0.1
"""Seconds of the step's time that only the last router of a fallback is given."""
MOST_PENDING = 16
"""Shadows that decide at the same time; a further one is skipped."""
MOST_COMPARED = 1_000
"""Comparisons of a shadow that are kept, newest last."""
CLOSING_S = 0.5
"""Seconds that a shadow has left to decide when its router is closed: a process that asks one question ends soon."""
MOST_FAILING = 10_000
"""Agents whose failures are remembered."""
REMEMBERED_CARDS = 8
"""Sets of cards whose digest is kept."""


# --- fallback ---------------------------------------------------------------------------------------------------------


class FallbackRouter:
    """Asks the next router when one fails, is late, raises, or chooses somebody who is not a candidate.

    The first decision stands, sure or not: for the sure ones there is `cascade`. The last router has all that is left
    of the step's time.

    Args:
        steps: The routers in order; at least one.
        timeout_s: Seconds for every router but the last, cut to what is left of the step.
    """

    name = "fallback"

    def __init__(self, steps: Sequence[Router], *, timeout_s: float = 10.0) -> None:
        if isinstance(steps, str) or not steps:
            raise ConfigError("the option steps of the router 'fallback' is no list of routers; name at least one")
        _positive(self.name, "timeout_s", timeout_s)
        self._steps, self._timeout_s = tuple(steps), timeout_s

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        started = time.perf_counter()
        failures: list[dict[str, str]] = []
        for place, step in enumerate(self._steps):
            last = place == len(self._steps) - 1
            left = ctx.seconds_left()
            limit = left if last else max(0.0, min(self._timeout_s, left - GRACE_S))
            try:
                async with asyncio.timeout(None if math.isinf(limit) else limit):
                    decision = await step.route(request, ctx)
            except TimeoutError:
                error = "it did not decide in time"
            except MeshError as failure:
                error = str(failure)
            except Exception as failure:  # somebody's router; the next one decides all the same
                error = f"{type(failure).__name__}: {failure}"
            else:
                if not (strange := _strangers(decision, request)):
                    words = "; ".join(f"{f['router']} failed: {f['error']}" for f in failures)
                    reason = f"{decision.router}: {decision.reason}" + (f" ({words})" if words else "")
                    return _wrapped(decision, self.name, started, reason=reason, failures=failures)
                error = f"it chose {strange[0]!r}, who is no candidate"
            failures.append({"router": step.name, "error": error})
            ctx.emit(StepFailed(error=f"the router {step.name!r} failed: {error}", kind="RoutingError"))
        said = "; ".join(f"{f['router']} failed: {f['error']}" for f in failures)
        raise RoutingError(f"no router of the fallback could decide: {said}")

    def record(self, agent: str, ok: bool) -> None:
        """Hand on how a call went."""
        hand_on_record(self._steps, agent, ok)

    async def learn(self, outcome: Outcome) -> bool:
        """Hand on what a run taught; whether anybody learns."""
        return await hand_on_outcome(self._steps, outcome)

    async def aclose(self) -> None:
        """Free what the steps hold. May be called twice."""
        await close_all(self._steps)


def fallback_router(
    embedder: Embedder | None = None,
    *,
    router_of: RouterOf | None = None,
    steps: Sequence[str | Router] = ("semantic", "keyword"),
    **options: Any,
) -> FallbackRouter:
    """`FallbackRouter` from settings.

    Args:
        embedder: For `semantic`, where `router_of` does not make it.
        router_of: The router of a name; absent: `semantic` and `keyword` are the only ones.
        steps: Routers or their names, in order.
        options: The other arguments of `FallbackRouter`.

    Raises:
        ConfigError: If an option is wrong; `UnknownNameError` if a router's name is.
    """
    if isinstance(steps, str):
        raise ConfigError(f"the option steps of the router 'fallback' is {steps!r}; give a list of routers")
    return FallbackRouter([inner_router(step, embedder, router_of) for step in steps], **options)


# --- at most N --------------------------------------------------------------------------------------------------------


class AtMostRouter:
    """Lets at most N agents work, the best ones, whatever the task allows.

    The shares of those that stay add up to 1 again. A path is passed on as it is: its layers are not a choice to cut.

    Args:
        router: Who decides; it is told the bound, so that it can divide the task accordingly.
        agents: Most agents, 1 or more.
    """

    name = "at_most"

    def __init__(self, router: Router, *, agents: int = 1) -> None:
        _count(self.name, "agents", agents)
        self._inner, self._agents = router, agents

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        started = time.perf_counter()
        most = min(self._agents, request.max_agents)
        decision = await self._inner.route(request.model_copy(update={"max_agents": most}), ctx)
        if decision.mode is Mode.PATH or len(decision.chosen) <= most:
            return _wrapped(decision, self.name, started, at_most=most)
        cut = [c.agent for c in decision.chosen[most:]]
        kept = _shared_out(decision.chosen[:most])
        reason = f"{decision.reason} (without {', '.join(cut)}: at most {most})"
        cut_down = decision.model_copy(
            update={
                "mode": Mode.SOLO if len(kept) == 1 else Mode.PARALLEL,
                "chosen": kept,
                "candidates": tuple(
                    c.model_copy(update={"chosen": False, "reason": f"outside the {most} best; {c.reason}"})
                    if c.agent in cut
                    else c
                    for c in decision.candidates
                ),
            }
        )
        return _wrapped(cut_down, self.name, started, reason=reason, at_most=most, cut=cut)

    def record(self, agent: str, ok: bool) -> None:
        """Hand on how a call went."""
        hand_on_record([self._inner], agent, ok)

    async def learn(self, outcome: Outcome) -> bool:
        """Hand on what a run taught; whether anybody learns."""
        return await hand_on_outcome([self._inner], outcome)

    async def aclose(self) -> None:
        """Free what the inner router holds. May be called twice."""
        await close_all([self._inner])


def at_most_router(
    embedder: Embedder | None = None,
    *,
    router_of: RouterOf | None = None,
    router: str | Router = "semantic",
    **options: Any,
) -> AtMostRouter:
    """`AtMostRouter` from settings: `router` by name, the other arguments as they are. May raise `ConfigError`."""
    return AtMostRouter(inner_router(router, embedder, router_of), **options)


# --- cached -----------------------------------------------------------------------------------------------------------


class CachedRouter:
    """Gives the decision that the same request got before.

    The same: text, history, clarifications, tenant, user, stage, round, bounds, what is known, the graph, and every
    field of every card. So no decision crosses tenants or users, and a changed card is a new question. A thread's name
    does not count. Failures are not kept. A decision that is given again took no usage; `evidence["cache_key"]` is the
    same in all of them. A `breaker` belongs around a cache, not into it.

    Args:
        router: Who decides.
        max_entries: Decisions that are kept; the one that was not used for longest goes first.
        ttl_s: Seconds that a decision stands.
        clock: The time.
    """

    name = "cached"

    def __init__(
        self, router: Router, *, max_entries: int = 1000, ttl_s: float = 300.0, clock: Clock | None = None
    ) -> None:
        _count(self.name, "max_entries", max_entries)
        _positive(self.name, "ttl_s", ttl_s)
        self._inner, self._most, self._ttl_s = router, max_entries, ttl_s
        self._clock = clock or SystemClock()
        self._kept: OrderedDict[str, tuple[float, RoutingDecision]] = OrderedDict()
        self._digests: OrderedDict[tuple[int, ...], tuple[tuple[AgentCard, ...], str]] = OrderedDict()
        self.hits = 0
        """Decisions that were given again."""
        self.misses = 0
        """Decisions that were made."""

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        started = time.perf_counter()
        key = self._key(request)
        found = self._kept.get(key)
        if found is not None and self._clock.monotonic() - found[0] < self._ttl_s:
            self._kept.move_to_end(key)
            self.hits += 1
            decision = found[1].model_copy(update={"usage": Usage(), "evidence": copy.deepcopy(found[1].evidence)})
        else:
            self.misses += 1
            decision = await self._inner.route(request, ctx)
            self._keep(key, decision)
        return _wrapped(decision, self.name, started, cache_key=key[:16])

    def clear(self) -> None:
        """Forget every decision."""
        self._kept.clear()

    def record(self, agent: str, ok: bool) -> None:
        """Hand on how a call went."""
        hand_on_record([self._inner], agent, ok)

    async def learn(self, outcome: Outcome) -> bool:
        """Hand on what a run taught. Where the inner router learns, what it decided before is forgotten."""
        if learns := await hand_on_outcome([self._inner], outcome):
            self.clear()
        return learns

    async def aclose(self) -> None:
        """Free what the inner router holds. May be called twice."""
        await close_all([self._inner])

    def _keep(self, key: str, decision: RoutingDecision) -> None:
        self._kept[key] = (self._clock.monotonic(), decision.model_copy(deep=True))
        self._kept.move_to_end(key)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def _key(self, request: RouteRequest) -> str:
        asked = request.model_dump_json(exclude={"cards": True, "task": {"thread"}})
        return hashlib.sha256(f"{self._cards_digest(request.cards)}\n{asked}".encode()).hexdigest()

    def _cards_digest(self, cards: tuple[AgentCard, ...]) -> str:
        """A digest of all fields of all cards, in their order."""
        # Frozen cards that are the same objects are the same cards; keeping them keeps their ids from being reused.
        identity = tuple(map(id, cards))
        if identity not in self._digests:
            digest = hashlib.sha256(json.dumps([c.model_dump_json() for c in cards]).encode()).hexdigest()
            self._digests[identity] = (cards, digest)
            while len(self._digests) > REMEMBERED_CARDS:
                self._digests.popitem(last=False)
        self._digests.move_to_end(identity)
        return self._digests[identity][1]


def cached_router(
    embedder: Embedder | None = None,
    *,
    router_of: RouterOf | None = None,
    router: str | Router = "semantic",
    **options: Any,
) -> CachedRouter:
    """`CachedRouter` from settings: `router` by name, the other arguments as they are. May raise `ConfigError`."""
    return CachedRouter(inner_router(router, embedder, router_of), **options)


# --- circuit breaker --------------------------------------------------------------------------------------------------


@dataclass
class _Failing:
    """An agent that failed lately; what changes here."""

    failures: int = 0
    """In a row."""
    left_at: float | None = None
    """When it left the candidates, on the clock; None: it has not."""
    probed_at: float | None = None
    """When it was last let in again to see whether it works."""


class CircuitBreakerRouter:
    """Leaves an agent that keeps failing out of the candidates, and says so.

    After the cool-down the agent is a candidate of one request at a time, until `record` says how that went: well, and
    it is back; not, and it is left out again. If nobody says, it is let in again after another cool-down. Failures are
    those of the agent, so they count for all tenants. Nothing is kept over a restart.

    Args:
        router: Who decides among the others.
        failures: Failures in a row after which an agent is left out, 1 or more.
        cool_down_s: Seconds until it is tried again.
        clock: The time.
    """

    name = "breaker"

    def __init__(
        self, router: Router, *, failures: int = 3, cool_down_s: float = 60.0, clock: Clock | None = None
    ) -> None:
        _count(self.name, "failures", failures)
        _positive(self.name, "cool_down_s", cool_down_s)
        self._inner, self._failures, self._cool_down_s = router, failures, cool_down_s
        self._clock = clock or SystemClock()
        self._failing: dict[str, _Failing] = {}

    def record(self, agent: str, ok: bool) -> None:
        """Take in how a call of this agent went. What the agent said does not matter, only whether it could."""
        hand_on_record([self._inner], agent, ok)
        if ok:
            self._failing.pop(agent, None)
            return
        state = self._failing.setdefault(agent, _Failing())
        state.failures += 1
        state.probed_at = None
        if state.left_at is not None or state.failures >= self._failures:
            state.left_at = self._clock.monotonic()
        while len(self._failing) > MOST_FAILING:
            del self._failing[next(iter(self._failing))]

    async def learn(self, outcome: Outcome) -> bool:
        """Hand on what a run taught; a good answer is none of the breaker's business, a call that works is."""
        return await hand_on_outcome([self._inner], outcome)

    def left_out(self) -> dict[str, float]:
        """Agents that are left out now, with the seconds until each is tried again."""
        now = self._clock.monotonic()
        return {agent: wait for agent in self._failing if (wait := self._wait(agent, now)) > 0}

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        """See `Router`; also raises `RoutingError` if every agent is left out."""
        started = time.perf_counter()
        now = self._clock.monotonic()
        out: dict[str, str] = {}
        waits: list[float] = []
        for card in request.cards if self._failing else ():
            if (wait := self._wait(card.id, now)) > 0 and card.id not in out:
                failures = self._failing[card.id].failures
                out[card.id] = f"left out: failed {failures} times in a row, tried again in {wait:.0f} s"
                waits.append(wait)
        cards = tuple(c for c in request.cards if c.id not in out) if out else request.cards
        probes = self._probes(cards, now)
        if out and any(not c.shadow for c in request.cards) and all(c.shadow for c in cards):
            raise RoutingError(
                f"every agent is left out after failures; the next is tried again in {min(waits):.0f} s, ask then"
            )
        working: tuple[str, ...] = ()
        try:
            decision = await self._inner.route(request.model_copy(update={"cards": cards}) if out else request, ctx)
            working = decision.agents
        finally:
            for agent in probes:  # only who works is a probe
                if agent not in working:
                    self._release(agent)
        missing = [
            Candidate(agent=agent, score=0.0, chosen=False, reason=reason)
            for agent, reason in out.items()
        ]  # fmt: skip
        reason = decision.reason + "".join(f"; {agent} {said}" for agent, said in out.items())
        return _wrapped(
            decision.model_copy(update={"candidates": (*decision.candidates, *missing)}),
            self.name, started, reason=reason, left_out=sorted(out), probes=sorted(set(probes) & {*decision.agents}),
        )  # fmt: skip

    async def aclose(self) -> None:
        """Free what the inner router holds. May be called twice."""
        await close_all([self._inner])

    def _wait(self, agent: str, now: float) -> float:
        """Seconds until this agent may be a candidate; 0: it may."""
        state = self._failing.get(agent)
        if state is None or state.left_at is None:
            return 0.0
        since = state.left_at if state.probed_at is None else state.probed_at
        return max(0.0, since + self._cool_down_s - now)

    def _probes(self, cards: Iterable[AgentCard], now: float) -> list[str]:
        """The agents of these that are back on trial; from now on no other request has them."""
        found: list[str] = []
        for card in cards if self._failing else ():
            state = self._failing.get(card.id)
            if state is not None and state.left_at is not None and not card.shadow:
                state.probed_at = now
                found.append(card.id)
        return found

    def _release(self, agent: str) -> None:
        if (state := self._failing.get(agent)) is not None:
            state.probed_at = None


def breaker_router(
    embedder: Embedder | None = None,
    *,
    router_of: RouterOf | None = None,
    router: str | Router = "semantic",
    **options: Any,
) -> CircuitBreakerRouter:
    """`CircuitBreakerRouter` from settings: `router` by name, other arguments as they are. May raise `ConfigError`."""
    return CircuitBreakerRouter(inner_router(router, embedder, router_of), **options)


# --- shadow -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """What two routers decided about one request."""

    run_id: str
    stage: str
    tenant: str
    decision: RoutingDecision
    """The one that was carried out."""
    shadow: RoutingDecision | None
    """The other one; None if it failed."""
    error: str = ""
    """Why it failed."""

    @property
    def same(self) -> bool:
        """Whether both have the same mode and the same agents, in whatever order."""
        return (
            self.shadow is not None
            and self.shadow.mode is self.decision.mode
            and {*self.shadow.agents} == {*self.decision.agents}
        )


class ShadowRouter:
    """Lets a second router decide as well, in the background, and compares.

    The first router's decision is given at once and never changed; then the shadow begins. It has a deadline, a
    journal and a meter of its own, so it cannot use up the limits of the run; budgets of tenants and users are charged.
    All that the run's trace has of it is one event, `routes_compared`. What it computes in the event loop's thread
    takes time there.

    Args:
        router: Whose decision counts.
        shadow: Who is compared with it.
        deadline_s: Seconds that the shadow has.
        on_compared: Called with every comparison and the context of the run, which may have ended by then. What it
            raises is dropped.
    """

    name = "shadow"

    def __init__(
        self,
        router: Router,
        shadow: Router,
        *,
        deadline_s: float = 5.0,
        on_compared: Callable[[Comparison, RunContext], None] | None = None,
    ) -> None:
        _positive(self.name, "deadline_s", deadline_s)
        self._inner, self._shadow, self._deadline_s, self._on_compared = router, shadow, deadline_s, on_compared
        self._pending: set[asyncio.Task[None]] = set()
        self.comparisons: deque[Comparison] = deque(maxlen=MOST_COMPARED)
        """Newest last."""
        self.compared = 0
        """Comparisons so far, failures of the shadow among them."""
        self.agreed = 0
        """Of those, the same decisions."""
        self.skipped = 0
        """Requests that the shadow was not asked about, since it had too many."""

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        started = time.perf_counter()
        decision = _wrapped(
            await self._inner.route(request, ctx), self.name, started, shadow=self._shadow.name
        )  # fmt: skip
        if len(self._pending) >= MOST_PENDING:
            self.skipped += 1
        else:
            task = asyncio.create_task(self._compare(decision, request, ctx))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)
        return decision

    async def settle(self) -> None:
        """Wait until every shadow that was begun has decided, or its deadline has passed."""
        while pending := tuple(self._pending):
            await asyncio.gather(*pending, return_exceptions=True)

    def record(self, agent: str, ok: bool) -> None:
        """Hand on how a call went, to both."""
        hand_on_record([self._inner, self._shadow], agent, ok)

    async def learn(self, outcome: Outcome) -> bool:
        """Hand on what a run taught, to the first router only: the shadow did not make that decision."""
        return await hand_on_outcome([self._inner], outcome)

    async def aclose(self) -> None:
        """Let the shadows end that do so soon, stop the others, free what both routers hold. May be called twice."""
        here = asyncio.get_running_loop()
        pending = [task for task in self._pending if task.get_loop() is here]  # those of an ended loop ended with it
        self._pending.clear()
        if pending:
            _, pending = await asyncio.wait(pending, timeout=min(CLOSING_S, self._deadline_s))
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await close_all([self._inner, self._shadow])

    async def _compare(self, decision: RoutingDecision, request: RouteRequest, ctx: RunContext) -> None:
        other: RoutingDecision | None = None
        error = ""
        try:
            async with asyncio.timeout(self._deadline_s):
                other = await self._shadow.route(request, self._apart(ctx))
        except TimeoutError:
            error = f"it did not decide within {self._deadline_s:g} s"
        except Exception as failure:
            error = str(failure) if isinstance(failure, MeshError) else f"{type(failure).__name__}: {failure}"
        comparison = Comparison(ctx.run_id, request.stage, request.task.tenant, decision, other, error)
        self.compared += 1
        self.agreed += comparison.same
        self.comparisons.append(comparison)
        ctx.emit(_compared_event(comparison, self._shadow.name))
        if self._on_compared is not None:
            try:
                self._on_compared(comparison, ctx)
            except Exception as failure:
                self.comparisons[-1] = replace(comparison, error=f"on_compared raised {type(failure).__name__}")

    def _apart(self, ctx: RunContext) -> RunContext:
        """The same run for somebody who must leave no mark on it."""
        now = ctx.clock.monotonic()
        accounts = ctx.meter.accounts if ctx.meter is not None else None
        return replace(
            ctx,
            step=f"{ctx.step}.shadow",
            deadline=now + self._deadline_s,
            emitter=None,
            journal=MemoryJournal(),
            meter=Meter(ctx.limits, started=now, clock=ctx.clock, accounts=accounts),
            rng=random.Random(f"{ctx.run_id}/shadow"),
            stream=False,
            _calls=itertools.count(1),
        )


def _compared_event(comparison: Comparison, shadow: str) -> RoutesCompared:
    """What the trace is told of a comparison."""
    decision, other = comparison.decision, comparison.shadow
    return RoutesCompared(
        stage=comparison.stage,
        router=str(decision.evidence.get("decided_by") or decision.router),
        mode=decision.mode,
        agents=decision.agents,
        shadow=shadow,
        shadow_mode=other.mode if other is not None else None,
        shadow_agents=other.agents if other is not None else (),
        shadow_reason=other.reason if other is not None else "",
        same=comparison.same,
        error=comparison.error,
        latency_ms=other.latency_ms if other is not None else 0.0,
    )


def shadow_router(
    embedder: Embedder | None = None,
    *,
    router_of: RouterOf | None = None,
    router: str | Router = "semantic",
    shadow: str | Router = "keyword",
    **options: Any,
) -> ShadowRouter:
    """`ShadowRouter` from settings: both routers by name, other arguments as they are. May raise `ConfigError`."""
    return ShadowRouter(
        inner_router(router, embedder, router_of), inner_router(shadow, embedder, router_of), **options
    )  # fmt: skip


# --- what they share --------------------------------------------------------------------------------------------------


def inner_router(router: str | Router, embedder: Embedder | None, router_of: RouterOf | None) -> Router:
    """A router that another one is made of, given itself or by name.

    Without `router_of` there are `semantic` and `keyword`; another name raises `UnknownNameError`.
    """
    if not isinstance(router, str):
        return router
    if router_of is not None:
        return router_of(router)
    if router == SemanticRouter.name:
        return SemanticRouter(embedder)
    if router == KeywordRouter.name:
        return KeywordRouter()
    raise UnknownNameError("router", router, [SemanticRouter.name, KeywordRouter.name])


def _wrapped(
    decision: RoutingDecision, router: str, started: float, *, reason: str | None = None, **evidence: Any
) -> RoutingDecision:
    """The decision of an inner router as that of its wrapper; `decided_by` stays who really decided."""
    decided_by = decision.evidence.get("decided_by") or decision.router
    return decision.model_copy(
        update={
            "reason": decision.reason if reason is None else reason,
            "evidence": {**decision.evidence, "decided_by": decided_by, **evidence},
            "router": router,
            "latency_ms": (time.perf_counter() - started) * 1000,
        }
    )


def _shared_out(chosen: Sequence[Chosen]) -> tuple[Chosen, ...]:
    """The same agents with weights that add up to 1."""
    total = sum(c.weight for c in chosen)
    return tuple(
        c.model_copy(update={"weight": c.weight / total if total > 0 else 1.0 / len(chosen)}) for c in chosen
    )  # fmt: skip


def _strangers(decision: RoutingDecision, request: RouteRequest) -> list[str]:
    """Chosen agents that are no candidates; a path may name agents of later layers."""
    if decision.mode is Mode.PATH:
        return []
    known = {card.id for card in request.cards}
    return [agent for agent in decision.agents if agent not in known]


def hand_on_record(routers: Iterable[Router], agent: str, ok: bool) -> None:
    """Tell the routers that listen how a call of an agent went."""
    for router in routers:
        record = getattr(router, "record", None)
        if record is not None:
            record(agent, ok)


async def hand_on_outcome(routers: Iterable[Router], outcome: Outcome) -> bool:
    """Tell those that can learn; whether any did. One of ours that only hands on says False."""
    learns = False
    for router in routers:
        learn = getattr(router, "learn", None)
        if learn is not None:
            told: object = learn(outcome)
            learns |= (await told if inspect.isawaitable(told) else told) is not False
    return learns


async def close_all(routers: Iterable[Router]) -> None:
    """Close those that hold something open."""
    for router in routers:
        close = getattr(router, "aclose", None)
        if close is not None:
            await close()


def _positive(router: str, option: str, value: float) -> None:
    if isinstance(value, bool) or not 0 < value < math.inf:
        raise ConfigError(f"the option {option} of the router {router!r} is {value!r}; give seconds above 0")


def _count(router: str, option: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"the option {option} of the router {router!r} is {value!r}; give a whole number from 1")
