"""The classifier's decisions end equal to the folder, in whatever order events arrive."""

import asyncio
import os
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestq.core.documents import Deletion, Document, SeenDocuments
from ingestq.core.paths import folders_of
from producers.files.links import Links, real_path
from producers.files.off_limits import KERNEL_ONLY
from producers.files.walk import FoundFile, ScanRecord, walk
from producers.watch import classifier as classifier_module
from producers.watch.classifier import ClassifiedFiles, FileClassifier
from producers.watch.folder import Presence, WatchedFolder
from producers.watch.settling import SettledChange, SettlingPaths
from tests.examples import few_or_many
from tests.mounts import Mounts

FILES = ("a.txt", "b.txt", "a.txt.part", "d/a.txt", "d/b.txt", "d/e/a.txt", "f/a.txt")
FOLDERS = ("d", "d/e", "f", "f/e", "g")

LINKS = ("0", "l.txt", "d/l.txt", "d/z")
TARGETS = (*FILES, *FOLDERS, *LINKS, ".h", ".h/a.txt", ".", "..", "none")


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
            if isinstance(job, Document) and os.path.isfile(job.path or ""):  # noqa: PTH113
                self.contents[job.doc_id] = Path(job.path or "").read_text(encoding="utf-8")
        self.jobs.clear()


@dataclass
class ChangingFolder:
    """A folder that changes, and the decisions that a classifier makes about it."""

    root: Path
    rng: random.Random
    index: Index = field(default_factory=Index)
    now: float = 0.0
    unreported: list[tuple[Path, bool]] = field(default_factory=list)
    version: int = 0
    needs_scan: bool = False

    def __post_init__(self) -> None:
        self.classifier = FileClassifier(
            WatchedFolder(self.root), Presence(self.root), settle_seconds=0
        )
        self.settling = SettlingPaths(1.0)

    def happened(self, *paths: Path, removed: bool = False) -> None:
        self.unreported += [(self._reported(path), removed) for path in paths]

    def _reported(self, path: Path) -> Path:
        """Return the path in an event: that of a link, if the system came there by one."""
        links = self.classifier.links_seen  # the watch was opened before the scan
        behind = [
            link for link in sorted(links) if link.is_symlink() and real_path(link) == path.parent
        ]
        return self.rng.choice([path, *(link / path.name for link in behind)])

    def write(self, name: str, content: str) -> None:
        path = self.root / name
        missing = [parent for parent in path.parents if not parent.exists()]
        if path.is_dir() or not self._has_room(path):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            self.remove(name)
        path.write_text(content)
        self.happened(*missing, path)

    def remove(self, name: str) -> None:
        path = self.root / name
        if path.is_symlink() or path.is_file():
            path.unlink()
            self.happened(path, removed=True)

    def link(self, name: str, target: str) -> None:
        path = self.root / name
        if path.parent.is_dir() and (path.is_symlink() or not path.is_dir()):
            self.remove(name)
            path.symlink_to(self.root / target)
            self.happened(path)

    def replace_by_folder(self, name: str) -> None:
        path = self.root / name
        if path.is_file() and not path.is_symlink():
            self.remove(name)
            path.mkdir()
            (path / "a.txt").write_text("in a folder")
            self.happened(path)

    def replace_by_file(self, name: str) -> None:
        path = self.root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
            path.write_text("instead of a folder")
            self.happened(path, removed=True)
            self.happened(path)

    def move(self, old: str, new: str) -> None:
        """Move a file or folder; the system reports no events for the contents of a folder."""
        here, there = self.root / old, self.root / new
        possible = os.path.lexists(here) and there.parent.is_dir() and not os.path.lexists(there)
        if possible and not there.parent.resolve().is_relative_to(here):
            here.rename(there)
            self.happened(here, removed=True)
            self.happened(there)

    def _has_room(self, path: Path) -> bool:
        return all(parent.is_dir() for parent in path.parents if os.path.lexists(parent))

    def report_some(self) -> None:
        """Report some events now; the rest later, and some of them once more."""
        self.rng.shuffle(self.unreported)
        reported = self.unreported[: self.rng.randint(0, len(self.unreported))]
        for path, removed in reported:
            self.settling.touch(path, self.now, removed=removed)
        del self.unreported[: len(reported) // 2]

    def report(self) -> None:
        """Report all events."""
        self.rng.shuffle(self.unreported)
        for path, removed in self.unreported:
            self.settling.touch(path, self.now, removed=removed)
        self.unreported.clear()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.version += 1
        self._apply(self.classifier.classify(self.settling.due(self.now), self.version))

    def scan(self) -> None:
        self.needs_scan = False
        self.version += 1
        record = ScanRecord()
        for classified in asyncio.run(self._scan(record)):
            self._apply(classified)
        [sweep] = record.sweeps(allow_mass_delete=True)
        seen = SeenDocuments(sweep.seen)
        self.index.work(self.rng)
        for doc_id in self.index.contents:
            if not seen.may_hold(doc_id, folders_of(doc_id)):
                self.index.jobs.append(Deletion(doc_id=doc_id, version=self.version))

    async def _scan(self, record: ScanRecord) -> list[ClassifiedFiles]:
        async def clock() -> int:
            return self.version

        return [found async for found in self.classifier.scan(clock, record)]

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
        """Return what a scan of the folder finds, with the content."""
        skips = self.classifier.skips
        links = Links([self.root], skips, KERNEL_ONLY, may_leave=False)
        found = walk(self.classifier.root, skip=skips, links=links)
        return {e.doc_id: e.path.read_text() for e in found if isinstance(e, FoundFile)}


@contextmanager
def changing(seed: int = 0) -> Iterator[ChangingFolder]:
    with tempfile.TemporaryDirectory() as root:
        hidden = Path(root) / ".h" / "a.txt"
        hidden.parent.mkdir()
        hidden.write_text("hidden")
        yield ChangingFolder(Path(root), random.Random(seed))


STEPS = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(FILES), st.sampled_from(["x", "yy", "zzz"])),
    st.tuples(st.just("remove"), st.sampled_from(FILES)),
    st.tuples(st.just("move"), st.sampled_from(FILES), st.sampled_from(FILES)),
    st.tuples(st.just("move"), st.sampled_from(FOLDERS), st.sampled_from(FOLDERS)),
    st.tuples(
        st.just("link"), st.sampled_from((*FILES, *FOLDERS, *LINKS)), st.sampled_from(TARGETS)
    ),
    st.tuples(st.just("remove"), st.sampled_from(LINKS)),
    st.tuples(st.just("replace_by_folder"), st.sampled_from(FILES)),
    st.tuples(st.just("replace_by_file"), st.sampled_from(FOLDERS)),
    st.tuples(st.just("report_some")),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 1.0])),
    st.tuples(st.just("settle")),
    st.tuples(st.just("scan")),
    st.tuples(st.just("work")),
)


@few_or_many(100, 1000)
def test_the_decisions_end_equal_to_the_folder(examples: int) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(st.lists(STEPS, min_size=8, max_size=40), st.integers(0, 99))
    def end_equal(steps: Sequence[tuple[str, ...]], seed: int) -> None:
        with changing(seed) as folder:
            for name, *arguments in steps:
                getattr(folder, name)(*arguments)
            folder.end()
            assert folder.index.contents == folder.files()

    end_equal()


def test_files_of_a_moved_folder_are_deleted_when_another_takes_its_name() -> None:
    with changing() as folder:
        folder.write("d/a.txt", "x")
        folder.end()
        folder.move("d", "f")
        folder.write("d/b.txt", "x")
        folder.end()
        assert folder.index.contents == folder.files()


def test_a_link_follows_an_unfinished_file() -> None:
    with changing() as folder:
        folder.link("a.txt", "a.txt.part")
        folder.end()
        folder.write("a.txt.part", "x")
        folder.end()
        assert folder.index.contents == folder.files() != {}
        folder.remove("a.txt.part")
        folder.end()
        assert folder.index.contents == folder.files() == {}


def test_a_moved_folder_is_recognised_by_an_event_of_one_file() -> None:
    with changing() as folder:
        folder.write("d/e/a.txt", "x")
        folder.unreported = [(folder.root / "d" / "e" / "a.txt", False)]
        folder.end()
        folder.move("d", "g")
        folder.end()
        assert folder.index.contents == folder.files() != {}


def test_folders_that_are_gone_take_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deletion leads to a scan only while there are more folders than are remembered."""
    monkeypatch.setattr(classifier_module, "MAX_FOLDERS", 4)

    def deletion_needs_scan() -> bool:
        folder.write("a.txt", "x")
        folder.end()
        folder.scan()
        folder.remove("a.txt")
        folder.report()
        folder.wait(1.0)
        return folder.needs_scan

    with changing() as folder:
        for day in range(4):
            folder.write(f"{day}/e/a.txt", "x")
            folder.end()
            shutil.rmtree(folder.root / str(day))
            folder.happened(folder.root / str(day), removed=True)
            folder.end()
        assert not deletion_needs_scan()
        for name in "0123":
            folder.write(f"{name}/a.txt", "x")
        assert deletion_needs_scan()
        shutil.rmtree(folder.root / "0")
        folder.happened(folder.root / "0", removed=True)
        folder.end()
        assert not deletion_needs_scan()


def test_a_folder_that_came_during_a_scan_is_recognised_when_it_is_gone() -> None:
    with changing() as folder:
        folder.write("d/a.txt", "x")
        folder.end()

        async def clock() -> int:
            return folder.version

        async def scan() -> None:
            async for _ in folder.classifier.scan(clock, ScanRecord()):
                folder.write("b/e/a.txt", "x")  # the walk came through here
                folder.report()
                folder.wait(1.0)

        asyncio.run(scan())
        folder.needs_scan = False
        folder.move("b/e", "g")
        folder.settle()
        assert folder.needs_scan


def test_a_missing_folder_deletes_nothing() -> None:
    with changing() as folder:
        folder.write("a.txt", "x")
        folder.end()
        folder.root.rename(folder.root.with_name("elsewhere"))
        folder.happened(folder.root / "a.txt", removed=True)
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
            folder.happened(folder.root / name)
        # The system follows links, too, and reports events from there.
        folder.happened(folder.root / "folder" / "secret.txt", folder.root / "folder" / "gone.txt")
        folder.end()
        folder.scan()
        folder.work()
        ids = {str(Path(doc_id).relative_to(folder.root)) for doc_id in folder.index.contents}
        assert ids == {"d/a.txt"}
        assert "secret" not in folder.index.contents.values()
        assert str(folder.root / "folder" / "gone.txt") not in folder.index.versions


def test_a_scan_decides_about_a_file_of_an_unmounted_disk(tmp_path: Path, mounts: Mounts) -> None:
    disk = tmp_path / "disk"
    mounts.mount(disk)
    (disk / "a.txt").write_text("a")
    classifier = FileClassifier(WatchedFolder(tmp_path), Presence(tmp_path), settle_seconds=0)
    classifier.classify({disk / "a.txt": SettledChange()}, 1)
    mounts.unmount(disk)
    classified = classifier.classify({disk / "a.txt": SettledChange()}, 2)
    assert (classified.deletions, classified.needs_scan) == ([], True)
