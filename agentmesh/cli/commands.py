"""The commands of `agentmesh`. Each imports what it needs when it runs."""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentmesh.errors import ConfigError, InputError, UnknownNameError, nearest

if TYPE_CHECKING:
    from rich.console import Console

    from agentmesh.project.schema import Scenario, ScenarioTask
    from agentmesh.runtime.mesh import Mesh
    from agentmesh.types import Answer

__all__ = ["app"]

app = typer.Typer(
    name="agentmesh",
    help="Routes a question to the right agents, gives each the memory it needs, merges their answers, and shows why.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
agents_app = typer.Typer(help="The agents of the project.", no_args_is_help=True)
models_app = typer.Typer(help="Language models.", no_args_is_help=True)
trace_app = typer.Typer(help="Recorded runs.", no_args_is_help=True)
app.add_typer(agents_app, name="agents")
app.add_typer(models_app, name="models")
app.add_typer(trace_app, name="trace")

ProjectOption = Annotated[
    Path | None,
    typer.Option(
        "--project", "-p", help="Folder of the project; by default the nearest one upwards.", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        from agentmesh import __version__

        print(f"agentmesh {__version__}")
        raise typer.Exit


# --- run --------------------------------------------------------------------------------------------------------------


@app.command()
def run(
    what: Annotated[
        str,
        typer.Argument(
            metavar='SCENARIO-or-"QUESTION"', help="A scenario's name, or a question; `-` reads it from stdin."
        ),
    ],
    router: Annotated[str | None, typer.Option(help="Router instead of the project's own.")] = None,
    model: Annotated[str | None, typer.Option(help="Default model: `embedded`, `gguf:PATH`, any LiteLLM id.")] = None,
    thread: Annotated[str | None, typer.Option(help="Conversation that this belongs to.")] = None,
    tenant: Annotated[str, typer.Option(help="Whose data this is.")] = "default",
    user: Annotated[str | None, typer.Option(help="On whose behalf.")] = None,
    task: Annotated[str | None, typer.Option(help="Task of the scenario by id or number; `all` runs each.")] = None,
    max_usd: Annotated[float | None, typer.Option(help="US$ that the run may cost.", min=0)] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens that the run may take.", min=0)] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Seconds that the run may take.", min=0)] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Show what agents write while they write it.")] = False,
    as_json: JsonOption = False,
    project: ProjectOption = None,
) -> None:
    """Run a task of a scenario, or ask a question.

    Exit status: 0 done, 1 the run failed or a scenario's expectation was not met, 2 a usage or project mistake.
    """
    what = _from_stdin() if what == "-" else what
    limits = {"max_usd": max_usd, "max_tokens": max_tokens, "max_seconds": max_seconds}
    options = {"thread": thread, "tenant": tenant, "user": user, "router": router}
    work = _run(_project(project), what, task, model, {k: v for k, v in limits.items() if v is not None}, options,
                stream=stream, as_json=as_json)  # fmt: skip
    raise typer.Exit(asyncio.run(work))


@app.command()
def resume(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run that was killed or cancelled.")],
    as_json: JsonOption = False,
    project: ProjectOption = None,
) -> None:
    """Go on with a run; calls that had finished are not repeated."""
    raise typer.Exit(asyncio.run(_resume(_project(project), run_id, as_json=as_json)))


async def _run(
    folder: Path,
    what: str,
    task: str | None,
    model: str | None,
    limits: dict[str, Any],
    options: dict[str, Any],
    *,
    stream: bool,
    as_json: bool,
) -> int:
    from agentmesh.assembly import mesh_of, open_project
    from agentmesh.cli.show import loading

    console, errors = _consoles(as_json)
    overrides: dict[str, Any] = {}
    if model is not None:
        overrides["models"] = {"default": {"model": model}}
    if limits:
        overrides["limits"] = limits
    stop, move = loading(errors)
    found = open_project(folder, **overrides)
    scenario = _scenario(found.scenarios, what)
    mesh = mesh_of(found, progress=move)
    try:
        async with mesh:
            if scenario is None:
                if task is not None:
                    raise InputError(f"--task needs a scenario, and {what!r} is a question")
                answer, packs = await _ask(mesh, what, console, stream=stream, **options)
                await mesh.flush()
                if as_json:
                    _print_json(_document(answer, packs, mesh, task={"ask": what}))
                return _status(answer)
            chosen = _tasks(scenario, task)
            within = scenario.limits_over(mesh.limits).model_copy(update=limits)  # the command line has the last word
            return await _scenario_tasks(mesh, scenario, chosen, console, {**options, "limits": within},
                                         stream=stream, as_json=as_json, every=task == "all")  # fmt: skip
    finally:
        stop()


async def _scenario_tasks(
    mesh: "Mesh",
    scenario: "Scenario",
    tasks: Sequence["ScenarioTask"],
    console: "Console",
    options: dict[str, Any],
    *,
    stream: bool,
    as_json: bool,
    every: bool,
) -> int:
    from agentmesh.cli.show import show_checks
    from agentmesh.evaluation.expect import check_answer

    documents: list[dict[str, Any]] = []
    failed = 0
    for task in tasks:
        answer, packs = await _ask(mesh, task.ask, console, stream=stream, graph=scenario.name, **options)
        await mesh.flush()
        checks = check_answer(task.expect, answer) if task.expect else []
        passed = all(check.passed for check in checks) if checks else _status(answer) == 0
        failed += not passed
        if checks:
            console.print(show_checks(checks))
        expect = {"passed": passed, "checks": [check.model_dump() for check in checks]}
        about = {"scenario": scenario.name, "id": task.id, "ask": task.ask}
        documents.append(_document(answer, packs, mesh, task=about, expect=expect))
    if every:
        console.print(f"\n{len(tasks) - failed} of {len(tasks)} tasks of {scenario.name} as expected")
    if as_json:
        whole = {"scenario": scenario.name, "passed": len(tasks) - failed, "tasks": documents}
        _print_json(whole if every else documents[0])
    return 1 if failed else 0


async def _ask(
    mesh: "Mesh", text: str, console: "Console", *, stream: bool, **options: Any
) -> tuple["Answer", list[Any]]:
    from agentmesh.cli.show import RunView
    from agentmesh.trace.events import RunFinished

    view = RunView(console, tokens=stream)
    answer: Answer | None = None
    try:
        async for event in mesh.stream(text, stream=stream, **options):
            view.take(event)
            if isinstance(event, RunFinished):
                answer = event.answer
    finally:
        view.close()
    if answer is None:
        raise InputError("the run ended without an answer; see `agentmesh trace list`")
    return answer, view.packs


async def _resume(folder: Path, run_id: str, *, as_json: bool) -> int:
    from agentmesh.assembly import load_mesh
    from agentmesh.cli.show import RunView, loading

    console, errors = _consoles(as_json)
    stop, move = loading(errors)
    view = RunView(console)

    class Shown:
        def emit(self, event: Any) -> None:
            view.take(event)

    try:
        async with load_mesh(folder, progress=move) as mesh:
            answer = await mesh.resume(run_id, sinks=(Shown(),))
            await mesh.flush()
            if as_json:
                _print_json(_document(answer, view.packs, mesh))
            return _status(answer)
    finally:
        view.close()
        stop()


def _document(answer: "Answer", packs: Sequence[Any], mesh: "Mesh", **extra: Any) -> dict[str, Any]:
    from agentmesh.cli.show import document

    flush_ms = mesh.last_flush_ms
    return document(answer, packs, memory_flush_ms=round(flush_ms, 3) if flush_ms is not None else None, **extra)


def _status(answer: "Answer") -> int:
    """0 unless the run failed: a question back, out of scope and a partial answer are answers."""
    from agentmesh.types import AnswerStatus

    return 1 if answer.status is AnswerStatus.FAILED else 0


def _scenario(scenarios: "Mapping[str, Scenario]", what: str) -> "Scenario | None":
    """The scenario of that name; None: it is a question."""
    if what in scenarios:
        return scenarios[what]
    one_word = len(what.split()) == 1 and "?" not in what
    close = nearest(what, sorted(scenarios))
    if one_word and close:
        raise InputError(
            f"no scenario is called {what!r}; did you mean {close[0]!r}? (to ask it as a question, end it with '?')"
        )
    return None


def _tasks(scenario: "Scenario", wanted: str | None) -> Sequence["ScenarioTask"]:
    """The tasks to run: the first one if nothing is said."""
    if not scenario.tasks:
        raise ConfigError(f"scenarios/{scenario.name}.yaml: tasks: it has none; add one with `ask` and `expect`")
    if wanted == "all":
        return scenario.tasks
    if wanted is None:
        return scenario.tasks[:1]
    if wanted.isdigit() and 1 <= int(wanted) <= len(scenario.tasks):
        return (scenario.tasks[int(wanted) - 1],)
    for task in scenario.tasks:
        if task.id == wanted:
            return (task,)
    raise UnknownNameError("task", wanted, [t.id for t in scenario.tasks], where=f"scenario {scenario.name!r}")


# --- check, agents, models --------------------------------------------------------------------------------------------


@app.command()
def check(as_json: JsonOption = False, project: ProjectOption = None) -> None:
    """Report every mistake of the project at once: file, line, key, what is wrong, the nearest valid value."""
    from agentmesh.assembly import check_folder, open_project

    folder = _project(project)
    mistakes = check_folder(folder)
    if as_json:
        _print_json({"ok": not mistakes, "mistakes": [asdict(m) for m in mistakes]})
    elif mistakes:
        for mistake in mistakes:
            print(str(mistake), file=sys.stderr)
        print(f"{len(mistakes)} mistake{'s' if len(mistakes) != 1 else ''}", file=sys.stderr)
    else:
        found = open_project(folder)
        tasks = sum(len(s.tasks) for s in found.scenarios.values())
        print(
            f"no mistakes: {len(found.cards)} agents, {len(found.roles)} roles, {len(found.scenarios)} scenarios "
            f"with {tasks} tasks"
        )
    raise typer.Exit(2 if mistakes else 0)


@agents_app.command("list")
def agents_list(as_json: JsonOption = False, project: ProjectOption = None) -> None:
    """The agents of the project, with what each is for."""
    from agentmesh.assembly import open_project

    cards = open_project(_project(project)).cards
    if as_json:
        _print_json([card.model_dump(mode="json") for card in cards])
        return
    from rich.table import Table
    from rich.text import Text

    console, _ = _consoles(False)
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("agent", "role", "model", "examples", "what it is for"):
        table.add_column(heading, no_wrap=heading == "agent", justify="right" if heading == "examples" else "left")
    for card in cards:
        shadow = " (shadow)" if card.shadow else ""
        row = (card.id + shadow, card.role, card.model, str(len(card.examples)), card.description)
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


@models_app.command("list")
def models_list(as_json: JsonOption = False, project: ProjectOption = None) -> None:
    """The models of the project, and whether each can be used."""
    from agentmesh.assembly import describe_models, open_project

    rows = describe_models(open_project(_project(project)))
    if as_json:
        _print_json(rows)
        return
    from rich.table import Table
    from rich.text import Text

    console, _ = _consoles(False)
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("name", "model", "capable", "ready"):
        table.add_column(heading)
    for row in rows:
        table.add_row(Text(row["name"]), Text(row["model"]), "yes" if row["capable"] else "no", Text(row["ready"]))
    console.print(table)


@models_app.command("pull")
def models_pull(
    spec: Annotated[str, typer.Argument(help="`embedded`, or `hf:owner/repo/file.gguf`.")] = "embedded",
) -> None:
    """Fetch the weights of a local model into the cache folder and check them."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    from agentmesh.models.weights import pull_weights

    _, console = _consoles(False)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("looking", total=None)

        def move(done: int, total: int, name: str) -> None:
            progress.update(bar, completed=done, total=total or None, description=name)

        path = pull_weights(spec, move)
    print(f"{spec}: {path}")


# --- trace ------------------------------------------------------------------------------------------------------------


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

    async def rows() -> list[Any]:
        store, db = open_trace(_project(project))
        try:
            return list(await store.list_runs(limit=limit, status=status))
        finally:
            await store.aclose()
            await db.aclose()

    runs = asyncio.run(rows())
    if as_json:
        _print_json([r.model_dump(mode="json") for r in runs])
        return
    from rich.table import Table
    from rich.text import Text

    from agentmesh.cli.show import when

    console, _ = _consoles(False)
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("run", "started (UTC)", "status", "tokens", "US$", "seconds", "question"):
        right = heading in ("tokens", "US$", "seconds")
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading != "question")
    for r in runs:
        seconds = f"{r.latency_s:.2f}" if r.latency_s is not None else "-"
        cells = (r.run_id, when(r.started), r.status, str(r.tokens), f"{r.cost_usd:.4f}", seconds, r.question)
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)


@trace_app.command("show")
def trace_show(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The run's id, or its first letters.")],
    events: Annotated[bool, typer.Option("--events", help="Every event on a line of its own.")] = False,
    as_json: JsonOption = False,
    project: ProjectOption = None,
) -> None:
    """Show a recorded run as it looked, or event by event."""
    recorded = _recorded(_project(project), run_id)
    if as_json:
        _print_json([e.model_dump(mode="json") for e in recorded])
        return
    from agentmesh.cli.show import RunView, show_event

    console, _ = _consoles(False)
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
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The run's id, or its first letters.")],
    form: Annotated[
        ExportFormat, typer.Option("--format", help="One event a line, or one document.")
    ] = ExportFormat.JSONL,
    out: Annotated[Path | None, typer.Option(help="File to write; standard output if absent.")] = None,
    project: ProjectOption = None,
) -> None:
    """Write the events of a run, secrets left out."""
    from agentmesh.assembly import open_trace

    async def text() -> str:
        store, db = open_trace(_project(project))
        try:
            return store.export(run_id, form.value)
        finally:
            await store.aclose()
            await db.aclose()

    exported = asyncio.run(text())
    if out is None:
        sys.stdout.write(exported if exported.endswith("\n") else exported + "\n")
        return
    try:
        out.write_text(exported, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error


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


# --- bench ------------------------------------------------------------------------------------------------------------


class Bench(StrEnum):
    OVERHEAD = "overhead"


@app.command()
def bench(
    name: Annotated[Bench, typer.Argument(help="Which benchmark.")],
    sets: Annotated[list[str] | None, typer.Option("--set", help="Only this set; may be repeated.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of benchmark data; `overhead` needs none.")] = None,
    router: Annotated[
        list[str] | None, typer.Option(help="Only this router; may be repeated. `overhead` compares none.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for plots as PNG and SVG.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure, beside a baseline in the same run."""
    from agentmesh.evaluation.overhead import SETS, bench_overhead
    from agentmesh.evaluation.report import draw_rows, show_rows

    for wanted in sets or ():
        if wanted not in SETS:
            raise UnknownNameError("set", wanted, SETS, where=f"bench {name.value}")
    console, errors = _consoles(as_json)
    if data is not None or router:
        errors.print("overhead reads no data and compares no routers: --data and --router change nothing", style="dim")
    result = asyncio.run(bench_overhead(tuple(sets or SETS), say=lambda text: errors.print(text, style="dim")))
    if out is not None:
        draw_rows(result, out)
    if as_json:
        _print_json(result)
    else:
        show_rows(result, console)


# --- shared -----------------------------------------------------------------------------------------------------------


def _from_stdin() -> str:
    """The question on standard input: for one that no command line takes."""
    data = sys.stdin.buffer.read()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"standard input is not UTF-8 (byte {error.start}); send it as UTF-8") from error


def _consoles(as_json: bool) -> tuple["Console", "Console"]:
    """Where results go and where progress goes; with --json, nothing but the document is on standard output."""
    from rich.console import Console

    errors = Console(stderr=True, highlight=False)
    return (Console(quiet=True) if as_json else Console(highlight=False)), errors


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def _project(given: Path | None) -> Path:
    """The folder of the project: the one named, or the nearest upwards that looks like one."""
    if given is not None:
        if not given.is_dir():
            raise InputError(f"--project {given}: there is no such folder")
        return given
    from agentmesh.project.loader import find_project

    return find_project(Path.cwd())
