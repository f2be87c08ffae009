"""`agentmesh run`, `resume` and `cancel`: they ask on the terminal what a run asks a person."""

import asyncio
import contextlib
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentmesh.cli.app import JsonOption, ProjectOption, app, consoles, print_json, project_folder
from agentmesh.cli.completion import complete_routers, complete_runs, complete_scenarios
from agentmesh.errors import ConfigError, InputError, UnknownNameError, nearest

if TYPE_CHECKING:
    from rich.console import Console

    from agentmesh.project.schema import Scenario, ScenarioTask
    from agentmesh.runtime.mesh import Mesh
    from agentmesh.types import Answer

__all__: list[str] = []

MOST_STDIN_BYTES = 16 << 20
"""Of a question on standard input; far above any `limits.max_question_chars`."""


@app.command()
def run(
    what: Annotated[
        str,
        typer.Argument(
            metavar='SCENARIO-or-"QUESTION"',
            help="A scenario's name, or a question; `-` reads it from stdin.",
            autocompletion=complete_scenarios,
        ),
    ],
    router: Annotated[
        str | None, typer.Option(help="Router instead of the project's own.", autocompletion=complete_routers)
    ] = None,
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

    A run that needs a person asks on the terminal; where there is none, or nothing is answered, it waits for
    `agentmesh resume`. Tasks of a scenario are never asked back.

    Exit status: 0 done, 1 the run failed or a scenario's expectation was not met, 2 a usage or project mistake.
    """
    what = _from_stdin() if what == "-" else what
    limits = {"max_usd": max_usd, "max_tokens": max_tokens, "max_seconds": max_seconds}
    options = {"thread": thread, "tenant": tenant, "user": user, "router": router}
    work = _run(project_folder(project), what, task, model, {k: v for k, v in limits.items() if v is not None}, options,
                stream=stream, as_json=as_json)  # fmt: skip
    raise typer.Exit(asyncio.run(work))


@app.command()
def resume(
    run_id: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run that waits, or was killed or cancelled.", autocompletion=complete_runs
        ),
    ],
    answer: Annotated[str | None, typer.Option(help="What a person says to what the run asks.")] = None,
    question: Annotated[
        str | None, typer.Option(help="Which question is answered, by id; by default the first.")
    ] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Show what agents write while they write it.")] = False,
    as_json: JsonOption = False,
    project: ProjectOption = None,
) -> None:
    """Go on with a run; calls that had finished are not repeated."""
    if question is not None and answer is None:
        raise InputError("--question says which question --answer is for; give both")
    said = answer if question is None or answer is None else {question: answer}
    raise typer.Exit(asyncio.run(_resume(project_folder(project), run_id, said, stream=stream, as_json=as_json)))


@app.command()
def cancel(
    run_id: Annotated[
        str, typer.Argument(metavar="RUN", help="A run that waits or was killed.", autocompletion=complete_runs)
    ],
    reason: Annotated[str, typer.Option(help="Why, for the trace.")] = "given up",
    project: ProjectOption = None,
) -> None:
    """Give up a run for good: it cannot be resumed any more."""
    asyncio.run(_cancel(project_folder(project), run_id, reason))
    print(f"{run_id}: cancelled")


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

    console, errors = consoles(as_json)
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
                answer, more = await _converse(mesh, answer, console, stream=stream)
                packs = [*packs, *more]
                await mesh.flush()
                if as_json:
                    print_json(_document(answer, packs, mesh, task={"ask": what}))
                return _status(answer)
            chosen = _tasks(scenario, task)
            # the command line has the last word, and what a scenario expects is not asked back
            within = scenario.limits_over(mesh.limits).model_copy(update={**limits, "max_questions": 0})
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
        print_json(whole if every else documents[0])
    return 1 if failed else 0


async def _ask(
    mesh: "Mesh", text: str, console: "Console", *, stream: bool, **options: Any
) -> tuple["Answer", list[Any]]:
    from agentmesh.cli.show import RunView
    from agentmesh.trace.events import RunFinished, RunWaiting

    view = RunView(console, tokens=stream)
    answer: Answer | None = None
    try:
        async for event in mesh.stream(text, stream=stream, **options):
            view.take(event)
            if isinstance(event, RunFinished | RunWaiting):
                answer = event.answer
    finally:
        view.close()
    if answer is None:
        raise InputError("the run ended without an answer; see `agentmesh trace list`")
    return answer, view.packs


async def _resume(folder: Path, run_id: str, said: Any, *, stream: bool, as_json: bool) -> int:
    from agentmesh.assembly import load_mesh
    from agentmesh.cli.show import loading, show_waiting

    console, errors = consoles(as_json)
    stop, move = loading(errors)
    try:
        async with load_mesh(folder, progress=move) as mesh:
            waiting = await mesh.waiting(run_id) if said is None and _may_ask(console) else ()
            if waiting:
                answer = (await mesh.stops(run_id))[-1].model_copy(update={"waiting": waiting})
                console.print(show_waiting(answer))
                answer, packs = await _converse(mesh, answer, console, stream=stream)
            else:
                answer, packs = await _go_on(mesh, run_id, said, console, stream=stream)
                answer, more = await _converse(mesh, answer, console, stream=stream)
                packs = [*packs, *more]
            await mesh.flush()
            if as_json:
                print_json(_document(answer, packs, mesh))
            return _status(answer)
    finally:
        stop()


async def _cancel(folder: Path, run_id: str, reason: str) -> None:
    from agentmesh.assembly import load_mesh

    async with load_mesh(folder) as mesh:
        await mesh.cancel(run_id, reason=reason)


async def _go_on(
    mesh: "Mesh", run_id: str, said: Any, console: "Console", *, stream: bool
) -> tuple["Answer", list[Any]]:
    """Resume a run and show it."""
    from agentmesh.cli.show import RunView

    view = RunView(console, tokens=stream)

    class Shown:
        def emit(self, event: Any) -> None:
            view.take(event)

    try:
        return await mesh.resume(run_id, said, sinks=(Shown(),), stream=stream), view.packs
    finally:
        view.close()


async def _converse(mesh: "Mesh", answer: "Answer", console: "Console", *, stream: bool) -> tuple["Answer", list[Any]]:
    """Ask on the terminal what a run asks, until it is over or nothing is answered."""
    packs: list[Any] = []
    how = f"the run waits; answer with: agentmesh resume {answer.run_id} --answer TEXT"
    while answer.waiting:
        try:
            said = await _line(_prompt(answer)) if _may_ask(console) else ""
        except asyncio.CancelledError:  # Ctrl-C
            console.print(f"\n{how}", style="cyan", markup=False, soft_wrap=True)
            raise
        if not said.strip():
            console.print(how, style="cyan", markup=False, soft_wrap=True)  # to be copied as one line
            break
        try:
            answer, more = await _go_on(mesh, answer.run_id, _chosen(answer, said), console, stream=stream)
        except InputError as error:
            if not await mesh.waiting(answer.run_id):  # somebody else answered meanwhile
                raise
            console.print(str(error), style="yellow", markup=False)
            continue
        packs += more
    return answer, packs


def _prompt(answer: "Answer") -> str:
    """What stands before the cursor: which of several questions is to be answered, and how."""
    first = answer.waiting[0]
    how = "yes or no" if first.options == ("yes", "no") else "answer"
    which = first.agent or first.stage if len(answer.waiting) > 1 else ""
    return f"{which}, {how}> " if which else f"{how}> "


def _chosen(answer: "Answer", said: str) -> str:
    """What was typed; a number stands for the option at that place."""
    options = answer.waiting[0].options
    place = _place(said.strip(), len(options))
    return said if place is None else options[place]


def _place(text: str, count: int) -> int | None:
    """The index that a number from 1 to `count` stands for; None for any other text."""
    numbers = [str(n) for n in range(1, count + 1)]
    return numbers.index(text) if text in numbers else None


def _may_ask(console: "Console") -> bool:
    """Whether a person sits at this terminal, and would see the question."""
    return sys.stdin.isatty() and sys.stdout.isatty() and not console.quiet


async def _line(prompt: str) -> str:
    """A line from the terminal; empty at its end. The thread that reads keeps nobody from leaving."""
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()

    def give(text: str) -> None:
        if not line.done():
            line.set_result(text)

    def read() -> None:
        try:
            text = input(prompt)
        except (EOFError, OSError):
            text = ""
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
            loop.call_soon_threadsafe(give, text)

    threading.Thread(target=read, daemon=True).start()
    return await line


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
    if (place := _place(wanted, len(scenario.tasks))) is not None:
        return (scenario.tasks[place],)
    for task in scenario.tasks:
        if task.id == wanted:
            return (task,)
    raise UnknownNameError("task", wanted, [t.id for t in scenario.tasks], where=f"scenario {scenario.name!r}")


def _from_stdin() -> str:
    """The question on standard input: for one that no command line takes."""
    data = sys.stdin.buffer.read(MOST_STDIN_BYTES + 1)
    if len(data) > MOST_STDIN_BYTES:
        raise InputError(
            f"standard input is larger than {MOST_STDIN_BYTES >> 20} MB; put long documents into memory/knowledge/"
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"standard input is not UTF-8 (byte {error.start}); send it as UTF-8") from error
