"""One answer out of several replies: worded by a capable model where there is one, by extraction otherwise.

Conflicts found without a model are always kept, whatever the model says. Which refiner ran, and why, is in the answer.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from agentmesh.agents.base import Refiner
from agentmesh.agents.citations import attributed
from agentmesh.agents.extractive import ExtractiveRefiner
from agentmesh.agents.merging import (
    Merged,
    conflicts_among,
    contributors,
    failures_said,
    merged,
    spoken,
    status_of,
    usable,
    with_sources,
)
from agentmesh.errors import ConfigError, MeshError, ModelReplyError, ModelRequestError
from agentmesh.fence import fenced, inert
from agentmesh.models.base import ChatMessage, ChatModel, ChatRequest
from agentmesh.models.call import call_model
from agentmesh.models.replies import json_in
from agentmesh.prompts import render
from agentmesh.run import RunContext
from agentmesh.text import fold, sentences
from agentmesh.tokens import counter_for
from agentmesh.types import AgentReply, Answer, CitedSentence, Conflict, PackItem, Side, Task

__all__ = ["ModelRefiner", "auto_refiner", "extractive_refiner", "model_refiner"]

OUTPUT_TOKENS = 700
"""Tokens that the answer and its conflicts may take."""
TEMPLATE_TOKENS = 32
"""Allowance for what a chat template puts around the messages."""

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "answer": {"type": "string"},
        "used": {"type": "array", "items": {"type": "string"}},
        "conflicts": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "about": {"type": "string"},
                    "sides": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {
                                "agent": {"type": "string"},
                                "value": {"type": "string"},
                                "text": {"type": "string"},
                            },
                            "required": ["agent", "value", "text"],
                            "additionalProperties": False,
                        },
                    },
                },
                "required": ["about", "sides"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["answer", "used", "conflicts"],
    "additionalProperties": False,
}
"""What the model is asked to write."""


class _Said(BaseModel):
    """What one side says, as the model has it."""

    model_config = ConfigDict(extra="ignore")
    agent: str
    value: str = ""
    text: str = ""


class _Dispute(BaseModel):
    model_config = ConfigDict(extra="ignore")
    about: str
    sides: list[_Said]


class _Written(BaseModel):
    """The model's whole reply."""

    model_config = ConfigDict(extra="ignore")
    answer: str
    used: list[str] = []
    conflicts: list[_Dispute] = []


class ModelRefiner:
    """Lets a capable model word the answer; falls back on another refiner when the model fails.

    A single reply of a capable model passes through without a call.

    Args:
        model: What words the answer.
        fallback: What answers when the model does not.
        titles: Agent id -> the name that people see.
        retries: Further attempts after a failure of the model that may pass.
        max_output_tokens: Of the answer with its conflicts.
    """

    name = "model"

    def __init__(
        self,
        model: ChatModel,
        fallback: ExtractiveRefiner | None = None,
        *,
        titles: Mapping[str, str] | None = None,
        retries: int = 1,
        max_output_tokens: int = OUTPUT_TOKENS,
    ) -> None:
        self._model, self._titles = model, dict(titles or {})
        self._fallback = fallback or ExtractiveRefiner(titles=titles)
        self._retries, self._max_output_tokens = retries, max_output_tokens

    async def refine(self, task: Task, replies: Sequence[AgentReply], ctx: RunContext) -> Answer:
        speaking = [r for r in replies if usable(r)]
        if len(speaking) < 2:
            answer = await self._fallback.refine(task, replies, ctx)
            why = "nothing to merge" if not speaking else "one reply of extracts" if speaking[0].extractive else ""
            named = f"extractive ({why})" if why else "model (one reply, passed through)"
            return answer.model_copy(update={"refiner": named})
        conflicts = conflicts_among(replies)
        try:
            written = await self._write(task, speaking, conflicts, ctx)
        except MeshError as error:
            answer = await self._fallback.refine(task, replies, ctx)
            return answer.model_copy(update={"refiner": f"extractive (model refiner failed: {error})"})
        return self._answer(written, replies, conflicts, ctx.run_id)

    async def _write(
        self, task: Task, replies: Sequence[AgentReply], conflicts: Sequence[Conflict], ctx: RunContext
    ) -> _Written:
        """Ask the model; ask once more if what it writes cannot be read."""
        info = self._model.info
        messages = (
            ChatMessage(role="system", text=render("refiner")),
            ChatMessage(role="user", text=self._material(task, replies, conflicts)),
        )
        counter = await asyncio.to_thread(counter_for, info.tokenizer or info.name)
        taken = sum(counter.count(m.text) for m in messages) + TEMPLATE_TOKENS
        if taken + self._max_output_tokens > info.context_tokens:
            raise ModelRequestError(f"the replies take {taken} tokens and do not fit the window of {info.name!r}")
        request = ChatRequest(messages=messages, json_schema=SCHEMA, max_output_tokens=self._max_output_tokens)
        reply = await call_model(self._model, request, ctx, retries=self._retries)
        try:
            return _read(reply.text)
        except ValueError as error:
            again = (
                *messages,
                ChatMessage(role="assistant", text=reply.text),
                ChatMessage(role="user", text=render("repair", problem=str(error))),
            )
            request = request.model_copy(update={"messages": again})
            reply = await call_model(self._model, request, ctx, retries=self._retries)
        try:
            return _read(reply.text)
        except ValueError as error:
            raise ModelReplyError(f"{info.name!r} wrote no answer that can be read, twice: {error}") from error

    def _material(self, task: Task, replies: Sequence[AgentReply], conflicts: Sequence[Conflict]) -> str:
        """The request, the replies and the conflicts that are known, all of it as data."""
        blocks: list[str] = []
        for reply in replies:
            title = self._titles.get(reply.agent, reply.agent)
            part = f", asked: {inert(reply.part)}" if reply.part else ""
            lines = [f"agent {reply.agent} ({inert(title)}{part})"]
            lines += [f"- {inert(s.text)}{f' (source: {inert(s.source)})' if s.source else ''}" for s in spoken(reply)]
            blocks.append(fenced("reply", lines))
        known = [
            f"- {inert(c.about)}: " + " / ".join(f"{inert(s.value)} ({s.agent}; {inert(s.source)})" for s in c.sides)
            for c in conflicts
        ]
        told = f"Known disagreements, all of which the answer must name:\n{fenced('conflicts', known)}" if known else ""
        return render("refiner-ask", task=inert(task.full_text), replies="\n\n".join(blocks), conflicts=told).strip()

    def _answer(
        self, written: _Written, replies: Sequence[AgentReply], conflicts: Sequence[Conflict], run_id: str
    ) -> Answer:
        known = list(conflicts)
        extra = [c for c in _disputes(written, replies) if not any(_covers(k, c) for k in known)]
        text = written.answer.strip()
        unsaid = [c for c in known if not all(fold(s.value) in fold(text) for s in c.sides)]
        said = _attributed(text, merged(replies), replies)
        shares = Counter(agent for m in said for agent in m.agents)
        for agent in written.used:
            shares[agent] = max(1, shares[agent])
        failures = "\n".join(failures_said(replies, self._titles))
        return Answer(
            run_id=run_id,
            status=status_of(replies),
            text="\n\n".join(b for b in (text, with_sources(unsaid, self._titles), failures) if b),
            conflicts=(*known, *extra),
            contributors=contributors(replies, shares),
            sentences=tuple(m.sentence for m in said),
            refiner=f"model ({self._model.info.name})",
            replies=tuple(replies),
        )


def auto_refiner(*, model: ChatModel | None = None, titles: Mapping[str, str] | None = None) -> Refiner:
    """A model refiner if the model is capable, else the extractive one, which says why."""
    if model is None:
        return ExtractiveRefiner(titles=titles, note="no model is set")
    if not model.info.capable:
        return ExtractiveRefiner(titles=titles, note=f"{model.info.name!r} is declared not capable")
    return ModelRefiner(model, titles=titles)


def model_refiner(*, model: ChatModel | None = None, titles: Mapping[str, str] | None = None) -> Refiner:
    """A model refiner, or `ConfigError` if there is no capable model."""
    if model is None or not model.info.capable:
        which = f"{model.info.name!r} is declared not capable" if model else "no model is set"
        raise ConfigError(f"refiner = 'model' needs a capable model and {which}; set refiner = 'auto' or another model")
    return ModelRefiner(model, titles=titles)


def extractive_refiner(*, model: ChatModel | None = None, titles: Mapping[str, str] | None = None) -> Refiner:
    """The extractive refiner; the model is not used."""
    return ExtractiveRefiner(titles=titles)


def _read(text: str) -> _Written:
    """The model's reply, or `ValueError` that says what is wrong with it."""
    try:
        written = _Written.model_validate(json_in(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the value"
        raise ValueError(f"{where}: {first['msg']}") from error
    if not written.answer.strip():
        raise ValueError("answer: it is empty")
    return written


def _disputes(written: _Written, replies: Sequence[AgentReply]) -> list[Conflict]:
    """The conflicts that the model names, as far as they are between agents that did answer."""
    agents = {r.agent for r in replies if usable(r)}
    found: list[Conflict] = []
    for dispute in written.conflicts:
        sides = [
            Side(agent=s.agent, text=s.text.strip(), value=s.value.strip() or s.text.strip())
            for s in dispute.sides
            if s.agent in agents and (s.value.strip() or s.text.strip())
        ]
        if len({fold(s.value) for s in sides}) > 1:
            explanation = "; ".join(f"{s.agent} says {s.value}" for s in sides)
            found.append(Conflict(kind="statement", about=dispute.about, sides=tuple(sides), explanation=explanation))
    return found


def _covers(known: Conflict, other: Conflict) -> bool:
    """Whether a conflict that is already known has the values of another."""
    values = [fold(s.value) for s in known.sides]
    return all(any(fold(s.value) in v or v in fold(s.value) for v in values) for s in other.sides)


def _attributed(text: str, known: Sequence[Merged], replies: Sequence[AgentReply]) -> list[Merged]:
    """The sentences of the model's answer, each with the agents and items whose sentence it plainly repeats."""
    pool = [PackItem(ref=f"m{n}", item_id=str(n), text=m.sentence.text, tokens=0) for n, m in enumerate(known)]
    result: list[Merged] = []
    for sentence in sentences(text):
        source = next((known[int(p.item_id)] for p in attributed(sentence, pool)), None)
        if source is None:
            result.append(Merged(CitedSentence(text=sentence), ()))
        else:
            update = {"text": sentence, "origin": "model"}
            result.append(Merged(source.sentence.model_copy(update=update), source.agents))
    return result
