"""An expert without a model: its card names one tool, and what the tool says is its answer.

No number passes through a language model here. What a tool needs and the task does not say, it cannot make up either.
"""

import json
from collections.abc import Mapping
from typing import Any, cast

from agentmesh.agents.approvals import Pending, Refused, ToolUse
from agentmesh.agents.expert import failed_reply
from agentmesh.agents.schema import mismatch, text_of
from agentmesh.agents.tool_loop import TOOL_TRUST
from agentmesh.errors import ToolError
from agentmesh.fence import inert
from agentmesh.run import RunContext
from agentmesh.tools.allowed import allowed_tools
from agentmesh.tools.base import BoundTool, Toolset
from agentmesh.tools.call import MAX_TEXT_CHARS, ToolResult
from agentmesh.types import AgentCall, AgentCard, AgentReply, CitedSentence, ContextPack, ReplyStatus

__all__ = ["ToolAgent"]


class ToolAgent:
    """Answers with the result of the one tool that its card names in `tool`.

    The tool's one text parameter gets the agent's part of the task; a part that is a JSON object of the tool's
    parameters gives them all; a tool without required parameters is called with nothing. Any other tool needs a model
    to fill its parameters in. `approval: tools` asks a person before the call.

    Args:
        card: Who it is; `limits.timeout_s` holds for the tool.
        toolsets: Where `card.tool` is found, by server.
    """

    def __init__(self, card: AgentCard, toolsets: Mapping[str, Toolset]) -> None:
        self._card, self._toolsets = card, toolsets

    @property
    def card(self) -> AgentCard:
        return self._card

    async def answer(self, call: AgentCall, pack: ContextPack, ctx: RunContext) -> AgentReply:
        started = ctx.clock.monotonic()
        ctx = ctx.at(agent=self._card.id, attempt=call.attempt, deadline=started + self._card.limits.timeout_s)
        try:
            reply = await self._answer(call, ctx)
        except Exception as error:  # the promise of Agent: a failure is a reply
            reply = failed_reply(call, error)
        return reply.model_copy(
            update={
                "latency_ms": (ctx.clock.monotonic() - started) * 1000,
                "model": self._card.tool or "",
                "pack_tokens": pack.tokens,
                "budget_tokens": pack.budget_tokens,
            }
        )

    async def _answer(self, call: AgentCall, ctx: RunContext) -> AgentReply:
        where = f"agent {self._card.id!r}: tool"
        tools, problems = await allowed_tools((self._card.tool or "",), self._toolsets, where=where)
        if len(tools) != 1:
            why = problems[0] if problems else f"{where}: {self._card.tool!r} is {len(tools)} tools; name one of them"
            raise ToolError(why)
        [tool] = tools
        arguments = _arguments(call.part.strip() or call.task.full_text, tool)
        said = await ToolUse(self._card, call, ctx)(tool, arguments, for_model=False)
        match said:
            case Pending(ask):
                return call.reply(ReplyStatus.NEEDS_APPROVAL, pending=ask)
            case Refused(text):
                return call.reply(ReplyStatus.REFUSED, error=f"{text}; it was not called")
            case ToolResult(error=str(error)):
                return call.reply(ReplyStatus.FAILED, error=error)
            case ToolResult():
                return self._reply(call, said)

    def _reply(self, call: AgentCall, result: ToolResult) -> AgentReply:
        value: Any = result.value
        if value is not None and value.keys() == {"result"}:
            value = value["result"]
        schema = self._card.output_schema
        if schema is not None:
            problem = mismatch(value, schema, where=f"output_schema of agent {self._card.id!r}")
            if problem is not None:
                raise ToolError(f"{result.tool} gave what does not fit the output_schema of its card ({problem})")
        if result.value is not None and value in (None, "", [], {}):
            return call.reply(ReplyStatus.NO_EVIDENCE, error=f"{result.tool} found nothing")
        text = result.text if value is None or isinstance(value, str) else inert(text_of(value))[:MAX_TEXT_CHARS]
        sentence = CitedSentence(text=text, source=result.tool, origin="tool", trust=TOOL_TRUST)
        return call.reply(ReplyStatus.ANSWERED, text=text, sentences=(sentence,), structured=value)


def _arguments(part: str, tool: BoundTool) -> dict[str, Any]:
    """The tool's arguments from the task alone.

    Raises:
        ToolError: If they cannot be told from it.
    """
    schema = tool.spec.parameters
    properties = cast("dict[str, dict[str, Any]]", schema.get("properties", {}))
    required = cast("list[str]", schema.get("required", []))
    texts = [name for name, facts in properties.items() if facts.get("type") == "string"]
    for one in (required, texts):
        if len(one) == 1 and one[0] in texts and set(required) <= set(one):
            return {one[0]: part}
    if not required:
        return {}
    try:
        given = json.loads(part)
    except ValueError:
        given = None
    if isinstance(given, dict) and mismatch(given, schema, where=f"the schema of {tool.name}") is None:
        return cast("dict[str, Any]", given)
    raise ToolError(
        f"{tool.name} needs {', '.join(required)}, which a model must find in the task; give the card a `model` with "
        f"`tools: [{tool.name}]` instead of `tool`"
    )
