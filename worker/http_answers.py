"""Turns failed HTTP answers into errors: ordered rules, and ``Retry-After``.

The rules are data beside their adapters: those of Qdrant in `worker.store.answers`, those of an
embeddings endpoint in `worker.embedding.backends.endpoint_answers`.
"""

import math
import re
from collections.abc import Container, Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

from ingestq.core.errors import IngestqError, ServiceUnavailable
from ingestq.core.urls import public_url, without_secrets

MAX_RETRY_AFTER_SECONDS: Final = 3600.0
"""A service may name a time that is days away; it is asked again after this time at the latest."""
MAX_REASON_CHARACTERS: Final = 500
MAX_SEARCHED_CHARACTERS: Final = 4096
"""Only this much of a reason is searched, for secrets and its meaning; the rest is dropped."""

ANY_REASON: Final = re.compile("")
SERVER_ERRORS: Final = range(500, 600)
ANY_STATUS: Final = range(1000)


class FailedAnswer(NamedTuple):
    """An HTTP answer with a status that is not a success."""

    status: int
    headers: Mapping[str, str]
    """With names in lower case, or in a mapping that ignores case."""
    body: bytes


class AnswerRule(NamedTuple):
    """Maps answers with one of ``statuses`` to ``error``, whose message contains ``text``.

    With a ``reason``, the rule applies only to errors in the service's own format whose reason the
    pattern is found in. Without one, it also applies to answers of proxies.
    """

    statuses: Container[int]
    reason: re.Pattern[str] | None
    error: type[IngestqError]
    text: str
    retry_seconds: float | None = None
    """When to retry if the answer has no ``Retry-After``."""


def to_error(
    rules: Iterable[AnswerRule],
    service: str,
    answer: FailedAnswer,
    reason: str | None,
    secrets: Iterable[str] = (),
) -> IngestqError:
    """Return the error of the first rule that applies to ``answer``.

    ``service`` names the service in the message. ``reason`` is the service's own error text; None
    if the answer does not have the form of its errors, for example because a proxy sent it; then
    the message shows the ``Location`` of a redirect, or the body. A service may repeat what it was
    sent: neither ``secrets`` nor those of URLs are shown. A `ServiceUnavailable` carries the
    answer's ``Retry-After``. The last of ``rules`` must apply to every answer.
    """
    # The service may repeat a whole document in it, and the patterns need quadratic time.
    searched = "" if reason is None else reason[:MAX_SEARCHED_CHARACTERS]
    rule = next(
        rule
        for rule in rules
        if answer.status in rule.statuses
        and (rule.reason is None or (reason is not None and rule.reason.search(searched)))
    )
    if reason is None:
        location = answer.headers.get("location")
        reason = public_url(location) if location else answer.body.decode(errors="replace")
    shown = without_secrets(reason[:MAX_SEARCHED_CHARACTERS], secrets)[:MAX_REASON_CHARACTERS]
    text = f"{service} {rule.text}: {answer.status} {shown}".rstrip()
    if not issubclass(rule.error, ServiceUnavailable):
        return rule.error(text)
    seconds = retry_after(answer.headers)
    return rule.error(text, rule.retry_seconds if seconds is None else seconds)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds the service asks to wait; None if it does not say.

    Reads ``Retry-After`` as defined in RFC 9110 section 10.2.3, and ``retry-after-ms``, which
    OpenAI also sends and which is more exact. A date is compared with the service's own ``Date``,
    if it sent one. The result is at most `MAX_RETRY_AFTER_SECONDS`.
    """
    if (value := headers.get("retry-after-ms")) is not None:
        milliseconds = _number(value)
        if (seconds := _bounded(milliseconds / 1000)) is not None:
            return seconds
    if (value := headers.get("retry-after")) is None:
        return None
    seconds = _number(value)
    if math.isnan(seconds):
        seconds = _seconds_between(headers.get("date"), value)
    return _bounded(seconds)


def retry_delay(error: ServiceUnavailable, max_seconds: float) -> bool | float:
    """Return when to repeat a request, as stamina's ``on`` hook expects it.

    True is to repeat it with back-off. If the service named a time, the result is that many
    seconds, or False, not to repeat it, if that is more than ``max_seconds``.
    """
    if error.retry_after is None:
        return True
    return error.retry_after if error.retry_after <= max_seconds else False


def _number(value: str) -> float:
    """Return ``value`` as a number; NaN if it is not one."""
    try:
        return float(value)
    except ValueError:
        return math.nan


def _bounded(seconds: float) -> float | None:
    """Return ``seconds``, at most `MAX_RETRY_AFTER_SECONDS`; None if it is not positive."""
    if not math.isfinite(seconds) or seconds <= 0:
        return None
    return min(seconds, MAX_RETRY_AFTER_SECONDS)


def _seconds_between(begin: str | None, end: str) -> float:
    """Return the seconds from ``begin`` (None is now) to ``end``; NaN if one is not a date."""
    try:
        begin_time = datetime.now(UTC) if begin is None else _http_date(begin)
        return (_http_date(end) - begin_time).total_seconds()
    except (ValueError, OverflowError):
        return math.nan


def _http_date(value: str) -> datetime:
    """Parse a date in any of the three formats of RFC 9110 section 5.6.7; all are in GMT."""
    date = parsedate_to_datetime(value)
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date
