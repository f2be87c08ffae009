"""`agentmesh eval`: whether messages are routed as they should be, and how another router would have decided."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentmesh.cli.app import JsonOption, ProjectOption, app, consoles, print_json, project_folder
from agentmesh.cli.completion import complete_routers, complete_runs
from agentmesh.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from agentmesh.evaluation.replay import Recorded
    from agentmesh.project.loader import Project

__all__: list[str] = []

SHOWN_PAIRS = 5
"""Confusion pairs of a router that the terminal shows."""
MOST_SPREAD = 2
"""Routers whose intervals fit beside their figures; of more, the report has them."""

eval_app = typer.Typer(help="Check the project's routing.", no_args_is_help=True)
app.add_typer(eval_app, name="eval")


@eval_app.command("routes")
def eval_routes(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Labelled messages, .jsonl or .yaml: `text` with `agents` or `expect`."),
    ],
    router: Annotated[
        str | None,
        typer.Option(
            help="Routers side by side, with commas between them; by default the project's own.",
            autocompletion=complete_routers,
        ),
    ] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=VALUE",
            help="Exit with 1 below this value (above it for `ece`, `p95_ms` and others where less is better); may be "
            "repeated. For the first router, or as ROUTER:METRIC=VALUE.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the report as HTML and Markdown, with plots.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for one decision.", min=0.001)] = 60.0,
    as_json: JsonOption = False,
    project: ProjectOption = None,
) -> None:
    """Ask routers about messages whose agents are known; no agent is called.

    Exit status: 0 done, 1 a value of --fail-under was missed, 2 a mistake in the command, the file or the project.
    """
    from agentmesh.assembly import open_project
    from agentmesh.evaluation.route_file import read_route_tests
    from agentmesh.evaluation.routes import measure, parse_goal

    opened = open_project(project_folder(project))
    names = _names(router, opened)
    goals = [parse_goal(text, names) for text in fail_under or ()]
    tests = read_route_tests(file, [card.id for card in opened.cards if not card.shadow])
    console, errors = consoles(as_json)

    async def ask() -> dict[str, Any]:
        from agentmesh.assembly import open_routers

        async with open_routers(opened) as router_of:
            return await measure(
                tests,
                opened.cards,
                {name: router_of(name) for name in names},
                max_agents=opened.settings.routing.max_agents,
                timeout_s=timeout,
                say=lambda text: errors.print(text, style="dim", markup=False),
            )

    result = {**asyncio.run(ask()), "file": str(file)}
    result["goals"] = [f"{goal.router}:{goal.metric}={goal.value:g}" for goal in goals]
    result["missed"] = [said for goal in goals if (said := goal.missed(result)) is not None]
    written: list[Path] = []
    if out is not None:
        from agentmesh.evaluation.route_report import write_report

        written = write_report(result, out)
    if as_json:
        print_json(result)
    else:
        _show_routes(result, console)
        for path in written:
            console.print(str(path), markup=False)
    for said in result["missed"]:
        errors.print(f"agentmesh: {said}", markup=False)
    if result["missed"]:
        raise typer.Exit(1)


@eval_app.command("replay")
def eval_replay(
    run_id: Annotated[
        str,
        typer.Argument(metavar="RUN", help="The run's id, or its first letters; `all`.", autocompletion=complete_runs),
    ],
    router: Annotated[str, typer.Option(help="Who decides now.", autocompletion=complete_routers)],
    limit: Annotated[int, typer.Option(help="With `all`: how many runs, newest first.", min=1)] = 1000,
    as_json: JsonOption = False,
    project: ProjectOption = None,
) -> None:
    """Decide recorded runs again by another router and show the difference; no agent is called.

    The router sees the cards as they are now, and of each decision the candidates that it had.
    """
    from agentmesh.assembly import open_project
    from agentmesh.evaluation.replay import replay, summed_up

    opened = open_project(project_folder(project))
    console, errors = consoles(as_json)

    async def ask() -> list[dict[str, Any]]:
        from agentmesh.assembly import open_routers

        async with open_routers(opened) as router_of:
            chosen = router_of(router)
            recorded = await _recorded(opened, run_id, limit)
            return await replay(recorded, chosen, say=lambda text: errors.print(text, style="dim", markup=False))

    rows = asyncio.run(ask())
    total = summed_up(rows)
    if as_json:
        print_json({"router": router, "summary": total, "decisions": rows})
    else:
        _show_replay(rows, total, router, console)


def _names(router: str | None, opened: "Project") -> list[str]:
    """The routers that were named, each once."""
    from agentmesh.routing import routers

    if router is None:
        return [opened.settings.routing.router]
    names = list(dict.fromkeys(name.strip() for name in router.split(",") if name.strip()))
    if not names:
        raise InputError("--router names no router; give one or more, such as `semantic,keyword`")
    for name in names:
        routers.check(name, where="--router")
    return names


async def _recorded(opened: "Project", run_id: str, limit: int) -> "list[Recorded]":
    """The decisions of the runs that are meant."""
    from agentmesh.assembly import open_trace
    from agentmesh.evaluation.replay import recorded_decisions

    store, db = await asyncio.to_thread(open_trace, opened.folder)
    try:
        ids = [run_id] if run_id != "all" else [run.run_id for run in await store.list_runs(limit=limit)]
        found: list[Recorded] = []
        for one in ids:
            events = await asyncio.to_thread(store.read, one)
            cards = {card.id: card for card in opened.cards}
            found += recorded_decisions(events, cards, max_agents=opened.settings.routing.max_agents)
    finally:
        await store.aclose()
        await db.aclose()
    if not found:
        what = "none of the recorded runs holds" if run_id == "all" else f"the run {run_id} holds no"
        raise InputError(
            f"{what}{' a' if run_id == 'all' else ''} routing decision; `agentmesh trace list` shows all runs"
        )
    return found


# --- on the terminal --------------------------------------------------------------------------------------------------


def _show_routes(result: Mapping[str, Any], console: "Console") -> None:
    from rich.table import Table
    from rich.text import Text

    from agentmesh.evaluation.route_report import figure_text, interval_text
    from agentmesh.evaluation.routes import METRICS, UNITS

    console.print(f"{result['messages']} messages, {result['agents']} agents", style="dim")
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("figure", no_wrap=True)
    spread = len(result["routers"]) <= MOST_SPREAD
    for one in result["routers"]:
        table.add_column(Text(one["router"]), justify="right", no_wrap=True)
        if spread:
            table.add_column("95 %", style="dim", no_wrap=True)
    table.add_column("unit", style="dim")
    for metric in METRICS:
        cells: list[str] = [metric]
        for one in result["routers"]:
            cells.append(figure_text(metric, one["metrics"][metric]))
            if spread:
                cells.append(interval_text(metric, one["metrics"][metric]))
        table.add_row(*(Text(cell) for cell in (*cells, UNITS.get(metric, "share"))))
    console.print(table)
    for row in result["paired"]:
        console.print(
            f"{row['other']} against {row['first']}: {row['metric']} {row['difference']:+.3f}, p = {row['p']:.4f} "
            f"({row['test']})",
            markup=False,
        )
    for one in result["routers"]:
        if one["wrong"]:
            console.print(Text(f"{one['router']}: {len(one['wrong'])} not exactly right", style="bold"))
        for pair in one["confusions"][:SHOWN_PAIRS]:
            text = f"  {pair['wanted']} -> {pair['got']}: {pair['count']}, e.g. {pair['texts'][0]}"
            console.print(Text(text), overflow="ellipsis", no_wrap=True)


def _show_replay(rows: Sequence[Mapping[str, Any]], total: Mapping[str, Any], router: str, console: "Console") -> None:
    from rich.text import Text

    for row in rows:
        before, after = row["before"], row["after"]
        changes = [f"{what} {', '.join(row[what])}" for what in ("added", "removed", "gone") if row[what]]
        now = row["error"] or f"{_decided(after)}{'' if row['same'] else ' [' + router + ']'}"
        style = "dim" if row["same"] else ""
        head = f"{row['run']} {row['step']}: {' '.join(row['text'].split())}"
        console.print(Text(head, style=style), overflow="ellipsis", no_wrap=True)
        console.print(Text("; ".join([f"  {_decided(before)} -> {now}", *changes]), style=style))
    console.print(
        f"{total['decisions']} decisions of {total['runs']} runs: {total['same']} the same, {total['agents_differ']} "
        f"with other agents, {total['mode_differs']} in another mode, {total['failed']} failed",
        markup=False,
    )


def _decided(decision: Mapping[str, Any]) -> str:
    """Mode, agents and confidence in a few words."""
    agents = f" {', '.join(decision['agents'])}" if decision["agents"] else ""
    return f"{decision['mode']}{agents} ({decision['confidence']:.2f})"
