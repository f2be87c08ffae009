"""Memory on disk in Chroma: what survives, and what is said when the folder cannot be used."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agentmesh.errors import StoreError
from agentmesh.memory.base import MemoryFilter
from agentmesh.memory.chroma import PAGE_ITEMS, ChromaStore
from agentmesh.types import MemoryItem
from tests.memory_kit import DIMENSIONS, EMBEDDER, FixedClock, remember, texts_found

NOTE = MemoryItem(id="a", text="kept on disk", tenant="acme")


def chroma(folder: Path, name: str = EMBEDDER.name, dimensions: int = DIMENSIONS) -> ChromaStore:
    return ChromaStore(folder, name, dimensions, clock=FixedClock())


async def test_what_add_returned_from_is_there_after_opening_again(tmp_path: Path) -> None:
    first = chroma(tmp_path)
    await remember(first, "a/ü", NOTE)
    await first.aclose()
    second = chroma(tmp_path)
    assert [item.text for item in await second.list("a/ü")] == ["kept on disk"]
    assert await texts_found(second, "a/ü", "disk") == ["kept on disk"]
    await second.aclose()
    with pytest.raises(StoreError, match="is closed; open it again"):
        await second.list("a/ü")


async def test_vectors_and_items_are_loaded_in_pages_without_loss(tmp_path: Path) -> None:
    store, count = chroma(tmp_path, "e", 4), PAGE_ITEMS + 7
    vectors = np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    await store.add("t", [MemoryItem(id=f"{n}", text=f"text {n}") for n in range(count)], vectors)
    assert await store.count("t") == count
    seen: dict[str, np.ndarray] = {}
    start = 0
    while True:
        items, part = await store.load("t", start)
        if not items:
            break
        seen.update({item.id: vector for item, vector in zip(items, part, strict=True)})
        start += len(items)
    assert np.allclose([seen[f"{n}"] for n in range(count)], vectors, atol=1e-6)
    assert len(await store.list("t", MemoryFilter())) == count
    assert len(await store.get("t", [f"{n}" for n in range(count)])) == count
    assert await store.delete("t", [f"{n}" for n in range(count)]) == count
    await store.aclose()


async def test_search_goes_on_until_enough_pass_a_filter_that_only_we_can_judge(tmp_path: Path) -> None:
    store = chroma(tmp_path, "e", 2)
    angles = np.linspace(0, 1, 60)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    items = [MemoryItem(id=f"{n}", text="x", roles=() if n >= 57 else ("others",)) for n in range(60)]
    await store.add("t", items, vectors)
    found = await store.search("t", vectors[0], k=3, where=MemoryFilter(role="mine"))
    assert [hit.item.id for hit in found] == ["57", "58", "59"]
    await store.aclose()


@pytest.mark.parametrize(("name", "dimensions"), [("another", DIMENSIONS), (EMBEDDER.name, 8)])
async def test_another_embedder_is_refused_with_both_ways_out(tmp_path: Path, name: str, dimensions: int) -> None:
    first = chroma(tmp_path)
    await remember(first, "acme", NOTE)
    await first.aclose()
    other = chroma(tmp_path, name, dimensions)
    with pytest.raises(StoreError, match=rf"embedded by '{EMBEDDER.name}'.*set `memory.embedder` back.*delete that"):
        await other.list("acme")
    await other.aclose()


async def test_a_damaged_folder_is_one_line_with_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "chroma.sqlite3").write_bytes(b"this is no database" * 100)
    store = chroma(tmp_path)
    with pytest.raises(StoreError, match=r"is damaged .*move it away") as caught:
        await store.open()
    assert "\n" not in str(caught.value)
    await store.aclose()


async def test_a_file_in_place_of_the_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "memory").write_text("a file")
    store = chroma(tmp_path / "memory")
    with pytest.raises(StoreError, match="is a file, not a folder"):
        await store.open()
    await store.aclose()


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    tmp_path.chmod(0o500)
    yield tmp_path
    tmp_path.chmod(0o700)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write everywhere")
async def test_a_read_only_folder_is_said(read_only: Path) -> None:
    store = chroma(read_only / "memory")
    with pytest.raises(StoreError, match="cannot be written"):
        await store.open()
    await store.aclose()


FULL_DISK = """
import asyncio, resource, signal, sys
from pathlib import Path
import numpy as np
from agentmesh.errors import StoreError
from agentmesh.memory.chroma import ChromaStore
from agentmesh.memory.working import WorkingStore
from agentmesh.types import MemoryItem

async def main():
    back = ChromaStore(Path(sys.argv[1]), "e", 4)
    store = WorkingStore(back)
    vector = np.ones((1, 4), np.float32) / 2
    await store.add("t", [MemoryItem(id="small", text="fits")], vector)
    await store.flush()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, unlimited[1]))
    await store.add("t", [MemoryItem(id="large", text="x" * 3_000_000)], vector)
    try:
        await store.flush()
    except StoreError as error:
        print(error)
    print(store.pending)
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    print(await store.flush(), store.pending, await back.count("t"))
    await store.aclose()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_a_full_disk_is_one_line_and_the_items_are_written_when_there_is_room(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said, pending, after = done.stdout.strip().split("\n")
    assert "full or broken" in said
    assert "1 items are kept" in said
    assert pending == "1"
    assert after == "1 0 2"
