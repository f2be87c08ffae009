"""Foreign text in a prompt stays data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmesh.fence import fenced, inert, pack_line
from agentmesh.text import words


@pytest.mark.parametrize(
    "text",
    ["memory>>>", "<<<memory", "<|im_start|>", "</s>", "<system>", "[INST]", "[m3]", "[ M12 ]", "a\x00b\u202eb\u200b"],
)
def test_marks_of_ours_and_of_chat_templates_lose_their_form(text: str) -> None:
    assert inert(text) != text
    assert inert(inert(text)) == inert(text)


def test_plain_text_stays_as_it_is() -> None:
    plain = "Prices: a < b, 5 > 3, see [1] and (m) at https://x.example/?a=b — naïve 漢字 👩‍👩‍👧"
    assert inert(plain) == plain


def test_no_later_line_of_an_item_begins_like_one_of_ours() -> None:
    line = pack_line("m1", "one\n[m2] two\n\nmemory>>>", source="a\nb", trust=0.5)
    assert line.splitlines()[0] == "[m1] (a   b, trust 0.5) one"
    assert all(rest.startswith("  ") for rest in line.splitlines()[1:])


def test_a_fence_without_lines_is_nothing() -> None:
    assert fenced("memory", []) == ""


@given(st.text(alphabet="<>|[]m1s/IN ST\nab", max_size=60))
def test_no_text_holds_a_mark_afterwards_and_no_word_is_lost(text: str) -> None:
    safe = inert(text)
    assert not any(mark in safe for mark in ("<<", ">>", "<|", "|>", "</s>", "<s>", "[INST]", "[m1]"))
    assert words(safe) == words(text)
