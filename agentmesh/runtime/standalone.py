"""Single parts as nodes of somebody's own LangGraph graph: route, context, agent, refine, or a whole mesh.

Each function makes an async node for a plain `StateGraph`. A node reads the keys of the state that it is told, and adds
one key; what goes wrong is an exception there, as in any other node. Values of ours in a durable checkpoint need
`agentmesh.runtime.checkpoints.serializer()` on the checkpointer.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END
from langgraph.types import interrupt

from agentmesh.agents.base import Agent, Refiner
from agentmesh.context.base import ContextRouter
from agentmesh.errors import InputError, nearest
from agentmesh.routing.base import Router
from agentmesh.run import RunContext, loose_context, new_run_id
from agentmesh.runtime.graph_agent import content_of
from agentmesh.runtime.mesh import Mesh
from agentmesh.runtime.nodes import refine_step, route_step
from agentmesh.runtime.people import heard
from agentmesh.trace.base import TraceSink
from agentmesh.types import (
    AgentCall,
    AgentCard,
    AgentReply,
    Answer,
    ContextPack,
    ContextRequest,
    Mode,
    Question,
    RolePolicy,
    RouteRequest,
    RoutingDecision,
    Task,
)

__all__ = ["agent_node", "context_node", "mesh_node", "refine_node", "route_node", "to_agents"]

Node = Callable[[Any, RunnableConfig], Coroutine[Any, Any, dict[str, Any]]]
"""What `StateGraph.add_node` takes."""
Asked = str | Callable[[Mapping[str, Any]], "Task | str"]
"""Where the question is: a key of the state (a text, a `Task`, or messages of which the last user's counts), or a
function of the state."""


def route_node(
    router: Router,
    cards: Sequence[AgentCard],
    *,
    task: Asked = "task",
    into: str = "decision",
    max_agents: int = 3,
    sink: TraceSink | None = None,
) -> Node:
    """A node that decides which agents work: adds a `RoutingDecision` under `into`.

    Args:
        router: Who decides.
        cards: The candidates.
        task: Where the question is.
        into: Key of the state that it writes.
        max_agents: Most agents it may choose.
        sink: Takes its events.

    Raises:
        RoutingError: In the node, if the router could not decide.
        InputError: In the node, if the state holds no question.
    """

    async def route(state: Any, config: RunnableConfig) -> dict[str, Any]:
        asked = _task(state, task)
        request = RouteRequest(task=asked, cards=tuple(cards), max_agents=max_agents)
        return {into: await route_step(router, request, _context(config, into, asked, sink))}

    return route


def to_agents(
    decision: str = "decision", *, clarify: str = END, out_of_scope: str = END
) -> Callable[[Any], list[str] | str]:
    """A path for `add_conditional_edges` after `route_node`: the node of each chosen agent, by its id.

    Args:
        decision: Key of the state that holds the decision.
        clarify: The node for a router that is torn.
        out_of_scope: The node where nobody fits.
    """

    def path(state: Any) -> list[str] | str:
        made: object = _value(state, decision)
        if not isinstance(made, RoutingDecision):
            raise InputError(f"the state's {decision!r} is {type(made).__name__}, not a RoutingDecision")
        if made.chosen:
            return list(made.agents)
        return clarify if made.mode is Mode.CLARIFY else out_of_scope

    return path


def context_node(
    context_router: ContextRouter,
    card: AgentCard,
    role: RolePolicy | None = None,
    *,
    task: Asked = "task",
    into: str = "pack",
    budget_tokens: int | None = None,
    stage: str = "answer",
    sink: TraceSink | None = None,
) -> Node:
    """A node that gives one agent the memory it needs: adds a `ContextPack` under `into`.

    Args:
        context_router: Who chooses.
        card: For whom.
        role: What its role may read; None: the default policy.
        task: Where the question is.
        into: Key of the state that it writes.
        budget_tokens: Instead of the role's own.
        stage: What roles call this stage.
        sink: Takes its events.
    """

    async def select(state: Any, config: RunnableConfig) -> dict[str, Any]:
        asked = _task(state, task)
        request = ContextRequest(
            task=asked, card=card, role=role or RolePolicy(), part="", stage=stage, model=card.model,
            budget_tokens=budget_tokens,
        )  # fmt: skip
        return {into: await context_router.select(request, _context(config, into, asked, sink))}

    return select


def agent_node(
    agent: Agent,
    *,
    task: Asked = "task",
    pack: str | None = None,
    decision: str | None = None,
    into: str = "replies",
    sink: TraceSink | None = None,
) -> Node:
    """A node that lets one agent answer: adds a list with its `AgentReply` under `into`.

    Agents that work side by side need a reducer there: `replies: Annotated[list, operator.add]`.

    Args:
        agent: Who answers.
        task: Where the question is.
        pack: Key of the state that holds its `ContextPack`; None: it reads nothing.
        decision: Key of the state that holds the decision, for its part of the task; None: the whole task is its own.
        into: Key of the state that it writes.
        sink: Takes its events.
    """

    async def answer(state: Any, config: RunnableConfig) -> dict[str, Any]:
        asked = _task(state, task)
        ctx = _context(config, f"{into}.{agent.card.id}", asked, sink)
        made: object = _value(state, decision) if decision is not None else None
        places = list(made.agents) if isinstance(made, RoutingDecision) else []
        order = places.index(agent.card.id) if agent.card.id in places else 0
        part = made.chosen[order].part if isinstance(made, RoutingDecision) and places else ""
        call = AgentCall(run_id=ctx.run_id, step=into, agent=agent.card.id, task=asked, part=part, order=order)
        read: object = _value(state, pack) if pack is not None else ContextPack(agent=call.agent, role=agent.card.role)
        if not isinstance(read, ContextPack):
            raise InputError(f"the state's {pack!r} is {type(read).__name__}, not a ContextPack; see context_node")
        said = cast("object", await agent.answer(call, read, ctx.at(step=into, agent=call.agent)))
        if not isinstance(said, AgentReply):
            raise InputError(f"the agent {call.agent!r} returned {type(said).__name__}; return an AgentReply")
        return {into: [said]}

    return answer


def refine_node(
    refiner: Refiner,
    *,
    task: Asked = "task",
    replies: str = "replies",
    into: str = "answer",
    sink: TraceSink | None = None,
) -> Node:
    """A node that makes one answer of the replies: adds an `Answer` under `into`.

    Args:
        refiner: Who merges.
        task: Where the question is.
        replies: Key of the state that holds a list of `AgentReply`, or a mapping to them.
        into: Key of the state that it writes.
        sink: Takes its events.
    """

    async def refine(state: Any, config: RunnableConfig) -> dict[str, Any]:
        asked = _task(state, task)
        held: object = _value(state, replies)
        found = list(cast("Mapping[str, object]", held).values()) if isinstance(held, Mapping) else held
        if not isinstance(found, list | tuple) or not all(
            isinstance(r, AgentReply) for r in cast("list[object]", found)
        ):
            raise InputError(f"the state's {replies!r} must be a list of AgentReply; see agent_node")
        ordered = sorted(cast("list[AgentReply]", found), key=lambda reply: reply.order)
        return {into: await refine_step(refiner, asked, ordered, _context(config, into, asked, sink))}

    return refine


def mesh_node(mesh: Mesh, *, task: Asked = "task", into: str = "answer", **options: Any) -> Node:
    """A node that asks a whole mesh: adds an `Answer` under `into`.

    A run of the mesh that waits for a person interrupts the graph around it, with the questions as the interrupt's
    value; what the graph is resumed with is the answer. That needs a checkpointer on the graph around it.

    Args:
        mesh: Who is asked.
        task: Where the question is.
        into: Key of the state that it writes.
        options: What `Mesh.ask` takes besides the text, e.g. `graph`, `thread`, `tenant`, `limits`.
    """

    again = {key: options[key] for key in ("graph", "limits", "sinks", "stream") if key in options}

    async def ask(state: Any, config: RunnableConfig) -> dict[str, Any]:
        asked = _task(state, task)
        place: Mapping[str, Any] = config.get("configurable", {})
        run_id = _run_id(str(place.get("thread_id", "")), str(place.get("checkpoint_ns", "")))
        given: dict[str, Any] = {
            "history": asked.history, "tenant": asked.tenant, "user": asked.user, "thread": asked.thread, **options
        }  # fmt: skip
        stops = await mesh.stops(run_id)
        for answer in stops[:-1]:  # LangGraph runs this node again from its top: what was heard is heard again
            _heard(answer.waiting)
        if stops:
            answer = stops[-1]
        elif await mesh.knows(run_id):  # it was cut off with the graph around it
            answer = await mesh.resume(run_id, **again)
        else:
            answer = await mesh.ask(asked.text, run_id=run_id, **given)
        while answer.waiting:
            answer = await _answered(mesh, run_id, _heard(answer.waiting), again)
        return {into: answer}

    return ask


async def _answered(mesh: Mesh, run_id: str, said: Mapping[str, str | bool], options: Mapping[str, Any]) -> Answer:
    """Where the run stops next; what was said may have been taken just before the process was killed."""
    if not await mesh.waiting(run_id):
        try:
            return await mesh.resume(run_id, **options)
        except InputError:  # it was not
            pass
    return await mesh.resume(run_id, said, **options)


def _heard(waiting: Sequence[Question]) -> dict[str, str | bool]:
    """What the graph around is resumed with, until it makes sense.

    LangGraph runs the node again from its top and gives what it was resumed with before in the same order.
    """
    while True:
        said: object = interrupt([question.model_dump(mode="json") for question in waiting])
        if meant := heard(waiting, said):
            return meant


def _run_id(thread: str, place: str) -> str:
    """The name of the mesh's run: the same when the node around it is run again."""
    name = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "-" for c in f"{thread}.{place}")
    return name[-120:].strip("-._") or new_run_id()


def _context(config: RunnableConfig, step: str, task: Task, sink: TraceSink | None) -> RunContext:
    thread = str(cast("Mapping[str, Any]", config.get("configurable", {})).get("thread_id", "") or "loose")
    return loose_context(thread, sink=sink).at(step=step)


def _value(state: Any, key: str) -> object:
    """What the state holds under a key: a mapping, a dataclass or a model."""
    if isinstance(state, Mapping):
        held = cast("Mapping[str, object]", state)
        if key in held:
            return held[key]
        known = [str(k) for k in held]
    elif hasattr(state, key):
        return getattr(state, key)
    else:
        known = [k for k in dir(state) if not k.startswith("_")]
    close = nearest(key, known)
    hint = f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(sorted(known)) or 'nothing'}"
    raise InputError(f"the state has no {key!r}; {hint}")


def _task(state: Any, where: Asked) -> Task:
    found: object = where(state) if callable(where) else _value(state, where)
    if isinstance(found, Task):
        return found
    if isinstance(found, list):
        found = next(
            (content_of(m) for m in reversed(cast("list[object]", found)) if _role(m) in ("user", "human")), ""
        )
    if not isinstance(found, str) or not found.strip():
        what = "empty" if isinstance(found, str) else type(found).__name__
        raise InputError(f"the question under {where!r} is {what}; give a text, a Task or messages")
    return Task(text=found)


def _role(message: object) -> str:
    if isinstance(message, dict):
        return str(cast("dict[str, object]", message).get("role", ""))
    return str(getattr(message, "type", ""))
