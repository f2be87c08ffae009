"""The way into shared memory: identity, versions, duplicates, trust."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh.errors import StoreError
from agentmesh.memory.arrays import ArrayStore
from agentmesh.memory.base import MemoryFilter
from agentmesh.memory.writer import Draft, MemoryWriter, WriteReport, drafts_from_reply, drafts_from_turn, item_id
from agentmesh.types import (
    AgentCall,
    AgentCard,
    AgentReply,
    CitedSentence,
    MemoryItem,
    MemoryKind,
    Message,
    ReplyStatus,
    Task,
)
from tests.memory_kit import DIMENSIONS, EMBEDDER, NOW, FixedClock

TENANT = "acme"


def writer() -> MemoryWriter:
    clock = FixedClock()
    return MemoryWriter(ArrayStore(EMBEDDER.name, DIMENSIONS, clock=clock), EMBEDDER, clock=clock)


async def read(to: MemoryWriter, **where: object) -> list[str]:
    return [item.text for item in await to.store.list(TENANT, MemoryFilter.model_validate(where))]


async def test_a_draft_becomes_an_item_with_all_its_fields() -> None:
    to = writer()
    draft = Draft(
        text="The hub restarts at 4:00.", kind=MemoryKind.FACT, key="hub", source="manual", author="devices", user="u1",
        roles=("solver",), private_to="devices", trust=0.7, valid_from=1.0, valid_until=2e9, run_id="r", thread="t",
        stage="check", round=2,
    )  # fmt: skip
    report = await to.write(TENANT, [draft])
    assert report == WriteReport(added=1, item_ids=(item_id(draft),))
    item = (await to.store.get(TENANT, report.item_ids))[0]
    assert item == MemoryItem(id=item_id(draft), tenant=TENANT, created_at=NOW, **draft.model_dump())


async def test_writing_the_same_again_changes_nothing() -> None:
    to = writer()
    drafts = [Draft(text=f"note number {n}", source="file") for n in range(3)]
    first = await to.write(TENANT, drafts)
    before = await to.store.list(TENANT)
    again = await to.write(TENANT, [drafts[0].model_copy(update={"text": "  NOTE   number 0"}), *drafts[1:]])
    assert again == WriteReport(merged=3, item_ids=first.item_ids)
    assert await to.store.list(TENANT) == before
    assert [item.key for item in before] == ["file/0", "file/1", "file/2"]


async def test_the_id_depends_on_what_it_is_and_for_whom() -> None:
    draft = Draft(text="Same text", key="k")
    others = [
        draft.model_copy(update=change)
        for change in ({"key": "l"}, {"kind": MemoryKind.FACT}, {"text": "Other"}, {"user": "u"}, {"private_to": "u"})
    ]
    assert len({item_id(d) for d in (draft, *others)}) == 6
    assert item_id(draft) == item_id(draft.model_copy(update={"text": " same  TEXT", "source": "elsewhere"}))
    assert len(item_id(draft)) == 24


async def test_another_text_under_the_same_key_supersedes_the_old_one_which_is_kept() -> None:
    to = writer()
    old = await to.write(TENANT, [Draft(text="Refunds take 30 days.", key="refunds")])
    new = await to.write(TENANT, [Draft(text="Refunds take 14 days.", key="refunds")])
    assert (new.added, new.superseded) == (1, 1)
    assert await read(to) == ["Refunds take 14 days."]
    assert (await to.store.get(TENANT, old.item_ids))[0].superseded_by == new.item_ids[0]
    query = (await EMBEDDER.embed(["Refunds take 30 days."]))[0]
    found = await to.store.search(TENANT, query, k=1, where=MemoryFilter(superseded=True))
    assert (found[0].item.text, found[0].similarity) == ("Refunds take 30 days.", pytest.approx(1.0))


async def test_the_old_text_written_again_becomes_the_current_one_again() -> None:
    to = writer()
    for text in ("Version A.", "Version B.", "Version A."):
        await to.write(TENANT, [Draft(text=text, key="k")])
    assert await read(to) == ["Version A."]
    assert len(await to.store.list(TENANT)) == 2


async def test_versions_within_one_write_count_in_their_order() -> None:
    to = writer()
    report = await to.write(TENANT, [Draft(text=f"State {n}", key="k") for n in ("one", "two", "three")])
    assert (report.added, report.superseded) == (3, 2)
    assert await read(to) == ["State three"]


@pytest.mark.parametrize("change", [{"user": "u2"}, {"private_to": "billing"}])
async def test_a_version_for_other_readers_supersedes_nothing(change: dict[str, str]) -> None:
    to = writer()
    await to.write(TENANT, [Draft(text="Blue plan.", key="plan", user="u1")])
    draft = Draft(text="Red plan.", key="plan", user="u1").model_copy(update=change)
    assert (await to.write(TENANT, [draft])).superseded == 0
    assert "Blue plan." in await read(to, user="u1")


async def test_less_trusted_text_of_another_source_never_hides_more_trusted_text() -> None:
    to = writer()
    await to.write(TENANT, [Draft(text="Call 100.", key="hotline", source="manual.md", trust=0.9)])
    poison = Draft(text="Call 666.", key="hotline", source="user u1", trust=0.3)
    assert (await to.write(TENANT, [poison])).superseded == 0
    assert set(await read(to)) == {"Call 100.", "Call 666."}
    same_text = Draft(text="Call 100.", key="hotline", source="user u1", trust=0.3)
    await to.write(TENANT, [same_text])
    assert [i.trust for i in await to.store.list(TENANT) if i.text == "Call 100."] == [0.9]
    own = Draft(text="Call 200.", key="hotline", source="manual.md", trust=0.5)
    assert (await to.write(TENANT, [own])).superseded == 2


async def test_the_same_text_with_new_dates_and_readers_is_brought_up_to_date() -> None:
    to = writer()
    draft = Draft(text="Works on Monday.", key="k", source="s")
    await to.write(TENANT, [draft])
    change = {"valid_until": NOW - 1, "roles": ("solver",), "trust": 0.4}
    assert (await to.write(TENANT, [draft.model_copy(update=change)])).merged == 1
    item = (await to.store.list(TENANT))[0]
    assert (item.valid_until, item.roles, item.trust, item.created_at) == (NOW - 1, ("solver",), 0.4, NOW)
    assert await read(to, role="solver") == []


async def test_text_that_says_the_same_is_merged_into_what_is_there() -> None:
    to = writer()
    first = await to.write(TENANT, [Draft(text="The refund is paid within 14 days.", key="a")])
    again = Draft(text="Refunds are paid within 14 days", key="b")
    also = Draft(text="A refund was paid within 14 days!", key="c")
    report = await to.write(TENANT, [again, also])
    assert report == WriteReport(merged=2, item_ids=first.item_ids * 2)
    within = await writer().write(TENANT, [again, also])
    assert (within.added, within.merged, len(set(within.item_ids))) == (1, 1, 1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The refund is paid within 14 days.", "The refund is paid within 30 days."),
        ("The refund is paid within 14 days.", "The refund is not paid within 14 days."),
        ("Restart the hub before the update.", "Restart the hub after the update."),
        ("Upgrades are free, downgrades cost 19 EUR.", "Downgrades are free, upgrades cost 19 EUR."),
        ("Turn roaming on.", "Turn roaming off."),
    ],
)
async def test_texts_that_contradict_each_other_are_both_kept(one: str, other: str) -> None:
    to = writer()
    report = await to.write(TENANT, [Draft(text=one, key="a"), Draft(text=other, key="b")])
    assert (report.added, report.merged) == (2, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": MemoryKind.FACT},
        {"user": "u1"},
        {"roles": ("solver",)},
        {"private_to": "vpn"},
        {"valid_until": 2e9},
    ],
)
async def test_the_same_words_for_other_readers_or_times_are_not_merged(change: dict[str, object]) -> None:
    to = writer()
    await to.write(TENANT, [Draft(text="The gateway uses port 443.", key="a")])
    other = Draft.model_validate({"text": "The gateway uses port 443.", "key": "b", **change})
    assert (await to.write(TENANT, [other])).added == 1


async def test_the_more_trusted_of_two_that_say_the_same_stays_readable() -> None:
    to = writer()
    await to.write(TENANT, [Draft(text="The office opens at 9.", key="a", source="user", trust=0.3)])
    report = await to.write(TENANT, [Draft(text="The office opens at 9.", key="b", source="manual", trust=1.0)])
    assert (report.added, report.superseded) == (1, 1)
    assert [item.trust for item in await to.store.list(TENANT, MemoryFilter())] == [1.0]


async def test_a_turn_said_twice_is_two_turns() -> None:
    to = writer()
    drafts = [Draft(text="Thanks!", kind=MemoryKind.DIALOGUE, key=f"turn/{n}", thread="t") for n in range(2)]
    assert (await to.write(TENANT, drafts)).added == 2


async def test_a_derived_item_is_trusted_no_more_than_what_it_rests_on() -> None:
    to = writer()
    sources = await to.write(
        TENANT, [Draft(text="From the web.", trust=0.2), Draft(text="From the manual.", trust=0.9)]
    )
    derived = Draft(text="So it is.", trust=0.8, lineage=(*sources.item_ids, "unknown"))
    second = Draft(text="Therefore.", trust=1.0, lineage=(item_id(derived.model_copy(update={"key": "d"})),))
    await to.write(TENANT, [derived.model_copy(update={"key": "d"}), second.model_copy(update={"key": "e"})])
    trust = {item.text: item.trust for item in await to.store.list(TENANT)}
    assert (trust["So it is."], trust["Therefore."]) == (0.2, 0.2)


async def test_empty_text_is_dropped_and_expired_text_is_kept() -> None:
    to = writer()
    report = await to.write(TENANT, [Draft(text=" \n "), Draft(text="Was true.", valid_until=NOW - 1)])
    assert (report.added, len(report.item_ids)) == (1, 1)
    assert await read(to) == []
    assert len(await to.store.list(TENANT)) == 1
    assert await to.write(TENANT, []) == WriteReport()


async def test_half_a_surrogate_pair_is_mended() -> None:
    to = writer()
    await to.write(TENANT, [Draft(text="broken \ud83d emoji")])
    assert [item.text for item in await to.store.list(TENANT)] == ["broken ? emoji"]


async def test_many_writers_of_one_key_leave_one_current_version() -> None:
    class Waiting(ArrayStore):
        async def by_key(self, tenant: str, keys: Sequence[str]) -> Sequence[MemoryItem]:
            found = await super().by_key(tenant, keys)
            await asyncio.sleep(0)  # as with a disk: the others get their turn before the answer is used
            return found

    to = MemoryWriter(Waiting(EMBEDDER.name, DIMENSIONS), EMBEDDER)
    await asyncio.gather(*(to.write(TENANT, [Draft(text=f"Attempt {n}", key="k")]) for n in range(100)))
    assert len(await read(to)) == 1
    assert len(await to.store.list(TENANT)) == 100


async def test_a_long_list_keeps_its_order_and_gives_an_id_for_each_draft() -> None:
    to = writer()
    texts = [f"sentence number {n}" for n in range(600)]
    report = await to.write(TENANT, [Draft(text=text) for text in texts])
    assert [item.text for item in await to.store.list(TENANT)] == texts
    assert [item.text for item in await to.store.get(TENANT, report.item_ids)] == texts


class Unkeyed:
    """A store of somebody else, with nothing but the protocol."""

    def __init__(self, store: ArrayStore) -> None:
        self.embedder_name = store.embedder_name
        self.add, self.search, self.get, self.list = store.add, store.search, store.get, store.list
        self.delete, self.flush, self.aclose = store.delete, store.flush, store.aclose


async def test_a_store_that_cannot_find_keys_is_written_just_as_well() -> None:
    to = MemoryWriter(Unkeyed(ArrayStore(EMBEDDER.name, DIMENSIONS)), EMBEDDER)
    await to.write(TENANT, [Draft(text="Refunds take 30 days.", key="refunds")])
    assert (await to.write(TENANT, [Draft(text="Refunds take 14 days.", key="refunds")])).superseded == 1


async def test_a_failed_write_says_so_and_the_next_one_works() -> None:
    class OnceFull(ArrayStore):
        full = True

        async def add(self, tenant: str, items: Sequence[MemoryItem], vectors: object) -> None:
            if self.full:
                self.full = False
                raise StoreError("the disk is full; free some space")
            await super().add(tenant, items, vectors)  # pyright: ignore[reportArgumentType]

    to = MemoryWriter(OnceFull(EMBEDDER.name, DIMENSIONS), EMBEDDER)
    with pytest.raises(StoreError, match="disk is full"):
        await to.write(TENANT, [Draft(text="a", key="k")])
    assert (await to.write(TENANT, [Draft(text="a", key="k")])).added == 1


KEYS, TEXTS = st.sampled_from(["", "k", "l"]), st.sampled_from(["red", "blue", "", "not red"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(KEYS, TEXTS, st.sampled_from([None, "u"])), max_size=12), st.integers(1, 5))
async def test_writing_at_once_or_bit_by_bit_leaves_the_same_readable(
    drafts: list[tuple[str, str, str | None]], size: int
) -> None:
    made = [Draft(text=text, key=key or f"own/{text}", user=user) for key, text, user in drafts]
    whole, parts = writer(), writer()
    await whole.write(TENANT, made)
    for low in range(0, len(made), size):
        await parts.write(TENANT, made[low : low + size])
    for user in (None, "u"):
        where = MemoryFilter(user=user)
        left = {(i.id, i.superseded_by) for i in await whole.store.list(TENANT, where)}
        assert left == {(i.id, i.superseded_by) for i in await parts.store.list(TENANT, where)}


# --- what a run writes ------------------------------------------------------------------------------------------------

CARD = AgentCard(id="vpn", description="VPN")
TASK = Task(text="Why does it drop?", tenant=TENANT, user="u1", thread="t1", history=(Message(role="user", text="Hi"),))
REPLY = AgentReply(
    call_id="run7/route/vpn/1", agent="vpn", status=ReplyStatus.ANSWERED, text="Update the app.", cited=("m1", "m2"),
    stage="check", round=2,
)  # fmt: skip


def test_a_reply_becomes_one_answer_that_names_what_it_cites() -> None:
    (draft,) = drafts_from_reply(REPLY, TASK, CARD)
    assert (draft.text, draft.kind, draft.key) == ("Update the app.", MemoryKind.ANSWER, "answer/t1/vpn/r2")
    assert (draft.lineage, draft.author, draft.user, draft.private_to) == (("m1", "m2"), "vpn", "u1", None)
    assert (draft.thread, draft.run_id, draft.stage, draft.round, draft.trust) == ("t1", "run7", "check", 2, 0.8)


def test_an_answer_without_sources_is_trusted_less_and_a_private_agents_answer_is_its_own() -> None:
    private = CARD.model_copy(update={"visibility": "private"})
    (draft,) = drafts_from_reply(REPLY.model_copy(update={"cited": ()}), TASK, private)
    assert (draft.trust, draft.private_to) == (0.4, "vpn")


def test_a_run_without_a_thread_is_its_own_thread() -> None:
    (draft,) = drafts_from_reply(REPLY, TASK.model_copy(update={"thread": None}), CARD, run_id="r9")
    assert (draft.key, draft.thread, draft.run_id) == ("answer/r9/vpn/r2", "r9", "r9")


@pytest.mark.parametrize("status", [s for s in ReplyStatus if s is not ReplyStatus.ANSWERED])
def test_a_failed_reply_is_not_remembered(status: ReplyStatus) -> None:
    assert drafts_from_reply(REPLY.model_copy(update={"status": status}), TASK, CARD) == []
    assert drafts_from_reply(REPLY.model_copy(update={"text": "  "}), TASK, CARD) == []


async def test_a_conversation_is_remembered_turn_by_turn_within_its_thread() -> None:
    clock = FixedClock()
    to = MemoryWriter(ArrayStore(EMBEDDER.name, DIMENSIONS, clock=clock), EMBEDDER, clock=clock)
    for run, question in (("r1", "First?"), ("r2", "Second?"), ("r2", "Second?")):
        clock.time += 1
        await to.write(TENANT, drafts_from_turn(TASK.model_copy(update={"text": question}), "Yes.", run_id=run))
    assert await read(to, user="u1", thread="t1") == ["First?", "Yes.", "Second?", "Yes."]
    assert await read(to, user="u1", thread="t2") == []
    assert await read(to, user="u2", thread="t1") == []
    assert [d.key for d in drafts_from_turn(TASK, "Yes.")] == ["dialogue/t1/1/user", "dialogue/t1/1/assistant"]
    assert drafts_from_turn(TASK.model_copy(update={"thread": None}), "Yes.") == []


def test_a_role_may_write_plans_and_extracts_are_none() -> None:
    card = AgentCard(id="planner", description="Plans.")
    call = AgentCall(run_id="r", step="plan.r1", agent="planner", task=Task(text="How far is it?"))
    planned = call.reply(ReplyStatus.ANSWERED, text="1. Find the port. 2. Find its distance.")
    (draft,) = drafts_from_reply(planned, call.task, card, kind=MemoryKind.PLAN_STEP)
    assert (draft.kind, draft.thread) == (MemoryKind.PLAN_STEP, "r")
    extract = CitedSentence(text="The port is far.", items=("i",), origin="extractive")
    quoted = planned.model_copy(update={"extractive": True, "sentences": (extract,)})
    assert drafts_from_reply(quoted, call.task, card, kind=MemoryKind.PLAN_STEP) == []
    assert len(drafts_from_reply(quoted, call.task, card)) == 1
