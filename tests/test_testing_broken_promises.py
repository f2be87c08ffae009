"""The contract suites can fail: a part that breaks a promise is caught, and the message says which."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from unittest import SkipTest

import numpy as np
import pytest
from numpy.typing import NDArray

from agentmesh.agents import refiners
from agentmesh.context import context_routers
from agentmesh.errors import ModelUnavailableError, RoutingError, ToolError
from agentmesh.memory.arrays import ArrayStore
from agentmesh.memory.base import Found, MemoryFilter, MemoryStore
from agentmesh.models.base import ChatChunk, ChatModel, ChatReply, ChatRequest, Embedder, ToolSpec
from agentmesh.models.scripted import ScriptedEmbedder, ScriptedModel
from agentmesh.run import Journal, MemoryJournal, RunContext
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
    ScriptedRouter,
    ScriptedToolset,
    ToolsetContract,
    TraceSinkContract,
)
from agentmesh.testing.contracts import BrokenPromiseError, Contract
from agentmesh.tokens import counter_for
from agentmesh.trace.base import TraceSink
from agentmesh.trace.events import Event
from agentmesh.trace.sinks import ListSink
from agentmesh.types import (
    AgentCall,
    AgentCard,
    AgentReply,
    Answer,
    AnswerStatus,
    Chosen,
    ContextPack,
    ContextRequest,
    Contributor,
    MemoryItem,
    Mode,
    PackItem,
    ReplyStatus,
    RouteRequest,
    RoutingDecision,
    Task,
    Usage,
)

CARD = AgentCard(id="refunds", description="Says when money comes back.")


def suite_of(kind: type[Contract[Any]], make: Callable[..., Any], **fields: Any) -> Contract[Any]:
    """A suite for a part that `make` gives; `fields` replace what the suite says of itself."""
    members = {name: staticmethod(value) if callable(value) else value for name, value in fields.items()}
    return type("Suite", (kind,), {"make": staticmethod(make), **members})()


def broken_by(suite: Contract[Any], check: str) -> str:
    """The message with which this check fails; empty if it holds or is skipped."""
    try:
        getattr(suite, f"test_{check}")()
    except BrokenPromiseError as error:
        return str(error)
    except SkipTest:
        pass
    return ""


class WrongRouter:
    """Decides as the function says, or as a right router would where it gives nothing."""

    name = "wrong"

    def __init__(self, change: Callable[[RoutingDecision, RouteRequest], object]) -> None:
        self._change, self._right = change, ScriptedRouter(self._decide)

    @staticmethod
    def _decide(request: RouteRequest) -> list[str]:
        if "moons" in request.task.text:
            return []
        return [card.id for card in request.cards if card.id == "orders" and not card.shadow]

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        right = await self._right.route(request, ctx)
        changed: Any = self._change(right, request)
        return right if changed is None else changed


def chosen(*ids: str, mode: Mode = Mode.SOLO, **changes: Any) -> Callable[[RoutingDecision, RouteRequest], object]:
    entries = tuple(Chosen(agent=agent, score=1.0, weight=1 / len(ids)) for agent in ids)

    def change(decision: RoutingDecision, request: RouteRequest) -> RoutingDecision:
        marked = tuple(c.model_copy(update={"chosen": c.agent in ids}) for c in decision.candidates)
        return decision.model_copy(update={"chosen": entries, "mode": mode, "candidates": marked, **changes})

    return change


def raising(error: Exception) -> Callable[..., object]:
    def change(*_: object) -> object:
        raise error

    return change


def without_orders(decision: RoutingDecision, request: RouteRequest) -> RoutingDecision:
    return decision.model_copy(update={"candidates": decision.candidates[1:], "chosen": (), "mode": Mode.OUT_OF_SCOPE})


class MixingRouter(WrongRouter):
    """Keeps the request in itself while it waits."""

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        self.request = request
        await asyncio.sleep(0)
        return await super().route(self.request, ctx)


def nothing(*_: object) -> None:
    return None


ROUTERS: dict[str, tuple[Callable[[], object], str, str]] = {
    "guesses": (
        lambda: WrongRouter(chosen("orders")),
        "nothing_fits_is_out_of_scope_rather_than_a_guess",
        "got the mode solo",
    ),
    "is wrong": (lambda: WrongRouter(chosen("vpn")), "question_goes_to_the_agent_that_is_for_it", "not to 'orders'"),
    "invents an agent": (
        lambda: WrongRouter(chosen("ghost")),
        "every_text_gets_a_whole_decision",
        "'ghost'], which is no candidate",
    ),
    "calls a shadow": (
        lambda: WrongRouter(chosen("orders")),
        "shadow_is_considered_and_never_chosen",
        "which is a shadow",
    ),
    "hides a shadow": (
        lambda: WrongRouter(lambda d, r: d.model_copy(update={"candidates": ()}) if not d.chosen else None),
        "shadow_is_considered_and_never_chosen",
        "is not among the candidates",
    ),
    "chooses twice": (
        lambda: WrongRouter(chosen("vpn", "vpn", mode=Mode.PARALLEL)),
        "every_text_gets_a_whole_decision",
        "twice",
    ),
    "chooses too many": (
        lambda: WrongRouter(chosen("vpn", "orders", mode=Mode.PARALLEL)),
        "no_more_agents_than_allowed",
        "1 are allowed",
    ),
    "chooses without candidates": (
        lambda: WrongRouter(chosen("vpn")),
        "without_candidates_everything_is_out_of_scope",
        "no candidate",
    ),
    "weighs badly": (
        lambda: WrongRouter(
            lambda d, r: d.model_copy(update={"chosen": tuple(c.model_copy(update={"weight": 0.4}) for c in d.chosen)})
        ),
        "question_goes_to_the_agent_that_is_for_it",
        "add up to 0.4",
    ),
    "gives no reason": (
        lambda: WrongRouter(lambda d, r: d.model_copy(update={"reason": ""})),
        "every_text_gets_a_whole_decision",
        "gave no reason",
    ),
    "is solo with nobody": (
        lambda: WrongRouter(lambda d, r: d.model_copy(update={"mode": Mode.SOLO})),
        "without_candidates_everything_is_out_of_scope",
        "0 agents in the mode solo",
    ),
    "asks without clarify": (
        lambda: WrongRouter(lambda d, r: d.model_copy(update={"question": "Which?"})),
        "every_text_gets_a_whole_decision",
        "gave the question",
    ),
    "keeps no JSON": (
        lambda: WrongRouter(lambda d, r: d.model_copy(update={"evidence": {"rows": (1, 2)}})),
        "every_text_gets_a_whole_decision",
        "does not survive JSON",
    ),
    "raises": (
        lambda: WrongRouter(raising(KeyError("orders"))),
        "every_text_gets_a_whole_decision",
        "it raised KeyError",
    ),
    "knows old cards only": (
        lambda: WrongRouter(without_orders),
        "new_card_needs_no_retraining",
        "came with the second question",
    ),
    "falls over tried": (
        lambda: WrongRouter(lambda d, r: raising(KeyError("gone"))() if r.tried else None),
        "agents_that_were_tried_do_no_harm",
        "KeyError",
    ),
    "mixes": (lambda: MixingRouter(nothing), "questions_at_the_same_time_do_not_mix", "which is no candidate"),
    "times out with another error": (
        lambda: WrongRouter(raising(TimeoutError())),
        "no_time_left_is_a_decision_or_a_routing_error",
        "was not done",
    ),
    "gives a list": (
        lambda: WrongRouter(lambda d, r: ["orders"]),
        "every_text_gets_a_whole_decision",
        "gave list, no RoutingDecision",
    ),
    "is no router": (lambda: object(), "every_text_gets_a_whole_decision", "is no Router: it lacks name, route"),
}


@pytest.mark.parametrize("name", ROUTERS)
def test_a_router_that_breaks_a_promise_is_caught(name: str) -> None:
    make, check, said = ROUTERS[name]
    assert said in broken_by(suite_of(RouterContract, make), check)


def test_the_router_that_the_wrong_ones_are_made_of_is_right() -> None:
    suite = suite_of(RouterContract, lambda: WrongRouter(nothing))
    checks = [name.removeprefix("test_") for name in dir(suite) if name.startswith("test_")]
    assert len(checks) == 10
    assert {check: broken_by(suite, check) for check in checks} == dict.fromkeys(checks, "")


def test_a_router_may_raise_a_routing_error_when_there_is_no_time() -> None:
    suite = suite_of(RouterContract, lambda: WrongRouter(raising(RoutingError("no time is left; raise it"))))
    assert broken_by(suite, "no_time_left_is_a_decision_or_a_routing_error") == ""


class WrongContext:
    """Packs what the function says of everything that the store lists."""

    name = "wrong"

    def __init__(self, store: MemoryStore, embedder: Embedder, **options: Any) -> None:
        self._store, self._embedder, self._options = store, embedder, options

    async def select(self, request: ContextRequest, ctx: RunContext) -> ContextPack:
        right = context_routers.create("role_aware", store=self._store, embedder=self._embedder)
        options = dict(self._options)
        if tenant := options.pop("tenant", None):
            request = request.model_copy(update={"task": request.task.model_copy(update={"tenant": tenant})})
        if widen := options.pop("widen", 0):
            request = request.model_copy(update={"budget_tokens": (request.budget_tokens or 0) + widen})
        if options.pop("quiet", False):
            return ContextPack(agent=request.card.id, role=request.card.role, budget_tokens=400)
        if options.pop("nosy", False):
            return await self._everything(request)
        try:
            pack = await right.select(request, ctx)
        except Exception as error:
            raise options.get("error", error) from error
        change = options.get("change")
        return change(pack) if change and pack.items else pack

    async def _everything(self, request: ContextRequest) -> ContextPack:
        """Every item as it stands, whoever may read it."""
        items = await self._store.list(request.task.tenant, MemoryFilter(superseded=True, user=request.task.user))
        ghosts = await self._store.get(request.task.tenant, ["secret"])
        packed = tuple(
            PackItem(ref=f"m{n}", item_id=i.id, text=i.text, tokens=1)
            for n, i in enumerate({i.id: i for i in [*items, *ghosts]}.values(), start=1)
        )
        text = "\n".join(["<<<", *(f"[{i.ref}] {i.text}" for i in packed), ">>>"]) if packed else ""
        tokens = counter_for("gpt-4").count(text)
        return ContextPack(agent=request.card.id, role=request.card.role, items=packed, text=text, tokens=tokens,
                           budget_tokens=max(tokens, 400))  # fmt: skip


def other_text(pack: ContextPack) -> ContextPack:
    items = tuple(i.model_copy(update={"text": "made up"}) for i in pack.items)
    return pack.model_copy(update={"items": items})


def one_token(pack: ContextPack) -> ContextPack:
    return pack.model_copy(update={"tokens": 1})


def no_items(pack: ContextPack) -> ContextPack:
    return pack.model_copy(update={"items": ()})


CONTEXTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "overruns": ({"widen": 50}, "pack_is_never_over_budget", "the request allows"),
    "overruns the role": ({"nosy": True}, "budget_is_that_of_the_role", "the role allows 40"),
    "counts wrongly": ({"change": one_token}, "memory_is_read", "its text counts"),
    "reads nothing": ({"quiet": True}, "memory_is_read", "which answers the question, is not there"),
    "reads another tenant": ({"tenant": "default"}, "another_tenant_is_never_read", "of another tenant"),
    "reads what is forbidden": ({"nosy": True}, "what_is_not_for_the_agent_stays_out", "the pack holds an item that"),
    "lets items out": ({"nosy": True}, "items_are_data", "which ends the block"),
    "changes items": ({"change": other_text}, "memory_is_read", "is not that of memory"),
    "packs a ghost": ({"change": no_items}, "memory_is_read", "without items"),
    "raises something else": ({"error": KeyError("disk")}, "broken_memory_is_a_context_error", "it raised KeyError"),
    "hides that memory is gone": ({"quiet": True}, "broken_memory_is_a_context_error", "as if memory were empty"),
    "fills the void": ({"nosy": True}, "pack_is_never_over_budget", "the request allows 0"),
}


@pytest.mark.parametrize("name", CONTEXTS)
def test_a_context_router_that_breaks_a_promise_is_caught(name: str) -> None:
    options, check, said = CONTEXTS[name]
    suite = suite_of(ContextRouterContract, partial(WrongContext, **options))
    assert said in broken_by(suite, check)


def test_a_pack_out_of_an_empty_memory_is_caught() -> None:
    class Inventive(WrongContext):
        async def select(self, request: ContextRequest, ctx: RunContext) -> ContextPack:
            return ContextPack(agent="refunds", role="solver", tokens=3, budget_tokens=400, text="something made up")

    assert "without items" in broken_by(suite_of(ContextRouterContract, Inventive), "empty_memory_gives_an_empty_pack")


class WrongAgent:
    """Replies as the function says."""

    card = CARD

    def __init__(self, answer: Callable[[AgentCall, ContextPack], Any], *, wait: bool = False) -> None:
        self._answer, self._wait = answer, wait

    async def answer(self, call: AgentCall, pack: ContextPack, ctx: RunContext) -> AgentReply:
        try:
            await asyncio.sleep(0.001 if self._wait else 0)
        except asyncio.CancelledError:
            if not self._wait:
                raise
            return call.reply(ReplyStatus.CANCELLED, error="cancelled")
        return self._answer(call, pack)


class ForgetfulAgent(WrongAgent):
    """Keeps the call in itself while it waits."""

    async def answer(self, call: AgentCall, pack: ContextPack, ctx: RunContext) -> AgentReply:
        self.call = call
        await asyncio.sleep(0)
        return self._answer(self.call, pack)


class ChangingAgent(WrongAgent):
    async def answer(self, call: AgentCall, pack: ContextPack, ctx: RunContext) -> AgentReply:
        self.card = self.card.model_copy(update={"name": self.card.name + "!"})
        return self._answer(call, pack)


class PickyAgent(WrongAgent):
    async def answer(self, call: AgentCall, pack: ContextPack, ctx: RunContext) -> AgentReply:
        await ctx.journal.lookup("r1/x")
        return self._answer(call, pack)


def said(call: AgentCall, pack: ContextPack) -> AgentReply:
    return call.reply(ReplyStatus.ANSWERED, text="Within 14 days.")


def only_with_notes(call: AgentCall, pack: ContextPack) -> AgentReply:
    return call.reply(ReplyStatus.ANSWERED, text=pack.items[0].text)


def reply_with(**changes: Any) -> Callable[[AgentCall, ContextPack], AgentReply]:
    return lambda call, pack: said(call, pack).model_copy(update=changes)


AGENTS: dict[str, tuple[Callable[[], WrongAgent], str, str]] = {
    "gives a text": (
        lambda: WrongAgent(lambda c, p: "14 days"),
        "reply_belongs_to_the_call",
        "gave str, no AgentReply",
    ),
    "names another call": (
        lambda: WrongAgent(reply_with(call_id="r9")),
        "reply_belongs_to_the_call",
        "names the call 'r9'",
    ),
    "speaks for another": (lambda: WrongAgent(reply_with(agent="vpn")), "reply_belongs_to_the_call", "is by 'vpn'"),
    "cites what it did not read": (
        lambda: WrongAgent(reply_with(cited=("item9",))),
        "reply_belongs_to_the_call",
        "['item9'], which is not in its pack",
    ),
    "answers nothing": (lambda: WrongAgent(reply_with(text=" ")), "reply_belongs_to_the_call", "nothing is said"),
    "fails without a word": (
        lambda: WrongAgent(reply_with(status=ReplyStatus.FAILED)),
        "reply_belongs_to_the_call",
        "without an `error`",
    ),
    "keeps no JSON": (
        lambda: WrongAgent(reply_with(structured=(1, 2))),
        "reply_belongs_to_the_call",
        "does not survive JSON",
    ),
    "changes its card": (lambda: ChangingAgent(said), "card_does_not_change", "the card changed"),
    "needs notes": (lambda: WrongAgent(only_with_notes), "odd_questions_get_a_reply", "IndexError"),
    "needs a journal": (lambda: PickyAgent(said), "run_without_means_gets_a_reply", "it raised StoreError"),
    "swallows cancellation": (
        lambda: WrongAgent(said, wait=True),
        "cancellation_passes_through",
        "cancelled while it worked",
    ),
    "mixes": (lambda: ForgetfulAgent(said), "calls_at_the_same_time_do_not_mix", "names the call"),
}


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_that_breaks_a_promise_is_caught(name: str) -> None:
    make, check, words = AGENTS[name]
    assert words in broken_by(suite_of(AgentContract, make), check)


def test_an_agent_that_hides_a_failure_is_caught() -> None:
    good, bad = (lambda: WrongAgent(said)), (lambda: WrongAgent(raising(KeyError("ledger"))))
    check = "failure_is_a_reply"
    assert "as if nothing had failed" in broken_by(suite_of(AgentContract, good, make_broken=good), check)
    assert "it raised KeyError" in broken_by(suite_of(AgentContract, good, make_broken=bad), check)
    assert broken_by(suite_of(AgentContract, good), check) == ""


class WrongRefiner:
    """Answers as the extractive refiner does, changed."""

    name = "wrong"

    def __init__(self, change: Callable[[Answer], Any]) -> None:
        self._change, self._right = change, refiners.create("extractive", model=None, titles={})

    async def refine(self, task: Task, replies: Sequence[AgentReply], ctx: RunContext) -> Answer:
        return self._change(await self._right.refine(task, replies, ctx))


def answer_with(**changes: Any) -> Callable[[], WrongRefiner]:
    return lambda: WrongRefiner(lambda answer: answer.model_copy(update=changes))


def contributors_changed(change: Callable[[list[Contributor]], list[Contributor]]) -> Callable[[], WrongRefiner]:
    return lambda: WrongRefiner(lambda a: a.model_copy(update={"contributors": tuple(change(list(a.contributors)))}))


def one_side(answer: Answer) -> Answer:
    cut = tuple(c.model_copy(update={"sides": c.sides[:1]}) for c in answer.conflicts)
    return answer.model_copy(update={"conflicts": cut})


REFINERS: dict[str, tuple[Callable[[], WrongRefiner], str, str]] = {
    "says something else": (
        answer_with(text="Who knows."),
        "one_reply_is_the_answer",
        "does not say what the reply says",
    ),
    "loses somebody": (
        contributors_changed(lambda c: c[1:]),
        "every_contributor_is_kept_in_order",
        "the contributors are",
    ),
    "turns them round": (
        contributors_changed(lambda c: c[::-1]),
        "every_contributor_is_kept_in_order",
        "the contributors are refunds",
    ),
    "loses what one says": (
        lambda: WrongRefiner(lambda a: a.model_copy(update={"text": a.text.split("\n")[0]})),
        "every_contributor_is_kept_in_order",
        "lost '14 days'",
    ),
    "hides a conflict": (answer_with(conflicts=()), "conflicts_are_named_with_both_sides", "`conflicts` is empty"),
    "takes a side": (lambda: WrongRefiner(one_side), "conflicts_are_named_with_both_sides", "has the sides"),
    "hides a failure": (answer_with(status=AnswerStatus.ANSWERED), "failed_reply_is_named", "the answer is answered"),
    "finds an answer in nothing": (
        answer_with(status=AnswerStatus.ANSWERED),
        "nothing_useful_is_no_answer",
        "answered",
    ),
    "calls failure no answer": (answer_with(status=AnswerStatus.NO_ANSWER), "all_failed_is_failed", "was no_answer"),
    "is silent": (answer_with(text=""), "nothing_useful_is_no_answer", "the text is empty"),
    "answers another run": (answer_with(run_id="r0"), "one_reply_is_the_answer", "belongs to the run 'r0'"),
    "is anonymous": (answer_with(refiner=""), "one_reply_is_the_answer", "which refiner ran"),
}


@pytest.mark.parametrize("name", REFINERS)
def test_a_refiner_that_breaks_a_promise_is_caught(name: str) -> None:
    make, check, words = REFINERS[name]
    assert words in broken_by(suite_of(RefinerContract, make), check)


class OpenStore(ArrayStore):
    """Keeps its promises, but for what a subclass changes."""

    def __init__(self) -> None:
        super().__init__("scripted-64", 64)


class OneShelf(OpenStore):
    """Forgets whose an item is."""

    def put(self, tenant: str, items: Sequence[MemoryItem], vectors: NDArray[np.float32]) -> None:
        super().put("all", items, vectors)

    async def get(self, tenant: str, ids: Sequence[str]) -> list[MemoryItem]:
        return await super().get("all", ids)


class FoldingStore(OpenStore):
    """Takes names that differ in case, or have a slash, for the same."""

    def put(self, tenant: str, items: Sequence[MemoryItem], vectors: NDArray[np.float32]) -> None:
        super().put(tenant.lower(), items, vectors)

    async def get(self, tenant: str, ids: Sequence[str]) -> list[MemoryItem]:
        return await super().get(tenant.lower(), ids)


class UnfilteredStore(OpenStore):
    async def search(
        self, tenant: str, query: NDArray[np.float32], *, k: int, where: MemoryFilter | None = None
    ) -> list[Found]:
        return await super().search(tenant, query, k=k)


class LateFilterStore(OpenStore):
    """Takes the k best first and filters them then."""

    async def search(
        self, tenant: str, query: NDArray[np.float32], *, k: int, where: MemoryFilter | None = None
    ) -> list[Found]:
        allowed = {item.id for item in await self.list(tenant, where)}
        return [hit for hit in await super().search(tenant, query, k=k) if hit.item.id in allowed]


class WorstFirstStore(OpenStore):
    async def search(
        self, tenant: str, query: NDArray[np.float32], *, k: int, where: MemoryFilter | None = None
    ) -> list[Found]:
        return (await super().search(tenant, query, k=k, where=where))[::-1]


class GreedyStore(OpenStore):
    async def search(
        self, tenant: str, query: NDArray[np.float32], *, k: int, where: MemoryFilter | None = None
    ) -> list[Found]:
        return await super().search(tenant, query, k=k + 1, where=where)


class StrippingStore(OpenStore):
    """Loses what no index needs."""

    def put(self, tenant: str, items: Sequence[MemoryItem], vectors: NDArray[np.float32]) -> None:
        super().put(tenant, [item.model_copy(update={"lineage": ()}) for item in items], vectors)


class KeepingStore(OpenStore):
    """Never replaces and never deletes."""

    def put(self, tenant: str, items: Sequence[MemoryItem], vectors: NDArray[np.float32]) -> None:
        for item, vector in zip(items, vectors, strict=True):
            if not self.has(tenant, item.id):
                super().put(tenant, [item], vector[None])

    async def delete(self, tenant: str, ids: Sequence[str]) -> int:
        return len(ids)


class NewestFirstStore(OpenStore):
    async def list(self, tenant: str, where: MemoryFilter | None = None) -> list[MemoryItem]:
        return (await super().list(tenant, where))[::-1]


class TolerantStore(OpenStore):
    async def add(self, tenant: str, items: Sequence[MemoryItem], vectors: NDArray[np.float32]) -> None:
        fitting = np.zeros((len(items), 64), np.float32)
        await super().add(tenant, items, vectors if vectors.shape == fitting.shape else fitting)


class BusyStore(OpenStore):
    async def flush(self) -> int:
        return 1


class ForgetfulStore(OpenStore):
    """Loses what comes while it works."""

    busy = False

    async def add(self, tenant: str, items: Sequence[MemoryItem], vectors: NDArray[np.float32]) -> None:
        if self.busy:
            return
        self.busy = True
        await asyncio.sleep(0)
        await super().add(tenant, items, vectors)
        self.busy = False


class OnceStore(OpenStore):
    closed = False

    async def aclose(self) -> None:
        if self.closed:
            raise RuntimeError("it is closed already")
        self.closed = True


class KeylessStore(OpenStore):
    async def by_key(self, tenant: str, keys: Sequence[str]) -> Sequence[MemoryItem]:
        return (await super().by_key(tenant, keys))[:1]


MEMORIES: dict[type[OpenStore], tuple[str, str]] = {
    OneShelf: ("tenants_never_meet", "for the tenant 'acme'"),
    FoldingStore: ("tenants_never_meet", "for the tenant 'acme'"),
    UnfilteredStore: ("filter_shows_only_what_the_reader_may_see", "which this reader may not see"),
    LateFilterStore: ("filter_shows_only_what_the_reader_may_see", "the filter comes first"),
    WorstFirstStore: ("search_gives_the_best_first", "the order was ['far', 'near', 'nearer']"),
    GreedyStore: ("search_gives_the_best_first", "k=1 gave"),
    StrippingStore: ("item_comes_back_as_it_was", "or changed a field"),
    KeepingStore: ("adding_again_replaces", "list gave []"),
    NewestFirstStore: ("lists_are_oldest_first", "the list is"),
    TolerantStore: ("vectors_that_do_not_fit_are_refused", "of another embedder's length"),
    BusyStore: ("nothing_does_no_harm", "a flush of nothing"),
    ForgetfulStore: ("items_added_at_the_same_time_are_all_there", "1 of 20 are there"),
    OnceStore: ("closing_twice_is_fine", "it is closed already"),
    KeylessStore: ("versions_are_found_by_key", "by_key gave ['old']"),
}


@pytest.mark.parametrize("store", MEMORIES, ids=lambda store: store.__name__)
def test_a_store_that_breaks_a_promise_is_caught(store: type[OpenStore]) -> None:
    check, words = MEMORIES[store]

    class Closed(store):  # the suite closes what it made: that must not be what fails
        async def aclose(self) -> None:
            try:
                await super().aclose()
            except RuntimeError:
                if check == "closing_twice_is_fine" and not getattr(self, "said", False):
                    self.said = True
                    raise

    assert words in broken_by(suite_of(MemoryStoreContract, Closed), check)


@pytest.mark.parametrize(
    ("check", "words"), [("last_of_one_id_stays", "['first']"), ("delete_counts_and_lasts", "it said 3")]
)
def test_a_store_that_never_lets_go_breaks_more_than_one_promise(check: str, words: str) -> None:
    assert words in broken_by(suite_of(MemoryStoreContract, KeepingStore), check)


def test_a_store_of_another_embedder_or_tenant_is_caught() -> None:
    class Other(OpenStore):
        embedder_name = "minilm"  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

        def put(self, tenant: str, items: Sequence[MemoryItem], vectors: NDArray[np.float32]) -> None:
            for item, vector in zip(items, vectors, strict=True):
                super().put(item.tenant, [item], vector[None])

    suite = suite_of(MemoryStoreContract, Other)
    assert "make it for 'scripted-64'" in broken_by(suite, "it_names_its_embedder")
    assert "its tenant's name" in broken_by(suite, "item_belongs_to_the_tenant_it_was_added_for")


class WrongModel(ScriptedModel):
    """Answers, changed."""

    def __init__(self, change: Callable[[ChatReply], Any] = lambda reply: reply, *, chunks: str = "") -> None:
        super().__init__(lambda _: "Blue.")
        self._change, self._chunks = change, chunks

    async def complete(self, request: ChatRequest) -> ChatReply:
        return self._change(await super().complete(request))

    async def stream(self, request: ChatRequest) -> AsyncIterator[ChatChunk]:
        reply = await self.complete(request)
        if self._chunks == "late":
            yield ChatChunk(reply=reply)
        yield ChatChunk(text="Red." if self._chunks == "other" else reply.text)
        if self._chunks != "late":
            yield ChatChunk(reply=reply)


class GivenUpModel(WrongModel):
    """Is lost once somebody leaves."""

    async def complete(self, request: ChatRequest) -> ChatReply:
        if self.requests and len(self.requests) != self.answered:
            raise ModelUnavailableError("somebody left; start it again")
        self.requests.append(request)
        await asyncio.sleep(0.001)
        self.answered = len(self.requests)
        return self._change(self._counted(request, "Blue."))

    answered = 0


class ClosedModel(WrongModel):
    closed = 0

    async def aclose(self) -> None:
        self.closed += 1
        if self.closed == 2:
            raise RuntimeError("it is closed already")


def reply_changed(**changes: Any) -> Callable[[], ChatModel]:
    return lambda: WrongModel(lambda reply: reply.model_copy(update=changes))


def usage(**values: int) -> dict[str, Any]:
    return {"usage": Usage.model_validate({"calls": 1, "prompt_tokens": 5, "completion_tokens": 1, **values})}


MODELS: dict[str, tuple[Callable[[], ChatModel], str, str]] = {
    "is silent": (reply_changed(text=""), "reply_has_text_and_usage", "the reply is empty"),
    "counts no call": (reply_changed(**usage(calls=0)), "reply_has_text_and_usage", "counts as 0"),
    "counts no prompt": (reply_changed(**usage(prompt_tokens=0)), "reply_has_text_and_usage", "counts no tokens"),
    "writes too much": (
        reply_changed(**usage(completion_tokens=99)),
        "reply_has_text_and_usage",
        "99 tokens of at most 12",
    ),
    "is anonymous": (reply_changed(model=""), "calls_at_the_same_time", "which model answered"),
    "replies too early": (lambda: WrongModel(chunks="late"), "stream_ends_with_the_reply", "have a reply"),
    "streams something else": (
        lambda: WrongModel(chunks="other"),
        "stream_ends_with_the_reply",
        "the pieces make 'Red.'",
    ),
    "writes no JSON": (lambda: WrongModel(), "reply_to_a_schema_is_json", "is no JSON object"),
    "writes other JSON": (
        lambda: WrongModel(lambda r: r.model_copy(update={"text": '{"colour": "pink"}'})),
        "reply_to_a_schema_is_json",
        "does not fit the schema",
    ),
    "is lost": (lambda: GivenUpModel(), "call_that_is_given_up_does_no_harm", "somebody left"),
    "closes once": (lambda: ClosedModel(), "closing_twice_is_fine", "closed already"),
    "has no name": (lambda: ScriptedModel(name=""), "info_says_what_it_is", "it has no name"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_breaks_a_promise_is_caught(name: str) -> None:
    make, check, words = MODELS[name]
    assert words in broken_by(suite_of(ChatModelContract, make), check)


def test_a_model_that_knows_no_time_is_caught() -> None:
    suite = suite_of(ChatModelContract, WrongModel, make_slow=WrongModel)
    assert "although half a millisecond was allowed" in broken_by(suite, "no_answer_in_time_is_a_model_timeout")
    other = suite_of(ChatModelContract, WrongModel, make_slow=lambda: ScriptedModel([ModelUnavailableError("down")]))
    assert "complete raised ModelUnavailableError" in broken_by(other, "no_answer_in_time_is_a_model_timeout")


class WrongEmbedder(ScriptedEmbedder):
    def __init__(self, change: Callable[[NDArray[np.float32], Sequence[str]], Any]) -> None:
        super().__init__()
        self._change = change

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._change(await super().embed(texts), texts)


def limited(vectors: NDArray[np.float32], texts: Sequence[str]) -> NDArray[np.float32]:
    if any(len(text) > 10_000 for text in texts):
        raise ValueError("too long")
    return vectors


def crowded(vectors: NDArray[np.float32], texts: Sequence[str]) -> NDArray[np.float32]:
    mixed = vectors + 0.1 * vectors.sum(axis=0)
    return (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)


EMBEDDERS: dict[str, tuple[Callable[[NDArray[np.float32], Sequence[str]], Any], str, str]] = {
    "is long": (lambda v, t: v * 2, "vectors_have_unit_length", "the lengths are [2.0"),
    "is float64": (lambda v, t: v.astype(np.float64), "vectors_have_unit_length", "float64"),
    "loses a row": (lambda v, t: v[1:], "vectors_have_unit_length", "gave the shape (3, 256)"),
    "is flat when empty": (lambda v, t: v if len(t) else np.zeros(0, np.float32), "no_texts_give_no_vectors", "(0,)"),
    "depends on company": (crowded, "vector_depends_on_the_text_alone", "a number differs"),
    "is picky": (limited, "odd_texts_are_embedded", "it raised ValueError"),
}


@pytest.mark.parametrize("name", EMBEDDERS)
def test_an_embedder_that_breaks_a_promise_is_caught(name: str) -> None:
    change, check, words = EMBEDDERS[name]
    assert words in broken_by(suite_of(EmbedderContract, lambda: WrongEmbedder(change)), check)


def test_an_embedder_without_a_name_is_caught() -> None:
    class Anonymous(ScriptedEmbedder):
        name = ""  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    assert "it has no name" in broken_by(suite_of(EmbedderContract, Anonymous), "it_names_its_vectors")


class WrongToolset(ScriptedToolset):
    def __init__(self, result: object = None, specs: Sequence[ToolSpec] | None = None, *, lax: bool = False) -> None:
        super().__init__({"add": 3})
        self._result, self._other, self._lax, self._at_work = result, specs, lax, False

    async def list_tools(self) -> Sequence[ToolSpec]:
        return self._other or await super().list_tools()

    async def call(self, name: str, arguments: dict[str, Any], ctx: RunContext) -> dict[str, Any]:
        if name != "add":
            if not self._lax:
                raise KeyError(name)
            raise ToolError("no")
        if self._at_work:
            raise ToolError("one at a time")
        self._at_work = True
        await asyncio.sleep(0)
        self._at_work = False
        result: Any = self._result
        return result


TWICE = (ToolSpec(name="add"), ToolSpec(name="add"))
TOOLSETS: dict[str, tuple[Callable[[], WrongToolset], str, str]] = {
    "lists twice": (lambda: WrongToolset(specs=TWICE), "tools_are_listed", "the names are ['add', 'add']"),
    "takes no object": (
        lambda: WrongToolset(specs=[ToolSpec(name="add", parameters={"type": "string"})]),
        "tools_are_listed",
        "declared as 'string'",
    ),
    "forgets its tool": (
        lambda: WrongToolset(specs=[ToolSpec(name="sub")]),
        "tools_are_listed",
        "'add' is not in the list",
    ),
    "gives a number": (lambda: WrongToolset(3), "result_is_json", "the result is int"),
    "gives a set": (lambda: WrongToolset({"x": {1}}), "result_is_json", "the result is not JSON"),
    "gives tuples": (lambda: WrongToolset({"x": (1, 2)}), "result_is_json", "does not survive JSON"),
    "raises KeyError": (lambda: WrongToolset({}), "unknown_tool_is_a_tool_error", "it raised KeyError"),
    "does not say which": (
        lambda: WrongToolset({}, lax=True),
        "unknown_tool_is_a_tool_error",
        "does not name the tool",
    ),
    "takes anything": (lambda: WrongToolset({}), "bad_arguments_are_a_tool_error", "it took {'a': 1}"),
    "is alone": (lambda: WrongToolset({}), "calls_at_the_same_time", "one at a time"),
}


@pytest.mark.parametrize("name", TOOLSETS)
def test_a_toolset_that_breaks_a_promise_is_caught(name: str) -> None:
    make, check, words = TOOLSETS[name]
    assert words in broken_by(suite_of(ToolsetContract, make, tool="add", refused={"a": 1}), check)


class WrongSink(ListSink):
    """Keeps what the function lets through."""

    def __init__(self, take: Callable[[Event], object]) -> None:
        super().__init__()
        self._take = take

    def emit(self, event: Event) -> Any:
        given = self._take(event)
        super().emit(event)
        return given


class LossySink(ListSink):
    def emit(self, event: Event) -> None:
        if event.seq % 2:
            super().emit(event)


async def kept_in_list(sink: ListSink) -> Sequence[Event]:
    return sink.events


def encoded(event: Event) -> None:
    event.model_dump_json()


SINKS: dict[str, tuple[Callable[[], TraceSink], str, str]] = {
    "raises": (lambda: WrongSink(encoded), "every_event_is_taken", "it raised PydanticSerializationError"),
    "answers": (lambda: WrongSink(lambda event: 1), "every_event_is_taken", "emit gave int"),
    "loses": (LossySink, "what_was_taken_is_kept", "it has ['stage_entered'"),
    "belongs to one thread": (
        lambda: WrongSink(lambda event: asyncio.get_running_loop() and None),
        "threads_do_not_wait_for_one_another",
        "RuntimeError",
    ),
}


@pytest.mark.parametrize("name", SINKS)
def test_a_sink_that_breaks_a_promise_is_caught(name: str) -> None:
    make, check, words = SINKS[name]
    assert words in broken_by(suite_of(TraceSinkContract, make, kept=kept_in_list), check)


def test_a_sink_that_waits_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentmesh.testing.contracts.runs.EMIT_S", 0.0)
    assert "the run waited for it" in broken_by(suite_of(TraceSinkContract, ListSink), "every_event_is_taken")


Run = Callable[[AgentCall], Awaitable[AgentReply]]


class WrongExecutor:
    """Runs calls, without a journal and without a clock."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._held: dict[str, AgentReply] = {}

    async def submit(self, call: AgentCall, id: str, deadline: float) -> AgentReply:
        return await self._run(call)


class MixingExecutor(WrongExecutor):
    async def submit(self, call: AgentCall, id: str, deadline: float) -> AgentReply:
        self.last = call
        await asyncio.sleep(0)
        return await self._run(self.last)


class LosingExecutor(WrongExecutor):
    async def submit(self, call: AgentCall, id: str, deadline: float) -> AgentReply:
        if id in self._held:
            return self._held[id]
        self._held[id] = call.reply(ReplyStatus.CANCELLED, error="it began once")
        reply = await self._run(call)
        return reply.model_copy(update={"status": ReplyStatus.ANSWERED, "text": "?"})


EXECUTORS: dict[str, tuple[type[WrongExecutor], str, str]] = {
    "repeats": (WrongExecutor, "finished_call_is_not_repeated", "it was run 2 times"),
    "waits for ever": (WrongExecutor, "deadline_is_timed_out", "it was not done after 0.2 s"),
    "lets exceptions through": (WrongExecutor, "what_raises_is_a_failed_reply", "it raised RuntimeError"),
    "mixes": (MixingExecutor, "calls_do_not_mix", "the reply belongs to"),
    "loses": (LosingExecutor, "cancelled_call_may_be_run_again", "handed over again it is cancelled"),
    "says something else": (LosingExecutor, "call_is_run", "the reply says '?'"),
    "hides a failure": (LosingExecutor, "failed_reply_is_given", "the status is answered"),
}


@pytest.mark.parametrize("name", EXECUTORS)
def test_an_executor_that_breaks_a_promise_is_caught(name: str) -> None:
    make, check, words = EXECUTORS[name]
    assert words in broken_by(suite_of(ExecutorContract, make, check_s=0.2), check)


class WrongJournal(MemoryJournal):
    """Replaces and abridges."""

    async def begin(self, call_id: str, kind: str, *, idempotent: bool = True) -> None:
        self.entries.pop(call_id, None)
        await super().begin(call_id, kind)

    async def finish(self, call_id: str, kind: str, result: dict[str, Any], *, wait: bool = True) -> None:
        await super().finish(call_id[:12], kind, result)


JOURNALS: dict[str, str] = {
    "it_knows_what_began_and_what_finished": "the entry is call_id=",
    "finish_alone_is_enough": "the entry is None",
    "beginning_again_keeps_the_result": "the entry is",
    "calls_do_not_mix": "under 'r1/s.r1/a/1/1' there is None",
    "next_process_finds_what_was_noted": "a call that began and must not be repeated is lost",
}


def forgotten(journal: Journal) -> Journal:
    return MemoryJournal()


@pytest.mark.parametrize("check", JOURNALS)
def test_a_journal_that_breaks_a_promise_is_caught(check: str) -> None:
    suite = suite_of(JournalContract, WrongJournal, reopen=forgotten)
    assert JOURNALS[check] in broken_by(suite, check)


# --- how suites are used ----------------------------------------------------------------------------------------------


def test_a_suite_without_make_says_what_to_give() -> None:
    with pytest.raises(NotImplementedError, match="give RouterContract a method `make` that returns the Router"):
        RouterContract().test_no_more_agents_than_allowed()


@pytest.mark.parametrize("kind", ["part", "awaitable", "context manager"])
def test_make_may_give_the_part_an_awaitable_or_a_context_manager(kind: str) -> None:
    closed: list[str] = []

    class Store(OpenStore):
        async def aclose(self) -> None:
            closed.append("store")

    async def awaited() -> MemoryStore:
        return Store()

    @asynccontextmanager
    async def managed() -> AsyncGenerator[MemoryStore, None]:
        yield Store()
        closed.append("manager")

    make = {"part": Store, "awaitable": awaited, "context manager": managed}[kind]
    suite = suite_of(MemoryStoreContract, make)
    assert broken_by(suite, "nothing_does_no_harm") == ""
    assert closed == (["manager"] if kind == "context manager" else ["store"])


def test_a_check_that_never_ends_is_a_broken_promise() -> None:
    class Hanging(OpenStore):
        async def get(self, tenant: str, ids: Sequence[str]) -> list[MemoryItem]:
            await asyncio.Event().wait()
            raise AssertionError("nothing sets the event")

    suite = suite_of(MemoryStoreContract, Hanging, check_s=0.05)
    assert broken_by(suite, "nothing_does_no_harm").endswith("it was not done after 0.05 s")
