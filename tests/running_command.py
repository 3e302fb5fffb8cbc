"""A command that runs in the background, and all that it logs."""

import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.command import Ingestq
from tests.waiting import POLL_SECONDS, SECONDS


@dataclass(frozen=True)
class Running:
    """A command that runs.

    What it writes to stderr is in the file ``log``: a pipe would stop it when it is full.
    """

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        """The URL of the API that it serves; it must have said so."""
        found = re.search(r"url\W+(http://[^\s\x22]+)", self.said())
        assert found is not None, self.said()
        return found[1]

    def connect(self) -> socket.socket:
        """Return a connection to its API."""
        url = httpx.URL(self.url)
        assert url.port is not None
        return socket.create_connection((url.host, url.port), timeout=SECONDS)

    def said(self) -> str:
        """Return what it has logged so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def says(self, words: str, seconds: float = SECONDS) -> None:
        """Wait until the log contains ``words``."""
        deadline = time.monotonic() + seconds
        while words not in self.said():
            assert self.process.poll() is None, f"it has ended: {self.said()}"
            assert time.monotonic() < deadline, f"no {words!r}: {self.said()}"
            time.sleep(POLL_SECONDS)

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def ends(self, code: int, seconds: float = SECONDS) -> None:
        """Assert that it ends with exit ``code`` and without a traceback."""
        assert self.process.wait(seconds) == code, self.said()
        assert "Traceback" not in self.said()

    def stop(self) -> None:
        """Stop it by SIGTERM, and assert that it ends well."""
        self.tell(signal.SIGTERM)
        self.ends(0)


@contextmanager
def running(
    ingestq: Ingestq,
    *arguments: str | Path,
    terminal: int | None = None,
    first: Callable[[], None] | None = None,
) -> Iterator[Running]:
    """Run a command in the background; kill it on leaving.

    It has a ``terminal`` as its standard streams, or nothing and a log. It calls ``first`` before.
    """
    log = ingestq.folder / f".{arguments[0]}.log"  # hidden: a command may watch its folder
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            ingestq.command(*arguments),
            cwd=ingestq.folder,
            env=ingestq.environment(),
            stdin=terminal,
            stdout=subprocess.DEVNULL if terminal is None else terminal,
            stderr=stderr if terminal is None else terminal,
            preexec_fn=first,
        )
    try:
        yield Running(process, log)
    finally:
        process.kill()
        process.wait(SECONDS)


@contextmanager
def serving(ingestq: Ingestq, *command: str | Path, **settings: str) -> Iterator[Running]:
    """Run ``ingestq api``, or another ``command`` that serves the API; yield when it does.

    It is stopped on leaving, and killed if it does not stop.
    """
    ingestq.settings |= {"api_port": "0"} | settings
    with running(ingestq, *(command or ("api",))) as served:
        served.says("api.started")
        try:
            yield served
        finally:
            served.tell(signal.SIGTERM)
            served.process.wait(SECONDS)
