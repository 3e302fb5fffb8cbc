"""Random changes to watched folders under ``ingestq up``: a search finds what the folders hold.

A failure prints the shell commands that led to it. ``pytest TESTFILE -k "events and 3"`` makes the
same changes again.
"""

import asyncio
import os
import re
import shlex
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import httpx
import pytest

from ingestq.core import events
from tests.command import Ingestq
from tests.faults.test_killed_watch import Up, up
from tests.folder_changes import (
    AWAY,
    CHANGES,
    DROP_TABLES,
    FEW,
    PLAIN,
    WATCHED,
    FolderChanges,
    Held,
    run_in_shell,
    words_of,
)
from tests.waiting import eventually

SEEDS: Final = range(3)
SEQUENCES: Final = 16
"""Sequences of a seed and a mode."""
AT_ONCE: Final = 8
"""Sequences that are made side by side."""
STEPS: Final = 3
"""Comparisons of each sequence."""
CHANGES_A_STEP: Final = 3
DELETIONS: Final = 10
"""Most documents of a watched folder that the mass-deletion guard lets go unasked."""
UNTOUCHED: Final = 20
"""Files of each watched folder that nothing happens to."""
SECONDS: Final = 100.0
"""Longest time until a search finds what the folders hold, on a busy machine."""

SOURCES: Final = Path(__file__).parents[2] / "docs" / "sources.md"
OTHERS: Final = frozenset(
    {
        "bring the watched folder back",
        "change the patterns of a folder",
        "take the watched folder away",
        "unmount",
        "write, change or delete a sidecar",
    }
)
"""Documented changes of which no sequence consists."""
ONLY_AS_ROOT: Final = frozenset({"mount over a folder"})
SEEN_BY_SCANS: Final = frozenset(
    {
        "give permissions back",
        "make a hard link",
        "link to a file that is no document",
        "mount over a folder",
        "take a folder's permissions",
        "take a file's permissions",
    }
)
"""Changes that no event tells of."""


@dataclass(frozen=True)
class Mode:
    """How changes are found, and which kinds of them are made."""

    rescan_seconds: int
    kinds: Sequence[str]


SCANS: Final = Mode(2, [kind for kind in CHANGES if os.geteuid() == 0 or kind not in ONLY_AS_ROOT])
EVENTS: Final = Mode(3600, [kind for kind in SCANS.kinds if kind not in SEEN_BY_SCANS])


class Unprivileged(Ingestq):
    """The command, which may read only what the permissions of files allow, even as root."""

    @staticmethod
    def command(*arguments: str | Path) -> list[str | Path]:
        command = Ingestq.command(*arguments)
        if os.geteuid() != 0:
            return command
        return ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]


@dataclass(frozen=True)
class Room:
    """Two watched folders under a running ``ingestq up``."""

    ingestq: Ingestq
    running: Up
    client: httpx.AsyncClient

    async def differences(self, changes: FolderChanges, wanted: Held | None = None) -> list[str]:
        """Return in what a search differs from what is ``wanted``, or else from the folders."""
        wanted = changes.held() if wanted is None else wanted
        return differences(wanted, await found(self.client, changes.name), self.ingestq.folder)

    async def settled(self, sequences: Sequence[FolderChanges]) -> None:
        """Wait until a search finds what the folders hold."""
        waiting = list(sequences)
        try:
            async with asyncio.timeout(SECONDS):
                while waiting:
                    waiting = [one for one in waiting if await self.differences(one)]
        except TimeoutError:
            await self.fail(waiting)
        for one in sequences:
            one.kept = one.held()

    async def fail(self, sequences: Sequence[FolderChanges]) -> None:
        """Fail with the changes and differences of ``sequences``."""
        told = []
        for one in sequences:
            lines = [f"== {one.name}", *one.commands, "--", *await self.differences(one)]
            told.append("\n".join(lines))
        log = await self.running.log()
        pytest.fail("\n".join([*told, log[-5000:]]), pytrace=False)

    async def survives(self, sequences: Sequence[FolderChanges], gone: str, back: str) -> None:
        """Assert that nothing is lost while the first watched folder is away.

        ``gone`` and ``back`` are shell commands that take it away and bring it back.
        """
        for command, event in ((gone, events.WATCH_UNAVAILABLE), (back, events.WATCH_AVAILABLE)):
            wanted = await self._count(event) + 1
            for one in sequences:
                one.commands.append(command)
            run_in_shell(self.ingestq.folder, command)
            await eventually(partial(self._count, event), wanted.__le__)
            await self.holds_what_was_kept(sequences)
        await eventually(self.running.log, _was_scanned_again, SECONDS)
        await self.running.idle()
        await self.holds_what_was_kept(sequences)

    async def dead_letters(self) -> set[str]:
        """Return the ids of the dead letters."""
        answer = await self.client.get("/dead-letters")
        return {dead["doc_id"] for dead in answer.json()["dead_letters"]}

    async def has_dead_letters(self, *wanted: str) -> None:
        """Wait until the dead letters are those of ``wanted``, ids of documents or folders.

        The end of a scan deletes those of files that are gone.
        """
        await eventually(self.dead_letters, lambda dead: dead == set(wanted), SECONDS)

    async def _count(self, event: str) -> int:
        return (await self.running.log()).count(event)

    async def holds_what_was_kept(self, sequences: Sequence[FolderChanges]) -> None:
        """Assert that a search finds what it found at the last comparison."""
        if wrong := [one for one in sequences if await self.differences(one, one.kept)]:
            await self.fail(wrong)

    async def consistent(self) -> None:
        """Assert that ``ingestq verify`` finds no difference."""
        verified = await self.ingestq.ended("verify", WATCHED[0], "--json")
        assert verified.json["consistent"], verified.out


async def found(client: httpx.AsyncClient, name: str) -> Held:
    """Return what a search finds of the documents whose texts have the ``name`` in them."""
    asked = {"q": name, "mode": "sparse", "limit": "1000"}
    answer = await client.get("/search", params=asked)
    assert answer.status_code == 200, answer.text
    texts: defaultdict[str, str] = defaultdict(str)
    for hit in answer.json()["hits"]:
        texts[hit["doc_id"]] += " " + hit["text"]
    words = {doc_id: words_of(text, name) for doc_id, text in texts.items()}
    return {doc_id: those for doc_id, those in words.items() if those}


def differences(wanted: Held, seen: Held, base: Path) -> list[str]:
    """Return in what ``seen`` differs from what is ``wanted``; paths are those below ``base``."""
    return [
        f"{doc_id.removeprefix(f'{base}/')}: found {sorted(seen.get(doc_id, ()))}, "
        f"expected {sorted(wanted.get(doc_id, ()))}"
        for doc_id in sorted(wanted.keys() | seen.keys())
        if wanted.get(doc_id) != seen.get(doc_id)
    ]


@asynccontextmanager
async def room(ingestq: Ingestq, mode: Mode) -> AsyncIterator[Up]:
    """Yield ``ingestq up``, to be started, with two watched folders that hold some files."""
    make_folders(ingestq.folder)
    async with up(ingestq) as running:
        ingestq.settings |= {
            "api_port": "0",
            "drop_settle_seconds": "0.3",
            "drop_rescan_seconds": str(mode.rescan_seconds),
        }
        try:
            yield running
        finally:
            unmount(ingestq.folder)


def make_folders(base: Path) -> None:
    """Make the two watched folders in ``base``, and the settings that name them."""
    for top in (*WATCHED, AWAY):
        (base / top).mkdir()
        for number in range(UNTOUCHED):
            (base / top / f"{number}.md").write_text(f"Buoy {number} stays where it is.")
    (base / "ingestq.toml").write_text(DROP_TABLES)


def unmount(base: Path) -> None:
    """Unmount whatever a failed test left mounted in ``base``."""
    for above, folders, _ in os.walk(base):
        for path in (Path(above, name) for name in folders):
            if path.is_mount() and not path.is_symlink():
                run_in_shell(base, f"umount --lazy {shlex.quote(str(path))}")


@asynccontextmanager
async def started(ingestq: Ingestq, running: Up, *arguments: str) -> AsyncIterator[Room]:
    """Run ``ingestq up``; yield once both folders were scanned, and stop it on leaving."""
    await running.start(*arguments)
    await scanned(running)
    async with await running.client() as client:
        yield Room(ingestq, running, client)
    assert running.end(signal.SIGTERM) == 0


async def scanned(running: Up) -> None:
    """Wait until each folder was scanned since the start, and no job waits."""
    await eventually(running.log, _tells_of_scans, SECONDS)
    await running.idle()


def _tells_of_scans(log: str) -> bool:
    return all(_tells_of_scan(top, log) for top in WATCHED)


def _was_scanned_again(log: str) -> bool:
    """Return whether the first watched folder was scanned since it came back."""
    return _tells_of_scan(PLAIN, log.rpartition(events.WATCH_AVAILABLE)[2])


def _tells_of_scan(folder: str, log: str) -> bool:
    return bool(re.search(rf'{re.escape(events.WATCH_SCANNED)}.*/{folder}["\s]', log))


def change(sequences: Sequence[FolderChanges], mode: Mode) -> None:
    """Make one step of each sequence, with no more deletions than the guard allows."""
    for one in sequences:
        for _ in range(CHANGES_A_STEP):
            change_one(one, sequences, mode)


def change_one(one: FolderChanges, sequences: Sequence[FolderChanges], mode: Mode) -> None:
    """Make a change of ``one``; no deletion if there were many in ``sequences``."""
    few = [kind for kind in mode.kinds if not CHANGES[kind].removes]
    gone = max(sum(other.gone(top) for other in sequences) for top in WATCHED)
    one.make(few if gone > DELETIONS - FEW else mode.kinds, 1)


def test_every_change_that_is_documented_is_made() -> None:
    """Except the one of each row in `OTHERS`, which all sequences meet together, or other tests."""
    table = SOURCES.read_text(encoding="utf-8").partition("| change |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert set(rows) == CHANGES.keys() | OTHERS


@pytest.fixture
def unprivileged(tmp_path: Path) -> Ingestq:
    return Unprivileged(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [EVENTS, SCANS], ids=["events", "scans"])
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_search_finds_what_the_folders_hold(
    unprivileged: Ingestq, mode: Mode, seed: int
) -> None:
    made: list[FolderChanges] = []
    async with room(unprivileged, mode) as running:
        async with started(unprivileged, running) as watched:
            while len(made) < SEQUENCES:
                numbers = range(len(made), len(made) + AT_ONCE)
                sequences = [
                    FolderChanges(unprivileged.folder, f"seq{chr(ord('a') + n)}", f"{seed} {n}")
                    for n in numbers
                ]
                await changed(watched, sequences, mode)
                made += sequences
            await watched.survives(made, "mv plain gone", "mv gone plain")
            # At once: a folder of which a part is removed is there, with some files deleted.
            replace = "cp -Rp plain gone && mv plain old && rm -r old"
            await watched.survives(made, replace, "mv gone plain")
        run_in_shell(unprivileged.folder, "rm -r plain/seq*")
        async with started(unprivileged, running) as watched:
            await watched.holds_what_was_kept(made)
            await watched.has_dead_letters(str(unprivileged.folder / PLAIN))
        async with started(unprivileged, running, "--allow-mass-delete") as watched:
            if wrong := [one for one in made if await watched.differences(one)]:
                await watched.fail(wrong)
            await watched.consistent()
            await watched.has_dead_letters()


async def changed(watched: Room, sequences: Sequence[FolderChanges], mode: Mode) -> None:
    """Make all steps of ``sequences``, and compare after each."""
    for _ in range(STEPS):
        change(sequences, mode)
        await watched.settled(sequences)
    for one in sequences:
        one.clear_up()
    await watched.settled(sequences)
    await watched.consistent()
