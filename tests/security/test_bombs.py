"""Small files that are made to exhaust a machine end alone, quickly, and with their true reason."""

import gzip
import io
import json
import os
import resource
import subprocess
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.command import Ingestq

PARENT_BYTES: Final = 1 << 30
"""The worker, with the model's tokenizer and clients, takes a third of it."""
PARSE_MEBIBYTES: Final = 1024
"""Half of the default, so that the suite is quick and fits into small machines."""
PROCESS_BYTES: Final = PARSE_MEBIBYTES << 20
SHARED_BYTES: Final = 512 << 20
"""Files that a process maps, such as libraries, count as its memory but not for its limit."""
SAMPLE_SECONDS: Final = 0.02
RUN_SECONDS: Final = 160.0
"""Processor time for all bombs together."""
HANG_SECONDS: Final = 1500.0
MEGABYTE: Final = 1_000_000

INDEXED: Final = ""
"""Instead of a reason: the bomb is harmless, and its text is found."""
MEMORY: Final = "needs more than 1,024 MiB of memory"
RATIO: Final = "unpacks to more than 200 times its size"
ENTITIES: Final = "entities expand to far more text"
LARGE: Final = "larger than 64 MiB"


class Bomb(NamedTuple):
    """A file, and the words of the reason to reject it; any of them will do."""

    name: str
    make: Callable[[], bytes]
    reasons: tuple[str, ...]
    slow: bool = False


def archive(parts: dict[str, bytes | str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for name, content in parts.items():
            packed.writestr(name, content)
    return file.getvalue()


def pdf(*objects: bytes) -> bytes:
    """Return a PDF of ``objects``; the first is its catalog."""
    out, offsets = bytearray(b"%PDF-1.7\n"), []
    for number, content in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(offsets) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<< /Size %d /Root 1 0 R >>\n" % (len(offsets) + 1)
    return bytes(out) + b"startxref\n%d\n%%%%EOF\n" % start


def stream(dictionary: bytes, content: bytes) -> bytes:
    return b"<< %s /Length %d >>\nstream\n%s\nendstream" % (dictionary, len(content), content)


def pdf_that_draws_itself(times: int = 2) -> bytes:
    resources = b"/Resources << /Font << /F 5 0 R >> /XObject << /X 6 0 R >> >>"
    draw = b"BT /F 12 Tf 9 9 Td (goose) Tj ET\n" + b"/X Do\n" * times
    return pdf(
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 99 99] /Contents 4 0 R %s >>" % resources,
        stream(b"", draw),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        stream(b"/Type /XObject /Subtype /Form /BBox [0 0 99 99] " + resources, draw),
    )


def pdf_with_a_loop_of_pages() -> bytes:
    return pdf(
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 2 >>",
    )


def pdf_that_inflates() -> bytes:
    """Return a page whose content was compressed twice: 2 kB become 300 MB."""
    drawing = b"BT /F 12 Tf 9 9 Td (goose) Tj ET\n" * 9 * MEGABYTE
    content = zlib.compress(zlib.compress(drawing, 9), 9)
    return pdf(
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 99 99] /Contents 4 0 R "
        b"/Resources << /Font << /F 5 0 R >> >> >>",
        stream(b"/Filter [/FlateDecode /FlateDecode]", content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )


EPUB_PARTS: Final[dict[str, bytes | str]] = {
    "mimetype": "application/epub+zip",
    "META-INF/container.xml": (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="c.opf" media-type="application/oebps-package+xml"/>'
        "</rootfiles></container>"
    ),
    "c.opf": (
        '<package xmlns="http://www.idpf.org/2007/opf"><metadata/><manifest>'
        '<item id="a" href="a.xhtml" media-type="application/xhtml+xml"/></manifest>'
        "<spine>" + '<itemref idref="a"/>' * 2000 + "</spine></package>"
    ),
}


def epub(chapter: str) -> bytes:
    page = f'<html xmlns="http://www.w3.org/1999/xhtml"><body>{chapter}</body></html>'
    return archive(EPUB_PARTS | {"a.xhtml": page})


def random_words(characters: int) -> str:
    return os.urandom(characters // 2).hex()


def odt(body: str) -> bytes:
    content = (
        '<office:document-content xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" '
        'xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0" '
        'xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0">'
        f"<office:body><office:text>{body}</office:text></office:body></office:document-content>"
    )
    return archive({"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": content})


def odt_with_repeated_cells() -> bytes:
    repeated = 'table:number-columns-repeated="16384"'
    row = f'<table:table-row table:number-rows-repeated="1048576"><table:table-cell {repeated}>'
    cell = f"{row}<text:p>goose</text:p></table:table-cell></table:table-row>"
    return odt(f"<table:table>{cell}</table:table>")


SHEET: Final = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
PACKAGE: Final = "http://schemas.openxmlformats.org/package/2006"
OFFICE: Final = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def workbook(rows: str, dimension: str = "", shared: str = "") -> bytes:
    parts: dict[str, bytes | str] = {
        "[Content_Types].xml": (
            f'<Types xmlns="{PACKAGE}/content-types"><Default Extension="rels" ContentType='
            '"application/vnd.openxmlformats-package.relationships+xml"/><Default Extension="xml" '
            'ContentType="application/xml"/><Override PartName="/xl/workbook.xml" ContentType='
            '"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/></Types>'
        ),
        "_rels/.rels": (
            f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="r" '
            f'Target="xl/workbook.xml" Type="{OFFICE}/officeDocument"/></Relationships>'
        ),
        "xl/_rels/workbook.xml.rels": (
            f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="r1" '
            f'Target="worksheets/sheet1.xml" Type="{OFFICE}/worksheet"/><Relationship Id="r2" '
            f'Target="sharedStrings.xml" Type="{OFFICE}/sharedStrings"/></Relationships>'
        ),
        "xl/workbook.xml": (
            f'<workbook xmlns="{SHEET}" xmlns:r="{OFFICE}"><sheets>'
            '<sheet name="Birds" sheetId="1" r:id="r1"/></sheets></workbook>'
        ),
        "xl/worksheets/sheet1.xml": (
            f'<worksheet xmlns="{SHEET}">{dimension}<sheetData>{rows}</sheetData></worksheet>'
        ),
        "xl/sharedStrings.xml": f'<sst xmlns="{SHEET}">{shared}</sst>',
    }
    return archive(parts)


def cell(place: str, text: str) -> str:
    row = place.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    return f'<row r="{row}"><c r="{place}" t="inlineStr"><is><t>{text}</t></is></c></row>'


def far_cell(place: str) -> bytes:
    return workbook(cell("A1", "thirty-four geese") + cell(place, "stray"))


def docx(content: str) -> bytes:
    word = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    document = f'<w:document xmlns:w="{word}"><w:body>{content}</w:body></w:document>'
    return archive(
        {
            "[Content_Types].xml": (
                f'<Types xmlns="{PACKAGE}/content-types"><Default Extension="rels" ContentType='
                '"application/vnd.openxmlformats-package.relationships+xml"/><Override PartName='
                '"/word/document.xml" ContentType="application/vnd.openxmlformats-officedocument.'
                'wordprocessingml.document.main+xml"/></Types>'
            ),
            "_rels/.rels": (
                f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="r" '
                f'Target="word/document.xml" Type="{OFFICE}/officeDocument"/></Relationships>'
            ),
            "word/document.xml": document,
        }
    )


def zip_in_zip(levels: int) -> bytes:
    data = archive({f"{i}.txt": b"\0" * MEGABYTE for i in range(10)})
    for _ in range(levels):
        data = archive({f"{i}.zip": data for i in range(10)})
    return data


def entities(root: str) -> bytes:
    doctype = '<?xml version="1.0"?><!DOCTYPE r [<!ENTITY e0 "goose">'
    for level in range(1, 10):
        doctype += f'<!ENTITY e{level} "{f"&e{level - 1};" * 10}">'
    return f"{doctype}]>{root}".encode()


def nested_html(levels: int) -> bytes:
    page = "<div>" * levels + "The deep page tells of a heron." + "</div>" * levels
    return f"<html><body>{page}</body></html>".encode()


def nested_mail(levels: int) -> bytes:
    mail = b"From: a@b.example\r\nSubject: Herons\r\nMIME-Version: 1.0\r\n"
    for level in range(levels):
        mail += b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (level, level)
    mail += b"Content-Type: text/plain\r\n\r\nThe deep mail tells of a heron.\r\n"
    return mail + b"".join(b"--b%d--\r\n" % level for level in reversed(range(levels)))


BOMBS: Final = (
    Bomb("draws-itself.pdf", pdf_that_draws_itself, (MEMORY,)),
    Bomb("pages-loop.pdf", pdf_with_a_loop_of_pages, ("cannot be read",)),
    Bomb("inflates.pdf", pdf_that_inflates, (MEMORY,), slow=True),
    Bomb("expands.epub", lambda: epub(f"<p>{random_words(MEGABYTE)}</p>"), (INDEXED,)),
    Bomb("ratio.epub", lambda: epub("goose " * 10 * MEGABYTE), (RATIO,)),
    Bomb("deep.epub", lambda: epub("<b>" * 5000 + "heron"), (INDEXED,)),
    Bomb("cells.odt", odt_with_repeated_cells, (INDEXED,)),
    Bomb("spaces.odt", lambda: odt('<text:p>a<text:s text:c="2000000000"/>b</text:p>'), (INDEXED,)),
    Bomb(
        "deep.odt",
        lambda: odt("<text:p>" + "<text:span>" * 100_000 + random_words(MEGABYTE)),
        ("crashed", "nested"),
    ),
    Bomb("expands.odt", lambda: odt("<text:p>goose</text:p>" * 3 * MEGABYTE), (RATIO,)),
    Bomb("far-ZZ10000.xlsx", lambda: far_cell("ZZ10000"), (INDEXED,)),
    Bomb("far-ZZ60000.xlsx", lambda: far_cell("ZZ60000"), (INDEXED,)),
    Bomb("far-corner.xlsx", lambda: far_cell("XFD1048576"), (INDEXED,)),
    Bomb("far-row.xlsx", lambda: far_cell("A1048576"), (INDEXED,)),
    Bomb(
        "dimension.xlsx",
        lambda: workbook(cell("A1", "thirty-four geese"), '<dimension ref="A1:XFD1048576"/>'),
        (INDEXED,),
    ),
    Bomb(
        "strings.xlsx",
        lambda: workbook(cell("A1", "geese"), "", "<si><t>goose</t></si>" * 3 * MEGABYTE),
        (RATIO, MEMORY),
    ),
    Bomb("xml.docx", lambda: docx("<w:p><w:r><w:t>goose</w:t></w:r></w:p>" * 1_600_000), (RATIO,)),
    Bomb("deep.docx", lambda: docx("<w:tbl><w:tr><w:tc>" * 5000 + "heron"), ("nested",)),
    Bomb("ratio.zip", lambda: archive({"a.txt": b"goose " * 20 * MEGABYTE}), (RATIO,)),
    Bomb("nested.zip", lambda: zip_in_zip(4), (RATIO,)),
    Bomb("flat.gz", lambda: gzip.compress(b"goose " * 50 * MEGABYTE), (RATIO, LARGE)),
    Bomb("entities.xml", lambda: entities("<r>geese &e9;</r>"), (ENTITIES,)),
    Bomb(
        "entities.svg",
        lambda: entities('<svg xmlns="http://www.w3.org/2000/svg"><text>geese &e9;</text></svg>'),
        (ENTITIES,),
    ),
    Bomb("deep.xml", lambda: b"<a>" * 100_000 + b"heron", ("nested",)),
    Bomb("deep-62.html", lambda: nested_html(62), (INDEXED,)),
    Bomb("deep-5000.html", lambda: nested_html(5000), (INDEXED,)),
    Bomb("titles.html", lambda: b"<title>" * (2 * MEGABYTE // 7), (INDEXED,)),
    Bomb("deep.json", lambda: b'{"heron":' * 20_000 + b"1" + b"}" * 20_000, (INDEXED,)),
    Bomb(
        "deep.rtf", lambda: b"{\\rtf1 " + b"{" * MEGABYTE + b"heron" + b"}" * MEGABYTE, (INDEXED,)
    ),
    Bomb("deep.eml", lambda: nested_mail(1000), (INDEXED,)),
    Bomb("deep.ipynb", lambda: b'{"cells":' + b"[" * 100_000, (INDEXED,)),
    Bomb("zero-width.txt", lambda: "\u200b".encode() * MEGABYTE, (INDEXED,)),
    Bomb(
        "zero-width-words.txt",
        lambda: "\u200b ".encode() * MEGABYTE,
        (INDEXED,),
        slow=True,
    ),
    Bomb("columns.csv", lambda: b"a," * MEGABYTE + b"a\n1,2\n", (INDEXED,), slow=True),
)


class Peaks(NamedTuple):
    """The most memory that the command, and each process that it started, has used."""

    parent: int
    children: dict[int, int]


def watch(process: subprocess.Popen[str], ended: threading.Event) -> Peaks:
    """Sample the memory of a command and of all its processes until ``ended``."""
    peaks: dict[int, int] = {}
    while not ended.wait(SAMPLE_SECONDS):
        for pid in descendants(process.pid):
            peaks[pid] = max(peaks.get(pid, 0), peak_of(pid))
    return Peaks(peaks.pop(process.pid, 0), peaks)


def descendants(pid: int) -> Iterator[int]:
    """Yield ``pid``, and the processes that it and its children have started."""
    yield pid
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            for child in listed.read_text(encoding="ascii").split():
                yield from descendants(int(child))


def peak_of(pid: int) -> int:
    """Return the peak of a process's memory in bytes; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(lines.get("VmHWM", "0 kB").split()[0]) * 1024


def neighbour(number: int) -> str:
    return f"Neighbour {number} tells of a goose that is as good as any other."


def run_with(bombs: tuple[Bomb, ...], ingestq: Ingestq, folder: Path) -> tuple[Any, Peaks]:
    """Index ``bombs`` between neighbours; return the summary and the peaks."""
    folder.mkdir()
    for number, bomb in enumerate(bombs):
        (folder / f"{number:02}-{bomb.name}").write_bytes(bomb.make())
        (folder / f"{number:02}-neighbour.txt").write_text(neighbour(number), encoding="utf-8")
    ingestq.settings["parse_memory_bytes"] = str(PROCESS_BYTES)
    ended, peaks, before = threading.Event(), [], seconds_of_children()
    process = ingestq.start("run", folder, "--json")
    watching = threading.Thread(target=lambda: peaks.append(watch(process, ended)))
    watching.start()
    try:
        out, err = process.communicate(timeout=HANG_SECONDS)
    finally:
        ended.set()
        process.kill()
        watching.join()
    assert process.returncode == 1, err
    assert "Traceback" not in err
    assert seconds_of_children() - before < RUN_SECONDS
    return json.loads(out), peaks[0]


def seconds_of_children() -> float:
    """Return the processor time of all processes that have ended, and were started by this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def is_expected(bomb: Bomb, reason: str | None) -> bool:
    """Return True if ``bomb`` may be rejected for ``reason``; None if it was indexed."""
    if reason is None:
        return INDEXED in bomb.reasons
    return any(words in reason for words in bomb.reasons if words != INDEXED)


def assert_contained(bombs: tuple[Bomb, ...], ingestq: Ingestq, folder: Path) -> None:
    summary, peaks = run_with(bombs, ingestq, folder)
    reasons = {
        Path(letter["doc_id"]).name.partition("-")[2]: letter["reason"]
        for letter in summary["dead_letters"]
    }
    wrong = {
        bomb.name: reasons.get(bomb.name, "indexed")
        for bomb in bombs
        if not is_expected(bomb, reasons.get(bomb.name))
    }
    assert wrong == {}
    assert "neighbour.txt" not in reasons
    assert summary["documents"]["rejected"] == len(reasons)
    assert summary["documents"]["indexed"] == 2 * len(bombs) - len(reasons)
    assert peaks.parent < PARENT_BYTES
    assert peaks.children
    assert max(peaks.children.values()) < PROCESS_BYTES + SHARED_BYTES


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_bombs_end_alone_and_for_their_true_reason(ingestq: Ingestq, tmp_path: Path) -> None:
    assert_contained(tuple(b for b in BOMBS if not b.slow), ingestq, tmp_path / "files")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_slow_bombs_end_alone_and_for_their_true_reason(ingestq: Ingestq, tmp_path: Path) -> None:
    assert_contained(tuple(b for b in BOMBS if b.slow), ingestq, tmp_path / "files")
