"""How a message is split into its wishes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.routing.parts import MAX_PARTS, refers_back, specific_words, split_parts


def texts(message: str) -> list[str]:
    return [part.text for part in split_parts(message)]


@pytest.mark.parametrize(
    ("message", "wishes"),
    [
        ("My invoice is wrong and the VPN drops", ["My invoice is wrong", "the VPN drops"]),
        ("Where is my parcel? How do I reset the router?", ["Where is my parcel?", "How do I reset the router?"]),
        (
            "Where is my parcel; another thing: can I change my tariff?",
            ["Where is my parcel", "can I change my tariff?"],
        ),
        ("play some jazz, after that turn off the lamp", ["play some jazz", "turn off the lamp"]),
        ("Please reset my password and send me a new SIM card", ["Please reset my password", "send me a new SIM card"]),
        ("what is my balance and also how busy is the cafe", ["what is my balance", "how busy is the cafe"]),
        ("- cancel the order\n- refund the deposit", ["- cancel the order", "refund the deposit"]),
        ("你好，我的账单不对。我的网络断了", ["你好，我的账单不对。", "我的网络断了"]),
    ],
)
def test_each_wish_of_a_message_is_a_part(message: str, wishes: list[str]) -> None:
    assert texts(message) == wishes


@pytest.mark.parametrize(
    "message",
    [
        "What are the terms and conditions of the router and the phone?",
        "The line is up and running.",
        "Tell me about salt and pepper, fish and chips.",
        "When I connect to the VPN, what is the right gateway?",
        "If the parcel is lost, do I get my money back?",
        "On my phone, what is the access point name?",
        "How many devices can I connect at the same time?",
        "The VPN app shows error 419, what does it mean?",
        "Is the shop open at 5 p.m. Monday?",
    ],
)
def test_one_wish_stays_whole(message: str) -> None:
    assert texts(message) == [message]


def test_a_greeting_or_thanks_is_no_part_of_its_own() -> None:
    assert texts("Hello! My mailbox is full. Thank you!") == ["Hello! My mailbox is full. Thank you!"]
    assert texts("The mailbox is full. Why is that? Where is my parcel?") == [
        "The mailbox is full. Why is that?",
        "Where is my parcel?",
    ]


def test_a_statement_before_a_wish_is_background_and_one_before_another_matter_is_not() -> None:
    statement, wish = split_parts("I changed my password yesterday and now the VPN drops.")
    assert statement.background
    assert not wish.background
    first, second = split_parts("My mailbox is full. Another thing: what does a SIM card cost?")
    assert not first.background
    assert not second.background


def test_a_part_that_refers_back_is_understood_with_the_part_before() -> None:
    bill, it = split_parts("Please explain the paper invoice. What does it cost for me?")
    assert bill.context == bill.text
    assert it.context == "Please explain the paper invoice. What does it cost for me?"


def test_a_message_that_is_about_nothing_refers_back() -> None:
    assert refers_back("and what does it cost?")
    assert refers_back("It does not work.")
    assert not refers_back("What does a paper invoice cost?")
    assert specific_words("It does not work, please help me") == ()
    assert specific_words("the invoice does not work") == ("invoic",)


def test_a_message_without_words_has_no_empty_parts() -> None:
    assert split_parts("   ") == ()
    assert texts("😀😀") == ["😀😀"]
    assert texts("and also") != []


def test_a_long_list_of_wishes_ends_in_one_part_with_the_rest() -> None:
    parts = texts(" ".join(f"Where is parcel number {n}?" for n in range(40)))
    assert len(parts) == MAX_PARTS
    assert parts[-1].endswith("Where is parcel number 39?")


@given(st.text(max_size=300))
def test_no_word_of_a_message_with_plain_sentences_is_lost(noise: str) -> None:
    parts = split_parts(noise)
    assert all(part.text.strip() for part in parts)
    assert bool(parts) == bool(noise.strip())
