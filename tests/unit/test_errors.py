"""Messages show no secrets."""

import pytest

from ingestq.core.errors import public_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:secret@host/0", "redis://:***@host/0"),
        ("redis://user:secret@host/0", "redis://user:***@host/0"),
        ("redis://:se/cr#et@secret@host/0", "redis://:***@host/0"),
        ("https://secret@qdrant.example", "https://***@qdrant.example"),
        ("redis://host/0?db=2&password=secret", "redis://host/0?db=***&password=***"),
        ("unix:///run/redis.sock?password=secret", "unix:///run/redis.sock?password=***"),
        ("user:secret@host:6379", "user:***@host:6379"),
        ("/srv/blobs@2", "/srv/blobs@2"),
        ("blobs", "blobs"),
    ],
)
def test_a_url_in_a_message_shows_no_secret(url: str, shown: str) -> None:
    assert public_url(url) == shown
