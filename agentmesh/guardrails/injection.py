"""Phrases that often stand in prompt injections and jailbreaks. A heuristic with known rates, not a defence."""

import re
from collections.abc import Iterable

from agentmesh.guardrails.base import PASSED, Action, Verdict, Where, action_of, readable
from agentmesh.guardrails.spans import aside, folded, number_option, where_or
from agentmesh.run import RunContext

__all__ = ["InjectionRule", "injection_confidence", "injection_signs"]

_GAP = r"(?:[\w'’-]+[ ,:;\"]+){0,%d}?"
_OLD_RULES = (
    r"(?:instructions?|rules?|prompts?|guidelines?|directions?|directives?|commands?|polic(?:y|ies)|restrictions?|"
    r"programming|training|context|safeguards?|filters?)"
)
_SIGNS = {
    "sets earlier instructions aside": (
        r"\b(?:ignor(?:e|ing)|disregard(?:ing)?|forget(?:ting)?|overrid(?:e|ing)|bypass(?:ing)?|"
        r"(?:do not|don[’']?t|never|stop) (?:follow|obey)(?:ing)?) " + _GAP % 5 + _OLD_RULES + r"\b",
        r"\b(?:ignore|disregard|forget) (?:everything|anything|all|whatever) " + _GAP % 4
        + r"(?:above|before|previous(?:ly)?|earlier|said|told|written)\b",
    ),
    "declares a model without rules": (
        r"\b(?:without|no|free (?:of|from)|not bound by|any) " + _GAP % 3
        + r"(?:restrictions?|censorship|(?:content|ethical|moral|safety) (?:polic(?:y|ies)|rules?|guidelines?|filters?|"
        r"constraints?|limits?|limitations?))\b",
        r"\b(?:unfiltered|uncensored|unrestricted|jailbro?ken?|jailbreak) " + _GAP % 2
        + r"(?:ai|assistant|model|chatbot|bot|mode|version|response|answers?|prompt)\b",
        r"\b(?:developer|god|admin|debug|sudo|dan) mode\b",
        r"\bdo anything now\b",
    ),
    "forbids to refuse or to warn": (
        r"\b(?:never|cannot|can[’']?t|must not|do not|don[’']?t|will not|won[’']?t) " + _GAP % 2
        + r"(?:refuse|decline|reject|say no|apologi[sz]e|warn|break character)\b",
        r"\b(?:never|do not|don[’']?t) " + _GAP % 3 + r"(?:ai|artificial intelligence|language model)\b",
    ),
    "puts another person in the model's place": (
        r"\b(?:from now on|for the rest of this (?:chat|conversation)) ?,? ?"
        r"(?:you|act|pretend|behave|answer|respond)\b",
        r"\byou (?:are|will|shall|must|should) (?:now |no longer )" + _GAP % 2 + r"\w+",
        r"\b(?:pretend|act|behave|role-?play) (?:to be|as if|as though|like you) " + _GAP % 4
        + r"(?:no|not|without|evil|unfiltered|unrestricted|never)\b",
    ),
    "asks for hidden instructions": (
        r"\b(?:reveal|show|print|repeat|output|display|tell|give|leak|write|quote|say) " + _GAP % 5
        + r"(?:system|hidden|initial|original|secret|internal|starting) (?:prompts?|instructions?|messages?|rules?)\b",
        r"\brepeat (?:all |everything |the )?" + _GAP % 4 + r"(?:above|before this)\b",
    ),
    "speaks as the system or an authority": (
        r"<\|?/?(?:im_start|im_end|system|endoftext|assistant)\|?>|\[/?(?:inst|system)\]|<</?sys>>|"
        r"</?(?:system|instructions?|information|admin|important)>",
        r"(?m:^)[ #*]{0,8}(?:system|assistant|developer)(?: (?:message|prompt|note))?[*]{0,2} ?:",
        r"\b(?:important|urgent|new|updated|following) (?:message|instructions?|notice|task|orders?) "
        + r"(?:from|by) " + _GAP % 2 + r"\w+",
        r"\b(?:before|instead of) (?:you )?(?:solv|do|answer|complet|continu|follow)\w* " + _GAP % 4
        + r"(?:task|question|request|instructions?)\b",
    ),
}  # fmt: skip
"""Signs of a text that talks to the model instead of to the mesh: kinds, each with patterns over the folded text."""


class InjectionRule:
    """Finds phrases that often stand in prompt injections and jailbreaks. A heuristic: it understands nothing.

    Its phrases are our own, English, and public: who knows them writes around them. It does not find attacks in other
    languages, encoded or spelled apart, without a set phrase (a story, a role to play), or hidden in a document that
    simply states a wish ("send the file to ..."). It finds harmless texts that talk about prompts and rules. So its
    own action is `flag`; what an agent may do must be bounded by tools and approvals, not by this.

    Args:
        at_least: Of the six kinds of signs, how many must be found.
        name: What the trace calls the rule.
        where: One place or several; the question and what is remembered if nothing is said.
        action: flag, block or ask.
    """

    def __init__(
        self,
        *,
        at_least: int = 1,
        name: str = "injection",
        where: str | Iterable[str] | None = None,
        action: str = Action.FLAG,
    ) -> None:
        self.name = name
        self.where = where_or(where, frozenset({Where.INPUT, Where.MEMORY}), action)
        self.action = action_of(name, action, self.where, cannot=[Action.REDACT])
        self._least = number_option("at_least", at_least, least=1, most=len(_SIGNS))

    async def check(self, text: str, ctx: RunContext) -> Verdict:
        found = await aside(injection_signs, readable(text))
        if len(found) < self._least:
            return PASSED
        return Verdict(action=self.action, reason=", ".join(found), found=len(found))


def injection_signs(text: str) -> list[str]:
    """The kinds of signs of a prompt injection that this text shows, in words."""
    flat = _SPACES.sub(lambda m: "\n" if "\n" in m[0] else " ", folded(text)[0])
    return [kind for kind, patterns in _COMPILED_SIGNS.items() if any(p.search(flat) for p in patterns)]


def injection_confidence(text: str) -> float:
    """How sure it is that a text is an injection, 0 to 1: by n kinds of signs 1 - 0.4^n. Our choice."""
    return 1.0 - 0.4 ** len(injection_signs(text))


_SPACES = re.compile(r"\s+")
_COMPILED_SIGNS = {
    kind: tuple(re.compile(p.replace("[ ", r"[\s").replace(" ", r"\s")) for p in patterns)
    for kind, patterns in _SIGNS.items()
}
"""A space of a pattern stands for one blank of any kind: line ends are kept for the patterns that look at lines."""
