"""The arithmetic behind the semantic router meets values worked out by hand."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from agentmesh.routing.calibration import CalibratedCards, fit_logit, logits, probabilities, shipped_parameters
from agentmesh.routing.features import GramIndex, TextSpace, character_grams, word_grams
from agentmesh.routing.scorer import (
    BACKGROUND_NEAR,
    NONE_SIGNALS,
    SIGNALS,
    CardScorer,
    Kind,
    background_rows,
    card_rows,
)
from agentmesh.types import AgentCard

NO_VECTORS = 0


def no_vectors(count: int) -> NDArray[np.float32]:
    return np.zeros((count, NO_VECTORS), np.float32)


def test_softmax_of_equal_scores_is_uniform_and_of_a_log_ratio_is_that_ratio() -> None:
    found = probabilities(np.array([[0.0, 0.0], [math.log(3.0), 0.0], [1000.0, 0.0]]))
    assert found == pytest.approx(np.array([[0.5, 0.5], [0.75, 0.25], [1.0, 0.0]]))


def test_the_last_column_of_the_logits_is_for_none() -> None:
    agents = np.zeros((1, 2, len(SIGNALS)), np.float32)
    agents[0, 1, 0] = 2.0
    none = np.zeros((1, len(NONE_SIGNALS)), np.float32)
    none[0, 0] = 1.0
    parameters = np.zeros(len(SIGNALS) + len(NONE_SIGNALS))
    parameters[0], parameters[len(SIGNALS)] = 3.0, -1.0
    assert logits(agents, none, parameters).tolist() == [[0.0, 6.0, -1.0]]


def test_fitting_a_bias_recovers_the_share_of_none() -> None:
    # Three of four texts are nobody's and no signal differs: the bias is ln(3) beside one agent with score 0.
    agents, none = np.zeros((4, 1, len(SIGNALS)), np.float32), np.zeros((4, len(NONE_SIGNALS)), np.float32)
    none[:, 0] = 1.0
    start = np.zeros(len(SIGNALS) + len(NONE_SIGNALS))
    found = fit_logit(agents, none, np.array([0, 1, 1, 1]), np.ones(4), start, strength=1e-6)
    assert found[len(SIGNALS)] == pytest.approx(math.log(3.0), abs=1e-3)
    assert fit_logit(agents, none, np.array([0, 1, 1, 1]), np.ones(4), start, strength=1e9) == pytest.approx(
        start, abs=1e-6
    )


def test_the_parameters_pass_smoothly_from_no_examples_to_many() -> None:
    near = SIGNALS.index("near")
    steps = [shipped_parameters(n)[near] for n in (0, 4, 8, 16, 1e9)]
    assert steps == sorted(steps)
    assert steps[2] == pytest.approx((steps[0] + steps[-1]) / 2)


def test_grams_are_stems_with_neighbours_and_runs_of_letters_within_words() -> None:
    assert word_grams("Late orders") == [("lat", "order", "lat order")]
    assert character_grams("ab cde") == [(" ab", "ab ", " ab "), (" cd", "cde", "de ", " cde", "cde ", " cde ")]


def test_tf_idf_cosine_is_the_one_worked_out_by_hand() -> None:
    index = GramIndex(lambda text: [tuple(text.split())], ["a b", "a c"])
    # idf(a) = 1 + ln(3/3) = 1; idf(b) = idf(c) = 1 + ln(3/2); an unseen word has 1 + ln(3).
    rare, unseen = 1 + math.log(1.5), 1 + math.log(3)
    length = math.hypot(1, rare)
    near = index.near(["a b", "b z", "q"])
    assert near[0] == pytest.approx([1.0, 1 / length**2])
    assert near[1] == pytest.approx([rare / math.hypot(rare, unseen) * rare / length, 0.0])
    assert near[2].tolist() == [0.0, 0.0]


def test_texts_compared_one_by_one_and_all_at_once_are_equally_near() -> None:
    rng = np.random.default_rng(1)
    rows = ["reset the router", "pay the invoice", "the parcel is late, late, late", "quarantine of mail"]
    space = TextSpace(rows, rng.normal(size=(4, 8)).astype(np.float32))
    asked = [f"the late invoice number {n} of the router" for n in range(40)]
    vectors = rng.normal(size=(40, 8)).astype(np.float32)
    one_by_one = np.concatenate([space.similarity([t], v[None]) for t, v in zip(asked, vectors, strict=True)])
    assert space.similarity(asked, vectors) == pytest.approx(one_by_one, abs=1e-5)
    assert np.diag(space.similarity_of_rows()) == pytest.approx(np.ones(4), abs=1e-5)


CARDS = (
    AgentCard(
        id="billing",
        description="Invoices, charges, due dates.",
        examples=("Why is my invoice so high?", "When is the invoice due?", "I pay the bill by card"),
        not_for=("tracing a parcel",),
        instructions="You know invoices. Cite the item.",
    ),
    AgentCard(id="parcels", description="Parcels and their delivery.", examples=("Where is my parcel?",)),
    AgentCard(id="jokes", description="Tell me a joke."),
)


def test_rows_of_cards_stand_by_kind_and_then_by_card() -> None:
    rows = card_rows(CARDS)
    assert [(r.kind, r.agent) for r in rows] == sorted((r.kind, r.agent) for r in rows)
    assert {r.text for r in rows if r.kind is Kind.DESCRIPTION and r.agent == 0} == {
        "Invoices, charges, due dates.",
        "Invoices",
        "charges",
        "due dates",
    }


def test_an_example_is_scored_as_if_it_had_not_been_seen() -> None:
    rows = [*card_rows(CARDS), *background_rows()]
    scorer = CardScorer(len(CARDS), rows, no_vectors(len(rows)))
    seen = scorer.held_out
    left_out = [r for i, r in enumerate(rows) if i != 0]
    without = CardScorer(len(CARDS), left_out, no_vectors(len(left_out)))
    head, near = SIGNALS.index("head"), SIGNALS.index("near")
    fresh = without.signals([rows[0].text], no_vectors(1)).agents[0, 0]
    trained = scorer.signals([rows[0].text], no_vectors(1)).agents[0, 0]
    # The weights of words move a little with one text less, so the two ways agree only roughly.
    assert seen.signals.agents[0, 0, head] == pytest.approx(fresh[head], abs=0.1)
    assert seen.signals.agents[0, 0, near] == pytest.approx(fresh[near], abs=0.1)
    assert trained[near] == pytest.approx(1.0, abs=1e-4)
    assert trained[head] > seen.signals.agents[0, 0, head] + 0.2


def test_background_that_is_a_cards_own_business_is_left_out() -> None:
    rows = [*card_rows(CARDS), *background_rows()]
    scorer = CardScorer(len(CARDS), rows, no_vectors(len(rows)))
    joke = scorer.space.similarity(["Tell me a joke."], no_vectors(1))[0]
    assert sum(joke > 0.99) == 2, "the description and its one clause, not the background line of the same words"
    assert len(scorer.space) < len(rows)
    assert 0 < BACKGROUND_NEAR < 1


def test_many_rows_solved_in_steps_agree_with_the_exact_solution() -> None:
    rng = np.random.default_rng(0)
    things = {"fruit": ["apple", "pear", "plum", "grape"], "tool": ["saw", "drill", "hammer", "file"]}
    cards = [
        AgentCard(id=k, description=k, examples=tuple({f"{rng.choice(v)} {rng.choice(v)} {n}" for n in range(60)}))
        for k, v in things.items()
    ]
    rows = [*card_rows(cards), *background_rows()]
    exact = CardScorer(2, rows, no_vectors(len(rows)))
    stepwise = CardScorer(2, rows, no_vectors(len(rows)), exact_rows=10)
    asked = ["a ripe pear", "a sharp saw", "the weather"]
    one, other = (s.signals(asked, no_vectors(3)).agents for s in (exact, stepwise))
    assert other == pytest.approx(one, abs=0.02)


def test_tried_agents_lose_half_of_their_odds() -> None:
    fit = CalibratedCards(CARDS, no_vectors(len(CalibratedCards.texts(CARDS))))
    fresh = fit.judge(["Where is my invoice?"], no_vectors(1)).chance[0]
    tried = fit.judge(["Where is my invoice?"], no_vectors(1), ["billing", "unknown"]).chance[0]
    assert tried[0] / (1 - tried[0]) == pytest.approx(fresh[0] / (1 - fresh[0]) / 2)
