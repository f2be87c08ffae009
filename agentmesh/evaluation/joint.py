"""Whether routing, context and refinement together beat what people do today, on the scenarios of a project.

All policies have the same knowledge, embedder and models, and every model call is metered in the same place:

- `ours`: the scenario as it stands, with its graph, router, context router and refiner.
- `one_agent`: one generalist whose card says what all cards of the scenario say. It reads the items nearest to the
  question, by the same vectors and nothing else, in one pack as large as all those of one dispatch of ours together.
- `all_agents`: the scenario's graph without routing: every agent of a dispatch works on every question.
- `supervisor_full_history`: see `supervisor.py`, also for what is kind to it.

A local model that is declared not capable is asked only how long its prompts are, unless it is told to decode: its
words enter no answer of any policy (agents of ours give extracts, and so do those of the others), so that nothing but
time and completion tokens differs.

This is no judge of style: a fact counts where its words stand in the answer.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentmesh.assembly import mesh_of, open_project
from agentmesh.context import context_routers
from agentmesh.errors import ConfigError, UnknownNameError
from agentmesh.evaluation.counted import counted_instead
from agentmesh.evaluation.expect import check_answer
from agentmesh.evaluation.form import document, row
from agentmesh.evaluation.metrics import bootstrap_ci95
from agentmesh.evaluation.supervisor import Supervisor, stands_in
from agentmesh.graphs import EdgeSpec, GraphSpec, StageKind, StageSpec
from agentmesh.memory.arrays import ArrayStore
from agentmesh.memory.ingest import ingest
from agentmesh.memory.writer import MemoryWriter
from agentmesh.models import open_embedder, open_model
from agentmesh.models.base import ChatModel
from agentmesh.project.loader import Project
from agentmesh.project.schema import Expectation, Scenario, ScenarioTask
from agentmesh.routing import routers as known_routers
from agentmesh.run import Limits, SystemClock
from agentmesh.settings import ContextSettings, ModelSettings, RoutingSettings
from agentmesh.types import AgentCard, Answer, AnswerStatus, RolePolicy

__all__ = ["POLICIES", "SETS", "Judged", "bench_joint", "bootstrap_mean", "judge", "rows_of"]

SETS = ("helpdesk", "research")
"""The sets of this repository; in another project, its scenarios."""
POLICIES = ("ours", "one_agent", "all_agents", "supervisor_full_history")
AT_ONCE = 4
"""Questions that are worked on at the same time."""
GENERALIST = "generalist"
TENANT = "default"
NEAREST = {"relevance": 1.0, "role": 0.0, "stage": 0.0, "recency": 0.0, "trust": 0.0}
"""Weights of a look-up by nearness alone."""

Say = Callable[[str], None]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """What one task shows. None: the task says nothing on that."""

    task: str
    facts: float | None
    """Share of the expected facts that stand in the answer."""
    conflicts: float | None
    """Share of the planted conflicts that the answer names."""
    wrong: float
    """Share of the called agents that were not expected; 0 where nobody was called."""
    prompt_tokens: int
    """Of all model calls."""
    answered: bool | None
    """Whether it was answered, with every fact; of tasks that should be."""
    missing: tuple[str, ...] = ()
    """What was expected and is not there, in words."""


async def bench_joint(
    folder: str | Path,
    sets: Sequence[str] = (),
    *,
    routers: Sequence[str] = (),
    decode: bool = False,
    environ: Mapping[str, str] | None = None,
    say: Say = lambda text: None,
    **overrides: Any,
) -> dict[str, Any]:
    """Let every policy answer every judged task of the named scenarios.

    Args:
        folder: The project.
        sets: Names of scenarios; none: `SETS`, or in a project without them every scenario with judged tasks.
        routers: Routers that ours is measured with besides the scenario's own, each a policy `ours_<name>`.
        decode: Whether local models that are not capable write, too.
        environ: Where `AGENTMESH_*` is read from; None: the process's environment.
        say: Told what is measured now.
        overrides: Settings that win over all others, as in `load_mesh`.

    Returns:
        The form that every benchmark of ours has; also `decoded` (whether every model that was asked wrote), `models`,
        `notes` (what to know when reading the rows), and `missed` (what ours did not do, task by task).

    Raises:
        UnknownNameError: If a set or a router is not known; says the nearest.
        ConfigError: If a scenario has no judged tasks; `ProjectError` if the project is wrong.
    """
    project = await asyncio.to_thread(open_project, folder, environ=environ, **{**overrides, "durable": False})
    names = _sets(project, sets)
    for router in routers:
        known_routers.check(router)
    described = {name: _described(name, s) for name, s in _models_of(project).items()}
    project, counted = (project, ()) if decode else _counting(project)
    at_once = 1 if decode and not all(model["capable"] for model in described.values()) else AT_ONCE
    rows: list[dict[str, Any]] = []
    missed: list[dict[str, Any]] = []
    notes = _notes(project, counted)
    policies = (POLICIES[0], *(f"{POLICIES[0]}_{router}" for router in routers), *POLICIES[1:])
    for name in names:
        bench = _bench_of(project, project.scenarios[name], at_once=at_once, notes=notes)
        judged: dict[str, list[Judged]] = {}
        for policy in policies:
            say(f"{name}: {policy} ...")
            judged[policy] = await _measured(policy, bench)
        rows += rows_of(name, judged)
        missed += [{"set": name, "task": j.task, "missing": list(j.missing)} for j in judged[POLICIES[0]] if j.missing]
    return document("joint", rows, decoded=not counted, models=described, notes=notes, missed=missed)


# --- numbers ----------------------------------------------------------------------------------------------------------


def judge(task: ScenarioTask, answer: Answer, called: Sequence[str], *, free_text: bool = False) -> Judged:
    """Compare an answer with what its task expects, by the rules of `check_answer`.

    Args:
        task: With an expectation.
        answer: What was said.
        called: The agents that somebody chose to call, each once or more often.
        free_text: Whether the answer is a plain text without conflicts as values: a conflict then counts as named if
            both of its sides stand in the text, whether or not it says that they disagree.
    """
    expected = task.expect or Expectation()
    checks = [c for c in check_answer(expected, answer) if c.name in ("fact", "conflict")]
    facts = [c.passed for c in checks if c.name == "fact"]
    named = [c.passed for c in checks if c.name == "conflict"]
    if free_text:
        named = [all(stands_in(side, answer.text) for side in pair) for pair in expected.conflicts]
    agents = set(called)
    wrong = sorted(agents - set(expected.agents))
    whole = answer.status in (AnswerStatus.ANSWERED, AnswerStatus.PARTIAL) and all(facts)
    missing = [f"fact: {fact}" for fact, there in zip(expected.facts, facts, strict=True) if not there]
    missing += [
        f"conflict: {' against '.join(pair)}"
        for pair, there in zip(expected.conflicts, named, strict=True)
        if not there
    ]
    missing += [f"wrong agent: {agent}" for agent in wrong]
    if expected.outcome != answer.status.value:
        missing.append(f"outcome: {answer.status.value} instead of {expected.outcome}")
    return Judged(
        task=task.id,
        facts=sum(facts) / len(facts) if facts else None,
        conflicts=sum(named) / len(named) if named else None,
        wrong=len(wrong) / len(agents) if agents else 0.0,
        prompt_tokens=answer.usage.prompt_tokens,
        answered=whole if expected.outcome == "answered" else None,
        missing=tuple(missing),
    )


def rows_of(set_: str, judged: Mapping[str, Sequence[Judged]]) -> list[dict[str, Any]]:
    """The rows of one set: each metric as the mean over the tasks that say something on it, with its 95 % interval.

    `prompt_tokens_ratio` is the mean of `ours` over that of the supervisor, drawn task by task together.
    """
    rows: list[dict[str, Any]] = []
    for policy, tasks in judged.items():
        columns: dict[str, tuple[Sequence[float | None], str]] = {
            "required_facts": ([j.facts for j in tasks], "share"),
            "conflicts_named": ([j.conflicts for j in tasks], "share"),
            "wrong_agents": ([j.wrong for j in tasks], "share"),
            "prompt_tokens": ([j.prompt_tokens for j in tasks], "tokens"),
            "answered": ([j.answered for j in tasks], "share"),
        }
        for metric, (column, unit) in columns.items():
            values = np.array([float(v) for v in column if v is not None])
            if len(values):
                rows.append(row(set_, policy, metric, float(values.mean()), unit, len(values), bootstrap_mean(values)))
    ours, theirs = (np.array([j.prompt_tokens for j in judged.get(p, ())], float) for p in (POLICIES[0], POLICIES[3]))
    if len(ours) and len(theirs) == len(ours) and theirs.sum():
        interval = bootstrap_ci95(len(ours), lambda at: float(ours[at].sum() / (theirs[at].sum() or np.nan)))
        ratio = float(ours.sum() / theirs.sum())
        rows.append(row(set_, POLICIES[0], "prompt_tokens_ratio", ratio, "ratio", len(ours), interval))
    return rows


def bootstrap_mean(values: Floats) -> tuple[float, float]:
    """The 95 % interval of a mean over tasks."""
    return bootstrap_ci95(len(values), lambda at: float(values[at].mean()))


# --- policies ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bench:
    """One scenario as it is measured."""

    project: Project
    graph: GraphSpec
    tasks: tuple[ScenarioTask, ...]
    """Those with an expectation."""
    limits: Limits
    at_once: int
    """Questions that are worked on at the same time."""
    notes: list[str]
    """What to know when reading the rows; grows."""

    @property
    def everyone(self) -> tuple[str, ...]:
        """The ids that `*` stands for."""
        return tuple(card.id for card in self.project.cards)

    @property
    def choices(self) -> frozenset[str]:
        """The agents between which somebody chooses."""
        return _choices(self.graph, self.everyone)


def _bench_of(project: Project, scenario: Scenario, *, at_once: int, notes: list[str]) -> _Bench:
    # No questions: a run that is torn ends with its question and waits for nobody.
    limits = scenario.limits_over(project.settings.limits).model_copy(update={"max_questions": 0})
    if at_once == 1:  # a slow model on this machine: nobody's deadline is to pass while it works for somebody else
        limits = limits.model_copy(update={"max_concurrency": 1})
    return _Bench(
        project=project,
        graph=scenario.to_graph_spec(max_agents=project.settings.routing.max_agents),
        tasks=tuple(task for task in scenario.tasks if task.expect is not None),
        limits=limits,
        at_once=at_once,
        notes=notes,
    )


async def _measured(policy: str, bench: _Bench) -> list[Judged]:
    """Every task under a policy."""
    match policy:
        case "supervisor_full_history":
            return await _supervised(bench)
        case "one_agent":
            return await _asked(_one_agent(bench), _called_alone)
        case "all_agents":
            settings = bench.project.settings.model_copy(update={"routing": RoutingSettings(router="fixed")})
            everybody = replace(
                bench,
                project=replace(bench.project, settings=settings),
                graph=_without_routing(bench.graph, bench.everyone),
            )
            return await _asked(everybody, partial(_chosen, bench.choices))
        case _:
            router = policy.removeprefix(POLICIES[0]).removeprefix("_") or None
            return await _asked(bench, partial(_chosen, bench.choices), router=router)


async def _asked(
    bench: _Bench, called: Callable[[ScenarioTask, Answer], Sequence[str]], *, router: str | None = None
) -> list[Judged]:
    """Ask a mesh of the project every task."""
    async with mesh_of(bench.project) as mesh:

        async def one(task: ScenarioTask) -> Judged:
            answer = await mesh.ask(task.ask, graph=bench.graph, limits=bench.limits, router=router)
            return judge(task, answer, called(task, answer))

        return await _together(bench, one)


async def _supervised(bench: _Bench) -> list[Judged]:
    """Give every task to a supervisor over the agents of the graph."""
    choices, cut = bench.choices, 0
    async with _team(bench) as supervisor:

        async def one(task: ScenarioTask) -> Judged:
            nonlocal cut
            expected = task.expect or Expectation()
            result = await supervisor.ask(task.ask, expected, run_id=f"joint-{task.id}", limits=bench.limits)
            cut += result.cut
            return judge(task, result.answer, [a for a in result.called if a in choices], free_text=True)

        judged = await _together(bench, one)
    if cut:
        bench.notes.append(
            f"{bench.graph.name}: {cut} prompts of the supervisor's team were longer than the model's window and are "
            "counted without their oldest part"
        )
    return judged


async def _together(bench: _Bench, one: Callable[[ScenarioTask], Awaitable[Judged]]) -> list[Judged]:
    gate = asyncio.Semaphore(bench.at_once)

    async def in_turn(task: ScenarioTask) -> Judged:
        async with gate:
            return await one(task)

    try:
        async with asyncio.TaskGroup() as group:
            begun = [group.create_task(in_turn(task)) for task in bench.tasks]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    return [task.result() for task in begun]


@asynccontextmanager
async def _team(bench: _Bench) -> AsyncGenerator[Supervisor]:
    """A supervisor with the parts that a mesh of the project would have."""
    project, clock = bench.project, SystemClock()
    settings = project.settings
    embedder = open_embedder(settings.memory.embedder)
    store = ArrayStore(embedder.name, embedder.dimensions)
    writer = MemoryWriter(store, embedder, clock=clock)
    options = dict(settings.context.options)
    if settings.context.router == "role_aware":
        options.setdefault("half_life_rounds", settings.context.half_life_rounds)
    context = context_routers.create(settings.context.router, store=store, embedder=embedder, clock=clock, **options)
    opened: dict[str, ChatModel] = {}

    def named(name: str) -> ChatModel:
        if name not in opened:
            opened[name] = open_model(name, settings.models.get(name) or ModelSettings(model=name))
        return opened[name]

    team = _agents_of(bench.graph, bench.everyone)
    try:
        for folder in project.knowledge:
            await ingest(folder, writer, TENANT)
        yield Supervisor(
            bench.graph,
            {card.id: card for card in project.cards if card.id in team},
            project.roles,
            model=named(settings.routing.model),
            model_of=lambda card: named(card.model),
            context_router=context,
            budget_tokens=settings.context.budget_tokens,
        )
    finally:
        for model in opened.values():
            await model.aclose()
        await store.aclose()


def _one_agent(bench: _Bench) -> _Bench:
    """The same with one generalist in place of the agents of the graph."""
    project, graph = bench.project, bench.graph
    settings, roles = project.settings, project.roles
    team = _agents_of(graph, bench.everyone)
    cards = [card for card in project.cards if card.id in team]
    largest = max(roles.get(card.role, RolePolicy()).budget_for("base") for card in cards)
    parts = max((stage.max_agents for stage in graph.stages if stage.kind is StageKind.DISPATCH), default=1)
    budget = (settings.context.budget_tokens or largest) * parts
    # Knowledge may be for some roles only: it has the role that most of them have.
    role, _ = Counter(card.role for card in cards).most_common(1)[0]
    duties = "\n".join(f"- {card.description}" for card in cards)
    generalist = AgentCard(
        id=GENERALIST,
        name="Generalist",
        role=role,
        description=" ".join(card.description for card in cards),
        instructions=f"You answer every request alone. Your duties:\n{duties}",
    )
    options = {"dense_share": 1.0, "min_relevance": 0.0, "min_share": 0.0, "weights": NEAREST}
    context = ContextSettings(router="role_aware", budget_tokens=budget, options=options)
    changed = replace(
        project,
        settings=settings.model_copy(update={"context": context, "watch": False}),  # its cards are in no folder
        cards=(generalist,),
        roles={**roles, role: RolePolicy()},
        scenarios={},
    )
    stages = (
        StageSpec(name="solve", kind=StageKind.AGENT, agent=GENERALIST),
        StageSpec(name="answer", kind=StageKind.REFINE),
    )
    alone = GraphSpec(name=graph.name, stages=stages, edges=(EdgeSpec(source="solve", target="answer"),))
    return replace(bench, project=changed, graph=alone)


def _called_alone(task: ScenarioTask, answer: Answer) -> Sequence[str]:
    """The generalist stands for whoever is expected; where nobody is, calling it was wrong."""
    expected = task.expect.agents if task.expect else ()
    return expected or tuple(reply.agent for reply in answer.replies)


def _chosen(choices: frozenset[str], task: ScenarioTask, answer: Answer) -> Sequence[str]:
    return [reply.agent for reply in answer.replies if reply.agent in choices]


def _without_routing(graph: GraphSpec, everyone: Sequence[str]) -> GraphSpec:
    """The graph with every dispatch calling all of its agents."""

    def opened(stage: StageSpec) -> StageSpec:
        if stage.graph is not None:
            return stage.model_copy(update={"graph": _without_routing(stage.graph, everyone)})
        if stage.kind is not StageKind.DISPATCH:
            return stage
        most = len(everyone) if "*" in stage.pool else len(stage.pool)
        return stage.model_copy(update={"router": "fixed", "max_agents": most})

    return graph.model_copy(update={"stages": tuple(opened(stage) for stage in graph.stages)})


def _choices(graph: GraphSpec, everyone: Sequence[str]) -> frozenset[str]:
    """The agents between which somebody chooses: those of dispatches and layers with more than one."""
    found: set[str] = set()
    for stage in graph.stages:
        if stage.graph is not None:
            found |= _choices(stage.graph, everyone)
        if stage.kind is StageKind.DISPATCH:
            pool = everyone if "*" in stage.pool else stage.pool
            found |= set(pool) if len(pool) > 1 else set()
        for layer in stage.path.layers if stage.path else ():
            found |= set(layer) if len(layer) > 1 else set()
    return frozenset(found)


def _agents_of(graph: GraphSpec, everyone: Sequence[str]) -> frozenset[str]:
    """Every agent of a graph."""
    named = set(graph.agents())
    return frozenset(everyone) if "*" in named else frozenset(named)


# --- sets and models --------------------------------------------------------------------------------------------------


def _sets(project: Project, wanted: Sequence[str]) -> tuple[str, ...]:
    judged = [n for n, s in project.scenarios.items() if any(t.expect is not None for t in s.tasks)]
    for name in wanted:
        if name not in project.scenarios:
            raise UnknownNameError("set", name, judged, where="bench joint")
        if name not in judged:
            raise ConfigError(f"scenarios/{name}.yaml: no task has an `expect`; say what a good answer must contain")
    if not judged:
        raise ConfigError("no scenario of this project has a task with an `expect`; add one, or choose another --data")
    return tuple(dict.fromkeys(wanted)) or tuple(n for n in SETS if n in judged) or tuple(judged)


def _models_of(project: Project) -> dict[str, ModelSettings]:
    """The models that may be asked, by name."""
    settings = project.settings
    named = {m for c in project.cards for m in (c.model, *(v.model for v in c.variants.values() if v.model))}
    named |= {settings.refiner_model, settings.routing.model}
    return {name: settings.models.get(name) or ModelSettings(model=name) for name in sorted(named)}


def _described(name: str, settings: ModelSettings) -> dict[str, Any]:
    return {"model": settings.model, "capable": open_model(name, settings).info.capable}


def _counting(project: Project) -> tuple[Project, tuple[str, ...]]:
    """The project with models that only count in place of those whose words do not count, and their names."""
    found = {name: counted_instead(name, settings) for name, settings in _models_of(project).items()}
    counted = {name: made for name, made in found.items() if made is not None}
    models = {**project.settings.models, **counted}
    changed = replace(project, settings=project.settings.model_copy(update={"models": models}))
    return changed, tuple(counted)


def _notes(project: Project, counted: Sequence[str]) -> list[str]:
    """What to know when reading the rows."""
    notes: list[str] = []
    if counted:
        notes.append(
            f"{', '.join(counted)}: not capable, so its words enter no answer; its prompts were counted with its own "
            "tokenizer and it was not made to write (--decode does)"
        )
    name = project.settings.routing.model
    if not open_model(name, _models_of(project)[name]).info.capable:
        notes.append(
            f"{name} is not capable, so the supervisor is given perfect choices: no wrong agents, and a lower bound of "
            "prompt tokens"
        )
    return notes
