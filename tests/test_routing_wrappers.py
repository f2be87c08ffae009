"""Routers around routers: what each adds, and that none of them breaks what a router promises."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agentmesh.errors import ConfigError, RoutingError, UnknownNameError
from agentmesh.models.scripted import ScriptedEmbedder
from agentmesh.routing import Router, routers
from agentmesh.routing.baselines import FixedRouter, KeywordRouter
from agentmesh.routing.semantic import SemanticRouter
from agentmesh.routing.wrappers import (
    AtMostRouter,
    CachedRouter,
    CircuitBreakerRouter,
    Comparison,
    FallbackRouter,
    ShadowRouter,
)
from agentmesh.run import Limits, Meter, RunContext, loose_context
from agentmesh.testing import RouterContract, ScriptedRouter
from agentmesh.trace.events import StepFailed
from agentmesh.trace.sinks import ListSink
from agentmesh.types import (
    AgentCard,
    Chosen,
    Message,
    Mode,
    Outcome,
    RouteRequest,
    RoutingDecision,
    Task,
    Usage,
)

CARDS = tuple(AgentCard(id=name, description=f"Is for {name}.") for name in ("billing", "vpn", "orders"))
EMBEDDER = ScriptedEmbedder()


class HandClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class Hangs:
    """Never decides."""

    name = "hangs"

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        await asyncio.Event().wait()
        raise AssertionError("nothing sets the event")


class Listens(ScriptedRouter):
    """Writes down what it is told besides requests."""

    def __init__(self) -> None:
        super().__init__("vpn", name="listens")
        self.told: list[Any] = []

    def record(self, agent: str, ok: bool) -> None:
        self.told.append((agent, ok))

    async def learn(self, outcome: Outcome) -> None:
        self.told.append(outcome.quality)

    async def aclose(self) -> None:
        self.told.append("closed")


def asking(text: str = "my tunnel", *, cards: tuple[AgentCard, ...] = CARDS, **fields: Any) -> RouteRequest:
    task = {k: fields.pop(k) for k in ("tenant", "user", "history", "thread") if k in fields}
    return RouteRequest(task=Task(text=text, **task), cards=cards, **fields)


def decided(*agents: str, confidence: float = 0.5) -> RoutingDecision:
    return RoutingDecision(
        mode=Mode.PARALLEL if len(agents) > 1 else Mode.SOLO if agents else Mode.OUT_OF_SCOPE,
        chosen=tuple(Chosen(agent=a, score=1.0, weight=1 / len(agents)) for a in agents),
        reason="it says so",
        confidence=confidence,
        router="somebody",
        usage=Usage(calls=1, prompt_tokens=10),
    )


async def route(router: Router, request: RouteRequest | None = None, ctx: RunContext | None = None) -> RoutingDecision:
    return await asyncio.wait_for(router.route(request or asking(), ctx or loose_context()), timeout=5)


MADE: dict[str, Callable[[Router], Router]] = {
    "fallback": lambda inner: FallbackRouter([ScriptedRouter(lambda _: RoutingError("down")), inner]),
    "at_most": lambda inner: AtMostRouter(inner, agents=1),
    "cached": lambda inner: CachedRouter(inner),
    "breaker": lambda inner: CircuitBreakerRouter(inner),
    "shadow": lambda inner: ShadowRouter(inner, KeywordRouter()),
    "all of them": lambda inner: CircuitBreakerRouter(
        CachedRouter(AtMostRouter(ShadowRouter(FallbackRouter([inner]), KeywordRouter()), agents=3))
    ),
}


class TestWrappersAroundSemantic(RouterContract):
    @pytest.fixture(autouse=True, params=sorted(MADE))
    def named(self, request: pytest.FixtureRequest) -> None:
        self.name: str = request.param

    def make(self) -> Router:
        return MADE[self.name](SemanticRouter(EMBEDDER))


class TestWrappersAroundKeyword(TestWrappersAroundSemantic):
    def make(self) -> Router:
        return MADE[self.name](KeywordRouter())


# --- fallback ---------------------------------------------------------------------------------------------------------


async def test_fallback_keeps_the_first_decision_however_unsure() -> None:
    second = ScriptedRouter("vpn")
    decision = await route(FallbackRouter([ScriptedRouter(lambda _: decided("billing", confidence=0.01)), second]))
    assert (decision.agents, second.requests) == (("billing",), [])
    assert (decision.router, decision.evidence["decided_by"], decision.evidence["failures"]) == (
        "fallback", "somebody", [],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (ScriptedRouter(lambda _: RoutingError("the server is down; start it"), name="first"), "the server is down"),
        (ScriptedRouter(lambda _: KeyError("row"), name="first"), "KeyError: 'row'"),
        (ScriptedRouter(lambda _: decided("gone"), name="first"), "it chose 'gone', who is no candidate"),
        (Hangs(), "it did not decide in time"),
    ],
    ids=["fails", "raises", "chooses a stranger", "hangs"],
)
async def test_fallback_asks_the_next_one_and_says_why(first: Router, said: str) -> None:
    sink = ListSink()
    router = FallbackRouter([first, ScriptedRouter("vpn", name="second")], timeout_s=0.01)
    decision = await route(router, ctx=loose_context(sink=sink))
    assert decision.agents == ("vpn",)
    assert f"{first.name} failed: {said}" in decision.reason
    assert [(f["router"], said in f["error"]) for f in decision.evidence["failures"]] == [(first.name, True)]
    assert [said in e.error for e in sink.events if isinstance(e, StepFailed)] == [True]


async def test_fallback_without_anybody_who_can_decide_says_all_reasons() -> None:
    down = [
        ScriptedRouter(lambda _: RoutingError("no disk"), name="a"),
        ScriptedRouter(lambda _: OSError("x"), name="b"),
    ]
    with pytest.raises(RoutingError, match=r"a failed: no disk; b failed: OSError: x"):
        await route(FallbackRouter(down))


async def test_the_last_router_of_a_fallback_has_the_time_of_the_step() -> None:
    ctx = loose_context()
    late = replace(ctx, deadline=ctx.clock.monotonic() + 0.02)
    with pytest.raises(RoutingError, match=r"hangs failed: it did not decide in time"):
        await route(FallbackRouter([Hangs()], timeout_s=60), ctx=late)


# --- at most ----------------------------------------------------------------------------------------------------------


async def test_at_most_tells_the_bound_and_cuts_what_is_beyond_it() -> None:
    inner = ScriptedRouter(lambda _: decided("vpn", "billing", "orders"))
    decision = await route(AtMostRouter(inner, agents=2))
    assert inner.requests[0].max_agents == 2
    assert [(c.agent, c.weight) for c in decision.chosen] == [("vpn", 0.5), ("billing", 0.5)]
    assert (decision.mode, decision.evidence["cut"]) == (Mode.PARALLEL, ["orders"])
    assert decision.reason == "it says so (without orders: at most 2)"


async def test_at_most_never_allows_more_than_the_task_does() -> None:
    decision = await route(AtMostRouter(FixedRouter(), agents=3), asking(max_agents=1))
    assert (decision.mode, decision.agents) == (Mode.SOLO, ("billing",))


# --- cached -----------------------------------------------------------------------------------------------------------


async def test_a_decision_is_given_again_without_usage() -> None:
    inner = ScriptedRouter(lambda _: decided("vpn"))
    router = CachedRouter(inner)
    first, again = await route(router), await route(router)
    assert (len(inner.requests), router.hits, router.misses) == (1, 1, 1)
    assert (first.usage.calls, again.usage.calls) == (1, 0)
    assert again.evidence == first.evidence
    assert (again.agents, again.router, again.evidence["decided_by"]) == (("vpn",), "cached", "somebody")


@pytest.mark.parametrize(
    "other",
    [
        asking("my Tunnel"),
        asking(tenant="acme"),
        asking(user="ann"),
        asking(history=(Message(role="user", text="hello"),)),
        asking(max_agents=1),
        asking(round=2),
        asking(known=("Ann has the VPN.",)),
        asking(cards=CARDS[:2]),
        asking(cards=(*CARDS[:2], CARDS[2].model_copy(update={"shadow": True}))),
    ],
    ids=["text", "tenant", "user", "history", "bound", "round", "known", "a card less", "a changed card"],
)
async def test_another_request_is_another_decision(other: RouteRequest) -> None:
    inner = ScriptedRouter(lambda _: decided("vpn"))
    router = CachedRouter(inner)
    await route(router)
    await route(router, other)
    assert (router.hits, len(inner.requests)) == (0, 2)


async def test_cards_that_say_the_same_are_the_same_and_a_thread_does_not_count() -> None:
    router = CachedRouter(ScriptedRouter("vpn"))
    await route(router)
    await route(router, asking(cards=tuple(c.model_copy() for c in CARDS), thread="t1"))
    assert router.hits == 1


async def test_a_decision_stands_for_its_time_only() -> None:
    clock = HandClock()
    router = CachedRouter(ScriptedRouter("vpn"), ttl_s=10, clock=clock)
    await route(router)
    clock.at += 9.9
    await route(router)
    assert router.hits == 1
    clock.at += 0.1
    await route(router)
    assert (router.hits, router.misses) == (1, 2)


async def test_the_decision_that_was_not_used_for_longest_goes_first() -> None:
    inner = ScriptedRouter("vpn")
    router = CachedRouter(inner, max_entries=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        await route(router, asking(text))
    assert [r.task.text for r in inner.requests] == ["a", "b", "c", "b"]


async def test_what_somebody_does_to_a_decision_does_not_stay_in_the_cache() -> None:
    router = CachedRouter(ScriptedRouter(lambda _: decided("vpn").model_copy(update={"evidence": {"list": [1]}})))
    for _ in range(3):
        decision = await route(router)
        assert decision.evidence["list"] == [1]
        decision.evidence["list"].append(2)


async def test_a_failure_is_not_cached() -> None:
    said: list[Any] = [RoutingError("down"), decided("vpn")]
    router = CachedRouter(ScriptedRouter(lambda _: said.pop(0)))
    with pytest.raises(RoutingError):
        await route(router)
    assert (await route(router)).agents == ("vpn",)


async def test_a_router_that_learns_is_asked_anew() -> None:
    router = CachedRouter(AtMostRouter(Listens()))
    outcome = Outcome(run_id="r", task=Task(text="x"), decision=decided("vpn"), quality=0.5)
    await route(router)
    await router.learn(outcome)
    await route(router)
    assert (router.hits, router.misses) == (0, 2)
    fixed = CachedRouter(AtMostRouter(FixedRouter()))
    await route(fixed)
    await fixed.learn(outcome)
    await route(fixed)
    assert (fixed.hits, fixed.misses) == (1, 1)


# --- circuit breaker --------------------------------------------------------------------------------------------------


def breaker(**options: Any) -> tuple[CircuitBreakerRouter, HandClock]:
    clock = HandClock()
    options = {"failures": 2, "cool_down_s": 60, **options}
    return CircuitBreakerRouter(FixedRouter(), clock=clock, **options), clock


async def test_an_agent_that_keeps_failing_leaves_the_candidates_with_that_reason() -> None:
    router, clock = breaker()
    router.record("billing", ok=False)
    assert (await route(router)).agents == ("billing", "vpn", "orders")
    router.record("billing", ok=False)
    clock.at += 15
    decision = await route(router)
    assert decision.agents == ("vpn", "orders")
    (left,) = [c for c in decision.candidates if c.agent == "billing"]
    assert (left.chosen, left.reason) == (False, "left out: failed 2 times in a row, tried again in 45 s")
    assert "billing left out: failed 2 times in a row" in decision.reason
    assert (decision.evidence["left_out"], router.left_out()) == (["billing"], {"billing": 45.0})


async def test_only_failures_in_a_row_count() -> None:
    router, _ = breaker()
    for ok in (False, True, False):
        router.record("billing", ok)
    assert "billing" in (await route(router)).agents


async def test_after_the_cool_down_one_request_tries_the_agent_again() -> None:
    router, clock = breaker()
    for _ in range(2):
        router.record("billing", ok=False)
    clock.at += 60
    probe = await route(router)
    assert (probe.agents[0], probe.evidence["probes"]) == ("billing", ["billing"])
    assert "billing" not in (await route(router)).agents  # until it is known how the first one went
    router.record("billing", ok=True)
    assert "billing" in (await route(router)).agents
    assert router.left_out() == {}


async def test_a_failed_trial_leaves_the_agent_out_for_another_cool_down() -> None:
    router, clock = breaker()
    for _ in range(2):
        router.record("billing", ok=False)
    clock.at += 60
    await route(router)
    router.record("billing", ok=False)
    assert router.left_out() == {"billing": 60.0}


async def test_a_trial_that_nobody_tells_about_is_tried_again_later() -> None:
    router, clock = breaker()
    for _ in range(2):
        router.record("billing", ok=False)
    clock.at += 60
    await route(router)
    clock.at += 60
    assert "billing" in (await route(router)).agents


async def test_an_agent_that_was_a_candidate_but_not_chosen_is_no_trial() -> None:
    clock = HandClock()
    inner = ScriptedRouter(lambda r: ["vpn"] if "tunnel" in r.task.text else [r.cards[0].id])
    router = CircuitBreakerRouter(inner, failures=1, cool_down_s=60, clock=clock)
    router.record("billing", ok=False)
    clock.at += 60
    assert (await route(router)).evidence["probes"] == []
    assert (await route(router, asking("my bill"))).agents == ("billing",)


async def test_a_router_that_fails_gives_a_trial_back() -> None:
    said: list[Any] = [RoutingError("down"), decided("billing")]
    clock = HandClock()
    router = CircuitBreakerRouter(ScriptedRouter(lambda _: said.pop(0)), failures=1, cool_down_s=60, clock=clock)
    router.record("billing", ok=False)
    clock.at += 60
    with pytest.raises(RoutingError):
        await route(router)
    assert (await route(router)).agents == ("billing",)


async def test_with_every_agent_left_out_it_is_an_error_not_out_of_scope() -> None:
    router, _ = breaker(failures=1)
    for card in CARDS:
        router.record(card.id, ok=False)
    with pytest.raises(RoutingError, match=r"every agent is left out after failures; .* in 60 s, ask then"):
        await route(router)


# --- shadow -----------------------------------------------------------------------------------------------------------


async def test_a_shadow_neither_delays_nor_changes_the_decision() -> None:
    router = ShadowRouter(ScriptedRouter("vpn"), Hangs(), deadline_s=60)
    decision = await route(router)
    assert (decision.agents, decision.evidence["shadow"], router.compared) == (("vpn",), "hangs", 0)
    await router.aclose()
    assert router.compared == 0


@pytest.mark.parametrize(
    ("other", "same", "error"),
    [
        (ScriptedRouter("vpn"), True, ""),
        (ScriptedRouter("billing"), False, ""),
        (ScriptedRouter(()), False, ""),
        (ScriptedRouter(lambda _: RoutingError("no disk")), False, "no disk"),
        (ScriptedRouter(lambda _: KeyError("row")), False, "KeyError: 'row'"),
        (Hangs(), False, "it did not decide within 0.01 s"),
    ],
    ids=["agrees", "other agent", "nobody", "fails", "raises", "hangs"],
)
async def test_a_shadow_is_compared_when_it_is_done(other: Router, same: bool, error: str) -> None:
    seen: list[Comparison] = []
    router = ShadowRouter(
        ScriptedRouter("vpn"), other, deadline_s=0.01, on_compared=lambda comparison, ctx: seen.append(comparison)
    )
    await route(router)
    await asyncio.wait_for(router.settle(), 5)
    (comparison,) = router.comparisons
    assert seen == [comparison]
    assert (comparison.same, comparison.error, comparison.decision.agents) == (same, error, ("vpn",))
    assert (router.compared, router.agreed) == (1, int(same))


async def test_a_shadow_leaves_no_mark_on_the_run() -> None:
    contexts: list[RunContext] = []

    class Spends:
        name = "spends"

        async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
            contexts.append(ctx)
            ctx.emit(StepFailed(error="nobody should see this", kind="RoutingError"))
            assert ctx.meter is not None
            ctx.meter.add(Usage(calls=5))
            ctx.next_call_id()
            await ctx.journal.begin("call", "model")
            return decided("billing")

    sink = ListSink()
    ctx = loose_context(sink=sink, limits=Limits(max_calls=3))
    router = ShadowRouter(ScriptedRouter("vpn"), Spends())
    await route(router, ctx=ctx)
    await asyncio.wait_for(router.settle(), 5)
    assert (len(contexts), [event.type for event in sink.events]) == (1, ["routes_compared"])
    assert isinstance(ctx.meter, Meter)
    assert (ctx.meter.spent.calls, ctx.meter.stop) == (0, None)
    assert ctx.next_call_id().endswith("/1")
    assert await ctx.journal.lookup("call") is None


async def test_too_many_shadows_at_once_are_skipped_and_counted() -> None:
    router = ShadowRouter(ScriptedRouter("vpn"), Hangs(), deadline_s=60)
    for _ in range(20):
        await route(router)
    assert router.skipped == 4
    await router.aclose()


async def test_a_router_that_fails_has_no_shadow() -> None:
    other = ScriptedRouter("vpn")
    router = ShadowRouter(ScriptedRouter(lambda _: RoutingError("down")), other)
    with pytest.raises(RoutingError):
        await route(router)
    await router.settle()
    assert other.requests == []


async def test_a_listener_that_raises_harms_nobody() -> None:
    def broken(comparison: Comparison, ctx: RunContext) -> None:
        raise ValueError("no room")

    router = ShadowRouter(ScriptedRouter("vpn"), ScriptedRouter("vpn"), on_compared=broken)
    assert (await route(router)).agents == ("vpn",)
    await asyncio.wait_for(router.settle(), 5)
    assert router.comparisons[0].error == "on_compared raised ValueError"


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(MADE))
async def test_what_a_wrapper_is_told_reaches_the_router_in_it(name: str) -> None:
    listens = Listens()
    router: Any = MADE[name](listens)
    router.record("vpn", ok=False)
    await router.learn(Outcome(run_id="r", task=Task(text="x"), decision=decided("vpn"), quality=0.5))
    await router.aclose()
    assert listens.told == [("vpn", False), 0.5, "closed"]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("fallback", {"steps": []}, "no list of routers"),
        ("fallback", {"steps": "semantic"}, "give a list of routers"),
        ("fallback", {"timeout_s": 0}, "timeout_s of the router 'fallback' is 0; give seconds above 0"),
        ("at_most", {"agents": 0}, "give a whole number from 1"),
        ("at_most", {"agents": True}, "give a whole number from 1"),
        ("cached", {"ttl_s": float("inf")}, "give seconds above 0"),
        ("cached", {"max_entries": 1.5}, "give a whole number from 1"),
        ("breaker", {"failures": 0}, "give a whole number from 1"),
        ("breaker", {"cool_down_s": -1}, "give seconds above 0"),
        ("shadow", {"deadline_s": 0}, "give seconds above 0"),
        ("shadow", {"deadlines": 1}, "the router 'shadow' does not take these options"),
    ],
)
def test_a_wrong_option_is_a_sentence(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        routers.create(name, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [("fallback", {"steps": ["semantik"]}), *((n, {"router": "semantik"}) for n in ("at_most", "cached", "breaker")),
     ("shadow", {"shadow": "semantik"})],
)  # fmt: skip
def test_an_unknown_inner_router_is_named_with_the_nearest(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(UnknownNameError, match=r"no router is called 'semantik'; did you mean 'semantic'"):
        routers.create(name, **options)


@pytest.mark.parametrize(
    ("name", "options", "asked"),
    [
        ("fallback", {"steps": ["a", "b"]}, ["a", "b"]),
        ("at_most", {"router": "a"}, ["a"]),
        ("cached", {"router": "a"}, ["a"]),
        ("breaker", {"router": "a"}, ["a"]),
        ("shadow", {"router": "a", "shadow": "b"}, ["a", "b"]),
    ],
)
def test_inner_routers_come_by_name_from_the_mesh(name: str, options: dict[str, Any], asked: list[str]) -> None:
    names: list[str] = []

    def router_of(inner: str) -> Router:
        names.append(inner)
        return KeywordRouter()

    routers.create(name, offered={"router_of": router_of, "embedder": EMBEDDER}, **options)
    assert names == asked
