"""Folders for copies: kept while a thread fills them, and never left behind."""

import os
import subprocess
import sys
from pathlib import Path

from ingestq.core.temporary_folders import copy_folder
from tests.waiting import SECONDS

FILLED_UNTIL_THE_END = """
import asyncio, threading
from ingestq.core.daemon_threads import DaemonThreads
from ingestq.core.temporary_folders import copy_folder

def fill(folder, has_begun):
    with folder.filling() as path:
        (path / "content").write_text("private")
        has_begun()
        threading.Event().wait()

async def main():
    has_begun = asyncio.Event()
    report = lambda loop=asyncio.get_running_loop(): loop.call_soon_threadsafe(has_begun.set)
    async with copy_folder() as folder:
        filling = asyncio.create_task(DaemonThreads("x", 1).call(fill, folder, report))
        await has_begun.wait()
        filling.cancel()
        await asyncio.wait([filling])
    print((folder.path / "content").read_text())

asyncio.run(main())
"""


async def test_a_folder_that_a_thread_still_fills_is_deleted_when_that_ends() -> None:
    async with copy_folder() as folder:
        filling = folder.filling()
        path = filling.__enter__()
    (path / "content").touch()
    filling.__exit__(None, None, None)
    assert path.name not in os.listdir(path.parent)


def test_a_process_that_ends_deletes_what_a_thread_fills(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FILLED_UNTIL_THE_END],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "private\n", "")
    assert not list(tmp_path.iterdir())
