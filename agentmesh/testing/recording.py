"""The events of runs, in a list: what a test compares a run with."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from agentmesh.runtime.mesh import Mesh
from agentmesh.trace.events import Event
from agentmesh.trace.sinks import ListSink
from agentmesh.types import Answer

__all__ = ["RecordedMesh", "events_of", "recorded"]

E = TypeVar("E")


def events_of(events: Iterable[Event], kind: type[E]) -> list[E]:
    """The events of one kind, in their order: `events_of(mesh.events, RouteDecided)`."""
    return [event for event in events if isinstance(event, kind)]


def recorded(mesh: Mesh) -> "RecordedMesh":
    """The same mesh, with the events of whatever is asked through it kept in a list."""
    return RecordedMesh(mesh)


class RecordedMesh:
    """A mesh whose runs are listened to. Closing is the business of whoever made the mesh."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self._sink = ListSink()

    @property
    def events(self) -> list[Event]:
        """The events of all runs so far, in the order in which they came."""
        return self._sink.events

    @property
    def types(self) -> list[str]:
        """The types of the events: `run_started`, `route_decided`, ..."""
        return [event.type for event in self.events]

    async def ask(self, text: str, **options: Any) -> Answer:
        """`Mesh.ask`; takes and raises what that does."""
        return await self.mesh.ask(text, **self._heard(options))

    def ask_sync(self, text: str, **options: Any) -> Answer:
        """`Mesh.ask_sync`; takes and raises what that does."""
        return self.mesh.ask_sync(text, **self._heard(options))

    async def resume(self, run_id: str, *answers: Any, **options: Any) -> Answer:
        """`Mesh.resume`; takes and raises what that does."""
        return await self.mesh.resume(run_id, *answers, **self._heard(options))

    def _heard(self, options: dict[str, Any]) -> dict[str, Any]:
        sinks: Sequence[Any] = options.pop("sinks", ())
        return {**options, "sinks": (*sinks, self._sink)}
