"""Python functions as agents."""

import time

from agentmesh.agents import Agent
from agentmesh.agents.function import FunctionAgent
from agentmesh.run import loose_context
from agentmesh.types import AgentCall, AgentCard, AgentLimits, AgentReply, ContextPack, PackItem, ReplyStatus, Task

CARD = AgentCard(id="echo", description="Says it again.")
ITEM = PackItem(ref="m1", item_id="item1", text="x", source="page.md", tokens=3)
PACK = ContextPack(agent="echo", role="solver", items=(ITEM,))
CALL = AgentCall(run_id="r", step="s", agent="echo", task=Task(text="whole"), part="mine", order=1)


async def answer(agent: FunctionAgent) -> AgentReply:
    assert isinstance(agent, Agent)
    return await agent.answer(CALL, PACK, loose_context())


async def test_an_async_function_gets_its_part_and_the_pack() -> None:
    async def say(text: str, pack: ContextPack) -> str:
        return f"You said {text} [{pack.items[0].ref}]."

    reply = await answer(FunctionAgent(CARD, say))
    assert (reply.text, reply.cited, reply.status) == ("You said mine.", ("item1",), ReplyStatus.ANSWERED)
    assert (reply.call_id, reply.order) == (CALL.id, 1)


async def test_a_plain_function_with_one_parameter_runs_as_well() -> None:
    assert (await answer(FunctionAgent(CARD, str.upper))).text == "MINE"


async def test_a_function_that_asks_for_the_call_gets_it_and_may_give_a_whole_reply() -> None:
    def say(call: AgentCall) -> AgentReply:
        return AgentReply(call_id="?", agent="?", status=ReplyStatus.ANSWERED, text=call.task.text)

    reply = await answer(FunctionAgent(CARD, say))
    assert (reply.call_id, reply.agent, reply.text) == (CALL.id, "echo", "whole")


async def test_an_empty_text_means_that_nothing_was_found() -> None:
    def nothing(text: str) -> str:
        return ""

    assert (await answer(FunctionAgent(CARD, nothing))).status is ReplyStatus.NO_EVIDENCE


async def test_a_function_that_raises_or_returns_something_else_is_a_failed_reply() -> None:
    def broken(text: str) -> str:
        raise KeyError(text)

    def number(text: str) -> int:
        return 7

    assert (await answer(FunctionAgent(CARD, broken))).error == "KeyError: 'mine'"
    assert "returned int; return a text" in ((await answer(FunctionAgent(CARD, number))).error or "")


async def test_a_function_that_takes_too_long_times_out() -> None:
    card = CARD.model_copy(update={"limits": AgentLimits(timeout_s=0.02)})

    def slow(text: str) -> str:
        time.sleep(0.2)
        return text

    reply = await answer(FunctionAgent(card, slow))
    assert reply.status is ReplyStatus.TIMED_OUT
    assert "raise `limits.timeout_s`" in (reply.error or "")
