"""What a run asks people, and what their answers mean. Values and words only: who interrupts is `wiring.py`."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from agentmesh.errors import InputError, nearest
from agentmesh.types import (
    AgentCall,
    AgentReply,
    Answer,
    AnswerStatus,
    Clarification,
    Question,
    QuestionKind,
    RoutingDecision,
    Task,
)

__all__ = [
    "CLARIFY",
    "WHOLE_CALL",
    "YES_OR_NO",
    "answers_to",
    "approval_question",
    "approved_in",
    "clarified",
    "clarify_question",
    "heard",
    "open_questions",
    "questions_in",
    "waiting_answer",
]

YES = frozenset({"yes", "y", "ok", "okay", "allow", "allowed", "approve", "approved", "true", "1", "go", "sure"})
NO = frozenset({"no", "n", "deny", "denied", "refuse", "refused", "reject", "rejected", "false", "0", "stop"})
MAX_ANSWER_CHARS = 20_000
"""Characters of what somebody answers."""
MAX_ASKED_CHARS = 4_000
"""Characters of what an agent asks; the rest of it is in what the question is about."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a terminal acts on, but for tabs and line breaks: an agent's words end up in front of a person."""
CLARIFY = "clarify"
"""Last part of the id of a question back."""
WHOLE_CALL = "call"
"""Last part of the id of the approval of an agent before it begins."""
YES_OR_NO = ("yes", "no")


def clarify_question(step: str, stage: str, decision: RoutingDecision) -> Question:
    """What a router that is torn asks the user."""
    return Question(
        id=f"{step}/{CLARIFY}",
        kind=QuestionKind.CLARIFY,
        text=decision.question or "Could you say more precisely what you need?",
        options=decision.options,
        stage=stage,
    )


def approval_question(call: AgentCall, reply: AgentReply, stage: str) -> Question:
    """What an agent that needs a person waits for."""
    pending = dict(reply.pending or {})
    id_ = str(pending.pop("id", "") or WHOLE_CALL)
    text = str(pending.pop("text", "") or f"{call.agent} wants to act on: {call.part or call.task.text}. Allow it?")
    text = CONTROL.sub("", text)
    return Question(
        id=f"{_of_call(call)}{id_}",
        kind=QuestionKind.APPROVAL,
        text=text if len(text) <= MAX_ASKED_CHARS else f"{text[:MAX_ASKED_CHARS]}… ({len(text):,} characters in all)",
        options=YES_OR_NO,
        stage=stage,
        agent=call.agent,
        about=pending,
    )


def approved_in(said: Mapping[str, str | bool], call: AgentCall) -> dict[str, bool]:
    """What people said to this call, by the `id` of what it asked."""
    start = _of_call(call)
    return {id_[len(start) :]: bool(answer) for id_, answer in said.items() if id_.startswith(start)}


def clarified(task: Task, held: Mapping[str, Question], said: Mapping[str, str | bool]) -> Task:
    """The task with what the user answered to questions back."""
    found: list[Clarification] = []
    for question in held.values():
        answer = said.get(question.id)
        if question.kind is QuestionKind.CLARIFY and isinstance(answer, str):
            found.append(Clarification(question=question.text, options=question.options, answer=answer))
    return task.model_copy(update={"clarifications": (*task.clarifications, *found)}) if found else task


def answers_to(waiting: Sequence[Question], answer: object) -> dict[str, str | bool]:
    """What a person's answer means for the questions that wait.

    Args:
        waiting: At least one question.
        answer: A text or a bool for the first question, or a mapping from question ids to texts or bools.

    Raises:
        InputError: If an answer makes no sense or names no question that waits. Nothing was answered then.
    """
    if isinstance(answer, Mapping):
        given = cast("Mapping[object, object]", answer)
        known = {question.id: question for question in waiting}
        if not given:
            raise InputError(f"no question is answered; give one of {', '.join(known)}")
        for name in given:
            if name not in known:
                close = nearest(str(name), [*known])
                hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}"
                raise InputError(f"no question {str(name)!r} waits for an answer; {hint}")
        return {str(name): _meaning(known[str(name)], said) for name, said in given.items()}
    return {waiting[0].id: _meaning(waiting[0], answer)}


def open_questions(stage: str, held: Mapping[str, Question], said: Mapping[str, str | bool]) -> list[Question]:
    """What this stage asks and nobody answered yet."""
    return [q for q in held.values() if q.stage == stage and q.id not in said]


def heard(waiting: Sequence[Question], answer: object) -> dict[str, str | bool]:
    """As `answers_to`, for answers that did not come through a mesh: what makes no sense is not heard."""
    try:
        return answers_to(waiting, answer) if waiting else {}
    except InputError:
        return {}


def waiting_answer(answer: Answer, waiting: Sequence[Question]) -> Answer:
    """The answer of a run that stopped to ask."""
    clarify = all(question.kind is QuestionKind.CLARIFY for question in waiting)
    text = "\n".join(question.text for question in waiting)
    held_back = any(question.kind is QuestionKind.GUARDRAIL for question in waiting)
    withheld: dict[str, Any] = {"sentences": (), "conflicts": (), "replies": ()} if held_back else {}
    return answer.model_copy(
        update={
            **withheld,
            "status": AnswerStatus.CLARIFY if clarify else AnswerStatus.NEEDS_APPROVAL,
            "text": text,
            "question": waiting[0].text,
            "waiting": tuple(waiting),
            "refiner": "none (the run waits for a person)",
        }
    )


def questions_in(interrupts: Sequence[Any]) -> dict[str, tuple[Question, ...]]:
    """The questions of LangGraph's interrupts by interrupt id; an interrupt that is not ours has none."""
    found: dict[str, tuple[Question, ...]] = {}
    for interrupt in interrupts:
        value: object = interrupt.value
        if isinstance(value, list) and all(isinstance(entry, dict) for entry in cast("list[object]", value)):
            found[interrupt.id] = tuple(Question.model_validate(entry) for entry in cast("list[object]", value))
    return found


def _of_call(call: AgentCall) -> str:
    return f"{call.step}/{call.agent}/{call.attempt}/"


def _meaning(question: Question, answer: object) -> str | bool:
    if question.kind is QuestionKind.CLARIFY:
        if not isinstance(answer, str):
            raise InputError(f"the answer to {question.text!r} must be text, not {type(answer).__name__}")
        text = answer.strip()
        if not text:
            raise InputError(f"the answer is empty; the run still waits for: {question.text}")
        if len(text) > MAX_ANSWER_CHARS:
            raise InputError(f"the answer has {len(text):,} characters, at most {MAX_ANSWER_CHARS:,} are taken")
        return text
    if isinstance(answer, bool):
        return answer
    word = answer.strip().strip(".!").casefold() if isinstance(answer, str) else ""
    if word in YES or word in NO:
        return word in YES
    raise InputError(f"{str(answer)[:80]!r} is neither yes nor no; the run still waits for: {question.text}")
