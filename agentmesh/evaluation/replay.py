"""Decisions of recorded runs, made again by another router: what would have been different. No agent is called.

Only what the other router asks itself (an embedder; a model, if it is one that reasons) is asked. The candidates are
those of the recorded decision that the project still has.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentmesh.evaluation.routes import Routed, ask_router, prepare
from agentmesh.routing import Router
from agentmesh.runtime.stages import known_in
from agentmesh.trace.events import AgentReplied, Event, PersonAnswered, PersonAsked, RouteDecided, RunStarted
from agentmesh.types import (
    AgentCard,
    AgentReply,
    Clarification,
    Question,
    QuestionKind,
    RouteRequest,
    RoutingDecision,
    Task,
)

__all__ = ["Recorded", "recorded_decisions", "replay", "summed_up"]

_ROUND = re.compile(r"\.r(\d+)\b")


@dataclass(frozen=True)
class Recorded:
    """One decision of a run, and what it was about."""

    run_id: str
    step: str
    decision: RoutingDecision
    request: RouteRequest
    gone: tuple[str, ...]
    """Candidates that the project has no more."""


def recorded_decisions(
    events: Sequence[Event], cards: Mapping[str, AgentCard], *, max_agents: int = 3
) -> list[Recorded]:
    """The decisions of one run in order, each with what was known when it was made.

    Args:
        events: Of the run, in order.
        cards: The agents of the project by id.
        max_agents: Most agents of a decision; more, where more were chosen.
    """
    found: list[Recorded] = []
    task: Task | None = None
    agents: tuple[str, ...] = ()
    replies: dict[str, AgentReply] = {}
    asked: dict[str, Question] = {}
    for event in events:
        match event:
            case RunStarted():
                task, agents = event.task, event.agents
            case AgentReplied():
                replies[event.reply.call_id] = event.reply
            case PersonAsked(question=question) if question.kind is QuestionKind.CLARIFY:
                asked[question.id] = question
            case PersonAnswered() if task is not None and event.question_id in asked:
                question = asked.pop(event.question_id)
                said = Clarification(question=question.text, options=question.options, answer=event.answer)
                task = task.model_copy(update={"clarifications": (*task.clarifications, said)})
            case RouteDecided(decision=decision) if task is not None:
                pool = [c.agent for c in decision.candidates] or list(agents)
                request = RouteRequest(
                    task=task,
                    cards=tuple(cards[a] for a in sorted(pool) if a in cards),
                    stage=event.stage,
                    max_agents=max(max_agents, len(decision.chosen)),
                    round=int(m[1]) if (m := _ROUND.search(event.step)) else 1,
                    tried=tuple(sorted({r.agent for r in replies.values()})),
                    known=known_in({"run_id": event.run_id, "task": task, "replies": dict(replies)}),
                )
                gone = tuple(sorted(a for a in pool if a not in cards))
                found.append(Recorded(event.run_id, event.step or event.stage, decision, request, gone))
            case _:
                pass
    return found


async def replay(
    recorded: Sequence[Recorded],
    router: Router,
    *,
    timeout_s: float = 60.0,
    say: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Ask the router about each recorded decision; what it decides, and the difference. JSON values.

    A decision whose candidates are all gone is not asked about; a router that fails is said in `error`.
    """
    rows: list[dict[str, Any]] = []
    pools: set[tuple[str, ...]] = set()
    for place, one in enumerate(recorded):
        ids = tuple(card.id for card in one.request.cards)
        if ids and ids not in pools:
            pools.add(ids)
            await prepare(router, one.request.cards)
            say(f"{router.name}: {len(ids)} agents ...")
        if ids:
            routed, _ = await ask_router(router, one.request, seed=f"{one.run_id}/{place}", timeout_s=timeout_s)
        else:
            routed = Routed(error="none of its agents is in the project any more")
        rows.append(_row(one, routed, router.name))
    return rows


def _row(one: Recorded, routed: Routed, router: str) -> dict[str, Any]:
    before = one.decision
    added = [a for a in routed.agents if a not in before.agents]
    removed = [a for a in before.agents if a not in routed.agents]
    failed = bool(routed.error)
    same = not failed and not added and not removed and (bool(routed.agents) or routed.mode is before.mode)
    return {
        "run": one.run_id,
        "step": one.step,
        "text": one.request.task.text,
        "before": {
            "router": before.router,
            "mode": before.mode.value,
            "agents": list(before.agents),
            "confidence": round(before.confidence, 4),
        },
        "after": {
            "router": router,
            "mode": routed.mode.value if routed.mode else None,
            "agents": list(routed.agents),
            "confidence": round(routed.confidence, 4),
            "latency_ms": round(routed.latency_ms, 3),
            "tokens": routed.usage.tokens,
            "usd": routed.usage.cost_usd,
        },
        "added": [] if failed else added,
        "removed": [] if failed else removed,
        "gone": list(one.gone),
        "same": same,
        "error": routed.error or None,
    }


def summed_up(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many decisions there are, and how many differ in what."""
    decided = [row for row in rows if row["error"] is None]
    return {
        "runs": len({row["run"] for row in rows}),
        "decisions": len(rows),
        "same": sum(row["same"] for row in decided),
        "agents_differ": sum(bool(row["added"] or row["removed"]) for row in decided),
        "mode_differs": sum(row["before"]["mode"] != row["after"]["mode"] for row in decided),
        "failed": len(rows) - len(decided),
        "tokens": sum(row["after"]["tokens"] for row in rows),
        "usd": sum(row["after"]["usd"] for row in rows),
    }
