"""Creates and checks the collection in Qdrant: its names, its schema and its fingerprint.

The public name is an alias of the collection ``<name>__<fingerprint>``. Beside that stands its
ledger, ``<name>__<fingerprint>__ledger``, without vectors. The fingerprint's fields are stored in
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
from ingestq.core.errors import (
    CollectionMismatch,
    CollectionMissing,
    StoreRejected,
    UsageError,
)
from ingestq.core.service import run_together
from worker.embedding.config import ModelInfo
from worker.pipeline.points import COMPOSED
from worker.store.client import Qdrant, Request, check_applied
from worker.store.fence import FENCE_FIELDS
from worker.store.schema import (
    DEFAULT_STORAGE,
    SPARSE_NAME,
    Fingerprint,
    Quantization,
    Storage,
    fingerprint,
)

log = structlog.get_logger()

IndexParams = models.KeywordIndexParams | models.IntegerIndexParams | models.BoolIndexParams
Indexes = Mapping[str, IndexParams]
NUMBER: Final = models.IntegerIndexParams(
    type=models.IntegerIndexType.INTEGER, lookup=True, range=True
)
FENCE_INDEXES: Final[Indexes] = dict.fromkeys(FENCE_FIELDS, NUMBER)
PAYLOAD_INDEXES: Final[Indexes] = {
    "doc_id": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD),
    "source": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD),
    f"source{COMPOSED}": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD),
    "tenant": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True),
    "chunk_index": models.IntegerIndexParams(
        type=models.IntegerIndexType.INTEGER, lookup=True, range=False
    ),
    **FENCE_INDEXES,
}
"""Every field that filters use, and the fence that writes compare: a server in strict mode refuses
conditions on other fields."""
LEDGER_INDEXES: Final[Indexes] = {
    f"doc_id{COMPOSED}": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD),
    "bytes_hash": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD),
    "state": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD),
    "folders": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD),
    "warned": models.BoolIndexParams(type=models.BoolIndexType.BOOL),
    "stale": models.BoolIndexParams(type=models.BoolIndexType.BOOL),
    "rejection.version": models.IntegerIndexParams(
        type=models.IntegerIndexType.INTEGER, lookup=False, range=True
    ),
    "tenant": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True),
    "queued": NUMBER,
    "deleted_at": NUMBER,
    **FENCE_INDEXES,
}
FINGERPRINT_KEY: Final = "fingerprint"
IMPORT_KEY: Final = "import"
"""Key in the metadata of a collection that is being imported: the id of the export."""
SETTINGS: Final = {
    "model": "INGESTQ_MODEL",
    "dimension": "INGESTQ_DIMENSIONS",
    "truncated": "INGESTQ_DIMENSIONS",
    "precision": "INGESTQ_PRECISION",
    "max_tokens": "INGESTQ_CHUNK_TOKENS",
    "vector_name": "INGESTQ_VECTOR_NAME",
    "text_field": "INGESTQ_TEXT_FIELD",
    "sparse": "INGESTQ_HYBRID",
    "languages": "INGESTQ_LANGUAGES",
    "ocr": "INGESTQ_OCR",
    "ocr_languages": "INGESTQ_OCR_LANGUAGES",
    "parse_hook": "[hooks] parse",
    "chunk_hook": "[hooks] chunk",
}
"""The setting that decides each field of a fingerprint."""
QUANTIZATIONS: Final[dict[Quantization | None, models.QuantizationConfig | None]] = {
    # Always in memory, even if the vectors themselves are on disk: that is their purpose.
    None: None,
    Quantization.SCALAR: models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
    ),
    Quantization.BINARY: models.BinaryQuantization(
        binary=models.BinaryQuantizationConfig(always_ram=True)
    ),
}
LEDGER_SUFFIX: Final = "__ledger"
OLDEST_QDRANT: Final = (1, 16)
"""The first version with conditional updates."""


@dataclass(frozen=True)
class CollectionNames:
    """The names of a collection: its ``alias``, and its parts ``chunks`` and ``ledger``."""

    alias: str
    chunks: str
    ledger: str

    @classmethod
    def of(cls, alias: str, digest: str) -> "CollectionNames":
        """Return the names of the collection under ``alias`` with this fingerprint."""
        return cls.at(alias, f"{alias}__{digest}")

    @classmethod
    def at(cls, alias: str, chunks: str) -> "CollectionNames":
        """Return the names if ``alias`` stands for the collection ``chunks``."""
        return cls(alias, chunks, f"{chunks}{LEDGER_SUFFIX}")


async def open_collection(
    qdrant: Qdrant, alias: str, mine: Fingerprint, storage: Storage = DEFAULT_STORAGE
) -> CollectionNames:
    """Open the collection under ``alias`` for vectors with the fingerprint ``mine``.

    A missing collection is created with ``storage``; an existing one is not changed. Several
    workers may do this at the same time. Raises UsageError if this version of Qdrant has no
    conditional updates, and CollectionMismatch if the name belongs to a collection that ingestq did
    not create, that has another fingerprint, or that an import has not finished.
    """
    is_first = await checked_collection(qdrant, alias, mine) is None
    names = CollectionNames.of(alias, mine.digest)
    await make_collection(qdrant, names, mine, storage)
    if is_first:
        if await unfinished_import(qdrant, names) is not None:
            raise CollectionMismatch(
                f"{names.chunks!r} holds a part of an export, whose import was interrupted or is "
                "under way: run `ingestq import` with the same file again, which finishes it"
            )
        await qdrant.ask(
            lambda client: client.update_collection_aliases([point_alias(alias, names)])
        )
    return names


async def checked_collection(
    qdrant: Qdrant, alias: str, mine: Fingerprint
) -> CollectionNames | None:
    """Return the names of the collection under ``alias``; None if `open_collection` would make it.

    Changes nothing. Raises UsageError and CollectionMismatch as `open_collection` does.
    """
    await _check_version(qdrant)
    names = await find_collection(qdrant, alias)
    if names is None:
        try:
            await refuse_foreign(qdrant, alias, mine)
        except CollectionMismatch:
            names = await find_collection(qdrant, alias)
            if names is None:  # else another worker has just created it
                raise
    if names is not None:
        await check_fingerprint(qdrant, names, mine)
    return names


async def _check_version(qdrant: Qdrant) -> None:
    version = (await qdrant.ask(lambda client: client.info())).version
    if not is_supported(version):
        oldest = ".".join(map(str, OLDEST_QDRANT))
        raise UsageError(f"Qdrant is version {version}; ingestq needs {oldest} or newer")


def is_supported(version: str) -> bool:
    """Return True if a server of this version checks the conditions of `worker.store.fence`.

    An older one ignores them. A version without numbers (a development build) counts as supported.
    """
    numbers = version.removeprefix("v").split(".")[: len(OLDEST_QDRANT)]
    return not all(n.isdecimal() for n in numbers) or tuple(map(int, numbers)) >= OLDEST_QDRANT


async def find_collection(qdrant: Qdrant, alias: str) -> CollectionNames | None:
    """Return the names of the collection under ``alias``; None if there is no such alias."""
    target = await alias_target(qdrant, alias)
    return None if target is None else CollectionNames.at(alias, target)


async def check_fingerprint(qdrant: Qdrant, names: CollectionNames, mine: Fingerprint) -> None:
    """Raise CollectionMismatch unless the collection has the fingerprint ``mine``."""
    if names.chunks != CollectionNames.of(names.alias, mine.digest).chunks:
        raise CollectionMismatch(await _difference(qdrant, names, mine))


async def check_searchable(qdrant: Qdrant, names: CollectionNames, model: ModelInfo) -> Fingerprint:
    """Return the collection's fingerprint, after checking that ``model`` can search it.

    Raises CollectionMismatch unless its dense vectors were made by ``model``. Chunking, and whether
    there are sparse vectors, may differ from the settings.
    """
    theirs = await stored_fingerprint(qdrant, names)
    mine = fingerprint(model)
    if theirs is None or not theirs.has_vectors_of(mine):
        raise CollectionMismatch(await _difference(qdrant, names, mine))
    return theirs


async def stored_fingerprint(qdrant: Qdrant, names: CollectionNames) -> Fingerprint | None:
    """Return the fingerprint in a collection's metadata; None if it has none of this version."""
    info = await qdrant.ask(lambda client: client.get_collection(names.chunks))
    stored = (info.config.metadata or {}).get(FINGERPRINT_KEY)
    try:
        return msgspec.convert(stored, Fingerprint)
    except msgspec.ValidationError:  # another tool's collection, or another version's
        return None


async def unfinished_import(qdrant: Qdrant, names: CollectionNames) -> str | None:
    """Return the id of the export of which the collection holds a part; None if it is whole."""
    info = await qdrant.ask(lambda client: client.get_collection(names.chunks))
    found = (info.config.metadata or {}).get(IMPORT_KEY)
    return str(found) if found else None


async def note_import(qdrant: Qdrant, names: CollectionNames, export_id: str | None) -> None:
    """Record that the collection holds a part of an export, or, with None, that it is whole."""
    note = {IMPORT_KEY: export_id}
    await qdrant.ask(lambda client: client.update_collection(names.chunks, metadata=note))


async def alias_target(qdrant: Qdrant, alias: str) -> str | None:
    """Return the name of the collection that ``alias`` points to; None if there is none."""
    aliases = await qdrant.ask(lambda client: client.get_aliases())
    return next((a.collection_name for a in aliases.aliases if a.alias_name == alias), None)


async def refuse_foreign(qdrant: Qdrant, alias: str, mine: Fingerprint) -> None:
    """Raise CollectionMismatch if a collection of another program is named ``alias``."""
    if not await qdrant.ask(lambda client: client.collection_exists(alias)):
        return
    info = await qdrant.ask(lambda client: client.get_collection(alias))
    vectors = info.config.params.vectors
    size = f"{vectors.size} dimensions" if isinstance(vectors, models.VectorParams) else "vectors"
    raise CollectionMismatch(
        f"Qdrant already has a collection named {alias!r} ({size}) that ingestq did not create; "
        f"{mine.model} has {mine.dimension} dimensions. Set INGESTQ_COLLECTION to another name, "
        "or delete that collection"
    )


async def _difference(qdrant: Qdrant, names: CollectionNames, mine: Fingerprint) -> str:
    theirs = await stored_fingerprint(qdrant, names)
    settings = ["INGESTQ_MODEL"]
    if theirs is None:
        what = f"it is an alias of {names.chunks!r}, which this version of ingestq did not create"
    else:
        old, new = msgspec.structs.asdict(theirs), msgspec.structs.asdict(mine)
        changed = [field for field in old if old[field] != new[field]]
        differences = (f"{f} {old[f] or 'none'}, now {new[f] or 'none'}" for f in changed)
        what = f"it was built with {'; '.join(differences)}"
        named = (SETTINGS[field] for field in changed if field in SETTINGS)
        settings = list(dict.fromkeys(named)) or settings
    return (
        f"the collection {names.alias!r} cannot take these vectors: {what}. Change the setting "
        f"back ({', '.join(settings)}), rebuild the collection with `ingestq reindex`, or set "
        "INGESTQ_COLLECTION to a new name"
    )


async def make_collection(
    qdrant: Qdrant, names: CollectionNames, mine: Fingerprint, storage: Storage
) -> None:
    """Create a collection with its ledger and indexes, as far as they do not exist; no alias."""
    metadata: dict[str, Any] = {FINGERPRINT_KEY: msgspec.structs.asdict(mine)}

    async def make(name: str, create: Request[bool]) -> None:
        # At every start, because an earlier one may have been interrupted before any.
        indexing = partial(create_payload_indexes, name)
        try:
            await qdrant.ask(indexing)
        except CollectionMissing:
            created = await _create_once(qdrant, name, create)
            await qdrant.ask(indexing)
            if created and name == names.chunks:
                log.info(
                    events.COLLECTION_CREATED,
                    collection=names.chunks,
                    alias=names.alias,
                    dimension=mine.dimension,
                )

    await run_together(
        make(names.chunks, partial(_create_chunks, names.chunks, mine, storage, metadata)),
        make(names.ledger, partial(_create_ledger, names.ledger, storage, metadata)),
    )


async def _create_chunks(
    name: str,
    made_with: Fingerprint,
    storage: Storage,
    metadata: dict[str, Any],
    client: AsyncQdrantClient,
) -> bool:
    on_disk = storage.on_disk or None  # None: the server decides
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
        hnsw_config=_hnsw(storage),
        on_disk_payload=on_disk,
        metadata=metadata,
        shard_number=storage.shard_number,
        replication_factor=storage.replication_factor,
        write_consistency_factor=storage.write_consistency_factor,
    )


def _hnsw(storage: Storage) -> models.HnswConfigDiff | None:
    if storage.hnsw_m is None and storage.hnsw_ef_construct is None:
        return None
    return models.HnswConfigDiff(m=storage.hnsw_m, ef_construct=storage.hnsw_ef_construct)


async def _create_ledger(
    name: str, storage: Storage, metadata: dict[str, Any], client: AsyncQdrantClient
) -> bool:
    return await client.create_collection(
        name,
        vectors_config={},
        metadata=metadata,
        shard_number=storage.shard_number,
        replication_factor=storage.replication_factor,
        write_consistency_factor=storage.write_consistency_factor,
    )


async def create_payload_indexes(name: str, client: AsyncQdrantClient) -> None:
    """Create the payload indexes that the collection ``name``, of chunks or a ledger, lacks."""
    indexes = LEDGER_INDEXES if name.endswith(LEDGER_SUFFIX) else PAYLOAD_INDEXES
    there = (await client.get_collection(name)).payload_schema
    missing = {
        field: wanted
        for field, wanted in indexes.items()
        if field not in there or not _is_like(there[field], wanted)
    }
    if missing:
        await run_together(
            *(
                _create_payload_index(name, field, wanted, client)
                for field, wanted in missing.items()
            )
        )


def _is_like(there: models.PayloadIndexInfo, wanted: IndexParams) -> bool:
    params = {} if there.params is None else there.params.model_dump(mode="json")
    given = {"type": there.data_type.value, **params}
    return all(
        given.get(k) == v for k, v in wanted.model_dump(mode="json").items() if v is not None
    )


async def _create_payload_index(
    name: str, field: str, wanted: IndexParams, client: AsyncQdrantClient
) -> None:
    check_applied(await client.create_payload_index(name, field, wanted, wait=True))


async def _create_once(qdrant: Qdrant, name: str, create: Request[bool]) -> bool:
    """Create a collection. Return False if another worker was faster."""
    try:
        return await qdrant.ask(create)
    except StoreRejected:
        if await qdrant.ask(lambda client: client.collection_exists(name)):
            return False
        raise


def point_alias(alias: str, names: CollectionNames) -> models.CreateAliasOperation:
    """Return the operation that points ``alias`` to a collection, whatever it pointed to before."""
    return models.CreateAliasOperation(
        create_alias=models.CreateAlias(collection_name=names.chunks, alias_name=alias)
    )
