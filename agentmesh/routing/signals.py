"""What can be read off a request without deciding anything: signals, each with a confidence, and conditions over them.

Knows no agents and no rules. Every signal is cheap or bounded in time; none calls a chat model. Each is a net with
holes, which the keys of `SignalSpec` name.

Patterns run on `regex`, not on `re`: a search of `re` holds the whole process until it ends, in whatever thread it
runs. `regex` lets other threads run and stops in time.
"""

import asyncio
import inspect
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, cast

import numpy as np
import regex
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, field_validator, model_validator

from agentmesh.errors import ConfigError, MeshError, RoutingError
from agentmesh.models.base import Embedder
from agentmesh.routing.language import Language, language_confidence
from agentmesh.run import RunContext
from agentmesh.text import stem
from agentmesh.trace.redact import Redactor
from agentmesh.types import Frozen, RouteRequest, Share, Task

__all__ = [
    "OWN_DETECTORS",
    "Condition",
    "ConditionSpec",
    "Detector",
    "Held",
    "Reading",
    "SignalReader",
    "SignalSpec",
    "detected",
    "in_words",
    "judged",
    "named_in",
]

SEARCH_S = 0.5
"""Seconds that one pattern may search one text."""
DETECT_S = 5.0
"""Seconds that one detector may take for one text."""
MAX_PATTERN_CHARS = 10_000
MAX_PHRASES = 256
"""Phrases of one embedding signal."""
LIKE_AT_LEAST = 0.6
"""Cosine from which a text is like a phrase. Our choice, for the embedded vectors; see the numbers in the evidence."""
HARD_AT_LEAST = 0.53
"""From which on a text is nearer to the hard phrases: a difference of the cosines of 0.06. Our choice, likewise."""
LANGUAGE_AT_LEAST = 0.6
DETECTED_AT_LEAST = 0.5
INLINE_CHARS = 2_000
"""Texts up to this length are read in the event loop's own thread: below about 2 ms."""

Detector = Callable[[str], Any]
"""Says of a text how sure it is that it found something: a number from 0 to 1, true or false, or a list of what it
found (empty: nothing). May be async; one that is not runs in a thread."""


# --- conditions -------------------------------------------------------------------------------------------------------


def _spelled_out(value: object) -> object:
    return {"signal": value} if isinstance(value, str) else value


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class ConditionSpec(Frozen):
    """A signal, or other conditions joined: exactly one key."""

    signal: str | None = Field(default=None, min_length=1)
    """The name of a signal; plain text is short for it."""
    all: "tuple[Condition, ...] | None" = Field(default=None, min_length=1)
    """Each of them holds."""
    any: "tuple[Condition, ...] | None" = Field(default=None, min_length=1)
    """At least one of them holds."""
    not_: "Condition | None" = Field(default=None, alias="not")
    """It does not hold."""

    @model_validator(mode="after")
    def _one_key(self) -> "ConditionSpec":
        if sum(key is not None for key in (self.signal, self.all, self.any, self.not_)) != 1:
            raise ValueError("needs exactly one of `all`, `any`, `not`, or the name of a signal")
        return self


Condition = Annotated[ConditionSpec, BeforeValidator(_spelled_out, json_schema_input_type=str | ConditionSpec)]
ConditionSpec.model_rebuild()


@dataclass(frozen=True)
class Reading:
    """What one signal says about one request."""

    confidence: float
    """0 to 1."""
    matched: bool
    """Whether that is enough."""
    found: tuple[str, ...] = ()
    """Which entries of the file matched; never text of the user."""

    def as_json(self) -> dict[str, Any]:
        """For the evidence of a decision."""
        shown: dict[str, Any] = {"confidence": round(self.confidence, 4), "matched": self.matched}
        return {**shown, "found": list(self.found)} if self.found else shown


@dataclass(frozen=True)
class Held:
    """Whether a condition holds, how sure that is, and by which signals."""

    matched: bool
    confidence: float
    by: tuple[str, ...]


def judged(condition: ConditionSpec, readings: Mapping[str, Reading]) -> Held:
    """Whether a condition holds over these readings.

    The confidence is that of fuzzy logic: the least of `all`, the greatest of `any` that holds, the rest to 1 of
    `not`. Whether it holds follows from what matched alone. Our choice.
    """
    if condition.signal is not None:
        reading = readings[condition.signal]
        return Held(reading.matched, reading.confidence, (condition.signal,) if reading.matched else ())
    if condition.not_ is not None:
        inner = judged(condition.not_, readings)
        return Held(not inner.matched, 1.0 - inner.confidence, () if inner.matched else (in_words(condition),))
    parts = [judged(part, readings) for part in condition.all or condition.any or ()]
    holding = [part for part in parts if part.matched]
    if condition.all is not None:
        matched = len(holding) == len(parts)
        confidence = min(part.confidence for part in parts)
    else:
        matched = bool(holding)
        confidence = max(part.confidence for part in holding or parts)
    return Held(matched, confidence, tuple(dict.fromkeys(n for part in holding for n in part.by)) if matched else ())


def named_in(
    condition: ConditionSpec, steps: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every signal that a condition names, with the path of keys to it."""
    if condition.signal is not None:
        yield steps, condition.signal
    if condition.not_ is not None:
        yield from named_in(condition.not_, (*steps, "not"))
    for key, parts in (("all", condition.all), ("any", condition.any)):
        for place, part in enumerate(parts or ()):
            yield from named_in(part, (*steps, key, place))


def in_words(condition: ConditionSpec) -> str:
    """`invoice and not (staff or test)`."""
    if condition.signal is not None:
        return condition.signal
    if condition.not_ is not None:
        said = in_words(condition.not_)
        return f"not ({said})" if " " in said else f"not {said}"
    parts = [in_words(part) for part in condition.all or condition.any or ()]
    joined = (" and " if condition.all is not None else " or ").join(f"({p})" if " " in p else p for p in parts)
    return joined


# --- the format of a signal -------------------------------------------------------------------------------------------

Texts = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(_listed, json_schema_input_type=str | tuple[str, ...]),
]
"""One text or several."""

_KINDS: dict[str, tuple[str, ...]] = {
    "keywords": ("needed", "history"),
    "pattern": ("ignore_case", "history"),
    "like": ("unlike", "at_least", "history"),
    "hard": ("easy", "at_least", "history"),
    "language": ("at_least",),
    "length": ("min_chars", "max_chars"),
    "turns": ("min_turns", "max_turns"),
    "tenant": (),
    "user": (),
    "detector": ("at_least", "history"),
    "when": (),
}
"""Kinds of signals, each with the further keys that it takes; `length` and `turns` have no key of their own name."""
_BARE = ("length", "turns")


class SignalSpec(Frozen):
    """One signal: exactly one kind, with the keys that belong to it."""

    keywords: Texts = ()
    """Words and phrases, whole ones; capitals, accents' form and English endings make no difference. Other languages'
    endings do. Chinese, Japanese and Thai, which write no spaces, are searched character by character."""
    needed: int = Field(default=1, ge=1)
    """Of `keywords`, how many different ones must stand in the text; fewer are a confidence below 1."""
    pattern: Texts = ()
    """Regular expressions, one of which must match."""
    ignore_case: bool = True
    """Of `pattern`."""
    like: Texts = Field(default=(), max_length=MAX_PHRASES)
    """Phrases; the confidence is the cosine to the nearest one."""
    unlike: Texts = Field(default=(), max_length=MAX_PHRASES)
    """Phrases; 0 if one of these is at least as near as any of `like`."""
    hard: Texts = Field(default=(), max_length=MAX_PHRASES)
    """Hard questions; with `easy` ones the confidence is by how much the nearest hard one is nearer than the nearest
    easy one: 1/2 + (cosine - cosine) / 2. How hard a text is, whatever it is about, if both lists are about the same
    things."""
    easy: Texts = Field(default=(), max_length=MAX_PHRASES)
    """Easy questions; swap the two lists for a signal of what is easy."""
    language: Annotated[
        tuple[Language, ...], BeforeValidator(_listed, json_schema_input_type=Language | tuple[Language, ...])
    ] = ()
    """One or several ISO 639-1 codes. By script and frequent small words: a text of fewer than two such words, or of
    names or code, says nothing; relatives that are not known (Danish, Bulgarian) are taken for their neighbours."""
    min_chars: int | None = Field(default=None, ge=0)
    """Characters of the message, blank space at the ends not counted."""
    max_chars: int | None = Field(default=None, ge=0)
    min_turns: int | None = Field(default=None, ge=1)
    """Messages of the user in the conversation, this one among them."""
    max_turns: int | None = Field(default=None, ge=1)
    tenant: Texts = ()
    """Names; `*` stands for any characters."""
    user: Texts = ()
    """Names; `*` stands for any characters. A role is the list of its users; nobody is no user."""
    detector: str | None = Field(default=None, min_length=1)
    """`secret`, what the mesh offers besides (`jailbreak`, `injection`, `personal`), or "module:attribute" of a
    `Detector`."""
    when: Condition | None = None
    """A condition over other signals, to be named once and used often."""
    at_least: Share | None = None
    """Confidence from which it counts as matched; absent: 0.6 of `like` and `language`, 0.53 of `hard`,
    0.5 of `detector`."""
    history: bool = False
    """Whether the earlier messages of the user are read, too; the surest one counts."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            if len(pattern) > MAX_PATTERN_CHARS:
                raise ValueError(f"has {len(pattern)} characters, at most {MAX_PATTERN_CHARS} are taken; split it")
            shown = pattern if len(pattern) <= 40 else pattern[:39] + "…"
            try:
                empty = cast("Any", regex).compile(pattern).search("", timeout=SEARCH_S)
            except (regex.error, ValueError, OverflowError, RecursionError, MemoryError, TimeoutError) as error:
                raise ValueError(
                    f"{shown!r} does not compile: {error}; correct it, best between single quotes"
                ) from error
            if empty:
                raise ValueError(f"{shown!r} matches the empty text, so always; let it ask for one character at least")
        return patterns

    @field_validator("keywords")
    @classmethod
    def _words(cls, keywords: tuple[str, ...]) -> tuple[str, ...]:
        for keyword in keywords:
            if not _tokens(keyword):
                raise ValueError(f"{keyword!r} holds no word; take it out")
        return keywords

    @model_validator(mode="after")
    def _one_kind(self) -> "SignalSpec":
        kinds = self._kinds
        if len(kinds) != 1:
            known = ", ".join(f"`{k}`" for k in _KINDS if k not in _BARE)
            said = f"has {' and '.join(kinds)}" if kinds else "says nothing"
            raise ValueError(f"{said}; give exactly one of {known}, characters or turns")
        if wrong := sorted(self._given - {kinds[0], *_KINDS[kinds[0]]}):
            raise ValueError(f"`{wrong[0]}` does not belong to `{kinds[0]}`; take it out")
        if self.hard and not self.easy:
            raise ValueError("`hard` needs `easy`, questions about the same things that are; add some")
        if self.needed > len({_tokens(k) for k in self.keywords} or {()}):
            raise ValueError(f"`needed` is {self.needed}, but there are only {len(self.keywords)} keywords")
        for least, most, unit in ((self.min_chars, self.max_chars, "chars"), (self.min_turns, self.max_turns, "turns")):
            if least is not None and most is not None and least > most:
                raise ValueError(f"`min_{unit}` is above `max_{unit}`; swap them")
        return self

    @property
    def kind(self) -> str:
        """What is read off: a key, `length` or `turns`."""
        return self._kinds[0]

    @property
    def _given(self) -> set[str]:
        return {name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default}

    @property
    def _kinds(self) -> list[str]:
        given = self._given
        return [k for k in _KINDS if k in given or (k in _BARE and given & set(_KINDS[k]))]


# --- reading ----------------------------------------------------------------------------------------------------------


_REDACTOR = Redactor()


def _secret(text: str) -> bool:
    return _REDACTOR.text(text) != text


OWN_DETECTORS: Mapping[str, Detector] = {"secret": _secret}
"""`secret`: keys and passwords of a well-known shape, as the trace takes them out."""


class SignalReader:
    """Reads the signals of a rule file off requests.

    Args:
        specs: By name; conditions among them name only these and do not need themselves (`RuleBook` checks that).
        embedder: For `like` and `hard`.
        detectors: By the name that `detector` has.

    Raises:
        ConfigError: If a signal needs an embedder and there is none.
    """

    def __init__(
        self, specs: Mapping[str, SignalSpec], *, embedder: Embedder | None, detectors: Mapping[str, Detector]
    ) -> None:
        self._specs, self._embedder, self._detectors = dict(specs), embedder, dict(detectors)
        self._of: dict[str, dict[str, SignalSpec]] = {kind: {} for kind in _KINDS}
        for name, spec in specs.items():
            self._of[spec.kind][name] = spec
        if (by_meaning := [*self._of["like"], *self._of["hard"]]) and embedder is None:
            name = by_meaning[0]
            raise ConfigError(f"the signal {name!r} compares by meaning, which needs an embedder; give one")
        self._keywords = {name: _Keywords(spec) for name, spec in self._of["keywords"].items()}
        self._patterns = {
            name: [cast("Any", regex).compile(p, regex.IGNORECASE if spec.ignore_case else 0) for p in spec.pattern]
            for name, spec in self._of["pattern"].items()
        }
        self._phrases: dict[str, NDArray[np.float32]] = {}

    async def read(self, request: RouteRequest, ctx: RunContext) -> dict[str, Reading]:
        """Every signal, by name, in the order of the file.

        Raises:
            RoutingError: If one could not be read, with its name: a rule that stops a run must not be passed over
                because its signal failed.
        """
        found = await self._quick(request.task)
        found |= await self._matched(request.task)
        found |= await self._alike(request.task)
        found |= await self._detected(request.task)
        while waiting := [name for name in self._of["when"] if name not in found]:
            for name in waiting:
                condition = cast(ConditionSpec, self._of["when"][name].when)
                if all(other in found for _, other in named_in(condition)):
                    held = judged(condition, found)
                    found[name] = Reading(held.confidence, held.matched)
        return {name: found[name] for name in self._specs}

    async def _quick(self, task: Task) -> dict[str, Reading]:
        """What needs nothing but the request: words, language, length, turns, names."""
        texts = _texts(task, history=True)
        if sum(map(len, texts)) <= INLINE_CHARS:
            return self._read_off(task)
        return await asyncio.to_thread(self._read_off, task)

    def _read_off(self, task: Task) -> dict[str, Reading]:
        found: dict[str, Reading] = {}
        text = task.full_text
        if self._keywords:
            now = _Text(text)
            before = [_Text(t) for t in _texts(task, history=True)[1:]] if any(
                k.spec.history for k in self._keywords.values()
            ) else []  # fmt: skip
            for name, keywords in self._keywords.items():
                readings = [keywords.read(t) for t in ([now, *before] if keywords.spec.history else [now])]
                found[name] = max(readings, key=lambda r: r.confidence)
        if self._of["language"]:
            sure = language_confidence(text)
            for name, spec in self._of["language"].items():
                found[name] = _reading(sum(sure.get(code, 0.0) for code in spec.language), spec, LANGUAGE_AT_LEAST)
        for name, spec in self._of["length"].items():
            found[name] = _within(len(text.strip()), spec.min_chars, spec.max_chars)
        turns = 1 + sum(m.role == "user" for m in task.history)
        for name, spec in self._of["turns"].items():
            found[name] = _within(turns, spec.min_turns, spec.max_turns)
        for name, spec in self._of["tenant"].items():
            found[name] = _named(task.tenant, spec.tenant)
        for name, spec in self._of["user"].items():
            found[name] = _named(task.user, spec.user)
        return found

    async def _matched(self, task: Task) -> dict[str, Reading]:
        if not self._patterns:
            return {}
        return await asyncio.to_thread(self._search, task)

    def _search(self, task: Task) -> dict[str, Reading]:
        found: dict[str, Reading] = {}
        for name, patterns in self._patterns.items():
            hit = False
            for text in _texts(task, history=self._specs[name].history):
                try:
                    hit = hit or any(p.search(text, timeout=SEARCH_S, concurrent=True) for p in patterns)
                except TimeoutError:
                    raise RoutingError(
                        f"the signal {name!r} could not be read: its pattern searched longer than {SEARCH_S:g} s; "
                        "write it without repeats inside repeats"
                    ) from None
            found[name] = Reading(float(hit), hit)
        return found

    async def _alike(self, task: Task) -> dict[str, Reading]:
        """Cosines to the nearest phrases; one call of the embedder for all signals, one more at the first request."""
        signals = {**self._of["like"], **self._of["hard"]}
        if not signals:
            return {}
        embedder = cast(Embedder, self._embedder)
        texts = _texts(task, history=any(spec.history for spec in signals.values()))
        try:
            new = [p for spec in signals.values() for p in _phrases(spec) if p not in self._phrases]
            if new := list(dict.fromkeys(new)):
                self._phrases |= dict(zip(new, await embedder.embed(new), strict=True))
            vectors = await embedder.embed(texts)
        except MeshError as error:
            raise RoutingError(f"the signal {next(iter(signals))!r} could not be read: {error}") from error
        found: dict[str, Reading] = {}
        for name, spec in signals.items():
            rows = vectors if spec.history else vectors[:1]
            near, far = (
                [self._phrases[p] for p in part] for part in (spec.hard or spec.like, spec.easy or spec.unlike)
            )
            if spec.hard:
                found[name] = _reading(max(_nearer(row, near, far) for row in rows), spec, HARD_AT_LEAST)
            else:
                found[name] = _reading(max(_nearest(row, near, far) for row in rows), spec, LIKE_AT_LEAST)
        return found

    async def _detected(self, task: Task) -> dict[str, Reading]:
        signals = self._of["detector"]
        sure = await asyncio.gather(*(self._detect(name, spec, task) for name, spec in signals.items()))
        return {
            name: _reading(confidence, spec, DETECTED_AT_LEAST)
            for (name, spec), confidence in zip(signals.items(), sure, strict=True)
        }

    async def _detect(self, name: str, spec: SignalSpec, task: Task) -> float:
        detector = self._detectors[cast(str, spec.detector)]
        texts = _texts(task, history=spec.history)
        return max([await detected(name, detector, text) for text in texts])


async def detected(name: str, detector: Detector, text: str) -> float:
    """How sure a detector is about a text, 0 to 1, within `DETECT_S`.

    Raises:
        RoutingError: If it fails, is late or says something else, with the name of the signal.
    """
    try:
        async with asyncio.timeout(DETECT_S):
            if inspect.iscoroutinefunction(detector) or inspect.iscoroutinefunction(type(detector).__call__):
                said: object = await detector(text)
            elif detector is _secret and len(text) <= INLINE_CHARS:
                said = _secret(text)
            else:
                said = await asyncio.to_thread(detector, text)
                if inspect.isawaitable(said):
                    said = await said
    except TimeoutError:
        raise RoutingError(
            f"the signal {name!r} could not be read: its detector did not answer within {DETECT_S:g} s"
        ) from None
    except Exception as error:
        why = str(error) if isinstance(error, MeshError) else f"{type(error).__name__}: {error}"
        raise RoutingError(f"the signal {name!r} could not be read: {why}") from error
    return _confidence(name, said)


def _texts(task: Task, *, history: bool) -> list[str]:
    """The message with what was clarified, and the earlier ones of the user if they are wanted."""
    return [task.full_text, *(m.text for m in task.history if m.role == "user")] if history else [task.full_text]


def _reading(confidence: float, spec: SignalSpec, at_least: float) -> Reading:
    confidence = min(1.0, max(0.0, confidence))
    needed = at_least if spec.at_least is None else spec.at_least
    return Reading(confidence, confidence >= needed and confidence > 0)


def _within(value: int, least: int | None, most: int | None) -> Reading:
    holds = (least is None or value >= least) and (most is None or value <= most)
    return Reading(float(holds), holds)


def _named(name: str | None, patterns: Sequence[str]) -> Reading:
    shapes = {p: p.replace("[", "[[]").replace("?", "[?]") for p in patterns}  # only `*` is special here
    found = tuple(p for p, shape in shapes.items() if name is not None and fnmatchcase(name, shape))
    return Reading(float(bool(found)), bool(found), found)


def _nearest(
    row: NDArray[np.float32], like: Sequence[NDArray[np.float32]], unlike: Sequence[NDArray[np.float32]]
) -> float:
    """The greatest cosine to `like`, vectors of unit length; 0 if one of `unlike` is as near."""
    near = float(max(row @ phrase for phrase in like))
    return near if not unlike or near > float(max(row @ phrase for phrase in unlike)) else 0.0


def _nearer(
    row: NDArray[np.float32], hard: Sequence[NDArray[np.float32]], easy: Sequence[NDArray[np.float32]]
) -> float:
    """By how much the nearest of `hard` is nearer than the nearest of `easy`, as 1/2 and half of the difference."""
    if not row.any():
        return 0.0
    return 0.5 + float(max(row @ phrase for phrase in hard) - max(row @ phrase for phrase in easy)) / 2


def _phrases(spec: SignalSpec) -> tuple[str, ...]:
    """All that a signal compares with."""
    return (*spec.like, *spec.unlike, *spec.hard, *spec.easy)


def _confidence(signal: str, said: object) -> float:
    """What a detector says, as a number; `RoutingError` if it says something else."""
    if said is None:
        return 0.0
    if isinstance(said, int | float) and 0 <= said <= 1:  # NumPy's 64-bit floats are among them
        return float(said)
    if isinstance(said, Sized) and not isinstance(said, str | bytes):
        return float(len(said) > 0)
    what = f"{said:g}" if isinstance(said, int | float) else type(said).__name__
    raise RoutingError(f"the signal {signal!r} could not be read: its detector said {what}, not a number from 0 to 1")


# --- words ------------------------------------------------------------------------------------------------------------

_WORD = re.compile(r"[^\W_]+")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Scripts without spaces between words: Thai, Lao, Burmese, Khmer, kana, Han."""
_POSSESSIVE = re.compile(r"['’]s\b")


def _flat(text: str) -> str:
    """Lower case, compatibility forms unified, without invisible characters."""
    shown = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    return shown.casefold()


def _tokens(text: str) -> tuple[str, ...]:
    """Stems of all words; hyphens and slashes part them."""
    return tuple(stem(word) for word in _WORD.findall(_POSSESSIVE.sub("", _flat(text))))


class _Text:
    """A text as keywords see it."""

    def __init__(self, text: str) -> None:
        self.flat = "".join(_flat(text).split())
        self.joined = " " + " ".join(_tokens(text)) + " "


class _Keywords:
    def __init__(self, spec: SignalSpec) -> None:
        self.spec = spec
        self._entries = {keyword: _tokens(keyword) for keyword in spec.keywords}

    def read(self, text: _Text) -> Reading:
        found = tuple(k for k, tokens in self._entries.items() if self._stands(k, tokens, text))
        different = len({self._entries[k] for k in found})
        return Reading(min(1.0, different / self.spec.needed), different >= self.spec.needed, found)

    def _stands(self, keyword: str, tokens: tuple[str, ...], text: _Text) -> bool:
        if _UNSPACED.search(keyword):
            return "".join(_flat(keyword).split()) in text.flat
        return f" {' '.join(tokens)} " in text.joined
