"""A memory store over a loopback socket: the process that owns it serves, others ask. Knows nothing of locks or files.

A message is four bytes of length (big endian) and that much JSON; vectors are base64 of little-endian float32. Both
sides prove that they know the secret without sending it, so whoever took over a port learns nothing.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from agentmesh.errors import StoreError, StoreLockedError, StoreVersionError
from agentmesh.memory.arrays import check_query, check_vectors
from agentmesh.memory.base import Found, KeyedStore, MemoryFilter
from agentmesh.types import MemoryItem

__all__ = ["PROTOCOL", "MemoryServer", "OwnerGoneError", "RemoteStore"]

PROTOCOL = 1
"""Version of the messages."""
MAX_FRAME_BYTES = 64 * 1024 * 1024
"""Bytes of one message."""
MAX_GREETING_BYTES = 4096
"""Bytes of a message before the other side has proved itself."""
GREETING_WAIT_S = 5.0
"""Seconds for both sides to prove themselves."""
ANSWER_WAIT_S = 30.0
"""Seconds for one request and its answer."""
FLUSH_WAIT_S = 120.0
"""Seconds for a flush, which waits for the disk."""
IDLE_WAIT_S = 900.0
"""Seconds after which the server closes a connection that asks nothing."""
MAX_CONNECTIONS = 256
"""Connections at the same time; more are closed at once."""
POOL_SIZE = 8
"""Connections that one asking store uses at the same time."""
ITEMS_IN_ADD = 200
"""Items of one `add` message; a longer list goes in several."""
LARGE_BYTES = 256 * 1024
"""From here on JSON is read in a thread, for it would hold the event loop."""


class OwnerGoneError(ConnectionError):
    """The other side is not there, does not answer, or is not who it should be. Never leaves this package."""


# --- the side that owns -----------------------------------------------------------------------------------------------


class MemoryServer:
    """Answers for `store` on 127.0.0.1, to those who know `secret`."""

    def __init__(self, store: KeyedStore, *, dimensions: int, secret: str) -> None:
        self.store, self.dimensions, self._secret = store, dimensions, secret
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> int:
        """Listen on a free port; which one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def aclose(self) -> None:
        """Stop listening and hang up; a request that was not answered is asked again elsewhere by its sender."""
        if self._server is None:
            return
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=GREETING_WAIT_S)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._server.wait_closed(), GREETING_WAIT_S)
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._tasks) >= MAX_CONNECTIONS:
            writer.close()
            return
        self._tasks.add(task)
        try:
            async with asyncio.timeout(GREETING_WAIT_S):
                welcome = await self._greet(reader, writer)
            while welcome:
                async with asyncio.timeout(IDLE_WAIT_S):
                    request = await _read(reader, MAX_FRAME_BYTES)
                answer = await self._answer(request)
                async with asyncio.timeout(ANSWER_WAIT_S):
                    await _write(writer, answer)
        except (OSError, EOFError, TimeoutError, ValueError):
            pass  # whoever it was left, fell silent, or speaks something else: the owner goes on
        except asyncio.CancelledError:
            pass  # the owner closes; this task ends here
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the other side knows the secret."""
        nonce = secrets.token_hex(16)
        await _write(writer, _pack({"protocol": PROTOCOL, "nonce": nonce}))
        hello = await _read(reader, MAX_GREETING_BYTES)
        if not hmac.compare_digest(_proof(self._secret, "asks", nonce), str(hello.get("proof", ""))):
            return False
        about = {
            "proof": _proof(self._secret, "owns", str(hello.get("nonce", ""))),
            "embedder": self.store.embedder_name,
            "dimensions": self.dimensions,
            "pid": os.getpid(),
        }
        await _write(writer, _pack(about))
        return True

    async def _answer(self, request: Mapping[str, Any]) -> bytes:
        try:
            result = await self._do(request)
            if isinstance(result, int):
                return _pack({"result": result})
            return await asyncio.to_thread(_pack_all, result) if len(result) > ITEMS_IN_ADD else _pack_all(result)
        except StoreError as error:
            return _pack({"error": str(error), "kind": type(error).__name__})
        except Exception as error:  # the edge of the process: whatever was asked, the owner lives on
            return _pack({"error": f"the owner of the memory failed: {error}", "kind": "StoreError"})

    async def _do(self, request: Mapping[str, Any]) -> int | Sequence[MemoryItem | Found]:
        store, tenant = self.store, str(request.get("tenant", ""))
        where = MemoryFilter.model_validate(request["where"]) if request.get("where") is not None else None
        match request.get("op"):
            case "add":
                items = [MemoryItem.model_validate(item) for item in request["items"]]
                await store.add(tenant, items, _vectors(request["vectors"], self.dimensions))
                return len(items)
            case "search":
                query = _vectors(request["query"], self.dimensions)[0]
                return await store.search(tenant, query, k=int(request["k"]), where=where)
            case "get":
                return await store.get(tenant, _names(request["ids"]))
            case "by_key":
                return await store.by_key(tenant, _names(request["keys"]))
            case "list":
                return await store.list(tenant, where)
            case "delete":
                return await store.delete(tenant, _names(request["ids"]))
            case "flush":
                return await store.flush()
            case other:
                raise StoreError(f"the owner of the memory does not know {other!r}; run the same agentmesh everywhere")


# --- the side that asks -----------------------------------------------------------------------------------------------


class RemoteStore:
    """A `MemoryStore` that another process, or another part of this one, owns.

    Every method may raise `OwnerGoneError`: the owner died or hung up; ask the next one.
    """

    def __init__(self, port: int, secret: str, embedder_name: str, dimensions: int) -> None:
        self._port, self._secret = port, secret
        self._embedder_name, self.dimensions = embedder_name, dimensions
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._slots = asyncio.Semaphore(POOL_SIZE)

    @property
    def embedder_name(self) -> str:
        return self._embedder_name

    async def hello(self) -> None:
        """Connect once, so that a wrong port, secret or embedder shows now.

        Raises:
            StoreError: If the owner embeds otherwise or speaks another version.
        """
        self._idle.append(await self._connect())

    async def add(self, tenant: str, items: Sequence[MemoryItem], vectors: NDArray[np.float32]) -> None:
        vectors = check_vectors(vectors, count=len(items), dimensions=self.dimensions, embedder=self._embedder_name)
        for low in range(0, len(items), ITEMS_IN_ADD):
            part = [item.model_dump(mode="json", exclude_none=True) for item in items[low : low + ITEMS_IN_ADD]]
            await self._ask(op="add", tenant=tenant, items=part, vectors=_text(vectors[low : low + ITEMS_IN_ADD]))

    async def search(
        self, tenant: str, query: NDArray[np.float32], *, k: int, where: MemoryFilter | None = None
    ) -> list[Found]:
        query = check_query(query, dimensions=self.dimensions, embedder=self._embedder_name)
        found = await self._ask(op="search", tenant=tenant, query=_text(query), k=k, where=_filter(where))
        return [Found(MemoryItem.model_validate(item), float(similarity)) for item, similarity in found]

    async def get(self, tenant: str, ids: Sequence[str]) -> list[MemoryItem]:
        return [MemoryItem.model_validate(i) for i in await self._ask(op="get", tenant=tenant, ids=list(ids))]

    async def by_key(self, tenant: str, keys: Sequence[str]) -> Sequence[MemoryItem]:
        return [MemoryItem.model_validate(i) for i in await self._ask(op="by_key", tenant=tenant, keys=list(keys))]

    async def delete(self, tenant: str, ids: Sequence[str]) -> int:
        return int(await self._ask(op="delete", tenant=tenant, ids=list(ids)))

    async def flush(self) -> int:
        """Have the owner write to disk what all its askers added."""
        return int(await self._ask(FLUSH_WAIT_S, op="flush"))

    async def list(self, tenant: str, where: MemoryFilter | None = None) -> list[MemoryItem]:
        found = await self._ask(op="list", tenant=tenant, where=_filter(where))
        return [MemoryItem.model_validate(item) for item in found]

    async def aclose(self) -> None:
        while self._idle:
            self._idle.pop()[1].close()

    async def _ask(self, wait_s: float = ANSWER_WAIT_S, /, **request: Any) -> Any:
        frame = _pack(request)
        async with self._slots:
            connection = self._idle.pop() if self._idle else await self._connect()
            try:
                async with asyncio.timeout(wait_s):
                    await _write(connection[1], frame)
                    answer = await _read(connection[0], MAX_FRAME_BYTES)
            except (OSError, EOFError, TimeoutError, ValueError) as error:
                connection[1].close()
                raise OwnerGoneError(f"the owner of the memory hung up ({error!r})") from error
            except BaseException:
                connection[1].close()  # cancelled half-way: what comes next on it answers another question
                raise
            self._idle.append(connection)
        if "error" in answer:
            kinds = {"StoreLockedError": StoreLockedError, "StoreVersionError": StoreVersionError}
            raise kinds.get(answer.get("kind", ""), StoreError)(str(answer["error"]))
        return answer.get("result")

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(GREETING_WAIT_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                theirs = await _read(reader, MAX_GREETING_BYTES)
                if theirs.get("protocol") != PROTOCOL:
                    raise OwnerGoneError("what listens there is no memory owner of this version")
                nonce = secrets.token_hex(16)
                proof = _proof(self._secret, "asks", str(theirs.get("nonce", "")))
                await _write(writer, _pack({"proof": proof, "nonce": nonce}))
                about = await _read(reader, MAX_GREETING_BYTES)
                if not hmac.compare_digest(_proof(self._secret, "owns", nonce), str(about.get("proof", ""))):
                    raise OwnerGoneError("what listens there does not know the owner's secret")
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            if writer is not None:
                writer.close()
            raise OwnerGoneError(f"the owner of the memory cannot be reached ({error!r})") from error
        except BaseException:
            if writer is not None:
                writer.close()
            raise
        theirs_are = (about.get("embedder"), about.get("dimensions"))
        if theirs_are != (self._embedder_name, self.dimensions):
            writer.close()
            raise StoreError(
                f"process {about.get('pid')} holds this memory with the embedder {theirs_are[0]!r} ({theirs_are[1]} "
                f"dimensions), not {self._embedder_name!r} ({self.dimensions}); use that `memory.embedder` or stop it"
            )
        return reader, writer


# --- messages ---------------------------------------------------------------------------------------------------------


async def _read(reader: asyncio.StreamReader, most: int) -> dict[str, Any]:
    """The next message; `ValueError` if it is too large or no JSON object, `EOFError` at the end."""
    size = int.from_bytes(await reader.readexactly(4), "big")
    if size > most:
        raise ValueError(f"a message of {size} bytes; at most {most} are taken")
    data = await reader.readexactly(size)
    message: object = await asyncio.to_thread(json.loads, data) if size > LARGE_BYTES else json.loads(data)
    if not isinstance(message, dict):
        raise ValueError("a message that is no JSON object")
    return cast("dict[str, Any]", message)


async def _write(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(frame)
    await writer.drain()


def _pack(message: Mapping[str, Any]) -> bytes:
    data = json.dumps(message).encode()
    if len(data) > MAX_FRAME_BYTES:
        raise StoreError(
            f"{len(data) // 2**20} MB of memory do not fit one message ({MAX_FRAME_BYTES // 2**20} MB); ask for less"
        )
    return len(data).to_bytes(4, "big") + data


def _pack_all(result: Sequence[MemoryItem | Found]) -> bytes:
    return _pack({"result": [_plain(value) for value in result]})


def _plain(value: MemoryItem | Found) -> Any:
    if isinstance(value, Found):
        return [_plain(value.item), value.similarity]
    return value.model_dump(mode="json", exclude_none=True)


def _proof(secret: str, role: str, nonce: str) -> str:
    return hmac.new(secret.encode(), f"{role}:{nonce}".encode(), hashlib.sha256).hexdigest()


def _text(vectors: NDArray[np.float32]) -> str:
    return base64.b64encode(vectors.astype("<f4").tobytes()).decode()


def _vectors(text: object, dimensions: int) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(str(text), validate=True), "<f4").astype(np.float32).reshape(-1, dimensions)


def _filter(where: MemoryFilter | None) -> dict[str, Any] | None:
    return where.model_dump(mode="json") if where is not None else None


def _names(value: object) -> Sequence[str]:
    if not isinstance(value, list):
        raise StoreError("a request to the owner of the memory lacks its list of names")
    return [str(name) for name in cast("list[object]", value)]
