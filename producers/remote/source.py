"""A remote source as documents: scans what a lister finds, and records it for the sweep."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
import structlog

from ingestq.core import events
from ingestq.core.documents import Document
from ingestq.core.errors import RemoteUnavailable, SourceFailed, UsageError
from ingestq.core.mailboxes import MAIL_SCHEMES, decoded
from ingestq.core.paths import object_state, path_to_text
from ingestq.core.remote import DEFAULT_ACCESS, RemoteAccess, RemoteObject, remote_url, scheme_of
from ingestq.core.results import FailedDocument
from ingestq.core.urls import public_url
from ingestq.core.web import is_web, page_url, site_of
from producers.files.walk import Clock, ScanRecord
from producers.remote.buckets import BucketLister
from producers.remote.lister import Lister
from producers.remote.web_pages import PageLister, SiteLister

if TYPE_CHECKING:
    from producers.files.patterns import Patterns

log = structlog.get_logger()

ANY_NAME: Final = "\0\0"
"""Stands for all names: a pattern that has it has any."""


@dataclass(frozen=True)
class RemoteSource:
    """The objects at ``url`` (see `ingestq.core.remote.remote_url`), as documents of ``tenant``.

    An id is the object's URL; with a ``name`` it is the name and the part of the URL below the
    source. ``patterns``, if any, select objects by that part. ``metadata`` is stored with each
    document. With ``checksum``, workers read objects even if their state is the indexed one.
    ``access`` says how it is reached. A list of web ``pages`` is a source, too, and ``url`` the
    first of them.
    """

    url: str
    name: str | None = None
    tenant: str = ""
    patterns: "Patterns | None" = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    checksum: bool = False
    access: RemoteAccess = field(default=DEFAULT_ACCESS, compare=False)
    pages: tuple[str, ...] = ()

    @classmethod
    def at(cls, place: str | Sequence[str], name: str | None = None, **more: Any) -> Self:
        """Return the source at the address ``place``, or that of a list of web pages.

        ``more`` are other fields. Raises UsageError if an address is none, or if pages of several
        sites have no ``name`` in common.
        """
        if isinstance(place, str):
            return cls(remote_url(place), name, **more)
        pages = tuple(dict.fromkeys(map(page_url, place)))
        if not pages:
            raise UsageError("a list of pages is empty; leave it out, or name a page")
        others = [page for page in pages if site_of(page) != site_of(pages[0])]
        if others and name is None:
            raise UsageError(
                f"{public_url(pages[0])} and {public_url(others[0])} are pages of two sites; set "
                "source to a name for all of them"
            )
        return cls(pages[0], name, pages=pages, **more)

    def __str__(self) -> str:
        return self.url

    @property
    def folder(self) -> str:
        """The id of the source, with which the ids of all its documents begin."""
        if self.name is not None:
            return path_to_text(Path(self.name))
        return site_of(self.url) if is_web(self.url) else self.url

    @property
    def lister(self) -> Lister:
        """What lists the source."""
        if self.pages:
            return PageLister(self.pages, self.access.web)
        if is_web(self.url):
            return SiteLister(self.url, self.access.web)
        if scheme_of(self.url) in MAIL_SCHEMES:
            from producers.remote.mailboxes import mailbox_lister

            return mailbox_lister(self.url, self.access.mail, self._excludes)
        return BucketLister(self.url, self._excludes)

    def open(self) -> None:
        """Do what `Lister.open` does."""
        self.lister.open()

    async def check(self) -> None:
        """Raise what `scan` would raise at once: a package, access or the bucket is missing."""
        await self.lister.is_object()

    async def documents(
        self, clock: Clock, record: ScanRecord
    ) -> AsyncGenerator[Document | FailedDocument, None]:
        """Do what `scan` does. Raises SourceFailed if the source cannot be listed to its end."""
        try:
            async for document in self.scan(clock, record):
                yield document
        except (UsageError, RemoteUnavailable) as error:
            raise SourceFailed(str(error)) from error

    async def scan(
        self, clock: Clock, record: ScanRecord
    ) -> AsyncGenerator[Document | FailedDocument, None]:
        """Yield the document of every object; each is added to ``record``.

        ``clock`` gives the version; it is read before the objects are listed, so that a change made
        meanwhile counts as newer. Raises as `Lister` does: then ``record`` must not be used to
        delete anything.
        """
        lister = self.lister
        is_folder = not await lister.is_object()
        if is_folder:
            record.begin(self.folder, await clock())
        found = 0
        version = await clock()
        async for page in lister.pages():
            for one in page:
                if is_folder and not self._selects(one):
                    continue
                found += 1
                record.add(self._doc_id(one))
                yield self._document(one, version)
            version = await clock()
        record.end(self.folder, found)
        if not found:
            log.warning(events.SOURCE_EMPTY, url=self.url)

    def _selects(self, found: RemoteObject) -> bool:
        return self.patterns is None or self.patterns.match(*self._names(found.name))

    def _excludes(self, folder: str) -> bool:
        """Return whether everything in a ``folder`` below the source is excluded."""
        anything = f"{folder}/{ANY_NAME}" if folder else ANY_NAME
        return self.patterns is not None and self.patterns.excludes(*self._names(anything))

    def _names(self, name: str) -> Sequence[PurePosixPath]:
        """Return how patterns may write the ``name`` of an object."""
        names = [PurePosixPath(name)]
        if "%" in name and scheme_of(self.url) in MAIL_SCHEMES:
            levels = (decoded(level).replace("/", "%2F") for level in name.split("/"))
            names.append(PurePosixPath("/".join(levels)))
        return names

    def _doc_id(self, found: RemoteObject) -> str:
        return found.url if self.name is None else f"{self.folder}/{found.name}"

    def _document(self, found: RemoteObject, version: int) -> Document | FailedDocument:
        doc_id = self._doc_id(found)
        try:
            document = Document(
                doc_id=doc_id,
                version=version,
                source=found.url,
                tenant=self.tenant,
                url=found.url,
                media_type=found.media_type,
                metadata={**found.metadata, **self.metadata},
                scanned=True,
            )
            if self.checksum:
                return document
            state = object_state(document, found.size, found.tag)
            return msgspec.structs.replace(document, file=state)
        except ValueError as error:
            return FailedDocument(doc_id, str(error))
