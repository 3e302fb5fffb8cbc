"""What a failed HTTP answer means: rules that are looked up in order, and ``Retry-After``.

The rules themselves are data and stand beside their adapters: `worker.store.answers` has those of
Qdrant, `worker.embedding.backends.endpoint_answers` those of an embeddings endpoint.
"""

import math
import re
from collections.abc import Container, Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

from ingestq.core.errors import IngestqError, ServiceUnavailable

MAX_RETRY_AFTER_SECONDS: Final = 3600.0
"""A service may name a time that is days away. It is asked again sooner, in case that changed."""
MAX_REASON_CHARACTERS: Final = 500

ANY_REASON: Final = re.compile("")
SERVER_ERRORS: Final = range(500, 600)
ANY_STATUS: Final = range(1000)


class FailedAnswer(NamedTuple):
    """An answer without the status of a success."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case, or a mapping that ignores case."""
    body: bytes


class AnswerRule(NamedTuple):
    """Says that answers with one of ``statuses`` mean ``error``, described by ``text``.

    With a ``reason`` the rule applies only if the service itself answered, in the form of its own
    errors, and the pattern is found in its reason. Without one it also applies to answers of
    proxies.
    """

    statuses: Container[int]
    reason: re.Pattern[str] | None
    error: type[IngestqError]
    text: str
    retry_seconds: float | None = None
    """When to ask again if the answer has no ``Retry-After``."""


def to_error(
    rules: Iterable[AnswerRule], service: str, answer: FailedAnswer, reason: str | None
) -> IngestqError:
    """Return the error of the first rule that applies to ``answer``.

    ``service`` names who was asked. ``reason`` is what the service itself says; None if the answer
    does not have the form of its errors, as that of a proxy. A `ServiceUnavailable` carries the
    ``Retry-After`` of the answer. The last of ``rules`` has to apply to every answer.
    """
    rule = next(
        rule
        for rule in rules
        if answer.status in rule.statuses
        and (rule.reason is None or (reason is not None and rule.reason.search(reason)))
    )
    if reason is None:
        reason = answer.headers.get("location") or answer.body.decode(errors="replace")
    shown = reason[:MAX_REASON_CHARACTERS]
    text = f"{service} {rule.text}: {answer.status} {shown}".rstrip()
    if not issubclass(rule.error, ServiceUnavailable):
        return rule.error(text)
    seconds = retry_after(answer.headers)
    return rule.error(text, rule.retry_seconds if seconds is None else seconds)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return for how many seconds the service asks to be left alone; None if it does not say.

    Reads ``Retry-After`` as RFC 9110 section 10.2.3 defines it, and ``retry-after-ms``, which
    OpenAI sends along and which is more exact. A date is compared with the service's own ``Date``
    where there is one. Never more than `MAX_RETRY_AFTER_SECONDS`.
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
    """Return when to repeat a request in place, in the form that stamina wants.

    True is with back-off. If the service names a time it is that many seconds, or False, never, if
    they are more than ``max_seconds``.
    """
    if error.retry_after is None:
        return True
    return error.retry_after if error.retry_after <= max_seconds else False


def _number(value: str) -> float:
    """Return the number that ``value`` is; NaN if it is none."""
    try:
        return float(value)
    except ValueError:
        return math.nan


def _bounded(seconds: float) -> float | None:
    """Return ``seconds`` within what is ever waited for; None if that is no time to wait."""
    if not math.isfinite(seconds) or seconds <= 0:
        return None
    return min(seconds, MAX_RETRY_AFTER_SECONDS)


def _seconds_between(begin: str | None, end: str) -> float:
    """Return the seconds from ``begin``, by default now, to ``end``; NaN if one is no date."""
    try:
        begin_time = datetime.now(UTC) if begin is None else _http_date(begin)
        return (_http_date(end) - begin_time).total_seconds()
    except (ValueError, OverflowError):
        return math.nan


def _http_date(value: str) -> datetime:
    """Read a date in any of the three forms of RFC 9110 section 5.6.7, all of which are in GMT."""
    date = parsedate_to_datetime(value)
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date
