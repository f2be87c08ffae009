"""Where a setting comes from, which source wins, and what is said of a wrong one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agentmesh.errors import ProjectError
from agentmesh.run import Limits
from agentmesh.settings import MeshSettings, ModelSettings, load_settings, read_settings


def load(
    folder: Path,
    toml: str | bytes | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    file: str = "agentmesh.toml",
) -> MeshSettings:
    if toml is not None:
        (folder / file).write_bytes(toml.encode() if isinstance(toml, str) else toml)
    return load_settings(folder, environ=environ or {}, overrides=overrides)


def mistakes(*args: Any, **named: Any) -> list[str]:
    with pytest.raises(ProjectError) as caught:
        load(*args, **named)
    return list(caught.value.mistakes)


def test_an_empty_folder_has_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path) == MeshSettings()
    assert MeshSettings().models == {"default": ModelSettings(model="embedded")}


def test_arguments_go_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    toml = '[routing]\nrouter = "keyword"\nmax_agents = 2\n[limits]\nmax_usd = 1.5\n'
    environ = {"AGENTMESH_ROUTING__ROUTER": "fixed", "AGENTMESH_ROUTING__MAX_AGENTS": "4"}
    settings = load(tmp_path, toml, environ, {"routing": {"max_agents": 5}})
    assert (settings.routing.router, settings.routing.max_agents, settings.limits.max_usd) == ("fixed", 5, 1.5)


def test_pyproject_is_read_where_there_is_no_own_file(tmp_path: Path) -> None:
    load(tmp_path, '[project]\nname = "x"\n[tool.agentmesh]\nrefiner = "model"\n', file="pyproject.toml")
    assert load(tmp_path).refiner == "model"
    assert load(tmp_path, 'refiner = "extractive"\n').refiner == "extractive"


def test_a_pyproject_without_our_table_sets_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, '[project]\nname = "x"\n', file="pyproject.toml") == MeshSettings()


def test_plain_text_is_short_for_a_model_everywhere(tmp_path: Path) -> None:
    toml = '[models]\ndefault = "openai/a"\nsmall = "openai/b"\n'
    assert load(tmp_path, toml).models["small"] == ModelSettings(model="openai/b")
    assert load(tmp_path, toml, {"AGENTMESH_MODEL": "scripted"}).models["default"].model == "scripted"
    assert load(tmp_path, toml, {"AGENTMESH_MODELS__SMALL": "gpt-5"}).models["small"].model == "gpt-5"
    assert load(tmp_path, toml, {}, {"model": "mine"}).models["default"].model == "mine"
    assert load(tmp_path, 'model = "openai/c"\n').models["default"].model == "openai/c"
    assert MeshSettings.model_validate({"models": {"big": "openai/d"}}).models["big"].model == "openai/d"


def test_another_model_does_not_inherit_what_was_said_of_the_first(tmp_path: Path) -> None:
    toml = '[models.default]\nmodel = "openai/a"\ncapable = true\napi_base = "http://localhost:1"\n'
    chosen = load(tmp_path, toml, {"AGENTMESH_MODEL": "embedded", "AGENTMESH_MODELS__DEFAULT__TIMEOUT_S": "5"})
    assert chosen.models["default"] == ModelSettings(model="embedded", timeout_s=5.0)


def test_one_key_of_a_model_can_be_set_alone(tmp_path: Path) -> None:
    settings = load(
        tmp_path, '[models.small]\nmodel = "openai/b"\nretries = 1\n', {"AGENTMESH_MODELS__SMALL__RETRIES": "0"}
    )
    assert settings.models["small"] == ModelSettings(model="openai/b", retries=0)
    assert load(tmp_path, "[models.default]\ntimeout_s = 9\n").models["default"] == ModelSettings(
        model="embedded", timeout_s=9.0
    )


def test_variables_hold_words_numbers_json_and_nothing(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        environ={
            "AGENTMESH_HOME": "/var/lib/mesh",
            "AGENTMESH_DURABLE": "false",
            "AGENTMESH_LIMITS__MAX_USD": "0.5",
            "AGENTMESH_LIMITS__MAX_SECONDS": "none",
            "AGENTMESH_LIMITS__MAX_CALLS": "",
            "AGENTMESH_MEMORY__KNOWLEDGE": '["a", "b"]',
            "AGENTMESH_ROUTING__OPTIONS": '{"margin": 0.1}',
            "AGENTMESH_ROUTING__OPTIONS__DEPTH": "3",
            "AGENTMESH_ROUTING__OPTIONS__STYLE": "loud",
            "AGENTMESH_MODELS": '{"Big-One": {"model": "openai/x"}, "small": "openai/y"}',
            "AGENTMESH_CACHE": "/somewhere",
            "OTHER_MODEL": "x",
        },
    )
    assert (settings.home, settings.durable) == (Path("/var/lib/mesh"), False)
    assert settings.limits == Limits(max_usd=0.5, max_seconds=None)
    assert settings.memory.knowledge == ("a", "b")
    assert settings.routing.options == {"margin": 0.1, "depth": 3, "style": "loud"}
    assert sorted(settings.models) == ["Big-One", "default", "small"]
    assert settings.models["small"].model == "openai/y"


WRONG_VARIABLES = {
    "AGENTMESH_ROUTING_ROUTER": ("x", "is no setting; did you mean 'AGENTMESH_ROUTING__ROUTER'?"),
    "AGENTMESH_MODELS__SMALL__TIMOUT_S": ("3", "is no setting; did you mean 'AGENTMESH_MODELS__SMALL__TIMEOUT_S'?"),
    "AGENTMESH_MODL": ("x", "is no setting; did you mean 'AGENTMESH_MODEL'?"),
    "AGENTMESH_ROUTING__ROUTER__X": ("x", "is no setting; did you mean 'AGENTMESH_ROUTING__ROUTER'?"),
    "AGENTMESH_ROUTING__MAX_AGENTS": ("many", "must be a whole number, not 'many'"),
    "AGENTMESH_LIMITS__MAX_ROUNDS": ("51", "must be between 1 and 50, not '51'"),
    "AGENTMESH_LIMITS__MAX_USD": ("-1", "must be 0 or more, not '-1'"),
    "AGENTMESH_DURABLE": ("perhaps", "must be true or false, not 'perhaps'"),
    "AGENTMESH_MEMORY__KNOWLEDGE": ("docs", 'must be a JSON list such as ["a", "b"], not \'docs\''),
    "AGENTMESH_ROUTING": ("keyword", 'must be a JSON object such as {"key": "value"}, not \'keyword\''),
    "AGENTMESH_TRACE": ('{"keep_runs": 0}', "trace.keep_runs: must be 1 or more, not 0"),
    "AGENTMESH_REFINER": (
        "sk-proj-0123456789",
        "a secret may not stand here; put it in an environment variable and name that in api_key_env",
    ),
    "AGENTMESH_MODELS__DEFAULT__API_KEY": (
        "hunter2",
        "a secret may not stand here; put it in an environment variable and name that in api_key_env",
    ),
}


@pytest.mark.parametrize(("variable", "text", "sentence"), [(k, *v) for k, v in WRONG_VARIABLES.items()])
def test_a_wrong_variable_is_named(tmp_path: Path, variable: str, text: str, sentence: str) -> None:
    assert mistakes(tmp_path, environ={variable: text}) == [f"{variable}: {sentence}"]


WRONG_FILES: dict[str, tuple[str | bytes, str]] = {
    "syntax": (
        "a = 1\nb\nc = 2\n",
        "agentmesh.toml:2: is not valid TOML: expected '=' after a key in a key/value pair",
    ),
    "syntax at the end": ("a = 1\nb = [1,", "agentmesh.toml:2: is not valid TOML: invalid value"),
    "encoding": (b"a = 1\nb = '\xff'\n", "agentmesh.toml:2: is not UTF-8 text (byte 0xff); save it as UTF-8"),
    "nesting": ("a = " + "[" * 9000, "agentmesh.toml: is nested too deeply; make it flatter"),
    "unknown key": ('refinr = "x"\n', "agentmesh.toml: refinr: unknown key; did you mean 'refiner'?"),
    "unknown key of a model": (
        '[models.small]\nmodel = "x"\ntimeout = 3\n',
        "agentmesh.toml: models.small.timeout: unknown key; did you mean 'timeout_s'?",
    ),
    "model without a model": (
        "[models.small]\nretries = 1\n",
        "agentmesh.toml: models.small.model: is missing; add `model: ...`",
    ),
    "wrong type": ('[limits]\nmax_usd = "much"\n', "agentmesh.toml: limits.max_usd: must be a number, not 'much'"),
    "truth for a number": (
        "[limits]\nmax_calls = true\n",
        "agentmesh.toml: limits.max_calls: must be a number, not true",
    ),
    "name of a variable": (
        '[models.default]\napi_key_env = "12 345"\n',
        "agentmesh.toml: models.default.api_key_env: this is not a valid name; "
        "use letters, digits, '_' and '-', and begin with a letter",
    ),
    "secret by name": (
        '[models.default]\nmodel = "openai/x"\napi_key = "hunter2"\n',
        "agentmesh.toml: models.default.api_key: a secret may not stand here; "
        "put it in an environment variable and name that in api_key_env",
    ),
    "secret by form": (
        '[models.default]\napi_key_env = "sk-proj-0123456789"\n',
        "agentmesh.toml: models.default.api_key_env: a secret may not stand here; "
        "put it in an environment variable and name that in api_key_env",
    ),
    "secret in options": (
        '[models.default.options.headers]\nAuthorization = ["Bearer sk-0123456789"]\n',
        "agentmesh.toml: models.default.options.headers.Authorization: a secret may not stand here; "
        "put it in an environment variable and name that in api_key_env",
    ),
    "password in a URL": (
        '[models.default]\napi_base = "https://me:hunter2@host/v1"\n',
        "agentmesh.toml: models.default.api_base: a secret may not stand here; "
        "put it in an environment variable and name that in api_key_env",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("toml", "sentence"), WRONG_FILES.values(), ids=WRONG_FILES.keys())
def test_a_wrong_file_is_told_by_line_or_key(tmp_path: Path, toml: str | bytes, sentence: str) -> None:
    assert mistakes(tmp_path, toml) == [sentence]


def test_pyproject_is_named_with_its_table(tmp_path: Path) -> None:
    toml = "[tool.agentmesh.routing]\nmax_agents = 0\n"
    assert mistakes(tmp_path, toml, file="pyproject.toml") == [
        "pyproject.toml [tool.agentmesh]: routing.max_agents: must be between 1 and 64, not 0"
    ]
    assert mistakes(tmp_path, "tool.agentmesh = 3\n", file="pyproject.toml") == [
        "pyproject.toml: tool.agentmesh: must be a table, not 3"
    ]


def test_a_wrong_argument_is_named_as_one(tmp_path: Path) -> None:
    assert mistakes(tmp_path, overrides={"routng": {}, "model": None}) == [
        "argument: routng: unknown key; did you mean 'routing'?"
    ]


def test_all_mistakes_come_together_and_the_defaults_stand_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "agentmesh.toml").write_text('refiner = "x"\ndurable = 3\n[limits]\nmax_calls = -1\n')
    reading = read_settings(tmp_path, environ={"AGENTMESH_X": "1"})
    assert [m.file for m in reading.mistakes] == ["AGENTMESH_X", "agentmesh.toml", "agentmesh.toml"]
    assert reading.settings == MeshSettings()


def test_names_that_only_sound_secret_are_settings(tmp_path: Path) -> None:
    settings = load(tmp_path, '[models.default]\napi_key_env = "MY_API_KEY"\n[limits]\nmax_tokens = 9\n')
    assert (settings.models["default"].api_key_env, settings.limits.max_tokens) == ("MY_API_KEY", 9)
