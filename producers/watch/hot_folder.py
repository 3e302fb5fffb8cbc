"""Hot folders: files are queued, then moved to where they show what became of them."""

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
from producers.watch.decisions import ClassifiedFiles, FileClassifier
from producers.watch.folder import DONE, FAILED, WatchedFolder, read_sidecar, sidecar_of
from producers.watch.settling import FileState

ERROR_SUFFIX: Final = ".error.txt"


@dataclass(frozen=True)
class TakenFile:
    """A file that is on the queue, in the state in which it was found."""

    path: Path
    state: FileState
    document: Document


def is_as_taken(taken: TakenFile, folder: WatchedFolder) -> bool:
    """Whether the file, and what is said of it beside it, are what was queued.

    Raises FileNotFoundError if it is gone.
    """
    if FileState.of(taken.path.stat()) != taken.state:
        return False
    try:
        metadata = {**folder.metadata, **read_sidecar(taken.path)}
    except ValueError:
        return False
    return metadata == taken.document.metadata


def move(taken: TakenFile, folder: WatchedFolder, reason: str | None) -> None:
    """Move a file to ``done``, or if there is a ``reason`` to ``failed``, with its sidecar.

    It keeps its path relative to the folder; if there is one of that name, it gets a number.
    Raises OSError if it cannot be moved: then it is where it was.
    """
    place = folder.path / (DONE if reason is None else FAILED)
    relative = taken.path.relative_to(folder.path)
    parent = place / relative.parent
    parent.mkdir(parents=True, exist_ok=True)
    target = _reserve(parent, relative.name)
    error = target.with_name(target.name + ERROR_SUFFIX)
    try:
        if reason is not None:
            error.write_text(reason + "\n", encoding="utf-8")
        taken.path.replace(target)
    except OSError:
        target.unlink()
        error.unlink(missing_ok=True)
        raise
    sidecar = sidecar_of(taken.path)
    if sidecar.is_file():
        sidecar.replace(sidecar_of(target))


def _reserve(folder: Path, name: str) -> Path:
    """A file that did not exist, and does now: nobody else takes its name."""
    for path in _numbered(folder / name):
        others = (sidecar_of(path), path.with_name(path.name + ERROR_SUFFIX))
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


log = structlog.get_logger()

MOST_GROUPS: Final = 16
"""Groups of files that are on the queue at once; each is what was found together, up to 256."""
POLL_SECONDS: Final = 0.2
"""How often it is asked what became of them."""


@dataclass(frozen=True)
class _Group:
    """Files that were queued together."""

    submission: str
    files: Sequence[TakenFile]


@dataclass(frozen=True)
class _Stayed:
    """Files that were not moved: those that became others meanwhile; and the ids of those that were
    rejected, and are gone."""

    changed: list[Path] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)


class HotFolder:
    """Takes the files of one hot folder.

    ``keep_an_eye_on`` is told of files that are still being written, ``take_again`` of those that
    became others while they were on the queue.
    """

    def __init__(
        self,
        folder: WatchedFolder,
        client: IngestClient,
        dead_letters: DeadLetters,
        looker: FileClassifier,
        keep_an_eye_on: Callable[[Mapping[Path, FileState]], None],
        take_again: Callable[[Path], None],
    ) -> None:
        self._folder = folder
        self._client = client
        self._dead_letters = dead_letters
        self._looker = looker
        self._keep_an_eye_on = keep_an_eye_on
        self._take_again = take_again
        self._under_way: set[Path] = set()
        self._groups: list[_Group] = []
        self._room = asyncio.Semaphore(MOST_GROUPS)

    async def scan(self) -> None:
        """Take every file of the folder that is not taken yet; nothing is decided about others."""
        await retry_until_redis_answers(self._take_all)

    async def take(self, looked: ClassifiedFiles, lane: Lane) -> int:
        """Put files on the queue; how many. Waits while too many groups are there.

        Raises BrokerUnavailable: then they may be on the queue, and are to be looked at again.
        """
        found = [
            TakenFile(path, looked.states[document.doc_id], document)
            for document in looked.documents.values()
            if document.path is not None
            and (path := text_to_path(document.path)) not in self._under_way
        ]
        paths = {taken.path for taken in found}
        self._under_way |= paths  # before anything is awaited: scans and events may find the same
        queued: Sequence[TakenFile] = ()
        try:
            # Some may have been moved since they were looked at.
            there = await asyncio.to_thread(_existing, found)
            queued = await self._queue(there, lane) if there else ()
        finally:
            self._under_way -= paths - {taken.path for taken in queued}
        return len(queued)

    async def run(self) -> None:
        """Move the files that were taken, until it is cancelled."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            for group in list(self._groups):
                if await retry_until_redis_answers(partial(self._has_ended, group)):
                    self._groups.remove(group)
                    self._room.release()

    async def _take_all(self) -> None:
        taken = 0
        async for looked in self._looker.scan(self._client.now, ScanRecord()):
            self._keep_an_eye_on(looked.changing)
            taken += await self.take(looked, Lane.BULK)
        log.info(events.DROP_SCANNED, folder=str(self._folder.path), documents=taken)

    async def _queue(self, found: Sequence[TakenFile], lane: Lane) -> Sequence[TakenFile]:
        """Put files on the queue, as one group; answers those that could be."""
        submission = new_submission()
        refused: set[str] = set()

        def leave_out(failed: FailedDocument) -> None:
            refused.add(failed.doc_id)
            self._looker.notices.left_out(failed.doc_id, failed.reason)

        await self._room.acquire()
        try:
            await self._client.submit_many(
                [taken.document for taken in found],
                submission=submission,
                on_failed=leave_out,
                lane=lane,
            )
        except BaseException:
            self._room.release()
            raise
        queued = [taken for taken in found if taken.document.doc_id not in refused]
        self._groups.append(_Group(submission, queued))
        return queued

    async def _has_ended(self, group: _Group) -> bool:
        """Whether it is known what became of a group; then its files are moved.

        Or it will never be known, as Redis lost its data: the next scan takes them again.
        """
        status = await self._client.status(group.submission)
        if not status.complete:
            return False
        failed = await self._client.failed_documents(group.submission)
        is_known = (status.accepted, status.documents.rejected) == (len(group.files), len(failed))
        stayed = _Stayed()
        if is_known:
            reasons = {document.doc_id: document.reason for document in failed}
            stayed = await asyncio.to_thread(self._move_all, group.files, reasons)
        self._under_way.difference_update(taken.path for taken in group.files)
        for path in stayed.changed:
            self._take_again(path)
        await retry_until_redis_answers(partial(self._forget, stayed.gone))
        return True

    async def _forget(self, doc_ids: Sequence[str]) -> None:
        """Purge the dead letters about files that are gone: nobody has to look at them."""
        for doc_id in doc_ids:
            stored = await self._dead_letters.find_for_document(
                self._folder.collection, self._folder.tenant, doc_id
            )
            if stored is not None:
                await self._dead_letters.purge([stored])

    def _move_all(self, taken: Sequence[TakenFile], reasons: Mapping[str, str]) -> _Stayed:
        """Move files, as far as they are there and as they were. Blocks."""
        stayed, moved = _Stayed(), {True: 0, False: 0}
        for one in taken:
            reason = reasons.get(one.document.doc_id)
            try:
                if not is_as_taken(one, self._folder):
                    stayed.changed.append(one.path)
                    continue
                move(one, self._folder, reason)
            except FileNotFoundError:  # somebody else took it away
                if reason is not None:
                    stayed.gone.append(one.document.doc_id)
                continue
            except OSError as error:
                why = f"cannot be moved: {error.strerror}"
                self._looker.notices.left_out(one.document.doc_id, why)
                continue
            moved[reason is None] += 1
        done, failed = moved[True], moved[False]
        log.info(events.DROP_HANDED_OVER, folder=str(self._folder.path), done=done, failed=failed)
        return stayed


def _existing(found: Sequence[TakenFile]) -> list[TakenFile]:
    return [taken for taken in found if taken.path.exists()]
