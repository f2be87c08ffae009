"""`agentmesh models`: which there are, and their weights."""

from typing import Annotated

import typer

from agentmesh.cli.app import JsonOption, ProjectOption, consoles, models_app, print_json, project_folder

__all__: list[str] = []


@models_app.command("list")
def models_list(as_json: JsonOption = False, project: ProjectOption = None) -> None:
    """The models of the project, and whether each can be used."""
    from agentmesh.assembly import describe_models, open_project

    rows = describe_models(open_project(project_folder(project)))
    if as_json:
        print_json(rows)
        return
    from rich.table import Table
    from rich.text import Text

    console, _ = consoles(False)
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

    _, console = consoles(False)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("looking", total=None)

        def move(done: int, total: int, name: str) -> None:
            progress.update(bar, completed=done, total=total or None, description=name)

        path = pull_weights(spec, move)
    print(f"{spec}: {path}")
