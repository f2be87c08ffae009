"""What `build_mesh` says of arguments that are none; and what reading a project does not import."""

from typing import Any

import pytest

from agentmesh import AgentCard, build_mesh
from agentmesh.errors import ConfigError
from agentmesh.models.scripted import ScriptedModel

from .test_architecture import loaded_by

BILLING = AgentCard(id="billing", description="Explains invoices.")
MODEL = ScriptedModel(capable=False)


def look_up(number: str) -> str:
    """Look an invoice up."""
    return number


class Shop:
    """Nothing that a mesh is made of."""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"agents": BILLING}, "agents takes a list, not AgentCard; write [agent]"),
        ({"agents": None}, "agents takes a list, not NoneType"),
        ({"tools": [look_up]}, "tools takes names and what they stand for, not list"),
        ({"tools": {"desk": look_up}}, "tools 'desk': give a toolset or a list of functions, not function"),
        ({"guardrails": look_up}, "guardrails takes a list, not function; write [guardrail]"),
        ({"graphs": {"x": "y"}}, "graph 'x': str is no graph"),
        ({"roles": ["solver"]}, "roles takes names and what they stand for, not list"),
        ({"roles": {"reader": 3}}, "role 'reader': must be a group of keys, not 3"),
        ({"knowledge": [1]}, "knowledge: int is no text"),
        ({"knowledge": None}, "knowledge takes a folder or a list of texts, not NoneType"),
        ({"limits": 3}, "limits: must be a group of keys, not 3"),
        ({"limits": {"max_usdd": 1}}, "limits.max_usdd: unknown key; did you mean 'max_usd'?"),
        ({"max_agents": 0}, "max_agents: must be between 1 and 64, not 0"),
        ({"router": 3}, "router: int is no Router; it lacks name, route"),
        ({"context": 3}, "context: int is no ContextRouter"),
        ({"refiner": None}, "refiner: NoneType is no Refiner"),
        ({"embedder": Shop}, "embedder: Shop is a class; give an object of it"),
        ({"store": Shop()}, "store: Shop is no MemoryStore; it lacks aclose, add,"),
        ({"sink": 3}, "sink: int is no TraceSink; it lacks emit"),
        ({"model": {"default": 3}}, "model 'default': int is no ChatModel"),
        ({"model": {"small": MODEL}}, "agent 'billing' names no model, and there is no 'default' in `model` (small)"),
    ],
)
def test_an_argument_of_another_kind_is_said_in_one_sentence(arguments: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"agents": [BILLING], "model": MODEL, **arguments}
    with pytest.raises(ConfigError) as raised:
        build_mesh(**given)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_limits_may_be_written_as_in_the_settings() -> None:
    assert build_mesh([BILLING], model=MODEL, limits={"max_usd": 2}).limits.max_usd == 2


def test_reading_and_checking_a_project_imports_no_langgraph() -> None:
    statement = "import agentmesh.assembly as a; a.check_folder('.', environ={}); a.open_ledger('.')"
    assert loaded_by(statement) & {"langgraph", "langchain_core", "langsmith", "litellm", "chromadb"} == set()
