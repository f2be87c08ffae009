"""One process owns the memory folder; the others ask it. Whoever opens the folder first owns it, and when it dies the
next one that asks does.

The lock is the operating system's (it ends with the process that holds it); `owner.json` only says where the holder
listens, and is worth nothing without the lock.
"""

import asyncio
import json
import os
import secrets
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from agentmesh.errors import StoreError, StoreLockedError
from agentmesh.memory.base import Found, KeyedStore, MemoryFilter
from agentmesh.memory.chroma import ChromaStore
from agentmesh.memory.loopback import PROTOCOL, MemoryServer, OwnerGoneError, RemoteStore
from agentmesh.memory.working import WorkingStore
from agentmesh.run import Clock
from agentmesh.types import MemoryItem

__all__ = ["OwnedMemory", "open_memory"]

T = TypeVar("T")

LOCK_FILE = "owner.lock"
OWNER_FILE = "owner.json"
RETRY_S = 0.05
"""Seconds between two attempts to own the folder or to reach its owner."""
ATTEMPTS = 3
"""Times that one call looks for another owner before it gives up."""


async def open_memory(
    folder: Path,
    embedder_name: str,
    dimensions: int,
    *,
    hot_items: int = 20_000,
    wait_s: float = 5.0,
    clock: Clock | None = None,
) -> "OwnedMemory":
    """Open the memory in `folder`, as its owner or through its owner.

    The result belongs to the running event loop; close it there with `aclose`.

    Args:
        folder: Created if it is not there.
        embedder_name: Whose vectors it holds.
        dimensions: Length of a vector.
        hot_items: Items of one tenant that the owner keeps in arrays.
        wait_s: Seconds to wait for the process that owns the folder.
        clock: Says what is valid now; absent: the machine's.

    Raises:
        StoreLockedError: If another process owns the folder and does not answer.
        StoreError: If the folder cannot be used, or its owner embeds otherwise.
    """
    memory = OwnedMemory(folder, embedder_name, dimensions, hot_items=hot_items, wait_s=wait_s, clock=clock)
    await memory.open()
    return memory


@dataclass(frozen=True, eq=False)
class _Change:
    item: MemoryItem | None
    vector: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Side:
    """One way to the memory: our own, or through another process."""

    store: KeyedStore
    server: MemoryServer | None = field(default=None, repr=False)
    lock: int | None = None
    """File descriptor of the lock, where we own it."""


class OwnedMemory:
    """A `MemoryStore` that is the owner of its folder or asks the owner; see `open_memory`.

    Where it asks, it remembers what it added until that is flushed, so that nothing is lost with a killed owner.
    """

    def __init__(
        self,
        folder: Path,
        embedder_name: str,
        dimensions: int,
        *,
        hot_items: int,
        wait_s: float,
        clock: Clock | None = None,
    ) -> None:
        self.folder, self._embedder_name, self.dimensions = folder, embedder_name, dimensions
        self.hot_items, self.wait_s, self._clock = hot_items, wait_s, clock
        self._side: _Side | None = None
        self._opening = asyncio.Lock()
        self._entrusted: dict[tuple[str, str], _Change] = {}
        self._closed = False

    @property
    def embedder_name(self) -> str:
        return self._embedder_name

    @property
    def owns(self) -> bool:
        """Whether this object owns the folder."""
        return self._side is not None and self._side.lock is not None

    @property
    def pending(self) -> int:
        """Items that this object added or deleted and that are not known to be on disk."""
        own = self._side.store if self._side is not None else None
        return own.pending if isinstance(own, WorkingStore) else len(self._entrusted)

    async def add(self, tenant: str, items: Sequence[MemoryItem], vectors: NDArray[np.float32]) -> None:
        await self._through(lambda store: store.add(tenant, items, vectors))
        if not self.owns:
            for item, vector in zip(items, np.asarray(vectors, np.float32), strict=True):
                self._entrusted[tenant, item.id] = _Change(item, vector)

    async def search(
        self, tenant: str, query: NDArray[np.float32], *, k: int, where: MemoryFilter | None = None
    ) -> list[Found]:
        return await self._through(lambda store: store.search(tenant, query, k=k, where=where))

    async def get(self, tenant: str, ids: Sequence[str]) -> list[MemoryItem]:
        return await self._through(lambda store: store.get(tenant, ids))

    async def by_key(self, tenant: str, keys: Sequence[str]) -> Sequence[MemoryItem]:
        return await self._through(lambda store: store.by_key(tenant, keys))

    async def delete(self, tenant: str, ids: Sequence[str]) -> int:
        count = await self._through(lambda store: store.delete(tenant, ids))
        if not self.owns:
            nothing = np.zeros(0, np.float32)
            self._entrusted.update({(tenant, i): _Change(None, nothing) for i in ids})
        return count

    async def list(self, tenant: str, where: MemoryFilter | None = None) -> list[MemoryItem]:
        return await self._through(lambda store: store.list(tenant, where))

    async def flush(self) -> int:
        written = dict(self._entrusted)
        count = await self._through(lambda store: store.flush())
        for place, change in written.items():
            if self._entrusted.get(place) is change:
                del self._entrusted[place]
        return count

    async def open(self) -> None:
        """Find or become the owner now; nothing happens if that is done."""
        await self._reach()

    async def aclose(self) -> None:
        if self._closed:
            return
        try:
            if self._entrusted and not self.owns:
                await self.flush()
        finally:
            self._closed = True
            side, self._side = self._side, None
            if side is not None:
                await self._leave(side)

    # --- finding the owner --------------------------------------------------------------------------------------------

    async def _through(self, work: Callable[[KeyedStore], Awaitable[T]]) -> T:
        """Do something with the memory; where its owner died meanwhile, with the next one."""
        for _ in range(ATTEMPTS):
            side = await self._reach()
            try:
                return await work(side.store)
            except OwnerGoneError:
                async with self._opening:
                    if self._side is side:
                        self._side = None
                        await self._leave(side)
        raise StoreLockedError(_held_text(self.folder))

    async def _reach(self) -> _Side:
        if self._closed:
            raise StoreError(f"the memory in {self.folder} is closed; open it again")
        if self._side is None:
            async with self._opening:
                if self._side is None:
                    self._side = await self._own_or_ask()
        return self._side

    async def _own_or_ask(self) -> _Side:
        loop = asyncio.get_running_loop()
        until = loop.time() + self.wait_s
        while True:
            lock = _try_lock(self.folder)
            side = await self._own(lock) if lock is not None else await self._ask(until - loop.time())
            if side is not None:
                try:
                    await self._hand_over(side)
                except OwnerGoneError:
                    await self._leave(side)
                else:
                    return side
            if loop.time() >= until:
                raise StoreLockedError(_held_text(self.folder))
            await asyncio.sleep(RETRY_S)

    async def _own(self, lock: int) -> _Side:
        """Open the store and serve it; we hold the lock."""
        chroma = ChromaStore(self.folder, self._embedder_name, self.dimensions, clock=self._clock)
        store = WorkingStore(chroma, hot_items=self.hot_items, clock=self._clock)
        secret = secrets.token_hex(32)
        side = _Side(store, MemoryServer(store, dimensions=self.dimensions, secret=secret), lock)
        try:
            await chroma.open()
            assert side.server is not None
            port = await side.server.start()
            _write_owner(self.folder, {"protocol": PROTOCOL, "port": port, "pid": os.getpid(), "secret": secret})
        except BaseException:
            await self._leave(side)
            raise
        return side

    async def _ask(self, left_s: float) -> _Side | None:
        """The way to the owner, or None if there is none yet."""
        about = _read_owner(self.folder)
        if about is None:
            return None
        remote = RemoteStore(about.port, about.secret, self._embedder_name, self.dimensions)
        try:
            async with asyncio.timeout(max(RETRY_S, left_s)):
                await remote.hello()
        except (OwnerGoneError, TimeoutError):
            return None
        return _Side(remote)

    async def _hand_over(self, side: _Side) -> None:
        """Tell a new owner what the old one may not have written."""
        tenants = {tenant for tenant, _ in self._entrusted}
        for tenant in tenants:
            changes = {i: change for (whose, i), change in self._entrusted.items() if whose == tenant}
            kept = [(c.item, c.vector) for c in changes.values() if c.item is not None]
            gone = [i for i, c in changes.items() if c.item is None]
            if gone:
                await side.store.delete(tenant, gone)
            if kept:
                await side.store.add(tenant, [item for item, _ in kept], np.stack([vector for _, vector in kept]))
        if side.lock is not None:
            self._entrusted.clear()

    async def _leave(self, side: _Side) -> None:
        try:
            if side.server is not None:
                await side.server.aclose()
            await side.store.aclose()
        finally:
            if side.lock is not None:
                (self.folder / OWNER_FILE).unlink(missing_ok=True)  # before the lock: later it may be the next owner's
                _unlock(side.lock)


# --- the lock and the note beside it ----------------------------------------------------------------------------------


_held_locks: set[int] = set()
"""Lock descriptors of this process."""


def _close_after_fork() -> None:
    """In a forked child: let go of the locks, or they would outlive the parent that owns the folders."""
    while _held_locks:
        os.close(_held_locks.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_after_fork)


def _try_lock(folder: Path) -> int | None:
    """Take the folder's lock without waiting; None if somebody has it, in this process too."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    except FileExistsError as error:
        raise StoreError(f"{folder} is a file, not a folder; move it away or choose another `home`") from error
    except OSError as error:
        raise StoreError(
            f"the memory folder {folder} cannot be written ({error.strerror}); free it or choose another `home`"
        ) from error
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(lock)
        return None
    except OSError as error:
        os.close(lock)
        raise StoreError(
            f"the memory folder {folder} cannot be locked ({error.strerror}); put `home` on a local disk"
        ) from error
    _held_locks.add(lock)
    return lock


def _unlock(lock: int) -> None:
    if lock in _held_locks:
        _held_locks.discard(lock)
        os.close(lock)


@dataclass(frozen=True)
class _Owner:
    """What `owner.json` says."""

    port: int
    pid: int
    secret: str = field(repr=False)


def _write_owner(folder: Path, about: dict[str, int | str]) -> None:
    """Write `owner.json` for this user's eyes only, whole or not at all."""
    part = folder / f".{OWNER_FILE}.{os.getpid()}"
    try:
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(about, file)
        part.replace(folder / OWNER_FILE)
    except OSError as error:
        raise StoreError(
            f"the memory folder {folder} cannot be written ({error.strerror}); make room or choose another `home`"
        ) from error


def _read_owner(folder: Path) -> _Owner | None:
    try:
        about = json.loads((folder / OWNER_FILE).read_text())
        return _Owner(port=int(about["port"]), pid=int(about["pid"]), secret=str(about["secret"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _held_text(folder: Path) -> str:
    about = _read_owner(folder)
    who = f"process {about.pid}" if about is not None else "another process"
    return f"{who} holds the memory in {folder} and does not answer; stop that process, or wait and try again"
