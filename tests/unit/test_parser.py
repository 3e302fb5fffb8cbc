"""The parser's findings are handed over as data: Markdown as it was written, and what was lost."""

import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.text.parser import parse, unescaped

SHEETS = {"Birds": ("B2", "thirty-four geese"), "Solver": ("A1048576", "stray")}
OFFICE = "http://schemas.openxmlformats.org"
WORKBOOK = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


def test_a_sheet_that_was_skipped_is_a_warning_that_names_it() -> None:
    parsed = parse(_workbook(), WORKBOOK)
    assert "thirty-four geese" in parsed.markdown
    [warning] = parsed.warnings
    assert warning == (
        "sheet 'Solver' was skipped: it declared 1048576 rows but only 2 cells contain data; "
        "delete the stray cells"
    )


@pytest.mark.parametrize(
    ("markdown", "written"),
    [
        (r"INV\_2024 is \<b\> in C\# \~1", "INV_2024 is <b> in C# ~1"),
        (r"C:\\temp\\\_new", r"C:\temp\_new"),
        ("1\\. first\n\\- second", "1. first\n- second"),
        (r"| a\|b | c\_d |", r"| a\|b | c_d |"),
        ("```\n\\<kept\\>\n```\n\\<not\\>", "```\n\\<kept\\>\n```\n<not>"),
        ("~~~\n```\n\\_\n~~~\n\\_", "~~~\n```\n\\_\n~~~\n_"),
        ("no escapes", "no escapes"),
        ("ends with \\", "ends with \\"),
    ],
)
def test_text_is_as_it_was_written(markdown: str, written: str) -> None:
    assert unescaped(markdown) == written


@given(st.text(st.characters(exclude_characters="`~|\n\r", max_codepoint=0x2FF)))
def test_escaping_each_sign_changes_nothing(written: str) -> None:
    signs = set("!\"#$%&'()*+,-./:;<=>?@[\\]^_{}")
    assert unescaped("".join(f"\\{s}" if s in signs else s for s in written)) == written


def _workbook() -> bytes:
    """Return a workbook with `SHEETS`, each with one cell."""
    main = f"{OFFICE}/spreadsheetml/2006/main"
    kinds = f"{OFFICE}/officeDocument/2006/relationships"
    package = f"{OFFICE}/package/2006"
    types, listed, related = "", "", ""
    files = {}
    for number, (name, (place, text)) in enumerate(SHEETS.items(), 1):
        path = f"worksheets/sheet{number}.xml"
        types += f'<Override PartName="/xl/{path}" ContentType="{WORKBOOK[:-6]}.worksheet+xml"/>'
        listed += f'<sheet name="{name}" sheetId="{number}" r:id="r{number}"/>'
        related += f'<Relationship Id="r{number}" Target="{path}" Type="{kinds}/worksheet"/>'
        row = place.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
        files[f"xl/{path}"] = (
            f'<worksheet xmlns="{main}"><sheetData><row r="1"><c r="A1" t="inlineStr"><is><t>first'
            f'</t></is></c></row><row r="{row}"><c r="{place}" t="inlineStr"><is><t>{text}</t></is>'
            "</c></row></sheetData></worksheet>"
        )
    files |= {
        "[Content_Types].xml": (
            f'<Types xmlns="{package}/content-types"><Default Extension="rels" ContentType='
            '"application/vnd.openxmlformats-package.relationships+xml"/><Override '
            f'PartName="/xl/workbook.xml" ContentType="{WORKBOOK}.main+xml"/>{types}</Types>'
        ),
        "_rels/.rels": (
            f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
            f'Target="xl/workbook.xml" Type="{kinds}/officeDocument"/></Relationships>'
        ),
        "xl/_rels/workbook.xml.rels": (
            f'<Relationships xmlns="{package}/relationships">{related}</Relationships>'
        ),
        "xl/workbook.xml": (
            f'<workbook xmlns="{main}" xmlns:r="{kinds}"><sheets>{listed}</sheets></workbook>'
        ),
    }
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return written.getvalue()
