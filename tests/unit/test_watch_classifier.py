"""The classifier's decisions end equal to the folder, in whatever order events arrive."""

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
from producers.watch.classifier import MAX_EVENT_DELETIONS, ClassifiedFiles, FileClassifier
from producers.watch.folder import Presence, WatchedFolder
from producers.watch.settling import SettlingPaths

FILES = ("a.txt", "b.txt", "a.txt.part", "d/a.txt", "d/b.txt", "d/e/a.txt", "f/a.txt")
FOLDERS = ("d", "d/e", "f", "f/e", "g")


@dataclass
class Index:
    """Simulates workers that run jobs late and in any order; the newest version wins."""

    versions: dict[str, int] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    jobs: list[Document | Deletion] = field(default_factory=list)

    def work(self, rng: random.Random) -> None:
        rng.shuffle(self.jobs)
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
    """A folder that changes, and the decisions that a classifier makes about it."""

    root: Path
    rng: random.Random
    index: Index = field(default_factory=Index)
    now: float = 0.0
    unreported: list[Path] = field(default_factory=list)
    version: int = 0
    needs_scan: bool = False

    def __post_init__(self) -> None:
        self.classifier = FileClassifier(
            WatchedFolder(self.root), Presence(self.root), settle_seconds=0
        )
        self.settling = SettlingPaths(1.0)

    def write(self, name: str, content: str) -> None:
        path = self.root / name
        missing = [parent for parent in path.parents if not parent.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        self.unreported += [*missing, path]

    def remove(self, name: str) -> None:
        if (self.root / name).exists():
            (self.root / name).unlink()
            self.unreported.append(self.root / name)

    def move(self, old: str, new: str) -> None:
        """Move a file or folder; the system reports no events for the contents of a folder."""
        here, there = self.root / old, self.root / new
        possible = here.exists() and not there.is_dir() and there.parent.exists()
        if possible and not there.is_relative_to(here):
            here.rename(there)
            self.unreported += [here, there]

    def report_some(self) -> None:
        """Report some events now; the rest later, and some of them once more."""
        self.rng.shuffle(self.unreported)
        reported = self.unreported[: self.rng.randint(0, len(self.unreported))]
        for path in reported:
            self.settling.touch(path, self.now)
        del self.unreported[: len(reported) // 2]

    def report(self) -> None:
        """Report all events."""
        self.rng.shuffle(self.unreported)
        for path in self.unreported:
            self.settling.touch(path, self.now)
        self.unreported.clear()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.version += 1
        self._apply(self.classifier.classify(self.settling.due(self.now), self.version))

    def scan(self) -> None:
        self.needs_scan = False
        self.version += 1
        listing = Listing(
            self.version, list(walk(self.classifier.root, None, self.classifier.skips))
        )
        self._apply(self.classifier.classify_listing(listing))
        seen = {entry.doc_id for entry in listing.entries}
        self.index.work(self.rng)
        for doc_id in set(self.index.contents) - seen:
            self.index.jobs.append(Deletion(doc_id=doc_id, version=self.version))

    def _apply(self, classified: ClassifiedFiles) -> None:
        self.index.jobs += [*classified.documents.values(), *classified.deletions]
        self.needs_scan |= classified.needs_scan

    def work(self) -> None:
        self.index.work(self.rng)

    def settle(self) -> None:
        self.report()
        self.wait(1.0)
        self.work()

    def end(self) -> None:
        """Report everything, wait for it to settle, scan if needed, and run all jobs."""
        self.settle()
        if self.needs_scan:
            self.scan()
        self.work()

    def files(self) -> dict[str, str]:
        files = [path for path in self.root.rglob("*") if path.is_file()]
        return {str(path): path.read_text() for path in files if path.suffix != ".part"}


@contextmanager
def changing(seed: int = 0) -> Iterator[ChangingFolder]:
    with tempfile.TemporaryDirectory() as root:
        yield ChangingFolder(Path(root), random.Random(seed))


STEPS = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(FILES), st.sampled_from(["x", "yy", "zzz"])),
    st.tuples(st.just("remove"), st.sampled_from(FILES)),
    st.tuples(st.just("move"), st.sampled_from(FILES), st.sampled_from(FILES)),
    st.tuples(st.just("move"), st.sampled_from(FOLDERS), st.sampled_from(FOLDERS)),
    st.tuples(st.just("report_some")),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 1.0])),
    st.tuples(st.just("settle")),
    st.tuples(st.just("scan")),
    st.tuples(st.just("work")),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, min_size=8, max_size=40), st.integers(0, 99))
def test_the_decisions_end_equal_to_the_folder(steps: Sequence[tuple[str, ...]], seed: int) -> None:
    with changing(seed) as folder:
        for name, *arguments in steps:
            getattr(folder, name)(*arguments)
        folder.end()
        assert folder.index.contents == folder.files()


def test_files_of_a_moved_folder_are_deleted_when_another_takes_its_name() -> None:
    with changing() as folder:
        folder.write("d/a.txt", "x")
        folder.end()
        folder.move("d", "f")
        folder.write("d/b.txt", "x")
        folder.end()
        assert folder.index.contents == folder.files()


@pytest.mark.parametrize("count", [MAX_EVENT_DELETIONS, MAX_EVENT_DELETIONS + 1])
def test_many_deletions_at_once_are_left_to_a_scan(count: int) -> None:
    with changing() as folder:
        for i in range(count):
            folder.write(f"{i}.txt", "x")
        folder.end()
        for i in range(count):
            folder.remove(f"{i}.txt")
        folder.report()
        folder.wait(1.0)
        assert folder.needs_scan == (count > MAX_EVENT_DELETIONS)
        assert len(folder.index.jobs) == (0 if folder.needs_scan else count)


def test_a_moved_folder_is_recognised_by_an_event_of_one_file() -> None:
    with changing() as folder:
        folder.write("d/e/a.txt", "x")
        folder.unreported = [folder.root / "d" / "e" / "a.txt"]
        folder.end()
        folder.move("d", "g")
        folder.end()
        assert folder.index.contents == folder.files() != {}


def test_a_missing_folder_deletes_nothing() -> None:
    with changing() as folder:
        folder.write("a.txt", "x")
        folder.end()
        folder.root.rename(folder.root.with_name("elsewhere"))
        folder.unreported.append(folder.root / "a.txt")
        folder.report()
        folder.wait(1.0)
        assert (folder.index.jobs, folder.needs_scan) == ([], False)
        folder.root.with_name("elsewhere").rename(folder.root)


def test_symbolic_links_out_of_the_folder_are_skipped(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    with changing() as folder:
        folder.write("d/a.txt", "x")
        for name, target in {
            "file.txt": outside / "secret.txt",
            "folder": outside,
            "d/up": outside,
            "inside": folder.root / "d",
        }.items():
            (folder.root / name).symlink_to(target)
            folder.unreported.append(folder.root / name)
        # The system follows links, too, and reports events from there.
        folder.unreported += [
            folder.root / "folder" / "secret.txt",
            folder.root / "folder" / "gone.txt",
        ]
        folder.end()
        folder.scan()
        folder.work()
        ids = {str(Path(doc_id).relative_to(folder.root)) for doc_id in folder.index.contents}
        assert ids == {"d/a.txt", "inside/a.txt"}
        assert "secret" not in folder.index.contents.values()
        assert str(folder.root / "folder" / "gone.txt") not in folder.index.versions
