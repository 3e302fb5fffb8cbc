"""A folder, and a worker that keeps a collection as it is told about the folder."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from arq.worker import func

from broker.contract import DELETE, INGEST, SWEEP, Lane
from broker.dead_letters import DeadLetters, LetterFilter
from ingestq.ingestion import Ingestion, State, Summary
from ingestq.runtime import Broker
from producers.files import Sending, observe
from producers.sightings import Sightings
from tests.books import balanced
from tests.claims import lease_queue
from worker.collection import CollectionNames
from worker.contents import SpooledContents
from worker.embedding.pool import ModelPool
from worker.jobs import INGESTOR, Ingestor, delete, ingest, sweep
from worker.lanes import LanePermits
from worker.lease_worker import LeaseWorker
from worker.ledger import QdrantLedger
from worker.ports import Ports
from worker.qdrant import Qdrant
from worker.store import QdrantStore


class Nowhere:
    def show(self, state: State) -> None:
        """Nobody looks."""


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
        ingestion = Ingestion(self.broker.client, Nowhere())
        sightings = Sightings()
        await ingestion.produce(
            observe(
                paths or [self.root],
                name,
                self.broker.queue.now,
                Sending(inline=inline),
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

    async def letters(self) -> dict[str, str]:
        """Reason of each dead letter."""
        letters = DeadLetters(self.broker.redis, self.broker.config)
        return {
            stored.letter.doc_id: stored.letter.reason
            async for stored in letters.find(LetterFilter())
        }


@asynccontextmanager
async def working_house(
    broker: Broker, qdrant: Qdrant, model: ModelPool, collection: CollectionNames, root: Path
) -> AsyncIterator[House]:
    store = QdrantStore(qdrant, collection.chunks)
    ledger = QdrantLedger(qdrant, collection.ledger)
    contents = SpooledContents(broker.spool, model.config.max_document_bytes)
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
