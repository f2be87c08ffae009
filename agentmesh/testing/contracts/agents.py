"""What every agent and every refiner promises."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar
from unittest import SkipTest

from agentmesh.agents.base import Agent, Refiner
from agentmesh.errors import StoreError
from agentmesh.run import JournalEntry, Limits, RunContext, loose_context
from agentmesh.testing.contracts.base import Contract, Made, expect, promise
from agentmesh.types import (
    AgentCall,
    AgentReply,
    Answer,
    AnswerStatus,
    CitedSentence,
    ContextPack,
    PackItem,
    ReplyStatus,
    Task,
)

__all__ = ["AgentContract", "RefinerContract"]

DAYS_14 = "An approved refund is paid out within 14 days."
DAYS_30 = "An approved refund is paid out within 30 days."
VPN = "The VPN session ends after a password change."
FAILURES = (
    ReplyStatus.FAILED,
    ReplyStatus.TIMED_OUT,
    ReplyStatus.OVER_LIMIT,
    ReplyStatus.CANCELLED,
    ReplyStatus.REFUSED,
)


class AgentContract(Contract[Agent]):
    """Checks an agent. Give `make`, and `make_broken` where there is a way to make it fail."""

    noun = "Agent"
    protocol = Agent
    question: ClassVar[str] = "Within how many days is an approved refund paid out?"
    """What it is asked."""
    items: ClassVar[Sequence[str]] = (DAYS_14, VPN)
    """The texts of the items that it is given to read."""

    def make(self) -> Made[Agent]:
        """The agent under test."""
        return super().make()

    def make_broken(self) -> Made[Agent] | None:
        """The same agent, made so that whatever it relies on fails: a model that raises, a tool that is gone."""
        return None

    async def ask(self, agent: Agent, text: str, pack: ContextPack | None = None, ctx: RunContext | None = None, *,
                  part: str = "", attempt: int = 1) -> AgentReply:  # fmt: skip
        """One reply, checked for what holds of every reply."""
        call = AgentCall(run_id="r1", step="route.r1", agent=agent.card.id, task=Task(text=text), part=part,
                         attempt=attempt, weight=0.5, order=1)  # fmt: skip
        given = self.pack(agent) if pack is None else pack
        reply = await agent.answer(call, given, ctx or loose_context("r1"))
        _reply_of(reply, call, given)
        return reply

    def pack(self, agent: Agent) -> ContextPack:
        """What it is given to read."""
        items = [PackItem(ref=f"m{n}", item_id=f"item{n}", text=text, source=f"page{n}.md", tokens=len(text.split()))
                 for n, text in enumerate(self.items, start=1)]  # fmt: skip
        text = "\n".join(f"[{i.ref}] ({i.source}) {i.text}" for i in items)
        return ContextPack(agent=agent.card.id, role=agent.card.role, items=tuple(items), text=text,
                           tokens=sum(i.tokens for i in items), budget_tokens=512)  # fmt: skip

    @promise("it answers its part with a reply that belongs to the call and cites nothing but its pack")
    async def test_reply_belongs_to_the_call(self, agent: Agent) -> None:
        await self.ask(agent, f"{self.question} And why does the VPN session end?", part=self.question)
        await self.ask(agent, self.question, attempt=2)

    @promise("its card is the same whenever it is asked for")
    async def test_card_does_not_change(self, agent: Agent) -> None:
        before = agent.card
        await self.ask(agent, self.question)
        expect(agent.card == before, "the card changed with a call")

    @promise("whatever it is asked, it replies: an odd question or an empty pack is no exception")
    async def test_odd_questions_get_a_reply(self, agent: Agent) -> None:
        empty = ContextPack(agent=agent.card.id, role=agent.card.role)
        await self.ask(agent, self.question, empty)
        for text in ("", " ", "😀 我的", "a\x00b\u202ec", "word " * 20_000):
            await self.ask(agent, text)

    @promise("what it relies on fails: the reply has a status that says so, and a sentence")
    async def test_failure_is_a_reply(self, agent: Agent) -> None:
        broken = self.make_broken()
        if broken is None:
            raise SkipTest("the suite has no `make_broken`")
        async with self.opened(broken) as failing:
            reply = await self.ask(failing, self.question)
        expect(reply.status in FAILURES, f"the status was {reply.status}, as if nothing had failed")
        expect(bool(reply.error), "the reply has no `error` that says what went wrong")

    @promise("without time, without budget and without a journal it still replies")
    async def test_run_without_means_gets_a_reply(self, agent: Agent) -> None:
        ctx = loose_context("r1")
        await self.ask(agent, self.question, ctx=replace(ctx, deadline=ctx.clock.monotonic() - 1.0))
        await self.ask(agent, self.question, ctx=loose_context("r1", limits=Limits(max_calls=0)))
        await self.ask(agent, self.question, ctx=replace(ctx, journal=_BrokenJournal()))

    @promise("only cancellation passes through")
    async def test_cancellation_passes_through(self, agent: Agent) -> None:
        working = asyncio.ensure_future(self.ask(agent, self.question))
        await asyncio.sleep(0)
        if working.done():
            await working
            raise SkipTest("it answers without waiting for anything")
        working.cancel()
        try:
            reply = await working
        except asyncio.CancelledError:
            return
        expect(False, f"it was cancelled while it worked and replied {reply.status} all the same")

    @promise("calls at the same time get a reply each")
    async def test_calls_at_the_same_time_do_not_mix(self, agent: Agent) -> None:
        await asyncio.gather(*(self.ask(agent, f"{self.question} ({n})", attempt=n) for n in range(1, 9)))


class _BrokenJournal:
    """A journal on a disk that is gone."""

    async def lookup(self, call_id: str) -> JournalEntry | None:
        raise StoreError("the disk of the journal is gone")

    async def begin(self, call_id: str, kind: str, *, idempotent: bool = True) -> None:
        raise StoreError("the disk of the journal is gone")

    async def finish(self, call_id: str, kind: str, result: dict[str, Any], *, wait: bool = True) -> None:
        raise StoreError("the disk of the journal is gone")


def _reply_of(reply: object, call: AgentCall, pack: ContextPack) -> None:
    """What holds for every reply."""
    if not isinstance(reply, AgentReply):
        expect(False, f"it gave {type(reply).__name__}, no AgentReply")
        return
    expect(reply.call_id == call.id, f"the reply names the call {reply.call_id!r}, not {call.id!r}")
    expect(reply.agent == call.agent, f"the reply is by {reply.agent!r}, not by {call.agent!r}")
    known = {item.item_id for item in pack.items}
    cited = {*reply.cited, *(item for s in reply.sentences for item in s.items)}
    expect(cited <= known, f"it cites {sorted(cited - known)}, which is not in its pack")
    expect(
        reply.status is not ReplyStatus.ANSWERED or bool(reply.text.strip() or reply.sentences),
        "the status is `answered` and nothing is said",
    )
    expect(reply.status not in FAILURES or bool(reply.error), f"the status is {reply.status} without an `error`")
    again = AgentReply.model_validate_json(reply.model_dump_json())
    expect(again == reply, "the reply does not survive JSON; use JSON values in `structured` and `pending`")


class RefinerContract(Contract[Refiner]):
    """Checks a refiner. Give `make`."""

    noun = "Refiner"
    protocol = Refiner

    def make(self) -> Made[Refiner]:
        """The refiner under test."""
        return super().make()

    async def merge(self, refiner: Refiner, *replies: AgentReply) -> Answer:
        """One answer, checked for what holds of every answer."""
        task = Task(text="When is a refund paid out, and why does the VPN session end?")
        answer = await refiner.refine(task, replies, loose_context("r7"))
        _answer_of(answer, replies)
        return answer

    @promise("one reply is the answer, with what it says")
    async def test_one_reply_is_the_answer(self, refiner: Refiner) -> None:
        answer = await self.merge(refiner, _said("refunds", DAYS_14))
        expect(answer.status is AnswerStatus.ANSWERED, f"the status was {answer.status}")
        expect("14 days" in answer.text, f"the answer does not say what the reply says: {answer.text!r}")

    @promise("every contributor is kept, in routing order, and what each says stands in the answer")
    async def test_every_contributor_is_kept_in_order(self, refiner: Refiner) -> None:
        answer = await self.merge(refiner, _said("vpn", VPN), _said("refunds", DAYS_14))
        for text in ("14 days", "password"):
            expect(text in answer.text, f"the answer lost {text!r}: {answer.text!r}")

    @promise("conflicts are named, both sides are kept")
    async def test_conflicts_are_named_with_both_sides(self, refiner: Refiner) -> None:
        answer = await self.merge(refiner, _said("billing", DAYS_14), _said("refunds", DAYS_30))
        expect(bool(answer.conflicts), "two replies say 14 and 30 days and `conflicts` is empty")
        sides = {side.agent for conflict in answer.conflicts for side in conflict.sides}
        expect(sides >= {"billing", "refunds"}, f"the conflict has the sides {sorted(sides)} only")
        expect("14 days" in answer.text and "30 days" in answer.text, f"a side is not in the answer: {answer.text!r}")

    @promise("a failed reply is named as such and does not take the others down")
    async def test_failed_reply_is_named(self, refiner: Refiner) -> None:
        for status in (ReplyStatus.FAILED, ReplyStatus.TIMED_OUT, ReplyStatus.OVER_LIMIT):
            failed = _reply("vpn", status, error="the model is down; start it")
            answer = await self.merge(refiner, _said("refunds", DAYS_14), failed)
            expect("14 days" in answer.text, f"what the other agent said is lost: {answer.text!r}")
            expect(answer.status is AnswerStatus.PARTIAL, f"an agent {status} and the answer is {answer.status}")

    @promise("nothing useful in any reply: the status is no_answer, and the text says so")
    async def test_nothing_useful_is_no_answer(self, refiner: Refiner) -> None:
        for replies in ((), (_reply("vpn", ReplyStatus.NO_EVIDENCE), _reply("refunds", ReplyStatus.NO_EVIDENCE))):
            answer = await self.merge(refiner, *replies)
            expect(answer.status is AnswerStatus.NO_ANSWER, f"of {len(replies)} empty replies: {answer.status}")

    @promise("where every agent failed the status is failed, and the text says so")
    async def test_all_failed_is_failed(self, refiner: Refiner) -> None:
        late = _reply("vpn", ReplyStatus.TIMED_OUT, error="no answer in time; raise it")
        answer = await self.merge(refiner, late, _reply("refunds", ReplyStatus.FAILED, error="broken; mend it"))
        expect(answer.status is AnswerStatus.FAILED, f"the status was {answer.status}")


def _reply(agent: str, status: ReplyStatus, **values: Any) -> AgentReply:
    return AgentReply(call_id=f"r7/route.r1/{agent}/1", agent=agent, status=status, **values)


def _said(agent: str, text: str) -> AgentReply:
    sentence = CitedSentence(text=text, items=(f"{agent}-1",), source=f"{agent}.md")
    return _reply(agent, ReplyStatus.ANSWERED, text=text, sentences=(sentence,), cited=(f"{agent}-1",))


def _answer_of(answer: object, replies: Sequence[AgentReply]) -> None:
    """What holds for every answer."""
    if not isinstance(answer, Answer):
        expect(False, f"it gave {type(answer).__name__}, no Answer")
        return
    expect(answer.run_id == "r7", f"the answer belongs to the run {answer.run_id!r}, not to the context's 'r7'")
    expect(bool(answer.text.strip()), "the text is empty")
    expect(bool(answer.refiner), "it does not say which refiner ran")
    kept = [(c.agent, c.status) for c in answer.contributors]
    wanted = [(r.agent, r.status) for r in replies]
    expect(kept == wanted, f"the contributors are {_pairs(kept)}, the replies were by {_pairs(wanted)}")
    again = Answer.model_validate_json(answer.model_dump_json())
    expect(again == answer, "the answer does not survive JSON")


def _pairs(rows: Sequence[tuple[str, ReplyStatus]]) -> str:
    return ", ".join(f"{agent} ({status})" for agent, status in rows) or "nobody"
