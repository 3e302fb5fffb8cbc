"""Tells the formats that a file may have: its content decides, and then its name."""

import io
import re
import zipfile
from typing import Final

from worker.text.formats.package import UNPACKING_ERRORS
from worker.text.parser import MAX_ARCHIVE_FILES, PARSED_TYPES, UNKNOWN, parses

PLAIN_TEXT: Final = "text/plain"
MARKDOWN: Final = "text/markdown"
PDF: Final = "application/pdf"
RTF: Final = "application/rtf"
SVG: Final = "image/svg+xml"
HTML: Final = "text/html"
WEB_PAGE: Final = "text/x-web-page"
"""HTML of a web source, of which only the main text is read."""
MAIL: Final = "message/rfc822"
MBOX: Final = "application/mbox"
NOTEBOOK: Final = "application/x-ipynb+json"
ZIP: Final = "application/zip"
TABS: Final = "text/tab-separated-values"
COMMAS: Final = "text/csv"
EPUB: Final = "application/epub+zip"
HWP: Final = "application/x-hwp"
HWPX: Final = "application/haansofthwpx"
DOC: Final = "application/msword"
XLS: Final = "application/vnd.ms-excel"
PPT: Final = "application/vnd.ms-powerpoint"
MSG: Final = "application/vnd.ms-outlook"
PST: Final = "application/vnd.ms-outlook-pst"
XLSB: Final = "application/vnd.ms-excel.sheet.binary.macroEnabled.12"
EXCEL_XML: Final = "application/vnd.ms-excel.xml"
"""XML of Excel 2003; a name of our own."""
OFFICE: Final = "application/vnd.openxmlformats-officedocument."
DOCX: Final = f"{OFFICE}wordprocessingml.document"
PPTX: Final = f"{OFFICE}presentationml.presentation"
XLSX: Final = f"{OFFICE}spreadsheetml.sheet"
OPEN_DOCUMENT: Final = "application/vnd.oasis.opendocument."
ODT: Final = f"{OPEN_DOCUMENT}text"
ODS: Final = f"{OPEN_DOCUMENT}spreadsheet"
ODP: Final = f"{OPEN_DOCUMENT}presentation"
TEMPLATE: Final = "-template"
"""Ends the types of OpenDocument templates, which are read as documents."""
IWORK: Final = "application/x-iwork-"
PROTECTED: Final = "application/encrypted"
"""An Office file with a password; Office's own type for it."""

_OLE: Final = "application/x-ole-storage"
SIGNATURES: Final = (
    (b"%PDF-", PDF),
    (b"{\\rtf", RTF),
    (b"PK\x03\x04", ZIP),
    (b"PK\x05\x06", ZIP),  # empty
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", _OLE),
    (b"\x09\x08\x10\0", XLS),  # of an Excel file without the container that it came to have later
    (b"\x09\x08\x08\0", XLS),
    (b"\x09\x04\x06\0", XLS),
    (b"\x09\x02\x06\0", XLS),
    (b"\x09\0\x04\0", XLS),
    (b"HWP Document File", HWP),  # before 2000
    (b"!BDN", PST),
    (b"\x1f\x8b", "application/gzip"),
    *((b"BZh%d1AY&SY" % level, "application/x-bzip2") for level in range(1, 10)),
    (b"\xfd7zXZ\0", "application/x-xz"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"\x89PNG\r\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
)
"""How files begin that are no text, or are not read as text, and their types."""
PROOFS: Final = {PDF: b" obj", RTF: b"\\rtf1"}
"""What also stands at the beginning of files of these formats, but in no text about them. Others
have a NUL there."""
TAR_SIGNATURE: Final = b"ustar"
TAR_SIGNATURE_AT: Final = 257
PDF_WITHIN: Final = 1024
"""Readers look for the signature of a PDF in so many first bytes."""

ZIP_ENTRY: Final = b"PK\x01\x02"
"""Begins the entry of a member in the directory of a ZIP archive."""
ZIP_MEMBERS: Final = (
    ("word/", DOCX),
    ("xl/workbook.bin", XLSB),
    ("xl/", XLSX),
    ("ppt/", PPTX),
    ("contents/section0.xml", HWPX),
    ("contents/content.hpf", HWPX),
    ("meta-inf/container.xml", EPUB),
)
"""How names of members begin in formats that are ZIP archives, in small letters."""
MIMETYPE: Final = "mimetype"
MIMETYPE_BYTES: Final = 100
MIMETYPES: Final = {"application/hwp+zip": HWPX, f"{OPEN_DOCUMENT}graphics": ODP}
"""What the member ``mimetype`` says, where it is not the type that is read."""
OLE_STREAMS: Final = (
    ("EncryptedPackage", PROTECTED),
    ("WordDocument", DOC),
    ("PowerPoint Document", PPT),
    ("Workbook", XLS),
    ("Book", XLS),
    ("__properties_version1.0", MSG),
    ("FileHeader", HWP),
)
"""Streams of the formats that are OLE containers, outer ones before those that others embed."""
OLE_TYPES: Final = tuple(media_type for _, media_type in OLE_STREAMS)
SIGNED_TYPES: Final = frozenset(
    {DOC, EPUB, HWP, HWPX, PDF, RTF, ZIP, "application/x-zip-compressed", "text/rtf"}
    | {known for known in PARSED_TYPES if known.startswith(("application/vnd.", IWORK))}
)
"""Formats that a file certainly does not have if it does not begin as `SIGNATURES` say."""

MARKUP: Final = (
    (
        re.compile(r"<\?xml[^>]*>\s*(?:<\?mso-application[^>]*>\s*)?<(?:\w+:)?workbook\b"),
        EXCEL_XML,
    ),
    (re.compile(r"(?:<\?xml[^>]*>|<!--[^>]*-->|\s)*<svg\b"), SVG),
    (
        re.compile(
            r"(?:<\?xml[^>]*>\s*)?(?:<!--[^>]*-->\s*)*"
            r"<(?:!doctype\s+html|html|head|body|table|meta|style|title)\b"
        ),
        HTML,
    ),
    (re.compile(r"<\?xml\b"), "application/xml"),
    (re.compile(r"from [^\r\n]{0,200}\d\d:\d\d[^\r\n]{0,100}\r?\n[!-9;-~]{1,80}:"), MBOX),
    (re.compile(r"mime-version:"), MAIL),  # a page that Word or Excel saved with its images
)
"""How text begins that is not plain, in small letters, and its type."""
MARKUP_BYTES: Final = 4096


def likely_types(data: bytes, declared: str | None) -> tuple[str, ...]:
    """Return the types that the file ``data`` may have, the likeliest first.

    ``declared`` is the type that its name suggests, if any. Each type is to be tried if those
    before it failed; there is only one if the content leaves no doubt.
    """
    signed = signed_type(data, declared)
    if signed == ZIP:
        return (_zip_type(data, declared),)
    if signed == _OLE:
        return (_ole_type(data, declared),)
    if signed is not None:
        return (signed,)
    if declared is None or declared == UNKNOWN:
        return _in_order(_markup_type(data), PLAIN_TEXT)
    if is_decoded_only(declared):
        return (declared,)
    if not has_signature(declared):
        return _in_order(declared, _markup_type(data), PLAIN_TEXT)
    return _in_order(_markup_type(data), _table_type(data, declared), PLAIN_TEXT)


def known_type(head: bytes, declared: str | None) -> str:
    """Return the type of a file that begins with ``head``; UNKNOWN if all of it has to be seen."""
    signed = signed_type(head, declared)
    if signed is not None:
        return signed if signed not in (ZIP, _OLE) else UNKNOWN
    if declared is not None and declared != UNKNOWN:
        return declared if not has_signature(declared) else UNKNOWN
    return _markup_type(head) or PLAIN_TEXT


def is_decoded_only(media_type: str) -> bool:
    """Return True if files of this type are only decoded; False if they are parsed or rejected."""
    return not parses(media_type) and (not media_type.startswith("image/") or media_type == SVG)


def has_signature(media_type: str) -> bool:
    """Return True if files of ``media_type`` are known by their first bytes."""
    return media_type in SIGNED_TYPES


def signed_type(head: bytes, declared: str | None) -> str | None:
    """Return the type whose signature ``head`` has; None if it has none."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip() if head[:1] in b"\xef \r\n" else head
    may_be_text = declared is not None and declared != UNKNOWN and is_decoded_only(declared)
    for signature, media_type in SIGNATURES:
        if start.startswith(signature):
            is_sure = not may_be_text or PROOFS.get(media_type, b"\0") in head[:MARKUP_BYTES]
            return media_type if is_sure else None
    if head.startswith(TAR_SIGNATURE, TAR_SIGNATURE_AT):
        return "application/x-tar"
    return PDF if declared == PDF and SIGNATURES[0][0] in head[:PDF_WITHIN] else None


def _in_order(*types: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, types)))


def _zip_type(data: bytes, declared: str | None) -> str:
    """Return the type of a ZIP archive by its members; ``declared`` if it is damaged."""
    fallback = declared if declared is not None and has_signature(declared) else ZIP
    if data.count(ZIP_ENTRY) > MAX_ARCHIVE_FILES:
        return fallback  # before each becomes an object
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        with archive.open(MIMETYPE) as file:
            said = file.read(MIMETYPE_BYTES).decode("ascii", "replace").strip()
        said = MIMETYPES.get(said, said.removesuffix(TEMPLATE))
        if parses(said):
            return said
    except KeyError:
        pass  # most archives have no such member
    except UNPACKING_ERRORS:
        return fallback
    names = [name.replace("\\", "/").casefold() for name in archive.namelist()]
    for start, media_type in ZIP_MEMBERS:
        if any(name.startswith(start) for name in names):
            return media_type
    return fallback if fallback.startswith(IWORK) else ZIP


def _ole_type(data: bytes, declared: str | None) -> str:
    """Return the type of an OLE container by its streams.

    A document may embed others, so the declared type is right if it has its stream. It is also what
    a damaged file is taken for.
    """
    found = [
        media_type for name, media_type in OLE_STREAMS if f"{name}\0".encode("utf-16-le") in data
    ]
    if declared in (found or OLE_TYPES):
        return str(declared)
    return found[0] if found else UNKNOWN


def _markup_type(data: bytes) -> str | None:
    """Return the type of the markup with which ``data`` begins; None if there is none."""
    start = _start(data)
    return next((media_type for mark, media_type in MARKUP if mark.match(start)), None)


def _table_type(data: bytes, declared: str) -> str | None:
    """Return how text separates its cells that is named like a workbook."""
    if "excel" not in declared and "spreadsheet" not in declared:
        return None
    start = _start(data)
    line = start.partition("\n")[0]
    if "\0" in start:
        return None
    return TABS if "\t" in line else COMMAS if "," in line or ";" in line else None


def _start(data: bytes) -> str:
    """Return about how the text ``data`` begins, in small letters."""
    is_utf_16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    start = data[:MARKUP_BYTES].decode("utf-16" if is_utf_16 else "utf-8-sig", "replace")
    return start.lstrip().lower()
