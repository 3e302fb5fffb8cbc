"""What `ingestq run` would do: the pipeline runs against the index, and writes nothing."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from ingestq.app.composition import open_model, open_qdrant
from ingestq.app.ingestion import LISTED, Summary
from ingestq.app.migration import has_index
from ingestq.app.settings import Settings
from ingestq.app.sources import Places
from ingestq.app.worker import contents_for, memory_budget
from ingestq.core.display import Activity, Display
from ingestq.core.documents import Document, Sweep
from ingestq.core.results import (
    LISTED_WARNINGS,
    ChunkCounts,
    DocumentCounts,
    DocumentWarning,
    FailedDocument,
    Usage,
    WarningCounts,
)
from ingestq.core.service import opening
from ingestq.core.versions import LedgerHead
from producers.files.walk import ScanRecord
from worker.blobs import BlobContents
from worker.consumer.decision import outcome_of
from worker.pipeline.dry_run import DryRunIndex, DryRunModel
from worker.pipeline.ingest import (
    Deleted,
    Indexed,
    Misconfigured,
    Outcome,
    Rejected,
    Retry,
    Superseded,
    SweepResult,
    Unchanged,
    Work,
    delete_as_of,
    ingest,
)
from worker.pipeline.points import DocumentKey, Fence
from worker.pipeline.ports import Ports
from worker.pipeline.sweep import sweep_folder
from worker.store.chunks import QdrantStore
from worker.store.client import PatientQdrant
from worker.store.collection import checked_collection
from worker.store.ledger import QdrantLedger
from worker.store.schema import fingerprint

BATCH_DOCUMENTS: Final = 64
"""Documents that are looked up in one request, and are in work at the same time."""


@dataclass(frozen=True)
class DryRunResult:
    """What a run would do: the ``summary`` that it would have, and which documents it would change.

    ``to_index`` and ``to_delete`` list the first `LISTED` of them by their ids.
    """

    summary: Summary
    to_index: Sequence[str]
    to_delete: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """Return that of the summary, and what only a dry run has."""
        return {
            "dry_run": True,
            **self.summary.as_json(),
            "would_index": list(self.to_index),
            "would_delete": list(self.to_delete),
        }


@asynccontextmanager
async def opened_ports(settings: Settings) -> AsyncIterator[tuple[Ports, LedgerHead]]:
    """Yield ports to the collection as it is, for a dry run, and the newest version in it.

    Raises CollectionMismatch, ModelUnavailable, StoreUnavailable or UsageError where a run would
    refuse to begin.
    """
    async with AsyncExitStack() as opened:
        model_opening = await opened.enter_async_context(
            opening(open_model(settings, settings.pool_size), name="model")
        )
        qdrant = None
        # A bundled Qdrant would make its data directory if there is none.
        if settings.qdrant_url is not None or await asyncio.to_thread(has_index, settings.data_dir):
            qdrant = await opened.enter_async_context(open_qdrant(settings))
        model = await model_opening
        hooks = await model.hook_versions()
        index, head = DryRunIndex(), LedgerHead()
        names = None
        if qdrant is not None:
            mine = fingerprint(model.info, settings.collection_schema, settings.reading, hooks)
            names = await checked_collection(qdrant, settings.collection, mine)
        if qdrant is not None and names is not None:
            patient = PatientQdrant(qdrant)
            ledger = QdrantLedger(patient, names.ledger)
            chunks = QdrantStore(patient, names.chunks, settings.collection_schema.layout)
            index, head = DryRunIndex(chunks, ledger), await ledger.head()
        contents = contents_for(settings, BlobContents(), longest_turn_seconds=None)
        memory = memory_budget(settings)
        ports = Ports(
            DryRunModel(model), index, index, contents, memory=memory, enriched_by=hooks.enrich
        )
        yield ports, head


class DryRun:
    """A run over ``places`` with ``ports`` that write nothing; see `opened_ports`.

    ``head`` is that of the ledger. ``price`` is that of a million tokens; None if it is unknown.
    """

    def __init__(
        self,
        places: Places,
        ports: Ports,
        head: LedgerHead,
        display: Display,
        collection: str,
        price: float | None = None,
    ) -> None:
        self._places = places
        self._ports = ports
        self._clock = _Clock(head)
        self._display = display
        self._collection = collection
        self._price = price
        self._tally = _Tally()

    async def finish(self, *, allow_mass_delete: bool = False) -> DryRunResult:
        """Read, chunk and compare every document, and what its scans would delete.

        Raises what a run would wait for or end with.
        """
        started = time.monotonic()
        scan = ScanRecord()
        async with aclosing(self._places.documents(self._clock, scan)) as found:
            batch: list[Document] = []
            async for document in found:
                if isinstance(document, FailedDocument):
                    self._tally.fail(document)
                    continue
                batch.append(document)
                if len(batch) == BATCH_DOCUMENTS:
                    await self._ingest_all(batch)
                    batch.clear()
            await self._ingest_all(batch)
        for sweep in scan.sweeps(allow_mass_delete=allow_mass_delete):
            await self._sweep(sweep)
        seconds = time.monotonic() - started
        return self._tally.result(self._collection, seconds, self._price)

    async def _ingest_all(self, documents: Sequence[Document]) -> None:
        ports = self._ports
        keys = [DocumentKey(document.tenant, document.doc_id) for document in documents]
        entries = await ports.ledger.look_up(keys)
        works = [
            Work(document, entries.get(key), attempt=1)
            for key, document in zip(keys, documents, strict=True)
        ]
        outcomes = await asyncio.gather(*(_outcome(work, ports) for work in works))
        for document, outcome in zip(documents, outcomes, strict=True):
            self._tally.add(document.doc_id, outcome)
        self._show(is_listing=True)

    async def _sweep(self, sweep: Sweep) -> None:
        ports = self._ports

        async def delete(key: DocumentKey, version: int) -> Outcome:
            outcome = await delete_as_of(key, Fence(version, 1), ports)
            if isinstance(outcome, Deleted):
                self._tally.note_deletion(key.doc_id)
            return outcome

        self._tally.add(sweep.doc_id, await sweep_folder(sweep, ports.ledger, delete))
        self._show(is_listing=False)

    def _show(self, *, is_listing: bool) -> None:
        tally = self._tally
        detail = f"{tally.chunks.embedded} chunks to embed"
        self._display.show(
            Activity("comparing", tally.documents.total(), None, detail, growing=is_listing)
        )


class _Clock:
    """Issues versions that are newer than ``head``, as Redis would."""

    def __init__(self, head: LedgerHead) -> None:
        self._last = head.version

    async def __call__(self) -> int:
        self._last = max(time.time_ns() // 1000, self._last + 1)
        return self._last


async def _outcome(work: Work, ports: Ports) -> Outcome:
    """Return the outcome of ``work``; raise what a run would wait for, or end with."""
    try:
        return await ingest(work, ports, lambda done, known: None)
    except Exception as error:
        match outcome_of(error):
            case Rejected() as rejected:
                return rejected
            case Retry(counts_as_try=True) as failed:
                return failed
        raise


class _Tally:
    """Counts the outcomes of documents."""

    def __init__(self) -> None:
        self.documents: Counter[str] = Counter()
        self.chunks = ChunkCounts()
        self._tokens = 0
        self._failed: list[FailedDocument] = []
        self._warned = WarningCounts()
        self._warnings: list[DocumentWarning] = []
        self._to_index: list[str] = []
        self._to_delete: list[str] = []

    def fail(self, failed: FailedDocument) -> None:
        """Count a document that would be rejected."""
        self.documents["rejected"] += 1
        if len(self._failed) < LISTED:
            self._failed.append(failed)

    def note_deletion(self, doc_id: str) -> None:
        """List a document that a sweep would delete."""
        _list(self._to_delete, doc_id)

    def add(self, doc_id: str, outcome: Outcome) -> None:
        """Count the outcome of one document, or of a sweep."""
        match outcome:
            case Indexed(chunks=chunks, warnings=warnings, tokens=tokens):
                self.documents["indexed"] += 1
                self.chunks += chunks
                self._tokens += tokens
                self._warn(doc_id, warnings)
                _list(self._to_index, doc_id)
            case Unchanged(warnings):
                self.documents["unchanged"] += 1
                self._warn(doc_id, warnings)
            case Superseded():
                self.documents["superseded"] += 1
            case SweepResult(documents, chunks_deleted, held):
                self.documents["deleted"] += documents
                self.chunks += ChunkCounts(deleted=chunks_deleted)
                if held is not None:
                    self.fail(FailedDocument(doc_id, held.reason))
            case Deleted(chunks_deleted):
                self.documents["deleted"] += 1
                self.chunks += ChunkCounts(deleted=chunks_deleted)
            case Rejected(reason) | Retry(reason):
                self.fail(FailedDocument(doc_id, reason))
            case Misconfigured(error):
                raise error

    def _warn(self, doc_id: str, warnings: Sequence[str]) -> None:
        if warnings:
            self._warned += WarningCounts(1, len(warnings))
            room = LISTED_WARNINGS - len(self._warnings)
            self._warnings += [DocumentWarning(doc_id, each) for each in warnings[: max(room, 0)]]

    def result(self, collection: str, seconds: float, price: float | None) -> DryRunResult:
        """Return what was counted so far."""
        summary = Summary(
            DocumentCounts(**self.documents),
            self.chunks,
            seconds,
            collection,
            self._failed,
            waiting=0,
            warned=self._warned,
            warnings=self._warnings,
            usage=Usage(self._tokens),
            price=price,
        )
        return DryRunResult(summary, self._to_index, self._to_delete)


def _list(ids: list[str], doc_id: str) -> None:
    if len(ids) < LISTED:
        ids.append(doc_id)
