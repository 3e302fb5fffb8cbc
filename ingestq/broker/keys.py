"""Names of the keys in Redis. arq's own keys keep arq's names, so that ``arq.jobs.Job`` works.

The scripts in ``ingestq/broker/lua`` refer to each constant as ``K.NAME``. A name that ends with a
colon is a prefix: "one for each job" means the prefix and the job's id.
"""

from typing import Final

QUEUE: Final = "arq:queue"
"""Sorted set of all jobs, waiting or running. The score of a ready job is minus the time in ms
since which it is ready. The score of any other job is the time in ms at which to look at it again:
the end of its lease or of its delay. (arq's ``Job.status()`` takes any other past time for a
negative score.)"""
JOB: Final = "arq:job:"
"""String, one for each job: the payload. Has no TTL: a waiting job never expires."""
JOB_INFO: Final = "ingestq:job:"
"""Hash, one for each job: ``lane``, ``tenant``, ``collection``, ``submission``, ``documents`` (how
many), ``bytes``, ``place`` (its place in line), ``failures``, ``crashes`` (how many workers died
while they ran it), ``lease`` (of its last claim, in ms), and ``deferred`` (its delay, in ms) while
it waits for that to end. A poison job also has ``alone`` (the index of the document being
processed) and ``poison`` (the indexes of the documents during which a worker died)."""
LEASE: Final = "arq:in-progress:"
"""String, one for each running job: the fencing token of its owner. Expires with the lease."""
RESULT: Final = "arq:result:"
"""String, one for each finished job: its report, for arq's ``Job.result()``. Expires."""
ABORT: Final = "arq:abort"
"""Sorted set of jobs to be aborted, written by arq's ``Job.abort()``."""

VERSIONS: Final = "ingestq:versions"
"""Hash: ``last``, the largest version on the scale of the issued ones (see `ingestq.core.versions`)
that was issued or queued, and ``first``, the first one that was issued."""
VERSION_OFFSETS: Final = "ingestq:version-offsets"
"""Hash: for each collection whose ledger was compared with the versions (``compare_ledger.lua``),
which versions get an offset: ``FIRST LAST OFFSET``, or empty if none do."""
STEADY_CLOCK: Final = "ingestq:steady-clock"
"""Hash: the time in ms that the steady clock ``shows`` (see ``shared.lua``), and the time of Redis
in ms at which it was last ``set``."""
LANE: Final = "ingestq:lane:"
"""Sorted set, one for each line: its ready jobs by their place. Each collection has one line in
each lane, named ``LANE:COLLECTION``."""
LANE_CLOCK: Final = "ingestq:lane-clock"
"""Hash: for each line, the place that it has reached."""
LANE_TENANTS: Final = "ingestq:lane-tenants:"
"""Hash, one for each line: for each tenant, the place after the tenant's last job."""
LANE_TURN: Final = "ingestq:lane-turn"
"""Counter of the jobs for which both lanes competed: every few of them, one goes to bulk. With the
suffix ``:LANE``, counter of the jobs for which several lines of that lane competed, in turns."""
COLLECTIONS: Final = "ingestq:collections"
"""Set of the collections for which jobs are ready, and of some that have no ready jobs any more."""
POISON: Final = "ingestq:poison:"
"""Sorted set, one for each collection: its ready poison jobs, by the time in ms since which they
wait."""
POISON_TURN: Final = "ingestq:poison-turn"
"""String: the worker that finishes its other jobs in order to run a poison job alone. Expires."""
HELD: Final = "ingestq:held"
"""Hash: the number of jobs on the queue and their bytes, for each lane."""
WAKE: Final = "ingestq:wake:"
"""List, one for each line: wake-up tokens that idle workers block on."""

GATE: Final = "ingestq:gate:"
"""String, one for each collection whose workers get no jobs: the collection that replaced it, or
empty while a cut-over is under way."""
GATE_SHUT_MS: Final = 10_000
"""A gate opens again after this time if the process that shut it dies."""
FENCE: Final = "ingestq:fence"
"""Counter from which fencing tokens are drawn."""
DEAD: Final = "ingestq:dead"
"""Hash of dead letters, by their keys."""
DEAD_TIMES: Final = "ingestq:dead-times"
"""Sorted set of the keys in DEAD, by the time in ms of the steady clock when each was written."""
DEAD_VERSIONS: Final = "ingestq:dead-versions"
"""Hash of the keys in DEAD: the version of each document that failed."""
DEAD_EXPIRED: Final = "ingestq:dead-expired"
"""Counter of the dead letters that were deleted because of their age."""
HELD_BACK: Final = "ingestq:held-back"
"""Hash: for each dead letter of a sweep that was held back, what it holds back (MessagePack)."""
HELD_SINCE: Final = "ingestq:held-since"
"""Hash: for each dead letter in HELD_BACK, the time in ms of the first sweep in a row that was held
back."""
REQUEUED: Final = "ingestq:requeued"
"""Counter of requeued dead letters."""
RECEIPTS: Final = "ingestq:receipts"
"""Counter of the receipts that waited for replicas."""
BLOB_SPACE: Final = "ingestq:blob-space"
"""String: the space of this queue in the blob store, see `ingestq.core.blobs`."""
RUN_CLOCK: Final = "ingestq:run-clock"
"""Hash: for each scheduled entry, the time in ms up to which its runs have begun."""
ENTRIES: Final = "ingestq:entries"
"""Sorted set of scheduled entries, by the time in ms when a scheduler last published them."""
ENTRY_INFO: Final = "ingestq:entry-info"
"""Hash: each published entry (MessagePack)."""
RUN: Final = "ingestq:run:"
"""Hash, one for each scheduled entry that is running: ``token`` of its owner, ``lease`` in ms,
``record`` of the run, and ``due``, when it was due, which is empty for a run on request."""
RUN_LEASE: Final = "ingestq:run-lease:"
"""String, one for each scheduled entry that is running. Expires if its owner dies."""
RUNS: Final = "ingestq:runs:"
"""List, one for each scheduled entry: the records of its finished runs, newest first. Expires."""
RUNS_LOST: Final = "ingestq:runs-lost"
"""Hash: for each scheduled entry, how many runs in a row ended because their process died."""
WORKERS: Final = "ingestq:workers"
"""Sorted set of worker ids, by the time in ms of their last heartbeat."""
WORKER_INFO: Final = "ingestq:worker-info"
"""Hash: what each worker reported with its last heartbeat (MessagePack)."""
WATCHED_FOLDERS: Final = "ingestq:watched-folders"
"""Sorted set of watched folders, by the time in ms of the last report of each. A member names host,
path, tenant and collection (JSON)."""
WATCHED_FOLDER_INFO: Final = "ingestq:watched-folder-info"
"""Hash: what was last reported of each watched folder (MessagePack)."""
SUBMISSION: Final = "ingestq:submission:"
"""Hash, one for each submission: accepted documents, unfinished jobs, outcomes, and the progress of
running jobs; ``tenant:NAME`` of its first job, ``mixed`` if there are jobs of other tenants, and
``collection:NAME`` for each collection. Expires once it has no unfinished jobs."""
FAILED_DOCUMENTS: Final = "ingestq:failed-documents:"
"""List, one for each submission: its dead-lettered documents with their reasons. Expires like
SUBMISSION."""
DOCUMENT_WARNINGS: Final = "ingestq:document-warnings:"
"""List, one for each submission: the first warnings of its documents. Bounded. Expires once the
submission has no unfinished jobs, before SUBMISSION."""
RECENT_SUBMISSIONS: Final = "ingestq:recent-submissions"
"""Sorted set of the submissions that changed last, by the time in ms of the change. Bounded."""
ENDED: Final = "ingestq:ended"
"""List of the jobs that ended last, newest last. Bounded."""
ANSWERED: Final = "ingestq:answered:"
"""One for each call of a script that deletes something: what it answered. Expires."""
ANSWERED_MS: Final = 60_000
IDEMPOTENCY: Final = "ingestq:idempotency:"
"""Hash, one for each idempotency key: the digest of its request, and its submission. Expires."""
WEBHOOK_TARGETS: Final = "ingestq:webhook-targets"
"""Set of the names of the targets of webhooks for which a message was ever written."""
WEBHOOK: Final = "ingestq:webhook:"
"""Hash, one for each message in the outbox: ``target``, ``event``, what it says (``submission``,
``counts``, ``rejected`` and ``finish``, or ``data``), ``at`` (Unix time in ms), ``bytes``,
``attempts``, the ``error`` of the last one, ``retried`` if it is sent although its submission went
on, and ``token`` while a worker delivers it."""
WEBHOOKS_WAITING: Final = "ingestq:webhooks-waiting:"
"""Sorted set, one for each target: the messages to be delivered, by the time in ms of the steady
clock when each was written."""
WEBHOOKS_DUE: Final = "ingestq:webhooks-due:"
"""Sorted set, one for each target: the same messages, by the time in ms of the steady clock of the
next attempt; for one that is being delivered, the end of its lease."""
WEBHOOKS_FAILED: Final = "ingestq:webhooks-failed:"
"""Sorted set, one for each target: the messages that are not tried any more, by the time in ms of
the steady clock when each was given up."""
WEBHOOK_STATE: Final = "ingestq:webhook-state:"
"""Hash, one for each target: ``bytes`` of its messages, how many were ``delivered`` and
``dropped``, how many of those were ``reported``, the ``error`` of the last attempt if that failed,
and ``gone``, the digest of the URL that answered 410, and wants no more."""
WEBHOOK_MESSAGES: Final = 10_000
"""Most messages that are kept for a target, waiting or failed."""
WEBHOOK_BYTES: Final = 16 * 1024 * 1024
"""Most bytes of the messages that are kept for a target."""
WEBHOOK_SETTLE_MS: Final = 2_000
"""A finished submission is reported after so long: a producer may be about to add documents."""
WEBHOOK_REJECTED: Final = 50
"""Most rejected documents that the message about a submission lists."""
WEBHOOK_REJECTED_BYTES: Final = 12_000
"""Most bytes of that list."""
WEBHOOK_FAILED_MS: Final = 30 * 24 * 3600 * 1000
"""How long a message is kept that is not tried any more."""
WRITE_PROBE: Final = "ingestq:write-probe"
"""String that readiness checks write. Expires."""
REVOKED_SESSION: Final = "ingestq:revoked-session:"
"""String, one for each session of the dashboard that was signed out. Expires with the session."""
TOKENS: Final = "ingestq:tokens"
"""Hash: for the name of each API token, its id."""
TOKEN: Final = "ingestq:token:"  # noqa: S105 - a key
"""Hash, one for each API token, by its id: its ``digest`` (SHA-256), ``name``, ``tenant`` (no such
field: all tenants), ``rights``, ``collections`` (empty: all), ``per_minute`` (empty: no limit),
when it was ``made``, ``expires`` (empty: never) and was last ``used``, as Unix times in ms."""
TOKEN_RATE: Final = "ingestq:token-rate:"  # noqa: S105 - a key
"""String, one for each API token with a limit that was used: the Unix time in ms at which it may
send as many requests at once as its limit allows. Expires then."""
TOKEN_SESSION: Final = "ingestq:token-session:"  # noqa: S105 - a key
"""String, one for each session of the dashboard that began with an API token, by the SHA-256 of the
session: the token's id. Expires with the session."""
TOKEN_USED_MS: Final = 60_000
"""How exactly it is known when a token was last used."""
TOKEN_WINDOW_MS: Final = 60_000
"""The time for which the limit of a token is given: a minute."""
