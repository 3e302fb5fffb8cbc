"""Makes files of Office and OpenDocument, as small as programs would still open."""

import io
import zipfile
from collections.abc import Mapping
from typing import Final

SCHEMAS: Final = "http://schemas.openxmlformats.org"
RELATIONS: Final = f"{SCHEMAS}/officeDocument/2006/relationships"
PACKAGE: Final = f"{SCHEMAS}/package/2006"
MICROSOFT: Final = "http://schemas.microsoft.com/office"
NAMESPACES: Final = " ".join(
    f'xmlns:{prefix}="{uri}"'
    for prefix, uri in {
        "w": f"{SCHEMAS}/wordprocessingml/2006/main",
        "p": f"{SCHEMAS}/presentationml/2006/main",
        "a": f"{SCHEMAS}/drawingml/2006/main",
        "c": f"{SCHEMAS}/drawingml/2006/chart",
        "dgm": f"{SCHEMAS}/drawingml/2006/diagram",
        "m": f"{SCHEMAS}/officeDocument/2006/math",
        "mc": f"{SCHEMAS}/markup-compatibility/2006",
        "r": RELATIONS,
        "v": "urn:schemas-microsoft-com:vml",
        "wps": f"{MICROSOFT}/word/2010/wordprocessingShape",
    }.items()
)
OPEN_DOCUMENT: Final = " ".join(
    f'xmlns:{prefix}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
    for prefix, name in {
        "draw": "drawing",
        "office": "office",
        "presentation": "presentation",
        "style": "style",
        "table": "table",
        "text": "text",
    }.items()
)
DUBLIN_CORE: Final = 'xmlns:dc="http://purl.org/dc/elements/1.1/"'


def archive(members: Mapping[str, str]) -> bytes:
    """Return a ZIP archive of ``members``."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return file.getvalue()


def relations(targets: Mapping[str, tuple[str, str]]) -> str:
    """Return a list of relations: id to kind and target. URLs are external."""
    external = 'TargetMode="External"'
    listed = "".join(
        f'<Relationship Id="{name}" Type="{RELATIONS}/{kind}" Target="{target}" '
        f"{external if '://' in target else ''}/>"
        for name, (kind, target) in targets.items()
    )
    return f'<Relationships xmlns="{PACKAGE}/relationships">{listed}</Relationships>'


def office(main: str, members: Mapping[str, str], title: str = "") -> bytes:
    """Return an Office package with the document ``main``."""
    core = f"<coreProperties {DUBLIN_CORE}><dc:title>{title}</dc:title></coreProperties>"
    return archive(
        {
            "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types"/>',
            "_rels/.rels": relations({"r": ("officeDocument", main)}),
            "docProps/core.xml": core,
            **members,
        }
    )


def docx(body: str, title: str = "", **parts: str) -> bytes:
    """Return a document of Word: its ``body``, and ``parts`` such as comments, by kind.

    The kinds ``header2`` and so on are further ones of a kind. ``https`` is the URL that the
    relation of this name leads to.
    """
    targets = {
        name: (name.rstrip("0123456789"), f"{name}.xml") for name in parts if name != "https"
    }
    if "https" in parts:
        targets["https"] = ("hyperlink", parts.pop("https"))
    members = {
        f"word/{name}.xml": f"<w:part {NAMESPACES}>{content}</w:part>"
        for name, content in parts.items()
    }
    members["word/document.xml"] = f"<w:document {NAMESPACES}><w:body>{body}</w:body></w:document>"
    members["word/_rels/document.xml.rels"] = relations(targets)
    return office("word/document.xml", members, title)


def paragraph(*runs: str, style: str = "", properties: str = "") -> str:
    """Return a paragraph of Word with ``runs``; those that are no XML are text."""
    styled = f'<w:pStyle w:val="{style}"/>' if style else ""
    written = "".join(
        each if each.startswith("<") else f'<w:r><w:t xml:space="preserve">{each}</w:t></w:r>'
        for each in runs
    )
    return f"<w:p><w:pPr>{styled}{properties}</w:pPr>{written}</w:p>"


def word_table(*rows: list[str]) -> str:
    """Return a table of Word; cells that are no XML are text."""
    written = "".join(
        "<w:tr>"
        + "".join(
            cell if cell.startswith("<w:tc>") else f"<w:tc>{paragraph(cell)}</w:tc>" for cell in row
        )
        + "</w:tr>"
        for row in rows
    )
    return f"<w:tbl>{written}</w:tbl>"


def open_document(
    kind: str, body: str, automatic: str = "", before: str = "", **members: str
) -> bytes:
    """Return an OpenDocument file; ``kind`` is text, spreadsheet or presentation.

    ``automatic`` are the styles that belong to the body, ``before`` is what stands before the
    root, ``members`` are meta and styles.
    """
    head = f"{OPEN_DOCUMENT} {DUBLIN_CORE}"
    return archive(
        {
            "mimetype": f"application/vnd.oasis.opendocument.{kind}",
            "content.xml": (
                f"{before}<office:document-content {head}><office:automatic-styles>{automatic}"
                f"</office:automatic-styles><office:body><office:{kind}>{body}</office:{kind}>"
                "</office:body></office:document-content>"
            ),
            **{
                f"{name}.xml": f"<office:document-{name} {head}>{content}</office:document-{name}>"
                for name, content in members.items()
            },
        }
    )
