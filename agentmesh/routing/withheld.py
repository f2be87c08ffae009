"""A router around another that lets sensitive data go only to agents whose card allows it. Chooses nobody itself.

What is looked for, and by what, is given; texts are looked at as they are and never kept.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agentmesh.routing.base import Router
from agentmesh.routing.signals import Detector, detected
from agentmesh.run import RunContext
from agentmesh.types import Chosen, Mode, RouteRequest, RoutingDecision, Sensitive

__all__ = ["WithholdingRouter"]

_WORDS = {
    "secret": "a secret (a key, a password)",
    "personal": "personal data (an address, a phone or account number)",
}


class WithholdingRouter:
    """Takes agents whose card does not allow it out of a decision about a message that holds something sensitive.

    The other router decides first, on the merits: who may not be sent the message is not replaced by somebody who is
    not for it. If nobody is left, the run is stopped, and its answer says why and what to do. The message is looked at
    with what was clarified, not the turns before it. A detector that fails is an error: nothing is sent on a guess.

    Whatever else the other router can do (`prepare`, `record`, `learn`, ...) this one can.

    Args:
        inner: Who decides.
        detectors: What finds each kind.
        always: Kinds that are always looked for.
        declared: Kinds that a card is known to allow.
        where_declared: Kinds that are looked for as soon as some card allows them: before that nobody has said who may
            be sent them, and e-mail addresses stand in half of all messages.
    """

    def __init__(
        self,
        inner: Router,
        detectors: Mapping[str, Detector],
        *,
        always: Sequence[Sensitive] = ("secret",),
        where_declared: Sequence[Sensitive] = (),
        declared: Iterable[Sensitive] = (),
    ) -> None:
        self.inner = inner
        self._detectors, self._always, self._where_declared = detectors, tuple(always), tuple(where_declared)
        self._declared: set[Sensitive] = {*declared}

    @property
    def name(self) -> str:
        """The other router's."""
        return self.inner.name

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # while a copy is being made there is none yet
            raise AttributeError(name)
        return getattr(self.inner, name)

    async def route(self, request: RouteRequest, ctx: RunContext) -> RoutingDecision:
        """See `Router`; also raises `RoutingError` if it could not be looked for."""
        found = await self._found(request)
        decision = await self.inner.route(request, ctx)
        if not found or not decision.chosen:
            return decision
        allows = {card.id: card.allows for card in request.cards}  # nobody knows what a later layer of a path allows
        barred = [a for a in decision.agents if not {*found} <= {*allows.get(a, ())}]
        if not barred:
            return decision
        holds = " and ".join(_WORDS[kind] for kind in found)
        who = " and ".join(barred)
        left = () if decision.mode is Mode.PATH else tuple(c for c in decision.chosen if c.agent not in barred)
        update: dict[str, Any] = {
            "chosen": _shared(left),
            "reason": f"{decision.reason}; not sent to {who}: the message holds {holds}, which the card does not allow",
            "candidates": tuple(
                c.model_copy(
                    update={
                        "chosen": False,
                        "reason": f"its card does not allow {' and '.join(found)} data; {c.reason}",
                    }
                )
                if c.agent in barred
                else c
                for c in decision.candidates
            ),
            "evidence": {**decision.evidence, "withheld": {"holds": list(found), "agents": barred}},
        }
        if not left:
            told = f"This was not passed on: the message seems to hold {holds}, which {who} may not be sent. "
            update |= {"mode": Mode.OUT_OF_SCOPE, "stopped": told + "Please take it out and ask again."}
        elif len(left) == 1:
            update["mode"] = Mode.SOLO
        return decision.model_copy(update=update)

    async def _found(self, request: RouteRequest) -> tuple[Sensitive, ...]:
        """The kinds that the message holds."""
        text = request.task.full_text
        self._declared.update(kind for card in request.cards for kind in card.allows)
        wanted: dict[Sensitive, None] = dict.fromkeys(self._always)
        wanted |= dict.fromkeys(kind for kind in self._where_declared if kind in self._declared)
        found: list[Sensitive] = []
        for kind in wanted:
            if await detected(kind, self._detectors[kind], text) > 0:
                found.append(kind)
        return tuple(found)


def _shared(chosen: Sequence[Chosen]) -> tuple[Chosen, ...]:
    """The same with weights that add up to 1."""
    total = sum(c.weight for c in chosen)
    return tuple(c.model_copy(update={"weight": c.weight / total}) for c in chosen)
