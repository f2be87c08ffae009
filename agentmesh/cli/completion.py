"""What the shell offers behind Tab: names of the project, and the scripts that make it ask.

Quick and silent: reads names of files, imports nothing heavy, and offers nothing where something is wrong.
"""

import ast
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from enum import StrEnum
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from agentmesh.cli.app import app

__all__ = [
    "Shell",
    "complete_agents",
    "complete_routers",
    "complete_runs",
    "complete_scenarios",
    "complete_schemas",
    "router_names",
]

NEWEST_RUNS = 20
"""Runs that are offered, newest first."""
HEAD_BYTES = 4096
"""Of a scenario, in which its name is looked for."""

_SCENARIO_NAME = re.compile(rb"^name:[ \t]*[\"']?([^\s\"'#][^\n\"'#]*?)[\"']?[ \t]*(?:#.*)?$", re.MULTILINE)

Completer = Callable[[typer.Context, str], list[str]]


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"
    POWERSHELL = "powershell"


@app.command()
def completion(
    shell: Annotated[Shell, typer.Argument(help="Whose script.")],
    command: Annotated[str, typer.Option(help="The name that the command is called by.")] = "agentmesh",
) -> None:
    """Print the script that completes commands and names: `source <(agentmesh completion bash)`."""
    from typer.completion import get_completion_script

    variable = f"_{re.sub(r'[^A-Za-z0-9]', '_', command).upper()}_COMPLETE"
    print(get_completion_script(prog_name=command, complete_var=variable, shell=shell.value))


def _offered(names: Callable[[Path], Iterable[str]]) -> Completer:
    """The names of the project that begin with what was typed."""

    @wraps(names)
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            given = ctx.params.get("project")
            folder = Path(given) if given else _nearest(Path.cwd())
            return [name for name in names(folder) if name.startswith(incomplete)]
        except Exception:  # a Tab that finds nothing is better than one that prints a traceback into the line
            return []

    # typer tells arguments of a completer by their annotations
    complete.__annotations__ = {"ctx": typer.Context, "incomplete": str, "return": list[str]}
    del complete.__wrapped__
    return complete


@_offered
def complete_scenarios(folder: Path) -> Iterator[str]:
    """Names of the scenarios."""
    for path in sorted((folder / "scenarios").glob("*.y*ml")):
        with path.open("rb") as file:
            named = _SCENARIO_NAME.search(file.read(HEAD_BYTES))
        yield named[1].decode().strip() if named else path.stem


@_offered
def complete_agents(folder: Path) -> Iterator[str]:
    """Ids of the agents."""
    yield from sorted(p.stem for p in (folder / "agents").glob("*.md") if p.name.lower() != "readme.md")


@_offered
def complete_runs(folder: Path) -> Iterator[str]:
    """Ids of the newest runs."""
    home = os.environ.get("AGENTMESH_HOME") or _home(folder) or ".agentmesh"
    traces = [(e.stat().st_mtime, e.name) for e in os.scandir(folder / home / "traces") if e.name.endswith(".jsonl")]
    yield from (name.removesuffix(".jsonl") for _, name in sorted(traces, reverse=True)[:NEWEST_RUNS])


@_offered
def complete_routers(folder: Path) -> Iterable[str]:
    """Short names of the routers."""
    return router_names()


@_offered
def complete_schemas(folder: Path) -> Iterator[str]:
    """Names of the file formats."""
    yield from ("card", "roles", "scenario", "settings")


def router_names() -> list[str]:
    """Short names of the routers: read from the source of their table, for importing it takes half a second."""
    spec = find_spec("agentmesh")
    names: set[str] = set()
    for place in (spec.submodule_search_locations or ()) if spec else ():
        tree = ast.parse((Path(place) / "routing" / "__init__.py").read_text(encoding="utf-8"))
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "Registry"]
        for table in (a for call in calls for a in call.args if isinstance(a, ast.Dict)):
            names |= {k.value for k in table.keys if isinstance(k, ast.Constant) and isinstance(k.value, str)}
    return sorted(names)


def _nearest(start: Path) -> Path:
    """The nearest folder upwards that looks like a project; as `find_project` does, which is slow to import."""
    for folder in (start, *start.parents):
        if (folder / "agentmesh.toml").is_file() or any((folder / "agents").glob("*.md")):
            return folder
    return start


def _home(folder: Path) -> str | None:
    """The setting `home` of the project's file."""
    with suppress(OSError, ValueError):
        return tomllib.loads((folder / "agentmesh.toml").read_text(encoding="utf-8")).get("home")
    return None
