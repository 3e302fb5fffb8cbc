"""A source that is suddenly away or empty deletes nothing until somebody confirms it."""

import html
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from qdrant_client import models

from ingestq.app.schedule_actions import Rescan
from ingestq.broker.queue.dead_letters import DeadLetterFilter
from ingestq.broker.schedule.runs import RunOutcome
from ingestq.client.client import new_submission
from ingestq.core import events
from ingestq.core.display import NoDisplay
from ingestq.core.errors import SourceFailed
from ingestq.core.results import DocumentCounts, HeldSource
from producers.files.walk import ScanRecord
from producers.schedule.entry import ScheduledEntry, Timetable
from producers.schedule.sources import Documents, LineSource
from producers.watch.folder_watch import WatchConfig
from tests.command import Ingestq
from tests.harness import Harness
from tests.integration.test_watch import Logs, indexed_are, logged, watching
from tests.mounts import Mounts
from tests.running_command import serving
from tests.waiting import eventually

Mount = Callable[[Path], None]


@pytest.fixture(params=["tmpfs", "bind"])
def mount(request: pytest.FixtureRequest, mounts: Mounts, tmp_path: Path) -> Mount:
    """Mounts the same disk again and again, on a device of its own or on that of the folder."""

    def at(folder: Path) -> None:
        if request.param == "tmpfs":
            mounts.mount(folder)
        else:
            (tmp_path / "disk").mkdir(exist_ok=True)
            mounts.bind(tmp_path / "disk", folder)

    return at


async def held_back(harness: Harness) -> HeldSource | None:
    """Return what is held back of the only source of which something is."""
    sources = (await harness.broker.queue.overview()).held_back
    assert len(sources) <= 1
    return sources[0] if sources else None


async def requeue(harness: Harness, *, allow_mass_delete: bool) -> None:
    """Do what ``ingestq dead requeue --all`` does, and wait until workers are done."""
    found = [stored async for stored in harness.broker.dead_letters.find(DeadLetterFilter())]
    submission = new_submission()
    await harness.broker.dead_letters.requeue(
        found, submission, allow_mass_delete=allow_mass_delete
    )
    await eventually(harness.broker.queue.is_empty)


async def test_documents_of_a_nested_disk_are_kept_while_it_is_unmounted(
    harness: Harness, mounts: Mounts, mount: Mount
) -> None:
    sub = harness.root / "sub"
    mount(sub)
    harness.write("gone.txt", "stays.txt", "sub/b.txt", "sub/deep/c.txt")
    await harness.scan()
    mounts.unmount(sub)
    (harness.root / "gone.txt").unlink()
    summary = await harness.scan()
    assert summary.documents == DocumentCounts(unchanged=1, deleted=1, rejected=1)
    first = await held_back(harness)
    assert first is not None
    assert (first.source, first.documents) == (str(harness.root), 2)
    assert set(first.first) == {str(sub / "b.txt"), str(sub / "deep" / "c.txt")}
    assert f"{sub} is not mounted any more" in first.reason

    sub.rmdir()  # as an automatic mount does
    await harness.scan()
    again = await held_back(harness)
    assert again is not None
    assert (again.documents, again.since_ms) == (2, first.since_ms)
    assert await harness.indexed_files() == {"stays.txt", "sub/b.txt", "sub/deep/c.txt"}

    mount(sub)
    harness.write("sub/b.txt", "sub/deep/c.txt")
    assert (await harness.scan()).documents.rejected == 0
    assert await held_back(harness) is None
    assert await harness.dead_letters() == {}
    (sub / "b.txt").unlink()
    assert (await harness.scan()).documents == DocumentCounts(unchanged=2, deleted=1)


@pytest.mark.parametrize("stray", [(), ("not-mounted.txt",)])
@pytest.mark.parametrize("name", [None, "notes"])
async def test_documents_of_a_folder_are_kept_while_its_disk_is_unmounted(
    harness: Harness, mounts: Mounts, mount: Mount, stray: tuple[str, ...], name: str | None
) -> None:
    harness.write(*stray)
    mount(harness.root)
    harness.write("a.txt", "sub/b.txt")
    await harness.scan(name=name)
    mounts.unmount(harness.root)
    assert (await harness.scan(name=name)).documents == DocumentCounts(
        indexed=len(stray), rejected=1
    )
    held = await held_back(harness)
    assert held is not None
    assert held.documents == 2
    assert len(await harness.indexed()) == 2 + len(stray)


async def test_another_number_of_the_device_alone_holds_nothing_back(
    harness: Harness, mounts: Mounts
) -> None:
    """Many file systems get another one at each mount."""
    sub = harness.root / "sub"
    mounts.mount(sub)
    harness.write("sub/a.txt", "sub/b.txt", "sub/c.txt")
    os.utime(sub / "c.txt", (0, 0))  # so that its state tells that it has not changed
    await harness.scan()
    [*entries] = [entry async for page in harness.ledger.entries() for entry in page]
    volume = entries[0].volume
    assert volume is not None
    before = {"volume": list(volume._replace(device=volume.device + 1))}
    await harness.qdrant.ask(
        lambda client: client.set_payload(harness.names.ledger, before, points=models.Filter())
    )
    (sub / "a.txt").unlink()
    (sub / "b.txt").unlink()
    assert (await harness.scan()).documents == DocumentCounts(unchanged=1, deleted=2)
    assert await held_back(harness) is None


async def test_another_disk_in_the_same_place_deletes_nothing(
    harness: Harness, mounts: Mounts, tmp_path: Path
) -> None:
    sub, other = harness.root / "sub", tmp_path / "other"
    mounts.mount(sub)
    harness.write("a.txt", "sub/b.txt")
    await harness.scan()
    mounts.mount(other)
    mounts.unmount(sub)
    mounts.bind(other, sub)
    harness.write("sub/c.txt")
    await harness.scan()
    held = await held_back(harness)
    assert held is not None
    assert held.first == (str(sub / "b.txt"),)
    assert "is on another file system" in held.reason


async def test_files_that_were_copied_from_a_disk_into_its_folder_may_be_deleted(
    harness: Harness, mounts: Mounts
) -> None:
    sub = harness.root / "sub"
    mounts.mount(sub)
    harness.write("sub/a.txt", "sub/b.txt")
    for file in sub.iterdir():
        os.utime(file, (1, 1))
    await harness.scan()
    copy = shutil.copytree(sub, harness.root.with_name("copy"))
    mounts.unmount(sub)
    shutil.copytree(copy, sub, dirs_exist_ok=True)
    assert (await harness.scan()).documents == DocumentCounts(unchanged=2)
    (sub / "a.txt").unlink()
    assert (await harness.scan()).documents == DocumentCounts(unchanged=1, deleted=1)


async def test_what_is_held_back_is_deleted_when_it_is_confirmed(harness: Harness) -> None:
    harness.write("a.txt", "b.txt")
    await harness.scan(name="notes")
    shutil.rmtree(harness.root)
    harness.root.mkdir()
    [failed] = (await harness.scan(name="notes")).failed
    assert "nothing is left in it" in failed.reason
    held = await held_back(harness)
    assert held is not None
    assert held.confirm == (
        f"ingestq dead requeue notes --allow-mass-delete --collection {harness.names.alias}"
    )

    await requeue(harness, allow_mass_delete=False)
    assert (await held_back(harness)) is not None, "it was decided again"
    await requeue(harness, allow_mass_delete=True)
    assert await held_back(harness) is None
    assert await harness.indexed() == set()
    assert await harness.dead_letters() == {}


@pytest.mark.parametrize("poll_seconds", [None, 0.2])
async def test_a_disk_unmounted_from_a_watched_folder_deletes_nothing(
    harness: Harness, mounts: Mounts, poll_seconds: float | None
) -> None:
    config = WatchConfig(settle_seconds=0.3, rescan_seconds=0.5, poll_seconds=poll_seconds)
    sub = harness.root / "sub"
    mounts.mount(sub)
    harness.write("a.txt", "sub/b.txt")
    async with watching(harness.broker, harness.root, config) as logs:
        await indexed_are(harness, "a.txt", "sub/b.txt")
        harness.write("sub/c.txt")
        await indexed_are(harness, "a.txt", "sub/b.txt", "sub/c.txt")
        mounts.unmount(sub)
        await logged(logs, events.WATCH_HELD_BACK)
        scans = await _count(logs, events.WATCH_SCANNED)
        await eventually(
            lambda: _count(logs, events.WATCH_SCANNED), lambda count: count >= scans + 2
        )
        await indexed_are(harness, "a.txt", "sub/b.txt", "sub/c.txt")
        assert await _count(logs, events.WATCH_HELD_BACK) == 1
        mounts.mount(sub)
        harness.write("sub/b.txt", "sub/c.txt")
        await logged(logs, events.WATCH_RELEASED)
        assert await held_back(harness) is None


async def _rest(documents: Documents) -> None:
    async for _ in documents:
        pass


async def _count(logs: Logs, event: str) -> int:
    return [entry["event"] for entry in logs].count(event)


async def test_the_last_file_that_somebody_deletes_from_a_watched_folder_goes(
    harness: Harness,
) -> None:
    harness.write("a.txt", "b.txt")
    async with watching(harness.broker, harness.root):
        await indexed_are(harness, "a.txt", "b.txt")
        (harness.root / "a.txt").unlink()
        await indexed_are(harness, "b.txt")
        (harness.root / "b.txt").unlink()
        await indexed_are(harness)


async def test_an_empty_list_deletes_nothing(harness: Harness, tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    source = LineSource(path, "notes", complete=True)
    entry = ScheduledEntry(
        "e", Timetable("0 3 * * *"), source=source, collection=harness.names.alias
    )
    rescan = Rescan(harness.client, NoDisplay())
    path.write_text('{"doc_id": "1", "text": "One."}\n{"doc_id": "2", "text": "Two."}\n')
    await rescan(entry, lambda _: None)
    for content in ("", "\n\n"):
        path.write_text(content)
        result = await rescan(entry, lambda _: None)
        assert result.outcome is RunOutcome.REFUSED
        assert "nothing is left in it" in result.detail
    held = await held_back(harness)
    assert held is not None
    assert (held.source, held.documents) == ("notes", 2)
    path.write_text('{"doc_id": "2", "text": "Two."}\n')
    assert (await rescan(entry, lambda _: None)).documents.deleted == 1
    assert await held_back(harness) is None
    assert await harness.indexed() == {"notes/2"}


async def test_a_list_that_is_damaged_or_being_written_deletes_nothing(
    harness: Harness, tmp_path: Path
) -> None:
    path = tmp_path / "notes.jsonl"
    whole = "".join(f'{{"doc_id": "{i}", "text": "Note {i}."}}\n' for i in range(4))
    path.write_text(whole)
    source = LineSource(path, "notes", complete=True)
    entry = ScheduledEntry(
        "e", Timetable("0 3 * * *"), source=source, collection=harness.names.alias
    )
    rescan = Rescan(harness.client, NoDisplay())
    await rescan(entry, lambda _: None)
    path.write_text(whole[: len(whole) // 2 + 5])
    assert (await rescan(entry, lambda _: None)).documents.deleted == 0
    path.write_text(whole[: len(whole) // 2])
    documents = source.documents(harness.client.issue_version, ScanRecord())
    await anext(documents)
    path.write_text(whole)
    with pytest.raises(SourceFailed, match="while it was read"):
        await _rest(documents)
    more = LineSource(path, "notes").documents(harness.client.issue_version, ScanRecord())
    await anext(more)
    path.write_text(whole + whole)
    await _rest(more)
    assert len(await harness.indexed()) == 4


@pytest.mark.slow
async def test_what_is_held_back_is_shown_with_the_command_that_confirms_it(
    ingestq: Ingestq,
) -> None:
    """The command works while ``ingestq up`` has the bundled servers open."""
    note = ingestq.folder / "in" / "a note.txt"
    note.parent.mkdir()
    note.write_text("The lighthouse keeper owns two parrots.")
    assert ingestq("run", "in", "--json").code == 0
    note.unlink()
    refused = ingestq("run", "in", "--json")
    assert refused.code == 1
    assert refused.json["documents"]["rejected"] == 1
    [held] = ingestq("status", "--json").json["held_back"]
    assert (held["documents"], held["first"]) == (1, [str(note)])
    assert "nothing is left in it" in held["reason"]
    text = ingestq("status").out
    assert f"held back   {note.parent} since {held['since']}" in text
    assert held["confirm"] in text

    # A scan that began before the command ends may hold the deletion back until the next one.
    settings = {"drop_settle_seconds": "0.3", "drop_rescan_seconds": "5"}
    with serving(ingestq, "up", "--drop", "in", **settings) as served:
        async with httpx.AsyncClient(base_url=served.url, timeout=60) as client:

            async def shown() -> list[dict[str, object]]:
                shown: list[dict[str, object]] = (await client.get("/status")).json()["held_back"]
                return shown

            async def page() -> str:
                return (await client.get("/")).text

            assert await eventually(shown) == [held]
            await eventually(page, lambda text: html.escape(held["confirm"]) in text)
            program, *arguments = shlex.split(held["confirm"])
            assert program == "ingestq"
            assert (await ingestq.ended(*arguments)).code == 0
            await eventually(shown, lambda sources: sources == [])

            async def documents() -> int:
                count: int = (await client.get("/status")).json()["collection"]["documents"]
                return count

            # The command queues the deletions, which then are not held back any more.
            await eventually(documents, lambda count: count == 0)
