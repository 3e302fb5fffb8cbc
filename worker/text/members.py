"""Reads what is inside a document, such as attachments and members of archives, within one budget.

All containers in a document share the budget, however they are nested: a mail in an archive in a
mail may unpack to no more than one archive.
"""

import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Protocol, Self

from ingestq.core.errors import DocumentRejected
from ingestq.core.paths import guess_media_type
from worker.text.parser import MAX_COMPRESSION_RATIO, MAX_UNPACKED_BYTES, MEBIBYTE
from worker.text.parts import EMPTY, INSIDE, ExtractedDocument, Part

MAX_DEPTH: Final = 8
"""Containers in each other. Letters that were forwarded again and again are about as deep."""
MAX_MEMBERS: Final = 20_000
"""An archive of source code, or a mailbox, of 64 MiB has fewer."""
MAX_MEMBER_BYTES: Final = 64 * MEBIBYTE
MIN_RATIO_BYTES: Final = MEBIBYTE
"""Anything may unpack to so much: it does no harm, and lines of blanks have any ratio."""
MIN_UNPACKED_BYTES: Final = 16 * MEBIBYTE
"""The same for everything in a document together."""
MAX_WARNINGS: Final = 3
"""More members that were skipped, or warnings from inside members, become one warning."""
NAME_CHARACTERS: Final = 200
READ_BYTES: Final = MEBIBYTE

BOMB: Final = (
    f"it unpacks to more than {MAX_COMPRESSION_RATIO} times its size, as only zip bombs do"
)
TOO_LARGE: Final = f"it is larger than {MAX_MEMBER_BYTES // MEBIBYTE} MiB"
TOO_LARGE_TOGETHER: Final = (
    f"the document unpacks to more than {MAX_UNPACKED_BYTES // MEBIBYTE:,} MiB"
)
TOO_MANY: Final = f"the document contains more than {MAX_MEMBERS:,} files"
TOO_DEEP: Final = f"it is inside more than {MAX_DEPTH} others"


class ByteStream(Protocol):
    """What a member is read from."""

    def read(self, size: int, /) -> bytes: ...


@dataclass
class UnpackBudget:
    """What may still be unpacked of one document: ``members``, with ``size`` bytes together.

    ``too_large`` is the reason if that is not enough. ``depth`` is the number of containers around
    what is being read.
    """

    size: int
    too_large: str
    members: int = MAX_MEMBERS
    depth: int = 0

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Return the budget of the document ``data``."""
        ratio = max(MIN_UNPACKED_BYTES, MAX_COMPRESSION_RATIO * len(data))
        if ratio < MAX_UNPACKED_BYTES:
            return cls(ratio, BOMB)
        return cls(MAX_UNPACKED_BYTES, TOO_LARGE_TOGETHER)

    @property
    def exceeded(self) -> str:
        """Why nothing more may be unpacked; empty if something may."""
        if self.members <= 0:
            return TOO_MANY
        return self.too_large if self.size <= 0 else ""

    @contextmanager
    def member(self, size: int) -> Iterator[None]:
        """Take one member of ``size`` bytes, and be inside it; raise DocumentRejected if it is
        too much.
        """
        self.members -= 1
        self.size -= size
        if exceeded := self.exceeded:
            raise DocumentRejected(exceeded)
        if self.depth >= MAX_DEPTH:
            raise DocumentRejected(TOO_DEEP)
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1


Extract = Callable[[bytes, str | None], ExtractedDocument]
"""Extracts the text of a member with a media type, or raises DocumentRejected."""


class Members:
    """Collects the parts and warnings of all members of a container."""

    def __init__(self, extract: Extract, budget: UnpackBudget) -> None:
        self.budget = budget
        self._extract = extract
        self._parts: list[Part] = []
        self._skipped: list[tuple[str, str]] = []
        self._warnings: list[str] = []
        self._stopped = ""

    @property
    def exceeded(self) -> bool:
        """True if no further member can be read."""
        return bool(self.budget.exceeded)

    def inside(self) -> "Members":
        """Return a collection for the members of a member."""
        return Members(self._extract, self.budget)

    def unpack(self, name: str, stream: ByteStream, packed_bytes: int, declared: int) -> None:
        """Read the member ``name`` from ``stream``, to which ``packed_bytes`` are unpacked.

        What is ``declared`` as too large is not even unpacked. Otherwise reading ends where the
        limits are, whatever is declared.
        """
        try:
            data = self.unpacked(stream, packed_bytes, declared)
        except DocumentRejected as error:
            self.skip(name, str(error))
        else:
            self.read(name, data)

    def single(
        self, stream: ByteStream, packed_bytes: int, media_type: str | None
    ) -> ExtractedDocument:
        """Return the only file in ``stream``, which takes the place of its container.

        Raises DocumentRejected if it cannot be read.
        """
        data = self.unpacked(stream, packed_bytes)
        with self.budget.member(len(data)):
            return self._extract(data, media_type)

    def unpacked(self, stream: ByteStream, packed_bytes: int, declared: int = 0) -> bytes:
        """Return what ``stream`` unpacks from ``packed_bytes``, or raise DocumentRejected."""
        ratio = max(MIN_RATIO_BYTES, MAX_COMPRESSION_RATIO * packed_bytes)
        limit = min(ratio, MAX_MEMBER_BYTES, max(self.budget.size, 0))
        data = read_bounded(stream, limit) if declared <= limit else b""
        if max(len(data), declared) <= limit:
            return data
        self.budget.size -= len(data)
        if limit == MAX_MEMBER_BYTES:
            raise DocumentRejected(TOO_LARGE)
        raise DocumentRejected(BOMB if limit == ratio else self.budget.too_large)

    def read(self, name: str, data: bytes, media_type: str | None = None) -> None:
        """Read the member ``name``; its suffix decides over ``media_type``.

        Members without content are no members.
        """
        if data.strip():
            known = guess_media_type(name) or media_type
            self.add(name, lambda: self._extract(data, known), len(data))

    def try_reading(self, name: str, data: bytes, media_type: str) -> None:
        """Read the member ``name`` if it has text; its lack is nothing to say."""
        attempt = self.inside()
        attempt.read(name, data, media_type)
        self._parts += attempt._parts

    def add(self, name: str, read: Callable[[], ExtractedDocument], size: int) -> None:
        """Add what ``read`` returns as the member ``name``."""
        name = label(name)
        try:
            with self.budget.member(size):
                extracted = read()
        except DocumentRejected as error:
            self.skip(name, str(error))
            return
        self._parts.extend(
            replace(part, name=name + INSIDE + part.name if part.name else name)
            for part in extracted.parts
        )
        self._warnings.extend(
            f"'{name}': {warning}" for warning in extracted.warnings if warning != EMPTY
        )

    def add_read(self, name: str, extracted: ExtractedDocument, size: int) -> None:
        """Add what was read of the member ``name``, which had ``size`` bytes."""
        self.add(name, lambda: extracted, size)

    def skip(self, name: str, reason: str) -> None:
        """Say that the member ``name`` was not read."""
        self._skipped.append((label(name), reason))

    def stop(self, reason: str) -> None:
        """Say that the remaining members were not read."""
        self._stopped = reason

    def document(
        self, own: tuple[Part, ...] = (), title: str | None = None, warnings: tuple[str, ...] = ()
    ) -> ExtractedDocument:
        """Return the container's ``own`` parts, and those of its members.

        Raises DocumentRejected if there are none, but members were skipped.
        """
        skipped = list(self._skipped_warnings())
        parts = (*own, *self._parts)
        if skipped and not parts:
            raise DocumentRejected("; ".join(skipped))
        inner = self._warnings
        if len(inner) > MAX_WARNINGS:
            more = len(inner) - MAX_WARNINGS
            inner = [*inner[:MAX_WARNINGS], f"{more:,} more warnings about what is inside it"]
        return ExtractedDocument(parts, title, (*warnings, *skipped, *inner))

    def _skipped_warnings(self) -> Iterator[str]:
        if self._stopped:
            yield f"not everything in it was read: {self._stopped}"
        skipped = self._skipped
        if len(skipped) <= MAX_WARNINGS:
            yield from (f"'{name}' was skipped: {reason}" for name, reason in skipped)
            return
        named = ", ".join(f"'{name}' ({reason})" for name, reason in skipped[:MAX_WARNINGS])
        more = len(skipped) - MAX_WARNINGS
        yield f"{len(skipped):,} members were skipped: {named} and {more:,} more"


def read_bounded(stream: ByteStream, limit: int) -> bytes:
    """Return what ``stream`` has, but not much more than ``limit`` bytes."""
    data = bytearray()
    while len(data) <= limit and (read := stream.read(READ_BYTES)):
        data += read
    return bytes(data)


def label(name: str) -> str:
    """Return ``name`` as it is shown: on one line, and not too long."""
    printable = "".join(sign if sign.isprintable() else " " for sign in name[: 4 * NAME_CHARACTERS])
    shown = unicodedata.normalize("NFC", " ".join(printable.split()))
    if len(shown) > NAME_CHARACTERS:
        shown = f"…{shown[1 - NAME_CHARACTERS :]}"  # the end says more: it has the suffix
    return shown or "unnamed"
