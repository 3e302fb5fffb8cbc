"""Writes small PDF files, object by object, for tests of what is read of them."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

A4: Final = (595, 842)
LINE_HEIGHT: Final = 14
TOP: Final = 780
LEFT: Final = 60


@dataclass(frozen=True)
class GrayImage:
    """An image of ``width`` times ``height`` gray pixels, a byte each."""

    width: int
    height: int
    pixels: bytes


@dataclass(frozen=True)
class PdfPage:
    """A page with the operators ``content``, turned by ``rotate`` degrees.

    The operators may draw text in ``/F``, and the ``image`` as ``/I``. ``annotations`` are
    dictionaries, without the marks at both ends.
    """

    content: str
    rotate: int = 0
    image: GrayImage | None = None
    annotations: Sequence[str] = ()


def lines_of(*lines: str, size: int = 11, left: int = LEFT, top: int = TOP) -> str:
    """Return the operators that draw ``lines`` one below the other."""
    return "\n".join(
        f"BT /F {size} Tf 1 0 0 1 {left} {top - number * LINE_HEIGHT} Tm ({escaped(line)}) Tj ET"
        for number, line in enumerate(lines)
    )


def escaped(text: str) -> str:
    """Return ``text`` as it is written in a string of a PDF."""
    return text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")


def full_page(image: GrayImage) -> PdfPage:
    """Return a page that consists of ``image``, as a scanner makes it."""
    return PdfPage(f"q {A4[0]} 0 0 {A4[1]} 0 0 cm /I Do Q", image=image)


def write_pdf(
    pages: Sequence[PdfPage | str],
    *,
    title: str | None = None,
    attachments: Sequence[tuple[str, bytes]] = (),
    fields: Sequence[str] = (),
    encoding: str = "/WinAnsiEncoding",
) -> bytes:
    """Return a PDF with ``pages``; one that is a string has these operators.

    ``fields`` are the dictionaries of form fields, drawn on the first page. ``encoding`` is that of
    the font ``/F``.
    """
    objects: list[bytes] = []

    def add(body: str | bytes) -> int:
        objects.append(body.encode("latin-1") if isinstance(body, str) else body)
        return len(objects)

    def stream(data: bytes, entries: str = "") -> int:
        packed = zlib.compress(data)
        head = f"<<{entries}/Filter/FlateDecode/Length {len(packed)}>>stream\n"
        return add(head.encode("latin-1") + packed + b"\nendstream")

    catalog, tree = add(""), add("")
    font = add(f"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding {encoding}>>")
    drawn = [add(f"<<{field}>>") for field in fields]
    kids = []
    for number, page in enumerate(pages):
        page = PdfPage(page) if isinstance(page, str) else page
        content = stream(page.content.encode("latin-1"))
        resources = f"/Font<</F {font} 0 R>>"
        if page.image is not None:
            image = stream(
                page.image.pixels,
                f"/Type/XObject/Subtype/Image/Width {page.image.width}/Height {page.image.height}"
                "/ColorSpace/DeviceGray/BitsPerComponent 8",
            )
            resources += f"/XObject<</I {image} 0 R>>"
        annotations = [add(f"<</Type/Annot{entries}>>") for entries in page.annotations]
        annotations += drawn if number == 0 else []
        listed = " ".join(f"{annotation} 0 R" for annotation in annotations)
        kids.append(
            add(
                f"<</Type/Page/Parent {tree} 0 R/MediaBox[0 0 {A4[0]} {A4[1]}]/Rotate {page.rotate}"
                f"/Contents {content} 0 R/Resources<<{resources}>>/Annots[{listed}]>>"
            )
        )
    names = ""
    for name, data in attachments:
        embedded = stream(data, "/Type/EmbeddedFile")
        text = escaped(name)
        specification = add(f"<</Type/Filespec/F({text})/UF({text})/EF<</F {embedded} 0 R>>>>")
        names += f"({text}) {specification} 0 R "
    form = " ".join(f"{field} 0 R" for field in drawn)
    objects[catalog - 1] = (
        f"<</Type/Catalog/Pages {tree} 0 R"
        + (f"/Names<</EmbeddedFiles<</Names[{names}]>>>>" if names else "")
        + (f"/AcroForm<</Fields[{form}]/DR<</Font<</F {font} 0 R>>>>>>" if form else "")
        + ">>"
    ).encode("latin-1")
    listed = " ".join(f"{kid} 0 R" for kid in kids)
    objects[tree - 1] = f"<</Type/Pages/Kids[{listed}]/Count {len(kids)}>>".encode()
    info = add(f"<</Title({escaped(title)})>>") if title is not None else None
    return _file_of(objects, catalog, info)


def encrypted_pdf() -> bytes:
    """Return a PDF that no password is known for."""
    data = write_pdf([lines_of("Nobody can read this.")])
    keys = "<" + "5a" * 32 + ">"
    encryption = f"/Encrypt<</Filter/Standard/V 1/R 2/O{keys}/U{keys}/P -4>>/ID[<00><00>]"
    return data.replace(b"trailer<<", b"trailer<<" + encryption.encode("ascii"))


def _file_of(objects: Sequence[bytes], root: int, info: int | None) -> bytes:
    data = bytearray(b"%PDF-1.7\n")
    places = []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    data += b"".join(b"%010d 00000 n \n" % place for place in places)
    named = b"" if info is None else b"/Info %d 0 R" % info
    data += b"trailer<</Size %d/Root %d 0 R%s>>\n" % (len(objects) + 1, root, named)
    data += b"startxref\n%d\n%%%%EOF\n" % table
    return bytes(data)
