"""Moving a file of a hot folder overwrites and loses nothing."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestq.core.documents import Document
from producers.watch.filing import QueuedFile, is_unchanged, move
from producers.watch.folder import WatchedFolder
from producers.watch.settling import FileState

names = st.sampled_from(
    ["a", "a.txt", "a-2.txt", "sub/a.txt", "a.txt.meta.json", "a.txt.error.txt", "a.tar.gz", "-2"]
)


def queued_at(path: Path) -> QueuedFile:
    document = Document(doc_id=str(path), version=1, source="s", path=str(path))
    return QueuedFile(path, FileState.of(path.stat()), document)


def contents(root: Path) -> list[str]:
    return sorted(path.read_text() for path in root.rglob("*") if path.is_file())


@settings(max_examples=40)
@given(st.lists(st.tuples(names, st.sampled_from(["done", "failed"])), max_size=12))
def test_every_moved_file_is_kept_with_its_sidecar_and_reason(moves: list[tuple[str, str]]) -> None:
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
            move(queued_at(path), folder, reason)
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


def test_a_name_too_long_for_a_sidecar_is_kept_and_its_reason_has_a_shorter_one(
    tmp_path: Path,
) -> None:
    for content in ("first", "second"):
        for ending in ("a.txt", "b.txt"):
            path = tmp_path / ("\N{HANGUL SYLLABLE HAN}" * 83 + ending)
            path.write_text(f"{content} {ending}")
            move(queued_at(path), WatchedFolder(tmp_path, hot=True), f"reason {content} {ending}")
    moved = [f"{n} {ending}" for n in ("first", "second") for ending in ("a.txt", "b.txt")]
    assert contents(tmp_path) == sorted([*moved, *(f"reason {name}\n" for name in moved)])
    names = os.listdir(tmp_path / "failed")
    assert sum(name.endswith(".error.txt") for name in names) == 4


def test_a_failed_move_leaves_no_files_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a")
    queued = queued_at(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        move(queued, WatchedFolder(tmp_path, hot=True), "because")
    assert contents(tmp_path) == []


def test_a_changed_file_is_recognised(tmp_path: Path) -> None:
    folder = WatchedFolder(tmp_path, hot=True)
    path = tmp_path / "a.txt"
    path.write_text("a")
    queued = queued_at(path)
    assert is_unchanged(queued, folder)
    os.utime(path, ns=(1, queued.state.modified_ns + 1))
    assert not is_unchanged(queued, folder)
    queued = queued_at(path)
    (tmp_path / "a.txt.meta.json").write_text("no metadata")
    assert not is_unchanged(queued, folder)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        is_unchanged(queued, folder)


def test_done_and_failed_are_ignored_only_in_a_hot_folder(tmp_path: Path) -> None:
    hot, mirror = WatchedFolder(tmp_path, hot=True), WatchedFolder(tmp_path)
    for name in ("done/a.txt", "failed/sub/a.txt"):
        assert not hot.is_document(tmp_path / name)
        assert mirror.is_document(tmp_path / name)
    for name in ("a.txt", "sub/done/a.txt", "done.txt"):
        assert hot.is_document(tmp_path / name)
