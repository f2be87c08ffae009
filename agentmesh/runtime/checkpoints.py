"""LangGraph's checkpointers, set up for us: strict serialisation, write-ahead log, errors in our words."""

from collections.abc import Iterable
from pathlib import Path

import aiosqlite
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from agentmesh.errors import StoreError
from agentmesh.runtime.state import checkpoint_types

__all__ = ["memory_checkpoints", "open_checkpoints", "prune", "serializer"]

PRAGMAS = ("journal_mode = WAL", "synchronous = NORMAL", "busy_timeout = 10000")
"""NORMAL: a kill of the process loses nothing; a power cut may lose the last steps, never the file."""


def serializer() -> JsonPlusSerializer:
    """Rebuilds our own value types from a checkpoint, and nothing else that is not LangGraph's own."""
    return JsonPlusSerializer(allowed_msgpack_modules=checkpoint_types())


async def open_checkpoints(path: Path) -> AsyncSqliteSaver:
    """The durable checkpointer; close its `conn` when done.

    Raises:
        StoreError: If the file cannot be opened or written.
    """
    try:
        conn = await aiosqlite.connect(path)
    except aiosqlite.Error as error:
        raise StoreError(
            f"{path}: cannot be opened ({error}); check the folder's permissions and free space"
        ) from error
    try:
        for pragma in PRAGMAS:
            await conn.execute(f"PRAGMA {pragma}")
        saver = AsyncSqliteSaver(conn, serde=serializer())
        await saver.setup()
    except aiosqlite.Error as error:
        await conn.close()
        raise StoreError(f"{path}: cannot be used ({error}); move the file away to start with an empty one") from error
    return saver


def memory_checkpoints() -> InMemorySaver:
    """The checkpointer of a mesh without a folder."""
    return InMemorySaver(serde=serializer())


async def prune(saver: AsyncSqliteSaver, run_ids: Iterable[str]) -> list[str]:
    """Forget the checkpoints of these runs; the ids of those that had any.

    Raises:
        StoreError: If the file is damaged.
    """
    try:
        async with saver.conn.execute("SELECT DISTINCT thread_id FROM checkpoints") as rows:
            held = {row[0] async for row in rows}
        old = sorted(held.intersection(run_ids))
        for run_id in old:
            await saver.adelete_thread(run_id)
    except aiosqlite.Error as error:
        text = f"checkpoints.db cannot be used ({error}); move the file away to start with an empty one"
        raise StoreError(text) from error
    return old
