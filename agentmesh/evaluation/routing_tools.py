"""Sets of questions that want a tool, two or none: `metatool*`, `bfcl_none`; and `routerarena` over the same tools.

A tool is an agent: its card is what the set says about it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from agentmesh.errors import InputError
from agentmesh.evaluation.datasets import Sample, agent_id, cards_of, find_set, read_rows, spoken, text_of, texts_of
from agentmesh.evaluation.routing_exam import Exam, Measure
from agentmesh.types import AgentCard

__all__ = ["open_bfcl_none", "open_metatool", "open_metatool_none", "open_metatool_two", "open_routerarena"]

TOOLS_FOLDER = "metatool"
"""The folder whose tools `routerarena` routes over."""


def open_metatool(folder: Path, data: Path) -> tuple[Exam, ...]:
    """Questions that want one tool; the cards have the questions of `public_train_single` as examples."""
    cards, train = _tools(folder)
    return (Exam(cards, train, _singles(folder, "public_test_single", cards)),)


def open_metatool_two(folder: Path, data: Path) -> tuple[Exam, ...]:
    """Questions that want exactly two of the tools; the train rows want one each."""
    cards, train = _tools(folder)
    rows = read_rows(folder, "public_multi")
    test = tuple(
        Sample(text_of(row, "text", where), _known(texts_of(row, "tools", where), cards, where))
        for row, where in _places(rows, folder, "public_multi")
    )
    return (Exam(cards, train, test, Measure.SET, max_agents=2),)


def open_metatool_none(folder: Path, data: Path) -> tuple[Exam, ...]:
    """Whether a router sees that the right tool is not among the ten that are offered.

    Rows where nobody is right are those of `public_none`, each with its own candidates. For each of them stands one row
    where somebody is right: the same list of candidates, of which one is drawn by seed 0, and a question of
    `public_test_single` that wants it, drawn without repetition while there are any. So both kinds are asked with the
    same lists, and a router cannot tell them apart by the lists.
    """
    cards, _ = _tools(folder)
    by_id = {card.id: card for card in cards}
    asked: dict[str, list[Sample]] = {}
    for sample in _singles(folder, "public_test_single", cards):
        asked.setdefault(sample.agents[0], []).append(sample)
    rng = np.random.default_rng(0)
    waiting: dict[str, list[int]] = {tool: rng.permutation(len(own)).tolist() for tool, own in asked.items()}
    test: list[Sample] = []
    for row, where in _places(read_rows(folder, "public_none"), folder, "public_none"):
        own = tuple(by_id[id_] for id_ in _known(texts_of(row, "candidates", where), cards, where))
        test.append(Sample(text_of(row, "text", where), (), cards=own))
        wanted = [card.id for card in own if card.id in asked]
        if not wanted:
            raise InputError(f"{where}: no row of public_test_single wants one of its candidates; drop the row")
        tool = wanted[int(rng.integers(len(wanted)))]
        left = waiting[tool] or rng.permutation(len(asked[tool])).tolist()
        test.append(Sample(asked[tool][left[-1]].text, (tool,), cards=own))
        waiting[tool] = left[:-1]
    return (Exam((), (), tuple(test), Measure.NONE),)


def open_bfcl_none(folder: Path, data: Path) -> tuple[Exam, ...]:
    """Whether a router sees that none of the functions offered with a question is to be called.

    A function is a card: its description, its parameters with their descriptions as instructions, no examples. Rows
    with an empty `gold` are nobody's; where `gold` is null, any of the functions is right. Rows that offer no function
    leave nothing to decide and are left out. Most rows that are nobody's offer one function, the others two or more.
    """
    test: list[Sample] = []
    for row, where in _places(read_rows(folder, "public_tools"), folder, "public_tools"):
        cards = _functions(row, where)
        if cards:
            gold = texts_of(row, "gold", where) if row.get("gold") is not None else tuple(c.id for c in cards)
            test.append(Sample(text_of(row, "question", where), _known(gold, cards, where), cards=cards))
    return (Exam((), (), tuple(test), Measure.NONE),)


def open_routerarena(folder: Path, data: Path) -> tuple[Exam, ...]:
    """Questions and what they are in other words, in pairs, over the tools of `metatool` with their examples."""
    cards, train = _tools(find_set(data, TOOLS_FOLDER))
    test: list[Sample] = []
    for row, where in _places(read_rows(folder, "public_sub10"), folder, "public_sub10"):
        if row.get("paraphrase"):
            test += [Sample(text_of(row, field, where), ()) for field in ("query", "paraphrase")]
    if not test:
        raise InputError(f"{folder}/public_sub10: no row has a `paraphrase`; add some or name another --set")
    return (Exam(cards, train, tuple(test), Measure.TWINS),)


def _tools(folder: Path) -> tuple[tuple[AgentCard, ...], tuple[Sample, ...]]:
    """The tools as cards with the train rows as examples, and the train rows."""
    described = [
        {"agent": text_of(row, "tool", where), "description": text_of(row, "description", where)}
        for row, where in _places(read_rows(folder, "agents"), folder, "agents")
    ]
    rows = read_rows(folder, "public_train_single")
    train = tuple(
        Sample(text_of(row, "text", where), (agent_id(text_of(row, "tool", where)),))
        for row, where in _places(rows, folder, "public_train_single")
    )
    return cards_of(train, described, folder=folder), train


def _singles(folder: Path, file: str, cards: Sequence[AgentCard]) -> tuple[Sample, ...]:
    return tuple(
        Sample(text_of(row, "text", where), _known((text_of(row, "tool", where),), cards, where))
        for row, where in _places(read_rows(folder, file), folder, file)
    )


def _known(names: Sequence[str], cards: Sequence[AgentCard], where: str) -> tuple[str, ...]:
    """The ids of these names; raises `InputError` if one is on no card."""
    known = {card.id for card in cards}
    for name in names:
        if agent_id(name) not in known:
            raise InputError(f"{where}: names {name!r}, which the set does not describe; add it to its agents")
    return tuple(agent_id(name) for name in names)


def _functions(row: Mapping[str, Any], where: str) -> tuple[AgentCard, ...]:
    """The functions that are offered with a question."""
    offered: object = row.get("functions")
    if not isinstance(offered, list):
        raise InputError(f"{where}: wants a list of objects as `functions`; mend or drop the row")
    cards: dict[str, AgentCard] = {}
    for function in cast(list[Any], offered):
        if not isinstance(function, dict):
            raise InputError(f"{where}: wants a list of objects as `functions`; mend or drop the row")
        said = cast(dict[str, Any], function)
        name = text_of(said, "name", where)
        if agent_id(name) in cards:
            raise InputError(f"{where}: two functions have the id {agent_id(name)!r}; rename one")
        cards[agent_id(name)] = AgentCard(
            id=agent_id(name),
            name=spoken(name),
            description=str(said.get("description") or "").strip() or spoken(name),
            instructions="\n".join(_parameters(said.get("parameters"))),
        )
    return tuple(cards.values())


def _parameters(schema: object) -> list[str]:
    """The parameters of a JSON schema, a line each, those of inner objects too."""
    inner = cast(dict[str, Any], schema).get("properties") if isinstance(schema, dict) else None
    lines: list[str] = []
    for name, what in cast(dict[str, Any], inner).items() if isinstance(inner, dict) else ():
        described = str(cast(dict[str, Any], what).get("description") or "").strip() if isinstance(what, dict) else ""
        lines.append(f"- {spoken(name)}: {described}" if described else f"- {spoken(name)}")
        lines += _parameters(cast(object, what))
    return lines


def _places(rows: Sequence[dict[str, Any]], folder: Path, file: str) -> list[tuple[dict[str, Any], str]]:
    """Rows, each with where it stands."""
    return [(row, f"{folder}/{file}, row {n}") for n, row in enumerate(rows, start=1)]
