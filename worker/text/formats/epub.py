"""Reads electronic books: EPUB. Each chapter is a part."""

import posixpath
import re
import zipfile
from typing import Final
from urllib.parse import unquote

from ingestq.core.errors import DocumentRejected
from worker.text.config import ReadingConfig
from worker.text.formats.archive import CANNOT_BE_READ, ENCRYPTED, METHODS, open_zip
from worker.text.formats.html import read_page
from worker.text.formats.xml import elements
from worker.text.members import Members
from worker.text.parts import ExtractedDocument

EPUB_TYPES: Final = frozenset({"application/epub+zip", "application/x-epub+zip"})
CONTAINER: Final = "META-INF/container.xml"
PAGE: Final = "application/xhtml+xml"
HEADING: Final = re.compile(r"^#{1,6} ([^\n]{1,200})$", re.MULTILINE)


def read_epub(data: bytes, reading: ReadingConfig, members: Members) -> ExtractedDocument:
    """Return the chapters of the book ``data``, in the order in which they are read.

    Raises DocumentRejected if there is none.
    """
    try:
        with open_zip(data) as archive:
            return _read(archive, reading, members)
    except (*CANNOT_BE_READ, KeyError, RuntimeError) as error:
        raise DocumentRejected(f"cannot be read as an EPUB: {error}") from error


def _read(archive: zipfile.ZipFile, reading: ReadingConfig, members: Members) -> ExtractedDocument:
    container = elements(_content(archive, CONTAINER, members))
    root = next(
        (attributes["full-path"] for name, attributes, _ in container if name == "rootfile"), ""
    )
    package = elements(_content(archive, root, members))
    title = next((text for name, _, text in package if name == "title" and text), None)
    pages = {
        attributes.get("id"): attributes.get("href", "")
        for name, attributes, _ in package
        if name == "item"
    }
    spine = [attributes.get("idref") for name, attributes, _ in package if name == "itemref"]
    for item in dict.fromkeys(spine):  # a book that repeats a chapter says nothing new
        if members.exceeded:
            members.stop(members.budget.exceeded)
            break
        link = unquote(pages.get(item, ""))
        path = posixpath.normpath(posixpath.join(posixpath.dirname(root), link))
        _read_chapter(archive, path, reading, members)
    return members.document(title=title)


def _read_chapter(
    archive: zipfile.ZipFile, path: str, reading: ReadingConfig, members: Members
) -> None:
    try:
        page = _content(archive, path, members)
        chapter = read_page(page, PAGE, reading)
    except (DocumentRejected, *CANNOT_BE_READ, KeyError) as error:
        members.skip(path, str(error))
        return
    heading = HEADING.search(chapter.text)
    name = heading[1] if heading else chapter.title or posixpath.basename(path)
    if chapter.text.strip():
        members.add_read(name, chapter, len(page))


def _content(archive: zipfile.ZipFile, path: str, members: Members) -> bytes:
    entry = archive.getinfo(path)
    if entry.flag_bits & ENCRYPTED or entry.compress_type not in METHODS:
        raise DocumentRejected("it is encrypted")
    with archive.open(entry) as stream:
        return members.unpacked(stream, entry.compress_size)
