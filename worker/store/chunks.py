"""Writes, reads and searches the chunks in Qdrant. The schema is in `worker.store.collection`."""

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from operator import itemgetter
from pathlib import PurePath
from typing import Any, Final, NamedTuple, Protocol, TypeVar, cast

import msgspec
import structlog
from msgspec import Struct
from qdrant_client import AsyncQdrantClient, models

from ingestq.core import events
from ingestq.core.limits import presentable
from ingestq.core.metrics import PipelineStage
from worker.pipeline.points import ChunkPoint, DocumentKey, Fence, LedgerEntry, SearchHit
from worker.store.client import Qdrant, ask_in_parts
from worker.store.fence import FENCE_FIELDS, is_equal, is_exactly, is_not_newer, is_one_of
from worker.store.neighbours import WrittenUnder, with_neighbours
from worker.store.requests import Fields, GroupCommit, GroupLimits, batch_update, pages, read_page
from worker.store.schema import DEFAULT_LAYOUT, SPARSE_NAME, TEXT_FIELD, PointLayout
from worker.store.spans import in_span
from worker.text.chunking.context import file_title
from worker.text.parts import INSIDE, ExtractedDocument, Part, SparseVector, with_context

log = structlog.get_logger()

T = TypeVar("T")

UPSERTS: Final = GroupLimits(256)
"""Encoding so many points blocks the event loop: for about 13 ms with vectors of 384 floats."""
JSON_FLOAT_BYTES: Final = 22
JSON_INDEX_BYTES: Final = 11
POINT_BYTES: Final = 64
"""The id of a point and the names of its parts, in a request."""
DELETIONS: Final = GroupLimits(64)
"""Documents whose chunks are deleted together."""
STALE_POINTS: Final = 2048
"""Stale chunks that are deleted together."""
READ_POINTS: Final = 256
READS: Final = GroupLimits(READ_POINTS)
ID_BYTES: Final = 40
STALE_FILTER_BYTES: Final = 1024
HASH_ONLY: Final = ["content_hash"]
STORED_DOCUMENT: Final = ["chunk_index", TEXT_FIELD, "page", "part", "source", "metadata"]
STORED_TEXT: Final = [TEXT_FIELD, "context", "source", "metadata"]
RRF_K: Final = 2
MIN_CANDIDATES: Final = 100
CANDIDATES_PER_HIT: Final = 1
QUANTIZED: Final = models.SearchParams(
    quantization=models.QuantizationSearchParams(rescore=True, oversampling=2.0)
)
"""Takes twice as many candidates from the quantized vectors, and ranks them by the full ones.
Without quantization it has no effect."""


@dataclass(frozen=True)
class Fusion:
    """How a hybrid search joins what it finds by meaning and by words. See docs/retrieval.md.

    Of each, the best ``min_candidates`` chunks take part, or ``candidates_per_hit`` for each hit
    that is wanted, if that is more: a chunk with a low rank in one of them may still be the best in
    both. They are fused by rank (RRF: Cormack, Clarke and Büttcher 2009,
    https://doi.org/10.1145/1571941.1572114), because their scores cannot be compared. The lower
    ``rrf_k``, the more the first ranks count; it is added to ranks from 0.
    """

    rrf_k: int = RRF_K
    min_candidates: int = MIN_CANDIDATES
    candidates_per_hit: int = CANDIDATES_PER_HIT

    def candidates(self, hits: int) -> int:
        """Return how many chunks take part from each side of a search for so many ``hits``."""
        return max(hits * self.candidates_per_hit, self.min_candidates)


DEFAULT_FUSION: Final = Fusion()

WINDOW_GROWTH: Final = 4
LARGEST_WINDOW: Final = 10_000
"""How many chunks are looked at for the best of each document: first four times as many as are
wanted, then four times that, and so on up to this."""


class Ranking(Protocol):
    """Puts the hits of one search in a better order; see `worker.reranking`."""

    candidates: int
    """How many hits it looks at."""

    async def __call__(self, texts: Sequence[str]) -> Sequence[tuple[int, float]] | None:
        """Return the position and the score of each of ``texts``, best first.

        None leaves the hits as they are.
        """
        ...


Nearest = Callable[[int, Fields], Awaitable[list[models.ScoredPoint]]]
"""Returns so many of the nearest points with some fields, best first."""


class StoredText(NamedTuple):
    """What the index has of a chunk: its body and its context, and what is ``embedded`` of both."""

    body: str
    context: str
    embedded: str


class StoredDocument(NamedTuple):
    """What the index has of a document: its title, the bodies of its chunks (each a part), and the
    ``source`` and ``metadata`` of its chunks. It has no parts if it has no chunks."""

    content: ExtractedDocument
    source: str
    metadata: Mapping[str, Any]


class QdrantStore:
    """The chunks in the collection or alias ``name``. Every request may safely be sent twice.

    ``layout`` is that of its points. Raises what `worker.store.client.Qdrant` raises.
    """

    def __init__(self, qdrant: Qdrant, name: str, layout: PointLayout = DEFAULT_LAYOUT) -> None:
        self._qdrant = qdrant
        self._name = name
        self._layout = layout
        self._vector_name = layout.vector_name
        self._upsert = GroupCommit(
            self._upsert_all,
            UPSERTS,
            name=_describe_point,
            size=_json_bytes,
            stage=PipelineStage.UPSERT,
        )
        self._delete_stale = GroupCommit(
            self._delete_stale_of,
            DELETIONS,
            name=_describe_chunks,
            size=_key_bytes,
            stage=PipelineStage.DELETE,
        )
        self._read_vectors = GroupCommit(
            self._vectors_by_id,
            READS,
            name="point {}".format,
            size=lambda _: ID_BYTES,
            stage=PipelineStage.VECTORS,
        )

    @in_span("upsert")
    async def upsert(self, points: Sequence[ChunkPoint], fence: Fence) -> None:
        """Insert ``points``, or replace those whose fence is not newer; durable on return.

        The payloads of ``points`` carry ``fence``. If a point is rejected, some others may have
        been written.
        """
        await self._upsert([_FencedPoint(point, fence) for point in points])

    async def _upsert_all(self, points: Sequence["_FencedPoint"]) -> Sequence[None]:
        """Upsert points of several documents in one request, each under its document's fence."""
        structs: defaultdict[Fence, list[models.PointStruct]] = defaultdict(list)
        for point, fence in points:  # documents of a job may have the same fence
            structs[fence].append(self._struct(point))
        operations = [_upsert(some, fence) for fence, some in structs.items()]
        await self._qdrant.ask(partial(batch_update, self._name, operations))
        return [None] * len(points)

    @in_span("delete")
    async def delete_stale(self, entry: LedgerEntry) -> int:
        """Delete the document's chunks that its ``entry`` does not have; durable on return.

        Chunks with a newer fence stay. Returns how many were deleted.
        """
        deleted, has_more = await self._delete_stale.of_one(entry)
        while has_more:  # on its own: very many chunks do not hold up other documents
            [(count, has_more)] = await self._delete_stale_of([entry])
            deleted += count
        return deleted

    async def _delete_stale_of(self, entries: Sequence[LedgerEntry]) -> Sequence[tuple[int, bool]]:
        """Delete stale chunks of documents, together, up to `STALE_POINTS`.

        Returns how many of each document were deleted, and whether it may have more.
        """
        filters = _stale(entries)
        any_of_them = models.Filter(should=[stale for stale, _ in filters])
        filters_of: defaultdict[DocumentKey, list[int]] = defaultdict(list)
        for i, (_, keys) in enumerate(filters):
            for key in keys:
                filters_of[key].append(i)

        async def ask(some: Sequence[_StaleChunk]) -> None:
            ids: defaultdict[int, list[models.ExtendedPointId]] = defaultdict(list)
            for chunk in some:
                for i in filters_of[chunk.key]:
                    ids[i].append(chunk.id)
            operations = [_delete(these, filters[i][0]) for i, these in ids.items()]
            await self._qdrant.ask(partial(batch_update, self._name, operations))

        page, rest = await self._qdrant.ask(
            partial(read_page, self._name, any_of_them, ["tenant", "doc_id"], STALE_POINTS, None)
        )
        chunks = [_StaleChunk(record.id, _key(record.payload or {})) for record in page]
        await ask_in_parts(chunks, ask, lambda chunk: f"point {chunk.id}")
        deleted = Counter(chunk.key for chunk in chunks)
        return [(deleted[entry.key], rest is not None) for entry in entries]

    async def vectors(self, ids: Iterable[str]) -> dict[str, list[float]]:
        """Return the dense vectors, by id, of those ``ids`` that exist."""
        wanted = list(ids)
        found = zip(wanted, await self._read_vectors(wanted), strict=True)
        return {point_id: vector for point_id, vector in found if vector is not None}

    async def _vectors_by_id(self, ids: Sequence[str]) -> Sequence[list[float] | None]:
        request = partial(_retrieve_vectors, self._name, ids, self._vector_name, False)
        found = {str(r.id): self._dense(r) for r in await self._qdrant.ask(request)}
        return list(map(found.get, ids))

    async def vectors_of(self, hashes: Mapping[str, str]) -> dict[str, list[float]]:
        """Return the dense vectors, by id, of those chunks that exist and have the content hash.

        ``hashes`` has the content hash of each id.
        """
        found: dict[str, list[float]] = {}
        for batch in _batched(hashes, READ_POINTS):
            request = partial(_retrieve_vectors, self._name, batch, self._vector_name, HASH_ONLY)
            for record in await self._qdrant.ask(request):
                if (record.payload or {})["content_hash"] == hashes[str(record.id)]:
                    found[str(record.id)] = self._dense(record)
        return found

    async def stored(self, key: DocumentKey, fence: Fence | None = None) -> "StoredDocument":
        """Return what the chunks of the document hold; with ``fence``, only those written under it.

        If they are of several versions, because a worker stopped amid them, the source and metadata
        are those of the oldest.
        """
        chunks: list[tuple[int, Part]] = []
        oldest: tuple[Fence, Mapping[str, Any]] | None = None
        fields = self._layout.keys([*STORED_DOCUMENT, *FENCE_FIELDS])
        written = [] if fence is None else [is_exactly(fence)]
        only = models.Filter(must=[*_is_of(key), *written])
        async for page in pages(self._qdrant, self._name, only, fields, READ_POINTS):
            for payload in (self._layout.chunk_of(record.payload) for record in page):
                part = Part(payload[TEXT_FIELD], page=payload.get("page"), name=payload.get("part"))
                chunks.append((payload["chunk_index"], part))
                under = Fence(*(payload.get(field, 0) for field in FENCE_FIELDS))
                if oldest is None or oldest[0].is_newer_than(under):
                    oldest = under, payload
        chunks.sort(key=itemgetter(0))
        parts = tuple(part for _, part in chunks)
        if oldest is None:
            return StoredDocument(ExtractedDocument(parts), "", {})
        source, metadata = oldest[1]["source"], oldest[1]["metadata"]
        return StoredDocument(ExtractedDocument(parts, metadata.get("title")), source, metadata)

    async def sample(self, n: int) -> list[StoredText]:
        """Return up to ``n`` random chunks."""
        any_chunk = models.SampleQuery(sample=models.Sample.RANDOM)
        response = await self._qdrant.ask(
            lambda client: client.query_points(
                self._name,
                query=any_chunk,
                limit=n,
                with_payload=self._layout.keys(STORED_TEXT),
            )
        )
        return [_stored_text(self._layout.chunk_of(point.payload)) for point in response.points]

    async def count(self, only: models.Filter | None = None) -> int:
        """Return the number of chunks that meet ``only``; of all chunks without it."""
        request = partial(_count, self._name, only)
        return (await self._qdrant.ask(request)).count

    async def count_of(self, tenant: str | None) -> int:
        """Return the number of chunks of ``tenant``; of all chunks if that is None."""
        if tenant is None:
            return await self.count()
        return await self.count(models.Filter(must=[is_equal("tenant", tenant)]))

    async def search(
        self,
        dense: Sequence[float] | None,
        limit: int,
        *,
        sparse: SparseVector | None = None,
        only: models.Filter | None = None,
        fusion: Fusion = DEFAULT_FUSION,
        group: bool = False,
        around: int = 0,
        ranking: Ranking | None = None,
    ) -> list[SearchHit]:
        """Return the ``limit`` chunks nearest to ``dense``, to ``sparse``, or to both; best first.

        With both, ``fusion`` joins the two results. With ``group``, only the best chunk of each
        document counts; of documents that are not among the best `LARGEST_WINDOW` chunks there is
        none. With a ``ranking``, they are the best of what it was given. Each hit has its
        neighbours, up to ``around`` before and after it.
        """
        window = limit if ranking is None else max(limit, ranking.candidates)

        async def nearest(n: int, fields: Fields) -> list[models.ScoredPoint]:
            candidates = n if dense is None or sparse is None else fusion.candidates(n)
            prefetches = self._prefetches(dense, sparse, only, candidates)
            request = partial(_query, self._name, prefetches, n, fusion, fields)
            return (await self._qdrant.ask(request)).points

        points = await (self._one_a_document(nearest, window) if group else nearest(window, True))
        hits = [hit for point in points if (hit := self._hit(point)) is not None]
        if unreadable := len(points) - len(hits):
            log.warning(events.POINTS_UNREADABLE, collection=self._name, points=unreadable)
        if ranking is not None:
            hits = await _ranked(hits, ranking)
        del hits[limit:]
        if not around:
            return [hit for _, hit in hits]
        return await with_neighbours(self._qdrant, self._name, self._layout, hits, around)

    async def _one_a_document(self, nearest: Nearest, limit: int) -> list[models.ScoredPoint]:
        """Return the best chunk of each of the ``limit`` best documents.

        Qdrant's own groups would make one of documents that have the same id in two tenants.
        """
        window = limit
        while True:
            window = min(window * WINDOW_GROWTH, LARGEST_WINDOW)
            points = await nearest(window, ["tenant", "doc_id"])
            best: dict[tuple[str, str], models.ScoredPoint] = {}
            for point in points:
                payload = point.payload or {}
                document = (str(payload.get("tenant")), str(payload.get("doc_id")))
                best.setdefault(document, point)
            if len(best) >= limit or len(points) < window or window == LARGEST_WINDOW:
                break
        chosen = list(best.values())[:limit]
        payloads: dict[models.ExtendedPointId, models.Payload | None] = {}
        for batch in _batched((point.id for point in chosen), READ_POINTS):
            request = partial(_retrieve, self._name, batch)
            payloads |= {record.id: record.payload for record in await self._qdrant.ask(request)}
        return [
            point.model_copy(update={"payload": payloads[point.id]})
            for point in chosen
            if point.id in payloads  # unless it was deleted meanwhile
        ]

    def _prefetches(
        self,
        dense: Sequence[float] | None,
        sparse: SparseVector | None,
        only: models.Filter | None,
        candidates: int,
    ) -> list[models.Prefetch]:
        prefetches = []
        if dense is not None:
            prefetches.append(
                models.Prefetch(
                    query=list(dense),
                    using=self._vector_name or None,
                    filter=only,
                    params=QUANTIZED,
                    limit=candidates,
                )
            )
        if sparse is not None:
            prefetches.append(
                models.Prefetch(
                    query=_sparse(sparse), using=SPARSE_NAME, filter=only, limit=candidates
                )
            )
        return prefetches

    def _hit(self, point: models.ScoredPoint) -> "FoundChunk | None":
        return _hit(point.score, self._layout.chunk_of(point.payload))

    def _struct(self, point: ChunkPoint) -> models.PointStruct:
        # Without validation, which would check every number and block the event loop for as long as
        # encoding them does.
        return models.PointStruct.model_construct(
            id=point.id, vector=self._vectors(point), payload=self._layout.payload_of(point.payload)
        )

    def _vectors(self, point: ChunkPoint) -> models.VectorStruct:
        if point.sparse is None and not self._vector_name:
            return list(point.vector)
        vectors: dict[str, models.Vector] = {self._vector_name: list(point.vector)}
        if point.sparse is not None:
            vectors[SPARSE_NAME] = _sparse(point.sparse)
        return vectors

    def _dense(self, record: models.Record) -> list[float]:
        vectors = record.vector
        # The unnamed vector comes without a dict.
        dense = vectors[self._vector_name] if isinstance(vectors, dict) else vectors
        return cast(list[float], dense)


class _FencedPoint(NamedTuple):
    """A chunk to write, and the fence of its document."""

    point: ChunkPoint
    fence: Fence


class _StaleChunk(NamedTuple):
    id: models.ExtendedPointId
    key: DocumentKey


def _upsert(points: list[models.PointStruct], fence: Fence) -> models.UpsertOperation:
    # Without validation, which would check every number.
    listed = models.PointsList.model_construct(points=points, update_filter=is_not_newer(fence))
    return models.UpsertOperation.model_construct(upsert=listed)


def _delete(ids: Sequence[models.ExtendedPointId], only: models.Filter) -> models.DeleteOperation:
    these = models.Filter(must=[models.HasIdCondition(has_id=list(ids)), only])
    return models.DeleteOperation(delete=models.FilterSelector(filter=these))


def _describe_point(fenced: _FencedPoint) -> str:
    return f"chunk {fenced.point.payload.get('chunk_index')} (point {fenced.point.id})"


def _describe_chunks(entry: LedgerEntry) -> str:
    return f"the stale chunks of {entry.doc_id!r}"


async def _retrieve_vectors(
    name: str, ids: Sequence[str], vector_name: str, fields: Fields, client: AsyncQdrantClient
) -> list[models.Record]:
    return await client.retrieve(name, list(ids), with_payload=fields, with_vectors=[vector_name])


async def _retrieve(
    name: str, ids: tuple[models.ExtendedPointId, ...], client: AsyncQdrantClient
) -> list[models.Record]:
    return await client.retrieve(name, list(ids), with_payload=True)


async def _count(
    name: str, only: models.Filter | None, client: AsyncQdrantClient
) -> models.CountResult:
    return await client.count(name, count_filter=only)


async def _query(
    name: str,
    prefetches: list[models.Prefetch],
    limit: int,
    fusion: Fusion,
    fields: Fields,
    client: AsyncQdrantClient,
) -> models.QueryResponse:
    if len(prefetches) > 1:
        by_rank = models.RrfQuery(rrf=models.Rrf(k=fusion.rrf_k))
        return await client.query_points(
            name, query=by_rank, prefetch=prefetches, limit=limit, with_payload=fields
        )
    [single] = prefetches
    return await client.query_points(
        name,
        query=single.query,
        using=single.using,
        query_filter=single.filter,
        search_params=single.params,
        limit=limit,
        with_payload=fields,
    )


def _sparse(vector: SparseVector) -> models.SparseVector:
    return models.SparseVector.model_construct(indices=vector.indices, values=vector.values)


def _is_of(key: DocumentKey) -> list[models.Condition]:
    # The id comes first: it excludes nearly all.
    return [is_equal("doc_id", key.doc_id), is_equal("tenant", key.tenant)]


def _key(payload: Mapping[str, Any]) -> DocumentKey:
    return DocumentKey(payload["tenant"], payload["doc_id"])


def _key_bytes(entry: LedgerEntry) -> int:
    return STALE_FILTER_BYTES + len(entry.doc_id.encode()) + len(entry.tenant.encode())


def _stale(
    entries: Sequence[LedgerEntry],
) -> list[tuple[models.Filter, list[DocumentKey]]]:
    """Return filters for the stale chunks of ``entries``, and the documents that each is for.

    Documents that a sweep deletes have the same fence, so they share a filter.
    """
    filters: list[tuple[models.Filter, list[DocumentKey]]] = []
    without_chunks: defaultdict[tuple[str, Fence], list[DocumentKey]] = defaultdict(list)
    for entry in entries:
        if entry.chunks_fence is None:
            without_chunks[entry.tenant, entry.fence].append(entry.key)
            continue
        old = [*_is_of(entry.key), is_not_newer(entry.fence)]
        stale = models.Filter(must=old, must_not=is_exactly(entry.chunks_fence))
        filters.append((stale, [entry.key]))
    for (tenant, fence), keys in without_chunks.items():
        of_them = [is_one_of("doc_id", [key.doc_id for key in keys]), is_equal("tenant", tenant)]
        filters.append((models.Filter(must=[*of_them, is_not_newer(fence)]), keys))
    return filters


def _stored_text(payload: Mapping[str, Any]) -> StoredText:
    body, context, source = payload[TEXT_FIELD], payload.get("context", ""), payload["source"]
    first, _, rest = context.partition(INSIDE)
    has_no_title = payload["metadata"].get("title") == PurePath(source).name
    is_file_title = has_no_title and first == file_title(source)
    return StoredText(body, context, with_context(rest if is_file_title else context, body))


class _ChunkPayload(Struct, frozen=True):
    """What a search reads of a chunk."""

    tenant: str
    doc_id: str
    version: int
    attempt: int
    epoch: int
    source: str
    chunk_index: int
    page_content: str
    metadata: dict[str, Any]
    context: str = ""
    page: int | None = None
    part: str | None = None


def _hit(score: float, payload: Mapping[str, Any]) -> "FoundChunk | None":
    """Return the chunk that a search found, and what wrote it; None if the point is no chunk.

    A point of another program must not make every search fail that finds it.
    """
    try:
        chunk = msgspec.convert(payload, _ChunkPayload)
    except (msgspec.ValidationError, RecursionError):
        return None
    written = WrittenUnder(
        DocumentKey(chunk.tenant, chunk.doc_id), Fence(chunk.version, chunk.attempt, chunk.epoch)
    )
    return written, SearchHit(
        score=score,
        doc_id=chunk.doc_id,
        source=chunk.source,
        chunk_index=chunk.chunk_index,
        text=chunk.page_content,
        metadata=presentable(chunk.metadata),
        context=chunk.context,
        page=chunk.page,
        part=chunk.part,
        tenant=chunk.tenant,
    )


FoundChunk = tuple[WrittenUnder, SearchHit]


async def _ranked(hits: list[FoundChunk], ranking: Ranking) -> list[FoundChunk]:
    order = await ranking([with_context(hit.context, hit.text) for _, hit in hits]) if hits else []
    if order is None:
        return hits
    return [
        (hits[position][0], replace(hits[position][1], score=score)) for position, score in order
    ]


def _batched(ids: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """Do what ``itertools.batched`` does, which Python has since 3.12."""
    rest = iter(ids)
    while batch := tuple(islice(rest, size)):
        yield batch


def _json_bytes(fenced: _FencedPoint) -> int:
    """Return an upper bound of a point's size on the wire, in bytes."""
    point = fenced.point
    size = POINT_BYTES + len(msgspec.json.encode(point.payload))
    size += JSON_FLOAT_BYTES * len(point.vector)
    if point.sparse is not None:
        size += (JSON_INDEX_BYTES + JSON_FLOAT_BYTES) * len(point.sparse.indices)
    return size
