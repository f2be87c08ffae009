"""Drawings of graphs: nothing overlaps, everything is there, any name is safe, the picture is a picture."""

import builtins
import math
import subprocess
import sys
from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh.drawing import draw_png, draw_svg, lay_out
from agentmesh.drawing.ranks import columns_of, crossings, forward_edges, order_columns, spaced
from agentmesh.drawing.shapes import Box, Drawing, Shape, text_width
from agentmesh.drawing.svg import DARK, INK, LIGHT
from agentmesh.errors import ConfigError, InputError
from agentmesh.graphs import EdgeSpec, GraphSpec, LoopSpec, PathSpec, StageKind, StageSpec, default_graph
from agentmesh.runtime.graph import AgentGraph

SVG = "{http://www.w3.org/2000/svg}"


def research() -> GraphSpec:
    """Every kind of stage, a long edge with a condition, loops of each sort."""
    inner = AgentGraph("inner").dispatch("look", pool=["x", "y"]).refine("sum", after="look")
    inner.loop("sum", back_to="look", max_rounds=2)
    graph = AgentGraph("research")
    graph.stage("plan", agent="planner")
    graph.dispatch("search", pool=[f"desk-{n}" for n in range(12)], after="plan")
    layers = [["draft_a", "draft_b"], ["check_a", "check_b"]]
    graph.path("solve", layers=layers, forbid=[("draft_a", "check_b")], after="search")
    graph.subgraph("verify", inner, after="search")
    graph.refine("answer", after=["solve", "verify"])
    graph.edge("plan", "answer", when="has_conflicts")
    graph.loop("answer", back_to="search", while_="needs_another_round", max_rounds=4)
    graph.loop("answer", back_to="plan", while_="has_conflicts", max_rounds=2)
    graph.loop("solve", back_to="solve", while_="needs_another_round", max_rounds=2)
    return graph.draft()


def fan(count: int) -> GraphSpec:
    """One stage, many side by side, one that waits for all."""
    graph = AgentGraph("fan").dispatch("a")
    for n in range(count):
        graph.stage(f"s{n}", agent=f"worker-{n}", after="a")
    return graph.refine("z", after=[f"s{n}" for n in range(count)]).draft()


GRAPHS = {"default": default_graph(), "research": research(), "fan": fan(7)}


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def overlap(a: Box, b: Box) -> bool:
    return a.x < b.x + b.width and b.x < a.x + a.width and a.y < b.y + b.height and b.y < a.y + a.height


def inside(inner: Box, outer: Box) -> bool:
    right, lower = inner.x + inner.width, inner.y + inner.height
    return (
        outer.x <= inner.x and right <= outer.x + outer.width and outer.y <= inner.y and lower <= outer.y + outer.height
    )


def outlines(drawing: Drawing) -> list[Box]:
    return [box for box in drawing.boxes if box.width]


@pytest.mark.parametrize("name", GRAPHS)
def test_no_two_boxes_overlap_unless_one_lies_in_the_other(name: str) -> None:
    boxes = outlines(lay_out(GRAPHS[name]))
    assert [(a, b) for a, b in combinations(boxes, 2) if overlap(a, b) and not (inside(a, b) or inside(b, a))] == []


@pytest.mark.parametrize("name", GRAPHS)
def test_everything_lies_on_the_paper(name: str) -> None:
    drawing = lay_out(GRAPHS[name])
    paper = Box(Shape.DOT, 0, 0, drawing.width, drawing.height)
    assert [box for box in drawing.boxes if not inside(box, paper)] == []
    points = [p for a in drawing.arrows for p in (a.start, *(p for piece in a.pieces for p in piece))]
    assert [p for p in points if not (0 <= p[0] <= drawing.width and 0 <= p[1] <= drawing.height)] == []


@pytest.mark.parametrize("name", GRAPHS)
def test_words_fit_into_their_box(name: str) -> None:
    for box in outlines(lay_out(GRAPHS[name])):
        assert all(text_width(words.text, words.size) <= box.width for words in box.words)
        assert all(box.y < words.y < box.y + box.height for words in box.words)


def test_a_drawing_names_stages_agents_conditions_and_bounds() -> None:
    said = texts(draw_svg(research()))
    for words in ("research", "task", "plan", "agent planner", "search", "desk-0", "and 5 more", "draft_a", "look",
                  "has_conflicts", "needs_another_round, at most 4 rounds"):  # fmt: skip
        assert words in said
    assert "desk-11" not in said


def test_every_edge_is_drawn_and_loops_are_dashed() -> None:
    drawing = lay_out(research())
    styles = [arrow.style for arrow in drawing.arrows]
    # from the task, to the answer, six between stages; three inside
    assert styles.count("flow") == 8 + 3
    assert styles.count("loop") == 3 + 1
    assert styles.count("thin") == 3  # four hand-overs less the forbidden one


def test_edges_point_to_the_right_and_end_at_their_target() -> None:
    drawing = lay_out(default_graph())
    boxes = {box.words[0].text: box for box in outlines(drawing) if box.words}
    arrow = next(a for a in drawing.arrows if math.isclose(a.start[0], boxes["route"].x + boxes["route"].width))
    assert math.isclose(arrow.pieces[-1][-1][0], boxes["refine"].x)


def test_the_same_graph_is_the_same_drawing() -> None:
    assert draw_svg(research()) == draw_svg(research())


@pytest.mark.parametrize(
    "name", ['<script>alert("1")</script>', "a & b's", "\x07\ud800\x1b[2J", "日本語 🚀", "]]>", ""]
)
def test_any_name_is_safe_in_a_drawing(name: str) -> None:
    stages = (StageSpec(name="a", kind=StageKind.AGENT, agent=name), StageSpec(name="b", kind=StageKind.REFINE))
    graph = GraphSpec(name=name, stages=stages, edges=(EdgeSpec(source="a", target="b", when=name or None),))
    root = ElementTree.fromstring(draw_svg(graph))
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg", "title", "style", "defs", "marker", "path", "rect", "polygon", "circle", "text",
    }  # fmt: skip
    assert draw_png(graph).startswith(b"\x89PNG")


def test_a_graph_that_cannot_run_is_still_drawn() -> None:
    stages = tuple(StageSpec(name=n, kind=StageKind.REFINE) for n in ("a", "b", "lost"))
    edges = tuple(EdgeSpec(source=s, target=t) for s, t in (("a", "b"), ("b", "a"), ("b", "gone")))
    graph = GraphSpec(
        name="g", stages=stages, edges=edges, loops=(LoopSpec(source="no", target="a", while_="x", max_rounds=0),)
    )
    assert {"a", "b", "lost", "gone?"} <= set(texts(draw_svg(graph)))
    assert texts(draw_svg(GraphSpec(name="empty", stages=()))) == ["empty", "task", "answer"]


def test_an_empty_path_is_still_drawn() -> None:
    stage = StageSpec(name="p", kind=StageKind.PATH, path=PathSpec(layers=((), ("a",))))
    assert "a" in texts(draw_svg(GraphSpec(name="g", stages=(stage,))))


def test_a_picture_has_twice_the_pixels_of_the_drawing() -> None:
    picture, drawing = draw_png(research()), lay_out(research())
    width, height = (int.from_bytes(picture[n : n + 4]) for n in (16, 20))
    assert abs(width - 2 * drawing.width) <= 2
    assert abs(height - 2 * drawing.height) <= 2


def test_a_graph_too_large_for_a_picture_is_refused_in_one_sentence() -> None:
    graph = AgentGraph("long").refine("s0")
    for n in range(1, 120):
        graph.refine(f"s{n}", after=f"s{n - 1}")
    with pytest.raises(InputError, match="choose --format svg"):
        draw_png(graph.draft())


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: object) -> object:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ConfigError, match=r"pip install 'agentmesh\[plots\]'"):
        draw_png(default_graph())


def test_drawing_svg_needs_no_matplotlib() -> None:
    code = (
        "import sys; from agentmesh.drawing import draw_svg; from agentmesh.graphs import default_graph; "
        "draw_svg(default_graph()); print('matplotlib' in sys.modules)"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(("fills", "side"), [(LIGHT, 0), (DARK, 1)], ids=["light", "dark"])
def test_words_are_readable_on_every_fill(fills: dict[str, tuple[str, str]], side: int) -> None:
    """WCAG 2.1, success criterion 1.4.3: at least 4.5 to 1."""
    for kind, (fill, _) in fills.items():
        inks = [fills["back"][0]] if kind == "terminal" else [INK["text"][side], INK["muted"][side]]
        assert all(contrast(fill, ink) >= 4.5 for ink in inks), kind


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


# --- places -----------------------------------------------------------------------------------------------------------


def test_places_are_moved_no_more_than_they_must_be() -> None:
    assert spaced([0, 10, 20], [5, 5]) == [0, 10, 20]
    assert spaced([4, 4], [2]) == [3, 5]
    assert spaced([0, 0, 0], [3, 3]) == [-3, 0, 3]
    assert spaced([0, 0], [4], [3, 1]) == [-1, 3]  # the heavier one moves a quarter of the way


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12), st.floats(0, 50))
@settings(max_examples=60, deadline=None)
def test_places_keep_their_distance(wanted: list[float], gap: float) -> None:
    places = spaced(wanted, [gap] * (len(wanted) - 1))
    assert all(b - a >= gap - 1e-6 for a, b in pairwise(places))


def test_an_order_without_crossings_is_found() -> None:
    columns, edges = [["a", "b"], ["x", "y"]], [("a", "y"), ("b", "x")]
    assert crossings(columns, edges) == 1
    assert crossings(order_columns(columns, edges), edges) == 0


def test_a_node_stands_behind_all_that_lead_to_it() -> None:
    edges = [("a", "b"), ("b", "d"), ("a", "c"), ("c", "d"), ("a", "d")]
    assert columns_of(["a", "c", "b", "d"], edges) == [["a"], ["c", "b"], ["d"]]


def test_edges_that_would_close_a_ring_point_back() -> None:
    assert forward_edges([("a", "b"), ("b", "c"), ("c", "a"), ("b", "b")]) == (
        [("a", "b"), ("b", "c")],
        [("c", "a"), ("b", "b")],
    )


# --- text forms -------------------------------------------------------------------------------------------------------


def test_stages_whose_names_differ_in_a_sign_have_different_mermaid_ids() -> None:
    names = ("a-b", "a_b", "start", "end", "_a_b")
    stages = tuple(StageSpec(name=name, kind=StageKind.REFINE) for name in names)
    lines = GraphSpec(name="g", stages=stages).mermaid().splitlines()
    ids = [line.split("[")[0].split("(")[0].strip() for line in lines[1:] if "-->" not in line]
    assert len(ids) == len(set(ids)) == len(names) + 2


def test_names_do_not_break_out_of_mermaid_or_dot() -> None:
    stages = (
        StageSpec(name="a", kind=StageKind.AGENT, agent='x"] --> evil["'),
        StageSpec(name="b", kind=StageKind.REFINE),
    )
    graph = GraphSpec(name='g"\\', stages=stages, edges=(EdgeSpec(source="a", target="b", when='m|"n'),))
    assert "evil[" not in graph.mermaid()
    assert "|m#124;#34;n|" in graph.mermaid()
    assert graph.dot().startswith('digraph "g\\"\\\\" {')
    assert '[label="m|\\"n"]' in graph.dot()


def test_an_edge_to_the_end_is_drawn_once() -> None:
    graph = AgentGraph("g").dispatch("a").refine("b", after="a").draft()
    assert graph.mermaid().count("n_end") == 2
    assert graph.dot().count('-> "__end__"') == 1
