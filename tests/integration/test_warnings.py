"""What could not be read of a document is said wherever its outcome is shown.

Documents whose text has lines that begin with ``! `` are read with these lines as warnings; all
else is real.
"""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from httpx import ASGITransport, AsyncClient

from ingestq.api.app import ApiConfig, create_app
from ingestq.app.collections import IndexReader, warned_documents
from ingestq.app.composition import Broker
from ingestq.app.search import DocumentLookup, QdrantOnDemand
from ingestq.app.settings import Settings
from ingestq.broker import keys
from ingestq.broker.queue.stats import RecentWorkReader
from ingestq.broker.schedule.runs import RunOutcome
from ingestq.core import events
from ingestq.core.display import NoDisplay
from ingestq.core.documents import Document, Lane
from ingestq.core.jobs import IngestBatch
from ingestq.core.results import (
    LISTED_WARNINGS,
    BatchReport,
    DocumentCounts,
    DocumentWarning,
    JobResult,
    WarningCounts,
)
from producers.schedule.sources import FileSource
from producers.watch.folder import WatchedFolder
from producers.watch.folder_watch import WatchConfig
from tests.claims import finish, lease_queue, take
from tests.command import Ingestq
from tests.harness import Harness
from tests.integration.test_scheduled_rescans import rescan
from tests.integration.test_watch import logged, watching
from tests.markup import Page
from tests.serving import services
from tests.waiting import eventually
from worker.embedding.pool import ModelPool
from worker.maintenance.reindex import Rebuild, StoredCollection
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames, make_collection
from worker.store.schema import Schema, fingerprint
from worker.text.parts import (
    MAX_WARNINGS,
    PreparedDocument,
    Segment,
    SegmentStart,
    SizedText,
    UnchangedContent,
)

MARK = "! "
SCAN = "A scan of the log.\n! page 2 has no text\n! page 5 has no text"
SCAN_WARNINGS = ("page 2 has no text", "page 5 has no text")


@dataclass
class WarningModel:
    """The real pool; it warns as documents say, and records those that it reads."""

    pool: ModelPool
    read: list[str] = field(default_factory=list)

    @property
    def config(self) -> Any:
        return self.pool.config

    @property
    def info(self) -> Any:
        return self.pool.info

    async def prepare(
        self, lane: Lane, document: Document, known_hash: str | None
    ) -> PreparedDocument | UnchangedContent:
        self.read.append(document.doc_id)
        prepared = await self.pool.prepare(lane, document, known_hash)
        if isinstance(prepared, UnchangedContent):
            return prepared
        lines = [line for chunk in prepared.first.chunks for line in chunk.body.splitlines()]
        warnings = tuple(line.removeprefix(MARK) for line in lines if line.startswith(MARK))
        return msgspec.structs.replace(prepared, warnings=warnings)

    async def prepare_rest(self, lane: Lane, document: Document, rest: SegmentStart) -> Segment:
        return await self.pool.prepare_rest(lane, document, rest)

    async def embed(self, lane: Lane, texts: Sequence[SizedText]) -> npt.NDArray[np.float32]:
        return await self.pool.embed(lane, texts)


@dataclass(frozen=True)
class WarningHarness(Harness):
    """A harness whose worker reads with a `WarningModel`."""

    @property
    def read(self) -> list[str]:
        return cast(WarningModel, self.model).read

    def put(self, name: str, text: str) -> str:
        """Write a file that was modified long ago; return its document's id."""
        path, new = self.root / name, self.root.with_name("new")
        new.write_text(text, encoding="utf-8")
        os.utime(new, (1, len(text)))
        new.replace(path)  # a watch never sees half of it
        return str(path)

    def touch(self, name: str) -> None:
        os.utime(self.root / name)

    def remove(self, name: str) -> None:
        (self.root / name).unlink()

    async def warned(self) -> dict[str, tuple[str, ...]]:
        """Return the warnings of every document, from the ledger, by file name."""
        found = {}
        async with aclosing(warned_documents(self.qdrant, self.names.alias)) as documents:
            async for document in documents:
                found[Path(document.doc_id).name] = document.warnings
        assert await self.ledger.count_warned() == len(found)
        return found


@pytest.fixture
async def harness(
    broker: Broker, qdrant: Qdrant, model: ModelPool, collection: CollectionNames, tmp_path: Path
) -> AsyncIterator[WarningHarness]:
    root = tmp_path / "root"
    root.mkdir()
    warning_model = cast(ModelPool, WarningModel(model))
    harness = WarningHarness.of(broker, qdrant, collection, warning_model, root)
    async with harness.working():
        yield harness


async def test_the_summary_and_the_ledger_say_what_could_not_be_read(
    harness: WarningHarness,
) -> None:
    scan = harness.put("scan.txt", SCAN)
    harness.put("note.txt", "A note that was read completely.")
    summary = await harness.scan()
    assert summary.documents == DocumentCounts(indexed=2)
    assert summary.warned == WarningCounts(documents=1, warnings=2)
    assert summary.as_json()["warnings"] == [
        {"doc_id": scan, "warning": warning} for warning in SCAN_WARNINGS
    ]
    assert summary.as_json()["warned"] == 1
    assert await harness.warned() == {"scan.txt": SCAN_WARNINGS}


async def test_unchanged_documents_still_warn_and_are_not_read(harness: WarningHarness) -> None:
    harness.put("scan.txt", SCAN)
    first = await harness.scan()
    harness.read.clear()
    again = await harness.scan()
    assert again.documents == DocumentCounts(unchanged=1)
    assert (again.warned, again.warnings) == (first.warned, first.warnings)
    assert harness.read == []


async def test_unchanged_content_under_a_newer_version_still_warns(harness: WarningHarness) -> None:
    for _ in range(2):
        receipt = await harness.client.submit("scan", text=SCAN, source="s")
        status = await harness.client.wait(receipt.submission, timeout=60)
        assert status.warned == WarningCounts(documents=1, warnings=2)
        assert await harness.client.warnings(receipt.submission) == [
            DocumentWarning("scan", warning) for warning in SCAN_WARNINGS
        ]
    assert status.documents == DocumentCounts(unchanged=1)
    assert await harness.warned() == {"scan": SCAN_WARNINGS}


async def test_a_document_that_is_read_completely_or_deleted_warns_no_more(
    harness: WarningHarness,
) -> None:
    harness.put("scan.txt", SCAN)
    harness.put("gone.txt", SCAN)
    assert (await harness.scan()).warned.documents == 2
    harness.put("scan.txt", "Somebody typed the log, so that all of it can be read.")
    harness.remove("gone.txt")
    summary = await harness.scan()
    assert summary.documents == DocumentCounts(indexed=1, deleted=1)
    assert summary.warned == WarningCounts()
    assert await harness.warned() == {}


async def test_a_document_with_many_warnings_keeps_a_few(harness: WarningHarness) -> None:
    harness.put("scan.txt", "\n".join(f"{MARK}page {n} has no text" for n in range(500)))
    summary = await harness.scan()
    [stored] = (await harness.warned()).values()
    assert len(stored) == MAX_WARNINGS
    assert stored[-1] == f"and {500 - MAX_WARNINGS + 1} more"
    assert summary.warned == WarningCounts(documents=1, warnings=MAX_WARNINGS)


async def test_a_submission_counts_all_warnings_and_lists_a_bounded_number(broker: Broker) -> None:
    leases = lease_queue(broker)
    for job in range(3):
        document = Document(collection="documents", doc_id=f"d{job}", version=1, source="", text="")
        await broker.queue.offer([IngestBatch("s", (document,))])
        [claimed] = await take(leases)
        warnings = tuple(DocumentWarning(f"d{job}", f"{n} is missing") for n in range(400))
        counts = WarningCounts(documents=1, warnings=400)
        report = BatchReport(DocumentCounts(indexed=1), warned=counts, warnings=warnings)
        assert await finish(leases, claimed, report)
    status = await broker.client.status("s")
    assert status.warned == WarningCounts(documents=3, warnings=1200)
    listed = await broker.client.warnings("s")
    assert len(listed) == LISTED_WARNINGS
    assert listed[-1] == DocumentWarning("d2", "199 is missing")
    assert (
        0
        < await broker.redis.ttl(keys.DOCUMENT_WARNINGS + "s")
        < await broker.redis.ttl(keys.SUBMISSION + "s")
    )
    ended = (await RecentWorkReader(broker.redis, broker.config).read(9)).ended
    assert [job.warned.warnings for job in ended] == [400, 400, 400]


async def test_the_kept_result_of_a_job_counts_its_warnings(harness: WarningHarness) -> None:
    harness.put("scan.txt", SCAN)
    await harness.scan()
    kept = [await harness.broker.redis.get(key) async for key in results(harness.broker)]
    reports = [
        msgspec.convert(msgspec.msgpack.decode(raw, type=JobResult).result, BatchReport)
        for raw in kept
    ]
    assert sum(report.warned.warnings for report in reports) == 2
    assert [report.warnings for report in reports] == [()] * len(reports)


async def results(broker: Broker) -> AsyncIterator[bytes]:
    async for key in broker.redis.scan_iter(keys.RESULT + "*"):
        yield key


async def test_a_rebuilt_collection_keeps_the_warnings(harness: WarningHarness) -> None:
    """Also of a document whose source is gone: its stored text lacks the same as before."""
    harness.put("there.txt", SCAN)
    await harness.client.submit("gone", text=SCAN, source="s")
    await harness.scan()
    made_with = fingerprint(harness.model.info, Schema("text"))
    new = CollectionNames.of(harness.names.alias, made_with.digest)
    await make_collection(harness.qdrant, new, made_with, Schema().storage)
    try:
        live = StoredCollection.of(
            harness.qdrant, harness.names, fingerprint(harness.model.info, Schema())
        )
        other = StoredCollection.of(harness.qdrant, new, made_with)
        # The new version of the reader warns of nothing.
        reader = cast(WarningModel, harness.model).pool
        rebuild = Rebuild(live, other, reader, reuse=True, at_once=2, display=NoDisplay())
        await rebuild.catch_up()
        harness.touch("there.txt")
        await harness.client.submit("gone", text=SCAN, source="s")
        assert (await harness.scan()).documents == DocumentCounts(unchanged=1)
        await rebuild.catch_up()
        seen = await rebuild.catch_up()
        assert seen.changed == 0
        assert seen.warned == WarningCounts(documents=1, warnings=2)
        assert {warning.doc_id for warning in seen.warnings} == {"gone"}
    finally:
        await harness.qdrant.ask(lambda client: client.delete_collection(new.chunks))
        await harness.qdrant.ask(lambda client: client.delete_collection(new.ledger))


# Folders and schedules


async def test_the_log_of_a_watched_folder_says_how_many_documents_warn(
    harness: WarningHarness,
) -> None:
    harness.put("scan.txt", SCAN)
    harness.put("note.txt", "A note that was read completely.")
    often = WatchConfig(settle_seconds=0.1, rescan_seconds=0.1)
    folder = str(harness.root)
    async with watching(harness.broker, harness.root, often, until=events.WATCH_WARNED) as logs:
        read = await logged(logs, events.DOCUMENT_WARNED)
        assert read["doc_id"] == str(harness.root / "scan.txt")
        assert read["warnings"] == list(SCAN_WARNINGS)
        harness.put("scan.txt", "Somebody typed the log, so that all of it can be read.")

        async def said() -> list[int]:
            about = [entry for entry in logs if entry["event"] == events.WATCH_WARNED]
            assert {entry["folder"] for entry in about} == {folder}
            return [entry["documents"] for entry in about]

        # Once for each change, not at every scan.
        assert await eventually(said, lambda counts: len(counts) > 1) == [1, 0]
    scans = [entry for entry in logs if entry["event"] == events.WATCH_SCANNED]
    assert len(scans) > 1


async def test_the_log_of_a_hot_folder_says_how_many_files_warn(harness: WarningHarness) -> None:
    harness.put("scan.txt", SCAN)
    harness.put("note.txt", "A note that was read completely.")
    folder = WatchedFolder(harness.root, hot=True)
    async with watching(harness.broker, folder, until=events.HOT_FOLDER_MOVED) as logs:
        moved = await logged(logs, events.HOT_FOLDER_MOVED)
    assert (moved["done"], moved["failed"], moved["warned"]) == (2, 0, 1)


async def test_a_scheduled_rescan_says_what_could_not_be_read(harness: WarningHarness) -> None:
    scan = harness.put("scan.txt", SCAN)
    result = await rescan(harness, FileSource(harness.root))
    assert result.outcome is RunOutcome.DONE
    assert result.detail == f"1 with warnings: {scan}: {SCAN_WARNINGS[0]}"


# HTTP and the dashboard


@dataclass(frozen=True)
class Site:
    """The API of a harness."""

    harness: WarningHarness
    http: AsyncClient

    async def json(self, path: str) -> Any:
        answer = await self.http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
async def site(harness: WarningHarness, tmp_path: Path) -> AsyncIterator[Site]:
    settings = Settings(collection=harness.names.alias, data_dir=tmp_path / "data")
    async with AsyncExitStack() as closing:
        on_demand = QdrantOnDemand(settings, closing, harness.qdrant)
        app = create_app(
            services(
                harness.broker,
                index=DocumentLookup(on_demand),
                overview=IndexReader(on_demand, settings.collections),
            ),
            ApiConfig(10_000, collections=settings.collections),
        )
        transport = ASGITransport(app)
        async with AsyncClient(transport=transport, base_url="http://localhost") as http:
            yield Site(harness, http)


async def test_the_api_shows_warnings(site: Site) -> None:
    client = site.harness.client
    receipt = await client.submit("scan", text=SCAN, source="s")
    await client.wait(receipt.submission, timeout=60)
    submission = await site.json(f"/submissions/{receipt.submission}")
    assert submission["warned"] == 1
    assert submission["warnings"] == [
        {"doc_id": "scan", "warning": warning} for warning in SCAN_WARNINGS
    ]
    document = await site.json("/documents/scan")
    assert document["indexed"]["warnings"] == list(SCAN_WARNINGS)
    status = await site.json("/status")
    name = site.harness.names.alias
    counts = {"documents": 1, "chunks": 1, "warned": 1, "stale": 0}
    assert status["collection"] == {"name": name, **counts}
    assert status["collections"] == [status["collection"]]


async def test_the_dashboard_counts_and_lists_documents_with_warnings(site: Site) -> None:
    client = site.harness.client
    nasty = "<script>alert(1)</script>"
    receipt = await client.submit("scan", text=f"{SCAN}\n! {nasty}", source="s")
    await client.wait(receipt.submission, timeout=60)
    answer = await site.http.get("/")
    assert answer.status_code == 200
    page = Page(answer.text)
    for said in (
        "With warnings 1",
        "1 document is indexed without what could not be read",
        f"scan page 2 has no text page 5 has no text {nasty}",
        "1 of 1 documents · 1 chunks · 1 with warnings",
        "1 indexed 1 with warnings",
    ):
        assert said in page.text
    assert nasty not in answer.text


# The command


@pytest.mark.slow
def test_a_text_with_a_byte_that_is_no_character_is_indexed_with_a_warning(
    ingestq: Ingestq,
) -> None:
    notes = ingestq.folder / "notes"
    notes.mkdir()
    bad = notes / "tides.txt"
    bad.write_bytes("Die Flut kommt täglich zweimal. ".encode() * 20 + b"\xff und geht wieder.")
    (notes / "geese.txt").write_text("The geese leave in autumn.")
    first = ingestq("run", notes, "--json")
    assert first.code == 0, first.err
    assert first.json["documents"]["indexed"] == 2
    [warning] = first.json["warnings"]
    assert warning["doc_id"] == str(bad)

    again = ingestq("run", notes, "--json")
    assert again.code == 0, again.err
    assert again.json["documents"]["unchanged"] == 2
    assert (again.json["warned"], again.json["warnings"]) == (1, [warning])

    shown = ingestq("status", "--warnings", "--json")
    assert shown.code == 0, shown.err
    status = shown.json
    assert status["collection"]["warned"] == 1
    assert status["warnings"] == [{"collection": "documents", "tenant": "", **warning}]
    said = ingestq("status", "--warnings").out
    assert "2 documents (1 with warnings)" in said
    assert f"warning     {bad}: {warning['warning']}" in said
