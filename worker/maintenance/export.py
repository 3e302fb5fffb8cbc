"""Exports a collection with its ledger, while workers write it.

Each document is exported as its ledger entry describes it, or not at all. No lock is needed: an
entry names the fence of its chunks, their number and a digest of their ids, and a chunk is replaced
only under a newer fence. So what is read under that fence is the whole document if number and
digest are right, whatever happens meanwhile. If not, a worker has begun to write the document, and
it is read again later.
"""

import asyncio
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Final

from ingestq.core.display import Activity, Display
from worker.maintenance.export_file import ExportWriter, chunk_line
from worker.pipeline.points import ChunkPoint, Digest, DocumentKey, LedgerEntry
from worker.store.exact_chunks import ExactChunks
from worker.store.ledger import QdrantLedger

GROUP_CHUNKS: Final = 1024
"""Documents with so many chunks together are read together."""
SPOOLED_BYTES: Final = 1024 * 1024
"""What a document has more is kept in a temporary file until it is known to be whole."""
POSTPONED: Final = 1000
"""So many documents that are being written are remembered before they are read again."""
PAUSE_SECONDS: Final = 0.2
PATIENCE_SECONDS: Final = 20.0
"""How long documents that are being written are read again and again. Most take less than one."""
LISTED: Final = 1000
"""Documents that are left out and named."""


@dataclass
class LeftOut:
    """The documents that were being written all the time; the first `LISTED` of them are named."""

    count: int = 0
    listed: list[DocumentKey] = field(default_factory=list)

    def add(self, keys: Sequence[DocumentKey]) -> None:
        """Count and name ``keys``."""
        self.count += len(keys)
        self.listed += keys[: LISTED - len(self.listed)]


class Export:
    """Writes the documents of a collection to ``writer``.

    Raises what `worker.store.client.Qdrant` and ``writer`` raise.
    """

    def __init__(
        self, ledger: QdrantLedger, chunks: ExactChunks, writer: ExportWriter, display: Display
    ) -> None:
        self._ledger = ledger
        self._chunks = chunks
        self._writer = writer
        self._display = display
        self._left_out = LeftOut()
        self._entries = 0

    async def run(self) -> LeftOut:
        """Export all documents; return those that cannot be exported."""
        self._entries = await self._ledger.size()
        postponed: list[DocumentKey] = []
        async for page in self._ledger.entries():
            postponed += await self._export(page)
            if len(postponed) >= POSTPONED:
                await self._finish(postponed)
                postponed = []
        await self._finish(postponed)
        return self._left_out

    async def _finish(self, keys: Sequence[DocumentKey]) -> None:
        """Read documents that were being written until all are exported, or patience ends."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_SECONDS
        while keys and loop.time() < deadline:
            found = await self._ledger.look_up(keys)
            keys = await self._export(list(found.values()))
            if keys:
                await asyncio.sleep(PAUSE_SECONDS)
        self._left_out.add(keys)

    async def _export(self, entries: Sequence[LedgerEntry]) -> list[DocumentKey]:
        """Export those documents that are whole; return the keys of the others."""
        others = [entry.key for entry in entries if entry.unfinished]
        for group in _groups(entry for entry in entries if not entry.unfinished):
            others += await self._export_group(group)
            totals = self._writer.totals
            done, detail = totals.documents + totals.deleted, f"{totals.chunks:,} chunks"
            self._display.show(Activity("exporting", done, self._entries, detail))
        return others

    async def _export_group(self, group: Sequence[LedgerEntry]) -> list[DocumentKey]:
        drafts = {entry.key: _Draft(entry) for entry in group}
        try:
            doc_ids = {entry.doc_id for entry in group if entry.chunks}
            if doc_ids:
                async for page in self._chunks.pages(doc_ids):
                    await asyncio.to_thread(_sort, page, drafts)
            whole = [draft for draft in drafts.values() if draft.is_whole]
            await asyncio.to_thread(self._write, whole)
        finally:
            for draft in drafts.values():
                draft.close()
        return [key for key, draft in drafts.items() if not draft.is_whole]

    def _write(self, drafts: Sequence["_Draft"]) -> None:
        for draft in drafts:
            self._writer.add(draft.entry, draft.lines())


class _Draft:
    """A document with the chunks that were read so far."""

    def __init__(self, entry: LedgerEntry) -> None:
        self.entry = entry
        self._digest = Digest()
        self._count = 0
        self._lines: IO[bytes] = tempfile.SpooledTemporaryFile(SPOOLED_BYTES)  # noqa: SIM115

    @property
    def is_whole(self) -> bool:
        entry = self.entry
        return not entry.chunks or (
            self._count == entry.chunks and str(self._digest) == entry.chunks_digest
        )

    def add(self, chunk: ChunkPoint) -> None:
        """Add ``chunk`` if it is one of the entry's."""
        fence = self.entry.chunks_fence
        if fence is None:
            return
        payload = chunk.payload
        if all(payload.get(name) == value for name, value in fence._asdict().items()):
            self._digest.add(chunk.id)
            self._count += 1
            self._lines.write(chunk_line(chunk))

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of the chunks."""
        self._lines.seek(0)
        yield from self._lines

    def close(self) -> None:
        self._lines.close()


def _sort(page: Iterable[ChunkPoint], drafts: dict[DocumentKey, _Draft]) -> None:
    for chunk in page:
        match chunk.payload:  # another program may have written anything
            case {"tenant": str(tenant), "doc_id": str(doc_id)}:
                draft = drafts.get(DocumentKey(tenant, doc_id))
                if draft is not None:
                    draft.add(chunk)


def _groups(entries: Iterable[LedgerEntry]) -> Iterator[list[LedgerEntry]]:
    """Yield ``entries`` in groups of about `GROUP_CHUNKS` chunks; a larger document is alone."""
    group: list[LedgerEntry] = []
    chunks = 0
    for entry in entries:
        if group and chunks + entry.chunks > GROUP_CHUNKS:
            yield group
            group, chunks = [], 0
        group.append(entry)
        chunks += entry.chunks
    if group:
        yield group
