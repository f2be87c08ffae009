"""The sets of `bench routing` whose rows have a form of their own, each as a small one written here."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agentmesh.errors import InputError
from agentmesh.evaluation.routing_exam import Exam, Measure
from agentmesh.evaluation.routing_sets import FOLDERS, SETS, open_set, policies_of, sets_of
from agentmesh.evaluation.routing_talk import CARD_EXAMPLES
from agentmesh.types import Message

TOOLS = ("weather", "news", "maps", "stocks")


def write(folder: Path, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def only(data: Path, name: str) -> Exam:
    (exam,) = open_set(data, name)
    return exam


# --- what people say --------------------------------------------------------------------------------------------------


@pytest.fixture
def nlupp(tmp_path: Path) -> Path:
    folder = tmp_path / "nlupp"
    labels = ("card", "change", "when", "pin")
    write(folder, "labels", [{"label": label, "description": f"is it about {label}?"} for label in labels])
    write(folder, "public_train", [
        {"text": "change my card", "labels": ["card", "change"]},
        {"text": "when can I change the pin of the card", "labels": ["card", "change", "when", "pin"]},
        {"text": "hello", "labels": []},
    ])  # fmt: skip
    write(folder, "public_test", [{"text": "a new pin", "labels": ["pin"]}, {"text": "six", "labels": []}])
    return tmp_path


def test_a_row_with_several_labels_is_an_example_of_each(nlupp: Path) -> None:
    exam = only(nlupp, "nlupp")
    examples = {card.id: card.examples for card in exam.cards}
    assert examples["card"] == ("change my card", "when can I change the pin of the card")
    assert examples["pin"] == ("when can I change the pin of the card",)
    assert exam.cards[0].description == "is it about card?"
    assert exam.measure is Measure.SET
    assert exam.max_agents == 4, "the fullest train row has four"
    assert [sample.agents for sample in exam.test] == [("pin",), ()], "rows without labels are nobody's"


def test_a_label_that_is_not_described_is_named(nlupp: Path) -> None:
    write(nlupp / "nlupp", "public_test", [{"text": "a loan", "labels": ["loan"]}])
    with pytest.raises(InputError, match="'loan', which the set does not describe"):
        open_set(nlupp, "nlupp")


def service(name: str, what: str) -> dict[str, Any]:
    return {
        "service": name, "description": what,
        "intents": [{"intent": "FindThing", "description": f"find {what}.", "required": ["the_city"], "optional": []}],
        "slots": [{"slot": "the_city", "description": "where it is"}],
    }  # fmt: skip


def turn(
    dialogue: str, number: int, text: str, services: list[str], *, said: str = "", before: tuple[str, ...] = ()
) -> dict[str, Any]:
    return {
        "dialogue": dialogue, "turn": number, "text": text, "services": services, "prev_system": said,
        "prev_services": list(before), "intent_start": text.startswith("find"),
    }  # fmt: skip


@pytest.fixture
def sgd(tmp_path: Path) -> Path:
    folder = tmp_path / "sgd"
    write(folder, "agents", [service("Bus_1", "a bus"), service("Film_2", "a film"), service("Bank_1", "an account")])
    write(folder, "public_train", [
        turn("a", 0, "find a bus to Bern", ["Bus_1"]),
        turn("a", 4, "find a film there too", ["Bus_1", "Film_2"], said="Done.", before=("Bus_1",)),
        turn("a", 6, "yes please", ["Film_2"], said="Shall I?", before=("Film_2",)),
    ])  # fmt: skip
    write(folder, "public_test", [
        turn("t", 2, "tomorrow", ["Bus_1"], said="When?", before=("Bus_1",)),
        turn("t", 0, "find a bus", ["Bus_1"]),
        turn("t", 4, "and my account?", ["Bank_1"], said="Booked.", before=("Bus_1",)),
    ])  # fmt: skip
    return tmp_path


def test_a_turn_that_opens_an_intent_is_an_example_of_the_new_service_only(sgd: Path) -> None:
    examples = {card.id: card.examples for card in only(sgd, "sgd").cards}
    assert examples == {
        "Bus_1": ("find a bus to Bern",), "Film_2": ("find a film there too",), "Bank_1": (),
    }  # fmt: skip


def test_a_service_tells_its_intents_and_slots(sgd: Path) -> None:
    card = only(sgd, "sgd").cards[0]
    assert card.description == "a bus"
    assert card.instructions == (
        "What it can do:\n- Find Thing: find a bus. Needs the city.\n"
        "What it asks for and tells:\n- the city: where it is."
    )


def test_a_turn_is_asked_with_the_conversation_before_it(sgd: Path) -> None:
    later, first, last = only(sgd, "sgd").test
    assert first.history == ()
    opening, asked_back = Message(role="user", text="find a bus"), Message(
        role="assistant", text="When?", agents=("Bus_1",)
    )  # fmt: skip
    assert later.history == (opening, asked_back)
    booked = Message(role="assistant", text="Booked.", agents=("Bus_1",))
    assert last.history == (opening, asked_back, Message(role="user", text="tomorrow"), booked)
    exam = only(sgd, "sgd")
    request = exam.request(last)
    assert request.task.history == last.history
    assert [card.id for card in request.cards] == ["Bus_1", "Film_2", "Bank_1"], "every service is a candidate"


def test_the_turns_that_are_learned_from_know_what_was_said_just_before(sgd: Path) -> None:
    first, second, third = only(sgd, "sgd").train
    assert first.history == ()
    assert [m.text for m in second.history] == ["Done."], "earlier turns are not all in the file"
    assert third.history[0].agents == ("Film_2",)


def test_a_service_gets_a_bounded_number_of_examples(sgd: Path) -> None:
    rows = [turn("a", n, f"find bus {n}", ["Bus_1"]) for n in range(CARD_EXAMPLES + 50)]
    write(sgd / "sgd", "public_train", rows)
    card = only(sgd, "sgd").cards[0]
    assert len(card.examples) == CARD_EXAMPLES
    assert card == only(sgd, "sgd").cards[0], "the draw is always the same"


@pytest.mark.parametrize(
    ("file", "row", "said"),
    [
        ("agents", {"service": "Bus_1", "description": "a bus", "intents": "none", "slots": []}, "list of objects"),
        ("agents", {"service": "Bus_1", "intents": [], "slots": []}, "agents, row 1: wants a text as `description`"),
        ("public_test", {**turn("t", 0, "x", ["Bus_1"]), "turn": "0"}, "public_test, row 1: wants a whole number"),
        ("public_test", {**turn("t", 0, "x", ["Bus_1"]), "services": "Bus_1"}, "wants a list of texts as `services`"),
    ],
)
def test_a_row_of_the_wrong_form_is_named(sgd: Path, file: str, row: dict[str, Any], said: str) -> None:
    write(sgd / "sgd", file, [row])
    with pytest.raises(InputError, match=said):
        open_set(sgd, "sgd")


# --- tools ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    folder = tmp_path / "metatool"
    write(folder, "agents", [{"tool": tool, "description": f"Tells about {tool}."} for tool in TOOLS])
    write(folder, "public_train_single", [{"text": f"the {tool} of today", "tool": tool} for tool in TOOLS])
    write(folder, "public_test_single", [{"text": f"{tool} now", "tool": tool} for tool in TOOLS])
    write(folder, "public_multi", [{"text": "news and stocks", "tools": ["news", "stocks"]}])
    write(folder, "public_none", [
        {"text": "how warm is it", "candidates": ["news", "maps"], "removed_tool": "weather"},
        {"text": "does it rain", "candidates": ["news", "stocks"], "removed_tool": "weather"},
    ])  # fmt: skip
    write(tmp_path / "routerarena", "public_sub10", [
        {"query": "who won", "paraphrase": "who was the winner"}, {"query": "why"}, {"query": "x", "paraphrase": None},
    ])  # fmt: skip
    return tmp_path


def test_tools_are_agents_with_the_train_rows_as_examples(tools: Path) -> None:
    exam = only(tools, "metatool")
    assert [card.id for card in exam.cards] == sorted(TOOLS)
    assert exam.cards[0].examples == ("the maps of today",)
    assert exam.measure is Measure.FIRST
    two = only(tools, "metatool_two")
    assert two.cards == exam.cards
    assert two.test[0].agents == ("news", "stocks")
    assert two.request(two.test[0]).max_agents == 2


def test_each_row_of_none_has_a_twin_with_the_same_candidates_that_somebody_answers(tools: Path) -> None:
    exam = only(tools, "metatool_none")
    assert exam.measure is Measure.NONE
    assert exam.cards == ()
    nobodys, somebodys = exam.test[0::2], exam.test[1::2]
    assert [sample.agents for sample in nobodys] == [(), ()]
    for nobody, somebody in zip(nobodys, somebodys, strict=True):
        assert somebody.cards == nobody.cards
        (tool,) = somebody.agents
        assert tool in {card.id for card in somebody.cards}
        assert somebody.text == f"{tool} now"
    assert exam == only(tools, "metatool_none"), "the draw is always the same"


def test_candidates_that_nobody_asks_for_are_a_mistake(tools: Path) -> None:
    write(tools / "metatool", "public_test_single", [{"text": "rain", "tool": "weather"}])
    with pytest.raises(InputError, match="public_none, row 1: no row of public_test_single"):
        open_set(tools, "metatool_none")
    write(tools / "metatool", "public_test_single", [{"text": "rain", "tool": "wether"}])
    with pytest.raises(InputError, match="public_test_single, row 1: names 'wether'"):
        open_set(tools, "metatool")


def test_paraphrases_stand_beside_their_question_over_the_tools(tools: Path) -> None:
    exam = only(tools, "routerarena")
    assert exam.measure is Measure.TWINS
    assert [sample.text for sample in exam.test] == ["who won", "who was the winner"]
    assert len(exam.cards) == 4
    write(tools / "routerarena", "public_sub10", [{"query": "why"}])
    with pytest.raises(InputError, match="no row has a `paraphrase`"):
        open_set(tools, "routerarena")


def function(name: str) -> dict[str, Any]:
    inner = {"type": "dict", "properties": {"street": {"type": "string", "description": "Where it is."}}}
    return {
        "name": name, "description": f"Calls {name}.",
        "parameters": {"type": "dict", "properties": {"userName": {"description": "Who."}, "home": inner, "n": {}}},
    }  # fmt: skip


@pytest.fixture
def bfcl(tmp_path: Path) -> Path:
    write(tmp_path / "bfcl", "public_tools", [
        {"question": "rain?", "functions": [function("Geo.lookUp/1"), function("news")], "gold": ["Geo.lookUp/1"]},
        {"question": "sing", "functions": [function("news")], "gold": []},
        {"question": "what is new", "functions": [function("news"), function("mail")], "gold": None},
        {"question": "hello", "functions": [], "gold": []},
    ])  # fmt: skip
    return tmp_path


def test_the_functions_of_a_row_are_its_candidates(bfcl: Path) -> None:
    exam = only(bfcl, "bfcl_none")
    assert [sample.text for sample in exam.test] == ["rain?", "sing", "what is new"], "no function, nothing to decide"
    assert [sample.agents for sample in exam.test] == [("Geo.lookUp_1",), (), ("news", "mail")]
    card = exam.test[0].cards[0]
    assert (card.id, card.name, card.description) == ("Geo.lookUp_1", "Geo look Up/1", "Calls Geo.lookUp/1.")
    assert card.instructions == "- user Name: Who.\n- home\n- street: Where it is.\n- n"
    assert exam.request(exam.test[1]).cards == exam.test[1].cards


@pytest.mark.parametrize(
    ("functions", "said"),
    [("news", "list of objects"), (["news"], "list of objects"), ([dict[str, Any]()], "`name`"),
     ([function("a b"), function("a/b")], "two functions")],
)  # fmt: skip
def test_functions_of_the_wrong_form_are_named(bfcl: Path, functions: Any, said: str) -> None:
    write(bfcl / "bfcl", "public_tools", [{"question": "rain?", "functions": functions, "gold": []}])
    with pytest.raises(InputError, match=f"row 1: .*{said}"):
        open_set(bfcl, "bfcl_none")


# --- names ------------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_no_set_stands_for_the_sets_in_it() -> None:
    assert sets_of(["bfcl", "metatool", "bfcl_none"]) == ("bfcl_none", "metatool")
    assert FOLDERS["metatool_none"] == "metatool"
    assert FOLDERS["hwu64_agents"] == FOLDERS["hwu64_descriptions"] == "hwu64"
    assert FOLDERS.keys() == {name for name in SETS if not name.startswith("scale_")}


def test_each_set_has_the_policies_that_it_is_meant_for() -> None:
    assert "carry_over" in policies_of("sgd")
    assert "minilm" in policies_of("hwu64_descriptions")
    assert "tfidf_lr" in policies_of("clinc150")
    assert "tfidf" in policies_of("bfcl_none")
