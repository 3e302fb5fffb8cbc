"""What a file's name says about its content. A hint: the worker looks at the content."""

import mimetypes
from pathlib import PurePath
from typing import Final

BEYOND_THE_STANDARD_LIBRARY: Final = {
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".eml": "message/rfc822",
    ".epub": "application/epub+zip",
    ".ipynb": "application/x-ipynb+json",
    ".jsonl": "application/x-ndjson",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".msg": "application/vnd.ms-outlook",
    ".odp": "application/vnd.oasis.opendocument.presentation",
    ".ods": "application/vnd.oasis.opendocument.spreadsheet",
    ".odt": "application/vnd.oasis.opendocument.text",
    ".org": "text/x-org",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".rst": "text/x-rst",
    ".rtf": "application/rtf",
    ".toml": "application/toml",
    ".ts": "text/plain",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".xml": "application/xml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}
"""Types that ``mimetypes`` only knows where the system's own table does, or takes for others."""

_table: Final = mimetypes.MimeTypes(filenames=())
"""Without the system's table, so that every machine gives the same answer."""


def guess_media_type(name: str) -> str | None:
    """The media type that ``name`` suggests, or None if its suffix is unknown."""
    suffix = PurePath(name).suffix.lower()
    return BEYOND_THE_STANDARD_LIBRARY.get(suffix) or _table.guess_type(f"x{suffix}")[0]
