"""How many tokens of memory one agent may read in one round. Pure numbers."""

from agentmesh.types import ContextRequest

__all__ = ["budget_for"]


def budget_for(request: ContextRequest, *, default_tokens: int | None = None) -> int:
    """The budget of the rendered pack, in tokens, never negative.

    The request's own budget wins, then `default_tokens` (the project's setting), then what the role has for this stage,
    less what the role keeps free for other parts of the prompt.

    Source:
        RCR-Router, arXiv:2508.04903: each role has a token budget (abstract). Second-hand accounts give it as a base
        plus a share of the role; ours is one number for each role and stage, and the reserve is our choice.
    """
    if request.budget_tokens is not None:
        return max(0, request.budget_tokens)
    if default_tokens is not None:
        return max(0, default_tokens)
    return max(0, request.role.budget_for(request.stage) - sum(request.role.reserve_tokens.values()))
