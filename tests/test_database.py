"""The project's database: what is promised to those who write, and what happens to files that cannot be used."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from agentmesh.database import SCHEMA_VERSION, Database, Tables
from agentmesh.errors import StoreError, StoreLockedError, StoreVersionError

NOTES = Tables("notes", {1: ("CREATE TABLE notes_lines (line TEXT PRIMARY KEY)",)})
ADD = "INSERT INTO notes_lines VALUES (?)"
COUNT = "SELECT count(*) FROM notes_lines"
ROOT = Path(__file__).parents[1]


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(tmp_path / "state" / "mesh.db", [NOTES], busy_s=0.2)
    yield database
    await database.aclose()


async def lines(db: Database) -> list[str]:
    return [line for (line,) in await db.query("SELECT line FROM notes_lines ORDER BY line")]


def python(code: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


SCRIPT = """
import asyncio, os, sys
from pathlib import Path
from agentmesh.database import Database, Tables
from agentmesh.errors import StoreError
NOTES = Tables("notes", {1: ("CREATE TABLE notes_lines (line TEXT PRIMARY KEY)",)})
ADD = "INSERT INTO notes_lines VALUES (?)"
db = Database(Path(sys.argv[1]), [NOTES])
"""

# --- writing and reading ----------------------------------------------------------------------------------------------


async def test_what_was_written_is_read_and_says_how_many_rows_changed(db: Database) -> None:
    assert await db.write((ADD, ("a",)), (ADD, ("b",))) == 2
    assert await lines(db) == ["a", "b"]
    assert await db.write(("DELETE FROM notes_lines WHERE line > ?", ("a",))) == 1


async def test_the_statements_of_a_write_are_done_all_or_none(db: Database) -> None:
    await db.write((ADD, ("a",)))
    with pytest.raises(StoreError, match="UNIQUE"):
        await db.write((ADD, ("b",)), (ADD, ("a",)))
    assert await lines(db) == ["a"]


async def test_a_bad_write_fails_alone_among_those_that_share_its_commit(db: Database) -> None:
    writes = [db.write((ADD, (str(i % 49),))) for i in range(50)]
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(o) for o in outcomes] == [int] * 49 + [StoreError]
    assert await db.query(COUNT) == [(49,)]


async def test_many_queued_writes_share_commits(db: Database) -> None:
    await db.flush()
    with closing(sqlite3.connect(db.path)) as other:
        versions: set[int] = set()
        writes = [asyncio.ensure_future(db.write((ADD, (str(i),)))) for i in range(400)]
        while not all(w.done() for w in writes):
            versions.add(other.execute(COUNT).fetchone()[0])
            await asyncio.sleep(0)
    assert await db.query(COUNT) == [(400,)]
    assert len(versions) < 50


async def test_values_that_sqlite_cannot_hold_are_an_error_and_not_a_hang(db: Database) -> None:
    with pytest.raises(StoreError, match="surrogates"):
        await db.write((ADD, ("\ud800",)))
    with pytest.raises(StoreError, match="OverflowError"):
        await db.write((ADD, (2**80,)))
    with pytest.raises(StoreError, match="no such table"):
        await db.query("SELECT * FROM notes_nothing")
    assert await db.write((ADD, ("a",))) == 1


async def test_a_reader_cannot_write(db: Database) -> None:
    with pytest.raises(StoreError, match="readonly"):
        await db.query("INSERT INTO notes_lines VALUES ('x') RETURNING line")


async def test_posted_writes_are_there_after_a_flush(db: Database) -> None:
    for i in range(20):
        db.post(ADD, (str(i),))
    await db.flush()
    assert await db.query(COUNT) == [(20,)]


async def test_posted_writes_that_fail_are_counted_and_reported_once(tmp_path: Path) -> None:
    reported: list[StoreError] = []
    db = Database(tmp_path / "mesh.db", [NOTES], on_error=reported.append)
    for line in ("a", "a", "b", "a"):
        db.post(ADD, (line,))
    await db.flush()
    assert await lines(db) == ["a", "b"]
    assert db.post_errors == 2
    assert len(reported) == 1
    await db.aclose()
    db.post(ADD, ("c",))
    assert db.post_errors == 3


async def test_a_callback_that_raises_does_not_end_the_writer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken(error: StoreError) -> None:
        raise RuntimeError("oh")

    db = Database(tmp_path / "mesh.db", [NOTES], on_error=broken)
    db.post("nonsense")
    assert await db.write((ADD, ("a",))) == 1
    assert "callback" in caplog.text
    await db.aclose()


async def test_cancelling_the_wait_does_not_undo_the_write(db: Database) -> None:
    await db.flush()
    write = asyncio.ensure_future(db.write((ADD, ("a",))))
    await asyncio.sleep(0)
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write
    await db.flush()
    assert await lines(db) == ["a"]


def test_one_database_serves_event_loops_one_after_another_and_at_the_same_time(tmp_path: Path) -> None:
    db = Database(tmp_path / "mesh.db", [NOTES])

    async def add(start: int) -> None:
        await asyncio.gather(*(db.write((ADD, (str(start + i),))) for i in range(30)))
        await db.query(COUNT)

    asyncio.run(add(0))
    threads = [threading.Thread(target=asyncio.run, args=(add(start),)) for start in (100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert asyncio.run(db.query(COUNT)) == [(90,)]
    db.close()


async def test_a_closed_database_has_committed_everything_and_refuses_more(db: Database) -> None:
    db.post(ADD, ("a",))
    await db.aclose()
    await db.aclose()
    with closing(sqlite3.connect(db.path)) as other:
        assert other.execute(COUNT).fetchone() == (1,)
    with pytest.raises(StoreError, match="closed"):
        await db.write((ADD, ("b",)))
    with pytest.raises(StoreError, match="closed"):
        await db.query(COUNT)


@pytest.mark.skipif(os.name != "posix", reason="this system has no such modes")
async def test_only_the_owner_may_read_the_file(db: Database) -> None:
    await db.write((ADD, ("a",)))
    assert {p.stat().st_mode & 0o077 for p in db.path.parent.iterdir()} == {0}


def test_a_database_that_was_never_used_makes_no_file(tmp_path: Path) -> None:
    db = Database(tmp_path / "mesh.db", [NOTES])
    db.close()
    assert list(tmp_path.iterdir()) == []


# --- the schema -------------------------------------------------------------------------------------------------------


async def test_a_newer_program_migrates_the_file_once_and_keeps_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    old = Database(path, [NOTES], schema_version=1)
    await old.write((ADD, ("a",)))
    await old.aclose()
    newer = Tables("notes", {**NOTES.steps, 2: ("ALTER TABLE notes_lines ADD COLUMN stars INTEGER DEFAULT 3",)})
    for _ in range(2):
        db = Database(path, [newer], schema_version=2)
        assert await db.query("SELECT line, stars FROM notes_lines") == [("a", 3)]
        assert await db.query("PRAGMA user_version") == [(2,)]
        await db.aclose()


async def test_an_area_that_comes_later_gets_its_tables_in_the_same_file(db: Database) -> None:
    await db.write((ADD, ("a",)))
    db.register(Tables("pins", {1: ("CREATE TABLE pins_all (pin TEXT)",)}))
    assert await db.query("SELECT * FROM pins_all") == []
    assert await lines(db) == ["a"]


async def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    old = Database(path, [NOTES], schema_version=1)
    await old.write((ADD, ("a",)))
    await old.aclose()
    bad = Tables("notes", {**NOTES.steps, 2: ("DROP TABLE notes_lines", "nonsense")})
    db = Database(path, [bad], schema_version=2)
    with pytest.raises(StoreError, match="nonsense"):
        await asyncio.to_thread(db.open)
    await db.aclose()
    again = Database(path, [NOTES])
    assert await lines(again) == ["a"]
    await again.aclose()


def test_tables_above_the_schema_version_or_registered_twice_are_refused(tmp_path: Path) -> None:
    db = Database(tmp_path / "mesh.db", [NOTES, NOTES])
    with pytest.raises(ValueError, match="SCHEMA_VERSION"):
        db.register(Tables("pins", {999: ("CREATE TABLE pins_all (pin TEXT)",)}))
    with pytest.raises(ValueError, match="other tables"):
        db.register(Tables("notes", {1: ("CREATE TABLE notes_all (note TEXT)",)}))


# --- files that cannot be used ----------------------------------------------------------------------------------------


async def refused(path: Path, kind: type[StoreError]) -> str:
    """The message with which `path` is refused, by a write, a query and `open`; it is one line."""
    db = Database(path, [NOTES], busy_s=0.1)
    with pytest.raises(kind) as caught:
        await db.write((ADD, ("x",)))
    with pytest.raises(kind):
        await db.query(COUNT)
    with pytest.raises(kind):
        await asyncio.to_thread(db.open)
    await db.aclose()
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


async def test_a_file_of_a_newer_version_is_named_with_both_versions_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    newer = Database(path, [NOTES], schema_version=7)
    await newer.write((ADD, ("a",)))
    await newer.aclose()
    before = path.read_bytes()
    message = await refused(path, StoreVersionError)
    assert "schema version 7" in message
    assert f"up to {SCHEMA_VERSION}" in message
    assert "update agentmesh" in message
    assert path.read_bytes() == before


async def test_a_file_that_a_newer_program_migrates_meanwhile_is_not_written_any_more(db: Database) -> None:
    await db.write((ADD, ("a",)))
    newer = Database(db.path, [NOTES], schema_version=7)
    await newer.flush()
    await newer.aclose()
    with pytest.raises(StoreVersionError):
        await db.write((ADD, ("b",)))
    assert await lines(db) == ["a"]


async def test_a_file_that_is_no_database_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    path.write_text("these are my notes, not a database\n" * 200)
    before = path.read_bytes()
    assert "not a database" in await refused(path, StoreError)
    assert path.read_bytes() == before


async def test_the_database_of_another_program_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE photos (name TEXT)")
    before = path.read_bytes()
    assert "another program" in await refused(path, StoreError)
    assert path.read_bytes() == before


async def test_a_damaged_database_is_a_store_error(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    db = Database(path, [NOTES])
    await db.write(*((ADD, (str(i) * 500,)) for i in range(100)))
    await db.aclose()
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))
    assert "damaged" in await refused(path, StoreError)


async def test_a_folder_that_cannot_be_made_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    assert "cannot be made or written" in await refused(tmp_path / "state" / "mesh.db", StoreError)


async def test_a_full_disk_is_said_and_what_was_there_stays(db: Database) -> None:
    await db.write((ADD, ("a",)), ("PRAGMA max_page_count = 20", ()))
    with pytest.raises(StoreError, match="the disk is full"):
        await db.write((ADD, ("b" * 200_000,)))
    await db.write((ADD, ("c",)))
    assert await lines(db) == ["a", "c"]


async def test_a_file_that_another_process_keeps_locked_is_said_after_a_bounded_wait(db: Database) -> None:
    await db.write((ADD, ("a",)))
    with closing(sqlite3.connect(db.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writes = [db.write((ADD, (str(i),))) for i in range(5)]
        outcomes = await asyncio.wait_for(asyncio.gather(*writes, return_exceptions=True), 5)
        assert {type(o) for o in outcomes} == {StoreLockedError}
        assert await lines(db) == ["a"]
        other.execute("ROLLBACK")
    assert await db.write((ADD, ("b",))) == 1


# --- several processes ------------------------------------------------------------------------------------------------


def test_two_processes_make_and_write_the_same_file(tmp_path: Path) -> None:
    code = (
        SCRIPT
        + """
async def main():
    await asyncio.gather(*(db.write((ADD, (f"{sys.argv[2]}-{i}",))) for i in range(20)))
    for i in range(20, 100):
        await db.write((ADD, (f"{sys.argv[2]}-{i}",)))
    await db.aclose()
asyncio.run(main())
"""
    )
    processes = [python(code, tmp_path / "mesh.db", name) for name in "ab"]
    for process in processes:
        assert process.communicate(timeout=30) == ("", "")
    with closing(sqlite3.connect(tmp_path / "mesh.db")) as db:
        assert db.execute(COUNT).fetchone() == (200,)


def test_a_process_that_ends_without_closing_keeps_its_posted_writes_and_does_not_hang(tmp_path: Path) -> None:
    code = SCRIPT + "asyncio.run(db.query('SELECT 1'))\n[db.post(ADD, (str(i),)) for i in range(50)]"
    assert python(code, tmp_path / "mesh.db").communicate(timeout=20) == ("", "")
    with closing(sqlite3.connect(tmp_path / "mesh.db")) as db:
        assert db.execute(COUNT).fetchone() == (50,)


def test_a_write_that_returned_survives_a_kill(tmp_path: Path) -> None:
    code = SCRIPT + "asyncio.run(db.write((ADD, ('a',))))\nprint('written', flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "mesh.db")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
    with closing(sqlite3.connect(tmp_path / "mesh.db")) as db:
        assert db.execute(COUNT).fetchone() == (1,)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_is_told_to_open_the_database_anew(tmp_path: Path) -> None:
    code = (
        SCRIPT
        + """
db.open()
child = os.fork()
if child == 0:
    try:
        db.open()
    except StoreError as error:
        os._exit(7 if "fork" in str(error) else 1)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    )
    assert python(code, tmp_path / "mesh.db").communicate(timeout=20) == ("7\n", "")
