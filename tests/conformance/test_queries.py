"""What a search finds and how it is scored: dense, sparse, fused, and at random."""

import math
from collections.abc import Sequence
from typing import Any, Final

import httpx
import pytest
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from tests.conformance.conftest import Create
from tests.conformance.data import SPARSE, equals, must, must_not, point, within, write

COSINE: Final = models.VectorParams(size=2, distance=models.Distance.COSINE)
DIRECTIONS: Final = {1: [1.0, 0.0], 2: [3.0, 4.0], 3: [0.0, 2.0], 4: [-1.0, 0.0]}
WORDS: Final = {1: {10: 1.0}, 2: {10: 2.0, 20: 1.0}, 3: {20: 1.5, 30: 0.5}, 4: {10: 0.5}}
"""Weights of words: 10 is in three points, 20 in two, 30 in one."""


def sparse(weights: dict[int, float]) -> models.SparseVector:
    return models.SparseVector(indices=list(weights), values=list(weights.values()))


def scores(response: models.QueryResponse) -> list[tuple[models.ExtendedPointId, float]]:
    return [(hit.id, hit.score) for hit in response.points]


def approximately(expected: dict[int, float]) -> list[Any]:
    return [(id_, pytest.approx(score, abs=1e-6)) for id_, score in expected.items()]


@pytest.fixture
async def hybrid(client: AsyncQdrantClient, create: Create) -> str:
    """Four points with `DIRECTIONS` and `WORDS`."""
    name = await create(vectors_config=COSINE, sparse_vectors_config=SPARSE)
    await write(
        client,
        name,
        *(
            point(i, {"n": i}, {"": DIRECTIONS[i], "bm25": sparse(WORDS[i])})
            for i in sorted(DIRECTIONS)
        ),
    )
    return name


async def test_the_nearest_directions_come_first(client: AsyncQdrantClient, hybrid: str) -> None:
    found = await client.query_points(hybrid, [2.0, 0.0], limit=10)
    assert scores(found) == approximately({1: 1.0, 2: 0.6, 3: 0.0, 4: -1.0})
    assert [hit.payload for hit in found.points] == [{"n": i} for i in (1, 2, 3, 4)]
    assert all(hit.vector is None for hit in found.points)
    some = await client.query_points(hybrid, [2.0, 0.0], limit=2, offset=1, with_payload=False)
    assert scores(some) == approximately({2: 0.6, 3: 0.0})
    assert not any(hit.payload for hit in some.points)


async def test_parts_of_hits_are_returned_as_asked(client: AsyncQdrantClient, hybrid: str) -> None:
    found = await client.query_points(
        hybrid, [0.0, 1.0], limit=1, with_payload=["m"], with_vectors=["bm25"]
    )
    [hit] = found.points
    assert (hit.id, hit.payload) == (3, {})
    assert isinstance(hit.vector, dict)
    assert list(hit.vector) == ["bm25"]


async def test_vectors_are_stored_at_length_one(client: AsyncQdrantClient, hybrid: str) -> None:
    [record] = await client.retrieve(hybrid, [2], with_vectors=[""])
    dense = record.vector[""] if isinstance(record.vector, dict) else record.vector
    assert dense == pytest.approx([0.6, 0.8])


async def test_a_filter_and_a_threshold_limit_what_is_found(
    client: AsyncQdrantClient, hybrid: str
) -> None:
    found = await client.query_points(
        hybrid, [1.0, 0.0], query_filter=must(within("n", gte=2)), score_threshold=-0.5
    )
    assert scores(found) == approximately({2: 0.6, 3: 0.0})
    nothing = await client.query_points(hybrid, [1.0, 0.0], query_filter=must(equals("n", 9)))
    assert nothing.points == []


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        (models.Distance.DOT, {2: 3.0, 1: 1.0, 3: 0.0, 4: -1.0}),
        (models.Distance.EUCLID, {1: 0.0, 4: 2.0, 3: math.sqrt(5), 2: math.sqrt(20)}),
        (models.Distance.MANHATTAN, {1: 0.0, 4: 2.0, 3: 3.0, 2: 6.0}),
    ],
)
async def test_other_distances(
    client: AsyncQdrantClient,
    create: Create,
    distance: models.Distance,
    expected: dict[int, float],
) -> None:
    name = await create(vectors_config=models.VectorParams(size=2, distance=distance))
    await write(client, name, *(point(i, vector=v) for i, v in DIRECTIONS.items()))
    found = await client.query_points(name, [1.0, 0.0], limit=10)
    assert scores(found) == approximately(expected)


def idf(points_with: int, points: int = len(WORDS)) -> float:
    return math.log((points - points_with + 0.5) / (points_with + 0.5) + 1)


async def test_rare_words_weigh_more(client: AsyncQdrantClient, hybrid: str) -> None:
    query = sparse({10: 1.0, 20: 1.0, 77: 1.0})
    found = await client.query_points(hybrid, query, using="bm25", limit=10)
    often, seldom = idf(3), idf(2)
    assert scores(found) == approximately(
        {2: 2 * often + seldom, 3: 1.5 * seldom, 1: often, 4: 0.5 * often}
    )


async def test_words_that_no_point_has_find_nothing(client: AsyncQdrantClient, hybrid: str) -> None:
    for query in (sparse({77: 1.0}), sparse({})):
        assert (await client.query_points(hybrid, query, using="bm25")).points == []


async def test_the_weight_of_a_word_follows_the_points(
    client: AsyncQdrantClient, hybrid: str
) -> None:
    more = [point(i, vector={"": [1.0, 0.0], "bm25": sparse({40: 1.0})}) for i in range(5, 9)]
    await write(client, hybrid, *more)
    found = await client.query_points(hybrid, sparse({30: 1.0}), using="bm25")
    assert scores(found) == approximately({3: 0.5 * idf(1, 8)})


async def test_sparse_hits_are_filtered(client: AsyncQdrantClient, hybrid: str) -> None:
    found = await client.query_points(
        hybrid, sparse({10: 1.0}), using="bm25", query_filter=must_not(equals("n", 2))
    )
    assert scores(found) == approximately({1: idf(3), 4: 0.5 * idf(3)}), "IDF is of all points"


async def test_points_without_words_or_without_a_direction(
    client: AsyncQdrantClient, create: Create
) -> None:
    name = await create(vectors_config=COSINE, sparse_vectors_config=SPARSE)
    await write(
        client,
        name,
        point(1, vector={"": [1.0, 0.0]}),
        point(2, vector={"bm25": sparse({10: 1.0})}),
        point(3, vector={"": [1.0, 1.0], "bm25": sparse({})}),
    )
    assert (await client.count(name)).count == 3
    dense = await client.query_points(name, [1.0, 0.0])
    assert [hit.id for hit in dense.points] == [1, 3]
    words = await client.query_points(name, sparse({10: 1.0}), using="bm25")
    assert [hit.id for hit in words.points] == [2]


def fused(k: int, *rankings: Sequence[int]) -> dict[int, float]:
    """Return the scores of points by reciprocal rank, best first."""
    total: dict[int, float] = {}
    for ranking in rankings:
        for rank, id_ in enumerate(ranking):
            total[id_] = total.get(id_, 0.0) + 1 / (k + rank)
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def prefetches(limit: int = 10, only: models.Filter | None = None) -> list[models.Prefetch]:
    return [
        models.Prefetch(query=[0.0, 1.0], limit=limit, filter=only),
        models.Prefetch(query=sparse({10: 1.0}), using="bm25", limit=limit, filter=only),
    ]


@pytest.mark.parametrize("k", [1, 2, 60])
async def test_two_rankings_are_fused_by_rank(
    client: AsyncQdrantClient, hybrid: str, k: int
) -> None:
    by_rank = models.RrfQuery(rrf=models.Rrf(k=k))
    # Points 1 and 4 are equally far from the query of the first, so only the best two take part.
    found = await client.query_points(hybrid, by_rank, prefetch=prefetches(2), limit=10)
    assert sorted(scores(found)) == sorted(approximately(fused(k, [3, 2], [2, 1])))
    assert [hit.score for hit in found.points] == sorted(
        (hit.score for hit in found.points), reverse=True
    )


async def test_fusion_uses_a_k_of_two_by_default(client: AsyncQdrantClient, hybrid: str) -> None:
    expected = fused(2, [3, 2], [2, 1])
    for query in (models.FusionQuery(fusion=models.Fusion.RRF), models.RrfQuery(rrf=models.Rrf())):
        found = await client.query_points(hybrid, query, prefetch=prefetches(2), limit=1)
        assert scores(found) == approximately({2: expected[2]})


async def test_each_prefetch_is_filtered(client: AsyncQdrantClient, hybrid: str) -> None:
    only = must(within("n", gte=3))
    by_rank = models.RrfQuery(rrf=models.Rrf(k=2))
    found = await client.query_points(hybrid, by_rank, prefetch=prefetches(only=only), limit=10)
    assert scores(found) == approximately({4: 1 / 3 + 1 / 2, 3: 1 / 2})


async def test_a_prefetch_may_be_ranked_again(client: AsyncQdrantClient, hybrid: str) -> None:
    words = models.Prefetch(query=sparse({10: 1.0}), using="bm25", limit=2)
    found = await client.query_points(hybrid, [1.0, 0.0], prefetch=words, limit=10)
    assert scores(found) == approximately({1: 1.0, 2: 0.6})


async def test_named_vectors(client: AsyncQdrantClient, create: Create) -> None:
    name = await create(
        vectors_config={
            "meaning": COSINE,
            "other": models.VectorParams(size=3, distance=models.Distance.DOT),
        },
        sparse_vectors_config=SPARSE,
    )
    await write(
        client,
        name,
        point(1, vector={"meaning": [1.0, 0.0], "bm25": sparse({1: 1.0})}),
        point(2, vector={"meaning": [0.0, 1.0], "other": [1.0, 2.0, 3.0]}),
        point(3, vector={}),
    )
    found = await client.query_points(name, [1.0, 0.0], using="meaning", with_vectors=["meaning"])
    assert [(hit.id, hit.vector) for hit in found.points] == [
        (1, {"meaning": [1.0, 0.0]}),
        (2, {"meaning": [0.0, 1.0]}),
    ]
    found = await client.query_points(name, [1.0, 1.0, 1.0], using="other")
    assert scores(found) == approximately({2: 6.0})
    with pytest.raises(UnexpectedResponse, match=r"(?i)vector") as refused:
        await client.query_points(name, [1.0, 0.0])
    assert refused.value.status_code == 400
    [record] = await client.retrieve(name, [2], with_vectors=True)
    assert record.vector == {"meaning": [0.0, 1.0], "other": [1.0, 2.0, 3.0]}


async def test_search_parameters_are_accepted(client: AsyncQdrantClient, hybrid: str) -> None:
    quantized = models.SearchParams(
        quantization=models.QuantizationSearchParams(rescore=True, oversampling=2.0)
    )
    found = await client.query_points(hybrid, [1.0, 0.0], search_params=quantized, limit=1)
    assert scores(found) == approximately({1: 1.0})
    exact = models.SearchParams(exact=True, hnsw_ef=64)
    found = await client.query_points(hybrid, [1.0, 0.0], search_params=exact, limit=1)
    assert scores(found) == approximately({1: 1.0})


@pytest.mark.parametrize(
    "quantization",
    [
        models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
        ),
        models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True)),
    ],
    ids=["scalar", "binary"],
)
async def test_quantized_vectors_are_ranked_by_the_full_ones(
    client: AsyncQdrantClient, create: Create, quantization: models.QuantizationConfig
) -> None:
    name = await create(vectors_config=COSINE, quantization_config=quantization)
    await write(client, name, *(point(i, vector=v) for i, v in DIRECTIONS.items()))
    rescored = models.SearchParams(
        quantization=models.QuantizationSearchParams(rescore=True, oversampling=4.0)
    )
    found = await client.query_points(name, [1.0, 0.0], search_params=rescored, limit=4)
    assert scores(found) == approximately({1: 1.0, 2: 0.6, 3: 0.0, 4: -1.0})


@pytest.mark.parametrize("nearest", [1, {"nearest": 1}], ids=["bare", "nearest"])
async def test_a_query_by_a_point_leaves_that_point_out(
    http: httpx.AsyncClient, hybrid: str, nearest: Any
) -> None:
    points = f"/collections/{hybrid}/points"
    wanted = {"query": nearest, "limit": 2}
    answer = await http.post(f"{points}/query", json=wanted)
    assert [hit["id"] for hit in answer.json()["result"]["points"]] == [2, 3]
    answer = await http.post(f"{points}/query/batch", json={"searches": [wanted]})
    assert [hit["id"] for hit in answer.json()["result"][0]["points"]] == [2, 3]
    prefetch = {"prefetch": [wanted], "query": {"fusion": "rrf"}, "limit": 4}
    answer = await http.post(f"{points}/query", json=prefetch)
    assert [hit["id"] for hit in answer.json()["result"]["points"]] == [2, 3]


async def test_hits_that_differ_from_each_other(client: AsyncQdrantClient, hybrid: str) -> None:
    different = models.NearestQuery(nearest=[1.0, 0.0], mmr=models.Mmr(diversity=1.0))
    found = await client.query_points(hybrid, different, limit=4)
    assert [hit.id for hit in found.points][:2] == [1, 4]
    assert all(hit.vector is None for hit in found.points)
    found = await client.query_points(hybrid, different, limit=4, with_vectors=["bm25"])
    assert found.points[0].vector == {"bm25": sparse(WORDS[1])}
    by_id = models.NearestQuery(nearest=1, mmr=models.Mmr(diversity=0.0))
    found = await client.query_points(hybrid, by_id, limit=4)
    assert [hit.id for hit in found.points] == [2, 3, 4]


async def test_each_prefetch_needs_a_weight(client: AsyncQdrantClient, hybrid: str) -> None:
    weighted = models.RrfQuery(rrf=models.Rrf(weights=[1.0]))
    with pytest.raises(UnexpectedResponse, match="weights") as refused:
        await client.query_points(hybrid, weighted, prefetch=prefetches())
    assert refused.value.status_code in (400, 422)


async def test_a_random_sample(client: AsyncQdrantClient, name: str) -> None:
    await write(client, name, *(point(i, {"n": i % 2}) for i in range(40)))
    anything = models.SampleQuery(sample=models.Sample.RANDOM)
    drawn = set()
    for _ in range(10):
        found = await client.query_points(name, anything, limit=4, with_payload=["n"])
        ids = [hit.id for hit in found.points]
        assert len(set(ids)) == 4
        assert all(hit.payload == {"n": int(hit.id) % 2} for hit in found.points)
        drawn.add(tuple(ids))
    assert len(drawn) > 1
    found = await client.query_points(name, anything, limit=100)
    assert {hit.id for hit in found.points} == set(range(40))
    odd = await client.query_points(name, anything, query_filter=must(equals("n", 1)), limit=100)
    assert {hit.id for hit in odd.points} == set(range(1, 40, 2))


async def test_a_query_sees_what_was_written_before_it(
    client: AsyncQdrantClient, name: str
) -> None:
    for i in range(1, 6):
        await write(client, name, point(i, vector=[float(i), 0.0, 0.0, 0.0]))
        best = await client.query_points(name, [1.0, 0.0, 0.0, 0.0], limit=1)
        assert scores(best) == [(i, float(i))]
    await client.delete(name, [5], wait=True)
    best = await client.query_points(name, [1.0, 0.0, 0.0, 0.0], limit=1)
    assert scores(best) == [(4, 4.0)]
