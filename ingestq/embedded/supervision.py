"""The use of a bundled server by one process.

Processes on one machine share it: the first one starts it, the last one to leave stops it, and
whoever finds it dead starts it again.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import structlog

from ingestq.core.data_directory import data_directory
from ingestq.core.errors import ServiceUnavailable
from ingestq.core.service import cancelled_with, happens_within, uninterrupted
from ingestq.embedded.server import BundledServer, Probe

log = structlog.get_logger()

CHECK_SECONDS: Final = 0.5
"""How often the server is checked. A failed command has it checked at once."""
FIRST_BACKOFF_SECONDS: Final = 0.5
LONGEST_BACKOFF_SECONDS: Final = 5.0
STEADY_SECONDS: Final = 30.0
"""A server that ran for longer is restarted at once, and the back-off begins anew."""


class SupervisedServer:
    """A server under a data directory, restarted whenever it has stopped. See `open_server`."""

    def __init__(self, server: BundledServer, data_dir: Path) -> None:
        self._server = server
        self._data_dir = data_dir
        self._reason: str | None = None
        self._suspected = asyncio.Event()
        self._started = time.monotonic()
        self._backoff_seconds = 0.0
        self.socket = server.socket

    def outage(self) -> str:
        """Return why the server does not answer. Called when it does not; has it checked."""
        self._suspected.set()
        return self._reason or (
            f"{self._server.program.name} does not answer; ingestq starts it again if it has "
            "stopped"
        )

    async def supervise(self, stopping: asyncio.Event) -> None:
        """Restart the server, with back-off, whenever it has stopped.

        Raises the program's ``unavailable`` if the data directory is gone. The server on its
        deleted files is stopped then: it would accept documents that nobody will ever find.
        """
        while not stopping.is_set():
            await happens_within(self._suspected, CHECK_SECONDS)
            self._suspected.clear()
            if not await asyncio.to_thread(self._server.is_in_place):
                await self._server.stop()
                raise self._server.program.unavailable(
                    f"INGESTQ_DATA_DIR: {self._data_dir} was deleted or replaced while ingestq "
                    "used it, and the queue and the index in it are gone; start ingestq again and "
                    "index the sources again"
                )
            match await self._server.probe():
                case Probe.UNREACHABLE:
                    await self._restart(stopping)
                case Probe.READY if self._reason is not None:
                    log.warning(self._server.program.events.restarted, reason=self._reason)
                    self._reason = None

    async def _restart(self, stopping: asyncio.Event) -> None:
        """Start the server again, after the back-off. The next check shows whether it runs."""
        if not self._server.is_alive():
            reason = await self._server.why_stopped()
            self._say(f"{self._server.program.name} has stopped: {reason}")
        if time.monotonic() - self._started < STEADY_SECONDS:
            await happens_within(stopping, self._backoff_seconds)
            longer = max(FIRST_BACKOFF_SECONDS, 2 * self._backoff_seconds)
            self._backoff_seconds = min(longer, LONGEST_BACKOFF_SECONDS)
        else:
            self._backoff_seconds = 0.0
        self._started = time.monotonic()
        try:
            await self._server.restart()
        except ServiceUnavailable as error:
            self._say(str(error))

    def _say(self, reason: str) -> None:
        """Keep the reason for those who ask, and log it unless it is known."""
        if reason != self._reason:
            log.error(self._server.program.events.stopped, reason=reason)
        self._reason = reason


@asynccontextmanager
async def open_server(server: BundledServer, data_dir: Path) -> AsyncIterator[SupervisedServer]:
    """Use ``server``, under ``data_dir``: start it if it does not run, and again if it stops.

    If the data directory is deleted, the block is cancelled and the program's ``unavailable``
    raised. Also raises that if the server does not start, UsageError if ``data_dir`` cannot be
    used.
    """
    await asyncio.to_thread(data_directory, data_dir)
    try:
        await server.join()
        supervised = SupervisedServer(server, data_dir)
        async with cancelled_with(supervised.supervise, name=server.program.name):
            yield supervised
    finally:
        await uninterrupted(server.leave())
