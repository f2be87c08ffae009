"""The only way into shared memory: names items, finds what is known already, and keeps older versions out of sight.

Judges no text and calls no language model; what two sources disagree on stays, both sides.
"""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from typing import Annotated, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from agentmesh.memory.arrays import THREAD_KINDS
from agentmesh.memory.base import KeyedStore, MemoryFilter, MemoryStore
from agentmesh.models.base import Embedder
from agentmesh.run import Clock, SystemClock
from agentmesh.text import fold, stem, words
from agentmesh.types import AgentCard, AgentReply, Frozen, MemoryItem, MemoryKind, Share, Task

__all__ = ["Draft", "MemoryWriter", "WriteReport", "drafts_from_reply", "drafts_from_turn", "item_id"]

Seconds = Annotated[float, Field(allow_inf_nan=False)]
"""Seconds since 1970, UTC."""

SAME_COSINE = 0.98
"""Similarity from which two texts may be the same; their words decide. Our choice."""
NEIGHBOURS = 4
"""Most similar items that a new one is compared with."""
BATCH_TEXTS = 256
"""Drafts embedded and decided on together."""
DRAFTS_BETWEEN_BREATHS = 20
"""Drafts decided on before other tasks get their turn; a search of arrays takes up to 0.3 ms."""
ORDER_S = 1e-6
"""Seconds between the items of one write, so that their order is kept."""
ANSWER_TRUST = 0.8
"""Of an agent's answer that cites its sources; theirs may lower it."""
UNCITED_TRUST = 0.4
"""Of an agent's answer that cites nothing."""
USER_TRUST = 0.5
"""Of what a user says. All three are our choice; the project's own text has 1.0."""

_FILLER = frozenset(
    "a an the is are was were be been am has have had do does did will would please also just so".split()  # noqa: SIM905
)
"""Words without which a text says the same; `not`, `before`, `up`, `only` and their like are none."""


class Draft(Frozen):
    """What somebody wants remembered."""

    text: str
    kind: MemoryKind = MemoryKind.EVIDENCE
    key: str = ""
    """What it is about, stable over versions; empty: made of the source and the position in it."""
    source: str = ""
    author: str | None = None
    user: str | None = None
    roles: tuple[str, ...] = ()
    private_to: str | None = None
    trust: Share = 1.0
    lineage: tuple[str, ...] = ()
    valid_from: Seconds | None = None
    valid_until: Seconds | None = None
    run_id: str | None = None
    thread: str | None = None
    stage: str = ""
    round: int = 0


class WriteReport(Frozen):
    """What became of some drafts."""

    added: int = 0
    merged: int = 0
    """Drafts that were known already."""
    superseded: int = 0
    """Older versions that are no longer read."""
    item_ids: tuple[str, ...] = ()
    """The item of every draft that had text, in their order; merged ones name the item that was there."""


class MemoryWriter:
    """Writes drafts into a store.

    Args:
        store: Where to.
        embedder: Makes the vectors; the store's own.
        clock: Dates the items; absent: the machine's.
    """

    def __init__(self, store: MemoryStore, embedder: Embedder, *, clock: Clock | None = None) -> None:
        self.store, self.embedder = store, embedder
        self._keyed = store if isinstance(store, KeyedStore) else None
        self._clock = clock or SystemClock()
        self._locks: dict[str, asyncio.Lock] = {}

    async def write(self, tenant: str, drafts: Sequence[Draft]) -> WriteReport:
        """Remember what is new in `drafts`; the store is not flushed.

        The same draft twice is one item with the same id. Another text under the same key, for the same user and
        agent, supersedes the older one, which is kept; less trusted text never supersedes or replaces more trusted
        text of another source. A text that says the same as another of its kind and readers is merged into it; turns
        of a dialogue and agents' answers are not: who said it matters there. A derived item is trusted no more than
        any item of its lineage. Empty text is left out.

        Raises:
            StoreError: If the store cannot take it.
            ModelError: If the embedder failed; nothing was written.
        """
        wanted = _keyed(draft for draft in drafts if fold(draft.text))
        report = WriteReport()
        # two writers with the same key at once would both find nothing to supersede
        async with self._locks.setdefault(tenant, asyncio.Lock()):
            for low in range(0, len(wanted), BATCH_TEXTS):
                part = wanted[low : low + BATCH_TEXTS]
                vectors = await self.embedder.embed([draft.text for draft in part])
                report = _sum(report, await self._write(tenant, part, vectors, first=low))
        return report

    async def _write(
        self, tenant: str, drafts: Sequence[Draft], vectors: NDArray[np.float32], *, first: int
    ) -> WriteReport:
        """Decide about each draft in turn, then write what that changes in one batch."""
        batch = await self._begin(tenant, drafts)
        alike = vectors @ vectors.T >= SAME_COSINE
        now, merged, ids = self._clock.now(), 0, cast("list[str]", [])
        for n, draft in enumerate(drafts):
            if n % DRAFTS_BETWEEN_BREATHS == DRAFTS_BETWEEN_BREATHS - 1:
                await asyncio.sleep(0)
            item = batch.item(draft, tenant, now + (first + n) * ORDER_S)
            there = batch.known.get(item.id)
            if there is not None:
                merged += 1
                if _differ(item, there) and _may_replace(item, there):
                    live = there.superseded_by is None
                    batch.put(item.model_copy(update={"created_at": there.created_at}) if live else item, vectors[n])
            else:
                near = [batch.known[ids[m]] for m in np.flatnonzero(alike[n, :n]).tolist()]
                twin = _twin(item, [*near, *await self._near(tenant, item, vectors[n])], batch.superseded)
                if twin is not None and twin.trust >= item.trust:
                    merged += 1
                    ids.append(twin.id)
                    batch.known.setdefault(twin.id, twin)
                    continue
                batch.put(item, vectors[n], instead_of=twin)
            ids.append(item.id)
        added = len(batch.vectors.keys() - batch.there)
        await self._add(tenant, batch)
        return WriteReport(added=added, merged=merged, superseded=len(batch.superseded), item_ids=tuple(ids))

    async def _begin(self, tenant: str, drafts: Sequence[Draft]) -> "_Batch":
        keys = sorted({draft.key for draft in drafts})
        if self._keyed is not None:
            versions = await self._keyed.by_key(tenant, keys)
        else:
            versions = [item for item in await self.store.list(tenant) if item.key in set(keys)]
        lineage = sorted({i for draft in drafts for i in draft.lineage})
        origins = await self.store.get(tenant, lineage) if lineage else []
        return _Batch(versions, origins)

    async def _near(self, tenant: str, item: MemoryItem, vector: NDArray[np.float32]) -> Sequence[MemoryItem]:
        """Live items of the store that may say the same to the same readers."""
        if item.kind in (MemoryKind.DIALOGUE, MemoryKind.ANSWER):
            return []
        where = MemoryFilter(
            kinds=(item.kind,),
            user=item.user,
            role=item.roles[0] if item.roles else None,
            agent=item.private_to,
            thread=item.thread,
            at=item.valid_from,
        )
        found = await self.store.search(tenant, vector, k=NEIGHBOURS, where=where)
        return [hit.item for hit in found if hit.similarity >= SAME_COSINE]

    async def _add(self, tenant: str, batch: "_Batch") -> None:
        old = [i for i in batch.superseded if i not in batch.vectors]
        if old:
            again = await self.embedder.embed([batch.known[i].text for i in old])
            batch.vectors.update(zip(old, again, strict=True))
        if batch.vectors:
            items = [batch.known[i] for i in batch.vectors]
            await self.store.add(tenant, items, np.stack(list(batch.vectors.values())))


class _Batch:
    """What one write knows and changes."""

    def __init__(self, versions: Iterable[MemoryItem], origins: Iterable[MemoryItem]) -> None:
        self.known = {item.id: item for item in versions}
        self.there = frozenset(self.known)
        """Ids that the store had before."""
        self.vectors: dict[str, NDArray[np.float32]] = {}
        """Of the items to write."""
        self.superseded: set[str] = set()
        """Ids that a newer version took the place of in this write."""
        self._trust = {item.id: item.trust for item in origins}
        self._versions: dict[str, set[str]] = {}
        for item in self.known.values():
            self._versions.setdefault(item.key, set()).add(item.id)

    def item(self, draft: Draft, tenant: str, created_at: float) -> MemoryItem:
        """The draft as an item, trusted no more than what it was derived from."""
        fields = draft.model_dump(exclude={"trust"})
        trust = min([draft.trust, *(self._trust[i] for i in draft.lineage if i in self._trust)])
        return MemoryItem(id=item_id(draft), tenant=tenant, created_at=created_at, trust=trust, **fields)

    def put(self, item: MemoryItem, vector: NDArray[np.float32], *, instead_of: MemoryItem | None = None) -> None:
        """Write this item; what it is a newer version of is not read any more."""
        versions = self._versions.setdefault(item.key, set())
        old = [self.known[i] for i in versions if i != item.id]
        for before in [*old, *([instead_of] if instead_of is not None else [])]:
            if (
                before.superseded_by is None
                and _readers(before)[:2] == _readers(item)[:2]
                and _may_replace(item, before)
            ):
                self.known[before.id] = before.model_copy(update={"superseded_by": item.id})
                self.superseded.add(before.id)
        self.superseded.discard(item.id)
        versions.add(item.id)
        self.known[item.id], self.vectors[item.id], self._trust[item.id] = item, vector, item.trust


def item_id(draft: Draft) -> str:
    """The id of a draft that has a key: the same thing for the same readers is the same item. 24 hexadecimal digits."""
    named = json.dumps([draft.key, draft.kind, fold(draft.text), draft.user, draft.private_to])
    return hashlib.sha256(named.encode()).hexdigest()[:24]


def drafts_from_reply(
    reply: AgentReply,
    task: Task,
    card: AgentCard,
    *,
    run_id: str | None = None,
    kind: MemoryKind = MemoryKind.ANSWER,
) -> list[Draft]:
    """An agent's reply as memory: one item that names what it cites; nothing for a reply that failed.

    Of a model that is not capable the extracts are kept, not its own words; they are no plan, so a role that writes
    `plan_step` leaves nothing then.

    A run without a thread counts as a thread of its own, so that its answers are read in it and nowhere else.

    Args:
        reply: What the agent said.
        task: What it was asked, and on whose behalf.
        card: The agent; the reply of one with `visibility: private` is read by nobody else.
        run_id: The run; absent: the first part of the reply's call id.
        kind: What its role writes.
    """
    extracts = " ".join(s.text for s in reply.sentences if s.origin == "extractive") if reply.extractive else ""
    text = extracts or reply.text
    if not reply.ok or not text.strip() or (reply.extractive and kind is MemoryKind.PLAN_STEP):
        return []
    run = run_id or reply.call_id.partition("/")[0]
    thread = task.thread or run
    return [
        Draft(
            text=text,
            kind=kind,
            key=f"answer/{thread}/{reply.agent}/r{reply.round}",
            source=f"answer of {reply.agent}",
            author=reply.agent,
            user=task.user,
            private_to=card.id if card.visibility == "private" else None,
            trust=ANSWER_TRUST if reply.cited else UNCITED_TRUST,
            lineage=reply.cited,
            run_id=run,
            thread=thread,
            stage=reply.stage,
            round=reply.round,
        )
    ]


def drafts_from_turn(task: Task, answer_text: str, *, run_id: str | None = None) -> list[Draft]:
    """A question and its answer as two turns of a conversation; nothing outside of a thread.

    Args:
        task: The question.
        answer_text: What the mesh said.
        run_id: Tells the turns of a thread apart; absent: the length of the history does.
    """
    if task.thread is None:
        return []
    turn = run_id or str(len(task.history))
    sides = (("user", task.text, USER_TRUST), ("assistant", answer_text, UNCITED_TRUST))
    return [
        Draft(
            text=text,
            kind=MemoryKind.DIALOGUE,
            key=f"dialogue/{task.thread}/{turn}/{side}",
            source=f"conversation, {side}",
            user=task.user,
            trust=trust,
            run_id=run_id,
            thread=task.thread,
        )
        for side, text, trust in sides
        if text.strip()
    ]


def _keyed(drafts: Iterable[Draft]) -> list[Draft]:
    """Every draft with a key: its own, or its source and its position among those of that source, or its text."""
    seen: Counter[str] = Counter()
    keyed: list[Draft] = []
    for draft in drafts:
        if (text := draft.text.encode("utf-8", "replace").decode()) != draft.text:
            draft = draft.model_copy(update={"text": text})  # half a surrogate pair: embedders and disks refuse it
        if not draft.key:
            key = f"text/{hashlib.sha256(fold(draft.text).encode()).hexdigest()[:16]}"
            if draft.source:
                key = f"{draft.source}/{seen[draft.source]}"
                seen[draft.source] += 1
            draft = draft.model_copy(update={"key": key})
        keyed.append(draft)
    return keyed


def _sum(a: WriteReport, b: WriteReport) -> WriteReport:
    return WriteReport(
        added=a.added + b.added,
        merged=a.merged + b.merged,
        superseded=a.superseded + b.superseded,
        item_ids=a.item_ids + b.item_ids,
    )


def _readers(item: MemoryItem) -> tuple[str | None, str | None, tuple[str, ...], str | None]:
    """Who reads an item."""
    thread = item.thread if item.kind in THREAD_KINDS else None
    return item.user, item.private_to, item.roles, thread


def _differ(new: MemoryItem, old: MemoryItem) -> bool:
    """Whether writing the same text again changes something else about it."""
    return old.superseded_by is not None or any(
        getattr(new, name) != getattr(old, name)
        for name in ("source", "roles", "trust", "valid_from", "valid_until", "lineage")
    )


def _may_replace(new: MemoryItem, old: MemoryItem) -> bool:
    """Less trusted text of somebody else never hides more trusted text."""
    return new.trust >= old.trust or (new.source, new.author) == (old.source, old.author)


def _twin(item: MemoryItem, near: Iterable[MemoryItem], superseded: Container[str]) -> MemoryItem | None:
    """The first of `near` that says the same to the same readers, and is no other version of the same thing."""
    if item.kind is MemoryKind.DIALOGUE:
        return None
    said, valid = _said(item.text), (item.valid_from, item.valid_until)
    for other in near:
        if (
            other.key != item.key
            and other.kind is item.kind
            and other.superseded_by is None
            and other.id not in superseded
            and _readers(other) == _readers(item)
            and (other.valid_from, other.valid_until) == valid
            and _said(other.text) == said
        ):
            return other
    return None


def _said(text: str) -> list[str]:
    """What a text says: its words in order, numbers and negations among them, without filler and endings."""
    return [stem(word) for word in words(text) if word not in _FILLER]
