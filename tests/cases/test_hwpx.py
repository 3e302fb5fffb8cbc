"""Documents of Hancom Office (HWPX): paragraphs, tables and sections in order."""

import pytest

from ingestq.core.errors import DocumentRejected
from ingestq.core.paths import guess_media_type
from tests.office_files import archive
from worker.text.extract import extract

HANCOM = "http://www.hancom.co.kr/hwpml/2011"


def paragraph(text: str, content: str = "") -> str:
    return f"<hp:p><hp:run>{content}<hp:t>{text}</hp:t></hp:run></hp:p>"


def table(*rows: list[str]) -> str:
    written = "".join(
        "<hp:tr>"
        + "".join(
            f"<hp:tc><hp:subList>{''.join(map(paragraph, cell.split('/')))}</hp:subList>"
            f'<hp:cellAddr colAddr="{column}" rowAddr="{row}"/>'
            '<hp:cellSpan colSpan="1" rowSpan="1"/></hp:tc>'
            for column, cell in enumerate(cells)
        )
        + "</hp:tr>"
        for row, cells in enumerate(rows)
    )
    return f'<hp:tbl rowCnt="{len(rows)}" colCnt="{len(rows[0])}">{written}</hp:tbl>'


def section(*content: str) -> str:
    spaces = f'xmlns:hs="{HANCOM}/section" xmlns:hp="{HANCOM}/paragraph"'
    return f'<?xml version="1.0" encoding="UTF-8"?><hs:sec {spaces}>{"".join(content)}</hs:sec>'


def hwpx() -> bytes:
    fees = table(["품목", "수수료"], ["등본", "칠백 원"], ["사실 확인서", "이천 원/공휴일 제외"])
    items = "".join(
        f'<opf:item id="section{number}" href="Contents/section{number}.xml" '
        'media-type="application/xml"/>'
        for number in (0, 1)
    )
    return archive(
        {
            "mimetype": "application/hwp+zip",
            "version.xml": f'<hv:HCFVersion xmlns:hv="{HANCOM}/version"/>',
            "Contents/content.hpf": (
                '<opf:package xmlns:opf="http://www.idpf.org/2007/opf/"><opf:metadata>'
                "<opf:title>등대 지침</opf:title></opf:metadata><opf:manifest>"
                f'{items}</opf:manifest><opf:spine><opf:itemref idref="section0"/>'
                '<opf:itemref idref="section1"/></opf:spine></opf:package>'
            ),
            "Contents/section0.xml": section(
                paragraph("수수료를 정한다."), paragraph("", fees), paragraph("매표소에서 낸다.")
            ),
            "Contents/section1.xml": section(paragraph("부칙")),
        }
    )


@pytest.mark.parametrize("name", ["guide.hwpx", "renamed.hwp", "noextension"])
def test_sections_paragraphs_and_cells_are_in_order(name: str) -> None:
    extracted = extract(hwpx(), guess_media_type(name))
    assert extracted.title == "등대 지침"
    assert extracted.text.split("\n\n") == [
        "수수료를 정한다.",
        "| 품목 | 수수료 |\n| --- | --- |\n| 등본 | 칠백 원 |\n"
        "| 사실 확인서 | 이천 원 공휴일 제외 |",
        "매표소에서 낸다.",
        "부칙\n",
    ]


def test_a_broken_document_is_rejected_for_its_reason() -> None:
    claims = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2000)
    with pytest.raises(DocumentRejected) as caught:
        extract(claims, guess_media_type("broken.hwp"))
    assert str(caught.value) == "cannot be read as application/x-hwp: it is damaged or was cut off"
