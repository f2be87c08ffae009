"""The descriptions in card files: which cards lack one, and how one is written into its file, marked as generated.

Works on the files themselves, card by card, because a project whose card has no description cannot be loaded. Nothing
but the two keys `description` and `generated` of a file changes. What a description says is decided elsewhere.
"""

import difflib
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from agentmesh.errors import InputError, UnknownNameError
from agentmesh.project.frontmatter import MAX_CARD_BYTES, Document, split_front_matter
from agentmesh.text import content_words

__all__ = ["CardFile", "Lack", "described", "lacking", "read_card_files", "says_little", "text_diff", "write_card_file"]

Lack = Literal["missing", "thin", "asked"]
"""Why a description is written: there is none, it says next to nothing, or another one is wanted."""
FEW_WORDS = 3
"""Words that say something, below which a description is thin. Fewer than `agents overlap` wants: here a text of a
person would be replaced."""
GENERATED = "generated"
_WITHOUT_SPACES = re.compile("[\u2e80-\u9fff\uac00-\ud7af\u0e00-\u0eff]")
"""Scripts in which words are not set apart."""


@dataclass(frozen=True)
class CardFile:
    """One card as its file has it, whether the project could be loaded or not."""

    agent: str
    path: Path
    data: bytes
    name: str = ""
    description: str = ""
    """Empty where the file has none."""
    examples: tuple[str, ...] = ()
    not_for: tuple[str, ...] = ()
    instructions: str = ""
    error: str = ""
    """Why the file cannot be read, if so."""

    @property
    def lack(self) -> Lack | None:
        """What is wrong with its description, if anything."""
        if not self.description:
            return "missing"
        return "thin" if says_little(self.description) else None


def says_little(text: str) -> bool:
    """Whether a text has fewer than `FEW_WORDS` words that say something; two signs of Chinese, say, are a word."""
    found = len(set(content_words(text)))
    return max(found, len(_WITHOUT_SPACES.findall(text)) // 2) < FEW_WORDS


def read_card_files(folder: Path) -> list[CardFile]:
    """Every card file of the project in `folder`, by id; those that cannot be read say why."""
    try:
        paths = sorted((folder / "agents").glob("*.md"))
    except OSError:
        return []
    return [_read(path) for path in paths if path.name.lower() != "readme.md" and not path.name.startswith(".")]


def lacking(
    cards: Sequence[CardFile], agents: Sequence[str] = (), *, every: bool = False
) -> list[tuple[CardFile, Lack]]:
    """The cards to describe, with the reason, in the order of the files.

    Args:
        cards: All cards.
        agents: Ids to look at; empty: all.
        every: Also those whose description is good enough.

    Raises:
        UnknownNameError: If there is no agent of such an id.
    """
    known = {card.agent for card in cards}
    for agent in agents:
        if agent not in known:
            raise UnknownNameError("agent", agent, sorted(known))
    wanted = [card for card in cards if not agents or card.agent in agents]
    return [(card, card.lack or "asked") for card in wanted if every or card.lack or card.error]


def described(card: CardFile, text: str) -> bytes:
    """The card's file with this description, marked as generated; every other key, comment and line stays.

    Raises:
        InputError: If the file cannot be edited so, e.g. its front matter is written in braces.
    """
    file = f"agents/{card.path.name}"
    before = split_front_matter(card.data, file)
    values = {**before.values, "description": text, GENERATED: _marks(before)}
    raw = card.data.decode("utf-8", "replace")
    end = "\r\n" if "\r\n" in raw else "\n"
    lines = raw.split(end)
    front = {
        "description": yaml.safe_dump({"description": text}, allow_unicode=True, width=2**30).strip(),
        GENERATED: f"{GENERATED}: {yaml.safe_dump(values[GENERATED], default_flow_style=True).strip()}",
    }
    for key, line in front.items():
        _put(lines, key, line, split_front_matter(end.join(lines).encode(), file))
    data = end.join(lines).encode()
    after = split_front_matter(data, file)
    if card.error or after.mistakes or after.values != values or after.body != before.body:
        raise InputError(f"{file} cannot be edited as it is written; add `description: {text}` yourself")
    if len(data) > MAX_CARD_BYTES:
        raise InputError(f"{file} would have more than {MAX_CARD_BYTES // 1024} KB; shorten its instructions")
    return data


def write_card_file(card: CardFile, data: bytes) -> None:
    """Put `data` in the place of the card's file; what was there stays whole until all of it is on the disk.

    Raises:
        InputError: If the file is not any more what was read, or cannot be written.
    """
    path, file = card.path.resolve(), f"agents/{card.path.name}"
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.read_bytes() != card.data:
            raise InputError(f"{file} was changed meanwhile and is left as it is; describe it again")
        try:
            part.write_bytes(data)
            part.chmod(path.stat().st_mode)
            part.replace(path)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
    except OSError as error:
        words = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{file} cannot be written ({words}); see to that and describe it again") from error


def text_diff(card: CardFile, data: bytes) -> str:
    """What would change in the card's file, as a unified diff."""
    old, new = (text.decode("utf-8", "replace").splitlines() for text in (card.data, data))
    file = f"agents/{card.path.name}"
    return "\n".join(difflib.unified_diff(old, new, f"a/{file}", f"b/{file}", lineterm="", n=1))


# --- reading ----------------------------------------------------------------------------------------------------------


def _read(path: Path) -> CardFile:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CARD_BYTES + 1)
    except OSError as error:
        return CardFile(path.stem, path, b"", error=f"cannot be read ({(error.strerror or '').lower()})")
    document = split_front_matter(data, f"agents/{path.name}")
    if document.mistakes:
        return CardFile(path.stem, path, data, error=str(document.mistakes[0]))
    values = document.values
    return CardFile(
        path.stem,
        path,
        data,
        name=_text(values.get("name")),
        description=_text(values.get("description")),
        examples=_texts(values.get("examples")),
        not_for=_texts(values.get("not_for")),
        instructions=document.body,
    )


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _texts(value: object) -> tuple[str, ...]:
    """The texts of a list; whatever else stands there is for `check` to say."""
    items = cast("list[object]", value) if isinstance(value, list) else []
    return tuple(item for item in items if isinstance(item, str) and item.strip())


def _marks(document: Document) -> list[Any]:
    """The value of `generated`, with the description in it."""
    there: object = document.values.get(GENERATED)
    others = [mark for mark in cast("list[Any]", there) if mark != "description"] if isinstance(there, list) else []
    return [*others, "description"]


# --- writing ----------------------------------------------------------------------------------------------------------


def _put(lines: list[str], key: str, front: str, document: Document) -> None:
    """Put a key's line in the place of what the front matter says of it, or else below `description` or at its top."""
    if (start := document.lines.get((key,))) is not None:
        first = start - 1
        below = [line - 1 for steps, line in document.lines.items() if len(steps) == 1 and line > start]
        close = next((n for n, line in enumerate(lines) if n and line.rstrip() == "---"), len(lines))
        last = min([*below, close])
        while last - 1 > first and (not lines[last - 1].strip() or lines[last - 1].startswith("#")):
            last -= 1  # comments and blank lines belong to the key that follows
        lines[first:last] = [front]
        return
    place = document.lines.get(("description",), 1)
    lines[place:place] = [front]
