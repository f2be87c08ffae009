"""`agentmesh agents overlap`: which cards compete for the same messages, and what to change."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentmesh.cli.app import (
    JsonOption,
    ProjectOption,
    agents_app,
    consoles,
    print_json,
    project_folder,
    write_output,
)
from agentmesh.cli.completion import complete_agents
from agentmesh.errors import UnknownNameError

if TYPE_CHECKING:
    from rich.console import Console

    from agentmesh.routing.overlap import Overlap
    from agentmesh.types import AgentCard

__all__: list[str] = []

SHADES = (("░", 0.05), ("▒", 0.15), ("▓", 0.4), ("█", 0.7))
"""Of a cell of the heat map, each from this share on: closer together where cards begin to compete."""
MOST_CELLS = 40
"""Agents of a heat map on a terminal; of more, or where its columns do not hold as many, those that compete most."""
WIDE_CELL, CELL = 3, 2
"""Columns of a cell, where there is room and where there is not."""
NAME = 24
"""Characters of an agent's name beside the map; longer ones are cut."""
SHOWN = 10
"""Pairs, misfits and thin descriptions that the terminal lists of each."""
QUOTED = 2
"""Examples that it quotes of a pair."""


@agents_app.command("overlap")
def agents_overlap(
    agent: Annotated[
        list[str] | None,
        typer.Option(
            help="Only these agents, e.g. those of one pool; may be repeated.", autocompletion=complete_agents
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for overlap.png (the extra `plots`), overlap.json and overlap.md.")
    ] = None,
    as_json: JsonOption = False,
    project: ProjectOption = None,
) -> None:
    """Which cards compete for the same messages, which examples are nobody's, and the edits that would help.

    Every example is asked about as if its card did not have it. No model is asked; only the embedder is used.
    """
    from agentmesh.assembly import open_project

    opened = open_project(project_folder(project))
    cards = _chosen(opened.cards, agent or ())
    console, errors = consoles(as_json)

    async def find() -> "Overlap":
        from agentmesh.models import open_embedder
        from agentmesh.routing.calibration import CalibratedCards
        from agentmesh.routing.overlap import find_overlap

        vectors = await open_embedder(opened.settings.memory.embedder).embed(CalibratedCards.texts(cards))
        return await asyncio.to_thread(find_overlap, cards, vectors)

    found = asyncio.run(find())
    values = _values(found)
    written = _write(found, values, out) if out is not None else []
    if out is not None and not any(path.suffix == ".png" for path in written):
        errors.print("no overlap.png: matplotlib is not installed (pip install 'agentmesh[plots]')", markup=False)
    if as_json:
        print_json(values)
        return
    _show(found, console)
    for path in written:
        console.print(str(path), markup=False)


def _chosen(cards: "Sequence[AgentCard]", named: Sequence[str]) -> "tuple[AgentCard, ...]":
    """The cards that were named, or all."""
    known = {card.id: card for card in cards}
    for agent in named:
        if agent not in known:
            raise UnknownNameError("agent", agent, sorted(known), where="--agent")
    return tuple(card for card in cards if not named or card.id in named)


def _values(found: "Overlap") -> dict[str, Any]:
    """Everything that was found, as JSON values."""
    from dataclasses import asdict

    values = asdict(found)
    values["chance"] = [[round(float(share), 4) for share in row] for row in found.chance]
    for kind in ("rivals", "misfits", "thin"):
        for made, item in zip(values[kind], getattr(found, kind), strict=True):
            made["edits"] = [{**edit, "file": f"agents/{edit['agent']}.md"} for edit in made["edits"]]
            for key in ("shared", "own", "none"):
                if hasattr(item, key):
                    made[key] = round(float(getattr(item, key)), 4)
    for pair in values["rivals"]:
        pair["crossed"] = [{**c, "own": round(c["own"], 4), "other": round(c["other"], 4)} for c in pair["crossed"]]
    return values


def _write(found: "Overlap", values: dict[str, Any], folder: Path) -> list[Path]:
    import json

    from agentmesh.evaluation import plots
    from agentmesh.evaluation.pages import to_markdown

    files = {"overlap.json": (json.dumps(values, ensure_ascii=False, indent=2) + "\n").encode()}
    if plots.can_plot():
        title = "mean probability of the agent above for the examples of the agent at the left"
        files["overlap.png"] = plots.heat_plot(found.chance, found.agents, (*found.agents, "(none)"), title)
    files["overlap.md"] = to_markdown(_page(found)).encode()
    for name, data in files.items():
        write_output(folder / name, data, make_folder=True)
    return [folder / name for name in files]


def _page(found: "Overlap") -> Any:
    """The findings as a report, all of them."""
    from agentmesh.evaluation.pages import Page, Section, Table

    rivals = tuple(
        (r.first, r.second, f"{r.shared:.2f}", str(len(r.crossed)), "; ".join(map(str, r.edits))) for r in found.rivals
    )
    misfits = tuple((m.agent, m.text, m.trouble, f"{m.own:.2f}", "; ".join(map(str, m.edits))) for m in found.misfits)
    thin = tuple((t.agent, t.reason, "; ".join(map(str, t.edits))) for t in found.thin)
    tables = (
        ("Cards that compete", Table(("card", "card", "shared", "crossed", "edits"), rivals, ("shared", "crossed"))),
        ("Examples that do not fit", Table(("card", "example", "trouble", "own", "edits"), misfits, ("own",))),
        ("Thin descriptions", Table(("card", "why", "edits"), thin)),
    )
    sections = [Section(head, "" if table.rows else "None.", (table,) if table.rows else ()) for head, table in tables]
    return Page("Overlap of cards", _head(found), sections)


def _head(found: "Overlap") -> str:
    asked, right = sum(found.examples), sum(found.right)
    return f"{len(found.agents)} agents; {right} of {asked} examples go to their own agent when its card lacks them"


# --- on the terminal --------------------------------------------------------------------------------------------------


def _show(found: "Overlap", console: "Console") -> None:
    from rich.text import Text

    console.print(Text(_head(found), style="dim"))
    _show_map(found, console)
    _heading(console, "cards that compete", len(found.rivals))
    for pair in found.rivals[:SHOWN]:
        console.print(Text(f"{pair.first} and {pair.second}: {pair.shared:.2f} shared", style="bold"))
        for one in pair.crossed[:QUOTED]:
            console.print(Text(f"  {one.agent} -> {one.goes_to} ({one.own:.2f} against {one.other:.2f}): {one.text}"))
        _show_edits(pair.edits, console)
    _heading(console, "examples that do not fit", len(found.misfits))
    said = {
        "nobody": "no agent would get it",
        "vague": "no word says what it is about",
        "denied": "the card's own not_for says the opposite",
        "twice": "another card has it too",
    }
    for misfit in found.misfits[:SHOWN]:
        console.print(Text(f"{misfit.agent}: {misfit.text} ({said[misfit.trouble]})"))
        _show_edits(misfit.edits, console)
    _heading(console, "thin descriptions", len(found.thin))
    for thin in found.thin[:SHOWN]:
        console.print(Text(f"{thin.agent}: {thin.reason}"))
        _show_edits(thin.edits, console)


def _heading(console: "Console", text: str, count: int) -> None:
    from rich.text import Text

    shown = f", the first {SHOWN}" if count > SHOWN else ""
    console.print(Text(f"\n{text}: {count or 'none'}{shown}", style="bold cyan"))


def _show_edits(edits: Sequence[object], console: "Console") -> None:
    from rich.text import Text

    for edit in edits:
        console.print(Text(f"  {edit}", style="green"))


def _show_map(found: "Overlap", console: "Console") -> None:
    """A heat map of two signs a cell, legible without colours too."""
    from rich.table import Table
    from rich.text import Text

    width = min(NAME, max(len(agent) for agent in found.agents))
    room = console.width - width - len("123   none")
    places = _shown_places(found, max(2, room // CELL))
    cell = WIDE_CELL if len(places) * WIDE_CELL <= room else CELL
    table = Table(box=None, header_style="dim", pad_edge=False, padding=0, collapse_padding=True)
    table.add_column("")
    for number in range(1, len(places) + 1):
        shown = cell == WIDE_CELL or number < 10 or number % 2 == 0  # two digits beside two digits are one number
        table.add_column(f"{number:>2}" if shown else "", width=cell, no_wrap=True)
    table.add_column(" none", no_wrap=True)
    for number, row in enumerate(places, start=1):
        agent = found.agents[row] if len(found.agents[row]) <= width else found.agents[row][: width - 1] + "…"
        name = Text(f"{number:>3} {agent:<{width}} ", style="dim" if not found.examples[row] else "")
        cells = [_cell(float(found.chance[row, column])) for column in places]
        table.add_row(name, *cells, Text(" ") + _cell(float(found.chance[row, -1])))
    console.print(table)
    key = "  ".join(f"{shade * 2} {low:.2f}" for shade, low in SHADES)
    told = "row: whose examples; column: who would get them, as a mean probability from  "
    console.print(Text(told + key, style="dim"))
    if len(places) < len(found.agents):
        console.print(Text(f"the {len(places)} that compete most; --out writes all", style="dim"))


def _shown_places(found: "Overlap", most: int) -> list[int]:
    """All agents, or of too many those that compete most, at most so many."""
    most = min(most, MOST_CELLS)
    if len(found.agents) <= most:
        return list(range(len(found.agents)))
    order = {agent: place for place, agent in enumerate(found.agents)}
    named = [order[agent] for pair in found.rivals for agent in (pair.first, pair.second)]
    return sorted(list(dict.fromkeys([*named, *range(len(order))]))[:most])


def _cell(share: float) -> Any:
    from rich.text import Text

    return Text(next((shade for shade, low in reversed(SHADES) if share >= low), " ") * 2, style="cyan")
