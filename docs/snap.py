"""Runs a command as if in a terminal and draws what it printed: `python docs/snap.py OUT.svg -- COMMAND...`.

The picture is a plain SVG that loads nothing, so it can be looked at offline. Exits as the command did.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 120
"""Width of the terminal, characters."""


def main() -> int:
    """Draw the command that the arguments name; its exit status."""
    match sys.argv[1:]:
        case [target, "--", *command] if command:
            pass
        case _:
            print("usage: python docs/snap.py OUT.svg -- COMMAND...", file=sys.stderr)
            return 2
    terminal = {
        **os.environ,
        "FORCE_COLOR": "1",
        "TTY_INTERACTIVE": "0",
        "COLUMNS": str(COLUMNS),
        "TERM": "xterm-256color",
    }
    done = subprocess.run(command, env=terminal, stdout=subprocess.PIPE, encoding="utf-8", check=False)  # noqa: S603
    if done.returncode == 0:
        Path(target).write_text(_svg(done.stdout), encoding="utf-8")
    return done.returncode


def _svg(printed: str) -> str:
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere)
        console.print(Text.from_ansi(printed))
        # Rich's frame loads its font from a server; the reader's own monospace font does as well.
        return re.sub(r"\s*@font-face \{.*?\}", "", console.export_svg(title="agentmesh"), flags=re.DOTALL)


if __name__ == "__main__":
    raise SystemExit(main())
