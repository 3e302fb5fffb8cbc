"""Dense, sparse and hybrid search, with conditions, on every available Qdrant.

The network client talks to `tests.qdrant_standin`, which is not Qdrant. If
``INGESTQ_TEST_QDRANT_URL`` names a real server, the same tests run on that too.
"""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_qdrant import QdrantVectorStore
from qdrant_client import AsyncQdrantClient, models

from ingestq.core.documents import Document, Lane
from ingestq.core.errors import CollectionMismatch, InvalidQuery, StoreRejected
from ingestq.core.results import ChunkCounts
from ingestq.core.search_query import Mode, SearchFilter, SearchQuery, parse_condition
from tests.qdrant_standin import qdrant_standin
from tests.sized import sized
from worker.blobs import BlobContents
from worker.embedding.config import ModelInfo
from worker.embedding.pool import ModelPool
from worker.pipeline.ingest import Indexed, Outcome, Work, ingest
from worker.pipeline.points import ChunkPoint, DocumentKey, Fence, QueryVectors, SearchHit
from worker.pipeline.ports import Ports
from worker.store.chunks import QdrantStore
from worker.store.client import Qdrant, QdrantConfig, connect_qdrant
from worker.store.collection import CollectionNames, open_collection
from worker.store.ledger import QdrantLedger
from worker.store.schema import Quantization, Schema, Storage, fingerprint
from worker.store.search import search
from worker.text.bm25 import SparseEncoder

SERVERS = ["standin", *(["server"] if "INGESTQ_TEST_QDRANT_URL" in os.environ else [])]
PLACES = [*SERVERS, "local"]
ON_SERVERS = pytest.mark.parametrize("place", SERVERS, indirect=True)
FENCE = Fence(version=1, attempt=1)
ENCODER = SparseEncoder()


@dataclass(frozen=True)
class Place:
    """A Qdrant, an unused alias in it, and its URL if it has one."""

    qdrant: Qdrant
    alias: str
    url: str | None


@pytest.fixture(params=PLACES)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    """Each available Qdrant in turn; the test's collections are deleted at the end."""
    async with qdrant_standin() as standin:
        urls = {"standin": standin.url, "server": os.environ.get("INGESTQ_TEST_QDRANT_URL")}
        url = urls.get(request.param)
        async with connect_qdrant(QdrantConfig(url, None, tmp_path)) as qdrant:
            opened = Place(qdrant, f"test-{uuid.uuid4().hex[:12]}", url)
            yield opened
            await qdrant.ask(lambda client: _remove(opened.alias, client))


async def _remove(prefix: str, client: AsyncQdrantClient) -> None:
    for collection in (await client.get_collections()).collections:
        if collection.name.startswith(prefix):
            await client.delete_collection(collection.name)


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
        return QdrantStore(self.place.qdrant, self.names.chunks, self.schema.vector_name)

    async def put(
        self,
        text: str,
        metadata: dict[str, Any] | None = None,
        *,
        tenant: str = "",
        source: str = "",
    ) -> str:
        """Store a chunk, and return its id."""
        payload = {
            **FENCE._asdict(),
            "doc_id": text,
            "tenant": tenant,
            "source": source,
            "chunk_index": 0,
            "page_content": text,
            "metadata": metadata or {},
        }
        sparse = ENCODER.document(text) if self.schema.hybrid else None
        point = ChunkPoint(str(uuid.uuid4()), DIRECTIONS[text.split()[0]], payload, sparse)
        await self.store.upsert([point], FENCE)
        return point.id

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


async def test_a_query_of_stop_words_is_searched_by_meaning(place: Place) -> None:
    shop = await shelf(place, Schema())
    await shop.put("ropes of hemp")
    await shop.put("the of and")  # stop words only
    assert await shop.ask("the", Mode.SPARSE) == []
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
    await shop.put("ropes and others", {"year": 2023, "paid": False})
    for conditions, found in FILTERED.items():
        where = SearchFilter(tuple(map(parse_condition, conditions)))
        assert set(await shop.ask("ropes", mode, where)) == found, conditions


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


@pytest.mark.parametrize("text", ["year", "=2024", ".=1", "a..b=1", 'a"b=1', ""])
def test_an_invalid_condition_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="KEY=VALUE"):
        parse_condition(text)


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
        (Schema(hybrid=False), "sparse bm25/1, now none. Change the setting back (INGESTQ_HYBRID)"),
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


@ON_SERVERS
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


@ON_SERVERS
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


async def test_a_reused_chunk_keeps_its_sparse_vector(corpus: Corpus) -> None:
    text = "Invoice INV-2024-00817 was paid."
    await corpus.put("d", text)
    again = await corpus.put("d", text, 2, metadata={"page": 3})
    assert again == Indexed(ChunkCounts(reused=1))
    [hit] = await corpus.hits("00817", Mode.SPARSE)
    assert hit.metadata["page"] == 3


@dataclass(frozen=True)
class PoolEmbeddings(Embeddings):
    """The pool's vectors for langchain, which calls from another thread."""

    model: ModelPool
    loop: asyncio.AbstractEventLoop

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        rows = self.model.embed(Lane.BULK, sized(texts))
        return [list(row) for row in asyncio.run_coroutine_threadsafe(rows, self.loop).result()]

    def embed_query(self, text: str) -> list[float]:
        vectors = self.model.embed_query(text)
        return asyncio.run_coroutine_threadsafe(vectors, self.loop).result().dense


@ON_SERVERS
async def test_langchain_reads_the_collection_with_its_defaults(corpus: Corpus) -> None:
    keeper = "The lighthouse keeper owns two parrots."
    await corpus.put("keeper", keeper, metadata={"page": 7, "tags": ["birds"]})
    await corpus.put("ferry", "The boat to the mainland leaves at noon.")
    embeddings = PoolEmbeddings(corpus.model, asyncio.get_running_loop())

    def read() -> Iterable[Any]:
        store = QdrantVectorStore.from_existing_collection(
            embedding=embeddings, collection_name=corpus.place.alias, url=corpus.place.url
        )
        try:
            return store.similarity_search("who has birds?", k=1)
        finally:
            store.client.close()

    [found] = await asyncio.to_thread(read)
    assert found.page_content == keeper
    metadata = {k: v for k, v in found.metadata.items() if not k.startswith("_")}
    assert metadata == {"page": 7, "tags": ["birds"], "source": "keeper", "title": "keeper"}
