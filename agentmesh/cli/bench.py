"""`agentmesh bench overhead`; further benchmarks add themselves to `bench_app` from modules of their own."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from agentmesh.cli.app import JsonOption, bench_app, consoles, output_folder, print_json
from agentmesh.errors import UnknownNameError

__all__: list[str] = []


@bench_app.command("overhead")
def bench_overhead(
    sets: Annotated[list[str] | None, typer.Option("--set", help="Only this set; may be repeated.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of benchmark data; needs none.")] = None,
    router: Annotated[
        list[str] | None, typer.Option(help="Only this router; may be repeated. It compares none.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for plots as PNG and SVG.")] = None,
    as_json: JsonOption = False,
) -> None:
    """What the mesh adds to a run, beside a plain LangGraph graph of the same shape."""
    from agentmesh.evaluation.overhead import SETS
    from agentmesh.evaluation.overhead import bench_overhead as measure
    from agentmesh.evaluation.report import draw_rows, show_rows

    for wanted in sets or ():
        if wanted not in SETS:
            raise UnknownNameError("set", wanted, SETS, where="bench overhead")
    if out is not None:
        output_folder(out)
    console, errors = consoles(as_json)
    if data is not None or router:
        errors.print("overhead reads no data and compares no routers: --data and --router change nothing", style="dim")
    result = asyncio.run(measure(tuple(sets or SETS), say=lambda text: errors.print(text, style="dim")))
    if out is not None:
        draw_rows(result, out)
    if as_json:
        print_json(result)
    else:
        show_rows(result, console)
