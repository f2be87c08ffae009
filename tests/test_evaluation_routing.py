"""`bench routing` on small sets written here: how they are read, what is measured, what a damaged file says."""

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentmesh.cli.app import app
from agentmesh.cli.bench_routing import bench_routing as door
from agentmesh.errors import InputError, UnknownNameError
from agentmesh.evaluation.datasets import Sample, agent_id, cards_of, folds, read_rows, read_set
from agentmesh.evaluation.routing import bench_routing, open_set

SAID = {
    "bill": "why is my invoice {} | when is the invoice {} due | explain the charge of {} | my bill of {} is too high",
    "vpn": "the vpn drops {} | connect the vpn {} | the tunnel fails {} | set up the vpn client {}",
    "parcel": "where is my parcel {} | the package {} is late | change the delivery {} | track the shipment {}",
}
ENDS = ("today", "monday", "tuesday", "wednesday", "thursday", "friday")
AGENTS = [
    {"agent": "bill", "name": "Billing desk", "description": "Invoices, bills and charges.", "intents": ["bill"]},
    {"agent": "vpn", "name": "VPN desk", "description": "The VPN client and its tunnel.", "intents": ["vpn"]},
    {"agent": "parcel", "name": "Parcels", "description": "Parcels and delivery.", "intents": ["parcel"]},
]
FOREIGN = ["sing a song about the sea", "who won the chess match"]


def write(folder: Path, name: str, rows: Iterable[Mapping[str, Any]], *, packed: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path = folder / (f"{name}.jsonl.gz" if packed else f"{name}.jsonl")
    path.write_bytes(gzip.compress(text) if packed else text)


def rows_of(ends: Iterable[str]) -> list[dict[str, Any]]:
    return [
        {"text": form.strip().format(end), "intent": who, "agent": who}
        for who, forms in SAID.items()
        for form in forms.split("|")
        for end in ends
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "desk"
    write(folder, "public_train", rows_of(ENDS[:4]), packed=True)
    foreign = [{"text": text, "intent": "oos", "agent": "oos"} for text in FOREIGN]
    write(folder, "public_test", [*rows_of(ENDS[4:]), *foreign])
    write(folder, "agents", AGENTS)
    mixed = [
        {"text": f"{SAID[a].split('|')[0].strip().format(end)} and {SAID[b].split('|')[0].strip().format(end)}",
         "agents": [a, b], "intents": [a, b],
         "parts": [SAID[a].split("|")[0].strip().format(end), SAID[b].split("|")[0].strip().format(end)]}
        for a, b in (("bill", "vpn"), ("vpn", "parcel"))
        for end in ENDS
    ]  # fmt: skip
    write(tmp_path / "mixed", "public_train", mixed[:8])
    write(tmp_path / "mixed", "public_test", mixed[8:])
    write(tmp_path / "mixed", "agents", AGENTS)
    return tmp_path


async def test_every_policy_is_measured_in_the_one_form(data: Path) -> None:
    said: list[str] = []
    result = await bench_routing(
        data, ["desk"], ["semantic", "random", "nearest_centroid", "tfidf_lr", "reasoning"], say=said.append
    )
    assert result["bench"] == "routing"
    assert set(result) == {"bench", "version", "machine", "rows"}
    rows = {(r["policy"], r["metric"]): r for r in result["rows"]}
    assert len(rows) == len(result["rows"]), "set, policy and metric are unique"
    for row in rows.values():
        assert set(row) == {"set", "policy", "metric", "value", "ci95", "n", "unit"}
        assert row["ci95"][0] <= row["value"] <= row["ci95"][1]
    top = rows["semantic", "top1"]
    assert top["n"] == 24, "rows that are nobody's do not count"
    assert top["value"] == 1.0
    assert rows["semantic", "oos_auroc"]["n"] == 26
    assert rows["random", "top1"]["value"] < rows["nearest_centroid", "top1"]["value"] <= 1.0
    assert rows["reasoning", "shortlist_recall"]["value"] == 1.0
    assert rows["reasoning", "prompt_tokens"]["value"] <= rows["reasoning", "prompt_tokens_full"]["value"]
    assert rows["semantic", "p50_ms"]["unit"] == "ms"
    assert any("semantic" in text for text in said)


async def test_agents_that_are_described_only_need_no_train_rows(data: Path) -> None:
    result = await bench_routing(data, ["desk_descriptions"], ["semantic", "tfidf_lr"])
    assert {r["policy"] for r in result["rows"]} == {"semantic"}, "there is nothing to train a classifier on"
    assert all(not card.examples for card in open_set(data, "desk_descriptions")[0].cards)
    assert open_set(data, "desk_agents_descriptions") == open_set(data, "desk_descriptions")


async def test_rows_that_need_several_agents_are_measured_as_sets(data: Path) -> None:
    result = await bench_routing(data, ["mixed"], ["semantic"])
    rows = {r["metric"]: r for r in result["rows"]}
    assert {"exact_set", "micro_f1", "recall@2", "p50_ms", "p95_ms"} == set(rows)
    assert rows["recall@2"]["value"] <= 1.0
    parts = open_set(data, "mixed")[0].cards
    assert all(card.examples for card in parts if card.id != "unnamed")
    assert not any(" and " in text for card in parts for text in card.examples), "examples are the gold parts"


def test_intents_become_agents_with_the_train_rows_as_examples(data: Path) -> None:
    (exam,) = open_set(data, "desk")
    assert [card.id for card in exam.cards] == ["bill", "parcel", "vpn"]
    assert len(exam.cards[0].examples) == 16
    (agents,) = open_set(data, "desk_agents")
    assert agents.cards[0].description == "Invoices, bills and charges."
    assert agents.cards[0].name == "Billing desk"


def test_a_set_without_train_rows_is_cut_into_five_folds(tmp_path: Path) -> None:
    write(tmp_path / "bare", "public_test", rows_of(ENDS))
    parts = read_set(tmp_path / "bare", "intent")
    assert len(parts) == 5
    asked = [sample.text for part in parts for sample in part.test]
    assert sorted(asked) == sorted(row["text"] for row in rows_of(ENDS))
    assert all(not {s.text for s in p.train} & {s.text for s in p.test} for p in parts)
    assert [p.test for p in parts] == [p.test for p in read_set(tmp_path / "bare", "intent")], (
        "the cut is always the same"
    )
    assert len(open_set(tmp_path, "bare")) == 5


def test_too_few_rows_for_folds_say_so() -> None:
    with pytest.raises(InputError, match="too few for 5 folds"):
        folds([Sample("a", ("x",))] * 4)


def test_a_label_becomes_an_id() -> None:
    assert agent_id("change the/thing?") == "change_the_thing"
    assert agent_id("???") == "unnamed"
    with pytest.raises(InputError, match="give the same id"):
        cards_of([Sample("a", ("x y",)), Sample("b", ("x/y",))])


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ['{"text": "cut off', "[1, 2]", "\xff\xfe"])
def test_a_line_that_is_no_object_is_named_by_file_and_number(tmp_path: Path, line: str) -> None:
    (tmp_path / "public_test.jsonl").write_bytes(b'{"text": "fine"}\n\n' + line.encode("latin-1"))
    with pytest.raises(InputError, match=r"public_test\.jsonl:3: "):
        read_rows(tmp_path, "public_test")


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "public_test.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 50)[:-9])
    with pytest.raises(InputError, match=r"public_test\.jsonl\.gz: cannot be read"):
        read_rows(tmp_path, "public_test")
    (tmp_path / "public_test.jsonl.gz").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"public_test\.jsonl\.gz: cannot be read"):
        read_rows(tmp_path, "public_test")


def test_a_missing_or_empty_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no public_test\.jsonl\.gz or public_test\.jsonl"):
        read_rows(tmp_path, "public_test")
    assert read_rows(tmp_path, "public_train", required=False) == []
    (tmp_path / "public_test.jsonl").write_text("\n")
    with pytest.raises(InputError, match="holds no rows"):
        read_rows(tmp_path, "public_test")


@pytest.mark.parametrize("row", [{"text": 3, "intent": "a"}, {"text": "a"}, {"text": "a", "intent": [1]}])
def test_a_row_without_text_or_label_is_named(tmp_path: Path, row: dict[str, Any]) -> None:
    write(tmp_path, "public_test", [{"text": "fine", "intent": "a"}, row])
    with pytest.raises(InputError, match="public_test, row 2: wants the text"):
        read_set(tmp_path, "intent")


async def test_an_unknown_set_or_router_names_the_nearest(data: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'desk'"):
        await bench_routing(data, ["desks"], ["random"])
    with pytest.raises(UnknownNameError, match="did you mean 'semantic'"):
        await bench_routing(data, ["desk"], ["semantics"])
    with pytest.raises(InputError, match="there is no such folder"):
        await bench_routing(data / "nowhere", ["desk"], ["random"])


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_one_document_and_nothing_else(data: Path) -> None:
    assert callable(door)
    arguments = ["bench", "routing", "--data", str(data), "--set", "desk", "--router", "random", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert {row["policy"] for row in document["rows"]} == {"random"}


def test_the_command_wants_a_folder_of_data() -> None:
    result = CliRunner().invoke(app, ["bench", "routing"])
    assert isinstance(result.exception, InputError)
    assert "--data" in str(result.exception)
