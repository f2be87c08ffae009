"""Sinks within the process: the run never waits for who listens."""

import asyncio
import threading

from agentmesh.trace.base import TraceSink
from agentmesh.trace.events import Event, RunCancelled, StageEntered, TokensStreamed
from agentmesh.trace.sinks import ListSink, MultiSink, QueueSink


def stage(n: int) -> StageEntered:
    return StageEntered(stage=f"s{n}", kind="dispatch", round=1, seq=n)


def piece(n: int) -> TokensStreamed:
    return TokensStreamed(agent="a", text=str(n), seq=n)


async def seqs(sink: QueueSink) -> list[int]:
    return [event.seq async for event in sink]


async def test_every_sink_is_a_trace_sink() -> None:
    for sink in (ListSink(), MultiSink(), QueueSink()):
        assert isinstance(sink, TraceSink)


def test_several_sinks_get_each_event_in_their_order() -> None:
    first, second = ListSink(), ListSink()
    sink = MultiSink(first, second)
    events: list[Event] = [stage(1), piece(2)]
    for event in events:
        sink.emit(event)
    assert first.events == second.events == events


async def test_a_stream_gives_the_events_in_order_and_ends_when_closed() -> None:
    sink = QueueSink()
    reader = asyncio.ensure_future(seqs(sink))
    for n in (1, 2):
        sink.emit(stage(n))
        await asyncio.sleep(0)
    sink.emit(stage(3))
    sink.close()
    assert await asyncio.wait_for(reader, 5) == [1, 2, 3]
    assert sink.dropped == 0


async def test_a_reader_that_lags_loses_streamed_tokens_first_and_the_oldest_of_them() -> None:
    sink = QueueSink(most=4)
    for event in (stage(1), piece(2), piece(3), stage(4), piece(5), stage(6)):
        sink.emit(event)
    sink.close()
    assert await seqs(sink) == [1, 4, 5, 6]
    assert sink.dropped == 2


async def test_a_reader_that_lags_without_tokens_to_lose_still_gets_the_newest_event() -> None:
    sink = QueueSink(most=2)
    for event in (stage(1), stage(2), stage(3), RunCancelled(reason="enough", seq=4)):
        sink.emit(event)
    sink.close()
    assert await seqs(sink) == [3, 4]
    assert sink.dropped == 2


async def test_events_may_come_from_other_threads() -> None:
    sink = QueueSink()
    thread = threading.Thread(target=lambda: [sink.emit(stage(n)) for n in range(100)])
    thread.start()
    await asyncio.to_thread(thread.join, 5)
    sink.close()
    assert await asyncio.wait_for(seqs(sink), 5) == list(range(100))
