"""Decides what to do about each file of a watched folder: index, delete, wait or skip. Blocks."""

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec
import structlog

from ingestq.core import events
from ingestq.core.documents import Deletion, Document
from ingestq.core.paths import file_state
from ingestq.core.results import FailedDocument
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
from producers.watch.settling import MAX_CHANGES, FileState, is_settled

log = structlog.get_logger()

MAX_REMEMBERED: Final = 10_000
"""Skipped files remembered; with more, some are logged again."""
MAX_EVENT_DELETIONS: Final = 10
"""Missing files that are deleted without a scan. With more, a scan decides, whose sweep is under
the mass-deletion guard."""


class SkippedFileLog:
    """Logs each skipped file with the reason, and again only if the reason changes."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def add(self, path: str, reason: str) -> None:
        """Log that the file at ``path``, or the document of that id, is skipped."""
        if self._reasons.get(path) == reason:
            return
        if len(self._reasons) >= MAX_REMEMBERED:
            self._reasons.clear()
        self._reasons[path] = reason
        log.warning(events.DROP_LEFT_OUT, path=path, reason=reason)

    def remove(self, path: str) -> None:
        """Forget why ``path`` was skipped: it is not any more."""
        self._reasons.pop(path, None)


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

    ``skipped`` logs the files that are not queued, and why.
    """

    def __init__(self, folder: WatchedFolder, presence: Presence, settle_seconds: float) -> None:
        self.root = Root(folder.path, folder.name, is_folder=True)
        self.skipped = SkippedFileLog()
        self._folder = folder
        self._presence = presence
        self._settle_seconds = settle_seconds
        self._folders: set[Path] = set()

    def classify(self, due: Mapping[Path, FileState | None], version: int) -> ClassifiedFiles:
        """Classify the paths at which something happened; ``version`` was read before.

        A folder stands for everything in it. Each path comes with the state in which it was last
        seen unsettled, if it was.
        """
        classified = ClassifiedFiles()
        missing = []
        for path, known in due.items():
            if not _is_inside(path.parent, self._folder.path):
                continue  # events come from behind symbolic links, too
            if self._is_missing(path):
                missing.append(path)
                continue
            # A folder was replaced: no event tells which files were in the old one.
            classified.needs_scan |= path in self._folders
            self._remember_folders_of(path)
            found = list(islice(walk(self.root, path, self.skips), MAX_CHANGES))
            classified.needs_scan |= len(found) == MAX_CHANGES
            self._classify_entries(found, version, classified, {path: known})
        if self._folder.hot:
            return classified  # missing files were moved away, and their documents stay
        if missing and self._presence.check():  # else no file is known to be gone
            self._classify_missing(missing, version, classified)
        return classified

    async def scan(self, clock: Clock, record: ScanRecord) -> AsyncIterator[ClassifiedFiles]:
        """Classify all files of the folder, and add each to ``record``. Does not block."""
        async for listing in scan(self.root, clock, record, self.skips):
            yield await asyncio.to_thread(self.classify_listing, listing)

    def classify_listing(self, listing: Listing) -> ClassifiedFiles:
        """Classify the entries that a scan found."""
        classified = ClassifiedFiles()
        self._classify_entries(listing.entries, listing.version, classified, {})
        return classified

    def skips(self, path: Path, status: os.stat_result) -> bool:
        """Return whether a walk skips ``path``; log it if it leads out of the folder."""
        if self._leads_out(path):
            return True
        if not stat.S_ISDIR(status.st_mode):
            return not self._folder.is_document(path)
        if not self._folder.may_hold_documents(path):
            return True
        self._folders.add(path)
        return False

    def snapshot(self) -> dict[Path, FileState]:
        """Return the state of every file that may matter, for polling."""
        files = walk(self.root, skip=lambda path, _: self._leads_out(path))
        return {
            file.path: FileState.of(file.status) for file in files if isinstance(file, FoundFile)
        }

    def _remember_folders_of(self, path: Path) -> None:
        """Remember the folders above ``path``, to recognise them as folders when they are gone."""
        relative = path.relative_to(self._folder.path)
        self._folders.update(
            self._folder.path / parent for parent in relative.parents if parent.name
        )

    def _leads_out(self, path: Path) -> bool:
        if not path.is_symlink() or _is_inside(path, self._folder.path):
            return False
        self.skipped.add(str(path), "a symbolic link that leads out of the folder")
        return True

    def _is_missing(self, path: Path) -> bool:
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False
        return self._leads_out(path)

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
        )
        if self._folder.hot:
            return msgspec.structs.replace(document, scanned=False, hot=True)
        return msgspec.structs.replace(document, file=file_state(document, found.status))

    def _classify_missing(
        self, missing: Iterable[Path], version: int, classified: ClassifiedFiles
    ) -> None:
        folders = [path for path in missing if path in self._folders]
        self._folders.difference_update(folders)
        files = [path for path in missing if self._folder.is_document(path)]
        classified.needs_scan |= bool(folders) or len(files) > MAX_EVENT_DELETIONS
        if len(files) <= MAX_EVENT_DELETIONS:
            tenant, collection = self._folder.tenant, self._folder.collection
            ids = [self.root.doc_id(path) for path in files]
            classified.deletions += [
                Deletion(doc_id=i, version=version, tenant=tenant, collection=collection)
                for i in ids
            ]


def _is_inside(path: Path, folder: Path) -> bool:
    """Return whether ``path`` is in ``folder`` once all symbolic links are followed."""
    real = os.path.realpath(path)
    return Path(real).is_relative_to(os.path.realpath(folder))
