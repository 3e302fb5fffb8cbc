"""An emptied document is empty, and one whose newest version was rejected is stale and says so."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from httpx import ASGITransport, AsyncClient

from ingestq.api.app import ApiConfig, create_app
from ingestq.app.collections import IndexReader
from ingestq.app.composition import Broker
from ingestq.app.search import DocumentLookup, QdrantOnDemand, SearchService
from ingestq.app.settings import Settings, load_settings
from ingestq.core.display import NoDisplay
from ingestq.core.documents import MAX_VERSION, Document
from ingestq.core.results import DocumentCounts, DocumentWarning
from producers.watch.folder import WatchedFolder
from tests.command import Ingestq
from tests.integration.test_verify import VerifyHarness
from tests.integration.test_watch import watching
from tests.markup import Page
from tests.pdf_files import encrypted_pdf, lines_of, write_pdf
from tests.serving import services
from tests.waiting import eventually
from worker.embedding.pool import ModelPool
from worker.maintenance.reindex import Rebuild, StoredCollection
from worker.pipeline.points import DocumentKey, Rejection
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames, make_collection
from worker.store.schema import Schema, fingerprint
from worker.text.content import FILE_GONE
from worker.text.formats.pdf import ENCRYPTED
from worker.text.parts import EMPTY, NO_TEXT

EMPTY_NOTE = {"doc_id": "note", "text": ""}
BINARY = bytes(range(256)) * 9
REASON = "it is binary data and not text"


@pytest.fixture
async def harness(
    broker: Broker,
    qdrant: Qdrant,
    model: ModelPool,
    collection: CollectionNames,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[VerifyHarness]:
    """Yield a harness with a document of a file, and a worker that runs."""
    monkeypatch.setenv("INGESTQ_COLLECTION", collection.alias)
    root = tmp_path / "root"
    root.mkdir()
    harness = VerifyHarness.of(broker, qdrant, collection, model, root, settings=load_settings())
    harness.write_texts(tide="The tide comes in.")
    async with harness.working():
        assert (await harness.scan()).documents == DocumentCounts(indexed=1)
        yield harness


def tide(harness: VerifyHarness) -> Path:
    return harness.root / "tide.txt"


async def stale(harness: VerifyHarness, doc_id: str | None = None) -> Rejection | None:
    """Return why the document is stale, and check the count of stale documents against it."""
    key = DocumentKey("", doc_id or str(tide(harness)))
    entry = (await harness.ledger.look_up([key])).get(key)
    found = None if entry is None else entry.stale
    assert await harness.ledger.count_stale() == (found is not None)
    return found


async def submitted(
    harness: VerifyHarness, doc_id: str, text: str, version: int | None = None
) -> None:
    receipt = await harness.client.submit(doc_id, text=text, source="s", version=version)
    await harness.client.wait(receipt.submission, timeout=60)


@pytest.mark.parametrize("content", ["", " \n\t", "\ufeff", "\u200b\u200d\n"])
async def test_an_emptied_file_loses_its_text(harness: VerifyHarness, content: str) -> None:
    tide(harness).write_text(content)
    summary = await harness.scan(inline=content == "")
    assert summary.documents == DocumentCounts(indexed=1)
    assert summary.chunks.deleted == 1
    warning = NO_TEXT if content.strip() else EMPTY
    assert summary.warnings == [DocumentWarning(str(tide(harness)), warning)]
    assert await harness.payloads() == []
    assert await harness.ledger.count() == 1
    assert (await harness.verify(harness.root))["consistent"]

    tide(harness).write_text("The tide goes out.")
    assert (await harness.scan()).documents == DocumentCounts(indexed=1)
    assert await harness.indexed_files() == {"tide.txt"}


@pytest.mark.parametrize("text", ["", "\u200b"])
async def test_an_empty_text_is_a_document(harness: VerifyHarness, text: str) -> None:
    await submitted(harness, "note", "A note.")
    await submitted(harness, "note", text)
    assert await harness.dead_letters() == {}
    assert {payload["doc_id"] for payload in await harness.payloads()} == {str(tide(harness))}
    assert (await harness.verify())["consistent"]


async def test_a_document_whose_newest_version_was_rejected_is_stale_until_it_is_good(
    harness: VerifyHarness,
) -> None:
    good = tide(harness).read_bytes()
    tide(harness).write_bytes(BINARY)
    assert (await harness.scan()).documents == DocumentCounts(rejected=1)
    first = await stale(harness)
    assert first is not None
    assert first.reason == REASON
    assert await harness.indexed_files() == {"tide.txt"}, "the last good text stays"

    tide(harness).write_bytes(encrypted_pdf())
    assert (await harness.scan()).documents == DocumentCounts(rejected=1)
    second = await stale(harness)
    assert second is not None
    assert (second.since_ms, second.reason) == (first.since_ms, ENCRYPTED)
    assert second.version > first.version

    tide(harness).write_bytes(good)
    assert (await harness.scan()).documents == DocumentCounts(unchanged=1)
    assert await stale(harness) is None
    assert (await harness.verify(harness.root))["consistent"]


async def test_a_deletion_or_an_edit_ends_it(harness: VerifyHarness) -> None:
    tide(harness).write_bytes(BINARY)
    await harness.scan()
    assert await stale(harness) is not None
    tide(harness).write_text("")
    await harness.scan()
    assert await stale(harness) is None
    tide(harness).write_bytes(BINARY)
    await harness.scan()
    assert await stale(harness) is not None
    (harness.root / "stays.txt").write_text("The mill stands still.")
    tide(harness).unlink()
    assert (await harness.scan()).documents == DocumentCounts(indexed=1, deleted=1)
    assert await stale(harness) is None


async def test_what_was_never_indexed_is_not_stale(harness: VerifyHarness) -> None:
    (harness.root / "new.txt").write_bytes(BINARY)
    os.utime(harness.root / "new.txt", (1, 1))
    assert (await harness.scan()).documents == DocumentCounts(unchanged=1, rejected=1)
    assert await stale(harness, str(harness.root / "new.txt")) is None
    found = await harness.verify(harness.root)
    assert (found["consistent"], found["rejected"]) == (True, 1)


async def test_own_versions_are_marked_and_cleared(harness: VerifyHarness) -> None:
    await submitted(harness, "note", "A note.", version=5)
    await submitted(harness, "note", "\1\2\3\4", version=6)
    marked = await stale(harness, "note")
    assert marked is not None
    assert (marked.version, marked.reason) == (6, REASON)
    await submitted(harness, "note", "\1\2\3\4", version=4)
    assert await stale(harness, "note") == marked
    await submitted(harness, "note", "A note.", version=7)
    assert await stale(harness, "note") is None


async def test_verify_says_since_when_and_why_and_repairs_it(harness: VerifyHarness) -> None:
    tide(harness).write_bytes(BINARY)
    await harness.scan()
    await submitted(harness, "note", "A note.")
    before = await harness.verify(harness.root)
    assert not before["consistent"]
    [finding] = before["stale"]
    marked = await stale(harness)
    assert marked is not None
    assert (finding["doc_id"], finding["repaired"]) == (str(tide(harness)), False)
    assert (finding["version"], finding["since_ms"]) == (marked.version, marked.since_ms)
    assert "(stale since 20" in finding["reason"]
    assert finding["reason"].endswith(REASON)

    assert (await harness.repair(harness.root))["repaired"] == 1
    again = await stale(harness)
    assert again is not None
    assert (again.since_ms, again.reason) == (marked.since_ms, REASON)
    assert again.version > marked.version, "it was tried again"

    tide(harness).write_text("The tide comes in.")
    await harness.repair(harness.root)
    assert await stale(harness) is None
    assert (await harness.verify(harness.root))["consistent"]


async def test_verify_requeues_what_was_sent(harness: VerifyHarness) -> None:
    await submitted(harness, "note", "A note.")
    await submitted(harness, "note", "\1\2\3\4")
    found = await harness.repair()
    assert [one["doc_id"] for one in found["stale"]] == ["note"]
    assert found["repaired"] == 1
    assert await harness.dead_letters() == {"note": REASON}
    letters = harness.broker.dead_letters
    letter = await letters.find_for_document(harness.names.alias, "", "note")
    assert letter is not None
    await letters.purge([letter])
    found = await harness.repair()
    assert (len(found["stale"]), found["repaired"]) == (1, 0), "there is nothing to try again"


async def test_a_hot_folder_is_done_with_an_empty_file(
    harness: VerifyHarness, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "a.txt").touch()

    async def is_done() -> bool:
        return (inbox / "done" / "a.txt").exists()

    async with watching(harness.broker, WatchedFolder(inbox, hot=True)):
        await eventually(is_done)


async def test_a_file_that_somebody_took_out_of_a_hot_folder_is_no_version(
    harness: VerifyHarness,
) -> None:
    await submitted(harness, "note", "A note.")
    path = str(harness.root / "note")
    receipt = await harness.client.submit_many(
        [Document(doc_id="note", version=MAX_VERSION, source="s", path=path, hot=True)]
    )
    await harness.client.wait(receipt.submission, timeout=60)
    assert await harness.dead_letters() == {"note": FILE_GONE}
    assert await stale(harness, "note") is None


async def test_a_rebuild_keeps_what_is_stale(harness: VerifyHarness) -> None:
    tide(harness).write_bytes(BINARY)
    await harness.scan()
    made_with = fingerprint(harness.model.info, Schema("text"))
    new = CollectionNames.of(harness.names.alias, made_with.digest)
    await make_collection(harness.qdrant, new, made_with, Schema().storage)
    try:
        here = fingerprint(harness.model.info, Schema())
        live = StoredCollection.of(harness.qdrant, harness.names, here)
        other = StoredCollection.of(harness.qdrant, new, made_with)
        rebuild = Rebuild(live, other, harness.model, reuse=True, at_once=2, display=NoDisplay())
        await rebuild.catch_up()
        key = DocumentKey("", str(tide(harness)))
        assert (await other.ledger.look_up([key]))[key].stale == await stale(harness)
        tide(harness).write_text("The tide comes in.")
        await harness.scan()
        await rebuild.catch_up()
        assert (await other.ledger.look_up([key]))[key].stale is None
    finally:
        await harness.qdrant.ask(lambda client: client.delete_collection(new.chunks))
        await harness.qdrant.ask(lambda client: client.delete_collection(new.ledger))


async def test_the_api_and_the_dashboard_say_what_is_stale(harness: VerifyHarness) -> None:
    tide(harness).write_bytes(BINARY)
    await harness.scan()
    marked = await stale(harness)
    assert marked is not None
    settings = Settings(collection=harness.names.alias)
    async with AsyncExitStack() as closing:
        on_demand = QdrantOnDemand(settings, closing, harness.qdrant)
        app = create_app(
            services(
                harness.broker,
                search=SearchService(settings, closing, on_demand),
                index=DocumentLookup(on_demand),
                overview=IndexReader(on_demand, settings.collections),
            ),
            ApiConfig(10_000, collections=settings.collections),
        )
        async with AsyncClient(transport=ASGITransport(app), base_url="http://localhost") as http:
            document = (await http.get(f"/documents/{tide(harness)}")).json()
            assert document["indexed"]["stale"] == {
                "version": marked.version,
                "since_ms": marked.since_ms,
                "reason": REASON,
            }
            assert (await http.get("/status")).json()["collection"]["stale"] == 1
            [hit] = (await http.get("/search", params={"q": "tide"})).json()["hits"]
            assert hit["stale"]
            page = Page((await http.get("/", params={"q": "tide"})).text)
            for said in ("Stale 1", REASON, "stale: a newer version"):
                assert said in page.text
            assert (await http.post("/documents", json=EMPTY_NOTE)).status_code == 202
            upload = await http.post("/documents", files={"file": ("upload.pdf", b"")})
            submission = upload.json()["submission"]
            assert (await harness.client.wait(submission, timeout=60)).warned.documents == 1
            assert (await http.get("/documents/upload.pdf")).json()["indexed"]["warnings"] == [
                EMPTY
            ]
            tide(harness).write_text("The tide goes out.")
            await harness.scan()
            [hit] = (await http.get("/search", params={"q": "tide"})).json()["hits"]
            assert not hit["stale"]


@pytest.mark.slow
def test_commands_say_what_is_stale(ingestq: Ingestq) -> None:
    notes = ingestq.folder / "notes"
    notes.mkdir()
    pdf, text = notes / "mill.pdf", notes / "tide.txt"
    pdf.write_bytes(write_pdf([lines_of("The tide mill grinds rye.")]))
    text.write_text("The tide comes in.")
    assert ingestq("run", notes).code == 0
    pdf.write_bytes(pdf.read_bytes()[:300])
    text.write_text("")
    lines = '\ufeff{"doc_id": "a", "text": ""}\n{"doc_id": "b", "text": "\u200b"}\n'
    assert ingestq("add", "-", "--json", stdin=lines).json["documents"]["queued"] == 2
    ran = ingestq("run", notes, "--json")
    assert ran.code == 1
    assert ran.json["documents"] == {
        **dict.fromkeys(ran.json["documents"], 0),
        "indexed": 1,
        "rejected": 1,
    }
    assert ran.json["warnings"] == [{"doc_id": str(text), "warning": EMPTY}]

    [hit] = ingestq("search", "tide", "--json").json["hits"]
    assert (hit["doc_id"], hit["stale"]) == (str(pdf), True)
    status = ingestq("status", "--warnings", "--json").json
    assert (status["collection"]["documents"], status["collection"]["stale"]) == (4, 1)
    [listed] = status["stale"]
    assert (listed["doc_id"], listed["collection"]) == (str(pdf), "documents")
    assert "was cut off" in listed["reason"]
    checked = ingestq("verify", "--json")
    assert checked.code == 1
    [finding] = checked.json["stale"]
    assert finding["since_ms"] == listed["since_ms"]
