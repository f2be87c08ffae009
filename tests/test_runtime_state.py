"""Every type in graph state comes back from a checkpoint as it was, and nothing else comes back at all."""

import os
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from pydantic import BaseModel

from agentmesh.graphs import GraphSpec, default_graph
from agentmesh.runtime.checkpoints import serializer
from agentmesh.runtime.state import AgentInput, RunState, checkpoint_types
from agentmesh.types import (
    AgentCall,
    AgentCard,
    AgentReply,
    Answer,
    AnswerStatus,
    Candidate,
    Chosen,
    CitedSentence,
    Conflict,
    Contributor,
    Message,
    Mode,
    Question,
    QuestionKind,
    ReplyStatus,
    RoutingDecision,
    Side,
    StopReason,
    Task,
    Usage,
)

TASK = Task(text="why?", history=(Message(role="user", text="hi"),), tenant="a/b", user="u", thread="t")
DECISION = RoutingDecision(
    mode=Mode.PARALLEL,
    chosen=(Chosen(agent="a", score=1.5, probability=0.9, part="why"),),
    reason="because",
    candidates=(Candidate(agent="a", score=1.5, chosen=True, reason="best", signals={"lexical": 0.5}),),
    evidence={"threshold": 0.5, "parts": ["why"]},
    confidence=0.9,
    router="semantic",
    usage=Usage(calls=1),
)
REPLY = AgentReply(
    call_id="r/s/a/1",
    agent="a",
    status=ReplyStatus.ANSWERED,
    text="so",
    sentences=(CitedSentence(text="so", items=("i1",), origin="extractive"),),
    cited=("i1",),
    structured={"n": [1, 2]},
    usage=Usage(prompt_tokens=3),
)
ANSWER = Answer(
    run_id="r",
    status=AnswerStatus.PARTIAL,
    text="so",
    conflicts=(Conflict(kind="number", about="days", sides=(Side(agent="a", text="14 days", value="14 days"),)),),
    contributors=(Contributor(agent="a", status=ReplyStatus.ANSWERED, sentences=1),),
    stop=StopReason(limit="max_usd", allowed=1, spent=2, text="spent"),
    decision=DECISION,
    replies=(REPLY,),
)
CALL = AgentCall(run_id="r", step="s", agent="a", task=TASK)
STATE: dict[str, Any] = {
    "run_id": "r",
    "task": TASK,
    "decisions": {"route.r1": DECISION},
    "replies": {"r/s/a/1": REPLY},
    "visits": {"route": 1},
    "said": {"route.r1/clarify": "the VPN", "route.r1/a/1/call": True},
    "checked": True,
    "held": {
        "route.r1/clarify": Question(id="route.r1/clarify", kind=QuestionKind.CLARIFY, text="Which?", options=("a",))
    },
    "withdrawn": ["i1"],
    "answer": ANSWER,
    "call": CALL,
}


def test_the_samples_cover_every_key_of_the_state() -> None:
    assert set(STATE) == {*get_type_hints(RunState), *get_type_hints(AgentInput)}


@pytest.mark.parametrize("key", sorted(STATE))
def test_a_value_of_the_state_survives_a_checkpoint(key: str) -> None:
    serde = serializer()
    back = serde.loads_typed(serde.dumps_typed(STATE[key]))
    assert back == STATE[key]
    assert type(back) is type(STATE[key])


def test_tuples_inside_our_values_stay_tuples() -> None:
    serde = serializer()
    back = serde.loads_typed(serde.dumps_typed({"reply": REPLY}))["reply"]
    assert isinstance(back.sentences, tuple)
    assert isinstance(back.sentences[0], CitedSentence)
    assert back.status is ReplyStatus.ANSWERED


def test_every_value_type_of_ours_is_on_the_list() -> None:
    listed = set(checkpoint_types())
    for kind in (Task, Message, RoutingDecision, AgentReply, Answer, AgentCall, AgentCard, GraphSpec, Mode, Usage):
        assert kind in listed
    assert all(issubclass(kind, BaseModel | Enum) for kind in listed)


def test_a_graph_spec_survives_too() -> None:
    serde = serializer()
    assert serde.loads_typed(serde.dumps_typed(default_graph())) == default_graph()


class Stranger(BaseModel):
    x: int = 1


def test_a_type_that_is_not_ours_does_not_come_back_as_an_object() -> None:
    serde = serializer()
    back = serde.loads_typed(serde.dumps_typed(Stranger()))
    assert not isinstance(back, Stranger)


def test_strict_serialisation_is_on_wherever_our_runtime_is_imported() -> None:
    code = (
        "import agentmesh.runtime.wiring, langgraph.checkpoint.serde._msgpack as m;"
        "raise SystemExit(0 if m.STRICT_MSGPACK_ENABLED else 1)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "LANGGRAPH_STRICT_MSGPACK"}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, check=False).returncode == 0
