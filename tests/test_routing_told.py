"""Descriptions are read word by word: by what they say, not by the words they use."""

import asyncio

import numpy as np

from agentmesh.models import open_embedder
from agentmesh.routing.told import Told, telling_words
from agentmesh.types import AgentCard

CARDS = (
    AgentCard(id="pay", name="Payment agent", description="Moves money between bank accounts, and pays bills."),
    AgentCard(id="trips", description="Books flights and hotels."),
    AgentCard(id="kitchen", description="Recipes, ingredients and cooking times."),
)
EMBEDDER = open_embedder("wordllama")


def nearness(texts: list[str], *, with_words: bool = True) -> np.ndarray:
    told = Told(CARDS, asyncio.run(EMBEDDER.embed(Told.texts(CARDS))))
    said = sorted({word for text in texts for word in telling_words(text)})
    known = dict(zip(said, asyncio.run(EMBEDDER.embed(said)), strict=True)) if with_words else {}
    return told.nearness(texts, asyncio.run(EMBEDDER.embed(texts)), known)


def test_words_that_are_near_count_although_no_description_has_them() -> None:
    near = nearness(["transfer cash to my savings", "plane tickets to Rome", "how long do I boil an egg"])
    assert near.argmax(axis=1).tolist() == [0, 1, 2]


def test_what_is_said_is_centred_over_the_agents() -> None:
    np.testing.assert_allclose(nearness(["plane tickets to Rome"]).sum(axis=1), 0.0, atol=1e-5)


def test_words_without_vectors_are_passed_over() -> None:
    with_words, without = nearness(["plane tickets to Rome"]), nearness(["plane tickets to Rome"], with_words=False)
    assert without.argmax() == 1
    assert not np.allclose(with_words, without)


def test_telling_words_are_those_that_say_something_or_else_all() -> None:
    assert telling_words("The train to the train station") == ["train", "station"]
    assert telling_words("it is of the") == ["it", "is", "of", "the"]


def test_what_is_embedded_are_whole_descriptions_their_clauses_and_their_words() -> None:
    texts = Told.texts(CARDS[:1])
    assert texts[0] == "Payment. Moves money between bank accounts, and pays bills."
    assert "Payment" in texts
    assert {"money", "bank", "bills"} <= set(texts)
