"""The model as the rest of the worker uses it: documents in, chunks and vectors out.

Parsing, chunking and embedding never happen on the event loop. Parse processes prepare documents,
and embedding processes (or an endpoint) embed the batches that the batcher packs from all of them.
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
"""Counted by the default model's tokenizer, because an endpoint does not tell its own. Other
tokenizers make up to a third more tokens of a text, and most models read 512."""
MAX_CHUNK_TOKENS: Final = 510
"""512 with two special tokens. Models that read more get chunks of this size too: larger chunks
improve no search."""


class ModelPool:
    """The model with its parse and embedding processes. Use it as an asynchronous context manager.

    A process that dies or hangs is replaced, and its task runs once more; other tasks are not
    affected. The processes start with their first task.
    """

    info: ModelInfo
    """The model; set on entering."""
    engine: str
    """A description of what computes the vectors; set on entering."""

    def __init__(self, config: EmbeddingConfig) -> None:
        self.config = config
        self._open = AsyncExitStack()
        self._embedder: Embedder
        self._batcher: Batcher
        self._parsers: ParseProcesses

    async def __aenter__(self) -> Self:
        """Open the model; prepare it first if it is used for the first time.

        Raises ModelUnavailable if there is no such model, or its limit is less than the configured
        chunk length, and UsageError if the configured backend cannot compute it.
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
            backend = await self._open.enter_async_context(HttpBackend(config.endpoint))
            embedder: Embedder = backend
            self.engine = f"the endpoint at {backend.place}"
            self.info = await _endpoint_model(config, config.endpoint, backend)
            tokenizer = Path(model_location(DEFAULT_MODEL), TOKENIZER)
        else:
            entry = await prepare_model(config)
            processes = EmbeddingProcesses(config, entry)
            self._open.push_async_callback(processes.stop)
            embedder = processes
            self.engine = _describe_engine(entry.card)
            self.info = _local_model(config, entry.card)
            tokenizer = entry.folder / TOKENIZER
        parsing = ParseConfig(tokenizer, self.info.max_tokens, config.hybrid)
        self._parsers = ParseProcesses(config.parse_processes, parsing, config.max_document_bytes)
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
        """Read, parse and chunk ``document``, unless its content has the hash ``known_hash``.

        Raises DocumentRejected if it can never be prepared, or killed its process twice.
        """
        return await self._parsers.prepare(lane, document, known_hash)

    async def prepare_rest(self, lane: Lane, document: Document, rest: SegmentStart) -> Segment:
        """Read and chunk the next segment; raises what `prepare` raises, and SourceChanged."""
        return await self._parsers.prepare_rest(lane, document, rest)

    async def embed(self, lane: Lane, texts: Sequence[SizedText]) -> Vectors:
        """Embed chunks of documents; shape (texts, dimension).

        Raises DocumentRejected if one of them can never be embedded.
        """
        return await self._batcher.embed(lane, texts)

    async def embed_query(self, text: str) -> QueryVectors:
        """Return the dense and the sparse vector of a search query."""
        dense, sparse = await asyncio.gather(
            self._embedder.embed_query(text), self._parsers.encode_query(text)
        )
        return QueryVectors(dense.tolist(), sparse)


def _local_model(config: EmbeddingConfig, card: Card) -> ModelInfo:
    """Describe a model that runs on this machine.

    Raises ModelUnavailable if the configured chunk length exceeds the model's limit.
    """
    max_tokens = config.chunk_tokens
    if max_tokens is None:
        max_tokens = min(card.longest or MAX_CHUNK_TOKENS, MAX_CHUNK_TOKENS)
    if card.longest is not None and max_tokens > card.longest:
        raise ModelUnavailable(
            f"the model {config.model!r} reads at most {card.longest} tokens, but "
            f"INGESTQ_CHUNK_TOKENS is {max_tokens}; lower it"
        )
    return ModelInfo(config.model, card.revision, card.dimension, max_tokens, config.precision)


async def _endpoint_model(
    config: EmbeddingConfig, endpoint: HttpConfig, backend: HttpBackend
) -> ModelInfo:
    """Describe a model behind an endpoint.

    An endpoint names no revision. The prompt stands in for it, because it changes the vectors.
    """
    prompt = endpoint.document_prompt
    revision = f"endpoint, with the prompt {prompt!r}" if prompt else "endpoint"
    max_tokens = ENDPOINT_CHUNK_TOKENS if config.chunk_tokens is None else config.chunk_tokens
    return ModelInfo(config.model, revision, await backend.describe(), max_tokens)


def _describe_engine(card: Card) -> str:
    device = f" on {card.gpus} GPUs" if card.gpus else ""
    proof = card.proof
    near = "" if proof is None else f", cosine with the reference at least {proof.cosine_min:.5f}"
    return f"{card.engine} in {card.arithmetic}{device}{near}"
