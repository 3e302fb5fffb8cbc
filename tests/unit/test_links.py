"""Each file is found once, whatever symbolic links there are."""

import os
import random
import tempfile
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestq.core.documents import Document
from ingestq.core.results import FailedDocument
from producers.files.links import LEADS_ABOVE, LEADS_OUT, Links
from producers.files.off_limits import KERNEL_ONLY
from producers.files.walk import (
    BROKEN_LINK,
    FailedEntry,
    FoundFile,
    Keeps,
    ReadOptions,
    Root,
    ScanRecord,
    observe,
    walk,
)

LOOP = "a symbolic link that leads to itself"


def make(folder: Path, files: Sequence[str] = (), links: Mapping[str, str] | None = None) -> Root:
    """Write the ``files`` below ``folder``, and the ``links``; return the root at ``in``."""
    (folder / "in").mkdir(exist_ok=True)
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    for name, target in (links or {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(folder / target)
    return Root.at(folder / "in")


def found(root: Root, links: Links | None = None) -> list[str]:
    """Return the files that a walk finds, relative to the root, in its order."""
    return [
        str(entry.path.relative_to(root.path))
        for entry in walk(root, links=links)
        if isinstance(entry, FoundFile)
    ]


def failed(root: Root, links: Links | None = None) -> dict[str, tuple[str, Keeps]]:
    return {
        str(Path(entry.doc_id).relative_to(root.path)): (entry.reason, entry.keeps)
        for entry in walk(root, links=links)
        if isinstance(entry, FailedEntry)
    }


CASES = {
    "to a parent": (["in/a/x"], {"in/a/up": "in"}, ["a/x"]),
    "to a sibling": (["in/a/x"], {"in/b": "in/a", "in/0": "in/a"}, ["a/x"]),
    "to a file in it": (["in/x"], {"in/0": "in/x", "in/z": "in/x"}, ["x"]),
    "chain": (["in/x", "out/y"], {"in/0": "in/1", "in/1": "out/y", "in/2": "in/0"}, ["0", "x"]),
    "file outside": (["out/x"], {"in/b": "out/x", "in/a": "out/x"}, ["a"]),
    "folder outside": (["out/d/x"], {"in/b": "out", "in/c": "out/d"}, ["b/d/x"]),
    "folder in one that comes later": (
        ["out/x", "out/d/y"],
        {"in/b": "out/d", "in/c": "out"},
        ["b/y", "c/x"],
    ),
    "file in a folder that comes later": (
        ["out/x", "out/y"],
        {"in/b": "out/x", "in/c": "out"},
        ["b", "c/y"],
    ),
    "links of a folder outside": (
        ["out/x", "in/y", "more/z"],
        {"in/l": "out", "out/back": "in", "out/self": "out", "out/more": "more"},
        ["l/more/z", "l/x", "y"],
    ),
    "hidden inside": (["in/.h/x"], {"in/pub": "in/.h", "in/z": "in/.h/x"}, ["pub/x"]),
    "file hidden inside": (["in/.h/x"], {"in/a": "in/.h/x", "in/b": "in/.h/x"}, ["a"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_file_is_found_once(tmp_path: Path, case: str) -> None:
    files, links, expected = CASES[case]
    root = make(tmp_path, files, links)
    assert found(root) == expected
    assert failed(root) == {}


def test_hard_links_are_files_of_their_own(tmp_path: Path) -> None:
    root = make(tmp_path, ["in/a", "out/x"], {"in/l": "out/x", "in/m": "out/y"})
    (root.path / "b").hardlink_to(root.path / "a")
    (tmp_path / "out" / "y").hardlink_to(tmp_path / "out" / "x")
    assert found(root) == ["a", "b", "l", "m"]


def test_links_that_lead_nowhere_are_reported(tmp_path: Path) -> None:
    links = {"in/gone": "in/no", "in/away": "no/no", "in/self": "in/self", "in/above": ""}
    root = make(tmp_path, ["in/a"], links)
    assert found(root) == ["a"]
    assert failed(root) == {
        "gone": (BROKEN_LINK, Keeps.NOTHING),
        "away": (BROKEN_LINK, Keeps.ITSELF),
        "self": (LOOP, Keeps.NOTHING),
        "above": (LEADS_ABOVE, Keeps.NOTHING),
    }


def test_a_walk_that_may_not_leave_its_root_refuses_links_out_of_it(tmp_path: Path) -> None:
    root = make(tmp_path, ["in/.h/x", "out/x"], {"in/l": "out", "in/.h/l": "out", "in/h": "in/.h"})
    links = Links([root.path], lambda *_: False, KERNEL_ONLY, may_leave=False)
    assert found(root, links) == ["h/x"]
    links = Links([root.path], lambda *_: False, KERNEL_ONLY, may_leave=False)
    assert failed(root, links) == {
        "l": (LEADS_OUT, Keeps.NOTHING),
        "h/l": (LEADS_OUT, Keeps.NOTHING),
    }


async def observed(*roots: Path) -> list[str]:
    ticks = count(1)

    async def clock() -> int:
        return next(ticks)

    documents = [d async for d in observe(roots, None, clock, ReadOptions(), ScanRecord())]
    assert not any(isinstance(document, FailedDocument) for document in documents)
    return [document.doc_id for document in documents if isinstance(document, Document)]


async def test_the_roots_of_a_walk_are_looked_at_together(tmp_path: Path) -> None:
    make(tmp_path, ["in/a", "out/d/b"], {"in/l": "out/d", "root": "out", "again": "out"})
    inside, outside, link = tmp_path / "in", tmp_path / "out", tmp_path / "root"
    a, b = str(inside / "a"), str(outside / "d" / "b")
    assert await observed(inside, outside) == [a, b]
    assert await observed(inside / "l", outside, outside / "d", inside, inside) == [b, a]
    # What is named is read, also if it is a link; of two links, the first.
    assert await observed(link) == [str(link / "d" / "b")]
    assert await observed(link, tmp_path / "again") == [str(link / "d" / "b")]
    assert await observed(link, outside) == [b]


FOLDERS = ["in", "in/a", "in/a/b", "in/.h", "out", "out/c", "out/c/d"]
PLACES = [f"{folder}/{name}" for folder in FOLDERS for name in ("1", "m", ".n")]
FILES = st.sets(st.sampled_from(PLACES))
LINKS = st.dictionaries(
    st.sampled_from(PLACES), st.sampled_from([*FOLDERS, *PLACES, "", "none"]), max_size=12
)


@settings(max_examples=100, deadline=None)
@given(FILES, LINKS, st.randoms(use_true_random=False))
def test_a_walk_finds_each_file_once_in_whatever_order_links_were_made(
    files: set[str], links: dict[str, str], rng: random.Random
) -> None:
    walks = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as made:
            folder = Path(os.path.realpath(made))
            for name in FOLDERS:
                (folder / name).mkdir(exist_ok=True)
            order = list(links.items())
            rng.shuffle(order)
            root = make(folder, sorted(files - links.keys()), dict(order))
            entries = list(walk(root))
            files_found = [e for e in entries if isinstance(e, FoundFile)]
            real = [entry.path.resolve() for entry in files_found]
            assert len(set(real)) == len(real)
            # Whatever is in the root without a link and not hidden is found, by its own path.
            own = {
                path
                for path in root.path.rglob("*")
                if path.is_file()
                and not path.is_symlink()
                and path.resolve() == path
                and not any(part.startswith(".") for part in path.relative_to(root.path).parts)
            }
            assert own <= {entry.path for entry in files_found}
            walks.append([str(Path(e.doc_id).relative_to(folder)) for e in entries])
    assert walks[0] == walks[1]
