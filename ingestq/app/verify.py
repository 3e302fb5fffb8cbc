"""Compares the index with its ledger and its sources, and repairs it if asked."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from ingestq.app.composition import Broker
from ingestq.app.settings import Settings
from ingestq.app.sources import checked_paths
from ingestq.broker.queue.dead_letters import DeadLetters
from ingestq.broker.queue.pending import PendingReader
from ingestq.client.client import IngestClient, new_submission
from ingestq.core.display import Activity, Display
from ingestq.core.documents import Deletion, Document
from ingestq.core.errors import CollectionMismatch, UsageError
from ingestq.core.versions import LedgerHead
from producers.files import walk as files
from producers.files.off_limits import OffLimits
from producers.files.walk import ReadOptions, Root, ScanRecord
from worker.embedding.config import ModelInfo
from worker.maintenance.reconcile import QueueView, Reconciler
from worker.maintenance.repair import Repairer
from worker.maintenance.rules import Finding, FindingKind, VerifyCounts
from worker.maintenance.sources import Sources
from worker.pipeline.points import DocumentKey, LedgerEntry
from worker.store.client import PatientQdrant, Qdrant
from worker.store.collection import (
    CollectionNames,
    check_fingerprint,
    find_collection,
    stored_fingerprint,
)
from worker.store.inventory import Inventory, StoredChunk
from worker.store.ledger import QdrantLedger
from worker.store.schema import Fingerprint, fingerprint
from worker.text.config import HookVersions, hook_name

LISTED: Final = 10_000
"""Maximum number of findings of a kind in a report; all are counted and repaired."""


@dataclass(frozen=True)
class VerifyRequest:
    """What to compare, and whether to repair. ``paths`` are files and folders to walk."""

    paths: Sequence[Path]
    source: str | None
    repair: bool
    allow_mass_delete: bool


@dataclass
class VerifyReport:
    """The findings; `as_json` is the documented JSON.

    ``mismatch`` says how the collection differs from the settings, ``submission`` is what the
    repair queued.
    """

    tally: VerifyCounts
    mismatch: str | None = None
    submission: str | None = None
    repaired: int = 0
    found: Counter[FindingKind] = field(default_factory=Counter)
    listed: dict[FindingKind, list[dict[str, Any]]] = field(
        default_factory=lambda: {kind: [] for kind in FindingKind}
    )

    @property
    def consistent(self) -> bool:
        return not self.found.total() and self.mismatch is None

    @property
    def good(self) -> bool:
        """True if the index is consistent, or will be once the repair's jobs are done."""
        return self.found.total() == self.repaired and self.mismatch is None

    @property
    def refused(self) -> list[str]:
        """The repairs that need a decision of the user, and which one."""
        return [*self.tally.refused, *([self.mismatch] if self.mismatch else [])]

    def add(self, finding: Finding, *, repaired: bool) -> None:
        self.found[finding.kind] += 1
        self.repaired += repaired
        if len(self.listed[finding.kind]) < LISTED:
            self.listed[finding.kind].append(_as_json(finding) | {"repaired": repaired})

    def as_json(self) -> dict[str, Any]:
        tally = self.tally
        return {
            "consistent": self.consistent,
            "documents": tally.documents,
            "chunks": tally.chunks,
            **{kind.value: self.listed[kind] for kind in FindingKind},
            "repaired": self.repaired,
            "found": {kind.value: self.found[kind] for kind in FindingKind},
            "in_work": tally.in_work,
            "not_visible": tally.not_visible,
            "rejected": tally.rejected,
            "unreadable": tally.unreadable,
            "refused": self.refused,
            "submission": self.submission,
        }


def _as_json(finding: Finding) -> dict[str, Any]:
    document: dict[str, Any] = {
        "doc_id": finding.key.doc_id,
        "tenant": finding.key.tenant,
        "reason": finding.reason,
    }
    if finding.rejection is not None:
        document |= {
            "version": finding.rejection.version,
            "since_ms": finding.rejection.since_ms,
        }
    return document if finding.chunk is None else {"chunk": finding.chunk, **document}


class EmptyStore:
    """The ledger and the chunks of a collection that does not exist yet."""

    async def head(self) -> LedgerHead:
        return LedgerHead()

    async def entries(self) -> AsyncIterator[Sequence[LedgerEntry]]:
        nothing: Sequence[Sequence[LedgerEntry]] = ()
        for page in nothing:
            yield page

    async def look_up(self, keys: Iterable[DocumentKey]) -> dict[DocumentKey, LedgerEntry]:
        return {}

    async def invalidate(self, seen: LedgerEntry) -> bool:
        return False

    async def pages(
        self, doc_ids: Sequence[str] | None = None
    ) -> AsyncIterator[Sequence[StoredChunk]]:
        nothing: Sequence[Sequence[StoredChunk]] = ()
        for page in nothing:
            yield page

    async def remove(self, chunks: Iterable[StoredChunk]) -> None: ...


async def verify(
    broker: Broker,
    qdrant: Qdrant | None,
    settings: Settings,
    wanted: VerifyRequest,
    display: Display,
) -> VerifyReport:
    """Compare as ``wanted``, repair if it says so, and show progress on ``display``.

    Raises what broker and qdrant raise, CollectionMismatch if a repair is wanted and the collection
    does not match the settings, and UsageError if one of the paths cannot be read.
    """
    _check_paths(wanted.paths)
    off_limits = await asyncio.to_thread(checked_paths, wanted.paths, settings)
    ledger: EmptyStore | QdrantLedger = EmptyStore()
    chunks: EmptyStore | Inventory = EmptyStore()
    mismatch = None
    if qdrant is not None and (names := await find_collection(qdrant, settings.collection)):
        mismatch = await _mismatch(qdrant, names, settings)
        if mismatch is not None and wanted.repair:
            raise mismatch
        patient = PatientQdrant(qdrant)
        ledger, chunks = QdrantLedger(patient, names.ledger), Inventory(patient, names.chunks)
    roots = [Root.at(path).path for path in wanted.paths]
    reconciler = Reconciler(
        ledger,
        chunks,
        QueueView(
            broker.queue.issue_version,
            PendingReader(broker.redis, broker.config, settings.collection).read,
            partial(broker.dead_letters.failed_versions, collection=settings.collection),
        ),
        Sources(roots, settings.max_document_bytes),
        allow_mass_delete=wanted.allow_mass_delete,
    )
    # The versions of repairs have to be newer than what is indexed.
    await broker.queue.compare_ledger(settings.collection, await ledger.head())
    report = VerifyReport(reconciler.tally, None if mismatch is None else str(mismatch))
    client = broker.client.for_collection(settings.collection)
    queueing = _Queueing(client, broker.dead_letters, settings.collection)
    repairer = Repairer(ledger, chunks, queueing.queue, queueing.delete, queueing.requeue)

    async def process(pages: AsyncIterator[Sequence[Finding]]) -> None:
        async for findings in pages:
            repaired = await repairer.repair(findings) if wanted.repair else [False] * len(findings)
            for finding, is_repaired in zip(findings, repaired, strict=True):
                report.add(finding, repaired=is_repaired)
            display.show(_activity(report.tally))

    await process(reconciler.findings())
    found = _files(wanted, broker.queue.issue_version, report.tally, off_limits)
    await process(reconciler.absent(found))
    report.submission = queueing.submission
    return report


def _activity(tally: VerifyCounts) -> Activity:
    return Activity("comparing", tally.documents, detail=f"{tally.chunks:,} chunks")


def _check_paths(paths: Sequence[Path]) -> None:
    for path in paths:
        try:
            path.lstat()
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be read: {error}") from error


async def _mismatch(
    qdrant: Qdrant, names: CollectionNames, settings: Settings
) -> CollectionMismatch | None:
    """Return the error that a worker would raise, as far as it shows without the model."""
    theirs = await stored_fingerprint(qdrant, names)
    revision, dimension, max_tokens = (
        ("", 0, 0) if theirs is None else (theirs.revision, theirs.dimension, theirs.max_tokens)
    )
    is_truncated = settings.dimensions is not None and (
        settings.dimensions != dimension or (theirs is not None and theirs.truncated)
    )
    model = ModelInfo(
        settings.model,
        revision,
        settings.dimensions or dimension,
        max_tokens,
        settings.precision,
        is_truncated,
    )
    hooks = _hooks(settings, theirs)
    mine = fingerprint(model, settings.collection_schema, settings.reading, hooks)
    try:
        await check_fingerprint(qdrant, names, mine)
    except CollectionMismatch as error:
        return error
    return None


def _hooks(settings: Settings, theirs: Fingerprint | None) -> HookVersions:
    """Return the hooks, as if those that were used had the same version now: a worker knows it."""
    known = (
        {hook_name(each): each for each in (theirs.parse_hook, theirs.chunk_hook)} if theirs else {}
    )
    parse, chunk = settings.hooks.parse, settings.hooks.chunk
    return HookVersions(known.get(parse, parse) or "", known.get(chunk, chunk) or "")


async def _files(
    wanted: VerifyRequest,
    clock: Callable[[], Awaitable[int]],
    tally: VerifyCounts,
    off_limits: OffLimits,
) -> AsyncIterator[Document]:
    found = files.observe(
        wanted.paths, wanted.source, clock, ReadOptions(), ScanRecord(), off_limits
    )
    async for document in found:
        if isinstance(document, Document):
            yield document
        else:
            tally.unreadable += 1


class _Queueing:
    """Queues what a repair needs, as one submission."""

    def __init__(self, client: IngestClient, dead_letters: DeadLetters, collection: str) -> None:
        self._client = client
        self._dead_letters = dead_letters
        self._collection = collection
        self.submission: str | None = None

    async def queue(self, documents: Sequence[Document]) -> None:
        await self._client.submit_many(documents, submission=self._open())

    async def delete(self, deletions: Sequence[Deletion]) -> None:
        await self._client.delete_many(deletions, submission=self._open())

    async def requeue(self, key: DocumentKey) -> bool:
        """Queue the dead letter of a document again; return whether there was one."""
        found = await self._dead_letters.find_for_document(self._collection, *key)
        return found is not None and await self._dead_letters.requeue([found], self._open()) > 0

    def _open(self) -> str:
        if self.submission is None:
            self.submission = new_submission()
        return self.submission
