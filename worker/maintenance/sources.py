"""Compares the files that the index was made from with the ledger. Blocks: call it in a thread."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from ingestq.core.documents import Document
from ingestq.core.errors import DocumentRejected
from ingestq.core.paths import MTIME_RESOLUTION_NS, file_state, text_to_path
from worker.pipeline.points import DocumentKey, LedgerEntry
from worker.text.content import content_hash


class FileChange(Enum):
    """How a file compares with what the ledger says of it.

    Nothing is known of a ``hidden`` file: it cannot be seen from this machine.
    """

    SAME = "same"
    CHANGED = "changed"
    GONE = "gone"
    HIDDEN = "hidden"


@dataclass(frozen=True)
class FileCheck:
    """How a file compares, and of one that changed, the reason and its state now."""

    change: FileChange
    reason: str = ""
    state: str | None = None


SAME: Final = FileCheck(FileChange.SAME)


@dataclass(frozen=True)
class Sources:
    """The files, as this machine sees them.

    ``roots`` are the folders that are compared: a file that is missing in one of them is
    gone. Elsewhere a file is gone only if the folder it was in is there.
    """

    roots: Sequence[Path]
    max_bytes: int

    def check(self, entries: Iterable[LedgerEntry]) -> dict[DocumentKey, FileCheck]:
        """Compare the files of ``entries`` with them; a file is read only if its state differs."""
        return {
            entry.key: self._check(entry, document)
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

    def _check(self, entry: LedgerEntry, document: Document) -> FileCheck:
        assert document.path is not None, "a ledger gives documents that have a path"
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
            return FileCheck(FileChange.HIDDEN)
        except DocumentRejected as error:
            return FileCheck(FileChange.CHANGED, str(error), state)
        return FileCheck(FileChange.CHANGED, "the file has changed", state)

    def _missing(self, path: Path) -> FileChange | None:
        """Return how it is missing; None if there is something at ``path``."""
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            known = (path.parent, *(root for root in self.roots if path.is_relative_to(root)))
            # Path.is_dir() raises on an impossible name.
            return FileChange.GONE if any(map(os.path.isdir, known)) else FileChange.HIDDEN
        except (OSError, ValueError):
            return FileChange.HIDDEN
        return None


def are_same(known: Sequence[Document | None], now: Sequence[Document]) -> list[bool]:
    """Return for each document of ``now`` whether its file is as it was when it was ``known``."""
    return [
        before is not None and _is_same(before, after)
        for before, after in zip(known, now, strict=True)
    ]


def _is_same(known: Document, now: Document) -> bool:
    if now.path is None or now.file is None:
        return False
    if known.file is not None:
        return known.file == now.file
    try:
        modified_ns = text_to_path(now.path).stat().st_mtime_ns
    except OSError:
        return False
    return modified_ns + MTIME_RESOLUTION_NS < known.version * 1000
