"""Memory in arrays: the rule of who reads what, and the same rule vectorised."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh.memory.arrays import ArrayStore, matches
from agentmesh.memory.base import MemoryFilter
from agentmesh.types import MemoryItem, MemoryKind
from tests.memory_kit import NOW, FixedClock

NAMES = st.sampled_from([None, "", "a", "b"])
TIMES = st.sampled_from([None, 0.0, NOW - 1, NOW, NOW + 1])
ITEMS = st.builds(
    MemoryItem,
    id=st.sampled_from([f"i{n}" for n in range(8)]),
    text=st.just("text"),
    kind=st.sampled_from(MemoryKind),
    key=st.sampled_from(["", "k", "l"]),
    tenant=st.just("t"),
    user=NAMES,
    private_to=NAMES,
    thread=NAMES,
    roles=st.sampled_from([(), ("a",), ("a", "b"), ("",)]),
    valid_from=TIMES,
    valid_until=TIMES,
    superseded_by=NAMES,
)
FILTERS = st.none() | st.builds(
    MemoryFilter,
    kinds=st.none() | st.lists(st.sampled_from(MemoryKind), max_size=3).map(tuple),
    user=NAMES,
    role=NAMES,
    agent=NAMES,
    thread=NAMES,
    at=TIMES,
    superseded=st.booleans(),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.booleans(), ITEMS), max_size=20), FILTERS)
async def test_columns_say_what_the_rule_says_after_any_additions_and_deletions(
    steps: list[tuple[bool, MemoryItem]], where: MemoryFilter | None
) -> None:
    store, expected = ArrayStore("e", 4, clock=FixedClock()), dict[str, MemoryItem]()
    for adds, item in steps:
        if adds:
            await store.add("t", [item], np.ones((1, 4), np.float32))
            expected[item.id] = item
        else:
            assert await store.delete("t", [item.id]) == (expected.pop(item.id, None) is not None)
    seen = {item.id for item in expected.values() if matches(item, where, NOW)}
    assert {item.id for item in await store.list("t", where)} == seen
    assert {hit.item.id for hit in await store.search("t", np.ones(4, np.float32), k=99, where=where)} == seen
    of_key = {item.id for item in expected.values() if item.key == "k"}
    assert {item.id for item in await store.by_key("t", ["k"])} == of_key


@pytest.mark.parametrize(
    ("fields", "where", "seen"),
    [
        ({"valid_until": NOW}, MemoryFilter(), False),
        ({"valid_until": NOW}, None, True),
        ({"valid_from": NOW}, MemoryFilter(), True),
        ({"user": "u"}, MemoryFilter(user="u"), True),
        ({"user": "u"}, MemoryFilter(), False),
        ({"roles": ("r",)}, MemoryFilter(), False),
        ({"private_to": "a"}, MemoryFilter(agent="b"), False),
        ({"thread": "t1", "kind": "dialogue"}, MemoryFilter(), False),
        ({"thread": "t1", "kind": "tool_output"}, MemoryFilter(), True),
    ],
)
def test_who_is_not_named_reads_only_what_is_nobodys_own(
    fields: dict[str, object], where: MemoryFilter | None, seen: bool
) -> None:
    item = MemoryItem.model_validate({"id": "i", "text": "x", **fields})
    assert matches(item, where, NOW) is seen


async def test_items_of_equal_similarity_keep_the_order_in_which_they_came() -> None:
    store = ArrayStore("e", 2)
    await store.add("t", [MemoryItem(id=i, text="x") for i in "dacb"], np.ones((4, 2), np.float32))
    found = await store.search("t", np.ones(2, np.float32), k=4)
    assert [hit.item.id for hit in found] == ["d", "a", "c", "b"]
