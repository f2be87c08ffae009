"""Which cards compete for the same messages, and the edit of a card that would separate them. Arrays and words only.

Every example of a card is asked about as if the card did not have it, with the evidence and the probabilities of the
router `semantic`; a card without examples is asked about by its description. No file is read or written, no model
asked: the caller embeds `CalibratedCards.texts(cards)`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from agentmesh.routing.calibration import CalibratedCards, logits, probabilities
from agentmesh.routing.decision import Thresholds
from agentmesh.routing.parts import specific_words
from agentmesh.routing.scorer import SIGNALS, CardScorer, Kind, Row, Signals, background_rows, card_rows
from agentmesh.text import STOP_WORDS, content_words, stem, words
from agentmesh.types import AgentCard

__all__ = ["Crossed", "Edit", "Misfit", "Overlap", "Rivals", "Thin", "Trouble", "find_overlap"]

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]

MOST_BARE = 200
"""Cards without examples, up to which each is left out in turn to see who would take its place."""
RIVAL_SHARE = 0.15
"""Mean probability that two cards give each other's texts, from which on they compete. Our choice, as are the next."""
FAR = 0.1
"""Below this probability of its own card, and ..."""
CLEAR = 0.6
"""... from this one of another, an example seems to stand on the wrong card."""
DENIED = 0.15
"""By how much an example may be nearer to its own card's `not_for` than to the rest of that card."""
FEW_WORDS = 4
"""Words that say something, below which a description is thin."""
FOUND_SHARE = 0.5
"""Share of a card's examples that its description should be nearest to."""
LEAST_EXAMPLES = 3
"""From as many examples on, they are a measure of the description."""
FOLDS = 5
"""Parts of the examples that are left out in turn, where leaving out one by one would take too long."""
NAMED_WORDS = 4
"""Words that an edit names."""
WIDE_SHARE = 0.5
"""Share of a card's examples that go to one other card, from which on quoting them one by one does not help."""
REPEATED = 2
"""Examples of a card that must have a word before its description is told to say it."""
QUOTED = 3
"""Edits that quote an example, for each pair and direction."""


@dataclass(frozen=True)
class Edit:
    """One change of one card."""

    agent: str
    """Whose card."""
    key: str
    """`examples`, `not_for` or `description`; empty for the card as a whole."""
    action: str
    """`add`, `remove`, `reword` or `merge`."""
    text: str
    """The entry to add or to take out; which words to use; with whom to merge."""
    note: str = ""
    """When to do something else instead."""

    def __str__(self) -> str:
        said = {
            "add": f"add to {self.key}: {self.text}",
            "remove": f"take out of {self.key}: {self.text}",
            "reword": f"{self.key}: {self.text}",
            "merge": f"merge it {self.text}",
        }[self.action]
        return f"agents/{self.agent}.md: {said}{f' ({self.note})' if self.note else ''}"


@dataclass(frozen=True)
class Crossed:
    """An example that goes to another card when its own does not have it."""

    text: str
    agent: str
    """Whose example it is."""
    goes_to: str
    own: float
    """Probability of its own agent."""
    other: float
    """Probability of the other one."""


@dataclass(frozen=True)
class Rivals:
    """Two cards that compete."""

    first: str
    second: str
    shared: float
    """Mean probability of the one for what is the other's, 0 to 1; see `find_overlap`."""
    crossed: tuple[Crossed, ...]
    """Examples of either that go to the other, clearest first."""
    words: tuple[str, ...]
    """Words that both descriptions have."""
    edits: tuple[Edit, ...]


class Trouble(StrEnum):
    """What is wrong with an example."""

    NOBODY = "nobody"
    """No card would be chosen for it."""
    VAGUE = "vague"
    """The same, and no word of it says what it is about."""
    DENIED = "denied"
    """The `not_for` of its own card says the opposite."""
    TWICE = "twice"
    """Another card has the same example."""


@dataclass(frozen=True)
class Misfit:
    """An example that belongs to nobody, or that its card contradicts."""

    text: str
    agent: str
    trouble: Trouble
    own: float
    """Probability of its own agent."""
    none: float
    """Probability of none of them."""
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Thin:
    """A description that says too little."""

    agent: str
    reason: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Overlap:
    """Everything that was found."""

    agents: tuple[str, ...]
    chance: Floats
    """Mean probability of each agent for the texts of each, the last column "none of them"; shape (c, c + 1)."""
    examples: tuple[int, ...]
    """How many were asked about, by agent; 0: its description was."""
    right: tuple[int, ...]
    """How many of them go to their own agent."""
    rivals: tuple[Rivals, ...]
    """Those that share most first."""
    misfits: tuple[Misfit, ...]
    thin: tuple[Thin, ...]


def find_overlap(cards: Sequence[AgentCard], vectors: Vectors) -> Overlap:
    """Ask about every example of the cards as if it were new, and say what is in each other's way.

    For a card without examples `chance` is about its description, which it keeps; whether others compete with it is
    asked as if the card were not there.

    Takes about two fits of the router: well below a second for a dozen cards, tens of seconds for a hundred cards with
    a hundred examples each. Call it in a thread.

    Args:
        cards: At least one, no id twice.
        vectors: Dense vectors of `CalibratedCards.texts(cards)`, shape (n, d); d may be 0.
    """
    rows = [*card_rows(cards), *background_rows()]
    fit = CalibratedCards(cards, vectors)
    vectors = vectors[: len(rows)]
    places = [place for place, row in enumerate(rows) if row.kind == Kind.EXAMPLE]
    signals = _held_out(len(cards), rows, vectors, places)
    chance = probabilities(logits(signals.agents, signals.none, fit.parameters))
    owners = np.array([rows[place].agent for place in places], np.int64)
    table = _table(cards, fit, rows, vectors, chance, owners)
    best = chance[:, :-1].argmax(axis=1) if len(places) else owners
    asked = _Asked(tuple(cards), [rows[p].text for p in places], owners, chance, best, signals.agents)
    return Overlap(
        agents=tuple(card.id for card in cards),
        chance=table,
        examples=tuple(np.bincount(owners, minlength=len(cards)).tolist()),
        right=tuple(np.bincount(owners[best == owners], minlength=len(cards)).tolist()),
        rivals=asked.rivals(_taken(cards, fit.parameters, rows, vectors, table)),
        misfits=asked.misfits(),
        thin=asked.thin(),
    )


# --- every example as if it were new ----------------------------------------------------------------------------------


def _held_out(count: int, rows: Sequence[Row], vectors: Vectors, places: Sequence[int]) -> Signals:
    """Evidence about each example from the other texts: one by one, or where that takes too long by fifths."""
    scorer = CardScorer(count, rows, vectors)
    own = scorer.held_out.labels < count
    if int(own.sum()) == len(places):
        return Signals(scorer.held_out.signals.agents[own], scorer.held_out.signals.none[own])
    part = np.random.default_rng(0).permutation(len(places)) % FOLDS
    agents: list[Vectors] = []
    none: list[Vectors] = []
    for number in range(FOLDS):
        left_out = [places[i] for i in np.flatnonzero(part == number).tolist()]
        gone = set(left_out)
        kept = [i for i in range(len(rows)) if i not in gone]
        partial = CardScorer(count, [rows[i] for i in kept], vectors[kept])
        signals = partial.signals([rows[i].text for i in left_out], vectors[left_out])
        agents.append(signals.agents)
        none.append(signals.none)
    order = np.argsort(np.argsort(part, kind="stable"), kind="stable")
    return Signals(np.concatenate(agents)[order], np.concatenate(none)[order])


def _table(
    cards: Sequence[AgentCard],
    fit: CalibratedCards,
    rows: Sequence[Row],
    vectors: Vectors,
    chance: Floats,
    owners: NDArray[np.int64],
) -> Floats:
    """Mean probabilities by agent, shape (c, c + 1)."""
    table = np.zeros((len(cards), len(cards) + 1))
    for place, card in enumerate(cards):
        mine = np.flatnonzero(owners == place)
        if len(mine):
            table[place] = chance[mine].mean(axis=0)
        else:
            row = _description(rows, place)
            table[place] = fit.judge([card.description], vectors[row : row + 1]).chance[0]
    return table


def _taken(
    cards: Sequence[AgentCard], parameters: Floats, rows: Sequence[Row], vectors: Vectors, table: Floats
) -> Floats:
    """How probably others get what is an agent's, shape (c, c).

    For a card without examples: its description, as if the card were not there.
    """
    taken = table[:, :-1].copy()
    np.fill_diagonal(taken, 0.0)
    bare = [place for place, card in enumerate(cards) if not any(e.strip() for e in card.examples)]
    for place in bare if len(cards) > 1 and len(bare) <= MOST_BARE else ():
        kept = [i for i, row in enumerate(rows) if row.agent != place]
        others = [replace(rows[i], agent=rows[i].agent - (rows[i].agent > place)) for i in kept]
        scorer = CardScorer(len(cards) - 1, others, vectors[kept])
        row = _description(rows, place)
        signals = scorer.signals([cards[place].description], vectors[row : row + 1])
        chance = probabilities(logits(signals.agents, signals.none, parameters))[0]
        taken[place] = np.insert(chance[:-1], place, 0.0)
    return taken


def _description(rows: Sequence[Row], place: int) -> int:
    """Where the whole description of a card stands."""
    return next(i for i, row in enumerate(rows) if row.agent == place and row.kind == Kind.DESCRIPTION)


# --- what is in the way -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """The examples, each with what the other texts say about it."""

    cards: tuple[AgentCard, ...]
    texts: Sequence[str]
    owners: NDArray[np.int64]
    chance: Floats
    best: NDArray[np.int64]
    """The agent that each is most probable for."""
    signals: Vectors

    def rivals(self, taken: Floats) -> tuple[Rivals, ...]:
        found: list[Rivals] = []
        for a in range(len(self.cards)):
            for b in range(a + 1, len(self.cards)):
                crossed = [*self._crossed(a, b), *self._crossed(b, a)]
                shared = float(taken[a, b] + taken[b, a]) / 2
                if crossed or shared >= RIVAL_SHARE:
                    found.append(self._pair(a, b, shared, crossed))
        return tuple(sorted(found, key=lambda r: (-r.shared, r.first, r.second)))

    def _crossed(self, owner: int, other: int) -> list[Crossed]:
        """Examples of one card that go to the other, clearest first; those that nobody would get are no rivalry."""
        rows = np.flatnonzero((self.owners == owner) & (self.best == other)).tolist()
        rows = [r for r in rows if self.chance[r, other] > self.chance[r, -1]]
        found = [
            Crossed(
                self.texts[r],
                self.cards[owner].id,
                self.cards[other].id,
                own=float(self.chance[r, owner]),
                other=float(self.chance[r, other]),
            )
            for r in rows
        ]
        return sorted(found, key=lambda c: c.own - c.other)

    def _pair(self, a: int, b: int, shared: float, crossed: Sequence[Crossed]) -> Rivals:
        first, second = self.cards[a], self.cards[b]
        both = _common(first.description, second.description)
        edits: list[Edit] = []
        for card, other, place in ((first, second, a), (second, first, b)):
            mine, asked = [c for c in crossed if c.agent == card.id], int((self.owners == place).sum())
            wide = len(mine) >= LEAST_EXAMPLES and len(mine) >= WIDE_SHARE * asked
            if wide:
                note = f"{len(mine)} of its {asked} examples go there; or keep the two in different pools of a scenario"
                edits.append(Edit(card.id, "", "merge", f"with {other.id}", note))
            edits += [_apart(one, other) for one in mine[: 1 if wide else QUOTED]]
        edits += [e for e in (_reworded(first, second, both), _reworded(second, first, both)) if e is not None]
        return Rivals(first.id, second.id, shared, tuple(crossed), both, tuple(edits))

    def misfits(self) -> tuple[Misfit, ...]:
        limits = Thresholds()
        having: dict[str, list[int]] = {}
        for row, text in enumerate(self.texts):
            having.setdefault(" ".join(words(text)), []).append(row)
        found: list[Misfit] = []
        for row, text in enumerate(self.texts):
            card = self.cards[int(self.owners[row])]
            own, none = float(self.chance[row, self.owners[row]]), float(self.chance[row, -1])
            misfit = Misfit(text, card.id, Trouble.NOBODY, own, none, ())
            others = sorted({self.cards[int(self.owners[r])].id for r in having[" ".join(words(text))]} - {card.id})
            if others:
                edit = Edit(card.id, "examples", "remove", text, f"or keep it here and take it out of {others[0]}")
                found.append(replace(misfit, trouble=Trouble.TWICE, edits=(edit,)))
            elif self.signals[row, self.owners[row], SIGNALS.index("not_for")] > DENIED:
                edit = Edit(card.id, "examples", "remove", text, "its not_for says the opposite; keep one of the two")
                found.append(replace(misfit, trouble=Trouble.DENIED, edits=(edit,)))
            elif none > limits.none_threshold or self.chance[row, :-1].max() < limits.threshold:
                found.append(self._nobody(misfit, card))
        return tuple(sorted(found, key=lambda m: (m.trouble, -m.none, m.agent)))

    def _nobody(self, misfit: Misfit, card: AgentCard) -> Misfit:
        """With the edit that gives the example a home."""
        if not specific_words(misfit.text):
            edit = Edit(card.id, "examples", "remove", misfit.text, "or name in it what it is about")
            return replace(misfit, trouble=Trouble.VAGUE, edits=(edit,))
        rest = [card.description, *(e for e in card.examples if e != misfit.text)]
        new = _lacking(misfit.text, " ".join(rest))
        edits = [Edit(card.id, "description", "reword", f"say {_listed(new)}")] if new else []
        told = f"one or two more in the manner of: {misfit.text}"
        return replace(misfit, trouble=Trouble.NOBODY, edits=(*edits, Edit(card.id, "examples", "add", told)))

    def thin(self) -> tuple[Thin, ...]:
        found: list[Thin] = []
        shown = self.signals[:, :, SIGNALS.index("description")]
        nearest = shown.argmax(axis=1) if len(shown) else np.zeros(0, np.int64)
        sets = [set(specific_words(card.description)) for card in self.cards]
        spread = Counter(word for own in sets for word in own)
        common = {word for word, n in spread.items() if n > max(2, len(self.cards) / 2)}
        for place, card in enumerate(self.cards):
            mine = np.flatnonzero(self.owners == place)
            hits = int((nearest[mine] == place).sum())
            own = sets[place]
            reason = ""
            if not own:
                reason = "no word of it says what the agent is for"
            elif len(own) < FEW_WORDS:
                reason = f"it has only {_counted(len(own))} what the agent is for"
            elif own <= common:
                reason = "most other cards say the same words"
            elif len(mine) >= LEAST_EXAMPLES and hits < FOUND_SHARE * len(mine):
                reason = f"by it alone, {hits} of the {len(mine)} examples would find the agent"
            if reason:
                found.append(Thin(card.id, reason, _fuller(card)))
        return tuple(found)


# --- edits ------------------------------------------------------------------------------------------------------------


def _apart(one: Crossed, other: AgentCard) -> Edit:
    """What to do about an example that goes to another card."""
    astray = one.own < FAR and one.other >= CLEAR
    note = f"or, if {other.id} is meant, move it to the examples there" if astray else ""
    return Edit(other.id, "not_for", "add", one.text, note)


def _reworded(card: AgentCard, other: AgentCard, both: Sequence[str]) -> Edit | None:
    """The words that tell this card from the other, if its description lacks some that its examples have."""
    theirs = " ".join((other.description, *other.examples))
    own = [w for w in _frequent(card.examples, least=REPEATED) if stem(w) not in {stem(v) for v in words(theirs)}]
    new = [w for w in own if stem(w) not in {stem(v) for v in words(card.description)}][:NAMED_WORDS]
    if new:
        instead = f" rather than {_listed(both[:NAMED_WORDS])}, which {other.id} says too" if both else ""
        return Edit(card.id, "description", "reword", f"say {_listed(new)}{instead}")
    if both and not card.examples:
        told = f"say what {other.id} does not do; both say {_listed(both[:NAMED_WORDS])}"
        return Edit(card.id, "description", "reword", told)
    return None


def _fuller(card: AgentCard) -> tuple[Edit, ...]:
    """What a thin description should say."""
    new = _lacking(" ".join(card.examples), card.description)
    if new:
        return (Edit(card.id, "description", "reword", f"say {_listed(new)}, which its examples are about"),)
    return (
        Edit(card.id, "description", "reword", "name what it does and for what, in a sentence"),
        Edit(card.id, "examples", "add", "three messages that it should get"),
    )


def _lacking(text: str, known: str) -> list[str]:
    """The most frequent words of a text that say something and that `known` does not have."""
    there = {stem(word) for word in words(known)}
    return [word for word in _frequent([text]) if stem(word) not in there][:NAMED_WORDS]


def _frequent(texts: Sequence[str], *, least: int = 1) -> list[str]:
    """Words that say something and stand in `least` texts or more, as written: most frequent first, one of a stem."""
    counts: Counter[str] = Counter()
    spelled: dict[str, str] = {}
    for text in texts:
        named = [w for w in words(text) if w.isalpha() and w not in STOP_WORDS and specific_words(w)]
        counts.update({stem(word) for word in named})
        for word in named:
            spelled.setdefault(stem(word), word)
    order = {known: place for place, known in enumerate(spelled)}
    ranked = sorted((s for s in counts if counts[s] >= least), key=lambda s: (-counts[s], order[s]))
    return [spelled[s] for s in ranked]


def _common(one: str, two: str) -> tuple[str, ...]:
    """Words that say something and stand in both, in the order of the first."""
    there = set(content_words(two))
    found = {stem(w): w for w in words(one) if specific_words(w) and set(content_words(w)) & there}
    return tuple(found.values())


def _listed(found: Sequence[str]) -> str:
    return ", ".join(repr(word) for word in found)


def _counted(count: int) -> str:
    return "1 word that says" if count == 1 else f"{count} words that say"
