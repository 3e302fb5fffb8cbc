"""What runs in a parse process: reading, parsing, chunking, and counting words.

Parsers and tokenizers are imported inside the functions: the worker, which only names these
functions, must not load them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ingestq.core.documents import Document
from worker.process_pool import become_child
from worker.text.parts import (
    PreparedDocument,
    Segment,
    SegmentStart,
    SparseVector,
    UnchangedContent,
)

if TYPE_CHECKING:
    from worker.text.bm25 import SparseEncoder
    from worker.text.chunker import Chunker


@dataclass(frozen=True)
class ParseConfig:
    """How to cut: by the tokens of ``tokenizer``, into chunks of up to ``max_tokens``.

    Documents are prepared for a ``hybrid`` collection, or for one without sparse vectors.
    """

    tokenizer: Path
    max_tokens: int
    hybrid: bool


_chunker: "Chunker"
_sparse: "SparseEncoder"
_hybrid: bool


def initialize(config: ParseConfig) -> None:
    """Load the tokenizer and the word encoder; no model is needed."""
    global _chunker, _sparse, _hybrid
    become_child()
    from worker.text.bm25 import SparseEncoder
    from worker.text.chunker import Chunker

    _hybrid = config.hybrid
    _sparse = SparseEncoder()
    _chunker = Chunker(config.tokenizer.read_text(), config.max_tokens)


def prepare_document(
    document: Document, known_hash: str | None, max_bytes: int
) -> PreparedDocument | UnchangedContent:
    """See `worker.text.prepare.prepare`."""
    from worker.text.prepare import prepare

    words = _sparse.document if _hybrid else None
    return prepare(document, known_hash, max_bytes, _chunker, words)


def prepare_rest(document: Document, place: SegmentStart) -> Segment:
    """See `worker.text.prepare.prepare_rest`."""
    from worker.text.prepare import prepare_rest as prepare_segment

    return prepare_segment(document, place, _chunker, _sparse.document if _hybrid else None)


def encode_query(text: str) -> SparseVector:
    """Return the sparse vector of a search query."""
    return _sparse.query(text)
