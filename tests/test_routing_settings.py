"""Routers by name from the settings of a project: who reasons, who is on the list, who needs whom."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from agentmesh import AgentCard, build_mesh
from agentmesh.assembly import check_folder, load_mesh
from agentmesh.errors import ConfigError, ProjectError
from agentmesh.models.base import ChatRequest
from agentmesh.models.scripted import ScriptedEmbedder, ScriptedModel
from agentmesh.trace.events import ModelCalled, RouteDecided
from agentmesh.trace.sinks import ListSink
from agentmesh.types import AnswerStatus

SETTINGS = """
durable = false
[models]
default = "scripted"
small = {{ model = "scripted", capable = false }}
[memory]
embedder = "scripted"
[routing]
{routing}
"""


@pytest.fixture
def project(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a project with these settings of routing."""

    def write(routing: str) -> Path:
        (tmp_path / "agents").mkdir()
        for name, text in (("billing", "Explains invoices."), ("vpn", "Helps with the VPN client.")):
            (tmp_path / "agents" / f"{name}.md").write_text(f"---\ndescription: {text}\n---\nAnswer.\n")
        (tmp_path / "agentmesh.toml").write_text(SETTINGS.format(routing=routing))
        return tmp_path

    return write


ENVIRON: Mapping[str, str] = {}


async def asked(folder: Path, text: str = "Invoices and gardening") -> tuple[str, str, str]:
    """Which router decided in the end, under which name, and why."""
    sink: list[RouteDecided] = []
    async with load_mesh(folder, environ=ENVIRON) as mesh:
        async for event in mesh.stream(text):
            if isinstance(event, RouteDecided):
                sink.append(event)
    (decided,) = sink
    decision = decided.decision
    return str(decision.evidence.get("decided_by", decision.router)), decision.router, decision.reason


async def test_routers_are_made_of_others_by_name(project: Callable[[str], Path]) -> None:
    folder = project(
        """router = "cascade"
model = "small"
options = { steps = ["keyword", "reasoning"], min_confidence = 1.0 }
[routing.routers.reasoning]
shortlist = "keyword"
fallback = "fixed"
[routing.routers.fixed]
agents = ["vpn"]
"""
    )
    assert check_folder(folder, environ=ENVIRON) == []
    by, name, reason = await asked(folder)
    assert (by, name) == ("fixed", "cascade")
    assert "the model 'small' is declared not capable" in reason
    assert reason.startswith("reasoning: vpn: fixed by the settings")


async def test_a_router_that_needs_itself_is_said(project: Callable[[str], Path]) -> None:
    folder = project('router = "reasoning"\noptions = { fallback = "cascade" }\n')
    with pytest.raises(ConfigError, match=r"'reasoning' needs itself \(reasoning -> cascade -> reasoning\)"):
        await asked(folder)


@pytest.mark.parametrize(
    ("routing", "words"),
    [
        ('router = "resoning"', "routing.router: no router is called 'resoning'; did you mean 'reasoning'?"),
        ('model = "smal"', "routing.model: no model is called 'smal'; did you mean 'small'?"),
        ('options = { shortlist = "semntic" }', "routing.options.shortlist: no router is called 'semntic'"),
        (
            'router = "cascade"\noptions = { steps = ["semantic", "x"] }',
            "routing.options.steps[1]: no router is called 'x'",
        ),
        ("[routing.routers.cascad]", "routing.routers.cascad: no router is called 'cascad'"),
        (
            '[routing.routers.reasoning]\nfallback = "keywrd"',
            "routing.routers.reasoning.fallback: no router is called 'keywrd'; did you mean 'keyword'?",
        ),
        ("optoins = {}", "routing.optoins: unknown key"),
    ],
)
def test_a_wrong_name_is_found_before_anything_runs(project: Callable[[str], Path], routing: str, words: str) -> None:
    folder = project(routing)
    (mistake,) = check_folder(folder, environ=ENVIRON)
    assert words in str(mistake)
    with pytest.raises(ProjectError):
        load_mesh(folder, environ=ENVIRON)


@pytest.mark.parametrize(
    ("routing", "key", "words"),
    [
        ('router = "reasoning"\noptions = { shortlst = "keyword" }', "routing.options", "shortlst"),
        ('[routing.routers.semantic]\nthreshold = "x"', "routing.routers.semantic", "'semantic' does not take"),
        (
            'router = "cascade"\n[routing.routers.reasoning]\nfallback = "cascade"',
            "routing.routers.reasoning",
            "needs itself (reasoning -> cascade -> reasoning)",
        ),
        (
            'router = "cascade"\noptions = { steps = ["cascade", "semantic"] }',
            "routing.options",
            "needs itself (cascade -> cascade)",
        ),
    ],
)
def test_options_of_which_no_router_can_be_made_are_found_before_anything_runs(
    project: Callable[[str], Path], routing: str, key: str, words: str
) -> None:
    (mistake,) = check_folder(project(routing), environ=ENVIRON)
    assert mistake.key == key
    assert words in mistake.text


async def test_options_of_somebody_elses_router_may_mean_something_else(project: Callable[[str], Path]) -> None:
    folder = project('router = "tests.test_routing_settings:Own"\noptions = { steps = ["walk"] }\n')
    assert check_folder(folder, environ=ENVIRON) == []


def picks(request: ChatRequest) -> str:
    """Routes to `vpn` and answers as an agent, whichever it is asked."""
    if request.json_schema is None:
        return "Restart it."
    pick = {"id": "vpn", "part": "the tunnel drops", "probability": 0.9}
    return json.dumps({"reason": "tunnel", "outcome": "agents", "agents": [pick], "none": 0.0, "question": ""})


async def test_a_run_of_the_mesh_counts_and_traces_what_its_router_asks() -> None:
    cards = [
        AgentCard(id="billing", description="Explains invoices."),
        AgentCard(id="vpn", description="Helps with the VPN client."),
    ]
    model, sink = ScriptedModel(picks), ListSink()
    mesh = build_mesh(cards, model=model, router="reasoning", embedder=ScriptedEmbedder(), sink=sink)
    async with mesh:
        answer = await mesh.ask("The tunnel drops.")
    assert answer.status is AnswerStatus.ANSWERED
    assert answer.decision is not None
    assert (answer.decision.agents, answer.decision.evidence["decided_by"]) == (("vpn",), "scripted")
    assert answer.usage.calls == 2
    assert [(e.step, e.agent) for e in sink.events if isinstance(e, ModelCalled)] == [
        ("route.r1", ""),
        ("route.r1", "vpn"),
    ]
