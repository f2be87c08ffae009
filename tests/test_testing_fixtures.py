"""The fixtures for pytest, as somebody's own tests use them: with a plugin for async tests and without one."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from agentmesh.testing.fixtures import LONGEST_NAME, cassette_path

pytest_plugins = ["pytester"]

for _module in ("agentmesh.assembly", "agentmesh.testing.contracts"):
    import_module(_module)  # once, instead of by each of the runs below

CONFTEST = 'pytest_plugins = ["agentmesh.testing.fixtures"]\n'
CARD = """
from agentmesh import AgentCard
CARD = AgentCard(id="refunds", description="Says when money comes back.", examples=("When is a refund paid?",))
"""
SYNC = (
    CARD
    + """
def test_it(mesh_factory, trace_events):
    mesh = mesh_factory([CARD], {"refund": "Within 14 days [m1]."}, router="fixed", knowledge=["Paid in 14 days."])
    answer = mesh.ask_sync("When is a refund paid?")
    assert answer.text == "Within 14 days."
    assert [e.type for e in trace_events][0] == "run_started"
    assert {e.run_id for e in trace_events} == {answer.run_id}
"""
)
ASYNC = (
    CARD
    + """
async def test_it(mesh_factory, trace_events):
    def clock(question: str) -> str:
        "Tells the time."
        return "It is noon."
    answer = await mesh_factory([clock], router="fixed").ask("What time is it?")
    assert answer.text == "It is noon."
    assert [e.type for e in trace_events][-1] == "run_finished"
"""
)
OWN_LOOP = (
    CARD
    + """
import asyncio
def test_it(mesh_factory):
    async def run():
        return await mesh_factory([CARD], ["In 14 days."], router="fixed", knowledge=["x 14"]).ask("When is it paid?")
    assert asyncio.run(run()).text == "In 14 days."
"""
)
PARTS = """
from agentmesh.models.base import ChatMessage, ChatRequest
async def test_it(scripted_model, scripted_embedder):
    model = scripted_model(["yes"])
    assert (await model.complete(ChatRequest(messages=(ChatMessage(role="user", text="no"),)))).text == "yes"
    assert (await scripted_embedder.embed(["a", "b"])).shape == (2, 256)
"""
TAPED = """
import asyncio
import pytest
from agentmesh.models.base import ChatMessage, ChatRequest
from agentmesh.testing import CassetteMissError, CassetteModel, ScriptedModel

@pytest.mark.parametrize("text", ["one", "two/2"])
def test_it(cassette, text):
    model = CassetteModel(ScriptedModel(lambda r: r.messages[-1].text.upper()), cassette)
    request = ChatRequest(messages=(ChatMessage(role="user", text=text + ASKED),))
    try:
        assert asyncio.run(model.complete(request)).text == (text + ASKED).upper()
    except CassetteMissError:
        pass  # as an agent does that makes a failed reply of it
"""


ASYNCIO = (
    "-p",
    "pytest_asyncio.plugin",
    "-o",
    "asyncio_mode=auto",
    "-o",
    "asyncio_default_fixture_loop_scope=function",
)


@pytest.fixture(autouse=True)
def no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs below have the plugins that they name and no others."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def run(pytester: pytest.Pytester, test: str, *args: str) -> pytest.RunResult:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_theirs=test)
    return pytester.runpytest("-p", "no:cacheprovider", "-W", "error::pytest.PytestUnraisableExceptionWarning", *args)


@pytest.mark.parametrize("test", [SYNC, OWN_LOOP], ids=["ask_sync", "own loop"])
def test_meshes_work_without_a_plugin_for_async_tests(pytester: pytest.Pytester, test: str) -> None:
    run(pytester, test).assert_outcomes(passed=1)


@pytest.mark.parametrize("test", [SYNC, ASYNC, OWN_LOOP, PARTS], ids=["ask_sync", "async", "own loop", "parts"])
def test_meshes_work_with_a_plugin_for_async_tests(pytester: pytest.Pytester, test: str) -> None:
    run(pytester, test, *ASYNCIO).assert_outcomes(passed=1)


def test_a_mesh_of_the_factory_is_closed_after_the_test(pytester: pytest.Pytester) -> None:
    closed = """
from agentmesh.testing import ScriptedModel
done = []
class Model(ScriptedModel):
    async def aclose(self):
        done.append(1)
async def test_asks(mesh_factory):
    def clock(question: str) -> str:
        "Tells the time."
        return "It is noon."
    mesh = mesh_factory([clock], model=Model(), router="fixed")
    await mesh.ask("What time is it?")
    assert done == []
def test_closed():
    assert done == [1]
"""
    run(pytester, closed, *ASYNCIO).assert_outcomes(passed=2)


def test_the_factory_refuses_what_it_cannot_give(pytester: pytest.Pytester) -> None:
    refused = (
        CARD
        + """
import pytest
from agentmesh.errors import ConfigError
def test_it(mesh_factory):
    with pytest.raises(ConfigError, match="keeps nothing; use build_mesh"):
        mesh_factory([CARD], home="x")
    with pytest.raises(ConfigError, match="give it or `model`, not both"):
        mesh_factory([CARD], ["x"], model="scripted")
"""
    )
    run(pytester, refused).assert_outcomes(passed=1)


def test_a_cassette_is_recorded_on_request_and_replayed_from_then_on(pytester: pytest.Pytester) -> None:
    test = TAPED.replace("ASKED", "'?'")
    missing = run(pytester, test)
    missing.assert_outcomes(errors=2)
    missing.stdout.fnmatch_lines(["*CassetteError: *does not exist; record it with*--cassette=record*"])
    run(pytester, test, "--cassette=record").assert_outcomes(passed=2)
    names = sorted(path.name for path in (pytester.path / "cassettes").iterdir())
    assert names[0] == "test_theirs.test_it.one-" + names[0][-12:-6] + ".jsonl"
    assert len(names) == 2
    run(pytester, test).assert_outcomes(passed=2)


def test_a_miss_fails_the_test_at_its_end_even_where_it_was_swallowed(pytester: pytest.Pytester) -> None:
    run(pytester, TAPED.replace("ASKED", "'?'"), "--cassette=record").assert_outcomes(passed=2)
    changed = TAPED.replace("ASKED", "'!'")
    result = run(pytester, changed)
    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines(["*CassetteMissError: *holds no recording of this call*", '*- "one?"', '*+ "one!"'])
    run(pytester, changed, "--cassette=auto").assert_outcomes(passed=2)
    run(pytester, changed).assert_outcomes(passed=2)


def test_a_suite_runs_without_a_plugin_for_async_tests(pytester: pytest.Pytester) -> None:
    suite = """
from agentmesh.testing import RouterContract, ScriptedRouter
class TestMine(RouterContract):
    unrelated = None
    def make(self):
        return ScriptedRouter(lambda r: [c.id for c in r.cards if c.id == "orders" and not c.shadow])
class TestWrong(RouterContract):
    def make(self):
        return ScriptedRouter("orders")
"""
    result = run(pytester, suite)
    outcomes = result.parseoutcomes()
    assert outcomes["failed"] >= 3
    assert outcomes["passed"] >= 12
    assert outcomes["skipped"] == 1
    result.stdout.fnmatch_lines(["*BrokenPromiseError: broken promise of Router: nothing fits: *"])


def test_a_suite_runs_under_unittest(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_theirs="""
from unittest import TestCase
from agentmesh.testing import EmbedderContract, ScriptedEmbedder
class TestMine(EmbedderContract, TestCase):
    def make(self):
        return ScriptedEmbedder()
"""
    )
    run(pytester, (pytester.path / "test_theirs.py").read_text()).assert_outcomes(passed=5)


@pytest.mark.parametrize(
    ("node", "name"),
    [
        ("tests/test_refunds.py::test_it", "test_refunds.test_it"),
        ("tests/test_refunds.py::TestDesk::test_it", "test_refunds.TestDesk.test_it"),
        ("tests/test_refunds.py::test_it[../../x]", "test_refunds.test_it.......x-[0-9a-f]{6}"),
        ("tests/test_refunds.py::test_it[" + "x" * 300 + "]", "test_refunds.test_it.x{99}-[0-9a-f]{6}"),
    ],
)
def test_a_cassette_is_named_after_its_test(node: str, name: str) -> None:
    found = cassette_path(Path("tests/test_refunds.py"), node)
    assert found.parent == Path("tests/cassettes")
    assert re.fullmatch(name, found.stem)
    assert len(found.stem) <= LONGEST_NAME + 7


def test_tests_that_differ_have_cassettes_that_differ() -> None:
    module = Path("tests/test_refunds.py")
    nodes = [f"tests/test_refunds.py::test_it[{case}]" for case in ("a/b", "a.b", "a b", "a-b", "ab")]
    assert len({cassette_path(module, node) for node in nodes}) == len(nodes)
