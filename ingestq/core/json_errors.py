"""What to tell a user whose JSON cannot be decoded."""

import re
from typing import Final

import msgspec

ESCAPE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # two surrogates, a character
    rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
"""An escape sequence of a JSON string; group 1 is a lone surrogate."""


def json_reason(error: Exception, data: bytes | bytearray | memoryview) -> str:
    """Return why ``data`` could not be decoded, given the ``error`` of msgspec.

    msgspec calls a lone surrogate truncated input or an unexpected end.
    """
    if isinstance(error, msgspec.DecodeError) and not isinstance(error, msgspec.ValidationError):
        lone = next((found[1] for found in ESCAPE.finditer(data) if found[1]), None)
        if lone is not None and ("truncated" in str(error) or "surrogate" in str(error)):
            return rf"it holds the lone surrogate \{lone.decode()}, which is no character"
    return str(error)
