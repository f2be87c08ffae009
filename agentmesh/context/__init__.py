"""Which part of shared memory an agent reads: the table of context routers."""

from agentmesh.context.base import ContextRouter
from agentmesh.registry import Registry

__all__ = ["ContextRouter", "context_routers"]

context_routers = Registry(
    "context router",
    ContextRouter,
    {
        "role_aware": "agentmesh.context.routers:RoleAwareRouter",
        "full": "agentmesh.context.routers:FullRouter",
        "recent": "agentmesh.context.routers:RecentRouter",
        "none": "agentmesh.context.routers:NoContextRouter",
    },
)
"""Each takes `store`, `embedder` and `clock`, and its own options as keyword arguments."""
