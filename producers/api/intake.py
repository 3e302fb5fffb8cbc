"""Reads request bodies within bounds of size, memory and patience."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import HTTPException, Request

from producers.api.errors import retry_after

HELD_BODIES: Final = 2
"""How many bodies of the largest size are held at once; of smaller ones, accordingly more.

Until its document is on the queue, a body costs up to six times its size in memory: as it came, as
text, and as the job that is sent to Redis.
"""
BUSY_RETRY_SECONDS: Final = 1.0


class Intake:
    """Holds the bodies of all requests that are read or queued at the moment."""

    def __init__(self, max_body_bytes: int, silence_seconds: float) -> None:
        self._max_body_bytes = max_body_bytes
        self._max_held_bytes = HELD_BODIES * max_body_bytes
        self._silence_seconds = silence_seconds
        self._held_bytes = 0

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytearray]:
        """The whole body of ``request``; it counts as held until the block is left.

        Raises HTTPException: 413 if it is too large, whatever its Content-Length says, 429 if too
        much is held, 408 if the client goes silent. Raises ClientDisconnect if it goes away.
        """
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._max_body_bytes:
            raise self._too_large()
        body = bytearray()
        try:
            await self._read(request, body)
            yield body
        finally:
            self._held_bytes -= len(body)

    async def _read(self, request: Request, body: bytearray) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._silence_seconds) as patience:
                async for chunk in request.stream():
                    if len(body) + len(chunk) > self._max_body_bytes:
                        raise self._too_large()
                    if self._held_bytes + len(chunk) > self._max_held_bytes:
                        raise HTTPException(
                            429, "too much is being uploaded", retry_after(BUSY_RETRY_SECONDS)
                        )
                    body += chunk
                    self._held_bytes += len(chunk)
                    patience.reschedule(loop.time() + self._silence_seconds)
        except TimeoutError as error:
            raise HTTPException(
                408, f"nothing came for {self._silence_seconds:g} s", {"Connection": "close"}
            ) from error

    def _too_large(self) -> HTTPException:
        return HTTPException(
            413,
            f"the body is larger than {self._max_body_bytes} bytes, which is the limit of this "
            "server (INGESTQ_MAX_DOCUMENT_BYTES)",
        )
