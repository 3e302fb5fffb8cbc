"""Turns the bytes of documents into chunks.

The two versions are part of a collection's fingerprint: change them whenever the text or the chunks
of the same bytes change.
"""

from typing import Final

EXTRACTION_VERSION: Final = 4
"""Part of the fingerprint: raise it when the same bytes give a different text."""

CHUNKER: Final = "content-defined/5"
"""Part of the fingerprint: change it when the same text gives different chunks."""
