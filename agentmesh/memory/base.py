"""The protocol of memory stores."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from agentmesh.types import Frozen, MemoryItem, MemoryKind

__all__ = ["Found", "KeyedStore", "MemoryFilter", "MemoryStore"]


class MemoryFilter(Frozen):
    """Which items a reader may see. Everything that is set must hold."""

    kinds: tuple[MemoryKind, ...] | None = None
    user: str | None = None
    """The asking user: items of other users are never found; items of nobody always may be."""
    role: str | None = None
    """The asking role: items whose `roles` name others are never found."""
    agent: str | None = None
    """The asking agent: items that are private to another are never found."""
    thread: str | None = None
    """The asking conversation: `dialogue` and `answer` items of other threads are not found."""
    at: float | None = None
    """Only items valid at this time (seconds since 1970); None: now."""
    superseded: bool = False
    """Whether older versions are found too."""


class Found(NamedTuple):
    """An item with its similarity to the query."""

    item: MemoryItem
    similarity: float
    """Cosine, -1..1."""


@runtime_checkable
class MemoryStore(Protocol):
    """Keeps memory items of many tenants. A tenant never sees another's items by any path."""

    @property
    def embedder_name(self) -> str:
        """Whose vectors it holds; a store refuses those of another embedder."""
        ...

    async def add(self, tenant: str, items: Sequence[MemoryItem], vectors: NDArray[np.float32]) -> None:
        """Add or replace items by id; `vectors` has shape (len(items), dimensions), unit length."""
        ...

    async def search(
        self, tenant: str, query: NDArray[np.float32], *, k: int, where: MemoryFilter | None = None
    ) -> list[Found]:
        """The `k` items most similar to `query`, shape (dimensions,), best first."""
        ...

    async def get(self, tenant: str, ids: Sequence[str]) -> list[MemoryItem]:
        """The items with these ids, in that order; what is not there is left out."""
        ...

    async def list(self, tenant: str, where: MemoryFilter | None = None) -> list[MemoryItem]:
        """All items that the filter lets through, oldest first."""
        ...

    async def delete(self, tenant: str, ids: Sequence[str]) -> int:
        """Delete these items; how many were there."""
        ...

    async def flush(self) -> int:
        """Write what is buffered to disk; how many items that were."""
        ...

    async def aclose(self) -> None:
        """Flush and free what it holds. May be called twice."""
        ...


@runtime_checkable
class KeyedStore(MemoryStore, Protocol):
    """A store that finds the versions of an item without going through all items. All of ours do."""

    async def by_key(self, tenant: str, keys: Sequence[str]) -> Sequence[MemoryItem]:
        """Every version of the items with these keys, oldest first; no filter."""
        ...
