"""Text is extracted from every format; files without text are rejected with a reason."""

import io
import re
import zipfile
from email.message import EmailMessage
from pathlib import Path

import pytest

from ingestq.core.errors import DocumentRejected
from ingestq.core.paths import guess_media_type
from worker.text.extract import CONTAINERS, READERS, extract
from worker.text.media_types import is_decoded_only

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
    assert extracted.parts[0].markdown


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
    assert extract(text.encode(), "text/markdown").parts[0].markdown
    assert extract(text.encode(), "text/plain").text == text
    assert not extract(text.encode(), "text/plain").parts[0].markdown


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
        (bytes(range(256)) * 20, "text/plain", "binary"),
        (bytes(range(256)) * 20, None, "binary"),
        (b"PK\x03\x04 cut off", guess_media_type("a.docx"), "cannot be read as application/vnd"),
        (b"%PDF-1.7 cut off", "application/pdf", "cannot be read as application/pdf"),
        (b"\x89PNG\r\n\x1a\n", "image/png", "image/png|OCR"),
        (b"\0\1\2\3" * 99, "video/mp4", "binary"),
    ],
)
def test_what_is_no_text_is_rejected(data: bytes, media_type: str | None, reason: str) -> None:
    with pytest.raises(DocumentRejected, match=reason):
        extract(data, media_type)


@pytest.mark.parametrize("levels", [62, 200, 5_000])
@pytest.mark.parametrize("tag", ["div", "span", "b", "blockquote", "ul", "table", "td", "h1", "x"])
def test_the_text_of_nested_elements_is_kept(tag: str, levels: int) -> None:
    nested = f"<{tag}>" * levels + "a deep heron" + f"</{tag}>" * levels
    text = extract(f"<p>before</p>{nested}<p>after</p>".encode(), "text/html").text
    words = text.replace("*", " ").replace(">", " ").replace("#", " ").split()
    assert [word for word in words if word.isalpha()] == ["before", "a", "deep", "heron", "after"]


@pytest.mark.parametrize("tag", ["p", "li", "dd", "dt", "option", "font", "center", "a", "i"])
def test_the_text_of_elements_without_end_is_kept(tag: str) -> None:
    page = "".join(f"<{tag}>word{number} " for number in range(1000))
    text = extract(page.encode(), "text/html").text
    assert re.findall(r"word\d+", text) == [f"word{number}" for number in range(1000)]


def test_paragraphs_without_end_stay_apart() -> None:
    text = extract(b"<p>One goose.<p>Two <b>geese.<p>Three</b> geese.", "text/html").text
    assert [part.replace("*", "") for part in text.split("\n\n")] == [
        "One goose.",
        "Two geese.",
        "Three geese.\n",
    ]


def test_cells_without_end_tags_are_kept() -> None:
    page = b"<table><tr><th>bird<th>count<tr><td>goose<td>34<tr>stray</table><p>After."
    rows = extract(page, "text/html").text.splitlines()
    assert [[cell.strip() for cell in row.split("|")] for row in rows if "-" not in row] == [
        ["", "bird", "count", ""],
        ["", "goose", "34", ""],
        ["", "stray", "", ""],
        [""],
        ["After."],
    ]


def test_nested_quotations_make_text_little_longer() -> None:
    page = b"<blockquote>" * 5_000 + b"<p>goose" * 5_000
    assert len(extract(page, "text/html").text) < 10 * len(page)


def test_signs_in_attributes_and_scripts_are_no_tags() -> None:
    page = (
        b"<div title='a > b' onclick=\"if (a<b) go('<div>')\"><script>'<div>' < 3</script>"
        b"<!-- <div> --><p>1 < 2 is true, and 3 <4 too.</p></div>"
    )
    text = extract(page, "text/html").text.strip()
    assert text.replace("\\", "") == "1 < 2 is true, and 3 <4 too."


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Tides " * 10_000, ("Tides " * 10_000)[:1000].strip()),
        ("&#" + "9" * 10_000 + ";", "\ufffd"),
        ("", None),
    ],
    ids=["long", "number", "empty"],
)
def test_titles_are_bounded(title: str, expected: str | None) -> None:
    page = f"<html><head><title>{title}</title></head><p>Text"
    assert extract(page.encode(), "text/html").title == expected


@pytest.mark.parametrize("stray", ["C500", "A1048576", "XFD1048576"])
def test_a_stray_cell_makes_no_empty_rows(stray: str) -> None:
    text = extract(*_spreadsheet("thirty-four geese", stray)).text
    assert len(text.splitlines()) == 3
    assert "| stray |" in text


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (b"<a><b>one\n two", "application/xml"),
        (b"a," * 20_000 + b"\n1\n", "text/csv"),
        (b"no LaTeX at all", "application/x-latex"),
        ("* Tides\n" + "[" * 100_000, "text/x-org"),
    ],
    ids=["cut off", "ragged", "prose", "brackets"],
)
def test_what_is_not_valid_in_its_format_stays_as_it_is(data: bytes | str, media_type: str) -> None:
    data = data.encode() if isinstance(data, str) else data
    extracted = extract(data, media_type)
    assert extracted.text == data.decode()
    assert not extracted.parts[0].markdown


def test_source_code_needs_no_network() -> None:
    code = b"#!/usr/bin/env python\nimport os\n"
    for media_type in ("text/x-python", "text/csv", None):
        assert "import os" in extract(code, media_type).text


def _spreadsheet(text: str = "thirty-four geese", stray: str = "B1") -> tuple[bytes, str | None]:
    """Return the smallest workbook that Excel would open, with a ``stray`` cell."""
    cell = f'<c r="{stray}" t="inlineStr"><is><t>stray</t></is></c>'
    more = f'<row r="{stray.lstrip("ABC")}">{cell}</row>'
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
            f'<sheetData><row r="1"><c r="A1" t="inlineStr"><is><t>{text}</t></is></c></row>{more}'
            "</sheetData></worksheet>"
        ),
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue(), guess_media_type("birds.xlsx")


@pytest.mark.parametrize("media_type", sorted({*READERS, *CONTAINERS}))
def test_a_format_with_a_reader_is_never_read_as_plain_text(media_type: str) -> None:
    assert not is_decoded_only(media_type)
