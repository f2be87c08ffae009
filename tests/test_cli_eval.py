"""Commands about routing: eval routes, eval replay, agents overlap."""

import json
from pathlib import Path

import pytest

from agentmesh.project.starter import write_starter

from .cli_kit import Run, runner

SCRIPTED = '{"model": "scripted", "capable": false}'
ROUTES = """
- text: How do I book the laser cutter?
  agents: [bookings]
- text: What does a membership cost?
  agents: [membership]
- text: How do I bake bread?
  expect: out_of_scope
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Calls commands in a new starter project with a file of labelled messages."""
    write_starter(tmp_path / "desk")
    monkeypatch.chdir(tmp_path / "desk")
    Path("routes.yaml").write_text(ROUTES)
    call = runner(monkeypatch, capsys)
    monkeypatch.setenv("AGENTMESH_MODELS__DEFAULT", SCRIPTED)
    return call


def test_the_routers_of_the_project_stand_side_by_side(run: Run) -> None:
    code, out, errors = run("eval", "routes", "routes.yaml", "--router", "semantic, fixed", "--out", "report")
    assert code == 0, errors
    assert "3 messages, 3 agents" in out
    assert "fixed against semantic: exact_set" in out
    assert {path.name for path in Path("report").iterdir()} >= {"routes.html", "routes.md", "routes.json"}


def test_a_value_that_is_missed_ends_with_one_and_says_which(run: Run) -> None:
    command = ("eval", "routes", "routes.yaml", "--router", "fixed", "--json")
    code, out, errors = run(*command, "--fail-under", "recall=0.9")
    assert (code, json.loads(out)["missed"]) == (0, [])
    code, out, errors = run(*command, "--fail-under", "recall=0.9", "--fail-under", "exact_set=0.9")
    assert code == 1
    assert json.loads(out)["missed"] == ["fixed: exact_set is 0, at least 0.9 was wanted"]
    assert "agentmesh: fixed: exact_set is 0, at least 0.9 was wanted" in errors


def test_the_routers_options_are_those_of_the_settings(run: Run) -> None:
    with Path("agentmesh.toml").open("a") as settings:
        settings.write('\n[routing.routers.fixed]\nagents = ["membership"]\n')
    _, out, _ = run("eval", "routes", "routes.yaml", "--router", "fixed", "--json")
    (router,) = json.loads(out)["routers"]
    assert {tuple(w["got"]) for w in router["wrong"]} == {("membership",)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--router", "semantc"), "no router is called 'semantc'; did you mean 'semantic'?"),
        (("--router", ","), "--router names no router"),
        (("--fail-under", "exact=1"), "no metric is called 'exact'; did you mean 'exact_set'?"),
    ],
)
def test_a_wrong_name_is_said_before_anything_is_asked(run: Run, arguments: tuple[str, ...], said: str) -> None:
    code, _, errors = run("eval", "routes", "routes.yaml", *arguments)
    assert code == 2
    assert said in errors


def test_a_mistake_of_the_file_is_one_line_with_its_place(run: Run) -> None:
    Path("routes.yaml").write_text("- text: x\n  agents: [booking]\n")
    code, out, errors = run("eval", "routes", "routes.yaml", "--json")
    assert code == 2
    assert "routes.yaml:2: agents[0]: no agent is called 'booking'; did you mean 'bookings'?" in errors
    assert json.loads(out)["error"]["type"] == "InputError"


def test_recorded_runs_are_decided_again_without_calling_an_agent(run: Run) -> None:
    assert run("run", "What does a membership cost?", "--json")[0] == 0
    traces = {path.name: path.read_bytes() for path in Path(".agentmesh/traces").iterdir()}
    code, out, errors = run("eval", "replay", "all", "--router", "fixed", "--json")
    assert code == 0, errors
    found = json.loads(out)
    (row,) = found["decisions"]
    assert (row["before"]["router"], row["before"]["agents"]) == ("semantic", ["membership"])
    assert (row["after"]["router"], row["after"]["agents"]) == ("fixed", ["bookings", "machines", "membership"])
    assert (row["added"], row["removed"]) == (["bookings", "machines"], [])
    assert found["summary"]["agents_differ"] == 1
    code, out, _ = run("eval", "replay", row["run"][:-2], "--router", "semantic")
    assert code == 0
    assert "1 decisions of 1 runs: 1 the same" in out
    assert {path.name: path.read_bytes() for path in Path(".agentmesh/traces").iterdir()} == traces


def test_a_replay_of_nothing_says_what_to_do(run: Run) -> None:
    code, _, errors = run("eval", "replay", "all", "--router", "fixed")
    assert code == 2
    assert "nothing was recorded yet" in errors


def test_overlap_shows_a_map_and_writes_a_picture(run: Run) -> None:
    code, out, errors = run("agents", "overlap", "--out", "report")
    assert code == 0, errors
    assert "1 bookings" in out
    assert "██" in out or "▓▓" in out
    assert "cards that compete" in out
    assert Path("report/overlap.png").read_bytes().startswith(b"\x89PNG")
    assert Path("report/overlap.md").read_text().startswith("# Overlap of cards")


def test_a_map_that_does_not_fit_the_terminal_shows_who_competes_most(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("agents/machines2.md").write_text(Path("agents/machines.md").read_text())
    monkeypatch.setenv("COLUMNS", "24")
    code, out, errors = run("agents", "overlap")
    assert code == 0, errors
    assert [line[:13].strip() for line in out.splitlines() if line[:4] in ("  1 ", "  2 ")] == [
        "1 machines",
        "2 machines2",
    ]
    assert "the 2 that compete" in out


def test_overlap_as_json_has_the_table_and_the_edits(run: Run) -> None:
    card = Path("agents/machines.md").read_text()
    Path("agents/machines2.md").write_text(card)
    code, out, _ = run("agents", "overlap", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["agents"] == ["bookings", "machines", "machines2", "membership"]
    assert all(sum(row) == pytest.approx(1.0, abs=0.001) for row in found["chance"])
    assert found["rivals"][0]["first"] == "machines"
    assert found["rivals"][0]["second"] == "machines2"
    twice = [m for m in found["misfits"] if m["trouble"] == "twice"]
    assert twice[0]["edits"][0]["file"] in ("agents/machines.md", "agents/machines2.md")


def test_overlap_of_some_agents_leaves_the_others_out(run: Run) -> None:
    found = json.loads(run("agents", "overlap", "--agent", "machines", "--agent", "bookings", "--json")[1])
    assert found["agents"] == ["bookings", "machines"]
    code, _, errors = run("agents", "overlap", "--agent", "machine")
    assert code == 2
    assert "did you mean 'machines'?" in errors
