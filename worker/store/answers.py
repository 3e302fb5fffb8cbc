"""What an answer of Qdrant that is no success means: one table."""

import json
import re
from collections.abc import Container
from typing import Final, NamedTuple

from ingestq.core.errors import (
    CollectionMissing,
    IngestqError,
    StoreFull,
    StoreRejected,
    StoreTooSlow,
    StoreUnavailable,
    UsageError,
)


class Meaning(NamedTuple):
    """What answers with one of ``statuses`` mean, if Qdrant itself ``said`` so (None: whoever)."""

    statuses: Container[int]
    said: re.Pattern[str] | None
    error: type[IngestqError]
    words: str


ANYTHING: Final = re.compile("")
NO_ROOM: Final = re.compile(
    r"no space left|out of (disk|memory)|exceeding the configured limit of \d+%"
    r"|max [a-z ]+ limit of \S+ reached",
    re.IGNORECASE,
)
"""A full disk is answered 500, a quota of the server or a limit of the collection 400 or 507."""
NO_COLLECTION: Final = re.compile("Collection .*doesn't exist")
ERRORS: Final = range(400, 600)
SERVER_ERRORS: Final = range(500, 600)
MEANINGS: Final = (
    Meaning({401, 403}, None, UsageError, "refuses INGESTQ_QDRANT_API_KEY"),
    Meaning({507}, None, StoreFull, "has no room, make some"),
    Meaning(ERRORS, NO_ROOM, StoreFull, "has no room, make some"),
    Meaning(
        {404},
        NO_COLLECTION,
        CollectionMissing,
        "misses a collection; if it was deleted, a worker that starts makes it anew",
    ),
    Meaning({408}, None, StoreTooSlow, "ran out of time"),
    Meaning(SERVER_ERRORS, None, StoreUnavailable, "cannot serve now"),
    # 400 (too large, dimension, strict mode), 409, 422, and 429: one with a Retry-After arrives as
    # another exception; without it the request costs more than is ever allowed.
    Meaning(ERRORS, ANYTHING, StoreRejected, "refuses a request"),
    Meaning({413}, None, StoreRejected, "refuses a request"),
    # A proxy knows nothing of documents: none is rejected for what it says.
    Meaning(
        range(1000), None, StoreUnavailable, "does not answer as Qdrant does (INGESTQ_QDRANT_URL)"
    ),
)
"""The one place that knows which answers may pass; the first that fits is meant. What becomes of
each error says `ingestq.core.errors.classify`."""


def meaning(place: str, status: int, body: bytes) -> IngestqError:
    """The error that an answer of Qdrant, or of a proxy before it, stands for."""
    said = _said(body)
    reason = body.decode(errors="replace")[:200] if said is None else said
    kind, words = next(
        (rule.error, rule.words)
        for rule in MEANINGS
        if status in rule.statuses
        and (rule.said is None or (said is not None and rule.said.search(said)))
    )
    return kind(f"Qdrant at {place} {words}: {status} {reason}".rstrip())


def _said(body: bytes) -> str | None:
    """The error in Qdrant's own form, or None: then a proxy answered, or a key was refused."""
    try:
        return str(json.loads(body)["status"]["error"])
    except (ValueError, KeyError, TypeError):
        return None
