"""The command line as a user meets it: what it prints, its exit codes, and one clear line for every mistake."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentmesh import load_mesh
from agentmesh.cli import main
from agentmesh.database import SCHEMA_VERSION, Database

Run = Callable[..., tuple[int, str, str]]

CARD = "---\ndescription: {description}\nexamples: [{examples}]\n---\nAnswer briefly.\n"
AGENTS = {
    "billing": (
        "Explains invoices, refunds and payments.",
        '"Why is my invoice higher?", "When is a refund paid out?"',
    ),
    "vpn": ("Solves trouble with the VPN tunnel.", '"The VPN tunnel drops.", "How long does a VPN session last?"'),
    "kitchen": ("Knows the menu of the canteen.", '"What is for lunch?", "Is there a vegetarian dish?"'),
}
KNOWLEDGE = "# Refunds\n\nAn approved refund is paid out within 14 days.\n\n# VPN\n\nA VPN session lasts 60 minutes.\n"
SCENARIO = """
version: 1
name: desk
agents: "*"
router: {router}
tasks:
  - id: refund
    ask: Within how many days is an approved refund paid out?
    expect: {{agents: [billing], facts: ["{fact}"], outcome: answered}}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "agents").mkdir()
    for name, (description, examples) in AGENTS.items():
        (tmp_path / "agents" / f"{name}.md").write_text(CARD.format(description=description, examples=examples))
    (tmp_path / "memory" / "knowledge").mkdir(parents=True)
    (tmp_path / "memory" / "knowledge" / "desk.md").write_text(KNOWLEDGE)
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios" / "desk.yaml").write_text(SCENARIO.format(router="keyword", fact="14 days"))
    (tmp_path / "agentmesh.toml").write_text(
        '[models.default]\nmodel = "scripted"\ncapable = false\n\n[memory]\nembedder = "scripted"\n'
    )
    return tmp_path


@pytest.fixture
def run(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.chdir(project)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["agentmesh", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, errors = capsys.readouterr()
        return (ended.value.code if isinstance(ended.value.code, int) else 0), out, errors

    return call


def test_a_scenario_runs_and_its_expectations_are_checked(run: Run) -> None:
    code, out, errors = run("run", "desk")
    assert code == 0, out + errors
    for words in ("route", "context", "answer", "14 days", "billing", "expected by the scenario"):
        assert words in out


def test_json_is_one_document_with_the_same_facts(run: Run) -> None:
    code, out, _ = run("run", "desk", "--json")
    document: dict[str, Any] = json.loads(out)
    assert code == 0
    assert document["status"] == "answered"
    assert document["decision"]["chosen"][0]["agent"] == "billing"
    assert "14 days" in document["answer"]["text"]
    assert document["packs"][0]["tokens"] <= document["packs"][0]["budget_tokens"]
    assert document["expect"]["passed"] is True
    assert document["memory_flush_ms"] is not None


def test_an_expectation_that_is_not_met_fails_the_command(run: Run, project: Path) -> None:
    (project / "scenarios" / "desk.yaml").write_text(SCENARIO.format(router="keyword", fact="15 days"))
    code, out, _ = run("run", "desk")
    assert code == 1
    assert "missing: 15 days" in out


def test_a_question_is_asked_as_it_is(run: Run) -> None:
    code, out, _ = run("run", "How long does a VPN session last?", "--router", "keyword", "--stream")
    assert code == 0
    assert "60 minutes" in out


def test_all_tasks_of_a_scenario_can_be_run(run: Run) -> None:
    code, out, _ = run("run", "desk", "--task", "all", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["passed"] == len(document["tasks"]) == 1


def test_runs_are_listed_shown_and_exported(run: Run, project: Path) -> None:
    _, out, _ = run("run", "desk", "--json")
    run_id = json.loads(out)["run_id"]
    assert run_id in run("trace", "list")[1]
    assert json.loads(run("trace", "list", "--json")[1])[0]["run_id"] == run_id
    assert "14 days" in run("trace", "show", run_id)[1]
    assert "route_decided" in run("trace", "show", run_id, "--events")[1]
    exported = run("trace", "export", run_id)[1].splitlines()
    assert json.loads(exported[0])["type"] == "run_started"
    assert run("trace", "export", run_id, "--out", "run.jsonl")[0] == 0
    assert (project / "run.jsonl").read_text().splitlines() == exported


def test_a_thread_goes_on_in_the_next_command(run: Run) -> None:
    run("run", "When is a refund paid out?", "--thread", "t1", "--router", "keyword")
    _, out, _ = run("run", "And how is it paid out?", "--thread", "t1", "--router", "keyword", "--json")
    run_id = json.loads(out)["run_id"]
    events = [json.loads(line) for line in run("trace", "export", run_id)[1].splitlines()]
    assert [m["role"] for m in events[0]["task"]["history"]] == ["user", "assistant"]


def test_check_says_that_all_is_well(run: Run) -> None:
    code, out, _ = run("check")
    assert code == 0
    assert "no mistakes: 3 agents" in out


def test_check_reports_all_mistakes_at_once(run: Run, project: Path) -> None:
    (project / "agents" / "billing.md").write_text("---\ndescripton: x\nrole: solvr\n---\n")
    (project / "scenarios" / "desk.yaml").write_text(SCENARIO.format(router="keywrd", fact="x"))
    code, out, errors = run("check")
    assert code == 2
    assert out == ""
    assert "did you mean 'description'" in errors
    assert "did you mean 'solver'" in errors
    assert "did you mean 'keyword'" in errors
    assert all(line.split(":")[0].endswith((".md", ".yaml")) for line in errors.splitlines()[:-1])
    code, out, _ = run("check", "--json")
    assert code == 2
    assert len(json.loads(out)["mistakes"]) >= 4


def test_agents_and_models_are_listed(run: Run) -> None:
    assert all(name in run("agents", "list")[1] for name in AGENTS)
    assert {c["id"] for c in json.loads(run("agents", "list", "--json")[1])} == set(AGENTS)
    assert json.loads(run("models", "list", "--json")[1])[0]["model"] == "scripted"


def write(text: str | bytes, *path: str) -> Callable[[Path], None]:
    def do(project: Path) -> None:
        file = project.joinpath(*path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)

    return do


def nothing(project: Path) -> None:
    pass


MISTAKES: list[tuple[str, Callable[[Path], None], Sequence[str], int, str]] = [
    ("unknown command", nothing, ("rn",), 2, "no such command 'rn'"),
    ("unknown option", nothing, ("run", "x?", "--modle", "y"), 2, "--model"),
    ("missing argument", nothing, ("run",), 2, "missing argument"),
    ("empty question", nothing, ("run", " "), 2, "the question is empty"),
    ("misspelt scenario", nothing, ("run", "dsk"), 2, "did you mean 'desk'?"),
    ("unknown router", nothing, ("run", "a b?", "--router", "semantc"), 2, "did you mean 'semantic'?"),
    ("unknown model", nothing, ("run", "a b?", "--model", "embeded"), 2, "did you mean 'embedded'?"),
    ("unknown task", nothing, ("run", "desk", "--task", "refnd"), 2, "did you mean 'refund'?"),
    ("a task of a question", nothing, ("run", "a b?", "--task", "1"), 2, "--task needs a scenario"),
    ("unknown run", nothing, ("trace", "show", "nope"), 2, "nothing was recorded yet"),
    ("no such project", nothing, ("check", "--project", "missing"), 2, "there is no such folder"),
    ("long question", nothing, ("run", "why " * 1_250_000), 2, "5,000,000 characters, at most 100,000"),
    ("not UTF-8", nothing, ("run", "caf\udce9 please?"), 2, "not valid UTF-8"),
    ("front matter", write("---\ndescription: [\n---\n", "agents", "bad.md"), ("run", "a b?"), 2, "agents/bad.md"),
    ("bytes", write(b"---\ndescription: \xff\n---\n", "agents", "bad.md"), ("run", "a b?"), 2, "agents/bad.md:2"),
    ("yaml", write("tasks: [\n", "scenarios", "bad.yaml"), ("check",), 2, "scenarios/bad.yaml"),
    ("bad set", nothing, ("bench", "overhead", "--set", "memry"), 2, "did you mean 'memory'?"),
    (
        "empty pool",
        write("version: 1\nname: e\nagents: []\ntasks: []\n", "scenarios", "e.yaml"),
        ("check",),
        2,
        "scenarios/e.yaml",
    ),
    (
        "unbounded loop",
        write(
            "version: 1\nname: l\nagents: '*'\ngraph:\n  stages:\n    - {name: a, kind: dispatch}\n"
            "    - {name: b, kind: refine, after: a}\n  loops: [{after: b, back_to: a, while: needs_another_round, "
            "max_rounds: 0}]\ntasks: []\n",
            "scenarios",
            "l.yaml",
        ),
        ("check",),
        2,
        "scenarios/l.yaml",
    ),
    (
        "home is a file",
        write("x", ".agentmesh"),
        ("run", "refund paid out?", "--router", "keyword"),
        1,
        "set AGENTMESH_HOME",
    ),
    (
        "database is not one",
        write("this is no database, it is a letter to a friend" * 40, ".agentmesh", "mesh.db"),
        ("run", "refund paid out?", "--router", "keyword"),
        1,
        "mesh.db",
    ),
]


@pytest.mark.parametrize(("about", "prepare", "arguments", "expected", "words"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_one_clear_line(
    run: Run,
    project: Path,
    about: str,
    prepare: Callable[[Path], None],
    arguments: Sequence[str],
    expected: int,
    words: str,
) -> None:
    prepare(project)
    code, out, errors = run(*arguments)
    assert code == expected, out + errors
    assert words.lower() in errors.lower()
    assert "Traceback" not in errors
    assert out == ""


def test_the_version_is_printed(run: Run) -> None:
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("agentmesh 0.")


def test_missing_weights_are_said_before_anything_runs(
    run: Run, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "agentmesh.toml").unlink()
    monkeypatch.setenv("AGENTMESH_CACHE", str(tmp_path / "empty"))
    code, _, errors = run("run", "refund paid out?", "--router", "keyword")
    assert code == 1
    assert "agentmesh models pull" in errors
    assert len(errors.strip().splitlines()) == 1


def test_a_database_of_a_newer_version_is_left_alone(run: Run, project: Path) -> None:
    (project / ".agentmesh").mkdir()
    newer = Database(project / ".agentmesh" / "mesh.db", schema_version=SCHEMA_VERSION + 1)
    newer.open()
    newer.close()
    before = (project / ".agentmesh" / "mesh.db").read_bytes()
    code, _, errors = run("run", "refund paid out?", "--router", "keyword")
    assert code == 1
    assert "newer" in errors
    assert (project / ".agentmesh" / "mesh.db").read_bytes() == before


def test_a_second_process_on_the_same_project_works_through_the_first(run: Run, project: Path) -> None:
    with load_mesh(project) as mesh:
        first = mesh.ask_sync("When is a refund paid out?", router="keyword")
        code, out, errors = run("run", "When is a refund paid out?", "--router", "keyword", "--json")
        assert code == 0, errors
        assert json.loads(out)["answer"]["text"] == first.text


def test_a_question_comes_from_standard_input_and_must_be_utf8(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"When is a refund paid out?")))
    code, out, errors = run("run", "-", "--router", "keyword")
    assert code == 0, errors
    assert "14 days" in out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9?")))
    code, _, errors = run("run", "-")
    assert code == 2
    assert "standard input is not UTF-8 (byte 3)" in errors


def test_a_task_without_expectations_that_failed_fails_the_command(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "broken_router.py").write_text(
        "class Broken:\n    name = 'broken'\n    def __init__(self, **options): ...\n"
        "    async def route(self, request, ctx): raise ValueError('oh')\n"
    )
    monkeypatch.syspath_prepend(project)
    scenario = "version: 1\nname: desk\nagents: '*'\ntasks:\n  - {id: t, ask: Why?}\n"
    (project / "scenarios" / "desk.yaml").write_text(scenario)
    assert run("run", "desk", "--router", "keyword")[0] == 0
    code, out, errors = run("run", "desk", "--router", "broken_router:Broken", "--json")
    assert code == 1, out + errors
    assert json.loads(out)["status"] == "failed"


def test_a_limit_on_the_command_line_wins_over_that_of_the_scenario(run: Run, project: Path) -> None:
    scenario = SCENARIO.format(router="keyword", fact="14 days") + "limits: {max_tokens: 100000}\n"
    (project / "scenarios" / "desk.yaml").write_text(scenario)
    _, out, errors = run("run", "desk", "--max-tokens", "0", "--json")
    assert json.loads(out)["stop"]["limit"] == "max_tokens", errors


def test_all_tasks_of_a_scenario_without_tasks_is_a_mistake(run: Run, project: Path) -> None:
    (project / "scenarios" / "desk.yaml").write_text("version: 1\nname: desk\nagents: '*'\ntasks: []\n")
    code, _, errors = run("run", "desk", "--task", "all")
    assert code == 2
    assert "tasks: it has none" in errors


def test_a_reader_that_goes_away_is_no_error_to_complain_about(project: Path) -> None:
    code = "import sys; sys.argv = ['agentmesh', 'agents', 'list', '--json']; from agentmesh.cli import main; main()"
    reads, writes = os.pipe()
    os.close(reads)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with os.fdopen(writes, "wb") as gone:
        ended = subprocess.run(
            [sys.executable, "-c", code], cwd=project, env=environment, stdout=gone, stderr=subprocess.PIPE, timeout=60,
            check=False,
        )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (1, b"")


def test_what_ends_a_command_is_a_document_too_with_json(run: Run) -> None:
    code, out, errors = run("run", "dsk", "--json")
    assert code == 2
    assert json.loads(out)["error"]["type"] == "InputError"
    assert "did you mean 'desk'?" in json.loads(out)["error"]["message"]
    assert len(errors.strip().splitlines()) == 1


def test_control_characters_of_a_question_never_reach_the_terminal(run: Run) -> None:
    code, out, _ = run("run", "When is a refund\x1b[2J\x07 paid \x9bout?", "--router", "keyword")
    assert code == 0
    assert not {"\x1b", "\x07", "\x9b"} & set(out)
    assert "refund[2J paid out?" in out


def test_check_reads_the_knowledge_too(run: Run, project: Path) -> None:
    (project / "memory" / "knowledge" / "bad.md").write_bytes(b"# Page\n\xff\n")
    code, _, errors = run("check")
    assert code == 2
    assert errors.startswith("memory/knowledge/bad.md:2: is not UTF-8")


def test_a_run_in_which_every_agent_fails_is_a_failed_command(run: Run, project: Path) -> None:
    (project / "agentmesh.toml").write_text(
        '[models.default]\nmodel = "openai/x"\napi_key_env = "NO_SUCH_VARIABLE_HERE"\n\n'
        '[memory]\nembedder = "scripted"\n'
    )
    code, out, _ = run("run", "When is a refund paid out?", "--router", "keyword", "--json")
    assert code == 1
    document = json.loads(out)
    assert document["status"] == "failed"
    assert "NO_SUCH_VARIABLE_HERE" in document["replies"][0]["error"]


@pytest.mark.parametrize("closed", ["stdin", "stdout", "stderr"])
def test_a_stream_that_is_closed_is_no_error(project: Path, closed: str) -> None:
    number = {"stdin": 0, "stdout": 1, "stderr": 2}[closed]
    code = (
        f"import os, sys; sys.{closed} = None; os.close({number}); sys.argv = ['agentmesh', *sys.argv[1:]]; "
        "from agentmesh.cli import main; main()"
    )

    def ended(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=project, capture_output=True, timeout=60, check=False,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}, encoding="utf-8",
        )  # fmt: skip
        return done.returncode, done.stderr

    assert ended("schema", "card", "--json") == (0, "")
    assert ended("agents", "show", "nobody")[0] == 2
    if closed == "stdin":
        assert ended("run", "-") == (2, "agentmesh: the question is empty\n")


def test_a_file_that_cannot_be_read_is_not_taken_for_the_output(run: Run, project: Path) -> None:
    run("run", "When is a refund paid out?")
    traces = project / ".agentmesh" / "traces"
    traces.rename(traces.with_name("moved"))
    traces.write_text("no folder")
    code, _, errors = run("trace", "list")
    assert code == 1
    assert ".agentmesh/traces: not a directory; see to that and try again" in errors


def test_a_current_folder_that_is_gone_is_said(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for arguments in (("check",), ("init", "desk")):
        code, out, errors = run(*arguments)
        assert (code, out) == (2, "")
        assert errors == "agentmesh: the current folder is not there any more; go into another one\n"


def test_a_narrow_list_of_runs_has_their_questions(run: Run, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("run", "When is a refund paid out?")
    monkeypatch.setenv("COLUMNS", "80")
    head, row = run("trace", "list")[1].splitlines()
    assert head.split() == ["run", "status", "tokens", "seconds", "question"]
    assert "When is a refund" in row
    monkeypatch.setenv("COLUMNS", "130")
    assert "When is a refund paid out?" in run("trace", "list")[1]


def test_a_status_that_no_run_can_have_is_a_mistake(run: Run) -> None:
    run("run", "When is a refund paid out?")
    code, _, errors = run("trace", "list", "--status", "waitng")
    assert code == 2
    assert "no status is called 'waitng'; did you mean 'waiting'?" in errors
    assert run("trace", "list", "--status", "waiting")[0] == 0


def test_an_endless_standard_input_is_too_large(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/zero").open() as endless:
        monkeypatch.setattr(sys, "stdin", endless)
        code, _, errors = run("run", "-")
    assert code == 2
    assert "standard input is larger than 16 MB" in errors


def test_a_task_is_never_looked_for_by_a_digit_that_is_no_number(run: Run) -> None:
    code, _, errors = run("run", "desk", "--task", "²")
    assert code == 2
    assert "no task is called '²'" in errors
