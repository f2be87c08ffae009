"""The model in this process: real decoding with the embedded weights, where they are on this machine."""

import asyncio
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentmesh.errors import ModelRequestError, ModelTimeoutError, ModelWeightsError
from agentmesh.models.base import ChatMessage, ChatRequest
from agentmesh.models.local import LocalChatModel
from agentmesh.settings import ModelSettings
from tests.test_models_contract import local_or_skip


def ask(text: str, **more: object) -> ChatRequest:
    plain = ChatRequest(messages=(ChatMessage(role="user", text=text),), max_output_tokens=12)
    return plain.model_copy(update=more)


@pytest.fixture
async def model() -> AsyncIterator[LocalChatModel]:
    opened = LocalChatModel("small", local_or_skip())
    yield opened
    await opened.aclose()


def status_of(url: str, *, key: str | None = None, body: bytes | None = None) -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=20) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


async def test_the_loopback_port_answers_nobody_without_the_secret(model: LocalChatModel) -> None:
    endpoint = await model.endpoint()
    assert endpoint.url.startswith("http://127.0.0.1:")
    assert endpoint.secret not in repr(endpoint)
    for path in ("/v1/models", "/props", "/slots", "/metrics", "/v1/stream"):
        assert await asyncio.to_thread(status_of, endpoint.url + path) == 401
        assert await asyncio.to_thread(status_of, endpoint.url + path, key="a-guess") == 401
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}).encode()
    chat = endpoint.url + "/v1/chat/completions"
    assert await asyncio.to_thread(status_of, chat, body=body) == 401
    assert await asyncio.to_thread(status_of, chat, key=endpoint.secret, body=body) == 200


async def test_the_embedded_model_is_local_costs_nothing_and_is_not_capable(model: LocalChatModel) -> None:
    assert (model.info.capable, model.info.local, model.info.tools) == (False, True, False)
    assert (model.info.tokenizer, model.info.context_tokens) == ("embedded", 1024)
    usage = (await model.complete(ask("Name a colour."))).usage
    assert (usage.cost_usd, usage.cost_known) == (0.0, True)


async def test_the_same_question_has_the_same_answer(model: LocalChatModel) -> None:
    replies = [(await model.complete(ask("Name a colour."))).text for _ in range(2)]
    assert replies[0] == replies[1]


async def test_it_stops_before_a_stop_word_and_at_the_limit(model: LocalChatModel) -> None:
    cut = await model.complete(ask("Say: one two three four five six", max_output_tokens=4))
    assert (cut.finish_reason, cut.usage.completion_tokens) == ("length", 4)
    word = cut.text.split()[0]
    stopped = await model.complete(ask("Say: one two three four five six", max_output_tokens=4, stop=(word,)))
    assert stopped.finish_reason == "stop"
    assert word not in stopped.text


async def test_a_prompt_that_does_not_fit_is_refused_in_one_line(model: LocalChatModel) -> None:
    with pytest.raises(ModelRequestError, match="the prompt is too long for 'small', which reads 1024 tokens"):
        await model.complete(ask("word " * 2000))


async def test_a_schema_that_llama_does_not_know_is_refused_in_one_line(model: LocalChatModel) -> None:
    with pytest.raises(ModelRequestError, match="'small' refuses the request; check its schema") as caught:
        await model.complete(ask("x", json_schema={"type": "nonsense"}))
    assert "\n" not in str(caught.value)


async def test_a_call_past_its_deadline_frees_its_slot(model: LocalChatModel) -> None:
    await model.complete(ask("warm", max_output_tokens=1))
    endless = ask("Tell a very long story.", max_output_tokens=900, timeout_s=0.2)
    for _ in range(2):
        late = await asyncio.gather(*(model.complete(endless) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(reply, ModelTimeoutError) for reply in late)
    assert (await model.complete(ask("Name a colour.", timeout_s=20))).text
    assert sum(t.name == "agentmesh-small" for t in threading.enumerate()) <= 1


async def test_a_stream_that_is_left_frees_its_slot(model: LocalChatModel) -> None:
    for _ in range(3):
        chunks = model.stream(ask("Tell a very long story.", max_output_tokens=900))
        assert (await anext(chunks)).text
        await chunks.aclose()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    assert (await model.complete(ask("Name a colour.", timeout_s=20))).text


async def test_models_of_the_same_file_share_the_weights(model: LocalChatModel) -> None:
    other = LocalChatModel("small", local_or_skip())
    assert await other.endpoint() == await model.endpoint()
    await other.aclose()
    assert (await model.complete(ask("Name a colour."))).text


async def test_missing_and_damaged_weights_are_named_in_one_line(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + bytes(range(256)) * 20)
    local_or_skip()
    for path, words in ((damaged, "cannot load the weights at"), (tmp_path / "none.gguf", "there are no weights at")):
        with pytest.raises(ModelWeightsError, match=words) as caught:
            await LocalChatModel("mine", ModelSettings(model=f"gguf:{path}")).complete(ask("hi"))
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_other_weights_are_taken_for_capable_unless_the_settings_say_no() -> None:
    assert LocalChatModel("m", ModelSettings(model="gguf:/m.gguf")).info.capable
    assert not LocalChatModel("m", ModelSettings(model="gguf:/m.gguf", capable=False)).info.capable


@pytest.mark.parametrize("end", ["return", "sys.exit(3)", "raise KeyboardInterrupt"])
def test_a_process_ends_quickly_and_quietly_while_the_model_is_writing(end: str) -> None:
    local_or_skip()
    code = (
        "import asyncio, sys\n"
        "from agentmesh.models import open_model\n"
        "from agentmesh.models.base import ChatMessage, ChatRequest\n"
        "from agentmesh.settings import ModelSettings\n"
        "ask = ChatRequest(messages=(ChatMessage(role='user', text='A long story'),), max_output_tokens=900)\n"
        "async def main():\n"
        "    model = open_model('m', ModelSettings(model='embedded', context_tokens=1024))\n"
        "    chunks = model.stream(ask)\n"
        "    print((await anext(chunks)).text != '', flush=True)\n"
        f"    {end}\n"
        "try: asyncio.run(main())\n"
        "except KeyboardInterrupt: sys.exit(3)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.stderr) == ("True\n", "")
    assert run.returncode == (0 if end == "return" else 3)
