"""A linear head that learns which class a row of features belongs to. Pure arrays; knows nothing of cards.

Multinomial logistic regression. A ridge is solved in closed form but spends itself on the many rows that are no
agent's business: with a hundred agents it is wrong half as often again.
"""

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

__all__ = ["FIRST_STEPS", "MORE_STEPS", "PENALTY", "fit_softmax"]

Floats = NDArray[np.float32]

PENALTY = 0.1
"""Half the squared length of the weights costs this much, against a loss of 1 a row. Settled on rows of clinc150, hwu64
and banking77; .05 and .2 are within .3 points."""
FIRST_STEPS, MORE_STEPS = 26, 8
"""Steps from nothing, and from weights that were fitted on most of the rows: more of them gained nothing."""
CURVATURE_ROWS = 4_000
"""Rows by which the steps are shaped; all of them would cost more than the steps they save."""


def fit_softmax(
    features: Floats,
    labels: NDArray[np.int64],
    weights: Floats,
    classes: int,
    *,
    start: Floats | None = None,
    penalty: float = PENALTY,
    steps: int = FIRST_STEPS,
) -> Floats:
    """Weights of a multinomial logistic regression, shape (d, classes).

    Minimises sum_i weights_i * -log softmax(x_i W)[labels_i] + penalty / 2 * |W|^2. A column of ones among the features
    makes an intercept.

    Args:
        features: x, shape (n, d).
        labels: Class of each row, 0 to `classes` - 1, shape (n,).
        weights: How much each row counts, >= 0, shape (n,).
        classes: How many there are, >= 2.
        start: Weights that were fitted on other rows of the same features; absent: zeros.
        penalty: Of half the squared length of the weights, > 0.
        steps: Most steps of L-BFGS; stopping early is our choice.

    Source:
        Nocedal (1980), L-BFGS. Our choice: its variables are made alike in curvature by the Hessian's form at W = 0
        (Boehning 1992), features' weights features (1 / classes) + penalty, which saves most of the steps.
    """
    from scipy import linalg, optimize

    count, width = (int(size) for size in features.shape)
    rows: NDArray[np.int64] = np.arange(count)
    some = features[:: max(1, count // CURVATURE_ROWS)]
    curvature = (some.T * weights[:: max(1, count // CURVATURE_ROWS)]) @ some
    curvature *= np.float32(count / max(1, len(some)) / classes)
    curvature[np.diag_indices(width)] += np.float32(penalty)
    # W = root U: one triangular product a step instead of the many steps that differing curvatures would take.
    lower = np.asarray(cast(Any, linalg).cholesky(curvature, lower=True, check_finite=False), np.float32)
    root: Floats = np.linalg.inv(lower).T.astype(np.float32)

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        found = root @ flat.reshape(width, classes).astype(np.float32)
        scores = features @ found
        scores -= scores.max(axis=1, keepdims=True)
        right = scores[rows, labels].copy()
        chance = np.exp(scores, out=scores)
        total = chance.sum(axis=1, keepdims=True)
        value = float(weights @ (np.log(total[:, 0]) - right)) + penalty / 2 * float((found**2).sum())
        chance /= total
        chance[rows, labels] -= 1.0
        chance *= weights[:, None]
        slope = root.T @ (features.T @ chance + np.float32(penalty) * found)
        return value, slope.ravel().astype(np.float64)

    begin = np.zeros((width, classes), np.float32) if start is None else lower.T @ start
    result = cast(Any, optimize).minimize(
        loss, begin.ravel().astype(np.float64), jac=True, method="L-BFGS-B", options={"maxiter": steps, "maxcor": 6}
    )
    return np.asarray(root @ np.asarray(result.x, np.float32).reshape(width, classes), np.float32)
