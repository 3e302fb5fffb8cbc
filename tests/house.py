"""A folder, and a worker that keeps a collection as it is told about the folder."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from arq.worker import func

from ingestq.app.composition import Broker
from ingestq.app.ingestion import Ingestion, Summary
from ingestq.broker.queue.dead_letters import DeadLetterFilter, DeadLetters
from ingestq.core.display import Silent
from ingestq.core.documents import Lane
from ingestq.core.jobs import DELETE, INGEST, SWEEP
from producers.files.walk import ReadOptions, ScanRecord, observe
from tests.books import balanced
from tests.claims import lease_queue
from worker.consumer.blobs import BlobContents
from worker.consumer.jobs import INGESTOR, Ingestor, delete, ingest, sweep
from worker.consumer.lease_worker import LeaseWorker
from worker.embedding.pool import ModelPool
from worker.lanes import LanePermits
from worker.pipeline.ports import Ports
from worker.store.chunks import QdrantStore
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames
from worker.store.ledger import QdrantLedger


@dataclass(frozen=True)
class House:
    """A worker at work, and the folder ``root`` that is scanned."""

    broker: Broker
    qdrant: Qdrant
    names: CollectionNames
    root: Path

    def write(self, *names: str) -> None:
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
        """What ``ingestq run`` does with ``paths``; without any, with the whole folder."""
        ingestion = Ingestion(self.broker.client, Silent())
        sightings = ScanRecord()
        await ingestion.produce(
            observe(
                paths or [self.root],
                name,
                self.broker.queue.now,
                ReadOptions(inline=inline),
                sightings,
            ),
            partial(sightings.sweeps, allow_mass_delete=allow_mass_delete),
        )
        await ingestion.follow(until_queue_is_empty=True)
        await balanced(self.broker.redis)
        return await ingestion.summary("documents")

    async def payloads(self) -> list[dict[str, Any]]:
        """Those of all chunks; the worker may be at work."""
        records, _ = await self.qdrant.ask(
            lambda client: client.scroll(self.names.chunks, limit=1000, with_payload=True)
        )
        return [record.payload or {} for record in records]

    async def indexed(self) -> set[str]:
        """The ids of the documents of which there are chunks."""
        ids = {payload["doc_id"] for payload in await self.payloads()}
        assert await QdrantLedger(self.qdrant, self.names.ledger).count() == len(ids)
        return ids

    async def indexed_files(self) -> set[str]:
        return {str(Path(doc_id).relative_to(self.root)) for doc_id in await self.indexed()}

    async def dead_letters(self) -> dict[str, str]:
        """Reason of each dead letter."""
        dead_letters = DeadLetters(self.broker.redis, self.broker.config)
        return {
            stored.dead_letter.doc_id: stored.dead_letter.reason
            async for stored in dead_letters.find(DeadLetterFilter())
        }


@asynccontextmanager
async def working_house(
    broker: Broker, qdrant: Qdrant, model: ModelPool, collection: CollectionNames, root: Path
) -> AsyncIterator[House]:
    store = QdrantStore(qdrant, collection.chunks)
    ledger = QdrantLedger(qdrant, collection.ledger)
    contents = BlobContents(broker.blobs, model.config.max_document_bytes)
    ports = {lane: Ports(model.in_lane(lane), store, ledger, contents=contents) for lane in Lane}
    worker = LeaseWorker(
        [func(ingest, name=INGEST), func(delete, name=DELETE), func(sweep, name=SWEEP)],
        lease_queue(broker, serving={collection.alias: collection.chunks}),
        max_jobs=4,
        drain_seconds=5,
        ctx={INGESTOR: Ingestor({collection.alias: ports}, LanePermits(8, bulk=7))},
    )
    running = asyncio.create_task(worker.run_until_stopped())
    yield House(broker, qdrant, collection, root)
    worker.stop()
    await running
