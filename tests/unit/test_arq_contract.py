"""What the lease worker relies on in arq: the names of its keys, and what `Worker` is made of."""

from typing import Any

from arq import constants
from arq.worker import Worker, func

from worker.consumer.lease_worker import LeaseWorker


async def job(ctx: dict[str, Any]) -> None: ...


def test_the_keys_keep_their_names() -> None:
    assert constants.default_queue_name == "arq:queue"
    assert constants.job_key_prefix == "arq:job:"
    assert constants.in_progress_key_prefix == "arq:in-progress:"
    assert constants.result_key_prefix == "arq:result:"
    assert constants.abort_jobs_ss == "arq:abort"


def test_a_function_has_a_name_and_a_coroutine() -> None:
    function = func(job, name="ingest")
    assert (function.name, function.coroutine) == ("ingest", job)


def test_arqs_own_ways_to_run_a_worker_run_this_one() -> None:
    assert issubclass(LeaseWorker, Worker)
    assert LeaseWorker.main is LeaseWorker.run_until_stopped
