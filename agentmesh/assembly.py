"""Builds a mesh from a project folder or from Python values. The only place that knows the variants by name."""

import asyncio
import contextlib
import inspect
import os
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import BaseModel

from agentmesh.agents import refiners
from agentmesh.agents.base import Agent, Refiner
from agentmesh.budgets import BUDGET_TABLES, Ledger, check_agents
from agentmesh.context import context_routers
from agentmesh.context.base import ContextRouter
from agentmesh.database import Database
from agentmesh.errors import ConfigError, InputError, MeshError, StoreError, UnknownNameError, nearest
from agentmesh.graphs import GraphSpec
from agentmesh.guardrails import PASSED, Guardrail, check_guardrail, open_guardrails
from agentmesh.journal import JOURNAL_TABLES, DatabaseJournal
from agentmesh.memory.arrays import ArrayStore
from agentmesh.memory.base import MemoryStore
from agentmesh.memory.ingest import ingest, knowledge_files, read_knowledge
from agentmesh.memory.owner import open_memory
from agentmesh.memory.writer import Draft, MemoryWriter
from agentmesh.mistakes import dotted, validated
from agentmesh.models import check_model_spec, embedders, open_embedder, open_model
from agentmesh.models.base import ChatModel, Embedder
from agentmesh.models.weights import find_weights
from agentmesh.project.loader import KnownNames, Mistake, Project, check_project, load_project, tool_servers
from agentmesh.project.watch import CardFolder
from agentmesh.routing import routers
from agentmesh.routing.base import Router
from agentmesh.run import Journal, Limits, SystemClock, loose_context
from agentmesh.runtime.conditions import CONDITIONS
from agentmesh.runtime.graph import AgentGraph
from agentmesh.runtime.locks import resuming_alone
from agentmesh.runtime.nodes import Parts
from agentmesh.runtime.recent import RecentRuns
from agentmesh.runtime.team import Team
from agentmesh.runtime.threads import THREAD_TABLES, DatabaseThreads, MemoryThreads
from agentmesh.settings import BudgetSettings, MeshSettings, ModelSettings, RoutingSettings, load_settings
from agentmesh.text import words
from agentmesh.tools.allowed import check_tool_names
from agentmesh.tools.base import Toolset
from agentmesh.tools.functions import FunctionToolset
from agentmesh.tools.unconnected import UnconnectedToolset
from agentmesh.trace.base import NullSink, TraceSink
from agentmesh.trace.events import Event
from agentmesh.trace.redact import Redactor, secret_values
from agentmesh.trace.store import TRACE_TABLES, TraceStore
from agentmesh.types import AgentCard, MemoryKind, RolePolicy, Sensitive

if TYPE_CHECKING:  # LangGraph takes a second to import, and most commands need none of it
    from agentmesh.runtime.mesh import Mesh, Services

__all__ = [
    "KnowledgeWarning",
    "build_mesh",
    "check_folder",
    "describe_models",
    "known_names",
    "load_mesh",
    "mesh_of",
    "open_ledger",
    "open_project",
    "open_routers",
    "open_trace",
]


class KnowledgeWarning(UserWarning):
    """A knowledge file, or a part of one, was left out; the text says which and how to mend it."""


V = TypeVar("V", bound=BaseModel)
Progress = Callable[[int, int, str], None]
"""Told how far a long piece of work is: done, total, name of the present part."""


def load_mesh(
    folder: str | Path = ".",
    *,
    progress: Progress | None = None,
    environ: Mapping[str, str] | None = None,
    **overrides: Any,
) -> "Mesh":
    """The mesh of a project folder. Nothing is opened before its first use.

    Args:
        folder: With `agents/`, `memory/`, `scenarios/` and settings in `agentmesh.toml` or `pyproject.toml`.
        progress: Told how far the first loading of knowledge is.
        environ: Where `AGENTMESH_*` is read from; None: the process's environment.
        overrides: Settings that win over all others, nested as in the file: `models={"default": "openai/gpt-5-mini"}`.

    Raises:
        ProjectError: With every mistake of the project at once.
        ConfigError: If a setting is wrong.
    """
    return mesh_of(open_project(folder, environ=environ, **overrides), progress=progress)


def open_project(folder: str | Path = ".", *, environ: Mapping[str, str] | None = None, **overrides: Any) -> Project:
    """Read and check a project folder; takes and raises what `load_mesh` does."""
    environ = os.environ if environ is None else environ
    return load_project(Path(folder), known=known_names(), environ=environ, overrides=overrides)


def mesh_of(project: Project, *, progress: Progress | None = None) -> "Mesh":
    """The mesh of a project that was read; its scenarios are graphs by their names."""
    most = project.settings.routing.max_agents
    graphs = {name: scenario.to_graph_spec(max_agents=most) for name, scenario in project.scenarios.items()}
    team = Team({card.id: card for card in project.cards})
    return _mesh(project.settings, team, project.roles, graphs, project=project, progress=progress)


def build_mesh(
    agents: Sequence[AgentCard | Agent | Callable[..., Any]],
    *,
    model: str | ChatModel | Mapping[str, str | ChatModel] = "embedded",
    router: str | Router = "semantic",
    context: str | ContextRouter = "role_aware",
    refiner: str | Refiner = "auto",
    embedder: str | Embedder = "wordllama",
    roles: Mapping[str, RolePolicy | Mapping[str, Any]] | None = None,
    knowledge: str | Path | Sequence[str] = (),
    tools: Mapping[str, Toolset | Sequence[Callable[..., Any]]] | None = None,
    guardrails: Sequence[Guardrail | Callable[..., Any]] = (),
    graphs: Mapping[str, AgentGraph | GraphSpec] | None = None,
    max_agents: int = 3,
    limits: Limits | Mapping[str, Any] | None = None,
    budgets: BudgetSettings | Mapping[str, Any] | None = None,
    home: str | Path | None = None,
    store: MemoryStore | None = None,
    sink: TraceSink | None = None,
) -> "Mesh":
    """A mesh from Python values; no project folder is needed.

    Args:
        agents: Cards, objects that satisfy `Agent`, functions (async or not) whose name and docstring make the card, or
            compiled LangGraph graphs whose name and state's docstring do.
        model: The model of every card that names none; or models by name, `default` among them.
        router: How agents are chosen.
        context: How their context is chosen.
        refiner: How their answers become one.
        embedder: What turns texts into vectors.
        roles: Roles by name; `solver` is there anyway.
        knowledge: A folder to load into memory, or texts.
        tools: What cards may name in `tools` and `tool`, by server: a toolset, or typed functions with docstrings.
        guardrails: What checks questions, answers and memory: guardrails, or functions of a text.
        max_agents: Most agents that the default graph calls for one question.
        graphs: Graphs that `ask(graph="name")` may name.
        limits: Budgets of every run that sets none itself.
        budgets: Budgets over many runs, of agents, users and tenants: as in the settings.
        home: Folder for state that outlives the process (traces, checkpoints, memory); None: nothing is kept.
        store: A memory store of your own.
        sink: A taker of events; None: the trace store, where there is a `home`.

    Raises:
        ConfigError: If a name is not known, two agents share an id, or something is not what its argument takes.
    """
    _check_collections(agents, tools, guardrails, graphs, roles, knowledge)
    _check_parts(router=router, context=context, refiner=refiner, embedder=embedder, store=store, sink=sink)
    made = [_agent_of(agent) for agent in agents]
    if not made:
        raise ConfigError("a mesh needs at least one agent; give a card, an `Agent`, a function, or a compiled graph")
    cards = [m if isinstance(m, AgentCard) else m.card for m in made]
    ids = [card.id for card in cards]
    if repeated := sorted({i for i in ids if ids.count(i) > 1}):
        raise ConfigError(f"two agents are called {repeated[0]!r}; rename one")
    models = dict(model) if isinstance(model, Mapping) else {"default": model}
    given_models = {k: v for k, v in models.items() if not isinstance(v, str)}
    for name, one in given_models.items():
        if not isinstance(one, ChatModel):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"model {name!r}: {_lacks(one, ChatModel)}")
    named = {k: ModelSettings(model=v) for k, v in models.items() if isinstance(v, str)}
    for name, spec in named.items():
        check_model_spec(spec.model, where=f"model {name!r}")
    settings = MeshSettings(
        models=named or {"default": ModelSettings(model="scripted")},
        durable=home is not None,
        home=Path(home) if home is not None else Path(".agentmesh"),
        limits=_valued(Limits, limits or {}, "limits"),
        budgets=_budgets_of(budgets, ids),
        routing=_valued(RoutingSettings, {"max_agents": max_agents}, ""),
    )
    every_role = {"solver": RolePolicy(), **{name: _role_of(name, role) for name, role in (roles or {}).items()}}
    toolsets = {
        name: given if isinstance(given, Toolset) else FunctionToolset(given, name=name)
        for name, given in (tools or {}).items()
    }
    given = _Given(
        models=given_models,
        model_names=frozenset(models),
        router=router,
        context=context,
        refiner=refiner,
        embedder=embedder,
        store=store,
        sink=sink,
        knowledge=knowledge,
        toolsets=toolsets,
        guardrails=guardrails,
    )
    for one in made:
        _check_joining(one, settings, every_role, given=given)
    if isinstance(knowledge, str | Path) and not Path(knowledge).is_dir():
        raise ConfigError(f"knowledge={str(knowledge)!r} is no folder; give a folder, or a list of texts")
    if isinstance(router, str):
        routers.check(router)
    if isinstance(context, str):
        context_routers.check(context)
    if isinstance(refiner, str):
        refiners.check(refiner)
    if isinstance(embedder, str) and not embedder.startswith("litellm:"):
        embedders.check(embedder)
    team = Team({card.id: card for card in cards}, {m.card.id: m for m in made if not isinstance(m, AgentCard)})
    return _mesh(settings, team, every_role, graphs or {}, given=given)


def known_names() -> KnownNames:
    """The names that a project file may use."""
    return KnownNames(
        routers=frozenset(routers.builtin),
        context_routers=frozenset(context_routers.builtin),
        refiners=frozenset(refiners.builtin),
        embedders=frozenset(embedders.builtin),
        conditions=frozenset(CONDITIONS),
        check_model=check_model_spec,
        check_guardrail=check_guardrail,
        check_router=_check_router,
        check_rules=_check_rules,
    )


def _check_router(settings: MeshSettings, name: str, folder: Path) -> None:
    """Raise `ConfigError` unless these settings make a router of that name; nothing is asked or loaded."""
    try:
        _Routers(settings, None, _Models(settings, {}), open_embedder(settings.memory.embedder), folder).of(name)
    except ConfigError:
        raise
    except MeshError:  # a key or weights that are not here: no mistake of a file
        return


def _check_rules(settings: MeshSettings, folder: Path, agents: Iterable[str]) -> list[Mistake]:
    """What is wrong with the rules that the settings name."""
    file = settings.routing.rules
    if file is None:
        return []
    from agentmesh.routing.rulebook import rule_mistakes
    from agentmesh.routing.signals import OWN_DETECTORS

    known = {*OWN_DETECTORS, *_detectors(None)}
    named = {*routers.builtin, *settings.routing.routers}
    return rule_mistakes(folder / file, file, agents=agents, detectors=known, routers=named)


def check_folder(folder: str | Path, *, environ: Mapping[str, str] | None = None) -> list[Mistake]:
    """Every mistake of a project, in order of file and line."""
    found = check_project(Path(folder), known=known_names(), environ=os.environ if environ is None else environ)
    return found or _knowledge_mistakes(open_project(folder, environ=environ))


def _knowledge_mistakes(project: Project) -> list[Mistake]:
    """What a run would leave out of memory, with the reasons."""
    found: list[Mistake] = []
    for folder in project.knowledge:
        where = Path(os.path.relpath(folder, project.folder)).as_posix()
        for name in knowledge_files(folder):
            try:
                read = read_knowledge((folder / name).read_bytes(), name)
            except OSError as error:
                found.append(Mistake(f"{where}/{name}", None, "", f"cannot be read: {error.strerror}"))
                continue
            for text in read.mistakes:
                line, _, words = (told := text.removeprefix(f"{name}:").strip()).partition(": ")
                placed = (int(line), words) if line.isdecimal() else (None, told)
                found.append(Mistake(f"{where}/{name}", placed[0], "", placed[1]))
    return found


def open_trace(folder: str | Path, *, environ: Mapping[str, str] | None = None) -> tuple[TraceStore, Database]:
    """The recorded runs of a project, for reading; close the database when done.

    Raises:
        InputError: If nothing was recorded yet.
        StoreError: If it cannot be read.
    """
    folder = Path(folder)
    settings = load_settings(folder, environ=os.environ if environ is None else environ)
    home = folder / settings.home
    if not (home / "mesh.db").exists():
        raise InputError(f"{settings.home}: nothing was recorded yet; run something with `agentmesh run` first")
    return _open_records(home, settings)


@contextlib.asynccontextmanager
async def open_ledger(folder: str | Path, *, environ: Mapping[str, str] | None = None) -> AsyncGenerator[Ledger]:
    """What the agents, users and tenants of a project spent; nothing, if nothing was recorded yet.

    Raises:
        ProjectError: If the settings are wrong.
        StoreError: If it cannot be read.
    """
    folder = Path(folder)
    settings = load_settings(folder, environ=os.environ if environ is None else environ)
    path = folder / settings.home / "mesh.db"
    if not path.exists():
        yield Ledger(settings.budgets)
        return
    db = Database(path, (BUDGET_TABLES,))
    try:
        yield Ledger(settings.budgets, db)
    finally:
        await db.aclose()


@contextlib.asynccontextmanager
async def open_routers(project: Project) -> AsyncGenerator[Callable[[str | None], Router]]:
    """The routers of a project by name; None: its own. Opens no memory and no state folder."""
    models = _Models(project.settings, {})
    embedder = open_embedder(project.settings.memory.embedder)
    choosers = _Routers(project.settings, None, models, embedder, project.folder, project.cards)
    try:
        yield choosers.outer
    finally:
        await choosers.aclose()
        await models.aclose()


def describe_models(project: Project) -> list[dict[str, Any]]:
    """The models of a project by name: what each is, whether it is capable, whether it can be used now."""
    rows: list[dict[str, Any]] = []
    for name, settings in project.settings.models.items():
        row: dict[str, Any] = {"name": name, "model": settings.model}
        try:
            info = open_model(name, settings).info
            row |= {"capable": info.capable, "local": info.local, "context_tokens": info.context_tokens}
            row["ready"] = _readiness(settings.model)
        except MeshError as error:
            row |= {"capable": False, "local": False, "context_tokens": None, "ready": str(error)}
        rows.append(row)
    return rows


# --- how a mesh comes about -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Given:
    """Parts that the caller of `build_mesh` made or named."""

    models: Mapping[str, ChatModel]
    model_names: frozenset[str]
    """Of all models, those that are named too."""
    router: str | Router
    context: str | ContextRouter
    refiner: str | Refiner
    embedder: str | Embedder
    store: MemoryStore | None
    sink: TraceSink | None
    knowledge: str | Path | Sequence[str]
    guardrails: Sequence[Guardrail | Callable[..., Any]]
    toolsets: Mapping[str, Toolset]


def _mesh(
    settings: MeshSettings,
    team: Team,
    roles: Mapping[str, RolePolicy],
    graphs: Mapping[str, AgentGraph | GraphSpec],
    *,
    project: Project | None = None,
    given: _Given | None = None,
    progress: Progress | None = None,
) -> "Mesh":
    from agentmesh.runtime.mesh import Mesh

    guards = open_guardrails(
        settings.guardrails, given.guardrails if given else (), secrets=secret_values(os.environ, names=_keys(settings))
    )

    async def open_all(team: Team, closers: list[Callable[[], Awaitable[None]]]) -> "Services":
        services = await _open_all(settings, team, roles, project, given, progress, closers)
        services.parts = replace(services.parts, guardrails=guards)
        return services

    def hire(agent: AgentCard | Agent | Callable[..., Any]) -> tuple[AgentCard, Agent | None]:
        one = _agent_of(agent)
        _check_joining(one, settings, roles, given=given, project=project)
        return (one, None) if isinstance(one, AgentCard) else (one.card, one)

    watch = CardFolder(project, known=known_names()) if project is not None and settings.watch else None
    return Mesh(
        team=team,
        open_services=partial(_open, open_all),
        hire=hire,
        watch=watch,
        limits=settings.limits,
        graphs=graphs,
        keep_prompts=settings.trace.keep_prompts,
        guarded={place.value for guard in guards for place in guard.where},
    )


async def _open(
    open_all: "Callable[[Team, list[Callable[[], Awaitable[None]]]], Awaitable[Services]]", team: Team
) -> "Services":
    """Open everything a mesh needs; what was opened is closed again if something fails."""
    from agentmesh.runtime.mesh import close_all

    closers: list[Callable[[], Awaitable[None]]] = []
    try:
        return await open_all(team, closers)
    except BaseException:
        with contextlib.suppress(Exception):  # what failed first is what is said
            await close_all(closers)
        raise


async def _open_all(
    settings: MeshSettings,
    team: Team,
    roles: Mapping[str, RolePolicy],
    project: Project | None,
    given: _Given | None,
    progress: Progress | None,
    closers: list[Callable[[], Awaitable[None]]],
) -> "Services":
    from agentmesh.runtime.mesh import Services

    clock = SystemClock()
    home = (project.folder if project else Path()) / settings.home
    models = _Models(settings, given.models if given else {})
    closers.append(models.aclose)
    for name in sorted({card.model for card in team.cards.values() if _asks_model(card, team)}):
        models.check(name)
    embedder = given.embedder if given else settings.memory.embedder
    if isinstance(embedder, str):
        embedder = open_embedder(embedder)
    records: tuple[TraceStore, Database] | None = None
    if settings.durable:
        await asyncio.to_thread(_make_home, home)
        records = await asyncio.to_thread(_open_records, home, settings)
        closers.append(records[1].aclose)
        closers.append(records[0].aclose)
    store = given.store if given else None
    if store is None:
        if settings.durable:
            store = await open_memory(
                home / "chroma",
                embedder.name,
                embedder.dimensions,
                hot_items=settings.memory.hot_items,
                wait_s=settings.memory.owner_wait_s,
            )
        else:
            store = ArrayStore(embedder.name, embedder.dimensions)
        closers.append(store.aclose)
    writer = MemoryWriter(store, embedder, clock=clock)
    choosers = _Routers(settings, given, models, embedder, project.folder if project else None, team.cards.values())
    closers.append(choosers.aclose)
    agents = _Agents(team, roles, models, given.toolsets if given is not None else None)
    parts = _parts(settings, agents, given, models, choosers, embedder, store, writer)
    parts.router(None)  # a router that cannot be made is said before anything runs
    sink: TraceSink = NullSink()
    if given is not None and given.sink is not None:
        sink = given.sink
    elif records is not None and settings.trace.enabled:
        sink = records[0]
    recorded = records is not None and sink is records[0]
    from agentmesh.runtime.checkpoints import memory_checkpoints, open_checkpoints, prune

    recent = RecentRuns()
    ledger = Ledger(settings.budgets, records[1] if records else None, clock=clock)
    if settings.durable:
        checkpointer: Any = await open_checkpoints(home / "checkpoints.db")
        closers.append(checkpointer.conn.close)
        if records is not None:
            old = await records[0].old_runs(settings.trace.keep_runs)
            gone = await prune(checkpointer, old)
            await DatabaseJournal(records[1]).prune(gone)
            await ledger.prune(gone)
    else:
        checkpointer = memory_checkpoints()
    seed = _Seed(project, given, writer, store, home if settings.durable else None, progress)
    return Services(
        parts=parts,
        staffed=partial(_staffed, settings, given, models, agents),
        ready=choosers.prepare,
        store=store,
        sink=sink,
        threads=DatabaseThreads(records[1]) if records else MemoryThreads(),
        checkpointer=checkpointer,
        journal=_journals(records[1] if records else None, recent),
        runs=_Recorded(records[0], DatabaseJournal(records[1])) if recorded and records else recent,
        alone=partial(resuming_alone, home / "locks"),
        keep_checkpoints=settings.durable,
        prepare=seed.prepare,
        accounts=lambda task, run_id: ledger.accounts(task.tenant, task.user, run_id),
        closers=closers,
    )


def _parts(
    settings: MeshSettings,
    agents: "_Agents",
    given: _Given | None,
    models: "_Models",
    choosers: "_Routers",
    embedder: Embedder,
    store: MemoryStore,
    writer: MemoryWriter,
) -> Parts:
    context = given.context if given else settings.context.router
    if isinstance(context, str):
        options: dict[str, Any] = dict(settings.context.options)
        if context == "role_aware":
            options.setdefault("half_life_rounds", settings.context.half_life_rounds)
        context = context_routers.create(context, store=store, embedder=embedder, clock=SystemClock(), **options)
    return Parts(
        cards=agents.team.cards,
        roles=agents.roles,
        agent=agents.of,
        router=choosers.outer,
        context_router=context,
        refiner=_refiner_of(agents.team, settings, given, models),
        writer=writer,
        tokenizer=agents.tokenizer,
        budget_tokens=settings.context.budget_tokens,
        max_agents=settings.routing.max_agents,
    )


def _refiner_of(team: Team, settings: MeshSettings, given: _Given | None, models: "_Models") -> Refiner:
    refiner = given.refiner if given else settings.refiner
    if not isinstance(refiner, str):
        return refiner
    titles = {card.id: card.title for card in team.cards.values()}
    return refiners.create(refiner, model=models.named(settings.refiner_model), titles=titles)


def _staffed(
    settings: MeshSettings, given: _Given | None, models: "_Models", agents: "_Agents", parts: Parts, team: Team
) -> Parts:
    """The parts with another team; everything that does not depend on it is the same object."""
    agents = agents.for_team(team)
    before = {id_: card.title for id_, card in parts.cards.items()}
    renamed = before != {id_: card.title for id_, card in team.cards.items()}
    return replace(
        parts,
        cards=team.cards,
        agent=agents.of,
        tokenizer=agents.tokenizer,
        refiner=_refiner_of(team, settings, given, models) if renamed else parts.refiner,
    )


class _Agents:
    """The agents of a team, each made when it is first called.

    Args:
        team: Who they are.
        roles: By name.
        models: What they ask.
        toolsets: What their cards may name; None: what a project's cards name is not connected.
    """

    def __init__(
        self,
        team: Team,
        roles: Mapping[str, RolePolicy],
        models: "_Models",
        toolsets: Mapping[str, Toolset] | None,
    ) -> None:
        self.team, self.roles = team, roles
        self._models, self._toolsets = models, toolsets
        self._made: dict[tuple[str, str | None], tuple[AgentCard, Agent]] = {}
        """With the card that each was made of: two teams may have different ones."""

    def for_team(self, team: Team) -> "_Agents":
        """Those of another team; who did not change is not made again."""
        other = _Agents(team, self.roles, self._models, self._toolsets)
        other._made = self._made
        for key in [key for key in self._made if key[0] not in team.cards]:
            del self._made[key]
        return other

    def of(self, agent: str, variant: str | None) -> Agent:
        """The agent of this id and variant."""
        if agent in self.team.made:
            return self.team.made[agent]
        card = self.team.cards[agent]
        known = self._made.get((agent, variant))
        if known is not None and known[0] is card:
            return known[1]
        toolsets = self._toolsets if self._toolsets is not None else _unconnected(card)
        if card.tool is None:
            from agentmesh.agents.expert import ExpertAgent

            role = self.roles.get(card.role)
            made: Agent = ExpertAgent(card, self._models.of(card, variant), role, toolsets=toolsets)
        else:
            made = _tool_agent(card, toolsets)
        self._made[agent, variant] = (card, made)
        return made

    def tokenizer(self, card: AgentCard, variant: str | None) -> str:
        """For which model the tokens of its context are counted."""
        if not _asks_model(card, self.team):
            return card.model
        info = self._models.of(card, variant).info
        return info.tokenizer or info.name


def _asks_model(card: AgentCard, team: Team) -> bool:
    """Whether the mesh makes an agent of this card that asks a model."""
    return card.id not in team.made and card.tool is None


def _check_joining(
    one: AgentCard | Agent,
    settings: MeshSettings,
    roles: Mapping[str, RolePolicy],
    *,
    given: _Given | None = None,
    project: Project | None = None,
) -> None:
    """Raise `ConfigError` unless this agent can work in the mesh.

    Of an agent that was given as such only the description and the role are looked at: its models and tools are its
    own.

    Raises:
        ConfigError: If its card says nothing, or names a role, a tool or a model that is not there.
        ModelWeightsError: If the weights of its model are not here, in a project.
    """
    card = one if isinstance(one, AgentCard) else one.card
    where = f"agent {card.id!r}"
    if not words(card.description):
        raise ConfigError(f"{where}: its description holds no words; say in a sentence what it answers")
    if card.role not in roles:
        raise UnknownNameError("role", card.role, sorted(roles), where=where)
    if not isinstance(one, AgentCard):
        return
    _check_tools(card, given, project)
    if card.tool is not None:
        return
    known = given.model_names if given is not None else frozenset(settings.models)
    named = {card.model, *(variant.model for variant in card.variants.values() if variant.model)}
    for name in sorted(named - known):
        if name == "default":
            there = ", ".join(sorted(known)) or "none"
            raise ConfigError(f"{where} names no model, and there is no 'default' in `model` ({there}); add one")
        if "/" not in name and ":" not in name and nearest(name, sorted(known)):
            raise UnknownNameError("model", name, sorted(known), where=where)
        check_model_spec(name, where=where)
    if project is not None:
        _Models(settings, {}).check(card.model)


def _check_tools(card: AgentCard, given: _Given | None, project: Project | None) -> None:
    """Raise `UnknownNameError` for a tool or a server of tools that is not there."""
    if given is not None:
        check_tool_names(card.tools, given.toolsets, where=f"agent {card.id!r}: tools")
        if card.tool is not None:
            check_tool_names((card.tool,), given.toolsets, where=f"agent {card.id!r}: tool")
        return
    named = (*card.tools, card.tool) if card.tool is not None else card.tools
    servers = tool_servers(project.folder) if project is not None and named else frozenset[str]()
    for name in named:
        if name.partition(".")[0] not in servers:
            raise UnknownNameError(
                "tool server", name.partition(".")[0], sorted(servers), where=f"agent {card.id!r}: tools"
            )


class _Routers:
    """The routers of a mesh, made when first named; of two of one name there is one."""

    def __init__(
        self,
        settings: MeshSettings,
        given: _Given | None,
        models: "_Models",
        embedder: Embedder,
        folder: Path | None = None,
        cards: Iterable[AgentCard] = (),
    ) -> None:
        self._settings = settings.routing
        self._declared: set[Sensitive] = {kind for card in cards for kind in card.allows}
        self._default: str | Router = given.router if given else settings.routing.router
        self._made: dict[str, Router] = {}
        self._making: list[str] = []
        self._bounded: dict[int, tuple[Router, Router]] = {}
        """By the identity of a router: it, and what stands around it."""
        self._offered = _Offered(
            {
                "embedder": lambda: embedder,
                "model": lambda: models.named(settings.routing.model),
                "router_of": lambda: self.of,
                "folder": lambda: folder,
                "detectors": lambda: _detectors(embedder),
            }
        )

    def of(self, name: str | None) -> Router:
        """The router of this name; None: the mesh's own.

        Raises:
            ConfigError: If it cannot be made; `UnknownNameError` if nothing is called so.
        """
        chosen = self._default if name is None else name
        if not isinstance(chosen, str):
            return chosen
        if chosen in self._making:
            way = " -> ".join([*self._making, chosen])
            raise ConfigError(f"the router {chosen!r} needs itself ({way}); name another one in its options")
        if chosen not in self._made:
            self._making.append(chosen)
            try:
                self._made[chosen] = routers.create(chosen, offered=self._offered, **self._options(chosen))
            finally:
                self._making.pop()
        return self._made[chosen]

    def outer(self, name: str | None) -> Router:
        """The same as a mesh asks it: within the rules of the project and what the cards allow.

        Raises:
            ConfigError: If it or the rules cannot be made.
        """
        inner = self.of(name)
        if id(inner) not in self._bounded:
            self._bounded[id(inner)] = (inner, self._within(inner))
        return self._bounded[id(inner)][1]

    def _within(self, inner: Router) -> Router:
        detectors: Mapping[str, Callable[[str], Any]] = self._offered["detectors"]
        settings = self._settings
        if settings.rules is not None:
            from agentmesh.routing.rules import rules_router

            inner = rules_router(
                self._offered["embedder"], router_of=self.of, detectors=detectors, folder=self._offered["folder"],
                file=settings.rules, otherwise=inner,
            )  # fmt: skip
        if settings.withhold == ():
            return inner
        from agentmesh.routing.signals import OWN_DETECTORS
        from agentmesh.routing.withheld import WithholdingRouter

        known = {**OWN_DETECTORS, **detectors}
        if settings.withhold is not None:
            return WithholdingRouter(inner, known, always=settings.withhold)
        return WithholdingRouter(
            inner, known, always=("secret",), where_declared=("personal",), declared=self._declared
        )

    async def prepare(self, cards: Sequence[AgentCard]) -> None:
        """Let the routers that were made and can learn cards learn these; those that others are made of are among
        them. May raise what they do."""
        default = self._default
        for router in [*self._made.values(), *(() if isinstance(default, str) else (default,))]:
            ready = getattr(router, "prepare", None)
            if ready is not None:
                await ready(cards)

    def _options(self, name: str) -> dict[str, Any]:
        main = self._settings.options if name == self._settings.router else {}
        return {**self._settings.routers.get(name, {}), **main}

    async def aclose(self) -> None:
        """Close those that hold something open."""
        for router in self._made.values():
            close = getattr(router, "aclose", None)
            if close is not None:
                await close()


def _detectors(embedder: Embedder | None) -> dict[str, Callable[[str], Any]]:
    """What rules may ask of a text beside what routing finds itself: the detectors of the guardrails."""
    from agentmesh.guardrails.injection import injection_confidence
    from agentmesh.guardrails.jailbreak import JailbreakDetector
    from agentmesh.guardrails.personal import PersonalRule

    personal = PersonalRule(action="flag")

    async def names_somebody(text: str) -> bool:
        return await personal.check(text, loose_context()) is not PASSED

    return {
        "injection": injection_confidence,
        "jailbreak": JailbreakDetector(embedder),
        "personal": names_somebody,
    }


class _Offered(Mapping[str, Any]):
    """What a mesh has to give to a part that it makes, each made when it is taken."""

    def __init__(self, makers: Mapping[str, Callable[[], Any]]) -> None:
        self._makers = makers

    def __getitem__(self, name: str) -> Any:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


class _Models:
    """The language models of a mesh, opened when first used."""

    def __init__(self, settings: MeshSettings, given: Mapping[str, ChatModel]) -> None:
        self._settings, self._given, self._open = settings, given, dict(given)

    def of(self, card: AgentCard, variant: str | None) -> ChatModel:
        """The model that this agent uses."""
        choice = card.variants.get(variant) if variant is not None else None
        return self.named((choice.model if choice else None) or card.model)

    def named(self, name: str) -> ChatModel:
        """The model of this name, or of this LiteLLM id."""
        if name not in self._open:
            settings = self._settings.models.get(name)
            if settings is None:
                check_model_spec(name)
                settings = ModelSettings(model=name)
            self._open[name] = open_model(name, settings)
        return self._open[name]

    def check(self, name: str) -> None:
        """Raise `ModelWeightsError` if this is a local model whose weights are not here."""
        if name in self._settings.models and name not in self._given:
            _readiness(self._settings.models[name].model)

    async def aclose(self) -> None:
        for model in self._open.values():
            await model.aclose()


class _Seed:
    """Loads a project's knowledge into the memory of a tenant, once per process and only what changed."""

    def __init__(
        self,
        project: Project | None,
        given: _Given | None,
        writer: MemoryWriter,
        store: MemoryStore,
        home: Path | None,
        progress: Progress | None,
    ) -> None:
        self._writer, self._store, self._home, self._progress = writer, store, home, progress
        self._folders = list(project.knowledge) if project else []
        self._texts: tuple[str, ...] = ()
        if given is not None:
            knowledge = given.knowledge
            if isinstance(knowledge, str | Path):
                self._folders = [Path(knowledge)]
            else:
                self._texts = tuple(knowledge)
        self._ready: dict[str, asyncio.Task[None]] = {}

    async def prepare(self, tenant: str) -> None:
        """Make a tenant's memory ready; runs that come meanwhile wait for the same load."""
        task = self._ready.get(tenant)
        if task is None:
            task = self._ready[tenant] = asyncio.ensure_future(self._load(tenant))
        try:
            await asyncio.shield(task)
        except BaseException:
            if task.done():
                self._ready.pop(tenant, None)
            raise

    async def _load(self, tenant: str) -> None:
        for folder in self._folders:
            if folder.is_dir():
                state = self._home / "knowledge.json" if self._home else None
                report = await ingest(folder, self._writer, tenant, state=state, progress=self._progress)
                for skipped in report.skipped:
                    warnings.warn(skipped, KnowledgeWarning, stacklevel=2)
        if self._texts:
            drafts = [
                Draft(text=text, kind=MemoryKind.EVIDENCE, key=f"knowledge/{n}", source=f"knowledge {n}")
                for n, text in enumerate(self._texts, start=1)
            ]
            await self._writer.write(tenant, drafts)
            await self._store.flush()


class _Recorded:
    """Earlier runs, from the trace store and the journal."""

    def __init__(self, trace: TraceStore, journal: DatabaseJournal) -> None:
        self._trace, self._journal = trace, journal

    async def history(self, run_id: str) -> Sequence[Event]:
        return await asyncio.to_thread(self._trace.read, run_id)

    async def finished_calls(self, run_id: str) -> int:
        return await self._journal.finished_calls(run_id)


def _journals(db: Database | None, recent: RecentRuns) -> Callable[[str, bool], Awaitable[Journal]]:
    async def journal(run_id: str, fresh: bool) -> Journal:
        if db is None:
            return recent.journal(run_id, fresh=fresh)
        return await DatabaseJournal(db).for_run(run_id, fresh=fresh)

    return journal


def _open_records(home: Path, settings: MeshSettings) -> tuple[TraceStore, Database]:
    db = Database(home / "mesh.db", (TRACE_TABLES, JOURNAL_TABLES, THREAD_TABLES, BUDGET_TABLES))
    db.open()
    return TraceStore(home, db, Redactor(secret_values(os.environ, names=_keys(settings)))), db


def _keys(settings: MeshSettings) -> list[str]:
    """Names of the variables that hold keys."""
    return [model.api_key_env for model in settings.models.values() if model.api_key_env]


def _budgets_of(given: BudgetSettings | Mapping[str, Any] | None, agents: Sequence[str]) -> BudgetSettings:
    """Budgets as values, or as the settings write them; `ConfigError` if they are wrong."""
    made = _valued(BudgetSettings, {} if given is None else given, "budgets")
    check_agents(made, agents)
    return made


def _valued(kind: type[V], given: V | Mapping[str, Any], where: str) -> V:
    """A value as one, or as the settings write it; `ConfigError` if it is wrong."""
    if isinstance(given, kind):
        return given
    made, mistakes = validated(kind, cast("Mapping[str, Any]", given))
    if made is None:
        first = (where,) if where else ()
        raise ConfigError("; ".join(f"{dotted((*first, *steps))}: {text}" for steps, text in mistakes))
    return made


def _check_parts(**parts: Any) -> None:
    """Raise `ConfigError` unless each of them is a name, None where that may be, or satisfies its protocol."""
    kinds: dict[str, type] = {
        "router": Router,
        "context": ContextRouter,
        "refiner": Refiner,
        "embedder": Embedder,
        "store": MemoryStore,
        "sink": TraceSink,
    }
    for name, part in parts.items():
        may_be: tuple[type, ...] = (type(None),) if name in ("store", "sink") else (str,)
        if not isinstance(part, (*may_be, kinds[name])):
            raise ConfigError(f"{name}: {_lacks(part, kinds[name])}")


def _lacks(part: object, protocol: type) -> str:
    """`int is no Router; it lacks name, route`."""
    members = {*vars(protocol), *getattr(protocol, "__annotations__", {})}
    lacking = sorted(m for m in members if not m.startswith("_") and not hasattr(part, m))
    what = "a class; give an object of it" if isinstance(part, type) else f"no {protocol.__name__}"
    return f"{getattr(part, '__name__', type(part).__name__)} is {what}" + (
        f"; it lacks {', '.join(lacking)}" if lacking else ""
    )


def _kind(part: object) -> str:
    return type(part).__name__


def _is_list(part: object) -> bool:
    return isinstance(part, Iterable) and not isinstance(part, str | Mapping)


def _check_collections(agents: Any, tools: Any, guardrails: Any, graphs: Any, roles: Any, knowledge: Any) -> None:
    """Raise `ConfigError` where one thing stands for a list of them, or the other way round."""
    if isinstance(agents, AgentCard | Agent) or not _is_list(agents):
        raise ConfigError(f"agents takes a list, not {_kind(agents)}; write [agent]")
    if not _is_list(guardrails):
        raise ConfigError(f"guardrails takes a list, not {_kind(guardrails)}; write [guardrail]")
    for name, given, form in (
        ("tools", tools, '{"server": [function, ...]}'),
        ("graphs", graphs, '{"name": graph}'),
        ("roles", roles, '{"name": RolePolicy(...)}'),
    ):
        if given is not None and not isinstance(given, Mapping):
            raise ConfigError(f"{name} takes names and what they stand for, not {type(given).__name__}; write {form}")
    for name, functions in cast("Mapping[str, object]", tools or {}).items():
        if not isinstance(functions, Toolset) and not _is_list(functions):
            raise ConfigError(f"tools {name!r}: give a toolset or a list of functions, not {type(functions).__name__}")
    for name, graph in cast("Mapping[str, object]", graphs or {}).items():
        if not isinstance(graph, AgentGraph | GraphSpec):
            raise ConfigError(f"graph {name!r}: {type(graph).__name__} is no graph; give an AgentGraph or a GraphSpec")
    if not isinstance(knowledge, str | Path):
        if not isinstance(knowledge, Iterable):
            raise ConfigError(f"knowledge takes a folder or a list of texts, not {type(knowledge).__name__}")
        for text in cast("Collection[object]", knowledge) if isinstance(knowledge, Collection) else ():
            if not isinstance(text, str):
                raise ConfigError(f"knowledge: {type(text).__name__} is no text; give a folder, or a list of texts")


def _readiness(spec: str) -> str:
    """Whether a model can be asked now; nothing is called."""
    if spec.partition(":")[0] not in ("embedded", "gguf", "hf"):
        return "not tried"
    find_weights(spec)
    return "yes"


def _make_home(home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{home}: cannot be made ({error.strerror}); set AGENTMESH_HOME to a folder that can be written, "
            "or AGENTMESH_DURABLE=false"
        ) from error


def _agent_of(agent: AgentCard | Agent | Callable[..., Any]) -> AgentCard | Agent:
    if isinstance(agent, AgentCard | Agent):
        return agent
    from agentmesh.runtime.graph_agent import GraphAgent, card_of_graph, is_graph

    if is_graph(agent):
        return GraphAgent(card_of_graph(agent), agent)
    if callable(agent) and hasattr(agent, "__name__"):
        name = agent.__name__
        text = inspect.getdoc(agent)
        if not text:
            raise ConfigError(f"the function {name!r} needs a docstring: routers read it as the agent's description")
        from agentmesh.agents.function import FunctionAgent

        return FunctionAgent(AgentCard(id=name.replace("_", "-"), description=" ".join(text.split())), agent)
    raise ConfigError(
        f"{type(agent).__name__} is not an agent; give a card, an `Agent`, a function, or a compiled graph"
    )


def _role_of(name: str, role: RolePolicy | Mapping[str, Any]) -> RolePolicy:
    """A role, given as one or as what a role's file says."""
    if isinstance(role, RolePolicy):
        return role
    made, mistakes = validated(RolePolicy, role)
    if made is None:
        where = (": ".join((f"role {name!r}", dotted(steps), text) if steps else (f"role {name!r}", text))
                 for steps, text in mistakes)  # fmt: skip
        raise ConfigError("; ".join(where))
    return made


def _unconnected(card: AgentCard) -> dict[str, Toolset]:
    """The servers that a card of a project names."""
    named = (*card.tools, card.tool) if card.tool else card.tools
    servers = dict.fromkeys(name.partition(".")[0] for name in named)
    return {server: UnconnectedToolset(server) for server in servers}


def _tool_agent(card: AgentCard, toolsets: Mapping[str, Toolset]) -> Agent:
    from agentmesh.agents.tool_agent import ToolAgent

    return ToolAgent(card, toolsets)
