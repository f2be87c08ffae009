"""`agentmesh agents`: the cards of the project."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentmesh.cli.app import JsonOption, ProjectOption, agents_app, consoles, print_json, project_folder
from agentmesh.cli.completion import complete_agents
from agentmesh.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from agentmesh.mistakes import Mistake

__all__: list[str] = []

AgentArgument = Annotated[
    str, typer.Argument(metavar="ID", help="The agent's id: its file's name.", autocompletion=complete_agents)
]


@agents_app.command("list")
def agents_list(as_json: JsonOption = False, project: ProjectOption = None) -> None:
    """The agents of the project, with what each is for."""
    from agentmesh.assembly import open_project

    cards = open_project(project_folder(project)).cards
    if as_json:
        print_json([card.model_dump(mode="json") for card in cards])
        return
    from rich.table import Table
    from rich.text import Text

    console, _ = consoles(False)
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("agent", "role", "model", "examples", "what it is for"):
        table.add_column(heading, no_wrap=heading == "agent", justify="right" if heading == "examples" else "left")
    for card in cards:
        shadow = " (shadow)" if card.shadow else ""
        row = (card.id + shadow, card.role, card.model, str(len(card.examples)), card.description)
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


@agents_app.command("show")
def agents_show(agent: AgentArgument, as_json: JsonOption = False, project: ProjectOption = None) -> None:
    """One agent: its card, with everything that it does not say filled in."""
    from agentmesh.assembly import open_project

    cards = {card.id: card for card in open_project(project_folder(project)).cards}
    if agent not in cards:
        raise UnknownNameError("agent", agent, sorted(cards))
    values = cards[agent].model_dump(mode="json")
    if as_json:
        print_json(values)
        return
    from rich.table import Table
    from rich.text import Text

    console, _ = consoles(False)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for key, value in values.items():
        if value not in (None, "", [], {}):
            table.add_row(key, Text(_shown(value)))
    console.print(table)


@agents_app.command("add")
def agents_add(
    agent: Annotated[str, typer.Argument(metavar="ID", help="The new agent's id: letters, digits, `-`, `_`, `.`.")],
    description: Annotated[str | None, typer.Option(help="What it answers, in a sentence or two.")] = None,
    example: Annotated[list[str] | None, typer.Option(help="A question it should get; may be repeated.")] = None,
    not_for: Annotated[list[str] | None, typer.Option(help="What it should not get; may be repeated.")] = None,
    name: Annotated[str | None, typer.Option(help="What people see; by default the id.", show_default=False)] = None,
    role: Annotated[str | None, typer.Option(help="A role of memory/roles.yaml; by default `solver`.")] = None,
    model: Annotated[str | None, typer.Option(help="A model of the settings, or any LiteLLM id.")] = None,
    instructions: Annotated[str | None, typer.Option(help="What it is told; by default one plain sentence.")] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="FILE", help="A whole card to take as it is; `-` reads standard input."),
    ] = None,
    as_json: JsonOption = False,
    project: ProjectOption = None,
) -> None:
    """Write a new card, agents/ID.md, unless `check` would find a mistake in it. Touches no other file."""
    from agentmesh.assembly import known_names
    from agentmesh.project.cards import add_card, card_text
    from agentmesh.project.frontmatter import MAX_CARD_BYTES

    folder = _existing_project(project)
    options = (description, example, not_for, name, role, model, instructions)
    if source is not None:
        if any(option is not None for option in options):
            raise InputError("--from takes a whole card as it is; leave the other options out, or leave --from out")
        data = _read(source, MAX_CARD_BYTES + 1)
    elif description is None or not description.strip():
        raise InputError("a card needs a description; add --description, or take a whole card with --from FILE")
    else:
        words = (description, name, role, model, instructions, *(example or ()), *(not_for or ()))
        try:
            "".join(word or "" for word in words).encode()
        except UnicodeEncodeError as error:
            raise InputError("an option is not valid UTF-8; set the terminal to UTF-8") from error
        data = card_text(
            description,
            name=name or "",
            role=role,
            model=model,
            examples=example or (),
            not_for=not_for or (),
            instructions=instructions or "",
        ).encode()
    path, others = add_card(folder, agent, data, known=known_names(), environ=os.environ)
    _report("added", agent, path.relative_to(folder.absolute()) if path.is_absolute() else path, others, as_json)


@agents_app.command("remove")
def agents_remove(
    agent: AgentArgument,
    force: Annotated[bool, typer.Option("--force", help="Even where a scenario or a budget names it.")] = False,
    as_json: JsonOption = False,
    project: ProjectOption = None,
) -> None:
    """Delete a card, unless something in the project still names the agent. Touches no other file."""
    from agentmesh.assembly import known_names
    from agentmesh.project.cards import remove_card

    folder = _existing_project(project)
    path, fresh = remove_card(folder, agent, known=known_names(), environ=os.environ, force=force)
    _report("removed", agent, path, fresh, as_json)


def _existing_project(given: Path | None) -> Path:
    """The project's folder; a folder that only happens to be the current one is not taken for one."""
    folder = project_folder(given)
    if given is None:
        from agentmesh.project.loader import is_project

        if not is_project(folder):
            raise InputError(
                "there is no mesh project here; write one with `agentmesh init DIR`, or name its folder with --project"
            )
    return folder


def _read(source: str, most: int) -> bytes:
    """At most so many bytes: what never ends is too large, too."""
    if source == "-":
        return sys.stdin.buffer.read(most)
    try:
        with Path(source).open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise InputError(f"--from {source}: cannot be read ({(error.strerror or '').lower()})") from error


def _report(what: str, agent: str, path: Path, mistakes: "list[Mistake]", as_json: bool) -> None:
    if as_json:
        print_json({what: agent, "file": f"agents/{path.name}", "mistakes": [str(m) for m in mistakes]})
        return
    print(f"{what} agents/{path.name}")
    for mistake in mistakes:
        print(f"agentmesh: {mistake}", file=sys.stderr)


def _shown(value: Any) -> str:
    """A value of a card as people read it."""
    if isinstance(value, list):
        return "\n".join(str(item) for item in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items() if v is not None)  # pyright: ignore[reportUnknownVariableType]
    return str(value).lower() if isinstance(value, bool) else str(value)
