"""Exports a collection to a file, and imports it from one."""

import asyncio
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from ingestq import __version__
from ingestq.app.composition import Broker
from ingestq.app.reindex import assignment, settings_of
from ingestq.app.settings import Settings
from ingestq.broker.queue.gate import Gate
from ingestq.core.display import Activity, Display
from ingestq.core.durable_files import replacing
from ingestq.core.errors import CollectionMismatch, ServiceUnavailable, UsageError
from worker.maintenance.export import Export, LeftOut
from worker.maintenance.export_file import ExportReader, ExportWriter, Header, Portion, Totals
from worker.maintenance.restore import (
    ImportTarget,
    Restore,
    RestoreCounts,
    fingerprint_of,
    in_batches,
    open_target,
)
from worker.store.chunks import QdrantStore
from worker.store.client import PatientQdrant, Qdrant
from worker.store.collection import find_collection, stored_fingerprint
from worker.store.exact_chunks import ExactChunks
from worker.store.ledger import QdrantLedger
from worker.store.schema import Fingerprint
from worker.text import CHUNKER, EXTRACTION_VERSION
from worker.text.config import OcrMode


@dataclass(frozen=True)
class ExportResult:
    """What was exported of ``collection``, and which documents were not; see `Export`."""

    collection: str
    totals: Totals
    left_out: LeftOut

    def as_json(self) -> dict[str, Any]:
        """Return the documented JSON."""
        return {
            "collection": self.collection,
            **msgspec.structs.asdict(self.totals),
            "left_out": self.left_out.count,
            "left_out_documents": [
                {"doc_id": key.doc_id, "tenant": key.tenant} for key in self.left_out.listed
            ],
        }


@dataclass(frozen=True)
class ImportResult:
    """What was imported into ``collection``. ``reindex`` says why it has to be rebuilt, if so."""

    collection: str
    counts: RestoreCounts
    reindex: str | None

    def as_json(self) -> dict[str, Any]:
        """Return the documented JSON."""
        counts = msgspec.structs.asdict(self.counts)
        return {"collection": self.collection, **counts, "reindex": self.reindex}


@contextmanager
def new_file(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """Open a file that gets the name ``path`` when the block ends, and is durable then.

    If the block fails, nothing is left of it. Raises UsageError if there is a file of that name
    already, unless ``force``, or it cannot be written.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a directory; name a file")
    if path.exists() and not force:
        raise UsageError(f"{path} exists; pass --force to replace it, or name another file")
    try:
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error


async def export_collection(
    qdrant: Qdrant | None, settings: Settings, file: BinaryIO, display: Display
) -> ExportResult:
    """Write the collection of ``settings`` to ``file``; see `worker.maintenance.export`.

    Raises UsageError if there is none, OSError if the file cannot be written, and what ``qdrant``
    raises.
    """
    alias = settings.collection
    patient = None if qdrant is None else PatientQdrant(qdrant)
    names = None if patient is None else await find_collection(patient, alias)
    if patient is None or names is None:
        raise UsageError(f"nothing is indexed under {alias!r} yet")
    built_with = await stored_fingerprint(patient, names)
    if built_with is None:
        raise CollectionMismatch(f"{names.chunks!r} was built by another version of ingestq")
    ledger = QdrantLedger(patient, names.ledger)
    header = Header(
        id=uuid.uuid4().hex,
        ingestq=__version__,
        collection=alias,
        created_ms=time.time_ns() // 1_000_000,
        documents=await ledger.size(),
        fingerprint=msgspec.to_builtins(built_with),
    )
    writer = await asyncio.to_thread(ExportWriter, file, header)
    chunks = ExactChunks(patient, names.chunks, built_with.layout)
    left_out = await Export(ledger, chunks, writer, display).run()
    await asyncio.to_thread(writer.finish)
    return ExportResult(alias, writer.totals, left_out)


async def check_file(file: BinaryIO, name: str) -> Totals:
    """Read the whole export, and return how much it holds; rewind the file.

    Raises UsageError if it cannot be imported.
    """

    def check() -> Totals:
        totals = ExportReader(file, name).check()
        file.seek(0)
        return totals

    return await asyncio.to_thread(check)


async def open_export(file: BinaryIO, name: str) -> ExportReader:
    """Read the header of an export. Raises UsageError if it cannot be imported."""
    return await asyncio.to_thread(ExportReader, file, name)


async def import_collection(
    broker: Broker,
    qdrant: Qdrant,
    settings: Settings,
    reader: ExportReader,
    totals: Totals | None,
    display: Display,
    *,
    merge: bool,
) -> ImportResult:
    """Import what ``reader`` reads into the collection of ``settings``.

    ``totals`` is how much that is, if it is known. Raises UsageError if the file, the settings and
    what there is do not fit, or a rebuild replaces the collection meanwhile, and what ``qdrant``
    and ``broker`` raise; then what was imported so far is not visible, unless ``merge``.
    """
    header, alias = reader.header, settings.collection
    built_with = fingerprint_of(header)
    _refuse_other_settings(settings, built_with)
    patient = PatientQdrant(qdrant)
    storage = settings.collection_schema.storage
    target = await open_target(patient, alias, header, storage, merge=merge)
    ledger = QdrantLedger(patient, target.names.ledger)
    restore = Restore(QdrantStore(patient, target.names.chunks, built_with.layout), ledger)
    documents = header.documents if totals is None else totals.documents + totals.deleted
    batches = in_batches(reader.portions())
    gate = Gate(broker.redis, broker.config, target.names.chunks)
    try:
        if target.is_new:  # an earlier collection of this name may have left its gate closed
            await gate.open()
        while (batch := await asyncio.to_thread(_next, batches)) is not None:
            await _refuse_replaced(patient, gate, target)
            await restore.write(batch)
            counts = restore.counts
            done = counts.documents + counts.deleted + counts.kept
            detail = f"{counts.chunks:,} chunks"
            display.show(Activity("importing", done, documents, detail))
        await _refuse_replaced(patient, gate, target)
        await broker.queue.compare_ledger(alias, await ledger.head())
        await target.publish(patient)
    except ServiceUnavailable as error:
        again = f"{error}. Run the import again to finish it"
        raise type(error)(again, error.retry_after) from error
    return ImportResult(alias, restore.counts, _why_reindex(built_with))


def _next(batches: Iterator[list[Portion]]) -> list[Portion] | None:
    return next(batches, None)


async def _refuse_replaced(qdrant: Qdrant, gate: Gate, target: ImportTarget) -> None:
    """Raise CollectionMismatch if a rebuild replaces the collection; wait while it may do so.

    Otherwise any later cut-over copies everything that was written before this call.
    """
    if target.is_new:
        return  # nothing to rebuild yet
    is_replaced = await gate.wait_until_open() is not None
    if is_replaced or await find_collection(qdrant, target.names.alias) != target.names:
        raise CollectionMismatch(
            f"a rebuild replaced the collection {target.names.alias!r} during the import, and the "
            "new one may lack a part of it. Run the import again once the rebuild has ended"
        )


def _refuse_other_settings(settings: Settings, built_with: Fingerprint) -> None:
    """Raise CollectionMismatch if a worker with ``settings`` would refuse the collection."""
    wanted = settings_of(built_with, settings)
    if settings.chunk_tokens is None:  # the model's own length; a worker knows it
        del wanted["chunk_tokens"]
    if built_with.ocr is OcrMode.OFF:
        del wanted["ocr_languages"]
    others = [
        assignment(name, value)
        for name, value in wanted.items()
        if getattr(settings, name) != value
    ]
    if others:
        raise CollectionMismatch(
            "the export was built with other settings: set "
            f"{' '.join(others)} to import it. To change them, run `ingestq reindex` afterwards"
        )


def _why_reindex(built_with: Fingerprint) -> str | None:
    """Return why no worker of this version can write the collection; None if one can."""
    if (built_with.chunker, built_with.extraction) == (CHUNKER, EXTRACTION_VERSION):
        return None
    return "the export was built by another version of ingestq, which made other chunks"
