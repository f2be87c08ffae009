"""`agentmesh graph`: draws the graph of a scenario, or the one that a question takes."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentmesh.cli.app import JsonOption, ProjectOption, app, print_json, project_folder, write_output
from agentmesh.cli.completion import complete_scenarios
from agentmesh.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from agentmesh.graphs import GraphSpec

__all__: list[str] = []


class GraphFormat(StrEnum):
    MERMAID = "mermaid"
    DOT = "dot"
    SVG = "svg"
    PNG = "png"


_SUFFIXES = {
    ".mmd": GraphFormat.MERMAID,
    ".mermaid": GraphFormat.MERMAID,
    ".dot": GraphFormat.DOT,
    ".gv": GraphFormat.DOT,
    ".svg": GraphFormat.SVG,
    ".png": GraphFormat.PNG,
}
"""The format that a file's name asks for."""


@app.command()
def graph(
    scenario: Annotated[
        str | None,
        typer.Argument(
            metavar="SCENARIO",
            help="Whose graph; if absent, the graph that a question takes.",
            autocompletion=complete_scenarios,
        ),
    ] = None,
    form: Annotated[
        GraphFormat | None,
        typer.Option("--format", help="By default what --out ends in, else Mermaid text.", show_default=False),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; standard output if absent.")] = None,
    as_json: JsonOption = False,
    project: ProjectOption = None,
) -> None:
    """Draw a graph of agents: Mermaid or DOT text, an SVG or a PNG picture. No network, no other program."""
    from agentmesh.assembly import open_project
    from agentmesh.graphs import default_graph

    chosen = form or (_SUFFIXES.get(out.suffix.lower()) if out is not None else None) or GraphFormat.MERMAID
    found = open_project(project_folder(project))
    most = found.settings.routing.max_agents
    if scenario is None:
        spec = default_graph(router=found.settings.routing.router, max_agents=most)
    elif scenario in found.scenarios:
        spec = found.scenarios[scenario].to_graph_spec(max_agents=most)
    else:
        raise UnknownNameError("scenario", scenario, sorted(found.scenarios))
    drawn = None if as_json and out is None else _drawn(spec, chosen)
    if out is not None and drawn is not None:
        write_output(out, drawn)
    if as_json:
        document: dict[str, Any] = {"graph": spec.model_dump(mode="json"), "mermaid": spec.mermaid()}
        print_json(document if out is None else {**document, "file": str(out)})
    elif out is not None:
        print(out)
    elif drawn is not None:
        if chosen is GraphFormat.PNG and sys.stdout.isatty():
            raise InputError("a PNG picture is not text; write it to a file with --out FILE.png")
        sys.stdout.flush()
        sys.stdout.buffer.write(drawn)
        sys.stdout.buffer.flush()


def _drawn(spec: "GraphSpec", form: GraphFormat) -> bytes:
    """The drawing as the bytes of a file."""
    from agentmesh.drawing import draw_png, draw_svg

    match form:
        case GraphFormat.MERMAID:
            return (spec.mermaid() + "\n").encode()
        case GraphFormat.DOT:
            return (spec.dot() + "\n").encode()
        case GraphFormat.SVG:
            return draw_svg(spec).encode()
        case GraphFormat.PNG:
            return draw_png(spec)
