"""One answer out of several replies without a model: deduplicated, attributed, conflicts named, failures named."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

from agentmesh.agents.merging import (
    ALL_FAILED,
    NO_ANSWER,
    Merged,
    conflicts_among,
    contributors,
    failures_said,
    merged,
    status_of,
    usable,
    with_sources,
)
from agentmesh.run import RunContext
from agentmesh.types import AgentReply, Answer, AnswerStatus, Conflict, Task

__all__ = ["ExtractiveRefiner"]

INLINE_SENTENCES = 40
"""Replies with more sentences than this are compared in another thread."""


class ExtractiveRefiner:
    """Puts the replies' own sentences together; writes no word of its own but the connecting ones.

    Args:
        titles: Agent id -> the name that people see.
        note: Why this refiner runs, if there is something to say.
    """

    def __init__(self, *, titles: Mapping[str, str] | None = None, note: str = "") -> None:
        self._titles, self._note = dict(titles or {}), note

    @property
    def name(self) -> str:
        return f"extractive ({self._note})" if self._note else "extractive"

    async def refine(self, task: Task, replies: Sequence[AgentReply], ctx: RunContext) -> Answer:
        if sum(len(r.sentences) for r in replies) <= INLINE_SENTENCES:
            return self.merge(replies, ctx.run_id)
        return await asyncio.to_thread(self.merge, replies, ctx.run_id)

    def merge(self, replies: Sequence[AgentReply], run_id: str, *, refiner: str = "") -> Answer:
        """The answer, at once."""
        said = merged(replies)
        conflicts = conflicts_among(replies)
        shares = Counter(agent for m in said for agent in m.agents)
        return Answer(
            run_id=run_id,
            status=status_of(replies),
            text=self._text(replies, said, conflicts),
            conflicts=tuple(conflicts),
            contributors=contributors(replies, shares),
            sentences=tuple(m.sentence for m in said),
            refiner=refiner or self.name,
            replies=tuple(replies),
        )

    def _text(self, replies: Sequence[AgentReply], said: Sequence[Merged], conflicts: Sequence[Conflict]) -> str:
        speaking = [r for r in replies if usable(r)]
        if not speaking:
            blocks = [ALL_FAILED if status_of(replies) is AnswerStatus.FAILED else NO_ANSWER]
        elif len(speaking) == 1 and not speaking[0].extractive and speaking[0].text.strip():
            blocks = [speaking[0].text.strip()]
        else:
            blocks = self._blocks(said)
        blocks.append(with_sources(conflicts, self._titles))
        blocks.append("\n".join(failures_said(replies, self._titles)))
        return "\n\n".join(b for b in blocks if b)

    def _blocks(self, said: Sequence[Merged]) -> list[str]:
        """A paragraph for each agent; in it, the sentences of one source together with their attribution."""
        paragraphs: dict[str, list[Merged]] = {}
        for m in said:
            paragraphs.setdefault(m.agents[0], []).append(m)
        return [" ".join(self._runs(group)) for group in paragraphs.values()]

    def _runs(self, group: Sequence[Merged]) -> list[str]:
        runs: list[tuple[tuple[str, ...], str, list[str]]] = []
        for m in group:
            source, text = m.sentence.source, _ended(m.sentence.text)
            if runs and runs[-1][:2] == (m.agents, source):
                runs[-1][2].append(text)
            else:
                runs.append((m.agents, source, [text]))
        return [f"{' '.join(texts)} ({self._who(agents, source)})" for agents, source, texts in runs]

    def _who(self, agents: Sequence[str], source: str) -> str:
        names = ", ".join(self._titles.get(a, a) for a in agents)
        return f"{names}; {source}" if source else names


def _ended(sentence: str) -> str:
    return sentence if sentence[-1:] in ".!?…:\"'”’)" else f"{sentence}."
