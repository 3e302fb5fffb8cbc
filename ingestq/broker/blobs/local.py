"""A blob store in a folder of this machine, or in one that all machines have mounted."""

import asyncio
import errno
import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from ingestq.broker.blobs.store import UNFINISHED, missing
from ingestq.core.durable_files import sync_directory
from ingestq.core.errors import BlobStoreUnavailable
from ingestq.core.private_directory import private_directory

P = ParamSpec("P")
T = TypeVar("T")


class LocalBlobStore:
    """Blobs as files below ``folder``, which is created with the first of them. See `BlobStore`.

    If it is ``private``, no other user can read them. A folder that several machines share is not:
    API and workers may run as different users.
    """

    def __init__(self, folder: Path, *, private: bool = False) -> None:
        self._folder = folder
        self._private = private

    async def put(self, name: str, parts: AsyncIterable[bytes]) -> None:
        """See `BlobStore.put`."""
        path = self._path(name)
        unfinished = path.with_name(path.name + UNFINISHED)
        file = await self._do(self._create, unfinished)
        try:
            try:
                async for part in parts:
                    await self._do(file.write, part)
                await self._do(_sync, file)
            finally:
                await self._do(file.close)
            await self._do(_publish, unfinished, path)
        except BaseException:
            await self._do(_unlink, unfinished)
            raise

    async def size(self, name: str) -> int:
        """See `BlobStore.size`."""
        try:
            return (await asyncio.to_thread(self._path(name).stat)).st_size
        except FileNotFoundError as error:
            if await asyncio.to_thread(self._folder.is_dir):
                raise missing(name) from error
            raise self._unavailable("the folder does not exist on this machine") from error
        except OSError as error:
            raise self._unavailable(error.strerror) from error

    @asynccontextmanager
    async def as_file(self, name: str) -> AsyncIterator[Path]:
        """See `BlobStore.as_file`: the file itself."""
        await self.size(name)
        yield self._path(name)

    async def delete(self, names: Iterable[str]) -> None:
        """See `BlobStore.delete`."""
        for name in names:
            await self._do(_unlink, self._path(name))

    async def names(self, space: str) -> list[str]:
        """See `BlobStore.names`."""
        return [f"{space}/{entry}" for entry in await self._do(_list, self._folder / space)]

    def _create(self, path: Path) -> BinaryIO:
        if self._private:
            private_directory(self._folder)
            private_directory(path.parent)
            return open(path, "xb", opener=_owner_only)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("xb")

    def _path(self, name: str) -> Path:
        return self._folder / name

    async def _do(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function``, which blocks, in a thread. Raises BlobStoreUnavailable."""
        try:
            return await asyncio.to_thread(function, *args, **kwargs)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise BlobStoreUnavailable(
                    f"the disk is full ({error.strerror}); free some space on the disk of the "
                    f"blob store {self._folder}"
                ) from error
            raise self._unavailable(error.strerror) from error

    def _unavailable(self, reason: str | None) -> BlobStoreUnavailable:
        return BlobStoreUnavailable(
            f"the blob store {self._folder} cannot be used ({reason}); producers and workers must "
            "share one: set INGESTQ_BLOB_URL"
        )


def _owner_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _publish(unfinished: Path, path: Path) -> None:
    unfinished.rename(path)
    for folder in (path.parent, path.parent.parent):  # the parent may be new in its own parent
        sync_directory(folder)


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


def _list(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
