"""A blob store in any storage that fsspec supports: S3, Google Cloud Storage, Azure, SFTP, …"""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from ingestq.broker.blobs.store import UNFINISHED, missing
from ingestq.core.daemon_threads import DaemonThreads
from ingestq.core.errors import (
    BlobStoreUnavailable,
    DocumentRejected,
    UsageError,
    in_one_line,
)
from ingestq.core.temporary_folders import CopyFolder, copy_folder
from ingestq.core.urls import public_url, secrets_in, without_secrets
from ingestq.outbound.stores import store_at

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

P = ParamSpec("P")
T = TypeVar("T")

CALLS: Final = 16
"""Calls of a storage's library at the same time."""


class RemoteBlobStore:
    """Blobs below ``url``. See `BlobStore`.

    The storage's library is loaded, and the storage connected to, at the first use.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._threads = DaemonThreads("blobs", CALLS)

    async def put(self, name: str, parts: AsyncIterable[bytes]) -> None:
        """See `BlobStore.put`."""
        unfinished = name + UNFINISHED
        file = await self._do(self._create, unfinished)
        try:
            try:
                async for part in parts:
                    await self._do(file.write, part)
            finally:
                await self._do(file.close)  # complete now, but not yet under its name
            await self._do(self._publish, name)
        except BaseException:
            with suppress(BlobStoreUnavailable):  # garbage collection deletes it later
                await self._do(self._delete, unfinished)
            raise

    async def size(self, name: str) -> int:
        """See `BlobStore.size`."""
        return int(await self._do(self._size, name))

    @asynccontextmanager
    async def as_file(self, name: str) -> AsyncIterator[Path]:
        """See `BlobStore.as_file`: a copy."""
        async with AsyncExitStack() as opened:
            try:
                folder = await opened.enter_async_context(copy_folder())
            except OSError as error:
                raise self._unavailable(error) from error
            yield await self._do(self._download, name, folder)

    async def delete(self, names: Iterable[str]) -> None:
        """See `BlobStore.delete`."""
        for name in names:
            await self._do(self._delete, name)

    async def names(self, space: str) -> list[str]:
        """See `BlobStore.names`."""
        return [f"{space}/{entry}" for entry in await self._do(self._list, space)]

    def _opened(self, name: str) -> "tuple[AbstractFileSystem, str]":
        """Return the file system of the store, and the path of a blob in it."""
        try:
            store, path = store_at(self._url)
        except (ImportError, ValueError) as error:  # a package is missing, or nobody knows it
            said = without_secrets(str(error), secrets_in(self._url))
            raise UsageError(f"INGESTQ_BLOB_URL {public_url(self._url)!r}: {said}") from error
        return store, f"{path.rstrip('/')}/{name}"

    def _create(self, name: str) -> Any:
        store, path = self._opened(name)
        store.makedirs(path.rpartition("/")[0], exist_ok=True)
        return store.open(path, "wb")

    def _publish(self, name: str) -> None:
        store, path = self._opened(name)
        store.mv(path + UNFINISHED, path)

    def _size(self, name: str) -> Any:
        store, path = self._opened(name)
        try:
            return store.size(path)
        except FileNotFoundError as error:
            raise missing(name) from error

    def _download(self, name: str, folder: CopyFolder) -> Path:
        store, path = self._opened(name)
        with folder.filling() as copies:
            copy = copies / "content"
            try:
                store.get_file(path, str(copy))
            except FileNotFoundError as error:
                raise missing(name) from error
        return copy

    def _delete(self, name: str) -> None:
        store, path = self._opened(name)
        with suppress(FileNotFoundError):
            store.rm_file(path)

    def _list(self, space: str) -> list[str]:
        store, path = self._opened(space)
        store.invalidate_cache()
        try:
            found = store.ls(path, detail=False)
        except FileNotFoundError:
            return []
        return [str(path).rstrip("/").rpartition("/")[2] for path in found]

    async def _do(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function``, which blocks, in a thread. Raises BlobStoreUnavailable."""
        try:
            return await self._threads.call(function, *args, **kwargs)
        except (DocumentRejected, UsageError):
            raise
        except Exception as error:  # every storage has its own exceptions
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> BlobStoreUnavailable:
        said = without_secrets(in_one_line(error), secrets_in(self._url))
        return BlobStoreUnavailable(
            f"the blob store {public_url(self._url)} cannot be used: {said}"
        )
