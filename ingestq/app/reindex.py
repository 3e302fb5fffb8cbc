"""A rebuild of the collection: which one is wanted, and what it takes to build it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ingestq.app.composition import DOCUMENTS_PER_CHILD, Broker, open_model
from ingestq.app.settings import Settings
from ingestq.core.display import Display
from ingestq.core.errors import CollectionMismatch, UsageError
from ingestq.core.results import ChunkCounts

if TYPE_CHECKING:
    from worker.maintenance.reindex import CutoverRefusal, ReindexResult
    from worker.store.client import Qdrant
    from worker.store.collection import CollectionNames


@dataclass(frozen=True)
class Build:
    """How a build of the collection ``new`` ended.

    Without an ``outcome`` it was live already. ``chunks`` counts what was done to chunks.
    """

    new: "CollectionNames"
    outcome: "ReindexResult | CutoverRefusal | None" = None
    chunks: ChunkCounts = field(default_factory=ChunkCounts)


async def live_collection(qdrant: "Qdrant", settings: Settings) -> "CollectionNames":
    """The collection to be replaced. Raises UsageError if there is none."""
    from worker.store.collection import find_collection

    live = await find_collection(qdrant, settings.collection)
    if live is None:
        raise UsageError(f"nothing is indexed under {settings.collection!r} yet")
    return live


async def before_last(qdrant: "Qdrant", settings: Settings) -> "tuple[CollectionNames, Settings]":
    """The collection before the live one, and the settings that it was made with.

    Raises UsageError if none is kept.
    """
    from worker.maintenance.cut_over import find_previous, retire
    from worker.store.collection import stored_fingerprint

    previous = await find_previous(qdrant, settings.collection)
    made_with = None if previous is None else await stored_fingerprint(qdrant, previous)
    if previous is None or made_with is None:
        raise UsageError(f"no earlier collection of {settings.collection!r} is kept")
    await retire(qdrant, previous)  # anew: it must not be removed meanwhile
    return previous, settings.model_copy(
        update={
            "model": made_with.model,
            "precision": made_with.precision,
            "chunk_tokens": made_with.max_tokens,
            "vector_name": made_with.vector_name,
            "hybrid": bool(made_with.sparse),
        }
    )


async def build(
    broker: Broker,
    qdrant: "Qdrant",
    live: "CollectionNames",
    wanted: Settings,
    display: Display,
    before: "CollectionNames | None" = None,
) -> Build:
    """Build the collection that is ``wanted``.

    Raises CollectionMismatch if it is not the one that was there ``before``.
    """
    from ingestq.broker.queue.gate import Gate
    from worker.maintenance.cut_over import remove_abandoned
    from worker.maintenance.reindex import Rebuild, ReindexResult, StoredCollection, reindex
    from worker.store.client import PatientQdrant
    from worker.store.collection import CollectionNames, make_collection, stored_fingerprint
    from worker.store.schema import fingerprint

    async with open_model(wanted, wanted.pool_size) as model:
        schema = wanted.collection_schema
        mine = fingerprint(model.info, schema)
        new = CollectionNames.of(live.alias, mine.digest)
        gate = Gate(broker.redis, broker.config, live.chunks)
        if new == live:
            await gate.open()  # should somebody have been interrupted
            return Build(new)
        if before is not None and new != before:
            raise CollectionMismatch(
                f"{before.chunks!r} was made by another version of ingestq: this one cannot bring "
                "it up to date"
            )
        made_with = await stored_fingerprint(qdrant, live)
        if made_with is None:
            raise CollectionMismatch(f"{live.chunks!r} was made by another version of ingestq")
        await make_collection(qdrant, new, mine, schema.storage)
        patient = PatientQdrant(qdrant)
        rebuild = Rebuild(
            StoredCollection.of(patient, live, made_with),
            StoredCollection.of(patient, new, mine),
            model,
            reuse=made_with.has_vectors_of(mine),
            at_once=DOCUMENTS_PER_CHILD * wanted.pool_size,
            display=display,
        )
        outcome = await reindex(rebuild, patient, broker.queue, gate, model)
        if isinstance(outcome, ReindexResult):
            await remove_abandoned(qdrant, live.alias)
        return Build(new, outcome, rebuild.chunks)
