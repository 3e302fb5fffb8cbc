"""Whatever damage index and ledger have, a repair makes them equal to the folder again."""

import asyncio
import itertools
import os
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_client import models

from ingestq.broker.queue.pending import PendingDocuments
from ingestq.core.documents import Deletion, Document, Lane, SeenDocuments
from ingestq.core.paths import file_state, path_to_text
from tests.examples import few_or_many
from tests.integration.test_index_truth import SMALL, Memory, Words, words_at
from worker.blobs import BlobContents
from worker.maintenance.reconcile import QueueView, Reconciler
from worker.maintenance.repair import Repairer
from worker.maintenance.rules import Finding
from worker.maintenance.sources import Sources
from worker.pipeline.ingest import Work, delete, ingest
from worker.pipeline.points import DocumentKey, EntryState, ledger_id
from worker.pipeline.ports import Ports
from worker.store.chunks import QdrantStore
from worker.store.collection import CollectionNames, open_collection
from worker.store.inventory import Inventory
from worker.store.ledger import QdrantLedger
from worker.text.parts import PreparedDocument, Segment, SegmentStart, UnchangedContent

NAMES = ("a", "b", "c")
LATER = 2 * 10**15
"""A time of Redis."""


class FileWords(Words):
    """A model for which every word of a file is a chunk."""

    async def prepare(
        self, lane: Lane, document: Document, known_hash: str | None
    ) -> PreparedDocument | UnchangedContent:
        assert document.path is not None
        text, state = _read(document, Path(document.path))
        inline = msgspec.structs.replace(document, text=text, path=None)
        prepared = await super().prepare(lane, inline, known_hash)
        if isinstance(prepared, UnchangedContent):
            return UnchangedContent(prepared.content_hash, state)
        return PreparedDocument(prepared.content_hash, state, prepared.title, prepared.first)

    async def prepare_rest(self, lane: Lane, document: Document, rest: SegmentStart) -> Segment:
        assert document.path is not None
        text, _ = _read(document, Path(document.path))
        return words_at(text, rest.start)


@dataclass
class IndexedFolder:
    """An index of ``folder``, with everything needed to write it."""

    folder: Path
    memory: Memory
    names: CollectionNames
    owners: dict[Any, str] = field(default_factory=dict)
    """The document of each chunk, by its id, as `note_owners` has found them."""
    clock: "itertools.count[int]" = field(default_factory=lambda: itertools.count(LATER))

    @property
    def ledger(self) -> QdrantLedger:
        return QdrantLedger(self.memory, self.names.ledger)

    @property
    def inventory(self) -> Inventory:
        return Inventory(self.memory, self.names.chunks)

    async def now(self) -> int:
        return next(self.clock)

    async def write(self, documents: Sequence[Document]) -> None:
        ports = Ports(
            FileWords(), QdrantStore(self.memory, self.names.chunks), self.ledger, BlobContents()
        )
        for document in documents:
            key = DocumentKey("", document.doc_id)
            entry = (await ports.ledger.look_up([key])).get(key)
            await ingest(Work(document, entry, next(self.clock)), ports, lambda *_: None)

    async def delete(self, deletions: Sequence[Deletion]) -> None:
        ports = Ports(
            FileWords(), QdrantStore(self.memory, self.names.chunks), self.ledger, BlobContents()
        )
        for deletion in deletions:
            await delete(deletion, next(self.clock), ports)

    async def note_owners(self) -> None:
        records, _ = await self.memory.client.scroll(self.names.chunks, limit=100)
        self.owners = {record.id: (record.payload or {})["doc_id"] for record in records}

    async def documents(self) -> Any:
        for path in sorted(self.folder.iterdir()):
            text = path_to_text(path)
            document = Document(
                doc_id=text, version=await self.now(), source=text, path=text, scanned=True
            )
            yield msgspec.structs.replace(document, file=file_state(document, path.stat()))

    async def reconcile(self, *, repair: bool) -> list[Finding]:
        async def pending(about: Any) -> PendingDocuments:
            return PendingDocuments(SeenDocuments(b""), (), has_unknown_jobs=False)

        async def dead_letters(documents: Sequence[Document]) -> list[None]:
            return [None for _ in documents]

        reconciler = Reconciler(
            self.ledger,
            self.inventory,
            QueueView(self.now, pending, dead_letters),
            Sources([self.folder], 1000),
            allow_mass_delete=True,  # any of the files may go, even all
        )

        async def requeue(key: DocumentKey) -> bool:
            raise AssertionError("nothing is ever rejected here")

        repairer = Repairer(self.ledger, self.inventory, self.write, self.delete, requeue)
        found: list[Finding] = []
        for pages in (reconciler.findings(), reconciler.absent(self.documents())):
            async for page in pages:
                found += page
                if repair:
                    assert all(await repairer.repair(page))
        return found

    async def check(self) -> None:
        expected = Counter(
            (str(path), index, word)
            for path in self.folder.iterdir()
            for index, word in enumerate(path.read_text().split())
        )
        records, _ = await self.memory.client.scroll(self.names.chunks, limit=100)
        payloads = [record.payload or {} for record in records]
        held = Counter(
            (p.get("doc_id"), p.get("chunk_index"), p.get("page_content")) for p in payloads
        )
        assert held == expected
        assert await self.ledger.count() == len(list(self.folder.iterdir()))


@st.composite
def accidents(draw: Any) -> list[tuple[str, Any]]:
    kinds = {
        "chunk is lost": st.integers(0, 20),
        "chunk is doubled": st.integers(0, 20),
        "chunk changes hands": st.integers(0, 20),
        "point is foreign": st.integers(0, 3),
        "entry is lost": st.sampled_from(NAMES),
        "worker dies": st.tuples(
            st.sampled_from(NAMES),
            st.sampled_from([EntryState.WRITING, EntryState.CLEARING, EntryState.DELETING]),
        ),
        "file changes": st.sampled_from(NAMES),
        "file goes": st.sampled_from(NAMES),
        "file comes": st.sampled_from("xy"),
    }
    names = draw(st.lists(st.sampled_from(sorted(kinds)), min_size=1, max_size=6))
    return [(name, draw(kinds[name])) for name in names]


async def happen(index: IndexedFolder, accident: str, which: Any) -> None:
    if accident.startswith("file"):
        happen_to_file(index.folder / which, accident)
    elif accident in ("entry is lost", "worker dies"):
        await happen_to_entry(index, which)
    else:
        await happen_to_chunk(index, accident, which)


def happen_to_file(path: Path, accident: str) -> None:
    match accident:
        case "file changes":
            _write(path, "goose lamp lamp")
        case "file goes":
            path.unlink(missing_ok=True)
        case "file comes":
            _write(path, "tide goose")


async def happen_to_entry(index: IndexedFolder, which: Any) -> None:
    """Lose the entry; or, with a state, leave it as a worker that died in that state."""
    client, ledger = index.memory.client, index.names.ledger
    name, state = (which, None) if isinstance(which, str) else which
    point = ledger_id(DocumentKey("", str(index.folder / name)))
    if state is None:
        await client.delete(ledger, [point])
    elif await client.retrieve(ledger, [point]):
        await client.set_payload(ledger, {"state": state}, points=[point])


async def happen_to_chunk(index: IndexedFolder, accident: str, which: int) -> None:
    client, chunks = index.memory.client, index.names.chunks
    records, _ = await client.scroll(chunks, limit=100)
    if accident == "point is foreign" or not records:
        await _plant(index, which, {"doc_id": 7, "version": "new"})
        return
    one, other = records[which % len(records)], records[-1 - which % len(records)]
    match accident:
        case "chunk is lost":
            await client.delete(chunks, [one.id])
        case "chunk is doubled":
            await _plant(index, str(uuid.uuid5(uuid.NAMESPACE_OID, str(which))), one.payload)
        case "chunk changes hands":
            # Chunks are known by their ids: which of its own texts each has is not looked at.
            to = (other.payload or {}).get("doc_id")
            if to not in ((one.payload or {}).get("doc_id"), index.owners.get(one.id)):
                await _plant(index, one.id, other.payload)


async def _plant(index: IndexedFolder, point: Any, payload: Any) -> None:
    planted = models.PointStruct(id=point, vector=[1.0, 1.0], payload=payload)
    await index.memory.client.upsert(index.names.chunks, [planted])


def _read(document: Document, path: Path) -> tuple[str, str | None]:
    return path.read_text(encoding="utf-8"), file_state(document, path.stat())


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    os.utime(path, (1, 1))


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant")
@few_or_many(40, 200)
def test_a_repair_makes_the_index_equal_to_the_folder(
    tmp_path_factory: pytest.TempPathFactory, examples: int
) -> None:
    async def play(accidents: list[tuple[str, Any]]) -> None:
        memory = Memory()
        names = await open_collection(memory, "documents", SMALL)
        index = IndexedFolder(tmp_path_factory.mktemp("folder"), memory, names)
        for name in NAMES:
            _write(index.folder / name, f"tide {name} bread tide")
        await index.write([document async for document in index.documents()])
        await index.check()
        await index.note_owners()
        assert await index.reconcile(repair=False) == []
        for accident, which in accidents:
            await happen(index, accident, which)
        await index.reconcile(repair=True)
        await index.check()
        assert await index.reconcile(repair=False) == []
        await memory.client.close()

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(accidents=accidents())
    def is_repaired(accidents: list[tuple[str, Any]]) -> None:
        with asyncio.Runner() as runner:
            runner.run(play(accidents))

    is_repaired()


async def test_points_with_foreign_ids_are_deleted_with_their_document(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Another program may have copied a chunk to a point with a numeric id."""
    memory = Memory()
    names = await open_collection(memory, "documents", SMALL)
    index = IndexedFolder(tmp_path_factory.mktemp("folder"), memory, names)
    _write(index.folder / "c", "tide c bread")
    await index.write([document async for document in index.documents()])
    [one, *_], _ = await memory.client.scroll(names.chunks, limit=1)
    await _plant(index, 0, one.payload)
    await happen_to_entry(index, ("c", EntryState.DELETING))
    await index.reconcile(repair=True)
    await index.check()
    assert await index.reconcile(repair=False) == []
    await memory.client.close()
