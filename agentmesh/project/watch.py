"""What changed in a project's `agents/` since it was read: a look at the folder, not a process that waits for it.

The mesh looks before each question. That is exact where it counts (a card that was saved before a question is in its
decision), needs no dependency, no file handles and no thread that lives on, works on network drives and in containers,
and costs nothing while nobody asks. Notifications of the operating system (`watchfiles`) come later than the question
that they should be in, miss what happens on many mounted drives, and would tell of a file that is half written.

One look at a dozen cards takes a fraction of a millisecond. Only files that changed are read.
"""

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agentmesh.mistakes import Mistake
from agentmesh.project.loader import AGENTS, FIRST_CARD, UNCHECKED, KnownNames, Project, Stamp, read_cards, stamps_of
from agentmesh.types import AgentCard

__all__ = ["CardFolder", "CardWatch", "CardsFound"]

SETTLED_S = 0.05
"""Seconds without a change after which a file counts as wholly written: editors and `git` write in several steps."""
MOST_WAIT_S = 0.5
"""Seconds that one look waits for a folder to settle."""
STEP_S = 0.01
FEW_CARDS = 500
"""Cards up to which a folder is looked at before each question."""
MANY_EVERY_S = 0.25
"""Seconds between two looks at a larger folder: one of 5,000 cards takes some milliseconds."""


@dataclass(frozen=True)
class CardsFound:
    """What one look found."""

    cards: Mapping[str, AgentCard]
    """New or changed, by id, each without a mistake."""
    removed: tuple[str, ...] = ()
    """Ids whose file is gone."""
    mistakes: tuple[str, ...] = ()
    """What is wrong now and was not at the last look; the card of such a file is as it was."""


class CardWatch(Protocol):
    """Knows where cards come from, and looks there again."""

    @property
    def every_s(self) -> float:
        """Seconds in which a second look is not worth its time; 0: every look is."""
        ...

    def look(self) -> CardsFound | None:
        """What changed since the last look, None if nothing did. Blocks, at most about half a second."""
        ...


class CardFolder:
    """The `agents/` of a project. Cards are checked against the settings and roles that the project was read with.

    A card with a mistake leaves what was known of it as it is, and so does a folder that is empty or cannot be read.

    Args:
        project: As it was read.
        known: Names to check those in cards against.
        settled_s: Seconds without a change after which a file counts as wholly written.
    """

    def __init__(self, project: Project, *, known: KnownNames = UNCHECKED, settled_s: float = SETTLED_S) -> None:
        self._project, self._known, self._settled_s = project, known, settled_s
        self._folder = project.folder / AGENTS
        self._cards = {card.id: card for card in project.cards}
        # what was written just before it was read may have been written again within the same tick of the clock
        self._seen = _sure(project.stamps, project.read_at - settled_s)
        self._wrong: dict[str, tuple[str, ...]] = {}
        """By file name (empty: the folder itself) what is wrong with it."""
        self._looking = threading.Lock()

    @property
    def every_s(self) -> float:
        return MANY_EVERY_S if len(self._seen) > FEW_CARDS else 0.0

    def look(self) -> CardsFound | None:
        with self._looking:
            stamps = stamps_of(self._folder)
            if stamps == self._seen:
                return None
            stamps, at = self._settle(stamps)
            return self._read(stamps, at)

    def _settle(self, stamps: Mapping[str, Stamp]) -> tuple[Mapping[str, Stamp], float]:
        """The files when nothing has been written for a moment, or when that has been waited for long enough; and the
        time of that look, seconds since 1970."""
        until = time.monotonic() + MOST_WAIT_S
        while True:
            now = time.time()
            fresh = any(0 <= now - at < self._settled_s for at in self._written(stamps))
            if not fresh or time.monotonic() > until:
                return stamps, now
            time.sleep(STEP_S)
            stamps = stamps_of(self._folder)

    def _written(self, stamps: Mapping[str, Stamp]) -> list[float]:
        """When the files that changed were written, and the folder if files came or went. Seconds since 1970."""
        times = [stamp.written_s for name, stamp in stamps.items() if self._seen.get(name) != stamp]
        if stamps.keys() != self._seen.keys():
            try:
                times.append(self._folder.stat().st_mtime)
            except OSError:  # it is gone, for the moment or for good
                times.append(time.time())
        return times

    def _read(self, stamps: Mapping[str, Stamp], at: float) -> CardsFound | None:
        """Read what changed, and what was wrong before: the mistake may have been in another file."""
        before, self._seen = self._seen, _sure(stamps, at - self._settled_s)
        if not stamps:
            return self._found({}, (), {"": (str(Mistake(f"{AGENTS}/", None, "", _nobody_left(self._folder))),)})
        names = {name for name, stamp in stamps.items() if before.get(name) != stamp}
        names |= {name for name in self._wrong if name in stamps}
        read, mistakes = read_cards(self._project, sorted(names), all_names=list(stamps), known=self._known)
        wrong: dict[str, tuple[str, ...]] = {}
        for mistake in mistakes:
            name = mistake.file.removeprefix(f"{AGENTS}/")
            wrong[name] = (*wrong.get(name, ()), f"{mistake}{_LATER if mistake.key in _READ_ONCE else ''}")
        there = {Path(name).stem for name in stamps}
        fresh = {card.id: card for card in read if self._cards.get(card.id) != card}
        return self._found(fresh, tuple(id_ for id_ in self._cards if id_ not in there), wrong)

    def _found(
        self, cards: Mapping[str, AgentCard], removed: tuple[str, ...], wrong: dict[str, tuple[str, ...]]
    ) -> CardsFound | None:
        """Remember what is known now, and say what of it is new."""
        known = {text for texts in self._wrong.values() for text in texts}
        kept = {id_: card for id_, card in self._cards.items() if id_ not in removed}
        if not kept and not cards:  # what is there is all wrong; the agents go when one comes that is not
            kept, removed = self._cards, ()
        self._wrong, self._cards = wrong, {**kept, **cards}
        said = tuple(text for texts in wrong.values() for text in texts if text not in known)
        return CardsFound(cards, removed, said) if cards or removed or said else None


_READ_ONCE = frozenset({"role", "model"})
_LATER = " (memory/roles.yaml and the settings are those that the mesh began with; restart it for newer ones)"


def _sure(stamps: Mapping[str, Stamp], before_s: float) -> dict[str, Stamp | None]:
    """The files as they were seen; None for those so young that a later change may not show in their times."""
    return {name: stamp if stamp.written_s < before_s else None for name, stamp in stamps.items()}


def _nobody_left(folder: Path) -> str:
    if os.path.isdir(folder):  # noqa: PTH112 - never raises
        return f"no agent is here any more, so those that were stay; {FIRST_CARD}"
    return f"there is no such folder any more, or it cannot be read, so its agents stay; {FIRST_CARD}"
