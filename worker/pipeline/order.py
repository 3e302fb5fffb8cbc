"""The order of changes of a document: is a document or deletion newer than what the ledger holds?

There are two scales of versions (`ingestq.core.versions`), whose numbers say nothing about each
other:

- *Issued* versions are ordered by number. A deletion without a version has an issued one.
- A caller's *own* versions are ordered by number, too. A deletion at a version counts as newer than
  a document of the same version.
- An issued version and an own one are ordered by when they were observed. An own version has no
  time, so it carries the version that Redis issued when it was queued (``queued``).

A deletion with an issued version also deletes all own versions that were queued before it, whatever
their numbers are. So that this does not depend on the order in which workers handle them, a ledger
entry keeps two numbers, which only grow:

- ``own``, the largest own version that was indexed or deleted: a version that is not larger does
  not come back;
- ``deleted_at``, the newest such deletion: an own version that was queued before it counts as
  deleted by it, and raises ``own``.
"""

from enum import Enum, auto
from typing import NamedTuple

import msgspec

from ingestq.core.documents import Deletion, Document
from ingestq.core.versions import is_issued
from worker.pipeline.points import EntryState, Fence, LedgerEntry, Rejection


class Change(NamedTuple):
    """A document or a deletion, as far as it decides the order. ``attempt`` is that of its job."""

    version: int
    attempt: int
    queued: int
    deletes: bool

    @classmethod
    def of(cls, item: Document | Deletion, attempt: int) -> "Change":
        """Return what orders ``item``."""
        return cls(item.version, attempt, item.queued, isinstance(item, Deletion))


class Standing(Enum):
    """How a change stands to the ledger entry of its document.

    - ``NEWER``: it is to replace what the index holds.
    - ``OLDER``: it has nothing to do.
    - ``DELETED``: it was queued before a deletion that the entry knows of, and is not deleted yet.
    - ``UNORDERED``: nothing says which is newer; see `why_unordered`.
    """

    NEWER = auto()
    OLDER = auto()
    DELETED = auto()
    UNORDERED = auto()


def standing(change: Change, entry: LedgerEntry | None) -> Standing:
    """Return how ``change`` stands to ``entry``."""
    if entry is None:
        return Standing.NEWER
    if is_issued(change.version):
        return _newer_if(_is_issued_newer(change, entry))
    is_number_newer = change.version > entry.own
    holds_issued = is_issued(entry.version) and not _is_tombstone(entry)
    if change.queued < entry.deleted_at:
        is_left = change.version == entry.own and entry.state is not EntryState.DELETED
        is_missed = not holds_issued and (is_number_newer or is_left)
        return Standing.DELETED if is_missed else Standing.OLDER
    if not holds_issued:
        return _newer_if(is_number_newer or _is_same_newer(change, entry))
    if change.queued < entry.version:
        return Standing.OLDER
    return Standing.UNORDERED if change.deletes or not is_number_newer else Standing.NEWER


def why_unordered(change: Change, entry: LedgerEntry) -> str:
    """Return why ``change`` cannot be ordered, and what to do about it."""
    held = "the index holds a version of the document that Redis issued"
    if change.deletes:
        return (
            f"{held}, which cannot be compared with {change.version}; delete it without a version"
        )
    return (
        f"{held}, and version {entry.own} before that; send a version above {entry.own}, or all "
        "without a number"
    )


def deletes_before(change: Change, entry: LedgerEntry) -> bool:
    """Return whether ``entry``, which is newer, does not know yet of the deletion ``change``."""
    return (
        change.deletes
        and is_issued(change.version)
        and not is_issued(entry.version)
        and change.version > entry.deleted_at
    )


def marked(entry: LedgerEntry, rejection: Rejection) -> Rejection | None:
    """Return the rejection that ``entry`` has to name once ``rejection`` is known.

    Names the newest rejected version, if the index holds an older one.
    """
    known = entry.rejection
    change = Change(rejection.version, entry.attempt, rejection.queued, deletes=False)
    is_done = entry.state in (EntryState.INDEXED, EntryState.DELETED)
    if is_done and rejection.version == entry.version:
        return known
    if standing(change, entry) not in (Standing.NEWER, Standing.UNORDERED):
        return known
    if known is None:
        return rejection
    if is_issued(known.version) == is_issued(rejection.version):
        is_newer = rejection.version > known.version
    else:
        is_newer = _observed(rejection) > _observed(known)
    since_ms = min(known.since_ms, rejection.since_ms)
    return msgspec.structs.replace(rejection if is_newer else known, since_ms=since_ms)


def is_superseded(entry: LedgerEntry, rejection: Rejection) -> bool:
    """Return whether the rejected version is older than the one that ``entry`` knows of."""
    if rejection.version == entry.version:
        return False
    change = Change(rejection.version, entry.attempt, rejection.queued, deletes=False)
    return standing(change, entry) is Standing.OLDER


def _observed(rejection: Rejection) -> int:
    return rejection.version if is_issued(rejection.version) else rejection.queued


def placed_after(entry: LedgerEntry, seen: LedgerEntry | None) -> LedgerEntry:
    """Return ``entry`` with what has to be kept of ``seen``, which it replaces, and a newer fence.

    Chunks that were written under any fence before can then be replaced and deleted.
    """
    own = 0 if is_issued(entry.version) else entry.version
    if seen is None:
        return msgspec.structs.replace(entry, own=max(entry.own, own))
    is_same = entry.version == seen.version and not _is_tombstone(entry)
    fence = Fence(entry.version, entry.attempt, seen.epoch)
    return msgspec.structs.replace(
        entry,
        epoch=seen.epoch if fence.is_newer_than(seen.fence) else seen.epoch + 1,
        own=max(entry.own, own, seen.own),
        deleted_at=max(entry.deleted_at, seen.deleted_at),
        queued=min(entry.queued, seen.queued) if is_same else entry.queued,
    )


def _newer_if(is_newer: bool) -> Standing:
    return Standing.NEWER if is_newer else Standing.OLDER


def _is_issued_newer(change: Change, entry: LedgerEntry) -> bool:
    if change.version == entry.version:
        return change.attempt >= entry.attempt
    return change.version > entry.issued and change.version >= entry.deleted_at


def _is_same_newer(change: Change, entry: LedgerEntry) -> bool:
    """Return whether ``change`` is newer than ``entry``, if it has the same own version."""
    if change.version != entry.version:
        return False
    if change.deletes and not _is_tombstone(entry):
        return True
    if _is_tombstone(entry) and not change.deletes:
        return False
    return change.attempt >= entry.attempt or change.queued < entry.queued


def _is_tombstone(entry: LedgerEntry) -> bool:
    return entry.state in (EntryState.DELETING, EntryState.DELETED)
