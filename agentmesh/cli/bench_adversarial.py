"""`agentmesh bench adversarial`: how well jailbreaks and injections are told from plain requests."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from agentmesh.cli.app import JsonOption, bench_app, consoles, output_folder, print_json
from agentmesh.errors import InputError

__all__: list[str] = []


@bench_app.command("adversarial")
def bench_adversarial(
    data: Annotated[Path | None, typer.Option(help="Folder with public_prompts.jsonl, or the one around it.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Only this set; may be repeated.")] = None,
    policy: Annotated[
        list[str] | None, typer.Option("--router", help="Only this detector or plain line; may be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for plots as PNG and SVG.")] = None,
    as_json: JsonOption = False,
) -> None:
    """How well the signals of rules tell jailbreaks and injections from plain requests, beside plain lines."""
    from agentmesh.evaluation.adversarial import bench_adversarial as measure
    from agentmesh.evaluation.report import draw_rows, show_rows
    from agentmesh.models import open_embedder

    if data is None:
        raise InputError("bench adversarial needs data: name the folder that holds public_prompts with --data DIR")
    if out is not None:
        output_folder(out)
    console, errors = consoles(as_json)
    result = asyncio.run(
        measure(
            data, sets or (), policy or (), embedder=open_embedder("wordllama"),
            say=lambda text: errors.print(text, style="dim"),
        )
    )  # fmt: skip
    if out is not None:
        draw_rows(result, out)
    if as_json:
        print_json(result)
    else:
        show_rows(result, console)
