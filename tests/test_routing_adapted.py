"""Adapting a fit to cards that came, changed or left."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from agentmesh.routing import adapted as adapted_module
from agentmesh.routing.adapted import AdaptedCards, RidgeUpdate, adaptable, changes
from agentmesh.routing.calibration import CalibratedCards
from agentmesh.types import AgentCard
from tests.test_routing_contract import CARDS, HashedEmbedder

BILLING, VPN, ORDERS = CARDS[:3]
PRINTER = AgentCard(
    id="printer",
    name="Printer desk",
    description="Repairs printers: jams, toner, drivers.",
    examples=(
        "The printer has a paper jam.",
        "Where do I order a new toner cartridge?",
        "My printer prints blank pages.",
        "How do I install the printer driver?",
        "The scanner of the printer is offline.",
    ),
    not_for=("binding a brochure",),
    instructions="You repair printers. Ask for the model first.",
)
ASKED = (
    "the printer jams again",
    "which toner fits my printer",
    "why is the invoice so high",
    "vpn error on my laptop",
    "where is the package",
    "sing me a song",
)


async def embedded(texts: Sequence[str]) -> NDArray[np.float32]:
    return await HashedEmbedder().embed(texts) if texts else np.zeros((0, 1), np.float32)


async def fitted(cards: Sequence[AgentCard], *, dense: bool = True) -> CalibratedCards:
    vectors = await embedded(CalibratedCards.texts(cards))
    return CalibratedCards(cards, vectors if dense else vectors[:, :0])


async def adapted(
    base: CalibratedCards, cards: Sequence[AgentCard], added: Sequence[AgentCard], *, dense: bool = True
) -> AdaptedCards:
    vectors = await embedded(AdaptedCards.texts(added))
    return AdaptedCards(base, tuple(cards), added, vectors if dense or not added else vectors[:, :0])


async def chances(fit: CalibratedCards, texts: Sequence[str] = ASKED, *, dense: bool = True) -> NDArray[np.float64]:
    vectors = await embedded(texts)
    judged = fit.judge(texts, vectors if dense else vectors[:, :0], most=100)
    return judged.chance


def many(count: int, examples: int) -> tuple[AgentCard, ...]:
    """So many agents that the head is a softmax, each with words of its own."""
    rng = np.random.default_rng(3)
    verbs = ("open", "close", "move", "find", "repair", "clean", "rent", "paint", "count", "sell")

    def letters() -> str:
        return "".join(rng.choice(list("bcdfgklmnprst"), 1)[0] + rng.choice(list("aeiou"), 1)[0] for _ in range(3))

    found: list[AgentCard] = []
    for place in range(count):
        nouns = [letters() for _ in range(4)]
        texts = [f"please {verbs[i % len(verbs)]} the {nouns[i % 4]} {nouns[(i // 4) % 4]}" for i in range(examples)]
        found.append(
            AgentCard(id=f"agent-{place}", description=f"Cares for {' and '.join(nouns)}.", examples=tuple(texts))
        )
    return tuple(found)


# --- what changed -----------------------------------------------------------------------------------------------------


def test_a_copy_of_a_card_is_no_change_and_what_routing_does_not_read_neither() -> None:
    copies = (BILLING.model_copy(), VPN.model_copy(update={"model": "other", "tools": ("x.y",)}), ORDERS)
    assert changes(CARDS[:3], copies) == ((), ())


@pytest.mark.parametrize("key", ["name", "description", "instructions"])
def test_another_text_is_a_change(key: str) -> None:
    edited = VPN.model_copy(update={key: "Something else."})
    assert changes((BILLING, VPN), (BILLING, edited)) == ((edited,), ())


def test_cards_that_came_and_left_are_named() -> None:
    assert changes((BILLING, VPN), (BILLING, PRINTER)) == ((PRINTER,), ("vpn",))


def test_few_changes_can_be_adapted_and_many_cannot() -> None:
    cards = many(12, 1)
    assert adaptable(cards, cards[2:])
    assert adaptable(cards, (*cards[1:], PRINTER, VPN))
    assert not adaptable(cards, (*cards[2:], PRINTER, VPN))
    large = many(80, 1)
    assert adaptable(large, large[8:])
    assert not adaptable(large, large[9:])


def test_a_fit_of_two_cards_or_none_that_stayed_or_very_many_examples_cannot_be_adapted() -> None:
    cards = many(3, 1)
    assert adaptable(cards, (*cards, PRINTER))
    assert not adaptable(cards[:2], (*cards[:2], PRINTER))
    assert not adaptable(cards, ())
    endless = PRINTER.model_copy(update={"examples": tuple(f"print page {i}" for i in range(401))})
    assert not adaptable(cards, (*cards, endless))


# --- the ridge --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dense", [True, False])
async def test_an_agent_that_came_is_found_at_once_and_the_others_stay(dense: bool) -> None:
    base = await fitted((BILLING, VPN, ORDERS), dense=dense)
    fit = await adapted(base, (BILLING, PRINTER, VPN, ORDERS), [PRINTER], dense=dense)
    assert fit.ids == ("billing", "printer", "vpn", "orders")
    chance = await chances(fit, dense=dense)
    assert chance.shape == (len(ASKED), 5)
    assert chance[:5].argmax(axis=1).tolist() == [1, 1, 0, 2, 3]
    assert np.allclose(chance.sum(axis=1), 1.0)


@pytest.mark.parametrize("dense", [True, False])
async def test_an_agent_that_left_is_not_there_any_more(dense: bool) -> None:
    base = await fitted((BILLING, VPN, ORDERS), dense=dense)
    fit = await adapted(base, (BILLING, ORDERS), [], dense=dense)
    chance = await chances(fit, dense=dense)
    assert chance.shape == (len(ASKED), 3)
    assert chance[2].argmax() == 0
    assert chance[4].argmax() == 1
    assert fit.knows("invoice")
    assert not fit.knows("gateway")


async def test_a_changed_card_is_read_anew() -> None:
    base = await fitted((BILLING, VPN, ORDERS))
    other = PRINTER.model_copy(update={"id": "vpn"})
    fit = await adapted(base, (BILLING, other, ORDERS), [other])
    chance = await chances(fit)
    assert chance[0].argmax() == 1
    assert chance[1].argmax() == 1
    assert chance[3, 1] < 0.5
    assert fit.knows("toner")
    assert not fit.knows("gateway")


async def test_nothing_changed_says_what_the_fit_says() -> None:
    base = await fitted(CARDS)
    fit = await adapted(base, CARDS, [])
    assert np.allclose(await chances(fit), await chances(base), atol=1e-4)
    assert fit.stale == ""


def test_rows_that_leave_and_join_a_ridge_give_what_a_fit_of_all_gives() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(14, 6))
    system = (rows @ rows.T + np.eye(14)).astype(np.float32)
    targets = rng.choice([-1.0, 1.0], size=(14, 2)).astype(np.float32)
    kept, new = np.array([0, 1, 3, 4, 6, 7, 9]), np.arange(10, 14)  # of ten rows three leave, four come
    inverse = np.linalg.inv(system[:10, :10]).astype(np.float32)
    update = RidgeUpdate(inverse, kept, system[np.ix_(kept, new)], system[np.ix_(new, new)])
    expected = np.linalg.solve(system[np.ix_([*kept, *new], [*kept, *new])], targets[[*kept, *new]])
    for alone in (update.without_the_dropped(inverse @ targets[:10]), update.solved(targets[kept])):
        found = update.joined(alone, targets[new] - update.said_of_new(alone))
        assert np.allclose(found, expected, atol=1e-4)


async def test_the_adapted_ridge_says_what_a_new_fit_says() -> None:
    base = await fitted((BILLING, VPN, ORDERS))
    cards = (BILLING, VPN, ORDERS, PRINTER)
    there, again = await chances(await adapted(base, cards, [PRINTER])), await chances(await fitted(cards))
    assert np.abs(there - again).max() < 0.12


async def test_beside_a_ridge_with_too_many_rows_a_new_agent_is_found_too(monkeypatch: pytest.MonkeyPatch) -> None:
    base = await fitted((BILLING, VPN, ORDERS))
    cards = (BILLING, VPN, ORDERS, PRINTER)
    fit = await adapted(base, cards, [PRINTER])
    monkeypatch.setattr(adapted_module, "KEPT_ROWS", 1)
    beside = await adapted(base, cards, [PRINTER])
    exact, estimated = await chances(fit), await chances(beside)
    assert exact[:5].argmax(axis=1).tolist() == estimated[:5].argmax(axis=1).tolist() == [3, 3, 0, 1, 2]
    assert not np.allclose(exact, estimated)
    without = await adapted(base, (BILLING, ORDERS), [])
    assert (await chances(without))[4].argmax() == 1
    assert not without.knows("gateway")


async def test_a_background_utterance_that_is_the_new_cards_business_is_no_longer_foreign() -> None:
    jokes = AgentCard(id="jokes", description="Tells jokes.", examples=("Tell me a joke.", "Another joke please!"))
    base = await fitted((BILLING, VPN, ORDERS))
    fit = await adapted(base, (BILLING, VPN, ORDERS, jokes), [jokes])
    asked = ("Tell me a joke.",)
    assert (await chances(base, asked))[0].argmax() == 3
    assert (await chances(fit, asked))[0].argmax() == 3
    assert (await chances(fit, asked))[0, 3] > 0.5


async def test_what_a_new_card_is_not_for_counts() -> None:
    base = await fitted((BILLING, VPN, ORDERS))
    asked = ("binding a brochure",)
    open_to_all = PRINTER.model_copy(update={"not_for": ()})
    without = await chances(await adapted(base, (*CARDS[:3], open_to_all), [open_to_all]), asked)
    with_it = await chances(await adapted(base, (*CARDS[:3], PRINTER), [PRINTER]), asked)
    assert with_it[0, 3] < without[0, 3]


async def test_a_new_card_with_a_description_only_has_a_probability() -> None:
    bare = tuple(card.model_copy(update={"examples": ()}) for card in (*CARDS[:3], PRINTER))
    base = await fitted(bare[:3])
    chance = await chances(await adapted(base, bare, [bare[3]]), ("a printer repair, the toner jams",))
    assert chance[0, :4].argmax() == 3


# --- the softmax ------------------------------------------------------------------------------------------------------

TEAM = many(28, 10)


@pytest.fixture(scope="module")
def team() -> CalibratedCards:
    import asyncio

    return asyncio.run(fitted(TEAM[:27]))


async def test_among_many_agents_one_that_came_is_told_from_its_neighbours(team: CalibratedCards) -> None:
    fit = await adapted(team, TEAM, TEAM[27:])
    own = [text.replace("please", "would you") for text in TEAM[27].examples]
    others = [text.replace("please", "would you") for card in TEAM[:27:3] for text in card.examples[:3]]
    assert ((await likeliest(fit, own)) == "agent-27").mean() >= 0.9
    expected = [card.id for card in TEAM[:27:3] for _ in range(3)]
    before, after = await likeliest(team, others), await likeliest(fit, others)
    assert (after == expected).mean() >= (before == expected).mean() - 0.04


async def test_among_many_agents_one_that_left_takes_its_words_along(team: CalibratedCards) -> None:
    fit = await adapted(team, TEAM[1:27], [])
    assert fit.ids == tuple(card.id for card in TEAM[1:27])
    assert "agent-0" not in await likeliest(fit, TEAM[0].examples)
    noun = TEAM[0].description.removeprefix("Cares for ").split()[0]
    assert team.knows(noun)
    assert not fit.knows(noun)


async def test_many_agents_without_dense_vectors_take_one_in_and_let_one_go() -> None:
    words_only = await fitted(TEAM[:27], dense=False)
    fit = await adapted(words_only, TEAM[1:], TEAM[27:], dense=False)
    own = TEAM[27].examples[:4]
    assert (await chances(fit, own, dense=False)).argmax(axis=1).tolist() == [26] * 4
    fewer = await adapted(words_only, TEAM[1:27], [], dense=False)
    assert (await chances(fewer, TEAM[5].examples[:2], dense=False)).argmax(axis=1).tolist() == [4, 4]


async def likeliest(fit: CalibratedCards, texts: Sequence[str]) -> NDArray[np.str_]:
    judged = fit.judge(texts, await embedded(texts), most=100)
    return np.array(fit.ids)[judged.chance[:, :-1].argmax(axis=1)]


# --- what it says about itself ----------------------------------------------------------------------------------------


async def test_it_says_loudly_what_changed_since_the_calibration() -> None:
    base = await fitted(CARDS[:3])
    other = VPN.model_copy(update={"description": "Keeps the VPN up."})
    assert (await adapted(base, (BILLING, VPN, ORDERS, PRINTER), [PRINTER])).stale == (
        "1 card came or changed since the calibration (printer)"
    )
    assert (await adapted(base, (VPN, ORDERS), [])).stale == "1 card left since the calibration (billing)"
    assert (await adapted(base, (other, ORDERS, PRINTER), [other, PRINTER])).stale == (
        "2 cards came or changed and 1 left since the calibration (vpn, printer; billing)"
    )


async def test_an_adapted_fit_is_not_adapted_again() -> None:
    fit = await adapted(await fitted(CARDS[:3]), CARDS[:2], [])
    with pytest.raises(ValueError, match="cannot be adapted again"):
        AdaptedCards(fit, CARDS[:1], [], np.zeros((0, 1), np.float32))


async def test_a_set_without_a_card_of_the_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="none of the fit's cards stayed"):
        await adapted(await fitted(CARDS[:3]), [PRINTER], [PRINTER])
