"""What text processing works on and results in: parts, chunks and sparse vectors. Plain data."""

import os
import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Self

from msgspec import Struct

from ingestq.core.errors import encodable
from ingestq.core.metrics import WarningKind


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


EMPTY: Final = "the document is empty"
"""Warning of a document without content."""
NO_TEXT: Final = "there is no text in it"
"""Warning of a document that was read and says nothing, and the beginning of a reason to reject one
of which something was not read."""
NOINDEX: Final = "the page asks not to be indexed (robots: noindex), so nothing of it is"
"""Warning of a web page that has to stay out of the index."""
AFTER_CONTEXT: Final = "\n\n"
INSIDE: Final = " \N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK} "
"""Stands between the name of a part and that of a part inside it: ``mail.eml > letter.pdf``."""


@dataclass(frozen=True)
class Part:
    """A part of a document that a reader can find: a page, sheet, slide, attachment or member.

    ``text`` is what it says; ``markdown`` if its headings, tables and code are in Markdown.
    ``page`` is the number of the page or slide, from 1. ``name`` is the name of the sheet,
    attachment or member of an archive, after those that contain it, joined by `INSIDE`.
    """

    text: str
    markdown: bool = False
    page: int | None = None
    name: str | None = None


@dataclass(frozen=True)
class ExtractedDocument:
    """What a document says: its ``parts``, in reading order, and its title if it has one.

    ``warnings`` say what of it could not be read, each in a sentence for the user.
    """

    parts: tuple[Part, ...]
    title: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The text of all parts."""
        return "\n\n".join(part.text for part in self.parts)


class SizedText(NamedTuple):
    """A text and its number of tokens, without special tokens."""

    text: str
    tokens: int


def with_context(context: str, body: str) -> str:
    """Return what is embedded of a chunk, or indexed word by word."""
    return f"{context}{AFTER_CONTEXT}{body}" if context else body


class Chunk(Struct, frozen=True, array_like=True, gc=False):
    """A chunk of a document: its ``body`` is shown, and embedded together with its ``context``.

    The context says where in the document the body stands. ``tokens`` is the number of tokens of
    both, without special tokens. ``page`` and ``part`` are the page and name of its `Part`.
    ``file_title`` is the name of the file if that stands in for a title, and the chunk does not say
    it itself. It is shown and indexed word by word, but not embedded: a file that is renamed keeps
    its vectors.

    It is sent as an array, because decoding ten thousand chunks must not block the event loop.
    """

    body: str
    context: str
    tokens: int
    page: int | None = None
    part: str | None = None
    file_title: str = ""

    @property
    def embedded(self) -> SizedText:
        """What is embedded of it."""
        return SizedText(with_context(self.context, self.body), self.tokens)

    @property
    def full_context(self) -> str:
        """The context with the file's title: what is shown."""
        return INSIDE.join(filter(None, (self.file_title, self.context)))

    @property
    def indexed(self) -> str:
        """What is indexed of it word by word."""
        return with_context(self.full_context, self.body)


class Heading(NamedTuple):
    """A heading: its level, from 1, and what it says, without mark-up."""

    level: int
    text: str


class OpenBlocks(NamedTuple):
    """What is open at a place in a text: blocks that began before it, and end behind it.

    ``fence`` is the mark that opened the block of code, empty outside code. ``headings`` are those
    that the place is under, the highest first. ``header`` is the header row of the table, as it
    stands there; empty outside tables.
    """

    fence: str = ""
    headings: tuple[Heading, ...] = ()
    header: str = ""


NOTHING_OPEN: Final = OpenBlocks()


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
    """Where a segment of a file begins: ``skip`` characters into the text from byte ``start`` on.

    The text of the file ends at byte ``end``, and is in ``codec``. ``open`` is what is open where
    the segment begins. ``title`` is the title of the document as its chunks' contexts have it,
    ``file_title`` the one that the file's name gives it if it has none. ``status`` is the state of
    the file.
    """

    start: int
    end: int
    markdown: bool
    status: FileStat
    codec: str = "utf-8"
    skip: int = 0
    open: OpenBlocks = NOTHING_OPEN
    title: str = ""
    file_title: str = ""


StageSeconds = dict[str, float]
"""Seconds that a parse process spent on each `ingestq.core.metrics.PipelineStage`."""


class UnchangedContent(Struct, frozen=True, tag=True):
    """The result for a document whose content is already known: there is nothing to prepare.

    ``file`` is the state of the file that was read, see `ingestq.core.paths.file_state`. Reading it
    took ``seconds``.
    """

    content_hash: str
    file: str | None = None
    seconds: StageSeconds = {}


@dataclass(frozen=True)
class Segment:
    """Consecutive chunks of a document.

    ``sparse`` has the sparse vector of each chunk; it is empty if the collection has none. ``rest``
    is where the next segment begins (see `worker.text.prepare.prepare_rest`); None after the last.
    Making it, and the document that it is the first of, took ``seconds``.
    """

    chunks: tuple[Chunk, ...]
    sparse: tuple[SparseVector, ...] = ()
    rest: SegmentStart | None = None
    seconds: StageSeconds = field(default_factory=dict, compare=False)

    @classmethod
    def of(
        cls,
        chunks: Iterable[Chunk],
        encode: Callable[[str], SparseVector] | None = None,
        rest: SegmentStart | None = None,
    ) -> Self:
        """Return a segment of ``chunks``; ``encode``, if given, makes their sparse vectors."""
        chunks = tuple(chunks)
        vectors = tuple(encode(chunk.indexed) for chunk in chunks) if encode else ()
        return cls(chunks, vectors, rest)


class PreparedDocument(Struct, frozen=True, tag=True):
    """A document in chunks: ``first`` is its first segment, often the only one.

    ``content_hash`` covers everything that is stored of the document, ``bytes_hash`` only the bytes
    of its content, whatever its name. ``file`` is the state of the file that was read, see
    `ingestq.core.paths.file_state`. ``warnings`` say what of the document could not be read.
    ``enriched`` is the metadata that the hook ``enriched_by`` returned (its name and version).
    """

    content_hash: str
    file: str | None
    title: str | None
    first: Segment
    warnings: tuple[str, ...] = ()
    bytes_hash: str = ""
    enriched: dict[str, Any] = {}
    enriched_by: str = ""


MAX_WARNINGS: Final = 20
"""Most warnings of a document. They are stored in its ledger entry, which is read at each scan."""
WARNING_CHARACTERS: Final = 300
"""Longest warning or reason; names of parts, which come from the document, may have any length."""


def bounded_warnings(warnings: Iterable[str]) -> tuple[str, ...]:
    """Return ``warnings`` as they are stored: different ones, and neither many nor long.

    If there are more than `MAX_WARNINGS`, the last one that is returned says how many are left out.
    """
    different = tuple(dict.fromkeys(map(bounded_sentence, warnings)))
    if len(different) <= MAX_WARNINGS:
        return different
    kept = different[: MAX_WARNINGS - 1]
    return (*kept, f"and {len(different) - len(kept):,} more")


_WARNING_KINDS: Final = (
    (WarningKind.EMPTY, "the document is empty"),
    (WarningKind.ENCODING, "are not valid|were replaced|(was|were) removed|encoding"),
    (WarningKind.ENCRYPTED, "encrypted|password"),
    (WarningKind.PAGES, r"pages? ha(s|ve) no text|\bOCR\b"),
    (WarningKind.DAMAGED, "damaged|cut off|missing"),
    (WarningKind.SKIPPED, "skipped|not read|could not be read|left out|more warnings|^and "),
)
"""What the warnings of each kind say; the first that fits counts."""


def warning_kind(warning: str) -> WarningKind:
    """Return what ``warning`` says in general."""
    return next(
        (kind for kind, words in _WARNING_KINDS if re.search(words, warning)), WarningKind.OTHER
    )


def bounded_sentence(sentence: str) -> str:
    """Return a warning or reason as it is stored in the ledger."""
    text = encodable(sentence)
    return text if len(text) <= WARNING_CHARACTERS else text[: WARNING_CHARACTERS - 1] + "…"
