"""The journal of calls in the project's database: a resumed run does not repeat a finished call.

One table, keyed by the call id `{run}/{step}/{agent}/{attempt}/{n}`, so that the calls of a run stand side by side.
What a run decided and said to people is in the trace; here are only results as they came, for the runtime.
"""

import json
import time
from collections.abc import Iterable
from typing import Any

from agentmesh.database import Database, Statement, Tables, Value
from agentmesh.run import JournalEntry

__all__ = ["JOURNAL_TABLES", "DatabaseJournal", "RunJournal"]

JOURNAL_TABLES = Tables(
    "journal",
    {
        1: (
            """CREATE TABLE journal_calls (
                call_id TEXT PRIMARY KEY, kind TEXT NOT NULL, idempotent INTEGER NOT NULL, began REAL NOT NULL,
                finished REAL, result TEXT
            ) WITHOUT ROWID""",
        )
    },
)
_BEGIN = "INSERT INTO journal_calls (call_id, kind, idempotent, began) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
_FINISH = """INSERT INTO journal_calls (call_id, kind, idempotent, began, finished, result) VALUES (?, ?, 1, ?, ?, ?)
    ON CONFLICT (call_id) DO UPDATE SET finished = excluded.finished, result = excluded.result"""
_COLUMNS = "call_id, kind, idempotent, finished, result"
_OF_RUN = "call_id >= ? AND call_id < ?"


class DatabaseJournal:
    """The calls of all runs. Give each run its own view with `for_run`: its look-ups read nothing."""

    def __init__(self, db: Database) -> None:
        self.db = db
        db.register(JOURNAL_TABLES)

    async def for_run(self, run_id: str, *, fresh: bool = False) -> "RunJournal":
        """The journal of one run, with all its entries read at once.

        Args:
            run_id: Which one.
            fresh: Whether the run was made just now, so that nothing of it can be in the database: nothing is read.

        Raises:
            StoreError: If the database cannot be read.
        """
        return RunJournal(self, () if fresh else await self.entries(run_id))

    async def lookup(self, call_id: str) -> JournalEntry | None:
        await self.db.flush()
        rows = await self.db.query(f"SELECT {_COLUMNS} FROM journal_calls WHERE call_id = ?", (call_id,))  # noqa: S608
        return _entry(rows[0]) if rows else None

    async def begin(self, call_id: str, kind: str, *, idempotent: bool = True) -> None:
        values = (call_id, kind, int(idempotent), time.time())
        if idempotent:
            self.db.post(_BEGIN, values)
        else:
            await self.db.write((_BEGIN, values))

    async def finish(self, call_id: str, kind: str, result: dict[str, Any], *, wait: bool = True) -> None:
        now = time.time()
        values = (call_id, kind, now, now, json.dumps(result))
        if wait:
            await self.db.write((_FINISH, values))
        else:
            self.db.post(_FINISH, values)

    async def entries(self, run_id: str) -> list[JournalEntry]:
        """All calls of a run, by call id."""
        await self.db.flush()
        rows = await self.db.query(
            f"SELECT {_COLUMNS} FROM journal_calls WHERE {_OF_RUN} ORDER BY call_id",  # noqa: S608
            _range(run_id),
        )
        return [_entry(row) for row in rows]

    async def finished_calls(self, run_id: str) -> int:
        """How many calls of a run have a result, which a resumed run will not repeat."""
        await self.db.flush()
        sql = f"SELECT count(*) FROM journal_calls WHERE {_OF_RUN} AND finished IS NOT NULL"  # noqa: S608
        [(count,)] = await self.db.query(sql, _range(run_id))
        return int(count or 0)

    async def prune(self, run_ids: Iterable[str]) -> int:
        """Forget the calls of these runs, which can then not be resumed; how many calls that were."""
        statements: list[Statement] = [
            (f"DELETE FROM journal_calls WHERE {_OF_RUN}", _range(run_id))  # noqa: S608
            for run_id in run_ids
        ]
        return await self.db.write(*statements)


class RunJournal:
    """The calls of one run: looked up in memory, noted in the database."""

    def __init__(self, journal: DatabaseJournal, entries: Iterable[JournalEntry]) -> None:
        self.journal = journal
        self._known = {entry.call_id: entry for entry in entries}

    async def lookup(self, call_id: str) -> JournalEntry | None:
        return self._known.get(call_id)

    async def begin(self, call_id: str, kind: str, *, idempotent: bool = True) -> None:
        entry = JournalEntry(call_id=call_id, kind=kind, finished=False, idempotent=idempotent)
        self._known.setdefault(call_id, entry)
        await self.journal.begin(call_id, kind, idempotent=idempotent)

    async def finish(self, call_id: str, kind: str, result: dict[str, Any], *, wait: bool = True) -> None:
        await self.journal.finish(call_id, kind, result, wait=wait)
        begun = self._known.get(call_id)
        self._known[call_id] = JournalEntry(
            call_id=call_id,
            kind=kind,
            finished=True,
            idempotent=begun.idempotent if begun else True,
            result=result,
        )


def _range(run_id: str) -> tuple[str, str]:
    """First and past-the-last key of a run: `0` is the character after `/`."""
    return f"{run_id}/", f"{run_id}0"


def _entry(row: tuple[Value, ...]) -> JournalEntry:
    call_id, kind, idempotent, finished, result = row
    return JournalEntry(
        call_id=str(call_id),
        kind=str(kind),
        finished=finished is not None,
        idempotent=bool(idempotent),
        result=json.loads(result) if isinstance(result, str) else None,
    )
