"""What the tests of memory share: a clock that stands still, an embedder that counts, and the five kinds of store."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agentmesh.memory.arrays import ArrayStore
from agentmesh.memory.base import KeyedStore
from agentmesh.memory.chroma import ChromaStore
from agentmesh.memory.owner import OwnedMemory, open_memory
from agentmesh.memory.working import WorkingStore
from agentmesh.models.scripted import ScriptedEmbedder
from agentmesh.types import MemoryItem

NOW = 1_800_000_000.0
DIMENSIONS = 64
EMBEDDER = ScriptedEmbedder(DIMENSIONS)
ODD_TENANTS = ("", "a/b\\c:d", "мир 🌍", "../../etc", "x" * 3000, "null\0byte", "\ud800")


class FixedClock:
    """Says the time that it was told."""

    def __init__(self, now: float = NOW) -> None:
        self.time = now

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


async def vectors_of(items: Sequence[MemoryItem]) -> NDArray[np.float32]:
    return await EMBEDDER.embed([item.text for item in items])


async def remember(store: KeyedStore, tenant: str, *items: MemoryItem) -> None:
    """Add these items with the vectors of their texts."""
    await store.add(tenant, items, await vectors_of(items))


async def texts_found(store: KeyedStore, tenant: str, question: str, *, k: int = 10) -> list[str]:
    query = (await EMBEDDER.embed([question]))[0]
    return [hit.item.text for hit in await store.search(tenant, query, k=k)]


async def open_owned(folder: Path, *, wait_s: float = 5.0) -> OwnedMemory:
    return await open_memory(folder, EMBEDDER.name, DIMENSIONS, hot_items=1000, wait_s=wait_s, clock=FixedClock())


@asynccontextmanager
async def _arrays(folder: Path) -> AsyncGenerator[KeyedStore, None]:
    yield ArrayStore(EMBEDDER.name, DIMENSIONS, clock=FixedClock())


@asynccontextmanager
async def _chroma(folder: Path) -> AsyncGenerator[KeyedStore, None]:
    store = ChromaStore(folder, EMBEDDER.name, DIMENSIONS, clock=FixedClock())
    yield store
    await store.aclose()


def _working(hot_items: int) -> Callable[[Path], AsyncGenerator[KeyedStore, None]]:
    async def opened(folder: Path) -> AsyncGenerator[KeyedStore, None]:
        clock = FixedClock()
        back = ChromaStore(folder, EMBEDDER.name, DIMENSIONS, clock=clock)
        store = WorkingStore(back, hot_items=hot_items, clock=clock)
        yield store
        await store.aclose()

    return opened


@asynccontextmanager
async def _owner(folder: Path) -> AsyncGenerator[KeyedStore, None]:
    store = await open_owned(folder)
    yield store
    await store.aclose()


@asynccontextmanager
async def _remote(folder: Path) -> AsyncGenerator[KeyedStore, None]:
    owner = await open_owned(folder)
    asking = await open_owned(folder)
    assert owner.owns
    assert not asking.owns
    yield asking
    await asking.aclose()
    await owner.aclose()


STORES = {
    "arrays": _arrays,
    "chroma": _chroma,
    "working": asynccontextmanager(_working(1000)),
    "working_on_disk": asynccontextmanager(_working(0)),
    "owner": _owner,
    "remote": _remote,
}
"""Every store of ours, by name: a folder -> the open store."""
