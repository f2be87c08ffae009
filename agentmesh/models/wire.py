"""The OpenAI chat format, which LiteLLM and llama.cpp both speak: our requests into it, its replies out of it.

Plain dictionaries in and out: no library, no network.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from agentmesh.errors import ModelReplyError, ModelRequestError
from agentmesh.models.base import ChatMessage, ChatReply, ChatRequest, ToolCall
from agentmesh.types import Usage

__all__ = ["ReplyBuilder", "one_line", "to_wire", "valid_text"]

MAX_REPLY_CHARS = 1_000_000
"""Characters of one reply: twice what the longest replies of today's models have (128,000 tokens). Our choice."""
_FENCE = re.compile(r"\A\s*```[a-zA-Z]*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)
_SECRET = re.compile(
    r"(?P<lead>\bbearer\s+|\b(?:x-)?api[_-]?key[\"']?\s*(?:provided\s*)?[:=]\s*[\"']?|"
    r"\b(?:access[_-]?token|secret|password|authorization)[\"']?\s*[:=]\s*[\"']?(?:bearer\s+)?|://(?=[^\s/@]+@))"
    r"[^\s\"',;@]+|\b(?:sk|pk|rk|gsk|hf|xai|ghp)[-_][A-Za-z0-9*_-]{6,}|\bAIza[A-Za-z0-9_-]{10,}",
    re.IGNORECASE,
)
"""What looks like a credential, with the words before it that say so."""


def to_wire(request: ChatRequest) -> dict[str, Any]:
    """The request as keyword arguments of a chat completion, without model and stream."""
    wire: dict[str, Any] = {
        "messages": [_message(m) for m in request.messages],
        "max_tokens": request.max_output_tokens,
        "temperature": request.temperature,
    }
    if request.seed is not None:
        wire["seed"] = request.seed
    if request.stop:
        wire["stop"] = list(request.stop)
    if request.tools:
        wire["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters or {"type": "object", "properties": {}},
                },
            }
            for tool in request.tools
        ]
    if request.json_schema is not None:
        wire["response_format"] = {
            "type": "json_schema",
            "json_schema": {
                "name": "reply",
                "schema": request.json_schema,
                "strict": _is_closed(request.json_schema),
            },
        }
    return wire


class ReplyBuilder:
    """Puts a reply together from the chunks of a stream, or from one whole completion."""

    def __init__(self, name: str, request: ChatRequest) -> None:
        self.name, self.request = name, request
        self.usage: dict[str, Any] = {}
        """The provider's own count, as it came last."""
        self._texts: list[str] = []
        self._chars = 0
        self._calls: dict[int, dict[str, str]] = {}
        self._finish = ""
        self._answered = False

    def add(self, chunk: Mapping[str, Any]) -> str:
        """Take one chunk (or completion) in; gives the text that it adds.

        Raises:
            ModelReplyError: If the chunk does not have the form of one, or the reply becomes longer than any model's.
        """
        usage, choices = chunk.get("usage"), chunk.get("choices")
        if isinstance(usage, Mapping):
            self.usage = dict(cast("Mapping[str, Any]", usage))
        if not isinstance(choices, list | tuple):
            raise ModelReplyError(f"{self.name!r} sent a reply without choices; ask again or choose another model")
        added = ""
        for choice in cast("Sequence[Any]", choices):
            if not isinstance(choice, Mapping):
                raise ModelReplyError(f"{self.name!r} sent a choice that is no object; ask again")
            added += self._take(cast("Mapping[str, Any]", choice))
        return added

    def text(self) -> str:
        """What came so far."""
        return "".join(self._texts)

    def build(self, *, model: str, usage: Usage) -> ChatReply:
        """The whole reply.

        Raises:
            ModelReplyError: If nothing came, a tool call's arguments are no JSON object, or JSON was asked for
                and the text is none.
            ModelRequestError: If the provider blocked the content.
        """
        # Joined first: a character may be cut in two between chunks.
        text, calls = valid_text(self.text()), self._tool_calls()
        if self._finish == "content_filter" and not text and not calls:
            raise ModelRequestError(f"the provider of {self.name!r} blocked the content; change the question")
        # A stream that could not be read ends like an empty reply, but nothing was counted.
        if not self._answered or not (text or calls or usage.completion_tokens):
            raise ModelReplyError(f"{self.name!r} sent an empty reply; ask again or choose another model")
        if self.request.json_schema is not None and not calls:
            text = self._checked_json(text)
        finish = self._finish or "stop"
        return ChatReply(
            text=text, tool_calls=calls, usage=usage, model=model, finish_reason="tool_calls" if calls else finish
        )

    def _take(self, choice: Mapping[str, Any]) -> str:
        delta: Any = choice.get("delta") or choice.get("message") or {}
        if not isinstance(delta, Mapping):
            raise ModelReplyError(f"{self.name!r} sent a message that is no object; ask again")
        parts = cast("Mapping[str, Any]", delta)
        self._answered = True
        self._finish = str(choice.get("finish_reason") or self._finish)
        for place, call in enumerate(cast("Sequence[Mapping[str, Any]]", parts.get("tool_calls") or ())):
            index = call.get("index")
            slot = self._calls.setdefault(
                int(index if index is not None else place), {"id": "", "name": "", "arguments": ""}
            )
            function = cast("Mapping[str, Any]", call.get("function") or {})
            slot["id"] = slot["id"] or str(call.get("id") or "")
            slot["name"] = slot["name"] or str(function.get("name") or "")
            arguments = function.get("arguments") or ""
            slot["arguments"] += arguments if isinstance(arguments, str) else json.dumps(arguments)
        text = str(parts.get("content") or "")
        if text:
            self._texts.append(text)
            self._chars += len(text)
        if self._chars > MAX_REPLY_CHARS:
            raise ModelReplyError(
                f"{self.name!r} sent more than {MAX_REPLY_CHARS:,} characters; choose another model or check `api_base`"
            )
        return valid_text(text)

    def _tool_calls(self) -> tuple[ToolCall, ...]:
        calls: list[ToolCall] = []
        for index, call in sorted(self._calls.items()):
            try:
                arguments = json.loads(call["arguments"] or "{}")
            except ValueError as error:
                raise ModelReplyError(
                    f"{self.name!r} called the tool {call['name']!r} with arguments that are not JSON; ask again"
                ) from error
            if not isinstance(arguments, dict):
                raise ModelReplyError(
                    f"{self.name!r} called {call['name']!r} with arguments that are no object; ask again"
                )
            calls.append(
                ToolCall(
                    id=call["id"] or f"call_{index}", name=call["name"], arguments=cast("dict[str, Any]", arguments)
                )
            )
        return tuple(calls)

    def _checked_json(self, text: str) -> str:
        fenced = _FENCE.match(text)
        bare = fenced.group(1) if fenced else text
        try:
            json.loads(bare)
        except ValueError as error:
            if self._finish == "length":
                why = f"was cut off after {self.request.max_output_tokens} tokens; raise `limits.max_output_tokens`"
            else:
                why = "is not the JSON that was asked for; ask again or choose a more capable model"
            raise ModelReplyError(f"the reply of {self.name!r} {why}") from error
        return bare


def one_line(text: object, *, secrets: Sequence[str] = (), most: int = 240) -> str:
    """A library's message on one line, at most `most` characters, with keys and passwords taken out."""
    line = " ".join(str(text).split())
    for secret in secrets:
        if len(secret) >= 4:
            line = line.replace(secret, "***")
    line = _SECRET.sub(lambda m: (m.group("lead") or "") + "***", line)
    return line if len(line) <= most else line[: most - 3].rstrip() + "..."


def valid_text(text: str) -> str:
    """The text with halves of one character joined, and lone surrogates replaced.

    They come from loose decoding and from JSON escapes; neither a terminal, a database nor a tokenizer takes them.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _message(message: ChatMessage) -> dict[str, Any]:
    text = valid_text(message.text)
    wire: dict[str, Any] = {"role": message.role, "content": text}
    if message.tool_calls:
        wire["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
            }
            for call in message.tool_calls
        ]
        wire["content"] = text or None
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    return wire


def _is_closed(schema: Any) -> bool:
    """Whether a provider may enforce the schema strictly: every object closed, every property required."""
    if isinstance(schema, list | tuple):
        return all(_is_closed(s) for s in cast("Sequence[Any]", schema))
    if not isinstance(schema, Mapping):
        return True
    node = cast("Mapping[str, Any]", schema)
    properties = node.get("properties")
    if isinstance(properties, Mapping):
        names = set(cast("Mapping[str, Any]", properties))
        if node.get("additionalProperties") is not False or set(node.get("required", ())) != names:
            return False
    elif node.get("type") == "object":
        return False
    return all(_is_closed(value) for value in node.values())
