"""A local model that is asked how long a prompt is and does not write: for figures in which its words do not count.

llama.cpp applies the chat template and the tokenizer, so the count is what a real call reports. Used for models that
are declared not capable: their agents' replies are the extracts of their packs, whatever the model writes beside them.
"""

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

from agentmesh.errors import ConfigError, ModelUnavailableError
from agentmesh.models import open_model
from agentmesh.models.base import ChatChunk, ChatMessage, ChatReply, ChatRequest, ModelInfo
from agentmesh.models.local import Endpoint, LocalChatModel
from agentmesh.settings import ModelSettings
from agentmesh.types import Usage

__all__ = ["CountedModel", "counted_instead", "open_counted"]

COUNT_S = 30.0
"""Seconds to wait for a count; the first one loads the weights."""
LOCAL = ("embedded", "gguf", "hf")
"""Kinds of models that can count without writing."""


def counted_instead(name: str, settings: ModelSettings) -> ModelSettings | None:
    """The settings under which this model counts and does not write; None: it is capable, or cannot."""
    if settings.model.partition(":")[0] not in LOCAL or open_model(name, settings).info.capable:
        return None
    options = {"counts_for": settings.model_dump(mode="json")}
    return ModelSettings(model=f"{__name__}:{open_counted.__name__}", options=options)


def open_counted(name: str, settings: ModelSettings) -> "CountedModel":
    """What opens a model of `counted_instead`."""
    inner = open_model(name, ModelSettings.model_validate(settings.options["counts_for"]))
    if not isinstance(inner, LocalChatModel):
        raise ConfigError(f"the model {name!r} is not local; only local models count without writing")
    return CountedModel(inner)


class CountedModel:
    """Says nothing to a request in words, and what its prompt takes; requests for JSON or with tools are really asked.

    Args:
        inner: The model whose tokens are counted.
    """

    def __init__(self, inner: LocalChatModel) -> None:
        self._inner = inner
        self._endpoint: Endpoint | None = None

    @property
    def info(self) -> ModelInfo:
        return self._inner.info

    async def complete(self, request: ChatRequest) -> ChatReply:
        if request.json_schema is not None or request.tools:
            return await self._inner.complete(request)
        tokens = await self.count(request.messages)
        return ChatReply(text="", usage=Usage(calls=1, prompt_tokens=tokens), model=self.info.name)

    async def stream(self, request: ChatRequest) -> AsyncIterator[ChatChunk]:
        yield ChatChunk(reply=await self.complete(request))

    async def count(self, messages: tuple[ChatMessage, ...]) -> int:
        """Tokens of a prompt, those of the chat template included.

        Raises:
            ModelUnavailableError: If llama.cpp does not answer.
        """
        if self._endpoint is None:
            self._endpoint = await self._inner.endpoint()
        plain = {"messages": [{"role": m.role, "content": m.text} for m in messages]}
        return await asyncio.to_thread(_count, self._endpoint, plain, self.info.name)

    async def aclose(self) -> None:
        self._endpoint = None
        await self._inner.aclose()


def _count(endpoint: Endpoint, messages: Mapping[str, Any], name: str) -> int:
    try:
        prompt = _post(endpoint, "/apply-template", messages)["prompt"]
        found = _post(endpoint, "/tokenize", {"content": prompt, "add_special": True, "parse_special": True})
    except (OSError, ValueError, KeyError) as error:
        raise ModelUnavailableError(f"{name!r} did not count a prompt ({error}); run it with --decode") from error
    return len(found["tokens"])


def _post(endpoint: Endpoint, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {endpoint.secret}", "Content-Type": "application/json"}
    request = urllib.request.Request(endpoint.url + path, json.dumps(body).encode(), headers)  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=COUNT_S) as reply:  # noqa: S310
        return cast("dict[str, Any]", json.load(reply))
