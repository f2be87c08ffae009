"""Which cards compete: every example is asked about as if its card did not have it, and each finding has its edit."""

import numpy as np
import pytest

from agentmesh.models import open_embedder
from agentmesh.models.base import Embedder
from agentmesh.routing.calibration import CalibratedCards
from agentmesh.routing.overlap import Edit, Overlap, Trouble, find_overlap
from agentmesh.types import AgentCard

BILLING = AgentCard(
    id="billing",
    description="Explains invoices, charges, refunds and payment dates to customers.",
    examples=(
        "Why is my invoice higher this month?",
        "When is my invoice due?",
        "Can I pay the invoice in two parts?",
        "What is this charge on my invoice?",
    ),
)
NETWORK = AgentCard(
    id="network",
    description="Finds out why a line, the Wi-Fi or the VPN is slow or down and repairs it.",
    examples=(
        "The Wi-Fi is slow in the kitchen.",
        "My line is down since yesterday.",
        "Why is the Wi-Fi so slow at night?",
        "The VPN does not connect over the Wi-Fi.",
    ),
)
ACCOUNTS = AgentCard(
    id="accounts",
    description="Takes care of invoices and payments of business customers.",
    examples=(
        "Why is the invoice of my firm higher?",
        "When is the invoice of the company due?",
        "What is the charge on the company invoice?",
    ),
)


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return open_embedder("wordllama")


async def overlap(embedder: Embedder, *cards: AgentCard) -> Overlap:
    return find_overlap(cards, await embedder.embed(CalibratedCards.texts(cards)))


def edits(found: Overlap) -> list[Edit]:
    return [e for kind in (found.rivals, found.misfits, found.thin) for item in kind for e in item.edits]


async def test_cards_with_different_work_do_not_compete(embedder: Embedder) -> None:
    found = await overlap(embedder, BILLING, NETWORK)
    assert found.rivals == ()
    assert (found.examples, found.right) == ((4, 4), (4, 4))
    assert found.chance.shape == (2, 3)
    assert found.chance.sum(axis=1) == pytest.approx([1.0, 1.0])
    assert found.chance[0, 0] > 0.5 > found.chance[0, 1]


async def test_cards_with_the_same_work_compete_and_the_edit_quotes_what_goes_astray(embedder: Embedder) -> None:
    found = await overlap(embedder, BILLING, NETWORK, ACCOUNTS)
    (pair,) = found.rivals
    assert {pair.first, pair.second} == {"billing", "accounts"}
    assert pair.crossed
    assert "invoices" in pair.words
    one = pair.crossed[0]
    assert one.text in {"billing": BILLING, "accounts": ACCOUNTS}[one.agent].examples
    assert one.own < one.other
    assert any(e.agent == one.goes_to and e.key == "not_for" and e.text == one.text for e in pair.edits)
    assert pair.shared == pytest.approx((found.chance[0, 2] + found.chance[2, 0]) / 2)


async def test_the_edit_separates_the_cards(embedder: Embedder) -> None:
    before = await overlap(embedder, BILLING, NETWORK, ACCOUNTS)
    cards = {card.id: card for card in (BILLING, NETWORK, ACCOUNTS)}
    for edit in before.rivals[0].edits:
        if edit.key == "not_for":
            card = cards[edit.agent]
            cards[edit.agent] = card.model_copy(update={"not_for": (*card.not_for, edit.text)})
    after = await overlap(embedder, *cards.values())
    assert sum(after.right) > sum(before.right)


async def test_two_cards_that_share_most_examples_are_to_be_merged_or_kept_apart(embedder: Embedder) -> None:
    examples = ("Where is my parcel?", "When does the parcel come?", "My parcel is late.", "Track my parcel, please.")
    first = AgentCard(id="parcels", description="Says where a parcel is and when it comes.", examples=examples[::2])
    other = AgentCard(id="post", description="Says where a parcel is and when it comes.", examples=examples[1::2])
    more = ("Has the parcel left?", "The parcel is lost.", "Which parcel is it?")
    third = first.model_copy(update={"examples": (*examples[::2], *more)})
    found = await overlap(embedder, third, other, NETWORK)
    (pair,) = [r for r in found.rivals if {r.first, r.second} == {"parcels", "post"}]
    astray = sum(c.agent == "parcels" for c in pair.crossed)
    merge = [e for e in pair.edits if e.action == "merge"]
    assert bool(merge) is (astray >= 3)
    assert pair.shared > 0.3
    assert set(pair.words) >= {"parcel"}


async def test_an_example_on_two_cards_belongs_on_one(embedder: Embedder) -> None:
    twin = NETWORK.model_copy(update={"examples": (*NETWORK.examples, "when is my invoice due")})
    found = await overlap(embedder, BILLING, twin)
    twice = {m.agent: m for m in found.misfits if m.trouble == Trouble.TWICE}
    assert set(twice) == {"billing", "network"}
    assert str(twice["network"].edits[0]) == (
        "agents/network.md: take out of examples: when is my invoice due (or keep it here and take it out of billing)"
    )


async def test_an_example_that_no_agent_would_get_is_said_with_the_words_that_are_missing(embedder: Embedder) -> None:
    odd = BILLING.model_copy(update={"examples": (*BILLING.examples, "Do penguins enjoy opera singing?")})
    found = await overlap(embedder, odd, NETWORK)
    (misfit,) = [m for m in found.misfits if m.trouble == Trouble.NOBODY]
    assert (misfit.text, misfit.agent) == ("Do penguins enjoy opera singing?", "billing")
    assert misfit.own < 0.5
    assert "'penguins'" in misfit.edits[0].text
    assert misfit.edits[-1].key == "examples"


async def test_an_example_without_a_word_that_says_what_it_is_about_is_vague(embedder: Embedder) -> None:
    vague = BILLING.model_copy(update={"examples": (*BILLING.examples, "And what about that?")})
    found = await overlap(embedder, vague, NETWORK)
    assert [m.text for m in found.misfits if m.trouble == Trouble.VAGUE] == ["And what about that?"]


async def test_an_example_that_its_own_card_denies_is_said(embedder: Embedder) -> None:
    denied = NETWORK.model_copy(update={"not_for": ("The television shows no picture at all.",)})
    denied = denied.model_copy(update={"examples": (*NETWORK.examples, "The television shows no picture today.")})
    found = await overlap(embedder, BILLING, denied)
    (misfit,) = [m for m in found.misfits if m.trouble == Trouble.DENIED]
    assert misfit.text == "The television shows no picture today."
    assert "not_for says the opposite" in str(misfit.edits[0])


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        ("It is what it is.", "no word of it says"),
        ("Handles garden things.", "it has only"),
    ],
)
async def test_a_description_that_says_too_little_is_thin(embedder: Embedder, description: str, reason: str) -> None:
    garden = AgentCard(id="garden", description=description, examples=("How often do I prune roses?",))
    found = await overlap(embedder, BILLING, NETWORK, garden)
    (thin,) = found.thin
    assert thin.agent == "garden"
    assert thin.reason.startswith(reason)
    assert thin.edits[0].key == "description"
    assert "'roses'" in thin.edits[0].text


async def test_a_description_that_does_not_find_its_own_examples_is_thin(embedder: Embedder) -> None:
    wrong = NETWORK.model_copy(update={"description": "Answers letters about invoices, charges and payment reminders."})
    found = await overlap(embedder, BILLING, wrong)
    assert [(t.agent, "examples would find" in t.reason) for t in found.thin] == [("network", True)]
    assert "'wi-fi'" in found.thin[0].edits[0].text or "'slow'" in found.thin[0].edits[0].text


async def test_a_card_without_examples_is_asked_about_by_its_description(embedder: Embedder) -> None:
    bare = AgentCard(id="bills", description="Explains invoices, charges, refunds and payment dates.")
    found = await overlap(embedder, bare, NETWORK, BILLING)
    assert found.examples == (0, 4, 4)
    assert found.chance[0, 2] > found.chance[0, 1]
    assert [(r.first, r.second) for r in found.rivals] == [("bills", "billing")]
    assert any(e.agent == "bills" and e.key == "description" for e in edits(found))


def test_one_card_and_no_vectors_are_enough() -> None:
    texts = CalibratedCards.texts([BILLING])
    found = find_overlap([BILLING], np.zeros((len(texts), 0), np.float32))
    assert (found.agents, found.rivals) == (("billing",), ())


def test_with_too_many_examples_they_are_left_out_by_fifths() -> None:
    nouns = ["apple", "bridge", "candle", "desert", "engine", "forest", "guitar", "harbour", "island", "jacket",
             "kettle", "ladder", "mirror", "needle", "orchard", "pencil", "quarry", "rocket", "saddle", "temple",
             "urchin", "velvet", "walnut", "yogurt", "zipper"]  # fmt: skip
    shapes = ("Where is the {}?", "I want a {}.", "Who has my {}?", "A {} please.", "Sell the {}.", "My {} broke.",
              "Find a {} for me.", "What does a {} cost?")  # fmt: skip
    cards = [
        AgentCard(id=noun, description=f"All about every {noun}.", examples=tuple(s.format(noun) for s in shapes))
        for noun in nouns
    ]
    found = find_overlap(cards, np.zeros((len(CalibratedCards.texts(cards)), 0), np.float32))
    assert found.examples == (8,) * 25
    assert sum(found.right) >= 190, "an example stays with its own card: the parts were put back in order"
