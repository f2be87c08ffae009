"""Which agents work on a task: the routers by name.

Each takes its own options, and of what a mesh offers what its signature names: `embedder`, `model` (who reasons), and
`router_of` (the router of a name, for routers that are made of others).
"""

from agentmesh.registry import Registry
from agentmesh.routing.base import Router

__all__ = ["Router", "routers"]

routers = Registry(
    "router",
    Router,
    {
        "semantic": "agentmesh.routing.semantic:SemanticRouter",
        "reasoning": "agentmesh.routing.reasoning:reasoning_router",
        "cascade": "agentmesh.routing.cascade:cascade_router",
        "rules": "agentmesh.routing.rules:rules_router",
        "centroid": "agentmesh.routing.centroid:CentroidRouter",
        "category": "agentmesh.routing.category:CategoryRouter",
        "knn": "agentmesh.routing.knn:KnnRouter",
        "linucb": "agentmesh.routing.linucb:LinUcbRouter",
        "tradeoff": "agentmesh.routing.tradeoff:tradeoff_router",
        "fallback": "agentmesh.routing.wrappers:fallback_router",
        "at_most": "agentmesh.routing.wrappers:at_most_router",
        "cached": "agentmesh.routing.wrappers:cached_router",
        "breaker": "agentmesh.routing.wrappers:breaker_router",
        "shadow": "agentmesh.routing.wrappers:shadow_router",
        "random": "agentmesh.routing.baselines:RandomRouter",
        "fixed": "agentmesh.routing.baselines:FixedRouter",
        "keyword": "agentmesh.routing.baselines:KeywordRouter",
    },
)
"""The routers that a project file may name."""
