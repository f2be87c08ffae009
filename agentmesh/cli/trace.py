"""`agentmesh trace`: recorded runs."""

import asyncio
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from agentmesh.cli.app import JsonOption, ProjectOption, consoles, print_json, project_folder, trace_app, write_output
from agentmesh.cli.completion import complete_runs
from agentmesh.errors import UnknownNameError

__all__: list[str] = []

WIDE_COLUMNS = 110
"""Columns from which a list of runs has all that is known of each."""
LEAST_QUESTION_COLUMNS = 10
CANCELLED = "cancelled"


RunArgument = Annotated[
    str,
    typer.Argument(metavar="RUN", help="The run's id, or its first letters.", autocompletion=complete_runs),
]


class ExportFormat(StrEnum):
    JSONL = "jsonl"
    JSON = "json"


@trace_app.command("list")
def trace_list(
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1)] = 20,
    status: Annotated[str | None, typer.Option(help="Only runs with this status.")] = None,
    as_json: JsonOption = False,
    project: ProjectOption = None,
) -> None:
    """Recorded runs, newest first."""
    from agentmesh.assembly import open_trace
    from agentmesh.trace.store import UNFINISHED, WAITING
    from agentmesh.types import AnswerStatus

    statuses = sorted({*(s.value for s in AnswerStatus), UNFINISHED, WAITING, CANCELLED})
    if status is not None and status not in statuses:
        raise UnknownNameError("status", status, statuses)

    async def rows() -> list[Any]:
        store, db = open_trace(project_folder(project))
        try:
            return list(await store.list_runs(limit=limit, status=status))
        finally:
            await store.aclose()
            await db.aclose()

    runs = asyncio.run(rows())
    if as_json:
        print_json([r.model_dump(mode="json") for r in runs])
        return
    from rich.table import Table
    from rich.text import Text

    from agentmesh.cli.show import when

    console, _ = consoles(False)
    table = Table(box=None, header_style="dim", pad_edge=False)
    headings = ("run", "started (UTC)", "status", "tokens", "US$", "seconds", "question")
    lines = [
        (
            r.run_id,
            when(r.started),
            r.status,
            str(r.tokens),
            f"{r.cost_usd:.4f}",
            f"{r.latency_s:.2f}" if r.latency_s is not None else "-",
            " ".join(r.question.split()),
        )
        for r in runs
    ]
    # the id of a run begins with when it started, so that is what a narrow terminal can do without
    left_out = set[str]() if console.width >= WIDE_COLUMNS else {"started (UTC)", "US$"}
    room = console.width
    for n, heading in enumerate(headings):
        if heading in left_out:
            continue
        width = max(len(heading), *(len(line[n]) for line in lines)) if lines else len(heading)
        last = heading == "question"
        right = heading in ("tokens", "US$", "seconds")
        table.add_column(
            heading,
            justify="right" if right else "left",
            no_wrap=True,
            width=max(LEAST_QUESTION_COLUMNS, room) if last else width,
        )
        room -= width + 2
    for line in lines:
        shown = (cell for heading, cell in zip(headings, line, strict=True) if heading not in left_out)
        table.add_row(*(Text(cell) for cell in shown))
    console.print(table)


@trace_app.command("show")
def trace_show(
    run_id: RunArgument,
    events: Annotated[bool, typer.Option("--events", help="Every event on a line of its own.")] = False,
    as_json: JsonOption = False,
    project: ProjectOption = None,
) -> None:
    """Show a recorded run as it looked, or event by event."""
    recorded = _recorded(project_folder(project), run_id)
    if as_json:
        print_json([e.model_dump(mode="json") for e in recorded])
        return
    from agentmesh.cli.show import RunView, show_event

    console, _ = consoles(False)
    if events:
        for event in recorded:
            console.print(show_event(event, recorded[0].at), no_wrap=True, overflow="ellipsis")
        return
    view = RunView(console)
    for event in recorded:
        view.take(event)
    view.close()


@trace_app.command("export")
def trace_export(
    run_id: RunArgument,
    form: Annotated[
        ExportFormat, typer.Option("--format", help="One event a line, or one document.")
    ] = ExportFormat.JSONL,
    out: Annotated[Path | None, typer.Option(help="File to write; standard output if absent.")] = None,
    project: ProjectOption = None,
) -> None:
    """Write the events of a run, secrets left out."""
    from agentmesh.assembly import open_trace

    async def text() -> str:
        store, db = open_trace(project_folder(project))
        try:
            return store.export(run_id, form.value)
        finally:
            await store.aclose()
            await db.aclose()

    exported = asyncio.run(text())
    if out is None:
        sys.stdout.write(exported if exported.endswith("\n") else exported + "\n")
        return
    write_output(out, exported.encode())


def _recorded(folder: Path, run_id: str) -> list[Any]:
    from agentmesh.assembly import open_trace

    async def read() -> list[Any]:
        store, db = open_trace(folder)
        try:
            return list(store.read(run_id))
        finally:
            await store.aclose()
            await db.aclose()

    return asyncio.run(read())
