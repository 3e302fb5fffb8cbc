"""Reads Rich Text Format (.rtf) by the parser, after one pass that corrects what it gets wrong.

The parser writes what tracked changes deleted, drops comments, and takes the signs for spaces and
hyphens that do not break for letters. It takes linear time to correct that.
"""

import re
from typing import Final

from worker.text.config import ReadingConfig
from worker.text.parser import parse
from worker.text.parts import ExtractedDocument, Part

TOKEN: Final = re.compile(
    rb"\\bin(?P<bytes>\d{1,9}) ?|\{\\\*\\(?P<starred>annotation|atn[a-z]{1,16})(?:-?\d{1,10})? ?"
    rb"|\\(?P<word>[a-zA-Z]{1,32})(?P<value>-?\d{1,10})? ?|\\'[0-9a-fA-F]{2}"
    rb"|\\(?P<sign>[^a-zA-Z'])|(?P<open>\{)|(?P<close>\})",
    re.DOTALL,
)
SIGNS: Final = {b"_": b"-", b"~": b" ", b"-": b""}
"""The hyphen and the space that do not break, and the hyphen that shows only in a break."""
COMMENT: Final = b"annotation"
"""The text of a comment; other groups ``atn…`` have its number, author and date."""
AS_NOTE: Final = b"{\\footnote Comment: "
TABLES: Final = (b"cell", b"cellx", b"nestcell", b"nestrow", b"row", b"trowd")
"""Words that stay in deleted text: tables need them."""
NOTE: Final = re.compile(r"^\[\^\d+\]: (Comment: )?", re.MULTILINE)
REFERENCE: Final = re.compile(r"\[\^\d+\]")


def read_rich_text(data: bytes, media_type: str, reading: ReadingConfig) -> ExtractedDocument:
    """Read a document. Raises DocumentRejected."""
    parsed = parse(_Repair(data).run(), media_type)
    text = NOTE.sub(lambda found: found[1] or "Footnote: ", parsed.markdown)
    part = Part(REFERENCE.sub("", text), markdown=True)
    return ExtractedDocument((part,), parsed.title, parsed.warnings)


class _Repair:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._out: list[bytes] = []
        self._deleted = [False]  # whether the text of each open group was

    def run(self) -> bytes:
        """Return the document without deleted text, and with its comments as notes."""
        data, copied = self._data, 0
        while (found := TOKEN.search(data, copied)) is not None:
            self._write(data[copied : found.start()])
            copied = self._after(found)
        self._write(data[copied:])
        return b"".join(self._out)

    def _write(self, text: bytes) -> None:
        if not self._deleted[-1]:
            self._out.append(text)

    def _after(self, found: re.Match[bytes]) -> int:
        """Write what replaces the token ``found``, and return where it ends."""
        end = found.end()
        if found["bytes"]:
            return end + int(found["bytes"])  # a picture, or another file
        if found["open"] or found["starred"]:
            self._open(found["starred"])
        elif found["close"]:
            self._out.append(b"}")
            if len(self._deleted) > 1:
                self._deleted.pop()
        elif found["word"]:
            self._word(found)
        else:
            self._write(SIGNS.get(found["sign"], found[0]))
        return end

    def _open(self, starred: bytes | None) -> None:
        is_comment = starred == COMMENT and not self._deleted[-1]
        self._out.append(AS_NOTE if is_comment else b"{")
        self._deleted.append(self._deleted[-1] or (starred is not None and not is_comment))

    def _word(self, found: re.Match[bytes]) -> None:
        word = found["word"]
        if word == b"deleted":
            self._deleted[-1] = found["value"] != b"0"
        elif word in TABLES:
            self._out.append(found[0])
        else:
            self._write(found[0])
