"""The dashboard over HTTP, without a browser."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote, urlencode

import msgspec
import pytest
from httpx import ASGITransport, AsyncClient, Response

from ingestq.api.app import ApiConfig, create_app
from ingestq.api.dashboard import access, plots, wording
from ingestq.api.dashboard import board as boards
from ingestq.api.dashboard.pages import REGIONS
from ingestq.api.dashboard.paths import ASSETS, EVENTS, PATHS, REQUEUE, SIGN_IN, SIGN_OUT
from ingestq.api.dashboard.plots import History, Sample
from ingestq.api.routes.search import Search
from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.broker.connection import BrokerConfig, connect
from ingestq.broker.schedule.runs import EntryStatus, RunClaim, RunOutcome, Runs
from ingestq.core.documents import DEFAULT_COLLECTION, Document
from ingestq.core.errors import InvalidQuery, StoreUnavailable
from ingestq.core.jobs import IngestBatch, dead_letter_batch, dead_letter_key
from ingestq.core.results import (
    BatchReport,
    ChunkCounts,
    DocumentCounts,
    SkippedFile,
    WatchedFolderStatus,
    WorkerInfo,
)
from ingestq.core.search_query import (
    Comparison,
    MetadataCondition,
    MetadataRange,
    SearchFilter,
    SearchQuery,
    SearchResult,
)
from ingestq.embedded.redis import embedded_redis
from tests.claims import batch_of, finish, lease_queue, take
from tests.markup import Page
from tests.serving import listening, services
from tests.waiting import SECONDS, ended, eventually
from worker.pipeline.points import SearchHit
from worker.text.parts import INSIDE

NASTY = "<script>alert('x')</script><img src=x onerror=alert(1)>\" onfocus=alert(2) x='&lt;"
URL = "http://localhost:8765"
TOKEN = "an open sésame, please"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
ODD_IDS = [
    "poison.pdf",
    "a b\n\r\tc",
    "50%25",
    "ü/☃",
    "tenant:like",
    "&letter=x",
    NASTY,
    "x" * 1000,
]


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show no page as outdated because a busy machine lets Redis answer late."""
    for module in (access, boards):
        monkeypatch.setattr(module, "PROBE_SECONDS", SECONDS)


@asynccontextmanager
async def calling(
    broker: Broker, token: str | None = None, search: Search | None = None, url: str = URL
) -> AsyncIterator[AsyncClient]:
    app = create_app(services(broker, search), ApiConfig(10_000, token))
    async with AsyncClient(transport=ASGITransport(app), base_url=url) as client:
        yield client


@pytest.fixture
async def site(broker: Broker) -> AsyncIterator[AsyncClient]:
    async with calling(broker) as client:
        yield client


async def page(site: AsyncClient, path: str = "/") -> Page:
    answer = await site.get(path)
    assert answer.status_code == 200, answer.text
    return Page(answer.text)


async def queue(broker: Broker, *doc_ids: str, tenant: str = "", submission: str = "s") -> None:
    documents = (
        Document(collection="documents", doc_id=d, version=1, source=d, text="text", tenant=tenant)
        for d in doc_ids
    )
    await broker.queue.offer([IngestBatch(submission, tuple(documents))])


async def end(broker: Broker, reason: str | None = None) -> None:
    """Finish one job as a worker does; with ``reason``, dead-letter it."""
    leases = lease_queue(broker)
    [claim] = await take(leases)
    documents = len(batch_of(claim).documents)
    report = BatchReport(DocumentCounts(indexed=documents), ChunkCounts(embedded=1234))
    if reason is not None:
        report = dead_letter_batch(batch_of(claim), reason, tries=3)
    assert await finish(leases, claim, report)


async def post(site: AsyncClient, path: str, *fields: tuple[str, str], **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await site.post(path, content=urlencode(fields), headers=FORM | named)


def dead_letter(doc_id: str, tenant: str = "") -> tuple[str, str]:
    key = dead_letter_key(DEFAULT_COLLECTION, tenant, doc_id)
    return ("dead_letter", quote(key, safe=""))


# The page


async def test_the_page_of_an_empty_queue(site: AsyncClient) -> None:
    shown = (await page(site)).text
    for said in (
        "No recent submissions",
        "No worker is running",
        "No dead letters",
        "No recent jobs",
        "Nothing is scheduled",
    ):
        assert said in shown


async def test_the_page_shows_everything_without_a_script(
    site: AsyncClient, broker: Broker
) -> None:
    info = WorkerInfo("lighthouse", 4711, 2, 12.5, 1300.25, paused="Qdrant is full")
    await lease_queue(broker).heartbeat("w", info)
    await queue(broker, "broken", submission="first")
    await end(broker, reason="there is nothing in it")
    await queue(broker, *(f"note-{n}" for n in range(1500)), submission="second")
    await end(broker)
    await queue(broker, "waiting", submission="second")
    shown = await page(site)
    for said in (
        "lighthouse process 4711 paused: Qdrant is full 2 12.5 1,300.2 just now",
        "Dead letters 1",
        "broken there is nothing in it 3",
        "1,500 of 1,501 documents · 1,234 chunks",
        "1 of 1 documents · 1 rejected",
        "1,500 indexed",
    ):
        assert said in shown.text
    [running] = shown.all("progress")
    assert (running.attributes["value"], running.attributes["max"]) == ("1500", "1501")
    depth = shown.all("desc", id="depth-said")[0]
    assert "ready 1, maximum 1" in depth.text
    assert [heading.text for heading in shown.all("h1")] == [" ingestq"]
    for section in shown.all("section"):
        assert shown.all("h2", id=section.attributes["aria-labelledby"])
    exact = shown.all("time")[0].attributes
    assert exact["title"].endswith("UTC")


async def test_the_newest_dead_letters_are_shown(site: AsyncClient, broker: Broker) -> None:
    for n in range(30):
        await queue(broker, f"file-{n:02}")
    leases = lease_queue(broker)
    for claim in await take(leases, 30):
        await finish(leases, claim, dead_letter_batch(batch_of(claim), "broken", tries=1))
        [document], [key] = batch_of(claim).documents, batch_of(claim).dead_letter_keys
        written_ms = 1000 + int(document.doc_id[-2:])
        await broker.redis.zadd(keys.DEAD_TIMES, {key: written_ms})
    shown = await page(site)
    assert "The newest 20 of 30" in shown.text
    listed = [e.text for e in shown.all("bdi") if e.text.startswith("file-")]
    assert listed[:20] == [f"file-{n:02}" for n in range(29, 9, -1)]


async def test_the_page_shows_scheduled_entries(site: AsyncClient, broker: Broker) -> None:
    runs = Runs(broker.redis, broker.config)
    entry = EntryStatus(
        name=NASTY,
        cron="0 3 * * *",
        timezone="Atlantic/Azores",
        action="rescan",
        source="/srv/notes",
        next_ms=await runs.now_ms() + 7_230_000,
    )
    other = msgspec.structs.replace(entry, name="new", next_ms=None)
    await runs.publish([entry, other])
    claim = await runs.begin(NASTY, due_ms=None, lease_ms=60_000)
    assert isinstance(claim, RunClaim)
    ended = msgspec.structs.replace(
        claim.run,
        finished_ms=claim.run.started_ms + 4200,
        outcome=RunOutcome.REFUSED,
        detail=f"too many would go {NASTY}",
        documents=DocumentCounts(indexed=1200, rejected=1),
    )
    assert await runs.end(claim, ended)
    shown = await page(site)
    for said in (
        "new rescan /srv/notes none 0 3 * * * Atlantic/Azores never",
        "in 2 h 0 min 0 3 * * * Atlantic/Azores",
        "refused just now, took 4.2 s",
        "1,200 indexed, 1 rejected",
        "too many would go",
    ):
        assert said in shown.text
    harmless(shown)


# Escaping


def harmless(shown: Page) -> None:
    """Assert that no value became an element, and that nothing is loaded from other hosts."""
    assert [script.attributes.get("src") for script in shown.all("script")] == [
        "/dashboard/live.js"
    ]
    assert {image.attributes["src"] for image in shown.all("img")} == {"/dashboard/icon.svg"}
    assert all(link.startswith(("/", "#main")) for link in shown.links())
    for element in shown.elements:
        assert element.tag not in ("base", "iframe", "object", "style")
        assert not [name for name in element.attributes if name.startswith("on") or name == "style"]


async def test_values_are_shown_as_text_and_not_as_html(broker: Broker) -> None:
    async def search(query: SearchQuery) -> SearchResult[SearchHit]:
        text = f"alert {NASTY}"
        return SearchResult(
            [SearchHit(0.5, NASTY, f"from {NASTY}", 0, text, {NASTY: [NASTY]}, snippet=text)]
        )

    info = WorkerInfo(NASTY, 1, 0, 0, 0, paused=NASTY)
    await lease_queue(broker).heartbeat(NASTY, info)
    await queue(broker, NASTY, tenant=NASTY, submission=NASTY)
    await end(broker, reason=NASTY)
    await queue(broker, NASTY, submission=NASTY)
    async with calling(broker, search=search) as site:
        shown = await page(site, f"/?q={quote(NASTY)}")
    harmless(shown)
    assert shown.all("input", id="q")[0].attributes["value"] == NASTY
    assert [e.text for e in shown.all("bdi", title=NASTY)].count(NASTY) >= 3
    assert [e.text for e in shown.all("td") if e.attributes.get("class") == "reason"] == [NASTY]
    assert NASTY in shown.all("title")[0].text
    [text] = [e.text for e in shown.all("p") if e.attributes.get("class") == "text"]
    assert text == f"alert {NASTY}"
    assert "alert" in {mark.text for mark in shown.all("mark")}


async def test_an_error_of_redis_is_shown_as_text(tmp_path: Path) -> None:
    config = BrokerConfig(f"unix://{tmp_path}/{quote(NASTY, safe='')}.sock")
    redis = connect(config)
    async with calling(Broker(redis, config)) as site:
        answer = await site.get("/")
    await redis.aclose()
    assert answer.status_code == 503
    shown = Page(answer.text)
    harmless(shown)
    assert "Redis does not answer" in shown.text
    assert "There is no data yet" in shown.text


# Headers and assets


async def test_headers_forbid_loading_from_other_hosts(site: AsyncClient) -> None:
    for path in ("/", *ASSETS):
        headers = (await site.get(path)).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["content-type"].startswith(ASSETS.get(path, "text/html"))


async def test_the_dashboard_is_not_in_the_openapi_document(site: AsyncClient) -> None:
    documented = (await site.get("/openapi.json")).json()["paths"]
    assert not PATHS & documented.keys()


# Searching


async def test_a_search_shows_hits_with_highlighted_words(broker: Broker) -> None:
    asked: list[SearchQuery] = []

    async def search(query: SearchQuery) -> SearchResult[SearchHit]:
        asked.append(query)
        text = "The keeper owns two parrots.\nA parrot can talk."
        metadata = {"year": 2026, "title": "k", "source": "the keeper"}
        return SearchResult(
            [SearchHit(0.98765, "/notes/keeper", "notes", 2, text, metadata, snippet=text)]
        )

    async with calling(broker, search=search) as site:
        shown = await page(site, "/?q=+who+owns+a+parrot%3F+")
        for blank in ("", "++", "%E2%80%8B"):
            assert "the query is blank" in (await page(site, f"/?q={blank}")).text
        assert "the query is blank" not in (await page(site, "/")).text
    assert [query.text for query in asked] == ["who owns a parrot?"]
    assert [mark.text for mark in shown.all("mark")] == ["owns", "parrot"]
    assert "/notes/keeper chunk 2 score 0.988 from notes" in shown.text
    assert "year2026 sourcethe keeper" in shown.text


async def test_a_hit_shows_page_part_and_context(broker: Broker) -> None:
    context = f"Offer{INSIDE}<b>Terms</b>"

    async def search(query: SearchQuery) -> SearchResult[SearchHit]:
        return SearchResult(
            [
                SearchHit(0.9, "/mail.eml", "/mail.eml", 2, "Pay.", {}, context, 12, "offer.pdf"),
                SearchHit(0.8, "/notes.txt", "/notes.txt", 0, "Text.", {}, "notes"),
            ]
        )

    async with calling(broker, search=search) as site:
        shown = await page(site, "/?q=terms")
    assert f"/mail.eml{INSIDE}offer.pdf, page 12 chunk 2" in shown.text
    assert [line.text for line in shown.all("p", **{"class": "context"})] == [context]


async def test_the_search_form_offers_the_collections(broker: Broker) -> None:
    asked: list[str] = []

    async def search(query: SearchQuery) -> SearchResult[SearchHit]:
        asked.append(query.collection)
        return SearchResult([])

    config = ApiConfig(10_000, collections=("documents", "handbook"))
    transport = ASGITransport(create_app(services(broker, search), config))
    async with AsyncClient(transport=transport, base_url=URL) as site:
        await page(site, "/?q=x")
        shown = await page(site, "/?q=x&collection=handbook")
        assert asked == ["documents", "handbook"]
        assert [option.text for option in shown.all("option")] == ["documents", "handbook"]
        assert [option.text for option in shown.all("option", selected="")] == ["handbook"]
        assert (
            "'other' is not one of this server's"
            in (await page(site, "/?q=x&collection=other")).text
        )
    assert len(asked) == 2


async def test_a_search_has_filters_and_one_hit_a_document(broker: Broker) -> None:
    asked: list[SearchQuery] = []

    async def search(query: SearchQuery) -> SearchResult[SearchHit]:
        asked.append(query)
        return SearchResult([])

    async with calling(broker, search=search) as site:
        shown = await page(site, "/?q=x&filter=year>=2024&filter=&filter=tag=a,b&group=true")
        wrong = await page(site, "/?q=x&filter=<year>")
    year = MetadataRange("year", Comparison.AT_LEAST, 2024.0)
    where = SearchFilter((year, MetadataCondition("tag", ("a", "b"))))
    assert asked == [SearchQuery("x", 8, where=where, group=True)]
    fields = [field.attributes.get("value") for field in shown.all("input", name="filter")]
    assert fields == ["year>=2024", "tag=a,b", None]
    assert [box.attributes["value"] for box in shown.all("input", name="group", checked="")]
    assert "'<year>' is not KEY=VALUE" in wrong.text
    assert wrong.all("input", name="filter")[0].attributes["value"] == "<year>"
    assert not wrong.all("input", name="group", checked="")


async def test_a_hit_shows_the_snippet_and_the_whole_chunk(broker: Broker) -> None:
    async def search(query: SearchQuery) -> SearchResult[SearchHit]:
        return SearchResult(
            [
                SearchHit(0.9, "a", "a", 0, "Long ago a goose flew.", {}, snippet="…a goose…"),
                SearchHit(0.8, "b", "b", 0, "A goose.", {}, snippet="A goose."),
            ]
        )

    async with calling(broker, search=search) as site:
        shown = await page(site, "/?q=goose")
    texts = [text.text for text in shown.all("p", **{"class": "text"})]
    assert texts == ["…a goose…", "Long ago a goose flew.", "A goose."]


@pytest.mark.parametrize(
    "error",
    [StoreUnavailable("Qdrant does not answer; start it"), InvalidQuery("it has no words")],
)
async def test_a_failed_search_shows_the_reason(broker: Broker, error: Exception) -> None:
    async def search(query: SearchQuery) -> SearchResult[SearchHit]:
        raise error

    async with calling(broker, search=search) as site:
        shown = await page(site, "/?q=x")
    assert str(error) in shown.text
    assert shown.all("input", id="q")[0].attributes["value"] == "x"


async def test_a_search_without_results(broker: Broker) -> None:
    async def search(query: SearchQuery) -> SearchResult[SearchHit]:
        return SearchResult([])

    async with calling(broker, search=search) as site:
        assert "No results. If nothing is indexed yet" in (await page(site, "/?q=x")).text


# Dead letters


@pytest.mark.parametrize("doc_id", ODD_IDS)
async def test_a_dead_letter_is_requeued(site: AsyncClient, broker: Broker, doc_id: str) -> None:
    await queue(broker, doc_id, tenant="t")
    await end(broker, reason="broken")
    shown = await page(site)
    [_, field] = shown.all(
        "input", name="dead_letter"
    )  # in the form for all dead letters, and in its own
    answer = await post(site, REQUEUE, ("dead_letter", field.attributes["value"]))
    assert answer.status_code == 303
    shown = await page(site, answer.headers["location"])
    assert "1 document was queued again" in shown.text
    assert "No dead letters" in shown.text
    [claim] = await take(lease_queue(broker))
    [document] = batch_of(claim).documents
    assert (document.tenant, document.doc_id) == ("t", doc_id)


async def test_all_dead_letters_on_the_page_are_requeued_as_one_submission(
    site: AsyncClient, broker: Broker
) -> None:
    for name in ("a", "b", "c"):
        await queue(broker, name)
        await end(broker, reason="broken")
    answer = await post(site, REQUEUE, dead_letter("a"), dead_letter("b"), dead_letter("nobody"))
    shown = await page(site, answer.headers["location"])
    assert "2 documents were queued again. 1 dead letter was gone or had changed" in shown.text
    assert (await broker.queue.depth()).ready == 2
    assert "The newest 1 of 1" in shown.text
    assert "0 of 2 documents" in shown.text, "they are one submission"


async def test_nothing_is_requeued_while_redis_is_away(tmp_path: Path) -> None:
    config = BrokerConfig(f"unix://{tmp_path}/nobody.sock")
    redis = connect(config)
    async with calling(Broker(redis, config)) as site:
        answer = await post(site, REQUEUE, dead_letter("a"))
    await redis.aclose()
    assert answer.status_code == 503
    assert "Redis does not answer" in Page(answer.text).text


@pytest.mark.parametrize(
    "body", [b"\xff", b"dead_letter=a&" * 200, b"dead_letter=" + b"a" * 2_000_000]
)
async def test_an_invalid_form_is_refused(site: AsyncClient, body: bytes) -> None:
    answer = await site.post(REQUEUE, content=body, headers=FORM)
    assert answer.status_code in (413, 422)


# Access


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        # If they disagree, Sec-Fetch-Site wins: a proxy may have changed Host.
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://name.of.the.proxy"}, True),
        ({"Sec-Fetch-Site": "cross-site", "Origin": URL}, False),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}, False),
        ({"Origin": URL}, True),
        ({"Origin": "http://localhost:1"}, False),
        ({"Origin": "https://example.org"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://["}, False),
    ],
)
async def test_a_form_of_another_site_is_refused(
    site: AsyncClient, broker: Broker, headers: Mapping[str, str], allowed: bool
) -> None:
    await queue(broker, "a")
    await end(broker, reason="broken")
    answer = await post(site, REQUEUE, dead_letter("a"), **headers)
    assert answer.status_code == (303 if allowed else 403)
    assert (await broker.queue.depth()).ready == allowed


async def test_other_sites_can_link_here_but_not_read(site: AsyncClient) -> None:
    other = {"Sec-Fetch-Site": "cross-site"}
    assert (await site.get("/", headers=other | {"Sec-Fetch-Dest": "document"})).is_success
    for destination in ("empty", "iframe", "image", "script"):
        answer = await site.get("/?q=x", headers=other | {"Sec-Fetch-Dest": destination})
        assert answer.status_code == 403
        assert "frame-ancestors" in answer.headers["content-security-policy"]
    assert (await site.get(EVENTS, headers=other)).status_code == 403


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("127.0.0.1:8765", True),
        ("[::1]:8765", True),
        ("LocalHost:1", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1@evil.example", False),
        ("[", False),
        ("", False),
    ],
)
async def test_without_a_token_only_loopback_names_are_served(
    broker: Broker, host: str, allowed: bool
) -> None:
    async with calling(broker) as site:
        answer = await site.get("/", headers={"Host": host})
    assert answer.status_code == (200 if allowed else 403)
    async with calling(broker, token=TOKEN) as site:
        assert (await site.get(SIGN_IN, headers={"Host": host})).is_success


async def test_with_a_token_users_sign_in(broker: Broker) -> None:
    await queue(broker, "a", tenant="secret tenant")
    await end(broker, reason="broken")
    async with calling(broker, token=TOKEN, url="http://ingestq.example") as site:
        for path in ("/", REQUEUE):
            answer = await site.request("POST" if path == REQUEUE else "GET", path)
            assert (answer.status_code, answer.headers["location"]) == (303, SIGN_IN)
        assert (await site.get(EVENTS)).status_code == 401
        assert (await site.get("/dashboard/none")).status_code == 401

        wrong = await post(site, SIGN_IN, ("token", "an open sesame"))
        assert wrong.status_code == 401
        assert "Wrong token" in wrong.text
        assert "set-cookie" not in wrong.headers

        right = await post(site, SIGN_IN, ("token", TOKEN))
        assert (right.status_code, right.headers["location"]) == (303, "/")
        cookie = right.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"} <= set(cookie.split("; "))
        assert "sésame" not in cookie
        assert "Secure" not in cookie
        assert "secret tenant" in (await page(site)).text
        assert (await post(site, REQUEUE, dead_letter("a", "secret tenant"))).status_code == 303
        assert (await broker.queue.depth()).ready == 1

        for api in ("/status", "/dead-letters", "/openapi.json", "/metrics"):
            assert (await site.get(api)).status_code == 401, "a session is for the dashboard only"
        await post(site, SIGN_OUT)
        assert (await site.get("/")).status_code == 303


async def test_over_tls_the_cookie_is_secure(broker: Broker) -> None:
    async with calling(broker, token=TOKEN) as site:
        answer = await post(site, SIGN_IN, ("token", TOKEN), X_Forwarded_Proto="https")
        assert "Secure" in answer.headers["set-cookie"].split("; ")


async def test_an_invalid_session_is_refused(broker: Broker) -> None:
    async with calling(broker, token=TOKEN) as site:
        for session in ("", "9999999999.", "9999999999.abc", "x.y", TOKEN.encode().hex()):
            answer = await site.get("/", headers={"Cookie": f"ingestq_session={session}"})
            assert answer.status_code == 303
        answer = await site.get("/", headers={"Authorization": "Bearer wrong"})
        assert answer.status_code == 303


# The stream


async def read_events(lines: AsyncIterator[str], count: int) -> list[tuple[str, str]]:
    """Return the next ``count`` events: name and data."""
    events: list[tuple[str, str]] = []
    name, data = "", list[str]()
    async for line in lines:
        field, _, value = line.partition(": ")
        match field:
            case "event":
                name = value
            case "data":
                data.append(value)
            case "" if name:
                events.append((name, "\n".join(data)))
                name, data = "", []
                if len(events) == count:
                    break
    return events


async def test_an_unexpected_answer_of_redis_does_not_stop_the_board(broker: Broker) -> None:
    board = services(broker).board
    assert board is not None
    await broker.redis.set(keys.RECENT_SUBMISSIONS, "not a sorted set")
    assert "WRONGTYPE" in ((await board.view()).problem or "")
    await broker.redis.delete(keys.RECENT_SUBMISSIONS)
    assert (await board.view(fresh=True)).problem is None


async def test_the_stream_sends_what_changed(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing changes only because time passes.
    monkeypatch.setattr(plots, "SAMPLE_SECONDS", 3600)
    monkeypatch.setattr(wording, "JUST_NOW_SECONDS", 3600)
    stopping = asyncio.Event()
    app = create_app(services(broker), ApiConfig(10_000), stopping)
    async with (
        listening(app) as url,
        AsyncClient(base_url=url, timeout=SECONDS) as client,
        client.stream("GET", EVENTS) as stream,
    ):
        lines = stream.aiter_lines()
        first = dict(await read_events(lines, 1 + len(REGIONS)))
        assert first.keys() == {"notice", *REGIONS}
        assert "No dead letters" in first["dead_letters"]

        await queue(broker, NASTY)
        await end(broker, reason=NASTY)
        changed: dict[str, str] = {}
        while "dead_letters" not in changed:
            changed |= await read_events(lines, 1)
        assert changed.keys() <= {"numbers", "submissions", "ended", "dead_letters"}
        assert "&lt;script&gt;" in changed["dead_letters"]
        assert "<script" not in "".join(changed.values())
        stopping.set()
        assert [line async for line in lines if line.startswith("event")] == []


async def test_many_viewers_cause_one_read(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "FRESH_SECONDS", 3600)
    board = services(broker).board
    assert board is not None
    views = await asyncio.gather(*(board.view() for _ in range(50)))
    assert len(set(map(id, views))) == 1


@pytest.mark.parametrize("fresh", [False, True])
async def test_viewers_who_wait_for_a_slow_redis_share_one_read(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, fresh: bool
) -> None:
    """None waits for more than the read that is under way, and the one after it."""
    monkeypatch.setattr(boards, "FRESH_SECONDS", 0)  # as if each read took longer
    board = services(broker).board
    assert board is not None
    views = await asyncio.gather(*(board.view(fresh=fresh) for _ in range(50)))
    assert len(set(map(id, views))) <= 2


async def test_the_last_hour_is_sampled_without_viewers(broker: Broker) -> None:
    history = History()
    board = services(broker, history=history).board
    assert board is not None
    stopping = asyncio.Event()
    running = asyncio.create_task(board.run(stopping))

    async def samples() -> Sequence[Sample]:
        return history.samples()

    await eventually(samples)
    stopping.set()
    await ended(running)


async def test_while_redis_is_away_the_page_shows_the_last_state(tmp_path: Path) -> None:
    async with embedded_redis(tmp_path) as url:
        config = BrokerConfig(url)
        redis = connect(config)
        broker = Broker(redis, config)
        await queue(broker, "the last one")
        await end(broker, reason="broken")
        site = AsyncClient(
            transport=ASGITransport(create_app(services(broker), ApiConfig(1))), base_url=URL
        )
        assert "the last one" in (await page(site)).text
    answer = await site.get("/")
    await site.aclose()
    await redis.aclose()
    assert answer.status_code == 503
    shown = Page(answer.text).text
    assert "This page is not up to date: Redis does not answer" in shown
    assert "It shows the state of" in shown
    assert "the last one" in shown


async def test_the_page_shows_what_watched_folders_skip(site: AsyncClient, broker: Broker) -> None:
    skipped = (SkippedFile("/srv/pipe", "neither a file nor a folder"), SkippedFile(NASTY, NASTY))
    full = WatchedFolderStatus(
        folder="/srv", host="files-1", collection="documents", skipped=23, skipped_files=skipped
    )
    empty = WatchedFolderStatus(
        folder=NASTY, host=NASTY, collection="documents", tenant=NASTY, unavailable=NASTY
    )
    assert "No folder is watched." in (await page(site)).text
    for status in (full, empty):
        await broker.watched_folders.report(status)
    shown = await page(site)
    for said in (
        "/srv on files-1 23 files are not indexed: /srv/pipe: neither a file nor a folder",
        "and 21 more",
    ):
        assert said in shown.text
    harmless(shown)
    await broker.watched_folders.forget(full)
    assert "files-1" not in (await page(site)).text
