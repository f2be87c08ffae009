"""What is known of each agent by example, as vectors: the texts of its card, and how agents did on earlier tasks.

The ground of the routers that learn from outcomes; each adds one formula. Readers get a snapshot that never changes;
`learn` puts a newer one beside it, so that no decision waits for it. Texts of outcomes are compared, never shown: they
may be of another tenant than the one who asks. Nothing is kept over a restart; a file of outcomes is read again.
"""

import asyncio
import math
import re
import threading
import time
import zlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentmesh.errors import ConfigError
from agentmesh.models.base import Embedder
from agentmesh.routing.answered import with_answer
from agentmesh.routing.base import decided_in_time, unique_cards
from agentmesh.routing.outcomes import OutcomeRow, OutcomeTable, rows_of
from agentmesh.routing.parts import refers_back, specific_words
from agentmesh.routing.standing import Judgement, Limits, decision_of, nobody
from agentmesh.run import RunContext
from agentmesh.text import words
from agentmesh.types import AgentCard, Outcome, RouteRequest, RoutingDecision

__all__ = [
    "GOOD",
    "LEAST_SIMILARITY",
    "Arm",
    "Asked",
    "CardTexts",
    "Experience",
    "ExperiencedRouter",
    "Known",
    "Recorded",
    "number_option",
]

Floats = NDArray[np.float32]
Arm = tuple[str, str | None]
"""An agent and one of its variants, or none of them."""

LEAST_SIMILARITY = 0.25
"""Least cosine to a known text. With `wordllama` and 30 examples for each of clinc150's 10 agents, 94 % of 497 test
rows reach it, and 23 % of 103 rows that nobody is for stay below; another embedder may need another value."""
GOOD = 0.5
"""Quality from which an outcome speaks for its agent."""
FEW_EXAMPLES = 5
"""Below so many examples the clauses of a card's description count as texts of their own."""
TEXT_CHARS = 4_000
"""Characters of a text that are compared."""
INLINE_ROWS = 2_000
"""Up to so many texts a message is compared in the event loop's own thread: below about 1 ms."""
INLINE_CARDS = 100
"""Up to so many cards a decision is put together in the event loop's own thread: below about 2 ms."""
REMEMBERED = 8
"""Sets of cards that are kept ready, newest used."""
MOST_CARDS = 20_000
"""Cards whose vectors are kept."""
_CLAUSE = re.compile(r"[,;:.]\s+|\s+and\s+")


@dataclass(frozen=True)
class CardTexts:
    """The texts of one card as vectors of unit length."""

    card: AgentCard
    wins: Floats
    """What it is for, shape (n, d): examples, then the description, then clauses of it if examples are few."""
    codes: NDArray[np.int64]
    """One number for each text, equal for equal texts."""
    examples: int
    """How many of the rows are examples."""
    against: Floats
    """What it is not for, shape (m, d)."""


@dataclass(frozen=True)
class Recorded:
    """Outcomes as arrays, oldest first; `arms[arm[i]]` worked on row i."""

    rows: tuple[OutcomeRow, ...]
    vectors: Floats
    arms: tuple[Arm, ...]
    arm: NDArray[np.int64]
    codes: NDArray[np.int64]
    quality: NDArray[np.float64]
    cost_usd: NDArray[np.float64]
    energy_wh: NDArray[np.float64]
    """NaN where it is not known."""
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def total(self) -> int:
        """Rows so far, the dropped ones too: it only grows."""
        return len(self.rows) + self.dropped

    def of_agent(self, agent: str) -> NDArray[np.int64]:
        """Positions of the rows of an agent, whatever the variant."""
        arms = [i for i, (name, _) in enumerate(self.arms) if name == agent]
        return np.flatnonzero(np.isin(self.arm, arms))


@dataclass(frozen=True)
class Known:
    """All that is known of some cards at one moment."""

    texts: tuple[CardTexts, ...]
    recorded: Recorded

    @cached_property
    def wins(self) -> Floats:
        """The texts of all cards, one below the other."""
        return np.concatenate([t.wins for t in self.texts])

    @cached_property
    def owner(self) -> NDArray[np.int64]:
        """The position of the card of each of these rows."""
        return np.repeat(np.arange(len(self.texts)), [len(t.wins) for t in self.texts])

    @cached_property
    def codes(self) -> NDArray[np.int64]:
        """The code of each of these rows."""
        return np.concatenate([t.codes for t in self.texts])

    @cached_property
    def places(self) -> dict[str, int]:
        """The position of each agent's card."""
        return {t.card.id: place for place, t in enumerate(self.texts)}

    @cached_property
    def agent_of_row(self) -> NDArray[np.int64]:
        """The position of the agent's card for each recorded row; -1: it is not among these cards."""
        of_arm = np.array([self.places.get(agent, -1) for agent, _ in self.recorded.arms], np.int64)
        return of_arm[self.recorded.arm] if len(of_arm) else np.zeros(0, np.int64)


@dataclass(frozen=True)
class Asked:
    """A message as it is compared."""

    request: RouteRequest
    text: str
    """With what it refers back to, and with the answers of the user."""
    vector: Floats
    """Unit length, or zeros."""
    to_cards: Floats
    """Cosine to each row of `Known.wins`."""
    to_rows: Floats
    """Cosine to each recorded row."""
    near: NDArray[np.float64]
    """Cosine of each agent's nearest text; good outcomes count."""
    against: NDArray[np.float64]
    """Cosine of the nearest text that each agent is not for; -1 where there is none."""


Judge = Callable[[Known, Asked], Awaitable[Judgement]]


class Experience:
    """Makes and keeps the vectors, and lets a router judge a message by them.

    Args:
        router: Name of the router that this is for.
        embedder: Makes the vectors; without one nothing can be compared.
        table: Outcomes from the start.
        least_similarity: Least cosine of a chosen agent to a text that it is known for, -1 to 1.
    """

    def __init__(
        self, router: str, embedder: Embedder | None, table: OutcomeTable, *, least_similarity: float = LEAST_SIMILARITY
    ) -> None:
        if embedder is None:
            raise ConfigError(f"the router {router!r} compares texts by meaning; give it an embedder")
        number_option(router, "least_similarity", least_similarity, -1.0, 1.0)
        self._router, self._embedder = router, embedder
        self._limits = Limits(least_similarity)
        self._table = table
        self._recorded: Recorded | None = None
        self._buffers: _Buffers | None = None
        self._swap = threading.Lock()
        self._texts: OrderedDict[tuple[object, ...], CardTexts] = OrderedDict()
        self._known: OrderedDict[tuple[int, ...], tuple[tuple[AgentCard, ...], Known]] = OrderedDict()
        self._making: dict[object, asyncio.Task[Any]] = {}
        self._seen: OrderedDict[str, None] = OrderedDict()

    @property
    def table(self) -> OutcomeTable:
        """The outcomes that are known now."""
        return self._table

    async def recorded(self) -> Recorded:
        """The outcomes that are known now, as vectors. May raise `ModelError`."""
        if self._recorded is None:
            return await self._once("outcomes", self._load)
        return self._recorded

    async def decide(self, request: RouteRequest, ctx: RunContext, judge: Judge) -> RoutingDecision:
        """One decision by what `judge` finds.

        Raises:
            RoutingError: If the time is up or the embedder fails.
        """
        started = time.perf_counter()
        cards = unique_cards(request.cards)
        text = _to_compare(request)
        if not any(not card.shadow for card in cards):
            decision = nobody(
                self._router, cards, "every agent is a shadow" if cards else "there is no agent to choose from"
            )
        elif not words(text):
            decision = nobody(self._router, cards, "the message holds no words")
        else:
            decision = await decided_in_time(self._router, ctx, self._decide(request, cards, text, judge))
        return decision.model_copy(update={"latency_ms": (time.perf_counter() - started) * 1000})

    async def known(self, cards: Sequence[AgentCard]) -> Known:
        """All that is known of these cards; what is new is embedded. May raise `ModelError`."""
        recorded = await self.recorded()
        # Frozen cards that are the same objects are the same cards; keeping them keeps their ids from being reused.
        identity = tuple(map(id, cards))
        found = self._known.get(identity)
        if found is None or found[1].recorded is not recorded:
            texts = found[1].texts if found else await self._once(identity, lambda: self._texts_of(tuple(cards)))
            known = Known(texts, recorded)
            if found:  # the stacked rows are those of the cards alone
                for name in ("wins", "owner", "codes", "places"):
                    if name in found[1].__dict__:
                        known.__dict__[name] = found[1].__dict__[name]
            found = (tuple(cards), known)
            self._known[identity] = found
        self._known.move_to_end(identity)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return found[1]

    async def embed(self, texts: Sequence[str]) -> Floats:
        """Vectors of texts. May raise `ModelError`."""
        return await self._embedder.embed([text[:TEXT_CHARS] for text in texts])

    async def learn(
        self, outcome: Outcome, label: Callable[[OutcomeRow, Floats], OutcomeRow] | None = None
    ) -> tuple[OutcomeRow, ...]:
        """Take in what a finished run says; the rows that were taken.

        Nothing is taken of an agent that never was a candidate here, of a decision without agents, or of a number that
        is none. May raise `ModelError`.

        Args:
            outcome: The run.
            label: What a row becomes, given its vector, before it is taken; absent: it stays as it is.
        """
        rows = tuple(r for r in rows_of(outcome) if not self._seen or r.agent in self._seen)
        if not rows:
            return ()
        await self.recorded()
        vectors = await self.embed([row.text for row in rows])
        if label is not None:
            rows = tuple(label(row, vector) for row, vector in zip(rows, vectors, strict=True))
        with self._swap:
            assert self._buffers is not None
            self._table = self._table.with_rows(rows)
            self._recorded = self._buffers.add(rows, vectors, self._table)
        return rows

    async def _decide(
        self, request: RouteRequest, cards: tuple[AgentCard, ...], text: str, judge: Judge
    ) -> RoutingDecision:
        for card in cards:
            self._seen[card.id] = None
        while len(self._seen) > MOST_CARDS:
            self._seen.popitem(last=False)
        known = await self.known(cards)
        (vector,) = await self._embedder.embed([text])
        if len(known.wins) + len(known.recorded) <= INLINE_ROWS:
            asked = _compared(request, text, vector, known)
        else:
            asked = await asyncio.to_thread(_compared, request, text, vector, known)
        judged = await judge(known, asked)
        vague = not specific_words(text)
        if len(cards) <= INLINE_CARDS:
            return decision_of(self._router, request, cards, judged, self._limits, vague=vague)
        return await asyncio.to_thread(decision_of, self._router, request, cards, judged, self._limits, vague=vague)

    async def _load(self) -> Recorded:
        """The vectors of the table that there is from the start."""
        rows = self._table.rows
        if not rows:
            return self._begin((), np.zeros((0, self._embedder.dimensions), np.float32))
        vectors = await self.embed([row.text for row in rows])
        return await asyncio.to_thread(self._begin, rows, vectors)

    def _begin(self, rows: Sequence[OutcomeRow], vectors: Floats) -> Recorded:
        with self._swap:
            if self._recorded is None:
                self._buffers = _Buffers(self._embedder.dimensions, self._table.most)
                self._recorded = self._buffers.add(rows, vectors, self._table)
            return self._recorded

    async def _texts_of(self, cards: tuple[AgentCard, ...]) -> tuple[CardTexts, ...]:
        """The texts of cards as vectors; those of a card that did not change are there already."""
        keys = [(c.id, c.name, c.description, c.examples, c.not_for) for c in cards]
        new = {key: card for key, card in zip(keys, cards, strict=True) if key not in self._texts}
        wanted: list[str] = []
        for card in new.values():
            wanted += [text[:TEXT_CHARS] for text in (*_wins(card), *card.not_for)]
        vectors = await self._embedder.embed(wanted) if wanted else np.zeros((0, 0), np.float32)
        at = 0
        for key, card in new.items():
            own, not_for = _wins(card), len(card.not_for)
            middle, end = at + len(own), at + len(own) + not_for
            codes = np.array([_code(text) for text in own], np.int64)
            self._texts[key] = CardTexts(card, vectors[at:middle], codes, len(card.examples), vectors[middle:end])
            at = end
        found: list[CardTexts] = []
        for key in keys:
            self._texts.move_to_end(key)
            found.append(self._texts[key])
        while len(self._texts) > max(MOST_CARDS, len(cards)):
            self._texts.popitem(last=False)
        return tuple(found)

    async def _once(self, key: object, make: Callable[[], Awaitable[Any]]) -> Any:
        """What `make` gives, made once for all that wait for it at the same time."""
        task = self._making.get(key)
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            task = asyncio.ensure_future(make())
            self._making[key] = task
            task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)

    def _forget(self, key: object, done: "asyncio.Task[Any]") -> None:
        if self._making.get(key) is done:
            del self._making[key]
        if not done.cancelled():
            done.exception()


class ExperiencedRouter(ABC):
    """What the routers share that judge a message by experience: each adds `_judge` and what `learn` changes of it."""

    _experience: Experience

    @property
    def outcomes(self) -> OutcomeTable:
        """The outcomes that are known now."""
        return self._experience.table

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        return await self._experience.decide(request, ctx, self._judge)

    @abstractmethod
    async def _judge(self, known: Known, asked: Asked) -> Judgement: ...


class _Buffers:
    """Room for rows to come: snapshots are views of its beginning, and what is written lies behind all of them."""

    def __init__(self, dimensions: int, most: int) -> None:
        self._most, self._start, self._end = most, 0, 0
        self._arms: dict[Arm, int] = {}
        self._arrays: dict[str, NDArray[Any]] = {
            "vectors": np.zeros((0, dimensions), np.float32),
            "arm": np.zeros(0, np.int64),
            "codes": np.zeros(0, np.int64),
            "quality": np.zeros(0, np.float64),
            "cost_usd": np.zeros(0, np.float64),
            "energy_wh": np.zeros(0, np.float64),
        }

    def add(self, rows: Sequence[OutcomeRow], vectors: Floats, table: OutcomeTable) -> Recorded:
        """A snapshot with these rows behind, of at most `most` rows."""
        self._make_room(len(rows))
        new: dict[str, Any] = {
            "vectors": vectors.reshape(len(rows), -1) if len(rows) else np.zeros((0, self._arrays["vectors"].shape[1])),
            "arm": [self._arms.setdefault((r.agent, r.variant), len(self._arms)) for r in rows],
            "codes": [_code(r.text) for r in rows],
            "quality": [r.quality for r in rows],
            "cost_usd": [r.cost_usd for r in rows],
            "energy_wh": [math.nan if r.energy_wh is None else r.energy_wh for r in rows],
        }
        for name, values in new.items():
            self._arrays[name][self._end : self._end + len(rows)] = values
        self._end += len(rows)
        self._start = max(self._start, self._end - self._most)
        views: dict[str, Any] = {name: array[self._start : self._end] for name, array in self._arrays.items()}
        return Recorded(rows=table.rows, arms=tuple(self._arms), dropped=table.dropped, **views)

    def _make_room(self, count: int) -> None:
        if self._end + count <= len(self._arrays["arm"]):
            return
        kept = self._end - self._start
        size = max(64, 2 * (kept + count))
        for name, array in self._arrays.items():
            larger = np.zeros((size, *array.shape[1:]), array.dtype)
            larger[:kept] = array[self._start : self._end]
            self._arrays[name] = larger
        self._start, self._end = 0, kept


def number_option(
    router: str, option: str, value: object, least: float, most: float = math.inf, *, whole: bool = False
) -> None:
    """Raise `ConfigError` unless this is a (whole) number from `least` to `most`."""
    kind = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
        bound = f"from {least:g}" + (f" to {most:g}" if math.isfinite(most) else "")
        what = "whole number" if whole else "number"
        raise ConfigError(f"the option {option} of the router {router!r} is {value!r}; give a {what} {bound}")


def _wins(card: AgentCard) -> list[str]:
    """What a card is for, as texts: examples first."""
    told = f"{card.title}: {card.description}"
    texts = [*card.examples, told]
    if len(card.examples) < FEW_EXAMPLES:
        clauses = (clause.strip(" .") for clause in _CLAUSE.split(card.description))
        texts += [clause for clause in clauses if specific_words(clause) and clause != card.description]
    return texts


def _code(text: str) -> int:
    """Equal for equal texts; others hardly ever share one."""
    data = text.encode("utf-8", "replace")
    return zlib.crc32(data) << 30 | zlib.adler32(data) & 0x3FFFFFFF


def _to_compare(request: RouteRequest) -> str:
    """The message with the answers of the user and, where it can only be understood with it, the turn before."""
    text = request.task.text
    if answers := " ".join(c.answer.strip() for c in request.task.clarifications):
        text = with_answer(text, answers)
    if refers_back(text):
        before = next((m.text for m in reversed(request.task.history) if m.role == "user"), "")
        text = f"{before[-500:]} {text}".strip()
    return text[:TEXT_CHARS]


def _compared(request: RouteRequest, text: str, vector: Floats, known: Known) -> Asked:
    to_cards, to_rows = known.wins @ vector, known.recorded.vectors @ vector
    near = np.full(len(known.texts), -1.0)
    starts = np.cumsum([0, *(len(t.wins) for t in known.texts[:-1])])
    near = np.maximum(near, np.maximum.reduceat(to_cards, starts))
    good = (known.recorded.quality >= GOOD) & (known.agent_of_row >= 0)
    np.maximum.at(near, known.agent_of_row[good], to_rows[good])
    against = np.full(len(known.texts), -1.0)
    for place, texts in enumerate(known.texts):
        if len(texts.against):
            against[place] = float((texts.against @ vector).max())
    return Asked(request, text, vector, to_cards, to_rows, near, against)
