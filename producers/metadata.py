"""Metadata as a user writes it: a JSON object."""

from typing import Any, Final

import msgspec

METADATA_BYTES: Final = 64 * 1024
"""Metadata is stored with every chunk, so a little more of it becomes a lot."""

_metadata = msgspec.json.Decoder(dict[str, Any])


def decode_metadata(data: bytes | memoryview) -> dict[str, Any]:
    """Read a JSON object that can be stored with a document.

    Raises ValueError that says what is wrong with it.
    """
    if len(data) > METADATA_BYTES:
        raise ValueError(f"larger than {METADATA_BYTES} bytes")
    try:
        metadata = _metadata.decode(data)
        # JSON knows integers that MessagePack, and so the queue, does not.
        msgspec.msgpack.encode(metadata)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from error
    return metadata
