"""The results of text processing: segments of chunks, and sparse vectors. Plain data."""

import os
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self


class SparseVector(NamedTuple):
    """A sparse vector: ``indices``, and the non-zero ``values`` there; equally many.

    It is packed as 32-bit numbers, because unpickling ten thousand lists or arrays would block the
    event loop.
    """

    packed_indices: bytes
    packed_values: bytes

    @classmethod
    def of(cls, indices: Sequence[int], values: Sequence[float]) -> Self:
        """Pack ``indices`` and ``values``."""
        return cls(array("I", indices).tobytes(), array("f", values).tobytes())

    @property
    def indices(self) -> list[int]:
        return memoryview(self.packed_indices).cast("I").tolist()

    @property
    def values(self) -> list[float]:
        return list(memoryview(self.packed_values).cast("f"))


class SizedText(NamedTuple):
    """A text and its number of tokens, without special tokens; see `worker.text.chunker`."""

    text: str
    tokens: int


class FileStat(NamedTuple):
    """What identifies a file's state: if it changes, the file was changed or replaced."""

    bytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileStat":
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(frozen=True)
class SegmentStart:
    """Where a segment of a file begins: at byte ``start`` of a text that ends at byte ``end``.

    ``fence`` is the mark that opened the code block in which it begins; empty outside code (see
    `worker.text.chunker`). ``status`` is the state of the file.
    """

    start: int
    end: int
    markdown: bool
    fence: str
    status: FileStat


@dataclass(frozen=True)
class UnchangedContent:
    """The result for a document whose content is already known: there is nothing to prepare.

    ``file`` is the state of the file that was read, see `ingestq.core.paths.file_state`.
    """

    content_hash: str
    file: str | None = None


@dataclass(frozen=True)
class Segment:
    """Consecutive chunks of a document, with the number of ``tokens`` of each.

    ``sparse`` has the sparse vector of each chunk; it is empty if the collection has none. ``rest``
    is where the next segment begins (see `worker.text.prepare.prepare_rest`); None after the last.
    """

    chunks: tuple[str, ...]
    tokens: tuple[int, ...]
    sparse: tuple[SparseVector, ...] = ()
    rest: SegmentStart | None = None

    @classmethod
    def of(
        cls,
        chunks: Sequence[SizedText],
        encode: Callable[[str], SparseVector] | None = None,
        rest: SegmentStart | None = None,
    ) -> Self:
        """Return a segment of ``chunks``; ``encode``, if given, makes their sparse vectors."""
        texts = tuple(chunk.text for chunk in chunks)
        vectors = tuple(map(encode, texts)) if encode else ()
        return cls(texts, tuple(chunk.tokens for chunk in chunks), vectors, rest)


@dataclass(frozen=True)
class PreparedDocument:
    """A document in chunks: ``first`` is its first segment, often the only one.

    ``content_hash`` covers everything that is stored of the document. ``file`` is the state of the
    file that was read, see `ingestq.core.paths.file_state`.
    """

    content_hash: str
    file: str | None
    title: str | None
    first: Segment
