"""Counts and cuts text in tokens of a given model, offline. Not a tokenizer: no ids leave this module.

tiktoken would download its encodings; the litellm wheel ships them in tiktoken's own cache layout, so they are read
from there (measured with litellm 1.106 and tiktoken 0.12), without importing litellm.
"""

import os
import threading
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from agentmesh.errors import ConfigError

if TYPE_CHECKING:
    from tiktoken import Encoding

__all__ = ["TokenCounter", "counter_for"]

DEFAULT_ENCODING = "cl100k_base"
"""Counts for models that tiktoken does not know; our choice: it takes somewhat more tokens than newer encodings."""
CACHE_FILES = {
    "cl100k_base": "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
    "o200k_base": "fb374d419588a4632f3f557e76b4b70aebbca790",
    "o200k_harmony": "fb374d419588a4632f3f557e76b4b70aebbca790",
    "p50k_base": "ec7223a39ce59f226a68acc30dc1af2788490e15",
    "p50k_edit": "ec7223a39ce59f226a68acc30dc1af2788490e15",
    "r50k_base": "0ea1e91bbb3a60f729a8dc8f777fd2fc07cd8df4",
}
"""File of each encoding in tiktoken's cache: the SHA-1 of the address that it would be fetched from."""
LONGEST_TOKEN = 128
"""Bytes of the longest token of the encodings above."""
PIECE_CHARS = 16_384
"""Longer texts are encoded in pieces: the pattern of o200k_base overflows its stack on a very long run of spaces."""
CACHED_CHARS = 8_192
"""Counts of longer texts are not remembered, so that the cache stays small."""

_loading = threading.Lock()


class TokenCounter:
    """Counts tokens of one model. Safe to share between threads."""

    def __init__(self, encoding: "Encoding", *, name: str, exact: bool) -> None:
        self.name = name
        """What counts, and for which model it only approximates."""
        self.exact = exact
        """Whether the model itself would count the same."""
        self._encoding = encoding
        self._remembered = lru_cache(maxsize=4096)(self._count)

    def count(self, text: str) -> int:
        """Tokens of `text`; names of special tokens in it count as plain text. Time grows linearly with its length."""
        return self._remembered(text) if len(text) <= CACHED_CHARS else self._count(text)

    def cut(self, text: str, most: int) -> str:
        """The longest beginning of `text` that this finds with at most `most` tokens, never inside a character."""
        if most <= 0:
            return ""
        head = text[: most * LONGEST_TOKEN]
        tokens = [t for piece in _pieces(head) for t in self._encoding.encode_ordinary(piece)]
        if len(tokens) <= most and len(head) == len(text):
            return text
        kept = min(most, len(tokens))
        while kept > 0:
            whole = self._encoding.decode_bytes(tokens[:kept]).decode("utf-8", errors="ignore")
            result = head[: len(whole)]
            if self._count(result) <= most:
                return result
            kept -= 1
        return ""

    def __repr__(self) -> str:
        return f"TokenCounter({self.name!r})"

    def _count(self, text: str) -> int:
        return sum(len(self._encoding.encode_ordinary(piece)) for piece in _pieces(text))


def counter_for(model: str) -> TokenCounter:
    """The counter for a model: exact if tiktoken knows it, else an approximation that says so in its name.

    Args:
        model: A model name, with or without provider prefixes (`openai/gpt-4o`), or the name of an encoding.

    Raises:
        ConfigError: If the files of the default encoding are nowhere on this machine.
    """
    return _counter(model)


@lru_cache(maxsize=256)
def _counter(model: str) -> TokenCounter:
    known = _encoding_name(model)
    if known is not None and _folder_of(known) is not None:
        return TokenCounter(_encoding(known), name=known, exact=True)
    about = f" for {model}" if model else ""
    return TokenCounter(_encoding(DEFAULT_ENCODING), name=f"{DEFAULT_ENCODING} (approximate{about})", exact=False)


def _encoding_name(model: str) -> str | None:
    """The encoding that tiktoken uses for this model, trying it without its prefixes too."""
    from tiktoken.model import encoding_name_for_model

    if model in CACHE_FILES:
        return model
    rest = model
    while rest:
        try:
            return encoding_name_for_model(rest)
        except KeyError:
            _, _, rest = rest.partition("/")
    return None


@cache
def _encoding(name: str) -> "Encoding":
    """Load an encoding from the folder that holds it; the environment is as before afterwards."""
    import tiktoken

    folder = _folder_of(name)
    if folder is None:
        raise ConfigError(
            f"no tokenizer files of {name!r} are on this machine; reinstall litellm, which ships them, or point "
            "TIKTOKEN_CACHE_DIR at a folder that holds them"
        )
    with _loading:
        before = os.environ.get("TIKTOKEN_CACHE_DIR")
        os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
        try:
            return tiktoken.get_encoding(name)
        finally:
            if before is None:
                del os.environ["TIKTOKEN_CACHE_DIR"]
            else:
                os.environ["TIKTOKEN_CACHE_DIR"] = before


def _folder_of(name: str) -> Path | None:
    """Where the file of this encoding lies: the user's cache folder first, then litellm's."""
    file = CACHE_FILES.get(name)
    folders = [Path(f) for f in (os.environ.get("TIKTOKEN_CACHE_DIR"),) if f]
    spec = find_spec("litellm")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folders.append(Path(location) / "litellm_core_utils" / "tokenizers")
    return next((f for f in folders if file and (f / file).is_file()), None)


def _pieces(text: str) -> Iterator[str]:
    """Cut a long text between two words, where the encodings' patterns cut it as well; hard where there is no gap."""
    start = 0
    while len(text) - start > PIECE_CHARS:
        end = start + PIECE_CHARS
        gap = end
        while gap > start + PIECE_CHARS // 2 and not (
            text[gap] == " " and text[gap - 1].isalpha() and text[gap + 1 : gap + 2].isalpha()
        ):
            gap -= 1
        end = gap if gap > start + PIECE_CHARS // 2 else end
        yield text[start:end]
        start = end
    yield text[start:]
