"""Which files of a watched folder are documents, and when a changed file has settled."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.watch.folder import MISSING, Presence, WatchedFolder, document_path
from producers.watch.settling import (
    MAX_CHANGES,
    FileState,
    SettledChange,
    SettlingPaths,
    is_settled,
)

ROOT = Path("/folder")
SECONDS = 2.0
A, B = ROOT / "a.txt", ROOT / "b.txt"
STATE = FileState(1, 1, 1)


def is_document(name: str, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> bool:
    return WatchedFolder(ROOT, include=include, exclude=exclude).is_document(ROOT / name)


@pytest.mark.parametrize(
    "name", ["a.txt", "sub/deep/a", "a.part.txt", "a.meta.json.txt", "meta.json", "with~tilde"]
)
def test_files_are_documents(name: str) -> None:
    assert is_document(name)


@pytest.mark.parametrize(
    "name",
    [
        *("a.part", "a.tmp", "a.crdownload", "a.partial", "a.txt~", ".a", ".a.txt.swp"),
        *("sub.tmp/a.txt", ".git/config", "sub/.a/b", "a.txt.meta.json", "sub/a.meta.json"),
    ],
)
def test_unfinished_and_hidden_files_and_sidecars_are_not_documents(name: str) -> None:
    assert not is_document(name)


def test_patterns_work_as_in_gitignore() -> None:
    assert is_document("a.pdf", include=("*.pdf", "*.md"))
    assert is_document("sub/a.md", include=("*.pdf", "*.md"))
    assert not is_document("a.txt", include=("*.pdf", "*.md"))
    assert not is_document("sub/old/a.pdf", exclude=("old/",))
    assert is_document("sub/top.pdf", exclude=("/top.pdf",))
    assert not is_document("a.pdf", include=("*.pdf",), exclude=("a.*",))
    with pytest.raises(ValueError, match="Invalid"):
        WatchedFolder(ROOT, exclude=("!",))


def test_a_change_of_a_sidecar_is_a_change_of_its_document() -> None:
    assert document_path(ROOT / "a.pdf.meta.json") == ROOT / "a.pdf"
    assert document_path(A) == A
    assert document_path(ROOT / ".meta.json") == ROOT / ".meta.json"


def test_a_path_is_due_once_it_has_been_quiet() -> None:
    settling = SettlingPaths(SECONDS)
    settling.touch(A, now=0)
    settling.touch(B, now=1)
    assert settling.due(1.9) == {}
    settling.touch(A, now=1.9)
    assert settling.due(3) == {B: SettledChange()}
    assert settling.due(3.9) == {A: SettledChange()}
    assert settling.due(100) == {}


@given(st.dictionaries(st.sampled_from([A, B]), st.floats(0, 100)))
def test_sleeping_until_next_due_misses_no_path(touched: dict[Path, float]) -> None:
    settling = SettlingPaths(SECONDS)
    for path, now in touched.items():
        settling.touch(path, now)
    taken: list[Path] = []
    while (due := settling.next_due()) is not None:
        paths = settling.due(due)
        assert paths
        taken.extend(paths)
    assert sorted(taken) == sorted(touched)


def test_an_unsettled_file_is_checked_again() -> None:
    settling = SettlingPaths(SECONDS)
    assert settling.recheck(A, STATE, now=0)
    assert settling.due(2) == {A: SettledChange(STATE)}
    settling.touch(A, now=2)
    assert settling.recheck(A, STATE, now=2), "the change since then takes precedence"
    assert settling.due(4) == {A: SettledChange()}


def test_the_number_of_paths_is_bounded() -> None:
    settling = SettlingPaths(SECONDS)
    paths = [ROOT / str(i) for i in range(MAX_CHANGES)]
    assert all(settling.touch(path, now=0) for path in paths)
    assert settling.touch(paths[0], now=1), "the path is kept already"
    assert not settling.touch(ROOT / "one more", now=1)
    assert len(settling) == 0, "a scan finds them"


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.integers(0, 3)), max_size=20))
def test_every_path_becomes_due_and_none_too_early(touches: list[tuple[Path, int]]) -> None:
    settling = SettlingPaths(SECONDS)
    now, last, due = 0.0, dict[Path, float](), set[Path]()
    for path, gap in touches:
        now += gap
        for found in settling.due(now):
            assert now - last[found] >= SECONDS
            due.add(found)
        settling.touch(path, now)
        due.discard(path)
        last[path] = now
    assert due | settling.due(now + SECONDS).keys() == last.keys()


def test_a_file_has_settled_by_its_mtime_or_by_an_unchanged_state(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a")
    modified = 1_000
    os.utime(path, (modified, modified))
    status = path.stat()

    def settled(known: FileState | None, now: float) -> bool:
        return is_settled(status, known, SECONDS, int(now * 1e9))

    assert settled(None, modified + 2)
    assert not settled(None, modified + 1.9)
    assert not settled(None, modified - 3600), "as from a machine with another clock"
    assert settled(FileState.of(status), modified - 3600)
    assert not settled(STATE, modified - 3600)


def test_an_empty_mount_point_is_not_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    presence = Presence(folder)
    assert not presence.check()
    folder.mkdir()
    assert presence.check(), "a folder may be empty"
    folder.rename(tmp_path / "elsewhere")
    assert not presence.check()
    folder.write_text("a file")
    assert not presence.check()
    folder.unlink()
    folder.mkdir()
    assert not presence.check(), "another folder that is empty"
    assert presence.reason == MISSING
    (folder / "a.txt").write_text("a")
    assert presence.check()


def test_a_folder_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    presence = Presence(tmp_path / ("x" * 300))
    assert not presence.check()
    assert presence.reason.startswith("it cannot be read: File name too long")
