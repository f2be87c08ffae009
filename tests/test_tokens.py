"""Token counts: exact where tiktoken knows the model, honest where not, offline, linear in time."""

import os
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh.tokens import counter_for

MIXED = st.text(max_size=400)


@pytest.mark.parametrize("model", ["gpt-4o", "openai/gpt-4o", "openrouter/openai/gpt-4o-mini", "azure/gpt-5-mini"])
def test_a_model_that_tiktoken_knows_is_counted_exactly_with_any_provider_prefix(model: str) -> None:
    counter = counter_for(model)
    assert (counter.name, counter.exact) == ("o200k_base", True)


def test_an_unknown_model_is_counted_approximately_and_the_name_says_so() -> None:
    counter = counter_for("smollm2")
    assert counter.name == "cl100k_base (approximate for smollm2)"
    assert not counter.exact


def test_a_known_model_whose_encoding_is_not_on_this_machine_is_approximated_and_not_downloaded() -> None:
    assert counter_for("gpt2").name == "cl100k_base (approximate for gpt2)"


def test_counts_meet_published_examples() -> None:
    # "tiktoken is great!" has six tokens in cl100k_base: t|ik|token| is| great|!
    assert counter_for("gpt-4").count("tiktoken is great!") == 6
    assert counter_for("gpt-4").count("") == 0


def test_names_of_special_tokens_count_as_plain_text() -> None:
    assert counter_for("gpt-4").count("<|endoftext|>") > 1


def test_the_same_counter_is_given_again() -> None:
    assert counter_for("gpt-4") is counter_for("gpt-4")


@given(text=MIXED, most=st.integers(-1, 40))
@settings(max_examples=150, deadline=None)
def test_a_cut_is_a_beginning_of_the_text_and_counts_no_more_than_asked(text: str, most: int) -> None:
    counter = counter_for("gpt-4")
    cut = counter.cut(text, most)
    assert text.startswith(cut)
    assert counter.count(cut) <= max(0, most)
    if counter.count(text) <= most:
        assert cut == text


def test_a_cut_never_splits_a_character() -> None:
    family = "👩‍👩‍👧‍👦" * 20
    for most in range(1, 30):
        cut = counter_for("gpt-4").cut(family, most)
        assert family.startswith(cut)
        assert "�" not in cut


@pytest.mark.parametrize("text", ["a" * 300_000, " " * 300_000, "^" * 300_000, "\n" * 300_000, "漢" * 300_000])
@pytest.mark.parametrize("model", ["gpt-4", "gpt-4o"])
def test_very_long_runs_of_one_character_are_counted_in_reasonable_time(text: str, model: str) -> None:
    started = time.monotonic()
    assert counter_for(model).count(text) > 1000
    assert len(counter_for(model).cut(text, 100)) < len(text)
    assert time.monotonic() - started < 5


def test_a_long_text_counts_the_same_in_pieces_as_at_once() -> None:
    sentence = "The next free window is offered by text message, at 8:00 on the same day. "
    counter = counter_for("gpt-4")
    assert counter.count(sentence * 2000) == 2000 * (counter.count(sentence * 2) - counter.count(sentence)) + 1


def test_counting_imports_no_litellm_and_leaves_the_environment_alone() -> None:
    code = (
        "import os, sys; os.environ.pop('TIKTOKEN_CACHE_DIR', None)\n"
        "from agentmesh.tokens import counter_for\n"
        "print(counter_for('gpt-4').count('hello world'), 'litellm' in sys.modules, 'TIKTOKEN_CACHE_DIR' in os.environ)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["2", "False", "False"]


def test_a_cache_folder_of_the_user_that_lacks_the_files_does_no_harm(tmp_path: os.PathLike[str]) -> None:
    code = "from agentmesh.tokens import counter_for; print(counter_for('gpt-4').count('hello world'))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, "TIKTOKEN_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.strip() == "2"
