"""Routing tests of a project: labelled messages, routers side by side, every figure with its interval.

Asks routers and counts; calls no agent, writes nothing. What is right is known per message (`route_file`); the pages
and plots are made by `route_report`.
"""

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentmesh import __version__
from agentmesh.errors import ConfigError, InputError, MeshError, UnknownNameError
from agentmesh.evaluation import metrics
from agentmesh.evaluation.route_file import RouteTest
from agentmesh.routing import Router
from agentmesh.run import Limits, loose_context
from agentmesh.types import AgentCard, Mode, RouteRequest, RoutingDecision, Task, Usage

__all__ = [
    "LESS_IS_BETTER",
    "METRICS",
    "Goal",
    "Routed",
    "ask_router",
    "compare",
    "mcnemar",
    "measure",
    "parse_goal",
    "prepare",
    "swap_test",
]

METRICS = {
    "exact_set": "share of messages whose agents, or whose mode, are exactly the right ones",
    "top1": "share of messages with agents whose first choice is right",
    "precision": "share of the chosen agents that are right",
    "recall": "share of the right agents that are chosen",
    "micro_f1": "2 right / (chosen + wanted), over all messages",
    "hit": "share of messages with agents of which one is chosen",
    "mean_set_size": "agents chosen for a message with agents",
    "oos_auroc": "chance that an out-of-scope message looks more like it than a message with agents",
    "ece": "mean distance between the stated confidence and how often the decision is exactly right",
    "p50_ms": "median milliseconds of a decision",
    "p95_ms": "milliseconds that 95 % of the decisions stay within",
    "tokens": "tokens of models, mean of a decision",
    "usd": "US$ of models, mean of a decision",
    "failed": "share of messages that got no decision",
}
"""What is measured, and what it means."""
LESS_IS_BETTER = frozenset({"mean_set_size", "ece", "p50_ms", "p95_ms", "tokens", "usd", "failed"})
"""For these a goal is the most that is allowed."""
UNITS = {"mean_set_size": "agents", "p50_ms": "ms", "p95_ms": "ms", "tokens": "tokens", "usd": "US$"}
"""All others are shares."""
CURVE_BINS = 10
"""Points of a calibration curve, at most."""
SWAPS = 2_000
"""Draws of the swap test."""
MOST_PAIRS = 20
"""Confusion pairs that are listed."""
SHOWN_TEXTS = 3
"""Messages that are quoted with a pair."""
TIMEOUT_S = 60.0
"""Seconds for one decision."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Places = NDArray[np.int64]


# --- asking -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Routed:
    """What a router did with one message."""

    agents: tuple[str, ...] = ()
    """Best first."""
    mode: Mode | None = None
    """None: it failed."""
    confidence: float = 0.0
    none: float | None = None
    """How much speaks for nobody, 0 to 1, where the router says so."""
    latency_ms: float = 0.0
    usage: Usage = field(default_factory=Usage)
    reason: str = ""
    error: str = ""

    @property
    def outcome(self) -> tuple[str, ...]:
        """The agents, or in parentheses what happened instead."""
        return self.agents or (f"({self.mode.value if self.mode else 'failed'})",)


async def prepare(router: Router, cards: Sequence[AgentCard]) -> None:
    """Let a router read the cards, where it can do so before the first message."""
    ready = getattr(router, "prepare", None)
    if ready is not None:
        await ready(tuple(cards))


async def ask_router(
    router: Router, request: RouteRequest, *, seed: str = "", timeout_s: float = TIMEOUT_S
) -> tuple[Routed, RoutingDecision | None]:
    """One decision with its time and its cost; no exception but of a person's mistake.

    Args:
        router: Who decides.
        request: About what.
        seed: Of the random numbers that the router may draw.
        timeout_s: After as many seconds it has failed.

    Raises:
        ConfigError: If the router's options are wrong.
    """
    ctx = replace(loose_context("eval", limits=Limits(max_seconds=None, max_calls=None)), rng=random.Random(seed))
    started = time.perf_counter()
    try:
        async with asyncio.timeout(timeout_s):
            decision = await router.route(request, ctx)
    except ConfigError:
        raise
    except TimeoutError:
        error = f"no decision within {timeout_s:g} s"
    except MeshError as failure:
        error = str(failure)
    except Exception as failure:  # a router may be anybody's code: its failure is a result
        error = f"{type(failure).__name__}: {failure}"
    else:
        took = (time.perf_counter() - started) * 1000
        return _routed(decision, took), decision
    took = (time.perf_counter() - started) * 1000
    return Routed(latency_ms=took, usage=ctx.meter.spent if ctx.meter else Usage(), error=error), None


def _routed(decision: RoutingDecision, took_ms: float) -> Routed:
    return Routed(
        agents=tuple(dict.fromkeys(decision.agents)),
        mode=decision.mode,
        confidence=decision.confidence,
        none=_none(decision),
        latency_ms=took_ms,
        usage=decision.usage,
        reason=decision.reason,
    )


def _none(decision: RoutingDecision) -> float | None:
    """What the router says, or one minus the best probability; None where it has no probabilities."""
    for key in ("out_of_scope", "none"):
        said: object = decision.evidence.get(key)
        if isinstance(said, int | float) and not isinstance(said, bool):
            return float(said)
    chances = [c.probability for c in decision.candidates if c.probability is not None]
    return 1.0 - max(chances) if chances else None


async def measure(
    tests: Sequence[RouteTest],
    cards: Sequence[AgentCard],
    named: Mapping[str, Router],
    *,
    max_agents: int = 3,
    timeout_s: float = TIMEOUT_S,
    draws: int = metrics.DRAWS,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Ask every router about every message, one after the other, and count.

    Args:
        tests: The labelled messages, at least one.
        cards: The agents to choose from.
        named: The routers; the others are compared with the first.
        max_agents: Most agents of one decision.
        timeout_s: Seconds for one decision; a router that raises or takes longer is wrong there.
        draws: Of each bootstrap interval.
        say: Told what is being done.

    Returns:
        `routers` (figures, calibration curve, confusion pairs, wrong decisions of each) and `paired` (each against the
        first). JSON values.
    """
    results: dict[str, list[Routed]] = {}
    for name, router in named.items():
        say(f"{name}: {len(tests)} messages, {len(cards)} agents ...")
        await prepare(router, cards)
        results[name] = []
        for place, test in enumerate(tests):
            task = Task(text=test.text, history=test.history, tenant=test.tenant)
            request = RouteRequest(task=task, cards=tuple(cards), max_agents=max_agents)
            routed, _ = await ask_router(router, request, seed=str(place), timeout_s=timeout_s)
            results[name].append(routed)
    return await asyncio.to_thread(_counted, tests, cards, results, draws)


def _counted(
    tests: Sequence[RouteTest], cards: Sequence[AgentCard], results: Mapping[str, Sequence[Routed]], draws: int
) -> dict[str, Any]:
    names = list(results)
    return {
        "eval": "routes",
        "version": __version__,
        "messages": len(tests),
        "agents": len(cards),
        "routers": [_figures(name, tests, results[name], draws) for name in names],
        "paired": [row for other in names[1:] for row in compare(tests, names[0], other, results, draws=draws)],
    }


# --- counting ---------------------------------------------------------------------------------------------------------


def _figures(name: str, tests: Sequence[RouteTest], routed: Sequence[Routed], draws: int) -> dict[str, Any]:
    """Everything about one router."""
    right = metrics.exact_set([r.outcome for r in routed], [t.expected for t in tests]) > 0
    confidence = np.array([r.confidence for r in routed], np.float64)
    return {
        "router": name,
        "metrics": _metrics(tests, routed, right, confidence, draws),
        "calibration": _curve(confidence, right),
        "roc": _roc(tests, routed),
        "confusions": _confusions(tests, routed),
        "wrong": [_wrong(tests[i], routed[i]) for i in np.flatnonzero(~right).tolist()],
    }


def _metrics(
    tests: Sequence[RouteTest], routed: Sequence[Routed], right: Bools, confidence: Floats, draws: int
) -> dict[str, dict[str, Any]]:
    gold, chosen = [t.agents for t in tests], [r.agents for r in routed]
    counts = _counts(tests, routed)
    inside = [i for i, agents in enumerate(gold) if agents]
    own, wanted = [chosen[i] for i in inside], [gold[i] for i in inside]
    found: dict[str, dict[str, Any]] = {}

    def put(metric: str, count: int, statistic: Callable[[Places], float]) -> None:
        value = statistic(np.arange(count)) if count else math.nan
        if math.isnan(value):
            found[metric] = {"value": None, "ci95": None, "n": 0, "unit": UNITS.get(metric, "share")}
            return
        low, high = metrics.bootstrap_ci95(count, statistic, draws=draws)
        # the calibration error of rows that are drawn twice is larger than that of the rows
        low, high = min(low, value), max(high, value)
        ci95 = [round(low, 6), round(high, 6)]
        found[metric] = {"value": round(value, 6), "ci95": ci95, "n": count, "unit": UNITS.get(metric, "share")}

    def mean(metric: str, values: Floats) -> None:
        put(metric, len(values), lambda t: float(values[t].mean()))

    everything = len(tests)
    mean("exact_set", right.astype(np.float64))
    mean("top1", metrics.top1(own, wanted))
    put("precision", everything, lambda t: _share(counts[t, 0], counts[t, 1]))
    put("recall", everything, lambda t: _share(counts[t, 0], counts[t, 2]))
    put("micro_f1", everything if counts[:, 1:].any() else 0, lambda t: metrics.micro_f1(*counts[t].T))
    mean("hit", metrics.hit(own, wanted))
    mean("mean_set_size", metrics.mean_set_size(own))
    scores, foreign = _scope(tests, routed)
    put("oos_auroc", len(scores), lambda t: _auroc(scores[t], foreign[t]))
    decided = np.flatnonzero([not r.error for r in routed])
    sure, true = confidence[decided], right[decided]
    put("ece", len(decided), lambda t: metrics.calibration_error(sure[t], true[t]))
    times = np.array([r.latency_ms for r in routed], np.float64)
    for metric, q in (("p50_ms", 50), ("p95_ms", 95)):
        put(metric, everything, lambda t, q=q: float(np.percentile(times[t], q)))
    mean("tokens", np.array([r.usage.tokens for r in routed], np.float64))
    mean("usd", np.array([r.usage.cost_usd for r in routed], np.float64))
    if not all(r.usage.cost_known for r in routed):
        found["usd"]["note"] = "a lower bound: the price of a model is not known"
    mean("failed", np.array([bool(r.error) for r in routed], np.float64))
    return found


def _counts(tests: Sequence[RouteTest], routed: Sequence[Routed]) -> Places:
    """Right choices, choices and right agents of each message, shape (n, 3)."""
    rows = [(len({*r.agents} & {*t.agents}), len(r.agents), len(t.agents)) for t, r in zip(tests, routed, strict=True)]
    return np.array(rows, np.int64).reshape(-1, 3)


def _share(part: Places, whole: Places) -> float:
    """NaN for 0 of 0."""
    total = int(whole.sum())
    return int(part.sum()) / total if total else math.nan


def _scope(tests: Sequence[RouteTest], routed: Sequence[Routed]) -> tuple[Floats, Bools]:
    """How much speaks for nobody, and whether nobody is right; questions back are neither."""
    kept = [(r.none, not t.agents) for t, r in zip(tests, routed, strict=True) if t.mode is not Mode.CLARIFY]
    if any(none is None for none, _ in kept):
        kept = []
    return np.array([none for none, _ in kept], np.float64), np.array([foreign for _, foreign in kept], np.bool_)


def _auroc(scores: Floats, foreign: Bools) -> float:
    """NaN for a draw that has rows of one kind only."""
    return metrics.auroc(scores, foreign) if 0 < foreign.sum() < len(foreign) else math.nan


def _roc(tests: Sequence[RouteTest], routed: Sequence[Routed]) -> list[list[float]]:
    """False alarms and finds of "out of scope" at every threshold, from (0, 0) to (1, 1); empty without both kinds."""
    scores, foreign = _scope(tests, routed)
    if not 0 < foreign.sum() < len(foreign):
        return []
    points = [[0.0, 0.0]]
    for threshold in sorted(set(scores.tolist()), reverse=True):
        said = scores >= threshold
        points.append([round(float(said[~foreign].mean()), 4), round(float(said[foreign].mean()), 4)])
    return points


def _curve(confidence: Floats, right: Bools) -> list[dict[str, Any]]:
    """Mean confidence and share of right decisions, over bins of equal mass."""
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, min(CURVE_BINS, len(order))) if len(part)]
    return [
        {"confidence": round(float(confidence[p].mean()), 4), "right": round(float(right[p].mean()), 4), "n": len(p)}
        for p in parts
    ]


def _confusions(tests: Sequence[RouteTest], routed: Sequence[Routed]) -> list[dict[str, Any]]:
    """Who was chosen in place of whom, most frequent first.

    Every wanted agent that is missing makes a pair with every agent that is too many; where nothing stands on one side,
    the mode does, or `(nobody more)`.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    texts: dict[tuple[str, str], list[str]] = {}
    for test, found in zip(tests, routed, strict=True):
        missing = [a for a in test.expected if a not in found.outcome] or ["(nobody more)"]
        extra = [a for a in found.outcome if a not in test.expected] or ["(nobody more)"]
        if set(test.expected) == set(found.outcome):
            continue
        for pair in ((m, e) for m in missing for e in extra):
            pairs[pair] += 1
            texts.setdefault(pair, []).append(test.text)
    ranked = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:MOST_PAIRS]
    return [
        {"wanted": pair[0], "got": pair[1], "count": count, "texts": texts[pair][:SHOWN_TEXTS]}
        for pair, count in ranked
    ]


def _wrong(test: RouteTest, found: Routed) -> dict[str, Any]:
    return {
        "line": test.line,
        "text": test.text,
        "expected": list(test.expected),
        "got": list(found.outcome),
        "confidence": round(found.confidence, 4),
        "reason": found.error or found.reason,
    }


# --- one router against another ---------------------------------------------------------------------------------------


def compare(
    tests: Sequence[RouteTest],
    first: str,
    other: str,
    results: Mapping[str, Sequence[Routed]],
    *,
    draws: int = metrics.DRAWS,
) -> list[dict[str, Any]]:
    """How much better `other` is than `first` on the same messages, and how likely chance alone would do that.

    The exact set by McNemar's exact test; micro-F1 by swapping the two routers' decisions message by message.
    """
    gold = [t.expected for t in tests]
    mine, yours = (metrics.exact_set([r.outcome for r in results[n]], gold) > 0 for n in (first, other))
    better, worse = int((yours & ~mine).sum()), int((mine & ~yours).sum())
    difference = float(yours.mean() - mine.mean())
    pair = np.stack([yours, mine]).astype(np.float64)
    low, high = metrics.bootstrap_ci95(len(tests), lambda t: float(pair[0, t].mean() - pair[1, t].mean()), draws=draws)
    rows: list[dict[str, Any]] = [
        {
            "first": first,
            "other": other,
            "metric": "exact_set",
            "difference": round(difference, 6),
            "ci95": [round(low, 6), round(high, 6)],
            "better": better,
            "worse": worse,
            "p": round(mcnemar(better, worse), 6),
            "test": "McNemar, exact, two-sided",
        }
    ]
    a, b = _counts(tests, results[first]), _counts(tests, results[other])
    if a[:, 1:].any() or b[:, 1:].any():
        gap = metrics.micro_f1(*b.T) - metrics.micro_f1(*a.T)
        low, high = metrics.bootstrap_ci95(
            len(tests), lambda t: metrics.micro_f1(*b[t].T) - metrics.micro_f1(*a[t].T), draws=draws
        )
        rows.append(
            {
                "first": first,
                "other": other,
                "metric": "micro_f1",
                "difference": round(gap, 6),
                "ci95": [round(low, 6), round(high, 6)],
                "p": round(swap_test(a, b), 6),
                "test": f"swaps of pairs, {SWAPS} draws, two-sided",
            }
        )
    return rows


def mcnemar(better: int, worse: int) -> float:
    """How likely a difference at least as one-sided is if both routers were equally good, 0 to 1.

    Args:
        better: Messages that only the second router decides rightly, >= 0.
        worse: Messages that only the first one does, >= 0.

    Source: McNemar (1947), the exact form: twice the tail of a binomial with chance one half, at most 1.
    """
    total = better + worse
    tail = sum(math.comb(total, k) for k in range(min(better, worse) + 1))
    return min(1.0, 2 * tail / 2**total)


def swap_test(first: Places, other: Places, *, draws: int = SWAPS, seed: int = 0) -> float:
    """How likely a difference in micro-F1 at least as large is if it did not matter which router decided, 0 to 1.

    Args:
        first: Right choices, choices and right agents of each message by one router, shape (n, 3).
        other: The same by the other.
        draws: How often each message's two rows are swapped by the toss of a coin.
        seed: The same seed gives the same value.

    Source: the paired permutation test (Fisher 1935; for F1 Yeh 2000), p = (1 + as large) / (1 + draws).
    """
    rng = np.random.default_rng(seed)
    seen = abs(_f1(first.sum(axis=0)) - _f1(other.sum(axis=0)))
    total, gap = first.sum(axis=0), other - first
    large = 0
    for _ in range(draws):
        moved = gap[rng.random(len(gap)) < 0.5].sum(axis=0)
        large += abs(_f1(total + moved) - _f1(total + gap.sum(axis=0) - moved)) >= seen - 1e-12
    return (1 + large) / (1 + draws)


def _f1(counts: Places) -> float:
    chosen_and_right = int(counts[1] + counts[2])
    return 2.0 * int(counts[0]) / chosen_and_right if chosen_and_right else 0.0


# --- goals ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Goal:
    """What a router must reach."""

    router: str
    metric: str
    value: float
    """The least, or the most of `LESS_IS_BETTER`."""

    def missed(self, result: Mapping[str, Any]) -> str | None:
        """Why it is not reached, in a sentence, or None."""
        figures = next(r["metrics"] for r in result["routers"] if r["router"] == self.router)[self.metric]
        most = self.metric in LESS_IS_BETTER
        bound = f"{'at most' if most else 'at least'} {self.value:g}"
        if figures["value"] is None:
            return f"{self.router}: {self.metric} could not be measured, {bound} was wanted"
        if figures["value"] > self.value if most else figures["value"] < self.value:
            return f"{self.router}: {self.metric} is {figures['value']:.4g}, {bound} was wanted"
        return None


def parse_goal(text: str, named: Sequence[str]) -> Goal:
    """The goal that `METRIC=VALUE` or `ROUTER:METRIC=VALUE` means; without a router, it is the first one's.

    Raises:
        InputError: If it has another form.
        UnknownNameError: If there is no such metric or the router is not among those named.
    """
    left, equals, right = text.rpartition("=")
    router, _, metric = left.strip().rpartition(":")
    try:
        value = float(right)
    except ValueError:
        value = math.nan
    if not equals or math.isnan(value):
        raise InputError(f"--fail-under {text!r}: write METRIC=VALUE, e.g. `exact_set=0.9` or `keyword:ece=0.05`")
    if metric not in METRICS:
        raise UnknownNameError("metric", metric, tuple(METRICS), where=f"--fail-under {text!r}")
    if router and router not in named:
        raise UnknownNameError("router", router, tuple(named), where=f"--fail-under {text!r}")
    return Goal(router or named[0], metric, value)
