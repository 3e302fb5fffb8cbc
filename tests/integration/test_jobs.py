"""The job functions with a real model and a real Qdrant."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from arq.typing import WorkerCoroutine

from ingestq.broker.queue.leases import Claim
from ingestq.core.documents import Deletion, Document, Lane
from ingestq.core.jobs import Batch, DeleteBatch, IngestBatch, dead_letter_key
from ingestq.core.results import BatchReport, DocumentCounts
from worker.blobs import BlobContents
from worker.consumer.decision import Ack, decide
from worker.consumer.job_functions import CLAIM, INGESTOR, PROGRESS, Ingestor, delete, ingest
from worker.embedding.pool import ModelPool
from worker.lanes import LanePermits
from worker.pipeline.ports import Ports
from worker.store.chunks import QdrantStore
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames
from worker.store.ledger import QdrantLedger
from worker.text.parts import PreparedDocument, Segment, SegmentStart, SizedText, UnchangedContent

COLLECTION = "notes"
TEXT = "The tide comes in twice a day. " * 12


@dataclass
class CountingModel:
    """The real model; records the texts that it embeds."""

    model: ModelPool
    embedded: list[str] = field(default_factory=list)

    async def prepare(
        self, lane: Lane, document: Document, known_hash: str | None
    ) -> PreparedDocument | UnchangedContent:
        return await self.model.prepare(lane, document, known_hash)

    async def prepare_rest(self, lane: Lane, document: Document, rest: SegmentStart) -> Segment:
        return await self.model.prepare_rest(lane, document, rest)

    async def embed(self, lane: Lane, texts: Sequence[SizedText]) -> npt.NDArray[np.float32]:
        self.embedded += [text.text for text in texts]
        return await self.model.embed(lane, texts)


@dataclass
class Bench:
    """The job functions with their ports."""

    model: CountingModel
    store: QdrantStore
    ledger: QdrantLedger
    tokens: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    async def ingest(self, *documents: Document) -> BatchReport:
        return await self._report(ingest, IngestBatch("s", documents))

    async def delete(self, *deletions: Deletion) -> BatchReport:
        return await self._report(delete, DeleteBatch("s", deletions))

    async def _report(self, job: WorkerCoroutine, batch: Batch) -> BatchReport:
        claim = Claim(
            *("j", next(self.tokens), b"", Lane.BULK, "s", 1, 0, 0, frozenset()),
            is_poison=False,
            aborted=False,
            collection=COLLECTION,
        )
        outcomes = await job(self._ctx(claim), batch)
        decision = decide(claim, batch, outcomes, now_ms=1)
        assert isinstance(decision, Ack)
        return decision.report

    def _ctx(self, claim: Claim) -> dict[str, Any]:
        ports = Ports(self.model, self.store, self.ledger, BlobContents())
        ingestor = Ingestor({COLLECTION: ports}, LanePermits(4, bulk=3))
        return {INGESTOR: ingestor, CLAIM: claim, PROGRESS: lambda *_: None}


@pytest.fixture
async def bench(qdrant: Qdrant, model: ModelPool, collection: CollectionNames) -> Bench:
    return Bench(
        CountingModel(model),
        QdrantStore(qdrant, collection.chunks),
        QdrantLedger(qdrant, collection.ledger),
    )


def document(doc_id: str, text: str = TEXT, version: int = 1) -> Document:
    return Document(collection=COLLECTION, doc_id=doc_id, version=version, source=doc_id, text=text)


def deletion(doc_id: str) -> Deletion:
    return Deletion(collection=COLLECTION, doc_id=doc_id, version=5)


async def test_a_text_shared_by_documents_is_embedded_once(bench: Bench) -> None:
    report = await bench.ingest(document("a"), document("b"), document("c", "Something else."))
    assert report.documents == DocumentCounts(indexed=3)
    assert len(bench.model.embedded) == len(set(bench.model.embedded)) == 2
    assert await bench.store.count() == 3


async def test_the_newer_of_two_versions_in_a_batch_is_indexed(bench: Bench) -> None:
    report = await bench.ingest(document("a", "Newer.", 2), document("a", "Older.", 1))
    assert report.documents == DocumentCounts(indexed=1, superseded=1)
    report = await bench.ingest(document("a", "First said.", 3), document("a", "Last said.", 3))
    assert report.documents == DocumentCounts(indexed=1, superseded=1)
    [hit] = await bench.store.search([0.1] * 384, 9)
    assert hit.text == "Last said."


async def test_unchanged_documents_are_not_embedded(bench: Bench) -> None:
    await bench.ingest(document("a"), document("b", "Other."))
    bench.model.embedded.clear()
    report = await bench.ingest(document("a", version=2), document("b", "Other.", 2))
    assert report.documents == DocumentCounts(unchanged=2)
    assert bench.model.embedded == []


async def test_deleted_documents_are_counted(bench: Bench) -> None:
    await bench.ingest(document("a"), document("b", "Other.", 9))
    report = await bench.delete(deletion("a"), deletion("b"), deletion("never"))
    assert report.documents == DocumentCounts(deleted=1, superseded=1, unchanged=1)
    assert report.chunks.deleted == 1
    assert set(report.resolved) == {
        dead_letter_key(COLLECTION, "", name) for name in ("a", "never")
    }
    assert await bench.store.count() == 1
