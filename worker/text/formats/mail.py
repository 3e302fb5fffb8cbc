"""Reads e-mail: headers, the body once, and what is attached. Web archives (MHTML) are e-mail, too.

The standard library splits messages into parts, up to a depth. Headers are cut off where they
would take its parser long.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.feedparser import BytesFeedParser
from email.message import Message
from email.policy import Compat32
from typing import Any, Final, NamedTuple, cast

from worker.text.config import OcrMode, ReadingConfig
from worker.text.formats.html import read_html
from worker.text.formats.mail_text import decode_body, decode_header
from worker.text.media_types import HTML, MAIL, PLAIN_TEXT
from worker.text.members import Members, label
from worker.text.parts import ExtractedDocument, Part

HEADER_CHARACTERS: Final = 8 * 1024
"""Of each header: a hundred recipients, or file names of any length that systems allow."""
HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
MAX_HEAD_BYTES: Final = 64 * 1024
"""Of all headers together, to find the subject."""
MAX_MIME_DEPTH: Final = 64
"""Mailers nest four or five levels. Python cannot read some hundred."""
SHOWN: Final = ("Subject", "From", "To", "Cc", "Date")
BODY_TYPES: Final = frozenset({PLAIN_TEXT, HTML})
SIGNATURES: Final = frozenset(
    {
        "application/pgp-signature",
        "application/pkcs7-signature",
        "application/x-pkcs7-signature",
    }
)
DECORATION: Final = SIGNATURES | {
    "application/javascript",
    "application/x-javascript",
    "text/css",
    "text/javascript",
    "text/x-amp-html",
}
"""Parts that say nothing that a reader sees."""
STUB: Final = 3
"""A plain text with so many times fewer words than the same in HTML only says to read that."""
ARMOR: Final = re.compile(r"^-----BEGIN PGP (MESSAGE|SIGNATURE)-----[ \t]*\r?$", re.MULTILINE)
ENCRYPTED: Final = "the message is encrypted, so its text cannot be read"
SIGNED: Final = "the message is inside a signature (S/MIME), so its text cannot be read"
TOO_DEEP: Final = f"parts that are nested more than {MAX_MIME_DEPTH} levels deep were skipped"
UNREADABLE: Final = {
    "application/pkcs7-mime": ENCRYPTED,
    "application/x-pkcs7-mime": ENCRYPTED,
    "multipart/encrypted": ENCRYPTED,
    TOO_DEEP: TOO_DEEP,
}
"""Types of parts that are not read, and the warning about them."""
FORWARDED: Final = "message"


class _Policy(Compat32):
    """Keeps headers as they are, up to a length."""

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        name, _, value = "".join(sourcelines)[:HEADER_CHARACTERS].partition(":")
        return name, value.strip(" \t\r\n")

    def header_fetch_parse(self, name: str, value: str) -> str:
        return value


class _Message(Message):
    """A message or part that knows how deep in others it is."""

    depth = 0

    def attach(self, payload: Any) -> None:
        payload.depth = self.depth + 1
        super().attach(payload)

    def get_content_type(self) -> str:
        return super().get_content_type() if self.depth < MAX_MIME_DEPTH else TOO_DEEP


POLICY: Final = _Policy()


def read_mail(data: bytes, reading: ReadingConfig, members: Members) -> ExtractedDocument:
    """Read the message ``data`` and its attachments."""
    return _read(_parsed(data), reading, members)


def subject_of(data: bytes, languages: Sequence[str]) -> str:
    """Return the subject of the message ``data``; empty if it has none."""
    return headers_of(data, ("Subject",), languages)["Subject"]


def headers_of(
    data: bytes, names: Sequence[str], languages: Sequence[str] = ()
) -> Mapping[str, str]:
    """Return the headers ``names`` of the message ``data``, decoded; empty if it lacks them."""
    message = _parsed(HEAD_END.split(data[:MAX_HEAD_BYTES], maxsplit=1)[0])
    return {name: _header(message, name, languages) for name in names}


def _parsed(data: bytes) -> Message:
    parser = BytesFeedParser(_Message, policy=POLICY)
    parser.feed(data)
    return parser.close()


def _read(message: Message, reading: ReadingConfig, members: Members) -> ExtractedDocument:
    content = _Content(reading)
    content.collect(message, content.bodies)
    subject = _header(message, "Subject", reading.languages)
    lines = [
        f"{name}: {text}" for name in SHOWN if (text := _header(message, name, reading.languages))
    ]
    if names := [label(name) for name, _ in content.attached]:
        lines.append(f"Attachments: {', '.join(names)}")
    body = "\n\n".join(body.text for body in content.bodies if body.text)
    own = Part(
        "\n\n".join(filter(None, ("\n".join(lines), body))),
        markdown=any(body.is_html for body in content.bodies),
    )
    for name, part in content.attached:
        _read_attachment(name, part, reading, members)
    for name, part in content.images:
        members.try_reading(name, _decoded(part), part.get_content_type())
    return members.document(
        (own,) if own.text else (), subject or None, tuple(dict.fromkeys(content.warnings))
    )


def _read_attachment(name: str, part: Message, reading: ReadingConfig, members: Members) -> None:
    nested = _nested(part)
    if nested is not None:
        members.add(name, lambda: _read(nested, reading, members.inside()), 0)
        return
    media_type = part.get_content_type()
    if part.get_content_maintype() == "message":
        text = "\n\n".join(str(inner) for inner in _inner(part)).strip()
        members.add(name, lambda: ExtractedDocument((Part(text),)), 0)
        return
    data = _decoded(part)
    charset = part.get_content_charset()
    if part.get_content_maintype() == "text" and charset and not data.isascii():
        # It is known here, but not any more where the attachment is read.
        text = decode_body(data, charset, reading.languages).text
        data = text.encode("utf-8-sig", "replace")
    members.read(name, data, media_type)


class Body(NamedTuple):
    """A text of a message, in Markdown if it was HTML."""

    text: str
    is_html: bool = False


@dataclass
class _Content:
    """What a message contains: texts, attachments with their names, and inline images."""

    reading: ReadingConfig
    bodies: list[Body] = field(default_factory=list)
    attached: list[tuple[str, Message]] = field(default_factory=list)
    images: list[tuple[str, Message]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def collect(self, part: Message, bodies: list[Body]) -> None:
        """Collect what is in ``part``; its text goes to ``bodies``."""
        media_type = part.get_content_type()
        if media_type == "multipart/alternative" and part.is_multipart():
            self._collect_alternatives(part, bodies)
        elif media_type in UNREADABLE:
            signed = "signed" in str(part.get_param("smime-type", ""))
            self.warnings.append(SIGNED if signed else UNREADABLE[media_type])
        elif part.get_content_maintype() != "multipart":
            self._collect_leaf(part, media_type, bodies)
        elif part.is_multipart():
            for inner in _inner(part):
                self.collect(inner, bodies)
        else:  # it has none of the parts that it declares
            bodies.append(Body(self._text(part)))

    def _collect_leaf(self, part: Message, media_type: str, bodies: list[Body]) -> None:
        name = _file_name(part, self.reading.languages)
        if media_type in BODY_TYPES and not name and not _is_attachment(part):
            text = self._text(part)
            if media_type == HTML:
                bodies.append(Body(_from_html(text), is_html=True))
            else:
                bodies.append(Body(self._unarmored(text)))
        elif part.get_content_maintype() == "image" and _is_inline(part):
            if self.reading.ocr is not OcrMode.OFF:
                self.images.append((name or "image", part))
        elif media_type not in DECORATION:
            self.attached.append((name or _unnamed(part, self.reading.languages), part))

    def _collect_alternatives(self, part: Message, bodies: list[Body]) -> None:
        """Collect the plain text, or HTML if there is none, but the attachments of both."""
        plain: list[Body] = []
        html: list[Body] = []
        for inner in _inner(part):
            branch: list[Body] = []
            self.collect(inner, branch)
            branch = [body for body in branch if body.text.strip()]
            if any(body.is_html for body in branch):
                html = branch
            elif branch:
                plain = plain or branch
        bodies.extend(html if _words(plain) * STUB < _words(html) else plain or html)

    def _text(self, part: Message) -> str:
        is_html = part.get_content_type() == HTML
        charset = part.get_content_charset()
        decoded = decode_body(_decoded(part), charset, self.reading.languages)
        self.warnings.extend(decoded.warnings)
        return decoded.text if is_html else decoded.text.replace("\r\n", "\n").strip()

    def _unarmored(self, text: str) -> str:
        """Return ``text`` without what is encrypted or signs it: it looks like base64."""
        kept, copied = [], 0
        while (armor := ARMOR.search(text, copied)) is not None:
            if armor[1] == "MESSAGE":
                self.warnings.append(ENCRYPTED)
            kept.append(text[copied : armor.start()])
            end = text.find(f"-----END PGP {armor[1]}-----", armor.end())
            copied = len(text) if end < 0 else end + len(f"-----END PGP {armor[1]}-----")
        return "".join([*kept, text[copied:]]).strip()


def _from_html(page: str) -> str:
    return "\n\n".join(part.text for part in read_html(page).parts).strip()


def _words(bodies: Sequence[Body]) -> int:
    return sum(len(body.text.split()) for body in bodies)


def _inner(part: Message) -> list[Message]:
    """Return the parts of ``part``."""
    payload = part.get_payload()
    return cast("list[Message]", payload) if isinstance(payload, list) else []


def _header(part: Message, name: str, languages: Sequence[str]) -> str:
    return decode_header(str(part.get(name, "")), languages, part.get_content_charset())


def _file_name(part: Message, languages: Sequence[str]) -> str:
    for header, parameter in (("content-disposition", "filename"), ("content-type", "name")):
        match part.get_param(parameter, header=header):
            case (str(charset), _, str(value)):
                return decode_body(value.encode("latin-1", "replace"), charset, languages).text
            case (_, _, str(value)) | str(value):
                return decode_header(value, languages)
    return ""


def _unnamed(part: Message, languages: Sequence[str]) -> str:
    nested = _nested(part)
    return (nested is not None and _header(nested, "Subject", languages)) or (
        FORWARDED if part.get_content_maintype() == "message" else part.get_content_type()
    )


def _is_attachment(part: Message) -> bool:
    return part.get_content_disposition() == "attachment"


def _is_inline(part: Message) -> bool:
    """Return True if ``part`` is shown in the text, as logos and pictures are."""
    located = "content-id" in part or "content-location" in part
    return part.get_content_disposition() == "inline" or (located and not _is_attachment(part))


def _nested(part: Message) -> Message | None:
    """Return the message that is attached as ``part``; None if there is none."""
    inner = _inner(part)
    if part.get_content_type() != MAIL or not inner:
        return None
    nested = inner[0]
    encoding = str(part.get("content-transfer-encoding", "")).strip().lower()
    if encoding == "base64" and not nested.keys():  # against the standard, but some do it
        return _parsed(_decoded(nested, encoding))
    return nested


def _decoded(part: Message, encoding: str | None = None) -> bytes:
    if encoding is not None:
        part["content-transfer-encoding"] = encoding
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""
