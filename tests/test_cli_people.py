"""A run that asks on the terminal: a real terminal, as a person sits at it."""

import errno
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentmesh.project.starter import write_starter

ROOT = Path(__file__).parent.parent
CODE = "import sys; sys.argv[0] = 'agentmesh'; from agentmesh.cli import main; main()"
SETTINGS = '[models.default]\nmodel = "scripted"\ncapable = false\n\n[memory]\nembedder = "scripted"\n'
QUESTION = "How thick may plywood be on the laser cutter?"
WAIT_S = 60.0


class Terminal:
    """One command on a terminal of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AGENTMESH_")}
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-c", CODE, *arguments],
            cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env={**environment, "PYTHONPATH": str(ROOT), "TERM": "dumb", "COLUMNS": "200", "NO_COLOR": "1"},
        )  # fmt: skip
        os.close(theirs)
        self.seen = ""

    def until(self, words: str) -> str:
        """What has been printed since the last call, as soon as it holds these words."""
        return self._read(lambda: words in self.seen)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def interrupt(self) -> None:
        os.killpg(self._process.pid, signal.SIGINT)

    def end(self) -> tuple[int, str]:
        """The exit status, and the rest of what was printed."""
        text = self._read(lambda: False)
        return self._process.wait(WAIT_S), text

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(WAIT_S)
        os.close(self._ours)

    def _read(self, enough: Callable[[], bool]) -> str:
        deadline = time.monotonic() + WAIT_S
        while not enough():
            assert time.monotonic() < deadline, self.seen
            if select.select([self._ours], [], [], 1.0)[0]:
                try:
                    data = os.read(self._ours, 65536)
                except OSError as error:
                    if error.errno == errno.EIO:  # the other side is closed: the command has ended
                        break
                    raise
                self.seen += data.decode(errors="replace").replace("\r\n", "\n")
        text, self.seen = self.seen, ""
        return text


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A project in which a person must allow every call of two agents."""
    folder = tmp_path / "desk"
    write_starter(folder)
    (folder / "agentmesh.toml").write_text(SETTINGS + '\n[routing]\nrouter = "keyword"\nmax_agents = 1\n')
    for name in ("machines", "membership"):
        card = folder / "agents" / f"{name}.md"
        card.write_text(card.read_text().replace("\ndescription:", "\napproval: always\ndescription:", 1))
    return folder


@pytest.fixture
def terminal(desk: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def run(*arguments: str) -> Terminal:
        opened.append(Terminal(desk, *arguments))
        return opened[-1]

    yield run
    for one in opened:
        one.close()


def test_what_makes_no_sense_is_asked_again_and_a_number_stands_for_an_option(
    terminal: Callable[..., Terminal],
) -> None:
    screen = terminal("run", QUESTION)
    assert "1 yes, 2 no" in screen.until("yes or no> ")
    screen.type("²\n")  # a digit of its own kind, and no number
    assert "is neither yes nor no" in screen.until("yes or no> ")
    screen.type("1\n")
    code, text = screen.end()
    assert code == 0
    assert "6 mm" in text


def test_ctrl_c_at_a_question_says_how_to_answer_later(terminal: Callable[..., Terminal]) -> None:
    screen = terminal("run", QUESTION)
    screen.until("yes or no> ")
    screen.interrupt()
    code, text = screen.end()
    assert code == 130
    (run_id,) = re.findall(r"agentmesh resume (\S+) --answer TEXT\n", text)
    code, text = terminal("resume", run_id, "--answer", "yes").end()
    assert code == 0
    assert "6 mm" in text


def test_of_several_questions_each_is_named_and_any_can_be_answered_by_its_id(
    terminal: Callable[..., Terminal], desk: Path
) -> None:
    settings = desk / "agentmesh.toml"
    both = 'router = "fixed"\noptions = { agents = ["machines", "membership"] }'
    settings.write_text(settings.read_text().replace('router = "keyword"\nmax_agents = 1', both))
    screen = terminal("run", f"{QUESTION} And what does a guest pay for one day?")
    text = screen.until("yes or no> ")
    ids = re.findall(r"--question (\S+)", text)
    assert len(ids) == 2
    assert re.findall(r"(\w+), yes or no> $", text) == ["machines"]
    assert "/machines/" in ids[0]
    screen.type("\n")
    _, text = screen.end()
    (run_id,) = re.findall(r"agentmesh resume (\S+) --answer", text)
    screen = terminal("resume", run_id, "--answer", "no", "--question", ids[1])
    text = screen.until("yes or no> ")
    assert text.count("May Machine desk work on this") == 1
    assert "May Membership desk" not in text


def test_nobody_is_asked_who_would_not_see_the_question(desk: Path) -> None:
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AGENTMESH_")}
    done = subprocess.run(
        [sys.executable, "-c", CODE, "run", QUESTION],
        cwd=desk, stdin=theirs, capture_output=True, timeout=WAIT_S, check=False, encoding="utf-8",
        env={**environment, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 0, done.stderr
    assert "the run waits; answer with" in done.stdout
