"""Bounds the documents in work by what they hold in memory, however many they are."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from ingestq.core.documents import Document, Lane
from ingestq.core.paths import size_in_state

MAX_CHUNKS: Final = 16_384
"""Some 60 MB of text, words and payloads."""
CHUNK_BYTES: Final = 1024
"""Until a document is prepared, it is charged a chunk for so many bytes. Few have more chunks."""
MOST_EXPECTED: Final = 1024
"""The most chunks that it is charged until then: a large document is read in segments."""
UNKNOWN_BYTES: Final = 64 * 1024
"""The size that is assumed of content that nobody has looked at yet."""


class MemoryBudget:
    """Bounds the chunks of the documents in work, to about ``chunks`` in each lane.

    How many chunks a document has is known only after it was prepared; until then it is charged for
    its bytes. While its lane has used up its budget, a document waits, first come, first served.
    The one that is admitted last may exceed the budget. A lane takes nothing from the other.
    """

    def __init__(self, chunks: int = MAX_CHUNKS) -> None:
        self._free = dict.fromkeys(Lane, chunks)
        self._waiting: dict[Lane, deque[asyncio.Event]] = {lane: deque() for lane in Lane}

    @asynccontextmanager
    async def hold(self, lane: Lane, document: Document | None = None) -> AsyncIterator["Share"]:
        """Wait until ``lane`` has budget for ``document``, and hold a share of it while inside.

        None stands for work without content, such as a deletion.
        """
        waiting = self._waiting[lane]
        if waiting or self._free[lane] <= 0:
            turn = asyncio.Event()
            waiting.append(turn)
            try:
                await turn.wait()
            except asyncio.CancelledError:
                waiting.remove(turn)
                self.take(lane, 0)  # the next one may have the turn
                raise
            waiting.remove(turn)
        share = Share(self, lane)
        share.charge(1 if document is None else _expected_chunks(document))
        try:
            yield share
        finally:
            share.charge(0)

    def take(self, lane: Lane, chunks: int) -> None:
        """Take ``chunks`` from the budget of ``lane``; fewer than none give some back."""
        self._free[lane] -= chunks
        if self._free[lane] > 0 and self._waiting[lane]:
            self._waiting[lane][0].set()


class Share:
    """What a document holds of the budget of its lane."""

    def __init__(self, budget: MemoryBudget, lane: Lane) -> None:
        self._budget = budget
        self._lane = lane
        self._chunks = 0

    def charge(self, chunks: int) -> None:
        """Charge the document for ``chunks``, instead of what it was charged before."""
        before, self._chunks = self._chunks, chunks
        self._budget.take(self._lane, chunks - before)


def _expected_chunks(document: Document) -> int:
    """Return for how many chunks to charge ``document`` before it is prepared."""
    if document.text is not None:
        size = len(document.text)
    else:
        known = None if document.file is None else size_in_state(document.file)
        size = UNKNOWN_BYTES if known is None else known
    return min(1 + size // CHUNK_BYTES, MOST_EXPECTED)
