"""The sets of `bench routing` by name: which folder each reads, how its rows become an exam, which policies suit it.

A set is a folder, a folder's name with `_agents` (agents instead of intents) or `_descriptions` (agents that have no
examples), or one of the names below. The sets `scale_*` are generated: see `routing_scale`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from agentmesh.evaluation import routing_talk, routing_tools
from agentmesh.evaluation.datasets import DataSet, Sample, agent_id, cards_of, find_set, read_rows, read_set
from agentmesh.evaluation.routing_exam import Exam, Measure
from agentmesh.evaluation.routing_scale import SCALES

__all__ = ["FOLDERS", "LABELLED", "SETS", "folder_of", "open_set", "policies_of", "sets_of"]

LABELLED = ("clinc150", "hwu64", "banking77")
"""Folders in which a row has an intent and an agent."""
TRAINED = ("semantic", "random", "nearest_centroid", "tfidf_lr", "tfidf_lr_all", "reasoning")
"""Policies for cards with examples, rows with gold agents."""
DESCRIBED = ("semantic", "minilm", "random", "nearest_centroid", "tfidf", "reasoning")
"""Policies for cards without examples."""
SOME_OR_NONE = ("semantic", "nearest_centroid", "tfidf")


@dataclass(frozen=True)
class Source:
    """Where a set comes from."""

    folder: str
    read: Callable[[Path, Path], tuple[Exam, ...]]
    """From the set's folder and the folder of all data."""
    policies: tuple[str, ...] = TRAINED


SOURCES: dict[str, Source] = {
    "nlupp": Source("nlupp", routing_talk.open_nlupp),
    "sgd": Source(
        "sgd",
        routing_talk.open_sgd,
        ("semantic", "random", "nearest_centroid", "carry_over", "tfidf_lr", "tfidf_lr_all"),
    ),
    "metatool": Source("metatool", routing_tools.open_metatool),
    "metatool_two": Source(
        "metatool", routing_tools.open_metatool_two, ("semantic", "random", "nearest_centroid", "tfidf", "tfidf_lr")
    ),
    "metatool_none": Source("metatool", routing_tools.open_metatool_none, SOME_OR_NONE),
    "bfcl_none": Source("bfcl", routing_tools.open_bfcl_none, SOME_OR_NONE),
    "routerarena": Source(
        "routerarena", routing_tools.open_routerarena, ("semantic", "random", "nearest_centroid", "tfidf_lr")
    ),
}
"""Sets whose rows have a form of their own."""
INNER = {"bfcl": ("bfcl_none",)}
"""Folders that are no set themselves, with the sets that they hold."""
LENT_AGENTS = {"clinc_mix": "clinc150"}
"""Sets whose agents are described in another folder of the data, as their README says."""
SETS = (
    *LABELLED, *(f"{f}_agents" for f in LABELLED), *(f"{f}_descriptions" for f in LABELLED), "clinc_mix", *SOURCES,
    *SCALES,
)  # fmt: skip
"""The sets that are measured unless some are named."""
FOLDERS = {
    name: SOURCES[name].folder if name in SOURCES else name.removesuffix("_descriptions").removesuffix("_agents")
    for name in SETS
    if name not in SCALES
}
"""The folder of each of `SETS` that reads one."""


def sets_of(names: Sequence[str]) -> tuple[str, ...]:
    """The sets that these names mean, each once: a folder's name stands for the sets in it."""
    return tuple(dict.fromkeys(inner for name in names for inner in INNER.get(name, (name,))))


def folder_of(data: Path, name: str) -> Path:
    """The folder that a set reads. Raises `InputError` if it is not there."""
    if name in SOURCES:
        return find_set(data, SOURCES[name].folder)
    if not data.is_dir() or (data / name).is_dir():
        return find_set(data, name)
    plain = name.removesuffix("_descriptions").removesuffix("_agents")
    return find_set(data, plain)


def policies_of(name: str) -> tuple[str, ...]:
    """The policies that a set is measured with unless some are named."""
    if name in SOURCES:
        return SOURCES[name].policies
    return DESCRIBED if name.endswith("_descriptions") else TRAINED


def open_set(data: Path, name: str) -> tuple[Exam, ...]:
    """The folds of a set, one where the data has a train file. Raises `InputError`."""
    folder = folder_of(data, name)
    if name in SOURCES:
        return SOURCES[name].read(folder, data)
    grouped, described_only = folder.name != name, folder.name != name and name.endswith("_descriptions")
    first = read_rows(folder, "public_test")[0]
    several = "agents" in first
    label = "agents" if several else "intent" if "intent" in first and not grouped else "agent"
    described: list[dict[str, Any]] = []
    home = folder
    if label != "intent":
        home = data / LENT_AGENTS.get(folder.name, folder.name)
        described = read_rows(home, "agents")
    parts = read_set(folder, label)
    lessons = _gold_parts(folder, described) if several else None
    measure = Measure.SET if several else Measure.FIRST
    return tuple(_exam(fold, lessons, described, home, measure, examples=not described_only) for fold in parts)


def _exam(
    fold: DataSet,
    lessons: tuple[Sample, ...] | None,
    described: Sequence[Mapping[str, Any]],
    folder: Path,
    measure: Measure,
    *,
    examples: bool,
) -> Exam:
    cards = cards_of(lessons or fold.train, described, folder=folder, examples=examples)
    train, test = (
        tuple(Sample(s.text, tuple(agent_id(a) for a in s.agents)) for s in samples)
        for samples in (fold.train if examples else (), fold.test)
    )
    return Exam(cards, train, test, measure)


def _gold_parts(folder: Path, described: Sequence[Mapping[str, Any]]) -> tuple[Sample, ...] | None:
    """The parts of the train rows with the agent of each, where rows name parts and intents and agents theirs."""
    owner = {str(intent): str(row.get("agent")) for row in described for intent in row.get("intents") or ()}
    found: list[Sample] = []
    for row in read_rows(folder, "public_train", required=False):
        parts, intents = row.get("parts"), row.get("intents")
        if isinstance(parts, list) and isinstance(intents, list):
            pairs = zip(cast(list[Any], parts), cast(list[Any], intents), strict=False)
            found += [Sample(str(part), (owner[str(intent)],)) for part, intent in pairs if str(intent) in owner]
    return tuple(found) or None
