"""Working memory: reads from arrays, writes in batches, nothing lost when the disk fails."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agentmesh.errors import StoreError
from agentmesh.memory.chroma import ChromaStore
from agentmesh.memory.working import WorkingStore
from agentmesh.types import MemoryItem
from tests.memory_kit import DIMENSIONS, EMBEDDER, FixedClock, remember, texts_found


class FaultyDisk(ChromaStore):
    """A disk that fails as often as it is told, and counts how often it is asked."""

    fail_next = 0
    writes = 0
    reads = 0

    async def add(self, tenant: str, items: Sequence[MemoryItem], vectors: NDArray[np.float32]) -> None:
        if self.fail_next:
            self.fail_next -= 1
            raise StoreError("the disk is full; free some space")
        self.writes += 1
        await super().add(tenant, items, vectors)

    async def load(self, tenant: str, start: int = 0) -> tuple[Sequence[MemoryItem], NDArray[np.float32]]:
        self.reads += 1
        return await super().load(tenant, start)


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[FaultyDisk]:
    store = FaultyDisk(tmp_path, EMBEDDER.name, DIMENSIONS, clock=FixedClock())
    yield store
    await store.aclose()


def note(name: str, text: str = "") -> MemoryItem:
    return MemoryItem(id=name, text=text or f"the note {name}", tenant="t")


async def test_items_are_read_at_once_and_written_in_one_batch(disk: FaultyDisk) -> None:
    store = WorkingStore(disk)
    for name in "abc":
        await remember(store, "t", note(name))
    assert (disk.writes, store.pending) == (0, 3)
    assert len(await texts_found(store, "t", "note")) == 3
    assert await store.flush() == 3
    assert (disk.writes, store.pending, await disk.count("t")) == (1, 0, 3)
    assert await store.flush() == 0


async def test_a_new_working_set_holds_what_is_on_disk_and_loads_it_once(disk: FaultyDisk) -> None:
    await remember(disk, "t", note("a"), note("b"))
    store = WorkingStore(disk)
    answers = await asyncio.gather(*(texts_found(store, "t", "note a") for _ in range(10)))
    assert all(texts[0] == "the note a" and len(texts) == 2 for texts in answers)
    assert disk.reads == 2  # the page and the empty page behind it, for all ten


async def test_a_failed_flush_keeps_the_buffer_and_the_next_one_writes_it(disk: FaultyDisk) -> None:
    store = WorkingStore(disk)
    await remember(store, "t", note("a"))
    disk.fail_next = 1
    with pytest.raises(StoreError, match=r"disk is full.*1 items are kept in memory"):
        await store.flush()
    assert store.pending == 1
    assert await texts_found(store, "t", "note") == ["the note a"]
    assert await store.flush() == 1
    assert await disk.count("t") == 1


async def test_one_tenant_that_cannot_be_written_does_not_hold_up_the_others(disk: FaultyDisk) -> None:
    store = WorkingStore(disk)
    await remember(store, "first", note("a"))
    await remember(store, "second", note("b"))
    disk.fail_next = 1
    with pytest.raises(StoreError):
        await store.flush()
    assert (await disk.count("first"), await disk.count("second"), store.pending) == (0, 1, 1)


async def test_a_change_during_a_flush_is_written_by_the_next_one(disk: FaultyDisk) -> None:
    store = WorkingStore(disk)
    await remember(store, "t", note("a", "old text"))
    flushing = asyncio.create_task(store.flush())
    await asyncio.sleep(0)
    await remember(store, "t", note("a", "new text"))
    assert await flushing == 1
    assert store.pending == 1
    assert await store.flush() == 1
    assert [item.text for item in await disk.get("t", ["a"])] == ["new text"]


async def test_an_item_deleted_before_it_was_written_never_comes_back(disk: FaultyDisk) -> None:
    store = WorkingStore(disk)
    await remember(store, "t", note("a"), note("b"))
    assert await store.delete("t", ["a"]) == 1
    await store.flush()
    assert [item.id for item in await disk.list("t")] == ["b"]


async def test_a_tenant_that_outgrows_the_arrays_is_searched_on_disk_with_the_buffer(disk: FaultyDisk) -> None:
    store = WorkingStore(disk, hot_items=3)
    await remember(store, "t", *(note(name) for name in "abc"))
    await store.flush()
    await remember(store, "t", note("d"), note("a", "replaced words"))
    assert await store.delete("t", ["b"]) == 1
    for _ in range(2):
        assert set(await texts_found(store, "t", "note")) == {"replaced words", "the note c", "the note d"}
        assert (await texts_found(store, "t", "replaced words", k=1)) == ["replaced words"]
        assert [item.id for item in await store.list("t")] == ["a", "c", "d"]
        assert [item.id for item in await store.get("t", ["d", "b", "a"])] == ["d", "a"]
        await store.flush()
    assert await disk.count("t") == 3


async def test_a_thousand_writers_at_once_lose_nothing(disk: FaultyDisk) -> None:
    store = WorkingStore(disk)

    async def work(n: int) -> None:
        await remember(store, f"t{n % 3}", MemoryItem(id=f"i{n}", text=f"note {n}"))
        if n % 250 == 0:
            await store.flush()

    await asyncio.gather(*(work(n) for n in range(1000)))
    await store.flush()
    assert store.pending == 0
    for tenant in range(3):
        wanted = {f"i{n}" for n in range(1000) if n % 3 == tenant}
        assert {item.id for item in await store.list(f"t{tenant}")} == wanted
        assert {item.id for item in await disk.list(f"t{tenant}")} == wanted


async def test_closing_writes_what_is_buffered(tmp_path: Path) -> None:
    store = WorkingStore(ChromaStore(tmp_path, EMBEDDER.name, DIMENSIONS))
    await remember(store, "t", note("a"))
    await store.aclose()
    again = ChromaStore(tmp_path, EMBEDDER.name, DIMENSIONS)
    assert await again.count("t") == 1
    await again.aclose()
    with pytest.raises(StoreError, match="closed"):
        await store.list("t")


async def test_an_item_that_is_deleted_before_it_was_written_never_reaches_the_disk(disk: FaultyDisk) -> None:
    store = WorkingStore(disk)
    await remember(store, "t", note("a"), note("b"))
    assert await store.delete("t", ["a"]) == 1
    assert store.pending == 1
    assert await store.flush() == 1
    assert await disk.count("t") == 1
    assert await store.delete("t", ["b"]) == 1
    assert store.pending == 1
    assert await store.flush() == 1
    assert await disk.count("t") == 0


async def test_an_item_whose_write_failed_is_deleted_on_the_disk_too(disk: FaultyDisk) -> None:
    store = WorkingStore(disk)
    await remember(store, "t", note("a"))
    disk.fail_next = 1
    with pytest.raises(StoreError):
        await store.flush()
    await store.delete("t", ["a"])
    assert store.pending == 1
