"""The runs of scheduled entries: each begins once, however many schedulers are up, and is recorded.

The scheduler that runs an entry holds a lease on it and renews it. If the lease expires, that
scheduler is dead: the run counts as interrupted, and is due again. All times are Unix times in ms,
on the clock of Redis.
"""

import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, cast

import msgspec
from msgspec import Struct
from redis.asyncio import Redis

from ingestq.broker import keys
from ingestq.broker.connection import BrokerConfig, awaited, translate_errors
from ingestq.broker.scripts import Scripts
from ingestq.core.results import ChunkCounts, DocumentCounts

KEPT_RUNS: Final = 50
"""Finished runs that are kept for each entry."""
KEPT_SECONDS: Final = 90 * 24 * 3600
"""How long they are kept after the last of them."""
LISTED_RUNS: Final = 10
"""Runs of each entry in an overview."""
SCHEDULER_TIMEOUT_MS: Final = 60_000
"""An entry that no scheduler has published for this long is forgotten."""
MAX_LOST_IN_A_ROW: Final = 3
"""How many runs in a row may be repeated because their process died."""
MAX_AHEAD_MS: Final = 3_600_000
"""Runs that have begun later than so long from now were begun before the clock was set back."""
LOST: Final = "the process that ran it died"
"""Detail of a run whose lease expired."""


class RunOutcome(StrEnum):
    """The state of a run, or how it ended.

    ``done`` runs went through, though documents may have been rejected. ``refused`` runs need a
    person's decision. ``interrupted`` runs were stopped, or their process died.
    """

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"
    INTERRUPTED = "interrupted"


class Run(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One run of ``entry``.

    ``due_ms`` is when it was due, or when it began if it was requested by a person. ``detail`` says
    why it ended as it did, and is written for people. ``submission`` has the documents that it put
    on the queue. ``documents`` and ``chunks`` are counted only when the run has ended.
    """

    entry: str
    due_ms: int
    started_ms: int
    finished_ms: int | None = None
    outcome: RunOutcome = RunOutcome.RUNNING
    detail: str = ""
    submission: str | None = None
    documents: DocumentCounts = DocumentCounts()
    chunks: ChunkCounts = ChunkCounts()

    @property
    def seconds(self) -> float | None:
        """How long the run took; None while it is running."""
        return None if self.finished_ms is None else (self.finished_ms - self.started_ms) / 1000

    def as_json(self) -> dict[str, Any]:
        """Return the run as JSON, on whose keys other programs rely."""
        return {
            "due": iso(self.due_ms),
            "started": iso(self.started_ms),
            "finished": None if self.finished_ms is None else iso(self.finished_ms),
            "seconds": self.seconds,
            "outcome": self.outcome.value,
            "detail": self.detail,
            "submission": self.submission,
            "documents": msgspec.structs.asdict(self.documents),
            "chunks": msgspec.structs.asdict(self.chunks),
        }


class EntryStatus(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A scheduled entry as a scheduler published it, and its last runs, newest first.

    ``action`` and ``source`` are written for people. ``next_ms`` is when the next run begins; None
    if there is none. ``live`` is true if a scheduler that has the entry is up.
    """

    name: str
    cron: str
    timezone: str
    action: str
    source: str
    next_ms: int | None = None
    live: bool = False
    runs: tuple[Run, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the entry as JSON, on whose keys other programs rely."""
        return {
            "name": self.name,
            "cron": self.cron,
            "timezone": self.timezone,
            "action": self.action,
            "source": self.source,
            "next": None if self.next_ms is None else iso(self.next_ms),
            "live": self.live,
            "runs": [run.as_json() for run in self.runs],
        }


def iso(ms: int) -> str:
    """Return a Unix time in ms as ISO 8601, in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


class BeginRefusal(StrEnum):
    """The reason why a run did not begin."""

    RUNNING = "running"
    """The previous run has not ended: this one is skipped."""
    BEFORE = "before"
    """It, or one that was due later, has already begun or been skipped."""


@dataclass(frozen=True)
class RunClaim:
    """A run that its holder owns for as long as it renews the lease in time."""

    token: str
    run: Run
    lease_ms: int


class Runs:
    """The runs of all entries.

    Every method raises BrokerUnavailable while Redis cannot be used.
    """

    def __init__(self, redis: Redis, config: BrokerConfig) -> None:
        self._redis = redis
        self._config = config
        self._scripts = Scripts.register(redis)

    async def now_ms(self) -> int:
        """Return Redis time in ms."""
        with self._translated():
            seconds, microseconds = await self._redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def begun_until(self, entry: str) -> int:
        """Return the time in ms up to which runs of ``entry`` have begun: now for a new entry.

        It is now also if the clock was set back by more than an hour, so that runs go on.
        """
        now_ms = await self.now_ms()
        with self._translated():
            await awaited(self._redis.hsetnx(keys.RUN_CLOCK, entry, cast(str, now_ms)))
            known = await awaited(self._redis.hget(keys.RUN_CLOCK, entry))
            assert known is not None, "was just set"
            if int(known) > now_ms + MAX_AHEAD_MS:
                await awaited(self._redis.hset(keys.RUN_CLOCK, entry, cast(str, now_ms)))
                return now_ms
        return int(known)

    async def begin(
        self, entry: str, *, due_ms: int | None, lease_ms: int
    ) -> RunClaim | BeginRefusal:
        """Begin the run that was due at ``due_ms``, or a run on request if that is None.

        It stands for all runs that have become due until now.
        """
        await self.end_lost(entry)
        token, now_ms = uuid.uuid4().hex, await self.now_ms()
        run = Run(entry=entry, due_ms=now_ms if due_ms is None else due_ms, started_ms=now_ms)
        due = "" if due_ms is None else due_ms
        arguments = (entry, token, _encoded(run), lease_ms, due)
        with self._translated():
            answer = (await self._scripts.begin_run(args=arguments)).decode()
        return RunClaim(token, run, lease_ms) if answer == "begun" else BeginRefusal(answer)

    async def renew(self, claim: RunClaim, submission: str | None) -> bool:
        """Renew the lease of a run, and record its submission.

        Returns False if the lease expired and the run was ended because of that.
        """
        run = msgspec.structs.replace(claim.run, submission=submission)
        arguments = (run.entry, claim.token, _encoded(run), claim.lease_ms)
        with self._translated():
            return bool(await self._scripts.renew_run(args=arguments))

    async def end(self, claim: RunClaim, ended: Run) -> bool:
        """Record how a run ended. An interrupted run is due again.

        Returns False if the run no longer belongs to the claim.
        """
        again = ended.outcome is RunOutcome.INTERRUPTED
        return await self._end(claim.token, ended, "interrupted" if again else "ended")

    async def end_lost(self, entry: str) -> Run | None:
        """End the run of ``entry`` as interrupted if the process that ran it is dead.

        It is due again, unless MAX_LOST_IN_A_ROW runs in a row ended this way. Returns the ended
        run; None if there was none to end.
        """
        with self._translated():
            async with self._redis.pipeline() as pipe:
                pipe.hmget(keys.RUN + entry, ["token", "record", "lease"])
                pipe.pttl(keys.RUN_LEASE + entry)
                (token, record, lease), left_ms = await pipe.execute()
            if lease is not None and left_ms > int(lease):  # the clock was set back
                await self._redis.pexpire(keys.RUN_LEASE + entry, int(lease))
        if token is None or left_ms > 0:
            return None
        ended = msgspec.structs.replace(
            _decoded(record),
            outcome=RunOutcome.INTERRUPTED,
            detail=LOST,
            finished_ms=await self.now_ms(),
        )
        return ended if await self._end(token.decode(), ended, "lost") else None

    async def publish(self, entries: Sequence[EntryStatus]) -> None:
        """Publish the entries of a scheduler. Call it again within a minute."""
        pairs = [part for entry in entries for part in (entry.name, msgspec.msgpack.encode(entry))]
        with self._translated():
            await self._scripts.publish_entries(args=[SCHEDULER_TIMEOUT_MS, *pairs])

    async def overview(self, known: Sequence[EntryStatus] = ()) -> Sequence[EntryStatus]:
        """Return the entries of all live schedulers, and those of ``known`` that none of them has.

        They are sorted by name. Each has its last runs, of which the first may still be running.
        """
        names = [entry.name for entry in known]
        with self._translated():
            rows = await self._scripts.list_runs(args=[SCHEDULER_TIMEOUT_MS, LISTED_RUNS, *names])
        unpublished = {entry.name: entry for entry in known}
        return sorted((_status(unpublished, *row) for row in rows), key=lambda entry: entry.name)

    async def history(self, entry: str) -> list[Run]:
        """Return the finished runs of ``entry`` that are kept, newest first."""
        with self._translated():
            records = await awaited(self._redis.lrange(keys.RUNS + entry, 0, -1))
        return [_decoded(record) for record in records]

    async def _end(self, token: str, ended: Run, how: str) -> bool:
        entry = ended.entry
        arguments = (entry, token, _encoded(ended), KEPT_RUNS, KEPT_SECONDS, how, MAX_LOST_IN_A_ROW)
        with self._translated():
            return bool(await self._scripts.end_run(args=arguments))

    def _translated(self) -> AbstractContextManager[None]:
        return translate_errors(self._config)


def _status(
    unpublished: dict[str, EntryStatus],
    name: bytes,
    info: bytes,
    running: bytes,
    is_alive: int,
    ended: Sequence[bytes],
) -> EntryStatus:
    published = msgspec.msgpack.decode(info, type=EntryStatus) if info else None
    entry = unpublished[name.decode()] if published is None else published
    runs = [_decoded(record) for record in ended]
    if running:
        run = _decoded(running)
        lost = msgspec.structs.replace(run, outcome=RunOutcome.INTERRUPTED, detail=LOST)
        runs.insert(0, run if is_alive else lost)
    return msgspec.structs.replace(entry, live=published is not None, runs=tuple(runs))


def _encoded(run: Run) -> bytes:
    return msgspec.msgpack.encode(run)


def _decoded(record: bytes) -> Run:
    return msgspec.msgpack.decode(record, type=Run)
