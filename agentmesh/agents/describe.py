"""Writes the description of an agent from its examples: by a model, or from their most telling words without one.

Knows nothing of files: `project/descriptions.py` finds the cards and writes what is made here into them.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from agentmesh.errors import InputError, ModelReplyError
from agentmesh.fence import fenced, inert
from agentmesh.models.base import ChatMessage, ChatModel, ChatRequest
from agentmesh.models.call import call_model
from agentmesh.models.replies import json_in
from agentmesh.models.wire import valid_text
from agentmesh.project.descriptions import CardFile, says_little
from agentmesh.prompts import render
from agentmesh.run import RunContext
from agentmesh.text import NUMBER_WORDS, STOP_WORDS, sentences, stem, words

__all__ = ["MOST_CHARS", "describe", "describe_by_words", "describing_prompt", "read_description"]

EXAMPLES = 40
"""Examples that are shown, spread over all. TCAndon-Router's descriptions were made of 30 to 50."""
EXAMPLE_CHARS = 200
INSTRUCTIONS_CHARS = 800
NOT_FOR = 8
MOST_CHARS = 300
"""Characters of a description. Our choice: about 50 words; a router shows a model 240 of them."""
MOST_SENTENCES = 2
OUTPUT_TOKENS = 500
"""Tokens of a reply, what a model thinks first among them."""
REPAIRS = 2
"""Further attempts after a reply that cannot be used."""
TELLING_WORDS = 6
"""Words that a description without a model names."""
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"description": {"type": "string"}},
    "required": ["description"],
    "additionalProperties": False,
}


async def describe(card: CardFile, model: ChatModel, ctx: RunContext, *, retries: int = 1) -> str:
    """A description of one or two sentences that a model writes from the card's examples and instructions.

    Args:
        card: What the agent's file has.
        model: Who writes.
        ctx: The step that asks; its budget is kept.
        retries: Further attempts after a failure of the model that may pass.

    Raises:
        InputError: If the card has neither examples nor instructions.
        LimitError: If the budget is spent.
        ModelError: If the model failed; `ModelReplyError` if it wrote nothing usable, in `1 + REPAIRS` attempts.
    """
    asked = first = describing_prompt(card)
    problem = ""
    for _ in range(1 + REPAIRS):
        reply = await call_model(model, asked, ctx, retries=retries)
        try:
            return read_description(reply.text)
        except ValueError as error:
            problem = str(error)[:200]
        again = (
            *first.messages,
            ChatMessage(role="assistant", text=reply.text),
            ChatMessage(role="user", text=render("repair", problem=problem)),
        )
        asked = first.model_copy(update={"messages": again})
    raise ModelReplyError(
        f"the model {model.info.name!r} wrote no usable description, {1 + REPAIRS} times: {problem}; "
        "try another --model, or write it yourself"
    )


def describing_prompt(card: CardFile) -> ChatRequest:
    """What the model is asked about a card. Everything of the card stands in it as data, bounded.

    Raises:
        InputError: If the card has neither examples nor instructions.
    """
    if not card.examples and not card.instructions:
        raise InputError("it has no examples to write a description from; add some, or write it yourself")
    step = max(1.0, len(card.examples) / EXAMPLES)
    shown = [card.examples[int(place * step)] for place in range(min(EXAMPLES, len(card.examples)))]
    blocks = (
        ("What it must not get:", fenced("not_for", _lines(card.not_for[:NOT_FOR]))),
        ("What it is told to do:", fenced("instructions", [_flat(card.instructions, INSTRUCTIONS_CHARS)])),
    )
    user = render(
        "describe-ask",
        agent=fenced("agent", [f"{card.agent}: {_flat(card.name, EXAMPLE_CHARS)}" if card.name else card.agent]),
        examples=fenced("examples", _lines(shown)) or "(none are known)",
        further="".join(f"{head}\n{block}\n\n" for (head, block), there in
                        zip(blocks, (card.not_for, card.instructions), strict=True) if there),
    )  # fmt: skip
    return ChatRequest(
        messages=(
            ChatMessage(role="system", text=render("describe", most=str(MOST_CHARS))),
            ChatMessage(role="user", text=user),
        ),
        json_schema=_SCHEMA,
        max_output_tokens=OUTPUT_TOKENS,
    )


def read_description(text: str) -> str:
    """The description in a model's reply, on one line.

    Raises:
        ValueError: If it is no JSON with one, or it is too long or says next to nothing. Says what is wrong.
    """
    value: object = json_in(text.rpartition("</think>")[2])
    found: object = cast("dict[str, object]", value).get("description") if isinstance(value, dict) else None
    if not isinstance(found, str):
        raise ValueError("it holds no text under `description`")
    description = " ".join(inert(valid_text(found)).split()).strip("\"'“”")
    if len(description) > MOST_CHARS:
        raise ValueError(f"the description has {len(description)} characters; at most {MOST_CHARS} are allowed")
    if len(sentences(description)) > MOST_SENTENCES:
        raise ValueError(f"the description has more than {MOST_SENTENCES} sentences")
    if says_little(description):
        raise ValueError("the description says next to nothing; name what the specialist handles")
    return description


def describe_by_words(card: CardFile, cards: Sequence[CardFile]) -> str:
    """A description that names the most telling words of the card's examples: frequent there, rare on other cards.

    The weight of a word is the share of the examples that have it, times 1 + ln((1 + n) / (1 + m)), m of the n other
    cards having it in theirs. Deterministic. In English; a plain list of words for a person to make a sentence of.

    Raises:
        InputError: If no word of the examples tells anything.
    """
    own = Counter(word for example in card.examples for word in _telling(example))
    others = [set[str]().union(*(_telling(e) for e in other.examples)) for other in cards if other.agent != card.agent]
    spread = Counter(word for there in others for word in there)

    def weight(word: str) -> float:
        return own[word] / len(card.examples) * (1 + math.log((1 + len(others)) / (1 + spread[word])))

    spelled: dict[str, str] = {}
    for example in card.examples:
        for known, word in _telling(example).items():
            spelled.setdefault(known, word)
    order = {word: place for place, word in enumerate(spelled)}
    best = [spelled[word] for word in sorted(own, key=lambda w: (-weight(w), order[w]))[:TELLING_WORDS]]
    if not best:
        raise InputError("no word of its examples says what it is for; write the description yourself")
    named = f"{', '.join(best[:-1])} and {best[-1]}" if len(best) > 1 else best[0]
    return f"Takes messages about {named}."


def _telling(text: str) -> dict[str, str]:
    """Stem -> word, of the words that may say what a text is about."""
    told = (word for word in words(text) if word not in STOP_WORDS and word not in NUMBER_WORDS)
    return {stem(word): word for word in told if word.isalpha() and len(word) > 1}


def _lines(texts: Sequence[str]) -> list[str]:
    return [f"- {_flat(text, EXAMPLE_CHARS)}" for text in texts]


def _flat(text: str, most: int) -> str:
    """Inert text on one line, at most `most` characters."""
    line = " ".join(inert(valid_text(text)).split())
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"
