"""Takes the screenshots in the docs: python -m tests.browser.screenshots docs/images."""

import asyncio
import math
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Final, Literal

import msgspec
from PIL import Image
from playwright.async_api import ViewportSize, async_playwright, expect

from ingestq.api.app import ApiConfig, create_app
from ingestq.api.dashboard.plots import HISTORY_SECONDS, SAMPLE_SECONDS, History, Sample
from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.broker.connection import BrokerConfig, connected
from ingestq.broker.queue.leases import Claim, LeaseQueue
from ingestq.broker.schedule.runs import EntryStatus, RunClaim, RunOutcome, Runs
from ingestq.client.client import new_submission
from ingestq.core.documents import Document, Lane
from ingestq.core.jobs import IngestBatch, dead_letter_batch
from ingestq.core.results import BatchReport, ChunkCounts, DocumentCounts, JobResult, WorkerInfo
from ingestq.core.search_query import SearchQuery, SearchResult
from ingestq.embedded.redis import embedded_redis
from tests.claims import batch_of, lease_queue, take
from tests.serving import listening, services
from worker.pipeline.points import SearchHit

COLORS: Final = 256
VIEW: Final[ViewportSize] = {"width": 1280, "height": 1500}
IMPORTED = 12_000
PER_JOB = 16
SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
QUESTION = "Which lost plant was found again in an old jar?"
PACE_SECONDS = 6.0
"""How long it takes until the time left is known."""
REASONS = {
    "/srv/handbook/scans/inventory-1994.pdf": "it is encrypted; save it without a password",
    "/srv/handbook/minutes/2019-03.docx": "cannot be read as application/vnd.openxmlformats-"
    "officedocument.wordprocessingml.document: the archive ends in the midst of a file",
    "erp/invoice-20417": "the chunk at position 3 is refused: its payload is larger than 32 MiB",
}
HITS = [
    SearchHit(
        1.0,
        "handbook/seed-bank-inventory.docx",
        "/srv/handbook",
        2,
        "The eyebright is the greatest worry. It is a half-parasite that must be sown together "
        "with a living grass, and fewer than two hundred plants remain in the wild. Tennant's blue "
        "pea, by contrast, was thought extinct until a jar was found behind a dresser in 1994; "
        "every plant grown today descends from eleven seeds that were still alive.",
        {"year": 2024, "department": "seed bank"},
    ),
    SearchHit(
        0.52,
        "handbook/letters/tennant.txt",
        "/srv/handbook",
        0,
        "In the jar there lay, wrapped in an old newspaper, some forty seeds of a plant that I "
        "could not name.",
        {"year": 1994},
    ),
]


async def search(query: SearchQuery) -> SearchResult[SearchHit]:
    return SearchResult([replace(hit, snippet=hit.text) for hit in HITS])


def history() -> History:
    """Return samples of an hour in which an import starts."""
    kept, now, chance = History(), time.monotonic(), random.Random(7)
    for n in range(int(HISTORY_SECONDS / SAMPLE_SECONDS)):
        left = HISTORY_SECONDS - n * SAMPLE_SECONDS
        begun = max(0.0, 1 - left / 2300)
        busy = begun > 0
        ready = 750 * (1 - 0.67 * begun) if busy else chance.choice([0, 0, 0, 1, 2])
        documents = (4.1 + 0.5 * math.sin(n / 9)) * min(1, 12 * begun) if busy else 0.2
        kept.add(
            Sample(
                now - left,
                round(ready),
                min(6, round(60 * begun)) if busy else 0,
                chance.choice([0, 0, 0, 3]) if busy else 0,
                documents + chance.uniform(0, 0.3),
                21 * documents / 4.1 + chance.uniform(0, 2),
            )
        )
    return kept


def names() -> Iterator[str]:
    """Return the ids of the imported documents."""
    return (f"/srv/archive/{1900 + n // 120}/{n % 120:03}.md" for n in range(IMPORTED))


async def offer(broker: Broker, submission: str, doc_ids: Sequence[str], lane: Lane) -> None:
    documents = tuple(
        Document(collection="documents", doc_id=d, version=1, source=d, path=d) for d in doc_ids
    )
    await broker.queue.offer([IngestBatch(submission, documents, lane)])


async def finish(leases: LeaseQueue, claim: Claim, report: BatchReport, seconds: float) -> None:
    """Finish a job as a worker does that took ``seconds``."""
    now_ms = time.time_ns() // 1_000_000
    started_ms = now_ms - int(1000 * seconds)
    result = JobResult(
        "ingest", 1, started_ms, True, report, started_ms, now_ms, keys.QUEUE, claim.job_id
    )
    about = batch_of(claim).documents[0].doc_id
    assert await leases.ack(claim, report, result, about=about)


async def fill(broker: Broker) -> None:
    """Fill every panel of the dashboard."""
    leases = lease_queue(broker, lease_seconds=3600)
    for pid, rate in ((4127, 2.1), (4128, 1.9)):
        info = WorkerInfo("ingest-1", pid, 3, rate, rate * 5.2)
        await leases.heartbeat(f"ingest-1-{pid}", info)
    for name, reason in REASONS.items():
        await offer(broker, new_submission(), [name], Lane.INTERACTIVE)
        [claim] = await take(leases)
        await finish(leases, claim, dead_letter_batch(batch_of(claim), reason, tries=1), 0.8)
    for name in ("erp/invoice-20418", "erp/invoice-20419"):
        await offer(broker, new_submission(), [name], Lane.INTERACTIVE)
        [claim] = await take(leases)
        report = BatchReport(DocumentCounts(indexed=1), ChunkCounts(embedded=2))
        await finish(leases, claim, report, 0.3)
    imported, every = new_submission(), names()
    while some := list(islice(every, PER_JOB)):
        await offer(broker, imported, some, Lane.BULK)
    await work(leases, 500)
    await take(leases, 6)
    await schedule(Runs(broker.redis, broker.config))


async def work(leases: LeaseQueue, jobs: int) -> None:
    for n, claim in enumerate(await take(leases, jobs)):
        report = BatchReport(DocumentCounts(indexed=15, unchanged=1), ChunkCounts(embedded=78))
        await finish(leases, claim, report, 3.1 + n % 7 / 5)


async def schedule(runs: Runs) -> None:
    now_ms = await runs.now_ms()
    entry = EntryStatus(
        name="handbook",
        cron="0 3 * * *",
        timezone="Europe/Lisbon",
        action="rescan",
        source="/srv/handbook",
        next_ms=now_ms + 17_400_000,
    )
    mail = msgspec.structs.replace(
        entry, name="mail", cron="*/15 * * * *", source="/var/mail/export", next_ms=now_ms + 420_000
    )
    await runs.publish([entry, mail])
    for name, indexed in (("handbook", 12), ("mail", 3)):
        claim = await runs.begin(name, due_ms=None, lease_ms=60_000)
        assert isinstance(claim, RunClaim)
        ended = msgspec.structs.replace(
            claim.run,
            finished_ms=claim.run.started_ms + 41_000,
            outcome=RunOutcome.DONE,
            documents=DocumentCounts(indexed=indexed, unchanged=1204),
        )
        assert await runs.end(claim, ended)


async def take_pictures(url: str, folder: Path, chromium: str) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium)
        for scheme in SCHEMES:
            page = await browser.new_page(color_scheme=scheme, viewport=VIEW)
            await page.goto(url)
            await expect(page.locator("#connection")).to_have_text("Live")
            picture = await page.screenshot()
            await asyncio.to_thread(save, picture, folder / f"dashboard-{scheme}.png")
            await page.goto(f"{url}/?q={QUESTION}")
            picture = await page.locator("#found").screenshot()
            await asyncio.to_thread(save, picture, folder / f"search-{scheme}.png")
        await browser.close()


def save(picture: bytes, path: Path) -> None:
    """Save a screenshot with a palette, at a third of the size."""
    Image.open(BytesIO(picture)).quantize(COLORS, Image.Quantize.MAXCOVERAGE).save(
        path, optimize=True
    )


async def main(folder: Path) -> None:
    chromium = shutil.which("chromium")
    assert chromium is not None, "chromium is not installed"
    async with AsyncExitStack() as kept:
        data = Path(kept.enter_context(tempfile.TemporaryDirectory()))
        config = BrokerConfig(await kept.enter_async_context(embedded_redis(data)))
        broker = Broker(await kept.enter_async_context(connected(config)), config)
        serves = services(broker, search, history=history())
        url = await kept.enter_async_context(listening(create_app(serves, ApiConfig(10_000))))
        await fill(broker)
        assert serves.board is not None
        await serves.board.view()
        await asyncio.sleep(PACE_SECONDS)
        await work(lease_queue(broker), 3)
        await take_pictures(url, folder, chromium)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
