"""The cascade: the cheap router first, the next one where it is not sure, every step in the evidence."""

import asyncio
import json
from typing import Any

import pytest

from agentmesh.errors import ConfigError, RoutingError, UnknownNameError
from agentmesh.models.scripted import ScriptedModel
from agentmesh.routing import routers
from agentmesh.routing.baselines import FixedRouter
from agentmesh.routing.cascade import CascadeRouter
from agentmesh.run import RunContext, loose_context
from agentmesh.trace.events import StepFailed
from agentmesh.trace.sinks import ListSink
from agentmesh.types import AgentCard, Candidate, Chosen, Mode, RouteRequest, RoutingDecision, Task, Usage

CARDS = tuple(AgentCard(id=name, description=f"Is for {name}.") for name in ("billing", "vpn", "orders"))
REQUEST = RouteRequest(task=Task(text="my invoice and my tunnel"), cards=CARDS)


class Says:
    """Chooses that agent with that confidence, or raises."""

    def __init__(
        self,
        name: str,
        agent: str | None,
        confidence: float,
        *,
        mode: Mode | None = None,
        error: Exception | None = None,
    ) -> None:
        self.name, self.error, self.asked = name, error, 0
        self.decision = RoutingDecision(
            mode=mode or (Mode.SOLO if agent else Mode.OUT_OF_SCOPE),
            chosen=(Chosen(agent=agent, score=confidence),) if agent else (),
            reason=f"{name} thinks so",
            candidates=tuple(Candidate(agent=c.id, score=0, chosen=c.id == agent, reason="x") for c in CARDS),
            evidence={"own": name},
            confidence=confidence,
            question="Which?" if mode is Mode.CLARIFY else None,
            router=name,
            usage=Usage(calls=1, prompt_tokens=10),
        )

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.decision


class Hangs(Says):
    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        await asyncio.Event().wait()
        raise AssertionError("nothing sets the event")


def failing(name: str = "broken", error: Exception | None = None) -> Says:
    return Says(name, None, 0, error=error or RoutingError("the server is down; start it"))


async def test_a_sure_first_router_is_the_only_one_that_is_asked() -> None:
    cheap, dear = Says("cheap", "billing", 0.6), Says("dear", "vpn", 1.0)
    decision = await CascadeRouter([cheap, dear], min_confidence=0.6).route(REQUEST, loose_context())
    assert (decision.agents, dear.asked, decision.usage.calls) == (("billing",), 0, 1)
    assert (decision.router, decision.reason) == ("cascade", "cheap: cheap thinks so")
    assert (decision.evidence["decided_by"], decision.evidence["own"]) == ("cheap", "cheap")
    assert len(decision.evidence["steps"]) == 1


async def test_an_unsure_router_is_followed_by_the_next_whose_decision_stands() -> None:
    steps = [Says("cheap", "billing", 0.5), Says("dear", "vpn", 0.2)]
    decision = await CascadeRouter(steps).route(REQUEST, loose_context())
    assert (decision.agents, decision.confidence) == (("vpn",), 0.2)  # the last one's, sure or not
    assert decision.reason == "dear: dear thinks so (cheap chose billing with only 0.50)"
    assert decision.usage == Usage(calls=2, prompt_tokens=20)
    first, second = decision.evidence["steps"]
    assert [c["agent"] for c in first["chosen"]] == ["billing"]
    assert (first["confidence"], first["evidence"]) == (0.5, {"own": "cheap"})
    assert "evidence" not in second  # it is that of the whole decision
    assert RoutingDecision.model_validate_json(decision.model_dump_json()) == decision


@pytest.mark.parametrize(
    ("mode", "confidence", "asked", "words"),
    [
        (Mode.CLARIFY, 0.9, 0, ""),
        (Mode.CLARIFY, 0.4, 1, "cheap would ask back with only 0.40"),
        (Mode.OUT_OF_SCOPE, 0.9, 0, ""),
        (Mode.OUT_OF_SCOPE, 0.4, 1, "cheap found nobody with only 0.40"),
    ],
)
async def test_nobody_and_a_question_stand_where_they_are_sure(
    mode: Mode, confidence: float, asked: int, words: str
) -> None:
    cheap, dear = Says("cheap", None, confidence, mode=mode), Says("dear", "vpn", 0.9)
    decision = await CascadeRouter([cheap, dear]).route(REQUEST, loose_context())
    assert dear.asked == asked
    assert decision.mode is (Mode.SOLO if asked else mode)
    assert words in decision.reason


@pytest.mark.parametrize("error", [RoutingError("the server is down; start it"), KeyError("broken code")])
async def test_a_router_that_fails_is_passed_over(error: Exception) -> None:
    sink = ListSink()
    decision = await CascadeRouter([failing(error=error), Says("dear", "vpn", 0.9)]).route(
        REQUEST, loose_context(sink=sink)
    )
    assert decision.agents == ("vpn",)
    assert "broken failed" in decision.reason
    assert decision.evidence["steps"][0]["router"] == "broken"
    assert [e.kind for e in sink.events if isinstance(e, StepFailed)] == ["RoutingError"]


async def test_the_surest_earlier_decision_stands_where_the_last_router_fails() -> None:
    steps = [Says("one", "billing", 0.5), Says("two", "vpn", 0.3), failing()]
    decision = await CascadeRouter(steps).route(REQUEST, loose_context())
    assert decision.agents == ("billing",)
    assert "broken failed: the server is down" in decision.reason
    assert len(decision.evidence["steps"]) == 3


async def test_a_later_router_that_hangs_is_left_in_time() -> None:
    steps = [Says("cheap", "billing", 0.1), Hangs("slow", "vpn", 1.0)]
    decision = await CascadeRouter(steps, timeout_s=0.01).route(REQUEST, loose_context())
    assert decision.agents == ("billing",)
    assert "slow failed: it did not decide in time" in decision.reason


async def test_if_all_fail_it_is_an_error_that_names_them() -> None:
    with pytest.raises(RoutingError, match=r"one failed: the server is down.*two failed: ValueError: x"):
        await CascadeRouter([failing("one"), failing("two", ValueError("x"))]).route(REQUEST, loose_context())


async def test_by_default_the_model_is_asked_where_semantic_is_not_sure() -> None:
    reply = {
        "reason": "an unpaid bill", "outcome": "agents", "none": 0, "question": "",
        "agents": [{"id": "billing", "part": "", "probability": 0.9}],
    }  # fmt: skip
    model = ScriptedModel([json.dumps(reply)], name="small")
    router = routers.create("cascade", offered={"model": model}, min_confidence=0.999)
    decision = await router.route(REQUEST, loose_context())
    assert decision.agents == ("billing",)
    assert decision.evidence["decided_by"] == "small"
    assert [s["router"] for s in decision.evidence["steps"]] == ["semantic", "reasoning"]


async def test_steps_are_named_or_given() -> None:
    made: list[str] = []

    def router_of(name: str) -> FixedRouter:
        made.append(name)
        return FixedRouter(agents=["vpn"])

    router = routers.create("cascade", offered={"router_of": router_of}, steps=["keyword", Says("dear", "orders", 1)])
    assert (await router.route(REQUEST, loose_context())).agents == ("vpn",)
    assert made == ["keyword"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": []}, "name at least one"),
        ({"steps": "semantic"}, "give a list"),
        ({"min_confidence": 1.5}, "from 0 to 1"),
        ({"timeout_s": 0}, "seconds above 0"),
        ({"least": 1}, "does not take these options"),
    ],
)
def test_a_wrong_option_is_said(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        routers.create("cascade", **options)


def test_a_step_that_is_not_there_is_said() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'semantic'"):
        routers.create("cascade", steps=["semantc"])
