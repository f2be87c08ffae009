"""What a project may set: arguments, then `AGENTMESH_*`, then the project file. Frozen and closed; read once.

The project file is `agentmesh.toml`, or `[tool.agentmesh]` of `pyproject.toml`. Nested keys are written with two
underscores in the environment: `AGENTMESH_CONTEXT__BUDGET_TOKENS=800`. `AGENTMESH_MODEL=...` is short for the default
model. Secrets stay in the providers' own variables and never stand here.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from agentmesh.run import Limits
from agentmesh.types import Frozen

__all__ = ["ContextSettings", "MemorySettings", "MeshSettings", "ModelSettings", "RoutingSettings", "TraceSettings"]


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
    api_key_env: str | None = None
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


class RoutingSettings(Frozen):
    """How agents are chosen."""

    router: str = "semantic"
    """A short name or "module:attribute"."""
    max_agents: int = Field(default=3, ge=1, le=64)
    """Most agents for one task."""
    options: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Arguments of the router."""


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


class MeshSettings(Frozen):
    """Everything a project may set."""

    models: dict[str, ModelSettings] = Field(
        default_factory=lambda: {"default": ModelSettings(model="embedded")}, validate_default=True
    )
    """Models by name; agents name them in their cards. `default` is what every agent uses that names none."""
    refiner: str = "auto"
    """`auto` (a capable model if there is one, else extractive), `extractive`, `model`, or "module:attribute"."""
    refiner_model: str = "default"
    """Name of the model that refines."""
    durable: bool = True
    """Whether runs are checkpointed on disk."""
    home: Path = Path(".agentmesh")
    """State of the project, relative to its folder."""
    limits: Limits = Limits()
    """Of every run that sets none itself."""
    routing: RoutingSettings = RoutingSettings()
    context: ContextSettings = ContextSettings()
    memory: MemorySettings = MemorySettings()
    trace: TraceSettings = TraceSettings()
