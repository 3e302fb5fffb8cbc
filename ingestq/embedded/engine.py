"""The bundled Qdrant: `ingestq.embedded.qdrant` in a process of its own, on a Unix socket.

The process serves Qdrant's REST interface from the folder ``qdrant`` of the data directory.
"""

import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from ingestq.core import events
from ingestq.core.errors import StoreUnavailable
from ingestq.embedded.server import (
    LITTLE_DISK_BYTES,
    BundledServer,
    ServerEvents,
    ServerProgram,
    free_bytes,
)
from ingestq.embedded.supervision import SupervisedServer, open_server

FOLDER: Final = "qdrant"
"""Below the data directory."""
CATALOG: Final = "catalog.json"
"""There as soon as it holds a collection."""
LOG: Final = "qdrant.log"
MODULE: Final = "ingestq.embedded.qdrant"
START_IN_BACKGROUND: Final = 'MALLOC_ARENA_MAX="${MALLOC_ARENA_MAX:-1}" "$@" & echo $! > "$0"'
"""A shell script: run the arguments as a process that belongs to nobody, and write its pid.

With one arena, glibc reuses what any thread has freed. With one a thread, memory grew by 1.6 kB a
write without end (docs/adr/0008-bundled-engine.md).
"""
TAIL_BYTES: Final = 16 * 1024
"""More than the engine logs when it ends."""
NO_SPACE: Final = re.compile(r"No space left|Disk quota exceeded")
OWN_ERROR: Final = re.compile(r"ingestq\.[\w.]+: (.*)")
STOPPED: Final = re.compile(rf'.*"event":"{re.escape(events.ENGINE_STOPPED)}".*')
FAILURE: Final = re.compile(r"[\w.]*(?:Error|Exception): .*")
"""The last lines of tracebacks."""


def _command(folder: Path, socket: Path) -> Sequence[str | Path]:
    # -P: a module of the user's, in the current directory, must not be taken for one of ours.
    engine = (sys.executable, "-P", "-m", MODULE, folder, "--socket", socket)
    return ("/bin/sh", "-c", START_IN_BACKGROUND, folder / "server.pid", *engine)


def _is_ready(answer: bytes) -> bool:
    return answer.split(b" ")[1:2] == [b"200"]


def _is_disk_full(log: Path) -> bool:
    return free_bytes(log.parent) < LITTLE_DISK_BYTES


def _why_stopped(log: Path) -> str:
    """Return why the engine that wrote ``log`` ended, and what to do. Blocks, raises OSError."""
    if _is_disk_full(log):
        return f"the disk is full; free some space on the disk of {log.parent}"
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
    except FileNotFoundError:
        lines = []
    last = next((line for line in reversed(lines) if line.strip()), "")
    if NO_SPACE.search(last):
        return f"it cannot write to its disk ({last}); free some space on the disk of {log.parent}"
    if own := OWN_ERROR.fullmatch(last):
        return own[1]
    if FAILURE.fullmatch(last):
        return last
    if STOPPED.fullmatch(last):
        return "somebody stopped it"
    return "it was killed, by somebody or for want of memory"


ENGINE: Final = ServerProgram(
    name="the bundled Qdrant",
    setting="INGESTQ_QDRANT_URL",
    socket="qdrant.sock",
    log=LOG,
    unavailable=StoreUnavailable,
    events=ServerEvents(events.QDRANT_STOPPED, events.QDRANT_RESTARTED, events.QDRANT_NOT_STOPPED),
    command=_command,
    program=MODULE.encode(),
    probe=b"GET /readyz HTTP/1.1\r\nHost: qdrant\r\nConnection: close\r\n\r\n",
    is_ready=_is_ready,
    shutdown=None,
    is_hopeless=_is_disk_full,
    why_stopped=_why_stopped,
)


@asynccontextmanager
async def open_engine(
    data_dir: Path, socket_places: Sequence[Path] = ()
) -> AsyncIterator[SupervisedServer]:
    """Use the bundled Qdrant of ``data_dir``: start it if it does not run, and again if it stops.

    Its socket is below one of ``socket_places``, or of the temporary directory, if the path of
    ``data_dir`` is too long. If the data directory is deleted, the block is cancelled and
    StoreUnavailable raised. Also raises StoreUnavailable if the engine does not start, UsageError
    if ``data_dir`` cannot be used.
    """
    server = BundledServer(ENGINE, data_dir / FOLDER, socket_places)
    async with open_server(server, data_dir) as engine:
        yield engine
