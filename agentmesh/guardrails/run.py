"""Runs guardrails over a text and says what becomes of it. Reads no settings and knows no rule.

Nothing that a guardrail does stops a run: one that raises, is late or returns nonsense is answered for here.
"""

import asyncio
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

from agentmesh.errors import MeshError
from agentmesh.guardrails.base import Action, Checked, Finding, Guardrail, Verdict, Where, places_of
from agentmesh.memory.writer import Draft
from agentmesh.run import RunContext
from agentmesh.trace.events import GuardrailTripped
from agentmesh.trace.redact import REDACTED
from agentmesh.types import Answer, AnswerStatus

__all__ = ["TIMEOUT_S", "BoundedGuardrail", "guard_answer", "guard_drafts", "run_guardrails"]

TIMEOUT_S = 5.0
"""Seconds for one check of one guardrail, where nothing else is said."""
MAX_REASON_CHARS = 200
ECHO_CHARS = 16
"""So many characters in a row that stand in the text too are no reason but a quotation. Our choice."""
ECHO_WORD_CHARS = 6
"""The same for a word with a digit or an `@`."""

_SPOKEN = frozenset({"text", "value", "about", "explanation", "note", "error", "part", "structured"})
"""Keys of an answer's parts that hold words; the others hold names."""


class BoundedGuardrail:
    """Another guardrail that always answers in time: what fails is blocked, or flagged where that is said.

    A check that raises, is late or returns something that is no `Verdict` is a verdict with `on_error` as its action,
    `found` 0 and one sentence that names the guardrail. The time is the guardrail's own, not the run's: a run that has
    used its time up still has its answer checked. Code that never gives way to the event loop cannot be bounded.

    Args:
        guardrail: What checks.
        name: What the trace calls it; None: its own name.
        where: One place or several; None: its own.
        on_error: block or flag.
        timeout_s: Seconds for one check.
    """

    def __init__(
        self,
        guardrail: Guardrail,
        *,
        name: str | None = None,
        where: str | Iterable[str] | None = None,
        on_error: Literal["block", "flag"] = "block",
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.guardrail = guardrail
        self.name = name or guardrail.name
        self.where = guardrail.where if where is None else places_of(where)
        self.on_error, self.timeout_s = Action(on_error), timeout_s

    def __repr__(self) -> str:
        return f"BoundedGuardrail({self.name!r})"

    async def check(self, text: str, ctx: RunContext) -> Verdict:
        """What becomes of the text; raises nothing but cancellation."""
        try:
            said = cast("object", self.guardrail.check(text, ctx))
            if not inspect.isawaitable(said):
                return self._failed(f"its `check` returned {type(said).__name__}; make it an async function")
            task = asyncio.ensure_future(said)
            try:
                await asyncio.wait({task}, timeout=self.timeout_s)
            finally:
                in_time = task.done()
                task.cancel()  # nobody waits for a check that does not end on being told so
            if not in_time:
                return self._failed(f"it was not done after {self.timeout_s:g} s; raise its `timeout_s`")
            verdict = task.result()
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            return self._failed("it was cancelled")
        except MeshError as error:
            return self._failed(_without_echo(str(error), text))
        except Exception as error:  # its words may repeat the text
            return self._failed(f"it raised {type(error).__name__}")
        if not isinstance(verdict, Verdict):
            return self._failed(f"it returned {type(verdict).__name__}; return a Verdict")
        if verdict.action is Action.REDACT and verdict.text is None:
            return self._failed("it says `redact` and gives no text; give the text as it may go on")
        if verdict.action is Action.PASS:
            return verdict
        return verdict.model_copy(update={"reason": _without_echo(verdict.reason, text) or "gave no reason"})

    def _failed(self, why: str) -> Verdict:
        return Verdict(action=self.on_error, found=0, reason=f"{self.name!r} could not check the text: {why}")


async def run_guardrails(
    guards: Sequence[Guardrail], where: str, text: str, ctx: RunContext, *, agent: str = ""
) -> Checked:
    """Let every guardrail that looks there check the text, in order; each reads what the one before left of it.

    All of them are asked, also after one has blocked, so that the trace shows everything that was found. A finding is
    a `guardrail_tripped` event: its reason is in words and never quotes the text. In memory, where nobody can be asked,
    `ask` blocks.

    Args:
        guards: From `open_guardrails`; one that is not bounded yet is bounded with the defaults.
        where: input, output or memory.
        text: What to check; it may be empty.
        ctx: The run.
        agent: Who wrote the text, if an agent did.
    """
    place = Where(where)
    findings: list[Finding] = []
    left = text
    for guard in guards:
        if place not in guard.where:
            continue
        verdict = await _bounded(guard).check(left, ctx)
        action, reason = verdict.action, verdict.reason
        if action is Action.PASS:
            continue
        if action is Action.REDACT and verdict.text is not None:
            left = verdict.text
        if action is Action.ASK and place is Where.MEMORY:
            action, reason = Action.BLOCK, f"{reason} (nobody can be asked in the middle of a write)"
        findings.append(Finding(name=guard.name, action=action, reason=reason, found=verdict.found))
        ctx.emit(
            GuardrailTripped(
                guardrail=guard.name,
                where=place.value,
                action=action.value,
                reason=reason,
                found=verdict.found,
                agent=agent,
            )
        )
    strongest = max((f.action for f in findings), key=lambda a: a.strength, default=Action.PASS)
    return Checked(text="" if strongest is Action.BLOCK else left, action=strongest, findings=tuple(findings))


async def guard_drafts(guards: Sequence[Guardrail], drafts: Sequence[Draft], ctx: RunContext) -> list[Draft]:
    """The drafts that may be remembered, redacted where they must be; blocked ones are left out."""
    if not any(Where.MEMORY in guard.where for guard in guards):
        return list(drafts)
    kept: list[Draft] = []
    for draft in drafts:
        checked = await run_guardrails(guards, Where.MEMORY, draft.text, ctx, agent=draft.author or ctx.agent)
        if checked.action is not Action.BLOCK:
            kept.append(draft if checked.text == draft.text else draft.model_copy(update={"text": checked.text}))
    return kept


async def guard_answer(guards: Sequence[Guardrail], answer: Answer, ctx: RunContext) -> tuple[Answer, Checked]:
    """The answer as it may be shown, and what was found in its text.

    Blocked: the status is `blocked`, the text gives the reasons, and sentences, conflicts and replies are gone.
    Redacted: what its parts say (sentences, sides of conflicts, replies, notes) is redacted by the same guardrails; a
    part that they cannot redact is `[redacted]` as a whole. With `ask` the answer is returned as it may be shown if
    the person agrees.
    """
    checked = await run_guardrails(guards, Where.OUTPUT, answer.text, ctx)
    if checked.action is Action.BLOCK:
        return _withheld(answer, checked), checked
    names = {f.name for f in checked.findings if f.action is Action.REDACT}
    if not names:
        return answer, checked
    redacting = [_bounded(g) for g in guards if g.name in names and Where.OUTPUT in g.where]
    fields = answer.model_dump(include={"sentences", "conflicts", "contributors", "replies"})
    parts = {key: await _redacted(value, redacting, ctx) for key, value in fields.items()}
    return Answer.model_validate({**dict(answer), **parts, "text": checked.text}), checked


def _withheld(answer: Answer, checked: Checked) -> Answer:
    reasons = "; ".join(f"{f.name}: {f.reason}" for f in checked.findings if f.action is Action.BLOCK)
    return answer.model_copy(
        update={
            "status": AnswerStatus.BLOCKED,
            "text": f"The answer is not shown ({reasons}).",
            "sentences": (),
            "conflicts": (),
            "replies": (),
            "contributors": tuple(c.model_copy(update={"note": ""}) for c in answer.contributors),
        }
    )


async def _redacted(value: Any, guards: Sequence[Guardrail], ctx: RunContext, *, spoken: bool = False) -> Any:
    """The value with its words redacted; nothing is said in the trace, which has it already."""
    if isinstance(value, str):
        for guard in guards if spoken and value else ():
            verdict = await guard.check(value, ctx)
            if verdict.action is Action.REDACT and verdict.text is not None:
                value = verdict.text
            elif verdict.action in (Action.BLOCK, Action.ASK):
                return REDACTED
        return value
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return {k: await _redacted(v, guards, ctx, spoken=spoken or k in _SPOKEN) for k, v in items}
    if isinstance(value, list | tuple):
        return [await _redacted(v, guards, ctx, spoken=spoken) for v in cast("Sequence[Any]", value)]
    return value


def _bounded(guard: Guardrail) -> BoundedGuardrail:
    return guard if isinstance(guard, BoundedGuardrail) else BoundedGuardrail(guard)


def _without_echo(reason: str, text: str) -> str:
    """The reason on one line; a general one in its place if it quotes the text."""
    flat, folded = " ".join(reason.split()), " ".join(text.split()).casefold()
    short = flat if len(flat) <= MAX_REASON_CHARS else flat[: MAX_REASON_CHARS - 1] + "…"
    said = short.casefold()
    telling = [w.strip(".,;:!?\"'()[]") for w in said.split() if "@" in w or any(c.isdigit() for c in w)]
    quoted = (
        any(said[n : n + ECHO_CHARS] in folded for n in range(len(said) - ECHO_CHARS + 1))
        or any(len(w) >= ECHO_WORD_CHARS and w in folded for w in telling)
        or (len(folded) >= ECHO_WORD_CHARS and folded in said)
    )
    return "gave a reason that quotes the text and is not repeated here" if quoted else short
