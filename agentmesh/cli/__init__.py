"""The command line. Nothing heavy is imported before a command runs."""

import io
import json
import os
import sys
import warnings
from pathlib import Path
from typing import NoReturn

from agentmesh.cli.commands import app
from agentmesh.errors import ConfigError, InputError, MeshError

__all__ = ["app", "main"]

STOPPED = "stopped; a run that was at work can be resumed with `agentmesh resume RUN`, if its project keeps state"
FAILED, USAGE, INTERRUPTED = 1, 2, 130
"""Exit codes: the run failed; the command line or the project is wrong; stopped with Ctrl-C."""


def main() -> NoReturn:
    """Run the command of this process. Mistakes are one line on standard error, never a traceback."""
    warnings.showwarning = _warn
    _open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character shows a `?`
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # typer has its own way with Ctrl-C
            _complain(STOPPED)
    except MeshError as error:
        _complain(str(error), kind=type(error).__name__)
        code = USAGE if isinstance(error, ConfigError | InputError) else FAILED
    except KeyboardInterrupt:
        _complain(STOPPED)
        code = INTERRUPTED
    except BrokenPipeError:
        # nobody reads on: what is still buffered goes nowhere, or the interpreter would complain when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    except OSError as error:
        if error.filename is not None:  # a file, and not what is printed
            code = _other(error)
        elif isinstance(error, FileNotFoundError):
            _complain("the current folder is not there any more; go into another one", kind=type(error).__name__)
            code = USAGE
        else:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            _complain(f"the output cannot be written ({error.strerror}); runs are kept, see `agentmesh trace list`")
            code = FAILED
    except Exception as error:
        code = _other(error)
    sys.exit(code if isinstance(code, int) else 0)


def _other(error: Exception) -> int:
    """Usage mistakes as typer words them; anything else in one line with where it happened."""
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        message = str(error.format_message()).replace("Value error, ", "")  # pyright: ignore
        code = int(error.exit_code)  # pyright: ignore
        _complain(message[:1].lower() + message[1:], kind="UsageError")
        return code
    if isinstance(error, OSError):
        _complain(f"{error.filename}: {(error.strerror or type(error).__name__).lower()}; see to that and try again",
                  kind=type(error).__name__)  # fmt: skip
        return FAILED
    if type(error).__name__ in ("Abort", "Exit"):
        return int(getattr(error, "exit_code", FAILED))
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = f" ({frame.tb_frame.f_globals.get('__name__', '?')}:{frame.tb_lineno})" if frame is not None else ""
    _complain(f"unexpected {type(error).__name__}: {error}{where}; please report it", kind=type(error).__name__)
    return FAILED


def _open_missing_streams() -> None:
    """A process whose caller closed a stream has None in its place: what is printed there goes nowhere."""
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 -- open as long as the process
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115


def _warn(message: Warning | str, *_: object) -> None:
    _complain(str(message))


def _complain(text: str, *, kind: str = "") -> None:
    """One line on standard error; with --json, what ended the command also as the document on standard output."""
    print(f"agentmesh: {text}", file=sys.stderr)
    if kind and "--json" in sys.argv:
        print(json.dumps({"error": {"type": kind, "message": text}}, ensure_ascii=False, indent=2))
