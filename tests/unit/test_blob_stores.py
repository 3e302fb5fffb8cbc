"""Blob stores: a blob is complete, or there is none."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ingestq.broker.blobs import open_blob_store
from ingestq.broker.blobs.store import BlobStore
from ingestq.core.blobs import created_ms, is_blob_name, new_blob_name, new_blob_space
from ingestq.core.errors import BlobStoreUnavailable, DocumentRejected, UsageError

SPACE = new_blob_space()
NOW_US = 1_800_000_000_123_456


@pytest.fixture(params=["folder", "file URL", "store of fsspec"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    prefix = {"folder": "", "file URL": "file://", "store of fsspec": "local://"}[request.param]
    return open_blob_store(f"{prefix}{tmp_path}/blobs")


async def parts(*content: bytes) -> AsyncIterator[bytes]:
    for part in content:
        yield part


async def cut_off() -> AsyncIterator[bytes]:
    yield b"half of "
    raise EOFError("the client went away")


async def content(blobs: BlobStore, name: str) -> bytes:
    async with blobs.as_file(name) as path:
        return path.read_bytes()


async def test_a_blob_exists_until_it_is_deleted(blobs: BlobStore) -> None:
    name = new_blob_name(SPACE, NOW_US)
    await blobs.put(name, parts(b"The ferry ", b"", b"leaves at noon."))
    assert await content(blobs, name) == b"The ferry leaves at noon."
    assert await blobs.size(name) == 25
    assert await blobs.names(SPACE) == [name]
    await blobs.delete([name])
    await blobs.delete([name])
    assert await blobs.names(SPACE) == []
    with pytest.raises(DocumentRejected, match="not in the blob store any more"):
        await blobs.size(name)


async def test_a_blob_may_be_empty(blobs: BlobStore) -> None:
    name = new_blob_name(SPACE, NOW_US)
    await blobs.put(name, parts())
    assert await content(blobs, name) == b""


async def test_nothing_is_left_of_an_interrupted_upload(blobs: BlobStore) -> None:
    with pytest.raises(EOFError):
        await blobs.put(new_blob_name(SPACE, NOW_US), cut_off())
    assert await blobs.names(SPACE) == []


async def test_spaces_are_separate(blobs: BlobStore) -> None:
    other = new_blob_space()
    await blobs.put(new_blob_name(other, NOW_US), parts(b"theirs"))
    assert await blobs.names(SPACE) == []


async def test_a_missing_folder_does_not_reject_the_document(tmp_path: Path) -> None:
    blobs = open_blob_store(str(tmp_path / "not mounted"))
    with pytest.raises(BlobStoreUnavailable, match="INGESTQ_BLOB_URL"):
        await blobs.size(new_blob_name(SPACE, NOW_US))


async def test_an_unwritable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    blobs = open_blob_store(str(tmp_path / "file"))
    with pytest.raises(BlobStoreUnavailable, match="Not a directory"):
        await blobs.put(new_blob_name(SPACE, NOW_US), parts(b"a"))


async def test_an_unusable_url_is_reported_without_its_password() -> None:
    blobs = open_blob_store("unheard-of://user:secret@host/blobs")
    with pytest.raises(UsageError, match="Protocol not known") as raised:
        await blobs.put(new_blob_name(SPACE, NOW_US), parts(b"a"))
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("url", ["memory://blobs", "simplecache::memory://blobs"])
def test_a_store_in_memory_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="other processes cannot see"):
        open_blob_store(url)


def test_a_blob_name_holds_its_time_and_cannot_leave_the_store() -> None:
    name = new_blob_name(SPACE, NOW_US)
    assert is_blob_name(name)
    assert created_ms(name) == NOW_US // 1000
    for other in ("", name + ".part", f"{SPACE}/..", f"../{name}", f"/{name}", name + "\n"):
        assert not is_blob_name(other)
