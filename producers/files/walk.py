"""Files as documents: walk, filter, read, and remember what a scan saw."""

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


class ScanRecord:
    """Keeps eight bytes a document, and the folders that were scanned."""

    def __init__(self) -> None:
        self._seen = SeenDocumentsBuilder()
        self._folders: dict[str, int] = {}

    def begin(self, folder: str, version: int) -> None:
        """A folder is scanned as of ``version``: what was observed later is newer."""
        self._folders.setdefault(folder, version)

    def add(self, doc_id: str) -> None:
        """A document was seen; or a folder that cannot be read, so nothing in it is gone."""
        self._seen.add(doc_id)

    def sweeps(
        self, *, allow_mass_delete: bool, tenant: str = "", collection: str | None = None
    ) -> list[Sweep]:
        """A sweep for each folder, once all of them were scanned to the end."""
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


Clock = Callable[[], Awaitable[int]]
"""Redis time in microseconds, see `ingestq.broker.queue.job_queue.JobQueue.now`."""
LISTING_ENTRIES: Final = 256
"""Directory entries that are looked at in one visit to a thread."""
NO_METADATA: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True)
class FoundFile:
    """A regular file, and the document it is."""

    path: Path
    doc_id: str
    status: os.stat_result


@dataclass(frozen=True)
class Root:
    """Where a walk begins, and how files become document ids: by absolute path, or by NAME and path
    relative to the folder, which makes the ids the same on every host and in every container.
    """

    path: Path
    name: str | None
    is_folder: bool

    @classmethod
    def at(cls, path: Path, name: str | None = None) -> "Root":
        path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would replace links
        # Path.is_dir() raises on an impossible name.
        return cls(path, name, is_folder=os.path.isdir(path))  # noqa: PTH112

    @property
    def folder(self) -> str:
        """The id that those of all its documents begin with."""
        return path_to_text(self._base if self.name is None else Path(self.name))

    def doc_id(self, path: Path) -> str:
        if self.name is None:
            return path_to_text(path)
        return path_to_text(Path(self.name) / path.relative_to(self._base))

    @property
    def _base(self) -> Path:
        return self.path if self.is_folder else self.path.parent


LeaveOut = Callable[[Path, os.stat_result], bool]
"""Whether a walk is to pass over a file or a folder with all that is in it."""


def walk(
    root: Root, start: Path | None = None, leave_out: LeaveOut = lambda *_: False
) -> Iterator[FoundFile | FailedDocument]:
    """Every file under ``root`` (or ``root`` itself), in the order of their names.

    With a ``start`` only what is there, or in it. Symbolic links are followed; one that leads back
    to a folder it lies in is reported.
    """
    yield from _visit(start or root.path, root, leave_out, ancestors=())


def _visit(
    path: Path, root: Root, leave_out: LeaveOut, ancestors: tuple[tuple[int, int], ...]
) -> Iterator[FoundFile | FailedDocument]:
    doc_id = root.doc_id(path)
    try:
        status = path.stat()
        if leave_out(path, status):
            return
        if stat.S_ISDIR(status.st_mode):
            identity = (status.st_dev, status.st_ino)
            if identity in ancestors:
                yield FailedDocument(doc_id, "a symbolic link back to a folder that it lies in")
                return
            names = sorted(entry for entry in os.listdir(path) if not entry.startswith("."))
            for entry in names:
                yield from _visit(path / entry, root, leave_out, (*ancestors, identity))
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
    """What is sent of a file besides its path.

    ``inline`` sends short text along, for workers that cannot read the file themselves. Otherwise
    the state of the file is sent (see `ingestq.core.paths.file_state`), and nobody reads a file
    whose state is the one that is indexed; with ``checksum`` it is read all the same.
    """

    inline: bool = False
    checksum: bool = False


async def observe(
    paths: Sequence[Path],
    name: str | None,
    clock: Clock,
    sending: ReadOptions,
    sightings: ScanRecord,
) -> AsyncIterator[Document | FailedDocument]:
    """Walk ``paths`` and make a document of every file; ``sightings`` is told of each."""
    for path in paths:
        root = await asyncio.to_thread(Root.at, path, name)
        async for listing in scan(root, clock, sightings):
            for entry in listing.entries:
                match entry:
                    case FoundFile() if (
                        sending.inline and entry.status.st_size <= INLINE_TEXT_BYTES
                    ):
                        yield await _inline(entry, listing.version)
                    case FoundFile():
                        yield by_path(entry, listing.version, checksum=sending.checksum)
                    case _:
                        yield entry


@dataclass(frozen=True)
class Listing:
    """Some of what a scan found, at the version at which it was looked at."""

    version: int
    entries: Sequence[FoundFile | FailedDocument]


async def scan(
    root: Root,
    clock: Clock,
    sightings: ScanRecord,
    leave_out: LeaveOut = lambda *_: False,
) -> AsyncIterator[Listing]:
    """Walk ``root``; ``sightings`` is told of everything that is not left out.

    ``clock`` gives the version; it is read before the files are looked at, so that a change made
    meanwhile counts as newer.
    """
    if root.is_folder:
        sightings.begin(root.folder, await clock())
    entries = walk(root, leave_out=leave_out)
    while True:
        version = await clock()
        listed = await asyncio.to_thread(_take, entries)
        if not listed:
            return
        for entry in listed:
            sightings.add(entry.doc_id)
            if isinstance(entry, FailedDocument) and entry.doc_id == root.doc_id(root.path):
                sightings.add(root.folder)  # another root of the same name may be there
        yield Listing(version, listed)


def _take(entries: Iterator[FoundFile | FailedDocument]) -> list[FoundFile | FailedDocument]:
    return list(islice(entries, LISTING_ENTRIES))


def by_path(
    found: FoundFile,
    version: int,
    *,
    checksum: bool = False,
    tenant: str = "",
    metadata: Mapping[str, Any] = NO_METADATA,
) -> Document:
    """The document that a worker reads from the file that was found.

    With ``checksum`` it is read even if its state is known.
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
    """A document with its text, if it is text; anything else goes by its path."""
    try:
        async with aiofiles.open(found.path, "rb") as file:
            text = _as_text(await file.read(INLINE_TEXT_BYTES + 1), found.path)
    except FileNotFoundError:
        return FailedDocument(found.doc_id, "the file is gone: it was there a moment ago")
    except OSError as error:
        return FailedDocument(found.doc_id, f"cannot be read: {error.strerror}")
    document = by_path(found, version, checksum=True)
    return document if text is None else msgspec.structs.replace(document, text=text, path=None)


def _as_text(data: bytes, path: Path) -> str | None:
    """The text that ``data`` is, or None if a parser has to look at it."""
    media_type = guess_media_type(path.name)
    if len(data) > INLINE_TEXT_BYTES or not (media_type or "text/").startswith("text/"):
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
