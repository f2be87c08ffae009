"""What every memory store promises."""

import asyncio
from typing import Any, ClassVar

import numpy as np

from agentmesh.errors import StoreError
from agentmesh.memory.base import Found, KeyedStore, MemoryFilter, MemoryStore
from agentmesh.models.scripted import ScriptedEmbedder
from agentmesh.testing.contracts.base import Contract, Made, expect, promise
from agentmesh.types import MemoryItem, MemoryKind

__all__ = ["MemoryStoreContract"]

AT = 1_800_000_000.0
"""The time at which the checks that depend on one ask, seconds since 1970."""
TENANTS = ("acme", "Acme", "acme ", "a/b", "../acme", "a:b\\c", "мир 🌍", "x" * 200)
"""Names that a file system or a database could take for one another."""
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


class MemoryStoreContract(Contract[MemoryStore]):
    """Checks a memory store. Give `make`: an empty store for the vectors of `embedder`."""

    noun = "MemoryStore"
    protocol = MemoryStore
    embedder: ClassVar[ScriptedEmbedder] = ScriptedEmbedder(64)
    """Makes the vectors: 64 dimensions, named `scripted-64`."""

    def make(self) -> Made[MemoryStore]:
        """The store under test: empty, for vectors of `embedder`."""
        return super().make()

    async def add(self, store: MemoryStore, tenant: str, *items: MemoryItem) -> None:
        """Add these items with the vectors of their texts."""
        await store.add(tenant, items, await self.embedder.embed([item.text for item in items]))

    async def find(self, store: MemoryStore, tenant: str, text: str, **options: Any) -> list[Found]:
        """What a search for this text finds."""
        query = (await self.embedder.embed([text]))[0]
        return await store.search(tenant, query, k=options.get("k", 10), where=options.get("where"))

    @promise("it names the embedder whose vectors it holds")
    async def test_it_names_its_embedder(self, store: MemoryStore) -> None:
        named = store.embedder_name
        expect(named == self.embedder.name, f"it is for vectors of {named!r}; make it for {self.embedder.name!r}")

    @promise("an item comes back as it was, by id, in the list and from a search, flushed or not")
    async def test_item_comes_back_as_it_was(self, store: MemoryStore) -> None:
        plain = _item("plain", "Nothing but a text.")
        await self.add(store, "acme", FULL, plain)
        for flushed in ("", " after flush"):
            got = await store.get("acme", ["plain", "missing", "full"])
            expect(got == [plain, FULL], f"get{flushed} gave {_ids(got)} or changed a field")
            everything = await store.list("acme")
            expect(everything == [plain, FULL], f"list{flushed} gave {_ids(everything)} or changed a field")
            best = await self.find(store, "acme", FULL.text, k=1)
            expect([hit.item for hit in best] == [FULL], f"search{flushed} gave {_ids(h.item for h in best)}")
            expect(abs(best[0].similarity - 1.0) < 1e-4, f"an item is {best[0].similarity:g} like itself, not 1")
            await store.flush()

    @promise("a tenant never sees another's items by any path")
    async def test_tenants_never_meet(self, store: MemoryStore) -> None:
        for n, tenant in enumerate(TENANTS):
            await self.add(store, tenant, _item("same", f"the secret of number {n}", key="k", tenant=tenant))
        await store.flush()
        for n, tenant in enumerate(TENANTS):
            paths = {
                "search": [hit.item for hit in await self.find(store, tenant, "secret number")],
                "get": await store.get(tenant, ["same"]),
                "list": await store.list(tenant),
            }
            if isinstance(store, KeyedStore):
                paths["by_key"] = list(await store.by_key(tenant, ["k"]))
            for path, items in paths.items():
                texts = [item.text for item in items]
                expect(texts == [f"the secret of number {n}"], f"{path} for the tenant {tenant[:20]!r} gave {texts}")
        await store.delete("acme", ["same"])
        expect(await store.get("acme", ["same"]) == [], "a deleted item is still there")
        for tenant in TENANTS[1:]:
            expect(len(await store.get(tenant, ["same"])) == 1, f"a delete for 'acme' deleted of {tenant[:20]!r}")
        stranger = [*await store.list("nobody"), *(h.item for h in await self.find(store, "nobody", "secret"))]
        expect(not stranger, f"a tenant without items sees {len(stranger)}")

    @promise("an item belongs to the tenant that it was added for")
    async def test_item_belongs_to_the_tenant_it_was_added_for(self, store: MemoryStore) -> None:
        await self.add(store, "acme", _item("a", "whose is it", tenant="other"))
        expect([i.tenant for i in await store.get("acme", ["a"])] == ["acme"], "it does not carry its tenant's name")
        expect(await store.get("other", ["a"]) == [], "the tenant that its field named sees it")

    @promise("a filter lets through what the reader may see and nothing else, in lists and searches alike")
    async def test_filter_shows_only_what_the_reader_may_see(self, store: MemoryStore) -> None:
        await self.add(
            store,
            "acme",
            *(
                _item(name, f"the router {name}", **fields)
                for name, fields in {
                    "open": {},
                    "fact": {"kind": "fact"},
                    "of_u1": {"user": "u1"},
                    "of_u2": {"user": "u2"},
                    "for_solvers": {"roles": ("solver", "checker")},
                    "of_vpn": {"private_to": "vpn"},
                    "turn_t1": {"kind": "dialogue", "thread": "t1"},
                    "answer_t1": {"kind": "answer", "thread": "t1"},
                    "fact_t1": {"kind": "fact", "thread": "t1"},
                    "expired": {"valid_until": AT},
                    "future": {"valid_from": AT + 0.5},
                    "current": {"valid_from": AT, "valid_until": AT + 1},
                    "old": {"superseded_by": "open"},
                }.items()
            ),
        )
        public = {"open", "fact", "fact_t1", "current"}
        cases: list[tuple[dict[str, Any], set[str]]] = [
            ({}, public),
            ({"user": "u1"}, public | {"of_u1"}),
            ({"role": "solver"}, public | {"for_solvers"}),
            ({"role": "writer"}, public),
            ({"agent": "vpn"}, public | {"of_vpn"}),
            ({"agent": "email"}, public),
            ({"thread": "t1"}, public | {"turn_t1", "answer_t1"}),
            ({"thread": "t2"}, public),
            ({"kinds": (MemoryKind.FACT,)}, {"fact", "fact_t1"}),
            ({"kinds": ()}, set()),
            ({"at": AT - 1}, public - {"current"} | {"expired"}),
            ({"at": AT + 0.5}, public | {"future"}),
            ({"superseded": True}, public | {"old"}),
            (
                {"user": "u2", "role": "checker", "agent": "vpn", "thread": "t1", "kinds": (MemoryKind.EVIDENCE,)},
                {"open", "of_u2", "for_solvers", "of_vpn", "current"},
            ),
        ]
        for flushed in ("", " after flush"):
            for fields, expected in cases:
                where = MemoryFilter.model_validate({"at": AT, **fields})
                listed = {item.id for item in await store.list("acme", where)}
                _same(f"list{flushed} with {fields}", listed, expected)
                found = [h.item.id for h in await self.find(store, "acme", "router", k=50, where=where)]
                _same(f"search{flushed} with {fields}", set(found), expected)
                two = await self.find(store, "acme", "router", k=2, where=where)
                expect(
                    len(two) == min(2, len(expected)) and {h.item.id for h in two} <= expected,
                    f"search{flushed} with {fields} and k=2 gave {_ids(h.item for h in two)}: the filter comes first",
                )
            everything = await self.find(store, "acme", "router", k=50)
            expect(len(everything) == 13, f"search{flushed} without a filter found {len(everything)} of 13")
            await store.flush()

    @promise("a search gives the most similar first, with their cosines, and no more than k")
    async def test_search_gives_the_best_first(self, store: MemoryStore) -> None:
        texts = {"far": "billing invoice payment", "near": "vpn tunnel drops hourly", "nearer": "vpn tunnel drops"}
        await self.add(store, "acme", *(_item(name, text) for name, text in texts.items()))
        found = await self.find(store, "acme", "vpn tunnel drops", k=3)
        expect([h.item.id for h in found] == ["nearer", "near", "far"], f"the order was {_ids(h.item for h in found)}")
        worked = (1.0, 3 / 12**0.5, 0.0)
        expect(
            all(abs(hit.similarity - cosine) < 1e-4 for hit, cosine in zip(found, worked, strict=True)),
            f"the similarities are {[round(h.similarity, 4) for h in found]}, not {[round(c, 4) for c in worked]}",
        )
        for k in (1, 0):
            few = await self.find(store, "acme", "vpn tunnel drops", k=k)
            expect([h.item.id for h in few] == ["nearer"][:k], f"k={k} gave {_ids(h.item for h in few)}")

    @promise("adding an id again replaces the item, with its vector")
    async def test_adding_again_replaces(self, store: MemoryStore) -> None:
        old, new = _item("a", "blue sky", key="k1", user="u1"), _item("a", "green grass", key="k2")
        await self.add(store, "acme", old)
        await store.flush()
        await self.add(store, "acme", new)
        for flushed in ("", " after flush"):
            listed = await store.list("acme", MemoryFilter())
            expect(listed == [new], f"list{flushed} gave {[i.text for i in listed]}")
            found = await self.find(store, "acme", "green grass")
            expect(
                [h.item for h in found] == [new] and found[0].similarity > 0.99,
                f"search{flushed} for the new text gave {[(h.item.text, round(h.similarity, 2)) for h in found]}",
            )
            await store.flush()

    @promise("of two items with one id in one batch the last one stays")
    async def test_last_of_one_id_stays(self, store: MemoryStore) -> None:
        await self.add(store, "acme", _item("a", "first"), _item("a", "second"))
        listed = [item.text for item in await store.list("acme")]
        expect(listed == ["second"], f"there are {listed}")

    @promise("a list is oldest first, and get keeps the order that it was asked in")
    async def test_lists_are_oldest_first(self, store: MemoryStore) -> None:
        ages = {"x": 3.0, "y": 1.0, "z": 2.0}
        await self.add(store, "acme", *(_item(i, f"text {i}", created_at=at) for i, at in ages.items()))
        listed = [item.id for item in await store.list("acme")]
        expect(listed == ["y", "z", "x"], f"the list is {listed}")
        got = [item.id for item in await store.get("acme", ["z", "x", "y"])]
        expect(got == ["z", "x", "y"], f"get gave {got}")

    @promise("delete says how many were there, and they stay away")
    async def test_delete_counts_and_lasts(self, store: MemoryStore) -> None:
        await self.add(store, "acme", *(_item(i, f"text {i}") for i in "abc"))
        await store.flush()
        count = await store.delete("acme", ["a", "nope", "c"])
        expect(count == 2, f"2 of 3 ids were there, and it said {count}")
        count = await store.delete("acme", ["a"])
        expect(count == 0, f"the item was deleted already, and it said {count}")
        await store.flush()
        left = [item.id for item in await store.list("acme")]
        expect(left == ["b"], f"the list still has {left}")
        found = [h.item.id for h in await self.find(store, "acme", "text")]
        expect(found == ["b"], f"a search still finds {found}")
        await self.add(store, "acme", _item("a", "text a again"))
        expect(len(await store.get("acme", ["a"])) == 1, "an id that was deleted cannot be added again")

    @promise("vectors that do not fit are refused with a StoreError, and nothing of them is kept")
    async def test_vectors_that_do_not_fit_are_refused(self, store: MemoryStore) -> None:
        size, item = self.embedder.dimensions, _item("a", "x")
        for what, shape, fill in (
            ("of another embedder's length", (1, size // 2), 1.0),
            ("of two rows for one item", (2, size), 1.0),
            ("with NaN in them", (1, size), np.nan),
        ):
            try:
                await store.add("acme", [item], np.full(shape, fill, np.float32))
            except StoreError:
                continue
            expect(False, f"it took vectors {what}")
        try:
            await store.search("acme", np.ones(size // 2, np.float32), k=1)
        except StoreError:
            left = await store.list("acme")
            expect(left == [], f"an item whose vector was refused is kept: {_ids(left)}")
            return
        expect(False, "it searched with a query of another embedder's length")

    @promise("nothing to add, to get or to delete does no harm")
    async def test_nothing_does_no_harm(self, store: MemoryStore) -> None:
        await store.add("acme", [], np.zeros((0, self.embedder.dimensions), np.float32))
        expect(await store.get("acme", []) == [], "get of no ids gave something")
        expect(await store.delete("acme", []) == 0, "delete of no ids deleted something")
        expect(await store.flush() == 0, "a flush of nothing wrote something")

    @promise("what is added at the same time is all there")
    async def test_items_added_at_the_same_time_are_all_there(self, store: MemoryStore) -> None:
        await asyncio.gather(*(self.add(store, "acme", _item(f"i{n}", f"text {n}")) for n in range(20)))
        listed = await store.list("acme")
        expect(len(listed) == 20, f"{len(listed)} of 20 are there")

    @promise("versions are found by their key, oldest first")
    async def test_versions_are_found_by_key(self, store: MemoryStore) -> None:
        if not isinstance(store, KeyedStore):
            return
        old, new = _item("old", "blue", key="k", superseded_by="new"), _item("new", "green", key="k", created_at=1.0)
        await self.add(store, "acme", new, old, _item("other", "red", key="k2"))
        found = await store.by_key("acme", ["k"])
        expect(list(found) == [old, new], f"by_key gave {_ids(found)}")
        expect(list(await store.by_key("acme", [])) == [], "no keys gave something")

    @promise("closing twice is fine")
    async def test_closing_twice_is_fine(self, store: MemoryStore) -> None:
        await self.add(store, "acme", _item("a", "x"))
        await store.aclose()
        await store.aclose()


def _item(id: str, text: str, **fields: Any) -> MemoryItem:
    return MemoryItem.model_validate({"id": id, "text": text, "tenant": "acme", **fields})


def _ids(items: Any) -> list[str]:
    return [item.id for item in items]


def _same(what: str, got: set[str], expected: set[str]) -> None:
    extra, lost = sorted(got - expected), sorted(expected - got)
    expect(not extra, f"{what} showed {extra}, which this reader may not see")
    expect(not lost, f"{what} lost {lost}")
