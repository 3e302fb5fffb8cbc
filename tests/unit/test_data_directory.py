"""The format of a data directory: noted in it, and refused if it is newer."""

import threading
from importlib.metadata import version
from pathlib import Path

import msgspec
import pytest

from ingestq.core.data_directory import FORMAT, VERSION_FILE, data_directory
from ingestq.core.errors import UsageError


def note(path: Path) -> dict[str, object]:
    read: dict[str, object] = msgspec.json.decode((path / VERSION_FILE).read_bytes())
    return read


def test_a_new_directory_gets_the_format_of_this_version(tmp_path: Path) -> None:
    data_directory(tmp_path / "data")
    assert note(tmp_path / "data") == {"format": FORMAT, "ingestq": version("ingestq")}


def test_an_older_directory_without_a_note_gets_one_and_keeps_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    data_directory(tmp_path)
    assert note(tmp_path)["format"] == FORMAT
    assert (tmp_path / "redis").is_dir()


def test_the_note_stays_as_it_is(tmp_path: Path) -> None:
    written = {"format": FORMAT, "ingestq": "0.0.1", "of a later patch": True}
    (tmp_path / VERSION_FILE).write_bytes(msgspec.json.encode(written))
    data_directory(tmp_path)
    assert note(tmp_path) == written


def test_a_directory_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    newer = msgspec.json.encode({"format": FORMAT + 1, "ingestq": "9.1.0"})
    (tmp_path / VERSION_FILE).write_bytes(newer)
    with pytest.raises(UsageError, match=r"INGESTQ_DATA_DIR: .* newer version, ingestq 9\.1\.0;"):
        data_directory(tmp_path)
    assert (tmp_path / VERSION_FILE).read_bytes() == newer


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"format": "2"}'])
def test_a_damaged_note_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / VERSION_FILE).write_bytes(content)
    with pytest.raises(UsageError, match=r"version\.json is damaged .* delete that file"):
        data_directory(tmp_path)


def test_many_may_create_it_at_the_same_time(tmp_path: Path) -> None:
    errors: list[Exception] = []

    def create() -> None:
        try:
            data_directory(tmp_path / "data")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [path.name for path in (tmp_path / "data").iterdir()] == [VERSION_FILE]
