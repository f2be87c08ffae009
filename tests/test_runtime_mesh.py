"""A mesh from the outside: ask, stream, threads, budgets, failures, resume."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentmesh import AgentCard, AgentGraph, Mesh, build_mesh
from agentmesh.agents.function import FunctionAgent
from agentmesh.errors import ConfigError, GraphError, InputError, ModelTimeoutError, StoreError, UnknownNameError
from agentmesh.graphs import END, START
from agentmesh.memory.arrays import ArrayStore
from agentmesh.models.base import ChatReply, ChatRequest
from agentmesh.models.scripted import ScriptedEmbedder, ScriptedModel
from agentmesh.routing.base import Router
from agentmesh.routing.baselines import FixedRouter
from agentmesh.run import Limits, RunContext
from agentmesh.runtime.checkpoints import memory_checkpoints
from agentmesh.runtime.mesh import close_all
from agentmesh.runtime.state import RunView
from agentmesh.trace.events import Event, RunCancelled, RunFinished, RunResumed, RunStarted, StepFailed
from agentmesh.trace.sinks import ListSink
from agentmesh.types import (
    AgentCall,
    AgentLimits,
    AgentReply,
    Answer,
    AnswerStatus,
    Chosen,
    ContextPack,
    Mode,
    ReplyStatus,
    RouteRequest,
    RoutingDecision,
    Task,
    Usage,
)

CARDS = (
    AgentCard(id="billing", description="Explains invoices and refunds.", examples=("Why is my invoice higher?",)),
    AgentCard(id="vpn", description="Solves VPN trouble.", examples=("The VPN tunnel drops.",)),
)
KNOWLEDGE = ("An approved refund is paid out within 14 days.", "The VPN session ends after 60 minutes.")


def cited(request: ChatRequest) -> ChatReply:
    return ChatReply(
        text="That is in the first note [m1].", usage=Usage(calls=1, prompt_tokens=100, completion_tokens=10)
    )


def mesh_of(
    *names: str,
    model: ScriptedModel | None = None,
    cards: Sequence[AgentCard] = CARDS,
    limits: Limits | None = None,
    home: Path | None = None,
    sink: ListSink | None = None,
) -> Mesh:
    return build_mesh(
        list(cards),
        model=model or ScriptedModel(cited),
        router=FixedRouter(agents=names or tuple(c.id for c in cards)),
        refiner="extractive",
        embedder=ScriptedEmbedder(),
        knowledge=KNOWLEDGE,
        limits=limits,
        home=home,
        sink=sink,
    )


def types_of(events: Sequence[Event]) -> list[str]:
    return [event.type for event in events]


async def test_a_whole_run_is_this_list_of_events() -> None:
    sink = ListSink()
    async with mesh_of("billing", sink=sink) as mesh:
        answer = await mesh.ask("When is a refund paid out?")
    assert answer.status is AnswerStatus.ANSWERED
    assert types_of(sink.events) == [
        "run_started",
        "stage_entered",
        "route_decided",
        "context_selected",
        "agent_started",
        "model_called",
        "agent_replied",
        "stage_entered",
        "answer_refined",
        "run_finished",
    ]
    assert [e.seq for e in sink.events] == list(range(1, 11))
    assert {e.run_id for e in sink.events} == {answer.run_id}


async def test_agents_of_one_dispatch_work_at_the_same_time() -> None:
    together = asyncio.Barrier(2)

    async def meet(call: AgentCall, pack: ContextPack) -> str:
        async with asyncio.timeout(5):
            await together.wait()
        return f"{call.agent} was there."

    agents = [FunctionAgent(card, meet) for card in CARDS]
    async with build_mesh(agents, router=FixedRouter(), embedder=ScriptedEmbedder()) as mesh:
        answer = await mesh.ask("Are you all there?")
    assert [r.text for r in answer.replies] == ["billing was there.", "vpn was there."]


async def test_a_failed_agent_is_a_reply_and_the_others_answer() -> None:
    async def fail(call: AgentCall, pack: ContextPack) -> str:
        raise RuntimeError("the ledger is closed")

    async def answer(call: AgentCall, pack: ContextPack) -> str:
        return "Restart the client."

    agents = [FunctionAgent(CARDS[0], fail), FunctionAgent(CARDS[1], answer)]
    async with build_mesh(agents, router=FixedRouter(), embedder=ScriptedEmbedder()) as mesh:
        result = await mesh.ask("Invoice and VPN?")
    assert [r.status for r in result.replies] == [ReplyStatus.FAILED, ReplyStatus.ANSWERED]
    assert result.status is AnswerStatus.PARTIAL
    assert "Restart the client" in result.text
    assert "billing" in result.text
    assert result.replies[0].error is not None
    assert "the ledger is closed" in result.replies[0].error


async def test_an_agent_that_hangs_is_timed_out_and_named() -> None:
    async def hang(call: AgentCall, pack: ContextPack) -> str:
        await asyncio.sleep(60)
        return "never"

    card = CARDS[0].model_copy(update={"limits": AgentLimits(timeout_s=0.05)})
    async with build_mesh([FunctionAgent(card, hang)], router=FixedRouter(), embedder=ScriptedEmbedder()) as mesh:
        answer = await mesh.ask("Anybody?")
    assert answer.replies[0].status is ReplyStatus.TIMED_OUT
    assert answer.status in (AnswerStatus.NO_ANSWER, AnswerStatus.FAILED)


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (Limits(max_calls=1), "max_calls"),
        (Limits(max_tokens=50), "max_tokens"),
        (Limits(max_usd=0.01), "max_usd"),
        (Limits(max_calls=0), "max_calls"),
        (Limits(max_seconds=0), "max_seconds"),
    ],
)
async def test_a_spent_budget_ends_in_a_partial_answer_with_its_reason(limits: Limits, name: str) -> None:
    def dear(request: ChatRequest) -> ChatReply:
        return ChatReply(
            text="As noted [m1].", usage=Usage(calls=1, prompt_tokens=90, completion_tokens=9, cost_usd=0.02)
        )

    graph = AgentGraph("two").stage("a", agent="billing").stage("b", agent="vpn", after="a").refine("c", after="b")
    sink = ListSink()
    async with mesh_of(model=ScriptedModel(dear), limits=limits, sink=sink) as mesh:
        answer = await mesh.ask("Invoice and VPN?", graph=graph)
    assert answer.status in (AnswerStatus.PARTIAL, AnswerStatus.FAILED)
    assert answer.stop is not None
    assert answer.stop.limit == name
    assert types_of(sink.events).count("limit_reached") == 1


async def test_concurrency_is_bounded_by_the_limit() -> None:
    running, most = 0, 0
    three = asyncio.Barrier(3)

    async def count(call: AgentCall, pack: ContextPack) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        async with asyncio.timeout(10):
            await three.wait()  # with fewer than three at a time nobody would get past this
        running -= 1
        return f"{call.agent} done."

    agents = [FunctionAgent(AgentCard(id=f"a{n}", description="counts"), count) for n in range(12)]
    graph = AgentGraph("wide").dispatch("all", max_agents=12).refine("end", after="all")
    limits = Limits(max_concurrency=3)
    async with build_mesh(agents, router=FixedRouter(), embedder=ScriptedEmbedder(), limits=limits) as mesh:
        answer = await mesh.ask("Count!", graph=graph)
    assert len(answer.replies) == 12
    assert most == 3


async def test_a_thread_keeps_its_history_and_others_do_not_see_it() -> None:
    seen: list[tuple[str, int]] = []

    async def remember(call: AgentCall, pack: ContextPack) -> str:
        seen.append((call.task.text, len(call.task.history)))
        return f"You said {call.task.text}."

    async with build_mesh(
        [FunctionAgent(CARDS[0], remember)], router=FixedRouter(), embedder=ScriptedEmbedder()
    ) as mesh:
        await mesh.ask("one", thread="t1", tenant="acme")
        await mesh.ask("two", thread="t1", tenant="acme")
        await mesh.ask("three", thread="t1", tenant="other/tenant")
        await mesh.ask("four", thread="t2", tenant="acme")
    assert seen == [("one", 0), ("two", 2), ("three", 0), ("four", 0)]


async def test_the_history_of_a_thread_survives_the_mesh(tmp_path: Path) -> None:
    async with mesh_of("billing", home=tmp_path) as mesh:
        await mesh.ask("When is a refund paid?", thread="t1")
    sink = ListSink()
    async with mesh_of("billing", home=tmp_path) as mesh:
        await mesh.ask("And why?", thread="t1", sinks=(sink,))
    started = sink.events[0]
    assert started.type == "run_started"
    assert [m.role for m in started.task.history] == ["user", "assistant"]


class Undecided:
    name = "undecided"

    def __init__(self, mode: Mode) -> None:
        self.mode = mode

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        return RoutingDecision(mode=self.mode, reason="torn", router=self.name, question="Which one?")


@pytest.mark.parametrize(
    ("mode", "status"), [(Mode.CLARIFY, AnswerStatus.CLARIFY), (Mode.OUT_OF_SCOPE, AnswerStatus.OUT_OF_SCOPE)]
)
async def test_a_router_that_names_nobody_ends_the_run_without_a_call(mode: Mode, status: AnswerStatus) -> None:
    model = ScriptedModel(cited)
    async with build_mesh(CARDS, model=model, router=Undecided(mode), embedder=ScriptedEmbedder()) as mesh:
        answer = await mesh.ask("Hm?")
    assert answer.status is status
    assert answer.question == ("Which one?" if mode is Mode.CLARIFY else None)
    assert not model.requests


class Broken:
    name = "broken"

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        raise ZeroDivisionError("oh")


async def test_a_router_that_fails_is_a_failed_answer_not_an_exception() -> None:
    async with build_mesh(CARDS, model=ScriptedModel(cited), router=Broken(), embedder=ScriptedEmbedder()) as mesh:
        answer = await mesh.ask("Hm?")
    assert answer.status is AnswerStatus.FAILED
    assert "the router 'broken' failed with ZeroDivisionError" in answer.text


class Inventing:
    name = "inventing"

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        return RoutingDecision(
            mode=Mode.SOLO, chosen=(Chosen(agent="ghost", score=1.0),), reason="made up", router=self.name
        )


async def test_a_router_cannot_choose_an_agent_that_is_not_there() -> None:
    async with build_mesh(CARDS, model=ScriptedModel(cited), router=Inventing(), embedder=ScriptedEmbedder()) as mesh:
        answer = await mesh.ask("Hm?")
    assert answer.status is AnswerStatus.FAILED
    assert "'ghost', which is not among the candidates" in answer.text


async def test_streaming_gives_the_events_and_ends_with_the_answer() -> None:
    async with mesh_of("billing") as mesh:
        events = [event async for event in mesh.stream("When is a refund paid out?")]
    assert events[0].type == "run_started"
    assert "tokens_streamed" in types_of(events)
    last = events[-1]
    assert isinstance(last, RunFinished)
    assert last.answer.status is AnswerStatus.ANSWERED


async def test_leaving_a_stream_cancels_the_run() -> None:
    sink = ListSink()

    async def hang(call: AgentCall, pack: ContextPack) -> str:
        await asyncio.sleep(60)
        return "never"

    agents = [FunctionAgent(CARDS[0], hang)]
    async with build_mesh(agents, router=FixedRouter(), embedder=ScriptedEmbedder(), sink=sink) as mesh:
        stream = mesh.stream("Hello?")
        async for event in stream:
            if event.type == "agent_started":
                break
        await stream.aclose()  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(sink.events[-1], RunCancelled)


async def test_a_cancelled_run_can_be_resumed(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    calls: list[str] = []

    async def slow(call: AgentCall, pack: ContextPack) -> str:
        calls.append(call.agent)
        if call.agent == "vpn" and not go_on.is_set():
            await asyncio.sleep(60)
        return f"The word of {call.agent}."

    def mesh() -> Mesh:
        agents = [FunctionAgent(card, slow) for card in CARDS]
        return build_mesh(agents, router=FixedRouter(), embedder=ScriptedEmbedder(), home=tmp_path)

    half_way = Waiting(lambda e: e.type == "agent_replied" and e.agent == "billing")
    async with mesh() as first:
        run = asyncio.ensure_future(first.ask("Both?", run_id="r1", sinks=(half_way,)))
        async with asyncio.timeout(10):
            await half_way.seen.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    go_on.set()
    async with mesh() as second:
        answer = await second.resume("r1")
    assert calls == ["billing", "vpn", "vpn"]
    assert [r.text for r in answer.replies] == ["The word of billing.", "The word of vpn."]
    assert answer.status is AnswerStatus.ANSWERED


class Waiting:
    """A sink that says when an event came."""

    def __init__(self, wanted: Callable[[Event], bool]) -> None:
        self.wanted, self.seen = wanted, asyncio.Event()

    def emit(self, event: Event) -> None:
        if self.wanted(event):
            self.seen.set()


async def test_a_finished_or_unknown_run_cannot_be_resumed(tmp_path: Path) -> None:
    async with mesh_of("billing", home=tmp_path) as mesh:
        answer = await mesh.ask("When is a refund paid out?")
        with pytest.raises(InputError, match="has finished"):
            await mesh.resume(answer.run_id)
        with pytest.raises(InputError):
            await mesh.resume("nothing-like-this")


async def test_a_mesh_without_state_says_that_nothing_can_be_resumed() -> None:
    async with mesh_of("billing") as mesh:
        with pytest.raises(InputError, match="records no runs"):
            await mesh.resume("r1")


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("  ", {}, "the question is empty"),
        ("x" * 5_000_000, {}, "5,000,000 characters, at most 100,000"),
        ("caf\udce9", {}, "not valid UTF-8 at character 3"),
        ("ok", {"tenant": ""}, "tenant must have 1 to 200"),
        ("ok", {"thread": "x" * 300}, "thread must have 1 to 200"),
    ],
    ids=["empty", "5 MB", "surrogate", "tenant", "thread"],
)
async def test_input_that_cannot_be_taken_is_refused_before_anything_runs(
    text: str, options: dict[str, str], words: str
) -> None:
    model = ScriptedModel(cited)
    async with mesh_of(model=model) as mesh:
        with pytest.raises(InputError, match=words):
            await mesh.ask(text, **options)  # pyright: ignore[reportArgumentType]
    assert not model.requests


async def test_unknown_names_say_the_nearest() -> None:
    async with mesh_of() as mesh:
        with pytest.raises(UnknownNameError, match="did you mean 'semantic'"):
            await mesh.ask("ok", router="semantik")
        with pytest.raises(UnknownNameError, match="no graph is called 'x'"):
            await mesh.ask("ok", graph="x")
        with pytest.raises(GraphError, match="did you mean 'billing'"):
            await mesh.ask("ok", graph=AgentGraph("g").stage("a", agent="biling"))
    with pytest.raises(UnknownNameError, match="no role is called 'solvr'; did you mean 'solver'"):
        build_mesh([CARDS[0].model_copy(update={"role": "solvr"})], model=ScriptedModel(cited))
    with pytest.raises(ConfigError, match="two agents are called 'billing'"):
        build_mesh([CARDS[0], CARDS[0]], model=ScriptedModel(cited))


async def test_a_loop_ends_at_its_bound_and_each_round_reads_the_last_one() -> None:
    rounds: list[int] = []

    async def again(call: AgentCall, pack: ContextPack) -> str:
        rounds.append(call.round)
        return f"Round {call.round}."

    graph = AgentGraph("loop").stage("work", agent="billing").refine("end", after="work")
    graph.loop("end", back_to="work", while_=always, max_rounds=4)
    async with build_mesh([FunctionAgent(CARDS[0], again)], embedder=ScriptedEmbedder()) as mesh:
        answer = await mesh.ask("Go!", graph=graph, limits=Limits(max_repeats=4))
    assert rounds == [1, 2, 3, 4]
    assert answer.rounds == 4


async def test_a_condition_chooses_the_way() -> None:
    async def say(call: AgentCall, pack: ContextPack) -> str:
        return f"{call.agent} spoke."

    def vpn_needed(view: RunView) -> bool:
        return "vpn" in view.task.text

    graph = (
        AgentGraph("fork").stage("first", agent="billing").stage("second", agent="vpn").refine("end", after="second")
    )
    graph.edge("first", "second", when=vpn_needed)
    agents = [FunctionAgent(card, say) for card in CARDS]
    async with build_mesh(agents, embedder=ScriptedEmbedder()) as mesh:
        with_vpn = await mesh.ask("invoice and vpn", graph=graph)
        without = await mesh.ask("invoice only", graph=graph)
    assert [r.agent for r in with_vpn.replies] == ["billing", "vpn"]
    assert [r.agent for r in without.replies] == ["billing"]


async def test_parallel_stages_join_before_the_next_one() -> None:
    async def say(call: AgentCall, pack: ContextPack) -> str:
        return f"{call.agent} spoke."

    graph = AgentGraph("diamond").stage("start", agent="billing")
    graph.stage("left", agent="billing", after="start").stage("right", agent="vpn", after="start")
    graph.refine("end", after=["left", "right"])
    sink = ListSink()
    agents = [FunctionAgent(card, say) for card in CARDS]
    async with build_mesh(agents, embedder=ScriptedEmbedder(), sink=sink) as mesh:
        answer = await mesh.ask("go", graph=graph)
    assert types_of(sink.events).count("answer_refined") == 1
    assert len(answer.replies) == 3


async def test_a_subgraph_is_one_stage_and_its_rounds_are_its_own() -> None:
    async def say(call: AgentCall, pack: ContextPack) -> str:
        return f"{call.agent} in {call.step}."

    inner = AgentGraph("inner").stage("look", agent="vpn").refine("sum", after="look")
    graph = (
        AgentGraph("outer").stage("ask", agent="billing").subgraph("dig", inner, after="ask").refine("end", after="dig")
    )
    agents = [FunctionAgent(card, say) for card in CARDS]
    async with build_mesh(agents, embedder=ScriptedEmbedder()) as mesh:
        answer = await mesh.ask("go", graph=graph)
    assert [r.call_id.split("/", 1)[1] for r in answer.replies] == ["ask.r1/billing/1", "dig/look.r1/vpn/1"]


async def test_a_path_takes_one_agent_of_each_layer_and_heeds_what_is_forbidden() -> None:
    async def say(call: AgentCall, pack: ContextPack) -> str:
        return f"{call.agent} did it."

    names = ("draft-a", "draft-b", "check-a", "check-b")
    agents = [FunctionAgent(AgentCard(id=n, description=n), say) for n in names]
    graph = AgentGraph("p").path(
        "solve", layers=[["draft-a", "draft-b"], ["check-a", "check-b"]], forbid=[("draft-a", "check-a")]
    )
    graph.refine("end", after="solve")
    async with build_mesh(agents, router=FixedRouter(), embedder=ScriptedEmbedder()) as mesh:
        answer = await mesh.ask("go", graph=graph)
    assert [r.agent for r in answer.replies] == ["draft-a", "check-b"]


async def test_a_compiled_graph_is_langgraphs_own_and_runs_alone() -> None:
    graph = AgentGraph("own").dispatch("route").refine("end", after="route")
    async with mesh_of("billing") as mesh:
        compiled = graph.compile(mesh)
        state = await compiled.ainvoke({"task": Task(text="When is a refund paid out?")})
    assert type(compiled).__module__.startswith("langgraph.")
    assert state["answer"].status is AnswerStatus.ANSWERED


async def test_what_one_stage_said_is_in_the_memory_of_the_next() -> None:
    packs: list[ContextPack] = []

    async def note(call: AgentCall, pack: ContextPack) -> str:
        packs.append(pack)
        return "The secret word of the vault is heliotrope."

    graph = AgentGraph("two").stage("a", agent="billing").stage("b", agent="vpn", after="a").refine("c", after="b")
    agents = [FunctionAgent(card, note) for card in CARDS]
    async with build_mesh(agents, embedder=ScriptedEmbedder()) as mesh:
        await mesh.ask("What is the secret word of the vault?", graph=graph)
    assert "heliotrope" not in packs[0].text
    assert "heliotrope" in packs[1].text


async def test_a_model_that_fails_once_is_asked_again() -> None:
    model = ScriptedModel([ModelTimeoutError("slow"), "It is noted [m1]."])
    async with mesh_of("billing", model=model) as mesh:
        answer = await mesh.ask("When is a refund paid out?")
    assert answer.status is AnswerStatus.ANSWERED
    assert len(model.requests) == 2


def test_a_script_without_an_event_loop_asks_synchronously() -> None:
    mesh = mesh_of("billing")
    try:
        assert mesh.ask_sync("When is a refund paid out?").status is AnswerStatus.ANSWERED
        assert mesh.ask_sync("And again?").status is AnswerStatus.ANSWERED
    finally:
        mesh.close()


# --- what ends early, comes together late, or is done twice -----------------------------------------------------------


async def say(call: AgentCall, pack: ContextPack) -> str:
    return f"{call.agent} spoke about {call.task.text} in {call.step}."


def speaking(router: Router | None = None, **options: Any) -> Mesh:
    agents = [FunctionAgent(card, say) for card in CARDS]
    return build_mesh(agents, router=router or FixedRouter(), embedder=ScriptedEmbedder(), **options)


def always(view: RunView) -> bool:
    return True


def never(view: RunView) -> bool:
    return False


def steps_of(answer: Answer) -> list[str]:
    return [r.call_id.split("/", 1)[1].rsplit("/", 2)[0] for r in answer.replies]


async def test_every_invocation_of_a_compiled_graph_is_a_run_of_its_own() -> None:
    graph = AgentGraph("own").dispatch("route").refine("end", after="route")
    sink = ListSink()
    async with speaking(sink=sink) as mesh:
        compiled = graph.compile(mesh, checkpointer=memory_checkpoints())
        states = [
            await compiled.ainvoke({"task": Task(text=text, tenant=text)}, {"configurable": {"thread_id": "t"}})
            for text in ("one", "two")
        ]
    for state, text in zip(states, ("one", "two"), strict=True):
        assert {r.text for r in state["replies"].values()} == {
            f"{card.id} spoke about {text} in route.r1." for card in CARDS
        }
    started = [e for e in sink.events if e.type == "run_started"]
    assert [e.task.tenant for e in started] == ["one", "two"]
    assert [e.run_id for e in started] == [s["run_id"] for s in states]


async def test_branches_that_each_make_an_answer_come_together() -> None:
    inner = [AgentGraph(name).stage("look", agent=name).refine("sum", after="look") for name in ("billing", "vpn")]
    graph = AgentGraph("g").stage("first", agent="billing")
    graph.subgraph("x", inner[0], after="first").subgraph("y", inner[1], after="first")
    graph.refine("left", after="first").refine("end", after=["x", "y", "left"])
    async with speaking() as mesh:
        answer = await mesh.ask("it", graph=graph)
    assert answer.status is AnswerStatus.ANSWERED
    assert sorted(steps_of(answer)) == ["first.r1", "x/look.r1", "y/look.r1"]


async def test_the_same_agent_in_two_subgraphs_is_heard_twice() -> None:
    inner = AgentGraph("i").stage("look", agent="vpn")
    graph = AgentGraph("g").subgraph("x", inner).subgraph("y", inner, after="x").refine("end", after="y")
    async with speaking() as mesh:
        answer = await mesh.ask("it", graph=graph)
    assert len(answer.contributors) == 2


async def test_a_join_does_not_wait_for_a_branch_that_is_not_taken() -> None:
    graph = AgentGraph("d").stage("start", agent="billing")
    graph.stage("left", agent="billing").stage("right", agent="vpn", after="start").edge("start", "left", when=never)
    graph.refine("end", after=["left", "right"])
    sink = ListSink()
    async with speaking(sink=sink) as mesh:
        answer = await mesh.ask("it", graph=graph)
    assert steps_of(answer) == ["start.r1", "right.r1"]
    assert types_of(sink.events).count("answer_refined") == 1


async def test_a_join_does_not_wait_for_a_branch_that_is_not_part_of_the_next_round() -> None:
    graph = AgentGraph("d").stage("a", agent="billing").stage("b", agent="vpn").edge(START, "a").edge(START, "b")
    graph.refine("end", after=["a", "b"]).loop("end", back_to="a", while_=always, max_rounds=3)
    sink = ListSink()
    async with speaking(sink=sink) as mesh:
        answer = await mesh.ask("it", graph=graph, limits=Limits(max_repeats=3))
    assert steps_of(answer) == ["a.r1", "b.r1", "a.r2", "a.r3"]
    assert types_of(sink.events).count("answer_refined") == 3


async def test_stages_that_end_the_graph_side_by_side_are_all_heard() -> None:
    graph = AgentGraph("d").stage("a", agent="billing").stage("b", agent="vpn", after="a").stage("c", agent="vpn")
    graph.edge("a", "c").edge("b", END).edge("c", END)
    async with speaking() as mesh:
        answer = await mesh.ask("it", graph=graph)
    assert steps_of(answer) == ["a.r1", "b.r1", "c.r1"]
    assert answer.status is AnswerStatus.ANSWERED


async def test_a_router_that_fails_does_not_keep_another_branch_from_being_heard() -> None:
    graph = AgentGraph("d").dispatch("route").stage("b", agent="vpn").edge(START, "route").edge(START, "b")
    graph.refine("end", after=["route", "b"])
    async with speaking(Broken()) as mesh:
        answer = await mesh.ask("it", graph=graph)
    assert answer.status is AnswerStatus.ANSWERED
    assert answer.text == "vpn spoke about it in b.r1."


class OnlyOnce:
    name = "only-once"

    def __init__(self) -> None:
        self.asked = 0

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        self.asked += 1
        if self.asked > 1:
            raise ZeroDivisionError("oh")
        return RoutingDecision(
            mode=Mode.SOLO, chosen=(Chosen(agent="billing", score=1.0),), reason="first", router=self.name
        )


async def test_a_router_that_fails_in_a_later_round_leaves_the_answer_of_the_earlier_one() -> None:
    graph = AgentGraph("d").dispatch("route").refine("end", after="route")
    graph.loop("end", back_to="route", while_=always, max_rounds=2)
    sink = ListSink()
    async with speaking(OnlyOnce(), sink=sink) as mesh:
        answer = await mesh.ask("it", graph=graph)
    assert answer.text == "billing spoke about it in route.r1."
    assert "step_failed" in types_of(sink.events)


class Choosing:
    """A router that decides this, whatever it is asked."""

    name = "choosing"

    def __init__(self, *chosen: Chosen, mode: Mode = Mode.PARALLEL) -> None:
        self.chosen, self.mode = chosen, mode

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        return RoutingDecision(mode=self.mode, chosen=self.chosen, reason="so", router=self.name)


@pytest.mark.parametrize(
    ("agents", "words"), [(("vpn", "vpn"), "chose 'vpn' twice"), (("vpn", "billing"), "chose 2 agents, at most 1")]
)
async def test_a_decision_that_cannot_be_carried_out_is_refused(agents: Sequence[str], words: str) -> None:
    graph = AgentGraph("d").dispatch("route", max_agents=1).refine("end", after="route")
    async with speaking(Choosing(*(Chosen(agent=a, score=1.0) for a in agents))) as mesh:
        answer = await mesh.ask("it", graph=graph)
    assert answer.status is AnswerStatus.FAILED
    assert words in answer.text


@pytest.mark.parametrize(("second", "heard"), [("check-b", ["draft", "check-b"]), ("check-a", ["draft"])])
async def test_a_router_of_paths_is_asked_once_and_may_not_plan_what_is_forbidden(
    second: str, heard: list[str]
) -> None:
    plan = (Chosen(agent="draft", stage="1", score=1.0), Chosen(agent=second, stage="2", score=1.0))
    agents = [FunctionAgent(AgentCard(id=n, description=n), say) for n in ("draft", "check-a", "check-b")]
    graph = AgentGraph("p").path("solve", layers=[["draft"], ["check-a", "check-b"]], forbid=[("draft", "check-a")])
    router = Choosing(*plan, mode=Mode.PATH)
    async with build_mesh(agents, router=router, embedder=ScriptedEmbedder()) as mesh:
        answer = await mesh.ask("it", graph=graph.refine("end", after="solve"))
    assert [r.agent for r in answer.replies] == heard


class Careless:
    """An agent that returns what it likes."""

    def __init__(self, reply: Any) -> None:
        self.card, self.reply = CARDS[0], reply

    async def answer(self, call: AgentCall, pack: ContextPack, ctx: RunContext) -> Any:
        return self.reply


async def test_an_agent_that_returns_no_reply_is_a_failed_reply() -> None:
    async with build_mesh([Careless(None)], router=FixedRouter(), embedder=ScriptedEmbedder()) as mesh:
        answer = await mesh.ask("it")
    assert answer.replies[0].error == "the agent 'billing' returned NoneType; return an AgentReply"


async def test_a_reply_belongs_to_its_call_whatever_the_agent_says() -> None:
    reply = AgentReply(call_id="other", agent="vpn", status=ReplyStatus.ANSWERED, text="Mine.")
    async with build_mesh([Careless(reply)], router=FixedRouter(), embedder=ScriptedEmbedder()) as mesh:
        answer = await mesh.ask("it", run_id="r1")
    found = answer.replies[0]
    assert (found.call_id, found.agent, found.stage, found.round) == ("r1/route.r1/billing/1", "billing", "route", 1)


async def test_waiting_for_a_turn_takes_of_the_time_of_the_run() -> None:
    asked: list[str] = []

    class Late(Careless):
        def __init__(self, card: AgentCard) -> None:
            self.card = card

        async def answer(self, call: AgentCall, pack: ContextPack, ctx: RunContext) -> Any:
            asked.append(call.agent)
            await asyncio.sleep(60)

    limits = Limits(max_seconds=0.1, max_concurrency=1)
    late = [Late(card) for card in CARDS]
    async with build_mesh(late, router=FixedRouter(), embedder=ScriptedEmbedder(), limits=limits) as mesh:
        answer = await mesh.ask("it")
    assert asked == ["billing"]
    assert [r.status for r in answer.replies] == [ReplyStatus.TIMED_OUT, ReplyStatus.OVER_LIMIT]
    assert answer.stop is not None


async def test_a_run_id_names_one_run(tmp_path: Path) -> None:
    async with speaking(home=tmp_path) as mesh:
        await mesh.ask("one", run_id="r1")
        with pytest.raises(InputError, match="there was a run 'r1' already"):
            await mesh.ask("two", run_id="r1")
        with pytest.raises(InputError, match="is not a run id"):
            await mesh.ask("two", run_id="../r1")
        both = await asyncio.gather(*(mesh.ask("x", run_id="r2") for _ in range(2)), return_exceptions=True)
    assert sorted(type(x).__name__ for x in both) == ["Answer", "InputError"]


async def test_a_router_that_a_graph_names_wrongly_is_said_before_anything_runs() -> None:
    inner = AgentGraph("i").dispatch("route", router="semantik")
    async with speaking() as mesh:
        with pytest.raises(UnknownNameError, match="did you mean 'semantic'"):
            await mesh.ask("it", graph=AgentGraph("g").subgraph("x", inner))


def test_a_condition_of_a_subgraph_is_not_mixed_up_with_one_of_the_same_name() -> None:
    inner = AgentGraph("i").stage("a", agent="vpn").loop("a", back_to="a", while_=lambda view: False, max_rounds=3)
    outer = AgentGraph("o").stage("s", agent="vpn").loop("s", back_to="s", while_=lambda view: True, max_rounds=2)
    draft = outer.subgraph("x", inner, after="s").draft()
    graph = draft.stage("x").graph
    assert graph is not None
    view = RunView(task=Task(text="it"), decision=None, replies=(), answer=None, round=1)
    assert outer.conditions[draft.loops[0].while_](view) is True
    assert outer.conditions[graph.loops[0].while_](view) is False


async def test_closing_a_mesh_cancels_its_runs_and_they_can_be_resumed(tmp_path: Path) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def hang(call: AgentCall, pack: ContextPack) -> str:
        if call.agent == "vpn":
            begun.set()
            await go_on.wait()
        return f"The word of {call.agent}."

    def mesh() -> Mesh:
        graph = AgentGraph("two").stage("a", agent="billing").stage("b", agent="vpn", after="a").refine("c", after="b")
        agents = [FunctionAgent(card, hang) for card in CARDS]
        return build_mesh(agents, embedder=ScriptedEmbedder(), home=tmp_path, graphs={"two": graph})

    first = mesh()
    run = asyncio.ensure_future(first.ask("Both?", graph="two", run_id="r1"))
    async with asyncio.timeout(10):
        await begun.wait()
        await first.aclose()
        with pytest.raises(StoreError, match="the mesh was closed while run 'r1' was at work"):
            await run
    go_on.set()
    sink = ListSink()
    async with mesh() as second:
        both = await asyncio.gather(*(second.resume("r1", sinks=(sink,)) for _ in range(2)), return_exceptions=True)
    assert sorted(type(x).__name__ for x in both) == ["Answer", "InputError"]
    assert [e.finished_calls for e in sink.events if e.type == "run_resumed"] == [1]
    answer = next(x for x in both if isinstance(x, Answer))
    assert [r.text for r in answer.replies] == ["The word of billing.", "The word of vpn."]


async def test_the_time_that_a_run_took_before_counts_when_it_is_resumed(tmp_path: Path) -> None:
    async with speaking(home=tmp_path) as mesh:
        services = await mesh._open()  # pyright: ignore[reportPrivateUsage]
        began = RunStarted(run_id="r1", seq=1, at=1000.0, task=Task(text="it"), graph="default", agents=(), version="0")
        services.sink.emit(began)
        services.sink.emit(StepFailed(run_id="r1", seq=2, at=1290.0, error="oh", kind="X"))
        services.sink.emit(RunResumed(run_id="r1", seq=3, at=9000.0, finished_calls=0))
        services.sink.emit(StepFailed(run_id="r1", seq=4, at=9010.0, error="oh", kind="X"))
        answer = await mesh.resume("r1")
    assert answer.stop is not None
    assert answer.stop.limit == "max_seconds"
    assert 300 <= answer.latency_s < 330


def test_a_mesh_that_was_closed_can_be_opened_in_another_event_loop() -> None:
    mesh = speaking()

    async def use() -> AnswerStatus:
        async with mesh:
            return (await mesh.ask("it")).status

    assert [asyncio.run(use()), asyncio.run(use()), mesh.ask_sync("it").status] == [AnswerStatus.ANSWERED] * 3
    mesh.close()


def test_asking_synchronously_within_the_meshs_own_loop_is_said_not_waited_for() -> None:
    async def ask(call: AgentCall, pack: ContextPack) -> str:
        return mesh.ask_sync("again").text

    mesh = build_mesh([FunctionAgent(CARDS[0], ask)], router=FixedRouter(), embedder=ScriptedEmbedder())
    try:
        error = mesh.ask_sync("it").replies[0].error
    finally:
        mesh.close()
    assert error is not None
    assert "await `ask` there" in error


async def test_a_cancelled_run_of_a_mesh_without_state_leaves_no_checkpoint() -> None:
    begun = asyncio.Event()

    async def hang(call: AgentCall, pack: ContextPack) -> str:
        begun.set()
        await asyncio.sleep(60)
        return "never"

    async with build_mesh([FunctionAgent(CARDS[0], hang)], embedder=ScriptedEmbedder(), router=FixedRouter()) as mesh:
        run = asyncio.ensure_future(mesh.ask("it", run_id="r1"))
        await begun.wait()
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        services = await mesh._open()  # pyright: ignore[reportPrivateUsage]
        assert await services.checkpointer.aget_tuple({"configurable": {"thread_id": "r1"}}) is None


async def test_one_closer_that_fails_does_not_keep_the_others_from_closing() -> None:
    closed: list[str] = []

    async def fail() -> None:
        raise StoreError("stuck")

    async def good() -> None:
        closed.append("good")

    with pytest.raises(StoreError, match="stuck"):
        await close_all([good, fail])
    assert closed == ["good"]


class SlowStore(ArrayStore):
    """A store whose first batch write waits."""

    def __init__(self) -> None:
        super().__init__("scripted-64", 64)
        self.flushes, self.begun, self.go_on = 0, asyncio.Event(), asyncio.Event()

    async def flush(self) -> int:
        self.flushes += 1
        self.begun.set()
        await self.go_on.wait()
        return 1


async def test_a_run_that_ends_during_a_batch_write_is_in_the_next_one() -> None:
    store = SlowStore()
    async with speaking(store=store) as mesh:
        await mesh.ask("one")
        await store.begun.wait()
        await mesh.ask("two")
        store.go_on.set()
        await mesh.settle()
        assert store.flushes == 2


async def test_a_shadow_that_a_stage_names_is_not_called() -> None:
    model = ScriptedModel(cited)
    graph = AgentGraph("g").stage("a", agent="billing").refine("b", after="a")
    async with mesh_of(model=model, cards=[CARDS[0].model_copy(update={"shadow": True})]) as mesh:
        answer = await mesh.ask("Invoice?", graph=graph)
    assert "is a shadow, which is never called" in (answer.replies[0].error or "")
    assert not model.requests


async def test_what_a_private_agent_said_is_not_in_the_memory_of_others() -> None:
    packs: list[ContextPack] = []

    async def whisper(call: AgentCall, pack: ContextPack) -> str:
        packs.append(pack)
        return f"The vault word of {call.agent} is heliotrope."

    cards = (CARDS[0].model_copy(update={"visibility": "private"}), CARDS[1])
    agents = [FunctionAgent(card, whisper) for card in cards]
    async with build_mesh(agents, embedder=ScriptedEmbedder()) as mesh:
        await mesh.ask("What is the vault word?", thread="t", graph=AgentGraph("one").stage("a", agent="billing"))
        await mesh.ask("What is the vault word?", thread="t", graph=AgentGraph("two").stage("a", agent="vpn"))
        await mesh.ask("What is the vault word?", thread="t", graph=AgentGraph("three").stage("a", agent="billing"))
    assert "heliotrope" not in packs[1].text
    assert "vault word of billing" in packs[2].text


async def test_a_resumed_run_keeps_its_own_limits_and_router(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def slow(call: AgentCall, pack: ContextPack) -> str:
        if not go_on.is_set():
            await asyncio.sleep(60)
        return f"The word of {call.agent}."

    def mesh() -> Mesh:
        return build_mesh([FunctionAgent(card, slow) for card in CARDS], embedder=ScriptedEmbedder(), home=tmp_path)

    at_work = Waiting(lambda e: e.type == "agent_started")
    async with mesh() as first:
        asking = first.ask("Both?", run_id="r2", router="random", limits=Limits(max_calls=7), sinks=(at_work,))
        run = asyncio.ensure_future(asking)
        async with asyncio.timeout(10):
            await at_work.seen.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    go_on.set()
    sink = ListSink()
    async with mesh() as second:
        answer = await second.resume("r2", sinks=(sink,))
    assert answer.decision is not None
    assert answer.decision.router == "random"
    assert answer.status is AnswerStatus.ANSWERED


async def test_one_run_is_resumed_by_one_mesh_at_a_time(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def slow(call: AgentCall, pack: ContextPack) -> str:
        await go_on.wait()
        return f"The word of {call.agent}."

    def mesh() -> Mesh:
        return build_mesh(
            [FunctionAgent(CARDS[0], slow)], router=FixedRouter(), embedder=ScriptedEmbedder(), home=tmp_path
        )

    at_work = Waiting(lambda e: e.type == "agent_started")
    async with mesh() as first:
        run = asyncio.ensure_future(first.ask("Anybody?", run_id="r3", sinks=(at_work,)))
        async with asyncio.timeout(10):
            await at_work.seen.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    again = Waiting(lambda e: e.type == "agent_started")
    async with mesh() as second, mesh() as third:
        resumed = asyncio.ensure_future(second.resume("r3", sinks=(again,)))
        async with asyncio.timeout(10):
            await again.seen.wait()
        with pytest.raises(InputError, match="is at work elsewhere"):
            await third.resume("r3")
        go_on.set()
        answer = await resumed
    assert answer.status is AnswerStatus.ANSWERED
    assert not list((tmp_path / "locks").iterdir())
