"""A collection is exported with its ledger while workers go on, and imported whole."""

import asyncio
import io
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import models

from ingestq.app.backup import (
    ExportResult,
    ImportResult,
    export_collection,
    import_collection,
    new_file,
)
from ingestq.app.settings import Settings, load_settings
from ingestq.app.verify import VerifyRequest, verify
from ingestq.broker.queue.gate import Gate
from ingestq.core.display import Activity, Display, NoDisplay
from ingestq.core.documents import Document
from ingestq.core.errors import CollectionMismatch, StoreUnavailable, UsageError
from tests.harness import Harness
from tests.qdrant_proxy import QdrantProxy
from tests.waiting import eventually
from worker.maintenance import export as export_module
from worker.maintenance import restore
from worker.maintenance.export_file import ExportReader, Portion
from worker.pipeline.points import DocumentKey, SearchHit
from worker.store.chunks import QdrantStore
from worker.store.client import Qdrant, QdrantConfig, connect_qdrant
from worker.store.collection import CollectionNames, find_collection, open_collection
from worker.store.ledger import QdrantLedger
from worker.store.schema import Schema, fingerprint

QUERY = "a note about geese"
SECTIONS = 3
EDITIONS = 4
"""So often all documents are edited while they are exported again and again."""


def text_of(doc_id: str, edition: int) -> str:
    """Return a text of several chunks, each of which says which edition it is of."""
    paragraphs = [
        f"# {doc_id}, section {i}\n\nEdition {edition}. " + f"The {doc_id} of {i} tides. " * 40
        for i in range(SECTIONS)
    ]
    return "\n\n".join(paragraphs)


@dataclass(frozen=True)
class Backup:
    """A collection that is indexed by ``harness``, and others beside it."""

    harness: Harness
    settings: Settings

    @property
    def qdrant(self) -> Qdrant:
        return self.harness.qdrant

    def named(self, name: str) -> Settings:
        """Return settings for another collection, which is deleted with the first."""
        return self.settings.model_copy(update={"collection": f"{self.harness.names.alias}{name}"})

    async def exported(self, settings: Settings | None = None) -> tuple[bytes, ExportResult]:
        file = io.BytesIO()
        result = await export_collection(self.qdrant, settings or self.settings, file, NoDisplay())
        return file.getvalue(), result

    async def imported(
        self,
        content: bytes,
        settings: Settings,
        qdrant: Qdrant | None = None,
        *,
        merge: bool = False,
        display: Display | None = None,
    ) -> ImportResult:
        reader = ExportReader(io.BytesIO(content), "backup")
        return await import_collection(
            self.harness.broker,
            qdrant or self.qdrant,
            settings,
            reader,
            None,
            display or NoDisplay(),
            merge=merge,
        )

    async def store(self, settings: Settings) -> QdrantStore:
        return QdrantStore(self.qdrant, (await self.names(settings)).chunks)

    async def names(self, settings: Settings) -> CollectionNames:
        found = await find_collection(self.qdrant, settings.collection)
        assert found is not None
        return found

    async def hits(self, settings: Settings, *, by_words: bool = False) -> list[SearchHit]:
        """Return the hits of a search by meaning, or by words; equally good ones in one order."""
        query = await self.harness.model.embed_query(QUERY)
        store = await self.store(settings)
        dense, sparse = (None, query.sparse) if by_words else (query.dense, None)
        hits = await store.search(dense, 100, sparse=sparse)
        return sorted(hits, key=lambda hit: (-hit.score, hit.doc_id, hit.chunk_index))

    async def submit(self, *documents: Document) -> None:
        receipt = await self.harness.client.submit_many(documents)
        await self.harness.client.wait(receipt.submission, timeout=60)


@pytest.fixture
def backup(harness: Harness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Backup:
    monkeypatch.chdir(tmp_path)
    settings = load_settings().model_copy(update={"collection": harness.names.alias})
    return Backup(harness, settings)


def portions(content: bytes) -> list[Portion]:
    return list(ExportReader(io.BytesIO(content), "backup").portions())


async def fill(backup: Backup) -> None:
    """Index files and texts: several tenants, empty, moved, deleted, stale, and with warnings."""
    harness = backup.harness
    harness.write("a.md", "b.md", "lamps/geese.md")
    (harness.root / "empty.md").write_text("")
    (harness.root / "moves.md").write_text("Geese move in autumn.")
    await harness.scan()
    (harness.root / "moves.md").rename(harness.root / "moved.md")
    (harness.root / "b.md").unlink()
    await harness.scan(allow_mass_delete=True)
    (harness.root / "a.md").write_bytes(bytes(range(256)) * 8)
    await harness.scan()
    metadata = {"n": 2**64 - 1, "f": -0.0, "tags": ["x", {"y": [None, "\x00\u2028"]}]}
    of_tenant = Document(
        doc_id="lamp",
        version=7,
        source="erp",
        tenant="t",
        text=text_of("lamp", 7),
        metadata=metadata,
    )
    await backup.submit(of_tenant, Document(doc_id="gone", version=3, source="erp", text="Bread."))
    receipt = await harness.client.delete("gone", version=4)
    await harness.client.wait(receipt.submission, timeout=60)


@pytest.mark.slow
async def test_an_import_holds_the_same_and_a_rerun_finds_all_unchanged(backup: Backup) -> None:
    await fill(backup)
    content, result = await backup.exported()
    assert (result.totals.documents, result.totals.deleted, result.left_out.count) == (5, 3, 0)
    harness, copy = backup.harness, backup.named("-copy")
    await harness.broker.redis.flushdb()

    imported = await backup.imported(content, copy)
    assert imported.counts.chunks == result.totals.chunks
    assert imported.reindex is None
    again, _ = await backup.exported(copy)
    assert portions(again) == portions(content)
    assert await backup.hits(copy) == await backup.hits(backup.settings) != []

    names = await backup.names(copy)
    beside = Harness.of(harness.broker, harness.qdrant, names, harness.model, harness.root)
    assert await beside.ledger.count_stale() == await harness.ledger.count_stale() == 1
    assert await beside.ledger.count_warned() == await harness.ledger.count_warned() == 1
    async with beside.working():
        summary = await beside.scan()
        assert summary.chunks.embedded == 0
        assert (summary.documents.unchanged, summary.documents.indexed) == (3, 0)
        older = Document(
            collection=copy.collection, doc_id="gone", version=3, source="erp", text="Bread."
        )
        receipt = await beside.client.submit_many([older])
        done = await beside.client.wait(receipt.submission, timeout=60)
        assert done.documents.superseded == 1, "a deleted version does not come back"
        (harness.root / "moved.md").write_text("Geese stay.")
        assert (await beside.scan()).documents.indexed == 1, "an edit is newer than the import"
    request = VerifyRequest([harness.root], None, repair=False, allow_mass_delete=False)
    report = await verify(harness.broker, harness.qdrant, copy, request, NoDisplay())
    assert report.found.total() == 1, report.as_json()  # the stale one


@pytest.mark.slow
async def test_every_document_is_whole_while_all_are_edited(
    backup: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "GROUP_CHUNKS", 1)
    harness, doc_ids = backup.harness, [f"d{i}" for i in range(3)]
    edition = 0
    stopped = asyncio.Event()

    async def edit() -> None:
        nonlocal edition
        while not stopped.is_set():
            edition += 1
            texts = {doc_id: text_of(doc_id, edition) for doc_id in doc_ids}
            await backup.submit(
                *(
                    Document(doc_id=d, version=edition, source="erp", text=text)
                    for d, text in texts.items()
                )
            )

    editing = asyncio.create_task(edit())
    try:
        await eventually(harness.ledger.count, lambda n: n == len(doc_ids))
        contents = [await backup.exported()]
        while edition < EDITIONS:
            contents.append(await backup.exported())
    finally:
        stopped.set()
        await editing
    for content, result in contents:
        whole = {portion.entry.doc_id: portion for portion in portions(content)}
        left_out = {key.doc_id for key in result.left_out.listed}
        assert whole.keys() | left_out == set(doc_ids)
        assert not whole.keys() & left_out
        assert whole
        for portion in whole.values():
            said = " ".join(chunk.payload["page_content"] for chunk in portion.chunks)
            found = re.findall(r"Edition (\d+)\.", said)
            assert found == [str(portion.entry.version)] * SECTIONS
    copy = backup.named("-copy")
    last, result = contents[-1]
    await backup.imported(last, copy)
    names = await backup.names(copy)
    ledger = QdrantLedger(harness.qdrant, names.ledger)
    assert await ledger.count() == result.totals.documents
    request = VerifyRequest((), None, repair=False, allow_mass_delete=False)
    report = await verify(harness.broker, harness.qdrant, copy, request, NoDisplay())
    assert report.consistent, report.as_json()


async def test_a_document_that_a_dead_worker_left_is_named(
    backup: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "PATIENCE_SECONDS", 0.3)
    harness = backup.harness
    harness.write("a.md", "b.md")
    await harness.scan()
    key = DocumentKey("", str(harness.root / "a.md"))
    entry = (await harness.ledger.look_up([key]))[key]
    assert await harness.ledger.invalidate(entry)
    content, result = await backup.exported()
    assert [p.entry.doc_id for p in portions(content)] == [str(harness.root / "b.md")]
    assert result.as_json()["left_out_documents"] == [{"doc_id": key.doc_id, "tenant": ""}]


@dataclass
class AfterSome:
    """A display that calls ``then`` once, when ``documents`` of an import are done."""

    documents: int
    then: Callable[[], None]

    def show(self, activity: Activity) -> None:
        if activity.done == self.documents:
            self.then()


@pytest.fixture
async def behind(proxied_qdrant: QdrantProxy) -> AsyncIterator[Qdrant]:
    async with connect_qdrant(QdrantConfig(proxied_qdrant.url, None)) as opened:
        yield opened


async def interrupt(
    backup: Backup, proxy: QdrantProxy, behind: Qdrant, content: bytes, copy: Settings
) -> None:
    """Import two documents, and fail at the third."""
    fail = partial(proxy.faults.answer_next, 1, 507, path_contains="points/batch")
    with pytest.raises(StoreUnavailable, match="Run the import again to finish it"):
        await backup.imported(content, copy, behind, display=AfterSome(2, fail))


async def test_an_interrupted_import_is_not_visible_and_goes_on(
    backup: Backup,
    proxied_qdrant: QdrantProxy,
    behind: Qdrant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(restore, "BATCH_DOCUMENTS", 1)
    harness, copy = backup.harness, backup.named("-copy")
    harness.write(*(f"{name}.md" for name in "abcde"))
    await harness.scan()
    content, _ = await backup.exported()
    await interrupt(backup, proxied_qdrant, behind, content, copy)
    assert await find_collection(backup.qdrant, copy.collection) is None
    made_with = fingerprint(harness.model.info)
    with pytest.raises(CollectionMismatch, match="`ingestq import` with the same file again"):
        await open_collection(backup.qdrant, copy.collection, made_with)
    assert await find_collection(backup.qdrant, copy.collection) is None

    result = await backup.imported(content, copy)
    assert (result.counts.documents, result.counts.kept) == (3, 2)
    again, _ = await backup.exported(copy)
    before, after = ({p.entry.doc_id: p for p in portions(c)} for c in (content, again))
    assert after.keys() == before.keys()
    for doc_id, portion in after.items():
        assert [chunk.vector for chunk in portion.chunks] == [
            chunk.vector for chunk in before[doc_id].chunks
        ]
    for by_words in (False, True):
        hits = await backup.hits(backup.settings, by_words=by_words)
        assert await backup.hits(copy, by_words=by_words) == hits != []
    assert (await open_collection(backup.qdrant, copy.collection, made_with)).chunks


async def test_a_part_of_another_export_is_replaced(
    backup: Backup,
    proxied_qdrant: QdrantProxy,
    behind: Qdrant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(restore, "BATCH_DOCUMENTS", 1)
    harness, copy = backup.harness, backup.named("-copy")
    harness.write(*(f"{name}.md" for name in "abcd"))
    await harness.scan()
    first, _ = await backup.exported()
    for name in "abc":
        (harness.root / f"{name}.md").unlink()
    await harness.scan(allow_mass_delete=True)
    second, _ = await backup.exported()
    await interrupt(backup, proxied_qdrant, behind, first, copy)
    await backup.imported(second, copy)
    again, result = await backup.exported(copy)
    assert (result.totals.documents, result.totals.deleted) == (1, 3)
    assert portions(again) == portions(second)


async def test_a_merge_keeps_the_newest_version_of_each_document(backup: Backup) -> None:
    harness, copy = backup.harness, backup.named("-copy")

    def edition(doc_id: str, version: int, **more: Any) -> Document:
        text = text_of(doc_id, version)
        return Document(doc_id=doc_id, version=version, source="erp", text=text, **more)

    await backup.submit(*(edition(doc_id, 1) for doc_id in ("x", "y", "z")))
    first, _ = await backup.exported()
    await backup.imported(first, copy)
    beside = Harness.of(
        harness.broker,
        harness.qdrant,
        await backup.names(copy),
        harness.model,
        harness.root,
    )
    async with beside.working():
        name = copy.collection
        receipt = await beside.client.submit_many([edition("x", 2, collection=name)])
        await beside.client.wait(receipt.submission, timeout=60)
        receipt = await beside.client.delete("z", version=2, collection=name)
        await beside.client.wait(receipt.submission, timeout=60)
        await backup.submit(edition("y", 2), edition("w", 1))
        second, _ = await backup.exported()
        merged = await backup.imported(second, copy, merge=True)
        assert (merged.counts.documents, merged.counts.kept) == (2, 2)
        again = await backup.imported(second, copy, merge=True)
        assert (again.counts.documents, again.counts.kept) == (0, 4)
    assert await versions(beside) == {"w": 1, "x": 2, "y": 2}

    receipt = await harness.client.delete("y", version=3)
    await harness.client.wait(receipt.submission, timeout=60)
    third, _ = await backup.exported()
    assert (await backup.imported(third, copy, merge=True)).counts.deleted == 1
    assert await versions(beside) == {"w": 1, "x": 2}
    request = VerifyRequest((), None, repair=False, allow_mass_delete=False)
    report = await verify(harness.broker, harness.qdrant, copy, request, NoDisplay())
    assert report.consistent, report.as_json()


async def test_a_merge_writes_nothing_to_a_collection_that_a_rebuild_replaces(
    backup: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore, "BATCH_DOCUMENTS", 1)
    harness, copy = backup.harness, backup.named("-copy")
    harness.write("a.md")
    await harness.scan()
    first, _ = await backup.exported()
    names = CollectionNames.of(copy.collection, fingerprint(harness.model.info).digest)
    gate = Gate(harness.broker.redis, harness.broker.config, names.chunks)
    await gate.replace_with("a collection of the past")
    await backup.imported(first, copy)
    assert await gate.wait_until_open() is None, "workers get its jobs"

    harness.write("b.md", "c.md")
    await harness.scan()
    second, _ = await backup.exported()
    ledger = QdrantLedger(harness.qdrant, names.ledger)
    async with gate.shut():  # as in the cut-over of a rebuild, which has copied everything
        importing = asyncio.create_task(backup.imported(second, copy, merge=True))
        await asyncio.wait([importing], timeout=0.3)
        assert await ledger.count() == 1
        await gate.replace_with("the new collection")
    with pytest.raises(CollectionMismatch, match="Run the import again"):
        await importing
    assert await ledger.count() == 1


async def versions(harness: Harness) -> dict[str, int]:
    """Return the version of each document, which all of its chunks say."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    for payload in await harness.payloads():
        [said] = re.findall(r"Edition (\d+)\.", payload["page_content"]) or [None]
        if said is not None:
            found[payload["doc_id"]].add(int(said))
    assert all(len(said) == 1 for said in found.values())
    ledger = {
        e.doc_id: e.version async for page in harness.ledger.entries() for e in page if e.indexed
    }
    assert ledger == {doc_id: max(said) for doc_id, said in found.items()}
    return ledger


async def test_what_does_not_fit_is_refused_before_anything_is_written(backup: Backup) -> None:
    harness = backup.harness
    harness.write("a.md")
    await harness.scan()
    content, _ = await backup.exported()
    with pytest.raises(UsageError, match=r"there is a collection .* already\. Pass --merge"):
        await backup.imported(content, backup.settings)

    other = backup.named("-other")
    await open_collection(
        backup.qdrant, other.collection, fingerprint(harness.model.info, Schema("text"))
    )
    with pytest.raises(CollectionMismatch, match=r"vectors cannot be mixed\. Import it with"):
        await backup.imported(content, other, merge=True)

    copy = backup.named("-copy").model_copy(update={"model": "test/other", "hybrid": False})
    needed = f"set INGESTQ_MODEL={harness.model.info.name} INGESTQ_HYBRID=true to import it"
    with pytest.raises(CollectionMismatch, match=re.escape(needed)):
        await backup.imported(content, copy)
    with pytest.raises(UsageError, match="nothing is indexed under"):
        await backup.exported(copy)
    assert await find_collection(backup.qdrant, copy.collection) is None


async def test_an_export_fails_as_a_whole_if_qdrant_goes_away(
    backup: Backup, proxied_qdrant: QdrantProxy, behind: Qdrant, tmp_path: Path
) -> None:
    backup.harness.write("a.md")
    await backup.harness.scan()
    proxied_qdrant.faults.answer_next(1, 507, path_contains="points/scroll")
    target = tmp_path / "out" / "backup.gz"
    target.parent.mkdir()
    with pytest.raises(StoreUnavailable), new_file(target, force=False) as file:
        await export_collection(behind, backup.settings, file, NoDisplay())
    assert list(target.parent.iterdir()) == []


async def points_of(backup: Backup, name: str) -> list[models.PointStruct]:
    """Return all points of a collection, as a snapshot has them."""
    records, _ = await backup.qdrant.ask(
        lambda client: client.scroll(name, limit=1000, with_payload=True, with_vectors=True)
    )
    points: list[dict[str, Any]] = [record.model_dump() for record in records]
    return [
        models.PointStruct(id=p["id"], vector=p["vector"] or {}, payload=p["payload"])
        for p in points
    ]


async def restore_points(backup: Backup, name: str, points: list[models.PointStruct]) -> None:
    """Let a collection hold nothing but ``points``, as restoring a snapshot does."""
    everything = models.FilterSelector(filter=models.Filter())
    await backup.qdrant.ask(lambda client: client.delete(name, everything, wait=True))
    await backup.qdrant.ask(lambda client: client.upsert(name, points, wait=True))


@pytest.mark.slow
@pytest.mark.parametrize("older", ["chunks", "ledger"])
async def test_snapshots_of_two_moments_are_repaired(backup: Backup, older: str) -> None:
    harness = backup.harness
    harness.write("same.md", "edited.md", "deleted.md")
    await harness.scan()
    name = harness.names.chunks if older == "chunks" else harness.names.ledger
    snapshot = await points_of(backup, name)
    (harness.root / "edited.md").write_text(text_of("edited", 2))
    (harness.root / "deleted.md").unlink()
    harness.write("new.md")
    await harness.scan(allow_mass_delete=True)
    await restore_points(backup, name, snapshot)

    request = VerifyRequest([harness.root], None, repair=True, allow_mass_delete=True)
    found = await verify(harness.broker, harness.qdrant, backup.settings, request, NoDisplay())
    assert found.found.total() > 0
    await eventually(harness.broker.queue.is_empty)
    request = VerifyRequest([harness.root], None, repair=False, allow_mass_delete=False)
    report = await verify(harness.broker, harness.qdrant, backup.settings, request, NoDisplay())
    assert report.consistent, report.as_json()
    assert await harness.indexed_files() == {"same.md", "edited.md", "new.md"}
