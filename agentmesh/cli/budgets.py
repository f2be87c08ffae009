"""`agentmesh budgets`: what agents, users and tenants may spend, and what they spent."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentmesh.cli.app import JsonOption, ProjectOption, app, consoles, print_json, project_folder

if TYPE_CHECKING:
    from rich.table import Table

    from agentmesh.budgets import Spending

__all__: list[str] = []

NONE = 'no budgets are set; set one with `[budgets.tenants.acme]` and `max_usd = 1` in agentmesh.toml, or "*" for all'
BAR_CELLS = 12
NEAR = 0.8
"""Share of a budget from which on its bar is yellow."""


@app.command()
def budgets(as_json: JsonOption = False, project: ProjectOption = None) -> None:
    """What tenants, users and agents have spent of their budgets in the present period."""
    rows = asyncio.run(_spent(project_folder(project)))
    if as_json:
        print_json([document(row) for row in rows])
        return
    console, _ = consoles(False)
    console.print(show_budgets(rows) if rows else NONE, soft_wrap=not rows, markup=False)


async def _spent(folder: Path) -> "Sequence[Spending]":
    from agentmesh.assembly import open_ledger

    async with open_ledger(folder) as ledger:
        return await ledger.spent()


def document(row: "Spending") -> dict[str, Any]:
    """A row as JSON: what was spent, what is allowed, and which part of it that is."""
    usage = row.usage
    spent = {"usd": usage.cost_usd, "tokens": usage.tokens, "calls": usage.calls, "usd_known": usage.cost_known}
    allowed = row.budget.model_dump(exclude={"per"}) if row.budget else None
    about = row.model_dump(mode="json", include={"scope", "name", "tenant", "per", "period", "where"})
    return {**about, "spent": spent, "allowed": allowed, "share": row.share}


def show_budgets(rows: "Sequence[Spending]") -> "Table":
    """A line for each name: what it spent of what it may, and a bar."""
    from rich.table import Table
    from rich.text import Text

    from agentmesh.cli.show import bar

    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("scope", "name", "period (UTC)", "spent", "allowed", ""):
        table.add_column(heading)
    for row in rows:
        name = f"{row.name} ({row.tenant})" if row.tenant else row.name
        each = row.name == "*"
        share = row.share
        style = (
            "red" if share is not None and share >= 1 else "yellow" if share is not None and share >= NEAR else "cyan"
        )
        table.add_row(
            row.scope,
            Text("* (each other)" if each else name),
            {"run": "largest run"}.get(row.period, row.period),
            Text("-" if each else spent_words(row)),
            Text(allowed_words(row)),
            Text("") if each or share is None else bar(share, BAR_CELLS, style=style),
        )
    return table


def spent_words(row: "Spending") -> str:
    """`0.0200 US$, 3 calls`: what is bounded, or all if nothing is; `or more` where a price is not known."""
    usage, budget = row.usage, row.budget
    more = "" if usage.cost_known else " or more"
    said = (
        (budget and budget.max_usd, f"{usage.cost_usd:.4f} US${more}"),
        (budget and budget.max_tokens, f"{usage.tokens:,} tokens"),
        (budget and budget.max_calls, f"{usage.calls:,} call{'' if usage.calls == 1 else 's'}"),
    )
    bounded = [text for bound, text in said if bound is not None]
    return ", ".join(bounded or [text for _, text in said])


def allowed_words(row: "Spending") -> str:
    """`1 US$, 500 calls a day`."""
    if row.budget is None:
        return "no budget any more"
    bounds = ((row.budget.max_usd, "US$"), (row.budget.max_tokens, "tokens"), (row.budget.max_calls, "calls"))
    said = ", ".join(
        f"{allowed:,.10g} {unit.removesuffix('s') if allowed == 1 else unit}"
        for allowed, unit in bounds
        if allowed is not None
    )
    return f"{said or 'no bound'} {'in total' if row.per == 'total' else f'a {row.per}'}"
