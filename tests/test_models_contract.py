"""Every model and every embedder of ours keeps the promises of its protocol, and some more."""

import asyncio
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from agentmesh.errors import ConfigError, ModelTimeoutError, ModelWeightsError
from agentmesh.models import open_embedder, open_model
from agentmesh.models.base import ChatMessage, ChatModel, ChatReply, ChatRequest, Embedder
from agentmesh.models.litellm_embedder import LiteLLMEmbedder
from agentmesh.models.scripted import ScriptedModel
from agentmesh.models.weights import find_weights
from agentmesh.settings import ModelSettings
from agentmesh.testing import ChatModelContract, EmbedderContract
from tests.fake_provider import FakeProvider, Turn

ASK = ChatRequest(
    messages=(ChatMessage(role="system", text="Be brief."), ChatMessage(role="user", text="Name a colour.")),
    max_output_tokens=12,
    timeout_s=60,
)
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


class TestModels(ChatModelContract):
    """What every model promises, of each of ours."""

    request = ASK

    @pytest.fixture(autouse=True)
    def opened_model(self, model: ChatModel) -> None:
        self.model = model

    def make(self) -> ChatModel:
        return self.model


async def test_a_model_has_the_name_of_the_settings(model: ChatModel) -> None:
    assert isinstance(model, ChatModel)
    assert model.info.name == "m"
    assert model.info.context_tokens >= 512


async def test_a_stream_gives_what_a_completion_gives(model: ChatModel) -> None:
    whole = await model.complete(ASK)
    assert whole.finish_reason in ("stop", "length")
    chunks = [chunk async for chunk in model.stream(ASK)]
    assert len(chunks) > 2
    streamed = chunks[-1].reply
    assert streamed is not None
    assert (streamed.text, streamed.finish_reason, streamed.usage) == (whole.text, whole.finish_reason, whole.usage)
    await model.aclose()


def test_a_model_works_in_one_event_loop_after_another(model: ChatModel) -> None:
    async def once() -> ChatReply:
        return (await asyncio.gather(model.complete(ASK), model.complete(ASK)))[0]

    assert asyncio.run(once()).text == asyncio.run(once()).text
    asyncio.run(model.aclose())


async def test_a_call_that_is_given_up_while_it_writes_leaves_the_model_usable(model: ChatModel) -> None:
    task = asyncio.create_task(model.complete(ASK.model_copy(update={"max_output_tokens": 500})))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await model.complete(ASK)).text
    await model.aclose()


async def test_a_timeout_is_a_failure_that_may_pass(model: ChatModel) -> None:
    if isinstance(model, ScriptedModel):
        model = ScriptedModel(["late"], name="m", delay_s=5)
    with pytest.raises(ModelTimeoutError) as caught:
        await model.complete(ASK.model_copy(update={"timeout_s": 0.0005, "max_output_tokens": 300}))
    assert caught.value.retryable
    assert "'m'" in str(caught.value)
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


class TestEmbedders(EmbedderContract):
    """What every embedder promises, of each of ours."""

    @pytest.fixture(autouse=True)
    def opened_embedder(self, embedder: Embedder) -> None:
        self.embedder = embedder

    def make(self) -> Embedder:
        return self.embedder


def test_the_name_of_an_embedder_tells_its_vectors_apart(embedder: Embedder) -> None:
    assert str(embedder.dimensions) in embedder.name or "/" in embedder.name
