"""`agentmesh doctor`: what is there, what would fail, and how to mend it."""

import shutil
import textwrap
from dataclasses import asdict
from typing import Annotated

import typer

from agentmesh.cli.app import JsonOption, ProjectOption, app, print_json, project_folder

__all__: list[str] = []

COLOURS = {"ok": "green", "note": "yellow", "problem": "red"}
LEAST_COLUMNS, MOST_COLUMNS = 60, 110


@app.command()
def doctor(
    online: Annotated[
        bool, typer.Option("--online", help="Ask each model for one word; a provider's model costs a few tokens.")
    ] = False,
    as_json: JsonOption = False,
    project: ProjectOption = None,
) -> None:
    """Look at this machine and this project: what is there, what would fail, how to mend it.

    Exit status: 0 unless something is broken that a usual run needs, then 1.
    """
    from agentmesh.cli.probes import Scene, State, probe_all

    scene = Scene(project_folder(project), online=online)
    if as_json:
        findings = list(probe_all(scene))
    else:
        findings = []
        for finding in probe_all(scene):
            findings.append(finding)
            _say(finding.state.value, finding.about, finding.text, finding.fix)
    problems = [f for f in findings if f.state is State.PROBLEM]
    notes = [f for f in findings if f.state is State.NOTE]
    if as_json:
        print_json({"ok": not problems, "problems": len(problems), "findings": [asdict(f) for f in findings]})
    else:
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        typer.echo(f"{count}, {len(notes)} note{'s' if len(notes) != 1 else ''}")
    raise typer.Exit(1 if problems else 0)


def _say(state: str, about: str, text: str, fix: str) -> None:
    """One finding, wrapped to the terminal, with what to do on a line of its own."""
    columns = max(LEAST_COLUMNS, min(MOST_COLUMNS, shutil.get_terminal_size().columns))
    head = f"{state:<8} {about:<16} "
    indent = " " * len(head)
    clean = "".join(c if c.isprintable() else " " for c in text)
    lines = textwrap.wrap(clean, columns - len(indent), break_on_hyphens=False, break_long_words=False) or [""]
    if fix:
        lines += textwrap.wrap(f"-> {fix}", columns - len(indent), break_on_hyphens=False, break_long_words=False)
    typer.echo(typer.style(f"{state:<8}", fg=COLOURS[state]) + head[8:] + lines[0])
    for line in lines[1:]:
        typer.echo(indent + line)
