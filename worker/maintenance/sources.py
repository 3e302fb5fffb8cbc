"""What became of the files that the index was made from. Blocks: to be called in a thread."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from ingestq.core.documents import Document
from ingestq.core.errors import DocumentRejected
from ingestq.core.paths import SETTLED_NS, file_state, text_to_path
from worker.pipeline.points import DocumentKey, LedgerEntry
from worker.text.content import content_hash


class Sight(Enum):
    """How a file compares with what is known of it.

    ``hidden`` is a file that cannot be seen from here: nothing is known of it.
    """

    SAME = "same"
    CHANGED = "changed"
    GONE = "gone"
    HIDDEN = "hidden"


@dataclass(frozen=True)
class Look:
    """What was seen of a file, and of one that changed, why and its state now."""

    sight: Sight
    reason: str = ""
    state: str | None = None


SAME: Final = Look(Sight.SAME)


@dataclass(frozen=True)
class Sources:
    """The files, as this machine sees them.

    ``roots`` are folders of which it is known that they are sources: what is missing in one of
    them is gone. Elsewhere a file is gone only if the folder it was in is there.
    """

    roots: Sequence[Path]
    max_bytes: int

    def look(self, entries: Iterable[LedgerEntry]) -> dict[DocumentKey, Look]:
        """Compare the files of ``entries`` with them; one is read only if its state differs."""
        return {
            entry.key: self._look(entry, document)
            for entry in entries
            if (document := entry.document) is not None
        }

    def gone(self, entries: Iterable[LedgerEntry]) -> list[LedgerEntry]:
        """Those of ``entries`` whose files are gone."""
        return [
            entry
            for entry in entries
            if entry.path is not None and self._missing(text_to_path(entry.path)) is Sight.GONE
        ]

    def _look(self, entry: LedgerEntry, document: Document) -> Look:
        assert document.path is not None, "a ledger gives documents that have a path"
        path = text_to_path(document.path)
        missing = self._missing(path)
        if missing is not None:
            return Look(missing)
        try:
            state = file_state(document, path.stat())
            if state is not None and state == entry.file:
                return SAME
            if content_hash(document, self.max_bytes) == entry.content_hash:
                return SAME
        except OSError:
            return Look(Sight.HIDDEN)
        except DocumentRejected as error:
            return Look(Sight.CHANGED, str(error), state)
        return Look(Sight.CHANGED, "the file has changed", state)

    def _missing(self, path: Path) -> Sight | None:
        """None if there is something at ``path``."""
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            known = (path.parent, *(root for root in self.roots if path.is_relative_to(root)))
            # Path.is_dir() raises on an impossible name.
            return Sight.GONE if any(map(os.path.isdir, known)) else Sight.HIDDEN
        except (OSError, ValueError):
            return Sight.HIDDEN
        return None


def are_same(known: Sequence[Document | None], now: Sequence[Document]) -> list[bool]:
    """Whether the file of each document of ``now`` is as it was when it was ``known``."""
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
    return modified_ns + SETTLED_NS < known.version * 1000
