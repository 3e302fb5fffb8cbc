"""The API does what its openapi.json says, whatever schemathesis sends."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import pytest

from ingestq.api.app import ApiConfig, create_app
from ingestq.app.composition import Broker
from ingestq.core.jobs import dead_letter_batch, decode_job
from ingestq.core.results import BatchReport, DocumentCounts, WorkerInfo
from ingestq.core.search_query import SearchQuery, SearchResult
from ingestq.core.service import cancel
from tests.claims import finish, lease_queue, take
from tests.serving import listening, services
from worker.pipeline.points import Neighbour, SearchHit

SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"
SETTINGS = Path(__file__).parents[1] / "schemathesis.toml"
HOOKS = SETTINGS.with_name("schemathesis_hooks.py")
HIT = SearchHit(
    0.5,
    "keeper",
    "notes",
    2,
    "The keeper owns two parrots.",
    {"page": 7},
    before=(Neighbour(1, "Before."),),
)
NO_JOB_SECONDS = 0.05
ANSWER_SECONDS = 60
"""Longer than an answer takes on a busy machine."""


@dataclass(frozen=True)
class Entry:
    """Return the same state for every document."""

    state: str = "indexed"
    version: int = 7
    chunks: int = 3
    written_ms: int = 1_700_000_000_000
    warnings: tuple[str, ...] = ("page 3 has no text",)


async def index(tenant: str, doc_id: str, collection: str) -> Entry:
    return Entry()


async def search(query: SearchQuery) -> SearchResult[SearchHit]:
    return SearchResult([HIT])


async def work(broker: Broker) -> None:
    """Finish jobs as a worker does, and dead-letter every other one."""
    leases = lease_queue(broker)
    fails = cycle((False, True))
    while True:
        await leases.heartbeat("worker", WorkerInfo("host", 1, 0, 0.0, 0.0))
        claims = await take(leases, 10)
        for claim in claims:
            batch = decode_job(claim.payload).batch
            assert batch is not None
            report = BatchReport(DocumentCounts(indexed=len(batch.documents)))
            await finish(
                leases,
                claim,
                dead_letter_batch(batch, "broken", tries=1) if next(fails) else report,
            )
        if not claims:
            await asyncio.sleep(NO_JOB_SECONDS)


@asynccontextmanager
async def working(broker: Broker) -> AsyncIterator[None]:
    running = asyncio.create_task(work(broker))
    try:
        yield
        assert not running.done(), f"nobody did the jobs any more: {running}"
    finally:
        await cancel(running)


async def try_to_break(broker: Broker, folder: Path, *options: str) -> None:
    app = create_app(services(broker, search, index), ApiConfig(100_000))
    async with working(broker), listening(app) as url:
        trying = await asyncio.create_subprocess_exec(
            SCHEMATHESIS,
            *("--config-file", SETTINGS, "run", f"{url}/openapi.json", "--no-color"),
            *("--suppress-health-check=all", f"--request-timeout={ANSWER_SECONDS}", *options),
            cwd=folder,
            env=os.environ | {"SCHEMATHESIS_HOOKS": str(HOOKS)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await trying.communicate()
    assert trying.returncode == 0, said.decode()


@pytest.mark.slow
async def test_every_response_is_documented(broker: Broker, tmp_path: Path) -> None:
    options = ("--phases=coverage,fuzzing", "--max-examples=5", "--generation-deterministic")
    await try_to_break(broker, tmp_path, *options)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_every_response_in_a_sequence_of_requests_is_documented(
    broker: Broker, tmp_path: Path
) -> None:
    # Always the same requests, so that chance finds no old defect in a new change.
    options = ("--phases=coverage,fuzzing,stateful", "--max-examples=60")
    await try_to_break(broker, tmp_path, *options, "--generation-deterministic")
