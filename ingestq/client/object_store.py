"""Objects in any store that fsspec reaches: S3, Google Cloud Storage, Azure, SFTP, …

Credentials are looked for where the store's own package looks: its environment variables, its
files, and fsspec's configuration. Everything here blocks: call it in a thread.
"""

import time
from collections.abc import (
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

from ingestq.core.errors import (
    DocumentRejected,
    RemoteUnavailable,
    SourceChanged,
    UsageError,
)
from ingestq.core.paths import guess_media_type
from ingestq.core.remote import EXTRAS, SERVERS_OF_FILES, RemoteObject, remote_url, scheme_of
from ingestq.core.urls import public_url
from ingestq.outbound.store_errors import CHANGED, is_missing, of_one_object, of_store, translated
from ingestq.outbound.stores import kind_of, store_at

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

PAGE_OBJECTS: Final = 1000
"""Objects that are listed at once; S3 lists no more in one answer."""
BLOCK_BYTES: Final = 1024 * 1024
RANGE_BYTES: Final = 16 * 1024 * 1024
"""What is read ahead of a large object that is read to its end: a request takes as long as a few
megabytes."""
WRITE_TAGS: Final = ("generation", "ETag", "etag")
"""Names under which stores tell what changes with each write, the most exact first."""
WRITE_TIMES: Final = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
"""Names under which they tell when an object was written."""
TIME_RESOLUTION_SECONDS: Final = 2.0
"""Of an object that was written later than so long ago, the time does not tell the state: the next
write may leave it as it is."""
NO_NAMES: Final = frozenset({".", ".."})
"""What paths are made of, and no hidden names."""
MEDIA_TYPES: Final = ("contentType", "content_type", "ContentType", "mimetype")


class OpenObject(NamedTuple):
    """An object that is being read: its state in the store, and its bytes.

    ``blocks`` raises SourceChanged if the object is written meanwhile, and RemoteUnavailable.
    """

    tag: str | None
    size: int | None
    blocks: Iterator[bytes]


class ObjectStore:
    """The folder, or the object, at ``url``; see `ingestq.core.remote.remote_url`.

    Methods raise UsageError if the package for it is missing, access is denied, or there is no such
    bucket or folder, and RemoteUnavailable if the store does not answer.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def open(self) -> None:
        """Load the package for the store, without a request.

        Raises UsageError if it is missing, or refuses how the store is configured.
        """
        with translated(self.url):
            is_connected_at_once = scheme_of(self.url) in SERVERS_OF_FILES
            if kind_of(self.url).async_impl and not is_connected_at_once:
                store_at(self.url)

    def is_object(self) -> bool:
        """Return whether there is an object at ``url``, and not a folder.

        Raises UsageError if there is neither, also if the bucket does not exist.
        """
        with translated(self.url):
            store, path = store_at(self.url)
            store.invalidate_cache()
            try:
                return str(store.info(path)["type"]) == "file"
            except Exception as error:
                if not is_missing(error):
                    raise
                # Buckets have no empty folders: there are only objects with a longer key.
                bucket = path.partition("/")[0]
                has_buckets = scheme_of(self.url) in EXTRAS.keys() - SERVERS_OF_FILES
                if not (has_buckets and store.exists(bucket)):
                    raise UsageError(
                        f"{public_url(self.url)}: there is no such bucket or folder; check the "
                        "name. Nothing was deleted from the index"
                    ) from error
                return False

    def pages(
        self, excludes: Callable[[str], bool] = lambda _: False
    ) -> Iterator[Sequence[RemoteObject]]:
        """Yield all objects, in groups, without hidden ones (``.name``) and markers of folders.

        A store that lists one folder at a time does not list those of which ``excludes`` is true,
        by their names below ``url``. It ends only if there are no more.
        """
        with translated(self.url):
            store, path = store_at(self.url)
            store.invalidate_cache()
            found = _found_in(store, path, self.url, excludes)
            while page := list(islice(found, PAGE_OBJECTS)):
                objects = (self._object(path, info) for info in page)
                yield [found for found in objects if found is not None]

    def one(self) -> RemoteObject:
        """Return the object at ``url``."""
        with translated(self.url):
            store, path = store_at(self.url)
            info = store.info(path)
            name = self.url.rpartition("/")[2]
            return _described(self.url, name, info)

    def _object(self, root: str, info: Mapping[str, Any]) -> RemoteObject | None:
        name = str(info["name"]).removeprefix(root).removeprefix("/")
        if not name or name.endswith("/") or info.get("type", "file") != "file":
            return None
        if any(map(_is_hidden, name.split("/"))):
            return None
        return _described(f"{self.url}/{name}", name, info)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") and name not in NO_NAMES


def _found_in(
    store: "AbstractFileSystem", path: str, url: str, excludes: Callable[[str], bool]
) -> Iterator[Mapping[str, Any]]:
    """Yield what the store tells of each object under ``path``, page by page if it can."""
    listing = _listing_of(store, path)
    if listing is not None:
        from fsspec.asyn import sync

        while page := sync(store.loop, _next_of, listing):
            yield from page
        return
    if _has_folders(store):
        yield from _walked(store, path, url, excludes)
        return
    found = store.find(path, detail=True)
    if not found and not store.exists(path) and not store.exists(path.partition("/")[0] or "/"):
        raise FileNotFoundError(path)
    yield from found.values()


def _has_folders(store: "AbstractFileSystem") -> bool:
    """Return whether ``store`` lists one folder at a time, and cannot list all below it at once."""
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    kind = type(store)
    find = getattr(kind, "_find", AsyncFileSystem._find)
    return kind.find is AbstractFileSystem.find and find is AsyncFileSystem._find


def _walked(
    store: "AbstractFileSystem", root: str, url: str, excludes: Callable[[str], bool]
) -> Iterator[Mapping[str, Any]]:
    """Yield what ``store`` tells of each object under ``root``, folder by folder.

    `find` of fsspec takes a folder that cannot be listed for an empty one.
    """
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            listing = _listed(store, folder)
        except Exception as error:
            if folder == root:
                raise
            place = f"{url}/{folder.removeprefix(root).strip('/')}"
            if not is_missing(error):
                raise of_store(error, place) from error
            raise RemoteUnavailable(
                f"{public_url(place)}: the folder cannot be listed, or is gone since its name was "
                "listed; check its permissions, exclude it, or try again later. Nothing was "
                "deleted from the index"
            ) from error
        for info in listing:
            name = str(info["name"]).rstrip("/")
            if info.get("type") != "directory":
                yield info
            elif name != folder.rstrip("/"):
                below = name.removeprefix(root).strip("/")
                if not _is_hidden(below.rpartition("/")[2]) and not excludes(below):
                    pending.append(name)


def _listed(store: "AbstractFileSystem", folder: str) -> Sequence[Mapping[str, Any]]:
    """Return what is in ``folder``. Raises FileNotFoundError if FTP refuses to list it."""
    if store.protocol == "smb":
        return list(_those_left(store, store.ls(folder, detail=False)))
    found: Sequence[Mapping[str, Any]] = store.ls(folder, detail=True)
    if not found and store.protocol == "ftp" and folder not in store.dircache:
        # `ls` of FTP takes a folder that the server refuses to list for an empty one.
        raise FileNotFoundError(folder)
    return found


def _those_left(store: "AbstractFileSystem", names: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    """Yield what ``store`` tells of each name that is still there.

    `ls` of SMB asks for one after the other, and fails if one has gone meanwhile.
    """
    for name in names:
        try:
            yield store.info(name)
        except Exception as error:
            if not is_missing(error):
                raise


def _listing_of(store: Any, path: str) -> AsyncIterator[Mapping[str, Any]] | None:
    """Return what lists all objects under ``path`` page by page; None if the store has none."""
    if _is_s3(store):
        bucket, _, prefix = path.partition("/")
        listing: AsyncIterator[Mapping[str, Any]] = store._iterdir(
            bucket, delimiter="", prefix=f"{prefix}/" if prefix else ""
        )
        return listing
    return _azure_listing(store, path) if hasattr(store, "service_client") else None


async def _azure_listing(store: Any, path: str) -> AsyncIterator[Mapping[str, Any]]:
    """Yield what Azure tells of each blob: `find` of adlfs drops the slash that ends a marker."""
    container, _, prefix = path.partition("/")
    async with store.service_client.get_container_client(container) as client:
        below = f"{prefix}/" if prefix else None
        async for blob in client.list_blobs(include=["metadata"], name_starts_with=below):
            info = (await store._details([blob]))[0]
            yield {**info, "name": f"{container}/{blob.name}"}


async def _next_of(listing: AsyncIterator[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    page: list[Mapping[str, Any]] = []
    async for info in listing:
        page.append(info)
        if len(page) == PAGE_OBJECTS:
            break
    return page


def _store_of(url: str) -> "tuple[AbstractFileSystem, str]":
    """Return the file system of an object, and the path in it.

    What cannot be used raises DocumentRejected: one document must not stop a worker.
    """
    try:
        remote_url(url)
        with translated(url):
            return store_at(url)
    except UsageError as error:
        raise DocumentRejected(str(error)) from error


def _opened(store: "AbstractFileSystem", path: str, block_bytes: int) -> Any:
    """Open an object to read it, with ``block_bytes`` at least in each request."""
    if store.protocol == "smb":  # it reads ahead itself; others may go on writing the file
        return store.open(path, "rb", block_size=block_bytes, share_access="rwd")
    return store.open(path, "rb", block_size=block_bytes, cache_type="readahead")


def _info_of_object(store: "AbstractFileSystem", path: str) -> Mapping[str, Any]:
    """Return what the store tells of an object. Raises FileNotFoundError if that is a folder."""
    info: Mapping[str, Any] = store.info(path)
    if info.get("type") == "directory":
        raise FileNotFoundError(path)
    return info


def look_at(url: str) -> RemoteObject:
    """Return the object at ``url`` as it is now.

    Raises DocumentRejected if it is gone, may not be read, or this process cannot reach such
    stores, and RemoteUnavailable.
    """
    store, path = _store_of(url)
    with of_one_object(url):
        return _described(url, url.rpartition("/")[2], _info_of_object(store, path))


@contextmanager
def open_object(url: str) -> Generator[OpenObject, None, None]:
    """Open the object at ``url``, and yield it with its state. Read it inside this context.

    Raises as `look_at` does, inside the context too.
    """
    store, path = _store_of(url)
    with of_one_object(url):
        if _is_s3(store):
            with _s3_object(store, path) as opened:
                yield opened
        else:
            info = _info_of_object(store, path)
            with _opened(store, path, BLOCK_BYTES) as file:
                yield OpenObject(_tag_of(info), info.get("size"), _checked(store, path, info, file))


@contextmanager
def open_ranges(
    url: str, ahead_bytes: int = RANGE_BYTES
) -> Iterator[tuple[BinaryIO, RemoteObject]]:
    """Open the object at ``url`` to read parts of it, in any order; yield it with what it is now.

    Each request reads ``ahead_bytes`` more than was asked for; nothing else is kept. Raises as
    `open_object` does, and SourceChanged if the store refuses to go on because the object was
    written meanwhile.
    """
    store, path = _store_of(url)
    with of_one_object(url):
        found = _described(url, url.rpartition("/")[2], _info_of_object(store, path))
        with _opened(store, path, ahead_bytes) as file:
            yield file, found


@contextmanager
def _s3_object(store: Any, path: str) -> Generator[OpenObject, None, None]:
    """Open an object with one request, whose answer has the state of the bytes that follow."""
    from fsspec.asyn import sync

    bucket, key, _ = store.split_path(path)
    answer, first = sync(store.loop, _s3_answer, store, bucket, key)
    body = answer["Body"]

    def blocks() -> Iterator[bytes]:
        block = first
        while block:
            yield block
            block = sync(store.loop, _block_of, body) if len(block) == BLOCK_BYTES else b""

    try:
        yield OpenObject(_tag_of(answer), answer.get("ContentLength"), blocks())
    finally:
        store.loop.call_soon_threadsafe(body.close)


async def _s3_answer(store: Any, bucket: str, key: str) -> tuple[Any, bytes]:
    answer = await store._call_s3("get_object", Bucket=bucket, Key=key, **store.req_kw)
    return answer, await _block_of(answer["Body"])


async def _block_of(body: Any) -> bytes:
    """Return the next `BLOCK_BYTES` of a body, or all that is left."""
    parts: list[bytes] = []
    wanted = BLOCK_BYTES
    while wanted and (part := await body.read(wanted)):
        parts.append(part)
        wanted -= len(part)
    return b"".join(parts)


def _checked(store: Any, path: str, before: Mapping[str, Any], file: Any) -> Iterator[bytes]:
    """Yield the bytes of ``file``. Raises SourceChanged unless it stays as it was ``before``."""
    while block := file.read(BLOCK_BYTES):
        yield block
    file.close()  # Samba tells the time of the last write only then
    store.invalidate_cache()
    if _raw_state(store.info(path)) != _raw_state(before):
        raise SourceChanged(CHANGED)


def _raw_state(info: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(info.get(name) for name in ("size", *WRITE_TAGS, *WRITE_TIMES))


def _is_s3(store: "AbstractFileSystem") -> bool:
    protocols = (store.protocol,) if isinstance(store.protocol, str) else store.protocol
    return "s3" in protocols and hasattr(store, "_call_s3")


def _described(url: str, name: str, info: Mapping[str, Any]) -> RemoteObject:
    told = next((str(info[key]) for key in MEDIA_TYPES if info.get(key)), None)
    media_type = guess_media_type(name.rpartition("/")[2])
    if media_type is None and told is not None and not told.endswith("octet-stream"):
        media_type = told.partition(";")[0]
    return RemoteObject(url, name, _tag_of(info), info.get("size"), media_type)


def _tag_of(info: Mapping[str, Any]) -> str | None:
    """Return what tells the state of an object; None if nothing does."""
    for name in WRITE_TAGS:
        if info.get(name):
            return str(info[name]).removeprefix("W/").strip('"')
    for name in WRITE_TIMES:
        written = info.get(name)
        if isinstance(written, datetime):
            written = written.timestamp()
        if isinstance(written, int | float):
            return None if time.time() - written < TIME_RESOLUTION_SECONDS else str(written)
        if isinstance(written, str):
            return written
    return None
