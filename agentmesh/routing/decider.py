"""Decision endpoints: a question and choices in, a probability for each choice out. No words are written.

A decider can stand in for the language model of the router `reasoning`: a classifier behind HTTP, or anything with the
one method. `call_decider` asks it as `call_model` asks a model: journalled, counted, bounded in time, traced.
"""

import asyncio
import json
import math
import os
from collections.abc import Mapping
from typing import Any, Literal, Protocol, cast, runtime_checkable
from urllib.parse import SplitResult, urlsplit

from agentmesh.errors import (
    ConfigError,
    ModelAuthError,
    ModelError,
    ModelRateLimitError,
    ModelReplyError,
    ModelRequestError,
    ModelTimeoutError,
    ModelUnavailableError,
)
from agentmesh.run import RunContext
from agentmesh.trace.events import ModelCalled, StepFailed
from agentmesh.types import Usage

__all__ = ["NONE_CHOICE", "Decider", "HttpDecider", "call_decider"]

NONE_CHOICE = "_none"
"""The id of the choice that nothing fits. No agent can be called so: ids begin with a letter or a digit."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
MAX_REPLY_BYTES = 1024 * 1024
FIRST_WAIT_S = 0.2
"""Seconds before the first repetition; they double."""


@runtime_checkable
class Decider(Protocol):
    """Says how likely each of some choices is."""

    @property
    def name(self) -> str:
        """As in traces; without secrets."""
        ...

    async def decide(self, question: str, choices: Mapping[str, str], ctx: RunContext) -> Mapping[str, float]:
        """How likely each choice is the answer, 0 to 1, for every id of `choices` (id -> what it means).

        They add up to 1 where one choice is right, and need not where several may be.

        Raises:
            ModelError: One of its kinds; `retryable` says whether the same call may succeed later.
        """
        ...


async def call_decider(
    decider: Decider,
    question: str,
    choices: Mapping[str, str],
    ctx: RunContext,
    *,
    retries: int = 1,
    timeout_s: float = 10.0,
    first_wait_s: float = FIRST_WAIT_S,
) -> dict[str, float]:
    """Ask once, or give what the journal holds for this call; in the order of `choices`.

    Counts as a model call of unknown price.

    Args:
        decider: Whom.
        question: The text to decide about.
        choices: What may be answered: id -> what it means.
        ctx: The step that asks.
        retries: Further attempts after a failure that may pass, within the same deadline.
        timeout_s: Seconds for one attempt, cut to what is left of the step and the run.
        first_wait_s: Seconds before the first repetition.

    Raises:
        LimitError: If a budget is spent.
        ModelError: If it failed for good, or its numbers cannot be used.
    """
    call_id = ctx.next_call_id()
    entry = await ctx.journal.lookup(call_id)
    if entry is not None and entry.finished and entry.result is not None:
        scores = _checked(entry.result.get("scores"), choices, decider.name)
        _count(ctx, decider.name, call_id, 0.0, replayed=True)
        return scores
    started = ctx.clock.monotonic()
    for attempt in range(retries + 1):
        await ctx.check_budget()
        try:
            scores = await _ask_once(decider, question, choices, ctx, timeout_s)
            break
        except ModelError as error:
            wait = first_wait_s * 2**attempt
            again = error.retryable and attempt < retries and wait < ctx.seconds_left()
            kind = type(error).__name__
            ctx.emit(StepFailed(agent=ctx.agent, error=str(error), kind=kind, retry_in_s=wait if again else None))
            if not again:
                raise
            await asyncio.sleep(wait)
    else:
        raise AssertionError("the loop above breaks or raises")
    await ctx.journal.finish(call_id, "model", {"scores": scores}, wait=False)
    _count(ctx, decider.name, call_id, (ctx.clock.monotonic() - started) * 1000, replayed=False)
    return scores


class HttpDecider:
    """A decision endpoint over HTTP.

    It is sent `{"text": ..., "choices": [{"id": ..., "description": ...}, ...]}` by POST and answers with
    `{"scores": {id: number, ...}}`, a number for every id. No redirect is followed.

    Args:
        url: Where to post; https, or http on this machine.
        api_key_env: Environment variable whose value is sent as a bearer token; absent: none is sent.
        timeout_s: Seconds for one attempt.
        scores: What its numbers are: probabilities, or logits, of which the softmax is taken.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key_env: str | None = None,
        timeout_s: float = 10.0,
        scores: Literal["probabilities", "logits"] = "probabilities",
    ) -> None:
        self._url, self._api_key_env, self._scores = url, api_key_env, scores
        parts = _address(url, keyed=api_key_env is not None)
        self._local = parts.hostname in LOOPBACK
        self.name = f"decider {parts.hostname}" + (f":{parts.port}" if parts.port else "")
        if timeout_s <= 0 or not math.isfinite(timeout_s):
            raise ConfigError(f"timeout_s of the {self.name} is {timeout_s:g}; give seconds above 0")
        if scores not in ("probabilities", "logits"):
            raise ConfigError(f"scores of the {self.name} is {scores!r}; give 'probabilities' or 'logits'")
        self._timeout_s = timeout_s
        self._client: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"HttpDecider({self.name!r})"

    async def decide(self, question: str, choices: Mapping[str, str], ctx: RunContext) -> Mapping[str, float]:
        body = {"text": question, "choices": [{"id": id_, "description": text} for id_, text in choices.items()]}
        raw = await self._post(body)
        try:
            reply: object = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise ModelReplyError(f"the {self.name} answered with something that is no JSON; check its URL") from error
        found: object = cast("dict[str, object]", reply).get("scores") if isinstance(reply, dict) else None
        if not isinstance(found, dict):
            raise ModelReplyError(f'the {self.name} answered without "scores": {{id: number}}; correct the endpoint')
        numbers = _numbers(cast("dict[str, object]", found), choices, self.name)
        return _softmax(numbers) if self._scores == "logits" else numbers

    async def aclose(self) -> None:
        """Close its connections. May be called twice."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.aclose()

    async def _post(self, body: Mapping[str, Any]) -> bytes:
        """The body of a good reply, at most `MAX_REPLY_BYTES`."""
        headers = {"content-type": "application/json", **self._authorization()}
        content = json.dumps(body).encode()
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:  # connections cannot be used from another loop
            self._client, self._loop = await asyncio.to_thread(self._open), loop
        import httpx

        client: httpx.AsyncClient = self._client
        received = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                async with client.stream("POST", self._url, content=content, headers=headers) as response:
                    self._check_status(response.status_code)
                    async for piece in response.aiter_bytes():
                        received += piece
                        if len(received) > MAX_REPLY_BYTES:
                            raise ModelReplyError(f"the {self.name} answered with more than 1 MB; correct the endpoint")
        except (TimeoutError, httpx.TimeoutException) as error:
            raise ModelTimeoutError(
                f"the {self.name} did not answer within {self._timeout_s:g} s; raise its `timeout_s`"
            ) from error
        except httpx.TransportError as error:
            raise ModelUnavailableError(
                f"the {self.name} cannot be reached ({type(error).__name__}); check that it runs and its URL"
            ) from error
        except httpx.HTTPError as error:
            raise ModelReplyError(f"the {self.name} answered wrongly ({type(error).__name__}); ask again") from error
        return bytes(received)

    def _open(self) -> Any:
        """A client; importing it and reading the certificates take a moment."""
        import httpx

        # A proxy that the environment names is for the network, not for this machine.
        return httpx.AsyncClient(timeout=self._timeout_s, follow_redirects=False, trust_env=not self._local)

    def _authorization(self) -> dict[str, str]:
        if self._api_key_env is None:
            return {}
        key = os.environ.get(self._api_key_env, "").strip()
        if not key:
            raise ModelAuthError(
                f"the key of the {self.name} is missing; set the environment variable {self._api_key_env}"
            )
        if not key.isascii() or not key.isprintable():
            raise ModelAuthError(
                f"the key of the {self.name} has characters that cannot be sent; see {self._api_key_env}"
            )
        return {"authorization": f"Bearer {key}"}

    def _check_status(self, status: int) -> None:
        if status in (401, 403):
            which = self._api_key_env or "set `api_key_env`"
            raise ModelAuthError(f"the {self.name} refuses the key (HTTP {status}); check {which}")
        if status == 429:
            raise ModelRateLimitError(f"the {self.name} asks for fewer calls (HTTP 429); ask again later")
        if status >= 500:
            raise ModelUnavailableError(f"the {self.name} is down (HTTP {status}); ask again later")
        if status != 200:
            raise ModelRequestError(f"the {self.name} refuses the request (HTTP {status}); check its URL and its form")


async def _ask_once(
    decider: Decider, question: str, choices: Mapping[str, str], ctx: RunContext, timeout_s: float
) -> dict[str, float]:
    left = min(timeout_s, ctx.seconds_left())
    if left <= 0:
        raise ModelTimeoutError(f"no time is left to ask the {decider.name}; raise `limits.max_seconds`")
    if ctx.meter is not None:
        ctx.meter.begin(ctx.agent)
    try:
        async with asyncio.timeout(left):
            return _checked(await decider.decide(question, choices, ctx), choices, decider.name)
    except TimeoutError as error:
        raise ModelTimeoutError(f"the {decider.name} did not answer within {left:.1f} s; raise its time") from error
    finally:
        if ctx.meter is not None:
            ctx.meter.end(ctx.agent)


def _checked(scores: object, choices: Mapping[str, str], name: str) -> dict[str, float]:
    """A probability for every choice, or `ModelReplyError`."""
    if not isinstance(scores, Mapping):
        raise ModelReplyError(f"the {name} gave {type(scores).__name__} and no number per choice; correct it")
    numbers = _numbers(cast("Mapping[str, object]", scores), choices, name)
    for id_, number in numbers.items():
        if not 0 <= number <= 1:
            raise ModelReplyError(
                f"the {name} gave {number:g} for {id_!r}, which is no probability; if these are logits, set "
                "`scores` to 'logits'"
            )
    return numbers


def _numbers(scores: Mapping[str, object], choices: Mapping[str, str], name: str) -> dict[str, float]:
    """The finite number of every choice; further ids are passed over."""
    found: dict[str, float] = {}
    for id_ in choices:
        number = scores.get(id_)
        if isinstance(number, bool) or not isinstance(number, int | float) or not _finite(number):
            said = "no score" if number is None else "a score that is no finite number"
            raise ModelReplyError(f"the {name} gave {said} for {id_!r}; it must give a number for every choice")
        found[id_] = float(number)
    return found


def _finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond all floats
        return False


def _softmax(logits: Mapping[str, float]) -> dict[str, float]:
    top = max(logits.values(), default=0.0)
    powers = {id_: math.exp(value - top) for id_, value in logits.items()}
    total = sum(powers.values())
    return {id_: power / total for id_, power in powers.items()}


def _address(url: str, *, keyed: bool) -> SplitResult:
    """The parts of a URL that may be posted to, or `ConfigError`; the URL itself is not shown, it may hold a key."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(
            "the url of a decider is no URL; give one such as https://decide.example/v1/choose"
        ) from error
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError("the url of a decider must begin with https:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("the url of a decider may not hold a password; put it in a variable, name it in api_key_env")
    if keyed and parts.scheme == "http" and host not in LOOPBACK:
        raise ConfigError(f"the decider {host} would be sent its key in clear text; use https")
    return parts


def _count(ctx: RunContext, name: str, call_id: str, latency_ms: float, *, replayed: bool) -> None:
    usage = Usage(calls=1, cost_known=False)
    if ctx.meter is not None and not replayed:
        ctx.meter.add(usage, ctx.agent)
    ctx.emit(
        ModelCalled(call_id=call_id, agent=ctx.agent, model=name, usage=usage, latency_ms=latency_ms, replayed=replayed)
    )
