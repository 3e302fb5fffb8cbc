"""What text processing hands to the pipeline. Plain data: loads no parser and no tokenizer."""

import os
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self


class SparseVector(NamedTuple):
    """The ``values`` at the ``indices`` that are not zero; equal lengths.

    Packed as 32-bit numbers, because unpickling ten thousand lists or arrays would hold up the
    event loop.
    """

    packed_indices: bytes
    packed_values: bytes

    @classmethod
    def of(cls, indices: Sequence[int], values: Sequence[float]) -> Self:
        """Pack them."""
        return cls(array("I", indices).tobytes(), array("f", values).tobytes())

    @property
    def indices(self) -> list[int]:
        return memoryview(self.packed_indices).cast("I").tolist()

    @property
    def values(self) -> list[float]:
        return list(memoryview(self.packed_values).cast("f"))


class SizedText(NamedTuple):
    """A text, and how many tokens it counts as having, special ones not among them."""

    text: str
    tokens: int


class FileStat(NamedTuple):
    """What identifies a state of a file."""

    bytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileStat":
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(frozen=True)
class SegmentStart:
    """Where a segment of a file begins: at the byte ``start`` of a text that goes up to ``end``.

    It is Markdown or not, and inside a block of code if there is a ``fence``; see
    `worker.text.chunker`.
    """

    start: int
    end: int
    markdown: bool
    fence: str
    status: FileStat


@dataclass(frozen=True)
class UnchangedContent:
    """The result for a document whose content is known already: there is nothing to prepare.

    ``file`` is the state of the file it was read from, see `ingestq.core.paths.file_state`.
    """

    content_hash: str
    file: str | None = None


@dataclass(frozen=True)
class Segment:
    """Consecutive chunks of a document; ``tokens`` has how many each counts as having.

    ``sparse`` has the sparse vector of each; it is empty if none are wanted. ``rest`` is where the
    next segment begins, see `prepare_rest`; None after the last.
    """

    chunks: tuple[str, ...]
    tokens: tuple[int, ...]
    sparse: tuple[SparseVector, ...] = ()
    rest: SegmentStart | None = None

    @classmethod
    def of(
        cls,
        chunks: Sequence[SizedText],
        sparse: Callable[[str], SparseVector] | None = None,
        rest: SegmentStart | None = None,
    ) -> Self:
        """Return a segment of ``chunks``, with what ``sparse``, if there is one, makes of them."""
        texts = tuple(chunk.text for chunk in chunks)
        words = tuple(map(sparse, texts)) if sparse else ()
        return cls(texts, tuple(chunk.tokens for chunk in chunks), words, rest)


@dataclass(frozen=True)
class PreparedDocument:
    """A document cut into chunks; ``first`` is the first segment of it, often the only one.

    ``content_hash`` covers everything that is stored of it. ``file`` is the state of the file it
    was read from, see `ingestq.core.paths.file_state`.
    """

    content_hash: str
    file: str | None
    title: str | None
    first: Segment
