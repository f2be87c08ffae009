"""What the router `semantic` has learned from sets of cards: made once, remembered, adapted when few cards change.

Which kind of fit a set of cards gets is decided here: `CalibratedCards` for most, `SeveralCards` where one message is
for several agents as a rule, `CardIndex` for hundreds of agents and more.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from operator import is_

import numpy as np
from numpy.typing import NDArray

from agentmesh.routing.adapted import AdaptedCards, adaptable, changes
from agentmesh.routing.calibration import CalibratedCards
from agentmesh.routing.index import CardIndex
from agentmesh.routing.several import ENOUGH_SHARED, SeveralCards, shared_share
from agentmesh.types import AgentCard

__all__ = ["Fit", "Fits", "same_cards"]

Fit = CalibratedCards | SeveralCards | CardIndex
Cards = tuple[AgentCard, ...]
Embed = Callable[[Sequence[str]], Awaitable[NDArray[np.float32]]]
Key = tuple[tuple[object, ...], ...]

INDEXED_AGENTS = 256
"""More agents than these are looked up in an index instead of being told apart by a head."""
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
        self._making: dict[Key, asyncio.Task[Fit]] = {}

    async def of(self, cards: Cards) -> Fit:
        """The fit of these cards: remembered, adapted from one of nearly the same cards, or made now.

        An adapted fit is used at once while the cards are fitted anew in the background.

        Raises:
            ModelError: If the texts of the cards could not be embedded.
        """
        # Frozen cards that are the same objects are the same cards: their texts need not be compared.
        for known, fit in self._recent:
            if same_cards(cards, known):
                return fit
        if len(cards) > INDEXED_AGENTS:
            fit = await self._changed_index(cards) or await self._make(cards)
        else:
            key = tuple((c.id, c.name, c.description, c.examples, c.not_for, c.instructions) for c in cards)
            fit = self._by_text.get(key)
            if fit is None:
                fit = None if key in self._making else await self._adapted(cards)
                made = self._start(key, cards)
                fit = fit or await asyncio.shield(made)
            else:
                self._by_text.move_to_end(key)
        self._remember(cards, fit)
        return fit

    # --- made anew ----------------------------------------------------------------------------------------------------

    async def _make(self, cards: Cards) -> Fit:
        kind = _kind_for(cards)
        vectors = await self._embed(kind.texts(cards))
        return await asyncio.to_thread(kind, cards, vectors)

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
        self._recent = [(known, fit if same_cards(cards, known) else before) for known, before in self._recent]

    def _remember(self, cards: Cards, fit: Fit) -> None:
        others = [(known, other) for known, other in self._recent if not same_cards(cards, known)]
        self._recent = [(cards, fit), *others][:REMEMBERED]

    # --- adapted ------------------------------------------------------------------------------------------------------

    async def _adapted(self, cards: Cards) -> Fit | None:
        """A fit of nearly the same cards, changed for these; None if there is none near enough."""
        if _kind_for(cards) is not CalibratedCards:
            return None
        for known, base in self._recent:
            fitted = isinstance(base, CalibratedCards) and not isinstance(base, AdaptedCards)
            if fitted and adaptable(known, cards):
                added, _ = changes(known, cards)
                vectors = await self._embed(AdaptedCards.texts(added))
                adapted = await asyncio.to_thread(AdaptedCards, base, cards, added, vectors)
                if adapted.stale:
                    _log.warning("routing goes on with an old calibration: %s", adapted.stale)
                return adapted
        return None

    async def _changed_index(self, cards: Cards) -> Fit | None:
        """An index of nearly the same cards, changed for these; None if there is none or it is worn."""
        for known, base in self._recent:
            if isinstance(base, CardIndex) and not base.worn and abs(len(known) - len(cards)) <= MOST_CHANGED:
                added, _ = await asyncio.to_thread(changes, known, cards)
                if len(added) <= MOST_CHANGED:
                    vectors = await self._embed(CardIndex.card_texts(added))
                    return await asyncio.to_thread(base.with_changes, cards, added, vectors)
        return None


def same_cards(some: Cards, others: Cards) -> bool:
    """Whether these are the same objects in the same order."""
    return some is others or (len(some) == len(others) and all(map(is_, some, others)))


def _kind_for(cards: Cards) -> type[CalibratedCards] | type[SeveralCards] | type[CardIndex]:
    if len(cards) > INDEXED_AGENTS:
        return CardIndex
    return SeveralCards if shared_share(cards) >= ENOUGH_SHARED else CalibratedCards
