"""Recent submissions, finished jobs and dead letters."""

import pytest

from ingestq.app.composition import Broker
from ingestq.broker import keys
from ingestq.broker.queue.dead_letters import DeadLetters
from ingestq.broker.queue.leases import LeaseQueue
from ingestq.broker.queue.stats import ABOUT_CHARACTERS, RecentWorkReader
from ingestq.core.documents import Document
from ingestq.core.jobs import IngestBatch, dead_letter_batch
from ingestq.core.results import BatchReport, ChunkCounts, DocumentCounts
from tests.books import balanced
from tests.claims import batch_of, finish, lease_queue, take
from tests.harness import Harness

REMEMBERED = 100


@pytest.fixture
def recent(broker: Broker) -> RecentWorkReader:
    return RecentWorkReader(broker.redis, broker.config)


@pytest.fixture
def leases(broker: Broker) -> LeaseQueue:
    return lease_queue(broker, 600)  # none of them expires here


@pytest.fixture
def dead_letters(broker: Broker) -> DeadLetters:
    return DeadLetters(broker.redis, broker.config)


def batch(*doc_ids: str, submission: str = "s") -> IngestBatch:
    return IngestBatch(
        submission,
        tuple(
            Document(collection="documents", doc_id=d, version=1, source=d, text=d) for d in doc_ids
        ),
    )


def key_of(doc_id: str) -> str:
    """Return the key of a document's dead letter."""
    [key] = batch(doc_id).dead_letter_keys
    return key


async def ids(recent: RecentWorkReader) -> list[str]:
    return [submission.id for submission in (await recent.read(9)).submissions]


async def reject(leases: LeaseQueue, reason: str) -> None:
    """Act as a worker that rejects the one job on the queue."""
    [claim] = await take(leases)
    assert await finish(leases, claim, dead_letter_batch(batch_of(claim), reason, tries=1))


async def test_a_new_queue_has_no_recent_work(
    recent: RecentWorkReader, dead_letters: DeadLetters, broker: Broker
) -> None:
    work = await recent.read(9)
    assert (list(work.submissions), list(work.ended)) == ([], [])
    assert await dead_letters.newest(9) == []


async def test_recent_submissions_are_sorted_by_last_change(
    recent: RecentWorkReader, leases: LeaseQueue, broker: Broker
) -> None:
    await broker.queue.offer([batch("a", "b", submission="first")])
    await broker.redis.zincrby(keys.RECENT_SUBMISSIONS, -5000, "first")  # five seconds pass
    await broker.queue.offer([batch("c", submission="second")])
    second, first = (await recent.read(9)).submissions
    assert (first.id, second.id) == ("first", "second")
    assert 5 <= first.changed_seconds_ago < 15
    assert first.status == await broker.queue.submission("first")
    assert not first.status.complete

    await broker.redis.zincrby(keys.RECENT_SUBMISSIONS, -5000, "second")
    [claim] = await take(leases)
    await finish(leases, claim, BatchReport(DocumentCounts(indexed=2)))
    first, second = (await recent.read(9)).submissions
    assert (first.id, second.id) == ("first", "second")
    assert first.status.complete


async def test_a_submission_in_progress_stays_recent(
    recent: RecentWorkReader, leases: LeaseQueue, broker: Broker
) -> None:
    """Other submissions push each other out: their number is bounded."""
    await broker.queue.offer([batch(str(n), submission="large") for n in range(6)])
    running = list(await take(leases, 6))
    for n in range(3 * REMEMBERED):
        await broker.queue.offer([batch("x", submission=f"small-{n}")])
        if n % (REMEMBERED // 2) == 0:
            await finish(leases, running.pop(), BatchReport(DocumentCounts(indexed=1)))
    known = await ids(recent)
    assert len(known) == REMEMBERED
    assert known[0] == f"small-{3 * REMEMBERED - 1}"
    assert "large" in known


async def test_expired_submissions_are_not_listed(recent: RecentWorkReader, broker: Broker) -> None:
    await broker.queue.offer([batch("a")])
    await broker.redis.delete(keys.SUBMISSION + "s")
    assert await ids(recent) == []


async def test_finished_jobs_are_listed_with_their_outcomes(
    recent: RecentWorkReader, leases: LeaseQueue, broker: Broker
) -> None:
    for name in ("a", "b"):
        await broker.queue.offer([batch(name)])
        [claim] = await take(leases)
        report = BatchReport(DocumentCounts(indexed=1), ChunkCounts(embedded=3))
        assert await finish(leases, claim, report)
        assert not await finish(leases, claim, report), "it was not ours any more"
    newest, older = (await recent.read(9)).ended
    assert newest.documents == DocumentCounts(indexed=1)
    assert newest.chunks == ChunkCounts(embedded=3)
    assert newest.success
    assert newest.about != older.about
    assert len((await recent.read(1)).ended) == 1


async def test_the_number_of_finished_jobs_kept_is_bounded(
    recent: RecentWorkReader, leases: LeaseQueue, broker: Broker
) -> None:
    await broker.queue.offer([batch(str(n)) for n in range(3 * REMEMBERED)])
    kept = []
    for claim in await take(leases, 3 * REMEMBERED):
        await finish(leases, claim, BatchReport(DocumentCounts(indexed=1)))
        kept.append(len((await recent.read(9 * REMEMBERED)).ended))
    assert kept[:REMEMBERED] == list(range(1, REMEMBERED + 1))
    assert REMEMBERED <= min(kept[REMEMBERED:]) <= max(kept) < 2 * REMEMBERED


async def test_a_finished_job_names_its_first_document(harness: Harness) -> None:
    recent = RecentWorkReader(harness.broker.redis, harness.broker.config)
    name = "n" * 200
    harness.write(f"{name}/{name}/{name}.txt")
    await harness.scan()
    told = {ended.function: ended for ended in (await recent.read(9)).ended}
    assert (
        told["ingest"].about == str(harness.root / name / name / f"{name}.txt")[:ABOUT_CHARACTERS]
    )
    assert told["ingest"].documents.indexed == 1
    assert told["ingest"].seconds >= 0
    assert told["sweep"].about == str(harness.root)


async def test_newest_returns_the_newest_dead_letters(
    dead_letters: DeadLetters, leases: LeaseQueue, broker: Broker
) -> None:
    for name in ("a", "b", "c"):
        await broker.queue.offer([batch(name)])
        await reject(leases, f"{name} is broken")
        await broker.redis.zincrby(keys.DEAD_TIMES, -5000 * (ord("d") - ord(name)), key_of(name))
    newest, other = await dead_letters.newest(2)
    assert (newest.key, other.key) == (key_of("c"), key_of("b"))
    assert newest.written_ms > other.written_ms
    [stored] = await dead_letters.get([key_of("b"), key_of("nobody")])
    assert stored.dead_letter.reason == "b is broken"

    await dead_letters.purge(await dead_letters.get([key_of("c")]))
    await dead_letters.requeue(await dead_letters.get([key_of("b")]), "again")
    assert [name.key for name in await dead_letters.newest(9)] == [key_of("a")]
    await reject(leases, "b is still broken")
    assert [name.key for name in await dead_letters.newest(9)] == [key_of("b"), key_of("a")]
    await balanced(broker.redis)


async def test_a_dead_letter_is_deleted_when_its_document_succeeds(
    dead_letters: DeadLetters, leases: LeaseQueue, broker: Broker
) -> None:
    await broker.queue.offer([batch("a")])
    await reject(leases, "broken")
    await broker.queue.offer([batch("a", submission="later")])
    [claim] = await take(leases)
    resolved = batch("a").versions
    assert await finish(leases, claim, BatchReport(DocumentCounts(indexed=1), resolved=resolved))
    assert await dead_letters.newest(9) == []
    await balanced(broker.redis)
