"""The runs that are at work or wait for a person, for a mesh that records none: they end with its process."""

from collections import OrderedDict
from collections.abc import Sequence

from agentmesh.errors import InputError
from agentmesh.run import Journal, MemoryJournal
from agentmesh.trace.events import Event, RunCancelled, RunFailed, RunFinished, RunStarted, RunWaiting, TokensStreamed

__all__ = ["RecentRuns"]

KEPT_WAITING = 256
"""Runs that wait for a person and are kept, the newest."""


class RecentRuns:
    """Events and journals by run, forgotten when the run is over. A `TraceSink`, too."""

    def __init__(self) -> None:
        self._events: dict[str, list[Event]] = {}
        self._journals: dict[str, MemoryJournal] = {}
        self._waiting: OrderedDict[str, None] = OrderedDict()
        self._crowded_out: list[str] = []

    def emit(self, event: Event) -> None:
        """Keep the event, or forget its run if it says that the run is over."""
        match event:  # every event of every run comes by here
            case RunStarted():
                self._events[event.run_id] = [event]
            case RunFinished() | RunFailed() | RunCancelled():
                self._forget(event.run_id)
            case _:
                kept = self._events.get(event.run_id)
                if kept is not None and not isinstance(event, TokensStreamed):  # what comes after the end is not kept
                    kept.append(event)
                if isinstance(event, RunWaiting):
                    self._wait(event.run_id)

    def _wait(self, run_id: str) -> None:
        self._waiting[run_id] = None
        self._waiting.move_to_end(run_id)
        if len(self._waiting) > KEPT_WAITING:
            self._crowded_out.append(next(iter(self._waiting)))
            self._forget(self._crowded_out[-1])

    def crowded_out(self) -> list[str]:
        """The runs that were forgotten while they waited, each said once."""
        gone, self._crowded_out = self._crowded_out, []
        return gone

    def journal(self, run_id: str, *, fresh: bool) -> Journal:
        """The journal of a run; a new one if the run is."""
        if fresh or run_id not in self._journals:
            self._journals[run_id] = MemoryJournal()
        return self._journals[run_id]

    async def history(self, run_id: str) -> Sequence[Event]:
        """The events of a run that is not over; `InputError` for any other."""
        if run_id not in self._events:
            raise InputError(
                f"no run {run_id!r} waits here; this mesh records no runs, so only those of its own that wait for a "
                "person go on: give it a folder, with `durable` and `trace.enabled` on and no `sink`, to keep others"
            )
        return tuple(self._events[run_id])

    async def finished_calls(self, run_id: str) -> int:
        """How many calls of the run have a result."""
        journal = self._journals.get(run_id)
        return 0 if journal is None else sum(entry.finished for entry in journal.entries.values())

    def _forget(self, run_id: str) -> None:
        for kept in (self._events, self._journals, self._waiting):
            kept.pop(run_id, None)
