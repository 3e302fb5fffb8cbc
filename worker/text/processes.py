"""Parse processes: they read, parse and chunk documents, so a slow parser never delays embedding.

The first half of this module is the worker's side, the second half runs in the processes. The
second half imports parsers and tokenizers inside its functions, because the worker must not load
them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

import msgspec
import structlog

from ingestq.core import events, metrics
from ingestq.core.documents import Document, Lane
from ingestq.core.errors import (
    DocumentRejected,
    LimitExceeded,
    PoolBroken,
    PoolFailure,
    UsageError,
)
from ingestq.core.paths import size_in_state, text_to_path
from worker.lanes import LanePermits
from worker.process_pool.limits import MAX_SECONDS, LimitsReport, ProcessKind, ProcessLimits
from worker.process_pool.pool import Processes, retry_once
from worker.process_pool.process import limit_by_size
from worker.text.config import NO_HOOKS, HookVersions, ReadingConfig
from worker.text.parts import (
    ExtractedDocument,
    PreparedDocument,
    Segment,
    SegmentStart,
    SparseVector,
    StageSeconds,
    UnchangedContent,
    bounded_warnings,
)
from worker.text.small_texts import SmallText, SmallTexts, small_size

if TYPE_CHECKING:
    from worker.text.chunking.chunker import Chunker
    from worker.text.hooks import Hooks
    from worker.text.words.bm25 import SparseEncoder

log = structlog.get_logger()

QUERY_SECONDS: Final = 60.0
INTERACTIVE_OCR_PAGES: Final = 2
"""The interactive process, which also serves searches, reads no more pages by OCR: up to a few
seconds. A document with more of them becomes bulk work."""
TINY_PDF: Final = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>
>>endobj
4 0 obj<</Length 35>>stream
BT /F 9 Tf 9 50 Td (It works) Tj ET
endstream endobj
5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj
trailer<</Root 1 0 R>>
"""
"""A document that any parser can read."""
DOCUMENTS_PER_PROCESS: Final = 10_000
"""A process is replaced after this many, which bounds the memory that parsers leak."""

SHARED_SECONDS: Final = 5.0
"""A small text that takes longer, while others wait for it, is read again by itself."""

P = ParamSpec("P")
T = TypeVar("T")

Prepared = PreparedDocument | UnchangedContent | None
"""None if OCR would have to read too many pages."""


@dataclass(frozen=True)
class ParseConfig:
    """How to chunk: into at most ``max_tokens`` tokens of the ``tokenizer`` (a file).

    Chunks get sparse vectors if the collection is ``hybrid``. Documents may have up to
    ``max_document_bytes``, and are read as ``reading`` says.
    """

    tokenizer: Path
    max_tokens: int
    hybrid: bool
    max_document_bytes: int
    reading: ReadingConfig


class ParseProcesses:
    """``count`` processes that read, parse and chunk documents, and one more for interactive work.

    `begin` or the first document starts them; the one for interactive work starts with the first
    such work, so that neither an upload nor a search waits for bulk documents, even if all of them
    hang.
    """

    def __init__(self, count: int, config: ParseConfig, limits: ProcessLimits) -> None:
        # One task per process and none queued: an upload waits for one other, not for many.
        self._free = LanePermits(count + 1, bulk=count)
        self._shared = self._processes(count, config, limits)
        self._interactive = self._processes(1, config, limits)
        self._hooks_config = config.reading.hooks
        self._hooks = NO_HOOKS
        self._small = SmallTexts[Prepared](count, self._prepare_each, self._prepare_small)

    @staticmethod
    def _processes(count: int, config: ParseConfig, limits: ProcessLimits) -> Processes:
        return Processes(count, limits, initialize, (config,), max_tasks=DOCUMENTS_PER_PROCESS)

    def begin(self) -> None:
        """Start a process before there is a document."""
        self._shared.begin()

    @property
    def has_begun(self) -> bool:
        """See `Processes.has_begun`."""
        return self._shared.has_begun

    @property
    def start_seconds(self) -> float | None:
        """See `Processes.start_seconds`."""
        return self._shared.start_seconds

    async def hook_versions(self) -> HookVersions:
        """Return the versions of the hooks; documents are prepared by no others from now on.

        Raises UsageError if one cannot be loaded.
        """
        if self._hooks_config.names and self._hooks == NO_HOOKS:
            self._hooks = await retry_once(
                partial(self._run, Lane.BULK, MAX_SECONDS, versions_of_hooks)
            )
        return self._hooks

    async def prepare(
        self, lane: Lane, document: Document, known_hash: str | None
    ) -> PreparedDocument | UnchangedContent:
        """Read, parse and chunk ``document``; see `worker.text.prepare.prepare`.

        Also raises DocumentRejected if it needs more memory or processor time than a process may
        use, or a process died over it twice in a row, PoolFailure if processes died twice in a row
        and it is unknown over which document, and UsageError if the parser cannot be loaded.

        OCR of many pages waits for a process for bulk work, in whichever ``lane`` the document is.
        """
        ocr_pages = INTERACTIVE_OCR_PAGES if lane is Lane.INTERACTIVE else None
        if (size := small_size(document)) is not None:
            text: SmallText[Prepared] = SmallText(document, known_hash, ocr_pages, size)
            prepared = await self._small.read(lane, text)
        else:
            prepared = await self._run_twice(
                lane, prepare_document, document, known_hash, ocr_pages, self._hooks
            )
        if prepared is None:
            prepared = await self._run_twice(
                Lane.BULK, prepare_document, document, known_hash, None, self._hooks
            )
            assert prepared is not None, "any number of pages is allowed"
        content = prepared if isinstance(prepared, UnchangedContent) else prepared.first
        _record(content.seconds)
        return prepared

    async def _prepare_each(
        self, lane: Lane, texts: Sequence[SmallText[Prepared]]
    ) -> Sequence[Prepared | Exception]:
        """Prepare small documents in one task; return the result or the error of each."""
        calls = [(text.document, text.known_hash, text.ocr_pages, self._hooks) for text in texts]
        async with self._place(lane) as processes:
            return await processes.run_each(SHARED_SECONDS, prepare_document, calls)

    async def _prepare_small(self, lane: Lane, text: SmallText[Prepared]) -> Prepared:
        return await self._run_twice(
            lane, prepare_document, text.document, text.known_hash, text.ocr_pages, self._hooks
        )

    async def prepare_rest(self, lane: Lane, document: Document, rest: SegmentStart) -> Segment:
        """Read and chunk the next segment; see `worker.text.prepare.prepare_rest`.

        Also raises what `prepare` raises.
        """
        segment = await self._run_twice(lane, prepare_segment, document, rest)
        _record(segment.seconds)
        return segment

    async def prepare_stored(
        self, lane: Lane, document: Document, stored: ExtractedDocument
    ) -> PreparedDocument:
        """Chunk a document again; see `worker.text.prepare.prepare_stored`.

        Raises what `prepare` raises.
        """
        return await self._run_twice(lane, prepare_again, document, stored, self._hooks)

    async def _run_twice(
        self, lane: Lane, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a task, and once more if its process died: another task may have killed it."""
        run = partial(self._run, lane, MAX_SECONDS, function, *args, **kwargs)
        try:
            return await run()
        except LimitExceeded as error:
            raise DocumentRejected(str(error)) from error
        except PoolFailure as first:
            log.warning(events.PROCESS_CRASHED, error=str(first))
            try:
                return await run()
            except PoolBroken:
                raise
            except LimitExceeded as error:
                raise DocumentRejected(str(error)) from error
            except PoolFailure as second:
                if isinstance(first, PoolBroken):
                    raise
                raise DocumentRejected(f"twice, {second}") from second

    async def encode_query(self, text: str) -> SparseVector:
        """Return the sparse vector of a search query."""
        return await retry_once(
            partial(self._run, Lane.INTERACTIVE, QUERY_SECONDS, encode_query, text)
        )

    async def report_limits(self) -> LimitsReport:
        """Return the limits that are in force in a process."""
        return await self._interactive.report_limits()

    async def stop(self) -> None:
        """End the processes at once. Stopping twice, or before starting, is fine."""
        await asyncio.gather(self._small.stop(), self._shared.stop(), self._interactive.stop())

    async def _run(
        self,
        lane: Lane,
        seconds: float,
        function: Callable[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        async with self._place(lane) as processes:
            return await processes.run(seconds, function, *args, **kwargs)

    @asynccontextmanager
    async def _place(self, lane: Lane) -> AsyncIterator[Processes]:
        """Wait for a free process; yield the processes that it is one of."""
        async with self._free.hold(lane) as reserved:
            yield self._interactive if reserved else self._shared


def _record(seconds: StageSeconds) -> None:
    """Record how long a parse process has worked on a document or a segment."""
    for stage, taken in seconds.items():
        metrics.observe(metrics.STAGE_SECONDS, taken, stage)


# From here on: what runs in the processes.

_chunker: "Chunker"
_sparse: "SparseEncoder"
_config: ParseConfig
_hooks: "Hooks | None" = None
_hooks_error = ""


def initialize(config: ParseConfig) -> None:
    """Load the parser, the tokenizer and the BM25 encoder; no model is needed.

    Raises UsageError if the parser cannot be loaded: that is no document's fault.
    """
    global _chunker, _sparse, _config, _hooks, _hooks_error
    from worker.text.chunking.chunker import Chunker
    from worker.text.hooks import load_hooks
    from worker.text.words.bm25 import SparseEncoder

    _config = config
    _sparse = SparseEncoder(config.reading.languages)
    _chunker = Chunker(config.tokenizer.read_text(encoding="utf-8"), config.max_tokens)
    _load_parser()
    try:
        _hooks = load_hooks(config.reading.hooks)
    except UsageError as error:  # searches need none
        _hooks_error = str(error)
    except MemoryError:
        setting = ProcessKind.PARSE.memory_setting
        _hooks_error = f"the hooks need more memory to be loaded than {setting} allows"


def versions_of_hooks() -> HookVersions:
    """Return the versions of the hooks. Raises UsageError if they could not be loaded."""
    return _loaded_hooks(NO_HOOKS).versions


def _loaded_hooks(expected: HookVersions) -> "Hooks":
    """Return the hooks. Raises UsageError if there is none, or if they are not the ``expected``.

    A process may start long after the others, and would mix text or metadata of two versions.
    """
    if _hooks is None:
        raise UsageError(_hooks_error)
    if expected != NO_HOOKS and _hooks.versions != expected:
        now = ", ".join(filter(None, _hooks.versions))
        raise UsageError(
            f"a hook was changed while this worker ran: it is {now} now; start the worker again"
        )
    return _hooks


def _load_parser() -> None:
    """Let the parser read a PDF, so that one that cannot work is noticed. Raises UsageError."""
    from worker.text.extract import extract

    try:
        extract(TINY_PDF, "application/pdf")
    except DocumentRejected as error:
        raise UsageError(f"the parser does not work on this machine: {error}") from error


def prepare_document(
    document: Document, known_hash: str | None, ocr_pages: int | None, hooks: HookVersions
) -> PreparedDocument | UnchangedContent | None:
    """See `worker.text.prepare.prepare`.

    Returns None if OCR would have to read more than ``ocr_pages`` pages; None is any number.
    """
    from worker.text.ocr import OcrPostponed, ocr_budget
    from worker.text.prepare import prepare
    from worker.text.stage_times import taken

    limit_by_size(_size_of(document))
    taken()  # what a document that failed has left
    try:
        with ocr_budget(ocr_pages):
            prepared = prepare(
                document,
                known_hash,
                _config.max_document_bytes,
                _chunker,
                _encode(),
                _config.reading,
                _loaded_hooks(hooks),
            )
    except OcrPostponed:
        return None
    if isinstance(prepared, UnchangedContent):
        return msgspec.structs.replace(prepared, seconds=taken())
    return msgspec.structs.replace(
        prepared,
        first=replace(prepared.first, seconds=taken()),
        # Here, so that the message to the worker is bounded.
        warnings=bounded_warnings(prepared.warnings),
    )


def _size_of(document: Document) -> int:
    """Return the size of the content in bytes; 0 if its file cannot be found, as `prepare` says."""
    if document.text is not None:
        return len(document.text.encode())
    if document.url is not None:
        return (size_in_state(document.file) if document.file is not None else None) or 0
    assert document.path is not None, "blobs have been fetched to a file"
    try:
        return text_to_path(document.path).stat().st_size
    except OSError:
        return 0


def prepare_segment(document: Document, place: SegmentStart) -> Segment:
    """See `worker.text.prepare.prepare_rest`."""
    from worker.text.prepare import prepare_rest
    from worker.text.stage_times import taken

    limit_by_size(_chunker.segment_characters)
    taken()  # what a document that failed has left
    return replace(prepare_rest(document, place, _chunker, _encode()), seconds=taken())


def prepare_again(
    document: Document, stored: ExtractedDocument, hooks: HookVersions
) -> PreparedDocument:
    """See `worker.text.prepare.prepare_stored`."""
    from worker.text.prepare import prepare_stored

    limit_by_size(sum(len(part.text) for part in stored.parts))
    prepared = prepare_stored(document, stored, _chunker, _encode(), _loaded_hooks(hooks))
    return msgspec.structs.replace(prepared, warnings=bounded_warnings(prepared.warnings))


def _encode() -> "Callable[[str], SparseVector] | None":
    return _sparse.document if _config.hybrid else None


def encode_query(text: str) -> SparseVector:
    """Return the sparse vector of a search query."""
    return _sparse.query(text)
