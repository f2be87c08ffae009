"""The models and embedders that settings may name, and how one is opened."""

import re
from difflib import get_close_matches

from agentmesh.errors import ConfigError, UnknownNameError, nearest
from agentmesh.models.base import ChatModel, Embedder
from agentmesh.registry import Registry
from agentmesh.settings import ModelSettings

__all__ = ["check_embedder_spec", "check_model_spec", "embedders", "models", "open_embedder", "open_model"]

models = Registry(
    "model",
    ChatModel,
    {
        "embedded": "agentmesh.models.local:LocalChatModel",
        "gguf": "agentmesh.models.local:LocalChatModel",
        "hf": "agentmesh.models.local:LocalChatModel",
        "litellm": "agentmesh.models.litellm:LiteLLMChatModel",
        "scripted": "agentmesh.models.scripted:open_scripted",
    },
)
"""What opens a model, by kind; each takes `name` and `settings`."""

embedders = Registry(
    "embedder",
    Embedder,
    {
        "wordllama": "agentmesh.models.wordllama:WordLlamaEmbedder",
        "minilm": "agentmesh.models.minilm:MiniLMEmbedder",
        "scripted": "agentmesh.models.scripted:ScriptedEmbedder",
    },
)
"""Embedders by name; `litellm:<model id>` is one too."""

_FORMS = ("embedded", "scripted", "gguf:/path/to/file.gguf", "hf:owner/repo/file.gguf", "provider/model")
_ATTRIBUTE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def check_model_spec(spec: str, where: str = "") -> None:
    """Raise unless `spec` may name a model; no network, no weights are looked for.

    Args:
        spec: `embedded`, `scripted`, `gguf:/path`, `hf:owner/repo/file.gguf`, a LiteLLM id, or "module:attribute".
        where: File and key, for the message.

    Raises:
        ConfigError: If the form of `gguf:` or `hf:` is wrong.
        UnknownNameError: If it has no provider and LiteLLM does not know it, or the provider's name is misspelt; says
            the nearest that is known.
    """
    _kind_of(spec, where)


def open_model(name: str, settings: ModelSettings) -> ChatModel:
    """The model of these settings, under its name in the settings. Nothing is loaded before it is first asked.

    Raises:
        ConfigError: If the spec is wrong (see `check_model_spec`) or a package is missing.
    """
    return models.create(_kind_of(settings.model, f"model {name!r}"), name=name, settings=settings)


def check_embedder_spec(spec: str, where: str = "") -> None:
    """Raise `UnknownNameError` unless `spec` may name an embedder."""
    if not spec.startswith("litellm:"):
        embedders.check(spec, where=where)
    elif not spec.removeprefix("litellm:").strip():
        raise UnknownNameError("embedder", spec, (*embedders.names(), "litellm:provider/model"), where=where)


def open_embedder(spec: str) -> Embedder:
    """The embedder of this name: `wordllama`, `minilm`, `scripted`, `litellm:<model id>` or "module:attribute".

    Raises:
        ConfigError: If there is none of that name, or its package is missing.
    """
    check_embedder_spec(spec)
    if spec.startswith("litellm:"):
        from agentmesh.models.litellm_embedder import LiteLLMEmbedder

        return LiteLLMEmbedder(spec.removeprefix("litellm:").strip())
    return embedders.create(spec)


def _kind_of(spec: str, where: str) -> str:
    """The entry of `models` that opens this spec."""
    prefix = f"{where}: " if where else ""
    kind, _, rest = spec.partition(":")
    if spec in ("embedded", "scripted"):
        return spec
    if kind == "gguf":
        if not rest.strip():
            raise ConfigError(f"{prefix}`gguf:` names no file; write gguf:/path/to/file.gguf")
        return "gguf"
    if kind == "hf":
        parts = rest.split("/")
        if len(parts) < 3 or not all(parts) or not rest.endswith(".gguf"):
            raise ConfigError(f"{prefix}{spec!r} names no file of the hub; write hf:owner/repo/file.gguf")
        return "hf"
    from agentmesh.models.litellm import known_models, known_providers

    if "/" in spec.strip("/"):
        provider, _, model = spec.partition("/")
        # Only a slip of the hand is sure to be wrong: LiteLLM takes other owners' models by their `api_base`.
        if provider not in known_providers() and (meant := get_close_matches(provider, known_providers(), 1, 0.82)):
            raise UnknownNameError("model", spec, [f"{meant[0]}/{model}"], where=where)
        return "litellm"

    known = known_models()
    if spec in known:
        return "litellm"
    if _ATTRIBUTE.fullmatch(spec):
        return spec
    bare = [model for model in known if "/" not in model]
    raise UnknownNameError("model", spec, (*_FORMS, *nearest(spec, bare)), where=where)
