"""The baseline that most people use: a supervisor model picks the next agent, and everyone reads the whole history.

Written by us over our own models, after what langgraph-supervisor 0.0.31 does with `output_mode="full_history"`. It is
kind to the baseline, so that the tokens it takes are a lower bound:

- An agent's look-up costs no model call of its own (there, each one does), and is the context router's pack: what an
  agent of ours would read for the whole question and what was found so far, within the same budget.
- There are no messages that say who hands over to whom; the history is one block of text, without a chat template.
- What does not fit a model's window is left out, oldest first, where a provider would refuse the call.
- A supervisor whose model is declared not capable is given perfect choices: it takes the steps of the scenario's
  graph, of a dispatch it calls the expected agents and no other, it ends a loop once everything expected was said, and
  it turns away at once what is nobody's. It is asked all the same, for its prompt is what is counted. What the extracts
  of its agents hold is its answer. A capable model really decides, by constrained JSON, and writes the answer.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from agentmesh.agents.excerpts import best_sentences
from agentmesh.context.base import ContextRouter
from agentmesh.errors import MeshError, ModelError
from agentmesh.fence import inert
from agentmesh.graphs import GraphSpec, StageKind, StageSpec
from agentmesh.models.base import ChatMessage, ChatModel, ChatRequest
from agentmesh.models.call import call_model
from agentmesh.models.replies import json_in
from agentmesh.project.schema import Expectation
from agentmesh.prompts import render
from agentmesh.run import Limits, RunContext, loose_context
from agentmesh.text import fold, words
from agentmesh.tokens import counter_for
from agentmesh.types import AgentCard, Answer, AnswerStatus, ContextRequest, RolePolicy, Task

__all__ = ["Supervised", "Supervisor", "holds_all", "perfect_turns", "stands_in"]

MOST_TURNS = 12
"""Agent calls of one question: LangGraph's usual limit of 25 steps, two a turn."""
MOST_KNOWN = 12
"""Sentences found so far that a look-up takes into account, as in our own graphs."""
ANSWER_TOKENS = 700
"""Tokens that a capable supervisor may write: as many as our refiner."""
IDLE_TOKENS = 96
"""Tokens that a model may write whose words do not count: as many as beside the extracts of an agent of ours."""
CALL_S = 300.0
"""Seconds for one model call: the baseline fails at no deadline that its long prompts would miss."""
SAFE_SHARE = 0.85
"""Of a window, what a prompt may take that is counted with another model's tokenizer; our choice."""
FINISH = "FINISH"

PROMPT = """You are the supervisor of a team of specialists who answer a request together. Each turn, read the \
request and everything that was said so far, and name the specialist who works next, or {finish} when the request is \
answered as far as it can be. Call nobody whose help is not needed. Call nobody if the request is for none of them.
When you finish, write the answer to the person who asked: plain sentences, numbers, dates and names exactly as found, \
and every side where sources disagree.

The team:
{team}

Reply with JSON: `next` and, with {finish}, `answer`."""


@dataclass(frozen=True)
class Supervised:
    """How a question went."""

    answer: Answer
    called: tuple[str, ...]
    """Ids of the agents, in the order of their turns, with repetitions."""
    cut: int = 0
    """Prompts of which the oldest part was left out, because the window of the model is too small."""


@dataclass
class _Talk:
    """One question while it is worked on."""

    task: Task
    ctx: RunContext
    history: list[str] = field(default_factory=list[str])
    """What everybody looked up and said, oldest first."""
    said: dict[str, None] = field(default_factory=dict[str, None])
    """Sentences that rest on an item, each once."""
    called: list[str] = field(default_factory=list[str])
    cut: int = 0


class Supervisor:
    """A team under a supervisor.

    Args:
        graph: Whose agents are the team, and whose steps a supervisor with perfect choices takes.
        cards: By id; of the team, in the order in which the supervisor reads them.
        roles: By name.
        model: The supervisor's own.
        model_of: The model of an agent.
        context_router: What an agent's look-up gives.
        budget_tokens: Of every look-up; None: the role's own.
    """

    def __init__(
        self,
        graph: GraphSpec,
        cards: Mapping[str, AgentCard],
        roles: Mapping[str, RolePolicy],
        *,
        model: ChatModel,
        model_of: Callable[[AgentCard], ChatModel],
        context_router: ContextRouter,
        budget_tokens: int | None = None,
    ) -> None:
        self._budget_tokens = budget_tokens
        self._graph, self._cards, self._roles = graph, cards, roles
        self._model, self._model_of, self._context = model, model_of, context_router
        self._stages = dict(_places(graph.stages, tuple(cards)))
        team = "\n".join(f"- {card.id} ({card.title}): {card.description}" for card in cards.values())
        self._system = PROMPT.format(finish=FINISH, team=team)

    async def ask(self, text: str, expected: Expectation, *, run_id: str, limits: Limits) -> Supervised:
        """Answer a question; what is expected is looked at only where the model is not capable."""
        talk = _Talk(Task(text=text), loose_context(run_id, limits=limits))
        try:
            if self._model.info.capable:
                answer = await self._decided(talk)
            else:
                answer = await self._perfect(talk, expected, limits)
            status = AnswerStatus.ANSWERED if answer else AnswerStatus.NO_ANSWER
        except MeshError as error:
            answer, status = str(error), AnswerStatus.FAILED
        usage = talk.ctx.meter.spent if talk.ctx.meter else None
        made = Answer(run_id=run_id, status=status, text=answer, refiner="supervisor")
        return Supervised(made.model_copy(update={"usage": usage or made.usage}), tuple(talk.called), talk.cut)

    async def _perfect(self, talk: _Talk, expected: Expectation, limits: Limits) -> str:
        """The answer with perfect choices: everything that the extracts of the agents hold."""

        def done() -> bool:
            return holds_all(" ".join(talk.said), expected)

        for agent in perfect_turns(self._graph, expected, done, most_rounds=limits.max_rounds):
            if len(talk.called) >= MOST_TURNS:
                break
            await self._choose(talk)
            await self._turn(agent, talk)
        await self._choose(talk)
        return " ".join(talk.said)

    async def _decided(self, talk: _Talk) -> str:
        """The answer that the supervisor writes when it finishes."""
        while True:
            over = len(talk.called) >= MOST_TURNS
            following, answer = await self._choose(talk, [FINISH] if over else [*self._cards, FINISH])
            if over or following not in self._cards:
                return answer
            await self._turn(following, talk)

    async def _choose(self, talk: _Talk, among: Sequence[str] = ()) -> tuple[str, str]:
        """Ask the supervisor: who is next, and the answer if nobody is. Without `among` its words do not count."""
        properties = {"next": {"enum": [*among]}, "answer": {"type": "string"}}
        schema: dict[str, Any] = {
            "type": "object", "properties": properties, "required": ["next", "answer"], "additionalProperties": False
        }  # fmt: skip
        ctx = talk.ctx.at(step=f"supervisor.t{len(talk.called)}", agent="")
        request = await self._request(talk, self._model, self._system, "", ANSWER_TOKENS)
        if not among:
            await _asked(self._model, request, ctx)
            return FINISH, ""
        request = request.model_copy(update={"json_schema": schema})
        for again in (True, False):
            reply = await call_model(self._model, request, ctx, retries=1)
            try:
                value: object = json_in(reply.text)
                if isinstance(value, dict):
                    written = cast("dict[str, object]", value)
                    return str(written.get("next", FINISH)), str(written.get("answer", ""))
            except ValueError as error:
                if not again:
                    return FINISH, reply.text.strip()
                problem = render("repair", problem=str(error))
                more = (ChatMessage(role="assistant", text=reply.text), ChatMessage(role="user", text=problem))
                request = request.model_copy(update={"messages": (*request.messages, *more)})
        return FINISH, ""

    async def _turn(self, agent: str, talk: _Talk) -> None:
        """One agent looks up what it needs and answers with everything before its eyes."""
        card, known = self._cards[agent], tuple(talk.said)[-MOST_KNOWN:]
        model, asked = self._model_of(card), talk.task.text
        talk.called.append(agent)
        ctx = talk.ctx.at(step=f"turn.t{len(talk.called)}", agent=agent)
        pack = await self._context.select(self._look_up(card, model, talk, known), ctx)
        system = render("expert", title=card.title, instructions=card.instructions.strip() or card.description)
        request = await self._request(talk, model, system, pack.text, card.limits.max_output_tokens)
        talk.history.append(f"{card.title} looked up:\n{pack.text or 'nothing was found'}")
        if model.info.capable:
            try:
                reply = (await call_model(model, request, ctx, retries=card.limits.retries)).text.strip()
            except ModelError as error:
                reply = f"did not answer: {error}"
        else:
            await _asked(model, request, ctx)
            found = [s.text for s in best_sentences(pack, asked, known=known, task=asked)]
            reply = " ".join(found) or "Nothing on this was found."
            talk.said.update(dict.fromkeys(found))
        talk.history.append(f"{card.title}: {inert(reply)}")

    def _look_up(self, card: AgentCard, model: ChatModel, talk: _Talk, known: tuple[str, ...]) -> ContextRequest:
        return ContextRequest(
            task=talk.task.model_copy(update={"thread": talk.ctx.run_id}),
            card=card,
            role=self._roles.get(card.role, RolePolicy()),
            part="",
            stage=self._stages.get(card.id, "route"),
            round=talk.called.count(card.id),
            model=model.info.tokenizer or model.info.name,
            known=known,
            budget_tokens=self._budget_tokens,
        )

    async def _request(self, talk: _Talk, model: ChatModel, system: str, notes: str, output: int) -> ChatRequest:
        """The question, the history and the notes; what is oldest of the history goes where the window is too small."""
        info = model.info
        counter = await asyncio.to_thread(counter_for, info.tokenizer or info.name)
        output = min(output if info.capable else IDLE_TOKENS, info.context_tokens // 2)
        room = (info.context_tokens - output) * (1.0 if counter.exact else SAFE_SHARE)
        kept = list(talk.history)
        user = _user(talk.task.text, kept, notes)
        while kept and counter.count(system) + counter.count(user) > room:
            kept.pop(0)
            user = _user(talk.task.text, kept, notes)
        talk.cut += len(kept) < len(talk.history)
        messages = (ChatMessage(role="system", text=system), ChatMessage(role="user", text=user))
        return ChatRequest(messages=messages, max_output_tokens=output, timeout_s=CALL_S)


async def _asked(model: ChatModel, request: ChatRequest, ctx: RunContext) -> None:
    """Ask a model whose words do not count; one that fails costs nothing."""
    try:
        await call_model(model, request, ctx)
    except ModelError:
        return


def _user(question: str, history: Sequence[str], notes: str) -> str:
    return "\n\n".join([f"The request: {inert(question)}", *history, *([notes] if notes else [])])


# --- perfect choices --------------------------------------------------------------------------------------------------


def perfect_turns(
    graph: GraphSpec, expected: Expectation, done: Callable[[], bool], *, most_rounds: int
) -> Iterator[str]:
    """The agents that a supervisor without a mistake calls, in order; none for what is not to be answered.

    Args:
        graph: The steps: stages in their order, back at each loop until `done`.
        expected: Of each dispatch and each layer, the agents that it names are called and no other.
        done: Whether everything expected was found; asked at the end of a loop.
        most_rounds: Of any loop, whatever the graph says.
    """
    if expected.outcome != "answered":
        return
    names = [stage.name for stage in graph.stages]
    rounds: Counter[str] = Counter()
    at = 0
    while at < len(names):
        stage = graph.stages[at]
        rounds[stage.name] += 1
        if stage.graph is not None:
            yield from perfect_turns(stage.graph, expected, done, most_rounds=most_rounds)
        yield from _needed(stage, expected.agents)
        loop = next((x for x in graph.loops if x.source == stage.name), None)
        again = loop is not None and rounds[stage.name] < min(loop.max_rounds, most_rounds) and not done()
        at = names.index(loop.target) if loop is not None and again else at + 1


def holds_all(text: str, expected: Expectation) -> bool:
    """Whether a text has every expected fact and both sides of every conflict."""
    said = fold(text)
    sides = [side for pair in expected.conflicts for side in pair]
    return all(fold(fact) in said for fact in expected.facts) and all(stands_in(side, text) for side in sides)


def stands_in(value: str, text: str) -> bool:
    """Whether the words of a value stand in a text one after another: `19` does not stand in `1912`."""
    wanted, there = words(value), words(text)
    found = any(there[at : at + len(wanted)] == wanted for at in range(len(there) - len(wanted) + 1))
    return found if wanted else fold(value) in fold(text)


def _needed(stage: StageSpec, wanted: Sequence[str]) -> Iterator[str]:
    match stage.kind:
        case StageKind.AGENT if stage.agent:
            yield stage.agent
        case StageKind.DISPATCH if len(stage.pool) == 1 and "*" not in stage.pool:
            yield stage.pool[0]
        case StageKind.DISPATCH:
            yield from (a for a in wanted if "*" in stage.pool or a in stage.pool)
        case StageKind.PATH if stage.path:
            for layer in stage.path.layers:
                yield from (a for a in wanted if a in layer)
        case _:
            pass


def _places(stages: Sequence[StageSpec], everyone: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The stage in which each agent stands."""
    for stage in stages:
        if stage.graph is not None:
            yield from _places(stage.graph.stages, everyone)
        if stage.agent:
            yield stage.agent, stage.name
        if stage.kind is StageKind.DISPATCH:
            yield from ((a, stage.name) for a in (everyone if "*" in stage.pool else stage.pool))
        if stage.path:
            yield from ((a, stage.name) for layer in stage.path.layers for a in layer)
