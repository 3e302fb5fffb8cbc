"""Reads the index with LangChain, with the defaults of its Qdrant store.

pip install langchain-qdrant sentence-transformers
QDRANT_URL=http://localhost:6333 python -m examples.read_with_langchain "Who keeps the light?"
"""

import os
import sys
from dataclasses import dataclass

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_qdrant import QdrantVectorStore

from examples.question_vectors import Embed, embed

PLACE = ["doc_id", "page", "part"]


@dataclass(frozen=True)
class QuestionEmbeddings(Embeddings):
    """The vectors of `examples.question_vectors`, as LangChain asks for them."""

    embed: Embed

    def embed_query(self, text: str) -> list[float]:
        return self.embed(text)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed(text) for text in texts]


def find(
    question: str,
    *,
    url: str,
    collection: str = "documents",
    embed: Embed = embed,
    limit: int = 4,
) -> list[Document]:
    """Return the passages of the index that answer ``question`` best."""
    store = QdrantVectorStore.from_existing_collection(
        embedding=QuestionEmbeddings(embed), collection_name=collection, url=url
    )
    try:
        return with_places(store, store.similarity_search(question, k=limit))
    finally:
        store.client.close()


def with_places(store: QdrantVectorStore, passages: list[Document]) -> list[Document]:
    """Return ``passages`` with their document, page and part in the metadata.

    LangChain reads the text and the user's metadata only; where a passage stands is beside them.
    """
    ids = [passage.metadata["_id"] for passage in passages]
    points = store.client.retrieve(store.collection_name, ids, with_payload=PLACE)
    places = {point.id: point.payload or {} for point in points}
    return [
        Document(
            page_content=passage.page_content,
            metadata=passage.metadata | places.get(passage.metadata["_id"], {}),
        )
        for passage in passages
    ]


if __name__ == "__main__":
    qdrant = os.environ.get("QDRANT_URL", "http://localhost:6333")
    name = os.environ.get("COLLECTION", "documents")
    for passage in find(" ".join(sys.argv[1:]), url=qdrant, collection=name):
        place = passage.metadata
        print(f"{place['doc_id']}, page {place['page']}: {passage.page_content}")
