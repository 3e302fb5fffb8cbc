"""Rebuilds a collection: finds the live one, and builds the one that replaces it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ingestq.app.composition import DOCUMENTS_PER_PROCESS, Broker, open_model
from ingestq.app.settings import PREFIX, Settings
from ingestq.core.display import Display
from ingestq.core.errors import CollectionMismatch, UsageError
from ingestq.core.results import ChunkCounts

if TYPE_CHECKING:
    from worker.maintenance.reindex import CutoverRefusal, ReindexResult
    from worker.store.client import Qdrant
    from worker.store.collection import CollectionNames
    from worker.store.schema import Fingerprint


@dataclass(frozen=True)
class Build:
    """The result of building the collection ``new``.

    ``outcome`` is None if it was live already. ``chunks`` counts what was done to chunks.
    """

    new: "CollectionNames"
    outcome: "ReindexResult | CutoverRefusal | None" = None
    chunks: ChunkCounts = field(default_factory=ChunkCounts)


async def live_collection(qdrant: "Qdrant", settings: Settings) -> "CollectionNames":
    """Return the collection to replace. Raises UsageError if there is none."""
    from worker.store.collection import find_collection

    live = await find_collection(qdrant, settings.collection)
    if live is None:
        raise UsageError(f"nothing is indexed under {settings.collection!r} yet")
    return live


async def before_last(qdrant: "Qdrant", settings: Settings) -> "tuple[CollectionNames, Settings]":
    """Return the collection before the live one, and the settings that it was built with.

    Raises UsageError if none is kept.
    """
    from worker.maintenance.cut_over import find_previous, keep_for_rebuild
    from worker.store.collection import stored_fingerprint

    previous = await find_previous(qdrant, settings.collection)
    built_with = None if previous is None else await stored_fingerprint(qdrant, previous)
    if previous is None or built_with is None:
        raise UsageError(f"no earlier collection of {settings.collection!r} is kept")
    await keep_for_rebuild(qdrant, previous)
    return previous, settings.model_copy(update=settings_of(built_with, settings))


def settings_of(built_with: "Fingerprint", settings: Settings) -> dict[str, Any]:
    """Return the settings, by name, with which a collection was built.

    The hook that adds metadata is that of ``settings``.
    """
    from worker.text.config import hook_name

    parse, chunk = hook_name(built_with.parse_hook), hook_name(built_with.chunk_hook)
    return {
        "hooks": settings.hooks.model_copy(update={"parse": parse, "chunk": chunk}),
        "model": built_with.model,
        "precision": built_with.precision,
        "dimensions": built_with.dimensions,
        "chunk_tokens": built_with.max_tokens,
        "vector_name": built_with.vector_name,
        "text_field": built_with.text_field,
        "hybrid": bool(built_with.sparse),
        "languages": built_with.languages,
        "ocr": built_with.ocr,
        "ocr_languages": built_with.ocr_languages,
    }


def assignment(name: str, value: object) -> str:
    """Return the setting ``name`` as it is set in the environment."""
    if isinstance(value, tuple):
        text = ",".join(value)
    elif isinstance(value, BaseModel):
        text = f"'{value.model_dump_json()}'"  # keys without a value replace those of the file
    elif isinstance(value, bool):
        text = str(value).lower()
    else:
        text = "" if value is None else str(value)
    return f"{PREFIX}{name.upper()}={text}"


async def build(
    broker: Broker,
    qdrant: "Qdrant",
    live: "CollectionNames",
    wanted: Settings,
    display: Display,
    before: "CollectionNames | None" = None,
) -> Build:
    """Build the collection for the settings ``wanted``, and cut over to it.

    Raises CollectionMismatch if ``before`` is given and those settings make another collection, or
    if another version of ingestq built the live one.
    """
    from ingestq.broker.queue.gate import Gate
    from worker.maintenance.cut_over import remove_abandoned
    from worker.maintenance.reindex import (
        Rebuild,
        ReindexResult,
        StoredCollection,
        make_target,
        reindex,
    )
    from worker.store.client import PatientQdrant
    from worker.store.collection import CollectionNames, stored_fingerprint
    from worker.store.schema import fingerprint

    async with open_model(wanted, wanted.pool_size) as model:
        schema = wanted.collection_schema
        mine = fingerprint(model.info, schema, wanted.reading, await model.hook_versions())
        new = CollectionNames.of(live.alias, mine.digest)
        gate = Gate(broker.redis, broker.config, live.chunks)
        if new == live:
            await gate.open()  # an interrupted reindex may have left it closed
            return Build(new)
        if before is not None and new != before:
            raise CollectionMismatch(
                f"{before.chunks!r} was built by another version of ingestq or of a hook, and "
                "cannot be brought up to date"
            )
        built_with = await stored_fingerprint(qdrant, live)
        if built_with is None:
            raise CollectionMismatch(f"{live.chunks!r} was built by another version of ingestq")
        await make_target(qdrant, new, mine, schema.storage)
        patient = PatientQdrant(qdrant)
        rebuild = Rebuild(
            StoredCollection.of(patient, live, built_with),
            StoredCollection.of(patient, new, mine),
            model,
            reuse=built_with.has_vectors_of(mine),
            at_once=DOCUMENTS_PER_PROCESS * wanted.pool_size,
            display=display,
            access=wanted.remote_access,
        )
        outcome = await reindex(rebuild, patient, broker.queue, gate, model)
        if isinstance(outcome, ReindexResult):
            await remove_abandoned(qdrant, live.alias)
        return Build(new, outcome, rebuild.chunks)
