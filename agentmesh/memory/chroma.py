"""Memory items on disk, in Chroma. One process may open a folder at a time: `owner.py` sees to that.

One collection a tenant, so that no filter can let another's items through; our vectors only, for Chroma's own embedding
function would download a model; no telemetry. All calls run in one thread, in order.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from agentmesh.errors import StoreError, StoreVersionError
from agentmesh.memory.arrays import THREAD_KINDS, check_query, check_vectors, in_order, matches
from agentmesh.memory.base import Found, MemoryFilter
from agentmesh.run import Clock, SystemClock
from agentmesh.types import MemoryItem

__all__ = ["ChromaStore"]

T = TypeVar("T")

FORMAT = 1
"""Version of what stands in a collection."""
PAGE_ITEMS = 1000
"""Items read or written in one call of the thread."""
DISK_WAIT_S = 60.0
"""Seconds that one call (a page at most) may take."""
OVERFETCH = 2
"""Times as many items as asked for, for those that only `matches` can judge; doubled until it suffices."""


class ChromaStore:
    """A `MemoryStore` in a folder. Nothing is buffered: what `add` returned from is on disk.

    Search is approximate (HNSW). The folder is opened with the first call, or by `open`.

    Args:
        folder: Created if it is not there.
        embedder_name: Whose vectors it takes; a collection made by another is refused.
        dimensions: Length of a vector, >= 1.
        clock: Says what is valid now; absent: the machine's.
    """

    def __init__(self, folder: Path, embedder_name: str, dimensions: int, *, clock: Clock | None = None) -> None:
        self.folder, self._embedder_name, self.dimensions = folder, embedder_name, dimensions
        self._clock = clock or SystemClock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="agentmesh-chroma")
        self._client: Any = None
        self._collections: dict[str, Any] = {}
        self._closed = False

    @property
    def embedder_name(self) -> str:
        return self._embedder_name

    async def open(self) -> None:
        """Open the folder now, or raise `StoreError`."""
        await self._call(self._open)

    async def add(self, tenant: str, items: Sequence[MemoryItem], vectors: NDArray[np.float32]) -> None:
        vectors = check_vectors(vectors, count=len(items), dimensions=self.dimensions, embedder=self._embedder_name)
        last = {item.id: row for row, item in enumerate(items)}
        rows = list(last.values())
        for low in range(0, len(rows), PAGE_ITEMS):
            page = rows[low : low + PAGE_ITEMS]
            await self._call(partial(self._write, tenant, [items[row] for row in page], vectors[page]))

    async def search(
        self, tenant: str, query: NDArray[np.float32], *, k: int, where: MemoryFilter | None = None
    ) -> list[Found]:
        query = check_query(query, dimensions=self.dimensions, embedder=self._embedder_name)
        return [*await self._call(partial(self._search, tenant, query, k, where))] if k > 0 else []

    async def get(self, tenant: str, ids: Sequence[str]) -> list[MemoryItem]:
        found: dict[str, MemoryItem] = {}
        wanted = list(dict.fromkeys(ids))
        for low in range(0, len(wanted), PAGE_ITEMS):
            page = wanted[low : low + PAGE_ITEMS]
            found.update({item.id: item for item in await self._call(partial(self._read, tenant, ids=page))})
        return [found[i] for i in ids if i in found]

    async def by_key(self, tenant: str, keys: Sequence[str]) -> Sequence[MemoryItem]:
        wanted = [json.dumps(key) for key in sorted(set(keys))]
        found: dict[str, MemoryItem] = {}
        for low in range(0, len(wanted), PAGE_ITEMS):
            where = {"key": {"$in": wanted[low : low + PAGE_ITEMS]}}
            found.update({item.id: item for item in await self._call(partial(self._read, tenant, where=where))})
        return in_order(found.values())

    async def count(self, tenant: str) -> int:
        """How many items this tenant has."""
        return await self._call(partial(self._count, tenant))

    async def load(self, tenant: str, start: int = 0) -> tuple[Sequence[MemoryItem], NDArray[np.float32]]:
        """One page of a tenant's items with their vectors, shape (n, dimensions), from position `start` on.

        An empty page is the end. Nobody may write meanwhile.
        """
        return await self._call(partial(self._load, tenant, start))

    async def delete(self, tenant: str, ids: Sequence[str]) -> int:
        wanted = list(dict.fromkeys(ids))
        count = 0
        for low in range(0, len(wanted), PAGE_ITEMS):
            count += await self._call(partial(self._delete, tenant, wanted[low : low + PAGE_ITEMS]))
        return count

    async def list(self, tenant: str, where: MemoryFilter | None = None) -> list[MemoryItem]:
        now, found = self._clock.now(), cast("dict[str, MemoryItem]", {})
        start, total = 0, await self.count(tenant)
        while start < total:
            page = await self._call(partial(self._read, tenant, where=_cheap(where), limit=PAGE_ITEMS, offset=start))
            if not page:
                break
            found.update({item.id: item for item in page if matches(item, where, now)})
            start += PAGE_ITEMS
        return in_order(found.values())

    async def flush(self) -> int:
        return 0

    async def aclose(self) -> None:
        if self._closed:
            return
        try:
            await self._call(self._close)
        finally:
            self._closed = True
            self._thread.shutdown(wait=False)

    # --- in the thread ------------------------------------------------------------------------------------------------

    async def _call(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise StoreError(f"the memory in {self.folder} is closed; open it again")
        try:
            async with asyncio.timeout(DISK_WAIT_S):
                return await asyncio.get_running_loop().run_in_executor(self._thread, self._translated, work)
        except TimeoutError as error:
            raise StoreError(
                f"the memory in {self.folder} did not answer within {DISK_WAIT_S:g} s; check the disk"
            ) from error

    def _translated(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except StoreError:
            raise
        except Exception as error:  # Chroma passes on its own errors, SQLite's, Rust's and plain Python ones
            # after an error of the disk a connection of Chroma's may hold its lock for ever: the next call opens anew
            with suppress(Exception):
                self._close()
            raise StoreError(_sentence(self.folder, error)) from error

    def _open(self) -> Any:
        if self._client is None:
            # before the import: Chroma reads it when its settings class is made
            os.environ.setdefault("ANONYMIZED_TELEMETRY", "False")
            import chromadb
            from chromadb.config import Settings

            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._client = chromadb.PersistentClient(
                    path=str(self.folder), settings=Settings(anonymized_telemetry=False, allow_reset=False)
                )
            except Exception:
                _forget_broken(str(self.folder))
                raise
        return self._client

    def _close(self) -> None:
        self._collections.clear()
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _collection(self, tenant: str, *, create: bool = False) -> Any:
        """The tenant's collection, or None if it has none and `create` is not set."""
        if (known := self._collections.get(tenant)) is not None:
            return known
        from chromadb.errors import NotFoundError

        name = "t-" + hashlib.sha256(tenant.encode("utf-8", "surrogatepass")).hexdigest()[:40]
        client = self._open()
        try:
            collection = client.get_collection(name, embedding_function=None)
        except NotFoundError:
            if not create:
                return None
            about = {
                "tenant": json.dumps(tenant),
                "embedder": self._embedder_name,
                "dimensions": self.dimensions,
                "format": FORMAT,
            }
            collection = client.create_collection(
                name, embedding_function=None, metadata=about, configuration={"hnsw": {"space": "cosine"}}
            )
        self._check(tenant, collection.metadata or {})
        self._collections[tenant] = collection
        return collection

    def _check(self, tenant: str, about: dict[str, Any]) -> None:
        if int(about.get("format", FORMAT)) > FORMAT:
            raise StoreVersionError(f"the memory in {self.folder} was written by a newer agentmesh; upgrade agentmesh")
        made_by, size = about.get("embedder"), about.get("dimensions")
        if (made_by, size) != (self._embedder_name, self.dimensions):
            raise StoreError(
                f"the memory of tenant {tenant!r} in {self.folder} was embedded by {made_by!r} ({size} dimensions), "
                f"not by {self._embedder_name!r} ({self.dimensions}); set `memory.embedder` back to {made_by!r}, or "
                "delete that folder to embed the knowledge anew"
            )

    def _write(self, tenant: str, items: Sequence[MemoryItem], vectors: NDArray[np.float32]) -> None:
        collection = self._collection(tenant, create=True)
        most = min(PAGE_ITEMS, int(self._client.get_max_batch_size()))
        for low in range(0, len(items), most):
            part = [_of_tenant(item, tenant) for item in items[low : low + most]]
            collection.upsert(
                ids=[item.id for item in part],
                embeddings=vectors[low : low + most],
                metadatas=[_as_metadata(item) for item in part],
            )

    def _read(self, tenant: str, **choice: Any) -> Sequence[MemoryItem]:
        collection = self._collection(tenant)
        if collection is None:
            return []
        return [self._item(about) for about in collection.get(include=["metadatas"], **choice)["metadatas"]]

    def _load(self, tenant: str, start: int) -> tuple[Sequence[MemoryItem], NDArray[np.float32]]:
        collection = self._collection(tenant)
        if collection is None:
            return [], np.zeros((0, self.dimensions), np.float32)
        got = collection.get(limit=PAGE_ITEMS, offset=start, include=["metadatas", "embeddings"])
        vectors = np.asarray(got["embeddings"], np.float32).reshape(-1, self.dimensions)
        return [self._item(about) for about in got["metadatas"]], vectors

    def _count(self, tenant: str) -> int:
        collection = self._collection(tenant)
        return int(collection.count()) if collection is not None else 0

    def _delete(self, tenant: str, ids: Sequence[str]) -> int:
        collection = self._collection(tenant)
        if collection is None:
            return 0
        there = collection.get(ids=ids, include=[])["ids"]  # Chroma counts ids that were never there
        if there:
            collection.delete(ids=there)
        return len(there)

    def _search(self, tenant: str, query: NDArray[np.float32], k: int, where: MemoryFilter | None) -> Sequence[Found]:
        collection = self._collection(tenant)
        if collection is None:
            return []
        total = int(collection.count())
        ask, now = k if where is None else k * OVERFETCH, self._clock.now()
        while total:
            ask = min(ask, total)
            got = collection.query(
                query_embeddings=query[None, :], n_results=ask, where=_cheap(where), include=["metadatas", "distances"]
            )
            abouts, distances = got["metadatas"][0], got["distances"][0]
            found = [
                Found(item=item, similarity=1.0 - float(distance))
                for about, distance in zip(abouts, distances, strict=True)
                if matches(item := self._item(about), where, now)
            ]
            if len(found) >= k or len(abouts) < ask or ask == total:
                return found[:k]
            ask *= 2
        return []

    def _item(self, about: dict[str, Any]) -> MemoryItem:
        try:
            return MemoryItem.model_validate(json.loads(about["item"]))
        except ValidationError as error:
            raise StoreVersionError(
                f"the memory in {self.folder} holds items of a newer form; upgrade agentmesh"
            ) from error


def _forget_broken(path: str) -> None:
    """Chroma keeps what it failed to open and gives it to the next who asks: a mended folder would stay broken."""
    from chromadb.api.shared_system_client import SharedSystemClient

    SharedSystemClient._identifier_to_system.pop(path, None)  # pyright: ignore[reportPrivateUsage]
    SharedSystemClient._identifier_to_refcount.pop(path, None)  # pyright: ignore[reportPrivateUsage]


def _of_tenant(item: MemoryItem, tenant: str) -> MemoryItem:
    return item if item.tenant == tenant else item.model_copy(update={"tenant": tenant})


def _as_metadata(item: MemoryItem) -> dict[str, str | bool]:
    """The item as JSON, beside the fields that Chroma can filter by. In ASCII: half a surrogate pair is no UTF-8."""
    return {
        "item": json.dumps(item.model_dump(exclude_none=True)),
        "key": json.dumps(item.key),
        "kind": item.kind.value,
        "live": item.superseded_by is None,
        "user": _tag(item.user),
        "reader": _tag(item.private_to),
        "thread": _tag(item.thread if item.kind in THREAD_KINDS else None),
    }


def _cheap(where: MemoryFilter | None) -> dict[str, Any] | None:
    """The part of a filter that Chroma can judge; it never leaves out what `matches` lets through."""
    if where is None:
        return None
    parts: list[dict[str, Any]] = [
        {"user": {"$in": sorted({"", _tag(where.user)})}},
        {"reader": {"$in": sorted({"", _tag(where.agent)})}},
        {"thread": {"$in": sorted({"", _tag(where.thread)})}},
    ]
    if where.kinds is not None:
        parts.append({"kind": {"$in": [kind.value for kind in where.kinds] or [""]}})
    if not where.superseded:
        parts.append({"live": True})
    return {"$and": parts}


def _tag(name: str | None) -> str:
    """Tells nobody from somebody whose name is empty."""
    return "" if name is None else json.dumps(name)


def _sentence(folder: Path, error: Exception) -> str:
    """What went wrong and what to do, in one line."""
    said = " ".join(str(error).split())[:200]
    low = said.lower()
    if "readonly" in low or "read-only" in low or "permission denied" in low:
        return f"the memory folder {folder} cannot be written ({said}); make it writable or choose another `home`"
    if "no space" in low or "disk i/o" in low or "disk is full" in low or "too large" in low:
        return f"the disk of the memory folder {folder} is full or broken ({said}); free some space and try again"
    if any(sign in low for sign in ("not a database", "malformed", "hnsw", "corrupt")):
        return f"the memory folder {folder} is damaged ({said}); move it away, and the knowledge is loaded anew"
    if "exists" in low and not folder.is_dir():
        return f"{folder} is a file, not a folder; move it away or choose another `home`"
    return f"the memory in {folder} failed ({said}); check the folder"
