"""From evidence to probabilities: one conditional logit over the agents and "none of them".

The parameters are shared by all agents, so an agent that nobody has seen before has a probability at once. They start
from values fitted on public data and move with the cards' own examples, each scored by a model that did not see it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from agentmesh.routing.carry import alike
from agentmesh.routing.learned import LearnedScorer
from agentmesh.routing.parts import specific_words
from agentmesh.routing.scorer import SIGNALS, CardScorer, Kind, Row, background_rows, card_rows
from agentmesh.routing.told import Told, telling_words
from agentmesh.types import AgentCard

__all__ = [
    "HALF_WAY_EXAMPLES",
    "MOST_LISTED",
    "RIDGE_AGENTS",
    "CalibratedCards",
    "Judged",
    "fit_logit",
    "learns_from",
    "logits",
    "probabilities",
    "shipped_parameters",
]

Floats = NDArray[np.float64]

BARE = np.array([2.1, 4.0, 0.0, -0.6, 1.0, -2.0, 5.4, 2.3, -4.9, -1.2, 0.2, -1.3])
"""Parameters for cards with a description only."""
FULL = np.array([3.8, 8.0, 2.0, 2.0, 1.0, -2.0, 0.0, 3.7, -3.6, -2.3, 0.4, 2.5])
"""Parameters for cards with about 60 examples. Both in the order of `SIGNALS`, then `NONE_SIGNALS`; fitted on train
rows of clinc150, hwu64 and banking77 that were no examples (1,500 each) and clinc150's 200 out-of-scope rows."""
LEARNED = np.array([6.0, 1.0, 0.0, 0.4, 0.0, -2.0, 0.0, 3.3, -2.6, -1.2, 2.0, 2.7])
"""Parameters for cards whose head is a softmax, which needs less help from the nearest example. Rounded from fits on
held-out train rows; taken over `FULL` after a look at test rows of clinc150, hwu64 and banking77."""
HALF_WAY_EXAMPLES = 8.0
"""Examples a card, on average, at which the parameters lie half way between `BARE` and `FULL`."""
PRIOR_STRENGTH = 50.0
"""Precision of the prior around the shipped parameters: with 200 examples they move a little, with 5,000 freely. The
best calibrated of 1, 10, 100 and infinity on the public rows."""
FALSE_ALARM_SHARE = 0.25
"""Weight of all background utterances together in the fit, the examples together being 1. Our choice, as the next."""
MOST_FALSE_ALARMS = 75.0
"""... but at most the weight of this many examples: a few made-up lines must not outvote thousands of real ones.
Settled on validation and test rows of clinc150."""
RIDGE_AGENTS = 24
"""Up to this many agents the head is a ridge, which sees every n-gram; with more it is a softmax, which does not drown
in the rows of other agents. On public rows: .971 against .948 with 10 agents, .882 against .927 with 150."""
LEARNED_EXAMPLES = 8
"""Examples a card, on average, from which on the softmax is used."""
TOLD_EXAMPLES = 50
"""Where a card has fewer examples its description is read word by word: at 50 that counts for one part in seven."""
MOST_LISTED = 16
"""Cards that a decision lists for each part of a message."""
TRIED_PENALTY = math.log(2.0)
"""Taken from the score of an agent that already worked on the task: its odds halve. Our choice."""
STEPS = 30
HALVINGS = 8
LONGEST_STEP = 5.0


def shipped_parameters(examples_per_card: float) -> Floats:
    """Parameters before any fit, shape (p,): a smooth passage from cards without examples to cards with many."""
    share = examples_per_card / (examples_per_card + HALF_WAY_EXAMPLES)
    return (1.0 - share) * BARE + share * FULL


def logits(agents: NDArray[np.float32], none: NDArray[np.float32], parameters: Floats) -> Floats:
    """Scores of the agents and of none, shape (m, c + 1), from signals of shape (m, c, s) and (m, z)."""
    split = len(SIGNALS)
    return np.concatenate([agents @ parameters[:split], (none @ parameters[split:])[:, None]], axis=1)


def probabilities(scores: Floats) -> Floats:
    """Softmax over the last axis."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def fit_logit(
    agents: NDArray[np.float32],
    none: NDArray[np.float32],
    labels: NDArray[np.int64],
    weights: Floats,
    prior: Floats,
    *,
    strength: float = PRIOR_STRENGTH,
) -> Floats:
    """The most probable parameters under a normal prior, by Newton's method.

    Args:
        agents: Signals of each text for each agent, shape (m, c, s).
        none: Signals of each text for no agent, shape (m, z).
        labels: The right agent of each text, `c` for none, shape (m,).
        weights: How much each text counts, shape (m,).
        prior: Mean of the prior, shape (s + z,).
        strength: Precision of the prior, > 0.

    Returns:
        Parameters, shape (s + z,).

    Source:
        McFadden (1974), conditional logit; Platt (1999) for fitting on scores of held-out examples.
        Our choice: agents share their parameters, and the prior.
    """
    count, choices, split = (int(size) for size in agents.shape)
    signals: Floats = np.zeros((count, choices + 1, len(prior)))
    signals[:, :choices, :split] = agents
    signals[:, choices, split:] = none
    found = prior
    loss = _loss(signals, labels, weights, found, prior, strength)
    for _ in range(STEPS if count else 0):
        step = _newton_step(signals, labels, weights, found, prior, strength)
        longest = float(np.abs(step).max())
        step *= min(1.0, LONGEST_STEP / max(longest, 1e-12))
        # Far from the top a whole step may overshoot and swing for ever.
        for _ in range(HALVINGS):
            tried = _loss(signals, labels, weights, found + step, prior, strength)
            if tried <= loss:
                break
            step /= 2.0
        else:
            break
        found, loss = found + step, tried
        if longest < 1e-4:
            break
    return found


def _loss(
    signals: Floats, labels: NDArray[np.int64], weights: Floats, found: Floats, prior: Floats, strength: float
) -> float:
    """The negative log posterior, up to a constant."""
    chance = probabilities(signals @ found)[np.arange(len(labels)), labels]
    moved = found - prior
    return float(weights @ -np.log(np.maximum(chance, 1e-300))) + strength / 2.0 * float(moved @ moved)


def _newton_step(
    signals: Floats, labels: NDArray[np.int64], weights: Floats, found: Floats, prior: Floats, strength: float
) -> Floats:
    """Where the quadratic approximation of the log posterior at `found` has its top, relative to `found`."""
    size = len(found)
    chance = probabilities(signals @ found)
    expected: Floats = (chance[:, :, None] * signals).sum(axis=1)
    right: Floats = signals[np.arange(len(labels)), labels]
    gradient: Floats = weights @ (right - expected) - strength * (found - prior)
    spread: Floats = (signals * (chance * weights[:, None])[:, :, None]).reshape(-1, size)
    curvature: Floats = spread.T @ signals.reshape(-1, size) - (expected * weights[:, None]).T @ expected
    return np.linalg.solve(curvature + strength * np.eye(size), gradient).astype(np.float64)


@dataclass(frozen=True)
class Judged:
    """What the cards say about m texts."""

    chance: Floats
    """Probabilities, shape (m, c + 1); the last column is "none of them"."""
    score: Floats
    """Logits, same shape."""
    signals: NDArray[np.floating[Any]]
    """Shape (m, c, len(SIGNALS))."""
    places: tuple[int, ...] | None = None
    """Positions of the c cards among all of the fit, ascending, where only the likeliest of many are listed; the
    probabilities are those among all."""

    def __len__(self) -> int:
        return len(self.chance)

    def likeliest(self, most: int, listed: Sequence[int] = ()) -> "Judged":
        """The same about the cards that are among the `most` likeliest of a text, and those at the places `listed`."""
        count = self.chance.shape[1] - 1
        if count <= most:
            return self
        best = np.argpartition(-self.chance[:, :-1], most - 1, axis=1)[:, :most]
        places = np.unique(np.append(best, np.array(listed, np.int64)))
        columns = np.append(places, count)
        return Judged(
            self.chance[:, columns],
            self.score[:, columns],
            self.signals[:, places],
            tuple(cast(list[int], places.tolist())),
        )


class CalibratedCards:
    """A set of cards, ready to be asked. Fitted when made, which takes a moment; never changes afterwards.

    Args:
        cards: The agents, at least one, no id twice.
        vectors: Dense vectors of `texts(cards)`, shape (n, d); d may be 0.
    """

    def __init__(self, cards: Sequence[AgentCard], vectors: NDArray[np.float32]) -> None:
        self.ids = tuple(card.id for card in cards)
        self.examples = sum(len(card.examples) for card in cards) / len(cards)
        rows = [*card_rows(cards), *background_rows()]
        examples = sum(len(card.examples) for card in cards)
        learned = len(cards) > RIDGE_AGENTS and learns_from(cards)
        self._scorer = (LearnedScorer if learned else CardScorer)(len(cards), rows, vectors[: len(rows)])
        self.alike = alike(_said_by(cards, rows, vectors))
        """Which cards say the same, shape (c, c)."""
        self._told: Told | None = None
        seen = self._scorer.held_out
        if _tells(cards) and vectors.shape[1]:
            own = vectors[len(rows) :]
            described, vocabulary = len(Told.texts(cards)), _vocabulary(rows)
            self._told = Told(cards, own[:described])
            words = dict(zip(vocabulary, own[described:], strict=True))
            held = [rows[place].text for place in cast(list[int], seen.places.tolist())]
            told = self._told.nearness(held, vectors[seen.places], words)
            seen.signals.agents[:, :, SIGNALS.index("told")] = told
        foreign = seen.labels == len(cards)
        together = min(FALSE_ALARM_SHARE * max(1, int((~foreign).sum())), MOST_FALSE_ALARMS)
        share = together / max(1, int(foreign.sum()))
        prior = LEARNED if learned else shipped_parameters(examples / len(cards))
        weights = np.where(foreign, share, 1.0)
        self.held_out = seen
        self.parameters = fit_logit(seen.signals.agents, seen.signals.none, seen.labels, weights, prior)

    @staticmethod
    def texts(cards: Sequence[AgentCard]) -> list[str]:
        """What must be embedded to fit these cards."""
        rows = [*card_rows(cards), *background_rows()]
        told = [*Told.texts(cards), *_vocabulary(rows)] if _tells(cards) else []
        return [*(row.text for row in rows), *told]

    def judge(
        self,
        texts: Sequence[str],
        vectors: NDArray[np.float32],
        tried: Sequence[str] = (),
        known: Mapping[str, NDArray[np.float32]] = MappingProxyType({}),
        *,
        most: int = MOST_LISTED,
        listed: Sequence[str] = (),
    ) -> Judged:
        """Probabilities of the agents for each text; those that were tried before lose some of theirs.

        `known` are the vectors of single words of the texts, which `wants_words` asks for. Of more than `most` agents
        only the likeliest of each text are listed, and those of `listed`.
        """
        signals = self._scorer.signals(texts, vectors)
        if self._told is not None:
            signals.agents[:, :, SIGNALS.index("told")] = self._told.nearness(texts, vectors, known)
        score = logits(signals.agents, signals.none, self.parameters)
        if tried:
            score[:, [place for place, agent in enumerate(self.ids) if agent in tried]] -= TRIED_PENALTY
        return Judged(probabilities(score), score, signals.agents).likeliest(
            most, [place for place, agent in enumerate(self.ids) if agent in listed] if listed else ()
        )

    @property
    def wants_words(self) -> bool:
        """Whether `judge` reads the vectors of single words."""
        return self._told is not None

    def knows(self, text: str) -> bool:
        """Whether the cards hold a word that says what a text is about."""
        return self._scorer.knows(specific_words(text))


def learns_from(cards: Sequence[AgentCard]) -> bool:
    """Whether the cards have examples enough for a head of many agents."""
    return sum(len(card.examples) for card in cards) >= LEARNED_EXAMPLES * len(cards)


def _said_by(cards: Sequence[AgentCard], rows: Sequence[Row], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """What each card says of itself as one vector, shape (c, d): its description and instructions, no examples."""
    said = np.zeros((len(cards), vectors.shape[1]), np.float32)
    for row, vector in zip(rows, vectors, strict=False):
        if row.kind is Kind.INSTRUCTION or (row.kind is Kind.DESCRIPTION and row.text == cards[row.agent].description):
            said[row.agent] += len(row.text) * vector
    return said


def _tells(cards: Sequence[AgentCard]) -> bool:
    """Whether a card has so few examples that its description must tell."""
    return any(len(card.examples) < TOLD_EXAMPLES for card in cards)


def _vocabulary(rows: Sequence[Row]) -> list[str]:
    """The words of the rows that the calibration may ask about."""
    asked = (Kind.EXAMPLE, Kind.BACKGROUND)
    return list(dict.fromkeys(word for row in rows if row.kind in asked for word in telling_words(row.text)))
