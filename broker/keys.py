"""Names of the keys in Redis. Those of arq keep arq's names, so that ``arq.jobs.Job`` works."""

from typing import Final

from arq.constants import (
    abort_jobs_ss,
    default_queue_name,
    in_progress_key_prefix,
    job_key_prefix,
    result_key_prefix,
    retry_key_prefix,
)

QUEUE: Final = default_queue_name
"""Sorted set of job ids; the score is the time in ms from which a job may be claimed."""
JOB: Final = job_key_prefix
"""String a job: the payload. No time to live: a waiting job never expires."""
LEASE: Final = in_progress_key_prefix
"""String a running job: the fencing token of its owner; expires with the lease."""
FAILURES: Final = retry_key_prefix
"""String a job: how often it failed. A release or a lost lease counts nothing."""
RESULT: Final = result_key_prefix
"""String a finished job: its report, for arq's ``Job.result()``."""
ABORT: Final = abort_jobs_ss

FENCE: Final = "ingestq:fence"
"""Counter that fencing tokens are drawn from."""
QUEUED_BYTES: Final = "ingestq:queued-bytes"
"""Sum of the payload bytes of all jobs that wait or run."""
WAKE: Final = "ingestq:wake"
"""List of wake-up tokens that idle workers block on."""
DEAD: Final = "ingestq:dead"
"""Hash of dead letters, one a document."""
WORKERS: Final = "ingestq:workers"
"""Sorted set of worker ids by last sign of life (ms), see also WORKER_INFO."""
WORKER_INFO: Final = "ingestq:worker-info"
SUBMISSION: Final = "ingestq:submission:"
"""Hash a submission: how many documents were accepted, and what became of them."""
FAILED_DOCUMENTS: Final = "ingestq:failed-documents:"
"""List a submission: the documents that were dead-lettered, with their reasons."""
