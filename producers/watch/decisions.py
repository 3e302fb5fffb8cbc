"""Decides what to do about each changed file of a watched folder. Blocks."""

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
from producers.files.walk import Clock, FoundFile, Listing, Root, ScanRecord, by_path, scan, walk
from producers.watch.folder import Presence, WatchedFolder, read_sidecar
from producers.watch.settling import MOST_CHANGES, FileState, is_still

log = structlog.get_logger()

MOST_REMEMBERED: Final = 10_000
"""Beyond that, some are said again."""


class SkippedFileLog:
    """Logs what is left out, and why; again only if the reason is another one."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def left_out(self, path: str, reason: str) -> None:
        """The file at ``path``, or what it was named by, is not taken."""
        if self._said.get(path) == reason:
            return
        if len(self._said) >= MOST_REMEMBERED:
            self._said.clear()
        self._said[path] = reason
        log.warning(events.DROP_LEFT_OUT, path=path, reason=reason)

    def taken(self, path: str) -> None:
        """It is taken: what was wrong with it is over."""
        self._said.pop(path, None)


FEW_DELETIONS: Final = 10
"""Files that may be gone at once. If there are more, a scan decides: its sweep removes no more
than it may."""


@dataclass
class ClassifiedFiles:
    """What is to be done about some paths.

    ``states`` are those that the files of the documents are in, by the id of each. Files that are
    still being written are ``changing``, and in which state they are now.
    ``ask_scan`` says that something happened that only a scan can tell all about.
    """

    documents: dict[str, Document] = field(default_factory=dict)
    states: dict[str, FileState] = field(default_factory=dict)
    deletions: list[Deletion] = field(default_factory=list)
    changing: dict[Path, FileState] = field(default_factory=dict)
    ask_scan: bool = False


class FileClassifier:
    """Looks at one folder; files have to be still for ``settle_seconds``."""

    def __init__(self, folder: WatchedFolder, presence: Presence, settle_seconds: float) -> None:
        self.root = Root(folder.path, folder.name, is_folder=True)
        self.notices = SkippedFileLog()
        self._folder = folder
        self._presence = presence
        self._settle_seconds = settle_seconds
        self._folders: set[Path] = set()

    def look(self, due: Mapping[Path, FileState | None], version: int) -> ClassifiedFiles:
        """Decide about paths at which something happened; ``version`` was read before.

        A path stands for all that is in it if it is a folder. With each comes the state in which
        it was found changing the last time.
        """
        looked = ClassifiedFiles()
        gone = []
        for path, known in due.items():
            if not _is_inside(path.parent, self._folder.path):
                continue  # the system also tells of what links lead to
            if self._is_gone(path):
                gone.append(path)
                continue
            # A folder that is there again: nobody tells what was in the one before it.
            looked.ask_scan |= path in self._folders
            self._remember_folders_of(path)
            found = list(islice(walk(self.root, path, self.leave_out), MOST_CHANGES))
            looked.ask_scan |= len(found) == MOST_CHANGES
            self._judge(found, version, looked, {path: known})
        if self._folder.hot:
            return looked  # what is gone was moved, and its document stays
        if gone and self._presence.check():  # else nothing is known of any file
            self._decide_about_gone(gone, version, looked)
        return looked

    async def scan(self, clock: Clock, sightings: ScanRecord) -> AsyncIterator[ClassifiedFiles]:
        """Decide about all files of the folder; ``sightings`` is told of each. Does not block."""
        async for listing in scan(self.root, clock, sightings, self.leave_out):
            yield await asyncio.to_thread(self.judge, listing)

    def judge(self, listing: Listing) -> ClassifiedFiles:
        """Decide about what a scan found."""
        looked = ClassifiedFiles()
        self._judge(listing.entries, listing.version, looked, {})
        return looked

    def leave_out(self, path: Path, status: os.stat_result) -> bool:
        """Whether what is at ``path`` is none of the folder's; says so if it leads out of it."""
        if self._leads_out(path):
            return True
        if not stat.S_ISDIR(status.st_mode):
            return not self._folder.takes(path)
        if not self._folder.enters(path):
            return True
        self._folders.add(path)
        return False

    def snapshot(self) -> dict[Path, FileState]:
        """All files that may matter, for who has to find out by himself what changed."""
        files = walk(self.root, leave_out=lambda path, _: self._leads_out(path))
        return {
            file.path: FileState.of(file.status) for file in files if isinstance(file, FoundFile)
        }

    def _remember_folders_of(self, path: Path) -> None:
        """So that it is known what they were when they are gone."""
        relative = path.relative_to(self._folder.path)
        self._folders.update(
            self._folder.path / parent for parent in relative.parents if parent.name
        )

    def _leads_out(self, path: Path) -> bool:
        if not path.is_symlink() or _is_inside(path, self._folder.path):
            return False
        self.notices.left_out(str(path), "a symbolic link that leads out of the folder")
        return True

    def _is_gone(self, path: Path) -> bool:
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False
        return self._leads_out(path)

    def _judge(
        self,
        found: Iterable[FoundFile | FailedDocument],
        version: int,
        looked: ClassifiedFiles,
        known: Mapping[Path, FileState | None],
    ) -> None:
        for entry in found:
            if isinstance(entry, FailedDocument):
                self.notices.left_out(entry.doc_id, entry.reason)
                continue
            seen = known.get(entry.path)
            if not is_still(entry.status, seen, self._settle_seconds, time.time_ns()):
                looked.changing[entry.path] = FileState.of(entry.status)
                continue
            try:
                looked.documents[entry.doc_id] = self._document(entry, version)
                looked.states[entry.doc_id] = FileState.of(entry.status)
                self.notices.taken(entry.doc_id)
            except ValueError as error:
                self.notices.left_out(entry.doc_id, str(error))

    def _document(self, found: FoundFile, version: int) -> Document:
        """Raises ValueError if what stands beside it is no metadata."""
        document = msgspec.structs.replace(
            by_path(found, version, checksum=True),
            tenant=self._folder.tenant,
            collection=self._folder.collection,
            metadata={**self._folder.metadata, **read_sidecar(found.path)},
        )
        if self._folder.hot:
            return msgspec.structs.replace(document, scanned=False, hot=True)
        return msgspec.structs.replace(document, file=file_state(document, found.status))

    def _decide_about_gone(
        self, gone: Iterable[Path], version: int, looked: ClassifiedFiles
    ) -> None:
        folders = [path for path in gone if path in self._folders]
        self._folders.difference_update(folders)
        files = [path for path in gone if self._folder.takes(path)]
        looked.ask_scan |= bool(folders) or len(files) > FEW_DELETIONS
        if len(files) <= FEW_DELETIONS:
            tenant, collection = self._folder.tenant, self._folder.collection
            ids = [self.root.doc_id(path) for path in files]
            looked.deletions += [
                Deletion(doc_id=i, version=version, tenant=tenant, collection=collection)
                for i in ids
            ]


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether ``path`` is in ``folder`` when all links are followed."""
    real = os.path.realpath(path)
    return Path(real).is_relative_to(os.path.realpath(folder))
