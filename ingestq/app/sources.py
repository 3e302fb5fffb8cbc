"""Checks the places from which documents are to be read: files, folders and remote folders."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ingestq.app.settings import Settings
from ingestq.core.documents import Document
from ingestq.core.errors import UsageError
from ingestq.core.mailboxes import LOCAL_MAIL, local_path
from ingestq.core.remote import remote_url, scheme_of
from ingestq.core.results import FailedDocument
from ingestq.core.urls import is_url
from producers.files import walk as files
from producers.files.off_limits import KERNEL_ONLY, OffLimits
from producers.files.walk import Clock, ReadOptions, ScanRecord
from producers.remote.source import RemoteSource


def off_limits_of(settings: Settings) -> OffLimits:
    """Return where walks must not go: data, cache and blobs of this ingestq, and the kernel."""
    return OffLimits(settings.own_folders)


def checked_paths(paths: Iterable[Path], settings: Settings) -> OffLimits:
    """Return what is off limits for walks that begin at ``paths``. Blocks.

    Raises UsageError, which names the path, if one of them is.
    """
    off_limits = off_limits_of(settings)
    for path in paths:
        reason = off_limits.reason_against(path)
        if reason is not None:
            raise UsageError(f"{path} cannot be indexed: {reason}")
    return off_limits


@dataclass(frozen=True)
class Places:
    """Files and folders at ``paths``, and ``remote`` ones, that a command line names.

    With ``name`` the ids of all their documents begin with it.
    """

    paths: Sequence[Path]
    remote: Sequence[RemoteSource]
    name: str | None
    options: ReadOptions
    off_limits: OffLimits = KERNEL_ONLY

    async def documents(
        self, clock: Clock, record: ScanRecord
    ) -> AsyncGenerator[Document | FailedDocument, None]:
        """Yield the document of every file and object; each is added to ``record``.

        Raises UsageError or RemoteUnavailable if a remote folder cannot be listed to its end.
        """
        async for document in files.observe(
            self.paths, self.name, clock, self.options, record, self.off_limits
        ):
            yield document
        for source in self.remote:
            async for document in source.scan(clock, record):
                yield document


async def checked_places(
    places: Iterable[str], name: str | None, options: ReadOptions, settings: Settings
) -> Places:
    """Return the files and folders of a command line, once it is known that they may be read.

    Raises UsageError, which names the place, if one is off limits, or a remote one is not there or
    refuses access, and RemoteUnavailable if that does not answer.
    """
    places = list(places)
    paths = [Path(place) for place in places if not is_url(place)]
    urls = [remote_url(place) for place in places if is_url(place)]
    if urls and options.inline:
        raise UsageError(f"--inline is for files; workers read {urls[0]} themselves")
    on_disk = [local_path(url) for url in urls if scheme_of(url) in LOCAL_MAIL]
    off_limits = await asyncio.to_thread(checked_paths, [*paths, *on_disk], settings)
    remote = [
        RemoteSource(url, name, checksum=options.checksum, access=settings.remote_access)
        for url in dict.fromkeys(urls)
    ]
    await asyncio.gather(*(source.check() for source in remote))
    return Places(paths, remote, name, options, off_limits)
