"""Where traces stay: one file of JSON lines per run, written at once, and an index in the database behind it.

The file is the truth and survives a kill of the process; the index is derived from it, may lag, and is made again where
it does. A power cut may lose the last second. Nothing leaves the machine.
"""

import asyncio
import atexit
import contextlib
import errno
import json
import logging
import os
import queue
import re
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json

from agentmesh.database import Database, Statement, Tables, Value
from agentmesh.errors import InputError, StoreError, nearest
from agentmesh.trace.events import (
    AgentReplied,
    AgentStarted,
    Event,
    ModelCalled,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    RunWaiting,
    TokensStreamed,
    event_adapter,
)
from agentmesh.trace.redact import Redactor
from agentmesh.types import Frozen, Usage

__all__ = ["TRACE_TABLES", "UNFINISHED", "RunSummary", "RunTrace", "TraceStore"]

UNFINISHED = "unfinished"
"""Status of a run that still goes, or was killed."""
WAITING = "waiting"
"""Status of a run that goes on when a person answers."""

MOST_OPEN_FILES = 128
MOST_RUNS = 2048
"""Runs that the index keeps at hand; a run beyond them is read again from its file."""
INDEX_WAIT_S = 0.1
"""Seconds that events wait for others before they are indexed: most runs are over by then and are not disturbed."""
SYNC_EVERY_S = 1.0
"""Seconds of events that a power cut may take."""
QUESTION_CHARS = 200
"""Of a question, in the index."""
LEAST_PREFIX = 4
"""Characters of a run id that may stand for all of it."""
TAIL_BYTES = 1 << 16
"""Read at first from the end of a file to find its last event."""

FORMATS = ("jsonl", "json")
"""Of an export."""

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_SUFFIX = ".jsonl"
_log = logging.getLogger(__name__)

TRACE_TABLES = Tables(
    "trace",
    {
        1: (
            """CREATE TABLE trace_runs (
                run_id TEXT PRIMARY KEY, started REAL NOT NULL, finished REAL, status TEXT NOT NULL,
                tenant TEXT NOT NULL, user TEXT, thread TEXT, question TEXT NOT NULL, graph TEXT NOT NULL,
                agents TEXT NOT NULL, tokens INTEGER NOT NULL, cost_usd REAL NOT NULL, latency_s REAL NOT NULL,
                error TEXT, events INTEGER NOT NULL, bytes INTEGER NOT NULL
            ) WITHOUT ROWID""",
            "CREATE INDEX trace_runs_started ON trace_runs (started)",
            """CREATE TABLE trace_events (
                run_id TEXT NOT NULL, seq INTEGER NOT NULL, type TEXT NOT NULL, step TEXT NOT NULL,
                agent TEXT NOT NULL, at REAL NOT NULL, offset INTEGER NOT NULL, PRIMARY KEY (run_id, seq)
            ) WITHOUT ROWID""",
        )
    },
)
_RUN_COLUMNS = """run_id, started, finished, status, tenant, user, thread, question, graph, agents, tokens, cost_usd,
    latency_s, error, events"""
_PUT_RUN = f"INSERT OR REPLACE INTO trace_runs ({_RUN_COLUMNS}, bytes) VALUES ({', '.join('?' * 16)})"  # noqa: S608
# one statement for many rows: each further one would have the writing thread wait for the interpreter's lock again
_PUT_EVENTS = """INSERT OR REPLACE INTO trace_events SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'),
    json_extract(value, '$[2]'), json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]'),
    json_extract(value, '$[6]') FROM json_each(?)"""


class RunSummary(Frozen):
    """One run, as a line of a list."""

    run_id: str
    started: float
    """Seconds since 1970, UTC."""
    finished: float | None
    status: str
    """That of its answer, or `failed`, `cancelled`, `unfinished`, `waiting` (for a person)."""
    tenant: str
    user: str | None
    thread: str | None
    question: str
    """Its first characters, on one line."""
    graph: str
    agents: tuple[str, ...]
    """Those that were called, in order."""
    tokens: int
    """Prompt and completion."""
    cost_usd: float
    latency_s: float
    error: str | None
    events: int


@dataclass(frozen=True)
class RunTrace:
    """What the file of a run holds."""

    run_id: str
    events: tuple[Event, ...]
    torn: bool
    """Its last line is cut off: the process was killed, or the disk was full, while it wrote."""
    unreadable: int
    """Other lines that hold no event that this agentmesh knows."""


@dataclass
class _File:
    """An open file of a run."""

    descriptor: int
    whole: bool
    """Whether it ends with a line's end; if not, the next event starts a line of its own."""


class TraceStore:
    """Stores the events of runs and reads them again. `emit` may be called from any thread."""

    def __init__(self, folder: Path, db: Database, redactor: Redactor) -> None:
        """Keep the files in `<folder>/traces` and the index in `db`; `redactor` sees each line before it is written."""
        self.folder, self.db, self.redactor = folder / "traces", db, redactor
        self.error: StoreError | None = None
        """The first reason why something could not be written."""
        self.lost = 0
        """Events that could not be written."""
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._writing = threading.Lock()
        self._waiting: deque[tuple[Event, int, int]] = deque()
        self._indexing = threading.Lock()
        self._runs: OrderedDict[str, _Run] = OrderedDict()
        self._unsynced: set[str] = set()
        self._synced_at = 0.0
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._awake = False
        self._thread: threading.Thread | None = None
        db.register(TRACE_TABLES)

    def __repr__(self) -> str:
        return f"TraceStore({str(self.folder)!r})"

    # --- writing ------------------------------------------------------------------------------------------------------

    def emit(self, event: Event) -> None:
        if isinstance(event, TokensStreamed):
            return
        try:
            line = self.redactor.line(_serialised(event)) + b"\n"
            with self._writing:
                end = self._append(event.run_id, line)
                self._waiting.append((event, end - len(line), end))
                if self._thread is None:
                    self._start()
            if not self._awake:
                self._awake = True
                self._wake.put(True)
        except Exception as error:  # the run goes on without its trace
            self.lost += 1
            self._fail(error)

    def _append(self, run_id: str, line: bytes) -> int:
        """Write one line; where the file ends then."""
        file = self._files.get(run_id)
        if file is None:
            file = self._open(run_id)
        else:
            self._files.move_to_end(run_id)
        if not file.whole:
            line = b"\n" + line
        file.whole = False
        written = os.write(file.descriptor, line)
        while written < len(line):
            written += os.write(file.descriptor, line[written:])
        file.whole = True
        return os.lseek(file.descriptor, 0, os.SEEK_CUR)

    def _open(self, run_id: str) -> _File:
        """The file of a run, made if it does not exist; the one unused for longest is closed for it."""
        path = self._path(run_id)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        try:
            descriptor = os.open(path, flags, 0o600)
        except FileNotFoundError:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._close_files()
            descriptor = os.open(path, flags, 0o600)
        size = os.fstat(descriptor).st_size
        file = _File(descriptor, whole=size == 0 or os.pread(descriptor, 1, size - 1) == b"\n")
        self._files[run_id] = file
        if len(self._files) > MOST_OPEN_FILES:
            os.close(self._files.popitem(last=False)[1].descriptor)
        return file

    def _close_files(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1].descriptor)

    def _path(self, run_id: str) -> Path:
        if not _RUN_ID.fullmatch(run_id):
            raise InputError(f"{run_id[:80]!r} is not a run id: letters, digits, `_`, `.` and `-`, at most 128")
        return self.folder / (run_id + _SUFFIX)

    def _fail(self, error: Exception) -> None:
        """Remember the first failure and say it once."""
        if self.error is None:
            reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            self.error = StoreError(
                f"traces cannot be written to {self.folder} ({reason}); runs go on without, free or choose another disk"
            )
            self.error.__cause__ = error
            _log.warning("%s", self.error)

    # --- indexing, behind the runs ------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="mesh-trace", daemon=True)
        self._thread.start()
        _opened.add(self)

    def _work(self) -> None:
        """Wait for events and then for more of them; ends when it is told False."""
        while self._wake.get():
            with contextlib.suppress(queue.Empty):
                if not self._wake.get(timeout=INDEX_WAIT_S):
                    return
            self._awake = False
            try:
                self._index()
                self._sync()
            except Exception as error:  # this thread must live on; the files hold what it could not index
                self._fail(error)
            if (self._unsynced or self._waiting) and not self._awake:
                self._awake = True
                self._wake.put(True)

    def _index(self) -> None:
        """Hand the database what was written since the last time."""
        with self._indexing:
            changed: dict[str, _Run] = {}
            rows: list[tuple[Value, ...]] = []
            while self._waiting:
                event, start, end = self._waiting.popleft()
                self._unsynced.add(event.run_id)
                run = self._runs.get(event.run_id)
                if run is None:
                    # another process may have begun this run, so all of it is read again
                    first = isinstance(event, RunStarted) and start == 0
                    run = _Run() if first else _indexed(self._path(event.run_id))
                    self._runs[event.run_id] = run
                    rows += run.rows
                    run.rows = []
                if end > run.bytes:
                    run.add(event, start, end)
                    rows.append(_row(event, start))
                changed[event.run_id] = run
                self._runs.move_to_end(event.run_id)
            for run_id, run in changed.items():
                self.db.post(_PUT_RUN, run.values(run_id, self.redactor))
            if rows:
                self.db.post(_PUT_EVENTS, (json.dumps(rows),))
            while len(self._runs) > MOST_RUNS:
                self._runs.popitem(last=False)

    def _sync(self, *, now: bool = False) -> None:
        """Bring what was written onto the disk itself, at most once a second."""
        if not self._unsynced or (not now and time.monotonic() < self._synced_at + SYNC_EVERY_S):
            return
        with self._indexing:
            runs, self._unsynced = self._unsynced, set()
        for path in (self.folder, *(self._path(run_id) for run_id in runs)):
            with contextlib.suppress(FileNotFoundError):  # somebody removed it meanwhile
                _sync_file(path)
        self._synced_at = time.monotonic()

    async def flush(self) -> None:
        """Wait until everything emitted so far is in the index."""
        await asyncio.to_thread(self._index)
        await self.db.flush()

    async def reindex(self) -> int:
        """Index the files that the index does not hold in full, such as those of a killed process; how many those were.

        Raises:
            StoreError: If the database or the files cannot be used.
        """
        await self.flush()
        known: dict[str, int] = dict(await self.db.query("SELECT run_id, bytes FROM trace_runs"))
        behind = [
            run_id for run_id, (_, size) in (await asyncio.to_thread(self._sizes)).items() if known.get(run_id) != size
        ]
        return sum([await self._reindex(run_id) for run_id in behind])

    async def _reindex(self, run_id: str) -> bool:
        try:
            run = await asyncio.to_thread(_indexed, self._path(run_id))
        except OSError:
            return False  # removed meanwhile
        if not run.events:
            return False
        statements: list[Statement] = [
            ("DELETE FROM trace_events WHERE run_id = ?", (run_id,)),
            (_PUT_EVENTS, (json.dumps(run.rows),)),
            (_PUT_RUN, run.values(run_id, self.redactor)),
        ]
        await self.db.write(*statements)
        return True

    # --- reading ------------------------------------------------------------------------------------------------------

    async def list_runs(
        self, limit: int = 50, *, status: str | None = None, tenant: str | None = None, text: str | None = None
    ) -> list[RunSummary]:
        """The newest runs first, those of other processes and of killed ones among them.

        Args:
            limit: Most runs to give.
            status: Only those with this status.
            tenant: Only those of this tenant.
            text: Only those whose question holds this, in any case (of ASCII letters).

        Raises:
            StoreError: If the database cannot be used.
        """
        await self.reindex()
        rows = await self.db.query(
            f"""SELECT {_RUN_COLUMNS} FROM trace_runs
                WHERE (?1 IS NULL OR status = ?1) AND (?2 IS NULL OR tenant = ?2)
                    AND (?3 IS NULL OR instr(lower(question), lower(?3)) > 0)
                ORDER BY started DESC, run_id DESC LIMIT ?4""",  # noqa: S608
            (status, tenant, text, limit),
        )
        return [_summary(row) for row in rows]

    async def old_runs(self, keep: int) -> list[str]:
        """Ids of the finished runs but the newest `keep` of them, newest first: what may be pruned elsewhere."""
        await self.flush()
        sql = "SELECT run_id FROM trace_runs WHERE finished IS NOT NULL ORDER BY started DESC LIMIT -1 OFFSET ?"
        return [run_id for (run_id,) in await self.db.query(sql, (keep,))]

    def load(self, run_id: str) -> RunTrace:
        """What the file of a run holds, damage included. Reads the disk: from a coroutine, call it in a thread.

        Args:
            run_id: Its id, or the first 4 or more characters where no other run begins so.

        Raises:
            InputError: If there is no such run, or several begin so.
            StoreError: If the file cannot be read.
        """
        run_id = self.find(run_id)
        events: list[Event] = []
        unreadable, torn = 0, False
        try:
            for _, _, line in _lines(self._path(run_id)):
                event = _event(line)
                torn = event is None and not line.endswith(b"\n")
                unreadable += event is None and not torn
                if event is not None:
                    events.append(event)
        except OSError as error:
            raise StoreError(f"the trace of {run_id} cannot be read ({error.strerror})") from error
        return RunTrace(run_id, tuple(events), torn, unreadable)

    def read(self, run_id: str) -> list[Event]:
        """The events of a run, in order; see `load`. A line that is damaged is left out and logged."""
        trace = self.load(run_id)
        if trace.torn or trace.unreadable:
            _log.warning(
                "the trace of %s has %d unreadable lines%s; the other %d events are read",
                trace.run_id,
                trace.unreadable + trace.torn,
                ", the last one is cut off" if trace.torn else "",
                len(trace.events),
            )
        return list(trace.events)

    def export(self, run_id: str, format: str = "jsonl") -> str:
        """The events of a run as text: one JSON document a line (`jsonl`), or one array (`json`).

        Raises:
            InputError: If the format is another one, or there is no such run; see `load`.
        """
        if format not in FORMATS:
            raise InputError(f"there is no format {format!r}; choose {' or '.join(FORMATS)}")
        lines = [_serialised(event).decode() for event in self.read(run_id)]
        if format == "jsonl":
            return "".join(line + "\n" for line in lines)
        return "[\n" + ",\n".join(lines) + "\n]\n"

    def last_seq(self, run_id: str) -> int:
        """The number of the last event of exactly this run, 0 if it has none: a resumed run goes on after it."""
        try:
            path = self._path(run_id)
            size = path.stat().st_size
        except FileNotFoundError:
            return 0
        wanted = TAIL_BYTES
        while True:
            with path.open("rb") as file:
                file.seek(max(0, size - wanted))
                lines = file.read().splitlines(keepends=True)
            for line in reversed(lines if wanted >= size else lines[1:]):
                event = _event(line)
                if event is not None:
                    return event.seq
            if wanted >= size:
                return 0
            wanted *= 8

    async def follow(self, run_id: str, *, every_s: float = 0.1) -> AsyncIterator[Event]:
        """The events of a run, those to come too, until it finishes, fails or is cancelled.

        Also of a run of another process; looks `every_s` seconds whether there are more.

        Raises:
            InputError: If there is no such run.
        """
        path = self._path(await asyncio.to_thread(self.find, run_id))
        start, ended = 0, False
        while not ended:
            for _, end, line in await asyncio.to_thread(_all_lines, path, start):
                event = _event(line) if line.endswith(b"\n") else None
                if event is not None:
                    start, ended = end, isinstance(event, RunFinished | RunFailed | RunCancelled)
                    yield event
            if not ended:
                await asyncio.sleep(every_s)

    def find(self, run_id: str) -> str:
        """The full id of a run, from it or from its first 4 or more characters, or `InputError`."""
        try:
            if self._path(run_id).exists():
                return run_id
            known = self._sizes()
        except OSError as error:
            raise StoreError(f"the traces in {self.folder} cannot be read ({error.strerror})") from error
        fits = [k for k in known if k.startswith(run_id)] if len(run_id) >= LEAST_PREFIX else []
        if len(fits) == 1:
            return fits[0]
        if fits:
            raise InputError(
                f"{len(fits)} runs begin with {run_id!r}, such as {fits[0]} and {fits[1]}; give more of it"
            )
        close = nearest(run_id, sorted(known, key=lambda k: known[k][0], reverse=True)[:1000])
        hint = f"did you mean {close[0]}?" if close else "`agentmesh trace list` shows those that exist"
        raise InputError(f"there is no run {run_id!r}; {hint}")

    def _sizes(self) -> dict[str, tuple[float, int]]:
        """Run id -> when its file changed last, and its bytes."""
        if not self.folder.exists():
            return {}
        found: dict[str, tuple[float, int]] = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                run_id = entry.name.removesuffix(_SUFFIX)
                if run_id != entry.name and _RUN_ID.fullmatch(run_id):
                    status = entry.stat()
                    found[run_id] = (status.st_mtime, status.st_size)
        return found

    # --- closing ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Index and sync what was emitted, let go of the files. The database stays open. Blocks; may be repeated."""
        if self._thread is not None:
            self._wake.put(False)
            self._thread.join(5.0)
        try:
            self._index()
            self._sync(now=True)
        except (OSError, StoreError) as error:
            self._fail(error)
        with self._writing:
            self._close_files()
            self._thread, self._awake = None, False
        _opened.discard(self)

    async def aclose(self) -> None:
        """`close`, in a thread."""
        await asyncio.to_thread(self.close)


_opened: "weakref.WeakSet[TraceStore]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Index what is written when the interpreter ends; runs before the databases close, which registered earlier."""
    for store in list(_opened):
        store.close()


# --- one run, as it is indexed ----------------------------------------------------------------------------------------


@dataclass
class _Run:
    """What the index says of a run, added up event by event."""

    started: float = 0.0
    finished: float | None = None
    status: str = UNFINISHED
    tenant: str = "default"
    user: str | None = None
    thread: str | None = None
    question: str = ""
    graph: str = ""
    agents: dict[str, None] = field(default_factory=dict[str, None])
    usage: Usage = field(default_factory=Usage)
    latency_s: float = 0.0
    error: str | None = None
    events: int = 0
    bytes: int = 0
    rows: list[tuple[Value, ...]] = field(default_factory=list[tuple[Value, ...]])
    """Of its events; only where a whole file is read."""

    def add(self, event: Event, start: int, end: int) -> None:
        """Count one event, which stands at these bytes of the file."""
        self.events += 1
        self.bytes = end
        if self.events == 1:
            self.started = event.at
        if self.finished is None:
            self.latency_s = max(self.latency_s, event.at - self.started)
        match event:
            case RunStarted():
                self.tenant, self.user, self.thread = event.task.tenant, event.task.user, event.task.thread
                self.question, self.graph = event.task.text[: 4 * QUESTION_CHARS], event.graph
            case RunResumed():
                self.finished, self.status, self.error = None, UNFINISHED, None
            case AgentStarted() | AgentReplied():
                self.agents[event.agent] = None
            case ModelCalled():
                if not event.replayed:
                    self.usage = self.usage + event.usage
            case RunFinished():
                self.finished, self.status = event.at, event.answer.status.value
                self.usage, self.latency_s = event.answer.usage, event.answer.latency_s
            case RunWaiting():
                self.status, self.latency_s = WAITING, event.answer.latency_s
                self.usage = event.answer.usage
            case RunFailed():
                self.finished, self.status, self.error = event.at, "failed", event.error
            case RunCancelled():
                self.finished, self.status, self.error = event.at, "cancelled", event.reason
            case _:
                pass

    def values(self, run_id: str, redactor: Redactor) -> tuple[Value, ...]:
        """Its row of `trace_runs`."""
        question = " ".join(_storable(redactor.text(self.question)).split())[:QUESTION_CHARS]
        error = None if self.error is None else _storable(redactor.text(self.error))
        return (
            run_id,
            self.started,
            self.finished,
            self.status,
            self.tenant,
            self.user,
            self.thread,
            question,
            self.graph,
            json.dumps(list(self.agents)),
            self.usage.tokens,
            self.usage.cost_usd,
            self.latency_s,
            error,
            self.events,
            self.bytes,
        )


def _storable(text: str) -> str:
    """The text without halves of surrogate pairs, which no file in UTF-8 can hold."""
    return text.encode("utf-8", "replace").decode()


def _row(event: Event, start: int) -> tuple[Value, ...]:
    """Its row of `trace_events`."""
    return (event.run_id, event.seq, event.type, event.step, getattr(event, "agent", ""), event.at, start)


def _indexed(path: Path) -> _Run:
    """A run added up from its file."""
    run = _Run()
    for start, end, line in _lines(path):
        event = _event(line)
        if event is not None:
            run.add(event, start, end)
            run.rows.append(_row(event, start))
        run.bytes = end  # of damaged lines too: reading them again would not mend them
    return run


def _summary(row: tuple[Any, ...]) -> RunSummary:
    names = [name.strip() for name in _RUN_COLUMNS.split(",")]
    fields = dict(zip(names, row, strict=True))
    return RunSummary.model_validate({**fields, "agents": tuple(json.loads(str(fields["agents"])))})


# --- lines ------------------------------------------------------------------------------------------------------------


def _serialised(event: Event) -> bytes:
    """The event as one line of JSON in UTF-8, without the line's end."""
    try:
        return to_json(event)
    except ValueError:  # half a surrogate pair, from input that is not valid UTF-8
        return json.dumps(event.model_dump(mode="json"), ensure_ascii=False).encode("utf-8", "replace")


def _lines(path: Path, start: int = 0) -> Iterator[tuple[int, int, bytes]]:
    """First byte, past-the-last byte, and each line that is not empty."""
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            end = start + len(line)
            if line != b"\n":
                yield start, end, line
            start = end


def _sync_file(path: Path) -> None:
    """Wait until what was written to the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _all_lines(path: Path, start: int) -> list[tuple[int, int, bytes]]:
    return list(_lines(path, start))


def _event(line: bytes) -> Event | None:
    """The event in a line, None if there is none that can be read."""
    try:
        return event_adapter.validate_json(line)
    except ValidationError:
        return None
