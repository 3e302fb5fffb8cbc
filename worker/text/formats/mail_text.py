"""Decodes the headers and bodies of e-mail, whose declared charsets are often missing or wrong."""

import binascii
import codecs
import re
from collections.abc import Sequence
from typing import Final

from ingestq.core.errors import DocumentRejected
from worker.text.decoding.decode import DecodedText, decode

SUPERSETS: Final = {
    "ascii": "utf-8",
    "big5": "big5hkscs",
    "euc_kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "iso2022_jp": "iso2022_jp_2004",
    "shift_jis": "cp932",
}
"""What mailers write that declare the encodings of the keys."""
ALIASES: Final = {
    "gb_2312-80": "gb18030",
    "iso-8859-8-i": "iso8859-8",
    "ks_c_5601": "cp949",
    "unicode-1-1-utf-7": "utf-7",
    "windows-31j": "cp932",
    "x-cp949": "cp949",
    "x-euc-jp": "euc_jp",
    "x-gbk": "gb18030",
    "x-sjis": "cp932",
    "x-unknown": "utf-8",
    "x-windows-949": "cp949",
}
"""Names that Python does not know."""
NO_CHARSETS: Final = frozenset(
    {"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"}
)
"""Encodings of Python that no e-mail is in. Some of them take quadratic time."""
WESTERN: Final = frozenset({"cp1252", "cp1254", "iso8859-15", "mac-roman"})
"""Charsets that are declared by mailers that do not know better."""
ESCAPED: Final = (
    (re.compile(rb"\x1b\$\)C"), "iso2022_kr"),
    (re.compile(rb"\x1b\$[@B]|\x1b\$\([DOPQ]"), "iso2022_jp_2004"),
)
"""Encodings that are ASCII to all others."""
ESCAPE: Final = "\x1b"
JAPANESE: Final = ("iso2022_jp_2004", "iso2022_jp_ext", "iso2022_jp_2")
"""Each has signs that the others lack."""
HIGH_BYTES: Final = re.compile(rb"[\x80-\xff]+")
MIN_PAIRED: Final = 4
"""Western words hardly ever have so many letters with accents in a row."""
ENCODED_WORD: Final = re.compile(
    r"=\?([^?\s]{1,64})\?([bBqQ])\?([^?\r\n]*+)\?=(?:\s*+(?==\?[^?\s]{1,64}\?[bBqQ]\?))?"
)
"""Takes the space to the next encoded word along: it does not count."""
FOLD: Final = re.compile(r"[\r\n]+[ \t]*")
REPLACEMENT: Final = "\ufffd"
SURROGATES: Final = re.compile("[\ud800-\udfff]")
"""No characters, and yet UTF-7 may have them: such text could not be stored."""
MIN_READABLE: Final = 20
"""Text has at most one character in so many that cannot be decoded; otherwise it is none."""
UNREADABLE_TEXT: Final = "the text of the message cannot be decoded"
UNREADABLE: Final = "some characters of the message cannot be decoded"


def decode_body(data: bytes, charset: str | None, languages: Sequence[str]) -> DecodedText:
    """Return the text of a message in ``charset``, None if none is declared."""
    encoding = _encoding(charset)
    for sign, escaped in ESCAPED:
        if sign.search(data) and not HIGH_BYTES.search(data):
            encoding = escaped
    if encoding is not None and not _is_doubtful(data, encoding):
        for candidate in JAPANESE if encoding == JAPANESE[0] else (encoding,):
            try:
                return DecodedText(_characters(data.decode(candidate)))
            except (UnicodeDecodeError, LookupError):
                continue
    try:
        return decode(data.replace(b"\0", b""), tuple(languages))
    except DocumentRejected:
        text = _characters(data.decode(encoding or "utf-8", "replace"))
        if text.count(REPLACEMENT) * MIN_READABLE > len(text):
            return DecodedText("", (UNREADABLE_TEXT,))
        return DecodedText(text, (UNREADABLE,))


def _characters(text: str) -> str:
    """Return ``text`` without what is none in it."""
    return SURROGATES.sub(REPLACEMENT, text).replace("\0", "")


def decode_header(value: str, languages: Sequence[str], likely: str | None = None) -> str:
    """Return the text of a header on one line: its encoded words, and raw bytes in any charset.

    Bytes that are not ASCII are surrogates in ``value``, as `email` gives them. ``likely`` is the
    charset of the body.
    """
    if not value.isascii() or ESCAPE in value:
        raw = value.encode("utf-8", "surrogateescape")
        value = decode_body(raw, likely, languages).text
    value = FOLD.sub(" ", value)
    text: list[str] = []
    pending, charset, copied = b"", "", 0
    for word in ENCODED_WORD.finditer(value):
        if pending and (word.start() > copied or word[1].lower() != charset):
            text.append(decode_body(pending, charset, languages).text)
            pending = b""
        text.append(value[copied : word.start()])
        charset = word[1].lower()
        pending += _word_bytes(word)  # a character may be cut by the end of a word
        copied = word.end()
    if pending:
        text.append(decode_body(pending, charset, languages).text)
    text.append(value[copied:])
    return " ".join("".join(text).split())


def _word_bytes(word: re.Match[str]) -> bytes:
    encoded = word[3].encode("utf-8")
    if word[2] in "qQ":
        return binascii.a2b_qp(encoded, header=True)
    try:
        return binascii.a2b_base64(encoded + b"===")
    except binascii.Error:
        return word[0].encode("utf-8")


def _encoding(charset: str | None) -> str | None:
    """Return the encoding that mailers mean by ``charset``; None if it says nothing."""
    name = (charset or "").strip(" \t\"'").partition("*")[0].lower()
    try:
        known = codecs.lookup(ALIASES.get(name, name)).name
        "".encode(known)
    except (LookupError, ValueError, UnicodeError):
        return None
    return None if known in NO_CHARSETS else SUPERSETS.get(known, known)


def _is_doubtful(data: bytes, encoding: str) -> bool:
    """Return True if ``data`` is hardly Western text, but that is declared."""
    if encoding not in WESTERN:
        return False
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        runs = [len(run) for run in HIGH_BYTES.findall(data)]
        paired = sum(length for length in runs if length >= MIN_PAIRED)
        return paired * 2 > sum(runs)
    return True
