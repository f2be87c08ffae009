"""A LangGraph graph as an agent: what is asked goes in as its state, a text comes out of its last state.

The graph keeps its own nodes, checkpointer and interrupts; agentmesh sees one agent. It decides nothing about memory.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

from langgraph.types import Command

from agentmesh.agents.outside import reply_in_time, reply_of_text
from agentmesh.errors import ConfigError, MeshError
from agentmesh.run import RunContext
from agentmesh.runtime.apart import apart
from agentmesh.types import AgentCall, AgentCard, AgentReply, Answer, ContextPack, ReplyStatus

__all__ = ["GraphAgent", "card_of_graph", "content_of", "is_graph"]

ASKED = ("question", "task", "input", "query", "text")
"""Keys of a state that may take what is asked, the first that is there; `messages` goes before them."""
SAID = ("answer", "output", "result", "reply", "text")
"""Keys of a state that may hold what is said, the first that is there; `messages` goes before them."""
MAX_STEPS = 100
"""Steps of the graph in one call."""
INTERRUPT = "interrupt/"
"""What the id of a question of the graph begins with; its number and LangGraph's id of the interrupt follow."""

Read = Callable[[AgentCall, ContextPack], Any]
"""What is asked as the graph's input."""
Write = Callable[[Mapping[str, Any]], "str | AgentReply"]
"""The graph's last state as what is said."""


class GraphAgent:
    """Answers with a compiled LangGraph graph.

    Without `read` and `write` the graph's state tells: `messages` gets one user message with the part of the task and
    the pack, and its last message is the reply; else a key such as `question` and a key such as `answer`.

    If the graph interrupts, a person is asked for a yes or a no, which is what `interrupt()` returns: its card must
    say `approval: tools` or `always`, and the graph must have a checkpointer, durable if the mesh is. Until something
    was answered, a call that was cut off begins anew.

    Args:
        card: Who it is; `limits.timeout_s` holds.
        graph: What answers: anything with LangGraph's `ainvoke`.
        read: Makes the graph's input of the call and its pack.
        write: Makes a text, or a whole reply, of the graph's last state.

    Raises:
        ConfigError: If neither the state nor `read` says where the question goes.
    """

    def __init__(self, card: AgentCard, graph: Any, *, read: Read | None = None, write: Write | None = None) -> None:
        self._card, self._graph = card, graph
        self._read, self._write = read or _reader(graph, card.id), write or _said

    @property
    def card(self) -> AgentCard:
        return self._card

    async def answer(self, call: AgentCall, pack: ContextPack, ctx: RunContext) -> AgentReply:
        return await reply_in_time(self._work(call, pack), self._card, call, pack, ctx)

    async def _work(self, call: AgentCall, pack: ContextPack) -> AgentReply:
        config = {"configurable": {"thread_id": call.id}, "recursion_limit": MAX_STEPS}
        said = {id_: yes for id_, yes in call.approved.items() if id_.startswith(INTERRUPT)}
        with apart():
            state: object = await self._go_on(said, config) if said else await self._graph.ainvoke(
                self._read(call, pack), config
            )  # fmt: skip
        if not isinstance(state, Mapping):
            raise MeshError(
                f"the graph of {self._card.id!r} ended with {type(state).__name__}; let its state be a dict"
            )
        state = cast("Mapping[str, Any]", state)
        if asked := state.get("__interrupt__"):
            if getattr(self._graph, "checkpointer", None) is None:
                raise MeshError(f"the graph of {self._card.id!r} interrupts; compile it with a checkpointer")
            id_, value = f"{INTERRUPT}{len(said) + 1}/{asked[0].id}", cast("object", asked[0].value)
            pending = {"id": id_, "text": _question(value, self._card), "value": _plain(value)}
            return call.reply(ReplyStatus.NEEDS_APPROVAL, pending=pending)
        text = cast("object", self._write(state))
        if isinstance(text, AgentReply):
            return text.model_copy(update={"call_id": call.id, "agent": call.agent})
        if not isinstance(text, str):
            raise MeshError(
                f"`write` of {self._card.id!r} returned {type(text).__name__}; return a text or an AgentReply"
            )
        return reply_of_text(text, call, pack)

    async def _go_on(self, said: Mapping[str, bool], config: dict[str, Any]) -> object:
        """The state after what people answered, each answer given to the interrupt that it was asked for.

        The graph may be further than the mesh knows, where their process was killed: what it asks or says now counts.
        """
        snapshot = await self._graph.aget_state(config)
        asked = [interrupt for task in snapshot.tasks for interrupt in task.interrupts]
        if not asked and not snapshot.tasks:
            return snapshot.values
        answers = {id_.rpartition("/")[2]: yes for id_, yes in said.items()}
        given = {interrupt.id: answers[interrupt.id] for interrupt in asked if interrupt.id in answers}
        if asked and not given:
            return {**snapshot.values, "__interrupt__": asked}
        return await self._graph.ainvoke(Command(resume=given) if given else None, config)


def is_graph(value: object) -> bool:
    """Whether this is a compiled LangGraph graph."""
    return all(hasattr(value, name) for name in ("ainvoke", "get_state", "builder"))


def card_of_graph(graph: Any) -> AgentCard:
    """A card for a graph that was given without one: its name, and what its state's docstring says.

    Raises:
        ConfigError: If the state has no docstring of its own: routers need a description.
    """
    schema: object = getattr(graph.builder, "state_schema", None)
    text = inspect.cleandoc(schema.__doc__ or "") if isinstance(schema, type) else ""
    if not text or text.startswith("dict("):  # what a TypedDict without a docstring inherits
        raise ConfigError(
            f"the graph {graph.name!r} has no description for routers to read; give it as "
            'GraphAgent(AgentCard(id="...", description="..."), graph)'
        )
    return AgentCard(id=str(graph.name).replace("_", "-").replace(" ", "-"), description=" ".join(text.split()))


def _reader(graph: Any, agent: str) -> Read:
    """How the question goes into this graph's state."""
    keys = _keys(getattr(graph.builder, "input_schema", None))
    if "messages" in keys:
        return lambda call, pack: {"messages": [{"role": "user", "content": _with_memory(call, pack)}]}
    wanted = next((key for key in ASKED if key in keys), None)
    if wanted is None:
        raise ConfigError(
            f"the graph of {agent!r} takes {', '.join(sorted(keys)) or 'nothing'}: say where the question goes with "
            "GraphAgent(card, graph, read=lambda call, pack: {...})"
        )
    packed = next((key for key in ("context", "memory", "pack") if key in keys), None)

    def read(call: AgentCall, pack: ContextPack) -> dict[str, Any]:
        asked = call.part.strip() or call.task.full_text
        return {wanted: asked, packed: pack.text} if packed else {wanted: asked}

    return read


def _keys(schema: object) -> set[str]:
    """The keys of a state: a typed dict, a dataclass or a model."""
    bases = schema.__mro__ if isinstance(schema, type) else ()
    return {name for base in bases for name in vars(base).get("__annotations__", {})}


def _with_memory(call: AgentCall, pack: ContextPack) -> str:
    asked = call.part.strip() or call.task.full_text
    return f"{asked}\n\n{pack.text}" if pack.text else asked


def _said(state: Mapping[str, Any]) -> str:
    """What a last state says."""
    messages: object = state.get("messages")
    if isinstance(messages, list) and messages:
        last: object = cast("list[object]", messages)[-1]
        return content_of(last)
    for key in SAID:
        value: object = state.get(key)
        if isinstance(value, Answer):
            return value.text
        if isinstance(value, str):
            return value
    held = ", ".join(sorted(map(str, state))) or "an empty state"
    raise MeshError(f"the graph ended with {held}, none of which says its answer; give GraphAgent a `write`")


def content_of(message: object) -> str:
    """The text of a message, be it LangChain's or a dict."""
    held: object = cast("dict[str, object]", message).get("content") if isinstance(message, dict) else None
    content: object = getattr(cast("Any", message), "content", held)
    if isinstance(content, str):
        return content
    return str(getattr(cast("Any", message), "text", "") or "")


def _question(value: object, card: AgentCard) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        for key in ("question", "text", "message"):
            said: object = cast("Mapping[str, object]", value).get(key)
            if isinstance(said, str):
                return said
    return f"{card.title} asks for a yes or a no: {value!r}"


def _plain(value: object) -> Any:
    """The value as JSON holds it."""
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in cast("Mapping[object, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in cast("list[object]", value)]
    return repr(value)
