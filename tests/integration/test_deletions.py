"""Deletions with and without a version, through the API, the client and the command."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient

from ingestq.api.app import ApiConfig, create_app
from ingestq.app.composition import Broker
from ingestq.broker.queue.dead_letters import DeadLetterFilter
from ingestq.core.documents import Document
from ingestq.core.results import DocumentCounts
from tests.command import Ingestq
from tests.harness import Harness
from tests.serving import services
from tests.waiting import eventually
from worker.embedding.pool import ModelPool
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames

INDEXED = DocumentCounts(indexed=1)
SUPERSEDED = DocumentCounts(superseded=1)
DELETED = DocumentCounts(deleted=1)
NOTHING = DocumentCounts(unchanged=1)
REJECTED = DocumentCounts(rejected=1)


@pytest.fixture
def idle(
    broker: Broker, qdrant: Qdrant, model: ModelPool, collection: CollectionNames, tmp_path: Path
) -> Harness:
    """An empty collection whose worker is not started yet."""
    return Harness.of(broker, qdrant, collection, model, tmp_path)


@pytest.fixture
async def api(broker: Broker, collection: CollectionNames) -> AsyncIterator[AsyncClient]:
    config = ApiConfig(10_000, collections=(collection.alias,))
    transport = ASGITransport(create_app(services(broker), config))
    async with AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def put(api: AsyncClient, version: int | None) -> str:
    text = f"The keeper wrote version {version}."
    fields: dict[str, Any] = {"doc_id": "log", "text": text}
    answer = await api.post(
        "/documents", json=fields if version is None else fields | {"version": version}
    )
    assert answer.status_code == 202, answer.text
    submission: str = answer.json()["submission"]
    return submission


async def delete(api: AsyncClient, version: int | None = None) -> str:
    answer = await api.delete(
        "/documents/log", params={} if version is None else {"version": version}
    )
    assert answer.status_code == 202, answer.text
    submission: str = answer.json()["submission"]
    return submission


async def outcome(harness: Harness, submission: str) -> DocumentCounts:
    return (await harness.client.wait(submission, timeout=60)).documents


async def texts(harness: Harness) -> set[str]:
    return {payload["page_content"] for payload in await harness.payloads()}


async def test_own_versions_go_on_after_a_deletion(harness: Harness, api: AsyncClient) -> None:
    assert await outcome(harness, await put(api, 5)) == INDEXED
    assert await outcome(harness, await delete(api)) == DELETED
    assert await outcome(harness, await put(api, 5)) == SUPERSEDED
    assert await outcome(harness, await put(api, 6)) == INDEXED
    assert await texts(harness) == {"The keeper wrote version 6."}
    assert await outcome(harness, await delete(api, 5)) == SUPERSEDED
    assert await outcome(harness, await delete(api, 6)) == DELETED
    assert await outcome(harness, await put(api, 6)) == SUPERSEDED
    assert await outcome(harness, await put(api, 7)) == INDEXED
    assert await harness.indexed() == {"log"}


async def test_a_deletion_of_nothing_does_not_block_a_first_version(
    harness: Harness, api: AsyncClient
) -> None:
    assert await outcome(harness, await delete(api)) == NOTHING
    assert await outcome(harness, await put(api, 1)) == INDEXED


async def test_versions_of_both_scales_are_ordered_by_when_they_were_sent(
    harness: Harness, api: AsyncClient
) -> None:
    for version in (None, 5, None, 6):
        assert await outcome(harness, await put(api, version)) == INDEXED
        assert await texts(harness) == {f"The keeper wrote version {version}."}
    assert await outcome(harness, await put(api, None)) == INDEXED
    assert await outcome(harness, await put(api, 6)) == REJECTED
    [reason] = (await harness.dead_letters()).values()
    assert "send a version above 6" in reason
    assert await outcome(harness, await delete(api, 9)) == REJECTED
    [reason] = (await harness.dead_letters()).values()
    assert "delete it without a version" in reason
    assert await texts(harness) == {"The keeper wrote version None."}
    assert await outcome(harness, await delete(api)) == DELETED
    assert await harness.dead_letters() == {}
    assert await outcome(harness, await put(api, 7)) == INDEXED


async def test_what_waits_when_it_is_deleted_does_not_come_back(
    idle: Harness, api: AsyncClient
) -> None:
    before = await put(api, 9)
    deleted = await delete(api)
    after = await put(api, 10)
    async with idle.working():
        assert await outcome(idle, after) == INDEXED
        await outcome(idle, deleted)
        await outcome(idle, before)
    assert await texts(idle) == {"The keeper wrote version 10."}


async def test_a_dead_letter_that_is_requeued_stays_older_than_a_deletion(
    idle: Harness, api: AsyncClient
) -> None:
    broken = idle.root / "later.txt"
    document = Document(doc_id="log", version=9, source="log", path=str(broken))
    rejected = await idle.client.submit_many([document])
    async with idle.working():
        assert await outcome(idle, rejected.submission) == REJECTED
    deleted = await delete(api)
    broken.write_text("The keeper wrote version 9.")
    letters = idle.broker.dead_letters
    dead = [stored async for stored in letters.find(DeadLetterFilter())]
    assert await letters.requeue(dead, "again") == 1
    async with idle.working():
        await outcome(idle, deleted)
        assert await outcome(idle, "again") == SUPERSEDED
    assert await idle.indexed() == set()


async def test_a_sweep_deletes_own_versions_that_were_queued_before_the_scan(
    harness: Harness,
) -> None:
    harness.write("a.txt", "stays.txt")
    await harness.scan()
    doc_id = str(harness.root / "a.txt")
    (harness.root / "a.txt").unlink()
    own = Document(doc_id=doc_id, version=5, source="a", text="By hand.", scanned=True)
    await harness.client.wait((await harness.client.submit_many([own])).submission)
    assert "By hand." in await texts(harness)
    assert (await harness.scan()).documents.deleted == 1
    assert await harness.indexed() == {str(harness.root / "stays.txt")}


@pytest.mark.slow
def test_the_command_deletes_files_by_path_and_says_what_does_not_exist(ingestq: Ingestq) -> None:
    notes = ingestq.folder / "notes"
    notes.mkdir()
    for name in ("plain", "former", "third"):
        (notes / f"{name}.txt").write_text(f"A note called {name}.")
    assert ingestq("run", "notes").code == 0
    (notes / "former.txt").unlink()
    ids = {name: str(notes / f"{name}.txt") for name in ("plain", "former", "third")}

    ended = ingestq("delete", "notes/plain.txt", "notes/former.txt", "notes/thirt.txt", "--json")
    assert ended.code == 1
    assert ended.json["documents"] == {"queued": 2}
    assert ended.json["doc_ids"] == [ids["plain"], ids["former"]]
    [missing] = ended.json["missing"]
    assert missing["doc_id"] == "notes/thirt.txt"
    assert missing["nearest"][0] == ids["third"]

    (ingestq.folder / "queued.txt").write_text("It waits.")
    assert ingestq("add", "queued.txt").code == 0
    waiting = ingestq("delete", "./queued.txt")
    assert (waiting.code, "1 deletions queued" in waiting.out) == (0, True)

    (ingestq.folder / "other.txt").write_text("Another one.")
    assert ingestq("run", "other.txt").code == 0
    hits = ingestq("search", "a note that waits", "-n", "9", "--json").json["hits"]
    assert {hit["doc_id"] for hit in hits} == {ids["third"], str(ingestq.folder / "other.txt")}

    again = ingestq("delete", "notes/plain.txt")
    assert again.code == 1
    assert "no such document: notes/plain.txt" in again.out
    assert "queued as" not in again.out


@pytest.mark.slow
async def test_the_command_says_what_does_not_exist_while_a_worker_has_the_bundled_qdrant(
    ingestq: Ingestq,
) -> None:
    notes = ingestq.folder / "notes"
    notes.mkdir()
    (notes / "plain.txt").write_text("A note.")
    assert (await ingestq.ended("run", "notes")).code == 0
    worker = ingestq.start("worker")
    try:

        async def at_work() -> bool:
            return bool((await ingestq.ended("status", "--json")).json["workers"])

        await eventually(at_work)
        ended = await ingestq.ended("delete", "notes/plain.txt", "notes/none.txt", "--json")
        assert ended.code == 1
        assert ended.json["doc_ids"] == [str(notes / "plain.txt")]
        assert [missing["doc_id"] for missing in ended.json["missing"]] == ["notes/none.txt"]

        async def documents() -> int:
            counted: int = (await ingestq.ended("status", "--json")).json["collection"]["documents"]
            return counted

        await eventually(documents, lambda count: count == 0)
    finally:
        worker.terminate()
        worker.communicate(timeout=60)
