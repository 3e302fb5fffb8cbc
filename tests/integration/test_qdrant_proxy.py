"""The proxy in front of Qdrant: transparent until a test plans a fault or a hold."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import httpx
import pytest
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from tests.qdrant_proxy import QdrantProxy, answers, qdrant_proxy

VECTOR = models.VectorParams(size=2, distance=models.Distance.DOT)
POINTS = "/points?wait=true"


@pytest.fixture
async def client(proxied_qdrant: QdrantProxy) -> AsyncIterator[AsyncQdrantClient]:
    """A client behind the proxy, which never retries."""
    client = AsyncQdrantClient(proxied_qdrant.url, check_compatibility=False, timeout=30)
    yield client
    await client.close()


@pytest.fixture
async def name(client: AsyncQdrantClient) -> AsyncIterator[str]:
    name = f"test-{uuid.uuid4().hex[:12]}"
    await client.create_collection(name, VECTOR)
    yield name
    await client.delete_collection(name)


async def upsert(client: AsyncQdrantClient, name: str, id_: int = 1) -> models.UpdateResult:
    point = models.PointStruct(id=id_, vector=[1.0, 2.0], payload={"text": "é"})
    return await client.upsert(name, [point], wait=True)


async def count(client: AsyncQdrantClient, name: str) -> int:
    return (await client.count(name)).count


async def test_requests_and_answers_pass_through(
    proxied_qdrant: QdrantProxy, client: AsyncQdrantClient, name: str
) -> None:
    assert (await upsert(client, name)).status is models.UpdateStatus.COMPLETED
    [record] = await client.retrieve(name, [1], with_vectors=True)
    assert (record.payload, record.vector) == ({"text": "é"}, [1.0, 2.0])
    with pytest.raises(UnexpectedResponse, match="404"):
        await client.count(f"{name}-none")
    assert proxied_qdrant.requests == [
        f"PUT /collections/{name}",
        f"PUT /collections/{name}{POINTS}",
        f"POST /collections/{name}/points",
        f"POST /collections/{name}-none/points/count",
    ]


async def test_a_planned_answer_is_given_once(
    proxied_qdrant: QdrantProxy, client: AsyncQdrantClient, name: str
) -> None:
    proxied_qdrant.faults.answer_next(1, 503, path_contains="PUT")
    assert await count(client, name) == 0, "which is no PUT"
    with pytest.raises(UnexpectedResponse, match="planned by a test"):
        await upsert(client, name)
    assert await count(client, name) == 0
    await upsert(client, name)
    assert await count(client, name) == 1


async def test_a_standing_fault_stands_until_it_is_taken_back(
    proxied_qdrant: QdrantProxy, client: AsyncQdrantClient, name: str
) -> None:
    proxied_qdrant.faults.standing = (
        lambda request, body: "/count" in request and "filter" in body,
        answers.over_the_limit(),
    )
    for _ in range(2):
        with pytest.raises(UnexpectedResponse, match="429"):
            await client.count(name, models.Filter())
    await upsert(client, name)
    proxied_qdrant.faults.standing = None
    assert (await client.count(name, models.Filter())).count == 1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_dropped_request_is_carried_out_or_not(
    proxied_qdrant: QdrantProxy, client: AsyncQdrantClient, name: str, after: bool
) -> None:
    proxied_qdrant.faults.drop_next(1, after, path_contains="PUT")
    with pytest.raises(ResponseHandlingException):
        await upsert(client, name)
    assert await count(client, name) == int(after)


async def test_a_write_that_timed_out_is_not_applied(
    proxied_qdrant: QdrantProxy, client: AsyncQdrantClient, name: str
) -> None:
    proxied_qdrant.faults.wait_timeout_next(2)
    assert (await upsert(client, name)).status is models.UpdateStatus.WAIT_TIMEOUT
    delete = models.DeleteOperation(delete=models.PointIdsList(points=[1]))
    both = await client.batch_update_points(name, [delete, delete], wait=True)
    assert [result.status for result in both] == [models.UpdateStatus.WAIT_TIMEOUT] * 2
    assert await count(client, name) == 0


@pytest.mark.parametrize("is_answer", [False, True], ids=["request", "answer"])
async def test_a_held_request_or_answer_comes_when_it_is_released(
    proxied_qdrant: QdrantProxy, client: AsyncQdrantClient, name: str, is_answer: bool
) -> None:
    hold = (proxied_qdrant.holds.answer if is_answer else proxied_qdrant.holds.request)(
        lambda request, body: request.startswith("PUT") and body["points"][0]["id"] == 1
    )
    writing = asyncio.create_task(upsert(client, name))
    await hold.struck()
    assert await count(client, name) == int(is_answer)
    await upsert(client, name, 2)
    assert not writing.done()
    hold.release()
    await writing
    assert await count(client, name) == 2


async def test_a_held_request_is_forgotten_if_the_client_goes_away(
    proxied_qdrant: QdrantProxy, client: AsyncQdrantClient, name: str
) -> None:
    hold = proxied_qdrant.holds.request(lambda request, body: request.startswith("PUT"))
    writing = asyncio.create_task(upsert(client, name))
    await hold.struck()
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    await upsert(client, name, 2)
    hold.release()
    assert {record.id for record in (await client.scroll(name))[0]} == {2}


async def test_a_key_may_be_needed(qdrant_place: str) -> None:
    async with (
        qdrant_proxy(qdrant_place, api_key="right") as guarded,
        httpx.AsyncClient(base_url=guarded.url) as http,
    ):
        assert (await http.get("/")).status_code == 200
        for sent, status in ((None, 401), ("wrong", 401), ("right", 200)):
            headers = {} if sent is None else {"api-key": sent}
            assert (await http.get("/collections", headers=headers)).status_code == status


async def test_a_body_may_be_too_large(qdrant_place: str) -> None:
    async with (
        qdrant_proxy(qdrant_place, largest_body=100) as narrow,
        httpx.AsyncClient(base_url=narrow.url) as http,
    ):
        answer = await http.put("/collections/test-none", content="x" * 101)
        assert (answer.status_code, "larger than allowed" in answer.text) == (400, True)


async def test_a_qdrant_that_is_away_drops_connections() -> None:
    async with (
        qdrant_proxy("unix:///nonexistent/qdrant.sock") as proxied_qdrant,
        httpx.AsyncClient(base_url=proxied_qdrant.url) as http,
    ):
        with pytest.raises(httpx.TransportError):
            await http.get("/collections")
