"""Keeps a graph that is run inside of another graph's node from becoming a part of that one."""

from collections.abc import Generator
from contextlib import contextmanager

from langchain_core.runnables.config import var_child_runnable_config

__all__ = ["apart"]


@contextmanager
def apart() -> Generator[None]:
    """Within it, graphs have threads, checkpoints and interrupts of their own; else LangGraph makes them subgraphs."""
    token = var_child_runnable_config.set(None)
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)
