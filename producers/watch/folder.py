"""A watched folder: which of its files are documents, their sidecars, and whether it is there."""

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, Final

from ingestq.core.documents import DEFAULT_COLLECTION
from ingestq.core.limits import METADATA_BYTES, decode_metadata
from producers.files.patterns import Patterns

UNFINISHED_SUFFIXES: Final = (".part", ".partial", ".tmp", ".crdownload", "~")
"""Suffixes of files that are still being written, and of backups. The file is queued when it gets
its final name."""
SIDECAR_SUFFIX: Final = ".meta.json"
NO_REGULAR_FILE: Final = frozenset({errno.ELOOP, errno.ENXIO, errno.EOPNOTSUPP})
"""Errors of opening a link that is not to be followed, a socket or a device without a driver."""
DONE: Final = "done"
FAILED: Final = "failed"
"""Subfolders into which the files of a hot folder are moved."""


@dataclass(frozen=True)
class WatchedFolder:
    """A folder, and how its files become documents of ``collection``.

    ``name`` replaces the folder's path at the start of document ids, see
    `producers.files.walk.Root`. ``include`` and ``exclude`` are patterns as in a .gitignore file,
    relative to the folder; without ``include`` every file is included. ``metadata`` is stored with
    each document. A ``hot`` folder is an inbox: each file is moved to ``done`` or ``failed`` once
    its document is indexed or rejected, and the document stays in the index. Raises ValueError if a
    pattern is invalid.
    """

    path: Path
    name: str | None = None
    tenant: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    collection: str = DEFAULT_COLLECTION
    hot: bool = False

    def __post_init__(self) -> None:
        self._patterns  # noqa: B018 - raises here if a pattern is invalid

    def is_document(self, path: Path) -> bool:
        """Return whether the file at ``path``, which is in the folder, is a document."""
        relative = path.relative_to(self.path)
        if not self.may_hold_documents(path) or is_sidecar(path):
            return False
        return self._patterns.match(relative)

    def may_hold_documents(self, path: Path) -> bool:
        """Return whether ``path``, which is in the folder, or anything below it may be a document.

        Hidden and unfinished names may not, nor may the results of a hot folder.
        """
        relative = path.relative_to(self.path)
        is_result = self.hot and relative.parts[:1] in ((DONE,), (FAILED,))
        return is_visible(relative) and not is_result

    @cached_property
    def _patterns(self) -> Patterns:
        return Patterns(self.include, self.exclude)


def is_visible(relative: PurePath) -> bool:
    """Return whether no part of a path in the folder is hidden or unfinished by its name."""
    return not any(
        part.startswith(".") or part.endswith(UNFINISHED_SUFFIXES) for part in relative.parts
    )


def is_sidecar(path: PurePath) -> bool:
    """Return whether ``path`` is the metadata file of the document beside it."""
    return path.name.endswith(SIDECAR_SUFFIX) and path.name != SIDECAR_SUFFIX


def document_path(path: Path) -> Path:
    """Return the document that a change at ``path`` concerns: for a sidecar, the file beside it."""
    return path.with_name(path.name.removesuffix(SIDECAR_SUFFIX)) if is_sidecar(path) else path


def sidecar_path(path: Path) -> Path:
    """Return where the sidecar of the file at ``path`` would be."""
    return path.with_name(path.name + SIDECAR_SUFFIX)


def read_sidecar(path: Path) -> dict[str, Any]:
    """Return the metadata in the sidecar of the file at ``path``; empty without a sidecar.

    Raises ValueError, which names the sidecar and what is wrong with it.
    """
    return _read_sidecar(sidecar_path(path), None)


def read_sidecar_in(folder: int, name: str) -> dict[str, Any]:
    """Do the same for the file ``name`` in the folder of which ``folder`` is a descriptor."""
    return _read_sidecar(PurePath(name + SIDECAR_SUFFIX), folder)


def _read_sidecar(sidecar: PurePath, folder: int | None) -> dict[str, Any]:
    try:
        data = _read(sidecar, folder)
    except FileNotFoundError:
        return {}
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # no file can have that name
            return {}
        raise ValueError(f"{sidecar.name} cannot be read: {error.strerror}") from error
    if data is None:
        raise ValueError(f"{sidecar.name} is not a regular file")
    try:
        return decode_metadata(data)
    except ValueError as error:
        raise ValueError(f"{sidecar.name} is not valid metadata: {error}") from error


def _read(sidecar: PurePath, folder: int | None) -> bytes | None:
    """Return the content, or None if it is no regular file: a link might lead out of the folder."""
    # Opening a FIFO does not wait for a writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(sidecar, flags, dir_fd=folder)
    except OSError as error:
        if error.errno in NO_REGULAR_FILE:
            return None
        raise
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        return file.read(METADATA_BYTES + 1)  # one more shows that it is too large


MISSING: Final = "it is missing, or what is mounted there is not; nothing of it is deleted"


class Presence:
    """Checks whether a folder is there, still the same one, and readable.

    ``identity`` is the device and inode last seen. Another folder in its place counts only once it
    is not empty: an empty one is the mount point of an unmounted file system. ``reason`` is why the
    last check failed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.identity: tuple[int, int] | None = None
        self.reason = ""

    def check(self) -> bool:
        """Return whether the folder can be read, and remember which one it is. Blocks."""
        self.reason = self._obstacle()
        return not self.reason

    def _obstacle(self) -> str:
        try:
            status = self._path.stat()
            identity = (status.st_dev, status.st_ino)
            is_another = self.identity not in (None, identity)
            with os.scandir(self._path) as entries:
                if is_another and next(entries, None) is None:
                    return MISSING
        except (FileNotFoundError, NotADirectoryError):
            return MISSING
        except OSError as error:
            return f"it cannot be read: {error.strerror}; nothing of it is deleted"
        self.identity = identity
        return ""
