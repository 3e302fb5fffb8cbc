"""Folders and blobs on a server of SFTP."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fsspec.config import conf

from ingestq.broker.blobs.remote import RemoteBlobStore
from ingestq.client.object_store import ObjectStore, look_at, open_object, open_ranges
from ingestq.core.errors import DocumentRejected, RemoteUnavailable, UsageError
from ingestq.outbound import sftp
from tests.command import Ingestq
from tests.redis_servers import HOST
from tests.sftp_server import SftpServer, sftp_server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SftpServer]:
    """A server of an empty folder."""
    (tmp_path / "served").mkdir()
    with sftp_server(tmp_path / "served", tmp_path / "known_hosts") as server:
        yield server


def content_of(url: str) -> bytes:
    """Return the object at ``url``."""
    with open_object(url) as opened:
        return b"".join(opened.blocks)


def listed(url: str) -> list[str]:
    """Return the addresses of the objects below ``url``."""
    return sorted(one.url for page in ObjectStore(url).pages() for one in page)


def test_files_are_listed_and_read_by_their_names(server: SftpServer) -> None:
    names = ["a.txt", "sub/deep/b c.txt", "sub/ä?#%41.txt", "empty.txt"]
    for name in [*names, ".hidden/x.txt", "sub/.y.txt"]:
        (server.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (server.folder / name).write_bytes(b"" if name == "empty.txt" else name.encode())
    assert not ObjectStore(f"{server.url}/sub").is_object()
    assert ObjectStore(f"{server.url}/a.txt").is_object()
    assert listed(server.url) == sorted(f"{server.url}/{name}" for name in names)
    with ThreadPoolExecutor(8) as threads:
        urls = listed(server.url) * 8
        contents = list(threads.map(content_of, urls))
    expected = [url.removeprefix(f"{server.url}/").encode() for url in urls]
    assert contents == [b"" if name == b"empty.txt" else name for name in expected]


def test_links_to_files_are_followed_and_others_are_left_out(server: SftpServer) -> None:
    (server.folder / "sub").mkdir()
    (server.folder / "sub" / "a.txt").write_text("a", "utf-8")
    (server.folder / "file.txt").symlink_to("sub/a.txt")
    (server.folder / "folder").symlink_to("sub")
    (server.folder / "broken").symlink_to("none")
    assert listed(server.url) == [f"{server.url}/file.txt", f"{server.url}/sub/a.txt"]
    assert content_of(f"{server.url}/file.txt") == b"a"


def test_a_large_file_is_read_in_any_order(server: SftpServer) -> None:
    data = b"".join(number.to_bytes(4, "big") for number in range(1_000_000))
    (server.folder / "large").write_bytes(data)
    assert content_of(f"{server.url}/large") == data
    with open_ranges(f"{server.url}/large", 1_000_000) as (file, found):
        assert found.size == len(data)
        for start, size in [(3_999_990, 100), (7, 3), (1_500_001, 1_200_000), (0, 10)]:
            file.seek(start)
            assert file.read(size) == data[start : start + size]


def test_what_is_gone_or_may_not_be_read_is_said(server: SftpServer) -> None:
    conf["sftp"] = {**server.options, "password": "wrong"}
    with pytest.raises(UsageError, match=r"access is denied.*FSSPEC_SFTP_PASSWORD.*Nothing was"):
        ObjectStore(server.url).is_object()
    with pytest.raises(DocumentRejected, match="access is denied"):
        look_at(f"{server.url}/none.txt")
    conf["sftp"] = server.options
    with pytest.raises(UsageError, match="no such bucket or folder"):
        ObjectStore(f"{server.url}/none").is_object()
    with pytest.raises(DocumentRejected, match="the object is gone"):
        look_at(f"{server.url}/none.txt")


def test_a_server_whose_key_is_not_known_gets_no_password(
    server: SftpServer, tmp_path: Path
) -> None:
    with sftp_server(server.folder, tmp_path / "others") as other:
        conf["sftp"] = server.options
        with pytest.raises(UsageError, match=r"the key of the server is not in.*known_hosts"):
            ObjectStore(other.url).is_object()
        known = server.known_hosts.read_text("utf-8").split(maxsplit=1)[1]
        server.known_hosts.write_text(f"[{HOST}]:{other.port} {known}", "utf-8")
        with pytest.raises(UsageError, match="or is another one there"):
            ObjectStore(other.url).is_object()


def test_a_lost_connection_is_made_anew(server: SftpServer) -> None:
    (server.folder / "a.txt").write_text("a", "utf-8")

    def read() -> None:
        with open_object(f"{server.url}/a.txt") as opened:
            server.disconnect()
            list(opened.blocks)

    with pytest.raises(RemoteUnavailable, match="cannot be reached"):
        read()
    assert content_of(f"{server.url}/a.txt") == b"a"


def test_a_server_that_does_not_answer_is_not_waited_for_without_an_end(
    server: SftpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sftp, "KEEPALIVE_SECONDS", 0.2)
    (server.folder / "a.txt").write_text("a", "utf-8")

    def read() -> None:
        with open_object(f"{server.url}/a.txt") as opened, server.silent():
            list(opened.blocks)

    with pytest.raises(RemoteUnavailable, match="cannot be reached"):
        read()
    assert content_of(f"{server.url}/a.txt") == b"a"
    monkeypatch.setattr(sftp, "CONNECT_SECONDS", 0.5)
    with socket.create_server((HOST, 0)) as silent:
        store = ObjectStore(f"sftp://{HOST}:{silent.getsockname()[1]}/folder")
        with pytest.raises(RemoteUnavailable, match="cannot be reached"):
            store.is_object()


def test_the_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ingestq.outbound.sftp")
    monkeypatch.setitem(sys.modules, "sshfs", None)
    with pytest.raises(UsageError, match=r"not installed.*pip install 'ingestq\[sftp\]'"):
        ObjectStore("sftp://host/folder").open()


async def in_parts(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_many_blobs_at_once(server: SftpServer, tmp_path: Path) -> None:
    store = RemoteBlobStore(f"{server.url}/blobs")
    names = [f"space/{number}" for number in range(40)]
    await asyncio.gather(
        *(store.put(name, in_parts(name.encode(), b"x" * 100_000)) for name in names)
    )
    assert sorted(await store.names("space")) == sorted(names)

    async def read(name: str) -> bytes:
        async with store.as_file(name) as path:
            return path.read_bytes()

    assert await asyncio.gather(*map(read, names)) == [
        name.encode() + b"x" * 100_000 for name in names
    ]
    await store.delete(names)
    assert await store.names("space") == []


@pytest.mark.slow
def test_run_and_run_again(
    ingestq: Ingestq, server: SftpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    (server.folder / "a.txt").write_text("The lighthouse stands on the island.", "utf-8")
    (server.folder / "b.txt").write_text("The ferry leaves at noon.", "utf-8")
    assert ingestq("run", server.url, "--json").json["documents"]["indexed"] == 2
    (server.folder / "a.txt").write_text("The lighthouse was moved.", "utf-8")
    (server.folder / "b.txt").unlink()
    counts = ingestq("run", server.url, "--json").json["documents"]
    assert (counts["indexed"], counts["deleted"]) == (1, 1)
    hits = ingestq("search", "lighthouse", "--json").json["hits"]
    assert [hit["text"] for hit in hits] == ["The lighthouse was moved."]
