"""Every readable file in an archive is found by its name; what is not read is said, briefly."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pytest

from ingestq.core.errors import DocumentRejected
from ingestq.core.paths import guess_media_type
from tests.security.test_bombs import EPUB_PARTS, archive, docx, zip_in_zip
from worker.text.config import OcrMode, ReadingConfig
from worker.text.extract import extract
from worker.text.parts import INSIDE, ExtractedDocument

ZIP: Final = "application/zip"
NO_OCR: Final = ReadingConfig(ocr=OcrMode.OFF)
MEGABYTE: Final = 1_000_000
RATIO: Final = "unpacks to more than 200 times its size"


def names(extracted: ExtractedDocument) -> Sequence[str | None]:
    return [part.name for part in extracted.parts]


def tar(members: dict[str, bytes], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as packed:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return file.getvalue()


def zip_with_names(names: Sequence[bytes]) -> bytes:
    """Return a ZIP file whose names are not marked as UTF-8."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for number, name in enumerate(names):
            packed.writestr(str(number) * len(name), "The mule is shod.")
    data = file.getvalue()
    for number, name in enumerate(names):
        data = data.replace(b"%d" % number * len(name), name, 2)
    return data


def test_members_of_a_zip_archive_are_parts() -> None:
    inner = archive({"deep/note.txt": "The saddle is dry."})
    data = archive(
        {
            "a/notes.txt": "The mule is shod on Fridays.",
            "list.md": "# Saddle soap",
            "letter.docx": docx("<w:p><w:r><w:t>The bridle is new.</w:t></w:r></w:p>"),
            "inner.zip": inner,
            "empty.txt": "",
            "__MACOSX/a/._notes.txt": b"\0\5\x16\7",
            ".DS_Store": b"\0\0\0\1Bud1",
            "folder/": "",
        }
    )
    for media_type in (ZIP, None):
        extracted = extract(data, media_type)
        assert names(extracted) == [
            "a/notes.txt",
            "list.md",
            "letter.docx",
            f"inner.zip{INSIDE}deep/note.txt",
        ]
        assert [part.text.strip() for part in extracted.parts] == [
            "The mule is shod on Fridays.",
            "# Saddle soap",
            "The bridle is new.",
            "The saddle is dry.",
        ]
        assert not extracted.warnings


@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz"), ("a.tbz", "w:bz2"), ("a.x", "w:xz")],
)
def test_members_of_a_tar_archive_are_parts(name: str, mode: str) -> None:
    data = tar({"hay.txt": b"Hay is stored dry.", "../../etc/한글.txt": b"Oats are not."}, mode)
    extracted = extract(data, guess_media_type(name))
    assert names(extracted) == ["hay.txt", "../../etc/한글.txt"]
    assert extracted.parts[0].text == "Hay is stored dry."


def test_links_and_devices_in_a_tar_archive_are_harmless(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("The secret of the mill.", encoding="utf-8")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as packed:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo(f"link-{kind.decode()}.txt")
            info.type, info.linkname = kind, str(secret)
            packed.addfile(info)
        info = tarfile.TarInfo("fine.txt")
        info.size = 5
        packed.addfile(info, io.BytesIO(b"Fine."))
    assert extract(file.getvalue(), "application/x-tar").text == "Fine."


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_file_is_read_as_the_file(compress: object) -> None:
    data = compress(b"Gzipped log: gate four jammed.")  # type: ignore[operator]
    [part] = extract(data, "application/x-gzip").parts
    assert (part.text, part.name) == ("Gzipped log: gate four jammed.", None)


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ("cp949", ["한글 문서.txt", "보고서.txt"]),
        ("cp932", ["報告書について.txt", "ドキュメント.txt"]),
        ("gb18030", ["中文报告.txt", "说明书.txt"]),
        ("utf-8", ["한글 문서.txt", "ドキュメント.txt"]),
        ("cp437", ["Übung für Größe.txt"]),
    ],
)
def test_names_in_the_encoding_of_the_packer(encoding: str, written: list[str]) -> None:
    data = zip_with_names([name.encode(encoding) for name in written])
    assert names(extract(data, ZIP)) == written


def test_one_bad_member_is_a_warning() -> None:
    data = bytearray(archive({"good.txt": "The mule is shod.", "bad.txt": os.urandom(500).hex()}))
    data[data.index(b"bad.txt") + 50] ^= 0xFF
    extracted = extract(bytes(data), ZIP)
    assert names(extracted) == ["good.txt"]
    assert extracted.warnings[0].startswith("'bad.txt' was skipped: ")


def test_an_encrypted_member_is_a_warning() -> None:
    data = bytearray(archive({"good.txt": "The mule is shod.", "secret.txt": "The saddle."}))
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.rindex(signature) + flags] |= 1
    extracted = extract(bytes(data), ZIP)
    assert names(extracted) == ["good.txt"]
    assert extracted.warnings == ("'secret.txt' was skipped: it is encrypted",)


def test_many_members_that_are_not_read_are_one_warning() -> None:
    members: dict[str, bytes | str] = {f"{i}.exe": bytes(range(256)) * 9 for i in range(12)}
    extracted = extract(archive(members | {"read.txt": "The mule is shod."}), ZIP)
    [warning] = extracted.warnings
    assert warning.startswith("12 members were skipped: '0.exe' (")
    assert warning.endswith(" and 9 more")


def test_a_bomb_is_skipped_and_the_rest_is_read() -> None:
    bomb = archive({"zeros.txt": "goose " * 10 * MEGABYTE, "fine.txt": "The mule is shod."})
    for data in (bomb, tar({"bomb.zip": bomb})):
        extracted = extract(data, guess_media_type("a.tar") if data is not bomb else ZIP)
        assert extracted.text == "The mule is shod."
        assert RATIO in extracted.warnings[0]


@pytest.mark.parametrize(
    "bomb",
    [
        lambda: archive({"zeros.txt": b"\0" * 40 * MEGABYTE}),
        lambda: gzip.compress(b"goose " * 20 * MEGABYTE),
        lambda: tar({"a.txt": b"goose " * 20 * MEGABYTE}, "w:gz"),
        lambda: tar({f"{i}.bin": b"\0" * MEGABYTE for i in range(300)}, "w:gz"),
        lambda: zip_in_zip(4),
    ],
    ids=["zip", "gz", "tar.gz", "many", "nested"],
)
def test_bombs_are_refused(bomb: Callable[[], bytes]) -> None:
    data = bomb()
    with pytest.raises(DocumentRejected, match=RATIO):
        extract(data, guess_media_type("a.zip") if data.startswith(b"PK") else None)


def test_an_archive_that_was_cut_off_is_read_as_far_as_it_goes() -> None:
    members = {f"{i}.txt": os.urandom(2000).hex().encode() for i in range(9)}
    extracted = extract(tar(members, "w:gz")[:-6000], None)
    assert names(extracted)[:3] == ["0.txt", "1.txt", "2.txt"]
    assert extracted.warnings[0].startswith("not everything in it was read: the archive is")
    with pytest.raises(DocumentRejected, match="cannot be read as a ZIP archive"):
        extract(archive({"a.txt": "The mule is shod."})[:-30], ZIP)


def test_an_archive_in_which_all_was_skipped_is_rejected_with_the_reason() -> None:
    with pytest.raises(DocumentRejected, match=r"'a.exe' was skipped: it is binary data"):
        extract(archive({"a.exe": bytes(range(256)) * 9}), ZIP)


def test_chapters_of_a_book_are_parts_in_their_order() -> None:
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="d"><metadata>'
        "<dc:title>The Mule Book</dc:title></metadata><manifest>"
        '<item id="z" href="text/z%20y.xhtml"/><item id="y" href="y.xhtml"/>'
        '<item id="n" href="nav.xhtml"/></manifest>'
        '<spine><itemref idref="z"/><itemref idref="y"/><itemref idref="gone"/></spine></package>'
    )
    pages = {
        "text/z y.xhtml": "<h1>One</h1><p>Mules like oats.</p>",
        "y.xhtml": "<title>Two</title><p>Mules dislike bridges.</p>",
        "nav.xhtml": "<p>Contents</p>",
    }
    chapters: dict[str, bytes | str] = {
        name: f'<html xmlns="http://www.w3.org/1999/xhtml"><body>{body}</body></html>'
        for name, body in pages.items()
    }
    data = archive(EPUB_PARTS | {"c.opf": package} | chapters)
    for media_type in (guess_media_type("book.epub"), None):
        extracted = extract(data, media_type)
        assert extracted.title == "The Mule Book"
        assert names(extracted)[0] == "One"
        assert "Mules like oats." in extracted.parts[0].text
        assert "Mules dislike bridges." in extracted.parts[1].text
        assert "Contents" not in extracted.text
        assert len(extracted.warnings) == 1
