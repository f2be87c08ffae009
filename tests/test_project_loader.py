"""What a project's files become."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from agentmesh.graphs import END, START, StageKind
from agentmesh.project import Scenario, find_project, json_schemas, load_project
from agentmesh.project.frontmatter import read_yaml, split_front_matter
from agentmesh.project.loader import KnownNames, check_project
from agentmesh.project.schema import CARD_KEYS, GraphFile, ScenarioFile
from agentmesh.run import Limits
from agentmesh.types import MemoryKind, RolePolicy

CARD = "---\ndescription: Knows it.\n---\nYou know it.\n"


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def test_one_card_is_enough_for_a_project(tmp_path: Path) -> None:
    project = load_project(write(tmp_path, {"agents/vpn.md": CARD}))
    card = project.cards[0]
    assert (card.id, card.title, card.role, card.instructions) == ("vpn", "vpn", "solver", "You know it.")
    assert project.roles == {"solver": RolePolicy()}
    assert project.settings.models["default"].model == "embedded"
    assert project.scenarios == {}
    assert project.knowledge == ()


def test_cards_come_sorted_and_only_from_visible_markdown_files(tmp_path: Path) -> None:
    names = ["zeta.md", "alpha.md", ".draft.md", "README.md", "notes.txt", "old/beta.md"]
    project = load_project(write(tmp_path, {f"agents/{name}": CARD for name in names}))
    assert [card.id for card in project.cards] == ["alpha", "zeta"]


def test_a_file_from_a_windows_editor_reads_like_any_other(tmp_path: Path) -> None:
    data = b"\xef\xbb\xbf" + CARD.replace("\n", "\r\n").encode()
    card = load_project(write(tmp_path, {"agents/vpn.md": data})).cards[0]
    assert (card.description, card.instructions) == ("Knows it.", "You know it.")


def test_a_role_of_the_file_goes_over_the_built_in_one(tmp_path: Path) -> None:
    roles = "solver: {budget_tokens: {base: 99}}\nreader: {kinds: {fact: 1.0}}\n"
    project = load_project(write(tmp_path, {"agents/vpn.md": CARD, "memory/roles.yaml": roles}))
    assert project.roles["solver"].budget_for("verify") == 99
    assert project.roles["reader"].kinds == {MemoryKind.FACT: 1.0}


def test_a_schema_file_is_read_into_the_card(tmp_path: Path) -> None:
    files = {
        "agents/vpn.md": "---\ndescription: It.\noutput_schema: schemas/reply.json\n---\n",
        "schemas/reply.json": '{"type": "object", "properties": {"days": {"type": "integer"}}}',
    }
    card = load_project(write(tmp_path, files)).cards[0]
    assert card.output_schema == {"type": "object", "properties": {"days": {"type": "integer"}}}


def test_a_tool_server_of_the_project_may_be_named(tmp_path: Path) -> None:
    files = {
        "agents/vpn.md": "---\ndescription: It.\ntools: [wireless.los, wireless]\n---\n",
        "tools/mcp.json": '{"mcpServers": {"wireless": {"command": "python"}}}',
    }
    assert load_project(write(tmp_path, files)).cards[0].tools == ("wireless.los", "wireless")


def test_settings_come_from_the_environment_and_arguments_too(tmp_path: Path) -> None:
    folder = write(tmp_path, {"agents/vpn.md": CARD, "more/facts.md": "A fact."})
    project = load_project(
        folder,
        environ={"AGENTMESH_MEMORY__KNOWLEDGE": '["more"]'},
        overrides={"routing": {"max_agents": 2}},
    )
    assert project.settings.routing.max_agents == 2
    assert project.knowledge == (folder / "more",)


def test_a_folder_of_knowledge_that_was_named_must_be_there(tmp_path: Path) -> None:
    write(tmp_path, {"agents/vpn.md": CARD, "agentmesh.toml": '[memory]\nknowledge = ["more"]\n'})
    assert [str(m) for m in check_project(tmp_path)] == [
        "agentmesh.toml: memory.knowledge[0]: there is no folder 'more'; make it, or take the name out"
    ]


def test_an_unknown_name_in_settings_is_reported_beside_other_mistakes(tmp_path: Path) -> None:
    settings = '[routing]\nrouter = "semantc"\nmax_agents = 0\n'
    write(tmp_path, {"agents/vpn.md": CARD, "agentmesh.toml": settings})
    assert [str(m) for m in check_project(tmp_path, known=KnownNames(routers=frozenset({"semantic"})))] == [
        "agentmesh.toml: routing.max_agents: must be between 1 and 64, not 0",
        "agentmesh.toml: routing.router: no router is called 'semantc'; did you mean 'semantic'?",
    ]


def test_a_project_without_agents_has_one_mistake_however_often_they_are_named(tmp_path: Path) -> None:
    write(tmp_path, {"agents/notes.txt": "", "scenarios/desk.yaml": "agents: [vpn]\ntasks: [{ask: Why?}]\n"})
    [mistake] = check_project(tmp_path)
    assert str(mistake).startswith("agents/: no agent is here")


def test_an_unknown_name_in_a_scenario_is_reported_beside_other_mistakes(tmp_path: Path) -> None:
    tasks = "tasks:\n  - ask: ''\n    expect: {agents: [vpm]}\n"
    write(tmp_path, {"agents/vpn.md": CARD, "scenarios/desk.yaml": f"agents: [vpn, vnp]\nrouter: semantc\n{tasks}"})
    found = check_project(tmp_path, known=KnownNames(routers=frozenset({"semantic"})))
    assert sorted(str(m) for m in found) == [
        "scenarios/desk.yaml:1: agents[1]: no agent is called 'vnp'; did you mean 'vpn'?",
        "scenarios/desk.yaml:2: router: no router is called 'semantc'; did you mean 'semantic'?",
        "scenarios/desk.yaml:4: tasks[0].ask: is empty; write some text",
        "scenarios/desk.yaml:5: tasks[0].expect.agents[0]: no agent is called 'vpm'; did you mean 'vpn'?",
    ]


def test_paths_of_a_project_are_absolute_wherever_it_is_named_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"desk/agents/vpn.md": CARD, "desk/memory/knowledge/a.md": "A fact."})
    monkeypatch.chdir(tmp_path)
    project = load_project(Path("desk"))
    assert project.folder.is_absolute()
    assert [os.fspath(p) for p in project.knowledge] == [os.fspath(tmp_path / "desk/memory/knowledge")]


def test_the_project_is_found_from_below_and_a_package_called_agents_is_none(tmp_path: Path) -> None:
    write(tmp_path, {"desk/agents/vpn.md": CARD, "desk/src/agents/code.py": ""})
    assert find_project(tmp_path / "desk/src") == tmp_path / "desk"
    write(tmp_path, {"desk/src/pyproject.toml": "[tool.agentmesh]\n"})
    assert find_project(tmp_path / "desk/src") == tmp_path / "desk/src"
    write(tmp_path, {"desk/src/agents/agentmesh.toml": ""})
    assert find_project(tmp_path / "desk/src/agents") == tmp_path / "desk/src/agents"


SCENARIO = """
agents: [vpn, billing]
router: keyword
limits: {max_rounds: 3}
graph:
  stages:
    - {name: triage, agents: [vpn, billing], max_agents: 2}
    - {name: check, agent: vpn, after: triage}
    - {name: answer, after: [triage, check]}
  loops:
    - {after: answer, back_to: triage, while: has_conflicts, max_rounds: 3}
  edges:
    - {from: check, to: end, when: has_conflicts}
tasks:
  - ask: Why?
  - id: named
    ask: How?
    expect: {agents: vpn, facts: [yes it does], conflicts: [[a, b]], outcome: answered}
"""


def scenario(tmp_path: Path, text: str) -> Scenario:
    files = {"agents/vpn.md": CARD, "agents/billing.md": CARD, "scenarios/desk.yml": text}
    return load_project(write(tmp_path, files)).scenarios["desk"]


def test_a_scenario_has_its_tasks_with_ids(tmp_path: Path) -> None:
    desk = scenario(tmp_path, SCENARIO)
    assert (desk.name, desk.file, desk.agents) == ("desk", "scenarios/desk.yml", ("vpn", "billing"))
    assert [task.id for task in desk.tasks] == ["task-1", "named"]
    assert desk.task("task-1").expect is None
    expected = desk.task("named").expect
    assert expected is not None
    assert (expected.agents, expected.facts, expected.conflicts) == (("vpn",), ("yes it does",), (("a", "b"),))
    with pytest.raises(KeyError):
        desk.task("other")


def test_the_short_form_of_a_graph_becomes_the_full_one(tmp_path: Path) -> None:
    graph = scenario(tmp_path, SCENARIO).to_graph_spec()
    assert [(s.name, s.kind) for s in graph.stages] == [
        ("triage", StageKind.DISPATCH),
        ("check", StageKind.AGENT),
        ("answer", StageKind.REFINE),
    ]
    triage = graph.stage("triage")
    assert (triage.pool, triage.router, triage.max_agents) == (("vpn", "billing"), "keyword", 2)
    assert [(e.source, e.target, e.when) for e in graph.edges] == [
        ("triage", "check", None),
        ("triage", "answer", None),
        ("check", "answer", None),
        ("check", END, "has_conflicts"),
    ]
    assert [(x.source, x.target, x.while_, x.max_rounds) for x in graph.loops] == [
        ("answer", "triage", "has_conflicts", 3)
    ]
    graph.check(agents=["vpn", "billing"], conditions=["has_conflicts"])


def test_paths_subgraphs_and_stages_that_begin_together_are_read() -> None:
    form = GraphFile.model_validate(
        {
            "stages": [
                {"name": "left", "after": "start", "layers": [["a", "b"], ["c"]], "forbid": [["a", "c"]]},
                {"name": "right", "after": "start", "graph": {"stages": [{"name": "inner", "kind": "dispatch"}]}},
                {"name": "join", "after": ["left", "right"]},
            ]
        }
    )
    graph = form.to_graph_spec("g", router="mine").check()
    assert [s.kind for s in graph.stages] == [StageKind.PATH, StageKind.SUBGRAPH, StageKind.REFINE]
    assert graph.entries() == ("left", "right")
    assert graph.edges[0].source == START
    inner = graph.stage("right").graph
    assert inner is not None
    assert (inner.stage("inner").pool, inner.stage("inner").router) == (("*",), "mine")


def test_a_scenario_without_a_graph_routes_answers_and_refines(tmp_path: Path) -> None:
    graph = scenario(tmp_path, "agents: [vpn]\nrouter: keyword\n").to_graph_spec(max_agents=5)
    assert (graph.name, [s.name for s in graph.stages]) == ("desk", ["route", "refine"])
    route = graph.stage("route")
    assert (route.pool, route.router, route.max_agents) == (("vpn",), "keyword", 5)


def test_limits_of_a_scenario_change_only_what_it_says(tmp_path: Path) -> None:
    limits = scenario(tmp_path, SCENARIO).limits_over(Limits(max_rounds=9, max_usd=1.0, max_calls=None))
    assert (limits.max_rounds, limits.max_usd, limits.max_calls) == (3, 1.0, None)


def test_front_matter_knows_the_lines_of_its_keys() -> None:
    text = "---\n# a comment\ndescription: It.\nexamples:\n  - one\n  - two\nlimits: {retries: 1}\n---\n\nBody.\n"
    document = split_front_matter(text.encode(), "x.md")
    assert document.values == {"description": "It.", "examples": ["one", "two"], "limits": {"retries": 1}}
    assert document.body == "Body."
    assert document.line(("description",)) == 3
    assert document.line(("examples", 1)) == 6
    assert document.line(("limits", "retries")) == 7
    assert document.line(("limits", "absent")) == 7
    assert document.line(()) == 1


def test_a_line_of_dashes_in_the_body_stays_in_the_body() -> None:
    document = split_front_matter(b"---\na: b\n---\none\n---\ntwo\n", "x.md")
    assert document.body == "one\n---\ntwo"


def test_an_anchor_may_be_used_within_reason() -> None:
    document = read_yaml(b"a: &base {x: 1}\nb: {<<: *base, y: 2}\n", "x.yaml")
    assert document.values == {"a": {"x": 1}, "b": {"x": 1, "y": 2}}


def test_schemas_are_published_closed_and_with_every_key_described() -> None:
    schemas = json_schemas()
    assert sorted(schemas) == ["card", "roles", "scenario", "settings"]
    json.dumps(schemas)
    card = schemas["card"]
    assert set(card["properties"]) == CARD_KEYS
    assert card["required"] == ["description"]
    assert card["additionalProperties"] is False
    assert set(schemas["scenario"]["properties"]) == set(ScenarioFile.model_fields)
    stage = schemas["scenario"]["$defs"]["StageFile"]["properties"]
    assert {"type": "string"} in stage["after"]["anyOf"]
    assert stage["name"].get("pattern")
    assert "from" in schemas["scenario"]["$defs"]["EdgeFile"]["properties"]
    models = schemas["settings"]["properties"]["models"]["additionalProperties"]
    assert {"type": "string"} in models["anyOf"]
    assert all("version 1" in schema["title"] for schema in schemas.values())
