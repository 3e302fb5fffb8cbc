"""``ingestq doctor``: check settings and services, and say how to fix them."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from redis.exceptions import NoPermissionError

from ingestq.app.composition import (
    open_blobs,
    open_broker,
    open_model,
    open_qdrant,
    open_reranker,
)
from ingestq.app.settings import MEBIBYTE, Settings, unknown_variables
from ingestq.broker.address import is_sentinel_url
from ingestq.broker.connection import BrokerConfig, translate_errors
from ingestq.broker.queue.versions import AHEAD_SECONDS
from ingestq.cli.entry import ExitCode, run_command
from ingestq.cli.options import Json
from ingestq.cli.output import err, line, print_json
from ingestq.core.blobs import new_blob_name
from ingestq.core.errors import (
    IngestqError,
    ModelUnavailable,
    RerankerUnavailable,
    ServiceUnavailable,
)
from ingestq.core.health import FAILURES, LIVE, READY, HealthCheck
from ingestq.core.results import Overview
from ingestq.core.urls import public_url

if TYPE_CHECKING:
    from worker.process_pool.limits import LimitsReport, ProcessKind

ANY_HOSTS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
"""Where a server is reached that listens on all addresses."""
HEALTH_SECONDS: Final = 10.0
"""Longer than a process takes to make its checks."""
HEALTH_BYTES: Final = 65_536
LITTLE_DISK_MIB: Final = 1024
UNCHECKED: Final = (
    "its user may not use INFO and CONFIG GET, so appendonly, maxmemory-policy and replicas were "
    "not checked"
)
PROBE_SPACE: Final = "0" * 32
"""A space in the blob store that no queue uses."""


@dataclass(frozen=True)
class Diagnosis:
    """The result of one check, and the exit code it asks for."""

    check: str
    result: Literal["ok", "warning", "wrong"]
    detail: str
    code: ExitCode = ExitCode.OK


Check = Callable[[Settings], Awaitable[list[Diagnosis]]]


def doctor(json: Json = False) -> None:
    """Check settings, services, limits of processes and the model.

    Exits with the code of the worst problem found.
    """
    run_command(partial(_doctor, json), as_json=json)


async def _doctor(as_json: bool, settings: Settings) -> ExitCode:
    checks: dict[str, Check] = {
        "settings": _settings,
        "webhooks": _webhooks,
        "redis": _redis,
        "health": _health,
        "blobs": _blobs,
        "limits": _limits,
        "ocr": _ocr,
        "hooks": _hooks,
        "model and qdrant": _model_and_qdrant,
        "reranker": _reranker,
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


async def _webhooks(settings: Settings) -> list[Diagnosis]:
    listed = ", ".join(f"{target.name} at {target.place}" for target in settings.webhooks)
    how = "`ingestq webhooks test` posts to them"
    return [Diagnosis("webhooks", "ok", f"{listed}; {how}")] if listed else []


def _free_bytes(folder: Path) -> int:
    """Return the free space where ``folder`` is, or will be."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


async def _redis(settings: Settings) -> list[Diagnosis]:
    async with open_broker(settings) as broker:
        await broker.queue.check_writable()
        overview = await broker.queue.overview()
        with translate_errors(broker.config):
            try:
                info, options = await broker.redis.info(), await broker.redis.config_get("*")
            except NoPermissionError:
                info, options = {}, {}
    ahead_seconds = overview.versions_ahead_seconds
    place = broker.config.public_url if settings.redis_url else "the bundled server"
    version = f" (version {info['redis_version']})" if info else ""
    findings = [
        Diagnosis("redis", "ok", f"{place} answers and accepts writes{version}"),
        _workers(overview),
    ]
    warnings = list(_doubts(info, options, broker.config)) if info else [UNCHECKED]
    if ahead_seconds > AHEAD_SECONDS:
        warnings.append(
            f"its clock is {ahead_seconds:,.0f} s behind the newest version: it was set back, or "
            "the index comes from a machine whose clock was ahead; edits are indexed all the same"
        )
    return [*findings, *(Diagnosis("redis", "warning", detail) for detail in warnings)]


def _doubts(
    info: Mapping[str, Any], options: Mapping[str, str], config: BrokerConfig
) -> Iterator[str]:
    """Yield what makes Redis less durable than it could be, from its answers to INFO and CONFIG."""
    if options.get("appendonly") == "no":
        yield "a crash of Redis loses accepted documents; set appendonly yes"
    policy = options.get("maxmemory-policy", "noeviction")
    if policy != "noeviction":
        yield f"maxmemory-policy {policy} may drop queued jobs; set noeviction"
    replicas = int(info["connected_slaves"])
    if replicas < config.receipt_replicas:
        yield (
            f"it has {replicas} replicas, and no document is accepted before "
            f"{config.receipt_replicas} have it (INGESTQ_REDIS_REPLICAS)"
        )
    if is_sentinel_url(config.url) and int(options.get("min-replicas-to-write", 0)) == 0:
        yield (
            "a master that is cut off from the Sentinels goes on working, and what it does then is "
            "lost; set min-replicas-to-write 1 and min-replicas-max-lag 10 on every server"
        )


def _workers(overview: Overview) -> Diagnosis:
    if not overview.workers:
        return Diagnosis("workers", "warning", FAILURES[HealthCheck.WORKERS])
    paused = [f"{worker.id}: {worker.paused}" for worker in overview.workers if worker.paused]
    if paused:
        detail = f"{len(paused)} claim nothing ({'; '.join(paused)})"
        return Diagnosis("workers", "warning", detail)
    return Diagnosis("workers", "ok", f"{len(overview.workers)} running")


async def _health(settings: Settings) -> list[Diagnosis]:
    """Ask the processes of this machine that can be asked how they do."""
    places = {"the API": (settings.api_host, settings.api_port)}
    if settings.metrics_port is not None:
        places["the process on INGESTQ_METRICS_PORT"] = (
            settings.metrics_host,
            settings.metrics_port,
        )
    findings = [
        await asyncio.to_thread(_health_at, name, host, port)
        for name, (host, port) in places.items()
        if port
    ]
    return [finding for finding in findings if finding is not None]


def _health_at(name: str, host: str, port: int) -> Diagnosis | None:
    """Return how the process at ``host`` and ``port`` does; None if there is none."""
    host = ANY_HOSTS.get(host, host)
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        dead, unready = (_failures_at(host, port, path) for path in (LIVE, READY))
    except TimeoutError:
        detail = f"{name} at {place} does not answer within {HEALTH_SECONDS:g} s; restart it"
        return Diagnosis("health", "wrong", detail, ExitCode.SERVICE_UNREACHABLE)
    except (OSError, HTTPException, ValueError):
        return None
    if dead:
        detail = f"{name} at {place} is not live: {dead}"
        return Diagnosis("health", "wrong", detail, ExitCode.SERVICE_UNREACHABLE)
    if unready:
        return Diagnosis("health", "warning", f"{name} at {place} is not ready: {unready}")
    return Diagnosis("health", "ok", f"{name} at {place} is live and ready")


def _failures_at(host: str, port: int, path: str) -> str:
    """Return what the health checks that have failed mean; empty if none has.

    Raises OSError, HTTPException or ValueError if no process of ingestq answers.
    """
    connection = HTTPConnection(host, port, timeout=HEALTH_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse().read(HEALTH_BYTES)
    finally:
        connection.close()
    checks = msgspec.json.decode(answer, type=_HealthAnswer).checks
    failed = (name for name, result in checks.items() if result == "failed")
    return "; ".join(f"{name}: {FAILURES[HealthCheck(name)]}" for name in failed)


class _HealthAnswer(msgspec.Struct):
    checks: dict[str, str]


async def _blobs(settings: Settings) -> list[Diagnosis]:
    blobs = open_blobs(settings)
    probe = new_blob_name(PROBE_SPACE, now_us=0)
    await blobs.put(probe, _content())
    await blobs.size(probe)
    await blobs.delete([probe])
    return [Diagnosis("blobs", "ok", f"{public_url(settings.blobs)} is readable and writable")]


async def _content() -> AsyncIterator[bytes]:
    yield b"written by `ingestq doctor`, which removes it"


async def _limits(settings: Settings) -> list[Diagnosis]:
    try:
        async with open_model(settings, processes=1) as model:
            reports = await model.report_limits()
    except ModelUnavailable:
        return []  # the next check says why
    return [finding for kind, report in reports.items() for finding in _limits_of(kind, report)]


def _limits_of(kind: "ProcessKind", report: "LimitsReport") -> Iterator[Diagnosis]:
    """Yield the limits that are in force in a process, and those that the system cannot enforce."""
    check = f"{kind} process"
    memory = (
        "no limit" if report.memory_bytes is None else f"{report.memory_bytes // MEBIBYTE:,} MiB"
    )
    cpu = "no limit" if report.cpu_seconds is None else f"{report.cpu_seconds:,} s"
    yield Diagnosis(
        check,
        "ok",
        f"memory {memory}, processor time {cpu} ({kind.cpu_setting}), OOM score "
        f"{report.oom_score_adj}, temporary directory {report.temporary_directory} "
        f"(mode {report.temporary_directory_mode:o})",
    )
    if report.memory_wanted is not None and not report.memory_enforced:
        detail = f"this system does not enforce {kind.memory_setting}; run ingestq in a container"
        yield Diagnosis(check, "warning", detail)
    if report.oom_score_adj is None:
        detail = "this system has no OOM score; when memory runs out, any process may be killed"
        yield Diagnosis(check, "warning", detail)
    if not report.parent_death_signal:
        detail = (
            "this system has no parent-death signal; a busy process may outlive a killed worker"
        )
        yield Diagnosis(check, "warning", detail)


async def _ocr(settings: Settings) -> list[Diagnosis]:
    from worker.text.config import OcrMode
    from worker.text.ocr import find_data, installed_languages, why_missing

    reading = settings.reading
    if reading.ocr is OcrMode.OFF:
        return [Diagnosis("ocr", "ok", "off: images and scanned pages are not read (INGESTQ_OCR)")]
    data = await asyncio.to_thread(find_data, reading.ocr_languages, reading.tessdata)
    if data.folder is None:
        return [Diagnosis("ocr", "warning", why_missing(data.missing))]
    installed = await asyncio.to_thread(installed_languages, data.folder)
    there = f"{data.folder} has {', '.join(installed) or 'none'}"
    if data.missing:
        return [Diagnosis("ocr", "warning", f"{why_missing(data.missing)}; {there}")]
    wanted = ", ".join(reading.ocr_languages)
    return [Diagnosis("ocr", "ok", f"{reading.ocr}, reads {wanted}; {there}")]


async def _hooks(settings: Settings) -> list[Diagnosis]:
    if not settings.reading.hooks.names:
        return []
    async with open_model(settings, processes=1) as model:
        versions = await model.hook_versions()
    listed = ", ".join(f"{kind} {hook}" for kind, hook in versions._asdict().items() if hook)
    return [Diagnosis("hooks", "ok", listed)]


async def _model_and_qdrant(settings: Settings) -> list[Diagnosis]:
    from worker.store.chunks import QdrantStore
    from worker.store.collection import check_fingerprint, find_collection
    from worker.store.schema import fingerprint

    async with open_qdrant(settings) as qdrant:
        place = settings.qdrant_url or "the bundled server"
        findings = [Diagnosis("qdrant", "ok", f"{place} answers")]
        async with open_model(settings, processes=1) as model:
            await model.embed_query("Does it work?")
            detail = f"{model.info.name}: {model.info.dimension} dimensions, {model.engine}"
            findings.append(Diagnosis("model", "ok", detail))
            hooks = await model.hook_versions()
            mine = fingerprint(model.info, settings.collection_schema, settings.reading, hooks)
        for name in settings.collections:
            names = await find_collection(qdrant, name)
            if names is None:
                findings.append(Diagnosis("collection", "ok", f"{name}: none yet"))
                continue
            await check_fingerprint(qdrant, names, mine)
            chunks = await QdrantStore(qdrant, names.chunks).count()
            findings.append(Diagnosis("collection", "ok", f"{name}: {chunks:,} chunks"))
    return findings


async def _reranker(settings: Settings) -> list[Diagnosis]:
    if settings.reranking is None:
        return []
    async with open_reranker(settings) as reranker:
        try:
            await reranker.rank("Does it work?", ["It does."])
        except RerankerUnavailable as error:
            return [Diagnosis("reranker", "warning", f"{error}; searches answer without it")]
    return [Diagnosis("reranker", "ok", f"{settings.reranker} ranks hits")]
