"""The typer apps that commands are added to, and what commands share: options, consoles, the project's folder.

No command stands here; `commands.py` lists the modules that add them.
"""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from agentmesh.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "JsonOption",
    "ProjectOption",
    "agents_app",
    "app",
    "bench_app",
    "consoles",
    "models_app",
    "output_folder",
    "print_json",
    "project_folder",
    "trace_app",
    "write_output",
]

ORDER = ("init", "run", "resume", "cancel", "check", "doctor", "agents", "graph", "models", "budgets", "trace", "eval",
         "bench", "schema", "completion")  # fmt: skip
"""The commands as `--help` lists them; those not named here come last."""


class _InOrder(TyperGroup):
    """Lists its commands in `ORDER`."""

    def list_commands(self, ctx: Any) -> list[str]:
        places = {name: n for n, name in enumerate(ORDER)}
        return sorted(super().list_commands(ctx), key=lambda name: places.get(name, len(ORDER)))


app = typer.Typer(
    name="agentmesh",
    cls=_InOrder,
    help="Routes a question to the right agents, gives each the memory it needs, merges their answers, and shows why.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
agents_app = typer.Typer(help="The agents of the project.", no_args_is_help=True)
models_app = typer.Typer(help="Language models.", no_args_is_help=True)
trace_app = typer.Typer(help="Recorded runs.", no_args_is_help=True)
bench_app = typer.Typer(help="Measure, beside a baseline in the same run.", no_args_is_help=True)
app.add_typer(agents_app, name="agents")
app.add_typer(models_app, name="models")
app.add_typer(trace_app, name="trace")
app.add_typer(bench_app, name="bench")

ProjectOption = Annotated[
    Path | None,
    typer.Option(
        "--project", "-p", help="Folder of the project; by default the nearest one upwards.", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        from agentmesh import __version__

        print(f"agentmesh {__version__}")
        raise typer.Exit


def consoles(as_json: bool) -> tuple["Console", "Console"]:
    """Where results go and where progress goes; with --json, nothing but the document is on standard output."""
    from rich.console import Console

    errors = Console(stderr=True, highlight=False)
    return (Console(quiet=True) if as_json else Console(highlight=False)), errors


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def project_folder(given: Path | None) -> Path:
    """The folder of the project: the one named, or the nearest upwards that looks like one."""
    if given is not None:
        if not given.is_dir():
            raise InputError(f"--project {given}: there is no such folder")
        return given
    from agentmesh.project.loader import find_project

    return find_project(Path.cwd())


def write_output(path: Path, data: bytes, *, make_folder: bool = False) -> None:
    """Write the file that `--out` names, over an older one; `InputError` if that cannot be done.

    What was there stays whole until all of the new file is on the disk.
    """
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or (path.exists() and not path.is_file()):  # a device or a pipe stays what it is
            path.write_bytes(data)
            return
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            part.write_bytes(data)
            part.replace(path)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another --out") from error


def output_folder(path: Path) -> None:
    """Make the folder that `--out` names before long work begins; `InputError` if nothing could be written there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise InputError(f"{path} is a file; name a folder with --out") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be made ({error.strerror}); choose another --out") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError(f"{path}: cannot be written to; choose another --out")
