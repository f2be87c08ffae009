"""What every router promises."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar
from unittest import SkipTest

from agentmesh.errors import RoutingError
from agentmesh.routing.base import Router
from agentmesh.run import loose_context
from agentmesh.testing.contracts.base import Contract, Made, expect, promise
from agentmesh.types import AgentCard, Mode, RouteRequest, RoutingDecision, Task

__all__ = ["DESKS", "RouterContract"]

DESKS = (
    AgentCard(
        id="billing",
        name="Billing desk",
        description="Explains invoices, charges, due dates and payment reminders.",
        examples=(
            "Why is my invoice higher than last month?",
            "When do I have to pay the invoice?",
            "There is a charge on my bill that I do not know.",
            "I got a payment reminder although I paid.",
        ),
        not_for=("tracing a parcel",),
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
        ),
    ),
    AgentCard(id="recipes", name="Kitchen", description="Cooking recipes for soup, bread and cake."),
)
"""The candidates, unless a suite says otherwise."""
ODD_TEXTS = (
    "",
    "   ",
    "😀😀😀",
    "我的发票为什么这么高？",
    "?!... --- ;;; and also, and also",
    "invoice " * 625,
    "Where is my parcel? " * 250,
    "a\x00b\u202ec",
)


class RouterContract(Contract[Router]):
    """Checks a router. Give `make`; the questions below may be replaced together with `cards`."""

    noun = "Router"
    protocol = Router
    cards: ClassVar[Sequence[AgentCard]] = DESKS
    """The candidates: at least two, none of them a shadow."""
    question: ClassVar[str] = "Where is my parcel?"
    """What the agent `answered_by` is for."""
    answered_by: ClassVar[str | None] = "orders"
    """Whom `question` must go to; None: whom it goes to is not checked."""
    unrelated: ClassVar[str | None] = "Which planet has the most moons?"
    """What none of `cards` is for; None: the router always chooses somebody, and that is not checked."""

    def make(self) -> Made[Router]:
        """The router under test."""
        return super().make()

    async def decide(self, router: Router, text: str, cards: Sequence[AgentCard] | None = None, *, most: int = 3,
                     tried: Sequence[str] = ()) -> RoutingDecision:  # fmt: skip
        """One decision, checked for what holds of every decision."""
        cards = tuple(self.cards if cards is None else cards)
        request = RouteRequest(task=Task(text=text), cards=cards, max_agents=most, tried=tuple(tried))
        decision = await router.route(request, loose_context())
        _whole(decision, cards, most, text)
        return decision

    @promise("a question goes to the agent that is for it")
    async def test_question_goes_to_the_agent_that_is_for_it(self, router: Router) -> None:
        decision = await self.decide(router, self.question)
        if self.answered_by is not None:
            expect(
                self.answered_by in decision.agents,
                f"{self.question!r} went to {list(decision.agents)} ({decision.mode}), not to {self.answered_by!r}",
            )

    @promise("nothing fits: the mode is out_of_scope and no agent is named, rather than a guess")
    async def test_nothing_fits_is_out_of_scope_rather_than_a_guess(self, router: Router) -> None:
        if self.unrelated is None:
            raise SkipTest("this router always chooses somebody")
        decision = await self.decide(router, self.unrelated)
        expect(
            decision.mode is Mode.OUT_OF_SCOPE and not decision.chosen,
            f"{self.unrelated!r} got the mode {decision.mode} with {list(decision.agents)}",
        )

    @promise("without candidates everything is out_of_scope, never an exception")
    async def test_without_candidates_everything_is_out_of_scope(self, router: Router) -> None:
        decision = await self.decide(router, self.question, ())
        expect(decision.mode is Mode.OUT_OF_SCOPE, f"the mode was {decision.mode}")

    @promise("every text gets a decision over the candidates, with reasons, shares and a mode that fit one another")
    async def test_every_text_gets_a_whole_decision(self, router: Router) -> None:
        for text in (*ODD_TEXTS, *(card.examples[0] for card in self.cards if card.examples)):
            await self.decide(router, text)

    @promise("a shadow competes and stands among the candidates, and is never chosen")
    async def test_shadow_is_considered_and_never_chosen(self, router: Router) -> None:
        cards = [card.model_copy(update={"shadow": card.id == self._asked()}) for card in self.cards]
        decision = await self.decide(router, self.question, cards)
        considered = [candidate.agent for candidate in decision.candidates]
        expect(self._asked() in considered, f"the shadow {self._asked()!r} is not among the candidates {considered}")
        shadows = [card.model_copy(update={"shadow": True}) for card in self.cards]
        nobody = await self.decide(router, self.question, shadows)
        expect(not nobody.chosen, f"of shadows only, {list(nobody.agents)} was chosen")

    @promise("no more than `max_agents` are chosen")
    async def test_no_more_agents_than_allowed(self, router: Router) -> None:
        text = " ".join(card.examples[0] for card in self.cards if card.examples)
        for most in (1, 2):
            await self.decide(router, text, most=most)

    @promise("a card that was never seen before competes at once")
    async def test_new_card_needs_no_retraining(self, router: Router) -> None:
        before = [card for card in self.cards if card.id != self._asked()]
        await self.decide(router, self.question, before)
        decision = await self.decide(router, self.question)
        considered = [candidate.agent for candidate in decision.candidates]
        expect(
            self._asked() in considered,
            f"{self._asked()!r}, which came with the second question, is not among the candidates {considered}",
        )

    @promise("an agent that was tried before may be chosen again, and one that is gone does no harm")
    async def test_agents_that_were_tried_do_no_harm(self, router: Router) -> None:
        await self.decide(router, self.question, tried=(self._asked(), "gone"))

    @promise("questions that come at the same time get a decision each")
    async def test_questions_at_the_same_time_do_not_mix(self, router: Router) -> None:
        cards = tuple(self.cards)
        pools = [cards[n:] + cards[:n] for n in range(len(cards))] + [cards[:1], cards[1:2]]
        await asyncio.gather(*(self.decide(router, self.question, pool) for pool in pools * 3))

    @promise("past its deadline a router decides or raises RoutingError, nothing else")
    async def test_no_time_left_is_a_decision_or_a_routing_error(self, router: Router) -> None:
        ctx = loose_context()
        late = replace(ctx, deadline=ctx.clock.monotonic() - 1.0)
        request = RouteRequest(task=Task(text=self.question), cards=tuple(self.cards))
        try:
            decision = await router.route(request, late)
        except RoutingError:
            return
        _whole(decision, request.cards, request.max_agents, self.question)

    def _asked(self) -> str:
        return self.answered_by or self.cards[0].id


def _whole(decision: object, cards: Sequence[AgentCard], most: int, text: str) -> None:
    """What holds for every decision."""
    asked = f"on {text[:40]!r} "
    if not isinstance(decision, RoutingDecision):
        expect(False, f"{asked}it gave {type(decision).__name__}, no RoutingDecision")
        return
    known, callable_ids = {c.id for c in cards}, {c.id for c in cards if not c.shadow}
    agents, considered = decision.agents, [c.agent for c in decision.candidates]
    for holds, otherwise in (
        (set(agents) <= known, f"chose {sorted(set(agents) - known)}, which is no candidate"),
        (set(agents) <= callable_ids, f"chose {sorted(set(agents) & known - callable_ids)}, which is a shadow"),
        (len(set(agents)) == len(agents), f"chose somebody twice: {list(agents)}"),
        (len(agents) <= most, f"chose {len(agents)} agents, {most} are allowed"),
        (set(considered) <= known, f"considered {sorted(set(considered) - known)}, which is no candidate"),
        (len(set(considered)) == len(considered), "considered somebody twice"),
        (
            {c.agent for c in decision.candidates if c.chosen} == set(agents),
            "marked others as chosen among `candidates` than it names in `chosen`",
        ),
        (all(c.reason for c in decision.candidates), "gave no reason for a candidate"),
        (bool(decision.reason), "gave no reason"),
        (bool(decision.router), "did not say which router it is"),
        (
            decision.mode in ((Mode.CLARIFY, Mode.OUT_OF_SCOPE) if not agents else (Mode.SOLO, Mode.PARALLEL)),
            f"chose {len(agents)} agents in the mode {decision.mode}",
        ),
        (decision.mode is not Mode.SOLO or len(agents) == 1, f"chose {len(agents)} agents in the mode solo"),
        (
            not agents or abs(sum(c.weight for c in decision.chosen) - 1.0) < 1e-6,
            f"gave weights that add up to {sum(c.weight for c in decision.chosen):g}, not 1",
        ),
        (
            (decision.question is not None) == (decision.mode is Mode.CLARIFY),
            f"gave the question {decision.question!r} in the mode {decision.mode}",
        ),
    ):
        expect(holds, asked + "it " + otherwise)
    again = RoutingDecision.model_validate_json(decision.model_dump_json())
    expect(again == decision, f"{asked}its decision does not survive JSON; use JSON values in `evidence`")
