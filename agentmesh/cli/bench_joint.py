"""`agentmesh bench joint`: the whole of routing, context and refinement beside what people do today."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from agentmesh.cli.app import JsonOption, bench_app, consoles, output_folder, print_json, project_folder

__all__: list[str] = []


@bench_app.command("joint")
def bench_joint(
    sets: Annotated[list[str] | None, typer.Option("--set", help="Only this scenario; may be repeated.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            "--project",
            "-p",
            help="Folder of the project; by default the nearest one upwards.",
            show_default=False,
        ),
    ] = None,
    router: Annotated[
        list[str] | None, typer.Option(help="Measure ours with this router, too; may be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for plots as PNG and SVG.")] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Let models write whose words do not count, too; takes far longer.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Facts, conflicts, wrong agents and prompt tokens: ours beside one agent, all agents and a supervisor."""
    from agentmesh.evaluation.joint import bench_joint as measure
    from agentmesh.evaluation.report import draw_rows, show_rows

    if out is not None:
        output_folder(out)
    console, errors = consoles(as_json)
    folder = project_folder(data)
    result = asyncio.run(
        measure(
            folder, tuple(sets or ()), routers=tuple(router or ()), decode=decode,
            say=lambda text: errors.print(text, style="dim"),
        )
    )  # fmt: skip
    for note in result["notes"]:
        errors.print(note, style="dim")
    if out is not None:
        draw_rows(result, out)
    if as_json:
        print_json(result)
    else:
        show_rows(result, console)
