"""The scenario research holds what it promises: hops that need the page before, facts on their pages, conflicts."""

import re
from functools import cache
from itertools import combinations, pairwise

import pytest

from agentmesh.agents.disagreement import Claim, disagreements
from agentmesh.memory.leads import names
from agentmesh.project import Project, load_project
from agentmesh.project.schema import ScenarioTask
from agentmesh.text import content_words, fold, sentences
from tests.test_project_repository import REPOSITORY

PAGES = REPOSITORY / "memory" / "knowledge" / "research"
DESKS = {"archive-voyages", "archive-ships", "archive-people", "archive-places", "archive-instruments"}

CHAINS = {
    "yard-of-halvard-ship": "halvard-passage grey-petrel",
    "birth-of-amber-leader": "amber-line-sounding noor-hallavey",
    "book-of-saltmarsh-leader": "saltmarsh-traverse tobias-wray",
    "figurehead-of-return-ship": "second-halvard ivory-tern",
    "hill-of-first-landing": "kestrel-survey corrin-holm",
    "bell-of-fennick-port": "fennick-relief hestwick",
    "maker-of-eclipse-glass": "brightwater-eclipse oriel-spectroscope",
    "teacher-of-winter-leader": "winter-lanthorn edda-carrowick",
    "length-of-eclipse-ship": "brightwater-eclipse bramble-queen",
    "owner-of-amber-ship": "amber-line-sounding sable-wren",
    "figurehead-of-winter-ship": "winter-lanthorn lodestar-annis",
    "medal-of-fennick-leader": "fennick-relief hale-rennick",
    "teacher-of-census-leader": "gannet-census ottilie-marsh",
    "workshop-of-ember-maker": "ember-chronometer rosamund-vael",
    "wood-of-winter-barograph": "winter-lanthorn thrupp-barograph",
    "fair-of-amber-port": "amber-line-sounding port-ostry",
    "keeper-of-winter-island": "winter-lanthorn isle-of-thrane",
    "master-of-kestrel-yard": "kestrel-survey morrow-lark tolmer-yard",
    "president-of-winter-owner": "winter-lanthorn lodestar-annis pallant-company",
    "street-of-kestrel-teacher": "kestrel-survey ilsa-torvane matthias-quill",
    "award-of-deepwright-maker": "halvard-passage deepwright petra-lindqvale",
    "motto-of-halvard-owner": "halvard-passage grey-petrel hydrographic-society",
    "bell-of-birthplace": "kestrel-survey ilsa-torvane lanner-quay",
    "flood-of-the-dock": "winter-lanthorn lodestar-annis varn-brothers-dock",
    "award-of-lens-teacher": "brightwater-eclipse sunniva-pell anselm-thrupp",
    "fee-of-leaders-club": "gannet-census ottilie-marsh coldwater-club",
    "bell-of-the-club-town": "amber-line-sounding sable-wren coldwater-club port-ostry",
    "fair-of-the-company-town": "ilsa-torvane kestrel-survey morrow-lark pallant-company sallow-haven",
    "inhabitants-of-the-society-town": "bram-oxley halvard-passage grey-petrel hydrographic-society hestwick",
    "conflict-launch": "kestrel-survey morrow-lark",
    "conflict-chronometer": "kestrel-survey ember-chronometer",
    "conflict-charted": "kestrel-survey corrin-holm",
    "conflict-wreck": "brightwater-eclipse bramble-queen",
    "conflict-club": "amber-line-sounding sable-wren coldwater-club",
}
"""Task -> its pages, first step first: a name ties each to the next, only the first can be found by the question."""


@cache
def project() -> Project:
    return load_project(REPOSITORY)


def tasks() -> tuple[ScenarioTask, ...]:
    return project().scenarios["research"].tasks


@cache
def pages() -> dict[str, str]:
    """What each page says, by name, without its front matter."""
    return {p.stem: p.read_text(encoding="utf-8").split("---\n", 2)[2] for p in sorted(PAGES.glob("*.md"))}


def title(page: str) -> frozenset[str]:
    """Stems of what a page is about."""
    heading = re.match(r"\s*# (.*)", pages()[page])
    assert heading is not None
    return frozenset(content_words(heading.group(1)))


def words_of(page: str) -> frozenset[str]:
    return frozenset(content_words(pages()[page]))


def test_there_are_enough_pages_tasks_and_examples() -> None:
    assert 45 <= len(pages()) <= 70
    assert len(tasks()) >= 30
    outcomes = {t.expect.outcome for t in tasks() if t.expect}
    assert outcomes == {"answered", "clarify", "out_of_scope"}
    assert sorted(len(chain.split()) for chain in CHAINS.values())[-1] == 5
    cards = {card.id: card for card in project().cards}
    assert all(len(cards[desk].examples) >= 15 for desk in DESKS)


def test_no_question_of_a_task_is_an_example_of_a_card() -> None:
    examples = {fold(e) for card in project().cards for e in card.examples}
    assert not [t.id for t in tasks() if fold(t.ask) in examples]


def test_desks_are_expected_where_something_is_to_be_answered() -> None:
    for task in tasks():
        assert task.expect is not None
        assert set(task.expect.agents) <= DESKS
        assert bool(task.expect.agents) == (task.expect.outcome == "answered"), task.id


@pytest.mark.parametrize("id", CHAINS)
def test_neighbours_of_a_chain_are_tied_by_a_name_that_the_question_does_not_hold(id: str) -> None:
    task = project().scenarios["research"].task(id)
    chain = CHAINS[id].split()
    asked = frozenset(content_words(task.ask))
    for here, there in pairwise(chain):
        forth, back = title(there) <= words_of(here), title(here) <= words_of(there)
        assert forth or back, f"neither of {here} and {there} names the other"
        assert not title(there) <= asked, f"the question names {there}"
    own = [name for name in names(task.ask) if " " in name]
    assert not [name for name in own if fold(name) in fold(pages()[chain[-1]])], (
        "the last page is found by the question"
    )


@pytest.mark.parametrize("task", [t for t in tasks() if t.expect and t.expect.facts], ids=lambda t: t.id)
def test_a_fact_stands_on_the_last_page_of_its_chain(task: ScenarioTask) -> None:
    assert task.expect is not None
    for fact in task.expect.facts:
        having = [name for name, text in pages().items() if fold(fact) in fold(text)]
        if task.id in CHAINS:
            last = CHAINS[task.id].split()[-1]
            about = [n for n in having if title(last) <= words_of(n)]
            assert last in having, f"{fact!r} is not on {last}"
            assert about == [last], f"{fact!r} is said of it on {having}"
        else:
            assert having, fact


def test_every_planted_contradiction_stands_on_two_pages_and_is_found_there() -> None:
    said = [Claim(name, s, name, name, quoted=True) for name, text in pages().items() for s in sentences(text)]
    planted = {pair for t in tasks() if t.expect for pair in t.expect.conflicts}
    assert len(planted) >= 5
    for first, second in planted:
        ones = [c for c in said if fold(first) in fold(c.text)]
        others = [c for c in said if fold(second) in fold(c.text) and fold(first) != fold(second)]
        clashing = {
            (a.source, b.source) for a in ones for b in others if a.source != b.source and disagreements([a, b])
        }
        assert len(clashing) == 1, f"{first} against {second}: {clashing}"


def test_no_two_pages_contradict_each_other_by_accident() -> None:
    planted = {frozenset(map(fold, pair)) for t in tasks() if t.expect for pair in t.expect.conflicts}
    claims: dict[str, list[Claim]] = {}
    for name, text in pages().items():
        for sentence in sentences(text):
            for word in set(content_words(sentence)):
                claims.setdefault(word, []).append(Claim(name, sentence, name, name, quoted=True))
    accidents: set[str] = set()
    pairs = {(a, b) for same in claims.values() if len(same) <= 12 for a, b in combinations(same, 2)}
    for a, b in pairs:
        for conflict in disagreements([a, b]):
            values = [fold(f"{s.value} {s.text}") for s in conflict.sides]
            if not any(all(any(v in text for text in values) for v in pair) for pair in planted):
                accidents.add(f"{a.text} / {b.text}")
    assert not accidents


def test_the_pages_are_read_by_the_roles_of_this_scenario_alone() -> None:
    mine = {c.role for c in project().cards if c.id in project().scenarios["research"].agents}
    others = {c.role for c in project().cards if c.id in project().scenarios["helpdesk"].agents}
    assert not mine & others
    for page in PAGES.glob("*.md"):
        line = next(x for x in page.read_text(encoding="utf-8").splitlines() if x.startswith("roles:"))
        assert set(re.findall(r"[\w-]+", line.removeprefix("roles:"))) == mine


def test_the_scenarios_do_not_share_agents() -> None:
    scenarios = project().scenarios
    assert not set(scenarios["helpdesk"].agents) & set(scenarios["research"].agents)
    assert set(scenarios["research"].agents) > DESKS
