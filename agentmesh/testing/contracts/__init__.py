"""Contract suites: what each protocol promises, as tests that a class of yours inherits.

    class TestMyRouter(RouterContract):
        def make(self):
            return MyRouter()

The tests are plain functions with an event loop of their own, so no plugin for async tests is needed, and unittest runs
them as well as pytest. `make` gives the part, or an awaitable or an async context manager of it; each test makes its
own. A test that fails says which promise is broken, and how.
"""

from agentmesh.testing.contracts.agents import AgentContract, RefinerContract
from agentmesh.testing.contracts.base import BrokenPromiseError, Contract, Made, promise
from agentmesh.testing.contracts.context import ContextRouterContract
from agentmesh.testing.contracts.memory import MemoryStoreContract
from agentmesh.testing.contracts.models import ChatModelContract, EmbedderContract, ToolsetContract
from agentmesh.testing.contracts.routing import RouterContract
from agentmesh.testing.contracts.runs import ExecutorContract, JournalContract, TraceSinkContract

__all__ = [
    "AgentContract",
    "BrokenPromiseError",
    "ChatModelContract",
    "ContextRouterContract",
    "Contract",
    "EmbedderContract",
    "ExecutorContract",
    "JournalContract",
    "Made",
    "MemoryStoreContract",
    "RefinerContract",
    "RouterContract",
    "ToolsetContract",
    "TraceSinkContract",
    "promise",
]
