"""Texts that need several agents at once: whole sets of agents are judged, and nobody is a set as well."""

import math
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from agentmesh.routing import several
from agentmesh.routing.scorer import SIGNALS
from agentmesh.routing.several import SeveralCards, fit_odds, fit_sets, pair_odds, shared_share
from agentmesh.types import AgentCard

ASKS = {"cancel": "please cancel the", "open": "please open a new", "price": "what is the price of the"}
THINGS = {"card": "credit card", "loan": "car loan", "pool": "swimming pool"}
TAILS = ("", " today", " for my wife", " if that works", " right now", " at last")


def some_cards(**more: AgentCard) -> tuple[AgentCard, ...]:
    """Three verbs and three things, each example on the card of its verb and on that of its thing."""
    examples: dict[str, list[str]] = {agent: [] for agent in (*ASKS, *THINGS)}
    for (verb, said), (thing, named), tail in product(ASKS.items(), THINGS.items(), TAILS):
        for agent in (verb, thing):
            examples[agent].append(f"{said} {named}{tail}")
    cards = {a: AgentCard(id=a, description=f"About {a}.", examples=tuple(own)) for a, own in examples.items()}
    return tuple((cards | more).values())


def no_vectors(count: int) -> NDArray[np.float32]:
    return np.zeros((count, 0), np.float32)


def fitted(cards: tuple[AgentCard, ...]) -> SeveralCards:
    return SeveralCards(cards, no_vectors(len(SeveralCards.texts(cards))))


def chosen(fit: SeveralCards, text: str, most: int = 6) -> set[str]:
    return {fit.ids[place] for place in fit.choose([text], no_vectors(1), most)[0]}


@pytest.fixture(scope="module")
def fit() -> SeveralCards:
    return fitted(some_cards())


# --- how much is shared -----------------------------------------------------------------------------------------------


def test_the_share_counts_distinct_texts_that_stand_on_two_or_more_cards() -> None:
    first = AgentCard(id="a", description="a", examples=("one", "two", "two", " three "))
    second = AgentCard(id="b", description="b", examples=("three", "four"))
    assert shared_share((first, second)) == 1 / 4
    assert shared_share((first,)) == 0.0
    assert shared_share((AgentCard(id="c", description="c"),)) == 0.0


# --- arithmetic -------------------------------------------------------------------------------------------------------


def test_pairs_that_own_as_many_rows_together_as_expected_have_no_odds() -> None:
    owned = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert pair_odds(np.zeros((4, 2)), owned, 0.0) == pytest.approx(np.zeros((2, 2)))


def test_the_odds_of_a_pair_are_what_is_missing_over_its_variance() -> None:
    # Each has probability 1/2 in 4 rows: 1 joint row is expected, 2 are seen, and the variance is 4 (1/4 - 1/16).
    owned = np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    assert pair_odds(np.zeros((4, 2)), owned, 0.0)[0, 1] == pytest.approx(1 / 0.75)
    assert pair_odds(np.zeros((4, 2)), owned, 0.25)[0, 1] == pytest.approx(1.0)


def test_log_odds_are_those_of_the_rows_where_there_are_many() -> None:
    # Of the rows with head 1 three of four are the agent's, of those with head 0 one of four: ln 3 and -ln 3.
    head = np.tile([[0.0], [1.0]], (4000, 1))
    owned = np.tile(np.array([0, 1, 0, 1, 0, 1, 1, 0], np.float64), 1000)[:, None]
    line = fit_odds(head, owned, np.ones(8000))[0]
    assert line[0] == pytest.approx(-math.log(3), abs=0.02)
    assert line[0] + line[1] == pytest.approx(math.log(3), abs=0.02)


def test_a_head_that_is_wrong_turns_no_agent_around() -> None:
    head = np.tile([[0.0], [1.0]], (2000, 1))
    assert fit_odds(head, 1.0 - head, np.ones(4000))[0, 1] == 0.0


def test_evidence_about_sets_keeps_its_weight_without_rows_and_loses_it_where_it_misleads() -> None:
    order = np.zeros((400, 1), np.int64)
    evidence = np.zeros((400, 2, 2))
    evidence[:, 1, 1] = 1.0  # pairs speak for the set that is never right
    owned = np.zeros((400, 1))
    assert fit_sets(order[:0], evidence[:0], owned[:0], np.ones(0)).tolist() == [1.0, 1.0]
    found = fit_sets(order, evidence, owned, np.ones(400))
    assert found[0] == pytest.approx(1.0)
    assert found[1] < -2.0


def test_the_evidence_about_a_set_is_what_its_agents_and_their_pairs_add_up_to() -> None:
    sets = several._Sets(2)  # pyright: ignore[reportPrivateUsage]
    order, evidence = sets.evidence(np.array([[-2.0, 1.0]]), np.array([[0.0, 0.5], [0.5, 0.0]]))
    assert order.tolist() == [[1, 0]]
    # nobody, the second agent, the first, both
    assert evidence[0].tolist() == [[0.0, 0.0], [1.0, 0.0], [-2.0, 0.0], [-1.0, 0.5]]


# --- sets -------------------------------------------------------------------------------------------------------------


def test_a_text_goes_to_all_of_the_agents_that_it_needs(fit: SeveralCards) -> None:
    assert chosen(fit, "please cancel the loan") == {"cancel", "loan"}
    assert chosen(fit, "cancel a pool") == {"cancel", "pool"}


def test_nobody_is_needed_for_what_is_on_no_card(fit: SeveralCards) -> None:
    judged = fit.judge(["why do volcanoes erupt", "please cancel the car loan"], no_vectors(2))
    assert chosen(fit, "why do volcanoes erupt") == set()
    assert judged.chance[0, -1] > 0.5 > judged.chance[1, -1]


def test_an_empty_text_harms_nothing(fit: SeveralCards) -> None:
    judged = fit.judge(["", "🙂"], no_vectors(2))
    assert np.isfinite(judged.chance).all()
    assert np.isfinite(judged.score).all()
    assert len(fit.choose(["", "🙂"], no_vectors(2), 3)) == 2
    assert fit.choose([], no_vectors(0), 3) == []


def test_a_set_holds_no_more_agents_than_asked_for_and_the_most_probable_first(fit: SeveralCards) -> None:
    text = "please cancel the swimming pool"
    (both,) = fit.choose([text], no_vectors(1), 6)
    chance = fit.judge([text], no_vectors(1)).chance[0]
    assert len(both) == 2
    assert chance[both[0]] >= chance[both[1]]
    assert [len(fit.choose([text], no_vectors(1), most)[0]) for most in (0, 1)] == [0, 1]


def test_probabilities_are_each_agents_own(fit: SeveralCards) -> None:
    judged = fit.judge(["please cancel the car loan"], no_vectors(1))
    chance = dict(zip((*fit.ids, "nobody"), judged.chance[0].tolist(), strict=True))
    assert chance["cancel"] > 0.8
    assert chance["loan"] > 0.8
    assert all(0 <= value <= 1 for value in chance.values())
    assert judged.score[0, 0] == pytest.approx(math.log(chance["cancel"] / (1 - chance["cancel"])))
    assert judged.signals.shape == (1, len(fit.ids), len(SIGNALS))


def test_nobody_is_as_probable_as_all_agents_together_leave_it() -> None:
    # Without pairs the sets are independent, so that the empty one has the product of what each agent leaves.
    fit = fitted(some_cards())
    fit._pairs = np.zeros_like(fit._pairs)  # pyright: ignore[reportPrivateUsage]
    chance = fit.judge(["please cancel it", "the pool"], no_vectors(2)).chance
    assert chance[:, -1] == pytest.approx((1 - chance[:, :-1]).prod(axis=1))


def test_agents_that_were_tried_before_are_less_probable(fit: SeveralCards) -> None:
    text, loan = ["please cancel the car loan"], fit.ids.index("loan")
    before, after = (fit.judge(text, no_vectors(1), tried).chance[0, loan] for tried in ((), ("loan",)))
    assert after < before


def test_it_knows_words_of_the_cards_only(fit: SeveralCards) -> None:
    assert fit.knows("the swimming thing")
    assert not fit.knows("volcano")


# --- cards of all kinds -----------------------------------------------------------------------------------------------


def test_what_a_card_is_not_for_takes_its_agent_away_and_no_other() -> None:
    text = "please cancel the car loan for my wife"
    card = next(c for c in some_cards() if c.id == "loan")
    denying = card.model_copy(update={"not_for": (text,), "examples": tuple(e for e in card.examples if e != text)})
    before, after = (
        fitted(cards).judge([text], no_vectors(1)).chance[0] for cards in (some_cards(), some_cards(loan=denying))
    )
    ids = [c.id for c in some_cards()]
    assert after[ids.index("loan")] < before[ids.index("loan")] - 0.2
    assert after[ids.index("cancel")] > 0.8


def test_cards_without_examples_and_single_cards_are_no_trouble() -> None:
    bare = tuple(AgentCard(id=a, description=f"Answers questions about {a}.") for a in ("tax", "rent"))
    for cards in (bare, bare[:1], some_cards(tax=bare[0])):
        fit = fitted(cards)
        judged = fit.judge(["a question about tax"], no_vectors(1))
        tax = fit.ids.index("tax")
        assert np.isfinite(judged.chance).all()
        assert judged.chance[0, tax] > fit.judge(["volcano"], no_vectors(1)).chance[0, tax]


def test_what_most_meshes_are_not_for_may_be_the_business_of_this_one() -> None:
    said = [row.text for row in several.background_rows()][:12]
    jokes = AgentCard(id="jokes", description="Small talk.", examples=tuple(said))
    assert "jokes" in chosen(fitted(some_cards(jokes=jokes)), said[3])


def test_dense_vectors_find_what_no_word_tells() -> None:
    cards = some_cards()
    texts = SeveralCards.texts(cards)
    known = (*THINGS.values(), *ASKS.values())
    vectors = np.array([[float(name in text) for name in known] for text in texts], np.float32)
    asked = np.array([[0, 1, 0, 1, 0, 0]], np.float32)  # a loan is to be cancelled, in another language
    fit = SeveralCards(cards, vectors)
    judged = fit.judge(["kündige den Kredit"], asked).chance[0]
    assert set(np.argsort(-judged[:-1])[:2].tolist()) == {fit.ids.index("cancel"), fit.ids.index("loan")}


def test_many_rows_are_learned_in_columns_and_say_about_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = some_cards(loan=some_cards()[4].model_copy(update={"not_for": ("who may lend me a book",)}))
    texts = ["please cancel the car loan", "price of the pool", "why do volcanoes erupt"]
    every = fitted(cards).judge(texts, no_vectors(3)).chance
    monkeypatch.setattr(several, "EXACT_ROWS", 0)
    few = fitted(cards)
    assert few.judge(texts, no_vectors(3)).chance == pytest.approx(every, abs=0.2)
    assert chosen(few, "please cancel the loan") == {"cancel", "loan"}


def test_of_too_many_rows_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(several, "MOST_ROWS", 60)
    assert chosen(fitted(some_cards()), "please cancel the car loan") == {"cancel", "loan"}


def test_rows_left_out_of_the_ridge_are_judged_as_a_fit_without_them_would(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = some_cards()
    rows = [*several.card_rows(cards), *several.background_rows()]
    for kind in (several._EveryGram, several._FewColumns):  # pyright: ignore[reportPrivateUsage]
        table = several._Table(rows, no_vectors(len(rows)), len(cards))  # pyright: ignore[reportPrivateUsage]
        whole = kind(table)
        less = several._Table(rows, no_vectors(len(rows)), len(cards))  # pyright: ignore[reportPrivateUsage]
        less.trust[7] = 0.0
        apart = kind(less).ask([table.texts[7]], no_vectors(1))
        assert whole.unseen[7] == pytest.approx(apart[0], abs=2e-3)


def test_every_process_finds_the_same() -> None:
    code = (
        "from tests.test_routing_several import *\n"
        "print(fitted(some_cards()).judge(['cancel a pool'], no_vectors(1)).chance.tolist())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1
    assert "[[" in found.pop()
