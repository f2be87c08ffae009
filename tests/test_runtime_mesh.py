"""A mesh from the outside: ask, stream, threads, budgets, failures, resume."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from agentmesh import AgentCard, AgentGraph, Mesh, build_mesh
from agentmesh.agents.function import FunctionAgent
from agentmesh.errors import ConfigError, GraphError, InputError, ModelTimeoutError, UnknownNameError
from agentmesh.models.base import ChatReply, ChatRequest
from agentmesh.models.scripted import ScriptedEmbedder, ScriptedModel
from agentmesh.routing.baselines import FixedRouter
from agentmesh.run import Limits, RunContext
from agentmesh.runtime.state import RunView
from agentmesh.trace.events import Event, RunCancelled, RunFinished
from agentmesh.trace.sinks import ListSink
from agentmesh.types import (
    AgentCall,
    AgentLimits,
    AnswerStatus,
    ContextPack,
    Mode,
    ReplyStatus,
    RouteRequest,
    RoutingDecision,
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

    async def count(call: AgentCall, pack: ContextPack) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5):
            await asyncio.sleep(0)
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
        from agentmesh.types import Chosen

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
        with pytest.raises(InputError, match="keeps no state"):
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

    def always(view: RunView) -> bool:
        return True

    graph = AgentGraph("loop").stage("work", agent="billing").refine("end", after="work")
    graph.loop("end", back_to="work", while_=always, max_rounds=4)
    async with build_mesh([FunctionAgent(CARDS[0], again)], embedder=ScriptedEmbedder()) as mesh:
        answer = await mesh.ask("Go!", graph=graph)
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
    from agentmesh.types import Task

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
