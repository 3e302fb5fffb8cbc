"""Batching: each document is in one job, in its tenant's order, and jobs are bounded."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ingestq.client import batching
from ingestq.client.batching import Packing, round_trips
from ingestq.core.documents import Document, Lane, with_collection
from ingestq.core.jobs import IngestBatch
from ingestq.core.results import FailedDocument

SIZES = st.sampled_from([1, 10, 1000, batching.JOB_BYTES // 3, batching.JOB_BYTES + 1])


def unexpected(failed: FailedDocument) -> None:
    raise AssertionError(failed)


PACKING = Packing("s", Lane.BULK, unexpected, "notes")


def packed(documents: Sequence[Document]) -> list[list[IngestBatch]]:
    async def each() -> AsyncIterator[Document]:
        for document in documents:
            yield document

    async def collect() -> list[list[IngestBatch]]:
        return [trip async for trip in round_trips(each(), PACKING)]

    return asyncio.run(collect())


def size(document: Document) -> int:
    return len(msgspec.msgpack.encode(document))


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([None, "x"]), SIZES), max_size=200)
)
def test_every_document_is_in_exactly_one_job_of_its_tenant_and_collection(
    made: list[tuple[str, str | None, int]],
) -> None:
    documents = [
        Document(
            doc_id=str(n),
            version=1,
            source="s",
            tenant=tenant,
            text="x" * length,
            collection=collection,
        )
        for n, (tenant, collection, length) in enumerate(made)
    ]
    trips = packed(documents)
    batches = [batch for trip in trips for batch in trip]
    for tenant, named in itertools.product("abc", (None, "x")):
        owner = ("notes" if named is None else named, tenant)
        queued = [d for b in batches if (b.collection, b.tenant) == owner for d in b.documents]
        wanted = [d for d in documents if (d.collection, d.tenant) == (named, tenant)]
        assert queued == [with_collection("notes", document) for document in wanted]
    for trip in trips:
        assert 0 < len(trip) <= batching.ROUND_TRIP_JOBS
        total = 0
        for batch in trip:
            sizes = [size(document) for document in batch.documents]
            assert len(sizes) == 1 or sum(sizes) <= batching.JOB_BYTES
            assert len(sizes) <= batching.JOB_DOCUMENTS
            total += sum(sizes)
        assert len(trip) == 1 or total <= batching.ROUND_TRIP_BYTES


def test_memory_is_bounded_with_many_tenants() -> None:
    tenants = batching.OPEN_JOBS * 3
    documents = [
        Document(doc_id=str(n), version=1, source="s", tenant=str(n % tenants), text="x")
        for n in range(2 * tenants)
    ]
    trips = packed(documents)
    queued = sorted(int(d.doc_id) for trip in trips for batch in trip for d in batch.documents)
    assert queued == list(range(2 * tenants))
