"""Sources of documents for scheduled entries: files, JSON Lines, generators."""

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

from ingestq.client.regular_file import regular_only
from ingestq.core.documents import Document
from ingestq.core.errors import SourceFailed
from ingestq.core.limits import DOCUMENT_BYTES
from ingestq.core.results import FailedDocument
from producers.files import json_lines
from producers.files.off_limits import KERNEL_ONLY, OffLimits
from producers.files.patterns import Patterns
from producers.files.walk import Clock, FoundFile, Root, ScanRecord, document_or_failure, scan
from producers.schedule.generators import Generator

Documents = AsyncGenerator[Document | FailedDocument, None]
ALL_FILES: Final = Patterns()


class Source(Protocol):
    """Documents that are read anew for each run."""

    @property
    def tenant(self) -> str:
        """The tenant of documents that name none."""
        ...

    def __str__(self) -> str:
        """Return the source for display."""
        ...

    def documents(self, clock: Clock, record: ScanRecord) -> Documents:
        """Yield the documents; those of a complete list are added to ``record``.

        Raises SourceFailed if the source cannot be read to its end: then nothing may be deleted.
        """
        ...


@dataclass(frozen=True)
class FileSource:
    """The files under ``path``, or the file at ``path``.

    ``glob`` is the user's path if it is a glob. Only a ``complete`` source deletes documents whose
    file is gone or no longer matches.
    """

    path: Path
    name: str | None = None
    tenant: str = ""
    patterns: Patterns = ALL_FILES
    metadata: Mapping[str, Any] = field(default_factory=dict)
    glob: str | None = None
    complete: bool = True
    off_limits: OffLimits = field(default=KERNEL_ONLY, compare=False)

    def __str__(self) -> str:
        return str(self.path) if self.glob is None else self.glob

    async def documents(self, clock: Clock, record: ScanRecord) -> Documents:
        if not await aiofiles.os.path.exists(self.path):
            raise SourceFailed(f"{self.path}: there is no such file or folder")
        refusal = await asyncio.to_thread(self.refusal)
        if refusal is not None:
            raise SourceFailed(refusal)
        root = await asyncio.to_thread(Root.at, self.path, self.name)
        kept = record if self.complete else ScanRecord()
        async for listing in scan(root, clock, kept, self._skip, self.off_limits):
            for entry in listing.entries:
                if isinstance(entry, FoundFile):
                    yield document_or_failure(
                        entry, listing.version, tenant=self.tenant, metadata=self.metadata
                    )
                else:
                    yield FailedDocument(entry.doc_id, entry.reason)

    def refusal(self) -> str | None:
        """Return why the files must not be indexed; None if they may. Blocks."""
        reason = self.off_limits.reason_against(self.path)
        return None if reason is None else f"{self.path} cannot be indexed: {reason}"

    def _skip(self, path: Path, status: os.stat_result) -> bool:
        if stat.S_ISDIR(status.st_mode) or path == self.path:
            return False
        return not self.patterns.match(path.relative_to(self.path))


@dataclass(frozen=True)
class LineSource:
    """The documents of a JSON Lines file, or those that a function yields.

    With a ``name`` their ids become ``name/id``. A ``complete`` source is the whole list: all other
    documents of that name are deleted. Versions are then Redis time, like those of deletions. A
    line of more than ``max_line_bytes`` is reported and skipped.
    """

    items: "Path | Generator"
    name: str | None = None
    tenant: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = False
    max_line_bytes: int = DOCUMENT_BYTES

    def __str__(self) -> str:
        return str(self.items)

    async def documents(self, clock: Clock, record: ScanRecord) -> Documents:
        listed = self.name if self.complete else None
        if listed is not None:
            record.begin(listed, await clock())
        found = 0
        async with aclosing(self._items(clock)) as items:
            async for item in items:
                document = await self._as_own(item, clock)
                found += isinstance(document, Document)
                if listed is not None:
                    # An invalid line may be any document, so none of the list may be deleted.
                    if isinstance(document, FailedDocument):
                        record.keep(listed)
                    else:
                        record.add(document.doc_id)
                yield document
        if listed is not None:
            record.end(listed, found)

    async def _items(self, clock: Clock) -> Documents:
        if isinstance(self.items, Generator):
            async with aclosing(self.items.documents(clock)) as documents:
                async for document in documents:
                    yield document
            return
        try:
            async with aiofiles.open(self.items, "rb", opener=regular_only) as file:
                before = await asyncio.to_thread(_size_and_mtime, file.fileno())
                lines = json_lines.read_lines(file, self.max_line_bytes)
                async for document in json_lines.parse(lines, clock):
                    yield document
                after = await asyncio.to_thread(_size_and_mtime, file.fileno())
                if self.complete and after != before:
                    raise SourceFailed(f"{self.items} was written while it was read")
        except OSError as error:
            raise SourceFailed(f"{self.items} cannot be read: {error.strerror}") from error

    async def _as_own(
        self, document: Document | FailedDocument, clock: Clock
    ) -> Document | FailedDocument:
        """Return ``document`` with this source's name, tenant and metadata, or a failure."""
        if isinstance(document, FailedDocument):
            return document
        if self.complete and document.tenant not in ("", self.tenant):
            reason = f"its tenant is {document.tenant!r}, but that of the list is {self.tenant!r}"
            return FailedDocument(document.doc_id, reason)
        if self.complete and document.collection is not None:
            reason = "it names a collection; only the schedule entry may, for the whole list"
            return FailedDocument(document.doc_id, reason)
        doc_id = document.doc_id if self.name is None else f"{self.name}/{document.doc_id}"
        version = await clock() if self.complete else document.version
        try:
            return msgspec.structs.replace(
                document,
                doc_id=doc_id,
                version=version,
                tenant=self.tenant if document.tenant == "" else document.tenant,
                metadata={**self.metadata, **document.metadata},
                scanned=self.complete,
            )
        except ValueError as error:  # too long or too large with the name and metadata added
            return FailedDocument(document.doc_id, str(error))


def _size_and_mtime(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns
