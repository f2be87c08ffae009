"""The generated library of skills, the time that routing over it takes, and the plots of the benchmark."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentmesh.cli.app import app
from agentmesh.cli.bench_routing import bench_routing as door
from agentmesh.errors import ConfigError, InputError
from agentmesh.evaluation import form
from agentmesh.evaluation.routing_plots import draw_routing
from agentmesh.evaluation.routing_scale import SCALES, measure_scale
from agentmesh.evaluation.skills import MOST_SKILLS, skill_cards, skill_questions
from agentmesh.models import open_embedder


def test_skills_differ_and_those_of_a_small_library_are_in_every_larger_one() -> None:
    cards = skill_cards(3_000)
    assert len({card.id for card in cards}) == 3_000
    assert len({(card.description, card.instructions) for card in cards}) == 3_000
    assert cards[:150] == skill_cards(150)
    assert all(len(card.examples) == 3 and card.instructions for card in cards)
    assert max(SCALES.values()) < MOST_SKILLS
    with pytest.raises(ValueError, match="want 0 to"):
        skill_cards(MOST_SKILLS + 1)


def test_questions_are_about_known_skills_in_other_words_or_about_none() -> None:
    questions = skill_questions(60)
    assert questions == skill_questions(60)
    assert questions[:20] == skill_questions(20)
    cards = {card.id: card for card in skill_cards(150)}
    assert sum(not sample.agents for sample in questions) == 10
    for sample in questions:
        for agent in sample.agents:
            card = cards[agent]
            assert sample.text not in card.examples
            assert card.description.lower() not in sample.text


async def test_speed_is_measured_beside_what_is_found() -> None:
    said: list[str] = []
    found = await measure_scale(
        "tiny", 8, ("semantic", "tfidf", "random"), open_embedder("wordllama"), said.append, questions=12, newcomers=2
    )
    semantic = {row["metric"]: row for row in found["semantic"].rows}
    assert {"top1", "p50_ms", "p95_ms", "onboard_ms", "oos_auroc"} <= semantic.keys()
    assert semantic["onboard_ms"]["n"] == 2
    assert semantic["p50_ms"]["n"] == 12
    assert 0 < semantic["p50_ms"]["value"] <= semantic["p95_ms"]["value"]
    assert {row["metric"]: row["value"] for row in found["tfidf"].rows}["top1"] > 0.5
    assert any("random is left out" in text for text in said)


async def test_a_library_that_no_index_holds_is_said() -> None:
    said: list[str] = []
    found = await measure_scale("vast", 10_001, ("tfidf",), open_embedder("wordllama"), said.append, newcomers=0)
    assert found == {}
    assert "does not hold 10001 cards" in said[0]


def test_every_set_is_drawn_with_its_reliability(tmp_path: Path) -> None:
    rows = [
        form.row("desk", policy, metric, 0.8, unit, 10, (0.7, 0.9))
        for policy in ("semantic", "random")
        for metric, unit in (("top1", "share"), ("hit", "share"), ("p50_ms", "ms"))
    ]
    curves = {"desk": {"semantic": [(0.2, 0.1, 5), (0.9, 0.8, 5)]}, "other": {}}
    written = draw_routing(form.document("routing", rows), curves, tmp_path / "plots")
    names = {path.name for path in written}
    assert names == {
        f"routing-desk{part}.{suffix}" for part in ("", "-reliability", "-p50_ms") for suffix in ("png", "svg")
    }
    assert (tmp_path / "plots" / "routing-desk.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "plots" / "routing-desk-reliability.svg").read_bytes()


def test_a_set_that_reads_a_folder_wants_data() -> None:
    assert callable(door)
    result = CliRunner().invoke(app, ["bench", "routing", "--set", "scale_150", "--set", "nlupp"])
    assert isinstance(result.exception, InputError)
    assert "--data" in str(result.exception)


def test_a_folder_without_known_sets_is_said(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench", "routing", "--data", str(tmp_path)])
    assert isinstance(result.exception, InputError)
    assert "none of the known sets" in str(result.exception)
    assert not isinstance(result.exception, ConfigError)
