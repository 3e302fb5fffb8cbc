"""Dead letters are found, requeued and purged."""

import asyncio
import unicodedata
from contextlib import aclosing

import pytest

from ingestq.app.composition import Broker
from ingestq.broker.queue import dead_letters as dead_letters_module
from ingestq.broker.queue.dead_letters import DeadLetterFilter, DeadLetters, StoredDeadLetter
from ingestq.core.documents import Document
from ingestq.core.jobs import IngestBatch, dead_letter_batch
from ingestq.core.results import BatchReport, DeadLetter, DocumentCounts
from tests.claims import batch_of, finish, lease_queue, take


@pytest.fixture
def dead_letters(broker: Broker) -> DeadLetters:
    return DeadLetters(broker.redis, broker.config)


def document(doc_id: str, version: int = 1, tenant: str = "") -> Document:
    return Document(
        collection="documents",
        doc_id=doc_id,
        version=version,
        source=doc_id,
        text="t",
        tenant=tenant,
    )


async def fail(broker: Broker, reason: str, *documents: Document) -> None:
    """Queue ``documents`` and dead-letter them, as a worker does."""
    batch = IngestBatch("first", documents)
    await broker.queue.offer([batch])
    await ack(broker, dead_letter_batch(batch, reason, tries=5, traceback="Traceback …"))


async def ack(broker: Broker, report: BatchReport) -> IngestBatch:
    leases = lease_queue(broker)
    [claimed] = await take(leases)
    assert await finish(leases, claimed, report)
    return batch_of(claimed)


async def found(dead_letters: DeadLetters, wanted: DeadLetterFilter) -> list[StoredDeadLetter]:
    return [stored async for stored in dead_letters.find(wanted)]


async def test_an_id_in_another_form_is_found_without_reading_what_others_hold(
    broker: Broker, dead_letters: DeadLetters
) -> None:
    typed, stored = (unicodedata.normalize(form, "café") for form in ("NFD", "NFC"))
    await fail(broker, "broken", document(stored))
    await fail(broker, "broken", document(stored, tenant="t"))
    await fail(broker, "broken", document("other"))
    await broker.redis.config_resetstat()
    known = await dead_letters.find_any_form("documents", "t", typed)
    assert known is not None
    assert (known.dead_letter.doc_id, known.dead_letter.tenant) == (stored, "t")
    for collection, tenant, doc_id in (("documents", "u", typed), ("documents", "t", "cafè")):
        assert await dead_letters.find_any_form(collection, tenant, doc_id) is None
    assert "cmdstat_hscan" not in await broker.redis.info("commandstats")


async def test_each_dead_letter_is_listed_once_while_others_come_and_go(
    broker: Broker, dead_letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters_module, "IDS_PAGE", 2)
    await fail(broker, "broken", *(document(f"old {i}") for i in range(3)))  # at one time
    await fail(broker, "broken", document("new"))
    everything = await found(dead_letters, DeadLetterFilter())
    listed = []
    async with aclosing(dead_letters._ids()) as ids:
        async for dead_letter in ids:
            listed.append(dead_letter.key)
            if len(listed) == 1:
                await fail(broker, "broken", document("newer"))
            elif len(listed) == 2:
                wanted = DeadLetterFilter(frozenset(["new", "newer"]))
                assert await dead_letters.purge(await found(dead_letters, wanted)) == 2
    assert sorted(listed) == sorted(stored.dead_letter.key for stored in everything)


async def test_dead_letters_are_filtered_by_their_fields(
    broker: Broker, dead_letters: DeadLetters
) -> None:
    await fail(broker, "Broken PDF", document("a"))
    await fail(broker, "Broken PDF", document("b", tenant="t"))
    await fail(broker, "no text", document("c"))
    for wanted, expected in [
        (DeadLetterFilter(), {"a", "b", "c"}),
        (DeadLetterFilter(reason="pdf"), {"a", "b"}),
        (DeadLetterFilter(reason="pdf", tenant="t"), {"b"}),
        (DeadLetterFilter(frozenset("ac"), tenant=""), {"a", "c"}),
    ]:
        assert {s.dead_letter.doc_id for s in await found(dead_letters, wanted)} == expected


async def test_each_requeued_document_is_a_job_of_its_own_and_counted(
    broker: Broker, dead_letters: DeadLetters
) -> None:
    await fail(broker, "broken", document("a"), document("b"))
    stored = await found(dead_letters, DeadLetterFilter())
    assert await dead_letters.requeue(stored, "second") == 2
    assert await dead_letters.requeue(stored, "second") == 0
    depth = await broker.queue.depth()
    assert (depth.ready, depth.dead_letters) == (2, 0)
    assert (await broker.queue.submission("second")).accepted == 2

    indexed = BatchReport(DocumentCounts(indexed=1))
    tried = [await ack(broker, indexed), await ack(broker, indexed)]
    assert sorted(d.doc_id for batch in tried for d in batch.documents) == ["a", "b"]
    assert (await broker.queue.submission("second")).complete
    assert (await broker.queue.depth()).queued_bytes == 0


async def test_a_dead_letter_that_changed_meanwhile_is_skipped(
    broker: Broker, dead_letters: DeadLetters
) -> None:
    await fail(broker, "old", document("a", version=1))
    stored = await found(dead_letters, DeadLetterFilter())
    await fail(broker, "new", document("a", version=2))
    assert await dead_letters.purge(stored) == 0
    assert await dead_letters.requeue(stored, "second") == 0
    assert [s.dead_letter.reason for s in await found(dead_letters, DeadLetterFilter())] == ["new"]


async def test_a_dead_letter_requeued_twice_at_once_is_queued_once(
    broker: Broker, dead_letters: DeadLetters
) -> None:
    await fail(broker, "broken", document("a"))
    stored = await found(dead_letters, DeadLetterFilter())
    counts = await asyncio.gather(
        dead_letters.requeue(stored, "x"), dead_letters.requeue(stored, "y")
    )
    assert sorted(counts) == [0, 1]
    assert (await broker.queue.depth()).ready == 1


async def test_purged_dead_letters_are_deleted(broker: Broker, dead_letters: DeadLetters) -> None:
    await fail(broker, "broken", document("a"), document("b"))
    assert (
        await dead_letters.purge(await found(dead_letters, DeadLetterFilter(frozenset("a")))) == 1
    )
    assert [s.dead_letter.doc_id for s in await found(dead_letters, DeadLetterFilter())] == ["b"]


async def test_a_job_that_cannot_be_decoded_is_requeued_unchanged(
    broker: Broker, dead_letters: DeadLetters
) -> None:
    dead_letter = DeadLetter(
        key="odd",
        doc_id="odd",
        collection="documents",
        reason="?",
        payload=b"\x80",
        tries=5,
        failed_ms=1,
    )
    await broker.queue.offer([IngestBatch("s", (document("a"),))])
    await ack(broker, BatchReport(dead=(dead_letter,)))
    assert await dead_letters.requeue(await found(dead_letters, DeadLetterFilter()), "second") == 1
    [claimed] = await take(lease_queue(broker))
    assert (claimed.job_id, claimed.payload, claimed.failures) == ("odd", b"\x80", 0)
