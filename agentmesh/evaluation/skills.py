"""A library of skill cards of any size, and questions about them that do not depend on the size. Made up by us.

A skill does one thing with one kind of record in one place under one condition; each of the four has several wordings,
and a question uses others than the card. The cards of a small library are the first ones of every larger one, and the
questions are about those: what grows is only what else there is.
"""

from collections.abc import Sequence

import numpy as np

from agentmesh.evaluation.datasets import Sample
from agentmesh.types import AgentCard

__all__ = ["MOST_SKILLS", "skill_cards", "skill_questions"]

Wording = tuple[str, str, str]
"""On the card; in its examples; in a question."""

VERBS: tuple[Wording, ...] = (
    ("summarise", "sum up", "give me the gist of"),
    ("translate", "put into another language", "render in a foreign language"),
    ("compare", "set side by side", "show how they differ:"),
    ("archive", "file away", "put into long-term storage:"),
    ("anonymise", "strip the names from", "make nobody recognisable in"),
    ("validate", "check for mistakes in", "tell me if anything is wrong with"),
    ("merge", "join together", "combine into one:"),
    ("schedule", "plan dates for", "find a slot for"),
    ("forecast", "predict next month's", "estimate what comes next for"),
    ("print", "get a paper copy of", "send to the printer:"),
    ("approve", "sign off", "give the go-ahead for"),
    ("reject", "turn down", "say no to"),
    ("encrypt", "lock with a key", "make unreadable for strangers:"),
    ("visualise", "draw a chart of", "plot"),
    ("price", "work out the cost of", "say what I must pay for"),
    ("search", "look through", "find something in"),
    ("delete", "remove for good", "wipe"),
    ("publish", "put online", "make public:"),
    ("assign", "hand over to a colleague", "give somebody else the job of"),
    ("label", "put tags on", "mark by topic:"),
    ("convert", "change the file format of", "turn into another file type:"),
    ("count", "tell the number of", "say how many there are of"),
    ("restore", "bring back", "undo the loss of"),
    ("audit", "trace who changed", "show the trail of edits on"),
    ("number", "give serial numbers to", "put in numbered order:"),
    ("proofread", "correct the spelling of", "fix the typos in"),
    ("share", "send a link to", "let other people see"),
    ("rank", "sort by importance", "tell me which matter most among"),
)
OBJECTS: tuple[Wording, ...] = (
    ("invoices", "bills", "the bills we sent"),
    ("purchase orders", "orders to suppliers", "what we ordered from suppliers"),
    ("meeting minutes", "notes of meetings", "what was said at the meetings"),
    ("lab results", "test values", "the readings from the lab"),
    ("floor plans", "drawings of rooms", "the room layouts"),
    ("timetables", "schedules", "the hours on the board"),
    ("contracts", "signed agreements", "the agreements we signed"),
    ("safety reports", "accident records", "the write-ups of accidents"),
    ("recipes", "cooking instructions", "the cooking steps"),
    ("loan requests", "applications for credit", "the credit applications"),
    ("spare parts lists", "lists of components", "the inventory of components"),
    ("exam papers", "written tests", "the tests that were handed in"),
    ("weather logs", "records of rain and wind", "the notes on rain and wind"),
    ("customs forms", "border papers", "the papers for the border"),
    ("press releases", "statements to newspapers", "the news for journalists"),
    ("donor letters", "thank-you notes to givers", "the mail to people who gave money"),
    ("shift rosters", "lists of who works when", "the plan of who is on duty"),
    ("insurance claims", "damage reports", "the forms about damage"),
    ("software tickets", "bug reports", "the complaints about bugs"),
    ("travel expenses", "trip receipts", "the receipts from trips"),
    ("membership cards", "passes of members", "the badges of members"),
    ("stock counts", "inventory numbers", "the tally of the shelves"),
    ("interview recordings", "taped conversations", "the tapes of the interviews"),
    ("maps", "charts of the area", "the plans of the terrain"),
    ("prescriptions", "doctor's orders for medicine", "the slips for medicine"),
    ("water samples", "probes of the river", "the bottles drawn from the river"),
    ("tenders", "bids for work", "the offers by builders"),
    ("payslips", "wage statements", "the statements of wages"),
    ("guest reviews", "opinions of visitors", "what visitors wrote about us"),
    ("sensor alarms", "warnings from devices", "the beeps from the machines"),
    ("seed catalogues", "lists of seeds", "the booklets of seeds"),
    ("court filings", "papers for the judge", "the documents for the judge"),
    ("song lyrics", "words of songs", "the verses of the songs"),
    ("parcel labels", "address stickers", "the stickers for packages"),
    ("tax returns", "yearly tax forms", "the yearly papers for the tax office"),
    ("photo albums", "collections of pictures", "the folders of pictures"),
    ("training videos", "instruction films", "the films for beginners"),
    ("fuel receipts", "petrol slips", "the slips from the petrol station"),
    ("blood donations", "donor samples", "the bags given by donors"),
    ("menu cards", "lists of dishes", "the pages with the dishes"),
    ("patent drafts", "descriptions of inventions", "the texts on the inventions"),
    ("crew lists", "names of sailors", "the names of those aboard"),
    ("tree surveys", "counts of trees", "the census of trees"),
    ("visa applications", "requests for entry", "the requests to enter the country"),
)
DOMAINS: tuple[Wording, ...] = (
    ("a hospital ward", "the ward", "our nursing station"),
    ("a vineyard", "the winery", "the place where we grow grapes"),
    ("a railway depot", "the train yard", "where the engines are parked"),
    ("a primary school", "the school", "the teachers of young children"),
    ("a shipping port", "the harbour", "the docks"),
    ("a law office", "the attorneys", "our lawyers"),
    ("a bakery chain", "the bakeries", "the shops that sell bread"),
    ("a wind farm", "the turbines", "the site with the windmills"),
    ("a public library", "the reading room", "the house of books"),
    ("a chess club", "the chess players", "the people who play chess"),
    ("a film studio", "the movie set", "the crew that shoots movies"),
    ("an airport", "the terminal", "the staff at the gates"),
    ("a dental clinic", "the dentists", "the practice for teeth"),
    ("a fire brigade", "the firefighters", "the people who put out fires"),
    ("a car dealership", "the car showroom", "the dealer of vehicles"),
    ("a city council", "the town hall", "the mayor's people"),
    ("a fish farm", "the fish ponds", "where the trout are bred"),
    ("a theatre", "the stage company", "the actors' house"),
    ("a software start-up", "the developers", "the young programmers"),
    ("a museum", "the exhibition", "the house with the old paintings"),
    ("a hotel", "the front desk", "the reception with the room keys"),
    ("a steel mill", "the foundry", "where the metal is cast"),
    ("a dairy", "the milk plant", "where the cheese is made"),
    ("a rescue shelter", "the animal home", "the kennels for stray dogs"),
    ("an observatory", "the telescope team", "the people who watch the stars"),
    ("a tailor shop", "the dressmakers", "the ones who sew our suits"),
    ("a radio station", "the broadcasters", "the people on the air"),
    ("a nursing home", "the carers", "where the elderly live"),
    ("a ski resort", "the lift company", "the slopes with the lifts"),
    ("a coffee importer", "the coffee traders", "those who bring in the beans"),
)
CONDITIONS: tuple[Wording, ...] = (
    ("with two people agreeing", "two people must agree", "only if a second person says yes"),
    ("before the end of the day", "by this evening", "it must be done tonight"),
    ("without leaving the building", "nothing may leave the house", "keep it on our own machines"),
    ("in plain language", "in simple words", "so that a child understands it"),
    ("for the last quarter only", "from the past three months", "nothing older than three months"),
    ("in metric units", "in metres and kilograms", "no feet or pounds please"),
    ("with sources named", "with references", "and say where it comes from"),
    ("on a fixed budget", "without spending more", "it may not cost extra"),
    ("for people who cannot see well", "in large letters", "my eyes are weak"),
    ("in several time zones", "across time zones", "half of us are overseas"),
    ("every Monday", "at the start of each week", "again and again when the week begins"),
    ("from scanned paper", "from a scan", "all I have is a photographed sheet"),
    ("offline", "without internet", "there is no connection here"),
    ("with a full history", "keeping every version", "I want to see old versions too"),
    ("for new employees", "for beginners in the team", "it is for those who just joined"),
    ("for the auditors", "for the inspectors", "the inspection is coming"),
)
BODIES: tuple[str, ...] = (
    "Start by asking which {0} are meant, if that is not clear. Read the rules of {1} first and keep to them. "
    "Then {2} them {3}. Report what was left out and why.",
    "Collect the {0} of {1} in one place. Go through them one by one and {2} each, {3}. Stop and ask when two of them "
    "contradict each other. Close with a short list of what was done.",
    "This skill belongs to {1}. Its input is a list of {0}; its output is the same list after the work is done. "
    "To {2} them {3}, follow the house's checklist and note every exception.",
)
EXAMPLES: tuple[str, ...] = (
    "please {0} the {1} of {2}, {3}",
    "can you {0} {1} for {2}? {3}",
    "{2} needs someone to {0} {1}, {3}",
)
QUESTIONS: tuple[str, ...] = (
    "{0} {1} for {2}, {3}",
    "hi, I'm calling from {2}. could you {0} {1}? {3}",
    "{3}: {0} {1}, it's about {2}",
)
FOREIGN: tuple[str, ...] = (
    "what is the capital of {}", "tell me a joke about {}", "who first sailed to {}", "is it cold in {} in winter",
    "sing something from {}", "how do I say good night in {}",
)  # fmt: skip
PLACES: tuple[str, ...] = (
    "Iceland", "Peru", "the moon", "Kenya", "old Rome", "Tasmania", "Bhutan", "Chile", "the Arctic", "Malta", "Samoa",
    "Fiji",
)  # fmt: skip

MOST_SKILLS = len(VERBS) * len(OBJECTS) * len(DOMAINS) * len(CONDITIONS)
"""So many skills differ from each other."""
ASKED_SKILLS = 150
"""Questions are about these first ones; as many as the smallest library holds."""
NOBODYS = 6
"""Every so many questions, one is nobody's."""


def skill_cards(count: int) -> tuple[AgentCard, ...]:
    """The first `count` cards of the library, always the same; each has a description, a body and three examples.

    Raises:
        ValueError: If the library holds fewer; see `MOST_SKILLS`.
    """
    if not 0 <= count <= MOST_SKILLS:
        raise ValueError(f"want 0 to {MOST_SKILLS} skills, not {count}")
    order: list[int] = _order()[:count].tolist()
    return tuple(_card(number, place) for number, place in enumerate(order))


def skill_questions(count: int, *, about: int = ASKED_SKILLS) -> tuple[Sample, ...]:
    """Questions about the first `about` skills, one in `NOBODYS` about none; the same for a library of any size.

    Each part of a question is worded as no card words it, or, half of the time, as the examples do.
    """
    rng = np.random.default_rng(1)
    order: list[int] = _order()[:about].tolist()
    found: list[Sample] = []
    for number in range(count):
        if number % NOBODYS == NOBODYS - 1:
            form, place = FOREIGN[int(rng.integers(len(FOREIGN)))], PLACES[int(rng.integers(len(PLACES)))]
            found.append(Sample(form.format(place), ()))
            continue
        about_number = int(rng.integers(len(order)))
        wordings = _wordings(order[about_number])
        parts = [wording[1 + int(rng.integers(2))] for wording in wordings]
        form = QUESTIONS[int(rng.integers(len(QUESTIONS)))]
        found.append(Sample(form.format(*parts), (_id(about_number, wordings),)))
    return tuple(found)


def _order() -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """All skills by seed 0: neighbours of one verb or object are not next to each other."""
    return np.random.default_rng(0).permutation(MOST_SKILLS)


def _wordings(place: int) -> tuple[Wording, Wording, Wording, Wording]:
    """The verb, the object, the domain and the condition of a skill."""
    place, condition = divmod(place, len(CONDITIONS))
    place, domain = divmod(place, len(DOMAINS))
    verb, object_ = divmod(place, len(OBJECTS))
    return VERBS[verb], OBJECTS[object_], DOMAINS[domain], CONDITIONS[condition]


def _id(number: int, wordings: Sequence[Wording]) -> str:
    words = f"{wordings[0][0]}-{wordings[1][0]}".replace(" ", "-")
    return f"{words}-{number:05d}"


def _card(number: int, place: int) -> AgentCard:
    """The skill at this place of the library, as a card."""
    wordings = _wordings(place)
    verb, object_, domain, condition = (wording[0] for wording in wordings)
    told = [wording[1] for wording in wordings]
    return AgentCard(
        id=_id(number, wordings),
        name=f"{verb.capitalize()} {object_}",
        description=f"{verb.capitalize()} the {object_} of {domain}, {condition}.",
        examples=tuple(form.format(*told) for form in EXAMPLES),
        instructions=BODIES[number % len(BODIES)].format(object_, domain, verb, condition),
    )
