"""The fast backends agree with sentence-transformers; torch runs the models that they cannot."""

import asyncio
import os
import sys
import time
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest
import structlog

from ingestq.core import events
from ingestq.core.documents import Lane
from ingestq.core.errors import UsageError
from tests.sized import sized
from tests.tiny_models import RARE_KINDS, TEXTS, Rows, TinyModels
from tests.waiting import SECONDS
from worker.embedding import processes as embedding_processes
from worker.embedding.cache import Arithmetic, CacheEntry, Card
from worker.embedding.config import DEFAULT_MODEL, Backend, EmbeddingConfig
from worker.embedding.pool import ModelPool
from worker.embedding.preparation import prepare_model
from worker.embedding.processes import (
    EmbeddingProcessConfig,
    embed_documents,
    embed_query,
    initialize,
)
from worker.process_pool.limits import ProcessKind, ProcessLimits
from worker.process_pool.pool import Processes

ROUNDING = 1e-6
HEAVY = {"sentence_transformers", "torch", "transformers"}


@pytest.fixture
def models(request: pytest.FixtureRequest, kind: str) -> TinyModels:
    """The tiny models among which there is one of this kind."""
    name = "rare_models" if kind in RARE_KINDS else "tiny_models"
    made: TinyModels = request.getfixturevalue(name)
    return made


def cosines(mine: Rows, theirs: Rows) -> Rows:
    """Return the cosine of each pair of rows, which are of unit length."""
    assert mine.shape == theirs.shape
    assert mine.dtype == np.float32
    found: Rows = np.einsum("ij,ij->i", mine, theirs)
    return found


async def queries(pool: ModelPool) -> Rows:
    return np.array([(await pool.embed_query(text)).dense for text in TEXTS], np.float32)


async def cached(config: EmbeddingConfig) -> CacheEntry[Card]:
    """Return the model's cache entry, which exists already."""
    with structlog.testing.capture_logs() as logs:
        entry = await prepare_model(config)
    assert logs == []
    return entry


@pytest.mark.slow
async def test_the_default_model_agrees_with_sentence_transformers(
    model: ModelPool, tiny_models: TinyModels
) -> None:
    documents = await model.embed(Lane.BULK, sized(TEXTS))
    for near in (
        cosines(documents, tiny_models.documents(DEFAULT_MODEL)),
        cosines(await queries(model), tiny_models.queries(DEFAULT_MODEL)),
    ):
        assert near.min() >= 0.999
        assert near.mean() >= 0.9999
    assert (await prepare_model(model.config)).card.engine == "openvino"


async def test_a_vector_does_not_depend_on_the_batch(model: ModelPool) -> None:
    together = await model.embed(Lane.BULK, sized(TEXTS))
    alone = [(await model.embed(Lane.BULK, sized([text])))[0] for text in TEXTS[::7]]
    assert cosines(together[::7], np.array(alone)).min() >= 0.999


async def test_prompts_are_put_before_documents_and_queries(tiny_models: TinyModels) -> None:
    await openvino_agrees(tiny_models, "prompts")
    mixed_up = cosines(tiny_models.documents("prompts"), tiny_models.queries("prompts"))
    assert mixed_up.min() < 0.95, "prompts that change nothing prove nothing"


@pytest.mark.slow
async def test_a_model_of_half_precision_agrees_with_sentence_transformers(
    rare_models: TinyModels,
) -> None:
    await openvino_agrees(rare_models, "half-precision")


async def openvino_agrees(models: TinyModels, kind: str) -> None:
    """Assert that OpenVINO gives the vectors of sentence-transformers, but for its rounding."""
    config = models.config(kind)
    assert (await cached(config)).card.engine == "openvino"
    async with ModelPool(config) as pool:
        documents = await pool.embed(Lane.BULK, sized(TEXTS))
        assert cosines(documents, models.documents(kind)).min() >= 0.999
        assert cosines(await queries(pool), models.queries(kind)).min() >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pooled-without-prompt", "router", "static-dense"])
async def test_torch_runs_models_that_no_other_engine_can(
    rare_models: TinyModels, kind: str
) -> None:
    config = rare_models.config(kind)
    card = (await cached(config)).card
    assert card.engine == "torch"
    assert card.rejected
    assert await differences(config, rare_models, kind) <= ROUNDING


@pytest.mark.parametrize(
    "kind", ["static", pytest.param("static-normalized", marks=pytest.mark.slow)]
)
async def test_a_static_model_uses_a_table(models: TinyModels, kind: str) -> None:
    config = models.config(kind)
    card = (await cached(config)).card
    assert (card.engine, card.rejected) == ("table", ())
    assert await differences(config, models, kind) <= ROUNDING


async def test_a_static_model_embeds_empty_text(
    tiny_models: TinyModels,
) -> None:
    async with ModelPool(tiny_models.config("static")) as pool:
        vectors = await pool.embed(Lane.BULK, sized(["", "a text"]))
    assert np.isfinite(vectors).all()


async def differences(config: EmbeddingConfig, models: TinyModels, kind: str) -> float:
    """Return the largest distance of the pool's vectors from those of sentence-transformers."""
    async with ModelPool(config) as pool:
        documents = await pool.embed(Lane.BULK, sized(TEXTS))
        asked = await queries(pool)
    nearest = [cosines(documents, models.documents(kind)), cosines(asked, models.queries(kind))]
    return float(1 - min(found.min() for found in nearest))


@pytest.mark.parametrize("kind", ["prompts", pytest.param("steep", marks=pytest.mark.slow)])
async def test_float32_is_used_without_bfloat16(models: TinyModels, kind: str) -> None:
    config = models.without_bfloat16(kind)
    card = (await cached(config)).card
    assert (card.engine, card.arithmetic, card.rejected) == ("openvino", "float32", ())
    async with ModelPool(config) as pool:
        documents = await pool.embed(Lane.BULK, sized(TEXTS))
    assert cosines(documents, models.documents(kind)).min() >= 1 - ROUNDING


@pytest.mark.slow
async def test_arithmetic_that_is_too_inaccurate_is_not_used(
    rare_models: TinyModels,
) -> None:
    config = rare_models.config("steep")
    with structlog.testing.capture_logs() as logs:
        card = (await prepare_model(config)).card
    if not card.rejected:
        pytest.skip("this processor has no coarser arithmetic than float32")
    assert (card.engine, card.arithmetic) == ("openvino", "float32")
    [fallback] = [log for log in logs if log["event"] == events.MODEL_FALLBACK]
    assert fallback["log_level"] == "warning"
    assert "bfloat16 is too inaccurate (cosine " in fallback["rejected"]
    async with ModelPool(config) as pool:
        documents = await pool.embed(Lane.BULK, sized(TEXTS))
    assert cosines(documents, rare_models.documents("steep")).min() >= 1 - ROUNDING


@pytest.mark.slow
async def test_backend_openvino_fails_with_the_reason(rare_models: TinyModels) -> None:
    config = rare_models.config("router", backend=Backend.OPENVINO)
    with pytest.raises(UsageError, match=r"INGESTQ_BACKEND is 'openvino'.*needs 'torch' or 'auto'"):
        await prepare_model(config)


@pytest.mark.slow
async def test_backend_torch_is_used(tiny_models: TinyModels) -> None:
    config = tiny_models.config("prompts", backend=Backend.TORCH)
    card = (await cached(config)).card
    assert (card.engine, card.rejected) == ("torch", ())
    async with ModelPool(config) as pool:
        documents = await pool.embed(Lane.BULK, sized(TEXTS))
    assert cosines(documents, tiny_models.documents("prompts")).min() >= 1 - ROUNDING


@pytest.mark.parametrize(("kind", "needed"), [("prompts", {"openvino"}), ("static", set[str]())])
async def test_an_embedding_process_loads_only_its_engine(
    tiny_models: TinyModels, kind: str, needed: set[str]
) -> None:
    config = tiny_models.config(kind)
    loading = EmbeddingProcessConfig(config.model, await cached(config), threads=1)
    processes = Processes(1, ProcessLimits(ProcessKind.EMBEDDING), initialize, (loading,))
    try:
        await processes.run(SECONDS, embed_documents, ["a text"])
        loaded = await processes.run(SECONDS, loaded_modules)
    finally:
        await processes.stop()
    assert loaded & (HEAVY | {"openvino"}) == needed


@pytest.mark.parametrize(
    ("kind", "arithmetic", "nearest"),
    [
        ("prompts", "float16", 0.999),
        pytest.param("prompts", "float32", 1 - ROUNDING, marks=pytest.mark.slow),
        pytest.param("half-precision", "float16", 0.999, marks=pytest.mark.slow),
    ],
)
async def test_the_backend_for_gpus_agrees_with_sentence_transformers(
    models: TinyModels, kind: str, arithmetic: Arithmetic, nearest: float
) -> None:
    config = models.config(kind)
    entry = await cached(config)
    card = msgspec.structs.replace(entry.card, engine="cuda", arithmetic=arithmetic)
    loading = (config.model, CacheEntry(entry.folder, card))
    processes = Processes(1, ProcessLimits(ProcessKind.EMBEDDING), load_without_gpu, loading)
    try:
        documents, _ = await processes.run(SECONDS, embed_documents, TEXTS)
        asked = [await processes.run(SECONDS, embed_query, text) for text in TEXTS]
    finally:
        await processes.stop()
    assert cosines(documents, models.documents(kind)).min() >= nearest
    assert cosines(np.array(asked), models.queries(kind)).min() >= nearest


def load_without_gpu(model: str, entry: CacheEntry[Card]) -> None:
    """Load ``model`` as on a GPU, but on the CPU, which every machine has."""
    from worker.embedding.backends.cuda import CudaModel

    embedding_processes._model = CudaModel(model, entry.folder, entry.card, "cpu")
    embedding_processes._dimensions = None


async def test_processes_of_a_pool_divide_the_gpus_among_them(tmp_path: Path) -> None:
    processes = Processes(3, ProcessLimits(ProcessKind.EMBEDDING))
    try:
        places = await asyncio.gather(
            *(processes.run(SECONDS, place_of_two_gpus, tmp_path, 3) for _ in range(3))
        )
    finally:
        await processes.stop()
    assert sorted(places) == ["cuda:0", "cuda:0", "cuda:1"]


def place_of_two_gpus(folder: Path, count: int) -> str:
    """Claim a place on two GPUs; return when so many processes have done so."""
    sys.modules["torch"] = ModuleType("torch")  # a claim needs none, and loading it takes seconds
    from worker.embedding.backends.gpus import claim_gpu

    card = Card(
        revision="",
        max_length=None,
        pad_id=0,
        engine="cuda",
        arithmetic="float16",
        dimension=1,
        longest=None,
        document_prompt="",
        query_prompt="",
        gpus=2,
        gpu_processes=count,
    )
    place = claim_gpu(card)
    (folder / str(os.getpid())).touch()
    while len(os.listdir(folder)) < count:
        time.sleep(0.01)
    return place


def loaded_modules() -> set[str]:
    return {name.partition(".")[0] for name in sys.modules if sys.modules[name] is not None}
