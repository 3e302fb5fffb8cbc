"""Messages on IMAP servers: lists and reads them, and changes nothing, not even that they are new.

Everything here blocks: call it in a thread.
"""

import re
import ssl
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ingestq.core.errors import (
    DocumentRejected,
    IngestqError,
    RemoteUnavailable,
    UsageError,
    in_one_line,
)
from ingestq.core.mailboxes import (
    IMAPS,
    INBOX,
    WHERE_PASSWORDS_ARE,
    ImapAddress,
    ImapMessage,
    MailConfig,
    levels_below,
)
from ingestq.core.urls import without_secrets

if TYPE_CHECKING:
    from imap_tools import BaseMailBox

TIMEOUT_SECONDS: Final = 60.0
"""Of each read and write. Servers answer within a second, unless they open a large folder."""
PAGE_MESSAGES: Final = 5000
"""Messages whose sizes are asked for at once: some 300 KB."""
BLOCK_BYTES: Final = 4 * 1024 * 1024
"""What is asked for of a message at once; nearly all are smaller."""
MAX_IDLE: Final = 8
"""Connections that are kept open though nothing is being read. Servers allow some ten of a user."""
REFUSED_SECONDS: Final = 60.0
"""For so long an account that was refused is not tried again: servers lock out who goes on."""
NOTHING_DELETED: Final = "Nothing was deleted from the index"
GONE: Final = "the message is gone from the mailbox"
OTHER_UIDS: Final = (
    "the folder was made anew (it has another UIDVALIDITY), so its messages have other addresses; "
    "list it again"
)
TEMPORARY: Final = re.compile(
    r"\[(UNAVAILABLE|INUSE|LIMIT|SERVERBUG|CONTACTADMIN)\]|maximum number of connections",
    re.IGNORECASE,
)
"""What servers say that may be otherwise in a moment (RFC 5530)."""
NO_FOLDERS: Final = frozenset({"\\noselect", "\\nonexistent"})
"""Flags of names that only have folders below them."""
FETCHED_UID: Final = re.compile(rb"\bUID (\d+)")
FETCHED_SIZE: Final = re.compile(rb"\bRFC822\.SIZE (\d+)")
FETCHED_DELETED: Final = re.compile(rb"\bFLAGS \([^)]*\\Deleted\b", re.IGNORECASE)
FETCHED_EMPTY: Final = re.compile(rb'\bBODY\[\](?:<\d+>)? ""')


@dataclass(frozen=True)
class ListedFolder:
    """A folder and the messages in it: their UIDs, and their sizes in bytes."""

    levels: tuple[str, ...]
    uid_validity: int
    uids: "array[int]" = field(default_factory=lambda: array("L"))
    sizes: "array[int]" = field(default_factory=lambda: array("Q"))


class FetchedBlock(NamedTuple):
    """A part of a message, and the size of all of it in bytes, as the server tells it."""

    size: int
    data: bytes


def load() -> None:
    """Import the package for IMAP. Raises UsageError if it is missing."""
    try:
        import imap_tools  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"IMAP needs a package that is not installed: {error}; run: pip install 'ingestq[imap]'"
        ) from error


def check_folder(address: ImapAddress, config: MailConfig) -> None:
    """Raise UsageError if there is no such folder, or RemoteUnavailable; see `list_folder`."""
    with _translated(address), ImapConnection.opened(address, config) as connection:
        connection.folders(address)


def list_folder(
    address: ImapAddress, config: MailConfig, excludes: Callable[[str], bool] = lambda _: False
) -> Sequence[ListedFolder]:
    """Return the folder at ``address``, and all below it, with the messages in each.

    Folders of which ``excludes`` is true, by their part of the address below ``address``, are not
    opened. Messages that are marked as deleted count as gone. Raises UsageError if the folder does
    not exist or the server refuses access, also to a single folder, and RemoteUnavailable if it
    does not answer.
    """
    with _translated(address), ImapConnection.opened(address, config) as connection:
        listed = []
        for name, levels in connection.folders(address):
            below = levels_below(levels, address.levels)
            if not excludes(below):
                with _naming(address, below):
                    listed.append(connection.listed(name, levels))
        return listed


@contextmanager
def _naming(address: ImapAddress, below: str) -> Iterator[None]:
    """Say which folder it is that the server does not open."""
    from imap_tools import MailboxFolderSelectError

    try:
        yield
    except MailboxFolderSelectError as error:
        said = " ".join(one.decode("utf-8", "replace") for one in _texts(error.command_result[1]))
        said = without_secrets(said)[:200]
        place = f"{address}/{below}" if below else str(address)
        hint = f"; to index the others, exclude it, as {below + '/'!r}" if below else ""
        reason = f"{place}: the server does not open the folder ({said}){hint}. {NOTHING_DELETED}"
        raise (RemoteUnavailable if TEMPORARY.search(said) else UsageError)(reason) from error


class ImapConnection:
    """A connection to an account, logged in."""

    def __init__(self, mailbox: "BaseMailBox") -> None:
        self._mailbox = mailbox
        self._delimiter = ""
        self._selected = ""
        self._uid_validity = 0

    @classmethod
    @contextmanager
    def opened(cls, address: ImapAddress, config: MailConfig) -> Iterator["ImapConnection"]:
        """Yield a connection, which is closed afterwards."""
        connection = cls.to(address, config)
        try:
            yield connection
        finally:
            connection.close()

    @classmethod
    def to(cls, address: ImapAddress, config: MailConfig) -> "ImapConnection":
        """Connect to the account of ``address``, and log in."""
        load()
        from imap_tools import MailboxLoginError

        password = config.passwords.get(address.account)
        if password is None:
            raise UsageError(
                f"{address.root}: there is no password for {address.account}; {WHERE_PASSWORDS_ARE}"
            )
        mailbox = _connected(address, config)
        try:
            log_in = mailbox.login if password.isascii() else mailbox.login_utf8
            log_in(address.user, password, initial_folder=None)
        except (MailboxLoginError, mailbox.client.error) as error:
            _close(mailbox)
            if isinstance(error, mailbox.client.abort):
                raise
            raise _refused(address, error, password) from error
        except BaseException:
            _close(mailbox)
            raise
        return cls(mailbox)

    def close(self) -> None:
        """Log out."""
        _close(self._mailbox)

    def folders(self, address: ImapAddress) -> list[tuple[str, tuple[str, ...]]]:
        """Return the folder at ``address`` and all below it: the server's name, and the levels."""
        manager = self._mailbox.folder
        delimiter = self._hierarchy()
        wanted = (delimiter or "/").join(address.levels)
        found = manager.list("", wanted) if wanted else []
        if delimiter or not wanted:
            found += manager.list("", f"{wanted}{delimiter}*" if wanted else "*")
        names: dict[str, tuple[str, ...]] = {}
        is_there = False
        for one in found:
            name = INBOX if one.name.upper() == INBOX else one.name
            below = name.removeprefix(wanted)
            if not name.startswith(wanted) or (wanted and below and below[:1] != delimiter):
                continue  # "*" and "%" in a name are wildcards to the server
            is_there = True
            if NO_FOLDERS.isdisjoint(flag.lower() for flag in one.flags):
                rest = below.removeprefix(delimiter) if wanted else below
                parts = (rest.split(delimiter) if delimiter else [rest]) if rest else []
                names[name] = (*address.levels, *parts)
        if wanted and not is_there:
            raise UsageError(
                f"{address}: there is no such folder in the mailbox; check the name. "
                f"{NOTHING_DELETED}"
            )
        return list(names.items())

    def select(self, name: str) -> int:
        """Open the folder ``name`` for reading, and return how many messages are in it."""
        _, counts = self._mailbox.folder.set(name, readonly=True)
        self._selected = name
        _, validity = self._mailbox.client.response("UIDVALIDITY")
        if not validity or validity[-1] is None:
            raise UsageError(
                f"the server gives the folder {name!r} no UIDVALIDITY, so that nothing identifies "
                f"its messages. {NOTHING_DELETED}"
            )
        self._uid_validity = int(validity[-1])
        return int(counts[-1] or 0)

    def listed(self, name: str, levels: tuple[str, ...]) -> ListedFolder:
        """Return the folder ``name`` with all messages in it."""
        count = self.select(name)
        folder = ListedFolder(levels, self._uid_validity)
        # Message numbers stay as they are during FETCH, also if another program expunges some.
        for first in range(1, count + 1, PAGE_MESSAGES):
            numbers = f"{first}:{min(first + PAGE_MESSAGES - 1, count)}"
            status, answers = self._mailbox.client.fetch(numbers, "(UID RFC822.SIZE FLAGS)")
            _check(status, answers)
            for answer in answers:
                if not isinstance(answer, bytes) or FETCHED_DELETED.search(answer):
                    continue
                uid, size = FETCHED_UID.search(answer), FETCHED_SIZE.search(answer)
                if uid is not None and size is not None:
                    folder.uids.append(int(uid[1]))
                    folder.sizes.append(int(size[1]))
        return folder

    def blocks(self, message: ImapMessage) -> Iterator[FetchedBlock]:
        """Yield ``message`` block by block. Raises DocumentRejected if it is gone."""
        name = self._find(message)
        is_fresh = name is not None
        if name is not None:
            self.select(name)
        if self._uid_validity != message.uid_validity and not is_fresh:
            is_fresh = True  # the folder may have been made anew since it was opened
            self.select(self._selected)
        if self._uid_validity != message.uid_validity:
            raise DocumentRejected(OTHER_UIDS)
        start = 0
        while True:
            block = self._block(message.uid, start)
            if block is None and not start and not is_fresh:
                is_fresh = True  # the message may have arrived after the folder was opened
                self.select(self._selected)
                continue
            if block is None:
                raise DocumentRejected(GONE)
            yield block
            start += len(block.data)
            if len(block.data) < BLOCK_BYTES:
                return

    def _find(self, message: ImapMessage) -> str | None:
        """Return the server's name of the folder to open; None if it is open."""
        if not self._selected:
            self._delimiter = self._hierarchy()
        name = (self._delimiter or "/").join(message.folder.levels)
        return None if name == self._selected else name

    def _hierarchy(self) -> str:
        """Return what separates the levels of a folder's name; empty if there are none."""
        root = self._mailbox.folder.list("", "")
        return root[0].delim if root and root[0].delim != "NIL" else ""

    def _block(self, uid: int, start: int) -> FetchedBlock | None:
        """Return a block of a message; None if there is no such message."""
        wanted = f"(UID RFC822.SIZE BODY.PEEK[]<{start}.{BLOCK_BYTES}>)"
        status, answers = self._mailbox.client.uid("FETCH", str(uid), wanted)
        _check(status, answers)
        size, data = 0, None
        for answer in answers or ():
            head, body = answer if isinstance(answer, tuple) else (answer, None)
            if not isinstance(head, bytes):
                continue
            if (told := FETCHED_SIZE.search(head)) is not None:
                size = int(told[1])
            if body is not None and b"BODY[]" in head:
                data = body
            elif FETCHED_EMPTY.search(head):
                data = b""
        return None if data is None else FetchedBlock(size, data)


class ImapConnections:
    """Keeps connections open from one message to the next."""

    def __init__(self, config: MailConfig) -> None:
        self._config = config
        self._lock = Lock()
        self._idle: list[tuple[tuple[str, str], ImapConnection]] = []
        self._refused: dict[str, tuple[float, str]] = {}

    def blocks(self, message: ImapMessage) -> Iterator[FetchedBlock]:
        """Yield ``message`` block by block.

        Raises DocumentRejected if it is gone, or this process may not read it, and
        RemoteUnavailable if the server does not answer.
        """
        address = message.folder
        with _translated(address, is_document=True):
            connection = self._taken(address)
            is_used = connection is not None
            while True:
                if connection is None:
                    connection = self._opened(address)
                is_reading = False
                try:
                    for block in connection.blocks(message):
                        is_reading = True
                        yield block
                except BaseException as error:
                    connection.close()
                    # The server closes connections that nothing was read from for a while.
                    if not is_used or is_reading or not _is_lost(error):
                        raise
                    connection, is_used = None, False
                else:
                    self._put_back(address, connection)
                    return

    def close(self) -> None:
        """Close all connections that are not in use."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    def _taken(self, address: ImapAddress) -> ImapConnection | None:
        key = (address.scheme, address.account)
        with self._lock:
            for at in reversed(range(len(self._idle))):
                if self._idle[at][0] == key:
                    return self._idle.pop(at)[1]
        return None

    def _put_back(self, address: ImapAddress, connection: ImapConnection) -> None:
        with self._lock:
            self._idle.append(((address.scheme, address.account), connection))
            closing = self._idle.pop(0)[1] if len(self._idle) > MAX_IDLE else None
        if closing is not None:
            closing.close()

    def _opened(self, address: ImapAddress) -> ImapConnection:
        with self._lock:
            until, reason = self._refused.get(address.root, (0.0, ""))
        if time.monotonic() < until:
            raise UsageError(reason)
        try:
            with _translated(address):
                return ImapConnection.to(address, self._config)
        except UsageError as error:
            with self._lock:
                if len(self._refused) > MAX_IDLE:
                    self._refused.clear()
                self._refused[address.root] = (time.monotonic() + REFUSED_SECONDS, str(error))
            raise


def _connected(address: ImapAddress, config: MailConfig) -> "BaseMailBox":
    """Connect to the server, over TLS as far as that is required."""
    from imap_tools import MailBox, MailBoxUnencrypted

    try:
        trusted = ssl.create_default_context(cafile=config.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"INGESTQ_IMAP_CA_FILE is {str(config.ca_file)!r}: no certificates can be read from it "
            f"({in_one_line(error)})"
        ) from error
    if address.scheme == IMAPS:
        return MailBox(address.host, address.port, timeout=TIMEOUT_SECONDS, ssl_context=trusted)
    mailbox = MailBoxUnencrypted(address.host, address.port, timeout=TIMEOUT_SECONDS)
    try:
        if "STARTTLS" in mailbox.client.capabilities:
            mailbox.client.starttls(trusted)
        elif not (address.is_loopback or config.allow_plain):
            raise UsageError(
                f"{address.root}: the server offers no STARTTLS, so the password would be sent in "
                "plain text; use imaps://, or set INGESTQ_IMAP_ALLOW_PLAIN=true"
            )
    except BaseException:
        _close(mailbox)
        raise
    return mailbox


def _close(mailbox: "BaseMailBox") -> None:
    """Close the connection, with a word to the server if it still listens."""
    with suppress(Exception):
        mailbox.client.logout()
    with suppress(Exception):
        mailbox.client.shutdown()


def _refused(address: ImapAddress, error: Exception, password: str) -> IngestqError:
    said = _said(error, password)
    if TEMPORARY.search(said):
        return RemoteUnavailable(f"{address.root} cannot be reached: {said}")
    return UsageError(
        f"{address.root}: access is denied ({said}); check the user, and the password of "
        f"{address.account} in INGESTQ_IMAP_PASSWORDS. {NOTHING_DELETED}"
    )


def _check(status: str, answers: Any) -> None:
    """Raise what a failed FETCH means. That some of the messages are gone is no failure."""
    if status == "OK":
        return
    said = " ".join(answer.decode("utf-8", "replace") for answer in _texts(answers))
    if "EXPUNGEISSUED" not in said.upper():
        raise RemoteUnavailable(f"the server does not send what was asked for: {said[:200]}")


def _texts(answers: Any) -> Iterator[bytes]:
    return (answer for answer in answers or () if isinstance(answer, bytes))


def _said(error: BaseException, *secrets: str) -> str:
    return without_secrets(in_one_line(error), secrets)


def _is_lost(error: BaseException) -> bool:
    """Return whether ``error`` says that the connection is closed."""
    import imaplib

    return isinstance(error, OSError | imaplib.IMAP4.abort)


@contextmanager
def _translated(address: ImapAddress, *, is_document: bool = False) -> Iterator[None]:
    """Raise what the package raises as `list_folder` documents it, or as `ImapConnections` does."""
    try:
        yield
    except UsageError as error:
        if is_document:
            raise DocumentRejected(str(error)) from error
        raise
    except IngestqError:
        raise
    except ssl.SSLCertVerificationError as error:
        reason = (
            f"{address.root}: the certificate of the server cannot be verified "
            f"({error.verify_message}); use the name that it is for, or set INGESTQ_IMAP_CA_FILE "
            f"to the certificates that you trust. {NOTHING_DELETED}"
        )
        raise (DocumentRejected(reason) if is_document else UsageError(reason)) from error
    except OSError as error:
        raise RemoteUnavailable(f"{address.root} cannot be reached: {_said(error)}") from error
    except Exception as error:
        if _is_lost(error) or TEMPORARY.search(said := _said(error)):
            raise RemoteUnavailable(f"{address.root} cannot be reached: {_said(error)}") from error
        if is_document:
            raise DocumentRejected(f"the server refuses to send it: {said}") from error
        raise UsageError(f"{address}: {said}. {NOTHING_DELETED}") from error
