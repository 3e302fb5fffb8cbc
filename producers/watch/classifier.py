"""Decides what to do about each file of a watched folder: index, delete, wait or skip. Blocks."""

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from heapq import nsmallest
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Final

import msgspec
import structlog

from ingestq.client.volumes import Volumes
from ingestq.core import events
from ingestq.core.documents import MAX_VOLUMES, Deletion, Document, Volume
from ingestq.core.limits import fits
from ingestq.core.paths import file_state, folders_of, path_to_text
from ingestq.core.results import FailedDocument, SkippedFile
from producers.files.links import Links, UndecidedLinks, place_in, real_path
from producers.files.off_limits import KERNEL_ONLY, OffLimits
from producers.files.walk import (
    Clock,
    FoundFile,
    Listing,
    Root,
    ScanRecord,
    document_of,
    scan,
    walk,
)
from producers.watch.folder import Presence, WatchedFolder, read_sidecar
from producers.watch.settling import MAX_CHANGES, FileState, SettledChange, is_settled

log = structlog.get_logger()

MAX_REMEMBERED: Final = 10_000
"""Skipped files remembered; those beyond are logged by each scan."""
MAX_POLLED_FILES: Final = 200_000
"""Files whose state is compared when a folder is polled, in about 0.5 KB each."""
MAX_FOLDERS: Final = 100_000
"""Folders that are remembered, in order to tell that a path which is gone was one."""


@dataclass(frozen=True, slots=True)
class _Skip:
    """Why a file is skipped, and the number of the scan since whose begin that was last seen."""

    reason: str
    scan: int


class SkippedFiles:
    """The files that are skipped now, each of which is logged once, and again for another reason.

    A scan sees all of them: what it did not see is forgotten when it ends. `MAX_REMEMBERED` files
    are remembered; more are only counted by each scan.
    """

    def __init__(self) -> None:
        self._skips: dict[str, _Skip] = {}
        self._scan = 0
        self._more = 0

    def begin_scan(self) -> None:
        """Begin to see all skipped files again."""
        self._scan += 1
        self._more = 0

    def end_scan(self) -> None:
        """Forget the files that were not seen since `begin_scan`: they are gone, or indexed."""
        for doc_id, skip in self._skips.copy().items():
            if skip.scan != self._scan:
                self.remove(doc_id)

    def add(self, doc_id: str, reason: str) -> None:
        """Remember, and log, that the file of the document ``doc_id`` is skipped."""
        known = self._skips.get(doc_id)
        if known is None and len(self._skips) >= MAX_REMEMBERED:
            self._more += 1
        else:
            self._skips[doc_id] = _Skip(reason, self._scan)
        if known is None or known.reason != reason:
            log.warning(events.WATCH_SKIPPED, path=doc_id, reason=reason)

    def remove(self, doc_id: str) -> None:
        """Forget that the file of ``doc_id`` was skipped: it is not any more."""
        self._skips.pop(doc_id, None)

    def first(self, count: int) -> tuple[SkippedFile, ...]:
        """Return the first ``count`` files in the order of their ids."""
        first = nsmallest(count, self._skips.copy().items())
        return tuple(SkippedFile(doc_id, skip.reason) for doc_id, skip in first)

    def __len__(self) -> int:
        return len(self._skips) + self._more


@dataclass
class _Folders:
    """Up to `MAX_FOLDERS` folders. If it ``has_more``, any path may be one that it lacks."""

    paths: set[Path] = field(default_factory=set)
    has_more: bool = False

    def add(self, path: Path) -> None:
        if path in self.paths:
            return
        if len(self.paths) < MAX_FOLDERS:
            self.paths.add(path)
        else:
            self.has_more = True


class _KnownFolders:
    """The folders that are there, in order to tell that a path which is gone was one.

    A scan sees all of them: what it did not see, nor events told of since it began, is forgotten
    when it ends. Threads may add folders at any time.
    """

    def __init__(self) -> None:
        self._known = self._seen = _Folders()

    def begin_scan(self) -> None:
        self._seen = _Folders()

    def end_scan(self) -> None:
        self._known = self._seen

    def add(self, folders: Iterable[Path]) -> None:
        for folder in folders:
            self._known.add(folder)
            self._seen.add(folder)

    def remove(self, folders: Iterable[Path]) -> None:
        gone = set(folders)
        self._known.paths.difference_update(gone)
        self._seen.paths.difference_update(gone)

    @property
    def has_more(self) -> bool:
        return self._known.has_more

    def __contains__(self, path: Path) -> bool:
        return path in self._known.paths


@dataclass
class ClassifiedFiles:
    """The decisions about some paths.

    ``states`` has the state of each document's file, by document id. ``unsettled`` are files that
    are still being written, with their current state. ``needs_scan`` says that only a scan of the
    folder can find out everything that happened.
    """

    documents: dict[str, Document] = field(default_factory=dict)
    states: dict[str, FileState] = field(default_factory=dict)
    deletions: list[Deletion] = field(default_factory=list)
    unsettled: dict[Path, FileState] = field(default_factory=dict)
    needs_scan: bool = False


class FileClassifier:
    """Classifies the files of one folder; they are unsettled for ``settle_seconds`` after a write.

    What is ``off_limits`` counts as not there. ``skipped`` has the files that are not queued, and
    why.
    """

    def __init__(
        self,
        folder: WatchedFolder,
        presence: Presence,
        settle_seconds: float,
        off_limits: OffLimits = KERNEL_ONLY,
    ) -> None:
        self.root = Root(folder.path, folder.name, is_folder=True)
        self.skipped = SkippedFiles()
        self._folder = folder
        self._presence = presence
        self._settle_seconds = settle_seconds
        self._off_limits = off_limits
        self._folders = _KnownFolders()
        self._volumes: dict[str, Volume] = {}
        self.links_seen: Set[Path] = frozenset()
        """The links that the last scan saw."""
        self._linked: Set[Path] = frozenset()
        """Where links led in the last scan, broken ones too."""

    def classify(self, due: Mapping[Path, SettledChange], version: int) -> ClassifiedFiles:
        """Classify the paths at which something happened; ``version`` was read before.

        A folder stands for everything in it. Only a scan decides about symbolic links, because what
        one of them leads to depends on all others.
        """
        classified = ClassifiedFiles()
        missing, replaced = [], []
        volumes = self.root.volumes()
        # Sorted: what is in a new folder must not tell that it is one before its turn.
        for path, change in sorted(self._places_of(due, classified).items(), key=itemgetter(0)):
            if os.path.islink(path):  # noqa: PTH114 - is_symlink() raises where it may not look
                classified.needs_scan = True
                if not self._is_inside(path):
                    missing.append(path)
                continue
            # What has no name of a document is one by the name of a link to it.
            classified.needs_scan |= (
                not self._folder.is_document(path) and real_path(path) in self._linked
            )
            if _is_missing(path):
                missing.append(path)
                continue
            if change.removed and self._was_file(path):
                replaced.append(path)
            # A folder was replaced: no event tells which files were in the old one.
            unknown = self._folders.has_more and path.is_dir()
            classified.needs_scan |= unknown or path in self._folders
            self._remember_folders_of(path)
            links = UndecidedLinks()
            entries = walk(self.root, path, self.skips, self._off_limits, links, volumes)
            found = list(islice(entries, MAX_CHANGES))
            classified.needs_scan |= links.met or len(found) == MAX_CHANGES
            self._classify_entries(found, version, classified, {path: change.state})
        for path in (*missing, *replaced):
            self.skipped.remove(self.root.doc_id(path))
        if self._folder.hot:
            return classified  # missing files were moved away, and their documents stay
        if (missing or replaced) and self._presence.check():  # else no file is known to be gone
            self._classify_missing(missing, replaced, version, classified)
        return classified

    async def scan(self, clock: Clock, record: ScanRecord) -> AsyncIterator[ClassifiedFiles]:
        """Classify all files of the folder, and add each to ``record``. Does not block."""
        self.skipped.begin_scan()
        self._folders.begin_scan()
        links = await asyncio.to_thread(self._links)
        self.links_seen = self.links_seen or links.seen
        listings = scan(self.root, clock, record, self.skips, self._off_limits, links)
        async for listing in listings:
            yield await asyncio.to_thread(self.classify_listing, listing)
        self.links_seen = links.seen
        self._linked = links.targets
        self.skipped.end_scan()
        self._folders.end_scan()

    def classify_listing(self, listing: Listing) -> ClassifiedFiles:
        """Classify the entries that a scan found."""
        classified = ClassifiedFiles()
        self._classify_entries(listing.entries, listing.version, classified, {})
        return classified

    def skips(self, path: Path, status: os.stat_result) -> bool:
        """Return whether a walk skips ``path``."""
        if not stat.S_ISDIR(status.st_mode):
            return not self._folder.is_document(path)
        if not self._folder.may_hold_documents(path):
            return True
        self._folders.add([path])
        return False

    def snapshot(self) -> dict[str, FileState] | None:
        """Return the state of every file that may matter, for polling; None if there are more than
        `MAX_POLLED_FILES`."""
        found = walk(self.root, off_limits=self._off_limits, links=self._links())
        files = (entry for entry in found if isinstance(entry, FoundFile))
        states = {
            str(file.path): FileState.of(file.status)
            for file in islice(files, MAX_POLLED_FILES + 1)
        }
        return states if len(states) <= MAX_POLLED_FILES else None

    def _remember_folders_of(self, path: Path) -> None:
        """Remember the folders above ``path``, to recognise them as folders when they are gone."""
        relative = path.relative_to(self._folder.path)
        self._folders.add(self._folder.path / parent for parent in relative.parents if parent.name)

    def _links(self) -> Links:
        return Links([self._folder.path], self.skips, self._off_limits, may_leave=False)

    def _remember_volume(self, volume: Volume | None) -> None:
        is_known = volume is not None and volume.mount in self._volumes
        if volume is not None and (is_known or len(self._volumes) < MAX_VOLUMES):
            self._volumes[volume.mount] = volume

    def _places_of(
        self, due: Mapping[Path, SettledChange], classified: ClassifiedFiles
    ) -> dict[Path, SettledChange]:
        """Return the changes by the path without links: events come from behind them, too."""
        places: dict[Path, SettledChange] = {}
        for path, change in due.items():
            place = place_in(self._folder.path, path)
            if place is None:
                continue
            if place != path and not self._folder.may_hold_documents(place):
                classified.needs_scan = True  # the files have the path of the link
                continue
            also = places.get(place, change)
            places[place] = replace(change, removed=change.removed or also.removed)
        return places

    def _is_inside(self, path: Path) -> bool:
        return real_path(path).is_relative_to(real_path(self._folder.path))

    def _was_file(self, path: Path) -> bool:
        """Return whether what is at ``path`` is no file, while what was removed may be one."""
        try:
            mode = path.lstat().st_mode
        except OSError:
            return False
        return not stat.S_ISREG(mode) and path not in self._folders

    def _classify_entries(
        self,
        found: Iterable[FoundFile | FailedDocument],
        version: int,
        classified: ClassifiedFiles,
        known: Mapping[Path, FileState | None],
    ) -> None:
        for entry in found:
            if isinstance(entry, FailedDocument):
                self.skipped.add(entry.doc_id, entry.reason)
                continue
            self._remember_volume(entry.volume)
            state = known.get(entry.path)
            if not is_settled(entry.status, state, self._settle_seconds, time.time_ns()):
                classified.unsettled[entry.path] = FileState.of(entry.status)
                continue
            try:
                classified.documents[entry.doc_id] = self._document(entry, version)
                classified.states[entry.doc_id] = FileState.of(entry.status)
                self.skipped.remove(entry.doc_id)
            except ValueError as error:
                self.skipped.add(entry.doc_id, str(error))

    def _document(self, found: FoundFile, version: int) -> Document:
        """Return the document of a file. Raises ValueError if its sidecar is invalid."""
        document = msgspec.structs.replace(
            document_of(found, version, checksum=True),
            tenant=self._folder.tenant,
            collection=self._folder.collection,
            metadata={**self._folder.metadata, **read_sidecar(found.path)},
            within=path_to_text(self._folder.path),
        )
        if self._folder.hot:
            return msgspec.structs.replace(document, scanned=False, hot=True)
        return msgspec.structs.replace(document, file=file_state(document, found.status))

    def _classify_missing(
        self,
        missing: Sequence[Path],
        replaced: Sequence[Path],
        version: int,
        classified: ClassifiedFiles,
    ) -> None:
        folders = [path for path in missing if self._folders.has_more or path in self._folders]
        self._folders.remove(folders)
        files = [
            path
            for path in (*missing, *replaced)
            if self._folder.is_document(path) and fits(self.root.doc_id(path))
        ]
        volumes = self.root.volumes()  # read after the files were found to be missing
        are_deleted = all(self._is_on_known_volume(path, volumes) for path in files)
        classified.needs_scan |= bool(folders) or not are_deleted
        # Another link may take its place. Events may come from behind a link until the next scan.
        classified.needs_scan |= not self.links_seen.isdisjoint(missing)
        if are_deleted:
            tenant, collection = self._folder.tenant, self._folder.collection
            ids = [self.root.doc_id(path) for path in files]
            classified.deletions += [
                Deletion(doc_id=i, version=version, tenant=tenant, collection=collection)
                for i in ids
            ]

    def _is_on_known_volume(self, path: Path, volumes: Volumes) -> bool:
        """Return whether ``path``, which is missing, would lie on the file system that it was on.

        Nobody deleted the files of a file system that was unmounted.
        """
        folders = folders_of(self.root.doc_id(path))
        mount = next((folder for folder in folders if folder in self._volumes), "")
        before = self._volumes.get(mount)
        return before is None or before == volumes.at(path.parent)


def _is_missing(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
