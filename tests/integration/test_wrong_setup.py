"""An unreachable service or a wrong setting: one line that says what to do."""

from pathlib import Path

import pytest
from qdrant_client import QdrantClient, models

from tests.command import Ingestq
from tests.qdrant_standin import qdrant_standin

NOBODY = "127.0.0.1:1"


@pytest.fixture
def note(ingestq: Ingestq) -> Path:
    path = ingestq.folder / "note.txt"
    path.write_text("A short note.")
    return path


@pytest.mark.parametrize("command", [("add", "note.txt"), ("status",), ("worker",)])
def test_an_unreachable_redis_is_named(
    ingestq: Ingestq, note: Path, command: tuple[str, ...]
) -> None:
    ingestq.settings["redis_url"] = f"redis://:secret@{NOBODY}/0"
    ran = ingestq(*command)
    ran.failed_with(3, "Redis does not answer", NOBODY, "INGESTQ_REDIS_URL")
    assert "secret" not in ran.err


@pytest.mark.parametrize("command", [("search", "x"), ("status",)])
def test_an_unreachable_qdrant_is_named(ingestq: Ingestq, command: tuple[str, ...]) -> None:
    ingestq.settings["qdrant_url"] = f"http://{NOBODY}"
    ingestq(*command).failed_with(3, "Qdrant does not answer", NOBODY, "INGESTQ_QDRANT_URL")


def test_an_unreachable_qdrant_stops_a_run(ingestq: Ingestq, note: Path) -> None:
    ingestq.settings["qdrant_url"] = f"http://{NOBODY}"
    ingestq("run", note).failed_with(3, "Qdrant does not answer")


@pytest.mark.parametrize(
    "model",
    ["./no-such-model", pytest.param("nobody/no-such-model-anywhere", marks=pytest.mark.slow)],
)
def test_a_missing_model_is_named(ingestq: Ingestq, note: Path, model: str) -> None:
    ingestq.settings["model"] = model
    ran = ingestq("run", note)
    ran.failed_with(2, f"'{model}' cannot be loaded", "INGESTQ_MODEL")
    assert ran.err.count("\n") == 2, "the model is being loaded, and why it was not"


def test_a_collection_with_another_dimension_is_refused(ingestq: Ingestq, note: Path) -> None:
    client = QdrantClient(path=str(ingestq.folder / ".ingestq" / "qdrant"))
    config = models.VectorParams(size=768, distance=models.Distance.COSINE)
    client.create_collection("documents", vectors_config=config)
    client.close()
    ingestq("run", note).failed_with(2, "768 dimensions", "384", "INGESTQ_COLLECTION")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pool_size", "0"),
        ("pool_size", "many"),
        ("collection", "a/b"),
        ("redis_url", "http://here"),
        ("blob_url", "memory://here"),
        ("max_document_bytes", "-1"),
        ("api_port", "70000"),
    ],
)
def test_a_wrong_setting_is_named(ingestq: Ingestq, name: str, value: str) -> None:
    ingestq.settings[name] = value
    ingestq("status").failed_with(2, f"INGESTQ_{name.upper()}", value)


def test_a_wrong_settings_file_is_named(ingestq: Ingestq) -> None:
    file = ingestq.folder / "ingestq.toml"
    file.write_text("pool_sise = 2")
    ingestq("status").failed_with(2, "ingestq.toml", "pool_sise")
    file.write_text("pool_size = ")
    ingestq("status").failed_with(2, "ingestq.toml")


def test_an_unusable_data_directory_is_named(ingestq: Ingestq) -> None:
    (ingestq.folder / "file").touch()
    ingestq.settings["data_dir"] = "file"
    ingestq("status").failed_with(2, "INGESTQ_DATA_DIR")


@pytest.mark.parametrize("command", [("status",), ("run", "."), ("dead", "list"), ("doctor",)])
def test_with_json_a_wrong_setting_is_a_json_error(
    ingestq: Ingestq, command: tuple[str, ...]
) -> None:
    ingestq.settings["pool_size"] = "0"
    ran = ingestq(*command, "--json")
    ran.failed_with(2, "INGESTQ_POOL_SIZE is '0'")
    assert ran.json.keys() == {"error"}
    assert f"ingestq: {ran.json['error']}\n" == ran.err


@pytest.mark.parametrize("command", [("status",), ("add", "note.txt"), ("verify",)])
def test_with_json_an_unreachable_service_is_a_json_error(
    ingestq: Ingestq, note: Path, command: tuple[str, ...]
) -> None:
    ingestq.settings["redis_url"] = f"redis://{NOBODY}/0"
    ran = ingestq(*command, "--json")
    ran.failed_with(3, "Redis does not answer")
    assert ran.json.keys() == {"error"}
    assert f"ingestq: {ran.json['error']}\n" in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("search", "--limit", "0", "x", "--json"), "--limit"),
        (("search", "--json"), "QUERY"),
        (("search", "x", "--no-such-option", "--json"), "--no-such-option"),
        (("no-such-command", "--json"), "no-such-command"),
        (("search", "--dense", "--sparse", "x", "--json"), "--dense and --sparse"),
    ],
)
def test_with_json_a_wrong_command_line_is_a_json_error(
    ingestq: Ingestq, arguments: tuple[str, ...], said: str
) -> None:
    ran = ingestq(*arguments)
    assert ran.code == 2
    assert said in ran.json["error"]
    assert said in ran.err


@pytest.mark.parametrize("name", ["embeddings_api_key", "api_token"])
def test_a_secret_of_the_wrong_type_is_not_printed(ingestq: Ingestq, name: str) -> None:
    (ingestq.folder / "ingestq.toml").write_text(f"{name} = 5678123", encoding="utf-8")
    ran = ingestq("status")
    ran.failed_with(2, f"{name} in ingestq.toml is '***'")
    assert "5678123" not in ran.err


def test_the_password_in_a_wrong_url_is_not_printed(ingestq: Ingestq) -> None:
    ingestq.settings["blob_url"] = "memory://key:hunter2@bucket"
    ran = ingestq("status")
    ran.failed_with(2, "INGESTQ_BLOB_URL is 'memory://key:***@bucket'")
    assert "hunter2" not in ran.err


async def test_the_doctor_prints_no_secrets_of_urls(ingestq: Ingestq) -> None:
    async with qdrant_standin() as standin:
        ingestq.settings["qdrant_url"] = standin.url.replace("://", "://user:hunter2@")
        ran = await ingestq.ended("doctor")
    assert ran.code == 0, ran.out
    assert "://user:***@127.0.0.1" in ran.out
    assert "hunter2" not in ran.out + ran.err


def test_a_misspelt_variable_is_found_by_the_doctor(ingestq: Ingestq) -> None:
    ingestq.settings["colection"] = "notes"
    ran = ingestq("doctor")
    assert ran.code == 0
    assert "INGESTQ_COLECTION is not an ingestq setting" in ran.out


def test_the_doctor_says_what_to_fix(ingestq: Ingestq) -> None:
    ingestq.settings |= {"redis_url": f"redis://{NOBODY}", "blob_url": "blobs"}
    (ingestq.folder / "blobs").touch()
    ran = ingestq("doctor", "--json")
    assert ran.code == 3
    wrong = [finding for finding in ran.json["findings"] if finding["result"] == "wrong"]
    assert [finding["check"] for finding in wrong] == ["redis", "blobs"]
    assert "INGESTQ_REDIS_URL" in wrong[0]["detail"]
    assert "INGESTQ_BLOB_URL" in wrong[1]["detail"]
