"""Everything that decides a vector, in one short name."""

import hashlib

import msgspec
from msgspec import Struct

from worker.embedding.config import ModelInfo, Precision
from worker.store.schema import DEFAULT_SCHEMA, SPARSE_ENCODER, Schema
from worker.text import CHUNKER, EXTRACTION_VERSION


class Fingerprint(Struct, frozen=True, omit_defaults=True):
    """What a collection's vectors were made with; two equal ones can stand side by side.

    ``vector_name`` is the dense vector's. ``sparse`` is the encoder of the sparse vectors; empty
    if there are none.
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

    def has_vectors_of(self, other: "Fingerprint") -> bool:
        """Return whether the same text has the same dense vector in both."""
        return _decides_vector(self) == _decides_vector(other)

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name the collection."""
        return hashlib.blake2b(msgspec.msgpack.encode(self), digest_size=6).hexdigest()


def _decides_vector(made_with: Fingerprint) -> tuple[str, str, int, Precision]:
    return (made_with.model, made_with.revision, made_with.dimension, made_with.precision)


def fingerprint(model: ModelInfo, schema: Schema = DEFAULT_SCHEMA) -> Fingerprint:
    """Return the fingerprint of ``model`` in this installation, stored as ``schema`` says."""
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
    )
