"""A remote source as documents: scans what a lister finds, and records it for the sweep."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from ingestq.client.object_store import ObjectStore
from ingestq.core import events
from ingestq.core.documents import Document
from ingestq.core.errors import RemoteUnavailable, SourceFailed, UsageError
from ingestq.core.paths import object_state, path_to_text
from ingestq.core.remote import RemoteObject
from ingestq.core.results import FailedDocument
from producers.files.walk import Clock, ScanRecord
from producers.remote.lister import BucketLister, Lister

if TYPE_CHECKING:
    from producers.files.patterns import Patterns

log = structlog.get_logger()


@dataclass(frozen=True)
class RemoteSource:
    """The objects at ``url`` (see `ingestq.core.remote.remote_url`), as documents of ``tenant``.

    An id is the object's URL; with a ``name`` it is the name and the part of the URL below the
    source. ``patterns``, if any, select objects by that part. ``metadata`` is stored with each
    document. With ``checksum``, workers read objects even if their state is the indexed one.
    """

    url: str
    name: str | None = None
    tenant: str = ""
    patterns: "Patterns | None" = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    checksum: bool = False

    def __str__(self) -> str:
        return self.url

    @property
    def folder(self) -> str:
        """The id of the source, with which the ids of all its documents begin."""
        return self.url if self.name is None else path_to_text(Path(self.name))

    @property
    def lister(self) -> Lister:
        """What lists the source."""
        return BucketLister(self.url)

    def open(self) -> None:
        """Load the package for the store. Blocks. Raises UsageError if it is missing."""
        ObjectStore(self.url).open()

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
        return self.patterns is None or self.patterns.match(PurePosixPath(found.name))

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
