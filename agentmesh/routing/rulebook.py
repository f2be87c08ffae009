"""The format of rules over signals: what a file may say, how it is read, every mistake in it with file, line and key.

The form is that of the vLLM Semantic Router's white paper: signals with a confidence, Boolean decisions over them, a
priority. Decides nothing: that is `rules.py`. Signals are specified and read in `signals.py`.
"""

import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, Field, model_validator

from agentmesh.errors import ProjectError
from agentmesh.mistakes import Mistake, Steps, dotted, unknown, validated
from agentmesh.project.frontmatter import Document, decode, read_yaml
from agentmesh.routing.signals import Condition, SignalSpec, named_in
from agentmesh.types import Frozen, Id, RunBounds, Sensitive

__all__ = [
    "BOUNDING",
    "INLINE",
    "JAILBREAK",
    "AgentChoice",
    "RuleBook",
    "RuleLimits",
    "RuleSpec",
    "read_book",
    "read_rules",
    "rule_book",
    "rule_mistakes",
]

INLINE = "routing.options"
"""What mistakes call rules that stand in the settings."""
JAILBREAK = "jailbreak"
"""The signal that holds who is not `strong` off, and the detector that it asks where a file says nothing else."""
BUILT_IN = "jailbreaks go to strong agents"
"""The rule that a file has where it names strong agents."""

Known = Mapping[str, Collection[str]]
"""Agents that there are, each with the names of its variants."""


# --- the format -------------------------------------------------------------------------------------------------------


def _agent_alone(value: object) -> object:
    return {"agent": value} if isinstance(value, str) else value


class AgentChoice(Frozen):
    """One agent that a rule chooses; plain text is short for its `agent`."""

    agent: Id
    part: str = ""
    """What it is told to answer; empty: the whole message."""
    weight: float = Field(default=1.0, gt=0)
    """Its share beside the others of the rule, in whatever unit."""
    variant: str | None = None
    """Of its card."""


Choice = Annotated[AgentChoice, BeforeValidator(_agent_alone, json_schema_input_type=str | AgentChoice)]
Ids = Annotated[
    tuple[Id, ...],
    BeforeValidator(lambda v: (v,) if isinstance(v, str) else v, json_schema_input_type=str | tuple[str, ...]),
]
Strong = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}(?:/[^/\s]{1,64})?$")]
"""An agent, or one of its variants as `agent/variant`."""


class RuleLimits(Frozen):
    """What a run may take at most where a rule holds; the run's own limits hold besides."""

    max_agents: int | None = Field(default=None, ge=1)
    """Agents of one decision."""
    max_tokens: int | None = Field(default=None, ge=0)
    """Prompt and completion tokens of the run, those that were spent before among them."""
    max_usd: float | None = Field(default=None, ge=0)
    """US$, likewise."""
    max_calls: int | None = Field(default=None, ge=0)
    """Model calls, likewise."""
    max_seconds: float | None = Field(default=None, ge=0)
    """Seconds since the run began."""

    def for_run(self, where: str) -> RunBounds:
        """What of it is the run's, set by the rules at `where`."""
        return RunBounds(where=where, **self.model_dump(exclude={"max_agents"}))


_DECIDING = ("agents", "clarify", "out_of_scope", "stop", "next")
BOUNDING = ("forbid", "require", "prefer", "must_allow", "strongest", "limits")
"""Keys of a rule that bound what others decide."""


class RuleSpec(Frozen):
    """What happens when a condition holds: it decides, by one key, or it bounds what others decide, by one or more."""

    name: str = Field(min_length=1, max_length=100)
    """What decisions call it; once in a file."""
    when: Condition | None = None
    """Absent: always."""
    priority: int = 0
    """Of rules that decide: the highest that holds does; of equal ones the first of the file."""
    agents: Annotated[tuple[Choice, ...] | None, BeforeValidator(lambda v: [v] if isinstance(v, str) else v)] = Field(
        default=None, min_length=1
    )
    """Decides: these agents work, best first, as far as they are candidates."""
    clarify: str | None = Field(default=None, min_length=1)
    """Decides: the user is asked this, once."""
    options: Ids = ()
    """Of `clarify`: the agents that it is about."""
    out_of_scope: bool = False
    """Decides: nobody works."""
    stop: str | None = Field(default=None, min_length=1)
    """Decides: the run ends, with this as its answer; no agent is called and no other rule is asked."""
    next: str | None = Field(default=None, min_length=1)
    """Decides: the router of this name does."""
    forbid: Ids = ()
    """Bounds: these agents are no candidates."""
    must_allow: Annotated[tuple[Sensitive, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)] = ()
    """Bounds: only agents whose card `allows` all of these are candidates."""
    require: Ids = ()
    """Bounds: these agents work, too, even where a router found nobody; not where the user is asked or a rule stops."""
    prefer: Ids = ()
    """Bounds: if a router chose them they come first; if it is torn between them and others, they work."""
    strongest: bool = False
    """Bounds: only agents that the file calls `strong` are candidates, in a variant that it calls so."""
    limits: RuleLimits | None = None
    """Bounds: what the run may take at most; of several rules the least of each."""
    because: str = ""
    """Why there is such a rule, for the reason of a decision."""

    @model_validator(mode="after")
    def _decides_or_bounds(self) -> "RuleSpec":
        deciding = [k for k in _DECIDING if getattr(self, k)]
        bounding = [k for k in BOUNDING if getattr(self, k)]
        if len(deciding) > 1:
            raise ValueError(f"has {' and '.join(f'`{k}`' for k in deciding)}; make it a rule for each")
        if deciding and bounding:
            raise ValueError(
                f"has `{deciding[0]}`, which decides, and `{bounding[0]}`, which bounds; make it two rules"
            )
        if not deciding and not bounding:
            known = ", ".join(f"`{k}`" for k in (*_DECIDING, *BOUNDING))
            raise ValueError(f"does nothing; give one of {known}")
        if self.options and not self.clarify:
            raise ValueError("`options` belongs to `clarify`; take it out")
        if self.priority and bounding:
            raise ValueError("`priority` orders rules that decide; of those that bound, all that hold do; take it out")
        if self.limits is not None and self.limits == RuleLimits():
            raise ValueError("has empty `limits`; give one of `max_agents`, `max_tokens`, `max_usd`, `max_calls`")
        ids = [choice.agent for choice in self.agents or ()]
        if repeated := [a for a in ids if ids.count(a) > 1]:
            raise ValueError(f"names {repeated[0]!r} twice in `agents`; give it both parts as one")
        return self

    @property
    def decides(self) -> bool:
        """Whether it decides; else it bounds."""
        return any(getattr(self, k) for k in _DECIDING)

    def named(self) -> Iterator[tuple[Steps, str]]:
        """The agents that it names, with the path of keys to each."""
        for place, choice in enumerate(self.agents or ()):
            yield ("agents", place), choice.agent
        for key, ids in (("options", self.options), ("forbid", self.forbid), ("require", self.require),
                         ("prefer", self.prefer)):  # fmt: skip
            yield from (((key, place), agent) for place, agent in enumerate(ids))


class RuleBook(Frozen):
    """A file of rules."""

    signals: dict[Id, SignalSpec] = Field(default_factory=dict[str, SignalSpec])
    """By name."""
    rules: tuple[RuleSpec, ...] = ()
    strong: Annotated[
        tuple[Strong, ...],
        BeforeValidator(lambda v: (v,) if isinstance(v, str) else v, json_schema_input_type=str | tuple[str, ...]),
    ] = ()
    """The agents that withstand attacks, as `agent` or `agent/variant`: those with the strongest models. While the
    signal `jailbreak` holds nobody else works; where the file has no such signal it is the detector of that name, read
    off all messages of the user."""
    guard: bool = True
    """Whether that is so; else only rules with `strongest` do it."""

    def guarded(self) -> "RuleBook":
        """With the signal and the rule that hold weaker agents off a jailbreak, where the file names strong ones."""
        if not self.strong or not self.guard or any(rule.name == BUILT_IN for rule in self.rules):
            return self
        signals = {**self.signals}
        signals.setdefault(JAILBREAK, SignalSpec(detector=JAILBREAK, history=True))
        rule = RuleSpec.model_validate({"name": BUILT_IN, "when": JAILBREAK, "strongest": True})
        return self.model_copy(update={"signals": signals, "rules": (*self.rules, rule)})

    def variants_of(self, agent: str) -> tuple[str | None, ...]:
        """The variants in which an agent is strong, None for none of them; empty: it is not."""
        named = [entry.partition("/") for entry in self.strong]
        return tuple(variant or None for id_, _, variant in named if id_ == agent)

    def mistakes(
        self,
        *,
        agents: Iterable[str] | Known | None = None,
        detectors: Iterable[str] | None = None,
        routers: Iterable[str] | None = None,
    ) -> list[tuple[Steps, str]]:
        """What is wrong although every value is valid by itself: the path of a key and a sentence.

        Args:
            agents: The agents that there are, with or without their variants; absent: their names are not checked.
            detectors: The detectors that there are; absent: likewise. "module:attribute" always passes.
            routers: The routers that there are, likewise.
        """
        found: list[tuple[Steps, str]] = []
        conditions = [(("signals", name, "when"), s.when) for name, s in self.signals.items() if s.when is not None]
        conditions += [(("rules", n, "when"), r.when) for n, r in enumerate(self.rules) if r.when is not None]
        for steps, condition in conditions:
            found += [
                (path, unknown("signal", name, self.signals))
                for path, name in named_in(condition, steps)
                if name not in self.signals
            ]
        found += [
            (("signals", circle[0], "when"), f"needs itself ({' -> '.join(circle)}); take one of them out")
            for circle in self._circles()
        ]
        first: dict[str, int] = {}
        for n, rule in enumerate(self.rules):
            if rule.name in first:
                found.append(
                    (("rules", n, "name"), f"rule {first[rule.name] + 1} is called {rule.name!r}, too; rename one")
                )
            first.setdefault(rule.name, n)
        if not self.strong:
            found += [
                (("rules", n, "strongest"), "needs `strong`, a list of agents at the top of the file; add it")
                for n, rule in enumerate(self.rules)
                if rule.strongest
            ]
        if agents is not None:
            if isinstance(agents, Mapping):
                found += self._unknown_variants(cast("Known", agents))
            known = sorted(cast("Iterable[str]", agents))
            found += [
                (("strong", n), unknown("agent", entry.partition("/")[0], known))
                for n, entry in enumerate(self.strong)
                if entry.partition("/")[0] not in known
            ]
            found += [
                (("rules", n, *steps), unknown("agent", agent, known))
                for n, rule in enumerate(self.rules)
                for steps, agent in rule.named()
                if agent not in known
            ]
        if detectors is not None:
            known = sorted(detectors)
            found += [
                (("signals", name, "detector"), unknown("detector", s.detector, known))
                for name, s in self.signals.items()
                if s.detector is not None and s.detector not in known and ":" not in s.detector
            ]
        if routers is not None:
            known = sorted(routers)
            found += [
                (("rules", n, "next"), unknown("router", rule.next, known))
                for n, rule in enumerate(self.rules)
                if rule.next is not None and rule.next not in known and ":" not in rule.next
            ]
        return found

    def _unknown_variants(self, agents: Known) -> Iterator[tuple[Steps, str]]:
        """Variants of agents that there are which their cards do not have."""
        named: list[tuple[Steps, str, str | None]] = [
            (("strong", n), entry.partition("/")[0], entry.partition("/")[2] or None)
            for n, entry in enumerate(self.strong)
        ]
        for n, rule in enumerate(self.rules):
            chosen = enumerate(rule.agents or ())
            named += [(("rules", n, "agents", place, "variant"), c.agent, c.variant) for place, c in chosen]
        for steps, agent, variant in named:
            if variant is not None and agent in agents and variant not in agents[agent]:
                yield steps, unknown(f"variant of {agent}", variant, agents[agent])

    def _circles(self) -> Iterator[list[str]]:
        """The ways from a signal back to itself, each circle once."""
        below = {
            name: [other for _, other in named_in(s.when) if other in self.signals] if s.when is not None else []
            for name, s in self.signals.items()
        }
        done: set[str] = set()
        for start in below:
            way: list[str] = []
            trail = [iter([start])]
            while trail:
                name = next(trail[-1], None)
                if name is None:
                    trail.pop()
                    if way:
                        done.add(way.pop())
                elif name in way:
                    yield [*way[way.index(name) :], name]
                elif name not in done:
                    way.append(name)
                    trail.append(iter(below[name]))


def read_rules(
    file: Path, *, shown: str = "", agents: Iterable[str] | Known | None = None, detectors: Iterable[str] | None = None
) -> RuleBook:
    """The rules of a YAML or TOML file.

    Args:
        file: Where it is; it ends in `.yaml`, `.yml` or `.toml`.
        shown: What mistakes call it; empty: its path.
        agents: The agents that there are, with or without their variants; absent: their names are not checked.
        detectors: The detectors that there are; absent: likewise.

    Raises:
        ProjectError: If anything is wrong, with every mistake, one a line: file, line, key, sentence.
    """
    return read_book(file, shown or str(file), agents=agents, detectors=detectors)[0]


def rule_book(
    values: Mapping[str, Any], *, agents: Iterable[str] | Known | None = None, detectors: Iterable[str] | None = None
) -> RuleBook:
    """The rules that these keys describe, nested like a file. Arguments and errors as of `read_rules`."""
    return _sound(*_checked(Document(dict(values)), INLINE, {"agents": agents, "detectors": detectors}))


def read_book(file: Path, shown: str, **known: Iterable[str] | None) -> tuple[RuleBook, Document]:
    """`read_rules`, with the document that says on which line each key stands."""
    document = _document(file, shown)
    return _sound(*_checked(document, shown, known)), document


def rule_mistakes(file: Path, shown: str, **known: Iterable[str] | None) -> list[Mistake]:
    """Every mistake of a file of rules; `known` are the names that `RuleBook.mistakes` checks."""
    found = _checked(_document(file, shown), shown, known)[1]
    return sorted(found, key=lambda mistake: mistake.line or 0)


def _document(file: Path, shown: str) -> Document:
    if file.suffix.lower() not in (".yaml", ".yml", ".toml"):
        return Document(mistakes=(Mistake(shown, None, "", "must end in .yaml, .yml or .toml"),))
    try:
        data = file.read_bytes()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        why = f"cannot be read: {error.strerror or type(error).__name__}"
        return Document(mistakes=(Mistake(shown, None, "", "does not exist; correct the path" if missing else why),))
    return _toml(data, shown) if file.suffix.lower() == ".toml" else read_yaml(data, shown)


def _checked(
    document: Document, file: str, known: Mapping[str, Iterable[str] | None]
) -> tuple[RuleBook | None, list[Mistake]]:
    if document.mistakes:
        return None, list(document.mistakes)
    try:
        book, found = validated(RuleBook, document.values)
        if book is not None:
            found = book.mistakes(**known)
    except RecursionError:
        book, found = None, [((), "is nested too deeply; make it flatter")]
    return book, [Mistake(file, document.line(steps), dotted(steps), text) for steps, text in found]


def _sound(book: RuleBook | None, mistakes: Iterable[Mistake]) -> RuleBook:
    if book is None or mistakes:
        raise ProjectError([str(mistake) for mistake in mistakes])
    return book


def _toml(data: bytes, file: str) -> Document:
    text = decode(data, file)
    if isinstance(text, Mistake):
        return Document(mistakes=(text,))
    try:
        return Document(tomllib.loads(text), lines=_toml_lines(text))
    except tomllib.TOMLDecodeError as error:
        words = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", str(error), re.DOTALL)
        what, at = (words[1], words[2]) if words else (str(error), None)
        line = int(at) if at else text.rstrip().count("\n") + 1
        return Document(mistakes=(Mistake(file, line, "", f"is not valid TOML: {what[:1].lower()}{what[1:]}"),))
    except RecursionError:
        return Document(mistakes=(Mistake(file, None, "", "is nested too deeply; make it flatter"),))


def _toml_lines(text: str) -> dict[Steps, int]:
    """The lines of tables and of keys that begin a line, which the parser does not tell. Good for messages only."""
    lines: dict[Steps, int] = {(): 1}
    above: Steps = ()
    counts: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if header := _TOML_HEADER.match(line):
            above = tuple(header[2].replace('"', "").replace(" ", "").split("."))
            if header[1] == "[[":
                counts[header[2]] = counts.get(header[2], -1) + 1
                above = (*above, counts[header[2]])
            elif above[0] == "rules" and "rules" in counts:
                above = ("rules", counts["rules"], *above[1:])
            lines.setdefault(above, number)
        elif key := _TOML_KEY.match(line):
            lines.setdefault((*above, *key[1].split(".")), number)
    return lines


_TOML_HEADER = re.compile(r"^\s*(\[\[?)\s*([\w.\"\s-]+?)\s*\]")
_TOML_KEY = re.compile(r"^\s*([\w.-]+)\s*=")
