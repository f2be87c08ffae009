"""The scripted model and the scripted embedder."""

import asyncio
import json
import subprocess
import sys

import numpy as np
import pytest

from agentmesh.errors import ModelRateLimitError, ModelReplyError, ModelTimeoutError
from agentmesh.models.base import ChatMessage, ChatReply, ChatRequest
from agentmesh.models.scripted import ScriptedEmbedder, ScriptedModel, open_scripted
from agentmesh.settings import ModelSettings


def ask(text: str, **more: object) -> ChatRequest:
    return ChatRequest(messages=(ChatMessage(role="user", text=text),)).model_copy(update=more)


async def test_replies_come_in_order_and_requests_are_remembered() -> None:
    model = ScriptedModel(["one", ChatReply(text="two", model="other")])
    assert (await model.complete(ask("a b"))).usage.prompt_tokens == 2
    assert (await model.complete(ask("c"))).model == "other"
    assert [r.messages[0].text for r in model.requests] == ["a b", "c"]


async def test_a_script_that_ran_out_says_so() -> None:
    model = ScriptedModel(["one"])
    await model.complete(ask("a"))
    with pytest.raises(ModelReplyError, match=r"has 1 replies, this is call 2; add one"):
        await model.complete(ask("b"))


async def test_an_exception_in_the_script_is_raised() -> None:
    with pytest.raises(ModelRateLimitError, match="slow"):
        await ScriptedModel([ModelRateLimitError("slow")]).complete(ask("a"))


async def test_a_reply_is_found_by_a_part_of_the_last_message() -> None:
    model = ScriptedModel({"invoice": "14 days", "VPN": "port 443"})
    assert (await model.complete(ask("Which port has the VPN?"))).text == "port 443"
    with pytest.raises(ModelReplyError, match="no reply for 'holiday'"):
        await model.complete(ask("holiday"))


async def test_a_function_may_be_the_script() -> None:
    model = ScriptedModel(lambda request: request.messages[-1].text.upper())
    assert (await model.complete(ask("loud"))).text == "LOUD"


async def test_without_a_script_it_repeats_the_last_line() -> None:
    model = open_scripted("echo", ModelSettings(model="scripted", capable=False))
    assert (await model.complete(ask("first\n last line \n\n"))).text == "last line"
    assert not model.info.capable


async def test_a_late_answer_is_a_timeout() -> None:
    with pytest.raises(ModelTimeoutError, match=r"within 0.01 s"):
        await ScriptedModel(["late"], delay_s=5).complete(ask("a", timeout_s=0.01))


async def test_texts_with_words_in_common_are_more_similar() -> None:
    invoice, invoices, vpn = await ScriptedEmbedder().embed(["the invoice is late", "late invoices", "VPN port"])
    assert invoice @ invoices > 0.9 > 0.5 > invoice @ vpn


def test_vectors_are_the_same_in_another_process() -> None:
    here = asyncio.run(ScriptedEmbedder(16).embed(["late invoice"]))
    code = (
        "import asyncio; from agentmesh.models.scripted import ScriptedEmbedder;"
        "print(asyncio.run(ScriptedEmbedder(16).embed(['late invoice'])).tolist())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert np.allclose(here, np.array(json.loads(there), dtype=np.float32))
