"""Files whose names lie: the content decides, and a rejection names the true reason."""

import io
from collections.abc import Callable
from typing import Final

import openpyxl
import pytest

from ingestq.core.errors import DocumentRejected
from ingestq.core.paths import guess_media_type
from ingestq.core.unicode_forms import MAX_MARKS
from tests.office_files import archive, docx, open_document, paragraph
from worker.text.extract import extract

PAGE: Final = "<html><body><p>The loft needs a new hatch.</p></body></html>"
TABLE: Final = "<table><tr><th>Depot<th>Balance<tr><td>Fennimore<td>812.40</table>"
EXCEL_PAGE: Final = (
    '<html xmlns:x="urn:schemas-microsoft-com:office:excel"><head><meta charset=utf-8></head>'
    f"<body>{TABLE}</body></html>"
)
SAVED_PAGE: Final = (
    "MIME-Version: 1.0\nContent-Type: multipart/related; boundary=b\n\n"
    f"--b\nContent-Type: text/html; charset=utf-8\n\n{PAGE}\n--b--\n"
)
RTF: Final = "{\\rtf1\\ansi\\ansicpg1252 The foghorn is silent. K\\'fchler is away.\\par}"
ROWS: Final = "Depot\tBalance\nGalloway\t77.10\n"


def word() -> bytes:
    return docx(paragraph("The anvil is lent to the smithy."))


def workbook() -> bytes:
    book, file = openpyxl.Workbook(), io.BytesIO()
    book.worksheets[0].append(["Depot", "Balance"])
    book.save(file)
    return file.getvalue()


def pdf() -> bytes:
    """Return the smallest PDF with a text."""
    drawing = b"BT /F 12 Tf 9 50 Td (The ferry timetable changes in May.) Tj ET"
    objects = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 400 99] /Contents 4 0 R "
        b"/Resources << /Font << /F 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawing), drawing),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )
    out, offsets = bytearray(b"%PDF-1.7\n"), []
    for number, content in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(out)
    out += b"xref\n0 6\n0000000000 65535 f \n"
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return bytes(out) + b"trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % start


@pytest.mark.parametrize(
    ("name", "make", "found"),
    [
        ("report.xls", lambda: EXCEL_PAGE.encode(), "| Fennimore | 812.40"),
        ("report.xls", lambda: TABLE.encode(), "| Fennimore | 812.40"),
        ("report.xls", lambda: EXCEL_PAGE.encode("utf-16"), "| Fennimore | 812.40"),
        ("tabs.xls", ROWS.encode, "| Galloway | 77.10 |"),
        ("tabs.xlsx", ROWS.encode, "| Galloway | 77.10 |"),
        ("really-xlsx.xls", workbook, "| Depot | Balance |"),
        ("really-docx.xlsx", word, "The anvil is lent"),
        ("letter.doc", RTF.encode, "Kühler is away"),
        ("letter.txt", RTF.encode, "Kühler is away"),
        ("page.doc", PAGE.encode, "new hatch"),
        ("saved-page.doc", SAVED_PAGE.encode, "new hatch"),
        ("really-docx.doc", word, "The anvil is lent"),
        ("really-docx.txt", word, "The anvil is lent"),
        ("really-docx.zip", word, "The anvil is lent"),
        ("noextension", word, "The anvil is lent"),
        ("text.odt", lambda: open_document("text", "<text:p>Kelp</text:p>"), "Kelp"),
        ("odt.docx", lambda: open_document("text", "<text:p>Kelp</text:p>"), "Kelp"),
        ("odt", lambda: open_document("text", "<text:p>Kelp</text:p>"), "Kelp"),
        ("download.pdf", PAGE.encode, "new hatch"),
        ("notes.pdf", lambda: b"Plain words only.", "Plain words only."),
        ("notes.docx", lambda: b"Plain words only.", "Plain words only."),
        ("events.json", lambda: b'{"door": "north"}\n{"door": "south"}\n', "south"),
        ("pdf-in-disguise.txt", pdf, "ferry timetable"),
        ("pdf-in-disguise.docx", pdf, "ferry timetable"),
        ("PAGE.HTM", PAGE.encode, "new hatch"),
    ],
)
def test_content_decides(name: str, make: Callable[[], bytes], found: str) -> None:
    extracted = extract(make(), guess_media_type(name))
    assert found in extracted.text.replace("  ", "")
    assert "<" not in extracted.text
    assert extracted.warnings == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pdf.md", "%PDF-1.7 is how a PDF begins, says this note."),
        ("gif.txt", "GIF89a is how an image begins."),
        ("page.txt", PAGE),
        ("page.py", f'page = "{PAGE}"'),
    ],
)
def test_text_about_formats_stays_text(name: str, text: str) -> None:
    assert extract(text.encode(), guess_media_type(name)).text == text


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.docx", word()[:300], "cannot be read as .*wordprocessingml.document: it is damaged"),
        ("a.xls", bytes(range(256)) * 9, "cannot be read as application/vnd.ms-excel: it does not"),
        ("a.pdf", bytes(range(256)) * 9, "cannot be read as application/pdf: it does not begin"),
        ("a.hwp", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(999), "read as application/x-hwp"),
        ("a.odt", archive({"mimetype": "application/vnd.oasis.opendocument.text"}), "content.xml"),
    ],
)
def test_the_true_reason_is_named(name: str, data: bytes, reason: str) -> None:
    with pytest.raises(DocumentRejected, match=reason):
        extract(data, guess_media_type(name))


def test_a_protected_document_is_rejected_as_such() -> None:
    stream = "EncryptedPackage\0".encode("utf-16-le")
    protected = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + stream
    with pytest.raises(DocumentRejected, match="protected by a password"):
        extract(protected, guess_media_type("a.docx"))


def test_what_was_read_in_another_format_is_said() -> None:
    broken = extract(b'{"cells": [', guess_media_type("tide.ipynb"))
    assert broken.text == '{"cells": ['
    assert "it was read as text/plain: cannot be read as a notebook" in broken.warnings[0]


def test_text_is_composed_and_without_nul() -> None:
    assert extract("Gro\u0308ße".encode(), "text/plain").text == "Größe"
    html = "<p>Gro\u0308ße".encode()
    assert "Größe" in extract(html, "text/html").text
    marks = "a" + "\u0301\u0316" * 50_000
    read = extract(marks.encode(), "text/plain").text
    assert read.startswith("á")
    assert len(read) <= 1 + 3 * MAX_MARKS  # for each piece that is cleaned
