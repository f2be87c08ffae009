"""Python functions as tools: what a signature says to a model, and how a call can go wrong."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, cast

import pytest
from pydantic import BaseModel, Field

from agentmesh.agents.schema import mismatch
from agentmesh.errors import ConfigError, InputError, ToolError
from agentmesh.run import RunContext, loose_context
from agentmesh.tools.base import Toolset
from agentmesh.tools.functions import FunctionToolset, tool


class Unit(StrEnum):
    METRE = "m"
    FOOT = "ft"


class Point(BaseModel):
    x: float
    y: float = 0.0


@dataclass
class Found:
    title: str
    pages: int


def add(a: int, b: Annotated[int, Field(description="the other one", ge=0)] = 1) -> int:
    """Adds two whole numbers."""
    return a + b


async def measure(points: list[Point], copy: str, _raw: bool = False, unit: Unit = Unit.METRE) -> dict[str, Any]:
    """Measures a line."""
    return {"length": max(p.x for p in points), "unit": unit, "copy": copy}


def whoami(ctx: RunContext, greeting: str = "hello") -> str:
    """Says for whom it works."""
    return f"{greeting} {ctx.tenant}"


async def call(*made: Callable[..., Any], name: str = "", **arguments: Any) -> dict[str, Any]:
    toolset = FunctionToolset(made, name="maths")
    return await toolset.call(name or toolset.tool_names[0], arguments, loose_context())


async def test_a_signature_becomes_name_description_and_schema() -> None:
    toolset = FunctionToolset([add, tool(measure, idempotent=True, name="length")], name="maths")
    assert isinstance(toolset, Toolset)
    one, two = await toolset.list_tools()
    assert (one.name, one.description, one.idempotent) == ("add", "Adds two whole numbers.", False)
    assert one.parameters == {
        "type": "object",
        "properties": {
            "a": {"type": "integer"},
            "b": {"type": "integer", "description": "the other one", "minimum": 0, "default": 1},
        },
        "required": ["a"],
        "additionalProperties": False,
    }
    assert (two.name, two.idempotent) == ("length", True)
    assert list(two.parameters["properties"]) == ["points", "copy", "_raw", "unit"]
    assert mismatch({"points": [{"x": 1}], "copy": "c", "unit": "ft"}, two.parameters) is None
    assert "not one of" in (mismatch({"points": [], "copy": "c", "unit": "mile"}, two.parameters) or "")


async def test_arguments_arrive_as_the_annotated_types_and_defaults_are_the_functions_own() -> None:
    assert await call(add, a=2, b=3) == {"result": 5}
    assert await call(add, a=2) == {"result": 3}
    said = await call(measure, points=[{"x": 1}, {"x": 2.5}], copy="c", unit="ft")
    assert said == {"length": 2.5, "unit": "ft", "copy": "c"}


async def test_the_context_is_handed_over_and_is_no_parameter() -> None:
    toolset = FunctionToolset([whoami], name="me")
    [spec] = await toolset.list_tools()
    assert list(spec.parameters["properties"]) == ["greeting"]
    assert await toolset.call("whoami", {}, loose_context()) == {"result": "hello default"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "maths.add: a: is missing; add `a: ...`"),
        ({"a": "two"}, "maths.add: a: must be a whole number, not 'two'"),
        ({"a": 1, "b": -1}, "maths.add: b: must be 0 or more, not -1"),
        ({"a": 1, "c": 1}, "maths.add: c: unknown key"),
    ],
)
async def test_wrong_arguments_are_said_in_one_sentence_and_nothing_is_called(
    arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(ToolError) as raised:
        await call(add, **arguments)
    assert str(raised.value).startswith(said)


async def test_an_unknown_tool_is_an_error_with_the_nearest() -> None:
    with pytest.raises(ToolError, match="no tool is called 'ad'; did you mean 'add'"):
        await call(add, name="ad")


def broken(key: str) -> str:
    """Fails."""
    raise KeyError(key)


async def broken_later(key: str) -> str:
    """Fails."""
    raise KeyError(key)


def told() -> str:
    """Says no."""
    raise InputError("the shop is closed; come back tomorrow")


def leaves() -> str:
    """Ends the program, it thinks."""
    raise SystemExit(3)


def stops() -> str:
    """Ends like an iterator."""
    raise StopIteration


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        (broken, {"key": "x"}, "maths.broken failed with KeyError: 'x'; change the arguments"),
        (broken_later, {"key": "x"}, "maths.broken_later failed with KeyError: 'x'"),
        (broken, {"key": "api_key=sk-abcdef1234567890"}, r"KeyError: 'api_key=\*\*\*'"),
        (told, {}, "maths.told: the shop is closed; come back tomorrow"),
        (leaves, {}, "failed with SystemExit: 3"),
        (stops, {}, "failed with StopIteration"),
    ],
)
async def test_whatever_a_function_raises_is_a_tool_error(
    function: Callable[..., Any], arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(ToolError, match=said):
        await call(function, **arguments)


def endless() -> Iterator[int]:
    """Never ends."""
    while True:
        yield 1


def strange() -> object:
    """Gives an object of the interpreter."""
    return threading.Lock()


def round_and_round() -> object:
    """Holds itself."""
    held: list[object] = []
    held.append(held)
    return held


@pytest.mark.parametrize("function", [endless, strange, round_and_round])
async def test_a_result_that_json_cannot_hold_is_a_tool_error(function: Callable[..., Any]) -> None:
    with pytest.raises(ToolError, match="which JSON cannot hold"):
        await call(function)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, {"result": None}),
        ("text", {"result": "text"}),
        (float("inf"), {"result": "Infinity"}),
        ([Point(x=1)], {"result": [{"x": 1.0, "y": 0.0}]}),
        (Found("a", 2), {"title": "a", "pages": 2}),
        ({"result": 1, "unit": "m"}, {"result": 1, "unit": "m"}),
    ],
)
async def test_results_become_json_objects(value: object, said: dict[str, Any]) -> None:
    def give() -> object:
        """Gives it."""
        return value

    assert await call(give) == said


async def test_a_huge_result_is_refused() -> None:
    def give(size: int, wrapped: bool) -> object:
        """Gives much."""
        return ["x" * size] if wrapped else "x" * size

    for wrapped in (False, True):
        with pytest.raises(ToolError, match=r"returned 5,000,0.. bytes, at most 1,000,000 are taken"):
            await call(give, size=5_000_000, wrapped=wrapped)


async def test_plain_functions_that_hang_do_not_block_others_and_are_bounded() -> None:
    free = threading.Event()

    def hang() -> bool:
        """Waits."""
        return free.wait(10)

    toolset = FunctionToolset([hang], name="slow", max_running=2)
    ctx = loose_context()
    running = [asyncio.ensure_future(toolset.call("hang", {}, ctx)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(ToolError, match="2 calls of 'slow' are still running"):
        await toolset.call("hang", {}, ctx)
    running[0].cancel()
    free.set()
    assert await running[1] == {"result": True}
    with pytest.raises(asyncio.CancelledError):
        await running[0]
    assert await toolset.call("hang", {}, ctx) == {"result": True}


async def test_a_decorated_function_is_still_a_function_and_a_coroutine_in_disguise_is_awaited() -> None:
    @tool(idempotent=True)
    def twice(n: int) -> int:
        """Doubles."""
        return 2 * n

    def later(n: int) -> Any:
        """Doubles later."""
        return asyncio.sleep(0, 2 * n)

    assert twice(4) == 8
    assert await call(twice, n=4) == {"result": 8}
    assert await call(later, n=4) == {"result": 8}


def silent(a: int) -> int:
    return a


def untyped(a) -> int:  # pyright: ignore[reportUnknownParameterType, reportMissingParameterType]
    """Takes anything."""
    return 1


def positional(a: int, /) -> int:
    """Takes no names."""
    return a


def many(*all: int) -> int:
    """Takes many."""
    return 1


def opaque(lock: threading.Event) -> int:
    """Takes what JSON cannot hold."""
    return 1


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (silent, "needs a docstring"),
        (cast("Callable[..., Any]", untyped), "'a' has no type; annotate it"),
        (positional, "'a' cannot be given by name"),
        (many, "'all' cannot be given by name"),
        (opaque, "JSON cannot hold one of its parameters"),
        (lambda: 1, "not a valid name"),
    ],
)
def test_a_function_that_cannot_be_a_tool_is_a_config_error(function: Callable[..., Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        FunctionToolset([function], name="maths")


def test_names_are_checked() -> None:
    with pytest.raises(ConfigError, match="two tools of 'maths' are called 'add'"):
        FunctionToolset([add, add], name="maths")
    with pytest.raises(ConfigError, match=r"'ma\.ths' is not a valid name"):
        FunctionToolset([add], name="ma.ths")
