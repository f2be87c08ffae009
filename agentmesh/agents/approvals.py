"""Tool calls of one agent call, each with a person's yes where it needs one.

Nothing waits here. What needs a person is handed back as `Pending`; the same agent call then comes again with the
answer in `AgentCall.approved`, and everything that happened before is read from the journal.
"""

import json
from dataclasses import dataclass
from typing import Any

from agentmesh.fence import inert
from agentmesh.run import RunContext
from agentmesh.tools.base import BoundTool
from agentmesh.tools.call import ToolResult, arguments_key, call_tool, shown_arguments
from agentmesh.types import AgentCall, AgentCard, Approval

__all__ = ["Pending", "Refused", "ToolUse"]

SHOWN_CHARS = 400
"""Characters of the arguments in a question; all of them stand beside it."""


@dataclass(frozen=True)
class Pending:
    """Nothing was called: a person must be asked first."""

    ask: dict[str, Any]
    """For `AgentReply.pending`."""


@dataclass(frozen=True)
class Refused:
    """Nothing was called: a person said no."""

    text: str


class ToolUse:
    """Calls tools for one agent call.

    With `approval: tools` a person is asked before every call, whatever the tool. `approval: always` is asked before
    the agent is called at all, and not again here. A call that may have happened before the run was cut off is asked
    about with every `approval`, `never` too.

    What a person is asked holds for these arguments only: the question's id, `tool/<n>/<key>`, changes with them. `n`
    counts the calls of this agent call, from 1.
    """

    def __init__(self, card: AgentCard, call: AgentCall, ctx: RunContext) -> None:
        self._card, self._approved, self._ctx = card, call.approved, ctx
        self._n = 0

    async def __call__(
        self, tool: BoundTool, arguments: dict[str, Any], *, for_model: bool = True
    ) -> ToolResult | Pending | Refused:
        """The result of the call, or why there is none. Raises what `call_tool` does."""
        self._n += 1
        key = arguments_key(tool.name, arguments)
        if self._card.approval == Approval.TOOLS:
            match self._approved.get(f"tool/{self._n}/{key}"):
                case None:
                    text = f"{self._card.title} wants to call {_call_text(tool, arguments)}: allow it?"
                    return self._pending(f"tool/{self._n}/{key}", text, tool, arguments)
                case False:
                    return Refused(f"a person refused the call of {tool.name}")
                case True:
                    pass
        again = f"again/{self._n}/{key}"
        repeats = 0
        while self._approved.get(f"{again}/{repeats + 1}"):
            repeats += 1
        result = await call_tool(tool, arguments, self._ctx, repeats=repeats, for_model=for_model)
        if result.uncertain is None:
            return result
        if f"{again}/{result.uncertain}" in self._approved:
            text = f"{tool.name} may have been called already, nobody knows; a person refused to do it again"
            return Refused(text)
        text = (
            f"{self._card.title} called {_call_text(tool, arguments)}, and the run was cut off before its result was "
            "kept. It may have happened already: do it again?"
        )
        return self._pending(f"{again}/{result.uncertain}", text, tool, arguments)

    def _pending(self, id: str, text: str, tool: BoundTool, arguments: dict[str, Any]) -> Pending:
        return Pending({"id": id, "text": text, "tool": tool.name, "arguments": shown_arguments(arguments)})


def _call_text(tool: BoundTool, arguments: dict[str, Any]) -> str:
    """The call in words for a person: no secret, nothing that a terminal would act on, not too long."""
    if not arguments:
        return f"{inert(tool.name)} without arguments"
    line = inert(json.dumps(shown_arguments(arguments), ensure_ascii=False)).replace("\n", " ")
    if len(line) > SHOWN_CHARS:
        line = f"{line[:SHOWN_CHARS]}… ({len(line):,} characters in all)"
    return f"{inert(tool.name)} with {line}"
