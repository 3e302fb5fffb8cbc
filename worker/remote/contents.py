"""Gives parse processes what documents hold: one fetcher for each kind of address."""

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ingestq.core.daemon_threads import DaemonThreads
from ingestq.core.documents import Document
from ingestq.core.errors import RemoteUnavailable
from ingestq.core.limits import REMOTE_COPY_BYTES
from ingestq.core.mailboxes import MAIL_SCHEMES
from ingestq.core.outages import note_answer
from ingestq.core.remote import DEFAULT_ACCESS, RemoteAccess, scheme_of
from ingestq.core.temporary_folders import CopyFolder, copy_folder
from ingestq.core.tracing import span
from ingestq.core.web import is_web
from worker.pipeline.ports import Contents
from worker.remote.objects import FetchLimits, fetch_object, not_copied
from worker.remote.web_pages import WebPages

if TYPE_CHECKING:
    from worker.remote.messages import Messages

Fetch = Callable[[Document, Path, FetchLimits], Document]

FETCHES: Final = 32
"""Objects that are fetched at the same time. A store answers in some 50 ms, whatever the size."""
LONGEST_TURN_SECONDS: Final = 30.0
"""Pages whose host has its turn later go back to the queue, so that a crawl does not hold up other
documents. The pages of a job have their turns in less time, unless the host wants longer delays."""
MAIL_FETCHES: Final = 4
"""Messages that are fetched at the same time, each on a connection of its own. Servers allow some
ten of a user."""


class RemoteContents:
    """Reads documents from remote stores, up to ``max_bytes`` each, and all others from ``local``.

    Objects of up to ``copy_bytes`` are copied to the temporary directory, at most as many at a time
    as there are documents in work. Parse processes read larger ones by ranges, without a copy.
    ``longest_turn_seconds`` is how long a web page waits for the turn of its host; None is no
    limit.
    """

    def __init__(
        self,
        local: Contents,
        max_bytes: int,
        copy_bytes: int = REMOTE_COPY_BYTES,
        access: RemoteAccess = DEFAULT_ACCESS,
        *,
        longest_turn_seconds: float | None = LONGEST_TURN_SECONDS,
    ) -> None:
        self._local = local
        self._max_bytes = max_bytes
        self._copy_bytes = copy_bytes
        self._mail = access.mail
        self._threads = DaemonThreads("fetching", FETCHES)
        self._mail_threads = DaemonThreads("fetching-mail", MAIL_FETCHES)
        self._web_pages = WebPages(access.web, max_bytes, longest_turn_seconds)

    @asynccontextmanager
    async def as_file(self, document: Document) -> AsyncIterator[Document]:
        """Yield ``document`` as a parse process can read it while inside.

        Its ``metadata`` may say more than was known when it was listed. Its ``file`` is the state
        of the object that was read, which may be newer than the one that was listed. Raises
        DocumentRejected if the object is gone, too large, may not be read, or this worker lacks the
        package for it, SourceChanged if it changes meanwhile, and RemoteUnavailable if the store
        does not answer. Of a web page, also raises PageFailed, SiteBusy and `NotModified`.
        """
        if document.url is None:
            async with self._local.as_file(document) as content:
                yield content
            return
        async with AsyncExitStack() as opened:
            try:
                folder = await opened.enter_async_context(copy_folder())
            except OSError as error:
                raise not_copied(Path(tempfile.gettempdir()), error) from error
            with span("read object", "client", {}):
                content = await self._fetch(document, folder)
            note_answer(RemoteUnavailable)
            yield content

    @cached_property
    def _messages(self) -> "Messages":
        from worker.remote.messages import Messages

        return Messages(self._mail)

    async def _fetch(self, document: Document, folder: CopyFolder) -> Document:
        if document.url is not None and is_web(document.url):
            return await self._web_pages.fetch(document, folder.path)
        if document.url is not None and scheme_of(document.url) in MAIL_SCHEMES:
            return await self._mail_threads.call(
                self._filled, folder, self._messages.fetch, document
            )
        return await self._threads.call(self._filled, folder, fetch_object, document)

    def _filled(self, folder: CopyFolder, fetch: Fetch, document: Document) -> Document:
        with folder.filling() as path:
            return fetch(document, path, FetchLimits(self._max_bytes, self._copy_bytes))
