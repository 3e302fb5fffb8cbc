"""The versions that Redis issues, compared with those in the ledgers.

A ledger may be ahead of Redis, if Redis lost its data and its clock is behind, or if the ledger
comes from a machine whose clock was ahead. Edits would then count as older than what is indexed. So
a worker compares the ledger of each collection before it claims a job for it, and Redis goes on
from the newest version in the ledger; see ``lua/compare_ledger.lua``.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Self

import msgspec
import structlog

from ingestq.broker.scripts import Scripts
from ingestq.core import events
from ingestq.core.documents import Item, Sweep
from ingestq.core.jobs import Batch
from ingestq.core.versions import LedgerHead

log = structlog.get_logger()

AHEAD_SECONDS: Final = 60.0
"""A ledger or versions that are ahead of the clock of Redis by more than this are worth a warning;
clocks differ by less."""

SUPPLY: Final = 256
"""As many as a scan has files under one version."""
FRESH_SECONDS: Final = 0.05
"""Short enough that nobody can tell which of two documents came first."""

LedgerReader = Callable[[str], Awaitable[LedgerHead]]
"""Reads the head of the ledger of a collection, by its public name."""


async def empty_ledger(collection: str) -> LedgerHead:
    """Return the head of an empty ledger."""
    return LedgerHead()


@dataclass(frozen=True)
class VersionOffset:
    """What is added to versions from ``first`` to ``last`` before they are compared."""

    first: int
    last: int
    offset: int

    @classmethod
    def of(cls, text: str) -> Self | None:
        """Return the offset as it is stored in Redis; None if there is none."""
        return cls(*map(int, text.split())) if text else None

    def added_to(self, batch: Batch) -> Batch:
        """Return ``batch`` with the versions that compare with those in the ledger."""
        documents: Sequence[Item] = batch.documents
        return msgspec.structs.replace(batch, documents=tuple(map(self._moved, documents)))

    def _moved(self, document: Item) -> Item:
        moved = {"version": self._added_to(document.version)}
        if not isinstance(document, Sweep):
            moved["queued"] = self._added_to(document.queued)
        return msgspec.structs.replace(document, **moved)

    def _added_to(self, version: int) -> int:
        return version + self.offset if self.first <= version <= self.last else version


class VersionSupply:
    """Issues versions to a producer that needs one for each of many documents.

    It takes SUPPLY of them from Redis at once with ``issue``, and hands each out within
    FRESH_SECONDS: a document may count as older by that than one which another producer observed.
    """

    def __init__(self, issue: Callable[[int], Awaitable[range]]) -> None:
        self._issue = issue
        self._left = range(0)
        self._fresh_until = 0.0

    async def __call__(self) -> int:
        """Return the next version."""
        if time.monotonic() >= self._fresh_until or not self._left:
            fresh_until = time.monotonic() + FRESH_SECONDS
            self._left, self._fresh_until = await self._issue(SUPPLY), fresh_until
        version, self._left = self._left[0], self._left[1:]
        return version


async def compare_ledger(scripts: Scripts, collection: str, head: LedgerHead) -> None:
    """Let all further versions be larger than those in the ledger of ``collection``.

    Logs it if the ledger is ahead of the clock of Redis. Raises redis-py's exceptions.
    """
    ahead_ms, moved = await scripts.compare_ledger(args=[collection, head.version, head.attempt])
    if ahead_ms > AHEAD_SECONDS * 1000 or moved:
        log.warning(
            events.LEDGER_AHEAD,
            collection=collection,
            seconds=round(ahead_ms / 1000),
            queued_before=bool(moved),
        )
