"""How runs look in a terminal. Text of users, agents and memory is printed as it is: it is never read as markup."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.rule import Rule
from rich.status import Status
from rich.table import Table
from rich.text import Text

from agentmesh.evaluation.expect import Check
from agentmesh.trace.events import (
    AgentReplied,
    AgentsChanged,
    AgentStarted,
    ContextSelected,
    Event,
    GuardrailTripped,
    LimitReached,
    LoopDetected,
    ModelCalled,
    PersonAnswered,
    PersonAsked,
    RouteDecided,
    RoutesCompared,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    RunWaiting,
    StageEntered,
    StepFailed,
    TokensStreamed,
    ToolCalled,
    event_adapter,
)
from agentmesh.types import AgentReply, Answer, AnswerStatus, ContextPack, Mode, ReplyStatus, RoutingDecision, Usage

__all__ = [
    "RunView",
    "bar",
    "document",
    "loading",
    "show_answer",
    "show_checks",
    "show_decision",
    "show_pack",
    "show_waiting",
]

BAR_CELLS = 20
SHOWN_CANDIDATES = 6
SHOWN_SHADOWS = 3
"""Agents with `shadow` that are shown although they score lower than those above."""
MOST_ARGUMENT_CHARS = 120
"""Characters of a tool's arguments on its line."""
COLOURS = {
    AnswerStatus.ANSWERED: "green",
    AnswerStatus.PARTIAL: "yellow",
    AnswerStatus.CLARIFY: "cyan",
    AnswerStatus.NEEDS_APPROVAL: "cyan",
    AnswerStatus.BLOCKED: "red",
    AnswerStatus.OUT_OF_SCOPE: "magenta",
    AnswerStatus.NO_ANSWER: "yellow",
    AnswerStatus.FAILED: "red",
}


def bar(share: float, cells: int = BAR_CELLS, style: str = "cyan") -> Text:
    """A horizontal bar; `share` outside of 0..1 is cut."""
    eighths = round(max(0.0, min(1.0, share)) * cells * 8)
    full, rest = divmod(eighths, 8)
    drawn = "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")
    return Text(drawn.ljust(cells, "·"), style=style)


def show_decision(decision: RoutingDecision) -> Group:
    """Who was considered, who was chosen and why."""
    table = Table(box=None, pad_edge=False, show_header=True, header_style="dim")
    for heading, side in (("", "left"), ("agent", "left"), ("probability", "left"), ("", "right"), ("why", "left")):
        table.add_column(heading, justify=side, no_wrap=heading == "agent")  # pyright: ignore[reportArgumentType]
    chosen = sum(c.chosen for c in decision.candidates)
    most = max(SHOWN_CANDIDATES, chosen + 2)
    shadows = [c for c in decision.candidates[most:] if c.reason.startswith("shadow")][:SHOWN_SHADOWS]
    shown = [*decision.candidates[:most], *shadows]  # who tries an agent out wants to see what it would have got
    for candidate in shown:
        value = candidate.probability if candidate.probability is not None else candidate.score
        style = "green" if candidate.chosen else "bright_black"
        table.add_row(
            Text("●" if candidate.chosen else "○", style=style),
            Text(candidate.agent, style="bold" if candidate.chosen else "dim"),
            bar(value, style=style),
            Text(f"{value:.2f}", style=style),
            Text(candidate.reason, style="" if candidate.chosen else "dim"),
        )
    parts: list[Any] = [Text(decision.reason)]
    if shown:
        parts.append(Padding(table, (0, 0, 0, 2)))
    if len(decision.candidates) > len(shown):
        parts.append(Text(f"  and {len(decision.candidates) - len(shown)} more that score lower", style="dim"))
    for choice in decision.chosen:
        if choice.part and decision.mode is Mode.PARALLEL:
            parts.append(Text.assemble(("  → ", "green"), (choice.agent, "bold"), (f"  “{choice.part}”", "italic")))
    parts.append(
        Text(
            f"  {decision.mode.value}, confidence {decision.confidence:.2f}, router {decision.router}, "
            f"{decision.latency_ms:.1f} ms",
            style="dim",
        )
    )
    return Group(*parts)


def show_pack(pack: ContextPack) -> Text:
    """How much of its budget an agent's context takes, on one line."""
    share = pack.tokens / pack.budget_tokens if pack.budget_tokens else 0.0
    dropped = sum(not i.kept for i in pack.report)
    return Text.assemble(
        "  ",
        (f"{pack.agent:<14} ", "bold"),
        bar(share, style="blue"),
        f" {pack.tokens}/{pack.budget_tokens} tokens",
        (f"  {len(pack.items)} kept, {dropped} dropped", "dim"),
    )


def show_reply(reply: AgentReply) -> Text:
    """What became of one agent, on one line."""
    if reply.ok:
        cited = f"{len(reply.cited)} item{'s' if len(reply.cited) != 1 else ''} cited"
        tokens = f"{reply.usage.tokens} tokens" if reply.usage.calls else "no model call"
        how = "extracts beside the model's words" if reply.extractive else "written by the model"
        detail = f"{reply.latency_ms / 1000:.2f} s, {tokens}, {cited}, {how}"
        return Text.assemble("  ", ("✓ ", "green"), (f"{reply.agent:<14} ", "bold"), (detail, "dim"))
    if reply.status is ReplyStatus.NEEDS_APPROVAL:
        return Text.assemble("  ", ("? ", "cyan"), (f"{reply.agent:<14} ", "bold"), ("waits for a yes or a no", "cyan"))
    colour = "yellow" if reply.status in (ReplyStatus.NO_EVIDENCE, ReplyStatus.REPEATED) else "red"
    words = reply.error or reply.status.value.replace("_", " ")
    return Text.assemble("  ", ("✗ ", colour), (f"{reply.agent:<14} ", "bold"), (words, colour))


def show_answer(answer: Answer) -> Group:
    """The answer with its contributors, conflicts and what it took."""
    colour = COLOURS[answer.status]
    title = Text(answer.status.value.replace("_", " "), style=f"bold {colour}")
    parts: list[Any] = [Panel(Text(answer.text), title=title, title_align="left", border_style=colour)]
    if answer.contributors:
        parts.append(Text("contributors", style="dim"))
        for who in answer.contributors:
            mark = ("✓ ", "green") if who.status is ReplyStatus.ANSWERED else ("✗ ", "yellow")
            noun = "sentence" if who.sentences == 1 else "sentences"
            items = "item" if len(who.cited) == 1 else "items"
            detail = f"{who.sentences} {noun}, {len(who.cited)} {items} cited" + (f"; {who.note}" if who.note else "")
            parts.append(Text.assemble("  ", mark, (f"{who.agent:<14} ", "bold"), (detail, "dim")))
    for conflict in answer.conflicts:
        parts.append(Text.assemble(("conflict ", "bold yellow"), (f"({conflict.kind}) ", "yellow"), conflict.about))
        for side in conflict.sides:
            source = f"  [{side.agent}; {side.source}]" if side.source else f"  [{side.agent}]"
            parts.append(Text.assemble("  ", (f"{side.value:<14} ", "bold yellow"), side.text, (source, "dim")))
    if answer.stop is not None:
        parts.append(Text.assemble(("stopped ", "bold red"), answer.stop.text))
    parts.append(Text(f"refiner {answer.refiner}", style="dim"))
    parts.append(Text(f"{_cost(answer.usage)}, {answer.latency_s:.2f} s, run {answer.run_id}", style="dim"))
    return Group(*parts)


def show_waiting(answer: Answer) -> Group:
    """What a run waits for, and what may be answered."""
    parts: list[Any] = []
    for question in answer.waiting:
        parts.append(Panel(Text(question.text), title=Text(question.kind.value, style="bold cyan"), title_align="left",
                           border_style="cyan"))  # fmt: skip
        if question.options:
            parts.append(Text("  " + ", ".join(f"{n} {o}" for n, o in enumerate(question.options, 1)), style="dim"))
        if len(answer.waiting) > 1:
            parts.append(Text(f"  --question {question.id}", style="dim"))
    parts.append(Text(f"{_cost(answer.usage)}, {answer.latency_s:.2f} s, run {answer.run_id}", style="dim"))
    return Group(*parts)


def _change_lines(event: AgentsChanged) -> Iterator[Text]:
    """What changed among the agents since the last run, and what was not taken."""
    ways = (("added", event.added), ("changed", event.changed), ("removed", event.removed))
    if words := "; ".join(f"{what} {', '.join(agents)}" for what, agents in ways if agents):
        yield Text(f"agents: {words}", style="cyan")
    for mistake in event.mistakes:
        yield Text(f"  ! {mistake}", style="yellow")


def _comparison_line(event: RoutesCompared) -> Text:
    """What a shadow router would have done, on one line."""
    here = f"  ◌ {event.shadow} in the shadow of {event.router}"
    if event.shadow_mode is None:
        return Text(f"{here} failed: {event.error}", style="yellow")
    if event.same:
        return Text(f"{here} agrees ({event.latency_ms:.1f} ms)", style="dim")
    return Text(f"{here} would do otherwise: {_choice(event.shadow_mode, event.shadow_agents)}, not "
                f"{_choice(event.mode, event.agents)} ({event.shadow_reason})", style="yellow")  # fmt: skip


def _choice(mode: Mode | None, agents: Sequence[str]) -> str:
    """`parallel: billing, vpn`, or the mode alone where nobody is chosen."""
    return ": ".join(part for part in (mode.value if mode else "", ", ".join(agents)) if part)


def _tool_line(event: ToolCalled) -> Text:
    """One call of a tool, on one line."""
    given = ", ".join(f"{key}={value!r}" for key, value in event.arguments.items())
    given = given if len(given) <= MOST_ARGUMENT_CHARS else f"{given[:MOST_ARGUMENT_CHARS]}…"
    end = (event.error, "red") if event.error else (f"{event.result_chars} characters", "dim")
    again = " (from the journal)" if event.replayed else f", {event.latency_ms:.0f} ms"
    return Text.assemble("  ⚒ ", (f"{event.agent:<14} ", "bold"), f"{event.tool}({given}): ", end, (again, "dim"))


def show_checks(checks: Sequence[Check]) -> Group:
    """What the scenario expected, and whether it came."""
    lines = [
        Text.assemble(("✓ ", "green") if c.passed else ("✗ ", "red"), (f"{c.name:<10} ", "bold"), c.detail)
        for c in checks
    ]
    return Group(Text("expected by the scenario", style="dim"), *(Padding(line, (0, 0, 0, 2)) for line in lines))


class RunView:
    """Prints a run while it happens. Takes its events; prints nothing of its own."""

    def __init__(self, console: Console, *, tokens: bool = False) -> None:
        self._console, self._tokens = console, tokens
        self._status: Status | None = None
        self._working: list[str] = []
        self._packs = 0
        self._replied = 0
        self._writer = ""
        self.packs: list[ContextPack] = []

    def take(self, event: Event) -> None:
        """Show one event, without the control characters that its texts may hold."""
        event = harmless(event)
        match event:
            case RunStarted():
                self._print(Rule(Text(f"run {event.run_id}"), style="dim", align="left"))
                self._print(Text(event.task.text, style="italic"))
                self._wait("choosing agents")
            case RunResumed():
                self._print(Text(f"resumed; {event.finished_calls} finished calls are not repeated", style="cyan"))
            case AgentsChanged():
                for line in _change_lines(event):
                    self._print(line)
            case RoutesCompared():
                self._print(_comparison_line(event))
            case StageEntered() if event.round > 1 and event.kind == "dispatch":
                self._print(Text(f"round {event.round}", style="bold"))
            case RouteDecided():
                self._heading("route")
                self._print(show_decision(event.decision))
                self._packs = self._replied = 0
                self._wait("choosing what each agent reads")
            case ContextSelected():
                if self._packs == 0:
                    self._heading("context")
                self._packs += 1
                self.packs.append(event.pack)
                self._print(show_pack(event.pack))
            case AgentStarted():
                self._working.append(event.agent)
                self._wait(f"{', '.join(self._working)} at work")
            case TokensStreamed():
                self._stream(event)
            case AgentReplied():
                self._end_stream()
                if event.agent in self._working:
                    self._working.remove(event.agent)
                if self._replied == 0:
                    self._heading("replies")
                self._replied += 1
                self._print(show_reply(event.reply))
                self._wait(f"{', '.join(self._working)} at work" if self._working else "merging")
            case StepFailed():
                again = f"; tried again in {event.retry_in_s:.1f} s" if event.retry_in_s else ""
                who = f"{event.agent}: " if event.agent else ""
                self._print(Text(f"  ! {who}{event.error}{again}", style="yellow"))
            case ToolCalled():
                self._print(_tool_line(event))
            case GuardrailTripped():
                self._print(
                    Text(f"  ! {event.where}: {event.guardrail} says {event.action}: {event.reason}", style="yellow")
                )
            case LoopDetected():
                self._print(Text(f"  ! {event.reason}", style="yellow"))
            case PersonAnswered():
                self._print(Text(f"answered: {event.answer}", style="cyan"))
            case RunWaiting():
                self._stop()
                self._heading("waiting for a person")
                self._print(show_waiting(event.answer))
            case LimitReached():
                self._print(Text(f"  ! {event.stop.text}", style="bold red"))
            case RunFinished():
                self._stop()
                self._heading("answer")
                self._print(show_answer(event.answer))
            case RunFailed() | RunCancelled():
                self._stop()
            case _:
                pass

    def close(self) -> None:
        """Take the spinner off the screen."""
        self._stop()

    def _heading(self, text: str) -> None:
        self._print(Text(f"\n{text}", style="bold cyan"))

    def _print(self, what: Any) -> None:
        self._end_stream()
        self._console.print(what)

    def _wait(self, text: str) -> None:
        if not self._console.is_interactive or self._tokens:
            return
        if self._status is None:
            self._status = self._console.status(Text(text, style="dim"))
            self._status.start()
        else:
            self._status.update(Text(text, style="dim"))

    def _stop(self) -> None:
        self._end_stream()
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _stream(self, event: TokensStreamed) -> None:
        if not self._tokens:
            return
        if self._writer != event.agent:
            self._end_stream()
            self._console.print(Text(f"  {event.agent}: ", style="bold"), end="")
            self._writer = event.agent
        self._console.print(Text(event.text, style="dim"), end="", soft_wrap=True)

    def _end_stream(self) -> None:
        if self._writer:
            self._writer = ""
            self._console.print()


def loading(console: Console) -> tuple[Callable[[], None], Callable[[int, int, str], None]]:
    """A progress bar for loading knowledge: what takes it off the screen, and what moves it.

    It shows itself when there is work.
    """
    progress = Progress(
        TextColumn("loading knowledge"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}", style="dim"),
        console=console,
        transient=True,
        disable=not console.is_terminal,  # else it leaves an empty line behind
    )
    tasks: list[Any] = []

    def move(done: int, total: int, name: str) -> None:
        if not tasks:
            progress.start()
            tasks.append(progress.add_task(name, total=total))
        progress.update(tasks[0], completed=done, total=total, description=name)
        if done >= total:
            progress.stop()
            tasks.clear()

    return lambda: progress.stop() if tasks else None, move


def document(answer: Answer, packs: Iterable[ContextPack], **extra: Any) -> dict[str, Any]:
    """The facts of a run as one JSON value: the same that the terminal shows."""
    usage = answer.usage
    return {
        "run_id": answer.run_id,
        "thread": answer.thread,
        "status": answer.status.value,
        "answer": {
            "text": answer.text,
            "question": answer.question,
            "refiner": answer.refiner,
            "contributors": [c.model_dump(mode="json") for c in answer.contributors],
            "conflicts": [c.model_dump(mode="json") for c in answer.conflicts],
            "sentences": [s.model_dump(mode="json") for s in answer.sentences],
        },
        "decision": answer.decision.model_dump(mode="json") if answer.decision else None,
        "packs": [p.model_dump(mode="json", exclude={"text"}) for p in packs],
        "replies": [r.model_dump(mode="json") for r in answer.replies],
        "usage": {**usage.model_dump(mode="json"), "tokens": usage.tokens},
        "seconds": round(answer.latency_s, 4),
        "rounds": answer.rounds,
        "waiting": [question.model_dump(mode="json") for question in answer.waiting],
        "stop": answer.stop.model_dump(mode="json") if answer.stop else None,
        **extra,
    }


def show_event(event: Event, started: float) -> Text:
    """One event on one line, for `agentmesh trace show --events`."""
    at = f"{event.at - started:9.3f} s"
    detail = ""
    match event:
        case RouteDecided():
            detail = f"{event.decision.mode.value}: {', '.join(event.decision.agents) or '-'}"
        case AgentsChanged():
            detail = " | ".join(line.plain.strip() for line in _change_lines(event))
        case RoutesCompared():
            verdict = "agrees" if event.same else event.error or _choice(event.shadow_mode, event.shadow_agents)
            detail = f"{event.shadow}: {verdict}"
        case ContextSelected():
            detail = (
                f"{event.agent}: {event.pack.tokens}/{event.pack.budget_tokens} tokens, {len(event.pack.items)} items"
            )
        case ModelCalled():
            detail = f"{event.agent}: {event.model}, {_cost(event.usage)}, {event.latency_ms:.0f} ms"
        case AgentReplied():
            detail = f"{event.agent}: {event.reply.status.value}"
        case ToolCalled():
            detail = f"{event.agent}: {event.tool}, {event.error or f'{event.result_chars} characters'}"
        case PersonAsked():
            detail = event.question.text
        case PersonAnswered():
            detail = event.answer
        case GuardrailTripped():
            detail = f"{event.where}: {event.guardrail} says {event.action}"
        case RunWaiting():
            detail = event.answer.status.value
        case StepFailed() | RunFailed():
            detail = event.error
        case RunFinished():
            detail = event.answer.status.value
        case _:
            detail = str(getattr(event, "agent", "") or getattr(event, "stage", ""))
    return Text.assemble(
        (at, "dim"), f"  {event.seq:>4}  ", (f"{event.type:<18}", "cyan"), f"{event.step:<16} ", detail
    )


def harmless(event: Event) -> Event:
    """The event without control characters: text of users, memory and models never moves the cursor of a terminal."""
    text = event.model_dump_json()
    clean = _ESCAPED.sub(r"\1", _RAW.sub("", text))
    return event if clean == text else event_adapter.validate_json(clean)


_ESCAPED = re.compile(r"((?<!\\)(?:\\\\)*)\\u00(?:0[0-8bcefBCEF]|1[0-9a-fA-F]|7[fF])")
"""A control character as JSON escapes it, behind an even number of backslashes; tab and line feed stay."""
_RAW = re.compile("[\x7f-\x9f]")


def when(seconds: float) -> str:
    """A time as people read it, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _cost(usage: Usage) -> str:
    unknown = "" if usage.cost_known else " or more (a price is not known)"
    calls = f"{usage.calls} model call{'s' if usage.calls != 1 else ''}"
    return f"{usage.prompt_tokens} + {usage.completion_tokens} tokens in {calls}, {usage.cost_usd:.4f} US${unknown}"
