"""What a collection is to look like. Plain data, without a client."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SPARSE_NAME: Final = "bm25"
"""Name of the sparse vector."""
SPARSE_ENCODER: Final = "bm25/1"
"""Part of the fingerprint: change it when the same text gives another sparse vector."""


class Quantization(StrEnum):
    """Copies of the dense vectors that are small enough to be searched in memory.

    ``scalar`` has one byte a dimension instead of four, ``binary`` one bit. See
    https://qdrant.tech/documentation/guides/quantization/
    """

    SCALAR = "scalar"
    BINARY = "binary"


@dataclass(frozen=True)
class Storage:
    """How a server keeps what is stored; it decides about speed and memory only.

    With ``on_disk``, vectors, the sparse index and payloads are read from disk when they are
    needed; without, the server decides.
    """

    quantization: Quantization | None = None
    on_disk: bool = False


DEFAULT_STORAGE: Final = Storage()


@dataclass(frozen=True)
class Schema:
    """How chunks are stored.

    ``vector_name`` is the dense vector's; the empty one is Qdrant's unnamed vector. A ``hybrid``
    collection also has a sparse vector of the chunks' words.
    """

    vector_name: str = ""
    hybrid: bool = True
    storage: Storage = DEFAULT_STORAGE


DEFAULT_SCHEMA: Final = Schema()
