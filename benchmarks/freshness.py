"""Measure how soon a written file is searchable: ``python -m benchmarks.freshness``.

Starts ``ingestq up --drop`` with its defaults, and writes one small file after the other into the
folder while there is no other work. Takes about three minutes, prints a table with the targets
and writes ``benchmarks/results/freshness.json``. Qdrant is the bundled one, unless
``INGESTQ_QDRANT_URL`` names a server; Redis is embedded.
"""

import asyncio
import logging
import os
import random
import re
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

import httpx
from rich.console import Console

from benchmarks.arguments import make_parser, parse_args
from benchmarks.machine import describe
from benchmarks.prose import Prose
from benchmarks.report import Row, Target, show, summarise, write
from ingestq.app.composition import open_broker
from ingestq.app.settings import Settings, load_settings
from ingestq.core.log_setup import configure_logging

RESULTS: Final = Path(__file__).parent / "results" / "freshness.json"
SEED: Final = 20261125
FILES: Final = 60
QUICK_FILES: Final = 8
CHARACTERS: Final = 1500
LONGEST_GAP_SECONDS: Final = 1.0
"""Files are written at random moments, so that they do not align with polling intervals."""
POLL_SECONDS: Final = 0.01
"""Time between two checks whether a file is indexed: an error of less than 1 %."""
LONGEST_WAIT_SECONDS: Final = 60.0
ALLOWED_MS: Final = 300
"""Beyond the settling time, at p95."""
STARTED: Final = re.compile(rb"api\.started.*url\W+(?P<url>http://[^\s\x22]+)")
SCANNED: Final = b"watch.scanned"


@asynccontextmanager
async def running(folder: Path, settings: Settings) -> AsyncIterator[str]:
    """Run ``ingestq up`` with a watched folder; yield its API's URL once the folder was scanned."""
    environment = os.environ | {
        "INGESTQ_DATA_DIR": str(settings.data_dir),
        "INGESTQ_COLLECTION": settings.collection,
        "INGESTQ_REDIS_URL": "",
        "INGESTQ_API_PORT": "0",
    }
    command = (sys.executable, "-m", "ingestq", "up", "--drop", str(folder))
    process = await asyncio.create_subprocess_exec(*command, stderr=PIPE, env=environment)
    assert process.stderr is not None
    lines: list[bytes] = []
    reading = asyncio.create_task(_read(process.stderr, lines))
    try:
        yield await _started(process, lines)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await reading


async def _read(stream: asyncio.StreamReader, lines: list[bytes]) -> None:
    while line := await stream.readline():
        lines.append(line)


async def _started(process: Process, lines: Sequence[bytes]) -> str:
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        while True:
            output = b"".join(lines)
            if process.returncode is not None:
                raise RuntimeError(f"ingestq up has ended: {output.decode(errors='replace')}")
            started = STARTED.search(output)
            if started and SCANNED in output:
                return started["url"].decode()
            await asyncio.sleep(POLL_SECONDS)


async def seconds_until_found(api: httpx.AsyncClient, path: Path, text: str) -> float:
    """Write a file; return the time from closing it until its text is found, in seconds."""
    closed = await asyncio.to_thread(_write, path, text)
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        while not await _is_indexed(api, path):  # noqa: ASYNC110 - there is no event to await
            await asyncio.sleep(POLL_SECONDS)
    seconds = time.monotonic() - closed
    found = (await api.get("/search", params={"q": text})).raise_for_status().json()
    assert any(hit["doc_id"] == str(path) for hit in found["hits"]), path
    return seconds


def _write(path: Path, text: str) -> float:
    """Write a file; return the time at which it was closed."""
    path.write_text(text, encoding="utf-8")
    return time.monotonic()


async def _is_indexed(api: httpx.AsyncClient, path: Path) -> bool:
    """Return whether the ledger says so; it is written after the chunks."""
    answer = await api.get("/documents/" + quote(str(path), safe=""))
    if answer.status_code == httpx.codes.NOT_FOUND:
        return False
    indexed = answer.raise_for_status().json()["indexed"]
    return indexed is not None and indexed["state"] == "indexed"


async def measure(folder: Path, settings: Settings, files: int) -> list[float]:
    """Return the milliseconds beyond the settling time, for each file."""
    prose, rng = Prose(SEED), random.Random(SEED)  # noqa: S311 - a benchmark
    console = Console(stderr=True)
    async with (
        running(folder, settings) as url,
        httpx.AsyncClient(base_url=url, timeout=LONGEST_WAIT_SECONDS) as api,
    ):
        await seconds_until_found(api, folder / "first.txt", prose.text(CHARACTERS, markdown=False))
        beyond = []
        for i in range(files):
            await asyncio.sleep(rng.uniform(0, LONGEST_GAP_SECONDS))
            text = prose.text(CHARACTERS, markdown=False)
            seconds = await seconds_until_found(api, folder / f"{i}.txt", text)
            beyond.append((seconds - settings.drop_settle_seconds) * 1000)
            if not (i + 1) % QUICK_FILES:
                console.print(f"{i + 1} of {files} files", highlight=False)
    return beyond


def rows(beyond: Sequence[float]) -> list[Row]:
    """Return the table, with its target."""
    cuts = statistics.quantiles(beyond, n=20, method="inclusive")
    figures = {"p50": statistics.median(beyond), "p95": cuts[-1], "longest": max(beyond)}
    targets = {"p95": Target(f"{ALLOWED_MS} ms", at_most=ALLOWED_MS)}
    return [
        Row(
            f"file closed to searchable, beyond the settling time: {name}",
            "ms",
            None,
            summarise([value]),
            targets.get(name),
        )
        for name, value in figures.items()
    ]


async def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table and write ``--output``."""
    args = parse_args(make_parser(__doc__, RESULTS), argv, RESULTS)
    configure_logging(logging.WARNING)
    files = QUICK_FILES if args.quick else FILES
    with tempfile.TemporaryDirectory(prefix="ingestq-bench-") as temporary:
        folder = Path(temporary) / "in"
        folder.mkdir()
        settings = load_settings().model_copy(
            update={
                "redis_url": None,
                "data_dir": Path(temporary) / "data",
                "collection": f"bench-freshness-{os.getpid()}",
            }
        )
        async with open_broker(settings) as broker:
            machine = await describe(broker.redis)
        table = rows(await measure(folder, settings, files))
    notes = (
        f"{files} files of {CHARACTERS:,} characters, one after the other, at random moments; the "
        f"settling time is {settings.drop_settle_seconds:g} s.",
        "The end is when the ledger says that a file is indexed; then a search found each.",
        f"Qdrant is {'a server' if settings.qdrant_url else 'the bundled one'}; the model is "
        f"{settings.model}.",
    )
    show(table, machine, notes)
    if args.output is not None:
        write(args.output, table, machine, notes)


if __name__ == "__main__":
    asyncio.run(main())
