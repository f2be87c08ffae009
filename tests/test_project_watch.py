"""What a look at a project's cards finds since the last one."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agentmesh.mistakes import Mistake
from agentmesh.project.loader import KnownNames, load_project, stamps_of
from agentmesh.project.watch import MANY_EVERY_S, CardFolder, CardsFound

VPN = "---\ndescription: Solves VPN trouble.\n---\nYou know tunnels.\n"
BILLING = "---\ndescription: Explains invoices.\n---\nYou know invoices.\n"

Write = Callable[[str, str | None], None]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes `agents/<name>`, or takes it away."""

    def write(name: str, text: str | None) -> None:
        path = tmp_path / "agents" / name
        if text is None:
            path.unlink()
            return
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")

    return write


def folder_of(tmp_path: Path) -> CardFolder:
    return CardFolder(load_project(tmp_path), settled_s=0.0)


def test_nothing_changed_is_nothing_found(tmp_path: Path, write: Write) -> None:
    write("vpn.md", VPN)
    folder = folder_of(tmp_path)
    assert folder.look() is None
    write("notes.txt", "no card")
    write("README.md", "no card")
    write(".draft.md", "no card")
    assert folder.look() is None


def test_a_card_that_comes_changes_or_goes_is_found_once(tmp_path: Path, write: Write) -> None:
    write("vpn.md", VPN)
    folder = folder_of(tmp_path)
    write("billing.md", BILLING)
    found = folder.look()
    assert found is not None
    assert (found.cards["billing"].description, found.removed, found.mistakes) == ("Explains invoices.", (), ())
    assert folder.look() is None
    write("vpn.md", VPN.replace("trouble", "problems"))
    found = folder.look()
    assert found is not None
    assert {id_: card.description for id_, card in found.cards.items()} == {"vpn": "Solves VPN problems."}
    write("vpn.md", None)
    assert folder.look() == CardsFound({}, ("vpn",))
    assert folder.look() is None


def test_a_file_that_only_looks_newer_is_no_change(tmp_path: Path, write: Write) -> None:
    write("vpn.md", VPN)
    folder = folder_of(tmp_path)
    write("vpn.md", None)
    write("vpn.md", VPN)
    assert folder.look() is None


def test_a_change_of_the_same_length_within_one_tick_of_the_clock_is_found(tmp_path: Path, write: Write) -> None:
    write("vpn.md", VPN)
    path = tmp_path / "agents" / "vpn.md"
    project = load_project(tmp_path)
    stamp = stamps_of(path.parent)["vpn.md"]
    path.write_text(VPN.replace("VPN", "vpn"), encoding="utf-8")
    # as if the clock of the file system had not gone on since the card was read
    same = {"vpn.md": stamps_of(path.parent)["vpn.md"]}
    frozen = CardFolder(replace(project, stamps=same, read_at=stamp.written_s), settled_s=0.001)
    found = frozen.look()
    assert found is not None
    assert found.cards["vpn"].description == "Solves vpn trouble."


def test_a_look_waits_until_a_file_is_wholly_written(tmp_path: Path, write: Write) -> None:
    write("vpn.md", VPN)
    folder = CardFolder(load_project(tmp_path), settled_s=0.02)
    (tmp_path / "agents" / "billing.md").write_text(BILLING, encoding="utf-8")
    began = time.monotonic()
    found = folder.look()
    assert found is not None
    assert "billing" in found.cards
    assert 0.005 < time.monotonic() - began < 5


def test_a_broken_card_leaves_what_was_known_and_says_what_is_wrong_once(tmp_path: Path, write: Write) -> None:
    write("vpn.md", VPN)
    folder = folder_of(tmp_path)
    write("vpn.md", "---\ndescription: Solves it.\nexample: [It drops.]\n---\n")
    mistake = "agents/vpn.md:3: example: unknown key; did you mean 'examples'?"
    assert folder.look() == CardsFound({}, (), (mistake,))
    assert folder.look() is None
    write("billing.md", BILLING)
    found = folder.look()
    assert found is not None
    assert (list(found.cards), found.mistakes) == (["billing"], ())
    write("vpn.md", VPN.replace("trouble", "problems"))
    found = folder.look()
    assert found is not None
    assert found.cards["vpn"].description == "Solves VPN problems."


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("---\ndescription: Solves", "never closed"),
        ("---\nexamples: [", "never closed"),
        ("---\ndescription: ''\n---\n", "description"),
        ("---\ndescription: '?!'\n---\n", "holds no words"),
        ("---\ndescription: It.\nrole: solvr\n---\n", "did you mean 'solver'?"),
        ("---\ndescription: It.\ntools: [shop]\n---\n", "no tool server is called 'shop'"),
        ("---\ndescription: It.\nmodel: defualt\n---\n", "did you mean 'default'?"),
    ],
    ids=["empty", "cut off", "cut off in a list", "no description", "no words", "role", "tool", "model"],
)
def test_each_mistake_of_a_card_names_its_file_and_leaves_the_old_card(
    text: str, words: str, tmp_path: Path, write: Write
) -> None:
    write("vpn.md", VPN)
    folder = folder_of(tmp_path)
    write("vpn.md", text)
    found = folder.look()
    assert found is not None
    assert (found.cards, found.removed) == ({}, ())
    assert found.mistakes[0].startswith("agents/vpn.md")
    assert words in " ".join(found.mistakes)


def test_names_are_those_that_the_project_began_with(tmp_path: Path, write: Write) -> None:
    write("vpn.md", VPN)
    folder = folder_of(tmp_path)
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "roles.yaml").write_text("checker: {}\n", encoding="utf-8")
    write("billing.md", "---\ndescription: It.\nrole: checker\n---\n")
    found = folder.look()
    assert found is not None
    assert "the mesh began with; restart it" in found.mistakes[0]


def test_two_files_of_one_id_leave_the_one_that_was_there(tmp_path: Path, write: Write) -> None:
    write("vpn.md", VPN)
    if (tmp_path / "agents" / "VPN.md").exists():
        pytest.skip("this file system takes both names for one")
    folder = folder_of(tmp_path)
    write("VPN.md", BILLING)
    found = folder.look()
    assert found is not None
    assert (found.cards, found.removed) == ({}, ())
    assert found.mistakes == (
        "agents/VPN.md: has the same id as agents/vpn.md but for capital letters; rename one",
    )  # fmt: skip
    write("vpn.md", None)
    found = folder.look()
    assert found is not None
    assert (list(found.cards), found.removed, found.mistakes) == (["VPN"], ("vpn",), ())


def test_a_folder_that_is_empty_or_gone_keeps_its_agents_until_a_card_is_back(tmp_path: Path, write: Write) -> None:
    write("vpn.md", VPN)
    folder = folder_of(tmp_path)
    write("vpn.md", None)
    found = folder.look()
    assert found is not None
    assert found.removed == ()
    assert "no agent is here any more, so those that were stay" in found.mistakes[0]
    (tmp_path / "agents").rmdir()
    assert folder.look() is None
    write("billing.md", BILLING)
    found = folder.look()
    assert found is not None
    assert (list(found.cards), found.removed) == (["billing"], ("vpn",))


def test_the_only_good_card_stays_beside_broken_ones(tmp_path: Path, write: Write) -> None:
    write("vpn.md", VPN)
    folder = folder_of(tmp_path)
    write("vpn.md", None)
    write("billing.md", "broken")
    found = folder.look()
    assert found is not None
    assert found.removed == ()
    write("billing.md", BILLING)
    found = folder.look()
    assert found is not None
    assert (list(found.cards), found.removed) == (["billing"], ("vpn",))


def test_a_thing_of_a_cards_name_that_is_none_is_no_crash(tmp_path: Path, write: Write) -> None:
    write("vpn.md", VPN)
    folder = folder_of(tmp_path)
    (tmp_path / "agents" / "box.md").mkdir()
    (tmp_path / "agents" / "lost.md").symlink_to(tmp_path / "nowhere")
    assert folder.look() is None
    write("not an id.md", VPN)
    found = folder.look()
    assert found is not None
    assert "its name cannot be an id" in found.mistakes[0]


def test_known_names_of_models_are_asked(tmp_path: Path, write: Write) -> None:
    def check_model(model: str) -> None:
        from agentmesh.errors import ConfigError

        if not model.startswith("openai/"):
            raise ConfigError(f"{model!r} is no model")

    write("vpn.md", VPN)
    folder = CardFolder(load_project(tmp_path), known=KnownNames(check_model=check_model), settled_s=0.0)
    write("a.md", "---\ndescription: It.\nmodel: openai/gpt-5-mini\n---\n")
    write("b.md", "---\ndescription: It.\nmodel: acme/x\n---\n")
    found = folder.look()
    assert found is not None
    assert list(found.cards) == ["a"]
    assert str(Mistake("agents/b.md", 3, "model", "'acme/x' is no model")) in found.mistakes[0]


def test_a_large_folder_is_not_looked_at_for_each_question(tmp_path: Path, write: Write) -> None:
    write("vpn.md", VPN)
    small = folder_of(tmp_path)
    assert small.every_s == 0.0
    for n in range(501):
        (tmp_path / "agents" / f"a{n}.md").touch()
    small.look()
    assert small.every_s == MANY_EVERY_S
