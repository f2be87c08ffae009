"""Adds and removes one card of a project. What `check` would not take is not written; nothing else is touched."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import yaml

from agentmesh.errors import InputError, ProjectError, UnknownNameError
from agentmesh.mistakes import Mistake
from agentmesh.project.frontmatter import MAX_CARD_BYTES
from agentmesh.project.loader import KnownNames, check_project

__all__ = ["INSTRUCTIONS", "add_card", "card_text", "remove_card"]

INSTRUCTIONS = "Answer only from the memory items, briefly, and cite each item that you use by its mark."
"""Of a card that is given none."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_BREAKS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]")
_UNREAD = "readme"
"""A file of this name beside the cards is no card."""


def card_text(
    description: str,
    *,
    name: str = "",
    role: str | None = None,
    model: str | None = None,
    examples: Sequence[str] = (),
    not_for: Sequence[str] = (),
    instructions: str = "",
) -> str:
    """The text of a card's file. Whatever the values hold, the loader reads the same values back."""
    values = {
        "name": name,
        "description": description,
        "role": role,
        "model": model,
        "examples": list(examples),
        "not_for": list(not_for),
    }
    kept = {key: value for key, value in values.items() if value or key == "description"}
    front = yaml.dump(kept, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=2**30)
    return f"---\n{front}---\n\n{instructions.strip() or INSTRUCTIONS}\n"


class _Dumper(yaml.SafeDumper):
    """Quotes text with line breaks of any kind, so that no reader folds them; PyYAML alone loses some."""


def _quoted(dumper: _Dumper, text: str) -> yaml.Node:
    style = '"' if _BREAKS.search(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _quoted)


def add_card(
    folder: Path, agent: str, data: bytes, *, known: KnownNames, environ: Mapping[str, str]
) -> tuple[Path, list[Mistake]]:
    """Write `agents/<agent>.md`.

    Args:
        folder: The project.
        agent: The id.
        data: The file's bytes.
        known: Names to check the card against.
        environ: Where `AGENTMESH_*` is looked up.

    Returns:
        The file, and what is wrong with the rest of the project.

    Raises:
        InputError: If the id cannot be one or is taken, or the file cannot be written.
        ProjectError: With every mistake of the card.
    """
    if not _ID.fullmatch(agent) or agent.lower() == _UNREAD:
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", agent).strip("-._")[:64]
        hint = f"; did you mean {plain!r}?" if plain and plain != agent else ""
        raise InputError(
            f"{agent[:80]!r} cannot be an id; use letters, digits, '_', '.' and '-', at most 64, a letter or a "
            f"digit first{hint}"
        )
    path = folder / "agents" / f"{agent}.md"
    ids = _ids(folder)
    if twin := next((id for id in ids if id.lower() == agent.lower()), None):
        raise InputError(f"the agent {twin!r} exists; edit agents/{twin}.md, or choose another id")
    if len(data) > MAX_CARD_BYTES:
        raise InputError(f"a card has at most {MAX_CARD_BYTES // 1024} KB; shorten its instructions")
    file = f"agents/{path.name}"
    mistakes = check_project(folder, known=known, environ=environ, overlay={file: data})
    if own := [m for m in mistakes if m.file == file]:
        raise ProjectError([str(m) for m in own])
    made, began = not path.parent.exists(), False
    try:
        path.parent.mkdir(exist_ok=True)
        with path.open("xb") as output:
            began = True
            output.write(data)
    except FileExistsError as error:
        raise InputError(f"{file} exists; choose another id") from error
    except OSError as error:
        if began:
            with suppress(OSError):
                path.unlink()
        if made:
            with suppress(OSError):
                path.parent.rmdir()
        raise InputError(f"{file} cannot be written ({_words(error)}); see to that and add it again") from error
    return path, mistakes


def remove_card(
    folder: Path, agent: str, *, known: KnownNames, environ: Mapping[str, str], force: bool = False
) -> tuple[Path, list[Mistake]]:
    """Delete `agents/<agent>.md`.

    Args:
        folder: The project.
        agent: The id.
        known: Names to check the project against.
        environ: Where `AGENTMESH_*` is looked up.
        force: Delete it although the project names it elsewhere.

    Returns:
        The file that was, and the mistakes that the project has without it and had not before.

    Raises:
        UnknownNameError: If there is no such agent.
        InputError: If the project needs it and `force` is not set, or the file cannot be deleted.
    """
    ids = _ids(folder)
    if agent not in ids:
        raise UnknownNameError("agent", agent, ids)
    file = f"agents/{agent}.md"
    before = check_project(folder, known=known, environ=environ)
    after = check_project(folder, known=known, environ=environ, overlay={file: None})
    # names of a broken card's neighbours may read otherwise before and after, so places are compared, not texts
    places = {(m.file, m.line, m.key) for m in before}
    fresh = [m for m in after if (m.file, m.line, m.key) not in places]
    if fresh and not force:
        if len(ids) == 1:
            raise InputError(f"{agent!r} is the only agent of the project; add another first, or use --force")
        raise InputError(f"{agent!r} is named in {_places(fresh)}; take it out there first, or use --force")
    path = folder / file
    try:
        path.unlink()
    except OSError as error:
        raise InputError(f"{file} cannot be deleted ({_words(error)}); check the folder's permissions") from error
    return path, fresh


def _ids(folder: Path) -> list[str]:
    """The ids of all card files, sorted, broken cards among them."""
    try:
        names = [path.name for path in (folder / "agents").iterdir()]
    except OSError:
        return []
    return sorted(n.removesuffix(".md") for n in names if n.endswith(".md") and n[0] != "." and n != "README.md")


def _places(mistakes: Sequence[Mistake]) -> str:
    """`scenarios/a.yaml (lines 4, 9) and agentmesh.toml (budgets.agents.x)`."""
    grouped: dict[str, list[Mistake]] = {}
    for mistake in mistakes:
        grouped.setdefault(mistake.file, []).append(mistake)
    parts: list[str] = []
    for file, found in grouped.items():
        lines = sorted({m.line for m in found if m.line})
        keys = ", ".join(sorted({m.key for m in found if m.key}))
        where = f"line{'s' if len(lines) != 1 else ''} {', '.join(map(str, lines))}" if lines else keys
        parts.append(f"{file} ({where})" if where else file)
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _words(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
