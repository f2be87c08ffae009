"""Names become parts; a name that matches nothing says the nearest that does."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import pytest

from agentmesh.errors import ConfigError, UnknownNameError, nearest
from agentmesh.registry import Registry, resolve_name


@runtime_checkable
class Greeter(Protocol):
    def greet(self) -> str: ...


class Polite:
    def __init__(self, *, name: str = "you") -> None:
        self.name = name

    def greet(self) -> str:
        return f"Good morning, {self.name}"


class Silent:
    pass


greeters = Registry(
    "greeter", Greeter, {"polite": "tests.test_registry:Polite", "silent": "tests.test_registry:Silent"}
)


def test_a_short_name_is_built_with_its_options() -> None:
    assert greeters.create("polite", name="Ada").greet() == "Good morning, Ada"


def test_a_module_path_is_built_too() -> None:
    assert greeters.create("tests.test_registry:Polite").greet() == "Good morning, you"


def test_what_is_offered_is_taken_as_far_as_it_is_named_and_not_set() -> None:
    offered = {"name": "Ada", "model": object()}
    assert greeters.create("polite", offered=offered).greet() == "Good morning, Ada"
    assert greeters.create("polite", offered=offered, name="Eve").greet() == "Good morning, Eve"
    assert greeters.create("polite", offered={"model": object()}).greet() == "Good morning, you"


def test_an_unknown_name_says_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="no greeter is called 'polit'; did you mean 'polite'\\?"):
        greeters.create("polit")


def test_a_part_that_lacks_the_methods_is_refused() -> None:
    with pytest.raises(ConfigError, match="is not a greeter"):
        greeters.create("silent")


def test_a_wrong_option_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="does not take these options: 'nam' is none; did you mean 'name'"):
        greeters.create("polite", nam="Ada")


@pytest.mark.parametrize(
    ("path", "words"),
    [("no_such_module_here:X", "cannot import"), ("tests.test_registry:Missing", "has no 'Missing'")],
)
def test_a_wrong_path_says_which_half_is_wrong(path: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        greeters.create(path)


def test_nearest_ignores_case_and_gives_nothing_for_strangers() -> None:
    assert nearest("BILING", ["billing", "vpn"]) == ("billing",)
    assert nearest("zzz", ["billing", "vpn"]) == ()


@pytest.mark.parametrize("content", ["def (", "raise RuntimeError('no licence')"])
def test_a_module_that_cannot_be_imported_is_a_mistake_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    (tmp_path / "broken_part.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="cannot import 'broken_part'"):
        resolve_name("broken_part:Part")
    with pytest.raises(ConfigError, match="cannot import ''"):
        resolve_name(":Part")
