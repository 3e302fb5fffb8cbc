"""An empty document is read, what cannot be read is not empty, and control characters are said."""

import gzip
import io
import zipfile

import pytest

from ingestq.core.errors import DocumentRejected
from ingestq.core.paths import guess_media_type
from tests.pdf_files import write_pdf
from worker.text.extract import extract
from worker.text.parts import EMPTY, NO_TEXT


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


@pytest.mark.parametrize(
    "name", ["a.txt", "a.md", "a.pdf", "a.docx", "a.zip", "a.mbox", "a", "a.csv"]
)
@pytest.mark.parametrize("data", [b"", b" \n\t\r\n"])
def test_a_document_without_content_is_empty(data: bytes, name: str) -> None:
    extracted = extract(data, guess_media_type(name))
    assert (extracted.parts, extracted.warnings) == ((), (EMPTY,))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("\u200b\u2060\ufeff \u00ad\u3164\u2800".encode(), "a.txt"),
        ("\ufeff \n".encode("utf-16-le"), "a.txt"),
        (b'""', "a.json"),
        (b"[]", "a.json"),
        (b'""\n""\n', "a.jsonl"),
        (b"<html><head><title>Tides</title></head><body></body></html>", "a.html"),
        (b'<?xml version="1.0"?><a/>', "a.xml"),
        (b"PK\x05\x06" + bytes(18), "a.zip"),
        (bytes(10_240), "a.tar"),
        (gzip.compress(b"", mtime=0), "a.txt.gz"),
        (b"X-Spam: no\n\n", "a.eml"),
        (b"From a@b Thu Jan  1 00:00:00 1970\nX-Spam: no\n\n\n", "a.mbox"),
        (b'{"cells": [], "nbformat": 4}', "a.ipynb"),
        (rb"{\rtf1\ansi }", "a.rtf"),
        (write_pdf([""]), "a.pdf"),
        (zipped({"a.txt": b"", "b.txt": b" ", "c/": b""}), "a.zip"),
        (zipped({"a.txt": "\u200b".encode()}), "a.zip"),
    ],
)
def test_a_document_that_says_nothing_has_no_parts(data: bytes, name: str) -> None:
    extracted = extract(data, guess_media_type(name))
    assert (extracted.parts, extracted.warnings) == ((), (NO_TEXT,))


@pytest.mark.parametrize(
    ("data", "name", "reason"),
    [
        (bytes(5_000), "a.txt", "5,000 NUL characters were removed"),
        (zipped({"a.exe": bytes(range(256)) * 9, "b.txt": b""}), "a.zip", "'a.exe' was skipped"),
        (write_pdf([""])[:-40], "a.pdf", "its end is missing"),
    ],
)
def test_what_was_not_read_is_not_empty(data: bytes, name: str, reason: str) -> None:
    with pytest.raises(DocumentRejected, match=reason):
        extract(data, guess_media_type(name))


@pytest.mark.parametrize(
    ("text", "found", "warnings"),
    [
        ("a\0b", "a b", ("1 NUL character was removed",)),
        ("one\0two\0three\0", "one two three ", ("3 NUL characters were removed",)),
        ("日本\0語", "日本 語", ("1 NUL character was removed",)),
        ("8=FIX\x0135=A\x0149=ME\x01", "8=FIX 35=A 49=ME ", ("3 control characters were removed",)),
        (
            "a\x01\0b and c",
            "a b and c",
            ("1 NUL character was removed", "1 control character was removed"),
        ),
        ("\x1b[31mred\x1b[0m\x1a", "red ", ()),
    ],
)
def test_control_characters_in_text_are_removed_with_a_warning(
    text: str, found: str, warnings: tuple[str, ...]
) -> None:
    extracted = extract(text.encode(), "text/plain")
    assert (extracted.text, extracted.warnings) == (found, warnings)
