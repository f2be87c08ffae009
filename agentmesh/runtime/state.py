"""What a run keeps between steps: the graph state, and which types of it a checkpoint may hold."""

import enum
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Required, TypedDict, TypeVar

from pydantic import BaseModel

from agentmesh import graphs, types
from agentmesh.types import AgentCall, AgentReply, Answer, Question, RoutingDecision, Task

__all__ = ["AgentInput", "RunState", "RunView", "checkpoint_types", "view_of"]

V = TypeVar("V")


def _merge(old: Mapping[str, V] | None, new: Mapping[str, V] | None) -> dict[str, V]:
    """Both; the newer wins. Parallel branches write different keys, so their order does not matter."""
    return {**(old or {}), **(new or {})}


def _merge_highest(old: Mapping[str, int] | None, new: Mapping[str, int] | None) -> dict[str, int]:
    merged = dict(old or {})
    for key, value in (new or {}).items():
        merged[key] = max(value, merged.get(key, 0))
    return merged


def _newest(old: Answer | None, new: Answer | None) -> Answer | None:
    """The last answer that was made; of parallel branches, that of the later one in LangGraph's order."""
    return old if new is None else new


class RunState(TypedDict, total=False):
    """LangGraph's state of one run. Every value survives a checkpoint under strict serialisation."""

    run_id: str
    task: Required[Task]
    decisions: Annotated[dict[str, RoutingDecision], _merge]
    """By step, `<stage>.r<round>`."""
    replies: Annotated[dict[str, AgentReply], _merge]
    """By call id, so that a result belongs to the call that made it whatever order branches end in."""
    visits: Annotated[dict[str, int], _merge_highest]
    """How often each stage ran; the number of its present round."""
    said: Annotated[dict[str, str | bool], _merge]
    """What people answered, by the id of the question; a yes or a no is a bool."""
    checked: bool
    """Whether the guardrails have seen the question."""
    held: Annotated[dict[str, Question], _merge]
    """What is asked of people, by question id."""
    withdrawn: list[str]
    """Ids of what agents wrote to memory that guardrails then kept out of the answer."""
    answer: Annotated[Answer | None, _newest]


class AgentInput(TypedDict):
    """What one branch of a fan-out gets. None: a dispatch that chose nobody passes on."""

    call: AgentCall | None


@dataclass(frozen=True)
class RunView:
    """What a condition may look at."""

    task: Task
    decision: RoutingDecision | None
    """The last one."""
    replies: tuple[AgentReply, ...]
    """All so far, oldest round first, in routing order."""
    answer: Answer | None
    """What the last refine stage made."""
    round: int
    """How often the stage that the condition stands behind ran."""


def view_of(state: RunState, stage: str = "") -> RunView:
    """The state as conditions and refiners see it."""
    decisions = list(state.get("decisions", {}).values())
    return RunView(
        task=state["task"],
        decision=decisions[-1] if decisions else None,
        replies=tuple(sorted(state.get("replies", {}).values(), key=lambda r: (r.round, r.order))),
        answer=state.get("answer"),
        round=state.get("visits", {}).get(stage, 0),
    )


def checkpoint_types() -> list[type[Any]]:
    """Every class of ours that may stand in graph state: LangGraph's strict serialiser rebuilds these and no others."""
    found: list[type[Any]] = []
    for module in (types, graphs):
        for _, member in inspect.getmembers(module, inspect.isclass):
            if member.__module__ == module.__name__ and issubclass(member, (BaseModel, enum.Enum)):
                found.append(member)
    return found
