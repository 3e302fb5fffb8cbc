"""Whatever events come about a folder, in any order: the last decisions make up the folder."""

import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestq.core.documents import Deletion, Document
from producers.files.walk import Listing, walk
from producers.watch.decisions import FEW_DELETIONS, ClassifiedFiles, FileClassifier
from producers.watch.folder import Presence, WatchedFolder
from producers.watch.settling import Settling

FILES = ("a.txt", "b.txt", "a.txt.part", "d/a.txt", "d/b.txt", "d/e/a.txt", "f/a.txt")
FOLDERS = ("d", "d/e", "f", "f/e", "g")


@dataclass
class Index:
    """A worker that comes to its jobs late and in any order; the newest version wins."""

    versions: dict[str, int] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    jobs: list[Document | Deletion] = field(default_factory=list)

    def work(self, chance: random.Random) -> None:
        chance.shuffle(self.jobs)
        for job in self.jobs:
            if self.versions.get(job.doc_id, 0) > job.version:
                continue
            self.versions[job.doc_id] = job.version
            self.contents.pop(job.doc_id, None)
            if isinstance(job, Document) and os.path.exists(job.path or ""):  # noqa: PTH110
                self.contents[job.doc_id] = Path(job.path or "").read_text()
        self.jobs.clear()


@dataclass
class ChangingFolder:
    """A folder in which things happen, and the decisions about it."""

    root: Path
    chance: random.Random
    index: Index = field(default_factory=Index)
    now: float = 0.0
    untold: list[Path] = field(default_factory=list)
    version: int = 0
    ask_scan: bool = False

    def __post_init__(self) -> None:
        self.looker = FileClassifier(
            WatchedFolder(self.root), Presence(self.root), settle_seconds=0
        )
        self.settling = Settling(1.0)

    def write(self, name: str, content: str) -> None:
        path = self.root / name
        missing = [parent for parent in path.parents if not parent.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        self.untold += [*missing, path]

    def remove(self, name: str) -> None:
        if (self.root / name).exists():
            (self.root / name).unlink()
            self.untold.append(self.root / name)

    def move(self, old: str, new: str) -> None:
        """Of a folder that is moved, the system tells nothing but that."""
        here, there = self.root / old, self.root / new
        possible = here.exists() and not there.is_dir() and there.parent.exists()
        if possible and not there.is_relative_to(here):
            here.rename(there)
            self.untold += [here, there]

    def tell_some(self) -> None:
        """The rest is told later, and some of this once more."""
        self.chance.shuffle(self.untold)
        told = self.untold[: self.chance.randint(0, len(self.untold))]
        for path in told:
            self.settling.touch(path, self.now)
        del self.untold[: len(told) // 2]

    def tell(self) -> None:
        self.chance.shuffle(self.untold)
        for path in self.untold:
            self.settling.touch(path, self.now)
        self.untold.clear()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.version += 1
        self._decided(self.looker.look(self.settling.due(self.now), self.version))

    def scan(self) -> None:
        self.ask_scan = False
        self.version += 1
        listing = Listing(self.version, list(walk(self.looker.root, None, self.looker.leave_out)))
        self._decided(self.looker.judge(listing))
        seen = {entry.doc_id for entry in listing.entries}
        self.index.work(self.chance)
        for doc_id in set(self.index.contents) - seen:
            self.index.jobs.append(Deletion(doc_id=doc_id, version=self.version))

    def _decided(self, looked: ClassifiedFiles) -> None:
        self.index.jobs += [*looked.documents.values(), *looked.deletions]
        self.ask_scan |= looked.ask_scan

    def work(self) -> None:
        self.index.work(self.chance)

    def settle(self) -> None:
        self.tell()
        self.wait(1.0)
        self.work()

    def end(self) -> None:
        """Everything is told, waited for and worked off."""
        self.settle()
        if self.ask_scan:
            self.scan()
        self.work()

    def files(self) -> dict[str, str]:
        files = [path for path in self.root.rglob("*") if path.is_file()]
        return {str(path): path.read_text() for path in files if path.suffix != ".part"}


@contextmanager
def changing(seed: int = 0) -> Iterator[ChangingFolder]:
    with tempfile.TemporaryDirectory() as folder:
        yield ChangingFolder(Path(folder), random.Random(seed))


STEPS = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(FILES), st.sampled_from(["x", "yy", "zzz"])),
    st.tuples(st.just("remove"), st.sampled_from(FILES)),
    st.tuples(st.just("move"), st.sampled_from(FILES), st.sampled_from(FILES)),
    st.tuples(st.just("move"), st.sampled_from(FOLDERS), st.sampled_from(FOLDERS)),
    st.tuples(st.just("tell_some")),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 1.0])),
    st.tuples(st.just("settle")),
    st.tuples(st.just("scan")),
    st.tuples(st.just("work")),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, min_size=8, max_size=40), st.integers(0, 99))
def test_the_decisions_end_equal_to_the_folder(steps: Sequence[tuple[str, ...]], seed: int) -> None:
    with changing(seed) as drop:
        for name, *arguments in steps:
            getattr(drop, name)(*arguments)
        drop.end()
        assert drop.index.contents == drop.files()


def test_a_folder_that_is_there_again_is_not_the_one_that_was_moved() -> None:
    with changing() as drop:
        drop.write("d/a.txt", "x")
        drop.end()
        drop.move("d", "f")
        drop.write("d/b.txt", "x")
        drop.end()
        assert drop.index.contents == drop.files()


@pytest.mark.parametrize("gone", [FEW_DELETIONS, FEW_DELETIONS + 1])
def test_many_files_that_are_gone_at_once_are_left_to_a_scan(gone: int) -> None:
    with changing() as drop:
        for i in range(gone):
            drop.write(f"{i}.txt", "x")
        drop.end()
        for i in range(gone):
            drop.remove(f"{i}.txt")
        drop.tell()
        drop.wait(1.0)
        assert drop.ask_scan == (gone > FEW_DELETIONS)
        assert len(drop.index.jobs) == (0 if drop.ask_scan else gone)


def test_a_folder_is_known_by_its_files() -> None:
    with changing() as drop:
        drop.write("d/e/a.txt", "x")
        drop.untold = [drop.root / "d" / "e" / "a.txt"]
        drop.end()
        drop.move("d", "g")
        drop.end()
        assert drop.index.contents == drop.files() != {}


def test_nothing_is_gone_from_a_folder_that_is_not_there() -> None:
    with changing() as drop:
        drop.write("a.txt", "x")
        drop.end()
        drop.root.rename(drop.root.with_name("elsewhere"))
        drop.untold.append(drop.root / "a.txt")
        drop.tell()
        drop.wait(1.0)
        assert (drop.index.jobs, drop.ask_scan) == ([], False)
        drop.root.with_name("elsewhere").rename(drop.root)


def test_a_link_leads_nowhere_but_into_the_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    with changing() as drop:
        drop.write("d/a.txt", "x")
        for name, target in {
            "file.txt": outside / "secret.txt",
            "folder": outside,
            "d/up": outside,
            "inside": drop.root / "d",
        }.items():
            (drop.root / name).symlink_to(target)
            drop.untold.append(drop.root / name)
        # The system follows links, too, and tells what happens there.
        drop.untold += [drop.root / "folder" / "secret.txt", drop.root / "folder" / "gone.txt"]
        drop.end()
        drop.scan()
        drop.work()
        ids = {str(Path(doc_id).relative_to(drop.root)) for doc_id in drop.index.contents}
        assert ids == {"d/a.txt", "inside/a.txt"}
        assert "secret" not in drop.index.contents.values()
        assert str(drop.root / "folder" / "gone.txt") not in drop.index.versions
