"""Which agents of the last turn of a conversation go on with the next one."""

import math

import numpy as np
import pytest

from agentmesh.routing.carry import BESIDE, FEATURES, NEW, PLAIN_NEW, alike, carried, continuation, features

INVOICE, NETWORK, PARCEL = 0, 1, 2
NOBODY = np.array([0.05, 0.05, 0.05, 0.85])
SURE_OF_NETWORK = np.array([0.02, 0.93, 0.02, 0.03])
STATED = "Your invoice of March is 40 euros."
ASKED = "Your invoice of March is 40 euros. Shall I send it again?"
DONE = "Done, the invoice is sent. Is there anything else I can do for you?"


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("Yes please.", ASKED),
        ("no", ASKED),
        ("to my work address", "Where should I send it?"),
        ("half past six", "When shall we call you?"),
        ("the second one", "I found three invoices. Which one do you mean?"),
        ("Why is it so high?", STATED),
        ("Please try again", "Sorry, the invoice could not be sent."),
        ("Thanks, that's all for now!", DONE),
        ("Goodbye", DONE),
        ("👍", ASKED),
        ("", STATED),
    ],
)
def test_an_answer_a_question_about_it_and_a_goodbye_stay_with_the_last_agent(text: str, reply: str) -> None:
    assert carried(text, reply, [INVOICE], NOBODY).agents == (INVOICE,)


@pytest.mark.parametrize(
    "text",
    ["Thanks. My network also drops every few minutes", "Great, now I need a faster network", "I also want a VPN"],
)
def test_a_new_wish_after_a_closed_matter_leaves_the_last_agent(text: str) -> None:
    assert carried(text, DONE, [INVOICE], SURE_OF_NETWORK).agents == (NETWORK,)


def test_a_new_wish_beside_an_open_matter_keeps_the_last_agent_first() -> None:
    found = carried("That sounds good. I also need a faster network", STATED, [INVOICE], SURE_OF_NETWORK)
    assert found.agents == (INVOICE, NETWORK)
    assert found.reason == "asks for one thing more and goes on with the last turn"


def test_a_text_that_the_router_gives_to_the_last_agent_asks_for_nothing_new() -> None:
    text = "Send me the invoice of February too"
    own, foreign = continuation(text, STATED, 0.9, 0.02, 0.08), continuation(text, STATED, 0.02, 0.9, 0.08)
    assert own.new < 0.1 < foreign.new


def test_an_agent_that_joined_on_the_last_turn_goes_on_alone() -> None:
    assert carried("ok", STATED, [INVOICE, NETWORK], NOBODY, joined=[NETWORK]).agents == (NETWORK,)
    assert carried("ok", STATED, [INVOICE, NETWORK], NOBODY).agents == (INVOICE, NETWORK)
    assert carried("ok", STATED, [INVOICE, NETWORK], NOBODY, joined=[NETWORK, INVOICE]).agents == (INVOICE, NETWORK)


def test_an_agent_like_the_last_one_is_never_new() -> None:
    text = "Thanks. I also need a faster network"
    assert carried(text, DONE, [INVOICE], SURE_OF_NETWORK).agents == (NETWORK,)
    assert NETWORK not in carried(text, DONE, [INVOICE], SURE_OF_NETWORK, like=[NETWORK]).agents


def test_several_new_agents_are_those_that_the_router_chose() -> None:
    chance = np.array([0.0, 0.5, 0.45, 0.05])
    text = "Thanks. I also need a faster network and a new parcel"
    assert carried(text, DONE, [INVOICE], chance).agents == (NETWORK,)
    assert carried(text, DONE, [INVOICE], chance, wanted=[PARCEL, NETWORK, INVOICE]).agents == (NETWORK, PARCEL)


def test_there_is_nobody_else_to_go_over_to() -> None:
    found = carried("I also need a network", DONE, [0], np.array([0.1, 0.9]))
    assert found.agents == (0,)
    assert found.reason == "there is no other agent"


@pytest.mark.parametrize("last", [[], [3], [-1]])
def test_last_agents_that_are_no_columns_of_agents_are_refused(last: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one last agent, each from 0 to 2"):
        carried("ok", STATED, last, NOBODY)


@pytest.mark.parametrize(
    ("text", "reply", "reason"),
    [
        ("Half past six", "When shall we call you?", "answers the question of the last turn"),
        ("Yes", STATED, "agrees to the last turn"),
        ("Thank you so much", DONE, "thanks for the last turn"),
        ("Thanks, bye", DONE, "ends the conversation"),
        ("Why is it so high?", STATED, "refers to the last turn"),
    ],
)
def test_the_reason_names_the_sign(text: str, reply: str, reason: str) -> None:
    assert continuation(text, reply, 0.1, 0.1, 0.8).reason == reason


def test_the_probabilities_are_the_logistic_of_the_weighted_signs() -> None:
    # "yes" to a question: all signs of this row by hand; logit .2 = ln(1/4), logit .5 = 0.
    row, english = features("Yes", "Shall I?", 0.5, 0.2, 0.5)
    signs = {name: value for name, value in zip(FEATURES, row.tolist(), strict=True) if value}
    assert english
    assert signs == pytest.approx(
        {"always": 1, "it asked": 1, "other": math.log(0.25), "length": math.log(2), "bare": 1, "bare answer": 1,
         "says nothing": 1, "says yes": 1}
    )  # fmt: skip
    weight, beside = dict(zip(FEATURES, NEW.tolist(), strict=True)), dict(zip(FEATURES, BESIDE.tolist(), strict=True))
    found = continuation("Yes", "Shall I?", 0.5, 0.2, 0.5)
    new = 1 / (1 + math.exp(-sum(value * weight[name] for name, value in signs.items())))
    stay_if_new = 1 / (1 + math.exp(-sum(value * beside[name] for name, value in signs.items())))
    assert found.new == pytest.approx(new)
    assert found.stay == pytest.approx(1 - new * (1 - stay_if_new))


def test_another_language_is_decided_by_the_routers_numbers_alone() -> None:
    mine, other = "Bitte senden Sie mir die Rechnung", "Wo ist mein Paket und wann kommt es"
    assert continuation(mine, STATED, 0.1, 0.7, 0.2).new == continuation(other, STATED, 0.1, 0.7, 0.2).new
    # always, it asked, other, surely other, last, none at even odds for all three: only the first sign is not zero.
    assert continuation(mine, STATED, 0.5, 0.5, 0.5).new == pytest.approx(1 / (1 + math.exp(-PLAIN_NEW[0])))
    assert continuation(other, STATED, 0.02, 0.95, 0.03).new > 0.5 > continuation(other, STATED, 0.8, 0.1, 0.1).new


def test_how_sure_the_router_is_beyond_its_limit_changes_nothing() -> None:
    assert continuation("ok", STATED, 0.0, 1.0, 0.0) == continuation("ok", STATED, 0.001, 0.999, 0.001)


def test_cards_that_say_the_same_are_alike_and_none_with_itself() -> None:
    # Around the mean (0, 0): the first two point the same way (cosine .98), the third away from them.
    vectors = np.array([[1.0, 0.1], [1.0, -0.1], [-2.0, 0.0]])
    assert alike(vectors).tolist() == [[False, True, False], [True, False, False], [False, False, False]]
    assert not alike(np.ones((2, 3))).any()
