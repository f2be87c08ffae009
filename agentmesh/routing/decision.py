"""From what is known about the parts of a message to one routing decision with its reasons. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from agentmesh.routing.calibration import HALF_WAY_EXAMPLES, RIDGE_AGENTS, Judged, probabilities
from agentmesh.routing.parts import Part
from agentmesh.routing.scorer import SIGNALS
from agentmesh.types import AgentCard, Candidate, Chosen, Mode, RoutingDecision

__all__ = ["Thresholds", "Verdict", "candidate", "compose", "verdict_on"]

Floats = NDArray[np.float64]

ASKED_BACK = 3
"""Agents that the question of `clarify` names."""
MOST_FOR_A_PART = 3
"""Agents of one wish, among many agents; among few there are at most two."""
LEAST_SHARE, MANY_SHARE = 0.57, 0.4
"""Shares of the threshold that count for cards without examples, and among many agents."""
NAMED_BY_A_PERSON = 4.0
"""By how much an agent that a person named scores above all others. Our choice: about .95 of the probability."""


@dataclass(frozen=True)
class Thresholds:
    """From which probability on. All 0 to 1; our choices, settled on validation rows of clinc_mix."""

    threshold: float = 0.35
    """Least probability with which an agent is chosen for a part."""
    none_threshold: float = 0.5
    """Probability of "none of them" above which a part is nobody's."""
    margin: float = 0.1
    """A second agent of the same part is at most this much less probable than the first."""
    coverage: float = 0.0
    """Agents of the same part are taken until they have this share of what all agents have; 0: by margin alone."""
    background: float = 0.6
    """Least probability for a statement that only leads up to a wish to bring in an agent of its own."""
    vague: float = 0.6
    """Least probability for a message without a word that says what it is about."""
    vague_near: float = 0.6
    """Least nearness to an example for the same: such a message is only understood where a card quotes it ..."""
    vague_sure: float = 0.85
    """... or where an agent is at least this probable: cards with many examples know what "say that again" is for.
    Our choice, after errors on clinc150's validation rows."""

    def for_cards(self, count: int, examples: float, coverage: float) -> "Thresholds":
        """The same for so many agents with so many examples each.

        Probability spreads over agents that are alike and over cards that say little: the best of them is less sure and
        still right. So the threshold falls to `LEAST_SHARE` of itself without examples and to `MANY_SHARE` among many
        agents, and of these a set is taken that covers `coverage`. Settled on clinc150, hwu64 and banking77.
        """
        many = count > RIDGE_AGENTS
        taught = examples / (examples + HALF_WAY_EXAMPLES)
        least = self.threshold * (MANY_SHARE if many else LEAST_SHARE + (1.0 - LEAST_SHARE) * taught)
        return replace(self, threshold=least, coverage=coverage if many else 0.0)


@dataclass(frozen=True)
class Verdict:
    """What was found out about one part of a message."""

    part: Part
    chance: Floats
    """Probabilities, shape (c + 1,); the last one is "none of them"."""
    score: Floats
    """Logits, same shape."""
    signals: NDArray[np.floating[Any]]
    """Shape (c, len(SIGNALS))."""
    chosen: tuple[int, ...]
    """Positions of the agents, best first, at most two."""
    note: str = ""
    """With what else the part was read."""
    together: bool = False
    """The probabilities are each agent's own and the agents one set, instead of shares of one choice."""

    def with_lead(self, judged: Judged, row: int, limits: Thresholds, note: str) -> "Verdict":
        """The verdict on the same part read half alone, half as in that row of `judged`."""
        score = (self.score + judged.score[row]) / 2
        signals = (self.signals + judged.signals[row]) / 2
        both = Judged(probabilities(score[None]), score[None], signals[None])
        return verdict_on(self.part, both, 0, limits, note=note)

    def decided_for(self, agents: tuple[int, ...], part: Part, note: str) -> "Verdict":
        """The verdict of a person who named the agents: nothing else is more probable."""
        score = self.score.copy()
        score[list(agents)] = max(float(score.max()), 0.0) + NAMED_BY_A_PERSON
        return Verdict(part, probabilities(score[None])[0], score, self.signals, agents, note)


def verdict_on(
    part: Part, judged: Judged, row: int, limits: Thresholds, *, vague: bool = False, note: str = ""
) -> Verdict:
    """Choose the agents of a part by one row of `judged`; `vague` if no word says what it is about."""
    chance = judged.chance[row]
    order = np.argsort(-chance[:-1], kind="stable")[:MOST_FOR_A_PART].tolist()
    best = float(chance[order[0]])
    least = max(limits.threshold, limits.background) if part.background else limits.threshold
    chosen = _set_of(chance, order, least, limits)
    quoted = float(judged.signals[row, order[0], SIGNALS.index("near")]) >= limits.vague_near
    understood = not vague or (quoted and best >= limits.vague) or best >= limits.vague_sure
    if chance[-1] > limits.none_threshold or not understood:
        chosen = ()
    return Verdict(part, chance, judged.score[row], judged.signals[row], chosen, note)


def _set_of(chance: Floats, order: Sequence[int], least: float, limits: Thresholds) -> tuple[int, ...]:
    """Those of the agents in `order` that are taken: the first if it is probable enough, then by margin or coverage."""
    if chance[order[0]] < least:
        return ()
    if not limits.coverage:
        return tuple(a for a in order[:2] if chance[a] >= least and chance[order[0]] - chance[a] <= limits.margin)
    wanted = limits.coverage * (1.0 - chance[-1])
    before = np.cumsum([0.0, *(chance[a] for a in order[:-1])])
    return tuple(a for a, covered in zip(order, before.tolist(), strict=True) if covered < wanted)


def candidate(agent: str, judged: Judged, row: int, place: int, *, chosen: bool, reason: str) -> Candidate:
    """An agent as it was considered in one row of `judged`."""
    return Candidate(
        agent=agent,
        score=float(judged.score[row, place]),
        probability=float(judged.chance[row, place]),
        chosen=chosen,
        reason=reason,
        signals=dict(zip(SIGNALS, cast(list[float], judged.signals[row, place].tolist()), strict=True)),
    )


def compose(
    router: str,
    cards: Sequence[AgentCard],
    verdicts: Sequence[Verdict],
    limits: Thresholds,
    most: int,
    *,
    vague: bool,
    whole: Floats | None = None,
) -> RoutingDecision:
    """One decision about a message from the verdicts on its parts.

    The agents of all parts work, the most probable ones first, at most `most`; each on its own parts and what leads up
    to them, weighted by its probabilities. Nobody is chosen: ask back if the message is vague or an agent is more
    probable than none, else it is out of scope. `whole` are the probabilities of the undivided message: of two agents
    whose parts are equally sure, the one that the message as a whole is for comes first.
    """
    return _Composer(router, cards, verdicts, limits, most, vague=vague, whole=whole).decision()


class _Composer:
    """The numbers that the pieces of a decision share."""

    def __init__(
        self,
        router: str,
        cards: Sequence[AgentCard],
        verdicts: Sequence[Verdict],
        limits: Thresholds,
        most: int,
        *,
        vague: bool,
        whole: Floats | None,
    ) -> None:
        self.router, self.cards, self.verdicts, self.limits, self.most, self.vague = (
            router,
            cards,
            verdicts,
            limits,
            most,
            vague,
        )
        self.all = Judged(
            np.stack([v.chance for v in verdicts]),
            np.stack([v.score for v in verdicts]),
            np.round(np.stack([v.signals for v in verdicts]).astype(np.float64), 4),
        )
        self.rows: list[int] = self.all.chance[:, :-1].argmax(axis=0).tolist()
        """The part in which each agent is most probable."""
        self.best: list[float] = self.all.chance[:, :-1].max(axis=0).tolist()
        self.own: dict[int, list[int]] = {}
        """The parts of each agent that some part chose."""
        for row, verdict in enumerate(verdicts):
            for agent in verdict.chosen:
                self.own.setdefault(agent, []).append(row)
        self.kept = sorted(self.own, key=lambda a: (-self._chance_of(a), a))[:most]
        if whole is not None:
            self.kept.sort(key=lambda a: -self._chance_of(a) - float(whole[a]))
        wishes = [row for row, v in enumerate(verdicts) if not v.part.background] or [0]
        self.none = float(self.all.chance[wishes, -1].min())

    def decision(self) -> RoutingDecision:
        """Put it together."""
        question = None
        if self.kept:
            mode = Mode.SOLO if len(self.kept) == 1 else Mode.PARALLEL
            reason, confidence = self._why_these(), self._sure()
        elif self.vague or self.none <= max(self.best):
            mode, question, confidence = Mode.CLARIFY, self._question(), 1.0 - max(self.best)
            reason = "no word says what the message is about" if self.vague else "no agent stands out"
            reason += f"; {self._nearest()}"
        else:
            mode, confidence = Mode.OUT_OF_SCOPE, self.none
            reason = f"none of the agents with probability {self.none:.2f}; {self._nearest()}"
        return RoutingDecision(
            mode=mode,
            chosen=self._chosen(),
            reason=reason,
            candidates=self._candidates(mode),
            evidence=self._evidence(),
            confidence=min(1.0, max(0.0, confidence)),
            question=question,
            options=tuple(self.cards[a].id for a in self._torn()) if mode is Mode.CLARIFY else (),
            router=self.router,
        )

    def _chance_of(self, agent: int) -> float:
        """The best probability of an agent among its own parts."""
        return float(self.all.chance[self.own[agent], agent].max())

    def _chosen(self) -> tuple[Chosen, ...]:
        shares = {a: float(self.all.chance[self.own[a], a].sum()) for a in self.kept}
        return tuple(
            Chosen(
                agent=self.cards[a].id,
                score=float(self.all.score[self.own[a], a].max()),
                probability=self._chance_of(a),
                weight=shares[a] / sum(shares.values()),
                part=self._part(self.own[a]),
            )
            for a in self.kept
        )

    def _part(self, rows: Sequence[int]) -> str:
        """The text of some parts in order, each with what leads up to it."""
        taken: list[int] = []
        for row in rows:
            first = row
            while first > 0 and (
                self.verdicts[first - 1].part.background or (self.verdicts[row].note and first == row)
            ):
                first -= 1
            taken.extend(i for i in range(first, row + 1) if i not in taken)
        texts = [self.verdicts[i].part.text for i in taken]
        joined = [t if t[-1:] in ".?!,;:。！？" else f"{t}," for t in texts[:-1]]  # the split took its comma off
        return " ".join([*joined, *texts[-1:]])

    def _candidates(self, mode: Mode) -> tuple[Candidate, ...]:
        rest = sorted((a for a in range(len(self.cards)) if a not in self.kept), key=lambda a: -self.best[a])
        return tuple(
            candidate(self.cards[a].id, self.all, self.rows[a], a, chosen=a in self.kept, reason=self._why(a, mode))
            for a in (*self.kept, *rest)
        )

    def _why(self, agent: int, mode: Mode) -> str:
        """Why an agent was chosen or passed over."""
        limits, best = self.limits, self.best[agent]
        verdict = self.verdicts[self.rows[agent]]
        said = f"probability {best:.2f}"
        if agent in self.kept:
            note = self.verdicts[self.own[agent][0]].note
            chance = self._chance_of(agent)
            enough = f", at least {limits.threshold:.2f}" if chance >= limits.threshold else ""
            return f"probability {chance:.2f}{enough}" + (f"; {note}" if note else "")
        if agent in self.own:
            return f"{said}, but outside the {self.most} best"
        if verdict.together:
            return f"{said}, not in the likeliest set"
        if best < limits.threshold:
            return f"{said} below {limits.threshold:.2f}"
        if mode is Mode.CLARIFY:
            return f"{said}, but the message is too vague to decide"
        if verdict.part.background and best < limits.background:
            return f"{said} below {limits.background:.2f} for a part that only leads up to a wish"
        if verdict.chance[-1] > limits.none_threshold:
            return f"{said}, but none of the agents has {verdict.chance[-1]:.2f}"
        if limits.coverage:
            return f"{said}, the better ones cover {limits.coverage:.2f} of what all agents have"
        return f"{said}, more than {limits.margin:.2f} behind the best"

    def _why_these(self) -> str:
        named = ", ".join(f"{self.cards[a].id} ({self._chance_of(a):.2f})" for a in self.kept)
        count = len(self.verdicts)
        reason = f"{named} for {'the message' if count == 1 else f'the {count} parts of the message'}"
        foreign = sum(not v.chosen and not v.part.background for v in self.verdicts)
        if foreign:
            reason += f"; {foreign} of them without an agent"
        notes = sorted({v.note for v in self.verdicts if v.note and v.chosen})
        return "; ".join([reason, *notes])

    def _sure(self) -> float:
        """Probability that every part is decided rightly, the parts taken as independent."""
        sure = 1.0
        for verdict in self.verdicts:
            if verdict.together:
                taken = np.isin(np.arange(len(self.cards)), verdict.chosen)
                sure *= float(np.where(taken, verdict.chance[:-1], 1.0 - verdict.chance[:-1]).prod())
            elif verdict.chosen:
                sure *= float(verdict.chance[list(verdict.chosen)].sum())
            elif not verdict.part.background:
                sure *= float(verdict.chance[-1])
        return sure

    def _nearest(self) -> str:
        agent = self.best.index(max(self.best))
        return f"the nearest is {self.cards[agent].id} with {self.best[agent]:.2f}"

    def _torn(self) -> list[int]:
        """The nearest agents, best first."""
        return sorted(range(len(self.cards)), key=lambda a: -self.best[a])[:ASKED_BACK]

    def _question(self) -> str:
        """What to ask the user: the nearest agents by name."""
        titles = [self.cards[a].title for a in self._torn()]
        return f"What is it about: {', '.join(titles)}, or something else? Please describe it in a few more words."

    def _evidence(self) -> dict[str, Any]:
        return {
            "threshold": round(self.limits.threshold, 4),
            "none_threshold": self.limits.none_threshold,
            "margin": self.limits.margin,
            "coverage": self.limits.coverage,
            "out_of_scope": self.none,
            "parts": [
                {
                    "text": v.part.text,
                    "agents": [self.cards[a].id for a in v.chosen],
                    "none": round(float(v.chance[-1]), 4),
                    "background": v.part.background,
                    "note": v.note,
                }
                for v in self.verdicts
            ],
        }
