"""Commands that run in the background, and the bundled Redis that they use."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ingestq.embedded.lock_file import is_locked, open_lock
from tests.command import Ingestq
from tests.waiting import POLL_SECONDS, SECONDS


@dataclass(frozen=True)
class Running:
    """A command that runs, with what it has written to stderr in ``log``."""

    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def says(self, words: str, seconds: float = SECONDS) -> None:
        """Wait until the log contains ``words``."""
        deadline = time.monotonic() + seconds
        while words not in self.said():
            assert self.process.poll() is None, f"it has ended: {self.said()}"
            assert time.monotonic() < deadline, f"no {words!r}: {self.said()}"
            time.sleep(POLL_SECONDS)

    def ends(self, code: int, seconds: float = SECONDS) -> None:
        """Assert that it ends with exit ``code`` and without a traceback."""
        assert self.process.wait(seconds) == code, self.said()
        assert "Traceback" not in self.said()


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
    log = ingestq.folder / f"{arguments[0]}.log"
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


def redis_folder(ingestq: Ingestq) -> Path:
    return ingestq.folder / ".ingestq" / "redis"


def redis_pid(ingestq: Ingestq) -> int:
    """Return the pid of the bundled Redis."""
    return int((redis_folder(ingestq) / "server.pid").read_text())


def redis_is_alive(ingestq: Ingestq) -> bool:
    with open_lock(redis_folder(ingestq) / "alive.lock") as alive:
        return is_locked(alive)
