"""`agentmesh doctor`: what it finds, what it advises, and that nothing makes it stop half-way."""

import json
import os
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentmesh.cli import probes
from agentmesh.cli.probes import EXTRAS, PACKAGES, PROBES, Finding, Scene, State, probe_all
from agentmesh.errors import ModelWeightsError
from agentmesh.project.starter import write_starter

from .cli_kit import Run, runner

ROOT = Path(__file__).parent.parent
SCRIPTED = '[models.default]\nmodel = "scripted"\n\n[memory]\nembedder = "scripted"\n'


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that needs neither weights nor vectors, and we are in it."""
    write_starter(tmp_path / "desk")
    (tmp_path / "desk" / "agentmesh.toml").write_text(SCRIPTED)
    monkeypatch.chdir(tmp_path / "desk")
    return tmp_path / "desk"


@pytest.fixture
def run(desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


def found(run: Run, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit status, and the findings by what they are about."""
    code, out, _ = run("doctor", "--json", *arguments)
    document = json.loads(out)
    assert document["ok"] is (code == 0)
    return code, {f["about"]: f for f in document["findings"]}


def test_a_project_that_runs_has_no_problem(run: Run) -> None:
    code, findings = found(run)
    assert code == 0
    assert findings["project"]["text"].endswith("3 agents, 1 scenario, no mistakes")
    assert findings["model default"]["text"].startswith("scripted, used by 3 agents and the refiner")
    assert {"python", "packages", "embedder", "tokenizer", "state", "disk", "terminal"} <= findings.keys()


def test_it_writes_nothing(run: Run, desk: Path) -> None:
    before = sorted(desk.rglob("*"))
    run("doctor")
    assert sorted(desk.rglob("*")) == before


def test_the_report_says_how_to_mend_a_problem(run: Run, desk: Path) -> None:
    (desk / "agents" / "bad.md").write_text("---\ndescripton: x\n---\n")
    code, out, errors = run("doctor")
    assert (code, errors) == (1, "")
    assert "problem  project" in out
    assert "agents/bad.md" in out
    assert "-> see `agentmesh check`" in out
    assert "1 problem" in out.splitlines()[-1]


def test_a_model_of_an_agent_that_cannot_be_asked_is_a_problem_and_another_one_a_note(run: Run, desk: Path) -> None:
    spare = '\n[models.spare]\nmodel = "gguf:/nowhere/spare.gguf"\n'
    (desk / "agentmesh.toml").write_text(SCRIPTED.replace('"scripted"\n\n', '"gguf:/nowhere/a.gguf"\n\n') + spare)
    code, findings = found(run)
    assert code == 1
    assert findings["model default"]["state"] == "problem"
    assert findings["model default"]["fix"] == "correct the path after `gguf:`"
    assert findings["model spare"]["state"] == "note"
    assert "used by nobody" in findings["model spare"]["text"]


def test_missing_weights_name_the_command_that_fetches_them(
    run: Run, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (desk / "agentmesh.toml").write_text('[memory]\nembedder = "scripted"\n')
    monkeypatch.setenv("AGENTMESH_CACHE", str(tmp_path / "empty"))
    code, findings = found(run)
    assert code == 1
    assert "run `agentmesh models pull embedded`" in findings["model default"]["fix"]


def test_a_key_is_looked_for_and_never_shown(run: Run, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyed = SCRIPTED.replace('"scripted"\n\n', '"openai/gpt-5-mini"\napi_key_env = "DESK_KEY"\n\n')
    (desk / "agentmesh.toml").write_text(keyed)
    code, findings = found(run)
    assert (code, findings["model default"]["fix"]) == (1, "set the environment variable DESK_KEY")
    monkeypatch.setenv("DESK_KEY", "sk-0123456789abcdef")
    code, out, _ = run("doctor")
    assert code == 0
    assert "key in DESK_KEY" in " ".join(out.split())
    assert "0123456789" not in out
    assert "0123456789" not in repr(Scene(desk))


def test_only_online_are_models_asked(run: Run) -> None:
    assert "answered in" not in found(run)[1]["model default"]["text"]
    assert "answered in" in found(run, "--online")[1]["model default"]["text"]


def test_an_embedder_that_cannot_be_loaded_is_a_problem(run: Run, desk: Path) -> None:
    (desk / "agentmesh.toml").write_text(SCRIPTED.replace('embedder = "scripted"', 'embedder = "no.such:Thing"'))
    code, findings = found(run)
    assert code == 1
    assert findings["embedder"]["state"] == "problem"
    assert "no.such" in findings["embedder"]["text"]


def test_a_state_folder_that_cannot_be_written_is_a_problem(
    run: Run, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (desk / "file").write_text("x")
    monkeypatch.setenv("AGENTMESH_HOME", "file/below")
    code, findings = found(run)
    assert code == 1
    assert "set AGENTMESH_HOME to a folder that can be written" in findings["state"]["fix"]
    assert "AGENTMESH_HOME" in findings["environment"]["text"]


def test_without_state_the_disk_does_not_matter(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTMESH_DURABLE", "false")
    monkeypatch.setenv("AGENTMESH_HOME", "/dev/null/x")
    code, findings = found(run)
    assert (code, findings["state"]["text"]) == (0, "durable is false: runs leave nothing on disk")


def test_a_full_disk_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def usage(free: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(1 << 40, 0, free))  # pyright: ignore

    usage(500 << 20)
    assert found(run)[1]["disk"]["text"].startswith("500 MB free")
    usage(1 << 20)
    assert found(run)[0] == 1


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX locks")
@pytest.mark.parametrize("name", ["mesh.db", "checkpoints.db", "chroma/chroma.sqlite3"])
def test_a_damaged_database_is_a_problem_with_what_to_move_away(run: Run, desk: Path, name: str) -> None:
    path = desk / ".agentmesh" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    assert found(run)[0] == 0
    path.write_bytes(b"not SQLite at all")
    code, out, _ = run("doctor", "--json")
    (problem,) = (f for f in json.loads(out)["findings"] if f["state"] == "problem")
    assert code == 1
    assert f"{name} is damaged" in problem["text"]
    assert problem["fix"].startswith("move ")


def test_who_holds_the_memory_is_said(run: Run, desk: Path) -> None:
    import fcntl

    folder = desk / ".agentmesh" / "chroma"
    folder.mkdir(parents=True)
    (folder / "owner.json").write_text(json.dumps({"pid": 4711, "secret": "s3cret"}))
    with (folder / "owner.lock").open("wb") as lock:
        assert "memory" not in found(run)[1]
        fcntl.flock(lock, fcntl.LOCK_EX)
        text = found(run)[1]["memory"]["text"]
    assert "process 4711 owns the memory" in text
    assert "s3cret" not in text


def test_outside_of_a_project_the_machine_is_looked_at(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setenv("AGENTMESH_MODEL", "scripted")
    monkeypatch.setenv("AGENTMESH_MEMORY__EMBEDDER", "scripted")
    code, findings = found(run)
    assert (code, findings["project"]["state"]) == (0, "note")
    assert "agentmesh init DIR" in findings["project"]["fix"]


def test_broken_settings_stop_no_probe(run: Run, desk: Path) -> None:
    (desk / "agentmesh.toml").write_bytes(b"\xff[[[ home = 3")
    code, findings = found(run)
    assert code == 1
    assert {"project", "model default", "embedder", "tokenizer", "state", "terminal"} <= findings.keys()


def test_a_probe_that_fails_is_a_finding_and_the_next_one_runs(desk: Path) -> None:
    def bursts(scene: Scene) -> Iterator[Finding]:
        yield Finding("first", State.OK, "well")
        raise RuntimeError("oh")

    def fails(scene: Scene) -> Iterator[Finding]:
        raise ModelWeightsError("no weights; pull them")

    def works(scene: Scene) -> Iterator[Finding]:
        yield Finding("last", State.OK, "well")

    findings = list(probe_all(Scene(desk), {"a": bursts, "b": fails, "c": works}))
    assert [(f.about, f.state) for f in findings] == [
        ("first", State.OK),
        ("a", State.PROBLEM),
        ("b", State.PROBLEM),
        ("last", State.OK),
    ]
    assert "RuntimeError: oh" in findings[1].text
    assert "no weights; pull them" in findings[2].text


@pytest.mark.parametrize("about", PROBES)
def test_no_probe_raises_whatever_it_finds(about: str, tmp_path: Path) -> None:
    """A folder that is not there, and an environment of nonsense."""
    environ = {"AGENTMESH_HOME": "\0", "AGENTMESH_MODELS__DEFAULT": "{", "AGENTMESH_MEMORY__EMBEDDER": "nobody"}
    findings = list(probe_all(Scene(tmp_path / "gone", environ), {about: PROBES[about]}))
    assert findings
    assert all(f.fix for f in findings if f.state is not State.OK)


def test_a_missing_package_says_what_would_fail(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"litellm": "1.82.7", "networkx": None, "matplotlib": None}
    monkeypatch.setattr(probes, "_version", lambda name: versions.get(name, "1.0"))  # pyright: ignore[reportUnknownArgumentType, reportUnknownLambdaType]
    findings = {f.about: f for name in ("packages", "extras") for f in PROBES[name](Scene(desk))}
    assert findings["networkx"].state is State.PROBLEM
    assert "checks and drawings of graphs would fail" in findings["networkx"].text
    assert "malicious" in findings["litellm"].text
    assert findings["extra plots"].state is State.NOTE
    assert findings["extra plots"].fix == "pip install 'agentmesh[plots]'"


def test_the_packages_it_looks_for_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(lines: list[str]) -> set[str]:
        return {line.split(">")[0].split("=")[0].split("[")[0].strip() for line in lines}

    assert names(project["dependencies"]) == PACKAGES.keys()
    extras = {name: names(lines) for name, lines in project["optional-dependencies"].items() if name != "dev"}
    assert extras == {name: set(packages) for name, packages in EXTRAS.items()}


def test_a_terminal_that_is_not_utf8_is_a_note(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (desk / "out").open("w", encoding="latin-1") as out:
        monkeypatch.setattr(sys, "stdout", out)
        (finding,) = PROBES["terminal"](Scene(desk))
    assert (finding.state, "PYTHONUTF8=1" in finding.fix) == (State.NOTE, True)


def test_control_characters_of_file_names_never_reach_the_terminal(run: Run, desk: Path) -> None:
    (desk / "agents" / "a\x1b[2J.md").write_text("x")
    _, out, _ = run("doctor")
    assert "\x1b" not in out


def test_a_folder_that_is_not_there_is_a_mistake_of_the_command(run: Run) -> None:
    code, out, errors = run("doctor", "--project", "nowhere")
    assert (code, out) == (2, "")
    assert "--project nowhere: there is no such folder" in errors


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_a_problem(run: Run, desk: Path) -> None:
    (desk / ".agentmesh").mkdir(mode=0o555)
    assert found(run)[0] == 1
