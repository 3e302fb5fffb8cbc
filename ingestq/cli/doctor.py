"""``ingestq doctor``: check settings and services, and say how to fix them."""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

from ingestq.app.composition import open_broker, open_model, open_qdrant
from ingestq.app.settings import MEBIBYTE, Settings, unknown_variables
from ingestq.broker.blobs import open_blob_store
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import Json
from ingestq.cli.output import configure_logging, err, line, print_json
from ingestq.core.blobs import new_blob_name
from ingestq.core.errors import IngestqError, ServiceUnavailable, public_url

LITTLE_DISK_MIB: Final = 1024
PROBE_SPACE: Final = "0" * 32
"""A space in the blob store that no queue uses."""
SMALL_COLLECTION_CHUNKS: Final = 20_000
"""The local Qdrant searches by brute force; above this size it is slow."""


@dataclass(frozen=True)
class Diagnosis:
    """The result of one check, and the exit code it asks for."""

    check: str
    result: Literal["ok", "warning", "wrong"]
    detail: str
    code: ExitCode = ExitCode.OK


Check = Callable[[Settings], Awaitable[list[Diagnosis]]]


def doctor(json: Json = False) -> None:
    """Check settings, Redis, blob store, Qdrant and the model.

    Exits with the code of the worst problem found.
    """
    configure_logging(logging.WARNING)
    run_command(partial(_doctor, json), as_json=json)


async def _doctor(as_json: bool, settings: Settings) -> ExitCode:
    checks: dict[str, Check] = {
        "settings": _settings,
        "redis": _redis,
        "blobs": _blobs,
        "model and qdrant": _model_and_qdrant,
    }
    findings: list[Diagnosis] = []
    for name, check in checks.items():
        with err.status(f"checking {name}"):
            findings += await _checked(name, check, settings)
    if as_json:
        print_json({"findings": [asdict(f) | {"code": int(f.code)} for f in findings]})
    else:
        styles = {"ok": "green", "warning": "yellow", "wrong": "red"}
        for finding in findings:
            line(
                f"{finding.result:<8} {finding.check}: {finding.detail}",
                style=styles[finding.result],
            )
    return max((finding.code for finding in findings), default=ExitCode.OK)


async def _checked(name: str, check: Check, settings: Settings) -> list[Diagnosis]:
    try:
        return await check(settings)
    except IngestqError as error:
        unreachable = isinstance(error, ServiceUnavailable)
        code = ExitCode.SERVICE_UNREACHABLE if unreachable else ExitCode.WRONG_USAGE
        return [Diagnosis(name, "wrong", str(error), code)]


async def _settings(settings: Settings) -> list[Diagnosis]:
    findings = [
        Diagnosis("settings", "warning", f"{name} is not an ingestq setting; is it misspelled?")
        for name in unknown_variables()
    ]
    free = await asyncio.to_thread(_free_bytes, settings.data_dir) // MEBIBYTE
    detail = f"{settings.data_dir}: {free:,} MiB free"
    result: Literal["ok", "warning"] = "ok" if free >= LITTLE_DISK_MIB else "warning"
    return [*findings, Diagnosis("data directory", result, detail)]


def _free_bytes(folder: Path) -> int:
    """Return the free space where ``folder`` is, or will be."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


async def _redis(settings: Settings) -> list[Diagnosis]:
    async with open_broker(settings) as broker:
        info = await broker.redis.info()
        options = await broker.redis.config_get("*")
    place = broker.config.public_url if settings.redis_url else "the bundled server"
    findings = [Diagnosis("redis", "ok", f"{place} answers (version {info['redis_version']})")]
    if options.get("appendonly") == "no":
        detail = "a crash of Redis loses accepted documents; set appendonly yes"
        findings.append(Diagnosis("redis", "warning", detail))
    policy = options.get("maxmemory-policy", "noeviction")
    if policy != "noeviction":
        detail = f"maxmemory-policy {policy} may drop queued jobs; set noeviction"
        findings.append(Diagnosis("redis", "warning", detail))
    return findings


async def _blobs(settings: Settings) -> list[Diagnosis]:
    blobs = open_blob_store(settings.blobs)
    probe = new_blob_name(PROBE_SPACE, now_us=0)
    await blobs.put(probe, _content())
    await blobs.size(probe)
    await blobs.delete([probe])
    return [Diagnosis("blobs", "ok", f"{public_url(settings.blobs)} is readable and writable")]


async def _content() -> AsyncIterator[bytes]:
    yield b"written by `ingestq doctor`, which removes it"


async def _model_and_qdrant(settings: Settings) -> list[Diagnosis]:
    from worker.store.chunks import QdrantStore
    from worker.store.collection import check_fingerprint, find_collection
    from worker.store.schema import fingerprint

    async with open_qdrant(settings) as qdrant:
        place = public_url(settings.qdrant_url) if settings.qdrant_url else "the local Qdrant"
        findings = [Diagnosis("qdrant", "ok", f"{place} answers")]
        async with open_model(settings, processes=1) as model:
            await model.embed_query("Does it work?")
            detail = f"{model.info.name}: {model.info.dimension} dimensions, {model.engine}"
            findings.append(Diagnosis("model", "ok", detail))
            mine = fingerprint(model.info, settings.collection_schema)
        for name in settings.collections:
            names = await find_collection(qdrant, name)
            if names is None:
                findings.append(Diagnosis("collection", "ok", f"{name}: none yet"))
                continue
            await check_fingerprint(qdrant, names, mine)
            chunks = await QdrantStore(qdrant, names.chunks).count()
            findings.append(Diagnosis("collection", "ok", f"{name}: {chunks:,} chunks"))
            if settings.qdrant_url is None and chunks > SMALL_COLLECTION_CHUNKS:
                detail = f"{chunks:,} chunks are slow in the local Qdrant; set INGESTQ_QDRANT_URL"
                findings.append(Diagnosis("qdrant", "warning", detail))
    return findings
