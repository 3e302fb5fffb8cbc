"""From bytes to chunks.

The two versions are part of the fingerprint of a collection: whoever changes what they name changes
them.
"""

from typing import Final

EXTRACTION_VERSION: Final = 1
"""Part of the fingerprint: raise it when the same bytes give another text."""

CHUNKER: Final = "content-defined/2"
"""Part of the fingerprint: change it when the same text gives other chunks."""
