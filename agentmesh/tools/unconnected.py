"""A tool server that a project names and that this version cannot reach: it says so wherever it is used."""

from collections.abc import Sequence
from typing import Any, NoReturn

from agentmesh.errors import ToolError
from agentmesh.models.base import ToolSpec
from agentmesh.run import RunContext

__all__ = ["UnconnectedToolset"]


class UnconnectedToolset:
    """Stands for a server of `tools/mcp.json`.

    Args:
        name: Of the server.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    async def list_tools(self) -> Sequence[ToolSpec]:
        """Raises `ToolError`."""
        self._refuse()

    async def call(self, name: str, arguments: dict[str, Any], ctx: RunContext) -> dict[str, Any]:
        """Raises `ToolError`."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ToolError(
            f"the server {self.name!r} of tools/mcp.json is not connected: this version starts no tool servers; hand "
            "tools to `build_mesh(tools=...)`, or take them out of the card"
        )
