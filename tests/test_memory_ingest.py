"""Knowledge files into memory: pieces, sources, changed files only, mistakes in words."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from agentmesh.errors import StoreError
from agentmesh.memory.arrays import ArrayStore
from agentmesh.memory.base import MemoryFilter
from agentmesh.memory.ingest import MAX_FILE_BYTES, PIECE_WORDS, IngestReport, Progress, ingest, read_knowledge
from agentmesh.memory.writer import MemoryWriter
from agentmesh.text import sentences
from agentmesh.types import MemoryItem, MemoryKind
from tests.memory_kit import DIMENSIONS, EMBEDDER, FixedClock

PAGE = """---
title: Refund rules
topics: [refunds]
trust: 0.9
valid_from: 2026-01-01
valid_until: 2026-12-31
roles: [solver]
---

# Refund rules

Read this first.

## Waiting *time*

Refunds take 14 days. `Weekends` count.

```text
# not a heading
```

### Exceptions

- Bank holidays do not count
- Cash is not paid

## Contact

<!-- a note to ourselves -->
"""


class Folder:
    """A knowledge folder with a memory and a state beside it."""

    def __init__(self, root: Path, store: ArrayStore | None = None) -> None:
        self.root, self.state = root / "knowledge", root / "state.json"
        self.root.mkdir(parents=True)
        self.store = store or ArrayStore(EMBEDDER.name, DIMENSIONS, clock=FixedClock())
        self.writer = MemoryWriter(self.store, EMBEDDER, clock=FixedClock())

    def put(self, name: str, content: str | bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def remove(self, name: str) -> None:
        (self.root / name).unlink()

    async def load(self, tenant: str = "t", *, progress: Progress | None = None) -> IngestReport:
        return await ingest(self.root, self.writer, tenant, state=self.state, progress=progress)

    async def texts(self, tenant: str = "t") -> set[str]:
        return {item.text for item in await self.store.list(tenant)}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_page_becomes_pieces_that_name_their_heading_and_carry_what_its_front_matter_says() -> None:
    content = read_knowledge(PAGE.encode(), "a/refunds.md", prefix="knowledge/")
    assert content.mistakes == ()
    assert [(d.source, d.text) for d in content.drafts] == [
        ("a/refunds.md > Refund rules", "Read this first."),
        ("a/refunds.md > Waiting time", "Refunds take 14 days. Weekends count. not a heading"),
        ("a/refunds.md > Waiting time > Exceptions", "Bank holidays do not count\n\nCash is not paid"),
    ]
    first = content.drafts[0]
    assert (first.key, first.kind) == ("knowledge/a/refunds.md#Refund rules/0", MemoryKind.EVIDENCE)
    assert (first.trust, first.roles) == (0.9, ("solver",))
    assert first.valid_from == 1767225600.0  # 2026-01-01T00:00Z
    assert first.valid_until == 1798761600.0  # 2027-01-01T00:00Z: the last day counts


def test_a_page_without_any_heading_has_its_title_or_its_file_as_source() -> None:
    assert read_knowledge(b"Plain words.", "a.md").drafts[0].source == "a.md"
    assert read_knowledge(b"---\ntitle: Page\n---\nWords.", "a.md").drafts[0].source == "a.md > Page"
    assert read_knowledge(b"# Not a heading here", "a.txt").drafts[0].source == "a.txt"


def test_a_heading_that_stands_twice_gives_different_keys() -> None:
    content = read_knowledge(b"## Notes\nOne.\n## Notes\nTwo.", "a.md")
    assert [d.key for d in content.drafts] == ["a.md#Notes/0", "a.md#Notes/1"]


@given(st.lists(st.integers(1, 120), min_size=1, max_size=30))
def test_pieces_hold_whole_sentences_in_order_and_no_more_words_than_allowed(lengths: list[int]) -> None:
    made = [" ".join([f"Start{n}", *["word"] * (length - 1)]) + "." for n, length in enumerate(lengths)]
    pieces = [draft.text for draft in read_knowledge(" ".join(made).encode(), "a.txt").drafts]
    assert [sentence for piece in pieces for sentence in sentences(piece)] == made
    assert all(len(piece.split()) <= PIECE_WORDS or len(sentences(piece)) == 1 for piece in pieces)


def test_list_entries_stay_separate_sentences_in_a_piece() -> None:
    (draft,) = read_knowledge(b"Steps:\n- Open the app\n- Press start\n\nDone.", "a.md").drafts
    assert sentences(draft.text) == ["Steps:", "Open the app", "Press start", "Done."]


def test_json_lines_may_name_everything_themselves() -> None:
    lines = [
        {"text": "A fact.", "kind": "fact", "key": "k", "source": "s", "trust": 0.5, "valid_until": "2026-12-31"},
        {"text": "Bare."},
    ]
    content = read_knowledge("\n\n".join(json.dumps(line) for line in lines).encode(), "a.jsonl")
    first, second = content.drafts
    assert (first.kind, first.key, first.source, first.trust) == (MemoryKind.FACT, "k", "s", 0.5)
    assert first.valid_until == 1798761600.0
    assert (second.key, second.source, second.trust) == ("a.jsonl#/1", "a.jsonl:3", 1.0)


def test_a_bad_line_is_named_and_the_others_are_read() -> None:
    data = b'{"text": "good"}\n{broken\n[1]\n{"text": "x", "knd": "fact"}\n{"kind": "fact"}\n{"text": "also good"}'
    content = read_knowledge(data, "a.jsonl")
    assert [d.text for d in content.drafts] == ["good", "also good"]
    said = content.mistakes
    assert [text.split(": ")[0] for text in said] == ["a.jsonl:2", "a.jsonl:3", "a.jsonl:4", "a.jsonl:5"]
    assert "'kind'" in said[2]
    assert "is missing" in said[3]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"caf\xe9", r"a\.md:1: is not UTF-8.*save it as UTF-8"),
        (b"---\ntitle: [1\n---\nText.", r"a\.md:\d: is not valid YAML"),
        (b"---\ntitle: x\nText.", r"a\.md:1: the front matter is never closed; add a line"),
        (b"---\ntitle: x\ntopcs: []\n---\nText.", r"a\.md:3: topcs: unknown key; did you mean 'topics'"),
        (b"---\ntrust: 2\n---\nText.", r"a\.md:2: trust: must be between 0 and 1, not 2"),
        (b"---\nvalid_from: soon\n---\nText.", r"a\.md:2: valid_from: must be a date such as 2026-12-31, not 'soon'"),
    ],
)
def test_a_page_that_cannot_be_read_says_where_and_how_to_mend_it(data: bytes, said: str) -> None:
    content = read_knowledge(data, "a.md")
    assert not content.readable
    assert content.drafts == ()
    assert len(content.mistakes) == 1
    assert re.match(said, content.mistakes[0]), content.mistakes


async def test_a_second_ingest_reads_only_what_changed(folder: Folder) -> None:
    folder.put("a.md", "# A\nFirst page.")
    folder.put("deep/b.txt", "Second page.")
    folder.put("c.jsonl", '{"text": "Third page."}')
    folder.put("ignored.pdf", "x")
    folder.put(".hidden/d.md", "Hidden.")
    assert await folder.load() == IngestReport(files=3, changed=3, items=3)
    assert await folder.load() == IngestReport(files=3, unchanged=3)
    folder.put("a.md", "# A\nFirst page, new edition.")
    assert await folder.load() == IngestReport(files=3, unchanged=2, changed=1, items=1)
    assert await folder.texts() == {"First page, new edition.", "Second page.", "Third page."}


async def test_what_a_file_no_longer_says_and_files_that_vanished_are_deleted(folder: Folder) -> None:
    folder.put("a.md", "# One\nStays.\n# Two\nGoes.")
    folder.put("b.md", "Vanishes.")
    await folder.load()
    folder.put("a.md", "# One\nStays.")
    folder.remove("b.md")
    assert await folder.load() == IngestReport(files=1, changed=1, removed=1, items=1)
    assert await folder.texts() == {"Stays."}
    assert list(json.loads(folder.state.read_text())["loaded"]["t"]["knowledge"]) == ["a.md"]


async def test_what_two_files_say_stays_known_when_one_of_them_vanishes(folder: Folder) -> None:
    folder.put("a.md", "# A\nThe gateway uses port 443.")
    folder.put("b.md", "# B\nThe gateway uses port 443.")
    await folder.load()
    assert len(await folder.store.list("t")) == 1
    folder.remove("a.md")
    await folder.load()
    (item,) = await folder.store.list("t")
    assert (item.text, item.source) == ("The gateway uses port 443.", "b.md > B")
    folder.put("c.md", "# C\nThe gateway uses port 443.")
    await folder.load()
    folder.put("b.md", "# B\nSomething else.")
    await folder.load()
    assert {item.source for item in await folder.store.list("t")} == {"b.md > B", "c.md > C"}


async def test_text_that_moves_from_one_file_to_another_stays(folder: Folder) -> None:
    folder.put("a.md", "# A\nIt moves.")
    await folder.load()
    folder.put("a.md", "# A\nOther.")
    folder.put("b.md", "# B\nIt moves.")
    await folder.load()
    assert {(item.text, item.source) for item in await folder.store.list("t", MemoryFilter())} == {
        ("Other.", "a.md > A"),
        ("It moves.", "b.md > B"),
    }
    assert (await folder.load()).unchanged == 2


async def test_changed_front_matter_reaches_the_items_of_unchanged_text(folder: Folder) -> None:
    folder.put("a.md", "---\ntrust: 0.9\n---\nThe text.")
    await folder.load()
    folder.put("a.md", "---\ntrust: 0.4\nroles: [checker]\n---\nThe text.")
    await folder.load()
    (item,) = await folder.store.list("t")
    assert (item.trust, item.roles) == (0.4, ("checker",))


async def test_a_file_that_becomes_unreadable_is_skipped_and_what_was_known_of_it_stays(folder: Folder) -> None:
    folder.put("a.md", "Good.")
    folder.put("b.md", "Fine.")
    await folder.load()
    folder.put("a.md", b"\xff\xfe")
    for _ in range(2):
        report = await folder.load()
        assert (report.unchanged, report.changed, len(report.skipped)) == (1, 0, 1)
        assert report.skipped[0].startswith("a.md:1: is not UTF-8")
    assert await folder.texts() == {"Good.", "Fine."}


async def test_a_huge_file_a_link_to_nowhere_and_a_missing_folder_are_said(folder: Folder) -> None:
    folder.put("big.txt", b"x" * (MAX_FILE_BYTES + 1))
    folder.put("ok.txt", "Fine.")
    report = await folder.load()
    assert report.skipped == ("big.txt: is larger than 5 MB; split it into several files",)
    assert await folder.texts() == {"Fine."}
    report = await ingest(folder.root / "none", folder.writer, "t")
    assert report == IngestReport(skipped=("none: is no folder; make it, or correct `memory.knowledge`",))


async def test_mistakes_in_lines_are_said_again_while_they_stand_there(folder: Folder) -> None:
    folder.put("a.jsonl", '{"text": "good"}\nbad')
    first, second = await folder.load(), await folder.load()
    assert first.skipped == second.skipped
    assert len(first.skipped) == 1
    assert (first.changed, second.unchanged) == (1, 1)


async def test_a_memory_that_lost_its_items_is_filled_again(folder: Folder, tmp_path: Path) -> None:
    folder.put("a.md", "Kept.")
    await folder.load()
    await folder.store.delete("t", [item.id for item in await folder.store.list("t")])
    assert (await folder.load()).changed == 1
    assert await folder.texts() == {"Kept."}


async def test_tenants_and_folders_share_a_state_file_without_mixing(folder: Folder, tmp_path: Path) -> None:
    other = Folder(tmp_path / "other", folder.store)
    other.state = folder.state
    folder.put("a.md", "From the first.")
    other.put("a.md", "From the second.")
    for tenant in ("t", "u"):
        await folder.load(tenant)
        await other.load(tenant)
        assert await folder.texts(tenant) == {"From the first.", "From the second."}
    folder.remove("a.md")
    await folder.load("t")
    assert await folder.texts("t") == {"From the second."}
    assert await folder.texts("u") == {"From the first.", "From the second."}


class Dying(ArrayStore):
    """Cannot write to disk after some flushes."""

    flushes_left = 1

    async def flush(self) -> int:
        if self.flushes_left == 0:
            raise StoreError("the disk is full; free some space")
        self.flushes_left -= 1
        return 0


async def test_an_ingest_that_broke_off_is_completed_by_the_next_one(tmp_path: Path) -> None:
    store = Dying(EMBEDDER.name, DIMENSIONS, clock=FixedClock())
    folder = Folder(tmp_path, store)
    for n in range(150):
        folder.put(f"{n:03}.txt", f"Page number {n}.")
    with pytest.raises(StoreError, match="disk is full"):
        await folder.load()
    written = len(json.loads(folder.state.read_text())["loaded"]["t"]["knowledge"])
    assert 0 < written < 150
    store.flushes_left = 99
    report = await folder.load()
    assert (report.unchanged, report.changed) == (written, 150 - written)
    assert len(await store.list("t")) == 150


async def test_a_spoiled_state_file_means_reading_everything_again(folder: Folder) -> None:
    folder.put("a.md", "Text.")
    await folder.load()
    for spoiled in ("{", "[]", '{"version": 99}', '{"version": 1, "loaded": {"t": {"knowledge": {"a.md": 3}}}}'):
        folder.state.write_text(spoiled)
        assert (await folder.load()).changed == 1
    assert len(await folder.store.list("t")) == 1


async def test_progress_counts_files_and_is_silent_when_nothing_changed(folder: Folder) -> None:
    folder.put("a.md", "A.")
    folder.put("b.md", "B.")
    heard: list[tuple[int, int, str]] = []

    def hear(done: int, total: int, name: str) -> None:
        heard.append((done, total, name))

    await folder.load(progress=hear)
    assert heard == [(0, 2, "a.md"), (1, 2, "b.md"), (2, 2, "")]
    heard.clear()
    await folder.load(progress=hear)
    assert heard == []


async def test_the_state_may_be_a_mapping_or_nothing(folder: Folder) -> None:
    folder.put("a.md", "A.")
    state: dict[str, Any] = {}
    reports = [await ingest(folder.root, folder.writer, "t", state=where) for where in (state, state, None)]
    assert [(report.changed, report.unchanged) for report in reports] == [(1, 0), (0, 1), (1, 0)]


async def test_texts_are_embedded_in_batches(folder: Folder) -> None:
    class Counting:
        name, dimensions = EMBEDDER.name, DIMENSIONS
        sizes: list[int] = []  # noqa: RUF012

        async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
            self.sizes.append(len(texts))
            return await EMBEDDER.embed(texts)

    embedder = Counting()
    folder.writer = MemoryWriter(folder.store, embedder)
    for n in range(100):
        folder.put(f"{n:03}.txt", f"Page {n}.")
    await folder.load()
    assert embedder.sizes == [64, 36]
    assert isinstance((await folder.store.list("t"))[0], MemoryItem)
