"""Memory items in arrays, in this process only: what the other stores search in when they can.

`matches` is the one definition of who may read what; the columns here are the same rule, vectorised.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from agentmesh.errors import StoreError
from agentmesh.memory.base import Found, MemoryFilter
from agentmesh.run import Clock, SystemClock
from agentmesh.types import MemoryItem, MemoryKind

__all__ = ["ArrayStore", "check_query", "check_vectors", "in_order", "matches"]

THREAD_KINDS = frozenset({MemoryKind.DIALOGUE, MemoryKind.ANSWER, MemoryKind.PLAN_STEP})
"""Kinds that belong to one conversation; everything else is known in all of them."""
FIRST_ROWS = 64
"""Rows of a tenant's arrays at first; they double when full."""
NOBODY = -1
"""Column value of a field that is not set: everybody passes."""

_KIND_CODES = {kind: code for code, kind in enumerate(MemoryKind)}
_COLUMNS = np.dtype(
    [
        ("kind", np.int32),
        ("user", np.int32),
        ("reader", np.int32),
        ("thread", np.int32),
        ("roles", np.int32),
        ("start", np.float64),
        ("end", np.float64),
        ("live", np.bool_),
    ]
)


def matches(item: MemoryItem, where: MemoryFilter | None, now: float) -> bool:
    """Whether a reader may see this item.

    Args:
        item: The item.
        where: Who reads; a name that is not set there passes only items that are nobody's own. None: no filter at all,
            older and expired versions too (for those who keep the store, not for agents).
        now: Seconds since 1970, used where the filter names no time. An item is valid from `valid_from` up to, not
            including, `valid_until`.
    """
    if where is None:
        return True
    at = now if where.at is None else where.at
    return (
        (where.kinds is None or item.kind in where.kinds)
        and (item.user is None or item.user == where.user)
        and (item.private_to is None or item.private_to == where.agent)
        and (not item.roles or where.role in item.roles)
        and (item.thread is None or item.kind not in THREAD_KINDS or item.thread == where.thread)
        and (item.valid_from is None or at >= item.valid_from)
        and (item.valid_until is None or at < item.valid_until)
        and (where.superseded or item.superseded_by is None)
    )


def in_order(items: Iterable[MemoryItem]) -> list[MemoryItem]:
    """Oldest first; items of the same moment by id, so that every store gives the same order."""
    return sorted(items, key=lambda item: (item.created_at, item.id))


def check_vectors(vectors: NDArray[np.float32], *, count: int, dimensions: int, embedder: str) -> NDArray[np.float32]:
    """`vectors` as float32 of shape (count, dimensions), or `StoreError` that names the fix."""
    array = np.ascontiguousarray(vectors, dtype=np.float32)
    if count == 0:
        return array.reshape(0, dimensions)
    if array.ndim != 2 or array.shape[0] != count:
        raise StoreError(f"{count} items came with vectors of shape {array.shape}; pass one row for each item")
    if array.shape[1] != dimensions:
        raise StoreError(_other_size(array.shape[1], dimensions, embedder))
    if not np.isfinite(array).all():
        raise StoreError(f"a vector holds NaN or infinity; check the embedder {embedder!r}")
    return array


def check_query(query: NDArray[np.float32], *, dimensions: int, embedder: str) -> NDArray[np.float32]:
    """`query` as float32 of shape (dimensions,), or `StoreError` that names the fix."""
    array = np.ascontiguousarray(query, dtype=np.float32)
    if array.shape != (dimensions,):
        raise StoreError(_other_size(array.size, dimensions, embedder))
    if not np.isfinite(array).all():
        raise StoreError(f"the query's vector holds NaN or infinity; check the embedder {embedder!r}")
    return array


def _other_size(got: int, dimensions: int, embedder: str) -> str:
    return (
        f"vectors of {got} dimensions do not fit a memory of {dimensions} dimensions made by {embedder!r}; "
        "use that embedder (`memory.embedder`) or start a new memory folder"
    )


class ArrayStore:
    """A `MemoryStore` that forgets everything with its process. Search is exact.

    Args:
        embedder_name: Whose vectors it takes.
        dimensions: Length of a vector, >= 1.
        clock: Says what is valid now; absent: the machine's.
    """

    def __init__(self, embedder_name: str, dimensions: int, *, clock: Clock | None = None) -> None:
        self._embedder_name, self.dimensions = embedder_name, dimensions
        self._clock = clock or SystemClock()
        self._shelves: dict[str, _Shelf] = {}

    @property
    def embedder_name(self) -> str:
        return self._embedder_name

    async def add(self, tenant: str, items: Sequence[MemoryItem], vectors: NDArray[np.float32]) -> None:
        self.put(tenant, items, vectors)

    async def search(
        self, tenant: str, query: NDArray[np.float32], *, k: int, where: MemoryFilter | None = None
    ) -> list[Found]:
        query = check_query(query, dimensions=self.dimensions, embedder=self._embedder_name)
        shelf = self._shelves.get(tenant)
        return shelf.search(query, k, where, self._clock.now()) if shelf is not None and k > 0 else []

    async def get(self, tenant: str, ids: Sequence[str]) -> list[MemoryItem]:
        shelf = self._shelves.get(tenant)
        return [shelf.items[shelf.rows[i]] for i in ids if i in shelf.rows] if shelf is not None else []

    async def by_key(self, tenant: str, keys: Sequence[str]) -> Sequence[MemoryItem]:
        shelf = self._shelves.get(tenant)
        if shelf is None:
            return []
        return in_order(shelf.items[shelf.rows[i]] for key in set(keys) for i in shelf.keys.get(key, ()))

    async def list(self, tenant: str, where: MemoryFilter | None = None) -> list[MemoryItem]:
        shelf = self._shelves.get(tenant)
        if shelf is None:
            return []
        rows = np.flatnonzero(shelf.mask(where, self._clock.now())).tolist()
        return in_order(shelf.items[row] for row in rows)

    async def delete(self, tenant: str, ids: Sequence[str]) -> int:
        return self.remove(tenant, ids)

    async def flush(self) -> int:
        return 0

    async def aclose(self) -> None:
        """Nothing to free; what it holds stays readable."""

    def put(self, tenant: str, items: Sequence[MemoryItem], vectors: NDArray[np.float32]) -> None:
        """`add`, at once."""
        vectors = check_vectors(vectors, count=len(items), dimensions=self.dimensions, embedder=self._embedder_name)
        shelf = self._shelves.setdefault(tenant, _Shelf(self.dimensions))
        for item, vector in zip(items, vectors, strict=True):
            shelf.put(item if item.tenant == tenant else item.model_copy(update={"tenant": tenant}), vector)

    def remove(self, tenant: str, ids: Sequence[str]) -> int:
        """`delete`, at once."""
        shelf = self._shelves.get(tenant)
        return sum(shelf.remove(i) for i in ids) if shelf is not None else 0

    def has(self, tenant: str, item_id: str) -> bool:
        """Whether this tenant has an item of that id."""
        shelf = self._shelves.get(tenant)
        return shelf is not None and item_id in shelf.rows

    def count(self, tenant: str) -> int:
        """How many items this tenant has."""
        shelf = self._shelves.get(tenant)
        return len(shelf.items) if shelf is not None else 0

    def drop(self, tenant: str) -> None:
        """Forget this tenant."""
        self._shelves.pop(tenant, None)


class _Shelf:
    """The rows of one tenant: items, vectors and the columns that filters look at, in the same order."""

    def __init__(self, dimensions: int) -> None:
        self.items: list[MemoryItem] = []
        self.rows: dict[str, int] = {}
        self.keys: dict[str, set[str]] = {}
        self.vectors = np.zeros((FIRST_ROWS, dimensions), np.float32)
        self.columns = np.zeros(FIRST_ROWS, _COLUMNS)
        self._codes: dict[tuple[str, str], int] = {}
        self._roles: dict[tuple[str, ...], int] = {}

    def put(self, item: MemoryItem, vector: NDArray[np.float32]) -> None:
        row = self.rows.get(item.id)
        if row is None:
            row = len(self.items)
            if row == len(self.vectors):
                self.vectors = np.concatenate([self.vectors, np.zeros_like(self.vectors)])
                self.columns = np.concatenate([self.columns, np.zeros_like(self.columns)])
            self.items.append(item)
            self.rows[item.id] = row
        else:
            self._forget_key(self.items[row])
            self.items[row] = item
        self.keys.setdefault(item.key, set()).add(item.id)
        self.vectors[row] = vector
        self.columns[row] = (
            _KIND_CODES[item.kind],
            self._code("user", item.user),
            self._code("reader", item.private_to),
            self._code("thread", item.thread if item.kind in THREAD_KINDS else None),
            self._roles.setdefault(item.roles, len(self._roles)) if item.roles else NOBODY,
            -np.inf if item.valid_from is None else item.valid_from,
            np.inf if item.valid_until is None else item.valid_until,
            item.superseded_by is None,
        )

    def remove(self, item_id: str) -> bool:
        """Take one item out; the last row moves into its place. Whether it was there."""
        row = self.rows.pop(item_id, None)
        if row is None:
            return False
        self._forget_key(self.items[row])
        last = self.items.pop()
        if row < len(self.items):
            self.items[row] = last
            self.rows[last.id] = row
            self.vectors[row] = self.vectors[len(self.items)]
            self.columns[row] = self.columns[len(self.items)]
        return True

    def mask(self, where: MemoryFilter | None, now: float) -> NDArray[np.bool_]:
        """`matches` for every row, shape (n,)."""
        n = len(self.items)
        if where is None:
            return np.ones(n, np.bool_)
        c = self.columns[:n]
        at = now if where.at is None else where.at
        keep = (at >= c["start"]) & (at < c["end"])
        keep &= self._open_to("user", c["user"], where.user)
        keep &= self._open_to("reader", c["reader"], where.agent)
        keep &= self._open_to("thread", c["thread"], where.thread)
        keep &= _any_of(c["roles"], [NOBODY, *(code for names, code in self._roles.items() if where.role in names)])
        if where.kinds is not None:
            keep &= _any_of(c["kind"], [_KIND_CODES[kind] for kind in where.kinds])
        if not where.superseded:
            keep &= c["live"]
        return keep

    def search(self, query: NDArray[np.float32], k: int, where: MemoryFilter | None, now: float) -> list[Found]:
        rows = np.flatnonzero(self.mask(where, now))
        scores = self._similarities(query)[rows]
        if k < len(rows):
            best = np.argpartition(-scores, k - 1)[:k]
            rows, scores = rows[best], scores[best]
        order = np.lexsort((rows, -scores))
        best_rows, best_scores = rows[order].tolist(), scores[order].tolist()
        return [Found(self.items[row], score) for row, score in zip(best_rows, best_scores, strict=True)]

    def _similarities(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Cosine of every row with `query`, shape (n,)."""
        # not `@`: its threads wake for every product, and on a busy machine wait for each other
        return np.einsum("ij,j->i", self.vectors[: len(self.items)], query)

    def _open_to(self, column: str, codes: NDArray[np.int32], name: str | None) -> NDArray[np.bool_]:
        own = self._codes.get((column, name), NOBODY) if name is not None else NOBODY
        return (codes == NOBODY) | (codes == own)

    def _code(self, column: str, value: str | None) -> int:
        if value is None:
            return NOBODY
        return self._codes.setdefault((column, value), len(self._codes))

    def _forget_key(self, item: MemoryItem) -> None:
        ids = self.keys[item.key]
        ids.discard(item.id)
        if not ids:
            del self.keys[item.key]


def _any_of(codes: NDArray[np.int32], wanted: Sequence[int]) -> NDArray[np.bool_]:
    keep = np.zeros(len(codes), np.bool_)
    for code in wanted:
        keep |= codes == code
    return keep
