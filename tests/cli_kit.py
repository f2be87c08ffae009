"""Runs the command line in this process, as a user would call it."""

import os
import sys
from collections.abc import Callable

import pytest

from agentmesh.cli import main

__all__ = ["Run", "runner"]

Run = Callable[..., tuple[int, str, str]]
"""Takes arguments; gives the exit status, standard output and standard error."""


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Calls `agentmesh` in the current folder, with none of the settings of the developer's own shell."""
    for name in [n for n in os.environ if n.startswith("AGENTMESH_") and n != "AGENTMESH_CACHE"]:
        monkeypatch.delenv(name)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["agentmesh", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, errors = capsys.readouterr()
        return (ended.value.code if isinstance(ended.value.code, int) else 0), out, errors

    return call
