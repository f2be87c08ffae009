"""A capable model that calls tools until it can answer: bounded rounds, mistakes told to it, the last word an answer.

Models that know tool calls get them natively; others write one JSON object, a call or the answer. Which tools there
are, whether a person must agree and what a call does is decided elsewhere.
"""

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from agentmesh.agents.approvals import Pending, Refused
from agentmesh.agents.schema import mismatch
from agentmesh.errors import ConfigError, ModelReplyError, UnknownNameError
from agentmesh.fence import fenced, inert
from agentmesh.models.base import ChatMessage, ChatReply, ChatRequest, ToolCall, ToolSpec
from agentmesh.models.replies import json_in
from agentmesh.models.wire import valid_text
from agentmesh.prompts import render
from agentmesh.tokens import TokenCounter
from agentmesh.tools.base import BoundTool
from agentmesh.tools.call import ToolResult, arguments_key
from agentmesh.types import CitedSentence

__all__ = ["TOOL_TRUST", "ToolLoop", "ToolTalk", "UsedTool", "resting_on_tools"]

MAX_ROUNDS = 6
"""Replies of the model in one agent call; no tool is offered for the last one. Our choice."""
MAX_FAILURES = 3
"""Calls that may fail, be wrong or be refused before no more tools are offered. Our choice."""
MAX_CALLS_AT_ONCE = 8
"""Calls that one reply may ask for."""
TOOL_TRUST = 0.7
"""Of what a tool said; our choice: computed, but by nobody whom the project's own texts vouch for."""
RESULT_TOKENS = 1024
"""Tokens of the window kept free for results, or a quarter of it if that is less."""
LEAST_RESULT_TOKENS = 24
LAST_TOKENS = 48
"""Allowance for what the last request says around the results."""

Use = Callable[[BoundTool, dict[str, Any]], Awaitable[ToolResult | Pending | Refused]]

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NOT_WIRE = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True)
class UsedTool:
    """A call that gave a result."""

    result: ToolResult
    arguments: dict[str, Any]


@dataclass(frozen=True)
class ToolTalk:
    """How a loop ended: with a reply that answers, or with what a person must be asked."""

    request: ChatRequest
    """The last request; a repair of the reply goes on from it."""
    reply: ChatReply
    used: tuple[UsedTool, ...] = ()
    """The calls that gave a result, in order."""
    pending: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


class ToolLoop:
    """What a model may call in one agent call, and how it is asked.

    Args:
        tools: What the card allows.
        native: Whether the model knows tool calls.
        counter: Counts tokens for the model.
        most_tokens: Tokens that the descriptions of the tools may take; tools that do not fit are left out.
    """

    def __init__(self, tools: Sequence[BoundTool], *, native: bool, counter: TokenCounter, most_tokens: int) -> None:
        self._native, self._counter = native, counter
        self.notes: list[str] = []
        """What went not quite right, one sentence each."""
        self._tools: dict[str, BoundTool] = {}
        """By the name that the model uses."""
        tokens = 0
        for tool in tools:
            name = _wire_name(tool.name, self._tools) if native else tool.name
            tokens += counter.count(_described(name, tool.spec))
            if tokens > most_tokens:
                left_out = len(tools) - len(self._tools)
                self.notes.append(
                    f"{left_out} of {len(tools)} tools did not fit the prompt; name fewer in `tools` of the card"
                )
                break
            self._tools[name] = tool
        self._specs = tuple(tool.spec.model_copy(update={"name": name}) for name, tool in self._tools.items())

    @property
    def reserved_tokens(self) -> int:
        """Tokens of a prompt that go to the descriptions which stand in no message."""
        return sum(self._counter.count(_described(s.name, s)) for s in self._specs) if self._native else 0

    def policy(self) -> str:
        """What the system prompt says about tools; empty without any."""
        if not self._tools:
            return ""
        return render("tools") if self._native else f"{render('tools')}\n\n{self._form()}"

    def _form(self) -> str:
        """How a model without tool calls writes one, and the tools."""
        lines = "\n".join(_described(name, tool.spec) for name, tool in self._tools.items())
        return render("tools-json", tools=lines)

    async def run(
        self, request: ChatRequest, ask: Callable[[ChatRequest], Awaitable[ChatReply]], use: Use, *, room: int
    ) -> ToolTalk:
        """Ask and call until the model answers or a person is needed.

        Args:
            request: The first request, without tools; its `json_schema` is that of the answer.
            ask: Asks the model once.
            use: Calls a tool, or says why not.
            room: Tokens that results may take in all.

        Raises:
            ModelReplyError: If the model only calls tools and never answers.
        """
        talk = _Talk(self._counter, room - LAST_TOKENS)
        messages = list(request.messages)
        if not self._tools:
            return ToolTalk(request, await ask(request), notes=tuple(self.notes))
        for _ in range(MAX_ROUNDS - 1):
            schema = None if self._native else self._either(request)
            offered = self._specs if self._native else ()
            update = {"messages": tuple(messages), "tools": offered, "json_schema": schema}
            try:
                reply = await ask(request.model_copy(update=update))
            except ModelReplyError as error:
                if self._native:
                    raise
                talk.notes.append(
                    str(error)
                )  # small models lose themselves in the form; they may still answer in words
                break
            calls, answer = self._read(reply, talk)
            if answer is not None:
                return self._done(self._told(request, talk) if talk.lines else request, answer, talk)
            messages.append(ChatMessage(role="assistant", text=reply.text, tool_calls=reply.tool_calls))
            talk.room -= self._counter.count(reply.text + "".join(json.dumps(c.arguments) for c in reply.tool_calls))
            for place, wanted in enumerate(calls):
                said = await self._one(wanted, place, use, talk)
                if isinstance(said, Pending):
                    return self._done(request, reply, talk, pending=said.ask)
                role, id = ("tool", wanted.id) if self._native else ("user", None)
                messages.append(ChatMessage(role=role, text=said, tool_call_id=id))
            if not calls:
                messages.append(ChatMessage(role="user", text=talk.lines[-1]))
            if talk.failures >= MAX_FAILURES or talk.room < LEAST_RESULT_TOKENS:
                break
        last = self._told(request, talk)
        reply = await ask(last)
        if not self._native and request.json_schema is None:
            reply = self._read(reply, talk)[1] or reply
        if not reply.text.strip():
            raise ModelReplyError(
                f"{reply.model or 'the model'!r} called tools again and again and did not answer; name fewer tools in "
                "its card or choose another model"
            )
        return self._done(last, reply, talk)

    def _done(
        self, request: ChatRequest, reply: ChatReply, talk: "_Talk", *, pending: dict[str, Any] | None = None
    ) -> ToolTalk:
        return ToolTalk(request, reply, tuple(talk.used), pending, (*self.notes, *talk.notes))

    def _told(self, request: ChatRequest, talk: "_Talk") -> ChatRequest:
        """The first request with everything that the tools said in its last message, and no way to call one.

        As plain text: providers refuse the messages of tool calls where no tools are offered.
        """
        form = "" if self._native else self._form()
        *before, ask = (m.model_copy(update={"text": m.text.removesuffix(form).rstrip()}) for m in request.messages)
        text = render("tools-last", ask=ask.text, results="\n".join(talk.lines) or "nothing")
        return request.model_copy(update={"messages": (*before, ask.model_copy(update={"text": text}))})

    def _read(self, reply: ChatReply, talk: "_Talk") -> tuple[Sequence[ToolCall], ChatReply | None]:
        """What a reply wants to call, or the answer that it is. Neither: what is wrong was noted."""
        if self._native:
            return reply.tool_calls, None if reply.tool_calls else reply
        try:
            value = json_in(reply.text)
        except ValueError as error:
            value, problem = None, str(error)
        else:
            problem = "it needs either `tool` with `arguments`, or `answer`"
        if isinstance(value, dict):
            wanted = cast("dict[str, Any]", value)
            if wanted.get("answer") is not None:
                answer = wanted["answer"]
                text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
                return (), reply.model_copy(update={"text": text})
            name, arguments = wanted.get("tool"), wanted.get("arguments", {})
            if isinstance(name, str) and isinstance(arguments, dict):
                return (ToolCall(id="", name=name, arguments=cast("dict[str, Any]", arguments)),), None
        talk.failures += 1
        talk.add("your reply", f"it could not be used: {problem}")
        return (), None

    async def _one(self, wanted: ToolCall, place: int, use: Use, talk: "_Talk") -> str | Pending:
        """What the model is told of one call."""
        tool = self._find(wanted.name)
        if tool is None:
            unknown = UnknownNameError("tool", wanted.name[:80], list(self._tools))
            return talk.failed(wanted.name[:80], str(unknown))
        arguments = _clean(wanted.arguments)
        if place >= MAX_CALLS_AT_ONCE:
            return talk.failed(tool.name, f"it was not called: at most {MAX_CALLS_AT_ONCE} calls at once")
        problem = _wrong(arguments, tool)
        if problem is not None:
            return talk.failed(tool.name, f"it was not called, its arguments are wrong: {problem}")
        key = arguments_key(tool.name, arguments)
        if key in talk.settled:
            talk.failures = MAX_FAILURES
            return fenced("result", [f"{inert(tool.name)}: as before"])
        said = await use(tool, arguments)
        match said:
            case Pending():
                return said
            case Refused(text):
                talk.settled.add(key)
                return talk.failed(tool.name, f"it was not called: {text}")
            case ToolResult(error=str(error)):
                return talk.failed(tool.name, f"it failed: {error}")
            case ToolResult():
                talk.settled.add(key)
                talk.used.append(UsedTool(said, arguments))
                return talk.add(f"{tool.name} {_short(arguments)}", said.text or "(nothing)")

    def _find(self, name: str) -> BoundTool | None:
        """The tool that the model means: by its name here, as `server.tool`, or by the bare name where one has it."""
        if name in self._tools:
            return self._tools[name]
        meant = [tool for tool in self._tools.values() if name in (tool.name, tool.spec.name)]
        return meant[0] if len(meant) == 1 else None

    def _either(self, request: ChatRequest) -> dict[str, Any]:
        """The schema of a reply that is one call or the answer."""
        choices = [_closed(answer=_inlined(request.json_schema))]
        for name, tool in self._tools.items():
            choices.append(
                _closed(tool={"const": name}, arguments=_inlined(tool.spec.parameters or {"type": "object"}))
            )
        return {"anyOf": choices}


@dataclass
class _Talk:
    """A loop while it runs."""

    counter: TokenCounter
    room: int
    """Tokens that are left for results."""
    used: list[UsedTool] = field(default_factory=list[UsedTool])
    lines: list[str] = field(default_factory=list[str])
    """What the model was told, fenced, in order."""
    notes: list[str] = field(default_factory=list[str])
    failures: int = 0
    settled: set[str] = field(default_factory=set[str])
    """Calls that gave a result or were refused. A model that makes one again is stuck, and must answer next."""

    def failed(self, about: str, sentence: str) -> str:
        self.failures += 1
        return self.add(about, sentence)

    def add(self, about: str, text: str) -> str:
        """A piece of data for the model, cut to what is left of the room."""
        most = max(LEAST_RESULT_TOKENS, self.room)
        cut = self.counter.cut(inert(text), most)
        if len(cut) < len(inert(text)):
            self.notes.append("a tool's result was cut to fit the prompt; choose a model with a larger window")
        line = fenced("result", [f"{inert(about)}: {cut}"])
        self.room -= self.counter.count(line)
        self.lines.append(line)
        return line


def resting_on_tools(said: Sequence[CitedSentence], used: Sequence[UsedTool]) -> list[CitedSentence]:
    """The sentences, with those that rest on a tool marked as that tool's.

    One does if it names no item, and its numbers, one at least, stand in a result; some may stand in the arguments.
    """
    known = [(u.result.tool, _numbers(u.result.text), _numbers(json.dumps(u.arguments))) for u in used]
    marked: list[CitedSentence] = []
    for sentence in said:
        own = _numbers(sentence.text)
        source = next((tool for tool, gave, asked in known if own & gave and own <= gave | asked), "")
        if source and not sentence.items:
            trust = min(sentence.trust, TOOL_TRUST)
            sentence = sentence.model_copy(update={"origin": "tool", "source": source, "trust": trust})
        marked.append(sentence)
    return marked


def _numbers(text: str) -> set[str]:
    """The numbers of a text in one spelling: `1,200` and `12.50` as `1200` and `12.5`."""
    plain = (n.replace(",", "") for n in _NUMBER.findall(text))
    return {f"{float(n):.12g}" if n.count(".") < 2 else n for n in plain}


def _wire_name(name: str, taken: dict[str, BoundTool]) -> str:
    """`server__tool`: providers allow letters, digits, `_` and `-`, at most 64."""
    base = _NOT_WIRE.sub("_", name.replace(".", "__", 1))[:64]
    wire, n = base, 1
    while wire in taken:
        n += 1
        wire = f"{base[:61]}_{n}"
    return wire


def _described(name: str, spec: ToolSpec) -> str:
    about = " ".join(inert(spec.description).split())
    return f"{name}: {about} {json.dumps(spec.parameters, ensure_ascii=False)}"


def _wrong(arguments: dict[str, Any], tool: BoundTool) -> str | None:
    if not tool.spec.parameters:
        return None
    try:
        return mismatch(arguments, tool.spec.parameters, where=f"the schema of {tool.name}")
    except ConfigError as error:
        return str(error)


def _clean(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments without lone surrogates, which neither a journal nor a trace takes."""
    return json.loads(valid_text(json.dumps(arguments, ensure_ascii=False)))


def _short(arguments: dict[str, Any]) -> str:
    line = json.dumps(arguments, ensure_ascii=False)
    return line if len(line) <= 200 else f"{line[:200]}…"


def _closed(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _inlined(schema: dict[str, Any] | None) -> dict[str, Any]:
    """A schema that may stand inside another; one that refers to parts of itself only says its type. None: a text."""
    if schema is None:
        return {"type": "string"}
    if "$ref" in json.dumps(schema):
        return {"type": schema["type"]} if "type" in schema else {}
    return schema
