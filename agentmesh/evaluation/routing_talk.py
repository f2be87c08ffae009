"""Sets of what people say to assistants, where a turn may need several agents: `nlupp` and `sgd`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from agentmesh.errors import InputError
from agentmesh.evaluation.datasets import Sample, agent_id, cards_of, read_rows, spoken, text_of, texts_of
from agentmesh.evaluation.routing_exam import MOST_AGENTS, Exam, Measure
from agentmesh.types import AgentCard, Message

__all__ = ["open_nlupp", "open_sgd"]

CARD_EXAMPLES = 150
"""Turns that a service of `sgd` gets as examples at most, drawn by seed 0."""
LEARNED_ROWS = 20_000
"""Turns of `sgd` that a classifier learns from, drawn by seed 0: with all 38,481 it takes more than a minute."""
HISTORY_TURNS = 40
"""Messages before a turn, the newest: as many as a mesh gives a run of a conversation."""

T = TypeVar("T")

_FULL_STOP = re.compile(r"[\s.]+$")


def open_nlupp(folder: Path, data: Path) -> tuple[Exam, ...]:
    """The labels as agents with their descriptions; a row that has several labels is an example of each.

    A decision may name as many agents as the fullest train row has labels. Rows without a label are nobody's.
    """
    described = [
        {"agent": text_of(row, "label", where), "description": text_of(row, "description", where)}
        for row, where in _numbered(folder, "labels")
    ]
    train, test = (
        tuple(Sample(text_of(row, "text", where), _ids(row, "labels", where)) for row, where in rows)
        for rows in (_numbered(folder, "public_train"), _numbered(folder, "public_test"))
    )
    cards = cards_of(train, described, folder=folder, shared=True)
    _all_known(cards, test, folder)
    most = max(MOST_AGENTS, *(len(sample.agents) for sample in train))
    return (Exam(cards, train, test, Measure.SET, most),)


def open_sgd(folder: Path, data: Path) -> tuple[Exam, ...]:
    """The services as agents; every user turn of the test dialogues is asked with the conversation before it.

    A card holds the service's description, its intents and slots as instructions, and as examples up to
    `CARD_EXAMPLES` turns of train that open an intent of it. A turn that opens one while another service goes on is an
    example of the new one only: its text says nothing of the other. Services that are not in train have no examples. An
    earlier turn of the assistant names the services that worked on it (`prev_services`), as a mesh remembers them.
    """
    rows = [row for row, _ in _numbered(folder, "public_train")]
    train = _turns(folder, "public_train", whole=False)
    texts: dict[str, list[str]] = {}
    for row, sample in zip(rows, train, strict=True):
        if row.get("intent_start") is True:
            before = sample.history[-1].agents if sample.history else ()
            for service in [s for s in sample.agents if s not in before] or sample.agents:
                texts.setdefault(service, []).append(sample.text)
    cards = tuple(_service(row, where, texts) for row, where in _numbered(folder, "agents"))
    test = _turns(folder, "public_test", whole=True)
    _all_known(cards, (*train, *test), folder)
    return (Exam(cards, _drawn(train, LEARNED_ROWS), test, Measure.SET),)


def _service(row: Mapping[str, Any], where: str, texts: Mapping[str, Sequence[str]]) -> AgentCard:
    """A service as a card."""
    name = text_of(row, "service", where)
    lines = ["What it can do:"]
    for intent in _objects(row, "intents", where):
        needed = [spoken(slot) for slot in texts_of(intent, "required", where)]
        optional = [spoken(slot) for slot in texts_of(intent, "optional", where)]
        line = f"- {spoken(text_of(intent, 'intent', where))}: {_clause(intent, where)}."
        line += f" Needs {', '.join(needed)}." if needed else ""
        line += f" May be told {', '.join(optional)}." if optional else ""
        lines.append(line)
    lines.append("What it asks for and tells:")
    lines += [
        f"- {spoken(text_of(slot, 'slot', where))}: {_clause(slot, where)}." for slot in _objects(row, "slots", where)
    ]
    own = tuple(dict.fromkeys(texts.get(agent_id(name), ())))
    return AgentCard(
        id=agent_id(name),
        name=spoken(name),
        description=text_of(row, "description", where),
        examples=_drawn(own, CARD_EXAMPLES),
        instructions="\n".join(lines),
    )


def _drawn(rows: Sequence[T], most: int) -> tuple[T, ...]:
    """At most so many of the rows by seed 0, in their order."""
    places: list[int] = np.sort(np.random.default_rng(0).permutation(len(rows))[:most]).tolist()
    return tuple(rows[place] for place in places)


def _turns(folder: Path, file: str, *, whole: bool) -> tuple[Sample, ...]:
    """The user turns of a file in its order, each with its conversation.

    Args:
        folder: Of the set.
        file: Its name without ending.
        whole: Whether the file holds every user turn of its dialogues; else only the assistant's turn just before,
            which stands in the row itself, is known.
    """
    numbered = _numbered(folder, file)
    places = range(len(numbered))
    if whole:
        places = sorted(places, key=lambda p: (str(numbered[p][0].get("dialogue")), _turn(*numbered[p])))
    said: dict[str, list[Message]] = {}
    found: dict[int, Sample] = {}
    for place in places:
        row, where = numbered[place]
        before = said.setdefault(text_of(row, "dialogue", where), []) if whole else []
        if row.get("prev_system"):
            agents = _ids(row, "prev_services", where)
            before.append(Message(role="assistant", text=text_of(row, "prev_system", where), agents=agents))
        text = text_of(row, "text", where)
        found[place] = Sample(text, _ids(row, "services", where), tuple(before[-HISTORY_TURNS:]))
        before.append(Message(role="user", text=text))
    return tuple(found[place] for place in range(len(numbered)))


def _ids(row: Mapping[str, Any], field: str, where: str) -> tuple[str, ...]:
    return tuple(agent_id(label) for label in texts_of(row, field, where))


def _turn(row: Mapping[str, Any], where: str) -> int:
    value = row.get("turn")
    if not isinstance(value, int):
        raise InputError(f"{where}: wants a whole number as `turn`; mend or drop the row")
    return value


def _clause(row: Mapping[str, Any], where: str) -> str:
    """The description of an intent or a slot, to be ended by us."""
    return _FULL_STOP.sub("", text_of(row, "description", where))


def _numbered(folder: Path, file: str) -> list[tuple[dict[str, Any], str]]:
    """The rows of a file, each with where it stands."""
    return [(row, f"{folder}/{file}, row {n}") for n, row in enumerate(read_rows(folder, file), start=1)]


def _objects(row: Mapping[str, Any], field: str, where: str) -> list[dict[str, Any]]:
    value = row.get(field)
    listed = cast(list[Any], value) if isinstance(value, list) else [None]
    if not all(isinstance(item, dict) for item in listed):
        raise InputError(f"{where}: wants a list of objects as `{field}`; mend or drop the row")
    return cast(list[dict[str, Any]], listed)


def _all_known(cards: Sequence[AgentCard], samples: Sequence[Sample], folder: Path) -> None:
    """Raise `InputError` if rows need an agent that is not described."""
    known = {card.id for card in cards}
    strange = sorted({agent for sample in samples for agent in sample.agents} - known)
    if strange:
        raise InputError(f"{folder}: rows name {strange[0]!r}, which the set does not describe; add it to its agents")
