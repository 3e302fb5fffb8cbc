"""A watched folder: whether it is there, which files are documents, their sidecar metadata."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, Final

from ingestq.core.documents import DEFAULT_COLLECTION, METADATA_BYTES, decode_metadata
from producers.files.patterns import Patterns

UNFINISHED_SUFFIXES: Final = (".part", ".partial", ".tmp", ".crdownload", "~")
"""What programs name a file while they write it, or keep of it afterwards. It is taken when it gets
its real name."""
SIDECAR_SUFFIX: Final = ".meta.json"
DONE: Final = "done"
FAILED: Final = "failed"
"""Where the files of a hot folder are moved, in the folder itself."""


@dataclass(frozen=True)
class WatchedFolder:
    """A folder, and how its files become documents of ``collection``.

    ``name`` is what their ids begin with in place of the path, see `producers.files.walk.Root`.
    ``include`` and ``exclude`` are patterns as in a .gitignore file, relative to the folder;
    without ``include`` every file is meant. ``metadata`` is stored with each document. The files of
    a ``hot`` folder are handed over: they are moved away once it is known what became of them, and
    the documents stay. Raises ValueError if something is no pattern.
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
        self._patterns  # noqa: B018 - so that a wrong one is an error here

    def takes(self, path: Path) -> bool:
        """Whether the file at ``path``, which is in the folder, is a document."""
        relative = path.relative_to(self.path)
        if not self.enters(path) or is_sidecar(path):
            return False
        return self._patterns.take(relative)

    def enters(self, path: Path) -> bool:
        """Whether there may be documents at ``path``, which is in the folder, or in it."""
        relative = path.relative_to(self.path)
        is_result = self.hot and relative.parts[:1] in ((DONE,), (FAILED,))
        return is_visible(relative) and not is_result

    @cached_property
    def _patterns(self) -> Patterns:
        return Patterns(self.include, self.exclude)


def is_visible(relative: PurePath) -> bool:
    """Whether no part of a path in the folder is hidden, or not finished."""
    return not any(
        part.startswith(".") or part.endswith(UNFINISHED_SUFFIXES) for part in relative.parts
    )


def is_sidecar(path: PurePath) -> bool:
    """Whether ``path`` is not a document, but says more of the one beside it."""
    return path.name.endswith(SIDECAR_SUFFIX) and path.name != SIDECAR_SUFFIX


def document_beside(path: Path) -> Path:
    """The file that what happened at ``path`` is about: that of a sidecar is the one beside it."""
    return path.with_name(path.name.removesuffix(SIDECAR_SUFFIX)) if is_sidecar(path) else path


def sidecar_of(path: Path) -> Path:
    """Where more may be said of the file at ``path``."""
    return path.with_name(path.name + SIDECAR_SUFFIX)


def read_sidecar(path: Path) -> dict[str, Any]:
    """What is said of the file at ``path``; nothing if it has no sidecar.

    Raises ValueError that says which file is wrong, and how.
    """
    sidecar = sidecar_of(path)
    try:
        is_file = stat.S_ISREG(sidecar.lstat().st_mode)  # a link might lead out of the folder
        data = _read(sidecar) if is_file else None
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ValueError(f"{sidecar.name} cannot be read: {error.strerror}") from error
    if data is None:
        raise ValueError(f"{sidecar.name} is not a regular file")
    try:
        return decode_metadata(data)
    except ValueError as error:
        raise ValueError(f"{sidecar.name} is not metadata: {error}") from error


def _read(sidecar: Path) -> bytes:
    with sidecar.open("rb") as file:
        return file.read(METADATA_BYTES + 1)  # enough to see that it is too large


class Presence:
    """Keeps in mind which folder was there.

    Another one in its place counts as soon as it has something in it: an empty one is what is left
    when a file system is unmounted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.identity: tuple[int, int] | None = None

    def check(self) -> bool:
        """Whether the folder is there."""
        try:
            status = self._path.stat()
            identity = (status.st_dev, status.st_ino)
            is_another = self.identity not in (None, identity)
            if not stat.S_ISDIR(status.st_mode) or (is_another and not os.listdir(self._path)):
                return False
        except OSError:
            return False
        self.identity = identity
        return True
