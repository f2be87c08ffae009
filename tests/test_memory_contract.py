"""Every memory store of ours keeps the promises of its protocol, and some more."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import numpy as np
import pytest

from agentmesh.errors import StoreError
from agentmesh.memory.base import KeyedStore, MemoryFilter
from agentmesh.testing import MemoryStoreContract
from agentmesh.types import MemoryItem
from tests.memory_kit import DIMENSIONS, EMBEDDER, NOW, ODD_TENANTS, STORES, remember, texts_found


@pytest.fixture(params=sorted(STORES))
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KeyedStore]:
    async with STORES[request.param](tmp_path / "memory") as opened:
        yield opened


class TestStores(MemoryStoreContract):
    """What every store promises, of each of ours."""

    @pytest.fixture(autouse=True, params=sorted(STORES))
    def named(self, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        self.name, self.folder = request.param, tmp_path / "memory"

    def make(self) -> AbstractAsyncContextManager[KeyedStore]:
        return STORES[self.name](self.folder)


def test_store_finds_keys(store: KeyedStore) -> None:
    assert isinstance(store, KeyedStore)


async def test_text_with_half_a_surrogate_pair_does_not_spoil_the_batch(store: KeyedStore) -> None:
    odd = MemoryItem(id="odd", text="broken \ud800 emoji", key="\udfff", user="\ud83d", thread="\ud800", tenant="acme")
    await remember(store, "acme", odd, MemoryItem(id="plain", text="whole", tenant="acme"))
    await store.flush()
    assert await store.get("acme", ["odd"]) == [odd]
    assert await store.by_key("acme", ["\udfff"]) == [odd]
    assert len(await store.list("acme", MemoryFilter(user="\ud83d"))) == 2


async def test_tenants_never_meet(store: KeyedStore) -> None:
    names = ["acme", "Acme", *ODD_TENANTS]
    for n, tenant in enumerate(names):
        await remember(store, tenant, MemoryItem(id="same", text=f"the secret of number {n}", key="k", tenant=tenant))
    for n, tenant in enumerate(names):
        text = f"the secret of number {n}"
        assert await texts_found(store, tenant, "secret number") == [text]
        assert [item.text for item in await store.get(tenant, ["same"])] == [text]
        assert [item.text for item in await store.list(tenant)] == [text]
        assert [item.text for item in await store.by_key(tenant, ["k"])] == [text]
    assert await store.delete("acme", ["same"]) == 1
    assert await store.get("acme", ["same"]) == []
    assert len(await store.get("Acme", ["same"])) == 1
    assert await store.list("nobody") == []
    assert await texts_found(store, "nobody", "secret") == []


async def test_without_a_time_the_stores_clock_says_what_is_valid(store: KeyedStore) -> None:
    times = {
        "always": {},
        "expired": {"valid_until": NOW},
        "future": {"valid_from": NOW + 0.5},
        "current": {"valid_from": NOW, "valid_until": NOW + 1},
    }
    items = [MemoryItem.model_validate({"id": n, "text": f"the router {n}", **fields}) for n, fields in times.items()]
    await remember(store, "acme", *items)
    query = (await EMBEDDER.embed(["router"]))[0]
    for _ in range(2):
        for where in (MemoryFilter(), MemoryFilter(at=NOW)):
            assert {i.id for i in await store.list("acme", where)} == {"always", "current"}
            found = await store.search("acme", query, k=50, where=where)
            assert {hit.item.id for hit in found} == {"always", "current"}
        await store.flush()


async def test_an_item_that_is_replaced_is_no_longer_found_under_its_old_key(store: KeyedStore) -> None:
    await remember(store, "acme", MemoryItem(id="a", text="blue sky", key="k1", tenant="acme"))
    await store.flush()
    new = MemoryItem(id="a", text="green grass", key="k2", tenant="acme")
    await remember(store, "acme", new)
    assert await store.by_key("acme", ["k1"]) == []
    assert await store.by_key("acme", ["k2"]) == [new]


async def test_two_items_with_one_id_in_a_batch_are_one_write(store: KeyedStore) -> None:
    await remember(store, "acme", *(MemoryItem(id="a", text=text, tenant="acme") for text in ("first", "second")))
    assert await store.flush() in (0, 1)


async def test_an_id_that_is_asked_for_twice_is_given_twice(store: KeyedStore) -> None:
    await remember(store, "acme", *(MemoryItem(id=i, text=f"text {i}", tenant="acme") for i in "xyz"))
    assert [item.id for item in await store.get("acme", ["z", "x", "y", "z"])] == ["z", "x", "y", "z"]


async def test_vectors_that_do_not_fit_are_refused_with_the_next_step(store: KeyedStore) -> None:
    item = MemoryItem(id="a", text="x", tenant="acme")
    with pytest.raises(StoreError, match=r"8 dimensions.*memory\.embedder"):
        await store.add("acme", [item], np.ones((1, 8), np.float32))
    with pytest.raises(StoreError, match="one row for each"):
        await store.add("acme", [item], np.ones((2, DIMENSIONS), np.float32))
    with pytest.raises(StoreError, match="NaN"):
        await store.add("acme", [item], np.full((1, DIMENSIONS), np.nan, np.float32))
    with pytest.raises(StoreError, match="8 dimensions"):
        await store.search("acme", np.ones(8, np.float32), k=1)
    assert await store.list("acme") == []
