"""Remote folders: the index equals a bucket on a real server of S3, whatever happens to that."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from ingestq.app.composition import Broker
from ingestq.app.schedule_actions import Rescan
from ingestq.broker.schedule.runs import RunOutcome
from ingestq.client.object_store import open_ranges
from ingestq.core import events
from ingestq.core.display import NoDisplay
from ingestq.core.documents import Document
from ingestq.core.errors import RemoteUnavailable, SourceChanged, SourceFailed, UsageError
from ingestq.core.results import DocumentCounts
from producers.files.patterns import Patterns
from producers.files.walk import ScanRecord
from producers.remote.source import RemoteSource
from producers.remote.watch import RemoteWatch
from producers.schedule.entry import ScheduledEntry, Timetable
from tests.harness import Harness
from tests.integration.test_watch import logged
from tests.s3_server import Bucket
from tests.waiting import ended, eventually
from worker.remote.contents import RemoteContents

NOTE = "A note about the {} of the island, and what it is good for."


def notes(*names: str) -> dict[str, str]:
    return {name: NOTE.format(name) for name in names}


async def test_the_index_follows_a_bucket(harness: Harness, bucket: Bucket) -> None:
    bucket.put(notes("docs/a.txt", "docs/sub/b.md", "docs/sub/c.txt", "docs2/no.txt"))
    bucket.put({"docs/": "", "docs/.hidden/x.txt": "x", "docs/.y": "y"})
    source = RemoteSource(f"{bucket.url}/docs")
    assert (await harness.scan_source(source)).documents == DocumentCounts(indexed=3)
    urls = {f"{source.url}/{name}" for name in ("a.txt", "sub/b.md", "sub/c.txt")}
    assert await harness.indexed() == urls
    payloads = await harness.payloads()
    assert {payload["source"] for payload in payloads} == urls
    assert {payload["page_content"] for payload in payloads} == {
        NOTE.format(f"docs/{name}") for name in ("a.txt", "sub/b.md", "sub/c.txt")
    }

    bucket.put({"docs/a.txt": "Quite another text.", "docs/new.txt": "A new one."})
    bucket.delete("docs/sub/c.txt")
    found = (await harness.scan_source(source)).documents
    assert found == DocumentCounts(indexed=2, unchanged=1, deleted=1)
    assert await harness.indexed() == urls - {f"{source.url}/sub/c.txt"} | {f"{source.url}/new.txt"}


async def test_unchanged_objects_are_listed_and_not_read(
    harness: Harness, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put(notes("a.txt", "b.txt"))
    source = RemoteSource(bucket.url)
    await harness.scan_source(source)
    bucket.put(notes("b.txt"))  # written again, with the same content
    read: list[str] = []
    as_file = RemoteContents.as_file

    def note(self: RemoteContents, document: Document) -> AbstractAsyncContextManager[Document]:
        read.append(document.doc_id)
        return as_file(self, document)

    monkeypatch.setattr(RemoteContents, "as_file", note)
    assert (await harness.scan_source(source)).documents == DocumentCounts(unchanged=2)
    assert read == []
    again = await harness.scan_source(replace(source, checksum=True))
    assert (again.documents, len(read)) == (DocumentCounts(unchanged=2), 2)


async def test_a_name_patterns_and_metadata_are_those_of_a_folder(
    harness: Harness, bucket: Bucket
) -> None:
    bucket.put(notes("a.md", "sub/b.md", "sub/draft.md", "c.txt", "odd//./key.md"))
    patterns = Patterns(("*.md",), ("draft.*",))
    source = RemoteSource(bucket.url, "notes", "island", patterns, {"shelf": 7})
    assert (await harness.scan_source(source)).documents.indexed == 3
    assert await harness.indexed() == {"notes/a.md", "notes/sub/b.md", "notes/odd//./key.md"}
    payload = (await harness.payloads())[0]
    assert (payload["tenant"], payload["metadata"]["shelf"]) == ("island", 7)


async def test_a_single_object_deletes_nothing(harness: Harness, bucket: Bucket) -> None:
    bucket.put(notes("docs/a.txt", "docs/b.txt"))
    await harness.scan_source(RemoteSource(f"{bucket.url}/docs"))
    bucket.put({"docs/a.txt": "Changed."})
    bucket.delete("docs/b.txt")
    found = await harness.scan_source(RemoteSource(f"{bucket.url}/docs/a.txt"))
    assert found.documents == DocumentCounts(indexed=1)
    assert len(await harness.indexed()) == 2


async def test_an_emptied_bucket_deletes_nothing_unless_that_is_allowed(
    harness: Harness, bucket: Bucket
) -> None:
    names = [f"{number}.txt" for number in range(3)]
    bucket.put(notes(*names))
    source = RemoteSource(bucket.url)
    await harness.scan_source(source)
    bucket.delete(*names)
    held = await harness.scan_source(source)
    assert held.documents == DocumentCounts(rejected=1)
    assert "nothing is left in it" in held.failed[0].reason
    assert len(await harness.indexed()) == 3
    gone = await harness.scan_source(source, allow_mass_delete=True)
    assert gone.documents == DocumentCounts(deleted=3)


async def test_a_large_part_of_a_bucket_is_kept_when_it_is_gone(
    harness: Harness, bucket: Bucket
) -> None:
    names = [f"{number}.txt" for number in range(24)]
    bucket.put(notes(*names))
    source = RemoteSource(bucket.url)
    await harness.scan_source(source)
    bucket.delete(*names[:12])
    held = await harness.scan_source(source)
    assert held.documents == DocumentCounts(unchanged=12, rejected=1)
    assert "that is a large part of it" in held.failed[0].reason


async def test_an_object_that_changes_after_it_was_listed_is_indexed_as_it_is_read(
    harness: Harness, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put(notes("a.txt"))
    as_file = RemoteContents.as_file

    later = [{"a.txt": "Later text."}]

    def change(self: RemoteContents, document: Document) -> AbstractAsyncContextManager[Document]:
        if later:
            bucket.put(later.pop())
        return as_file(self, document)

    monkeypatch.setattr(RemoteContents, "as_file", change)
    source = RemoteSource(bucket.url)
    assert (await harness.scan_source(source)).documents.indexed == 1
    [payload] = await harness.payloads()
    assert payload["page_content"] == "Later text."
    # The state that is kept is that of what was read.
    assert (await harness.scan_source(source)).documents == DocumentCounts(unchanged=1)
    bucket.put(notes("a.txt"))
    assert (await harness.scan_source(source)).documents.indexed == 1


async def test_an_object_that_is_gone_by_the_time_it_is_read_keeps_its_text(
    harness: Harness, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put(notes("a.txt", "b.txt"))
    source = RemoteSource(bucket.url)
    await harness.scan_source(source)
    bucket.put({"a.txt": "Soon gone."})
    as_file = RemoteContents.as_file

    def remove(self: RemoteContents, document: Document) -> AbstractAsyncContextManager[Document]:
        bucket.delete("a.txt")
        return as_file(self, document)

    monkeypatch.setattr(RemoteContents, "as_file", remove)
    summary = await harness.scan_source(source)
    assert summary.documents == DocumentCounts(unchanged=1, rejected=1)
    assert summary.failed[0].reason == "the object is gone, or its bucket"
    assert len(await harness.indexed()) == 2


async def test_an_object_that_may_not_be_read_is_rejected_with_what_to_check(
    harness: Harness, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put(notes("a.txt"))
    as_file = RemoteContents.as_file

    def forbid(self: RemoteContents, document: Document) -> AbstractAsyncContextManager[Document]:
        bucket.server.check_credentials(after=0)
        return as_file(self, document)

    monkeypatch.setattr(RemoteContents, "as_file", forbid)
    try:
        summary = await harness.scan_source(RemoteSource(bucket.url))
    finally:
        bucket.server.check_credentials(after="inf")
    assert summary.documents == DocumentCounts(rejected=1)
    assert "access is denied" in summary.failed[0].reason
    assert "check the credentials" in summary.failed[0].reason


def test_ranges_of_two_versions_of_an_object_are_never_mixed(bucket: Bucket) -> None:
    bucket.put({"a.txt": "x" * 1000})

    def read() -> None:
        with open_ranges(f"{bucket.url}/a.txt", ahead_bytes=10) as (file, found):
            assert (file.read(10), found.size) == (b"x" * 10, 1000)
            bucket.put({"a.txt": "y" * 1000})
            file.read(100)

    with pytest.raises(SourceChanged):
        read()


async def test_an_object_above_the_limit_is_rejected_without_being_read(
    harness: Harness, bucket: Bucket
) -> None:
    limit = harness.model.config.max_document_bytes
    bucket.put({"large.txt": b"x" * (limit + 1)})
    summary = await harness.scan_source(RemoteSource(bucket.url))
    assert summary.documents == DocumentCounts(rejected=1)
    assert "INGESTQ_MAX_DOCUMENT_BYTES" in summary.failed[0].reason


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://no-such-bucket/docs", "there is no such bucket or folder"),
        ("s3://no-such-bucket", "there is no such bucket or folder"),
        ("nostore://bucket/docs", "Protocol not known: nostore"),
        ("memory://no-such-folder", "there is no such bucket or folder"),
    ],
)
async def test_a_source_that_is_not_there_is_no_empty_one(
    bucket: Bucket, url: str, said: str
) -> None:
    record = ScanRecord()

    async def clock() -> int:
        return 1

    with pytest.raises(UsageError, match=said):
        [one async for one in RemoteSource(url).scan(clock, record)]
    assert record.sweeps(allow_mass_delete=True) == []


async def test_a_store_that_does_not_answer_is_no_empty_one(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(RemoteUnavailable, match="cannot be reached"):
        await RemoteSource(f"{bucket.url}/docs").check()


async def test_a_scheduled_rescan_of_a_bucket(harness: Harness, bucket: Bucket) -> None:
    bucket.put(notes("a.txt", "b.txt"))
    entry = ScheduledEntry(
        "bucket",
        Timetable("0 0 * * *"),
        source=RemoteSource(bucket.url, "notes"),
        collection=harness.names.alias,
    )
    rescan = Rescan(harness.client, NoDisplay())
    done = await rescan(entry, lambda _: None)
    assert (done.outcome, done.documents) == (RunOutcome.DONE, DocumentCounts(indexed=2))
    bucket.delete("a.txt", "b.txt")
    assert (await rescan(entry, lambda _: None)).outcome is RunOutcome.REFUSED
    bucket.server.client.delete_bucket(Bucket=bucket.name)
    with pytest.raises(SourceFailed, match="there is no such bucket"):
        await rescan(entry, lambda _: None)
    assert await harness.indexed() == {"notes/a.txt", "notes/b.txt"}


async def test_a_watched_bucket_is_scanned_again_and_again(
    harness: Harness, bucket: Bucket
) -> None:
    bucket.put(notes("a.txt"))

    async def ids_of() -> set[str]:
        return {payload["doc_id"] for payload in await harness.payloads()}

    async def unavailable() -> str:
        [folder] = (await harness.broker.queue.overview()).watched_folders
        return folder.unavailable

    watch = RemoteWatch(
        RemoteSource(bucket.url),
        harness.names.alias,
        0.2,
        harness.client,
        harness.broker.watched_folders,
    )
    with capture_logs() as logs:
        running = asyncio.create_task(watch.run())
        try:
            await eventually(ids_of, lambda ids: ids == {f"{bucket.url}/a.txt"})
            bucket.put(notes("b.txt"))
            bucket.delete("a.txt")
            await eventually(ids_of, lambda ids: ids == {f"{bucket.url}/b.txt"})
            bucket.delete("b.txt")
            await logged(logs, events.WATCH_HELD_BACK)
            bucket.server.client.delete_bucket(Bucket=bucket.name)
            await logged(logs, events.WATCH_UNAVAILABLE)
            await eventually(unavailable, lambda reason: "there is no such bucket" in reason)
            assert await ids_of() == {f"{bucket.url}/b.txt"}
            bucket.server.client.create_bucket(Bucket=bucket.name)
            bucket.put(notes("c.txt"))
            await logged(logs, events.WATCH_AVAILABLE)
            await eventually(unavailable, lambda reason: not reason)
            await eventually(ids_of, lambda ids: ids == {f"{bucket.url}/c.txt"})
        finally:
            watch.stop()
            await ended(running)


async def test_a_bucket_that_goes_away_before_its_objects_are_read_is_unavailable(
    broker: Broker, bucket: Bucket
) -> None:
    bucket.put(notes("a.txt"))
    source, collection = RemoteSource(bucket.url), broker.collection
    watch = RemoteWatch(source, collection, 0.2, broker.client, broker.watched_folders)
    with capture_logs() as logs:
        running = asyncio.create_task(watch.run())
        try:
            await logged(logs, events.WATCH_SCANNED)  # its job waits: there is no worker
            bucket.delete("a.txt")
            bucket.server.client.delete_bucket(Bucket=bucket.name)
            await logged(logs, events.WATCH_UNAVAILABLE)
            bucket.server.client.create_bucket(Bucket=bucket.name)
            await logged(logs, events.WATCH_AVAILABLE)
        finally:
            watch.stop()
            await ended(running)


@pytest.mark.slow
async def test_two_thousand_objects_with_edits_and_deletions(
    harness: Harness, bucket: Bucket
) -> None:
    names = [f"{number % 20}/{number}.txt" for number in range(2000)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda first: bucket.put(notes(*names[first::8])), range(8)))
    source = RemoteSource(bucket.url, "notes")
    assert (await harness.scan_source(source)).documents == DocumentCounts(indexed=2000)
    assert (await harness.scan_source(source)).documents == DocumentCounts(unchanged=2000)
    bucket.put({name: f"Now {NOTE.format(name)}" for name in names[:50]})
    bucket.delete(*names[50:150])
    found = (await harness.scan_source(source)).documents
    assert found == DocumentCounts(indexed=50, unchanged=1850, deleted=100)
    assert await harness.ledger.count() == 1900
