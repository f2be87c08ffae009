"""What a project may set: arguments, then `AGENTMESH_*`, then the project file. Frozen and closed; read once.

The project file is `agentmesh.toml`, or `[tool.agentmesh]` of `pyproject.toml`. Nested keys are written with two
underscores in the environment: `AGENTMESH_CONTEXT__BUDGET_TOKENS=800`. `AGENTMESH_MODEL=...` is short for the default
model. Secrets stay in the providers' own variables and never stand here.

The environment is read by plain code, not by pydantic-settings: that reads `os.environ` only, drops names it does not
know, and cannot say which variable a wrong value came from; importing it takes 0.2 s.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_origin

from pydantic import BaseModel, BeforeValidator, Field, ValidationInfo, field_validator

from agentmesh.errors import ProjectError
from agentmesh.mistakes import (
    Mistake,
    Place,
    Steps,
    dotted,
    looks_secret,
    names_secret,
    place,
    shown,
    suggest,
    validated,
)
from agentmesh.run import Limits
from agentmesh.types import Frozen, Sensitive

__all__ = [
    "SETTINGS_FILE",
    "Budget",
    "BudgetSettings",
    "ContextSettings",
    "GuardrailSettings",
    "MemorySettings",
    "MeshSettings",
    "ModelSettings",
    "RoutingSettings",
    "SettingsReading",
    "TraceSettings",
    "load_settings",
    "read_settings",
]

PREFIX = "AGENTMESH_"
RESERVED = frozenset({"AGENTMESH_CACHE"})
"""Variables of this prefix that are no setting: where weights are cached."""
SETTINGS_FILE = "agentmesh.toml"
"""Goes before `[tool.agentmesh]` of `pyproject.toml`."""
MAX_FILE_BYTES = 1024 * 1024
"""Bytes of a settings file."""


class ModelSettings(Frozen):
    """One language model by name."""

    model: str
    """`embedded`, `gguf:/path/to/file.gguf`, `hf:owner/repo/file.gguf`, `scripted`, or any LiteLLM id such as
    `openai/gpt-5-mini`."""
    capable: bool | None = None
    """Whether its words can be trusted to follow instructions; absent: no for `embedded`, yes otherwise."""
    context_tokens: int | None = Field(default=None, ge=512)
    """Prompt and completion together; absent: what is known of the model."""
    api_base: str | None = None
    """URL of an OpenAI-compatible server or a provider's proxy."""
    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds the key; absent: the provider's usual one."""
    fallbacks: tuple[str, ...] = ()
    """LiteLLM ids to try in order when this model fails."""
    retries: int = Field(default=2, ge=0, le=10)
    """Attempts after the first that the model client makes on its own."""
    cooldown_s: float = Field(default=30.0, ge=0)
    """Seconds that a deployment that keeps failing is left alone."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Seconds for one attempt."""
    max_parallel: int = Field(default=8, ge=1)
    """Calls of this model at the same time; the embedded model takes one per slot."""
    usd_per_million_prompt_tokens: float | None = Field(default=None, ge=0)
    usd_per_million_completion_tokens: float | None = Field(default=None, ge=0)
    """Price, where LiteLLM's list does not have it."""
    options: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Passed on to the provider as they are."""


def _spelled_out(value: object) -> object:
    return {"model": value} if isinstance(value, str) else value


ModelChoice = Annotated[ModelSettings, BeforeValidator(_spelled_out, json_schema_input_type=str | ModelSettings)]
"""A model, or its `model` alone as plain text."""


class RoutingSettings(Frozen):
    """How agents are chosen."""

    router: str = "semantic"
    """A short name or "module:attribute"."""
    max_agents: int = Field(default=3, ge=1, le=64)
    """Most agents for one task."""
    model: str = "default"
    """Name of the model that routers ask which do ask one (`reasoning`)."""
    options: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Arguments of the router. Where it takes other routers (`shortlist`, `fallback`, `steps`), they stand by name."""
    routers: dict[str, dict[str, Any]] = Field(default_factory=dict[str, dict[str, Any]])
    """Arguments of further routers by name, of those that `options` or a graph name."""
    rules: str | None = Field(default=None, min_length=1)
    """A YAML or TOML file of rules over signals, relative to the project; they hold around every router that a mesh
    asks, whichever it is."""
    withhold: Annotated[tuple[Sensitive, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)] | None = (
        None
    )
    """Kinds of sensitive data that an agent is sent only if its card `allows` them: `secret`, `personal`. Absent:
    `secret`, and `personal` as soon as some card allows it; an empty list: neither."""


class ContextSettings(Frozen):
    """What agents read."""

    router: str = "role_aware"
    budget_tokens: int | None = Field(default=None, ge=64)
    """Tokens of memory for one agent in one round; absent: its role's own. `AGENTMESH_CONTEXT__BUDGET_TOKENS`."""
    half_life_rounds: float = Field(default=2.0, gt=0)
    """Rounds after which the recency part of a score halves."""
    options: dict[str, Any] = Field(default_factory=dict[str, Any])


class MemorySettings(Frozen):
    """Where shared memory lives."""

    embedder: str = "wordllama"
    """`wordllama`, `minilm`, or `litellm:<model id>`."""
    knowledge: tuple[str, ...] = ("memory/knowledge",)
    """Folders with seed knowledge, relative to the project."""
    hot_items: int = Field(default=20_000, ge=0)
    """Items of one tenant that are kept in arrays; a larger tenant is searched on disk."""
    owner_wait_s: float = Field(default=5.0, gt=0)
    """Seconds to wait for the process that owns the store."""


class TraceSettings(Frozen):
    """What is recorded of runs."""

    enabled: bool = True
    keep_prompts: bool = False
    """Whether prompts and raw replies stand in the trace."""
    keep_runs: int = Field(default=1000, ge=1)
    """Checkpoints of this many newest finished runs are kept."""


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


GuardrailPlace = Literal["input", "output", "memory"]


class GuardrailSettings(Frozen):
    """One check on texts. Checks run in the order of the file."""

    rule: str = Field(min_length=1)
    """`pattern`, `words`, `secrets`, `personal`, `injection`, `length`, or "module:attribute": a function, a class."""
    name: str = ""
    """What the trace calls it; empty: as the rule."""
    where: Annotated[
        tuple[GuardrailPlace, ...] | None,
        BeforeValidator(_listed, json_schema_input_type=GuardrailPlace | tuple[GuardrailPlace, ...] | None),
    ] = None
    """One place or several; absent: where the rule looks usually."""
    action: Literal["block", "redact", "flag", "ask"] | None = None
    """What becomes of a text in which it finds something; absent: the rule's own. `ask` stops the run until a person
    has decided, which cannot be done in the middle of a memory write."""
    on_error: Literal["block", "flag"] = "block"
    """What becomes of a text that it could not check, because it failed or was late."""
    timeout_s: float = Field(default=5.0, gt=0, le=60)
    """Seconds for one check."""
    options: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Arguments of the rule, e.g. `pattern` or `words`."""

    @field_validator("where")
    @classmethod
    def _somewhere(cls, where: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if where == ():
            raise ValueError("names no place; give input, output or memory, or take the key out")
        return where

    @field_validator("action")
    @classmethod
    def _somebody_to_ask(cls, action: str | None, info: ValidationInfo) -> str | None:
        if action == "ask" and "memory" in (info.data.get("where") or ()):
            raise ValueError(
                "nobody can be asked in the middle of a memory write; use 'block', or take 'memory' out of `where`"
            )
        return action


class Budget(Frozen):
    """What one agent, user or tenant may spend on model calls in a period. A bound of 0: no model is called at all."""

    max_usd: float | None = Field(default=None, ge=0)
    """US$; absent: no bound. A call whose model has no known price costs 0 here, which the trace says."""
    max_tokens: int | None = Field(default=None, ge=0)
    """Prompt and completion tokens; absent: no bound."""
    max_calls: int | None = Field(default=None, ge=0)
    """Model calls; absent: no bound."""
    per: Literal["run", "day", "month", "total"] = "day"
    """The period: each run, each day or month (UTC), or all time."""


class BudgetSettings(Frozen):
    """Budgets by name. `*` stands for every name that is not listed, each with an account of its own.

    A budget without bounds only counts, so that `agentmesh budgets` shows it. Nothing is counted for who has none.
    """

    agents: dict[str, Budget] = Field(default_factory=dict[str, Budget])
    """By agent id. Over its own budget, an agent gives no answer and the others go on."""
    users: dict[str, Budget] = Field(default_factory=dict[str, Budget])
    """By user name; the same name in two tenants has two accounts."""
    tenants: dict[str, Budget] = Field(default_factory=dict[str, Budget])
    """By tenant name. `AGENTMESH_BUDGETS__TENANTS='{"acme": {"max_usd": 1}}'`"""


class MeshSettings(Frozen):
    """Everything a project may set."""

    models: dict[str, ModelChoice] = Field(default_factory=dict[str, ModelSettings], validate_default=True)
    """Models by name; agents name them in their cards. `default` is what every agent uses that names none; absent:
    the embedded one. Plain text is short for its `model`."""
    refiner: str = "auto"
    """`auto` (a capable model if there is one, else extractive), `extractive`, `model`, or "module:attribute"."""
    refiner_model: str = "default"
    """Name of the model that refines."""
    durable: bool = True
    """Whether runs are checkpointed on disk."""
    home: Path = Path(".agentmesh")
    """State of the project, relative to its folder."""
    watch: bool = True
    """Whether cards that are added, changed or removed in `agents/` count from the next question on."""
    limits: Limits = Limits()
    """Of every run that sets none itself."""
    budgets: BudgetSettings = BudgetSettings()
    """Over many runs: of agents, users and tenants."""
    routing: RoutingSettings = RoutingSettings()
    context: ContextSettings = ContextSettings()
    memory: MemorySettings = MemorySettings()
    trace: TraceSettings = TraceSettings()
    guardrails: tuple[GuardrailSettings, ...] = ()
    """Checks on questions, answers and memory writes, in this order; `[[guardrails]]` in the file."""

    @field_validator("models")
    @classmethod
    def _with_default(cls, models: dict[str, ModelSettings]) -> dict[str, ModelSettings]:
        return {"default": ModelSettings(model="embedded"), **models}


# --- loading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SettingsReading:
    """What a folder's settings say, all mistakes included."""

    settings: MeshSettings
    """The defaults where there are mistakes."""
    mistakes: tuple[Mistake, ...] = ()
    origins: Mapping[Steps, str] = field(default_factory=dict[Steps, str])
    """Where each value was set: a file, a variable or `argument`."""
    values: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    """What was set, as it was written: names in it can be checked beside mistakes."""

    def mistake(self, steps: Steps, text: str) -> Mistake:
        """A mistake in the value at this path, with the place that set it."""
        return _located(self.origins, steps, text)


def load_settings(
    folder: Path, *, environ: Mapping[str, str], overrides: Mapping[str, Any] | None = None
) -> MeshSettings:
    """The settings of the project in `folder`: arguments, then `AGENTMESH_*`, then its file, then the defaults.

    The file is `agentmesh.toml` if there is one, else `[tool.agentmesh]` of `pyproject.toml`. A later layer changes
    single keys of an earlier one, but plain text for a model (`models.small = "..."`, `AGENTMESH_MODEL`) replaces that
    whole entry: a key, a price or `capable` said of another model does not carry over. An empty variable is not set.

    Args:
        folder: The project.
        environ: The environment; only names that begin with `AGENTMESH_` are read.
        overrides: Arguments, nested like the settings; `model` is short for `models.default`. None is not set.

    Raises:
        ProjectError: If anything is wrong, with every mistake, one a line.
    """
    reading = read_settings(folder, environ=environ, overrides=overrides)
    if reading.mistakes:
        raise ProjectError([str(m) for m in reading.mistakes])
    return reading.settings


def read_settings(
    folder: Path, *, environ: Mapping[str, str], overrides: Mapping[str, Any] | None = None
) -> SettingsReading:
    """As `load_settings`, with the mistakes as values and the place where each setting came from."""
    mistakes: list[Mistake] = []
    layers = _Layers()
    for name, values in _file_layer(folder, mistakes):
        layers.add(name, _without_secrets(name, values, mistakes))
    for variable, steps, value in _variables(environ, mistakes):
        layers.add(variable, _nested(steps, value))
    layers.add("argument", _without_secrets("argument", _set_only(overrides or {}), mistakes))

    settings, found = validated(MeshSettings, layers.values)
    mistakes += [_located(layers.origins, steps, text) for steps, text in found]
    ok = settings is not None and not mistakes
    given = settings if ok and settings else MeshSettings()
    return SettingsReading(given, tuple(mistakes), layers.origins, layers.values)


class _Layers:
    """Settings as plain keys, the later layer over the earlier one; remembers who said what."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {"models": {"default": {"model": "embedded"}}}
        self.origins: dict[Steps, str] = {}

    def add(self, origin: str, values: Mapping[str, Any]) -> None:
        if "model" in values:
            values = dict(values)
            short = {"models": {"default": values.pop("model")}}
            self._merge(self.values, short, origin, ())
        self._merge(self.values, values, origin, ())

    def _merge(self, under: dict[str, Any], over: Mapping[str, Any], origin: str, steps: Steps) -> None:
        for key, value in over.items():
            here = (*steps, key)
            self.origins[here] = origin
            below = under.get(key)
            if len(here) == 2 and here[0] == "models" and isinstance(value, str):
                under[key] = {"model": value}
            elif isinstance(value, Mapping) and isinstance(below, dict):
                self._merge(cast("dict[str, Any]", below), cast("Mapping[str, Any]", value), origin, here)
            elif isinstance(value, Mapping):
                fresh: dict[str, Any] = {}
                under[key] = fresh
                self._merge(fresh, cast("Mapping[str, Any]", value), origin, here)
            else:
                under[key] = value


def _located(origins: Mapping[Steps, str], steps: Steps, text: str) -> Mistake:
    """The nearest key around it that some layer set says where to look; a variable for one value is its own key."""
    known = steps
    while known and known not in origins:
        known = known[:-1]
    origin = origins.get(known, "settings")
    whole = origin.startswith(PREFIX) and steps in (_steps(origin), ("models", "default", "model"))
    return Mistake(origin, None, "" if whole else dotted(steps), text)


def _set_only(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in overrides.items() if value is not None}


def _without_secrets(
    origin: str, values: Mapping[str, Any], mistakes: list[Mistake], steps: Steps = ()
) -> dict[str, Any]:
    """The same keys less those that hold a secret, each of which is a mistake."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        here = (*steps, key)
        if names_secret(key) or any(looks_secret(v) for v in _texts(value)):
            if isinstance(value, Mapping) and not names_secret(key):
                kept[key] = _without_secrets(origin, cast("Mapping[str, Any]", value), mistakes, here)
            else:
                mistakes.append(Mistake(origin, None, dotted(here), _PASTED))
        else:
            kept[key] = value
    return kept


_PASTED = "a secret may not stand here; put it in an environment variable and name that in api_key_env"


def _texts(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        for key, inner in cast("Mapping[str, object]", value).items():
            yield from (["sk-hidden"] if names_secret(key) else _texts(inner))
    elif isinstance(value, list | tuple):
        for inner in cast("Sequence[object]", value):
            yield from _texts(inner)
    else:
        yield value


# --- the file ---------------------------------------------------------------------------------------------------------


def _file_layer(folder: Path, mistakes: list[Mistake]) -> Iterator[tuple[str, dict[str, Any]]]:
    own, shared = folder / SETTINGS_FILE, folder / "pyproject.toml"
    if own.is_file():
        yield SETTINGS_FILE, _toml(own, mistakes)
    elif shared.is_file():
        name, tool = f"{shared.name} [tool.agentmesh]", _toml(shared, mistakes).get("tool")
        table: object = cast("dict[str, Any]", tool).get("agentmesh", {}) if isinstance(tool, dict) else {}
        if isinstance(table, dict):
            yield name, cast("dict[str, Any]", table)
        else:
            mistakes.append(Mistake(shared.name, None, "tool.agentmesh", f"must be a table, not {shown(table)}"))


def _toml(path: Path, mistakes: list[Mistake]) -> dict[str, Any]:
    line, data = None, b""
    try:
        data = path.read_bytes()
        if len(data) > MAX_FILE_BYTES:
            mistakes.append(Mistake(path.name, None, "", f"is larger than {MAX_FILE_BYTES // 1024} KB"))
            return {}
        return tomllib.loads(data.decode("utf-8-sig"))
    except OSError as error:
        text = f"cannot be read: {error.strerror or type(error).__name__}"
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        text = f"is not UTF-8 text (byte 0x{error.object[error.start]:02x}); save it as UTF-8"
    except RecursionError:
        text = "is nested too deeply; make it flatter"
    except tomllib.TOMLDecodeError as error:
        words = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", str(error), re.DOTALL)
        what, at = (words[1], words[2]) if words else (str(error), None)
        line = int(at) if at else data.rstrip().count(b"\n") + 1
        text = f"is not valid TOML: {what[:1].lower()}{what[1:]}"
    mistakes.append(Mistake(path.name, line, "", text))
    return {}


# --- the environment --------------------------------------------------------------------------------------------------


def _variables(environ: Mapping[str, str], mistakes: list[Mistake]) -> Iterator[tuple[str, Steps, Any]]:
    """Every setting of the environment, shorter names first, so that a part overrides the whole."""
    for variable in sorted((v for v in environ if v.startswith(PREFIX)), key=lambda v: (v.count("__"), v)):
        text = environ[variable]
        if variable in RESERVED or not text:
            continue
        steps = _steps(variable)
        here = Place(str) if steps == ("model",) else place(MeshSettings, steps)
        if names_secret(str(steps[-1])) or looks_secret(text):
            mistakes.append(Mistake(variable, None, "", _PASTED))
        elif here is None or not all(steps):
            mistakes.append(Mistake(variable, None, "", f"is no setting{suggest(variable, _names(steps))}"))
        else:
            value, wrong = _parsed(here, text, short=len(steps) == 2 and steps[0] == "models")
            if wrong:
                mistakes.append(Mistake(variable, None, "", wrong))
            elif isinstance(value, Mapping):
                yield variable, steps, _without_secrets(variable, cast("Mapping[str, Any]", value), mistakes)
            else:
                yield variable, steps, value


def _steps(variable: str) -> Steps:
    return tuple(variable.removeprefix(PREFIX).lower().split("__"))


def _names(steps: Steps) -> Iterator[str]:
    """Every variable that sets one value, those of the model that `steps` names among them."""
    yield f"{PREFIX}MODEL"
    models = {"default", str(steps[1]) if steps[0] == "models" and len(steps) > 1 else "default"}

    def below(model: type[BaseModel], prefix: str) -> Iterator[str]:
        for name in model.model_fields:
            inner = place(model, (name,))
            if inner and inner.fields:
                yield from below(inner.type, f"{prefix}{name}__")
            else:
                yield f"{prefix}{name}".upper()

    yield from below(MeshSettings, PREFIX)
    for name in models:
        yield from below(ModelSettings, f"{PREFIX}MODELS__{name}__")


def _parsed(here: Place, text: str, *, short: bool) -> tuple[Any, str]:
    """The value of a variable, or what is wrong with it; single values stay text, which the model itself reads."""
    if here.optional and text.lower() in ("none", "null"):
        return None, ""
    groups = bool(here.fields) or get_origin(here.type) is dict
    lists = get_origin(here.type) is tuple
    if not (groups or lists) and here.type is not Any:
        return text, ""
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        if here.type is Any or (short and not text.lstrip().startswith("{")):
            return text, ""
        form = 'a JSON list such as ["a", "b"]' if lists else 'a JSON object such as {"key": "value"}'
        return None, f"must be {form}, not {shown(text)}"
    return (text if short and not text.lstrip().startswith("{") else value), ""


def _nested(steps: Steps, value: Any) -> dict[str, Any]:
    for step in reversed(steps):
        value = {str(step): value}
    return cast("dict[str, Any]", value)
