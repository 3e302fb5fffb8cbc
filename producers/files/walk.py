"""Files as documents: walk folders, skip, read, and record what a scan saw."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import aiofiles
import msgspec

from ingestq.core.documents import INLINE_TEXT_BYTES, Document, SeenDocumentsBuilder, Sweep
from ingestq.core.paths import file_state, guess_media_type, path_to_text
from ingestq.core.results import FailedDocument

Clock = Callable[[], Awaitable[int]]
"""Returns Redis time in microseconds, see `ingestq.broker.queue.job_queue.JobQueue.now`."""
LISTING_ENTRIES: Final = 256
"""Directory entries that are listed in one call to a thread."""
NO_METADATA: Final[Mapping[str, Any]] = MappingProxyType({})


class ScanRecord:
    """The documents and folders that a scan saw; it takes eight bytes a document."""

    def __init__(self) -> None:
        self._seen = SeenDocumentsBuilder()
        self._folders: dict[str, int] = {}

    def begin(self, folder: str, version: int) -> None:
        """Record that ``folder`` is scanned as of ``version``: later observations are newer."""
        self._folders.setdefault(folder, version)

    def add(self, doc_id: str) -> None:
        """Record a document as seen, or a folder that cannot be read: nothing in it is gone."""
        self._seen.add(doc_id)

    def sweeps(
        self, *, allow_mass_delete: bool, tenant: str = "", collection: str | None = None
    ) -> list[Sweep]:
        """Return a sweep for each folder, once all of them were scanned to the end."""
        seen = self._seen.pack()
        return [
            Sweep(
                doc_id=folder,
                version=version,
                seen=seen,
                tenant=tenant,
                allow_mass_delete=allow_mass_delete,
                collection=collection,
            )
            for folder, version in self._folders.items()
        ]


@dataclass(frozen=True)
class FoundFile:
    """A regular file, and the id of its document."""

    path: Path
    doc_id: str
    status: os.stat_result


@dataclass(frozen=True)
class Root:
    """The file or folder where a walk begins, which decides the ids of its documents.

    An id is the file's absolute path; with a ``name`` it is the name and the path relative to the
    folder, which is the same on every host and in every container.
    """

    path: Path
    name: str | None
    is_folder: bool

    @classmethod
    def at(cls, path: Path, name: str | None = None) -> "Root":
        """Return the root at ``path``, which need not exist. Blocks."""
        path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would replace links
        # Path.is_dir() raises on an impossible name.
        return cls(path, name, is_folder=os.path.isdir(path))  # noqa: PTH112

    @property
    def folder(self) -> str:
        """The folder's own id, with which the ids of all its documents begin."""
        return path_to_text(self._base if self.name is None else Path(self.name))

    def doc_id(self, path: Path) -> str:
        """Return the id of the document at ``path``, which is the root or in it."""
        if self.name is None:
            return path_to_text(path)
        return path_to_text(Path(self.name) / path.relative_to(self._base))

    @property
    def _base(self) -> Path:
        return self.path if self.is_folder else self.path.parent


Skip = Callable[[Path, os.stat_result], bool]
"""Returns whether a walk skips a file, or a folder with everything in it."""


@dataclass(frozen=True)
class _OpenFolder:
    """A folder that a walk is in: what is still to visit, and the folders that lead to it."""

    paths: Iterator[Path]
    identities: frozenset[tuple[int, int]]


def walk(
    root: Root, start: Path | None = None, skip: Skip = lambda *_: False
) -> Iterator[FoundFile | FailedDocument]:
    """Yield every file under ``root`` (or ``root`` itself), in the order of their names. Blocks.

    With ``start`` only that file, or what is in that folder. Hidden entries are skipped. Symbolic
    links are followed; one that leads back to a folder it lies in is reported as failed, as is
    whatever cannot be read.
    """
    # Not recursive: folders may be nested more deeply than Python's calls may.
    opened = [_OpenFolder(iter([root.path if start is None else start]), frozenset())]
    while opened:
        folder = opened[-1]
        path = next(folder.paths, None)
        if path is None:
            opened.pop()
            continue
        doc_id = root.doc_id(path)
        try:
            status = path.stat()
            if skip(path, status):
                continue
            if stat.S_ISDIR(status.st_mode):
                identity = (status.st_dev, status.st_ino)
                if identity in folder.identities:
                    reason = "a symbolic link back to a folder that it lies in"
                    yield FailedDocument(doc_id, reason)
                    continue
                names = sorted(name for name in os.listdir(path) if not name.startswith("."))
                inside = map(path.joinpath, names)
                opened.append(_OpenFolder(inside, folder.identities | {identity}))
            elif stat.S_ISREG(status.st_mode):
                yield FoundFile(path, doc_id, status)
            else:
                yield FailedDocument(doc_id, "neither a file nor a folder")
        except OSError as error:
            yield FailedDocument(doc_id, _reason(path, error))


def _reason(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "a broken symbolic link" if path.is_symlink() else "there is no such file or folder"
    return f"cannot be read: {error.strerror}"


@dataclass(frozen=True)
class ReadOptions:
    """Options for what is sent of a file besides its path.

    ``inline`` sends short text in the job, for workers that cannot read the file themselves.
    Otherwise the file's state is sent (see `ingestq.core.paths.file_state`), and workers skip a
    file whose indexed state is the same; with ``checksum`` they read it all the same.
    """

    inline: bool = False
    checksum: bool = False


async def observe(
    paths: Sequence[Path],
    name: str | None,
    clock: Clock,
    options: ReadOptions,
    record: ScanRecord,
) -> AsyncIterator[Document | FailedDocument]:
    """Walk ``paths`` and yield the document of every file; each is added to ``record``."""
    for path in paths:
        root = await asyncio.to_thread(Root.at, path, name)
        async for listing in scan(root, clock, record):
            for entry in listing.entries:
                match entry:
                    case FoundFile() if (
                        options.inline and entry.status.st_size <= INLINE_TEXT_BYTES
                    ):
                        yield await _inline(entry, listing.version)
                    case FoundFile():
                        yield document_of(entry, listing.version, checksum=options.checksum)
                    case _:
                        yield entry


@dataclass(frozen=True)
class Listing:
    """Some of the entries that a scan found, and the version that was read before."""

    version: int
    entries: Sequence[FoundFile | FailedDocument]


async def scan(
    root: Root,
    clock: Clock,
    record: ScanRecord,
    skip: Skip = lambda *_: False,
) -> AsyncIterator[Listing]:
    """Walk ``root``, and add everything that is not skipped to ``record``.

    ``clock`` gives the version; it is read before the files are listed, so that a change made
    meanwhile counts as newer.
    """
    if root.is_folder:
        record.begin(root.folder, await clock())
    entries = walk(root, skip=skip)
    while True:
        version = await clock()
        listed = await asyncio.to_thread(_next_entries, entries)
        if not listed:
            return
        for entry in listed:
            record.add(entry.doc_id)
            if isinstance(entry, FailedDocument) and entry.doc_id == root.doc_id(root.path):
                record.add(root.folder)  # another root of the same name may be readable
        yield Listing(version, listed)


def _next_entries(
    entries: Iterator[FoundFile | FailedDocument],
) -> list[FoundFile | FailedDocument]:
    return list(islice(entries, LISTING_ENTRIES))


def document_of(
    found: FoundFile,
    version: int,
    *,
    checksum: bool = False,
    tenant: str = "",
    metadata: Mapping[str, Any] = NO_METADATA,
) -> Document:
    """Return the document of a file, by its path: a worker reads the content.

    With ``checksum`` the worker reads it even if the file's state is the indexed one.
    """
    path = path_to_text(found.path)
    document = Document(
        doc_id=found.doc_id,
        version=version,
        source=path,
        tenant=tenant,
        path=path,
        media_type=guess_media_type(found.path.name),
        metadata=dict(metadata),
        scanned=True,
    )
    if checksum:
        return document
    return msgspec.structs.replace(document, file=file_state(document, found.status))


async def _inline(found: FoundFile, version: int) -> Document | FailedDocument:
    """Return the document with its text if the file is text; else by its path."""
    try:
        async with aiofiles.open(found.path, "rb") as file:
            text = _decode(await file.read(INLINE_TEXT_BYTES + 1), found.path)
    except FileNotFoundError:
        return FailedDocument(found.doc_id, "the file is gone: it was deleted during the scan")
    except OSError as error:
        return FailedDocument(found.doc_id, f"cannot be read: {error.strerror}")
    document = document_of(found, version, checksum=True)
    return document if text is None else msgspec.structs.replace(document, text=text, path=None)


def _decode(data: bytes, path: Path) -> str | None:
    """Return ``data`` as text, or None if it is too long or only a parser can read it."""
    media_type = guess_media_type(path.name)
    if len(data) > INLINE_TEXT_BYTES or not (media_type or "text/").startswith("text/"):
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
