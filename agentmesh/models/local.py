"""A GGUF file in this process through llama.cpp (package xllamacpp). Nothing leaves the machine; calls cost nothing.

llama.cpp runs in threads of its own and without Python's lock, so the event loop goes on. Its server also listens on a
loopback port, which it cannot be told not to do: that port asks for a secret that only this process knows.
"""

import asyncio
import atexit
import importlib
import os
import secrets
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from agentmesh.errors import ConfigError, ModelError, ModelRequestError, ModelTimeoutError, ModelWeightsError
from agentmesh.models.base import ChatChunk, ChatReply, ChatRequest, ModelInfo
from agentmesh.models.weights import WEIGHTS, find_weights
from agentmesh.models.wire import ReplyBuilder, one_line, to_wire
from agentmesh.settings import ModelSettings
from agentmesh.types import Usage

__all__ = ["Endpoint", "LocalChatModel"]

SLOTS = 2
"""Calls that are decoded together, unless `options.slots` says otherwise."""
CONTEXT_TOKENS = 4096
"""Prompt and completion of one call, unless the settings say otherwise; the embedded model takes 23 KiB a token."""
BATCH_TOKENS = 128
"""Tokens of a prompt that are read at a time. A call can be given up between two batches and between two tokens."""
WAIT_S = 0.05
"""Seconds between two looks of a waiting call at whether it was given up."""


@dataclass(frozen=True)
class Endpoint:
    """The loopback port of a loaded model; speaks the OpenAI chat format over HTTP."""

    url: str
    secret: str = field(repr=False)
    """What it takes as the bearer token; made anew for every load."""


class LocalChatModel:
    """Answers with a model on this machine.

    Args:
        name: As in the settings.
        settings: `model` is `embedded`, `gguf:/path` or `hf:owner/repo/file.gguf`; `options` may hold `slots` (calls at
            the same time), `threads` (of the processor; absent: half of them, for with two busy cores a second thread
            waits more than it computes) and sampling parameters of llama.cpp.

    Raises:
        ConfigError: If an option is wrong.
    """

    def __init__(self, name: str, settings: ModelSettings) -> None:
        self._name, self._settings = name, settings
        options = dict(settings.options)
        self._slots = _whole(options.pop("slots", min(SLOTS, settings.max_parallel)), f"model {name!r}: options.slots")
        threads = options.pop("threads", max(1, (os.cpu_count() or 2) // 2))
        self._threads = _whole(threads, f"model {name!r}: options.threads")
        self._sampling = options
        self._context = settings.context_tokens or CONTEXT_TOKENS
        embedded = settings.model in WEIGHTS
        self._info = ModelInfo(
            name=name,
            capable=settings.capable if settings.capable is not None else not embedded,
            context_tokens=self._context,
            tokenizer=settings.model,
            tools=not embedded,
            local=True,
        )
        self._loaded: _Loaded | None = None

    @property
    def info(self) -> ModelInfo:
        return self._info

    async def complete(self, request: ChatRequest) -> ChatReply:
        # A stream underneath: only between its chunks can llama.cpp be told to stop.
        async for chunk in self._ask(request):
            if chunk.reply is not None:
                return chunk.reply
        raise AssertionError("the last chunk has the reply")

    def stream(self, request: ChatRequest) -> AsyncIterator[ChatChunk]:
        return self._ask(request)

    async def endpoint(self) -> Endpoint:
        """Where the loaded model listens; loads it if need be.

        Raises:
            ModelWeightsError: If the weights are missing or damaged.
            ConfigError: If xllamacpp is not installed.
        """
        loaded = await asyncio.to_thread(self._load)
        return Endpoint(url=loaded.server.listening_address, secret=loaded.secret)

    async def aclose(self) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            await asyncio.to_thread(_release, loaded)

    async def _ask(self, request: ChatRequest) -> AsyncIterator[ChatChunk]:
        loop = asyncio.get_running_loop()
        call, deadline = _Call(loop), loop.time() + request.timeout_s
        wire = {
            **self._sampling,
            **to_wire(request),
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_progress": True,
        }
        builder = ReplyBuilder(self._name, request)
        # Not a daemon thread: llama.cpp must not run when the interpreter goes away.
        threading.Thread(target=self._work, args=(call, wire), name=f"agentmesh-{self._name}").start()
        try:
            while True:
                # Around every wait and not around a yield: past it, the reader's own waits go on.
                async with asyncio.timeout_at(deadline):
                    chunk = await call.chunks.get()
                if chunk is None:
                    break
                if isinstance(chunk, BaseException):
                    raise self._translated(chunk) from chunk
                text = builder.add(chunk)
                if text:
                    yield ChatChunk(text=text)
        except TimeoutError as error:
            raise ModelTimeoutError(
                f"{self._name!r} did not answer within {request.timeout_s:g} s; raise the timeout, ask for fewer "
                "tokens or choose a smaller model"
            ) from error
        finally:
            call.stop.set()
        counted = builder.usage
        usage = Usage(
            calls=1,
            prompt_tokens=int(counted.get("prompt_tokens") or 0),
            completion_tokens=int(counted.get("completion_tokens") or 0),
        )
        yield ChatChunk(reply=builder.build(model=self._name, usage=usage))

    def _work(self, call: "_Call", wire: dict[str, Any]) -> None:
        """One call in its own thread: load, wait for a slot, decode, hand over every chunk."""

        def take(chunk: Any) -> bool:
            if isinstance(chunk, Mapping) and "error" in chunk:
                call.put(_LlamaError(cast("Mapping[str, Any]", chunk)["error"]))
                return True
            call.put(cast("dict[str, Any]", chunk))
            return call.given_up()

        try:
            loaded = self._load()
            while not loaded.free.acquire(timeout=WAIT_S):
                if call.given_up():
                    return
            try:
                if not call.given_up():
                    loaded.server.handle_chat_completions(wire, take)
            finally:
                loaded.free.release()
            call.put(None)
        except Exception as error:
            call.put(error)

    def _load(self) -> "_Loaded":
        """The loaded weights; shared with every other model of the same file and form."""
        with _table_lock:
            if self._loaded is not None:
                return self._loaded
            path = find_weights(self._settings.model).resolve()
            key = (path, self._slots, self._context, self._threads)
            loaded = _table.get(key)
            if loaded is None:
                loaded = _table[key] = _open(self._name, key)
            loaded.users += 1
            self._loaded = loaded
            return loaded

    def _translated(self, error: BaseException) -> Exception:
        if isinstance(error, ModelError | ConfigError):
            return error
        if isinstance(error, _LlamaError) and error.kind == "exceed_context_size_error":
            return ModelRequestError(
                f"the prompt is too long for {self._name!r}, which reads {self._context} tokens; lower the context "
                f"budget or raise `context_tokens` ({one_line(error)})"
            )
        return ModelRequestError(
            f"{self._name!r} refuses the request; check its schema and options ({one_line(error)})"
        )


class _LlamaError(Exception):
    """What llama.cpp answered instead of a completion."""

    def __init__(self, error: Any) -> None:
        facts: Mapping[str, Any] = cast("Mapping[str, Any]", error) if isinstance(error, Mapping) else {}
        self.kind = str(facts.get("type", ""))
        super().__init__(str(facts.get("message", error)))


class _Call:
    """What passes between the event loop and the thread of one call."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop, self.stop = loop, threading.Event()
        self.chunks: asyncio.Queue[dict[str, Any] | BaseException | None] = asyncio.Queue()

    def put(self, chunk: "dict[str, Any] | BaseException | None") -> None:
        """Hand over a chunk, an error, or None for the end; called in the thread."""
        try:
            self.loop.call_soon_threadsafe(self.chunks.put_nowait, chunk)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self.stop.set()

    def given_up(self) -> bool:
        """Whether nobody waits for the rest, or the interpreter is about to end."""
        return self.stop.is_set() or not threading.main_thread().is_alive()


_Key = tuple[Path, int, int, int]


@dataclass
class _Loaded:
    """Weights in memory."""

    key: _Key
    server: Any
    secret: str
    free: threading.Semaphore
    """One place per slot: llama.cpp queues further calls where they cannot be given up."""
    users: int = 0


_table: dict[_Key, _Loaded] = {}
_table_lock = threading.Lock()


def _open(name: str, key: _Key) -> _Loaded:
    path, slots, context, threads = key
    try:
        xllamacpp = cast(Any, importlib.import_module("xllamacpp"))
    except ImportError as error:
        raise ConfigError(f"the model {name!r} needs llama.cpp; run `pip install 'agentmesh[local]'`") from error
    secret = secrets.token_urlsafe(32)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {name}
    params.n_ctx, params.n_parallel = context * slots, slots
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_ram_mib = 0
    params.warmup = params.fit_params = params.ctx_shift = False
    params.verbosity = -1
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.api_keys, params.cors_origins = [secret], ""
    params.ui = params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
    params.offline = True
    try:
        server = xllamacpp.Server(params)
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelWeightsError(
            f"llama.cpp cannot load the weights at {path}; the file is damaged, of an unknown kind or too large for "
            "this machine's memory: pull it again or choose another"
        ) from error
    return _Loaded(key=key, server=server, secret=secret, free=threading.Semaphore(slots))


def _release(loaded: _Loaded) -> None:
    """Let go of the weights; the last user frees them."""
    with _table_lock:
        loaded.users -= 1
        if loaded.users == 0:
            _table.pop(loaded.key, None)


@atexit.register
def _free_all() -> None:
    """Stop llama.cpp's threads while there still is an interpreter."""
    with suppress(RuntimeError):
        _table.clear()


def _whole(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{where} is {value!r}; give a whole number from 1")
    return value
