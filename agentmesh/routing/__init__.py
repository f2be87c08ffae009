"""Which agents work on a task: the routers by name. Each takes `embedder` and its own options."""

from agentmesh.registry import Registry
from agentmesh.routing.base import Router

__all__ = ["Router", "routers"]

routers = Registry(
    "router",
    Router,
    {
        "semantic": "agentmesh.routing.semantic:SemanticRouter",
        "random": "agentmesh.routing.baselines:RandomRouter",
        "fixed": "agentmesh.routing.baselines:FixedRouter",
        "keyword": "agentmesh.routing.baselines:KeywordRouter",
    },
)
"""The routers that a project file may name."""
