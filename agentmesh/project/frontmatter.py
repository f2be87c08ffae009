"""YAML with line numbers: the front matter of a Markdown file, and whole YAML files.

The meaning is that of `yaml.safe_load`; what it accepts in silence (a key twice) or dies of (nesting, aliases that
multiply) is a mistake here. Knows no format: `schema.py` does. A byte order mark and CRLF line ends are accepted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import yaml

from agentmesh.mistakes import Mistake, Steps, dotted, shown

__all__ = ["MAX_CARD_BYTES", "MAX_YAML_BYTES", "Document", "decode", "read_yaml", "split_front_matter"]

MAX_CARD_BYTES = 256 * 1024
"""Bytes of a card's file."""
MAX_YAML_BYTES = 4 * 1024 * 1024
"""Bytes of a roles or scenario file; our choice, about 10,000 tasks."""
MAX_DEPTH = 50
"""Levels of nesting; libyaml's composer recurses, and some thousand levels overflow the stack of the process."""
MAX_NODES = 200_000
"""Values of one file, those that aliases repeat counted every time."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TEXT_TAG = "tag:yaml.org,2002:str"
_MERGE_TAG = "tag:yaml.org,2002:merge"
_PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{n}" for n in "map seq str int float bool null timestamp".split())  # noqa: SIM905
_MISPLACED = "this line fits neither the list nor the keys around it; check its indentation"
_PROBLEMS = {
    "mapping values are not allowed in this context": "a `:` stands where none can; put the text in quotes",
    "found unexpected end of stream": "a quotation mark is never closed",
    "did not find expected ',' or ']'": "a `[` is never closed, or a comma is missing",
    "did not find expected ',' or '}'": "a `{` is never closed, or a comma is missing",
    "found unexpected ':'": "a `:` stands where none can; put the text in quotes",
    "could not find expected ':'": "a key has no `:` behind it",
    "found undefined alias": "an alias (`*name`) has no anchor (`&name`); put the text in quotes if `*` is meant",
    "found unhashable key": "a list or group of keys cannot be a key",
    "but found another document": "a second document begins here; take the line `---` out",
    "did not find expected key": _MISPLACED,
    "did not find expected '-' indicator": _MISPLACED,
    "expected a mapping or list of mappings for merging, but found scalar": "`<<` must name an anchored group of keys",
}


@dataclass(frozen=True)
class Document:
    """What a file says, and on which lines."""

    values: dict[str, Any] = field(default_factory=dict[str, Any])
    """Empty where the file cannot be read."""
    body: str = ""
    """The text below the front matter, without blank lines around it."""
    lines: Mapping[Steps, int] = field(default_factory=dict[Steps, int])
    """The line of every key and list entry, counted from 1 in the file."""
    mistakes: tuple[Mistake, ...] = ()
    """Why it cannot be read, if so."""

    def line(self, steps: Steps) -> int | None:
        """The line of that key, or else of the nearest key around it."""
        while steps and steps not in self.lines:
            steps = steps[:-1]
        return self.lines.get(steps)


def decode(data: bytes, file: str, *, most_bytes: int = MAX_YAML_BYTES) -> str | Mistake:
    """UTF-8 text with `\\n` line ends, or why it is none."""
    if len(data) > most_bytes:
        return Mistake(file, None, "", f"is larger than {most_bytes // 1024} KB; make it smaller or split it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Mistake(file, line, "", f"is not UTF-8 text (byte 0x{data[error.start]:02x}); save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def split_front_matter(data: bytes, file: str) -> Document:
    """Read a Markdown file that begins with YAML between two lines `---`.

    Args:
        data: The file's bytes.
        file: Its path, for mistakes.
    """
    text = decode(data, file, most_bytes=MAX_CARD_BYTES)
    if isinstance(text, Mistake):
        return Document(mistakes=(text,))
    if not text.strip():
        return _broken(file, 1, "the file is empty; begin it with `---`, `description: ...` and `---`, a line each")
    lines = text.split("\n")
    if lines[0].rstrip() != "---":
        return _broken(file, 1, "the front matter is missing; the first line must be `---`")
    end = next((n for n, line in enumerate(lines) if n and line.rstrip() == "---"), None)
    if end is None:
        return _broken(file, 1, "the front matter is never closed; add a line `---` below its last key")
    read = _read("\n".join(lines[1:end]) + "\n", file, first_line=2)
    return Document(read.values, "\n".join(lines[end + 1 :]).strip(), {**read.lines, (): 1}, read.mistakes)


def read_yaml(data: bytes, file: str) -> Document:
    """Read a YAML file that holds keys at its top."""
    text = decode(data, file)
    if isinstance(text, Mistake):
        return Document(mistakes=(text,))
    return _read(text, file, first_line=1)


def _read(text: str, file: str, *, first_line: int) -> Document:
    try:
        if (deep := _first_too_deep(text)) is not None:
            return _broken(file, deep + first_line, f"is nested deeper than {MAX_DEPTH} levels; make it flatter")
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return Document(lines={(): first_line})
            if not isinstance(node, yaml.MappingNode):
                found = "a list" if isinstance(node, yaml.SequenceNode) else "plain text"
                return _broken(file, first_line, f"must hold `key: value` lines, not {found}")
            walk = _Walk(loader, file, first_line)
            try:
                walk.visit(node)
            except _TooManyNodesError:
                return _broken(file, first_line, "its aliases (`*name`) repeat too much; write the values out")
            values = {} if walk.mistakes else cast("dict[str, Any]", loader.construct_document(node))
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        return Document(mistakes=(_yaml_mistake(error, text, file, first_line),))
    return Document(values, "", {(): first_line, **walk.lines}, tuple(walk.mistakes))


def _first_too_deep(text: str) -> int | None:
    """The line, counted from 0, at which nesting passes `MAX_DEPTH`.

    The parser of events does not recurse; the composer does.
    """
    depth = 0
    for event in cast("Iterator[yaml.Event]", yaml.parse(text, Loader=_Loader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                return event.start_mark.line
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return None


class _TooManyNodesError(Exception):
    """The tree is larger than any file that a person writes: aliases multiply it, or contain themselves."""


class _Walk:
    """One pass over the nodes of a file, before anything is built of them."""

    def __init__(self, loader: Any, file: str, first_line: int) -> None:
        self.loader, self.file, self.first_line = loader, file, first_line
        self.lines: dict[Steps, int] = {}
        self.mistakes: list[Mistake] = []
        self.nodes = 0

    def visit(self, node: yaml.Node, steps: Steps = (), depth: int = 0) -> None:
        """Note the lines of everything below this node, and what is wrong there."""
        self.nodes += 1
        if self.nodes > MAX_NODES or depth > MAX_DEPTH:
            raise _TooManyNodesError
        if node.tag not in _PLAIN_TAGS:
            self._note(
                node, steps, f"the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} is not allowed; take it out"
            )
        elif isinstance(node, yaml.MappingNode):
            self._visit_mapping(node, steps, depth)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(cast("list[yaml.Node]", node.value)):
                self.lines[*steps, index] = item.start_mark.line + self.first_line
                self.visit(item, (*steps, index), depth + 1)
        elif node.tag != _TEXT_TAG:
            self._visit_scalar(node, steps)

    def _visit_mapping(self, node: yaml.MappingNode, steps: Steps, depth: int) -> None:
        seen: dict[str, int] = {}
        for key, value in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            if key.tag == _MERGE_TAG:
                self.visit(value, (*steps, "<<"), depth + 1)
                continue
            if not isinstance(key, yaml.ScalarNode) or key.tag != _TEXT_TAG:
                name = shown(str(key.value)) if isinstance(key, yaml.ScalarNode) else "a list or group of keys"
                self._note(key, steps, f"{name} cannot be a key; a key is text: put it in quotes")
                continue
            name, line = str(key.value), key.start_mark.line + self.first_line
            if name in seen:
                self._note(key, (*steps, name), f"this key stands twice, first in line {seen[name]}; keep one")
            seen.setdefault(name, line)
            self.lines[*steps, name] = line
            self.visit(value, (*steps, name), depth + 1)

    def _visit_scalar(self, node: yaml.Node, steps: Steps) -> None:
        """A date that does not exist, a number that is none."""
        try:
            self.loader.construct_object(node)
        except ValueError:
            kind = "date" if node.tag.endswith("timestamp") else "number"
            self._note(node, steps, f"{shown(str(node.value))} is no {kind}; put it in quotes if text is meant")

    def _note(self, node: yaml.Node, steps: Steps, text: str) -> None:
        self.mistakes.append(Mistake(self.file, node.start_mark.line + self.first_line, dotted(steps), text))


def _yaml_mistake(error: yaml.YAMLError, text: str, file: str, first_line: int) -> Mistake:
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + first_line
        return Mistake(file, line, "", "holds a control character; take it out")
    if not isinstance(error, yaml.MarkedYAMLError):
        return Mistake(file, None, "", "is not valid YAML")
    mark = error.problem_mark or error.context_mark
    line = mark.line + first_line if mark else None
    problem = error.problem or "it cannot be read"
    if "tab character" in problem or "cannot start any token" in problem:
        character = _character(text, mark)
        if character == "\t" or "tab character" in problem:
            return Mistake(file, line, "", "a tab stands where YAML wants spaces; indent with spaces")
        return Mistake(file, line, "", f"text cannot begin with {character!r}; put it in quotes")
    return Mistake(file, line, "", f"is not valid YAML: {_PROBLEMS.get(problem, problem)}")


def _character(text: str, mark: yaml.Mark | None) -> str:
    """What stands at a mark; libyaml's marks carry no text."""
    lines = text.split("\n")
    if mark is None or mark.line >= len(lines):
        return ""
    return lines[mark.line][mark.column : mark.column + 1]


def _broken(file: str, line: int, text: str) -> Document:
    return Document(mistakes=(Mistake(file, line, "", text),))
