"""Hooks in a real run: what they return is indexed, and what they do wrong stops nobody else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ingestq.app.composition import Broker
from ingestq.broker.queue.dead_letters import DeadLetterFilter
from ingestq.core.documents import Document, Lane
from ingestq.core.errors import UsageError
from tests.command import Ingestq
from tests.harness import Harness
from tests.workers import at_work, indexing_worker, served_collection
from worker.embedding.config import EmbeddingConfig
from worker.embedding.pool import ModelPool
from worker.process_pool.limits import MEBIBYTE, PARSE_LIMITS
from worker.store.client import Qdrant
from worker.store.collection import CollectionNames
from worker.text.config import HooksConfig, ReadingConfig

HOOKS = """
import hashlib, os, threading
from ingestq.hooks import DocumentChunk, DocumentPart, ParsedDocument, hook

print("the module is imported")
THREADS = 16

def burn():
    while True:
        hashlib.pbkdf2_hmac("sha256", b"", b"", 1 << 30)  # without the GIL

@hook(version="1")
def parse(content, document):
    print('{"this": "is no message of the pool"}', flush=True)
    if not document.source.endswith(".ticket"):
        return None
    title, _, text = content.decode().partition("\\n")
    return ParsedDocument([DocumentPart(text, name="report")], title)

@hook(version="1")
def chunk(parts, document):
    for part in parts:
        for sentence in part.text.split(". "):
            yield DocumentChunk(sentence, document.title or "", part=part.name)

@hook(version="1")
def enrich(text, document):
    what = document.source.rpartition("/")[2].partition(".")[0]
    if what == "raise":
        raise ValueError(f"no reading of {text!r}")
    if what == "wrong":
        return "urgent"
    if what == "loop":
        # In many threads: its processor time is to end before its time does, however many other
        # processes want the processor.
        threading.stack_size(1 << 18)
        for _ in range(THREADS):
            threading.Thread(target=burn, daemon=True).start()
        burn()
    if what == "huge":
        return {"n": len([bytearray(1 << 30) for _ in range(10)])}
    if what == "exit":
        os._exit(7)
    return {"words": len(text.split()), "team": "pumps"}
"""


CPU_SECONDS = 4


def model_with_hooks(cache_dir: Path, folder: Path, **limits: int) -> ModelPool:
    module = f"hooks_of_{folder.name}"
    (folder / f"{module}.py").write_text(HOOKS, encoding="utf-8")
    hooks = HooksConfig(f"{module}:parse", f"{module}:chunk", f"{module}:enrich", folder)
    return ModelPool(
        EmbeddingConfig(
            cache_dir,
            reading=ReadingConfig(hooks=hooks),
            parse_limits=replace(PARSE_LIMITS, **limits),  # type: ignore[arg-type]
        )
    )


def harness_of(
    broker: Broker, qdrant: Qdrant, names: CollectionNames, model: ModelPool, root: Path
) -> Harness:
    root.mkdir()
    return Harness.of(broker, qdrant, names, model, root)


async def tracebacks(broker: Broker) -> dict[str, str]:
    """Return the traceback of each dead letter by the name of its file."""
    found = broker.dead_letters.find(DeadLetterFilter())
    letters = [stored.dead_letter async for stored in found]
    return {Path(letter.doc_id).name: letter.traceback for letter in letters}


async def test_hooks_decide_what_is_indexed(
    broker: Broker, qdrant: Qdrant, collection: CollectionNames, cache_dir: Path, tmp_path: Path
) -> None:
    async with model_with_hooks(cache_dir, tmp_path) as model:
        versions = await model.hook_versions()
        assert versions.parse == f"hooks_of_{tmp_path.name}:parse 1"
        harness = harness_of(broker, qdrant, collection, model, tmp_path / "root")
        (harness.root / "17.ticket").write_text("Leak\nThe pump drips. It is old.")
        (harness.root / "note.md").write_text("# Tides\n\nThe tide rises.")
        (harness.root / "raise.md").write_text("a gauge")
        (harness.root / "wrong.md").write_text("a gauge")
        served = served_collection(broker, qdrant, collection, model)
        ports = {
            name: replace(ports, enriched_by=versions.enrich)
            for name, ports in served.ports.items()
        }
        async with at_work(indexing_worker(broker, replace(served, ports=ports))):
            summary = await harness.scan()
            assert (summary.documents.indexed, summary.documents.rejected) == (2, 2)
            assert (await harness.scan()).documents.unchanged == 2
        # What another version has enriched is read again; nothing is embedded.
        other = {name: replace(each, enriched_by="other 2") for name, each in ports.items()}
        async with at_work(indexing_worker(broker, replace(served, ports=other))):
            again = await harness.scan()
            assert (again.documents.indexed, again.chunks.embedded) == (2, 0)
        found = {payload["page_content"]: payload for payload in await harness.payloads()}
        assert {text.strip("# \n") for text in found} == {
            "The pump drips",
            "It is old.",
            "Tides\n\nThe tide rises.",
        }
        drips = found["The pump drips"]
        assert (drips["context"], drips["part"]) == ("Leak", "report")
        fields = {"words", "team", "title"}
        metadata = {name: value for name, value in drips["metadata"].items() if name in fields}
        assert metadata == {"words": 6, "team": "pumps", "title": "Leak"}
    reasons = {Path(doc_id).name: why for doc_id, why in (await harness.dead_letters()).items()}
    enrich = f"the enrich hook hooks_of_{tmp_path.name}:enrich"
    assert reasons == {
        "raise.md": f"{enrich} raised ValueError: no reading of 'a gauge'",
        "wrong.md": f"{enrich} returned a value of type str, not a dict of metadata, or None",
    }
    traces = await tracebacks(broker)
    assert 'raise ValueError(f"no reading of {text!r}")' in traces["raise.md"]
    assert traces["wrong.md"] == ""


@pytest.mark.slow
async def test_hooks_of_two_versions_are_not_mixed(cache_dir: Path, tmp_path: Path) -> None:
    async with model_with_hooks(cache_dir, tmp_path) as model:
        await model.hook_versions()
        (tmp_path / f"hooks_of_{tmp_path.name}.py").write_text(
            HOOKS.replace('@hook(version="1")\ndef enrich', '@hook(version="2")\ndef enrich')
        )
        document = Document(doc_id="a", version=1, source="a", text="The tide rises.")
        with pytest.raises(UsageError, match=r"a hook was changed .*; start the worker again"):
            await model.prepare(Lane.INTERACTIVE, document, None)  # its process starts now


@pytest.mark.slow
async def test_a_hook_that_does_not_end_or_takes_all_memory_fails_alone(
    broker: Broker, qdrant: Qdrant, collection: CollectionNames, cache_dir: Path, tmp_path: Path
) -> None:
    # Four times as long may a document take in all, which is time enough for the good ones.
    limits: dict[str, Any] = {"cpu_seconds": CPU_SECONDS, "memory_bytes": 512 * MEBIBYTE}
    async with model_with_hooks(cache_dir, tmp_path, **limits) as model:
        await model.hook_versions()
        harness = harness_of(broker, qdrant, collection, model, tmp_path / "root")
        harness.write("loop.md", "huge.md", "exit.md", "fine.md", "good.md")
        async with harness.working():
            await harness.scan()
        assert await harness.indexed_files() == {"fine.md", "good.md"}
    reasons = {Path(doc_id).name: why for doc_id, why in (await harness.dead_letters()).items()}
    enrich = f", in the enrich hook hooks_of_{tmp_path.name}:enrich"
    assert reasons == {
        "loop.md": f"took more than {CPU_SECONDS} s of processor time to be read "
        f"(INGESTQ_PARSE_CPU_SECONDS){enrich}",
        "huge.md": "needs more than 512 MiB of memory to be read (INGESTQ_PARSE_MEMORY_BYTES)"
        + enrich,
        "exit.md": f"twice, the parser ended its process (7){enrich}",
    }


@pytest.mark.slow
def test_a_changed_hook_asks_for_a_reindex(ingestq: Ingestq) -> None:
    folder = ingestq.folder
    (folder / "notes").mkdir()
    (folder / "notes/tide.md").write_text("The tide rises twice a day.")
    module = folder / "acme.py"
    parse = "def parse(content, document):\n    return None\n"
    module.write_text(parse)
    (folder / "ingestq.toml").write_text('[hooks]\nparse = "acme:parse"\n')
    ingestq.settings["config"] = "ingestq.toml"
    assert ingestq("run", "notes", "--json").json["documents"]["indexed"] == 1
    module.write_text(f"print('a word')\n{parse}")
    changed = ingestq("run", "notes")
    changed.failed_with(2, "parse_hook acme:parse source-", "ingestq reindex")
    built = ingestq("reindex", "--json").json
    assert (built["swapped"], built["chunks"]) == (True, {"embedded": 0, "reused": 1})
    consistent = ingestq("verify", "notes", "--json")
    assert consistent.json["consistent"], consistent.out
    module.write_text(f"{parse}    (")
    assert ingestq("search", "tide", "--json").json["hits"]  # which runs no hook
    ingestq("run", "notes").failed_with(2, "the parse hook 'acme:parse' cannot be imported")
