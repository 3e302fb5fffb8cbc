"""The schema of a collection, and its fingerprint. Plain data.

The fingerprint covers everything that decides a vector.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Struct

from worker.embedding.config import ModelInfo, Precision
from worker.text import CHUNKER, EXTRACTION_VERSION
from worker.text.config import DEFAULT_READING, OcrMode, ReadingConfig

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


@dataclass(frozen=True)
class Schema:
    """How chunks are stored.

    ``vector_name`` names the dense vector; empty means Qdrant's unnamed vector. A ``hybrid``
    collection also has a sparse vector of each chunk's words.
    """

    vector_name: str = ""
    hybrid: bool = True
    storage: Storage = DEFAULT_STORAGE


DEFAULT_SCHEMA: Final = Schema()


class Fingerprint(Struct, frozen=True):
    """Everything that decides a collection's vectors: equal fingerprints, compatible vectors.

    ``vector_name`` names the dense vector. ``sparse`` is the encoder of the sparse vectors; empty
    if there are none. ``languages``, ``ocr`` and ``ocr_languages`` say how documents are read.
    Vectors that are ``truncated`` are the first ``dimension`` numbers of the model's.
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

    def has_vectors_of(self, other: "Fingerprint") -> bool:
        """Return True if the same text gets the same dense vector under both."""
        return _decides_vector(self) == _decides_vector(other)

    @property
    def dimensions(self) -> int | None:
        """What the setting of this name was when the vectors were made, if it truncated them."""
        return self.dimension if self.truncated else None

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits; part of the collection's name."""
        fields = msgspec.structs.asdict(self)
        if not self.truncated:  # collections that are older than this field keep their names
            del fields["truncated"]
        return hashlib.blake2b(msgspec.msgpack.encode(fields), digest_size=6).hexdigest()


def _decides_vector(made_with: Fingerprint) -> tuple[str, str, int, Precision]:
    return (made_with.model, made_with.revision, made_with.dimension, made_with.precision)


def fingerprint(
    model: ModelInfo, schema: Schema = DEFAULT_SCHEMA, reading: ReadingConfig = DEFAULT_READING
) -> Fingerprint:
    """Return the fingerprint of what this version of ingestq makes of documents.

    They are read as ``reading`` says, embedded by ``model`` and stored by ``schema``.
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
        sparse=SPARSE_ENCODER if schema.hybrid else "",
        languages=reading.languages,
        ocr=reading.ocr,
        # Without OCR they decide nothing.
        ocr_languages=reading.ocr_languages
        if reading.ocr is not OcrMode.OFF
        else DEFAULT_READING.ocr_languages,
        truncated=model.truncated,
    )
