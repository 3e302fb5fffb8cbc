"""Small files of every kind that ingestion tools stumble over, as programs write them."""

import gzip
import unicodedata
from collections.abc import Sequence
from email.message import EmailMessage
from pathlib import Path
from typing import Final

import openpyxl

from tests.cases import (
    test_archives,
    test_hwpx,
    test_notebooks,
    test_outlook,
    test_slides,
    test_tables,
)
from tests.cases.test_word import CHANGED, deleted, inserted, run, xml
from tests.cases.test_workbooks import saved
from tests.cases.test_wrong_suffix import EXCEL_PAGE, PAGE, ROWS, RTF, SAVED_PAGE, pdf, word
from tests.compound_files import compound
from tests.office_files import NAMESPACES, docx, open_document, paragraph, word_table
from tests.pdf_files import lines_of, write_pdf
from tests.security.test_bombs import EPUB_PARTS, archive, entities, far_cell, nested_html

LAYOUT: Final = Path(__file__).parent / "pdf_layout"
HEAD: Final = 64 * 1024
"""So many first bytes of a text say nothing of its encoding."""
IDENTIFIERS: Final = (
    "Set max_document_bytes to 900 before ORD_2026_00417 is packed.",
    "The file __init__.py of C# build *nightly* has tag [rel-7] and generic List<Berth>.",
    "Part no. #A-55*2 costs ~12 at depot_9.",
)
RULES: Final = (
    "If pressure < 4 bar and flow > 9 litres then close valve V3.",
    "Write to <ops@example.org>, the limit is x <= 12 >= 3.",
    "Use Map<Key, Value> here. A <b>literal</b> tag.",
)
NAMES: Final = (
    "-rf.txt",
    "50%25 off#1?.txt",
    'it\'s "quoted".txt',
    "tab\tname.txt",
    "trailing space .txt ",
    f"{'가' * 80}.txt",
    "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{EAR OF RICE} plan.txt",
)


def all_files() -> dict[str, bytes]:
    """Return the files by their names."""
    kinds = (plain_texts, tables, documents, disguised, mails, archives, named)
    layout = {path.name: path.read_bytes() for path in LAYOUT.iterdir()}
    return layout | {name: data for kind in kinds for name, data in kind().items()}


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def plain_texts() -> dict[str, bytes]:
    log = "2026-02-02 INFO started\n".ljust(HEAD, "\n")
    korean_log = "".join(f"{n}월에는 {n}번 펌프의 굴림대를 갈았다.\n" for n in range(1, 13))
    bar = "".join(f"\r\x1b[K{n:3}% [{'#' * n:100}]" for n in range(0, 101, 2))
    return {
        "short-ko.txt": "정기 소독은 금요일 오후 세 시에 시작합니다.\r\n".encode("cp949"),
        "long-ko.txt": ("a" + "\u3000" * HEAD + "예비 열쇠는 초록 서랍에 있다.").encode("cp949"),
        "rare-ko.txt": "똠방각하 연극표와 펲시 음료는 뷁홀 앞에서 팝니다.\r\n".encode("cp949"),
        "short-ja.txt": "会議室の鍵は受付の青い箱にあります。\r\n".encode("cp932"),
        "short-zh-hans.txt": "仓库的备用钥匙放在绿色抽屉里。\r\n".encode("gb18030"),
        "short-zh-hant.txt": "颱風來時請關閉陽臺的門窗。\r\n".encode("cp950"),
        "tail-ko.log": (log + "야간 교대: 삼번 냉각기에서 물이 샌다.\n" * 3).encode("cp949"),
        "tail-de.log": (log + "Nachtschicht: Rüttler verliert Öl.\n" * 3).encode("cp1252"),
        "tail-ja.log": (log + "夜勤の記録:三号機の冷却水が漏れる。\n" * 3).encode("cp932"),
        "rotated.log": korean_log.encode()[2:],
        "stray.log": "Öldruck größer\n".encode() * 5 + b"Der K\xfchler und die Tr\xf6te\n",
        "colours.log": b"\x1b[2m2026\x1b[0m \x1b[1;31mERROR\x1b[0m: \x1b[35mLX-77120\x1b[0m\n",
        "progress.log": f"Downloading{bar}\n\x1b[32mFinished kestrel-7.4.1\x1b[0m\n".encode(),
        nfd("회의록-봄.txt"): nfd("수경재배 온실의 양액 농도는 매주 잰다.").encode(),
        nfd("Größen.txt"): nfd("Die Schlüsselgröße für den Fräser ist siebzehn.").encode(),
        "width.txt": "型番ＡＢＣ－１２３４の予備品は㍿青葉から。ﾎﾞﾙﾄは別便です。".encode(),
    }


def tables() -> dict[str, bytes]:
    korean = '품번,품명,비고\r\nA-1001,스테인리스 볼트,"두 줄\r\n이다"\r\nA-1002,패킹|고무,지하\r\n'
    rows = test_tables.rows(60)
    bolts = [[f"KB-{n}", f"{n}"] for n in range(500, 580)]
    book = openpyxl.Workbook()
    book.worksheets[0].title = "Spare parts"
    for row in (test_tables.COLUMNS, *rows):
        book.worksheets[0].append(list(row))
    book.create_sheet("Boats").append(["Albatross", "north mole"])
    return {
        "excel-ko.csv": korean.encode("cp949"),
        "excel-de.csv": "Artikel;Ort\r\nC-3001;Behälter Öl|Fett\r\n".encode("cp1252"),
        "excel-ja.csv": "品番,品名\r\nB-2001,六角ボルト\r\n".encode("cp932"),
        "unicode.csv": "번호\t제목\r\n501\t배관 누수 신고\r\n".encode("utf-16"),
        "long.csv": test_tables.as_csv([test_tables.COLUMNS, *rows]),
        "long.xlsx": saved(book),
        "long.docx": docx(word_table(["bolt", "torque Nm"], *bolts)),
        "far.xlsx": far_cell("XFD1048576"),
        "far-neighbour.txt": b"The other file of this folder tells of a bittern.",
    }


def documents() -> dict[str, bytes]:
    moved = run("Oars are kept in the loft.")
    lease = (
        paragraph("The rent is ", deleted("fourscore"), inserted("ninety"), " crowns.")
        + paragraph(deleted("Subletting is allowed."))
        + paragraph(f"<w:moveFrom {CHANGED}>{moved}</w:moveFrom>")
        + paragraph(f"<w:moveTo {CHANGED}>{moved}</w:moveTo>")
        + paragraph("Lamp: ", run("wick in the cellar", "<w:vanish/>"))
        + paragraph(
            "<w:sdt><w:sdtContent>"
            + run("A storm lantern hangs there.")
            + "</w:sdtContent></w:sdt>",
            '<w:r><w:commentReference w:id="0"/></w:r>',
        )
    )
    remark = (
        f'<w:comment w:id="0" w:author="Ann">{paragraph("Is the slipway included?")}</w:comment>'
    )
    box = f"<w:txbxContent>{paragraph('Never touch the mercury bath.')}</w:txbxContent>"
    inspection = (
        paragraph(
            "The lens was cleaned.",
            '<w:r><w:footnoteReference w:id="2"/></w:r>',
            '<w:r><w:endnoteReference w:id="2"/></w:r>',
        )
        + paragraph(
            "<w:r><mc:AlternateContent>"
            f'<mc:Choice Requires="wps"><w:drawing><wps:txbx>{box}</wps:txbx></w:drawing>'
            "</mc:Choice>"
            f"<mc:Fallback><w:pict><v:textbox>{box}</v:textbox></w:pict></mc:Fallback>"
            "</mc:AlternateContent></w:r>"
        )
        + paragraph(
            "<w:r><w:t>Spare TX</w:t><w:noBreakHyphen/><w:t>88</w:t><w:br/><w:t>wrench</w:t></w:r>"
        )
        + word_table(
            ["Lamp", "Verdict"],
            ["North", f"<w:tc>{word_table(['innermost', 'reflector'])}<w:p/></w:tc>"],
        )
    )
    rules = [xml(line) for line in RULES]
    ids = [xml(line) for line in IDENTIFIERS]
    book = openpyxl.Workbook()
    for line in IDENTIFIERS:
        book.worksheets[0].append(["row", line])
    mail = EmailMessage()
    mail["Subject"] = "ids"
    mail.set_content("\n".join(IDENTIFIERS))
    return {
        "lease.docx": docx(lease, comments=remark),
        "inspection.docx": docx(
            inspection,
            header=paragraph("Classification: amber"),
            footer=paragraph("Issued by the lighthouse board"),
            footnotes=f'<w:footnote w:id="2">{paragraph("Vinegar was used.")}</w:footnote>',
            endnotes=f'<w:endnote w:id="2">{paragraph("See the annexe.")}</w:endnote>',
        ),
        "rules.docx": docx("".join(map(paragraph, rules))),
        "rules.odt": odt(rules),
        "rules.pptx": pptx(rules),
        "ids.docx": docx("".join(map(paragraph, ids))),
        "ids.odt": odt(ids),
        "ids.xlsx": saved(book),
        "ids.pptx": pptx(ids),
        "ids.html": "".join(f"<p>{line}</p>" for line in ids).encode(),
        "ids.rtf": ("{\\rtf1 " + "\\par ".join(IDENTIFIERS) + "}").encode(),
        "ids.eml": mail.as_bytes(),
        "harvest.pptx": slides(),
        "guide.hwpx": test_hwpx.hwpx(),
        "tide.ipynb": notebook(),
    }


def odt(lines: Sequence[str]) -> bytes:
    return open_document("text", "".join(f"<text:p>{line}</text:p>" for line in lines))


def pptx(lines: Sequence[str]) -> bytes:
    return test_slides.presentation(test_slides.slide(test_slides.shape(*lines)))


def slides() -> bytes:
    shape, slide, group = test_slides.shape, test_slides.slide, test_slides.group
    notes = slide(shape("The barge is booked for the ninth.", kind="body"), root="notes")
    points = "<dgm:pt><dgm:t><a:p><a:r><a:t>Thatch the ridge</a:t></a:r></a:p></dgm:t></dgm:pt>"
    return test_slides.presentation(
        slide(shape("Cut the reeds in October.")),
        slide(
            group(shape("Foreman Quill"), group(shape("Raft crew"))),
            shape("LEFTBOX"),
            shape("RIGHTBOX"),
        ),
        slide(test_slides.frame('<dgm:relIds r:dm="diagramData"/>')),
        slide(shape("The flooded ditch"), attributes='show="0"'),
        notesSlide=notes,
        diagramData=f"<dgm:dataModel {NAMESPACES}>{points}</dgm:dataModel>",
    )


def notebook() -> bytes:
    picture = {"output_type": "display_data", "data": {"image/png": test_notebooks.PNG}}
    error = {"output_type": "error", "ename": "KeyError", "evalue": "'residuals'", "traceback": []}
    printed = {"output_type": "stream", "name": "stdout", "text": ["M2 amplitude 1.84 m\n"]}
    return test_notebooks.notebook(
        {"cell_type": "markdown", "source": "The harmonic constants of the *Marrow* gauge."},
        test_notebooks.code("fit(gauge)", printed, picture, error),
    )


def disguised() -> dict[str, bytes]:
    return {
        "report.xls": EXCEL_PAGE.encode(),
        "tabs.xls": ROWS.encode(),
        "letter.doc": RTF.encode(),
        "saved-page.doc": SAVED_PAGE.encode(),
        "really-docx.doc": word(),
        "download.pdf": PAGE.replace("The loft", "The aviary").encode(),
        "events.json": b'{"door": "north gate"}\n{"door": "gatehouse"}\n',
        "pdf-in-disguise.txt": pdf(),
        "PAGE.HTM": PAGE.replace("The loft", "The dovecote").encode(),
        "renamed.hwp": test_hwpx.hwpx(),
        "broken.hwp": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2000),
    }


def mails() -> dict[str, bytes]:
    def letter(subject: str, text: str) -> EmailMessage:
        message = EmailMessage()
        message["Subject"], message["From"] = subject, "Mira <mira@example.org>"
        message["Date"] = "Wed, 04 Mar 2026 10:00:00 +0100"
        message.set_content(text)
        return message

    crane = letter("Crane papers", "The crane papers are attached.")
    crane.add_alternative("<p>The crane papers are <b>attached</b>.", subtype="html")
    crane.add_attachment("Grease the slewing ring.", filename="checklist.txt")
    certificate = write_pdf(
        [lines_of("Certificate TK-4471."), lines_of("The hook holds nine tonnes.")]
    )
    crane.add_attachment(certificate, "application", "pdf", filename="certificate.pdf")
    crane.add_attachment(
        docx(paragraph("The cabin heater is broken.")),
        "application",
        "octet-stream",
        filename="별첨.docx",
    )
    crane.add_attachment(letter("Jib light", "The jib light flickers."))
    korean = EmailMessage()
    korean["Subject"] = "난방 고장 안내"
    korean.set_content(
        "삼층 난방이 고장났습니다. 기사 방문은 화요일입니다.", charset="euc-kr", cte="base64"
    )
    page = letter("Pipes", "")
    page.set_content(
        "<style>p{margin:0}</style><p>Die Röhren kommen am Donnerstag.",
        subtype="html",
        cte="quoted-printable",
    )
    mailbox = (
        b"From a Wed Mar  4 10:00:00 2026\nSubject: First\n\nThe winch is oiled.\n\n"
        b"From b Thu Mar  5 10:00:00 2026\nSubject: Second\n\nThe davit is painted.\n"
    )
    attached = test_outlook.attachment(
        b"The bosun is ashore.", test_outlook.text("3707", "who.txt")
    )
    outlook = compound(test_outlook.message("Capstan", "The capstan squeaks.", [attached]))
    return {
        "crane.eml": crane.as_bytes(),
        "korean.eml": korean.as_bytes(),
        "html-only.eml": page.as_bytes(),
        "two.mbox": mailbox,
        "outlook.msg": outlook,
    }


def archives() -> dict[str, bytes]:
    papers = archive(
        {
            "a/notes.txt": "The mule is shod on Fridays.",
            "c/cert.pdf": write_pdf([lines_of("The bridle is new.")]),
            "d/한글.txt": "안장은 마구간에 있다.",
        }
    )
    chapters = {
        "a.xhtml": "<html><body><h1>Oats</h1><p>Mules like porridge.</p></body></html>",
        "c.opf": EPUB_PARTS["c.opf"],
    }
    return {
        "papers.zip": papers,
        "nested.zip": archive({"inner.zip": archive({"deep/note.txt": "The saddle is dry."})}),
        "bomb.zip": archive({"zeros.txt": b"\0" * 40_000_000}),
        "bundle.tar.gz": test_archives.tar({"n.txt": b"The hay is stored."}, "w:gz"),
        "old.log.gz": gzip.compress(b"The portcullis jammed."),
        "book.epub": archive(EPUB_PARTS | chapters),
        "laughs.xml": entities("<r>geese &e9;</r>"),
        "loop.pdf": b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages"
        b"/Kids[2 0 R]/Count 1>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
        "deep.html": nested_html(5000).replace(b"heron", b"lichen"),
    }


def named() -> dict[str, bytes]:
    copies = dict.fromkeys(("a/Copy.txt", "b/Copy.txt"), b"The otter survey of the lower river.")
    return copies | {
        name: f"Hedgehog number{number} has an odd name.".encode()
        for number, name in enumerate(NAMES)
    }
