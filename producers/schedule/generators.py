"""Documents that a function of the user yields."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog

from ingestq.core import events
from ingestq.core.documents import Document
from ingestq.core.errors import SourceFailed, UsageError, in_one_line
from ingestq.core.named_code import load_named
from ingestq.core.results import FailedDocument
from producers.files.json_lines import NOT_A_DOCUMENT, DocumentLine, to_document

log = structlog.get_logger()


@dataclass(frozen=True)
class Generator:
    """An ``async def`` function that yields documents, named as ``package.module:function``."""

    name: str

    def __str__(self) -> str:
        return self.name

    def load(self) -> Callable[[], AsyncGenerator[Any, None]]:
        """Import and return the function. Blocks.

        Raises UsageError if it cannot be imported, or is not an async generator function.
        """
        found = load_named("generator", self.name)
        if not inspect.isasyncgenfunction(found):
            raise UsageError(f"generator {self.name!r} is not an `async def` function that yields")
        function: Callable[[], AsyncGenerator[Any, None]] = found
        return function

    async def documents(
        self, clock: Callable[[], Awaitable[int]]
    ) -> AsyncGenerator[Document | FailedDocument, None]:
        """Call the function and yield its documents, with times of ``clock`` as default versions.

        The function yields documents, or mappings with the fields of
        `producers.files.json_lines.DocumentLine`. Raises SourceFailed if it raises.
        """
        number = 0
        async with aclosing(self._items()) as items:
            async for item in items:
                number += 1
                try:
                    yield await _document(item, clock)
                except NOT_A_DOCUMENT as error:
                    yield FailedDocument(f"item {number}", f"not a document: {error}")

    async def _items(self) -> AsyncGenerator[Any, None]:
        function = await asyncio.to_thread(self.load)
        async with aclosing(function()) as items:
            while True:
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    return
                except Exception as error:  # whatever the user's function does
                    log.warning(events.GENERATOR_FAILED, generator=self.name, exc_info=True)
                    raise SourceFailed(f"{self.name} failed: {in_one_line(error)}") from error
                yield item


async def _document(item: Any, clock: Callable[[], Awaitable[int]]) -> Document:
    if isinstance(item, Document):
        document = item
    else:
        document = await to_document(msgspec.convert(item, DocumentLine), clock)
    document.doc_id.encode()  # raises for a lone surrogate
    return document
