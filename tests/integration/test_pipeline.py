"""The index is made equal to documents: real model, real pool, real Qdrant."""

import dataclasses
import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from ingestq.core.documents import Deletion, Document, Lane
from ingestq.core.paths import file_state
from ingestq.core.results import ChunkCounts
from worker.blobs import BlobContents
from worker.embedding.pool import ModelPool
from worker.pipeline.ingest import (
    Deleted,
    Indexed,
    Outcome,
    Superseded,
    Unchanged,
    Work,
    delete,
    ingest,
)
from worker.pipeline.points import ChunkPoint, DocumentKey, Fence, LedgerEntry
from worker.pipeline.ports import Ports, Progress
from worker.store.chunks import QdrantStore
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames
from worker.store.ledger import QdrantLedger
from worker.text.chunking.chunker import SEGMENT_CHARACTERS
from worker.text.parts import SizedText

LATER = time.time() + 3600
PARAGRAPHS = [
    f"Paragraph {i} tells of {topic}. " + f"It goes on about {topic} for a while. " * 24
    for i, topic in enumerate(["tides", "geese", "lamps", "bread", "ropes", "bells"])
]


@dataclass(frozen=True)
class Index:
    """The pipeline with its real ports, and access to what they hold."""

    ports: Ports
    store: QdrantStore
    qdrant: Qdrant
    names: CollectionNames
    attempts: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    async def put(self, text: str, version: int, doc_id: str = "d", **more: Any) -> Outcome:
        document = Document(doc_id=doc_id, version=version, source=doc_id, text=text, **more)
        return await self.ingest(document)

    async def ingest(
        self, document: Document, progress: Progress = lambda done, known: None
    ) -> Outcome:
        key = DocumentKey(document.tenant, document.doc_id)
        entries = await self.ports.ledger.look_up([key])
        work = Work(document, entries.get(key), next(self.attempts))
        return await ingest(work, self.ports, progress)

    async def delete(self, version: int, doc_id: str = "d") -> Outcome:
        deletion = Deletion(doc_id=doc_id, version=version)
        return await delete(deletion, next(self.attempts), self.ports)

    async def texts(self, doc_id: str = "d") -> list[str]:
        """Return the stored texts of a document, in order."""
        records, _ = await self.qdrant.ask(
            lambda client: client.scroll(self.names.chunks, limit=1000, with_payload=True)
        )
        payloads = [record.payload or {} for record in records]
        mine = [payload for payload in payloads if payload["doc_id"] == doc_id]
        return [p["page_content"] for p in sorted(mine, key=lambda p: int(p["chunk_index"]))]


@pytest.fixture
async def index(qdrant: Qdrant, model: ModelPool, collection: CollectionNames) -> Index:
    store = QdrantStore(qdrant, collection.chunks)
    ports = Ports(
        model,
        store,
        QdrantLedger(qdrant, collection.ledger),
        BlobContents(),
    )
    return Index(ports, store, qdrant, collection)


def text(*paragraphs: int) -> str:
    return "\n\n".join(PARAGRAPHS[i] for i in paragraphs)


async def test_an_edit_embeds_only_new_chunks_and_deletes_stale_ones(index: Index) -> None:
    first = await index.put(text(0, 1, 2, 3), 1)
    assert first == Indexed(ChunkCounts(embedded=4))
    assert await index.put(text(0, 1, 4, 3), 2) == Indexed(
        ChunkCounts(embedded=1, reused=3, deleted=1)
    )
    assert await index.texts() == [PARAGRAPHS[i].strip() for i in (0, 1, 4, 3)]


async def test_chunks_that_move_keep_their_vectors(index: Index) -> None:
    await index.put(text(0, 1, 2), 1)
    assert await index.put(text(2, 0, 1), 2) == Indexed(ChunkCounts(reused=3))
    assert await index.texts() == [PARAGRAPHS[i].strip() for i in (2, 0, 1)]


async def test_a_document_that_shrinks_leaves_no_stale_chunks(index: Index) -> None:
    await index.put(text(0, 1, 2, 3), 1)
    assert await index.put(text(1), 2) == Indexed(ChunkCounts(reused=1, deleted=3))
    assert await index.store.count() == 1


async def test_the_same_content_is_unchanged(index: Index) -> None:
    await index.put(text(0), 1)
    assert await index.put(text(0), 2) == Unchanged()
    assert await index.store.count() == 1


async def test_new_metadata_is_written_without_embedding(index: Index) -> None:
    await index.put(text(0), 1)
    outcome = await index.put(text(0), 2, metadata={"page": 3})
    assert outcome == Indexed(ChunkCounts(reused=1))
    [hit] = await index.store.search([0.1] * 384, 1)
    assert hit.metadata == {"page": 3, "source": "d", "title": "d"}


async def test_an_older_version_changes_nothing(index: Index) -> None:
    await index.put(text(0), 5)
    assert await index.put(text(1), 4) == Superseded()
    assert await index.texts() == [PARAGRAPHS[0].strip()]


async def test_the_same_version_again_is_still_indexed(index: Index) -> None:
    await index.put(text(0, 1), 1)
    assert await index.put(text(0, 1), 1) == Indexed(ChunkCounts(reused=2))


async def test_repeated_paragraphs_become_separate_chunks(index: Index) -> None:
    assert await index.put(text(0, 0, 0), 1) == Indexed(ChunkCounts(embedded=3))
    assert await index.put(text(0, 0), 2) == Indexed(ChunkCounts(reused=2, deleted=1))


async def test_equal_documents_do_not_share_chunks(index: Index) -> None:
    await index.put(text(0), 1, doc_id="one")
    await index.put(text(0), 1, doc_id="two")
    await index.put(text(0), 1, doc_id="two", tenant="other")
    assert await index.store.count() == 3


async def test_a_deleted_document_is_not_brought_back_by_an_older_version(index: Index) -> None:
    await index.put(text(0, 1), 1)
    await index.put(text(2), 1, doc_id="other")
    assert await index.delete(3) == Deleted(chunks=2)
    assert await index.texts() == []
    assert await index.put(text(0), 2) == Superseded()  # a slow old job
    assert await index.delete(3) == Unchanged()
    assert await index.store.count() == 1
    assert await index.put(text(0), 4) == Indexed(ChunkCounts(embedded=1))


async def test_an_older_deletion_changes_nothing(index: Index) -> None:
    await index.put(text(0), 5)
    assert await index.delete(4) == Superseded()
    assert await index.store.count() == 1


async def test_a_document_that_never_existed_can_be_deleted(index: Index) -> None:
    assert await index.delete(4) == Unchanged()
    assert await index.put(text(0), 3) == Superseded()


async def test_a_file_with_unchanged_size_and_mtime_is_not_read(
    index: Index, tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text(0))
    os.utime(path, (1, 1))  # not so shortly ago that a change might go unnoticed
    document = Document(doc_id="d", version=1, source="d", path=str(path))
    assert isinstance(await index.ingest(document), Indexed)
    status = path.stat()
    state = file_state(document, status)
    assert state is not None
    path.unlink()
    again = msgspec.structs.replace(document, version=2, file=state)
    assert await index.ingest(again) == Unchanged()
    for changed in ("source", "media_type"):
        other = msgspec.structs.replace(document, **{changed: "text/markdown"})
        assert file_state(other, status) != state


async def test_a_file_modified_just_now_is_always_read(index: Index, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text(0))
    os.utime(path, (LATER, LATER))  # so it stays just now, however long it takes
    document = Document(doc_id="d", version=1, source="d", path=str(path))
    await index.ingest(document)
    entries = await index.ports.ledger.look_up([DocumentKey("", "d")])
    assert [entry.file for entry in entries.values()] == [None]


class Interrupted(Exception):
    """Raised in place of the end of the process."""


@dataclass(frozen=True)
class CrashingStore:
    """A real store that crashes before the ``n``-th write."""

    store: QdrantStore
    left: list[int]

    def _count(self) -> None:
        if self.left[0] == 0:
            raise Interrupted
        self.left[0] -= 1

    async def upsert(self, points: Sequence[ChunkPoint], fence: Fence) -> None:
        self._count()
        await self.store.upsert(points, fence)

    async def delete_stale(self, entry: LedgerEntry) -> int:
        self._count()
        return await self.store.delete_stale(entry)

    async def vectors(self, ids: Any) -> dict[str, list[float]]:
        return await self.store.vectors(ids)

    async def vectors_of(self, hashes: Mapping[str, str]) -> dict[str, list[float]]:
        return await self.store.vectors_of(hashes)


async def test_stale_chunks_left_by_a_crash_are_deleted_on_the_next_try(
    index: Index, tmp_path: Path
) -> None:
    """Even if nothing is new then, not even the state of the file."""
    path = tmp_path / "a.txt"
    document = Document(doc_id="d", version=1, source="d", path=str(path))
    for version, paragraphs in ((1, (0, 1)), (2, (1, 2))):
        path.write_text(text(*paragraphs))
        os.utime(path, (version, version))
        state = file_state(document, path.stat())
        document = msgspec.structs.replace(document, version=version, file=state)
        crashing = CrashingStore(index.store, [1])
        broken = dataclasses.replace(index, ports=dataclasses.replace(index.ports, chunks=crashing))
        if version == 1:
            await broken.ingest(document)
    with pytest.raises(Interrupted):
        await broken.ingest(document)
    assert len(await index.texts()) == 3
    assert await index.ingest(document) == Indexed(ChunkCounts(reused=2, deleted=1))
    assert await index.texts() == [PARAGRAPHS[i].strip() for i in (1, 2)]


@pytest.mark.parametrize("writes", [0, 1])
async def test_an_edit_after_a_crash_leaves_no_orphan(index: Index, writes: int) -> None:
    await index.put(text(0, 1), 1)
    crashing = CrashingStore(index.store, [writes])
    broken = dataclasses.replace(index, ports=dataclasses.replace(index.ports, chunks=crashing))
    with pytest.raises(Interrupted):
        await broken.put(text(1, 2), 2)
    assert PARAGRAPHS[0].strip() in await index.texts()  # the old version is still there
    await index.put(text(3), 3)
    assert await index.texts() == [PARAGRAPHS[3].strip()]


async def test_a_large_document_is_written_in_slices(index: Index, tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    path.write_text("\n\n".join(f"{i}. {PARAGRAPHS[i % 6]}" for i in range(300)))
    seen: list[tuple[int, int]] = []
    document = Document(doc_id="large", version=1, source="large", path=str(path))
    fast = dataclasses.replace(index.ports, model=HashingModel(index.ports.model))
    outcome = await dataclasses.replace(index, ports=fast).ingest(
        document, lambda done, known: seen.append((done, known))
    )
    assert outcome == Indexed(ChunkCounts(embedded=300))
    assert seen == [(0, 300), (256, 0), (44, 0)]
    assert await index.store.count() == 300


async def test_a_document_of_several_segments_is_one_document(index: Index, tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    paragraphs = [f"{i}. {PARAGRAPHS[i % 6]}" for i in range(1500)]
    paragraphs += paragraphs[-200:]  # and some of it comes again, in another part
    document = Document(doc_id="large", version=1, source="large", path=str(path))
    fast = dataclasses.replace(index.ports, model=HashingModel(index.ports.model))
    index = dataclasses.replace(index, ports=fast)
    seen: list[tuple[int, int]] = []
    path.write_text("\n\n".join(paragraphs))
    assert path.stat().st_size > 1.4 * SEGMENT_CHARACTERS

    outcome = await index.ingest(document, lambda done, known: seen.append((done, known)))
    assert outcome == Indexed(ChunkCounts(embedded=1700))
    assert sum(done for done, _ in seen) == sum(known for _, known in seen) == 1700
    assert len([known for _, known in seen if known]) == 2
    stored = (await index.store.stored(DocumentKey("", "large"))).content
    assert stored.text.split() == " ".join(paragraphs).split()

    path.write_text("\n\n".join([*paragraphs[:40], f"New. {PARAGRAPHS[3]}", *paragraphs[41:]]))
    again = await index.ingest(msgspec.structs.replace(document, version=2))
    assert again == Indexed(ChunkCounts(embedded=1, reused=1699, deleted=1))


@dataclass(frozen=True)
class HashingModel:
    """The real pool, except that it embeds nothing: for tests of size, not of meaning."""

    pool: Any

    async def prepare(self, lane: Lane, document: Document, known_hash: str | None) -> Any:
        return await self.pool.prepare(lane, document, known_hash)

    async def prepare_rest(self, lane: Lane, document: Document, rest: Any) -> Any:
        return await self.pool.prepare_rest(lane, document, rest)

    async def prepare_stored(self, lane: Lane, document: Document, stored: Any) -> Any:
        return await self.pool.prepare_stored(lane, document, stored)

    async def embed(self, lane: Lane, texts: Sequence[SizedText]) -> npt.NDArray[np.float32]:
        return np.ones((len(texts), 384), np.float32)
