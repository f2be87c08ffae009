"""Reads a project's folder into values, and says everything that is wrong with it at once.

Reads settings, cards, roles and scenarios, and finds the knowledge folders; it does not read knowledge. It builds
nothing: which routers, models and conditions exist is told to it.
"""

import json
import os
import re
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

from agentmesh.errors import ConfigError, GraphError, ProjectError, UnknownNameError, nearest
from agentmesh.mistakes import Mistake, Steps, dotted, looks_secret, shown, suggest, unknown, validated
from agentmesh.project.frontmatter import (
    MAX_CARD_BYTES,
    MAX_YAML_BYTES,
    Document,
    decode,
    read_yaml,
    split_front_matter,
)
from agentmesh.project.schema import CARD_KEYS, GraphFile, Scenario, ScenarioFile, scenario_from
from agentmesh.settings import SETTINGS_FILE, GuardrailSettings, MeshSettings, SettingsReading, read_settings
from agentmesh.text import words
from agentmesh.types import AgentCard, RolePolicy

__all__ = [
    "UNCHECKED",
    "KnownNames",
    "Mistake",
    "Project",
    "Stamp",
    "check_project",
    "find_project",
    "is_project",
    "load_project",
    "read_cards",
    "stamps_of",
    "tool_servers",
]

CARD_SUFFIXES, SCENARIO_SUFFIXES = (".md",), (".yaml", ".yml")
AGENTS, ROLES, SCENARIOS, SERVERS = "agents", "memory/roles.yaml", "scenarios", "tools/mcp.json"
FIRST_CARD = "create agents/<id>.md that begins with the lines `---`, `description: what it answers` and `---`"
DEFAULT_ROLE = "solver"
DEFAULT_GRAPH = "default"
"""What traces call the graph of a question, so that no scenario can be called so."""
JSON_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class KnownNames:
    """The names that files may use, from the layers above; None skips that check.

    A name with a colon ("module:attribute", `litellm:...`) is never a mistake.
    """

    routers: Collection[str] | None = None
    context_routers: Collection[str] | None = None
    refiners: Collection[str] | None = None
    embedders: Collection[str] | None = None
    conditions: Collection[str] | None = None
    """Names that `when` and `while` may use."""
    check_model: Callable[[str], None] | None = None
    """Raises `ConfigError` unless a model that is no name of the settings may be one (`openai/gpt-5-mini`)."""
    check_guardrail: Callable[[GuardrailSettings], None] | None = None
    """Raises `ConfigError` unless a guardrail can be made of its settings."""
    check_router: Callable[[MeshSettings, str, Path], None] | None = None
    """Raises `ConfigError` unless the settings make a router of that name."""
    check_rules: Callable[[MeshSettings, Path, Iterable[str]], list[Mistake]] | None = None
    """What is wrong with the rules that the settings name, given the agents, with their variants if they are known."""


UNCHECKED = KnownNames()


class Stamp(NamedTuple):
    """What tells whether a file was written since."""

    inode: int
    written_ns: int
    """Of its content or its place, whichever is later; nanoseconds since 1970."""
    size: int
    """Bytes."""

    @property
    def written_s(self) -> float:
        """Seconds since 1970."""
        return self.written_ns / 1e9


@dataclass(frozen=True)
class Project:
    """A project as it stands on disk, without a mistake."""

    folder: Path
    """Absolute."""
    settings: MeshSettings
    cards: tuple[AgentCard, ...]
    """Sorted by id."""
    roles: dict[str, RolePolicy]
    """By name; `solver` is always there."""
    scenarios: dict[str, Scenario] = field(default_factory=dict[str, Scenario])
    """By name."""
    knowledge: tuple[Path, ...] = ()
    """Folders that exist, absolute."""
    stamps: Mapping[str, Stamp] = field(default_factory=dict[str, Stamp], compare=False, repr=False)
    """Its card files by name, as they were just before they were read."""
    read_at: float = field(default=0.0, compare=False, repr=False)
    """When that was, seconds since 1970."""


def load_project(
    folder: Path,
    *,
    known: KnownNames = UNCHECKED,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Project:
    """Read the project in `folder`.

    Args:
        folder: The project's own folder.
        known: Names to check those in files against.
        environ: Where `AGENTMESH_*` is looked up; None is nowhere.
        overrides: Settings that go over all others.

    Raises:
        ProjectError: If anything is wrong, with every mistake, one a line.
    """
    reader = _Reader(folder, known, environ or {}, overrides)
    project = reader.read()
    if reader.mistakes:
        raise ProjectError([str(m) for m in reader.mistakes])
    return project


def check_project(
    folder: Path,
    *,
    known: KnownNames = UNCHECKED,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    overlay: Mapping[str, bytes | None] | None = None,
) -> list[Mistake]:
    """Every mistake of the project in `folder`; empty if `load_project` would take it. Arguments as there.

    `overlay` holds cards by path (`agents/x.md`) as if they stood there already, or None as if they were gone.
    """
    reader = _Reader(folder, known, environ or {}, overrides, overlay)
    reader.read()
    return reader.mistakes


def stamps_of(folder: Path) -> dict[str, Stamp]:
    """The card files of a folder by name; empty for one that cannot be read. Blocks for a stat of each."""
    found: dict[str, Stamp] = {}
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _may_be_card(entry.name):
                with suppress(OSError):  # it went away in between
                    seen = entry.stat()
                    if not stat.S_ISDIR(seen.st_mode):
                        written = max(seen.st_mtime_ns, seen.st_ctime_ns)
                        found[entry.name] = Stamp(seen.st_ino, written, seen.st_size)
    return found


def read_cards(
    project: Project, names: Collection[str], *, all_names: Collection[str], known: KnownNames = UNCHECKED
) -> tuple[list[AgentCard], list[Mistake]]:
    """Read some card files anew, against the settings and the roles that the project was read with.

    Args:
        project: As it was read.
        names: Of files in `agents/`, with `.md`.
        all_names: Of all card files there; two of one id are a mistake of the one that is read.
        known: Names to check those in cards against.

    Returns:
        The cards without a mistake, and the mistakes. What went away in the meantime is neither.
    """
    reader = _Reader(project.folder, known, {}, None)
    reader.settings, reader.roles = project.settings, project.roles
    reader.servers = reader.read_servers()
    reader.mistakes.clear()  # those of the servers' file are none of a card
    reader.ids = {Path(name).stem for name in all_names}
    first = {Path(name).stem.lower(): f"{AGENTS}/{name}" for name in sorted(set(all_names) - set(names))}
    cards: list[AgentCard] = []
    for name in names:
        if (project.folder / AGENTS / name).exists():
            cards += reader.read_card(project.folder / AGENTS / name, first)
    wrong = {mistake.file for mistake in reader.mistakes}
    return [card for card in cards if f"{AGENTS}/{card.id}.md" not in wrong], reader.mistakes


def tool_servers(folder: Path) -> frozenset[str]:
    """Names of the tool servers that a project has; none where their file cannot be read."""
    return frozenset(_Reader(folder, UNCHECKED, {}, None).read_servers() or ())


def find_project(start: Path) -> Path:
    """The nearest folder from `start` upwards that looks like a project; `start` itself if none does.

    One looks so if it has cards, an `agentmesh.toml`, or a table `[tool.agentmesh]` in its `pyproject.toml`.
    """
    return next((f for f in (start.absolute(), *start.absolute().parents) if is_project(f)), start)


def is_project(folder: Path) -> bool:
    """Whether this folder itself looks like a project; what cannot be read does not."""
    shared = folder / "pyproject.toml"
    with suppress(OSError):
        return (
            (folder / SETTINGS_FILE).is_file()
            or any((folder / AGENTS).glob("*.md"))
            or (shared.is_file() and b"[tool.agentmesh" in shared.read_bytes())
        )
    return False


class _Reader:
    """One pass over a project's files; `mistakes` grows as it goes."""

    def __init__(
        self,
        folder: Path,
        known: KnownNames,
        environ: Mapping[str, str],
        overrides: Mapping[str, Any] | None,
        overlay: Mapping[str, bytes | None] | None = None,
    ) -> None:
        self.given, self.folder, self.known = folder, folder.absolute(), known
        self.environ, self.overrides = environ, overrides
        self.overlay = {self.folder / path: data for path, data in (overlay or {}).items()}
        self.mistakes: list[Mistake] = []
        self.settings = MeshSettings()
        self.settings_broken = False
        """Then names in them are not known, and no name of a model is a second mistake."""
        self.ids: set[str] = set()
        """Of every card file, broken ones among them: a name in it is not a second mistake."""
        self.roles: dict[str, RolePolicy] | None = None
        """None if the file cannot be read, so that no role is checked."""
        self.told: dict[str, str | None] = {}
        self.servers: set[str] | None = None
        """Names of tool servers; None if their file cannot be read."""

    def read(self) -> Project:
        if not self.folder.is_dir():
            self._note(self.given.as_posix(), "there is no such folder; name the folder that holds agents/")
            return Project(self.folder, self.settings, (), {})
        reading = read_settings(self.folder, environ=self.environ, overrides=self.overrides)
        self.mistakes += reading.mistakes
        self.settings = reading.settings
        self.settings_broken = bool(reading.mistakes)
        self._check_settings(reading)
        self.roles = self._read_roles()
        self.servers = self.read_servers()
        read_at, stamps = time.time(), stamps_of(self.folder / AGENTS)
        cards = self._read_cards()
        self._check_budgets(reading)
        if self.known.check_rules is not None and not self.settings_broken:
            variants = {card.id: tuple(card.variants) for card in cards}
            agents = variants if set(variants) == self.ids else self.ids
            self.mistakes += self.known.check_rules(self.settings, self.folder, agents)
        return Project(
            folder=self.folder,
            settings=self.settings,
            cards=tuple(sorted(cards, key=lambda card: card.id)),
            roles=self.roles or {},
            scenarios=self._read_scenarios(),
            knowledge=self._find_knowledge(reading),
            stamps=stamps,
            read_at=read_at,
        )

    def _note(self, file: str, text: str, *, line: int | None = None, key: str = "") -> None:
        self.mistakes.append(Mistake(file, line, key, text))

    def _note_in(self, document: Document, file: str, steps: Steps, text: str) -> None:
        self.mistakes.append(Mistake(file, document.line(steps), dotted(steps), text))

    # --- settings -----------------------------------------------------------------------------------------------------

    def _check_settings(self, reading: SettingsReading) -> None:
        """Names in settings that may be broken otherwise, so that one reading shows all their mistakes."""
        known = self.known
        named = (
            (("routing", "router"), "router", known.routers),
            (("context", "router"), "context router", known.context_routers),
            (("refiner",), "refiner", known.refiners),
            (("memory", "embedder"), "embedder", known.embedders),
            (("refiner_model",), "model", None if self.settings_broken else self.settings.models),
            (("routing", "model"), "model", None if self.settings_broken else self.settings.models),
        )
        for steps, kind, names in named:
            for _, name in _at(reading.values, steps):
                if wrong := _unknown(kind, name, names):
                    self.mistakes.append(reading.mistake(steps, wrong))
        for steps, name in _routers_in(reading.values):
            if wrong := _unknown("router", name, known.routers):
                self.mistakes.append(reading.mistake(steps, wrong))
        for steps, model in _at(reading.values, ("models", None, "model")):
            if wrong := self._told_of(model):
                self.mistakes.append(reading.mistake(steps, wrong))
        self._check_guardrails(reading)
        if not self.mistakes:
            self._check_routers(reading)

    def _check_routers(self, reading: SettingsReading) -> None:
        """Options of routers, of settings that are right in themselves; the mesh's own last, for it may need others."""
        check, routing = self.known.check_router, self.settings.routing
        main, others = routing.router, [name for name in routing.routers if name != routing.router]
        set_for: list[tuple[Steps, str]] = [(("routing", "routers", name), name) for name in others]
        if routing.options:
            set_for.append((("routing", "options"), main))
        elif routing.routers:
            set_for.append((("routing", "routers", main) if main in routing.routers else ("routing", "router"), main))
        for steps, name in set_for:
            if check is None or ":" in name:
                continue
            try:
                check(self.settings, name, self.folder)
            except ConfigError as error:
                self.mistakes.append(reading.mistake(steps, str(error)))
                return

    def _check_guardrails(self, reading: SettingsReading) -> None:
        """Rules and their options, of entries that are right in themselves."""
        check, entries = self.known.check_guardrail, reading.values.get("guardrails")
        if check is None or not isinstance(entries, list | tuple):
            return
        for index, entry in enumerate(cast("Sequence[object]", entries)):
            values = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
            guardrail, _ = validated(GuardrailSettings, values)
            try:
                if guardrail is not None:
                    check(guardrail)
            except ConfigError as error:
                steps = (
                    "guardrails",
                    index,
                    *(("rule",) if isinstance(error, UnknownNameError) and error.kind == "guardrail" else ()),
                )
                self.mistakes.append(reading.mistake(steps, str(error)))

    def _check_budgets(self, reading: SettingsReading) -> None:
        """Budgets of agents that are not there; those of users and tenants may be of anybody."""
        named: Any = reading.values.get("budgets")
        named = cast("dict[str, Any]", named).get("agents") if isinstance(named, dict) else None
        for agent in cast("dict[str, Any]", named) if isinstance(named, dict) else ():
            if agent != "*" and self.ids and agent not in self.ids:
                wrong = unknown("agent", agent, self.ids)
                self.mistakes.append(reading.mistake(("budgets", "agents", agent), wrong))

    def _model_mistake(self, name: str) -> str | None:
        """What is wrong with the model of a card: a name of the settings, or a model id."""
        models = self.settings.models
        if name in models or self.settings_broken:
            return None
        close = nearest(name, list(models))
        wrong = unknown("model", name, close) if close or looks_secret(name) else None
        if self.known.check_model is None:
            return None if "/" in name or ":" in name else wrong
        told = self._told_of(name)
        return told and (wrong or told)

    def _told_of(self, model: str) -> str | None:
        """What the models layer says against this model; asked once for each."""
        if model not in self.told:
            self.told[model] = None
            try:
                if self.known.check_model is not None:
                    self.known.check_model(model)
            except ConfigError as error:
                self.told[model] = unknown("model", model, ()) if looks_secret(model) else str(error)
        return self.told[model]

    def _find_knowledge(self, reading: SettingsReading) -> tuple[Path, ...]:
        found: list[Path] = []
        for index, name in enumerate(self.settings.memory.knowledge):
            path = self.folder / name
            if path.is_dir():
                found.append(path)
            elif path.exists():
                wrong = f"{name} is a file; name the folder that holds it"
                self.mistakes.append(reading.mistake(("memory", "knowledge", index), wrong))
            elif ("memory", "knowledge") in reading.origins:
                wrong = f"there is no folder {shown(name)}; make it, or take the name out"
                self.mistakes.append(reading.mistake(("memory", "knowledge", index), wrong))
        return tuple(found)

    # --- roles and tool servers ---------------------------------------------------------------------------------------

    def _read_roles(self) -> dict[str, RolePolicy] | None:
        built_in = {DEFAULT_ROLE: RolePolicy()}
        path = self.folder / ROLES
        if not path.exists():
            return built_in
        data = self._bytes(path, MAX_YAML_BYTES)
        if data is None:
            return None
        document = read_yaml(data, ROLES)
        if document.mistakes:
            self.mistakes += document.mistakes
            return None
        roles = dict(built_in)
        for name, value in document.values.items():
            roles.setdefault(name, RolePolicy())
            if not isinstance(value, dict):
                self._note_in(document, ROLES, (name,), f"must be a group of keys, not {shown(value)}")
                continue
            policy, found = validated(RolePolicy, cast("dict[str, Any]", value))
            for steps, text in [*found, *(_range_mistakes(policy) if policy else ())]:
                self._note_in(document, ROLES, (name, *steps), text)
            roles[name] = policy or roles[name]
        return roles

    def read_servers(self) -> set[str] | None:
        """Names of the tool servers; None if their file cannot be read."""
        path = self.folder / SERVERS
        if not path.exists():
            return set()
        read = self._json(path, SERVERS)
        if read is None:
            return None
        servers: object = cast("dict[str, Any]", read[0]).get("mcpServers") if isinstance(read[0], dict) else None
        if not isinstance(servers, dict):
            self._note(SERVERS, 'must hold {"mcpServers": {"<name>": {"command": ...}}}', key="mcpServers")
            return None
        named = cast("dict[str, Any]", servers)
        for name, server in named.items():
            if not isinstance(server, dict) or not {"command", "url"} & set(cast("dict[str, Any]", server)):
                self._note(SERVERS, "must be a group of keys with `command` or `url`", key=f"mcpServers.{name}")
        return set(named)

    # --- cards --------------------------------------------------------------------------------------------------------

    def _read_cards(self) -> list[AgentCard]:
        folder = self.folder / AGENTS
        if not folder.is_dir() and not self.overlay:
            other = [n for n in (SETTINGS_FILE, ROLES, SCENARIOS, SERVERS) if (self.folder / n).exists()]
            what = "there is no such folder" if other else "this is no mesh project, for there is no such folder"
            self._note(f"{AGENTS}/", f"{what}; {FIRST_CARD}")
            return []
        there = [p for p in self._files(folder, CARD_SUFFIXES) if p not in self.overlay] if folder.is_dir() else []
        there += [p for p, data in self.overlay.items() if data is not None]
        paths = [p for p in sorted(there) if _may_be_card(p.name)]
        if not paths:
            self._note(f"{AGENTS}/", f"no agent is here (files that do not end in .md do not count); {FIRST_CARD}")
        self.ids = {p.stem for p in paths}
        first: dict[str, str] = {}
        cards: list[AgentCard] = []
        for path in paths:
            cards += self.read_card(path, first)
        return cards

    def read_card(self, path: Path, first: dict[str, str]) -> list[AgentCard]:
        """The card of a file, if one can be made of it; `first` has the file of each id so far, in small letters."""
        file = f"{AGENTS}/{path.name}"
        twin = first.setdefault(path.stem.lower(), file)
        if twin != file:
            self._note(file, f"has the same id as {twin} but for capital letters; rename one")
        if not _ID.fullmatch(path.stem):
            self._note(file, "its name cannot be an id; use letters, digits, '_', '.' and '-', at most 64")
        elif card := self._read_card(path, file):
            return [card]
        return []

    def _read_card(self, path: Path, file: str) -> AgentCard | None:
        data = self._bytes(path, MAX_CARD_BYTES)
        if data is None:
            return None
        document = split_front_matter(data, file)
        if document.mistakes:
            self.mistakes += document.mistakes
            return None
        values = dict(document.values)
        for key, text in (("id", "the id is the file's name"), ("instructions", "instructions are the text below")):
            if key in values:
                del values[key]
                self._note_in(document, file, (key,), f"{text}; take this key out")
        if isinstance(values.get("output_schema"), str):
            values["output_schema"] = self._schema_file(values["output_schema"], document, file)
        self._check_schema(values.get("output_schema"), document, file)
        card, found = validated(AgentCard, {**values, "id": path.stem, "instructions": document.body})
        for steps, text in found:
            if text.startswith("unknown key") and len(steps) == 1:
                text = f"unknown key{suggest(str(steps[0]), CARD_KEYS)}"
            if steps == ("description",) and not values.get("description") and values.get("examples"):
                text = f"{text.partition(';')[0]}; {_describe(path.stem)}"
            self._note_in(document, file, steps, text)
        if card and not words(card.description):
            what = "holds no words" if card.description.strip() else "is empty"
            then = _describe(path.stem) if card.examples else "say in a sentence what the agent answers"
            self._note_in(document, file, ("description",), f"{what}; {then}")
        self._check_card_names(values, document, file)
        return card

    def _check_card_names(self, values: Mapping[str, Any], document: Document, file: str) -> None:
        """Names in a card that may be broken otherwise, so that one reading shows all its mistakes."""
        for steps, value in _at(values, ("role",)):
            if self.roles is not None and value not in self.roles:
                self._note_in(document, file, steps, unknown("role", value, self.roles))
        for steps, value in (*_at(values, ("model",)), *_at(values, ("variants", None, "model"))):
            if wrong := self._model_mistake(value):
                self._note_in(document, file, steps, wrong)
        for steps, value in (*_at(values, ("tools", None)), *_at(values, ("tool",))):
            server = value.partition(".")[0]
            if self.servers is not None and server not in self.servers:
                none = "" if self.servers else f"; {SERVERS} names none"
                self._note_in(document, file, steps, unknown("tool server", server, self.servers) + none)

    def _schema_file(self, name: str, document: Document, file: str) -> object:
        """The JSON schema in a file of the project; None after a mistake."""
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            self._note_in(
                document, file, ("output_schema",), f"{shown(name)} lies outside of the project; move it inside"
            )
        elif not path.is_file():
            self._note_in(document, file, ("output_schema",), f"there is no file {shown(name)} in the project")
        elif (read := self._json(path, name)) is not None:
            return read[0]
        return None

    def _check_schema(self, schema: object, document: Document, file: str) -> None:
        if schema is None:
            return
        kind: object = cast("dict[str, Any]", schema).get("type") if isinstance(schema, dict) else None
        if kind is None:
            self._note_in(document, file, ("output_schema",), "is no JSON schema; it needs a `type`, such as `object`")
        elif isinstance(kind, str) and kind not in JSON_TYPES:
            wrong = unknown("JSON type", kind, JSON_TYPES)
            self._note_in(document, file, ("output_schema", "type"), wrong)

    # --- scenarios ----------------------------------------------------------------------------------------------------

    def _read_scenarios(self) -> dict[str, Scenario]:
        folder = self.folder / SCENARIOS
        scenarios: dict[str, Scenario] = {}
        for path in self._files(folder, SCENARIO_SUFFIXES) if folder.is_dir() else ():
            file = f"{SCENARIOS}/{path.name}"
            if path.suffix not in SCENARIO_SUFFIXES or (data := self._bytes(path, MAX_YAML_BYTES)) is None:
                continue
            document = read_yaml(data, file)
            self.mistakes += document.mistakes
            if document.mistakes:
                continue
            if not document.values:
                self._note(file, "the file is empty; write `tasks:` with a list of `ask: ...`, or remove it", line=1)
                continue
            form, found = validated(ScenarioFile, document.values)
            if form is None:
                for steps, text in (*found, *self._names_in(document.values)):
                    self._note_in(document, file, steps, text)
                continue
            scenario = scenario_from(form, file, path.stem)
            for steps, text in self._scenario_mistakes(form, scenario):
                self._note_in(document, file, steps, text)
            if scenario.name == DEFAULT_GRAPH:
                text = f"{DEFAULT_GRAPH!r} is the graph that questions take; choose another name"
                self._note_in(document, file, ("name",), text)
            if twin := scenarios.get(scenario.name):
                self._note_in(document, file, ("name",), f"{twin.file} is called {scenario.name!r} too; rename one")
            scenarios[scenario.name] = scenario
        return scenarios

    def _scenario_mistakes(self, form: ScenarioFile, scenario: Scenario) -> Iterator[tuple[Steps, str]]:
        if not form.agents:
            yield ("agents",), 'names no agent; list ids, or write "*" for all'
        takes_part = self.ids if "*" in form.agents else self.ids & set(form.agents)
        for index, agent in enumerate(form.agents):
            yield from self._agent_mistakes(agent, self.ids, ("agents", index))
        if form.router and (wrong := _unknown("router", form.router, self.known.routers)):
            yield ("router",), wrong
        if form.graph is not None:
            yield from self._graph_mistakes(form.graph, ("graph",), takes_part)
            yield from _shape_mistakes(form.graph, scenario)
        seen: dict[str, int] = {}
        for index, task in enumerate(scenario.tasks):
            if (first := seen.setdefault(task.id, index)) != index:
                yield ("tasks", index, "id"), f"tasks[{first}] has the id {task.id!r} too; rename one"
            if not task.ask.strip():
                yield ("tasks", index, "ask"), "is empty; write what the user says"
            for n, agent in enumerate(task.expect.agents if task.expect else ()):
                yield from self._agent_mistakes(agent, takes_part, ("tasks", index, "expect", "agents", n))

    def _names_in(self, values: Mapping[str, Any]) -> Iterator[tuple[Steps, str]]:
        """Unknown names in a scenario whose form is wrong, so that one reading shows all its mistakes."""
        for steps, agent in (*_at(values, ("agents", None)), *_at(values, ("tasks", None, "expect", "agents", None))):
            yield from self._agent_mistakes(agent, self.ids, steps)
        for steps, router in _at(values, ("router",)):
            if wrong := _unknown("router", router, self.known.routers):
                yield steps, wrong

    def _agent_mistakes(self, agent: str, takes_part: Collection[str], steps: Steps) -> Iterator[tuple[Steps, str]]:
        if agent == "*" or agent in takes_part or not self.ids:  # no agent at all is one mistake, not one a name
            return
        if agent in self.ids:
            yield steps, f"the agent {agent!r} is not among the scenario's `agents`; add it there"
        else:
            yield steps, unknown("agent", agent, self.ids)

    def _graph_mistakes(
        self, graph: GraphFile, steps: Steps, takes_part: Collection[str]
    ) -> Iterator[tuple[Steps, str]]:
        """Names and misplaced keys in the file's own form, where each has its line."""
        for index, stage in enumerate(graph.stages):
            here = (*steps, "stages", index)
            for key, text in stage.misplaced_keys():
                yield (*here, key), text
            named: list[tuple[Steps, str]] = [(("agent",), stage.agent)] if stage.agent else []
            named += [((key, n), a) for key in ("agents", "pool") for n, a in enumerate(getattr(stage, key) or ())]
            named += [(("layers", i, n), a) for i, layer in enumerate(stage.layers or ()) for n, a in enumerate(layer)]
            for below, agent in named:
                yield from self._agent_mistakes(agent, takes_part, (*here, *below))
            if stage.router and (wrong := _unknown("router", stage.router, self.known.routers)):
                yield (*here, "router"), wrong
            if stage.graph is not None:
                yield from self._graph_mistakes(stage.graph, (*here, "graph"), takes_part)
        conditions: list[tuple[Steps, str]] = [
            ((*steps, "loops", n, "while"), loop.while_) for n, loop in enumerate(graph.loops)
        ]
        conditions += [((*steps, "edges", n, "when"), edge.when) for n, edge in enumerate(graph.edges) if edge.when]
        for here, name in conditions:
            if wrong := _unknown("condition", name, self.known.conditions):
                yield here, wrong

    # --- files --------------------------------------------------------------------------------------------------------

    def _files(self, folder: Path, suffixes: Sequence[str]) -> list[Path]:
        """What is no folder and not hidden, by name; what only looks like one of those wanted is a mistake."""
        try:
            there = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
            files = [p for p in there if not p.is_dir()]
        except OSError as error:
            self._note(f"{folder.relative_to(self.folder).as_posix()}/", _unreadable(error))
            return []
        for path in there:
            file = path.relative_to(self.folder).as_posix()
            if path.suffix in suffixes and path not in files:
                self._note(f"{file}/", "is a folder, and nothing in it is read; rename it, or move its files up")
            elif path.suffix not in suffixes and path.suffix.lower() in suffixes and path in files:
                self._note(file, f"is not read, for its name ends in {path.suffix}; write {path.suffix.lower()}")
        return files

    def _bytes(self, path: Path, most_bytes: int) -> bytes | None:
        """At most one byte more than is allowed, which `decode` then refuses; None after a mistake."""
        if (data := self.overlay.get(path)) is not None:
            return data[: most_bytes + 1]
        name = path.relative_to(self.folder).as_posix()
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait for ever
                self._note(name, "is no plain file; put one in its place, or take it out")
                return None
            with path.open("rb") as file:
                return file.read(most_bytes + 1)
        except OSError as error:
            self._note(name, _unreadable(error))
            return None

    def _json(self, path: Path, file: str) -> tuple[Any] | None:
        """What a JSON file holds, in a tuple since that may be null; None after a mistake."""
        data = self._bytes(path, MAX_YAML_BYTES)
        if data is None:
            return None
        text = decode(data, file)
        if isinstance(text, Mistake):
            self.mistakes.append(text)
            return None
        try:
            return (json.loads(text),)
        except json.JSONDecodeError as error:
            self._note(file, f"is not valid JSON: {error.msg[:1].lower()}{error.msg[1:]}", line=error.lineno)
        except RecursionError:
            self._note(file, "is nested too deeply; make it flatter")
        return None


def _may_be_card(name: str) -> bool:
    """Whether a file of this name beside the cards is one."""
    return name.endswith(CARD_SUFFIXES) and not name.startswith(".") and name.lower() != "readme.md"


def _describe(agent: str) -> str:
    """What to do about a description that is not there, where examples are."""
    return f"write one, or let `agentmesh agents describe {agent} --write` do so from the examples"


def _routers_in(values: Mapping[str, Any]) -> Iterator[tuple[Steps, str]]:
    """The names of routers that our routers are made of, or that options are set for."""
    groups: dict[tuple[str, ...], str] = {
        ("routing", "options"): next((n for _, n in _at(values, ("routing", "router"))), "")
    }
    routing: object = values.get("routing")
    further: object = cast("dict[str, object]", routing).get("routers") if isinstance(routing, dict) else None
    for name in cast("dict[str, object]", further) if isinstance(further, dict) else ():
        yield ("routing", "routers", name), name
        groups["routing", "routers", name] = name
    for group, router in groups.items():
        inner = (("shortlist",), ("fallback",), ("steps", None), ("router",), ("shadow",), ("otherwise",),
                 ("rules", None, "next"))  # fmt: skip
        for option in inner if ":" not in router else ():
            yield from _at(values, (*group, *option))


def _unknown(kind: str, name: str, names: Collection[str] | None) -> str | None:
    if names is None or name in names or ":" in name:
        return None
    return unknown(kind, name, names)


def _range_mistakes(policy: RolePolicy) -> Iterator[tuple[Steps, str]]:
    """Numbers of a role that no agent could work with."""
    for stage, tokens in policy.budget_tokens.items():
        if tokens < 1:
            yield ("budget_tokens", stage), f"must be 1 or more, not {tokens}"
    for name, weights in (("kinds", policy.kinds), ("stage_priority", policy.stage_priority)):
        for key, weight in weights.items():
            if not 0 <= weight < float("inf"):
                yield (name, str(key)), f"must be 0 or more, not {weight:g}"
    for part, tokens in policy.reserve_tokens.items():
        if tokens < 0:
            yield ("reserve_tokens", part), f"must be 0 or more, not {tokens}"
    least = min((*policy.budget_tokens.values(), policy.budget_for("base")))
    if (reserved := sum(policy.reserve_tokens.values())) >= least > 0:
        yield ("reserve_tokens",), f"reserves {reserved} of a budget of {least} tokens; leave room for memory"


def _shape_mistakes(form: GraphFile, scenario: Scenario) -> Iterator[tuple[Steps, str]]:
    """What the graph's own check finds, each at the loop or the first stage that its sentence names."""
    positions: dict[str, Steps] = {stage.name: ("graph", "stages", n) for n, stage in enumerate(form.stages)}
    loops: dict[str, Steps] = {f"{x.after!r} -> {x.back_to!r}": ("graph", "loops", n) for n, x in enumerate(form.loops)}
    try:
        scenario.to_graph_spec().check()
    except GraphError as error:
        for text in error.mistakes:
            places = [steps for loop, steps in loops.items() if f"loop {loop} " in text]
            places += [positions[name] for name in re.findall(r"'([^']+)'", text) if name in positions]
            yield (places[0] if places else ("graph",)), text


def _at(value: object, pattern: tuple[str | None, ...], steps: Steps = ()) -> Iterator[tuple[Steps, str]]:
    """The texts at a path in which None stands for any key or index; anything else there is passed over."""
    if not pattern:
        if isinstance(value, str):
            yield steps, value
        return
    step, rest = pattern[0], pattern[1:]
    if isinstance(value, dict):
        for key, inner in cast("dict[str, object]", value).items():
            if step is None or key == step:
                yield from _at(inner, rest, (*steps, key))
    elif isinstance(value, list) and step is None:
        for index, inner in enumerate(cast("list[object]", value)):
            yield from _at(inner, rest, (*steps, index))


def _unreadable(error: OSError) -> str:
    return f"cannot be read: {(error.strerror or type(error).__name__).lower()}"
