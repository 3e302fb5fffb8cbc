"""Text is extracted from every format; files without text are rejected with a reason."""

import io
import zipfile
from email.message import EmailMessage
from pathlib import Path

import pytest

from ingestq.core.errors import DocumentRejected
from ingestq.core.paths import guess_media_type
from worker.text.extract import extract

EXAMPLES = Path(__file__).parents[2] / "examples" / "documents"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("tide-mill-manual.pdf", "the miller shuts off the bath-house heaters first"),
        ("seed-bank-inventory.docx", "thought extinct until a jar was found behind a dresser"),
        ("visitor-rules.html", "on a lead no longer than two metres"),
    ],
)
def test_text_of_real_documents(name: str, sentence: str) -> None:
    extracted = extract((EXAMPLES / name).read_bytes(), guess_media_type(name))
    assert sentence in " ".join(extracted.text.split())
    assert extracted.markdown


def test_text_of_spreadsheets() -> None:
    assert "thirty-four geese" in extract(*_spreadsheet()).text


def test_text_and_title_of_an_e_mail() -> None:
    message = EmailMessage()
    message["Subject"] = "The boiler"
    message.set_content("It leaks again, on the left.")
    extracted = extract(message.as_bytes(), "message/rfc822")
    assert "It leaks again, on the left." in extracted.text
    assert extracted.title == "The boiler"


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("table.csv", "bird,count\ngannet,41\n", "| gannet | 41 |"),
        ("data.json", '{"harbour": {"depth": "nine metres"}}', "nine metres"),
        ("lines.jsonl", '{"a": "first"}\n{"a": "second"}\n', "second"),
        ("page.xml", "<a><b>tidal range</b></a>", "tidal range"),
        ("notes.rst", "Moor\n====\n\nPeat burns slowly.", "Peat burns slowly."),
        ("settings.yaml", "depth: 9\n", "depth: 9\n"),
        ("code.py", "def f():\n    return 1\n", "def f():\n    return 1\n"),
        ("paper.tex", "\\section{Tides}", "\\section{Tides}"),
        ("README", "no suffix at all", "no suffix at all"),
        ("odd.xyz", "unknown suffix", "unknown suffix"),
    ],
)
def test_text_formats(name: str, text: str, found: str) -> None:
    assert found in extract(text.encode(), guess_media_type(name)).text


def test_markdown_and_plain_text_are_not_changed() -> None:
    text = "# One\n\ntwo\nthree <b>four</b>\n"
    assert extract(text.encode(), "text/markdown").text == text
    assert extract(text.encode(), "text/markdown").markdown
    assert extract(text.encode(), "text/plain").text == text
    assert not extract(text.encode(), "text/plain").markdown


def test_html_head_gives_the_title_but_no_text() -> None:
    page = b"<html><head><title>Tides &amp; moons</title><meta name=x content=y></head><p>Text"
    extracted = extract(page, "text/html")
    assert extracted.title == "Tides & moons"
    assert extracted.text.strip() == "Text"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])
def test_encodings_are_detected(encoding: str) -> None:
    text = "Die Bäckerei öffnet täglich außer mittwochs; süße Brötchen gibt es früh.\n" * 10
    assert extract(text.encode(encoding), None).text == text


@pytest.mark.parametrize(
    ("data", "media_type", "reason"),
    [
        (b"", "text/plain", "empty"),
        (b" \n", "text/plain", "no text"),
        (b"<html><body></body></html>", "text/html", "no text"),
        (bytes(range(256)) * 20, "text/plain", "binary"),
        (bytes(range(256)) * 20, None, "binary"),
        (b"PK\x03\x04 cut off", guess_media_type("a.docx"), "cannot be read as application/vnd"),
        (b"%PDF-1.7 cut off", "application/pdf", "cannot be read as application/pdf"),
        (b"\x89PNG\r\n\x1a\n", "image/png", "OCR"),
        (b"\0\1\2\3" * 99, "video/mp4", "binary"),
    ],
)
def test_files_without_text_are_rejected(data: bytes, media_type: str | None, reason: str) -> None:
    with pytest.raises(DocumentRejected, match=reason):
        extract(data, media_type)


def _spreadsheet() -> tuple[bytes, str | None]:
    """The smallest workbook that Excel would open."""
    parts = {
        "[Content_Types].xml": (
            '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
            '<Default Extension="rels" ContentType='
            '"application/vnd.openxmlformats-package.relationships+xml"/>'
            '<Override PartName="/xl/workbook.xml" ContentType="application/vnd.openxmlformats-'
            'officedocument.spreadsheetml.sheet.main+xml"/>'
            '<Override PartName="/xl/worksheets/sheet1.xml" ContentType="application/vnd.'
            'openxmlformats-officedocument.spreadsheetml.worksheet+xml"/></Types>'
        ),
        "_rels/.rels": (
            '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
            '<Relationship Id="r1" Target="xl/workbook.xml" Type="http://schemas.openxmlformats.'
            'org/officeDocument/2006/relationships/officeDocument"/></Relationships>'
        ),
        "xl/_rels/workbook.xml.rels": (
            '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
            '<Relationship Id="r1" Target="worksheets/sheet1.xml" Type="http://schemas.'
            'openxmlformats.org/officeDocument/2006/relationships/worksheet"/></Relationships>'
        ),
        "xl/workbook.xml": (
            '<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" '
            'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships">'
            '<sheets><sheet name="Birds" sheetId="1" r:id="r1"/></sheets></workbook>'
        ),
        "xl/worksheets/sheet1.xml": (
            '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'
            '<sheetData><row r="1"><c r="A1" t="inlineStr"><is><t>thirty-four geese</t></is></c>'
            "</row></sheetData></worksheet>"
        ),
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue(), guess_media_type("birds.xlsx")
