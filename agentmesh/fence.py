"""Text from memory, users and agents as data inside a prompt: fenced, labelled, unable to break out.

Fencing keeps a prompt's parts apart and takes control marks out of foreign text. It cannot make a model ignore what the
text says: the prompts say that fenced text is data, and trust is decided before, where items are chosen.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from agentmesh.types import PackItem

__all__ = ["fenced", "inert", "pack_line", "render_pack"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_FENCE = re.compile(r"<{2,}|>{2,}")
_CHAT_MARK = re.compile(
    r"<(?=\|)|(?<=\|)>|<(?=/?(?:s|sys|system|user|assistant|human|im_start|im_end|tool_call)\b[^<>]{0,20}>)",
    re.IGNORECASE,
)
_INST = re.compile(r"\[(?=/?(?:INST|SYS)\])", re.IGNORECASE)
_REF = re.compile(r"\[(?=\s*m\d+\s*\])", re.IGNORECASE)
_LINE = re.compile(r"\n\s*")
_LOOKALIKE = {"<": "‹", ">": "›", "[": "("}


@lru_cache(maxsize=4096)
def inert(text: str) -> str:
    """`text` with nothing in it that could be taken for a fence, a reference mark or a chat template's control mark.

    Invisible and direction-changing characters are taken out. Lines after the first are indented, so that no line
    begins like one of ours. Words stay as they are.
    """
    text = _CONTROL.sub("", text)
    text = _FENCE.sub(lambda m: _LOOKALIKE[m.group()[0]] * len(m.group()), text)
    text = _CHAT_MARK.sub(lambda m: _LOOKALIKE[m.group()], text)
    text = _INST.sub("(", text)
    text = _REF.sub("(", text)
    return _LINE.sub("\n  ", text.strip())


def fenced(label: str, lines: Iterable[str]) -> str:
    """Lines between `<<<label` and `label>>>`. The lines must be inert already; no lines give an empty text."""
    body = "\n".join(lines)
    return f"<<<{label}\n{body}\n{label}>>>" if body else ""


def pack_line(ref: str, text: str, *, source: str = "", trust: float = 1.0) -> str:
    """One item of a pack: `[m1] (source, trust 0.6) text`; the trust is left out where it is full."""
    said = ", ".join(
        part for part in (inert(source).replace("\n", " "), f"trust {trust:g}" if trust < 1 else "") if part
    )
    return f"[{ref}] ({said}) {inert(text)}" if said else f"[{ref}] {inert(text)}"


def render_pack(items: Sequence[PackItem]) -> str:
    """The whole pack as an agent reads it; no items give an empty text."""
    return fenced("memory", (pack_line(i.ref, i.text, source=i.source, trust=i.trust) for i in items))
