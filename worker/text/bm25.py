"""Encodes text as sparse vectors for BM25. Runs in parse processes.

The encoder of qdrant-edge is the one of a Qdrant server (its model ``qdrant/bm25``): it stems
English words and drops English stop words, and takes other languages word by word. It needs no
download. See https://qdrant.tech/documentation/edge/edge-bm25/
"""

from qdrant_edge import Bm25
from qdrant_edge import SparseVector as EdgeVector

from worker.text.parts import SparseVector


class SparseEncoder:
    """Encodes texts as sparse vectors. That of a text without words is empty and never matches."""

    def __init__(self) -> None:
        self._bm25 = Bm25()

    def document(self, text: str) -> SparseVector:
        """Encode a chunk: each word is weighted by its count and the length of the text.

        The server weights words by how rare they are in the collection (``Modifier.IDF``).
        """
        return _vector(self._bm25.embed_document(text))

    def query(self, text: str) -> SparseVector:
        """Encode a search query: each word has the weight 1."""
        return _vector(self._bm25.embed_query(text))


def _vector(found: EdgeVector) -> SparseVector:
    return SparseVector.of(found.indices, found.values)
