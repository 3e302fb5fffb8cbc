"""Where the documents of a scheduled entry come from."""

import asyncio
import os
import stat
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import aiofiles.os
import msgspec

from ingestq.core.documents import Document
from ingestq.core.errors import SourceFailed
from ingestq.core.results import FailedDocument
from producers.files import json_lines as jsonl
from producers.files import walk as files
from producers.files.patterns import Patterns
from producers.files.walk import Clock, FoundFile, Root, ScanRecord, by_path
from producers.schedule.generators import Generator

Documents = AsyncGenerator[Document | FailedDocument, None]
EVERYTHING: Final = Patterns()


class Source(Protocol):
    """What is read anew for each run."""

    @property
    def tenant(self) -> str:
        """Whose documents they are, unless they say so themselves."""
        ...

    def __str__(self) -> str:
        """As people are told of it."""
        ...

    def documents(self, clock: Clock, sightings: ScanRecord) -> Documents:
        """Its documents. Of what is a complete list, ``sightings`` is told.

        Raises SourceFailed if it cannot be read to its end: then nothing is known to be gone.
        """
        ...


@dataclass(frozen=True)
class FileSource:
    """The files under ``path``, or the one there.

    ``glob`` is what somebody wrote, if that names files and no folder: then the files that do not
    match any more stay in the index, unless the source is ``complete``.
    """

    path: Path
    name: str | None = None
    tenant: str = ""
    patterns: Patterns = EVERYTHING
    metadata: Mapping[str, Any] = field(default_factory=dict)
    glob: str | None = None
    complete: bool = True

    def __str__(self) -> str:
        return str(self.path) if self.glob is None else self.glob

    async def documents(self, clock: Clock, sightings: ScanRecord) -> Documents:
        if not await aiofiles.os.path.exists(self.path):
            raise SourceFailed(f"{self.path}: there is no such file or folder")
        root = await asyncio.to_thread(Root.at, self.path, self.name)
        noted = sightings if self.complete else ScanRecord()
        async for listing in files.scan(root, clock, noted, self._leave_out):
            for entry in listing.entries:
                if isinstance(entry, FoundFile):
                    yield by_path(
                        entry, listing.version, tenant=self.tenant, metadata=self.metadata
                    )
                else:
                    yield entry

    def _leave_out(self, path: Path, status: os.stat_result) -> bool:
        if stat.S_ISDIR(status.st_mode) or path == self.path:
            return False
        return not self.patterns.take(path.relative_to(self.path))


@dataclass(frozen=True)
class LineSource:
    """The documents of a JSON Lines file, or those that a function yields.

    With a ``name`` their ids become ``name/id``. If they are ``complete``, all others of that name
    are gone; their versions are then those of Redis, as the one of a deletion is.
    """

    items: "Path | Generator"
    name: str | None = None
    tenant: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = False

    def __str__(self) -> str:
        return str(self.items)

    async def documents(self, clock: Clock, sightings: ScanRecord) -> Documents:
        listed = self.name if self.complete else None
        if listed is not None:
            sightings.begin(listed, await clock())
        async with aclosing(self._items(clock)) as items:
            async for item in items:
                document = await self._adopted(item, clock)
                if listed is not None:
                    # Nobody knows which document a wrong line is: then none of them is gone.
                    wrong = isinstance(document, FailedDocument)
                    sightings.add(listed if wrong else document.doc_id)
                yield document

    async def _items(self, clock: Clock) -> Documents:
        if isinstance(self.items, Generator):
            async with aclosing(self.items.documents(clock)) as documents:
                async for document in documents:
                    yield document
            return
        try:
            async with aiofiles.open(self.items, "rb") as lines:
                async for document in jsonl.parse(lines, clock):
                    yield document
        except OSError as error:
            raise SourceFailed(f"{self.items} cannot be read: {error.strerror}") from error

    async def _adopted(
        self, document: Document | FailedDocument, clock: Clock
    ) -> Document | FailedDocument:
        """The document as one of this source."""
        if isinstance(document, FailedDocument):
            return document
        if self.complete and document.tenant not in ("", self.tenant):
            reason = f"it is of the tenant {document.tenant!r}, and the list of {self.tenant!r}"
            return FailedDocument(document.doc_id, reason)
        if self.complete and document.collection is not None:
            reason = "it names a collection, which is for the list as a whole to say"
            return FailedDocument(document.doc_id, reason)
        doc_id = document.doc_id if self.name is None else f"{self.name}/{document.doc_id}"
        return msgspec.structs.replace(
            document,
            doc_id=doc_id,
            version=await clock() if self.complete else document.version,
            tenant=self.tenant if document.tenant == "" else document.tenant,
            metadata={**self.metadata, **document.metadata},
            scanned=self.complete,
        )
