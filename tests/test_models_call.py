"""Calls of models in a run: journalled, counted, bounded in time, traced, retried."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from agentmesh.errors import (
    LimitError,
    ModelAuthError,
    ModelError,
    ModelRateLimitError,
    ModelReplyError,
    ModelTimeoutError,
)
from agentmesh.models.base import ChatChunk, ChatMessage, ChatReply, ChatRequest, ModelInfo
from agentmesh.models.call import call_model
from agentmesh.models.scripted import ScriptedModel
from agentmesh.run import Limits, RunContext, loose_context
from agentmesh.trace.events import Event, ModelCalled, StepFailed, TokensStreamed
from agentmesh.types import Usage

ASK = ChatRequest(messages=(ChatMessage(role="user", text="what is the port"),))
TINY_S = 0.001


class Sink:
    """Keeps the events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


class FrozenClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class OddModel:
    """Fails or hangs in ways that no script can."""

    info = ModelInfo(name="odd", capable=True)

    def __init__(self, *, chunks: tuple[ChatChunk, ...] = (), hang: bool = False) -> None:
        self.chunks, self.hang, self.closed = chunks, hang, False

    async def complete(self, request: ChatRequest) -> ChatReply:
        if self.hang:
            await asyncio.Event().wait()
        return ChatReply(text="late")

    async def stream(self, request: ChatRequest) -> AsyncIterator[ChatChunk]:
        try:
            for chunk in self.chunks:
                yield chunk
            if self.hang:
                await asyncio.Event().wait()
        finally:
            self.closed = True

    async def aclose(self) -> None:
        pass


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def ctx(sink: Sink) -> RunContext:
    return loose_context("r1", sink=sink).at(step="route.r1", agent="network")


def called(sink: Sink) -> list[ModelCalled]:
    return [e for e in sink.events if isinstance(e, ModelCalled)]


def failed(sink: Sink) -> list[StepFailed]:
    return [e for e in sink.events if isinstance(e, StepFailed)]


async def test_a_call_gives_the_reply_counts_it_and_says_so(ctx: RunContext, sink: Sink) -> None:
    reply = await call_model(ScriptedModel(["443 it is"]), ASK, ctx)
    assert reply.text == "443 it is"
    assert ctx.meter is not None
    assert ctx.meter.spent == Usage(calls=1, prompt_tokens=4, completion_tokens=3)
    [event] = called(sink)
    assert (event.call_id, event.agent, event.model, event.replayed) == (
        "r1/route.r1/network/1/1",
        "network",
        "scripted",
        False,
    )
    assert event.messages == ()
    assert event.reply == ""


async def test_prompt_and_reply_stand_in_the_event_only_where_the_run_keeps_them(ctx: RunContext, sink: Sink) -> None:
    await call_model(ScriptedModel(["yes"]), ASK, replace(ctx, keep_prompts=True))
    assert called(sink)[0].messages == ({"role": "user", "text": "what is the port"},)
    assert called(sink)[0].reply == "yes"


async def test_a_finished_call_is_neither_repeated_nor_counted_again(ctx: RunContext, sink: Sink) -> None:
    model = ScriptedModel(["first", "second"])
    first = await call_model(model, ASK, ctx)
    again = await call_model(model, ASK, ctx.at())
    assert again == first
    assert len(model.requests) == 1
    assert [e.replayed for e in called(sink)] == [False, True]
    assert ctx.meter is not None
    assert ctx.meter.spent.calls == 1


async def test_the_next_call_of_a_step_is_another_call(ctx: RunContext) -> None:
    model = ScriptedModel(["first", "second"])
    assert [(await call_model(model, ASK, ctx)).text for _ in range(2)] == ["first", "second"]


async def test_a_call_that_began_and_never_finished_is_made_again(ctx: RunContext) -> None:
    await ctx.journal.begin("r1/route.r1/network/1/1", "model")
    assert (await call_model(ScriptedModel(["anew"]), ASK, ctx)).text == "anew"


async def test_a_failure_that_may_pass_is_tried_again_after_waits_that_double(ctx: RunContext, sink: Sink) -> None:
    busy = ModelRateLimitError("busy")
    model = ScriptedModel([busy, busy, busy, "done"])
    assert (await call_model(model, ASK, ctx, retries=3, first_wait_s=TINY_S)).text == "done"
    waits = [e.retry_in_s or 0 for e in failed(sink)]
    assert len(waits) == 3
    assert all(TINY_S * 2**n <= wait <= 1.5 * TINY_S * 2**n for n, wait in enumerate(waits))
    assert failed(sink)[0].kind == "ModelRateLimitError"


async def test_the_last_failure_is_raised_when_retries_are_used_up(ctx: RunContext, sink: Sink) -> None:
    model = ScriptedModel([ModelRateLimitError("one"), ModelRateLimitError("two"), "never"])
    with pytest.raises(ModelRateLimitError, match="two"):
        await call_model(model, ASK, ctx, retries=1, first_wait_s=TINY_S)
    assert [e.retry_in_s is None for e in failed(sink)] == [False, True]


async def test_a_failure_that_stays_is_not_tried_again(ctx: RunContext) -> None:
    model = ScriptedModel([ModelAuthError("no key"), "never"])
    with pytest.raises(ModelAuthError):
        await call_model(model, ASK, ctx, retries=3, first_wait_s=TINY_S)
    assert len(model.requests) == 1


async def test_nothing_is_tried_again_where_the_wait_would_pass_the_deadline(ctx: RunContext) -> None:
    clock = FrozenClock()
    model = ScriptedModel([ModelRateLimitError("busy"), "never"])
    late = replace(ctx, clock=clock, meter=None, deadline=clock.at + 3)
    with pytest.raises(ModelRateLimitError):
        await call_model(model, ASK, late, retries=1, first_wait_s=4)
    assert len(model.requests) == 1


async def test_a_spent_budget_stops_before_the_model_is_asked(sink: Sink) -> None:
    ctx = loose_context("r1", sink=sink, limits=Limits(max_calls=1))
    model = ScriptedModel(["one", "two"])
    await call_model(model, ASK, ctx)
    with pytest.raises(LimitError) as caught:
        await call_model(model, ASK, ctx)
    assert caught.value.limit == "max_calls"
    assert len(model.requests) == 1


async def test_the_time_that_is_left_bounds_the_request(ctx: RunContext) -> None:
    clock, model = FrozenClock(), ScriptedModel(["ok"])
    await call_model(model, ASK, replace(ctx, clock=clock, meter=None, deadline=clock.at + 7))
    assert model.requests[0].timeout_s == pytest.approx(7)


async def test_no_time_left_is_a_timeout_without_asking(ctx: RunContext) -> None:
    clock, model = FrozenClock(), ScriptedModel(["never"])
    with pytest.raises(ModelTimeoutError, match="no time is left"):
        await call_model(model, ASK, replace(ctx, clock=clock, meter=None, deadline=clock.at))
    assert model.requests == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_hangs_is_left_at_the_deadline(ctx: RunContext, stream: bool) -> None:
    model = OddModel(hang=True)
    with pytest.raises(ModelTimeoutError, match=r"'odd' did not answer within 0.0 s"):
        await call_model(model, ASK.model_copy(update={"timeout_s": 0.02}), replace(ctx, stream=stream))
    assert ctx.meter is not None
    assert ctx.meter.pending_calls == 0


async def test_a_streamed_call_emits_every_piece_and_journals_the_whole(ctx: RunContext, sink: Sink) -> None:
    model = ScriptedModel(["one two three"])
    reply = await call_model(model, ASK, replace(ctx, stream=True))
    pieces = [e.text for e in sink.events if isinstance(e, TokensStreamed)]
    assert len(pieces) == 3
    assert "".join(pieces) == reply.text == "one two three"
    entry = await ctx.journal.lookup("r1/route.r1/network/1/1")
    assert entry is not None
    assert entry.result is not None
    assert entry.result["text"] == "one two three"


async def test_a_stream_is_closed_as_soon_as_its_reply_is_there(ctx: RunContext) -> None:
    model = OddModel(chunks=(ChatChunk(reply=ChatReply(text="all")), ChatChunk(text="more")))
    assert (await call_model(model, ASK, replace(ctx, stream=True))).text == "all"
    assert model.closed


async def test_a_stream_without_a_reply_is_an_error_that_may_pass(ctx: RunContext) -> None:
    with pytest.raises(ModelReplyError, match="ended without a reply") as caught:
        await call_model(OddModel(chunks=(ChatChunk(text="he"),)), ASK, replace(ctx, stream=True))
    assert isinstance(caught.value, ModelError)
    assert caught.value.retryable
