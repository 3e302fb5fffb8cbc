"""Search queries, as the command and the API read them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from ingestq.core.documents import DEFAULT_COLLECTION

LARGEST_LIMIT: Final = 1000
"""The most hits that one search may ask for."""


class Mode(StrEnum):
    """How chunks are found: by meaning (dense), by words (sparse), or by both (hybrid)."""

    HYBRID = "hybrid"
    DENSE = "dense"
    SPARSE = "sparse"


class MetadataCondition(NamedTuple):
    """The condition that the metadata under ``key`` is ``value``, or a list that contains it.

    Dots in ``key`` lead into nested metadata. A ``value`` that reads as a number or as true or
    false also matches that number or boolean.
    """

    key: str
    value: str


@dataclass(frozen=True)
class SearchFilter:
    """The conditions that a chunk must meet, all of them, to be found."""

    metadata: tuple[MetadataCondition, ...] = ()
    source: str | None = None
    tenant: str | None = None


@dataclass(frozen=True)
class SearchQuery:
    """A search for at most ``limit`` chunks.

    ``collection`` is the public name of the collection to search. If it has no sparse vectors,
    ``hybrid`` is the same as ``dense``.
    """

    text: str
    limit: int
    mode: Mode = Mode.HYBRID
    where: SearchFilter = SearchFilter()
    collection: str = DEFAULT_COLLECTION


def parse_condition(text: str) -> MetadataCondition:
    """Return the condition that ``text``, ``KEY=VALUE``, stands for. Raises ValueError."""
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")) or '"' in key:
        raise ValueError(f"{text!r} is not KEY=VALUE, where KEY is a key of the metadata")
    return MetadataCondition(key, value)
