"""The examples of the pages: what a page shows, and how each kind of example is run or checked.

A page is run from its top to its end in a folder of its own, which holds the files that the page shows. The first line
of a block says what it is:

    python                    is run alone; `continues`: goes on with the names of the block before
    console                   every `$ agentmesh ...` is run; `exit N`: so the last ends; `helpdesk`: in this project
    toml agentmesh            the settings of the project
    toml pyproject            the same in the project's pyproject.toml
    markdown card ID          agents/ID.md
    markdown knowledge NAME   memory/knowledge/NAME.md; `jsonl knowledge NAME` likewise
    yaml roles                memory/roles.yaml
    yaml scenario NAME        scenarios/NAME.yaml
    json mcp                  tools/mcp.json
    json                      any JSON
    text                      a drawing or a list, nothing to run

`skip: why` behind `python` or `console` says that a block cannot be run in a test.

What stands in a comment behind `print(...)`, or in the lines right below it, must be printed; so must the lines that a
console block shows below a command. `...` stands for anything.
"""

import ast
import io
import json
import os
import re
import shlex
import sys
import threading
import tokenize
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from agentmesh.assembly import known_names
from agentmesh.cli import main
from agentmesh.mistakes import place
from agentmesh.project.loader import check_project
from agentmesh.project.starter import write_starter
from agentmesh.settings import PREFIX, RESERVED, MeshSettings
from agentmesh.types import AgentCard

__all__ = ["Block", "Page", "Run", "blocks_of", "mistakes_in_words", "read_page", "run_page", "tables_of"]

ROOT = Path(__file__).resolve().parent.parent
LONGEST_S = 60.0
"""Seconds for one block, on a busy machine."""
SCRIPTED = json.dumps({"model": "scripted", "capable": False})
LOCAL = ("", "localhost", "127.0.0.1", "::1", "0.0.0.0")
FILES: Mapping[tuple[str, str], str] = {
    ("toml", "agentmesh"): "agentmesh.toml",
    ("toml", "pyproject"): "pyproject.toml",
    ("markdown", "card"): "agents/{name}.md",
    ("markdown", "knowledge"): "memory/knowledge/{name}.md",
    ("jsonl", "knowledge"): "memory/knowledge/{name}.jsonl",
    ("yaml", "roles"): "memory/roles.yaml",
    ("yaml", "scenario"): "scenarios/{name}.yaml",
    ("json", "mcp"): "tools/mcp.json",
}
"""Where a shown file stands in the project, by the first words of its block."""

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)$")
_HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$")
_LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
_CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_VARIABLE = re.compile(rf"\b{PREFIX}[A-Z][A-Z0-9_]*\b")


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: str
    line: int
    """Of its first line of text, counted from 1 in the page."""
    language: str
    words: tuple[str, ...]
    """What stands behind the language, without the reason of a skip."""
    skip: str | None
    """Why it cannot be run; None: it is run."""
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Page:
    """A page: its blocks, and its words without them."""

    name: str
    """Path from the root of the repository."""
    blocks: tuple[Block, ...]
    words: str
    """Its lines; those of blocks are empty, so that line numbers stay."""
    anchors: frozenset[str] = frozenset()


@dataclass
class Run:
    """What running a page left: what was wrong, in words. Empty: nothing."""

    mistakes: list[str] = field(default_factory=list[str])

    def note(self, block: Block, text: str) -> None:
        self.mistakes.append(f"{block.where}: {text}")


# --- reading ----------------------------------------------------------------------------------------------------------


def read_page(path: Path, root: Path = ROOT) -> Page:
    """The page in this file."""
    return page_of(path.read_text(encoding="utf-8"), path.relative_to(root).as_posix())


def page_of(text: str, name: str = "page.md") -> Page:
    """The page of this text."""
    blocks: list[Block] = []
    outside: list[str] = []
    fence, first, info, held = "", 0, "", list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        found = _FENCE.match(line)
        if not fence and found:
            fence, first, info, held = found[1], number + 1, found[2].strip(), []
            outside.append("")
        elif fence and found and not found[2].strip() and found[1].startswith(fence):
            blocks.append(_block(name, first, info, "\n".join(held)))
            fence = ""
            outside.append("")
        elif fence:
            held.append(line)
            outside.append("")
        else:
            outside.append(line)
    if fence:
        blocks.append(_block(name, first, "never-closed", ""))
    return Page(name, tuple(blocks), "\n".join(outside), frozenset(_anchors(outside)))


def blocks_of(text: str) -> tuple[Block, ...]:
    """The blocks of a page's text."""
    return page_of(text).blocks


def tables_of(page: Page, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, row by row without its head; empty if there is none."""
    lines = page.words.splitlines()
    start = next((n for n, line in enumerate(lines) if (m := _HEADING.match(line)) and m[1] == heading), None)
    rows: list[list[str]] = []
    for line in lines[start + 1 :] if start is not None else ():
        if line.startswith("|"):
            rows.append([cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip("|"))])
        elif rows or _HEADING.match(line):
            break
    return rows[2:]


def _block(page: str, line: int, info: str, text: str) -> Block:
    head, colon, reason = info.partition(":")
    language, *words = head.split() or [""]
    skip = None
    if words and words[-1] == "skip":
        words.pop()
        skip = reason.strip() if colon else ""
    return Block(page, line, language, tuple(words), skip, text)


def _anchors(lines: Sequence[str]) -> Iterator[str]:
    """The names of a page's headings, as forges make them."""
    seen: dict[str, int] = {}
    for line in lines:
        if heading := _HEADING.match(line):
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).replace("`", "")
            slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
            count = seen[slug] = seen.get(slug, -1) + 1
            yield f"{slug}-{count}" if count else slug


# --- running ----------------------------------------------------------------------------------------------------------


def run_page(page: Page, folder: Path, *, helpdesk: Path = ROOT) -> Run:
    """Run and check every block of a page, in order, in an empty folder. Offline."""
    run = Run()
    reader = _Reader(run, folder, helpdesk)
    with _surroundings(folder):
        for block in page.blocks:
            reader.read(block)
    return run


class _Reader:
    """Goes through one page; the page's folder grows as it goes."""

    def __init__(self, run: Run, folder: Path, helpdesk: Path) -> None:
        self.run, self.folder, self.helpdesk = run, folder, helpdesk
        self.here = folder
        """Where commands are run; `cd` moves it."""
        self.module: ModuleType | None = None

    def read(self, block: Block) -> None:
        if block.skip is not None and (block.language not in ("python", "console") or not block.skip):
            self.run.note(block, "a skip stands behind `python` or `console` and has a reason: `console skip: why`")
        match (block.language, *block.words):
            case ("text",):
                pass
            case ("python",) | ("python", "continues"):
                self._python(block)
            case ("console", *words):
                self._console(block, words)
            case ("json",):
                self._json(block)
            case (language, kind, *rest) if (language, kind) in FILES:
                self._file(block, FILES[language, kind], rest)
            case _:
                info = " ".join([block.language, *block.words]).strip()
                self.run.note(block, f"no kind of block is called {info!r}; see the top of tests/doc_examples.py")

    def _json(self, block: Block) -> None:
        try:
            json.loads(block.text)
        except ValueError as error:
            self.run.note(block, f"is no JSON: {error}")

    def _file(self, block: Block, pattern: str, rest: Sequence[str]) -> None:
        named = "{name}" in pattern
        if len(rest) != named:
            self.run.note(block, "names its file in one word" if named else "takes no further word")
            return
        path = pattern.format(name=rest[0] if rest else "")
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(block.text + "\n", encoding="utf-8")
        for mistake in check_project(self.folder, known=known_names(), environ={}):
            if mistake.file == path:
                line = f"{block.page}:{block.line + mistake.line - 1}" if mistake.line else block.where
                self.run.mistakes.append(f"{line}: {mistake}")

    def _python(self, block: Block) -> None:
        try:
            tree = ast.parse("\n" * (block.line - 1) + block.text, block.page)
        except SyntaxError as error:
            self.run.mistakes.append(f"{block.page}:{error.lineno}: is no Python: {error.msg}")
            return
        if block.skip is not None:
            return
        if "continues" not in block.words:
            self.module = ModuleType(f"example_{re.sub(r'[^a-z0-9]', '_', block.page)}_{block.line}")
        if self.module is None:
            self.run.note(block, "continues a block that is not there")
            return
        module = sys.modules[self.module.__name__] = self.module  # annotations of a state are looked up by its module
        try:
            code = compile(tree, block.page, "exec", dont_inherit=True)
        except SyntaxError as error:
            self.run.mistakes.append(f"{block.page}:{error.lineno}: is no Python: {error.msg}")
            return
        said, error = _bounded(lambda: exec(code, module.__dict__))
        if error is not None:
            frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == block.page]
            line = frames[-1].lineno if frames else block.line
            self.run.mistakes.append(f"{block.page}:{line}: {type(error).__name__}: {error}")
            return
        for line, expected in expected_output(block.text):
            if not _printed(expected, said):
                at = f"{block.page}:{block.line + line - 1}"
                self.run.mistakes.append(f"{at}: {expected!r} is not printed, but:\n{said.strip()}")

    def _console(self, block: Block, words: Sequence[str]) -> None:
        project, code = None, 0
        match words:
            case []:
                pass
            case ["exit", number] if number.isdigit():
                code = int(number)
            case ["helpdesk"]:
                project = self.helpdesk
            case _:
                self.run.note(block, f"`console` takes `skip: why`, `exit N` or `helpdesk`, not {' '.join(words)!r}")
                return
        commands = list(_commands(block.text))
        if not commands:
            self.run.note(block, "shows no command; begin one with `$ `")
        if block.skip is not None:
            for line, command, _ in commands:
                words_ = shlex.split(command, comments=True)
                if words_[:1] in (["agentmesh"], ["amesh"]) and (wrong := _command_mistake(words_[1:])):
                    self.run.mistakes.append(f"{block.page}:{block.line + line}: {wrong}")
            return
        for number, (line, command, shown) in enumerate(commands):
            where = f"{block.page}:{block.line + line}"
            expected = code if number == len(commands) - 1 else 0
            try:
                self._command(where, command, shown, expected, project)
            except ValueError as error:
                self.run.mistakes.append(f"{where}: {error}")
                return

    def _command(self, where: str, command: str, shown: Sequence[str], expected: int, project: Path | None) -> None:
        parts = shlex.split(command, comments=True)
        typed = ""
        if parts[0] == "echo" and parts[2:3] == ["|"]:
            typed, parts = parts[1] + "\n", parts[3:]
        environ = dict(part.split("=", 1) for part in parts if re.match(r"[A-Z_]+=", part))
        name, *arguments = [part for part in parts if not re.match(r"[A-Z_]+=", part)]
        if name == "cd" and len(arguments) == 1:
            self.here = self.here / arguments[0]
            if not self.here.is_dir():
                raise ValueError(f"there is no folder {arguments[0]!r}")
            return
        if name not in ("agentmesh", "amesh") or "|" in arguments:
            raise ValueError(f"{command!r} is not run here; mark the block `console skip: why`")
        here = project or self.here
        if project is None and arguments[:1] != ["init"] and not any(here.glob("agents/*.md")):
            write_starter(here, force=True)
        with _set({**environ, **({f"{PREFIX}HOME": str(self.folder / "home")} if project else {})}), chdir(here):
            said, error = _bounded(lambda: _called(arguments, typed))
        ended = error.code if isinstance(error, SystemExit) else error
        if ended != expected:
            self.run.mistakes.append(f"{where}: {command!r} ended with {ended!r}, not {expected}:\n{said.strip()}")
            return
        for line in shown:
            if not _printed(line, said):
                self.run.mistakes.append(f"{where}: {command!r} does not print {line!r}, but:\n{said.strip()}")


def expected_output(source: str) -> list[tuple[int, str]]:
    """What comments say that `print` prints: the line of each comment, and its text."""
    comments: dict[int, tuple[int, str]] = {}
    for token in tokenize.generate_tokens(io.StringIO(source + "\n").readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.start[1], token.string.lstrip("#").strip()
    lines = source.splitlines()
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Call(func=ast.Name(id="print")), end_lineno=int(end)):
                if end in comments:
                    found.append((end, comments[end][1]))
                    continue
                below = end + 1
                while below in comments and lines[below - 1].lstrip().startswith("#"):
                    found.append((below, comments[below][1]))
                    below += 1
            case _:
                pass
    return sorted(found)


def _commands(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """Every command with its line and what is shown below it."""
    line, command, shown = 0, "", list[str]()
    for number, row in enumerate(text.splitlines()):
        if row.startswith("$ "):
            if command:
                yield line, command, shown
            line, command, shown = number, row[2:], []
        elif command.endswith("\\"):
            command = command[:-1] + row.strip()
        elif row.strip():
            shown.append(row)
    if command:
        yield line, command, shown


def _printed(expected: str, said: str) -> bool:
    """Whether a line is among what was printed; `...` stands for anything, white space does not count."""
    pattern = ".*".join(re.escape(" ".join(part.split())) for part in expected.split("..."))
    pattern = pattern.replace(r".*\ ", ".*").replace(r"\ .*", ".*")
    return any(re.fullmatch(rf"\s*{pattern}\s*", " ".join(line.split())) for line in said.splitlines())


def _called(arguments: Sequence[str], typed: str) -> None:
    """The command in this process, with something on its standard input."""
    before = sys.argv, sys.stdin
    sys.argv, sys.stdin = ["agentmesh", *arguments], io.TextIOWrapper(io.BytesIO(typed.encode()))
    try:
        main()
    finally:
        sys.argv, sys.stdin = before


def _bounded(work: Callable[[], object]) -> tuple[str, BaseException | None]:
    """What a piece of work printed, and what it raised; it is given up after `LONGEST_S`."""
    held = io.BytesIO()
    said = io.TextIOWrapper(held, encoding="utf-8", write_through=True)
    raised: list[BaseException] = []

    def call() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    with redirect_stdout(said), redirect_stderr(said):
        thread.start()
        thread.join(LONGEST_S)
    if thread.is_alive():
        raised.append(TimeoutError(f"is not done after {LONGEST_S:g} s"))
    return held.getvalue().decode(errors="replace"), raised[0] if raised else None


# --- the surroundings of an example -----------------------------------------------------------------------------------


@contextmanager
def _surroundings(folder: Path) -> Generator[None]:
    """The folder is the current one, no setting of this machine is seen, the model is scripted, nothing is called."""
    ours = [name for name in os.environ if name.startswith(PREFIX) and name not in RESERVED]
    path = list(sys.path)
    known = set(sys.modules)
    with _set(dict.fromkeys(ours)), _offline(), chdir(folder):
        sys.path.insert(0, str(folder))
        try:
            with _set({f"{PREFIX}MODELS__DEFAULT": SCRIPTED, "COLUMNS": "120", "NO_COLOR": "1"}):
                yield
        finally:
            sys.path[:] = path
            for name in set(sys.modules) - known:
                if name.startswith("example_"):
                    del sys.modules[name]


@contextmanager
def _set(values: Mapping[str, str | None]) -> Generator[None]:
    """These variables for a while; None: not set."""
    before = {name: os.environ.get(name) for name in values}
    _assign(values)
    try:
        yield
    finally:
        _assign(before)


def _assign(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


_hooked = False
_shut = False


@contextmanager
def _offline() -> Generator[None]:
    """No other machine is reached for a while. A hook stays for good and asks a flag: hooks cannot be taken out."""
    global _hooked, _shut

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if not _shut or event not in ("socket.connect", "socket.getaddrinfo"):
            return
        address = arguments[1] if event == "socket.connect" else arguments[:1]
        host = cast("tuple[Any, ...]", address)[0] if isinstance(address, tuple) else ""
        if host is not None and str(host) not in LOCAL:
            raise OSError(f"an example wants to reach {host}; examples are offline")

    if not _hooked:
        sys.addaudithook(refuse)
        _hooked = True
    _shut = True
    try:
        yield
    finally:
        _shut = False


# --- what pages say outside of blocks ---------------------------------------------------------------------------------


def mistakes_in_words(
    page: Page, pages: Mapping[str, Page], *, links_only: bool = False, root: Path = ROOT
) -> list[str]:
    """Links that lead nowhere, and paths, names of the package, commands and settings that are not there."""
    found: list[str] = []
    plain = _CODE.sub(lambda m: " " * len(m[0]), page.words)
    for match in _LINK.finditer(plain):
        if wrong := _link_mistake(page, match[1], pages, root):
            found.append(f"{_line(page, match.start())}: {wrong}")
    if links_only:
        return found
    own = {FILES[b.language, b.words[0]].format(name=b.words[-1]) for b in page.blocks if _is_file(b)}
    for match in _CODE.finditer(page.words):
        if wrong := _code_mistake(" ".join(match[2].split()), own, root):
            found.append(f"{_line(page, match.start())}: {wrong}")
    for match in _VARIABLE.finditer(page.words):
        steps = tuple(match[0].removeprefix(PREFIX).lower().split("__"))
        if match[0] not in RESERVED and steps != ("model",) and place(MeshSettings, steps) is None:
            found.append(f"{_line(page, match.start())}: {match[0]} sets nothing")
    return found


def _is_file(block: Block) -> bool:
    return bool(block.words) and (block.language, block.words[0]) in FILES


def _line(page: Page, offset: int) -> str:
    return f"{page.name}:{page.words.count(chr(10), 0, offset) + 1}"


def _link_mistake(page: Page, target: str, pages: Mapping[str, Page], root: Path) -> str | None:
    if re.match(r"[a-z]+:", target):
        return None
    path, _, anchor = target.partition("#")
    goal = (root / page.name).parent / path if path else root / page.name
    if path and not goal.exists():
        return f"the link to {target!r} leads nowhere"
    named = Path(os.path.normpath(goal)).relative_to(root).as_posix()
    if anchor and named in pages and anchor not in pages[named].anchors:
        return f"{named} has no heading {anchor!r}"
    return None


def _code_mistake(code: str, own: set[str], root: Path) -> str | None:
    if re.fullmatch(r"(?:agentmesh|agents|docs|memory|scenarios|tests|tools)/[\w./-]+", code):
        starter = root / "agentmesh" / "project" / "templates" / "starter"
        places = (root, starter, root / "agentmesh")
        there = any((base / name).exists() for base in places for name in (code, f"{code}.py"))
        stands_for_any = re.search(r"/[A-Z]{2,}\b", code)
        return None if there or stands_for_any or code in own else f"there is no file {code!r}"
    if re.fullmatch(r"agentmesh(?:\.[A-Za-z_]\w*)+(?:\(\))?", code) and code != "agentmesh.toml":
        return _name_mistake(code.removesuffix("()"))
    if re.match(r"(?:agentmesh|amesh) [a-z]", code):
        return _command_mistake(shlex.split(code, comments=True)[1:])
    if re.fullmatch(r"(?:budgets|context|limits|memory|models|routing|trace)(?:\.[a-z_]+)+", code):
        steps = tuple(code.split("."))
        known = place(MeshSettings, steps) is not None or place(AgentCard, steps) is not None
        return None if known else f"there is no setting {code!r}"
    return None


def _name_mistake(name: str) -> str | None:
    """Whether a dotted name is a module of the package or something in one."""
    module, *rest = name.split(".")
    value: Any = import_module(module)
    for number, step in enumerate(rest):
        try:
            value = getattr(value, step)
        except AttributeError:
            try:
                value = import_module(".".join([module, *rest[: number + 1]]))
            except ImportError:
                return f"there is no {name!r}"
    return None


@lru_cache(maxsize=1)
def _root_command() -> Any:
    from typer.main import get_command

    from agentmesh.cli import app

    return get_command(app)


def _command_mistake(words: Sequence[str]) -> str | None:
    """Whether there is such a command with such options; its other arguments are not looked at."""
    command = _root_command()
    path = ["agentmesh"]
    for word in words:
        commands: dict[str, Any] | None = getattr(command, "commands", None)
        if word.startswith("-") and word != "-":
            known = {option for parameter in command.params for option in parameter.opts}
            if word.partition("=")[0] not in {*known, "--help", "-h"}:
                return f"`{' '.join(path)}` has no option {word!r}"
        elif commands is not None:
            if word not in commands:
                return f"there is no command `{' '.join([*path, word])}`"
            command = commands[word]
            path.append(word)
    return None
