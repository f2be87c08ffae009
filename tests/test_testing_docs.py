"""The examples of docs/testing.md do what the page says."""

import re
from importlib import import_module
from pathlib import Path

import pytest

import agentmesh.testing

pytest_plugins = ["pytester"]

for _module in ("agentmesh.assembly", "agentmesh.testing.contracts"):
    import_module(_module)  # once, instead of by each of the runs below

PAGE = (Path(__file__).parents[1] / "docs" / "testing.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SHOWN = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)


def block(part: str) -> str:
    (found,) = [text for text in BLOCKS if part in text]
    return found


@pytest.fixture(autouse=True)
def no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs below are those of somebody without a plugin for async tests."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.mark.parametrize("text", BLOCKS, ids=lambda text: text.strip().splitlines()[-1].strip()[:30])
def test_every_block_runs_alone(text: str) -> None:
    exec(compile(text, "testing.md", "exec"), {"__name__": "example"})


def test_the_miss_that_the_page_shows_is_the_one_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block("CassetteMissError as miss"), "testing.md", "exec"), {"__name__": "example"})
    printed = re.sub(r"\S*/refunds", ".../refunds", capsys.readouterr().out)
    assert printed == SHOWN[0]


def test_the_tests_of_the_page_pass_once_they_are_recorded(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(block("pytest_plugins"))
    pytester.makepyfile(test_theirs=block("def test_refunds_are_answered("))
    pytester.runpytest("-p", "no:cacheprovider", "--cassette=record").assert_outcomes(passed=2)
    pytester.runpytest("-p", "no:cacheprovider").assert_outcomes(passed=2)


def test_the_router_of_the_page_breaks_the_promise_that_the_page_shows(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_theirs=block("class CommonWordsRouter"))
    result = pytester.runpytest("-p", "no:cacheprovider")
    assert " ".join(SHOWN[1].split()) in " ".join(result.stdout.str().split())
    outcomes = result.parseoutcomes()
    assert outcomes["failed"] == 1
    assert outcomes["passed"] == 9


def test_the_store_of_the_page_keeps_every_promise(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_theirs=block("class TestMyStore"))
    pytester.runpytest("-p", "no:cacheprovider").assert_outcomes(passed=15)


def test_the_page_names_every_public_name() -> None:
    missing = [name for name in agentmesh.testing.__all__ if name not in PAGE]
    assert missing == ["RecordedMesh"]
