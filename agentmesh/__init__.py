"""agentmesh decides, for every task, which agents work, what each of them reads, and how their answers become one.

Nothing is imported until it is used: `import agentmesh` takes milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from agentmesh.agents.base import Agent, Refiner
    from agentmesh.assembly import build_mesh, load_mesh
    from agentmesh.context.base import ContextRouter
    from agentmesh.errors import MeshError
    from agentmesh.memory.base import MemoryStore
    from agentmesh.models.base import ChatModel, Embedder
    from agentmesh.routing.base import Router
    from agentmesh.run import Executor
    from agentmesh.runtime.graph import AgentGraph
    from agentmesh.runtime.mesh import Mesh
    from agentmesh.tools.base import Toolset
    from agentmesh.trace.base import TraceSink
    from agentmesh.types import AgentCard, Answer, RoutingDecision, Task

_HOMES = {
    "Agent": "agents.base",
    "AgentCard": "types",
    "AgentGraph": "runtime.graph",
    "Answer": "types",
    "ChatModel": "models.base",
    "ContextRouter": "context.base",
    "Embedder": "models.base",
    "Executor": "run",
    "MemoryStore": "memory.base",
    "Mesh": "runtime.mesh",
    "MeshError": "errors",
    "Refiner": "agents.base",
    "Router": "routing.base",
    "RoutingDecision": "types",
    "Task": "types",
    "Toolset": "tools.base",
    "TraceSink": "trace.base",
    "build_mesh": "assembly",
    "load_mesh": "assembly",
}

__all__ = [
    "Agent",
    "AgentCard",
    "AgentGraph",
    "Answer",
    "ChatModel",
    "ContextRouter",
    "Embedder",
    "Executor",
    "MemoryStore",
    "Mesh",
    "MeshError",
    "Refiner",
    "Router",
    "RoutingDecision",
    "Task",
    "Toolset",
    "TraceSink",
    "build_mesh",
    "load_mesh",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'agentmesh' has no attribute {name!r}")
    value = getattr(import_module(f"agentmesh.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
