"""Every metric against values worked out by hand."""

import numpy as np
import pytest

from agentmesh.evaluation.metrics import (
    auroc,
    bootstrap_ci95,
    calibration_error,
    exact_set,
    hit,
    mean_set_size,
    micro_f1,
    recall_at,
    reliability,
    same_route,
    top1,
)

CHOSEN = (("a", "b"), ("b",), (), ("c", "a"))
RIGHT = (("a",), ("a",), ("a",), ("a", "c"))


def test_the_first_choice_counts_for_top1_and_an_empty_choice_is_wrong() -> None:
    assert top1(CHOSEN, RIGHT).tolist() == [1, 0, 0, 1]


def test_any_choice_counts_for_a_hit() -> None:
    assert hit((("b", "a"), ("b",), ()), (("a",), ("a",), ("a",))).tolist() == [1, 0, 0]


def test_an_exact_set_has_no_agent_too_many_or_too_few_in_any_order() -> None:
    assert exact_set(CHOSEN, RIGHT).tolist() == [0, 0, 0, 1]
    assert exact_set(((),), ((),)).tolist() == [1], "nobody is right where nobody is asked for"


def test_recall_counts_the_right_ones_among_the_first_k() -> None:
    assert recall_at((("a", "x", "b"), ("b", "a")), (("a", "b"), ("a",)), 2).tolist() == [0.5, 1.0]


def test_an_agent_named_twice_counts_once_in_the_size() -> None:
    assert mean_set_size((("a", "a"), ("a", "b"), ())).tolist() == [1, 2, 0]


def test_micro_f1_is_twice_the_right_over_chosen_and_wanted() -> None:
    # Rows: 1 of 2 chosen right, 1 wanted; 0 of 1, 1 wanted; 2 of 2, 2 wanted: 2 * 3 / (5 + 4).
    assert micro_f1(np.array([1, 0, 2]), np.array([2, 1, 2]), np.array([1, 1, 2])) == pytest.approx(6 / 9)
    assert micro_f1(np.array([0]), np.array([0]), np.array([0])) == 0.0


def test_auroc_counts_a_tie_half() -> None:
    # Positive 0.9 and 0.5, negative 0.5 and 0.1: pairs 1, 1, 0.5, 1 of 4.
    scores, positive = np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False])
    assert auroc(scores, positive) == pytest.approx(3.5 / 4)
    assert auroc(np.zeros(4), positive) == pytest.approx(0.5)
    assert auroc(-scores, positive) == pytest.approx(0.5 / 4)


def test_auroc_of_one_kind_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least one positive and one negative"):
        auroc(np.array([0.1, 0.2]), np.array([True, True]))


def test_calibration_error_is_the_mean_gap_of_bins_of_equal_mass() -> None:
    chance = np.array([0.9, 0.2, 0.7, 0.4])
    right = np.array([True, False, False, True])
    # In order: {.2, .4} of which half is right, {.7, .9} of which half: gaps .2 and .3, each of half the mass.
    assert calibration_error(chance, right, bins=2) == pytest.approx(0.25)
    assert calibration_error(np.array([1.0, 0.0]), np.array([True, False])) == pytest.approx(0.0)


def test_reliability_is_what_was_said_and_what_came_true_by_bin() -> None:
    chance, right = np.array([0.9, 0.2, 0.7]), np.array([True, False, False])
    assert reliability(chance, right, bins=2) == [(pytest.approx(0.45), 0.0, 2), (0.9, 1.0, 1)]


def test_the_same_route_is_the_same_agent_and_nobody_is_never_the_same() -> None:
    assert same_route(["a", "a", None, None], ["a", "b", "a", None]).tolist() == [1, 0, 0, 0]


def test_an_interval_holds_the_mean_and_repeats_with_its_seed() -> None:
    values = np.arange(100.0)

    def mean(taken: np.ndarray) -> float:
        return float(values[taken].mean())

    low, high = bootstrap_ci95(100, mean)
    # The standard error of the mean is 28.9 / 10.
    assert low == pytest.approx(49.5 - 1.96 * 2.89, abs=0.8)
    assert high == pytest.approx(49.5 + 1.96 * 2.89, abs=0.8)
    assert bootstrap_ci95(100, mean) == (low, high)
    assert bootstrap_ci95(100, mean, seed=1) != (low, high)
    assert bootstrap_ci95(1, lambda taken: 3.0) == (3.0, 3.0)
