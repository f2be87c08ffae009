"""One owner of a memory folder, others that ask it, and what happens when the owner dies."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentmesh.errors import StoreError, StoreLockedError
from agentmesh.memory.loopback import MemoryServer, OwnerGoneError, RemoteStore
from agentmesh.memory.owner import LOCK_FILE, OWNER_FILE, open_memory
from agentmesh.types import MemoryItem
from tests.memory_kit import DIMENSIONS, EMBEDDER, STORES, open_owned, remember, texts_found

OWNER = """
import asyncio, sys
from pathlib import Path
from agentmesh.types import MemoryItem
from tests.memory_kit import open_owned, remember

async def main():
    memory = await open_owned(Path(sys.argv[1]))
    await remember(memory, "t", MemoryItem(id="flushed", text="written to disk"))
    await memory.flush()
    await remember(memory, "t", MemoryItem(id="buffered", text="only in the working set"))
    print(memory.owns, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await memory.aclose()

asyncio.run(main())
"""

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


@contextmanager
def owner_process(folder: Path) -> Generator[subprocess.Popen[str], None, None]:
    """Another process that owns the folder and holds one item on disk and one that is not."""
    command = [sys.executable, "-c", OWNER, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().strip() == "True"
            yield process
        finally:
            process.kill()


def note(name: str, text: str) -> MemoryItem:
    return MemoryItem(id=name, text=text, tenant="t")


@posix_only
async def test_when_the_owner_is_killed_who_asks_next_owns_the_folder_and_sees_what_was_flushed(tmp_path: Path) -> None:
    with owner_process(tmp_path) as process:
        asking = await open_owned(tmp_path)
        assert not asking.owns
        assert set(await texts_found(asking, "t", "written")) == {"written to disk", "only in the working set"}
        await remember(asking, "t", note("mine", "entrusted to the owner"))
        assert asking.pending == 1
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert {item.id for item in await asking.list("t")} == {"flushed", "mine"}
        assert asking.owns
        assert await asking.flush() == 1
        await asking.aclose()
    again = await open_owned(tmp_path)
    assert {item.id for item in await again.list("t")} == {"flushed", "mine"}
    await again.aclose()


@posix_only
async def test_an_owner_that_does_not_answer_is_named_with_its_process(tmp_path: Path) -> None:
    with owner_process(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(StoreLockedError, match=rf"process {process.pid} holds .* and does not answer; stop that"):
            await open_owned(tmp_path, wait_s=0.3)
        process.send_signal(signal.SIGCONT)


async def test_many_who_open_at_once_get_one_owner_and_share_its_memory(tmp_path: Path) -> None:
    opened = await asyncio.gather(*(open_owned(tmp_path) for _ in range(6)))
    assert sum(memory.owns for memory in opened) == 1
    await asyncio.gather(*(remember(memory, "t", note(f"n{n}", f"note {n}")) for n, memory in enumerate(opened)))
    assert all([len(await memory.list("t")) == 6 for memory in opened])
    for memory in opened:
        await memory.aclose()


async def test_when_the_owner_closes_another_takes_over_with_everything(tmp_path: Path) -> None:
    first, second, third = [await open_owned(tmp_path) for _ in range(3)]
    await remember(second, "t", note("a", "from the second"))
    await first.aclose()
    answers = await asyncio.gather(second.list("t"), third.list("t"), third.list("t"))
    assert [[item.id for item in answer] for answer in answers] == [["a"]] * 3
    assert [second.owns, third.owns].count(True) == 1
    await second.aclose()
    assert [item.id for item in await third.list("t")] == ["a"]
    await third.aclose()
    assert not (tmp_path / OWNER_FILE).exists()


async def test_a_note_of_an_owner_that_is_gone_is_ignored(tmp_path: Path) -> None:
    about = {"protocol": 1, "port": 1, "pid": 1, "secret": "x"}
    await asyncio.to_thread((tmp_path / OWNER_FILE).write_text, json.dumps(about))
    memory = await open_owned(tmp_path)
    assert memory.owns
    await memory.aclose()


@posix_only
async def test_the_note_with_the_secret_is_for_this_user_only_and_the_secret_is_in_no_repr(tmp_path: Path) -> None:
    memory = await open_owned(tmp_path)
    asking = await open_owned(tmp_path)
    path = tmp_path / OWNER_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / LOCK_FILE).stat().st_mode) == 0o600
    secret = json.loads(path.read_text())["secret"]
    assert len(secret) == 64
    shown = [repr(value) for each in (memory, asking) for value in (each, *vars(each).values())]
    assert not any(secret in text for text in shown)
    await asking.aclose()
    await memory.aclose()


async def test_a_wrong_secret_gets_no_answer_and_the_owner_goes_on(tmp_path: Path) -> None:
    async with STORES["arrays"](tmp_path) as store:
        server = MemoryServer(store, dimensions=DIMENSIONS, secret="right")
        port = await server.start()
        wrong = RemoteStore(port, "wrong", EMBEDDER.name, DIMENSIONS)
        with pytest.raises(OwnerGoneError):
            await wrong.hello()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for frame in (b"\x00\x00\x00\x02{}", b"\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x01["):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(frame)
            greeting = await asyncio.wait_for(reader.read(), 5)
            assert b"nonce" in greeting
            assert b"proof" not in greeting
            writer.close()
        right = RemoteStore(port, "right", EMBEDDER.name, DIMENSIONS)
        await remember(right, "t", note("a", "still here"))
        assert len(await right.list("t")) == 1
        await right.aclose()
        await server.aclose()


async def test_who_asks_does_not_trust_a_stranger_on_the_port_nor_tell_it_the_secret() -> None:
    heard: list[bytes] = []

    async def stranger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = b'{"protocol": 1, "nonce": "00"}'
        writer.write(len(hello).to_bytes(4, "big") + hello)
        heard.append(await reader.read(1000))
        about = b'{"proof": "guess", "embedder": "e", "dimensions": 4, "pid": 1}'
        writer.write(len(about).to_bytes(4, "big") + about)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(stranger, "127.0.0.1", 0)
    asking = RemoteStore(server.sockets[0].getsockname()[1], "the-secret", "e", 4)
    with pytest.raises(OwnerGoneError, match="does not know the owner's secret"):
        await asking.hello()
    assert heard
    assert b"the-secret" not in heard[0]
    server.close()


async def test_requests_that_make_no_sense_are_answered_and_harm_nothing(tmp_path: Path) -> None:
    async with STORES["arrays"](tmp_path) as store:
        server = MemoryServer(store, dimensions=DIMENSIONS, secret="s")
        asking = RemoteStore(await server.start(), "s", EMBEDDER.name, DIMENSIONS)
        for request in (
            {"op": "explode"},
            {"op": "search", "tenant": "t", "query": "!", "k": 1},
            {"op": "get", "tenant": "t", "ids": "not a list"},
            {"op": "add", "tenant": "t", "items": [{"id": 1}], "vectors": ""},
            {},
        ):
            with pytest.raises(StoreError):
                await asking._ask(**request)  # pyright: ignore[reportPrivateUsage]
        assert await asking.list("t") == []
        await asking.aclose()
        await server.aclose()


async def test_another_embedder_than_the_owners_is_refused(tmp_path: Path) -> None:
    owner = await open_owned(tmp_path)
    with pytest.raises(StoreError, match=rf"process {os.getpid()} holds .* the embedder '{EMBEDDER.name}'"):
        await open_memory(tmp_path, "another", DIMENSIONS)
    await owner.aclose()


async def test_a_large_memory_goes_through_the_loopback_in_parts(tmp_path: Path) -> None:
    owner, asking = await open_owned(tmp_path), await open_owned(tmp_path)
    items = [MemoryItem(id=f"i{n}", text=f"note {n} " + "word " * 200, tenant="t", created_at=n) for n in range(450)]
    await remember(asking, "t", *items)
    assert await asking.list("t") == items
    assert asking.pending == owner.pending == 450
    await asking.aclose()  # has the owner write what this one entrusted to it
    assert owner.pending == 0
    await owner.aclose()


async def test_a_cancelled_question_does_not_mix_up_the_answers_of_the_next(tmp_path: Path) -> None:
    owner, asking = await open_owned(tmp_path), await open_owned(tmp_path)
    await remember(asking, "t", note("a", "one"))
    for _ in range(5):
        task = asyncio.create_task(asking.list("t"))
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asking.delete("t", ["nothing"]) == 0
    await asking.aclose()
    await owner.aclose()


async def test_a_folder_that_cannot_be_is_said_and_a_damaged_one_leaves_no_lock(tmp_path: Path) -> None:
    await asyncio.to_thread((tmp_path / "file").write_text, "x")
    with pytest.raises(StoreError, match="is a file, not a folder"):
        await open_owned(tmp_path / "file")
    damaged = tmp_path / "damaged"
    await asyncio.to_thread(damaged.mkdir)
    await asyncio.to_thread((damaged / "chroma.sqlite3").write_bytes, b"garbage" * 99)
    with pytest.raises(StoreError, match="is damaged"):
        await open_owned(damaged)
    await asyncio.to_thread((damaged / "chroma.sqlite3").unlink)
    memory = await open_owned(damaged)
    assert memory.owns
    await memory.aclose()
    with pytest.raises(StoreError, match="is closed"):
        await memory.list("t")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_keep_the_lock_of_its_parent(tmp_path: Path) -> None:
    script = f"""
import asyncio, os, sys
from pathlib import Path
from tests.memory_kit import open_owned
async def main():
    memory = await open_owned(Path({str(tmp_path)!r}))
    read, write = os.pipe()
    if os.fork() == 0:
        os.close(write)
        os.read(read, 1)  # lives until the parent and its pipe are gone
        os._exit(0)
    os.close(read)
    await memory.aclose()
    again = await open_owned(Path({str(tmp_path)!r}))
    print(again.owns)
    await again.aclose()
asyncio.run(main())
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert done.stdout.strip() == "True", done.stderr
