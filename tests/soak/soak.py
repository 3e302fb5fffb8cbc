"""Runs a plan, and compares what a search finds with what the sources hold."""

import asyncio
import random
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx
from redis.asyncio import Redis

from ingestq.broker.connection import BrokerConfig, connected
from ingestq.core.service import cancel
from tests.books import Totals, balanced
from tests.command import CommandResult
from tests.faults.test_source_sequences import (
    SCANS,
    Mode,
    change_one,
    differences,
    found,
    make_folders,
)
from tests.folder_changes import PLAIN, FolderChanges, Words, letters, words_of
from tests.redis_servers import HOST, free_port
from tests.soak.growth import Growth, Watch
from tests.soak.plan import Action, Event, Plan, Program, Stream
from tests.soak.programs import UNREACHABLE, Programs, RunningProgram, programs, signal_to

SETTLE_SECONDS: Final = 240.0
"""Longest time until a search finds what the sources hold, on a busy machine."""
REQUEST_SECONDS: Final = 30.0
RETRY_SECONDS: Final = 0.3
SAMPLE_SECONDS: Final = 5.0
PROGRESS_SECONDS: Final = 30.0
SEQUENCES: Final = 4
"""`FolderChanges` that go on side by side."""
SHELF: Final = "shelf"
"""The folder of ``ingestq add``; also the name in its texts."""
SHELF_NAMES: Final = [f"{number}.txt" for number in range(40)]
API: Final = "api"
"""The name in texts that are sent to the API."""
LAST_EVENTS: Final = 40
GONE: Final = (404, 409)
DEATHS: Final = ("was killed", "the worker died")
"""In the reasons of documents whose processes died again and again, as some do here."""
DESCRIPTORS: Final = 64
"""A program that is never killed may have so many descriptors more at the end than at the start."""
LEFT_OUT: Final = frozenset({"damage a file", "mount over a folder"})
"""Of a damaged file, the last good version stays. Which one that is depends on when a worker reads
it, and so on accidents. Mounts would outlive a soak that is killed."""
MODE: Final = Mode(5, [kind for kind in SCANS.kinds if kind not in LEFT_OUT])


class SoakFailure(Exception):
    """Something is wrong; the message says what."""


@dataclass(frozen=True)
class Outcome:
    """What a soak found. ``problems`` is empty if all is well."""

    seconds: float
    events: dict[str, int]
    restarts: dict[str, int]
    documents: int
    totals: Totals | None
    requeued: int
    growth: Sequence[Growth]
    problems: Sequence[str]
    last_events: Sequence[str]


@dataclass
class Soak:
    """A running soak."""

    plan: Plan
    programs: Programs
    client: httpx.AsyncClient
    redis: Redis
    sequences: list[FolderChanges]
    watch: Watch
    began: float = field(default_factory=time.monotonic)
    done: Counter[str] = field(default_factory=Counter)
    last: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_EVENTS))
    sent: dict[str, Words] = field(default_factory=dict)
    """The words of each document that was sent to the API and not deleted, by its id."""
    requeued: int = 0
    totals: Totals | None = None
    _calm: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by whoever needs, or makes, an accident."""
    _later: set[asyncio.Task[None]] = field(default_factory=set)
    _dice: random.Random = field(default_factory=random.Random)
    _written: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._dice = random.Random(f"{self.plan.seed} {SHELF}")

    @property
    def folder(self) -> Path:
        return self.programs.folder

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    async def run(self) -> None:
        """Run the whole plan, then compare everything. Raises SoakFailure."""
        helpers = [asyncio.create_task(self._sample()), asyncio.create_task(self._tell())]
        try:
            async with asyncio.TaskGroup() as group:
                for stream, act in self._actors().items():
                    group.create_task(self._follow(stream, act))
            await self._end()
        finally:
            await cancel(*helpers, *self._later)

    def _actors(self) -> dict[Stream, Callable[[Event], Coroutine[Any, Any, None]]]:
        return {
            Stream.FOLDERS: self._change_folders,
            Stream.API: self._send,
            Stream.ADD: self._add,
            Stream.FAULTS: self._fault,
        }

    async def _follow(
        self, stream: Stream, act: Callable[[Event], Coroutine[Any, Any, None]]
    ) -> None:
        before = 0.0
        for event in self.plan.streams[stream]:
            # A comparison holds accidents up, which must not happen all at once afterwards.
            await asyncio.sleep(event.at - (before if stream is Stream.FAULTS else self.seconds))
            before = event.at
            self.last.append(f"{self.seconds:.1f} (planned {event})")
            await act(event)
            self.done[event.action] += 1

    # What happens to documents.

    async def _change_folders(self, event: Event) -> None:
        if event.action is Action.COMPARE:
            async with self._calm:
                self._let_all_go_on()
                await self._folders_are_found()
        else:
            await asyncio.to_thread(change_one, self._next_sequence(), self.sequences, MODE)

    def _next_sequence(self) -> FolderChanges:
        return self.sequences[self.done[Action.CHANGE] % len(self.sequences)]

    async def _send(self, event: Event) -> None:
        """Send a new text for a document, or its deletion, until there is a receipt."""
        doc_id = f"{API}/{event.on}"
        if event.action is Action.DELETE:
            await self._ask("DELETE", f"/documents/{doc_id}")
            self.sent.pop(doc_id, None)
        else:
            text = self._text(API)
            await self._ask("POST", "/documents", json={"doc_id": doc_id, "text": text})
            self.sent[doc_id] = words_of(text, API)

    async def _add(self, event: Event) -> None:
        """Change the shelf, and run ``ingestq add`` on it until that succeeds."""
        shelf = self.folder / SHELF
        there = sorted(path.name for path in shelf.iterdir())
        if len(there) > len(SHELF_NAMES) / 2:
            (shelf / there.pop(self._dice.randrange(len(there)))).unlink()
        if there and self._dice.random() < 0.5:
            (shelf / self._dice.choice(there)).rename(shelf / self._dice.choice(SHELF_NAMES))
        (shelf / self._dice.choice(SHELF_NAMES)).write_text(self._text(SHELF))
        await self._add_shelf()

    async def _add_shelf(self) -> None:
        deadline = self.seconds + SETTLE_SECONDS
        while (added := await self.command("add", SHELF, "--json")).code != 0:
            if added.code != UNREACHABLE or self.seconds > deadline:
                raise SoakFailure(f"ingestq add ended with {added.code}: {added.out} {added.err}")

    def _text(self, name: str) -> str:
        self._written[name] += 1
        return f"The tide of {name}_{letters(self._written[name])} turns."

    async def _ask(
        self, method: str, path: str, *, may_be_gone: bool = False, **more: Any
    ) -> httpx.Response:
        """Send a request until the API accepts it. Raises SoakFailure if it refuses it.

        What it is about ``may_be_gone`` or changed, and then the answer says that.
        """
        deadline = self.seconds + SETTLE_SECONDS
        while True:
            try:
                answer = await self.client.request(method, path, **more)
            except httpx.TransportError as error:
                said = repr(error)
            else:
                if answer.is_success or (may_be_gone and answer.status_code in GONE):
                    return answer
                said = f"{answer.status_code} {answer.text}"
                if answer.status_code < 500 and answer.status_code != 429:
                    raise SoakFailure(f"{method} {path}: {said}")
            if self.seconds > deadline:
                raise SoakFailure(f"{method} {path} does not succeed: {said}")
            await asyncio.sleep(RETRY_SECONDS)

    async def command(self, *arguments: str) -> CommandResult:
        """Run a command beside all programs."""
        return await self.programs.running[Program.UP].ingestq.ended(*arguments)

    # What happens to processes.

    async def _fault(self, event: Event) -> None:
        async with self._calm:
            self._all_run()
            match event.action:
                case Action.KILL | Action.RESTART:
                    number = signal.SIGKILL if event.action is Action.KILL else signal.SIGTERM
                    await self._start_again(self.programs.running[Program(event.on)], number)
                case Action.CLOCK:
                    self.programs.redis.set_clock(event.seconds)
                case Action.KILL_REDIS:
                    self.programs.redis.kill()
                    self.programs.redis.start()
                case _:
                    for pid in self._struck(event):
                        self._strike(pid, event)

    async def _start_again(self, program: RunningProgram, number: signal.Signals) -> None:
        program.send(signal.SIGCONT)
        was_ready = program.was_ready()
        code = await asyncio.to_thread(program.end, number)
        # Before its first instruction, Python dies of a SIGTERM, and later a service may be away.
        allowed = {0} if was_ready else {0, UNREACHABLE, -signal.SIGTERM}
        if number is signal.SIGTERM and code not in allowed:
            raise SoakFailure(f"{program.program} ended with {code} after {number.name}")
        program.start()

    def _struck(self, event: Event) -> list[int]:
        """Return the process that an event happens to; none if it does not run just now."""
        match event.action:
            case Action.STOP:
                return [self.programs.running[Program(event.on)].pid]
            case Action.KILL_POOL_PROCESS | Action.STOP_POOL_PROCESS:
                pids = self.programs.running[Program(event.on)].pool_processes()
                return [random.Random(event.at).choice(pids)] if pids else []
            case Action.STOP_REDIS:
                return [self.programs.redis.pid]
            case _:
                pid = self.programs.qdrant_pid()
                return [] if pid is None else [pid]

    def _strike(self, pid: int, event: Event) -> None:
        if not event.seconds:
            signal_to(pid, signal.SIGKILL)
            return
        signal_to(pid, signal.SIGSTOP)
        task = asyncio.create_task(self._go_on_later(pid, event.seconds))
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def _go_on_later(self, pid: int, seconds: float) -> None:
        await asyncio.sleep(seconds)
        signal_to(pid, signal.SIGCONT)

    def _let_all_go_on(self) -> None:
        pids = [self.programs.redis.pid, self.programs.qdrant_pid()]
        for program in self.programs.running.values():
            pids += [program.pid, *program.pool_processes()]
        for pid in pids:
            if pid is not None:
                signal_to(pid, signal.SIGCONT)

    def _all_run(self) -> None:
        """Start what could not start. Raises SoakFailure if anything ended by itself."""
        for program in self.programs.running.values():
            if wrong := program.keep_running():
                raise SoakFailure(wrong)

    # What has to be true.

    async def _folders_are_found(self) -> None:
        """Wait until a search finds what the watched folders hold. Raises SoakFailure."""
        await self._settles(self._folder_differences)
        for one in self.sequences:
            one.kept = one.held()

    async def _folder_differences(self) -> list[str]:
        wrong = []
        for one in self.sequences:
            wrong += differences(one.held(), await found(self.client, one.name), self.folder)
        return wrong

    async def _all_differences(self) -> list[str]:
        shelf = {
            str(path): words_of(path.read_text(encoding="utf-8"), SHELF)
            for path in (self.folder / SHELF).iterdir()
        }
        wrong = await self._folder_differences()
        for name, wanted in ((API, self.sent), (SHELF, shelf)):
            wrong += differences(wanted, await found(self.client, name), self.folder)
        return wrong

    async def _settles(self, look: Callable[[], Coroutine[Any, Any, list[str]]]) -> None:
        deadline = self.seconds + SETTLE_SECONDS
        while True:
            self._all_run()
            try:
                wrong = await look()
            except (httpx.TransportError, AssertionError) as error:
                wrong = traceback.format_exception(error)
            if not wrong:
                return
            await self._requeue_victims()
            if self.seconds > deadline:
                raise SoakFailure("\n".join(["the index differs from the sources:", *wrong]))
            await asyncio.sleep(RETRY_SECONDS)

    async def _end(self) -> None:
        """Let everything settle, with clocks that are right, and look at everything."""
        await cancel(*self._later)
        self._let_all_go_on()
        self.programs.redis.set_clock(0)
        await self._settles(self._folder_differences)
        for one in self.sequences:
            one.kept = one.held()
            one.clear_up()
        await self._settles(self._all_differences)
        await self._settles(self._dead_letters)
        await self._settles(self._jobs)
        await self._settles(self._books)
        verified = await self.command("verify", PLAIN, SHELF, "--json")
        if verified.code != 0:
            raise SoakFailure(f"verify: {verified.out} {verified.err}")
        self._has_not_grown()
        for program in self.programs.running.values():
            code = await asyncio.to_thread(program.end, signal.SIGTERM)
            if code != 0:
                raise SoakFailure(f"{program.program} ended with {code}, see {program.log}")
        if self.programs.qdrant_pid() is not None:
            raise SoakFailure("the bundled Qdrant runs after everybody has left")

    async def _requeue_victims(self) -> None:
        """Requeue the documents whose processes were killed too often, as an operator does."""
        for dead in await self._listed_dead_letters():
            if any(words in dead["reason"] for words in DEATHS):
                path = f"/dead-letters/{quote(dead['doc_id'], safe='')}/requeue"
                answer = await self._ask("POST", path, may_be_gone=True)
                self.requeued += answer.is_success

    async def _listed_dead_letters(self) -> list[dict[str, str]]:
        listed = await self._ask("GET", "/dead-letters", params={"limit": "1000"})
        return list(listed.json()["dead_letters"])

    async def _dead_letters(self) -> list[str]:
        """Return the dead letters of documents that exist: all can be read now.

        A file that was renamed before it was read stays a dead letter: ``ingestq add`` purges none.
        """
        return [
            f"dead letter: {dead['doc_id']}: {dead['reason']}"
            for dead in await self._listed_dead_letters()
            if not self._is_gone(Path(dead["doc_id"]))
        ]

    def _is_gone(self, path: Path) -> bool:
        return path.is_relative_to(self.folder / SHELF) and not path.exists()

    async def _jobs(self) -> list[str]:
        queue = (await self._ask("GET", "/status")).json()["queue"]
        busy = queue["ready"] + queue["deferred"] + queue["in_flight"]
        return [f"jobs are left: {queue}"] if busy else []

    async def _books(self) -> list[str]:
        """Look at the counts. The next scan of a folder may be changing them."""
        self.totals = await balanced(self.redis)
        is_settled = not self.totals.waiting and self.totals.accepted == self.totals.finished
        return [] if is_settled else [f"the counts do not add up: {self.totals}"]

    def _has_not_grown(self) -> None:
        for growth in self.watch.growth():
            is_steady = growth.name == f"{Program.STEADY} 1 descriptors"
            if is_steady and growth.end - growth.start > DESCRIPTORS:
                raise SoakFailure(f"descriptors leak: {growth}")

    # Watching.

    async def _sample(self) -> None:
        while True:
            await self.watch.sample(self.seconds, self.redis)
            await asyncio.sleep(SAMPLE_SECONDS)

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            done = sum(self.done.values())
            last = self.last[-1] if self.last else "nothing yet"
            print(
                f"{self.seconds:.0f} of {self.plan.seconds:.0f} s: {done} of {self.plan.events} "
                f"events; last: {last}",
                file=sys.stderr,
                flush=True,
            )

    def outcome(self, problems: Sequence[str]) -> Outcome:
        return Outcome(
            round(self.seconds, 1),
            dict(sorted(self.done.items())),
            {program: running.starts for program, running in self.programs.running.items()},
            sum(len(one.held()) for one in self.sequences) + len(self.sent),
            self.totals,
            self.requeued,
            self.watch.growth(),
            problems,
            list(self.last),
        )


async def soak(plan: Plan, folder: Path, library: str | None) -> Outcome:
    """Run ``plan`` in the empty ``folder``; ``library`` fakes the clock, if given."""
    async with prepared(plan, folder, library) as running:
        problems: list[str] = []
        try:
            await running.run()
        except* (SoakFailure, AssertionError, subprocess.TimeoutExpired) as failures:
            for failure in failures.exceptions:
                problems += traceback.format_exception(failure)
        return running.outcome(problems)


@asynccontextmanager
async def prepared(plan: Plan, folder: Path, library: str | None) -> AsyncIterator[Soak]:
    """Start everything, with folders that hold some files."""
    make_folders(folder)
    (folder / SHELF).mkdir()
    port = free_port()
    settings = {
        "api_port": str(port),
        "pool_size": "1",
        "lease_seconds": "3",
        "drop_settle_seconds": "0.3",
        "drop_rescan_seconds": str(MODE.rescan_seconds),
    }
    sequences = [
        FolderChanges(folder, f"seq{letters(number)}", f"{plan.seed} {number}")
        for number in range(SEQUENCES)
    ]
    with programs(folder, settings, library) as running:
        address = f"http://{HOST}:{port}"
        client = httpx.AsyncClient(base_url=address, timeout=REQUEST_SECONDS)
        async with client, connected(BrokerConfig(running.redis.url)) as redis:
            yield Soak(plan, running, client, redis, sequences, Watch(running))
