"""Says where a chunk stands: in which document and part, under which headings, in which table.

A *context* is made of the document's title, the name of the part, and the headings above the chunk,
the highest first. The name of a file without a title is kept beside it, because it is not embedded.
In a table, the body of each chunk begins with the header row. Both take a bounded share of a chunk.
Runs in parse processes.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import PurePath
from typing import Any, Final, NamedTuple

from worker.text.chunking.units import (
    HEADING_CHARACTERS,
    Unit,
    is_delimiter_row,
    sentences,
    title_heading,
)
from worker.text.parts import AFTER_CONTEXT, INSIDE, NOTHING_OPEN, Heading, OpenBlocks, Part

SHARE: Final = 5
"""The context of a chunk takes at most one in so many of its tokens, and so does the header row
that is repeated in it."""
TITLE_WITHIN: Final = 16 * 1024
"""A title is looked for in so many characters at the start of a document."""
FRONT_MATTER: Final = re.compile(r"(---|\+\+\+)[ \t]*\n(.*?\n)\1[ \t]*(?:\n|\Z)", re.DOTALL)
"""Metadata in YAML or TOML before the text, as static site generators read it."""
FRONT_MATTER_TITLE: Final = re.compile(r"^title[ \t]*+[:=][ \t]*+([^\s>|][^\n]*+)", re.MULTILINE)
SUFFIX: Final = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,9}")
"""A suffix that names a format. That of ``v1.2`` is none."""
QUERY_OF_URL: Final = re.compile(r"[?#].*", re.DOTALL)
ELLIPSIS: Final = "…"
CELL_END: Final = re.compile(r"(?<!\\)\|")
CELL_CHARACTERS: Final = (HEADING_CHARACTERS, 24, 12, 6)
"""The cells of a header row are shortened to the first of these lengths with which it fits."""
MARKS: Final = "#*_>` \t"
"""Mark-up that may stand before the first word of a chunk."""

Size = Callable[[str], int]
"""Returns how many tokens a text counts as."""


class Origin(NamedTuple):
    """Where a text comes from: the ``title`` of its document, and ``part`` and ``page`` in it.

    A document without a title may have a ``file_title``, see `worker.text.parts.Chunk`.
    """

    title: str = ""
    part: str | None = None
    page: int | None = None
    file_title: str = ""


NOWHERE: Final = Origin()


class Lead(NamedTuple):
    """What a chunk gets before its own text: its context, and the repeated header of a table.

    ``tokens`` is the number of tokens of both. ``file_title`` is that of the chunk, see
    `worker.text.parts.Chunk`.
    """

    context: str
    header: str
    tokens: int
    file_title: str


def title_of(metadata: dict[str, Any], stated: str | None, first: Part | None) -> str | None:
    """Return the title of a document; None if it has none.

    It is the one in the user's ``metadata``, that in the front matter of the ``first`` part, the
    one that is ``stated`` in the file's own metadata, or the first heading: of the highest level,
    or with no text before it.
    """
    given = metadata.get("title")
    if isinstance(given, str) and given.strip():
        return _one_line(given)
    head = ""
    if first is not None and first.markdown and first.name is None:
        head = "\n".join(first.text[:TITLE_WITHIN].lstrip().splitlines())
    front = FRONT_MATTER.match(head)
    if front is not None:
        if title := FRONT_MATTER_TITLE.search(front[2]):
            return _one_line(title[1].strip().strip("\"'"))
        head = head[front.end() :].lstrip()
    return _one_line(stated or "") or title_heading(head)


def file_title(source: str) -> str:
    """Return the name of the file or page at ``source``, a path or URL, without its suffix.

    It is empty if ``source`` is a mere id.
    """
    if "://" in source:
        source = QUERY_OF_URL.sub("", source)
    path = PurePath(source)
    if path.name == source and not SUFFIX.fullmatch(path.suffix):
        return ""
    return _one_line(path.stem if SUFFIX.fullmatch(path.suffix) else path.name)


def _one_line(text: str) -> str:
    return " ".join(text[: 2 * HEADING_CHARACTERS].split())[:HEADING_CHARACTERS]


class LeadWriter:
    """Writes the leads of the chunks of one part, from ``origin``.

    ``size`` counts tokens, of which a context and a header may each have ``max_tokens``.
    """

    def __init__(self, origin: Origin, max_tokens: int, size: Size) -> None:
        names = origin.part.split(INSIDE) if origin.part else []
        self._above = [name for piece in (origin.title, *names) if (name := _one_line(piece))]
        self._file_title = _one_line(origin.file_title)
        self._budget = max_tokens
        self._size = size
        self._contexts: dict[tuple[tuple[Heading, ...], str], tuple[str, int]] = {}
        self._headers: dict[str, tuple[str, int]] = {"": ("", 0)}

    def lead(self, first: Unit) -> Lead:
        """Return the lead of a chunk that begins with ``first``."""
        context, context_tokens = self._context(first)
        header, header_tokens = self._header(first.open)
        return Lead(context, header, context_tokens + header_tokens, self._unsaid_title(first))

    def _unsaid_title(self, first: Unit) -> str:
        """Return the file's title, unless the chunk or what stands above it says the same."""
        title = self._file_title
        above = (*self._above, *(heading.text for heading in first.open.headings))
        is_said = title.casefold() in map(str.casefold, above) or _begins_with(first.text, title)
        return "" if is_said else title

    def _context(self, first: Unit) -> tuple[str, int]:
        """Return the context, without what the chunk begins with anyway, and its tokens."""
        said = next((piece for piece in self._above if _begins_with(first.text, piece)), "")
        key = first.open.headings, said
        found = self._contexts.get(key)
        if found is None:
            pieces = [*self._above, *(heading.text for heading in first.open.headings)]
            unique = {piece.casefold(): piece for piece in reversed(pieces)}
            unique.pop(said.casefold(), None)
            text = shortened(list(reversed(unique.values())), self._budget, self._context_size)
            found = self._contexts[key] = text, self._context_size(text)
        return found

    def _context_size(self, context: str) -> int:
        return self._size(context + AFTER_CONTEXT) if context else 0

    def _header(self, open_blocks: OpenBlocks) -> tuple[str, int]:
        row = open_blocks.header
        found = self._headers.get(row)
        if found is None:
            text = repeated_header(row, self._budget, self._size)
            found = self._headers[row] = text, self._size(text) if text else 0
        return found


def _begins_with(text: str, piece: str) -> bool:
    start = text[: len(piece) + HEADING_CHARACTERS].lstrip(MARKS)
    return start[: len(piece)].casefold() == piece.casefold() and (
        not start[len(piece) : len(piece) + 1].isalnum()
    )


def shortened(pieces: Sequence[str], max_tokens: int, size: Size) -> str:
    """Return ``pieces`` joined by `INSIDE`, in at most ``max_tokens`` tokens.

    If they are too long, the last piece matters most, which is the heading just above the chunk,
    then the first, which is the title, then the others from the last. Each gets at most half of
    what those before it left, and pieces that get nothing are left out.
    """
    if size(INSIDE.join(pieces)) <= max_tokens:
        return INSIDE.join(pieces)
    last = len(pieces) - 1
    kept: dict[int, str] = {}
    for index in dict.fromkeys((last, 0, *range(last - 1, 0, -1))):
        used = size(_joined(kept))
        left = max_tokens - used
        most = used + (left if len(kept) == last else (left + 1) // 2)
        if text := _prefix(pieces[index], partial(_fits, kept, index, most, size)):
            kept[index] = text
    return _joined(kept)


def _joined(pieces: Mapping[int, str]) -> str:
    return INSIDE.join(pieces[index] for index in sorted(pieces))


def _fits(kept: Mapping[int, str], index: int, most: int, size: Size, text: str) -> bool:
    """Return True if ``kept``, with ``text`` at ``index``, has at ``most`` so many tokens."""
    return size(_joined({**kept, index: text})) <= most


def _is_within(characters: int, text: str) -> bool:
    return len(text) <= characters


def _prefix(text: str, fits: Callable[[str], bool]) -> str:
    """Return the longest prefix of ``text`` that fits, or a shorter one that ends with a word."""
    if fits(text):
        return text
    good, bad = 0, len(text)
    while bad - good > 1:
        middle = (good + bad) // 2
        if fits(text[:middle].rstrip() + ELLIPSIS):
            good = middle
        else:
            bad = middle
    space = text.rfind(" ", good // 2, good + 1)
    cut = text[: space if space > 0 else good].rstrip()
    return cut + ELLIPSIS if cut else ""


def repeated_header(row: str, max_tokens: int, size: Size) -> str:
    """Return what repeats the header ``row`` of a table, in at most ``max_tokens`` tokens.

    If it is too long it lacks the delimiter row, then the ends of its cells; empty if even that is
    too long. It ends with a line feed.
    """
    return next((form for form in _header_forms(row) if size(form) <= max_tokens), "")


def _header_forms(row: str) -> Iterator[str]:
    """Yield the forms in which the header ``row`` may be repeated, the longest first."""
    cells = [" ".join(cell.split()) for cell in CELL_END.split(row.strip().strip("|"))]
    for characters in CELL_CHARACTERS:
        short = [_prefix(cell, partial(_is_within, characters)) for cell in cells]
        header = f"| {' | '.join(short)} |\n"
        yield f"{header}{'|-' * len(cells)}|\n"
        yield header


def joined(bodies: Iterable[str], *, markdown: bool) -> str:
    """Return a text that says what the ``bodies`` of its chunks say.

    Each header row is in it once, however many chunks repeat it. A row below a table that says the
    same as its header row may be taken for a repeated one.
    """
    texts: list[str] = []
    open_blocks = NOTHING_OPEN
    for body in bodies:
        forms = _header_forms(open_blocks.header) if open_blocks.header else ()
        header = next(filter(body.startswith, forms), "")
        rest = body.removeprefix(header)
        # A header row that has a delimiter row of its own below it begins another table.
        repeated = bool(header) and not is_delimiter_row(rest.partition("\n")[0])
        if repeated:
            texts += ("\n", rest)
            _, after = sentences(rest, markdown=markdown, start=open_blocks)
            # A row that was cut does not look like one.
            open_blocks = after._replace(header=open_blocks.header)
        else:
            texts += ("\n\n" if texts else "", body)
            outside = open_blocks._replace(header="")
            _, open_blocks = sentences(body, markdown=markdown, start=outside)
    return "".join(texts)
