"""What is stored in Qdrant, and under which ids. Plain data, without a client.

Ids are UUIDs of version 5 (RFC 9562), made of what they stand for: the same content always gets
the same id, so writing it again changes nothing.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from msgspec import Struct

CHUNK_NAMESPACE: Final = uuid.UUID("2d9f2a52-9d3c-5c58-8a3e-0c8a4e0fb0c7")
LEDGER_NAMESPACE: Final = uuid.UUID("6f6f2f0e-6f44-5c0f-9d0c-6b1f3a1f9a10")


@dataclass(frozen=True)
class ChunkPoint:
    """A chunk with its vector, as it is stored."""

    id: str
    vector: Sequence[float]
    payload: Mapping[str, Any]


@dataclass(frozen=True)
class Hit:
    """A chunk that a search found. ``score`` is the cosine with the query, at most 1."""

    score: float
    doc_id: str
    source: str
    chunk_index: int
    text: str
    metadata: dict[str, Any]


def chunk_id(tenant: str, doc_id: str, chunk_hash: str, occurrence: int) -> str:
    """Id of a chunk, made of its content: it stays as long as the chunk does.

    ``occurrence`` counts the equal chunks before it in the same document.
    """
    return str(uuid.uuid5(CHUNK_NAMESPACE, f"{tenant}\0{doc_id}\0{chunk_hash}\0{occurrence}"))


class LedgerEntry(Struct, frozen=True, kw_only=True):
    """The state of one document in the index. ``content_hash`` is that of the whole document."""

    tenant: str
    doc_id: str
    source: str
    version: int
    content_hash: str
    chunks: int
    state: Literal["writing", "indexed"]

    @property
    def indexed(self) -> bool:
        return self.state == "indexed"


def ledger_id(tenant: str, doc_id: str) -> str:
    """Id of a document's entry in the ledger."""
    return str(uuid.uuid5(LEDGER_NAMESPACE, f"{tenant}\0{doc_id}"))
