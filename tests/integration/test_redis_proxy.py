"""The proxy in front of Redis: transparent until a test arms a fault."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError, ResponseError  # noqa: A004

from ingestq.broker.connection import BrokerConfig, awaited, connect, connected
from tests.redis_proxy import (
    ProtocolError,
    RedisProxy,
    ScriptNotLoaded,
    command,
    loaded_scripts,
    redis_proxy,
    script,
)
from tests.redis_proxy.proxy import proxied_url
from tests.redis_servers import free_port
from tests.waiting import eventually

LARGE = bytes(range(256)) * (5 * 1024 * 1024 // 256)
INCREMENT = command("INCRBY", "n")
"""What redis-py sends for `increment`."""
COUNT_AND_ANSWER = "return redis.call('INCR', KEYS[1])"


@pytest.fixture
async def direct(redis_url: str) -> AsyncIterator[Redis]:
    """Yield a client that bypasses the proxy, with an empty database."""
    async with connected(BrokerConfig(redis_url)) as redis:
        await redis.flushdb()
        yield redis


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[RedisProxy]:
    async with redis_proxy(redis_url) as opened:
        yield opened


async def increment(client: Redis) -> int:
    return int(await awaited(client.incr("n")))


async def pop(client: Redis) -> list[bytes]:
    return list(await awaited(client.blpop(["list"], timeout=0)))


@asynccontextmanager
async def client_of(proxy: RedisProxy, protocol: int = 2) -> AsyncIterator[Redis]:
    """Yield a client that never retries."""
    async with Redis.from_url(proxy.url, protocol=protocol) as client:
        yield client


@pytest.fixture
async def once(proxy: RedisProxy, direct: Redis) -> AsyncIterator[Redis]:
    async with client_of(proxy) as client:
        yield client


@pytest.fixture
async def retrying(proxy: RedisProxy, direct: Redis) -> AsyncIterator[Redis]:
    """Yield a client with the product's own retries."""
    async with connect(BrokerConfig(proxy.url)) as client:
        yield client


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
async def either(
    request: pytest.FixtureRequest, proxy: RedisProxy, direct: Redis
) -> AsyncIterator[Redis]:
    async with client_of(proxy, request.param) as client:
        yield client


async def test_every_kind_of_reply_passes_unchanged(either: Redis) -> None:
    assert await either.set("text", "a\r\nb")
    assert await either.get("text") == b"a\r\nb"
    assert await either.get("missing") is None
    assert await awaited(either.hset("hash", mapping={"a": 1, "b": ""})) == 2
    assert await awaited(either.hgetall("hash")) == {b"a": b"1", b"b": b""}
    await awaited(either.sadd("set", "x", "y"))
    assert set(await awaited(either.smembers("set"))) == {b"x", b"y"}
    await either.zadd("sorted", {"m": 1.5})
    assert await either.zscore("sorted", "m") == 1.5
    nested = awaited(either.execute_command("EVAL", "return {1, {2, {}}, 'x', false}", 0))  # type: ignore[no-untyped-call]
    assert await nested == [1, [2, []], b"x", None]
    with pytest.raises(ResponseError, match="wrong kind of value"):
        await either.incr("hash")
    assert (await either.info("server"))["process_id"] > 0


async def test_large_and_binary_values_pass_unchanged(either: Redis) -> None:
    await either.set(LARGE[:300], LARGE)
    assert await either.get(LARGE[:300]) == LARGE


async def test_a_pipeline_passes_in_order(either: Redis) -> None:
    async with either.pipeline(transaction=False) as pipe:
        for i in range(2000):
            pipe.set(str(i), LARGE[i : 2 * i])
            pipe.get(str(i))
            pipe.lpush(str(i), "no list")
        answers = await pipe.execute(raise_on_error=False)
    assert answers[1::3] == [LARGE[i : 2 * i] for i in range(2000)]
    assert {type(answer) for answer in answers[2::3]} == {ResponseError}


async def test_a_client_can_send_everything_before_it_reads(either: Redis) -> None:
    async with either.pipeline(transaction=False) as pipe:
        for _ in range(4):
            pipe.echo(LARGE)
        assert await pipe.execute() == [LARGE] * 4


async def test_a_transaction_passes(either: Redis) -> None:
    async with either.pipeline(transaction=True) as pipe:
        await pipe.watch("n")
        pipe.multi()  # type: ignore[no-untyped-call]
        pipe.incr("n")
        pipe.get("n")
        pipe.get("missing")
        assert await pipe.execute() == [1, b"1", None]


async def test_a_blocking_command_passes(either: Redis, direct: Redis) -> None:
    assert await awaited(either.execute_command("BLPOP", "list", 0.01)) is None  # type: ignore[no-untyped-call]
    waiting = asyncio.create_task(pop(either))
    await eventually(lambda: blocked_clients(direct))
    await awaited(direct.rpush("list", "x"))
    assert await waiting == [b"list", b"x"]


async def test_a_client_that_disconnects_takes_no_item(either: Redis, direct: Redis) -> None:
    waiting = asyncio.create_task(pop(either))
    await eventually(lambda: blocked_clients(direct))
    waiting.cancel()
    await eventually(lambda: blocked_clients(direct), lambda blocked: blocked == 0)
    await awaited(direct.rpush("list", "x"))
    assert await awaited(direct.llen("list")) == 1


async def blocked_clients(redis: Redis) -> int:
    return int((await redis.info("clients"))["blocked_clients"])


async def test_a_connection_closed_by_the_server_is_closed_for_the_client(
    once: Redis, direct: Redis
) -> None:
    # While it waits for an answer: else redis-py notices the end, and connects again.
    waiting = asyncio.create_task(pop(once))
    await eventually(lambda: blocked_clients(direct))
    [blocked] = [one for one in await direct.client_list() if "b" in one["flags"]]
    await direct.client_kill_filter(_id=blocked["id"])
    with pytest.raises(ConnectionError):
        await waiting


async def test_a_request_dropped_before_the_server_has_no_effect(
    proxy: RedisProxy, once: Redis, direct: Redis
) -> None:
    dropped = proxy.drop_before(INCREMENT)
    with pytest.raises(ConnectionError):
        await increment(once)
    assert dropped.fired == 1
    assert await direct.get("n") is None
    assert await increment(once) == 1
    assert (dropped.fired, dropped.seen) == (1, 2)


async def test_a_request_dropped_after_the_server_has_its_effect(
    proxy: RedisProxy, once: Redis, direct: Redis
) -> None:
    dropped = proxy.drop_after(INCREMENT)
    with pytest.raises(ConnectionError):
        await increment(once)
    assert dropped.struck.is_set()
    assert await direct.get("n") == b"1"
    assert dropped.fired == 1


async def test_a_client_that_retries_gets_its_reply(
    proxy: RedisProxy, retrying: Redis, direct: Redis
) -> None:
    before = proxy.drop_before(INCREMENT, times=2)
    after = proxy.drop_after(INCREMENT, nth=3)
    assert await increment(retrying) == 2
    assert (before.fired, after.fired, after.seen) == (2, 1, 4)


async def test_push_messages_pass(proxy: RedisProxy, direct: Redis) -> None:
    held = proxy.hold_reply(command("BLPOP"))
    reader, writer = await open_raw(proxy)
    for words in ("HELLO 3", "CLIENT TRACKING ON", "GET n", "BLPOP list 0"):
        writer.write(packed(words))
    await eventually(lambda: blocked_clients(direct))
    await increment(direct)
    await reader.readuntil(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nn\r\n")
    assert held.fired == 0
    await awaited(direct.rpush("list", "x"))
    await held.struck.wait()
    writer.close()
    await writer.wait_closed()


async def open_raw(proxy: RedisProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", urlsplit(proxy.url).port)


def packed(words: str) -> bytes:
    parts = [f"${len(word)}\r\n{word}\r\n" for word in words.split()]
    return f"*{len(parts)}\r\n{''.join(parts)}".encode()


async def test_a_drop_resets_the_connection(proxy: RedisProxy, direct: Redis) -> None:
    proxy.drop_after(command("PING"))
    reader, writer = await open_raw(proxy)
    writer.write(packed("ping"))
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    with pytest.raises(ConnectionResetError):
        await writer.wait_closed()


async def test_a_fault_strikes_the_chosen_occurrence(
    proxy: RedisProxy, once: Redis, direct: Redis
) -> None:
    dropped = proxy.drop_after(INCREMENT, nth=3)
    assert [await increment(once), await increment(once)] == [1, 2]
    assert not dropped.struck.is_set()
    with pytest.raises(ConnectionError):
        await increment(once)
    assert await direct.get("n") == b"3"


@pytest.mark.parametrize(("when", "counted"), [("before", b"4"), ("after", b"5")])
async def test_a_drop_splits_a_pipeline(
    proxy: RedisProxy, once: Redis, direct: Redis, when: str, counted: bytes
) -> None:
    arm = proxy.drop_before if when == "before" else proxy.drop_after
    arm(INCREMENT, nth=5)
    async with once.pipeline(transaction=False) as pipe:
        for _ in range(9):
            pipe.incr("n")
        with pytest.raises(ConnectionError):
            await pipe.execute()
    assert await direct.get("n") == counted


async def test_requests_sent_before_a_drop_are_executed(
    proxy: RedisProxy, once: Redis, direct: Redis
) -> None:
    dropped = proxy.drop_before(INCREMENT)
    async with once.pipeline(transaction=False) as pipe:
        pipe.blpop(["list"], timeout=0)
        pipe.incr("n")
        sending = asyncio.create_task(pipe.execute())
        await eventually(lambda: blocked_clients(direct))
        assert dropped.fired == 0
        await awaited(direct.rpush("list", "x", "y"))
        with pytest.raises(ConnectionError):
            await sending
    assert await awaited(direct.lrange("list", 0, -1)) == [b"y"]
    assert await direct.get("n") is None


@pytest.mark.parametrize(("when", "stored"), [("before", None), ("after", b"1")])
async def test_a_transaction_can_be_lost_at_exec(
    proxy: RedisProxy, once: Redis, direct: Redis, when: str, stored: bytes | None
) -> None:
    arm = proxy.drop_before if when == "before" else proxy.drop_after
    dropped = arm(command("EXEC"))
    async with once.pipeline(transaction=True) as pipe:
        pipe.incr("n")
        with pytest.raises(ConnectionError):
            await pipe.execute()
    assert dropped.fired == 1
    assert await direct.get("n") == stored


async def test_a_script_is_matched_by_its_sha(
    proxy: RedisProxy, retrying: Redis, direct: Redis
) -> None:
    other, meant = (retrying.register_script(COUNT_AND_ANSWER + end) for end in ("", " + 0"))
    await direct.script_load(meant.script)
    dropped = proxy.drop_after(script(meant.sha))
    await other(keys=["n"])
    assert dropped.seen == 0
    assert await meant(keys=["n"]) == 3
    assert dropped.fired == 1


async def test_the_scripts_of_the_broker_are_loaded(direct: Redis) -> None:
    await direct.script_flush()
    scripts = await loaded_scripts(direct)
    assert await direct.script_exists(scripts.ack.sha, scripts.claim.sha) == [True, True]


async def test_a_held_request_is_not_seen_by_the_server(
    proxy: RedisProxy, once: Redis, direct: Redis
) -> None:
    held = proxy.hold_request(INCREMENT)
    waiting = asyncio.create_task(increment(once))
    await held.struck.wait()
    assert await direct.get("n") is None
    assert not waiting.done()
    held.release()
    assert await waiting == 1
    assert held.fired == 1


async def test_a_held_request_outlives_its_client(
    proxy: RedisProxy, once: Redis, direct: Redis
) -> None:
    held = proxy.hold_request(INCREMENT)
    waiting = asyncio.create_task(increment(once))
    await held.struck.wait()
    waiting.cancel()
    await asyncio.wait([waiting])
    await once.aclose()
    held.release()
    await held.done.wait()
    assert await direct.get("n") == b"1"


async def test_a_held_reply_is_not_seen_by_the_client(
    proxy: RedisProxy, once: Redis, direct: Redis
) -> None:
    held = proxy.hold_reply(INCREMENT)
    waiting = asyncio.create_task(increment(once))
    await held.struck.wait()
    assert await direct.get("n") == b"1"
    assert not waiting.done()
    held.release()
    assert await waiting == 1


async def test_one_request_can_have_several_faults(
    proxy: RedisProxy, once: Redis, direct: Redis
) -> None:
    held, dropped = proxy.hold_reply(INCREMENT), proxy.drop_after(INCREMENT)
    waiting = asyncio.create_task(increment(once))
    await held.struck.wait()
    assert dropped.fired == 0
    held.release()
    with pytest.raises(ConnectionError):
        await waiting
    assert dropped.fired == 1


async def test_leaving_the_proxy_ends_held_requests(redis_url: str, direct: Redis) -> None:
    async with redis_proxy(redis_url) as proxy:
        held = proxy.hold_request(INCREMENT)
        client = Redis.from_url(proxy.url)
        waiting = asyncio.create_task(increment(client))
        await held.struck.wait()
    with pytest.raises(ConnectionError):
        await waiting
    await client.aclose()
    assert await direct.get("n") is None
    assert [task for task in asyncio.all_tasks() if "/redis_proxy/" in repr(task)] == []


async def test_an_unreachable_server_closes_the_connection() -> None:
    async with (
        redis_proxy(f"redis://127.0.0.1:{free_port()}") as proxy,
        client_of(proxy) as client,
    ):
        with pytest.raises(ConnectionError):
            await client.ping()


async def test_a_script_that_is_not_loaded_is_an_error(redis_url: str, direct: Redis) -> None:
    async def drop_after_a_script() -> None:
        async with redis_proxy(redis_url) as proxy, client_of(proxy) as client:
            counter = client.register_script(COUNT_AND_ANSWER)
            proxy.drop_after(script(counter.sha))
            with pytest.raises(ConnectionError):
                await counter(keys=["n"])

    await direct.script_flush()
    with pytest.raises(ExceptionGroup) as failure:
        await drop_after_a_script()
    assert failure.group_contains(ScriptNotLoaded)


@pytest.mark.parametrize("words", ["SUBSCRIBE news", "client reply OFF", "MONITOR"])
async def test_a_command_without_exactly_one_reply_is_an_error(redis_url: str, words: str) -> None:
    async def send() -> None:
        async with redis_proxy(redis_url) as proxy, client_of(proxy) as client:
            with pytest.raises(ConnectionError):
                await awaited(client.execute_command(*words.split()))  # type: ignore[no-untyped-call]

    with pytest.raises(ExceptionGroup) as failure:
        await send()
    assert failure.group_contains(ProtocolError, match=words.split()[0].upper())


async def test_database_and_credentials_come_from_the_url(redis_url: str, direct: Redis) -> None:
    await direct.acl_setuser(
        "proxied", enabled=True, passwords=["+s@c:ret"], commands=["+@all"], keys=["*"]
    )
    url = redis_url.replace("://", "://proxied:s%40c%3Aret@") + "?db=3"
    try:
        async with redis_proxy(url) as proxy, client_of(proxy) as client:
            assert await client.acl_whoami() == "proxied"
            assert (await client.client_info())["db"] == 3
    finally:
        await direct.acl_deluser("proxied")


@pytest.mark.parametrize(
    ("upstream", "proxied"),
    [
        ("unix:///run/redis.sock", "redis://127.0.0.1:7"),
        ("unix://u:p%40@/run/redis.sock?db=2", "redis://u:p%40@127.0.0.1:7?db=2"),
        ("redis://:p@redis.example:6379/4", "redis://:p@127.0.0.1:7/4"),
    ],
)
def test_the_url_of_the_proxy(upstream: str, proxied: str) -> None:
    assert proxied_url(upstream, 7) == proxied


async def test_tls_is_refused() -> None:
    with pytest.raises(ValueError, match="neither"):
        await redis_proxy("rediss://127.0.0.1").__aenter__()
