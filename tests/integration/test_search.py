"""Dense, sparse and hybrid search, with conditions."""

import asyncio
import json
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import models

from ingestq.core.documents import Document, Lane
from ingestq.core.errors import CollectionMismatch, InvalidQuery, StoreRejected
from ingestq.core.results import ChunkCounts
from ingestq.core.search_query import (
    CONDITION,
    MetadataCondition,
    Mode,
    SearchFilter,
    SearchQuery,
    parse_condition,
)
from tests.qdrant_proxy import QdrantProxy
from tests.sized import sized
from worker.blobs import BlobContents
from worker.embedding.config import ModelInfo
from worker.embedding.pool import ModelPool
from worker.pipeline.ingest import Indexed, Outcome, Work, ingest, replace
from worker.pipeline.points import ChunkPoint, DocumentKey, Fence, QueryVectors, SearchHit
from worker.pipeline.ports import Ports
from worker.store.chunks import Fusion, QdrantStore
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames, open_collection
from worker.store.exact_chunks import ExactChunks
from worker.store.ledger import QdrantLedger
from worker.store.schema import Quantization, Schema, Storage, fingerprint
from worker.store.search import search
from worker.text.parts import INSIDE, ExtractedDocument, Part
from worker.text.words.bm25 import SparseEncoder

FENCE = Fence(version=1, attempt=1)
ENCODER = SparseEncoder()


@dataclass(frozen=True)
class Place:
    """A Qdrant, and an unused alias in it."""

    qdrant: Qdrant
    alias: str


@pytest.fixture
def place(qdrant: Qdrant, alias: str) -> Place:
    return Place(qdrant, alias)


DIRECTIONS = {"ropes": [1.0, 0.0], "lamps": [0.8, 0.6], "geese": [0.0, 1.0], "the": [1.0, 0.0]}


class Directions:
    """A model of two dimensions; the first word of a text decides its vector."""

    def __init__(self, name: str = "test/directions") -> None:
        self.info = ModelInfo(name, "1", 2, 8)

    async def embed_query(self, text: str) -> QueryVectors:
        return QueryVectors(DIRECTIONS[text.split()[0]], ENCODER.query(text))


MODEL = Directions()


@dataclass(frozen=True)
class Shelf:
    """A collection of texts with the vectors of `Directions`."""

    place: Place
    names: CollectionNames
    schema: Schema

    @property
    def store(self) -> QdrantStore:
        return QdrantStore(self.place.qdrant, self.names.chunks, self.schema.layout)

    async def put(
        self,
        text: str,
        metadata: dict[str, Any] | None = None,
        *,
        tenant: str = "",
        source: str = "",
        doc_id: str | None = None,
        position: int = 0,
        fence: Fence = FENCE,
    ) -> str:
        """Store a chunk, and return its id."""
        payload = {
            **fence._asdict(),
            "doc_id": text if doc_id is None else doc_id,
            "tenant": tenant,
            "source": source,
            "chunk_index": position,
            "page_content": text,
            "metadata": metadata or {},
        }
        sparse = ENCODER.document(text) if self.schema.hybrid else None
        point = ChunkPoint(str(uuid.uuid4()), DIRECTIONS[text.split()[0]], payload, sparse)
        await self.store.upsert([point], fence)
        return point.id

    async def hits(self, text: str, limit: int, **wanted: Any) -> list[SearchHit]:
        query = SearchQuery(text, limit, **wanted)
        return await search(self.place.qdrant, self.names, MODEL, query)

    async def ask(
        self, text: str, mode: Mode = Mode.HYBRID, where: SearchFilter | None = None
    ) -> list[str]:
        """Return the texts that are found, best first."""
        query = SearchQuery(text, 10, mode, where or SearchFilter())
        hits = await search(self.place.qdrant, self.names, MODEL, query)
        return [hit.text for hit in hits]


async def shelf(place: Place, schema: Schema) -> Shelf:
    mine = fingerprint(MODEL.info, schema)
    return Shelf(
        place, await open_collection(place.qdrant, place.alias, mine, schema.storage), schema
    )


async def test_the_modes_rank_differently(place: Place) -> None:
    shop = await shelf(place, Schema())
    for text in ("ropes of hemp", "lamps of brass", "geese and hemp"):
        await shop.put(text)
    ropes, lamps, geese = "ropes of hemp", "lamps of brass", "geese and hemp"
    assert await shop.ask("the geese", Mode.DENSE) == [ropes, lamps, geese]
    assert await shop.ask("the geese", Mode.SPARSE) == [geese]
    assert await shop.ask("the geese") == [geese, ropes, lamps]


@pytest.mark.parametrize("k", [1, 2, 60])
async def test_a_fusion_weighs_ranks_by_its_constant(place: Place, k: int) -> None:
    shop = await shelf(place, Schema())
    for text in ("ropes of hemp", "lamps of brass", "geese and hemp"):
        await shop.put(text)
    query = SearchQuery("the geese", 10)
    hits = await search(place.qdrant, shop.names, MODEL, query, Fusion(rrf_k=k))
    scores = {hit.text.split()[0]: hit.score for hit in hits}
    assert list(scores) == ["geese", "ropes", "lamps"]
    assert scores == pytest.approx(
        {
            "geese": 1 / k + 1 / (k + 2),  # first by words, third by meaning
            "ropes": 1 / k,
            "lamps": 1 / (k + 1),
        }
    )


async def test_a_fusion_takes_as_many_candidates_as_it_says(place: Place) -> None:
    shop = await shelf(place, Schema())
    for text in ("ropes of hemp", "lamps of brass", "geese and hemp"):
        await shop.put(text)
    for fusion, score in (
        (Fusion(min_candidates=1, candidates_per_hit=2), 1 / 2),  # the third is not among them
        (Fusion(min_candidates=1, candidates_per_hit=3), 1 / 2 + 1 / 4),
        (Fusion(min_candidates=3), 1 / 2 + 1 / 4),
    ):
        query = SearchQuery("the geese", 1)
        [hit] = await search(place.qdrant, shop.names, MODEL, query, fusion)
        assert hit.score == pytest.approx(score), fusion


async def test_a_query_of_stop_words_finds_them(place: Place) -> None:
    shop = await shelf(place, Schema())
    await shop.put("ropes of hemp")
    await shop.put("the of and")  # stop words only
    assert await shop.ask("the", Mode.SPARSE) == ["the of and"]
    assert set(await shop.ask("the")) == {"ropes of hemp", "the of and"}


FILTERED = {
    ("year=2024",): {"ropes as numbers", "ropes as text", "ropes in a list"},
    ("year=2024.0",): {"ropes as numbers", "ropes in a list"},
    ("price=9.5",): {"ropes as numbers"},
    ("paid=true",): {"ropes as text", "ropes as booleans"},
    ("paid=1",): {"ropes as numbers"},
    ("huge=9007199254740992",): {"ropes as numbers"},
    ("huge=9007199254740993",): set(),  # as floats they are the same
    ("huge=99999999999999999999",): set(),
    ("title=Spring list",): {"ropes as numbers"},
    ("title=Spring",): set(),
    ("author.name=Ida",): {"ropes as numbers", "ropes as text"},
    ("my key=x=y",): {"ropes as numbers"},
    ("year=2024", "paid=true"): {"ropes as text"},
    ("nothing=here",): set(),
    ("price=9.5,10",): {"ropes as numbers"},
    ("year=1999,2023",): {"ropes in a list", "ropes and others"},
    ("title=Spring list, Autumn list",): {"ropes as numbers"},
    ("paid!=true",): {"ropes as numbers", "ropes in a list", "ropes and others"},
    ("year!=2023,1999",): {"ropes as numbers", "ropes as text", "ropes as booleans"},
    ("year>2023",): {"ropes as numbers", "ropes in a list"},
    ("year >= 2023", "year<2024"): {"ropes and others", "ropes in a list"},
    ("price<=9.5",): {"ropes as numbers"},
    ("price<9.5",): set(),
    ("author.name=Ida,Eva", "year>=2024"): {"ropes as numbers"},
    ("price=null",): {"ropes in a list"},
    ("price=null,9.5",): {"ropes in a list", "ropes as numbers"},
    ("price!=null", "year=2024"): {"ropes as numbers", "ropes as text"},
    ("year=null",): set(),
    ("mass=1e30",): {"ropes and others"},
}


@pytest.mark.parametrize("mode", Mode)
async def test_conditions_narrow_a_search(place: Place, mode: Mode) -> None:
    shop = await shelf(place, Schema())
    ida = {"author": {"name": "Ida"}, "title": "Spring list", "my key": "x=y"}
    await shop.put(
        "ropes as numbers", {"year": 2024, "price": 9.5, "huge": 2**53, "paid": 1, **ida}
    )
    await shop.put("ropes as text", {"year": "2024", "paid": "true", "author.name": "Ida"})
    await shop.put("ropes in a list", {"year": [1999, 2024], "price": None})
    await shop.put("ropes as booleans", {"paid": True})
    await shop.put("ropes and others", {"year": 2023, "paid": False, "mass": 1e30})
    for conditions, found in FILTERED.items():
        where = SearchFilter(tuple(map(parse_condition, conditions)))
        assert set(await shop.ask("ropes", mode, where)) == found, conditions


async def test_dates_compare_as_dates(place: Place) -> None:
    shop = await shelf(place, Schema())
    for sent in ("2024-05-30", "2024-05-31", "2024-05-31T18:30:00+02:00", "2024-06-01T00:00:00Z"):
        await shop.put(f"ropes {sent}", {"sent": sent, "note": {"read": [sent, "never"]}})
    await shop.put("ropes of no date", {"sent": "soon", "note": {"read": 20240531}})
    every = ["2024-05-30", "2024-05-31", "2024-05-31T18:30:00+02:00", "2024-06-01T00:00:00Z"]
    for condition, found in {
        "sent>=2024-05-31": every[1:],
        "sent<=2024-05-31": every[:3],
        "sent>2024-05-31": every[3:],
        "sent<2024-05-31": every[:1],
        "sent>2024-05-31T16:29Z": every[2:],
        "sent<=2024-05-31T18:30:00+02:00": every[:3],
        "note.read<2024-05-31": every[:1],
    }.items():
        where = SearchFilter((parse_condition(condition),))
        texts = set(await shop.ask("ropes", where=where))
        assert texts == {f"ropes {sent}" for sent in found}, condition


async def test_a_quoted_value_may_contain_commas(place: Place) -> None:
    shop = await shelf(place, Schema())
    await shop.put("ropes by both", {"by": "Ida, Eva"})
    await shop.put("ropes by one", {"by": "Eva"})
    await shop.put("ropes in quotes", {"by": '"Eva'})
    for condition, found in {
        'by="Ida, Eva"': {"ropes by both"},
        'by="Ida, Eva",Eva': {"ropes by both", "ropes by one"},
        "by=Ida, Eva": {"ropes by one"},
        'by="Eva"': {"ropes by one"},
        'by="Eva': {"ropes in quotes"},
    }.items():
        where = SearchFilter((parse_condition(condition),))
        assert set(await shop.ask("ropes", where=where)) == found, condition


@given(st.lists(st.text(max_size=20), min_size=1, max_size=8))
def test_every_value_can_be_written(values: list[str]) -> None:
    text = ", ".join(json.dumps(value) for value in values)
    assert parse_condition(f"a.b={text}") == MetadataCondition("a.b", tuple(values))


@given(st.text() | st.from_regex(CONDITION, fullmatch=True))
def test_a_condition_is_accepted_as_documented(text: str) -> None:
    documented = re.match(CONDITION.replace("$", r"\Z"), text) is not None
    if documented and not re.search(r"[<>]=? *[0-9]{4}-", text):  # not every date exists
        parse_condition(text)
    elif not documented:
        with pytest.raises(ValueError, match="KEY=VALUE"):
            parse_condition(text)


@pytest.mark.parametrize("mode", Mode)
async def test_source_and_tenant_narrow_a_search(place: Place, mode: Mode) -> None:
    shop = await shelf(place, Schema())
    await shop.put("ropes of hemp", tenant="a", source="one.txt")
    await shop.put("ropes of silk", tenant="b", source="one.txt")
    await shop.put("ropes of wool", tenant="a", source="two.txt")
    assert set(await shop.ask("ropes", mode, SearchFilter(tenant="a"))) == {
        "ropes of hemp",
        "ropes of wool",
    }
    assert await shop.ask("ropes", mode, SearchFilter(tenant="a", source="two.txt")) == [
        "ropes of wool"
    ]
    assert await shop.ask("ropes", mode, SearchFilter(tenant="")) == []


@pytest.mark.parametrize(
    "text",
    [
        *("year", "=2024", ".=1", "a..b=1", 'a"b=1', "", "!=1", ">=1"),
        *(
            "year>=",
            "year>=soon",
            "year<2024-13-01",
            "year>1e9",
            "year<=9999-12-31",
            f"year>{'9' * 400}",
        ),
    ],
)
def test_an_invalid_condition_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="KEY=VALUE"):
        parse_condition(text)


@pytest.mark.parametrize("mode", Mode)
async def test_a_group_is_the_best_chunk_of_a_document(place: Place, mode: Mode) -> None:
    shop = await shelf(place, Schema())
    for i in range(30):
        await shop.put(f"ropes {'of ropes ' * (i == 7)}{i}", doc_id="long", position=i)
    await shop.put("lamps and ropes with many other things", doc_id="short")
    await shop.put("lamps and ropes with many other things", doc_id="short", tenant="b")
    await shop.put("geese", doc_id="other")
    single = await shop.hits("ropes", 1, mode=mode)
    hits = await shop.hits("ropes", 3, mode=mode, group=True)
    assert [hit.doc_id for hit in hits] == ["long", "short", "short"]
    assert hits[0].score == single[0].score
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    only = SearchFilter(tenant="b")
    assert [
        hit.doc_id for hit in await shop.hits("ropes", 3, mode=mode, group=True, where=only)
    ] == ["short"]
    assert len(await shop.hits("ropes", 1, mode=mode, group=True)) == 1
    assert len({hit.chunk_index for hit in await shop.hits("ropes", 30, mode=mode)}) > 3


async def test_neighbours_are_of_the_same_document_and_version(place: Place) -> None:
    shop = await shelf(place, Schema())
    for i in range(6):
        await shop.put(f"ropes {i}" if i == 2 else f"geese {i}", doc_id="a", position=i)
    await shop.put("geese of another version", doc_id="a", position=1, fence=Fence(2, 1))
    await shop.put("geese of another tenant", doc_id="a", position=3, tenant="b")
    await shop.put("geese of another document", doc_id="b", position=3)

    async def neighbours(around: int) -> tuple[list[str], list[str]]:
        [hit] = await shop.hits("ropes", 5, mode=Mode.SPARSE, around=around)
        assert [chunk.chunk_index for chunk in hit.before] == list(range(2 - len(hit.before), 2))
        assert [chunk.chunk_index for chunk in hit.after] == list(range(3, 3 + len(hit.after)))
        return [chunk.text for chunk in hit.before], [chunk.text for chunk in hit.after]

    assert await neighbours(0) == ([], [])
    assert await neighbours(1) == (["geese 1"], ["geese 3"])
    assert await neighbours(5) == (["geese 0", "geese 1"], ["geese 3", "geese 4", "geese 5"])


async def test_every_hit_has_its_own_neighbours(place: Place) -> None:
    shop = await shelf(place, Schema())
    documents = [f"document {n}" for n in range(40)]  # more than one request asks for
    for name in documents:
        for i in range(3):
            await shop.put(f"ropes of {name}, {i}", doc_id=name, position=i)
    hits = await shop.hits("ropes", 120, around=1)
    assert len(hits) == 120
    for hit in hits:
        around = [chunk.text for chunk in (*hit.before, *hit.after)]
        indexes = [i for i in (hit.chunk_index - 1, hit.chunk_index + 1) if i in range(3)]
        assert around == [f"ropes of {hit.doc_id}, {i}" for i in indexes]


@pytest.mark.parametrize("group", [False, True])
async def test_the_text_is_found_under_another_key(place: Place, group: bool) -> None:
    shop = await shelf(place, Schema(text_field="content"))
    for i in range(3):
        await shop.put(f"ropes of hemp, {i}", doc_id="ropes", position=i)
    records, _ = await place.qdrant.ask(
        lambda client: client.scroll(shop.names.chunks, with_payload=True)
    )
    payloads = [record.payload or {} for record in records]
    assert {payload["content"] for payload in payloads} == {f"ropes of hemp, {i}" for i in range(3)}
    assert not any("page_content" in payload for payload in payloads)
    hits = await shop.hits("ropes", 3, group=group, around=1)
    assert all(hit.text == f"ropes of hemp, {hit.chunk_index}" for hit in hits)
    assert len(hits) == (1 if group else 3)
    [middle] = [hit for hit in hits if group or hit.chunk_index == 1]
    assert middle.before or middle.after
    document = (await shop.store.stored(DocumentKey("", "ropes"))).content
    assert [part.text for part in document.parts] == [f"ropes of hemp, {i}" for i in range(3)]
    layout = shop.schema.layout
    pages = ExactChunks(place.qdrant, shop.names.chunks, layout).pages(["ropes"])
    exported = [chunk.payload["page_content"] async for page in pages for chunk in page]
    assert len(exported) == 3


async def test_a_snippet_is_the_part_around_the_words_of_the_query(place: Place) -> None:
    shop = await shelf(place, Schema())
    text = f"ropes {'and so on ' * 200} hemp from Manila {'and so on ' * 200}"
    await shop.put(text)
    await shop.put("lamps of brass")
    long, short = await shop.hits("ropes hemp Manila", 2)
    assert "hemp from Manila" in long.snippet
    assert len(long.snippet) < 700
    assert long.text == text
    assert short.snippet == short.text


async def test_a_collection_without_sparse_vectors_allows_dense_search_only(place: Place) -> None:
    shop = await shelf(place, Schema(hybrid=False))
    await shop.put("geese and hemp")
    await shop.put("ropes of silk")
    for mode in (Mode.HYBRID, Mode.DENSE):
        assert await shop.ask("ropes hemp", mode) == ["ropes of silk", "geese and hemp"]
    with pytest.raises(InvalidQuery, match="INGESTQ_HYBRID=false"):
        await shop.ask("ropes hemp", Mode.SPARSE)


@pytest.mark.parametrize("hybrid", [True, False])
async def test_the_dense_vector_may_have_a_name(place: Place, hybrid: bool) -> None:
    shop = await shelf(place, Schema("meaning", hybrid))
    ropes = await shop.put("ropes of hemp")
    await shop.put("geese and hemp")
    assert await shop.ask("ropes") == ["ropes of hemp", "geese and hemp"]
    assert await shop.store.vectors([ropes, str(uuid.uuid4())]) == {ropes: [1.0, 0.0]}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (Schema(hybrid=False), "sparse bm25/2, now none. Change the setting back (INGESTQ_HYBRID)"),
        (
            Schema("text"),
            "vector_name none, now text. Change the setting back (INGESTQ_VECTOR_NAME)",
        ),
    ],
)
async def test_a_collection_with_other_vectors_is_not_opened(
    place: Place, now: Schema, said: str
) -> None:
    shop = await shelf(place, Schema())
    with pytest.raises(CollectionMismatch) as raised:
        await shelf(place, now)
    assert said in str(raised.value)
    await shop.put("ropes of hemp")
    assert await shop.ask("ropes") == ["ropes of hemp"]


async def test_a_collection_of_another_model_is_not_searched(place: Place) -> None:
    shop = await shelf(place, Schema())
    other = Directions("test/other")
    with pytest.raises(CollectionMismatch, match="model test/directions, now test/other"):
        await search(place.qdrant, shop.names, other, SearchQuery("ropes", 1))


STORAGES = [
    Storage(),
    Storage(Quantization.SCALAR),
    Storage(Quantization.BINARY, on_disk=True),
    Storage(on_disk=True),
    Storage(shard_number=2, hnsw_m=32, hnsw_ef_construct=200),
]


@pytest.mark.parametrize("storage", STORAGES, ids=str)
async def test_storage_does_not_affect_hits(place: Place, storage: Storage) -> None:
    shop = await shelf(place, Schema(storage=storage))
    for text in ("ropes of hemp", "lamps of brass", "geese and hemp"):
        await shop.put(text)
    again = await shelf(place, Schema())  # another storage is no mismatch
    assert again.names == shop.names
    for mode in Mode:
        assert (await again.ask("lamps brass", mode))[0] == "lamps of brass"


@pytest.mark.parametrize("storage", STORAGES, ids=str)
async def test_a_collection_is_created_with_the_configured_storage(
    place: Place, storage: Storage
) -> None:
    shop = await shelf(place, Schema(storage=storage))
    info = await place.qdrant.ask(lambda client: client.get_collection(shop.names.chunks))
    match info.config.quantization_config:
        case models.ScalarQuantization(scalar=scalar):
            assert storage.quantization is Quantization.SCALAR
            assert (scalar.type, scalar.always_ram) == (models.ScalarType.INT8, True)
        case models.BinaryQuantization(binary=binary):
            assert storage.quantization is Quantization.BINARY
            assert binary.always_ram
        case nothing:
            assert nothing is None
            assert storage.quantization is None
    params = info.config.params
    assert isinstance(params.vectors, models.VectorParams)
    assert bool(params.vectors.on_disk) is storage.on_disk
    assert params.sparse_vectors is not None
    assert params.sparse_vectors["bm25"].modifier is models.Modifier.IDF
    index = params.sparse_vectors["bm25"].index
    assert bool(index and index.on_disk) is storage.on_disk
    assert params.on_disk_payload or not storage.on_disk
    ledger = await place.qdrant.ask(lambda client: client.get_collection(shop.names.ledger))
    if storage.shard_number is not None:
        assert params.shard_number == storage.shard_number
        assert ledger.config.params.shard_number == storage.shard_number
        hnsw = info.config.hnsw_config
        assert (hnsw.m, hnsw.ef_construct) == (storage.hnsw_m, storage.hnsw_ef_construct)


async def test_the_server_refuses_unknown_vectors(place: Place) -> None:
    shop = await shelf(place, Schema(hybrid=False))
    fits = await shop.put("ropes of hemp")
    for name, vector in (
        ("bm25", models.SparseVector(indices=[1], values=[1.0])),
        ("other", [1.0]),
    ):
        point = models.PointStruct(id=1, vector={"": [1.0, 0.0], name: vector})
        for request in (
            lambda client, point=point: client.upsert(shop.names.chunks, [point], wait=True),
            lambda client, name=name: client.retrieve(
                shop.names.chunks, [fits], with_vectors=[name]
            ),
            lambda client, name=name, vector=vector: client.query_points(
                shop.names.chunks, query=vector, using=name
            ),
        ):
            with pytest.raises(StoreRejected, match=r"400|422"):
                await place.qdrant.ask(request)


INVOICES = {
    f"INV-2024-{n:05}": f"Invoice INV-2024-{n:05} of the harbour office, for rope and lamp oil. To "
    "be paid within thirty days by the tenant of the lighthouse."
    for n in ((i * 7919 + 13) % 99991 for i in range(60))
}
LAMPS = {
    n: f"The lamp of the harbour with serial number {n} was inspected, cleaned and found in good "
    "order; see form 12."
    for n in (f"{i * 2654435761 % 2**32:08x}" for i in range(1, 61))
}


@dataclass(frozen=True)
class Corpus:
    """A collection of documents that are indexed by the whole pipeline, with the real model."""

    place: Place
    names: CollectionNames
    model: ModelPool

    @property
    def ports(self) -> Ports:
        return Ports(
            self.model,
            QdrantStore(self.place.qdrant, self.names.chunks),
            QdrantLedger(self.place.qdrant, self.names.ledger),
            BlobContents(),
        )

    async def put(self, doc_id: str, text: str, version: int = 1, **more: Any) -> Outcome:
        document = Document(doc_id=doc_id, version=version, source=doc_id, text=text, **more)
        key = DocumentKey(document.tenant, doc_id)
        entries = await self.ports.ledger.look_up([key])
        work = Work(document, entries.get(key), version)
        return await ingest(work, self.ports, lambda done, known: None)

    async def hits(self, text: str, mode: Mode = Mode.HYBRID) -> list[SearchHit]:
        return await search(self.place.qdrant, self.names, self.model, SearchQuery(text, 5, mode))

    async def ask(self, text: str, mode: Mode = Mode.HYBRID) -> list[str]:
        """Return the ids of the documents that are found, best first."""
        return [hit.doc_id for hit in await self.hits(text, mode)]

    async def filtered(self, *conditions: str, source: str | None = None) -> set[str]:
        """Return the ids of the documents that meet the conditions."""
        where = SearchFilter(tuple(map(parse_condition, conditions)), source)
        query = SearchQuery("ropes", 10, where=where)
        hits = await search(self.place.qdrant, self.names, self.model, query)
        return {hit.doc_id for hit in hits}


@pytest.fixture
async def corpus(place: Place, model: ModelPool) -> Corpus:
    names = await open_collection(place.qdrant, place.alias, fingerprint(model.info))
    return Corpus(place, names, model)


@pytest.mark.parametrize(
    ("documents", "query", "expected"),
    [
        (INVOICES, "What is INV-2024-26726 about?", "INV-2024-26726"),
        (LAMPS, "8ff34739", "8ff34739"),
    ],
    ids=["invoice", "identifier"],
)
async def test_a_rare_word_is_found_among_similar_texts(
    corpus: Corpus, documents: dict[str, str], query: str, expected: str
) -> None:
    await asyncio.gather(*(corpus.put(doc_id, text) for doc_id, text in documents.items()))
    assert expected not in await corpus.ask(query, Mode.DENSE), (
        "the dense search must miss it for this test to mean something"
    )
    assert (await corpus.ask(query, Mode.SPARSE))[0] == expected
    assert expected in await corpus.ask(query)


async def test_a_query_in_other_words_finds_by_meaning(corpus: Corpus) -> None:
    await corpus.put("keeper", "The lighthouse keeper owns two parrots.")
    await corpus.put("ferry", "The boat to the mainland leaves at noon.")
    assert await corpus.ask("who has birds?", Mode.SPARSE) == []
    [first, second] = await corpus.hits("who has birds?")
    assert (first.doc_id, second.doc_id) == ("keeper", "ferry")
    assert first.score > second.score


async def test_integers_of_64_bits_without_a_sign_are_told_apart(corpus: Corpus) -> None:
    largest, below, signed = 2**64 - 1, 2**64 - 2, 2**63 - 1
    await corpus.put("largest", "Ropes.", metadata={"n": largest, "in": {"n.m": 1, "n": largest}})
    await corpus.put("below", "Ropes.", metadata={"n": below, "other": largest})
    await corpus.put("listed", "Ropes.", metadata={"n": [1, largest]})
    await corpus.put("text", "Ropes.", metadata={"n": str(largest)})
    await corpus.put("signed", "Ropes.", metadata={"n": signed})
    same = {"largest", "listed", "text"}
    assert await corpus.filtered(f"n={largest}") == same
    assert await corpus.filtered(f"n={below}") == {"below"}
    assert await corpus.filtered(f"n={signed}") == {"signed"}
    assert await corpus.filtered(f"n={signed},{below}") == {"signed", "below"}
    assert await corpus.filtered(f"n!={largest}") == {"below", "signed"}
    assert await corpus.filtered(f"in.n={largest}") == {"largest"}
    assert await corpus.filtered(f"n={2**64}") == set()
    [hit] = [hit for hit in await corpus.hits("ropes") if hit.doc_id == "largest"]
    assert hit.metadata["n"] == largest


async def test_source_and_title_of_the_metadata_are_the_users(corpus: Corpus) -> None:
    own = {"source": "https://island.example/keeper", "title": "The keeper"}
    await corpus.put("own", "Ropes.", metadata=own)
    await corpus.put("none", "Ropes.", metadata={"source": None, "title": 7})
    await corpus.put("usual", "Ropes.")
    hits = {hit.doc_id: hit for hit in await corpus.hits("ropes")}
    assert hits["own"].metadata == own
    assert hits["none"].metadata == {"source": None, "title": 7}
    assert hits["usual"].metadata == {"source": "usual", "title": "usual"}
    assert {hit.source for hit in hits.values()} == {"own", "none", "usual"}
    assert await corpus.filtered("source=https://island.example/keeper") == {"own"}
    assert await corpus.filtered("source=own") == set()
    assert await corpus.filtered("source=usual") == {"usual"}
    assert await corpus.filtered(source="own") == {"own"}
    assert await corpus.filtered("source=null") == {"none"}
    assert await corpus.filtered("title=The keeper") == {"own"}


@pytest.mark.parametrize("text", ["", " \n\t", "\u200b\ufeff", "\u00a0", "\0"])
def test_a_blank_query_is_refused(text: str) -> None:
    with pytest.raises(InvalidQuery, match="the query is blank"):
        SearchQuery(text, 5)


async def test_a_hit_says_on_which_page_and_in_which_part_it_is(corpus: Corpus) -> None:
    parts = (
        Part("# Moorings\n\nRope is checked in spring.", markdown=True, page=11),
        Part("The bollard by the ferry is loose.", markdown=True, page=12),
        Part("", markdown=True, page=13),
        Part("Dry rot was not found.", name="certificate.pdf"),
    )
    document = Document(
        doc_id="/srv/report.pdf",
        version=1,
        source="/srv/report.pdf",
        text="",
        media_type="application/pdf",
    )
    stored = ExtractedDocument(parts, "Harbour survey")
    prepared = await corpus.model.prepare_stored(Lane.BULK, document, stored)
    work = Work(document, None, 1)
    async with corpus.ports.memory.hold(Lane.BULK, document) as share:
        outcome = await replace(
            work, prepared, corpus.ports, share, lambda done, known: None, document
        )
    assert outcome == Indexed(ChunkCounts(embedded=3))

    [hit, *_] = await corpus.hits("loose bollard", Mode.SPARSE)
    assert (hit.page, hit.part, hit.chunk_index) == (12, None, 1)
    assert (hit.place, hit.text) == ("/srv/report.pdf, page 12", parts[1].text)
    assert hit.context == hit.background == f"Harbour survey{INSIDE}Moorings"
    found = await corpus.hits("moorings", Mode.SPARSE)  # the context is searched, too
    assert {other.page for other in found} == {11, 12}

    [hit, *_] = await corpus.hits("was dry rot found?")
    assert hit.place == f"/srv/report.pdf{INSIDE}certificate.pdf"
    assert hit.page is None
    assert hit.context == f"Harbour survey{INSIDE}certificate.pdf"

    store = QdrantStore(corpus.place.qdrant, corpus.names.chunks)
    again = (await store.stored(DocumentKey("", "/srv/report.pdf"))).content
    assert again.title == "Harbour survey"
    pages = [(part.text, part.page, part.name) for part in again.parts]
    assert pages == [(part.text, part.page, part.name) for part in parts if part.text]


async def test_a_context_that_says_no_more_than_the_place_is_not_shown() -> None:
    def hit(context: str, part: str | None = None) -> SearchHit:
        return SearchHit(1.0, "/srv/Stock.xlsx", "", 0, "Text", {}, context, None, part)

    assert hit("").background == ""
    assert hit("stock").background == ""
    assert hit(f"stock{INSIDE}Sheet 1", "Sheet 1").background == ""
    assert hit("Stock of 2024").background == "Stock of 2024"


async def test_a_reused_chunk_keeps_its_sparse_vector(corpus: Corpus) -> None:
    text = "Invoice INV-2024-00817 was paid."
    await corpus.put("d", text)
    again = await corpus.put("d", text, 2, metadata={"page": 3})
    assert again == Indexed(ChunkCounts(reused=1))
    [hit] = await corpus.hits("00817", Mode.SPARSE)
    assert hit.metadata["page"] == 3


async def test_langchain_reads_the_collection_with_its_defaults(
    corpus: Corpus, proxied_qdrant: QdrantProxy
) -> None:
    from langchain_core.embeddings import Embeddings
    from langchain_qdrant import QdrantVectorStore

    loop = asyncio.get_running_loop()

    class PoolEmbeddings(Embeddings):
        """The pool's vectors for langchain, which calls from another thread."""

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            rows = corpus.model.embed(Lane.BULK, sized(texts))
            return [list(row) for row in asyncio.run_coroutine_threadsafe(rows, loop).result()]

        def embed_query(self, text: str) -> list[float]:
            vectors = corpus.model.embed_query(text)
            return asyncio.run_coroutine_threadsafe(vectors, loop).result().dense

    keeper = "The lighthouse keeper owns two parrots."
    await corpus.put("keeper", keeper, metadata={"page": 7, "tags": ["birds"]})
    await corpus.put("ferry", "The boat to the mainland leaves at noon.")

    def read() -> Iterable[Any]:
        store = QdrantVectorStore.from_existing_collection(
            embedding=PoolEmbeddings(),
            collection_name=corpus.place.alias,
            url=proxied_qdrant.url,
            check_compatibility=False,  # it would warn of a server that is two versions older
        )
        try:
            return store.similarity_search("who has birds?", k=1)
        finally:
            store.client.close()

    [found] = await asyncio.to_thread(read)
    assert found.page_content == keeper
    metadata = {k: v for k, v in found.metadata.items() if not k.startswith("_")}
    assert metadata == {"page": 7, "tags": ["birds"], "source": "keeper", "title": "keeper"}
