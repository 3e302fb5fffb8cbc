"""A web page, XML and SVG say what a reader sees, as it is written."""

import pytest

from ingestq.core.errors import DocumentRejected
from ingestq.core.paths import guess_media_type
from tests.security.test_bombs import entities, nested_html
from worker.text.extract import extract
from worker.text.media_types import WEB_PAGE
from worker.text.parts import NOINDEX


def page(body: str) -> str:
    return extract(body.encode(), "text/html").text.strip()


def test_identifiers_are_stored_as_written() -> None:
    lines = [
        "Set max_document_bytes to 900 before ORD_2026_00417 is packed.",
        "The file __init__.py of C# build *nightly* has tag [rel-7] and List<Berth>.",
        "Part no. #A-55*2 costs ~12 at depot_9.",
        "# no heading",
        "- no list",
        "12. no list",
        "> no quotation",
        "C:\\new\\table",
    ]
    escaped = [line.replace("<", "&lt;").replace(">", "&gt;") for line in lines]
    assert page("".join(f"<p>{line}</p>" for line in escaped)) == "\n\n".join(lines)
    code = page(f"<pre>{chr(10).join(escaped)}</pre>").splitlines()
    assert [line for line in code if line] == ["```", *lines, "```"]


def test_data_and_pictures_are_no_text() -> None:
    data = "data:image/png;base64," + "iVBORw0KGgoAAAANSUhEUg" * 100
    text = page(
        f'<p>before <img alt="A chart of tides" src="{data}"> after</p>'
        f"<p style='background:url({data})'>styled</p><a href={data}>linked</a> "
        f"<object data='{data}'>embedded</object> <svg><title>Map</title><text>Crane</text>"
        f"<style>.a{{}}</style><image href='{data}'/></svg>"
    )
    assert text.split() == [
        "before", "A", "chart", "of", "tides", "after", "styled", "linked", "embedded", "Map",
        "Crane",
    ]  # fmt: skip


def test_noise_is_left_out() -> None:
    text = page(
        "<style>p{margin:0}</style><script>var q</script><template>pattern</template>"
        "<p hidden>secret</p><div style='display:none'>preheader</div><p>The hay is dry.</p>"
    )
    assert text == "The hay is dry."


def test_tables_that_lay_out_a_page_are_none() -> None:
    text = page(
        "<table><tr><td>Menu</td><td><table><tr><th>Bird<th>Count<tr><td>goose<td>34</table>"
        "<p>First.</p></td></tr><tr><td>Footer</td></tr></table>"
        "<table role=presentation><tr><td><h2>News</h2><p>Second.</p></td></tr></table>"
    )
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["Bird", "Count"] in rows
    assert ["goose", "34"] in rows
    lines = text.splitlines()
    assert "## News" in lines
    assert "Second." in lines
    for word in ("Menu", "First.", "Footer"):
        assert text.count(word) == 1
    assert "\\|" not in text


def test_tables_code_and_titles_are_kept() -> None:
    data = (
        b"<html><head><meta charset=windows-1252><title>R\xf6hren</title></head><body>"
        b"<table><tr><th>Bird<th>Count<tr><td>goose<td>34</table><pre>def f():\n    return 1</pre>"
    )
    extracted = extract(data, "text/html")
    assert extracted.title == "Röhren"
    assert "| goose | 34" in extracted.text
    assert "```\ndef f():\n    return 1\n```" in extracted.text


def test_deep_pages_are_read() -> None:
    assert "tells of a heron" in extract(nested_html(5000), "text/html").text


def test_xml_says_its_values_with_their_names() -> None:
    data = (
        '<?xml version="1.0"?><!DOCTYPE guide [<!ENTITY prod "Kittiwake 3000">]>'
        '<guide id="g1" xmlns:x="u"><title>The &prod; guide</title>'
        "<para>Use it with <em>care</em>, if a &lt; b.</para>"
        '<x:part number="A-55_2" price="12"/><note><![CDATA[<raw> text]]></note></guide>'
    )
    assert extract(data.encode(), "application/xml").text == (
        'guide id="g1"\ntitle: The Kittiwake 3000 guide\nUse it with care, if a < b.\n\n'
        'part number="A-55_2" price="12"\nnote: <raw> text'
    )


def test_xml_in_the_encoding_that_it_declares() -> None:
    data = '<?xml version="1.0" encoding="iso-8859-1"?><a>Röhre für Öl</a>'.encode("latin-1")
    assert extract(data, "application/xml").text == "a: Röhre für Öl"


def test_the_text_of_a_drawing() -> None:
    data = (
        b'<svg xmlns="http://www.w3.org/2000/svg"><title>Harbour map</title><style>.a{}</style>'
        b'<text x="1">Crane <tspan>nine</tspan></text><path d="M0 0L10 10"/>'
        b'<image href="data:image/png;base64,iVBORw0KGgo="/></svg>'
    )
    extracted = extract(data, guess_media_type("map.svg"))
    assert extracted.title == "Harbour map"
    assert extracted.text.split() == ["Harbour", "map", "Crane", "nine"]


@pytest.mark.parametrize(
    ("name", "root"),
    [
        ("laughs.xml", "<r>geese &e9;</r>"),
        ("laughs.svg", '<svg xmlns="http://www.w3.org/2000/svg"><text>&e9;</text></svg>'),
        ("attribute.xml", "<r value='&e9;'/>"),
    ],
)
def test_entity_bombs_are_refused(name: str, root: str) -> None:
    with pytest.raises(DocumentRejected, match="its entities expand to far more text"):
        extract(entities(root), guess_media_type(name))


def test_external_entities_are_not_read() -> None:
    data = b'<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><r>geese &x;</r>'
    assert "root:" not in extract(data, "application/xml").text


@pytest.mark.parametrize(
    ("head", "is_indexed"),
    [
        ('<meta name="robots" content="index, follow, max-image-preview:none">', True),
        ('<meta name="robots" content="max-image-preview: none">', True),
        ("<!-- <meta name='robots' content='noindex'> -->", True),
        ("<script>tag = \"<meta name='robots' content='noindex'>\"</script>", True),
        ('<meta name="googlebot" content="noindex">', True),
        ('<meta content="NoIndex, nofollow" name="robots">', False),
        ("<meta name=robots content=none>", False),
        ('<meta name="ingestq" content="follow noindex">', False),
        ("<script>open = '<!--'</script><meta name='robots' content='noindex'>", False),
        ("<!--><meta name='robots' content='noindex'>", False),
        ("<!-- a --><meta name='robots' content='all;noindex'>", False),
    ],
)
def test_a_page_is_indexed_unless_its_robots_tag_forbids_it(head: str, is_indexed: bool) -> None:
    html = (
        f"<html><head>{head}</head><body><p>The lighthouse is closed until May.</p></body></html>"
    )
    found = extract(html.encode(), WEB_PAGE)
    assert ("lighthouse" in found.text, NOINDEX in found.warnings) == (is_indexed, not is_indexed)
