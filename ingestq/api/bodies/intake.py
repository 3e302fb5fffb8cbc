"""Reads request bodies within limits of size, memory and time."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import HTTPException, Request

from ingestq.api.bodies.multipart import Event, FormSplitter
from ingestq.api.errors import retry_after
from ingestq.core.lines import LineSplitter

HELD_BODIES: Final = 2
"""How many bodies of the maximum size are held at once; of smaller ones, accordingly more.

Until its document is on the queue, a body costs up to six times its size in memory: as bytes, as
text, and as the job that is sent to Redis.
"""
BUSY_RETRY_SECONDS: Final = 1.0
MIN_BYTES_PER_SECOND: Final = 4096
"""A client that is slower than this, for longer than it may be silent, is cut off.

64 MiB may take 4.5 hours.
"""


class Intake:
    """Reads the bodies of all requests, and bounds the memory that they take together.

    A client may be silent for ``silence_seconds``, and no slower than `MIN_BYTES_PER_SECOND` for
    longer than that. The time while the server itself is not ready for more does not count. Whole
    bodies of up to ``free_bytes`` do not count as held, so large ones do not keep them out.
    """

    def __init__(
        self,
        max_body_bytes: int,
        silence_seconds: float,
        held_bodies: int = HELD_BODIES,
        free_bytes: int = 0,
    ) -> None:
        self.max_body_bytes = max_body_bytes
        self._free_bytes = free_bytes
        self._max_held_bytes = held_bodies * max_body_bytes
        self._silence_seconds = silence_seconds
        self._held_bytes = 0

    @asynccontextmanager
    async def body(
        self, request: Request, max_bytes: int | None = None
    ) -> AsyncIterator[bytearray]:
        """Yield the whole body of ``request``; it counts as held until the block is left.

        It may have ``max_bytes`` if that is less than the limit of this intake.

        Raises HTTPException: 413 if it is too large, whatever its Content-Length says, 429 if too
        much is held, 408 if the client goes silent. Raises ClientDisconnect if it disconnects.
        """
        limit = self.max_body_bytes if max_bytes is None else min(max_bytes, self.max_body_bytes)
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > limit:
            raise self._too_large(limit)
        body = bytearray()
        held = 0
        try:
            async for part in self._parts(request):
                size = len(body) + len(part)
                if size > limit:
                    raise self._too_large(limit)
                if size > self._free_bytes:
                    self._hold(size - held)
                    held = size
                body += part
            yield body
        finally:
            self._held_bytes -= held

    async def form(self, request: Request) -> AsyncGenerator[Event, None]:
        """Yield the events of a form as they arrive; only the bytes received last count as held.

        Raises HTTPException: 422 if it is not a form, 429 if too much is held, 408 if the client
        goes silent. Raises ClientDisconnect if it disconnects.
        """
        try:
            splitter = FormSplitter(request.headers["content-type"])
            async for part in self._parts(request):
                self._hold(len(part))
                try:
                    for event in splitter.feed(part):
                        yield event
                finally:
                    self._held_bytes -= len(part)
            splitter.end()
        except ValueError as error:
            raise HTTPException(422, str(error)) from error

    async def lines(self, request: Request) -> AsyncGenerator[list[bytes | None], None]:
        """Yield the lines of a body as they arrive, in groups; None is a line that is too long.

        The bytes received last and an unfinished line count as held. Raises HTTPException: 429 if
        too much is held, 408 if the client goes silent. Raises ClientDisconnect if it disconnects.
        """
        splitter = LineSplitter(self.max_body_bytes)
        held = 0
        try:
            async for part in self._parts(request):
                self._hold(len(part))
                held += len(part)
                yield splitter.feed(part)
                self._held_bytes -= held - splitter.held_bytes
                held = splitter.held_bytes
            yield splitter.end()
        finally:
            self._held_bytes -= held

    async def _parts(self, request: Request) -> AsyncIterator[bytes]:
        parts = request.stream()
        # Seconds for which the client may still keep us waiting. What it sends fast buys no more of
        # them: it would hold its place, and memory, for hours.
        credit = self._silence_seconds
        while True:
            began = time.monotonic()
            try:
                async with asyncio.timeout(credit):
                    part = await anext(parts)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise HTTPException(
                    408,
                    f"the client sent nothing for {self._silence_seconds:g} s, or less than "
                    f"{MIN_BYTES_PER_SECOND} bytes a second for longer",
                    {"Connection": "close"},
                ) from error
            credit += len(part) / MIN_BYTES_PER_SECOND - (time.monotonic() - began)
            credit = min(credit, self._silence_seconds)
            yield part

    def _hold(self, size: int) -> None:
        if self._held_bytes + size > self._max_held_bytes:
            raise HTTPException(
                429, "too many uploads at once; try again later", retry_after(BUSY_RETRY_SECONDS)
            )
        self._held_bytes += size

    def _too_large(self, limit: int) -> HTTPException:
        if limit < self.max_body_bytes:
            message = f"the body is larger than {limit} bytes, the limit without the right to write"
        else:
            message = (
                f"the body is larger than {limit} bytes, the limit of this server "
                "(INGESTQ_MAX_DOCUMENT_BYTES)"
            )
        return HTTPException(413, message)
