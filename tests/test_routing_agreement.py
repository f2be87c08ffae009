"""Several samples of one question: how far they agree, what follows from it, and when the rest need not be asked."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest

from agentmesh.errors import ConfigError, ModelUnavailableError
from agentmesh.models.base import ChatReply, ChatRequest
from agentmesh.models.scripted import ScriptedModel
from agentmesh.routing import routers
from agentmesh.routing.agreement import (
    Ballot,
    agreed,
    ballot_of,
    confidence,
    ever_chosen,
    likeness,
    samples_to_settle,
    settled,
    sigma,
)
from agentmesh.routing.opinion import Opinion, Pick
from agentmesh.routing.reasoning import SURE, THRESHOLD, ReasoningRouter
from agentmesh.run import Journal, MemoryJournal, RunContext, loose_context
from agentmesh.types import Mode, RoutingDecision, Usage
from tests.test_routing_reasoning import CARDS, Ranked, request_of, said

A, B, AB = Ballot("agents", ("a",)), Ballot("agents", ("b",)), Ballot("agents", ("a", "b"))
NONE, ASK, FAILED = Ballot("none"), Ballot("ask"), Ballot("failed", error="down")


# --- formulas, by hand ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ballots", "value"),
    [
        ([A, A, A], 0.0),
        ([A, A, B], 0.5),  # (2 - 1) / (3 - 1), as in the paper
        ([A, B, AB], 1.0),
        ([A, A, B, NONE, A], 0.5),  # (3 - 1) / (5 - 1)
        ([AB, AB], 0.0),
        ([A, NONE], 1.0),
        ([NONE, ASK], 1.0),
        ([A], 0.0),
        ([A, A, FAILED], 0.5),  # a failed sample is an answer of its own
        ([A, FAILED, FAILED], 1.0),
    ],
)
def test_sigma_counts_distinct_sets(ballots: list[Ballot], value: float) -> None:
    assert sigma(ballots) == pytest.approx(value)


@pytest.mark.parametrize(
    ("ballots", "value"),
    [
        ([A, A, A], 1.0),
        ([A, AB], 0.5),  # 1 of 2 agents in common
        ([A, A, AB], (1 + 0.5 + 0.5) / 3),
        ([A, B], 0.0),
        ([NONE, NONE], 1.0),
        ([NONE, A], 0.0),
        ([FAILED, FAILED], 0.0),
        ([Ballot("agents"), NONE], 0.0),
        ([A], 1.0),
    ],
)
def test_likeness_is_the_mean_overlap_of_all_pairs(ballots: list[Ballot], value: float) -> None:
    assert likeness(ballots) == pytest.approx(value)


def test_confidence_weighs_what_is_stated_as_one_sample() -> None:
    assert confidence([A, A, A], A, 0.8) == pytest.approx(3.8 / 4)
    assert confidence([A, A, B], A, 0.5) == pytest.approx(2.5 / 4)
    assert confidence([A, A, FAILED], A, 0.8) == pytest.approx(2.8 / 4)  # less than three that agree
    assert confidence([A, B], AB, 0.25) == pytest.approx(0.25 / 3)  # nobody says exactly that
    assert confidence([], A, 0.8) == pytest.approx(0.8)


def test_a_ballot_holds_the_likely_agents_up_to_the_most() -> None:
    opinion = Opinion("agents", (Pick("c", 0.5), Pick("a", 0.9), Pick("b", 0.2), Pick("d")))
    assert ballot_of(opinion, threshold=0.35, most=2) == Ballot("agents", ("a", "d"))
    assert ballot_of(Opinion("none", (Pick("a", 0.4),)), threshold=0.35, most=2) == NONE


def test_whoever_is_chosen_once_is_named_most_frequent_first() -> None:
    assert ever_chosen([B, AB, NONE, FAILED]) == ("b", "a")


# --- when the rest cannot matter --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "enough"), [(1, 1), (2, 2), (3, 2), (5, 4), (7, 5), (9, 6)])
def test_as_many_samples_are_heard_as_could_settle_it(samples: int, enough: int) -> None:
    assert samples_to_settle(samples, 0.35) == enough  # the rest over all is below 0.35, and less than half


SAYINGS = (
    Opinion("agents", (Pick("a", 0.95),)),
    Opinion("agents", (Pick("a", 0.6), Pick("b", 0.5))),
    Opinion("agents", (Pick("b", 1.0), Pick("a", 0.3))),
    Opinion("none", none=0.9),
    Opinion("ask", (Pick("a", 0.5),), question="which?"),
    None,  # a sample that fails
)


@pytest.mark.parametrize("first", list(product(SAYINGS, repeat=2)))
def test_what_is_settled_no_further_sample_changes(first: Sequence[Opinion | None]) -> None:
    heard = [opinion for opinion in first if opinion is not None]
    if not settled(heard, left=1, threshold=THRESHOLD, sure=SURE, most=2):
        return
    outcomes = {decided([*heard, *([last] if last else [])]) for last in SAYINGS}
    assert len(outcomes) == 1


def test_two_sure_samples_of_three_settle_it_and_two_hesitant_ones_do_not() -> None:
    sure, hesitant = Opinion("agents", (Pick("a", 0.95),)), Opinion("agents", (Pick("a", 0.6),))
    assert settled([sure, sure], left=1, threshold=THRESHOLD, sure=SURE, most=3)
    assert not settled([hesitant, hesitant], left=1, threshold=THRESHOLD, sure=SURE, most=3)
    assert not settled([sure], left=1, threshold=THRESHOLD, sure=SURE, most=3)
    assert not settled([], left=1, threshold=THRESHOLD, sure=SURE, most=3)


def decided(opinions: Sequence[Opinion]) -> tuple[str, frozenset[str]]:
    """Outcome and set, as the router takes them from the average."""
    opinion = agreed(opinions)
    likely = [p.agent for p in opinion.picks if (p.probability or 0.0) >= THRESHOLD]
    return opinion.outcome, frozenset(likely) if opinion.outcome == "agents" else frozenset()


# --- in the router ----------------------------------------------------------------------------------------------------


def by_seed(*replies: str | Exception, repairs: str = "nonsense") -> ScriptedModel:
    """Answers sample n with the nth reply whatever the order in which they come, and each repair the same."""

    def reply(request: ChatRequest) -> str | Exception:
        return replies[request.seed or 0] if request.messages[-1].role == "user" and len(
            request.messages
        ) == 2 else repairs  # fmt: skip

    return ScriptedModel(reply, name="small")


async def decide(
    *replies: str | Exception, most: int = 3, shortlist: Any = None, journal: Journal | None = None, **options: Any
) -> tuple[RoutingDecision, ScriptedModel]:
    model = by_seed(*replies)
    options = {"samples": len(replies), "retries": 0, **options}
    router = ReasoningRouter(shortlist=shortlist or Ranked(), model=model, **options)
    ctx = loose_context() if journal is None else RunContext(run_id="r", step="route.r1", journal=journal)
    return await router.route(request_of(most=most), ctx), model


async def test_the_evidence_holds_every_sample_with_sigma_and_agreement() -> None:
    decision, _ = await decide(said(("vpn", 0.9)), said(("vpn", 0.8), ("billing", 0.7)), said(("vpn", 0.7)))
    assert decision.evidence["sigma"] == 0.5
    assert decision.evidence["agreement"] == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert [s["agents"] for s in decision.evidence["samples"]] == [["vpn"], ["billing", "vpn"], ["vpn"]]
    assert "3 samples agree in part (sigma 0.50)" in decision.reason
    # averages .8 and .233: (2 samples say exactly that + .8 * (1 - .2333)) / 4
    assert decision.confidence == pytest.approx((2 + 0.8 * (1 - 0.7 / 3)) / 4)


async def test_samples_that_agree_are_surer_than_one() -> None:
    one, _ = await decide(said(("vpn", 0.8)))
    three, _ = await decide(*[said(("vpn", 0.8))] * 3)
    assert (one.confidence, three.confidence) == (pytest.approx(0.8), pytest.approx(3.8 / 4))
    assert "samples" not in one.evidence


async def test_a_failed_sample_is_said_and_is_no_agreement() -> None:
    decision, _ = await decide(said(("vpn", 0.8)), ModelUnavailableError("it is down; start it"), said(("vpn", 0.8)))
    assert decision.agents == ("vpn",)
    assert decision.evidence["samples"][1] == {"outcome": "failed", "agents": [], "error": "it is down; start it"}
    assert decision.evidence["sigma"] == 0.5
    assert "1 failed" in decision.reason
    assert decision.confidence == pytest.approx(2.8 / 4)


async def test_all_samples_failing_leave_it_to_the_fallback_with_what_each_said() -> None:
    decision, _ = await decide(*[ModelUnavailableError("it is down; start it")] * 2)
    assert decision.evidence["decided_by"] == "ranked"
    assert [s["outcome"] for s in decision.evidence["samples"]] == ["failed", "failed"]


async def test_nobody_is_as_sure_as_the_samples_agree_on_it() -> None:
    decision, _ = await decide(said(outcome="none", none=0.9), said(outcome="none", none=0.9), said(("vpn", 0.9)))
    assert decision.mode is Mode.OUT_OF_SCOPE
    assert decision.confidence == pytest.approx((2 + (0.9 + 0.9 + 0.02) / 3) / 4)


@pytest.mark.parametrize(
    ("replies", "agents", "words"),
    [
        (["vpn", "vpn", "vpn"], ["vpn"], "3 samples all agree: that agent works alone"),
        (["vpn billing", "billing vpn", "vpn billing"], ["vpn", "billing"], "these agents work, and nobody else"),
        (["vpn", "billing", "vpn"], ["vpn", "billing"], "agree in part (sigma 0.50): the agents that any"),
        (["vpn", "none", "vpn"], ["vpn"], "only one agent is named"),
        (["vpn", "billing", "orders"], ["vpn", "billing", "orders"], "all differ (sigma 1.00): the shortlist works"),
        (["vpn", "vpn billing", "none"], ["vpn", "billing", "orders"], "the shortlist works in parallel"),
    ],
)
async def test_agreement_picks_how_many_work(replies: list[str], agents: list[str], words: str) -> None:
    texts = [said(outcome="none", none=0.9) if r == "none" else said(*((a, 0.9) for a in r.split())) for r in replies]
    decision, _ = await decide(*texts, mode_by_agreement=True)
    assert set(decision.agents) == set(agents)
    assert decision.mode is (Mode.SOLO if len(agents) == 1 else Mode.PARALLEL)
    assert words in decision.reason
    assert sum(c.weight for c in decision.chosen) == pytest.approx(1.0)
    assert {c.agent for c in decision.candidates if c.chosen} == set(agents)


async def test_never_more_work_than_allowed_and_the_likeliest_do() -> None:
    texts = [said(("vpn", 0.9)), said(("billing", 0.95)), said(("orders", 0.5))]
    decision, _ = await decide(*texts, mode_by_agreement=True, most=2)
    assert decision.agents == ("billing", "vpn")
    assert next(c.reason for c in decision.candidates if c.agent == "orders").endswith("outside the 2 best")
    alone, _ = await decide(*texts, mode_by_agreement=True, most=1)
    assert (alone.agents, alone.mode) == (("billing",), Mode.SOLO)


async def test_an_agent_that_only_the_shortlist_names_says_why_it_works() -> None:
    decision, _ = await decide(said(("vpn", 0.9)), said(("billing", 0.9)), mode_by_agreement=True)
    added = next(c for c in decision.candidates if c.agent == "orders")
    assert added.chosen
    assert "no two samples agree" in added.reason


@pytest.mark.parametrize("outcome", ["none", "ask"])
async def test_a_majority_for_nobody_or_for_a_question_stands_whatever_the_agreement(outcome: str) -> None:
    other = said(outcome=outcome, none=0.9, question="Which?")
    decision, _ = await decide(other, said(("vpn", 0.9)), other, mode_by_agreement=True)
    assert decision.mode is (Mode.OUT_OF_SCOPE if outcome == "none" else Mode.CLARIFY)
    assert decision.chosen == ()


async def test_samples_that_name_nobody_as_likely_call_nobody() -> None:
    decision, _ = await decide(*[said(("vpn", 0.2), none=0.8)] * 2, mode_by_agreement=True)
    assert decision.mode is Mode.OUT_OF_SCOPE


async def test_the_rest_is_not_asked_once_it_is_settled() -> None:
    decision, model = await decide(*[said(("vpn", 0.95))] * 3, early_stop=True)
    assert (decision.agents, len(model.requests), decision.evidence["attempts"]) == (("vpn",), 2, 2)
    assert "the first 2 of 3 samples all agree, the others could change nothing" in decision.reason


async def test_samples_that_differ_are_all_asked() -> None:
    decision, model = await decide(said(("vpn", 0.95)), said(("billing", 0.95)), said(("vpn", 0.95)), early_stop=True)
    assert (decision.agents, len(model.requests)) == (("vpn",), 3)


class Counting(ScriptedModel):
    """Knows how many asked it at the same time."""

    now = most = 0

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await super().complete(request)
        finally:
            self.now -= 1


async def test_samples_are_asked_side_by_side_but_not_all_at_once() -> None:
    model = Counting(lambda request: said(("vpn", 0.9)), delay_s=0.005)
    await ReasoningRouter(shortlist=Ranked(), model=model, samples=9).route(request_of(), loose_context())
    assert (len(model.requests), model.most) == (9, 4)


async def test_a_sample_has_the_same_key_whichever_others_failed() -> None:
    journal = MemoryJournal()
    await decide(ModelUnavailableError("down; start it"), "nonsense", said(("vpn", 0.9)), journal=journal)
    assert set(journal.entries) == {f"r/route.r1/-/1/{n}" for n in (2, 3, 5)}  # 5: the repair of the second
    again, model = await decide(said(("billing", 0.9)), said(("orders", 0.9)), said(("orders", 0.9)), journal=journal)
    assert len(model.requests) == 1  # only what had failed is asked again; the rest is as it was
    assert [s["agents"] for s in again.evidence["samples"]] == [["billing"], [], ["vpn"]]


async def test_two_questions_of_one_step_do_not_share_keys() -> None:
    ctx = RunContext(run_id="r", step="route.r1", journal=MemoryJournal())
    for agent in ("vpn", "billing"):
        router = ReasoningRouter(shortlist=Ranked(), model=by_seed(*[said((agent, 0.9))] * 2), samples=2)
        assert (await router.route(request_of(), ctx)).agents == (agent,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode_by_agreement": True}, "set samples to 2 or more"),
        ({"mode_by_agreement": True, "samples": 3, "early_stop": True}, "take early_stop out"),
        ({"mode_by_agreement": True, "samples": 3, "decider": "https://decide.example"}, "a decider answers once"),
        ({"mode_by_agreement": "yes"}, "give true or false"),
        ({"early_stop": 1}, "give true or false"),
    ],
)
def test_options_that_cannot_go_together_are_said(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        routers.create("reasoning", **options)


async def test_every_sample_is_paid_for() -> None:
    usage = Usage(calls=1, prompt_tokens=100, completion_tokens=10, cost_usd=0.001)
    model = ScriptedModel(lambda request: ChatReply(text=said(("vpn", 0.9)), usage=usage))
    router = ReasoningRouter(shortlist=Ranked(), model=model, samples=5)
    decision = await router.route(request_of(cards=CARDS), loose_context())
    assert (decision.usage.calls, decision.usage.prompt_tokens) == (5, 500)
