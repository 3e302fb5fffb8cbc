"""Random operations give the same points, pages, counts and scores as qdrant-client's local mode.

Only of operations of which the local mode is known to do what a server does.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_client import AsyncQdrantClient, models

from tests.conformance.conftest import Create
from tests.conformance.data import (
    ALL,
    BOOL,
    INTEGER,
    KEYWORD,
    Id,
    IndexParams,
    equals,
    has_id,
    is_empty,
    is_null,
    none_of,
    one_of,
    within,
)

EXAMPLES: Final = 30
IDS: Final[list[Id]] = [1, 2, 3, 2**40, "8c5d7a31-4c43-4a0e-9b0f-0a36e2a4a8f1", str(2**0) * 32]
INDEXES: Final[dict[str, IndexParams]] = {
    "s": KEYWORD,
    "n": INTEGER,
    "b": BOOL,
    "r.version": INTEGER,
}
"""Half of the collections have them."""

WORDS: Final = {"bm25": models.SparseVectorParams()}
"""Without IDF: until it optimizes, Qdrant counts the words of points that were deleted."""

texts = st.sampled_from(["tide", "Ebb", "é", ""])
numbers = st.sampled_from([-1, 0, 1, 2**53 + 1, 2**63 - 1])
versions = st.integers(0, 4)
ids = st.sampled_from(IDS)
some_ids = st.lists(ids, max_size=4, unique=True)
payloads = st.fixed_dictionaries(
    {},
    optional={
        "s": texts | st.lists(texts, max_size=3) | st.none(),
        "n": numbers | st.lists(numbers, max_size=3) | st.none(),
        "b": st.booleans() | st.none(),
        "version": versions,
        "r": st.fixed_dictionaries({"version": versions}) | st.none(),
    },
)
components = st.integers(-4, 4).map(float)
dense = st.lists(components, min_size=3, max_size=3).filter(any)
sparse = st.dictionaries(st.integers(0, 5), st.integers(1, 4).map(float), max_size=4).map(
    lambda weights: models.SparseVector(indices=list(weights), values=list(weights.values()))
)
points = st.builds(
    lambda id_, payload, meaning, words: models.PointStruct(
        id=id_, payload=payload, vector={"": meaning, "bm25": words}
    ),
    ids,
    payloads,
    dense,
    sparse,
)
conditions = st.one_of(
    st.builds(equals, st.just("s"), texts),
    st.builds(equals, st.just("n"), numbers),
    st.builds(equals, st.just("b"), st.booleans()),
    st.builds(equals, st.just("r.version"), versions),
    st.builds(one_of, st.just("s"), st.lists(texts, min_size=1, max_size=3)),
    st.builds(one_of, st.just("n"), st.lists(numbers, min_size=1, max_size=3)),
    st.builds(none_of, st.just("s"), st.lists(texts, min_size=1, max_size=2)),
    st.builds(lambda low: within("version", gte=low), versions),
    st.builds(lambda high: within("version", lt=high), versions),
    st.builds(lambda high: within("r.version", lte=high), versions),
    some_ids.map(lambda chosen: has_id(*chosen)),
    st.sampled_from(["s", "n", "b", "r", "r.version"]).map(is_empty),
    st.sampled_from(["s", "n", "b", "r"]).map(is_null),
)


def _filters(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[models.Filter]:
    some = st.lists(inner, min_size=1, max_size=3)
    least = st.builds(
        lambda conditions, count: models.MinShould(conditions=conditions, min_count=count),
        some,
        st.integers(1, 3),
    )
    return st.builds(
        models.Filter,
        must=st.none() | some,
        should=st.none() | some,
        must_not=st.none() | some,
        min_should=st.none() | least,
    )


filters = _filters(conditions | _filters(conditions))
upserts = st.builds(
    lambda chosen, only: models.UpsertOperation(
        upsert=models.PointsList(points=chosen, update_filter=only)
    ),
    st.lists(points, min_size=1, max_size=4, unique_by=lambda point: point.id),
    st.none() | filters,
)
by_mode = st.builds(
    lambda chosen, mode: models.UpsertOperation(
        upsert=models.PointsList(points=chosen, update_mode=mode)
    ),
    st.lists(points, min_size=1, max_size=3, unique_by=lambda point: point.id),
    st.sampled_from(list(models.UpdateMode)),
)
set_payloads = st.builds(
    lambda payload, only: models.SetPayloadOperation(
        set_payload=models.SetPayload(payload=payload, filter=only)
    ),
    payloads,
    filters,
)
overwrites = st.builds(
    lambda payload, only: models.OverwritePayloadOperation(
        overwrite_payload=models.SetPayload(payload=payload, filter=only)
    ),
    payloads,
    filters,
)
deletions = st.one_of(
    some_ids.filter(bool).map(lambda chosen: models.PointIdsList(points=chosen)),
    filters.map(lambda only: models.FilterSelector(filter=only)),
).map(lambda chosen: models.DeleteOperation(delete=chosen))
batches = st.lists(
    st.one_of(upserts, by_mode, set_payloads, overwrites, deletions), min_size=1, max_size=8
)


@dataclass(frozen=True)
class Collection:
    """A collection, to be compared with another."""

    client: AsyncQdrantClient
    name: str

    async def contents(self) -> list[tuple[Any, ...]]:
        records, _ = await self.client.scroll(self.name, limit=ALL, with_vectors=True)
        return [(r.id, r.payload or {}, _vectors(r.vector)) for r in records]

    async def matching(self, only: models.Filter, size: int) -> tuple[list[list[Any]], int]:
        """Return the ids of the pages, and the count, of the points that match."""
        found, offset = [], None
        while True:
            records, offset = await self.client.scroll(self.name, only, limit=size, offset=offset)
            found.append([record.id for record in records])
            if offset is None:
                return found, (await self.client.count(self.name, only)).count

    async def nearest(self, query: Any, using: str | None, only: models.Filter) -> dict[Any, float]:
        found = await self.client.query_points(
            self.name, query, using=using, query_filter=only, limit=ALL
        )
        scores = [hit.score for hit in found.points]
        assert scores == sorted(scores, reverse=True)
        return {hit.id: hit.score for hit in found.points}

    async def restart(self) -> None:
        await self.client.delete(self.name, models.Filter(), wait=True)


def _vectors(stored: Any) -> dict[str, Any]:
    """Return vectors in a form that does not depend on the order of indices, nor on rounding."""
    words = stored.get("bm25")
    weights = {} if words is None else dict(zip(words.indices, words.values, strict=True))
    return {"": [round(x, 5) for x in stored[""]], "bm25": weights}


@pytest.fixture(scope="module", params=["indexed", "plain"])
async def both(
    request: pytest.FixtureRequest, client: AsyncQdrantClient, create_shared: Create
) -> AsyncIterator[tuple[Collection, Collection]]:
    """The collection under test, and one of the local mode."""
    vectors = models.VectorParams(size=3, distance=models.Distance.COSINE)
    name = await create_shared(vectors_config=vectors, sparse_vectors_config=WORDS)
    for field, schema in INDEXES.items() if request.param == "indexed" else ():
        await client.create_payload_index(name, field, schema, wait=True)
    local = AsyncQdrantClient(":memory:")
    await local.create_collection(name, vectors, sparse_vectors_config=WORDS)
    yield Collection(client, name), Collection(local, name)
    await local.close()


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    history=st.lists(batches, min_size=1, max_size=3),
    questions=st.lists(filters, min_size=1, max_size=4),
    direction=dense,
    words=sparse,
    size=st.integers(1, 4),
)
async def test_random_histories_end_the_same(
    both: tuple[Collection, Collection],
    history: list[list[models.UpdateOperation]],
    questions: list[models.Filter],
    direction: list[float],
    words: models.SparseVector,
    size: int,
) -> None:
    for collection in both:
        await collection.restart()
    for operations in history:
        for collection in both:
            await collection.client.batch_update_points(collection.name, operations, wait=True)
        tested, known = [await collection.contents() for collection in both]
        assert tested == known
    for only in questions:
        tested_ids, known_ids = await asyncio.gather(*(c.matching(only, size) for c in both))
        assert tested_ids == known_ids
        for query, using in ((direction, None), (words, "bm25")):
            tested_scores, known_scores = [await c.nearest(query, using, only) for c in both]
            assert tested_scores == pytest.approx(known_scores, abs=1e-5)
