"""`agentmesh init`, `check` and `schema`: the files of a project."""

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from agentmesh.cli.app import JsonOption, ProjectOption, app, print_json, project_folder, write_output
from agentmesh.cli.completion import complete_schemas
from agentmesh.errors import UnknownNameError

__all__: list[str] = []


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write into; it is made if need be.")],
    name: Annotated[
        str | None, typer.Option(help="What the project is called; by default, as its folder.", show_default=False)
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Into a folder that is not empty: add what it lacks, overwrite nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a small project that runs: three agents, what they know, a scenario. Overwrites nothing."""
    from agentmesh.project.starter import SCENARIO, write_starter

    done = write_starter(folder, name=name, force=force)
    if as_json:
        document = {"folder": str(done.folder), "name": done.name, "written": done.written, "kept": done.kept}
        print_json({**document, "scenario": SCENARIO})
        return
    print(f"{done.folder}: {len(done.written)} files written")
    for path in done.written:
        print(f"  {path}")
    for path in done.kept:
        print(f"  {path} (was there, is as it was)")
    steps = [("agentmesh models pull", "once: fetches the embedded model"), (f"agentmesh run {SCENARIO}", "")]
    if folder.resolve() != Path.cwd():
        way = f"./{folder}" if str(folder).startswith("-") else str(folder)
        steps.insert(0, (f"cd {shlex.quote(way)}", ""))
    print("next:")
    for command, why in steps:
        print(f"  {command:<24}  # {why}" if why else f"  {command}")


@app.command()
def check(as_json: JsonOption = False, project: ProjectOption = None) -> None:
    """Report every mistake of the project at once: file, line, key, what is wrong, the nearest valid value."""
    from agentmesh.assembly import check_folder, open_project

    folder = project_folder(project)
    mistakes = check_folder(folder)
    if as_json:
        print_json({"ok": not mistakes, "mistakes": [asdict(m) for m in mistakes]})
    elif mistakes:
        for mistake in mistakes:
            print(str(mistake), file=sys.stderr)
        print(f"{len(mistakes)} mistake{'s' if len(mistakes) != 1 else ''}", file=sys.stderr)
    else:
        found = open_project(folder)
        counts = (
            (len(found.cards), "agent"),
            (len(found.roles), "role"),
            (len(found.scenarios), "scenario"),
            (sum(len(s.tasks) for s in found.scenarios.values()), "task"),
        )
        *facts, tasks = (f"{n} {what}{'s' if n != 1 else ''}" for n, what in counts)
        print(f"no mistakes: {', '.join(facts)} with {tasks}")
    raise typer.Exit(2 if mistakes else 0)


@app.command()
def schema(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[card|roles|scenario|settings]",
            help="Which file format; all of them if absent.",
            autocompletion=complete_schemas,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write `NAME.schema.json` into; standard output if absent.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As without it: a schema is JSON.")] = False,
) -> None:
    """Print the JSON schemas of the project's files, for editors and for checks of your own."""
    from agentmesh.project.schema import json_schemas

    schemas = json_schemas()
    if name is not None and name not in schemas:
        raise UnknownNameError("schema", name, sorted(schemas))
    if out is None:
        print_json(schemas if name is None else schemas[name])
        return
    files: list[str] = []
    for one in sorted(schemas) if name is None else [name]:
        path = out / f"{one}.schema.json"
        write_output(path, (json.dumps(schemas[one], ensure_ascii=False, indent=2) + "\n").encode(), make_folder=True)
        files.append(str(path))
    if as_json:
        print_json({"files": files})
    else:
        print("\n".join(files))
