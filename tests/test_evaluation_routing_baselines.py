"""What routers are compared with in `bench routing`, on exams of a few rows whose answers are plain."""

import pytest

from agentmesh.evaluation.datasets import Sample
from agentmesh.evaluation.routing import measure_exams
from agentmesh.evaluation.routing_baselines import BASELINES, misfit
from agentmesh.evaluation.routing_exam import Exam, Measure, Pick, pick_of
from agentmesh.evaluation.routing_rows import score
from agentmesh.models import open_embedder
from agentmesh.types import AgentCard, Candidate, Chosen, Message, Mode, RoutingDecision

CARDS = (
    AgentCard(id="bill", description="Invoices and payments.", examples=("my invoice is wrong", "pay the invoice")),
    AgentCard(id="vpn", description="The VPN tunnel and its client.", examples=("the vpn drops", "set up the vpn")),
    AgentCard(id="zoo", description="Animals.", instructions="Feeds the penguins and cleans the cages."),
)
TRAIN = tuple(Sample(text, (card.id,)) for card in CARDS for text in card.examples)
BOOKED = Message(role="assistant", text="The tunnel is set up.", agents=("vpn",))


async def picks(policy: str, exam: Exam) -> list[Pick]:
    return await BASELINES[policy](exam, open_embedder("wordllama"))


async def test_tfidf_reads_descriptions_and_instructions_but_no_examples() -> None:
    exam = Exam(CARDS, (), (Sample("who feeds the penguins", ("zoo",)), Sample("the drops", ("vpn",))))
    first, second = await picks("tfidf", exam)
    assert first.chosen == ("zoo",)
    assert first.none is not None
    assert second.none is not None
    assert first.none < second.none, "what no description says is nearer to nobody"


@pytest.mark.parametrize("policy", ["tfidf", "nearest_centroid"])
async def test_a_row_with_candidates_of_its_own_gets_one_of_them(policy: str) -> None:
    rows = (Sample("the vpn drops", ("vpn",), cards=CARDS[1:]), Sample("the vpn drops", (), cards=(CARDS[0], CARDS[2])))
    first, second = await picks(policy, Exam((), (), rows, Measure.NONE))
    assert first.chosen == ("vpn",)
    assert set(second.ranked) == {"bill", "zoo"}
    assert first.none is not None
    assert second.none is not None
    assert first.none < second.none


async def test_carry_over_takes_the_last_turn_of_the_assistant_else_the_nearest() -> None:
    rows = (Sample("pay the invoice", ("bill",), (BOOKED,)), Sample("pay the invoice", ("bill",)))
    later, first = await picks("carry_over", Exam(CARDS, TRAIN, rows, Measure.SET))
    assert later.chosen == ("vpn",)
    assert later.ranked[:2] == ("vpn", "bill"), "then the others by nearness"
    assert first.chosen == ("bill",)


async def test_a_classifier_of_everything_reads_the_turn_before_and_the_descriptions() -> None:
    talk = [Sample(text, ("vpn",), (BOOKED,)) for text in ("yes", "yes please", "sure", "yes do", "please")]
    said = Message(role="assistant", text="The invoice is paid.", agents=("bill",))
    talk += [Sample(text, ("bill",), (said,)) for text in ("yes", "yes please", "sure", "yes do", "please")]
    exam = Exam(CARDS, tuple(talk), (Sample("yes", ("vpn",), (BOOKED,)), Sample("feeds the penguins", ("zoo",))))
    text_only, _ = await picks("tfidf_lr", exam)
    with_turn, described = await picks("tfidf_lr_all", exam)
    assert text_only.chance == pytest.approx(0.5, abs=0.1), "the same words were said to both"
    assert with_turn.chosen == ("vpn",)
    assert with_turn.chance is not None
    assert with_turn.chance > 0.6
    assert described.chosen == ("zoo",), "its description is a train row"


async def test_a_classifier_of_sets_names_at_most_as_many_as_are_asked_for() -> None:
    rows = tuple(Sample(f"everything {n}", ("bill", "vpn")) for n in range(6)) + (Sample("nothing", ("zoo",)),) * 2
    (pick,) = await picks("tfidf_lr", Exam(CARDS, rows, (Sample("everything", ()),), Measure.SET, max_agents=1))
    assert len(pick.chosen) == 1


def test_a_policy_that_has_nothing_to_say_says_why() -> None:
    plain = Exam(CARDS, (), (Sample("x", ("bill",)),))
    none = Exam((), (), (Sample("x", (), cards=CARDS),), Measure.NONE)
    assert "nothing to learn" in misfit("tfidf_lr", plain)
    assert "the same agents in every row" in misfit("tfidf_lr_all", none)
    assert "no row has a turn before it" in misfit("carry_over", plain)
    assert misfit("reasoning", none)
    assert misfit("random", none)
    assert not any(misfit(policy, plain) for policy in ("semantic", "tfidf", "tfidf_lr_all", "reasoning"))


async def test_rows_with_their_own_candidates_are_asked_of_semantic_and_policies_that_do_not_suit_are_named() -> None:
    rows = (Sample("the vpn drops", ("vpn",), cards=CARDS[1:]), Sample("bake a cake", (), cards=(CARDS[0], CARDS[1])))
    said: list[str] = []
    found = await measure_exams(
        "tiny", [Exam((), (), rows, Measure.NONE)], ["semantic", "tfidf", "tfidf_lr"], open_embedder("wordllama"),
        said.append,
    )  # fmt: skip
    assert list(found) == ["semantic", "tfidf"]
    assert [row["metric"] for row in found["semantic"].rows] == ["none_auroc", "p50_ms", "p95_ms"]
    assert found["semantic"].rows[0]["value"] == 1.0
    assert any("tfidf_lr is left out" in text for text in said)


# --- what is counted --------------------------------------------------------------------------------------------------


def values(measure: Measure, made: list[Pick], asked: list[Sample]) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in score("tiny", "any", made, asked, measure).rows}


def test_pairs_count_the_first_choice_or_where_it_abstained_the_best_ranked() -> None:
    made = [Pick(("a",), ("a", "b")), Pick((), ("a", "b")), Pick(("b", "a"), ("a", "b")), Pick(("a",), ("a",))]
    found = values(Measure.TWINS, made, [Sample(str(n), ()) for n in range(4)])
    assert found == {"same_route": 0.5, "distinct": 2.0}


def test_recall_at_two_takes_the_chosen_first_then_the_best_ranked() -> None:
    made = [Pick(("c",), ("a", "b", "c")), Pick((), ("a", "b"))]
    found = values(Measure.SET, made, [Sample("x", ("c", "b")), Sample("y", ())])
    assert found["recall@2"] == 0.5, "c is chosen and a ranked before b; a row that is nobody's does not count"
    assert found["exact_set"] == 0.5
    assert found["micro_f1"] == pytest.approx(2 * 1 / (1 + 2), abs=1e-4)


def test_the_size_of_a_set_counts_what_an_abstention_would_have_had() -> None:
    made = [Pick(("a", "b"), ("a", "b")), Pick((), ("a", "b"), unlimited=2), Pick(("b",), ("b", "a"))]
    found = values(Measure.FIRST, made, [Sample("x", ("b",)), Sample("y", ("a",)), Sample("z", ("b",))])
    assert found["mean_set_size"] == pytest.approx(5 / 3, abs=1e-4)
    assert found["hit"] == pytest.approx(2 / 3, abs=1e-4), "an abstention is wrong"
    assert found["top1"] == pytest.approx(1 / 3, abs=1e-4)


def test_an_abstention_would_have_had_the_agents_within_the_margin() -> None:
    def decided(*chances: float, chosen: tuple[str, ...] = ()) -> RoutingDecision:
        return RoutingDecision(
            mode=Mode.OUT_OF_SCOPE,
            reason="too unsure",
            chosen=tuple(Chosen(agent=agent, score=1.0) for agent in chosen),
            candidates=tuple(
                Candidate(agent=f"a{n}", score=0.0, probability=chance, chosen=False, reason="")
                for n, chance in enumerate(chances)
            ),
            evidence={"margin": 0.1, "out_of_scope": 0.7},
            router="semantic",
        )

    found = pick_of(decided(0.1, 0.35, 0.3, 0.2), 3, 4.0)
    assert (found.ranked, found.chance, found.none) == (("a1", "a2", "a3", "a0"), 0.35, 0.7)
    assert found.unlimited == 2
    assert pick_of(decided(0.3, 0.3, 0.3, 0.3), 3, 4.0).unlimited == 3, "never more than may be named"
    assert pick_of(decided(0.0, 0.0), 3, 4.0).unlimited == 1, "nothing was found to say about any"
