"""Scripted parts and recorded meshes, as tests use them."""

import pytest

import agentmesh.testing
from agentmesh import AgentCard, build_mesh
from agentmesh.errors import ConfigError, RoutingError, ToolError
from agentmesh.models.base import ToolSpec
from agentmesh.run import loose_context
from agentmesh.testing import (
    ScriptedAgent,
    ScriptedEmbedder,
    ScriptedRouter,
    ScriptedToolset,
    events_of,
    recorded,
)
from agentmesh.trace.events import AgentReplied, RouteDecided
from agentmesh.types import AgentCall, AgentReply, ContextPack, Mode, PackItem, ReplyStatus, RouteRequest, Task

CARDS = tuple(AgentCard(id=name, description=f"All about {name}.") for name in ("billing", "vpn"))
SHADOW = AgentCard(id="ghost", description="Watches.", shadow=True)
CTX = loose_context()
PACK = ContextPack(
    agent="vpn", role="solver", items=(PackItem(ref="m1", item_id="item1", text="x", source="page.md", tokens=3),)
)


def request(text: str = "Why?", most: int = 3) -> RouteRequest:
    return RouteRequest(task=Task(text=text), cards=(*CARDS, SHADOW), max_agents=most)


def call(text: str, *, part: str = "") -> AgentCall:
    return AgentCall(run_id="r", step="s", agent="vpn", task=Task(text=text), part=part)


# --- routers ----------------------------------------------------------------------------------------------------------


async def test_a_scripted_router_decides_what_it_is_told_and_remembers_what_it_was_asked() -> None:
    router = ScriptedRouter({"invoice": "billing", "both": ("vpn", "billing"), "song": (), "": "vpn"})
    decisions = [await router.route(request(text), CTX) for text in ("my invoice", "both of you", "a song", "else")]
    assert [d.agents for d in decisions] == [("billing",), ("vpn", "billing"), (), ("vpn",)]
    assert [d.mode for d in decisions] == [Mode.SOLO, Mode.PARALLEL, Mode.OUT_OF_SCOPE, Mode.SOLO]
    assert [c.weight for c in decisions[1].chosen] == [0.5, 0.5]
    assert [r.task.text for r in router.requests] == ["my invoice", "both of you", "a song", "else"]


async def test_a_scripted_router_takes_ids_a_function_a_decision_an_error_or_nothing() -> None:
    assert (await ScriptedRouter("vpn").route(request(), CTX)).agents == ("vpn",)
    assert (await ScriptedRouter(["vpn", "billing"]).route(request(most=1), CTX)).agents == ("vpn",)
    assert (await ScriptedRouter().route(request(), CTX)).agents == ("billing",)
    whole = (await ScriptedRouter("vpn").route(request(), CTX)).model_copy(update={"reason": "by hand"})
    assert await ScriptedRouter(lambda r: whole).route(request(), CTX) == whole
    with pytest.raises(RoutingError, match="torn"):
        await ScriptedRouter({"": RoutingError("torn")}).route(request(), CTX)


async def test_a_script_that_does_not_fit_the_question_says_so() -> None:
    with pytest.raises(ConfigError, match="names 'biling', which is no candidate; write 'billing'"):
        await ScriptedRouter("biling").route(request(), CTX)
    with pytest.raises(ConfigError, match="names 'ghost', which is no candidate"):
        await ScriptedRouter("ghost").route(request(), CTX)
    with pytest.raises(ConfigError, match=r"decides nothing about 'Why\?'; add a part of it"):
        await ScriptedRouter({"invoice": "billing"}).route(request(), CTX)


# --- agents -----------------------------------------------------------------------------------------------------------


async def test_a_scripted_agent_answers_in_order_and_cites_its_pack() -> None:
    agent = ScriptedAgent("vpn", ["First [m1].", "", AgentReply(call_id="?", agent="?", status=ReplyStatus.REFUSED)])
    replies = [await agent.answer(call(text), PACK, CTX) for text in "abc"]
    assert [r.status for r in replies] == [ReplyStatus.ANSWERED, ReplyStatus.NO_EVIDENCE, ReplyStatus.REFUSED]
    assert (replies[0].text, replies[0].cited) == ("First.", ("item1",))
    assert {(r.agent, r.call_id) for r in replies} == {("vpn", "r/s/vpn/1")}
    assert [c.task.text for c in agent.calls] == ["a", "b", "c"]
    assert agent.packs == [PACK] * 3


async def test_a_scripted_agent_answers_by_its_part_by_a_function_or_with_what_it_is_asked() -> None:
    by_part = ScriptedAgent("vpn", {"gateway": "It is vpn.example.", "": "No idea."})
    assert (await by_part.answer(call("all", part="which gateway?"), PACK, CTX)).text == "It is vpn.example."
    assert (await by_part.answer(call("all"), PACK, CTX)).text == "No idea."
    assert (await ScriptedAgent("vpn", lambda c: c.id).answer(call("x"), PACK, CTX)).text == "r/s/vpn/1"
    assert (await ScriptedAgent("vpn").answer(call("x y"), PACK, CTX)).text == "x y"


async def test_what_goes_wrong_in_a_script_is_a_failed_reply() -> None:
    agent = ScriptedAgent("vpn", [KeyError("ledger")])
    failed = await agent.answer(call("x"), PACK, CTX)
    assert (failed.status, failed.error) == (ReplyStatus.FAILED, "KeyError: 'ledger'")
    assert "has 1 replies, this is call 2" in ((await agent.answer(call("x"), PACK, CTX)).error or "")
    nothing = await ScriptedAgent("vpn", {"gateway": "x"}).answer(call("song"), PACK, CTX)
    assert "has no reply for 'song'" in (nothing.error or "")


# --- tools ------------------------------------------------------------------------------------------------------------


def added(arguments: dict[str, int]) -> dict[str, int]:
    return {"sum": arguments["a"] + 1}


async def test_a_scripted_toolset_gives_results_calls_functions_and_remembers() -> None:
    spec = ToolSpec(name="add", description="Adds.", parameters={"type": "object"})
    tools = ScriptedToolset({"add": added}, [spec])
    assert await tools.list_tools() == (spec,)
    assert await tools.call("add", {"a": 1}, CTX) == {"sum": 2}
    assert tools.calls == [("add", {"a": 1})]
    assert await ScriptedToolset({"now": 12}).call("now", {}, CTX) == {"result": 12}


async def test_a_scripted_toolset_fails_with_tool_errors_only() -> None:
    tools = ScriptedToolset({"add": added, "gone": ToolError("it is gone; start it"), "down": OSError("x")})
    with pytest.raises(ToolError, match="'add' failed with KeyError"):
        await tools.call("add", {}, CTX)
    with pytest.raises(ToolError, match="it is gone; start it"):
        await tools.call("gone", {}, CTX)
    with pytest.raises(ToolError, match="'down' failed with OSError: x"):
        await tools.call("down", {}, CTX)
    with pytest.raises(ToolError, match="no tool is called 'ad'; there is 'add'"):
        await tools.call("ad", {}, CTX)
    with pytest.raises(ConfigError, match="'sub' stands only in one"):
        ScriptedToolset({"add": 1}, [ToolSpec(name="add"), ToolSpec(name="sub")])


# --- recorded meshes --------------------------------------------------------------------------------------------------


async def test_a_recorded_mesh_keeps_the_events_of_what_is_asked_through_it() -> None:
    agents = [ScriptedAgent(card, ["It is so."]) for card in CARDS]
    async with build_mesh(agents, router=ScriptedRouter("vpn"), embedder=ScriptedEmbedder()) as mesh:
        heard = recorded(mesh)
        answer = await heard.ask("Why does the VPN drop?")
        await mesh.ask("This one is not heard.")
    assert {event.run_id for event in heard.events} == {answer.run_id}
    assert (heard.types[0], heard.types[-1]) == ("run_started", "run_finished")
    assert [event.decision.agents for event in events_of(heard.events, RouteDecided)] == [("vpn",)]
    assert [event.reply.text for event in events_of(heard.events, AgentReplied)] == ["It is so."]


def test_a_recorded_mesh_works_without_an_event_loop() -> None:
    with build_mesh([ScriptedAgent(CARDS[0])], router=ScriptedRouter(), embedder=ScriptedEmbedder()) as mesh:
        heard = recorded(mesh)
        assert heard.ask_sync("Say it again.").text == "Say it again."
    assert heard.types[-1] == "run_finished"


# --- the package ------------------------------------------------------------------------------------------------------


def test_every_public_name_opens() -> None:
    assert [name for name in agentmesh.testing.__all__ if not hasattr(agentmesh.testing, name)] == []
    assert set(agentmesh.testing.__all__) <= set(dir(agentmesh.testing))
    with pytest.raises(AttributeError, match="no attribute 'Casette'"):
        agentmesh.testing.Casette  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
