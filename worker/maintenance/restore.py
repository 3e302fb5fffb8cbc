"""Imports an export into a collection, document by document.

A document is written as a worker writes it: its entry is marked ``writing``, its chunks are
upserted, and then the entry becomes what it was. So an import can be interrupted and repeated, and
it may run beside workers: the newest version of a document wins. Into a new collection it is not
visible before everything is there, because only then the alias names the collection.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from ingestq.core.errors import CollectionMismatch, CollectionMissing, UsageError
from ingestq.core.service import run_together
from worker.maintenance.cut_over import find_previous, remove_collection
from worker.maintenance.export_file import Header, Portion, Totals
from worker.pipeline.order import Change, Standing, placed_after, standing
from worker.pipeline.points import ChunkPoint, DocumentKey, EntryState, LedgerEntry
from worker.store.chunks import QdrantStore
from worker.store.client import Qdrant
from worker.store.collection import (
    CollectionNames,
    find_collection,
    make_collection,
    note_import,
    point_alias,
    refuse_foreign,
    stored_fingerprint,
    unfinished_import,
)
from worker.store.ledger import QdrantLedger
from worker.store.schema import Fingerprint, Storage

BATCH_CHUNKS: Final = 256
BATCH_DOCUMENTS: Final = 128
"""So much is written together: so many documents, or about so many chunks."""
BEGIN_TRIES: Final = 3
"""How often another worker may change a document just before it is written."""


def fingerprint_of(header: Header) -> Fingerprint:
    """Return the fingerprint of the exported collection.

    Raises CollectionMismatch if it is none of this version.
    """
    try:
        return msgspec.convert(header.fingerprint, Fingerprint)
    except msgspec.ValidationError as error:
        raise CollectionMismatch(
            f"the export was written by ingestq {header.ingestq}, whose collections this version "
            f"does not know ({error}); use that version, or index the sources again"
        ) from error


@dataclass(frozen=True)
class ImportTarget:
    """The collection ``names``, into which the export ``export_id`` is imported.

    If it ``is_new``, nobody sees it before `publish`.
    """

    names: CollectionNames
    export_id: str
    is_new: bool

    async def publish(self, qdrant: Qdrant) -> None:
        """Let the alias name the collection, which is complete."""
        if not self.is_new:
            return
        alias = point_alias(self.names.alias, self.names)
        await qdrant.ask(lambda client: client.update_collection_aliases([alias]))
        await note_import(qdrant, self.names, None)


async def open_target(
    qdrant: Qdrant, alias: str, header: Header, storage: Storage, *, merge: bool
) -> ImportTarget:
    """Find or create the collection to import into.

    A part of the same export is continued, and a part of another one removed. Raises UsageError if
    there is a collection already, unless ``merge``, and CollectionMismatch if it has another
    fingerprint.
    """
    made_with = fingerprint_of(header)
    names = CollectionNames.of(alias, made_with.digest)
    live = await find_collection(qdrant, alias)
    if live is not None and not await _is_being_published(qdrant, live, header):
        if not merge:
            raise UsageError(
                f"there is a collection {alias!r} already. Pass --merge to add the export to it, "
                "where the newest version of each document wins, or --collection with another name"
            )
        if live != names:
            theirs = await stored_fingerprint(qdrant, live)
            built = "another version of ingestq" if theirs is None else f"the model {theirs.model}"
            raise CollectionMismatch(
                f"the export was built with other settings (model {made_with.model}) than the "
                f"collection {live.chunks!r} ({built}), so their vectors cannot be mixed. Import "
                "it with --collection and another name, or rebuild the collection with the "
                "settings of the export first"
            )
        return ImportTarget(names, header.id, is_new=False)
    if live is None:
        await refuse_foreign(qdrant, alias, made_with)
        await _claim(qdrant, names, header)
        await make_collection(qdrant, names, made_with, storage)
        await note_import(qdrant, names, header.id)
        if await find_collection(qdrant, alias) is not None:
            await note_import(qdrant, names, None)
            raise UsageError(f"a worker has just created the collection {alias!r}; start again")
    return ImportTarget(names, header.id, is_new=True)


async def _is_being_published(qdrant: Qdrant, live: CollectionNames, header: Header) -> bool:
    """Return whether the import of this export was interrupted in `ImportTarget.publish`."""
    return await unfinished_import(qdrant, live) == header.id


async def _claim(qdrant: Qdrant, names: CollectionNames, header: Header) -> None:
    """Make room for a new collection ``names``, unless a part of the export is there already."""
    try:
        found = await unfinished_import(qdrant, names)
    except CollectionMissing:
        return
    if found == header.id:
        return
    is_previous = await find_previous(qdrant, names.alias) == names
    if is_previous or (found is None and await _has_points(qdrant, names)):
        raise UsageError(
            f"Qdrant has a collection {names.chunks!r} with documents, but no alias "
            f"{names.alias!r}. Delete it and {names.ledger!r}, or pass --collection with another "
            "name"
        )
    await remove_collection(qdrant, names)


async def _has_points(qdrant: Qdrant, names: CollectionNames) -> bool:
    counted = await qdrant.ask(lambda client: client.count(names.chunks))
    return counted.count > 0


class RestoreCounts(Totals):
    """What was written; of ``kept`` documents, the collection had the same version or a newer."""

    kept: int = 0


@dataclass(frozen=True)
class _Begun:
    """A document that is being written under the fence of ``entry``.

    It ``is_first`` if the collection never had anything of it.
    """

    entry: LedgerEntry
    is_first: bool


class Restore:
    """Writes portions of documents to a collection. Raises what its parts raise."""

    def __init__(self, chunks: QdrantStore, ledger: QdrantLedger) -> None:
        self.counts = RestoreCounts()
        self._chunks = chunks
        self._ledger = ledger
        self._begun: dict[DocumentKey, _Begun | None] = {}

    async def write(self, portions: Sequence[Portion]) -> None:
        """Write ``portions``, which are of different documents; durable on return."""
        firsts = [portion.entry.key for portion in portions if portion.is_first]
        seen = await self._ledger.look_up(firsts)
        await run_together(
            *(self._write(portion, seen.get(portion.entry.key)) for portion in portions)
        )
        await self._ledger.reject(
            {
                portion.entry.key: portion.entry.rejection
                for portion in portions
                if portion.is_last and portion.entry.rejection is not None
            }
        )

    async def _write(self, portion: Portion, seen: LedgerEntry | None) -> None:
        entry = portion.entry
        if portion.is_first:
            begun = self._begun[entry.key] = await self._begin(entry, seen)
            if begun is None:
                self.counts.kept += 1
        begun = self._begun[entry.key]
        if begun is not None and portion.chunks:
            await self._chunks.upsert(_under_fence(portion.chunks, begun), begun.entry.fence)
        if portion.is_last:
            del self._begun[entry.key]
            if begun is not None and await self._finish(begun):
                self.counts.add(entry)

    async def _begin(self, entry: LedgerEntry, seen: LedgerEntry | None) -> _Begun | None:
        """Mark the document as being written, unless the collection has it, or a newer version."""
        for _ in range(BEGIN_TRIES):
            if seen is not None and not _is_wanted(entry, seen):
                return None
            placed = placed_after(entry, seen)
            begun = await self._ledger.begin(_in_work(placed), seen)
            if begun.ours and begun.first:
                return _Begun(placed, is_first=True)
            if begun.ours:  # its chunks have to replace those which are there, of any fence
                fence = None if placed.chunks_fence is None else placed.fence
                refenced = msgspec.structs.replace(placed, chunks_fence=fence)
                return _Begun(refenced, is_first=False)
            seen = begun.entry
        return None

    async def _finish(self, begun: _Begun) -> bool:
        """Delete what else there is of the document; return False if a worker has overtaken it."""
        done = begun.entry
        if not begun.is_first:
            clearing = done
            if done.state is not EntryState.DELETED:
                clearing = msgspec.structs.replace(done, state=EntryState.CLEARING)
                now = await self._ledger.advance(clearing)
                if now.fence != done.fence:
                    return await self._yield_to(now)
            await self._chunks.delete_stale(clearing)
        now = await self._ledger.advance(done)
        return now.fence == done.fence or await self._yield_to(now)

    async def _yield_to(self, owner: LedgerEntry) -> bool:
        """Delete chunks of ours that arrived after ``owner`` deleted the stale ones."""
        if owner.state is not EntryState.WRITING:
            await self._chunks.delete_stale(owner)
        self.counts.kept += 1
        return False


def _is_wanted(entry: LedgerEntry, seen: LedgerEntry) -> bool:
    """Return whether ``entry`` is newer than ``seen``, or is ``seen`` and was not finished."""
    if entry.version == seen.version and entry.state is seen.state:
        return False
    deletes = entry.state is EntryState.DELETED
    change = Change(entry.version, entry.attempt, entry.queued, deletes)
    return standing(change, seen) is Standing.NEWER


def _in_work(entry: LedgerEntry) -> LedgerEntry:
    state = EntryState.DELETING if entry.state is EntryState.DELETED else EntryState.WRITING
    return msgspec.structs.replace(
        entry, state=state, chunks=0, chunks_fence=None, chunks_digest=""
    )


def _under_fence(chunks: Sequence[ChunkPoint], begun: _Begun) -> Sequence[ChunkPoint]:
    if begun.is_first:
        return chunks
    fence = begun.entry.fence._asdict()
    return [replace(chunk, payload={**chunk.payload, **fence}) for chunk in chunks]


def in_batches(portions: Iterable[Portion]) -> Iterator[list[Portion]]:
    """Yield ``portions`` in batches for `Restore.write`."""
    batch: list[Portion] = []
    chunks = 0
    for portion in portions:
        batch.append(portion)
        chunks += len(portion.chunks)
        is_full = chunks >= BATCH_CHUNKS or len(batch) == BATCH_DOCUMENTS
        if is_full or not portion.is_last:  # the next one may be of the same document
            yield batch
            batch, chunks = [], 0
    if batch:
        yield batch
