"""Reading without a query: page by page, ordered, by id, counted, and by facets."""

import uuid
from typing import Any, Final

import pytest
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from tests.conformance.conftest import Create
from tests.conformance.data import (
    BOOL,
    INTEGER,
    KEYWORD,
    ONES,
    SPARSE,
    Id,
    equals,
    has_id,
    must,
    must_not,
    payloads,
    point,
    within,
    write,
)

IDS: Final[list[Id]] = [
    0,
    3,
    20,
    100,
    2**32,
    2**64 - 1,
    *sorted(str(uuid.uuid5(uuid.NAMESPACE_URL, str(i))) for i in range(5)),
]
"""In the order of a scroll: first the numbers, then the UUIDs."""


async def pages(
    client: AsyncQdrantClient, name: str, size: int, only: models.Filter | None = None
) -> list[list[Id]]:
    found: list[list[Id]] = []
    offset: models.ExtendedPointId | None = None
    while True:
        records, offset = await client.scroll(
            name, only, limit=size, offset=offset, with_payload=False
        )
        found.append([record.id for record in records])
        if offset is None:
            return found
        assert len(records) == size


@pytest.fixture
async def eleven(client: AsyncQdrantClient, name: str) -> str:
    """A collection with the points `IDS`, written in another order."""
    for id_ in reversed(IDS):
        await write(client, name, point(id_, {"even": IDS.index(id_) % 2 == 0}))
    return name


async def test_pages_are_in_the_order_of_ids(client: AsyncQdrantClient, eleven: str) -> None:
    for size in (1, 2, 5, len(IDS) - 1, len(IDS), 100):
        found = await pages(client, eleven, size)
        assert [id_ for page in found for id_ in page] == IDS
        assert all(found), "the last page is not empty"
    found = await pages(client, eleven, 2, must(equals("even", True)))
    assert found == [[0, 20], [2**32, IDS[6]], [IDS[8], IDS[10]]]
    assert await pages(client, eleven, 2, must(equals("even", 3))) == [[]]


async def test_an_offset_names_the_first_point_of_a_page(
    client: AsyncQdrantClient, eleven: str
) -> None:
    records, following = await client.scroll(eleven, limit=3, offset=3)
    assert ([record.id for record in records], following) == ([3, 20, 100], 2**32)
    records, _ = await client.scroll(eleven, limit=1, offset=4)
    assert [record.id for record in records] == [20], "although there is no point 4"


async def test_pages_while_points_are_deleted(client: AsyncQdrantClient, name: str) -> None:
    await write(client, name, *(point(i) for i in range(10)))
    read: list[Id] = []
    offset: models.ExtendedPointId | None = None
    while True:
        records, offset = await client.scroll(name, limit=3, offset=offset)
        read += [record.id for record in records]
        await client.delete(name, [record.id for record in records], wait=True)
        if offset is None:
            break
    assert read == list(range(10))
    assert await payloads(client, name) == {}


async def test_a_scroll_without_a_limit_returns_ten(client: AsyncQdrantClient, eleven: str) -> None:
    records, following = await client.scroll(eleven)
    assert (len(records), following) == (10, IDS[10])


@pytest.fixture
async def ordered(client: AsyncQdrantClient, name: str) -> str:
    """A collection with numbers to order by, in ``n``."""
    await client.create_payload_index(name, "n", INTEGER, wait=True)
    numbers = {1: 5, 2: -3, 3: 2**50 + 1, 4: 2**50, 5: 0, 6: "7", 7: None}
    await write(client, name, *(point(i, {"n": n}) for i, n in numbers.items()), point(8))
    return name


@pytest.mark.parametrize(
    ("order", "limit", "expected"),
    [
        ("n", 10, [2, 5, 1, 4, 3]),
        (models.OrderBy(key="n", direction=models.Direction.DESC), 10, [3, 4, 1, 5, 2]),
        (models.OrderBy(key="n", direction=models.Direction.DESC), 1, [3]),
        (models.OrderBy(key="n", start_from=0), 2, [5, 1]),
        (models.OrderBy(key="n", start_from=5, direction=models.Direction.DESC), 10, [1, 5, 2]),
    ],
)
async def test_points_are_ordered_by_a_number(
    client: AsyncQdrantClient, ordered: str, order: models.OrderBy, limit: int, expected: list[int]
) -> None:
    records, following = await client.scroll(ordered, order_by=order, limit=limit)
    assert [record.id for record in records] == expected
    assert following is None
    assert [record.order_value for record in records] == [(r.payload or {})["n"] for r in records]


async def test_ordered_points_may_be_filtered(client: AsyncQdrantClient, ordered: str) -> None:
    largest = models.OrderBy(key="n", direction=models.Direction.DESC)
    only = must(within("n", lte=2**50))
    records, _ = await client.scroll(
        ordered, only, order_by=largest, limit=1, with_payload=["n", "m"]
    )
    assert [(record.id, record.payload) for record in records] == [(4, {"n": 2**50})]
    records, _ = await client.scroll(ordered, must(equals("n", 1)), order_by=largest)
    assert records == []


async def test_only_what_has_a_range_index_can_be_ordered(
    client: AsyncQdrantClient, name: str
) -> None:
    lookup_only = models.IntegerIndexParams(
        type=models.IntegerIndexType.INTEGER, lookup=True, range=False
    )
    await client.create_payload_index(name, "exact", lookup_only, wait=True)
    for key in ("none", "exact"):
        with pytest.raises(UnexpectedResponse, match="No range index for `order_by`") as refused:
            await client.scroll(name, order_by=key)
        assert refused.value.status_code == 400
    await client.create_payload_index(name, "n", INTEGER, wait=True)
    with pytest.raises(UnexpectedResponse, match="offset") as refused:
        await client.scroll(name, order_by="n", offset=1)
    assert refused.value.status_code == 400


async def test_a_large_answer_is_complete(client: AsyncQdrantClient, name: str) -> None:
    texts = {id_: str(id_) * 8000 for id_ in range(100, 300)}
    assert sum(map(len, texts.values())) > 4_000_000
    await write(client, name, *(point(id_, {"text": text}) for id_, text in texts.items()))
    records, following = await client.scroll(name, limit=199)
    assert following == 299
    rest = await client.retrieve(name, [299])
    assert {r.id: r.payload and r.payload["text"] for r in (*records, *rest)} == texts
    by_id = await client.retrieve(name, list(texts))
    assert [r.payload and r.payload["text"] for r in by_id] == list(texts.values())
    hits = (await client.query_points(name, ONES, limit=200)).points
    assert {hit.id: hit.payload and hit.payload["text"] for hit in hits} == texts


async def test_points_that_are_missing_are_left_out(client: AsyncQdrantClient, eleven: str) -> None:
    asked = [IDS[7], 999, 0, str(uuid.UUID(int=5))]
    records = await client.retrieve(eleven, asked)
    assert {record.id for record in records} == {IDS[7], 0}
    assert await client.retrieve(eleven, [999]) == []


async def test_parts_of_points_are_returned_as_asked(
    client: AsyncQdrantClient, create: Create
) -> None:
    name = await create(sparse_vectors_config=SPARSE)
    words = models.SparseVector(indices=[7, 2], values=[0.5, 2.0])
    payload: dict[str, Any] = {"a": 1, "b": {"c": 2, "d": [{"e": 3, "f": 4}]}}
    await write(client, name, point(1, payload, {"": [1.0, 2.0, 3.0, 4.0], "bm25": words}))

    async def read(**parts: Any) -> models.Record:
        [record] = await client.retrieve(name, [1], **parts)
        [scrolled], _ = await client.scroll(name, **parts)
        assert scrolled == record
        return record

    assert (await read()).vector is None
    assert (await read()).payload == payload
    assert not (await read(with_payload=False)).payload
    assert (await read(with_payload=["b.c", "none"])).payload == {"b": {"c": 2}}
    assert (await read(with_payload=["b.d[].e"])).payload == {"b": {"d": [{"e": 3}]}}
    without = models.PayloadSelectorExclude(exclude=["b.d", "none"])
    assert (await read(with_payload=without)).payload == {"a": 1, "b": {"c": 2}}

    both = (await read(with_vectors=True)).vector
    assert isinstance(both, dict)
    assert both[""] == [1.0, 2.0, 3.0, 4.0]
    sparse = both["bm25"]
    assert isinstance(sparse, models.SparseVector)
    assert dict(zip(sparse.indices, sparse.values, strict=True)) == {2: 2.0, 7: 0.5}
    one = (await read(with_vectors=[""])).vector
    assert (one[""] if isinstance(one, dict) else one) == [1.0, 2.0, 3.0, 4.0]
    assert (await read(with_vectors=["bm25"])).vector == {"bm25": sparse}


async def test_an_unnamed_vector_comes_back_as_a_list(client: AsyncQdrantClient, name: str) -> None:
    await write(client, name, point(1, vector=[0.1, 0.2, 0.3, 0.4]))
    [record] = await client.retrieve(name, [1], with_vectors=True)
    assert record.vector == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=1e-7), "of 32 bits"


async def test_points_are_counted(client: AsyncQdrantClient, eleven: str) -> None:
    assert (await client.count(eleven)).count == len(IDS)
    assert (await client.count(eleven, must(has_id(0, 3, 999)))).count == 2
    assert (await client.count(eleven, must_not(equals("even", True)))).count == 5
    assert (await client.count(eleven, must(equals("even", 1)), exact=True)).count == 0
    info = await client.get_collection(eleven)
    assert info.points_count == len(IDS)


async def test_facets_count_values(client: AsyncQdrantClient, name: str) -> None:
    for field, schema in (("s", KEYWORD), ("n", INTEGER), ("b", BOOL)):
        await client.create_payload_index(name, field, schema, wait=True)
    values = ["a"] * 4 + [["b", "a"]] * 2 + [["c", "c"]] + [None]
    await write(
        client, name, *(point(i, {"s": s, "n": i // 6, "b": i < 3}) for i, s in enumerate(values))
    )

    async def facet(key: str, only: models.Filter | None = None, limit: int = 10) -> list[Any]:
        found = await client.facet(name, key, facet_filter=only, limit=limit, exact=True)
        return [(hit.value, hit.count) for hit in found.hits if hit.count]

    assert await facet("s") == [("a", 6), ("b", 2), ("c", 1)]
    assert await facet("s", limit=1) == [("a", 6)]
    assert await facet("s", must(equals("n", 1))) == [("c", 1)]
    assert await facet("n") == [(0, 6), (1, 2)]
    assert await facet("b") == [(False, 5), (True, 3)]
    await client.delete(name, must(equals("s", "b")), wait=True)
    assert await facet("s") == [("a", 4), ("c", 1)]


async def test_a_facet_needs_an_index(client: AsyncQdrantClient, name: str) -> None:
    with pytest.raises(UnexpectedResponse) as refused:
        await client.facet(name, "s")
    assert refused.value.status_code == 400
