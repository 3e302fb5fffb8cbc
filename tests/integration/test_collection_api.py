"""HTTP requests can name one of the server's collections."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from httpx import ASGITransport, AsyncClient

from ingestq.api.app import ApiConfig, Services, create_app
from ingestq.app.composition import Broker
from ingestq.broker.queue.dead_letters import DeadLetters
from ingestq.broker.revoked_sessions import RevokedSessions
from ingestq.client.client import IngestClient
from ingestq.core.jobs import dead_letter_batch
from ingestq.core.search_query import SearchQuery, SearchResult
from tests.claims import batch_of, finish, lease_queue, take
from tests.integration.test_api import refused

SERVING = {"documents": "d__1", "handbook": "h__1"}
NOTE = {"doc_id": "note", "text": "The ferry leaves at noon."}
HANDBOOK = {"collection": "handbook"}
LINES = {"Content-Type": "application/x-ndjson"}


@dataclass
class Asked:
    """The queries and look-ups that reached the services."""

    queries: list[SearchQuery] = field(default_factory=list)
    documents: list[tuple[str, str, str]] = field(default_factory=list)

    async def search(self, query: SearchQuery) -> SearchResult[object]:
        self.queries.append(query)
        return SearchResult([])

    async def index(self, tenant: str, doc_id: str, collection: str) -> None:
        self.documents.append((tenant, doc_id, collection))


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
async def api(broker: Broker, asked: Asked) -> AsyncIterator[AsyncClient]:
    dead_letters = DeadLetters(broker.redis, broker.config)
    client = IngestClient(broker.queue, collection="documents")
    revoked = RevokedSessions(broker.redis, broker.config)
    services = Services(client, dead_letters, revoked, asked.search, asked.index)
    app = create_app(services, ApiConfig(10_000, collections=tuple(SERVING)))
    async with AsyncClient(transport=ASGITransport(app), base_url="http://localhost") as client_:
        yield client_


async def collections_queued(broker: Broker) -> list[str]:
    claims = await take(lease_queue(broker, serving=SERVING), 9)
    return sorted(batch_of(claim).collection for claim in claims)


async def test_a_document_is_queued_for_its_collection(api: AsyncClient, broker: Broker) -> None:
    assert (await api.post("/documents", json=NOTE)).status_code == 202
    assert (await api.post("/documents", json=NOTE | HANDBOOK)).status_code == 202
    assert await collections_queued(broker) == ["documents", "handbook"]


async def test_a_line_of_a_batch_is_queued_for_its_collection(
    api: AsyncClient, broker: Broker
) -> None:
    lines = '{"doc_id": "a", "text": "t"}\n{"doc_id": "a", "text": "t", "collection": "%s"}\n'
    body = lines % "handbook" + lines % "nonesuch"
    answer = await api.post("/documents:batch", content=body, headers=LINES)
    assert answer.status_code == 202, answer.text
    assert (answer.json()["accepted"], answer.json()["rejected"]) == (3, 1)
    [line] = answer.json()["rejected_lines"]
    assert line["line"] == 4
    assert "'nonesuch' is not one of this server's collections" in line["reason"]
    assert await collections_queued(broker) == ["documents", "handbook"]


async def test_a_deletion_is_queued_for_its_collection(api: AsyncClient, broker: Broker) -> None:
    assert (await api.delete("/documents/note", params=HANDBOOK)).status_code == 202
    [claim] = await take(lease_queue(broker, serving={"handbook": "h__1"}))
    batch = claim.job().batch
    assert batch is not None
    assert batch.collection == "handbook"


async def test_searches_and_look_ups_use_the_named_collection(
    api: AsyncClient, asked: Asked
) -> None:
    for more in ({}, HANDBOOK):
        assert (await api.get("/search", params={"q": "x"} | more)).status_code == 200
        await api.get("/documents/note", params={"tenant": "t"} | more)
    assert [query.collection for query in asked.queries] == ["documents", "handbook"]
    assert asked.documents == [("t", "note", "documents"), ("t", "note", "handbook")]


async def test_an_idempotency_key_is_for_one_collection(api: AsyncClient, broker: Broker) -> None:
    key = {"Idempotency-Key": "k"}
    first = await api.post("/documents", json=NOTE, headers=key)
    by_name = NOTE | {"collection": "documents"}
    assert (await api.post("/documents", json=by_name, headers=key)).json() == first.json()
    refused(await api.post("/documents", json=NOTE | HANDBOOK, headers=key), 422, "'k'")
    assert await collections_queued(broker) == ["documents"]


async def test_each_collection_has_its_own_dead_letter(api: AsyncClient, broker: Broker) -> None:
    leases = lease_queue(broker, serving=SERVING)
    for more in ({}, HANDBOOK):
        await api.post("/documents", json=NOTE | more)
        [claim] = await take(leases)
        batch = batch_of(claim)
        assert await finish(
            leases, claim, dead_letter_batch(batch, f"broken {batch.collection}", tries=1)
        )

    async def reason(path: str, **params: str) -> str:
        return str((await api.get(path, params=params)).json()["reason"])

    assert await reason("/dead-letters/note") == "broken documents"
    assert await reason("/dead-letters/note", collection="handbook") == "broken handbook"
    listed = (await api.get("/dead-letters", params=HANDBOOK)).json()
    assert [one["collection"] for one in listed["dead_letters"]] == ["handbook"]
    state = (await api.get("/documents/note", params=HANDBOOK)).json()
    assert (state["collection"], state["last_error"]) == ("handbook", "broken handbook")

    assert (await api.delete("/dead-letters/note")).json() == {"purged": 1}
    refused(await api.get("/dead-letters/note"), 404, "note")
    assert (await api.post("/dead-letters/note/requeue", params=HANDBOOK)).status_code == 202
    assert await collections_queued(broker) == ["handbook"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/search?q=x&"),
        ("GET", "/documents/a?"),
        ("DELETE", "/documents/a?"),
        ("GET", "/dead-letters/a?"),
        ("POST", "/dead-letters/a/requeue?"),
    ],
)
async def test_an_unknown_collection_is_refused(
    api: AsyncClient, broker: Broker, method: str, path: str
) -> None:
    answer = await api.request(method, f"{path}collection=nonesuch")
    refused(answer, 422, "query.collection: 'nonesuch'", "documents, handbook")
    assert await broker.queue.is_empty()


async def test_a_document_for_an_unknown_collection_is_refused(
    api: AsyncClient, broker: Broker
) -> None:
    answer = await api.post("/documents", json=NOTE | {"collection": "nonesuch"})
    refused(answer, 422, "collection: 'nonesuch'", "documents, handbook")
    assert await broker.queue.is_empty()


async def test_collections_without_a_worker_are_shown(api: AsyncClient) -> None:
    await api.post("/documents", json=NOTE | HANDBOOK)
    assert (await api.get("/status")).json()["unserved"] == {"handbook": 1}
    assert 'ingestq_unserved_jobs{collection="handbook"} 1.0' in (await api.get("/metrics")).text
