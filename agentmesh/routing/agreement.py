"""What several samples of one question say together: one opinion, how far they agree, and when asking more is idle.

Pure: nothing is asked here. A sample's answer is its set of agents, or that nobody fits, or that the user must be
asked; two answers are the same if all of that is. A sample that failed is an answer that nobody shares.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from agentmesh.routing.opinion import Opinion, Outcome, Pick

__all__ = [
    "Ballot",
    "agreed",
    "ballot_of",
    "confidence",
    "ever_chosen",
    "likeness",
    "samples_to_settle",
    "settled",
    "sigma",
]


@dataclass(frozen=True)
class Ballot:
    """The answer of one sample."""

    outcome: Outcome | Literal["failed"]
    agents: tuple[str, ...] = ()
    """Whom it chooses, sorted; empty unless its outcome is `agents`."""
    error: str = ""
    """Why it has no answer, if it failed."""

    def values(self) -> dict[str, Any]:
        """As JSON, for evidence."""
        return {"outcome": self.outcome, "agents": list(self.agents), **({"error": self.error} if self.error else {})}


def ballot_of(opinion: Opinion, *, threshold: float, most: int) -> Ballot:
    """The answer in an opinion: of the agents that it names with at least `threshold`, the `most` likeliest.

    An agent without a number counts as sure.
    """
    if opinion.outcome != "agents":
        return Ballot(opinion.outcome)
    chance = {pick.agent: 1.0 if pick.probability is None else pick.probability for pick in opinion.picks}
    likely = sorted((agent for agent in chance if chance[agent] >= threshold), key=lambda agent: -chance[agent])
    return Ballot("agents", tuple(sorted(likely[:most])))


def agreed(opinions: Sequence[Opinion]) -> Opinion:
    """One opinion out of several on the same request: the outcome of most, probabilities averaged.

    An agent that an opinion does not name has probability 0 in it; one that is named without a number has 1. Of equally
    frequent outcomes the earliest counts.

    Source:
        Wang et al., self-consistency (arXiv:2203.11171), for the vote. Our choice: the average.
    """
    if len(opinions) == 1:
        return opinions[0]
    outcomes: list[Outcome] = [opinion.outcome for opinion in opinions]
    outcome: Outcome = max(outcomes, key=outcomes.count)
    place = outcomes.index(outcome)
    first = opinions[place]
    chance: dict[str, float] = {}
    parts: dict[str, str] = {}
    for opinion in (first, *opinions[:place], *opinions[place + 1 :]):
        for pick in opinion.picks:
            chance[pick.agent] = chance.get(pick.agent, 0.0) + _number(pick) / len(opinions)
            parts.setdefault(pick.agent, pick.part)
    none = sum(float(o.outcome == "none") if o.none is None else o.none for o in opinions) / len(opinions)
    picks = tuple(Pick(agent, min(1.0, p), parts[agent]) for agent, p in chance.items())
    dropped = tuple(dict.fromkeys(name for opinion in opinions for name in opinion.dropped))
    return Opinion(outcome, picks, none, first.reason, first.question, dropped)


# --- how far they agree -----------------------------------------------------------------------------------------------


def sigma(ballots: Sequence[Ballot]) -> float:
    """How far the samples differ, 0 (all the same) to 1 (no two the same): (distinct - 1) / (n - 1); one alone: 0.

    Source:
        ACAR, sigma = (|distinct(a)| - 1) / 2 for three answers of a model. Our choices: any n; answers are sets, the
        same where all their agents are; each failed sample is a distinct answer.
    """
    if len(ballots) < 2:
        return 0.0
    failed = sum(ballot.outcome == "failed" for ballot in ballots)
    distinct = failed + len({(b.outcome, b.agents) for b in ballots if b.outcome != "failed"})
    return (distinct - 1) / (len(ballots) - 1)


def likeness(ballots: Sequence[Ballot]) -> float:
    """How much of their sets the samples share, 0 to 1: the mean Jaccard index over all pairs; one alone: 1.

    Two sets that overlap count in part here, where sigma calls them distinct. Different outcomes share nothing, two
    equal ones without agents everything, a failed sample nothing with anybody.
    """
    pairs = list(combinations(ballots, 2))
    return sum(_jaccard(one, other) for one, other in pairs) / len(pairs) if pairs else 1.0


def ever_chosen(ballots: Sequence[Ballot]) -> tuple[str, ...]:
    """Every agent that some sample chooses, those of most samples first."""
    counts = Counter(agent for ballot in ballots for agent in ballot.agents)
    return tuple(agent for agent, _ in counts.most_common())


def confidence(ballots: Sequence[Ballot], decided: Ballot, stated: float) -> float:
    """Probability that what was decided is right: (k + stated) / (n + 1), if k of the n samples say exactly that.

    The mean of a beta distribution: what the model states, once, and then every sample as an observation. So agreement
    alone is never certainty, few samples leave much to the stated number, and a failed one counts against the decision.
    Our choice; it was not fitted, for no labelled replies of a model were at hand.

    Args:
        ballots: All samples.
        decided: What was decided, as a sample would say it.
        stated: Its probability by the averaged numbers of the samples, 0 to 1.
    """
    same = sum((b.outcome, b.agents) == (decided.outcome, decided.agents) for b in ballots)
    return (same + stated) / (len(ballots) + 1)


# --- when asking more is idle -----------------------------------------------------------------------------------------


def samples_to_settle(samples: int, threshold: float) -> int:
    """How many of `samples` must be heard before the rest cannot change the set, however much they agree.

    More than half, for the outcome; and so many that the rest alone lifts no agent to the threshold.
    """
    most_left = math.ceil(samples * threshold) - 1 if threshold > 0 else 0
    return min(samples, max(samples // 2 + 1, samples - max(0, most_left)))


def settled(opinions: Sequence[Opinion], *, left: int, threshold: float, sure: float, most: int) -> bool:
    """Whether `left` further samples cannot change outcome or set, whatever they say and however many of them fail.

    An agent's average over all samples lies between S / (m + left) and (S + left) / (m + left), S being the sum of its
    m probabilities so far; of an agent that nobody has named yet S is 0.

    Args:
        opinions: The m usable ones so far.
        left: Samples not asked yet.
        threshold: Least average of a chosen agent.
        sure: Average of an agent from which the user is not asked back.
        most: Agents that may be chosen.
    """
    counts = Counter(opinion.outcome for opinion in opinions).most_common(2)
    if not counts or counts[0][1] <= (counts[1][1] if len(counts) > 1 else 0) + left:
        return False
    if counts[0][0] != "agents":
        return True
    total = len(opinions) + left
    sums: dict[str, float] = {}
    for opinion in opinions:
        for pick in opinion.picks:
            sums[pick.agent] = sums.get(pick.agent, 0.0) + _number(pick)
    lowest = {agent: said / total for agent, said in sums.items()}
    kept = [agent for agent, low in lowest.items() if low >= threshold]
    others = [low + left / total for agent, low in lowest.items() if agent not in kept]
    open_ = any(high >= threshold for high in [left / total, *others])
    return not open_ and 0 < len(kept) <= most and max(lowest.values()) >= sure


def _number(pick: Pick) -> float:
    return 1.0 if pick.probability is None else pick.probability


def _jaccard(one: Ballot, other: Ballot) -> float:
    if one.outcome != other.outcome or one.outcome == "failed":
        return 0.0
    both, either = set(one.agents) & set(other.agents), set(one.agents) | set(other.agents)
    return len(both) / len(either) if either else 1.0
