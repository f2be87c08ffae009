"""What a model is asked about who should work, and what its reply means. Pure: nothing is called here.

Two forms. `json`: a system message, the request as fenced data, a reply of a schema in which ids are an enumeration.
`tags`: one message with the agents as XML, one `Reason` tag back and an `ID` tag per agent or the literal `oos`, as the
TCAndon-Router models are trained to. The prompts of both are our own.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal
from xml.sax.saxutils import escape

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentmesh.fence import fenced, inert
from agentmesh.models.base import ChatMessage, ChatRequest
from agentmesh.models.replies import json_in
from agentmesh.models.wire import valid_text
from agentmesh.prompts import render
from agentmesh.text import content_words, fold
from agentmesh.tokens import counter_for
from agentmesh.types import AgentCard, RouteRequest

__all__ = [
    "MOST_TAGS",
    "Form",
    "Opinion",
    "Outcome",
    "Pick",
    "conversation",
    "described",
    "listing",
    "may_ask",
    "read_json",
    "read_tags",
    "repair_prompt",
    "routing_prompt",
]

Form = Literal["json", "tags"]
"""How the model is spoken to."""
Outcome = Literal["agents", "none", "ask"]
"""What a reply decides for: some agents, nobody, or a question to the user."""
MOST_TAGS = 3
"""Agents that the tag protocol may name: what those models are trained for."""
OUT_OF_SCOPE = "oos"
"""What the tag protocol says if nobody fits."""
OUTPUT_TOKENS = 500
"""Tokens that reason, ids and parts may take. The tuned models write below 100 tokens of reasoning on average."""

DESCRIPTION_CHARS = 240
EXAMPLES = 3
"""Examples shown of an agent: those that share most words with the request."""
EXAMPLES_LOOKED_AT = 200
EXAMPLE_CHARS = 90
NOT_FOR = 2
REQUEST_CHARS = 6_000
"""Characters of the request that are shown; of a longer one, its beginning and its end."""
TURNS = 6
"""Latest turns of the conversation that are shown."""
TURN_CHARS = 300
HISTORY_TOKENS = 600
"""Tokens that those turns may take together, as the default encoding counts; the latest ones are kept."""
WORKED = 4
"""Agents that are named as those who worked on a turn."""
KNOWN = 12
"""Latest sentences found in earlier rounds that are shown."""
REASON_CHARS = 600
QUESTION_CHARS = 300
PART_CHARS = 4_000

_THOUGHT = re.compile(r"\A.*</think>", re.IGNORECASE | re.DOTALL)
"""What a model thinks first. Chat templates may begin that themselves, so that a reply only ends it."""
_REASON = re.compile(r"<reason>(.*?)</reason>", re.IGNORECASE | re.DOTALL)
_LIST = re.compile(r"\s*[,;\n]\s*")
_ID = re.compile(r"<id>\s*(.*?)\s*</id>", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Pick:
    """An agent that the model names."""

    agent: str
    probability: float | None = None
    """How likely it is needed, 0 to 1; None: the form of the reply has no numbers."""
    part: str = ""
    """Its part of the request; empty: all of it."""


@dataclass(frozen=True)
class Opinion:
    """What a model says about who should work."""

    outcome: Outcome
    picks: tuple[Pick, ...] = ()
    """Known agents only, each once; as the model ordered them."""
    none: float | None = None
    """How likely nobody fits, 0 to 1."""
    reason: str = ""
    question: str = ""
    dropped: tuple[str, ...] = ()
    """Names that are no agents of the list."""


# --- what is asked ----------------------------------------------------------------------------------------------------


def routing_prompt(request: RouteRequest, cards: Sequence[AgentCard], *, protocol: Form = "json") -> ChatRequest:
    """What a model is asked about this request, with these agents to choose from.

    The user's words, the history, what is known and what was answered stand in it as data. What is shown of an agent is
    bounded, so the prompt grows with the number of `cards` and with nothing else.
    """
    if protocol == "tags":
        text = render(
            "router-tags",
            most=str(min(MOST_TAGS, request.max_agents)),
            agents=_as_xml(request, cards),
            conversation="\n".join(f"{who}: {_tagless(said)}" for who, said in _turns(request)),
        )
        return ChatRequest(messages=(ChatMessage(role="user", text=text),), max_output_tokens=OUTPUT_TOKENS)
    ask = may_ask(request)
    outcomes = "`agents`, or `none` if no description covers the request"
    if ask:
        outcomes += ", or `ask` if it fits two agents and only the user can tell which: name both, put one `question`"
    user = render(
        "router-ask",
        agents=fenced("agents", (listing(card, request=request) for card in cards)),
        context=_context(request),
        request=fenced("request", [_shortened(inert(request.task.text), REQUEST_CHARS)]) or "The request is empty.",
    )
    system = render("router", most=str(request.max_agents), outcomes=outcomes)
    return ChatRequest(
        messages=(ChatMessage(role="system", text=system), ChatMessage(role="user", text=user)),
        json_schema=_schema([card.id for card in cards], ask=ask),
        max_output_tokens=OUTPUT_TOKENS,
    )


def repair_prompt(asked: ChatRequest, reply: str, problem: str, *, protocol: Form) -> ChatRequest:
    """The same question again, with the reply that could not be used and what is wrong with it."""
    template = "repair" if protocol == "json" else "router-tags-repair"
    again = (
        *asked.messages,
        ChatMessage(role="assistant", text=reply),
        ChatMessage(role="user", text=render(template, problem=problem)),
    )
    return asked.model_copy(update={"messages": again})


def may_ask(request: RouteRequest) -> bool:
    """Whether the user may still be asked back: once and in the first round, so that this ends in a decision."""
    return request.round == 1 and not request.task.clarifications


def described(card: AgentCard, request: RouteRequest | None = None) -> str:
    """An agent on one line: what it is for, a few examples near to the request, what it is not for.

    Without a request, its first examples.
    """
    text = _flat(card.description, DESCRIPTION_CHARS)
    if examples := _near_examples(card, request):
        text += f" E.g. {' / '.join(examples)}"
    if card.not_for:
        text += f" Not for: {' / '.join(_flat(n, EXAMPLE_CHARS) for n in card.not_for[:NOT_FOR])}"
    return text


def listing(card: AgentCard, *, protocol: Form = "json", request: RouteRequest | None = None) -> str:
    """What stands of an agent in a prompt of this form."""
    if protocol == "tags":
        about = escape(described(card, request))
        return f"<Agent><Name>{card.id}</Name><Description>{about}</Description><ID>{card.id}</ID></Agent>"
    name = f" ({_flat(card.name, EXAMPLE_CHARS)})" if card.name and fold(card.name) != fold(card.id) else ""
    return f"{card.id}{name}: {described(card, request)}"


def conversation(request: RouteRequest) -> str:
    """The request with what was said before and found so far, a line each, as plain bounded text."""
    return "\n".join(f"{who}: {said}" for who, said in _turns(request))


def _as_xml(request: RouteRequest, cards: Sequence[AgentCard]) -> str:
    return "\n".join(["<Agents>", *(listing(card, protocol="tags", request=request) for card in cards), "</Agents>"])


def _context(request: RouteRequest) -> str:
    """What was said and found before the request, each kind fenced; empty if there is nothing."""
    task = request.task
    turns = [f"{who}: {said}" for who, said in _history(request)]
    asked = [
        f"asked: {_shortened(inert(c.question), TURN_CHARS)}\n  answered: {_shortened(inert(c.answer), TURN_CHARS)}"
        for c in task.clarifications
    ]
    known = [f"- {_flat(sentence, TURN_CHARS)}" for sentence in request.known[-KNOWN:]]
    tried = [", ".join(inert(agent) for agent in request.tried[:KNOWN])] if request.tried else []
    blocks = [
        ("Earlier turns, with the agents that worked on them where that is known:", fenced("history", turns)),
        ("Found so far; name who should find the rest:", fenced("known", known)),
        ("Agents that worked on it already:", fenced("tried", tried)),
        ("The user was asked about the request and answered:", fenced("clarified", asked)),
    ]
    return "".join(f"{head}\n{block}\n\n" for head, block in blocks if block)


def _turns(request: RouteRequest) -> list[tuple[str, str]]:
    """The conversation as turns, the request and what was clarified about it last."""
    task = request.task
    turns = _history(request)
    if request.known:
        found = " ".join(_flat(sentence, TURN_CHARS) for sentence in request.known[-KNOWN:])
        turns.append(("assistant", f"Found so far: {found}"))
    turns.append(("user", _shortened(inert(task.text), REQUEST_CHARS)))
    for c in task.clarifications:
        turns.append(("assistant", _shortened(inert(c.question), TURN_CHARS)))
        turns.append(("user", _shortened(inert(c.answer), TURN_CHARS)))
    return turns


def _history(request: RouteRequest) -> list[tuple[str, str]]:
    """The latest turns, oldest first: who spoke, with the agents that worked on it, and what was said.

    As many as fit `HISTORY_TOKENS`; the very last one is cut to it.
    """
    if not request.task.history:
        return []
    counter, left = counter_for(""), HISTORY_TOKENS
    turns: list[tuple[str, str]] = []
    for message in reversed(request.task.history[-TURNS:]):
        agents = ", ".join(_flat(agent, EXAMPLE_CHARS) for agent in message.agents[:WORKED])
        who, said = (
            f"{message.role} ({agents})" if agents else message.role,
            _shortened(inert(message.text), TURN_CHARS),
        )
        left -= counter.count(who) + 2
        if not turns:
            said = counter.cut(said, left)
        left -= counter.count(said)
        if left < 0:
            break
        turns.append((who, said))
    return turns[::-1]


def _schema(ids: Sequence[str], *, ask: bool) -> dict[str, Any]:
    """Bounds of numbers and lists are left to the check of the reply: not every provider takes them."""
    named = {
        "type": "object",
        "properties": {
            "id": {"type": "string", "enum": list(ids)},
            "part": {"type": "string"},
            "probability": {"type": "number"},
        },
        "required": ["id", "part", "probability"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {
            "reason": {"type": "string"},
            "outcome": {"type": "string", "enum": ["agents", "none", *(["ask"] if ask else [])]},
            "agents": {"type": "array", "items": named},
            "none": {"type": "number"},
            "question": {"type": "string"},
        },
        "required": ["reason", "outcome", "agents", "none", "question"],
        "additionalProperties": False,
    }


def _near_examples(card: AgentCard, request: RouteRequest | None) -> list[str]:
    """The examples with most words of the request, in the order of the card; without a request, the first ones."""
    if request is None:
        return [_flat(example, EXAMPLE_CHARS) for example in card.examples[:EXAMPLES]]
    asked = _words_of(request.task.text[-TURN_CHARS:] if len(request.task.text) > TURN_CHARS else request.task.text)
    pool = card.examples[:EXAMPLES_LOOKED_AT]
    ranked = sorted(range(len(pool)), key=lambda i: (-len(asked & _words_of(pool[i])), i))[:EXAMPLES]
    return [_flat(pool[i], EXAMPLE_CHARS) for i in sorted(ranked)]


@lru_cache(maxsize=32_768)
def _words_of(text: str) -> frozenset[str]:
    return frozenset(content_words(text))


def _flat(text: str, most: int) -> str:
    """Inert text on one line, at most `most` characters."""
    line = " ".join(inert(valid_text(text)).split())
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"


def _shortened(text: str, most: int) -> str:
    """The beginning and the end of a text that is longer than `most` characters."""
    half = (most - 5) // 2
    return text if len(text) <= most else f"{text[:half]} [...] {text[-half:]}"


def _tagless(text: str) -> str:
    """Text that holds no tag, so that none can be repeated as the model's own."""
    return text.replace("<", "‹").replace(">", "›")


# --- what is said -----------------------------------------------------------------------------------------------------


class _Named(BaseModel):
    """One agent as the model writes it."""

    model_config = ConfigDict(extra="ignore")
    id: str
    part: str | None = None
    probability: float = Field(ge=0, le=1, allow_inf_nan=False)


class _Said(BaseModel):
    """The model's whole reply."""

    model_config = ConfigDict(extra="ignore")
    reason: str | None = None
    outcome: Outcome
    agents: list[_Named] = []
    none: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    question: str | None = None


def read_json(text: str, cards: Sequence[AgentCard], *, ask: bool = True) -> Opinion:
    """What a reply of the `json` form says.

    Names that are no agents of `cards` are dropped, an agent that is named twice is one.

    Raises:
        ValueError: If it is no JSON of the schema, says that it names agents and names none of the list, says that
            nobody fits and names somebody as needed, or asks where that is not possible. Says what is wrong.
    """
    try:
        said = _Said.model_validate(json_in(_THOUGHT.sub("", text)))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the value"
        raise ValueError(f"{where}: {first['msg']}") from error
    ids = _ids(cards)
    picks: dict[str, Pick] = {}
    dropped: list[str] = []
    for named in said.agents:
        agent = ids.get(fold(named.id))
        if agent is None:
            dropped.append(named.id)
        else:
            pick = Pick(agent, named.probability, inert(valid_text(named.part or ""))[:PART_CHARS].strip())
            picks[agent] = _joined(picks[agent], pick) if agent in picks else pick
    if said.outcome == "agents" and not picks:
        raise ValueError(_nobody_known(dropped, cards))
    if said.outcome == "none" and any((pick.probability or 0) >= 0.5 for pick in picks.values()):
        raise ValueError("outcome: it is `none`, but agents are named as probable; decide for one of the two")
    if said.outcome == "ask" and not ask:
        raise ValueError("outcome: the user was asked already; decide for `agents` or `none`")
    return Opinion(
        said.outcome,
        tuple(picks.values()),
        said.none,
        _flat(said.reason or "", REASON_CHARS),
        _flat(said.question or "", QUESTION_CHARS),
        tuple(_flat(name, EXAMPLE_CHARS) for name in dropped),
    )


def read_tags(text: str, cards: Sequence[AgentCard]) -> Opinion:
    """What a reply of the `tags` form says; ids that stand in the reasoning do not count.

    Tags are read in upper and lower case, an id that is named twice counts once, unknown ones are dropped and named,
    and of more than `MOST_TAGS` the first count. A tag that holds a list of ids, as untrained models write, is several.

    Raises:
        ValueError: If it holds no `ID` tag, no id of the list, or both ids and `oos`. Says what is wrong.
    """
    text = _THOUGHT.sub("", text)
    reasons = _REASON.findall(text)
    ids = _ids(cards)
    tagged = [name.strip() for name in _ID.findall(_REASON.sub("", text))]
    if not tagged:
        raise ValueError("it holds no ID tag")
    named = [one for name in tagged for one in ([name] if fold(name) in ids else _LIST.split(name))]
    agents = list(dict.fromkeys(ids[fold(name)] for name in named if fold(name) in ids))
    nobody = any(fold(name) == OUT_OF_SCOPE and fold(name) not in ids for name in named)
    dropped = [name for name in named if fold(name) not in ids and fold(name) != OUT_OF_SCOPE]
    if agents and nobody:
        raise ValueError(f"it names {agents[0]} and {OUT_OF_SCOPE}; decide for one of the two")
    if not agents and not nobody:
        raise ValueError(_nobody_known(dropped, cards))
    return Opinion(
        "none" if nobody else "agents",
        tuple(Pick(agent) for agent in agents[:MOST_TAGS]),
        reason=_flat(" ".join(reasons), REASON_CHARS),
        dropped=tuple(_flat(name, EXAMPLE_CHARS) for name in dropped),
    )


def _ids(cards: Sequence[AgentCard]) -> Mapping[str, str]:
    """How an id may be written -> the id; of two that differ in case only, the first."""
    return {fold(card.id): card.id for card in reversed(cards)}


def _joined(one: Pick, other: Pick) -> Pick:
    """The same agent named twice."""
    parts = dict.fromkeys(part for part in (one.part, other.part) if part)
    return Pick(one.agent, max(one.probability or 0.0, other.probability or 0.0), " ".join(parts))


def _nobody_known(dropped: Sequence[str], cards: Sequence[AgentCard]) -> str:
    known = ", ".join(card.id for card in cards)
    strange = ", ".join(_flat(name, EXAMPLE_CHARS) for name in dropped[:3] if name)
    return f"{f'{strange} is not in the list' if strange else 'no agent is named'}; the ids are {known}"
