"""What an answer to "which of these is it about?" says: the option that it names, or words to decide by, or nothing.

Also which names, found on the way, a task does not hold yet. Pure: words and cards, no model and no numbers of routers.
"""

import re
from collections.abc import Sequence
from enum import Enum

from agentmesh.routing.parts import specific_words
from agentmesh.text import STOP_WORDS, content_words, fold, words
from agentmesh.types import AgentCard

__all__ = ["Answered", "found_names", "named_options", "with_answer"]

NAMING_WORDS = 8
"""An answer of more words is a description: a name in it may be there by chance."""
SHARED_WORDS = 0.5
"""Share of the words of an answer that only one option's card has, from which on they name that option. Our choice."""
MOST_NAMES = 8
"""Names, newest first, that are read with a task."""

_PLACES = {"first": 0, "1st": 0, "one": 0, "second": 1, "2nd": 1, "two": 1, "third": 2, "3rd": 2, "three": 2,
           "fourth": 3, "4th": 3, "four": 3, "last": -1, "latter": -1, "former": 0}  # fmt: skip
_FILLERS = frozenset(
    "the a an option number no nr please it's its it is i mean think choose take one of them this".split()  # noqa: SIM905
)
_DENIALS = frozenset("not no nor without except isn't never neither".split())  # noqa: SIM905
_NEITHER = re.compile(
    r"^(?:no|none|neither|nothing|nobody)\b(?:\s+(?:of|the|them|these|those|three|two|above|both|options?))*$"
    r"|^(?:it\s+is\s+|it's\s+)?(?:something|somebody|someone)\s+else$"
)
_NAME = re.compile(r"[A-Z][\w’'-]*(?:\s+(?:(?:of|the|de|von|van)\s+)?[A-Z0-9][\w’'-]*)*")


class Answered(Enum):
    """Answers that name no option."""

    NEITHER = "neither"
    """None of the options, in so many words."""
    SEVERAL = "several"
    """Several options with an "or" between them: as torn as before."""
    NOTHING = "nothing"
    """No option is named: the words may still say which."""


def named_options(answer: str, options: Sequence[AgentCard]) -> tuple[str, ...] | Answered:
    """Ids of the options that an answer names, in their order.

    An option is named by its id, its title, its number ("2", "the second one"), "both" or "all", or by words that only
    its card has. A name after "not" is none.
    """
    said = words(answer)
    if _NEITHER.match(" ".join(fold(answer).strip(" .!").split())):
        return Answered.NEITHER
    if not said or len(said) > NAMING_WORDS:
        return Answered.NOTHING
    if (place := _place(said, len(options))) is not None:
        return (options[place].id,)
    if said[0] in ("both", "all") and len(said) <= 4 and not specific_words(answer):
        return tuple(card.id for card in (options[:2] if said[0] == "both" else options))
    named = tuple(c.id for c in options if any(_says(said, words(_spaced(n))) for n in (c.id, c.title)))
    if named:
        return named if len(named) == 1 or "or" not in said else Answered.SEVERAL
    if any(word in _DENIALS for word in said):
        return Answered.NOTHING
    return _by_words(answer, options)


def found_names(known: Sequence[str], text: str) -> tuple[str, ...]:
    """Names in the sentences of `known`, newest first, that `text` does not hold; at most `MOST_NAMES`."""
    held = fold(text)
    names: dict[str, None] = {}
    for sentence in reversed(known):
        for match in _NAME.finditer(sentence):
            name = match[0]
            if match.start() == 0:  # a capital at the start of a sentence makes no name
                first, _, rest = name.partition(" ")
                name = rest if not rest or first.lower() in STOP_WORDS else name
            if name and fold(name) not in held and fold(name) not in STOP_WORDS:
                names.setdefault(name)
    return tuple(names)[:MOST_NAMES]


def with_answer(text: str, answer: str) -> str:
    """A wish and what was said about it when asked back, as one text."""
    wish = text.strip()
    return f"{wish}{'' if wish[-1:] in '.?!:;,。！？' else '.'} {answer.strip()}".strip()


def _place(said: Sequence[str], count: int) -> int | None:
    """The option that a number names, if the answer is nothing but a number."""
    left = [word for word in said if word not in _FILLERS] or [word for word in said if word in _PLACES]
    if len(left) != 1:
        return None
    place = int(left[0]) - 1 if left[0].isascii() and left[0].isdigit() else _PLACES.get(left[0])
    if place is None or not -1 <= place < count or (place == -1 and left[0] not in _PLACES):
        return None
    return place % count if count else None


def _says(said: Sequence[str], name: Sequence[str]) -> bool:
    """Whether the words of a name stand in an answer, side by side and not denied."""
    size = len(name)
    return size > 0 and any(
        list(said[start : start + size]) == list(name) and not _DENIALS & set(said[max(0, start - 2) : start])
        for start in range(len(said) - size + 1)
    )


def _spaced(name: str) -> str:
    return re.sub(r"[-_./]+", " ", name)


def _by_words(answer: str, options: Sequence[AgentCard]) -> tuple[str, ...] | Answered:
    """The one option whose card has words of the answer that no other option's has."""
    asked = set(specific_words(answer))
    if not asked:
        return Answered.NOTHING
    texts = [set(content_words(" ".join((_spaced(c.id), c.title, c.description, *c.examples)))) for c in options]
    shared = [asked & text for text in texts]
    own = [s - set().union(*(o for j, o in enumerate(shared) if j != i)) for i, s in enumerate(shared)]
    naming = [card.id for card, mine in zip(options, own, strict=True) if mine]
    if len(naming) != 1 or max(map(len, own)) < SHARED_WORDS * len(asked):
        return Answered.NOTHING
    return (naming[0],)
