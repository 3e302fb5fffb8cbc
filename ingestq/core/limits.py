"""Limits of what a producer may send, so that no document can stop the others.

Documents, deletions, sweeps and batches check them whenever they are created or decoded, so they
hold for every way into the queue, and for jobs that another program put there. The checks do not
recurse: they run before everything that does (encoders, validators, pickle).
"""

import math
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

import msgspec

from ingestq.core.errors import encodable
from ingestq.core.json_encoding import to_utf_8
from ingestq.core.json_errors import json_reason

NAME_BYTES: Final = 1024
"""Most bytes of UTF-8 in an id, a tenant, a source, a key of metadata, and other short texts.

Each is stored with every chunk, and most of them in an index of Qdrant.
"""
PATH_BYTES: Final = 4096
"""Most bytes of UTF-8 in the path of a document's file; Linux opens no longer one."""
METADATA_BYTES: Final = 64 * 1024
"""Largest metadata of a document, in bytes of JSON. It is stored again with every chunk."""
METADATA_DEPTH: Final = 32
"""Most objects and lists inside each other in metadata, which is itself the first."""
DOCUMENT_BYTES: Final = 64 * 1024 * 1024
"""Default of INGESTQ_MAX_DOCUMENT_BYTES, which also bounds a line of JSON Lines."""
REMOTE_COPY_BYTES: Final = 64 * 1024 * 1024
"""Default of INGESTQ_REMOTE_COPY_BYTES."""
SMALLEST_INTEGER: Final = -(2**63)
LARGEST_INTEGER: Final = 2**64 - 1
"""The integers that MessagePack can hold."""
SURELY_SHORT: Final = NAME_BYTES // 4
"""A text of so many characters, each of up to four bytes, is within the limit."""
CONTAINERS: Final = (dict, list, tuple, set, frozenset)
STORED_AS_TEXT: Final = (str, date, time, timedelta, UUID, Decimal, Enum)


def check_text(name: str, text: str, limit: int = NAME_BYTES) -> None:
    """Raise ValueError, which names the field ``name``, if ``text`` is too long or not UTF-8.

    ``limit`` is in bytes of UTF-8. Raises TypeError if ``text`` is not a string.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name} is of type {type(text).__name__}; it must be text")
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} cannot be stored: it holds a lone surrogate") from error
    if size > limit:
        raise ValueError(f"{name} has {size:,} bytes; the limit is {limit:,}")


def check_texts(**texts: str | None) -> None:
    """Raise as `check_text` does, with the usual limit, if one of ``texts`` is invalid."""
    for name, text in texts.items():
        if text is not None:
            check_text(name, text)


def fits(text: str) -> bool:
    """Return whether ``text`` is short enough for an id."""
    try:
        check_text("id", text)
    except ValueError:
        return False
    return True


def check_metadata(metadata: dict[str, Any]) -> None:
    """Raise ValueError, which says why, if ``metadata`` is too deep or large, or cannot be stored.

    What cannot be stored is what JSON or MessagePack cannot hold: keys that are not text, bytes,
    numbers that are not finite, integers beyond 64 bits, and lone surrogates. Raises TypeError if
    ``metadata`` is not a dict.
    """
    if not isinstance(metadata, dict):
        raise TypeError(f"metadata is of type {type(metadata).__name__}; it must be a dict")
    if not metadata:
        return
    _check_values(metadata)
    try:
        size = len(msgspec.json.encode(metadata))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"metadata cannot be stored: {error}") from error
    if size > METADATA_BYTES:
        raise ValueError(f"metadata has {size:,} bytes; the limit is {METADATA_BYTES:,}")


def _check_values(metadata: dict[str, Any]) -> None:
    """Check the values level by level, and stop as soon as their JSON is certainly too large.

    So the work is bounded even for values that contain the same list many times, at each level.
    """
    level: list[Any] = [metadata]
    depth = size = 0
    while level:
        depth += 1
        if depth > METADATA_DEPTH:
            raise ValueError(f"metadata is nested more than {METADATA_DEPTH} deep")
        inner: list[Any] = []
        for container in level:
            size += 2 * len(container)  # a value and a comma, or the end
            _check_lower_bound(size)
            values = container
            if isinstance(container, dict):
                size += _check_keys(container)
                values = container.values()
            for value in values:
                if type(value) is str:
                    size += len(value)
                elif isinstance(value, CONTAINERS):
                    inner.append(value)
                else:
                    _check_scalar(value)
            _check_lower_bound(size)
        level = inner


def _check_keys(container: dict[Any, Any]) -> int:
    """Check the keys of an object; return how many characters they have."""
    size = 0
    for key in container:
        if type(key) is not str or len(key) > SURELY_SHORT:
            check_text("a key of metadata", key)
        size += len(key)
    return size


def _check_scalar(value: Any) -> None:
    if isinstance(value, int):
        if not SMALLEST_INTEGER <= value <= LARGEST_INTEGER:
            raise ValueError("metadata has an integer of more than 64 bits")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"metadata has the number {value}, which JSON cannot hold")
    elif value is not None and not isinstance(value, STORED_AS_TEXT):
        raise ValueError(f"metadata has a value of type {type(value).__name__}, which JSON lacks")


def _check_lower_bound(size: int) -> None:
    if size > METADATA_BYTES:
        raise ValueError(f"metadata has at least {size:,} bytes; the limit is {METADATA_BYTES:,}")


_metadata = msgspec.json.Decoder(dict[str, Any])


def decode_metadata(data: bytes | memoryview) -> dict[str, Any]:
    """Decode a JSON object to be stored as a document's metadata.

    Raises ValueError, which says what is wrong, if it is too large, not a JSON object, or cannot be
    put on the queue.
    """
    _check_lower_bound(len(data))
    text = to_utf_8(bytes(data))
    try:
        metadata = _metadata.decode(text)
    except RecursionError as error:
        raise ValueError(f"metadata is nested more than {METADATA_DEPTH} deep") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"metadata: {json_reason(error, text)}") from error
    check_metadata(metadata)
    return metadata


TOO_DEEP: Final = "…"
"""Stands for what is nested too deeply to be shown."""


def presentable(value: Any, depth: int = METADATA_DEPTH) -> Any:
    """Return a value of stored metadata as JSON that any client can read.

    Earlier versions, and other programs, stored what `check_metadata` refuses: what is nested more
    than ``depth`` deep becomes `TOO_DEEP`, numbers that are not finite become None, and what JSON
    lacks becomes text.
    """
    match value:
        case str():
            return encodable(value)
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else None
        case dict() | list() | tuple() | set() | frozenset() if not depth:
            return TOO_DEEP
        case dict():
            return {encodable(str(key)): presentable(v, depth - 1) for key, v in value.items()}
        case list() | tuple() | set() | frozenset():
            return [presentable(item, depth - 1) for item in value]
        case _:
            return encodable(str(value))
