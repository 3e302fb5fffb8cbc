"""What is refused, with which status, in which form, and that it changed nothing."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

import httpx
import pytest
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from tests.conformance.conftest import Create
from tests.conformance.data import (
    KEYWORD,
    ONES,
    SPARSE,
    VECTOR,
    equals,
    ids,
    must,
    payloads,
    point,
    write,
)

MEBIBYTE: Final = 1024 * 1024
Ask = Callable[[AsyncQdrantClient, str], Awaitable[object]]

ASKED: Final[dict[str, Ask]] = {
    "info": lambda client, name: client.get_collection(name),
    "upsert": lambda client, name: client.upsert(name, [point(1)], wait=True),
    "batch": lambda client, name: client.batch_update_points(
        name, [models.DeleteOperation(delete=models.PointIdsList(points=[1]))], wait=True
    ),
    "delete": lambda client, name: client.delete(name, [1], wait=True),
    "set payload": lambda client, name: client.set_payload(name, {"a": 1}, [1], wait=True),
    "overwrite": lambda client, name: client.overwrite_payload(name, {"a": 1}, [1], wait=True),
    "index": lambda client, name: client.create_payload_index(name, "a", KEYWORD, wait=True),
    "retrieve": lambda client, name: client.retrieve(name, [1]),
    "scroll": lambda client, name: client.scroll(name),
    "count": lambda client, name: client.count(name),
    "facet": lambda client, name: client.facet(name, "a"),
    "query": lambda client, name: client.query_points(name, ONES),
    "update": lambda client, name: client.update_collection(name, metadata={"a": 1}),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED.keys())
async def test_a_collection_that_does_not_exist(
    client: AsyncQdrantClient, name: str, ask: Ask
) -> None:
    with pytest.raises(UnexpectedResponse, match="Not found: Collection") as error:
        await ask(client, f"{name}-no")
    assert error.value.status_code == 404
    body = json.loads(error.value.content)
    assert body["status"]["error"] == f"Not found: Collection `{name}-no` doesn't exist!"
    assert isinstance(body["time"], float)


WORDS: Final = models.SparseVector(indices=[1], values=[1.0])


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        pytest.param([1.0, 2.0], "expected dim: 4, got 2", id="too short"),
        pytest.param([1.0] * 5, "expected dim: 4, got 5", id="too long"),
        pytest.param({"": [1.0]}, "expected dim: 4, got 1", id="too short, named"),
        pytest.param({"meaning": ONES}, "Not existing vector name", id="unknown name"),
        pytest.param({"words": WORDS}, "Not existing vector name", id="unknown sparse name"),
    ],
)
async def test_a_wrong_vector(
    client: AsyncQdrantClient, create: Create, vector: models.VectorStruct, message: str
) -> None:
    name = await create(sparse_vectors_config=SPARSE)
    with pytest.raises(UnexpectedResponse, match=message) as refused:
        await client.upsert(name, [point(1, vector=vector)], wait=True)
    assert refused.value.status_code == 400
    assert await ids(client, name) == set()


@pytest.mark.parametrize(
    ("query", "using", "message"),
    [
        ([1.0, 2.0], None, "expected dim: 4, got 2"),
        (ONES, "meaning", "(?i)vector"),
        (WORDS, "words", "(?i)vector"),
    ],
)
async def test_a_wrong_query(
    client: AsyncQdrantClient, name: str, query: Any, using: str | None, message: str
) -> None:
    await write(client, name, point(1))
    with pytest.raises(UnexpectedResponse, match=message) as refused:
        await client.query_points(name, query, using=using)
    assert refused.value.status_code == 400


async def test_vectors_of_a_name_that_does_not_exist(client: AsyncQdrantClient, name: str) -> None:
    await write(client, name, point(1))
    for request in (
        client.retrieve(name, [1], with_vectors=["meaning"]),
        client.scroll(name, with_vectors=["meaning"]),
    ):
        with pytest.raises(UnexpectedResponse, match="Not existing vector name") as refused:
            await request
        assert refused.value.status_code == 400


@pytest.mark.parametrize("id_", ["chunk-1", "", -1, 2**64, "8c5d7a31-4c43-4a0e-9b0f-0a36e2a4a8"])
async def test_an_id_that_is_neither_a_number_nor_a_uuid(
    client: AsyncQdrantClient, http: httpx.AsyncClient, name: str, id_: int | str
) -> None:
    points = f"/collections/{name}/points"
    for method, path, body in (
        ("PUT", f"{points}?wait=true", {"points": [{"id": id_, "vector": ONES}]}),
        ("POST", f"{points}/delete?wait=true", {"points": [id_]}),
        ("POST", points, {"ids": [id_]}),
        ("POST", f"{points}/scroll", {"offset": id_}),
        ("POST", f"{points}/count", {"filter": {"must": [{"has_id": [id_]}]}}),
    ):
        answer = await http.request(method, path, json=body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["status"]["error"].startswith("Format error in JSON body: ")
    assert await ids(client, name) == set()


FILTER: Final = {"must": [{"key": "a", "match": {"value": 1}}]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("count", "{", id="no JSON"),
        pytest.param("count", "[1]", id="a list"),
        pytest.param("count", {"filter": {"musst": []}}, id="an unknown field of a filter"),
        pytest.param("count", {"filter": {"must": [{"kee": "a"}]}}, id="an unknown condition"),
        pytest.param(
            "count", {"filter": {"must": [{"key": "a", "match": {"value": 1.5}}]}}, id="float"
        ),
        pytest.param(
            "count", {"filter": {"must": [{"key": "a", "match": {"value": None}}]}}, id="null"
        ),
        pytest.param(
            "count", {"filter": {"must": [{"key": "a", "match": {"value": 2**64}}]}}, id="65 bits"
        ),
        pytest.param(
            "count", {"filter": {"must": [{"key": "a", "range": {"gt": "x"}}]}}, id="range"
        ),
        pytest.param(
            "count", {"filter": {"must": [{"key": "a[", "match": {"value": 1}}]}}, id="path"
        ),
        pytest.param(
            "count",
            {"filter": {"must": [{"key": "a", "values_count": {"gte": -1}}]}},
            id="a negative number of values",
        ),
        pytest.param(
            "count",
            {"filter": {"min_should": {"conditions": [FILTER], "min_count": -1}}},
            id="a negative number of conditions",
        ),
        pytest.param("scroll", {"limit": "ten"}, id="a limit of letters"),
        pytest.param("scroll", {"limit": -1}, id="a negative limit"),
        pytest.param(
            "scroll", {"order_by": {"key": "a", "start_from": "tomorrow"}}, id="a start of letters"
        ),
        pytest.param("query", {"query": ONES, "limit": 2**64}, id="a limit of 65 bits"),
        pytest.param("query", {"query": ONES, "params": {"hnsw_ef": -1}}, id="a negative ef"),
        pytest.param("query", {"query": {"nearest": "chunk-1"}}, id="a query by no id"),
        pytest.param("query", {"query": {"nearest": True}}, id="a query by a bool"),
        pytest.param("query", {"query": [1.0, None, 1.0, 1.0]}, id="a number that is none"),
        pytest.param("query", {"query": {"rff": {}}}, id="an unknown query"),
        pytest.param("delete?wait=true", {}, id="nothing to delete"),
        pytest.param(
            "batch?wait=true", {"operations": [{"insert": {}}]}, id="an unknown operation"
        ),
        pytest.param("batch?wait=true", {"operations": {}}, id="no list"),
    ],
)
async def test_a_body_that_cannot_be_read(
    client: AsyncQdrantClient, http: httpx.AsyncClient, name: str, path: str, body: Any
) -> None:
    await write(client, name, point(1, {"a": 1}))
    content = body if isinstance(body, str) else json.dumps(body)
    answer = await http.post(
        f"/collections/{name}/points/{path}",
        content=content,
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 400, answer.text
    assert answer.json()["status"]["error"].startswith("Format error in JSON body: ")
    assert await payloads(client, name) == {1: {"a": 1}}


async def test_a_vector_with_a_number_that_is_none(
    client: AsyncQdrantClient, http: httpx.AsyncClient, name: str
) -> None:
    body = {"points": [{"id": 1, "vector": [1.0, None, 1.0, 1.0]}]}
    answer = await http.put(f"/collections/{name}/points?wait=true", json=body)
    assert answer.status_code == 400, answer.text
    assert await ids(client, name) == set()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        pytest.param("POST", "/scroll", {"limit": 0}, id="no points of a page"),
        pytest.param("POST", "/query", {"query": ONES, "limit": 0}, id="no hits"),
        pytest.param(
            "PUT",
            "?wait=true",
            {"points": [{"id": 1, "vector": {"bm25": {"indices": [1, 1], "values": [1.0, 2.0]}}}]},
            id="the same index twice",
        ),
        pytest.param(
            "PUT",
            "?wait=true",
            {"points": [{"id": 1, "vector": {"bm25": {"indices": [1, 2], "values": [1.0]}}}]},
            id="fewer values than indices",
        ),
    ],
)
async def test_a_value_that_is_not_allowed(
    client: AsyncQdrantClient,
    http: httpx.AsyncClient,
    create: Create,
    method: str,
    path: str,
    body: dict[str, Any],
) -> None:
    name = await create(sparse_vectors_config=SPARSE)
    answer = await http.request(method, f"/collections/{name}/points{path}", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["status"]["error"].startswith("Validation error in JSON body: ")
    assert await ids(client, name) == set()


@pytest.mark.parametrize("id_", ["chunk-1", "-1", str(2**64), "9" * 5000, "\u0661"])
async def test_a_path_with_an_id_that_is_neither_a_number_nor_a_uuid(
    client: AsyncQdrantClient, http: httpx.AsyncClient, name: str, id_: str
) -> None:
    await write(client, name, point(1))
    answer = await http.get(f"/collections/{name}/points/{id_}")
    assert answer.status_code == 400, answer.text
    assert "error" in answer.json()["status"]


DENSE: Final = {"size": 4, "distance": "Dot"}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"vectors": {"size": 0, "distance": "Dot"}}, id="size"),
        pytest.param({"vectors": {"size": 4, "distance": "Near"}}, id="distance"),
        pytest.param({"vectors": {"size": 4}}, id="no distance"),
        pytest.param(
            {"vectors": {"text": DENSE}, "sparse_vectors": {"text": {}}}, id="the same name twice"
        ),
        pytest.param(
            {"sparse_vectors": {"text": {"index": {"full_scan_threshold": -1}}}}, id="threshold"
        ),
        *(
            pytest.param({"vectors": DENSE, "quantization_config": quantization}, id=id_)
            for id_, quantization in (
                ("quantile", {"scalar": {"type": "int8", "quantile": 5.0}}),
                ("no quantile", {"scalar": {"type": "int8", "quantile": "most"}}),
                ("always_ram", {"binary": {"always_ram": "yes"}}),
            )
        ),
    ],
)
async def test_a_collection_that_cannot_be(
    client: AsyncQdrantClient, http: httpx.AsyncClient, name: str, body: dict[str, Any]
) -> None:
    answer = await http.put(f"/collections/{name}-2", json=body)
    assert answer.status_code in (400, 422), answer.text
    assert "error" in answer.json()["status"]
    assert not await client.collection_exists(f"{name}-2")


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param("words", id="unknown type"),
        pytest.param({"type": ["text"]}, id="no type"),
        pytest.param({"type": "text", "tokenizer": "letters"}, id="tokenizer"),
        pytest.param({"type": "text", "min_token_len": -1}, id="length"),
    ],
)
async def test_an_index_that_cannot_be(
    client: AsyncQdrantClient, http: httpx.AsyncClient, name: str, schema: Any
) -> None:
    body = {"field_name": "a", "field_schema": schema}
    answer = await http.put(f"/collections/{name}/index?wait=true", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["status"]["error"].startswith("Format error in JSON body: ")
    assert (await client.get_collection(name)).payload_schema == {}


async def test_a_path_that_does_not_exist(http: httpx.AsyncClient, name: str) -> None:
    assert (await http.get(f"/collections/{name}/nothing")).status_code in (404, 501)


NEAR: Final = {"center": {"lon": 0.0, "lat": 0.0}, "radius": 1.0}


@pytest.mark.parametrize(
    ("what", "wanted"),
    [
        ("idf", {"query": ONES, "params": {"idf": "global"}}),
        ("acorn", {"query": ONES, "params": {"acorn": {"enable": True}}}),
        ("recommend", {"query": {"recommend": {"positive": [1]}}}),
        ("geo_radius", {"filter": {"must": [{"key": "a", "geo_radius": NEAR}]}}),
    ],
)
async def test_what_only_a_server_supports_is_named(
    client: AsyncQdrantClient,
    http: httpx.AsyncClient,
    place: str,
    name: str,
    what: str,
    wanted: dict[str, Any],
) -> None:
    await write(client, name, point(1))
    answer = await http.post(f"/collections/{name}/points/query", json=wanted)
    if place.startswith("unix://"):
        assert answer.status_code == 501, answer.text
        assert what in answer.json()["status"]["error"]
    else:
        assert answer.status_code == 200, answer.text


async def test_a_body_of_more_than_32_mebibytes(client: AsyncQdrantClient, name: str) -> None:
    """1.19 answers; 1.18 closes the connection while the client writes."""
    large = point(1, {"text": "x" * 33 * MEBIBYTE})
    with pytest.raises((UnexpectedResponse, ResponseHandlingException)) as refused:
        await client.upsert(name, [large], wait=True)
    if isinstance(refused.value, UnexpectedResponse):
        assert refused.value.status_code == 400
        assert b"larger than allowed" in refused.value.content
    assert await ids(client, name) == set(), "and it serves the next request"


async def test_a_body_of_less_than_32_mebibytes(client: AsyncQdrantClient, name: str) -> None:
    await write(client, name, point(1, {"text": "x" * 31 * MEBIBYTE}))
    assert (await client.count(name)).count == 1


async def test_strict_mode_bounds_the_points_of_an_upsert(
    client: AsyncQdrantClient, name: str
) -> None:
    few = models.StrictModeConfig(enabled=True, upsert_max_batchsize=3)
    assert await client.update_collection(name, strict_mode_config=few)
    await write(client, name, *(point(i) for i in range(3)))
    with pytest.raises(UnexpectedResponse, match="upsert limit") as refused:
        await client.upsert(name, [point(i) for i in range(10, 14)], wait=True)
    assert refused.value.status_code == 400
    assert await ids(client, name) == {0, 1, 2}


async def test_strict_mode_refuses_filters_without_an_index(
    client: AsyncQdrantClient, create: Create
) -> None:
    strict = models.StrictModeConfig(
        enabled=True, unindexed_filtering_retrieve=False, unindexed_filtering_update=False
    )
    name = await create(strict_mode_config=strict)
    await client.create_payload_index(name, "a", KEYWORD, wait=True)
    await write(client, name, point(1, {"a": "x", "b": "x"}))
    assert await ids(client, name, must(equals("a", "x"))) == {1}
    for request in (
        client.count(name, must(equals("b", "x"))),
        client.scroll(name, must(equals("b", "x"))),
        client.query_points(name, ONES, query_filter=must(equals("b", "x"))),
        client.delete(name, must(equals("b", "x")), wait=True),
        client.set_payload(name, {"c": 1}, must(equals("b", "x")), wait=True),
    ):
        with pytest.raises(UnexpectedResponse, match="Index required but not found for") as no:
            await request
        assert no.value.status_code == 400
    assert await payloads(client, name) == {1: {"a": "x", "b": "x"}}


async def test_a_collection_exists_already(client: AsyncQdrantClient, name: str) -> None:
    with pytest.raises(UnexpectedResponse, match="already exists") as refused:
        await client.create_collection(name, VECTOR)
    assert refused.value.status_code == 409


async def test_it_says_when_it_is_ready(http: httpx.AsyncClient) -> None:
    assert (await http.get("/readyz")).status_code == 200
