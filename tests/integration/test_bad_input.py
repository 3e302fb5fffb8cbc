"""Bad files are rejected with a reason, and the others are indexed."""

import os
import zlib
from pathlib import Path

import pytest

from tests.command import Ingestq

EXAMPLES = Path(__file__).parents[2] / "examples" / "documents"
UMLAUTS = "Die Bäckerei öffnet täglich außer mittwochs um sieben Uhr; süße Brötchen gibt es früh.\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as people leave it behind."""
    folder = tmp_path / "left behind"
    folder.mkdir()
    (folder / "good.txt").write_text("The ferry leaves at noon.")
    (folder / "name with spaces.txt").write_text("Bread is baked at dawn.")
    (folder / "name\nwith\nnewlines.txt").write_text("The well is behind the chapel.")
    (folder / "[red]markup.txt").write_text("The chapel has no bell.")
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")).write_text(
        "Coffee costs two coins.", encoding="utf-8"
    )
    (folder / "latin-1.txt").write_bytes(UMLAUTS.encode("latin-1") * 20)
    (folder / "utf-16.txt").write_text("The mayor keeps bees.", encoding="utf-16")
    (folder / "empty.txt").touch()
    (folder / "blank.md").write_text(" \n\n")
    (folder / "binary.bin").write_bytes(zlib.compress(os.urandom(3000)))
    (folder / "binary.txt").write_bytes(b"text\0\x01\x02\x00" * 500)
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    pdf = (EXAMPLES / "tide-mill-manual.pdf").read_bytes()
    (folder / "truncated.pdf").write_bytes(pdf[: len(pdf) // 3])
    (folder / "huge.txt").write_bytes(b"All work and no play.\n" * (100_000_000 // 22))
    (folder / "loop").symlink_to(folder)
    (folder / "dangling").symlink_to(folder / "gone")
    os.mkfifo(folder / "pipe")
    (folder / ".hidden.txt").write_text("not looked at")
    return folder


@pytest.mark.slow
def test_bad_files_are_rejected_and_the_others_indexed(ingestq: Ingestq, folder: Path) -> None:
    ran = ingestq("run", folder, "no such folder", "--json")
    assert ran.code == 1, ran.err
    assert "Traceback" not in ran.err

    reasons = {
        Path(dead_letter["doc_id"]).name: dead_letter["reason"]
        for dead_letter in ran.json["dead_letters"]
    }
    expected = {
        "binary.bin": "binary",
        "binary.txt": "binary",
        "picture.png": "cannot be read as image/png",
        "truncated.pdf": "cannot be read as application/pdf",
        "huge.txt": "INGESTQ_MAX_DOCUMENT_BYTES",
        "dangling": "broken symbolic link",
        "pipe": "neither a file nor a folder",
        "no such folder": "no such file",
    }
    assert reasons.keys() == expected.keys()
    for name, words in expected.items():
        assert words in reasons[name]

    assert ran.json["documents"]["rejected"] == len(expected)
    assert ran.json["documents"]["indexed"] == 9
    emptied = {
        Path(one["doc_id"]).name for one in ran.json["warnings"] if "empty" in one["warning"]
    }
    assert emptied == {"empty.txt", "blank.md"}
    [hit] = ingestq("search", "What does coffee cost?", "-n", "1", "--json").json["hits"]
    assert hit["doc_id"].endswith("/caf%E9.txt")
    [hit] = ingestq("search", "Bäckerei süße Brötchen", "-n", "1", "--json").json["hits"]
    assert "außer mittwochs" in hit["text"]


def test_names_with_control_characters_are_escaped(ingestq: Ingestq) -> None:
    (ingestq.folder / "a\n[b]\x1b[31m.txt").write_bytes(bytes(range(256)))
    ran = ingestq("run", ".")
    assert ran.code == 1
    assert r"a\n[b]\x1b[31m.txt: it is binary data and not text" in ran.out
    assert "\x1b" not in ran.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "caf\udce9"),
        ("search", "--filter", "k=caf\udce9", "x"),
        ("search", "--source", "caf\udce9", "x"),
        ("delete", "caf\udce9"),
        ("delete", "--tenant", "caf\udce9", "x"),
    ],
)
def test_arguments_that_are_not_utf8_are_named(
    ingestq: Ingestq, arguments: tuple[str, ...]
) -> None:
    ingestq(*arguments).failed_with(2, r"caf\\udce9' is not valid UTF-8")


@pytest.mark.slow
def test_a_file_that_disappears_before_it_is_read_is_rejected(ingestq: Ingestq) -> None:
    path = ingestq.folder / "large.txt"
    path.write_text("too large to travel with its job\n" * 5000)
    assert ingestq("add", path).code == 0
    path.unlink()
    (ingestq.folder / "other.txt").write_text("here to stay")
    assert ingestq("run", "other.txt").code == 0
    [dead_letter] = ingestq("dead", "list", "--json").json["dead_letters"]
    assert dead_letter["doc_id"] == str(path)
    assert "gone" in dead_letter["reason"]
    assert str(path) in ingestq("dead", "show", str(path)).out

    path.write_text("back again, and still too large to travel with its job\n" * 2000)
    assert ingestq("dead", "requeue", str(path), "--json").json["requeued"] == 1
    assert ingestq("run", "other.txt").code == 0
    status = ingestq("status", "--json").json
    assert (status["dead_letters"], status["collection"]["documents"]) == (0, 2)


def test_requeue_and_purge_need_a_selection(ingestq: Ingestq) -> None:
    ingestq("dead", "requeue").failed_with(2, "--all")
    ingestq("dead", "purge", "--all", "x").failed_with(2, "--all")
    ingestq("dead", "show", "x").failed_with(2, "no dead letter for x")
    assert ingestq("dead", "purge", "--all", "--json").json == {"purged": 0}


@pytest.mark.slow
def test_a_fixed_document_leaves_the_dead_letters(ingestq: Ingestq) -> None:
    path = ingestq.folder / "note.txt"
    path.write_bytes(bytes(range(256)))
    assert ingestq("run", path).code == 1
    assert ingestq("status", "--json").json["dead_letters"] == 1
    path.write_text("Now there is something to read.")
    assert ingestq("run", path).code == 0
    assert ingestq("status", "--json").json["dead_letters"] == 0
