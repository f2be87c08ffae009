"""The commands of `agentmesh`, put together. Each module adds its own to the apps of `app.py` when it is imported.

A command imports what it needs when it runs, so that `--help` stays quick.
"""

from agentmesh.cli import (
    agents,
    bench,
    bench_adversarial,
    bench_joint,
    bench_routing,
    budgets,
    completion,
    doctor,
    eval,
    graph,
    models,
    overlap,
    project,
    runs,
    trace,
)
from agentmesh.cli.app import app

__all__ = ["app"]

MODULES = (
    agents,
    bench,
    bench_adversarial,
    bench_joint,
    bench_routing,
    budgets,
    completion,
    doctor,
    eval,
    graph,
    models,
    overlap,
    project,
    runs,
    trace,
)
"""What adds commands; a module of commands that is not named here has none."""
