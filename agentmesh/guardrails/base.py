"""The protocol of guardrails, and what they say of a text."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Protocol, runtime_checkable

from pydantic import Field

from agentmesh.errors import ConfigError, InputError, UnknownNameError
from agentmesh.run import RunContext
from agentmesh.types import Frozen

__all__ = [
    "EVERYWHERE",
    "MAX_CHARS",
    "PASSED",
    "Action",
    "Checked",
    "Finding",
    "Guardrail",
    "Verdict",
    "Where",
    "action_of",
    "places_of",
    "readable",
]

MAX_CHARS = 100_000
"""Characters that a rule reads; a longer text is not checked, which counts as a failure. Our choice: as long as a
question may be."""


class Where(StrEnum):
    """Which texts of a run a guardrail looks at."""

    INPUT = "input"
    """The question, before a router sees it."""
    OUTPUT = "output"
    """The answer, after the refiner."""
    MEMORY = "memory"
    """What is about to be remembered."""


EVERYWHERE = frozenset(Where)


class Action(StrEnum):
    """What becomes of a text."""

    PASS = "pass"  # noqa: S105  it is no password
    """It goes on as it is; nothing is said."""
    FLAG = "flag"
    """It goes on as it is; the trace says what was found."""
    REDACT = "redact"
    """It goes on with something taken out."""
    ASK = "ask"
    """A person decides whether it goes on."""
    BLOCK = "block"
    """It does not go on."""

    @property
    def strength(self) -> int:
        """From 0, `pass`, to 4, `block`; of several actions the strongest holds."""
        return tuple(Action).index(self)


class Verdict(Frozen):
    """What a guardrail says of a text."""

    action: Action = Action.PASS
    reason: str = ""
    """What was found, in words and without the text itself: it stands in the trace."""
    text: str | None = None
    """The text as it may go on, with `redact`."""
    found: int = Field(default=1, ge=0)
    """In how many places; 0: the text could not be checked."""


PASSED = Verdict()
"""Nothing was found."""


class Finding(Frozen):
    """What one guardrail found in a text that it did not simply let pass."""

    name: str
    """The guardrail's."""
    action: Action
    reason: str
    found: int = 1


class Checked(Frozen):
    """What all guardrails together say of a text."""

    text: str
    """As it may go on: redacted where it must be; empty if it is blocked."""
    action: Action = Action.PASS
    """The strongest of the findings: block, then ask, redact, flag, pass."""
    findings: tuple[Finding, ...] = ()
    """In the order of the guardrails."""

    @property
    def reason(self) -> str:
        """Why, in words: the reasons of the findings that decided the action."""
        return "; ".join(f.reason for f in self.findings if f.action is self.action)


@runtime_checkable
class Guardrail(Protocol):
    """Looks at texts and says whether they may go on."""

    @property
    def name(self) -> str: ...

    @property
    def where(self) -> frozenset[Where]: ...

    async def check(self, text: str, ctx: RunContext) -> Verdict:
        """What is to become of the text.

        It may raise: the text is then treated as the guardrail's `on_error` says, blocked if nothing else is said.
        """
        ...


def places_of(where: str | Iterable[str]) -> frozenset[Where]:
    """`where` as a set: one place or several, by name.

    Raises:
        UnknownNameError: If a name is none of input, output, memory.
        ConfigError: If there is none.
    """
    names = [where] if isinstance(where, str) else list(where)
    for name in names:
        if name not in tuple(Where):
            raise UnknownNameError("place of guardrails", str(name), [w.value for w in Where])
    if not names:
        raise ConfigError("a guardrail must look somewhere; set `where` to input, output or memory")
    return frozenset(Where(name) for name in names)


def action_of(rule: str, action: str, where: frozenset[Where], *, cannot: Iterable[Action] = ()) -> Action:
    """The action of this name, if the rule can take it where it looks.

    Raises:
        UnknownNameError: If there is no such action.
        ConfigError: If the rule cannot take it, or would ask a person in the middle of a write.
    """
    possible = [a for a in Action if a is not Action.PASS and a not in set(cannot)]
    if action not in possible:
        if action in tuple(Action):
            listed = ", ".join(f"`{a.value}`" for a in possible)
            raise ConfigError(f"{rule!r} cannot {action}; set `action` to one of {listed}")
        raise UnknownNameError("action of guardrails", str(action), [a.value for a in possible])
    if action == Action.ASK and Where.MEMORY in where:
        raise ConfigError(
            "nobody can be asked in the middle of a write; set `action` to `block`, or take `memory` out of `where`"
        )
    return Action(action)


def readable(text: str) -> str:
    """The text, unless it is too long for a rule.

    Raises:
        InputError: If it is longer than `MAX_CHARS`.
    """
    if len(text) > MAX_CHARS:
        raise InputError(f"it has {len(text)} characters and rules read at most {MAX_CHARS}; shorten it")
    return text
