"""Documents of word processors: what a reader sees is extracted, once, and as it is written."""

from pathlib import Path

import pytest

from ingestq.core.errors import DocumentRejected
from tests.office_files import archive, docx, open_document, paragraph, word_table
from worker.text.extract import extract
from worker.text.media_types import DOCX, ODT, RTF

CHANGED = 'w:id="1" w:author="A" w:date="2026-05-01T09:00:00Z"'
STYLES = (
    '<w:style w:type="paragraph" w:styleId="T1"><w:name w:val="heading 1"/></w:style>'
    '<w:style w:type="paragraph" w:styleId="T2"><w:name w:val="heading 2"/></w:style>'
    '<w:style w:type="paragraph" w:styleId="Own"><w:name w:val="Own"/><w:basedOn w:val="T2"/>'
    "</w:style>"
)
SIGNS = (
    "If pressure < 4 bar and flow > 9 litres then close valve V3.",
    "Write to <ops@example.org> today.",
    "The limit is x <= 12 >= 3.",
    "Use Map<Key, Value> here. A <b>literal</b> tag.",
    "Set max_document_bytes to 900 before ORD_2026_00417 is packed.",
    "The file __init__.py of C# build *nightly* has tag [rel-7], #A-55*2 costs ~12 in C:\\_a.",
)


def xml(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def run(text: str, properties: str = "", tag: str = "t") -> str:
    return f'<w:r><w:rPr>{properties}</w:rPr><w:{tag} xml:space="preserve">{text}</w:{tag}></w:r>'


def read(body: str, **parts: str) -> list[str]:
    """Return the paragraphs and tables that are extracted from a document of Word."""
    return extract(docx(body, **parts), DOCX).text.split("\n\n")


def inserted(text: str) -> str:
    return f"<w:ins {CHANGED}>{run(text)}</w:ins>"


def deleted(text: str) -> str:
    return f"<w:del {CHANGED}>{run(text, tag='delText')}</w:del>"


def test_tracked_changes_are_accepted() -> None:
    moved = run("Oars are kept in the loft.")
    body = (
        paragraph("The rent is ", deleted("four thousand"), inserted("five thousand"), " crowns.")
        + paragraph(deleted("Subletting is allowed."))
        + paragraph(f"<w:moveFrom {CHANGED}>{moved}</w:moveFrom>")
        + paragraph("Keys are returned.")
        + paragraph(f"<w:moveTo {CHANGED}>{moved}</w:moveTo>")
        + word_table(["Item", "Deposit"], ["Boathouse", "kept"]).replace(
            "kept", "</w:t></w:r>" + deleted("300") + inserted("450") + "<w:r><w:t>"
        )
    )
    assert read(body) == [
        "The rent is five thousand crowns.",
        "Keys are returned.",
        "Oars are kept in the loft.",
        "| Item | Deposit |\n| --- | --- |\n| Boathouse | 450 |",
    ]


def test_a_deleted_paragraph_mark_joins_paragraphs_and_a_deleted_row_is_gone() -> None:
    mark = f"<w:rPr><w:del {CHANGED}/></w:rPr>"
    row = word_table(["a", "b"], ["kept", "1"], ["gone", "2"])
    row = row.replace(
        '<w:tr><w:tc><w:p><w:pPr></w:pPr><w:r><w:t xml:space="preserve">gone',
        f"<w:tr><w:trPr><w:del {CHANGED}/></w:trPr><w:tc><w:p><w:r><w:t>gone",
    )
    assert read(paragraph("One ", properties=mark) + paragraph("sentence.") + row) == [
        "One sentence.",
        "| a | b |\n| --- | --- |\n| kept | 1 |",
    ]


def test_comments_and_notes_follow_the_paragraph_that_they_belong_to() -> None:
    body = paragraph(
        "Seen by the clerk",
        '<w:r><w:footnoteReference w:id="2"/></w:r>',
        " on Monday",
        '<w:r><w:endnoteReference w:id="2"/></w:r><w:r><w:commentReference w:id="0"/></w:r>',
        ".",
    ) + paragraph("Next.")
    separator = '<w:footnote w:type="separator" w:id="0"><w:p/></w:footnote>'
    note = paragraph("Cleaned with vinegar.")
    assert read(
        body,
        footnotes=f'{separator}<w:footnote w:id="2">{note}</w:footnote>',
        endnotes=f'<w:endnote w:id="2">{paragraph("See the annex.")}</w:endnote>',
        comments=(
            f'<w:comment w:id="0" w:author="Ann">{paragraph("Which clerk?")}</w:comment>'
            f'<w:comment w:id="7">{paragraph("On nothing.")}</w:comment>'
        ),
    ) == [
        "Seen by the clerk on Monday.",
        "Footnote: Cleaned with vinegar.",
        "Endnote: See the annex.",
        "Comment by Ann: Which clerk?",
        "Next.",
        "Comment: On nothing.",
    ]


def test_a_text_box_is_read_once_and_the_paragraph_around_it_is_kept() -> None:
    box = f"<w:txbxContent>{paragraph('Never touch the bath.')}</w:txbxContent>"
    both = (
        "<w:r><mc:AlternateContent>"
        f'<mc:Choice Requires="wps"><w:drawing><wps:txbx>{box}</wps:txbx></w:drawing></mc:Choice>'
        f"<mc:Fallback><w:pict><v:textbox>{box}</v:textbox></w:pict></mc:Fallback>"
        "</mc:AlternateContent></w:r>"
    )
    assert read(paragraph("Before ", both, "and after.")) == [
        "Before and after.",
        "Never touch the bath.",
    ]


def test_headers_and_footers_of_pages_are_read_once() -> None:
    header = paragraph("Classification: amber")
    assert read(
        paragraph("Text."), header=header, header2=header, footer=paragraph("Ref LB-5520")
    ) == ["Page header: Classification: amber", "Text.", "Page footer: Ref LB-5520"]


def test_breaks_tabs_hyphens_and_symbols_do_not_glue_words() -> None:
    signs = (
        "<w:r><w:t>First</w:t><w:br/><w:t>second</w:t><w:tab/><w:t>third TX</w:t>"
        "<w:noBreakHyphen/><w:t>88, e</w:t><w:softHyphen/><w:t>mail </w:t>"
        '<w:sym w:font="Symbol" w:char="F0B3"/><w:sym w:font="Wingdings" w:char="F0FC"/>'
        '<w:sym w:font="Unheard" w:char="F0FC"/></w:r>'
    )
    assert read(paragraph(signs)) == [
        "First\nsecond\tthird TX-88, email ≥✓\N{REPLACEMENT CHARACTER}"
    ]


def test_content_controls_links_and_forms() -> None:
    control = f"<w:sdt><w:sdtContent>{run('a brass lantern')}</w:sdtContent></w:sdt>"
    prompt = (
        "<w:sdt><w:sdtPr><w:showingPlcHdr/></w:sdtPr>"
        f"<w:sdtContent>{run('Click here')}</w:sdtContent></w:sdt>"
    )

    def field(data: str) -> str:
        return f"<w:r><w:fldChar><w:ffData>{data}</w:ffData></w:fldChar></w:r>"

    box = field("<w:checkBox><w:checked/></w:checkBox>")
    choice = field(
        '<w:ddList><w:result w:val="1"/><w:listEntry w:val="low"/><w:listEntry w:val="high"/>'
        "</w:ddList>"
    )
    link = f'<w:hyperlink r:id="https">{run("the rules")}</w:hyperlink>'
    body = paragraph("It is ", control, prompt, ". ", box, " agreed, tide ", choice, ", see ", link)
    block = f"<w:sdt><w:sdtContent>{paragraph('In a control.')}</w:sdtContent></w:sdt>"
    assert read(body + block, https="https://example.org/rules") == [
        "It is a brass lantern. ☒ agreed, tide high, see the rules (https://example.org/rules)",
        "In a control.",
    ]


def test_hidden_text_is_marked() -> None:
    hidden = run("the key is", "<w:vanish/>") + run(" spare", "<w:vanish/>")
    assert read(paragraph("Door: ", hidden, " open")) == ["Door: [hidden: the key is spare] open"]


def test_headings_lists_and_their_numbers() -> None:
    def item(text: str, level: int = 0, number: int = 1, style: str = "") -> str:
        listed = f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="{number}"/></w:numPr>'
        return paragraph(text, style=style, properties=listed)

    def level(place: int, form: str, text: str) -> str:
        return (
            f'<w:lvl w:ilvl="{place}"><w:start w:val="1"/><w:numFmt w:val="{form}"/>'
            f'<w:lvlText w:val="{text}"/></w:lvl>'
        )

    numbering = (
        f'<w:abstractNum w:abstractNumId="0">{level(0, "decimal", "%1.")}'
        f"{level(1, 'lowerLetter', '%1%2)')}</w:abstractNum>"
        f'<w:abstractNum w:abstractNumId="1">{level(0, "bullet", "o")}</w:abstractNum>'
        '<w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num>'
        '<w:num w:numId="2"><w:abstractNumId w:val="1"/></w:num>'
    )
    body = (
        paragraph("Lantern inspection", style="T1")
        + item("Drain the oil")
        + item("slowly", 1)
        + item("wholly", 1)
        + item("Open the vent")
        + item("anywhere", number=2)
        + paragraph("Details", style="Own")
        + item("Numbered heading", style="T2")
    )
    assert read(body, styles=STYLES, numbering=numbering) == [
        "# Lantern inspection",
        "1. Drain the oil",
        "  1a) slowly",
        "  1b) wholly",
        "2. Open the vent",
        "- anywhere",
        "## Details",
        "## 3. Numbered heading",
    ]


def test_merged_and_nested_cells_are_all_there() -> None:
    inner = word_table(["inner left", "inner right"])
    wide = f'<w:tc><w:tcPr><w:gridSpan w:val="2"/></w:tcPr>{paragraph("together")}</w:tc>'
    nested = f"<w:tc>{paragraph('keep | it')}{inner}<w:p/></w:tc>"
    body = word_table(["Lamp", "Hours", "Verdict"], ["North", "1200", nested], [wide, "replace"])
    assert read(body) == [
        "| Lamp | Hours | Verdict |\n| --- | --- | --- |\n"
        "| North | 1200 | keep \\| it inner left, inner right |\n"
        "| together |  | replace |"
    ]


def test_a_table_of_one_cell_is_a_frame_around_text() -> None:
    assert read(word_table(["In a frame."])) == ["In a frame."]


def test_formulas_are_written_on_one_line() -> None:
    def text(signs: str) -> str:
        return f"<m:r><m:t>{signs}</m:t></m:r>"

    formula = (
        f"<m:oMath>{text('A=')}<m:f><m:num>{text('b·h')}</m:num><m:den>{text('2')}</m:den></m:f>"
        f"{text('+')}<m:sSup><m:e>{text('x')}</m:e><m:sup>{text('2')}</m:sup></m:sSup>{text('+')}"
        f"<m:rad><m:deg/><m:e>{text('y')}</m:e></m:rad></m:oMath>"
    )
    assert read(paragraph("Area is ", formula, " now")) == ["Area is A=(b·h)/2+x^2+√(y) now"]


@pytest.mark.parametrize("line", SIGNS)
def test_signs_and_identifiers_stay_as_they_are_written(line: str) -> None:
    assert read(paragraph(xml(line)) + word_table(["rule", xml(line)])) == [
        line,
        f"| rule | {line} |\n| --- | --- |",
    ]
    odt = open_document("text", f"<text:p>{xml(line)}</text:p>")
    assert extract(odt, ODT).text == line


def test_the_title_is_that_of_the_properties() -> None:
    assert extract(docx(paragraph("Text."), "The lantern"), DOCX).title == "The lantern"


def test_embedded_files_are_said() -> None:
    extracted = extract(docx(paragraph("Text."), package="", oleObject=""), DOCX)
    assert extracted.warnings == ("2 embedded objects were not read",)


def test_a_damaged_note_costs_only_the_notes() -> None:
    extracted = extract(docx(paragraph("Text."), comments="<w:comment"), DOCX)
    assert extracted.text == "Text."
    assert extracted.warnings == ("comments could not be read: word/comments.xml is damaged",)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("<w:p>", "word/document.xml is damaged"),
        ("<w:tbl><w:tr><w:tc>" * 100, "nested more than 256 levels deep"),
    ],
    ids=["damaged", "nested"],
)
def test_what_cannot_be_read_is_rejected_for_its_reason(body: str, reason: str) -> None:
    with pytest.raises(DocumentRejected, match=reason):
        extract(docx(body), DOCX)


def test_a_document_without_its_text_is_rejected() -> None:
    with pytest.raises(DocumentRejected, match="its document is missing"):
        extract(archive({"word/styles.xml": "<a/>"}), DOCX)


def test_no_entity_is_expanded() -> None:
    entities = (
        f'<!DOCTYPE d [<!ENTITY file SYSTEM "{Path(__file__).as_uri()}"><!ENTITY a "goose">]>'
    )
    data = open_document("text", "<text:p>one &a;&file; two</text:p>", before=entities)
    assert extract(data, ODT).text.split() == ["one", "two"]


def test_deeply_nested_content_within_the_limit_is_read() -> None:
    runs = "<w:smartTag>" * 240 + run("deep") + "</w:smartTag>" * 240
    assert read(paragraph(runs)) == ["deep"]
    tables = "<w:tbl><w:tr><w:tc>" * 80 + paragraph("deeper") + "</w:tc></w:tr></w:tbl>" * 80
    assert read(tables) == ["deeper"]


def test_open_document_text() -> None:
    styles = (
        '<style:style style:name="H"><style:text-properties text:display="none"/></style:style>'
        '<text:list-style style:name="L"><text:list-level-style-number text:level="1" '
        'style:num-format="1"/></text:list-style>'
    )
    body = (
        "<text:tracked-changes><text:changed-region><text:deletion><text:p>gone</text:p>"
        "</text:deletion></text:changed-region></text:tracked-changes>"
        '<text:h text:outline-level="2">The lantern</text:h>'
        '<text:p>Two<text:s text:c="2"/>spaces,<text:tab/>a tab<text:line-break/>and a line'
        '<text:note text:note-class="endnote"><text:note-citation>1</text:note-citation>'
        "<text:note-body><text:p>See there.</text:p></text:note-body></text:note>.\n   </text:p>"
        '<text:p>Door <text:span text:style-name="H">key</text:span>'
        "<office:annotation><dc:creator>Ann</dc:creator><text:p>Which?</text:p>"
        "</office:annotation> open</text:p>"
        '<text:list text:style-name="L"><text:list-item><text:p>Drain</text:p><text:list>'
        "<text:list-item><text:p>slowly</text:p></text:list-item></text:list></text:list-item>"
        "<text:list-item><text:p>Light</text:p></text:list-item></text:list>"
        "<text:p>Box:<draw:frame><draw:text-box><text:p>Never touch.</text:p></draw:text-box>"
        "</draw:frame></text:p>"
        "<table:table><table:table-header-rows><table:table-row>"
        "<table:table-cell><text:p>a</text:p>"
        '</table:table-cell><table:table-cell table:number-columns-repeated="2">'
        "<text:p>b|c</text:p>"
        "</table:table-cell></table:table-row></table:table-header-rows><table:table-row>"
        "<table:table-cell/><table:table-cell><text:p>1</text:p><text:p>2</text:p>"
        "</table:table-cell></table:table-row></table:table>"
    )
    header = "<style:header><text:p>Amber</text:p></style:header>"
    data = open_document("text", body, styles, styles=header, meta="<dc:title>Manual</dc:title>")
    extracted = extract(data, ODT)
    assert extracted.title == "Manual"
    assert extracted.text.split("\n\n") == [
        "Page header: Amber",
        "## The lantern",
        "Two  spaces,\ta tab\nand a line.",
        "Endnote: See there.",
        "Door [hidden: key] open",
        "Comment by Ann: Which?",
        "1. Drain",
        "  - slowly",
        "2. Light",
        "Box:",
        "Never touch.",
        "| a | b\\|c | b\\|c |\n| --- | --- | --- |\n|  | 1 2 |",
    ]


def test_rich_text() -> None:
    data = rb"""{\rtf1\ansi\ansicpg1252{\info{\title The lantern}}
{\header Amber\par}
\pard Deleted {\deleted old \'e9 price}inserted {\revised new} in TX\_88 of\~e\-mail.\par
\pard Seen{\*\atnid AB}{\*\atnauthor Bob}\chatn{\*\annotation{\*\atnref 1}\pard\plain By whom?}.\par
\pard Body{\footnote\pard Foot body.} text.\par
\trowd\cellx2000\cellx4000\pard\intbl a\cell b\cell\row
\trowd\cellx2000\cellx4000\pard\intbl {\deleted gone\cell }1\cell\row
\pard\{brace\} __init__.py\bin3 }}}.\par}"""
    extracted = extract(data, RTF)
    assert extracted.title == "The lantern"
    assert extracted.text.strip().split("\n\n") == [
        "Amber",
        "Deleted inserted new in TX-88 of email.",
        "Seen.",
        "Body text.",
        "| a | b |\n| --- | --- |\n|  | 1 |",
        "{brace} __init__.py.",
        "Comment: By whom?",
        "Footnote: Foot body.",
    ]
