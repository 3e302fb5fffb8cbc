"""The two scales of versions: a caller's own numbers, and those that Redis issues.

Redis issues its time in microseconds, or one more than the last version if that is larger. So its
versions never go back, even if its clock does. `worker.pipeline.order` orders versions of both
scales.
"""

from typing import Final, NamedTuple

FIRST_ISSUED: Final = 10**15
"""Versions from here on (September 2001 in microseconds) are on the scale of those that Redis
issues. A caller's own versions are smaller: revisions, or times in seconds or milliseconds."""
LAST_ISSUED: Final = 5_680_281_600_000_000
"""The year 2150 in microseconds. A clock that shows a later time, or a larger version, is not taken
for the time: after it, no version would be left to issue."""


def is_issued(version: int) -> bool:
    """Return whether ``version`` is on the scale of the versions that Redis issues."""
    return version >= FIRST_ISSUED


class LedgerHead(NamedTuple):
    """The newest version in the ledger of a collection, and the largest fencing token; 0 if empty.

    Only versions on the scale of the issued ones count, also those under which own versions were
    queued.
    """

    version: int = 0
    attempt: int = 0
