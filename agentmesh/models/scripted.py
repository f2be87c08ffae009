"""A model and an embedder that need no network and no weights: deterministic, for tests, benchmarks and first steps."""

import asyncio
import re
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from agentmesh.errors import ModelReplyError, ModelTimeoutError
from agentmesh.models.base import ChatChunk, ChatReply, ChatRequest, ModelInfo
from agentmesh.settings import ModelSettings
from agentmesh.text import content_words
from agentmesh.types import Usage

__all__ = ["Reply", "ScriptedEmbedder", "ScriptedModel", "open_scripted"]

Reply = str | ChatReply | Exception
"""What a script holds: a text, a whole reply, or what is raised instead."""


class ScriptedModel:
    """Answers from a script and remembers what it was asked.

    Args:
        replies: In order, one a call; or by a part of the last message (the first that occurs in it); or a function
            of the request. Absent: the last line of the prompt, again.
        name: As in the settings.
        capable: What `info` declares.
        delay_s: Seconds before it answers.
    """

    def __init__(
        self,
        replies: Sequence[Reply] | Mapping[str, Reply] | Callable[[ChatRequest], Reply] | None = None,
        *,
        name: str = "scripted",
        capable: bool = True,
        delay_s: float = 0.0,
        context_tokens: int = 8192,
    ) -> None:
        self.requests: list[ChatRequest] = []
        """Every request, in the order in which they came."""
        self._replies, self._delay_s = replies, delay_s
        self._info = ModelInfo(name=name, capable=capable, context_tokens=context_tokens, tools=True, local=True)

    @property
    def info(self) -> ModelInfo:
        return self._info

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.requests.append(request)
        turn = len(self.requests)
        if self._delay_s:
            try:
                async with asyncio.timeout(request.timeout_s):
                    await asyncio.sleep(self._delay_s)
            except TimeoutError as error:
                raise ModelTimeoutError(
                    f"{self._info.name!r} did not answer within {request.timeout_s:g} s; lower its `delay_s`"
                ) from error
        reply = self._find(request, turn)
        if isinstance(reply, Exception):
            raise reply
        return reply if isinstance(reply, ChatReply) else self._counted(request, reply)

    async def stream(self, request: ChatRequest) -> AsyncIterator[ChatChunk]:
        reply = await self.complete(request)
        for word in re.findall(r"\s*\S+\s*\Z|\s*\S+", reply.text):
            yield ChatChunk(text=word)
        yield ChatChunk(reply=reply)

    async def aclose(self) -> None:
        pass

    def _find(self, request: ChatRequest, turn: int) -> Reply:
        last = request.messages[-1].text if request.messages else ""
        match self._replies:
            case None:
                return next((line.strip() for line in reversed(last.splitlines()) if line.strip()), "")
            case Mapping() as by_part:
                for part, reply in by_part.items():
                    if part in last:
                        return reply
                raise ModelReplyError(
                    f"the script of {self._info.name!r} has no reply for {last[:80]!r}; add a part of it as a key"
                )
            case Sequence() as in_order:
                if turn > len(in_order):
                    raise ModelReplyError(
                        f"the script of {self._info.name!r} has {len(in_order)} replies, this is call {turn}; add one"
                    )
                return in_order[turn - 1]
            case function:
                return function(request)

    def _counted(self, request: ChatRequest, text: str) -> ChatReply:
        usage = Usage(
            calls=1,
            prompt_tokens=sum(len(m.text.split()) for m in request.messages),
            completion_tokens=len(text.split()),
        )
        return ChatReply(text=text, usage=usage, model=self._info.name)


def open_scripted(name: str, settings: ModelSettings) -> ScriptedModel:
    """The model of the spec `scripted`: it has no script and repeats the last line of its prompt."""
    return ScriptedModel(
        name=name,
        capable=settings.capable if settings.capable is not None else True,
        context_tokens=settings.context_tokens or 8192,
    )


class ScriptedEmbedder:
    """Counts of hashed word stems, unit length: texts with words in common are similar. The same in every process.

    Args:
        dimensions: Length of the vectors; the fewer, the more words share a place.
    """

    def __init__(self, dimensions: int = 256) -> None:
        self._dimensions = dimensions

    @property
    def name(self) -> str:
        return f"scripted-{self._dimensions}"

    @property
    def dimensions(self) -> int:
        return self._dimensions

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if not texts:
            return np.zeros((0, self._dimensions), dtype=np.float32)
        return np.stack([_hashed(text, self._dimensions) for text in texts])


@lru_cache(maxsize=4096)
def _hashed(text: str, dimensions: int) -> NDArray[np.float32]:
    vector = np.zeros(dimensions, dtype=np.float32)
    for word in content_words(text) or text.split():
        vector[zlib.crc32(word.encode("utf-8", "replace")) % dimensions] += 1.0
    length = float(np.linalg.norm(vector))
    vector /= length or 1.0
    vector.setflags(write=False)
    return vector
