"""Budgets over many runs: what agents, users and tenants may spend in a period, and what they spent.

An `Account` is arithmetic; the `Ledger` keeps what was spent in the project's database and gives each run the accounts
that its calls are charged to. What one run alone may take is `limits`, which the run's own `Meter` holds.

How exact it is: what a call costs is known when it is over, so a budget in US$ or tokens may be passed by the calls in
flight; one of calls is not. All runs of a process see each other's charges at once. Those of other processes are read
before a model call, at most every two seconds, and a charge reaches the disk behind the run, some ten milliseconds
late: several processes together may pass a budget by what they spend meanwhile. No charge gets lost between them, for
amounts are added in the database and never overwritten; a process that is killed may lose those of its last moment.
"""

import asyncio
import json
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from agentmesh.database import Database, Tables, Value
from agentmesh.errors import LimitError, UnknownNameError
from agentmesh.run import Clock, SystemClock
from agentmesh.settings import Budget, BudgetSettings
from agentmesh.types import Frozen, Usage

__all__ = ["BUDGET_TABLES", "Account", "Ledger", "RunAccounts", "Scope", "Spending", "check_agents", "period_of"]

Scope = Literal["tenant", "user", "agent"]
"""Whose budget it is."""
Per = Literal["run", "day", "month", "total"]
"""The period that it holds for."""
SCOPES: tuple[Scope, ...] = ("tenant", "user", "agent")
PERIODS: tuple[Per, ...] = ("day", "month", "total")

EVERY = "*"
"""The name that stands for every one that has no budget of its own."""
RUN: Per = "run"
DAY_S = 86_400
FRESH_S = 2.0
"""Seconds that a process goes by what it last read of an account; the next model call reads it again."""
KEPT_ACCOUNTS = 10_000
"""Accounts of users and tenants that a process holds; of more, those used longest ago are read anew when they come."""
KEPT_RUNS = 1000
"""Runs whose own spending is held where nothing is on disk, so that they can be resumed."""

BUDGET_TABLES = Tables(
    "budgets",
    {
        1: (
            """CREATE TABLE budgets_spent (
                scope TEXT NOT NULL, tenant TEXT NOT NULL, name TEXT NOT NULL, run_id TEXT NOT NULL, day TEXT NOT NULL,
                calls INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
                cost_usd REAL NOT NULL, unpriced INTEGER NOT NULL,
                PRIMARY KEY (scope, tenant, name, run_id, day)
            ) WITHOUT ROWID""",
            "CREATE INDEX budgets_runs ON budgets_spent (run_id) WHERE run_id != ''",
        )
    },
)
"""One row for each day of an account, so that changing `per` forgets nothing, or for each run where the budget is one
of runs. `tenant` is whose user it is, empty elsewhere; `unpriced` counts the calls whose price is not known."""

_KEY = ("scope", "tenant", "name", "run_id", "day")
_AMOUNTS = ("calls", "prompt_tokens", "completion_tokens", "cost_usd", "unpriced")
_COLUMNS = ", ".join(_KEY + _AMOUNTS)
_ROW = f"({', '.join('?' * len(_KEY + _AMOUNTS))})"
_ADD = f"ON CONFLICT ({', '.join(_KEY)}) DO UPDATE SET " + ", ".join(f"{a} = {a} + excluded.{a}" for a in _AMOUNTS)
_SUMS = ", ".join(f"sum({amount})" for amount in _AMOUNTS)
_GROUP = "GROUP BY scope, tenant, name"
_DAYS = f"SELECT ?, scope, tenant, name, {_SUMS} FROM budgets_spent WHERE run_id = '' AND"  # noqa: S608
_OF_ONE = f"{_DAYS} day BETWEEN ? AND ? AND scope = ? AND tenant = ? AND name = ? {_GROUP}"
_OF_AGENTS = f"{_DAYS} day BETWEEN ? AND ? AND scope = 'agent' AND tenant = '' {_GROUP}"
_OF_ALL = f"{_DAYS} day BETWEEN ? AND ? {_GROUP}"
_OF_RUN = f"SELECT 'run', scope, tenant, name, {_SUMS} FROM budgets_spent WHERE run_id = ? {_GROUP}"  # noqa: S608
_OF_RUNS = f"""SELECT 'run', scope, tenant, name, {", ".join(f"max({amount})" for amount in _AMOUNTS)}
    FROM budgets_spent WHERE run_id != '' {_GROUP}"""  # noqa: S608

_Key = tuple[Scope, str, str]
"""Scope, the tenant of a user, name."""


class Period(NamedTuple):
    """One day, one month, or all time."""

    name: str
    """`2026-02-28`, `2026-02`, or `total`; `run` for a budget of single runs."""
    first: str
    last: str
    """Its days lie between these, in the order of text."""


def period_of(per: str, now: float) -> Period:
    """The period of this kind at `now` (seconds since 1970), in UTC."""
    return _period(per, int(now // DAY_S))


@lru_cache(maxsize=64)
def _period(per: str, days: int) -> Period:
    day = datetime.fromtimestamp(days * DAY_S, UTC).strftime("%Y-%m-%d")
    match per:
        case "day":
            return Period(day, day, day)
        case "month":
            return Period(day[:7], f"{day[:7]}-01", f"{day[:7]}-31")
        case _:
            return Period(per, "", "9999-12-31")


# --- one account ------------------------------------------------------------------------------------------------------


class Account:
    """What one name may spend in a period, and has. Arithmetic only: it is told the time and writes nothing.

    Args:
        scope: Whose it is.
        name: Of the agent, user or tenant.
        budget: What it may spend.
        where: Key of the settings that holds the budget.
        now: Seconds since 1970, UTC.
        tenant: Whose user it is, for a user.
    """

    def __init__(self, scope: Scope, name: str, budget: Budget, *, where: str, now: float, tenant: str = "") -> None:
        self.scope: Scope = scope
        self.name, self.tenant, self.budget, self.where = name, tenant, budget, where
        self.period: Period = period_of(budget.per, now)
        self.spent = Usage()
        """In this period."""
        self.pending_calls = 0
        self.read_at = float("-inf")
        """`Clock.monotonic()` when it was last read from the database."""

    def check(self, now: float) -> None:
        """Raise `LimitError` if no further call is allowed at `now`."""
        self.turn(now)
        used = (
            ("max_calls", self.budget.max_calls, self.spent.calls + self.pending_calls),
            ("max_tokens", self.budget.max_tokens, self.spent.tokens),
            ("max_usd", self.budget.max_usd, self.spent.cost_usd),
        )
        for limit, allowed, spent in used:
            if allowed is not None and spent >= allowed:
                raise LimitError(
                    limit, allowed, spent, scope=self.scope, name=self.name, per=self.budget.per, where=self.where
                )

    def add(self, usage: Usage, now: float) -> None:
        """Charge what a call took, to the period that it ended in."""
        self.turn(now)
        self.spent = self.spent + usage

    def turn(self, now: float) -> None:
        """Begin the next period if it has come: nothing is spent in it yet."""
        period = period_of(self.budget.per, now)
        if period != self.period:
            self.period, self.spent = period, Usage()


class Spending(Frozen):
    """What one agent, user or tenant has spent in the present period of its budget."""

    scope: Scope
    name: str
    """`*`: the budget of each that has none of its own."""
    tenant: str = ""
    """Whose user it is; empty for agents and tenants."""
    per: Per
    period: str
    """`2026-02-28`, `2026-02`, `total`, or `run`, of which `usage` is the largest that is kept."""
    usage: Usage = Usage()
    budget: Budget | None = None
    """None: it has no budget any more; `usage` is that of all time."""
    where: str = ""
    """Key of the settings that holds the budget."""

    @property
    def share(self) -> float | None:
        """The part of the budget that is used, of the bound that is nearest; 1 or more: it is reached. None: no bound.

        A bound of 0 is reached from the start.
        """
        if self.budget is None:
            return None
        used = (
            (self.budget.max_usd, self.usage.cost_usd),
            (self.budget.max_tokens, self.usage.tokens),
            (self.budget.max_calls, self.usage.calls),
        )
        return max(
            (spent / allowed if allowed else 1.0 for allowed, spent in used if allowed is not None), default=None
        )


# --- the accounts of a run --------------------------------------------------------------------------------------------


class RunAccounts:
    """The accounts that the calls of one run are charged to; what its `Meter` asks. Made by `Ledger.accounts`."""

    def __init__(self, ledger: "Ledger", run_id: str, tenant: str, user: str | None) -> None:
        self._ledger, self.run_id = ledger, run_id
        self._always: list[_Key] = [("tenant", "", tenant)]
        if user is not None:
            self._always.append(("user", tenant, user))
        self._own: dict[_Key, Account] = {}
        """Of this run alone, where the budget is one of runs."""
        self._of: dict[str, tuple[Account, ...]] = {}
        self.read_own = False
        """Whether it is known what earlier processes spent in this run."""

    async def read(self) -> None:
        await self._ledger.refresh(self)

    def check(self, agent: str) -> None:
        now = self._ledger.clock.now()
        for account in self.of(agent):
            account.check(now)

    def begin(self, agent: str) -> None:
        for account in self.of(agent):
            account.pending_calls += 1

    def end(self, agent: str) -> None:
        for account in self.of(agent):
            account.pending_calls -= 1

    def add(self, usage: Usage, agent: str) -> None:
        self._ledger.charge(self.of(agent), usage, self.run_id)

    def usd_bounds(self, agent: str) -> tuple[str, ...]:
        return tuple(f"{a.where}.max_usd" for a in self.of(agent) if a.budget.max_usd is not None)

    def of(self, agent: str) -> tuple[Account, ...]:
        """The accounts of a call by this agent, the tenant's first; those without a budget have none."""
        found = self._of.get(agent)
        if found is None:
            keys: list[_Key] = [*self._always, ("agent", "", agent)] if agent else self._always
            found = self._of[agent] = tuple(a for key in keys if (a := self._account(*key)) is not None)
        return found

    def shared(self) -> list[Account]:
        """Those of its tenant and its user that other runs are charged to as well."""
        return [account for account in self.of("") if account.budget.per != RUN]

    def put(self, key: _Key, spent: Usage) -> None:
        """What earlier processes spent in this run, where the budget is one of runs."""
        account = self._account(*key)
        if account is not None and account.budget.per == RUN:
            account.spent = spent

    def _account(self, scope: Scope, tenant: str, name: str) -> Account | None:
        key = (scope, tenant, name)
        account = self._own.get(key) or self._ledger.account(*key)
        if account is not None and account.budget.per == RUN:
            self._own[key] = account
        return account


# --- what was spent ---------------------------------------------------------------------------------------------------


class Ledger:
    """What agents, users and tenants spent; durable in the project's database, or as long as the ledger without one.

    Several processes may share the database. It belongs to one event loop.

    Args:
        budgets: Who may spend how much.
        db: The project's database; None: nothing is kept.
        clock: The time.
        fresh_s: Seconds that what was read of an account is gone by.
    """

    def __init__(
        self,
        budgets: BudgetSettings,
        db: Database | None = None,
        *,
        clock: Clock | None = None,
        fresh_s: float = FRESH_S,
    ) -> None:
        self.budgets, self.clock, self.fresh_s = budgets, clock or SystemClock(), fresh_s
        self._db = db
        every = [budget for scope in SCOPES for budget in self._budgets(scope).values()]
        self._of_runs = any(budget.per == RUN for budget in every)
        self._of_agents = any(budget.per != RUN for budget in budgets.agents.values())
        self._people: OrderedDict[_Key, Account] = OrderedDict()
        self._agents: dict[str, Account] = {}
        self._agents_read_at = float("-inf")
        self._runs: OrderedDict[str, RunAccounts] = OrderedDict()
        self._turn = asyncio.Lock()
        self._held: list[_Charge] | None = None
        """Charges made while the database is read, which what is found there does not hold; None: it is not read."""
        if db is not None:
            db.register(BUDGET_TABLES)

    def accounts(self, tenant: str, user: str | None, run_id: str) -> RunAccounts | None:
        """The accounts of a run, read when they are first asked for; None where no budget can concern it.

        Args:
            tenant: Whose run it is.
            user: On whose behalf.
            run_id: Its name; what the run spent before it was resumed counts.
        """
        known = self._runs.get(run_id)
        run = known or RunAccounts(self, run_id, tenant, user)
        if not self.budgets.agents and not run.of(""):
            return None
        if self._of_runs and self._db is None and known is None:
            self._runs[run_id] = run
            if len(self._runs) > KEPT_RUNS:
                self._runs.popitem(last=False)
        return run

    def account(self, scope: Scope, tenant: str, name: str) -> Account | None:
        """The account of a name, None if it has no budget; a new one each time where the budget is one of runs."""
        known = self._agents.get(name) if scope == "agent" else self._people.get((scope, tenant, name))
        if known is not None:
            if scope != "agent":
                self._people.move_to_end((scope, tenant, name))
            return known
        found = self._budget(scope, name)
        if found is None:
            return None
        where, budget = found
        account = Account(scope, name, budget, where=where, now=self.clock.now(), tenant=tenant)
        if budget.per == RUN:
            return account
        if scope == "agent":
            self._agents[name] = account
            return account
        self._people[scope, tenant, name] = account
        if self._db is not None and len(self._people) > KEPT_ACCOUNTS:
            self._people.popitem(last=False)
        return account

    def charge(self, accounts: Sequence[Account], usage: Usage, run_id: str) -> None:
        """Charge a call to these accounts, and write it behind the run."""
        if not accounts:
            return
        charge = _Charge(accounts, usage, run_id, self.clock.now())
        for account in accounts:
            account.add(usage, charge.at)
        if self._held is None:
            self._post(charge)
        else:
            self._held.append(charge)

    async def spent(self, scope: Scope | None = None, name: str | None = None) -> list[Spending]:
        """What everyone with an account has spent in the present period, every name of the settings among them.

        Args:
            scope: Only agents, only users, or only tenants.
            name: Only this one; a user of this name in every tenant.

        Returns:
            Tenants, then users, then agents, by name.

        Raises:
            StoreError: If the database cannot be read.
        """
        now = self.clock.now()
        amounts = self._in_memory(now) if self._db is None else await self._in_database(self._db, now)
        rows: dict[_Key, Spending] = {}
        for kind, tenant, each, _ in amounts:
            where, budget = self._budget(kind, each) or ("", None)
            per = budget.per if budget else "total"
            rows[kind, tenant, each] = Spending(
                scope=kind,
                name=each,
                tenant=tenant,
                per=per,
                period=period_of(per, now).name,
                usage=amounts.get((kind, tenant, each, per), Usage()),
                budget=budget,
                where=where,
            )
        listed = {(kind, each) for kind, _, each in rows}
        for kind in SCOPES:
            for each, budget in self._budgets(kind).items():
                if (kind, each) not in listed:
                    where, period = _settings_key(kind, each), period_of(budget.per, now).name
                    rows[kind, "", each] = Spending(
                        scope=kind, name=each, per=budget.per, period=period, budget=budget, where=where
                    )
        wanted = (s for s in rows.values() if scope in (None, s.scope) and name in (None, s.name))
        return sorted(wanted, key=lambda s: (SCOPES.index(s.scope), s.name == EVERY, s.tenant, s.name))

    async def flush(self) -> None:
        """Wait until every charge so far is on disk, or reported as lost by the database."""
        async with self._turn:  # nothing is held back then
            if self._db is not None:
                await self._db.flush()

    async def prune(self, run_ids: Iterable[str]) -> None:
        """Forget what single runs spent that will not be resumed; the days of their accounts are kept."""
        gone = list(run_ids)
        if self._db is not None and gone:
            await self._db.write(*(("DELETE FROM budgets_spent WHERE run_id = ? AND run_id != ''", (r,)) for r in gone))

    # --- whose budget -------------------------------------------------------------------------------------------------

    def _budgets(self, scope: Scope) -> Mapping[str, Budget]:
        match scope:
            case "tenant":
                return self.budgets.tenants
            case "user":
                return self.budgets.users
            case "agent":
                return self.budgets.agents

    def _budget(self, scope: Scope, name: str) -> tuple[str, Budget] | None:
        """The budget of a name, with its key in the settings."""
        budgets = self._budgets(scope)
        listed = name if name in budgets else EVERY
        return (_settings_key(scope, listed), budgets[listed]) if listed in budgets else None

    # --- writing and reading ------------------------------------------------------------------------------------------

    def _post(self, charge: "_Charge") -> None:
        if self._db is None:
            return
        day, run_id = period_of("day", charge.at).name, charge.run_id
        values: list[Value] = []
        for account in charge.accounts:
            values += (account.scope, account.tenant, account.name)
            values += (run_id, "") if account.budget.per == RUN else ("", day)
            values += _amounts(charge.usage)
        rows = ", ".join([_ROW] * len(charge.accounts))
        self._db.post(f"INSERT INTO budgets_spent ({_COLUMNS}) VALUES {rows} {_ADD}", values)  # noqa: S608

    async def refresh(self, run: RunAccounts) -> None:
        """Read the accounts of a run and those of all agents, where what is known of them is old.

        Raises:
            StoreError: If the database cannot be read.
        """
        if self._db is None or not self._old(run):
            return
        async with self._turn:
            if not self._old(run):  # it was read while this one waited
                return
            self._held = []
            try:
                await self._read(self._db, run)
            finally:
                held, self._held = self._held, None
                for charge in held:
                    self._post(charge)

    def _old(self, run: RunAccounts) -> bool:
        oldest = self.clock.monotonic() - self.fresh_s
        if self._of_agents and self._agents_read_at <= oldest:
            return True
        return (self._of_runs and not run.read_own) or any(a.read_at <= oldest for a in run.shared())

    async def _read(self, db: Database, run: RunAccounts) -> None:
        """One query for all. Charges made meanwhile are held back, so that what it finds is without them."""
        now, read_at = self.clock.now(), self.clock.monotonic()
        read = run.shared()
        asked: list[tuple[str, tuple[Value, ...]]] = []
        for account in read:
            account.turn(now)
            name, first, last = account.period
            asked.append((_OF_ONE, (name, first, last, account.scope, account.tenant, account.name)))
        asked += [(_OF_AGENTS, period) for period in self._agents_periods(now)]
        if self._of_runs and not run.read_own:
            asked.append((_OF_RUN, (run.run_id,)))
        await db.flush()
        rows = await db.query(" UNION ALL ".join(sql for sql, _ in asked), [v for _, values in asked for v in values])
        found: dict[tuple[str, Scope, str, str], Usage] = {}
        for label, scope, tenant, name, *sums in rows:
            found[label, scope, tenant, name] = _usage(sums)
            if label == RUN:
                run.put((scope, tenant, name), _usage(sums))
            elif scope == "agent":
                self.account("agent", "", name)
        read += self._agents.values()
        for account in read:
            account.turn(now)
            account.read_at = read_at
            account.spent = found.get((account.period.name, account.scope, account.tenant, account.name), Usage())
        self._agents_read_at, run.read_own = read_at, True
        for charge in self._held or ():
            for account in charge.accounts:
                if account in read and account.period == period_of(account.budget.per, charge.at):
                    account.add(charge.usage, charge.at)

    def _agents_periods(self, now: float) -> set[Period]:
        return {period_of(budget.per, now) for budget in self.budgets.agents.values() if budget.per != RUN}

    def _in_memory(self, now: float) -> dict[tuple[Scope, str, str, Per], Usage]:
        accounts = (*self._people.values(), *self._agents.values())
        for account in accounts:
            account.turn(now)
        return {(a.scope, a.tenant, a.name, a.budget.per): a.spent for a in accounts}

    async def _in_database(self, db: Database, now: float) -> dict[tuple[Scope, str, str, Per], Usage]:
        """What stands there of every name: in each kind of period, and the largest amounts of its runs."""
        await self.flush()
        values = [value for per in PERIODS for value in (per, *period_of(per, now)[1:])]
        rows = await db.query(" UNION ALL ".join([*[_OF_ALL] * len(PERIODS), _OF_RUNS]), values)
        found: dict[tuple[Scope, str, str, Per], Usage] = {}
        for per, scope, tenant, name, *sums in rows:
            found[scope, tenant, name, per] = _usage(sums)
        return found


class _Charge(NamedTuple):
    """One call that is charged to some accounts."""

    accounts: Sequence[Account]
    usage: Usage
    run_id: str
    at: float
    """Seconds since 1970, UTC."""


def check_agents(budgets: BudgetSettings, agents: Sequence[str]) -> None:
    """Raise `UnknownNameError` for a budget of an agent that is not there."""
    for name in budgets.agents:
        if name != EVERY and name not in agents:
            raise UnknownNameError("agent", name, sorted(agents), where=_settings_key("agent", name))


def _settings_key(scope: Scope, name: str) -> str:
    """`budgets.tenants.acme`, the name in quotes where a TOML key needs them."""
    return f"budgets.{scope}s.{name if re.fullmatch(r'[A-Za-z0-9_-]+', name) else json.dumps(name, ensure_ascii=False)}"


def _amounts(usage: Usage) -> tuple[Value, ...]:
    """The columns of a charge."""
    unpriced = 0 if usage.cost_known else max(1, usage.calls)
    return (usage.calls, usage.prompt_tokens, usage.completion_tokens, usage.cost_usd, unpriced)


def _usage(amounts: Sequence[Any]) -> Usage:
    """What the columns of a row say."""
    calls, prompt_tokens, completion_tokens, cost_usd, unpriced = amounts
    return Usage(
        calls=calls,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cost_usd=cost_usd,
        cost_known=not unpriced,
    )
