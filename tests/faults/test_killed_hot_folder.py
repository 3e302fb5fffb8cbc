"""``ingestq drop --hot`` is killed again and again: every file is moved once."""

import random
import signal
from collections import Counter
from functools import partial
from operator import le
from pathlib import Path

import pytest

from tests.command import Ingestq
from tests.running_command import running
from tests.waiting import eventually

FILES = 140
STARTS = 7
"""Of the command; all but the last end by SIGKILL."""
PATIENCE = 150.0
"""Seconds that the command, and at first a worker, may take to start on a busy machine."""


@pytest.mark.slow
async def test_every_file_is_moved_once_however_often_the_command_is_killed(
    ingestq: Ingestq,
) -> None:
    ingestq.settings |= {"drop_settle_seconds": "0.2", "pool_size": "1"}
    root = ingestq.folder / "in"
    for place in ("done", "failed"):
        (root / place).mkdir(parents=True)

    def write(number: int) -> None:
        content = b"\1\2\3\4\5\6 binary %d" % number if number % 10 == 0 else b"Note %d." % number
        (root / f"{number}.txt").write_bytes(content)

    async def remaining() -> list[Path]:
        return [path for path in root.iterdir() if path.is_file()]

    async def moved() -> int:
        return len([*(root / "done").iterdir(), *(root / "failed").glob("*.txt.error.txt")])

    rng = random.Random(0)
    with running(ingestq, "worker") as worker:
        for start in range(1, STARTS + 1):
            for number in range((start - 1) * FILES // STARTS, start * FILES // STARTS):
                write(number)
            before = await moved()
            drop = ingestq.start("drop", "--hot", root)
            try:
                if start < STARTS:  # in the middle of its work, or just after it
                    some = before + rng.randint(1, FILES // STARTS)
                    await eventually(moved, partial(le, some), PATIENCE)
                else:
                    await eventually(remaining, lambda files: not files, PATIENCE)
            finally:
                drop.send_signal(signal.SIGKILL if start < STARTS else signal.SIGTERM)
                _, log = drop.communicate()
        assert drop.returncode == 0, log
        worker.tell(signal.SIGTERM)
        worker.process.wait()
    for place, wanted in (("done", 9), ("failed", 1)):
        contents = Counter(path.read_bytes() for path in (root / place).glob("*.txt"))
        notes = {content: n for content, n in contents.items() if content[:1] in (b"N", b"\1")}
        assert len(notes) == FILES * wanted // 10
        assert set(notes.values()) == {1}
