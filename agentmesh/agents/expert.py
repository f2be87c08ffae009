"""The expert agent: a card and a pack make a prompt, a model's reply becomes a cited answer.

It decides nothing about memory. A model that is declared not capable is never taken at its word: its replies carry the
sentences of the pack that answer best, as they stand, marked `extractive`, and it calls no tools.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from agentmesh.agents.approvals import Pending, Refused, ToolUse
from agentmesh.agents.citations import cited_sentences, without_marks
from agentmesh.agents.excerpts import best_sentences, opposed
from agentmesh.agents.schema import mismatch, text_of
from agentmesh.agents.tool_loop import RESULT_TOKENS, ToolLoop, UsedTool, resting_on_tools
from agentmesh.errors import LimitError, MeshError, ModelError, ModelReplyError, ModelTimeoutError, UnknownNameError
from agentmesh.fence import fenced, inert, pack_line, render_pack
from agentmesh.models.base import ChatMessage, ChatModel, ChatReply, ChatRequest
from agentmesh.models.call import call_model
from agentmesh.models.replies import json_in
from agentmesh.prompts import render
from agentmesh.run import RunContext
from agentmesh.tokens import TokenCounter, counter_for
from agentmesh.tools.allowed import allowed_tools
from agentmesh.tools.base import BoundTool, Toolset
from agentmesh.tools.call import ToolResult
from agentmesh.types import (
    AgentCall,
    AgentCard,
    AgentReply,
    CitedSentence,
    ContextPack,
    Message,
    ReplyStatus,
    RolePolicy,
    Usage,
    total_usage,
)

__all__ = ["ExpertAgent", "failed_reply"]

NOT_FOUND = "NOT IN NOTES"
"""What the prompt tells a model to write when its notes do not hold the answer."""
HISTORY_TURNS, HISTORY_CHARS = 4, 400
"""Latest turns of the conversation in the prompt, and the characters of each."""
KNOWN_CHARS = 400
"""Characters of each sentence found so far in the prompt."""
MESSAGE_TOKENS = 8
"""Allowance for what a chat template puts around a message."""
LEAST_REPLY_TOKENS = 16
"""Tokens that a reply gets even where the prompt fills the window."""
BESIDE_TOKENS = 96
"""Tokens that a model writes which is not capable: its extracts are the answer, more of its own words add nothing."""


class ExpertAgent:
    """Answers its part of a task from its pack, with a language model.

    Args:
        card: Who it is; its limits hold for each call.
        model: What it asks.
        role: Its role's policy; not needed to answer, kept for who composes agents.
        toolsets: Where the tools of its card are found, by server; absent: it calls none.
    """

    def __init__(
        self,
        card: AgentCard,
        model: ChatModel,
        role: RolePolicy | None = None,
        *,
        toolsets: Mapping[str, Toolset] | None = None,
    ) -> None:
        self._card, self._model, self.role = card, model, role
        self._toolsets = toolsets or {}
        self._counter: TokenCounter | None = None

    @property
    def card(self) -> AgentCard:
        return self._card

    async def answer(self, call: AgentCall, pack: ContextPack, ctx: RunContext) -> AgentReply:
        started = ctx.clock.monotonic()
        ctx = ctx.at(agent=self._card.id, attempt=call.attempt, deadline=started + self._card.limits.timeout_s)
        work = _Work(call, pack, ctx)
        try:
            reply = await self._work(work)
        except Exception as error:  # the promise of Agent: a failure is a reply; cancellation is no Exception
            reply = failed_reply(call, error)
        return reply.model_copy(
            update={
                "usage": total_usage(work.spent),
                "latency_ms": (ctx.clock.monotonic() - started) * 1000,
                "model": work.answered_by or self._model.info.name,
                "pack_tokens": pack.tokens,
                "budget_tokens": pack.budget_tokens,
            }
        )

    async def _work(self, work: "_Work") -> AgentReply:
        if self._counter is None:
            info = self._model.info
            self._counter = await asyncio.to_thread(counter_for, info.tokenizer or info.name)
        work.loop = await self._tool_loop(work, self._counter)
        if not self._model.info.capable and self._card.output_schema is None:
            return await self._beside_extracts(work)
        request = self._prompt(work, self._counter)
        structured: Any = None
        if work.loop is None:
            answer = await self._ask(request, work)
        else:
            use = partial(self._use, work, ToolUse(self._card, work.call, work.ctx))
            talk = await work.loop.run(request, partial(self._ask, work=work), use, room=work.result_tokens)
            work.notes += talk.notes
            if talk.pending is not None:
                return work.call.reply(ReplyStatus.NEEDS_APPROVAL, pending=talk.pending)
            request, answer, work.used = talk.request, talk.reply, talk.used
        text = answer.text.strip()
        if self._card.output_schema is not None:
            structured = await self._structured(request, answer, self._card.output_schema, work)
            text = text_of(structured).strip()
        reply = self._reply(text, work)
        return self._noted(reply.model_copy(update={"structured": structured}), work)

    async def _tool_loop(self, work: "_Work", counter: TokenCounter) -> ToolLoop | None:
        """How the tools of the card are used; None: it has none, or its model is not to be trusted with one."""
        info = self._model.info
        if not self._card.tools or not self._toolsets:
            return None
        if not info.capable:
            work.notes.append(f"{info.name!r} is not capable and called no tools; choose another model")
            return None
        where = f"agent {self._card.id!r}: tools"
        tools, problems = await allowed_tools(self._card.tools, self._toolsets, where=where)
        work.notes += problems
        window = min(info.context_tokens, self._card.limits.max_prompt_tokens or info.context_tokens)
        work.result_tokens = min(RESULT_TOKENS, window // 4)
        return ToolLoop(tools, native=info.tools, counter=counter, most_tokens=window // 4)

    async def _use(
        self, work: "_Work", use: ToolUse, tool: BoundTool, arguments: dict[str, Any]
    ) -> ToolResult | Pending | Refused:
        """Call a tool, unless the model calls before have cost more than the card allows."""
        allowed, spent = self._card.limits.max_usd, total_usage(work.spent).cost_usd
        if allowed is not None and spent > allowed:
            raise LimitError("max_usd", allowed, spent)
        return await use(tool, arguments)

    async def _beside_extracts(self, work: "_Work") -> AgentReply:
        """The extracts of the pack, and what a model that is not capable makes of them.

        It reads the extracts alone: a small model loses itself in more, and takes its time. If it fails, the extracts
        stand alone; if there are none, it is not asked. They cost nothing, so they stand even where a budget is spent,
        in a reply that says so.
        """
        extracts = work.extracts()
        text = ""
        if extracts:
            try:
                text = (await self._ask(self._small_prompt(work, extracts), work)).text.strip()
            except ModelError as error:
                work.notes.append(f"{error}; the extracts stand alone")
            except LimitError as error:
                over = self._reply("", work, extracts)
                return over.model_copy(update={"status": ReplyStatus.OVER_LIMIT, "error": str(error)})
        return self._noted(self._reply(text, work, extracts), work)

    def _noted(self, reply: AgentReply, work: "_Work") -> AgentReply:
        """The reply with what went not quite right, and over its limit if it cost too much."""
        over = self._over_price(work)
        if over is not None:
            return reply.model_copy(update={"status": ReplyStatus.OVER_LIMIT, "error": over})
        return reply.model_copy(update={"error": "; ".join(work.notes)}) if work.notes else reply

    def _reply(self, text: str, work: "_Work", extracts: Sequence[CitedSentence] | None = None) -> AgentReply:
        """What the model wrote as a cited reply, with extracts beside it where the model is not capable."""
        pack, capable = work.pack, self._model.info.capable
        missing = text.upper().startswith(NOT_FOUND)
        words = text[len(NOT_FOUND) :].lstrip(" .:,-\n") if missing else text
        said = resting_on_tools(cited_sentences(words, pack), work.used)
        if capable:
            if not text:
                raise ModelReplyError(f"{self._model.info.name!r} wrote nothing; try again or choose another model")
            beside = [] if missing else opposed(said, pack)
            status = ReplyStatus.NO_EVIDENCE if missing else ReplyStatus.ANSWERED
            cited = _items([*said, *beside])
        else:
            beside = work.extracts() if extracts is None else list(extracts)
            status = ReplyStatus.ANSWERED if beside else ReplyStatus.NO_EVIDENCE
            cited = _items(beside)
        return work.call.reply(
            status,
            text=without_marks(words),
            sentences=(*said, *beside),
            cited=cited,
            extractive=not capable,
        )

    async def _ask(self, request: ChatRequest, work: "_Work") -> ChatReply:
        reply = await call_model(self._model, request, work.ctx, retries=self._card.limits.retries)
        work.spent.append(reply.usage)
        work.answered_by = reply.model or self._model.info.name
        if reply.finish_reason == "length" and self._model.info.capable:
            work.notes.append("the reply was cut off; raise `limits.max_output_tokens`")
        return reply

    async def _structured(self, request: ChatRequest, reply: ChatReply, schema: dict[str, Any], work: "_Work") -> Any:
        """The reply as JSON of the card's schema, after one chance to repair it."""
        where = f"output_schema of agent {self._card.id!r}"
        value, problem = _checked(reply.text, schema, where)
        if problem is None:
            return value
        if self._over_price(work) is None:
            again = request.model_copy(
                update={
                    "messages": (
                        *request.messages,
                        ChatMessage(role="assistant", text=reply.text),
                        ChatMessage(role="user", text=render("repair", problem=problem)),
                    )
                }
            )
            value, problem = _checked((await self._ask(again, work)).text, schema, where)
        if problem is not None:
            raise ModelReplyError(
                f"{self._model.info.name!r} did not write JSON that fits the {where} ({problem}); simplify the schema "
                "or choose a more capable model"
            )
        return value

    def _over_price(self, work: "_Work") -> str | None:
        """The sentence to say if the calls so far cost more than the card allows."""
        allowed, spent = self._card.limits.max_usd, total_usage(work.spent).cost_usd
        if allowed is None or spent <= allowed:
            return None
        return f"the call cost {spent:.4g} US$ of at most {allowed:g}; raise `limits.max_usd` of {self._card.id!r}"

    def _prompt(self, work: "_Work", counter: TokenCounter) -> ChatRequest:
        """The messages, cut to what the model's window and the card's limits take."""
        info, limits, call = self._model.info, self._card.limits, work.call
        output = min(limits.max_output_tokens, max(LEAST_REPLY_TOKENS, info.context_tokens // 2))
        room = info.context_tokens - output
        if limits.max_prompt_tokens is not None:
            room = min(room, limits.max_prompt_tokens)
        if work.loop is not None:
            room = max(LEAST_REPLY_TOKENS, room - work.loop.reserved_tokens - work.result_tokens)
        system = "\n\n".join(filter(None, (self._system(call.variant), work.loop.policy() if work.loop else "")))
        task, part = inert(call.task.text), inert(work.part)
        kept = len(work.pack.items)
        user = self._user(work, task, part, kept)
        while _tokens(counter, system, user) > room and kept > 0:
            kept -= 1
            user = self._user(work, task, part, kept)
        if kept < len(work.pack.items):
            left_out = len(work.pack.items) - kept
            work.notes.append(
                f"{left_out} of {len(work.pack.items)} notes did not fit the prompt; raise `limits.max_prompt_tokens` "
                "or choose a model with a larger window"
            )
        over = _tokens(counter, system, user) - room
        if over > 0:
            most = max(LEAST_REPLY_TOKENS, (counter.count(part) - over) // 2)
            task = part = counter.cut(part, most)
            user = self._user(work, task, part, kept, history=False)
            work.notes.append("the question was cut to fit the prompt; ask a shorter one")
        work.result_tokens += max(0, room - _tokens(counter, system, user))
        return ChatRequest(
            messages=(ChatMessage(role="system", text=system), ChatMessage(role="user", text=user)),
            json_schema=self._card.output_schema,
            max_output_tokens=output,
            timeout_s=limits.timeout_s,
        )

    def _small_prompt(self, work: "_Work", extracts: Sequence[CitedSentence]) -> ChatRequest:
        """The agent in one line, the extracts under the names of their items, the question."""
        refs = {item.item_id: item.ref for item in work.pack.items}
        lines = [pack_line(refs.get(s.items[0], "m1") if s.items else "m1", s.text) for s in extracts]
        system = render("expert-small", title=self._card.title, description=self._card.description)
        user = render("expert-small-ask", memory=fenced("memory", lines), part=inert(work.part))
        limits = self._card.limits
        return ChatRequest(
            messages=(ChatMessage(role="system", text=system), ChatMessage(role="user", text=user)),
            max_output_tokens=min(limits.max_output_tokens, BESIDE_TOKENS),
            timeout_s=limits.timeout_s,
        )

    def _system(self, variant: str | None) -> str:
        card = self._card
        parts = [render("expert", title=card.title, instructions=card.instructions.strip() or card.description)]
        if variant is not None:
            if variant not in card.variants:
                raise UnknownNameError(f"variant of agent {card.id!r}", variant, sorted(card.variants))
            policy = card.variants[variant].prompt
            parts += [render(f"policy-{policy}")] if policy else []
        if card.output_schema is not None:
            parts.append(render("policy-json", schema=json.dumps(card.output_schema)))
        return "\n\n".join(parts)

    def _user(self, work: "_Work", task: str, part: str, kept: int, *, history: bool = True) -> str:
        items = work.pack.items[:kept]
        memory = work.pack.text if kept == len(work.pack.items) else render_pack(items)
        return render(
            "expert-ask",
            history=_history(work.call.task.history) if history else "",
            memory=memory or "There are no notes on this.",
            known=_found_so_far(work.call.known) if history else "",
            task=task,
            part="all of it" if part == task else part,
        ).strip()


@dataclass
class _Work:
    """One call while it runs."""

    call: AgentCall
    pack: ContextPack
    ctx: RunContext
    spent: list[Usage] = field(default_factory=list[Usage])
    notes: list[str] = field(default_factory=list[str])
    """What went not quite right, one sentence each."""
    answered_by: str = ""
    loop: ToolLoop | None = None
    result_tokens: int = 0
    """Tokens of the prompt that are left for what tools say."""
    used: Sequence[UsedTool] = ()
    """The tool calls that gave a result."""

    @property
    def part(self) -> str:
        """What this agent is to answer."""
        return self.call.part.strip() or self.call.task.text

    def extracts(self) -> list[CitedSentence]:
        """The sentences of the pack that answer best, and what leads on from those that are known."""
        return best_sentences(self.pack, self.part, known=self.call.known, task=self.call.task.full_text)


def _found_so_far(known: Sequence[str]) -> str:
    """What earlier stages and rounds found, as data; empty if nothing."""
    if not known:
        return ""
    lines = [f"- {inert(sentence)[:KNOWN_CHARS]}" for sentence in known]
    return f"\nFound so far, by others (their notes are not shown again):\n{fenced('found', lines)}\n"


def failed_reply(call: AgentCall, error: Exception) -> AgentReply:
    """The reply that stands for an error: timed out, over a limit, or failed."""
    match error:
        case ModelTimeoutError() | TimeoutError():
            status, said = ReplyStatus.TIMED_OUT, str(error) or "no answer in time; raise `limits.timeout_s`"
        case LimitError():
            status, said = ReplyStatus.OVER_LIMIT, str(error)
        case MeshError():
            status, said = ReplyStatus.FAILED, str(error)
        case _:
            status, said = ReplyStatus.FAILED, f"{type(error).__name__}: {error}"
    return call.reply(status, error=said)


def _checked(text: str, schema: dict[str, Any], where: str) -> tuple[Any, str | None]:
    """The JSON value in a text, and what is wrong with it."""
    try:
        value = json_in(text)
    except ValueError as error:
        return None, str(error)
    return value, mismatch(value, schema, where=where)


def _history(turns: tuple[Message, ...]) -> str:
    lines = (f"{m.role}: {inert(m.text[:HISTORY_CHARS])}" for m in turns[-HISTORY_TURNS:])
    block = fenced("conversation", lines)
    return f"{block}\n\n" if block else ""


def _tokens(counter: TokenCounter, *texts: str) -> int:
    return sum(counter.count(t) + MESSAGE_TOKENS for t in texts)


def _items(said: list[CitedSentence]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item for s in said for item in s.items))
