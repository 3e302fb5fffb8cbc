"""Verifying finds the differences between index, ledger and sources, and repairs them."""

import asyncio
import itertools
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from qdrant_client import models

from ingestq.app.composition import Broker
from ingestq.app.ingestion import Ingestion
from ingestq.app.settings import Settings, load_settings
from ingestq.app.verify import LISTED, VerifyReport, VerifyRequest, verify
from ingestq.client.client import new_submission
from ingestq.core.display import NoDisplay
from ingestq.core.documents import Deletion
from ingestq.core.errors import CollectionMismatch, UsageError
from producers.files.walk import ReadOptions, ScanRecord, observe
from tests.bundled import bundled_qdrant
from tests.command import Ingestq
from tests.harness import Harness
from tests.mounts import Mounts
from tests.waiting import eventually
from worker.embedding.pool import ModelPool
from worker.maintenance.rules import Finding, FindingKind, VerifyCounts
from worker.pipeline.points import DocumentKey, ledger_id
from worker.store.client import Qdrant, Request
from worker.store.collection import CollectionNames

T = TypeVar("T")
ENOUGH = 11
"""More documents than may be deleted without permission."""
LONG = "\n\n".join(f"Paragraph {i} goes on about {i}. " * 40 for i in range(3))
"""A text of several chunks."""


@dataclass(frozen=True)
class VerifyHarness(Harness):
    """A harness whose index can be damaged, compared with the folder, and repaired."""

    settings: Settings

    def write_texts(self, **texts: str) -> None:
        for name, text in texts.items():
            (self.root / f"{name}.txt").write_text(text)

    def doc_id(self, name: str) -> str:
        return str(self.root / f"{name}.txt")

    async def add(self, *paths: Path, source: str | None = None) -> None:
        """Queue the folder, or ``paths``."""
        ingestion = Ingestion(self.broker.client, NoDisplay())
        clock = self.broker.queue.issue_version
        record = ScanRecord()
        found = observe(paths or [self.root], source, clock, ReadOptions(), record)
        await ingestion.produce(found, partial(record.sweeps, allow_mass_delete=False))

    async def work(self) -> None:
        """Run a worker until the queue is empty."""
        async with self.working():
            await eventually(self.broker.queue.is_empty)

    async def run(self, *paths: Path, source: str | None = None) -> None:
        await self.add(*paths, source=source)
        await self.work()

    async def verify(
        self,
        *paths: Path,
        repair: bool = False,
        source: str | None = None,
        allow_mass_delete: bool = False,
    ) -> dict[str, Any]:
        wanted = VerifyRequest(paths, source, repair, allow_mass_delete)
        report = await verify(self.broker, self.qdrant, self.settings, wanted, NoDisplay())
        return report.as_json()

    async def repair(self, *paths: Path, **more: Any) -> dict[str, Any]:
        """Repair, and run a worker until the queue is empty."""
        found = await self.verify(*paths, repair=True, **more)
        await self.work()
        return found

    async def chunks(self) -> list[models.Record]:
        records, _ = await self.qdrant.ask(
            lambda client: client.scroll(self.names.chunks, limit=1000, with_payload=True)
        )
        return records

    async def chunk_of(self, name: str) -> models.Record:
        mine = [r for r in await self.chunks() if (r.payload or {})["doc_id"] == self.doc_id(name)]
        return mine[0]

    async def texts(self) -> dict[str, str]:
        """Return the stored texts of each document, read from the chunks, not from the ledger."""
        texts: dict[str, list[tuple[int, str]]] = {}
        for record in await self.chunks():
            p = record.payload or {}
            texts.setdefault(p["doc_id"], []).append((p["chunk_index"], p["page_content"]))
        return {
            doc_id: "".join("".join(text.split()) for _, text in sorted(parts))
            for doc_id, parts in texts.items()
        }

    async def is_equal_to_its_folder(self) -> bool:
        files = {str(p): "".join(p.read_text().split()) for p in self.root.rglob("*.txt")}
        return await self.texts() == files

    async def is_in_order(self) -> bool:
        return await self.is_equal_to_its_folder() and (await self.verify())["consistent"]

    async def set_ledger(self, name: str, **change: Any) -> None:
        point = ledger_id(DocumentKey("", self.doc_id(name)))
        await self.qdrant.ask(
            lambda client: client.set_payload(self.names.ledger, change, points=[point])
        )

    async def forget(self, *names: str) -> None:
        """Delete entries from the ledger."""
        points: Any = [ledger_id(DocumentKey("", self.doc_id(name))) for name in names]
        await self.qdrant.ask(lambda client: client.delete(self.names.ledger, points))

    async def lose(self, *ids: Any) -> None:
        """Delete chunks from the index."""
        await self.qdrant.ask(lambda client: client.delete(self.names.chunks, list(ids)))

    async def plant(self, point: Any, payload: dict[str, Any]) -> None:
        """Add a point to the chunks."""
        planted = models.PointStruct(id=point, vector=[0.1] * 384, payload=payload)
        await self.qdrant.ask(lambda client: client.upsert(self.names.chunks, [planted]))


@pytest.fixture
async def harness(
    broker: Broker,
    qdrant: Qdrant,
    model: ModelPool,
    collection: CollectionNames,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> VerifyHarness:
    """Return a harness with three intact documents."""
    monkeypatch.setenv("INGESTQ_COLLECTION", collection.alias)
    root = tmp_path / "root"
    root.mkdir()
    harness = VerifyHarness.of(broker, qdrant, collection, model, root, settings=load_settings())
    harness.write_texts(tide="The tide comes in.", geese="Geese fly south.", long=LONG)
    await harness.run()
    return harness


def ids(found: dict[str, Any]) -> dict[str, set[str]]:
    """Return the documents of each kind of finding."""
    return {
        kind: {one["doc_id"] for one in found[kind]}
        for kind in ("missing", "orphaned", "stale")
        if found[kind]
    }


async def test_an_intact_index_is_consistent(harness: VerifyHarness) -> None:
    await harness.client.delete_many(
        [
            Deletion(
                doc_id=harness.doc_id("geese"), version=await harness.broker.queue.issue_version()
            )
        ],
        submission=new_submission(),
    )
    (harness.root / "geese.txt").unlink()
    await harness.work()
    chunks = len(await harness.chunks())
    assert chunks > 2, "the long text has several"
    found = await harness.verify(harness.root)
    assert found == {
        "consistent": True,
        "documents": 2,
        "chunks": chunks,
        "missing": [],
        "orphaned": [],
        "stale": [],
        "repaired": 0,
        "found": {"missing": 0, "orphaned": 0, "stale": 0},
        "in_work": 0,
        "not_visible": 0,
        "rejected": 0,
        "unreadable": 0,
        "refused": [],
        "submission": None,
    }
    assert await harness.verify(repair=True) == found


async def a_chunk_is_gone(harness: VerifyHarness) -> None:
    await harness.lose((await harness.chunk_of("long")).id)


async def all_chunks_are_gone(harness: VerifyHarness) -> None:
    await harness.lose(*[record.id for record in await harness.chunks()])


async def a_point_is_of_another_tool(harness: VerifyHarness) -> None:
    await harness.plant(7, {"text": "not ours"})


async def a_chunk_is_too_many(harness: VerifyHarness) -> None:
    payload = (await harness.chunk_of("tide")).payload
    await harness.plant(str(uuid.uuid4()), dict(payload or {}))


async def a_chunk_is_left(harness: VerifyHarness) -> None:
    """Of an earlier attempt."""
    payload = dict((await harness.chunk_of("tide")).payload or {})
    await harness.plant(str(uuid.uuid4()), payload | {"attempt": payload["attempt"] - 1})


async def a_chunk_too_many_has_no_fence(harness: VerifyHarness) -> None:
    payload = dict((await harness.chunk_of("tide")).payload or {})
    del payload["version"]
    await harness.plant(str(uuid.uuid4()), payload)


async def a_chunk_is_of_an_unknown_document(harness: VerifyHarness) -> None:
    payload = dict((await harness.chunk_of("tide")).payload or {})
    await harness.plant(str(uuid.uuid4()), payload | {"doc_id": "unknown"})


async def a_chunk_is_of_an_unknown_tenant(harness: VerifyHarness) -> None:
    payload = dict((await harness.chunk_of("tide")).payload or {})
    await harness.plant(str(uuid.uuid4()), payload | {"tenant": "unknown"})


async def a_chunk_of_a_deleted_document_is_back(harness: VerifyHarness) -> None:
    record = await harness.chunk_of("geese")
    (harness.root / "geese.txt").unlink()
    await harness.run()
    await harness.plant(record.id, dict(record.payload or {}))


async def a_chunk_says_that_it_is_of_another_document(harness: VerifyHarness) -> None:
    """Under the id of one of this document, and with a fence that no worker may replace."""
    record, other = await harness.chunk_of("tide"), await harness.chunk_of("geese")
    newer = {"version": 2**52, "attempt": 1}
    await harness.plant(record.id, dict(other.payload or {}) | newer)


async def a_worker_died_over_a_document(harness: VerifyHarness) -> None:
    await harness.set_ledger("tide", state="writing")


async def a_worker_died_before_it_wrote_a_document(harness: VerifyHarness) -> None:
    await harness.set_ledger("tide", state="writing", chunks_fence=None)
    await harness.lose((await harness.chunk_of("tide")).id)


async def a_worker_died_over_a_deletion(harness: VerifyHarness) -> None:
    (harness.root / "tide.txt").unlink()
    await harness.set_ledger("tide", state="deleting", path=None, chunks=0, chunks_fence=None)


async def a_worker_died_over_clearing_up(harness: VerifyHarness) -> None:
    await harness.set_ledger("tide", state="clearing")
    await a_chunk_is_left(harness)


async def a_chunk_is_another(harness: VerifyHarness) -> None:
    record = await harness.chunk_of("tide")
    await harness.lose(record.id)
    await harness.plant(str(uuid.uuid4()), dict(record.payload or {}))


async def a_file_has_changed(harness: VerifyHarness) -> None:
    harness.write_texts(tide="The tide goes out.")


async def a_file_is_gone(harness: VerifyHarness) -> None:
    (harness.root / "tide.txt").unlink()


async def a_file_is_gone_and_so_are_chunks(harness: VerifyHarness) -> None:
    (harness.root / "long.txt").unlink()
    await harness.lose((await harness.chunk_of("long")).id)


@pytest.mark.parametrize(
    ("damage", "kind", "documents"),
    [
        (a_chunk_is_gone, "missing", {"long"}),
        (all_chunks_are_gone, "missing", {"long", "tide", "geese"}),
        (a_point_is_of_another_tool, "orphaned", {""}),
        (a_chunk_is_too_many, "orphaned", {"tide"}),
        (a_chunk_too_many_has_no_fence, "orphaned", {"tide"}),
        (a_chunk_is_of_an_unknown_document, "orphaned", {"unknown"}),
        (a_chunk_is_of_an_unknown_tenant, "orphaned", {"tide"}),
        (a_chunk_of_a_deleted_document_is_back, "orphaned", {"geese"}),
        (a_chunk_says_that_it_is_of_another_document, "missing", {"tide"}),
        (a_worker_died_over_a_document, "stale", {"tide"}),
        (a_worker_died_before_it_wrote_a_document, "stale", {"tide"}),
        (a_worker_died_over_a_deletion, "stale", {"tide"}),
        (a_worker_died_over_clearing_up, "stale", {"tide"}),
        (a_chunk_is_left, "orphaned", {"tide"}),
        (a_chunk_is_another, "missing", {"tide"}),
        (a_file_has_changed, "stale", {"tide"}),
        (a_file_is_gone, "stale", {"tide"}),
        (a_file_is_gone_and_so_are_chunks, "stale", {"long"}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
async def test_damage_is_found_and_repaired(
    harness: VerifyHarness,
    damage: Callable[[Harness], Awaitable[None]],
    kind: str,
    documents: set[str],
) -> None:
    await damage(harness)
    found = await harness.verify()
    assert not found["consistent"]
    assert {Path(doc_id).stem for doc_id in ids(found)[kind]} == documents
    assert (found["repaired"], found["submission"]) == (0, None)
    assert await harness.verify() == found, "looking changes nothing"

    repaired = await harness.repair()
    assert repaired["repaired"] == sum(repaired["found"].values()) > 0
    assert all(one["repaired"] for one in repaired[kind])
    assert await harness.is_in_order()


async def test_a_document_lost_from_the_ledger_is_restored_from_its_folder(
    harness: VerifyHarness,
) -> None:
    await harness.forget("long")
    found = await harness.repair(harness.root)
    assert ids(found) == {
        "missing": {harness.doc_id("long")},
        "orphaned": {harness.doc_id("long")},
    }
    assert await harness.is_in_order()


@pytest.mark.parametrize("source", [None, "notes"])
async def test_new_files_are_found_only_in_the_given_folders(
    harness: VerifyHarness, source: str | None
) -> None:
    await harness.run(source=source)
    harness.write_texts(new="A new note.")
    (harness.root / ".hidden.txt").write_text("Not looked at.")
    assert (await harness.verify())["consistent"], "no folder is walked unless it is named"
    found = await harness.verify(harness.root, source=source)
    [missing] = found["missing"]
    assert missing["doc_id"] == ("notes/new.txt" if source else harness.doc_id("new"))
    await harness.repair(harness.root, source=source)
    assert (await harness.verify(harness.root, source=source))["consistent"]
    assert missing["doc_id"] in await harness.texts()


async def test_a_touched_file_with_the_same_content_is_consistent(harness: VerifyHarness) -> None:
    os.utime(harness.root / "tide.txt", (1, 1))
    assert (await harness.verify())["consistent"]


async def test_documents_lost_with_redis_are_found(harness: VerifyHarness) -> None:
    harness.write_texts(tide="The tide goes out.", new="A new note.")
    (harness.root / "geese.txt").unlink()
    await harness.add()
    await harness.broker.redis.flushdb()
    found = await harness.repair(harness.root)
    assert ids(found) == {
        "missing": {harness.doc_id("new")},
        "stale": {harness.doc_id("tide"), harness.doc_id("geese")},
    }
    assert await harness.is_in_order()
    assert (await harness.verify(harness.root))["consistent"]


async def test_a_repair_builds_a_missing_collection(harness: VerifyHarness) -> None:
    """There is no collection, and the queue is empty."""
    nowhere = replace(harness, settings=harness.settings.model_copy(update={"collection": "none"}))
    found = await nowhere.verify(harness.root)
    assert (len(found["missing"]), found["documents"]) == (3, 0)
    found = await nowhere.verify(harness.root, repair=True)
    assert found["repaired"] == 3
    status = await harness.broker.queue.submission(found["submission"])
    assert status.accepted == 3


async def test_pending_documents_are_not_reported(harness: VerifyHarness) -> None:
    harness.write_texts(tide="The tide goes out.", new="A new note.")
    (harness.root / "geese.txt").unlink()
    await harness.set_ledger("long", state="writing")
    await a_chunk_is_left(harness)  # as of a worker that was overtaken, and will clear up
    await harness.add()
    before = await harness.chunks()
    found = await harness.verify(harness.root, repair=True)
    assert (found["consistent"], found["in_work"], found["repaired"]) == (True, 4, 0)
    assert await harness.chunks() == before
    await harness.work()
    assert await harness.is_in_order()


async def test_files_that_are_gone_are_reported_unless_a_job_is_pending(
    harness: VerifyHarness,
) -> None:
    paths = [harness.root.parent / f"{name}.txt" for name in ("one", "two")]
    for path in paths:
        path.write_text(f"A note called {path.stem}.")
        await harness.client.submit(path.stem, source="elsewhere", path=str(path))
    await harness.work()
    for path in paths:
        path.unlink()
    deletion = Deletion(doc_id="one", version=await harness.broker.queue.issue_version())
    await harness.client.delete_many([deletion], submission=new_submission())
    found = await harness.repair()
    assert (ids(found), found["in_work"]) == ({"stale": {"two"}}, 1)
    assert await harness.is_in_order()


async def test_a_deleted_document_is_missing_if_its_file_still_exists(
    harness: VerifyHarness,
) -> None:
    deletion = Deletion(
        doc_id=harness.doc_id("tide"), version=await harness.broker.queue.issue_version()
    )
    await harness.client.delete_many([deletion], submission=new_submission())
    await harness.work()
    assert (await harness.verify())["consistent"]
    assert ids(await harness.repair(harness.root)) == {"missing": {harness.doc_id("tide")}}
    assert await harness.is_in_order()


async def test_an_incomplete_document_is_reported_even_while_a_job_is_pending(
    harness: VerifyHarness,
) -> None:
    """A worker would find it unchanged, and not write it."""
    await harness.lose((await harness.chunk_of("long")).id)
    await harness.add()
    assert ids(await harness.repair()) == {"missing": {harness.doc_id("long")}}
    assert await harness.is_in_order()


async def test_a_document_without_a_file_must_be_sent_again(harness: VerifyHarness) -> None:
    async def send() -> None:
        await harness.client.submit("letter", source="post", text=LONG, version=7)
        await harness.work()

    await send()
    lost = next(r for r in await harness.chunks() if (r.payload or {})["doc_id"] == "letter")
    await harness.lose(lost.id)
    for kind in ("missing", "stale"):  # from the first on it is known to be not whole
        found = await harness.repair()
        assert (found["consistent"], found["repaired"]) == (False, 0)
        [finding] = found[kind]
        assert (finding["doc_id"], finding["repaired"]) == ("letter", False)
        assert "send it again" in finding["reason"]
    await send()
    assert (await harness.verify())["consistent"]
    assert (await harness.texts())["letter"] == "".join(LONG.split())


async def test_a_repair_keeps_the_callers_own_version(harness: VerifyHarness) -> None:
    path = harness.root.parent / "own.txt"
    path.write_text("As it was.")
    put = partial(harness.client.submit, "own", source="own", path=str(path))
    await put(version=7)
    await harness.work()
    path.write_text("As it is.")
    assert ids(await harness.repair()) == {"stale": {"own"}}
    assert (await harness.texts())["own"] == "Asitis."
    path.write_text("As it will be.")
    await put(version=8)
    await harness.work()
    assert (await harness.texts())["own"] == "Asitwillbe."
    path.unlink()
    await harness.repair()
    assert "own" not in await harness.texts()


async def test_files_that_are_not_visible_are_not_gone(harness: VerifyHarness) -> None:
    shutil.move(harness.root, harness.root.with_name("elsewhere"))
    found = await harness.verify(repair=True, allow_mass_delete=True)
    assert (found["consistent"], found["not_visible"]) == (True, 3)
    with pytest.raises(UsageError, match="root"):
        await harness.verify(harness.root)


async def test_files_of_a_removed_subfolder_are_gone(harness: VerifyHarness) -> None:
    (harness.root / "sub").mkdir()
    (harness.root / "sub" / "deep.txt").write_text("A note far down.")
    await harness.run()
    shutil.rmtree(harness.root / "sub")
    assert (await harness.verify())["not_visible"] == 1
    assert ids(await harness.repair(harness.root)) == {
        "stale": {str(harness.root / "sub" / "deep.txt")}
    }
    assert await harness.is_in_order()


async def test_many_gone_files_are_deleted_only_with_permission(harness: VerifyHarness) -> None:
    harness.write_texts(**{f"n{i}": f"Note {i}." for i in range(ENOUGH)})
    await harness.run()
    for i in range(ENOUGH):
        (harness.root / f"n{i}.txt").unlink()
    found = await harness.repair()
    assert (found["found"]["stale"], found["repaired"]) == (ENOUGH, 0)
    [refused] = found["refused"]
    assert refused.startswith(f"{ENOUGH} of {ENOUGH + 3} files are gone")
    assert "--allow-mass-delete" in refused
    assert len(await harness.texts()) == ENOUGH + 3
    assert (await harness.repair(allow_mass_delete=True))["repaired"] == ENOUGH
    assert await harness.is_in_order()


async def test_files_of_an_unmounted_disk_are_deleted_only_with_permission(
    harness: VerifyHarness, mounts: Mounts
) -> None:
    disk = harness.root / "disk"
    mounts.mount(disk)
    (disk / "deep.txt").write_text("A note on a disk.")
    harness.write_texts(gone="A note that somebody deletes.")
    await harness.run(source="notes")
    mounts.unmount(disk)
    harness.root.joinpath("gone.txt").unlink()
    found = await harness.repair()
    assert (found["found"]["stale"], found["repaired"]) == (2, 1)
    [refused] = found["refused"]
    assert refused.startswith("1 of 8 files are gone (notes/disk is not mounted any more)")
    assert "notes/disk/deep.txt" in await harness.texts()
    assert (await harness.repair(allow_mass_delete=True))["repaired"] == 1
    assert "notes/disk/deep.txt" not in await harness.texts()


async def test_a_lost_ledger_does_not_delete_the_index(harness: VerifyHarness) -> None:
    names = [f"n{i}" for i in range(ENOUGH)]
    harness.write_texts(**{name: f"Note {name}." for name in names})
    await harness.run()
    await harness.forget(*names)
    found = await harness.repair()
    assert (found["found"]["orphaned"], found["repaired"]) == (ENOUGH, 0)
    assert "the ledger does not know" in found["refused"][0]
    assert await harness.is_equal_to_its_folder()
    await harness.repair(harness.root, allow_mass_delete=True)
    assert await harness.is_in_order()


async def test_a_dead_lettered_file_is_not_missing_until_it_changes(harness: VerifyHarness) -> None:
    scan, tide = harness.root / "scan.pdf", harness.root / "tide.txt"
    scan.write_bytes(b"%PDF-1.4 nothing")
    tide.write_bytes(bytes(range(256)))
    for path in (scan, tide):
        os.utime(path, (1, 1))
    (harness.root / "broken").symlink_to("nowhere")
    assert ids(await harness.repair(harness.root)) == {"missing": {str(scan)}, "stale": {str(tide)}}
    found = await harness.verify(harness.root)
    assert ids(found) == {"stale": {str(tide)}}
    assert (found["consistent"], found["rejected"], found["unreadable"]) == (False, 1, 1)
    tide.write_text("A tide again.")
    scan.write_text("Not a scan any more.")
    assert ids(await harness.repair(harness.root)) == {"missing": {str(scan)}, "stale": {str(tide)}}


async def test_a_collection_of_another_model_is_not_repaired(harness: VerifyHarness) -> None:
    other = replace(
        harness, settings=harness.settings.model_copy(update={"model": "another/model"})
    )
    found = await other.verify()
    assert not found["consistent"]
    assert "another/model" in found["refused"][0]
    with pytest.raises(CollectionMismatch):
        await other.verify(repair=True)


@dataclass
class InterruptedQdrant:
    """A Qdrant that runs something after the ``n``-th request."""

    qdrant: Qdrant
    left: int
    happen: Callable[[], Awaitable[None]]

    async def ask(self, request: Request[T]) -> T:
        answer = await self.qdrant.ask(request)
        self.left -= 1
        if self.left == 0:
            await self.happen()
        return answer


async def at_each_request(
    harness: VerifyHarness, happen: Callable[[], Awaitable[None]]
) -> AsyncIterator[tuple[int, VerifyHarness]]:
    """Yield a harness for each request of a verification; something happens after that request."""
    for at in itertools.count(1):
        meddling = InterruptedQdrant(harness.qdrant, at, happen)
        yield at, replace(harness, qdrant=meddling)
        if meddling.left > 0:
            assert at > REQUESTS
            return


REQUESTS = 6
"""Fewer requests than a verification makes."""


async def test_changes_during_a_verification_are_not_reported(harness: VerifyHarness) -> None:
    versions = itertools.count(1)

    async def happen() -> None:
        version = next(versions)
        harness.write_texts(tide=f"Tide {version}.", **{f"new{version}": "New."})
        await harness.client.submit(
            "letter", source="post", text=f"Letter {version}. {LONG[version:]}"
        )
        await harness.add()
        await harness.work()

    async for at, changing in at_each_request(harness, happen):
        found = await changing.verify()
        assert found["consistent"], (at, found)


@pytest.mark.slow
async def test_a_repair_keeps_chunks_that_a_worker_writes_meanwhile(harness: VerifyHarness) -> None:
    """Even if it writes the very chunks that were found to be orphaned."""
    versions = itertools.count(1)

    async def happen() -> None:
        harness.write_texts(geese=f"Geese {next(versions)}.")
        await harness.run()

    async for at, changing in at_each_request(harness, happen):
        await harness.forget("tide")
        await harness.lose((await harness.chunk_of("long")).id)
        await changing.verify(harness.root, repair=True)
        await harness.work()
        assert await harness.is_equal_to_its_folder(), at


async def test_a_running_worker_causes_no_false_findings(harness: VerifyHarness) -> None:
    looks = 0

    async def change(name: str) -> None:
        for i in itertools.count():
            if i > 5:
                await eventually(harness.broker.queue.is_empty)
                if looks > 2:
                    return
            await harness.client.submit(name, source=name, text=f"Version {i}. {LONG[:2000]}")
            if i % 3 == 2:
                version = await harness.broker.queue.issue_version()
                deletion = Deletion(doc_id=name, version=version)
                await harness.client.delete_many([deletion], submission=new_submission())

    async with harness.working():
        changing = asyncio.gather(*(change(f"letter {i}") for i in range(4)))
        while not (changing.done() and await harness.broker.queue.is_empty()):
            found = await harness.verify(repair=True)
            assert (found["consistent"], found["repaired"]) == (True, 0), found
            looks += 1
        await changing
    assert (await harness.verify())["consistent"]


def test_listed_findings_are_bounded_and_counts_are_complete() -> None:
    report = VerifyReport(VerifyCounts())
    for i in range(LISTED + 1):
        report.add(Finding(FindingKind.STALE, DocumentKey("", str(i)), "old", None), repaired=False)
    answer = report.as_json()
    assert (len(answer["stale"]), answer["found"]["stale"]) == (LISTED, LISTED + 1)


@pytest.mark.slow
async def test_the_command_finds_and_repairs(ingestq: Ingestq) -> None:
    folder = ingestq.folder / "notes"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.txt").write_text(f"A note called {name}.")
    assert ingestq("run", folder).code == 0
    ran = ingestq("verify", folder)
    assert (ran.code, ran.out.splitlines()) == (
        0,
        ["consistent: 2 documents, 2 chunks; 0 missing, 0 orphaned, 0 stale"],
    )

    async with bundled_qdrant(ingestq.folder / ".ingestq") as qdrant:
        records, _ = await qdrant.ask(lambda client: client.scroll("documents"))
        [lost] = [r.id for r in records if (r.payload or {})["doc_id"].endswith("a.txt")]
        await qdrant.ask(lambda client: client.delete("documents", [lost]))
    (folder / "new.txt").write_text("A new note.")

    ran = ingestq("verify", folder)
    assert ran.code == 1
    assert f"missing: {folder}/a.txt: 1 of its 1 chunks are missing" in ran.out
    assert f"missing: {folder}/new.txt: the file is not in the index" in ran.out
    assert "--repair" in ran.out
    ran = ingestq("verify", folder, "--repair", "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["consistent"], ran.json["repaired"]) == (False, 2)
    submission = ingestq("status", ran.json["submission"], "--json").json
    assert (submission["accepted"], submission["complete"]) == (2, False)

    assert ingestq("run", folder).code == 0
    ran = ingestq("verify", folder, "--json")
    assert (ran.code, ran.json["consistent"], ran.json["documents"]) == (0, True, 3)


@pytest.mark.slow
def test_the_command_explains_a_wrong_request(ingestq: Ingestq) -> None:
    ingestq("verify", "nowhere").failed_with(2, "nowhere")
    ingestq("verify", "--source", "notes").failed_with(2, "--source")
    ingestq.settings["redis_url"] = "redis://127.0.0.1:1"
    ingestq("verify").failed_with(3, "Redis does not answer")
