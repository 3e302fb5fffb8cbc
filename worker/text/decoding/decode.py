"""Decodes text in any encoding.

A byte order mark decides, then whether the bytes are UTF-8, but for a few, or UTF-16. Other text is
in the encoding that it declares, or else in the one that `worker.text.decoding.legacy` finds most
likely; how sure that is decides whether the user is told, or has to say the language.
"""

import codecs
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ingestq.core.errors import DocumentRejected
from worker.text.decoding.cleaning import BAD_BYTES, CONTROLS, clean
from worker.text.decoding.legacy import WESTERN, guess

BINARY: Final = "it is binary data and not text"
HOW_TO_FIX: Final = "save it as UTF-8, or name its language in INGESTQ_LANGUAGES"
UNKNOWN_ENCODING: Final = f"the encoding of the text cannot be told; {HOW_TO_FIX}"
HEAD_BYTES: Final = 64 * 1024
"""Whether text is UTF-16 without a byte order mark is seen at its beginning."""

BYTE_ORDER_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
LABELS: Final = {
    "utf-8": "UTF-8",
    "utf-16-le": "UTF-16",
    "utf-16-be": "UTF-16",
    "utf-32-le": "UTF-32",
    "utf-32-be": "UTF-32",
    "iso2022_jp_ext": "ISO-2022-JP",
    "iso2022_kr": "ISO-2022-KR",
}
VALID_PER_BAD: Final = 2
"""Text is UTF-8 if it has so many characters of several bytes for each byte that is not valid. Text
in another encoding has almost none."""
REPLACED: Final = re.compile("\ufffd+")
CHARACTERS_PER_WRONG: Final = 200
"""UTF-16 without a byte order mark has at most one unassigned or control character in so many."""
ASCII_SHARE_OF_UTF_16: Final = 0.7
"""Valid UTF-8 with NULs is only UTF-16 if it is mostly ASCII in it."""
HARMLESS: Final = "\0\b\x0e\x0f\x1b"
"""Control characters that text has: padding, overstriking, and escape sequences."""
COUNTED_CONTROLS: Final = "".join(sorted(set(CONTROLS) - set(HARMLESS)))
CHARACTERS_PER_CONTROL: Final = 32
"""Text has at most one other control character in so many; of random bytes, every tenth is one."""
OTHERS_PER_CONTROL_IN_UNICODE: Final = 5
"""What is valid in Unicode throughout is more likely text, perhaps with a separator after each
field: it has at least so many other characters for each control character."""
FREE_CONTROLS: Final = 2
"""Of a short text, so many control characters say nothing."""
UNREMARKABLE: Final = "\a\x1a"
"""Also ends an escape sequence, or an old text file."""

SWITCHES: Final = re.compile(rb"\x1b(?:\$(?:[@B]|\([@BD]|(\)C))|\(J)")
"""Switches to other characters in the 7-bit encodings of Japanese and Korean."""
SWITCH_BYTES: Final = 4
"""The length of a switch, less than which may be at the end of a block."""
DECLARATION_BYTES: Final = 1024
"""See https://html.spec.whatwg.org/multipage/parsing.html#prescan-a-byte-stream-to-determine-its-encoding"""
DECLARATION: Final = re.compile(
    rb"""\A\s*<\?xml[^>]{1,200}?encoding\s*=\s*["']([\w.:-]{1,40})"""
    rb"""|<meta[^>]{1,200}?charset\s*=\s*["']?\s*([\w.:-]{1,40})"""
    rb"""|\A(?:[^\n]*\n)?[^\n]{0,200}?coding[:=][ \t]*([\w.-]{1,40})"""
    rb"""|\A@charset "([\w.:-]{1,40})";""",
    re.IGNORECASE,
)
"""The encoding that XML, HTML, Python and Emacs, or CSS declares."""
ALLOWED_CODECS: Final = re.compile(
    r"cp\d+|iso8859-\d+|koi8-[rtu]|mac-[a-z]+|euc_\w+|gb\w+|hz|big5\w*|shift_ji\w+|iso2022_\w+"
    r"|johab|tis-620|kz1048|ptcp154"
)
WIDER_CODECS: Final = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "euc_kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "big5": "cp950",
}
"""What programs write that declare the narrower one; see https://encoding.spec.whatwg.org/#names-and-labels"""
UNLISTED_NAMES: Final = {"x-sjis": "cp932", "windows-949": "cp949", "windows-874": "cp874"}
DEFAULT_CODEC: Final = "cp1252"
"""Declared by programs that do not know better, and valid for nearly any bytes."""


@dataclass(frozen=True)
class DecodedText:
    """Text, and warnings for the user of what could not be decoded."""

    text: str
    warnings: tuple[str, ...] = ()


def decode(data: bytes, languages: tuple[str, ...] = ()) -> DecodedText:
    """Decode text in any encoding, and remove what is no text; see `worker.text.decoding.cleaning`.

    Where bytes may be in several encodings, those of ``languages`` are preferred (ISO 639-1). The
    warnings name what was replaced or removed, and an encoding that is not sure. Raises
    DocumentRejected if it is not text, or its encoding cannot be told.
    """
    if (found := unicode_codec(data[:HEAD_BYTES])) is None:
        return _decode_switching(data)
    codec, mark = found
    decoder = UnicodeDecoder(codec, mark)
    text = decoder.decode(data[mark:] if mark else data, is_last=True)
    if decoder.has_switches:
        return _decode_switching(data)
    if not mark and not decoder.is_unicode:
        return _decode_legacy(data, languages)
    if decoder.is_binary:
        raise DocumentRejected(BINARY)
    return DecodedText(clean(text), decoder.warnings)


def _decoded(text: str, warnings: tuple[str, ...] = ()) -> DecodedText:
    controls = sum(map(text.count, COUNTED_CONTROLS)) - sum(map(text.count, UNREMARKABLE))
    return DecodedText(clean(text), (*warnings, *_removed(text.count("\0"), controls)))


def _removed(nuls: int, controls: int) -> Iterator[str]:
    for count, name in ((nuls, "NUL"), (controls, "control")):
        if count == 1:
            yield f"1 {name} character was removed"
        elif count:
            yield f"{count:,} {name} characters were removed"


def unicode_codec(head: bytes) -> tuple[str, int] | None:
    """Return the codec of a text that begins with ``head``, and the length of its byte order mark.

    It is UTF-8 if nothing says otherwise. None if the text is in an encoding that switches.
    """
    for mark, codec in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return codec, len(mark)
    return None if has_switches(head) else (_utf_16_codec(head) or "utf-8", 0)


def has_switches(data: bytes) -> bool:
    """Return True if ``data`` is in an encoding that switches, in which each byte is ASCII."""
    return b"\x1b" in data and SWITCHES.search(data) is not None


def _utf_16_codec(head: bytes) -> str | None:
    """Return which UTF-16 a text is in that begins so without a byte order mark; None if none."""
    if b"\0" not in head:
        return None
    is_utf_8 = _is_utf_8(head)
    if is_utf_8 and len(head) % 2:
        return None
    needed = ASCII_SHARE_OF_UTF_16 if is_utf_8 else 0.0
    ascii_shares = {}
    for codec in ("utf-16-le", "utf-16-be"):
        text = codecs.getincrementaldecoder(codec)(errors="replace").decode(head)
        wrong = sum(not (c.isprintable() or c.isspace()) or c == "\ufffd" for c in text)
        if wrong * CHARACTERS_PER_WRONG <= len(text):
            ascii_shares[codec] = sum("\n" <= c <= "~" for c in text) / max(1, len(text))
    best = max(ascii_shares, key=ascii_shares.__getitem__, default=None)
    return best if best is not None and ascii_shares[best] > needed else None


def _is_utf_8(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return not _has_many_controls(head)


def _has_many_controls(data: bytes) -> bool:
    controls = len(data) - len(data.translate(None, COUNTED_CONTROLS.encode()))
    return controls * CHARACTERS_PER_CONTROL > len(data)


class UnicodeDecoder:
    """Decodes, block by block, text in ``codec`` that begins at byte ``offset`` of a file.

    What is not valid becomes the replacement character, or, in UTF-8, lone surrogates, which
    `worker.text.decoding.cleaning` replaces.
    """

    def __init__(self, codec: str, offset: int) -> None:
        is_utf_8 = codec == "utf-8"
        errors = "surrogateescape" if is_utf_8 else "replace"
        self._codec = codec
        self._errors = errors
        self._decoder = codecs.getincrementaldecoder(codec)(errors)
        self._bad = BAD_BYTES if is_utf_8 else REPLACED
        self._offset = offset
        self._first_bad = 0
        self._replaced = 0
        self._characters = 0
        self._not_ascii = 0
        self._nuls = 0
        self._controls = 0
        self._unremarkable = 0
        self._before = b""
        self.has_switches = False

    def size_of(self, text: str) -> int:
        """Return of how many bytes ``text``, a part of what was decoded, was made."""
        return len(text.encode(self._codec, errors=self._errors))

    def decode(self, block: bytes, *, is_last: bool) -> str:
        """Return the text of the next ``block``."""
        start = self._offset - len(self._decoder.getstate()[0])
        text = self._decoder.decode(block, final=is_last)
        if not text.isascii():
            self._not_ascii += len(text) - len(text.encode("ascii", errors="ignore"))
            if (bad := self._bad.search(text)) is not None:
                if not self._replaced:
                    self._first_bad = start + self.size_of(text[: bad.start()])
                self._replaced += len(text) - len(self._bad.sub("", text))
        self._characters += len(text)
        if self._codec == "utf-8":
            self._controls += len(block) - len(block.translate(None, COUNTED_CONTROLS.encode()))
        else:
            self._controls += sum(map(text.count, COUNTED_CONTROLS))
        self._nuls += text.count("\0")
        self._unremarkable += sum(map(text.count, UNREMARKABLE))
        self._offset += len(block)
        self.has_switches = self.has_switches or has_switches(self._before + block)
        self._before = block[-SWITCH_BYTES:]
        return text

    @property
    def is_unicode(self) -> bool:
        """True if what was decoded is valid, but for a few bytes."""
        valid = self._not_ascii - self._replaced
        return valid >= VALID_PER_BAD * self._replaced

    @property
    def is_binary(self) -> bool:
        """True if what was decoded is no text."""
        if self._replaced:
            return self._controls * CHARACTERS_PER_CONTROL > self._characters
        others = self._characters - self._nuls - self._controls
        if self._controls and not others:
            return True
        counted = max(0, self._controls - FREE_CONTROLS)
        return counted * OTHERS_PER_CONTROL_IN_UNICODE > others

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was not valid, or removed."""
        removed = tuple(_removed(self._nuls, self._controls - self._unremarkable))
        if not self._replaced:
            return removed
        return (_replaced(self._replaced, LABELS[self._codec], self._first_bad), *removed)


def _replaced(count: int, encoding: str, first: int) -> str:
    if count == 1:
        return f"1 character is not valid {encoding} and was replaced, at byte {first:,}"
    return (
        f"{count:,} characters are not valid {encoding} and were replaced, from byte {first:,} on"
    )


def _decode_switching(data: bytes) -> DecodedText:
    switch = SWITCHES.search(data)
    codec = "iso2022_kr" if switch is not None and switch[1] else "iso2022_jp_ext"
    return _decoded_in(data, codec)


def _decoded_in(data: bytes, codec: str) -> DecodedText:
    """Return the text of ``data`` in a codec that it names or shows; what is not valid is said."""
    try:
        return _decoded(data.decode(codec))
    except UnicodeDecodeError as error:
        text = data.decode(codec, errors="replace")
        warning = _replaced(text.count("\ufffd"), LABELS.get(codec, codec), error.start)
        return _decoded(text, (warning,))


def _decode_legacy(data: bytes, languages: tuple[str, ...]) -> DecodedText:
    if _has_many_controls(data):
        raise DocumentRejected(BINARY)
    declared = _declared_codec(data[:DECLARATION_BYTES])
    if declared is not None and declared != DEFAULT_CODEC:
        with suppress(UnicodeDecodeError):
            return _decoded(data.decode(declared))
    likely = (*languages, *WESTERN) if declared == DEFAULT_CODEC else languages
    found = guess(data, likely)
    if found is None or not (found.hinted or found.is_likely):
        raise DocumentRejected(BINARY if b"\0" in data else UNKNOWN_ENCODING)
    warnings = []
    if not found.is_sure:
        warnings.append(
            f"its encoding was guessed as {found.codec.label}; if that is wrong, {HOW_TO_FIX}"
        )
    if found.replaced:
        warnings.append(_replaced(found.replaced, found.codec.label, found.first_bad))
    return _decoded(found.text, tuple(warnings))


def _declared_codec(head: bytes) -> str | None:
    """Return the codec that a text declares that begins with ``head``; None if it declares none."""
    found = DECLARATION.search(head)
    if found is None or found.lastindex is None:
        return None
    name = found[found.lastindex].decode("ascii").lower()
    try:
        codec = codecs.lookup(UNLISTED_NAMES.get(name, name)).name
    except LookupError:
        return None
    codec = WIDER_CODECS.get(codec, codec)
    return codec if ALLOWED_CODECS.fullmatch(codec) else None
