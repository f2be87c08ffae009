"""What every memory store of ours promises."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from agentmesh.errors import StoreError
from agentmesh.memory.base import KeyedStore, MemoryFilter, MemoryStore
from agentmesh.types import MemoryItem, MemoryKind
from tests.memory_kit import DIMENSIONS, EMBEDDER, NOW, ODD_TENANTS, STORES, remember, texts_found, vectors_of


@pytest.fixture(params=sorted(STORES))
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KeyedStore]:
    async with STORES[request.param](tmp_path / "memory") as opened:
        yield opened


FULL = MemoryItem(
    id="full",
    text="Every field is set: naïve «quotes», \\ and \n a line, 🌍, 1.5 GB.",
    kind=MemoryKind.ANSWER,
    key="answer/t1/vpn/r2",
    source="a file > a heading",
    tenant="acme",
    user="u7",
    author="vpn",
    run_id="r-1",
    thread="t1",
    stage="check",
    round=2,
    roles=("solver", "checker"),
    private_to="vpn",
    trust=0.1 + 0.2,
    lineage=("a", "b"),
    created_at=1234567890.1234567,
    valid_from=0.1,
    valid_until=2e9 + 1 / 3,
    superseded_by="newer",
)


def test_store_is_a_memory_store_that_finds_keys(store: KeyedStore) -> None:
    assert isinstance(store, MemoryStore)
    assert isinstance(store, KeyedStore)
    assert store.embedder_name == EMBEDDER.name


async def test_an_item_comes_back_as_it_was(store: KeyedStore) -> None:
    plain = MemoryItem(id="plain", text="Nothing but a text.", tenant="acme")
    await remember(store, "acme", FULL, plain)
    await store.flush()
    assert await store.get("acme", ["plain", "missing", "full"]) == [plain, FULL]
    assert await store.list("acme") == [plain, FULL]
    query = (await vectors_of([FULL]))[0]
    best = (await store.search("acme", query, k=1))[0]
    assert best.item == FULL
    assert best.similarity == pytest.approx(1.0, abs=1e-5)


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


async def test_an_item_belongs_to_the_tenant_that_it_was_added_for(store: KeyedStore) -> None:
    await remember(store, "acme", MemoryItem(id="a", text="whose is it", tenant="other"))
    assert [item.tenant for item in await store.get("acme", ["a"])] == ["acme"]
    assert await store.get("other", ["a"]) == []


async def test_a_filter_shows_only_what_the_reader_may_see(store: KeyedStore) -> None:
    def item(name: str, **fields: object) -> MemoryItem:
        return MemoryItem.model_validate({"id": name, "text": f"the router {name}", "tenant": "acme", **fields})

    await remember(
        store,
        "acme",
        item("open"),
        item("fact", kind="fact"),
        item("of_u1", user="u1"),
        item("of_u2", user="u2"),
        item("for_solvers", roles=("solver", "checker")),
        item("of_vpn", private_to="vpn"),
        item("turn_t1", kind="dialogue", thread="t1"),
        item("answer_t1", kind="answer", thread="t1"),
        item("fact_t1", kind="fact", thread="t1"),
        item("expired", valid_until=NOW),
        item("future", valid_from=NOW + 0.5),
        item("current", valid_from=NOW, valid_until=NOW + 1),
        item("old", superseded_by="open"),
    )
    public = {"open", "fact", "fact_t1", "current"}
    cases = [
        (MemoryFilter(), public),
        (MemoryFilter(user="u1"), public | {"of_u1"}),
        (MemoryFilter(role="solver"), public | {"for_solvers"}),
        (MemoryFilter(role="writer"), public),
        (MemoryFilter(agent="vpn"), public | {"of_vpn"}),
        (MemoryFilter(agent="email"), public),
        (MemoryFilter(thread="t1"), public | {"turn_t1", "answer_t1"}),
        (MemoryFilter(thread="t2"), public),
        (MemoryFilter(kinds=(MemoryKind.FACT,)), {"fact", "fact_t1"}),
        (MemoryFilter(kinds=()), set[str]()),
        (MemoryFilter(at=NOW - 1), public - {"current"} | {"expired"}),
        (MemoryFilter(at=NOW + 0.5), public | {"future"}),
        (MemoryFilter(superseded=True), public | {"old"}),
        (MemoryFilter(user="u2", role="checker", agent="vpn", thread="t1", kinds=(MemoryKind.EVIDENCE,)),
         {"open", "of_u2", "for_solvers", "of_vpn", "current"}),
    ]  # fmt: skip
    query = (await EMBEDDER.embed(["router"]))[0]
    for flushed in (False, True):
        if flushed:
            await store.flush()
        for where, expected in cases:
            assert {i.id for i in await store.list("acme", where)} == expected, where
            assert {hit.item.id for hit in await store.search("acme", query, k=50, where=where)} == expected, where
            two = await store.search("acme", query, k=2, where=where)
            assert len(two) == min(2, len(expected))
            assert {hit.item.id for hit in two} <= expected
        assert len(await store.search("acme", query, k=50)) == 13


async def test_search_gives_the_best_first_and_no_more_than_k(store: KeyedStore) -> None:
    await remember(
        store,
        "acme",
        MemoryItem(id="far", text="billing invoice payment", tenant="acme"),
        MemoryItem(id="near", text="vpn tunnel drops hourly", tenant="acme"),
        MemoryItem(id="nearer", text="vpn tunnel drops", tenant="acme"),
    )
    query = (await EMBEDDER.embed(["vpn tunnel drops"]))[0]
    found = await store.search("acme", query, k=3)
    assert [hit.item.id for hit in found] == ["nearer", "near", "far"]
    assert [hit.similarity for hit in found] == pytest.approx([1.0, 3 / 12**0.5, 0.0], abs=1e-5)
    assert [hit.item.id for hit in await store.search("acme", query, k=1)] == ["nearer"]
    assert await store.search("acme", query, k=0) == []


async def test_adding_the_same_id_again_replaces_the_item(store: KeyedStore) -> None:
    old = MemoryItem(id="a", text="blue sky", key="k1", user="u1", tenant="acme")
    new = MemoryItem(id="a", text="green grass", key="k2", tenant="acme")
    await remember(store, "acme", old)
    await store.flush()
    await remember(store, "acme", new)
    assert await store.list("acme", MemoryFilter()) == [new]
    assert await store.by_key("acme", ["k1"]) == []
    assert await store.by_key("acme", ["k2"]) == [new]
    await store.flush()
    query = (await EMBEDDER.embed(["green grass"]))[0]
    found = await store.search("acme", query, k=5)
    assert [hit.item for hit in found] == [new]
    assert found[0].similarity > 0.99


async def test_the_last_of_two_items_with_one_id_in_a_batch_stays(store: KeyedStore) -> None:
    await remember(store, "acme", *(MemoryItem(id="a", text=text, tenant="acme") for text in ("first", "second")))
    assert await store.flush() in (0, 1)
    assert [item.text for item in await store.list("acme")] == ["second"]


async def test_items_are_listed_oldest_first_and_got_in_the_order_asked(store: KeyedStore) -> None:
    items = [
        MemoryItem(id=i, text=f"text {i}", tenant="acme", created_at=at) for i, at in (("x", 3), ("y", 1), ("z", 2))
    ]
    await remember(store, "acme", *items)
    assert [item.id for item in await store.list("acme")] == ["y", "z", "x"]
    assert [item.id for item in await store.get("acme", ["z", "x", "y", "z"])] == ["z", "x", "y", "z"]


async def test_delete_counts_what_was_there_and_it_stays_away(store: KeyedStore) -> None:
    await remember(store, "acme", *(MemoryItem(id=i, text=f"text {i}", tenant="acme") for i in "abc"))
    await store.flush()
    assert await store.delete("acme", ["a", "nope", "c"]) == 2
    assert await store.delete("acme", ["a"]) == 0
    await store.flush()
    assert [item.id for item in await store.list("acme")] == ["b"]
    assert await texts_found(store, "acme", "text") == ["text b"]
    await remember(store, "acme", MemoryItem(id="a", text="text a again", tenant="acme"))
    assert [item.text for item in await store.get("acme", ["a"])] == ["text a again"]


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


async def test_nothing_is_added_got_or_deleted_without_harm(store: KeyedStore) -> None:
    await store.add("acme", [], np.zeros((0, DIMENSIONS), np.float32))
    assert await store.get("acme", []) == []
    assert await store.delete("acme", []) == 0
    assert await store.by_key("acme", []) == []
    assert await store.flush() == 0


async def test_closing_twice_is_fine(store: KeyedStore) -> None:
    await remember(store, "acme", MemoryItem(id="a", text="x", tenant="acme"))
    await store.aclose()
    await store.aclose()
