"""What every router promises, and what each of ours adds."""

import asyncio
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agentmesh.errors import ConfigError, ModelUnavailableError, RoutingError, UnknownNameError
from agentmesh.models.base import ChatRequest, Embedder
from agentmesh.models.scripted import ScriptedModel
from agentmesh.routing import Router, routers
from agentmesh.routing.scorer import SIGNALS
from agentmesh.run import RunContext, loose_context
from agentmesh.text import content_words
from agentmesh.types import AgentCard, Message, Mode, RouteRequest, RoutingDecision, Task

CARDS = (
    AgentCard(
        id="billing",
        name="Billing desk",
        description="Explains invoices, charges, due dates and payment reminders.",
        examples=(
            "Why is my invoice higher than last month?",
            "When do I have to pay the invoice?",
            "There is a charge on my bill that I do not know.",
            "I got a payment reminder although I paid.",
            "Can I pay the bill in instalments?",
        ),
        not_for=("tracing a parcel",),
        instructions="You know invoices and charges. Cite the item of each amount.",
    ),
    AgentCard(
        id="vpn",
        name="Remote access desk",
        description="Helps with the VPN client: setup, dropped sessions, error codes.",
        examples=(
            "The VPN keeps disconnecting.",
            "How do I install the VPN client on my laptop?",
            "I get error 412 when I connect to the VPN.",
            "The tunnel drops during uploads.",
            "What is the gateway address of the VPN?",
        ),
    ),
    AgentCard(
        id="orders",
        name="Order desk",
        description="Follows orders, parcels and technician appointments.",
        examples=(
            "Where is my parcel?",
            "Can I change the delivery address?",
            "When will the technician come?",
            "My package arrived damaged.",
            "I want to cancel the order I placed an hour ago.",
        ),
    ),
    AgentCard(id="recipes", name="Kitchen", description="Cooking recipes for soup, bread and cake."),
)


class HashedEmbedder:
    """Vectors from the words themselves: the same text gives the same vector on every machine."""

    name = "hashed-32"
    dimensions = 32

    def __init__(self) -> None:
        self.calls: list[int] = []

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.calls.append(len(texts))
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        for row, text in enumerate(texts):
            for word in content_words(text):
                rng = random.Random(word)
                vectors[row] += np.array([rng.gauss(0, 1) for _ in range(self.dimensions)], np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)


def reads(request: ChatRequest) -> str:
    """What a model says that names whoever shares a word with the request, in the form that it is asked in."""
    text = request.messages[-1].text
    if request.json_schema is None:
        agents = re.findall("<Description>(.*?)</Description><ID>(.*?)</ID>", text)
        asked = text.rpartition("user: ")[2]
    else:
        agents = [(line, line.partition(":")[0].partition(" ")[0]) for line in between(text, "agents").splitlines()]
        asked = between(text, "request")
    named = [agent for about, agent in agents if set(content_words(about)) & set(content_words(asked))]
    if request.json_schema is None:
        return "<Reason>shared words</Reason>\n" + "\n".join(f"<ID>{agent}</ID>" for agent in named or ["oos"])
    picks = [{"id": agent, "part": "", "probability": 0.9} for agent in named]
    outcome = "agents" if named else "none"
    return json.dumps({"reason": "shared words", "outcome": outcome, "agents": picks, "none": 0.1, "question": ""})


def between(text: str, label: str) -> str:
    return text.partition(f"<<<{label}\n")[2].partition(f"\n{label}>>>")[0]


class SharedWords:
    """A decider that finds a choice likely that shares a word with the question."""

    name = "shared words"

    async def decide(self, question: str, choices: Mapping[str, str], ctx: RunContext) -> Mapping[str, float]:
        asked = set(content_words(question))
        return {id_: 0.8 if asked & set(content_words(text)) else 0.1 for id_, text in choices.items()}


VARIANTS: dict[str, dict[str, Any]] = {
    "reasoning in JSON": {"model": lambda: ScriptedModel(reads)},
    "reasoning in tags": {"model": lambda: ScriptedModel(reads), "protocol": "tags"},
    "reasoning in samples": {"model": lambda: ScriptedModel(reads), "samples": 3},
    "reasoning by a model that writes nonsense": {"model": lambda: ScriptedModel(lambda request: "{nonsense")},
    "reasoning by a decider": {"decider": SharedWords()},
}
"""The router `reasoning` with options."""


@pytest.fixture(params=[*sorted(routers.builtin), *VARIANTS])
def router(request: pytest.FixtureRequest) -> Router:
    if request.param in VARIANTS:
        options = {k: v() if k == "model" else v for k, v in VARIANTS[request.param].items()}
        return routers.create("reasoning", embedder=HashedEmbedder(), **options)
    return routers.create(request.param, embedder=HashedEmbedder())


@pytest.fixture(scope="module")
def shared() -> Router:
    """One semantic router for all questions, so that the cards are fitted once."""
    return routers.create("semantic", embedder=HashedEmbedder())


def ctx() -> RunContext:
    return loose_context()


async def ask(
    router: Router,
    text: str,
    cards: Sequence[AgentCard] = CARDS,
    *,
    most: int = 3,
    tried: tuple[str, ...] = (),
    history: tuple[Message, ...] = (),
) -> RoutingDecision:
    request = RouteRequest(task=Task(text=text, history=history), cards=tuple(cards), max_agents=most, tried=tried)
    return await router.route(request, ctx())


def promised(decision: RoutingDecision, cards: Sequence[AgentCard], most: int) -> None:
    """What holds for every decision."""
    ids = {c.id for c in cards}
    callable_ids = {c.id for c in cards if not c.shadow}
    assert len(set(decision.agents)) == len(decision.agents) <= most
    assert set(decision.agents) <= callable_ids
    assert {c.agent for c in decision.candidates} == ids
    assert len(decision.candidates) == len(ids)
    assert {c.agent for c in decision.candidates if c.chosen} == set(decision.agents)
    assert all(c.reason for c in decision.candidates)
    assert decision.reason
    assert decision.router
    assert 0 <= decision.confidence <= 1
    assert decision.latency_ms >= 0
    if decision.chosen:
        assert decision.mode is (Mode.SOLO if len(decision.chosen) == 1 else Mode.PARALLEL)
        assert sum(c.weight for c in decision.chosen) == pytest.approx(1.0)
    else:
        assert decision.mode in (Mode.OUT_OF_SCOPE, Mode.CLARIFY)
    assert (decision.question is not None) == (decision.mode is Mode.CLARIFY)
    assert RoutingDecision.model_validate_json(decision.model_dump_json()) == decision


MESSAGES = (
    "Why is my invoice so high?",
    "My invoice is wrong and the VPN drops. Where is my parcel?",
    "It does not work.",
    "sing me a song",
    "",
    "   ",
    "😀😀😀",
    "我的发票为什么这么高？",
    "?!... --- ;;; and also, and also",
    "invoice " * 625,
    "Where is my parcel? " * 250,
    "a\x00b\u202ec",
)


@pytest.mark.parametrize("text", MESSAGES, ids=lambda t: repr(t[:20]))
async def test_every_message_gets_a_decision_that_keeps_the_promises(router: Router, text: str) -> None:
    promised(await ask(router, text), CARDS, 3)


async def test_without_cards_everything_is_out_of_scope(router: Router) -> None:
    decision = await ask(router, "Where is my parcel?", ())
    assert decision.mode is Mode.OUT_OF_SCOPE
    promised(decision, (), 3)


async def test_one_card_is_enough(router: Router) -> None:
    decision = await ask(router, "Where is my parcel?", CARDS[2:3])
    assert decision.agents == ("orders",)
    promised(decision, CARDS[2:3], 3)


async def test_cards_without_examples_are_enough(router: Router) -> None:
    bare = [AgentCard(id=c.id, description=c.description) for c in CARDS]
    decision = await ask(router, "How do I make soup and bread?", bare)
    promised(decision, bare, 3)
    assert decision.chosen


async def test_a_shadow_is_considered_but_never_chosen(router: Router) -> None:
    cards = [c.model_copy(update={"shadow": c.id == "orders"}) for c in CARDS]
    decision = await ask(router, "Where is my parcel?", cards)
    promised(decision, cards, 3)
    assert "shadow" in next(c.reason for c in decision.candidates if c.agent == "orders")


async def test_only_shadows_choose_nobody(router: Router) -> None:
    cards = [c.model_copy(update={"shadow": True}) for c in CARDS]
    assert (await ask(router, "Where is my parcel?", cards)).mode is Mode.OUT_OF_SCOPE


async def test_no_more_agents_than_allowed_are_chosen(router: Router) -> None:
    text = "Why is my invoice so high? Where is my parcel? The VPN keeps disconnecting."
    for most in (1, 2):
        promised(await ask(router, text, most=most), CARDS, most)


async def test_a_card_that_is_there_twice_counts_once(router: Router) -> None:
    promised(await ask(router, "Where is my parcel?", [*CARDS, *CARDS]), CARDS, 3)


async def test_the_same_question_gets_the_same_decision(router: Router) -> None:
    async def decide() -> RoutingDecision:
        return (await ask(router, "My invoice is wrong and the VPN drops")).model_copy(update={"latency_ms": 0.0})

    assert await decide() == await decide()


async def test_an_agent_that_was_tried_may_be_chosen_again(router: Router) -> None:
    decision = await ask(router, "Where is my parcel?", CARDS[2:3], tried=("orders", "gone"))
    assert decision.agents == ("orders",)


# --- the semantic router ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "agents"),
    [
        ("Why is the charge on my invoice so high?", {"billing"}),
        ("The VPN client disconnects again and again", {"vpn"}),
        ("My parcel arrived damaged", {"orders"}),
        ("a recipe for bread", {"recipes"}),
        ("Where is my parcel? Also, the VPN client shows error 412.", {"orders", "vpn"}),
        ("When do I pay the invoice, and can I change the delivery address of my parcel?", {"billing", "orders"}),
    ],
)
async def test_semantic_finds_the_set_of_agents(shared: Router, text: str, agents: set[str]) -> None:
    decision = await ask(shared, text)
    assert set(decision.agents) == agents
    promised(decision, CARDS, 3)


async def test_each_chosen_agent_is_told_its_own_part(shared: Router) -> None:
    decision = await ask(shared, "Where is my parcel? Also, the VPN client shows error 412.")
    assert {c.agent: c.part for c in decision.chosen} == {
        "orders": "Where is my parcel?",
        "vpn": "the VPN client shows error 412.",
    }
    assert [p["agents"] for p in decision.evidence["parts"]] == [["orders"], ["vpn"]]


async def test_two_parts_of_one_agent_are_one_call(shared: Router) -> None:
    decision = await ask(shared, "Where is my parcel? And when will the technician come?")
    (only,) = decision.chosen
    assert only.agent == "orders"
    assert only.part == "Where is my parcel? when will the technician come?"
    assert only.weight == 1.0


async def test_what_leads_up_to_a_wish_goes_with_it(shared: Router) -> None:
    decision = await ask(shared, "I work from home on Mondays. What is the gateway address of the VPN?")
    assert {c.agent: c.part for c in decision.chosen} == {
        "vpn": "I work from home on Mondays. What is the gateway address of the VPN?"
    }


async def test_what_nobody_is_for_is_out_of_scope_with_the_numbers(shared: Router) -> None:
    decision = await ask(shared, "Which planet has the most moons?")
    assert decision.mode is Mode.OUT_OF_SCOPE
    assert decision.evidence["out_of_scope"] > decision.evidence["none_threshold"] == 0.5
    assert all(f"below {decision.evidence['threshold']:.2f}" in c.reason for c in decision.candidates)


async def test_a_part_that_nobody_is_for_does_not_spoil_the_others(shared: Router) -> None:
    decision = await ask(shared, "Which planet has the most moons? And where is my parcel?")
    assert decision.agents == ("orders",)
    assert "1 of them without an agent" in decision.reason


@pytest.mark.parametrize("text", ["It does not work.", "Hello, I have a problem, can you help me?", "please fix it"])
async def test_a_vague_message_is_asked_back_with_the_nearest_agents(shared: Router, text: str) -> None:
    decision = await ask(shared, text)
    assert decision.mode is Mode.CLARIFY
    assert decision.question is not None
    assert sum(card.title in decision.question for card in CARDS) == 3


async def test_a_vague_message_that_a_card_quotes_is_understood(shared: Router) -> None:
    quoting = CARDS[1].model_copy(
        update={"examples": (*CARDS[1].examples, "It does not work.", "It still does not work.")}
    )
    decision = await ask(shared, "It does not work.", (CARDS[0], quoting, *CARDS[2:]))
    assert decision.agents == ("vpn",)


async def test_a_message_that_refers_back_is_read_with_the_users_last_turn(shared: Router) -> None:
    history = (
        Message(role="user", text="How do I install the VPN client?"),
        Message(role="assistant", text="Download it. Your invoice, parcel and charge are another matter."),
    )
    assert (await ask(shared, "and what does it cost?")).mode is Mode.CLARIFY
    decision = await ask(shared, "and what does it cost?", history=history)
    assert decision.agents == ("vpn",)
    assert "last turn" in decision.reason


async def test_the_last_turn_does_not_matter_to_a_message_that_says_what_it_wants(shared: Router) -> None:
    history = (Message(role="user", text="How do I install the VPN client?"),)
    decision = await ask(shared, "Can I change the delivery address of my parcel?", history=history)
    assert decision.agents == ("orders",)


async def test_not_for_speaks_against_an_agent(shared: Router) -> None:
    def desk(*not_for: str) -> AgentCard:
        return AgentCard(id="mail", description="Everything about mail: letters, post, mailboxes.", not_for=not_for)

    async def probability(card: AgentCard) -> float:
        decision = await ask(shared, "My electronic mailbox is full", (card, *CARDS))
        return next(c.probability or 0.0 for c in decision.candidates if c.agent == "mail")

    assert await probability(desk("electronic mailbox", "a full mailbox")) < await probability(desk()) - 0.05


async def test_a_new_card_competes_at_once(shared: Router) -> None:
    assert "repair" not in (await ask(shared, "The screen of my phone is cracked")).agents
    newcomer = AgentCard(id="repair", description="Repairs phones: a cracked screen, a weak battery, water damage.")
    assert (await ask(shared, "The screen of my phone is cracked", (*CARDS, newcomer))).agents == ("repair",)


async def test_a_changed_card_is_seen_although_its_id_is_the_same(shared: Router) -> None:
    changed = CARDS[3].model_copy(update={"description": "Repairs phones: a cracked screen, a weak battery."})
    assert (await ask(shared, "The screen of my phone is cracked", (*CARDS[:3], changed))).agents == ("recipes",)


async def test_a_shadow_changes_no_decision(shared: Router) -> None:
    rival = CARDS[2].model_copy(update={"id": "rival", "shadow": True})
    alone, beside = await ask(shared, "Where is my parcel?"), await ask(shared, "Where is my parcel?", (*CARDS, rival))
    assert beside.chosen == alone.chosen
    assert next(c.probability or 0.0 for c in beside.candidates if c.agent == "rival") > 0.2


async def test_every_candidate_has_signals_and_a_reason_with_numbers(shared: Router) -> None:
    decision = await ask(shared, "Where is my parcel?")
    assert decision.candidates[0].agent == "orders"
    for candidate in decision.candidates:
        assert set(candidate.signals) == set(SIGNALS)
        assert f"{candidate.probability:.2f}" in candidate.reason
    assert sum(c.probability or 0.0 for c in decision.candidates) <= 1.0 + 1e-6


async def test_the_ones_outside_of_the_best_are_told_so(shared: Router) -> None:
    decision = await ask(shared, "Where is my parcel? The VPN keeps disconnecting.", most=1)
    assert len(decision.agents) == 1
    (other,) = {"orders", "vpn"} - set(decision.agents)
    assert "outside the 1 best" in next(c.reason for c in decision.candidates if c.agent == other)


async def test_without_an_embedder_words_decide() -> None:
    decision = await ask(routers.create("semantic"), "Where is my parcel?")
    assert decision.agents == ("orders",)


async def test_cards_are_fitted_once_for_many_questions_at_the_same_time() -> None:
    embedder = HashedEmbedder()
    router = routers.create("semantic", embedder=embedder)
    await asyncio.gather(*(ask(router, "Where is my parcel?") for _ in range(20)))
    again = tuple(AgentCard.model_validate(c.model_dump()) for c in CARDS)
    await ask(router, "Where is my parcel?", again)
    assert sum(n > 20 for n in embedder.calls) == 1


class BrokenEmbedder(HashedEmbedder):
    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        raise ModelUnavailableError("the embedding server is down; start it")


class HangingEmbedder(HashedEmbedder):
    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        await asyncio.Event().wait()
        raise AssertionError("nothing sets the event")


async def test_a_failing_embedder_is_a_routing_error_with_its_cause() -> None:
    router = routers.create("semantic", embedder=BrokenEmbedder())
    with pytest.raises(RoutingError, match="the embedding server is down"):
        await ask(router, "Where is my parcel?")


async def test_a_router_that_gets_no_time_says_so() -> None:
    router = routers.create("semantic", embedder=HangingEmbedder())
    context = ctx()
    request = RouteRequest(task=Task(text="Where is my parcel?"), cards=CARDS)
    with pytest.raises(RoutingError, match="max_seconds"):
        await router.route(request, replace(context, deadline=context.clock.monotonic() + 0.01))


def test_an_impossible_threshold_is_a_mistake_in_the_settings() -> None:
    with pytest.raises(ConfigError, match=r"threshold is 1\.5"):
        routers.create("semantic", threshold=1.5)
    with pytest.raises(ConfigError, match="does not take these options"):
        routers.create("semantic", treshold=0.5)


def test_the_hashed_embedder_is_an_embedder() -> None:
    assert isinstance(HashedEmbedder(), Embedder)


# --- the baselines ----------------------------------------------------------------------------------------------------


async def test_random_draws_every_agent_sooner_or_later_and_repeats_with_a_seed() -> None:
    context = ctx()
    request = RouteRequest(task=Task(text="x"), cards=CARDS)
    by_chance = routers.create("random")
    assert {(await by_chance.route(request, context)).agents[0] for _ in range(60)} == {c.id for c in CARDS}
    seeded = routers.create("random", seed=3)
    assert len({(await seeded.route(request, context)).agents[0] for _ in range(20)}) == 1


async def test_fixed_keeps_its_order_and_names_an_agent_that_is_not_there() -> None:
    assert (await ask(routers.create("fixed", agents=["vpn", "billing"]), "x")).agents == ("vpn", "billing")
    assert (await ask(routers.create("fixed"), "x", most=2)).agents == ("billing", "vpn")
    with pytest.raises(UnknownNameError, match="did you mean 'billing'"):
        await ask(routers.create("fixed", agents=["biling"]), "x")
    with pytest.raises(ConfigError, match="give a list"):
        routers.create("fixed", agents="vpn")


async def test_keyword_counts_shared_words_and_knows_when_there_are_none() -> None:
    keyword = routers.create("keyword")
    decision = await ask(keyword, "The tunnel drops")
    assert decision.agents == ("vpn",)
    assert decision.chosen[0].score == 1.0
    assert (await ask(keyword, "zebra crossing")).mode is Mode.OUT_OF_SCOPE
