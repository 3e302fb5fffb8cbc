"""The Dockerfile and docker-compose.yml: safe defaults, durable data, clean shutdown."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from ingestq.app.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(
    (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
)["services"]
OURS = ["worker", "drop", "api"]


def test_nothing_is_published_beyond_loopback() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []
    assert "ports" not in SERVICES["redis"]


def test_redis_is_durable() -> None:
    command = SERVICES["redis"]["command"]
    assert "--appendonly yes" in command
    assert "--appendfsync always" in command
    assert "--maxmemory-policy noeviction" in command


@pytest.mark.parametrize("service", ["redis", "qdrant", "api"])
def test_servers_have_a_healthcheck(service: str) -> None:
    assert SERVICES[service]["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}


@pytest.mark.parametrize("service", ["redis", "qdrant"])
def test_data_is_in_volumes(service: str) -> None:
    assert SERVICES[service]["volumes"]


@pytest.mark.parametrize("service", OURS)
def test_our_services_wait_until_redis_and_qdrant_are_healthy(service: str) -> None:
    waits = {name: wait["condition"] for name, wait in SERVICES[service]["depends_on"].items()}
    assert waits == {"redis": "service_healthy", "qdrant": "service_healthy"}


@pytest.mark.parametrize("service", OURS)
def test_our_services_cannot_change_the_documents_nor_gain_privileges(service: str) -> None:
    settings = SERVICES[service]
    documents = next(v for v in settings["volumes"] if v["target"] == "/documents")
    assert documents["read_only"] is True
    assert settings["read_only"] is True
    assert settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("service", OURS)
def test_our_services_can_load_the_pdf_library_that_kreuzberg_unpacks(service: str) -> None:
    assert SERVICES[service]["tmpfs"] == ["/tmp:exec"]


def test_the_worker_can_be_scaled() -> None:
    assert SERVICES["worker"].keys().isdisjoint({"container_name", "ports"})


@pytest.mark.parametrize("service", OURS)
def test_our_services_have_time_to_drain(service: str) -> None:
    grace = SERVICES[service]["stop_grace_period"]
    assert float(grace.removesuffix("s")) > Settings.model_fields["drain_seconds"].default


def test_the_folder_is_watched_only_with_its_profile() -> None:
    assert SERVICES["drop"]["profiles"] == ["drop"]
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["drop"]


def test_watched_and_added_documents_have_the_same_source() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert SERVICES["drop"]["command"] == "drop /documents --source documents"
    assert "worker add /documents --source documents\n" in text


def test_the_api_does_not_start_without_a_token() -> None:
    assert SERVICES["api"]["environment"]["INGESTQ_API_TOKEN"].startswith("${INGESTQ_API_TOKEN:?")


def test_every_variable_is_a_setting() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    used = set(re.findall(rf"\b{PREFIX}\w+", DOCKERFILE))
    for service in SERVICES.values():
        used |= {name for name in service.get("environment", {}) if name.startswith(PREFIX)}
    assert "INGESTQ_REDIS_URL" in used
    assert used - known == set()


def test_the_image_runs_as_an_ordinary_user_and_gets_signals() -> None:
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    user = re.findall(r"^USER (\w+)", last_stage, re.MULTILINE)[-1]
    assert user not in {"root", "0"}
    assert '\nENTRYPOINT ["ingestq"]\n' in last_stage


def test_the_image_uses_no_registry_but_that_of_torch_without_cuda() -> None:
    images = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert images
    assert [image for image in images if "/" in image] == []
    assert re.findall(r"://[^/\s]+", DOCKERFILE) == ["://download.pytorch.org"]


def test_every_package_is_in_the_image() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    context = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert f"COPY {package}/ {package}/\n" in DOCKERFILE
        assert f"!{package}" in context
