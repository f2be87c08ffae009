"""Guardrails in a run: the question before it is routed, the answer before it is shown, what is about to be remembered.

What a guardrail leaves to a person is a question of the run like any other.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from langgraph.graph import END
from langgraph.runtime import Runtime
from langgraph.types import Overwrite, interrupt

from agentmesh.guardrails import Action, Checked, Guardrail, Where, guard_answer, run_guardrails
from agentmesh.memory.writer import item_id
from agentmesh.run import Emitter, RunContext
from agentmesh.runtime.nodes import RunScope, answer_so_far, drafts_of
from agentmesh.runtime.people import YES_OR_NO, heard, open_questions
from agentmesh.runtime.state import RunState, view_of
from agentmesh.trace.events import Event
from agentmesh.trace.sinks import ListSink
from agentmesh.types import AgentReply, Answer, AnswerStatus, Question, QuestionKind, Task

__all__ = [
    "ALLOW_QUESTION",
    "ANSWER_ASK",
    "ANSWER_GUARD",
    "TASK_ASK",
    "TASK_GUARD",
    "Guarding",
    "QuestionCheck",
    "check_question",
    "check_question_first",
]

TASK_GUARD, TASK_ASK, ANSWER_GUARD, ANSWER_ASK = "task.guard", "task.ask", "answer.guard", "answer.ask"
"""Nodes before the first stage and after the last; no stage may have such a name."""
ALLOW_QUESTION = f"{TASK_GUARD}/question"
"""Id of the question whether what was asked may go on."""


class QuestionCheck(NamedTuple):
    """What the guardrails say of a question."""

    task: Task
    """As it may go on."""
    question: Question | None = None
    """What a person must answer before it goes on."""
    blocked: Answer | None = None
    """The answer, if it does not go on."""


async def check_question(task: Task, guards: Sequence[Guardrail], ctx: RunContext) -> QuestionCheck:
    """Let the guardrails see a question."""
    checked = await run_guardrails(guards, Where.INPUT, task.text, ctx)
    if checked.action is Action.BLOCK:
        return QuestionCheck(task, blocked=_blocked("question", checked, ctx))
    task = task if checked.text == task.text else task.model_copy(update={"text": checked.text})
    if checked.action is Action.ASK:
        return QuestionCheck(task, question=_question("question", TASK_GUARD, checked))
    return QuestionCheck(task)


async def check_question_first(
    task: Task, guards: Sequence[Guardrail], ctx: RunContext
) -> tuple[QuestionCheck, list[Event]]:
    """The same before the run has a trace: with the events, which belong after its start."""
    if not guards:
        return QuestionCheck(task), []
    sink = ListSink()
    found = await check_question(task, guards, replace(ctx, emitter=Emitter(ctx.run_id, (sink,), ctx.clock)))
    return found, list(sink.events)


class Guarding:
    """Makes the nodes around a graph.

    Args:
        scope_of: Finds the scope of a run.
    """

    def __init__(self, scope_of: Callable[[RunState, RunScope | None], Awaitable[RunScope]]) -> None:
        self.scope_of = scope_of

    def task_guard(self) -> Callable[..., Any]:
        """Checks the question, unless that was done before the graph began."""

        async def task_guard(state: RunState, runtime: Runtime[RunScope]) -> dict[str, Any]:
            if state.get("checked"):
                return {}
            scope = await self.scope_of(state, runtime.context)
            found = await check_question(state["task"], scope.parts.guardrails, scope.ctx)
            update: dict[str, Any] = {"checked": True, "task": found.task}
            if found.question is not None:
                update["held"] = {found.question.id: found.question}
            if found.blocked is not None:
                update["answer"] = found.blocked
            return update

        return task_guard

    def answer_guard(self) -> Callable[..., Any]:
        """Checks the answer."""

        async def answer_guard(state: RunState, runtime: Runtime[RunScope]) -> dict[str, Any]:
            scope = await self.scope_of(state, runtime.context)
            answer = answer_so_far(view_of(state), scope.ctx)
            if answer.status is AnswerStatus.BLOCKED:
                return {}
            replies = view_of(state).replies
            answer = answer.model_copy(update={"replies": replies})
            shown, checked = await guard_answer(scope.parts.guardrails, answer, scope.ctx)
            update: dict[str, Any] = {"answer": shown.model_copy(update={"replies": ()})}
            if checked.action is Action.BLOCK:
                update |= _without_replies(state, scope)
            elif shown.replies != replies:
                update["replies"] = {reply.call_id: reply for reply in shown.replies}
                update["withdrawn"] = _remembered([r for r in replies if r not in shown.replies], state, scope)
            if checked.action is Action.ASK:
                question = _question("answer", ANSWER_GUARD, checked)
                update["held"] = {question.id: question}
            return update

        return answer_guard

    def ask(self, where: str) -> Callable[..., Any]:
        """Does nothing but ask whether a text may go on; a no blocks it."""

        async def ask(state: RunState, runtime: Runtime[RunScope]) -> dict[str, Any]:
            waiting = self.open_questions(where, state)
            if not waiting:
                return {}
            said = heard(waiting, interrupt([question.model_dump(mode="json") for question in waiting]))
            update: dict[str, Any] = {"said": said}
            if any(said.get(question.id) is False for question in waiting):
                scope = await self.scope_of(state, runtime.context)
                what = "question" if where == TASK_GUARD else "answer"
                update["answer"] = _refused(what, scope.ctx)
                if where == ANSWER_GUARD:
                    update |= _without_replies(state, scope)
            return update

        return ask

    def open_questions(self, where: str, state: RunState) -> list[Question]:
        """What is asked there and nobody answered yet."""
        return open_questions(where, state.get("held", {}), state.get("said", {}))

    def after(self, where: str, ask: str, following: Sequence[str]) -> Callable[[RunState], list[str] | str]:
        """Where to go on after a check or an answer: ask, go on, or end."""

        def after(state: RunState) -> list[str] | str:
            if self.open_questions(where, state):
                return ask
            answer = state.get("answer")
            blocked = answer is not None and answer.status is AnswerStatus.BLOCKED
            return END if blocked else list(following)

        return after


def _without_replies(state: RunState, scope: RunScope) -> dict[str, Any]:
    """What takes everything that was said out of the state."""
    said = _remembered(state.get("replies", {}).values(), state, scope)
    return {"replies": Overwrite({}), "withdrawn": [*state.get("withdrawn", ()), *said]}


def _remembered(replies: Iterable[AgentReply], state: RunState, scope: RunScope) -> list[str]:
    """Ids of what memory holds of these replies."""
    cards, run_id = scope.parts.cards, scope.ctx.run_id
    known = [(reply, cards[reply.agent]) for reply in replies if reply.agent in cards]
    return [item_id(d) for reply, card in known for d in drafts_of(reply, state["task"], card, run_id, scope.parts)]


def _question(what: str, where: str, checked: Checked) -> Question:
    found = "; ".join(f"{f.name}: {f.reason}" for f in checked.findings if f.action is Action.ASK)
    return Question(
        id=f"{where}/{what}",
        kind=QuestionKind.GUARDRAIL,
        text=f"May the {what} go on ({found})?",
        options=YES_OR_NO,
        stage=where,
        about={"text": checked.text},
    )


def _blocked(what: str, checked: Checked, ctx: RunContext) -> Answer:
    reasons = "; ".join(f"{f.name}: {f.reason}" for f in checked.findings if f.action is Action.BLOCK)
    return Answer(
        run_id=ctx.run_id,
        status=AnswerStatus.BLOCKED,
        text=f"The {what} was not taken ({reasons}).",
        refiner="none (no agent was called)",
    )


def _refused(what: str, ctx: RunContext) -> Answer:
    text = f"The {what} was held back by a guardrail, and a person did not let it go on."
    return Answer(run_id=ctx.run_id, status=AnswerStatus.BLOCKED, text=text, refiner="none (held back)")
