"""Addresses of remote folders, the ids of what is in them, and objects that change while read."""

import asyncio
import os
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from ftplib import error_perm
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from aiohttp.http_exceptions import ContentLengthError
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from ingestq.broker.blobs.remote import RemoteBlobStore
from ingestq.client.object_store import ObjectStore, look_at, open_object, open_ranges
from ingestq.core.documents import Document
from ingestq.core.errors import DocumentRejected, RemoteUnavailable, SourceChanged, UsageError
from ingestq.core.paths import folders_of, object_state, size_in_state
from ingestq.core.remote import remote_url
from producers.files.patterns import Patterns
from producers.remote.source import RemoteSource
from tests.ftp_server import ftp_server
from tests.waiting import SECONDS, eventually
from worker.blobs import BlobContents
from worker.remote.contents import RemoteContents

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
        ("https://user:hunter22@example.com/x", "a user or password must not be"),
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


async def test_a_folder_that_ftp_refuses_to_list_is_no_empty_one(tmp_path: Path) -> None:
    for name in ("a/x.txt", "b/sub/y.txt", ".hidden/z.txt", "c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name, "utf-8")
    (tmp_path / "empty").mkdir()
    with ftp_server(tmp_path) as server:
        server.refuse(tmp_path / ".hidden")
        listed = [one.name for page in ObjectStore(server.url).pages() for one in page]
        assert sorted(listed) == ["a/x.txt", "b/sub/y.txt", "c.txt"]
        server.refuse(tmp_path / "b" / "sub")
        with pytest.raises(
            RemoteUnavailable, match=r"/b/sub: the folder cannot be listed.*Nothing"
        ):
            list(ObjectStore(server.url).pages())
        source = RemoteSource(server.url, patterns=Patterns((), ("sub/",)))
        listed = [one.name async for page in source.lister.pages() for one in page]
        assert sorted(listed) == ["a/x.txt", "c.txt"]
        with pytest.raises(UsageError, match="there is no such bucket or folder"):
            list(ObjectStore(f"{server.url}/none").pages())


def test_objects_of_an_ftp_server_are_read_at_once_and_by_their_names(tmp_path: Path) -> None:
    names = [f"{number}{sign}a.txt" for number in range(8) for sign in ("", "?", "#", " ")]
    for name in names:
        (tmp_path / name).write_text(name, "utf-8")

    def read(url: str) -> bytes:
        with open_object(url) as opened:
            return b"".join(opened.blocks)

    with ftp_server(tmp_path) as server, ThreadPoolExecutor(8) as threads:
        found = [one.url for page in ObjectStore(server.url).pages() for one in page]
        contents = threads.map(read, found)
        assert sorted(content.decode() for content in contents) == sorted(names)


def test_a_server_of_files_is_asked_nothing_before_it_is_listed() -> None:
    nobody = ObjectStore("ftp://127.0.0.1:1/folder")
    nobody.open()
    with pytest.raises(RemoteUnavailable, match="cannot be reached"):
        nobody.is_object()


class Shaky(LocalFileSystem):  # type: ignore[misc]
    """The files of this machine, without the folder ``sub`` and the file ``bad.txt``."""

    protocol = "shaky"
    error: ClassVar[Exception]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(LocalFileSystem._strip_protocol(path.removeprefix("shaky://")))

    def ls(self, path: str, detail: bool = False, **kwargs: Any) -> Any:
        if path.endswith("/sub"):
            raise self.error
        return super().ls(path, detail=detail, **kwargs)

    def info(self, path: Any, **kwargs: Any) -> Any:
        if str(path).endswith("/bad.txt"):
            raise self.error
        return super().info(path, **kwargs)


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (
            PermissionError("no"),
            UsageError,
            r"shaky:/.*/sub: access is denied.*Nothing was deleted",
        ),
        (TimeoutError("slow"), RemoteUnavailable, r"/sub cannot be reached"),
    ],
)
def test_a_folder_that_cannot_be_listed_is_no_empty_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
    raised: type[Exception],
    said: str,
) -> None:
    fsspec.register_implementation("shaky", Shaky, clobber=True)
    monkeypatch.setattr(Shaky, "error", error, raising=False)
    (tmp_path / "docs" / "sub").mkdir(parents=True)
    with pytest.raises(raised, match=said):
        list(ObjectStore(f"shaky://{tmp_path}/docs").pages())


class SmbError(OSError):
    """An error as those of smbprotocol are."""

    def __init__(self, ntstatus: int) -> None:
        super().__init__(0, "an unknown status")
        self.ntstatus = ntstatus


def caused(error: Exception, cause: Exception) -> Exception:
    """Return ``error`` as it is when it was raised because of ``cause``."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (OSError("Forbidden: b/bucket/o"), DocumentRejected, "access is denied"),  # of gcsfs
        (error_perm("530 Login incorrect."), DocumentRejected, "access is denied"),
        (FileExistsError("412"), SourceChanged, "was changed"),  # of gcsfs
        (SmbError(0xC0000022), DocumentRejected, "access is denied"),
        (SmbError(0xC0000056), DocumentRejected, "the object is gone"),
        (SmbError(0xC0000043), RemoteUnavailable, "cannot be reached"),
        (TypeError("'>' not supported"), DocumentRejected, "'>' not supported"),
        (
            caused(ValueError("Failed to connect"), ConnectionRefusedError()),  # of smbprotocol
            RemoteUnavailable,
            "cannot be reached",
        ),
        (
            caused(OSError("not all bytes came"), ContentLengthError("Not enough data")),
            RemoteUnavailable,
            "cannot be reached",
        ),
    ],
)
def test_an_error_of_a_package_is_that_of_the_document_or_of_the_store(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    raised: type[Exception],
    said: str,
) -> None:
    fsspec.register_implementation("shaky", Shaky, clobber=True)
    monkeypatch.setattr(Shaky, "error", error, raising=False)
    with pytest.raises(raised, match=said):
        look_at(f"shaky://{tmp_path}/bad.txt")


def test_a_folder_is_no_object(store: MemoryFileSystem) -> None:
    store.pipe("/folder/sub/a.txt", b"x")
    with pytest.raises(DocumentRejected, match="the object is gone"):
        look_at("memory://folder/sub")
    with pytest.raises(DocumentRejected, match="the object is gone"):
        open_object("memory://folder/sub").__enter__()


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


@pytest.mark.parametrize("kind", ["object", "blob"])
async def test_a_copy_whose_fetch_was_given_up_is_deleted_when_that_ends(
    store: MemoryFileSystem, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store.pipe("/folder/a.txt", b"x" * 100)
    loop, info = asyncio.get_running_loop(), MemoryFileSystem.info
    has_begun, may_end = asyncio.Event(), threading.Event()

    def slow_info(*args: Any, **kwargs: Any) -> Any:
        loop.call_soon_threadsafe(has_begun.set)
        assert may_end.wait(SECONDS)
        return info(*args, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "info", slow_info)
    document = Document(doc_id="a", version=1, source="s", url="memory://folder/a.txt")
    copies: dict[str, AbstractAsyncContextManager[Any]] = {
        "object": RemoteContents(BlobContents(), 1000).as_file(document),
        "blob": RemoteBlobStore("memory://folder").as_file("a.txt"),
    }
    fetching = asyncio.create_task(copies[kind].__aenter__())
    await has_begun.wait()
    fetching.cancel()
    await asyncio.wait([fetching])
    assert fetching.cancelled()
    assert len(os.listdir(tmp_path)) == 1
    may_end.set()

    async def left() -> int:
        return len(os.listdir(tmp_path))

    await eventually(left, lambda folders: folders == 0)


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
        ("http://127.0.0.1/secret", "is not a public address; set INGESTQ_WEB_ALLOW_PRIVATE"),
        ("nostore://bucket/x", "Protocol not known"),
        ("oci://bucket/x", "a package that is not installed"),
    ],
)
async def test_a_document_at_an_address_of_no_use_is_rejected_alone(url: str, said: str) -> None:
    document = Document(doc_id="a", version=1, source="s", url=url)
    with pytest.raises(DocumentRejected, match=said):
        async with RemoteContents(BlobContents(), 1000).as_file(document):
            pass
