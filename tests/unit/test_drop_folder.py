"""Which files of a watched folder are documents, and when they have been still for long enough."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.watch.folder import Presence, WatchedFolder, document_beside
from producers.watch.settling import MOST_CHANGES, FileState, Settling, is_still

ROOT = Path("/drop")
SECONDS = 2.0
A, B = ROOT / "a.txt", ROOT / "b.txt"
STATE = FileState(1, 1)


def takes(name: str, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> bool:
    return WatchedFolder(ROOT, include=include, exclude=exclude).takes(ROOT / name)


@pytest.mark.parametrize(
    "name", ["a.txt", "sub/deep/a", "a.part.txt", "a.meta.json.txt", "meta.json", "with~tilde"]
)
def test_files_are_documents(name: str) -> None:
    assert takes(name)


@pytest.mark.parametrize(
    "name",
    [
        *("a.part", "a.tmp", "a.crdownload", "a.partial", "a.txt~", ".a", ".a.txt.swp"),
        *("sub.tmp/a.txt", ".git/config", "sub/.a/b", "a.txt.meta.json", "sub/a.meta.json"),
    ],
)
def test_unfinished_hidden_and_accompanying_files_are_not(name: str) -> None:
    assert not takes(name)


def test_patterns_are_those_of_gitignore() -> None:
    assert takes("a.pdf", include=("*.pdf", "*.md"))
    assert takes("sub/a.md", include=("*.pdf", "*.md"))
    assert not takes("a.txt", include=("*.pdf", "*.md"))
    assert not takes("sub/old/a.pdf", exclude=("old/",))
    assert takes("sub/top.pdf", exclude=("/top.pdf",))
    assert not takes("a.pdf", include=("*.pdf",), exclude=("a.*",))
    with pytest.raises(ValueError, match="Invalid"):
        WatchedFolder(ROOT, exclude=("!",))


def test_what_happens_to_a_sidecar_is_about_its_document() -> None:
    assert document_beside(ROOT / "a.pdf.meta.json") == ROOT / "a.pdf"
    assert document_beside(A) == A
    assert document_beside(ROOT / ".meta.json") == ROOT / ".meta.json"


def test_a_path_is_due_when_nothing_happened_to_it_for_a_while() -> None:
    settling = Settling(SECONDS)
    settling.touch(A, now=0)
    settling.touch(B, now=1)
    assert settling.due(1.9) == {}
    settling.touch(A, now=1.9)
    assert settling.due(3) == {B: None}
    assert settling.due(3.9) == {A: None}
    assert settling.due(100) == {}


@given(st.dictionaries(st.sampled_from([A, B]), st.floats(0, 100)))
def test_who_sleeps_until_the_next_is_due_misses_none(touched: dict[Path, float]) -> None:
    settling = Settling(SECONDS)
    for path, now in touched.items():
        settling.touch(path, now)
    taken: list[Path] = []
    while (due := settling.next_due()) is not None:
        paths = settling.due(due)
        assert paths
        taken.extend(paths)
    assert sorted(taken) == sorted(touched)


def test_a_file_that_is_changing_is_looked_at_again() -> None:
    settling = Settling(SECONDS)
    assert settling.watch(A, STATE, now=0)
    assert settling.due(2) == {A: STATE}
    settling.touch(A, now=2)
    assert settling.watch(A, STATE, now=2), "what happened since is not forgotten"
    assert settling.due(4) == {A: None}


def test_the_number_of_paths_is_bounded() -> None:
    settling = Settling(SECONDS)
    paths = [ROOT / str(i) for i in range(MOST_CHANGES)]
    assert all(settling.touch(path, now=0) for path in paths)
    assert settling.touch(paths[0], now=1), "it is known already"
    assert not settling.touch(ROOT / "one more", now=1)
    assert len(settling) == 0, "a scan will find them"


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.integers(0, 3)), max_size=20))
def test_no_path_is_lost_and_none_comes_early(touches: list[tuple[Path, int]]) -> None:
    settling = Settling(SECONDS)
    now, last, due = 0.0, dict[Path, float](), set[Path]()
    for path, pause in touches:
        now += pause
        for found in settling.due(now):
            assert now - last[found] >= SECONDS
            due.add(found)
        settling.touch(path, now)
        due.discard(path)
        last[path] = now
    assert due | settling.due(now + SECONDS).keys() == last.keys()


def test_a_file_is_still_by_its_time_or_by_a_second_look(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a")
    modified = 1_000
    os.utime(path, (modified, modified))
    status = path.stat()

    def still(known: FileState | None, now: float) -> bool:
        return is_still(status, known, SECONDS, int(now * 1e9))

    assert still(None, modified + 2)
    assert not still(None, modified + 1.9)
    assert not still(None, modified - 3600), "it was written on a machine with another clock"
    assert still(FileState.of(status), modified - 3600)
    assert not still(STATE, modified - 3600)


def test_a_mount_point_is_not_the_folder_that_was_mounted(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    presence = Presence(folder)
    assert not presence.check()
    folder.mkdir()
    assert presence.check(), "it may be empty"
    folder.rename(tmp_path / "elsewhere")
    assert not presence.check()
    folder.write_text("a file")
    assert not presence.check()
    folder.unlink()
    folder.mkdir()
    assert not presence.check(), "another folder that is empty"
    (folder / "a.txt").write_text("a")
    assert presence.check()
