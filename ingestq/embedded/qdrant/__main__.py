"""Serves the collections of a folder: ``python -m ingestq.embedded.qdrant FOLDER --socket PATH``.

It serves until SIGTERM or SIGINT: then it takes no more requests, finishes those it has, and closes
the shards. Its log is ``qdrant.log`` in the folder. `ingestq.embedded.engine` starts it, and
sees to it that there is one a folder.
"""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Final

import structlog
import uvicorn

from ingestq.core import events
from ingestq.core.log_setup import LogFormat, configure_logging
from ingestq.embedded.qdrant.app import create_app
from ingestq.embedded.qdrant.collections import OpenCollections

log = structlog.get_logger()

PRIVATE_UMASK: Final = 0o077
BACKLOG: Final = 128
MOST_REQUESTS: Final = 256
"""More at a time are answered with 503: each may hold a body of 32 MB."""
KEEP_ALIVE_SECONDS: Final = 60
"""Longer than clients keep an idle connection (httpx: 5 s): none is closed under a request."""
FINISH_SECONDS: Final = 5
"""How long requests may take that are under way when the process is asked to end."""
SWITCH_SECONDS: Final = 0.001
"""How long a thread may keep others waiting: a query waits for the threads that write."""


def main() -> None:
    """Serve until a signal arrives. An error ends up in the log as its last line."""
    parser = argparse.ArgumentParser(prog="python -m ingestq.embedded.qdrant")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--socket", type=Path, required=True)
    arguments = parser.parse_args()
    os.umask(PRIVATE_UMASK)
    sys.setswitchinterval(SWITCH_SECONDS)
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    _log_to(folder / "qdrant.log")
    asyncio.run(_serve(folder, arguments.socket))


async def _serve(folder: Path, path: Path) -> None:
    collections = await OpenCollections.open(folder)
    try:
        config = uvicorn.Config(
            create_app(collections),
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            limit_concurrency=MOST_REQUESTS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=FINISH_SECONDS,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            # uvicorn stops serving on these, and raises them again when it has.
            signal.signal(number, lambda *_: None)
        with _listener(path) as listener:
            log.info(events.ENGINE_STARTED)
            await uvicorn.Server(config).serve(sockets=[listener])
            log.info(events.ENGINE_STOPPED)
    finally:
        await collections.close()


def _listener(path: Path) -> socket.socket:
    """Return a listening socket at ``path``, in place of what a killed process has left there."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(BACKLOG)
    return listener


def _log_to(path: Path) -> None:
    """Write the log, and what the engine prints when it panics, to ``path``."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    os.close(descriptor)
    configure_logging(logging.INFO, LogFormat.JSON)


if __name__ == "__main__":
    main()
