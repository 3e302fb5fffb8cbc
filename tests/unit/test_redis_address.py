"""What the URL of a Redis says, in all its forms."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio.connection import SSLConnection

from ingestq.broker.address import connection_options
from ingestq.broker.connection import BrokerConfig, connect
from ingestq.broker.sentinel import MasterConnection, Sentinels, TlsMasterConnection
from ingestq.core.errors import UsageError

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1)
HOSTS = st.from_regex(r"[a-z][a-z0-9.-]{0,10}[a-z0-9]", fullmatch=True)


@given(
    st.lists(st.tuples(HOSTS, st.integers(1, 65_535)), min_size=1, max_size=5),
    WORDS,
    WORDS,
    WORDS,
    WORDS,
    st.integers(0, 15),
)
def test_a_sentinel_url_says_what_was_written(
    places: list[tuple[str, int]],
    user: str,
    password: str,
    own_password: str,
    service: str,
    database: int,
) -> None:
    hosts = ",".join(f"{host}:{port}" for host, port in places)
    credentials = f"{quote(user, safe='')}:{quote(password, safe='')}"
    query = f"sentinel_password={quote(own_password, safe='')}&max_connections=7"
    options = connection_options(
        f"redis+sentinel://{credentials}@{hosts}/{quote(service, safe='')}/{database}?{query}"
    )
    sentinels = options["sentinels"]
    assert isinstance(sentinels, Sentinels)
    assert (list(sentinels.places), sentinels.service) == (places, service)
    assert sentinels.options == {"password": own_password}
    assert options["connection_class"] is MasterConnection
    assert options["max_connections"] == 7
    written = (options["username"], options["password"], options["db"])
    assert written == (user, password, database)


def test_ports_and_the_database_have_defaults() -> None:
    options = connection_options("redis+sentinel://a,[::1]:5/s")
    assert list(options["sentinels"].places) == [("a", 26379), ("::1", 5)]
    assert options.get("db", 0) == 0


def test_tls_is_for_sentinels_and_servers() -> None:
    options = connection_options("rediss+sentinel://a/s?ssl_ca_certs=/ca.pem")
    own = {"ssl_ca_certs": "/ca.pem", "ssl_check_hostname": True}
    assert options["connection_class"] is TlsMasterConnection
    assert options["sentinels"].connection is SSLConnection
    assert options["sentinels"].options == own
    assert own.items() <= options.items()


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://a:26379",
        "redis+sentinel:///service/0",
        "redis+sentinel://a:port/service",
        "redis+sentinel://a,,b/service",
        "redis+sentinel://a/service/zero",
        "redis+sentinel://a/service?unknown=1",
        "sentinel://a/service",
        "redis://a?unknown=1",
    ],
)
def test_a_wrong_url_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match=r"INGESTQ_REDIS_URL .* is not a Redis URL.*SERVICE"):
        connect(BrokerConfig(url))


def test_receipts_wait_for_a_replica_with_sentinels_unless_told_otherwise() -> None:
    assert BrokerConfig("redis+sentinel://a/s").receipt_replicas == 1
    assert BrokerConfig("redis+sentinel://a/s", replicas=0).receipt_replicas == 0
    assert BrokerConfig("redis://a").receipt_replicas == 0
    assert BrokerConfig("redis://a", replicas=2).receipt_replicas == 2
