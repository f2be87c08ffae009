"""Embeddings of any provider that LiteLLM knows, by its model id."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from agentmesh.errors import ModelReplyError
from agentmesh.models.litellm import LiteLLMClient, known_models
from agentmesh.models.wire import valid_text
from agentmesh.settings import ModelSettings

__all__ = ["LiteLLMEmbedder"]

BATCH = 128
"""Texts in one request; every provider that we know takes as many."""
LONGEST_CHARS = 24_000
"""A text is cut here: about the 8,000 tokens that embedding models take."""


class LiteLLMEmbedder:
    """Turns texts into unit vectors with a provider's embedding model.

    Args:
        model: LiteLLM id, e.g. `openai/text-embedding-3-small`.
        dimensions: Length of the vectors; absent: as in LiteLLM's list, else known after the first call.
        settings: Where and how to reach the provider; absent: its usual address and key.
    """

    def __init__(self, model: str, *, dimensions: int | None = None, settings: ModelSettings | None = None) -> None:
        self._model, self._settings = model, settings or ModelSettings(model=model)
        self._client = LiteLLMClient(model, self._settings)
        known = known_models().get(model) or known_models().get(model.partition("/")[2]) or {}
        self._dimensions = dimensions or int(known.get("output_vector_size") or 0)

    @property
    def name(self) -> str:
        return self._model

    @property
    def dimensions(self) -> int:
        """0 until the first call, if LiteLLM's list does not have it."""
        return self._dimensions

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See `Embedder`.

        Raises:
            ModelError: One of its kinds, as `ChatModel.complete` does.
        """
        rows: dict[int, Sequence[float]] = {}
        wanted = [place for place, text in enumerate(texts) if text.strip()]
        for start in range(0, len(wanted), BATCH):
            part = wanted[start : start + BATCH]
            vectors = await self._ask([valid_text(texts[place][:LONGEST_CHARS]) for place in part])
            rows.update(zip(part, vectors, strict=True))
        lengths = {len(row) for row in rows.values()}
        if rows and not self._dimensions and len(lengths) == 1:
            self._dimensions = lengths.pop()
        elif lengths - {self._dimensions}:
            raise ModelReplyError(
                f"{self._model!r} sent vectors of {max(lengths)} numbers instead of {self._dimensions}; check the model"
            )
        found = np.zeros((len(texts), self._dimensions), dtype=np.float32)
        for place, row in rows.items():
            found[place] = row
        norms = np.linalg.norm(found, axis=1, keepdims=True)
        return found / np.where(norms == 0, 1, norms).astype(np.float32)

    async def aclose(self) -> None:
        """Free the HTTP clients. May be called twice."""
        await self._client.aclose()

    async def _ask(self, texts: list[str]) -> list[Sequence[float]]:
        router, gate = await self._client.ready()
        timeout_s = self._settings.timeout_s
        total_s = timeout_s * (self._settings.retries + 1) * (len(self._settings.fallbacks) + 1)
        with self._client.as_ours(total_s):
            async with asyncio.timeout(total_s), gate:
                reply = await router.aembedding(model=self._model, input=texts, timeout=timeout_s)
        try:
            listed = cast("list[Mapping[str, Any]]", [dict(row) for row in reply.data])
            vectors = [row["embedding"] for row in sorted(listed, key=lambda row: row.get("index") or 0)]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ModelReplyError(
                f"{self._model!r} sent something that is no list of vectors; check the model"
            ) from error
        if len(vectors) != len(texts):
            raise ModelReplyError(f"{self._model!r} sent {len(vectors)} vectors for {len(texts)} texts; ask again")
        return vectors
