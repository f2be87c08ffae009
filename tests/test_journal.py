"""The journal in the database: what a resumed run finds of the calls of the run before it."""

from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from sqlite3 import connect

import pytest

from agentmesh.database import Database
from agentmesh.journal import DatabaseJournal
from agentmesh.run import Journal, JournalEntry, MemoryJournal

REPLY = {"text": "grüße 😀 \ud800", "usage": {"calls": 1}, "cited": ["m1"], "cost": 0.1, "none": None}


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(tmp_path / "mesh.db")
    yield database
    await database.aclose()


@pytest.fixture(params=["memory", "database", "fresh run", "resumed run"])
async def journal(request: pytest.FixtureRequest, db: Database) -> Journal:
    if request.param == "memory":
        return MemoryJournal()
    whole = DatabaseJournal(db)
    if request.param == "database":
        return whole
    return await whole.for_run("r1", fresh=request.param == "fresh run")


async def test_a_journal_knows_what_never_began_what_began_and_what_finished(journal: Journal) -> None:
    assert isinstance(journal, Journal)
    assert await journal.lookup("r1/route.r1/a/1/1") is None
    await journal.begin("r1/route.r1/a/1/1", "tool", idempotent=False)
    begun = await journal.lookup("r1/route.r1/a/1/1")
    assert begun == JournalEntry(call_id="r1/route.r1/a/1/1", kind="tool", finished=False, idempotent=False)
    await journal.finish("r1/route.r1/a/1/1", "tool", REPLY)
    finished = await journal.lookup("r1/route.r1/a/1/1")
    assert finished is not None
    assert finished.finished
    assert finished.result == REPLY


async def test_a_resumed_run_finds_its_own_calls_and_no_others(db: Database) -> None:
    before = DatabaseJournal(db)
    first = await before.for_run("r1", fresh=True)
    await first.begin("r1/route.r1/a/1/1", "model")
    await first.finish("r1/route.r1/a/1/1", "model", REPLY)
    await first.begin("r1/route.r1/b/1/1", "model")
    for other in ("r10", "r1-x", "r", "r1.2"):
        await before.finish(f"{other}/route.r1/a/1/1", "model", {})
    resumed = await DatabaseJournal(db).for_run("r1")
    done, begun = await resumed.lookup("r1/route.r1/a/1/1"), await resumed.lookup("r1/route.r1/b/1/1")
    assert done is not None
    assert done.result == REPLY
    assert begun is not None
    assert not begun.finished
    assert begun.idempotent
    assert await resumed.lookup("r10/route.r1/a/1/1") is None
    assert [e.call_id for e in await before.entries("r1")] == ["r1/route.r1/a/1/1", "r1/route.r1/b/1/1"]
    assert await before.finished_calls("r1") == 1


async def test_a_call_that_must_not_be_repeated_is_on_disk_before_it_begins(db: Database) -> None:
    journal = await DatabaseJournal(db).for_run("r1", fresh=True)
    await journal.begin("r1/s/a/1/1", "tool", idempotent=False)
    with closing(connect(db.path)) as other:
        assert other.execute("SELECT call_id, idempotent FROM journal_calls").fetchall() == [("r1/s/a/1/1", 0)]


async def test_a_result_is_on_disk_before_finish_returns_even_of_a_call_that_never_began(db: Database) -> None:
    journal = await DatabaseJournal(db).for_run("r1", fresh=True)
    await journal.finish("r1/s/a/1/1", "agent", {"x": 1})
    with closing(connect(db.path)) as other:
        assert other.execute("SELECT kind, result FROM journal_calls").fetchall() == [("agent", '{"x": 1}')]


async def test_beginning_a_finished_call_again_does_not_lose_its_result(db: Database) -> None:
    whole = DatabaseJournal(db)
    for journal in (whole, await whole.for_run("r1", fresh=True)):
        await journal.finish("r1/s/a/1/1", "agent", {"x": 1})
        await journal.begin("r1/s/a/1/1", "agent", idempotent=False)
        entry = await journal.lookup("r1/s/a/1/1")
        assert entry is not None
        assert entry.result == {"x": 1}


async def test_a_fresh_run_reads_nothing_from_the_database(tmp_path: Path) -> None:
    (tmp_path / "in_the_way").write_text("")
    unusable = Database(tmp_path / "in_the_way" / "mesh.db")
    journal = await DatabaseJournal(unusable).for_run("r1", fresh=True)
    assert await journal.lookup("r1/s/a/1/1") is None


async def test_pruning_forgets_the_calls_of_those_runs_only(db: Database) -> None:
    journal = DatabaseJournal(db)
    for run in ("r1", "r2", "r3"):
        for n in (1, 2):
            await journal.finish(f"{run}/s/a/1/{n}", "model", {})
    assert await journal.prune(["r1", "r3", "unknown"]) == 4
    assert [await journal.finished_calls(run) for run in ("r1", "r2", "r3")] == [0, 2, 0]


async def test_a_result_that_is_not_waited_for_is_there_before_the_next_one_is(db: Database) -> None:
    journal = await DatabaseJournal(db).for_run("r1", fresh=True)
    await journal.finish("r1/s/a/1/1", "model", {"n": 1}, wait=False)
    await journal.finish("r1/s/a/1", "agent", {"n": 2})
    rows = await db.query("SELECT call_id FROM journal_calls ORDER BY call_id")
    assert [row[0] for row in rows] == ["r1/s/a/1", "r1/s/a/1/1"]
