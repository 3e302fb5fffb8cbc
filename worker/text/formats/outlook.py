"""Reads messages as Outlook saves them (.msg). What is attached to them are parts.

The parser reads the message, and messages that are attached to it. Other attachments lie in the
file as they were, and are read as files are.
"""

import io
from collections.abc import Iterator
from typing import Final

from xlrd.compdoc import CompDoc, DirNode

from ingestq.core.errors import DocumentRejected
from worker.text.config import ReadingConfig
from worker.text.decoding.decode import decode
from worker.text.formats.excel97 import DAMAGED
from worker.text.media_types import MSG
from worker.text.members import Members
from worker.text.parser import parse, parse_attached_messages
from worker.text.parts import ExtractedDocument, Part

ATTACHMENT: Final = "__attach_version1.0_#"
CONTENT: Final = "__substg1.0_37010102"
MESSAGE: Final = "__substg1.0_3701000D"
NAMES: Final = ("__substg1.0_3707", "__substg1.0_3704", "__substg1.0_3001")
"""The long name of a file, the short one, and what Outlook shows. See [MS-OXPROPS]."""
UNICODE: Final = "001F"
LEGACY: Final = "001E"


def read_outlook(data: bytes, reading: ReadingConfig, members: Members) -> ExtractedDocument:
    """Return the message ``data`` with its attachments. Raises DocumentRejected."""
    message = parse(data, MSG, attachments=False)
    warnings = message.warnings
    try:
        _read_attachments(data, reading, members)
    except DAMAGED:
        warnings = (*warnings, "attachments were skipped: the file is damaged")
    own = (Part(message.markdown, markdown=True),) if message.markdown.strip() else ()
    return members.document(own, message.title or message.subject, warnings)


def _read_attachments(data: bytes, reading: ReadingConfig, members: Members) -> None:
    file = CompDoc(data, logfile=io.StringIO())
    attached = [node for node in _children(file, file.dirlist[0]) if _is_attachment(node)]
    messages: Iterator[str] = iter(())
    if any(MESSAGE in _names(file, node) for node in attached):
        messages = iter(parse_attached_messages(data, MSG))
    for number, node in enumerate(attached, 1):
        if members.exceeded:
            members.stop(members.budget.exceeded)
            return
        inside = _names(file, node)
        name = _name(file, node, reading) or str(number)
        if CONTENT in inside:
            members.read(name, _content(file, node, CONTENT))
        elif MESSAGE in inside and (text := next(messages, "")):
            read = ExtractedDocument((Part(text, markdown=True),))
            members.add_read(name, read, len(text))
        else:
            members.skip(name, "it is an object of another program")


def _is_attachment(node: DirNode) -> bool:
    return bool(node.name.startswith(ATTACHMENT))


def _children(file: CompDoc, node: DirNode) -> Iterator[DirNode]:
    return (file.dirlist[number] for number in node.children)


def _names(file: CompDoc, node: DirNode) -> set[str]:
    return {child.name for child in _children(file, node)}


def _name(file: CompDoc, node: DirNode, reading: ReadingConfig) -> str:
    inside = _names(file, node)
    for name in NAMES:
        if name + UNICODE in inside:
            return _content(file, node, name + UNICODE).decode("utf-16-le", "replace")
        if name + LEGACY in inside:
            try:
                return decode(_content(file, node, name + LEGACY), reading.languages).text
            except DocumentRejected:
                continue
    return ""


def _content(file: CompDoc, node: DirNode, name: str) -> bytes:
    return bytes(file.get_named_stream(f"{node.name}/{name}") or b"")
