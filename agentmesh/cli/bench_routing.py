"""`agentmesh bench routing`: how well routers choose, on a folder of data that the caller names."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from agentmesh.cli.app import JsonOption, bench_app, consoles, output_folder, print_json
from agentmesh.errors import InputError

__all__ = ["bench_routing"]


@bench_app.command("routing")
def bench_routing(
    data: Annotated[
        Path | None, typer.Option(help="Folder that holds the sets' folders; the sets scale_* need none.")
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="Only this set, or those in this folder; may be repeated.", show_default=False),
    ] = None,
    router: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this router, where it suits the set; may be repeated. By default those meant for the set.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for plots of each set and its reliability, as PNG and SVG.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """How often the right agents are chosen, beside simple baselines, on data of your own or public sets."""
    from agentmesh.evaluation.report import show_rows
    from agentmesh.evaluation.routing import FOLDERS, SETS
    from agentmesh.evaluation.routing import bench_routing as measure

    if data is None and not (sets and all(name in SETS and name not in FOLDERS for name in sets)):
        raise InputError("bench routing needs data: name the folder that holds the sets with --data DIR")
    if out is not None:
        output_folder(out)
    console, errors = consoles(as_json)
    named = tuple(sets or ())
    if not named and data is not None:
        there = [name for name, folder in FOLDERS.items() if (data / folder).is_dir()]
        if not there:
            raise InputError(f"--data {data}: none of the known sets is there; name the folder of one with --set")
        named = tuple(name for name in SETS if name in there or name not in FOLDERS)
    result = asyncio.run(
        measure(
            data, named, tuple(router or ()), say=lambda text: errors.print(text, style="dim", markup=False), out=out
        )
    )
    if as_json:
        print_json(result)
    else:
        show_rows(result, console)
