"""Messages on this machine: in Maildirs, one file each, and in mboxes, one after the other.

Everything here blocks: call it in a thread. Nothing is locked or changed, so whatever may be
written meanwhile is looked at twice.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import BinaryIO, Final, NamedTuple

from ingestq.client.regular_file import regular_only, regular_within
from ingestq.core.errors import DocumentRejected, RemoteUnavailable, SourceChanged, UsageError

MAILDIR_PARTS: Final = ("new", "cur")
"""In the order in which they are read: messages only ever move from the first to the second."""
UNREAD: Final = frozenset({"new", "cur", "tmp"})
MAX_FOLDERS: Final = 10_000
MAX_DEPTH: Final = 32
LISTINGS: Final = 5
"""How often a folder of a Maildir is listed before it counts as too busy."""
BLOCK_BYTES: Final = 1024 * 1024
HEAD_BYTES: Final = 64 * 1024
"""Of the headers of a message, in which its Message-ID is looked for."""
FROM_LINE: Final = re.compile(
    rb"(?<=\n)From [^\r\n]{0,200}\d\d:\d\d[^\r\n]{0,100}\r?\n(?=[!-9;-~]{1,80}:)"
)
"""The line before a message, as `worker.text.formats.mbox` knows it."""
FROM_LINE_BYTES: Final = 512
"""More than the longest of them, with the name of a header after it."""
QUOTED: Final = re.compile(rb"^>(>*From )", re.MULTILINE)
HEAD_END: Final = re.compile(rb"\n\r?\n")
MESSAGE_ID: Final = re.compile(
    rb"^message-id:[ \t]*(?:\r?\n[ \t]+)?<?([!-;=?-~]{1,200})>?[ \t]*\r?$",
    re.IGNORECASE | re.MULTILINE,
)
STATUS: Final = re.compile(
    rb"^(?:status|x-status|x-keywords|x-mozilla-[a-z0-9]+|x-uid|x-imapbase|content-length|lines):"
    rb"[^\n]*\n(?:[ \t][^\n]*\n)*",
    re.IGNORECASE | re.MULTILINE,
)
"""Headers in which mail programs keep flags. They write them at any time, and the message is the
same."""
DIGEST_BYTES: Final = 16
MAX_INDEXES: Final = 4
"""Mboxes of which a worker remembers where each message is, in some 200 bytes a message."""
NO_READ: Final = "Nothing was deleted from the index"
GONE: Final = "the message is gone from the mailbox"
CHANGED: Final = "the mailbox was changed while it was read"


class LocalMessage(NamedTuple):
    """A message: its name in the mailbox, its size in bytes, and what tells its state."""

    name: str
    size: int
    tag: str


def maildir_folders(root: Path) -> list[tuple[str, Path]]:
    """Return the Maildir at ``root`` and those below it, by their paths relative to that.

    Raises UsageError if there is none, or one may not be read, and RemoteUnavailable if a folder is
    moved or deleted meanwhile: then others may have been missed.
    """
    found: list[tuple[str, Path]] = []
    pending = [("", root)]
    while pending:
        name, folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                below = {one.name for one in entries if one.is_dir(follow_symlinks=False)}
        except OSError as error:
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                if name:
                    raise RemoteUnavailable(
                        f"{root}: {CHANGED}; list it again. {NO_READ}"
                    ) from error
                break
            raise UsageError(f"{folder} cannot be read: {error.strerror}. {NO_READ}") from error
        if below.issuperset(MAILDIR_PARTS):
            found.append((name, folder))
        if len(found) > MAX_FOLDERS or name.count("/") >= MAX_DEPTH:
            raise UsageError(f"{root} has more than {MAX_FOLDERS:,} folders, or too deep ones")
        pending += [(f"{name}/{one}".lstrip("/"), folder / one) for one in below - UNREAD]
    if not found:
        raise UsageError(
            f"{root} is no Maildir: it has no folders cur and new; check the path, and whether it "
            f"is mounted. {NO_READ}"
        )
    return sorted(found)


def maildir_messages(folder: Path) -> list[LocalMessage]:
    """Return the messages of a Maildir, without those that are marked as deleted.

    Raises RemoteUnavailable if it changes all the time, and UsageError if it may not be read.
    """
    try:
        for _ in range(LISTINGS):
            before = _times(folder)
            messages = {
                name: LocalMessage(name, status.st_size, str(status.st_mtime_ns))
                for name, status in _files(folder)
            }
            if _times(folder) == before:
                return [messages[name] for name in sorted(messages)]
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror}. {NO_READ}") from error
    raise RemoteUnavailable(f"{folder} is changed all the time; try again later")


def _times(folder: Path) -> tuple[int, ...]:
    return tuple((folder / part).stat().st_mtime_ns for part in MAILDIR_PARTS)


def _files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    for part in MAILDIR_PARTS:
        with os.scandir(folder / part) as entries:
            for entry in entries:
                name, _, flags = entry.name.partition(":")
                if not name or name.startswith(".") or "T" in flags.rpartition(",")[2]:
                    continue
                try:
                    if entry.is_file(follow_symlinks=False):
                        yield name, entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # its flags have changed, so that the folder is listed again


class Maildirs:
    """Finds messages in Maildirs, whose files have other names whenever flags change."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._names: dict[Path, Mapping[str, str]] = {}

    def open(self, folder: Path, name: str) -> BinaryIO:
        """Open the message called ``name``. Raises DocumentRejected if it is gone."""
        file = self._opened(folder, name, self._names.get(folder, {}))
        if file is None:
            with self._lock:  # one listing serves all that wait for it
                names = self._names.get(folder, {})
                file = self._opened(folder, name, names)
                if file is None:
                    self._names.pop(folder, None)
                    if len(self._names) >= MAX_INDEXES:
                        self._names.pop(next(iter(self._names)))
                    names = self._names[folder] = self._listed(folder)
                    file = self._opened(folder, name, names)
        if file is None:
            raise DocumentRejected(GONE)
        return file

    @staticmethod
    def _opened(folder: Path, name: str, names: Mapping[str, str]) -> BinaryIO | None:
        if name not in names:
            return None
        try:
            return open(folder / names[name], "rb", opener=regular_within(folder))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DocumentRejected(f"cannot be read: {error.strerror}") from error

    @staticmethod
    def _listed(folder: Path) -> Mapping[str, str]:
        try:
            return {
                one.partition(":")[0]: f"{part}/{one}"
                for part in MAILDIR_PARTS
                for one in os.listdir(folder / part)
            }
        except FileNotFoundError as error:
            raise DocumentRejected("the mailbox is gone, or the worker cannot see it") from error
        except OSError as error:
            raise DocumentRejected(f"the mailbox cannot be read: {error.strerror}") from error


class MboxMessage(NamedTuple):
    """A message of an mbox: its name, where it begins and ends, and a digest of it."""

    name: str
    start: int
    end: int
    digest: str


def mbox_messages(path: Path) -> Iterator[MboxMessage]:
    """Yield the messages of the mbox at ``path`` as it is now; what is appended meanwhile is not.

    Raises UsageError if there is none, it may not be read, or is none; RemoteUnavailable at the end
    if it was written meanwhile, unless messages were appended.
    """
    try:
        with open(path, "rb", opener=regular_only) as file:
            before = os.fstat(file.fileno())
            yield from _named(_spans(file, before.st_size, path), file)
            _check_same(path, file, before)
    except FileNotFoundError as error:
        raise UsageError(
            f"{path}: there is no such mbox; check the path, and whether it is mounted. {NO_READ}"
        ) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}. {NO_READ}") from error


def _check_same(path: Path, file: BinaryIO, before: os.stat_result) -> None:
    now = path.stat()
    if _written(now) == _written(before):
        return
    is_same_file = (now.st_ino, now.st_dev) == (before.st_ino, before.st_dev)
    file.seek(max(before.st_size - 1, 0))
    added = file.read(FROM_LINE_BYTES)[1:]
    is_appended = FROM_LINE.match(b"\n" + added.lstrip(b"\r\n"), 1) is not None
    if not (is_same_file and now.st_size > before.st_size > 0 and is_appended):
        raise RemoteUnavailable(f"{path}: {CHANGED}; list it again. {NO_READ}")


def _written(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_dev, status.st_size, status.st_mtime_ns


def _spans(file: BinaryIO, size: int, path: Path) -> Iterator[tuple[int, int]]:
    """Yield where each message of ``file`` begins and ends, up to ``size``."""
    data, offset, begin = b"\n", -1, None  # `data` begins at `offset`, a byte before what is new
    at = 0
    while at < size:
        file.seek(at)
        block = file.read(min(BLOCK_BYTES, size - at))
        if not block:
            raise RemoteUnavailable(f"{path}: {CHANGED}; list it again. {NO_READ}")
        at += len(block)
        data += block
        last = len(data) if at >= size else len(data) - FROM_LINE_BYTES
        searched = 0
        for found in FROM_LINE.finditer(data):
            if found.start() >= last:
                break
            if begin is not None:
                yield begin, offset + found.start()
            elif offset + found.start() > 0:
                break  # what is before the first message is none
            begin = offset + found.end()
            searched = found.end() - 1
        if begin is None:
            raise UsageError(
                f"{path} is no mbox: it does not begin with a line “From …”. {NO_READ}"
            )
        kept = max(searched, last - 1, 0)
        data, offset = data[kept:], offset + kept
    if begin is not None:
        yield begin, size


def _named(spans: Iterator[tuple[int, int]], file: BinaryIO) -> Iterator[MboxMessage]:
    """Yield the messages with their names: the Message-ID, or else the digest of the message."""
    known: Counter[str] = Counter()
    for start, end in spans:
        digest, head = _digest(file, start, end)
        found = MESSAGE_ID.search(head)
        name = found[1].decode("ascii") if found is not None else digest
        known[name] += 1
        several = known[name]
        yield MboxMessage(name if several == 1 else f"{name};{several}", start, end, digest)


def _digest(file: BinaryIO, start: int, end: int) -> tuple[str, bytes]:
    """Return the digest of the message at ``start``, without flags, and its headers."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    head = b""
    for number, block in enumerate(_blocks(file, start, end)):
        part = block
        if not number:
            if part[:1] in b"\r\n":
                after = 0
            else:
                found = HEAD_END.search(part, 0, HEAD_BYTES)
                after = found.start() + 1 if found is not None else min(len(part), HEAD_BYTES)
            head = part[:after]
            digest.update(STATUS.sub(b"", head))
            part = part[after:]
        digest.update(part)
    return digest.hexdigest(), head


def _blocks(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    """Yield a message, without the empty lines that separate it from the next."""
    at, held = start, b""
    while at < end:
        file.seek(at)
        block = file.read(min(BLOCK_BYTES, end - at))
        if not block:
            return
        at += len(block)
        block = held + block
        text = block.rstrip(b"\r\n")
        held = block[len(text) :]
        if text:
            yield text


@dataclass(frozen=True)
class _Index:
    written: tuple[int, ...]
    messages: dict[str, tuple[int, int, str]] = field(default_factory=dict)


class Mboxes:
    """Finds messages in mboxes. Each mbox is read once, and again when it has changed."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._indexes: dict[Path, _Index] = {}

    def blocks(self, path: Path, name: str) -> Iterator[tuple[int, str, bytes]]:
        """Yield the message called ``name``, block by block, each with its size and digest.

        Raises DocumentRejected if it is gone or cannot be read, and SourceChanged if the mbox is
        written meanwhile.
        """
        try:
            with open(path, "rb", opener=regular_only) as file:
                start, end, digest = self._found(path, name, file)
                if _digest(file, start, end)[0] != digest:
                    self._forget(path)
                    raise SourceChanged(CHANGED)
                for block in _unquoted(_blocks(file, start, end)):
                    yield end - start, digest, block
                if _digest(file, start, end)[0] != digest:
                    raise SourceChanged(CHANGED)
        except FileNotFoundError as error:
            raise DocumentRejected("the mailbox is gone, or the worker cannot see it") from error
        except OSError as error:
            raise DocumentRejected(f"the mailbox cannot be read: {error.strerror}") from error

    def _found(self, path: Path, name: str, file: BinaryIO) -> tuple[int, int, str]:
        with self._lock:  # one reading serves all that wait for it
            written = _written(os.fstat(file.fileno()))
            index = self._indexes.get(path)
            if index is None or index.written != written:
                index = _Index(written)
                try:
                    for one in _named(_spans(file, written[2], path), file):
                        index.messages[one.name] = (one.start, one.end, one.digest)
                except RemoteUnavailable as error:
                    raise SourceChanged(CHANGED) from error
                except UsageError as error:
                    raise DocumentRejected(str(error)) from error
                self._indexes.pop(path, None)
                if len(self._indexes) >= MAX_INDEXES:
                    self._indexes.pop(next(iter(self._indexes)))
                self._indexes[path] = index
        found = index.messages.get(name)
        if found is None:
            raise DocumentRejected(GONE)
        return found

    def _forget(self, path: Path) -> None:
        with self._lock:
            self._indexes.pop(path, None)


def _unquoted(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield ``blocks`` with lines as they were written, before “From” at their start was quoted."""
    held = b""
    for block in blocks:
        data = held + block
        cut = data.rfind(b"\n") + 1 or len(data)
        yield QUOTED.sub(rb"\1", data[:cut])
        held = data[cut:]
    yield QUOTED.sub(rb"\1", held) + b"\n"
