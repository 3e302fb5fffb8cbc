r"""The file that `ingestq export` writes: JSON Lines, compressed with gzip.

    {"format": "ingestq-export", "version": 1, "id": …, "collection": …, "fingerprint": {…}, …}
    {"entry": {"doc_id": …, "chunks": 2, …}}
    {"id": …, "dense": …, "sparse": …, "payload": {…}}
    {"id": …, "dense": …, "sparse": …, "payload": {…}}
    {"entry": …}
    …
    {"end": {"documents": 1, "deleted": 0, "chunks": 2}, "checksum": …}

The first line is the header, the last one the trailer: a file without it was cut off. In between
comes each document: its ledger entry, then so many chunks as that says. Vectors are 32-bit numbers,
little-endian, in base64. The checksum is BLAKE2b (16 bytes) of all lines before the trailer. Text
is ASCII with ``\u`` escapes, so that every string of Python comes back as it was.
"""

import gzip
import hashlib
import json
import sys
import zlib
from array import array
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, BinaryIO, Final, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from ingestq.core.errors import UsageError
from worker.pipeline.points import ChunkPoint, Digest, EntryState, LedgerEntry
from worker.text.parts import SparseVector

S = TypeVar("S")
T = TypeVar("T")

FORMAT: Final = "ingestq-export"
VERSION: Final = 1
"""Raise it when an older version of ingestq would read a file wrongly."""
COMPRESSION: Final = 1
"""The fastest. Vectors hardly shrink, and 9 takes several times as long for a tenth less."""
CHECKSUM_BYTES: Final = 16
LONGEST_LINE: Final = 256 * 1024 * 1024
"""Bytes. A point has 32 MB at most in a request, and escapes may take six bytes for one."""
PORTION_CHUNKS: Final = 256
PORTION_BYTES: Final = 8 * 1024 * 1024
"""So much of a document is read together: so many chunks, or about so many bytes of them."""
INVALID: Final = (ValueError, RecursionError, msgspec.MsgspecError)
"""What parsing a line may raise."""


class Header(Struct, frozen=True, kw_only=True):
    """What a file holds: a collection, and how it was built.

    ``id`` is unique for each export. ``documents`` is how many there were when it began.
    """

    format: Literal["ingestq-export"] = FORMAT
    version: int = VERSION
    id: str
    ingestq: str
    collection: str
    created_ms: int
    documents: int
    fingerprint: dict[str, Any]


class _FormatVersion(Struct, frozen=True):
    """What is read of a header first: the rest may be of another version."""

    format: Literal["ingestq-export"]
    version: int
    ingestq: str = ""


class Totals(Struct):
    """How much a file holds. Documents that were ``deleted`` have an entry and no chunks."""

    documents: int = 0
    deleted: int = 0
    chunks: int = 0

    def add(self, entry: LedgerEntry) -> None:
        """Count a document with its chunks."""
        if entry.state is EntryState.DELETED:
            self.deleted += 1
        else:
            self.documents += 1
        self.chunks += entry.chunks


class _Trailer(Struct, frozen=True):
    end: Totals
    checksum: str


class Portion(NamedTuple):
    """A document, or a part of a large one."""

    entry: LedgerEntry
    chunks: list[ChunkPoint]
    is_first: bool
    is_last: bool


class _EntryLine(Struct, frozen=True):
    entry: LedgerEntry


class _ChunkLine(Struct, frozen=True):
    id: str
    dense: str
    payload: dict[str, Any]
    sparse: tuple[str, str] | None = None


def entry_line(entry: LedgerEntry) -> bytes:
    """Return the line of a document."""
    return _line({"entry": msgspec.to_builtins(entry)})


def chunk_line(chunk: ChunkPoint) -> bytes:
    """Return the line of a chunk."""
    line: dict[str, Any] = {"id": chunk.id, "dense": _packed(array("f", chunk.vector))}
    if chunk.sparse is not None:
        indices, values = (
            array(kind, packed) for kind, packed in zip(("I", "f"), chunk.sparse, strict=True)
        )
        line["sparse"] = [_packed(indices), _packed(values)]
    return _line({**line, "payload": chunk.payload})


def read_entry(line: bytes) -> LedgerEntry:
    """Return the entry that `entry_line` wrote. Raises one of `INVALID`."""
    return _read(line, _EntryLine).entry


def read_chunk(line: bytes) -> ChunkPoint:
    """Return the chunk that `chunk_line` wrote. Raises one of `INVALID`."""
    read = _read(line, _ChunkLine)
    sparse = None
    if read.sparse is not None:
        indices, values = _unpacked("I", read.sparse[0]), _unpacked("f", read.sparse[1])
        sparse = SparseVector(indices.tobytes(), values.tobytes())
    return ChunkPoint(read.id, _unpacked("f", read.dense), read.payload, sparse)


class ExportWriter:
    """Writes an export to ``file``. Its methods block, and raise OSError."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self.totals = Totals()
        self._gzip = gzip.GzipFile("", "wb", COMPRESSION, file, mtime=0)
        self._checksum = _new_checksum()
        self._write(_line(msgspec.to_builtins(header)))

    def add(self, entry: LedgerEntry, chunk_lines: Iterable[bytes]) -> None:
        """Write a document with all its chunks."""
        self._write(entry_line(entry))
        for line in chunk_lines:
            self._write(line)
        self.totals.add(entry)

    def finish(self) -> None:
        """Write the trailer."""
        trailer = _Trailer(self.totals, self._checksum.hexdigest())
        self._gzip.write(_line(msgspec.to_builtins(trailer)))
        self._gzip.close()

    def _write(self, line: bytes) -> None:
        self._checksum.update(line)
        self._gzip.write(line)


class ExportReader:
    """Reads the export in ``file``; ``name`` is its name in messages.

    Everything blocks, and raises UsageError for a file that is none, cut off, damaged or of a newer
    version, or cannot be read.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._name = name
        self._gzip = gzip.GzipFile(fileobj=file, mode="rb")
        self._checksum = _new_checksum()
        self._has_begun = False
        first = self._next_line()
        self._has_begun = True
        self._checksum.update(first)
        self.header = self._header(first)

    def portions(self) -> Iterator[Portion]:
        """Yield all documents, in portions, and check them against their entries and the trailer.

        What was yielded is to be trusted only when the iteration has ended.
        """
        totals = Totals()
        while True:
            line = self._next_line()
            if not line.startswith(b'{"entry"'):
                self._check_end(line, totals)
                return
            self._checksum.update(line)
            entry = self._parsed(read_entry, line)
            yield from self._document(entry)
            totals.add(entry)

    def check(self) -> Totals:
        """Read everything without decoding it; return how much there is. Ends the reader."""
        line = self._next_line()
        while line.startswith((b'{"entry"', b'{"id"')):
            self._checksum.update(line)
            line = self._next_line()
        return self._check_end(line, None)

    def _document(self, entry: LedgerEntry) -> Iterator[Portion]:
        digest = Digest()
        left, is_first = entry.chunks, True
        while left or is_first:
            chunks: list[ChunkPoint] = []
            size = 0
            while left and len(chunks) < PORTION_CHUNKS and size < PORTION_BYTES:
                line = self._next_line()
                self._checksum.update(line)
                chunk = self._parsed(read_chunk, line)
                self._parsed(digest.add, chunk.id)
                chunks.append(chunk)
                size += len(line)
                left -= 1
            if not left and entry.chunks and str(digest) != entry.chunks_digest:
                raise self._damaged(f"the chunks of {entry.doc_id!r} are not its own")
            yield Portion(entry, chunks, is_first, is_last=not left)
            is_first = False

    def _header(self, line: bytes) -> Header:
        try:
            wanted = _read(line, _FormatVersion)
        except INVALID as error:
            raise self._not_an_export() from error
        if wanted.version > VERSION:
            by = f"ingestq {wanted.ingestq}" if wanted.ingestq else "a newer version of ingestq"
            raise UsageError(
                f"{self._name} has version {wanted.version} of the format, written by {by}; this "
                f"version reads up to {VERSION}: upgrade ingestq, then import it"
            )
        return self._parsed(partial(_read, type_=Header), line)

    def _check_end(self, line: bytes, totals: Totals | None) -> Totals:
        trailer = self._parsed(partial(_read, type_=_Trailer), line)
        if trailer.checksum != self._checksum.hexdigest():
            raise self._damaged("its checksum is wrong")
        if totals is not None and totals != trailer.end:
            raise self._damaged("it does not hold what its end says")
        if self._readline():
            raise self._damaged("something follows its end")
        return trailer.end

    def _next_line(self) -> bytes:
        line = self._readline()
        if not line.endswith(b"\n"):
            if len(line) > LONGEST_LINE:
                raise self._damaged("a line is too long")
            raise self._cut_off()
        return line

    def _readline(self) -> bytes:
        try:
            return self._gzip.readline(LONGEST_LINE + 1)
        except EOFError as error:
            raise self._cut_off() from error
        except gzip.BadGzipFile as error:
            if self._has_begun:
                raise self._damaged(str(error)) from error
            raise self._not_an_export() from error
        except zlib.error as error:
            raise self._damaged(str(error)) from error
        except OSError as error:
            raise UsageError(f"{self._name} cannot be read: {error.strerror or error}") from error

    def _parsed(self, parse: Callable[[S], T], text: S) -> T:
        try:
            return parse(text)
        except INVALID as error:
            raise self._damaged(str(error)) from error

    def _not_an_export(self) -> UsageError:
        return UsageError(f"{self._name} is not an export; `ingestq export` writes one")

    def _cut_off(self) -> UsageError:
        return UsageError(
            f"{self._name} is cut off: its end is missing. Copy it again, or use another export"
        )

    def _damaged(self, why: str) -> UsageError:
        return UsageError(f"{self._name} is damaged ({why}). Copy it again, or use another export")


def _new_checksum() -> "hashlib.blake2b":
    return hashlib.blake2b(digest_size=CHECKSUM_BYTES)


def _line(content: Any) -> bytes:
    # Not msgspec, which has no lone surrogates and makes floats of integers over 64 bits.
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def _read(line: bytes, type_: type[T]) -> T:
    return msgspec.convert(json.loads(line), type_)


def _packed(numbers: "array[Any]") -> str:
    if sys.byteorder == "big":
        numbers.byteswap()
    return b64encode(numbers).decode()


def _unpacked(kind: Literal["I", "f"], text: str) -> "array[Any]":
    numbers: array[Any] = array(kind, b64decode(text, validate=True))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
