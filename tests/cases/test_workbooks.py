"""Workbooks: each sheet is a part, with the values that a reader sees."""

import io
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from openpyxl.comments import Comment
from openpyxl.worksheet.worksheet import Worksheet

from ingestq.core.errors import DocumentRejected
from tests.office_files import open_document
from worker.text.extract import extract
from worker.text.formats import sheet, tables
from worker.text.formats.number_format import formatted
from worker.text.media_types import ODS, XLS, XLSX
from worker.text.parts import ExtractedDocument, Part

HERE = Path(__file__).parent


def workbook(write: Callable[[Worksheet], object]) -> bytes:
    """Return a workbook with one sheet, which ``write`` fills."""
    book = openpyxl.Workbook()
    assert book.active is not None
    write(book.active)
    return saved(book)


def saved(book: openpyxl.Workbook) -> bytes:
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def read(write: Callable[[Worksheet], object]) -> str:
    return extract(workbook(write), XLSX).parts[0].text


def test_sheets_are_parts_and_hidden_ones_are_marked() -> None:
    book = openpyxl.Workbook()
    book.create_sheet("Boats").append(["boat", "berth"])
    book.create_sheet("Prices").append(["old", "new"])
    book["Prices"].sheet_state = "hidden"
    book.properties.title = "Harbour"
    assert extract(saved(book), XLSX) == ExtractedDocument(
        (
            Part("| boat | berth |\n| --- | --- |", markdown=True, name="Boats"),
            Part("(hidden sheet)\n\n| old | new |\n| --- | --- |", markdown=True, name="Prices"),
        ),
        "Harbour",
    )


@pytest.mark.parametrize(
    ("value", "code", "shown"),
    [
        (0.075, "0.0 %", "7.5 %"),
        (42, "00000", "00042"),
        (time(7, 45), "hh:mm", "07:45"),
        (timedelta(hours=36), "[h]:mm", "36:00"),
        (date(2026, 5, 1), "dd.mm.yyyy", "01.05.2026"),
        (date(2026, 5, 1), 'yyyy"년" m"월" d"일"', "2026년 5월 1일"),
        (datetime(2026, 5, 1, 15, 30), "d mmm yyyy h:mm AM/PM", "1 May 2026 3:30 PM"),
        (
            date(2026, 5, 1),
            "mm-dd-yy",
            "2026-05-01",
        ),  # Excel shows it in the reader's country's form
        (1234.5, '#,##0.00 "€"', "1,234.50 €"),
        (-1234.5, "[$$-409]#,##0.00;[Red]([$$-409]#,##0.00)", "($1,234.50)"),
        (5551234567, "(000) 000-0000", "(555) 123-4567"),
        (7.5, "# ?/?", "7 1/2"),
        (0.1 + 0.2, "General", "0.3"),
        (4006381333931, "General", "4006381333931"),
        (True, "General", "TRUE"),
        ("00042", "General", "00042"),
        ("=1+1", "General", "=1+1"),
        ("a|b\nc", "General", "a\\|b c"),
        ("List<Berth> __init__ *x* [a] #1 ~2", "General", "List<Berth> __init__ *x* [a] #1 ~2"),
    ],
)
def test_values_are_as_a_reader_sees_them(value: Any, code: str, shown: str) -> None:
    def write(cells: Worksheet) -> None:
        cells.append(["key", "value"])
        cells.append(["row", value])
        cells["B2"].number_format = code

    assert read(write) == f"| key | value |\n| --- | --- |\n| row | {shown} |"


@pytest.mark.parametrize(
    ("value", "code", "shown"),
    [
        (1_234_567, '0.0,,"M"', "1.2M"),
        (12345, "0.00E+00", "1.23E+04"),
        (0, "0;-0;;@", ""),
        (150, '[>=100]"high";"low"', "high"),
        (2.5, "0.##", "2.5"),
        (3, "0.##", "3"),
        (0.125, "0.00", "0.13"),
        (59, "d/m/yyyy", "28/2/1900"),
        (61, "d/m/yyyy", "1/3/1900"),
        (-1, "yyyy-mm-dd", "-1"),
        (1e300, "yyyy-mm-dd", "1e+300"),
        (0.5, "", "0.5"),
        (1, '"unclosed', "unclosed"),
    ],
)
def test_other_formats(value: float, code: str, shown: str) -> None:
    assert formatted(value, code) == shown


def test_the_cached_value_of_a_formula_is_read() -> None:
    data = workbook(lambda cells: cells.append(["sum", 7]))
    assert "| sum | 7 |" in extract(data, XLSX).text


def test_merged_cells_are_read_once() -> None:
    def write(cells: Worksheet) -> None:
        cells.append(["a", "b", "c"])
        cells.append(["wide", None, "3"])
        cells.merge_cells("A2:B2")

    assert read(write) == "| a | b | c |\n| --- | --- | --- |\n| wide |  | 3 |"


def test_blank_rows_and_columns_are_cut_and_titles_stand_above_the_table() -> None:
    def write(cells: Worksheet) -> None:
        cells["B2"] = "Spare parts 2026"
        cells["B5"], cells["D5"] = "part", "price"
        cells["B9"], cells["D9"] = "gasket", 3.1

    assert read(write) == ("Spare parts 2026\n\n| part | price |\n| --- | --- |\n| gasket | 3.1 |")


def test_comments_are_read_with_their_cells() -> None:
    def write(cells: Worksheet) -> None:
        cells.append(["pump", "room"])
        cells["B1"].comment = Comment("Which\nroom?", "Ann")

    assert read(write).endswith("\n\nComment on B1 by Ann: Which room?")


@pytest.mark.parametrize("stray", ["D40000", "ZZ60000", "A1048576", "XFD1048576"])
def test_a_cell_far_out_costs_nothing(stray: str) -> None:
    book = openpyxl.Workbook()
    solver = book.create_sheet("Solver")
    solver.append(["pump", "room"])
    solver[stray] = "stray"
    book.create_sheet("Boats").append(["Albatross", "north mole"])
    solved, boats = extract(saved(book), XLSX).parts
    assert len(solved.text.splitlines()) == 3
    assert "stray" in solved.text
    assert boats.text.startswith("| Albatross | north mole |")


def test_a_sheet_with_too_many_cells_is_skipped_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (sheet, tables):
        monkeypatch.setattr(module, "MAX_TABLE_CELLS", 100)
    book = openpyxl.Workbook()
    for number in range(1, 20):
        book.worksheets[0].cell(number, number, "diagonal")
    book.create_sheet("Boats").append(["Albatross", "north mole"])
    extracted = extract(saved(book), XLSX)
    assert [part.name for part in extracted.parts] == ["Boats"]
    assert extracted.warnings == ("sheet 'Sheet' was skipped: 190 cells; the limit is 100",)


def test_a_long_table_keeps_its_rows() -> None:
    def write(cells: Worksheet) -> None:
        for number in range(3000):
            cells.append([f"GX-{number}", number])

    lines = read(write).splitlines()
    assert lines[2:] == [f"| GX-{number} | {number} |" for number in range(1, 3000)]


def test_an_old_workbook() -> None:
    extracted = extract((HERE / "old_workbook.xls").read_bytes(), XLS)
    assert extracted.parts == (
        Part(
            "| part | code | share | opened | time |\n| --- | --- | --- | --- | --- |\n"
            "| gasket | 00042 | 7.5% | 01.05.2026 | 07:45 |",
            markdown=True,
            name="Parts",
        ),
        Part(
            "(hidden sheet)\n\n| a\\|b |  |\n| --- | --- |\n|  | stray |",
            markdown=True,
            name="Far",
        ),
    )


def test_an_old_workbook_that_is_damaged() -> None:
    data = (HERE / "old_workbook.xls").read_bytes()
    with pytest.raises(DocumentRejected, match=r"cannot be read as application/vnd\.ms-excel"):
        extract(data[: len(data) // 3], XLS)


def test_a_workbook_in_xml() -> None:
    data = b"""<?xml version="1.0"?><?mso-application progid="Excel.Sheet"?>
<Workbook xmlns="urn:schemas-microsoft-com:office:spreadsheet"
 xmlns:ss="urn:schemas-microsoft-com:office:spreadsheet">
<Styles><Style ss:ID="p"><NumberFormat ss:Format="0.0%"/></Style></Styles>
<Worksheet ss:Name="Parts"><Table><Row><Cell><Data ss:Type="String">part</Data></Cell>
<Cell ss:Index="3"><Data ss:Type="String">share</Data></Cell></Row>
<Row ss:Index="9"><Cell><Data ss:Type="String">gasket</Data></Cell>
<Cell ss:Index="3" ss:StyleID="p"><Data ss:Type="Number">0.075</Data></Cell></Row>
</Table></Worksheet></Workbook>"""
    text = "| part | share |\n| --- | --- |\n| gasket | 7.5% |"
    assert extract(data, XLS).parts == (Part(text, markdown=True, name="Parts"),)


def test_open_document_spreadsheet() -> None:
    hidden = (
        '<style:style style:name="H"><style:table-properties table:display="false"/></style:style>'
    )

    def cell(text: str, attributes: str = "") -> str:
        return f"<table:table-cell {attributes}><text:p>{text}</text:p></table:table-cell>"

    comment = (
        "<office:annotation><dc:creator>Ann</dc:creator><text:p>Why?</text:p></office:annotation>"
    )
    fill = cell("fill", 'table:number-columns-repeated="16000"')
    blank = '<table:table-cell table:number-columns-repeated="16000"/>'
    body = (
        f'<table:table table:name="Parts"><table:table-row>{cell("part")}{blank}{cell("share")}'
        "</table:table-row>"
        f'<table:table-row table:number-rows-repeated="2">{cell("gasket")}{blank}{cell("7.5 %")}'
        "</table:table-row>"
        f'<table:table-row table:number-rows-repeated="1048570">{blank}</table:table-row>'
        f'<table:table-row><table:table-cell office:string-value="end">{comment}</table:table-cell>'
        "</table:table-row></table:table>"
        f'<table:table table:name="Old" table:style-name="H"><table:table-row>{cell("x")}'
        f"{fill}</table:table-row></table:table>"
    )
    assert extract(open_document("spreadsheet", body, hidden), ODS).parts == (
        Part(
            "| part | share |\n| --- | --- |\n| gasket | 7.5 % |\n| gasket | 7.5 % |\n| end |\n\n"
            "Comment on A1048574 by Ann: Why?",
            markdown=True,
            name="Parts",
        ),
        Part("(hidden sheet)\n\n| x | fill |\n| --- | --- |", markdown=True, name="Old"),
    )
