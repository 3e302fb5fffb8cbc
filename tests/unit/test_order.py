"""Of the changes of a document, the same one wins in whatever order workers handle them."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestq.core.versions import FIRST_ISSUED
from tests.examples import few_or_many
from worker.pipeline.order import (
    Change,
    Standing,
    deletes_before,
    placed_after,
    standing,
    why_unordered,
)
from worker.pipeline.points import EntryState, LedgerEntry

CHANGES = 6


def put(version: int, *, queued: int = 0) -> Change:
    return Change(version, 0, FIRST_ISSUED + queued if queued else 0, deletes=False)


def delete(version: int, *, queued: int = 0) -> Change:
    return put(version, queued=queued)._replace(deletes=True)


def issued(at: int, *, deletes: bool = False) -> Change:
    return Change(FIRST_ISSUED + at, 0, 0, deletes)


def entry_of(change: Change, seen: LedgerEntry | None, **fields: Any) -> LedgerEntry:
    entry = LedgerEntry(
        tenant="",
        doc_id="a",
        source="a",
        version=change.version,
        attempt=change.attempt,
        queued=change.queued,
        content_hash="",
        chunks=0,
        state=EntryState.DELETED if change.deletes else EntryState.INDEXED,
        written_ms=1,
    )
    if change.deletes and change.version >= FIRST_ISSUED:
        entry = msgspec.structs.replace(entry, deleted_at=change.version)
    return placed_after(msgspec.structs.replace(entry, **fields), seen)


class Index:
    """The ledger entry of one document, and what workers on its changes make of it."""

    def __init__(self) -> None:
        self.entry: LedgerEntry | None = None
        self.unordered: list[Change] = []

    def handle(self, change: Change) -> Standing:
        seen, found = self.entry, standing(change, self.entry)
        if found is Standing.NEWER:
            self.entry = entry_of(change, seen)
        elif seen is not None and found is Standing.DELETED:
            deletion = Change(seen.deleted_at, change.attempt, 0, deletes=True)
            self.entry = entry_of(deletion, seen, own=change.version)
        elif seen is not None and found is Standing.UNORDERED:
            self.unordered.append(change)
        elif seen is not None and deletes_before(change, seen):
            self.entry = msgspec.structs.replace(seen, deleted_at=change.version)
        if seen is not None and self.entry is not None and self.entry.state != seen.state:
            assert self.entry.fence == seen.fence or self.entry.fence.is_newer_than(seen.fence)
        return found

    @property
    def holds(self) -> int | None:
        """The version that is indexed; None if it is deleted."""
        if self.entry is None or self.entry.state is EntryState.DELETED:
            return None
        return self.entry.version


def newest_of_own(changes: Sequence[Change]) -> int | None:
    """Return what has to be indexed after own versions, in any order of number and time."""
    deleted_at = max((c.version for c in changes if c.version >= FIRST_ISSUED), default=0)
    own = [change for change in changes if change.version < FIRST_ISSUED]
    gone = max((change.version for change in own if change.queued < deleted_at), default=0)
    left = [change for change in own if change.version > gone]
    newest = max(left, key=lambda change: (change.version, change.deletes), default=None)
    return None if newest is None or newest.deletes else newest.version


def handled(changes: list[Change]) -> st.SearchStrategy[list[Change]]:
    """Draw the order in which ``changes`` are handled, and that in which they are claimed."""
    attempts = st.permutations(range(1, len(changes) + 1))
    return st.tuples(st.permutations(changes), attempts).map(
        lambda drawn: [
            change._replace(attempt=attempt) for change, attempt in zip(*drawn, strict=True)
        ]
    )


@st.composite
def own_histories(draw: Any) -> list[Change]:
    """Draw own versions, and deletions with and without one; in order of handling."""
    changes = []
    for at in range(1, CHANGES + 1):
        kind = draw(st.sampled_from(["put", "put", "delete at version", "delete"]))
        version = draw(st.integers(1, 5))
        if kind == "delete":
            changes.append(issued(at, deletes=True))
        else:
            changes.append(
                Change(version, 0, FIRST_ISSUED + at, deletes=kind == "delete at version")
            )
    drawn: list[Change] = draw(handled(changes))
    return drawn


@few_or_many(300, 2000)
def test_the_newest_own_version_wins_unless_it_was_deleted(examples: int) -> None:
    @settings(max_examples=examples)
    @given(own_histories())
    def wins(changes: list[Change]) -> None:
        index = Index()
        for change in changes:
            assert index.handle(change) is not Standing.UNORDERED
        assert index.holds == newest_of_own(changes)
        for change in changes:  # again, as after an interruption
            index.handle(change._replace(attempt=change.attempt + len(changes)))
        assert index.holds == newest_of_own(changes)

    wins()


def observed(change: Change) -> int:
    return change.version if change.version >= FIRST_ISSUED else change.queued


@st.composite
def mixed_histories(draw: Any) -> list[Change]:
    """Draw changes of both scales, whose own versions grow with time; in order of handling."""
    changes = []
    for at in range(1, CHANGES + 1):
        match draw(st.sampled_from(["put", "issued", "delete", "delete at version"])):
            case "put":
                changes.append(put(at, queued=at))
            case "issued":
                changes.append(issued(at))
            case "delete":
                changes.append(issued(at, deletes=True))
            case _:
                changes.append(delete(at, queued=at))
    drawn: list[Change] = draw(handled(changes))
    return drawn


@few_or_many(300, 2000)
def test_between_scales_what_was_queued_later_wins(examples: int) -> None:
    @settings(max_examples=examples)
    @given(mixed_histories())
    def wins(changes: list[Change]) -> None:
        index = Index()
        for change in changes:
            found = index.handle(change)
            assert found is not Standing.UNORDERED or change.deletes
        ordered = [change for change in changes if change not in index.unordered]
        newest = max(ordered, key=observed)
        assert index.holds == (None if newest.deletes else newest.version)

    wins()


FIVE, DELETED, AGAIN, SIX = (
    put(5, queued=1),
    issued(2, deletes=True),
    put(5, queued=3),
    put(6, queued=4),
)


def test_a_deletion_without_a_version_deletes_what_is_there_at_its_version() -> None:
    index = Index()
    handled = [index.handle(change) for change in (FIVE, DELETED, AGAIN, SIX)]
    assert handled == [Standing.NEWER, Standing.NEWER, Standing.OLDER, Standing.NEWER]
    assert index.holds == 6


def test_a_deletion_of_nothing_blocks_only_what_was_queued_before() -> None:
    index = Index()
    assert [index.handle(change) for change in (DELETED, FIVE, AGAIN, SIX)] == [
        Standing.NEWER,
        Standing.DELETED,  # and so is its version
        Standing.OLDER,
        Standing.NEWER,
    ]
    later = Index()
    assert [later.handle(change) for change in (DELETED, AGAIN)] == [Standing.NEWER] * 2


@pytest.mark.parametrize("change", [put(5, queued=4), delete(7, queued=4)], ids=["put", "delete"])
def test_what_cannot_be_ordered_is_said(change: Change) -> None:
    index = Index()
    for before in (FIVE, issued(3)):
        index.handle(before)
    assert index.handle(change) is Standing.UNORDERED
    assert index.entry is not None
    assert "Redis issued" in why_unordered(change, index.entry)
    assert index.holds == FIRST_ISSUED + 3


def test_a_deletion_at_a_version_deletes_older_and_equal_ones() -> None:
    for versions, held in (((5,), None), ((6,), 6), ((5, 4), None), ((5, 6), 6)):
        for changes in ([*map(put, versions), delete(5)], [delete(5), *map(put, versions)]):
            index = Index()
            for change in changes:
                index.handle(change)
            assert index.holds == held
