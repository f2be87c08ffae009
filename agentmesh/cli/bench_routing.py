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
    data: Annotated[Path | None, typer.Option(help="Folder that holds the sets' folders.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Only this set; may be repeated.")] = None,
    router: Annotated[list[str] | None, typer.Option(help="Only this router; may be repeated.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for plots as PNG and SVG.")] = None,
    as_json: JsonOption = False,
) -> None:
    """How often the right agents are chosen, beside simple baselines, on data of your own or public sets."""
    from agentmesh.evaluation.report import draw_rows, show_rows
    from agentmesh.evaluation.routing import POLICIES, SETS
    from agentmesh.evaluation.routing import bench_routing as measure

    if data is None:
        raise InputError("bench routing needs data: name the folder that holds the sets with --data DIR")
    if out is not None:
        output_folder(out)
    console, errors = consoles(as_json)
    named = tuple(sets or (name for name in SETS if (data / name.split("_agents")[0].split("_desc")[0]).is_dir()))
    if not named:
        raise InputError(f"--data {data}: none of the known sets is there; name the folder of one with --set")
    result = asyncio.run(
        measure(data, named, tuple(router or POLICIES), say=lambda text: errors.print(text, style="dim"))
    )
    if out is not None:
        draw_rows(result, out)
    if as_json:
        print_json(result)
    else:
        show_rows(result, console)
