"""Reads the index with LlamaIndex, whose Qdrant store is told the field with the text.

pip install llama-index-core llama-index-vector-stores-qdrant sentence-transformers
QDRANT_URL=http://localhost:6333 python -m examples.read_with_llamaindex "Who keeps the light?"
"""

import os
import sys

from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.vector_stores.qdrant import QdrantVectorStore
from pydantic import PrivateAttr
from qdrant_client import QdrantClient

from examples.question_vectors import Embed, embed


class QuestionEmbedding(BaseEmbedding):
    """The vectors of `examples.question_vectors`, as LlamaIndex asks for them."""

    _embed: Embed = PrivateAttr()

    def __init__(self, embed: Embed) -> None:
        super().__init__()
        self._embed = embed

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embed(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._embed(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._embed(text)


class IngestqPassages(BaseNodePostprocessor):
    """Makes metadata of the fields of ingestq's chunks: the user's, and where a passage stands.

    The store leaves the text among them, which a prompt would then have twice. A query engine takes
    this as one of its ``node_postprocessors``.
    """

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        for found in nodes:
            fields = dict(found.node.metadata)
            fields.pop("page_content", None)
            found.node.metadata = fields.pop("metadata", {}) | fields
        return nodes


def find(
    question: str,
    *,
    url: str,
    collection: str = "documents",
    embed: Embed = embed,
    limit: int = 4,
) -> list[NodeWithScore]:
    """Return the passages of the index that answer ``question`` best."""
    client = QdrantClient(url)
    try:
        store = QdrantVectorStore(collection, client, text_key="page_content")
        index = VectorStoreIndex.from_vector_store(store, embed_model=QuestionEmbedding(embed))
        found = index.as_retriever(similarity_top_k=limit).retrieve(question)
        return IngestqPassages().postprocess_nodes(found)
    finally:
        client.close()


if __name__ == "__main__":
    qdrant = os.environ.get("QDRANT_URL", "http://localhost:6333")
    name = os.environ.get("COLLECTION", "documents")
    for found in find(" ".join(sys.argv[1:]), url=qdrant, collection=name):
        place = found.node.metadata
        print(f"{place['doc_id']}, page {place['page']}: {found.node.get_content()}")
