"""Conditions over a run so far, by name: what edges and loops may ask."""

from collections.abc import Callable, Mapping

from agentmesh.runtime.state import RunView
from agentmesh.types import AnswerStatus, ReplyStatus

__all__ = ["CONDITIONS", "Condition"]

Condition = Callable[[RunView], bool]
"""Looks at the run so far and says whether an edge is followed."""


def needs_another_round(view: RunView) -> bool:
    """The answer is missing, partial or empty, or some agent found nothing."""
    last = [r for r in view.replies if r.round == max((x.round for x in view.replies), default=0)]
    empty = view.answer is None or view.answer.status in (AnswerStatus.NO_ANSWER, AnswerStatus.PARTIAL)
    return empty or any(r.status is ReplyStatus.NO_EVIDENCE for r in last)


def has_conflicts(view: RunView) -> bool:
    """The last answer names a conflict."""
    return view.answer is not None and bool(view.answer.conflicts)


def some_agent_failed(view: RunView) -> bool:
    """Some agent has nothing to say because it failed."""
    return any(not r.ok and r.status is not ReplyStatus.NO_EVIDENCE for r in view.replies)


CONDITIONS: Mapping[str, Condition] = {
    "needs_another_round": needs_another_round,
    "has_conflicts": has_conflicts,
    "some_agent_failed": some_agent_failed,
}
"""Conditions that a scenario file may name."""
