"""The arithmetic of context: scores, budgets and the greedy choice, against values worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.context.budget import budget_for
from agentmesh.context.scoring import ScoreWeights, bm25_shares, importance, recency, relevance
from agentmesh.context.selection import CHOSEN, select_under_budget
from agentmesh.types import AgentCard, ContextRequest, RolePolicy, Task


def test_recency_halves_with_every_half_life_and_documents_stay_in_the_middle() -> None:
    assert recency(np.array([0, 2, 4, np.nan]), half_life_rounds=2).tolist() == [1.0, 0.5, 0.25, 0.5]


def test_relevance_mixes_meaning_and_words_and_takes_no_negative_cosine() -> None:
    assert relevance(np.array([0.8, -0.5]), np.array([0.4, 0.4]), dense_share=0.75).tolist() == pytest.approx(
        [0.7, 0.1]
    )


def test_importance_is_the_weighted_mean_of_its_parts() -> None:
    weights = ScoreWeights(relevance=3, role=1, stage=0, recency=0, trust=0)
    one = np.array([1.0])
    assert importance(
        relevance=one * 0.5, role=one, stage=one * 0, recency=one * 0, trust=one * 0, weights=weights
    ).tolist() == [0.625]


def test_a_document_of_mean_length_with_every_word_once_is_a_full_match() -> None:
    documents, lengths = [{"refund": 1, "late": 1}, {"invoice": 1, "paper": 1}], [2, 2]
    shares = bm25_shares([["refund", "late"]], documents, lengths)
    assert shares.tolist() == [[1.0, 0.0]]


def test_a_word_that_no_document_has_lowers_the_share() -> None:
    # n = 2: idf of a word in one document is ln(1 + 1.5 / 1.5), of one in none ln(1 + 2.5 / 0.5).
    known, unknown = math.log(2), math.log(6)
    shares = bm25_shares([["refund", "soup"]], [{"refund": 1}, {"invoice": 1}], [1, 1])
    assert shares[0, 0] == pytest.approx(known / (known + unknown))


def test_no_documents_and_no_words_give_zeros() -> None:
    assert bm25_shares([["a"]], [], []).shape == (1, 0)
    assert bm25_shares([[]], [{"a": 1}], [1]).tolist() == [[0.0]]


def test_selection_skips_what_no_longer_fits_and_goes_on() -> None:
    selection = select_under_budget(np.array([0.9, 0.8, 0.1]), np.array([60, 50, 30]), budget=100)
    assert selection.kept == [0, 2]
    assert selection.reasons == {0: CHOSEN, 1: "does not fit: 50 tokens, 40 left", 2: CHOSEN}


def test_selection_drops_what_repeats_a_kept_item() -> None:
    def repeats(i: int, kept: object) -> str | None:
        return "says the same" if i == 1 else None

    selection = select_under_budget(np.array([0.9, 0.8, 0.1]), np.array([10, 10, 10]), budget=100, repeats=repeats)
    assert selection.kept == [0, 2]
    assert selection.reasons[1] == "says the same"


def test_selection_refuses_costs_below_one_and_unequal_shapes() -> None:
    with pytest.raises(ValueError, match="costs >= 1"):
        select_under_budget(np.array([1.0]), np.array([0]), budget=1)
    with pytest.raises(ValueError, match="equal shapes"):
        select_under_budget(np.array([1.0]), np.array([1, 2]), budget=1)


@given(
    items=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 50)), max_size=30),
    budget=st.integers(0, 200),
)
def test_selection_never_spends_more_than_the_budget_and_leaves_no_room_unused(
    items: list[tuple[float, int]], budget: int
) -> None:
    scores, costs = np.array([s for s, _ in items]), np.array([c for _, c in items], dtype=np.int64)
    kept = select_under_budget(scores, costs, budget=budget).kept
    left = budget - sum(items[i][1] for i in kept)
    assert left >= 0
    assert all(cost > left for i, (_, cost) in enumerate(items) if i not in kept)


def request(**changes: object) -> ContextRequest:
    role = RolePolicy(budget_tokens={"base": 500, "verify": 700}, reserve_tokens={"task_state": 96})
    values: dict[str, object] = {
        "task": Task(text="t"), "card": AgentCard(id="a", description="d"), "role": role, "part": "", **changes
    }  # fmt: skip
    return ContextRequest.model_validate(values)


def test_the_budget_is_the_requests_then_the_projects_then_the_roles_without_its_reserve() -> None:
    assert budget_for(request(budget_tokens=50), default_tokens=300) == 50
    assert budget_for(request(), default_tokens=300) == 300
    assert budget_for(request()) == 404
    assert budget_for(request(stage="verify")) == 604
