"""Every chunk of a long table says what its columns are, and no row is lost or cut."""

import csv
import io
import zipfile
from collections.abc import Sequence

import pytest

from ingestq.core.documents import Document
from tests.unit.test_chunker import TOKENIZER, tokens
from worker.text.chunking.chunker import Chunker
from worker.text.chunking.context import SHARE
from worker.text.parts import Chunk, PreparedDocument
from worker.text.prepare import prepare

MAX_TOKENS = 254
chunker = Chunker(TOKENIZER, MAX_TOKENS)
COLUMNS = ("part", "description", "unit price EUR", "minimum stock", "warehouse")
HOUSES = ("Oslo", "Turku", "Gdynia")
SHEET = "Spare parts"

Rows = Sequence[Sequence[str]]


def rows(count: int) -> Rows:
    return [
        (f"GX-{1000 + i}", f"gasket type {i}", f"{i}.5", str(i % 40), HOUSES[i % 3])
        for i in range(count)
    ]


def as_csv(table: Rows) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows(table)
    return out.getvalue().encode()


def zipped(files: dict[str, str]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return data.getvalue()


OFFICE = "http://schemas.openxmlformats.org"
RELATION = f"{OFFICE}/officeDocument/2006/relationships"


def package(main: str, kind: str, files: dict[str, str]) -> bytes:
    """Return an Office file whose main part has the path ``main`` and the content type ``kind``."""
    types = f'<Override PartName="/{main}" ContentType="{kind}"/>'
    if "xl/worksheets/sheet1.xml" in files:
        sheet = "application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"
        types += f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{sheet}"/>'
    return zipped(
        {
            "[Content_Types].xml": (
                f'<Types xmlns="{OFFICE}/package/2006/content-types"><Default Extension="rels" '
                'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
                f'<Default Extension="xml" ContentType="application/xml"/>{types}</Types>'
            ),
            "_rels/.rels": (
                f'<Relationships xmlns="{OFFICE}/package/2006/relationships"><Relationship '
                f'Id="r1" Type="{RELATION}/officeDocument" Target="{main}"/></Relationships>'
            ),
            **files,
        }
    )


def as_docx(table: Rows) -> bytes:
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    cell = "<w:tc><w:p><w:r><w:t>{}</w:t></w:r></w:p></w:tc>"
    lines = ("".join(map(cell.format, row)) for row in table)
    body = "".join(f"<w:tr>{line}</w:tr>" for line in lines)
    title = f"<w:p><w:r><w:t>{SHEET}</w:t></w:r></w:p>"
    document = (
        f'<w:document xmlns:w="{OFFICE}/wordprocessingml/2006/main"><w:body>{title}'
        f"<w:tbl>{body}</w:tbl><w:p/></w:body></w:document>"
    )
    return package("word/document.xml", kind, {"word/document.xml": document})


def as_xlsx(table: Rows) -> bytes:
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"
    cell = '<c t="inlineStr"><is><t>{}</t></is></c>'
    lines = ("".join(map(cell.format, row)) for row in table)
    body = "".join(f"<row>{line}</row>" for line in lines)
    main = f"{OFFICE}/spreadsheetml/2006/main"
    workbook = (
        f'<workbook xmlns="{main}" xmlns:r="{RELATION}"><sheets>'
        f'<sheet name="{SHEET}" sheetId="1" r:id="s1"/></sheets></workbook>'
    )
    relations = (
        f'<Relationships xmlns="{OFFICE}/package/2006/relationships"><Relationship Id="s1" '
        f'Type="{RELATION}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>'
    )
    sheet = f'<worksheet xmlns="{main}"><sheetData>{body}</sheetData></worksheet>'
    files = {
        "xl/workbook.xml": workbook,
        "xl/_rels/workbook.xml.rels": relations,
        "xl/worksheets/sheet1.xml": sheet,
    }
    return package("xl/workbook.xml", kind, files)


KINDS = {
    "csv": (as_csv, "text/csv", 220),
    "xlsx": (
        as_xlsx,
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        220,
    ),
    "docx": (
        as_docx,
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        120,
    ),
}


@pytest.fixture(params=KINDS)
def table(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Chunk]:
    """The chunks of a long table in a file of each kind."""
    make, media_type, count = KINDS[request.param]
    path = tmp_path_factory.mktemp("table") / f"stock.{request.param}"
    path.write_bytes(make([COLUMNS, *rows(count)]))
    document = Document(
        doc_id="stock", version=1, source=str(path), path=str(path), media_type=media_type
    )
    prepared = prepare(document, None, 1 << 20, chunker, None)
    assert isinstance(prepared, PreparedDocument)
    return list(prepared.first.chunks)


def test_every_chunk_says_what_the_columns_are(table: list[Chunk]) -> None:
    assert len(table) > 10
    for chunk in table:
        header = next(line for line in chunk.body.splitlines() if line.startswith("|"))
        assert [cell.strip() for cell in header.strip("|").split("|")] == list(COLUMNS)
        assert tokens(chunk.embedded.text) <= MAX_TOKENS
        assert tokens(chunk.context) <= MAX_TOKENS // SHARE


def test_every_row_is_whole_and_in_one_chunk(table: list[Chunk]) -> None:
    lines = [line for chunk in table for line in chunk.body.splitlines() if "| GX-" in line]
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    assert cells == [list(row) for row in rows(len(lines))]
    assert len(lines) in (120, 220)


def test_every_chunk_says_which_document_it_is_from(table: list[Chunk]) -> None:
    names = ("stock", SHEET)
    assert all(any(name in chunk.embedded.text for name in names) for chunk in table)
