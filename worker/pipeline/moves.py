"""Recognises moved documents: gone under one id, while their content was indexed under another."""

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from ingestq.core.documents import Sweep
from ingestq.core.versions import is_issued
from worker.pipeline.points import LedgerEntry
from worker.pipeline.ports import Ledger

HASHES_AT_ONCE: Final = 256
"""Contents that are looked for in one request."""


async def count_moved(scan: Sweep, ledger: Ledger, is_gone: Callable[[LedgerEntry], bool]) -> int:
    """Return how many of the documents that are gone from the folder of ``scan`` were moved.

    ``is_gone`` tells which are gone. Each needs a document of its own to which it may have moved:
    one of the same tenant, anywhere in the collection, that has the same bytes since a later
    version. Takes eight bytes of memory for each document that is gone. Raises what ``ledger``
    raises.
    """
    moved = 0
    hashes = array("Q")
    async for entries in ledger.in_folder(scan.tenant, scan.doc_id):
        hashes.extend(int(e.bytes_hash, 16) for e in entries if e.bytes_hash and is_gone(e))
    for some in _batches(hashes):
        gone: defaultdict[str, array[int]] = defaultdict(lambda: array("Q"))
        arrived: defaultdict[str, array[int]] = defaultdict(lambda: array("Q"))
        async for entries in ledger.with_bytes(scan.tenant, some):
            for entry in entries:
                if scan.doc_id in entry.folders and is_gone(entry):
                    gone[entry.bytes_hash].append(entry.issued)
                elif entry.indexed:
                    since = (entry.chunks_fence or entry.fence).version
                    arrived[entry.bytes_hash].append(since if is_issued(since) else entry.queued)
        moved += sum(pairs(gone[content], arrived[content]) for content in gone)
    return moved


def pairs(gone: Iterable[int], arrived: Iterable[int]) -> int:
    """Return how many of the versions ``gone`` can each have a later one of ``arrived`` to itself.

    All are versions of documents with the same content: when they were last indexed, and since when
    they have it.
    """
    waiting = sorted(gone)
    paired = 0
    for version in sorted(arrived):
        if paired < len(waiting) and version > waiting[paired]:
            paired += 1
    return paired


def _batches(hashes: "array[int]") -> Iterator[list[str]]:
    """Yield the different ``hashes`` as the ledger has them, some at a time."""
    some: list[str] = []
    last = None
    for content in sorted(hashes):
        if content != last:
            last = content
            some.append(f"{content:016x}")
            if len(some) == HASHES_AT_ONCE:
                yield some
                some = []
    if some:
        yield some
