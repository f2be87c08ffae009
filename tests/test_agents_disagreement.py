"""Conflicts between sentences: found where two plainly contradict each other, and only there."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh.agents.disagreement import Claim, disagreements, same_claim
from agentmesh.agents.quantities import compatible, quantities

CONFLICTS = [
    # numbers with units
    ("An approved refund is paid out within 14 days.", "An approved refund is paid out within 30 days.",
     "number", "14 days", "30 days"),
    ("Refunds are paid out within 14 days.", "An approved refund is usually paid out within 30 days.",
     "number", "14 days", "30 days"),
    ("The VPN session ends 15 minutes after a new password.", "The VPN session ends 60 minutes after a new password.",
     "number", "15 minutes", "60 minutes"),
    ("The notice period for a home plan is 4 weeks.", "The notice period for a home plan is 3 months.",
     "number", "4 weeks", "3 months"),
    ("A missed technician appointment costs 35.00 EUR.", "A missed technician appointment is charged at 49.00 EUR.",
     "number", "35.00 EUR", "49.00 EUR"),
    ("The Go Smart plan includes 20 GB of EU data per month.", "The Go Smart plan includes 15 GB of EU data per month.",
     "number", "20 GB", "15 GB"),
    ("A mailbox holds 8 GB of messages.", "A mailbox holds 500 MB of messages.", "number", "8 GB", "500 MB"),
    ("Fibre 100 costs 30 EUR per month.", "Fibre 100 costs 35 EUR per month.",
     "number", "30 EUR per month", "35 EUR per month"),
    ("A password needs at least 8 characters.", "A password needs at least 14 characters.",
     "number", "8 characters", "14 characters"),
    ("The session lasts up to 8 hours.", "The session lasts up to 11 hours.", "number", "8 hours", "11 hours"),
    ("A line is slow below 60 percent of its speed.", "A line is slow below 40 % of its speed.",
     "number", "60 percent", "40 %"),
    ("The trace takes eight banking days.", "The trace takes twelve banking days.",
     "number", "eight banking days", "twelve banking days"),
    ("The trace takes 5 working days.", "The trace takes 4 weeks.", "number", "5 working days", "4 weeks"),
    ("The desk is open from 8:00 to 17:00.", "The desk is open from 9:00 to 17:00.", "number", "8:00", "9:00"),
    ("The IMAP server uses port 993.", "The IMAP server uses port 143.", "number", "port 993", "port 143"),
    ("Call 0800 555 0100 to report an outage.", "Call 0800 555 0177 to report an outage.",
     "number", "0800 555 0100", "0800 555 0177"),
    ("Delivery takes 2 to 3 days.", "Delivery takes 5 to 7 days.", "number", "2 to 3 days", "5 to 7 days"),
    ("Three devices can use one licence at a time.", "Five devices can use one licence at a time.",
     "number", "Three devices", "Five devices"),
    ("The return of a router is free of charge.", "The return of a router costs 4.90 EUR.",
     "number", "free of charge", "4.90 EUR"),
    ("VPN error 412 needs a wait of 5 minutes.", "VPN error 412 needs a wait of 20 minutes.",
     "number", "5 minutes", "20 minutes"),
    # dates
    ("The works in Lowmere take place on 12 March 2026.", "The works in Lowmere take place on 19 March 2026.",
     "date", "12 March 2026", "19 March 2026"),
    ("The offer ends on 2026-05-01.", "The offer ends on June 1, 2026.", "date", "2026-05-01", "June 1, 2026"),
    ("The debit is collected on the 18th of the month.", "The debit is collected on the 3rd of the month.",
     "date", "18th of the month", "3rd of the month"),
    ("Technicians work from Monday to Friday.", "Technicians work from Monday to Saturday.",
     "date", "Monday to Friday", "Monday to Saturday"),
    # negations
    ("A text message code is accepted as a second factor.", "A text message code is not accepted as a second factor.",
     "negation", "is accepted", "is not accepted"),
    ("The address can be changed online.", "The address cannot be changed online.",
     "negation", "can be changed", "cannot be changed"),
    ("Unused data is carried over to the next month.", "Unused data isn't carried over to the next month.",
     "negation", "is carried", "isn't carried"),
    ("Setup fees are refunded after a withdrawal.", "Setup fees are never refunded after a withdrawal.",
     "negation", "are refunded", "are never refunded"),
    ("Payment by cheque is accepted in the shop.", "Payment by cheque is refused in the shop.",
     "negation", "is accepted", "is refused"),
    ("A voucher may be combined with a promotion.", "A voucher must not be combined with a promotion.",
     "negation", "may be combined", "must not be combined"),
]  # fmt: skip

NO_CONFLICTS = [
    # different things measured
    ("The plan costs 5 EUR per month.", "The plan takes 3 days to start."),
    ("The plan costs 5 EUR per month.", "The plan costs 60 EUR per year."),
    ("A licence costs 4.40 EUR per user.", "A licence costs 40 USD."),
    # different subjects
    ("Fibre 100 costs 30 EUR.", "Fibre 250 costs 40 EUR."),
    ("Express delivery of an order costs 9.50 EUR.", "Standard delivery of an order costs 4.90 EUR."),
    ("Express delivery of an order costs 9.50 EUR.", "Delivery of an order costs 4.90 EUR."),
    ("Delivery takes 3 days.", "Delivery to islands takes 7 days."),
    ("The Go Smart plan includes 20 GB of data per month.", "The Go Light plan includes 6 GB of data per month."),
    ("VPN error 412 is solved in 5 minutes.", "VPN error 419 is solved in 20 minutes."),
    ("Step 1 takes 5 minutes.", "Step 2 takes 10 minutes."),
    ("The first reminder costs 2.00 EUR.", "The second reminder costs 3.80 EUR."),
    ("Messages in the trash folder go after 30 days.", "Messages in the junk folder go after 7 days."),
    ("The notice period for a home plan is 4 weeks.", "The notice period for a mobile plan is 12 weeks."),
    ("A partner card costs 8.50 EUR per month.", "A data card costs 4.00 EUR per month."),
    ("Code R3 means that the request came after 8 weeks.", "Code R5 means that the request came after 4 weeks."),
    ("The refund desk is open from 8:00 to 17:00.", "The VPN desk is open from 6:30 to 20:00."),
    ("A refund request must be filed within 8 weeks.", "A refund is paid out within 14 days."),
    ("Planned maintenance is announced 7 days in advance.", "The maintenance in Lowmere takes 3 hours."),
    ("A quarantined message is deleted after 28 days.", "A mailbox is deleted 90 days after the contract ends."),
    # the same fact said twice
    ("An approved refund is paid out within 14 days.", "An approved refund is paid out within 14 days."),
    ("An approved refund is paid out within 14 days.", "An approved refund is paid out within two weeks."),
    ("The warranty lasts 12 months.", "The warranty lasts 1 year."),
    ("A disk of 1,000 MB is included.", "A disk of 1 GB is included."),
    ("The offer ends on 12 March 2026.", "The offer ends on 2026-03-12."),
    ("The offer ends on 12 March.", "The offer ends on 12 March 2026."),
    ("Delivery takes 2 to 3 days.", "Delivery takes 3 days."),
    ("The trace takes 5 working days.", "The trace takes 7 days."),
    ("The desk opens at 5 pm.", "The desk opens at 17:00."),
    # bounds that both hold
    ("A password has at least 14 characters.", "A password has at most 64 characters."),
    ("A refund below 10 EUR is credited to the invoice.", "A refund above 400 EUR is credited to the invoice."),
    # quantities that say which thing is meant
    ("In 2024 the price was 30 EUR.", "In 2025 the price was 35 EUR."),
    ("The 500 GB disk costs 60 EUR.", "The 1 TB disk costs 90 EUR."),
    ("He was born on 12 March 1950.", "He was born on 3 May 1960."),
    # negations of something else
    ("Only administrators can add users.", "Users cannot add administrators."),
    ("A refund below 10 EUR is not transferred.", "A refund above 400 EUR is transferred."),
    ("The address can be changed online.", "The account holder cannot be changed by phone."),
    ("The order arrives no later than Friday.", "The order arrives Friday."),
    ("A device with a warranty is repaired.", "A device without a warranty is not repaired."),
    ("Cash is not accepted.", "Credit cards are accepted."),
    ("Private customers cannot use a static address.", "Business customers can use a static address."),
]  # fmt: skip


def claims(*texts: str) -> list[Claim]:
    return [Claim(f"agent{i}", text, f"item{i}", f"page{i}.md", quoted=True) for i, text in enumerate(texts)]


@pytest.mark.parametrize(("one", "other", "kind", "value", "against"), CONFLICTS)
@pytest.mark.parametrize("turned", [False, True])
def test_a_plain_contradiction_is_named_with_both_values(
    one: str, other: str, kind: str, value: str, against: str, turned: bool
) -> None:
    found = disagreements(claims(other, one) if turned else claims(one, other))
    assert [c.kind for c in found] == [kind]
    assert {s.text: s.value for s in found[0].sides} == {one: value, other: against}


@pytest.mark.parametrize(("one", "other"), NO_CONFLICTS)
@pytest.mark.parametrize("turned", [False, True])
def test_what_can_both_be_true_is_no_conflict(one: str, other: str, turned: bool) -> None:
    assert disagreements(claims(other, one) if turned else claims(one, other)) == []


def test_three_different_values_are_one_conflict_with_three_sides() -> None:
    found = disagreements(claims(*(f"An approved refund is paid out within {n} days." for n in (14, 30, 45, 14))))
    assert len(found) == 1
    assert [s.value for s in found[0].sides] == ["14 days", "30 days", "45 days", "14 days"]
    assert found[0].sides[3].source == "page3.md"


def test_two_items_in_one_reply_conflict_but_two_quotes_of_one_item_do_not() -> None:
    low, high = "The label is valid for 10 days.", "The label is valid for 21 days."
    one_agent = [Claim("orders", low, "a", quoted=True), Claim("orders", high, "b", quoted=True)]
    assert len(disagreements(one_agent)) == 1
    one_item = [Claim("orders", low, "a", quoted=True), Claim("devices", high, "a", quoted=True)]
    assert disagreements(one_item) == []


def test_a_conflict_says_what_it_is_about_and_who_says_what() -> None:
    low, high = claims(
        "An approved refund is paid out within 14 days.", "An approved refund is paid out within 30 days."
    )
    found = disagreements([low._replace(trust=0.95), high._replace(trust=0.6)])[0]
    assert found.about == "approved refund is paid out"
    assert found.explanation == "page0.md says 14 days; page1.md says 30 days (trust: page0.md 0.95, page1.md 0.6)"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (
            "An approved refund is paid out within 14 days.",
            "An approved refund will be paid out within two weeks.",
            True,
        ),
        ("An approved refund is paid out within 14 days.", "An approved refund is paid out within 30 days.", False),
        ("A refund is paid out.", "A refund is not paid out.", False),
        ("Error 412 needs a new sign-in.", "Error 419 needs a new sign-in.", False),
        ("Weekends count.", "A deposit earns no interest.", False),
    ],
)
def test_sentences_that_say_the_same_are_told_from_those_that_do_not(one: str, other: str, same: bool) -> None:
    assert same_claim(one, other) is same
    assert same_claim(other, one) is same


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("within five banking days", [("time", "five banking days")]),
        ("4.40 EUR per user", [("EUR/user", "4.40 EUR per user")]),
        ("€5 and 60 per cent", [("EUR", "€5"), ("%", "60 per cent")]),
        ("the Fibre 100 plan", [("fibre 100", "Fibre 100")]),
        ("reason code R3", [("r3", "R3")]),
        ("you may 5 times retry", [("count tim", "5 times")]),
        ("on 3 May 2026", [("date", "3 May 2026")]),
        ("1,500 users", [("count user", "1,500 users")]),
        ("one of them", []),
    ],
)
def test_quantities_are_read_with_their_units(text: str, expected: list[tuple[str, str]]) -> None:
    assert [(q.dimension, q.text) for q in quantities(text)] == expected


@given(st.text(alphabet="0123456789 .,:/-€%EURdaysMarch'nt\n", max_size=80), st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_is_read_without_error_and_never_contradicts_itself(one: str, other: str) -> None:
    assert disagreements(claims(one, one)) == []
    disagreements(claims(one, other))
    for q in quantities(one):
        assert one[q.start : q.end]
        assert compatible(q, q)
