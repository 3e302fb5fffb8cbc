"""The rule that keeps documents whose source may be away: an unmounted disk, an empty list.

Counting comes first and the decision last, so that the rule is the same for a sweep, which knows
what a scan found, and for a verification, which looks at the files itself. Nothing here does I/O.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Final, NamedTuple

from ingestq.core.documents import Volume

MASS_DOCUMENTS: Final = 10
MASS_SHARE: Final = 0.1
"""More deletions than so many, and than this share of the source, are held back."""


class VolumeChange(NamedTuple):
    """The volume on which a document's file was, and the one on which it would be now.

    Each is None if it is unknown.
    """

    before: Volume | None
    now: Volume | None


@dataclass
class _DocumentCount:
    known: int = 0
    gone: int = 0


class DeletionGuard:
    """Decides which documents of one source may be deleted because they are gone from it.

    A document whose file system is not where it was is held back, whatever the number. So is
    everything in a source that is empty, and more than `MASS_DOCUMENTS` documents that are more
    than `MASS_SHARE` of those that are known.
    """

    def __init__(self) -> None:
        self._counts: dict[VolumeChange, _DocumentCount] = {}

    def count(self, change: VolumeChange, *, is_gone: bool) -> None:
        """Count a document that the index knows."""
        counted = self._counts.setdefault(change, _DocumentCount())
        counted.known += 1
        counted.gone += is_gone

    @property
    def changes(self) -> Set[VolumeChange]:
        """The changes of the documents that were counted."""
        return self._counts.keys()

    @property
    def known(self) -> int:
        """The number of documents that were counted."""
        return sum(counted.known for counted in self._counts.values())

    @property
    def gone(self) -> int:
        """The number of documents among them that are gone."""
        return sum(counted.gone for counted in self._counts.values())

    def gone_in(self, changes: Iterable[VolumeChange]) -> int:
        """Return the number of documents that are gone with one of ``changes``."""
        return sum(self._counts[change].gone for change in changes)

    def held(
        self, *, is_source_empty: bool, empty: Set[Volume] = frozenset(), moved: int = 0
    ) -> Mapping[VolumeChange, str]:
        """Return the changes whose documents must be kept, and why; all others may be deleted.

        ``empty`` are volumes, mounted inside the source, on which there is no file. Of the
        documents that are gone, so many were ``moved``: they do not count, and if all were, none is
        held back.
        """
        gone = {change: counted for change, counted in self._counts.items() if counted.gone}
        if moved >= self.gone:
            return {}
        if is_source_empty:
            return dict.fromkeys(gone, "nothing is left in it")
        held = {
            change: reason
            for change, counted in gone.items()
            if (reason := _reason_against(change, counted, empty)) is not None
        }
        rest = [change for change in gone if change not in held]
        if held:
            moved = 0  # they may be among those that are held
        deletions = sum(gone[change].gone for change in rest) - moved
        if deletions > MASS_DOCUMENTS and deletions > MASS_SHARE * (self.known - moved):
            held |= dict.fromkeys(rest, "that is a large part of it")
        return held


def _reason_against(
    change: VolumeChange, counted: _DocumentCount, empty: Set[Volume]
) -> str | None:
    """Return why documents with this ``change`` must be kept; None if they need not be.

    Files that are still found are at another place for a good reason: they were copied to another
    disk, or the process sees other mount points. The number of a device says even less, as many
    file systems get another one at each mount.
    """
    before, now = change
    if before is None or now is None:
        return None
    if now.mount != before.mount and 2 * counted.gone > counted.known:
        if now.mount.startswith(before.mount):
            return f"another file system is mounted at {now.mount}"
        return f"{before.mount} is not mounted any more"
    if now.device != before.device and counted.gone == counted.known:
        return f"{before.mount or 'the folder'} is on another file system"
    return f"{now.mount} is empty" if now in empty else None
