"""Who answers, and who makes one answer of several: agents and refiners, and the table of refiners."""

from agentmesh.agents.base import Agent, Refiner
from agentmesh.registry import Registry

__all__ = ["Agent", "Refiner", "refiners"]

refiners = Registry(
    "refiner",
    Refiner,
    {
        "auto": "agentmesh.agents.refiner:auto_refiner",
        "model": "agentmesh.agents.refiner:model_refiner",
        "extractive": "agentmesh.agents.refiner:extractive_refiner",
    },
)
"""Each takes `model` (a `ChatModel` or None) and `titles` (agent id -> the name people see)."""
