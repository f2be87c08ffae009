"""Fixtures for pytest: `pytest_plugins = ["agentmesh.testing.fixtures"]` in the conftest.py at the root of the tests.

They need no plugin for async tests and work with one. Without the line above none of this is loaded.
"""

import asyncio
import hashlib
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from agentmesh.agents.base import Agent
from agentmesh.errors import ConfigError
from agentmesh.models.base import ChatRequest
from agentmesh.models.scripted import Reply, ScriptedEmbedder, ScriptedModel
from agentmesh.testing.cassettes import Cassette
from agentmesh.trace.events import Event
from agentmesh.trace.sinks import ListSink
from agentmesh.types import AgentCard

if TYPE_CHECKING:
    from agentmesh.runtime.mesh import Mesh

__all__ = ["MeshFactory", "cassette", "mesh_factory", "scripted_embedder", "scripted_model", "trace_events"]

LONGEST_NAME = 120
"""Characters of a cassette's file name; some file systems take no more than 255 bytes."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--cassette`: what cassettes do."""
    parser.getgroup("agentmesh").addoption(
        "--cassette",
        choices=("replay", "record", "auto"),
        default="replay",
        help="what the fixture `cassette` does: replay what is recorded (the default: nothing is called), "
        "record everything anew, or replay what is there and add what is not",
    )


@pytest.fixture
def scripted_model() -> Callable[..., ScriptedModel]:
    """Makes a model that answers from a script: `scripted_model({"refund": "Within 14 days [m1]."})`."""
    return ScriptedModel


@pytest.fixture
def scripted_embedder() -> ScriptedEmbedder:
    """An embedder without weights: texts with words in common are similar."""
    return ScriptedEmbedder()


@pytest.fixture
def trace_events(_trace_sink: ListSink) -> list[Event]:
    """The events of every run of the meshes of `mesh_factory`, in the order in which they came."""
    return _trace_sink.events


@pytest.fixture
def _trace_sink() -> ListSink:
    return ListSink()


class MeshFactory:
    """Makes meshes that keep nothing, and closes them."""

    def __init__(self, sink: ListSink) -> None:
        self._sink = sink
        self._made: list[tuple[Mesh, asyncio.AbstractEventLoop | None]] = []

    def __call__(
        self,
        agents: Sequence[AgentCard | Agent | Callable[..., Any]],
        replies: Sequence[Reply] | Mapping[str, Reply] | Callable[[ChatRequest], Reply] | None = None,
        **options: Any,
    ) -> "Mesh":
        """A mesh of scripted parts, for `await mesh.ask(...)` or `mesh.ask_sync(...)`; the test's end closes it.

        Args:
            agents: As `build_mesh` takes them.
            replies: The script of its model (see `ScriptedModel`); absent: the last line of each prompt, again.
            options: What else `build_mesh` takes. `model` replaces the scripted one; `embedder` is the scripted one,
                `refiner` the extractive one and `sink` the list of `trace_events`, unless they are given.

        Raises:
            ConfigError: As `build_mesh`; and if `home` is given, for these meshes keep nothing.
        """
        if "home" in options:
            raise ConfigError("a mesh of mesh_factory keeps nothing; use build_mesh(home=...) for one that does")
        if replies is not None and "model" in options:
            raise ConfigError("`replies` is the script of a scripted model; give it or `model`, not both")
        from agentmesh.assembly import build_mesh

        defaults: dict[str, Any] = {
            "model": ScriptedModel(replies),
            "embedder": ScriptedEmbedder(),
            "refiner": "extractive",
            "sink": self._sink,
        }
        mesh = build_mesh(agents, **{**defaults, **options})
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        self._made.append((mesh, loop))
        return mesh

    def close(self) -> None:
        """Close every mesh that was made."""
        while self._made:
            mesh, loop = self._made.pop()
            mesh.close()
            if loop is not None and not loop.is_closed():
                loop.run_until_complete(mesh.aclose())
            else:
                asyncio.run(mesh.aclose())


_FACTORY = pytest.StashKey[MeshFactory]()


@pytest.fixture
def mesh_factory(request: pytest.FixtureRequest, _trace_sink: ListSink) -> MeshFactory:
    """Makes meshes of cards, agents and functions with scripted parts, and closes them after the test."""
    factory = request.node.stash[_FACTORY] = MeshFactory(_trace_sink)
    return factory


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Closes the meshes before any fixture ends: that of a plugin for async tests takes their event loop with it."""
    failed: Exception | None = None
    if (factory := item.stash.get(_FACTORY, None)) is not None:
        try:
            factory.close()
        except Exception as error:
            failed = error
    yield
    if failed is not None:
        raise failed


@pytest.fixture
def cassette(request: pytest.FixtureRequest) -> Iterator[Cassette]:
    """The cassette of this test, `cassettes/<module>.<test>.jsonl` beside its file; a miss fails the test at its end.

    `pytest --cassette=record` makes it anew, `--cassette=auto` adds what is missing.
    """
    mode: Any = request.config.getoption("--cassette")
    item = cast("pytest.Item", request.node)  # pyright: ignore[reportUnknownMemberType]
    tape = Cassette(cassette_path(request.path, item.nodeid), mode)
    yield tape
    tape.check()


def cassette_path(module: Path, node: str) -> Path:
    """Where the cassette of a test stands: a name that every file system takes, different for different tests."""
    name = "::".join([module.stem, *node.split("::")[1:]])
    plain = re.sub(r"[^A-Za-z0-9_.-]+", ".", name).strip(".")
    if plain != name.replace("::", ".") or len(plain) > LONGEST_NAME:
        plain = f"{plain[:LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    return module.parent / "cassettes" / f"{plain}.jsonl"
