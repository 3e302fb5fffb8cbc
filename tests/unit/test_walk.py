"""Which files a walk finds, and the documents made of them."""

import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ingestq.core.documents import INLINE_TEXT_BYTES, Document
from ingestq.core.results import FailedDocument
from producers.files.walk import (
    FailedEntry,
    FoundFile,
    ReadOptions,
    Root,
    ScanRecord,
    _inline,
    observe,
    walk,
)

BY_PATH = ReadOptions()


async def observed(
    *roots: Path, name: str | None = None, options: ReadOptions = BY_PATH
) -> Sequence[Document | FailedDocument]:
    ticks = itertools.count(1)

    async def clock() -> int:
        return next(ticks)

    return [document async for document in observe(roots, name, clock, options, ScanRecord())]


async def test_files_are_sent_by_path_and_state(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a")
    [document] = await observed(path)
    assert isinstance(document, Document)
    assert (document.text, document.path) == (None, str(path))
    assert document.file is None  # modified so recently that another change might keep its mtime
    states = set()
    for content, modified in (("a", 1), ("a", 2), ("bb", 2)):
        path.write_text(content)
        os.utime(path, (modified, modified))
        [document] = await observed(path)
        assert isinstance(document, Document)
        states.add(document.file)
    assert len(states - {None}) == 3
    [document] = await observed(path, options=ReadOptions(checksum=True))
    assert isinstance(document, Document)
    assert document.file is None


async def test_inline_sends_short_text_in_the_job(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("x" * (INLINE_TEXT_BYTES + 1))
    (tmp_path / "page.pdf").write_bytes(b"%PDF-1.7")
    (tmp_path / "short.md").write_text("# Short")
    long, page, short = await observed(tmp_path, options=ReadOptions(inline=True))
    assert isinstance(short, Document)
    assert (short.text, short.path, short.media_type) == ("# Short", None, "text/markdown")
    for document, name in ((long, "long.txt"), (page, "page.pdf")):
        assert isinstance(document, Document)
        assert (document.text, document.path) == (None, str(tmp_path / name))


async def test_ids_are_absolute_paths_or_start_with_the_name(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("a")
    [plain] = await observed(tmp_path)
    [named] = await observed(tmp_path, name="notes")
    assert plain.doc_id == str(tmp_path / "sub" / "a.txt")
    assert named.doc_id == "notes/sub/a.txt"
    assert isinstance(named, Document)
    assert named.source == str(tmp_path / "sub" / "a.txt")


async def test_a_relative_path_is_the_same_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.chdir(tmp_path)
    ids = {document.doc_id for root in (".", "a.txt") for document in await observed(Path(root))}
    assert ids == {str(tmp_path / "a.txt")}


def test_hidden_entries_are_skipped_unless_named(tmp_path: Path) -> None:
    hidden = tmp_path / ".git" / "config"
    hidden.parent.mkdir()
    hidden.write_text("x")
    assert list(walk(Root.at(tmp_path))) == []
    [found] = walk(Root.at(hidden))
    assert found.doc_id == str(hidden)


def test_an_unreadable_path_is_reported(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300)
    [failed] = walk(Root.at(path))
    assert isinstance(failed, FailedEntry)
    assert failed.reason == "cannot be read: File name too long"


async def test_a_file_deleted_between_listing_and_reading_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a")
    [found] = walk(Root.at(tmp_path))
    assert isinstance(found, FoundFile)
    path.unlink()
    failed = await _inline(found, version=1)
    assert isinstance(failed, FailedDocument)
    assert "gone" in failed.reason


async def test_versions_grow_during_a_scan(tmp_path: Path) -> None:
    for i in range(600):
        (tmp_path / f"{i:03}.txt").write_text("x")
    versions = [d.version for d in await observed(tmp_path) if isinstance(d, Document)]
    assert len(versions) == 600
    assert versions == sorted(versions)
    assert versions[0] < versions[-1]


def test_folders_may_be_nested_deeper_than_the_recursion_limit(tmp_path: Path) -> None:
    folders = [tmp_path]
    while len(folders) <= sys.getrecursionlimit():
        folders.append(folders[-1] / "d")
        folders[-1].mkdir()
    deepest = folders[-1] / "a.txt"
    deepest.write_text("x")
    try:
        [found] = walk(Root.at(tmp_path))
        assert found.doc_id == str(deepest)
    finally:  # pytest removes folders by recursion
        deepest.unlink()
        for folder in reversed(folders[1:]):
            folder.rmdir()
