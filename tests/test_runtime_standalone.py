"""Parts alone in somebody's LangGraph graph, their graph as an agent here, and a mesh as a node there."""

import asyncio
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
from agentmesh.run import loose_context
from agentmesh.runtime.graph_agent import GraphAgent
from agentmesh.runtime.standalone import agent_node, context_node, mesh_node, refine_node, route_node, to_agents
from agentmesh.trace.sinks import ListSink
from agentmesh.types import AgentCall, AgentReply, AnswerStatus, Approval, ContextPack, ReplyStatus, Task
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


def paid_twice(state: Any) -> Any:
    return {"answer": f"{interrupt('Pay 40 EUR?')} {interrupt('Pay 5000 EUR?')}"}


@pytest.mark.parametrize("approval", [Approval.TOOLS, Approval.ALWAYS])
async def test_a_graph_that_interrupts_twice_asks_twice_whatever_else_is_asked(approval: Approval) -> None:
    card = BILLING.model_copy(update={"approval": approval})
    agent = GraphAgent(card, answering(paid_twice, checkpointer=InMemorySaver()))
    async with build_mesh([agent], router=FixedRouter(), embedder=ScriptedEmbedder()) as mesh:
        answer = await mesh.ask("Refund me.")
        if approval is Approval.ALWAYS:
            answer = await mesh.resume(answer.run_id, True)
        for question, said in (("Pay 40 EUR?", True), ("Pay 5000 EUR?", False)):
            assert answer.question == question
            answer = await mesh.resume(answer.run_id, said)
    assert answer.text == "True False"


async def test_a_yes_to_one_interrupt_is_never_given_to_another() -> None:
    """A process that is killed after the graph asked for more, and before the mesh kept that."""
    card = BILLING.model_copy(update={"approval": Approval.TOOLS})
    agent = GraphAgent(card, answering(paid_twice, checkpointer=InMemorySaver()))
    call = AgentCall(run_id="r", step="s", agent="billing", task=Task(text="Refund me."))
    pack, ctx = ContextPack(agent="billing", role="solver"), loose_context()

    async def with_yes_to(*asked: AgentReply) -> AgentReply:
        approved = {str((reply.pending or {})["id"]): reply is asked[0] for reply in asked}
        return await agent.answer(call.model_copy(update={"approved": approved}), pack, ctx)

    first = await agent.answer(call, pack, ctx)
    second = await with_yes_to(first)
    again = await with_yes_to(first)
    assert again.status is ReplyStatus.NEEDS_APPROVAL
    assert again.pending == second.pending
    assert again.pending != first.pending
    assert (await with_yes_to(first, second)).text == "True False"
    assert (await with_yes_to(first, second)).text == "True False"  # it ended before; nothing runs again


async def test_interrupts_side_by_side_are_asked_one_after_the_other() -> None:
    class Two(Asked, total=False):
        said: Annotated[list[str], operator.add]

    def asks(name: str) -> Any:
        def ask(state: Any) -> Any:
            return {"said": [f"{name} {interrupt(name)}"]}

        return ask

    def end(state: Any) -> Any:
        return {"answer": ", ".join(sorted(state["said"]))}

    graph: Any = StateGraph(Two)
    for name in ("left", "right"):
        graph.add_node(name, asks(name))
        graph.add_edge(START, name)
    graph.add_node("end", end)
    graph.add_edge(["left", "right"], "end")
    card = BILLING.model_copy(update={"approval": Approval.TOOLS})
    agent = GraphAgent(card, graph.compile(checkpointer=InMemorySaver()))
    async with build_mesh([agent], router=FixedRouter(), embedder=ScriptedEmbedder()) as mesh:
        answer = await mesh.ask("Refund me.")
        said = {}
        while answer.waiting:
            said[answer.question] = answer.question == "left"
            answer = await mesh.resume(answer.run_id, answer.question == "left")
    assert said == {"left": True, "right": False}
    assert answer.text == "left True, right False"


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


class Holding:
    """An agent that works until it is let go."""

    def __init__(self) -> None:
        self.calls = 0
        self.at_work, self.go_on = asyncio.Event(), asyncio.Event()

    async def answer(self, text: str) -> str:
        self.calls += 1
        self.at_work.set()
        await self.go_on.wait()
        return "Done."


@pytest.mark.parametrize("approval", [Approval.NEVER, Approval.ALWAYS])
async def test_a_mesh_that_was_cut_off_with_the_graph_around_it_goes_on_with_it(
    approval: Approval, tmp_path: Path
) -> None:
    holding, sink = Holding(), ListSink()
    agent = FunctionAgent(VPN.model_copy(update={"approval": approval}), holding.answer)
    async with build_mesh([agent], router=FixedRouter(), embedder=ScriptedEmbedder(), home=tmp_path) as mesh:
        app = answering(mesh_node(mesh, task="question", sinks=(sink,)), Support, checkpointer=InMemorySaver())
        entry: Any = {"question": "It is broken."}
        if approval is Approval.ALWAYS:
            await run(app, entry)
            entry = Command(resume=True)
        work = asyncio.ensure_future(run(app, entry))
        async with asyncio.timeout(10):
            await holding.at_work.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        holding.go_on.set()
        state = await run(app, None if approval is Approval.NEVER else Command(resume=True))
    assert state["answer"].text == "Done."
    assert len({event.run_id for event in sink.events}) == 1
    assert sink.events[-1].type == "run_finished"


async def test_a_mesh_node_in_a_loop_makes_a_run_each_time() -> None:
    class Rounds(Support, total=False):
        round: int

    def count(state: Any) -> Any:
        return {"round": state.get("round", 0) + 1}

    def after(state: Any) -> str:
        return "ask" if state["round"] < 3 else END

    desk = Desk()
    async with mesh_of(FixedRouter(agents=("vpn",)), desk) as mesh:
        graph: Any = StateGraph(Rounds)
        graph.add_node("ask", mesh_node(mesh, task="question"))
        graph.add_node("count", count)
        graph.add_edge(START, "ask")
        graph.add_edge("ask", "count")
        graph.add_conditional_edges("count", after)
        for options in ({}, {"checkpointer": InMemorySaver()}):
            await run(graph.compile(**options), {"question": "It is broken."})
    assert len({call.run_id for call in desk.calls}) == len(desk.calls) == 6
