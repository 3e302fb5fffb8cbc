"""Downloads web pages, unless their site says that they have not changed."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiofiles
import msgspec

from ingestq.core.documents import Document
from ingestq.core.errors import DocumentRejected, RemoteUnavailable
from ingestq.core.paths import object_state, path_to_text
from ingestq.core.web import (
    NOT_INSTALLED,
    TOLD_ETAG,
    TOLD_TIME,
    USER_AGENT,
    WebConfig,
    told_tag,
)
from worker.pipeline.ports import NotModified
from worker.text.media_types import HTML, PLAIN_TEXT, WEB_PAGE

if TYPE_CHECKING:
    import httpx

    from ingestq.outbound.sites import Sites, WebAnswer

CONDITIONS: Final = {TOLD_ETAG: "If-None-Match", TOLD_TIME: "If-Modified-Since"}
MAX_TAG_CHARACTERS: Final = 400
UNKNOWN_TYPES: Final = frozenset({"", "application/octet-stream", PLAIN_TEXT})
"""Types that say less than the address does."""
PAGE_TYPES: Final = frozenset({HTML, "application/xhtml+xml"})
FORBIDDING: Final = frozenset({"noindex", "none"})
RULES_WITH_VALUES: Final = frozenset(
    {"max-image-preview", "max-snippet", "max-video-preview", "unavailable_after"}
)
"""Rules of X-Robots-Tag. Any other name before a colon is that of a crawler."""
NOT_MODIFIED: Final = 304
NOINDEX_PAGE: Final = b'<meta name="robots" content="noindex">'
"""Stands for a page that may not be indexed by what its headers say."""


class WebPages:
    """Downloads pages of up to ``max_bytes``, politely as ``config`` says.

    A page whose host has its turn later than in ``longest_turn_seconds`` raises SiteBusy.
    """

    def __init__(
        self, config: WebConfig, max_bytes: int, longest_turn_seconds: float | None
    ) -> None:
        self._config = config
        self._max_bytes = max_bytes
        self._longest_turn_seconds = longest_turn_seconds
        self._sites: Sites | None = None

    async def fetch(self, document: Document, folder: Path) -> Document:
        """Download the page of ``document`` into ``folder``; see `RemoteContents.as_file`."""
        assert document.url is not None, "the caller has checked it"
        if find_spec("trafilatura") is None or find_spec("protego") is None:
            raise DocumentRejected(NOT_INSTALLED)
        from ingestq.outbound.sites import PageRefused, Sites, too_large

        if self._sites is None:
            self._sites = Sites(self._config, max_wait_seconds=self._longest_turn_seconds)
        copy = folder / "content"
        conditions = _conditions(document)
        try:
            async with self._sites.get(document.url, self._max_bytes, conditions) as answer:
                if answer.status == NOT_MODIFIED:
                    raise NotModified
                media_type = _type_of(answer, document.media_type)
                await _write(copy, answer)
                if _is_noindex(answer.headers):
                    await _replace(copy, NOINDEX_PAGE)
                    media_type = WEB_PAGE
        except PageRefused as error:
            is_large = str(error) == too_large(self._max_bytes)
            limit = " (INGESTQ_MAX_DOCUMENT_BYTES)" if is_large else ""
            raise DocumentRejected(f"{error}{limit}") from error
        # The sitemap's word for the state, so that a page that it says is the same is not asked
        # for; without one, the site's word.
        told = None if told_tag(document.file) else document.file
        state = told or object_state(document, None, _tag_of(answer.headers))
        return msgspec.structs.replace(
            document, url=None, path=path_to_text(copy), file=state, media_type=media_type
        )


def _conditions(document: Document) -> dict[str, str]:
    """Return the headers that ask for a page only if it is not in a state that its site told."""
    tag = told_tag(document.file)
    if tag is None or object_state(document, None, tag) != document.file:
        return {}  # what is stored besides the content has changed
    return {
        header: tag.removeprefix(kind)
        for kind, header in CONDITIONS.items()
        if tag.startswith(kind)
    }


def _tag_of(headers: "httpx.Headers") -> str | None:
    for kind, header in ((TOLD_ETAG, "etag"), (TOLD_TIME, "last-modified")):
        value = str(headers.get(header, "")).strip()
        if value and value.isascii() and value.isprintable() and len(value) < MAX_TAG_CHARACTERS:
            return kind + value
    return None


def _type_of(answer: "WebAnswer", expected: str | None) -> str | None:
    media_type: str | None = answer.media_type
    if media_type in UNKNOWN_TYPES and (expected != HTML or media_type != PLAIN_TEXT):
        media_type = expected
    return WEB_PAGE if media_type in PAGE_TYPES else media_type


def _is_noindex(headers: "httpx.Headers") -> bool:
    """Return whether X-Robots-Tag asks us, or everybody, not to index the page."""
    for value in headers.get_list("x-robots-tag"):
        agent = ""
        for rule in value.lower().split(","):
            name, colon, rest = map(str.strip, rule.partition(":"))
            if colon and name not in RULES_WITH_VALUES:
                agent = name
            if (rest if colon else name) in FORBIDDING and agent in ("", USER_AGENT):
                return True
    return False


async def _write(copy: Path, answer: "WebAnswer") -> None:
    """Write the page. Raises RemoteUnavailable: there may be space once others are done."""
    try:
        async with aiofiles.open(copy, "wb") as file:
            async for block in answer.blocks:
                await file.write(block)
    except OSError as error:
        raise RemoteUnavailable(
            f"no copy of a page can be written to {copy.parent.parent} ({error.strerror}); free "
            "some space there, or set TMPDIR to another folder"
        ) from error


async def _replace(copy: Path, data: bytes) -> None:
    async with aiofiles.open(copy, "wb") as file:
        await file.write(data)
