"""Agents that join, change and leave while a mesh runs, and conversations that remember who worked."""

import asyncio
import io
import logging
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import pytest
from rich.console import Console

from agentmesh import AgentCard, AgentGraph, Mesh, build_mesh, load_mesh
from agentmesh.agents.function import FunctionAgent
from agentmesh.cli.show import RunView, show_event
from agentmesh.database import Database, Tables
from agentmesh.errors import ConfigError, GraphError, UnknownNameError
from agentmesh.graphs import default_graph
from agentmesh.models.scripted import ScriptedEmbedder, ScriptedModel
from agentmesh.project.cards import card_text
from agentmesh.routing.baselines import FixedRouter
from agentmesh.routing.semantic import SemanticRouter
from agentmesh.run import RunContext
from agentmesh.runtime import onboarding
from agentmesh.runtime.threads import KEPT_TURNS, THREAD_TABLES, DatabaseThreads, MemoryThreads, Threads
from agentmesh.testing import ScriptedAgent, ScriptedRouter
from agentmesh.trace.events import AgentsChanged, Event, RouteDecided, RoutesCompared, RunStarted, event_adapter
from agentmesh.trace.sinks import ListSink
from agentmesh.types import (
    AgentCall,
    AgentVariant,
    Answer,
    Approval,
    ContextPack,
    Message,
    Mode,
    RouteRequest,
    RoutingDecision,
)

BILLING = AgentCard(id="billing", description="Explains invoices and refunds.", examples=("Why is my invoice higher?",))
VPN = AgentCard(id="vpn", description="Solves VPN trouble.", examples=("The VPN tunnel drops.",))
PARKING = AgentCard(
    id="parking",
    description="Rents out parking lots for cars and bicycles.",
    examples=("I need a place for my car.", "Where can I put my bicycle?", "Is the garage open at night?"),
)


def mesh_of(*cards: AgentCard, sink: ListSink | None = None, **options: Any) -> Mesh:
    agents = [ScriptedAgent(card) for card in cards or (BILLING, VPN)]
    given: dict[str, Any] = {"router": ScriptedRouter(), "embedder": ScriptedEmbedder(), "sink": sink, **options}
    return build_mesh(agents, **given)


def of(kind: type[Any], events: Sequence[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def started(sink: ListSink) -> list[tuple[str, ...]]:
    """The agents that each run began with."""
    return [event.agents for event in of(RunStarted, sink.events)]


# --- by call ----------------------------------------------------------------------------------------------------------


async def test_who_joins_is_in_the_next_decision_of_the_default_router() -> None:
    sink = ListSink()
    async with mesh_of(router=SemanticRouter(ScriptedEmbedder()), sink=sink) as mesh:
        before = await mesh.ask("I need a place for my car.")
        card = await mesh.onboard(ScriptedAgent(PARKING))
        after = await mesh.ask("I need a place for my car.")
    assert card is PARKING
    assert before.decision is not None
    assert "parking" not in {c.agent for c in before.decision.candidates}
    assert [reply.agent for reply in after.replies] == ["parking"]
    assert started(sink) == [("billing", "vpn"), ("billing", "vpn", "parking")]
    assert mesh.agents == ("billing", "vpn", "parking")


async def test_the_trace_of_the_next_run_says_what_changed_and_only_that_one() -> None:
    sink = ListSink()
    async with mesh_of(sink=sink) as mesh:
        await mesh.onboard(ScriptedAgent(PARKING))
        await mesh.onboard(ScriptedAgent(VPN.model_copy(update={"description": "Mends tunnels."})))
        await mesh.retire("billing")
        first = await mesh.ask("Hello there?")
        await mesh.ask("Hello again?")
    changes = of(AgentsChanged, sink.events)
    assert [(c.added, c.changed, c.removed) for c in changes] == [
        (("parking",), (), ()),
        ((), ("vpn",), ()),
        ((), (), ("billing",)),
    ]
    assert {change.run_id for change in changes} == {first.run_id}
    assert [e.type for e in sink.events][:2] == ["run_started", "agents_changed"]
    assert [e.seq for e in sink.events if e.run_id == first.run_id] == [
        *range(1, 1 + sum(e.run_id == first.run_id for e in sink.events))
    ]


async def test_what_build_mesh_takes_as_an_agent_may_join() -> None:
    from langgraph.graph import StateGraph

    class Talk(TypedDict):
        """Tells jokes."""

        question: str
        answer: str

    def price(text: str) -> str:
        """Says what a plan costs."""
        return "30 EUR."

    graph: Any = StateGraph(Talk)
    graph.add_node("tell", lambda state: {"answer": "Knock, knock."})  # pyright: ignore
    graph.add_edge("__start__", "tell")
    compiled = graph.compile(name="joker")
    model = ScriptedModel(["An answer of a model."])
    async with mesh_of(router=ScriptedRouter(lambda r: [r.task.text]), model=model) as mesh:
        for agent in (price, compiled, PARKING):
            await mesh.onboard(agent)
        replies = [(await mesh.ask(who)).replies[0] for who in ("price", "joker", "parking")]
    assert [reply.agent for reply in replies] == ["price", "joker", "parking"]
    assert [reply.text for reply in replies[:2]] == ["30 EUR.", "Knock, knock."]


async def test_a_card_of_the_same_id_takes_the_old_ones_place() -> None:
    async with mesh_of(router=FixedRouter(agents=("vpn",))) as mesh:
        first = await mesh.ask("Anybody?")
        await mesh.onboard(ScriptedAgent(VPN, ["The new one."]))
        second = await mesh.ask("Anybody?")
        third = await mesh.onboard(VPN)  # the same card: now a model answers in place of the agent
    assert (first.replies[0].text, second.replies[0].text) == ("Anybody?", "The new one.")
    assert third is VPN
    assert mesh.agents == ("billing", "vpn")


async def test_a_run_at_work_keeps_the_agents_that_it_began_with() -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def wait(call: AgentCall, pack: ContextPack) -> str:
        begun.set()
        await go.wait()
        return "Old hands."

    pools: list[list[str]] = []

    def by_stage(request: RouteRequest) -> list[str]:
        pools.append([card.id for card in request.cards])
        return ["vpn"] if request.stage == "second" else ["billing"]

    graph = AgentGraph("two").dispatch("first").dispatch("second", after="first").refine("end", after="second")
    agents = [FunctionAgent(BILLING, wait), ScriptedAgent(VPN, ["The old one."])]
    async with build_mesh(agents, router=ScriptedRouter(by_stage), embedder=ScriptedEmbedder()) as mesh:
        run = asyncio.ensure_future(mesh.ask("Anybody?", graph=graph))
        async with asyncio.timeout(10):
            await begun.wait()
        await mesh.onboard(ScriptedAgent(PARKING))
        await mesh.onboard(ScriptedAgent(VPN, ["The new one."]))
        await mesh.retire("billing")
        go.set()
        answer = await run
    assert [reply.text for reply in answer.replies] == ["Old hands.", "The old one."]
    assert pools == [["billing", "vpn"], ["billing", "vpn"]]
    assert mesh.agents == ("vpn", "parking")


async def test_a_pool_that_names_ids_has_nobody_new_until_it_names_them() -> None:
    pools: list[list[str]] = []

    def first(request: RouteRequest) -> list[str]:
        pools.append([card.id for card in request.cards])
        return [request.cards[0].id]

    async with mesh_of(router=ScriptedRouter(first), graphs={"desk": default_graph(["vpn"])}) as mesh:
        await mesh.onboard(ScriptedAgent(PARKING))
        await mesh.ask("Anybody?", graph="desk")
        mesh.graphs["desk"] = default_graph(["vpn", "parking"])
        await mesh.ask("Anybody?", graph="desk")
        await mesh.ask("Anybody?")
    assert pools == [["vpn"], ["vpn", "parking"], ["billing", "vpn", "parking"]]


def silent(text: str) -> str:
    return text


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (PARKING.model_copy(update={"role": "solvr"}), "agent 'parking': no role is called 'solvr'; did you mean 'so"),
        (PARKING.model_copy(update={"tools": ("shp",)}), "no tool server is called 'shp'; did you mean 'shop'?"),
        (PARKING.model_copy(update={"tool": "shop.opn"}), "no tool is called 'shop.opn'; did you mean 'shop.open_at'?"),
        (PARKING.model_copy(update={"model": "defalt"}), "no model is called 'defalt'; did you mean 'default'?"),
        (PARKING.model_copy(update={"variants": {"fast": AgentVariant(model="smal")}}), "did you mean 'small'?"),
        (PARKING.model_copy(update={"model": "gguf:/nowhere.gguf "}), "agent 'parking'"),
        (PARKING.model_copy(update={"description": " "}), "agent 'parking': its description holds no words; say in a"),
        (ScriptedAgent(AgentCard(id="x", description="🙂 ?")), "agent 'x': its description holds no words"),
        (silent, "needs a docstring"),
        (42, "int is not an agent"),
    ],
    ids=["role", "server", "tool", "model", "variant", "weights", "empty", "no words", "function", "number"],
)
async def test_who_cannot_work_here_changes_nothing(agent: Any, words: str) -> None:
    def open_at(day: str) -> str:
        """When the shop opens."""
        return "9:00"

    sink = ListSink()
    model = {"default": ScriptedModel(), "small": ScriptedModel()}
    async with mesh_of(sink=sink, tools={"shop": [open_at]}, model=model) as mesh:
        if words == "agent 'parking'":  # a model may be any that the models layer knows the form of
            agent = PARKING.model_copy(update={"model": "nothing like it"})
        with pytest.raises(ConfigError) as caught:
            await mesh.onboard(agent)
        assert words in str(caught.value)
        await mesh.ask("Anybody?")
    assert mesh.agents == ("billing", "vpn")
    assert of(AgentsChanged, sink.events) == []


async def test_who_is_not_there_or_is_the_last_cannot_retire() -> None:
    async with mesh_of() as mesh:
        with pytest.raises(UnknownNameError, match="no agent is called 'vnp'; did you mean 'vpn'"):
            await mesh.retire("vnp")
        await mesh.retire("vpn")
        with pytest.raises(ConfigError, match="'billing' is the only agent; onboard another one before"):
            await mesh.retire("billing")
        assert mesh.agents == ("billing",)


async def test_a_stage_that_names_who_retires_is_named_before_and_after() -> None:
    inner = AgentGraph("inner").path("walk", layers=[["billing"], ["vpn"]])
    graphs = {
        "desk": AgentGraph("desk").dispatch("route", pool=["billing", "vpn"]).refine("end", after="route"),
        "deep": AgentGraph("deep").subgraph("help", inner),
    }
    async with mesh_of(graphs=graphs) as mesh:
        with pytest.raises(GraphError, match=r"graph 'desk': stage 'route' names the agent 'vpn'; take it out there"):
            await mesh.retire("vpn")
        del mesh.graphs["desk"]
        with pytest.raises(GraphError, match=r"graph 'deep': stage 'help/walk' names the agent 'vpn'"):
            await mesh.retire("vpn")
        del mesh.graphs["deep"]
        await mesh.retire("vpn")
        gone = r"stage 'route' names the agent 'vpn', which was retired; onboard it again"
        with pytest.raises(GraphError, match=gone):
            await mesh.ask("Anybody?", graph=graphs["desk"])
        await mesh.onboard(ScriptedAgent(VPN))
        assert (await mesh.ask("Anybody?", graph=graphs["desk"])).replies


async def test_who_needs_a_yes_is_asked_about_also_where_nobody_did_before() -> None:
    careful = PARKING.model_copy(update={"approval": Approval.ALWAYS})
    async with mesh_of(router=ScriptedRouter(lambda r: [r.task.text])) as mesh:
        await mesh.ask("vpn")
        await mesh.onboard(ScriptedAgent(careful))
        answer = await mesh.ask("parking")
        assert "parking" in answer.waiting[0].text
        done = await mesh.resume(answer.run_id, "yes")
    assert [reply.agent for reply in done.replies if reply.ok] == ["parking"]


async def test_routers_learn_who_joins_before_the_next_question() -> None:
    class Learns(ScriptedRouter):
        def __init__(self) -> None:
            super().__init__()
            self.learned: list[list[str]] = []

        async def prepare(self, cards: Sequence[AgentCard]) -> None:
            self.learned.append([card.id for card in cards])

    router = Learns()
    graphs = {"desk": default_graph(["vpn"]), "front": default_graph(["billing"])}
    async with mesh_of(router=router, graphs=graphs) as mesh:
        await mesh.onboard(ScriptedAgent(PARKING))
        await mesh.onboard(ScriptedAgent(VPN.model_copy(update={"name": "VPN desk"})))
    everybody = ["billing", "vpn", "parking"]
    assert router.learned == [everybody, everybody, ["vpn"]]


@pytest.mark.parametrize("fails", [True, False], ids=["fails", "hangs"])
async def test_a_router_that_cannot_learn_keeps_nobody_out(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onboarding, "PREPARE_S", 0.01)

    class Broken(ScriptedRouter):
        async def prepare(self, cards: Sequence[AgentCard]) -> None:
            if fails:
                raise RuntimeError("no disk")
            await asyncio.Event().wait()

    sink = ListSink()
    async with mesh_of(router=Broken("parking"), sink=sink) as mesh:
        async with asyncio.timeout(10):
            await mesh.onboard(ScriptedAgent(PARKING))
        answer = await mesh.ask("Anybody?")
    assert answer.replies[0].agent == "parking"
    [change] = of(AgentsChanged, sink.events)
    assert change.added == ("parking",)
    assert ("no disk" if fails else "within 0.01 s") in change.mistakes[0]


async def test_many_changes_and_questions_at_once_never_mix_two_teams() -> None:
    sink = ListSink()
    newcomers = [ScriptedAgent(AgentCard(id=f"a{n}", description="Knows something.")) for n in range(8)]
    async with mesh_of(sink=sink) as mesh:
        asks = [mesh.ask(f"Question {n}?") for n in range(8)]
        joins: list[Awaitable[Any]] = [mesh.onboard(agent) for agent in newcomers]
        answers = [a for a in await asyncio.gather(*joins, *asks) if isinstance(a, Answer)]
    assert len(answers) == 8
    by_run = {event.run_id: set(event.agents) for event in of(RunStarted, sink.events)}
    for event in of(RouteDecided, sink.events):
        assert {c.agent for c in event.decision.candidates} == by_run[event.run_id]
    assert set(mesh.agents) == {"billing", "vpn", *(agent.card.id for agent in newcomers)}


def test_code_without_an_event_loop_may_onboard_too() -> None:
    with mesh_of(router=ScriptedRouter("parking")) as mesh:
        mesh.onboard_sync(ScriptedAgent(PARKING, ["Level 2."]))
        assert mesh.ask_sync("Where?").replies[0].text == "Level 2."
        mesh.retire_sync("vpn")
        assert mesh.agents == ("billing", "parking")


async def test_who_joined_is_still_there_when_a_closed_mesh_is_used_again() -> None:
    mesh = mesh_of(router=ScriptedRouter("parking"))
    async with mesh:
        await mesh.onboard(ScriptedAgent(PARKING))
    async with mesh:
        assert (await mesh.ask("Where?")).replies[0].agent == "parking"


# --- by a card file ---------------------------------------------------------------------------------------------------

SETTINGS = """durable = false
[models.default]
model = "scripted"
capable = false
[routing]
router = "keyword"
[memory]
embedder = "scripted"
"""


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    folder = tmp_path / "desk"
    (folder / "agents").mkdir(parents=True)
    (folder / "agentmesh.toml").write_text(SETTINGS, encoding="utf-8")
    for card in (BILLING, VPN):
        put(folder, card)
    return folder


def put(folder: Path, card: AgentCard, *, text: str | None = None) -> None:
    made = card_text(card.description, examples=card.examples)
    (folder / "agents" / f"{card.id}.md").write_text(made if text is None else text, encoding="utf-8")


async def chosen(mesh: Mesh, question: str, sink: ListSink) -> tuple[str, ...]:
    await mesh.ask(question, sinks=[sink])
    return of(RouteDecided, sink.events)[-1].decision.agents


async def test_a_card_that_is_added_changed_or_removed_is_in_the_next_decision(desk: Path) -> None:
    sink = ListSink()
    async with load_mesh(desk, environ={}) as mesh:
        assert await chosen(mesh, "A place for my car, a bicycle, a garage?", sink) == ()
        put(desk, PARKING)
        assert await chosen(mesh, "A place for my car, a bicycle, a garage?", sink) == ("parking",)
        put(desk, PARKING.model_copy(update={"description": "Feeds cats.", "examples": ("My cat is hungry.",)}))
        assert await chosen(mesh, "My cat is hungry.", sink) == ("parking",)
        (desk / "agents" / "parking.md").unlink()
        assert await chosen(mesh, "My cat is hungry.", sink) == ()
    assert [(c.added, c.changed, c.removed, c.mistakes) for c in of(AgentsChanged, sink.events)] == [
        (("parking",), (), (), ()),
        ((), ("parking",), (), ()),
        ((), (), ("parking",), ()),
    ]
    assert started(sink)[1] == ("billing", "parking", "vpn")


async def test_a_broken_card_keeps_the_old_one_and_says_so_once(desk: Path, caplog: pytest.LogCaptureFixture) -> None:
    sink = ListSink()
    async with load_mesh(desk, environ={}) as mesh:
        put(desk, VPN, text="---\ndescription: Solves VPN trouble.\nexample: [It drops.]\n---\n")
        with caplog.at_level(logging.WARNING, "agentmesh"):
            assert await chosen(mesh, "The VPN tunnel drops.", sink) == ("vpn",)
        assert await chosen(mesh, "The VPN tunnel drops.", sink) == ("vpn",)
        put(desk, VPN, text="---\ndescr")  # an editor that has written half of it
        assert await chosen(mesh, "The VPN tunnel drops.", sink) == ("vpn",)
        put(desk, VPN)
        assert await chosen(mesh, "The VPN tunnel drops.", sink) == ("vpn",)
    first, second = of(AgentsChanged, sink.events)
    assert first.mistakes == ("agents/vpn.md:3: example: unknown key; did you mean 'examples'?",)
    assert (first.added, first.changed, first.removed) == ((), (), ())
    assert second.mistakes[0].startswith("agents/vpn.md:1:")
    assert first.mistakes[0] in caplog.text


async def test_a_removed_card_that_a_scenario_names_is_gone_and_the_stage_is_said(desk: Path) -> None:
    scenario = "agents: [billing, vpn]\ngraph:\n  stages:\n    - {name: check, agent: vpn}\ntasks: [{ask: Why?}]\n"
    (desk / "scenarios").mkdir()
    (desk / "scenarios" / "desk.yaml").write_text(scenario, encoding="utf-8")
    sink = ListSink()
    async with load_mesh(desk, environ={}) as mesh:
        (desk / "agents" / "vpn.md").unlink()
        assert await chosen(mesh, "Why is my invoice higher?", sink) == ("billing",)
        with pytest.raises(GraphError, match="stage 'check' names the agent 'vpn', which was retired"):
            await mesh.ask("Why?", graph="desk")
        put(desk, VPN)
        await mesh.ask("Why?", graph="desk")
    [change] = of(AgentsChanged, sink.events)
    assert change.removed == ("vpn",)
    assert change.mistakes[0].startswith("graph 'desk': stage 'check' names the agent 'vpn', whose card is gone")


async def test_a_mesh_that_does_not_watch_stays_as_it_was_made(desk: Path) -> None:
    async with load_mesh(desk, environ={}, watch=False) as mesh:
        put(desk, PARKING)
        await mesh.ask("A place for my car?")
        assert await mesh.refresh() is None
        assert mesh.agents == ("billing", "vpn")


async def test_a_card_may_come_between_the_making_of_a_mesh_and_its_first_question(desk: Path) -> None:
    mesh = load_mesh(desk, environ={})
    put(desk, PARKING)
    async with mesh:
        change = await mesh.refresh()
        assert change is not None
        assert change.added == ("parking",)
        assert await mesh.refresh() is None


async def test_calls_and_files_change_the_same_team(desk: Path) -> None:
    async with load_mesh(desk, environ={}) as mesh:
        with pytest.raises(UnknownNameError, match="no tool server is called 'shop'"):
            await mesh.onboard(PARKING.model_copy(update={"tools": ("shop",)}))
        await mesh.onboard(PARKING)
        await mesh.retire("vpn")
        put(desk, BILLING.model_copy(update={"description": "Explains bills."}))
        await mesh.refresh()
        assert mesh.agents == ("billing", "parking")
        assert mesh.cards["billing"].description == "Explains bills."
        put(desk, VPN.model_copy(update={"description": "Mends tunnels."}))
        await mesh.refresh()
        assert mesh.agents == ("billing", "parking", "vpn")


async def test_questions_that_come_together_share_a_look(desk: Path) -> None:
    looks = 0

    class Counts:
        every_s = 0.0

        def look(self) -> None:
            nonlocal looks
            looks += 1

    mesh = load_mesh(desk, environ={})
    async with mesh:
        inner: Any = mesh
        inner._onboarding._watch = Counts()
        await asyncio.gather(*(mesh.ask(f"Question {n}?") for n in range(20)))
    assert 1 <= looks <= 3


async def test_a_look_that_fails_is_no_end_of_a_question(desk: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Fails:
        every_s = 0.0

        def look(self) -> None:
            raise RuntimeError("the disk is on fire")

    async with load_mesh(desk, environ={}) as mesh:
        inner: Any = mesh
        inner._onboarding._watch = Fails()
        assert (await mesh.ask("Why is my invoice higher?")).decision is not None
    assert "the disk is on fire" in caplog.text


async def test_agents_that_another_process_adds_and_removes_are_noticed(desk: Path) -> None:
    async def command(*arguments: str) -> None:
        call = [sys.executable, "-m", "agentmesh", "agents", *arguments, "--project", str(desk)]
        done = await asyncio.to_thread(
            subprocess.run, call, capture_output=True, encoding="utf-8", timeout=60, check=False
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    sink = ListSink()
    async with load_mesh(desk, environ={}) as mesh:
        await command("add", "cats", "--description", "Feeds cats.", "--example", "My cat is hungry.")
        assert await chosen(mesh, "My cat is hungry.", sink) == ("cats",)
        await command("remove", "cats")
        assert await chosen(mesh, "My cat is hungry.", sink) == ()


# --- shadows ----------------------------------------------------------------------------------------------------------


def shown(events: Sequence[Event]) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    view = RunView(console)
    for event in events:
        view.take(event)
    view.close()
    return console.export_text()


@pytest.mark.parametrize("router", ["semantic", "keyword", "reasoning", "cascade", "rules", "cached", "breaker"])
async def test_a_shadow_competes_in_a_mesh_and_is_never_called(router: str) -> None:
    called: list[str] = []

    def notes(call: AgentCall) -> str:
        called.append(call.agent)
        return "Done."

    shadow = PARKING.model_copy(update={"shadow": True})
    agents = [ScriptedAgent(card, notes) for card in (BILLING, VPN, shadow)]
    sink = ListSink()
    options: Any = {"embedder": ScriptedEmbedder(), "sink": sink, "model": ScriptedModel(["vpn"])}
    async with build_mesh(agents, router=router, **options) as mesh:
        answer = await mesh.ask("I need a place for my car.")
    assert "parking" not in called
    assert answer.decision is not None
    [candidate] = [c for c in answer.decision.candidates if c.agent == "parking"]
    assert not candidate.chosen
    assert "shadow" in candidate.reason
    assert re.search(r"○ +parking .* shadow", shown(sink.events))


async def test_a_card_that_leaves_the_shadow_works_from_the_next_question_on() -> None:
    shadow = PARKING.model_copy(update={"shadow": True})
    async with mesh_of(BILLING, VPN, shadow, router=SemanticRouter(ScriptedEmbedder())) as mesh:
        before = await mesh.ask("I need a place for my car.")
        await mesh.onboard(ScriptedAgent(PARKING))
        after = await mesh.ask("I need a place for my car.")
    assert (before.replies, [r.agent for r in after.replies]) == ((), ["parking"])
    assert before.decision is not None
    [candidate] = [c for c in before.decision.candidates if c.agent == "parking"]
    assert candidate.probability is not None
    assert candidate.probability > 0.3


async def test_what_a_shadow_router_would_have_done_stands_in_the_trace_of_the_run(desk: Path) -> None:
    settings = SETTINGS.replace("durable = false", "durable = true").replace('"keyword"', '"shadow"')
    (desk / "agentmesh.toml").write_text(
        f'{settings}[routing.options]\nrouter = "keyword"\nshadow = "fixed"\n', encoding="utf-8"
    )
    async with load_mesh(desk, environ={}) as mesh:
        answer = await mesh.ask("Why is my invoice higher?")
        run_id = answer.run_id
    from agentmesh.assembly import open_trace

    store, db = open_trace(desk, environ={})
    events = list(store.read(run_id))
    await store.aclose()
    await db.aclose()
    [compared] = of(RoutesCompared, events)
    assert (compared.router, compared.mode, compared.agents) == ("keyword", Mode.SOLO, ("billing",))
    assert (compared.shadow, compared.shadow_agents, compared.same) == ("fixed", ("billing", "vpn"), False)
    assert "fixed in the shadow of keyword would do otherwise: parallel: billing, vpn, not solo: billing" in shown(
        events
    )
    assert show_event(compared, 0.0).plain.endswith("fixed: parallel: billing, vpn")


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (AgentsChanged(added=("a", "b"), removed=("c",)), "agents: added a, b; removed c"),
        (AgentsChanged(mistakes=("agents/a.md: is wrong",)), "! agents/a.md: is wrong"),
        (
            RoutesCompared(
                stage="route", router="semantic", mode=Mode.SOLO, agents=("a",), shadow="keyword",
                shadow_mode=Mode.SOLO, shadow_agents=("a",), same=True, latency_ms=1.25,
            ),
            "keyword in the shadow of semantic agrees (1.2 ms)",
        ),
        (
            RoutesCompared(
                stage="route", router="semantic", mode=Mode.SOLO, agents=("a",), shadow="keyword", same=False,
                error="no disk",
            ),
            "keyword in the shadow of semantic failed: no disk",
        ),
    ],
    ids=["changed", "mistake", "agrees", "fails"],
)  # fmt: skip
def test_the_new_events_are_read_back_and_shown(event: Event, words: str) -> None:
    assert event_adapter.validate_json(event.model_dump_json()) == event
    assert words in shown([event])
    assert show_event(event, 0.0).plain.strip()


# --- conversations ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "database"])
def threads_of(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], tuple[Threads, Database | None]]:
    def make() -> tuple[Threads, Database | None]:
        if request.param == "memory":
            return MemoryThreads(), None
        db = Database(tmp_path / "mesh.db", (THREAD_TABLES,))
        return DatabaseThreads(db), db

    return make


TURNS = (
    Message(role="user", text="Why?"),
    Message(role="assistant", text="So.", agents=("billing", "vpn")),
    Message(role="user", text="And?"),
    Message(role="assistant", text="Nobody knows."),
)


async def test_a_conversation_keeps_who_worked_on_each_turn(
    threads_of: Callable[[], tuple[Threads, Database | None]],
) -> None:
    threads, db = threads_of()
    await threads.add("acme", "t1", "r1", TURNS[:2])
    await threads.add("acme", "t1", "r2", TURNS[2:])
    await threads.add("acme", "t1", "r2", TURNS[2:])
    assert await threads.history("acme", "t1") == TURNS
    assert len(await threads.history("acme", "t1")) <= KEPT_TURNS
    if db is not None:
        await db.aclose()


async def test_conversations_of_an_older_agentmesh_are_read_and_gone_on_with(tmp_path: Path) -> None:
    first_form = Tables("threads", {1: THREAD_TABLES.steps[1]})
    old = Database(tmp_path / "mesh.db", (first_form,), schema_version=1)
    insert = "INSERT INTO threads_turns VALUES (?, ?, ?, ?, ?, ?)"
    await old.write(
        (insert, ("acme", "t1", "r0", 0, "user", "Hello?")), (insert, ("acme", "t1", "r0", 1, "assistant", "Hi."))
    )
    await old.aclose()
    db = Database(tmp_path / "mesh.db", (THREAD_TABLES,))
    threads = DatabaseThreads(db)
    greeting = (Message(role="user", text="Hello?"), Message(role="assistant", text="Hi."))
    assert await threads.history("acme", "t1") == greeting
    await threads.add("acme", "t1", "r1", TURNS[:2])
    assert await threads.history("acme", "t1") == (*greeting, *TURNS[:2])
    await db.aclose()


@pytest.mark.parametrize("durable", [False, True], ids=["memory", "database"])
async def test_a_router_sees_who_worked_in_the_turns_before(durable: bool, tmp_path: Path) -> None:
    histories: list[tuple[Message, ...]] = []

    def by_text(request: RouteRequest) -> Sequence[str] | RoutingDecision:
        histories.append(request.task.history)
        return request.task.text.split()

    agents = [ScriptedAgent(BILLING), ScriptedAgent(VPN, lambda call: RuntimeError("no line"))]
    options: Any = {"router": ScriptedRouter(by_text), "embedder": ScriptedEmbedder(), "refiner": "extractive"}
    for turn in (["billing vpn", "billing"], ["billing"]) if durable else (["billing vpn", "billing", "billing"],):
        async with build_mesh(agents, home=tmp_path / "home" if durable else None, **options) as mesh:
            for text in turn:
                await mesh.ask(text, thread="t1")
    assert [m.agents for m in histories[-1] if m.role == "assistant"] == [("billing",), ("billing",)]
    assert all(m.agents == () for m in histories[-1] if m.role == "user")


async def test_a_question_back_has_nobody_who_worked_on_it() -> None:
    class Torn:
        name = "torn"

        async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
            return RoutingDecision(
                mode=Mode.CLARIFY, reason="torn", question="Which one?", confidence=0.5, router="torn"
            )

    histories: list[tuple[Message, ...]] = []
    async with mesh_of(router=Torn()) as mesh:
        answer = await mesh.ask("Help!", thread="t1")
        assert answer.waiting
        inner: Any = mesh
        histories.append(await inner._services.threads.history("default", "t1"))
    assert [(m.role, m.agents) for m in histories[0]] == [("user", ()), ("assistant", ())]
