"""Which names of models and embedders are taken, and what the others are told."""

import subprocess
import sys

import pytest

from agentmesh.errors import ConfigError, UnknownNameError
from agentmesh.models import check_embedder_spec, check_model_spec, open_embedder, open_model
from agentmesh.models.scripted import ScriptedModel
from agentmesh.settings import ModelSettings


@pytest.mark.parametrize(
    "spec",
    [
        "embedded",
        "scripted",
        "gguf:/models/a.gguf",
        "hf:owner/repo/file.gguf",
        "hf:owner/repo/folder/file.gguf",
        "openai/gpt-5-mini",
        "ollama/llama3:8b",
        "mistralai/Mixtral-8x7B",
        "my_openai/x",
        "gpt-4o-mini",
        "my_package.models:MyModel",
    ],
)
def test_every_form_of_a_model_is_taken(spec: str) -> None:
    check_model_spec(spec)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("embeded", "did you mean 'embedded'?"),
        ("Scripted", "did you mean 'scripted'?"),
        ("gpt-4o-mni", "did you mean 'gpt-4o-mini'?"),
        ("openia/gpt-5-mini", "did you mean 'openai/gpt-5-mini'?"),
        ("Anthropic/claude", "did you mean 'anthropic/claude'?"),
        ("qqqqqq", "known: embedded, "),
    ],
)
def test_an_unknown_model_is_answered_with_the_nearest(spec: str, hint: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        check_model_spec(spec, "agentmesh.toml: models.default")
    assert str(caught.value).startswith(f"agentmesh.toml: models.default: no model is called {spec!r}; ")
    assert hint in str(caught.value)


@pytest.mark.parametrize("spec", ["gguf:", "hf:owner/repo", "hf:owner/repo/readme.md", "hf:owner//x.gguf"])
def test_a_file_that_is_named_wrongly_is_answered_with_the_form(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"write (gguf:/path/to|hf:owner/repo)/file.gguf"):
        check_model_spec(spec)


def test_a_model_is_opened_under_its_name_in_the_settings() -> None:
    model = open_model("small", ModelSettings(model="scripted"))
    assert isinstance(model, ScriptedModel)
    assert model.info.name == "small"


def test_opening_an_unknown_model_names_it() -> None:
    with pytest.raises(UnknownNameError, match="model 'small': no model is called 'scripte'"):
        open_model("small", ModelSettings(model="scripte"))


def test_a_wrong_option_of_a_local_model_is_named() -> None:
    with pytest.raises(ConfigError, match=r"model 'm': options.slots is 0; give a whole number from 1"):
        open_model("m", ModelSettings(model="embedded", options={"slots": 0}))


@pytest.mark.parametrize("spec", ["wordlama", "litellm:", "MiniLM"])
def test_an_unknown_embedder_is_refused(spec: str) -> None:
    with pytest.raises(ConfigError):
        check_embedder_spec(spec)


def test_any_litellm_embedder_is_taken() -> None:
    embedder = open_embedder("litellm:openai/text-embedding-3-small")
    assert embedder.name == "openai/text-embedding-3-small"
    assert embedder.dimensions == 1536


def test_naming_and_opening_models_imports_no_heavy_library() -> None:
    code = (
        "import sys; from agentmesh.models import *; from agentmesh.settings import ModelSettings\n"
        "for spec in ('embedded', 'scripted', 'openai/x', 'gpt-4o-mini'): open_model('m', ModelSettings(model=spec))\n"
        "open_embedder('wordllama'); open_embedder('litellm:openai/x')\n"
        "print([m for m in ('litellm', 'openai', 'xllamacpp', 'wordllama', 'tokenizers') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "[]"
