"""The state of the index after a scheduled rescan, for each kind of source."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest

from ingestq.app.composition import Broker
from ingestq.app.schedule_actions import Rescan
from ingestq.broker.schedule.runs import RunOutcome
from ingestq.core.display import NoDisplay
from ingestq.core.documents import Document, Lane
from ingestq.core.errors import SourceFailed
from ingestq.core.results import DocumentCounts
from ingestq.core.service import cancel
from producers.files.patterns import Patterns
from producers.schedule.entry import ScheduledEntry, Timetable
from producers.schedule.generators import Generator
from producers.schedule.runner import ActionResult
from producers.schedule.sources import FileSource, LineSource, Source
from tests.harness import Harness
from tests.waiting import eventually

ENOUGH = 11
"""The fewest deletions that the guard refuses if they are a large share of the folder."""


async def rescan(
    harness: Harness, source: Source, *, allow_mass_delete: bool = False
) -> ActionResult:
    """Run an entry with ``source`` to its end."""
    handle = Rescan(harness.broker.client, NoDisplay(), allow_mass_delete)
    submissions: list[str] = []
    timetable, collection = Timetable("0 3 * * *"), harness.names.alias
    entry = ScheduledEntry("e", timetable, source=source, collection=collection)
    result = await handle(entry, submissions.append)
    assert submissions == [result.submission]
    return result


class Export:
    """Stands in for a module of the user."""

    items: tuple[Any, ...] = ()
    closed = 0


async def documents() -> AsyncGenerator[Any, None]:
    try:
        for item in Export.items:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        Export.closed += 1


@pytest.fixture
def export() -> Iterator[type[Export]]:
    yield Export
    Export.items, Export.closed = (), 0


OWN = Generator(f"{__name__}:documents")


def lines(path: Path, *documents: dict[str, Any] | str) -> None:
    texts = [d if isinstance(d, str) else json.dumps(d) for d in documents]
    path.write_text("\n".join(texts), encoding="utf-8")


def note(doc_id: str, **more: Any) -> dict[str, Any]:
    return {"doc_id": doc_id, "text": f"A note called {doc_id}.", **more}


async def test_the_index_equals_the_folder(harness: Harness) -> None:
    harness.write("a.md", "b.md", "c.txt", "draft.md", "sub/d.md")
    patterns = Patterns(("*.md",), ("draft.*",))
    source = FileSource(harness.root, "notes", "island", patterns, {"shelf": 7})
    result = await rescan(harness, source)
    assert result.outcome is RunOutcome.DONE
    assert result.documents == DocumentCounts(indexed=3)
    assert result.chunks.embedded == 3
    payloads = await harness.payloads()
    assert {p["doc_id"] for p in payloads} == {"notes/a.md", "notes/b.md", "notes/sub/d.md"}
    assert {(p["tenant"], p["metadata"]["shelf"]) for p in payloads} == {("island", 7)}
    (harness.root / "a.md").unlink()
    assert (await rescan(harness, source)).documents == DocumentCounts(unchanged=2, deleted=1)
    assert await harness.indexed() == {"notes/b.md", "notes/sub/d.md"}


async def test_a_single_file_can_be_a_source(harness: Harness) -> None:
    harness.write("a.txt", "b.txt")
    result = await rescan(harness, FileSource(harness.root / "a.txt"))
    assert result.documents == DocumentCounts(indexed=1)
    assert await harness.indexed_files() == {"a.txt"}


async def test_a_mass_deletion_needs_permission(harness: Harness) -> None:
    harness.write("stays.txt", *(f"{i}.txt" for i in range(ENOUGH)))
    source = FileSource(harness.root)
    await rescan(harness, source)
    for i in range(ENOUGH):
        (harness.root / f"{i}.txt").unlink()
    refused = await rescan(harness, source)
    assert refused.outcome is RunOutcome.REFUSED
    assert f"{ENOUGH} of {ENOUGH + 1} documents of this source are gone" in refused.detail
    assert len(await harness.indexed()) == ENOUGH + 1
    allowed = await rescan(harness, source, allow_mass_delete=True)
    assert allowed.outcome is RunOutcome.DONE
    assert allowed.documents == DocumentCounts(unchanged=1, deleted=ENOUGH)


async def test_a_missing_folder_fails_and_deletes_nothing(
    harness: Harness,
) -> None:
    harness.write("a.txt")
    await rescan(harness, FileSource(harness.root))
    harness.root.rename(harness.root.with_name("elsewhere"))
    with pytest.raises(SourceFailed, match="there is no such file or folder"):
        await rescan(harness, FileSource(harness.root))
    assert await harness.indexed_files() == {"a.txt"}


async def test_a_glob_deletes_only_under_a_name_of_its_own(harness: Harness) -> None:
    harness.write("a.md", "b.md", "x.txt", "sub/c.md")
    await rescan(harness, FileSource(harness.root))
    flat = Patterns(("/*.md",))
    (harness.root / "a.md").unlink()
    glob = FileSource(harness.root, patterns=flat, glob="*.md", complete=False)
    assert (await rescan(harness, glob)).documents == DocumentCounts(unchanged=1)
    assert "a.md" in await harness.indexed_files()
    own = FileSource(harness.root, "own", patterns=flat, glob="*.md", complete=True)
    assert (await rescan(harness, own)).documents == DocumentCounts(indexed=1)
    (harness.root / "b.md").rename(harness.root / "e.md")
    assert (await rescan(harness, own)).documents == DocumentCounts(indexed=1, deleted=1)
    assert {doc_id for doc_id in await harness.indexed() if doc_id.startswith("own")} == {
        "own/e.md"
    }


async def test_a_complete_list_deletes_what_is_no_longer_in_it(harness: Harness) -> None:
    path = harness.root.with_name("all.jsonl")
    source = LineSource(path, "erp", metadata={"kind": "line"}, complete=True)
    lines(path, note("1", metadata={"year": 2024}), note("2", version=7), "", note("sub/3"))
    assert (await rescan(harness, source)).documents == DocumentCounts(indexed=3)
    metadata = {p["doc_id"]: p["metadata"] for p in await harness.payloads()}
    assert metadata.keys() == {"erp/1", "erp/2", "erp/sub/3"}
    assert (metadata["erp/1"]["kind"], metadata["erp/1"]["year"]) == ("line", 2024)
    lines(path, note("1", metadata={"year": 2024}))
    assert (await rescan(harness, source)).documents == DocumentCounts(unchanged=1, deleted=2)
    # Versions are Redis time, so a document that comes back is newer than its deletion.
    lines(path, note("1", metadata={"year": 2024}), note("2", version=7))
    assert (await rescan(harness, source)).documents == DocumentCounts(indexed=1, unchanged=1)
    assert await harness.indexed() == {"erp/1", "erp/2"}


@pytest.mark.parametrize("complete", [True, False])
async def test_every_change_of_a_list_reaches_the_index(harness: Harness, complete: bool) -> None:
    path = harness.root.with_name("all.jsonl")
    source = LineSource(path, "erp", complete=complete)
    lines(path, *(note(name) for name in ("kept", "changed", "removed", "tagged", "twice")))
    assert (await rescan(harness, source)).documents.indexed == 5
    tagged = note("tagged", metadata={"year": 2026})
    twice = [note("twice", text=text) for text in ("It is listed.", "It is listed again.")]
    changed = note("changed", text="It says something else.")
    lines(path, note("added"), *twice, tagged, note("kept"), changed)
    result = await rescan(harness, source)
    texts = {p["doc_id"]: p["page_content"] for p in await harness.payloads()}
    assert texts == {
        "erp/added": "A note called added.",
        "erp/changed": "It says something else.",
        "erp/kept": "A note called kept.",
        "erp/tagged": "A note called tagged.",
        "erp/twice": "It is listed again.",
    } | ({} if complete else {"erp/removed": "A note called removed."})
    assert result.documents.deleted == complete
    years = [p["metadata"].get("year") for p in await harness.payloads()]
    assert [year for year in years if year is not None] == [2026]


@pytest.mark.parametrize(
    "invalid",
    ["no document", *(json.dumps(note("9", **{key: "other"})) for key in ("tenant", "collection"))],
)
async def test_a_list_with_an_invalid_line_deletes_nothing(harness: Harness, invalid: str) -> None:
    path = harness.root.with_name("all.jsonl")
    source = LineSource(path, "erp", complete=True)
    lines(path, note("1"), note("2"))
    await rescan(harness, source)
    lines(path, note("1"), invalid)
    result = await rescan(harness, source)
    assert result.outcome is RunOutcome.DONE
    assert result.documents == DocumentCounts(unchanged=1, rejected=1)
    assert result.detail.startswith("1 rejected: ")
    assert await harness.indexed() == {"erp/1", "erp/2"}
    path.unlink()
    with pytest.raises(SourceFailed, match=r"all\.jsonl cannot be read: No such file"):
        await rescan(harness, source)
    assert await harness.indexed() == {"erp/1", "erp/2"}


async def test_a_complete_list_keeps_other_sources_and_tenants(harness: Harness) -> None:
    path = harness.root.with_name("all.jsonl")
    lines(path, note("1"), note("2", tenant="own"))
    assert (await rescan(harness, LineSource(path, tenant="isle"))).documents.indexed == 2
    lines(path, note("1"))
    assert (await rescan(harness, LineSource(path, "erp", "isle", complete=True))).documents == (
        DocumentCounts(indexed=1)
    )
    tenants = {p["doc_id"]: p["tenant"] for p in await harness.payloads()}
    assert tenants == {"1": "isle", "2": "own", "erp/1": "isle"}


async def test_a_generator_can_be_a_source(harness: Harness, export: type[Export]) -> None:
    document = Document(doc_id="b", version=1, source="https://b", text="A note.")
    export.items = (note("a", source="https://a"), document)
    source = LineSource(OWN, "erp", complete=True)
    assert (await rescan(harness, source)).documents == DocumentCounts(indexed=2)
    sources = {p["doc_id"]: p["metadata"]["source"] for p in await harness.payloads()}
    assert sources == {"erp/a": "https://a", "erp/b": "https://b"}
    export.items = (document,)
    assert (await rescan(harness, source)).documents == DocumentCounts(unchanged=1, deleted=1)
    assert await harness.indexed() == {"erp/b"}
    assert export.closed == 2


async def test_a_generator_that_fails_midway_deletes_nothing(
    harness: Harness, export: type[Export]
) -> None:
    source = LineSource(OWN, "erp", complete=True)
    export.items = (note("a"), note("b"))
    await rescan(harness, source)
    export.items = (note("c"), KeyError("price"))
    with pytest.raises(SourceFailed, match=r"documents failed: KeyError: 'price'"):
        await rescan(harness, source)
    assert export.closed == 2
    await eventually(harness.broker.queue.is_empty)
    assert {"erp/a", "erp/b"} <= await harness.indexed()


@pytest.mark.parametrize(
    "invalid", [{"doc_id": "a"}, {"doc_id": "a", "text": "x", "color": 1}, 7, note("\ud800")]
)
async def test_an_invalid_item_of_a_generator_is_rejected(
    harness: Harness, export: type[Export], invalid: Any
) -> None:
    export.items = (invalid, note("b"))
    result = await rescan(harness, LineSource(OWN, "erp", complete=True))
    assert result.documents == DocumentCounts(indexed=1, rejected=1)
    assert "item 1: not a document" in result.detail


async def test_documents_have_the_lane_and_collection_of_their_entry(
    broker: Broker, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("A note.")
    entry = ScheduledEntry(
        "e",
        Timetable("0 3 * * *"),
        source=FileSource(tmp_path),
        lane=Lane.INTERACTIVE,
        collection="other",
    )
    running = asyncio.create_task(
        Rescan(broker.client, NoDisplay())(entry, lambda submission: None)
    )
    depth = await eventually(broker.queue.depth, lambda depth: depth.ready == 2)
    assert (depth.interactive, depth.bulk) == (1, 1)  # the sweep is bulk work
    assert (await broker.queue.overview()).ready == {"other": 2}
    await cancel(running)
