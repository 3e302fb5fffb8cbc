"""A sweep deletes exactly what the rule allows, whatever was known and whatever a scan found."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

from hypothesis import given, settings
from hypothesis import strategies as st

from ingestq.core.documents import ScannedVolume, SeenDocumentsBuilder, Sweep, Volume
from ingestq.core.paths import folders_of
from ingestq.core.results import LISTED_HELD
from ingestq.core.versions import FIRST_ISSUED
from worker.pipeline.deletion_guard import (
    MASS_DOCUMENTS,
    MASS_SHARE,
    DeletionGuard,
    VolumeChange,
)
from worker.pipeline.ingest import Deleted, SweepResult
from worker.pipeline.points import DocumentKey, EntryState, LedgerEntry
from worker.pipeline.sweep import sweep_folder

ROOT = "/docs"
MOUNT = "/docs/disk"
VERSION = FIRST_ISSUED + 10
PAGE = 7


@dataclass(frozen=True)
class Known:
    """A document of the index: whether it lies in the folder of the nested disk, and so on."""

    nested: bool
    device: int | None
    on_disk: bool
    is_found: bool
    is_newer: bool

    @property
    def volume(self) -> Volume | None:
        if self.device is None:
            return None
        return Volume(MOUNT if self.nested and self.on_disk else "/", self.device)

    @property
    def is_gone(self) -> bool:
        return not self.is_found and not self.is_newer


@dataclass(frozen=True)
class Scan:
    """What a scan found besides known files; ``disk`` is the device of the nested disk, if any."""

    root: int
    disk: int | None
    new: bool
    new_on_disk: bool
    allow: bool


scans = st.builds(
    Scan,
    root=st.sampled_from([1, 2]),
    disk=st.sampled_from([None, 1, 2]),
    new=st.booleans(),
    new_on_disk=st.booleans(),
    allow=st.sampled_from([False, False, False, True]),
)


def alike(
    nested: bool, device: int | None, on_disk: bool, gone: int, found: int, newer: int
) -> list[Known]:
    """Return documents that differ only in what became of them."""
    document = partial(Known, nested, device, on_disk)
    return (
        [document(is_found=False, is_newer=False)] * gone
        + [document(is_found=True, is_newer=False)] * found
        + [document(is_found=False, is_newer=True)] * newer
    )


FEW = (0, 0, 1, 2, 3)
corpora = st.lists(
    st.builds(
        alike,
        nested=st.booleans(),
        device=st.sampled_from([None, 1, 2]),
        on_disk=st.booleans(),
        # Around the numbers from which on the share matters, too.
        gone=st.sampled_from([*FEW, MASS_DOCUMENTS, MASS_DOCUMENTS + 1]),
        found=st.sampled_from([*FEW, 10 * (MASS_DOCUMENTS + 1) - MASS_DOCUMENTS - 1]),
        newer=st.sampled_from([0, 0, 0, 1]),
    ),
    min_size=1,
    max_size=3,
).map(lambda groups: list(chain.from_iterable(groups)))


class Ledger:
    """The entries of some documents, in pages."""

    def __init__(self, entries: Sequence[LedgerEntry]) -> None:
        self.entries = entries

    async def in_folder(self, tenant: str, folder: str) -> AsyncIterator[Sequence[LedgerEntry]]:
        for start in range(0, len(self.entries), PAGE):
            yield self.entries[start : start + PAGE]


def named(documents: Sequence[Known]) -> dict[str, Known]:
    return {
        f"{MOUNT if document.nested else ROOT}/{i}.txt": document
        for i, document in enumerate(documents)
    }


def entry_of(doc_id: str, document: Known) -> LedgerEntry:
    return LedgerEntry(
        tenant="",
        doc_id=doc_id,
        source=doc_id,
        version=VERSION + document.is_newer,
        attempt=1,
        content_hash="",
        chunks=1,
        state=EntryState.INDEXED,
        written_ms=0,
        folders=folders_of(doc_id),
        volume=document.volume,
    )


def sweep_of(documents: dict[str, Known], scan: Scan) -> Sweep:
    seen = SeenDocumentsBuilder()
    for doc_id, document in documents.items():
        if document.is_found:
            seen.add(doc_id)
    volumes = [ScannedVolume(ROOT, Volume("/", scan.root), 0)]
    if scan.disk is not None:
        volumes.append(ScannedVolume(MOUNT, Volume(MOUNT, scan.disk), on_disk(documents, scan)))
    return Sweep(
        doc_id=ROOT,
        version=VERSION,
        seen=seen.pack(),
        found=found(documents, scan),
        volumes=tuple(volumes),
        allow_mass_delete=scan.allow,
    )


def found(documents: dict[str, Known], scan: Scan) -> int:
    return sum(document.is_found for document in documents.values()) + scan.new + scan.new_on_disk


def on_disk(documents: dict[str, Known], scan: Scan) -> int:
    return sum(d.is_found and d.nested for d in documents.values()) + scan.new_on_disk


def volume_now(document: Known, scan: Scan) -> Volume:
    if document.nested and scan.disk is not None:
        return Volume(MOUNT, scan.disk)
    return Volume("/", scan.root)


def expected(documents: dict[str, Known], scan: Scan) -> set[str]:
    """Return what is deleted, by the rule as it is written for users."""
    gone = {doc_id for doc_id, document in documents.items() if document.is_gone}
    if scan.allow:
        return gone
    if not found(documents, scan):
        return set()

    def is_away(document: Known) -> bool:
        before, now = document.volume, volume_now(document, scan)
        if before is None:
            return False
        group = [
            other.is_gone
            for other in documents.values()
            if (other.volume, volume_now(other, scan)) == (before, now)
        ]
        if before.mount != now.mount and sum(group) > len(group) / 2:
            return True
        if before.device != now.device and all(group):
            return True
        return now.mount == MOUNT and not on_disk(documents, scan)

    gone = {doc_id for doc_id in gone if not is_away(documents[doc_id])}
    is_mass = len(gone) > MASS_DOCUMENTS and len(gone) > MASS_SHARE * len(documents)
    return set() if is_mass else gone


async def swept(documents: dict[str, Known], scan: Scan) -> tuple[set[str], SweepResult]:
    deleted = set()

    async def delete(key: DocumentKey, version: int) -> Deleted:
        assert version == VERSION
        deleted.add(key.doc_id)
        return Deleted(1)

    entries = [entry_of(doc_id, document) for doc_id, document in documents.items()]
    result = await sweep_folder(sweep_of(documents, scan), Ledger(entries), delete)  # type: ignore[arg-type]
    return deleted, result


@settings(max_examples=300)
@given(corpora, scans)
def test_a_sweep_deletes_what_the_rule_allows_and_holds_back_the_rest(
    corpus: list[Known], scan: Scan
) -> None:
    documents = named(corpus)
    deleted, result = asyncio.run(swept(documents, scan))
    assert deleted == expected(documents, scan)
    assert result.documents == len(deleted)
    kept = [doc_id for doc_id, d in documents.items() if d.is_gone and doc_id not in deleted]
    if not kept:
        assert result.held is None
    else:
        assert result.held is not None
        assert result.held.documents == len(kept)
        assert result.held.first == tuple(kept[:LISTED_HELD])


def test_moved_documents_do_not_excuse_deletions_beside_a_disk_that_is_away() -> None:
    guard = DeletionGuard()
    here, disk = Volume("/", 1), Volume(MOUNT, 2)
    for _ in range(2 * MASS_DOCUMENTS):
        guard.count(VolumeChange(disk, here), is_gone=True)
        guard.count(VolumeChange(here, here), is_gone=True)
    held = guard.held(is_source_empty=False, moved=2 * MASS_DOCUMENTS)
    assert held.keys() == {VolumeChange(disk, here), VolumeChange(here, here)}
