"""Sinks that pass events on within the process: to several sinks, to a live reader, to a list. None of them stores."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator

from agentmesh.trace.base import TraceSink
from agentmesh.trace.events import Event, TokensStreamed

__all__ = ["ListSink", "MultiSink", "QueueSink"]

MOST_WAITING = 10_000
"""Events that a live reader may lag behind before it loses some."""


class ListSink:
    """Keeps the events in a list, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


class MultiSink:
    """Hands each event to several sinks, in their order."""

    def __init__(self, *sinks: TraceSink) -> None:
        self.sinks = sinks

    def emit(self, event: Event) -> None:
        for sink in self.sinks:
            sink.emit(event)


class QueueSink:
    """A live stream of events for one reader: `async for event in sink`. The run never waits for the reader.

    A reader that lags by more than `most` events loses the oldest `tokens_streamed`, then the oldest of any type; the
    newest event is always kept. The stream ends after `close`.
    """

    def __init__(self, *, most: int = MOST_WAITING) -> None:
        """Belongs to the event loop that runs now; `emit` may be called from any thread."""
        self.most = most
        self.dropped = 0
        """Events that the reader lost."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._events: deque[Event] = deque()
        self._streamed = 0
        self._changed = asyncio.Event()
        self._closed = False

    def emit(self, event: Event) -> None:
        if threading.get_ident() == self._thread:
            self._take(event)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take, event)

    def close(self) -> None:
        """End the stream after the events that wait; call it on the loop's thread."""
        self._closed = True
        self._changed.set()

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            while self._events:
                event = self._events.popleft()
                self._streamed -= isinstance(event, TokensStreamed)
                yield event
            if self._closed:
                return
            self._changed.clear()
            await self._changed.wait()

    def _take(self, event: Event) -> None:
        if len(self._events) >= self.most:
            self._drop()
        self._events.append(event)
        self._streamed += isinstance(event, TokensStreamed)
        self._changed.set()

    def _drop(self) -> None:
        """Make room for one event."""
        self.dropped += 1
        if self._streamed == 0:
            self._events.popleft()
            return
        oldest = next(i for i, event in enumerate(self._events) if isinstance(event, TokensStreamed))
        del self._events[oldest]
        self._streamed -= 1
