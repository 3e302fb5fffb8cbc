"""File names as text.

On POSIX a file name is bytes. A name that is valid UTF-8 travels as it is; any other travels as a
``file:`` URI with its bytes percent-encoded (RFC 8089), which no absolute path can be mistaken
for, so two different files never get the same text.
"""

import os
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

_URI_PREFIX = "file://"


def path_to_text(path: Path) -> str:
    """Write ``path`` as text that survives any encoding."""
    raw = os.fsencode(path)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return _URI_PREFIX + quote_from_bytes(raw)


def text_to_path(text: str) -> Path:
    """Read back what `path_to_text` wrote."""
    if text.startswith(_URI_PREFIX):
        return Path(os.fsdecode(unquote_to_bytes(text.removeprefix(_URI_PREFIX))))
    return Path(text)
