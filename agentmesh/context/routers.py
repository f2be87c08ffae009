"""The context routers: role-aware selection, and the controls that it must beat (`full`, `recent`, `none`).

A pack never takes more tokens than its budget, fence and source lines included, counted with the tokenizer of the
agent's model. What is not the reader's to see is not even named in the report.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from agentmesh.context.budget import budget_for
from agentmesh.context.candidates import Measured, Measures, refused, repeats
from agentmesh.context.scoring import ScoreWeights, bm25_shares, importance, recency, relevance
from agentmesh.context.selection import CHOSEN, select_under_budget
from agentmesh.errors import ContextError, MeshError
from agentmesh.fence import render_pack
from agentmesh.memory.base import Found, MemoryFilter, MemoryStore
from agentmesh.memory.leads import Lead, leads
from agentmesh.models.base import Embedder
from agentmesh.run import Clock, RunContext
from agentmesh.text import asks, content_words
from agentmesh.tokens import TokenCounter, counter_for
from agentmesh.types import ContextPack, ContextRequest, Inclusion, MemoryItem, PackItem

__all__ = ["FullRouter", "NoContextRouter", "RecentRouter", "RoleAwareRouter"]

QUERY_CHARS = 8_000
"""Characters of a task that are compared word by word; longer ones are compared by their beginning."""
MOST_ASKS = 8
"""Single questions of a task that are looked at on their own."""
MEASURED_AT_ONCE = 8
"""New items up to this many are measured in the event loop's own thread (about 0.2 ms each); more go to another."""
BEST_ASK_SHARE = 0.6
"""Of the words' part in the relevance: weight of the single question that an item fits best; our choice."""
MOST_LEADS = 6
"""Names that earlier stages and rounds led to and that are looked up; our choice."""
KNOWN_SHARE = 0.6
"""How far an item that is all about a lead comes nearer to full relevance; our choice."""
NAME_SHARE = 0.5
"""Of what an item gets for a lead: for the name alone; the rest is for the words of the question still open."""
QUESTION_SHARE = 0.5
"""Of the budget: filled by relevance to the question itself before leads compete for the rest; our choice."""
PARTS = ("relevance", "cosine", "lexical", "role", "stage", "recency", "trust", "known")
"""Parts of a score, as the report names them; cosine, lexical and known are mixed into the relevance. Known is there
only if something was known."""
FULL_TOKENS = 6_000
"""Budget of `full` where none is set: leaves a model with a window of 8,192 tokens room for prompt and reply."""
NEWEST_KEPT = 1_000
"""Items that `full` and `recent` look at, newest first."""


class RoleAwareRouter:
    """Scores what the role may read by relevance, role, stage, recency and trust, and fills the budget best first.

    In later stages and rounds it looks up what the known sentences lead to as well: items about a name that the
    question does not hold come nearer, the more so if they hold what is still open. Half of the budget stays with the
    question.

    Args:
        store: Where memory is searched.
        embedder: Of that store.
        clock: Says what is valid now; absent: the run's.
        k: Candidates asked of the store for each of part and task, >= 1.
        budget_tokens: Of every pack; absent: the role's own.
        half_life_rounds: Rounds after which the recency of an item halves.
        weights: Of the parts of a score.
        min_relevance: An item below it stays out, 0..1; our choice for the default embedder.
        min_share: An item below this share of the best item's relevance stays out, 0..1; our choice.
        min_trust: An item below it is never read, 0..1.
        part_share: Weight of the agent's own part in the relevance; the rest is the whole task's.
        dense_share: Weight of the vectors in the relevance; the rest is BM25 over the candidates.
    """

    name = "role_aware"

    def __init__(
        self,
        *,
        store: MemoryStore,
        embedder: Embedder,
        clock: Clock | None = None,
        k: int = 200,
        budget_tokens: int | None = None,
        half_life_rounds: float = 2.0,
        weights: ScoreWeights | Mapping[str, float] | None = None,
        min_relevance: float = 0.15,
        min_share: float = 0.5,
        min_trust: float = 0.2,
        part_share: float = 0.8,
        dense_share: float = 0.5,
    ) -> None:
        self._store, self._embedder, self._clock = store, embedder, clock
        self._k, self._budget_tokens, self._half_life_rounds = k, budget_tokens, half_life_rounds
        self._weights = weights if isinstance(weights, ScoreWeights) else ScoreWeights.model_validate(weights or {})
        self._min_relevance, self._min_share, self._min_trust = min_relevance, min_share, min_trust
        self._part_share, self._dense_share = part_share, dense_share
        self._packer = _Packer(self.name)

    async def select(self, request: ContextRequest, ctx: RunContext) -> ContextPack:
        started = ctx.clock.monotonic()
        budget = budget_for(request, default_tokens=self._budget_tokens)
        clock = self._clock or ctx.clock
        texts = _queries(request)
        known = leads(request.task.full_text, request.known)[:MOST_LEADS]
        found, length = await self._search(texts, request, clock.now())
        counter = await self._packer.counter(request.model)
        cosines = {item.id: (item, similarity * length) for item, similarity in found}
        for item, similarity in await self._look_up(known, request, clock.now()):
            cosines.setdefault(item.id, (item, KNOWN_SHARE * similarity))
        candidates, reasons = _admit(cosines, request, at=clock.now(), min_trust=self._min_trust)
        measured = await self._packer.measure(candidates, counter)
        scored = self._score(measured, np.array([cosines[m.item.id][1] for m in measured]), texts, known, request, ctx)
        chosen = _choose(scored, budget, self._min_relevance, self._min_share, overhead=self._packer.overhead(counter))
        return self._packer.pack(
            request, chosen, reasons, budget=budget, counter=counter, latency_ms=_since(started, ctx)
        )

    async def _search(self, texts: Sequence[str], request: ContextRequest, at: float) -> tuple[list[Found], float]:
        """What the store finds, by similarity to the agent's part and to the whole task where that is something else.

        One search does for both: a cosine with the mixed vector is the mix of the cosines over the mix's length, which
        is given too.
        """
        try:
            vectors = await self._embedder.embed(texts)
            mixed = vectors[0]
            if len(vectors) > 1:
                mixed = self._part_share * vectors[0] + (1.0 - self._part_share) * vectors[1]
            length = float(np.linalg.norm(mixed))
            query = (mixed / length if length else mixed).astype(np.float32)
            found = await self._store.search(request.task.tenant, query, k=self._k, where=_filter(request, at))
        except MeshError as error:
            raise ContextError(f"memory could not be searched: {error}") from error
        return found, length

    async def _look_up(self, known: Sequence[Lead], request: ContextRequest, at: float) -> list[Found]:
        """What the store finds by the names that earlier stages and rounds led to; nothing without them."""
        if not known:
            return []
        wanted = request.part.strip() or request.task.text
        try:
            vector = (await self._embedder.embed([f"{', '.join(lead.name for lead in known)}. {wanted}"]))[0]
            return await self._store.search(request.task.tenant, vector, k=self._k, where=_filter(request, at))
        except MeshError as error:
            raise ContextError(f"memory could not be searched: {error}") from error

    def _score(
        self,
        measured: Sequence[Measured],
        cosines: NDArray[np.float64],
        texts: Sequence[str],
        known: Sequence[Lead],
        request: ContextRequest,
        ctx: RunContext,
    ) -> "list[_Scored]":
        shares = (1.0,) if len(texts) == 1 else (self._part_share, 1.0 - self._part_share)
        lexical = _lexical(texts, shares, measured)
        asked = relevance(cosines, lexical, dense_share=self._dense_share)
        led = _led(known, request.task.full_text, measured)
        parts = {
            "relevance": asked + KNOWN_SHARE * led * (1.0 - asked),
            "role": np.array([request.role.kinds.get(m.item.kind, 0.0) for m in measured]),
            "stage": np.array([request.role.stage_priority.get(m.item.stage, 1.0) for m in measured]),
            "recency": recency(
                np.array([_age(m.item, request, ctx.run_id) for m in measured], dtype=np.float64),
                half_life_rounds=self._half_life_rounds,
            ),
            "trust": np.array([m.item.trust for m in measured], dtype=np.float64),
        }
        scores = importance(**parts, weights=self._weights).tolist()
        rest = [parts[name] for name in PARTS[3:-1]] + ([led] if known else [])
        rows = np.column_stack([parts["relevance"], cosines, lexical, *rest]).tolist()
        return [
            _Scored(m, score, row[0], row, own)
            for m, score, row, own in zip(measured, scores, rows, asked.tolist(), strict=True)
        ]


class _ByAge:
    """Everything that may be read, newest first, whatever it says, until the budget is spent.

    Args:
        store: Where memory is listed.
        embedder: Not used, as `half_life_rounds` is not; every context router takes both.
        clock: Says what is valid now; absent: the run's.
        budget_tokens: Of every pack; absent: the role's own, for `full` 6,000.
        min_trust: An item below it is never read, 0..1.
    """

    name = ""
    default_tokens: int | None = None
    """Budget where neither the request nor the project sets one; None: the role's own."""

    def __init__(
        self,
        *,
        store: MemoryStore,
        embedder: Embedder | None = None,
        clock: Clock | None = None,
        budget_tokens: int | None = None,
        half_life_rounds: float | None = None,
        min_trust: float = 0.2,
    ) -> None:
        self._store, self._clock, self._min_trust = store, clock, min_trust
        self._budget_tokens = self.default_tokens if budget_tokens is None else budget_tokens
        self._packer = _Packer(self.name)

    async def select(self, request: ContextRequest, ctx: RunContext) -> ContextPack:
        started = ctx.clock.monotonic()
        budget = budget_for(request, default_tokens=self._budget_tokens)
        at = (self._clock or ctx.clock).now()
        try:
            items = await self._store.list(request.task.tenant, _filter(request, at))
        except MeshError as error:
            raise ContextError(f"memory could not be listed: {error}") from error
        newest = sorted(items, key=lambda i: (i.created_at, i.round), reverse=True)[:NEWEST_KEPT]
        counter = await self._packer.counter(request.model)
        found = {item.id: (item, 0.0) for item in newest}
        candidates, reasons = _admit(found, request, at=at, min_trust=self._min_trust)
        measured = await self._packer.measure(candidates, counter)
        scored = [_Scored(m, 1.0 / (place + 1), 1.0) for place, m in enumerate(measured)]
        chosen = _choose(scored, budget, 0.0, 0.0, overhead=self._packer.overhead(counter), novel=False)
        return self._packer.pack(
            request, chosen, reasons, budget=budget, counter=counter, latency_ms=_since(started, ctx)
        )


class FullRouter(_ByAge):
    """The whole memory that the agent may read, within the explicit budget or what a model's window takes."""

    name = "full"
    default_tokens = FULL_TOKENS


class RecentRouter(_ByAge):
    """The newest items within the role's budget."""

    name = "recent"


class NoContextRouter:
    """An empty pack for everybody."""

    name = "none"

    def __init__(
        self,
        *,
        store: MemoryStore | None = None,
        embedder: Embedder | None = None,
        clock: Clock | None = None,
        budget_tokens: int | None = None,
        half_life_rounds: float | None = None,
    ) -> None:
        """Takes what every context router takes, and uses none of it."""

    async def select(self, request: ContextRequest, ctx: RunContext) -> ContextPack:
        return ContextPack(agent=request.card.id, role=request.card.role, router=self.name)


class _Scored(NamedTuple):
    measured: Measured
    score: float
    relevance: float
    parts: Sequence[float] = ()
    """As `PARTS` names them."""
    asked: float | None = None
    """Relevance to the question itself, where leads were looked up as well; None: the same."""

    @property
    def own(self) -> float:
        """Relevance to the question itself."""
        return self.relevance if self.asked is None else self.asked


@dataclass(frozen=True)
class _Choice:
    kept: list[_Scored]
    """Best first."""
    reasons: list[tuple[_Scored, str]]
    """Every scored item with the verdict on it, best first."""


class _Packer:
    """Counts, orders and renders packs for one router."""

    def __init__(self, router: str) -> None:
        self._router = router
        self._measures = Measures()
        self._counters: dict[str, TokenCounter] = {}
        self._overheads: dict[str, int] = {}

    async def counter(self, model: str) -> TokenCounter:
        """The token counter of this model; the first one loads a file, so that happens in another thread."""
        if model not in self._counters:
            self._counters[model] = await asyncio.to_thread(counter_for, model)
        return self._counters[model]

    async def measure(self, items: Sequence[MemoryItem], counter: TokenCounter) -> list[Measured]:
        known = self._measures.known(items, counter)
        if sum(measured is None for measured in known) <= MEASURED_AT_ONCE:
            return self._measures.fill(items, known, counter)
        return await asyncio.to_thread(self._measures.fill, items, known, counter)

    def overhead(self, counter: TokenCounter) -> int:
        """Tokens of the fence around a pack."""
        if counter.name not in self._overheads:
            empty = PackItem(ref="m1", item_id="", text="x", tokens=0)
            self._overheads[counter.name] = counter.count(render_pack([empty])) - counter.count("[m1] x\n") + 1
        return self._overheads[counter.name]

    def pack(
        self,
        request: ContextRequest,
        choice: _Choice,
        refused_items: Sequence[tuple[MemoryItem, str]],
        *,
        budget: int,
        counter: TokenCounter,
        latency_ms: float,
    ) -> ContextPack:
        """Render what was kept; if the whole counts more than its parts did, the least item goes."""
        kept = list(choice.kept)
        items, text, tokens = _render(kept, counter)
        cut: set[str] = set()
        while tokens > budget and kept:
            cut.add(kept.pop().measured.item.id)
            items, text, tokens = _render(kept, counter)
        report = [
            {
                "item_id": s.measured.item.id,
                "source": s.measured.item.source,
                "kept": reason == CHOSEN and s.measured.item.id not in cut,
                "reason": "does not fit once rendered" if s.measured.item.id in cut else reason,
                "tokens": s.measured.tokens,
                "score": s.score,
                "parts": dict(zip(PARTS, s.parts, strict=False)),
            }
            for s, reason in choice.reasons
        ]
        report += [
            {"item_id": i.id, "source": i.source, "kept": False, "reason": why, "tokens": 0, "score": 0.0}
            for i, why in refused_items
        ]
        return ContextPack(
            agent=request.card.id,
            role=request.card.role,
            items=tuple(items),
            text=text,
            tokens=tokens,
            budget_tokens=budget,
            tokenizer=counter.name,
            report=_report_adapter.validate_python(report),
            router=self._router,
            latency_ms=latency_ms,
        )


_report_adapter = TypeAdapter(tuple[Inclusion, ...])
_items_adapter = TypeAdapter(list[PackItem])
"""Make all values of a pack at once: half the time of one after the other."""


def _queries(request: ContextRequest) -> list[str]:
    """The agent's part, then the whole task if that is another text."""
    task, part = request.task.text.strip(), request.part.strip()
    return [part, task] if part and part != task else [task]


def _filter(request: ContextRequest, at: float) -> MemoryFilter:
    return MemoryFilter(
        kinds=tuple(request.role.kinds),
        user=request.task.user,
        role=request.card.role,
        agent=request.card.id,
        thread=request.task.thread,
        at=at,
    )


def _admit(
    found: Mapping[str, tuple[MemoryItem, float]], request: ContextRequest, *, at: float, min_trust: float
) -> tuple[list[MemoryItem], list[tuple[MemoryItem, str]]]:
    """Those that the agent may read, and those that it may know of but not read, with the reason."""
    admitted: list[MemoryItem] = []
    reasons: list[tuple[MemoryItem, str]] = []
    for item, _ in found.values():
        reason = refused(item, request, at=at, min_trust=min_trust)
        if reason is None:
            admitted.append(item)
        elif reason:
            reasons.append((item, reason))
    return admitted, reasons


def _lexical(texts: Sequence[str], shares: Sequence[float], measured: Sequence[Measured]) -> NDArray[np.float64]:
    """How much of the texts' words each item holds, as a whole and for the single question that it fits best."""
    queries = [_questions(text[:QUERY_CHARS]) for text in texts]
    found = bm25_shares(
        [stems for query in queries for stems in query], [m.counts for m in measured], [m.length for m in measured]
    )
    total, first = np.zeros(len(measured)), 0
    for query, share in zip(queries, shares, strict=True):
        whole, single = found[first], found[first + 1 : first + len(query)]
        best = single.max(axis=0) if len(single) else whole
        total += share * (BEST_ASK_SHARE * best + (1 - BEST_ASK_SHARE) * whole)
        first += len(query)
    return total


def _led(known: Sequence[Lead], question: str, measured: Sequence[Measured]) -> NDArray[np.float64]:
    """How far each item is about a name that known sentences led to and holds what is still open, 0..1, shape (n,)."""
    if not known or not measured:
        return np.zeros(len(measured))
    asked = list(dict.fromkeys(content_words(question[:QUERY_CHARS])))
    queries = [list(lead.stems) for lead in known] + [[w for w in asked if w not in lead.covered] for lead in known]
    headed = [m.counts + Counter(_heading(m.item.source)) for m in measured]
    found = bm25_shares(queries, headed, [m.length for m in measured])
    named, still_open = found[: len(known)], found[len(known) :]
    best = max(lead.share for lead in known)
    weights = np.array([lead.share / best for lead in known])[:, None]
    return (weights * named * (NAME_SHARE + (1.0 - NAME_SHARE) * still_open)).max(axis=0)


@lru_cache(maxsize=4096)
def _heading(source: str) -> tuple[str, ...]:
    """Stems of the line that says where an item comes from: often it alone says what the item is about."""
    return tuple(content_words(source))


@lru_cache(maxsize=64)
def _questions(text: str) -> tuple[tuple[str, ...], ...]:
    """Stems of the text, then of each single question in it; all agents of a round ask about the same task."""
    single = asks(text)
    return tuple(tuple(content_words(t)) for t in (text, *(single[:MOST_ASKS] if len(single) > 1 else ())))


def _age(item: MemoryItem, request: ContextRequest, run_id: str) -> float:
    """Rounds since this run wrote the item; NaN if it did not."""
    return float(max(0, request.round - item.round)) if item.run_id is not None and item.run_id == run_id else np.nan


def _choose(
    scored: Sequence[_Scored], budget: int, min_relevance: float, min_share: float, *, overhead: int, novel: bool = True
) -> _Choice:
    """The items that are relevant, new and within the budget.

    What is known adds items and takes none away: the floor is set by relevance to the question, and a share of the
    budget is filled by that alone.
    """
    floor = max(min_relevance, min_share * max((s.own for s in scored), default=0.0))
    able = [s for s in scored if s.relevance >= floor]
    low = [s for s in scored if s.relevance < floor]

    def repeated(i: int, kept: Sequence[int]) -> str | None:
        same = next((k for k in kept if repeats(able[i].measured, able[k].measured)), None)
        return None if same is None else f"says the same as {able[same].measured.item.id}"

    checked: Callable[[int, Sequence[int]], str | None] | None = repeated if novel else None
    scores = np.array([s.score for s in able], dtype=np.float64)
    costs = np.array([s.measured.tokens for s in able], dtype=np.int64)
    if any(s.own < s.relevance for s in able):
        asked = np.array([s.own if s.own >= floor else -1.0 for s in able], dtype=np.float64)
        first = select_under_budget(asked, costs, budget=int(QUESTION_SHARE * (budget - overhead)), repeats=checked)
        scores[[i for i in first.kept if asked[i] >= 0]] += 1.0  # scores are at most 1: these come before all others
    selection = select_under_budget(scores, costs, budget=budget - overhead, repeats=checked)
    verdicts = [(s, selection.reasons[i]) for i, s in enumerate(able)]
    verdicts += [(s, f"below the relevance floor: {s.relevance:.2f} < {floor:.2f}") for s in low]
    verdicts.sort(key=lambda v: -v[0].score)
    return _Choice([able[i] for i in selection.kept], verdicts)


def _render(kept: Sequence[_Scored], counter: TokenCounter) -> tuple[list[PackItem], str, int]:
    """Pack items in reading order: those of one file (`file > heading` is a source) together, the best item's first."""
    groups: dict[str, list[_Scored]] = {}
    for s in kept:
        item = s.measured.item
        groups.setdefault(item.source.partition(" > ")[0] or item.id, []).append(s)
    ordered = [s for group in groups.values() for s in group]
    items = _items_adapter.validate_python(
        [
            {
                "ref": f"m{place}",
                "item_id": s.measured.item.id,
                "text": s.measured.item.text,
                "source": s.measured.item.source,
                "kind": s.measured.item.kind,
                "trust": s.measured.item.trust,
                "tokens": s.measured.tokens,
                "score": s.score,
            }
            for place, s in enumerate(ordered, start=1)
        ]
    )
    text = render_pack(items)
    return items, text, counter.count(text)


def _since(started: float, ctx: RunContext) -> float:
    return (ctx.clock.monotonic() - started) * 1000
