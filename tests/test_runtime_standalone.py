"""Parts alone in somebody's LangGraph graph, their graph as an agent here, and a mesh as a node there."""

import operator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from agentmesh import AgentCard, AgentGraph, Answer, RoutingDecision, build_mesh
from agentmesh.agents.extractive import ExtractiveRefiner
from agentmesh.agents.function import FunctionAgent
from agentmesh.context.routers import RoleAwareRouter
from agentmesh.errors import ConfigError, InputError
from agentmesh.memory.arrays import ArrayStore
from agentmesh.memory.writer import Draft, MemoryWriter
from agentmesh.models.scripted import ScriptedEmbedder
from agentmesh.routing.baselines import FixedRouter, KeywordRouter
from agentmesh.runtime.graph_agent import GraphAgent
from agentmesh.runtime.standalone import agent_node, context_node, mesh_node, refine_node, route_node, to_agents
from agentmesh.trace.sinks import ListSink
from agentmesh.types import AgentReply, AnswerStatus, Approval, ContextPack, ReplyStatus, Task
from tests.test_runtime_people import Desk, Torn, mesh_of

BILLING = AgentCard(id="billing", description="Explains invoices and refunds.", examples=("Where is my refund?",))
VPN = AgentCard(id="vpn", description="Solves VPN trouble.", examples=("The VPN tunnel drops.",))


class Support(TypedDict, total=False):
    question: str
    decision: RoutingDecision
    pack: ContextPack
    replies: Annotated[list[AgentReply], operator.add]
    answer: Answer


def say(text: str, pack: ContextPack) -> str:
    return f"{pack.agent} read {len(pack.items)} notes about {text}"


def run(graph: Any, entry: Any, thread: str = "t") -> Any:
    return graph.ainvoke(entry, {"configurable": {"thread_id": thread}})


# --- parts alone ------------------------------------------------------------------------------------------------------


async def test_the_four_nodes_make_a_graph_without_a_mesh() -> None:
    embedder, sink = ScriptedEmbedder(), ListSink()
    store = ArrayStore(embedder.name, embedder.dimensions)
    await MemoryWriter(store, embedder).write("default", [Draft(text="A refund takes 14 days.", source="policy")])
    graph: Any = StateGraph(Support)
    graph.add_node("route", route_node(KeywordRouter(), [BILLING, VPN], task="question", sink=sink))
    reads = RoleAwareRouter(store=store, embedder=embedder, min_relevance=0.0)
    graph.add_node("read", context_node(reads, BILLING, task="question"))
    graph.add_node(
        "billing", agent_node(FunctionAgent(BILLING, say), task="question", pack="pack", decision="decision")
    )
    graph.add_node("vpn", agent_node(FunctionAgent(VPN, say), task="question"))
    graph.add_node("refine", refine_node(ExtractiveRefiner(), task="question"))
    graph.add_edge(START, "read")
    graph.add_edge("read", "route")
    graph.add_conditional_edges("route", to_agents(out_of_scope="refine"), ["billing", "vpn", "refine"])
    graph.add_edge("billing", "refine")
    graph.add_edge("vpn", "refine")
    graph.add_edge("refine", END)
    state = await run(graph.compile(), {"question": "Where is my refund?"})
    assert state["decision"].agents == ("billing",)
    assert [item.text for item in state["pack"].items] == ["A refund takes 14 days."]
    assert state["answer"].text == "billing read 1 notes about Where is my refund?"
    assert [e.type for e in sink.events] == ["route_decided"]
    assert sink.events[0].run_id == "t"


async def test_a_question_may_be_a_task_the_last_message_or_a_function_of_the_state() -> None:
    router = FixedRouter(agents=("vpn",))

    def deep(state: Any) -> str:
        return state["deep"]["text"]

    for where, entry in (
        ("task", {"task": Task(text="hello")}),
        ("messages", {"messages": [{"role": "user", "content": "hello"}]}),
        (deep, {"deep": {"text": "hello"}}),
    ):
        found = await route_node(router, [VPN], task=where)(entry, {})
        assert found["decision"].agents == ("vpn",)


async def test_what_the_state_lacks_is_said_with_the_nearest_key() -> None:
    node = route_node(FixedRouter(), [VPN], task="qestion")
    with pytest.raises(InputError, match="the state has no 'qestion'; did you mean 'question'"):
        await node({"question": "hello"}, {})
    with pytest.raises(InputError, match="is empty; give a text, a Task or messages"):
        await route_node(FixedRouter(), [VPN], task="question")({"question": " "}, {})
    with pytest.raises(InputError, match="must be a list of AgentReply"):
        await refine_node(ExtractiveRefiner(), task="q")({"q": "hello", "replies": ["hi"]}, {})
    with pytest.raises(InputError, match="not a ContextPack"):
        await agent_node(FunctionAgent(VPN, say), task="q", pack="pack")({"q": "hello", "pack": "notes"}, {})
    with pytest.raises(InputError, match="not a RoutingDecision"):
        to_agents()({"decision": "vpn"})


# --- their graph as an agent ------------------------------------------------------------------------------------------


class Asked(TypedDict, total=False):
    """Looks up what invoices and refunds are about."""

    question: str
    answer: str


def answering(node: Any, state: Any = Asked, **options: Any) -> Any:
    graph: Any = StateGraph(state)
    graph.add_node("work", node)
    graph.add_edge(START, "work")
    return graph.compile(**options)


async def test_a_compiled_graph_is_an_agent_by_its_state() -> None:
    def work(state: Any) -> Any:
        return {"answer": f"Heard: {state['question']}"}

    def chat(state: Any) -> Any:
        return {"messages": [{"role": "assistant", "content": f"Chat: {state['messages'][-1].content}"}]}

    named = answering(work, name="desk of refunds")
    agents = [named, GraphAgent(VPN, answering(chat, MessagesState))]
    async with build_mesh(agents, router=FixedRouter(), embedder=ScriptedEmbedder()) as mesh:
        assert mesh.cards["desk-of-refunds"].description == "Looks up what invoices and refunds are about."
        answer = await mesh.ask("Hello!")
    assert [r.text for r in answer.replies] == ["Heard: Hello!", "Chat: Hello!"]


async def test_a_graph_that_returns_the_wrong_type_or_raises_is_a_failed_reply() -> None:
    def nothing(state: Any) -> Any:
        return {"answer": 7}

    def broken(state: Any) -> Any:
        raise RuntimeError("the ledger is closed")

    agents = [GraphAgent(BILLING, answering(nothing)), GraphAgent(VPN, answering(broken))]
    async with build_mesh(agents, router=FixedRouter(), embedder=ScriptedEmbedder()) as mesh:
        answer = await mesh.ask("Hello!")
    assert answer.status is AnswerStatus.FAILED
    errors = [r.error or "" for r in answer.replies]
    assert "give GraphAgent a `write`" in errors[0]
    assert "the ledger is closed" in errors[1]


def test_a_graph_that_cannot_be_an_agent_says_what_to_give() -> None:
    class Odd(TypedDict):
        number: int

    def work(state: Any) -> Any:
        return {}

    with pytest.raises(ConfigError, match="say where the question goes"):
        GraphAgent(VPN, answering(work, Odd))
    with pytest.raises(ConfigError, match="has no description for routers to read"):
        build_mesh([answering(work, Odd)])


async def test_a_graph_that_interrupts_asks_for_a_yes() -> None:
    def act(state: Any) -> Any:
        return {"answer": "Paid." if interrupt("Pay 40 EUR?") else "Not paid."}

    card = BILLING.model_copy(update={"approval": Approval.TOOLS})
    agent = GraphAgent(card, answering(act, checkpointer=InMemorySaver()))
    async with build_mesh([agent], router=FixedRouter(), embedder=ScriptedEmbedder()) as mesh:
        for word, said in (("yes", "Paid."), ("no", "Not paid.")):
            first = await mesh.ask("Refund me.")
            assert first.question == "Pay 40 EUR?"
            assert (await mesh.resume(first.run_id, word)).text == said
    loose = GraphAgent(card, answering(act))
    async with build_mesh([loose], router=FixedRouter(), embedder=ScriptedEmbedder()) as mesh:
        answer = await mesh.ask("Refund me.")
    assert answer.replies[0].status is ReplyStatus.FAILED
    assert "compile it with a checkpointer" in (answer.replies[0].error or "")


# --- a mesh as a node -------------------------------------------------------------------------------------------------


async def test_a_mesh_is_a_node_of_another_graph() -> None:
    desk = Desk()
    async with mesh_of(FixedRouter(agents=("vpn",)), desk) as mesh:
        app = answering(mesh_node(mesh, task="question"), Support)
        state = await run(app, {"question": "It is broken."})
    assert state["answer"].text == "vpn heard: It is broken."


@pytest.mark.parametrize("durable", [False, True])
async def test_a_mesh_that_asks_back_interrupts_the_graph_around_it(durable: bool, tmp_path: Path) -> None:
    router, desk = Torn(), Desk()
    async with mesh_of(router, desk, home=tmp_path if durable else None) as mesh:
        app = answering(mesh_node(mesh, task="question"), Support, checkpointer=InMemorySaver())
        state = await run(app, {"question": "It is broken."})
        (waits,) = state["__interrupt__"]
        assert [q["text"] for q in waits.value] == ["Which of the two is it?"]
        state = await run(app, Command(resume=""))  # makes no sense: it asks again
        assert "__interrupt__" in state
        state = await run(app, Command(resume="green"))  # the router is still torn: the second question
        assert "__interrupt__" in state
        state = await run(app, Command(resume="vpn"))
    assert state["answer"].text == "vpn heard: It is broken.\ngreen\nvpn"
    assert len(desk.calls) == 1


async def test_a_mesh_within_a_mesh_keeps_its_own_questions() -> None:
    inner_desk = Desk()
    async with mesh_of(Torn(), inner_desk) as inner:

        async def delegate(text: str) -> str:
            first = await inner.ask(text)
            return (await inner.resume(first.run_id, "billing")).text

        agents = [FunctionAgent(VPN, delegate)]
        async with build_mesh(agents, router=FixedRouter(), embedder=ScriptedEmbedder()) as outer:
            answer = await outer.ask("It is broken.", graph=AgentGraph("g").stage("a", agent="vpn"))
    assert answer.text == "billing heard: It is broken.\nbilling"
