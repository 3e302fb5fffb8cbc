"""The model as the rest of the worker uses it: documents in, chunks and vectors out.

Parsing, chunking and embedding never happen on the event loop. Parse processes prepare documents,
and embedding processes (or an endpoint) embed the batches that the batcher packs from all of them.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from ingestq.core.documents import Document, Lane
from ingestq.core.errors import ModelUnavailable
from ingestq.core.service import uninterrupted
from ingestq.core.tracing import Kind, span
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
from worker.process_pool.limits import LimitsReport, ProcessKind
from worker.text.config import HookVersions
from worker.text.parts import (
    ExtractedDocument,
    PreparedDocument,
    Segment,
    SegmentStart,
    SizedText,
    UnchangedContent,
)
from worker.text.processes import ParseConfig, ParseProcesses

EMBEDDINGS: Final = "embeddings"
"""The name of the operation in spans."""
LOCAL_PROVIDER: Final = "ingestq"
ENDPOINT_PROVIDER: Final = "openai"
"""The provider of the model in spans; an endpoint is compatible with OpenAI's."""
ENDPOINT_CHUNK_TOKENS: Final = 384
"""Counted by the default model's tokenizer, because an endpoint does not tell its own. Other
tokenizers make up to a third more tokens of a text, and most models read 512."""
MAX_CHUNK_TOKENS: Final = 510
"""512 with two special tokens. Models that read more get chunks of this size too: larger chunks
improve no search."""


class ModelPool:
    """The model with its parse and embedding processes. Use it as an asynchronous context manager.

    A process that dies or hangs is replaced, and its task runs once more; other tasks are not
    affected. The processes start with `begin` or the first document.
    """

    info: ModelInfo
    """The model; set on entering."""
    engine: str
    """A description of what computes the vectors; set on entering."""

    def __init__(self, config: EmbeddingConfig) -> None:
        self.config = config
        self._open = AsyncExitStack()
        self._embedder: Embedder
        self._processes: EmbeddingProcesses | None = None
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
            await uninterrupted(self._open.aclose())
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
            embedder = self._processes = EmbeddingProcesses(config, entry)
            self.engine = _describe_engine(entry.card)
            self.info = _local_model(config, entry.card)
            tokenizer = entry.folder / TOKENIZER
        parsing = ParseConfig(
            tokenizer,
            self.info.max_tokens,
            config.hybrid,
            config.max_document_bytes,
            config.reading,
        )
        self._parsers = ParseProcesses(config.parse_processes, parsing, config.parse_limits)
        self._open.push_async_callback(self._stop_processes)
        self._embedder = embedder
        self._batcher = await self._open.enter_async_context(Batcher(embedder))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await uninterrupted(self._open.aclose())

    async def _stop_processes(self) -> None:
        stopping = [self._parsers.stop()]
        if self._processes is not None:
            stopping.append(self._processes.stop())
        await asyncio.gather(*stopping)

    def begin(self) -> None:
        """Start a process of each kind before there is a document."""
        self._parsers.begin()
        if self._processes is not None:
            self._processes.begin()

    def start_seconds(self) -> dict[ProcessKind, float]:
        """Return the time that the first process of each kind took to be ready, if it is."""
        seconds = {ProcessKind.PARSE: self._parsers.start_seconds}
        if self._processes is not None:
            seconds[ProcessKind.EMBEDDING] = self._processes.start_seconds
        return {kind: taken for kind, taken in seconds.items() if taken is not None}

    @property
    def is_warm(self) -> bool | None:
        """True if processes of each kind are ready; None if they start with the first document."""
        embedders = self._processes
        has_begun = [self._parsers.has_begun, embedders is not None and embedders.has_begun]
        if not any(has_begun):
            return None
        kinds = [ProcessKind.PARSE, ProcessKind.EMBEDDING]
        ready = self.start_seconds()
        return all(kind in ready for kind, begun in zip(kinds, has_begun, strict=True) if begun)

    async def hook_versions(self) -> HookVersions:
        """Return the versions of the hooks; no others are run from now on.

        Raises UsageError if one cannot be loaded.
        """
        return await self._parsers.hook_versions()

    async def prepare(
        self, lane: Lane, document: Document, known_hash: str | None
    ) -> PreparedDocument | UnchangedContent:
        """Read, parse and chunk ``document``, unless its content has the hash ``known_hash``.

        Raises DocumentRejected if it can never be prepared, or killed its process twice.
        """
        if self._processes is not None:
            self._processes.begin()  # so that the model is loaded while the document is parsed
        with span("prepare", "internal", {"ingestq.media_type": document.media_type or ""}):
            return await self._parsers.prepare(lane, document, known_hash)

    async def prepare_rest(self, lane: Lane, document: Document, rest: SegmentStart) -> Segment:
        """Read and chunk the next segment; raises what `prepare` raises, and SourceChanged."""
        with span("prepare", "internal", {"ingestq.media_type": document.media_type or ""}):
            return await self._parsers.prepare_rest(lane, document, rest)

    async def prepare_stored(
        self, lane: Lane, document: Document, stored: ExtractedDocument
    ) -> PreparedDocument:
        """Chunk what is ``stored`` of ``document``; raises what `prepare` raises."""
        return await self._parsers.prepare_stored(lane, document, stored)

    async def embed(self, lane: Lane, texts: Sequence[SizedText]) -> Vectors:
        """Embed chunks of documents; shape (texts, dimension).

        They share batches with those of other documents; a span lasts until all of them are done.
        Raises DocumentRejected if one of them can never be embedded.
        """
        local = self.config.endpoint is None
        attributes = {
            "gen_ai.operation.name": EMBEDDINGS,
            "gen_ai.provider.name": LOCAL_PROVIDER if local else ENDPOINT_PROVIDER,
            "gen_ai.request.model": self.info.name,
            "gen_ai.embeddings.dimension.count": self.info.dimension,
            "ingestq.chunks": len(texts),
        }
        kind: Kind = "internal" if local else "client"
        with span(f"{EMBEDDINGS} {self.info.name}", kind, attributes) as embedding:
            if embedding.is_recording:
                tokens = sum(text.tokens for text in texts)
                embedding.set({"gen_ai.usage.input_tokens": tokens})
            return await self._batcher.embed(lane, texts)

    async def embed_query(self, text: str) -> QueryVectors:
        """Return the dense and the sparse vector of a search query."""
        dense, sparse = await asyncio.gather(
            self._embedder.embed_query(text), self._parsers.encode_query(text)
        )
        return QueryVectors(dense.tolist(), sparse)

    async def report_limits(self) -> dict[ProcessKind, LimitsReport]:
        """Return the limits that are in force in a process of each kind."""
        reports = {ProcessKind.PARSE: await self._parsers.report_limits()}
        if self._processes is not None:
            reports[ProcessKind.EMBEDDING] = await self._processes.report_limits()
        return reports


def _local_model(config: EmbeddingConfig, card: Card) -> ModelInfo:
    """Describe a model that runs on this machine.

    Raises ModelUnavailable if the configured chunk length or dimension exceeds the model's.
    """
    max_tokens = config.chunk_tokens
    if max_tokens is None:
        max_tokens = min(card.longest or MAX_CHUNK_TOKENS, MAX_CHUNK_TOKENS)
    if card.longest is not None and max_tokens > card.longest:
        raise ModelUnavailable(
            f"the model {config.model!r} reads at most {card.longest} tokens, but "
            f"INGESTQ_CHUNK_TOKENS is {max_tokens}; lower it"
        )
    dimension, is_truncated = _dimension(config, card.dimension)
    return ModelInfo(
        config.model, card.revision, dimension, max_tokens, config.precision, is_truncated
    )


def _dimension(config: EmbeddingConfig, of_model: int) -> tuple[int, bool]:
    """Return the dimension of vectors, and whether those of the model are truncated to it.

    Raises ModelUnavailable if the model's vectors are shorter than configured.
    """
    if config.dimensions is None:
        return of_model, False
    if config.dimensions > of_model:
        raise ModelUnavailable(
            f"the vectors of {config.model!r} have {of_model} dimensions, but INGESTQ_DIMENSIONS "
            f"is {config.dimensions}; lower it, or leave it out"
        )
    return config.dimensions, config.dimensions < of_model


async def _endpoint_model(
    config: EmbeddingConfig, endpoint: HttpConfig, backend: HttpBackend
) -> ModelInfo:
    """Describe a model behind an endpoint.

    An endpoint names no revision. The prompt and the fields of the body stand in for it, because
    they change the vectors; of the fields, which may be long, only a digest.
    """
    prompt = endpoint.document_prompt
    revision = f"endpoint, with the prompt {prompt!r}" if prompt else "endpoint"
    if endpoint.body:
        body = msgspec.json.encode(endpoint.body, order="sorted")
        revision += f", with a body of digest {hashlib.blake2b(body, digest_size=6).hexdigest()}"
    max_tokens = ENDPOINT_CHUNK_TOKENS if config.chunk_tokens is None else config.chunk_tokens
    dimension, is_truncated = _dimension(config, await backend.describe())
    is_truncated |= endpoint.asks_for_dimensions and config.dimensions is not None
    return ModelInfo(config.model, revision, dimension, max_tokens, truncated=is_truncated)


def _describe_engine(card: Card) -> str:
    device = f" on {card.gpus} GPUs" if card.gpus else ""
    proof = card.proof
    near = "" if proof is None else f", cosine with the reference at least {proof.cosine_min:.5f}"
    return f"{card.engine} in {card.arithmetic}{device}{near}"
