"""`INGESTQ_PRECISION=fast`: with 8-bit integers, a search finds nearly the same."""

import dataclasses
import os
from collections.abc import AsyncIterator
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest

from ingestq.core.documents import Lane
from tests.command import Ingestq
from tests.sized import sized
from worker.embedding.backends import Vectors
from worker.embedding.cache import TOKENIZER, CacheEntry, Card
from worker.embedding.config import Backend, EmbeddingConfig, Precision
from worker.embedding.pool import ModelPool
from worker.embedding.preparation import prepare_model
from worker.store.schema import fingerprint
from worker.text.chunking.chunker import Chunker

CHUNKS = 120
QUERIES = 250
TOP = 10
pytestmark = pytest.mark.slow  # preparing the model takes half a minute

LOST_SHARE = 0.02
"""`fast` may lose one hit in a hundred; with this few queries, chance may lose another."""


@pytest.fixture(scope="module")
async def fast(cache_dir: Path) -> AsyncIterator[ModelPool]:
    async with ModelPool(EmbeddingConfig(cache_dir, precision=Precision.FAST)) as pool:
        yield pool


@pytest.fixture(scope="module")
async def entry(fast: ModelPool) -> CacheEntry[Card]:
    return await prepare_model(fast.config)


async def test_it_computes_in_integers_and_records_the_accuracy(entry: CacheEntry[Card]) -> None:
    assert (entry.card.engine, entry.card.arithmetic) == ("openvino", "int8")
    assert entry.card.rejected == ()
    assert entry.card.proof is not None
    assert 0.98 < entry.card.proof.cosine_mean < 0.9999


async def test_searches_find_nearly_what_exact_ones_find(
    fast: ModelPool, model: ModelPool, entry: CacheEntry[Card]
) -> None:
    chunker = Chunker((entry.folder / TOKENIZER).read_text(encoding="utf-8"), fast.info.max_tokens)
    text = "\n\n".join(topics[name] for name in sorted(topics))[:200_000]
    chunks = [chunk.body for chunk in chunker.chunks(text, markdown=False)[:CHUNKS]]
    lines = [(i, line.strip()) for i in range(CHUNKS) for line in chunks[i].splitlines()]
    queries = [(i, line) for i, line in lines if len(line.split()) >= 8]
    queries = queries[:: max(1, len(queries) // QUERIES)]

    exact_found, exact_documents = await _found(model, chunks, queries)
    fast_found, fast_documents = await _found(fast, chunks, queries)
    assert len(exact_found) > len(queries) * 0.8, "the exact model must find most of them"
    assert len(exact_found - fast_found) <= len(exact_found) * LOST_SHARE
    cosines = np.einsum("ij,ij->i", exact_documents, fast_documents)
    assert cosines.mean() > 0.99
    assert cosines.max() < 0.99999, "the vectors must not be the exact ones"


async def _found(
    model: ModelPool, chunks: list[str], queries: list[tuple[int, str]]
) -> tuple[set[int], Vectors]:
    """Return which queries find the chunk that they are taken from, and the chunks' vectors."""
    documents = await model.embed(Lane.BULK, sized(chunks))
    vectors = [(await model.embed_query(line)).dense for _, line in queries]
    best = np.argsort(-(np.array(vectors) @ documents.T), axis=1)[:, :TOP]
    return {n for n, row in enumerate(best) if queries[n][0] in row}, documents


async def test_precision_is_part_of_the_fingerprint(fast: ModelPool, model: ModelPool) -> None:
    ours, theirs = fingerprint(fast.info), fingerprint(model.info)
    assert ours.digest != theirs.digest
    assert not ours.has_vectors_of(theirs)


async def test_the_model_is_prepared_once(fast: ModelPool, entry: CacheEntry[Card]) -> None:
    before = (entry.folder / "model.bin").stat()
    again = await prepare_model(fast.config)
    assert again == entry
    assert (again.folder / "model.bin").stat().st_mtime_ns == before.st_mtime_ns


async def test_preparation_is_reproducible_and_quiet(
    fast: ModelPool, entry: CacheEntry[Card], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    again = await prepare_model(dataclasses.replace(fast.config, cache_dir=tmp_path))
    assert again.card.files == entry.card.files
    assert "nncf" not in "".join(capfd.readouterr()).lower()


async def test_torch_computes_exactly(fast: ModelPool, cache_dir: Path) -> None:
    config = EmbeddingConfig(cache_dir, backend=Backend.TORCH, precision=Precision.FAST)
    card = (await prepare_model(config)).card
    assert (card.engine, card.arithmetic) == ("torch", "float32")


def test_missing_nncf_is_reported_with_what_to_install(ingestq: Ingestq, tmp_path: Path) -> None:
    ingestq.settings |= {"precision": "fast", "cache_dir": str(tmp_path / "cache")}
    (ingestq.folder / "note.txt").write_text("A short note.")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "nncf.py").write_text("raise ModuleNotFoundError('not installed')")
    inherited = os.environ.get("PYTHONPATH")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(hidden), inherited])))
        ran = ingestq("run", "note.txt")
    ran.failed_with(2, "INGESTQ_PRECISION=fast needs nncf", "pip install 'ingestq[fast]'")
    assert not list((tmp_path / "cache").glob("*/card.json"))
