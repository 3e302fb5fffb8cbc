"""Other libraries: ``python -m benchmarks.embedding.rivals NAME MODEL QDRANT_URL``.

Each in a process of its own, with its defaults, all cores, and the texts of the chunks in memory.
It loads its model and says that it is ready, or why it cannot be.
"""

import argparse
import importlib
import importlib.metadata
import json
import sys
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
from qdrant_client import QdrantClient, models

from benchmarks.embedding.processes import Answer, open_replies

SENTENCE_TRANSFORMERS: Final = "sentence-transformers"
LANGCHAIN: Final = "LangChain"
LLAMA_INDEX: Final = "LlamaIndex"
METADATA: Final = {"source": "benchmark"}
TIMEOUT_SECONDS: Final = 60


class Rival(Protocol):
    """Embeds texts and puts them into a collection that does not exist yet."""

    def put(self, texts: Sequence[str], collection: str) -> Any:
        """Embed and store ``texts``; return the vectors if the library returns them."""
        ...


class SentenceTransformers:
    """``encode`` and ``upload_points``. It is also the reference for vectors, in float32."""

    packages = ("sentence-transformers", "torch", "qdrant-client")

    def __init__(self, model: str, client: QdrantClient) -> None:
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(model)
        self._client = client

    def put(self, texts: Sequence[str], collection: str) -> Any:
        dimension = self.model.get_embedding_dimension()
        create_collection(self._client, collection, dimension or 0)
        vectors = self.model.encode(list(texts))
        points = (
            models.PointStruct(
                id=str(uuid.uuid4()),
                vector=vector.tolist(),
                payload={"page_content": text, "metadata": METADATA},
            )
            for text, vector in zip(texts, vectors, strict=True)
        )
        self._client.upload_points(collection, points, wait=True)
        return vectors


class LangChain:
    """``add_documents`` of langchain-qdrant with ``HuggingFaceEmbeddings``."""

    packages = ("langchain-core", "langchain-community", "langchain-qdrant")

    def __init__(self, model: str, client: QdrantClient) -> None:
        embeddings = _langchain_embeddings()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is deprecated in favour of another package
            self._embeddings = embeddings(model_name=model)
        self._client = client
        self._dimension = len(self._embeddings.embed_query("warm up"))

    def put(self, texts: Sequence[str], collection: str) -> None:
        from langchain_core.documents import Document
        from langchain_qdrant import QdrantVectorStore

        create_collection(self._client, collection, self._dimension)
        store = QdrantVectorStore(self._client, collection, self._embeddings)
        store.add_documents([Document(text, metadata=METADATA) for text in texts])


class LlamaIndex:
    """``IngestionPipeline`` with ``HuggingFaceEmbedding`` and its vector store for Qdrant."""

    packages = (
        "llama-index-core",
        "llama-index-embeddings-huggingface",
        "llama-index-vector-stores-qdrant",
    )

    def __init__(self, model: str, client: QdrantClient) -> None:
        self._embedding = importlib.import_module(
            "llama_index.embeddings.huggingface"
        ).HuggingFaceEmbedding(model_name=model)
        self._embedding.get_text_embedding("warm up")
        self._client = client

    def put(self, texts: Sequence[str], collection: str) -> None:
        core = importlib.import_module("llama_index.core.ingestion")
        schema = importlib.import_module("llama_index.core.schema")
        qdrant = importlib.import_module("llama_index.vector_stores.qdrant")
        store = qdrant.QdrantVectorStore(collection_name=collection, client=self._client)
        # A pipeline caches the vectors of texts, so each round has one of its own.
        pipeline = core.IngestionPipeline(transformations=[self._embedding], vector_store=store)
        pipeline.run(nodes=[schema.TextNode(text=text, metadata=METADATA) for text in texts])


RIVALS: Final[Mapping[str, type[SentenceTransformers | LangChain | LlamaIndex]]] = {
    SENTENCE_TRANSFORMERS: SentenceTransformers,
    LANGCHAIN: LangChain,
    LLAMA_INDEX: LlamaIndex,
}


def create_collection(client: QdrantClient, name: str, dimension: int) -> None:
    """Create a collection of unnamed vectors, compared by cosine."""
    params = models.VectorParams(size=dimension, distance=models.Distance.COSINE)
    client.create_collection(name, vectors_config=params)


def _langchain_embeddings() -> Any:
    """Return the class of langchain-huggingface, else that of langchain-community.

    langchain-huggingface requires an older huggingface-hub than this project's transformers.
    """
    try:
        return importlib.import_module("langchain_huggingface").HuggingFaceEmbeddings
    except ImportError:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module("langchain_community.embeddings.huggingface")
        return module.HuggingFaceEmbeddings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=RIVALS)
    parser.add_argument("model")
    parser.add_argument("url")
    options = parser.parse_args()
    client = QdrantClient(options.url, check_compatibility=False, timeout=TIMEOUT_SECONDS)
    kind = RIVALS[options.name]
    try:
        versions = {name: importlib.metadata.version(name) for name in kind.packages}
        rival: Rival = kind(options.model, client)
    except ImportError as error:
        open_replies({"missing": str(error)})
        return
    send = open_replies({"versions": versions})
    for line in sys.stdin:
        send(answer(rival, client, json.loads(line)))


def answer(rival: Rival, client: QdrantClient, request: Answer) -> Answer:
    """Carry out a request; return how long it took."""
    match request:
        case {"put": texts, "collection": collection, "save": path}:
            started = time.perf_counter()
            vectors = rival.put(texts, collection)
            seconds = time.perf_counter() - started
            if path is not None:
                np.save(path, vectors)
            return {"seconds": seconds, "stored": client.count(collection).count}
        case {"embed": texts, "save": path} if isinstance(rival, SentenceTransformers):
            np.save(path, rival.model.encode(list(texts)))
            return {}
        case _:
            raise ValueError(request)


if __name__ == "__main__":
    main()
