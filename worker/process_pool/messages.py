"""What travels between the worker and its pool processes: arguments, results and errors, as bytes.

A function that runs in a process is annotated with types that msgspec can decode; the annotations
are the format. Paths and NumPy arrays of 32-bit floats can be sent, too. Nothing is pickled: a
deeply nested value, or a class that only one side can import, fails here and not in a thread of the
pool. NumPy is not imported here: who sends or takes an array has imported it, and the processes
that parse never do.
"""

import inspect
import os
import sys
import traceback
import typing
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import GenericAlias
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from ingestq.core.errors import (
    DocumentRejected,
    HookFailed,
    HookUnavailable,
    IngestqError,
    ModelUnavailable,
    RemoteUnavailable,
    SourceChanged,
    UsageError,
    describe,
    encodable,
    in_one_line,
)
from ingestq.core.urls import without_secrets

T = TypeVar("T")


class RemoteError(Exception):
    """An unexpected error in a pool process; a note has its traceback."""


class Signature(NamedTuple):
    """How to decode the arguments and the result of a function."""

    arguments: msgspec.msgpack.Decoder[Any]
    result: msgspec.msgpack.Decoder[Any]


class SentError(Struct, frozen=True):
    """An exception that a task has raised; ``kind`` is the name of its type."""

    kind: str
    text: str
    trace: str


SENT_ERRORS: Final = {
    kind.__name__: kind
    for kind in (
        DocumentRejected,
        HookFailed,
        HookUnavailable,
        ModelUnavailable,
        RemoteUnavailable,
        SourceChanged,
        UsageError,
    )
}
"""The errors that functions raise on purpose in pool processes."""


def pack_arguments(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> bytes:
    """Return the arguments of a call in the form that `unpack_arguments` reads."""
    if kwargs:
        args = inspect.signature(function).bind(*args, **kwargs).args
    return msgspec.msgpack.encode(args, enc_hook=_encode_other)


def unpack_arguments(function: Callable[..., Any], packed: bytes) -> tuple[Any, ...]:
    """Return the arguments of a call of ``function``."""
    arguments: tuple[Any, ...] = _signature(function).arguments.decode(packed)
    return arguments


def pack_result(result: object) -> bytes:
    """Return a result in the form that `unpack_result` reads."""
    return msgspec.msgpack.encode(result, enc_hook=_encode_other)


def unpack_result(function: Callable[..., T], packed: bytes) -> T:
    """Return what ``function`` has returned."""
    result: T = _signature(function).result.decode(packed)
    return result


def pack_error(error: BaseException) -> bytes:
    """Return an exception in the form that `unpack_error` reads."""
    known = type(error).__name__ in SENT_ERRORS and isinstance(error, IngestqError)
    text = describe(error) if known else in_one_line(error)
    # The user's own code is to be debugged, and not what called it.
    traced = error.__cause__ if isinstance(error, HookFailed) else error
    trace = encodable("".join(traceback.format_exception(traced))) if traced else ""
    if isinstance(error, HookFailed):
        trace = without_secrets(trace)
    return msgspec.msgpack.encode(SentError(type(error).__name__, text, trace))


def unpack_error(packed: bytes) -> Exception:
    """Return the exception: one of ingestq's own, or a RemoteError that describes it."""
    sent = msgspec.msgpack.decode(packed, type=SentError)
    error = SENT_ERRORS.get(sent.kind, RemoteError)(sent.text)
    if sent.trace and isinstance(error, RemoteError | HookFailed):
        error.add_note(sent.trace)
    return error


@cache
def _signature(function: Callable[..., Any]) -> Signature:
    hints = typing.get_type_hints(function)
    parameters = tuple(hints[name] for name in inspect.signature(function).parameters)
    decoder = msgspec.msgpack.Decoder
    return Signature(
        decoder(GenericAlias(tuple, parameters), dec_hook=_decode_other),
        decoder(hints["return"], dec_hook=_decode_other),
    )


def _encode_other(value: object) -> object:
    if isinstance(value, Path):
        return os.fsencode(value)
    np: Any = sys.modules.get("numpy")
    if np is not None and isinstance(value, np.ndarray):
        return value.shape, np.ascontiguousarray(value, np.float32).tobytes()
    raise NotImplementedError(f"{type(value).__name__} cannot be sent to a pool process")


def _decode_other(kind: Any, value: Any) -> object:
    if kind is Path:
        return Path(os.fsdecode(value))
    np: Any = sys.modules.get("numpy")
    if np is not None and typing.get_origin(kind) is np.ndarray:
        shape, data = value
        return np.frombuffer(data, np.float32).reshape(shape)
    raise NotImplementedError(f"{kind} cannot be sent to a pool process")
