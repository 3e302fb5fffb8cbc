"""Web pages: the index equals a site on 127.0.0.1, whatever that answers."""

import asyncio
import gzip
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from ingestq.app.composition import Broker
from ingestq.app.ingestion import Ingestion
from ingestq.core.display import NoDisplay
from ingestq.core.errors import PageFailed, RemoteUnavailable, UsageError
from ingestq.core.remote import RemoteAccess
from ingestq.core.results import DocumentCounts
from ingestq.core.service import cancel
from ingestq.core.web import DEFAULT_WEB, WebConfig, page_url
from ingestq.outbound import addresses
from ingestq.outbound import sites as outbound_sites
from ingestq.outbound.sites import PageRefused, Sites
from producers.files.walk import ReadOptions, ScanRecord, observe
from producers.remote.sitemap import NotASitemap, read_sitemap, settled
from producers.remote.source import RemoteSource
from tests.harness import Harness
from tests.web_site import Answer, WebSite, urlset, web_site
from tests.workers import at_work, indexing_worker, served_collection
from worker.consumer import decision
from worker.embedding.pool import ModelPool
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames

LOCAL = WebConfig(delay_seconds=0, allow_private=True)
LAMPS = "<p>The lighthouse stands on the northern cliff, and its lamp guides ships at night.</p>"
TREES = "<p>The oldest trees of the island grow in the valley behind the harbour and its sheds.</p>"


@pytest_asyncio.fixture
async def site() -> AsyncIterator[WebSite]:
    async with web_site() as site:
        yield site


def source_of(site: WebSite, path: str = "/sitemap.xml", name: str | None = None) -> RemoteSource:
    return RemoteSource(f"{site.url}{path}", name, access=RemoteAccess(LOCAL))


async def read(sites: Sites, url: str) -> None:
    async with sites.get(url, 100_000) as answer:
        async for _ in answer.blocks:
            pass


async def test_the_index_follows_a_site(harness: Harness, site: WebSite) -> None:
    site.page("/lamps", f"<h2>Lamps</h2>{LAMPS}", etag='"1"')
    site.page("/trees", TREES)
    site.page("/old", "<p>An old page that its sitemap knows to be from the last century.</p>")
    site.page("/private/x", LAMPS)
    site.answers["/robots.txt"] = Answer(b"User-agent: *\nDisallow: /private/\n")
    site.sitemap("/lamps", "/trees", "/private/x", "https://other.example/y", old="1999-05-01")
    source = source_of(site)
    with capture_logs() as logs:
        assert (await harness.scan_source(source)).documents == DocumentCounts(indexed=3)
    skipped = {line["reason"]: line["pages"] for line in logs if "pages" in line}
    assert skipped == {"they are on another host": 1, "robots.txt disallows them": 1}
    assert site.asked() == [("/lamps", 200), ("/old", 200), ("/trees", 200)]
    assert await harness.indexed() == {f"{site.url}/{name}" for name in ("lamps", "trees", "old")}
    payloads = {payload["doc_id"]: payload for payload in await harness.payloads()}
    lamps = payloads[f"{site.url}/lamps"]
    assert "northern cliff" in lamps["page_content"]
    assert "Lamps" in lamps["context"] + lamps["page_content"]
    everything = str(payloads)
    assert not any(word in everything for word in ("cookies", "Imprint", "Our shop"))

    again = (await harness.scan_source(source)).documents
    assert again == DocumentCounts(unchanged=3)
    assert site.asked() == [("/lamps", 304), ("/trees", 200)]

    site.page("/lamps", LAMPS.replace("northern", "southern"), etag='"2"')
    site.sitemap("/lamps", old="1999-05-01")
    changed = (await harness.scan_source(source)).documents
    assert changed == DocumentCounts(indexed=1, unchanged=1, deleted=1)
    assert site.asked() == [("/lamps", 200)]
    assert "southern cliff" in str(await harness.payloads())


async def test_an_index_of_packed_sitemaps_with_a_cycle_under_a_name(
    harness: Harness, site: WebSite
) -> None:
    site.page("/a", LAMPS)
    site.page("/b", TREES)
    site.sitemap("/a", at="/sitemap-1.xml.gz", packed=True)
    site.answers["/sitemap-2.txt"] = Answer(f"{site.url}/b\n{site.url}/a#part\n".encode())
    site.index("/sitemap-1.xml.gz", "/sitemap-2.txt", "/sitemap-all.xml", at="/sitemap-all.xml")
    site.answers["/robots.txt"] = Answer(f"Sitemap: {site.url}/sitemap-all.xml".encode())
    found = await harness.scan_source(source_of(site, "/", "island"))
    assert found.documents == DocumentCounts(indexed=2)
    host = f"127.0.0.1:{site.port}"
    assert await harness.indexed() == {f"island/{host}/a", f"island/{host}/b"}


@pytest.mark.parametrize(
    ("path", "answer", "is_page"),
    [
        ("/notes.txt", Answer(b"Notes about the harbour."), True),
        ("/notes.txt", Answer(b""), True),
        ("/backup.tar.gz", Answer(gzip.compress(bytes(9000))), True),
        ("/backup.gz", Answer(b"\x1f\x8b and no more"), True),
        ("/lamps", Answer(LAMPS.encode()), True),
        ("/urls.txt", Answer(b"\xef\xbb\xbf\r\nhttps://x.example/"), False),
        ("/urls.txt.gz", Answer(gzip.compress(b"https://x.example/")), False),
        ("/map", Answer(gzip.compress(urlset())), False),
        ("/map.xml", Answer(b"\n" + urlset()), False),
        ("/map.xml", Answer(b"\xef\xbb\xbf \r\n" + urlset()), False),
        ("/map?page=2", Answer(b"\n" + urlset()), False),
    ],
)
async def test_what_is_a_sitemap_and_what_a_page(
    site: WebSite, path: str, answer: Answer, is_page: bool
) -> None:
    site.answers[path] = answer
    assert await source_of(site, path).lister.is_object() is is_page


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (Answer(status=404), UsageError, "there is no such page"),
        (Answer(status=403), UsageError, "access is denied"),
        (Answer(status=500), RemoteUnavailable, "answered 500"),
        (Answer(status=503, headers={"retry-after": "60"}), RemoteUnavailable, "answered 503"),
        (Answer(b"<html>Not found</html>"), UsageError, "is no sitemap"),
        (Answer(b"<urlset><url>"), UsageError, "is no sitemap"),
        (Answer(urlset("<url><loc>https://else.example/</loc></url>")), UsageError, "other hosts"),
        (Answer(gzip.compress(bytes(60 * 1024 * 1024))), UsageError, "unpacks to more than"),
        (
            Answer(b"<!DOCTYPE u [<!ENTITY a 'aa'>]><urlset>&a;</urlset>"),
            UsageError,
            "it declares entities",
        ),
        (Answer(urlset(), headers={"content-length": "9999"}), RemoteUnavailable, "broke off"),
        (Answer(status=302, headers={"location": "/sitemap.xml"}), UsageError, "in a circle"),
        (Answer(status=302, headers={"location": "ftp://else/x"}), UsageError, "redirects to"),
    ],
)
async def test_a_sitemap_that_cannot_be_read_deletes_nothing(
    harness: Harness, site: WebSite, answer: Answer, error: type[Exception], said: str
) -> None:
    site.answers["/sitemap.xml"] = answer
    record = ScanRecord()
    with pytest.raises(error, match=said) as raised:
        async for _ in source_of(site).scan(harness.broker.queue.issue_version, record):
            pass
    assert error is RemoteUnavailable or "Nothing was deleted" in str(raised.value)


async def test_pages_that_cannot_be_read(harness: Harness, site: WebSite) -> None:
    bomb = gzip.compress(bytes(100 * 1024 * 1024))
    site.answers["/bomb"] = Answer(bomb, headers={"content-encoding": "gzip"})
    site.answers["/large"] = Answer(b"x", headers={"content-length": str(10 * 1024**3)})
    site.answers["/circle"] = Answer(status=301, headers={"location": "/circle"})
    site.answers["/denied"] = Answer(status=403)
    site.page("/noindex", LAMPS, head="<meta name='robots' content='noindex, follow'>")
    site.page("/header", LAMPS, x_robots_tag="otherbot: nofollow, ingestq: noindex")
    site.page("/moved", TREES)
    site.answers["/from"] = Answer(status=302, headers={"location": "/moved"})
    site.answers["/menu"] = Answer(b"<html><body><img alt='A map of the lamps'></body></html>")
    names = ["bomb", "large", "circle", "denied", "gone", "noindex", "header", "from", "menu"]
    site.sitemap(*(f"/{name}" for name in names))
    found = await harness.scan_source(source_of(site))
    reasons = {failed.doc_id.removeprefix(site.url): failed.reason for failed in found.failed}
    assert {path: reason[:20] for path, reason in reasons.items()} == {
        "/bomb": "more than 67,108,864",
        "/large": "more than 67,108,864",
        "/circle": "it redirects in a ci",
        "/denied": "access is denied: th",
        "/gone": "there is no such pag",
    }
    assert f"{site.url}/from" in {payload["doc_id"] for payload in await harness.payloads()}
    warned = {each.doc_id.removeprefix(site.url): each.warning for each in found.warnings}
    assert "noindex" in warned["/noindex"]
    assert "noindex" in warned["/header"]
    assert "no main text" in warned["/menu"]


@pytest.mark.parametrize("address", ["https://xn--a/", "https://xn--i-7iq.ws/"])
async def test_a_host_that_cannot_be_is_refused_also_behind_a_redirect(
    site: WebSite, address: str
) -> None:
    site.answers["/sitemap.xml"] = Answer(status=302, headers={"location": address})
    for source in (
        source_of(site),
        RemoteSource.at(address, access=RemoteAccess(LOCAL)),
        RemoteSource.at([address], access=RemoteAccess(LOCAL)),
    ):
        with pytest.raises(UsageError, match=r"is no address: .*Nothing was deleted"):
            _ = [page async for page in source.lister.pages()]


async def test_a_private_address_is_refused_also_behind_a_redirect(
    site: WebSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.answers["/"] = Answer(status=302, headers={"location": "http://169.254.169.254/latest"})
    with pytest.raises(PageRefused, match="is not a public address; set INGESTQ_WEB_ALLOW"):
        await read(Sites(DEFAULT_WEB), f"{site.url}/")
    assert site.requests == []
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1")
    with pytest.raises(PageRefused, match=r"169\.254\.169\.254 is not a public address"):
        await read(Sites(replace(DEFAULT_WEB, delay_seconds=0)), f"{site.url}/")
    assert [request.path for request in site.requests] == ["/robots.txt", "/"]


async def test_the_delay_is_kept_for_a_host_and_crawl_delay_prolongs_it(site: WebSite) -> None:
    for number in range(3):
        site.page(f"/{number}", LAMPS)
    site.answers["/robots.txt"] = Answer(b"User-agent: ingestq\nCrawl-delay: 0.2\n")
    sites = Sites(replace(LOCAL, delay_seconds=0.05, user_agent="tester (mail@example.org)"))
    begun = time.monotonic()
    await asyncio.gather(*(read(sites, f"{site.url}/{number}") for number in range(3)))
    pages = sorted(request.at for request in site.requests if request.path != "/robots.txt")
    # A busy machine may serve a page late, but none early.
    assert all(at - begun >= 0.2 * turn for turn, at in enumerate(pages))
    assert {request.headers["user-agent"] for request in site.requests} == {
        "tester (mail@example.org)"
    }


async def test_a_host_that_asks_to_wait_is_left_alone(site: WebSite) -> None:
    site.answers["/busy"] = Answer(status=429, headers={"retry-after": "600"})
    site.page("/other", LAMPS)
    sites = Sites(LOCAL)
    for path in ("/busy", "/other"):
        with pytest.raises(RemoteUnavailable):
            await read(sites, f"{site.url}{path}")
    assert [request.path for request in site.requests] == ["/robots.txt", "/busy"]


async def test_few_robots_txt_are_kept_and_hosts_that_asked_to_wait_are_still_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbound_sites, "MAX_HOSTS", 2)
    async with AsyncExitStack() as stack:
        busy, first, second, third = [await stack.enter_async_context(web_site()) for _ in range(4)]
        busy.answers["/"] = Answer(status=429, headers={"retry-after": "600"})
        sites = Sites(LOCAL)
        with pytest.raises(RemoteUnavailable):
            await read(sites, f"{busy.url}/")
        for site in (first, second, first, third, first, second):
            site.page("/", LAMPS)
            await read(sites, f"{site.url}/")
        with pytest.raises(RemoteUnavailable, match="asked to wait"):
            await read(sites, f"{busy.url}/")
        asked = [Counter(r.path for r in one.requests) for one in (busy, first, second, third)]
    assert asked == [
        {"/robots.txt": 1, "/": 1},
        {"/robots.txt": 1, "/": 3},
        {"/robots.txt": 2, "/": 2},  # it was used least recently when the third came
        {"/robots.txt": 1, "/": 1},
    ]


async def test_a_page_that_breaks_off_is_tried_again(site: WebSite) -> None:
    site.answers["/half"] = Answer(b"half", headers={"content-length": "999"})
    packed = zlib.compress(b"x" * 1000)[:-8]
    site.answers["/packed"] = Answer(packed, headers={"content-encoding": "gzip"})
    for path in ("/half", "/packed"):
        with pytest.raises(PageFailed, match="broke off"):
            await read(Sites(LOCAL), f"{site.url}{path}")


def test_addresses_have_one_form() -> None:
    assert page_url("HTTPS://Example.ORG:443/ä b?q=1#part") == "https://example.org/%C3%A4%20b?q=1"
    assert page_url("http://münchen.de") == "http://xn--mnchen-3ya.de/"
    for wrong in ("https://user:secret@example.org/", "https:///x", "https://[::1/"):
        with pytest.raises(UsageError) as raised:
            page_url(wrong)
        assert "secret" not in str(raised.value)


def test_only_a_time_that_is_over_is_a_state() -> None:
    assert settled("1999-05-01") == "1999-05-01"
    assert settled("2026-01-02T03:04:05+00:00") == "2026-01-02T03:04:05+00:00"
    later = ("2999-01-01", "2999-01-01T00:00:00Z", "9999-12-31", "9999-12-31T23:59:59Z")
    assert {settled(each) for each in (None, "soon", *later)} == {None}


def test_all_that_was_packed_one_after_the_other_is_read() -> None:
    lines = [f"https://x.example/{number}\n".encode() for number in range(3)]
    packed = b"".join(map(gzip.compress, lines))
    entries = read_sitemap(packed + bytes(8)).entries
    assert [entry.url for entry in entries] == [line.decode().strip() for line in lines]
    with pytest.raises(NotASitemap, match="it is cut off"):
        read_sitemap(packed[:-9])
    with pytest.raises(NotASitemap, match="it cannot be unpacked"):
        read_sitemap(packed + b"more")
    with pytest.raises(NotASitemap, match="unpacks to more than"):
        read_sitemap(gzip.compress(bytes(30 * 1024 * 1024)) * 2)


async def test_a_large_sitemap_does_not_hold_up_the_event_loop(site: WebSite) -> None:
    count = 10_000
    site.sitemap(*(f"/page/{number}?a=1" for number in range(count)), "/private", "/page/1?a=1")
    site.answers["/robots.txt"] = Answer(b"User-agent: *\nDisallow: /private\n")
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            before = time.thread_time()  # a busy machine does not count
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - before)

    ticking = asyncio.create_task(tick())
    try:
        [page] = [page async for page in source_of(site).lister.pages()]
    finally:
        await cancel(ticking)
    assert [one.name for one in page] == [
        f"127.0.0.1:{site.port}/page/{number}?a=1" for number in range(count)
    ]
    assert longest < 0.1


def test_no_sitemap_has_more_addresses_than_the_protocol_allows() -> None:
    entries = ["<url><loc>https://x.example/</loc></url>"] * 50_001
    with pytest.raises(NotASitemap, match="50,000"):
        read_sitemap(urlset(*entries))


async def test_a_crawl_holds_up_no_other_document(
    broker: Broker,
    qdrant: Qdrant,
    collection: CollectionNames,
    model: ModelPool,
    site: WebSite,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decision, "SERVICE_RETRY_SECONDS", 0.1)
    harness = Harness.of(broker, qdrant, collection, model, tmp_path)
    paths = [f"/{number}" for number in range(30)]
    for path in paths:
        site.page(path, LAMPS + TREES)
    site.sitemap(*paths)
    site.answers["/robots.txt"] = Answer(b"User-agent: *\nCrawl-delay: 0.05\n")
    crawl, record = Ingestion(harness.client, NoDisplay()), ScanRecord()
    clock = harness.broker.queue.issue_version
    await crawl.produce(source_of(site).scan(clock, record), list)
    harness.write("note.txt")
    note = Ingestion(harness.client, NoDisplay())
    await note.produce(observe([tmp_path], None, clock, ReadOptions(), record), list)
    served = served_collection(broker, qdrant, collection, model, longest_turn_seconds=0.25)
    begun = time.monotonic()
    async with at_work(indexing_worker(broker, served)):
        with pytest.MonkeyPatch.context() as patch:
            # For the crawl no time passes until the note is indexed, however long that takes.
            stopped = SimpleNamespace(monotonic=lambda: begun, time=time.time)
            patch.setattr("ingestq.outbound.sites.time", stopped)
            await note.follow(until_queue_is_empty=False)
        early = site.asked()
        assert len(early) < len(paths) / 2
        await crawl.follow(until_queue_is_empty=True)
    assert (await crawl.summary(collection.alias)).documents == DocumentCounts(indexed=30)
    # Pages that were indexed before their job went back to the queue are not asked for again.
    assert Counter(path for path, _ in early + site.asked()) == dict.fromkeys(paths, 1)


async def test_a_list_of_pages_is_a_source(harness: Harness, site: WebSite) -> None:
    for path in ("/a", "/b", "/c"):
        site.page(path, LAMPS)
    listed = partial(RemoteSource.at, access=RemoteAccess(LOCAL))
    pages = [f"{site.url}{path}" for path in ("/a", "/b", "/c", "/a#top")]
    assert (await harness.scan_source(listed(pages))).documents == DocumentCounts(indexed=3)
    fewer = (await harness.scan_source(listed(pages[:2]))).documents
    assert fewer == DocumentCounts(unchanged=2, deleted=1)
    assert await harness.indexed() == set(pages[:2])


@pytest.mark.parametrize(
    ("pages", "said"),
    [
        (["https://a.example/x", "https://b.example/y"], "pages of two sites; set source"),
        ([], "a list of pages is empty"),
        (["s3://bucket/x"], "write https://host/page"),
    ],
)
def test_a_list_that_is_none_of_pages_is_refused(pages: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        RemoteSource.at(pages)
