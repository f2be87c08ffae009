"""The protocol of a trace sink."""

from typing import Protocol, runtime_checkable

from agentmesh.trace.events import Event

__all__ = ["NullSink", "TraceSink"]


@runtime_checkable
class TraceSink(Protocol):
    """Takes the events of runs."""

    def emit(self, event: Event) -> None:
        """Take one event; what was taken survives a kill of the process.

        Never raises and never waits for another process or thread: a sink that cannot write says so once, elsewhere.
        """
        ...


class NullSink:
    """Takes events and keeps nothing."""

    def emit(self, event: Event) -> None:
        pass
