"""Budgets of agents, users and tenants: the arithmetic, the periods, several processes, and what a run does at one."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agentmesh import AgentCard, Mesh, build_mesh
from agentmesh.assembly import check_folder, open_ledger
from agentmesh.budgets import Account, Ledger, Period, Spending, period_of
from agentmesh.cli.budgets import allowed_words, document, spent_words
from agentmesh.database import Database
from agentmesh.errors import ConfigError, LimitError, ProjectError, StoreError, UnknownNameError
from agentmesh.models.base import ChatMessage, ChatReply, ChatRequest
from agentmesh.models.call import call_model
from agentmesh.models.scripted import ScriptedEmbedder, ScriptedModel
from agentmesh.routing.baselines import FixedRouter
from agentmesh.run import Emitter, Limits, Meter, RunContext
from agentmesh.settings import Budget, BudgetSettings, load_settings
from agentmesh.trace.base import NullSink
from agentmesh.trace.events import LimitReached, StepFailed
from agentmesh.trace.sinks import ListSink
from agentmesh.types import AnswerStatus, ReplyStatus, Usage

ASK = ChatRequest(messages=(ChatMessage(role="user", text="what is the port"),))
CALL = Usage(calls=1, prompt_tokens=80, completion_tokens=20, cost_usd=0.25)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


class HandClock:
    """A clock that a test moves."""

    def __init__(self, text: str = "2026-02-28T12:00:00") -> None:
        self.time, self.ticks = at(text), 0.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.ticks

    def move(self, text: str) -> None:
        later = at(text)
        self.ticks += max(0.0, later - self.time)
        self.time = later


def dear(request: ChatRequest) -> ChatReply:
    return ChatReply(text="That is in the first note [m1].", usage=CALL)


def settings_of(**scopes: Mapping[str, Budget]) -> BudgetSettings:
    return BudgetSettings(**{scope: dict(budgets) for scope, budgets in scopes.items()})


def ctx_of(
    ledger: Ledger, *, run: str = "r1", tenant: str = "acme", user: str | None = None, agent: str = "vpn",
    sink: ListSink | None = None, limits: Limits | None = None,
) -> RunContext:  # fmt: skip
    clock, limits = ledger.clock, limits or Limits()
    accounts = ledger.accounts(tenant, user, run)
    return RunContext(
        run_id=run, tenant=tenant, user=user, step="route.r1", agent=agent, clock=clock, limits=limits,
        emitter=Emitter(run, (sink or NullSink(),), clock),
        meter=Meter(limits, started=clock.monotonic(), clock=clock, accounts=accounts),
    )  # fmt: skip


def meter_of(ctx: RunContext) -> Meter:
    assert ctx.meter is not None
    return ctx.meter


async def only(ledger: Ledger, scope: Any, name: str) -> Spending:
    [row] = await ledger.spent(scope, name)
    return row


# --- arithmetic -------------------------------------------------------------------------------------------------------


def test_an_account_allows_calls_until_what_was_spent_reaches_the_bound() -> None:
    now = at("2026-02-28T12:00:00")
    account = Account("tenant", "acme", Budget(max_usd=1.0), where="budgets.tenants.acme", now=now)
    for _ in range(4):
        account.check(now)  # 0, 0.25, 0.5, 0.75 of 1
        account.add(CALL, now)
    with pytest.raises(LimitError) as caught:
        account.check(now)
    assert (caught.value.scope, caught.value.name, caught.value.limit, caught.value.spent) == (
        "tenant",
        "acme",
        "max_usd",
        1.0,
    )
    assert str(caught.value) == (
        "the budget of tenant 'acme' of 1 US$ a day is reached (1 used); raise `budgets.tenants.acme.max_usd`"
    )


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (Budget(max_tokens=1_500_000, per="month"), "of 1,500,000 tokens a month is reached (1,500,000 used)"),
        (Budget(max_calls=0, per="total"), "of 0 model calls in total is reached (1 used)"),
        (Budget(max_usd=0.3, per="run"), "of 0.3 US$ a run is reached (0.3 used)"),
    ],
)
def test_the_sentence_says_whose_budget_how_much_and_for_how_long(budget: Budget, words: str) -> None:
    account = Account("agent", "vpn", budget, where="budgets.agents.vpn", now=0.0)
    account.add(Usage(calls=1, prompt_tokens=1_500_000, cost_usd=0.1 + 0.2), 0.0)
    with pytest.raises(LimitError, match="agent 'vpn'") as caught:
        account.check(0.0)
    assert words in str(caught.value)


def test_a_call_on_its_way_counts_as_a_call() -> None:
    account = Account("tenant", "acme", Budget(max_calls=1), where="", now=0.0)
    account.check(0.0)
    account.pending_calls += 1
    with pytest.raises(LimitError):
        account.check(0.0)


@pytest.mark.parametrize("bound", ["max_usd", "max_tokens", "max_calls"])
def test_a_bound_of_zero_allows_nothing(bound: str) -> None:
    account = Account("tenant", "acme", Budget.model_validate({bound: 0}), where="", now=0.0)
    with pytest.raises(LimitError):
        account.check(0.0)


def test_a_budget_without_bounds_only_counts() -> None:
    account = Account("tenant", "acme", Budget(), where="", now=0.0)
    account.add(CALL, 0.0)
    account.check(0.0)
    assert account.spent == CALL


@pytest.mark.parametrize(
    ("per", "when", "period"),
    [
        ("day", "2026-02-28T23:59:59", Period("2026-02-28", "2026-02-28", "2026-02-28")),
        ("day", "2026-03-01T00:00:00", Period("2026-03-01", "2026-03-01", "2026-03-01")),
        ("month", "2026-02-28T23:59:59", Period("2026-02", "2026-02-01", "2026-02-31")),
        ("month", "2026-03-01T00:00:00", Period("2026-03", "2026-03-01", "2026-03-31")),
        ("total", "2026-03-01T00:00:00", Period("total", "", "9999-12-31")),
    ],
)
def test_periods_are_days_and_months_in_utc(per: str, when: str, period: Period) -> None:
    assert period_of(per, at(when)) == period


@pytest.mark.parametrize(
    ("per", "day_later", "month_later"), [("day", 1, 1), ("month", 2, 1), ("total", 2, 3), ("run", 2, 3)]
)
def test_a_new_period_begins_with_nothing_spent(per: str, day_later: int, month_later: int) -> None:
    account = Account("tenant", "acme", Budget.model_validate({"per": per}), where="", now=at("2026-02-27T23:59:59"))
    account.add(CALL, at("2026-02-27T23:59:59"))
    account.add(CALL, at("2026-02-28T00:00:00"))
    assert account.spent.calls == day_later
    account.add(CALL, at("2026-03-01T00:00:00"))
    assert account.spent.calls == month_later


def test_the_share_of_a_budget_is_that_of_its_nearest_bound() -> None:
    row = Spending(
        scope="tenant", name="acme", per="day", period="2026-02-28", usage=CALL,
        budget=Budget(max_usd=1.0, max_tokens=125, max_calls=10),
    )  # fmt: skip
    assert row.share == pytest.approx(0.8)  # 0.25 of 1, 100 of 125, 1 of 10
    assert row.model_copy(update={"budget": Budget(max_usd=0.0)}).share == 1.0
    assert row.model_copy(update={"budget": Budget()}).share is None


# --- in a run ---------------------------------------------------------------------------------------------------------


async def test_every_call_is_charged_to_the_tenant_the_user_and_the_agent() -> None:
    each = {"*": Budget()}
    ledger = Ledger(settings_of(tenants=each, users=each, agents=each))
    await call_model(ScriptedModel(dear), ASK, ctx_of(ledger, user="u7"))
    await call_model(ScriptedModel(dear), ASK, ctx_of(ledger, run="r2", user="u8", agent="billing"))
    rows = {(s.scope, s.name): s.usage.calls for s in await ledger.spent() if s.name != "*"}
    assert rows == {
        ("tenant", "acme"): 2, ("user", "u7"): 1, ("user", "u8"): 1, ("agent", "vpn"): 1, ("agent", "billing"): 1,
    }  # fmt: skip


async def test_a_users_name_in_two_tenants_has_two_accounts() -> None:
    ledger = Ledger(settings_of(users={"ann": Budget(max_calls=1)}))
    await call_model(ScriptedModel(dear), ASK, ctx_of(ledger, tenant="a", user="ann"))
    await call_model(ScriptedModel(dear), ASK, ctx_of(ledger, run="r2", tenant="b", user="ann"))
    with pytest.raises(LimitError, match="user 'ann'"):
        await call_model(ScriptedModel(dear), ASK, ctx_of(ledger, run="r3", tenant="a", user="ann"))
    assert [(s.tenant, s.usage.calls) for s in await ledger.spent("user", "ann")] == [("a", 1), ("b", 1)]


async def test_a_named_budget_goes_before_the_one_for_all() -> None:
    ledger = Ledger(settings_of(tenants={"*": Budget(max_calls=0), "acme": Budget(max_calls=1)}))
    await call_model(ScriptedModel(dear), ASK, ctx_of(ledger))
    with pytest.raises(LimitError, match=r'raise `budgets\.tenants\."\*"\.max_calls`'):
        await call_model(ScriptedModel(dear), ASK, ctx_of(ledger, run="r2", tenant="other"))


@pytest.mark.parametrize(
    ("budgets", "limit"),
    [
        ({"tenants": {"acme": Budget(max_usd=0.25)}}, "tenant.max_usd"),
        ({"users": {"u7": Budget(max_tokens=100)}}, "user.max_tokens"),
    ],
)
async def test_what_is_the_tenants_or_the_users_stops_the_run(budgets: dict[str, Any], limit: str) -> None:
    ctx, model = ctx_of(Ledger(settings_of(**budgets)), user="u7"), ScriptedModel(dear)
    await call_model(model, ASK, ctx)
    assert meter_of(ctx).stop is None
    with pytest.raises(LimitError) as caught:
        await call_model(model, ASK, ctx)
    stop = meter_of(ctx).stop
    assert stop is not None
    assert (stop.limit, stop.text) == (limit, str(caught.value))
    assert len(model.requests) == 1


async def test_an_agents_own_budget_stops_that_agent_only() -> None:
    ledger = Ledger(settings_of(agents={"vpn": Budget(max_calls=1)}))
    ctx, model = ctx_of(ledger), ScriptedModel(dear)
    await call_model(model, ASK, ctx)
    with pytest.raises(LimitError, match="agent 'vpn'"):
        await call_model(model, ASK, ctx)
    await call_model(model, ASK, ctx.at(agent="billing"))
    await call_model(model, ASK, ctx.at(agent=""))
    assert meter_of(ctx).stop is None


async def test_calls_at_the_same_time_do_not_pass_a_bound_of_calls_together() -> None:
    ctx = ctx_of(Ledger(settings_of(tenants={"acme": Budget(max_calls=2)})))
    model = ScriptedModel(dear, delay_s=0.01)
    calls = (call_model(model, ASK, ctx.at(agent=f"a{n}")) for n in range(5))
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(d, LimitError) for d in done) == 3
    assert len(model.requests) == 2


async def test_a_call_that_failed_leaves_nothing_behind() -> None:
    ledger = Ledger(settings_of(tenants={"acme": Budget(max_calls=1)}))
    ctx = ctx_of(ledger)
    with pytest.raises(StoreError):
        await call_model(ScriptedModel([StoreError("broken")]), ASK, ctx)
    assert (await call_model(ScriptedModel(["fine"]), ASK, ctx.at())).text == "fine"


async def test_a_call_that_the_journal_holds_is_not_charged_again() -> None:
    ledger = Ledger(settings_of(tenants={"acme": Budget()}, agents={"vpn": Budget()}))
    ctx = ctx_of(ledger)
    await call_model(ScriptedModel(dear), ASK, ctx)
    await call_model(ScriptedModel(dear), ASK, ctx.at())
    assert (await only(ledger, "tenant", "acme")).usage == CALL
    assert (await only(ledger, "agent", "vpn")).usage == CALL


async def test_a_call_that_the_journal_holds_is_given_though_the_budget_is_spent() -> None:
    ctx = ctx_of(Ledger(settings_of(tenants={"acme": Budget(max_calls=1)})))
    first = await call_model(ScriptedModel(dear), ASK, ctx)
    assert await call_model(ScriptedModel(dear), ASK, ctx.at()) == first


async def test_nobody_with_a_budget_means_no_accounts() -> None:
    assert Ledger(BudgetSettings()).accounts("acme", "u7", "r1") is None
    assert Ledger(settings_of(tenants={"other": Budget()})).accounts("acme", "u7", "r1") is None
    assert Ledger(settings_of(agents={"vpn": Budget()})).accounts("acme", None, "r1") is not None


async def test_a_budget_of_runs_begins_anew_with_each_run_and_goes_on_with_a_resumed_one() -> None:
    ledger = Ledger(settings_of(agents={"vpn": Budget(max_calls=1, per="run")}))
    await call_model(ScriptedModel(dear), ASK, ctx_of(ledger, run="r1"))
    await call_model(ScriptedModel(dear), ASK, ctx_of(ledger, run="r2"))
    resumed = ctx_of(ledger, run="r1")
    with pytest.raises(LimitError, match="of 1 model call a run"):
        await call_model(ScriptedModel(dear), ASK, resumed)


async def test_a_price_that_is_not_known_is_said_once_for_each_bound_that_it_undoes() -> None:
    sink = ListSink()
    ledger = Ledger(settings_of(tenants={"acme": Budget(max_usd=1.0)}, agents={"vpn": Budget(max_tokens=9)}))
    ctx = ctx_of(ledger, sink=sink, limits=Limits(max_usd=5.0))
    unpriced = ChatReply(text="x", model="own/model", usage=Usage(calls=1, cost_known=False))
    for _ in range(2):
        await call_model(ScriptedModel([unpriced]), ASK, ctx)
    [event] = [e for e in sink.events if isinstance(e, StepFailed)]
    assert event.kind == "UnknownPrice"
    assert "'own/model'" in event.error
    assert "`limits.max_usd` and `budgets.tenants.acme.max_usd` do not bound them" in event.error
    row = await only(ledger, "tenant", "acme")
    assert not row.usage.cost_known
    assert spent_words(row) == "0.0000 US$ or more"
    assert spent_words(row.model_copy(update={"budget": Budget()})) == "0.0000 US$ or more, 0 tokens, 2 calls"


async def test_a_price_that_is_not_known_is_no_matter_where_no_us_dollars_are_bounded() -> None:
    sink = ListSink()
    ctx = ctx_of(Ledger(settings_of(tenants={"acme": Budget(max_calls=9)})), sink=sink)
    await call_model(ScriptedModel([ChatReply(text="x", usage=Usage(calls=1, cost_known=False))]), ASK, ctx)
    assert not any(isinstance(e, StepFailed) for e in sink.events)


# --- on disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def open_db(tmp_path: Path) -> Any:
    opened: list[Database] = []

    def make() -> Database:
        opened.append(Database(tmp_path / "mesh.db"))
        return opened[-1]

    yield make
    for db in opened:
        await db.aclose()


async def spend(ledger: Ledger, calls: int = 1, **options: Any) -> None:
    ctx = ctx_of(ledger, **options)
    for _ in range(calls):
        await call_model(ScriptedModel(dear), ASK, ctx)


async def test_two_ledgers_on_one_file_add_up(open_db: Callable[[], Database]) -> None:
    budgets = settings_of(tenants={"acme": Budget(max_calls=5)}, agents={"*": Budget()})
    one, two = Ledger(budgets, open_db(), fresh_s=0), Ledger(budgets, open_db(), fresh_s=0)
    await asyncio.gather(spend(one, 2, run="r1"), spend(two, 2, run="r2"))
    await one.flush()
    await two.flush()
    for ledger in (one, two):
        assert (await only(ledger, "tenant", "acme")).usage == CALL + CALL + CALL + CALL
        assert (await only(ledger, "agent", "vpn")).usage.calls == 4
    await spend(one, 1, run="r3")
    await one.flush()
    with pytest.raises(LimitError, match=r"\(5 used\)"):
        await spend(two, 1, run="r4")


async def test_another_process_is_seen_when_what_was_read_is_old(open_db: Callable[[], Database]) -> None:
    clock, budgets = HandClock(), settings_of(agents={"vpn": Budget(max_calls=2)})
    one, two = Ledger(budgets, open_db(), clock=clock), Ledger(budgets, open_db(), clock=clock)
    await spend(one, 1, run="r1")
    await spend(two, 1, run="r2")
    await two.flush()
    ctx = ctx_of(one, run="r3")
    await meter_of(ctx).read()
    meter_of(ctx).check("vpn")  # it knows of its own call only
    clock.ticks += 3.0
    await meter_of(ctx).read()
    with pytest.raises(LimitError, match=r"\(2 used\)"):
        meter_of(ctx).check("vpn")


async def test_a_new_process_goes_on_where_the_last_one_ended(open_db: Callable[[], Database]) -> None:
    clock, budgets = HandClock("2026-02-27T12:00:00"), settings_of(tenants={"*": Budget(max_calls=3, per="month")})
    for day in ("2026-02-27T12:00:00", "2026-02-28T23:59:00"):
        clock.move(day)
        db = open_db()
        await spend(Ledger(budgets, db, clock=clock), 1)
        await db.aclose()
    ledger = Ledger(budgets, open_db(), clock=clock)
    row = await only(ledger, "tenant", "acme")
    assert (row.period, row.usage.calls, row.where) == ("2026-02", 2, 'budgets.tenants."*"')
    clock.move("2026-03-01T00:00:00")
    await spend(ledger, 3)
    with pytest.raises(LimitError):
        await spend(ledger, 1, run="r9")
    assert (await only(ledger, "tenant", "acme")).usage.calls == 3


async def test_days_are_kept_so_that_another_period_forgets_nothing(open_db: Callable[[], Database]) -> None:
    clock, db = HandClock("2026-01-31T12:00:00"), open_db()
    ledger = Ledger(settings_of(tenants={"acme": Budget()}), db, clock=clock)
    for day in ("2026-01-31T12:00:00", "2026-02-01T12:00:00", "2026-02-02T12:00:00"):
        clock.move(day)
        await spend(ledger, 1)
    counted: dict[str, int] = {}
    for per in ("day", "month", "total"):
        other = Ledger(settings_of(tenants={"acme": Budget.model_validate({"per": per})}), db, clock=clock)
        counted[per] = (await only(other, "tenant", "acme")).usage.calls
    assert counted == {"day": 1, "month": 2, "total": 3}


async def test_a_budget_of_runs_outlives_a_process_until_the_run_is_forgotten(open_db: Callable[[], Database]) -> None:
    budgets, db = settings_of(tenants={"acme": Budget(max_calls=2, per="run")}), open_db()
    await spend(Ledger(budgets, db), 1, run="r1")
    resumed = Ledger(budgets, db)
    await spend(resumed, 1, run="r1", agent="billing")
    with pytest.raises(LimitError, match=r"a run is reached \(2 used\)"):
        await spend(resumed, 1, run="r1", agent="hardware")
    await spend(resumed, 1, run="r2")
    assert (await only(resumed, "tenant", "acme")).usage.calls == 2  # the larger of the two
    await resumed.prune(["r1"])
    assert (await only(resumed, "tenant", "acme")).usage.calls == 1


class SlowReads(Database):
    """Waits in the middle of a read until the test lets it go on."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reading, self.go_on = asyncio.Event(), asyncio.Event()

    async def query(self, sql: str, values: Any = ()) -> list[tuple[Any, ...]]:
        rows = await super().query(sql, values)
        self.reading.set()
        await self.go_on.wait()
        return rows


async def test_what_is_charged_while_the_ledger_reads_is_counted_once(tmp_path: Path) -> None:
    db = SlowReads(tmp_path / "mesh.db")
    clock = HandClock()
    ledger = Ledger(settings_of(tenants={"acme": Budget()}), db, clock=clock)
    accounts = ledger.accounts("acme", None, "r1")
    assert accounts is not None
    db.go_on.set()
    await accounts.read()
    accounts.add(CALL, "vpn")
    clock.ticks += 3.0
    db.reading.clear()
    db.go_on.clear()
    reading = asyncio.ensure_future(accounts.read())
    async with asyncio.timeout(5):
        await db.reading.wait()
        accounts.add(CALL, "vpn")
        db.go_on.set()
        await reading
    [account] = accounts.of("vpn")
    assert account.spent.calls == 2
    assert (await only(ledger, "tenant", "acme")).usage.calls == 2
    await db.aclose()


@pytest.mark.parametrize(
    "tenant", ["a/b", "o'brien\"; DROP TABLE budgets_spent; --", "Größe 東京 🙂", "x" * 200, "%_", "*"]
)
async def test_any_name_of_a_tenant_has_its_own_account(open_db: Callable[[], Database], tenant: str) -> None:
    ledger = Ledger(settings_of(tenants={tenant: Budget(max_calls=1)}, users={"*": Budget()}), open_db(), fresh_s=0)
    await spend(ledger, 1, tenant=tenant, user=tenant)
    await ledger.flush()
    assert (await only(ledger, "tenant", tenant)).usage.calls == 1
    with pytest.raises(LimitError) as caught:
        await spend(ledger, 1, run="r2", tenant=tenant)
    assert caught.value.name == tenant
    assert [s.tenant for s in await ledger.spent("user", tenant) if s.tenant] == [tenant]


async def test_a_budget_that_cannot_be_read_stops_the_call(tmp_path: Path) -> None:
    (tmp_path / "mesh.db").write_bytes(b"not a database, and long enough to be seen as one that is damaged" * 20)
    db = Database(tmp_path / "mesh.db")
    model = ScriptedModel(dear)
    with pytest.raises(StoreError):
        await call_model(model, ASK, ctx_of(Ledger(settings_of(tenants={"acme": Budget()}), db)))
    assert model.requests == []
    await db.aclose()


async def test_everyone_with_a_budget_is_listed_and_who_has_none_any_more(open_db: Callable[[], Database]) -> None:
    db = open_db()
    await spend(Ledger(settings_of(tenants={"*": Budget()}), db), 1, tenant="gone")
    now = settings_of(tenants={"acme": Budget(max_usd=1.0)}, agents={"*": Budget(max_calls=5, per="total")})
    rows = await Ledger(now, db).spent()
    assert [(s.scope, s.name, s.usage.calls, allowed_words(s)) for s in rows] == [
        ("tenant", "acme", 0, "1 US$ a day"),
        ("tenant", "gone", 1, "no budget any more"),
        ("agent", "*", 0, "5 calls in total"),
    ]
    assert document(rows[0])["allowed"] == {"max_usd": 1.0, "max_tokens": None, "max_calls": None}
    assert document(rows[1])["spent"] == {"usd": 0.25, "tokens": 100, "calls": 1, "usd_known": True}


# --- a whole mesh -----------------------------------------------------------------------------------------------------

CARDS = (
    AgentCard(id="billing", description="Explains invoices and refunds."),
    AgentCard(id="vpn", description="Solves VPN trouble."),
)


def mesh_with(
    budgets: BudgetSettings | Mapping[str, Any], model: ScriptedModel, *, home: Path | None = None,
    sink: ListSink | None = None,
) -> Mesh:  # fmt: skip
    return build_mesh(
        CARDS, model=model, router=FixedRouter(agents=("billing", "vpn")), refiner="extractive", home=home, sink=sink,
        embedder=ScriptedEmbedder(), budgets=budgets,
        knowledge=("An approved refund is paid out within 14 days.", "The VPN session ends after 60 minutes."),
    )  # fmt: skip


async def test_over_the_tenants_budget_the_answer_is_partial_and_says_why() -> None:
    sink, model = ListSink(), ScriptedModel(dear)
    async with mesh_with({"tenants": {"acme": {"max_calls": 1}}}, model, sink=sink) as mesh:
        answer = await mesh.ask("When is a refund paid out?", tenant="acme")
        other = await mesh.ask("When is a refund paid out?", tenant="other")
    assert answer.status is AnswerStatus.PARTIAL
    assert sorted(r.status for r in answer.replies) == [ReplyStatus.ANSWERED, ReplyStatus.OVER_LIMIT]
    assert answer.stop is not None
    assert "the budget of tenant 'acme' of 1 model call a day is reached" in answer.stop.text
    assert len([e for e in sink.events if isinstance(e, LimitReached)]) == 1
    assert other.status is AnswerStatus.ANSWERED
    assert other.stop is None


@pytest.mark.parametrize("scope", ["tenants", "users"])
async def test_with_a_budget_of_zero_no_model_is_asked_and_the_answer_says_so(scope: str) -> None:
    model = ScriptedModel(dear)
    async with mesh_with({scope: {"*": {"max_usd": 0}}}, model) as mesh:
        answer = await mesh.ask("When is a refund paid out?", tenant="a/b", user="u7")
    assert model.requests == []
    assert answer.status is AnswerStatus.PARTIAL
    assert answer.stop is not None
    assert "of 0 US$ a day is reached" in answer.stop.text
    assert "Traceback" not in answer.text


async def test_with_a_budget_of_zero_the_extracts_of_an_incapable_model_still_answer() -> None:
    model = ScriptedModel(dear, capable=False)
    async with mesh_with({"tenants": {"*": {"max_usd": 0}}}, model) as mesh:
        answer = await mesh.ask("When is a refund paid out?")
    assert model.requests == []
    assert "within 14 days" in answer.text
    assert answer.status is AnswerStatus.PARTIAL
    assert {r.status for r in answer.replies} == {ReplyStatus.OVER_LIMIT}


async def test_an_agent_over_its_budget_says_so_and_the_others_answer() -> None:
    model = ScriptedModel(dear)
    async with mesh_with({"agents": {"vpn": {"max_calls": 0}}}, model) as mesh:
        answer = await mesh.ask("When is a refund paid out?")
    assert [(r.agent, r.status) for r in answer.replies] == [
        ("billing", ReplyStatus.ANSWERED),
        ("vpn", ReplyStatus.OVER_LIMIT),
    ]
    assert answer.stop is None
    assert answer.status is AnswerStatus.PARTIAL
    assert "agent 'vpn'" in (answer.replies[1].error or "")


async def test_what_a_mesh_spent_is_there_for_the_next_one(tmp_path: Path) -> None:
    budgets = settings_of(tenants={"acme": Budget(max_calls=2)})
    async with mesh_with(budgets, ScriptedModel(dear), home=tmp_path / "state") as mesh:
        assert (await mesh.ask("When is a refund paid out?", tenant="acme")).status is AnswerStatus.ANSWERED
    model = ScriptedModel(dear)
    async with mesh_with(budgets, model, home=tmp_path / "state") as mesh:
        answer = await mesh.ask("When is a refund paid out?", tenant="acme")
    assert model.requests == []
    assert answer.stop is not None


# --- settings ---------------------------------------------------------------------------------------------------------


def test_budgets_are_read_from_the_file_and_the_environment(tmp_path: Path) -> None:
    (tmp_path / "agentmesh.toml").write_text(
        '[budgets.tenants."*"]\nmax_calls = 9\n[budgets.agents.vpn]\nmax_usd = 0.5\nper = "month"\n', encoding="utf-8"
    )
    environ = {
        "AGENTMESH_BUDGETS__TENANTS": '{"acme": {"max_usd": 1}}',
        "AGENTMESH_BUDGETS__USERS__ANN__MAX_CALLS": "3",
    }
    budgets = load_settings(tmp_path, environ=environ).budgets
    assert budgets.tenants == {"*": Budget(max_calls=9), "acme": Budget(max_usd=1.0)}
    assert budgets.users == {"ann": Budget(max_calls=3)}
    assert budgets.agents == {"vpn": Budget(max_usd=0.5, per="month")}


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ('{"acme": {"max_usd": -1}}', "acme.max_usd: must be 0 or more, not -1"),
        ('{"acme": {"per": "week"}}', "acme.per: must be 'run', 'day', 'month' or 'total', not 'week'"),
        ('{"acme": {"max_dollars": 1}}', "acme.max_dollars: unknown key"),
        ('{"acme": 1}', "acme: must be a group of keys, not 1"),
        ('{"acme": {"max_calls": true}}', "acme.max_calls: must be a number, not true"),
        ("acme", "must be a JSON object"),
    ],
)
def test_a_wrong_budget_is_named(tmp_path: Path, value: str, sentence: str) -> None:
    with pytest.raises(ProjectError) as caught:
        load_settings(tmp_path, environ={"AGENTMESH_BUDGETS__TENANTS": value})
    assert sentence in caught.value.mistakes[0]
    assert caught.value.mistakes[0].startswith("AGENTMESH_BUDGETS__TENANTS: ")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "agents").mkdir()
    for name in ("billing", "vpn"):
        (tmp_path / "agents" / f"{name}.md").write_text("---\ndescription: Answers questions.\n---\n", encoding="utf-8")
    (tmp_path / "agentmesh.toml").write_text(
        'durable = false\n[budgets.agents.vpm]\nmax_usd = 1\n[budgets.agents."*"]\nmax_calls = 3\n'
        "[budgets.tenants.anybody]\nmax_usd = 1\n", encoding="utf-8",
    )  # fmt: skip
    return tmp_path


def test_a_budget_of_an_agent_that_is_not_there_is_a_mistake(project: Path) -> None:
    assert [str(m) for m in check_folder(project, environ={})] == [
        "agentmesh.toml: budgets.agents.vpm: no agent is called 'vpm'; did you mean 'vpn'?"
    ]


async def test_before_the_first_run_a_project_has_budgets_and_nothing_spent(project: Path) -> None:
    async with open_ledger(project, environ={}) as ledger:
        rows = await ledger.spent()
    assert [(s.scope, s.name, s.usage.calls) for s in rows] == [
        ("tenant", "anybody", 0), ("agent", "vpm", 0), ("agent", "*", 0),
    ]  # fmt: skip


def test_budgets_given_in_code_are_checked_as_well() -> None:
    with pytest.raises(UnknownNameError, match=r"budgets.agents.vpm: no agent is called 'vpm'; did you mean 'vpn'\?"):
        mesh_with({"agents": {"vpm": {"max_usd": 1}}}, ScriptedModel(dear))
    with pytest.raises(ConfigError, match=r"budgets.tenants.acme.max_usd: must be 0 or more, not -1"):
        mesh_with({"tenants": {"acme": {"max_usd": -1}}}, ScriptedModel(dear))
