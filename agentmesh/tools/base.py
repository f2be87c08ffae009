"""The protocol of toolsets: what agents may call; and one tool of one, under the name that cards use."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from agentmesh.models.base import ToolSpec
from agentmesh.run import RunContext

__all__ = ["BoundTool", "Toolset"]


@runtime_checkable
class Toolset(Protocol):
    """Tools of one server."""

    async def list_tools(self) -> Sequence[ToolSpec]:
        """The tools as a model sees them, by their names within the server."""
        ...

    async def call(self, name: str, arguments: dict[str, Any], ctx: RunContext) -> dict[str, Any]:
        """Call a tool; its result is data that nobody has checked. Call it through `tools/call.py`.

        Raises:
            ToolError: If the tool failed, is not known or is not allowed.
        """
        ...


@dataclass(frozen=True)
class BoundTool:
    """One tool with the toolset that calls it."""

    server: str
    spec: ToolSpec
    toolset: Toolset

    @property
    def name(self) -> str:
        """`server.tool`, as in cards and traces."""
        return f"{self.server}.{self.spec.name}"
