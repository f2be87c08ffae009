"""Rules that settings may name: patterns, words, length, secrets. The others stand in modules of their own.

Each is a net with holes that its docstring names. None calls a model, none keeps a text.

The patterns of a project run on `regex`, not on `re`: a search of `re` holds the whole process until it ends, in
whatever thread it runs, and that of `(a+)+$` may take years. `regex` lets other threads run and stops in time.
"""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import Any, cast

import regex

from agentmesh.errors import ConfigError
from agentmesh.guardrails.base import EVERYWHERE, PASSED, Action, Verdict, Where, action_of, readable
from agentmesh.guardrails.spans import (
    Span,
    aside,
    count,
    number_option,
    text_option,
    texts_option,
    tokens_of,
    verdict_about,
    where_or,
)
from agentmesh.run import RunContext
from agentmesh.trace.redact import REDACTED, Redactor

__all__ = ["LengthRule", "PatternRule", "SecretsRule", "WordsRule"]

SEARCH_S = 1.0
"""Seconds that one pattern may search one text."""
MAX_PATTERN_CHARS = 10_000


class PatternRule:
    """Finds what regular expressions match.

    Does not find: anything beyond the first `MAX_CHARS` characters, for such a text is not checked at all; anything
    spelled otherwise than the pattern says. A match without a character (a lookahead alone) counts, but cannot be
    redacted. A search that is not done after `SEARCH_S` seconds counts as a failure, not as "nothing found".

    Args:
        pattern: One or several, in the syntax of `re`; `regex` runs them.
        ignore_case: Whether capital letters matter not.
        replacement: What stands in place of a match, with `redact`; taken as it is.
        name: What the trace calls the rule.
        where: One place or several.
        action: block, redact, flag or ask.

    Raises:
        ConfigError: If a pattern does not compile or matches the empty text.
    """

    def __init__(
        self,
        pattern: str | Sequence[str],
        *,
        ignore_case: bool = False,
        replacement: str = REDACTED,
        name: str = "pattern",
        where: str | Iterable[str] | None = None,
        action: str = Action.BLOCK,
    ) -> None:
        self.name = name
        self.where = where_or(where, EVERYWHERE, action)
        self.action = action_of(name, action, self.where)
        flags = regex.IGNORECASE if ignore_case else 0
        self._patterns = [_compiled(p, flags) for p in texts_option("pattern", pattern)]
        self._replacement = text_option("replacement", replacement)

    async def check(self, text: str, ctx: RunContext) -> Verdict:
        readable(text)
        spans = await asyncio.to_thread(self._search, text)
        if not spans:
            return PASSED
        if self.action is Action.REDACT and any(s.start == s.end for s in spans):
            raise ConfigError("a pattern matched a place without characters, which cannot be redacted; set `block`")
        which = sorted({s.what for s in spans}, key=int)
        each = "its pattern" if len(self._patterns) == 1 else f"pattern {' and '.join(which)} of {len(self._patterns)}"
        return verdict_about(self.action, text, spans, f"matches {each}", lambda _: self._replacement)

    def _search(self, text: str) -> list[Span]:
        spans: list[Span] = []
        for n, pattern in enumerate(self._patterns, start=1):
            try:
                found = pattern.finditer(text, timeout=SEARCH_S, concurrent=True)
                spans += [Span(match.start(), match.end(), str(n)) for match in found]
            except TimeoutError:
                raise ConfigError(
                    f"pattern {n} of {len(self._patterns)} searched longer than {SEARCH_S:g} s; "
                    "write it without repeats inside repeats"
                ) from None
        return spans


class WordsRule:
    """Finds words and phrases of a list: whole ones, in capitals or not.

    Full-width letters, ligatures, accents of either form and invisible characters make no difference; nor do spaces
    and line ends within a phrase. Chinese and Japanese are searched character by character.

    Does not find: other forms of a word ("refunds" where the list has "refund"), words with letters replaced or
    pulled apart, words within a run of Thai, Lao, Khmer or Burmese, which write no spaces.

    Args:
        words: The list; an entry may be a phrase.
        replacement: What stands in place of a word, with `redact`.
        name: What the trace calls the rule.
        where: One place or several.
        action: block, redact, flag or ask.
    """

    def __init__(
        self,
        words: str | Sequence[str],
        *,
        replacement: str = REDACTED,
        name: str = "words",
        where: str | Iterable[str] | None = None,
        action: str = Action.BLOCK,
    ) -> None:
        self.name = name
        self.where = where_or(where, EVERYWHERE, action)
        self.action = action_of(name, action, self.where)
        self._replacement = text_option("replacement", replacement)
        entries = [tuple(token for token, _, _ in tokens_of(word)) for word in texts_option("words", words)]
        if not all(entries):
            raise ConfigError("an entry of the option 'words' holds no word; take it out")
        self._entries = frozenset(entries)
        self._lengths = sorted({len(e) for e in entries}, reverse=True)

    async def check(self, text: str, ctx: RunContext) -> Verdict:
        spans = await aside(self._search, readable(text))
        if not spans:
            return PASSED
        reason = f"holds {count(len(spans), 'entry', 'entries')} of its list"
        return verdict_about(self.action, text, spans, reason, lambda _: self._replacement)

    def _search(self, text: str) -> list[Span]:
        tokens = tokens_of(text)
        names = [token for token, _, _ in tokens]
        spans: list[Span] = []
        n = 0
        while n < len(names):
            for length in self._lengths:
                if n + length <= len(names) and tuple(names[n : n + length]) in self._entries:
                    spans.append(Span(tokens[n][1], tokens[n + length - 1][2]))
                    n += length
                    break
            else:
                n += 1
        return spans


class LengthRule:
    """Finds texts that are too long or too short.

    Args:
        max_chars: Most characters; None: any number.
        min_chars: Least characters, blank space at the ends not counted.
        name: What the trace calls the rule.
        where: One place or several; the question if nothing is said.
        action: block, flag or ask.
    """

    def __init__(
        self,
        *,
        max_chars: int | None = None,
        min_chars: int = 0,
        name: str = "length",
        where: str | Iterable[str] | None = None,
        action: str = Action.BLOCK,
    ) -> None:
        self.name = name
        self.where = where_or(where, frozenset({Where.INPUT}), action)
        self.action = action_of(name, action, self.where, cannot=[Action.REDACT])
        self._least = number_option("min_chars", min_chars, least=0)
        self._most = None if max_chars is None else number_option("max_chars", max_chars, least=0)
        if self._most is None and self._least == 0:
            raise ConfigError("the rule 'length' has nothing to check; set the option 'max_chars' or 'min_chars'")
        if self._most is not None and self._most < self._least:
            raise ConfigError(f"the option 'max_chars' must be {self._least} or more, as 'min_chars' is")

    async def check(self, text: str, ctx: RunContext) -> Verdict:
        if self._most is not None and len(text) > self._most:
            return Verdict(action=self.action, reason=f"has {len(text)} characters, at most {self._most} are allowed")
        if len(stripped := text.strip()) < self._least:
            reason = f"has {len(stripped)} characters, at least {self._least} are wanted"
            return Verdict(action=self.action, reason=reason)
        return PASSED


class SecretsRule:
    """Finds keys and passwords that have a well-known shape: what `agentmesh.trace.redact` takes out of the trace.

    Does not find: secrets without a shape (a plain password), unless they are among `values`; encoded ones; ones cut
    by spaces or line ends.

    Args:
        values: Secrets to know besides the shapes. For Python only: they never stand in a file.
        name: What the trace calls the rule.
        where: One place or several.
        action: redact, block, flag or ask.
    """

    def __init__(
        self,
        *,
        values: Collection[str] = (),
        name: str = "secrets",
        where: str | Iterable[str] | None = None,
        action: str = Action.REDACT,
    ) -> None:
        self.name = name
        self.where = where_or(where, EVERYWHERE, action)
        self.action = action_of(name, action, self.where)
        self._redactor = Redactor(frozenset(v for v in values if v))

    async def check(self, text: str, ctx: RunContext) -> Verdict:
        cleaned = await aside(self._redactor.text, readable(text))
        if cleaned == text:
            return PASSED
        found = max(1, cleaned.count(REDACTED) - text.count(REDACTED))
        reason = f"holds {count(found, 'text', 'texts')} in the form of a key or password"
        return Verdict(
            action=self.action, reason=reason, found=found, text=cleaned if self.action is Action.REDACT else None
        )


def _compiled(pattern: str, flags: int) -> Any:
    if len(pattern) > MAX_PATTERN_CHARS:
        raise ConfigError(f"a pattern has {len(pattern)} characters, at most {MAX_PATTERN_CHARS} are taken; split it")
    shown = pattern if len(pattern) <= 40 else pattern[:39] + "…"
    try:
        compiled = cast("Any", regex).compile(pattern, flags)
        empty = compiled.search("", timeout=SEARCH_S)
    except (regex.error, ValueError, OverflowError, RecursionError, MemoryError, TimeoutError) as error:
        raise ConfigError(
            f"the pattern {shown!r} does not compile: {error}; correct the option 'pattern', "
            "in TOML best between single quotes"
        ) from error
    if empty:
        raise ConfigError(
            f"the pattern {shown!r} matches the empty text, so it would match everywhere; let it ask "
            "for one character at least"
        )
    return compiled
