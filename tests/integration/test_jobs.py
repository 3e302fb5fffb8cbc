"""The job functions with a real model and a real Qdrant."""

import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from arq.typing import WorkerCoroutine

from ingestq.app.composition import Broker
from ingestq.broker.queue.leases import Claim
from ingestq.core.documents import Deletion, Document, Lane
from ingestq.core.jobs import INGEST, Batch, DeleteBatch, IngestBatch, dead_letter_key, encode_job
from ingestq.core.results import BatchReport, DocumentCounts
from tests.claims import lease_queue
from tests.workers import none_purged, none_unfinished
from worker.blobs import BlobContents
from worker.consumer.decision import Ack, decide
from worker.consumer.job_functions import (
    CLAIM,
    INGESTOR,
    PREPARED,
    PROGRESS,
    Ingestor,
    delete,
    ingest,
)
from worker.consumer.job_runner import JobRunner
from worker.embedding.pool import ModelPool
from worker.pipeline.ports import Ports
from worker.store.chunks import QdrantStore
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames
from worker.store.ledger import QdrantLedger
from worker.text.content import FILE_GONE
from worker.text.parts import (
    ExtractedDocument,
    PreparedDocument,
    Segment,
    SegmentStart,
    SizedText,
    UnchangedContent,
)

COLLECTION = "notes"
TEXT = "The tide comes in twice a day. " * 12


@dataclass
class CountingModel:
    """The real model; records the texts that it embeds."""

    model: ModelPool
    embedded: list[str] = field(default_factory=list)
    meanwhile: Callable[[], Awaitable[Any]] | None = None
    """What happens before the next document is prepared."""

    async def prepare(
        self, lane: Lane, document: Document, known_hash: str | None
    ) -> PreparedDocument | UnchangedContent:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        return await self.model.prepare(lane, document, known_hash)

    async def prepare_rest(self, lane: Lane, document: Document, rest: SegmentStart) -> Segment:
        return await self.model.prepare_rest(lane, document, rest)

    async def prepare_stored(
        self, lane: Lane, document: Document, stored: ExtractedDocument
    ) -> PreparedDocument:
        return await self.model.prepare_stored(lane, document, stored)

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
        claim = self.claim(batch)
        outcomes = await job({**self.ctx(), CLAIM: claim}, batch)
        decision = decide(claim, batch, outcomes, now_ms=1)
        assert isinstance(decision, Ack)
        return decision.report

    def claim(self, batch: Batch) -> Claim:
        return Claim(
            *(
                "j",
                next(self.tokens),
                encode_job(batch, enqueued_ms=1),
                Lane.BULK,
                "s",
                1,
                0,
                0,
                frozenset(),
            ),
            is_poison=False,
            aborted=False,
            collection=COLLECTION,
        )

    def ctx(self) -> dict[str, Any]:
        ports = Ports(self.model, self.store, self.ledger, BlobContents())
        ingestor = Ingestor({COLLECTION: ports}, none_unfinished, none_purged)
        return {
            INGESTOR: ingestor,
            PROGRESS: lambda *_: None,
            PREPARED: lambda: None,
        }


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


@pytest.mark.parametrize("change", ["edited", "deleted", "nothing"])
async def test_a_version_that_fails_after_a_newer_one_came_is_superseded(
    bench: Bench, broker: Broker, tmp_path: Path, change: str
) -> None:
    await bench.ingest(document("a"))
    changes = {
        "edited": partial(bench.ingest, document("a", "Newer.", version=3)),
        "deleted": partial(bench.delete, deletion("a")),
        "nothing": None,
    }
    bench.model.meanwhile = changes[change]
    gone = Document(
        collection=COLLECTION, doc_id="a", version=2, source="a", path=str(tmp_path / "gone")
    )
    claim = bench.claim(IngestBatch("s", (gone,)))
    runner = JobRunner({INGEST: ingest}, lease_queue(broker), bench.ctx())
    decision = (await runner.run(claim, lambda: None)).decision
    assert isinstance(decision, Ack)
    failed = change == "nothing"
    counts = DocumentCounts(rejected=1) if failed else DocumentCounts(superseded=1)
    assert decision.report.documents == counts
    assert [dead.reason for dead in decision.report.dead] == [FILE_GONE] * failed


async def test_deleted_documents_are_counted(bench: Bench) -> None:
    await bench.ingest(document("a"), document("b", "Other.", 9))
    report = await bench.delete(deletion("a"), deletion("b"), deletion("never"))
    assert report.documents == DocumentCounts(deleted=1, superseded=1, unchanged=1)
    assert report.chunks.deleted == 1
    assert set(report.resolved) == {
        dead_letter_key(COLLECTION, "", name) for name in ("a", "never")
    }
    assert await bench.store.count() == 1
