"""What a PDF says is what is extracted: pages in reading order, complete, and as written."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestq.core.errors import DocumentRejected
from tests.pdf_files import PdfPage, encrypted_pdf, lines_of, write_pdf
from worker.text.extract import extract
from worker.text.formats import pdf_page
from worker.text.parts import INSIDE, ExtractedDocument

LAYOUT = Path(__file__).parent / "pdf_layout"
MILL = (
    "The keeper of the tide mill writes the level of the pond into a book each",
    "morning before the gates are opened, and again at night when they are shut.",
)


def read(data: bytes) -> ExtractedDocument:
    return extract(data, "application/pdf")


def read_file(name: str) -> ExtractedDocument:
    extracted = read((LAYOUT / name).read_bytes())
    assert extracted.warnings == ()
    return extracted


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def test_columns_are_read_one_after_the_other_and_hyphenated_words_joined() -> None:
    [page] = read_file("two-columns.pdf").parts
    assert "Their photosynthesis feeds the root zone" in page.text
    assert page.text.count("nitrogen") == 1
    assert page.text.index("one house.") < page.text.index("Harvest is in winter")


def test_cells_of_tables_stay_in_their_rows() -> None:
    assert "| Lorry | 11.00 | 14.00 | 19.90 |" in read_file("table.pdf").text
    text = read_file("list-and-ruled-table.pdf").text
    assert "| South | 3.90 | 30 |" in text
    assert text.index("The gate closes at ten") < text.index("After the table")
    assert "Lamp oil, two cans" in text


def test_headers_and_footers_are_kept_once() -> None:
    pages = read_file("running-header.pdf").parts
    assert [page.page for page in pages] == [1, 2, 3, 4, 5, 6]
    text = "\n".join(page.text for page in pages)
    assert text.count("Marsh Authority - internal - draft 7") == 1
    assert len(re.findall(r"Page \d of 6", text)) == 1
    for number, page in enumerate(pages, 1):
        found = re.findall(r"Sentence (\d)\.(\d+) says", page.text)
        assert found == [(str(number), str(sentence)) for sentence in range(20)]


def test_a_line_that_repeats_inside_pages_stays() -> None:
    body = [f"Line {line} of the form." for line in range(4)]
    forms = [lines_of(*body, "Seen by the harbour master.", *body) for _ in range(4)]
    pages = read(write_pdf(forms)).parts
    assert all("Seen by the harbour master." in page.text for page in pages)


@pytest.mark.parametrize("name", ["rotated-270.pdf", "rotated-landscape.pdf", "upright-lines.pdf"])
def test_turned_pages_are_read_from_the_first_line_to_the_last(name: str) -> None:
    text = " ".join(read_file(name).text.split())
    sentences = [
        "The ferry between the island and the mainland leaves at six in the morning.",
        "Passengers with bicycles wait behind the yellow line until the cars are aboard.",
        "Coins are changed at the kiosk, notes above fifty are not.",
    ]
    places = [text.find(sentence) for sentence in sentences]
    assert -1 not in places
    assert places == sorted(places)


def test_no_line_of_a_turned_page_is_lost() -> None:
    first, second = read_file("rotated.pdf").parts
    assert first.text.index("gauge reads seven") < first.text.index("warden Ottoline")
    assert "Sideways text: stock of peat is low." in second.text


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_text_of_any_turn_is_the_same(turn: int) -> None:
    page = PdfPage(lines_of(*MILL), rotate=turn)
    assert words(read(write_pdf([page])).text) == words(" ".join(MILL))


def test_korean_keeps_its_spaces() -> None:
    text = read_file("korean-cid.pdf").text
    assert "갈대밭의 수위는 매일 아침 여섯 시에 잰다." in text
    assert "수문 열쇠는 관리실 금고에 있다." in text
    assert "水門の鍵は管理室の金庫にあります。" in text


def test_words_that_are_drawn_one_by_one_are_separate() -> None:
    expected = "Every word of this line was placed by itself without any space character"
    assert read_file("word-by-word.pdf").text.strip() == expected


def test_identifiers_stay_as_they_are_written() -> None:
    text = read_file("identifiers.pdf").text
    for written in ("ORD_2026_00417", "__init__.py", "C#", "*nightly*", "[rel-7]", "List<Berth>"):
        assert written in text
    assert "#A-55*2 costs ~12 at depot_9." in text
    assert "\\" not in text


def test_backslashes_stay_as_they_are_written() -> None:
    written = r"Copy C:\temp\_new\#1 to \\server\share and match \<word\> or 5\*3."
    assert written in " ".join(read(write_pdf([lines_of(written)])).text.split())


def test_ligatures_and_soft_hyphens_are_letters() -> None:
    ligatures = "<</Type/Encoding/BaseEncoding/WinAnsiEncoding/Differences[1/fi/fl]>>"
    page = lines_of("The of\x01ce and the \x02oor are \x01ne; sub\xadstance.")
    text = read(write_pdf([page], encoding=ligatures)).text
    assert "office and the floor are fine; substance." in text


def test_text_below_a_scan_is_read_once() -> None:
    drawn = lines_of("The heron stands in the reeds.", "Forty-one gannets were counted.")
    below = drawn.replace("BT", "BT 3 Tr")
    assert words(read(write_pdf([below])).text).count("heron") == 1


def test_form_values_and_comments_are_read_with_their_page() -> None:
    field = "/Type/Annot/Subtype/Widget/FT/Tx/T(boat)/V(Guillemot)/Rect[200 770 400 790]"
    pages = [
        PdfPage(lines_of("Name of the boat:")),
        PdfPage(
            lines_of(*MILL),
            annotations=[
                "/Subtype/FreeText/Rect[60 500 300 530]/Contents(Valid until May)/DA(/F 9 Tf)",
                "/Subtype/Text/Rect[300 600 320 620]/Contents(Ask the miller)/T(Mara)",
                "/Subtype/Highlight/Rect[60 770 200 790]/QuadPoints[60 790 200 790 60 770 200 770]"
                "/Contents(This is the rule)",
            ],
        ),
    ]
    first, second = read(write_pdf(pages, fields=[field])).parts
    assert "boat: Guillemot" in first.text
    for written in ("Valid until May", "Mara: Ask the miller", "This is the rule"):
        assert written in second.text


def test_the_title_is_that_of_the_metadata() -> None:
    assert read(write_pdf([lines_of(*MILL)], title="The mill book")).title == "The mill book"
    assert read(write_pdf([lines_of(*MILL)], title="untitled")).title is None
    assert read(write_pdf([lines_of(*MILL)])).title is None


def test_attachments_are_parts_with_their_names() -> None:
    inner = write_pdf(
        [lines_of("The inner one says cormorant.")], attachments=[("deep.txt", b"Deep water.")]
    )
    extracted = read(
        write_pdf(
            [lines_of(*MILL)],
            attachments=[
                ("tariff.txt", b"The toll is nine pence."),
                ("inner.pdf", inner),
                ("data.bin", bytes(range(256))),
            ],
        )
    )
    named = {part.name: part for part in extracted.parts}
    assert named["tariff.txt"].text == "The toll is nine pence."
    assert "cormorant" in named["inner.pdf"].text
    assert named[f"inner.pdf{INSIDE}deep.txt"].text == "Deep water."
    [warning] = extracted.warnings
    assert "'data.bin' was skipped: it is binary data" in warning


def test_a_page_that_cannot_be_read_is_a_warning() -> None:
    data = write_pdf([lines_of(*MILL), lines_of("Lost."), lines_of("The last names Ottoline.")])
    kids = re.search(rb"/Kids\[(\d+ 0 R) (\d+ 0 R) ", data)
    assert kids is not None
    catalog = b"1 0 R".ljust(len(kids[2]))
    extracted = read(data.replace(kids[0], kids[0].replace(kids[2], catalog)))
    assert "tide mill" in extracted.parts[0].text
    assert "Ottoline" in extracted.parts[-1].text
    assert extracted.warnings == ("1 of 3 pages cannot be read: 2",)


def test_a_file_that_was_cut_off_is_read_with_a_warning() -> None:
    extracted = read(write_pdf([lines_of(*MILL)])[:-200])
    assert "tide mill" in extracted.text
    [warning] = extracted.warnings
    assert "was cut off" in warning


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encrypted_pdf(), "encrypted; save it without a password"),
        (write_pdf([lines_of(*MILL)])[:300], "was cut off"),
        (
            b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
            b"2 0 obj<</Type/Pages/Kids[2 0 R]/Count 1>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
            "no readable page",
        ),
    ],
    ids=["encrypted", "cut off", "loop"],
)
def test_what_cannot_be_read_is_rejected_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DocumentRejected, match=reason):
        read(data)


PRINTABLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=12)


@given(st.lists(st.lists(PRINTABLE, min_size=1, max_size=6).map(" ".join), max_size=12), st.data())
def test_no_word_of_a_page_is_lost_whatever_the_parser_makes_of_it(
    lines: list[str], data: st.DataObject
) -> None:
    kept = data.draw(st.lists(st.sampled_from(lines), unique=True)) if lines else []
    found = pdf_page.page_text(lines, " ".join(kept), {}, set())
    words = pdf_page.WORD.findall(" ".join(lines))  # a hyphen may join one to that before it
    assert [word for word in words if len(word) > 1 and word not in found.text] == []
