"""Private folders in the temporary directory, deleted even if the process that made them is killed.

A folder is locked while its owner lives. The next process that runs documents deletes those that
nobody has locked.
"""

import asyncio
import atexit
import fcntl
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from ingestq.core.errors import UsageError
from ingestq.core.paths import BLOB_PREFIX, PROCESSES_PREFIX
from ingestq.core.service import uninterrupted

LOCK: Final = "lock"
PRIVATE: Final = 0o700


@dataclass(frozen=True)
class LockedFolder:
    """A private folder in the temporary directory, which its owner keeps locked while it lives."""

    path: Path
    lock: int

    @classmethod
    def make(cls, prefix: str) -> Self:
        """Make a new folder whose name begins with ``prefix``. Blocks. Raises OSError."""
        path = Path(tempfile.mkdtemp(prefix=prefix))
        try:
            return cls(path, _locked(path))
        except OSError:
            shutil.rmtree(path, ignore_errors=True)
            raise

    def delete(self) -> None:
        """Delete the folder with all that is in it. Blocks."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.lock)


def _locked(folder: Path) -> int:
    """Make the lock file of ``folder``; return the descriptor that holds it."""
    # Under another name first: a lock file that nobody holds means that the owner is dead.
    unlocked = folder / f"{LOCK}.new"
    lock = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    unlocked.rename(folder / LOCK)
    return lock


def delete_abandoned_folders() -> None:
    """Delete the folders of this user's processes that were killed. Blocks."""
    for prefix in (PROCESSES_PREFIX, BLOB_PREFIX):
        for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            _delete_if_abandoned(path)


def _delete_if_abandoned(path: Path) -> None:
    try:
        check_private(path)
        lock = os.open(path / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except (OSError, UsageError):
        return  # that of another user, or one that is being made or deleted
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return  # its owner lives
    else:
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)


def check_private(path: Path) -> None:
    """Raise UsageError unless ``path`` is a directory that only this user can use; or OSError."""
    status = path.lstat()
    private = stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) == PRIVATE
    if not private or status.st_uid != os.geteuid():
        raise UsageError(f"{path} is not a directory that only this user can use")


class CopyFolder:
    """A folder for the copy of a document, which a thread may fill; see `copy_folder`."""

    def __init__(self) -> None:
        self._folder: LockedFolder | None = None
        self._changing = threading.Lock()
        self._fillers = 0
        self._is_left = False

    @property
    def path(self) -> Path:
        """Its path."""
        assert self._folder is not None, "it is made by `copy_folder`"
        return self._folder.path

    @contextmanager
    def filling(self) -> Iterator[Path]:
        """Keep the folder while inside, although it may be left meanwhile; yield its path."""
        with self._changing:
            self._fillers += 1
        try:
            yield self.path
        finally:
            with self._changing:
                self._fillers -= 1
            self._delete_unused()

    def make(self) -> None:
        """Make it. Blocks. Raises OSError."""
        self._folder = LockedFolder.make(BLOB_PREFIX)
        atexit.register(self._folder.delete)  # a thread may fill it until the process ends

    def leave(self) -> None:
        """Delete it, as soon as no thread fills it. Blocks."""
        with self._changing:
            self._is_left = True
        self._delete_unused()

    def _delete_unused(self) -> None:
        with self._changing:
            if self._is_left and not self._fillers and self._folder is not None:
                atexit.unregister(self._folder.delete)
                self._folder.delete()
                self._folder = None


@asynccontextmanager
async def copy_folder() -> AsyncIterator[CopyFolder]:
    """Yield a folder for the copy of a document, which is deleted in the end. Raises OSError.

    A thread that fills it goes on if its caller is cancelled. It deletes the folder then.
    """
    folder = CopyFolder()
    try:
        await uninterrupted(asyncio.to_thread(folder.make))
        yield folder
    finally:
        await uninterrupted(asyncio.to_thread(folder.leave))
