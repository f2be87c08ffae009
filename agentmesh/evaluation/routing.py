"""How well routers choose: `semantic` and what it is compared with, on sets of questions whose agents are known.

Reads the data folder that a person names. A set is a folder, or a folder's name with `_agents` (agents instead of
intents) or `_descriptions` (agents that have no examples). Every policy answers the same test rows in one process; what
it may learn from are the set's train rows, as the examples of cards.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from agentmesh.errors import ConfigError, UnknownNameError
from agentmesh.evaluation import form, metrics
from agentmesh.evaluation.datasets import DataSet, Sample, agent_id, cards_of, find_set, read_rows, read_set
from agentmesh.models.base import Embedder
from agentmesh.routing import Router, routers
from agentmesh.routing.reasoning import ReasoningRouter, routing_prompt
from agentmesh.routing.semantic import SemanticRouter
from agentmesh.run import loose_context
from agentmesh.tokens import TokenCounter, counter_for
from agentmesh.types import AgentCard, RouteRequest, RoutingDecision, Task

__all__ = ["POLICIES", "SETS", "Pick", "bench_routing", "nearest_centroids", "open_set", "semantic_picks", "tfidf_lr"]

FOLDERS = ("clinc150", "hwu64", "banking77")
SETS = (*FOLDERS, *(f"{f}_agents" for f in FOLDERS), *(f"{f}_descriptions" for f in FOLDERS), "clinc_mix")
"""The sets that are measured unless some are named."""
POLICIES = ("semantic", "random", "nearest_centroid", "tfidf_lr", "reasoning")
LENT_AGENTS = {"clinc_mix": "clinc150"}
"""Sets whose agents are described in another folder of the data, as their README says."""
KEPT_CANDIDATES = 16
"""More than the shortlist of `reasoning` takes."""
PROMPT_SAMPLE = 200
"""Test rows, drawn by seed 0, for which prompts are counted."""
INVERSE_PENALTY = 10.0
"""`C` of the logistic regression. Our choice; not tuned."""

Say = Callable[[str], None]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pick:
    """What a policy decided about one text."""

    chosen: tuple[str, ...]
    """Ids, best first; empty: it abstained."""
    ranked: tuple[str, ...]
    """All agents that it considered, best first, whatever was chosen."""
    chance: float | None = None
    """Probability of the best one of `ranked`, where the policy has one."""
    none: float | None = None
    """How much speaks for nobody, higher is more; comparable within one policy."""
    latency_ms: float | None = None


@dataclass(frozen=True)
class Exam:
    """One fold of a set, ready to be asked."""

    cards: tuple[AgentCard, ...]
    train: tuple[Sample, ...]
    """Agents named by id."""
    test: tuple[Sample, ...]
    several: bool
    """Whether a row may need several agents."""


Answers = Callable[[Exam, Embedder], Awaitable[list[Pick]]]


async def bench_routing(
    data: Path, sets: Sequence[str], policies: Sequence[str], *, say: Say = lambda text: None
) -> dict[str, Any]:
    """Measure these policies on these sets; the result has the form that every benchmark of ours has.

    Args:
        data: The folder that holds the sets' folders.
        sets: Names of sets; see the module.
        policies: Of `POLICIES`.
        say: Told what is being done.

    Raises:
        InputError: If a folder or a file is missing or damaged.
        UnknownNameError: If a policy is not known.
    """
    from agentmesh.models import open_embedder

    for policy in policies:
        if policy not in POLICIES:
            raise UnknownNameError("router", policy, POLICIES, where="bench routing")
    exams = {name: await asyncio.to_thread(open_set, data, name) for name in dict.fromkeys(sets)}
    embedder = open_embedder("wordllama")
    rows: list[dict[str, Any]] = []
    for name, parts in exams.items():
        rows += await _measure(name, parts, tuple(dict.fromkeys(policies)), embedder, say)
    return form.document("routing", rows)


def open_set(data: Path, name: str) -> tuple[Exam, ...]:
    """The folds of a set, one where the data has a train file. Raises `InputError`."""
    if not data.is_dir() or (data / name).is_dir():
        folder, grouped, described_only = find_set(data, name), False, False
    else:
        base = name.removesuffix("_descriptions")
        described_only = base != name
        folder, grouped = find_set(data, base.removesuffix("_agents")), True
        if base.removesuffix("_agents") == name:
            find_set(data, name)
    first = read_rows(folder, "public_test")[0]
    several = "agents" in first
    label = "agents" if several else "intent" if "intent" in first and not grouped else "agent"
    described: list[dict[str, Any]] = []
    home = folder
    if label != "intent":
        home = data / LENT_AGENTS.get(folder.name, folder.name)
        described = read_rows(home, "agents")
    parts = read_set(folder, label)
    lessons = _gold_parts(folder, described) if several else None
    return tuple(_exam(fold, lessons, described, home, examples=not described_only, several=several) for fold in parts)


def _exam(
    fold: DataSet,
    lessons: tuple[Sample, ...] | None,
    described: Sequence[Mapping[str, Any]],
    folder: Path,
    *,
    examples: bool,
    several: bool,
) -> Exam:
    cards = cards_of(lessons or fold.train, described, folder=folder, examples=examples)
    train, test = (
        tuple(Sample(s.text, tuple(agent_id(a) for a in s.agents)) for s in samples)
        for samples in (fold.train if examples else (), fold.test)
    )
    return Exam(cards, train, test, several)


def _gold_parts(folder: Path, described: Sequence[Mapping[str, Any]]) -> tuple[Sample, ...] | None:
    """The parts of the train rows with the agent of each, where rows name parts and intents and agents theirs."""
    owner = {str(intent): str(row.get("agent")) for row in described for intent in row.get("intents") or ()}
    found: list[Sample] = []
    for row in read_rows(folder, "public_train", required=False):
        parts, intents = row.get("parts"), row.get("intents")
        if isinstance(parts, list) and isinstance(intents, list):
            pairs = zip(cast(list[Any], parts), cast(list[Any], intents), strict=False)
            found += [Sample(str(part), (owner[str(intent)],)) for part, intent in pairs if str(intent) in owner]
    return tuple(found) or None


# --- one set ----------------------------------------------------------------------------------------------------------


async def _measure(
    name: str, exams: Sequence[Exam], policies: Sequence[str], embedder: Embedder, say: Say
) -> list[dict[str, Any]]:
    """All rows of one set."""
    rows: list[dict[str, Any]] = []
    asked = [sample for exam in exams for sample in exam.test]
    made: dict[str, list[list[Pick]]] = {}
    # The shortlist of `reasoning` is what `semantic` decides: the decisions are made once for both.
    semantics = [_Recorded(SemanticRouter(embedder)) for _ in exams]
    for policy in policies:
        started = time.perf_counter()
        say(f"{name}: {policy} on {len(asked)} rows, {len(exams[0].cards)} agents ...")
        if policy == "reasoning":
            rows += await _reasoning(name, exams, semantics)
        else:
            if policy == "tfidf_lr" and not exams[0].train:
                say(f"{name}: {policy} has nothing to learn from, left out")
                continue
            made[policy] = [
                await semantic_picks(exam, router) if policy == "semantic" else await _BASELINES[policy](exam, embedder)
                for exam, router in zip(exams, semantics, strict=True)
            ]
            picks = [pick for part in made[policy] for pick in part]
            rows += _rows_of(name, policy, picks, asked, several=exams[0].several)
        say(f"{name}: {policy} took {time.perf_counter() - started:.1f} s")
    return rows


def _rows_of(
    name: str, policy: str, picks: Sequence[Pick], asked: Sequence[Sample], *, several: bool
) -> list[dict[str, Any]]:
    """Every number about a policy's decisions."""
    gold = [sample.agents for sample in asked]
    chosen, ranked = [p.chosen for p in picks], [p.ranked for p in picks]
    rows: list[dict[str, Any]] = []

    def share(metric: str, values: Floats, unit: str = "share") -> None:
        rows.append(_row(name, policy, metric, values, lambda taken: float(values[taken].mean()), unit))

    inside = [i for i, agents in enumerate(gold) if agents]
    if several:
        counts = np.array(
            [(len({*c} & {*g}), len({*c}), len({*g})) for c, g in zip(chosen, gold, strict=True)], np.int64
        )
        share("exact_set", metrics.exact_set(chosen, gold))
        rows.append(_row(name, policy, "micro_f1", counts, lambda t: metrics.micro_f1(*counts[t].T), "share"))
        if inside:
            share("recall@2", metrics.recall_at([ranked[i] for i in inside], [gold[i] for i in inside], 2))
    elif inside:
        own, right = [chosen[i] for i in inside], [gold[i] for i in inside]
        share("top1", metrics.top1(own, right))
        share("hit", metrics.hit(own, right))
        share("mean_set_size", metrics.mean_set_size([chosen[i] or ranked[i][:1] for i in inside]), "agents")
        chances = [picks[i].chance for i in inside]
        if all(chance is not None for chance in chances):
            chance = np.array(chances, np.float64)
            best = metrics.top1([ranked[i] for i in inside], right) > 0
            rows.append(
                _row(name, policy, "ece", chance, lambda t: metrics.calibration_error(chance[t], best[t]), "share")
            )
    none = [p.none for p in picks]
    if 0 < len(inside) < len(gold) and all(value is not None for value in none):
        scores, foreign = np.array(none, np.float64), np.array([not agents for agents in gold])
        rows.append(_row(name, policy, "oos_auroc", scores, lambda t: _auroc(scores[t], foreign[t]), "share"))
    waits = [p.latency_ms for p in picks if p.latency_ms is not None]
    if waits:
        times = np.array(waits)
        for metric, q in (("p50_ms", 50), ("p95_ms", 95)):
            rows.append(_row(name, policy, metric, times, lambda t, q=q: float(np.percentile(times[t], q)), "ms"))
    return rows


def _auroc(scores: Floats, foreign: NDArray[np.bool_]) -> float:
    """NaN for a draw that has rows of one kind only."""
    return metrics.auroc(scores, foreign) if 0 < foreign.sum() < len(foreign) else float("nan")


def _row(
    name: str,
    policy: str,
    metric: str,
    values: NDArray[Any],
    statistic: Callable[[NDArray[np.int64]], float],
    unit: str,
) -> dict[str, Any]:
    """One measured number with its interval."""
    value = statistic(np.arange(len(values)))
    low, high = metrics.bootstrap_ci95(len(values), statistic)
    low, high = min(low, value), max(high, value)  # the calibration error of a draw is larger than that of the rows
    return form.row(name, policy, metric, value, unit, len(values), (low, high))


# --- our policies -----------------------------------------------------------------------------------------------------


class _Recorded:
    """A router whose decisions are kept by text, so that a second reader costs nothing.

    Of the candidates only the best are kept: all of them would be half a million objects, which Python's garbage
    collector goes through again and again while the next decision is timed.
    """

    def __init__(self, router: SemanticRouter) -> None:
        self.name = router.name
        self.router = router
        self._decisions: dict[str, RoutingDecision] = {}

    async def route(self, request: RouteRequest, ctx: Any) -> RoutingDecision:
        kept = self._decisions.get(request.task.text)
        if kept is not None:
            return kept
        decision = await self.router.route(request, ctx)
        best = decision.candidates[:KEPT_CANDIDATES]
        self._decisions[request.task.text] = decision.model_copy(update={"candidates": best, "evidence": {}})
        return decision


async def semantic_picks(exam: Exam, recorded: _Recorded) -> list[Pick]:
    """The decisions of `semantic` in its default configuration, one `route()` a row, timed."""
    await recorded.router.prepare(exam.cards)
    ctx = loose_context()
    picks: list[Pick] = []
    for sample in exam.test:
        decision = await recorded.route(RouteRequest(task=Task(text=sample.text), cards=exam.cards), ctx)
        best = sorted(decision.candidates, key=lambda c: -(c.probability or 0.0))
        picks.append(
            Pick(
                chosen=decision.agents,
                ranked=tuple(c.agent for c in best),
                chance=best[0].probability or 0.0,
                none=float(decision.evidence.get("out_of_scope", 1.0)),
                latency_ms=decision.latency_ms,
            )
        )
    return picks


async def _reasoning(name: str, exams: Sequence[Exam], semantics: Sequence[Router]) -> list[dict[str, Any]]:
    """The two numbers about `reasoning` that need no model: who is on the shortlist, and how long the prompts are."""
    counter = counter_for("cl100k_base")
    ctx = loose_context()
    listed: list[float] = []
    prompts: list[tuple[int, int]] = []
    for exam, semantic in zip(exams, semantics, strict=True):
        router = ReasoningRouter(shortlist=semantic)
        drawn = set(np.random.default_rng(0).permutation(len(exam.test))[:PROMPT_SAMPLE].tolist())
        for place, sample in enumerate(exam.test):
            request = RouteRequest(task=Task(text=sample.text), cards=exam.cards)
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
            rows.append(_row(name, "reasoning", metric, values, lambda t, v=values: float(v[t].mean()), unit))
    return rows


def _tokens(counter: TokenCounter, request: RouteRequest, cards: Sequence[AgentCard]) -> int:
    """Tokens of the prompt that lists these cards."""
    return sum(counter.count(message.text) for message in routing_prompt(request, cards).messages)


# --- what they are compared with --------------------------------------------------------------------------------------


async def _random(exam: Exam, embedder: Embedder) -> list[Pick]:
    router = routers.create("random", seed=0)
    ctx = loose_context()
    picks: list[Pick] = []
    for sample in exam.test:
        decision = await router.route(RouteRequest(task=Task(text=sample.text), cards=exam.cards), ctx)
        ranked = (*decision.agents, *(c.agent for c in decision.candidates if not c.chosen))
        picks.append(Pick(decision.agents, ranked))
    return picks


async def nearest_centroids(exam: Exam, embedder: Embedder) -> list[Pick]:
    """The agent whose mean example is nearest in the embedder's space; its description where it has no examples."""
    texts = [list(card.examples) or [card.description] for card in exam.cards]
    vectors = await embedder.embed([text for own in texts for text in own])
    starts = np.cumsum([0, *(len(own) for own in texts[:-1])])
    means = np.add.reduceat(vectors, starts, axis=0)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    near = await embedder.embed([sample.text for sample in exam.test]) @ means.T
    order = np.argsort(-near, axis=1, kind="stable")
    ids = [card.id for card in exam.cards]
    ranked = [tuple(ids[place] for place in row) for row in cast(list[list[int]], order.tolist())]
    return [Pick(r[:1], r, none=-float(n)) for r, n in zip(ranked, near.max(axis=1), strict=True)]


async def tfidf_lr(exam: Exam, embedder: Embedder) -> list[Pick]:
    """Logistic regression over TF-IDF of words and pairs of words; one against the rest where rows need several."""
    return await asyncio.to_thread(_learn_and_ask, exam)


def _learn_and_ask(exam: Exam) -> list[Pick]:
    try:
        import sklearn.feature_extraction.text as features
        import sklearn.linear_model as models
    except ImportError as error:
        raise ConfigError("the policy tfidf_lr needs scikit-learn: pip install 'agentmesh[bench]'") from error
    ids = [card.id for card in exam.cards]
    places = {id_: place for place, id_ in enumerate(ids)}
    learned = [s for s in exam.train if exam.several or s.agents]
    index: Any = cast(Any, features).TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    table: Any = index.fit_transform([s.text for s in learned])
    asked: Any = index.transform([s.text for s in exam.test])
    right = np.zeros((len(learned), len(ids)), np.int64)
    for row, sample in enumerate(learned):
        right[row, [places[agent] for agent in sample.agents]] = 1
    chance = np.zeros((len(exam.test), len(ids)))
    # One model for each agent against the rest serves rows with one agent and rows with several alike.
    for place in range(len(ids)):
        if 0 < right[:, place].sum() < len(learned):
            model: Any = cast(Any, models).LogisticRegression(C=INVERSE_PENALTY, solver="liblinear", tol=0.01)
            chance[:, place] = model.fit(table, right[:, place]).predict_proba(asked)[:, 1]
        else:
            chance[:, place] = float(right[:, place].mean())
    if not exam.several:
        chance /= np.maximum(chance.sum(axis=1, keepdims=True), 1e-12)
    order = np.argsort(-chance, axis=1, kind="stable")
    picks: list[Pick] = []
    for row, ranking in enumerate(cast(list[list[int]], order.tolist())):
        ranked = tuple(ids[place] for place in ranking)
        kept = sum(chance[row] >= 0.5) if exam.several else 1
        best = float(chance[row].max())
        picks.append(Pick(ranked[:kept], ranked, chance=best, none=-best))
    return picks


_BASELINES: dict[str, Answers] = {"random": _random, "nearest_centroid": nearest_centroids, "tfidf_lr": tfidf_lr}
