"""How agents did on tasks, as rows: from a file of JSON lines, from finished runs. Routers that learn are made of them.

A row says who worked on a text, how well, and what that took. It holds no answer and no vector, and decides nothing.
"""

import json
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import Field, ValidationError, field_validator

from agentmesh.errors import ConfigError, ProjectError
from agentmesh.mistakes import Mistake, dotted, shown, validated
from agentmesh.types import Frozen, Id, Mode, Outcome, Share

__all__ = ["MOST_ROWS", "GivenOutcomes", "OutcomeRow", "OutcomeTable", "outcome_table", "read_outcomes", "rows_of"]

MOST_ROWS = 10_000
"""Rows that a table holds, unless it is told otherwise; the oldest go first. With 256 numbers a text: 10 MB."""
MOST_MISTAKES = 20
"""Mistakes of a file that are said; reading ends there."""


class OutcomeRow(Frozen):
    """How one agent did on one text."""

    text: str = Field(min_length=1, max_length=20_000)
    """The task, or the part of it that was the agent's."""
    agent: Id
    variant: str | None = None
    """Of its card."""
    quality: Share
    """How good the answer was: 0 useless, 1 right."""
    cost_usd: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """US$ that it took."""
    energy_wh: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Watt hours that it took, where that is known."""
    category: str = Field(default="", max_length=100)
    """The kind of task, where somebody labelled it."""

    @field_validator("text")
    @classmethod
    def _says_something(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("must hold words")
        return text


@dataclass(frozen=True)
class OutcomeTable:
    """Rows, oldest first, at most `most` of them."""

    rows: tuple[OutcomeRow, ...] = ()
    most: int = MOST_ROWS
    """Most rows that are kept, 1 or more."""
    dropped: int = 0
    """Rows that were there and had to go, the oldest ones."""

    def with_rows(self, rows: Iterable[OutcomeRow]) -> "OutcomeTable":
        """The same table with newer rows behind; if they are too many, the oldest are dropped and counted."""
        together = (*self.rows, *rows)
        surplus = max(0, len(together) - self.most)
        return OutcomeTable(together[surplus:], self.most, self.dropped + surplus)


def rows_of(outcome: Outcome) -> tuple[OutcomeRow, ...]:
    """What a finished run says of each agent that worked; nothing if nobody did or a number is none.

    Every agent of a set gets the quality of the whole answer (who of them earned it is not known: our choice) and its
    share of the cost, on its own part of the task.
    """
    if outcome.decision.mode not in (Mode.SOLO, Mode.PARALLEL, Mode.PATH):
        return ()
    try:
        return tuple(
            OutcomeRow(
                text=chosen.part or outcome.task.full_text,
                agent=chosen.agent,
                variant=chosen.variant,
                quality=outcome.quality,
                cost_usd=outcome.cost_usd * chosen.weight,
            )
            for chosen in outcome.decision.chosen
        )
    except ValidationError:  # a value that was made without its checks
        return ()


def read_outcomes(file: Path, *, name: str = "", most: int = MOST_ROWS) -> OutcomeTable:
    """The table of a file of JSON lines, one row a line with the keys of `OutcomeRow`; blank lines are passed over.

    Args:
        file: Where it is.
        name: What mistakes call it; empty: its path.
        most: Rows that are kept, the last ones of the file.

    Raises:
        ProjectError: If it cannot be read, or with every wrong line (at most `MOST_MISTAKES`): file, line, key, and
            what to do.
    """
    name = name or str(file)
    kept: deque[OutcomeRow] = deque(maxlen=most)
    read = 0
    mistakes: list[str] = []
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                row = _row(line)
                if isinstance(row, OutcomeRow):
                    kept.append(row)
                    read += 1
                else:
                    mistakes += [str(Mistake(name, number, key, text)) for key, text in row]
                if len(mistakes) >= MOST_MISTAKES:
                    break
    except UnicodeDecodeError as error:
        raise ProjectError([str(Mistake(name, None, "", "is not UTF-8 text; save it as that"))]) from error
    except OSError as error:
        why = (
            "does not exist; correct the option `outcomes`"
            if isinstance(error, FileNotFoundError)
            else f"cannot be read: {error.strerror or type(error).__name__}; correct the option `outcomes`"
        )
        raise ProjectError([str(Mistake(name, None, "", why))]) from error
    if mistakes:
        raise ProjectError(mistakes)
    return OutcomeTable(tuple(kept), most, read - len(kept))


GivenOutcomes = str | Path | OutcomeTable | Iterable[OutcomeRow | Mapping[str, Any]] | None
"""What the option `outcomes` may hold: the path of a file, rows, a table, or nothing."""


def outcome_table(
    given: GivenOutcomes,
    *,
    folder: Path | None = None,
    most: int = MOST_ROWS,
) -> OutcomeTable:
    """A table from what the option `outcomes` holds: the path of a file, rows, a table, or nothing.

    Args:
        given: A path is relative to `folder`.
        folder: The project's; absent: the working directory.
        most: Rows that are kept.

    Raises:
        ConfigError: If an option is wrong; `ProjectError` if the file is.
    """
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"the option max_outcomes is {most!r}; give a whole number from 1")
    match given:
        case None:
            return OutcomeTable(most=most)
        case str() | Path():
            return read_outcomes((folder or Path()) / given, name=str(given), most=most)
        case OutcomeTable():
            return OutcomeTable(most=most, dropped=given.dropped).with_rows(given.rows)
        case Mapping():
            raise ConfigError("the option outcomes is a group of keys; give the path of a file or a list of rows")
        case Iterable():
            return OutcomeTable(most=most).with_rows(_rows(given))
        case _:
            raise ConfigError(f"the option outcomes is {shown(given)}; give the path of a file or a list of rows")


def _rows(given: Iterable[OutcomeRow | Mapping[str, Any]]) -> Iterator[OutcomeRow]:
    for place, row in enumerate(given):
        if isinstance(row, OutcomeRow):
            yield row
            continue
        if not isinstance(row, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"outcomes[{place}] is {shown(row)}; give the keys of a row")
        made, found = validated(OutcomeRow, row)
        if made is None:
            raise ConfigError("; ".join(f"{dotted(('outcomes', place, *steps))}: {text}" for steps, text in found))
        yield made


def _row(line: str) -> OutcomeRow | list[tuple[str, str]]:
    """The row of a line, or what is wrong with it: a key and a sentence each."""
    try:
        values: object = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        at = f" (column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        return [("", f'is not one JSON object{at}; write {{"text": ..., "agent": ..., "quality": ...}} on one line')]
    if not isinstance(values, dict):
        return [("", f'is {shown(values)}; write {{"text": ..., "agent": ..., "quality": ...}}')]
    row = cast("dict[str, Any]", values)
    for key in ("quality", "cost_usd", "energy_wh"):
        if isinstance(row.get(key), float) and not math.isfinite(row[key]):
            return [(key, f"is {row[key]}, which is no amount; give a number or take the line out")]
    made, found = validated(OutcomeRow, row)
    return made if made is not None else [(dotted(steps), text) for steps, text in found]
