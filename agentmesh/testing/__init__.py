"""What you test your own agents, routers and stores with: scripted parts, cassettes, recorded events, contract suites.

Nothing below imports this package, and nothing of it runs in a mesh that serves people. The fixtures for pytest are
`agentmesh.testing.fixtures`; nothing is imported until it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentmesh.models.scripted import ScriptedEmbedder, ScriptedModel
    from agentmesh.testing.cassettes import (
        Cassette,
        CassetteError,
        CassetteMissError,
        CassetteModel,
        CassetteToolset,
    )
    from agentmesh.testing.contracts import (
        AgentContract,
        ChatModelContract,
        ContextRouterContract,
        EmbedderContract,
        ExecutorContract,
        JournalContract,
        MemoryStoreContract,
        RefinerContract,
        RouterContract,
        ToolsetContract,
        TraceSinkContract,
    )
    from agentmesh.testing.recording import RecordedMesh, events_of, recorded
    from agentmesh.testing.scripted import ScriptedAgent, ScriptedRouter, ScriptedToolset

_HOMES = {
    "AgentContract": "testing.contracts",
    "Cassette": "testing.cassettes",
    "CassetteError": "testing.cassettes",
    "CassetteMissError": "testing.cassettes",
    "CassetteModel": "testing.cassettes",
    "CassetteToolset": "testing.cassettes",
    "ChatModelContract": "testing.contracts",
    "ContextRouterContract": "testing.contracts",
    "EmbedderContract": "testing.contracts",
    "ExecutorContract": "testing.contracts",
    "JournalContract": "testing.contracts",
    "MemoryStoreContract": "testing.contracts",
    "RecordedMesh": "testing.recording",
    "RefinerContract": "testing.contracts",
    "RouterContract": "testing.contracts",
    "ScriptedAgent": "testing.scripted",
    "ScriptedEmbedder": "models.scripted",
    "ScriptedModel": "models.scripted",
    "ScriptedRouter": "testing.scripted",
    "ScriptedToolset": "testing.scripted",
    "ToolsetContract": "testing.contracts",
    "TraceSinkContract": "testing.contracts",
    "events_of": "testing.recording",
    "recorded": "testing.recording",
}

__all__ = [
    "AgentContract",
    "Cassette",
    "CassetteError",
    "CassetteMissError",
    "CassetteModel",
    "CassetteToolset",
    "ChatModelContract",
    "ContextRouterContract",
    "EmbedderContract",
    "ExecutorContract",
    "JournalContract",
    "MemoryStoreContract",
    "RecordedMesh",
    "RefinerContract",
    "RouterContract",
    "ScriptedAgent",
    "ScriptedEmbedder",
    "ScriptedModel",
    "ScriptedRouter",
    "ScriptedToolset",
    "ToolsetContract",
    "TraceSinkContract",
    "events_of",
    "recorded",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'agentmesh.testing' has no attribute {name!r}")
    value = getattr(import_module(f"agentmesh.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
