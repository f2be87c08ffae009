"""The contract suites: every part of ours keeps its promises, and a part that breaks one is caught."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentmesh.agents import refiners
from agentmesh.agents.base import Agent, Refiner
from agentmesh.agents.expert import ExpertAgent
from agentmesh.agents.function import FunctionAgent
from agentmesh.context import context_routers
from agentmesh.context.base import ContextRouter
from agentmesh.database import Database
from agentmesh.errors import ModelUnavailableError
from agentmesh.journal import DatabaseJournal
from agentmesh.memory.base import MemoryStore
from agentmesh.models.base import ChatRequest, Embedder
from agentmesh.models.scripted import ScriptedEmbedder, ScriptedModel
from agentmesh.routing import Router, routers
from agentmesh.run import Executor, Journal, MemoryJournal
from agentmesh.runtime.executor import LocalExecutor
from agentmesh.testing import (
    AgentContract,
    ChatModelContract,
    ContextRouterContract,
    EmbedderContract,
    ExecutorContract,
    JournalContract,
    MemoryStoreContract,
    RefinerContract,
    RouterContract,
    ScriptedAgent,
    ScriptedRouter,
    ScriptedToolset,
    ToolsetContract,
    TraceSinkContract,
)
from agentmesh.trace.base import NullSink, TraceSink
from agentmesh.trace.events import Event
from agentmesh.trace.redact import Redactor
from agentmesh.trace.sinks import ListSink, MultiSink, QueueSink
from agentmesh.trace.store import TRACE_TABLES, TraceStore
from agentmesh.types import (
    AgentCall,
    AgentCard,
    AgentReply,
    ContextPack,
)

CARD = AgentCard(id="refunds", description="Says when money comes back.")
EMBEDDER = ScriptedEmbedder(256)


# --- what is ours keeps its promises ----------------------------------------------------------------------------------

ALWAYS = {"random", "fixed"}
"""Routers that choose somebody whatever is asked."""


class TestRouters(RouterContract):
    @pytest.fixture(autouse=True, params=[*routers.names(), "scripted"])
    def named(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name: str = request.param
        if self.name in ALWAYS | {"scripted"}:
            monkeypatch.setattr(type(self), "unrelated", None)
        if self.name in ALWAYS:
            monkeypatch.setattr(type(self), "answered_by", None)

    def make(self) -> Router:
        if self.name == "scripted":
            return ScriptedRouter(lambda r: [c.id for c in r.cards if c.id == "orders" and not c.shadow])
        return routers.create(self.name, embedder=EMBEDDER)


class TestContextRouters(ContextRouterContract):
    @pytest.fixture(autouse=True, params=context_routers.names())
    def named(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name: str = request.param
        monkeypatch.setattr(type(self), "reads", self.name != "none")
        monkeypatch.setattr(type(self), "own_budget", self.name == "full")

    def make(self, store: MemoryStore, embedder: Embedder) -> ContextRouter:
        return context_routers.create(self.name, store=store, embedder=embedder)


class TestRefiners(RefinerContract):
    @pytest.fixture(autouse=True, params=[(name, model) for name in refiners.names() for model in ("", "up", "down")
                                          if model or name != "model"])  # fmt: skip
    def named(self, request: pytest.FixtureRequest) -> None:
        self.name, self.kind = request.param

    def make(self) -> Refiner:
        model = None
        if self.kind == "up":
            model = ScriptedModel(_merged)
        elif self.kind == "down":
            model = ScriptedModel(lambda _: ModelUnavailableError("the model is down; start it"))
        return refiners.create(self.name, model=model, titles={"vpn": "Remote access desk"})


def _merged(request: ChatRequest) -> str:
    said = request.messages[-1].text
    texts = [t for t in ("paid out within 14 days.", "paid out within 30 days.", "a password change.") if t in said]
    agents = [a for a in ("billing", "refunds", "vpn") if f"agent {a} " in said]
    return json.dumps({"answer": " ".join(texts), "used": agents, "conflicts": []})


class TestExpertAgent(AgentContract):
    @pytest.fixture(autouse=True, params=[True, False], ids=["capable", "not capable"])
    def capable(self, request: pytest.FixtureRequest) -> None:
        self.is_capable: bool = request.param

    def make(self) -> Agent:
        return ExpertAgent(CARD, ScriptedModel(lambda _: "Within 14 days [m1].", capable=self.is_capable))

    def make_broken(self) -> Agent | None:
        down = ScriptedModel(lambda _: ModelUnavailableError("the model is down; start it"))
        return ExpertAgent(CARD.model_copy(update={"limits": CARD.limits.model_copy(update={"retries": 0})}), down)


class TestFunctionAgent(AgentContract):
    def make(self) -> Agent:
        async def say(text: str, pack: ContextPack) -> str:
            await asyncio.sleep(0)
            return "Within 14 days [m1]." if pack.items else ""

        return FunctionAgent(CARD, say)

    def make_broken(self) -> Agent | None:
        def fail(text: str) -> str:
            raise KeyError(text)

        return FunctionAgent(CARD, fail)


class TestScriptedAgent(AgentContract):
    def make(self) -> Agent:
        return ScriptedAgent(CARD, {"": "Within 14 days [m1]."})

    def make_broken(self) -> Agent | None:
        return ScriptedAgent(CARD, [RuntimeError("the ledger is closed")])


def added(arguments: dict[str, Any]) -> int:
    return arguments["a"] + arguments["b"]


class TestScriptedToolset(ToolsetContract):
    tool = "add"
    arguments = {"a": 1, "b": 2}  # noqa: RUF012
    refused = {"a": 1}  # noqa: RUF012

    def make(self) -> ScriptedToolset:
        return ScriptedToolset({"add": added})


class TestSinks(TraceSinkContract):
    @pytest.fixture(autouse=True, params=["null", "list", "multi", "queue", "store"])
    def named(self, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        self.name, self.folder = request.param, tmp_path

    @asynccontextmanager
    async def make(self) -> AsyncGenerator[TraceSink, None]:
        match self.name:
            case "null":
                yield NullSink()
            case "list":
                yield ListSink()
            case "multi":
                yield MultiSink(ListSink(), NullSink())
            case "queue":
                yield QueueSink()
            case _:
                db = Database(self.folder / "mesh.db", (TRACE_TABLES,))
                store = TraceStore(self.folder, db, Redactor())
                yield store
                await store.aclose()
                await db.aclose()

    async def kept(self, sink: TraceSink) -> Sequence[Event] | None:
        match sink:
            case ListSink():
                return sink.events
            case MultiSink():
                return await self.kept(sink.sinks[0])
            case QueueSink():
                sink.close()
                return [event async for event in sink]
            case TraceStore():
                return await asyncio.to_thread(sink.read, "r1")
            case _:
                return None


class TestLocalExecutor(ExecutorContract):
    def make(self, run: Callable[[AgentCall], Awaitable[AgentReply]]) -> Executor:
        return LocalExecutor(run, journal=MemoryJournal(), gate=asyncio.Semaphore(4))


class TestMemoryJournal(JournalContract):
    def make(self) -> Journal:
        return MemoryJournal()


class TestDatabaseJournal(JournalContract):
    @pytest.fixture(autouse=True, params=["all runs", "new run", "resumed run"])
    def opened_as(self, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        self.kind, self.path = request.param, tmp_path / "mesh.db"

    @asynccontextmanager
    async def make(self) -> AsyncGenerator[Journal, None]:
        db = Database(self.path)
        whole = DatabaseJournal(db)
        yield whole if self.kind == "all runs" else await whole.for_run("r1", fresh=self.kind == "new run")
        await db.aclose()

    @asynccontextmanager
    async def _next(self) -> AsyncGenerator[Journal, None]:
        db = Database(self.path)
        yield await DatabaseJournal(db).for_run("r1")
        await db.aclose()

    def reopen(self, journal: Journal) -> Any:
        return self._next()


def test_every_check_says_its_promise_in_its_docstring() -> None:
    suites = (AgentContract, ChatModelContract, ContextRouterContract, EmbedderContract, ExecutorContract,
              JournalContract, MemoryStoreContract, RefinerContract, RouterContract, ToolsetContract,
              TraceSinkContract)  # fmt: skip
    checks = [getattr(suite, name) for suite in suites for name in dir(suite) if name.startswith("test_")]
    assert len(checks) > 70
    assert [check for check in checks if not (check.__doc__ or "").startswith("Promise: ")] == []
