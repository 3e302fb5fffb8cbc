"""Which documents a scan saw, small enough to travel in a job: eight bytes each.

Two ids share a digest once in 2^64 pairs: then the one that is gone stays until the next scan.
"""

import hashlib
from array import array
from bisect import bisect_left
from typing import Final

DIGEST_BYTES: Final = 8


class SeenBuilder:
    """Collects the ids of documents as they are seen."""

    def __init__(self) -> None:
        self._digests = array("Q")

    def add(self, doc_id: str) -> None:
        self._digests.append(_digest(doc_id))

    def pack(self) -> bytes:
        """The documents seen so far, as `Seen` reads them."""
        packed = array("Q", sorted(self._digests))
        return packed.tobytes()


class Seen:
    """What `SeenBuilder` packed. Raises ValueError if it is damaged."""

    def __init__(self, packed: bytes) -> None:
        self._digests = array("Q")
        self._digests.frombytes(packed)

    def __contains__(self, doc_id: str) -> bool:
        digest = _digest(doc_id)
        at = bisect_left(self._digests, digest)
        return at < len(self._digests) and self._digests[at] == digest


def _digest(doc_id: str) -> int:
    digest = hashlib.blake2b(doc_id.encode(), digest_size=DIGEST_BYTES).digest()
    return int.from_bytes(digest, "little")
