"""Reads labelled messages: which agents each should be routed to. JSONL or YAML; knows nothing of routers.

One message is `text` with `agents` (a list of ids; empty: nobody's), or with `expect: clarify` or
`expect: out_of_scope`; `history` and `tenant` may be added. Every mistake of a file is found at once, with its line.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field

from agentmesh.errors import InputError
from agentmesh.mistakes import Mistake, Steps, dotted, unknown, validated
from agentmesh.project.frontmatter import decode, read_yaml
from agentmesh.types import Frozen, Message, Mode

__all__ = ["RouteTest", "read_route_tests"]

LIST_KEY = "routes"
"""Key of the list in a YAML file; a file that is a list needs none."""
MOST_BYTES = 64 * 1024 * 1024
"""Of a JSONL file; our choice, some 500,000 messages."""
SHOWN_MISTAKES = 20


@dataclass(frozen=True)
class RouteTest:
    """One message and what is right for it."""

    text: str
    agents: tuple[str, ...]
    """Ids of the agents that it is for; empty with `clarify` and `out_of_scope`."""
    mode: Mode | None
    """`clarify` or `out_of_scope`; None: the agents are what counts."""
    history: tuple[Message, ...] = ()
    tenant: str = "default"
    line: int = 0
    """In the file, counted from 1."""

    @property
    def expected(self) -> tuple[str, ...]:
        """What is right, as one set: the agents, or the mode in parentheses."""
        return self.agents or (f"({self.mode.value})",) if self.mode else self.agents


class _Row(Frozen):
    text: str = Field(min_length=1)
    agents: tuple[str, ...] | None = None
    expect: Literal["clarify", "out_of_scope"] | None = None
    history: tuple[Message, ...] = ()
    tenant: str = "default"
    note: str = ""
    """For people."""


def read_route_tests(path: Path, agents: Collection[str]) -> tuple[RouteTest, ...]:
    """The labelled messages of a file, in its order.

    Args:
        path: A `.jsonl`, `.yaml` or `.yml` file.
        agents: The ids that may be named.

    Raises:
        InputError: With every mistake as `file:line: key: what is wrong`, 20 of them at most.
    """
    if path.suffix not in (".jsonl", ".yaml", ".yml"):
        raise InputError(f"{path}: a file of labelled messages ends in .jsonl, .yaml or .yml; rename it")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({(error.strerror or '').lower()}); name another file") from error
    tests: list[RouteTest] = []
    mistakes: list[Mistake] = []
    for found in (_lines if path.suffix == ".jsonl" else _entries)(data, str(path)):
        if isinstance(found, Mistake):
            mistakes.append(found)
        else:
            made, wrong = _test(found, str(path), agents)
            mistakes += wrong
            tests += [made] if made else []
    if not tests and not mistakes:
        mistakes.append(Mistake(str(path), None, "", "holds no messages; add some with `text` and `agents`"))
    if mistakes:
        raise InputError(_in_words(mistakes))
    return tuple(tests)


@dataclass(frozen=True)
class _Found:
    """One entry as it stands in the file."""

    values: Mapping[str, Any]
    line: int
    lines: Mapping[Steps, int]
    """Of its keys, where the format knows them."""

    def line_of(self, steps: Steps) -> int:
        while steps and steps not in self.lines:
            steps = steps[:-1]
        return self.lines.get(steps, self.line)


def _lines(data: bytes, file: str) -> Iterator[_Found | Mistake]:
    """The entries of JSON lines."""
    text = decode(data, file, most_bytes=MOST_BYTES)
    if isinstance(text, Mistake):
        yield text
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values: object = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Mistake(file, number, "", f"is no line of JSON ({error}); mend or drop the line")
            continue
        if isinstance(values, dict):
            yield _Found(cast("dict[str, Any]", values), number, {})
        else:
            yield Mistake(file, number, "", 'a line must be a JSON object such as {"text": "...", "agents": ["..."]}')


def _entries(data: bytes, file: str) -> Iterator[_Found | Mistake]:
    """The entries of a YAML file: a list, or a list under `routes`."""
    above = 0
    if _is_list(data):
        # A list may stand under a key without being indented: the reader of our YAML files wants keys at the top.
        data, above = f"{LIST_KEY}:\n".encode() + data.removeprefix(b"\xef\xbb\xbf"), 1
    document = read_yaml(data, file)
    if document.mistakes:
        yield from (replace(m, line=m.line - above if m.line else None) for m in document.mistakes)
        return
    for key in document.values:
        if key != LIST_KEY:
            yield Mistake(file, document.line((key,)), "", f"unknown key {key!r}; put the messages below `{LIST_KEY}:`")
    listed: object = document.values.get(LIST_KEY)
    if listed is None:
        return
    if not isinstance(listed, list):
        yield Mistake(file, document.line((LIST_KEY,)), LIST_KEY, "must be a list; begin each message with `- text:`")
        return
    for place, values in enumerate(cast("list[object]", listed)):
        here: Steps = (LIST_KEY, place)
        line = (document.line(here) or 1) - above
        if isinstance(values, dict):
            own = {steps[2:]: at - above for steps, at in document.lines.items() if steps[:2] == here}
            yield _Found(cast("dict[str, Any]", values), line, own)
        else:
            yield Mistake(file, line, "", "a message must have `text:` and `agents:` or `expect:`")


def _is_list(data: bytes) -> bool:
    """Whether the first line of YAML that says something begins a list."""
    lines = (line.strip() for line in data.removeprefix(b"\xef\xbb\xbf").splitlines())
    first = next((line for line in lines if line and not line.startswith(b"#")), b"")
    return first == b"-" or first.startswith(b"- ")


def _test(found: _Found, file: str, agents: Collection[str]) -> tuple[RouteTest | None, list[Mistake]]:
    """The message of an entry, or what is wrong with it."""

    def wrong(steps: Steps, text: str) -> Mistake:
        return Mistake(file, found.line_of(steps), dotted(steps), text)

    values = dict(found.values)
    if isinstance(values.get("agents"), str):
        values["agents"] = [values["agents"]]
    row, mistakes = validated(_Row, values)
    if row is None:
        return None, [wrong(steps, text) for steps, text in mistakes]
    if not row.text.strip():
        return None, [wrong(("text",), "is blank; write the message")]
    if row.agents is None and row.expect is None:
        return None, [wrong((), "says not what is right; add `agents: [...]`, or `expect: clarify` or `out_of_scope`")]
    if row.agents and row.expect:
        return None, [wrong(("expect",), "stands beside agents; keep one of the two")]
    strangers = [
        wrong(("agents", place), unknown("agent", agent, agents))
        for place, agent in enumerate(row.agents or ())
        if agent not in agents
    ]
    if strangers:
        return None, strangers
    named = tuple(dict.fromkeys(row.agents or ()))
    mode = None if named else Mode(row.expect or "out_of_scope")
    return RouteTest(row.text, named, mode, row.history, row.tenant, found.line), []


def _in_words(mistakes: Sequence[Mistake]) -> str:
    """All mistakes as one message; one alone is one line."""
    if len(mistakes) == 1:
        return str(mistakes[0])
    shown = [str(mistake) for mistake in mistakes[:SHOWN_MISTAKES]]
    more = [f"... and {len(mistakes) - SHOWN_MISTAKES} more"] if len(mistakes) > SHOWN_MISTAKES else []
    return "\n  ".join([f"{len(mistakes)} mistakes in the labelled messages:", *shown, *more])
