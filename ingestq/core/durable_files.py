"""Files and names that are still there after a power cut. Everything blocks, and raises OSError."""

import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

NAME_CHARACTERS: Final = 32
"""So much of the name of its file a draft has. A name may have 255 bytes."""
PARTIAL: Final = ".partial"
RANDOM: Final = "[a-z0-9_]{8}"
"""What `tempfile` puts between a prefix and a suffix."""


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` when the block ends, and is durable then.

    Nothing is left of it if the block fails; if the process is killed, a hidden file beside
    ``path`` is, which the next call for ``path`` removes. Several may replace ``path`` at the same
    time. Only the user can read the file.
    """
    hidden = f".{path.name[:NAME_CHARACTERS]}."
    with suppress(OSError):
        _remove_abandoned(path.parent, hidden)
    number, draft = _locked_draft(path.parent, hidden)
    try:
        with os.fdopen(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(number)
            rename_durably(draft, path)  # still locked
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _locked_draft(folder: Path, hidden: str) -> tuple[int, Path]:
    """Create a draft, locked as long as its descriptor is open; return both."""
    while True:
        number, name = tempfile.mkstemp(PARTIAL, hidden, folder)
        with suppress(OSError):  # the file system has no locks, so nobody removes drafts
            fcntl.flock(number, fcntl.LOCK_EX)
        if os.fstat(number).st_nlink:
            return number, Path(name)
        os.close(number)  # it was removed before it was locked


def _remove_abandoned(folder: Path, hidden: str) -> None:
    """Remove the drafts that no process has locked."""
    draft = re.compile(re.escape(hidden) + RANDOM + re.escape(PARTIAL))
    with os.scandir(folder) as entries:
        found = [entry.path for entry in entries if draft.fullmatch(entry.name)]
    for path in found:
        with suppress(OSError):
            # Open for writing: locks of network file systems need that.
            number = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)  # noqa: PTH108 - still locked
            finally:
                os.close(number)


def rename_durably(source: Path, target: Path) -> None:
    """Rename ``source``, which may replace a file ``target``; on the disk on return."""
    source.replace(target)
    sync_directory(target.parent)


def sync_directory(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
