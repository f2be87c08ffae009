"""What a graph of agents may look like, and what is said of one that cannot run."""

import pytest

from agentmesh.errors import GraphError
from agentmesh.graphs import END, START, EdgeSpec, GraphSpec, LoopSpec, StageKind, StageSpec, default_graph
from agentmesh.runtime.graph import AgentGraph


def mistakes_of(graph: AgentGraph, agents: tuple[str, ...] | None = None) -> str:
    with pytest.raises(GraphError) as caught:
        graph.spec(agents)
    return str(caught.value)


def support() -> AgentGraph:
    graph = AgentGraph("support")
    graph.dispatch("triage", pool=["billing", "network"], max_agents=2)
    graph.stage("check", agent="verifier", after="triage")
    graph.refine("answer", after="check")
    return graph.loop("answer", back_to="triage", max_rounds=3)


def test_a_sound_graph_passes_its_checks() -> None:
    spec = support().spec(("billing", "network", "verifier"))
    assert [s.name for s in spec.stages] == ["triage", "check", "answer"]
    assert spec.entries() == ("triage",)


def test_an_unreachable_stage_is_named() -> None:
    graph = support().stage("lost", agent="verifier")
    assert "stage 'lost' is unreachable; give it `after=` or an edge that leads to it" in mistakes_of(graph)


@pytest.mark.parametrize("rounds", [0, -1, 51, 10**9])
def test_a_loop_without_a_sensible_bound_is_refused(rounds: int) -> None:
    graph = AgentGraph("g").dispatch("a").refine("b", after="a").loop("b", back_to="a", max_rounds=rounds)
    assert "has no bound; set max_rounds between 1 and 50" in mistakes_of(graph)


def test_a_ring_of_plain_edges_is_a_loop_without_a_bound() -> None:
    graph = AgentGraph("g").dispatch("a").refine("b", after="a").edge("b", "a")
    assert "go round without a bound" in mistakes_of(graph)


def test_a_loop_that_leads_forward_is_refused() -> None:
    graph = AgentGraph("g").dispatch("a").refine("b", after="a").loop("a", back_to="b", max_rounds=2)
    assert "does not lead back" in mistakes_of(graph)


def test_an_empty_pool_is_refused() -> None:
    assert "stage 'a' has an empty pool" in mistakes_of(AgentGraph("g").dispatch("a", pool=[]))


def test_an_unknown_agent_is_named_with_the_nearest() -> None:
    graph = AgentGraph("g").dispatch("a", pool=["biling"])
    assert "no agent is called 'biling'; did you mean 'billing'?" in mistakes_of(graph, ("billing", "network"))


def test_an_unknown_stage_in_an_edge_is_named_with_the_nearest() -> None:
    graph = AgentGraph("g").dispatch("triage").refine("answer", after="triag")
    assert "names no stage 'triag'; did you mean 'triage'?" in mistakes_of(graph)


def test_an_unknown_condition_is_named_with_the_nearest() -> None:
    graph = AgentGraph("g").dispatch("a").refine("b", after="a").edge("b", "a", when="has_conflict")
    graph.loop("b", back_to="a", while_="needs_another_rond", max_rounds=2)
    text = mistakes_of(graph)
    assert "did you mean 'needs_another_round'?" in text


def test_all_mistakes_come_at_once() -> None:
    graph = AgentGraph("g").dispatch("a", pool=[]).refine("a").loop("a", back_to="a", max_rounds=0)
    with pytest.raises(GraphError) as caught:
        graph.spec()
    assert len(caught.value.mistakes) == 3


def test_a_graph_without_a_stage_says_what_to_add() -> None:
    assert "it has no stage; add one with `dispatch`, `stage` or `refine`" in mistakes_of(AgentGraph("g"))


def test_a_mistake_inside_a_subgraph_names_the_outer_stage() -> None:
    inner = AgentGraph("inner").dispatch("a").refine("lost")
    graph = AgentGraph("outer").subgraph("part", inner)
    assert "inside stage 'part': stage 'lost' is unreachable" in mistakes_of(graph)


def test_a_path_with_an_empty_layer_is_refused() -> None:
    assert "has an empty layer" in mistakes_of(AgentGraph("g").path("p", layers=[["a"], []]))


def test_the_drawing_names_stages_agents_and_bounds() -> None:
    text = support().mermaid()
    assert text.startswith("flowchart LR")
    assert 'n_triage{{"triage: billing, network"}}' in text
    assert 'n_check("check: verifier")' in text
    assert "n_answer -.->|needs_another_round, at most 3 rounds| n_triage" in text
    assert "n_answer --> n_end" in text


def test_the_dot_drawing_holds_every_edge() -> None:
    dot = support().draft().dot()
    assert '"triage" -> "check";' in dot
    assert '[style=dashed, label="needs_another_round"]' in dot


def test_a_spec_survives_json() -> None:
    spec = support().spec()
    assert GraphSpec.model_validate_json(spec.model_dump_json()) == spec


def test_networkx_sees_the_same_structure() -> None:
    graph = support().spec().digraph()
    assert set(graph.edges) == {
        (START, "triage"),
        ("triage", "check"),
        ("check", "answer"),
        ("answer", "triage"),
    }


def test_the_default_graph_routes_then_refines() -> None:
    spec = default_graph(["a"]).check(["a"])
    assert [s.kind for s in spec.stages] == [StageKind.DISPATCH, StageKind.REFINE]


def test_a_stage_name_that_langgraph_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="name"):
        StageSpec(name="a|b", kind=StageKind.REFINE)


def test_specs_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        EdgeSpec(source="a", target="b").source = "c"  # pyright: ignore[reportAttributeAccessIssue]
    assert LoopSpec(source="a", target="b", while_="x", max_rounds=1).max_rounds == 1


def test_what_may_run_after_a_stage_goes_round_loops() -> None:
    spec = support().spec()
    assert spec.after("answer") == {"triage", "check", "answer"}
    assert default_graph().after("route") == {"refine"}
    assert default_graph().after("refine") == set()


def test_a_graph_inside_another_is_checked_with_the_same_conditions() -> None:
    inner = GraphSpec(
        name="inner",
        stages=(StageSpec(name="a", kind=StageKind.REFINE),),
        loops=(LoopSpec(source="a", target="a", while_="has_conflict", max_rounds=2),),
    )
    outer = GraphSpec(name="outer", stages=(StageSpec(name="x", kind=StageKind.SUBGRAPH, graph=inner),))
    with pytest.raises(GraphError, match=r"inside stage 'x': .*did you mean 'has_conflicts'"):
        outer.check(conditions=["has_conflicts"])


@pytest.mark.parametrize(
    ("edge", "words"),
    [
        (EdgeSpec(source=START, target="a", when="has_conflicts"), "before the first stage there is nothing to ask"),
        (EdgeSpec(source=END, target="a"), "nothing can follow '__end__'"),
        (EdgeSpec(source="a", target=START), "nothing can lead to '__start__'"),
    ],
)
def test_an_edge_that_cannot_be_followed_is_a_mistake(edge: EdgeSpec, words: str) -> None:
    graph = GraphSpec(name="g", stages=(StageSpec(name="a", kind=StageKind.REFINE),), edges=(edge,))
    with pytest.raises(GraphError, match=words):
        graph.check()
