"""Sentences, words and questions of plain text and Markdown."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.text import asks, content_words, fold, sentences, stem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("It takes approx. 3 days. Then it ends.", ["It takes approx. 3 days.", "Then it ends."]),
        ("The price is 4.20 EUR. See web.example for more.", ["The price is 4.20 EUR.", "See web.example for more."]),
        ("## Late refunds\nA refund is late.", ["Late refunds", "A refund is late."]),
        ("Do this:\n- open **Account**\n- press Forget", ["Do this:", "open Account", "press Forget"]),
        ("1. Unplug it.\n2. Wait.", ["Unplug it.", "Wait."]),
        ('He said "wait." Then he left.', ['He said "wait."', "Then he left."]),
        ("", []),
        ("  \n\n ", []),
    ],
)
def test_sentences_end_where_a_reader_would_end_them(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("refunds", "refund"),
        ("deleted", "delete"),
        ("minutes", "minute"),
        ("deliveries", "delivery"),
        ("drops", "dropped"),
    ],
)
def test_forms_of_one_word_have_the_same_stem(one: str, other: str) -> None:
    assert stem(one) == stem(other)


def test_content_words_leave_out_stop_words_and_possessive_endings() -> None:
    assert content_words("The customer's refund is not in the account") == ["customer", "refund", "account"]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ("What does X-200 cost per month, and where do I set the limit?",
         ["What does X-200 cost per month", "where do I set the limit?"]),
        ("My line is slow. After how many days is it fixed?", ["My line is slow.", "After how many days is it fixed?"]),
        ("I lost my card, what does a new card cost?", ["I lost my card", "what does a new card cost?"]),
        ("Which server and port do I enter for mail?", ["Which server and port do I enter for mail?"]),
        ("Reset my password", ["Reset my password"]),
    ],
)  # fmt: skip
def test_a_request_is_cut_into_its_single_questions(request_: str, expected: list[str]) -> None:
    assert asks(request_) == expected


@given(st.text(max_size=300))
def test_no_sentence_is_empty_and_no_word_is_lost(text: str) -> None:
    found = sentences(text)
    assert all(s.strip() for s in found)
    assert all(a.strip() for a in asks(text))


@pytest.mark.parametrize("unit", ["\n", " ", ". ", "# \n", "a and how ", "**", "- \n", "!", "1.\n"])
def test_long_strange_text_takes_linear_time(unit: str) -> None:
    started = time.monotonic()
    text = unit * 50_000
    for read in (sentences, asks, content_words, fold):
        read(text)
    assert time.monotonic() - started < 3
