"""``ingestq up --drop`` is killed while a folder changes: the index ends equal to the folder."""

import asyncio
import random
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.bundled import bundled_qdrant
from tests.command import Ingestq
from tests.waiting import eventually
from worker.store.collection import find_collection
from worker.store.requests import pages

FILES = 2000
FOLDERS = 40
PAUSE_SECONDS = 0.03
"""Between two changes, so that they go on while the command starts again."""
RESCAN_SECONDS = 5
BACKLOG_SECONDS = 150.0
"""Longest time to start, and to work off the backlog, on a busy machine."""


class Changing:
    """A folder that changes step by step, the same way in every run."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._rng = random.Random(0)
        self._made = 0

    def steps(self) -> Iterator[int]:
        """Make one change a step; yield how many files were made so far."""
        while self._made < FILES:
            self._write(self._root / f"{self._made % FOLDERS}" / f"{self._made}.txt")
            self._made += 1
            if not self._made % 5:
                self._edit()
            if not self._made % 40:
                self._files()[0].unlink()
            if not self._made % 30:
                self._rename()
            if not self._made % 250:
                folder = min(path for path in self._root.iterdir())
                folder.rename(self._root / f"moved-{self._made}")
            yield self._made

    def _write(self, path: Path) -> None:
        """Write a file under a temporary name and rename it, or word by word in place."""
        path.parent.mkdir(exist_ok=True)
        text = f"Note {self._made}. The tide turns at {self._rng.random()}."
        if self._rng.random() < 0.5:
            unfinished = path.with_name(path.name + ".part")
            unfinished.write_text(text)
            unfinished.rename(path)
        else:
            with path.open("w", encoding="utf-8") as file:
                for word in text.split(" "):
                    file.write(word + " ")
                    file.flush()

    def _edit(self) -> None:
        self._write(self._rng.choice(self._files()))

    def _rename(self) -> None:
        path = self._rng.choice(self._files())
        path.rename(path.with_name(f"renamed-{self._made}.txt"))

    def _files(self) -> list[Path]:
        return sorted(self._root.rglob("*.txt"))


class Up:
    """The command, with its log in a file."""

    def __init__(self, ingestq: Ingestq) -> None:
        self._ingestq = ingestq
        self._log = ingestq.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, *arguments: str) -> None:
        self._launch(*arguments)
        await eventually(self.log, lambda log: "watch.started" in log, BACKLOG_SECONDS)

    def _launch(self, *arguments: str) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._ingestq.command("up", *arguments),
                cwd=self._ingestq.folder,
                env=self._ingestq.environment(),
                stderr=log,
            )

    def end(self, number: signal.Signals) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(BACKLOG_SECONDS)

    async def log(self) -> str:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        return self._log.read_text()

    async def scanned(self) -> None:
        """Wait until a scan that began after this call has ended, and no job waits."""
        before = (await self.log()).count("watch.scanned")
        await eventually(
            self.log, lambda log: log.count("watch.scanned") >= before + 2, BACKLOG_SECONDS
        )
        await self.idle()

    async def idle(self) -> None:
        """Wait until no job waits or runs."""

        async def jobs() -> int:
            queue = (await client.get("/status")).json()["queue"]
            return int(queue["ready"] + queue["deferred"] + queue["in_flight"])

        async with await self.client() as client:
            await eventually(jobs, lambda jobs: jobs == 0, BACKLOG_SECONDS)

    async def client(self) -> httpx.AsyncClient:
        """Return a client of its API."""
        found = re.search(r"url\W+(http://[^\s\x22]+)", await self.log())
        assert found is not None
        return httpx.AsyncClient(base_url=found[1], timeout=60)


@asynccontextmanager
async def up(ingestq: Ingestq) -> AsyncIterator[Up]:
    """Yield the command, to be started; kill it on leaving."""
    running = Up(ingestq)
    try:
        yield running
    finally:
        running.end(signal.SIGKILL)


async def indexed(folder: Path) -> dict[str, str]:
    """Return the text of every document."""
    async with bundled_qdrant(folder / ".ingestq") as qdrant:
        names = await find_collection(qdrant, "documents")
        assert names is not None
        return {
            (record.payload or {})["doc_id"]: (record.payload or {})["page_content"]
            async for page in pages(qdrant, names.chunks, None, True, 500)
            for record in page
        }


@pytest.mark.slow
async def test_the_index_ends_equal_to_the_folder(ingestq: Ingestq) -> None:
    ingestq.settings |= {
        "api_port": "0",
        "drop_settle_seconds": "0.5",
        "drop_rescan_seconds": str(RESCAN_SECONDS),
    }
    root = ingestq.folder / "in"
    root.mkdir()
    async with up(ingestq) as running:
        starting = asyncio.create_task(running.start("--drop", "in"))
        await starting
        for made in Changing(root).steps():
            await asyncio.sleep(PAUSE_SECONDS)  # the folder changes over time
            if made in (FILES // 3, 2 * FILES // 3):
                await starting
                running.end(signal.SIGKILL)
                starting = asyncio.create_task(running.start("--drop", "in"))
        await starting
        await running.scanned()
        await running.scanned()  # purges dead letters of files deleted before their job ran
        assert running.end(signal.SIGTERM) == 0
        files = {str(path): path.read_text().strip() for path in root.rglob("*.txt")}
        assert await indexed(ingestq.folder) == files
        assert ingestq("status", "--json").json["dead_letters"] == 0
