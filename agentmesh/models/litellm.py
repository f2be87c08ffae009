"""Any provider through LiteLLM: its `Router` retries, cools down and falls back; we translate what goes in and out.

The only module that imports litellm, and only when a model of it is first used: that takes seconds. Its telemetry, its
download of a price list and its reading of `.env` files are off.
"""

import asyncio
import importlib
import json
import logging
import os
import re
import warnings
from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from agentmesh.errors import (
    ConfigError,
    ModelAuthError,
    ModelError,
    ModelQuotaError,
    ModelRateLimitError,
    ModelReplyError,
    ModelRequestError,
    ModelTimeoutError,
    ModelUnavailableError,
)
from agentmesh.models.base import ChatChunk, ChatReply, ChatRequest, ModelInfo
from agentmesh.models.wire import ReplyBuilder, one_line, to_wire
from agentmesh.settings import ModelSettings
from agentmesh.types import Usage

__all__ = [
    "LiteLLMChatModel",
    "LiteLLMClient",
    "known_models",
    "known_providers",
    "load_litellm",
    "missing_key",
    "translated",
]

NO_KEY = "no-key"
"""What a server that asks for no key is sent."""
_QUOTA_WORDS = ("insufficient_quota", "quota", "billing", "credit", "payment", "balance")
_BLOCKED_WORDS = ("content_policy", "content policy", "content management policy", "safety system")
_GARBAGE_WORDS = ("invalid response", "expecting value", "provider returned 'choices'", "validation error")
_PREFIX = re.compile(r"\A(?:(?:litellm\.)?\w*(?:Error|Exception|Timeout)\s*[:-]\s+)+")
_KEY_WORDS = ("api key", "api_key", "apikey", "credential")
_PROVIDERS = re.compile(r"^class LlmProviders\(.*?(?=^\S)", re.MULTILINE | re.DOTALL)
_open_clients = 0


class LiteLLMChatModel:
    """A model of any provider that LiteLLM knows.

    Args:
        name: As in the settings.
        settings: `model` is the LiteLLM id; see `ModelSettings` for the rest.
    """

    def __init__(self, name: str, settings: ModelSettings) -> None:
        self._name, self._settings = name, settings
        self._client = LiteLLMClient(name, settings)
        known = _facts_of(settings.model)
        self._info = ModelInfo(
            name=name,
            capable=settings.capable if settings.capable is not None else True,
            context_tokens=settings.context_tokens or _positive(known.get("max_input_tokens")) or 8192,
            tokenizer=settings.model,
            tools=bool(known.get("supports_function_calling", True)),
        )

    @property
    def info(self) -> ModelInfo:
        return self._info

    async def complete(self, request: ChatRequest) -> ChatReply:
        router, gate = await self._client.ready()
        builder = ReplyBuilder(self._name, request)
        with self._client.as_ours(request.timeout_s):
            async with asyncio.timeout(request.timeout_s), gate:
                completion = await router.acompletion(**self._arguments(request))
            builder.add(_as_dict(completion))
        return self._reply(builder, completion)

    async def stream(self, request: ChatRequest) -> AsyncIterator[ChatChunk]:
        router, gate = await self._client.ready()
        builder, as_ours = ReplyBuilder(self._name, request), self._client.as_ours
        # The deadline stands around every wait and not around a yield: past it, the reader's own waits go on.
        deadline = asyncio.get_running_loop().time() + request.timeout_s
        with as_ours(request.timeout_s):
            async with asyncio.timeout_at(deadline):
                await gate.acquire()
        try:
            with as_ours(request.timeout_s):
                async with asyncio.timeout_at(deadline):
                    chunks = await router.acompletion(
                        **self._arguments(request), stream=True, stream_options={"include_usage": True}
                    )
            try:
                while True:
                    with as_ours(request.timeout_s):
                        async with asyncio.timeout_at(deadline):
                            chunk = await anext(chunks, None)
                        text = builder.add(_as_dict(chunk)) if chunk is not None else ""
                    if chunk is None:
                        break
                    if text:
                        yield ChatChunk(text=text)
            finally:
                with suppress(AttributeError, RuntimeError):
                    await chunks.aclose()
        finally:
            gate.release()
        yield ChatChunk(reply=self._reply(builder, chunks))

    async def aclose(self) -> None:
        await self._client.aclose()

    def _arguments(self, request: ChatRequest) -> dict[str, Any]:
        timeout_s = min(self._settings.timeout_s, request.timeout_s)
        arguments = {**to_wire(request), "model": self._settings.model, "timeout": timeout_s}
        if request.tools:
            # LiteLLM would look for tools of its own gateway among ours, and import `mcp` below version 2 for it.
            arguments["_skip_mcp_handler"] = True
        return arguments

    def _reply(self, builder: ReplyBuilder, completion: Any) -> ChatReply:
        counted = builder.usage
        model = self._client.model_of(completion)
        prompt, written = _positive(counted.get("prompt_tokens")), _positive(counted.get("completion_tokens"))
        cost = self._cost(model, prompt, written, counted)
        usage = Usage(
            calls=1,
            prompt_tokens=prompt,
            completion_tokens=written,
            cost_usd=cost or 0.0,
            cost_known=cost is not None and bool(counted),
        )
        return builder.build(model=model, usage=usage)

    def _cost(self, model: str, prompt_tokens: int, completion_tokens: int, counted: dict[str, Any]) -> float | None:
        """US$ of one call: the settings' price, else LiteLLM's list; None where neither has one."""
        settings = self._settings
        if model == settings.model and (
            settings.usd_per_million_prompt_tokens is not None or settings.usd_per_million_completion_tokens is not None
        ):
            return (
                prompt_tokens * (settings.usd_per_million_prompt_tokens or 0.0)
                + completion_tokens * (settings.usd_per_million_completion_tokens or 0.0)
            ) / 1e6
        # Asked of LiteLLM, a model without a price costs nothing, for its router adds every deployment to the list.
        if "input_cost_per_token" not in _facts_of(model):
            return None
        litellm = load_litellm()
        try:
            known = {k: v for k, v in counted.items() if v is not None}
            prompt_usd, completion_usd = litellm.cost_per_token(model=model, usage_object=litellm.Usage(**known))
        except Exception:  # LiteLLM raises whatever a missing price runs into; not knowing a price fails no call
            return None
        return float(prompt_usd) + float(completion_usd)


class LiteLLMClient:
    """LiteLLM's router for one model and its fallbacks; opened on first use. What chat models and embedders share.

    Args:
        name: As in messages.
        settings: How to reach the model.
    """

    def __init__(self, name: str, settings: ModelSettings) -> None:
        self._name, self._settings = name, settings
        self._router: Any = None
        self._secrets: tuple[str, ...] = ()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gate, self._opening = asyncio.Semaphore(settings.max_parallel), asyncio.Lock()

    async def ready(self) -> tuple[Any, asyncio.Semaphore]:
        """The router, and the gate of the parallel calls, which belongs to one event loop.

        Raises:
            ModelAuthError: If there is no key, before any network.
            ConfigError: If LiteLLM is missing or does not take the settings.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._gate, self._opening = asyncio.Semaphore(self._settings.max_parallel), asyncio.Lock()
        async with self._opening:
            if self._router is None:
                litellm = await asyncio.to_thread(load_litellm)
                self._router = self._open(litellm)
        return self._router, self._gate

    @contextmanager
    def as_ours(self, timeout_s: float) -> Generator[None]:
        """LiteLLM's exceptions, and a deadline of `timeout_s` seconds that passed, as ours."""
        try:
            yield
        except TimeoutError as error:
            raise ModelTimeoutError(
                f"{self._name!r} did not answer within {timeout_s:g} s; raise the timeout or choose a faster model"
            ) from error
        except (ModelError, ConfigError):
            raise
        except Exception as error:
            raise translated(error, self._name, secrets=self._secrets) from error

    def model_of(self, completion: Any) -> str:
        """The LiteLLM id of the model that gave this completion; a fallback's where one was needed."""
        hidden = cast("Mapping[str, Any]", getattr(completion, "_hidden_params", None) or {})
        place = str(hidden.get("model_id", "")).rpartition("/")[2]
        models = (self._settings.model, *self._settings.fallbacks)
        return models[int(place)] if place.isdecimal() and int(place) < len(models) else models[0]

    async def aclose(self) -> None:
        """Let go of the HTTP clients, which LiteLLM keeps for all models together: the last one closes them."""
        global _open_clients
        if self._router is None:
            return
        self._router = None
        _open_clients -= 1
        if _open_clients == 0:
            litellm = load_litellm()
            await litellm.close_litellm_async_clients()
            litellm.in_memory_llm_clients_cache.flush_cache()

    def _open(self, litellm: Any) -> Any:
        global _open_clients
        settings = self._settings
        key = _find_key(self._name, settings)
        self._secrets = (key,) if key and key != NO_KEY else ()
        common: dict[str, Any] = {"timeout": settings.timeout_s, "max_retries": 0, "drop_params": True}
        own: dict[str, Any] = {**common, **settings.options, "model": settings.model}
        if settings.api_base:
            own["api_base"] = settings.api_base
        if key:
            own["api_key"] = key
        deployments: list[dict[str, Any]] = [{"model_name": settings.model, "litellm_params": own}]
        deployments += [{"model_name": m, "litellm_params": {**common, "model": m}} for m in settings.fallbacks]
        for place, deployment in enumerate(deployments):
            deployment["model_info"] = {"id": f"agentmesh/{self._name}/{place}"}
        try:
            router = litellm.Router(
                model_list=deployments,
                fallbacks=[{settings.model: list(settings.fallbacks)}] if settings.fallbacks else [],
                num_retries=settings.retries,
                cooldown_time=settings.cooldown_s,
                # Without a fallback a cooled-down model would only hide why it fails.
                disable_cooldowns=not settings.fallbacks,
                timeout=settings.timeout_s,
            )
        except Exception as error:
            raise ConfigError(
                f"model {self._name!r}: LiteLLM does not take these settings; check `model` and `options` "
                f"({one_line(_words(error), secrets=self._secrets)})"
            ) from error
        _open_clients += 1
        return router


def load_litellm() -> Any:
    """The module litellm, quiet and offline. Takes seconds the first time: call it in a thread."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")  # else it loads `.env` files into the environment
    try:
        litellm = cast(Any, importlib.import_module("litellm"))
    except ImportError as error:
        raise ConfigError("the package litellm is not installed; run `pip install litellm`") from error
    # It would print these about itself: at its first streamed chunk, and where a call is cancelled before it began.
    warnings.filterwarnings("ignore", message=".*'ChatCompletionReasoningItem'", category=UserWarning)
    warnings.filterwarnings("ignore", message=r"coroutine '\w+\.acompletion' was never", category=RuntimeWarning)
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.set_verbose = False
    litellm.drop_params = True
    litellm.disable_aiohttp_transport = True  # its sessions outlive their event loop
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return litellm


@cache
def known_models() -> Mapping[str, Mapping[str, Any]]:
    """LiteLLM's list of models with prices and limits, by id; read from its package without importing it."""
    spec = find_spec("litellm")
    if spec is None or spec.origin is None:
        return {}
    path = Path(spec.origin).parent / "model_prices_and_context_window_backup.json"
    try:
        listed = cast("dict[str, Mapping[str, Any]]", json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
    return {model: facts for model, facts in listed.items() if model != "sample_spec"}


@cache
def known_providers() -> frozenset[str]:
    """What may stand before a `/` in a model's id: LiteLLM's providers, and the owners of models that they serve.

    Read from its package without importing it; empty where the package has another form.
    """
    parts = {part for model in known_models() for part in model.split("/")[:-1]}
    spec = find_spec("litellm")
    if spec is None or spec.origin is None:
        return frozenset()
    try:
        source = (Path(spec.origin).parent / "types" / "utils.py").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return frozenset()
    listed = _PROVIDERS.search(source)
    return frozenset(parts | set(re.findall(r'= "([^"]+)"', listed[0]))) if listed else frozenset()


def _facts_of(model: str) -> Mapping[str, Any]:
    """What LiteLLM's list says of a model; empty if it does not have it."""
    known = known_models()
    return known.get(model) or known.get(model.partition("/")[2]) or {}


def _find_key(name: str, settings: ModelSettings) -> str | None:
    """The key to send: from `api_key_env`, else the provider's usual variable (None: LiteLLM reads it itself).

    Raises:
        ModelAuthError: If there is none, before any network; it names the variable to set.
    """
    if settings.api_key_env is not None:
        key = os.environ.get(settings.api_key_env, "").strip()
        if not key:
            raise ModelAuthError(f"the key of {name!r} is missing; set the environment variable {settings.api_key_env}")
        return key
    missing = missing_key(settings)
    if missing is None:
        return None
    if settings.api_base:
        return NO_KEY
    raise ModelAuthError(
        f"the key of {name!r} is missing; set the environment variable {missing}, or `api_key_env` to another one"
    )


def missing_key(settings: ModelSettings) -> str | None:
    """The provider's usual variable if this model's key should stand there and does not; blocks for seconds at first.

    Not for settings with `api_key_env`, which name a variable of their own.
    """
    if "api_key" in settings.options:
        return None
    unset = load_litellm().validate_environment(model=settings.model)["missing_keys"]
    return next((str(v) for v in unset if str(v).endswith("_API_KEY")), None)


def translated(error: Exception, name: str, *, secrets: tuple[str, ...] = ()) -> ModelError:
    """LiteLLM's exception as ours: one sentence with the model and the next step, without keys."""
    litellm = load_litellm()
    said = one_line(_words(error), secrets=secrets)
    folded = str(error).lower()
    status = getattr(error, "status_code", None)
    if isinstance(error, litellm.Timeout):
        return ModelTimeoutError(f"{name!r} did not answer in time; raise its `timeout_s` or choose a faster model")
    if isinstance(error, litellm.RateLimitError) or status in (402, 429):
        if status == 402 or any(word in folded for word in _QUOTA_WORDS):
            return ModelQuotaError(
                f"the account of {name!r} has no quota left; check its billing, or choose another model ({said})"
            )
        return ModelRateLimitError(
            f"the provider of {name!r} asks for fewer calls; lower `max_parallel` or wait ({said})"
        )
    if isinstance(error, litellm.AuthenticationError | litellm.PermissionDeniedError) or status in (401, 403):
        return ModelAuthError(f"the provider of {name!r} refuses the key; check its environment variable ({said})")
    if _is_garbage(error):
        return ModelReplyError(
            f"{name!r} answered with something that is no chat completion; check `api_base` ({said})"
        )
    if isinstance(error, litellm.ContextWindowExceededError):
        return ModelRequestError(f"the prompt is too long for {name!r}; lower the context budget ({said})")
    if isinstance(error, litellm.ContentPolicyViolationError) or any(word in folded for word in _BLOCKED_WORDS):
        return ModelRequestError(f"the provider of {name!r} blocked the content; change the question ({said})")
    if isinstance(error, litellm.NotFoundError):
        return ModelRequestError(f"the provider of {name!r} has no such model; check `model` and `api_base` ({said})")
    if isinstance(error, litellm.BadRequestError) or (
        isinstance(status, int) and 400 <= status < 500 and status != 408
    ):
        return ModelRequestError(f"the provider of {name!r} refuses the request; check `model` and `options` ({said})")
    if any(word in folded for word in _KEY_WORDS) and status is None:
        return ModelAuthError(f"the provider of {name!r} got no key; check its environment variable ({said})")
    return ModelUnavailableError(f"{name!r} cannot be reached; check the network and `api_base`, or wait ({said})")


def _is_garbage(error: BaseException) -> bool:
    """Whether the provider answered with something that could not be read."""
    litellm = load_litellm()
    if isinstance(error, litellm.APIError | litellm.InternalServerError):
        said = str(error).lower()
        if any(word in said for word in _GARBAGE_WORDS):
            return True
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None:
            return False
        if isinstance(seen, json.JSONDecodeError | litellm.APIResponseValidationError | UnicodeDecodeError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _words(error: Exception) -> str:
    """What the provider said, without LiteLLM's prefixes and its advice about fallbacks."""
    text = str(getattr(error, "message", "") or error)
    for end in (
        "LiteLLM: model group",
        "Received Model Group",
        "No fallback",
        "LiteLLM Retried",
        "model=",
        "Received: ",
        "Pass in the LLM provider",
    ):
        text = text.partition(end)[0]
    return _PREFIX.sub("", " ".join(text.split())).rstrip(". ") or type(error).__name__


def _as_dict(value: Any) -> Mapping[str, Any]:
    """A completion or chunk of LiteLLM as plain values."""
    if isinstance(value, Mapping):
        return cast("Mapping[str, Any]", value)
    if hasattr(value, "model_dump"):
        return cast("Mapping[str, Any]", value.model_dump())
    raise ModelReplyError(
        f"LiteLLM gave a {type(value).__name__} instead of a completion; check `model` and `api_base`"
    )


def _positive(value: Any) -> int:
    """A count of tokens, or 0."""
    return int(value) if isinstance(value, int | float) and value > 0 else 0
