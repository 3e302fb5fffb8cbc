"""A file that is not what it seems, or that grows, holds up no process that reads it."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from ingestq.client.regular_file import regular_only
from ingestq.client.uploads import read_parts
from ingestq.core.documents import Document
from ingestq.core.errors import DocumentRejected, SourceChanged, SourceFailed
from producers.files.walk import ScanRecord
from producers.schedule.sources import LineSource
from producers.watch.folder import read_sidecar, sidecar_path
from tests.unit.test_chunker import TOKENIZER
from tests.unit.test_prepare import document_at
from worker.text.chunking.chunker import Chunker
from worker.text.content import content_hash
from worker.text.parts import PreparedDocument
from worker.text.prepare import prepare, prepare_rest

LIMIT = 10_000
chunker = Chunker(TOKENIZER, 254, segment_characters=1000)


@contextmanager
def growing(path: Path) -> Iterator[None]:
    """Append to the file at ``path`` without pause."""
    stop = threading.Event()

    def grow() -> None:
        with path.open("ab") as file:
            while not stop.is_set() and file.tell() < 100 * LIMIT:
                file.write(b"The tide comes in. ")
                file.flush()

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture(params=["pipe", "socket", "device", "folder"])
def odd_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    match request.param:
        case "pipe":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
    return path


def test_only_regular_files_are_read(odd_file: Path) -> None:
    document = document_at(odd_file)
    for read in (
        lambda: prepare(document, None, LIMIT, chunker, None),
        lambda: content_hash(document, LIMIT),
    ):
        with pytest.raises(DocumentRejected, match="cannot be read"):
            read()
    with pytest.raises(OSError):  # noqa: PT011 - which one depends on the kind of file
        regular_only(str(odd_file), os.O_RDONLY)


async def test_producers_read_only_regular_files(odd_file: Path) -> None:
    async def clock() -> int:
        return 1

    with pytest.raises(OSError):  # noqa: PT011
        _ = [part async for part in read_parts(odd_file)]
    source = LineSource(odd_file)
    with pytest.raises(SourceFailed, match="cannot be read"):
        _ = [document async for document in source.documents(clock, ScanRecord())]


def test_a_pipe_in_the_place_of_a_sidecar_is_no_metadata(tmp_path: Path) -> None:
    os.mkfifo(sidecar_path(tmp_path / "a.txt"))
    with pytest.raises(ValueError, match="not a regular file"):
        read_sidecar(tmp_path / "a.txt")


def test_files_without_a_size_are_read_up_to_the_limit() -> None:
    path = Path("/proc/self/maps")
    assert path.stat().st_size == 0
    with pytest.raises(DocumentRejected, match="more than 100 bytes"):
        prepare(document_at(path), None, 100, chunker, None)
    with pytest.raises(DocumentRejected, match="more than 100 bytes"):
        content_hash(document_at(path), 100)
    assert isinstance(prepare(document_at(path), None, 10**7, chunker, None), PreparedDocument)


def test_a_file_that_grows_while_it_is_read_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"The tide comes in. " * 400)
    document = document_at(path)

    def read_until_it_is_too_large() -> None:
        while True:
            prepare(document, None, LIMIT, chunker, None)

    with growing(path), pytest.raises((DocumentRejected, SourceChanged)):
        read_until_it_is_too_large()


def test_a_pipe_that_takes_the_place_of_a_file_between_segments_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"The tide comes in. " * 400)
    document = document_at(path)
    prepared = prepare(document, None, LIMIT, chunker, None)
    assert isinstance(prepared, PreparedDocument)
    assert prepared.first.rest is not None
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(SourceChanged):
        prepare_rest(document, prepared.first.rest, chunker, None)


SWAPPED_READS = 2000


@pytest.mark.parametrize("swapped", ["sub/a.txt", "sub"])
def test_what_is_swapped_for_a_link_is_not_read_out_of_its_folder(
    tmp_path: Path, swapped: str
) -> None:
    """While a thread swaps it again and again, and when it is a link for good."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder, text in ((root, "its own"), (outside, "of somebody else")):
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "a.txt").write_text(text)
    path, aside, stop = root / swapped, root / "aside", threading.Event()
    document = msgspec.structs.replace(document_at(root / "sub" / "a.txt"), within=str(root))

    def swap() -> None:
        while not stop.is_set():
            path.rename(aside)
            path.symlink_to(outside / swapped)
            path.unlink()
            aside.rename(path)

    thread = threading.Thread(target=swap)
    thread.start()
    texts: set[str] = set()
    try:
        reads = 0
        while reads < SWAPPED_READS or not texts:  # on a busy machine few find the file in place
            reads += 1
            with suppress(DocumentRejected):
                texts.add(text_of(document))
    finally:
        stop.set()
        thread.join()
    assert texts == {"its own"}
    path.rename(aside)
    path.symlink_to(outside / swapped)
    with pytest.raises(DocumentRejected, match="leads out of"):
        text_of(document)
    path.unlink()
    path.symlink_to(aside)  # in the folder
    assert text_of(document) == "its own"


def text_of(document: Document) -> str:
    prepared = prepare(document, None, LIMIT, chunker, None)
    assert isinstance(prepared, PreparedDocument)
    return "".join(chunk.body for chunk in prepared.first.chunks)


def test_the_rest_of_a_file_is_not_read_out_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    path, moved = tmp_path / "root" / "a.txt", tmp_path / "a.txt"
    path.write_text("The tide comes in. " * 400)
    document = msgspec.structs.replace(document_at(path), within=str(path.parent))
    prepared = prepare(document, None, LIMIT, chunker, None)
    assert isinstance(prepared, PreparedDocument)
    assert prepared.first.rest is not None
    prepare_rest(document, prepared.first.rest, chunker, None)
    path.rename(moved)
    path.symlink_to(moved)
    with pytest.raises(SourceChanged, match="leads out of"):
        prepare_rest(document, prepared.first.rest, chunker, None)
