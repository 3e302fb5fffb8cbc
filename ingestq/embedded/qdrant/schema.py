"""The configuration of a collection, in Qdrant's words, and of the shard that stores it."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import qdrant_edge as edge
from msgspec import Meta, Struct, convert, structs, to_builtins
from msgspec import ValidationError as Misfit

from ingestq.embedded.qdrant.errors import invalid, malformed, unsupported, wrong_input
from ingestq.embedded.qdrant.limits import StrictMode

HIDDEN_VECTOR: Final = "ingestq-no-vectors"
"""The engine has no shards without vectors. A collection that has none gets this one, which no
point fills and no answer shows."""
LARGEST_DIMENSION: Final = 65536

Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]


class VectorParams(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A dense vector of a collection."""

    size: int
    distance: Literal["Cosine", "Euclid", "Dot", "Manhattan"]
    hnsw_config: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None
    on_disk: bool | None = None
    datatype: Literal["float32", "float16", "uint8"] | None = None
    multivector_config: dict[str, Any] | None = None


class SparseIndexParams(Struct, frozen=True, omit_defaults=True):
    """How the index of a sparse vector is stored."""

    full_scan_threshold: NotNegative | None = None
    on_disk: bool | None = None
    datatype: Literal["float32", "float16", "uint8"] | None = None


class SparseVectorParams(Struct, frozen=True, omit_defaults=True):
    """A sparse vector of a collection."""

    index: SparseIndexParams | None = None
    modifier: Literal["none", "idf"] | None = None


class CollectionConfig(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a collection is created with."""

    vectors: dict[str, VectorParams] = {}
    sparse_vectors: dict[str, SparseVectorParams] = {}
    on_disk_payload: bool = True
    shard_number: Positive = 1
    replication_factor: Positive = 1
    write_consistency_factor: Positive = 1
    hnsw_config: dict[str, Any] = {}
    optimizers_config: dict[str, Any] = {}
    wal_config: dict[str, Any] = {}
    quantization_config: dict[str, Any] | None = None
    metadata: dict[str, Any] = {}
    strict_mode_config: StrictMode | None = None


class CreateCollection(Struct, frozen=True, kw_only=True):
    """The body of a request that creates a collection."""

    vectors: dict[str, Any] | None = None
    sparse_vectors: dict[str, SparseVectorParams] | None = None
    on_disk_payload: bool | None = None
    shard_number: Positive | None = None
    replication_factor: Positive | None = None
    write_consistency_factor: Positive | None = None
    hnsw_config: dict[str, Any] | None = None
    optimizers_config: dict[str, Any] | None = None
    wal_config: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    sharding_method: str | None = None
    init_from: Any = None
    strict_mode_config: StrictMode | None = None

    def config(self) -> CollectionConfig:
        """Return the configuration; raises Refused if it is invalid or not supported."""
        for name in ("sharding_method", "init_from"):
            if getattr(self, name) is not None:
                raise unsupported(name)
        given = {
            field: value
            for field in CollectionConfig.__struct_fields__
            if field != "vectors" and (value := getattr(self, field)) is not None
        }
        config = CollectionConfig(vectors=_vectors(self.vectors or {}), **given)
        for name in config.vectors.keys() & config.sparse_vectors.keys():
            text = "Dense and sparse vector names must be unique - duplicate found with"
            raise wrong_input(f"{text} '{name}'")
        return config


class UpdateCollection(Struct, frozen=True, kw_only=True):
    """The body of a request that changes a collection."""

    metadata: dict[str, Any] | None = None
    vectors: Any = None
    sparse_vectors: Any = None
    optimizers_config: Any = None
    params: Any = None
    hnsw_config: Any = None
    quantization_config: Any = None
    strict_mode_config: StrictMode | None = None

    def changed(self, config: CollectionConfig) -> CollectionConfig:
        """Return ``config`` with the change; raises Refused for what is not supported."""
        for name in self.__struct_fields__:
            if name not in {"metadata", "strict_mode_config"} and getattr(self, name) is not None:
                raise unsupported(f"changes of {name}")
        metadata = {**config.metadata, **(self.metadata or {})}
        return structs.replace(
            config,
            metadata={name: value for name, value in metadata.items() if value is not None},
            strict_mode_config=self.strict_mode_config or config.strict_mode_config,
        )


class FieldIndex(Struct, frozen=True):
    """The body of a request that creates a payload index."""

    field_name: str
    field_schema: str | dict[str, Any] | None = None


def _vectors(given: dict[str, Any]) -> dict[str, VectorParams]:
    """Return the dense vectors by name; the name of a single unnamed one is empty."""
    named = {"": given} if "size" in given and "distance" in given else given
    vectors: dict[str, VectorParams] = _converted(named, dict[str, VectorParams])
    for name, params in vectors.items():
        if not 1 <= params.size <= LARGEST_DIMENSION:
            where = f"vectors.{name}.size" if name else "vectors.size"
            limits = f"must be from 1 to {LARGEST_DIMENSION}"
            raise invalid(f"{where}: value {params.size} invalid, {limits}")
        if params.multivector_config is not None:
            raise unsupported("multivectors")
    return vectors


def shown_config(config: CollectionConfig) -> dict[str, Any]:
    """Return the configuration as Qdrant shows it."""
    vectors: object = config.vectors
    if config.vectors.keys() == {""}:
        vectors = config.vectors[""]
    params: dict[str, object] = {
        "vectors": vectors,
        "shard_number": config.shard_number,
        "replication_factor": config.replication_factor,
        "write_consistency_factor": config.write_consistency_factor,
        "on_disk_payload": config.on_disk_payload,
    }
    if config.sparse_vectors:
        params["sparse_vectors"] = config.sparse_vectors
    shown = {
        "params": to_builtins(params),
        "hnsw_config": {**HNSW, **config.hnsw_config},
        "optimizer_config": {**OPTIMIZERS, **config.optimizers_config},
        "wal_config": {**WAL, **config.wal_config},
        "quantization_config": config.quantization_config,
    }
    if config.metadata:
        shown["metadata"] = config.metadata
    if config.strict_mode_config is not None:
        shown["strict_mode_config"] = config.strict_mode_config
    return shown


HNSW: Final = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000}
OPTIMIZERS: Final = {
    "deleted_threshold": 0.2,
    "vacuum_min_vector_number": 1000,
    "default_segment_number": 0,
    "flush_interval_sec": 5,
}
WAL: Final = {"wal_capacity_mb": 32, "wal_segments_ahead": 0}

DISTANCES: Final = {
    "Cosine": edge.Distance.Cosine,
    "Euclid": edge.Distance.Euclid,
    "Dot": edge.Distance.Dot,
    "Manhattan": edge.Distance.Manhattan,
}
DATATYPES: Final = {
    "float32": edge.VectorStorageDatatype.Float32,
    "float16": edge.VectorStorageDatatype.Float16,
    "uint8": edge.VectorStorageDatatype.Uint8,
    None: None,
}


def shard_config(config: CollectionConfig) -> edge.EdgeConfig:
    """Return what the shard of a collection is created with."""
    sparse = {name: _sparse(params) for name, params in config.sparse_vectors.items()}
    if not config.vectors and not sparse:
        sparse[HIDDEN_VECTOR] = edge.EdgeSparseVectorParams()
    return edge.EdgeConfig(
        vectors={name: _dense(params) for name, params in config.vectors.items()},
        sparse_vectors=sparse,
        on_disk_payload=config.on_disk_payload,
        quantization_config=_quantization(config.quantization_config),
        max_search_threads=1,  # in the reader's own: for its single segment others only cost
    )


def _dense(params: VectorParams) -> edge.EdgeVectorParams:
    return edge.EdgeVectorParams(
        params.size,
        DISTANCES[params.distance],
        on_disk=params.on_disk,
        datatype=DATATYPES[params.datatype],
        quantization_config=_quantization(params.quantization_config),
    )


def _sparse(params: SparseVectorParams) -> edge.EdgeSparseVectorParams:
    index = params.index or SparseIndexParams()
    return edge.EdgeSparseVectorParams(
        index.full_scan_threshold,
        index.on_disk,
        edge.Modifier.Idf if params.modifier == "idf" else None,
        DATATYPES[index.datatype],
    )


def _quantization(given: Mapping[str, Any] | None) -> "edge.QuantizationConfigType | None":
    if given is None:
        return None
    match given:
        case {"scalar": {"type": "int8"} as scalar} if scalar.keys() <= SCALAR_OPTIONS:
            quantile = scalar.get("quantile")
            if quantile is not None and not LEAST_QUANTILE <= _converted(quantile, float) <= 1:
                limits = f"must be from {LEAST_QUANTILE} to 1.0"
                raise invalid(f"quantization_config.scalar.quantile: {limits}")
            always_ram = _converted(scalar.get("always_ram"), bool | None)
            return edge.ScalarQuantizationConfig(edge.ScalarType.Int8, quantile, always_ram)
        case {"binary": dict(binary)} if binary.keys() <= {"always_ram"}:
            return edge.BinaryQuantizationConfig(_converted(binary.get("always_ram"), bool | None))
        case _:
            raise unsupported(f"the quantization {', '.join(given)}")


def _converted(value: Any, kind: Any) -> Any:
    try:
        return convert(value, kind)
    except Misfit as error:
        raise malformed(str(error)) from error


LEAST_QUANTILE: Final = 0.5
SCALAR_OPTIONS: Final = frozenset({"type", "quantile", "always_ram"})
NO_SCHEMA: Final = "data did not match any variant of untagged enum PayloadFieldSchema"
INDEXES: Final[dict[str, Any]] = {
    "keyword": edge.KeywordIndexParams,
    "integer": edge.IntegerIndexParams,
    "float": edge.FloatIndexParams,
    "bool": edge.BoolIndexParams,
    "datetime": edge.DatetimeIndexParams,
    "uuid": edge.UuidIndexParams,
    "text": edge.TextIndexParams,
}
PASSED_ON: Final = frozenset({
    "is_tenant", "on_disk", "lookup", "range", "is_principal", "lowercase", "min_token_len",
    "max_token_len", "phrase_matching",
})  # fmt: skip
TOKENIZERS: Final = {
    "prefix": edge.TokenizerType.Prefix,
    "whitespace": edge.TokenizerType.Whitespace,
    "word": edge.TokenizerType.Word,
    "multilingual": edge.TokenizerType.Multilingual,
}


def index_operation(field: str, schema: str | Mapping[str, Any] | None) -> edge.UpdateOperation:
    """Return the operation that creates a payload index. Raises Refused, or an engine error."""
    return edge.UpdateOperation.create_field_index(field, _index_params(schema))


def _index_params(schema: str | Mapping[str, Any] | None) -> "edge.PayloadSchemaParams":
    """Return the engine's parameters of a payload index; raises Refused."""
    if schema is None:
        raise unsupported("an index without a schema")
    given: dict[str, Any] = {"type": schema} if isinstance(schema, str) else dict(schema)
    kind = str(given.pop("type", None))
    if kind not in INDEXES:
        if kind == "geo":
            raise unsupported("geo indexes")
        raise malformed(NO_SCHEMA)
    if (tokenizer := given.get("tokenizer")) is not None:
        if str(tokenizer) not in TOKENIZERS:
            raise malformed(NO_SCHEMA)
        given["tokenizer"] = TOKENIZERS[str(tokenizer)]
    options = {name: value for name, value in given.items() if value is not None}
    for name in options.keys() - PASSED_ON - {"tokenizer"}:
        raise unsupported(f"the option {name} of a payload index")
    try:
        params: edge.PayloadSchemaParams = INDEXES[kind](**options)
    except TypeError as error:
        raise malformed(f"{error}") from error
    return params
