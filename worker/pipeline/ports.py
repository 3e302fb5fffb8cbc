"""The ports of the pipeline: what it needs from the model, the stores and the blob store."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ingestq.core.documents import Document, Lane
from worker.pipeline.memory_budget import MemoryBudget
from worker.pipeline.points import (
    BeginResult,
    ChunkPoint,
    DocumentKey,
    Fence,
    LedgerEntry,
    Rejection,
)
from worker.text.parts import (
    ExtractedDocument,
    PreparedDocument,
    Segment,
    SegmentStart,
    SizedText,
    UnchangedContent,
)


class NotModified(Exception):
    """The site of a web page says that it is as the document's ``file`` says."""


Progress = Callable[[int, int], None]
"""Called with how many chunks are done, and how many became known, since the last call."""


class Model(Protocol):
    """Chunks documents and embeds chunks, for one lane; see `worker.embedding.pool.ModelPool`."""

    async def prepare(
        self, lane: Lane, document: Document, known_hash: str | None
    ) -> PreparedDocument | UnchangedContent: ...

    async def prepare_rest(self, lane: Lane, document: Document, rest: SegmentStart) -> Segment: ...

    async def prepare_stored(
        self, lane: Lane, document: Document, stored: ExtractedDocument
    ) -> PreparedDocument: ...

    async def embed(self, lane: Lane, texts: Sequence[SizedText]) -> npt.NDArray[np.float32]: ...


class Preparation:
    """Prepares documents with ``model``: the part that models around another one share."""

    def __init__(self, model: Model) -> None:
        self._model = model

    async def prepare(
        self, lane: Lane, document: Document, known_hash: str | None
    ) -> PreparedDocument | UnchangedContent:
        """See `worker.pipeline.ports.Model`."""
        return await self._model.prepare(lane, document, known_hash)

    async def prepare_rest(self, lane: Lane, document: Document, rest: SegmentStart) -> Segment:
        """See `worker.pipeline.ports.Model`."""
        return await self._model.prepare_rest(lane, document, rest)

    async def prepare_stored(
        self, lane: Lane, document: Document, stored: ExtractedDocument
    ) -> PreparedDocument:
        """See `worker.pipeline.ports.Model`."""
        return await self._model.prepare_stored(lane, document, stored)


class ChunkStore(Protocol):
    """The chunks in the index; see `worker.store.chunks.QdrantStore`."""

    async def upsert(self, points: Sequence[ChunkPoint], fence: Fence) -> None: ...

    async def delete_stale(self, entry: LedgerEntry) -> int: ...

    async def vectors(self, ids: Iterable[str]) -> dict[str, list[float]]: ...

    async def vectors_of(self, hashes: Mapping[str, str]) -> dict[str, list[float]]: ...


class Ledger(Protocol):
    """One entry a document, which says what is indexed; see `worker.store.ledger.QdrantLedger`."""

    async def look_up(self, keys: Iterable[DocumentKey]) -> dict[DocumentKey, LedgerEntry]: ...

    async def begin(self, entry: LedgerEntry, seen: LedgerEntry | None) -> BeginResult: ...

    async def advance(self, entry: LedgerEntry) -> LedgerEntry: ...

    async def note_deletion(self, seen: LedgerEntry, deleted_at: int) -> bool: ...

    async def confirm(self, seen: LedgerEntry, now: LedgerEntry) -> bool: ...

    async def reject(
        self, rejections: Mapping[DocumentKey, Rejection]
    ) -> frozenset[DocumentKey]: ...

    async def other_forms(self, key: DocumentKey) -> list[LedgerEntry]: ...

    async def copy_of(self, key: DocumentKey, bytes_hash: str) -> str | None: ...

    def with_bytes(
        self, tenant: str, hashes: Iterable[str]
    ) -> AsyncIterator[Sequence[LedgerEntry]]: ...

    def in_folder(self, tenant: str, folder: str) -> AsyncIterator[Sequence[LedgerEntry]]: ...


class Contents(Protocol):
    """Gives access to content in the blob store; see `worker.blobs.BlobContents`.

    Raises `NotModified` if the ``file`` of the document is a state that the site still has.
    """

    def as_file(self, document: Document) -> AbstractAsyncContextManager[Document]: ...


@dataclass(frozen=True)
class Ports:
    """What the pipeline works with, for one collection.

    A ``donor`` is another collection with vectors of the same model: a chunk that it holds is not
    embedded again. ``memory`` bounds the chunks in memory, and may be shared by collections.
    ``enriched_by`` names the hook that adds metadata, with its version; empty if there is none.
    """

    model: Model
    chunks: ChunkStore
    ledger: Ledger
    contents: Contents
    donor: ChunkStore | None = None
    memory: MemoryBudget = field(default_factory=MemoryBudget)
    enriched_by: str = ""
