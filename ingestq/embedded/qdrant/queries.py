"""Reading requests, run against one shard. Everything here blocks, and raises Refused."""

from typing import Annotated, Any, Final

import qdrant_edge as edge
from msgspec import Meta, Raw, Struct, convert
from msgspec import ValidationError as Misfit

from ingestq.embedded.qdrant.catalog import Collection
from ingestq.embedded.qdrant.errors import (
    bad_request,
    invalid,
    malformed,
    not_found,
    unknown_vector,
    unsupported,
)
from ingestq.embedded.qdrant.filters import (
    NO_VARIANT,
    Filter,
    PointId,
    check_ids,
    to_filter,
)
from ingestq.embedded.qdrant.limits import check_facet, check_order
from ingestq.embedded.qdrant.points import (
    SparseValues,
    WithPayload,
    WithVector,
    check_vector_fit,
    check_vector_form,
    shown_hit,
    shown_id,
    shown_record,
    to_vectors,
    with_payload,
    with_vector,
)

DEFAULT_LIMIT: Final = 10
DEFAULT_RRF_K: Final = 2
LARGEST_WINDOW: Final = 16_384
"""How many candidates a query for different points may compare, each with each."""
PAGE: Final = 256
"""How many points are read at once: the engine lets no other thread run meanwhile."""
DEEPEST_PREFETCH: Final = 8
UNSUPPORTED_QUERIES: Final = frozenset({
    "recommend", "discover", "context", "formula", "relevance_feedback", "text", "model", "object",
    "image",
})  # fmt: skip
NO_MERGE: Final = (
    "A query is needed to merge the prefetches. Can't have prefetches without defining a query."
)

Shown = dict[str, Any]
NotNegative = Annotated[int, Meta(ge=0)]


class RetrieveRequest(Struct, frozen=True, kw_only=True):
    """Reads points by their ids."""

    ids: list[PointId]
    with_payload: WithPayload = None
    with_vector: WithVector = None


class OrderBy(Struct, frozen=True):
    """Orders points by a field."""

    key: str
    direction: str | None = None
    start_from: int | float | str | None = None


class ScrollRequest(Struct, frozen=True, kw_only=True):
    """Reads points page by page."""

    offset: PointId | None = None
    limit: NotNegative | None = None
    filter: Filter | None = None
    with_payload: WithPayload = None
    with_vector: WithVector = None
    order_by: str | OrderBy | None = None


class CountRequest(Struct, frozen=True, kw_only=True):
    """Counts points."""

    filter: Filter | None = None
    exact: bool = True


class FacetRequest(Struct, frozen=True, kw_only=True):
    """Counts the values of a field."""

    key: str
    limit: NotNegative | None = None
    filter: Filter | None = None
    exact: bool | None = None


class QuantizationParams(Struct, frozen=True):
    """How a query uses quantized vectors."""

    ignore: bool = False
    rescore: bool | None = None
    oversampling: float | None = None


class SearchParams(Struct, frozen=True, kw_only=True):
    """How exact a query is."""

    hnsw_ef: int | None = None
    exact: bool = False
    quantization: QuantizationParams | None = None
    indexed_only: bool = False
    acorn: Any = None
    idf: Any = None


Fusion = edge.Fusion.Rrf | edge.Fusion.Dbsf
Query = list[float] | dict[str, Any] | PointId | None


class Prefetch(Struct, frozen=True, kw_only=True):
    """A query whose results another one merges."""

    prefetch: "list[Prefetch] | Prefetch | None" = None
    query: Query = None
    using: str | None = None
    filter: Filter | None = None
    params: SearchParams | None = None
    score_threshold: float | None = None
    limit: NotNegative | None = None
    lookup_from: Any = None


class Mmr(Struct, frozen=True):
    """How different from each other the points nearest to a vector shall be."""

    diversity: Annotated[float, Meta(ge=0, le=1)] = 0.5
    candidates_limit: Annotated[int, Meta(ge=1, le=LARGEST_WINDOW)] | None = None


class QueryRequest(Struct, frozen=True, kw_only=True):
    """Finds points."""

    prefetch: list[Prefetch] | Prefetch | None = None
    query: Query = None
    using: str | None = None
    filter: Filter | None = None
    params: SearchParams | None = None
    score_threshold: float | None = None
    limit: NotNegative | None = None
    offset: NotNegative | None = None
    with_payload: WithPayload = None
    with_vector: WithVector = None
    lookup_from: Any = None


class QueryBatch(Struct, frozen=True):
    """Several queries."""

    searches: list[QueryRequest]


def retrieve(shard: edge.EdgeShard, collection: Collection, wanted: RetrieveRequest) -> list[Raw]:
    """Return the points that exist, each once, in the order of their ids in the request."""
    check_ids(wanted.ids)
    payload = with_payload(wanted.with_payload, True)
    vectors = with_vector(wanted.with_vector, collection.config)
    ids: list[Any] = list(dict.fromkeys(wanted.ids))
    return [
        shown_record(record)
        for start in range(0, len(ids), PAGE)
        for record in shard.retrieve(ids[start : start + PAGE], payload, vectors)
    ]


def scroll(shard: edge.EdgeShard, collection: Collection, wanted: ScrollRequest) -> Shown:
    """Return a page of points, and where the next one begins."""
    limit = _limit(wanted.limit)
    check_ids(() if wanted.offset is None else (wanted.offset,))
    parts = {
        "filter": _filter(wanted.filter, collection),
        "with_payload": with_payload(wanted.with_payload, True),
        "with_vector": with_vector(wanted.with_vector, collection.config),
    }
    if wanted.order_by is not None:
        if wanted.offset is not None:
            raise bad_request(
                "Cannot use an `offset` when using `order_by`. The alternative for paging is to use"
                " `order_by.start_from` and a filter to exclude the IDs that you've already seen "
                "for the `order_by.start_from` value"
            )
        order = _order_by(wanted.order_by, collection)
        records, _ = shard.scroll(edge.ScrollRequest(limit=limit, order_by=order, **parts))
        return {"points": [shown_record(record) for record in records], "next_page_offset": None}
    points: list[Raw] = []
    offset: Any = wanted.offset
    while len(points) < limit:
        size = min(PAGE, limit - len(points))
        records, offset = shard.scroll(edge.ScrollRequest(offset=offset, limit=size, **parts))
        points += map(shown_record, records)
        if offset is None:
            break
    return {"points": points, "next_page_offset": None if offset is None else shown_id(offset)}


def count(shard: edge.EdgeShard, collection: Collection, wanted: CountRequest) -> Shown:
    """Return the number of points."""
    only = _filter(wanted.filter, collection)
    return {"count": shard.count(edge.CountRequest(exact=wanted.exact, filter=only))}


def facet(shard: edge.EdgeShard, collection: Collection, wanted: FacetRequest) -> Shown:
    """Return the most frequent values of a field, and how many points have each."""
    check_facet(wanted.key, collection.payload_schema)
    only = _filter(wanted.filter, collection)
    request = edge.FacetRequest(wanted.key, _limit(wanted.limit), bool(wanted.exact), only)
    hits = [{"value": hit.value, "count": hit.count} for hit in shard.facet(request).hits]
    return {"hits": [hit for hit in hits if hit["count"]]}  # also those of deleted points are hits


def query(shard: edge.EdgeShard, collection: Collection, wanted: QueryRequest) -> Shown:
    """Return the points that a query finds, best first."""
    reader = _QueryReader(shard, collection)
    limit = _limit(wanted.limit)
    if wanted.query is None and wanted.prefetch is not None:
        raise bad_request(NO_MERGE)
    parts = reader.parts(wanted, 0)
    payload = with_payload(wanted.with_payload, False)
    vectors = with_vector(wanted.with_vector, collection.config)
    request = edge.QueryRequest(
        limit, wanted.offset, with_payload=payload, with_vector=vectors, **parts
    )
    return {"points": [shown_hit(hit, vectors) for hit in shard.query(request)]}


class _QueryReader:
    """Turns queries into the engine's; looks up the points that they name."""

    def __init__(self, shard: edge.EdgeShard, collection: Collection) -> None:
        self._shard = shard
        self._collection = collection

    def parts(self, given: QueryRequest | Prefetch, depth: int) -> dict[str, Any]:
        """Return what a query and a prefetch have in common."""
        if given.lookup_from is not None:
            raise unsupported("lookup_from")
        only = _filter(given.filter, self._collection)
        named = _named_point(given.query)
        if named is not None:
            # The point itself is not among the results.
            check_ids((named,))
            itself = edge.HasIdCondition({named})
            only = edge.Filter(must=None if only is None else [only], must_not=[itself])
        return {
            "prefetches": self._prefetches(given.prefetch, depth),
            "query": self._query(given),
            "filter": only,
            "params": None if given.params is None else _params(given.params),
            "score_threshold": given.score_threshold,
        }

    def _prefetches(
        self, given: list[Prefetch] | Prefetch | None, depth: int
    ) -> list[edge.Prefetch] | None:
        if given is None:
            return None
        if depth == DEEPEST_PREFETCH:
            raise malformed(f"prefetches are nested more than {DEEPEST_PREFETCH} deep")
        prefetches = []
        for one in given if isinstance(given, list) else [given]:
            if one.query is None and one.prefetch is not None:
                raise bad_request(NO_MERGE)
            prefetches.append(edge.Prefetch(_limit(one.limit), **self.parts(one, depth + 1)))
        return prefetches

    def _query(self, given: QueryRequest | Prefetch) -> "edge.ScoringQueryType | Fusion | None":
        using = given.using or ""
        match given.query:
            case None:
                return None
            case {"indices": _, "values": _} | list() | int() | str() as nearest:
                return self._nearest(nearest, using)
            case {"nearest": nearest} as wanted:
                if (mmr := wanted.get("mmr")) is None:
                    return self._nearest(nearest, using)
                limit = DEFAULT_LIMIT if given.limit is None else given.limit
                return self._diverse(nearest, using, _converted(mmr, Mmr), limit)
            case {"order_by": order}:
                return _order_by(_converted(order, str | OrderBy), self._collection)
            case {"sample": "random"}:
                return edge.Sample.Random
            case other:
                if not given.prefetch and other.keys() <= {"fusion", "rrf"}:
                    raise bad_request("Fusion queries need prefetches")
                return _fusion(other)

    def _nearest(self, given: Any, using: str) -> edge.Query:
        return edge.Query.Nearest(self._vector(given, using), using)

    def _diverse(self, given: Any, using: str, mmr: Mmr, limit: int) -> edge.Mmr:
        if using in self._collection.config.sparse_vectors:
            raise unsupported("mmr of sparse vectors")
        candidates = limit if mmr.candidates_limit is None else mmr.candidates_limit
        return edge.Mmr(self._vector(given, using), 1 - mmr.diversity, candidates, using)

    def _vector(self, given: Any, using: str) -> Any:
        checked = _converted(given, PointId | list[float] | SparseValues)
        if isinstance(checked, int | str):
            return self._vector_of(checked, using)
        check_vector_form(checked, "query")
        check_vector_fit(using, checked, self._collection.config)
        return to_vectors({using: checked})[using]

    def _vector_of(self, id_: PointId, using: str) -> Any:
        if (
            using not in self._collection.config.vectors
            and using not in self._collection.config.sparse_vectors
        ):
            raise unknown_vector(using)
        for record in self._shard.retrieve([id_], False, [using]):
            vectors = record.vector
            vector = vectors.get(using) if isinstance(vectors, dict) else vectors
            if vector is not None:
                return vector
        raise not_found(f"No point with id {id_} found")


def _named_point(query: Query) -> PointId | None:
    """Return the id of the point whose vector is the query; None if it names no point."""
    nearest = query.get("nearest") if isinstance(query, dict) else query
    return nearest if isinstance(nearest, int | str) else None


def _fusion(given: dict[str, Any]) -> Fusion:
    match given:
        case {"fusion": "rrf"}:
            return edge.Fusion.Rrf(DEFAULT_RRF_K)
        case {"fusion": "dbsf"}:
            return edge.Fusion.Dbsf()
        case {"rrf": dict(options)}:
            k = DEFAULT_RRF_K if options.get("k") is None else _converted(options["k"], int)
            if k < 1:
                raise invalid(f"rrf.k: value {k} invalid, must be 1 or larger")
            weights = options.get("weights")
            return edge.Fusion.Rrf(k, None if weights is None else _converted(weights, list[float]))
    if UNSUPPORTED_QUERIES.isdisjoint(given):
        raise malformed(f"{NO_VARIANT} QueryInterface")
    raise unsupported(f"the query {', '.join(given)}")


def _filter(given: Filter | None, collection: Collection) -> edge.Filter | None:
    collection.limits.check_reading(given, collection.payload_schema)
    return to_filter(given)


def _order_by(given: str | OrderBy, collection: Collection) -> edge.OrderBy:
    if isinstance(given, str):
        given = OrderBy(given)
    match given.direction:
        case None | "asc":
            direction = edge.Direction.Asc
        case "desc":
            direction = edge.Direction.Desc
        case other:
            raise malformed(f"unknown variant `{other}`, expected `asc` or `desc`")
    order = edge.OrderBy(given.key, direction, given.start_from)
    check_order(given.key, collection.payload_schema)
    return order


def _params(given: SearchParams) -> edge.SearchParams:
    for name in ("acorn", "idf"):
        if getattr(given, name) is not None:
            raise unsupported(name)
    quantization = given.quantization
    return edge.SearchParams(
        given.hnsw_ef,
        given.exact,
        None
        if quantization is None
        else edge.QuantizationSearchParams(
            quantization.ignore, quantization.rescore, quantization.oversampling
        ),
        given.indexed_only,
    )


def _limit(limit: int | None) -> int:
    if limit is not None and limit < 1:
        raise invalid(f"limit: value {limit} invalid, must be 1 or larger")
    return DEFAULT_LIMIT if limit is None else limit


def _converted(value: Any, kind: Any) -> Any:
    try:
        return convert(value, kind)
    except Misfit as error:
        raise malformed(f"{NO_VARIANT} QueryInterface: {error}") from error
