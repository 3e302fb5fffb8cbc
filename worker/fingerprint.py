"""Everything that decides a vector, in one short name."""

import hashlib
from typing import Final

import msgspec
from msgspec import Struct

from worker.chunk import CHUNKER
from worker.embedding.models import ModelInfo
from worker.extract import EXTRACTION_VERSION

PRECISION: Final = "exact"
"""Class of the arithmetic: vectors as sentence-transformers makes them."""


class Fingerprint(Struct, frozen=True):
    """What a collection's vectors were made with; two equal ones can stand side by side."""

    model: str
    revision: str
    dimension: int
    max_tokens: int
    precision: str
    chunker: str
    extraction: int

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name the collection."""
        return hashlib.blake2b(msgspec.msgpack.encode(self), digest_size=6).hexdigest()


def fingerprint(model: ModelInfo) -> Fingerprint:
    """The fingerprint of what this installation makes with ``model``."""
    return Fingerprint(
        model=model.name,
        revision=model.revision,
        dimension=model.dimension,
        max_tokens=model.max_tokens,
        precision=PRECISION,
        chunker=CHUNKER,
        extraction=EXTRACTION_VERSION,
    )
