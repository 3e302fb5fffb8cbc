"""Searches a collection: query and conditions in, hits out."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, Protocol

import msgspec
from qdrant_client import models

from ingestq.core.errors import InvalidQuery
from ingestq.core.excerpts import excerpt
from ingestq.core.search_query import (
    Comparison,
    MetadataCondition,
    MetadataRange,
    Mode,
    SearchFilter,
    SearchQuery,
)
from ingestq.core.unicode_forms import composed, usual_forms
from worker.embedding.config import ModelInfo
from worker.pipeline.points import (
    COMPARABLE,
    COMPOSED,
    LARGE_INTEGERS,
    DocumentKey,
    QueryVectors,
    SearchHit,
    is_large,
)
from worker.store.chunks import DEFAULT_FUSION, Fusion, QdrantStore, Ranking
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames, check_searchable
from worker.store.fence import is_equal
from worker.store.ledger import QdrantLedger

EXACT_FLOATS: Final = 2**53
"""Below this, every integer is a distinct float. Qdrant compares ranges as floats."""
SIDES: Final = {
    Comparison.AT_LEAST: "gte",
    Comparison.AT_MOST: "lte",
    Comparison.ABOVE: "gt",
    Comparison.BELOW: "lt",
}
"""The field of a range in Qdrant."""


def to_filter(where: SearchFilter) -> models.Filter | None:
    """Return the filter for points that meet every condition; None if there are no conditions."""
    conditions: list[models.Condition] = [
        _is_within(wanted) if isinstance(wanted, MetadataRange) else _metadata_is(wanted)
        for wanted in where.metadata
    ]
    if where.source is not None:
        conditions.append(_source_is(where.source))
    if where.tenant is not None:
        conditions.append(is_equal("tenant", where.tenant))
    return models.Filter(must=conditions) if conditions else None


def _source_is(source: str) -> models.Condition:
    """Match a source in any of Unicode's normal forms."""
    if source.isascii():
        return is_equal("source", source)
    form = composed(source)
    return models.Filter(
        should=[is_equal("source", form), is_equal(f"source{COMPOSED}", form)],
    )


def _metadata_is(wanted: MetadataCondition) -> models.Filter:
    """Match a metadata value as text and, if it reads as one, as a number, boolean or null.

    Text matches as it was typed, and in Unicode's forms NFC and NFD.
    """
    matching: list[models.Condition] = [
        *(c for path in _paths(wanted.key) for c in _is_any(path, wanted.values)),
        *_is_large_integer(wanted),
    ]
    return models.Filter(must_not=matching) if wanted.negated else models.Filter(should=matching)


def _is_within(wanted: MetadataRange) -> models.Filter:
    side = {SIDES[wanted.comparison]: wanted.bound}
    kind = models.DatetimeRange if isinstance(wanted.bound, datetime) else models.Range
    within = kind.model_validate(side)
    return models.Filter(
        should=[models.FieldCondition(key=path, range=within) for path in _paths(wanted.key)]
    )


def _paths(key: str, field: str = "metadata") -> list[str]:
    """Return where the metadata under ``key`` may be in a ``field`` of the payload.

    A dot is either part of the key or a path. Keys are quoted, because they may contain anything.
    """
    paths: dict[str, None] = {}
    for form in usual_forms(key):
        nested = ".".join(f'"{part}"' for part in form.split("."))
        paths |= dict.fromkeys((f"{field}.{nested}", f'{field}."{form}"'))
    return list(paths)


def _is_any(path: str, texts: Sequence[str]) -> Iterator[models.Condition]:
    forms = dict.fromkeys(form for text in texts for form in usual_forms(text))
    yield models.FieldCondition(key=path, match=models.MatchAny(any=list(forms)))
    for text in texts:
        yield from _is_value(path, text)


def _is_value(path: str, text: str) -> Iterator[models.Condition]:
    """Match what ``text`` reads as, if that is a number, boolean or null."""
    match _read(text):
        case bool(value):
            yield is_equal(path, value)
        case int(value) if value in COMPARABLE:
            yield is_equal(path, value)
            if abs(value) < EXACT_FLOATS:
                yield _is_float(path, value)
        case float(value):
            yield _is_float(path, value)
        case None:
            yield models.IsNullCondition(is_null=models.PayloadField(key=path))


def _is_float(path: str, value: float) -> models.FieldCondition:
    return models.FieldCondition(key=path, range=models.Range(gte=value, lte=value))


def _is_large_integer(wanted: MetadataCondition) -> Iterator[models.FieldCondition]:
    """Match the integers among the values that Qdrant cannot compare, which are stored as text."""
    large = [str(value) for value in map(_read, wanted.values) if is_large(value)]
    for path in _paths(wanted.key, LARGE_INTEGERS) if large else ():
        yield models.FieldCondition(key=path, match=models.MatchAny(any=large))


def _read(text: str) -> object:
    """Return what ``text`` reads as: a number, boolean or None for null; else ``text`` itself."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
    return value if isinstance(value, bool | int | float | None) else text


class QueryModel(Protocol):
    """Turns a search query into vectors; see `worker.embedding.pool.ModelPool`."""

    info: ModelInfo

    async def embed_query(self, text: str) -> QueryVectors: ...


async def search(
    qdrant: Qdrant,
    names: CollectionNames,
    model: QueryModel,
    query: SearchQuery,
    fusion: Fusion = DEFAULT_FUSION,
    ranking: Ranking | None = None,
) -> list[SearchHit]:
    """Return the hits of ``query``, best first. ``fusion`` is for hybrid searches.

    With a ``ranking``, they are the best of more hits than were asked for.

    Raises CollectionMismatch if the collection was built with another model, and InvalidQuery for a
    sparse search in a collection without sparse vectors.
    """
    made_with = await check_searchable(qdrant, names, model.info)
    if query.mode is Mode.SPARSE and not made_with.sparse:
        raise InvalidQuery(
            f"the collection {names.alias!r} has no sparse vectors: it was built with "
            "INGESTQ_HYBRID=false, so only a dense search is possible"
        )
    dense, sparse = await model.embed_query(query.text)
    chunks = QdrantStore(qdrant, names.chunks, made_with.layout)
    hits = await chunks.search(
        None if query.mode is Mode.SPARSE else dense,
        query.limit,
        sparse=sparse if made_with.sparse and query.mode is not Mode.DENSE else None,
        only=to_filter(query.where),
        fusion=fusion,
        group=query.group,
        around=query.around,
        ranking=ranking,
    )
    keys = [DocumentKey(hit.tenant, hit.doc_id) for hit in hits]
    stale = await QdrantLedger(qdrant, names.ledger).stale_among(keys)
    return [
        replace(hit, snippet=excerpt(hit.text, query.text), stale=key in stale)
        for key, hit in zip(keys, hits, strict=True)
    ]
