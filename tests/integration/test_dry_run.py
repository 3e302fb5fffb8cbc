"""A dry run says what the next run does, and changes nothing."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from ingestq.app.dry_run import DryRun, DryRunResult
from ingestq.app.sources import Places
from ingestq.core.display import NoDisplay
from producers.files.walk import ReadOptions
from tests.command import Ingestq
from tests.harness import Harness
from worker.blobs import BlobContents
from worker.pipeline.dry_run import DryRunIndex, DryRunModel
from worker.pipeline.ports import Ports
from worker.store.chunks import QdrantStore

NAMES = [f"{folder}/{name}.md" for folder in ("a", "b") for name in "123456"]


async def dry_run(harness: Harness, price: float | None = None) -> DryRunResult:
    """Do what ``ingestq run --dry-run`` does with the whole folder."""
    index = DryRunIndex(QdrantStore(harness.qdrant, harness.names.chunks), harness.ledger)
    ports = Ports(DryRunModel(harness.model), index, index, BlobContents())
    places = Places([harness.root], [], None, ReadOptions())
    head = await harness.ledger.head()
    run = DryRun(places, ports, head, NoDisplay(), harness.names.alias, price)
    return await run.finish()


def write(path: Path, sections: int, seed: int) -> None:
    """Write a document of several chunks, which depend on ``seed``."""
    words = random.Random(seed)
    text = "\n\n".join(
        f"# Section {i}\n\n" + " ".join(f"word{words.randrange(500)}" for _ in range(120))
        for i in range(sections)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def change(root: Path, choice: random.Random) -> None:
    """Edit, add, move, delete and break some documents."""
    for name in choice.sample(NAMES, 5):
        path = root / name
        match choice.choice(["edit", "append", "delete", "move", "break", "touch"]):
            case "edit":
                write(path, choice.randint(1, 3), choice.randrange(100))
            case "append" if path.exists():
                path.write_text(path.read_text(encoding="utf-8") + "\n\n# More\n\nlast words")
            case "delete":
                path.unlink(missing_ok=True)
            case "move" if path.exists():
                path.rename(path.with_name(f"moved-{choice.randrange(1000)}.md"))
            case "break":
                path.write_bytes(b"%PDF-1.7 and nothing else")
            case _:
                path.touch()


@pytest.mark.parametrize(
    "seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
async def test_a_dry_run_says_what_the_run_does(harness: Harness, seed: int) -> None:
    choice = random.Random(seed)
    for i, name in enumerate(NAMES):
        write(harness.root / name, 1 + i % 3, i)
    async with harness.working():
        for _ in range(2):
            before = await harness.payloads(), await harness.ledger.head()
            expected = (await dry_run(harness)).summary
            assert (await harness.payloads(), await harness.ledger.head()) == before
            done = await harness.scan()
            assert replace(expected, seconds=done.seconds, failed=()) == replace(done, failed=())
            assert [f.doc_id for f in expected.failed] == [f.doc_id for f in done.failed]
            change(harness.root, choice)


async def test_a_dry_run_lists_what_changes_and_what_it_costs(harness: Harness) -> None:
    harness.write(*NAMES)
    async with harness.working():
        await harness.scan()
    (harness.root / NAMES[0]).unlink()
    (harness.root / NAMES[1]).write_text("Something else entirely.")
    result = await dry_run(harness, price=2.0)
    assert result.to_delete == [str(harness.root / NAMES[0])]
    assert result.to_index == [str(harness.root / NAMES[1])]
    assert result.summary.chunks.deleted == 2
    assert result.summary.usage.tokens > 0
    assert result.summary.cost == pytest.approx(result.summary.usage.tokens * 2 / 1e6)


async def test_a_dry_run_says_what_the_guard_would_hold_back(harness: Harness) -> None:
    harness.write(*NAMES)
    async with harness.working():
        await harness.scan()
    for name in NAMES[1:]:
        (harness.root / name).unlink()
    [held] = (await dry_run(harness)).summary.failed
    assert "--allow-mass-delete" in held.reason
    assert held.doc_id == str(harness.root)


async def test_a_folder_that_moved_is_no_mass_deletion(harness: Harness) -> None:
    harness.write(*NAMES)
    async with harness.working():
        await harness.scan()
        (harness.root / "a").rename(harness.root / "c")
        (harness.root / "b").rename(harness.root / "d")
        expected = (await dry_run(harness)).summary
        assert (expected.documents.deleted, expected.documents.rejected) == (12, 0)
        assert expected.chunks.embedded == 0
        assert (await harness.scan()).documents == expected.documents


def test_the_first_dry_run_leaves_no_trace(ingestq: Ingestq, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    write(folder / "a.md", 2, 1)
    ingestq.settings["embeddings_price"] = "0.02"
    ran = ingestq("run", str(folder), "--dry-run", "--json")
    answer = json.loads(ran.out)
    assert answer["dry_run"] is True
    assert answer["would_index"] == [str(folder / "a.md")]
    assert answer["cost"] == pytest.approx(answer["tokens"] * 0.02 / 1e6)
    assert answer["tokens"] > 0
    assert not (tmp_path / ".ingestq").exists()
