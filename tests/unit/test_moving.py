"""Moving a file of a hot folder overwrites nothing, and loses nothing."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestq.core.documents import Document
from producers.watch.folder import WatchedFolder
from producers.watch.hot_folder import TakenFile, is_as_taken, move
from producers.watch.settling import FileState

names = st.sampled_from(
    ["a", "a.txt", "a-2.txt", "sub/a.txt", "a.txt.meta.json", "a.txt.error.txt", "a.tar.gz", "-2"]
)


def taken_at(path: Path) -> TakenFile:
    document = Document(doc_id=str(path), version=1, source="s", path=str(path))
    return TakenFile(path, FileState.of(path.stat()), document)


def contents(root: Path) -> list[str]:
    return sorted(path.read_text() for path in root.rglob("*") if path.is_file())


@settings(max_examples=40)
@given(st.lists(st.tuples(names, st.sampled_from(["done", "failed"])), max_size=12))
def test_every_file_that_was_handed_over_is_there(moves: list[tuple[str, str]]) -> None:
    with TemporaryDirectory() as name:
        root = Path(name)
        folder = WatchedFolder(root, hot=True)
        expected = []
        for number, (relative, place) in enumerate(moves):
            path = root / relative
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"content {number}")
            sidecar = path.with_name(path.name + ".meta.json")
            sidecar.write_text(f"sidecar {number}")
            reason = None if place == "done" else f"reason {number}"
            move(taken_at(path), folder, reason)
            expected += [f"content {number}", f"sidecar {number}"]
            expected += [] if reason is None else [f"{reason}\n"]
            assert [path.name for path in root.iterdir() if path.is_file()] == []
        assert contents(root) == sorted(expected)
        for path in (root / "failed").rglob("*.error.txt"):
            beside = path.with_name(path.name.removesuffix(".error.txt"))
            if path.read_text().startswith("reason"):
                which = path.read_text().split()[1]
                assert beside.read_text() == f"content {which}"
                assert beside.with_name(beside.name + ".meta.json").read_text().endswith(which)


def test_a_file_that_cannot_be_moved_leaves_nothing_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a")
    taken = taken_at(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        move(taken, WatchedFolder(tmp_path, hot=True), "because")
    assert contents(tmp_path) == []


def test_a_file_is_told_from_a_later_one(tmp_path: Path) -> None:
    folder = WatchedFolder(tmp_path, hot=True)
    path = tmp_path / "a.txt"
    path.write_text("a")
    taken = taken_at(path)
    assert is_as_taken(taken, folder)
    os.utime(path, ns=(1, taken.state.modified_ns + 1))
    assert not is_as_taken(taken, folder)
    taken = taken_at(path)
    (tmp_path / "a.txt.meta.json").write_text("no metadata")
    assert not is_as_taken(taken, folder)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        is_as_taken(taken, folder)


def test_results_are_no_documents_but_only_in_a_hot_folder(tmp_path: Path) -> None:
    hot, mirror = WatchedFolder(tmp_path, hot=True), WatchedFolder(tmp_path)
    for name in ("done/a.txt", "failed/sub/a.txt"):
        assert not hot.takes(tmp_path / name)
        assert mirror.takes(tmp_path / name)
    for name in ("a.txt", "sub/done/a.txt", "done.txt"):
        assert hot.takes(tmp_path / name)
