"""What hooks take and return: plain, frozen data. A hook is a function of yours.

    from ingestq.hooks import DocumentInfo, DocumentPart, ParsedDocument

    def parse(content: bytes, document: DocumentInfo) -> ParsedDocument | None:
        if document.media_type != "application/x-ticket":
            return None  # let ingestq read it
        return ParsedDocument([DocumentPart(content.decode())])

Three functions can be hooks, each named in the table ``[hooks]`` of ingestq.toml:

- ``parse(content, document)`` returns the text of a document, or None if ingestq is to read it;
- ``chunk(parts, document)`` returns chunks, or None if ingestq is to cut the parts into chunks;
- ``enrich(text, document)`` returns metadata to be stored with every chunk, or None.

They run in parse processes, within the limits of those. A hook that raises rejects the document,
with the exception as the reason. To give a reason of its own it raises `ingestq.DocumentRejected`,
and if a service is away that it needs, `ingestq.ServiceUnavailable`: the document is tried again.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

__all__ = ["DocumentChunk", "DocumentInfo", "DocumentPart", "ParsedDocument", "hook"]

HOOK_VERSION: Final = re.compile(r"[!-~]{1,64}")
"""Printable ASCII without spaces."""
VERSION_ATTRIBUTE: Final = "ingestq_hook_version"

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class DocumentInfo:
    """A document, as far as it is known when a hook is called.

    ``metadata`` is what the producer gave it. ``media_type`` is the one that it was sent with, or
    that its name suggests; None if neither says. ``title`` is None if it has none, and in `parse`.
    """

    doc_id: str
    source: str
    tenant: str = ""
    media_type: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    title: str | None = None


@dataclass(frozen=True)
class DocumentPart:
    """A part of a document that a reader can find: a page, sheet, slide or section.

    ``text`` is what it says; ``markdown`` if its headings, tables and code are in Markdown.
    ``page`` is its number, from 1. ``name`` is the name of a sheet, attachment or section.
    """

    text: str
    markdown: bool = False
    page: int | None = None
    name: str | None = None


@dataclass(frozen=True)
class ParsedDocument:
    """What `parse` returns: the ``parts`` of a document in reading order, and its title.

    The title, and names of parts, are cut at 1,000 characters: they are stored with every chunk.
    ``warnings`` say what of it could not be read, each in a sentence for the user.
    """

    parts: Sequence[DocumentPart]
    title: str | None = None
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class DocumentChunk:
    """One of the chunks that `chunk` returns, in any iterable.

    ``body`` is what a search shows. ``context`` says where in the document it stands, such as its
    title and headings. Both are embedded, and indexed word by word. ``page`` and ``part`` are the
    page and the name of the part that it is from.
    """

    body: str
    context: str = ""
    page: int | None = None
    part: str | None = None


def hook(*, version: str) -> Callable[[F], F]:
    """Declare the version of a hook: change it whenever the hook gives other results.

        @hook(version="2")
        def parse(content, document): ...

    Without it, a digest of the source of the hook's module is the version, so that every edit of
    that file counts, and none of another file. Raises ValueError unless ``version`` has 1 to 64
    printable ASCII characters, and no space.
    """
    if not HOOK_VERSION.fullmatch(version):
        raise ValueError(f"version is {version!r}; use up to 64 printable characters, no spaces")

    def declare(function: F) -> F:
        setattr(function, VERSION_ATTRIBUTE, version)
        return function

    return declare
