"""What Qdrant's failed answers mean: one table. See `worker.http_answers`."""

import json
import re
from typing import Final

from ingestq.core.errors import (
    CollectionMissing,
    IngestqError,
    StoreFull,
    StoreRejected,
    StoreTooSlow,
    StoreUnavailable,
    UsageError,
)
from worker.http_answers import (
    ANY_REASON,
    ANY_STATUS,
    SERVER_ERRORS,
    AnswerRule,
    FailedAnswer,
    to_error,
)

ERRORS: Final = range(400, 600)
FULL: Final = re.compile(
    r"no space left|out of (disk|memory)|exceeding the configured limit of \d+%"
    r"|max [a-z ]+ limit of \S+ reached",
    re.IGNORECASE,
)
"""A full disk is answered 500, a quota of the server or a limit of the collection 400 or 507."""
NO_COLLECTION: Final = re.compile("Collection .*doesn't exist")
RULES: Final = (
    AnswerRule({401, 403}, None, UsageError, "refuses INGESTQ_QDRANT_API_KEY"),
    AnswerRule({507}, None, StoreFull, "has no room, make some"),
    AnswerRule(ERRORS, FULL, StoreFull, "has no room, make some"),
    AnswerRule(
        {404},
        NO_COLLECTION,
        CollectionMissing,
        "misses a collection; if it was deleted, a worker that starts makes it anew",
    ),
    AnswerRule({408}, None, StoreTooSlow, "ran out of time"),
    AnswerRule(SERVER_ERRORS, None, StoreUnavailable, "cannot serve now"),
    # 400 (too large, dimension, strict mode), 409, 422, and 429: one with a Retry-After arrives as
    # another exception; without it the request costs more than is ever allowed.
    AnswerRule(ERRORS, ANY_REASON, StoreRejected, "refuses a request"),
    AnswerRule({413}, None, StoreRejected, "refuses a request"),
    # A proxy knows nothing of documents: none is rejected because of its answer.
    AnswerRule(
        ANY_STATUS, None, StoreUnavailable, "does not answer as Qdrant does (INGESTQ_QDRANT_URL)"
    ),
)
"""The first rule that applies counts. `ingestq.core.errors.classify` says what each error leads
to."""


def qdrant_error(place: str, answer: FailedAnswer) -> IngestqError:
    """Return the error that an answer of the Qdrant at ``place``, or of a proxy, stands for."""
    return to_error(RULES, f"Qdrant at {place}", answer, _reason(answer.body))


def _reason(body: bytes) -> str | None:
    """Return the error in Qdrant's own form; None if a proxy answered, or a key was refused."""
    try:
        return str(json.loads(body)["status"]["error"])
    except (ValueError, KeyError, TypeError):
        return None
