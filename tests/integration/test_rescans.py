"""A folder that is scanned again: what is gone from it is removed from the index, within reason."""

import pytest

from ingestq.client.client import new_submission
from ingestq.core.documents import SeenDocumentsBuilder, Sweep
from ingestq.core.results import DocumentCounts
from tests.house import House
from tests.waiting import eventually

ENOUGH = 11
"""More documents than may be deleted without a question if they are many of the folder's."""


async def test_what_is_gone_from_a_folder_is_removed(house: House) -> None:
    house.write("a.txt", "b.txt", "sub/c.txt", "sub/deep/d.txt")
    assert (await house.scan()).documents.indexed == 4
    (house.root / "a.txt").unlink()
    (house.root / "sub" / "c.txt").rename(house.root / "sub" / "renamed.txt")
    summary = await house.scan()
    assert (summary.documents, summary.waiting) == (
        DocumentCounts(indexed=1, unchanged=2, deleted=2),
        0,
    )
    assert summary.chunks.deleted == 2
    assert await house.indexed_files() == {"b.txt", "sub/renamed.txt", "sub/deep/d.txt"}
    assert (await house.scan()).documents == DocumentCounts(unchanged=3)


async def test_a_file_that_comes_back_is_indexed_again(house: House) -> None:
    house.write("a.txt", "b.txt")
    await house.scan()
    (house.root / "a.txt").unlink()
    assert (await house.scan()).documents.deleted == 1
    house.write("a.txt")
    assert (await house.scan()).documents == DocumentCounts(indexed=1, unchanged=1)
    assert await house.indexed_files() == {"a.txt", "b.txt"}


async def test_a_mass_deletion_waits_for_permission(house: House) -> None:
    names = [f"{i}.txt" for i in range(ENOUGH + 2)]
    house.write(*names)
    await house.scan()
    for name in names[:ENOUGH]:
        (house.root / name).unlink()
    summary = await house.scan()
    assert summary.documents == DocumentCounts(unchanged=2, rejected=1)
    [refused] = summary.failed
    assert refused.doc_id == str(house.root)
    assert refused.reason.startswith(f"{ENOUGH} of {len(names)} documents of this folder are gone")
    assert "--allow-mass-delete" in refused.reason
    assert await house.indexed_files() == set(names)
    assert await house.dead_letters() == {refused.doc_id: refused.reason}

    summary = await house.scan(allow_mass_delete=True)
    assert summary.documents == DocumentCounts(unchanged=2, deleted=ENOUGH)
    assert await house.indexed_files() == set(names[ENOUGH:])
    assert await house.dead_letters() == {}


@pytest.mark.parametrize(("gone", "left"), [(ENOUGH - 1, 0), (ENOUGH, 10 * ENOUGH - ENOUGH)])
async def test_few_deletions_need_no_permission(house: House, gone: int, left: int) -> None:
    """Either few documents, or a small share of the folder's: a tenth at most."""
    names = [f"{i}.txt" for i in range(gone + left)]
    house.write(*names)
    await house.scan()
    for name in names[:gone]:
        (house.root / name).unlink()
    assert (await house.scan()).documents == DocumentCounts(unchanged=left, deleted=gone)


async def test_a_folder_that_is_missing_loses_nothing(house: House) -> None:
    house.write("a.txt")
    await house.scan()
    house.root.rename(house.root.with_name("elsewhere"))
    summary = await house.scan()
    assert summary.documents == DocumentCounts(rejected=1)
    [failed] = summary.failed
    assert "there is no such file or folder" in failed.reason
    assert await house.indexed_files() == {"a.txt"}


async def test_what_cannot_be_listed_is_not_taken_for_gone(house: House) -> None:
    house.write("a.txt", "sub/b.txt", "sub/deep/c.txt")
    await house.scan()
    (house.root / "a.txt").unlink()
    (house.root / "sub").rename(house.root.with_name("moved"))
    (house.root / "sub").symlink_to("nowhere")
    assert (await house.scan()).documents == DocumentCounts(deleted=1, rejected=1)
    assert await house.indexed_files() == {"sub/b.txt", "sub/deep/c.txt"}


async def test_of_several_folders_of_one_name_all_count(house: House) -> None:
    house.write("one/a.txt", "two/b.txt")
    one, two = house.root / "one", house.root / "two"
    await house.scan(one, two, name="notes")
    await house.scan(one, two, name="notes")
    assert await house.indexed() == {"notes/a.txt", "notes/b.txt"}
    two.rename(house.root / "elsewhere")
    (one / "a.txt").unlink()
    await house.scan(one, two, name="notes")
    assert await house.indexed() == {"notes/a.txt", "notes/b.txt"}
    await house.scan(one, name="notes")
    assert await house.indexed() == set()


async def test_the_whole_folder_knows_what_was_indexed_of_a_part_of_it(house: House) -> None:
    house.write("sub/a.txt", "sub/b.txt", "other/c.txt", "subway/d.txt")
    await house.scan()
    house.write("sub/new.txt")
    await house.scan(house.root / "sub", house.root / "sub" / "a.txt")
    for name in ("sub/new.txt", "other/c.txt", "subway/d.txt"):
        (house.root / name).unlink()
    await house.scan(house.root / "sub" / "a.txt")
    assert len(await house.indexed_files()) == 5, "a scan of a file deletes nothing"
    assert (await house.scan(house.root / "sub")).documents.deleted == 1
    assert (await house.scan()).documents.deleted == 2
    assert await house.indexed_files() == {"sub/a.txt", "sub/b.txt"}


async def test_a_hidden_file_that_is_named_stays_beside_its_folder(house: House) -> None:
    house.write("a.txt", ".hidden")
    for _ in range(2):
        await house.scan(house.root, house.root / ".hidden")
        assert await house.indexed_files() == {"a.txt", ".hidden"}


async def test_files_that_were_sent_inline_are_swept_too(house: House) -> None:
    house.write("a.txt", "b.txt")
    await house.scan(inline=True)
    (house.root / "a.txt").unlink()
    assert (await house.scan(inline=True)).documents.deleted == 1
    assert await house.indexed_files() == {"b.txt"}


async def test_documents_from_elsewhere_are_left_alone(house: House) -> None:
    house.write("a.txt")
    await house.scan(name="notes")
    receipt = await house.client.submit("notes/7", source="erp", text="Note 7.")
    await eventually(
        lambda: house.broker.queue.submission(receipt.submission), lambda status: status.complete
    )
    assert (await house.scan(name="notes")).documents.deleted == 0
    assert await house.indexed() == {"notes/a.txt", "notes/7"}


async def test_what_was_observed_after_the_scan_began_stays(house: House) -> None:
    """And does not make it a mass deletion."""
    began = await house.broker.queue.now()
    names = [f"{i}.txt" for i in range(ENOUGH)]
    house.write(*names)
    await house.scan()
    old = Sweep(doc_id=str(house.root), version=began, seen=SeenDocumentsBuilder().pack())
    submission = new_submission()
    await house.client.sweep([old], submission=submission)
    status = await eventually(
        lambda: house.broker.queue.submission(submission), lambda status: status.complete
    )
    assert status.documents == DocumentCounts()
    assert await house.indexed_files() == set(names)
