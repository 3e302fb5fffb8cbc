"""Addresses of remote folders, the ids of what is in them, and objects that change while read."""

from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from ingestq.client.object_store import ObjectStore, look_at, open_object, open_ranges
from ingestq.core.documents import Document
from ingestq.core.errors import DocumentRejected, SourceChanged, UsageError
from ingestq.core.paths import folders_of, object_state, size_in_state
from ingestq.core.remote import remote_url
from worker.blobs import BlobContents
from worker.remote import RemoteContents

KEYS = st.lists(st.text(st.characters(exclude_characters="/", codec="utf-8")), min_size=1).map(
    "/".join
)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("s3://bucket", "s3://bucket"),
        ("S3://Bucket/Prefix/", "s3://Bucket/Prefix"),
        ("sftp://user@host/folder", "sftp://user@host/folder"),
        ("abfs://container@account.dfs.core.windows.net/x", None),
        ("s3://bucket/a@b:c/x?y#z", None),
    ],
)
def test_an_address_has_one_form(text: str, url: str | None) -> None:
    assert remote_url(text) == (text if url is None else url)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s3://key:hunter22@bucket/x", "a password must not be in the address"),
        ("file:///etc", "is a file on this machine"),
        ("https://example.com/x", "is no folder that can be listed"),
        ("s3://", "name a bucket"),
        ("simplecache::s3://bucket", "without ::"),
        ("bucket/prefix", "write scheme://bucket/prefix"),
    ],
)
def test_what_is_no_address_of_a_folder_is_refused_without_its_secrets(
    text: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        remote_url(text)
    assert "hunter22" not in str(refused.value)


@given(key=KEYS)
def test_every_object_is_in_the_folder_that_is_swept(key: str) -> None:
    assert "s3://bucket/prefix" in folders_of(f"s3://bucket/prefix/{key}")


def test_the_folders_of_an_object_are_prefixes_of_its_url() -> None:
    assert folders_of("s3://b/p//q/x.txt") == ("s3://b/p//q", "s3://b/p/", "s3://b/p", "s3://b")


def test_a_state_tells_size_and_tag_and_what_is_stored_besides() -> None:
    document = Document(doc_id="a", version=1, source="s", url="s3://b/a")
    state = object_state(document, 7, "etag:with:colons")
    assert state is not None
    assert size_in_state(state) == 7
    assert object_state(document, 7, "other") != state
    titled = Document(doc_id="a", version=1, source="s", url="s3://b/a", metadata={"title": "A"})
    assert object_state(titled, 7, "etag:with:colons") != state
    assert object_state(document, 7, None) is None


def size_of(path: str) -> int | None:
    """Return the size of a file; None if there is none."""
    return Path(path).stat().st_size if Path(path).exists() else None


@pytest.fixture
def store() -> MemoryFileSystem:
    """A store in memory, without ETags."""
    store = MemoryFileSystem()
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    return store


def test_a_store_without_etags_is_listed(store: MemoryFileSystem) -> None:
    store.pipe({"/folder/a.md": b"x", "/folder/sub/b.txt": b"yy", "/folder/.hidden": b"z"})
    [page] = ObjectStore("memory://folder").pages()
    found = [(one.url, one.name, one.size, one.media_type) for one in page]
    assert found == [
        ("memory://folder/a.md", "a.md", 1, "text/markdown"),
        ("memory://folder/sub/b.txt", "sub/b.txt", 2, "text/plain"),
    ]
    # The time of writing does not tell yet whether it will be written again.
    assert {one.tag for one in page} == {None}


def test_an_object_that_is_written_while_it_is_read_is_no_mixture(store: MemoryFileSystem) -> None:
    store.pipe("/folder/a.txt", b"x" * 3_000_000)

    def read() -> None:
        with open_object("memory://folder/a.txt") as opened:
            next(opened.blocks)
            store.pipe("/folder/a.txt", b"y" * 3_000_000)
            list(opened.blocks)

    with pytest.raises(SourceChanged):
        read()


def test_what_is_gone_is_rejected(store: MemoryFileSystem) -> None:
    for look in (look_at, lambda url: open_object(url).__enter__()):
        with pytest.raises(DocumentRejected, match="the object is gone"):
            look("memory://folder/none.txt")
    with pytest.raises(DocumentRejected), open_ranges("memory://folder/none.txt"):
        pass


async def test_a_copy_is_gone_after_the_document(store: MemoryFileSystem) -> None:
    store.pipe("/folder/empty.txt", b"")
    document = Document(doc_id="a", version=1, source="s", url="memory://folder/empty.txt")
    contents = RemoteContents(BlobContents(), 1000)
    async with contents.as_file(document) as content:
        assert content.path is not None
        assert size_of(content.path) == 0
    assert size_of(content.path) is None


async def test_an_object_above_the_copy_limit_keeps_its_url(store: MemoryFileSystem) -> None:
    store.pipe("/folder/a.txt", b"x" * 100)
    document = Document(doc_id="a", version=1, source="s", url="memory://folder/a.txt")
    async with RemoteContents(BlobContents(), 1000, copy_bytes=99).as_file(document) as content:
        assert (content.url, content.path) == (document.url, None)
    with pytest.raises(DocumentRejected, match="INGESTQ_MAX_DOCUMENT_BYTES"):
        async with RemoteContents(BlobContents(), 99).as_file(document):
            pass


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file:///etc/hostname", "is a file on this machine"),
        ("http://127.0.0.1/secret", "is no folder that can be listed"),
        ("nostore://bucket/x", "Protocol not known"),
        ("oci://bucket/x", "a package that is not installed"),
    ],
)
async def test_a_document_at_an_address_of_no_use_is_rejected_alone(url: str, said: str) -> None:
    document = Document(doc_id="a", version=1, source="s", url=url)
    with pytest.raises(DocumentRejected, match=said):
        async with RemoteContents(BlobContents(), 1000).as_file(document):
            pass
