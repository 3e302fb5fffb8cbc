"""Who is answered: names of this machine, pages of other sites, wrong tokens, ended sessions."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest
from httpx import ASGITransport, AsyncClient, Response
from hypothesis import given
from hypothesis import strategies as st

from ingestq.api.app import ApiConfig, create_app
from ingestq.api.auth import FREE_FAILURES, LONGEST_WAIT_SECONDS, MAX_ADDRESSES, Throttle
from ingestq.api.dashboard.access import COOKIE
from ingestq.api.dashboard.paths import EVENTS, PAGE, PATHS, REQUEUE, SIGN_IN, SIGN_OUT
from ingestq.app.composition import Broker
from ingestq.broker.connection import BrokerConfig, connect
from ingestq.core.documents import Document
from ingestq.core.errors import StoreUnavailable
from ingestq.core.jobs import IngestBatch, dead_letter_batch
from ingestq.core.search_query import SearchQuery, SearchResult
from tests.claims import batch_of, finish, lease_queue, take
from tests.command import Ingestq
from tests.serving import listening, services

TOKEN = "dQw4w9WgXcQdQw4w9WgXcQ"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
CANARY = "s3cr3t-canary"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
REQUESTS = [
    ("GET", "/healthz"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/status"),
    ("GET", "/openapi.json"),
    ("GET", "/search?q=ferry"),
    ("GET", "/documents/note"),
    ("POST", "/documents"),
    ("POST", "/documents:batch"),
    ("DELETE", "/documents/note"),
    ("GET", "/submissions/s"),
    ("GET", "/submissions/s/events"),
    ("GET", "/dead-letters"),
    ("POST", "/dead-letters/note/requeue"),
    ("DELETE", "/dead-letters/note"),
    ("GET", "/nonesuch"),
    ("OPTIONS", "/documents"),
    *(("POST" if path in (REQUEUE, SIGN_OUT) else "GET", path) for path in sorted(PATHS)),
]
OTHER_SITES = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": ""},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
    {"Origin": "https://evil.example"},
    {"Origin": "http://localhost:1"},
    {"Origin": "null"},
    {"Origin": "http://["},
    {"Origin": ""},
]


@asynccontextmanager
async def calling(
    broker: Broker, token: str | None = None, address: str = "127.0.0.1"
) -> AsyncIterator[AsyncClient]:
    transport = ASGITransport(
        create_app(services(broker), ApiConfig(10_000, token)), client=(address, 1)
    )
    async with AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


@pytest.fixture
async def api(broker: Broker) -> AsyncIterator[AsyncClient]:
    async with calling(broker) as client:
        yield client


def refused(answer: Response, status: int, *said: str) -> None:
    assert answer.status_code == status, answer.text
    for words in said:
        assert words in answer.json()["detail"]


async def bury(broker: Broker, doc_id: str = "note") -> None:
    """Add a dead letter of ``doc_id``."""
    document = Document(
        collection="documents", doc_id=doc_id, version=1, source=doc_id, text="text"
    )
    await broker.queue.offer([IngestBatch("s", (document,))])
    leases = lease_queue(broker)
    [claim] = await take(leases)
    assert await finish(leases, claim, dead_letter_batch(batch_of(claim), "broken", tries=1))


# Names of this machine


@pytest.mark.parametrize(("method", "path"), REQUESTS)
async def test_without_a_token_no_route_answers_to_another_name(
    api: AsyncClient, method: str, path: str
) -> None:
    answer = await api.request(method, path, headers={"Host": "rebound.example:8765"})
    refused(answer, 403, "INGESTQ_API_TOKEN", "localhost")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LocalHost:8765", 200),
        ("localhost.", 200),
        ("localhost.:8765", 200),
        ("127.0.0.1:1", 200),
        ("127.0.0.1:", 200),
        ("[::1]", 200),
        ("[::1]:8765", 200),
        ("::1", 403),
        ("localhost..", 403),
        ("localhost.evil.example", 403),
        ("evil.example", 403),
        ("0.0.0.0:8765", 403),
        ("127.0.0.1@evil.example", 403),
        ("evil.example@127.0.0.1", 403),
        ("localhost:8765:1x", 403),
        ("localhost,evil.example", 403),
        ("[", 403),
        ("", 403),
    ],
)
async def test_only_names_of_loopback_are_answered(
    api: AsyncClient, host: str, status: int
) -> None:
    assert (await api.get("/status", headers={"Host": host})).status_code == status


async def test_with_a_token_the_server_may_have_any_name(broker: Broker) -> None:
    async with calling(broker, TOKEN) as api:
        answer = await api.get("/status", headers=BEARER | {"Host": "ingestq.example"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("GET /status HTTP/1.1\r\nHost: localhost\r\n", 200),
        ("GET /status HTTP/1.0\r\nHost: localhost\r\n", 200),
        ("GET /status HTTP/1.1\r\n", 400),
        ("GET /status HTTP/1.0\r\n", 403),
        ("GET /status HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n", 400),
        ("GET http://localhost/status HTTP/1.1\r\nHost: localhost\r\n", 400),
        ("GET http://evil.example/status HTTP/1.1\r\nHost: localhost\r\n", 400),
        ("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n", 400),
    ],
)
async def test_the_name_is_read_from_the_request_as_it_was_sent(
    broker: Broker, request_: str, status: int
) -> None:
    async with listening(create_app(services(broker), ApiConfig(10_000))) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"{request_}Connection: close\r\n\r\n".encode())
        answer = (await reader.read()).decode()
        writer.close()
    assert answer.split()[1] == str(status), answer
    assert status == 200 or '{"detail":' in answer


# Pages of other sites


@pytest.mark.parametrize(("method", "path"), REQUESTS)
async def test_no_route_answers_to_a_page_of_another_site(
    api: AsyncClient, method: str, path: str
) -> None:
    refused(await api.request(method, path, headers={"Sec-Fetch-Site": "cross-site"}), 403, "site")


@pytest.mark.parametrize("headers", OTHER_SITES)
async def test_a_form_of_another_site_requeues_nothing(
    api: AsyncClient, broker: Broker, headers: Mapping[str, str]
) -> None:
    await bury(broker)
    navigation = {"Sec-Fetch-Dest": "document", "Sec-Fetch-Mode": "navigate"}
    answer = await api.post("/dead-letters/note/requeue", headers={**headers, **FORM})
    refused(answer, 403, "another site")
    answer = await api.post("/dead-letters/note/requeue", headers={**headers, **navigation})
    refused(answer, 403, "another site")
    assert await broker.queue.is_empty()
    answer = await api.post("/dead-letters/note/requeue", headers={"Origin": "http://LOCALHOST"})
    assert answer.status_code == 202


async def test_links_of_other_sites_are_followed(api: AsyncClient) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}
    for path in (PAGE, "/openapi.json"):
        assert (await api.get(path, headers=link)).status_code == 200
        frame = link | {"Sec-Fetch-Dest": "iframe"}
        assert (await api.get(path, headers=frame)).status_code == 403


@pytest.mark.parametrize("headers", OTHER_SITES)
async def test_with_a_token_cookies_are_not_used_for_another_site(
    broker: Broker, headers: Mapping[str, str]
) -> None:
    await bury(broker)
    async with calling(broker, TOKEN) as site:
        answer = await sign_in(site, headers=headers)
        refused(answer, 403, "another site")
        assert "set-cookie" not in answer.headers
        await sign_in(site)
        for path in (REQUEUE, SIGN_OUT):
            refused(await site.post(path, headers={**headers, **FORM}), 403, "another site")
        assert (await site.get(PAGE)).status_code == 200
        assert await broker.queue.is_empty()
        # A program with the token is no page of another site, whatever it says.
        answer = await site.post("/dead-letters/note/requeue", headers={**headers, **BEARER})
        assert answer.status_code == 202


# Tokens


@pytest.fixture
def long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first wait be so long that it is not over before the test is, on a busy machine."""
    monkeypatch.setattr("ingestq.api.auth.FIRST_WAIT_SECONDS", LONGEST_WAIT_SECONDS)


def test_a_short_token_is_refused(ingestq: Ingestq) -> None:
    for token in ("hunter2", "x" * 15, " " + "x" * 20):
        ingestq.settings["api_token"] = token
        answer = ingestq("api")
        answer.failed_with(2, "INGESTQ_API_TOKEN")
        assert token.strip() not in answer.err
    ingestq.settings["api_token"] = "x" * 15
    ingestq("api").failed_with(2, "16 characters", "openssl rand -hex 32")


async def sign_in(
    site: AsyncClient, token: str = TOKEN, headers: Mapping[str, str] | None = None
) -> Response:
    content = urlencode({"token": token})
    return await site.post(SIGN_IN, content=content, headers={**FORM, **(headers or {})})


@pytest.mark.usefixtures("long_waits")
async def test_wrong_tokens_at_sign_in_make_an_address_wait(broker: Broker) -> None:
    app = create_app(services(broker), ApiConfig(10_000, TOKEN))

    def at(address: str) -> AsyncClient:
        transport = ASGITransport(app, client=(address, 1))
        return AsyncClient(transport=transport, base_url="http://localhost")

    async with at("192.0.2.1") as attacker, at("192.0.2.2") as owner:
        for _ in range(FREE_FAILURES):
            assert (await sign_in(attacker, "wrong")).status_code == 401
        for token in ("wrong", TOKEN):  # not even looked at
            answer = await sign_in(attacker, token)
            assert answer.status_code == 429
            assert 1 <= int(answer.headers["Retry-After"]) <= LONGEST_WAIT_SECONDS
            assert "Try again" in answer.text
        assert (await sign_in(owner)).status_code == 303
        assert (await attacker.get("/status", headers=BEARER)).status_code == 200


@pytest.mark.usefixtures("long_waits")
async def test_attempts_at_the_same_time_are_counted(broker: Broker) -> None:
    async with calling(broker, TOKEN) as site:
        answers = await asyncio.gather(*(sign_in(site, f"wrong {n}") for n in range(50)))
    assert [answer.status_code for answer in answers].count(401) == FREE_FAILURES


@pytest.mark.usefixtures("long_waits")
async def test_wrong_bearer_tokens_do_not_lock_out_the_right_one(broker: Broker) -> None:
    async with calling(broker, TOKEN) as api:
        for _ in range(FREE_FAILURES):
            answer = await api.get("/status", headers={"Authorization": "Bearer wrong"})
            assert answer.status_code == 401
        refused(answer := await api.get("/status", headers={"Authorization": "Bearer x"}), 429)
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.headers["Connection"] == "close"
        assert (await api.get("/status", headers=BEARER)).status_code == 200
        assert (await api.get("/status")).status_code == 401, "no guess"


@given(st.lists(st.floats(0, 100), max_size=60))
def test_nobody_waits_for_long(pauses: list[float]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        now, throttle, scope = 0.0, Throttle(), {"client": ("192.0.2.1", 1)}
        patch.setattr("time.monotonic", lambda: now)
        for pause in pauses:
            now += pause
            if not throttle.wait_seconds(scope):
                throttle.failed(scope)
            assert 0 <= throttle.wait_seconds(scope) <= LONGEST_WAIT_SECONDS
        throttle.succeeded(scope)
        assert throttle.wait_seconds(scope) == 0


@pytest.mark.usefixtures("long_waits")
def test_a_network_of_an_attacker_is_one_address_and_many_are_forgotten() -> None:
    throttle = Throttle()
    for n in range(FREE_FAILURES):
        throttle.failed({"client": (f"2001:db8::{n:x}", 1)})
    assert throttle.wait_seconds({"client": ("2001:db8::ffff", 1)}) > 0
    assert throttle.wait_seconds({"client": ("2001:db8:0:1::1", 1)}) == 0
    for n in range(MAX_ADDRESSES):
        throttle.failed({"client": (f"10.0.{n >> 8}.{n & 255}", 1)})
    assert throttle.wait_seconds({"client": ("2001:db8::ffff", 1)}) == 0


# Sessions


async def test_a_session_is_over_everywhere_after_signing_out(broker: Broker) -> None:
    async with calling(broker, TOKEN) as here, calling(broker, TOKEN) as elsewhere:
        await sign_in(here)
        await sign_in(elsewhere)
        stolen = {"Cookie": f"{COOKIE}={here.cookies[COOKIE]}"}
        here.cookies.clear()
        assert (await here.get(PAGE, headers=stolen)).status_code == 200
        assert (await here.post(SIGN_OUT, headers=stolen)).status_code == 303
        async with calling(broker, TOKEN) as restarted:
            for site in (here, restarted):
                answer = await site.get(PAGE, headers=stolen)
                assert (answer.status_code, answer.headers["location"]) == (303, SIGN_IN)
                assert (await site.get(EVENTS, headers=stolen)).status_code == 401
                assert (await site.post(REQUEUE, headers=stolen)).headers["location"] == SIGN_IN
        assert (await elsewhere.get(PAGE)).status_code == 200, "another session"


async def test_an_open_stream_ends_when_its_session_does(broker: Broker) -> None:
    app = create_app(services(broker), ApiConfig(10_000, TOKEN))
    async with listening(app) as url, AsyncClient(base_url=url, timeout=20) as site:
        await sign_in(site)
        async with site.stream("GET", EVENTS) as stream:
            parts = stream.aiter_text()
            await anext(parts)
            await site.post(SIGN_OUT)
            async for _ in parts:
                pass


async def test_a_session_is_not_believed_while_nobody_can_say_whether_it_ended(
    tmp_path: Path, broker: Broker
) -> None:
    async with calling(broker, TOKEN) as site:
        await sign_in(site)
        cookie = {"Cookie": f"{COOKIE}={site.cookies[COOKIE]}"}
    config = BrokerConfig(f"unix://{tmp_path}/nobody.sock")
    redis = connect(config)
    async with calling(Broker(redis, config), TOKEN) as site:
        refused(await site.get(PAGE, headers=cookie), 503, "Redis does not answer")
        refused(await site.post(SIGN_OUT, headers=cookie), 503)
    await redis.aclose()


# What the answers say


async def test_health_checks_show_no_detail(tmp_path: Path) -> None:
    config = BrokerConfig(f"redis://user:{CANARY}@127.0.0.1:1/0?password={CANARY}")
    redis = connect(BrokerConfig(f"unix://{tmp_path}/nobody.sock"))
    async with calling(Broker(redis, config)) as api:
        assert (await api.get("/livez")).json() == {"status": "ok", "checks": {}}
        answer = await api.get("/readyz")
        assert answer.status_code == 503
        assert answer.json() == {
            "status": "failed",
            "checks": {"redis": "failed", "workers": "unknown"},
            "detail": "Redis does not answer, or accepts no writes",
        }
        said = (await api.get("/status")).json()["detail"]
        assert "127.0.0.1:1" in said
        assert CANARY not in said
    await redis.aclose()


async def test_urls_in_errors_are_shown_without_secrets(broker: Broker) -> None:
    async def search(query: SearchQuery) -> SearchResult[object]:
        raise StoreUnavailable(f"no answer (GET https://u:{CANARY}@host/x?api_key={CANARY}&y=1)")

    transport = ASGITransport(create_app(services(broker, search), ApiConfig(10_000)))
    async with AsyncClient(transport=transport, base_url="http://localhost") as api:
        answer = await api.get("/search?q=x")
        page = await api.get("/?q=x")
    refused(answer, 503, "no answer", "host/x")
    assert CANARY not in answer.text
    assert CANARY not in page.text
