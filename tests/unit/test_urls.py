"""URLs in messages show no secret, whatever they look like."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestq.core.urls import is_ambiguous, public_url, secrets_in, without_secrets


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:secret@host/0", "redis://host/0"),
        ("redis://secret@host/0", "redis://host/0"),
        ("redis://user:secret@host/0", "redis://host/0"),
        ("redis://:se/cr#et@secret@host/0", "redis://host/0"),
        ("redis://:12/secret@host/0", "redis://host/0"),
        ("redis://secret/secret@host", "redis://host"),
        ("redis://:secret", "redis://***"),
        ("redis://user:secret/0", "redis://***/0"),
        ("https://[secret", "https://***"),
        ("https://host:/v1", "https://host:/v1"),
        ("redis://host/0?db=2&password=secret", "redis://host/0"),
        ("unix:///run/redis.sock?password=secret", "unix:///run/redis.sock"),
        ("unix://:secret@/run/redis.sock", "unix:///run/redis.sock"),
        ("https://secret@qdrant.example", "https://qdrant.example"),
        ("https://host:6333/v1", "https://host:6333/v1"),
        ("https://user:secret/secret@host/v1", "https://host/v1"),
        ("https://user:se cret@host/v1", "https://host/v1"),
        ("https://user:se@cret@host/v1", "https://host/v1"),
        ("https://host/login?token=secret#secret", "https://host/login"),
        ("http://[::1]:80/v1#secret", "http://[::1]:80/v1"),
        (
            "redis+sentinel://u:secret@a:1,b,[::1]:2/s/0?secret",
            "redis+sentinel://a:1,b,[::1]:2/s/0",
        ),
        ("rediss+sentinel://u:secret,b:2/s", "rediss+sentinel://***/s"),
        ("redis://user:12,b:secret/0", "redis://***/0"),
        ("s3://key:secret@bucket/prefix", "s3://bucket/prefix"),
        ("simplecache::s3://key:secret@bucket/prefix", "simplecache::s3://bucket/prefix"),
        ("//user:secret@host/login?secret", "//host/login"),
        ("/login?next=https://user:secret@host/", "/login"),
        ("user:secret@host:6379", "host:6379"),
        ("user:sec//ret@host:6379", "host:6379"),
        ("/srv/blobs@2", "/srv/blobs@2"),
        ("blobs", "blobs"),
        ("", ""),
    ],
)
def test_a_url_in_a_message_shows_no_secret(url: str, shown: str) -> None:
    assert public_url(url) == shown


def test_urls_in_texts_are_shown_without_secrets() -> None:
    text = "see <https://user:secret@host/a?secret> or 'http://h/b?key=secret', not a?b or c@d"
    assert without_secrets(text) == "see <https://host/a> or 'http://h/b', not a?b or c@d"


def test_a_text_may_go_on_with_a_colon_after_a_url() -> None:
    text = "imap://anna:secret@host:143: refused; redis://:secret: away; http://h/a?secret: gone"
    assert without_secrets(text) == "imap://host:143: refused; redis://***: away; http://h/a: gone"


def test_known_secrets_are_hidden_in_a_text() -> None:
    url = "redis://us%2Der:pass%20word@host/0?password=hunter2&db=2#fragment"
    said = "NOPERM us-er has no permission; AUTH pass word; hunter2; pass%20word; fragment; db 2"
    assert without_secrets(said, secrets_in(url)) == (
        "NOPERM *** has no permission; AUTH ***; ***; ***; ***; db 2"
    )


@given(st.text(max_size=20), st.text(max_size=20), st.sampled_from(["redis", "https", "s3"]))
def test_whatever_is_before_the_at_sign_is_not_shown(user: str, password: str, scheme: str) -> None:
    assert public_url(f"{scheme}://{user}:{password}@host/path") == f"{scheme}://host/path"


@given(st.text())
def test_a_public_url_stays_as_it_is(url: str) -> None:
    assert public_url(public_url(url)) == public_url(url)


@pytest.mark.parametrize("part", ["a:", "a.", "://", "//", "a://b@", "@", "?#"])
def test_a_long_text_takes_linear_time(part: str) -> None:
    def seconds(length: int) -> float:
        began = time.process_time()
        without_secrets(part * length)
        return time.process_time() - began

    assert min(seconds(400_000) for _ in range(3)) < 50 * max(seconds(40_000), 0.002)


@pytest.mark.parametrize(
    ("url", "ambiguous"),
    [
        ("redis://:secret@host/0", False),
        ("redis://user:se%2Fcret@host/0", False),
        ("https://host:6333/v1", False),
        ("unix:///run/redis.sock", False),
        ("redis://:se/cret@host", True),
        ("redis://:se#cret@host", True),
        ("redis://secret/secret@host", True),
        ("redis://:se cret@host", True),
        ("redis://:se@cret@host", True),
    ],
)
def test_a_url_that_can_be_misread_is_found(url: str, ambiguous: bool) -> None:
    assert is_ambiguous(url) is ambiguous
