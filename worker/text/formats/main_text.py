"""Reads the main text of pages of a web source, without menus, footers and banners."""

import logging
import re
from typing import Final

from worker.text.config import ReadingConfig
from worker.text.decoding.cleaning import is_blank
from worker.text.decoding.decode import decode
from worker.text.formats.html import read_html
from worker.text.parts import NOINDEX, ExtractedDocument

HEAD_CHARACTERS: Final = 256 * 1024
"""Robots tags are looked for in so much of a page."""
NO_TAGS: Final = re.compile(
    r"<!--(?:-?>|.*?(?:--!?>|\Z))|<(script|style|title|textarea)\b.*?(?:</\1\s*>|\Z)",
    re.IGNORECASE | re.DOTALL,
)
"""Comments, and elements in which what looks like a tag or a comment is none."""
META: Final = re.compile(r"<meta\s[^<>]{1,1000}>", re.IGNORECASE)
ROBOTS_NAME: Final = re.compile(r"\bname\s*=\s*[\"']?(robots|ingestq)\b", re.IGNORECASE)
ROBOTS_RULES: Final = re.compile(r"\bcontent\s*=\s*(\"[^\"]*\"|'[^']*'|[^\s>]+)", re.IGNORECASE)
COLON: Final = re.compile(r"\s*:\s*")
SEPARATOR: Final = re.compile(r"[,;\s]+")
"""What stands between rules: a comma, and some pages have others."""
FORBIDDING: Final = frozenset({"noindex", "none"})
WHOLE_PAGE: Final = "no main text was found, so the whole page is indexed, with menus and footers"


def read_main_text(data: bytes, media_type: str, reading: ReadingConfig) -> ExtractedDocument:
    """Return the main text of the web page ``data`` in Markdown, and its title.

    A page without one is read as a whole, with a warning. A page with a robots tag that forbids it
    has no text, and the warning `NOINDEX`.
    """
    import trafilatura
    from trafilatura.settings import use_config

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # what it says is about its own
    decoded = decode(data, reading.languages)
    if _forbids(decoded.text):
        return ExtractedDocument((), warnings=(NOINDEX,))
    config = use_config()
    config["DEFAULT"]["MIN_EXTRACTED_SIZE"] = "0"  # else the menus of a short page are its text
    found = trafilatura.extract_with_metadata(
        decoded.text, output_format="html", include_comments=False, favor_recall=True, config=config
    )
    if found is None or found.text is None or is_blank(found.text):
        return read_html(decoded.text, (*decoded.warnings, WHOLE_PAGE))
    page = read_html(found.text, decoded.warnings)
    return ExtractedDocument(page.parts, found.title or page.title, page.warnings)


def _forbids(page: str) -> bool:
    for tag in META.finditer(NO_TAGS.sub(" ", page[:HEAD_CHARACTERS])):
        content = ROBOTS_RULES.search(tag[0])
        if content is None or not ROBOTS_NAME.search(tag[0]):
            continue
        # "max-image-preview: none" is one rule, and not the rule "none".
        rules = COLON.sub(":", content[1].strip("\"'").lower())
        if not FORBIDDING.isdisjoint(SEPARATOR.split(rules)):
            return True
    return False
