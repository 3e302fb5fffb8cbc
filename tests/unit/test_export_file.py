"""The file of an export: what is written comes back bit for bit, and damage is noticed."""

import gzip
import io
import math
import struct
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestq.core.errors import UsageError
from worker.maintenance import export_file
from worker.maintenance.export_file import (
    ExportReader,
    ExportWriter,
    Header,
    chunk_line,
    entry_line,
    read_chunk,
    read_entry,
)
from worker.maintenance.restore import in_batches
from worker.pipeline.points import (
    ChunkPoint,
    Digest,
    EntryState,
    Fence,
    LedgerEntry,
    Rejection,
)
from worker.text.parts import SparseVector

HEADER = Header(
    id="1" * 32,
    ingestq="0.1.0",
    collection="documents",
    created_ms=1,
    documents=2,
    fingerprint={"model": "m"},
)
ENTRY = LedgerEntry(
    tenant="",
    doc_id="a.md",
    source="a.md",
    version=1,
    attempt=1,
    content_hash="h",
    chunks=0,
    state=EntryState.INDEXED,
    written_ms=1,
)
NAME = "backup.jsonl.gz"

text = st.text(st.characters())
"""Any characters: control characters and lone surrogates are among them."""
number = st.floats(allow_nan=False, allow_infinity=False) | st.integers()
value = st.recursive(
    st.none() | st.booleans() | number | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=20,
)
payload = st.dictionaries(text, value, max_size=5)
float_32 = st.floats(width=32)
fence = st.builds(Fence, st.integers(0, 2**63), st.integers(0, 2**63), st.integers(0, 2**63))
sparse = st.lists(st.tuples(st.integers(0, 2**32 - 1), float_32), max_size=8).map(
    lambda pairs: SparseVector.of([i for i, _ in pairs], [v for _, v in pairs])
)
chunks = st.builds(
    ChunkPoint,
    id=st.uuids().map(str),
    vector=st.lists(float_32, max_size=8),
    payload=payload,
    sparse=st.none() | sparse,
)
entries = st.builds(
    LedgerEntry,
    tenant=text,
    doc_id=text,
    source=text,
    version=st.integers(0, 2**63),
    attempt=st.integers(0, 2**63),
    content_hash=text,
    chunks=st.integers(0, 2**63),
    state=st.sampled_from(EntryState),
    written_ms=st.integers(0, 2**63),
    chunks_fence=st.none() | fence,
    folders=st.lists(text, max_size=3).map(tuple),
    path=st.none() | text,
    metadata=payload,
    warnings=st.lists(text, max_size=3).map(tuple),
    rejection=st.none() | st.builds(Rejection, st.integers(0, 2**63), st.integers(0), text),
)


def bits(numbers: Iterable[float]) -> bytes:
    """Return the bits of 32-bit numbers: those of NaN, and of -0, differ where == does not."""
    listed = list(numbers)
    return struct.pack(f"{len(listed)}f", *listed)


@given(chunks)
def test_a_chunk_comes_back_as_it_was(chunk: ChunkPoint) -> None:
    line = chunk_line(chunk)
    assert line.isascii()
    assert line.count(b"\n") == 1
    read = read_chunk(line)
    assert bits(read.vector) == bits(chunk.vector)
    assert replace(read, vector=()) == replace(chunk, vector=())
    assert repr(read.payload) == repr(chunk.payload), "1 is not 1.0, nor 0.0 -0.0"


@given(entries)
def test_an_entry_comes_back_as_it_was(entry: LedgerEntry) -> None:
    read = read_entry(entry_line(entry))
    assert read == entry
    assert repr(read.metadata) == repr(entry.metadata)


def document(name: str, count: int) -> tuple[LedgerEntry, list[ChunkPoint]]:
    made = [
        ChunkPoint(f"{i:032x}", [i + 0.5], {"page_content": f"{name} {i}"})
        for i in range(1, count + 1)
    ]
    digest = Digest()
    for chunk in made:
        digest.add(chunk.id)
    entry = msgspec.structs.replace(
        ENTRY, doc_id=name, chunks=count, chunks_digest=str(digest), chunks_fence=Fence(1, 1)
    )
    return entry, made


def written(*documents: tuple[LedgerEntry, list[ChunkPoint]]) -> bytes:
    file = io.BytesIO()
    writer = ExportWriter(file, HEADER)
    for entry, of_it in documents:
        writer.add(entry, map(chunk_line, of_it))
    writer.finish()
    return file.getvalue()


TWO = written(document("a", 3), document("b", 0))


def read(content: bytes) -> list[str]:
    """Import ``content`` as far as this needs no Qdrant."""
    ExportReader(io.BytesIO(content), NAME).check()
    reader = ExportReader(io.BytesIO(content), NAME)
    return [portion.entry.doc_id for portion in reader.portions()]


def test_a_file_comes_back_as_it_was() -> None:
    assert read(TWO) == ["a", "b"]
    assert ExportReader(io.BytesIO(TWO), NAME).header == HEADER
    totals = ExportReader(io.BytesIO(TWO), NAME).check()
    assert (totals.documents, totals.deleted, totals.chunks) == (2, 0, 3)


def test_a_large_document_is_read_in_portions_that_are_never_written_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export_file, "PORTION_CHUNKS", 2)
    reader = ExportReader(io.BytesIO(written(document("a", 5), document("b", 1))), NAME)
    batches = list(in_batches(reader.portions()))
    sizes = [[(p.entry.doc_id, len(p.chunks)) for p in batch] for batch in batches]
    assert sizes == [[("a", 2)], [("a", 2)], [("a", 1), ("b", 1)]]
    assert [p.is_last for batch in batches for p in batch] == [False, False, True, True]


@pytest.mark.parametrize("check_only", [True, False], ids=["checked", "read"])
def test_a_file_that_is_cut_off_anywhere_is_refused(check_only: bool) -> None:
    for length in range(len(TWO)):
        with pytest.raises(UsageError, match=r"cut off|not an export"):
            _import(TWO[:length], check_only)


@pytest.mark.parametrize("check_only", [True, False], ids=["checked", "read"])
def test_a_damaged_file_is_refused(check_only: bool) -> None:
    lines = gzip.decompress(TWO).splitlines(keepends=True)
    for i in range(1, len(lines) - 1):
        for other in (b"", lines[i] * 2, lines[i].replace(b":", b": ", 1)):
            changed = gzip.compress(b"".join([*lines[:i], other, *lines[i + 1 :]]))
            with pytest.raises(UsageError, match=f"{NAME} is (damaged|cut off)"):
                _import(changed, check_only)


@pytest.mark.parametrize("check_only", [True, False], ids=["checked", "read"])
@pytest.mark.parametrize("at", [0.3, 0.5, 0.8])
def test_a_flipped_bit_is_noticed(at: float, check_only: bool) -> None:
    place = math.floor(len(TWO) * at)
    flipped = TWO[:place] + bytes([TWO[place] ^ 0x10]) + TWO[place + 1 :]
    with pytest.raises(UsageError, match=NAME):
        _import(flipped, check_only)


def _import(content: bytes, check_only: bool) -> None:
    reader = ExportReader(io.BytesIO(content), NAME)
    if check_only:
        reader.check()
    else:
        list(reader.portions())


@pytest.mark.parametrize(
    "content",
    [b"", b"# Notes\n", gzip.compress(b"[1]\n"), gzip.compress(b"{}\n"), b"\x1f\x8b"],
    ids=["nothing", "text", "a list", "a table", "the beginning of gzip"],
)
def test_another_file_is_no_export(content: bytes) -> None:
    with pytest.raises(UsageError, match=f"{NAME} is (not an export|cut off)"):
        ExportReader(io.BytesIO(content), NAME)


def test_a_newer_version_of_the_format_says_who_can_read_it() -> None:
    header: Any = {"format": "ingestq-export", "version": 2, "ingestq": "7.0.0", "shape": "other"}
    newer = gzip.compress(msgspec.json.encode(header) + b"\n")
    with pytest.raises(UsageError, match=r"version 2 .* by ingestq 7\.0\.0.*: upgrade ingestq"):
        ExportReader(io.BytesIO(newer), NAME)


def test_what_follows_the_end_is_refused() -> None:
    with pytest.raises(UsageError, match="something follows its end"):
        read(TWO + gzip.compress(b"more\n"))


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_file, "LONGEST_LINE", 1000)
    with pytest.raises(UsageError, match="a line is too long"):
        ExportReader(io.BytesIO(gzip.compress(b" " * 2000)), NAME)
