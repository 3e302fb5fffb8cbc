"""Docker, Compose, Kubernetes and systemd: safe defaults, durable data, clean shutdown."""

import re
import shutil
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from ingestq.app.settings import PREFIX, Settings, load_settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(
    (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
)["services"]
OURS = ["worker", "drop", "scheduler", "api"]
PROFILES = {"drop": ["drop"], "scheduler": ["scheduler"]}
KUBERNETES = ROOT / "deploy/k8s"
GENERATED = {"settings", "secrets"}
"""What Kustomize makes of files."""
UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))
EXPOSURE = 20
"""The most that `systemd-analyze security` may find, in tenths."""
DRAIN_SECONDS = Settings.model_fields["drain_seconds"].default
KNOWN = {PREFIX + name.upper() for name in Settings.model_fields} | {"INGESTQ_CONFIG"}


def documents(*names: str) -> list[dict[str, Any]]:
    """Return the objects in manifests for Kubernetes: those of Kustomize, unless they are named."""
    paths = [KUBERNETES / name for name in names or KUSTOMIZATION["resources"]]
    return [manifest for path in paths for manifest in yaml.safe_load_all(path.read_text("utf-8"))]


KUSTOMIZATION: dict[str, Any] = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
DEPLOYMENTS = {
    manifest["metadata"]["name"]: manifest["spec"]
    for manifest in documents()
    if manifest["kind"] == "Deployment"
}
PODS = {name: spec["template"]["spec"] for name, spec in DEPLOYMENTS.items()}
CONTAINERS = {name: pod["containers"][0] for name, pod in PODS.items()}


def checked(*command: str | Path) -> str:
    """Run a program of this environment, or of the system, that checks files."""
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def tool(name: str) -> Path:
    return Path(sys.executable).parent / name


def test_nothing_is_published_beyond_loopback() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []
    assert "ports" not in SERVICES["redis"]


def test_redis_is_durable() -> None:
    settings = SERVICES["redis"]["command"][-1].splitlines()
    assert {"appendonly yes", "appendfsync always", "maxmemory-policy noeviction"} <= {*settings}


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_a_healthcheck(service: str) -> None:
    assert SERVICES[service]["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}


@pytest.mark.parametrize("service", ["redis", "qdrant"])
def test_data_is_in_volumes(service: str) -> None:
    assert SERVICES[service]["volumes"]


@pytest.mark.parametrize("service", OURS)
def test_our_services_wait_until_redis_and_qdrant_are_healthy(service: str) -> None:
    waits = {name: wait["condition"] for name, wait in SERVICES[service]["depends_on"].items()}
    assert waits == {"redis": "service_healthy", "qdrant": "service_healthy"}


@pytest.mark.parametrize("service", OURS)
def test_our_services_cannot_change_the_documents(service: str) -> None:
    documents = next(v for v in SERVICES[service]["volumes"] if v["target"] == "/documents")
    assert documents["read_only"] is True


def test_the_worker_can_be_scaled() -> None:
    assert SERVICES["worker"].keys().isdisjoint({"container_name", "ports"})


@pytest.mark.parametrize("service", OURS)
def test_our_services_have_time_to_drain(service: str) -> None:
    grace = SERVICES[service]["stop_grace_period"]
    assert float(grace.removesuffix("s")) > DRAIN_SECONDS


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_is_confined(service: str) -> None:
    confined = SERVICES[service]
    assert confined["read_only"] is True
    assert confined["cap_drop"] == ["ALL"]
    assert confined["security_opt"] == ["no-new-privileges:true"]
    assert confined["mem_limit"]
    assert confined["pids_limit"]


def test_the_compose_file_fits_its_schema() -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    checked(tool("check-jsonschema"), *schema, ROOT / "docker-compose.yml")


def test_the_folder_is_watched_and_the_schedule_runs_only_with_their_profiles() -> None:
    found = {name: each["profiles"] for name, each in SERVICES.items() if "profiles" in each}
    assert found == PROFILES


def test_watched_and_added_documents_have_the_same_source() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert SERVICES["drop"]["command"] == "drop /documents --source documents"
    assert "worker add /documents --source documents\n" in text


def test_every_variable_is_a_setting() -> None:
    used = set(re.findall(rf"\b{PREFIX}\w+", DOCKERFILE))
    for service in SERVICES.values():
        used |= {name for name in service.get("environment", {}) if name.startswith(PREFIX)}
    assert "INGESTQ_REDIS_URL" in used
    assert used - KNOWN == set()


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


# Kubernetes


def test_the_manifests_fit_the_schemas_of_kubernetes() -> None:
    builtin = [
        KUBERNETES / name
        for name in KUSTOMIZATION["resources"]
        if all("keda" not in manifest["apiVersion"] for manifest in documents(name))
    ]
    assert len(builtin) > 5
    said = checked(tool("kubernetes-validate"), "--strict", "--no-warn", *builtin)
    assert said.count(" passed for resource ") >= len(builtin)


def test_kustomize_names_every_file() -> None:
    generators = [*KUSTOMIZATION["configMapGenerator"], *KUSTOMIZATION["secretGenerator"]]
    sources = chain.from_iterable(each.get("files", each.get("envs")) for each in generators)
    examples = {f"{name}.example" if name == "secret.env" else name for name in sources}
    named = {"kustomization.yaml", *KUSTOMIZATION["resources"], *examples}
    assert {path.name for path in KUBERNETES.iterdir() if path.name != "secret.env"} == named
    assert {each["name"] for each in generators} == GENERATED


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_pods_are_confined(name: str) -> None:
    pod, container = PODS[name], CONTAINERS[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]
    assert [image["name"] for image in KUSTOMIZATION["images"]] == [container["image"]]


def test_pods_run_as_the_user_of_the_image() -> None:
    [user] = re.findall(r"^USER (\d+):\d+", DOCKERFILE, re.MULTILINE)
    assert {pod["securityContext"]["runAsUser"] for pod in PODS.values()} == {int(user)}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_pods_have_time_to_drain(name: str) -> None:
    settings = tomllib.loads((KUBERNETES / "ingestq.toml").read_text("utf-8"))
    container = CONTAINERS[name]
    ends_after = (
        container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    )
    grace = PODS[name]["terminationGracePeriodSeconds"]
    assert grace > settings["drain_seconds"] + ends_after


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_ports_volumes_and_names_agree(name: str) -> None:
    pod, container, spec = PODS[name], CONTAINERS[name], DEPLOYMENTS[name]
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
    assert container["args"] == [name]
    [port] = container["ports"]
    probes = [container[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "liveness")]
    assert {*probes, container["readinessProbe"]["httpGet"]["port"]} == {port["name"]}
    environment = {each["name"]: each["value"] for each in container["env"]}
    default_port = str(Settings.model_fields["api_port"].default)
    assert environment.get("INGESTQ_METRICS_PORT", default_port) == str(port["containerPort"])
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    policies = [manifest["spec"] for manifest in documents("network.yaml")]
    reachable = {
        each["port"] for policy in policies for rule in policy["ingress"] for each in rule["ports"]
    }
    assert port["containerPort"] in reachable


def test_every_variable_of_a_pod_is_a_setting() -> None:
    used = {each["name"] for container in CONTAINERS.values() for each in container["env"]}
    used |= set(variables(KUBERNETES / "secret.env.example"))
    assert used - KNOWN == set()


def test_the_settings_file_of_the_pods_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGESTQ_CONFIG", str(KUBERNETES / "ingestq.toml"))
    settings = load_settings()
    [container] = {tuple(container["volumeMounts"][1].items()) for container in CONTAINERS.values()}
    assert dict(container)["mountPath"] == settings.blobs


def test_what_kubernetes_scales_and_protects_exists() -> None:
    objects = {
        (manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in documents()
    }
    scaled = objects["ScaledObject", "worker"]["spec"]
    assert scaled["scaleTargetRef"]["name"] in DEPLOYMENTS
    assert "replicas" not in DEPLOYMENTS["worker"]  # a deployment would reset what KEDA has set
    [trigger] = scaled["triggers"]
    [metric] = re.findall(r"ingestq_\w+", trigger["metadata"]["query"])
    code = (path.read_text("utf-8") for path in (ROOT / "ingestq").rglob("*.py"))
    assert any(f'"{metric}"' in text for text in code)
    for name in ("worker", "api"):
        selector = objects["PodDisruptionBudget", name]["spec"]["selector"]["matchLabels"]
        assert selector == DEPLOYMENTS[name]["selector"]["matchLabels"]
    assert DEPLOYMENTS["scheduler"]["replicas"] == 1


# systemd


def variables(path: Path) -> list[str]:
    """Return the names in a file of variables."""
    return re.findall(r"^(INGESTQ_\w+)=", path.read_text(encoding="utf-8"), re.MULTILINE)


def service(unit: Path) -> dict[str, str]:
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(unit, encoding="utf-8")
    return dict(parser["Service"])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_drain_and_end_their_processes(unit: Path) -> None:
    settings = service(unit)
    assert float(settings["TimeoutStopSec"]) > DRAIN_SECONDS
    # Else pool processes would get SIGTERM in the middle of the last jobs.
    assert settings["KillMode"] == "mixed"
    assert settings["Restart"] == "on-failure"
    assert settings["MemoryMax"]
    assert settings["ExecStart"].startswith("/opt/ingestq/bin/ingestq ")


def test_every_variable_of_a_unit_is_a_setting() -> None:
    texts = [unit.read_text(encoding="utf-8") for unit in UNITS]
    used = {name for text in texts for name in re.findall(r"\b(INGESTQ_\w+)=", text)}
    used |= set(variables(ROOT / "deploy/systemd/ingestq.env.example"))
    assert used - KNOWN == set()


def test_systemd_accepts_the_units(systemd_analyze: str, tmp_path: Path) -> None:
    program = shutil.which("true")
    for unit in UNITS:
        text = unit.read_text(encoding="utf-8").replace("/opt/ingestq/bin/ingestq", str(program))
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
    units = sorted(tmp_path.iterdir())
    assert checked(systemd_analyze, "verify", "--man=no", *units) == ""
    for unit in units:
        limit = f"--threshold={EXPOSURE}"
        checked(systemd_analyze, "security", "--offline=yes", limit, unit)
