"""Data directories that older versions wrote are used as they are; those of newer ones are refused.

CONTRIBUTING.md says when to store another one.
"""

import shutil
import tarfile
from pathlib import Path

import msgspec
import pytest

from ingestq.core.data_directory import FORMAT, VERSION_FILE
from tests.command import Ingestq
from tests.data.make_data_directory import NOTES, STALE, UNREADABLE, WAITING, write_notes

STORED = sorted((Path(__file__).parents[1] / "data").glob("data-directory-*.tar.xz"))


@pytest.fixture(params=STORED, ids=lambda path: path.name)
def stored(request: pytest.FixtureRequest, ingestq: Ingestq) -> Path:
    """A stored data directory, unpacked where the command looks for it, and its notes."""
    with tarfile.open(request.param) as archive:
        archive.extractall(ingestq.folder, filter="data")
    notes = ingestq.folder / "notes"
    write_notes(notes, NOTES)
    (notes / STALE).write_bytes(UNREADABLE)
    return ingestq.folder / ".ingestq"


@pytest.mark.slow
def test_nothing_of_an_older_data_directory_is_lost(stored: Path, ingestq: Ingestq) -> None:
    status = ingestq("status", "--json").json
    assert status["queue"]["ready"] == 1, "both texts share a job"
    assert (status["dead_letters"], status["collection"]["documents"]) == (1, len(NOTES))
    found = ingestq("search", "frost on the lake", "-n", "1", "--json").json
    assert [hit["doc_id"] for hit in found["hits"]] == ["notes/geese.md"]
    [dead] = ingestq("dead", "list", "--json").json["dead_letters"]
    assert dead["doc_id"] == f"notes/{STALE}"

    rebuilt = ingestq("reindex", "--json")  # if this version makes other chunks
    assert rebuilt.code == 0, rebuilt.err
    ran = ingestq("run", "notes", "--source", "notes", "--json").json
    counts = ran["documents"]
    assert (counts["indexed"] + counts["unchanged"], counts["rejected"]) == (len(NOTES) - 1, 1)
    assert ran["chunks"]["embedded"] == 0, "the folder has another path, and the text is known"

    write_notes(ingestq.folder / "notes", NOTES)
    healed = ingestq("run", "notes", "--source", "notes", "--json")
    assert healed.code == 0, healed.err
    verified = ingestq("verify", "notes", "--source", "notes", "--json")
    assert verified.json["consistent"], verified.out
    assert verified.json["documents"] == len(NOTES) + len(WAITING)
    shutil.rmtree(stored)  # it has hundreds of megabytes, most of them zeros


@pytest.mark.parametrize("command", [["status"], ["export", "e.gz"]], ids=" ".join)
def test_one_of_a_newer_version_is_refused_and_left_alone(
    ingestq: Ingestq, command: list[str]
) -> None:
    data = ingestq.folder / ".ingestq"
    (data / "qdrant").mkdir(parents=True)
    (data / "qdrant" / "catalog.json").write_bytes(b'{"format": 2}')
    newer = {"format": FORMAT + 1, "ingestq": "9.1.0"}
    (data / VERSION_FILE).write_bytes(msgspec.json.encode(newer))
    before = sorted(data.rglob("*"))
    ended = ingestq(*command)
    ended.failed_with(2, "a newer version, ingestq 9.1.0", "Upgrade ingestq")
    assert sorted(data.rglob("*")) == before


def test_the_format_of_this_version_is_stored() -> None:
    assert [path for path in STORED if path.name.startswith(f"data-directory-{FORMAT}-")]
