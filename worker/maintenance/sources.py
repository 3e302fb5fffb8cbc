"""Compares source files with the ledger. Blocks on the disk: call it in a thread."""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from ingestq.client.volumes import MountPoint, MountTable
from ingestq.core.documents import Document, Volume
from ingestq.core.errors import DocumentRejected
from ingestq.core.paths import MTIME_RESOLUTION_NS, file_state, path_to_text, text_to_path
from worker.pipeline.deletion_guard import VolumeChange
from worker.pipeline.points import DocumentKey, LedgerEntry
from worker.text.content import content_hash


class FileChange(Enum):
    """How a file compares with its ledger entry.

    ``not_visible``: the file cannot be read from this machine, so nothing is known of it.
    """

    SAME = "same"
    CHANGED = "changed"
    GONE = "gone"
    NOT_VISIBLE = "not_visible"


@dataclass(frozen=True)
class FileCheck:
    """How a file compares. If it changed, ``reason`` says how, and ``state`` is its state now."""

    change: FileChange
    reason: str = ""
    state: str | None = None


SAME: Final = FileCheck(FileChange.SAME)


@dataclass(frozen=True)
class Sources:
    """Source files as this machine sees them, read up to ``max_bytes``.

    ``roots`` are the folders to compare: a file that is missing in them is gone. Elsewhere, a file
    is gone only if its folder exists.
    """

    roots: Sequence[Path]
    max_bytes: int

    def check(self, entries: Iterable[LedgerEntry]) -> dict[DocumentKey, FileCheck]:
        """Compare each entry with its file; entries whose content was sent are left out.

        A file is read only if its state (size and mtime) differs. Remote objects are not looked at.
        """
        return {
            entry.key: FileCheck(FileChange.NOT_VISIBLE)
            if document.path is None
            else self._check(entry, document)
            for entry in entries
            if (document := entry.document) is not None
        }

    def gone(self, entries: Iterable[LedgerEntry]) -> list[LedgerEntry]:
        """Return those of ``entries`` whose files are gone."""
        return [
            entry
            for entry in entries
            if entry.path is not None and self._missing(text_to_path(entry.path)) is FileChange.GONE
        ]

    def root_of(self, entry: LedgerEntry) -> Path | None:
        """Return the root that the file of ``entry`` is in, or None."""
        path = None if entry.path is None else text_to_path(entry.path)
        return next((root for root in self.roots if path and path.is_relative_to(root)), None)

    def volume_changes(self, entries: Iterable[LedgerEntry]) -> dict[DocumentKey, VolumeChange]:
        """Return where each file was when it was indexed, and where it would be now.

        Entries without a path are left out.
        """
        table = MountTable()
        mounts: dict[Path, MountPoint] = {}
        changes = {}
        for entry in entries:
            if entry.path is None:
                continue
            path = text_to_path(entry.path)
            mount = mounts.get(path.parent)
            if mount is None:
                mount = mounts[path.parent] = table.mount_of(path.parent)
            changes[entry.key] = VolumeChange(entry.volume, _volume_at(mount, path, entry))
        return changes

    def _check(self, entry: LedgerEntry, document: Document) -> FileCheck:
        assert document.path is not None, "the document of a ledger entry has a path"
        path = text_to_path(document.path)
        missing = self._missing(path)
        if missing is not None:
            return FileCheck(missing)
        try:
            state = file_state(document, path.stat())
            if state is not None and state == entry.file:
                return SAME
            if content_hash(document, self.max_bytes) == entry.content_hash:
                return SAME
        except OSError:
            return FileCheck(FileChange.NOT_VISIBLE)
        except DocumentRejected as error:
            return FileCheck(FileChange.CHANGED, str(error), state)
        return FileCheck(FileChange.CHANGED, "the file has changed", state)

    def _missing(self, path: Path) -> FileChange | None:
        """Return GONE or NOT_VISIBLE if nothing can be seen at ``path``, else None."""
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            # Of a link, what it leads to counts.
            real = Path(os.path.realpath(path))
            within = [root for root in self.roots if real.is_relative_to(os.path.realpath(root))]
            known = (real.parent, *within)
            # Path.is_dir() raises on an impossible name.
            return FileChange.GONE if any(map(os.path.isdir, known)) else FileChange.NOT_VISIBLE
        except (OSError, ValueError):
            return FileChange.NOT_VISIBLE
        return None


def _volume_at(mount: MountPoint, path: Path, entry: LedgerEntry) -> Volume | None:
    """Return the volume at ``mount``, named as the scan did that found the file at ``path``."""
    if entry.volume is None or not entry.volume.mount:
        return entry.volume and Volume("", mount.device)
    doc_id, before = text_to_path(entry.doc_id), text_to_path(entry.volume.mount)
    if not doc_id.is_relative_to(before):
        return None
    expected = path.parents[len(doc_id.relative_to(before).parts) - 1]
    is_same = mount.folder == expected
    return Volume(entry.volume.mount if is_same else path_to_text(mount.folder), mount.device)


def are_files_unchanged(known: Sequence[Document | None], now: Sequence[Document]) -> list[bool]:
    """Return for each document of ``now`` whether its file is the one that was ``known``."""
    return [
        before is not None and _is_unchanged(before, after)
        for before, after in zip(known, now, strict=True)
    ]


def _is_unchanged(known: Document, now: Document) -> bool:
    if now.path is None or now.file is None:
        return False
    if known.file is not None:
        return known.file == now.file
    try:
        status = text_to_path(now.path).stat()
    except OSError:
        return False
    # A version that is later than the clock says nothing about the time.
    modified_ns = max(status.st_mtime_ns, status.st_ctime_ns)
    return modified_ns + MTIME_RESOLUTION_NS < known.version * 1000 <= time.time_ns()
