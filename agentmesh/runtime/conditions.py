"""Conditions over a run so far, by name: what edges and loops may ask."""

import re
from collections.abc import Callable, Mapping
from typing import cast

from agentmesh.runtime.state import RunView
from agentmesh.types import AgentReply, AnswerStatus, ReplyStatus

__all__ = ["CONDITIONS", "Condition"]

Condition = Callable[[RunView], bool]
"""Looks at the run so far and says whether an edge is followed."""

_VERDICT = re.compile(r"^\W*VERDICT\W+(SETTLED|OPEN)\b", re.IGNORECASE | re.MULTILINE)


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


def unsettled(view: RunView) -> bool:
    """Another look may find more.

    The last verdict of the newest round decides: `settled` in a structured reply, or a line `VERDICT: SETTLED` or
    `VERDICT: OPEN`. A model that is declared not capable gives none that counts. Without a verdict: the newest round
    cited an item that no earlier round had cited.
    """
    newest = max((r.round for r in view.replies), default=0)
    for reply in reversed(view.replies):
        settled = _verdict(reply) if reply.round == newest else None
        if settled is not None:
            return not settled
    before = {item for r in view.replies if r.round < newest for item in r.cited}
    return any(item not in before for r in view.replies if r.round == newest for item in r.cited)


def _verdict(reply: AgentReply) -> bool | None:
    """Whether a reply says that the matter is settled; None: it says nothing on that."""
    if reply.extractive:
        return None
    if isinstance(reply.structured, dict):
        settled = cast("dict[str, object]", reply.structured).get("settled")
        return settled if isinstance(settled, bool) else None
    said = _VERDICT.findall(reply.text)
    return said[-1].upper() == "SETTLED" if said else None


CONDITIONS: Mapping[str, Condition] = {
    "needs_another_round": needs_another_round,
    "has_conflicts": has_conflicts,
    "some_agent_failed": some_agent_failed,
    "unsettled": unsettled,
}
"""Conditions that a scenario file may name."""
