"""A router, an agent and a toolset that do what a script says and remember what they were asked.

The model and the embedder of this kind are `agentmesh.models.scripted`: settings may name those, too.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from agentmesh.agents.citations import cited_sentences, without_marks
from agentmesh.agents.expert import failed_reply
from agentmesh.errors import ConfigError, MeshError, ToolError, nearest
from agentmesh.models.base import ToolSpec
from agentmesh.run import RunContext
from agentmesh.types import (
    AgentCall,
    AgentCard,
    AgentReply,
    Candidate,
    Chosen,
    ContextPack,
    Mode,
    ReplyStatus,
    RouteRequest,
    RoutingDecision,
)

__all__ = ["Decided", "Said", "ScriptedAgent", "ScriptedRouter", "ScriptedToolset"]

Decided = str | Sequence[str] | RoutingDecision | Exception
"""What a router's script holds: an id, several ids (none: out of scope), a whole decision, or what is raised."""
Said = str | AgentReply | Exception
"""What an agent's script holds: a text that may cite items as `[m1]`, a whole reply, or what went wrong."""


class ScriptedRouter:
    """Decides what its script says.

    Args:
        decisions: An agent's id or several, for every question; or by a part of the question's text (the first that
            occurs in it); or a function of the request. Absent: the first candidate.
        name: What its decisions say made them.
    """

    def __init__(
        self,
        decisions: str | Sequence[str] | Mapping[str, Decided] | Callable[[RouteRequest], Decided] | None = None,
        *,
        name: str = "scripted",
    ) -> None:
        self.requests: list[RouteRequest] = []
        """Every request, in the order in which they came."""
        self._decisions, self._name = decisions, name

    @property
    def name(self) -> str:
        return self._name

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        self.requests.append(request)
        decided = self._find(request)
        if isinstance(decided, Exception):
            raise decided
        return decided if isinstance(decided, RoutingDecision) else self._decision(decided, request)

    def _find(self, request: RouteRequest) -> Decided:
        match self._decisions:
            case None:
                return [card.id for card in request.cards if not card.shadow][:1]
            case Mapping() as by_part:
                text = request.task.full_text
                for part, decided in by_part.items():
                    if part in text:
                        return decided
                raise ConfigError(
                    f"the script of router {self._name!r} decides nothing about {text[:80]!r}; "
                    "add a part of it as a key"
                )
            case str() | Sequence() as always:
                return always
            case function:
                return function(request)

    def _decision(self, agents: str | Sequence[str], request: RouteRequest) -> RoutingDecision:
        ids = [agents] if isinstance(agents, str) else list(dict.fromkeys(agents))
        callable_ids = [card.id for card in request.cards if not card.shadow]
        for agent in ids:
            if agent not in callable_ids:
                close = nearest(agent, callable_ids) or tuple(sorted(callable_ids))
                raise ConfigError(
                    f"the script of router {self._name!r} names {agent!r}, which is no candidate; "
                    f"write {' or '.join(map(repr, close)) or 'nothing, for there are none'}"
                )
        ids = ids[: request.max_agents]
        mode = (Mode.OUT_OF_SCOPE, Mode.SOLO)[len(ids)] if len(ids) < 2 else Mode.PARALLEL
        return RoutingDecision(
            mode=mode,
            chosen=tuple(Chosen(agent=agent, score=1.0, weight=1.0 / len(ids)) for agent in ids),
            reason=f"the script says so: {', '.join(ids) or 'nobody'}",
            candidates=tuple(
                Candidate(
                    agent=card.id,
                    score=float(card.id in ids),
                    chosen=card.id in ids,
                    reason="named by the script" if card.id in ids else "not named by the script",
                )
                for card in sorted(request.cards, key=lambda card: card.id not in ids)
            ),
            confidence=1.0,
            router=self._name,
        )


class ScriptedAgent:
    """Says what its script says.

    Args:
        card: Who it is; an id makes a card of that name.
        replies: In order, one a call; or by a part of what is asked (the first that occurs in it); or a function of the
            call. Absent: what it is asked, again. An exception becomes a failed reply, as of every agent.
    """

    def __init__(
        self,
        card: AgentCard | str,
        replies: Sequence[Said] | Mapping[str, Said] | Callable[[AgentCall], Said] | None = None,
    ) -> None:
        self.calls: list[AgentCall] = []
        """Every call, in the order in which they came."""
        self.packs: list[ContextPack] = []
        """What it was given to read, call by call."""
        if isinstance(card, str):
            card = AgentCard(id=card, description=f"Says what the script of {card} says.")
        self._card = card
        self._replies = replies

    @property
    def card(self) -> AgentCard:
        return self._card

    async def answer(self, call: AgentCall, pack: ContextPack, ctx: RunContext) -> AgentReply:
        self.calls.append(call)
        self.packs.append(pack)
        try:
            said = self._find(call, len(self.calls))
            if isinstance(said, Exception):
                raise said
        except Exception as error:  # the promise of Agent: a failure is a reply
            return failed_reply(call, error)
        if isinstance(said, AgentReply):
            return said.model_copy(update={"call_id": call.id, "agent": call.agent})
        sentences = tuple(cited_sentences(said, pack))
        return call.reply(
            ReplyStatus.ANSWERED if said.strip() else ReplyStatus.NO_EVIDENCE,
            text=without_marks(said),
            sentences=sentences,
            cited=tuple(dict.fromkeys(item for sentence in sentences for item in sentence.items)),
            pack_tokens=pack.tokens,
            budget_tokens=pack.budget_tokens,
        )

    def _find(self, call: AgentCall, turn: int) -> Said:
        asked = call.part.strip() or call.task.text
        match self._replies:
            case None:
                return asked
            case Mapping() as by_part:
                for part, said in by_part.items():
                    if part in asked:
                        return said
                raise MeshError(
                    f"the script of agent {self._card.id!r} has no reply for {asked[:80]!r}; add a part of it as a key"
                )
            case Sequence() as in_order:
                if turn > len(in_order):
                    raise MeshError(
                        f"the script of agent {self._card.id!r} has {len(in_order)} replies, this is call {turn}; "
                        "add one"
                    )
                return in_order[turn - 1]
            case function:
                return function(call)


class ScriptedToolset:
    """Tools whose results stand in a script.

    Args:
        tools: By name: the result, a function of the arguments, or what is raised. A result that is no dictionary
            becomes `{"result": ...}`; an exception becomes a `ToolError`, as of every toolset.
        specs: What models see of the tools; absent: the names, with any arguments.
    """

    def __init__(self, tools: Mapping[str, Any], specs: Sequence[ToolSpec] | None = None) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        """Name and arguments of every call, in the order in which they came."""
        self._tools = dict(tools)
        anything = {"type": "object", "additionalProperties": True}
        self._specs = tuple(specs or (ToolSpec(name=name, parameters=anything) for name in self._tools))
        if strange := sorted({spec.name for spec in self._specs} ^ set(self._tools)):
            raise ConfigError(f"the tool {strange[0]!r} stands only in one of `tools` and `specs`; add it to the other")

    async def list_tools(self) -> Sequence[ToolSpec]:
        return self._specs

    async def call(self, name: str, arguments: dict[str, Any], ctx: RunContext) -> dict[str, Any]:
        self.calls.append((name, arguments))
        if name not in self._tools:
            known = nearest(name, list(self._tools)) or tuple(itertools.islice(self._tools, 5))
            raise ToolError(f"no tool is called {name!r}; there is {', '.join(map(repr, known)) or 'none'}")
        scripted = self._tools[name]
        try:
            result = scripted(arguments) if callable(scripted) else scripted
        except Exception as error:
            result = error
        if isinstance(result, ToolError):
            raise result
        if isinstance(result, Exception):
            raise ToolError(f"the tool {name!r} failed with {type(result).__name__}: {result}") from result
        return cast("dict[str, Any]", result) if isinstance(result, dict) else {"result": result}
