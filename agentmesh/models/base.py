"""The protocols of language models and of embedders."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from agentmesh.types import Frozen, Usage

__all__ = [
    "ChatChunk",
    "ChatMessage",
    "ChatModel",
    "ChatReply",
    "ChatRequest",
    "Embedder",
    "ModelInfo",
    "ToolCall",
    "ToolSpec",
]


class ToolSpec(Frozen):
    """A tool as a model sees it."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict[str, Any])
    """JSON schema of its arguments."""
    idempotent: bool = False
    """Whether calling it twice does no more than calling it once: only then is a call that was cut off repeated."""


class ToolCall(Frozen):
    """What a model wants to call."""

    id: str
    name: str
    arguments: dict[str, Any] = Field(default_factory=dict[str, Any])


class ChatMessage(Frozen):
    """One message of a prompt."""

    role: Literal["system", "user", "assistant", "tool"]
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


class ChatRequest(Frozen):
    """What a model is asked."""

    messages: tuple[ChatMessage, ...]
    tools: tuple[ToolSpec, ...] = ()
    json_schema: dict[str, Any] | None = None
    """The reply must be JSON of this schema."""
    max_output_tokens: int = 400
    temperature: float = 0.0
    seed: int | None = 0
    stop: tuple[str, ...] = ()
    timeout_s: float = 60.0


class ChatReply(Frozen):
    """What a model said."""

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = Usage()
    model: str = ""
    """The model that answered; with a provider's fallback it may differ from the one asked."""
    finish_reason: str = "stop"
    """`stop`, `length`, `tool_calls`, or the provider's own word."""


class ChatChunk(Frozen):
    """A piece of a reply; the last one carries the whole reply."""

    text: str = ""
    reply: ChatReply | None = None


class ModelInfo(Frozen):
    """What a mesh must know of a model before it asks."""

    name: str
    """As in the settings and in traces."""
    capable: bool
    """Whether its words can be trusted to follow instructions. The replies of a model that is not are accompanied by
    extracts of the pack, and it never refines or routes."""
    context_tokens: int = 8192
    """Prompt and completion together."""
    tokenizer: str = ""
    """Model name to count tokens for; empty: `name`."""
    tools: bool = False
    """Whether it supports tool calls."""
    local: bool = False
    """Whether nothing leaves this machine."""


@runtime_checkable
class ChatModel(Protocol):
    """A language model."""

    @property
    def info(self) -> ModelInfo: ...

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Answer once, with usage and cost.

        Raises:
            ModelError: One of its kinds; `retryable` says whether the same call may succeed later.
        """
        ...

    def stream(self, request: ChatRequest) -> AsyncIterator[ChatChunk]:
        """Answer in pieces; exactly the last chunk has `reply`. Raises as `complete` does."""
        ...

    async def aclose(self) -> None:
        """Free what it holds. May be called twice."""
        ...


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into vectors."""

    @property
    def name(self) -> str:
        """Says which vectors these are; vectors of another name are not comparable."""
        ...

    @property
    def dimensions(self) -> int: ...

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of unit length, shape (len(texts), dimensions); an empty text gives zeros."""
        ...
