"""Reads the index with Haystack, in a pipeline that takes the text from the field it is in.

pip install qdrant-haystack sentence-transformers
QDRANT_URL=http://localhost:6333 python -m examples.read_with_haystack "Who keeps the light?"
"""

import os
import sys
from typing import Any

from haystack import Document, Pipeline, component
from haystack_integrations.components.retrievers.qdrant import QdrantEmbeddingRetriever
from haystack_integrations.document_stores.qdrant import QdrantDocumentStore

from examples.question_vectors import Embed, embed

DIMENSION = 384
"""Of the default model."""


@component
class IngestqPassages:
    """Makes Haystack's documents of ingestq's chunks.

    The retriever puts all fields of a chunk into ``meta``, because it expects the text in
    ``content``.
    """

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Return the documents with their text as content, and the user's metadata in meta."""
        return {"documents": [self._passage(document) for document in documents]}

    def _passage(self, chunk: Document) -> Document:
        fields = dict(chunk.meta)
        text, metadata = fields.pop("page_content"), fields.pop("metadata")
        return Document(id=chunk.id, content=text, meta=metadata | fields, score=chunk.score)


def pipeline(url: str, collection: str, limit: int) -> Pipeline:
    """Return a pipeline from the vector of a question to passages."""
    store = QdrantDocumentStore(url=url, index=collection, embedding_dim=DIMENSION)
    made = Pipeline()
    made.add_component("retriever", QdrantEmbeddingRetriever(store, top_k=limit))
    made.add_component("passages", IngestqPassages())
    made.connect("retriever.documents", "passages.documents")
    return made


def find(
    question: str,
    *,
    url: str,
    collection: str = "documents",
    embed: Embed = embed,
    limit: int = 4,
) -> list[Document]:
    """Return the passages of the index that answer ``question`` best."""
    made = pipeline(url, collection, limit)
    try:
        answer = made.run({"retriever": {"query_embedding": embed(question)}})
    finally:
        made.close()
    found: list[Document] = answer["passages"]["documents"]
    return found


if __name__ == "__main__":
    qdrant = os.environ.get("QDRANT_URL", "http://localhost:6333")
    name = os.environ.get("COLLECTION", "documents")
    for passage in find(" ".join(sys.argv[1:]), url=qdrant, collection=name):
        place = passage.meta
        print(f"{place['doc_id']}, page {place['page']}: {passage.content}")
