"""Reads the folders of benchmark data that a person names: rows as they stand in the files, agents as cards.

A set is a folder with `public_train`, `public_valid` and `public_test` as `.jsonl` or `.jsonl.gz`, one object a line;
its `agents` file describes the agents. Nothing is shipped, fetched or written here.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from agentmesh.errors import InputError, nearest
from agentmesh.types import AgentCard, Message

__all__ = [
    "OUT_OF_SCOPE",
    "DataSet",
    "Sample",
    "agent_id",
    "cards_of",
    "find_set",
    "folds",
    "read_rows",
    "read_set",
    "spoken",
    "text_of",
    "texts_of",
]

OUT_OF_SCOPE = "oos"
"""The label of a row that is nobody's."""
SUFFIXES = (".jsonl.gz", ".jsonl")
FOLDS = 5
"""Parts that a set without a train file is cut into, with seed 0."""

_NO_ID = re.compile(r"[^A-Za-z0-9_.-]+")
_INNER_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True)
class Sample:
    """One row: a text and whose it is."""

    text: str
    agents: tuple[str, ...]
    """Ids of the right agents; empty: nobody's."""
    history: tuple[Message, ...] = ()
    """What was said before it, oldest first."""
    cards: tuple[AgentCard, ...] = ()
    """The candidates, where rows have their own; empty: all agents of the set."""


@dataclass(frozen=True)
class DataSet:
    """One fold of a set: what may be learned from and what is asked."""

    train: tuple[Sample, ...]
    test: tuple[Sample, ...]


def find_set(data: Path, name: str) -> Path:
    """The folder of a set inside the folder of the data.

    Raises:
        InputError: If one of the two is not there; the nearest name is given.
    """
    if not data.is_dir():
        raise InputError(f"--data {data}: there is no such folder; name the folder that holds the sets")
    folder = data / name
    if not folder.is_dir():
        known = sorted(child.name for child in data.iterdir() if child.is_dir())
        close = nearest(name, known)
        hint = f"did you mean {close[0]!r}?" if close else f"it holds {', '.join(known[:12]) or 'no folders'}"
        raise InputError(f"--data {data}: there is no set {name!r}; {hint}")
    return folder


def read_rows(folder: Path, name: str, *, required: bool = True) -> list[dict[str, Any]]:
    """The rows of `name.jsonl.gz` or `name.jsonl`; none if the file may be absent and is.

    Raises:
        InputError: If the file is missing, damaged, not UTF-8, or a line is not a JSON object; names file and line.
    """
    path = next((p for suffix in SUFFIXES if (p := folder / f"{name}{suffix}").is_file()), None)
    if path is None:
        if not required:
            return []
        raise InputError(f"{folder}: there is no {name}.jsonl.gz or {name}.jsonl; add it or name another --set")
    try:
        packed = path.read_bytes()
        raw = gzip.decompress(packed) if path.name.endswith(".gz") else packed
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}); copy the file again") from error
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            value: object = json.loads(line)
        except ValueError as error:  # a UnicodeDecodeError too
            raise InputError(f"{path}:{number}: not a line of JSON ({error}); mend or drop the line") from error
        if not isinstance(value, dict):
            raise InputError(f"{path}:{number}: a line must be a JSON object; mend or drop the line")
        rows.append(cast(dict[str, Any], value))
    if not rows and required:
        raise InputError(f"{path}: the file holds no rows; copy it again")
    return rows


def read_set(folder: Path, label: str) -> tuple[DataSet, ...]:
    """The samples of a set by the field `label`: one fold as the files cut it, or five if there is no train file.

    The label is a string or a list of strings; `oos` and an empty list mean nobody's.

    Raises:
        InputError: See `read_rows`; or a row lacks a field or has one of the wrong type.
    """
    test = _samples(folder, "public_test", read_rows(folder, "public_test"), label)
    train = _samples(folder, "public_train", read_rows(folder, "public_train", required=False), label)
    return (DataSet(train, test),) if train else folds(test)


def text_of(row: Mapping[str, Any], field: str, where: str) -> str:
    """A text of a row that is not empty; raises `InputError` that begins with `where`."""
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: wants a text as `{field}`; mend or drop the row")
    return value


def texts_of(row: Mapping[str, Any], field: str, where: str) -> tuple[str, ...]:
    """The different texts of a list in a row, which may be empty; raises `InputError` that begins with `where`."""
    value = row.get(field)
    listed = cast(list[Any], value) if isinstance(value, list) else [None]
    if not all(isinstance(text, str) and text for text in listed):
        raise InputError(f"{where}: wants a list of texts as `{field}`; mend or drop the row")
    return tuple(dict.fromkeys(cast(list[str], listed)))


def folds(rows: Sequence[Sample]) -> tuple[DataSet, ...]:
    """Cut rows into five parts by seed 0; each is asked once, the others are learned from."""
    if len(rows) < FOLDS:
        raise InputError(f"{len(rows)} rows are too few for {FOLDS} folds; add a public_train file")
    part = np.random.default_rng(0).permutation(len(rows)) % FOLDS
    return tuple(
        DataSet(
            tuple(row for row, p in zip(rows, part, strict=True) if p != fold),
            tuple(row for row, p in zip(rows, part, strict=True) if p == fold),
        )
        for fold in range(FOLDS)
    )


def cards_of(
    train: Iterable[Sample],
    described: Sequence[Mapping[str, Any]] = (),
    *,
    folder: Path | None = None,
    examples: bool = True,
    shared: bool = False,
) -> tuple[AgentCard, ...]:
    """The agents as cards, by id: described ones, then those that only rows of train name.

    Args:
        train: Rows with exactly one agent become its examples; with `shared`, a row is one of each of its agents.
        described: Rows of the set's `agents` file: `agent`, `name`, `description`.
        folder: Named in a mistake.
        examples: Whether the cards get the rows of train; without them a card is its description.
        shared: Whether the same text stands on several cards: all of them are needed then.

    Raises:
        InputError: If a described agent lacks a field, or two names make the same id.
    """
    texts: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    said: dict[str, str] = {}
    for number, row in enumerate(described, start=1):
        name, title, description = row.get("agent"), row.get("name"), row.get("description")
        if not isinstance(name, str) or not isinstance(description, str) or not description:
            raise InputError(f"{folder}/agents, row {number}: wants the texts `agent` and `description`")
        _name(names, name, folder)
        said[agent_id(name)] = description
        if isinstance(title, str) and title:
            names[agent_id(name)] = title
    for row in train:
        for agent in row.agents:
            if agent_id(agent) not in said:
                _name(names, agent, folder)
        if examples and (shared or len(row.agents) == 1):
            for agent in row.agents:
                texts.setdefault(agent_id(agent), []).append(row.text)
    return tuple(
        AgentCard(
            id=id_,
            name=name,
            description=said.get(id_, name),
            examples=tuple(dict.fromkeys(texts.get(id_, ()))),
        )
        for id_, name in sorted((id_, spoken(name)) for id_, name in names.items())
    )


def agent_id(name: str) -> str:
    """A label of the data as an id of ours: other signs become `_`, at most 64."""
    return _NO_ID.sub("_", name).strip("_.-")[:64] or "unnamed"


def spoken(name: str) -> str:
    """A label as words: `FindBus`, `find_bus` and `find.bus` are all "find bus", capitals as they are."""
    return " ".join(_INNER_CAPITAL.sub(" ", name).replace("_", " ").replace(".", " ").split())


def _name(names: dict[str, str], name: str, folder: Path | None) -> None:
    """Remember a label under its id."""
    known = names.setdefault(agent_id(name), name)
    if known != name:
        raise InputError(f"{folder}: the labels {known!r} and {name!r} give the same id; rename one")


def _samples(folder: Path, file: str, rows: Sequence[Mapping[str, Any]], label: str) -> tuple[Sample, ...]:
    found: list[Sample] = []
    for number, row in enumerate(rows, start=1):
        text, value = row.get("text"), row.get(label)
        listed: list[Any] = cast(list[Any], value) if isinstance(value, list) else [value]
        if not isinstance(text, str) or not all(isinstance(agent, str) and agent for agent in listed):
            raise InputError(f"{folder}/{file}, row {number}: wants the text `text` and the label `{label}`")
        agents = dict.fromkeys(agent for agent in cast(list[str], listed) if agent != OUT_OF_SCOPE)
        found.append(Sample(text, tuple(agents)))
    return tuple(found)
