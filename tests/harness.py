"""The harness of the tests: a folder, a collection, and a worker that keeps them equal."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from ingestq.app.composition import Broker
from ingestq.app.ingestion import Ingestion, Summary
from ingestq.broker.queue.dead_letters import DeadLetterFilter
from ingestq.client.client import IngestClient
from ingestq.core.display import NoDisplay
from producers.files.walk import ReadOptions, ScanRecord, observe
from producers.remote.source import RemoteSource
from tests.books import balanced
from tests.workers import indexing
from worker.consumer.lease_worker import LeaseWorker
from worker.embedding.pool import ModelPool
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames
from worker.store.ledger import QdrantLedger


@dataclass(frozen=True)
class Harness:
    """A folder ``root``, the collection that it is indexed in, and a worker to be started.

    Jobs queued through ``broker`` are for the collection.
    """

    broker: Broker
    qdrant: Qdrant
    names: CollectionNames
    model: ModelPool
    root: Path

    @classmethod
    def of(
        cls,
        broker: Broker,
        qdrant: Qdrant,
        names: CollectionNames,
        model: ModelPool,
        root: Path,
        **more: Any,
    ) -> Self:
        """Return a harness for the collection ``names``, whichever collection ``broker`` is for."""
        return cls(replace(broker, collection=names.alias), qdrant, names, model, root, **more)

    @property
    def client(self) -> IngestClient:
        return self.broker.client

    @property
    def ledger(self) -> QdrantLedger:
        return QdrantLedger(self.qdrant, self.names.ledger)

    def working(self) -> AbstractAsyncContextManager[LeaseWorker]:
        """Run a worker; stop it and wait for it on leaving."""
        return indexing(self.broker, self.qdrant, self.names, self.model)

    def write(self, *names: str) -> None:
        """Write a small text file for each name, which may have folders in it."""
        for name in names:
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"A note called {name}.")

    async def scan(
        self,
        *paths: Path,
        name: str | None = None,
        allow_mass_delete: bool = False,
        inline: bool = False,
    ) -> Summary:
        """Do what ``ingestq run`` does with ``paths``, or with the whole folder."""
        ingestion = Ingestion(self.broker.client, NoDisplay())
        record = ScanRecord()
        await ingestion.produce(
            observe(
                paths or [self.root],
                name,
                self.broker.queue.issue_version,
                ReadOptions(inline=inline),
                record,
            ),
            partial(record.sweeps, allow_mass_delete=allow_mass_delete),
        )
        await ingestion.follow(until_queue_is_empty=True)
        await balanced(self.broker.redis)
        return await ingestion.summary(self.names.alias)

    async def scan_source(
        self, source: RemoteSource, *, allow_mass_delete: bool = False
    ) -> Summary:
        """Do what ``ingestq run`` does with a remote source."""
        ingestion = Ingestion(self.broker.client, NoDisplay())
        record = ScanRecord()
        await ingestion.produce(
            source.scan(self.broker.queue.issue_version, record),
            partial(record.sweeps, allow_mass_delete=allow_mass_delete),
        )
        await ingestion.follow(until_queue_is_empty=True)
        await balanced(self.broker.redis)
        return await ingestion.summary(self.names.alias)

    async def payloads(self) -> list[dict[str, Any]]:
        """Return the payloads of all chunks."""
        records, _ = await self.qdrant.ask(
            lambda client: client.scroll(self.names.chunks, limit=1000, with_payload=True)
        )
        return [record.payload or {} for record in records]

    async def indexed(self) -> set[str]:
        """Return the ids of all documents with chunks, and check them against the ledger."""
        ids = {payload["doc_id"] for payload in await self.payloads()}
        assert await self.ledger.count() == len(ids)
        return ids

    async def indexed_files(self) -> set[str]:
        """Return the paths of all indexed files, relative to the folder."""
        return {str(Path(doc_id).relative_to(self.root)) for doc_id in await self.indexed()}

    async def dead_letters(self) -> dict[str, str]:
        """Return the reason of each dead letter, by document id."""
        return {
            stored.dead_letter.doc_id: stored.dead_letter.reason
            async for stored in self.broker.dead_letters.find(DeadLetterFilter())
        }
