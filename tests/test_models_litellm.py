"""Models and embedders of a provider, against a real HTTP server on the loopback."""

import asyncio
import os
from collections.abc import AsyncIterator

import numpy as np
import pytest

from agentmesh.errors import (
    ConfigError,
    ModelAuthError,
    ModelError,
    ModelQuotaError,
    ModelRateLimitError,
    ModelReplyError,
    ModelRequestError,
    ModelTimeoutError,
    ModelUnavailableError,
)
from agentmesh.models.base import ChatMessage, ChatReply, ChatRequest, ToolCall, ToolSpec
from agentmesh.models.litellm import LiteLLMChatModel
from agentmesh.models.litellm_embedder import LiteLLMEmbedder
from agentmesh.models.wire import ReplyBuilder, one_line
from agentmesh.settings import ModelSettings
from agentmesh.types import Usage
from tests.fake_provider import FakeProvider, Turn

ASK = ChatRequest(messages=(ChatMessage(role="user", text="Which port is it?"),), timeout_s=20)
SCHEMA = {
    "type": "object",
    "properties": {"port": {"type": "integer"}},
    "required": ["port"],
    "additionalProperties": False,
}


@pytest.fixture(autouse=True)
def no_key_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def settings_for(provider: FakeProvider, **more: object) -> ModelSettings:
    plain = ModelSettings(model="openai/test", api_base=provider.url, retries=0, timeout_s=5.0)
    return plain.model_copy(update=more)


async def answer(*turns: Turn, stream: bool = False, request: ChatRequest = ASK, **more: object) -> ChatReply:
    """What a model says whose provider has this script."""
    with FakeProvider(*turns) as provider:
        model = LiteLLMChatModel("default", settings_for(provider, **more))
        try:
            if not stream:
                return await model.complete(request)
            return [chunk async for chunk in model.stream(request)][-1].reply or ChatReply(text="no reply came")
        finally:
            await model.aclose()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_reply_has_the_text_the_usage_and_the_model(stream: bool) -> None:
    reply = await answer(Turn(text="Port 443."), stream=stream)
    assert (reply.text, reply.finish_reason, reply.model) == ("Port 443.", "stop", "openai/test")
    assert (reply.usage.calls, reply.usage.prompt_tokens, reply.usage.completion_tokens) == (1, 4, 2)


async def test_a_stream_comes_in_pieces() -> None:
    with FakeProvider(Turn(text="it is port 443")) as provider:
        model = LiteLLMChatModel("default", settings_for(provider))
        chunks = [chunk async for chunk in model.stream(ASK)]
        await model.aclose()
    assert [c.text for c in chunks if c.text] == ["it ", "is ", "port ", "443"]


async def test_the_request_reaches_the_provider_whole() -> None:
    with FakeProvider(Turn(text='{"port": 443}')) as provider:
        model = LiteLLMChatModel("default", settings_for(provider, options={"top_p": 0.5}))
        await model.complete(
            ChatRequest(
                messages=(
                    ChatMessage(role="system", text="Be brief."),
                    ChatMessage(role="assistant", tool_calls=(ToolCall(id="c1", name="look", arguments={"q": "vpn"}),)),
                    ChatMessage(role="tool", text="443", tool_call_id="c1"),
                    ChatMessage(role="user", text="bad \ud800 text"),
                ),
                json_schema=SCHEMA,
                max_output_tokens=9,
                temperature=0.25,
                seed=7,
                stop=("END",),
            )
        )
        await model.aclose()
    [sent] = provider.requests
    assert (sent["model"], sent["max_tokens"], sent["temperature"]) == ("test", 9, 0.25)
    assert (sent["seed"], sent["stop"], sent["top_p"]) == (7, ["END"], 0.5)
    assert sent["response_format"]["json_schema"] == {"name": "reply", "schema": SCHEMA, "strict": True}
    assert sent["messages"][1]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"q": "vpn"}'}
    assert (sent["messages"][2]["tool_call_id"], sent["messages"][3]["content"]) == ("c1", "bad \ufffd text")


@pytest.mark.parametrize("stream", [False, True])
async def test_tool_calls_come_with_their_arguments(stream: bool) -> None:
    tool = ToolSpec(name="look", description="looks something up", parameters={"type": "object", "properties": {}})
    turn = Turn(tool_calls=[("look", '{"q": "vpn port", "n": 2}'), ("look", "{}")])
    reply = await answer(turn, stream=stream, request=ASK.model_copy(update={"tools": (tool,)}))
    assert reply.finish_reason == "tool_calls"
    assert [(c.id, c.name, c.arguments) for c in reply.tool_calls] == [
        ("call_0", "look", {"q": "vpn port", "n": 2}),
        ("call_1", "look", {}),
    ]


async def test_tool_arguments_that_are_not_json_are_a_bad_reply() -> None:
    with pytest.raises(ModelReplyError, match="'default' called the tool 'look' with arguments that are not JSON"):
        await answer(Turn(tool_calls=[("look", '{"q": ')]))


async def test_json_that_was_asked_for_comes_without_its_fence() -> None:
    reply = await answer(
        Turn(text='```json\n{"port": 443}\n```'), request=ASK.model_copy(update={"json_schema": SCHEMA})
    )
    assert reply.text == '{"port": 443}'


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (Turn(text="It is 443."), "is not the JSON that was asked for"),
        (Turn(text='{"port": ', finish="length"), "was cut off after 400 tokens; raise `limits.max_output_tokens`"),
    ],
)
async def test_a_reply_that_is_not_the_json_asked_for_is_refused(turn: Turn, message: str) -> None:
    with pytest.raises(ModelReplyError, match=message):
        await answer(turn, request=ASK.model_copy(update={"json_schema": SCHEMA}))


async def test_half_a_character_in_a_reply_stops_nothing() -> None:
    body = rb'{"choices": [{"index": 0, "message": {"role": "assistant", "content": "port \ud800 443"}}], "model": "x"}'
    assert (await answer(Turn(body=body))).text == "port \ufffd 443"


def test_a_character_that_a_stream_cuts_in_two_is_whole_in_the_reply() -> None:
    builder = ReplyBuilder("m", ASK)
    parts = [builder.add({"choices": [{"delta": {"content": half}}]}) for half in ("a \ud83d", "\ude00 b")]
    assert parts == ["a \ufffd", "\ufffd b"]
    assert builder.build(model="x", usage=Usage()).text == "a \U0001f600 b"


def test_a_reply_without_end_is_refused() -> None:
    builder = ReplyBuilder("m", ASK)
    chunk = {"choices": [{"delta": {"content": "w " * 250_000}}]}
    builder.add(chunk)
    builder.add(chunk)
    with pytest.raises(ModelReplyError, match="'m' sent more than 1,000,000 characters; choose another model"):
        builder.add(chunk)


BUSY = Turn(status=429, error={"message": "slow down", "type": "rate_limit"})
EMPTY_ACCOUNT = Turn(
    status=429,
    error={"message": "You exceeded your current quota, check your plan", "code": "insufficient_quota"},
)
TOO_LONG = Turn(
    status=400,
    error={"message": "This model's maximum context length is 10 tokens.", "code": "context_length_exceeded"},
)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("turn", "kind", "next_step"),
    [
        (Turn(status=401, error={"message": "Incorrect API key"}), ModelAuthError, "check its environment variable"),
        (Turn(status=403, error={"message": "not yours"}), ModelAuthError, "check its environment variable"),
        (BUSY, ModelRateLimitError, "lower `max_parallel` or wait"),
        (EMPTY_ACCOUNT, ModelQuotaError, "check its billing"),
        (Turn(status=500, error={"message": "boom"}), ModelUnavailableError, "or wait"),
        (Turn(status=503, error={"message": "overloaded"}), ModelUnavailableError, "or wait"),
        (Turn(status=404, error={"message": "no such model"}), ModelRequestError, "check `model` and `api_base`"),
        (Turn(status=400, error={"message": "bad parameter"}), ModelRequestError, "check `model` and `options`"),
        (TOO_LONG, ModelRequestError, "lower the context budget"),
        (Turn(status=400, error={"message": "our safety system"}), ModelRequestError, "change the question"),
        (Turn(body=b"<html>sorry"), ModelReplyError, "ask again|check `api_base`"),
        (Turn(body=b"[1, 2]"), ModelReplyError, "ask again|check `api_base`"),
        (Turn(body=b'{"hello": 1}'), ModelReplyError, "ask again|check `api_base`"),
        (Turn(text="", choices=False, usage=False), ModelReplyError, "ask again"),
    ],
    ids=lambda value: None,
)
async def test_every_failure_of_a_provider_becomes_one_of_ours(
    turn: Turn, kind: type[ModelError], next_step: str, stream: bool
) -> None:
    with pytest.raises(ModelError, match=next_step) as caught:
        await answer(turn, stream=stream)
    assert type(caught.value) is kind
    assert "'default'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_provider_that_hangs_is_left_in_time(stream: bool) -> None:
    with pytest.raises(ModelTimeoutError, match="'default' did not answer"):
        await answer(Turn(hang=True), stream=stream, request=ASK.model_copy(update={"timeout_s": 0.2}))


async def test_one_attempt_that_hangs_is_given_up_after_the_timeout_of_the_settings() -> None:
    with pytest.raises(ModelTimeoutError, match="raise its `timeout_s`"):
        await answer(Turn(hang=True), timeout_s=0.2)


async def test_a_stream_that_stops_in_the_middle_is_left_in_time() -> None:
    with pytest.raises(ModelTimeoutError, match=r"within 0.5 s"):
        await answer(Turn(text="a b c", hang_after=2), stream=True, request=ASK.model_copy(update={"timeout_s": 0.5}))


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with FakeProvider() as provider:
        url = provider.url
    model = LiteLLMChatModel("default", ModelSettings(model="openai/test", api_base=url, retries=0))
    with pytest.raises(ModelUnavailableError, match="'default' cannot be reached"):
        await model.complete(ASK)
    await model.aclose()


async def test_a_busy_provider_is_asked_again() -> None:
    with FakeProvider(BUSY, Turn(text="now")) as provider:
        model = LiteLLMChatModel("default", settings_for(provider, retries=1))
        assert (await model.complete(ASK)).text == "now"
        await model.aclose()
    assert len(provider.requests) == 2


async def test_a_fallback_answers_where_the_model_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeProvider(Turn(status=500, error={"message": "boom"})) as broken, FakeProvider(Turn(text="I do")) as sound:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-fallback")
        monkeypatch.setenv("OPENAI_API_BASE", sound.url)
        model = LiteLLMChatModel("default", settings_for(broken, fallbacks=("openai/other",)))
        reply = await model.complete(ASK)
        await model.aclose()
    assert (reply.text, reply.model) == ("I do", "openai/other")
    assert sound.requests[0]["model"] == "other"


async def test_no_more_calls_than_allowed_run_at_the_same_time() -> None:
    with FakeProvider(Turn(hang=True)) as provider:
        model = LiteLLMChatModel("default", settings_for(provider, max_parallel=2))
        quick = ASK.model_copy(update={"timeout_s": 0.6})
        replies = await asyncio.gather(*(model.complete(quick) for _ in range(5)), return_exceptions=True)
        await model.aclose()
        assert len(provider.requests) == 2
    assert all(isinstance(r, ModelTimeoutError) for r in replies)


async def test_a_key_is_read_from_the_variable_that_the_settings_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-mine-12345678")
    with FakeProvider() as provider:
        model = LiteLLMChatModel("default", settings_for(provider, api_key_env="MY_KEY"))
        await model.complete(ASK)
        await model.aclose()
    assert provider.keys == ["Bearer sk-mine-12345678"]


async def test_a_missing_key_is_named_before_any_network() -> None:
    with FakeProvider() as provider:
        with pytest.raises(ModelAuthError, match="set the environment variable NO_SUCH_KEY"):
            await LiteLLMChatModel("m", settings_for(provider, api_key_env="NO_SUCH_KEY")).complete(ASK)
        with pytest.raises(ModelAuthError, match="set the environment variable OPENAI_API_KEY"):
            await LiteLLMChatModel("m", ModelSettings(model="openai/test")).complete(ASK)
    assert provider.requests == []


async def test_no_error_shows_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "a-key-of-no-known-form")
    turn = Turn(status=401, error={"message": "Incorrect API key provided: a-key-of-no-known-form, or sk-other-987654"})
    with pytest.raises(ModelAuthError) as caught:
        await answer(turn, api_key_env="MY_KEY")
    assert "no-known-form" not in str(caught.value)
    assert "987654" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("key sk-proj-abcdef123456 refused", "key *** refused"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("x-api-key: 0123456789", "x-api-key: ***"),
        ('{"api_key": "0123456789", "n": 1}', '{"api_key": "***", "n": 1}'),
        ("GET https://me:pass@host/simple failed", "GET https://***@host/simple failed"),
        ("token limit of 10 tokens exceeded", "token limit of 10 tokens exceeded"),
        ("two\n  lines", "two lines"),
    ],
)
def test_messages_are_one_line_without_credentials(text: str, shown: str) -> None:
    assert one_line(text) == shown


async def test_a_price_in_the_settings_makes_the_cost() -> None:
    reply = await answer(
        Turn(text="one two"), usd_per_million_prompt_tokens=1000.0, usd_per_million_completion_tokens=5000.0
    )
    # 4 prompt tokens at 0.001 US$ and 2 completion tokens at 0.005 US$
    assert reply.usage.cost_usd == pytest.approx(0.014)
    assert reply.usage.cost_known


async def test_a_price_in_the_list_of_litellm_makes_the_cost() -> None:
    reply = await answer(Turn(text="one two"), model="openai/gpt-4o-mini")
    # 4 prompt tokens at 0.15 and 2 completion tokens at 0.60 US$ a million
    assert reply.usage.cost_usd == pytest.approx((4 * 0.15 + 2 * 0.60) / 1e6)


@pytest.mark.parametrize("stream", [False, True])
async def test_without_a_price_the_cost_is_not_known(stream: bool) -> None:
    reply = await answer(Turn(), stream=stream)
    assert (reply.usage.cost_usd, reply.usage.cost_known) == (0.0, False)


def test_limits_of_a_known_model_come_from_the_list() -> None:
    info = LiteLLMChatModel("m", ModelSettings(model="openai/gpt-4o-mini")).info
    assert (info.context_tokens, info.tools, info.capable, info.local) == (128_000, True, True, False)


async def test_options_that_litellm_does_not_take_are_a_mistake_of_the_project() -> None:
    with pytest.raises((ConfigError, ModelRequestError), match="check `model` and `options`"):
        await LiteLLMChatModel("m", ModelSettings(model="no-such-provider/x", retries=0)).complete(ASK)


async def test_the_reader_of_a_stream_may_take_its_time() -> None:
    with FakeProvider(Turn(text="a b c")) as provider:
        model = LiteLLMChatModel("default", settings_for(provider))
        chunks: AsyncIterator[object] = model.stream(ASK.model_copy(update={"timeout_s": 0.3}))
        await anext(chunks)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.4):
                await asyncio.Event().wait()
        with pytest.raises(ModelTimeoutError):
            [chunk async for chunk in chunks]
        await model.aclose()


async def test_embeddings_are_of_unit_length_in_the_order_of_the_texts() -> None:
    with FakeProvider() as provider:
        embedder = LiteLLMEmbedder("openai/embed", settings=settings_for(provider, model="openai/embed"))
        vectors = await embedder.embed(["aa", " ", "a long text"])
        await embedder.aclose()
    assert provider.requests[0]["input"] == ["aa", "a long text"]
    assert embedder.dimensions == 4
    # (2, 2, 3, 1) has the length sqrt(18)
    assert np.allclose(vectors[0], np.array([2, 2, 3, 1]) / np.sqrt(18))
    assert not vectors[1].any()
    assert np.allclose(np.linalg.norm(vectors[2]), 1)


@pytest.mark.parametrize(
    ("turn", "kind", "timeout_s"),
    [
        (Turn(status=400, error={"message": "bad input"}), ModelRequestError, 5.0),
        (Turn(body=b'{"object": "list", "data": [], "model": "x"}'), ModelReplyError, 5.0),
        (Turn(body=b"nonsense"), ModelReplyError, 5.0),
        (Turn(hang=True), ModelTimeoutError, 0.2),
    ],
    ids=["refused", "no vectors", "garbage", "hang"],
)
async def test_failures_of_an_embedding_provider_become_ours(
    turn: Turn, kind: type[ModelError], timeout_s: float
) -> None:
    with FakeProvider(turn) as provider:
        settings = settings_for(provider, model="openai/embed", timeout_s=timeout_s)
        embedder = LiteLLMEmbedder("openai/embed", settings=settings)
        with pytest.raises(kind):
            await embedder.embed(["a"])
        await embedder.aclose()


async def test_vectors_of_another_length_are_refused() -> None:
    with FakeProvider() as provider:
        settings = settings_for(provider, model="openai/embed")
        embedder = LiteLLMEmbedder("openai/embed", dimensions=3, settings=settings)
        with pytest.raises(ModelReplyError, match="vectors of 4 numbers instead of 3"):
            await embedder.embed(["a"])
        await embedder.aclose()


async def test_litellm_is_told_to_read_no_env_files_and_to_fetch_no_price_list() -> None:
    await answer()
    assert (os.environ["LITELLM_MODE"], os.environ["LITELLM_LOCAL_MODEL_COST_MAP"]) == ("PRODUCTION", "True")
