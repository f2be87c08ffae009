"""Which tools a card allows: `server` is all of a server's, `server.tool` is one."""

import asyncio
from collections.abc import Mapping, Sequence

from agentmesh.errors import ToolError, UnknownNameError
from agentmesh.models.base import ToolSpec
from agentmesh.tools.base import BoundTool, Toolset
from agentmesh.tools.functions import FunctionToolset

__all__ = ["allowed_tools", "check_tool_names"]

LIST_S = 10.0
"""Seconds that a server has to say what tools it has."""


async def allowed_tools(
    names: Sequence[str], toolsets: Mapping[str, Toolset], *, where: str = ""
) -> tuple[list[BoundTool], list[str]]:
    """The tools that these names allow, each once, in their order; and what went wrong with a server, a sentence each.

    Args:
        names: `server` or `server.tool`.
        toolsets: By the server's name.
        where: Who names them, for the error.

    Raises:
        UnknownNameError: If no server or no tool has such a name.
    """
    found: dict[str, BoundTool] = {}
    problems: list[str] = []
    listed: dict[str, Sequence[ToolSpec]] = {}
    for name in names:
        server, _, one = name.partition(".")
        if server not in toolsets:
            raise UnknownNameError("tool server", server, sorted(toolsets), where=where)
        if server not in listed:
            try:
                async with asyncio.timeout(LIST_S):
                    listed[server] = await toolsets[server].list_tools()
            except (ToolError, TimeoutError) as error:
                listed[server] = ()
                problems.append(f"the tools of {server!r} cannot be used: {error or f'no answer in {LIST_S:g} s'}")
                continue
        elif not listed[server]:
            continue
        if one and one not in [spec.name for spec in listed[server]]:
            known = sorted(f"{server}.{spec.name}" for spec in listed[server])
            raise UnknownNameError("tool", name, known, where=where)
        for spec in listed[server]:
            if not one or spec.name == one:
                tool = BoundTool(server, spec, toolsets[server])
                found.setdefault(tool.name, tool)
    return list(found.values()), problems


def check_tool_names(names: Sequence[str], toolsets: Mapping[str, Toolset], *, where: str = "") -> None:
    """Raise `UnknownNameError` for a name without a server, or without a tool where the tools are known beforehand."""
    for name in names:
        server, _, one = name.partition(".")
        toolset = toolsets.get(server)
        if toolset is None:
            raise UnknownNameError("tool server", server, sorted(toolsets), where=where)
        if one and isinstance(toolset, FunctionToolset) and one not in toolset.tool_names:
            raise UnknownNameError("tool", name, sorted(f"{server}.{t}" for t in toolset.tool_names), where=where)
