"""The protocol of toolsets: what agents may call. The first toolsets come with MCP."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from agentmesh.models.base import ToolSpec
from agentmesh.run import RunContext

__all__ = ["Toolset"]


@runtime_checkable
class Toolset(Protocol):
    """Tools of one server."""

    async def list_tools(self) -> Sequence[ToolSpec]:
        """The tools as a model sees them."""
        ...

    async def call(self, name: str, arguments: dict[str, Any], ctx: RunContext) -> dict[str, Any]:
        """Call a tool; its result is data that nobody has checked.

        Raises:
            ToolError: If the tool failed, is not known or is not allowed.
        """
        ...
