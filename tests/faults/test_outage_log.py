"""While a service is away, the log says so once, again every minute, and when it is back."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from ingestq.broker.connection import BrokerConfig, connected
from ingestq.core import events, outages
from ingestq.core.errors import BrokerUnavailable, DocumentRejected, StoreUnavailable
from ingestq.core.outages import note_answer, note_failure
from ingestq.embedded.redis import embedded_redis
from tests.command import Ingestq
from tests.unsupervised import unsupervised_redis
from tests.waiting import crash, eventually

AWAY = BrokerUnavailable("it does not answer")
FAILURES = 12
OUTAGE_SECONDS = 120


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(outages, "time", clock)
    monkeypatch.setattr(outages, "QUIET_SECONDS", 0.0)
    return clock


async def test_an_outage_is_logged_once_a_minute(clock: Clock) -> None:
    with capture_logs() as logs:
        for _ in range(150):
            note_failure(AWAY)
            clock.seconds += 1
        note_answer(BrokerUnavailable)
        await eventually(lambda: logged(logs, events.SERVICE_AVAILABLE))
    assert [(entry["event"], entry["service"], entry["seconds"]) for entry in logs] == [
        (events.SERVICE_UNAVAILABLE, "Redis", 0),
        (events.SERVICE_UNAVAILABLE, "Redis", 60),
        (events.SERVICE_UNAVAILABLE, "Redis", 120),
        (events.SERVICE_AVAILABLE, "Redis", 150),
    ]


async def test_a_service_that_answers_and_fails_by_turns_is_still_away(clock: Clock) -> None:
    """Redis does so when it is full: it still answers what only reads."""
    with capture_logs() as logs:
        for _ in range(5):
            note_failure(AWAY)
            note_answer(BrokerUnavailable)
            clock.seconds += 1
            note_failure(AWAY)
            await asyncio.sleep(0)
        note_failure(StoreUnavailable("that one, too"))
        note_failure(DocumentRejected("no service"))
    assert [entry["service"] for entry in logs] == ["Redis", "Qdrant"]


async def logged(logs: Sequence[MutableMapping[str, Any]], event: str) -> bool:
    return any(entry["event"] == event for entry in logs)


@asynccontextmanager
async def refusing(socket: Path) -> AsyncIterator[list[int]]:
    """Close every connection to ``socket`` at once; yield a list that grows with each."""
    refused: list[int] = []

    def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        refused.append(1)
        writer.close()

    await asyncio.to_thread(socket.unlink, missing_ok=True)
    server = await asyncio.start_unix_server(refuse, socket)
    async with server:
        yield refused
    await asyncio.to_thread(socket.unlink, missing_ok=True)


async def lines_until(process: subprocess.Popen[str], event: str) -> list[str]:
    """Return the lines that the process logs, up to one with ``event``."""
    lines: list[str] = []
    assert process.stderr is not None
    async with asyncio.timeout(OUTAGE_SECONDS):
        while not lines or event not in lines[-1]:
            line = await asyncio.to_thread(process.stderr.readline)
            assert line, lines
            lines.append(line)
    return lines


@pytest.mark.slow
async def test_a_watched_folder_waits_for_redis_almost_silently(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    async with unsupervised_redis(tmp_path / "redis") as url:
        ingestq = Ingestq(tmp_path, {"redis_url": url, "drop_settle_seconds": "0"})
        process = ingestq.start("drop", folder)
        try:
            await lines_until(process, events.WATCH_SCANNED)
            async with connected(BrokerConfig(url)) as redis:
                await crash(redis)
            async with refusing(Path(url.removeprefix("unix://"))) as refused:
                (folder / "a.txt").write_text("Written while Redis was away.")

                async def failures() -> int:
                    return len(refused)

                await eventually(failures, lambda n: n >= FAILURES, OUTAGE_SECONDS)
            async with embedded_redis(tmp_path / "redis"):
                lines = await lines_until(process, events.SERVICE_AVAILABLE)
        finally:
            process.terminate()
            await asyncio.to_thread(process.communicate, timeout=60)
    about = [json.loads(line) for line in lines if "service." in line or "stamina" in line]
    *away, back = about
    assert [entry["event"] for entry in away] == [events.SERVICE_UNAVAILABLE] * len(away)
    assert back["event"] == events.SERVICE_AVAILABLE
    # On a busy machine it may take more than a minute.
    assert 1 <= len(away) <= 1 + back["seconds"] / outages.REPEAT_SECONDS
    assert "Redis does not answer" in away[0]["error"]
