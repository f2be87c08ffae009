"""Whether a run did what its scenario says a good answer must contain. Exact text checks, no judge."""

from collections.abc import Sequence

from agentmesh.project.schema import Expectation
from agentmesh.text import fold
from agentmesh.types import Answer, AnswerStatus, Frozen

__all__ = ["Check", "check_answer"]


class Check(Frozen):
    """One thing that was expected."""

    name: str
    """`outcome`, `agents`, `fact`, `conflict` or `citations`."""
    passed: bool
    detail: str


def check_answer(expected: Expectation, answer: Answer) -> list[Check]:
    """Compare an answer with what its task expects.

    A fact stands in the answer if its words do, case and white space aside. A conflict is named if one conflict of
    the answer has both values on different sides. The agents are those that a router chose, over all rounds. Every
    reply that says something must cite an item of its pack.
    """
    checks = [_same("outcome", [expected.outcome], [answer.status.value])]
    checks.append(_same("agents", sorted(expected.agents), sorted(_dispatched(answer))))
    text = fold(answer.text)
    checks += [
        Check(name="fact", passed=fold(fact) in text, detail=fact if fold(fact) in text else f"missing: {fact}")
        for fact in expected.facts
    ]
    for pair in expected.conflicts:
        named = any(_names(conflict.sides, pair) for conflict in answer.conflicts)
        words = " against ".join(pair)
        checks.append(Check(name="conflict", passed=named, detail=words if named else f"not named: {words}"))
    if answer.status in (AnswerStatus.ANSWERED, AnswerStatus.PARTIAL):
        silent = [r.agent for r in answer.replies if r.ok and not r.cited]
        detail = f"nothing cited by {', '.join(silent)}" if silent else "every reply cites an item of its pack"
        checks.append(Check(name="citations", passed=not silent, detail=detail))
    return checks


def _dispatched(answer: Answer) -> set[str]:
    """The agents of the last decision, and those that worked in the same stage in earlier rounds.

    If it chose nobody, the stage is that of the agents among which it could have chosen.
    """
    if answer.decision is None:
        return set()
    chosen = set(answer.decision.agents)
    known = chosen or {candidate.agent for candidate in answer.decision.candidates}
    stages = {reply.stage for reply in answer.replies if reply.agent in known}
    return chosen | {reply.agent for reply in answer.replies if reply.stage in stages}


def _same(name: str, expected: Sequence[str], found: Sequence[str]) -> Check:
    wanted, got = ", ".join(expected) or "none", ", ".join(found) or "none"
    passed = list(expected) == list(found)
    return Check(name=name, passed=passed, detail=got if passed else f"expected {wanted}; got {got}")


def _names(sides: Sequence[object], pair: Sequence[str]) -> bool:
    texts = [fold(f"{getattr(side, 'value', '')} {getattr(side, 'text', '')}") for side in sides]
    first, second = (fold(value) for value in pair)
    return any(
        first in a and second in b for i, a in enumerate(texts) for j, b in enumerate(texts) if i != j
    )  # fmt: skip
