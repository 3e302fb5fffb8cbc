"""Where no walk goes: the folders of ingestq's own files, and the file systems of the kernel."""

import os
import stat
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from ingestq.core.paths import BLOB_PREFIX, PROCESSES_PREFIX

KERNEL_FILE_SYSTEMS: Final = (Path("/proc"), Path("/sys"), Path("/dev"))
"""Their files are not documents: some never end, some block, some hold secrets of processes."""
TEMPORARY_PREFIXES: Final = (PROCESSES_PREFIX, BLOB_PREFIX)
WHOLE_FILE_SYSTEM: Final = "this is the whole file system; name the folders to index"
OWN_FILES: Final = "ingestq keeps its own files there; use another folder"
KERNEL_FILES: Final = "it belongs to a file system of the kernel, which has no documents"


@dataclass(frozen=True)
class OffLimits:
    """The folders ``own``, which need not exist yet, temporary ones, and what is of the kernel.

    Folders are recognised by device and inode: the name by which they are reached does not matter.
    All methods block.
    """

    own: Sequence[Path] = ()

    def leads_in(self, path: Path, status: os.stat_result) -> bool:
        """Return whether ``path`` is one of the folders ``own``, or a link into one.

        ``path`` itself lies in none of them, and ``status`` is that of what it leads to.
        """
        if os.path.islink(path):  # noqa: PTH114 - is_symlink() raises where it may not look
            return self.holds(path)
        if path.name.startswith(TEMPORARY_PREFIXES):
            return _is_temporary(Path(os.path.realpath(path)))
        identity = (status.st_dev, status.st_ino)
        return stat.S_ISDIR(status.st_mode) and identity in _identities_of(self.own)

    def holds(self, path: Path) -> bool:
        """Return whether ``path`` is one of the folders ``own``, or in one; it need not exist."""
        real = Path(os.path.realpath(path))
        above = (real, *real.parents)
        if any(map(_is_temporary, above)):
            return True
        return not _identities_of(self.own).isdisjoint(_identities_of(above))

    def reason_against(self, path: Path) -> str | None:
        """Return why no walk may begin at ``path``; None if it may, or if nothing is there."""
        try:
            real = Path(os.path.realpath(path))
            status = path.stat()
        except (OSError, ValueError):
            return None  # the walk says what is wrong with it
        if real == Path(real.root):
            return WHOLE_FILE_SYSTEM
        if self.holds(real):
            return OWN_FILES
        return KERNEL_FILES if status.st_dev in kernel_devices() else None


KERNEL_ONLY: Final = OffLimits()


@cache
def kernel_devices() -> frozenset[int]:
    """Return the devices of the file systems of the kernel that are mounted, not of a mere folder
    of that name."""
    devices = {path: _status(path) for path in (Path("/"), *KERNEL_FILE_SYSTEMS)}
    found = {path: status.st_dev for path, status in devices.items() if status is not None}
    return frozenset(found.values()) - {found.get(Path("/"))}


def _is_temporary(real: Path) -> bool:
    """Return whether the folder at ``real`` is one of ingestq's in the temporary directory."""
    is_own = real.name.startswith(TEMPORARY_PREFIXES)
    return is_own and real.parent == Path(os.path.realpath(tempfile.gettempdir()))


def _identities_of(folders: Iterable[Path]) -> set[tuple[int, int]]:
    """Return device and inode of the folders that exist now: some are made when first used."""
    statuses = map(_status, folders)
    return {(status.st_dev, status.st_ino) for status in statuses if status is not None}


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
