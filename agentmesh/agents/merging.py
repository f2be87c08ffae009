"""What every refiner does with replies around the wording: evidence, conflicts, contributors, status."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from agentmesh.agents.disagreement import Claim, disagreements, same_claim
from agentmesh.text import sentences
from agentmesh.types import (
    AgentReply,
    AnswerStatus,
    CitedSentence,
    Conflict,
    Contributor,
    ReplyStatus,
)

__all__ = [
    "Merged",
    "conflicts_among",
    "contributors",
    "failures_said",
    "merged",
    "spoken",
    "status_of",
    "usable",
    "with_sources",
]

NO_ANSWER = "Sorry, none of the agents found anything that answers this."
ALL_FAILED = "Sorry, none of the agents could answer."
DISAGREE = "These sources disagree:"
FAILED = (ReplyStatus.FAILED, ReplyStatus.TIMED_OUT, ReplyStatus.OVER_LIMIT, ReplyStatus.CANCELLED,
          ReplyStatus.NEEDS_APPROVAL)  # fmt: skip


class Merged(NamedTuple):
    """A sentence of the answer and the agents that say it."""

    sentence: CitedSentence
    agents: tuple[str, ...]


def usable(reply: AgentReply) -> bool:
    """Whether a reply says something that belongs into the answer: one that went over its price does, too."""
    said = bool(reply.sentences or reply.text.strip())
    return said and (reply.ok or reply.status is ReplyStatus.OVER_LIMIT)


def spoken(reply: AgentReply) -> tuple[CitedSentence, ...]:
    """The sentences that speak for a reply: extracts where its model is not capable, its own words otherwise."""
    extracts = tuple(s for s in reply.sentences if s.origin == "extractive")
    if reply.extractive and extracts:
        return extracts
    own = tuple(s for s in reply.sentences if s.origin != "extractive")
    return own or extracts or tuple(CitedSentence(text=t) for t in sentences(reply.text))


def conflicts_among(replies: Sequence[AgentReply]) -> list[Conflict]:
    """The conflicts in what the replies say and in the evidence that they carry."""
    claims: list[Claim] = []
    for reply in replies:
        if not usable(reply):
            continue
        extracts = [s for s in reply.sentences if s.origin == "extractive"]
        for s in dict.fromkeys([*spoken(reply), *extracts]):
            item = s.items[0] if s.items else None
            claims.append(Claim(reply.agent, s.text, item, s.source, s.trust, s.origin == "extractive"))
    return disagreements(claims)


def merged(replies: Sequence[AgentReply]) -> list[Merged]:
    """All sentences in routing order; what several agents say stands once, with all of them and all of its items."""
    result: list[Merged] = []
    for reply in replies:
        if not usable(reply):
            continue
        for sentence in spoken(reply):
            for at, known in enumerate(result):
                if same_claim(known.sentence.text, sentence.text):
                    items = tuple(dict.fromkeys((*known.sentence.items, *sentence.items)))
                    update = {"items": items, "source": known.sentence.source or sentence.source}
                    both = tuple(dict.fromkeys((*known.agents, reply.agent)))
                    result[at] = Merged(known.sentence.model_copy(update=update), both)
                    break
            else:
                result.append(Merged(sentence, (reply.agent,)))
    return result


def contributors(replies: Sequence[AgentReply], shares: Mapping[str, int]) -> tuple[Contributor, ...]:
    """Every agent that was called, in routing order, with its share in the answer and what went wrong."""
    return tuple(
        Contributor(
            agent=r.agent,
            status=r.status,
            sentences=shares.get(r.agent, 0),
            cited=r.cited,
            note=r.error or ("found nothing on it in its memory" if r.status is ReplyStatus.NO_EVIDENCE else ""),
        )
        for r in replies
    )


def status_of(replies: Sequence[AgentReply]) -> AnswerStatus:
    """Answered, partial where some agent failed, failed where all did, or no answer where none found anything.

    A spent budget is no failure: what stopped the run says why there is no answer.
    """
    if not any(usable(r) for r in replies):
        broken = [r for r in replies if r.status in FAILED and r.status is not ReplyStatus.OVER_LIMIT]
        return AnswerStatus.FAILED if broken and len(broken) == len(replies) else AnswerStatus.NO_ANSWER
    return AnswerStatus.PARTIAL if any(r.status in FAILED for r in replies) else AnswerStatus.ANSWERED


def failures_said(replies: Sequence[AgentReply], titles: Mapping[str, str]) -> list[str]:
    """One sentence for each agent that did not answer."""
    said: list[str] = []
    for r in replies:
        title = titles.get(r.agent, r.agent)
        seconds = f" after {r.latency_ms / 1000:.0f} s" if r.latency_ms >= 1000 else ""
        reason = (r.error or "").partition(";")[0].strip().rstrip(".")
        match r.status:
            case ReplyStatus.TIMED_OUT:
                said.append(f"{title} did not answer: timed out{seconds}.")
            case ReplyStatus.NEEDS_APPROVAL:
                said.append(f"{title} waits for a person's approval.")
            case ReplyStatus.CANCELLED:
                said.append(f"{title} did not answer: it was cancelled.")
            case ReplyStatus.FAILED:
                said.append(f"{title} did not answer: {reason or 'it failed'}.")
            case ReplyStatus.OVER_LIMIT if not usable(r):
                said.append(f"{title} did not answer: {reason or 'its limit is reached'}.")
            case ReplyStatus.NO_EVIDENCE:
                said.append(f"{title} found nothing on this in its memory.")
            case _:
                pass
    return said


def with_sources(conflicts: Sequence[Conflict], titles: Mapping[str, str]) -> str:
    """The closing section: each conflict in a line, every side with who says it and where it stands."""
    if not conflicts:
        return ""
    lines: list[str] = []
    for conflict in conflicts:
        sides: dict[str, list[str]] = {}
        for side in conflict.sides:
            where = "; ".join(part for part in (titles.get(side.agent, side.agent), side.source) if part)
            sides.setdefault(side.value, []).append(where)
        told = " or ".join(f"{value} ({', '.join(dict.fromkeys(where))})" for value, where in sides.items())
        lines.append(f"- {conflict.about}: {told}.")
    return "\n".join([DISAGREE, *lines])
