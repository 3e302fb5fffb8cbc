"""The runs of scheduled entries: each is begun once, whoever is up, and written down.

Who runs one holds a lease on it and renews it. If it runs out, whoever runs it is dead: the run
counts as interrupted, and is due again. All times are Unix times in ms, on the clock of Redis.
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
"""Runs of an entry that are remembered."""
KEPT_SECONDS: Final = 90 * 24 * 3600
"""For how long after the last of them."""
LISTED_RUNS: Final = 10
"""Runs of an entry that an overview has."""
SCHEDULER_TIMEOUT_MS: Final = 60_000
"""An entry that no scheduler said to have for this long is not one any more."""
LOST_IN_A_ROW: Final = 3
"""So many runs in a row are made up for that whoever ran them did not survive: not for ever."""
LOST: Final = "the process that ran it died"


class RunOutcome(StrEnum):
    """How far a run is, or how it ended.

    ``done`` went through, though documents may have been rejected. ``refused`` needs a decision,
    ``interrupted`` was stopped, or whoever ran it died.
    """

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"
    INTERRUPTED = "interrupted"


class Run(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One run of ``entry``. ``detail`` says why it ended as it did, and is written for people.

    ``due_ms`` is when it should have begun; of one that somebody asked for, when it did.
    ``submission`` is what it put on the queue. While it runs, nothing is counted here.
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
        """How long it took."""
        return None if self.finished_ms is None else (self.finished_ms - self.started_ms) / 1000

    def as_json(self) -> dict[str, Any]:
        """The run as other programs rely on it."""
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
    """A scheduled entry, as a scheduler has it, and its last runs, the newest first.

    ``action`` and ``source`` are as people are told of them. ``next_ms`` is when the next run
    begins; None if there is none. ``live`` says whether a scheduler that has it is up.
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
        """The entry as other programs rely on it."""
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
    """A time as other programs read it (ISO 8601, UTC)."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


class BeginRefusal(StrEnum):
    """Why a run was not begun."""

    RUNNING = "running"
    """The run before has not ended: this one is skipped."""
    BEFORE = "before"
    """Somebody began it, or skipped it, or began one that was due later."""


@dataclass(frozen=True)
class RunClaim:
    """A run that is the holder's, as long as the lease is renewed in time."""

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
        """Return the time of Redis."""
        with self._translated():
            seconds, microseconds = await self._redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def begun_until(self, entry: str) -> int:
        """Return the time up to which runs of ``entry`` are begun; now, if it is a new one."""
        now_ms = await self.now_ms()
        with self._translated():
            await awaited(self._redis.hsetnx(keys.RUN_CLOCK, entry, cast(str, now_ms)))
            known = await awaited(self._redis.hget(keys.RUN_CLOCK, entry))
        assert known is not None, "was just set"
        return int(known)

    async def begin(
        self, entry: str, *, due_ms: int | None, lease_ms: int
    ) -> RunClaim | BeginRefusal:
        """Begin the run that was due at ``due_ms``, or one that somebody asks for.

        It stands for all runs that were due until now.
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
        """Renew the lease, and say what was queued; False if the run is not the caller's any more:
        it could not be renewed in time."""
        run = msgspec.structs.replace(claim.run, submission=submission)
        arguments = (run.entry, claim.token, _encoded(run), claim.lease_ms)
        with self._translated():
            return bool(await self._scripts.renew_run(args=arguments))

    async def end(self, claim: RunClaim, ended: Run) -> bool:
        """Write down how the run ended; False if it is not the caller's any more.

        One that was interrupted is due again.
        """
        again = ended.outcome is RunOutcome.INTERRUPTED
        return await self._end(claim.token, ended, "interrupted" if again else "ended")

    async def end_lost(self, entry: str) -> Run | None:
        """If whoever ran ``entry`` is dead, write down that the run was interrupted.

        It is due again, unless several in a row ended so.
        """
        with self._translated():
            async with self._redis.pipeline() as pipe:
                pipe.hmget(keys.RUN + entry, ["token", "record"])
                pipe.exists(keys.RUN_LEASE + entry)
                (token, record), is_alive = await pipe.execute()
        if token is None or is_alive:
            return None
        ended = msgspec.structs.replace(
            _decoded(record),
            outcome=RunOutcome.INTERRUPTED,
            detail=LOST,
            finished_ms=await self.now_ms(),
        )
        return ended if await self._end(token.decode(), ended, "lost") else None

    async def publish(self, entries: Sequence[EntryStatus]) -> None:
        """Say which entries there are; to be said again within a minute."""
        pairs = [part for entry in entries for part in (entry.name, msgspec.msgpack.encode(entry))]
        with self._translated():
            await self._scripts.publish_entries(args=[SCHEDULER_TIMEOUT_MS, *pairs])

    async def overview(self, known: Sequence[EntryStatus] = ()) -> Sequence[EntryStatus]:
        """The entries of all schedulers that are up, and those of ``known`` that none of them has,
        by their names; each with its last runs, of which the first may still run."""
        names = [entry.name for entry in known]
        with self._translated():
            rows = await self._scripts.list_runs(args=[SCHEDULER_TIMEOUT_MS, LISTED_RUNS, *names])
        unpublished = {entry.name: entry for entry in known}
        return sorted((_status(unpublished, *row) for row in rows), key=lambda entry: entry.name)

    async def history(self, entry: str) -> list[Run]:
        """All runs of ``entry`` that ended and are remembered, the newest first."""
        with self._translated():
            records = await awaited(self._redis.lrange(keys.RUNS + entry, 0, -1))
        return [_decoded(record) for record in records]

    async def _end(self, token: str, ended: Run, how: str) -> bool:
        entry = ended.entry
        arguments = (entry, token, _encoded(ended), KEPT_RUNS, KEPT_SECONDS, how, LOST_IN_A_ROW)
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
    said = msgspec.msgpack.decode(info, type=EntryStatus) if info else None
    entry = unpublished[name.decode()] if said is None else said
    runs = [_decoded(record) for record in ended]
    if running:
        run = _decoded(running)
        lost = msgspec.structs.replace(run, outcome=RunOutcome.INTERRUPTED, detail=LOST)
        runs.insert(0, run if is_alive else lost)
    return msgspec.structs.replace(entry, live=said is not None, runs=tuple(runs))


def _encoded(run: Run) -> bytes:
    return msgspec.msgpack.encode(run)


def _decoded(record: bytes) -> Run:
    return msgspec.msgpack.decode(record, type=Run)
