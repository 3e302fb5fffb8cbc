"""Opens documents that are ZIP archives of XML files: Office Open XML, OpenDocument and HWPX.

Sizes are checked before anything is unpacked. No entity is expanded, nothing is fetched, and XML is
read element by element where a document may be long.
"""

import io
import lzma
import posixpath
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import IO, Final

from lxml import etree

from ingestq.core.errors import DocumentRejected
from worker.text.parser import (
    MAX_ARCHIVE_FILES,
    MAX_COMPRESSION_RATIO,
    MAX_NESTING,
    MAX_UNPACKED_BYTES,
    MEBIBYTE,
)

ENCRYPTED_FLAG: Final = 0x1
RELATIONSHIP_ID: Final = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
TITLE: Final = "{http://purl.org/dc/elements/1.1/}title"
HEAD_BYTES: Final = 64 * 1024
MAIN_PART: Final = "officeDocument"
"""Kind of the relation from a package to its document."""
UNPACKING_ERRORS: Final = (
    zipfile.BadZipFile,
    NotImplementedError,  # an unknown compression
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,  # encrypted
    ValueError,  # a member before the beginning of the file
    lzma.LZMAError,
    struct.error,
    zlib.error,
)
"""What reading a damaged archive raises."""
STRICT_NAMESPACES: Final = (
    (
        b"http://purl.oclc.org/ooxml/officeDocument/",
        b"http://schemas.openxmlformats.org/officeDocument/2006/",
    ),
    (
        b"http://purl.oclc.org/ooxml/drawingml/",
        b"http://schemas.openxmlformats.org/drawingml/2006/",
    ),
    (
        b"http://purl.oclc.org/ooxml/wordprocessingml/main",
        b"http://schemas.openxmlformats.org/wordprocessingml/2006/main",
    ),
    (
        b"http://purl.oclc.org/ooxml/presentationml/main",
        b"http://schemas.openxmlformats.org/presentationml/2006/main",
    ),
    (
        b"http://purl.oclc.org/ooxml/spreadsheetml/main",
        b"http://schemas.openxmlformats.org/spreadsheetml/2006/main",
    ),
)
"""Namespaces of the strict variant of Office Open XML, and those of the usual one."""


class BrokenPart(Exception):
    """A file inside the package cannot be read; the message says why."""


@dataclass(frozen=True)
class Relation:
    """A link from one file of a package to another, or to a URL if it is ``external``.

    ``kind`` is the last word of its type, such as ``comments``.
    """

    kind: str
    target: str
    external: bool


class Package:
    """The files of an archive. Names are compared as Office does: without regard to case."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._members = {
            member.filename.replace("\\", "/").lstrip("/").casefold(): member
            for member in archive.infolist()
        }

    @classmethod
    def open(cls, data: bytes, media_type: str) -> "Package":
        """Open the archive ``data``, a file of ``media_type``.

        Raises DocumentRejected if it is damaged, encrypted, or exceeds a limit.
        """
        try:
            archive = zipfile.ZipFile(io.BytesIO(data))
        except UNPACKING_ERRORS as error:
            raise DocumentRejected(
                f"cannot be read as {media_type}: it is damaged or was cut off"
            ) from error
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if any(member.flag_bits & ENCRYPTED_FLAG for member in members):
            raise DocumentRejected("it is protected by a password")
        if len(members) > MAX_ARCHIVE_FILES:
            raise DocumentRejected(f"it contains more than {MAX_ARCHIVE_FILES:,} files")
        if unpacked > MAX_COMPRESSION_RATIO * len(data):
            raise DocumentRejected(
                f"it unpacks to more than {MAX_COMPRESSION_RATIO} times its size, as only zip "
                "bombs do"
            )
        if unpacked > MAX_UNPACKED_BYTES:
            raise DocumentRejected(
                f"it unpacks to more than {MAX_UNPACKED_BYTES // MEBIBYTE:,} MiB"
            )
        return cls(archive)

    def __contains__(self, name: str) -> bool:
        return name.casefold() in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def read(self, name: str) -> bytes:
        """Return the content of the file ``name``. Raises BrokenPart."""
        try:
            return self._archive.read(self._members[name.casefold()])
        except KeyError as error:
            raise BrokenPart(f"{name} is missing") from error
        except UNPACKING_ERRORS as error:
            raise BrokenPart(f"{name} is damaged") from error

    def tree(self, name: str) -> etree._Element:
        """Return the root of the XML file ``name``. Raises BrokenPart."""
        return parse_xml(_usual(self.read(name)), name)

    def elements(self, name: str, *tags: str) -> Iterator[etree._Element]:
        """Yield the elements with one of ``tags`` of the XML file ``name``, as each ends.

        An element that was yielded is empty afterwards, which bounds memory. So of elements inside
        each other, only the inner one is seen whole. Raises BrokenPart.
        """
        for element in self._events(name, tags):
            yield element
            _forget(element)

    def children(self, name: str, parent: str, *tags: str) -> Iterator[etree._Element]:
        """Yield those elements with one of ``tags`` that are children of a ``parent``, whole.

        They are empty afterwards. Raises BrokenPart.
        """
        for element in self._events(name, tags):
            above = element.getparent()
            if above is not None and above.tag == parent:
                yield element
                _forget(element)

    def _events(self, name: str, tags: tuple[str, ...]) -> Iterator[etree._Element]:
        member = self._members.get(name.casefold())
        if member is None:
            raise BrokenPart(f"{name} is missing")
        try:
            with self._archive.open(member) as file:
                yield from self._parsed(_UsualNamespaces(file), tags)
        except UNPACKING_ERRORS as error:
            raise BrokenPart(f"{name} is damaged") from error
        except etree.XMLSyntaxError as error:
            raise BrokenPart(_reason(name, error)) from error

    @staticmethod
    def _parsed(file: "_UsualNamespaces", tags: tuple[str, ...]) -> Iterator[etree._Element]:
        """Yield the elements of ``file`` with one of ``tags``, as each ends."""
        events = etree.iterparse(
            file,
            events=("end",),
            tag=tags,
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            huge_tree=False,
            remove_comments=True,
            remove_pis=True,
        )
        for _, element in events:
            yield element

    def relations(self, name: str) -> dict[str, Relation]:
        """Return the relations of the file ``name`` by id; those of the package if it is empty.

        A damaged list of relations is an empty one.
        """
        folder, base = posixpath.split(name)
        try:
            listed = self.tree(posixpath.join(folder, "_rels", f"{base}.rels"))
        except BrokenPart:
            return {}
        relations = {}
        for item in listed.iterchildren("{*}Relationship"):
            target = item.get("Target", "")
            external = item.get("TargetMode") == "External"
            if not external:
                target = posixpath.normpath(posixpath.join("/", folder, target)).lstrip("/")
            kind = item.get("Type", "").rpartition("/")[2]
            relations[item.get("Id", "")] = Relation(kind, target, external)
        return relations

    def main_part(self, usual: str) -> str:
        """Return the name of the document in an Office package; ``usual`` if nothing names it.

        Raises BrokenPart.
        """
        for relation in self.relations("").values():
            if relation.kind == MAIN_PART and relation.target in self:
                return relation.target
        if usual in self:
            return usual
        raise BrokenPart("its document is missing")

    def title(self, name: str = "docProps/core.xml") -> str | None:
        """Return the title in the document's properties; None if there is none."""
        try:
            found = self.tree(name).find(f".//{TITLE}") if name in self else None
        except BrokenPart:
            return None
        return (found.text or "").strip() or None if found is not None else None


def all_text(element: etree._Element) -> str:
    """Return the text of ``element`` and of all elements in it."""
    return "".join(map(str, element.itertext()))


def relation_id(element: etree._Element, name: str = "id") -> str:
    """Return the id of the relation that ``element`` names in its attribute ``name``."""
    return element.get(RELATIONSHIP_ID + name) or ""


def parse_xml(data: bytes, name: str) -> etree._Element:
    """Return the root of the XML ``data``. Raises BrokenPart, which calls it ``name``."""
    try:
        return etree.fromstring(data, _parser())
    except etree.XMLSyntaxError as error:
        raise BrokenPart(_reason(name, error)) from error


@cache
def _parser() -> etree.XMLParser:
    return etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )


class _UsualNamespaces:
    """A file of XML with the namespaces of the usual variant; they stand in its first tag."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._head = _usual(file.read(HEAD_BYTES))

    def read(self, size: int) -> bytes:
        """Return some bytes, about ``size``; b"" at the end."""
        head, self._head = self._head, b""
        return head or self._file.read(size)


def _usual(xml: bytes) -> bytes:
    """Return ``xml`` with the namespaces of the usual variant of Office Open XML."""
    if b"http://purl.oclc.org/ooxml/" in xml:
        for strict, usual in STRICT_NAMESPACES:
            xml = xml.replace(strict, usual)
    return xml


def _forget(element: etree._Element) -> None:
    """Empty ``element``, and let go of what stands before it."""
    element.clear()
    parent = element.getparent()
    while parent is not None and element.getprevious() is not None:
        del parent[0]


def _reason(name: str, error: etree.XMLSyntaxError) -> str:
    if "Excessive depth" in str(error):
        return f"its content is nested more than {MAX_NESTING} levels deep"
    return f"{name} is damaged"
