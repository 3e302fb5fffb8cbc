"""The model as the rest of the worker uses it: documents in, chunks and vectors out.

Parsing, chunking and embedding never happen on the event loop. Two kinds of processes do it: some
prepare documents, others embed what the batcher packs of all of them.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ingestq.core.documents import Document, Lane
from ingestq.core.errors import ModelUnavailable
from worker.embedding.backends import Vectors
from worker.embedding.backends.http import HttpBackend
from worker.embedding.batcher import Batcher, Embedder
from worker.embedding.cache import TOKENIZER, Card
from worker.embedding.config import (
    DEFAULT_MODEL,
    EmbeddingConfig,
    HttpConfig,
    ModelInfo,
    model_location,
)
from worker.embedding.preparation import prepare_model
from worker.embedding.processes import EmbeddingProcesses
from worker.pipeline.points import QueryVectors
from worker.text.parts import PreparedDocument, Segment, SegmentStart, SizedText, UnchangedContent
from worker.text.processes import ParseConfig, ParseProcesses

ENDPOINT_CHUNK_TOKENS: Final = 384
"""Tokens are counted by the default model's tokenizer, because an endpoint does not tell its own.
Others cut text into up to a third more of them, and most models read 512."""
MAX_CHUNK_TOKENS: Final = 510
"""512 with two special ones. Models that read more get chunks of this size: a larger chunk answers
no question better."""


class ModelPool:
    """The model, as an asynchronous context manager.

    A child that dies or hangs is replaced; what it held is done once more, other work does not
    notice. The children start when there is something for them to do.
    """

    info: ModelInfo
    """What is computed; set on entering."""
    how: str
    """By what it is computed, in words; set on entering."""

    def __init__(self, config: EmbeddingConfig) -> None:
        self.config = config
        self._open = AsyncExitStack()
        self._embedder: Embedder
        self._batcher: Batcher
        self._parsers: ParseProcesses

    async def __aenter__(self) -> Self:
        """Make the model ready, should it be used for the first time.

        Raises ModelUnavailable if there is no such model, or if it reads no chunks as long as that,
        and UsageError if it cannot be computed as the configuration wants it.
        """
        try:
            await self._start()
        except BaseException:
            await self._open.aclose()
            raise
        return self

    async def _start(self) -> None:
        config = self.config
        if config.endpoint is not None:
            served = await self._open.enter_async_context(HttpBackend(config.endpoint))
            embedder: Embedder = served
            self.how = f"the endpoint at {served.place}"
            self.info = await _served(config, config.endpoint, served)
            tokenizer = Path(model_location(DEFAULT_MODEL), TOKENIZER)
        else:
            entry = await prepare_model(config)
            children = EmbeddingProcesses(config, entry)
            self._open.push_async_callback(children.stop)
            embedder = children
            self.how = _how(entry.card)
            self.info = _computed(config, entry.card)
            tokenizer = entry.folder / TOKENIZER
        preparing = ParseConfig(tokenizer, self.info.max_tokens, config.hybrid)
        self._parsers = ParseProcesses(config.parse_processes, preparing, config.max_document_bytes)
        self._open.push_async_callback(self._parsers.stop)
        self._embedder = embedder
        self._batcher = await self._open.enter_async_context(Batcher(embedder))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._open.aclose()

    async def prepare(
        self, lane: Lane, document: Document, known_hash: str | None
    ) -> PreparedDocument | UnchangedContent:
        """Read, extract and chunk ``document``, unless its content is ``known_hash``.

        Raises DocumentRejected if it can never be prepared, or killed its child twice.
        """
        return await self._parsers.prepare(lane, document, known_hash)

    async def prepare_rest(self, lane: Lane, document: Document, rest: SegmentStart) -> Segment:
        """Read and chunk the next part of ``document``. Raises as `prepare`, and SourceChanged."""
        return await self._parsers.prepare_rest(lane, document, rest)

    async def embed(self, lane: Lane, texts: Sequence[SizedText]) -> Vectors:
        """Embed chunks of documents; shape (texts, dimension).

        Raises DocumentRejected if one of them can never be embedded.
        """
        return await self._batcher.embed(lane, texts)

    async def embed_query(self, text: str) -> QueryVectors:
        """Embed what somebody searches for."""
        dense, sparse = await asyncio.gather(
            self._embedder.embed_query(text), self._parsers.encode_query(text)
        )
        return QueryVectors(dense.tolist(), sparse)


def _computed(config: EmbeddingConfig, card: Card) -> ModelInfo:
    """Describe a model that is computed here.

    Raises ModelUnavailable if chunks would be longer than what it reads.
    """
    longest = card.longest or MAX_CHUNK_TOKENS
    max_tokens = config.chunk_tokens or min(longest, MAX_CHUNK_TOKENS)
    if card.longest is not None and max_tokens > card.longest:
        raise ModelUnavailable(
            f"the model {config.model!r} reads up to {longest} tokens, and INGESTQ_CHUNK_TOKENS is "
            f"{max_tokens}"
        )
    return ModelInfo(config.model, card.revision, card.dimension, max_tokens, config.precision)


async def _served(config: EmbeddingConfig, endpoint: HttpConfig, backend: HttpBackend) -> ModelInfo:
    """Describe a model behind an endpoint.

    An endpoint names no revision: the prompt is all that is known of how documents become vectors.
    """
    prompt = endpoint.document_prompt
    revision = f"endpoint, with the prompt {prompt!r}" if prompt else "endpoint"
    max_tokens = config.chunk_tokens or ENDPOINT_CHUNK_TOKENS
    return ModelInfo(config.model, revision, await backend.describe(), max_tokens)


def _how(card: Card) -> str:
    device = f" on {card.gpus} GPUs" if card.gpus else ""
    proof = card.proof
    near = "" if proof is None else f", cosine with the reference at least {proof.cosine_min:.5f}"
    return f"{card.engine} in {card.arithmetic}{device}{near}"
