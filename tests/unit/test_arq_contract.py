"""What the lease worker relies on in arq, beyond what arq documents.

When one of these fails, arq has changed: read the change, see whether
`worker.consumer.lease_worker`, `worker.consumer.runner`, `worker.consumer.cron` and
`ingestq.broker.keys` still hold with it, and write down the new value.
"""

import dataclasses
import hashlib
import importlib.metadata
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from arq import constants
from arq.cron import CronJob, cron, next_cron
from arq.jobs import Job, deserialize_job, deserialize_result
from arq.worker import Function, Retry, Worker, func

from worker.consumer.lease_worker import ArqOptions, LeaseWorker

SOURCES: dict[Callable[..., Any], str] = {
    # Overridden, or called by what is inherited.
    Worker.__init__: "edfb0cd7e05e77cf",
    Worker.run: "e683c7f402930145",
    Worker.async_run: "f3434c3dd359b31b",
    Worker.main: "45ca1591c9717466",
    Worker.handle_sig: "985ff7ba01aa8f04",
    Worker.close: "5bcc9cb356680829",
    # Replaced: what they do is done by the scripts and by `worker.consumer.runner`.
    Worker._poll_iteration: "f8d39d823a0a59f2",
    Worker._cancel_aborted_jobs: "54575eaf8682f95b",
    Worker.start_jobs: "b45797cfa40bed7f",
    Worker.run_job: "589a19059ff84ee7",
    Worker.finish_job: "903f09c92830d3fd",
    Worker.finish_failed_job: "3e16087f318a7acf",
    Worker.run_cron: "7d2d3784e6567fb2",
    # Used as they are.
    func: "f44ddaf9b8a2bdbb",
    cron: "0a1f968cdb4e0e05",
    next_cron: "cab544d81f2da143",
    CronJob.calculate_next: "7f8bfac236ba13c1",
    Retry.__init__: "9c03e679028cf11f",
    # Read the keys that the scripts write.
    Job.status: "b7b8d9da80a12c10",
    Job.result: "004dc5100e554432",
    Job.info: "b8892cec97a71606",
    Job.abort: "4dd2f914d8b776b7",
    deserialize_job: "b7b9f8342da03106",
    deserialize_result: "500bdf28141b60f8",
}


def digest(function: Callable[..., Any]) -> str:
    return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]


@pytest.mark.parametrize("function", SOURCES, ids=lambda function: function.__qualname__)
def test_what_is_overridden_or_replaced_is_what_was_read(function: Callable[..., Any]) -> None:
    assert digest(function) == SOURCES[function], f"arq changed {function.__qualname__}"


def test_the_version_is_the_one_that_was_read() -> None:
    assert importlib.metadata.version("arq") == "0.28.0"


def test_every_public_method_of_arqs_worker_has_been_thought_of() -> None:
    public = {name for name in vars(Worker) if not name.startswith("_")}
    overridden = {name for name in vars(LeaseWorker) if not name.startswith("_")}
    inherited = {"run", "async_run", "run_check", "pool"}
    replaced = {"start_jobs", "run_job", "finish_job", "finish_failed_job", "heart_beat"}
    replaced |= {"run_cron", "record_health", "handle_sig_wait_for_completion"}
    assert public - overridden == inherited | replaced
    assert overridden - public == {"stop", "run_until_stopped"}


def test_the_options_are_arqs_own() -> None:
    assert ArqOptions.__annotations__.keys() < inspect.signature(Worker).parameters.keys()


def test_functions_and_cron_jobs_have_the_fields_that_are_read() -> None:
    read = {"name", "coroutine", "timeout_s", "keep_result_s", "keep_result_forever", "max_tries"}
    assert {field.name for field in dataclasses.fields(Function)} == read
    read |= {"unique", "job_id", "run_at_startup", "next_run"}
    assert {field.name for field in dataclasses.fields(CronJob)} >= read


def test_the_keys_keep_their_names() -> None:
    assert constants.default_queue_name == "arq:queue"
    assert constants.job_key_prefix == "arq:job:"
    assert constants.in_progress_key_prefix == "arq:in-progress:"
    assert constants.result_key_prefix == "arq:result:"
    assert constants.abort_jobs_ss == "arq:abort"


def test_retry_tells_its_delay_in_ms() -> None:
    assert Retry(1.5).defer_score == 1500
    assert Retry().defer_score is None
