"""What the pipeline needs of its neighbours, whoever they are."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ingestq.core.documents import Document, Lane
from worker.pipeline.memory_budget import MemoryBudget
from worker.pipeline.points import BeginResult, ChunkPoint, DocumentKey, Fence, LedgerEntry
from worker.text.parts import PreparedDocument, Segment, SegmentStart, SizedText, UnchangedContent

Progress = Callable[[int, int], None]
"""Called with the chunks that were done and became known since the last call."""


class Model(Protocol):
    """Chunks documents and embeds chunks, for one lane; see `worker.embedding.pool.ModelPool`."""

    async def prepare(
        self, lane: Lane, document: Document, known_hash: str | None
    ) -> PreparedDocument | UnchangedContent: ...

    async def prepare_rest(self, lane: Lane, document: Document, rest: SegmentStart) -> Segment: ...

    async def embed(self, lane: Lane, texts: Sequence[SizedText]) -> npt.NDArray[np.float32]: ...


class ChunkStore(Protocol):
    """The chunks in the index; see `worker.store.chunks.QdrantStore`."""

    async def upsert(self, points: Sequence[ChunkPoint], fence: Fence) -> None: ...

    async def delete_stale(self, entry: LedgerEntry) -> int: ...

    async def vectors(self, ids: Iterable[str]) -> dict[str, list[float]]: ...


class Ledger(Protocol):
    """What is indexed; see `worker.store.ledger.QdrantLedger`."""

    async def look_up(self, keys: Iterable[DocumentKey]) -> dict[DocumentKey, LedgerEntry]: ...

    async def begin(self, entry: LedgerEntry) -> BeginResult: ...

    async def advance(self, entry: LedgerEntry) -> LedgerEntry: ...

    async def confirm(self, seen: LedgerEntry, now: LedgerEntry) -> bool: ...

    def in_folder(self, tenant: str, folder: str) -> AsyncIterator[Sequence[LedgerEntry]]: ...


class Contents(Protocol):
    """What came through the blob store; see `worker.blobs.BlobContents`."""

    def at_hand(self, document: Document) -> AbstractAsyncContextManager[Document]: ...


@dataclass(frozen=True)
class Ports:
    """The pipeline's neighbours.

    A ``donor`` has vectors of the same model: what it has need not be embedded. ``memory`` bounds
    what is held in memory.
    """

    model: Model
    chunks: ChunkStore
    ledger: Ledger
    contents: Contents
    donor: ChunkStore | None = None
    memory: MemoryBudget = field(default_factory=MemoryBudget)
