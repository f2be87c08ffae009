"""Deciders: probabilities for choices, over HTTP or from an object, in place of the model of the reasoning router."""

import asyncio
import json
import socket
from collections.abc import Mapping
from typing import Any

import pytest

from agentmesh.errors import (
    ConfigError,
    LimitError,
    ModelAuthError,
    ModelError,
    ModelRateLimitError,
    ModelReplyError,
    ModelRequestError,
    ModelTimeoutError,
    ModelUnavailableError,
)
from agentmesh.models.scripted import ScriptedModel
from agentmesh.routing import routers
from agentmesh.routing.decider import NONE_CHOICE, Decider, HttpDecider, call_decider
from agentmesh.routing.reasoning import ReasoningRouter
from agentmesh.routing.semantic import SemanticRouter
from agentmesh.run import Emitter, Limits, MemoryJournal, Meter, RunContext, SystemClock, loose_context
from agentmesh.trace.events import ModelCalled, StepFailed
from agentmesh.trace.sinks import ListSink
from agentmesh.types import AgentCard, Mode, RouteRequest, RoutingDecision, Task
from tests.fake_provider import FakeProvider, Turn

CHOICES = {"billing": "Explains invoices.", "vpn": "Helps with the VPN.", NONE_CHOICE: "None of the others fits."}
CARDS = tuple(AgentCard(id=id_, description=text) for id_, text in CHOICES.items() if id_ != NONE_CHOICE)
SCORES = {"billing": 0.7, "vpn": 0.2, NONE_CHOICE: 0.1}
SECRET = "sk-very-secret-9431"


class Scripted:
    """Gives what it is told to, in order; the last one repeats."""

    name = "scripted decider"

    def __init__(self, *replies: Any) -> None:
        self.replies, self.asked = replies, list[tuple[str, dict[str, str]]]()

    async def decide(self, question: str, choices: Mapping[str, str], ctx: RunContext) -> Mapping[str, float]:
        self.asked.append((question, dict(choices)))
        reply = self.replies[min(len(self.asked), len(self.replies)) - 1]
        if isinstance(reply, Exception):
            raise reply
        return reply


class Hanging(Scripted):
    async def decide(self, question: str, choices: Mapping[str, str], ctx: RunContext) -> Mapping[str, float]:
        await asyncio.Event().wait()
        raise AssertionError("nothing sets the event")


def turn(scores: object, **more: Any) -> Turn:
    return Turn(body=json.dumps({"scores": scores}).encode(), **more)


async def post(decider: HttpDecider) -> dict[str, float]:
    try:
        return dict(await decider.decide("my invoice", CHOICES, loose_context()))
    finally:
        await decider.aclose()


# --- over HTTP --------------------------------------------------------------------------------------------------------


async def test_text_and_choices_go_out_and_a_number_per_choice_comes_back() -> None:
    with FakeProvider(turn({**SCORES, "further": 3})) as server:
        assert await post(HttpDecider(server.url)) == SCORES
    (request,) = server.requests
    assert request["text"] == "my invoice"
    assert request["choices"][0] == {"id": "billing", "description": "Explains invoices."}
    assert [c["id"] for c in request["choices"]] == list(CHOICES)
    assert server.keys == [""]


async def test_the_key_comes_from_the_environment_and_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECIDER_KEY", SECRET)
    with FakeProvider(turn(SCORES), Turn(status=401, body=f"bad key {SECRET}".encode())) as server:
        decider = HttpDecider(server.url, api_key_env="DECIDER_KEY")
        await decider.decide("x", CHOICES, loose_context())
        with pytest.raises(ModelAuthError, match=r"refuses the key \(HTTP 401\); check DECIDER_KEY") as refused:
            await post(decider)
    assert server.keys == [f"Bearer {SECRET}"] * 2
    assert SECRET not in repr(decider) + decider.name + str(refused.value)


async def test_a_key_that_is_not_set_is_said_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DECIDER_KEY", raising=False)
    with FakeProvider() as server:
        with pytest.raises(ModelAuthError, match="set the environment variable DECIDER_KEY"):
            await post(HttpDecider(server.url, api_key_env="DECIDER_KEY"))
        monkeypatch.setenv("DECIDER_KEY", f"{SECRET}\nx: y")
        with pytest.raises(ModelAuthError, match="cannot be sent") as refused:
            await post(HttpDecider(server.url, api_key_env="DECIDER_KEY"))
    assert SECRET not in str(refused.value)
    assert server.requests == []


async def test_logits_become_probabilities() -> None:
    with FakeProvider(turn({"billing": 2.0, "vpn": 2.0, NONE_CHOICE: -1e9})) as server:
        found = await post(HttpDecider(server.url, scores="logits"))
    assert found == pytest.approx({"billing": 0.5, "vpn": 0.5, NONE_CHOICE: 0.0})


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (403, ModelAuthError),
        (404, ModelRequestError),
        (302, ModelRequestError),
        (204, ModelRequestError),
        (429, ModelRateLimitError),
        (500, ModelUnavailableError),
    ],
)
async def test_a_refusal_is_an_error_of_its_kind(status: int, kind: type[ModelError]) -> None:
    headers = {"Location": "http://127.0.0.1:1/elsewhere"} if status == 302 else {}
    refusal = Turn(status=status, body=b"", headers=headers)
    with FakeProvider(refusal) as server, pytest.raises(kind, match=f"HTTP {status}"):
        await post(HttpDecider(server.url))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        (b"[1, 2]", "without"),
        (b'{"scores": [0.1, 0.2]}', "without"),
        (b'{"scores": {"billing": 0.5, "vpn": 0.2}}', "no score for '_none'"),
        (b'{"scores": {"billing": "0.5", "vpn": 0.2, "_none": 0}}', "no finite number for 'billing'"),
        (b'{"scores": {"billing": true, "vpn": 0.2, "_none": 0}}', "no finite number for 'billing'"),
        (b'{"scores": {"billing": NaN, "vpn": 0.2, "_none": 0}}', "no finite number for 'billing'"),
        (b'{"scores": {"billing": 1' + b"0" * 400 + b', "vpn": 0.2, "_none": 0}}', "no finite number for 'billing'"),
        (b'{"scores": {}, "more": "' + b"x" * 1_100_000 + b'"}', "more than 1 MB"),
    ],
    ids=range(11),
)
async def test_a_reply_that_cannot_be_used_says_why(body: bytes, words: str) -> None:
    with FakeProvider(Turn(body=body)) as server, pytest.raises(ModelReplyError, match=words):
        await post(HttpDecider(server.url))


async def test_an_endpoint_that_hangs_or_is_not_there_is_said() -> None:
    with FakeProvider(Turn(hang=True)) as server, pytest.raises(ModelTimeoutError, match=r"within 0\.1 s"):
        await post(HttpDecider(server.url, timeout_s=0.1))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        with pytest.raises(ModelUnavailableError, match="cannot be reached"):
            await post(HttpDecider(f"http://127.0.0.1:{taken.getsockname()[1]}/"))


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("ftp://host/x", {}, "begin with https"),
        ("no url", {}, "begin with https"),
        ("http://[broken", {}, "is no URL"),
        (f"https://user:{SECRET}@host/", {}, "may not hold a password"),
        ("http://decide.example/", {"api_key_env": "K"}, "in clear text"),
        ("https://decide.example/", {"timeout_s": 0}, "seconds above 0"),
        ("https://decide.example/", {"scores": "words"}, "'probabilities' or 'logits'"),
    ],
)
def test_a_wrong_setting_is_said_without_the_url(url: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        HttpDecider(url, **options)
    assert SECRET not in str(refused.value)


# --- as a call of a run -----------------------------------------------------------------------------------------------


def context(sink: ListSink, journal: MemoryJournal, limits: Limits | None = None) -> RunContext:
    clock, limits = SystemClock(), limits or Limits()
    meter = Meter(limits, started=clock.monotonic(), clock=clock)
    return RunContext(run_id="r", step="s", journal=journal, emitter=Emitter("r", (sink,), clock), meter=meter)


async def test_a_call_is_counted_traced_and_not_repeated_by_a_resumed_run() -> None:
    journal, decider = MemoryJournal(), Scripted(SCORES)
    first, again = ListSink(), ListSink()
    ctx = context(first, journal)
    assert await call_decider(decider, "q", CHOICES, ctx) == SCORES
    assert ctx.meter is not None
    assert ctx.meter.spent.calls == 1
    assert await call_decider(decider, "q", CHOICES, context(again, journal)) == SCORES
    assert len(decider.asked) == 1
    (called,) = [e for e in again.events if isinstance(e, ModelCalled)]
    assert (called.call_id, called.model, called.replayed) == ("r/s/-/1/1", "scripted decider", True)


async def test_a_failure_that_may_pass_is_tried_again() -> None:
    sink, decider = ListSink(), Scripted(ModelUnavailableError("down; start it"), SCORES)
    found = await call_decider(decider, "q", CHOICES, context(sink, MemoryJournal()), first_wait_s=0.0)
    assert found == SCORES
    (failed,) = [e for e in sink.events if isinstance(e, StepFailed)]
    assert (failed.kind, failed.retry_in_s) == ("ModelUnavailableError", 0.0)


async def test_a_failure_that_stays_is_said_in_the_trace() -> None:
    sink = ListSink()
    with pytest.raises(ModelRequestError, match="wrong form"):
        await call_decider(
            Scripted(ModelRequestError("wrong form; mend it")), "q", CHOICES, context(sink, MemoryJournal())
        )
    assert [e.retry_in_s for e in sink.events if isinstance(e, StepFailed)] == [None]


@pytest.mark.parametrize("scores", [{"billing": 2.0, "vpn": 0, NONE_CHOICE: 0}, {"billing": -0.1}, {}, None, [1, 2]])
async def test_what_is_no_probability_of_every_choice_is_refused(scores: object) -> None:
    with pytest.raises(ModelReplyError):
        await call_decider(Scripted(scores), "q", CHOICES, loose_context(), retries=0)


async def test_a_decider_that_hangs_is_left_in_time() -> None:
    with pytest.raises(ModelTimeoutError, match="did not answer"):
        await call_decider(Hanging(), "q", CHOICES, loose_context(), retries=0, timeout_s=0.01)


async def test_a_spent_budget_asks_nobody() -> None:
    decider = Scripted(SCORES)
    with pytest.raises(LimitError):
        await call_decider(decider, "q", CHOICES, context(ListSink(), MemoryJournal(), Limits(max_calls=0)))
    assert decider.asked == []


# --- in the router ----------------------------------------------------------------------------------------------------


async def route(decider: Decider, text: str = "my invoice", **options: Any) -> RoutingDecision:
    model = ScriptedModel([])
    router = ReasoningRouter(shortlist=SemanticRouter(), model=model, decider=decider, retries=0, **options)
    decision = await router.route(RouteRequest(task=Task(text=text), cards=CARDS), loose_context())
    assert model.requests == []
    return decision


async def test_it_stands_in_for_the_model() -> None:
    decider = Scripted(SCORES)
    decision = await route(decider)
    assert decision.agents == ("billing",)
    assert decision.confidence == pytest.approx(0.7)  # the numbers add up to 1: one choice is right
    assert {c.agent: c.probability for c in decision.candidates} == {"billing": 0.7, "vpn": 0.2}
    assert decision.evidence["decided_by"] == "scripted decider"
    ((question, choices),) = decider.asked
    assert question == "user: my invoice"
    assert choices[NONE_CHOICE] == "None of the others fits."
    assert set(choices) == {"billing", "vpn", NONE_CHOICE}


async def test_numbers_that_do_not_add_up_to_one_are_of_agents_that_may_work_together() -> None:
    decision = await route(Scripted({"billing": 0.9, "vpn": 0.8, NONE_CHOICE: 0.05}))
    assert decision.agents == ("billing", "vpn")
    assert decision.confidence == pytest.approx(0.72)


@pytest.mark.parametrize(
    ("billing", "vpn", "none", "mode"),
    [
        (0.2, 0.1, 0.7, Mode.OUT_OF_SCOPE),
        (0.45, 0.45, 0.1, Mode.CLARIFY),
        (0.3, 0.1, 0.29, Mode.CLARIFY),
        (0.6, 0.3, 0.1, Mode.SOLO),
    ],
)
async def test_the_numbers_decide_how_to_go_on(billing: float, vpn: float, none: float, mode: Mode) -> None:
    decision = await route(Scripted({"billing": billing, "vpn": vpn, NONE_CHOICE: none}))
    assert decision.mode is mode


async def test_a_decider_that_fails_leaves_it_to_the_fallback() -> None:
    decision = await route(Scripted(ModelAuthError("the key is refused; check K")))
    assert "decided by 'semantic': the scripted decider could not decide: the key is refused" in decision.reason


async def test_settings_name_a_decider_by_its_url() -> None:
    with FakeProvider(turn(SCORES)) as server:
        for decider in (server.url, {"url": server.url, "timeout_s": 5}):
            router = routers.create("reasoning", decider=decider)
            decision = await router.route(RouteRequest(task=Task(text="my invoice"), cards=CARDS), loose_context())
            assert decision.agents == ("billing",)
            assert isinstance(router, ReasoningRouter)
            await router.aclose()
            await router.aclose()
    assert len(server.requests) == 2


async def test_settings_name_a_decider_by_its_module() -> None:
    router = routers.create("reasoning", decider="tests.test_routing_decider:Ready")
    decision = await router.route(RouteRequest(task=Task(text="my invoice"), cards=CARDS), loose_context())
    assert decision.agents == ("billing",)


class Ready(Scripted):
    """A decider that is made without arguments."""

    def __init__(self) -> None:
        super().__init__(SCORES)
