"""What a conversation adds to the verdicts on a message: the agents of the last turn stay unless it goes elsewhere.

Pure. `carry` says how likely a turn goes on; here that is joined with what the router found out about its parts.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agentmesh.routing.calibration import Judged
from agentmesh.routing.carry import carried
from agentmesh.routing.decision import Verdict
from agentmesh.routing.parts import Part
from agentmesh.types import AgentCard, Message, Task

__all__ = ["continued", "last_workers"]

SURE = 0.9
"""Probability by its own words from which a turn that asks for something new leaves the last agents behind. Our
choice: an agent too few is asked for in the next turn, one too many is paid for in this one."""


def last_workers(task: Task) -> tuple[str, ...]:
    """Ids of the agents that worked on the last turn; empty if there was none or it is not known."""
    turns = _replies(task)
    return turns[0].agents if turns else ()


def continued(
    task: Task,
    cards: Sequence[AgentCard],
    verdicts: list[Verdict],
    judged: Judged,
    undivided: int,
    alike: NDArray[np.bool_],
) -> list[Verdict]:
    """The verdicts on a message that is a turn of a conversation; the same list where nobody worked on the last turn.

    Args:
        task: With the earlier turns.
        cards: The c agents that the verdicts are about.
        verdicts: On the parts of the message by their own words.
        judged: Rows about the parts and more.
        undivided: The row about the message as a whole.
        alike: Which cards say the same, shape (c, c).
    """
    places = {card.id: place for place, card in enumerate(cards)}
    replies = _replies(task)
    last = [places[agent] for agent in replies[0].agents if agent in places] if replies else []
    if not last:
        return verdicts
    before = replies[1].agents if len(replies) > 1 else ()
    joined = [place for place in last if before and cards[place].id not in before]
    like = np.flatnonzero(alike[last].any(axis=0))
    # In a conversation a part that several agents may be for goes to the likeliest: the next turn can ask for more.
    wanted = list(dict.fromkeys(v.chosen[0] for v in verdicts if v.chosen))
    found = carried(
        task.text,
        replies[0].text,
        last,
        judged.chance[undivided],
        joined=joined,
        wanted=wanted,
        like=[int(place) for place in like if int(place) not in last],
    )
    fresh = [agent for agent in found.agents if agent not in last]
    stays = [agent for agent in found.agents if agent in last]
    if {*found.agents} == {agent for v in verdicts for agent in v.chosen}:
        return verdicts
    kept = [_only(v, fresh) for v in verdicts if {*v.chosen} & {*fresh}]
    missing = [agent for agent in fresh if not any(agent in v.chosen for v in kept)]
    sure = bool(kept) and all(float(v.chance[list(v.chosen)].max()) >= SURE for v in kept)
    if missing:
        kept.append(_given(verdicts, judged, undivided, task.text, missing, found.continuation.new, found.reason))
    if stays and not (fresh and sure):
        kept.append(_given(verdicts, judged, undivided, task.text, stays, found.continuation.stay, found.reason))
    return kept or verdicts


def _replies(task: Task) -> list[Message]:
    """The last two turns of the assistant, newest first."""
    return [message for message in reversed(task.history) if message.role == "assistant"][:2]


def _only(verdict: Verdict, agents: Sequence[int]) -> Verdict:
    """The verdict without agents that do not work."""
    chosen = tuple(agent for agent in verdict.chosen if agent in agents)
    return Verdict(verdict.part, verdict.chance, verdict.score, verdict.signals, chosen, verdict.note)


def _given(
    verdicts: Sequence[Verdict],
    judged: Judged,
    row: int,
    text: str,
    agents: Sequence[int],
    probability: float,
    reason: str,
) -> Verdict:
    """The verdict that the whole message is for these agents, with this probability."""
    part = verdicts[0].part if len(verdicts) == 1 else Part(text.strip(), text.strip())
    chance = judged.chance[row] * (1.0 - probability)
    chance[list(agents)] += probability / len(agents)
    return Verdict(part, chance, judged.score[row], judged.signals[row], tuple(agents), reason)
