"""Scanning a folder again deletes what is gone from it, under the mass-deletion guard."""

import pytest

from ingestq.client.client import new_submission
from ingestq.core.documents import SeenDocumentsBuilder, Sweep
from ingestq.core.results import DocumentCounts
from tests.harness import Harness
from tests.waiting import eventually
from worker.blobs import BlobContents
from worker.pipeline.ingest import delete_as_of
from worker.pipeline.points import DocumentKey, Fence, LedgerEntry
from worker.pipeline.ports import Ports
from worker.store.chunks import QdrantStore

ENOUGH = 11
"""The fewest deletions that the guard refuses if they are a large share of the folder."""


async def test_files_gone_from_a_folder_are_deleted(harness: Harness) -> None:
    harness.write("a.txt", "b.txt", "sub/c.txt", "sub/deep/d.txt")
    assert (await harness.scan()).documents.indexed == 4
    (harness.root / "a.txt").unlink()
    (harness.root / "sub" / "c.txt").rename(harness.root / "sub" / "renamed.txt")
    summary = await harness.scan()
    assert (summary.documents, summary.waiting) == (
        DocumentCounts(indexed=1, unchanged=2, deleted=2),
        0,
    )
    assert summary.chunks.deleted == 2
    assert await harness.indexed_files() == {"b.txt", "sub/renamed.txt", "sub/deep/d.txt"}
    assert (await harness.scan()).documents == DocumentCounts(unchanged=3)


class DyingStore(QdrantStore):
    """Chunks of a worker that dies before it deletes any."""

    async def delete_stale(self, entry: LedgerEntry) -> int:
        raise ConnectionAbortedError


async def test_what_a_dead_worker_has_begun_to_delete_is_deleted(harness: Harness) -> None:
    names = [f"{number}.txt" for number in range(ENOUGH + 1)]
    harness.write(*names)
    await harness.scan()
    store = DyingStore(harness.qdrant, harness.names.chunks)
    ports = Ports(harness.model, store, harness.ledger, BlobContents())
    fence = Fence(await harness.broker.queue.issue_version(), 1)
    for name in names[1:]:  # so many that the guard would hold them back
        (harness.root / name).unlink()
        with pytest.raises(ConnectionAbortedError):
            await delete_as_of(DocumentKey("", str(harness.root / name)), fence, ports)
    deleted = await harness.scan()
    assert deleted.documents == DocumentCounts(unchanged=1, deleted=ENOUGH)
    assert deleted.chunks.deleted == ENOUGH
    assert {payload["doc_id"] for payload in await harness.payloads()} == {
        str(harness.root / names[0])
    }
    assert (await harness.scan()).documents == DocumentCounts(unchanged=1)


async def test_a_file_that_comes_back_is_indexed_again(harness: Harness) -> None:
    harness.write("a.txt", "b.txt")
    await harness.scan()
    (harness.root / "a.txt").unlink()
    assert (await harness.scan()).documents.deleted == 1
    harness.write("a.txt")
    assert (await harness.scan()).documents == DocumentCounts(indexed=1, unchanged=1)
    assert await harness.indexed_files() == {"a.txt", "b.txt"}


async def test_the_dead_letter_of_a_file_goes_with_the_file(harness: Harness) -> None:
    (harness.root / "a.bin").write_bytes(bytes(100))
    harness.write("b.txt")
    assert (await harness.scan()).documents == DocumentCounts(indexed=1, rejected=1)
    assert (await harness.dead_letters()).keys() == {str(harness.root / "a.bin")}
    (harness.root / "a.bin").unlink()
    assert (await harness.scan()).documents == DocumentCounts(unchanged=1)
    assert await harness.dead_letters() == {}


async def test_a_mass_deletion_needs_permission(harness: Harness) -> None:
    names = [f"{i}.txt" for i in range(ENOUGH + 2)]
    harness.write(*names)
    await harness.scan()
    for name in names[:ENOUGH]:
        (harness.root / name).unlink()
    summary = await harness.scan()
    assert summary.documents == DocumentCounts(unchanged=2, rejected=1)
    [refused] = summary.failed
    assert refused.doc_id == str(harness.root)
    assert refused.reason.startswith(f"{ENOUGH} of {len(names)} documents of this source are gone")
    assert "--allow-mass-delete" in refused.reason
    assert await harness.indexed_files() == set(names)
    assert await harness.dead_letters() == {refused.doc_id: refused.reason}

    summary = await harness.scan(allow_mass_delete=True)
    assert summary.documents == DocumentCounts(unchanged=2, deleted=ENOUGH)
    assert await harness.indexed_files() == set(names[ENOUGH:])
    assert await harness.dead_letters() == {}


@pytest.mark.parametrize(("gone", "left"), [(ENOUGH - 1, 1), (ENOUGH, 10 * ENOUGH - ENOUGH)])
async def test_a_small_deletion_needs_no_permission(harness: Harness, gone: int, left: int) -> None:
    """It is small if it is few documents, or at most a tenth of the folder's."""
    names = [f"{i}.txt" for i in range(gone + left)]
    harness.write(*names)
    await harness.scan()
    for name in names[:gone]:
        (harness.root / name).unlink()
    assert (await harness.scan()).documents == DocumentCounts(unchanged=left, deleted=gone)


async def test_a_missing_folder_deletes_nothing(harness: Harness) -> None:
    harness.write("a.txt")
    await harness.scan()
    harness.root.rename(harness.root.with_name("elsewhere"))
    summary = await harness.scan()
    assert summary.documents == DocumentCounts(rejected=1)
    [failed] = summary.failed
    assert "there is no such file or folder" in failed.reason
    assert await harness.indexed_files() == {"a.txt"}


async def test_files_of_an_unreadable_folder_are_not_deleted(harness: Harness) -> None:
    harness.write("a.txt", "stays.txt", "sub/b.txt", "sub/deep/c.txt")
    await harness.scan()
    (harness.root / "a.txt").unlink()
    (harness.root / "sub").rename(harness.root.with_name("moved"))
    (harness.root / "sub").symlink_to("x" * 300)  # fails, as where a server does not answer
    expected = DocumentCounts(unchanged=1, deleted=1, rejected=1)
    assert (await harness.scan()).documents == expected
    assert await harness.indexed_files() == {"stays.txt", "sub/b.txt", "sub/deep/c.txt"}


async def test_several_folders_may_share_a_name(harness: Harness) -> None:
    harness.write("one/a.txt", "two/b.txt")
    one, two = harness.root / "one", harness.root / "two"
    await harness.scan(one, two, name="notes")
    await harness.scan(one, two, name="notes")
    assert await harness.indexed() == {"notes/a.txt", "notes/b.txt"}
    two.rename(harness.root / "elsewhere")
    (one / "a.txt").unlink()
    await harness.scan(one, two, name="notes")
    assert await harness.indexed() == {"notes/a.txt", "notes/b.txt"}
    await harness.scan(one, name="notes", allow_mass_delete=True)
    assert await harness.indexed() == set()


async def test_a_scan_deletes_what_a_scan_of_a_subfolder_indexed(harness: Harness) -> None:
    harness.write("sub/a.txt", "sub/b.txt", "other/c.txt", "subway/d.txt")
    await harness.scan()
    harness.write("sub/new.txt")
    await harness.scan(harness.root / "sub", harness.root / "sub" / "a.txt")
    for name in ("sub/new.txt", "other/c.txt", "subway/d.txt"):
        (harness.root / name).unlink()
    await harness.scan(harness.root / "sub" / "a.txt")
    assert len(await harness.indexed_files()) == 5, "a scan of a file deletes nothing"
    assert (await harness.scan(harness.root / "sub")).documents.deleted == 1
    assert (await harness.scan()).documents.deleted == 2
    assert await harness.indexed_files() == {"sub/a.txt", "sub/b.txt"}


async def test_a_named_hidden_file_is_kept_when_its_folder_is_scanned(harness: Harness) -> None:
    harness.write("a.txt", ".hidden")
    for _ in range(2):
        await harness.scan(harness.root, harness.root / ".hidden")
        assert await harness.indexed_files() == {"a.txt", ".hidden"}


async def test_files_sent_inline_are_deleted_too(harness: Harness) -> None:
    harness.write("a.txt", "b.txt")
    await harness.scan(inline=True)
    (harness.root / "a.txt").unlink()
    assert (await harness.scan(inline=True)).documents.deleted == 1
    assert await harness.indexed_files() == {"b.txt"}


async def test_a_scan_keeps_documents_of_other_producers(harness: Harness) -> None:
    harness.write("a.txt")
    await harness.scan(name="notes")
    receipt = await harness.client.submit("notes/7", source="erp", text="Note 7.")
    await eventually(
        lambda: harness.broker.queue.submission(receipt.submission), lambda status: status.complete
    )
    assert (await harness.scan(name="notes")).documents.deleted == 0
    assert await harness.indexed() == {"notes/a.txt", "notes/7"}


async def test_documents_observed_after_the_scan_began_are_kept(harness: Harness) -> None:
    """Nor do they count as a mass deletion."""
    began = await harness.broker.queue.issue_version()
    names = [f"{i}.txt" for i in range(ENOUGH)]
    harness.write(*names)
    await harness.scan()
    seen = SeenDocumentsBuilder().pack()
    old = Sweep(doc_id=str(harness.root), version=began, seen=seen, found=0)
    submission = new_submission()
    await harness.client.sweep([old], submission=submission)
    status = await eventually(
        lambda: harness.broker.queue.submission(submission), lambda status: status.complete
    )
    assert status.documents == DocumentCounts()
    assert await harness.indexed_files() == set(names)
