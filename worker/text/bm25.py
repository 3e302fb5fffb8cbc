"""Text to the words in it, as sparse vectors for BM25. Runs in the pool's children.

qdrant-edge's encoder is that of a Qdrant server (its model ``qdrant/bm25``): English stemming and
stop words, any other language word by word. It needs no download. See
https://qdrant.tech/documentation/edge/edge-bm25/
"""

from qdrant_edge import Bm25
from qdrant_edge import SparseVector as EdgeVector

from worker.text.parts import SparseVector


class SparseEncoder:
    """Makes sparse vectors. A text without words has an empty one, which nothing matches."""

    def __init__(self) -> None:
        self._bm25 = Bm25()

    def document(self, text: str) -> SparseVector:
        """Return the words of a chunk, each weighted by its count and the length of the text.

        How rare a word is in the collection is left to the server (``Modifier.IDF``).
        """
        return _vector(self._bm25.embed_document(text))

    def query(self, text: str) -> SparseVector:
        """Return the words of a search query, each once."""
        return _vector(self._bm25.embed_query(text))


def _vector(found: EdgeVector) -> SparseVector:
    return SparseVector.of(found.indices, found.values)
