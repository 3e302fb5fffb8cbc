"""The schema of a collection, and its fingerprint. Plain data.

The fingerprint covers everything that decides a vector.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec
from msgspec import Struct

from worker.embedding.config import ModelInfo, Precision
from worker.text import CHUNKER, EXTRACTION_VERSION
from worker.text.config import (
    DEFAULT_READING,
    NO_HOOKS,
    HookVersions,
    OcrMode,
    ReadingConfig,
)

SPARSE_NAME: Final = "bm25"
"""Name of the sparse vector."""
SPARSE_ENCODER: Final = "bm25/2"
"""Part of the fingerprint: change it when the same text gets another sparse vector."""


class Quantization(StrEnum):
    """Quantization of the dense vectors, so that they can be searched in memory.

    ``scalar`` takes one byte for each dimension instead of four, ``binary`` one bit. See
    https://qdrant.tech/documentation/guides/quantization/
    """

    SCALAR = "scalar"
    BINARY = "binary"


@dataclass(frozen=True)
class Storage:
    """How the server stores a collection. Affects speed, memory and redundancy, but no result.

    With ``on_disk``, vectors, the sparse index and payloads are read from disk on demand. Whatever
    is None or False, the server decides. ``shard_number``, ``replication_factor`` and
    ``write_consistency_factor`` matter to clusters, see
    https://qdrant.tech/documentation/guides/distributed_deployment/; ``hnsw_m`` and
    ``hnsw_ef_construct`` are the links of a node in the HNSW graph, and the candidates for them.
    """

    quantization: Quantization | None = None
    on_disk: bool = False
    shard_number: int | None = None
    replication_factor: int | None = None
    write_consistency_factor: int | None = None
    hnsw_m: int | None = None
    hnsw_ef_construct: int | None = None


DEFAULT_STORAGE: Final = Storage()


TEXT_FIELD: Final = "page_content"
"""The key of a chunk's text in its payload, which LangChain reads by default."""

CHUNK_KEYS: Final = frozenset(
    {"context", "page", "part", "metadata", "doc_id", "source", "source_nfc", "tenant"}
    | {"chunk_index", "content_hash", "version", "attempt", "epoch", "large_integers"}
)
"""The other keys that the payload of a chunk may have."""


@dataclass(frozen=True)
class PointLayout:
    """Where a point has what every chunk has: the name of its dense vector, and of its text.

    An empty ``vector_name`` means Qdrant's unnamed vector. ``text_field`` is a key of the payload.
    """

    vector_name: str = ""
    text_field: str = TEXT_FIELD

    def payload_of(self, chunk: Mapping[str, Any]) -> dict[str, Any]:
        """Return the payload of a point for that of a ``chunk``, which has `TEXT_FIELD`."""
        return self._renamed(chunk, TEXT_FIELD, self.text_field)

    def chunk_of(self, payload: Mapping[str, Any] | None) -> dict[str, Any]:
        """Do the reverse of `payload_of`; None is an empty payload."""
        return self._renamed(payload or {}, self.text_field, TEXT_FIELD)

    def keys(self, fields: Iterable[str]) -> list[str]:
        """Return the keys in payloads of these ``fields`` of chunks."""
        return [self.text_field if field == TEXT_FIELD else field for field in fields]

    def _renamed(self, fields: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
        renamed = dict(fields)
        if old != new and old in renamed:
            renamed[new] = renamed.pop(old)
        return renamed


DEFAULT_LAYOUT: Final = PointLayout()


@dataclass(frozen=True)
class Schema:
    """How chunks are stored.

    ``vector_name`` and ``text_field`` are those of the `PointLayout`. A ``hybrid`` collection also
    has a sparse vector of each chunk's words.
    """

    vector_name: str = ""
    hybrid: bool = True
    storage: Storage = DEFAULT_STORAGE
    text_field: str = TEXT_FIELD

    @property
    def layout(self) -> PointLayout:
        """Where a point has what every chunk has."""
        return PointLayout(self.vector_name, self.text_field)


DEFAULT_SCHEMA: Final = Schema()


LATER_FIELDS: Final = {
    "truncated": False,
    "text_field": TEXT_FIELD,
    "parse_hook": "",
    "chunk_hook": "",
}
"""Fields of a fingerprint, with defaults, that collections which are older than them lack: these
keep their names."""


class Fingerprint(Struct, frozen=True):
    """Everything that decides a collection's vectors: equal fingerprints, compatible vectors.

    ``vector_name`` and ``text_field`` are those of the `PointLayout`. ``sparse`` is the encoder of
    the sparse vectors; empty if there are none. ``languages``, ``ocr`` and ``ocr_languages`` say
    how documents are read. Vectors that are ``truncated`` are the first ``dimension`` numbers of
    the model's. ``parse_hook`` and ``chunk_hook`` are those of `worker.text.config.HookVersions`.
    """

    model: str
    revision: str
    dimension: int
    max_tokens: int
    precision: Precision
    chunker: str
    extraction: int
    vector_name: str = ""
    sparse: str = ""
    languages: tuple[str, ...] = DEFAULT_READING.languages
    ocr: OcrMode = DEFAULT_READING.ocr
    ocr_languages: tuple[str, ...] = DEFAULT_READING.ocr_languages
    truncated: bool = False
    text_field: str = TEXT_FIELD
    parse_hook: str = ""
    chunk_hook: str = ""

    def has_vectors_of(self, other: "Fingerprint") -> bool:
        """Return True if the same text gets the same dense vector under both."""
        return _decides_vector(self) == _decides_vector(other)

    @property
    def dimensions(self) -> int | None:
        """What the setting of this name was when the vectors were made, if it truncated them."""
        return self.dimension if self.truncated else None

    @property
    def layout(self) -> PointLayout:
        """Where the collection's points have what every chunk has."""
        return PointLayout(self.vector_name, self.text_field)

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits; part of the collection's name."""
        fields = msgspec.structs.asdict(self)
        for name, default in LATER_FIELDS.items():
            if fields[name] == default:
                del fields[name]
        return hashlib.blake2b(msgspec.msgpack.encode(fields), digest_size=6).hexdigest()


def _decides_vector(made_with: Fingerprint) -> tuple[str, str, int, Precision]:
    return (made_with.model, made_with.revision, made_with.dimension, made_with.precision)


def fingerprint(
    model: ModelInfo,
    schema: Schema = DEFAULT_SCHEMA,
    reading: ReadingConfig = DEFAULT_READING,
    hooks: HookVersions = NO_HOOKS,
) -> Fingerprint:
    """Return the fingerprint of what this version of ingestq makes of documents.

    They are read as ``reading`` says, with these ``hooks``, embedded by ``model`` and stored by
    ``schema``.
    """
    return Fingerprint(
        model=model.name,
        revision=model.revision,
        dimension=model.dimension,
        max_tokens=model.max_tokens,
        precision=model.precision,
        chunker=CHUNKER,
        extraction=EXTRACTION_VERSION,
        vector_name=schema.vector_name,
        text_field=schema.text_field,
        sparse=SPARSE_ENCODER if schema.hybrid else "",
        languages=reading.languages,
        ocr=reading.ocr,
        # Without OCR they decide nothing.
        ocr_languages=reading.ocr_languages
        if reading.ocr is not OcrMode.OFF
        else DEFAULT_READING.ocr_languages,
        truncated=model.truncated,
        parse_hook=hooks.parse,
        chunk_hook=hooks.chunk,
    )
