"""Which fit a set of cards gets, and that cards may come, go and change while questions are asked."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from agentmesh.models import open_embedder
from agentmesh.models.scripted import ScriptedEmbedder
from agentmesh.routing import fits
from agentmesh.routing.adapted import AdaptedCards
from agentmesh.routing.calibration import CalibratedCards
from agentmesh.routing.fits import Fits
from agentmesh.routing.index import CardIndex
from agentmesh.routing.semantic import SemanticRouter
from agentmesh.routing.several import SeveralCards
from agentmesh.run import loose_context
from agentmesh.types import AgentCard, RouteRequest, RoutingDecision, Task
from tests.test_routing_contract import CARDS

NEW = AgentCard(
    id="music",
    description="Plays songs and albums.",
    examples=("Play some jazz.", "Put on my favourite album.", "Skip this song."),
)


def card(place: int, examples: int = 0) -> AgentCard:
    texts = tuple(f"topic{place} wish{n} please" for n in range(examples))
    return AgentCard(id=f"a{place}", description=f"Answers about topic{place} and matter{place}.", examples=texts)


def fit_of(cards: tuple[AgentCard, ...]) -> object:
    return asyncio.run(Fits(ScriptedEmbedder().embed).of(cards))


def test_few_agents_are_told_apart_by_a_head() -> None:
    assert type(fit_of(CARDS)) is CalibratedCards


def test_more_than_two_dozen_agents_with_few_examples_are_looked_up() -> None:
    assert isinstance(fit_of(tuple(card(n) for n in range(30))), CardIndex)


def test_with_examples_enough_many_agents_are_learned() -> None:
    assert type(fit_of(tuple(card(n, 8) for n in range(26)))) is CalibratedCards


def test_cards_that_share_their_examples_are_chosen_in_sets() -> None:
    both = ("please book and pay the room", "book a table and pay for it")
    shared = tuple(AgentCard(id=i, description=f"{i} things.", examples=(*both, f"{i} one")) for i in ("book", "pay"))
    assert isinstance(fit_of((*shared, CARDS[0])), SeveralCards)


async def ask(router: SemanticRouter, text: str, cards: tuple[AgentCard, ...]) -> RoutingDecision:
    return await router.route(RouteRequest(task=Task(text=text), cards=cards), loose_context())


async def test_a_new_card_counts_at_once_and_the_decision_says_that_the_calibration_is_old() -> None:
    router = SemanticRouter(open_embedder("wordllama"))
    await router.prepare(CARDS)
    decision = await ask(router, "Play some jazz, please.", (*CARDS, NEW))
    assert decision.agents == ("music",)
    assert "music" in decision.evidence["stale"]
    assert "calibration" in decision.reason


async def test_after_a_while_the_cards_are_fitted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fits, "REFIT_AFTER_S", 0.0)
    kept = Fits(ScriptedEmbedder().embed)
    await kept.of(CARDS)
    cards = (*CARDS, NEW)
    assert isinstance(await kept.of(cards), AdaptedCards)
    for _ in range(1000):
        if not isinstance(await kept.of(cards), AdaptedCards):
            break
        await asyncio.sleep(0.01)
    assert type(await kept.of(cards)) is CalibratedCards


async def test_a_card_that_left_is_not_chosen_any_more() -> None:
    router = SemanticRouter(open_embedder("wordllama"))
    await router.prepare((*CARDS, NEW))
    decision = await ask(router, "Play some jazz, please.", CARDS)
    assert "music" not in {c.agent for c in decision.candidates}
    assert not decision.chosen


class Counted:
    """An embedder that counts the texts it was given."""

    def __init__(self) -> None:
        self.texts = 0

    async def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.texts += len(texts)
        return await ScriptedEmbedder().embed(texts)


async def test_an_index_embeds_only_what_is_new() -> None:
    embed = Counted()
    kept = Fits(embed)
    many = tuple(card(n, 1) for n in range(300))
    await kept.of(many)
    before = embed.texts
    changed = await kept.of((*many, NEW))
    assert embed.texts - before <= 8
    assert isinstance(changed, CardIndex)
    assert changed.ids[-1] == "music"


async def test_a_failed_fit_is_tried_again() -> None:
    calls = 0

    async def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError("no weights")
        return await ScriptedEmbedder().embed(texts)

    kept = Fits(embed)
    with pytest.raises(OSError, match="no weights"):
        await kept.of(CARDS)
    assert type(await kept.of(CARDS)) is CalibratedCards
