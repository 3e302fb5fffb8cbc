"""Failed HTTP answers: rules, Retry-After as in RFC 9110, and no secrets in messages."""

import re
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestq.core.errors import (
    CollectionMissing,
    EmbedderUnavailable,
    IngestqError,
    ServiceUnavailable,
    StoreFull,
    StoreRejected,
    StoreUnavailable,
)
from worker.embedding.backends.endpoint_answers import RULES as ENDPOINT_RULES
from worker.embedding.backends.endpoint_answers import NotAnEndpoint, endpoint_error
from worker.http_answers import (
    MAX_REASON_CHARACTERS,
    MAX_RETRY_AFTER_SECONDS,
    AnswerRule,
    FailedAnswer,
    retry_after,
    retry_delay,
    to_error,
)
from worker.store.answers import RULES as QDRANT_RULES
from worker.store.answers import qdrant_error

NOW = "Sun, 06 Nov 1994 08:47:37 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "120"}, 120),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT", "date": NOW}, 120),
        ({"retry-after": "Sunday, 06-Nov-94 08:49:37 GMT", "date": NOW}, 120),
        ({"retry-after": "Sun Nov  6 08:49:37 1994", "date": NOW}, 120),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT", "date": "today"}, None),
        ({"retry-after": NOW}, None),  # in the past
        ({"retry-after": "Sun, 06 Nov 99999999999 08:49:37 GMT", "date": NOW}, None),
        ({"retry-after": "Wed, 06 Nov 9999 08:49:37 GMT"}, MAX_RETRY_AFTER_SECONDS),
        ({"retry-after": "1000000"}, MAX_RETRY_AFTER_SECONDS),
        ({"retry-after": "inf"}, None),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "1"}, 1),
    ],
)
def test_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


@given(st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "date"]), st.text()))
def test_any_header_gives_a_bounded_time_or_none(headers: dict[str, str]) -> None:
    seconds = retry_after(headers)
    assert seconds is None or 0 < seconds <= MAX_RETRY_AFTER_SECONDS


@given(st.integers(1, 3600))
def test_a_retry_date_is_compared_with_the_clock_of_the_service(seconds: int) -> None:
    their_now = 1_000_000_000
    dates = (formatdate(their_now, usegmt=True), formatdate(their_now + seconds, usegmt=True))
    assert retry_after({"date": dates[0], "retry-after": dates[1]}) == seconds


def test_a_request_is_repeated_unless_the_wait_is_too_long() -> None:
    assert retry_delay(StoreUnavailable(""), 20) is True
    assert retry_delay(StoreUnavailable("", 20), 20) == 20
    assert retry_delay(StoreUnavailable("", 21), 20) is False


def test_the_first_matching_rule_wins() -> None:
    rules = (
        AnswerRule({400}, re.compile("full"), StoreFull, "is full", retry_seconds=7),
        AnswerRule({400}, None, StoreRejected, "refuses"),
    )
    answer = FailedAnswer(400, {}, b"body")
    full = to_error(rules, "it", answer, "full up")
    assert isinstance(full, StoreFull)
    assert (str(full), full.retry_after) == ("it is full: 400 full up", 7)
    other = to_error(rules, "it", answer, None)
    assert isinstance(other, StoreRejected)
    assert str(other) == "it refuses: 400 body"


@given(
    status=st.integers(0, 999),
    headers=st.dictionaries(st.sampled_from(["location", "retry-after"]), st.text()),
    body=st.binary(max_size=2 * MAX_REASON_CHARACTERS),
)
def test_every_answer_becomes_an_error(status: int, headers: dict[str, str], body: bytes) -> None:
    for error in (qdrant_error, endpoint_error):
        found = error("http://host", FailedAnswer(status, headers, body))
        assert len(str(found)) < MAX_REASON_CHARACTERS + 200


def test_no_answer_of_a_proxy_rejects_a_document() -> None:
    for rules in (QDRANT_RULES, ENDPOINT_RULES):
        found = to_error(rules, "it", FailedAnswer(400, {}, b"<html>"), None)
        assert isinstance(found, ServiceUnavailable)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (qdrant_error("q", FailedAnswer(503, {"retry-after": "9"}, b"busy")), StoreUnavailable),
        (endpoint_error("e", FailedAnswer(503, {"retry-after": "9"}, b"")), EmbedderUnavailable),
    ],
)
def test_the_retry_time_of_a_service_is_kept_in_the_error(
    error: IngestqError, kind: type[Exception]
) -> None:
    assert isinstance(error, kind)
    assert isinstance(error, ServiceUnavailable)
    assert error.retry_after == 9


def test_the_format_of_an_error_tells_a_service_from_a_proxy() -> None:
    gone = b'{"status": {"error": "Collection `c` doesn\'t exist!"}}'
    assert isinstance(qdrant_error("q", FailedAnswer(404, {}, gone)), CollectionMissing)
    assert isinstance(qdrant_error("q", FailedAnswer(404, {}, b"gone")), StoreUnavailable)
    assert isinstance(endpoint_error("e", FailedAnswer(404, {}, b"gone")), NotAnEndpoint)


@pytest.mark.parametrize(
    ("headers", "body", "shown"),
    [
        ({"location": "https://user:secret@sso/login?token=secret"}, b"", "302 https://sso/login"),
        ({"location": "/login?token=secret"}, b"", "302 /login"),
        ({}, b"moved to https://user:secret@sso/?token=secret", "302 moved to https://sso/"),
        ({}, b'{"message": "ask http://user:secret@host/?secret"}', "302 ask http://host/"),
    ],
)
def test_errors_show_urls_without_secrets(headers: dict[str, str], body: bytes, shown: str) -> None:
    error = endpoint_error("http://host", FailedAnswer(302, headers, body))
    assert str(error).endswith(shown)
    assert "secret" not in str(error)


def test_errors_do_not_repeat_a_key_that_the_service_repeats() -> None:
    body = b'{"message": "sk-secret is not a key, <sk-secret>"}'
    for error in (qdrant_error, endpoint_error):
        assert "sk-secret" not in str(
            error("http://host", FailedAnswer(401, {}, body), ["sk-secret"])
        )
