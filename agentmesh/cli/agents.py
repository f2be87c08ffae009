"""`agentmesh agents`: the cards of the project."""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentmesh.cli.app import JsonOption, ProjectOption, agents_app, consoles, print_json, project_folder
from agentmesh.cli.completion import complete_agents
from agentmesh.errors import ConfigError, InputError, UnknownNameError

if TYPE_CHECKING:
    from agentmesh.mistakes import Mistake
    from agentmesh.models.base import ChatModel
    from agentmesh.project.descriptions import CardFile, Lack
    from agentmesh.run import RunContext

__all__: list[str] = []

DESCRIBED_AT_ONCE = 4
"""Agents that a model describes at the same time."""

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


@agents_app.command("describe")
def agents_describe(
    agents: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ID]...", help="Only these agents.", autocompletion=complete_agents, show_default=False
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A model of the settings, or any LiteLLM id; by default `routing.model`.", show_default=False
        ),
    ] = None,
    no_model: Annotated[
        bool, typer.Option("--no-model", help="Name the most telling words of the examples; no model is asked.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="Also where a good enough description stands.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Write into the cards what is otherwise only shown.")] = False,
    limit: Annotated[int | None, typer.Option(help="Most agents.", min=1, show_default=False)] = None,
    max_usd: Annotated[
        float | None, typer.Option(help="US$ that the model may take.", min=0, show_default=False)
    ] = None,
    as_json: JsonOption = False,
    project: ProjectOption = None,
) -> None:
    """Write descriptions from examples where cards have none or a thin one, marked as `generated` in the card.

    Shows the changes; --write makes them. Exit status: 0 done, 1 an agent could not be described, 2 a mistake in the
    command or the settings.
    """
    from agentmesh.project.descriptions import lacking, read_card_files

    folder = _existing_project(project)
    if no_model and (model is not None or max_usd is not None):
        raise InputError("--no-model asks no model; leave --model and --max-usd out, or leave --no-model out")
    cards = read_card_files(folder)
    wanted = lacking(cards, agents or (), every=every)
    left_out = sorted(set(agents or ()) - {card.agent for card, _ in wanted})
    work = _Describing(folder, cards, wanted[:limit], write=write, max_usd=max_usd)
    asyncio.run(work.run(None if no_model or not wanted else _open_described(folder, model)))
    values = {
        "described": work.done,
        "failed": work.failed,
        "left_out": left_out,
        "model": work.model,
        "usage": work.usage.model_dump(mode="json"),
    }
    if as_json:
        print_json(values)
    else:
        _show_described(values, write=write, more=len(wanted) - len(work.cards))
    for agent, error in work.failed.items():
        print(f"agentmesh: {agent}: {error}", file=sys.stderr)
    if work.failed:
        raise typer.Exit(1)


class _Describing:
    """Descriptions of some agents, a few at a time; what fails is noted and the others go on."""

    def __init__(
        self,
        folder: Path,
        cards: "Sequence[CardFile]",
        wanted: "Sequence[tuple[CardFile, Lack]]",
        *,
        write: bool,
        max_usd: float | None,
    ) -> None:
        from agentmesh.run import Limits
        from agentmesh.types import Usage

        self.all, self.cards, self.folder, self.write = cards, wanted, folder, write
        self.limits = Limits(max_usd=max_usd, max_calls=None, max_seconds=None)
        self.done: list[dict[str, Any]] = []
        self.failed: dict[str, str] = {}
        self.model: str | None = None
        self.usage = Usage()

    async def run(self, model: "ChatModel | None") -> None:
        """Describe them all; with a model, that is closed afterwards."""
        from agentmesh.run import loose_context

        ctx, gate = loose_context("describe", limits=self.limits), asyncio.Semaphore(DESCRIBED_AT_ONCE)
        self.model = model.info.name if model is not None else None
        try:
            made = await asyncio.gather(*(self._one(card, lack, model, ctx, gate) for card, lack in self.cards))
        finally:
            if model is not None:
                await model.aclose()
        self.done = [one for one in made if one is not None]
        self.failed = {card.agent: self.failed[card.agent] for card, _ in self.cards if card.agent in self.failed}
        self.usage = ctx.meter.spent if ctx.meter is not None else self.usage

    async def _one(
        self, card: "CardFile", lack: "Lack", model: "ChatModel | None", ctx: "RunContext", gate: asyncio.Semaphore
    ) -> dict[str, Any] | None:
        from agentmesh.agents.describe import describe, describe_by_words
        from agentmesh.errors import MeshError
        from agentmesh.project.descriptions import described, text_diff, write_card_file

        if card.error:
            self.failed[card.agent] = card.error
            return None
        try:
            if model is None:
                text = await asyncio.to_thread(describe_by_words, card, self.all)
            else:
                async with gate:
                    text = await describe(card, model, ctx.at(step=f"describe/{card.agent}"))
            data = described(card, text)
            if self.write:
                await asyncio.to_thread(write_card_file, card, data)
        except MeshError as error:
            self.failed[card.agent] = str(error)
            return None
        return {
            "agent": card.agent,
            "file": f"agents/{card.path.name}",
            "why": lack,
            "before": card.description or None,
            "description": text,
            "diff": text_diff(card, data),
            "written": self.write,
        }


def _open_described(folder: Path, name: str | None) -> "ChatModel":
    """The model of that name, if it can be trusted with words."""
    from agentmesh.models import check_model_spec, open_model
    from agentmesh.settings import ModelSettings, load_settings

    settings = load_settings(folder, environ=os.environ)
    called = name or settings.routing.model
    if called not in settings.models:
        check_model_spec(called, where="--model" if name else "routing.model")
    model = open_model(called, settings.models.get(called, ModelSettings(model=called)))
    if not model.info.capable:
        raise ConfigError(
            f"the model {called!r} is declared not capable, so it writes no descriptions; name a capable one with "
            "--model or in [models], or take the most telling words of the examples with --no-model"
        )
    return model


def _show_described(values: dict[str, Any], *, write: bool, more: int) -> None:
    """The changes, or what was written; what it took goes to standard error."""
    for one in values["described"]:
        print(f"wrote {one['file']}: {one['description']}" if write else one["diff"])
    for agent in values["left_out"]:
        print(f"agentmesh: {agent} has a description; add --all to write another", file=sys.stderr)
    done, usage = len(values["described"]), values["usage"]
    if not done and not values["failed"] and not values["left_out"]:
        print("agentmesh: no card lacks a description; add --all to write others", file=sys.stderr)
        return
    said = f"{done} described" + (f", {len(values['failed'])} failed" if values["failed"] else "")
    said += f", {more} more beyond --limit" if more > 0 else ""
    if values["model"]:
        unknown = "" if usage["cost_known"] else " or more (a price is not known)"
        said += (
            f"; {values['model']}: {usage['calls']} call{'s' if usage['calls'] != 1 else ''}, "
            f"{usage['prompt_tokens']} + {usage['completion_tokens']} tokens, {usage['cost_usd']:.4f} US${unknown}"
        )
    print(f"agentmesh: {said}" + ("" if write or not done else "; --write makes the changes"), file=sys.stderr)


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
