"""Hot folders: queue each file, then move it to ``done`` or ``failed``."""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

import structlog

from ingestq.broker.connection import retry_until_redis_answers
from ingestq.broker.queue.dead_letters import DeadLetters
from ingestq.client.client import IngestClient, new_submission
from ingestq.core import events
from ingestq.core.documents import Document, Lane
from ingestq.core.paths import text_to_path
from ingestq.core.results import FailedDocument
from producers.files.walk import ScanRecord
from producers.watch.classifier import ClassifiedFiles, FileClassifier
from producers.watch.folder import DONE, FAILED, WatchedFolder, read_sidecar, sidecar_path
from producers.watch.settling import FileState

log = structlog.get_logger()

ERROR_SUFFIX: Final = ".error.txt"
MAX_GROUPS: Final = 16
"""Groups of files on the queue at once; a group is what was found together, up to 256 files."""
POLL_SECONDS: Final = 0.2
"""Time between two checks of the groups on the queue."""


@dataclass(frozen=True)
class QueuedFile:
    """A file whose document is on the queue, and the state in which it was found."""

    path: Path
    state: FileState
    document: Document


@dataclass(frozen=True)
class _Group:
    """Files that were queued together, as one submission."""

    submission: str
    files: Sequence[QueuedFile]


@dataclass(frozen=True)
class _Unmoved:
    """Files that were not moved: paths that changed meanwhile, and the ids of rejected documents
    whose file is gone."""

    changed: list[Path] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)


class HotFolder:
    """Queues the files of one hot folder, and moves them once their outcome is known.

    ``on_unsettled`` receives the files that are still being written, ``on_changed`` each file that
    changed while it was on the queue.
    """

    def __init__(
        self,
        folder: WatchedFolder,
        client: IngestClient,
        dead_letters: DeadLetters,
        classifier: FileClassifier,
        on_unsettled: Callable[[Mapping[Path, FileState]], None],
        on_changed: Callable[[Path], None],
    ) -> None:
        self._folder = folder
        self._client = client
        self._dead_letters = dead_letters
        self._classifier = classifier
        self._on_unsettled = on_unsettled
        self._on_changed = on_changed
        self._in_work: set[Path] = set()
        self._groups: list[_Group] = []
        self._permits = asyncio.Semaphore(MAX_GROUPS)

    async def scan(self) -> None:
        """Queue every file of the folder that is not on the queue; delete nothing."""
        await retry_until_redis_answers(self._queue_all)

    async def queue(self, classified: ClassifiedFiles, lane: Lane) -> int:
        """Queue the classified files, and return how many. Waits while there are `MAX_GROUPS`.

        Raises BrokerUnavailable: then they may be on the queue, and must be classified again.
        """
        found = [
            QueuedFile(path, classified.states[document.doc_id], document)
            for document in classified.documents.values()
            if document.path is not None
            and (path := text_to_path(document.path)) not in self._in_work
        ]
        paths = {file.path for file in found}
        self._in_work |= paths  # before the first await: scans and events may find the same file
        queued: Sequence[QueuedFile] = ()
        try:
            # Some may have been moved since they were classified.
            existing = await asyncio.to_thread(_existing, found)
            queued = await self._submit(existing, lane) if existing else ()
        finally:
            self._in_work -= paths - {file.path for file in queued}
        return len(queued)

    async def run(self) -> None:
        """Move the files whose outcome is known, until cancelled."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            for group in list(self._groups):
                if await retry_until_redis_answers(partial(self._finish_if_complete, group)):
                    self._groups.remove(group)
                    self._permits.release()

    async def _queue_all(self) -> None:
        queued = 0
        async for classified in self._classifier.scan(self._client.now, ScanRecord()):
            self._on_unsettled(classified.unsettled)
            queued += await self.queue(classified, Lane.BULK)
        log.info(events.DROP_SCANNED, folder=str(self._folder.path), documents=queued)

    async def _submit(self, files: Sequence[QueuedFile], lane: Lane) -> Sequence[QueuedFile]:
        """Submit files as one group; return those that were accepted."""
        submission = new_submission()
        refused: set[str] = set()

        def skip(failed: FailedDocument) -> None:
            refused.add(failed.doc_id)
            self._classifier.skipped.add(failed.doc_id, failed.reason)

        await self._permits.acquire()
        try:
            await self._client.submit_many(
                [file.document for file in files],
                submission=submission,
                on_failed=skip,
                lane=lane,
            )
        except BaseException:
            self._permits.release()
            raise
        queued = [file for file in files if file.document.doc_id not in refused]
        self._groups.append(_Group(submission, queued))
        return queued

    async def _finish_if_complete(self, group: _Group) -> bool:
        """Move the files of a group if all of it is finished; return whether it is.

        If Redis lost the outcome, the files stay and the next scan queues them again.
        """
        status = await self._client.status(group.submission)
        if not status.complete:
            return False
        failed = await self._client.failed_documents(group.submission)
        is_known = (status.accepted, status.documents.rejected) == (len(group.files), len(failed))
        unmoved = _Unmoved()
        if is_known:
            reasons = {document.doc_id: document.reason for document in failed}
            unmoved = await asyncio.to_thread(self._move_all, group.files, reasons)
        self._in_work.difference_update(file.path for file in group.files)
        for path in unmoved.changed:
            self._on_changed(path)
        await retry_until_redis_answers(partial(self._purge, unmoved.gone))
        return True

    async def _purge(self, doc_ids: Sequence[str]) -> None:
        """Purge the dead letters of documents whose file is gone: nobody can fix them."""
        for doc_id in doc_ids:
            stored = await self._dead_letters.find_for_document(
                self._folder.collection, self._folder.tenant, doc_id
            )
            if stored is not None:
                await self._dead_letters.purge([stored])

    def _move_all(self, files: Sequence[QueuedFile], reasons: Mapping[str, str]) -> _Unmoved:
        """Move the files that are there and unchanged. Blocks."""
        unmoved, moved = _Unmoved(), {True: 0, False: 0}
        for file in files:
            reason = reasons.get(file.document.doc_id)
            try:
                if not is_unchanged(file, self._folder):
                    unmoved.changed.append(file.path)
                    continue
                move(file, self._folder, reason)
            except FileNotFoundError:  # another program took it away
                if reason is not None:
                    unmoved.gone.append(file.document.doc_id)
                continue
            except OSError as error:
                why = f"cannot be moved: {error.strerror}"
                self._classifier.skipped.add(file.document.doc_id, why)
                continue
            moved[reason is None] += 1
        done, failed = moved[True], moved[False]
        log.info(events.DROP_HANDED_OVER, folder=str(self._folder.path), done=done, failed=failed)
        return unmoved


def is_unchanged(file: QueuedFile, folder: WatchedFolder) -> bool:
    """Return whether a file and its sidecar are still those that were queued.

    Raises FileNotFoundError if the file is gone.
    """
    if FileState.of(file.path.stat()) != file.state:
        return False
    try:
        metadata = {**folder.metadata, **read_sidecar(file.path)}
    except ValueError:
        return False
    return metadata == file.document.metadata


def move(file: QueuedFile, folder: WatchedFolder, reason: str | None) -> None:
    """Move a file and its sidecar to ``done``, or to ``failed`` if there is a ``reason``.

    The file keeps its path relative to the folder; if that name is taken, it gets a number. The
    reason is written beside it. Raises OSError if it cannot be moved: then it stays where it is.
    """
    place = folder.path / (DONE if reason is None else FAILED)
    relative = file.path.relative_to(folder.path)
    parent = place / relative.parent
    parent.mkdir(parents=True, exist_ok=True)
    target = _reserve(parent, relative.name)
    error = target.with_name(target.name + ERROR_SUFFIX)
    try:
        if reason is not None:
            error.write_text(reason + "\n", encoding="utf-8")
        file.path.replace(target)
    except OSError:
        target.unlink()
        error.unlink(missing_ok=True)
        raise
    sidecar = sidecar_path(file.path)
    if sidecar.is_file():
        sidecar.replace(sidecar_path(target))


def _reserve(folder: Path, name: str) -> Path:
    """Create an empty file under a free name, so that no other program takes it; return its path.

    A name is free if there is no file, sidecar or error text of that name.
    """
    for path in _numbered(folder / name):
        others = (sidecar_path(path), path.with_name(path.name + ERROR_SUFFIX))
        if any(map(os.path.lexists, others)):
            continue
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            continue
        return path
    raise AssertionError("numbers do not end")


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    for number in count(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def _existing(files: Sequence[QueuedFile]) -> list[QueuedFile]:
    return [file for file in files if file.path.exists()]
