"""Presentations: each slide is a part, with everything on it once, and its notes."""

from tests.office_files import NAMESPACES, office, open_document, relations
from worker.text.extract import extract
from worker.text.media_types import ODP, PPTX
from worker.text.parts import ExtractedDocument, Part


def said(*lines: str) -> str:
    body = "".join(f"<a:p><a:r><a:t>{line}</a:t></a:r></a:p>" for line in lines)
    return f"<p:txBody>{body}</p:txBody>"


def shape(*lines: str, kind: str = "") -> str:
    """Return a shape with text, in the placeholder of ``kind`` if it is given."""
    place = f'<p:nvSpPr><p:nvPr><p:ph type="{kind}"/></p:nvPr></p:nvSpPr>' if kind else ""
    return f"<p:sp>{place}{said(*lines)}</p:sp>"


def group(*shapes: str) -> str:
    return f"<p:grpSp>{''.join(shapes)}</p:grpSp>"


def frame(content: str) -> str:
    return (
        f"<p:graphicFrame><a:graphic><a:graphicData>{content}</a:graphicData></a:graphic>"
        "</p:graphicFrame>"
    )


def slide(*shapes: str, root: str = "sld", attributes: str = "") -> str:
    tree = f"<p:cSld><p:spTree>{''.join(shapes)}</p:spTree></p:cSld>"
    return f"<p:{root} {NAMESPACES} {attributes}>{tree}</p:{root}>"


def presentation(*slides: str, **parts: str) -> bytes:
    """Return a presentation; ``parts`` belong to each slide, by the kind of their relation."""
    members = {
        "ppt/presentation.xml": f"<p:presentation {NAMESPACES}><p:sldIdLst>"
        + "".join(f'<p:sldId r:id="r{number}"/>' for number in range(len(slides)))
        + "</p:sldIdLst></p:presentation>",
        "ppt/_rels/presentation.xml.rels": relations(
            {
                f"r{number}": ("slide", f"slides/s{len(slides) - number}.xml")
                for number in range(len(slides))
            }
        ),
    }
    for number, content in enumerate(slides):
        name = f"s{len(slides) - number}.xml"  # slides keep their names when they are moved
        members[f"ppt/slides/{name}"] = content
        members[f"ppt/slides/_rels/{name}.rels"] = relations(
            {kind: (kind, f"../{kind}.xml") for kind in parts}
        )
    members |= {f"ppt/{kind}.xml": content for kind, content in parts.items()}
    return office("ppt/presentation.xml", members, "Harvest")


def read(*slides: str, **parts: str) -> list[str]:
    """Return the blocks of the first slide."""
    return extract(presentation(*slides, **parts), PPTX).parts[0].text.split("\n\n")


def test_slides_are_parts_in_their_order() -> None:
    extracted = extract(
        presentation(
            slide(shape("Cut the reeds."), shape("Harvest plan", kind="title")),
            slide(shape(" ")),
            slide(shape("The flooded ditch"), attributes='show="0"'),
        ),
        PPTX,
    )
    assert extracted == ExtractedDocument(
        (
            Part("# Harvest plan\n\nCut the reeds.", markdown=True, page=1),
            Part("(hidden slide)\n\nThe flooded ditch", markdown=True, page=3),
        ),
        "Harvest",
    )


def test_groups_in_groups_and_boxes_side_by_side() -> None:
    page = slide(group(shape("Foreman Quill"), group(shape("Raft crew"))), shape("L"), shape("R"))
    assert read(page) == ["Foreman Quill", "Raft crew", "L", "R"]


def test_lines_of_a_shape_are_not_glued() -> None:
    broken = "<p:sp><p:txBody><a:p><a:r><a:t>one</a:t></a:r><a:br/><a:r><a:t>two</a:t></a:r></a:p>"
    assert read(slide(shape("first", "second"), f"{broken}</p:txBody></p:sp>")) == [
        "first",
        "second",
        "one\ntwo",
    ]


def test_tables() -> None:
    def row(*cells: str) -> str:
        written = "".join(
            f"<a:tc><a:txBody><a:p><a:r><a:t>{cell}</a:t></a:r></a:p></a:txBody></a:tc>"
            for cell in cells
        )
        return f"<a:tr>{written}</a:tr>"

    drawn = f"<a:tbl>{row('bundle', 'price')}{row('small|tied', '6.50')}</a:tbl>"
    assert read(slide(frame(drawn))) == [
        "| bundle | price |\n| --- | --- |\n| small\\|tied | 6.50 |"
    ]


def test_charts_are_tables_of_their_values() -> None:
    def points(name: str, *values: str, code: str = "") -> str:
        shown = "".join(
            f'<c:pt idx="{at}"><c:v>{each}</c:v></c:pt>' for at, each in enumerate(values)
        )
        form = f"<c:formatCode>{code}</c:formatCode>" if code else ""
        return f"<c:{name}><c:numRef><c:numCache>{form}{shown}</c:numCache></c:numRef></c:{name}>"

    series = (
        f"<c:ser>{points('tx', 'share')}{points('cat', 'Nordmoor', 'Suedmoor')}"
        f"{points('val', '0.175', '0.2325', code='0.0%')}</c:ser>"
    )
    title = (
        "<c:title><c:tx><c:rich><a:p><a:r><a:t>Yield</a:t></a:r></a:p></c:rich></c:tx></c:title>"
    )
    drawn = f"<c:chartSpace {NAMESPACES}>{title}{series}</c:chartSpace>"
    assert read(slide(frame('<c:chart r:id="chart"/>')), chart=drawn) == [
        "Yield",
        "|  | share |\n| --- | --- |\n| Nordmoor | 17.5% |\n| Suedmoor | 23.3% |",
    ]


def test_smart_art() -> None:
    def point(text: str, kind: str) -> str:
        body = f"<dgm:t><a:p><a:r><a:t>{text}</a:t></a:r></a:p></dgm:t>"
        return f'<dgm:pt type="{kind}">{body}</dgm:pt>'

    points = point("Cut", "node") + point("unseen", "pres") + point("Dry", "node")
    drawn = f"<dgm:dataModel {NAMESPACES}>{points}</dgm:dataModel>"
    page = slide(frame('<dgm:relIds r:dm="diagramData"/>'))
    assert read(page, diagramData=drawn) == ["- Cut\n- Dry"]


def test_notes_and_comments_come_with_their_slide() -> None:
    notes = slide(
        shape("unseen", kind="sldImg"),
        shape("The barge is booked.", kind="body"),
        shape("12", kind="sldNum"),
        root="notes",
    )
    comments = f"<p:cmLst {NAMESPACES}><p:cm><p:text>Which barge?</p:text></p:cm></p:cmLst>"
    assert read(slide(shape("Cut.")), notesSlide=notes, comments=comments) == [
        "Cut.",
        "Notes: The barge is booked.",
        "Comment: Which barge?",
    ]


def test_a_footer_is_read_once_and_numbers_of_slides_are_left_out() -> None:
    page = slide(shape("Text"), shape("Board only", kind="ftr"), shape("7", kind="sldNum"))
    parts = extract(presentation(page, page), PPTX).parts
    assert [part.text for part in parts] == ["Text\n\nBoard only", "Text"]


def test_a_damaged_slide_costs_only_that_slide() -> None:
    extracted = extract(presentation(slide(shape("one")), "<p:sld", slide(shape("three"))), PPTX)
    assert [part.text for part in extracted.parts] == ["one", "three"]
    assert extracted.warnings == ("slide 2 could not be read: ppt/slides/s2.xml is damaged",)


def test_signs_stay_as_they_are_written() -> None:
    assert read(slide(shape("List&lt;Berth&gt; of __init__ *x* [a] #1 ~2"))) == [
        "List<Berth> of __init__ *x* [a] #1 ~2"
    ]


def test_open_document_presentation() -> None:
    hidden = (
        '<style:style style:name="H"><style:drawing-page-properties '
        'presentation:visibility="hidden"/></style:style>'
    )

    def box(text: str, kind: str = "") -> str:
        placed = f' presentation:class="{kind}"' if kind else ""
        said = f"<draw:text-box><text:p>{text}</text:p></draw:text-box>"
        return f"<draw:frame{placed}>{said}</draw:frame>"

    notes = box("Booked.", "notes") + box("7", "page-number")
    notes = f"<presentation:notes>{notes}</presentation:notes>"
    body = (
        f"<draw:page>{box('Plan', 'title')}<draw:g>{box('Raft crew')}</draw:g>{notes}</draw:page>"
        f'<draw:page draw:style-name="H">{box("Backup")}</draw:page>'
    )
    assert extract(open_document("presentation", body, hidden), ODP).parts == (
        Part("# Plan\n\nRaft crew\n\nNotes: Booked.", markdown=True, page=1),
        Part("(hidden slide)\n\nBackup", markdown=True, page=2),
    )
