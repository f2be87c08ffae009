"""One answer out of several replies without a model."""

import pytest

from agentmesh.agents import Refiner
from agentmesh.agents.extractive import ExtractiveRefiner
from agentmesh.run import loose_context
from agentmesh.types import AgentReply, Answer, AnswerStatus, CitedSentence, ReplyStatus, Task

TASK = Task(text="When is my refund paid, and why does the VPN drop?")
TITLES = {"billing": "Billing desk", "refunds": "Refund desk", "vpn": "Remote access desk"}
DAYS_14 = "An approved refund is paid out within 14 days."
DAYS_30 = "An approved refund is paid out within 30 days."
FORGET = "Remove the saved sign-in under Account, then Forget."


def said(text: str, item: str = "", *, extract: bool = False) -> CitedSentence:
    return CitedSentence(
        text=text,
        items=(item,) if item else (),
        source=f"{item}.md" if item else "",
        origin="extractive" if extract else "model",
    )


def reply(agent: str, *sentences: CitedSentence, **values: object) -> AgentReply:
    text = " ".join(s.text for s in sentences if s.origin == "model")
    cited = tuple(dict.fromkeys(i for s in sentences for i in s.items))
    defaults: dict[str, object] = {
        "call_id": f"r/s/{agent}/1", "agent": agent, "status": "answered", "text": text, "sentences": sentences,
        "cited": cited,
    }  # fmt: skip
    return AgentReply.model_validate({**defaults, **values})


async def refine(*replies: AgentReply) -> Answer:
    return await ExtractiveRefiner(titles=TITLES).refine(TASK, replies, loose_context("run7"))


async def test_it_is_a_refiner_and_says_which_run_and_which_refiner_it_was() -> None:
    assert isinstance(ExtractiveRefiner(), Refiner)
    answer = await refine(reply("vpn", said(FORGET, "drops")))
    assert (answer.run_id, answer.refiner) == ("run7", "extractive")


async def test_one_reply_passes_through_as_it_is() -> None:
    one = reply("vpn", said(FORGET, "drops"), text="Do this:\n\n- Remove the saved sign-in.")
    answer = await refine(one)
    assert answer.text == "Do this:\n\n- Remove the saved sign-in."
    assert answer.status is AnswerStatus.ANSWERED
    assert answer.replies == (one,)
    assert [(c.agent, c.sentences, c.cited) for c in answer.contributors] == [("vpn", 1, ("drops",))]


async def test_several_replies_are_merged_in_routing_order_with_their_sources() -> None:
    answer = await refine(
        reply("refunds", said(DAYS_14, "faq")), reply("vpn", said(FORGET, "drops"), said("It helps."))
    )
    assert answer.text == (
        f"{DAYS_14} (Refund desk; faq.md)\n\n{FORGET} (Remote access desk; drops.md) It helps. (Remote access desk)"
    )
    assert [c.sentences for c in answer.contributors] == [1, 2]


async def test_what_two_agents_say_stands_once_and_belongs_to_both() -> None:
    again = said("An approved refund will be paid out within two weeks.", "terms")
    answer = await refine(reply("billing", said(DAYS_14, "faq")), reply("refunds", again))
    assert answer.text == f"{DAYS_14} (Billing desk, Refund desk; faq.md)"
    assert answer.sentences[0].items == ("faq", "terms")
    assert [c.sentences for c in answer.contributors] == [1, 1]
    assert answer.conflicts == ()


async def test_a_conflict_is_named_with_both_sides_and_nothing_is_dropped() -> None:
    answer = await refine(reply("billing", said(DAYS_14, "new")), reply("refunds", said(DAYS_30, "old")))
    assert DAYS_14 in answer.text
    assert DAYS_30 in answer.text
    assert answer.text.endswith(
        "These sources disagree:\n"
        "- approved refund is paid out: 14 days (Billing desk; new.md) or 30 days (Refund desk; old.md)."
    )
    assert [(s.agent, s.value, s.item_id) for s in answer.conflicts[0].sides] == [
        ("billing", "14 days", "new"),
        ("refunds", "30 days", "old"),
    ]


async def test_a_single_reply_whose_own_evidence_conflicts_names_that() -> None:
    answer = await refine(reply("refunds", said(DAYS_14, "new"), said(DAYS_30, "old", extract=True)))
    assert [s.value for s in answer.conflicts[0].sides] == ["14 days", "30 days"]
    assert answer.text.startswith(f"{DAYS_14}\n\nThese sources disagree:")


async def test_the_words_of_a_model_that_is_not_capable_stay_out_of_the_answer_but_in_the_reply() -> None:
    weak = reply("refunds", said("It takes 99 days."), said(DAYS_14, "faq", extract=True), extractive=True)
    answer = await refine(weak)
    assert answer.text == f"{DAYS_14} (Refund desk; faq.md)"
    assert answer.conflicts == ()
    assert answer.replies[0].sentences[0].text == "It takes 99 days."


async def test_an_agent_that_failed_is_named_and_makes_the_answer_partial() -> None:
    late = reply("vpn", status="timed_out", error="'m' did not answer within 30.0 s; raise it", latency_ms=30_020)
    answer = await refine(reply("refunds", said(DAYS_14, "faq")), late)
    assert answer.status is AnswerStatus.PARTIAL
    assert answer.text.endswith("Remote access desk did not answer: timed out after 30 s.")
    assert answer.contributors[1].status is ReplyStatus.TIMED_OUT
    assert answer.contributors[1].note == "'m' did not answer within 30.0 s; raise it"


async def test_an_agent_without_evidence_is_named_and_the_rest_stands() -> None:
    answer = await refine(reply("refunds", said(DAYS_14, "faq")), reply("vpn", status="no_evidence"))
    assert answer.status is AnswerStatus.ANSWERED
    assert answer.text.endswith("Remote access desk found nothing on this in its memory.")


async def test_what_an_agent_said_before_it_went_over_its_price_is_kept() -> None:
    dear = reply("refunds", said(DAYS_14, "faq"), status="over_limit", error="the call cost 1 US$ of at most 0.01")
    answer = await refine(dear)
    assert answer.text == DAYS_14
    assert answer.status is AnswerStatus.PARTIAL


async def test_an_answer_is_failed_where_every_agent_failed() -> None:
    answer = await refine(reply("vpn", status="failed"), reply("billing", status="timed_out"))
    assert answer.status is AnswerStatus.FAILED
    assert "none of the agents could answer" in answer.text


@pytest.mark.parametrize("replies", [(), (reply("vpn", status="no_evidence"),)])
async def test_nothing_useful_in_any_reply_is_said_politely(replies: tuple[AgentReply, ...]) -> None:
    answer = await refine(*replies)
    assert answer.status is AnswerStatus.NO_ANSWER
    assert answer.text.startswith("Sorry, none of the agents found anything that answers this.")
    assert len(answer.contributors) == len(replies)


async def test_a_reply_that_has_only_text_is_read_sentence_by_sentence() -> None:
    first = reply("billing", text=f"{DAYS_14} Weekends count.")
    answer = await refine(first, reply("refunds", said(DAYS_30, "old")))
    assert len(answer.conflicts) == 1
    assert [s.text for s in answer.sentences] == [DAYS_14, "Weekends count.", DAYS_30]
