"""Lists mailboxes: folders of IMAP servers, Maildirs and mboxes."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import islice
from typing import Final

from ingestq.client import imap, local_mail
from ingestq.core.daemon_threads import DaemonThreads
from ingestq.core.mailboxes import (
    MAILDIR,
    MESSAGE_TYPE,
    MailConfig,
    encoded,
    imap_address,
    imap_message_name,
    levels_below,
    local_path,
    message_url,
)
from ingestq.core.remote import RemoteObject, scheme_of
from producers.remote.lister import Lister

PAGE_MESSAGES: Final = 1000


class ImapLister:
    """Lists a folder of an account, and all below it; see `producers.remote.lister.Lister`.

    All of it is listed before the first page, in some 16 bytes a message: a server would close a
    connection that waits until the queue has room.
    """

    def __init__(self, url: str, config: MailConfig, excludes: Callable[[str], bool]) -> None:
        self._address = imap_address(url)
        self._config = config
        self._excludes = excludes
        self._thread = DaemonThreads("listing", 1)

    @property
    def url(self) -> str:
        """See `Lister.url`."""
        return str(self._address)

    def open(self) -> None:
        """See `Lister.open`."""
        imap.load()

    async def is_object(self) -> bool:
        """See `Lister.is_object`."""
        await self._thread.call(imap.check_folder, self._address, self._config)
        return False

    async def pages(self) -> AsyncIterator[Sequence[RemoteObject]]:
        """See `Lister.pages`."""
        folders = await self._thread.call(
            imap.list_folder, self._address, self._config, self._excludes
        )
        found = (message for folder in folders for message in self._messages(folder))
        while page := list(islice(found, PAGE_MESSAGES)):
            yield page

    def _messages(self, folder: imap.ListedFolder) -> Iterator[RemoteObject]:
        below = levels_below(folder.levels, self._address.levels)
        for uid, size in zip(folder.uids, folder.sizes, strict=True):
            one = imap_message_name(folder.uid_validity, uid)
            name = f"{below}/{one}" if below else one
            # A message never changes, so its UIDs tell its state, too.
            tag = f"{folder.uid_validity}.{uid}"
            yield RemoteObject(f"{self.url}/{name}", name, tag, size, MESSAGE_TYPE)


class LocalMailLister:
    """Lists a Maildir with its subfolders, or an mbox; see `producers.remote.lister.Lister`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._path = local_path(url)
        self._thread = DaemonThreads("listing", 1)

    @property
    def url(self) -> str:
        """See `Lister.url`."""
        return self._url

    def open(self) -> None:
        """See `Lister.open`."""

    async def is_object(self) -> bool:
        """See `Lister.is_object`."""
        await self._thread.call(next, self._found(), None)
        return False

    async def pages(self) -> AsyncIterator[Sequence[RemoteObject]]:
        """See `Lister.pages`."""
        found = self._found()
        while page := await self._thread.call(lambda: list(islice(found, PAGE_MESSAGES))):
            yield page

    def _found(self) -> Iterator[RemoteObject]:
        if scheme_of(self._url) == MAILDIR:
            yield from self._in_maildirs()
            return
        for one in local_mail.mbox_messages(self._path):
            url = message_url(self._url, one.name)
            size = one.end - one.start
            yield RemoteObject(url, encoded(one.name), one.digest, size, MESSAGE_TYPE)

    def _in_maildirs(self) -> Iterator[RemoteObject]:
        for name, folder in local_mail.maildir_folders(self._path):
            below = "".join(f"{encoded(level)}/" for level in name.split("/") if level)
            for one in local_mail.maildir_messages(folder):
                place = f"{below}{encoded(one.name)}"
                yield RemoteObject(f"{self._url}/{place}", place, one.tag, one.size, MESSAGE_TYPE)


def mailbox_lister(url: str, config: MailConfig, excludes: Callable[[str], bool]) -> Lister:
    """Return what lists the mailbox at ``url``; folders of IMAP that it ``excludes`` stay closed.

    They are told by their part of the address below ``url``.
    """
    if scheme_of(url).startswith("imap"):
        return ImapLister(url, config, excludes)
    return LocalMailLister(url)
