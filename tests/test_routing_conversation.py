"""A turn of a conversation goes to who worked on the last one, unless it asks for something new."""

import numpy as np
import pytest

from agentmesh.models import open_embedder
from agentmesh.routing.calibration import Judged
from agentmesh.routing.conversation import continued, last_workers
from agentmesh.routing.decision import Verdict
from agentmesh.routing.parts import Part
from agentmesh.routing.scorer import SIGNALS
from agentmesh.routing.semantic import SemanticRouter
from agentmesh.run import loose_context
from agentmesh.types import AgentCard, Message, Mode, RouteRequest, RoutingDecision, Task

CARDS = (
    AgentCard(
        id="billing",
        description="Explains invoices, charges and payment dates.",
        examples=("How much was my invoice in April?", "When is my bill due?", "Why was I charged twice?"),
    ),
    AgentCard(
        id="vpn",
        description="Solves trouble with the VPN.",
        examples=("The VPN keeps disconnecting.", "My VPN password is not accepted.", "How do I install the VPN app?"),
    ),
    AgentCard(
        id="orders",
        description="Tracks parcels and orders.",
        examples=("Where is my parcel?", "My order has not arrived.", "Can I change the delivery address?"),
    ),
)
BILLED = (
    Message(role="user", text="How much was my invoice in April?"),
    Message(role="assistant", text="It was 40 euros. Shall I send it again?", agents=("billing",)),
)


@pytest.fixture(scope="module")
def router() -> SemanticRouter:
    return SemanticRouter(open_embedder("wordllama"))


async def ask(router: SemanticRouter, text: str, history: tuple[Message, ...] = BILLED) -> RoutingDecision:
    task = Task(text=text, history=history)
    return await router.route(RouteRequest(task=task, cards=CARDS), loose_context())


@pytest.mark.parametrize("text", ["Yes, please.", "Yes, do that.", "And in May?"])
async def test_a_turn_that_goes_on_stays_with_who_worked_on_the_last_one(router: SemanticRouter, text: str) -> None:
    assert (await ask(router, text)).agents == ("billing",)


async def test_without_knowing_who_worked_a_mere_yes_is_read_with_the_last_question(router: SemanticRouter) -> None:
    unknown = (BILLED[0], Message(role="assistant", text=BILLED[1].text))
    assert (await ask(router, "Yes, please.", unknown)).agents == ("billing",)
    assert (await ask(router, "Yes, please.", ())).mode is Mode.CLARIFY


async def test_a_turn_about_something_new_goes_to_the_new_agent(router: SemanticRouter) -> None:
    decision = await ask(router, "My VPN password is not accepted, can you help?")
    assert "vpn" in decision.agents


async def test_an_agent_that_left_the_mesh_does_not_stay(router: SemanticRouter) -> None:
    gone = (BILLED[0], Message(role="assistant", text=BILLED[1].text, agents=("no-longer-here",)))
    decision = await ask(router, "Where is my parcel?", gone)
    assert decision.agents == ("orders",)


async def test_the_reason_says_why_the_last_agents_stay(router: SemanticRouter) -> None:
    decision = await ask(router, "Yes, please.")
    (chosen,) = (c for c in decision.candidates if c.chosen)
    assert "last turn" in chosen.reason


def test_who_worked_last_is_read_from_the_newest_reply() -> None:
    later = (*BILLED, Message(role="user", text="x"), Message(role="assistant", text="y", agents=("vpn", "orders")))
    assert last_workers(Task(text="z", history=later)) == ("vpn", "orders")
    assert last_workers(Task(text="z")) == ()


def judged(*chances: tuple[float, ...]) -> Judged:
    chance = np.array(chances)
    return Judged(chance, np.log(chance), np.zeros((len(chance), len(CARDS), len(SIGNALS))))


def verdict(text: str, known: Judged, chosen: tuple[int, ...]) -> Verdict:
    return Verdict(Part(text, text), known.chance[0], known.score[0], known.signals[0], chosen)


def test_nothing_changes_where_nobody_is_known_to_have_worked() -> None:
    known = judged((0.1, 0.7, 0.1, 0.1))
    before = [verdict("The VPN is down.", known, (1,))]
    assert continued(Task(text="The VPN is down."), CARDS, before, known, 0, np.zeros((3, 3), bool)) is before


def test_a_surely_new_matter_leaves_the_last_agents_behind() -> None:
    known = judged((0.01, 0.97, 0.01, 0.01))
    text = "Now I need help: the VPN keeps disconnecting."
    found = continued(
        Task(text=text, history=BILLED), CARDS, [verdict(text, known, (1,))], known, 0, np.zeros((3, 3), bool)
    )
    assert [v.chosen for v in found] == [(1,)]


def test_cards_that_say_the_same_do_not_take_over_from_each_other() -> None:
    known = judged((0.05, 0.85, 0.05, 0.05))
    alike = np.zeros((3, 3), bool)
    alike[0, 1] = alike[1, 0] = True
    text = "Now I need help: the VPN keeps disconnecting."
    found = continued(Task(text=text, history=BILLED), CARDS, [verdict(text, known, (1,))], known, 0, alike)
    assert 1 not in {agent for v in found for agent in v.chosen}
