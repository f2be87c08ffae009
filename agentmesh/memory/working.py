"""Memory items in arrays, with a disk behind them: reads never wait for the disk, writes go there in batches.

What was added and not flushed is lost if the process is killed; `flush` after every answer keeps that short.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from agentmesh.errors import StoreError
from agentmesh.memory.arrays import ArrayStore, check_query, check_vectors, in_order, matches
from agentmesh.memory.base import Found, KeyedStore, MemoryFilter
from agentmesh.run import Clock, SystemClock
from agentmesh.types import MemoryItem

__all__ = ["LoadableStore", "WorkingStore"]

HOT_TENANTS = 256
"""Tenants kept in arrays at the same time; the one not used for longest goes first. Our choice."""
ITEMS_BETWEEN_BREATHS = 100
"""Items put into arrays before other tasks get their turn, about 2 ms."""


class LoadableStore(KeyedStore, Protocol):
    """A store whose items can be read with their vectors."""

    @property
    def dimensions(self) -> int: ...

    async def count(self, tenant: str) -> int:
        """How many items this tenant has."""
        ...

    async def load(self, tenant: str, start: int = 0) -> tuple[Sequence[MemoryItem], NDArray[np.float32]]:
        """One page of items and vectors from position `start` on; an empty page is the end."""
        ...


@dataclass(frozen=True, eq=False)
class _Change:
    """What the disk does not know yet of one item; without an item: that it is deleted."""

    item: MemoryItem | None
    vector: NDArray[np.float32]
    fresh: bool = False
    """The disk never had the item: deleting it leaves nothing to write."""


@dataclass
class _Tenant:
    hot: bool | None = None
    """Whether its items are in the arrays; None: not known yet."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class WorkingStore:
    """A `MemoryStore` that answers from arrays and writes to `back` in batches.

    Args:
        back: Where items are kept. Nobody else may write to it.
        hot_items: Items of one tenant that are kept in arrays; a larger tenant is searched in `back`.
        clock: Says what is valid now; absent: the machine's.
    """

    def __init__(self, back: LoadableStore, *, hot_items: int = 20_000, clock: Clock | None = None) -> None:
        self.back, self.hot_items = back, hot_items
        self.dimensions = back.dimensions
        self._clock = clock or SystemClock()
        self._arrays = ArrayStore(back.embedder_name, back.dimensions, clock=self._clock)
        self._tenants: OrderedDict[str, _Tenant] = OrderedDict()
        self._changes: dict[str, dict[str, _Change]] = {}
        self._flushing = asyncio.Lock()
        self._closed = False

    @property
    def embedder_name(self) -> str:
        return self.back.embedder_name

    @property
    def pending(self) -> int:
        """Items that were added or deleted and are not on disk yet."""
        return sum(len(changes) for changes in self._changes.values())

    async def add(self, tenant: str, items: Sequence[MemoryItem], vectors: NDArray[np.float32]) -> None:
        vectors = check_vectors(vectors, count=len(items), dimensions=self.dimensions, embedder=self.embedder_name)
        own = [item if item.tenant == tenant else item.model_copy(update={"tenant": tenant}) for item in items]
        hot = await self._hot(tenant)
        changes = self._changes.setdefault(tenant, {}) if own else {}
        for item, vector in zip(own, vectors, strict=True):
            known = changes.get(item.id)
            fresh = known.fresh if known is not None else hot and not self._arrays.has(tenant, item.id)
            changes[item.id] = _Change(item, vector, fresh)
        if hot:
            self._arrays.put(tenant, own, vectors)
            if self._arrays.count(tenant) > self.hot_items:
                self._tenants[tenant].hot = False
                self._arrays.drop(tenant)

    async def search(
        self, tenant: str, query: NDArray[np.float32], *, k: int, where: MemoryFilter | None = None
    ) -> list[Found]:
        query = check_query(query, dimensions=self.dimensions, embedder=self.embedder_name)
        if await self._hot(tenant):
            return await self._arrays.search(tenant, query, k=k, where=where)
        if k <= 0:
            return []
        changes, now = dict(self._changes.get(tenant, {})), self._clock.now()
        on_disk = await self.back.search(tenant, query, k=k + len(changes), where=where)
        found = [hit for hit in on_disk if hit.item.id not in changes]
        found += [
            Found(item=change.item, similarity=float(change.vector @ query))
            for change in changes.values()
            if change.item is not None and matches(change.item, where, now)
        ]
        return sorted(found, key=lambda hit: -hit.similarity)[:k]

    async def get(self, tenant: str, ids: Sequence[str]) -> list[MemoryItem]:
        if await self._hot(tenant):
            return await self._arrays.get(tenant, ids)
        on_disk = await self.back.get(tenant, ids)
        found = {item.id: item for item in self._with_changes(tenant, on_disk)}
        return [found[i] for i in ids if i in found]

    async def by_key(self, tenant: str, keys: Sequence[str]) -> Sequence[MemoryItem]:
        if await self._hot(tenant):
            return await self._arrays.by_key(tenant, keys)
        wanted, on_disk = set(keys), await self.back.by_key(tenant, keys)
        return in_order(item for item in self._with_changes(tenant, on_disk) if item.key in wanted)

    async def count(self, tenant: str) -> int:
        """How many items this tenant has; of one that is not in the arrays, without what is not flushed yet."""
        return self._arrays.count(tenant) if await self._hot(tenant) else await self.back.count(tenant)

    async def delete(self, tenant: str, ids: Sequence[str]) -> int:
        there = {item.id for item in await self.get(tenant, ids)}
        if await self._hot(tenant):
            self._arrays.remove(tenant, list(there))
        changes = self._changes.setdefault(tenant, {})
        nothing = np.zeros(0, np.float32)
        for item_id in there:
            known = changes.get(item_id)
            if known is not None and known.fresh:
                del changes[item_id]
            else:
                changes[item_id] = _Change(None, nothing)
        if not changes:
            self._changes.pop(tenant, None)
        return len(there)

    async def list(self, tenant: str, where: MemoryFilter | None = None) -> list[MemoryItem]:
        if await self._hot(tenant):
            return await self._arrays.list(tenant, where)
        now = self._clock.now()
        on_disk = await self.back.list(tenant, where)
        return in_order(item for item in self._with_changes(tenant, on_disk) if matches(item, where, now))

    async def flush(self) -> int:
        """Write what is buffered to `back`, one batch a tenant; how many items that were.

        Raises:
            StoreError: If `back` could not write; the rest of the buffer is kept and goes with the next flush.
        """
        count, failed = 0, cast("StoreError | None", None)
        async with self._flushing:
            for tenant in tuple(self._changes):
                try:
                    count += await self._flush_tenant(tenant)
                except StoreError as error:
                    failed = error
        if failed is not None:
            raise StoreError(f"{failed}; {self.pending} items are kept in memory for the next flush") from failed
        return count

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            await self.flush()
        finally:
            await self.back.aclose()

    async def _flush_tenant(self, tenant: str) -> int:
        changes = self._changes.get(tenant, {})
        batch = {i: _Change(change.item, change.vector) for i, change in changes.items()}
        changes.update(batch)  # none is fresh from here on: even a write that fails may have reached the disk
        gone = [i for i, change in batch.items() if change.item is None]
        kept = [(change.item, change.vector) for change in batch.values() if change.item is not None]
        if gone:
            await self.back.delete(tenant, gone)
        if kept:
            await self.back.add(tenant, [item for item, _ in kept], np.stack([vector for _, vector in kept]))
        for i, change in batch.items():
            if changes.get(i) is change:  # not changed again while the disk wrote
                del changes[i]
        if not changes:
            self._changes.pop(tenant, None)
        return len(batch)

    def _with_changes(self, tenant: str, on_disk: Sequence[MemoryItem]) -> Sequence[MemoryItem]:
        """What the disk said, then everything that it does not know yet."""
        changes = self._changes.get(tenant, {})
        return [
            *(item for item in on_disk if item.id not in changes),
            *(change.item for change in changes.values() if change.item is not None),
        ]

    async def _hot(self, tenant: str) -> bool:
        """Whether the tenant is in the arrays; loads it there with its first use. No other task runs after it knows."""
        if self._closed:
            raise StoreError("this memory is closed; open it again")
        state = self._tenants.setdefault(tenant, _Tenant())
        self._tenants.move_to_end(tenant)
        if state.hot is None:
            async with state.lock:
                if state.hot is None:
                    state.hot = await self._load(tenant)
                    self._make_room(tenant)
        return bool(state.hot)

    async def _load(self, tenant: str) -> bool:
        if await self.back.count(tenant) > self.hot_items:
            return False
        self._arrays.drop(tenant)
        start = 0
        while True:
            items, vectors = await self.back.load(tenant, start)
            if not items:
                return True
            for low in range(0, len(items), ITEMS_BETWEEN_BREATHS):
                high = low + ITEMS_BETWEEN_BREATHS
                self._arrays.put(tenant, items[low:high], vectors[low:high])
                await asyncio.sleep(0)
            start += len(items)

    def _make_room(self, tenant: str) -> None:
        """Take the tenants that were not used for longest out of the arrays."""
        hot = [name for name, state in self._tenants.items() if state.hot]
        for name in hot[: max(0, len(hot) - HOT_TENANTS)]:
            if name != tenant and name not in self._changes:
                self._tenants[name].hot = None
                self._arrays.drop(name)
