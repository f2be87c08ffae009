"""From evidence to probabilities: one conditional logit over the agents and "none of them". Pure arrays.

The parameters are shared by all agents, so an agent that nobody has seen before has a probability at once. They start
from values fitted on public data and move with the cards' own examples, each scored by a model that did not see it.
"""

import numpy as np
from numpy.typing import NDArray

from agentmesh.routing.scorer import NONE_SIGNALS, SIGNALS

__all__ = ["fit_logit", "logits", "probabilities", "shipped_parameters"]

Floats = NDArray[np.float64]

BARE = np.array([5.6, 6.2, 0.0, 1.5, 1.0, -2.0, 1.6, -5.3, -2.7, 1.5, -1.5])
"""Parameters for cards with a description only."""
FULL = np.array([3.8, 8.0, 2.0, 2.0, 1.0, -2.0, 3.7, -3.6, -2.3, 0.4, 2.5])
"""Parameters for cards with about 60 examples. Both: fitted on rows of clinc150, hwu64 and banking77 (train parts, 1,500
each that were not examples, and clinc150's 200 out-of-scope rows), in the order `SIGNALS`, then `NONE_SIGNALS`."""
HALF_WAY_EXAMPLES = 8.0
"""Examples a card, on average, at which the parameters lie half way between `BARE` and `FULL`."""
PRIOR_STRENGTH = 50.0
"""Precision of the prior around the shipped parameters: with 200 examples they move a little, with 5,000 freely. The
best calibrated of 1, 10, 100 and infinity on the public rows."""
STEPS = 30
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
    count, choices, split = agents.shape
    signals = np.zeros((count, choices + 1, split + none.shape[1]))
    signals[:, :choices, :split] = agents
    signals[:, choices, split:] = none
    found = prior.copy()
    rows = np.arange(count)
    for _ in range(STEPS if count else 0):
        chance = probabilities(signals @ found)
        expected = np.einsum("mc,mcp->mp", chance, signals)
        gradient = weights @ (signals[rows, labels] - expected) - strength * (found - prior)
        spread = (signals * (chance * weights[:, None])[:, :, None]).reshape(-1, len(found))
        curvature = spread.T @ signals.reshape(-1, len(found)) - (expected * weights[:, None]).T @ expected
        step = np.linalg.solve(curvature + strength * np.eye(len(found)), gradient)
        longest = float(np.abs(step).max())
        found = found + step * min(1.0, LONGEST_STEP / max(longest, 1e-12))
        if longest < 1e-4:
            break
    return found


assert len(BARE) == len(FULL) == len(SIGNALS) + len(NONE_SIGNALS)
