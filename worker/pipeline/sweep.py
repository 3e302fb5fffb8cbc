"""Sweeps a folder after a scan: deletes its documents that the scan did not find.

The job carries a digest of what the scan found, so the worker need not see the folder. A sweep
deletes at the version of the scan. A document that was observed after the scan began has a newer
version, and stays. What the deletion guard holds back stays as well.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import filterfalse

from ingestq.core.documents import SeenDocuments, Sweep, Volume
from ingestq.core.results import LISTED_HELD, HeldDocuments
from worker.pipeline.deletion_guard import DeletionGuard, VolumeChange
from worker.pipeline.ingest import Deleted, Outcome, SweepResult
from worker.pipeline.moves import count_moved
from worker.pipeline.points import DocumentKey, EntryState, LedgerEntry
from worker.pipeline.ports import Ledger


async def sweep_folder(
    scan: Sweep, ledger: Ledger, delete: Callable[[DocumentKey, int], Awaitable[Outcome]]
) -> SweepResult:
    """Call ``delete``, with the version, for every document of the folder that ``scan`` lacks.

    Documents that the guard holds back are kept, unless the scan allows a mass deletion. It is safe
    to repeat after any interruption. Raises what ``ledger`` and ``delete`` raise.
    """
    seen = SeenDocuments(scan.seen)
    volumes = _ScannedVolumes(scan)
    guard = DeletionGuard()
    if not scan.allow_mass_delete:
        async for entries in ledger.in_folder(scan.tenant, scan.doc_id):
            for entry in filterfalse(_is_half_deleted, entries):
                guard.count(volumes.change_of(entry), is_gone=_is_gone(entry, scan, seen))
    decide = partial(guard.held, is_source_empty=scan.found == 0, empty=volumes.empty)
    held = decide()
    if held:
        moved = await count_moved(scan, ledger, partial(_is_gone, scan=scan, seen=seen))
        held = decide(moved=moved)

    def is_held(entry: LedgerEntry) -> bool:
        return volumes.change_of(entry) in held and not _is_half_deleted(entry)

    documents = chunks = kept = 0
    first: list[str] = []
    async for entries in ledger.in_folder(scan.tenant, scan.doc_id):
        gone = [entry for entry in entries if _is_gone(entry, scan, seen)]
        may_go = [entry for entry in gone if not is_held(entry)]
        kept += len(gone) - len(may_go)
        first += [entry.doc_id for entry in gone if is_held(entry)][: LISTED_HELD - len(first)]
        deletions = (delete(entry.key, scan.version) for entry in may_go)
        outcomes = await asyncio.gather(*deletions, return_exceptions=True)
        for outcome in outcomes:  # all of them have ended
            if isinstance(outcome, BaseException):
                raise outcome
        deleted = [outcome.chunks for outcome in outcomes if isinstance(outcome, Deleted)]
        documents += len(deleted)
        chunks += sum(deleted)
    if not kept:
        return SweepResult(documents, chunks)
    reason = _why(kept, guard.known, sorted(set(held.values())))
    return SweepResult(documents, chunks, HeldDocuments(kept, tuple(first), reason))


class _ScannedVolumes:
    """The volumes that a scan came through, by the folder where they begin."""

    def __init__(self, scan: Sweep) -> None:
        self._by_folder: dict[str, list[Volume]] = {}
        for scanned in scan.volumes:
            self._by_folder.setdefault(scanned.folder, []).append(scanned.volume)
        self.empty = {
            scanned.volume
            for scanned in scan.volumes
            if not scanned.files and scanned.folder != scan.doc_id
        }
        """Those without a file, other than that of the folder itself."""

    def change_of(self, entry: LedgerEntry) -> VolumeChange:
        """Return where the document was, and where the innermost of its folders is now."""
        for folder in entry.folders:
            volumes = self._by_folder.get(folder)
            if volumes is not None:  # several if folders that were scanned together share a name
                before = entry.volume
                return VolumeChange(before, before if before in volumes else volumes[0])
        return VolumeChange(entry.volume, None)


def _is_half_deleted(entry: LedgerEntry) -> bool:
    """Return whether a worker died while it deleted the document, which the guard had let go."""
    return entry.state is EntryState.DELETING


def _is_gone(entry: LedgerEntry, scan: Sweep, seen: SeenDocuments) -> bool:
    return entry.issued <= scan.version and not seen.may_hold(entry.doc_id, entry.folders)


def _why(kept: int, known: int, reasons: list[str]) -> str:
    return (
        f"{kept:,} of {known:,} documents of this source are gone ({'; '.join(reasons)}); none of "
        "them was deleted. To delete them from the index, run it again with --allow-mass-delete"
    )
