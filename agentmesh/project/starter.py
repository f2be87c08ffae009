"""Writes a small project that runs: three agents, what they know, a scenario. The files ship with the package.

No file that is there is ever overwritten.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from agentmesh.errors import InputError
from agentmesh.settings import SETTINGS_FILE

__all__ = ["SCENARIO", "Started", "write_starter"]

SCENARIO = "workshop"
"""The scenario of the starter project."""
NAME_CHARS = 80
UNNAMED = "mesh"
"""What a project is called whose folder has no name that can be written down."""
SHOWN = 4
"""Names of what is in the way."""
UNSEEN = frozenset({".git", ".DS_Store"})
"""What may be in a folder that still counts as empty."""

_NAME = re.compile(rf"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{{1,{NAME_CHARS}}}")
_MARK = "{{name}}"
_RENAMED = {"gitignore": ".gitignore"}
"""Files that would have an effect under their own name where they are kept."""


@dataclass(frozen=True)
class Started:
    """What `write_starter` did; paths relative to the folder."""

    folder: Path
    name: str
    written: tuple[str, ...]
    kept: tuple[str, ...]
    """Files that were there and stayed as they are."""


def write_starter(folder: Path, *, name: str | None = None, force: bool = False) -> Started:
    """Write the starter project into a folder, which is made if it is not there.

    Args:
        folder: Empty, unless `force` is set; a folder that has cards is refused in any case.
        name: What its README calls it; None: the folder's own name.
        force: Add to a folder that is not empty what it lacks. Settings in its `pyproject.toml` stay the project's
            settings: no `agentmesh.toml` is written, which would hide them.

    Raises:
        InputError: If something is in the way or the folder cannot be written; then nothing was written.
    """
    if name is None:
        own = Path(os.path.abspath(folder)).name  # noqa: PTH100 -- takes `..` out and follows no link
        name = own if _NAME.fullmatch(own) else UNNAMED
    elif not (name := " ".join(name.split())) or not _NAME.fullmatch(name):
        raise InputError(f"--name must be 1 to {NAME_CHARS} characters on one line")
    there = _entries(folder)
    cards = folder / "agents"
    if cards.is_dir() and any(cards.glob("*.md")):
        raise InputError(f"{folder} is a mesh project already; add to it with `agentmesh agents add ID`")
    if there and not force:
        shown = ", ".join(there[:SHOWN]) + (f" and {len(there) - SHOWN} more" if len(there) > SHOWN else "")
        raise InputError(
            f"{folder} is not empty ({shown}); choose a new folder, or add the files that it lacks with --force"
        )
    texts = {path: text.replace(_MARK, name) for path, text in _templates()}
    if _has_settings(folder / "pyproject.toml"):
        del texts[SETTINGS_FILE]
    kept = sorted(path for path in texts if os.path.lexists(folder / path))
    written = sorted(texts.keys() - set(kept))
    _write_all(folder, {path: texts[path] for path in written})
    return Started(folder, name, tuple(written), tuple(kept))


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.name not in UNSEEN)
    except FileNotFoundError:
        return []
    except NotADirectoryError as error:
        raise InputError(f"{folder} is a file, or lies below one; name a folder") from error
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({_words(error)}); name another folder") from error


def _has_settings(path: Path) -> bool:
    try:
        return b"[tool.agentmesh" in path.read_bytes()
    except OSError:
        return False


def _templates() -> Iterator[tuple[str, str]]:
    """Every file of the starter project by its path."""

    def below(folder: Traversable, prefix: str) -> Iterator[tuple[str, str]]:
        for entry in sorted(folder.iterdir(), key=lambda e: e.name):
            if entry.is_dir():
                yield from below(entry, f"{prefix}{entry.name}/")
            else:
                yield prefix + _RENAMED.get(entry.name, entry.name), entry.read_text(encoding="utf-8")

    yield from below(files("agentmesh") / "project" / "templates" / "starter", "")


def _write_all(folder: Path, texts: dict[str, str]) -> None:
    """Write all files or none: what was made is taken away again if one fails."""
    made: list[Path] = []
    try:
        for path, text in texts.items():
            target = folder / path
            for parent in [p for p in reversed(target.parents) if not p.exists()]:
                parent.mkdir()
                made.append(parent)
            with target.open("x", encoding="utf-8", newline="\n") as file:
                made.append(target)
                file.write(text)
    except OSError as error:
        for path in reversed(made):
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
        where = error.filename or folder
        raise InputError(f"{where} cannot be written ({_words(error)}); name a folder that you may write to") from error


def _words(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
