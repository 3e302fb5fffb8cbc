"""Reads archives: ZIP, tar, 7-Zip, and files compressed by gzip, bzip2 or xz.

Everything is unpacked in memory, one member at a time and within limits; nothing is written, and
no path or link in an archive is followed.
"""

import bz2
import gzip
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import IO, Final, Literal, cast

from ingestq.core.errors import DocumentRejected
from ingestq.core.paths import guess_media_type
from worker.text.config import ReadingConfig
from worker.text.media_types import TAR_SIGNATURE, TAR_SIGNATURE_AT, ZIP_ENTRY
from worker.text.members import MAX_MEMBERS, TOO_MANY, ByteStream, Members
from worker.text.parser import parse_archive
from worker.text.parts import ExtractedDocument, Part

ARCHIVE_TYPES: Final = frozenset(
    {
        "application/gzip",
        "application/java-archive",
        "application/tar",
        "application/x-7z-compressed",
        "application/x-bzip2",
        "application/x-compressed-tar",
        "application/x-gtar",
        "application/x-gzip",
        "application/x-tar",
        "application/x-ustar",
        "application/x-xz",
        "application/x-zip-compressed",
        "application/zip",
    }
)
SEVEN_ZIP: Final = "application/x-7z-compressed"
SEVEN_ZIP_SIGNATURE: Final = b"7z\xbc\xaf\x27\x1c"
ENCRYPTED: Final = 0x1
UTF8_NAME: Final = 0x800
UNICODE_PATH: Final = 0x7075
"""The extra field with a name in UTF-8; its checksum and version come before the name."""
METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
"""The others unpack without a limit to their memory, and nobody uses them."""
NOISE: Final = re.compile(r"(?:^|/)(?:__MACOSX/|\.DS_Store$|\._[^/]*$|Thumbs\.db$|desktop\.ini$)")
"""What file managers leave in archives."""
CANNOT_BE_READ: Final = (
    EOFError,
    NotImplementedError,
    OSError,
    ValueError,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)
COMPRESSIONS: Final = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}
"""How compressed files begin."""
TAR_BLOCK: Final = 512
GZIP_NAME: Final = re.compile(rb".{3}\x08.{6}([^\0]{1,255})\0", re.DOTALL)
"""A header of gzip with the name of the file, and no other optional field."""
HANGUL: Final = re.compile(r"[\uac00-\ud7a3]")
KANA: Final = re.compile(r"[\u3041-\u30ff]")
HAN: Final = re.compile(r"[\u4e00-\u9fff]")
LEGACY_NAMES: Final = (
    ("ko", "euc_kr", "cp949", HANGUL, HAN),
    ("ja", "cp932", "cp932", KANA, HANGUL),
    ("zh", "gb2312", "gb18030", HAN, HANGUL),
    ("zh", "big5", "big5hkscs", HAN, HANGUL),
)
"""Languages whose packers use an encoding of their own. The first encoding has the common signs:
nearly any bytes are valid in the second, so only those who expect the language get it. Then follow
a sign of the language, and one that speaks against it."""


def read_archive(data: bytes, reading: ReadingConfig, members: Members) -> ExtractedDocument:
    """Read all members of the archive ``data``; its content decides what it is.

    Raises DocumentRejected if it cannot be read, or if all that is in it was skipped.
    """
    for signature, compression in COMPRESSIONS.items():
        if data.startswith(signature):
            with _reading(compression):
                return _read_compressed(data, compression, reading, members)
    if data.startswith(SEVEN_ZIP_SIGNATURE):
        return _read_7z(data, members)
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")) or zipfile.is_zipfile(BytesIO(data)):
        with _reading("a ZIP archive"):
            _read_zip(data, reading, members)
    else:
        with _reading("a tar archive"):
            _read_tar(BytesIO(data), "r:", len(data), reading, members)
    return members.document()


def open_zip(data: bytes) -> zipfile.ZipFile:
    """Open the ZIP file ``data``; raise DocumentRejected if it has too many members."""
    if data.count(ZIP_ENTRY) > MAX_MEMBERS:
        raise DocumentRejected(TOO_MANY)  # before each becomes an object
    return zipfile.ZipFile(BytesIO(data))


@contextmanager
def _reading(what: str) -> Iterator[None]:
    try:
        yield
    except CANNOT_BE_READ as error:
        raise DocumentRejected(f"cannot be read as {what}: {error}") from error
    except MemoryError as error:  # an xz file may ask for a dictionary of 4 GiB
        raise DocumentRejected(f"unpacking this {what} file needs too much memory") from error


def _read_zip(data: bytes, reading: ReadingConfig, members: Members) -> None:
    archive = open_zip(data)
    for name, entry in zip(_names(archive.infolist(), reading), archive.infolist(), strict=True):
        if entry.is_dir() or NOISE.search(name):
            continue
        if members.exceeded:
            members.stop(members.budget.exceeded)
            break
        if entry.flag_bits & ENCRYPTED:
            members.skip(name, "it is encrypted")
        elif entry.compress_type not in METHODS:
            members.skip(name, "it is compressed in a way that cannot be read")
        else:
            _unpack(name, archive, entry, members)


def _unpack(name: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, members: Members) -> None:
    try:
        with archive.open(entry) as stream:
            members.unpack(name, stream, entry.compress_size, entry.file_size)
    except CANNOT_BE_READ as error:
        members.skip(name, f"it is damaged ({error})")


def _names(entries: list[zipfile.ZipInfo], reading: ReadingConfig) -> list[str]:
    """Return the names of ``entries``. Those without a mark are in the packer's own encoding."""
    marked = {
        index: name
        for index, entry in enumerate(entries)
        if (name := entry.filename if entry.flag_bits & UTF8_NAME else _unicode_path(entry.extra))
    }
    others = [index for index in range(len(entries)) if index not in marked]
    raw = [entries[index].orig_filename.encode("cp437", "replace") for index in others]
    decoded = marked | dict(zip(others, _decode_names(raw, reading.languages), strict=True))
    return [decoded[index].replace("\\", "/") for index in range(len(entries))]


def _unicode_path(extra: bytes) -> str:
    while len(extra) >= 4:
        size = int.from_bytes(extra[2:4], "little")
        if int.from_bytes(extra[:2], "little") == UNICODE_PATH:
            return extra[9 : 4 + size].decode("utf-8", "replace")
        extra = extra[4 + size :]
    return ""


def _decode_names(names: Sequence[bytes], languages: Sequence[str]) -> list[str]:
    """Return ``names`` that one packer has written in an encoding that it does not tell."""
    joined = b"\0".join(names)
    return joined.decode(_encoding_of(joined, languages), "replace").split("\0") if names else []


def _encoding_of(names: bytes, languages: Sequence[str]) -> str:
    if _decoded(names, "utf-8") is not None:
        return "utf-8"
    likely = sorted(LEGACY_NAMES, key=lambda legacy: legacy[0] not in languages)
    for language, common, encoding, sign, counter_sign in likely:
        is_expected = language in languages
        text = _decoded(names, encoding if is_expected else common)
        if text is None or not sign.search(text):
            continue
        if is_expected or not counter_sign.search(text):
            return encoding
    return "cp437"  # what the format asks for


def _decoded(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def _read_7z(data: bytes, members: Members) -> ExtractedDocument:
    """Read what the parser makes of a 7-Zip archive, which it reads as a whole."""
    archive = parse_archive(data, SEVEN_ZIP)
    if archive.unpacked_bytes > members.budget.size:
        raise DocumentRejected(members.budget.too_large)
    for name, markdown in archive.members:
        if NOISE.search(name):
            continue
        if markdown.strip():
            members.add_read(
                name, ExtractedDocument((Part(markdown, markdown=True),)), len(markdown)
            )
        else:
            members.skip(name, "no text can be read from it")
    return members.document()


def _read_compressed(
    data: bytes, compression: str, reading: ReadingConfig, members: Members
) -> ExtractedDocument:
    """Read a compressed tar archive, or the single file in ``data``."""
    with _decompressing(data, compression) as stream:
        start = stream.read(TAR_BLOCK)
        stream.seek(0)
        if start.startswith(TAR_SIGNATURE, TAR_SIGNATURE_AT):
            _read_tar(stream, "r|", len(data), reading, members)
            return members.document()
        named = GZIP_NAME.match(data) if compression == "gzip" else None
        media_type = guess_media_type(named[1].decode("latin-1")) if named else None
        return members.single(stream, len(data), media_type)


def _decompressing(data: bytes, compression: str) -> gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile:
    file = BytesIO(data)
    if compression == "gzip":
        return gzip.GzipFile(fileobj=file)
    return bz2.BZ2File(file) if compression == "bzip2" else lzma.LZMAFile(file)


class _Limited:
    """Reads from ``stream`` until more than ``limit`` bytes came: tarfile would skip any number."""

    def __init__(self, stream: ByteStream, limit: int) -> None:
        self._stream = stream
        self._left = limit

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise _TooMuch
        return data


class _TooMuch(Exception):
    pass


def _read_tar(
    stream: IO[bytes] | gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile,
    mode: Literal["r:", "r|"],
    packed: int,
    reading: ReadingConfig,
    members: Members,
) -> None:
    """Read a tar archive in which all members together were packed into ``packed`` bytes.

    Links and devices are no members. What comes before damage is read.
    """
    source = _Limited(stream, members.budget.size) if mode == "r|" else stream
    read_any = False
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", source), mode=mode) as archive:
            for entry in archive:
                read_any = True
                name = _tar_name(entry.name, reading.languages)
                if members.exceeded:
                    raise _TooMuch
                if not entry.isfile() or NOISE.search(name):
                    continue
                content = archive.extractfile(entry)
                if content is not None:
                    members.unpack(name, content, packed, entry.size)
    except _TooMuch:
        members.stop(members.budget.exceeded or members.budget.too_large)
    except CANNOT_BE_READ as error:
        if not read_any:
            raise
        members.stop(f"the archive is damaged ({error})")


def _tar_name(name: str, languages: Sequence[str]) -> str:
    raw = name.encode("utf-8", "surrogateescape")
    [decoded] = _decode_names([raw], languages)
    return decoded
