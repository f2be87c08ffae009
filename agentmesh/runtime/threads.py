"""The turns of conversations: what was asked and answered in a thread and who worked on it, per tenant.

Not part of graph state.
"""

import json
from collections import defaultdict, deque
from typing import Protocol

from agentmesh.database import Database, Tables
from agentmesh.types import Message

__all__ = ["THREAD_TABLES", "DatabaseThreads", "MemoryThreads", "Threads"]

KEPT_TURNS = 40
"""Messages of a thread that a run is given."""

THREAD_TABLES = Tables(
    "threads",
    {
        1: (
            """CREATE TABLE threads_turns (
                tenant TEXT NOT NULL, thread TEXT NOT NULL, run_id TEXT NOT NULL, position INTEGER NOT NULL,
                role TEXT NOT NULL, text TEXT NOT NULL,
                PRIMARY KEY (tenant, thread, run_id, position)
            )""",
        ),
        2: ("ALTER TABLE threads_turns ADD COLUMN agents TEXT NOT NULL DEFAULT '[]'",),
    },
)


class Threads(Protocol):
    """Keeps conversations."""

    async def history(self, tenant: str, thread: str) -> tuple[Message, ...]:
        """The last turns, oldest first; empty for a thread that is not known."""
        ...

    async def add(self, tenant: str, thread: str, run_id: str, turns: tuple[Message, ...]) -> None:
        """Add the turns of a run; those of its turns that are there already are not added again."""
        ...


class MemoryThreads:
    """Conversations that live as long as the mesh."""

    def __init__(self) -> None:
        self._turns: dict[tuple[str, str], deque[Message]] = defaultdict(lambda: deque(maxlen=KEPT_TURNS))
        self._added: dict[tuple[str, str, str], int] = {}

    async def history(self, tenant: str, thread: str) -> tuple[Message, ...]:
        return tuple(self._turns.get((tenant, thread), ()))

    async def add(self, tenant: str, thread: str, run_id: str, turns: tuple[Message, ...]) -> None:
        key = (tenant, thread, run_id)
        self._turns[tenant, thread].extend(turns[self._added.get(key, 0) :])
        self._added[key] = max(len(turns), self._added.get(key, 0))


class DatabaseThreads:
    """Conversations in the mesh's database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def history(self, tenant: str, thread: str) -> tuple[Message, ...]:
        rows = await self._db.query(
            "SELECT role, text, agents FROM threads_turns WHERE tenant = ? AND thread = ? ORDER BY rowid DESC LIMIT ?",
            (tenant, thread, KEPT_TURNS),
        )
        return tuple(
            Message(role=role, text=text, agents=tuple(json.loads(agents))) for role, text, agents in reversed(rows)
        )

    async def add(self, tenant: str, thread: str, run_id: str, turns: tuple[Message, ...]) -> None:
        await self._db.write(
            *(
                (
                    """INSERT OR IGNORE INTO threads_turns (tenant, thread, run_id, position, role, text, agents)
                        VALUES (?, ?, ?, ?, ?, ?, ?)""",
                    (tenant, thread, run_id, position, turn.role, turn.text, json.dumps(turn.agents)),
                )
                for position, turn in enumerate(turns)
            )
        )
