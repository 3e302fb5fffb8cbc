"""Messages of RESP2 and RESP3, read from a stream without decoding them.

The parsers of redis-py and hiredis return values and discard their bytes, which the proxy must pass
on. So this only finds where a message ends.
"""

from asyncio import StreamReader
from typing import Final, NamedTuple

from tests.redis_proxy.commands import Words

END: Final = b"\r\n"
PUSH: Final = b">"
"""First byte of a message that replies to no request."""
SIMPLE: Final = b"+-:_,#("
BLOBS: Final = b"$=!"
ITEMS_PER_ENTRY: Final = {b"*": 1, b"~": 1, PUSH: 1, b"%": 2, b"|": 2}
ATTRIBUTES: Final = b"|"
"""First byte of a map that comes before the message proper."""

UNPAIRED: Final = frozenset(
    {
        (b"CLIENT", b"REPLY"),
        *((name,) for name in (b"MONITOR", b"SYNC", b"PSYNC")),
        *((prefix + b"SUBSCRIBE",) for prefix in (b"", b"P", b"S")),
        *((prefix + b"UNSUBSCRIBE",) for prefix in (b"", b"P", b"S")),
    }
)
"""Commands after which requests and replies do not come in pairs."""


class ProtocolError(Exception):
    """A message is not RESP, or uses a part of it that the proxy does not support."""


class Request(NamedTuple):
    """A request as the server understands it, and as it was sent."""

    words: Words
    raw: bytes


async def read_request(stream: StreamReader) -> Request:
    """Read the next request.

    Raises IncompleteReadError at the end of the stream, ProtocolError if it is not a request with
    exactly one reply.
    """
    header = await stream.readuntil(END)
    if header[:1] != b"*" or int(header[1:]) < 1:
        raise ProtocolError(f"not an array of words: {header!r}")
    words, parts = [], [header]
    for _ in range(int(header[1:])):
        size = await stream.readuntil(END)
        if size[:1] != b"$":
            raise ProtocolError(f"not the size of a word: {size!r}")
        word = await stream.readexactly(int(size[1:]) + len(END))
        words.append(word[: -len(END)])
        parts += (size, word)
    name = tuple(word.upper() for word in words[:2])
    if not UNPAIRED.isdisjoint((name, name[:1])):
        raise ProtocolError(f"{b' '.join(name).decode()} does not have exactly one reply")
    return Request(tuple(words), b"".join(parts))


async def read_reply(stream: StreamReader) -> bytes:
    """Read the next reply or push message.

    Raises IncompleteReadError at the end of the stream, ProtocolError if it is not RESP.
    """
    parts = []
    messages = 1
    while messages:
        line = await stream.readuntil(END)
        parts.append(line)
        kind, value = line[:1], line[1:]
        if kind in ITEMS_PER_ENTRY:
            messages += ITEMS_PER_ENTRY[kind] * max(int(value), 0)  # -1 is RESP2's null
        elif kind in BLOBS and int(value) >= 0:
            parts.append(await stream.readexactly(int(value) + len(END)))
        elif kind not in BLOBS + SIMPLE:
            raise ProtocolError(f"not the start of a reply: {line!r}")
        if kind != ATTRIBUTES:
            messages -= 1
    return b"".join(parts)
