"""The collection in Qdrant: its names, its schema, and whether it may be written.

The public name is an alias of the collection ``<name>__<fingerprint>``; beside that stands its
ledger, ``<name>__<fingerprint>__ledger``, without vectors. The fingerprint's fields are kept in
the collection's metadata, so that a mismatch can be explained.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec
import structlog
from qdrant_client import AsyncQdrantClient, models

from ingestq.core import events
from ingestq.core.errors import CollectionMismatch, StoreRejected, UsageError
from worker.embedding.config import ModelInfo
from worker.store.client import Qdrant, Request, applied
from worker.store.schema import (
    DEFAULT_STORAGE,
    SPARSE_NAME,
    Fingerprint,
    Quantization,
    Storage,
    fingerprint,
)

log = structlog.get_logger()

Indexes = Mapping[str, models.KeywordIndexParams | models.IntegerIndexParams]
FENCE_INDEXES: Final[Indexes] = {
    field: models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, lookup=True, range=True)
    for field in ("version", "attempt")
}
PAYLOAD_INDEXES: Final[Indexes] = {
    "doc_id": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD),
    "source": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD),
    "tenant": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True),
    **FENCE_INDEXES,
}
"""Every key that documents are found by, and the fence that writes compare: a server in strict mode
refuses conditions on anything else."""
LEDGER_INDEXES: Final[Indexes] = {
    "state": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD),
    "folders": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD),
    "tenant": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True),
    **FENCE_INDEXES,
}
FINGERPRINT_KEY: Final = "fingerprint"
SETTINGS: Final = {
    "model": "INGESTQ_MODEL",
    "precision": "INGESTQ_PRECISION",
    "max_tokens": "INGESTQ_CHUNK_TOKENS",
    "vector_name": "INGESTQ_VECTOR_NAME",
    "sparse": "INGESTQ_HYBRID",
}
"""The settings that fields of a fingerprint follow from."""
QUANTIZATIONS: Final[dict[Quantization | None, models.QuantizationConfig | None]] = {
    # Kept in memory whatever becomes of the vectors themselves: that is what they are for.
    None: None,
    Quantization.SCALAR: models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
    ),
    Quantization.BINARY: models.BinaryQuantization(
        binary=models.BinaryQuantizationConfig(always_ram=True)
    ),
}
OLDEST_QDRANT: Final = (1, 16)
"""The first version with conditional updates."""


@dataclass(frozen=True)
class CollectionNames:
    """The names that belong together."""

    alias: str
    chunks: str
    ledger: str

    @classmethod
    def of(cls, alias: str, digest: str) -> "CollectionNames":
        """Return the names under ``alias`` of what was made with a fingerprint."""
        return cls.at(alias, f"{alias}__{digest}")

    @classmethod
    def at(cls, alias: str, chunks: str) -> "CollectionNames":
        """Return the names of what ``alias`` stands for."""
        return cls(alias, chunks, f"{chunks}__ledger")


async def open_collection(
    qdrant: Qdrant, alias: str, mine: Fingerprint, storage: Storage = DEFAULT_STORAGE
) -> CollectionNames:
    """Make sure that the collection under ``alias`` exists and may be written with ``mine``.

    If it does not, it is made, and kept as ``storage`` says; one that exists is left as it is.

    Safe to run in several workers at once. Raises UsageError if Qdrant is too old to keep workers
    from overwriting each other, and CollectionMismatch if there is another collection under this
    name, or one made with another model, chunking or other vectors.
    """
    await _check_version(qdrant)
    names = CollectionNames.of(alias, mine.digest)
    target = await alias_target(qdrant, alias)
    if target is None:
        await _refuse_foreign(qdrant, alias, mine)
    else:
        await check_fingerprint(qdrant, CollectionNames.at(alias, target), mine)
    await make_collection(qdrant, names, mine, storage)
    if target is None:
        await qdrant.ask(
            lambda client: client.update_collection_aliases([stands_for(alias, names)])
        )
    return names


async def _check_version(qdrant: Qdrant) -> None:
    version = (await qdrant.ask(lambda client: client.info())).version
    if not is_supported(version):
        oldest = ".".join(map(str, OLDEST_QDRANT))
        raise UsageError(f"Qdrant is version {version}; ingestq needs {oldest} or newer")


def is_supported(version: str) -> bool:
    """Return whether a server of this version checks the conditions of `worker.store.fence`.

    An older one would write without checking. What is no number (a development build) is trusted.
    """
    numbers = version.removeprefix("v").split(".")[: len(OLDEST_QDRANT)]
    return not all(n.isdecimal() for n in numbers) or tuple(map(int, numbers)) >= OLDEST_QDRANT


async def find_collection(qdrant: Qdrant, alias: str) -> CollectionNames | None:
    """Return the collection under ``alias``; None if nothing was ever indexed under it."""
    target = await alias_target(qdrant, alias)
    return None if target is None else CollectionNames.at(alias, target)


async def check_fingerprint(qdrant: Qdrant, names: CollectionNames, mine: Fingerprint) -> None:
    """Raise CollectionMismatch unless the collection's vectors were made as ``mine`` are."""
    if names.chunks != CollectionNames.of(names.alias, mine.digest).chunks:
        raise CollectionMismatch(await _difference(qdrant, names, mine))


async def check_searchable(qdrant: Qdrant, names: CollectionNames, model: ModelInfo) -> Fingerprint:
    """Return the fingerprint of a collection that may be searched with ``model``.

    Raises CollectionMismatch unless ``model`` made its vectors. How its texts were cut, and which
    vectors there are, may differ from the settings: a search takes what it finds.
    """
    theirs = await stored_fingerprint(qdrant, names)
    mine = fingerprint(model)
    if theirs is None or not theirs.has_vectors_of(mine):
        raise CollectionMismatch(await _difference(qdrant, names, mine))
    return theirs


async def stored_fingerprint(qdrant: Qdrant, names: CollectionNames) -> Fingerprint | None:
    """Return what a collection was made with; None if not by this version of ingestq."""
    info = await qdrant.ask(lambda client: client.get_collection(names.chunks))
    stored = (info.config.metadata or {}).get(FINGERPRINT_KEY)
    try:
        return msgspec.convert(stored, Fingerprint)
    except msgspec.ValidationError:  # another tool's collection, or another version's
        return None


async def alias_target(qdrant: Qdrant, alias: str) -> str | None:
    """Return the name of the collection that ``alias`` stands for; None if there is none."""
    aliases = await qdrant.ask(lambda client: client.get_aliases())
    return next((a.collection_name for a in aliases.aliases if a.alias_name == alias), None)


async def _refuse_foreign(qdrant: Qdrant, alias: str, mine: Fingerprint) -> None:
    if not await qdrant.ask(lambda client: client.collection_exists(alias)):
        return
    info = await qdrant.ask(lambda client: client.get_collection(alias))
    vectors = info.config.params.vectors
    size = f"{vectors.size} dimensions" if isinstance(vectors, models.VectorParams) else "vectors"
    raise CollectionMismatch(
        f"Qdrant already has a collection named {alias!r} ({size}) that ingestq did not make; "
        f"{mine.model} has {mine.dimension} dimensions. Set INGESTQ_COLLECTION to another name, "
        "or delete that collection"
    )


async def _difference(qdrant: Qdrant, names: CollectionNames, mine: Fingerprint) -> str:
    theirs = await stored_fingerprint(qdrant, names)
    settings = ["INGESTQ_MODEL"]
    if theirs is None:
        what = f"it is an alias of {names.chunks!r}, which this version of ingestq did not make"
    else:
        old, new = msgspec.structs.asdict(theirs), msgspec.structs.asdict(mine)
        changed = [field for field in old if old[field] != new[field]]
        differences = (f"{f} {old[f] or 'none'}, now {new[f] or 'none'}" for f in changed)
        what = f"it was built with {'; '.join(differences)}"
        settings = [SETTINGS[field] for field in changed if field in SETTINGS] or settings
    return (
        f"the collection {names.alias!r} cannot take these vectors: {what}. Change the setting "
        f"back ({', '.join(settings)}), rebuild the collection with `ingestq reindex`, or set "
        "INGESTQ_COLLECTION to a new name"
    )


async def make_collection(
    qdrant: Qdrant, names: CollectionNames, mine: Fingerprint, storage: Storage
) -> None:
    """Make sure that a collection with its ledger exists, under no alias yet."""
    metadata: dict[str, Any] = {FINGERPRINT_KEY: msgspec.structs.asdict(mine)}
    created = await _create_once(
        qdrant, names.chunks, partial(_create_chunks, names.chunks, mine, storage, metadata)
    )
    # Repeated at every start: each of these may be what an earlier start did not get to.
    await qdrant.ask(partial(_create_payload_indexes, names.chunks, PAYLOAD_INDEXES))
    await _create_once(qdrant, names.ledger, partial(_create_ledger, names.ledger, metadata))
    await qdrant.ask(partial(_create_payload_indexes, names.ledger, LEDGER_INDEXES))
    if created:
        log.info(
            events.COLLECTION_CREATED,
            collection=names.chunks,
            alias=names.alias,
            dimension=mine.dimension,
        )


async def _create_chunks(
    name: str,
    made_with: Fingerprint,
    storage: Storage,
    metadata: dict[str, Any],
    client: AsyncQdrantClient,
) -> bool:
    on_disk = storage.on_disk or None  # None: as the server likes it
    dense = models.VectorParams(
        size=made_with.dimension, distance=models.Distance.COSINE, on_disk=on_disk
    )
    sparse = models.SparseVectorParams(
        modifier=models.Modifier.IDF, index=models.SparseIndexParams(on_disk=on_disk)
    )
    return await client.create_collection(
        name,
        vectors_config={made_with.vector_name: dense} if made_with.vector_name else dense,
        sparse_vectors_config={SPARSE_NAME: sparse} if made_with.sparse else None,
        quantization_config=QUANTIZATIONS[storage.quantization],
        on_disk_payload=on_disk,
        metadata=metadata,
    )


async def _create_ledger(name: str, metadata: dict[str, Any], client: AsyncQdrantClient) -> bool:
    return await client.create_collection(name, vectors_config={}, metadata=metadata)


async def _create_payload_indexes(name: str, indexes: Indexes, client: AsyncQdrantClient) -> None:
    for field, schema in indexes.items():
        await applied(partial(_create_payload_index, name, field, schema))(client)


async def _create_payload_index(
    name: str,
    field: str,
    schema: models.KeywordIndexParams | models.IntegerIndexParams,
    client: AsyncQdrantClient,
) -> models.UpdateResult:
    return await client.create_payload_index(name, field, schema, wait=True)


async def _create_once(qdrant: Qdrant, name: str, create: Request[bool]) -> bool:
    """Create a collection; False if it exists, also if another worker was faster."""
    if await qdrant.ask(lambda client: client.collection_exists(name)):
        return False
    try:
        return await qdrant.ask(create)
    except StoreRejected:
        if await qdrant.ask(lambda client: client.collection_exists(name)):
            return False
        raise


def stands_for(alias: str, names: CollectionNames) -> models.CreateAliasOperation:
    """Let ``alias`` stand for a collection, whatever it stood for before."""
    return models.CreateAliasOperation(
        create_alias=models.CreateAlias(collection_name=names.chunks, alias_name=alias)
    )
