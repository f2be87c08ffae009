"""The index of large meshes: right, in place, the same in every process."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from agentmesh.evaluation.skills import skill_cards, skill_questions
from agentmesh.models.wordllama import WordLlamaEmbedder
from agentmesh.routing.index import CardIndex
from agentmesh.routing.index_block import ONE_THREAD, SHARES, Block, Lexicon, product
from agentmesh.routing.index_rows import MOST_EXAMPLES, Piece, card_rows_of, stand_in, vocabulary_of, word_bag
from agentmesh.routing.scorer import SIGNALS, Kind
from agentmesh.types import AgentCard

COUNT = 300

Floats = NDArray[np.float32]


def no_vectors(texts: list[str]) -> Floats:
    return np.zeros((len(texts), 0), np.float32)


def of_letters(cards: tuple[AgentCard, ...]) -> CardIndex:
    return CardIndex(cards, no_vectors(CardIndex.texts(cards)))


def best(index: CardIndex, text: str, vectors: Floats | None = None) -> str:
    judged = index.judge([text], no_vectors([text]) if vectors is None else vectors)
    assert judged.places is not None
    return index.ids[judged.places[int(judged.chance[0, :-1].argmax())]]


@pytest.fixture(scope="module")
def cards() -> tuple[AgentCard, ...]:
    return skill_cards(COUNT)


@pytest.fixture(scope="module")
def lexical(cards: tuple[AgentCard, ...]) -> CardIndex:
    return of_letters(cards)


async def test_most_questions_find_their_card_and_foreign_ones_stand_apart(cards: tuple[AgentCard, ...]) -> None:
    embedder = WordLlamaEmbedder()
    index = CardIndex(cards, await embedder.embed(CardIndex.texts(cards)))
    asked = skill_questions(120)
    found, own, foreign = 0, list[float](), list[float]()
    for sample in asked:
        vectors = await embedder.embed([sample.text])
        found += bool(sample.agents) and best(index, sample.text, vectors) == sample.agents[0]
        (own if sample.agents else foreign).append(float(index.judge([sample.text], vectors).chance[0, -1]))
    assert found / len(own) >= 0.9
    assert np.median(own) < 0.25 < 0.75 < np.median(foreign)


def test_without_vectors_the_words_and_letters_of_a_card_find_it(
    lexical: CardIndex, cards: tuple[AgentCard, ...]
) -> None:
    assert [best(lexical, card.examples[0]) for card in cards[:40]] == [card.id for card in cards[:40]]


def test_likeliest_cards_are_listed_in_the_order_of_the_cards_with_probabilities_among_all(lexical: CardIndex) -> None:
    texts = ["print the bills", "sum up the tapes"]
    judged = lexical.judge(texts, no_vectors(texts), most=5)
    places = judged.places
    assert places is not None
    assert list(places) == sorted(set(places))
    assert 5 <= len(places) <= 10
    assert judged.chance.shape == judged.score.shape == (2, len(places) + 1)
    assert judged.signals.shape == (2, len(places), len(SIGNALS))
    assert np.all(judged.chance.sum(axis=1) < 1.0)


def test_an_agent_that_was_tried_has_half_the_odds(lexical: CardIndex, cards: tuple[AgentCard, ...]) -> None:
    text = cards[7].examples[0]
    before, after = (lexical.judge([text], no_vectors([text]), tried) for tried in ((), (cards[7].id,)))
    assert before.places is not None
    column = before.places.index(7)
    assert before.score[0, column] - after.score[0, column] == pytest.approx(np.log(2.0))


def test_cards_come_change_and_go_without_a_new_build(lexical: CardIndex, cards: tuple[AgentCard, ...]) -> None:
    new = AgentCard(id="kite", description="Repairs kites and their strings.", examples=("my kite is torn",))
    changed = AgentCard(id=cards[3].id, description="Feeds penguins.", examples=("the penguins are hungry",))
    now = (new, *cards[:3], changed, *cards[5:])
    index = lexical.with_changes(now, [changed, new], no_vectors(CardIndex.card_texts([changed, new])))
    assert index.ids == tuple(card.id for card in now)
    assert best(index, "please mend the torn kite") == "kite"
    assert best(index, "penguins need to be fed, they are hungry") == changed.id
    assert best(index, cards[200].examples[0]) == cards[200].id
    assert cards[4].id not in index.ids
    assert best(index, cards[4].examples[0]) != cards[4].id
    assert index.knows("penguins")
    assert not lexical.knows("penguins")
    assert best(lexical, cards[4].examples[0]) == cards[4].id  # the old index is as it was


def test_a_card_that_is_gone_and_back_is_found_again_when_it_is_added(
    lexical: CardIndex, cards: tuple[AgentCard, ...]
) -> None:
    without = lexical.with_changes(cards[1:], [], no_vectors([]))
    with pytest.raises(ValueError, match="added"):
        without.with_changes(cards, [], no_vectors([]))
    again = without.with_changes(cards, cards[:1], no_vectors(CardIndex.card_texts(cards[:1])))
    assert again.ids == lexical.ids
    assert best(again, cards[0].examples[0]) == cards[0].id


def test_a_card_that_nobody_added_is_named(lexical: CardIndex, cards: tuple[AgentCard, ...]) -> None:
    with pytest.raises(ValueError, match="'kite'"):
        lexical.with_changes((*cards, AgentCard(id="kite", description="Kites.")), [], no_vectors([]))


def test_an_index_is_worn_after_many_changes(lexical: CardIndex) -> None:
    more = skill_cards(COUNT + 513)
    added = more[COUNT:]
    assert not lexical.worn
    assert lexical.with_changes(more, added, no_vectors(CardIndex.card_texts(added))).worn


def test_an_added_card_is_judged_as_if_it_had_always_been_there(cards: tuple[AgentCard, ...]) -> None:
    fewer, text = of_letters(cards[:-1]), cards[-1].examples[1]
    later = fewer.with_changes(cards, cards[-1:], no_vectors(CardIndex.card_texts(cards[-1:])))
    whole, grown = (index.judge([text], no_vectors([text]), most=1) for index in (of_letters(cards), later))
    assert whole.places == grown.places == (COUNT - 1,)
    assert grown.chance[0, 0] == pytest.approx(whole.chance[0, 0], abs=0.02)


@pytest.mark.parametrize(
    "odd",
    [
        AgentCard(id="odd", description="Kites."),
        AgentCard(id="odd", description="!!!", examples=("???", " "), instructions="\n\n"),
        AgentCard(id="odd", description="Kites.", examples=tuple(f"kite {n}" for n in range(1000)), not_for=("bills",)),
    ],
)
def test_poor_and_overfull_cards_are_taken(cards: tuple[AgentCard, ...], odd: AgentCard) -> None:
    index = of_letters((*cards[:20], odd))
    judged = index.judge(["kites"], no_vectors(["kites"]))
    assert np.isfinite(judged.chance).all()
    assert np.isfinite(index.parameters).all()
    assert len(card_rows_of(odd)) <= MOST_EXAMPLES + 3


def test_questions_without_known_words_are_judged(lexical: CardIndex) -> None:
    texts = ["🙂🙂", "", "quetzalcoatl xylophone"]
    assert lexical.judge(texts, no_vectors(texts)).chance[:, -1].min() > 0.3


def test_what_a_card_is_not_for_takes_from_its_score() -> None:
    plain = tuple(AgentCard(id=f"a{n}", description=f"Sells {w}.") for n, w in enumerate(("fish", "bread", "milk")))
    text = "rotten fish complaint"
    warned = (plain[0].model_copy(update={"not_for": ("complaints about rotten fish",)}), *plain[1:])
    scores = [of_letters(c).judge([text], no_vectors([text])).score[0, 0] for c in (plain, warned)]
    assert scores[1] < scores[0] - 0.1


def test_a_prototype_mixes_rows_by_their_shares_to_unit_length() -> None:
    rows = np.array([[1, 0], [0, 1], [0, 1]], np.float32)
    piece = Piece({"fish": 1.0}, rows, (Kind.DESCRIPTION, Kind.EXAMPLE, Kind.EXAMPLE))
    block = Block([piece], 2, Lexicon({}, np.zeros((0, 2), np.float32)))
    # 0.3 and 0.6, the examples half of 0.6 each, over the length of (0.3, 0.6)
    length = np.hypot(SHARES[Kind.DESCRIPTION], SHARES[Kind.EXAMPLE])
    assert block.shares.tolist() == pytest.approx([0.3 / length, 0.3 / length, 0.3 / length], rel=1e-5)


def test_a_word_of_the_instructions_counts_half_and_one_of_not_for_nothing() -> None:
    rows = [("Sells fish", Kind.DESCRIPTION), ("fish and chips", Kind.INSTRUCTION), ("bread", Kind.NOT_FOR)]
    assert word_bag(rows) == {"sel": 1.0, "fish": 1.0, "and": 0.5, "chip": 0.5}


def test_a_product_in_pieces_is_the_product() -> None:
    rng = np.random.default_rng(0)
    left, right = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 64), (64, 2 * ONE_THREAD // 192)))
    assert np.allclose(product(left, right), left @ right, atol=1e-3)
    assert np.allclose(product(left[:1], right), left[:1] @ right, atol=1e-3)


def test_letters_stand_in_for_vectors_where_words_differ() -> None:
    near, far = (stand_in(["invoices"]) @ stand_in(["invoice", "penguin"]).T)[0].tolist()
    assert near > 0.7 > 0.2 > abs(far)


def test_the_vocabulary_holds_one_form_of_each_stem_the_frequent_ones_first() -> None:
    cards = (AgentCard(id="a", description="Sells fish, selling fish."), AgentCard(id="b", description="Fish."))
    assert vocabulary_of(cards) == ["fish", "sells"]


def test_every_process_judges_alike() -> None:
    code = (
        "import numpy as np; from agentmesh.routing.index import CardIndex as I;"
        "from agentmesh.evaluation.skills import skill_cards; c = skill_cards(60);"
        "i = I(c, np.zeros((len(I.texts(c)), 0), np.float32));"
        "j = i.judge(['print the bills'], np.zeros((1, 0), np.float32));"
        "print(j.places, j.chance.round(6).tolist())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert runs[0] == runs[1] != ""
