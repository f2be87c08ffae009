"""How a router's speed grows with the number of agents: `scale_150`, `scale_10k`, `scale_80k` over generated cards.

One `route()` a question, its embedding included, after the cards are prepared, no trace; and how long until a card that
is added is in a decision. Whether the right card comes first is measured beside it, so that speed is not bought by it.
"""

import asyncio
import time
from collections.abc import Sequence

import numpy as np

from agentmesh.evaluation.routing_baselines import TfidfIndex
from agentmesh.evaluation.routing_exam import Exam, Measure, Pick, Say, pick_of
from agentmesh.evaluation.routing_rows import Scored, measured_row, score
from agentmesh.evaluation.skills import skill_cards, skill_questions
from agentmesh.models.base import Embedder
from agentmesh.routing.semantic import SemanticRouter
from agentmesh.run import RunContext, loose_context
from agentmesh.types import AgentCard, RouteRequest, Task

__all__ = ["SCALES", "measure_scale"]

SCALES = {"scale_150": 150, "scale_10k": 10_000, "scale_80k": 80_000}
"""Sets with how many cards each has."""
QUESTIONS = 360
NEWCOMERS = 20
"""Cards that are added one after the other, and timed."""
WARM_QUESTIONS = 5
"""Asked before the clock runs: the first decision pays for imports."""
TFIDF_CARDS = 10_000
"""Up to so many cards, the index of scikit-learn is built, too."""


async def measure_scale(
    name: str,
    count: int,
    policies: Sequence[str],
    embedder: Embedder,
    say: Say,
    *,
    questions: int = QUESTIONS,
    newcomers: int = NEWCOMERS,
) -> dict[str, Scored]:
    """The figures of `semantic`, and of `tfidf` where it can hold the cards; other policies are left out.

    Args:
        name: Of the set.
        count: How many cards there are.
        policies: Those that are wanted; empty: all that suit.
        embedder: What `semantic` embeds with.
        say: Told what is being done.
        questions: How many are asked.
        newcomers: How many cards are added, each once.
    """
    cards = skill_cards(count + newcomers)
    exam = Exam(cards[:count], (), skill_questions(questions, about=min(count, 150)))
    found: dict[str, Scored] = {}
    for policy in policies or ("semantic", "tfidf"):
        if policy not in ("semantic", "tfidf"):
            say(f"{name}: {policy} is left out: it is not timed")
        elif policy == "tfidf" and count > TFIDF_CARDS:
            say(f"{name}: tfidf is left out: its index does not hold {count} cards in a bounded time")
        elif policy == "tfidf":
            say(f"{name}: tfidf on {questions} questions, {count} agents ...")
            found[policy] = score(name, policy, await asyncio.to_thread(_by_tfidf, exam), exam.test, Measure.FIRST)
        else:
            say(f"{name}: semantic on {questions} questions, {count} agents ...")
            router, ctx = SemanticRouter(embedder), loose_context()
            picks = await _timed(router, exam, ctx, say)
            found[policy] = score(name, policy, picks, exam.test, Measure.FIRST)
            waits = await _onboarded(router, exam.cards, cards[count:], ctx, say)
            if len(waits):
                row = measured_row(name, policy, "onboard_ms", waits, lambda t, w=waits: float(np.median(w[t])), "ms")
                found[policy].rows.append(row)
    return found


async def _timed(router: SemanticRouter, exam: Exam, ctx: RunContext, say: Say) -> list[Pick]:
    """The decisions of the router, one `route()` a question."""
    started = time.perf_counter()
    await router.prepare(exam.cards)
    say(f"{len(exam.cards)} agents were prepared in {time.perf_counter() - started:.1f} s")
    for sample in exam.test[:WARM_QUESTIONS]:
        await router.route(exam.request(sample), ctx)
    picks: list[Pick] = []
    for sample in exam.test:
        request = exam.request(sample)
        started = time.perf_counter()
        decision = await router.route(request, ctx)
        picks.append(pick_of(decision, exam.max_agents, (time.perf_counter() - started) * 1000))
    return picks


async def _onboarded(
    router: SemanticRouter, cards: tuple[AgentCard, ...], added: Sequence[AgentCard], ctx: RunContext, say: Say
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Milliseconds from handing over the cards with one more to the decision that knows it, shape (added,)."""
    waits: list[float] = []
    seen = 0
    for card in added:
        cards = (*cards, card)
        request = RouteRequest(task=Task(text=card.examples[0]), cards=cards)
        started = time.perf_counter()
        await router.prepare(cards)
        decision = await router.route(request, ctx)
        waits.append((time.perf_counter() - started) * 1000)
        seen += any(candidate.agent == card.id for candidate in decision.candidates)
    if seen < len(added):
        say(f"{len(added) - seen} of {len(added)} added cards were not among the candidates of the next decision")
    return np.array(waits)


def _by_tfidf(exam: Exam) -> list[Pick]:
    """The nearest card by scikit-learn's TF-IDF of words and letters over everything on the cards, timed."""
    index = TfidfIndex([" ".join((c.description, c.instructions, *c.examples)) for c in exam.cards])
    for sample in exam.test[:WARM_QUESTIONS]:
        index.near([sample.text])
    picks: list[Pick] = []
    for sample in exam.test:
        started = time.perf_counter()
        near = index.near([sample.text])[0]
        best = int(near.argmax())
        wait_ms = (time.perf_counter() - started) * 1000
        id_ = exam.cards[best].id
        picks.append(Pick((id_,), (id_,), none=-float(near[best]), latency_ms=wait_ms))
    return picks
