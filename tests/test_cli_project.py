"""Commands that write and draw a project's files: init, agents add | remove | show, graph, schema, completion."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentmesh.cli import completion as offered
from agentmesh.errors import InputError, ProjectError
from agentmesh.project.cards import add_card, card_text
from agentmesh.project.frontmatter import split_front_matter
from agentmesh.project.loader import UNCHECKED, load_project
from agentmesh.project.schema import json_schemas
from agentmesh.project.starter import SCENARIO, write_starter
from agentmesh.routing import routers

from .cli_kit import Run, runner

SCRIPTED = '{"model": "scripted", "capable": false}'
ROOT = Path(__file__).parent.parent
AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capsys)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> Path:
    """A starter project, and we are in it."""
    write_starter(tmp_path / "desk")
    monkeypatch.chdir(tmp_path / "desk")
    return tmp_path / "desk"


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- init -------------------------------------------------------------------------------------------------------------


def test_a_new_project_runs_and_meets_all_its_expectations(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, errors = run("init", "desk")
    assert (code, errors) == (0, "")
    assert f"agentmesh run {SCENARIO}" in out
    monkeypatch.chdir(tmp_path / "desk")
    assert run("check")[:2] == (0, "no mistakes: 3 agents, 1 role, 1 scenario with 4 tasks\n")
    monkeypatch.setenv("AGENTMESH_MODELS__DEFAULT", SCRIPTED)
    code, out, errors = run("run", SCENARIO, "--task", "all", "--json")
    document = json.loads(out)
    assert (code, document["passed"], len(document["tasks"])) == (0, 4, 4), errors


def test_a_new_project_has_the_name_of_its_folder_or_the_one_given(run: Run, tmp_path: Path) -> None:
    run("init", "my desk")
    assert (tmp_path / "my desk" / "README.md").read_text().startswith("# my desk\n")
    run("init", "b", "--name", "The  Desk:\tNo. 1 — “ü”")
    assert (tmp_path / "b" / "README.md").read_text().startswith("# The Desk: No. 1 — “ü”\n")
    assert "{{" not in b"".join(contents(tmp_path / "b").values()).decode()


def test_state_of_a_new_project_is_kept_out_of_version_control(desk: Path) -> None:
    assert ".agentmesh/" in (desk / ".gitignore").read_text().splitlines()


def test_init_into_a_folder_that_is_not_empty_names_what_is_there_and_writes_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for n in range(6):
        (tmp_path / "old" / f"f{n}.txt").write_text("x")
    code, out, errors = run("init", "old")
    assert (code, out) == (2, "")
    assert "old is not empty (f0.txt, f1.txt, f2.txt, f3.txt and 2 more)" in errors
    assert len(contents(tmp_path / "old")) == 6


def test_force_adds_what_a_folder_lacks_and_overwrites_nothing(run: Run, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    (old / "README.md").write_text("mine")
    (old / ".gitignore").write_text("*.pyc\n")
    (old / "pyproject.toml").write_text('[project]\nname = "x"\n')
    code, out, _ = run("init", "old", "--force", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["kept"] == [".gitignore", "README.md"]
    assert {"agents/machines.md", "agentmesh.toml"} <= set(document["written"])
    assert (old / "README.md").read_text() == "mine"
    assert run("check", "--project", "old")[0] == 0


def test_init_does_not_hide_settings_that_a_pyproject_holds(run: Run, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.agentmesh.routing]\nmax_agents = 2\n")
    code, _, errors = run("init", ".", "--force")
    assert code == 0, errors
    assert not (tmp_path / "agentmesh.toml").exists()
    assert load_project(tmp_path).settings.routing.max_agents == 2


def test_a_git_folder_alone_is_not_in_the_way(run: Run, tmp_path: Path) -> None:
    (tmp_path / "fresh" / ".git").mkdir(parents=True)
    assert run("init", "fresh")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("init",), "missing argument 'DIR'"),
        (("init", "file"), "file is a file, or lies below one; name a folder"),
        (("init", "file/below"), "is a file, or lies below one"),
        (("init", "desk"), "is a mesh project already; add to it with `agentmesh agents add ID`"),
        (("init", "desk", "--force"), "is a mesh project already"),
        (("init", "new", "--name", " \n"), "--name must be 1 to 80 characters on one line"),
        (("init", "new", "--name", "x" * 81), "--name must be"),
        (("init", "new", "--name", "a\x1bb"), "--name must be"),
        (("init", "x" * 300), "file name too long"),
        (("init", "new", "--nam", "x"), "--name"),
    ],
)
def test_init_says_in_one_line_what_is_wrong(run: Run, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    (tmp_path / "file").write_text("x")
    write_starter(tmp_path / "desk")
    before = contents(tmp_path)
    code, out, errors = run(*arguments)
    assert (code, out) == (2, "")
    assert words in errors
    assert len(errors.splitlines()) == 1
    assert contents(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_init_takes_back_what_it_wrote_where_one_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "memory").write_text("a file where a folder must go")
    with pytest.raises(InputError, match="memory"):
        write_starter(tmp_path, force=True)
    assert set(contents(tmp_path)) == {"memory"}


@pytest.mark.skipif(AS_ROOT, reason="root may write everywhere")
def test_init_into_a_folder_without_the_right_to_write_says_so(run: Run, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    code, _, errors = run("init", "locked/new")
    assert code == 2
    assert "cannot be written (permission denied); name a folder that you may write to" in errors


def test_the_wheel_takes_the_starter_project_along() -> None:
    """hatch takes every file below the package that version control does not ignore."""
    folder = ROOT / "agentmesh" / "project" / "templates" / "starter"
    ignored = (ROOT / ".gitignore").read_text().split()
    assert not any(part.strip("/") in (p.name for p in folder.rglob("*")) for part in ignored)
    assert (folder / "gitignore").is_file()


# --- agents add, show, remove -----------------------------------------------------------------------------------------


def test_a_card_is_added_and_everything_else_stays_as_it_is(run: Run, desk: Path) -> None:
    before = contents(desk)
    code, out, errors = run("agents", "add", "tools", "--description", "Lends hand tools.", "--example", "A drill?")
    assert (code, out, errors) == (0, "added agents/tools.md\n", "")
    after = contents(desk)
    assert after.pop("agents/tools.md").startswith(b"---\ndescription: Lends hand tools.\n")
    assert after == before
    assert run("check")[0] == 0
    assert run("agents", "remove", "tools")[:2] == (0, "removed agents/tools.md\n")
    assert contents(desk) == before


def test_what_a_card_is_given_is_what_the_mesh_reads(run: Run, desk: Path) -> None:
    description = 'Repairs: "tools", it\'s #1 & {all} — naïve 工具 🔧 [x] *y | >z %w @v `u` ---'
    code, _, errors = run(
        "agents", "add", "repairs", "--description", description, "--name", "no", "--example", "- a: b", "--example",
        "yes", "--not-for", "# c", "--instructions", "---\nBe kind.\n---",
    )  # fmt: skip
    assert code == 0, errors
    card = next(c for c in load_project(desk).cards if c.id == "repairs")
    assert (card.description, card.name) == (description, "no")
    assert (card.examples, card.not_for) == (("- a: b", "yes"), ("# c",))
    assert card.instructions == "---\nBe kind.\n---"


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(TEXT.filter(str.strip), st.lists(TEXT, max_size=3))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_text_survives_being_written_into_a_card(description: str, examples: list[str]) -> None:
    document = split_front_matter(card_text(description, examples=examples).encode(), "agents/a.md")
    assert document.mistakes == ()
    assert document.values["description"] == description
    assert document.values.get("examples", []) == examples


def test_a_whole_card_is_taken_as_it_is(run: Run, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = b"\xef\xbb\xbf---\r\ndescription: Says hello.   # greeting\r\n---\r\nSay hello.\r\n"
    (desk / "hello.txt").write_bytes(card)
    assert run("agents", "add", "hello", "--from", "hello.txt")[0] == 0
    assert (desk / "agents" / "hello.md").read_bytes() == card


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("add", "my desk!", "--description", "x"), "did you mean 'my-desk'?"),
        (("add", "../x", "--description", "x"), "cannot be an id; use letters"),
        (("add", "-x", "--description", "x"), "no such option"),
        (("add", "", "--description", "x"), "'' cannot be an id"),
        (("add", "ü" * 90, "--description", "x"), "cannot be an id"),
        (("add", "README", "--description", "x"), "cannot be an id"),
        (("add", "Bookings", "--description", "x"), "the agent 'bookings' exists"),
        (("add", "x"), "a card needs a description"),
        (("add", "x", "--description", " "), "a card needs a description"),
        (("add", "x", "--description", "x", "--role", "solvr"), "did you mean 'solver'?"),
        (("add", "x", "--description", "x", "--model", "embeded"), "did you mean 'embedded'?"),
        (("add", "x", "--description", "x" * 300_000), "a card has at most 256 KB"),
        (("add", "x", "--from", "missing.md"), "--from missing.md: cannot be read (no such file or directory)"),
        (("add", "x", "--from", "README.md"), "the front matter is missing"),
        (("add", "x", "--from", "agents/bookings.md", "--role", "solver"), "--from takes a whole card as it is"),
        (("add", "x", "--descriptin", "x"), "--description"),
        (("show", "bokings"), "did you mean 'bookings'?"),
        (("remove", "bokings"), "did you mean 'bookings'?"),
        (("remove", "../../x"), "no agent is called '../../x'"),
        (("remove", "bookings"), "'bookings' is named in scenarios/workshop.yaml (line 12); take it out there first"),
        (("ad", "x"), "no such command 'ad'"),
    ],
)
def test_a_mistake_with_agents_is_said_and_changes_nothing(
    run: Run, desk: Path, arguments: tuple[str, ...], words: str
) -> None:
    before = contents(desk)
    code, out, errors = run("agents", *arguments)
    assert (code, out) == (2, "")
    assert words.lower() in errors.lower()
    assert contents(desk) == before


def test_an_agent_that_a_budget_names_is_not_removed(run: Run, desk: Path) -> None:
    run("agents", "add", "tools", "--description", "Lends hand tools.")
    with (desk / "agentmesh.toml").open("a") as file:
        file.write("\n[budgets.agents.tools]\nmax_usd = 1\n")
    code, _, errors = run("agents", "remove", "tools")
    assert code == 2
    assert "'tools' is named in agentmesh.toml (budgets.agents.tools)" in errors
    code, out, _ = run("agents", "remove", "tools", "--force", "--json")
    document = json.loads(out)
    assert (code, document["removed"]) == (0, "tools")
    assert "no agent is called 'tools'" in document["mistakes"][0]


def test_the_only_agent_is_not_removed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "a.md").write_text("---\ndescription: x\n---\n")
    code, _, errors = run("agents", "remove", "a")
    assert (code, "'a' is the only agent of the project" in errors) == (2, True)


def test_mistakes_elsewhere_do_not_keep_a_card_out_and_are_said(run: Run, desk: Path) -> None:
    (desk / "agents" / "bad.md").write_text("---\ndescription: [\n---\n")
    code, out, errors = run("agents", "add", "tools", "--description", "Lends hand tools.")
    assert (code, out) == (0, "added agents/tools.md\n")
    assert errors.startswith("agentmesh: agents/bad.md")
    assert run("agents", "remove", "bad")[0] == 0


def test_a_folder_that_is_no_project_gets_no_card(run: Run, tmp_path: Path) -> None:
    code, _, errors = run("agents", "add", "x", "--description", "x")
    assert code == 2
    assert "there is no mesh project here; write one with `agentmesh init DIR`" in errors
    assert contents(tmp_path) == {}
    assert run("agents", "add", "x", "--description", "x", "--project", ".")[0] == 0


def test_a_card_with_a_mistake_is_never_on_disk(tmp_path: Path) -> None:
    write_starter(tmp_path / "desk")
    with pytest.raises(ProjectError, match=r"agents/x\.md:2: role: no role is called 'solvr'"):
        add_card(tmp_path / "desk", "x", b"---\nrole: solvr\ndescription: x\n---\n", known=UNCHECKED, environ={})
    assert not (tmp_path / "desk" / "agents" / "x.md").exists()


def test_one_agent_is_shown(run: Run, desk: Path) -> None:
    out = run("agents", "show", "bookings")[1]
    assert "Booking desk" in out
    assert "How long is one booking slot?" in out
    assert json.loads(run("agents", "show", "bookings", "--json")[1])["id"] == "bookings"


# --- graph ------------------------------------------------------------------------------------------------------------


def test_a_graph_is_mermaid_text_unless_said_otherwise(run: Run, desk: Path) -> None:
    assert run("graph")[1].startswith("flowchart LR\n")
    assert run("graph", SCENARIO)[1] == run("graph", SCENARIO, "--format", "mermaid")[1]
    assert run("graph", SCENARIO, "--format", "dot")[1].startswith('digraph "workshop" {')


@pytest.mark.parametrize(
    ("name", "begins"),
    [("g.svg", b"<svg "), ("g.png", b"\x89PNG"), ("g.dot", b"digraph "), ("g.GV", b"digraph "), ("g.md", b"flowchart")],
)
def test_a_graph_has_the_form_that_its_file_name_asks_for(run: Run, desk: Path, name: str, begins: bytes) -> None:
    code, out, errors = run("graph", SCENARIO, "--out", name)
    assert (code, out, errors) == (0, f"{name}\n", "")
    assert (desk / name).read_bytes().startswith(begins)


def test_the_format_that_is_said_wins_over_the_file_name(run: Run, desk: Path) -> None:
    run("graph", "--format", "svg", "--out", "g.txt")
    assert ElementTree.parse(desk / "g.txt").getroot().tag.endswith("svg")


def test_a_graph_as_json_is_its_spec(run: Run, desk: Path) -> None:
    document = json.loads(run("graph", SCENARIO, "--json")[1])
    assert document["graph"]["stages"][0]["name"] == "route"
    assert document["mermaid"].startswith("flowchart")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("graph", "workshp"), "no scenario is called 'workshp'; did you mean 'workshop'?"),
        (("graph", "--format", "gif"), "'gif' is not one of 'mermaid', 'dot', 'svg', 'png'"),
        (("graph", "--out", "nowhere/g.svg"), "cannot be written (No such file or directory); choose another --out"),
        (("graph", "--out", "."), "cannot be written (Is a directory)"),
        (("schema", "crd"), "no schema is called 'crd'; did you mean 'card'?"),
        (("schema", "--out", "README.md"), "cannot be written"),
        (("completion", "tcsh"), "'tcsh' is not one of 'bash', 'zsh', 'fish', 'powershell'"),
    ],
)
def test_a_mistake_with_graphs_and_schemas_is_one_line(
    run: Run, desk: Path, arguments: tuple[str, ...], words: str
) -> None:
    code, out, errors = run(*arguments)
    assert (code, out) == (2, "")
    assert words in errors
    assert len(errors.splitlines()) == 1


# --- schema -----------------------------------------------------------------------------------------------------------


def test_schemas_are_printed_and_written(run: Run, tmp_path: Path) -> None:
    assert json.loads(run("schema", "card")[1]) == json_schemas()["card"]
    assert json.loads(run("schema")[1]).keys() == json_schemas().keys()
    code, out, _ = run("schema", "--out", "a/b")
    assert (code, len(out.splitlines())) == (0, 4)
    assert json.loads((tmp_path / "a" / "b" / "roles.schema.json").read_text()) == json_schemas()["roles"]


# --- completion -------------------------------------------------------------------------------------------------------


def tab(*words: str, cwd: Path) -> list[str]:
    """What bash would offer behind the last of these words."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "_AGENTMESH_COMPLETE": "complete_bash"}
    environment |= {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    code = "import sys; sys.argv = ['agentmesh']; from agentmesh.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_tab_offers_commands_and_names_of_the_project(desk: Path) -> None:
    (desk / ".agentmesh" / "traces").mkdir(parents=True)
    (desk / ".agentmesh" / "traces" / "r1234.jsonl").write_text("{}\n")
    assert tab("agentmesh", "sch", cwd=desk) == ["schema"]
    assert tab("agentmesh", "agents", "show", "m", cwd=desk) == ["machines", "membership"]
    assert tab("agentmesh", "graph", "w", cwd=desk / "agents") == ["workshop"]
    assert tab("agentmesh", "trace", "show", "r", cwd=desk) == ["r1234"]


def test_tab_is_silent_where_there_is_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios" / "bad.yaml").write_bytes(b"name: \xff\n")
    (tmp_path / "agentmesh.toml").write_text("[[[")
    assert tab("agentmesh", "graph", "b", cwd=tmp_path) == []
    assert tab("agentmesh", "trace", "show", "r", cwd=tmp_path) == []


def test_the_routers_that_are_offered_are_those_there_are() -> None:
    assert offered.router_names() == routers.names()


def test_scripts_of_every_shell_ask_the_command(run: Run) -> None:
    for shell in offered.Shell:
        code, out, _ = run("completion", shell.value)
        assert code == 0
        assert re.search(r"_AGENTMESH_COMPLETE\b.*complete_?", out)
    assert "_AMESH_COMPLETE" in run("completion", "bash", "--command", "amesh")[1]


def test_help_and_completion_load_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['agentmesh', '--help']\nfrom agentmesh.cli import main\ntry: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'pydantic', 'numpy', 'networkx', 'langgraph', 'litellm', 'chromadb'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


# --- what is on the disk stays whole ----------------------------------------------------------------------------------


def without_room(folder: Path, *arguments: str) -> tuple[int, str]:
    """The command, in a process whose files may not grow beyond 16 bytes: as on a disk that is full."""
    code = (
        "import resource, sys; sys.argv = ['agentmesh', *sys.argv[1:]]; from agentmesh.cli import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16)); main()"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, *arguments], cwd=folder, capture_output=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, encoding="utf-8",
    )  # fmt: skip
    return done.returncode, done.stderr


def test_a_card_that_has_no_room_leaves_nothing_behind(desk: Path) -> None:
    before = contents(desk)
    code, errors = without_room(desk, "agents", "add", "tools", "--description", "Lends hand tools.")
    assert code == 2
    assert "agents/tools.md cannot be written (file too large)" in errors
    assert contents(desk) == before


def test_an_older_picture_survives_one_that_has_no_room(desk: Path) -> None:
    (desk / "g.svg").write_text("older")
    before = contents(desk)
    code, errors = without_room(desk, "graph", "--out", "g.svg")
    assert code == 2
    assert "g.svg: cannot be written (File too large); choose another --out" in errors
    assert contents(desk) == before


def test_a_picture_goes_through_a_link_to_where_it_leads(run: Run, desk: Path) -> None:
    (desk / "real.svg").write_text("older")
    (desk / "g.svg").symlink_to("real.svg")
    assert run("graph", "--out", "g.svg")[0] == 0
    assert (desk / "g.svg").is_symlink()
    assert (desk / "real.svg").read_text().startswith("<svg")


@pytest.mark.parametrize("bench", ["joint", "overhead"])
def test_a_folder_for_plots_that_cannot_be_made_is_said_before_anything_is_measured(
    run: Run, desk: Path, bench: str
) -> None:
    code, out, errors = run("bench", bench, "--out", "README.md")
    assert (code, out) == (2, "")
    assert errors == "agentmesh: README.md is a file; name a folder with --out\n"


def test_a_card_that_never_ends_is_too_large(run: Run, desk: Path) -> None:
    code, _, errors = run("agents", "add", "x", "--from", "/dev/zero")
    assert code == 2
    assert "a card has at most 256 KB" in errors


def test_an_option_that_is_not_utf8_is_said_as_such(run: Run, desk: Path) -> None:
    code, _, errors = run("agents", "add", "x", "--description", "caf\udce9")
    assert code == 2
    assert errors == "agentmesh: an option is not valid UTF-8; set the terminal to UTF-8\n"


def test_the_way_into_a_folder_that_looks_like_an_option_is_said_so_that_a_shell_takes_it(
    run: Run, tmp_path: Path
) -> None:
    assert "cd ./-x\n" in run("init", "--", "-x")[1]
