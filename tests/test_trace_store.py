"""The trace store: what was emitted is in the file at once, and the index follows."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from agentmesh.database import Database
from agentmesh.errors import InputError, StoreError
from agentmesh.run import Emitter, SystemClock
from agentmesh.trace.base import TraceSink
from agentmesh.trace.events import (
    AgentStarted,
    Event,
    MemoryFlushed,
    ModelCalled,
    RouteDecided,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    StageEntered,
    TokensStreamed,
)
from agentmesh.trace.redact import Redactor
from agentmesh.trace.store import MOST_OPEN_FILES, UNFINISHED, RunSummary, TraceStore
from agentmesh.types import Answer, AnswerStatus, Chosen, Mode, RoutingDecision, Task, Usage

ROOT = Path(__file__).parents[1]
USAGE = Usage(calls=1, prompt_tokens=30, completion_tokens=4, cost_usd=0.5)


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(tmp_path / "mesh.db")
    yield database
    await database.aclose()


@pytest.fixture
async def store(tmp_path: Path, db: Database) -> AsyncIterator[TraceStore]:
    trace = TraceStore(tmp_path, db, Redactor(["hunter2-hunter2"]))
    yield trace
    await trace.aclose()


class StoppedClock(SystemClock):
    """Stands at one second."""

    def __init__(self, now: float) -> None:
        self.second = now

    def now(self) -> float:
        return self.second


def emit(sink: TraceSink, run_id: str, *events: Event, at: float = 100.0, first: int = 1) -> None:
    emitter = Emitter(run_id, (sink,), StoppedClock(at), first=first)
    for event in events:
        emitter.emit(event, step="route.r1")


def begun(question: str = "Why?", tenant: str = "default") -> RunStarted:
    task = Task(text=question, tenant=tenant, user="u7", thread="t1")
    return RunStarted(task=task, graph="default", agents=("a", "b"), version="0.1.0")


def stage(name: str = "route") -> StageEntered:
    return StageEntered(stage=name, kind="dispatch", round=1)


def finished(run_id: str, status: AnswerStatus = AnswerStatus.ANSWERED) -> RunFinished:
    return RunFinished(answer=Answer(run_id=run_id, status=status, text="So.", usage=USAGE, latency_s=1.5))


def called(agent: str = "a") -> tuple[Event, Event]:
    return (
        AgentStarted(agent=agent, call_id="c", part="p", attempt=1, model="m"),
        ModelCalled(call_id="c", agent=agent, model="m", usage=USAGE, latency_ms=2.0),
    )


def types(events: Sequence[Event]) -> list[str]:
    return [event.type for event in events]


# --- files ------------------------------------------------------------------------------------------------------------


def test_an_event_is_in_the_file_of_its_run_as_soon_as_it_is_emitted(store: TraceStore, tmp_path: Path) -> None:
    emit(store, "run-1", begun(), stage())
    emit(store, "run-2", begun())
    lines = (tmp_path / "traces" / "run-1.jsonl").read_text().splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["run_started", "stage_entered"]
    assert json.loads(lines[1]) | {"at": 100.0, "seq": 2, "step": "route.r1"} == json.loads(lines[1])
    assert len((tmp_path / "traces" / "run-2.jsonl").read_text().splitlines()) == 1


def test_what_is_read_is_what_was_emitted(store: TraceStore) -> None:
    sent: list[Event] = [begun("Grüße, \u2028 \0 und \\n?"), stage(), *called(), finished("run-1")]
    emit(store, "run-1", *sent)
    read = store.read("run-1")
    assert [e.model_copy(update={"run_id": "", "seq": 0, "at": 0.0, "step": ""}) for e in read] == sent
    assert [e.seq for e in read] == [1, 2, 3, 4, 5]


def test_streamed_tokens_are_not_stored(store: TraceStore) -> None:
    emit(store, "run-1", begun(), TokensStreamed(agent="a", text="So"), stage())
    assert [e.seq for e in store.read("run-1")] == [1, 3]


def test_secrets_are_in_neither_the_file_nor_the_index(store: TraceStore, db: Database, tmp_path: Path) -> None:
    emit(store, "run-1", begun("My password is hunter2-hunter2"), RunFailed(error="no hunter2-hunter2", kind="X"))
    [summary] = asyncio.run(store.list_runs())
    assert summary.question == "My password is [redacted]"
    assert summary.error == "no [redacted]"
    db.close()
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes()


def test_text_that_is_not_valid_unicode_is_stored_as_far_as_it_is(store: TraceStore) -> None:
    emit(store, "run-1", begun("half \ud800 a pair"))
    [event] = store.read("run-1")
    assert isinstance(event, RunStarted)
    assert event.task.text == "half ? a pair"
    [summary] = asyncio.run(store.list_runs())
    assert summary.question == "half ? a pair"


def test_numbers_that_json_does_not_have_are_read_back(store: TraceStore) -> None:
    decision = RoutingDecision(mode=Mode.SOLO, chosen=(Chosen(agent="a", score=float("-inf")),), reason="", router="r")
    emit(store, "run-1", RouteDecided(stage="route", decision=decision))
    [event] = store.read("run-1")
    assert isinstance(event, RouteDecided)
    assert event.decision == decision
    [line] = (store.folder / "run-1.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail)["decision"]["chosen"][0]["score"] == "-Infinity"


async def test_a_trace_that_somebody_removes_meanwhile_harms_no_other(store: TraceStore) -> None:
    emit(store, "run-1", begun())
    emit(store, "run-2", begun())
    (store.folder / "run-1.jsonl").unlink()
    emit(store, "run-2", stage(), first=2)
    await store.aclose()
    assert store.error is None
    assert len(store.read("run-2")) == 2


def test_more_runs_than_open_files_lose_nothing(store: TraceStore) -> None:
    runs = [f"run-{n}" for n in range(MOST_OPEN_FILES + 20)]
    for n in (1, 2):
        for run_id in runs:
            emit(store, run_id, begun() if n == 1 else stage(), first=n)
    assert store.error is None
    assert all([e.seq for e in store.read(run_id)] == [1, 2] for run_id in runs)


@pytest.mark.parametrize("run_id", ["", "../x", "a/b", ".hidden", "a b", "x" * 129])
def test_a_run_id_that_is_no_safe_file_name_is_not_written(store: TraceStore, tmp_path: Path, run_id: str) -> None:
    emit(store, run_id, begun())
    assert store.lost == 1
    assert "run id" in str(store.error)
    assert not list(tmp_path.rglob("*.jsonl"))
    with pytest.raises(InputError, match="run id"):
        store.read(run_id)


# --- damage -----------------------------------------------------------------------------------------------------------


def test_a_last_line_that_is_cut_off_is_reported_and_the_run_goes_on_after_it(
    store: TraceStore, caplog: pytest.LogCaptureFixture
) -> None:
    path = store.folder / "run-1.jsonl"
    emit(store, "run-1", begun(), stage())
    store.close()
    path.write_bytes(path.read_bytes()[:-20])
    assert types(store.read("run-1")) == ["run_started"]
    assert "cut off" in caplog.text
    assert store.last_seq("run-1") == 1
    emit(store, "run-1", RunResumed(finished_calls=0), first=2)
    trace = store.load("run-1")
    assert types(trace.events) == ["run_started", "run_resumed"]
    assert (trace.torn, trace.unreadable) == (False, 1)


def test_events_of_a_newer_agentmesh_are_left_out_and_counted(
    store: TraceStore, caplog: pytest.LogCaptureFixture
) -> None:
    emit(store, "run-1", begun())
    store.close()
    with (store.folder / "run-1.jsonl").open("a") as file:
        file.write('{"type": "dream_dreamt", "run_id": "run-1", "seq": 2}\nnonsense\n')
    emit(store, "run-1", stage(), first=3)
    assert types(store.read("run-1")) == ["run_started", "stage_entered"]
    assert "2 unreadable lines" in caplog.text


async def test_a_folder_that_cannot_be_made_costs_the_run_nothing_and_is_said_once(
    tmp_path: Path, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "traces").write_text("in the way")
    store = TraceStore(tmp_path, db, Redactor())
    emit(store, "run-1", begun(), stage(), finished("run-1"))
    assert isinstance(store.error, StoreError)
    assert "\n" not in str(store.error)
    assert store.lost == 3
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1
    await store.aclose()


FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from agentmesh.database import Database
from agentmesh.trace.events import StageEntered
from agentmesh.trace.redact import Redactor
from agentmesh.trace.store import TraceStore
folder = Path(sys.argv[1])
db = Database(folder / "mesh.db")
db.open()
store = TraceStore(folder, db, Redactor())
event = StageEntered(run_id="run-1", seq=1, stage="x" * 2000, kind="dispatch", round=1)
store.emit(event)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
store.emit(event.model_copy(update={"seq": 2}))
store.emit(event.model_copy(update={"seq": 3}))
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
store.emit(event.model_copy(update={"seq": 4}))
print([e.seq for e in store.load("run-1").events], store.lost, store.error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no limit of file sizes")
def test_a_full_disk_loses_only_the_events_that_did_not_fit(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.stdout.startswith("[1, 4] 2 traces cannot be written to ")
    assert done.stderr.count("traces cannot be written") == 1
    assert "Traceback" not in done.stderr


# --- the index --------------------------------------------------------------------------------------------------------


async def test_the_list_of_runs_says_how_each_went_newest_first(store: TraceStore) -> None:
    emit(store, "run-1", begun("  Why\n is  it? "), *called("b"), *called("a"), finished("run-1"), at=100.0)
    emit(store, "run-1", MemoryFlushed(items=1, latency_ms=9.0), at=109.0, first=7)
    emit(store, "run-2", begun("How?", tenant="acme"), *called(), at=200.0)
    emit(store, "run-3", begun("Who?"), RunFailed(error="it broke", kind="RoutingError"), at=300.0)
    emit(store, "run-4", begun("When?"), RunCancelled(reason="a person"), at=50.0)
    runs = await store.list_runs()
    assert [(r.run_id, r.status, r.error) for r in runs] == [
        ("run-3", "failed", "it broke"),
        ("run-2", UNFINISHED, None),
        ("run-1", "answered", None),
        ("run-4", "cancelled", "a person"),
    ]
    assert runs[2] == RunSummary(
        run_id="run-1",
        started=100.0,
        finished=100.0,
        status="answered",
        tenant="default",
        user="u7",
        thread="t1",
        question="Why is it?",
        graph="default",
        agents=("b", "a"),
        tokens=34,
        cost_usd=0.5,
        latency_s=1.5,
        error=None,
        events=7,
    )
    assert runs[1].tokens == 34

    async def ids(**wanted: str | int) -> list[str]:
        return [r.run_id for r in await store.list_runs(**wanted)]  # pyright: ignore[reportArgumentType]

    assert await ids(limit=2) == ["run-3", "run-2"]
    assert await ids(status="failed") == ["run-3"]
    assert await ids(tenant="acme") == ["run-2"]
    assert await ids(text="WH") == ["run-3", "run-1", "run-4"]
    assert await ids(text="%") == []
    assert await store.old_runs(1) == ["run-1", "run-4"]


async def test_the_events_of_a_run_are_found_by_their_place_in_the_file(store: TraceStore, db: Database) -> None:
    emit(store, "run-1", begun(), stage("first"), *called())
    await store.flush()
    rows = await db.query("SELECT seq, type, step, agent, at, offset FROM trace_events ORDER BY seq")
    assert [row[:5] for row in rows[1:3]] == [
        (2, "stage_entered", "route.r1", "", 100.0),
        (3, "agent_started", "route.r1", "a", 100.0),
    ]
    content = (store.folder / "run-1.jsonl").read_bytes()
    assert [json.loads(content[row[5] :].splitlines()[0])["seq"] for row in rows] == [1, 2, 3, 4]


async def test_a_resumed_run_is_unfinished_again_and_counts_what_it_did_before(store: TraceStore) -> None:
    emit(store, "run-1", begun(), *called(), RunFailed(error="killed", kind="X"), at=100.0)
    assert store.last_seq("run-1") == 4
    await store.aclose()
    later = TraceStore(store.folder.parent, store.db, Redactor())
    emit(later, "run-1", RunResumed(finished_calls=1), *called("b"), at=160.0, first=later.last_seq("run-1") + 1)
    await later.flush()
    [run] = await later.list_runs()
    assert (run.status, run.error, run.finished) == (UNFINISHED, None, None)
    assert (run.question, run.agents, run.tokens, run.events) == ("Why?", ("a", "b"), 68, 7)
    assert (run.started, run.latency_s) == (100.0, 60.0)
    await later.aclose()


async def test_files_that_the_index_lacks_or_lags_behind_are_indexed_once(store: TraceStore, db: Database) -> None:
    emit(store, "run-1", begun(), finished("run-1"))
    emit(store, "run-2", begun(), stage())
    await store.flush()
    await db.write(("DELETE FROM trace_runs WHERE run_id = 'run-1'", ()))
    with (store.folder / "run-2.jsonl").open("ab") as file:
        file.write(finished("run-2").model_copy(update={"run_id": "run-2", "seq": 3}).model_dump_json().encode())
    assert await store.reindex() == 2
    assert await store.reindex() == 0
    assert {r.run_id: (r.status, r.events) for r in await store.list_runs()} == {
        "run-1": ("answered", 2),
        "run-2": ("answered", 3),
    }
    assert await db.query("SELECT count(*) FROM trace_events") == [(5,)]


async def test_a_database_that_cannot_be_written_does_not_stop_the_files(tmp_path: Path) -> None:
    (tmp_path / "in_the_way").write_text("")
    lost: list[StoreError] = []
    db = Database(tmp_path / "in_the_way" / "mesh.db", on_error=lost.append)
    store = TraceStore(tmp_path, db, Redactor())
    emit(store, "run-1", begun(), stage())
    await store.aclose()
    assert types(store.read("run-1")) == ["run_started", "stage_entered"]
    with pytest.raises(StoreError):
        await store.list_runs()
    assert len(lost) == 1
    await db.aclose()


# --- finding and exporting --------------------------------------------------------------------------------------------


def test_a_run_is_found_by_the_first_characters_of_its_id_where_they_say_which(store: TraceStore) -> None:
    for run_id in ("r-2026-aaaa", "r-2026-abbb", "r-2026-abbb-2"):
        emit(store, run_id, begun())
    assert store.find("r-2026-aa") == "r-2026-aaaa"
    assert store.find("r-2026-abbb") == "r-2026-abbb"
    with pytest.raises(InputError, match="2 runs begin with"):
        store.read("r-2026-ab")
    with pytest.raises(InputError, match=r"did you mean r-2026-aaaa\?"):
        store.read("r-2026-aaax")
    for unknown in ("zzz", "r-2"):
        with pytest.raises(InputError, match="agentmesh trace list"):
            store.read(unknown)


def test_a_run_that_is_asked_for_before_anything_was_recorded_is_unknown(store: TraceStore) -> None:
    with pytest.raises(InputError, match="agentmesh trace list"):
        store.read("run-1")
    assert store.last_seq("run-1") == 0
    assert asyncio.run(store.list_runs()) == []


def test_an_export_is_one_document_a_line_or_one_array(store: TraceStore) -> None:
    emit(store, "run-1", begun(), stage())
    lines = [json.loads(line) for line in store.export("run-1").splitlines()]
    assert [line["type"] for line in lines] == ["run_started", "stage_entered"]
    assert json.loads(store.export("run-1", "json")) == lines
    with pytest.raises(InputError, match="jsonl or json"):
        store.export("run-1", "xml")


def test_the_last_number_is_found_behind_a_very_long_line(store: TraceStore) -> None:
    emit(store, "run-1", begun(), stage("x" * 200_000))
    assert store.last_seq("run-1") == 2


async def test_following_a_run_gives_what_comes_until_it_ends(store: TraceStore) -> None:
    emit(store, "run-1", begun())
    seen: list[str] = []

    async def follow() -> None:
        async for event in store.follow("run-1", every_s=0.001):
            seen.append(event.type)
            if event.type == "run_started":
                emit(store, "run-1", stage(), finished("run-1"), first=2)

    await asyncio.wait_for(follow(), 5)
    assert seen == ["run_started", "stage_entered", "run_finished"]


# --- processes --------------------------------------------------------------------------------------------------------

WRITER = """
import itertools, sys
from pathlib import Path
from agentmesh.database import Database
from agentmesh.run import Emitter, SystemClock
from agentmesh.trace.events import RunStarted, StageEntered
from agentmesh.trace.redact import Redactor
from agentmesh.trace.store import TraceStore
from agentmesh.types import Task
folder, run_id, most = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
db = Database(folder / "mesh.db")
emitter = Emitter(run_id, (TraceStore(folder, db, Redactor()),), SystemClock())
emitter.emit(RunStarted(task=Task(text="Why?"), graph="default", agents=(), version="0"))
for n in itertools.count(2):
    emitter.emit(StageEntered(stage=f"s{n}", kind="dispatch", round=1))
    print(n, flush=True)
    if n == most:
        break
"""


def writer(folder: Path, run_id: str, most: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), run_id, str(most)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("events", [2, 500])
async def test_a_killed_process_loses_nothing_that_it_emitted_and_the_index_catches_up(
    tmp_path: Path, db: Database, events: int
) -> None:
    last = 0
    with writer(tmp_path, "run-1", 10**9) as process:
        assert process.stdout is not None
        while last < events:
            last = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        last = max([last, *(int(line) for line in process.stdout.read().split("\n")[:-1])])
    store = TraceStore(tmp_path, db, Redactor())
    trace = store.load("run-1")
    assert [e.seq for e in trace.events] == list(range(1, len(trace.events) + 1))
    assert last <= len(trace.events) <= last + 1
    assert not trace.torn
    [run] = await store.list_runs()
    assert (run.status, run.question, run.events) == (UNFINISHED, "Why?", len(trace.events))
    await store.aclose()


async def test_two_processes_record_side_by_side_and_end_without_closing(tmp_path: Path, db: Database) -> None:
    processes = [writer(tmp_path, run_id, 200) for run_id in ("run-1", "run-2")]
    for process in processes:
        await asyncio.to_thread(process.communicate, timeout=30)
        assert process.returncode == 0
    store = TraceStore(tmp_path, db, Redactor())
    assert await db.query("SELECT run_id, events FROM trace_runs ORDER BY run_id") == [("run-1", 200), ("run-2", 200)]
    assert await db.query("SELECT count(*) FROM trace_events") == [(400,)]
    assert [r.events for r in await store.list_runs()] == [200, 200]
    await store.aclose()
