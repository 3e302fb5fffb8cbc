"""Names of blobs: ``SPACE/TIME-RANDOM``. Each queue has a space of its own."""

import re
import uuid
from typing import Final

MAX_UPLOAD_AGE_MS: Final = 6 * 3600 * 1000
"""A document must be queued within this time after its blob was named; Redis refuses it later."""
GARBAGE_AGE_MS: Final = 2 * MAX_UPLOAD_AGE_MS
"""Garbage collection deletes an unnamed blob once it is older than this. The margin over
MAX_UPLOAD_AGE_MS is for a document that is being queued meanwhile."""

_NAME: Final = re.compile(r"[0-9a-f]{32}/[0-9a-f]{16}-[0-9a-f]{32}")


def new_blob_space() -> str:
    """Return a space that no other queue uses."""
    return uuid.uuid4().hex


def new_blob_name(space: str, now_us: int) -> str:
    """Return a name that no other blob has; ``now_us`` is the steady clock in microseconds."""
    return f"{space}/{now_us:016x}-{uuid.uuid4().hex}"


def is_blob_name(text: str) -> bool:
    """Return whether ``text`` is a valid blob name. Such a name cannot lead out of a blob store."""
    return _NAME.fullmatch(text) is not None


def created_ms(name: str) -> int:
    """Return when the blob ``name`` was named, in ms of the queue's steady clock."""
    return int(name.partition("/")[2].partition("-")[0], 16) // 1000
