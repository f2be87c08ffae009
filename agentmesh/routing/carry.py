"""Which agents of the last turn work on this one too. Pure: words and the router's numbers, no model and no state.

Most turns of a conversation answer, ask on or say thanks, and name no agent: what a router thinks of their text alone
is a guess. So the agents of the last turn stay unless words or probabilities say that something new is asked for. The
words are English; for a text that is surely in another language the router's numbers decide, and whether the last
reply ended with a question.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentmesh.routing.language import language_confidence
from agentmesh.routing.parts import specific_words
from agentmesh.text import words

__all__ = ["FEATURES", "Carried", "Continuation", "alike", "carried", "continuation", "features"]

Floats = NDArray[np.float64]

READ_CHARS = 1_000
"""Characters, from the start of a text and from the end of a reply, that are looked at."""
HANDS_OVER = 0.5
"""Probability from which a turn is taken for one that asks for something new."""
STAYS = 0.5
"""Probability from which the agents of the last turn work on beside a new one: in sgd's labels they do unless the last
reply closed their matter."""
LARGEST_LOGIT = 4.0
"""Logits of the router are cut here: how sure it is beyond 98 % differs from router to router."""
FOREIGN = 0.5
"""How much surer another language than English must be for the words to be left aside. Our choice."""
ALIKE = 0.7
"""Cosine, around the mean of all cards, from which two cards say the same. Settled on dev rows of sgd."""
BARE_WORDS = 4
"""Words of a text that may be nothing but a value: "half past six", "two tickets please"."""

_DO = (
    "find|search|look|looking|need|want|wanna|like|book|get|reserve|show|play|watch|buy|rent|see|make|check|give|hear|"
    "help|locate|suggest|recommend|know|tell|schedule|order|plan|write|send|try"
)
_TEXT: dict[str, re.Pattern[str]] = {
    name: re.compile(pattern)
    for name, pattern in {
        "says yes": r"^(?:yes|yeah|yep|yup|sure|correct|right|exactly|absolutely|indeed)\b"
        r"|\bthat(?:'s| is|s) (?:right|correct)\b|\bis correct\b",
        "says no": r"^(?:no|nope|nah|not)\b",
        "thanks": r"\b(?:thanks|thank you|thankyou|thx|appreciate)\b",
        "ends": r"\b(?:that(?:'s|s| is| will be| would be|'ll be)? (?:all|it\b)|all (?:i|we) need|nothing else|"
        r"no more|bye|goodbye|have a (?:good|great|nice)|(?:i'm|i am) (?:good|done|all set)|for now)\b",
        "approves": r"\b(?:sounds|great|good|perfect|fine|cool|ok|okay|nice|awesome|alright|"
        r"wonderful|excellent|lovely)\b",
        "declines": r"\b(?:not (?:right )?now|not yet|not at (?:this|the) (?:time|moment)|later|maybe|but)\b",
        "adds": r"\b(?:also|too|as well|in addition|additionally|besides|one more|another thing|other thing|"
        r"something else)\b",
        "moves on": r"\b(?:now|next|then|first|before (?:that|then|i)|after that|while|meanwhile|by the way)\b",
        "wishes": r"\b(?:(?:i|we) (?:\w+ )?(?:need|want|wish|like|must|have to)|(?:i|we)(?:'d|d)? (?:would )?like|"
        r"(?:can|could|will|would) you|looking for|help me|find me|get me|show me|"
        r"please (?:find|get|show|book|search))\b",
        "wants one": rf"\b(?:{_DO}|is there|are there)\b(?:\s+[\w']+){{0,3}}?\s+(?:a|an|some|something|someone)\b"
        r"(?!\s+(?:other|different|more|few|bit|little))",
        "asks on": r"^(?:[\w']+[.,!]?\s+){0,3}?(?:what|what's|where|where's|when|how|which|is|are|does|do|did|"
        r"has|have)\b"
        r"(?=.*\b(?:it|its|they|them|their|he|she|the|that|this)\b)",
        "there": r"(?<!\bis )(?<!\bare )(?<!\bif )(?<!^)(?<![.,!] )\bthere\b(?! (?:is|are|was|were|any)\b)"
        r"|\b(?:nearby|close by|around (?:there|here)|that (?:day|date|area|city|place)|"
        r"same (?:day|date|area|city)|the area)\b",
        "refers": r"\b(?:it|its|it's|they|them|their|these|those|that one|this one|that|this|he|she|him|her|"
        r"the (?:first|second|third|last|next|former|latter)(?: one)?)\b",
        "asks for others": r"\b(?:other|others|else|different|another|instead|again|more|rather|change|actually)\b",
        "asks a detail": r"\b(?:address|phone|number|price|cost|costs|rating|how much|how many|how long|how far|"
        r"what time|name of|located|free of|details?)\b",
    }.items()
}
_REPLY: dict[str, re.Pattern[str]] = {
    name: re.compile(pattern)
    for name, pattern in {
        "it offered more help": r"\b(?:anything|something|what|nothing) (?:else|more)\b"
        r"|\b(?:further|other|more) (?:help|assist\w*)\b"
        r"|\b(?:(?:may|can|could|do) (?:i|you)|i can) (?:\w+ ){0,3}(?:help|assist\w*)\b|\banother (?:way|thing)\b",
        "it reported success": r"\b(?:booked|reserved|confirmed|complete|completed|success\w*|scheduled|purchased|"
        r"been (?:made|set|added|sent)|all set|enjoy|done|added|started|sent|playing)\b",
        "it asked to confirm": r"\b(?:confirm(?! that i)|verify|is (?:that|this|it) (?:right|correct|ok\w*)|"
        r"(?:following|right|correct)\s*[:?])",
        "it asked what": r"\b(?:what|which|how many|when|where|who|whom)\b[^.!?]*[?？]\s*$",
        "it failed": r"\b(?:sorry|unable|couldn't|could not|unfortunately|wasn't able|not able|failed)\b",
    }.items()
}
_ASKED = re.compile(r"[?？]\s*[\"'”’)\]]*$")

_WEIGHTS: dict[str, tuple[float, float]] = {
    "always": (-4.02, -0.37),
    "it asked": (-0.15, -0.61),
    "other": (0.44, -0.06),
    "surely other": (0.17, 0.00),
    "last": (-0.62, 0.07),
    "none": (-0.09, -0.04),
    "length": (0.53, 0.97),
    "bare": (-0.51, 0.19),
    "bare answer": (-0.07, -0.01),
    "question": (-0.45, -0.01),
    "news": (0.58, -0.38),
    "echo": (-4.00, -0.18),
    "says nothing": (-1.26, 0.12),
    "no reply": (0.04, -1.84),
    "says yes": (-1.78, 0.36),
    "says no": (-0.86, 2.93),
    "thanks": (-0.51, 4.03),
    "ends": (-1.96, 0.15),
    "approves": (-0.74, 2.17),
    "declines": (0.08, 1.31),
    "adds": (0.67, -0.15),
    "moves on": (0.39, -0.18),
    "wishes": (-0.22, -0.16),
    "wants one": (0.64, -0.17),
    "asks on": (-0.04, 0.47),
    "there": (2.05, -0.01),
    "refers": (-0.68, 0.70),
    "asks for others": (-1.04, -0.27),
    "asks a detail": (-0.61, 0.85),
    "it offered more help": (0.51, -4.78),
    "it reported success": (0.60, -3.02),
    "it asked to confirm": (-1.24, -0.96),
    "it asked what": (-1.49, 0.26),
    "it failed": (0.40, -0.15),
}
"""What each sign adds to the log-odds that a turn asks for something new and, if it does, that the last agents stay.

Fitted on 8,899 turns of sgd's train rows (three routers, each without the examples of 60 % of the services) and 4,200
made-up turns (utterances of clinc150, hwu64 and banking77 after an utterance of the same or another agent), with the
router's numbers made sharper, duller and shyer at random, so that they serve another router too. "My" and "is there"
were left out by hand: they mean a new service in sgd only.
"""
_PLAIN_WEIGHTS: dict[str, tuple[float, float]] = {
    "always": (-2.26, 1.79),
    "it asked": (-0.68, -1.39),
    "other": (0.52, 0.03),
    "surely other": (0.26, -0.03),
    "last": (-0.39, 0.08),
    "none": (-0.05, 0.10),
}
"""The same for texts in another language, by what needs no words."""
FEATURES: tuple[str, ...] = tuple(_WEIGHTS)
"""Names of what is looked at, in the order of `features`."""
NEW, BESIDE = np.array(list(_WEIGHTS.values())).T
PLAIN_NEW, PLAIN_BESIDE = np.array(list(_PLAIN_WEIGHTS.values())).T


@dataclass(frozen=True)
class Continuation:
    """What a turn is to the turn before it."""

    stay: float
    """Probability that the agents of the last turn work on this one too, 0 to 1."""
    new: float
    """Probability that an agent is needed that did not work on the last turn, 0 to 1."""
    reason: str
    """In words."""


@dataclass(frozen=True)
class Carried:
    """The agents of a turn of a conversation."""

    agents: tuple[int, ...]
    """Columns of `chance`: those that stay, in their order, then new ones, best first."""
    continuation: Continuation

    @property
    def reason(self) -> str:
        """In words."""
        return self.continuation.reason


def continuation(
    text: str, last_reply: str, last_agents_chance: float, other_chance: float, none_chance: float
) -> Continuation:
    """Whether a turn goes on with the agents of the last one, and whether it needs another.

    Args:
        text: The user's turn.
        last_reply: The assistant's turn before it; empty if unknown.
        last_agents_chance: The probability that the router gives the last agents and those like them, together, for the
            text alone.
        other_chance: The largest one that it gives one of the others.
        none_chance: ... and "none of them".

    Source:
        Logistic regression; our choice of features. P(stay) = 1 - P(new) (1 - P(stay | new)).
    """
    row, english = features(text, last_reply, last_agents_chance, other_chance, none_chance)
    plain = row[: len(PLAIN_NEW)]
    new = _logistic(float(row @ NEW if english else plain @ PLAIN_NEW))
    beside = _logistic(float(row @ BESIDE if english else plain @ PLAIN_BESIDE))
    stay = 1.0 - new * (1.0 - beside)
    return Continuation(stay, new, _reason(row, english=english, new=new >= HANDS_OVER, beside=beside >= STAYS))


def carried(
    text: str,
    last_reply: str,
    last_agents: Sequence[int],
    chance: Floats,
    *,
    joined: Sequence[int] = (),
    wanted: Sequence[int] = (),
    like: Sequence[int] = (),
) -> Carried:
    """The agents of a turn by what the router thinks of its text alone and by who worked on the turn before.

    Args:
        text: The user's turn.
        last_reply: The assistant's turn before it; empty if unknown.
        last_agents: Columns of the agents that worked on that turn, at least one.
        chance: Probabilities of the agents for the text alone, shape (c + 1,); the last column is "none of them".
        joined: Those of `last_agents` that did not work on the turn before that one: the conversation has gone over to
            them, and only they stay. Empty: nobody joined, or it is not known.
        wanted: Columns that the router chose for the text alone; those that are new are taken where the turn asks for
            something new, else the most probable new agent.
        like: Columns of agents whose cards say the same as one of the last agents' (see `alike`): what sounds like them
            is for the agent that is in the conversation already, so they are never new.

    Raises:
        ValueError: If `last_agents` is empty or names a column that is not an agent's.
    """
    agents = len(chance) - 1
    if not last_agents or not all(0 <= agent < agents for agent in (*last_agents, *joined, *wanted, *like)):
        raise ValueError(f"want at least one last agent, each from 0 to {agents - 1}; got {tuple(last_agents)}")
    known = {*last_agents, *like}
    others = [agent for agent in np.argsort(-chance[:-1], kind="stable").tolist() if agent not in known]
    if not others:
        return Carried(tuple(dict.fromkeys(last_agents)), Continuation(1.0, 0.0, "there is no other agent"))
    found = continuation(
        text, last_reply, float(chance[sorted(known)].sum()), float(chance[others[0]]), float(chance[-1])
    )
    current = tuple(dict.fromkeys(agent for agent in last_agents if not joined or agent in joined))
    if found.new < HANDS_OVER:
        return Carried(current, found)
    fresh = [agent for agent in others if agent in wanted] or others[:1]
    beside = 1.0 - (1.0 - found.stay) / found.new
    return Carried((*(current if beside >= STAYS else ()), *fresh), found)


def alike(vectors: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """Which agents are told apart by nothing that their cards say, shape (c, c); none with itself.

    Args:
        vectors: Dense vectors of what the cards say (title, description, instructions; no examples), shape (c, d).
    """
    moved = vectors - vectors.mean(axis=0)
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    units = np.divide(moved, lengths, out=np.zeros_like(moved), where=lengths > 1e-6)
    near: NDArray[np.bool_] = units @ units.T >= ALIKE
    np.fill_diagonal(near, False)
    return near


def features(
    text: str, last_reply: str, last_agents_chance: float, other_chance: float, none_chance: float
) -> tuple[Floats, bool]:
    """What is looked at in a turn, shape (len(FEATURES),), and whether its words may be."""
    said, reply = _plain(text[:READ_CHARS]), _plain(last_reply[-READ_CHARS:])
    found = words(said)
    topic, told = set(specific_words(said)), set(specific_words(reply))
    other, last, none = (_logit(chance) for chance in (other_chance, last_agents_chance, none_chance))
    asked = float(bool(_ASKED.search(reply)))
    bare = len(found) <= BARE_WORDS and not _TEXT["wishes"].search(said)
    values = {
        "always": 1.0,
        "it asked": asked,
        "other": other,
        "surely other": max(other, 0.0),
        "last": last,
        "none": none,
        "length": math.log1p(len(found)),
        "bare": float(bare),
        "bare answer": float(bare and asked > 0.0),
        "question": float("?" in said),
        "news": math.log1p(len(topic - told)),
        "echo": len(topic & told) / max(1, len(topic)),
        "says nothing": float(not topic),
        "no reply": float(not reply),
        **{name: float(bool(pattern.search(said))) for name, pattern in _TEXT.items()},
        **{name: float(bool(pattern.search(reply))) for name, pattern in _REPLY.items()},
    }
    return np.array([values[name] for name in FEATURES]), not _foreign(said)


def _reason(row: Floats, *, english: bool, new: bool, beside: bool) -> str:
    """Why, in words: the first sign that fits what was decided."""
    seen = {
        name
        for name, value in zip(FEATURES, row.tolist(), strict=True)
        if value > 0.0 and (english or name == "it asked")
    }
    if new:
        what = "asks for one thing more" if "adds" in seen else "asks for something new"
        return f"{what} and goes on with the last turn" if beside else what
    for name, reason in (
        ("ends", "ends the conversation"),
        ("thanks", "thanks for the last turn"),
        ("bare answer", "answers the question of the last turn"),
        ("says yes", "agrees to the last turn"),
        ("says no", "answers the last turn"),
        ("refers", "refers to the last turn"),
        ("it asked", "answers the question of the last turn"),
    ):
        if name in seen:
            return reason
    return "says nothing of another matter"


def _foreign(text: str) -> bool:
    """Whether a text is surely not English: its words say nothing here."""
    sure = language_confidence(text)
    return max((c for language, c in sure.items() if language != "en"), default=0.0) - sure.get("en", 0.0) > FOREIGN


def _plain(text: str) -> str:
    return " ".join(text.replace("’", "'").casefold().split())


def _logit(chance: float) -> float:
    """The logarithm of the odds, cut at `LARGEST_LOGIT`."""
    chance = min(max(chance, 1e-9), 1.0 - 1e-9)
    return min(max(math.log(chance / (1.0 - chance)), -LARGEST_LOGIT), LARGEST_LOGIT)


def _logistic(score: float) -> float:
    return 1.0 / (1.0 + math.exp(-score))
