"""What every model and every embedder promises, whatever it is made of."""

import asyncio
import json
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import pytest

from agentmesh.errors import ConfigError, ModelTimeoutError, ModelWeightsError
from agentmesh.models import open_embedder, open_model
from agentmesh.models.base import ChatMessage, ChatModel, ChatReply, ChatRequest, Embedder
from agentmesh.models.litellm_embedder import LiteLLMEmbedder
from agentmesh.models.scripted import ScriptedModel
from agentmesh.models.weights import find_weights
from agentmesh.settings import ModelSettings
from tests.fake_provider import FakeProvider, Turn

ASK = ChatRequest(
    messages=(ChatMessage(role="system", text="Be brief."), ChatMessage(role="user", text="Name a colour.")),
    max_output_tokens=12,
    timeout_s=60,
)
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
JSON_TEXT = '{"colour": "red"}'


def local_or_skip() -> ModelSettings:
    """Settings of the embedded model, where its weights and llama.cpp are on this machine."""
    if find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed (extra `local`)")
    try:
        find_weights("embedded")
    except ModelWeightsError:
        pytest.skip("the weights of the embedded model are not here: agentmesh models pull embedded")
    return ModelSettings(model="embedded", context_tokens=1024)


@pytest.fixture(params=["scripted", "litellm", "local"])
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatModel]:
    if request.param == "scripted":
        yield ScriptedModel({"JSON": JSON_TEXT, "": "Blue is a colour."}, name="m", delay_s=0.01)
    elif request.param == "litellm":
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with FakeProvider(Turn(text=JSON_TEXT)) as provider:
            yield open_model("m", ModelSettings(model="openai/test", api_base=provider.url, retries=0))
    else:
        yield open_model("m", local_or_skip())


async def test_a_model_has_the_name_of_the_settings(model: ChatModel) -> None:
    assert isinstance(model, ChatModel)
    assert model.info.name == "m"
    assert model.info.context_tokens >= 512


async def test_a_reply_has_text_and_what_it_took(model: ChatModel) -> None:
    reply = await model.complete(ASK)
    assert reply.text.strip()
    assert reply.usage.calls == 1
    assert reply.usage.prompt_tokens > 0
    assert 0 < reply.usage.completion_tokens <= 12
    assert reply.finish_reason in ("stop", "length")
    assert reply.model
    await model.aclose()


async def test_only_the_last_piece_of_a_stream_has_the_reply_and_the_pieces_are_its_text(model: ChatModel) -> None:
    chunks = [chunk async for chunk in model.stream(ASK)]
    assert [chunk.reply is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert len(chunks) > 2
    last = chunks[-1].reply
    assert last is not None
    assert "".join(chunk.text for chunk in chunks) == last.text
    assert last.usage.calls == 1
    await model.aclose()


async def test_a_stream_gives_what_a_completion_gives(model: ChatModel) -> None:
    whole = await model.complete(ASK)
    streamed = [chunk async for chunk in model.stream(ASK)][-1].reply
    assert streamed is not None
    assert (streamed.text, streamed.finish_reason, streamed.usage) == (whole.text, whole.finish_reason, whole.usage)
    await model.aclose()


async def test_a_reply_of_a_schema_is_json_of_it(model: ChatModel) -> None:
    ask = ChatRequest(messages=(ChatMessage(role="user", text="A colour as JSON"),), json_schema=SCHEMA)
    assert json.loads((await model.complete(ask)).text)["colour"] in ("red", "blue")
    await model.aclose()


def test_a_model_works_in_one_event_loop_after_another(model: ChatModel) -> None:
    async def once() -> ChatReply:
        return (await asyncio.gather(model.complete(ASK), model.complete(ASK)))[0]

    assert asyncio.run(once()).text == asyncio.run(once()).text
    asyncio.run(model.aclose())


async def test_closing_twice_is_no_mistake(model: ChatModel) -> None:
    await model.complete(ASK)
    await model.aclose()
    await model.aclose()


async def test_a_call_that_is_given_up_leaves_the_model_usable(model: ChatModel) -> None:
    task = asyncio.create_task(model.complete(ASK.model_copy(update={"max_output_tokens": 500})))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await model.complete(ASK)).text
    await model.aclose()


@pytest.fixture(params=["scripted", "wordllama", "litellm", "minilm"])
def embedder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Embedder]:
    if request.param == "litellm":
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with FakeProvider() as provider:
            settings = ModelSettings(model="openai/embed", api_base=provider.url)
            yield LiteLLMEmbedder("openai/embed", dimensions=4, settings=settings)
    else:
        try:
            yield open_embedder(request.param)
        except ConfigError as error:
            pytest.skip(str(error))


async def test_vectors_have_unit_length_and_empty_texts_are_zeros(embedder: Embedder) -> None:
    vectors = await embedder.embed(["the invoice is late", "", "a VPN port", " \n"])
    assert isinstance(embedder, Embedder)
    assert vectors.shape == (4, embedder.dimensions)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), [1, 0, 1, 0], atol=1e-5)
    assert str(embedder.dimensions) in embedder.name or "/" in embedder.name


async def test_no_texts_give_no_vectors(embedder: Embedder) -> None:
    assert (await embedder.embed([])).shape == (0, embedder.dimensions)


async def test_a_vector_does_not_depend_on_its_company(embedder: Embedder) -> None:
    alone = (await embedder.embed(["the invoice is late"]))[0]
    texts = ["x " * n + "port" for n in range(1, 70)]
    among = (await embedder.embed([*texts, "the invoice is late"]))[-1]
    assert np.allclose(alone, among, atol=1e-5)


async def test_a_very_long_text_is_cut_rather_than_refused(embedder: Embedder) -> None:
    vectors = await embedder.embed(["the invoice is late " * 50_000])
    assert np.allclose(np.linalg.norm(vectors), 1, atol=1e-5)


async def test_text_that_is_no_valid_unicode_is_embedded_all_the_same(embedder: Embedder) -> None:
    vectors = await embedder.embed(["late \ud800 invoice"])
    assert np.allclose(np.linalg.norm(vectors), 1, atol=1e-5)


async def test_a_timeout_is_a_failure_that_may_pass(model: ChatModel) -> None:
    if isinstance(model, ScriptedModel):
        model = ScriptedModel(["late"], name="m", delay_s=5)
    with pytest.raises(ModelTimeoutError) as caught:
        await model.complete(ASK.model_copy(update={"timeout_s": 0.0005, "max_output_tokens": 300}))
    assert caught.value.retryable
    assert "'m'" in str(caught.value)
    await model.aclose()
