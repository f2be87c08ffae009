"""Embeddings without torch, without a network and without a download: WordLlama's 256-dimensional static vectors.

A text is the mean of the vectors of its tokens, so word order is not seen; a thousand short texts take about 10 ms.
"""

import asyncio
import importlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from agentmesh.errors import ModelWeightsError
from agentmesh.models.wire import valid_text

__all__ = ["WordLlamaEmbedder"]

DIMENSIONS = 256
LONGEST_CHARS = 20_000
"""A text is cut here, at about 5,000 tokens: the mean of that many vectors hardly moves with more."""
INLINE_CHARS = 4_000
"""Batches up to this many characters are embedded in the event loop's own thread: below about 1 ms."""
REMEMBERED = 2_048
"""Short single texts whose vectors are kept, newest used: questions and facts come back in every round."""


class _Inference(Protocol):
    """What we use of `wordllama.WordLlamaInference`."""

    def embed(self, texts: list[str], norm: bool = ..., batch_size: int = ...) -> NDArray[np.float32]: ...


class WordLlamaEmbedder:
    """Turns texts into unit vectors of 256 numbers; weights are loaded on first use, once per process."""

    def __init__(self) -> None:
        self._recent: OrderedDict[str, NDArray[np.float32]] = OrderedDict()

    @property
    def name(self) -> str:
        return f"wordllama-{DIMENSIONS}"

    @property
    def dimensions(self) -> int:
        return DIMENSIONS

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See `Embedder`; raises `ModelWeightsError` if the installed package is damaged."""
        cut = [text[:LONGEST_CHARS] for text in texts]
        vectors = np.zeros((len(cut), DIMENSIONS), dtype=np.float32)
        missing: list[int] = []
        for place, text in enumerate(cut):
            known = self._recent.get(text)
            if known is not None:
                self._recent.move_to_end(text)
                vectors[place] = known
            elif text.strip():
                missing.append(place)
        if not missing:
            return vectors
        wanted = [cut[place] for place in missing]
        if _loaded is not None and sum(map(len, wanted)) <= INLINE_CHARS:
            fresh = _embed(wanted)
        else:
            fresh = await asyncio.to_thread(_embed, wanted)
        vectors[missing] = fresh
        for place, row in zip(missing, fresh, strict=True):
            if len(cut[place]) <= INLINE_CHARS:
                self._recent[cut[place]] = row
        while len(self._recent) > REMEMBERED:
            self._recent.popitem(last=False)
        return vectors


_loaded: _Inference | None = None
_loading = threading.Lock()


def _embed(texts: list[str]) -> NDArray[np.float32]:
    """Unit vectors of texts that are not blank. One batch holds texts of similar length, for short ones are padded."""
    model = _load()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    vectors = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
    start = 0
    while start < len(order):
        longest, end = len(texts[order[start]]), start
        # At most 64 texts and about 100,000 padded characters: bounds the memory of one batch.
        while end < len(order) and end - start < 64:
            longest = max(longest, len(texts[order[end]]))
            if end > start and longest * (end - start + 1) > 100_000:
                break
            end += 1
        part = order[start:end]
        vectors[part] = model.embed([valid_text(texts[i]) for i in part])
        start = end
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms == 0, 1, norms).astype(np.float32)


def _load() -> _Inference:
    """The weights, loaded once."""
    global _loaded
    with _loading:
        if _loaded is not None:
            return _loaded
        spec = find_spec("wordllama")
        if spec is None or spec.origin is None:
            raise ModelWeightsError("the package wordllama is not installed; run `pip install wordllama`")
        # Its loader looks for the tokenizer in `tokenizer/`, the wheel has it in `tokenizers/`, which it only
        # searches below its cache folder.
        folder = Path(spec.origin).parent
        root = logging.getLogger()
        level, handlers = root.level, list(root.handlers)
        try:
            wordllama = cast(Any, importlib.import_module("wordllama"))
            model = wordllama.WordLlama.load(cache_dir=folder, dim=DIMENSIONS, disable_download=True)
        except (OSError, ValueError, ImportError) as error:
            raise ModelWeightsError(
                f"the weights of wordllama cannot be read ({type(error).__name__}); reinstall the package wordllama"
            ) from error
        finally:
            # Importing it configures the root logger, which belongs to the application.
            for handler in [h for h in root.handlers if h not in handlers]:
                root.removeHandler(handler)
            root.setLevel(level)
        _loaded = cast(_Inference, model)
        return _loaded
