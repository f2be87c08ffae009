"""The file formats of a project: agent cards, roles, scenarios, settings. Closed, versioned, published as JSON schemas.

Only the forms and what they become; `loader.py` reads files and checks names across them. A card becomes an
`AgentCard` and a role a `RolePolicy` directly, so those formats are documented in `types.py`.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter

from agentmesh.graphs import (
    END,
    START,
    EdgeSpec,
    GraphSpec,
    LoopSpec,
    PathSpec,
    StageKind,
    StageSpec,
    default_graph,
)
from agentmesh.run import Limits
from agentmesh.settings import MeshSettings
from agentmesh.types import AgentCard, Frozen, RolePolicy

__all__ = [
    "CARD_KEYS",
    "FORMAT_VERSION",
    "EdgeFile",
    "Expectation",
    "GraphFile",
    "LoopFile",
    "Scenario",
    "ScenarioFile",
    "ScenarioTask",
    "StageFile",
    "json_schemas",
    "scenario_from",
]

FORMAT_VERSION = 1
"""Of all formats here; a change that old files do not survive raises it."""

CARD_KEYS = frozenset(AgentCard.model_fields) - {"id", "instructions"}
"""What the front matter of a card may hold: the id is the file's name, the instructions are its body."""


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_one_or_many, json_schema_input_type=str | tuple[str, ...])]
"""One name, or a list of names."""


# --- scenarios --------------------------------------------------------------------------------------------------------


class Expectation(Frozen):
    """What a good answer to a task looks like."""

    agents: Names = ()
    """Ids of the agents that should work on it, in any order; empty: none."""
    facts: Names = ()
    """Texts that the answer must contain."""
    conflicts: tuple[tuple[str, str], ...] = ()
    """Pairs of texts of which the answer must say that they contradict each other."""
    outcome: Literal["answered", "clarify", "out_of_scope"] = "answered"
    """Whether it should be answered, asked back about, or turned away."""


class ScenarioTask(Frozen):
    """One question of a scenario."""

    id: str = ""
    """Unique in the scenario; absent: `task-1`, `task-2`, ... by position."""
    ask: str = Field(min_length=1)
    """What the user says."""
    expect: Expectation | None = None
    """Absent: the task is run but not judged."""


class StageFile(Frozen):
    """One stage of a graph. Its kind follows from its keys: `layers` is a path, `graph` a subgraph, `agent` one agent,
    any of `agents`, `router`, `max_agents` a dispatch, and nothing but a name a refine."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")
    kind: StageKind | None = None
    """Needed only where the keys do not say it, e.g. a dispatch over all agents with the usual router."""
    agents: Names | None = None
    """Agent ids that a dispatch may choose from; absent or "*": every agent."""
    pool: Names | None = None
    """Another name of `agents`."""
    agent: str | None = None
    """The agent of an `agent` stage."""
    router: str | None = None
    """Name of the router; absent: the scenario's."""
    max_agents: int | None = Field(default=None, ge=1, le=64)
    """Most agents that a dispatch may choose; absent: 3."""
    after: Names = ()
    """Stages that come before it; `start` is the task. Absent: only edges lead here, or it is the first stage."""
    layers: tuple[tuple[str, ...], ...] | None = None
    """Agent ids of a path, layer by layer."""
    forbid: tuple[tuple[str, str], ...] = ()
    """Pairs (from, to) of a path that may not follow one another."""
    graph: "GraphFile | None" = None
    """The inner graph of a subgraph."""

    def inferred_kind(self) -> StageKind:
        """What the stage does, said or not."""
        if self.kind is not None:
            return self.kind
        if self.layers is not None:
            return StageKind.PATH
        if self.graph is not None:
            return StageKind.SUBGRAPH
        if self.agent is not None:
            return StageKind.AGENT
        if not (self.agents is None and self.pool is None and self.router is None and self.max_agents is None):
            return StageKind.DISPATCH
        return StageKind.REFINE

    def misplaced_keys(self) -> Iterator[tuple[str, str]]:
        """Keys that mean nothing in a stage of this kind, each with what is wrong."""
        kind = self.inferred_kind()
        allowed = {
            StageKind.DISPATCH: {"agents", "pool", "router", "max_agents"},
            StageKind.AGENT: {"agent"},
            StageKind.REFINE: set[str](),
            StageKind.SUBGRAPH: {"graph"},
            StageKind.PATH: {"layers", "forbid", "router"},
        }[kind]
        for key in sorted(self.model_fields_set - allowed - {"name", "kind", "after"}):
            use = f"; it may have {', '.join(sorted(allowed))}" if allowed else "; take it out"
            yield key, f"means nothing in a stage of kind {kind.value}{use}"
        if self.agents is not None and self.pool is not None:
            yield "pool", "says the same as `agents`; keep one"

    def to_spec(self, router: str | None) -> StageSpec:
        """The stage in full form."""
        kind = self.inferred_kind()
        chosen = self.agents if self.agents is not None else self.pool
        return StageSpec(
            name=self.name,
            kind=kind,
            pool=("*",) if chosen is None else chosen,
            agent=self.agent,
            router=self.router or (router if kind in (StageKind.DISPATCH, StageKind.PATH) else None),
            max_agents=self.max_agents or 3,
            path=None if self.layers is None else PathSpec(layers=self.layers, forbid=self.forbid),
            graph=self.graph.to_graph_spec(self.name, router=router) if self.graph else None,
        )


class EdgeFile(Frozen):
    """`to` follows `from`; with `when`, only if that condition holds."""

    source: str = Field(alias="from")
    """A stage, or `start`."""
    target: str = Field(alias="to")
    """A stage, or `end`."""
    when: str | None = None
    """Name of a condition over the run so far."""


class LoopFile(Frozen):
    """After a stage, go back while a condition holds."""

    after: str
    """The stage whose end is looked at."""
    back_to: str
    """The stage to go back to."""
    while_: str = Field(alias="while")
    """Name of a condition over the run so far."""
    max_rounds: int = 0
    """Rounds in all, 1 to 50; it has no default, for every loop is bounded."""


class GraphFile(Frozen):
    """A graph in short form."""

    stages: tuple[StageFile, ...]
    """In reading order; a run starts with those `after: start`, or else with the first."""
    loops: tuple[LoopFile, ...] = ()
    edges: tuple[EdgeFile, ...] = ()
    """Beside those that `after` says."""

    def to_graph_spec(self, name: str, *, router: str | None = None) -> GraphSpec:
        """The graph in full form, not yet checked.

        Args:
            name: What the graph is called.
            router: For stages that name none; None is the mesh's own.
        """
        stages = {stage.name for stage in self.stages}

        def end(text: str) -> str:
            return text if text in stages else {"start": START, "end": END}.get(text, text)

        after = [EdgeSpec(source=end(a), target=stage.name) for stage in self.stages for a in stage.after]
        edges = [EdgeSpec(source=end(e.source), target=end(e.target), when=e.when) for e in self.edges]
        return GraphSpec(
            name=name,
            stages=tuple(stage.to_spec(router) for stage in self.stages),
            edges=(*after, *edges),
            loops=tuple(
                LoopSpec(source=x.after, target=x.back_to, while_=x.while_, max_rounds=x.max_rounds) for x in self.loops
            ),
        )


StageFile.model_rebuild()


class ScenarioFile(Frozen):
    """`scenarios/<name>.yaml`: which agents, in which graph, with which tasks."""

    version: Literal[1] = 1
    """Of the format."""
    name: str = ""
    """Absent: the file's name without `.yaml`."""
    description: str = ""
    agents: Names = ("*",)
    """Ids of the agents that take part, or "*" for all of the project."""
    router: str | None = None
    """Name of the router; absent: that of the settings."""
    graph: GraphFile | None = None
    """Absent: route, answer, refine."""
    limits: Limits | None = None
    """Of a run; keys that are absent keep the value of the settings."""
    tasks: tuple[ScenarioTask, ...] = ()


class Scenario(Frozen):
    """A runnable graph of agents, with tasks and what a good answer to each must contain."""

    name: str
    file: str
    """Path relative to the project."""
    description: str = ""
    agents: tuple[str, ...] = ("*",)
    """Ids, or only `*` for every agent of the project."""
    router: str | None = None
    graph: GraphSpec | None = None
    limits: Limits | None = None
    """Only what the file says is set (`model_fields_set`)."""
    tasks: tuple[ScenarioTask, ...] = ()

    def to_graph_spec(self, *, max_agents: int = 3) -> GraphSpec:
        """Its graph, or route -> answer -> refine over its agents.

        Args:
            max_agents: Most agents of one task, where the scenario has no graph of its own.
        """
        return self.graph or default_graph(self.agents, router=self.router, max_agents=max_agents).model_copy(
            update={"name": self.name}
        )

    def limits_over(self, limits: Limits) -> Limits:
        """`limits` with what the scenario says in their place."""
        return limits if self.limits is None else limits.model_copy(update=self.limits.model_dump(exclude_unset=True))

    def task(self, id: str) -> ScenarioTask:
        """The task of that id, or `KeyError`."""
        for task in self.tasks:
            if task.id == id:
                return task
        raise KeyError(id)


def scenario_from(form: ScenarioFile, file: str, stem: str) -> Scenario:
    """The value of a scenario file: names filled in, the graph in full form."""
    name = form.name or stem
    return Scenario(
        name=name,
        file=file,
        description=form.description,
        agents=form.agents,
        router=form.router,
        graph=form.graph.to_graph_spec(name, router=form.router) if form.graph else None,
        limits=form.limits,
        tasks=tuple(t if t.id else t.model_copy(update={"id": f"task-{n}"}) for n, t in enumerate(form.tasks, 1)),
    )


# --- JSON schemas -----------------------------------------------------------------------------------------------------


def json_schemas() -> dict[str, dict[str, Any]]:
    """The JSON schema of every format by name: `card` (front matter), `roles`, `scenario`, `settings`."""
    card = AgentCard.model_json_schema()
    card["properties"] = {key: value for key, value in card["properties"].items() if key in CARD_KEYS}
    card["properties"]["output_schema"] = {
        "anyOf": [{"type": "object"}, {"type": "string"}, {"type": "null"}],
        "default": None,
        "description": "A JSON schema that the reply is validated against, or a file of the project that holds one.",
    }
    card |= {"required": ["description"], "description": "The front matter of `agents/<id>.md`."}
    settings = MeshSettings.model_json_schema()
    settings["properties"]["model"] = {"type": "string", "description": "Short for `models.default`."}
    schemas = {
        "card": card,
        "roles": TypeAdapter(dict[str, RolePolicy]).json_schema(),
        "scenario": ScenarioFile.model_json_schema(),
        "settings": settings,
    }
    return {
        name: {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": f"agentmesh {name}, version {FORMAT_VERSION}",
            **{key: value for key, value in schema.items() if key != "title"},
        }
        for name, schema in schemas.items()
    }
