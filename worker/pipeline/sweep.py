"""Sweeps a folder after a scan: deletes its documents that the scan did not find.

The job carries a digest of what the scan found, so the worker need not see the folder. A sweep
deletes at the version of the scan. A document that was observed after the scan began has a newer
version, and stays.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from ingestq.core.documents import Deletion, SeenDocuments, Sweep
from worker.pipeline.ingest import Deleted, Outcome, Rejected, SweepResult
from worker.pipeline.points import LedgerEntry
from worker.pipeline.ports import Ledger

MASS_DOCUMENTS: Final = 10
MASS_SHARE: Final = 0.1
"""A sweep that would delete more than so many documents, and more than this share of the folder, is
refused: the folder may be an empty mount point."""


async def sweep_folder(
    scan: Sweep, ledger: Ledger, delete: Callable[[Deletion], Awaitable[Outcome]]
) -> SweepResult | Rejected:
    """Call ``delete`` for every document of the folder that ``scan`` did not find.

    If those are too many (see `MASS_DOCUMENTS`), delete none and reject the sweep, unless the scan
    allows it. It is safe to repeat after any interruption. Raises what ``ledger`` and ``delete``
    raise.
    """
    seen = SeenDocuments(scan.seen)
    if not scan.allow_mass_delete:
        known = gone = 0
        async for entries in ledger.in_folder(scan.tenant, scan.doc_id):
            known += len(entries)
            gone += sum(_is_gone(entry, scan, seen) for entry in entries)
        if gone > MASS_DOCUMENTS and gone > MASS_SHARE * known:
            return Rejected(_too_many(gone, known))
    documents = chunks = 0
    async for entries in ledger.in_folder(scan.tenant, scan.doc_id):
        deletions = (
            delete(Deletion(doc_id=entry.doc_id, version=scan.version, tenant=scan.tenant))
            for entry in entries
            if _is_gone(entry, scan, seen)
        )
        outcomes = await asyncio.gather(*deletions, return_exceptions=True)
        for outcome in outcomes:  # all of them have ended
            if isinstance(outcome, BaseException):
                raise outcome
        deleted = [outcome.chunks for outcome in outcomes if isinstance(outcome, Deleted)]
        documents += len(deleted)
        chunks += sum(deleted)
    return SweepResult(documents, chunks)


def _is_gone(entry: LedgerEntry, scan: Sweep, seen: SeenDocuments) -> bool:
    return (
        entry.version <= scan.version
        and entry.doc_id not in seen
        and not any(folder in seen for folder in entry.folders)
    )


def _too_many(gone: int, known: int) -> str:
    return (
        f"{gone:,} of {known:,} documents of this folder are gone; nothing was deleted. To delete "
        "them from the index, run it again with --allow-mass-delete"
    )
