"""One SQLite file for everything that a project keeps in tables, and one thread that writes it.

Each area (trace, journal, threads, ...) registers its own `Tables`, writes only those, and names them `<area>_...`. The
file has one schema version; a file from a newer agentmesh is left alone. Shared memory (Chroma) and LangGraph's
checkpoints are not in here.

Durability: a commit survives a kill of the process; a power cut may lose the last commits, never the file
(WAL with `synchronous=NORMAL`, https://sqlite.org/pragma.html#pragma_synchronous).
"""

import asyncio
import atexit
import contextlib
import logging
import os
import queue
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentmesh.errors import StoreError, StoreLockedError, StoreVersionError

__all__ = ["SCHEMA_VERSION", "Database", "Statement", "Tables", "Value"]

SCHEMA_VERSION = 2
"""Of the whole file. Whoever changes any area's tables counts it up and adds a step under the new number."""
APPLICATION_ID = 0x4D455348
"""`MESH` in ASCII, in the header of our files, so that somebody else's database is not taken for ours."""
BUSY_S = 5.0
"""Seconds to wait for another process that is writing."""
LINGER_S = 0.01
"""Seconds that a posted write may wait for others to share its commit."""
MOST_QUEUED = 100_000
"""Posted writes that may wait; further ones are dropped and counted, so that a stuck disk does not fill the memory."""
READERS = 2
"""Threads that read at the same time."""

Value = str | bytes | int | float | None
"""What a column may hold."""
Statement = tuple[str, Sequence[Value]]
"""SQL with `?` marks, and their values."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tables:
    """The tables of one area, as the steps that build them."""

    area: str
    """Prefix of all its tables."""
    steps: Mapping[int, tuple[str, ...]]
    """Schema version -> the statements that it brought; applied in order, each once per file."""


class _Job:
    """Statements that are committed together, and who waits for them."""

    __slots__ = ("future", "last", "loop", "statements", "waiter")

    def __init__(
        self,
        statements: tuple[Statement, ...],
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        future: "asyncio.Future[int] | None" = None,
        waiter: "Future[int] | None" = None,
        last: bool = False,
    ) -> None:
        self.statements, self.loop, self.future, self.waiter, self.last = statements, loop, future, waiter, last


class Database:
    """The tables of a project. Opened at the first use; may be used from any thread and from many event loops.

    Writes go through one thread and share commits: what queues up while one commit runs is the next commit.
    """

    def __init__(
        self,
        path: Path,
        tables: Iterable[Tables] = (),
        *,
        busy_s: float = BUSY_S,
        on_error: Callable[[StoreError], None] | None = None,
        schema_version: int = SCHEMA_VERSION,
    ) -> None:
        """Name the file; nothing is opened yet.

        Args:
            path: The file, usually `.agentmesh/mesh.db`; it and its folder are made when they do not exist.
            tables: Registered at once; see `register`.
            busy_s: Seconds to wait for another process that is writing.
            on_error: Called once, from any thread, with the first error of a posted write; absent: it is logged.
            schema_version: Of this program; only tests give another one.
        """
        self.path, self.busy_s, self.schema_version = path, busy_s, schema_version
        self.post_errors = 0
        """Posted writes that were lost."""
        self._on_error = on_error
        self._tables: dict[str, Tables] = {}
        self._ready = False
        self._closed = False
        self._lock = threading.Lock()
        self._jobs: deque[_Job] = deque()
        self._urgent = False
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._readers: ThreadPoolExecutor | None = None
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        for area in tables:
            self.register(area)

    def __repr__(self) -> str:
        return f"Database({str(self.path)!r})"

    # --- the public story ---------------------------------------------------------------------------------------------

    def register(self, tables: Tables) -> None:
        """Say which tables an area needs; they exist before the next read or write is done.

        Raises:
            ValueError: If a step has a version above this program's, or the area is registered with other tables.
        """
        newest = max(tables.steps, default=0)
        if newest > self.schema_version:
            raise ValueError(f"{tables.area} has a step {newest}; count SCHEMA_VERSION up to it")
        if self._tables.get(tables.area, tables) != tables:
            raise ValueError(f"the area {tables.area!r} is registered with other tables")
        with self._lock:
            if tables.area not in self._tables:
                self._tables = {**self._tables, tables.area: tables}
                self._ready = False

    def open(self) -> None:
        """Open and migrate the file now, to learn of an error early. Blocks; not needed otherwise.

        Raises:
            StoreVersionError: If a newer agentmesh wrote it; it is not touched.
            StoreLockedError: If another process holds it for longer than `busy_s`.
            StoreError: If it is not a database of ours, is damaged, or cannot be written.
        """
        self._wait(_Job((), waiter=Future()))

    async def write(self, *statements: Statement) -> int:
        """Do the statements, all or none; returns after the commit that holds them, and after everything queued before.

        Cancelling the wait does not undo the write.

        Returns:
            Rows that changed.

        Raises:
            StoreError: If they could not be done; what `open` raises too.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        self._put(_Job(statements, loop=loop, future=future))
        return await future

    def post(self, sql: str, values: Sequence[Value] = ()) -> None:
        """Write some time soon, without waiting and without an error to the caller.

        What fails is counted in `post_errors`, and the first error is reported once.
        """
        try:
            self._put(_Job(((sql, values),)), posted=True)
        except StoreError as error:
            self._lost(error)

    async def query(self, sql: str, values: Sequence[Value] = ()) -> list[tuple[Any, ...]]:
        """The rows of a SELECT, as of the last commit; call `flush` before it to see what was posted.

        Raises:
            StoreError: If it could not be read; what `open` raises too.
        """
        if not self._ready or self._closed:
            await self.write()
        if self._readers is None:
            with self._lock:
                self._readers = self._readers or ThreadPoolExecutor(READERS, "mesh-reader")
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._select, sql, values)

    async def flush(self) -> None:
        """Wait until everything queued so far is committed or reported as lost."""
        await self.write()

    def close(self, *, most_s: float = 10.0) -> None:
        """Commit what is queued and let go of the file. Blocks up to `most_s` seconds; may be called twice."""
        _opened.discard(self)
        if self._pid != os.getpid():
            return  # the threads and the connections are the parent's
        with self._lock:
            thread, closed = self._thread, self._closed
            self._closed = True
            if thread is not None and not closed:
                self._jobs.append(_Job((), last=True))
                self._wake.put(True)
        if thread is not None:
            thread.join(most_s)
        if self._readers is not None:
            self._readers.shutdown(wait=True)
        while self._connections:
            self._connections.pop().close()

    async def aclose(self) -> None:
        """`close`, in a thread."""
        await asyncio.to_thread(self.close)

    # --- handing over -------------------------------------------------------------------------------------------------

    def _put(self, job: _Job, *, posted: bool = False) -> None:
        """Queue a job; a posted one lets the writer linger, any other wakes it up."""
        if self._pid != os.getpid():
            raise StoreError(f"{self.path} was opened before a fork; make a new Database in the child process")
        with self._lock:
            if self._closed:
                raise StoreError(f"{self.path} is closed; make a new Database for it")
            if posted and len(self._jobs) >= MOST_QUEUED:
                raise StoreError(f"{self.path}: {MOST_QUEUED} writes are waiting; is the disk stuck?")
            first = not self._jobs
            self._jobs.append(job)
            if not posted and not self._urgent:
                self._urgent = True
                self._wake.put(True)
            elif posted and first:
                self._wake.put(False)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="mesh-writer", daemon=True)
                self._thread.start()
                _opened.add(self)

    def _wait(self, job: _Job) -> int:
        """Queue a job and block until it is done."""
        self._put(job)
        assert job.waiter is not None
        try:
            return job.waiter.result(timeout=3 * self.busy_s + 10)
        except TimeoutError as error:
            raise StoreError(f"{self.path}: the disk does not answer; check the drive that holds it") from error

    def _take(self) -> list[_Job]:
        """Block until there is something to do; then all of it."""
        if not self._wake.get():
            with contextlib.suppress(queue.Empty):
                self._wake.get(timeout=LINGER_S)
        with self._lock:
            jobs = list(self._jobs)
            self._jobs.clear()
            self._urgent = False
        return jobs

    def _lost(self, error: StoreError) -> None:
        """Count a posted write that failed; the first one is reported."""
        self.post_errors += 1
        if self.post_errors > 1:
            return
        if self._on_error is None:
            _log.warning("a write was lost: %s", error)
            return
        try:
            self._on_error(error)
        except Exception:  # a callback's mistake must not end the writing thread
            _log.exception("the error callback of %s failed", self.path)

    # --- the writing thread -------------------------------------------------------------------------------------------

    def _work(self) -> None:
        connection: sqlite3.Connection | None = None
        done: set[str] = set()
        last = False
        while not last:
            jobs = self._take()
            last = any(job.last for job in jobs)
            if last and connection is None and not any(job.statements for job in jobs):
                self._settle(jobs, [0] * len(jobs))
                break
            try:
                if connection is None:
                    connection = _connect(self.path, self.schema_version, self.busy_s)
                wanted = self._tables
                if not self._ready or not wanted.keys() <= done:
                    _migrate(connection, self.path, wanted.values(), self.schema_version)
                    done = set(wanted)
                    with self._lock:
                        self._ready = self._tables.keys() <= done
                outcomes = self._commit(connection, jobs)
            except Exception as error:  # this thread must live on: others wait for it
                outcomes = [_translated(error, self.path)] * len(jobs)
            self._settle(jobs, outcomes)
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _commit(self, connection: sqlite3.Connection, jobs: list[_Job]) -> list[int | StoreError]:
        """Do all jobs in one transaction; if one of them is at fault, each in its own."""
        if not any(job.statements for job in jobs):
            return [0] * len(jobs)
        try:
            connection.execute("BEGIN IMMEDIATE")
            _refuse_newer(connection, self.path, self.schema_version)
            outcomes = [_execute(connection, job.statements) for job in jobs]
            connection.execute("COMMIT")
            return [*outcomes]
        except Exception as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            failure = _translated(error, self.path)
            if len(jobs) == 1 or isinstance(failure, StoreLockedError | StoreVersionError):
                return [failure] * len(jobs)
            return [outcome for job in jobs for outcome in self._commit(connection, [job])]

    def _settle(self, jobs: Sequence[_Job], outcomes: Sequence[int | StoreError]) -> None:
        """Tell everyone who waits, each event loop once."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[int], int | StoreError]]] = {}
        for job, outcome in zip(jobs, outcomes, strict=True):
            if job.loop is not None and job.future is not None:
                by_loop.setdefault(job.loop, []).append((job.future, outcome))
            elif job.waiter is not None:
                if isinstance(outcome, StoreError):
                    job.waiter.set_exception(outcome)
                else:
                    job.waiter.set_result(outcome)
            elif isinstance(outcome, StoreError) and job.statements:
                self._lost(outcome)
        for loop, settled in by_loop.items():
            with contextlib.suppress(RuntimeError):  # that loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_resolve, settled)

    # --- the reading threads ------------------------------------------------------------------------------------------

    def _select(self, sql: str, values: Sequence[Value]) -> list[tuple[Any, ...]]:
        try:
            connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
            if connection is None:
                connection = sqlite3.connect(
                    self.path, timeout=self.busy_s, isolation_level=None, check_same_thread=False
                )
                connection.execute("PRAGMA query_only = ON")
                self._local.connection = connection
                self._connections.append(connection)
            return connection.execute(sql, values).fetchall()
        except (sqlite3.Error, ValueError, OverflowError) as error:
            raise _translated(error, self.path) from error


_opened: "weakref.WeakSet[Database]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Commit what is queued when the interpreter ends; bounded, so that its end does not hang."""
    for database in list(_opened):
        database.close(most_s=5.0)


# --- on a connection --------------------------------------------------------------------------------------------------


def _connect(path: Path, schema_version: int, busy_s: float) -> sqlite3.Connection:
    """Open the file for writing; a file that is not ours or is newer is only read."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # what people asked is nobody else's business
        used = path.stat().st_size > 0
    except OSError as error:
        raise StoreError(
            f"{path} cannot be made or written ({error.strerror}); choose another folder with `home`"
        ) from error
    if used:
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=busy_s)
        ) as probe:
            _refuse_newer(probe, path, schema_version)
            ours = probe.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
            if not ours and probe.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise StoreError(f"{path} is a database of another program; choose another folder with `home`")
    connection = sqlite3.connect(path, timeout=busy_s, isolation_level=None)
    try:
        _use_wal(connection, busy_s)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection, busy_s: float) -> None:
    """Switch to WAL. SQLite does not wait by itself when two processes switch a new file at the same time."""
    until = time.monotonic() + busy_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if _primary(error) != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def _refuse_newer(connection: sqlite3.Connection, path: Path, schema_version: int) -> None:
    """Raise `StoreVersionError` if a newer agentmesh wrote the file."""
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > schema_version:
        raise StoreVersionError(
            f"{path} has schema version {found} and this agentmesh knows up to {schema_version}: "
            "update agentmesh, or choose another folder with `home`; the file was not changed"
        )


def _migrate(connection: sqlite3.Connection, path: Path, areas: Iterable[Tables], schema_version: int) -> None:
    """Bring the tables of these areas up to the version, all or nothing."""
    areas = list(areas)
    if _current(connection, areas, schema_version):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        _refuse_newer(connection, path, schema_version)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("CREATE TABLE IF NOT EXISTS mesh_areas (area TEXT PRIMARY KEY, version INTEGER NOT NULL)")
        versions = dict(connection.execute("SELECT area, version FROM mesh_areas"))
        for tables in areas:
            for version in sorted(tables.steps):
                if version > versions.get(tables.area, 0):
                    for sql in tables.steps[version]:
                        connection.execute(sql)
            connection.execute("INSERT OR REPLACE INTO mesh_areas VALUES (?, ?)", (tables.area, schema_version))
        connection.execute(f"PRAGMA user_version = {schema_version}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _current(connection: sqlite3.Connection, areas: Sequence[Tables], schema_version: int) -> bool:
    """Whether nothing is to be migrated; read without a lock, since most opens find it so."""
    if connection.execute("PRAGMA user_version").fetchone()[0] != schema_version:
        return False
    versions = dict(connection.execute("SELECT area, version FROM mesh_areas"))
    return all(versions.get(tables.area) == schema_version for tables in areas)


def _execute(connection: sqlite3.Connection, statements: Iterable[Statement]) -> int:
    """Do the statements; the number of rows that changed."""
    return sum(max(0, connection.execute(sql, values).rowcount) for sql, values in statements)


def _resolve(settled: list[tuple["asyncio.Future[int]", int | StoreError]]) -> None:
    """On the loop's own thread: give each future its outcome."""
    for future, outcome in settled:
        if future.done():
            continue
        if isinstance(outcome, StoreError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


def _primary(error: BaseException) -> int:
    """SQLite's primary result code, 0 for another error."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _translated(error: Exception, path: Path) -> StoreError:
    """Our error for one of SQLite's, with the next step."""
    if isinstance(error, StoreError):
        return error
    code = _primary(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        translated: StoreError = StoreLockedError(
            f"{path} is being written by another process that does not let go; end that process and try again"
        )
    elif code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        translated = StoreError(
            f"{path} is damaged or not a database ({error}); move it away and start again, the traces beside it stay"
        )
    elif code == sqlite3.SQLITE_FULL:
        translated = StoreError(f"{path} cannot grow, the disk is full; free some space and try again")
    elif code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        translated = StoreError(f"{path} cannot be written ({error}); check the rights of its folder")
    elif code == sqlite3.SQLITE_IOERR:
        translated = StoreError(f"{path} cannot be read or written ({error}); check the disk and its free space")
    else:
        translated = StoreError(f"{path}: {type(error).__name__}: {error}")
    translated.__cause__ = error
    return translated
