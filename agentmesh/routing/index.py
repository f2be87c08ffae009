"""The agents of a large mesh and their probabilities: hundreds to a hundred thousand cards, in milliseconds.

Two looks at the cards: a cheap one at all of them (a product with short prototypes, lists of the cards that have a
word), an exact one at the best. Cards that come or go change a small block beside the large one, in place; when the
index is `worn` a full build is due. It answers as `calibration.CalibratedCards` does, which is for smaller meshes.
"""

import math
from collections.abc import Mapping, Sequence
from copy import copy
from itertools import repeat
from types import MappingProxyType
from typing import cast

import numpy as np
from numpy.typing import NDArray

from agentmesh.routing.calibration import MOST_LISTED, TRIED_PENALTY, Judged, fit_logit, logits, probabilities
from agentmesh.routing.features import cached_stem, unit_rows
from agentmesh.routing.index_block import HEAD, NEAR, TOLD, Asked, Block, Lexicon, Wording, product
from agentmesh.routing.index_rows import STAND_IN, Piece, card_rows_of, pieces_of, stand_in, vocabulary_of, word_bag
from agentmesh.routing.parts import specific_words
from agentmesh.routing.scorer import NONE_SIGNALS, SIGNALS, Kind, background_rows
from agentmesh.routing.told import telling_words
from agentmesh.text import words
from agentmesh.types import AgentCard

__all__ = ["SHIPPED", "CardIndex"]

Floats = NDArray[np.float32]
Places = NDArray[np.int64]
Known = Mapping[str, Floats]

SHIPPED = np.array([17.0, 2.5, 2.5, 0.0, 0.0, -2.0, 4.0, 7.9, -2.0, 0.0, 5.6, 2.7])
"""Parameters before any fit, in the order of `SIGNALS`, then `NONE_SIGNALS`. Rounded from one fit on questions that no
card quotes: clinc150's validation rows and out-of-scope train rows with 3 and 5 examples a card, and questions about
10,000 generated skills, which alone would have them half as large again. The weight of `not_for` is our choice."""
PRIOR_STRENGTH = 100.0
"""Precision of the prior around them: cards' own examples are worded more alike than questions are, so they move it
little."""
SHORTLIST = 48
"""Cards that a text is compared with exactly: the best of the first look."""
HELD_OUT = 300
"""Examples that are scored as if left out, for the calibration. Bounds its time."""
AT_ONCE = 32
"""Texts of the calibration that are looked at together; bounds its memory at 80,000 cards to some 10 MB."""
SAME_TEXT = 0.9995
"""Two rows this similar are the same text: a background utterance is no evidence about itself."""
OWN_BUSINESS = 0.8
"""A background utterance that comes this near to a card is the mesh's business and left out."""
FALSE_ALARM_SHARE = 0.25
"""Weight of all background utterances together in the fit, the examples together being 1; as in `calibration`."""
MOST_CHANGED = 512
"""Cards that came, changed or went from which on a full build is due."""


class CardIndex:
    """Many cards, ready to be asked. Never changes: `with_changes` makes another one that shares what is large.

    Args:
        cards: The agents, at least one, no id twice.
        vectors: Dense vectors of `texts(cards)`, shape (n, d); d may be 0, then letters stand in for them.
    """

    wants_words = True
    """`judge` reads the vectors of single words."""

    def __init__(self, cards: Sequence[AgentCard], vectors: Floats) -> None:
        background, vocabulary = [row.text for row in background_rows()], vocabulary_of(cards)
        rows = len(vectors) - len(background) - len(vocabulary)
        self._dense = vectors.shape[1] > 0
        size = vectors.shape[1] or STAND_IN
        places = {cached_stem(word): place for place, word in enumerate(vocabulary)} if self._dense else {}
        self._lexicon = Lexicon(places, unit_rows(vectors[len(vectors) - len(places) :]))
        self._background = unit_rows(vectors[rows : rows + len(background)]) if self._dense else stand_in(background)
        self._base = Block(pieces_of(cards, vectors[:rows]), size, self._lexicon)
        self._blocks: tuple[Block, ...] = (self._base,)
        self._delta: dict[str, Piece] = {}
        self.ids = tuple(card.id for card in cards)
        self._base_places = {id_: place for place, id_ in enumerate(self.ids)}
        self._position: Places = np.arange(len(cards))
        self._gone: Places = np.zeros(0, np.int64)
        self.examples = sum(len(card.examples) for card in cards) / max(1, len(cards))
        self.parameters = self._fit(cards, background)

    @staticmethod
    def texts(cards: Sequence[AgentCard]) -> list[str]:
        """What must be embedded to build an index: `card_texts`, the background, the words of the cards."""
        return [*CardIndex.card_texts(cards), *(row.text for row in background_rows()), *vocabulary_of(cards)]

    @staticmethod
    def card_texts(cards: Sequence[AgentCard]) -> list[str]:
        """What must be embedded of cards that are added or changed."""
        return [text for card in cards for text, _ in card_rows_of(card)]

    # --- cards that come and go ---------------------------------------------------------------------------------------

    @property
    def worn(self) -> bool:
        """Whether so many cards came and went that a full build is due."""
        return len(self._delta) + len(self._gone) > MOST_CHANGED

    def with_changes(self, cards: Sequence[AgentCard], added: Sequence[AgentCard], vectors: Floats) -> "CardIndex":
        """The index of other cards: those of this one without those that are gone, and `added` ones.

        Words that no card had at the last full build have no vector: they are compared letter by letter.

        Args:
            cards: All cards, no id twice.
            added: Those of them that are new or changed.
            vectors: Dense vectors of `card_texts(added)`, shape (n, d).

        Raises:
            ValueError: If a card is neither in this index nor among `added`.
        """
        ids = tuple(card.id for card in cards)
        fresh = dict(zip((card.id for card in added), pieces_of(added, vectors), strict=True))
        wanted = set(ids)
        changed = copy(self)
        changed._delta = {id_: piece for id_, piece in self._delta.items() if id_ in wanted and id_ not in fresh}
        changed._delta |= {id_: piece for id_, piece in fresh.items() if id_ in wanted}
        if fresh or len(changed._delta) < len(self._delta):
            pieces, size = changed._delta.values(), self._base.rows.shape[1]
            delta = (Block(pieces, size, self._lexicon, self._base.turn),) if changed._delta else ()
            changed._blocks = (self._base, *delta)
        changed._order(ids)
        return changed

    def _order(self, ids: tuple[str, ...]) -> None:
        """Settle where each card of the blocks stands among the cards, -1 for one that is gone."""
        count, base = self._base.count, self._base_places
        own = {id_: count + place for place, id_ in enumerate(self._delta)}
        late, early = (np.fromiter(map(known.get, ids, repeat(-1)), np.int64, len(ids)) for known in (own, base))
        inner = np.where(late >= 0, late, early)
        if np.any(inner < 0):
            raise ValueError(f"the card {ids[int(inner.argmin())]!r} is new; it must be among the added ones")
        if np.any(self._position[inner[inner < count]] < 0):
            raise ValueError("a card that was gone is back; it must be among the added ones")
        self.ids = ids
        self._position = np.full(count + len(own), -1, np.int64)
        self._position[inner] = np.arange(len(ids))
        self._gone = np.flatnonzero(self._position < 0)

    # --- what is asked ------------------------------------------------------------------------------------------------

    def judge(
        self,
        texts: Sequence[str],
        vectors: Floats,
        tried: Sequence[str] = (),
        known: Known = MappingProxyType({}),
        *,
        most: int = MOST_LISTED,
        listed: Sequence[str] = (),
    ) -> Judged:
        """Probabilities of the likeliest agents for each text; those that were tried before lose some of theirs.

        Args:
            texts: m texts, at least one.
            vectors: Their vectors, shape (m, d).
            tried: Ids of agents that already worked on the task.
            known: Vectors of single words of the texts; a word without one counts where a card has it.
            most: The likeliest agents of each text are listed, up to this many.
            listed: Ids of agents that are listed in any case.
        """
        asked = self._asked(texts, vectors, known)
        cards = np.unique(np.append(self._shortlists(asked), self._inner(listed)))
        places = self._position[cards]
        cards = cards[np.argsort(places)]
        places.sort()
        agents, none = self._signals(asked, cards)
        score = logits(agents, none, self.parameters)
        if tried:
            score[:, [i for i, place in enumerate(places.tolist()) if self.ids[place] in tried]] -= TRIED_PENALTY
        kept = [i for i, place in enumerate(places.tolist()) if self.ids[place] in listed] if listed else []
        judged = Judged(probabilities(score), score, agents).likeliest(most, kept)
        if judged.places is not None:
            places = places[list(judged.places)]
        return Judged(judged.chance, judged.score, judged.signals, tuple(cast(list[int], places.tolist())))

    def _inner(self, ids: Sequence[str]) -> Places:
        """Where these cards stand in the blocks."""
        wanted = [place for place, agent in enumerate(self.ids) if agent in ids] if ids else []
        return np.flatnonzero(np.isin(self._position, wanted))

    def knows(self, text: str) -> bool:
        """Whether the cards hold a word that says what a text is about."""
        return any(stem in block.places for stem in specific_words(text) for block in self._blocks)

    def _asked(self, texts: Sequence[str], vectors: Floats, known: Known) -> Asked:
        """Look up texts once for all blocks."""
        dense = unit_rows(np.asarray(vectors, np.float32)) if self._dense else stand_in(texts)
        return Asked(dense, tuple(self._wording(text, known) for text in texts))

    def _wording(self, text: str, known: Known) -> Wording:
        rarity = {stem: self._rarity(stem) for stem in dict.fromkeys(map(cached_stem, words(text)))}
        total = sum(r * r for r in rarity.values())
        said = {cached_stem(word): word for word in telling_words(text)}
        together = sum(rarity[stem] for stem in said)
        vectors = np.zeros((len(said), self._lexicon.vectors.shape[1]), np.float32)
        for row, (stem, word) in enumerate(said.items() if self._dense else ()):
            if (vector := known.get(word)) is not None:
                vectors[row] = vector
            elif (place := self._lexicon.places.get(stem)) is not None:
                vectors[row] = self._lexicon.vectors[place]
        return Wording(
            {stem: r * r / total for stem, r in rarity.items()},
            {stem: rarity[stem] / together for stem in said},
            vectors,
        )

    def _rarity(self, stem: str) -> float:
        """1 + ln((1 + n) / (1 + cards that have it)) at the last full build, as `features.GramIndex` weighs n-grams."""
        return 1.0 + math.log((1 + self._base.count) / (1 + self._base.holders(stem)))

    def _shortlists(self, asked: Asked) -> Places:
        """The cards that each text is compared with exactly, shape (m, k): places in the blocks."""
        found = [block.roughly(asked) for block in self._blocks]
        rough = found[0] if len(found) == 1 else np.concatenate(found, axis=1)
        rough[:, self._gone] = -np.inf
        count, few = rough.shape[1], min(SHORTLIST, len(self.ids))
        return np.stack([np.argpartition(row, count - few)[count - few :] for row in rough])

    # --- evidence -----------------------------------------------------------------------------------------------------

    def _signals(self, asked: Asked, cards: Places) -> tuple[Floats, Floats]:
        """Evidence for some cards, by their places in the blocks, shape (m, c, s), and for none of them, (m, z)."""
        agents = np.zeros((len(asked.dense), len(cards), len(SIGNALS)), np.float32)
        shared = np.zeros(agents.shape[:2], np.float32)
        first = 0
        for block in self._blocks:
            own = np.flatnonzero((cards >= first) & (cards < first + block.count))
            if len(own):
                agents[:, own], shared[:, own] = block.evidence(asked, cards[own] - first)
            first += block.count
        return self._weighed(agents, shared, asked)

    def _weighed(self, agents: Floats, shared: Floats, asked: Asked) -> tuple[Floats, Floats]:
        """Evidence for cards as the calibration reads it, and for none of them.

        How near the words come is centred over the cards: words that are near to all of them tell nothing.
        """
        none = np.ones((len(agents), len(NONE_SIGNALS)), np.float32)
        alike = product(asked.dense, self._background.T)
        alike[alike > SAME_TEXT] = 0.0
        for name, best in (
            ("near", agents[:, :, NEAR]),
            ("coverage", shared),
            ("head", agents[:, :, HEAD]),
            ("background", alike),
        ):
            none[:, NONE_SIGNALS.index(name)] = best.max(axis=1)
        agents[:, :, TOLD] -= agents[:, :, TOLD].mean(axis=1, keepdims=True)
        return agents, none

    # --- calibration --------------------------------------------------------------------------------------------------

    def _fit(self, cards: Sequence[AgentCard], background: Sequence[str]) -> NDArray[np.float64]:
        """Parameters from some examples, each left out of its own card, and from the background."""
        few = min(SHORTLIST, len(cards))
        found = [(agents, none, few - 1) for agents, none in self._left_out(cards)]
        own = len(found)
        asked = self._asked(background, self._background, {})
        for start in range(0, len(background), AT_ONCE):
            part = asked.only(slice(start, start + AT_ONCE))
            for row, listed in enumerate(self._shortlists(part)):
                agents, none = self._signals(part.only(slice(row, row + 1)), listed)
                if none[0, NONE_SIGNALS.index("near")] < OWN_BUSINESS:
                    found.append((agents[0], none[0], few))
        if not found:
            return SHIPPED
        share = FALSE_ALARM_SHARE * max(1, own) / max(1, len(found) - own)
        weights = np.where(np.arange(len(found)) < own, 1.0, share)
        agents, none, labels = zip(*found, strict=True)
        seen = np.array(labels, np.int64)
        return fit_logit(np.stack(agents), np.stack(none), seen, weights, SHIPPED, strength=PRIOR_STRENGTH)

    def _left_out(self, cards: Sequence[AgentCard]) -> list[tuple[Floats, Floats]]:
        """Evidence about examples for the best cards, the last of which is the right one as it would be without it."""
        base, drawn = self._base, self._drawn()
        texts: list[str] = []
        pieces: list[Piece] = []
        dense = np.zeros((len(drawn), base.rows.shape[1]), np.float32)
        for at, (card, row) in enumerate(drawn):
            said, first = card_rows_of(cards[card]), int(base.row_starts[card])
            rest = [place for place in range(len(said)) if place != row]
            texts.append(said[row][0])
            dense[at] = base.rows[first + row]
            kinds = tuple(said[place][1] for place in rest)
            pieces.append(
                Piece(word_bag(said[p] for p in rest), base.rows[[first + p for p in rest]].astype(np.float32), kinds)
            )
        without = Block(pieces, base.rows.shape[1], self._lexicon, base.turn)
        asked = self._asked(texts, dense, {})
        found: list[tuple[Floats, Floats]] = []
        for start in range(0, len(texts), AT_ONCE):
            for row, listed in enumerate(self._shortlists(asked.only(slice(start, start + AT_ONCE)))):
                at = start + row
                one, card = asked.only(slice(at, at + 1)), drawn[at][0]
                others = listed[listed != card][: len(listed) - 1]
                theirs, mine = base.evidence(one, others), without.evidence(one, np.array([at]))
                both = [np.concatenate(pair, axis=1) for pair in zip(theirs, mine, strict=True)]
                agents, none = self._weighed(both[0], both[1], one)
                found.append((agents[0], none[0]))
        return found

    def _drawn(self) -> list[tuple[int, int]]:
        """Some examples of the cards: places of the card and of its row, in order."""
        rows = np.flatnonzero(self._base.kinds == Kind.EXAMPLE)
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:HELD_OUT])
        owners = np.searchsorted(self._base.row_starts, rows, side="right") - 1
        return list(zip(owners.tolist(), (rows - self._base.row_starts[owners]).tolist(), strict=True))
