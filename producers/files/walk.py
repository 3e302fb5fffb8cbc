"""Files as documents: walk folders, skip, read, and record what a scan saw."""

import asyncio
import errno
import os
import stat
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Set,
)
from dataclasses import dataclass, replace
from enum import Enum
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import aiofiles
import msgspec

from ingestq.client.regular_file import regular_only
from ingestq.client.volumes import Volumes
from ingestq.core.documents import (
    INLINE_TEXT_BYTES,
    Document,
    ScannedVolume,
    SeenDocumentsBuilder,
    Sweep,
    Volume,
)
from ingestq.core.limits import fits
from ingestq.core.paths import file_state, media_type_of, path_to_text
from ingestq.core.results import FailedDocument
from producers.files.links import TOO_MANY_LINKS, Links, Skip, UndecidedLinks, real_path
from producers.files.off_limits import KERNEL_FILES, KERNEL_ONLY, OffLimits, kernel_devices

Clock = Callable[[], Awaitable[int]]
"""Issues a version, see `ingestq.broker.queue.job_queue.JobQueue.issue_version`."""
SORTED_NAMES: Final = 50_000
"""Names in a folder that are held in memory and sorted at once: a few megabytes."""
LISTING_ENTRIES: Final = 256
"""Directory entries that are listed in one call to a thread."""
BROKEN_LINK: Final = "a broken symbolic link"
NO_METADATA: Final[Mapping[str, Any]] = MappingProxyType({})


class ScanRecord:
    """The documents and folders that a scan saw; it takes eight bytes a document."""

    def __init__(self) -> None:
        self._seen = SeenDocumentsBuilder()
        self._folders: dict[str, int] = {}
        self._found: Counter[str] = Counter()
        self._volumes: dict[str, list[ScannedVolume]] = {}

    def begin(self, folder: str, version: int) -> None:
        """Record that ``folder`` is scanned as of ``version``: later observations are newer."""
        self._folders.setdefault(folder, version)

    def add(self, doc_id: str) -> None:
        """Record a document as seen."""
        self._seen.add(doc_id)

    def keep(self, folder: str) -> None:
        """Record that ``folder`` could not be read: nothing in it is gone, nor is it itself."""
        self._seen.add(folder)
        self._seen.add_folder(folder)

    def end(self, folder: str, found: int, volumes: Iterable[ScannedVolume] = ()) -> None:
        """Record how many documents were found in ``folder``, and on which file systems."""
        self._found[folder] += found
        self._volumes.setdefault(folder, []).extend(volumes)

    def sweeps(
        self, *, allow_mass_delete: bool, tenant: str = "", collection: str | None = None
    ) -> list[Sweep]:
        """Return a sweep for each folder, once all of them were scanned to the end.

        A folder whose id is too long has none: that of each document in it is longer.
        """
        seen = self._seen.pack()
        return [
            Sweep(
                doc_id=folder,
                version=version,
                seen=seen,
                found=self._found[folder],
                volumes=tuple(self._volumes.get(folder, ())),
                tenant=tenant,
                allow_mass_delete=allow_mass_delete,
                collection=collection,
            )
            for folder, version in self._folders.items()
            if fits(folder)
        ]


@dataclass(frozen=True)
class FoundFile:
    """A regular file, the id of its document, and the file system that its folder is on."""

    path: Path
    doc_id: str
    status: os.stat_result
    volume: Volume | None = None


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

    def volumes(self) -> Volumes:
        """Return the file systems that a walk of the folder comes through. Blocks."""
        return Volumes(self._base, self.doc_id, named=self.name is not None)

    @property
    def _base(self) -> Path:
        return self.path if self.is_folder else self.path.parent


class Keeps(Enum):
    """The documents that stay in the index although a scan did not find their files."""

    NOTHING = "nothing"
    ITSELF = "itself"
    FOLDER = "folder"
    """The document itself, and all below it."""


class FailedEntry(FailedDocument, frozen=True):
    """What a walk found and cannot read, and what is kept because of that."""

    keeps: Keeps = Keeps.FOLDER


@dataclass(frozen=True)
class _OpenFolder:
    """A folder that a walk is in, and what is still to visit in it.

    ``real`` is the folder's real path if a link led there.
    """

    path: Path
    identity: tuple[int, int]
    entries: Iterator[Path]
    real: Path | None


def walk(
    root: Root,
    start: Path | None = None,
    skip: Skip = lambda *_: False,
    off_limits: OffLimits = KERNEL_ONLY,
    links: Links | UndecidedLinks | None = None,
    volumes: Volumes | None = None,
) -> Iterator[FoundFile | FailedEntry]:
    """Yield every file under ``root`` (or ``root`` itself), in the order of their names. Blocks.

    With ``start`` only that file, or what is in that folder. Hidden entries and ingestq's own
    folders are skipped. ``links`` decides about symbolic links; without it, this walk is alone (see
    `producers.files.links`). Whatever cannot be read is reported. Nothing is opened but folders.
    Folders with more than `SORTED_NAMES` entries are sorted in parts of that size, so that memory
    is bounded. ``volumes`` collects the file systems that the walk comes through.
    """
    first = root.path if start is None else start
    refusal = off_limits.reason_against(first)
    if refusal is not None:
        yield FailedEntry(root.doc_id(first), refusal)
        return
    links = Links([root.path], skip, off_limits) if links is None else links
    if start is None and not links.walks(first):
        return
    # Not recursive: folders may be nested more deeply than Python's calls may.
    opened: list[_OpenFolder] = []
    identities: set[tuple[int, int]] = set()
    looking = _Look(root, skip, off_limits, links, identities)
    volumes = root.volumes() if volumes is None else volumes
    inside = [volumes.at(first if first == root.path and root.is_folder else first.parent)]
    path: Path | None = first
    while path is not None:
        found = looking.at(path, opened[-1] if opened else None)
        if isinstance(found, _OpenFolder):
            opened.append(found)
            inside.append(volumes.enter(path, found.identity[0], inside[-1]))
            identities.add(found.identity)
        elif found is not None:
            yield found if isinstance(found, FailedDocument) else replace(found, volume=inside[-1])
        path = None
        while opened and path is None:
            folder = opened[-1]
            try:
                path = next(folder.entries, None)
            except OSError as error:
                yield FailedEntry(root.doc_id(folder.path), _reason(folder.path, error))
            if path is None:
                identities.remove(opened.pop().identity)
                inside.pop()


@dataclass(frozen=True)
class _Look:
    """Looks at the entries of a walk. ``identities`` are the folders that it is in."""

    root: Root
    skip: Skip
    off_limits: OffLimits
    links: Links | UndecidedLinks
    identities: Set[tuple[int, int]]

    def at(
        self, path: Path, folder: _OpenFolder | None
    ) -> FoundFile | FailedEntry | _OpenFolder | None:
        """Return what is at ``path``, an entry of ``folder`` if any; None if it is skipped."""
        # A root was named, so it is followed. Path.is_symlink() raises where it may not look.
        is_link = folder is not None and os.path.islink(path)  # noqa: PTH114
        try:
            status = path.stat()
            if self.off_limits.leads_in(path, status) or self.skip(path, status):
                return None
            if status.st_dev in kernel_devices():
                return self._failed(path, KERNEL_FILES, Keeps.NOTHING if is_link else Keeps.FOLDER)
            if is_link:
                decision = self.links.decide(path, status)
                if decision.reason is not None:
                    keeps = Keeps.FOLDER if decision is TOO_MANY_LINKS else Keeps.NOTHING
                    return self._failed(path, decision.reason, keeps)
                if not decision.follow:
                    return None
                return self._opened(path, status, real_path(path))
            real = None if folder is None or folder.real is None else folder.real / path.name
            if real is not None and self.links.is_found(real):
                return None
            return self._opened(path, status, real)
        except OSError as error:
            if is_link:
                return self._broken(path, error)
            return self._failed(path, _reason(path, error), Keeps.FOLDER)

    def _opened(
        self, path: Path, status: os.stat_result, real: Path | None
    ) -> FoundFile | FailedEntry | _OpenFolder:
        if stat.S_ISREG(status.st_mode):
            return FoundFile(path, self.root.doc_id(path), status)
        if not stat.S_ISDIR(status.st_mode):
            return self._failed(path, "neither a file nor a folder", Keeps.NOTHING)
        identity = (status.st_dev, status.st_ino)
        if identity in self.identities:
            return self._failed(path, "a mount of a folder that it lies in", Keeps.FOLDER)
        return _OpenFolder(path, identity, _entries(path), real)

    def _broken(self, path: Path, error: OSError) -> FailedEntry:
        if error.errno == errno.ELOOP:
            return self._failed(path, "a symbolic link that leads to itself", Keeps.NOTHING)
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return self._failed(path, _reason(path, error), Keeps.FOLDER)
        keeps = Keeps.ITSELF if self.links.is_away(path) else Keeps.NOTHING
        return self._failed(path, BROKEN_LINK, keeps)

    def _failed(self, path: Path, reason: str, keeps: Keeps) -> FailedEntry:
        return FailedEntry(self.root.doc_id(path), reason, keeps)


def _entries(folder: Path) -> Iterator[Path]:
    """Return the entries of ``folder`` that are not hidden. Raises OSError, also while iterating.

    Only a folder with more than `SORTED_NAMES` entries stays open.
    """
    parts = _sorted_names(folder)
    first = next(parts, [])
    return map(folder.joinpath, chain(first, chain.from_iterable(parts)))


def _sorted_names(folder: Path) -> Iterator[list[str]]:
    with os.scandir(folder) as listed:
        names = (entry.name for entry in listed if not entry.name.startswith("."))
        part = sorted(islice(names, SORTED_NAMES))
        while len(part) == SORTED_NAMES:
            yield part
            part = sorted(islice(names, SORTED_NAMES))
    yield part


def _reason(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        is_link = path.is_symlink()
        return BROKEN_LINK if is_link else "there is no such file or folder"
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
    off_limits: OffLimits = KERNEL_ONLY,
) -> AsyncIterator[Document | FailedDocument]:
    """Walk ``paths`` and yield the document of every file; each is added to ``record``."""
    found = [await asyncio.to_thread(Root.at, path, name) for path in paths]
    roots = list(dict.fromkeys(found))
    places = [root.path for root in roots]
    links = await asyncio.to_thread(Links, places, lambda *_: False, off_limits)
    for root in roots:
        async for listing in scan(root, clock, record, off_limits=off_limits, links=links):
            for entry in listing.entries:
                match entry:
                    case FoundFile() if (
                        options.inline and entry.status.st_size <= INLINE_TEXT_BYTES
                    ):
                        yield await _inline(entry, listing.version)
                    case FoundFile():
                        yield document_or_failure(entry, listing.version, checksum=options.checksum)
                    case _:
                        yield FailedDocument(entry.doc_id, entry.reason)


@dataclass(frozen=True)
class Listing:
    """Some of the entries that a scan found, and the version that was read before."""

    version: int
    entries: Sequence[FoundFile | FailedEntry]


async def scan(
    root: Root,
    clock: Clock,
    record: ScanRecord,
    skip: Skip = lambda *_: False,
    off_limits: OffLimits = KERNEL_ONLY,
    links: Links | None = None,
) -> AsyncIterator[Listing]:
    """Walk ``root``, and add everything that is not skipped to ``record``.

    ``links`` is needed if the walk has other roots, too, or may not leave this one.
    ``clock`` gives the version; it is read before the files are listed, so that a change made
    meanwhile counts as newer.
    """
    if root.is_folder:
        record.begin(root.folder, await clock())
    volumes = await asyncio.to_thread(root.volumes)
    entries = walk(root, skip=skip, off_limits=off_limits, links=links, volumes=volumes)
    files: Counter[Volume | None] = Counter()
    while True:
        version = await clock()
        listed = await asyncio.to_thread(_next_entries, entries)
        if not listed:
            break
        files.update(entry.volume for entry in listed if isinstance(entry, FoundFile))
        for entry in listed:
            _record(entry, root, record)
        yield Listing(version, listed)
    begins = {root.doc_id(folder): volume for folder, volume in volumes.found.items()}
    if root.is_folder:
        for folder in await asyncio.to_thread(_remounted, root, volumes):
            record.keep(root.doc_id(folder))
    record.end(
        root.folder,
        files.total(),
        [ScannedVolume(f, volume, files[volume]) for f, volume in begins.items() if fits(f)],
    )


def _remounted(root: Root, volumes: Volumes) -> list[Path]:
    """Return the folders with another file system than when they were walked. Blocks."""
    now = root.volumes()
    return [folder for folder, volume in volumes.found.items() if now.at(folder) != volume]


def _record(entry: FoundFile | FailedEntry, root: Root, record: ScanRecord) -> None:
    if isinstance(entry, FoundFile) or entry.keeps is Keeps.ITSELF:
        record.add(entry.doc_id)
    elif entry.keeps is Keeps.FOLDER:
        record.keep(entry.doc_id)
        if entry.doc_id == root.doc_id(root.path):
            record.keep(root.folder)  # another root of the same name may be readable


def _next_entries(entries: Iterator[FoundFile | FailedEntry]) -> list[FoundFile | FailedEntry]:
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

    With ``checksum`` the worker reads it even if the file's state is the indexed one. Raises
    ValueError if the path or the ``metadata`` exceeds its limit.
    """
    path = path_to_text(found.path)
    document = Document(
        doc_id=found.doc_id,
        version=version,
        source=path,
        tenant=tenant,
        path=path,
        media_type=media_type_of(found.path),
        metadata=dict(metadata),
        scanned=True,
        volume=found.volume,
    )
    if checksum:
        return document
    return msgspec.structs.replace(document, file=file_state(document, found.status))


def document_or_failure(found: FoundFile, version: int, **more: Any) -> Document | FailedDocument:
    """Return what `document_of` returns, or why there can be no document of the file."""
    try:
        return document_of(found, version, **more)
    except ValueError as error:
        return FailedDocument(found.doc_id, str(error))


async def _inline(found: FoundFile, version: int) -> Document | FailedDocument:
    """Return the document with its text if the file is text; else by its path."""
    try:
        async with aiofiles.open(found.path, "rb", opener=regular_only) as file:
            text = _decode(await file.read(INLINE_TEXT_BYTES + 1), found.path)
    except FileNotFoundError:
        return FailedDocument(found.doc_id, "the file is gone: it was deleted during the scan")
    except OSError as error:
        return FailedDocument(found.doc_id, f"cannot be read: {error.strerror}")
    document = document_or_failure(found, version, checksum=True)
    if text is None or isinstance(document, FailedDocument):
        return document
    return msgspec.structs.replace(document, text=text, path=None)


def _decode(data: bytes, path: Path) -> str | None:
    """Return ``data`` as text, or None if it is too long or only a parser can read it."""
    media_type = media_type_of(path)
    if len(data) > INLINE_TEXT_BYTES or not (media_type or "text/").startswith("text/"):
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
