"""Moves the processed files of a hot folder to ``done`` or ``failed``, and never out of the folder.

Whoever can write to the folder can put a link in the place of any file or folder in it, at any
moment. So each folder on the way is opened by its name in the one above it, links are not followed,
and files are checked and moved between these descriptors. All functions block.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path, PurePath
from typing import Final

from ingestq.core.documents import Document
from producers.watch.folder import (
    DONE,
    FAILED,
    SIDECAR_SUFFIX,
    WatchedFolder,
    read_sidecar_in,
)
from producers.watch.settling import FileState

ERROR_SUFFIX: Final = ".error.txt"
FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
NOT_A_FOLDER: Final = frozenset({errno.ELOOP, errno.ENOTDIR})
"""Errors of opening what is a link or a file instead of a folder; which of them depends on the
system."""

NO_SUCH_NAME: Final = frozenset({errno.ENOENT, errno.ENAMETOOLONG})


@dataclass(frozen=True)
class QueuedFile:
    """A file whose document is on the queue, and the state in which it was found."""

    path: Path
    state: FileState
    document: Document


def is_unchanged(file: QueuedFile, folder: WatchedFolder) -> bool:
    """Return whether a file and its sidecar are still those that were queued.

    Raises FileNotFoundError if the file is gone, and OSError if the way to it leads over a link.
    """
    relative = file.path.relative_to(folder.path)
    with _opened(folder.path) as root, _opened_below(root, relative.parent.parts) as parent:
        if FileState.of(os.stat(relative.name, dir_fd=parent)) != file.state:
            return False
        try:
            metadata = {**folder.metadata, **read_sidecar_in(parent, relative.name)}
        except ValueError:
            return False
    return metadata == file.document.metadata


def move(file: QueuedFile, folder: WatchedFolder, reason: str | None) -> None:
    """Move a file and its sidecar to ``done``, or to ``failed`` if there is a ``reason``.

    The file keeps its path relative to the folder; if that name is taken, it gets a number. The
    reason is written beside it. Raises OSError if it cannot be moved, in particular if a folder on
    the way is a link or on another device: then it stays where it is.
    """
    relative = file.path.relative_to(folder.path)
    place = DONE if reason is None else FAILED
    with (
        _opened(folder.path) as root,
        _opened_below(root, relative.parent.parts) as parent,
        _opened_below(root, (place, *relative.parent.parts), create=True) as target,
    ):
        made = [name := _reserve(target, relative.name)]
        try:
            if reason is not None:
                made.append(_write_reason(target, name, reason))
            os.rename(relative.name, name, src_dir_fd=parent, dst_dir_fd=target)
        except OSError:
            for left in made:
                with suppress(FileNotFoundError):
                    os.unlink(left, dir_fd=target)
            raise
        sidecar = relative.name + SIDECAR_SUFFIX
        if _is_file(parent, sidecar):
            moved = name + SIDECAR_SUFFIX
            os.rename(sidecar, moved, src_dir_fd=parent, dst_dir_fd=target)


def obstacle(folder: WatchedFolder) -> str | None:
    """Return why nothing can be moved in a hot folder that is there; None if nothing is wrong."""
    with _opened(folder.path) as root:
        for place in (DONE, FAILED):
            try:
                with _opened_below(root, (place,)):
                    pass
            except FileNotFoundError:
                continue  # it is created when it is needed
            except OSError as error:
                return error.strerror
    return None


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """Open the hot folder itself, which the user named: it may be a link."""
    descriptor = os.open(folder, FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _opened_below(root: int, names: Sequence[str], *, create: bool = False) -> Iterator[int]:
    """Open the folder to which ``names`` lead from ``root``, and close it on leaving.

    With ``create``, missing folders are made. Raises OSError if one of them is no folder, a link,
    or on another device than ``root``.
    """
    device = os.fstat(root).st_dev
    at = os.dup(root)
    try:
        for name in names:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=at)
            below = _open_folder(name, at)
            os.close(at)
            at = below
            if os.fstat(at).st_dev != device:
                raise OSError(errno.EXDEV, f"{name} is on another file system", name)
        yield at
    finally:
        os.close(at)


def _open_folder(name: str, parent: int) -> int:
    try:
        return os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        if error.errno not in NOT_A_FOLDER:
            raise
        is_link = stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
        found = "a symbolic link" if is_link else "not a folder"
        reason = f"{name} is {found}; put a folder in its place"
        raise NotADirectoryError(errno.ENOTDIR, reason, name) from error


def _reserve(folder: int, name: str) -> str:
    """Create an empty file under a free name, so that no other program takes it; return its name.

    A name is free if there is no file, sidecar or error text of that name.
    """
    for free in _numbered(name, _longest_name(folder)):
        if any(_exists(folder, free + suffix) for suffix in (SIDECAR_SUFFIX, ERROR_SUFFIX)):
            continue
        try:
            _write_new(folder, free, "")
        except FileExistsError:
            continue
        return free
    raise AssertionError("numbers do not end")


def _write_reason(folder: int, name: str, reason: str) -> str:
    """Write ``reason`` beside the file ``name``; return under which name.

    That is shortened if it would be too long, and may then need a number of its own.
    """
    for free in _numbered(name, _longest_name(folder) - len(ERROR_SUFFIX)):
        try:
            _write_new(folder, free + ERROR_SUFFIX, reason + "\n")
        except FileExistsError:
            continue
        return free + ERROR_SUFFIX
    raise AssertionError("numbers do not end")


def _longest_name(folder: int) -> int:
    """Return how many bytes a name in ``folder`` may have."""
    return os.fpathconf(folder, "PC_NAME_MAX")


def _numbered(name: str, longest: int) -> Iterator[str]:
    """Yield ``name``, then with numbers, each cut to ``longest`` bytes if it has more."""
    yield _cut(name, longest)
    path = PurePath(name)
    for number in count(2):
        ending = f"-{number}{path.suffix}"
        yield _cut(path.stem, longest - len(os.fsencode(ending))) + ending


def _cut(name: str, longest: int) -> str:
    """Return the beginning of ``name`` that has up to ``longest`` bytes; no character is cut."""
    raw = os.fsencode(name)
    return name if len(raw) <= longest else raw[: max(longest, 0)].decode(errors="ignore")


def _write_new(folder: int, name: str, text: str) -> None:
    """Write a file that must not exist, not even as a link."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, 0o666, dir_fd=folder), "w", encoding="utf-8") as file:
        file.write(text)


def _exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_SUCH_NAME:
            raise
        return False
    return True


def _is_file(folder: int, name: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError as error:
        if error.errno not in NO_SUCH_NAME:
            raise
        return False
