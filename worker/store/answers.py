"""The table that turns Qdrant's failed answers into errors; see `worker.http_answers`."""

import json
import re
from collections.abc import Iterable
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
"""Qdrant answers 500 if the disk is full, and 400 or 507 if a quota or limit is exceeded."""
NO_COLLECTION: Final = re.compile("Collection .*doesn't exist")
RULES: Final = (
    AnswerRule({401, 403}, None, UsageError, "does not accept INGESTQ_QDRANT_API_KEY"),
    AnswerRule({507}, None, StoreFull, "is full; free space or raise the limit"),
    AnswerRule(ERRORS, FULL, StoreFull, "is full; free space or raise the limit"),
    AnswerRule(
        {404},
        NO_COLLECTION,
        CollectionMissing,
        "has lost the collection; if it was deleted, restart a worker to create it again",
    ),
    AnswerRule({408}, None, StoreTooSlow, "timed out"),
    AnswerRule(SERVER_ERRORS, None, StoreUnavailable, "cannot serve requests now"),
    # 400 (too large, dimension, strict mode), 409, 422 and 429. A 429 with a Retry-After arrives as
    # another exception; one without it says that the request exceeds the limit by itself.
    AnswerRule(ERRORS, ANY_REASON, StoreRejected, "refuses the request"),
    AnswerRule({413}, None, StoreRejected, "refuses the request"),
    # A proxy knows nothing of documents: its answer must not reject one.
    AnswerRule(
        ANY_STATUS, None, StoreUnavailable, "does not answer like Qdrant; check INGESTQ_QDRANT_URL"
    ),
)
"""The first rule that applies decides. `ingestq.core.errors.classify` says what each error leads
to."""


def qdrant_error(place: str, answer: FailedAnswer, secrets: Iterable[str] = ()) -> IngestqError:
    """Return the error for a failed answer of the Qdrant at ``place``, or of a proxy before it.

    Its message does not show ``secrets``.
    """
    return to_error(RULES, f"Qdrant at {place}", answer, _reason(answer.body), secrets)


def _reason(body: bytes) -> str | None:
    """Return Qdrant's error text; None if a proxy answered, or Qdrant refused the key."""
    try:
        return str(json.loads(body)["status"]["error"])
    except (ValueError, KeyError, TypeError):
        return None
