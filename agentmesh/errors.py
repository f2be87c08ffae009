"""Everything agentmesh raises on purpose.

    MeshError
    ├── ConfigError          a file, a card, a setting or a graph is wrong: a person must edit it
    │   ├── UnknownNameError     a name matches nothing; says the nearest that does
    │   ├── GraphError           a graph can never run as it is drawn
    │   └── ProjectError         all mistakes of a project at once
    ├── InputError           the caller asked for something that cannot be taken
    ├── RoutingError         a router could not decide
    ├── ContextError         a context pack could not be made
    ├── ModelError           a language model or an embedder failed
    │   ├── ModelTimeoutError *  ModelRateLimitError *  ModelUnavailableError *  ModelReplyError *
    │   └── ModelQuotaError      ModelAuthError         ModelRequestError        ModelWeightsError
    ├── ToolError            a tool failed or is not allowed
    ├── LimitError           a budget is spent: of the run, its tenant, its user, or an agent
    └── StoreError           the disk, the database or the memory store cannot be used
        ├── StoreVersionError    written by a newer agentmesh
        └── StoreLockedError     another process holds it and does not answer

`*` marks what may succeed later, unchanged (`retryable`). A message is one sentence that ends in the next step to take.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import ClassVar

__all__ = [
    "ConfigError",
    "ContextError",
    "GraphError",
    "InputError",
    "LimitError",
    "MeshError",
    "ModelAuthError",
    "ModelError",
    "ModelQuotaError",
    "ModelRateLimitError",
    "ModelReplyError",
    "ModelRequestError",
    "ModelTimeoutError",
    "ModelUnavailableError",
    "ModelWeightsError",
    "ProjectError",
    "RoutingError",
    "StoreError",
    "StoreLockedError",
    "StoreVersionError",
    "ToolError",
    "UnknownNameError",
    "nearest",
]


def nearest(name: str, known: Sequence[str], *, most: int = 1) -> tuple[str, ...]:
    """The known names that look most like `name`, at most `most`; empty if none is close."""
    folded = {k.lower(): k for k in known}
    return tuple(folded[m] for m in get_close_matches(name.lower(), list(folded), n=most, cutoff=0.5))


class MeshError(Exception):
    """Everything agentmesh raises on purpose."""

    retryable: ClassVar[bool] = False
    """Whether the same call may succeed later, unchanged."""


class ConfigError(MeshError):
    """A file, a card, a setting or a graph is wrong: a person must edit it."""


class UnknownNameError(ConfigError):
    """A name matches nothing."""

    def __init__(self, kind: str, name: str, known: Sequence[str], *, where: str = "") -> None:
        self.kind, self.name, self.known, self.where = kind, name, tuple(known), where
        close = nearest(name, known)
        if close:
            hint = f"did you mean {close[0]!r}?"
        elif known:
            shown = ", ".join(sorted(known)[:12]) + (", ..." if len(known) > 12 else "")
            hint = f"known: {shown}"
        else:
            hint = f"no {kind} is defined yet"
        prefix = f"{where}: " if where else ""
        super().__init__(f"{prefix}no {kind} is called {name!r}; {hint}")


class GraphError(ConfigError):
    """A graph can never run as it is drawn."""

    def __init__(self, graph: str, mistakes: Sequence[str]) -> None:
        self.graph, self.mistakes = graph, tuple(mistakes)
        super().__init__(f"graph {graph!r}: " + "; ".join(self.mistakes))


class ProjectError(ConfigError):
    """All mistakes of a project at once, one a line: `file:line: key: what is wrong`."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        count = len(self.mistakes)
        head = f"{count} mistake{'s' if count != 1 else ''} in the project"
        super().__init__("\n  ".join([head + ":", *self.mistakes]))


class InputError(MeshError):
    """The caller asked for something that cannot be taken; nothing was run."""


class RoutingError(MeshError):
    """A router could not decide (not: it decided that nothing fits)."""


class ContextError(MeshError):
    """A context pack could not be made."""


class ModelError(MeshError):
    """A language model or an embedder failed."""


class ModelTimeoutError(ModelError):
    """The model did not answer in time."""

    retryable = True


class ModelRateLimitError(ModelError):
    """The provider asks for fewer calls."""

    retryable = True


class ModelUnavailableError(ModelError):
    """The provider cannot be reached or is down."""

    retryable = True


class ModelReplyError(ModelError):
    """The model answered with something that cannot be used."""

    retryable = True


class ModelQuotaError(ModelError):
    """The account has no credit or quota left."""


class ModelAuthError(ModelError):
    """The key is missing or refused."""


class ModelRequestError(ModelError):
    """The provider refuses the request as it is (unknown model, too long, blocked content)."""


class ModelWeightsError(ModelError):
    """The weights of a local model are not on this machine or are damaged."""


class ToolError(MeshError):
    """A tool failed, or is not allowed to be called."""


class LimitError(MeshError):
    """A budget is spent: the run's own, or one that its tenant, its user or one of its agents has over many runs."""

    def __init__(
        self,
        limit: str,
        allowed: float,
        spent: float,
        *,
        scope: str = "run",
        name: str = "",
        per: str = "run",
        where: str = "limits",
    ) -> None:
        """Say which.

        Args:
            limit: Name of the bound, e.g. `max_usd`.
            allowed: Its value, in the unit of its name.
            spent: What was used in the period.
            scope: Whose it is: `run`, `agent`, `user` or `tenant`.
            name: Of the agent, user or tenant.
            per: Its period: `run`, `day`, `month` or `total`.
            where: Key of the settings that holds the bound.
        """
        self.limit, self.allowed, self.spent = limit, allowed, spent
        self.scope, self.name, self.per, self.where = scope, name, per, where
        if scope == "run":
            text = f"the limit {limit} of {allowed:g} is reached ({spent:g} used)"
        else:
            short = name if len(name) <= _SHOWN_CHARS else name[: _SHOWN_CHARS - 1] + "…"
            who = f"{scope} {short!r}"
            unit = _UNITS.get(limit, limit)
            amount = f"{allowed:,.10g} {unit.removesuffix('s') if allowed == 1 else unit} {_PERIODS.get(per, per)}"
            text = f"the budget of {who} of {amount} is reached ({spent:,.10g} used)"
        super().__init__(f"{text}; raise `{where}.{limit}`")


_SHOWN_CHARS = 40
"""Characters of a name that a sentence repeats."""
_UNITS = {"max_usd": "US$", "max_tokens": "tokens", "max_calls": "model calls"}
_PERIODS = {"run": "a run", "day": "a day", "month": "a month", "total": "in total"}


class StoreError(MeshError):
    """The disk, the database or the memory store cannot be used."""


class StoreVersionError(StoreError):
    """The file was written by a newer agentmesh."""


class StoreLockedError(StoreError):
    """Another process holds the store and does not answer."""
