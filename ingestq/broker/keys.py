"""Names of the keys in Redis. Those of arq keep arq's names, so that ``arq.jobs.Job`` works.

The scripts of ``ingestq/broker/lua`` know every name in capitals as ``K.NAME``.
"""

from typing import Final

QUEUE: Final = "arq:queue"
"""Sorted set of all jobs that wait or run. The score of a job that is ready is minus the time in ms
since when; of any other it is the time in ms at which to look at it again: the end of its lease, or
of its delay. (arq's ``Job.status()`` takes a negative score for any other time in the past.)"""
JOB: Final = "arq:job:"
"""String a job: the payload. No time to live: a waiting job never expires."""
JOB_INFO: Final = "ingestq:job:"
"""Hash a job: lane, tenant, collection, submission, documents, bytes, ``place`` in its line,
``failures``, ``crashes`` (workers that died over it), ``deferred`` while it waits for its delay to
end; of a poison job ``alone`` (the index of the document it is at) and ``poison`` (the
indexes of those at which a worker died)."""
LEASE: Final = "arq:in-progress:"
"""String a running job: the fencing token of its owner; expires with the lease."""
RESULT: Final = "arq:result:"
"""String a finished job: its report, for arq's ``Job.result()``."""
ABORT: Final = "arq:abort"
"""Sorted set of jobs to be given up, written by arq's ``Job.abort()``."""

LANE: Final = "ingestq:lane:"
"""Sorted set a line: the jobs that are ready, by their place. Each collection has a line in each
lane, ``LANE:COLLECTION``."""
LANE_CLOCK: Final = "ingestq:lane-clock"
"""Hash: the place each line has come to."""
LANE_TENANTS: Final = "ingestq:lane-tenants:"
"""Hash a line: the end of each tenant's part of it."""
LANE_TURN: Final = "ingestq:lane-turn"
"""Counter of the jobs that both lanes competed for: every few of them, one goes to bulk. With
``:LANE``, of those that several lines competed for: they take turns."""
COLLECTIONS: Final = "ingestq:collections"
"""Set of the collections that jobs are ready for, and of some that none is ready for any more."""
POISON: Final = "ingestq:poison:"
"""Sorted set a collection: jobs whose worker died again and again, by the time in ms since when
they wait."""
POISON_TURN: Final = "ingestq:poison-turn"
"""String: the worker that lets its other jobs end, to run a poison job alone."""
HELD: Final = "ingestq:held"
"""Hash: jobs and bytes on the queue, of each lane."""
WAKE: Final = "ingestq:wake:"
"""List a line: wake-up tokens that idle workers block on."""

GATE: Final = "ingestq:gate:"
"""String a collection whose workers get no job: the collection that replaced it; empty as long as
that is going on."""
FENCE: Final = "ingestq:fence"
"""Counter that fencing tokens are drawn from."""
DEAD: Final = "ingestq:dead"
"""Hash of dead letters, one a document."""
DEAD_TIMES: Final = "ingestq:dead-times"
"""Sorted set of the fields of DEAD, by the time in ms when each was written."""
REQUEUED: Final = "ingestq:requeued"
"""Counter of the dead letters that were put back on the queue."""
BLOB_SPACE: Final = "ingestq:blob store"
"""String: the space of this queue in the blob store, see `ingestq.core.blobs`."""
RUN_CLOCK: Final = "ingestq:run-clock"
"""Hash: the time in ms up to which the runs of each scheduled entry are begun."""
ENTRIES: Final = "ingestq:entries"
"""Sorted set of scheduled entries by when a scheduler last said that it has them (ms), see also
ENTRY_INFO."""
ENTRY_INFO: Final = "ingestq:entry-info"
RUN: Final = "ingestq:run:"
"""Hash a scheduled entry that runs: ``token`` of who runs it, the ``record`` of the run, and when
it was ``due``, empty if somebody asked for it."""
RUN_LEASE: Final = "ingestq:run-lease:"
"""String a scheduled entry that runs: expires when whoever runs it is dead."""
RUNS: Final = "ingestq:runs:"
"""List a scheduled entry: the records of its runs that ended, the newest first. Expires."""
RUNS_LOST: Final = "ingestq:runs-lost"
"""Hash: how many runs in a row ended with the process that ran them, of each scheduled entry."""
WORKERS: Final = "ingestq:workers"
"""Sorted set of worker ids by last sign of life (ms), see also WORKER_INFO."""
WORKER_INFO: Final = "ingestq:worker-info"
SUBMISSION: Final = "ingestq:submission:"
"""Hash a submission: how many documents were accepted, in how many jobs that are not finished, and
what became of them."""
FAILED_DOCUMENTS: Final = "ingestq:failed-documents:"
"""List a submission: the documents that were dead-lettered, with their reasons."""
RECENT_SUBMISSIONS: Final = "ingestq:recent-submissions"
"""Sorted set of the submissions that changed last, by when that was (ms): a bounded number."""
ENDED: Final = "ingestq:ended"
"""List of the jobs that ended last, the newest last: a bounded number."""
IDEMPOTENCY: Final = "ingestq:idempotency:"
"""Hash a key that a sender chose: digest of what was sent with it, and its submission. Expires."""
