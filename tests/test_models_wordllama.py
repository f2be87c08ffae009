"""The embeddings that need nothing but a package, and the ones of the extra `minilm`."""

import logging
from importlib.util import find_spec

import numpy as np
import pytest

from agentmesh.errors import ConfigError
from agentmesh.models.minilm import MiniLMEmbedder
from agentmesh.models.wordllama import LONGEST_CHARS, WordLlamaEmbedder


async def test_texts_about_the_same_thing_are_more_similar() -> None:
    bill, invoice, weather = await WordLlamaEmbedder().embed(
        ["My bill is wrong", "There is an error on the invoice", "It will rain tomorrow"]
    )
    assert bill @ invoice > bill @ weather + 0.1


async def test_a_known_text_is_not_embedded_again_and_cannot_be_changed_from_outside() -> None:
    embedder = WordLlamaEmbedder()
    first = await embedder.embed(["My bill is wrong"])
    kept = first.copy()
    first[:] = 0
    assert np.array_equal(await embedder.embed(["My bill is wrong"]), kept)


async def test_what_stands_after_the_cut_does_not_count() -> None:
    text = "My bill is wrong. " * (LONGEST_CHARS // 18 + 1)
    vectors = await WordLlamaEmbedder().embed([text[:LONGEST_CHARS], text[:LONGEST_CHARS] + " It will rain tomorrow"])
    assert np.array_equal(vectors[0], vectors[1])


async def test_a_short_text_beside_a_very_long_one_keeps_its_place() -> None:
    texts = ["invoice", "port " * 3000, "rain", "port " * 3900, "VPN"]
    together, embedder = await WordLlamaEmbedder().embed(texts), WordLlamaEmbedder()
    for text, vector in zip(texts, together, strict=True):
        assert np.allclose((await embedder.embed([text]))[0], vector, atol=1e-5)


async def test_loading_leaves_the_logging_of_the_application_alone() -> None:
    before = list(logging.getLogger().handlers)
    await WordLlamaEmbedder().embed(["a"])
    assert logging.getLogger().handlers == before


def test_the_extra_of_minilm_is_named_where_it_is_missing() -> None:
    if find_spec("sentence_transformers") is not None:
        pytest.skip("the extra `minilm` is installed")
    with pytest.raises(ConfigError, match=r"pip install 'agentmesh\[minilm\]'"):
        MiniLMEmbedder()


async def test_minilm_finds_similar_texts() -> None:
    if find_spec("sentence_transformers") is None:
        pytest.skip("the extra `minilm` is not installed")
    bill, invoice, weather = await MiniLMEmbedder().embed(
        ["My bill is wrong", "There is an error on the invoice", "It will rain tomorrow"]
    )
    assert bill @ invoice > bill @ weather + 0.1
