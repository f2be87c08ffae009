"""What the router `semantic` has learned from sets of cards: made once, remembered, adapted when few cards change.

Which kind of fit a set of cards gets is decided here: `CalibratedCards` for most, `SeveralCards` where one message is
for several agents as a rule, `CardIndex` for hundreds of agents and more.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from agentmesh.routing.adapted import AdaptedCards, adaptable, changes
from agentmesh.routing.calibration import RIDGE_AGENTS, CalibratedCards, learns_from
from agentmesh.routing.index import CardIndex
from agentmesh.routing.several import ENOUGH_SHARED, SeveralCards, shared_share
from agentmesh.types import AgentCard

__all__ = ["Fit", "Fits", "same_cards"]

Fit = CalibratedCards | SeveralCards | CardIndex
Cards = tuple[AgentCard, ...]
Embed = Callable[[Sequence[str]], Awaitable[NDArray[np.float32]]]
Key = tuple[tuple[object, ...], ...]

INDEXED_AGENTS = 256
"""More agents than these are looked up in an index whatever their examples: a head over them is not fitted in time."""
REFIT_AFTER_S = 2.0
"""Seconds without a further change of the cards after which they are fitted anew."""
MOST_CHANGED = 64
"""Cards that an index is changed by at once."""
REMEMBERED = 8
"""Sets of cards whose fit is kept, newest used."""

_log = logging.getLogger(__name__)


class Fits:
    """The fits of the sets of cards that were asked about last.

    Args:
        embed: Makes dense vectors, shape (n, d); d may be 0.
    """

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._by_text: OrderedDict[Key, Fit] = OrderedDict()
        self._recent: list[tuple[Cards, Fit]] = []
        self._bases: list[tuple[Cards, Fit]] = []
        self._making: dict[Key, asyncio.Task[Fit]] = {}
        self._waiting: asyncio.TimerHandle | None = None

    async def of(self, cards: Cards) -> Fit:
        """The fit of these cards: remembered, adapted from one of nearly the same cards, or made now.

        An adapted fit is used at once while the cards are fitted anew in the background.

        Raises:
            ModelError: If the texts of the cards could not be embedded.
        """
        for known, fit in self._recent:
            if same_cards(cards, known):
                return fit
        if len(cards) > INDEXED_AGENTS:
            fit = await self._changed_index(cards)
            if fit is None:
                fit = await self._make(cards)
                self._bases = _newest(self._bases, cards, fit)
        else:
            fit = await self._of_some(cards)
        self._recent = _newest(self._recent, cards, fit)
        return fit

    async def _of_some(self, cards: Cards) -> Fit:
        """The same for cards few enough to be compared by what they say."""
        key = tuple((c.id, c.name, c.description, c.examples, c.not_for, c.instructions) for c in cards)
        if (known := self._by_text.get(key)) is not None:
            self._by_text.move_to_end(key)
            return known
        if key not in self._making:
            changed = await self._changed_index(cards) or await self._adapted(cards)
            if changed is not None:
                if isinstance(changed, AdaptedCards):
                    self._refit_later(key, cards)
                return changed
        return await asyncio.shield(self._start(key, cards))

    # --- made anew ----------------------------------------------------------------------------------------------------

    async def _make(self, cards: Cards) -> Fit:
        kind = _kind_for(cards)
        vectors = await self._embed(kind.texts(cards))
        return await asyncio.to_thread(kind, cards, vectors)

    def _refit_later(self, key: Key, cards: Cards) -> None:
        """Fit these cards once no others were asked about for a while."""
        if self._waiting is not None:
            self._waiting.cancel()
        loop = asyncio.get_running_loop()
        self._waiting = loop.call_later(REFIT_AFTER_S, lambda: self._start(key, cards))

    def _start(self, key: Key, cards: Cards) -> "asyncio.Task[Fit]":
        """Fit these cards, once for all that wait for it."""
        task = self._making.get(key)
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            task = asyncio.ensure_future(self._make(cards))
            self._making[key] = task
            task.add_done_callback(lambda done: self._made(key, cards, done))
        return task

    def _made(self, key: Key, cards: Cards, done: "asyncio.Task[Fit]") -> None:
        """A fit has ended: it takes the place of an adapted one; those that waited for it have its error."""
        if self._making.get(key) is done:
            del self._making[key]
        if done.cancelled():
            return
        if (error := done.exception()) is not None:
            _log.warning("the router's cards could not be fitted anew: %s", error)
            return
        fit = done.result()
        self._by_text[key] = fit
        while len(self._by_text) > REMEMBERED:
            self._by_text.popitem(last=False)
        self._bases = _newest(self._bases, cards, fit)
        self._recent = [(known, fit if same_cards(cards, known) else before) for known, before in self._recent]

    # --- adapted ------------------------------------------------------------------------------------------------------

    async def _adapted(self, cards: Cards) -> Fit | None:
        """A fit of nearly the same cards, changed for these; None if there is none near enough."""
        if _kind_for(cards) is not CalibratedCards:
            return None
        for known, base in self._bases:
            if isinstance(base, CalibratedCards) and adaptable(known, cards):
                added, _ = changes(known, cards)
                vectors = await self._embed(AdaptedCards.texts(added))
                adapted = await asyncio.to_thread(AdaptedCards, base, cards, added, vectors)
                if adapted.stale:
                    _log.warning("routing goes on with an old calibration: %s", adapted.stale)
                return adapted
        return None

    async def _changed_index(self, cards: Cards) -> Fit | None:
        """An index of nearly the same cards, changed for these; None if there is none or it is worn."""
        if _kind_for(cards) is not CardIndex:
            return None
        for known, base in (*self._recent, *self._bases):
            if isinstance(base, CardIndex) and not base.worn and abs(len(known) - len(cards)) <= MOST_CHANGED:
                # By identity: comparing what ten thousand cards say would take longer than embedding a few again.
                before = set(map(id, known))
                added = [card for card in cards if id(card) not in before]
                if len(added) <= MOST_CHANGED:
                    vectors = await self._embed(CardIndex.card_texts(added))
                    return await asyncio.to_thread(base.with_changes, cards, added, vectors)
        return None


def same_cards(some: Cards, others: Cards) -> bool:
    """Whether these say the same in the same order; of the same objects that is known at once."""
    return some is others or (len(some) == len(others) and some == others)


def _newest(kept: list[tuple[Cards, Fit]], cards: Cards, fit: Fit) -> list[tuple[Cards, Fit]]:
    """The fits that are kept, this one first."""
    return [(cards, fit), *((known, other) for known, other in kept if not same_cards(cards, known))][:REMEMBERED]


def _kind_for(cards: Cards) -> type[CalibratedCards] | type[SeveralCards] | type[CardIndex]:
    if len(cards) > INDEXED_AGENTS:
        return CardIndex
    if shared_share(cards) >= ENOUGH_SHARED:
        return SeveralCards
    return CardIndex if len(cards) > RIDGE_AGENTS and not learns_from(cards) else CalibratedCards
