"""A search query. Plain data: command and API read it, `worker.store.chunks.search` answers it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from ingestq.core.documents import DEFAULT_COLLECTION

LARGEST_LIMIT: Final = 1000


class Mode(StrEnum):
    """How chunks are found: by meaning (dense), by words (sparse), or by both (hybrid)."""

    HYBRID = "hybrid"
    DENSE = "dense"
    SPARSE = "sparse"


class MetadataCondition(NamedTuple):
    """The metadata under ``key`` is ``value``, or a list that holds it.

    A dot in ``key`` leads into metadata within metadata. A ``value`` that reads as a number, or
    as true or false, also matches that.
    """

    key: str
    value: str


@dataclass(frozen=True)
class SearchFilter:
    """Which chunks may be found: those that meet every condition."""

    metadata: tuple[MetadataCondition, ...] = ()
    source: str | None = None
    tenant: str | None = None


@dataclass(frozen=True)
class SearchQuery:
    """A search for at most ``limit`` chunks.

    ``collection`` is the public name of the one to be searched. In one without sparse vectors
    ``hybrid`` is the same as ``dense``.
    """

    text: str
    limit: int
    mode: Mode = Mode.HYBRID
    where: SearchFilter = SearchFilter()
    collection: str = DEFAULT_COLLECTION


def parse_condition(text: str) -> MetadataCondition:
    """Read ``KEY=VALUE``. Raises ValueError if it is none."""
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")) or '"' in key:
        raise ValueError(f"{text!r} is not KEY=VALUE, where KEY is a key of the metadata")
    return MetadataCondition(key, value)
